"""Rounding: networks whose weights move too little for their dtype say so; precisions do not depend on the global one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import finite
from finite import rounding
from finite.networks import build
from widthwise import (
    MLP,
    Adam,
    ConvNet,
    GradientDescent,
    Parameterization,
    Problem,
    ResidualMLP,
    ResNet,
    Result,
    Task,
    Transformer,
    Unsolved,
    ViT,
    data,
    tasks,
)
from widthwise.precision import float64

SPHERE = tasks.sphere(4, 2, input_dim=8)
CURE = r'pass dtype="float64", or scale inputs to \|x\|\^2 = D'


def problem_of(activation: str, scale: float, gamma0: float, eta: float, steps: int, stream: bool) -> Problem:
    """Full batches of inputs times `scale`, at rates that are stable there."""
    x, y = SPHERE.X * scale, SPHERE.y
    task: Any = data.from_arrays(x, y, test=(x, y)) if stream else Task(x, y, SPHERE.X_test * scale)
    training = GradientDescent(eta / scale**2, steps, batch_size=4 if stream else None)
    return Problem(MLP(2, activation), Parameterization(gamma0=gamma0), task, training)


def run(problem: Problem, **settings: Any) -> Result:
    return finite.train(
        problem, **{"width": 64, "num_seeds": 2, "progress": False, "throw": False, "save_kernels": []} | settings
    )


def error_of(problem: Problem, single: Result) -> float:
    """Largest rounding error of f at any step, root mean square over networks and points, in units of y."""
    exact = run(problem, dtype="float64")
    assert exact.status.ok
    assert exact.samples.f.dtype == np.float64
    square = np.mean((single.samples.f - exact.samples.f) ** 2, axis=(0, 2))
    return float(np.sqrt(square.max()) / rounding.target_size(SPHERE.y))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("activation", "scale", "gamma0", "eta", "steps"),
    [
        ("linear", 1e4, 1.0, 0.5, 60),  # steps get lost as they shrink
        pytest.param("linear", 1.0, 1e-4, 0.5, 60, marks=pytest.mark.slow),  # the same network
        pytest.param("linear", 1.0, 1e-2, 0.005, 6000, marks=pytest.mark.slow),
        pytest.param("relu", 3e4, 1.0, 0.5, 6, marks=pytest.mark.slow),  # it has hardly learned
        pytest.param("linear", 1.0, 1e-3, 0.05, 600, marks=pytest.mark.slow),
    ],
)
def test_lost_updates_are_told(activation: str, scale: float, gamma0: float, eta: float, steps: int, stream: bool) -> None:
    """Where float32 is off by 1e-3 (measured against float64) the status says so; and says it within a factor 10."""
    problem = problem_of(activation, scale, gamma0, eta, steps, stream)
    single = run(problem)
    error = error_of(problem, single)
    assert error > 3e-4
    assert not single.status.ok
    assert "float32" in single.status.message
    told = float(single.status.message.split("about ")[1].split()[0])
    assert error / 2 < told < 10 * error
    with pytest.raises(Unsolved, match=CURE):
        run(problem, throw=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("activation", "scale", "gamma0", "eta", "steps"),
    [
        ("linear", 1e2, 1.0, 0.5, 60),
        pytest.param("linear", 1.0, 1.0, 0.5, 60, marks=pytest.mark.slow),
        pytest.param("tanh", 1.0, 1e-3, 0.5, 60, marks=pytest.mark.slow),
        pytest.param("relu", 1e2, 1.0, 0.5, 60, marks=pytest.mark.slow),
        pytest.param("linear", 1.0, 1e-2, 0.05, 600, marks=pytest.mark.slow),
    ],
)
def test_other_networks_are_left_in_peace(
    activation: str, scale: float, gamma0: float, eta: float, steps: int, stream: bool
) -> None:
    """Negative twin: less than 3e-4 off, and ok. (At small gamma0 and large inputs alike.)"""
    problem = problem_of(activation, scale, gamma0, eta, steps, stream)
    single = run(problem)
    assert single.status.ok
    assert error_of(problem, single) < 3e-4


def test_inputs_are_strength() -> None:
    """X times s and eta0 / s^2 is gamma0 / s, for an activation of degree one: S is the same, and what is lost."""
    large, lazy = (problem_of("linear", s, g, 0.5, 60, False) for s, g in ((1e4, 1.0), (1.0, 1e-4)))
    size = [rounding.feature_size(p) / p.parameterization.gamma0 for p in (large, lazy)]
    np.testing.assert_allclose(size, 1e4, rtol=1e-5)
    saturated = problem_of("tanh", 1e4, 1.0, 0.5, 60, False)
    assert 0.5 < rounding.feature_size(saturated) < 1  # inputs of any size make it no lazier
    with pytest.raises(ValueError, match=r'inputs are too large .* Scale inputs to \|x\|\^2 = D, or pass dtype="float64"'):
        run(problem_of("linear", 1e6, 1.0, 0.5, 60, False))
    assert run(problem_of("linear", 1e6, 1.0, 0.5, 60, False), dtype="float64").status.ok


def test_nothing_to_learn_loses_nothing() -> None:
    """Weights that rest because there is nothing to learn are no lost updates: inputs zero, or targets zero."""
    for x, y in ((np.zeros((4, 8)), SPHERE.y), (SPHERE.X, np.zeros(4))):
        for task in (Task(x, y), data.from_arrays(x, y, test=(x, y))):
            training = GradientDescent(0.5, 20, batch_size=4)
            assert run(Problem(MLP(1, "tanh"), Parameterization(), task, training)).status.ok


# --- precision ----------------------------------------------------------------------------------------------------------------


def tokens() -> data.Stream:
    table = np.random.default_rng(0).integers(0, 5, (16, 5))

    def source(batch_size: int, start: int) -> Iterator[Any]:
        for step in itertools.count(start):
            rows = table[np.random.default_rng(step).integers(0, 16, batch_size)]
            yield rows[:, :-1], rows[:, 1:]

    return data.Stream("tokens", (4,), 5, "tokens", source, lambda n: (table[:n, :-1], table[:n, 1:]), 16)  # type: ignore[arg-type]


IMAGES = data.from_arrays(np.random.default_rng(0).standard_normal((20, 4, 4, 1)), np.arange(20) % 3, test=4)
VECTORS = data.from_arrays(SPHERE.X_all, np.ones((6, 1)), test=2)
NETWORKS: dict[str, tuple[Any, Any, str]] = {
    "MLP": (MLP(2, "tanh", bias=0.3), VECTORS, "mse"),
    "ResidualMLP on a Task": (ResidualMLP(1), SPHERE, "mse"),
    "ConvNet": (ConvNet(1), IMAGES, "cross_entropy"),
    "Transformer": (Transformer(1, num_heads=2), tokens(), "cross_entropy"),
    "ResNet": (ResNet((1,)), IMAGES, "cross_entropy"),
    "ViT": (ViT(1, patch=2, num_heads=2), IMAGES, "cross_entropy"),
}
SLOW = ("ResNet", "ViT", "Transformer", "ResidualMLP on a Task")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS])
def test_every_network_has_both_precisions_whatever_the_global_one(name: str) -> None:
    """The same bits with jax_enable_x64 on or off; in float64 the same networks, to the rounding of float32 and not below."""
    noun, task, loss = NETWORKS[name]
    optimizer = Adam() if name in SLOW else None
    training = GradientDescent(0.05, 2, loss, batch_size=None if task is SPHERE else 4, optimizer=optimizer)
    problem = Problem(noun, Parameterization(), task, training)
    save = ["sharpness"] if name == "MLP" else []
    settings = {"width": 8, "save": save, "save_kernels": [0, 2]}
    seen = {}
    for x64, dtype in itertools.product((False, True), ("float32", "float64")):
        jax.config.update("jax_enable_x64", x64)
        try:
            seen[x64, dtype] = run(problem, dtype=dtype, **settings).samples.without("accuracy").observables()
        finally:
            jax.config.update("jax_enable_x64", False)
    for dtype in ("float32", "float64"):
        for key, value in seen[False, dtype].items():
            assert value.dtype == dtype, key
            assert np.array_equal(value, seen[True, dtype][key]), key
    single, double = (seen[False, dtype]["f"].astype(float) for dtype in ("float32", "float64"))
    size = np.abs(double).max()
    assert 1e-10 * size < np.abs(single - double).max() < 1e-3 * size


@pytest.mark.slow
def test_sweeps_and_checks_do_not_ask_for_the_global_precision() -> None:
    training = GradientDescent(0.5, 3, batch_size=4)
    problem = Problem(MLP(1, "tanh"), Parameterization(), VECTORS, training)
    seen = []
    for x64 in (False, True):
        jax.config.update("jax_enable_x64", x64)
        try:
            sweep = finite.sweep(problem, rates=[0.1, 0.2, 0.4], widths=8, num_seeds=2, progress=False)
            checked = finite.coordinate_check(problem, widths=(8, 16), num_seeds=2, progress=False)
        finally:
            jax.config.update("jax_enable_x64", False)
        seen.append((sweep.losses, checked.size, checked.update))
    for off, on in zip(*seen, strict=True):
        assert np.array_equal(off, on)
    double = finite.sweep(problem, rates=[0.1, 0.2, 0.4], widths=8, num_seeds=2, progress=False, dtype="float64")
    difference = np.abs(double.losses - seen[0][0]).max()
    assert 0 < difference < 1e-5


def test_float64_is_that_of_numpy() -> None:
    """Gradient descent of a two-layer linear network on a stream, in NumPy: to 1e-12, where float32 is 1e-7 off."""
    x, y = SPHERE.X / np.pi, SPHERE.y  # no numbers of float32
    N, D, T, eta = 8, 8, 5, 0.3
    problem = Problem(
        MLP(1, "linear"), Parameterization(), data.from_arrays(x, y, test=(x, y)), GradientDescent(eta, T, batch_size=4)
    )
    result = run(problem, width=N, num_seeds=1, num_probes=4, record=range(T + 1), dtype="float64")
    with float64():
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), N), 0)
        network: Any = build(MLP(1, "linear"), Parameterization(), width=N, input_shape=(D,), num_outputs=1, key=key)
        W, w = (np.asarray(network.weights[name].value) for name in ("W0", "w"))
    order = np.random.default_rng(0).permutation(4)  # of the probes
    start = x @ W.T @ w.T / (N * D**0.5)
    for t in range(T + 1):
        f = x @ W.T @ w.T / (N * D**0.5) - start
        np.testing.assert_allclose(result.samples.f[0, t], f[order, 0], rtol=1e-12, atol=1e-13)
        Delta = (y[:, None] - f) / 4
        step_W, step_w = (Delta @ w).T @ x / (N * D**0.5), (Delta.T @ x) @ W.T / (N * D**0.5)
        W, w = W + eta * N * step_W, w + eta * N * step_w
    single = run(problem, width=N, num_seeds=1, num_probes=4, record=range(T + 1)).samples.f
    assert np.abs(single - result.samples.f).max() > 1e-9
