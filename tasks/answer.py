"""The task behind `answer`: one question, one grounded answer."""

from __future__ import annotations

from pipeline_lib import answering
from pipeline_lib.answering import Answer
from pipeline_lib.config import AnswerConfig
from tasks.runtime import open_workspace, stage_task


@stage_task(name="answer", description="Retrieves, answers, verifies the quotes.")
def answer(config: AnswerConfig) -> Answer:
    """Answer a question from the corpus; see `pipeline_lib.answering.answer`."""
    with open_workspace() as ws:
        return answering.answer(ws, config)
