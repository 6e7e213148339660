"""The benchmark of training: what its rows are like, and that its figures are computed rightly."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training.harness.arms import common_arguments, raftline_plan
from benchmarks.training.harness.charts import Line, Panel, draw
from benchmarks.training.harness.job import ArmName
from benchmarks.training.harness.models import SHAPES, model_folder
from benchmarks.training.harness.report import (
    Spread,
    loss_disagreement,
    ratio_lines,
    summarize,
    table,
    write_log,
)
from benchmarks.training.harness.setup import Options, Setup
from benchmarks.training.harness.watching import Measurement
from benchmarks.training.rows import (
    RowShape,
    TokenCounts,
    count_tokens,
    encode_up_to,
    fit_shape,
    make_rows,
    read_dataset_rows,
)
from benchmarks.training.scaling import Point, panels, write_csv
from pipeline_lib.raft.rows import write_rows
from pipeline_lib.settings import Settings
from pipeline_lib.training.examples import Example

SHAPE = RowShape(
    num_rows=8, num_documents=3, document_words=20, answer_words=6, questions_per_context=4
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_path)


def test_made_rows_are_the_same_every_time_and_differ_from_each_other() -> None:
    rows = make_rows(SHAPE)
    assert make_rows(SHAPE) == rows
    assert len({row.row_id for row in rows}) == 8
    assert len({(row.question, row.final_answer) for row in rows}) == 8


def test_rows_of_a_context_have_its_passages_and_those_of_another_have_others() -> None:
    texts = [tuple(passage.text for passage in row.context) for row in make_rows(SHAPE)]
    assert len(set(texts[:4])) == 1
    assert len(set(texts[4:])) == 1
    assert texts[0] != texts[4]


def test_a_made_row_quotes_its_oracle() -> None:
    """`RaftRow` itself checks that the quote is verbatim."""
    for row in make_rows(SHAPE):
        assert len(row.context) == 3
        assert [p.chunk_id for p in row.context if p.role == "oracle"] == [row.oracle_chunk_id]
        assert row.quotes[0].chunk_id == row.oracle_chunk_id
        assert row.final_answer


@pytest.mark.parametrize("wanted", [1200, 4000])
def test_prompts_come_out_about_as_long_as_asked(tokenizer: Any, wanted: int) -> None:
    shape = fit_shape(RowShape(num_rows=16), tokenizer, wanted)
    lengths = [e.num_prompt_tokens for e in encode_up_to(make_rows(shape), tokenizer, 16, 10_000)]
    assert sum(lengths) / 16 == pytest.approx(wanted, rel=0.05)
    assert min(lengths) < 0.95 * wanted
    assert max(lengths) > 1.05 * wanted


def test_prompts_too_short_for_their_documents_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="no room for 5 documents"):
        fit_shape(RowShape(), tokenizer, 100)


def test_rows_of_a_dataset_are_read_with_those_of_a_context_together(
    settings: Settings, tmp_path: Path
) -> None:
    rows = make_rows(SHAPE)
    mixed = [rows[place] for place in (0, 4, 1, 5, 2, 6, 3, 7)]
    write_rows(tmp_path / "train.parquet", mixed)
    assert read_dataset_rows(settings, str(tmp_path)) == rows
    assert read_dataset_rows(settings, str(tmp_path / "train.parquet")) == rows


def test_too_few_rows_that_fit_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="only 0 rows fit into 50 tokens, not 8"):
        encode_up_to(make_rows(SHAPE), tokenizer, 8, 50)


def test_what_rows_begin_with_alike_is_counted_once_when_shared() -> None:
    context = tuple(range(40))
    examples = [
        Example("a", (*context, 44, 9), 41),
        Example("b", (*context, 45, 9, 9), 41),
        Example("c", (*context, 46, 9), 41),
    ]
    assert count_tokens(examples) == TokenCounts(rows=3, input=127, answer=4, shared=47)


def make_setup(device: str = "cpu", **options: Any) -> Setup:
    return Setup(
        options=Options(**options),
        model_path=Path("model"),
        rows_path=Path("rows"),
        validation_path=Path("validation"),
        device=device,
        precision="bf16",
        tokens=TokenCounts(rows=4, input=4000, answer=280, shared=4000),
    )


def make_measurement(
    arm: ArmName, round_number: int, seconds: float, loss: float = 2.0, extra: int = 100
) -> Measurement:
    return Measurement(
        arm=arm,
        round=round_number,
        num_steps=2,
        wall_seconds=seconds / 2,
        cpu_seconds=seconds,
        losses=(loss, loss - 0.5, loss - 1.0),
        loaded_bytes=1_000_000_000,
        peak_bytes=1_000_000_000 + extra * 1_000_000,
        mfu=None,
    )


MEASUREMENTS = [
    make_measurement("raftline", 0, 8.0),
    make_measurement("trl-best", 0, 24.0, extra=400),
    make_measurement("raftline", 1, 10.0),
    make_measurement("trl-best", 1, 20.0, extra=300),
    make_measurement("raftline", 2, 16.0),
    make_measurement("trl-best", 2, 64.0, extra=200),
]


def test_speed_is_counted_in_cpu_time_on_a_cpu_and_in_wall_time_on_a_gpu() -> None:
    """Four rows a step, two steps measured: 8 rows in 8, 10 and 16 CPU seconds."""
    on_cpu = summarize(MEASUREMENTS, make_setup())[0]
    assert on_cpu.samples_per_second == Spread(middle=0.8, low=0.5, high=1.0)
    assert on_cpu.input_tokens_per_second == 800
    on_gpu = summarize(MEASUREMENTS, make_setup("cuda"))[0]
    assert on_gpu.samples_per_second == Spread(middle=1.6, low=1.0, high=2.0)


def test_the_table_has_every_figure_of_an_arm() -> None:
    lines = table(summarize(MEASUREMENTS, make_setup()), "cpu").splitlines()
    assert lines[0].split("  ")[0] == "arm"
    assert lines[1].split() == [
        "raftline", "0.800", "(0.500-1.000)", "800", "1,100", "100", "2.0000", "1.0000", "-",
    ]  # fmt: skip
    assert "samples/CPU-s" in lines[0]


def test_ratios_are_taken_round_by_round() -> None:
    """24/8, 20/10 and 64/16: not the ratio of the medians, which is 2.4."""
    lines = ratio_lines(MEASUREMENTS, summarize(MEASUREMENTS, make_setup()), "raftline", "cpu")
    assert lines == [
        "raftline is 3.00x as fast as trl-best (2.00 to 4.00 over 3 rounds), "
        "by the clock 3.00x (2.00 to 4.00), with 0.25 of its extra memory"
    ]


def test_arms_that_do_not_start_from_the_same_loss_are_told_apart() -> None:
    agreeing = [make_measurement("raftline", 0, 1, 2.0), make_measurement("trl-best", 0, 1, 2.01)]
    assert loss_disagreement(agreeing, "bf16") is None
    assert loss_disagreement(agreeing, "fp32") is not None
    differing = [make_measurement("raftline", 0, 1, 2.0), make_measurement("trl-best", 0, 1, 2.1)]
    message = loss_disagreement(differing, "bf16")
    assert message is not None
    assert "raftline 2.00000, trl-best 2.10000" in message
    assert "5.00%" in message


def test_the_log_says_what_was_measured_and_on_what(tmp_path: Path) -> None:
    path = write_log(tmp_path, "peers", [make_setup(rows=4)], MEASUREMENTS, ratios=["3x"])
    log = json.loads(path.read_text())
    assert log["benchmark"] == "peers"
    assert log["setups"][0]["options"]["rows"] == 4
    assert log["setups"][0]["tokens_per_step"]["input"] == 4000
    assert log["measurements"][1]["cpu_seconds"] == 24
    assert {"torch", "transformers", "trl", "python"} <= set(log["versions"])
    assert {"cpu", "num_cores", "memory_bytes"} <= set(log["hardware"])
    assert log["ratios"] == ["3x"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 5, "micro_batch": 2}, "--rows"),
        ({"rows": 2, "ranks": 2, "micro_batch": 2}, "--rows"),
        ({"steps": 1}, "warm up"),
        ({"warmup": 0}, "warm up"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options).check()


def test_every_step_of_the_products_own_arm_takes_all_rows(tmp_path: Path) -> None:
    """So that its steps learn from the same rows as its peers' do, in whatever order."""
    setup = make_setup(rows=8, micro_batch=2, steps=3)
    plan = raftline_plan(setup.job("raftline", tmp_path))
    assert plan.batch.global_batch == 8
    assert plan.batch.gradient_accumulation_steps == 4
    assert plan.schedule.max_steps == 3
    assert plan.config.batch.share_contexts
    separate = raftline_plan(setup.job("raftline-separate", tmp_path))
    assert not separate.config.batch.share_contexts


