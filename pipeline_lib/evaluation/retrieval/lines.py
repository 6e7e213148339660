"""Line by line through text files, plain or gzipped, with errors that name file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline_lib.errors import InputError

_MAX_LINE_BYTES = 20_000_000


@dataclass(frozen=True)
class Line:
    """One line that is not blank."""

    path: Path
    number: int
    """From 1."""
    text: str

    def error(self, reason: str) -> InputError:
        """What is wrong with this line."""
        return InputError(
            f"{self.path}, line {self.number}: {reason}",
            hint="Mend that line, or take it out.",
        )


@dataclass(frozen=True)
class JsonRow:
    """One object of a JSONL file."""

    line: Line
    values: dict[str, Any]


def text_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file that are not blank; a byte order mark is passed over.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or is a broken gzip file.
    """
    number = 0
    try:
        with _open(path) as stream:
            # Bytes, so that a broken line can be named: decoding works ahead in blocks.
            while data := stream.readline(_MAX_LINE_BYTES):
                number += 1
                if len(data) == _MAX_LINE_BYTES:
                    raise Line(path, number, "").error(f"longer than {_MAX_LINE_BYTES:,} bytes")
                text = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield Line(path, number, text)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start})",
            hint="Save the file as UTF-8.",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read after line {number}: {error}") from error


def json_rows(path: Path) -> Iterator[JsonRow]:
    """The objects of a JSONL file.

    Raises:
        InputError: a line is not a JSON object, or the file cannot be read.
    """
    for line in text_lines(path):
        try:
            values = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            raise line.error(f"not JSON: {error}") from error
        if not isinstance(values, dict):
            raise line.error(f"a JSON {type(values).__name__} instead of an object")
        yield JsonRow(line, values)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
