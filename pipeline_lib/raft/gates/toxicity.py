"""Whether questions and answers keep to decent words.

A list of words finds insults, not ill will; a judge model does more. The list that comes along is
short, English, and leaves out what has an honest use in medicine, law or farming.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.errors import ConfigError
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.base import SingleGate
from pipeline_lib.raft.gates.texts import Part, step_of, text_of
from pipeline_lib.raft.wording import words

WORDS_FILE = "toxic.txt"
_BUNDLED = Path(__file__).parent / WORDS_FILE
_MAX_BYTES = 4 * 1024 * 1024


class ToxicWords:
    """Words and phrases that no row may have.

    Args:
        entries: words or phrases; case and punctuation do not count.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        phrases = {" ".join(words(entry)) for entry in entries} - {""}
        self._words = {phrase for phrase in phrases if " " not in phrase}
        self._phrases = sorted(phrases - self._words)

    @classmethod
    def load(cls, folder: Path | None = None) -> ToxicWords:
        """The bundled list, and that in a user's prompts folder where there is one.

        One entry per line; what follows a `#` is a comment.

        Raises:
            ConfigError: the user's list cannot be read.
        """
        entries = _entries(_BUNDLED)
        if folder is not None and (folder / WORDS_FILE).is_file():
            entries += _entries(folder / WORDS_FILE)
        return cls(entries)

    @property
    def sha256(self) -> str:
        """Of all entries, whatever their order."""
        return hashlib.sha256(canonical_json([sorted(self._words), self._phrases])).hexdigest()

    def find(self, text: str) -> str | None:
        """The first entry that a text has, whole words only."""
        said = words(text)
        if not self._words.isdisjoint(said):
            return next(word for word in said if word in self._words)
        if not self._phrases:
            return None
        line = f" {' '.join(said)} "
        return next((phrase for phrase in self._phrases if f" {phrase} " in line), None)


class NoToxicWords(SingleGate):
    """None of the words of a list.

    Args:
        part: what to look at.
        toxic: the list.
    """

    def __init__(self, part: Part, toxic: ToxicWords) -> None:
        self.step = step_of(part, "toxicity")
        self._part: Part = part
        self._toxic = toxic

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        found = self._toxic.find(text_of(candidate, self._part))
        return None if found is None else Rejection(self.step, "toxic_word", found)


def _entries(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"The word list {path} is larger than {_MAX_BYTES} B")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The word list {path} cannot be read: {error}", hint="It is UTF-8, one entry a line."
        ) from error
    return [line.partition("#")[0] for line in lines]
