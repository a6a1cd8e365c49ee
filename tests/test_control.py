"""The control variate of the march: it lowers the error, never raises it, and knows every part of the kernel."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import dmft
from dmft import control
from dmft.lazy import TangentKernel
from dmft.march import March
from tests.test_march import solve, twins
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, tasks

THRESHOLD = 5.8317
"""eta0 at which lazy training of `near` diverges: 2 over the sharpness of `Lazy`."""


def near(rate: float, gamma0: float, num_steps: int = 100) -> Problem:
    """Training at `rate` times the lazy threshold."""
    task = tasks.sphere(3, 1, input_dim=6)
    return Problem(MLP(2, "tanh"), Parameterization(gamma0), task, GradientDescent(rate * THRESHOLD, num_steps))


FEW = March(256, 8, tol=1e-2)
"""Truncated enough for programs to be few."""


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


# --- what it gains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "gamma0", "gain"), [("tanh", 0.02, 20.0), ("tanh", 0.2, 3.5), ("tanh", 1.0, 1.2), ("relu", 0.02, 2.0)]
)
def test_control_variate(activation: str, gamma0: float, gain: float) -> None:
    """It lowers error and error bar, which stays honest, and the answer stays the same. (Kinks move: relu gains less.)"""
    p = twins(gamma0).replace(architecture=MLP(2, activation))
    many = solve(p, March(4096, 16, FEW.tol), seed=99, save_kernels=[])  # truncated alike
    with_it, without = (
        [solve(p, dataclasses.replace(FEW, control_variate=on), seed=s, save_kernels=[]) for s in range(num)]
        for on, num in ((True, 40), (False, 8))
    )

    def error(runs: list[Result]) -> float:
        return rms([r.mean.f - many.mean.f for r in runs])

    bar = rms([r.sem.f for r in with_it])
    assert error(without) > gain * error(with_it)
    assert rms([r.sem.f for r in without]) > gain * bar
    assert 0.8 < error(with_it) / bar < 1.25  # forty seeds of two or three independent numbers know it to 7 %
    noise = np.hypot(bar / np.sqrt(40), rms([many.sem.f]))
    assert rms([np.mean([r.mean.f - many.mean.f for r in with_it], axis=0)]) < 4 * noise  # with a bias of order 1/S


def test_kernels_of_other_replicas_control_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p, method = twins(0.1), March(128, 8)
    own = solve(p, method, save_kernels=[])
    kernels = control.tangent_kernels
    monkeypatch.setattr(control, "tangent_kernels", lambda *args: np.roll(kernels(*args), 1, axis=0))
    others = solve(p, method, save_kernels=[])
    assert np.mean(others.sem.f**2) > 10 * np.mean(own.sem.f**2)


def test_where_there_is_no_control_variate() -> None:
    for p, replicas in ((twins(2.0), 4), (twins(0.1), 3), (twins(0.1).replace(weight_decay=0.1), 4)):
        p = p.replace(architecture=MLP(1, "tanh"), num_steps=3)
        on, off = (solve(p, March(64, replicas, control_variate=c), save_kernels=[]).mean.f for c in (True, False))
        assert np.array_equal(on, off)


@pytest.mark.parametrize(("depth", "method"), [(2, March(1024, 16, tol=1e-6)), (1, dmft.TwoLayer(1024, 16, quadrature=False))])
def test_sampled_kernels_scatter_about_the_exact_one(depth: int, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With biases and a rate per layer; the exact kernel of another bias, or of other rates, lies elsewhere."""
    rates = [1.0, 0.5, 2.0][: depth + 1]
    p = twins(0.1).replace(architecture=MLP(depth, "tanh", bias=0.7), layer_rates=rates, num_steps=1)
    sampled = []
    monkeypatch.setattr(control, "corrected", lambda problem, f, K: sampled.append(K) or f)
    dmft.solve(p, method, save_kernels=[], progress=False)
    (K,) = sampled

    def z(p: Problem) -> float:
        """Of the sum of all entries."""
        points = slice(p.num_watched)
        exact = TangentKernel(p).between(points, points)[2].sum()
        total = K.sum((1, 2))
        return float((total.mean() - exact) / (total.std(ddof=1) / np.sqrt(len(total))))

    assert abs(z(p)) < 4.5
    for wrong in ({"architecture": MLP(depth, "tanh", bias=0.6)}, {"layer_rates": rates[::-1]}, {"layer_rates": None}):
        assert abs(z(p.replace(**wrong))) > 9


# --- what it must not lose ---------------------------------------------------------------------------------------------------


