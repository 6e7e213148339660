"""A local copy of stored completions in SQLite: lookups without a request, in bounded memory.

Everything in it can be fetched again. Each row remembers the segment that it came from, so that
what is no longer in the store is forgotten here too; and each value carries a checksum, so that a
damaged file is noticed even where SQLite itself would not. Several processes may share one file.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS results (
    key BLOB NOT NULL, segment INTEGER NOT NULL, value BLOB NOT NULL, UNIQUE (key, segment)
);
CREATE INDEX IF NOT EXISTS results_of_segment ON results (segment);
"""
_FILE_VERSION = 1
"""Raised with the schema; part of the file's name."""
_LOCK_SECONDS = 30.0
"""How long to wait for another process that is writing."""
_KEYS_PER_QUERY = 500
_PRIVATE = ""
"""SQLite's name for a temporary database that nobody else sees."""
_CHECKSUM_BYTES = 4


class CompletionCache:
    """Encoded results by key, and the names of the segments that they came from.

    Used by one thread at a time. Any method may raise `sqlite3.Error`: the database cannot be used.
    `start_anew` or `go_private` then gives an empty one, to be filled again.

    Args:
        folder: for the database; created when missing.
        space: names the database.
    """

    def __init__(self, folder: Path, space: str) -> None:
        self.path = folder / f"{space}-{_FILE_VERSION}.sqlite"
        self._name = str(self.path)
        self._connection: sqlite3.Connection | None = None

    def segments(self) -> set[str]:
        """Names of the segments whose content is here."""
        return {name for (name,) in self._sql().execute("SELECT name FROM segments")}

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that are there.

        Where segments disagree about a key, the value that sorts first counts: so all machines
        agree.
        """
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = [bytes.fromhex(key) for key in keys[start : start + _KEYS_PER_QUERY]]
            places = ",".join("?" * len(part))
            rows = self._sql().execute(
                "SELECT key, min(value) FROM results "  # noqa: S608 (nothing but question marks)
                f"WHERE key IN ({places}) GROUP BY key",
                part,
            )
            found |= {key.hex(): _unsealed(key, sealed) for key, sealed in rows}
        return found

    def put_segment(
        self, name: str, items: Mapping[str, bytes], *, replaces: Iterable[str] = ()
    ) -> None:
        """Take in a segment and forget those that it replaces; all of this or nothing."""
        with self._sql() as sql:
            _forget(sql, replaces)
            sql.execute("INSERT OR IGNORE INTO segments (name) VALUES (?)", (name,))
            [segment] = sql.execute("SELECT id FROM segments WHERE name = ?", (name,)).fetchone()
            keyed = ((bytes.fromhex(key), value) for key, value in items.items())
            sql.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?)",
                ((key, segment, _sealed(key, value)) for key, value in keyed),
            )

    def forget(self, names: Iterable[str]) -> None:
        """Leave out what came from these segments."""
        with self._sql() as sql:
            _forget(sql, names)

    def start_anew(self) -> None:
        """Delete the database; the next use begins an empty one.

        Processes that have it open go on with what they opened.
        """
        self.close()
        for suffix in ("-wal", "-shm", ""):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def go_private(self) -> None:
        """Use a temporary database from now on."""
        self.close()
        self._name = _PRIVATE

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _sql(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._name != _PRIVATE:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._name, timeout=_LOCK_SECONDS, check_same_thread=False)
            self._connection = connection
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        return self._connection


def _forget(sql: sqlite3.Connection, names: Iterable[str]) -> None:
    rows = [(name,) for name in names]
    sql.executemany(
        "DELETE FROM results WHERE segment = (SELECT id FROM segments WHERE name = ?)", rows
    )
    sql.executemany("DELETE FROM segments WHERE name = ?", rows)


def _sealed(key: bytes, value: bytes) -> bytes:
    return value + zlib.crc32(value, zlib.crc32(key)).to_bytes(_CHECKSUM_BYTES, "big")


def _unsealed(key: bytes, sealed: bytes) -> bytes:
    value = sealed[:-_CHECKSUM_BYTES]
    if _sealed(key, value) != sealed:
        raise sqlite3.DatabaseError("a value does not fit its checksum")
    return value
