"""In which order passages are asked about, and what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk, Corpus
from pipeline_lib.raft.candidates import Topic
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rows import Split
from pipeline_lib.raft.writers import TopicPlanner, make_writer

PROMPTS = PromptLibrary.load()
ALL_TRAIN = {f"doc-{number:02}": "train" for number in range(24)}


@pytest.fixture
def plan(metered) -> Callable[..., list[Topic]]:
    """All topics of a split."""

    def plan(
        chunks: Sequence[Chunk],
        *,
        writer: str = "chat",
        split: Split = "train",
        split_of: dict[str, Split] | None = None,
        seed: int = 42,
        **questions: object,
    ) -> list[Topic]:
        config = SynthesizeConfig.model_validate(
            {"teacher": {"writer": writer}, "questions": questions, "seed": seed}
        )
        made = make_writer(config, metered(), {}, PROMPTS)
        known = split_of or {chunk.document_id: "train" for chunk in chunks}
        return list(TopicPlanner(config, made, chunks, known).queue(split))

    return plan


FACTUAL = {"factual": 1}
GLACIERS = (
    "Glaciers carve wide valleys, and their meltwater carries gravel and sand down to plains where "
    "farmers grow barley and rye."
)
STATIONS = [
    f"The {name} power station on the {river} holds {number} Kaplan turbines; engineers of {maker} "
    f"designed its spillway, and a fish ladder of {number * 9} steps leads around the weir."
    for number, (name, river, maker) in enumerate(
        [("Birsfelden", "Rhine", "Voith"), ("Aschach", "Danube", "Voith"),
         ("Rheinfelden", "Rhine", "Andritz"), ("Freudenau", "Danube", "Andritz"),
         ("Ybbs", "Danube", "Escher"), ("Laufenburg", "Rhine", "Escher")], start=4)
]  # fmt: skip


def test_every_fit_passage_is_asked_about_once_per_kind(plan, animals: Corpus) -> None:
    topics = plan(animals.chunks, kinds={"factual": 1, "how_why": 1, "unanswerable": 1})
    asked = Counter((topic.chunks[0].chunk_id, topic.kind) for topic in topics)
    assert len(asked) == 24 * 3
    assert set(asked.values()) == {1}


@pytest.mark.parametrize("writer", ["extractive", "chat"])
def test_one_topic_of_every_passage_comes_before_any_passages_second(
    plan, animals: Corpus, writer: str
) -> None:
    kinds = FACTUAL if writer == "extractive" else {"factual": 1, "how_why": 1}
    topics = plan(animals.chunks, writer=writer, kinds=kinds)
    assert len(topics) == 48
    for half in (topics[:24], topics[24:]):
        assert len({topic.chunks[0].chunk_id for topic in half}) == 24


def test_a_split_asks_about_its_own_documents_only(plan, animals: Corpus) -> None:
    split_of: dict[str, Split] = {f"doc-{n:02}": "test" if n < 8 else "train" for n in range(20)}
    for split, count in (("train", 12), ("test", 8), ("validation", 0)):
        topics = plan(animals.chunks, split=split, split_of=split_of, kinds=FACTUAL)
        assert len(topics) == count
        assert {split_of[topic.chunks[0].document_id] for topic in topics} <= {split}
        assert {topic.split for topic in topics} <= {split}


def test_peer_bug_no_question_joins_two_splits(plan, corpus_of) -> None:
    chunks = corpus_of([*STATIONS, GLACIERS]).chunks
    split_of: dict[str, Split] = {f"doc-{n:02}": "test" if n % 2 else "train" for n in range(7)}
    for split in ("train", "test"):
        topics = plan(chunks, split=split, split_of=split_of, kinds={"multi_hop": 1})
        assert any(len(topic.chunks) == 2 for topic in topics)
        for topic in topics:
            assert {split_of[chunk.document_id] for chunk in topic.chunks} == {split}


def test_kinds_come_first_by_their_shares(plan, corpus_of) -> None:
    """400 passages: three standard deviations of a share of 0.3 are 0.07."""
    corpus = corpus_of([f"badger{n} otter{n} lynx{n} hyena{n} koala{n} lemur{n} " * 6
                        + f"camel{n} yak{n} zebra{n} bison{n}" for n in range(400)])  # fmt: skip
    kinds = {"factual": 6, "how_why": 3, "unanswerable": 1}
    styles = {"plain": 1, "keyword": 1}
    topics = plan(corpus.chunks, kinds=kinds, styles=styles)[:400]
    drawn = Counter(topic.kind for topic in topics)
    assert {kind: drawn[kind] / 400 for kind in kinds} == pytest.approx(
        {"factual": 0.6, "how_why": 0.3, "unanswerable": 0.1}, abs=0.07
    )
    assert Counter(topic.style for topic in topics)["keyword"] / 400 == pytest.approx(0.5, abs=0.08)


def test_kinds_about_two_passages_have_two(plan, corpus_of) -> None:
    chunks = corpus_of([*STATIONS, GLACIERS]).chunks
    topics = plan(chunks, kinds={"comparison": 1, "multi_hop": 1})
    assert {topic.kind for topic in topics} == {"comparison", "multi_hop", "factual"}
    for topic in topics:
        assert len({chunk.chunk_id for chunk in topic.chunks}) == (
            2 if topic.kind != "factual" else 1
        )


def test_no_pair_is_asked_about_twice_in_one_way(plan, corpus_of) -> None:
    chunks = corpus_of([*STATIONS, GLACIERS]).chunks
    topics = plan(chunks, kinds={"comparison": 1, "multi_hop": 1})
    asked = Counter(
        (frozenset(chunk.chunk_id for chunk in topic.chunks), topic.kind) for topic in topics
    )
    assert set(asked.values()) == {1}


def test_a_passage_without_a_partner_gets_one_factual_question(plan, corpus_of) -> None:
    alone = corpus_of([GLACIERS])
    topics = plan(alone.chunks, kinds={"comparison": 1, "multi_hop": 1})
    assert [(topic.kind, len(topic.chunks)) for topic in topics] == [("factual", 1)]


def test_the_order_depends_on_the_seed_and_nothing_else(plan, animals: Corpus) -> None:
    topics = plan(animals.chunks)
    assert plan(animals.chunks) == topics
    assert plan(animals.chunks[::-1]) == topics
    assert plan(animals.chunks, seed=1) != topics


@pytest.mark.parametrize("writer", ["extractive", "chat"])
def test_documents_that_come_or_go_leave_the_others_topics_and_their_order(
    plan, animals: Corpus, corpus_of, writer: str
) -> None:
    other = corpus_of([GLACIERS] * 30).chunks[29]
    before = plan(animals.chunks, writer=writer)
    after = plan([other, *animals.chunks], writer=writer)
    assert [topic for topic in after if topic.chunks[0] is not other] == before
    assert len(after) > len(before)


def test_topics_are_planned_as_they_are_drawn(metered, animals: Corpus) -> None:
    config = SynthesizeConfig.model_validate({"teacher": {"writer": "extractive"}})
    writer = make_writer(config, metered(), {}, PROMPTS)
    looked_at: list[str] = []
    find = writer.topics

    def spy(chunk: Chunk, split: Split) -> list[Topic]:
        looked_at.append(chunk.chunk_id)
        return find(chunk, split)

    writer.topics = spy  # type: ignore[method-assign]
    planner = TopicPlanner(config, writer, animals.chunks, ALL_TRAIN)  # type: ignore[arg-type]
    first = list(islice(planner.queue("train"), 3))
    assert looked_at == [topic.chunks[0].chunk_id for topic in first]
