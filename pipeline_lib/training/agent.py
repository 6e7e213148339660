"""torchrun, which also writes down how each rank ended.

`python -m pipeline_lib.training.agent <endings.json> <arguments of torchrun>`. torchrun itself only
prints it: which rank was the first to fail, and by what, would have to be read out of its log.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(endings_path: Path, arguments: list[str]) -> None:
    """Run the ranks; when one fails, write every failed rank's pid and exit code, first one first.

    Raises:
        SystemExit: with code 1, when a rank failed.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(torchrun.parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        endings = [
            {"rank": rank, "pid": failure.pid, "exit_code": failure.exitcode}
            for rank, failure in failures
        ]
        endings_path.write_text(json.dumps(endings))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
