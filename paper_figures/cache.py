"""Results of the figures, kept on disk under the fingerprint of their Problem."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from widthwise import Fluctuations, Problem, Result, __version__
from widthwise.data import Stream

RESULTS = Path("results")

Kept = TypeVar("Kept", Result, Fluctuations)


def cached(problem: Problem, settings: str, compute: Callable[[], Result]) -> Result:
    """The Result that `compute` gives, or gave before for the same problem, settings and version.

    Args:
        problem: what is solved; any change of physics or data changes its fingerprint.
        settings: everything else that the result depends on, in words: method, width, seeds.
        compute: called if there is no usable file; its result is saved under `RESULTS`.

    Raises:
        OSError: `RESULTS` cannot be made or written; before anything is computed.
    """
    stream = problem.task if isinstance(problem.task, Stream) else None
    path = _path(problem, settings).with_suffix(".npz")
    return _kept(path, lambda: Result.load(path, problem.architecture.activation, stream=stream), compute)


def cached_fluctuations(problem: Problem, settings: str, compute: Callable[[], Fluctuations]) -> Fluctuations:
    """The same of the 1/N theory, in a folder."""
    path = _path(problem, settings)
    return _kept(path, lambda: Fluctuations.load(path, activation=problem.architecture.activation), compute)


def _path(problem: Problem, settings: str) -> Path:
    digest = hashlib.sha256(f"{settings} {__version__}".encode()).hexdigest()[:8]
    return RESULTS / f"{problem.fingerprint()}-{digest}"


def _kept(path: Path, load: Callable[[], Kept], compute: Callable[[], Kept]) -> Kept:
    if path.exists():
        try:
            return load()
        except ValueError as error:
            print(f"computing again: {error}")
    writable(RESULTS)
    result = compute()
    result.save(path)
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
