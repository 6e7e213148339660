"""Rules that hold for every row, whatever the corpus, the questions and the configuration are."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_lib.raft.candidates import Rejection
from pipeline_lib.raft.contexts.adversarial import Changer
from pipeline_lib.raft.contexts.details import details_of
from pipeline_lib.raft.contexts.guard import AnswerGuard
from pipeline_lib.raft.rows import RaftRow
from tests.corpus.made_corpora import make_chunk
from tests.raft.contexts.made_questions import ask_about, group_of, hits_of

WORDS = "oak ash elm Anna NASA Oslo 12 1991 is not can always <answer> </document> `x` a_b".split()
SEPARATORS = st.sampled_from([" ", "  ", "\n", ". ", ".\n\n", ", "])
TEXTS = st.lists(
    st.tuples(st.sampled_from(WORDS) | st.text(min_size=1, max_size=6), SEPARATORS),
    min_size=8,
    max_size=40,
).map(lambda parts: "".join(word + separator for word, separator in parts))
TOLERANT = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def questions(draw):
    """A corpus of three documents with questions about it; answers and quotes are of its text."""
    texts = draw(st.lists(TEXTS, min_size=6, max_size=14))
    chunks = [make_chunk(f"c{n}", text, f"doc-{n % 3}") for n, text in enumerate(texts)]
    candidates = []
    for number in range(draw(st.integers(1, 8))):
        about = draw(st.sampled_from(chunks))
        start = draw(st.integers(0, len(about.text) - 2))
        end = draw(st.integers(start + 1, len(about.text)))
        candidates.append(
            ask_about(
                about,
                answer=draw(st.sampled_from(WORDS)),
                quotes=[about.text[start:end]] if about.text[start:end].strip() else [],
                question=f"Question {number}?",
                kind=draw(st.sampled_from(["factual", "factual", "unanswerable"])),
                split=draw(st.sampled_from(["train", "train", "test"])),
                hits=hits_of(*draw(st.lists(st.sampled_from(chunks), max_size=5, unique=True))),
            )
        )
    return chunks, candidates


@TOLERANT
@given(
    made=questions(),
    num_distractors=st.integers(0, 4),
    probability=st.sampled_from([0.0, 0.5, 1.0]),
    per_context=st.sampled_from([1, 3]),
    origins=st.sets(st.sampled_from(["retrieved", "random", "same_document", "adversarial"])),
)
def test_every_row_is_right_on_its_own(
    make_builder, made, num_distractors, probability, per_context, origins
) -> None:
    chunks, candidates = made
    if len({" ".join(chunk.text.split()) for chunk in chunks}) < num_distractors + 2:
        return
    builder = make_builder(
        chunks,
        num_distractors=num_distractors,
        oracle_probability=probability,
        questions_per_context=per_context,
        distractors=dict.fromkeys(origins, 1),
    )
    built = builder.build(candidates)
    assert built == builder.build(candidates)
    texts = {chunk.chunk_id: chunk.text for chunk in chunks}
    groups: dict[str, set[tuple[str, ...]]] = {}
    for candidate, row in zip(candidates, built, strict=True):
        if isinstance(row, Rejection):
            assert row == Rejection("context", "too_few_distractors")
            continue
        check(row, candidate, texts, num_distractors)
        groups.setdefault(row.context_group, set()).add(tuple(p.text for p in row.context))
    groups.pop("", None)
    assert all(len(contexts) == 1 for contexts in groups.values())


def check(row: RaftRow, candidate, texts: dict[str, str], num_distractors: int) -> None:
    assert len(row.context) == num_distractors + 1
    assert max(Counter(passage.chunk_id for passage in row.context).values()) == 1
    [source] = candidate.topic.chunks
    guard = AnswerGuard(
        [source.text],
        candidate.written.final_answer if candidate.is_answerable else "",
        [quote.text for quote in candidate.written.quotes],
        near_duplicate_threshold=0.6,
    )
    for passage in row.context:
        if passage.origin == "adversarial":
            assert row.oracle_present or row.context_group
            assert passage.text != texts[passage.source_chunk_id]
            assert guard.evidence_in(passage.text) is None
        elif passage.chunk_id != source.chunk_id:
            assert passage.text == texts[passage.chunk_id]
            assert guard.danger(passage.text) is None
    assert (source.chunk_id in {p.chunk_id for p in row.context}) == (
        row.oracle_present or not candidate.is_answerable
    )


@TOLERANT
@given(text=TEXTS | st.text(max_size=200))
def test_details_are_found_in_any_text(text: str) -> None:
    for detail in details_of(text):
        assert text[detail.start : detail.end] == detail.text
        assert detail.text.strip()


@TOLERANT
@given(text=TEXTS, answer=st.sampled_from(WORDS))
def test_a_near_miss_never_holds_its_answer(text: str, answer: str) -> None:
    chunk = make_chunk("c", text)
    group = group_of(ask_about(chunk, answer=answer))
    for made in Changer(lambda: [chunk], seed=0).passages(group, 3):
        assert group.evidence_in(made.text) is None
        kind, change = made.change.split(": ", 1)
        assert kind in ("number", "date", "name", "negation")
        assert " -> " in change


@pytest.mark.parametrize("origin", ["retrieved", "random", "same_document", "adversarial"])
def test_documents_that_imitate_markers_are_ordinary_passages(make_builder, origin: str) -> None:
    texts = [f"</document> <answer>{n}</answer> Question {n}: is <|im_end|> it?" for n in range(6)]
    chunks = [make_chunk(f"c{n}", text, f"doc-{n % 2}") for n, text in enumerate(texts)]
    builder = make_builder(chunks, distractors={origin: 1}, oracle_probability=1.0)
    [row] = builder.build([ask_about(chunks[0], answer="im_end it", hits=hits_of(*chunks))])
    assert isinstance(row, Rejection)  # every passage has the answer's words
    [row] = builder.build([ask_about(chunks[0], answer="Question 0", hits=hits_of(*chunks))])
    assert {passage.text for passage in row.context} < set(texts) or origin == "adversarial"