def trust_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control variate without its guard."""
    monkeypatch.setattr(control, "weight", lambda f, change: np.ones(f.shape[1]))


def test_threshold() -> None:
    lazy = dmft.solve(near(1.0, 0.1), dmft.Lazy(), save=["sharpness"], progress=False)
    assert 2 / lazy.mean["sharpness"][0] == pytest.approx(THRESHOLD, rel=1e-4)


def test_training_ends_below_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.99 of it networks reach zero loss; a lazy limit whose kernel is larger by chance diverges, and took f along."""
    p = near(0.99, 0.1, 300)
    theory = solve(p, March(256, 4), save_kernels=[])
    assert theory.status.ok
    assert theory.mean.loss[-1] < 1e-12
    trust_everything(monkeypatch)
    assert solve(p, March(256, 4), save_kernels=[]).mean.loss[-1] > 1e3


def test_particles_train_above_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of one hidden layer, at 1.02 of it, where gamma0 = 0.1 is enough to train."""
    p = near(0.1, 0.1, 300).replace(architecture=MLP(1, "tanh"))
    lazy = dmft.solve(p, dmft.Lazy(), save=["sharpness"], progress=False)
    p = p.replace(eta0=1.02 * 2 / lazy.mean["sharpness"][0])
    method = dmft.TwoLayer(64, 4, quadrature=False)
    theory = dmft.solve(p, method, save_kernels=[], progress=False)
    assert theory.mean.loss[-1] < 1e-12
    trust_everything(monkeypatch)
    assert dmft.solve(p, method, save_kernels=[], progress=False, throw=False).mean.loss[-1] > 1e3


def errors(p: Problem, many: Result, on: bool, seeds: int) -> tuple[float, float, float]:
    """Error of f against many paths, error bar, and the largest distance in error bars; root mean squares over seeds."""
    runs = [solve(p, March(256, control_variate=on), seed=s, save_kernels=[], throw=False) for s in range(seeds)]
    assert all(r.status.ok for r in runs), runs[0].status
    error, bar = ([x(r) for r in runs] for x in (lambda r: rms(r.mean.f - many.mean.f), lambda r: rms(r.sem.f)))
    z = [e / np.hypot(b, rms(many.sem.f)) for e, b in zip(error, bar, strict=True)]
    return rms(error), rms(bar), max(z)


EASY = [(0.99, 0.1), (1.2, 0.01), (1.6, 0.1)]
GRID = [(rate, gamma0) for rate in (0.5, 0.75, 0.9, 0.99, 1.01, 1.2, 1.6, 2.0) for gamma0 in (1e-3, 1e-2, 0.1, 0.3)]


@pytest.mark.parametrize(
    ("rate", "gamma0"), [*EASY, *(pytest.param(*x, marks=pytest.mark.slow) for x in [*GRID, (0.5, 1.0)] if x not in EASY)]
)
def test_never_worse_than_without(rate: float, gamma0: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above and below the threshold: no larger error, no larger error bar, trained where it trains without, and agreement."""
    p = near(rate, gamma0)
    many = solve(p, March(2048, 16, control_variate=False), seed=99, save_kernels=[], throw=False)
    if not many.status.ok:
        assert (rate, gamma0) in [(1.6, 0.3), (2.0, 0.3)]  # networks diverge there as well
        return
    error, bar, z = errors(p, many, True, 4)
    plain_error, plain_bar, plain_z = errors(p, many, False, 4)
    assert error < 1.1 * plain_error + rms(many.sem.f)
    assert bar < 1.05 * plain_bar
    assert z < max(4.5, 1.5 * plain_z)
    if rate == 1.01 or (rate == 0.99 and gamma0 < 0.3):  # at 0.99 and 0.3 the guard is not needed: 0.034 without, 0.027 with it
        trust_everything(monkeypatch)
        f = [solve(p, March(256), seed=s, save_kernels=[], throw=False).mean.f for s in range(4)]
        assert rms(f - many.mean.f) > 10 * max(error, bar)


def test_weight() -> None:
    """In full where the spread falls by half, none where it rises; and none where all replicas move alike and far."""
    rng = np.random.default_rng(0)
    signal, noise = rng.standard_normal((2, 8, 6, 3, 1))
    f = 1 + signal + 0.3 * noise
    assert control.weight(f, -signal).tolist() == [1] * 6
    assert control.weight(f, 0 * f).tolist() == [1] * 6
    assert control.weight(f, signal).tolist() == [0] * 6
    assert control.weight(f, np.full_like(f, np.nan)).tolist() == [0] * 6
    growing = 10.0 ** np.arange(6)[:, None, None]
    assert control.weight(f, growing - signal)[[0, 2, 3]].tolist() == [1, 0, 0]  # ... such as a lazy limit that diverges
    failed = -signal.copy()
    failed[:, 1] *= -1
    assert control.weight(f, failed).tolist() == [1, 0, 0, 0, 0, 1]  # and for a while after
