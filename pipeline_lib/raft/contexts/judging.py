"""Asking the teacher whether a passage answers a question.

Texts alone do not show that a passage says the same in other words. A passage that the teacher did
not clearly say no to is left out: when in doubt, and when the budget no longer reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.generation.base import Completion, GenerationParams, MeteredGenerator, Prompt
from pipeline_lib.generation.structured import parse_json
from pipeline_lib.raft.contexts.distractors import JUDGED_ORIGINS, Choice, Distractor
from pipeline_lib.raft.contexts.groups import ContextGroup, Draft
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rendering import render_document
from pipeline_lib.raft.showing import ShownPassage, shown_answer, shown_question

_SCHEMA = {
    "type": "object",
    "properties": {"answers": {"type": "boolean"}},
    "required": ["answers"],
    "additionalProperties": False,
}
_PARAMS = GenerationParams(max_new_tokens=64, json_schema=canonical_json(_SCHEMA).decode())


class _Reading(NamedTuple):
    """One passage read for one question."""

    group: ContextGroup
    draft: Draft
    distractor: Distractor


class DistractorJudge:
    """Remembers the verdicts of one batch of rows.

    Args:
        teacher: who judges; `None` allows everything.
        prompts: with a template `judge-distractor`.
        titles: document id to title.
    """

    def __init__(
        self,
        teacher: MeteredGenerator | None,
        prompts: PromptLibrary,
        titles: Mapping[str, str],
    ) -> None:
        self._teacher = teacher
        self._prompts = prompts
        self._titles = titles
        self._verdicts: dict[tuple[str, str], str | None] = {}

    def forget(self) -> None:
        """Begin a new batch."""
        self._verdicts.clear()

    def refusal(self, row_id: str, chunk_id: str) -> str | None:
        """Why a passage is no distractor for a row; `None` where nothing is known against it."""
        return self._verdicts.get((row_id, chunk_id))

    def ask(self, chosen: Sequence[tuple[ContextGroup, Choice]]) -> set[str]:
        """Have chosen distractors judged that were not judged yet.

        Returns:
            Keys of the groups that a passage was refused for.
        """
        if self._teacher is None:
            return set()
        readings = [
            _Reading(group, draft, distractor)
            for group, choice in chosen
            for distractor in choice.distractors
            if distractor.origin in JUDGED_ORIGINS
            for draft in group.drafts
            if (draft.row_id, distractor.chunk_id) not in self._verdicts
        ]
        prompts = [self._prompt(reading) for reading in readings]
        completions = (
            self._teacher.generate(prompts, _PARAMS, step="judging distractors") if prompts else []
        )
        refused = set()
        for reading, completion in zip(readings, completions, strict=True):
            verdict = read_verdict(completion)
            self._verdicts[reading.draft.row_id, reading.distractor.chunk_id] = verdict
            if verdict is not None:
                refused.add(reading.group.key)
        return refused

    def _prompt(self, reading: _Reading) -> Prompt:
        distractor, candidate = reading.distractor, reading.draft.candidate
        passage = ShownPassage(distractor, self._titles[distractor.document_id])
        return Prompt.chat(
            self._prompts.messages(
                "judge-distractor",
                documents=render_document(1, passage),
                question=shown_question(candidate),
                answer=shown_answer(candidate),
            )
        )


def read_verdict(completion: Completion) -> str | None:
    """Why the passage is no distractor by the teacher's reply, or `None` where it clearly is."""
    if completion.finish_reason == "budget":
        return "not_judged"
    said = parse_json(completion.text)
    answers = said.get("answers") if isinstance(said, dict) else None
    if not isinstance(answers, bool):
        word = completion.text.strip().split(maxsplit=1)[:1]
        bare = word[0].strip(".,:;!*\"'").casefold() if word else ""
        answers = {"yes": True, "true": True, "no": False, "false": False}.get(bare)
    if answers is None:
        return "judged_unclear"
    return "judged_to_answer" if answers else None
