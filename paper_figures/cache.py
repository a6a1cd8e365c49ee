"""Results of the figures, kept on disk under the fingerprint of their Problem."""

from __future__ import annotations

import hashlib
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
    """
    digest = hashlib.sha256(f"{settings} {__version__}".encode()).hexdigest()[:8]
    path = RESULTS / f"{problem.fingerprint()}-{digest}.npz"
    if path.exists():
        try:
            return Result.load(path, problem.architecture.activation)
        except ValueError as error:
            print(f"computing again: {error}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = compute()
    result.save(path)
    return result
