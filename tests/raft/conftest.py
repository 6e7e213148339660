"""A hand-made corpus, a scripted teacher, a searcher by shared words, and published artifacts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig, IngestConfig, RetrievalConfig, SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk, Corpus, Document
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt, Score
from pipeline_lib.progress import NullProgress
from pipeline_lib.raft.candidates import Candidate, Topic, Written, quote_of
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rows import SPLITS, RaftRow, ReasoningStep, Split, read_rows, split_file
from pipeline_lib.raft.stage import synthesize
from pipeline_lib.raft.wording import content_words
from pipeline_lib.retrieval.search import Hit
from pipeline_lib.stage import StageResult, Workspace
from tests.artifacts.made_artifacts import publish as publish_artifact
from tests.corpus.made_corpora import make_chunk, write_corpus
from tests.generation.scripted import ScriptedTeacher

ANIMALS = (
    "badger beaver bison camel cheetah donkey ferret gazelle hamster hyena jackal koala lemur lynx "
    "marmot mongoose otter panther raccoon walrus weasel wombat yak zebra"
).split()
FOODS = "acorns beetles clover dates eels figs grapes honey insects juniper kelp lichen".split()
PLACES = "burrows caves dunes forests gorges hills islands jungles lagoons marshes nests oases"


def animal_text(number: int) -> str:
    """Two sentences, each a fact of its own, about one animal."""
    animal, food = ANIMALS[number], FOODS[number % len(FOODS)]
    place = PLACES.split()[(number * 5) % 12]
    return (
        f"If the {animal} gets hungry at dusk, it quietly collects {food} near the river.\n"
        f"A {animal} is a shy creature that sleeps in {place} during the {number + 10} weeks of "
        "winter."
    )


def make_corpus(texts: Sequence[str], titles: Sequence[str] | None = None) -> Corpus:
    """One document with one chunk per text."""
    documents, chunks = [], []
    for number, text in enumerate(texts):
        documents.append(
            Document(
                document_id=f"doc-{number:02}",
                source_uri=f"file:///animals/{number:02}.txt",
                title=titles[number] if titles else f"Page {number:02}",
                media_type="text/plain",
                text=text,
                content_sha256="0" * 64,
            )
        )
        chunks.append(make_chunk(f"chunk-{number:02}", text, f"doc-{number:02}"))
    return Corpus(tuple(documents), tuple(chunks))


@pytest.fixture
def animals() -> Corpus:
    """24 documents, each about another animal."""
    return make_corpus([animal_text(n) for n in range(len(ANIMALS))])


class SharedWordsSearcher:
    """Ranks chunks by shared content words; nothing is ever missing from it."""

    def __init__(self, corpus: Corpus) -> None:
        self._titles = {document.document_id: document.title for document in corpus.documents}
        self._uris = {document.document_id: document.source_uri for document in corpus.documents}
        self._chunks = [(chunk, set(content_words(chunk.text))) for chunk in corpus.chunks]
        self.queries: list[str] = []

    def search(
        self, queries: Sequence[str], *, limit: int, config: RetrievalConfig
    ) -> list[list[Hit]]:
        self.queries += queries
        return [self._hits(set(content_words(query)), limit) for query in queries]

    def _hits(self, wanted: set[str], limit: int) -> list[Hit]:
        scored = sorted(
            ((len(wanted & known), chunk) for chunk, known in self._chunks),
            key=lambda pair: (-pair[0], pair[1].chunk_id),
        )
        return [
            make_hit(chunk, rank, float(score), self._titles[chunk.document_id])
            for rank, (score, chunk) in enumerate(scored[:limit], start=1)
        ]


def make_hit(chunk: Chunk, rank: int, score: float = 1.0, title: str = "T") -> Hit:
    """A retrieved chunk."""
    return Hit(
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        title=title,
        source_uri="file:///x",
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        rank=rank,
        score=score,
    )


def prompt_field(prompt: Prompt, name: str) -> str:
    """The last `name: …` line of a plain prompt."""
    return re.findall(rf"^{name}: (.*)$", prompt.text or "", re.MULTILINE)[-1]


def competent(prompt: Prompt) -> str:
    """What a small teacher would write about the animals on a good day."""
    text = prompt.text or ""
    if text.endswith("Reasoning:"):
        question, answer = prompt_field(prompt, "Question"), prompt_field(prompt, "Answer")
        return f" The document says that {answer}, which is about {question[5:].rstrip('?')}."
    fact = prompt_field(prompt, "Fact")
    condition = re.match(r"If (the \w+) gets hungry at dusk", fact)
    if condition:
        if prompt.forced_prefix == " When":
            return f" When does {condition[1]} collect {fact.split('collects ')[1].split()[0]}?"
        if prompt.forced_prefix.startswith(" What happens"):
            return f" What happens if {condition[1]} gets hungry at dusk?"
        return " This is a statement."
    animal = fact.split()[1]
    if prompt.forced_prefix.startswith(" What is"):
        return f" What is a {animal} creature?"
    return " This is a statement."


@pytest.fixture
def teacher() -> ScriptedTeacher:
    """A competent one."""
    return ScriptedTeacher(competent)


class MeteredScript:
    """A scripted teacher as synthesis sees one: no store, no budget, every call counted."""

    def __init__(self, teacher: ScriptedTeacher) -> None:
        self.teacher = teacher
        self.model_identity = teacher.model_identity
        self.is_exhausted = False
        self.spent_share = 0.0
        self.steps: list[str] = []

    def generate(
        self, prompts: Sequence[Prompt], params: GenerationParams, *, step: str
    ) -> list[Completion]:
        self.steps.append(step)
        return self.teacher.generate(prompts, params)

    def score(self, prompts: Sequence[Prompt], targets: Sequence[str], *, step: str) -> list[Score]:
        self.steps.append(step)
        return self.teacher.score(prompts, targets, with_end=False)


@pytest.fixture
def metered() -> Callable[..., MeteredScript]:
    """Makes a metered teacher of a function from prompt to text."""

    def make(script: Callable[[Prompt], str] = competent, **fields: Any) -> MeteredScript:
        return MeteredScript(ScriptedTeacher(script, **fields))

    return make


@pytest.fixture(scope="session")
def prompts() -> PromptLibrary:
    """The bundled templates."""
    return PromptLibrary.load()


@pytest.fixture
def small_config() -> SynthesizeConfig:
    """Twelve rows of three passages."""
    return SynthesizeConfig(num_questions=12, min_rows=3, seed=3)


@pytest.fixture
def scripted() -> type[ScriptedTeacher]:
    """For other teachers than the competent one."""
    return ScriptedTeacher


@pytest.fixture
def make_candidate(animals: Corpus) -> Callable[..., Candidate]:
    """An answered candidate about the first sentence of the animals' document `number`."""

    def make(
        number: int,
        *,
        split: Split = "train",
        answer: str | None = None,
        hits: Sequence[Hit] = (),
        question: str | None = None,
    ) -> Candidate:
        chunk = animals.chunks[number]
        end = chunk.text.index("\n")
        step = ReasoningStep(
            text=f"The document tells about animal {number}.", quote=quote_of(chunk, 0, end)
        )
        return Candidate(
            topic=Topic(split=split, chunks=(chunk,), span=(0, end)),
            question=question or f"What happens if animal {number} gets hungry?",
            written=Written((step,), answer or f"it quietly collects {FOODS[number % 12]}"),
            hits=tuple(hits),
        )

    return make


