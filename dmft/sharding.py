"""Paths and replicas over devices."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh

from widthwise.sharding import devices_as, put


def mesh_for(num_replicas: int, num_paths: int) -> Mesh | None:
    """All devices as (replicas, paths): as many groups of replicas as divide, the rest share the paths; None for one device.

    Raises:
        ValueError: the paths cannot be shared equally.
    """
    count = len(jax.devices())
    groups = math.gcd(num_replicas, count)
    if num_paths % (sharing := count // groups):
        raise ValueError(
            f"{num_replicas} replicas on {count} devices leave {sharing} devices to share {num_paths} paths: make "
            f"num_paths a multiple of {4 * sharing}, or num_replicas one of {count}."
        )
    return devices_as(("replicas", "paths"), groups)


def place(mesh: Mesh | None, tree: Any, num_paths: int) -> Any:
    """Arrays (R, ...) or (R, S, ...) on their devices; every process holds all of what it passes in."""
    if mesh is None:
        return jax.device_put(tree)

    def placed(x: Any) -> Any:
        return put(mesh, x, *(("replicas", "paths") if x.ndim > 1 and x.shape[1] == num_paths else ("replicas",)))

    return jax.tree.map(placed, tree)
