"""The change of fields in the march: exact for linear networks, that of networks otherwise, however small it is."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dmft
import finite
from dmft import March, observe
from widthwise import MLP, GradientDescent, Parameterization, Problem, schedules, tasks

TASK = tasks.sphere(3, 2, input_dim=6, seed=3)
GAMMAS = (0.02, 0.3, 1.0)


def make(depth: int, activation: str, gamma0: float, num_steps: int, bias: float = 0.0, **training: Any) -> Problem:
    return Problem(
        MLP(depth, activation, bias), Parameterization(gamma0), TASK, GradientDescent(num_steps=num_steps, **training)
    )


def sizes(problem: Problem, method: March, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """update_size at the last step, layer by layer, and its standard error."""
    theory = dmft.solve(problem, method, save=["update_size"], progress=False, **settings)
    return theory.mean["update_size"][-1], theory.sem["update_size"][-1]


def differences_of_rows(form: Any, state: Any, start: Any, seen: Any) -> Any:
    """What it would be with nothing but what the rows have: the mistake."""
    return jnp.stack([jnp.sqrt(jnp.mean((seen.h[l] - start.h[l]) ** 2)) for l in sorted(start.h)])


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switches to `differences_of_rows`."""

    def switch() -> None:
        observe.fields.clear_cache()  # type: ignore[attr-defined]
        monkeypatch.setattr(observe, "_change", differences_of_rows)

    yield switch
    monkeypatch.undo()
    observe.fields.clear_cache()  # type: ignore[attr-defined]


def test_one_step_of_linear_networks(careless: Any) -> None:
    """h^l changes by gamma0 eta0 k_m, k = Phi^0 Delta, times a field of mean square 1 + 4 + ... + l^2, for every gamma0.

    With v^j = W^{j T} ... w, of mean square one, h^l changes by the sum over j < l of W^{l-1} ... W^{j+1} v^{j+1}, each by the
    step of one matrix W^j. Its mean square has the moments of Marchenko and Pastur: 1, 5, 14 for l = 1, 2, 3.
    """
    k = TASK.Phi0[:, :3] @ TASK.y / 3
    expected = 0.5 * np.sqrt(np.mean(k**2) * np.cumsum(np.arange(1, 4) ** 2))
    for gamma0 in GAMMAS:
        problem = make(3, "linear", gamma0, 1, eta0=0.5)
        np.testing.assert_allclose(sizes(problem, March(256, 2))[0], gamma0 * expected, rtol=1e-6)
    careless()
    wrong, _ = sizes(make(3, "linear", 0.02, 1, eta0=0.5), March(256, 2))
    np.testing.assert_allclose(wrong / (0.02 * expected), [1, np.sqrt(4 / 5), np.sqrt(9 / 14)], rtol=1e-6)  # all that is new


@pytest.mark.parametrize("activation", ["tanh", pytest.param("relu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gamma0", [0.02, pytest.param(0.3, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_tolerance_does_not_show(activation: str, gamma0: float, careless: Any) -> None:
    """Driving points and others alike, to a few times tol and the error bars; with rows alone a fifth was lost."""
    problem = make(3, activation, gamma0, 10, eta0=0.5)
    exact, error = sizes(problem, March(512, 8, tol=1e-5))
    for tol in (1e-3, 1e-2):
        mine, bar = sizes(problem, March(512, 8, tol=tol))
        np.testing.assert_allclose(mine, exact, atol=4 * (error + bar).max(), rtol=5 * tol)
    if gamma0 == 0.02:
        careless()
        assert (sizes(problem, March(512, 8, tol=1e-3))[0][1:] < 0.85 * exact[1:]).all()


EVERYTHING: dict[str, Any] = {
    "eta0": 0.3,
    "bias": 0.5,
    "batch_size": 2,
    "momentum": 0.8,
    "weight_decay": 0.02,
    "label_noise": 0.5,
    "schedule": schedules.cosine(6, warmup_steps=2),
    "layer_rates": [1, 0.5, 2, 1],
}
CASES = {
    "plain": make(3, "tanh", 0.02, 4, eta0=0.5),
    "everything": make(3, "tanh", 0.1, 6, **EVERYTHING),
    "langevin": make(3, "tanh", 0.1, 4, eta0=0.5, temperature=1e-4),
}


@cache
def networks(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of networks, extrapolated in 1/N, and its standard error."""
    mean, error = [], []
    for N in (256, 512):
        nets = finite.train(CASES[name], width=N, num_seeds=64, save=["update_size"], progress=False)
        mean.append(nets.mean["update_size"][-1])
        error.append(nets.sem["update_size"][-1])
    return 2 * mean[1] - mean[0], np.hypot(2 * error[1], error[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_networks_change_as_much(name: str, careless: Any) -> None:
    """At a tolerance that the mistake does not survive; by default so many paths have one that hides it."""
    method = March(1024, tol=1e-3)
    theory, bar = sizes(CASES[name], method)
    nets, error = networks(name)
    assert (error < 0.03 * nets).all()
    assert (np.abs(theory - nets) < 4 * np.hypot(error, bar) + 3e-3 * nets).all()  # the factor's tol
    if name == "plain":
        careless()
        wrong, _ = sizes(CASES[name], method)
        assert (np.abs(wrong - nets) > 4 * np.hypot(error, bar) + 3e-3 * nets)[1:].all()


def test_nothing_changes_where_nothing_learns() -> None:
    """Exactly nothing at the start, and in layers that are frozen below frozen ones."""
    problem = make(3, "tanh", 1.0, 10, eta0=0.5, layer_rates=[0, 0, 1, 1])
    theory = dmft.solve(problem, March(512, 8), save=["update_size"], progress=False)
    assert (theory.mean["update_size"][0] == 0).all()
    assert (theory.mean["update_size"][1][:2] < 1e-12).all()
    assert theory.mean["update_size"][1][2] > 0.01
