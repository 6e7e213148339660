"""Geometry of the report's charts; the template draws it as inline SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Any

_NICE_STEPS = (1, 2, 2.5, 5, 10)
_MOST_POINTS = 400
"""Of a curve: more than that are closer than a pixel, and make the report large."""


@dataclass(frozen=True)
class Point:
    """A data point and its place in the drawing."""

    x: float
    y: float
    step: int
    value: float


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    position: float
    label: str


@dataclass(frozen=True)
class Curve:
    """One line of a training's chart."""

    name: str
    """"training" or "validation"."""
    points: tuple[Point, ...]

    @property
    def polyline(self) -> str:
        """The `points` attribute of an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class TrainingChart:
    """A quantity over optimizer steps; lengths in SVG user units, y downwards."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: float = 760
    height: float = 270
    left: float = 44
    right: float = 14
    top: float = 12
    bottom: float = 40


def training_chart(
    log: Iterable[Mapping[str, Any]], quantity: str = "loss"
) -> TrainingChart | None:
    """Lay out a training's log.

    Of a long run, training is shown by means over steps that follow one another.

    Args:
        log: of `log.jsonl`: `step` with the quantity, or with that of a validation, `eval_…`.
        quantity: what to show.

    Returns:
        The chart, or `None` when the log does not hold the quantity.
    """
    series: dict[str, list[tuple[int, float]]] = {"training": [], "validation": []}
    for entry in log:
        for field, name in ((quantity, "training"), (f"eval_{quantity}", "validation")):
            value = entry.get(field)
            if value is not None and isfinite(value):
                series[name].append((int(entry["step"]), float(value)))
    series["training"] = thinned(series["training"])
    everything = [pair for values in series.values() for pair in values]
    if not everything:
        return None
    frame = TrainingChart((), (), ())
    last_step = max(step for step, _ in everything)
    y_values = nice_ticks(min(v for _, v in everything), max(v for _, v in everything))
    x_values = [v for v in nice_ticks(0, last_step) if v <= last_step and v == int(v)]

    def x(step: float) -> float:
        return frame.left + step / max(last_step, 1) * (frame.width - frame.left - frame.right)

    def y(value: float) -> float:
        share = (value - y_values[0]) / (y_values[-1] - y_values[0])
        return frame.height - frame.bottom - share * (frame.height - frame.top - frame.bottom)

    return TrainingChart(
        curves=tuple(
            Curve(name, tuple(Point(x(s), y(v), s, v) for s, v in sorted(values)))
            for name, values in series.items()
            if values
        ),
        x_ticks=tuple(Tick(x(value), f"{value:g}") for value in x_values),
        y_ticks=tuple(Tick(y(value), f"{value:g}") for value in y_values),
    )


def thinned(
    values: Sequence[tuple[int, float]], most: int = _MOST_POINTS
) -> list[tuple[int, float]]:
    """At most `most` points: the means of as many neighbours, each at its last one's step.

    >>> thinned([(1, 4.0), (2, 2.0), (3, 1.0)], most=2)
    [(2, 3.0), (3, 1.0)]
    """
    width = ceil(len(values) / most)
    groups = [values[i : i + width] for i in range(0, len(values), max(1, width))]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values at even distances that enclose [low, high]; at least two.

    >>> nice_ticks(0.13, 2.4)
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / (most - 1)
    magnitude = 10.0 ** floor(log10(rough))
    step = next(s * magnitude for s in _NICE_STEPS if s * magnitude >= rough - 1e-12)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


@dataclass(frozen=True)
class DifferenceScale:
    """A common horizontal axis for differences, symmetric around 0, in per cent of its width."""

    limit: float

    @classmethod
    def covering(cls, values: Sequence[float]) -> DifferenceScale:
        """The smallest round scale that shows all values."""
        return cls(nice_ticks(0, max([0.01, *map(abs, values)]), most=3)[-1])

    def place(self, value: float) -> float:
        """0 at the left end, 50 at no difference, 100 at the right end."""
        return round(50 + 50 * max(-1.0, min(1.0, value / self.limit)), 2)
