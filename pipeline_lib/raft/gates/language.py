"""Whether questions and answers are in a language that is wanted."""

from __future__ import annotations

from collections.abc import Collection

from pipeline_lib.corpus.filters import identify_language
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.base import SingleGate
from pipeline_lib.raft.gates.texts import Part, step_of, text_of


class WantedLanguage(SingleGate):
    """A language of a list; a text that is too short to tell passes, quotes are not looked at.

    Args:
        part: what to look at.
        languages: ISO 639-1 codes.
    """

    def __init__(self, part: Part, languages: Collection[str]) -> None:
        self.step = step_of(part, "language")
        self._part: Part = part
        self._languages = frozenset(languages)

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        text = text_of(candidate, self._part, with_quotes=False)
        language = identify_language(text)
        if not language or language in self._languages:
            return None
        return Rejection(self.step, f"language_{language}", text)
