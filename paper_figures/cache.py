"""Results of the figures, kept on disk under the fingerprint of what they are results of."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np

from widthwise import Fluctuations, Problem, Result
from widthwise.data import Stream
from widthwise.storage import alone, load_arrays, write_arrays

RESULTS = Path("results")

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Run:
    """A result that a figure is made of: of what, how, and the seconds it took when it was computed."""

    of: str
    settings: str
    seconds: float


_RUNS: ContextVar[list[Run] | None] = ContextVar("runs", default=None)


@contextlib.contextmanager
def recorded() -> Iterator[list[Run]]:
    """The runs that are computed or loaded in the block."""
    runs: list[Run] = []
    token = _RUNS.set(runs)
    try:
        yield runs
    finally:
        _RUNS.reset(token)


def cached(problem: Problem, settings: str, compute: Callable[[], Result]) -> Result:
    """The Result that `compute` gives, or gave before for the same problem, settings and code.

    Args:
        problem: what is solved; any change of physics or data changes its fingerprint.
        settings: everything else that the result depends on, in words: method, width, seeds.
        compute: called if there is no usable file; its result is saved under `RESULTS`.

    Raises:
        OSError: `RESULTS` cannot be made or written; before anything is computed.
    """
    stream = problem.task if isinstance(problem.task, Stream) else None
    path = _path(problem.fingerprint(), settings).with_suffix(".npz")
    result = _kept(path, lambda: Result.load(path, problem.architecture.activation, stream=stream), compute, Result.save)
    return _record(result, str(problem), settings, float(result.stats.get("seconds", 0.0)))


def cached_fluctuations(problem: Problem, settings: str, compute: Callable[[], Fluctuations]) -> Fluctuations:
    """The same of the 1/N theory, in a folder."""
    path = _path(problem.fingerprint(), settings)
    result = _kept(
        path, lambda: Fluctuations.load(path, activation=problem.architecture.activation), compute, Fluctuations.save
    )
    return _record(result, str(problem), settings, float(result.variance.stats.get("seconds", 0.0)))


def cached_arrays(name: str, settings: Mapping[str, Any], compute: Callable[..., Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays by name that `compute(**settings)` gives, or gave before for the same name, settings and code.

    Args:
        name: what is computed, in words, different for every use.
        settings: numbers, texts and tuples of them, all that the arrays depend on.
        compute: a function of the settings.
    """
    text = repr(sorted(settings.items()))
    code = "".join(inspect.getsource(module) for module in _modules(compute))
    path = _path(hashlib.sha256(name.encode()).hexdigest()[:16], f"{text} {code} {sources('compare')}").with_suffix(".npz")

    def timed() -> dict[str, np.ndarray]:
        start = time.perf_counter()
        arrays = {key: np.asarray(value) for key, value in compute(**settings).items()}
        return {**arrays, "seconds": np.asarray(time.perf_counter() - start)}

    arrays = _kept(path, lambda: load_arrays(path), timed, lambda found, path: write_arrays(path, found))
    return _record(arrays, name, text, float(arrays.pop("seconds")))


def _modules(compute: Callable[..., Any]) -> list[ModuleType]:
    """The module of a function, and those of this package that it has imported something of."""
    own = sys.modules[compute.__module__]
    used = {module.__name__: module for thing in vars(own).values() if (module := inspect.getmodule(thing)) not in (None, own)}
    return [own, *(used[name] for name in sorted(used) if name.startswith("paper_figures."))]


def _record(result: Kept, of: str, settings: str, seconds: float) -> Kept:
    if (runs := _RUNS.get()) is not None:
        runs.append(Run(of, settings, seconds))
    return result


PACKAGES = ("widthwise", "dmft", "finite")
"""Whose code a Result depends on."""


@functools.cache
def sources(*packages: str) -> str:
    """Fingerprint of the code and tables of packages, and of what they compute with."""
    digest = hashlib.sha256(f"{jax.__version__} {np.__version__}".encode())
    for package in packages:
        (folder,) = importlib.util.find_spec(package).submodule_search_locations  # type: ignore[union-attr, misc]
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in {".py", ".toml", ".mplstyle"}:
                digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _path(fingerprint: str, settings: str) -> Path:
    digest = hashlib.sha256(f"{settings} {sources(*PACKAGES)}".encode()).hexdigest()[:8]
    return RESULTS / f"{fingerprint}-{digest}"


def _kept(path: Path, load: Callable[[], Kept], compute: Callable[[], Kept], save: Callable[[Kept, Path], Any]) -> Kept:
    with contextlib.suppress(ValueError, OSError):
        return load()
    writable(RESULTS)
    with alone(path, patience=-1):  # who asks for it meanwhile waits, and then loads it
        if path.exists():
            try:
                return load()
            except ValueError as error:
                print(f"computing again: {error}")
        result = compute()
        save(result, path)
    return result


def writable(folder: Path) -> None:
    """Make the folder if there is none; to be asked before hours of computing, not after.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise type(error)(error.errno, f"cannot write into {folder}: {error.strerror}. Choose another folder.") from error
