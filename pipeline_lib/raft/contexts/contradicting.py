"""Passages that contradict the oracle, written by a chat teacher."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.generation.base import Completion, GenerationParams, MeteredGenerator, Prompt
from pipeline_lib.raft.contexts.distractors import Distractor
from pipeline_lib.raft.contexts.groups import ContextGroup, Draft
from pipeline_lib.raft.keys import made_up_id
from pipeline_lib.raft.markup import unescape
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rendering import render_document
from pipeline_lib.raft.showing import (
    ShownPassage,
    shown_answer,
    shown_question,
    written_of,
)
from pipeline_lib.raft.wording import content_words

_MAX_NEW_TOKENS = 512
_MIN_CHARS = 40
_MAX_LENGTH_RATIO = 3
"""To the oracle's length; a longer passage would stand out by that alone."""
_MIN_SHARED_WORDS = 0.3
"""Of the question's content words, those that a passage on the same subject has."""
_WRAPPER = re.compile(
    r"\A\s*(?:```\w*\n|<document\b[^<>]*>)\s*(.*?)\s*(?:```|</document\s*>)\s*\Z",
    re.DOTALL | re.IGNORECASE,
)
"""A fence or a tag around the whole reply."""
_REFUSES = re.compile(
    r"\A\W*(?:sorry|i['\u2019]m|i (?:am|can|will|apolog)|as an ai)", re.IGNORECASE
)


class Contradictor:
    """Has contradicting passages written, one per context at most.

    Args:
        teacher: who writes; `None` where no such passages are wanted.
        prompts: with a template `contradict`.
        titles: document id to title.
        config: temperature and seed.
    """

    def __init__(
        self,
        teacher: MeteredGenerator | None,
        prompts: PromptLibrary,
        titles: Mapping[str, str],
        config: SynthesizeConfig,
    ) -> None:
        self._teacher = teacher
        self._prompts = prompts
        self._titles = titles
        self._params = GenerationParams(
            max_new_tokens=_MAX_NEW_TOKENS,
            temperature=config.teacher.temperature,
            seed=config.seed,
        )

    def write(self, groups: Sequence[ContextGroup]) -> dict[str, Distractor]:
        """A contradicting passage for each group that one could be had for, by the group's key.

        Only beside its oracle can such a passage be told from the truth, so contexts without
        oracles get none.
        """
        hosts = [(group, group.hosts[0]) for group in groups if group.hosts]
        if self._teacher is None or not hosts:
            return {}
        completions = self._teacher.generate(
            [self._prompt(host) for _, host in hosts], self._params, step="contradicting"
        )
        return {
            group.key: passage
            for (group, host), completion in zip(hosts, completions, strict=True)
            if (passage := _read(completion, host, group)) is not None
        }

    def _prompt(self, draft: Draft) -> Prompt:
        oracle = draft.sources[0]
        return Prompt.chat(
            self._prompts.messages(
                "contradict",
                documents=render_document(
                    1, ShownPassage(oracle, self._titles[oracle.document_id])
                ),
                question=shown_question(draft.candidate),
                answer=shown_answer(draft.candidate),
            )
        )


def _read(completion: Completion, host: Draft, group: ContextGroup) -> Distractor | None:
    """The passage that a reply is; `None` for one that cannot be used."""
    wrapped = _WRAPPER.match(completion.text)
    text = unescape(wrapped[1] if wrapped else completion.text).strip()
    oracle = host.sources[0]
    asked = set(content_words(host.candidate.question))
    shared = len(asked & set(content_words(text)))
    is_fit = (
        completion.finish_reason == "stop"
        and _MIN_CHARS <= len(text) <= max(_MIN_CHARS, _MAX_LENGTH_RATIO * len(oracle.text))
        and shared >= _MIN_SHARED_WORDS * len(asked)
        and not _REFUSES.match(text)
        and group.evidence_in(text) is None
    )
    if not is_fit:
        return None
    return Distractor(
        chunk_id=made_up_id(oracle.chunk_id, text),
        document_id=oracle.document_id,
        text=text,
        origin="contradicting",
        source_chunk_id=oracle.chunk_id,
        change=f"contradicts: {fold(written_of(host.candidate).final_answer)}",
    )
