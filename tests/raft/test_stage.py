"""The whole stage on real S3, with a scripted teacher and a searcher by shared words."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import GateConfig, SynthesizeConfig
from pipeline_lib.errors import ConfigError, InputError, YieldError
from pipeline_lib.raft.dataset.splitting import split_documents
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rendering import parse_answer, render_target
from pipeline_lib.raft.rows import SPLITS
from pipeline_lib.raft.stage import synthesize


def test_a_dataset_has_the_rows_wanted_in_every_split(stand, teacher, small_config) -> None:
    result = stand.synthesize(teacher, small_config)
    rows = stand.rows_by_split(result)
    assert {split: len(of_split) for split, of_split in rows.items()} == {
        "train": 7,
        "validation": 1,
        "test": 4,
    }
    assert result.counts["num_rows"] == 12
    assert result.counts["num_train"] == 7
    assert not result.reused


def test_every_row_holds_what_it_promises(stand, teacher, small_config) -> None:
    chunks = {chunk.chunk_id: chunk for chunk in stand.corpus.chunks}
    for row in stand.rows(stand.synthesize(teacher, small_config)):
        oracle = chunks[row.oracle_chunk_id]
        assert row.oracle_document_id == oracle.document_id
        assert len(row.context) == small_config.contexts.num_distractors + 1
        parsed = parse_answer(render_target(row), row.context)
        for quote in parsed.quotes:
            check = verify_quote(quote.text, quote.passage_number, row.context)
            assert (check.status, check.chunk_id) == ("verbatim", row.oracle_chunk_id)
        assert bool(parsed.quotes) == row.oracle_present == (row.target == "answer")
        if row.oracle_present:
            for passage in row.context:
                if passage.role == "distractor":
                    assert row.final_answer not in passage.text


def test_splits_share_no_document_as_oracle(stand, teacher, small_config) -> None:
    rows = stand.rows_by_split(stand.synthesize(teacher, small_config))
    documents = [{row.oracle_document_id for row in rows[split]} for split in SPLITS]
    assert not documents[0] & documents[1]
    assert not documents[0] & documents[2]
    assert not documents[1] & documents[2]


def test_documents_are_split_before_anything_is_generated(stand, teacher, small_config) -> None:
    """The split follows from seed and document ids alone, whatever the teacher writes."""
    plan = split_documents(stand.corpus.documents, small_config.split, small_config.seed)
    for row in stand.rows(stand.synthesize(teacher, small_config)):
        assert row.split == plan.split_of[row.oracle_document_id]


def test_training_rows_show_no_document_that_is_held_out(stand, teacher, small_config) -> None:
    rows = stand.rows_by_split(stand.synthesize(teacher, small_config))
    held_out = {row.oracle_document_id for row in (*rows["test"], *rows["validation"])}
    shown = {passage.document_id for row in rows["train"] for passage in row.context}
    assert shown
    assert not shown & held_out


def test_the_funnel_adds_up_and_is_in_the_manifest(stand, teacher, small_config) -> None:
    result = stand.synthesize(teacher, small_config)
    funnel = stand.funnel(result)
    steps = funnel["steps"]
    entering = funnel["num_candidates"]
    for step in steps:
        assert step["kept"] + sum(step["dropped"].values()) == entering, step["name"]
        entering = step["kept"]
    assert entering == funnel["num_rows"] == 12
    assert [step["name"] for step in steps] == [
        "question",
        "new",
        "decontamination",
        "round_trip",
        "answer",
        "quotes",
        "reasoning",
        "context",
        "review",
        "wanted",
    ]
    assert result.dropped["question.not_a_question"] == steps[0]["dropped"]["not_a_question"]
    folder = stand.ws.artifacts.directory(result.ref)
    assert pq.read_table(folder / "rejects.parquet").num_rows == sum(result.dropped.values())


def test_the_ledger_counts_tokens_and_calls(stand, teacher, small_config) -> None:
    ledger = stand.ws.artifacts.manifest(stand.synthesize(teacher, small_config).ref).ledger
    assert ledger["num_completions"] == len(teacher.asked)
    assert ledger["prompt_tokens"] == 10 * len(teacher.asked)
    assert ledger["num_scored_targets"] == len(teacher.scored)
    assert ledger["num_reused"] == 0


def test_the_same_seed_gives_the_same_bytes_and_another_gives_other_rows(
    stand, other_stand, teacher, scripted, small_config
) -> None:
    first = stand.synthesize(teacher, small_config)
    again = other_stand.synthesize(scripted(teacher.script), small_config)
    assert not again.reused
    assert other_stand.file_hashes(again) == stand.file_hashes(first)
    other = stand.synthesize(teacher, small_config.model_copy(update={"seed": 4}), name="other")
    assert stand.file_hashes(other) != stand.file_hashes(first)
    assert {r.row_id for r in stand.rows(other)} != {r.row_id for r in stand.rows(first)}


def test_the_number_of_workers_does_not_change_a_byte(
    stand, other_stand, teacher, scripted, small_config
) -> None:
    """However many requests are in flight, and in whatever order they come back."""

    class Shuffling(type(teacher)):  # type: ignore[misc]
        def generate(self, prompts, params, *, on_completed=None):
            order = sorted(range(len(prompts)), key=lambda n: (n * 7919) % 101)
            done = {n: self.complete(prompts[n]) for n in order}
            self.asked += prompts
            for n in order:
                on_completed([n], [done[n]])
            return [done[n] for n in range(len(prompts))]

    first = stand.synthesize(teacher, small_config)
    again = other_stand.synthesize(Shuffling(teacher.script), small_config)
    assert other_stand.file_hashes(again) == stand.file_hashes(first)


def test_another_pipeline_pays_nothing_for_the_same_words(
    stand, teacher, scripted, small_config
) -> None:
    stand.synthesize(teacher, small_config)
    twin = scripted(teacher.script)
    stand.synthesize(twin, small_config, name="twin")
    assert twin.asked == []
    assert twin.scored == []


def test_a_second_run_reuses_the_artifact_without_asking(stand, teacher, small_config) -> None:
    first = stand.synthesize(teacher, small_config)
    num_asked = len(teacher.asked)
    again = stand.synthesize(teacher, small_config)
    assert again.reused
    assert again.ref == first.ref
    assert again.counts == first.counts
    assert len(teacher.asked) == num_asked


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"contexts": {"num_distractors": 3}},
        {"contexts": {"oracle_probability": 0.5}},
        {"gates": {"min_quote_chars": 25}},
        {"teacher": {"temperature": 0.5}},
    ],
)
def test_what_changes_the_rows_changes_the_fingerprint(
    stand, teacher, small_config, change: dict[str, Any]
) -> None:
    first = stand.synthesize(teacher, small_config)
    config = SynthesizeConfig(**{**small_config.model_dump(), **change})
    assert stand.synthesize(teacher, config).ref != first.ref


def test_speed_settings_and_places_do_not_change_the_fingerprint(
    stand, teacher, small_config
) -> None:
    first = stand.synthesize(teacher, small_config)
    config = SynthesizeConfig(**{**small_config.model_dump(), "teacher": {"batch_size": 3}})
    assert stand.synthesize(teacher, config).reused
    assert stand.synthesize(teacher, config).ref == first.ref


def test_another_teacher_makes_another_dataset(stand, teacher, scripted, small_config) -> None:
    first = stand.synthesize(teacher, small_config)
    other = scripted(teacher.script, model_identity="scripted:2")
    assert stand.synthesize(other, small_config).ref != first.ref


@pytest.mark.parametrize("fail_after", [5, 30, 60])
def test_a_killed_run_pays_nothing_twice_and_ends_with_the_same_bytes(
    stand, other_stand, teacher, scripted, small_config, fail_after: int
) -> None:
    """Peer bugs: lost work on interruption; empty chunks re-paid on every resume (gorilla)."""
    whole = scripted(teacher.script)
    reference = other_stand.file_hashes(other_stand.synthesize(whole, small_config))
    killed = scripted(teacher.script, fail_after=fail_after)
    with pytest.raises(KeyboardInterrupt):
        stand.synthesize(killed, small_config)
    resumed = scripted(teacher.script)
    result = stand.synthesize(resumed, small_config)
    assert not set(killed.asked) & set(resumed.asked)
    assert len(killed.asked) + len(resumed.asked) == len(whole.asked)
    assert stand.file_hashes(result) == reference


def test_a_killed_run_publishes_nothing(stand, teacher, scripted, small_config) -> None:
    with pytest.raises(KeyboardInterrupt):
        stand.synthesize(scripted(teacher.script, fail_after=9), small_config)
    assert stand.ws.artifacts.refs("dataset") == []


def test_a_teacher_that_yields_nothing_ends_with_its_funnel_and_advice(
    stand, scripted, small_config
) -> None:
    with pytest.raises(YieldError, match="0 rows were kept, 3 are needed") as e:
        stand.synthesize(scripted(lambda _: " This is a statement."), small_config)
    message = str(e.value)
    assert "no row for train and validation and test" in message
    assert "not_a_question" in message
    assert "max_candidates_per_question" in message
    assert "qa_path" in message


def test_fewer_rows_than_wanted_are_told(stand, teacher, small_config, caplog) -> None:
    config = small_config.model_copy(update={"num_questions": 90})
    result = stand.synthesize(teacher, config)
    assert 12 < result.counts["num_rows"] < 90
    assert f"{result.counts['num_rows']} of 90 rows wanted were kept" in caplog.text


def test_candidates_are_bounded_by_the_configuration(stand, scripted, small_config) -> None:
    teacher = scripted(lambda _: " This is a statement.")
    config = small_config.model_copy(update={"max_candidates_per_question": 2})
    with pytest.raises(YieldError):
        stand.synthesize(teacher, config)
    assert 12 < len(teacher.asked) <= 24


def test_a_question_that_retrieval_does_not_answer_with_its_passage_is_dropped(
    stand, teacher, small_config
) -> None:
    class Astray:
        """Always finds the same passages."""

        def search(self, queries, *, limit, config):
            [hits] = stand.searcher.search(["badger"], limit=limit, config=config)
            return [hits for _ in queries]

    config = small_config.model_copy(update={"gates": GateConfig(round_trip_top_k=1)})
    with pytest.raises(YieldError, match="not_in_top_1"):
        synthesize(
            stand.ws,
            "demo",
            config,
            stand.corpus_ref,
            stand.index_ref,
            teacher,
            searcher=Astray(),
        )


def test_near_duplicate_questions_are_kept_once(stand, teacher, scripted, small_config) -> None:
    def same(prompt) -> str:
        text = teacher.script(prompt)
        return " What happens at dusk near the river?" if "What happens" in text else text

    result = stand.synthesize(scripted(same), small_config)
    questions = [row.question for row in stand.rows(result)]
    assert questions.count("What happens at dusk near the river?") <= 1


def test_an_index_of_another_corpus_is_refused(
    stand, teacher, small_config, publish_corpus, corpus_of
) -> None:
    other = publish_corpus(corpus_of(["One text about cats.", "Two", "Three"]))
    with pytest.raises(ConfigError, match="is the index of"):
        synthesize(
            stand.ws,
            "demo",
            small_config,
            stand.corpus_ref,
            other.index_ref,
            teacher,
            searcher=stand.searcher,
        )


def test_too_small_a_corpus_is_refused_before_the_teacher_is_asked(
    publish_corpus, corpus_of, teacher, small_config
) -> None:
    small = publish_corpus(corpus_of(["One text about cats.", "Two of dogs.", "Three of owls."]))
    with pytest.raises(InputError, match="3 different passages, but a row needs 4"):
        small.synthesize(teacher, small_config)
    assert teacher.asked == []


def test_a_chat_teacher_writes_the_whole_target(stand, scripted, small_config) -> None:
    def script(prompt) -> str:
        system, user = (message["content"] for message in prompt.chat_messages())
        animal = user.split("If the ")[1].split()[0]
        sentence = user.split("\n")[1]
        if "questions" in system and "<quote" not in system:
            return f"1. What happens if the {animal} gets hungry at dusk?\n2. Nonsense"
        food = sentence.split("collects ")[1].split()[0]
        return (
            f'The {animal} looks for food. <quote doc="1">{sentence}</quote>\n'
            f"<answer>It collects {food}</answer>"
        )

    config = SynthesizeConfig(
        **{**small_config.model_dump(), "teacher": {"kind": "endpoint", "model": "big"}}
    )
    result = stand.synthesize(scripted(script), config)
    rows = stand.rows(result)
    assert len(rows) == 12
    [version] = {row.provenance.prompt_version for row in rows}
    assert version.startswith("chat-")
    assert version.endswith("/format-1")
    assert all(len(row.quotes) == row.oracle_present for row in rows)


def test_an_endpoint_that_is_not_set_is_refused(stand, small_config) -> None:
    config = SynthesizeConfig(
        **{**small_config.model_dump(), "teacher": {"kind": "endpoint", "model": "big"}}
    )
    with pytest.raises(ConfigError, match="none is set"):
        stand.synthesize(None, config)
