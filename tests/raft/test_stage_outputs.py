"""What a dataset has beside its rows: further tasks, pairs, text, card, ledger, partial notices."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.errors import ConfigError, YieldError
from pipeline_lib.raft.derived.preferences import iter_pairs
from pipeline_lib.raft.derived.pretraining import iter_pretraining
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rendering import parse_answer
from pipeline_lib.raft.review.verdicts import Verdict, record_verdicts
from pipeline_lib.raft.rows import RaftRow


def changed(config: SynthesizeConfig, **changes: Any) -> SynthesizeConfig:
    return SynthesizeConfig.model_validate({**config.model_dump(), **changes})


@pytest.fixture
def with_everything(small_config: SynthesizeConfig) -> SynthesizeConfig:
    every = dict.fromkeys(("relevance", "ranking", "quotes", "refusal", "closed_book"), 1.0)
    return changed(small_config, tasks={**every, "pretraining": True}, preferences={"share": 1.0})


def test_further_tasks_are_made_of_training_and_validation_rows_without_asking_again(
    stand, teacher, scripted, small_config, with_everything
) -> None:
    plain = stand.synthesize(teacher, small_config)
    second = scripted(teacher.script)
    result = stand.synthesize(second, with_everything)
    assert second.asked == []
    rows = stand.rows(result)
    assert {row.task for row in rows if row.split == "test"} == {"answer"}
    derived = [row for row in rows if row.task != "answer"]
    assert {row.task for row in derived} == {
        "relevance", "ranking", "quotes", "refusal", "closed_book",
    }  # fmt: skip
    base = {row.row_id for row in rows if row.task == "answer"}
    assert {row.base_row_id for row in derived} <= base
    assert result.counts["num_task_rows"] == len(derived)
    assert result.counts["num_rows"] == plain.counts["num_rows"]


def test_every_pair_has_a_chosen_answer_that_verifies_and_one_with_its_fault(
    stand, teacher, with_everything
) -> None:
    result = stand.synthesize(teacher, with_everything)
    pairs = list(iter_pairs(stand.ws.artifacts.directory(result.ref) / "preferences.parquet"))
    assert len(pairs) == result.counts["num_preference_pairs"] > 0
    for pair in pairs:
        for quote in parse_answer(pair.chosen, pair.context).quotes:
            check = verify_quote(quote.text, quote.passage_number, pair.context)
            assert check.status == "verbatim"


def test_plain_text_is_of_training_documents_only(stand, teacher, with_everything) -> None:
    result = stand.synthesize(teacher, with_everything)
    folder = stand.ws.artifacts.directory(result.ref)
    texts = {text.document_id for text in iter_pretraining(folder / "pretraining.parquet")}
    splits = pq.read_table(folder / "splits.parquet").to_pylist()
    assert texts == {s["document_id"] for s in splits if s["split"] == "train"}
    lineage = pq.read_table(folder / "lineage.parquet").to_pylist()
    assert texts == {line["document_id"] for line in lineage if line["use"] == "text"}


def test_the_card_tells_of_yield_and_mixes(stand, teacher, with_everything) -> None:
    result = stand.synthesize(teacher, with_everything)
    card = (stand.ws.artifacts.directory(result.ref) / "README.md").read_text()
    assert card.startswith("---\n")
    for words in ("## Yield", "## Mixes", "## Quotes", "round_trip", "closed_book", "scripted:1"):
        assert words in card


def test_a_budget_ends_the_run_with_a_partial_dataset_that_says_so(
    stand, teacher, scripted, small_config
) -> None:
    plan = changed(
        small_config, incremental=False, split={"keep_evaluation_set": False}, num_questions=40
    )
    whole = stand.synthesize(scripted(teacher.script, chars_per_token=4), plan)
    spent = stand.ws.artifacts.manifest(whole.ref).ledger
    tokens = int(0.8 * (spent["prompt_tokens"] + spent["completion_tokens"]))
    plan = changed(plan, budget={"max_tokens": tokens})
    again = scripted(teacher.script)
    result = stand.synthesize(again, plan)
    manifest = stand.ws.artifacts.manifest(result.ref)
    assert "The budget was spent" in manifest.details["partial"]
    assert manifest.ledger["prompt_tokens"] + manifest.ledger["completion_tokens"] <= tokens
    assert 3 <= result.counts["num_rows"] < whole.counts["num_rows"]
    card = (stand.ws.artifacts.directory(result.ref) / "README.md").read_text()
    assert "This dataset is partial" in card
    assert stand.synthesize(again, plan).reused


def test_a_budget_that_is_too_small_for_any_dataset_says_what_to_raise(
    stand, teacher, small_config
) -> None:
    with pytest.raises(YieldError, match="Raise the budget"):
        stand.synthesize(teacher, changed(small_config, budget={"max_tokens": 3000}))


def test_money_cannot_be_limited_where_nothing_costs_any(stand, teacher, small_config) -> None:
    with pytest.raises(ConfigError, match=r"budget\.max_cost"):
        stand.synthesize(teacher, changed(small_config, budget={"max_cost": 5.0}))


def test_the_ledger_is_kept_by_step_and_model(stand, teacher, small_config) -> None:
    result = stand.synthesize(teacher, small_config)
    lines = stand.ws.artifacts.manifest(result.ref).details["ledger"]
    assert {line["model"] for line in lines} == {"scripted:1"}
    assert {line["step"] for line in lines} >= {"asking", "answering", "reasoning"}
    assert sum(line["num_completions"] for line in lines) == len(teacher.asked)


def verdict(row: RaftRow, decision: str, **fields: str) -> Verdict:
    return Verdict(
        row_id=row.row_id,
        question=row.question,
        document_id=row.source_document_id,
        decision=decision,  # type: ignore[arg-type]
        decided_at=datetime.now(UTC),
        **fields,
    )


def test_verdicts_survive_a_new_synthesis_and_cost_nothing(
    stand, teacher, scripted, small_config
) -> None:
    first = stand.synthesize(teacher, small_config)
    rows = [row for row in stand.rows(first) if row.split == "train" and row.oracle_present]
    rejected, edited = rows[0], rows[1]
    record_verdicts(
        stand.ws,
        "demo",
        [
            verdict(rejected, "reject", comment="Not what the text says."),
            verdict(edited, "edit", edited_answer="as the reviewer says"),
        ],
    )
    later = scripted(teacher.script)
    second = stand.synthesize(later, small_config)
    assert not second.reused
    after = {row.row_id: row for row in stand.rows(second)}
    assert rejected.row_id not in after
    assert after[edited.row_id].final_answer == "as the reviewer says"
    assert after[edited.row_id].provenance.answer_source == "reviewer"
    other = stand.synthesize(scripted(teacher.script), changed(small_config, seed=3, min_rows=4))
    again = {row.row_id: row for row in stand.rows(other)}
    assert rejected.row_id not in again
    assert again[edited.row_id].final_answer == "as the reviewer says"


def test_a_rejection_that_is_withdrawn_brings_the_row_back_without_asking_again(
    stand, teacher, scripted, small_config
) -> None:
    first = {row.row_id: row for row in stand.rows(stand.synthesize(teacher, small_config))}
    rejected = next(row for row in first.values() if row.split == "train")
    record_verdicts(stand.ws, "demo", [verdict(rejected, "reject")])
    stand.synthesize(scripted(teacher.script), small_config)
    record_verdicts(stand.ws, "demo", [verdict(rejected, "withdrawn")])
    # Another row has taken its place, so one more is wanted.
    more = changed(small_config, num_questions=14)
    last = scripted(teacher.script)
    assert rejected.row_id in {row.row_id for row in stand.rows(stand.synthesize(last, more))}


def test_training_keeps_away_from_the_users_benchmarks(
    stand, teacher, small_config, tmp_path
) -> None:
    rows = stand.rows(stand.synthesize(teacher, small_config))
    trained = next(row for row in rows if row.split == "train")
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps({"question": trained.question}) + "\n")
    config = changed(small_config, split={"decontaminate_paths": (str(benchmark),)})
    result = stand.synthesize(teacher, config)
    assert trained.question not in {row.question for row in stand.rows(result)}


def test_rejects_can_be_looked_at(stand, teacher, small_config) -> None:
    result = stand.synthesize(teacher, small_config)
    folder = stand.ws.artifacts.directory(result.ref)
    samples = json.loads((folder / "reject_samples.json").read_text())
    reasons = {f"{sample['stage']}.{sample['reason']}" for sample in samples}
    assert reasons == set(result.dropped)
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert {reject["document_id"] for reject in rejects} <= {
        document.document_id for document in stand.corpus.documents
    }