def test_ranks_are_the_products_own_and_peers_take_as_many_rows_a_step(tmp_path: Path) -> None:
    setup = make_setup(rows=8, micro_batch=2, ranks=2, steps=3)
    own, peer = (setup.job(arm, tmp_path) for arm in ("raftline", "trl-best"))
    assert (own.num_processes, peer.num_processes) == (2, 1)
    assert raftline_plan(own).batch.gradient_accumulation_steps == 2
    assert common_arguments(peer)["gradient_accumulation_steps"] == 4


def test_a_shape_without_weights_becomes_a_model_that_loads(
    settings: Settings, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("RAFTLINE_MODEL_CACHE", str(tmp_path))
    (tmp_path / smollm2_path.name).symlink_to(smollm2_path)
    folder = model_folder(settings, "random:tiny")
    assert model_folder(settings, "random:tiny") == folder
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_hidden_layers == SHAPES["tiny"]["num_hidden_layers"]
    assert AutoTokenizer.from_pretrained(folder).chat_template
    with pytest.raises(ValueError, match="no shape 'llama-9'"):
        model_folder(settings, "random:llama-9")


def make_point(size: int, seconds: float | None) -> Point:
    return Point(
        series="length",
        size=size,
        arm="raftline",
        tokens_per_row=float(size),
        seconds_per_row=seconds,
        wall_seconds_per_row=seconds,
        peak_bytes=2_000_000_000,
        extra_bytes=500_000_000,
    )


def test_charts_show_the_sizes_that_did_not_fail() -> None:
    drawn = panels([make_point(1024, 1.0), make_point(2048, 2.5), make_point(4096, None)], "s")
    assert [panel.title for panel in drawn] == ["Time of a row", "Memory above the model"]
    assert drawn[0].lines == (Line("raftline", ((1024, 1.0), (2048, 2.5))),)
    assert drawn[1].lines[0].points[0] == (1024, 0.5)


def test_a_cost_in_proportion_to_the_size_is_a_straight_line_in_a_chart() -> None:
    line = Line("a < b", ((1, 2.0), (2, 4.0), (4, 8.0)))
    root = ET.fromstring(draw([Panel("Growth", "size", "s", (line,))]))
    polyline = next(element for element in root.iter() if element.tag.endswith("polyline"))
    corners = [tuple(map(float, pair.split(","))) for pair in polyline.attrib["points"].split()]
    (x0, y0), (x1, y1), (x2, y2) = corners
    assert x2 - x1 == pytest.approx(2 * (x1 - x0), abs=0.3)
    assert y1 - y2 == pytest.approx(2 * (y0 - y1), abs=0.3)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"a < b", "Growth", "size", "s", "0", "8"} <= set(texts)


def test_charts_stand_two_in_a_row() -> None:
    panel = Panel("Growth", "size", "s", (Line("raftline", ((1, 2.0), (2, 4.0))),))
    root = ET.fromstring(draw([panel] * 3))
    places = [child.attrib["transform"] for child in root if "transform" in child.attrib]
    assert places == ["translate(0 0)", "translate(420 0)", "translate(0 300)"]
    assert root.attrib["viewBox"] == "0 0 840 600"


def test_the_csv_has_a_line_for_each_point(tmp_path: Path) -> None:
    write_csv(tmp_path / "points.csv", [make_point(1024, 1.0), make_point(2048, None)])
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0].startswith("series,size,arm,")
    assert lines[1] == "length,1024,raftline,1024.0,1.0,1.0,2000000000,500000000"
    assert lines[2].split(",")[4] == ""
