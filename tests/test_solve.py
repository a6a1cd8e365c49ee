"""`dmft.solve`: the method that fits, accuracy to order, what else can be saved, and training at the edge of stability."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import dmft
import finite
from dmft import DeepLinear, Lazy, March, TwoLayer, observe
from dmft.solve import choose
from tests.oracle import plain_march
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task, Unsolved, tasks

TASK = tasks.sphere(2, 1, input_dim=6, seed=3)
MORE = ("NTK", "eigenvalues", "sharpness", "update_size", "phi_r", "g_u", "h", "z")


def problem_of(
    depth: int = 2, act: str = "tanh", task: Task = TASK, gamma0: float = 1.0, kind: Any = "mean_field", **training: Any
) -> Problem:
    settings = {"eta0": 0.5, "num_steps": 8} | training
    return Problem(MLP(depth, act), Parameterization(gamma0, kind), task, GradientDescent(**settings))


def solve(problem: Problem, method: Any = March(512), **settings: Any) -> Result:  # noqa: B008
    return dmft.solve(problem, method, progress=False, **settings)


# --- the method that fits -----------------------------------------------------------------------------------------------------

CHOICES: dict[str, tuple[Problem, tuple[str, ...], type, str]] = {
    "lazy": (problem_of(kind="ntk"), (), Lazy, "kind='ntk' has the lazy limit"),
    "linear": (problem_of(act="linear"), (), DeepLinear, "linear activation: averages close"),
    "linear, NTK": (problem_of(act="linear"), ("NTK",), DeepLinear, "linear activation: averages close"),
    "linear, mini-batches": (problem_of(act="linear", batch_size=1), (), March, "linear activation: second moments"),
    "linear, responses": (problem_of(act="linear"), ("phi_r",), March, "linear activation: second moments"),
    "linear, long": (problem_of(act="linear", num_steps=2000), (), March, "linear activation: second moments"),
    "one layer": (problem_of(1), (), TwoLayer, "one hidden layer: particles"),
    "one linear layer with momentum": (problem_of(1, "linear", momentum=0.5), (), TwoLayer, "one hidden layer: particles"),
    "one layer, responses": (problem_of(1), ("g_u",), March, "deep and nonlinear"),
    "deep": (problem_of(), (), March, "deep and nonlinear: sampled paths"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_method_that_fits(name: str) -> None:
    problem, save, method, why = CHOICES[name]
    chosen, said = choose(problem, save)
    assert isinstance(chosen, method)
    assert why in said


def test_result_says_which_method_and_why() -> None:
    for problem, method in ((problem_of(kind="ntk"), "Lazy("), (problem_of(act="linear"), "DeepLinear(")):
        text = str(dmft.solve(problem, progress=False))
        assert text.startswith(method)
        assert "the lazy limit" in text or "no sampling" in text
    forced = dmft.solve(problem_of(act="linear"), March(512), progress=False)
    assert str(forced).startswith("March(num_paths=512")
    assert "(as asked for)" in str(forced)


# --- accuracy to order --------------------------------------------------------------------------------------------------------


def test_rtol_is_reached_and_honest() -> None:
    problem = problem_of(act="gelu")
    theory = dmft.solve(problem, rtol=0.02, progress=False)
    assert theory.status.ok
    assert theory.stats["relative error"] <= 0.02
    assert theory.stats["limited by"].startswith("sampling")
    assert f"{theory.stats['paths']} paths" in theory.stats["tried"]
    reference = solve(problem, March(8192, tol=1e-6))
    size = np.sqrt(np.mean(reference.mean.f**2))
    actual = np.sqrt(np.mean((theory.mean.f - reference.mean.f) ** 2)) / size
    assert actual < 3 * theory.stats["relative error"]
    assert actual > theory.stats["relative error"] / 30


def test_out_of_budget() -> None:
    settings: dict[str, Any] = {"rtol": 1e-5, "max_seconds": 1e-3, "progress": False}
    with pytest.raises(
        Unsolved, match=r"the error bar of f is .*, not rtol=1e-05; limited by time: .* max_seconds=0\.001"
    ) as it:
        dmft.solve(problem_of(), **settings)
    partial, returned = it.value.result, dmft.solve(problem_of(), throw=False, **settings)
    assert np.isfinite(partial.mean.f).all()
    assert np.array_equal(partial.mean.f, returned.mean.f)
    assert not returned.status.ok
    assert returned.stats["relative error"] > 1e-5


@pytest.mark.parametrize("name", ["rtol", "max_seconds"])
@pytest.mark.parametrize("value", [0, -0.1, np.nan, np.inf, "0.1", True])
def test_bad_budgets(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        dmft.solve(problem_of(), **{name: value})


def test_unknown_name_to_save() -> None:
    with pytest.raises(ValueError, match=r"save must be .*NTK.*eigenvalues.*sharpness.*update_size.*phi_r.*g_u.*got 'ntk'"):
        solve(problem_of(), save=("ntk",))


# --- what else can be saved ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_saved_observables(num_outputs: int) -> None:
    """At t = 0 those of the lazy limit, for one and for several outputs; later those of networks."""
    y = np.random.default_rng(1).choice([-1.0, 1.0], (2, 3))
    task = TASK if num_outputs == 1 else Task(TASK.X, y, TASK.X_test)
    problem = problem_of(task=task, momentum=0.3)
    theory, lazy = solve(problem, March(1024), save=MORE), solve(problem, Lazy(), save=("NTK", "eigenvalues", "sharpness"))
    mean = theory.mean
    rebuilt = mean.tangent_kernel(problem.Phi0, problem.training.rates(2), 0.0)
    assert np.allclose(mean["NTK"], rebuilt, atol=5 * theory.sem["NTK"].max())
    for name in ("NTK", "eigenvalues", "sharpness"):
        noise = 0.02 * np.abs(lazy.mean[name][0]).max() + 4 * theory.sem[name][0].max()
        assert np.allclose(mean[name][0], lazy.mean[name][0], rtol=0, atol=noise), name
        assert noise < 0.06 * np.abs(lazy.mean[name][0]).max()
    assert (mean["sharpness"][1] > 1.05 * mean["sharpness"][0]).all()  # features align
    nets = finite.train(problem, width=1024, num_seeds=32, save=("NTK", "sharpness", "update_size"), progress=False)
    for name in ("NTK", "sharpness", "update_size"):
        noise = 0.04 * np.abs(mean[name]).max() + 4 * theory.sem[name].max()  # degenerate eigenvalues split like N^-1/2
        assert np.allclose(mean[name], nets.mean[name], rtol=0, atol=noise), name
    assert (mean["update_size"][0] == 0).all()
    assert (mean["update_size"][1] > 0.05).all()
    less = solve(problem.replace(gamma0=0.1), March(1024), save=("update_size",)).mean["update_size"][1]
    assert (less < 0.2 * mean["update_size"][1]).all()
    h, z = theory.samples["h"], theory.samples["z"]
    assert h.shape == z.shape == (8, 2, 2, 3, 1024)  # (replica, kept, layer, point, path)
    assert np.allclose((h[:, 0, 0] ** 2).mean(-1), np.diag(problem.Phi0), rtol=1e-6)
    assert np.allclose((z[:, 0, 1] ** 2).mean(-1), 1.0, rtol=1e-6)


def test_gradient_kernels_of_many_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every output, or of random combinations where there would be too many: the same mean over outputs."""
    task = Task(TASK.X, np.random.default_rng(1).choice([-1.0, 1.0], (2, 3)), TASK.X_test)
    problem = problem_of(task=task)
    every = solve(problem, March(1024, num_replicas=16))
    monkeypatch.setattr(observe, "MOST_FIELDS", 6)  # two combinations of three points
    few = solve(problem, March(1024, num_replicas=16))
    noise = np.sqrt(every.sem.G**2 + few.sem.G**2)
    assert (np.abs(few.mean.G - every.mean.G) < 5 * noise).all()
    size = every.mean.equal_time("G").max()
    assert every.sem.G.max() < 0.02 * size < few.sem.G.max()
    first = solve(problem, March(1024, num_replicas=16), save=["z"]).samples["z"][:, :, 1, 0]  # of the first output alone
    assert np.abs((first**2).mean((0, 2))[1] / size - 1) > 0.05


