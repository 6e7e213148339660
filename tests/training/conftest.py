"""Plans over the tiny model and random examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.models import ResolvedModel
from pipeline_lib.progress import NullProgress
from pipeline_lib.raft.rows import Passage, Provenance, Quote, RaftRow, ReasoningStep, Split
from pipeline_lib.stage import Workspace
from pipeline_lib.training.defaults import learning_rate_of, num_epochs_of
from pipeline_lib.training.examples import Example, write_examples
from pipeline_lib.training.objectives.base import PrepareJob
from pipeline_lib.training.plan import TrainingPlan

from .scripted_plans import ScriptedPlan, scripted_plans

PlanFactory = Callable[..., TrainingPlan]


def random_examples(count: int, seed: int = 0) -> list[Example]:
    """Rows of 20 to 60 tokens; answer lengths differ from 2 to 40 tokens."""
    rng = random.Random(seed)
    examples = []
    for number in range(count):
        length = rng.randrange(20, 60)
        ids = tuple(rng.randrange(3, 259) for _ in range(length))
        examples.append(Example(str(number), ids, rng.randrange(length // 3, length - 1)))
    return examples


def make_row(number: int, split: Split = "train", padding: str = "") -> RaftRow:
    """A row whose oracle says what city number `number` is known for."""
    fact = f"City {number} is known for its {number} bridges."
    oracle = Passage(
        chunk_id=f"oracle-{number}",
        document_id=f"document-{number}",
        title=f"City {number}",
        text=f"{padding}{fact} It rains there.",
        role="oracle",
        origin="oracle",
    )
    distractor = Passage(
        chunk_id=f"distractor-{number}",
        document_id=f"document-{number + 1}",
        title="Rivers",
        text="Rivers flow to the sea.",
        role="distractor",
        origin="random",
    )
    quote = Quote(
        chunk_id=oracle.chunk_id, start=len(padding), end=len(padding) + len(fact), text=fact
    )
    return RaftRow(
        row_id=f"row-{number}",
        row_key=f"row-{number}",
        split=split,
        task="answer",
        kind="factual",
        style="plain",
        question=f"What is city {number} known for?",
        context=(distractor, oracle),
        oracle_chunk_ids=(oracle.chunk_id,),
        oracle_document_ids=(oracle.document_id,),
        source_document_id=oracle.document_id,
        oracle_present=True,
        target="answer",
        reasoning=(ReasoningStep(text="The second document says:", quote=quote),),
        final_answer=f"its {number} bridges",
        provenance=Provenance(
            question_source="user",
            answer_source="user",
            teacher_model="none",
            prompt_version="1",
            seed=0,
        ),
    )


def enable_checkpointing(model: Any) -> None:
    """Gradient checkpointing, which transformers 5.20 renamed."""
    before = getattr(model, "gradient_checkpointing_enable", None)
    getattr(model, "activation_checkpointing_enable", before)({"use_reentrant": False})


def prepare_job(
    folder: Path, model: Path, config: FinetuneConfig, num_ranks: int = 1
) -> PrepareJob:
    """Of a dataset whose folder is the run's too."""
    return PrepareJob(
        config=config,
        dataset=folder,
        base=ResolvedModel(name="tiny", path=model, identity="tiny"),
        run_folder=folder,
        num_ranks=num_ranks,
        progress=NullProgress(),
    )


@pytest.fixture
def tokenizer(tiny_model_path: Path) -> Any:
    """Of the tiny model: tokens are bytes."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_path)


@pytest.fixture
def partial(workspace: Workspace) -> PartialWork:
    """Of a model that is being trained."""
    return workspace.artifacts.partial(ArtifactRef(kind="model", name="demo", fingerprint="a" * 32))


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedPlan:
    """A plan whose ranks do as told: `scripted(["beat:1", "hang"], hang_seconds=1)`."""
    return scripted_plans(tmp_path, monkeypatch)


@pytest.fixture
def make_plan(tiny_model_path: Path, tmp_path: Path) -> PlanFactory:
    """Build a plan: `make_plan("name", examples, engine={"zero_stage": 2}, …)`."""

    def build(
        name: str,
        examples: list[Example],
        precision: str = "fp32",
        resume_from: Path | None = None,
        base_model_path: Path | None = None,
        layout: Literal["packed", "padded"] = "packed",
        **config: Any,
    ) -> TrainingPlan:
        folder = tmp_path / name
        folder.mkdir()
        write_examples(folder / "train.arrow", examples)
        write_examples(folder / "validation.arrow", random_examples(3, seed=1))
        sections = {"batch": {"micro_batch_size": 2, "global_batch_size": 8}} | config
        made = FinetuneConfig.model_validate(sections)
        return TrainingPlan(
            config=made,
            batch=made.batch_arithmetic,
            base_model_path=base_model_path or tiny_model_path,
            files={split: folder / f"{split}.arrow" for split in ("train", "validation")},
            run_folder=folder,
            layout=layout,
            gradient_checkpointing=made.engine.gradient_checkpointing == "on",
            device="cpu",
            precision=precision,  # type: ignore[arg-type]
            learning_rate=learning_rate_of(made, base_model_path or tiny_model_path),
            num_epochs=num_epochs_of(made, len(examples)),
            resume_from=resume_from,
        )

    return build


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch computes in, for one test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
