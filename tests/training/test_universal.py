"""Checkpoints that do not depend on who wrote them: pieces, optimizers, random generators."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_lib.errors import TrainingError
from pipeline_lib.training.engine_state import (
    WEIGHT,
    EngineState,
    HostState,
    Piece,
    copy_to_host,
    engine_state,
    restore,
)
from pipeline_lib.training.randomness import (
    random_state,
    restore_random_state,
    set_random_state,
)
from pipeline_lib.training.universal import SavedPieces, random_file, write_json, write_pieces


def part(name: str, shape: tuple[int, ...], start: int, values: list[float]) -> HostState:
    return HostState({(WEIGHT, name): torch.tensor(values)}, {name: shape}, {name: start}, {})


@pytest.fixture
def saved(tmp_path: Path) -> SavedPieces:
    """A 2 x 3 parameter 0 … 5, of which one rank held four values and another two."""
    write_pieces(tmp_path, 0, part("w", (2, 3), 0, [0.0, 1.0, 2.0, 3.0]))
    write_pieces(tmp_path, 1, part("w", (2, 3), 4, [4.0, 5.0]))
    return SavedPieces(tmp_path)


@pytest.mark.parametrize(("start", "numel"), [(0, 6), (0, 3), (3, 3), (3, 2), (5, 1), (1, 2)])
def test_any_run_of_values_is_read_whoever_held_them(
    saved: SavedPieces, start: int, numel: int
) -> None:
    expected = [float(number) for number in range(start, start + numel)]
    assert saved.read(WEIGHT, "w", start, numel).tolist() == expected


def test_values_that_no_file_has_are_an_error(saved: SavedPieces, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lacks weight of w from value 6 on"):
        saved.read(WEIGHT, "w", 4, 3)
    with pytest.raises(TrainingError, match="lacks exp_avg of w from value 0 on"):
        saved.read("exp_avg", "w", 0, 1)
    (tmp_path / "pieces-00000.safetensors").unlink()
    with pytest.raises(TrainingError, match="lacks weight of w from value 0 on"):
        SavedPieces(tmp_path).read(WEIGHT, "w", 0, 6)


def test_a_parameter_of_another_shape_or_name_is_refused(saved: SavedPieces) -> None:
    saved.check({"w": (2, 3)})
    with pytest.raises(TrainingError, match=r"w has shape \[3, 2\], but .* has it as \[2, 3\]"):
        saved.check({"w": (3, 2)})
    with pytest.raises(TrainingError, match="does not have it"):
        saved.check({"v": (2, 3)})


def test_a_piece_may_lie_anywhere_in_what_the_optimizer_works_on(saved: SavedPieces) -> None:
    """Eight values: two of padding, values 3 to 5 of `w`, three of something else."""
    partition = torch.full((8,), -1.0)
    piece = Piece(name="w", shape=(2, 3), start=3, numel=3, holder=partition, offset=2)
    published = []
    engine = EngineState(
        pieces=(piece,),
        optimizer=torch.optim.AdamW([partition]),
        is_replica=False,
        publish=lambda: published.append(partition.tolist()),
    )
    restore(engine, saved)
    assert published == [[-1, -1, 3, 4, 5, -1, -1, -1]]
    assert copy_to_host(engine).tensors[WEIGHT, "w"].tolist() == [3, 4, 5]


def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))


def descend(model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(inputs).square().sum().backward()
    optimizer.step()


def test_a_restored_optimizer_makes_the_very_steps_that_the_saved_one_makes(
    tmp_path: Path,
) -> None:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    descend(model, optimizer, inputs)
    copied = copy_to_host(engine_state(model, model, optimizer))
    assert set(copied.steps.values()) == {1.0}
    descend(model, optimizer, inputs)  # does not reach the copy
    write_pieces(tmp_path, 0, copied)

    again = small_model()
    fresh = torch.optim.AdamW(again.parameters(), lr=0.1)
    restore(engine_state(again, again, fresh), SavedPieces(tmp_path))
    descend(again, fresh, inputs)
    for new, old in zip(again.parameters(), model.parameters(), strict=True):
        assert new.equal(old)


def test_parameters_that_are_not_trained_are_not_saved() -> None:
    model = small_model()
    model[0].requires_grad_(False)  # type: ignore[index]
    engine = engine_state(model, model, torch.optim.AdamW(model[1].parameters()))  # type: ignore[index]
    assert [piece.name for piece in engine.pieces] == ["1.weight", "1.bias"]
    assert copy_to_host(engine).steps == {}  # never updated


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / random_file(0)
    write_json(path, random_state())
    drawn = draws()
    before = random_state()
    assert draws() != drawn
    restore_random_state(path, seed=1, step=2, rank=0)
    assert draws() == drawn
    set_random_state(before)


def test_a_rank_that_was_not_there_draws_numbers_of_its_own(tmp_path: Path) -> None:
    def drawn(step: int, rank: int) -> list[float]:
        restore_random_state(tmp_path / "none.json", seed=1, step=step, rank=rank)
        return draws()

    assert drawn(2, 0) == drawn(2, 0)
    assert drawn(2, 0) != drawn(2, 1)
    assert drawn(2, 0) != drawn(3, 0)
