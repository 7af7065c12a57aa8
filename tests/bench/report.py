"""What was measured, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """One line: several runs of the same, or one. A target is an upper limit of the median."""

    name: str
    values: Sequence[float]
    unit: str
    target: float | None = None

    @property
    def met(self) -> bool:
        return self.target is None or median(self.values) <= self.target


def seconds(name: str, values: Iterable[float], target: float | None = None) -> Figure:
    return Figure(name, list(values), "s", target)


def milliseconds(name: str, values: Iterable[float], target: float | None = None) -> Figure:
    """From values in seconds, as all times are taken; the target is in milliseconds, as shown."""
    return Figure(name, [1000 * value for value in values], "ms", target)


HEADER = f"{'':40}{'min':>9}{'median':>9}{'max':>9}"


def line(figure: Figure) -> str:
    values = figure.values
    shown = "".join(f"{_short(value):>9}" for value in (min(values), median(values), max(values)))
    runs = f"{len(values)}×" if len(values) > 1 else ""
    text = f"  {figure.name:38}{shown} {figure.unit:6}{runs:>4}"
    if figure.target is None:
        return text.rstrip()
    return f"{text}   at most {_short(figure.target)} {figure.unit}: {'met' if figure.met else 'MISSED'}"


def _short(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