@cache
def responses() -> Result:
    return solve(problem_of(num_steps=4), March(1024, tol=1e-8), save_kernels=range(5), save=("phi_r", "g_u"))


def test_responses_are_causal() -> None:
    """<phi(h(t)) r(s)> = sum A(t, t') G(t', s) with A of t' < t alone, <g(t) u(s)> = sum B(t, t') Phi(t', s) with t' <= t.

    It holds replica by replica, to what the factor leaves out.
    """
    theory, T = responses(), 4
    one, M = theory.samples.map(lambda x: x[0]), theory.problem.task.num_points
    assert one["phi_r"].shape == one["g_u"].shape == (1, T + 1, M, T + 1, M)

    def explained(average: np.ndarray, kernel: np.ndarray, t: int, past: int) -> float:
        """The share of the average at t that responses to the first `past` states make."""
        row, rows = average[t].reshape(M, -1), kernel.reshape((T + 1) * M, -1)[: past * M]
        response = np.linalg.lstsq(rows.T, row.T, rcond=1e-10)[0]
        return 1 - float(np.linalg.norm(rows.T @ response - row.T) / np.linalg.norm(row))

    assert np.abs(one["phi_r"][0, 0]).max() < 1e-9  # nothing has been learned
    for t in range(1, T + 1):
        assert explained(one["phi_r"][0], one.G[1], t, t) > 0.99
        assert explained(one["g_u"][0], one.Phi[0], t, t + 1) > 0.99
    assert explained(one["phi_r"][0], one.G[1], 1, 0) < 0.01  # negative twins: less of the past
    assert explained(one["g_u"][0], one.Phi[0], 1, 1) < 0.98


