"""Paths and replicas over devices, of one process or of many (`jax.distributed`)."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def mesh_for(num_replicas: int, num_paths: int) -> Mesh | None:
    """All devices as (replicas, paths): as many groups of replicas as divide, the rest share the paths; None for one device.

    Raises:
        ValueError: the paths cannot be shared equally.
    """
    devices = jax.devices()
    if len(devices) == 1:
        return None
    groups = math.gcd(num_replicas, len(devices))
    if num_paths % (sharing := len(devices) // groups):
        raise ValueError(
            f"{num_replicas} replicas on {len(devices)} devices leave {sharing} devices to share {num_paths} paths: make "
            f"num_paths a multiple of {4 * sharing}, or num_replicas one of {len(devices)}."
        )
    return Mesh(np.array(devices).reshape(groups, -1), ("replicas", "paths"))


def place(mesh: Mesh | None, tree: Any, num_paths: int) -> Any:
    """Arrays (R, ...) or (R, S, ...) on their devices; every process holds all of what it passes in."""

    if mesh is None:
        return jax.device_put(tree)

    def put(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x
        names = ("replicas", "paths") if x.ndim > 1 and x.shape[1] == num_paths else ("replicas",)
        sharding = NamedSharding(mesh, PartitionSpec(*names))
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def host(x: Any) -> np.ndarray:
    """A numpy array of the whole of x, on every process."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def agreed(decision: bool) -> bool:
    """What process 0 decides, on every process."""
    if jax.process_count() == 1:
        return decision
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(decision)))
