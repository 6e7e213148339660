"""Answer one question from an indexed corpus, and say for each quote whether it is really there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import LATEST
from pipeline_lib.config import AnswerConfig, FinetuneConfig
from pipeline_lib.errors import ArtifactNotFoundError, ConfigError
from pipeline_lib.generation.base import GenerationParams, Prompt, TextGenerator
from pipeline_lib.models import resolve_model
from pipeline_lib.progress import phase
from pipeline_lib.raft.quotes import QuoteStatus, verify_quote
from pipeline_lib.raft.rendering import parse_answer, render_prompt
from pipeline_lib.retrieval.search import Hit, PassageSearcher, Searcher, latest_index
from pipeline_lib.stage import Workspace
from pipeline_lib.training.export import tuned_model

BASE = "base"
_MODEL_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_FINGERPRINT_START = re.compile(r"[0-9a-f]{4,32}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class AnsweredQuote(_Frozen):
    """One quote of the answer."""

    text: str
    status: QuoteStatus
    passage_number: int | None
    """The passage the answer cites, counted from 1."""
    chunk_id: str | None
    """The passage that really holds the quote, and where it comes from."""
    title: str | None
    source_uri: str | None


class AnsweredPassage(_Frozen):
    """One passage the answer could rest on."""

    number: int
    """As cited, from 1."""
    chunk_id: str
    document_id: str
    title: str
    source_uri: str
    text: str
    score: float


class Answer(_Frozen):
    """An answer with its evidence."""

    question: str
    text: str
    """Everything the model wrote."""
    final_answer: str | None
    """What it marked as its answer; `None` when it marked nothing."""
    is_refusal: bool
    """It says that the passages do not hold the answer."""
    quotes: tuple[AnsweredQuote, ...]
    passages: tuple[AnsweredPassage, ...]
    model: str
    """The model artifact, or the base model's name."""
    index: str


@dataclass(frozen=True)
class AnsweringModel:
    """The model that answers, on this machine."""

    name: str
    path: Path
    identity: str
    adapter: Path | None = None
    """To be loaded on top, where there are no merged weights."""


def open_local_model(model: AnsweringModel) -> TextGenerator:
    """The model in this process."""
    from pipeline_lib.generation.local import LocalGenerator

    return LocalGenerator(model.path, model.adapter, batch_size=1, identity=model.identity)


def answer(
    ws: Workspace,
    config: AnswerConfig,
    *,
    open_model: Callable[[AnsweringModel], TextGenerator] = open_local_model,
    open_searcher: Callable[[Workspace, ArtifactRef], PassageSearcher] = Searcher.open,
) -> Answer:
    """Retrieve passages, have the model answer from them, and verify what it quotes.

    Args:
        ws: live services.
        config: the question, and whom to ask.
        open_model: loads the model.
        open_searcher: opens the index.

    Raises:
        ArtifactNotFoundError: there is no index yet, or no such model.
        ConfigError: the model's name has no valid form.
        GenerationError: the question with its passages does not fit the model.
    """
    model = _find_model(ws, config)
    index = latest_index(ws, config.name)
    with phase(ws.progress, "Retrieving passages", 1, "questions") as progress:
        searcher = open_searcher(ws, index)
        [hits] = searcher.search(
            [config.question], limit=config.context_size, config=config.retrieval
        )
        progress.advance()
    with phase(ws.progress, "Answering", 1, "questions") as progress:
        [completion] = open_model(model).generate(
            [Prompt.chat(render_prompt(config.question, hits))],
            GenerationParams(max_new_tokens=config.max_new_tokens),
        )
        progress.advance()
    parsed = parse_answer(completion.text, hits)
    return Answer(
        question=config.question,
        text=completion.text,
        final_answer=parsed.final_answer,
        is_refusal=parsed.is_refusal,
        quotes=tuple(_verified(q.text, q.passage_number, hits) for q in parsed.quotes),
        passages=tuple(_passage(number, hit) for number, hit in enumerate(hits, start=1)),
        model=model.name,
        index=str(index),
    )


def _verified(text: str, passage_number: int | None, hits: Sequence[Hit]) -> AnsweredQuote:
    check = verify_quote(text, passage_number, hits)
    holder = next((hit for hit in hits if hit.chunk_id == check.chunk_id), None)
    return AnsweredQuote(
        text=text,
        status=check.status,
        passage_number=passage_number,
        chunk_id=check.chunk_id,
        title=holder.title if holder else None,
        source_uri=holder.source_uri if holder else None,
    )


def _passage(number: int, hit: Hit) -> AnsweredPassage:
    return AnsweredPassage(
        number=number,
        chunk_id=hit.chunk_id,
        document_id=hit.document_id,
        title=hit.title,
        source_uri=hit.source_uri,
        text=hit.text,
        score=hit.score,
    )


def _find_model(ws: Workspace, config: AnswerConfig) -> AnsweringModel:
    if config.model == BASE:
        base = resolve_model(ws.settings, _base_model(ws, config.name), ws.progress)
        return AnsweringModel(base.name, base.path, base.identity)
    ref = _find_model_artifact(ws, config.name, config.model)
    tuned = tuned_model(ws, ref)
    return AnsweringModel(tuned.name, tuned.path, tuned.identity, tuned.adapter)


def _base_model(ws: Workspace, name: str) -> str:
    """What the latest model was fine-tuned from; before there is one, what it would be."""
    latest = ws.artifacts.alias("model", name, LATEST)
    if latest is None:
        return FinetuneConfig().base_model
    return str(ws.artifacts.manifest(latest).config["base_model"])


def _find_model_artifact(ws: Workspace, name: str, model: str) -> ArtifactRef:
    if not _MODEL_PATTERN.fullmatch(model):
        raise ConfigError(
            f"{model!r} names no model",
            hint="Give 'champion', 'latest', 'base', another alias, or a fingerprint.",
        )
    ref = ws.artifacts.alias("model", name, model)
    if ref is not None:
        return ref
    if _FINGERPRINT_START.fullmatch(model):
        return ws.artifacts.resolve(f"model/{name}/{model}")
    aliases = ws.artifacts.aliases.of("model", name)
    raise ArtifactNotFoundError(
        f"There is no model {name!r} with the alias {model!r}",
        hint=f"There are the aliases {', '.join(sorted(aliases))}; a champion is made by "
        "evaluating and promoting a model."
        if aliases
        else f"Nothing was trained under the name {name!r} yet: run the pipeline first, or ask "
        f"the model {BASE!r}.",
    )
