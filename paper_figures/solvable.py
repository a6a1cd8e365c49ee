"""What the figures of solvable models share: theory as lines, simulations as points in the colour of their line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paper_figures.figure import THEORY
from paper_figures.headline import Number

Arrays = dict[str, np.ndarray]


def stacked(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> Arrays:
    """Means and errors of several settings, as arrays."""
    return {"mean": np.array([x[0] for x in found]), "error": np.array([x[1] for x in found])}


def ratio(name: str, found: Sequence[Any]) -> Number:
    """Of mean, error, theory: simulation over theory, averaged over independent settings."""
    mean, error, theory = found
    relative = np.ravel(np.asarray(error) / theory)
    return Number(name, np.mean(np.asarray(mean) / theory), np.sqrt((relative**2).sum()) / relative.size)


def column(x: Arrays, i: int, rows: slice = slice(None)) -> list[np.ndarray]:
    """mean, error, theory of one column."""
    return [x[name][rows, i] for name in ("mean", "error", "theory")]


def slope(x: Any, y: Any) -> float:
    """Of log y in log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def points(ax: Any, x: Any, found: Sequence[Any], color: Any, **style: Any) -> None:
    """`found` is mean, error, theory: theory as a line, the simulation as points with two standard errors, in one colour."""
    mean, error, theory = found
    ax.plot(x, theory, color=color, **style)
    ax.errorbar(x, mean, 2 * np.asarray(error), color=color, ls="", marker="o", ms=3, capsize=2)


def explain(ax: Any, theory: str = "solvable model", simulation: str = "simulation") -> None:
    """Says in the legend what lines and points are."""
    ax.plot([], [], color=THEORY, label=f"lines: {theory}")
    ax.errorbar([np.nan], [np.nan], [0], color=THEORY, ls="", marker="o", ms=3, label=f"points: {simulation}")


def frame(axes: Any, titles: Sequence[str], labels: Sequence[str]) -> None:
    """Logarithmic axes, titles, labels of x, legends."""
    for ax, title, label in zip(axes.flat, titles, labels, strict=True):
        ax.set(xscale="log", yscale="log", title=title, xlabel=label)
        ax.legend(fontsize=7)
