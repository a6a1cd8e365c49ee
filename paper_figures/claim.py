"""What a figure claims, as numbers with tolerances."""

from __future__ import annotations

from dataclasses import dataclass


class ClaimFailed(Exception):
    """A figure does not show what it claims."""


@dataclass(frozen=True)
class Claim:
    """A sentence with its numbers, and whether they bear it out.

    Example:
        >>> print(Claim.near("slope", -0.97, -1.0, within=3 * 0.02 + 0.05))
        holds: slope is -0.970, expected -1 within 0.11
    """

    text: str
    holds: bool

    @staticmethod
    def near(name: str, value: float, expected: float, *, within: float) -> Claim:
        """That a number is what it should be, within a tolerance."""
        text = f"{name} is {value:.3f}, expected {expected:g} within {within:.2g}"
        return Claim(text, bool(abs(value - expected) <= within))

    @staticmethod
    def above(name: str, value: float, error: float, least: float = 0.0, *, errors: float = 3.0) -> Claim:
        """That a number exceeds another, by so many of its standard errors."""
        text = f"{name} is {value:.3g} +- {error:.1g}, above {least:g} by {errors:g} errors"
        return Claim(text, bool(value - errors * error > least))

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: {self.text}"
