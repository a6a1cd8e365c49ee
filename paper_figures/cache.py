"""Results of the figures, kept on disk under the fingerprint of their Problem."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from widthwise import Problem, Result, __version__

RESULTS = Path("results")


def cached(problem: Problem, settings: str, compute: Callable[[], Result]) -> Result:
    """The Result that `compute` gives, or gave before for the same problem, settings and version.

    Args:
        problem: what is solved; any change of physics or data changes its fingerprint.
        settings: everything else that the result depends on, in words: method, width, seeds.
        compute: called if there is no usable file; its result is saved under `RESULTS`.

    Raises:
        OSError: `RESULTS` cannot be made or written; before anything is computed.
    """
    digest = hashlib.sha256(f"{settings} {__version__}".encode()).hexdigest()[:8]
    path = RESULTS / f"{problem.fingerprint()}-{digest}.npz"
    if path.exists():
        try:
            return Result.load(path, problem.architecture.activation)
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
