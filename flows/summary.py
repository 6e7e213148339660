"""What flows return and how it reads: the result of a pipeline, messages, Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from pipeline_lib.answering import Answer
from pipeline_lib.evaluation.promotion import PromotionResult
from pipeline_lib.stage import StageResult
from pipeline_lib.training.card import before_and_after
from tasks.presentation import readable
from tasks.progress import format_seconds

_LISTED_COUNTS = 4
_SHORT_FINGERPRINT = 12
"""Digits shown; the store finds an artifact by them."""


class RetrieverSummary(BaseModel):
    """What tuning a pipeline's embedding model came to."""

    model_config = ConfigDict(frozen=True)

    model: StageResult
    promotion: PromotionResult
    index: StageResult | None
    """The pipeline's index by the champion; `None`: there is no champion, nothing was indexed."""

    @property
    def message(self) -> str:
        """The outcome in one line."""
        return retriever_message(self.promotion)


class TunedRetriever(BaseModel):
    """The optional step of a pipeline that tunes its embedding model."""

    model_config = ConfigDict(frozen=True)

    untuned_index: StageResult
    """What the dataset was made with, and what the tuned model is measured against."""
    model: StageResult
    promotion: PromotionResult


class PipelineSummary(BaseModel):
    """What one run of the pipeline made, reused and decided."""

    model_config = ConfigDict(frozen=True)

    name: str
    corpus: StageResult
    index: StageResult
    dataset: StageResult
    model: StageResult
    evaluation: StageResult
    promotion: PromotionResult
    retriever: TunedRetriever | None = None
    """`None`: the pipeline was not asked to tune its embedding model."""

    @property
    def stages(self) -> dict[str, StageResult]:
        """Stage to result, in order."""
        if self.retriever is None:
            retrieval = {"index": self.index, "synthesize": self.dataset}
        else:
            retrieval = {
                "index (untuned)": self.retriever.untuned_index,
                "synthesize": self.dataset,
                "tune_retriever": self.retriever.model,
                "index": self.index,
            }
        return {
            "ingest": self.corpus,
            **retrieval,
            "finetune": self.model,
            "evaluate": self.evaluation,
        }

    @property
    def is_unchanged(self) -> bool:
        """Every artifact was there already."""
        return all(result.reused for result in self.stages.values())

    @property
    def message(self) -> str:
        """The outcome in one line."""
        start = "Nothing changed, every artifact was reused. " if self.is_unchanged else ""
        end = f". {retriever_message(self.retriever.promotion)}" if self.retriever else ""
        return start + promotion_message(self.promotion) + end


def stage_message(result: StageResult) -> str:
    """A stage's outcome in one line."""
    did = "Reused" if result.reused else "Built"
    took = "" if result.reused else f" in {format_seconds(result.seconds)}"
    counts = _counts(result)
    return f"{did} {result.ref}{took}" + (f": {counts}" if counts else "")


def training_message(result: StageResult) -> str:
    """A trained model's outcome in one line, with what validation says."""
    before, after = before_and_after(result.metrics).get("validation loss", (None, None))
    if before is None or after is None:
        return stage_message(result)
    return f"{stage_message(result)}; validation loss {before:.3g} before, {after:.3g} after"


def promotion_message(promotion: PromotionResult) -> str:
    """A decision in one line, with its reasons."""
    reasons = "; ".join(promotion.reasons)
    if promotion.is_promoted:
        return f"The champion is now {promotion.model}: {reasons}"
    return f"Not promoted: {reasons}"


def retriever_message(promotion: PromotionResult) -> str:
    """The decision about a tuned embedding model in one line, with its reasons."""
    reasons = "; ".join(promotion.reasons)
    if promotion.is_promoted:
        return f"The index is now made with {promotion.model}: {reasons}"
    return f"Retriever not promoted: {reasons}"


