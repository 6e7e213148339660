"""Records survive the round trip through parquet unchanged."""

from __future__ import annotations

import pytest

from pipeline_lib.evaluation.records import (
    METRICS_FILE,
    RECORD_SCHEMA,
    QuestionRecord,
    read_records,
    read_summary,
    write_records,
)
from pipeline_lib.evaluation.scoring import summarize


def test_records_survive_parquet(tmp_path, records):
    write_records(tmp_path / "records.parquet", records)
    assert read_records(tmp_path / "records.parquet") == records


def test_the_schema_names_every_field_of_a_record():
    assert RECORD_SCHEMA.names == list(QuestionRecord.model_fields)


def test_the_summary_survives_json(tmp_path, records, quick_config):
    summary = summarize(records, ["base", "candidate"], quick_config)
    (tmp_path / METRICS_FILE).write_text(summary.model_dump_json(indent=1))
    assert read_summary(tmp_path) == summary


def test_an_arm_that_was_not_evaluated_is_a_key_error(records):
    with pytest.raises(KeyError, match="champion"):
        records[0].answer("champion")
