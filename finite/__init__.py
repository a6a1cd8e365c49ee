"""The experiment: ensembles of networks of finite width, trained exactly as the Problem says."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finite import linear_models
from finite.train import train

if TYPE_CHECKING:
    from finite.branching import BranchingSamples, sample_branching
    from finite.coordinates import CoordinateCheck, coordinate_check
    from finite.fit import partial_result
    from finite.graph_process import GraphSamples, sample_graph_process
    from finite.sweeps import Sweep, sweep

__all__ = [
    "BranchingSamples",
    "CoordinateCheck",
    "GraphSamples",
    "Sweep",
    "coordinate_check",
    "linear_models",
    "partial_result",
    "sample_branching",
    "sample_graph_process",
    "sweep",
    "train",
]

_LATER = {
    "BranchingSamples": "branching",
    "CoordinateCheck": "coordinates",
    "GraphSamples": "graph_process",
    "coordinate_check": "coordinates",
    "partial_result": "fit",
    "Sweep": "sweeps",
    "sample_branching": "branching",
    "sample_graph_process": "graph_process",
    "sweep": "sweeps",
}


def __getattr__(name: str) -> Any:
    """What is not always needed (equinox alone takes a fifth of a second to import): when it is asked for."""
    if name in _LATER:
        return getattr(import_module(f"finite.{_LATER[name]}"), name)
    raise AttributeError(f"module 'finite' has no attribute {name!r}")