def stages_markdown(results: Mapping[str, StageResult]) -> str:
    """A table of stages: artifact, whether it was reused, time, counts, drops."""
    lines = ["| Stage | Artifact | Was | Time | Counts |", "| --- | --- | --- | --- | --- |"]
    for stage, result in results.items():
        ref = result.ref
        counts = [_counts(result)]
        counts += [f"dropped: {readable(why)} {n:,}" for why, n in result.dropped.items()]
        lines.append(
            f"| {stage} | `{ref.kind}/{ref.name}/{ref.fingerprint[:_SHORT_FINGERPRINT]}` "
            f"| {'reused' if result.reused else 'built'} | {format_seconds(result.seconds)} "
            f"| {', '.join(filter(None, counts))} |"
        )
    return "\n".join(lines)


def stage_markdown(stage: str, result: StageResult) -> str:
    """The summary of a flow of one stage."""
    return f"{stages_markdown({stage: result})}\n\nStored at `{result.uri}`"


def pipeline_markdown(summary: PipelineSummary) -> str:
    """The summary of a pipeline run."""
    return "\n\n".join(
        [
            f"# {summary.name}",
            *(["Nothing changed: every artifact was reused."] if summary.is_unchanged else []),
            promotion_markdown(summary.promotion),
            *([retriever_markdown(summary.retriever.promotion)] if summary.retriever else []),
            stages_markdown(summary.stages),
            f"Report: artifact `{summary.name}-report` of this run, or `report.html` in "
            f"`{summary.evaluation.uri}`",
            f'Next: `raftline ask --name {summary.name} "your question"`, or run the flow `answer`',
        ]
    )


def promotion_markdown(promotion: PromotionResult) -> str:
    """A decision with its reasons."""
    decision = "The new champion is" if promotion.is_promoted else "Not promoted:"
    reasons = "\n".join(f"- {reason}" for reason in promotion.reasons)
    return f"**{decision}** `{promotion.model}`\n\n{reasons}"


def retriever_markdown(promotion: PromotionResult) -> str:
    """A decision about a tuned embedding model with its reasons."""
    decision = "The index is now made with" if promotion.is_promoted else "Retriever not promoted:"
    reasons = "\n".join(f"- {reason}" for reason in promotion.reasons)
    return f"**{decision}** `{promotion.model}`\n\n{reasons}"


def retriever_summary_markdown(summary: RetrieverSummary) -> str:
    """The summary of a run that tuned an embedding model."""
    stages = {"tune_retriever": summary.model}
    if summary.index is not None:
        stages["index"] = summary.index
    return "\n\n".join(
        [
            retriever_markdown(summary.promotion),
            stages_markdown(stages),
            f"Figures: `README.md` in `{summary.model.uri}`",
        ]
    )


def answer_markdown(answer: Answer) -> str:
    """Question, answer, and every quote with its source and whether it is verbatim."""
    parts = [f"> {answer.question}", answer.final_answer or answer.text]
    if answer.is_refusal:
        parts.append("*The model declined: it found no answer in the passages.*")
    if answer.quotes:
        rows = [
            f"| {_cell(quote.text)} | {quote.status} | {_cell(quote.title or '-')} "
            f"| {_cell(quote.source_uri or '-')} |"
            for quote in answer.quotes
        ]
        parts.append(
            "\n".join(["| Quote | | Title | Source |", "| --- | --- | --- | --- |", *rows])
        )
    parts.append(f"Model: `{answer.model}`")
    return "\n\n".join(parts)


def answer_message(answer: Answer) -> str:
    """An answer in one line."""
    verbatim = sum(quote.status == "verbatim" for quote in answer.quotes)
    text = " ".join((answer.final_answer or answer.text).split())
    short = text if len(text) <= 200 else f"{text[:199]}…"
    return f"{short} ({verbatim} of {len(answer.quotes)} quotes verbatim)"


def _counts(result: StageResult) -> str:
    shown = list(result.counts.items())[:_LISTED_COUNTS]
    return ", ".join(f"{readable(name)} {count:,}" for name, count in shown)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
