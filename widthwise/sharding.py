"""Arrays over devices, of one process or of many (`jax.distributed`)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def devices_as(names: tuple[str, str], groups: int) -> Mesh | None:
    """All devices as (groups, the rest); None for one device."""
    devices = jax.devices()
    return Mesh(np.array(devices).reshape(groups, -1), names) if len(devices) > 1 else None


def put(mesh: Mesh | None, x: Any, *names: str | None) -> Any:
    """An array with its axes over the devices of these names, or whole; every process holds all of what it passes in."""
    if mesh is None:
        return jax.device_put(x)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, PartitionSpec(*names)), lambda index: x[index])


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
