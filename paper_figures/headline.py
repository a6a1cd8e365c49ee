"""Headline numbers of the figures, judged by the bounds of headlines.toml."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widthwise import check

TABLE = Path(__file__).with_name("headlines.toml")
"""Per figure: its claim in one sentence, what it leaves open, and bounds of its numbers by name."""


class HeadlineFailed(Exception):
    """A number of a figure is outside of its bounds."""


@dataclass(frozen=True)
class Number:
    """A number as measured, and its standard error (0: exact)."""

    name: str
    value: float
    error: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "error", float(self.error))

    def __str__(self) -> str:
        value = f"{self.value:.4g}"
        return f"{value} +- {self.error:.1g}" if self.error else value


@dataclass(frozen=True)
class Bounds:
    """Where a number must be, by so many of its standard errors.

        |value - expected| <= within + errors error,      value - errors error > above,      value + errors error < below

    Example:
        >>> slope = Bounds(expected=-1, within=0.05)
        >>> slope.hold(Number("slope", -1.1, 0.02)), slope.hold(Number("slope", -1.2, 0.02))
        (True, False)
    """

    expected: float | None = None
    within: float = 0.0
    above: float | None = None
    below: float | None = None
    errors: float = 3.0

    def __post_init__(self) -> None:
        check.at_least_zero("within", self.within)
        check.at_least_zero("errors", self.errors)
        if self.expected is None and self.above is None and self.below is None:
            raise ValueError("bounds need expected (and within), above or below.")

    def hold(self, number: Number) -> bool:
        """Whether a number, finite and with a finite error, is where it must be."""
        value, error = number.value, self.errors * number.error
        if not (math.isfinite(value) and math.isfinite(error)):
            return False
        near = self.expected is None or abs(value - self.expected) <= self.within + error
        return (
            near and (self.above is None or value - error > self.above) and (self.below is None or value + error < self.below)
        )

    def told_of(self, number: Number) -> str:
        """In words; of an exact number without its errors."""
        spare = [f"{self.errors:g} errors"] * bool(number.error and self.errors)
        near = " + ".join([f"{self.within:g}"] * bool(self.within) + spare)
        parts = [] if self.expected is None else [f"expected {self.expected:g}" + (f" within {near}" if near else "")]
        sides = (("above", self.above), ("below", self.below))
        return ", ".join([*parts, *(" by ".join([f"{side} {x:g}", *spare]) for side, x in sides if x is not None)])


@dataclass(frozen=True)
class Headline:
    """A number and the bounds that the table gives it."""

    number: Number
    bounds: Bounds

    @property
    def holds(self) -> bool:
        return self.bounds.hold(self.number)

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        return self.bounds.told_of(self.number)

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: {self.number.name} is {self.number}, {self.wanted}"


def claim(figure: str) -> str:
    """What a figure claims, in one sentence."""
    return str(_entry(figure)["claim"])


def leaves_open(figure: str) -> str:
    """Where a claim of the paper does not reproduce, or is narrowed, and the evidence; empty if nothing is left open."""
    return str(_entry(figure).get("open", ""))


def judge(figure: str, numbers: Sequence[Number]) -> list[Headline]:
    """Every number with its bounds.

    Raises:
        ValueError: the table and the figure name different numbers.
    """
    bounds, names = _entry(figure)["numbers"], [number.name for number in numbers]
    if sorted(names) != sorted(bounds):
        missing, unknown = sorted({*names} - {*bounds}), sorted({*bounds} - {*names})
        raise ValueError(
            f"{TABLE.name} and {figure} must name the same numbers, each once. "
            f"Without bounds: {missing}; not measured: {unknown}."
        )
    return [Headline(number, Bounds(**bounds[number.name])) for number in numbers]


def _entry(figure: str) -> dict[str, Any]:
    table = _table()
    if figure not in table:
        raise ValueError(f"{TABLE.name} has no entry for {figure}: give it its claim and the bounds of its numbers there.")
    return dict(table[figure])


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))
