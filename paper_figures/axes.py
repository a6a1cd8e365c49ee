"""Axes that figures share."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes


def width_axis(axes: Axes, widths: Iterable[int]) -> None:
    """Widths on a logarithmic axis, each with its number."""
    axes.set(xscale="log", xlabel="width N")
    axes.set_xticks([*widths], [str(N) for N in widths], minor=False)
    axes.set_xticks([], minor=True)