@pytest.fixture
def searcher(animals: Corpus) -> SharedWordsSearcher:
    """Finds the animals."""
    return SharedWordsSearcher(animals)


@dataclass(frozen=True)
class Stand:
    """Everything that `synthesize` needs, published."""

    ws: Workspace
    corpus: Corpus
    corpus_ref: ArtifactRef
    index_ref: ArtifactRef
    searcher: SharedWordsSearcher

    def synthesize(
        self, teacher: ScriptedTeacher | None, config: SynthesizeConfig, name: str = "demo"
    ) -> StageResult:
        """Run the stage."""
        return synthesize(
            self.ws,
            name,
            config,
            self.corpus_ref,
            self.index_ref,
            teacher,
            searcher=self.searcher,
        )

    def rows(self, result: StageResult) -> list[RaftRow]:
        """All rows of a dataset."""
        return [row for rows in self.rows_by_split(result).values() for row in rows]

    def rows_by_split(self, result: StageResult) -> dict[Split, list[RaftRow]]:
        """All rows of a dataset."""
        folder = self.ws.artifacts.directory(result.ref)
        return {split: list(read_rows(folder / split_file(split))) for split in SPLITS}

    def funnel(self, result: StageResult) -> dict[str, Any]:
        """A dataset's funnel."""
        path = self.ws.artifacts.directory(result.ref) / "funnel.json"
        funnel: dict[str, Any] = json.loads(path.read_text())
        return funnel

    def file_hashes(self, result: StageResult) -> dict[str, str]:
        """Of all files but the card, which names the dataset."""
        files = self.ws.artifacts.manifest(result.ref).files
        return {entry.path: entry.sha256 for entry in files if entry.path != "README.md"}


def publish(ws: Workspace, corpus: Corpus) -> Stand:
    """The corpus as an artifact, and an index artifact that names it."""

    mark = repr([(chunk.chunk_id, chunk.text) for chunk in corpus.chunks])
    ref = publish_artifact(
        ws,
        "corpus",
        lambda draft: write_corpus(draft.directory, corpus),
        config=IngestConfig(),
        inputs={"content": mark},
    ).ref
    index = publish_artifact(ws, "index", config=IndexConfig(), inputs={"corpus": ref}).ref
    return Stand(ws, corpus, ref, index, SharedWordsSearcher(corpus))


@pytest.fixture
def stand(workspace: Workspace, animals: Corpus) -> Stand:
    """The animals, published."""
    return publish(workspace, animals)


@pytest.fixture
def other_stand(workspace: Workspace, animals: Corpus, tmp_path: Path) -> Stand:
    """The animals in a store of their own, where no teacher has said anything yet."""
    settings = workspace.settings.model_copy(
        update={"s3_prefix": f"{workspace.settings.s3_prefix}-other", "home": tmp_path / "other"}
    )
    return publish(Workspace.open(NullProgress(), settings), animals)


@pytest.fixture
def publish_corpus(workspace: Workspace) -> Callable[[Corpus], Stand]:
    """Publishes other corpora than the animals."""
    return lambda corpus: publish(workspace, corpus)


@pytest.fixture
def corpus_of() -> Callable[..., Corpus]:
    """One document with one chunk per text."""
    return make_corpus
