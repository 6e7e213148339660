"""The flow `answer`."""

from __future__ import annotations

from flows.runtime import completed, raftline_flow
from flows.summary import answer_markdown, answer_message
from pipeline_lib.answering import Answer
from pipeline_lib.config import AnswerConfig
from tasks.answer import answer as answer_task


@raftline_flow(name="answer")
def answer(config: AnswerConfig) -> Answer:
    """Answer one question from the corpus, with every quote checked against its source.

    Args:
        config: The question, and who answers it from what.
    """
    result = answer_task(config)
    return completed(
        result,
        answer_message(result),
        summary_key=f"{config.name}-answer",
        summary_markdown=answer_markdown(result),
    )
