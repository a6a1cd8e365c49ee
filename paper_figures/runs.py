"""The runs that figures are made of, each computed once and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dmft
import finite
from paper_figures.cache import cached, cached_fluctuations
from widthwise import Fluctuations, Problem, Result


def limit(problem: Problem, method: Any = None, **settings: Any) -> Result:
    """`dmft.solve(problem, method, **settings)`, or what it gave before."""
    return cached(problem, f"dmft {method} {_words(settings)}", lambda: dmft.solve(problem, method, **settings))


def fluctuations(problem: Problem, **settings: Any) -> Fluctuations:
    """`dmft.fluctuations(problem, **settings)`, or what it gave before."""
    words = f"dmft.fluctuations {_words(settings)}"
    return cached_fluctuations(problem, words, lambda: dmft.fluctuations(problem, **settings))


def networks(problem: Problem, num_seeds: Mapping[int, int], **settings: Any) -> dict[int, Result]:
    """Ensembles of these widths, each with its number of seeds: `finite.train(problem, **settings)`, or what it gave before."""

    def one(N: int, n: int) -> Result:
        words = f"finite {N} {n} {_words(settings)}"
        return cached(problem, words, lambda: finite.train(problem, width=N, num_seeds=n, **settings))

    return {N: one(N, n) for N, n in num_seeds.items()}


def _words(settings: Mapping[str, Any]) -> str:
    """Settings as text; of iterables their entries."""
    return repr({name: [*x] if isinstance(x, Iterable) and not isinstance(x, str) else x for name, x in settings.items()})