def test_responses_are_those_of_the_plain_march() -> None:
    """Amplitudes along the theory against path derivatives, to the errors of both; doubled ones are seen."""
    theory = responses()
    oracle = [plain_march(theory.problem, 600, seed) for seed in range(16)]
    for name in ("phi_r", "g_u"):
        d = theory.mean[name][0]
        mine, his = (
            np.array([np.sum(x * d) / np.sum(d**2) for x in runs])
            for runs in (theory.samples[name][:, 0], [run[name][0] for run in oracle])
        )
        # paths of the plain march feed back on themselves: a bias of order 1/600 beside the error
        error = np.sqrt(mine.var(ddof=1) / len(mine) + his.var(ddof=1) / len(his) + (2 / 600) ** 2)
        assert abs(his.mean() - mine.mean()) < 4.5 * error
        assert error < 0.05


# --- tolerance and the edge of stability --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.slow), "float32"])
def test_long_after_convergence(dtype: str) -> None:
    """A loss of 1e-12 and below: what remains of the gradients is rounding, and no function is made of it, at any tolerance."""
    problem = problem_of(num_steps=80, eta0=0.6)
    exact = solve(problem, March(512, tol=1e-9))
    ranks = []
    for tol in (1e-2, 1e-3, 1e-4, 1e-6, 1e-8):
        theory = solve(problem, March(512, tol=tol, dtype=dtype))  # type: ignore[arg-type]
        assert theory.mean.loss[-1] < 1e-12
        assert np.abs(theory.mean.f - exact.mean.f).max() < 3 * exact.sem.f.max()
        assert np.abs(np.diff(theory.mean.f[-10:], axis=0)).max() < 1e-5
        ranks.append(max(int(rank) for name in ("rank Phi", "rank G") for rank in theory.stats[name].split(", ")))
    assert ranks[1] < 24, ranks
    assert ranks[-1] < 96, ranks  # of 192 that the paths could span


@pytest.mark.parametrize("tol", [1e-2, 3e-4, 1e-4])
def test_float32_is_float64_to_rounding(tol: float) -> None:
    """Functions stay orthonormal however small the rests that they are made of, so both precisions find the same ones."""
    problem = problem_of(num_steps=24, eta0=0.6)
    single, double = (solve(problem, March(256, tol=tol, dtype=dtype)) for dtype in ("float32", "float64"))  # type: ignore[arg-type]
    assert single.stats["rank Phi"] == double.stats["rank Phi"]
    assert 0 < np.abs(single.samples.f - double.samples.f).max() < 2e-5


@pytest.mark.parametrize("times", [1.5, 2.0])
def test_above_the_critical_rate(times: float) -> None:
    """Above the critical rate of the start the limit does what wide networks do, and the lazy limit does not."""
    problem = problem_of(num_steps=5)
    P = problem.task.num_train
    K = solve(problem, Lazy()).mean.tangent_kernel(problem.Phi0)[0, :P, :P]
    problem = problem.replace(eta0=times * 2 * P / np.linalg.eigvalsh(K)[-1])
    theory = solve(problem, March(1024), throw=False).mean.f
    lazy = solve(problem, Lazy(), throw=False).mean.f
    nets = [finite.train(problem, width=N, num_seeds=2**15 // N, progress=False, throw=False).mean.f for N in (128, 512)]
    extrapolated = (4 * nets[1] - nets[0]) / 3

    def off(f: np.ndarray) -> np.ndarray:
        """Of the networks, relative, at every step but the first."""
        return np.linalg.norm(f - extrapolated, axis=1)[1:] / np.linalg.norm(extrapolated, axis=1)[1:]

    assert off(theory)[:2].max() < 0.05, off(theory)  # later the networks themselves are far from 1/N
    assert off(lazy)[:2].max() > 0.15, off(lazy)
