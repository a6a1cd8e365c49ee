"""What the error bars of the march promise: errors within two of them as often as Student's t says, truncation and all."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t as student

import dmft
from dmft import factor, site
from dmft.march import March
from dmft.run import Run
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, tasks


def problem(
    depth: int = 2, activation: str = "tanh", gamma0: float = 0.3, eta0: float = 1.0, num_steps: int = 60, **training: Any
) -> Problem:
    task = tasks.sphere(3, 1, input_dim=8)
    return Problem(MLP(depth, activation), Parameterization(gamma0), task, GradientDescent(eta0, num_steps, **training))


def solve(p: Problem, method: March, seed: int = 0) -> Result:
    T = p.training.num_steps
    return dmft.solve(p, method, seed=seed, save_kernels=(0, T // 3, T), progress=False)


class Coverage(NamedTuple):
    """Fraction of errors within two error bars, its standard error over seeds, and the error bars over the errors."""

    mean: float
    error: float
    width: float


def coverage(p: Problem, method: March, reference: Result, num_seeds: int = 30) -> dict[str, Coverage]:
    """Of f after the first step, Phi and G; entries of one seed are correlated, seeds are not."""
    tries = [solve(p, method, seed) for seed in range(num_seeds)]
    out = {}
    for name in ("f", "Phi", "G"):
        first = int(name == "f")  # f(0) is zero without an error
        exact, exact_sem = (getattr(x, name)[first:] for x in (reference.mean, reference.sem))
        mean, sem = (np.stack([getattr(getattr(x, part), name)[first:] for x in tries]) for part in ("mean", "sem"))
        known = sem > 1e-9 * np.abs(mean).max()  # entries that are exact have rounding for error bars
        bar, error = np.hypot(sem, exact_sem), np.abs(mean - exact)
        each = np.array([(e <= 2 * b)[k].mean() for e, b, k in zip(error, bar, known, strict=True)])
        width = np.sqrt(np.mean(bar[known] ** 2) / np.mean(error[known] ** 2))
        out[name] = Coverage(each.mean(), each.std(ddof=1) / np.sqrt(num_seeds), float(width))
    return out


def shortfall(found: Coverage, num_replicas: int = 8) -> float:
    """In standard errors: how far the coverage lies below that of Student's t with R - 1 degrees of freedom."""
    promised = 1 - 2 * student.sf(2, num_replicas - 1)  # 0.914
    return (promised - found.mean) / max(found.error, 0.01)


PROBLEMS = {
    "tanh": (problem(), 256),
    "relu": (problem(activation="relu", gamma0=0.5, num_steps=20), 512),
    "gelu, three layers": (problem(3, "gelu", gamma0=1.0, num_steps=15), 512),
    "momentum": (problem(gamma0=1.0, eta0=0.5, num_steps=20, momentum=0.5), 256),
    "mini-batches": (problem(activation="erf", gamma0=0.1, num_steps=30, batch_size=2), 256),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.xfail(
                reason="f within two bars in 84 +- 2 %, Phi in 87 +- 1 %: bias 1/S or heavy tails, not told apart"
            ),
        )
        if name.startswith("gelu")
        else name
        for name in PROBLEMS
    ],
)
def test_errors_lie_within_two_error_bars(name: str) -> None:
    """30 seeds against a reference of 128 times as many paths in all; the negative twin is the tolerance of 1e-3."""
    p, num_paths = PROBLEMS[name]
    reference = solve(p, March(8 * num_paths, 16, tol=1e-6, dtype="float32"), seed=991)
    found = coverage(p, March(num_paths), reference)
    print(name, found)
    for kernel, covered in found.items():
        assert shortfall(covered) < 3, kernel
        assert covered.width < 1.6, kernel  # nor are bars large for safety
    if name == "tanh":
        twin = coverage(p, March(num_paths, tol=1e-3), reference)
        print(name, "1e-3", twin)
        assert shortfall(twin["f"]) > 3


def test_tolerance_rises_where_paths_are_short_of_directions() -> None:
    """From its own value up to a quarter of the directions to 1e-3 from three quarters on; one that is given stays."""
    p = problem(activation="relu", num_steps=20)
    S, R, K = 144, 4, 27
    empty = jax.tree.map(lambda x: x[0], factor.Basis.zeros(1, S, K, "float64"))

    def along_filling(method: March) -> list[float]:
        physics = Run(method, p, 0, np.array([0]), ()).physics
        return [float(site.tolerance(physics, empty._replace(size=np.array(n)))) for n in (0, K / 4, K / 2, 3 * K / 4, K)]

    fine = 0.05 / (S * np.sqrt(R))
    assert along_filling(March(S, R)) == pytest.approx([fine, fine, np.sqrt(fine * 1e-3), 1e-3, 1e-3])
    assert along_filling(March(S, R, tol=fine)) == pytest.approx([fine] * 5)
    assert solve(p, March(S, R)).status.ok
    with pytest.raises(ValueError, match=r"Raise num_paths to \d+ or more, or raise tol"):
        solve(p, March(S, R, tol=1e-7))


def test_nan_checks_of_jax_find_nothing() -> None:
    """`jax_debug_nans` stops at any NaN that a compiled program gives back."""
    with jax.debug_nans(True):
        theory = solve(problem(num_steps=3), March(64, 2))
        assert theory.status.ok
        with pytest.raises(FloatingPointError):  # it is switched on
            jnp.zeros(()) / jnp.zeros(())
