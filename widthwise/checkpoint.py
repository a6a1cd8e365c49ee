"""Checkpoints: what it takes to go on from where a run stopped, to the last bit."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from widthwise.storage import forget_parts, read_arrays, target, write_arrays

SECONDS = 60.0
"""Between two checkpoints."""


def write(path: Path, header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """One file, atomically: a header that says whose it is, and pytrees of arrays by name."""
    flat = {f"{name}/{i}": np.asarray(x) for name, tree in arrays.items() for i, x in enumerate(jax.tree.leaves(tree))}
    write_arrays(path, {"header": np.array(json.dumps(header)), **flat})


def keep(path: Path, header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """`write`, or a warning where it cannot be: a full disk does not stop a run, and the last checkpoint stays as it was.

    Of several processes the first one writes.
    """
    if jax.process_index():
        return
    try:
        write(path, header, arrays)
    except OSError as error:
        warnings.warn(f"checkpoint {path} could not be written ({error}); the run goes on.", RuntimeWarning, stacklevel=2)


def remove(path: Path) -> None:
    """Of a run that has ended. Where `path` is a symbolic link it stays, and the file that it leads to goes."""
    if jax.process_index() == 0:
        target(path).unlink(missing_ok=True)
        forget_parts(path)


def load(path: Path) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """What `write` wrote: the header, and the leaves of the pytrees by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    try:
        data = read_arrays(path)
        header = dict(json.loads(str(data.pop("header"))))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"checkpoint {path} is damaged ({error}): delete it to start anew.") from error
    trees: dict[str, list[np.ndarray]] = {}
    for name, x in data.items():  # in the order of writing
        trees.setdefault(name.rpartition("/")[0], []).append(x)
    return header, trees


def read(path: Path, header: dict[str, Any]) -> dict[str, list[np.ndarray]] | None:
    """The leaves of the pytrees by name; None if there is no such file.

    Raises:
        ValueError: the file is damaged, or of another run.
    """
    if not os.path.exists(path):
        return None
    theirs, trees = load(path)
    if differing := [name for name in header if theirs.get(name) != header[name]]:
        raise ValueError(
            f"checkpoint {path} is of another run: it differs in {', '.join(differing)}. Delete it, or choose another file."
        )
    return trees


def like(template: Any, leaves: list[np.ndarray]) -> Any:
    """The pytree of the template's structure with these leaves."""
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
