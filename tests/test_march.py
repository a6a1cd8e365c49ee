"""The causal march: its parts, its oracle, its limits and its symmetries."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import dmft
from dmft import factor, run
from dmft.march import March
from dmft.noise import white_noise
from dmft.site import State
from tests.oracle import plain_march
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task, Unsolved, tasks
from widthwise.precision import float64

SMALL = March(num_paths=512)
few = settings(deadline=None, derandomize=True, max_examples=4, phases=(Phase.explicit, Phase.generate))


def problem(depth: int = 2, activation: str = "tanh", gamma0: float = 1.0, eta0: float = 1.0, num_steps: int = 8) -> Problem:
    task = tasks.sphere(2, 1, input_dim=6, seed=3)
    return Problem(MLP(depth, activation), Parameterization(gamma0), task, GradientDescent(eta0, num_steps))


def solve(p: Problem, method: March = SMALL, **settings: object) -> Result:
    return dmft.solve(p, method, progress=False, **settings)  # type: ignore[arg-type]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# --- parts -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [False, True])
@few
@given(seed=st.integers(0, 2**31), num_u=st.integers(1, 70), num_r=st.integers(1, 70))
def test_white_noise_is_white_mirrored_and_grows_in_place(seed: int, odd: bool, num_u: int, num_r: int) -> None:
    u, r = white_noise(512, num_u, num_r, odd=odd, key=(seed, 1))
    assert np.allclose(u.T @ u / 512, np.eye(num_u), atol=1e-10)  # whitened to rounding
    assert np.allclose(r.T @ r / 512, np.eye(num_r), atol=1e-10)
    assert np.abs(u.T @ r).max() < 1e-10  # exactly, by the mirror images
    n = 256 if odd else 128  # images of a point: (u, r), (u, -r), and unless the activation is odd (-u, r), (-u, -r)
    assert np.array_equal(u[n : 2 * n], u[:n])
    assert np.array_equal(r[n : 2 * n], -r[:n])
    assert odd or np.array_equal(
        np.concatenate([-u[: 2 * n], r[: 2 * n]], axis=1), np.concatenate([u[2 * n :], r[2 * n :]], axis=1)
    )
    more_u, more_r = white_noise(512, num_u + 40, num_r + 40, odd=odd, key=(seed, 1))
    assert np.allclose(more_u[:, :num_u], u, atol=1e-8)
    assert np.allclose(more_r[:, :num_r], r, atol=1e-8)
    other, _ = white_noise(512, num_u, num_r, odd=odd, key=(seed, 2))
    assert np.abs(other - u).max() > 0.1


def test_white_noise_is_normal() -> None:
    """Kolmogorov-Smirnov distance of the first coordinates from N(0, 1): order 1/n for Sobol, 0.9/sqrt(n) for plain draws."""
    from scipy.stats import kstest

    u, r = white_noise(4096, 4, 4, odd=True, key=(0, 1))
    for x in (*u.T, *r.T):
        assert kstest(x, "norm").statistic < 0.2 / np.sqrt(2048)
    plain = np.random.default_rng(0).standard_normal(4096)
    assert kstest(plain, "norm").statistic > 0.2 / np.sqrt(2048)  # the bound tells the two apart


@few
@given(st.integers(0, 2**31), st.sampled_from([1e-2, 1e-4, 1e-8]))
def test_factor_is_causal_pivoted_cholesky(seed: int, tol: float) -> None:
    """Rows of three steps reproduce all kernels <F(t) F(s)> to the tolerance, orthonormal functions, earlier rows untouched."""
    S, M, capacity = 256, 4, 12
    rng = np.random.default_rng(seed)
    shapes = rng.standard_normal((S, 9)) * 10.0 ** -np.arange(9)  # singular values that fall fast
    with float64():
        steps = [jnp.asarray(shapes @ rng.standard_normal((9, M))) for _ in range(3)]
        extend = jax.jit(
            jax.vmap(
                lambda basis, F: factor.extend(basis, F, M, tol * jnp.mean(F[:, :M] ** 2), "replicas"), axis_name="replicas"
            )
        )
        others = jnp.asarray(rng.standard_normal((S, 2)))  # expanded as far as that goes, and no more
        basis = factor.Basis.zeros(1, S, capacity, float)
        rows = []
        for F in steps:
            basis, row = extend(basis, jnp.concatenate([F, others], axis=1)[None])
            rows.append(np.asarray(row[0, :M]))
            assert np.allclose(row[0, M:], others.T @ basis.e[0] / S, atol=1e-10)
    e, rank = np.asarray(basis.e[0]), int(basis.size[0])
    assert 0 < rank < 9 if tol > 1e-8 else rank <= 9
    # a function made from a rest of relative size sqrt(tol) is orthogonal to the others to rounding / sqrt(tol)
    assert np.allclose(e.T @ e / S, np.diag([1.0] * rank + [0.0] * (capacity - rank)), atol=1e-12 / np.sqrt(tol))
    for t, F in enumerate(np.asarray(steps)):
        for s, E in enumerate(np.asarray(steps)):
            scale = np.sqrt(np.mean(F**2) * np.mean(E**2))
            error = np.abs(F.T @ E / S - rows[t] @ rows[s].T).max()
            # equal times: the rests are below tol; else the rest of one may overlap with what the other brought in later
            assert error <= 1.01 * scale * (tol if t == s else 4 * np.sqrt(tol))
    assert np.abs(steps[0].T @ steps[1] / S - rows[0] @ rows[2].T).max() > 0.01 * scale  # rows of another time do not do


# --- against the oracle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "activation"), [(1, "tanh"), (2, "tanh"), (3, "erf"), (2, "gelu")])
def test_march_equals_plain_march(depth: int, activation: str) -> None:
    """Score form on a low-rank factor against path derivatives on the full grid; and without A or B, no agreement."""
    p = problem(depth, activation, num_steps=5)
    theory = solve(p, March(2048), save_kernels=range(6))

    def replicas(**drop: bool) -> dict[str, np.ndarray]:
        runs = [plain_march(p, 600, seed, **drop) for seed in range(8)]
        return {name: np.array([np.asarray(run[name]) for run in runs]) for name in ("f", "Phi", "G")}

    def z_scores(oracle: dict[str, np.ndarray]) -> dict[str, float]:
        """Of amplitudes along the theory's mean (its own error included): one for f, one for each kernel of each layer."""
        out = {}
        for name in ("f", "Phi", "G"):
            mine, mean, his = getattr(theory.samples, name), getattr(theory.mean, name), oracle[name]
            for ell in range(1) if name == "f" else range(depth):
                d = mean if name == "f" else mean[ell]
                a, b = (x if name == "f" else x[:, ell] for x in (mine, his))
                a, b = ((x * d).reshape(len(x), -1).sum(1) / np.sum(d**2) for x in (a, b))
                # paths of the plain march feed back on themselves: a bias of order 1/600 beside the error
                error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b) + (2 / 600) ** 2)
                out[f"{name}{ell}"] = (b.mean() - a.mean()) / error
        return out

    scores = z_scores(replicas())
    assert max(map(abs, scores.values())) < 4.5, scores  # t with about 7 degrees of freedom, a handful of scores
    if depth > 1:
        for drop in ("drop_A", "drop_B"):
            wrong = z_scores(replicas(**{drop: True}))
            assert max(map(abs, wrong.values())) > 6, (drop, wrong)


def test_linear_activation_is_exact() -> None:
    """Second moments of whitened noise are exact: the sampled march has no sampling error and equals the closed form."""
    for depth in (1, 2, 3):
        p = problem(depth, "linear", gamma0=1.5, eta0=0.3)
        sampled, exact = solve(p, March(256, tol=1e-12)), dmft.solve(p)
        assert sampled.sem.f.max() < 1e-9
        for name in ("f", "Phi", "G"):
            assert relative(getattr(sampled.mean, name), getattr(exact.mean, name)) < 1e-7, name
        wrong = dmft.solve(p.replace(gamma0=1.5 * 1.001))
        assert relative(sampled.mean.f, wrong.mean.f) > 1e-5


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "softplus", "erf", "quadratic"])
def test_initial_kernels_are_nngp(activation: str) -> None:
    """Phi and G at t = 0 against neural-tangents, to sampling error; all layers."""
    p = problem(3, activation, eta0=1e-3, num_steps=1)
    if activation == "quadratic":  # layers of squares have heavy tails: two are enough
        p = problem(2, activation, eta0=1e-3, num_steps=1)
    theory, lazy = solve(p, March(8192)), dmft.solve(p, dmft.Lazy())
    for name in ("Phi", "G"):
        mine, error, exact = (getattr(x, name)[:, 0, :, 0, :] for x in (theory.mean, theory.sem, lazy.mean))
        for ell in range(len(mine)):
            # tol = 1e-3 of the kernel is cut off at every layer above the first
            allowed = 4 * np.linalg.norm(error[ell]) + 2e-3 * np.linalg.norm(exact[ell])
            assert np.linalg.norm(mine[ell] - exact[ell]) < allowed, (name, ell + 1)
            assert np.linalg.norm(1.03 * mine[ell] - exact[ell]) > allowed or activation == "quadratic"


def test_lazy_limit_with_slope_two() -> None:
    """f(gamma0) - f(0) falls like gamma0^2: mirror images leave no noise of order gamma0 or below."""
    gammas = np.array([0.05, 0.1, 0.2])
    lazy = dmft.solve(problem(), dmft.Lazy()).mean.f
    tight = March(4096, tol=1e-6)
    f = np.array([solve(problem(gamma0=g), tight).samples.f.mean(0) for g in [1e-3, *gammas]])
    assert np.abs(f[0] - lazy).max() < 5e-3  # sampling error of the kernels
    slope = np.polyfit(np.log(gammas), np.log(np.linalg.norm((f[1:] - f[0]).reshape(3, -1), axis=1)), 1)[0]
    assert abs(slope - 2) < 0.1  # the next order is gamma0^4: 2 + O(0.2^2)


@pytest.mark.parametrize("gamma0", [1e-3, 0.1, 3.0, 10.0])
@pytest.mark.parametrize("activation", ["tanh", "relu", "quadratic"])
def test_no_nan_where_networks_train(gamma0: float, activation: str) -> None:
    p = problem(2, activation, gamma0=gamma0, eta0=(0.01 if activation == "quadratic" else 0.3) / (1 + gamma0), num_steps=15)
    theory = solve(p)
    assert theory.status.ok
    assert all(np.isfinite(getattr(theory.mean, name)).all() for name in ("f", "loss", "Phi", "G"))
    assert theory.mean.loss[-1] < theory.mean.loss[0]


# --- symmetries --------------------------------------------------------------------------------------------------------------


def close(a: Result, b: Result, points: np.ndarray | None = None) -> bool:
    """Equal means within four combined standard errors in the norm of f and of every kernel; `points` reorders those of b."""
    order = np.arange(a.mean.f.shape[-1]) if points is None else points
    for name in ("f", "Phi", "G"):
        x, y = getattr(a.mean, name), getattr(b.mean, name)
        y = y[:, order] if name == "f" else y[:, :, order][..., order]
        noise = np.sqrt(np.sum(getattr(a.sem, name) ** 2) + np.sum(getattr(b.sem, name) ** 2))
        if np.linalg.norm(x - y) > 4 * noise:
            return False
    return True


@few
@given(st.permutations(range(4)))
def test_permutation_of_samples_commutes(order: list[int]) -> None:
    task = tasks.sphere(4, input_dim=6, seed=5)
    permuted = Task(task.X[order], task.y[order])
    base = Problem(MLP(2, "relu"), Parameterization(), task, GradientDescent(1.0, 6))
    a, b = solve(base.replace(task=permuted)), solve(base)
    assert close(a, b, np.array(order))
    wrong = np.roll(order, 1)
    assert not close(a, b, wrong)


@few
@given(st.integers(0, 2**31))
def test_rotation_invariance(seed: int) -> None:
    """Only inner products of inputs enter: a rotation changes rounding errors only."""
    p = problem(2, "relu")
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))
    rotated = p.replace(task=Task(p.task.X @ Q, p.task.y, p.task.X_test @ Q, p.task.y_test))  # type: ignore[operator]
    assert close(solve(p), solve(rotated))
    stretched = p.replace(task=Task(1.2 * p.task.X, p.task.y, p.task.X_test, p.task.y_test))
    assert not close(solve(p), solve(stretched))


def test_causality() -> None:
    """A longer run begins with the shorter one, bit for bit; test points feel the train points and not the other way round."""
    short, long = solve(problem(num_steps=4), save_kernels=(0, 3)), solve(problem(num_steps=8), save_kernels=(0, 3))
    assert np.array_equal(short.mean.f, long.mean.f[:5])
    assert np.array_equal(short.mean.Phi, long.mean.Phi)
    assert np.array_equal(short.mean.G, long.mean.G)
    other = short.problem.task
    other = Task(other.X, other.y, -other.X_test, -other.y_test)  # type: ignore[operator]
    moved = solve(short.problem.replace(task=other))
    assert np.abs(moved.mean.f - short.mean.f)[:, :2].max() < 4 * (moved.sem.f + short.sem.f).max()
    assert np.abs(moved.mean.f - short.mean.f)[:, 2:].max() > 4 * (moved.sem.f + short.sem.f).max()


@few
@given(st.sampled_from(["tanh", "relu", "gelu"]), st.floats(0.2, 2.0))
def test_kernels_are_symmetric_and_positive(activation: str, gamma0: float) -> None:
    p = problem(2, activation, gamma0=gamma0, eta0=0.5, num_steps=4)
    theory = solve(p, save_kernels=range(5))
    assert theory.mean.f.shape == (5, 3)
    for name in ("Phi", "G"):
        stack = getattr(theory.mean, name)
        assert stack.shape == (2, 5, 3, 5, 3)
        for kernel in stack.reshape(2, 15, 15):
            assert np.array_equal(kernel, kernel.T)
            assert np.linalg.eigvalsh(kernel)[0] > -1e-10 * np.trace(kernel)


# --- engineering -------------------------------------------------------------------------------------------------------------


def test_same_seed_same_bits() -> None:
    a, b, c = (solve(problem(), seed=seed) for seed in (1, 1, 2))
    for name in ("f", "Phi", "G"):
        assert np.array_equal(getattr(a.samples, name), getattr(b.samples, name))
        assert not np.array_equal(getattr(a.samples, name), getattr(c.samples, name))


def test_second_solve_compiles_nothing(compilations: list[str]) -> None:
    solve(problem(gamma0=0.7, num_steps=6))
    assert compilations  # the counter counts
    compilations.clear()
    solve(problem(gamma0=1.3, eta0=0.8, num_steps=6), seed=5)
    assert not compilations


@pytest.mark.parametrize(("activation", "dtype"), [("tanh", "float64"), ("relu", "float64"), ("tanh", "float32")])
def test_tolerance_does_not_show(activation: str, dtype: Any) -> None:
    """From 1e-2 to 1e-8 the answer moves by less than the tolerance and the sampling error together."""
    p = problem(2, activation, num_steps=12)
    exact = solve(p, March(2048, tol=1e-10))
    for tol in (1e-2, 1e-4, 1e-6, 1e-8):
        theory = solve(p, March(2048, tol=tol, dtype=dtype))
        assert np.abs(theory.mean.f - exact.mean.f).max() < 2 * tol + 4 * exact.sem.f.max()
        assert relative(theory.mean.G, exact.mean.G) < 4 * tol + 4 * np.linalg.norm(exact.sem.G) / np.linalg.norm(exact.mean.G)


def test_error_bar_is_honest() -> None:
    """Eighty solves of eight replicas of 128 paths against a reference of 16384: error bars are the spread, means are right.

    Three points times eighty are independent: the spread is known to 5 %. z has Student's t with 7 degrees of freedom, of which
    the mean square is 7 / 5, known to 0.2, and 95 % lie within 2.36, known to 1.4 %.
    """
    p = problem(2, "gelu", num_steps=6)
    reference = solve(p, March(16384), seed=99, save_kernels=[])
    runs = [solve(p, March(128, 8), seed=seed, save_kernels=[]) for seed in range(80)]
    f, sem = (np.array([getattr(run, what).f[1:] for run in runs]) for what in ("mean", "sem"))
    z = (f - reference.mean.f[1:]) / np.hypot(sem, reference.sem.f[1:])
    assert np.sqrt(np.mean(sem**2) / np.mean(f.var(0, ddof=1))) == pytest.approx(1, abs=0.2)
    assert 0.8 < np.mean(z**2) < 2.1
    assert 0.9 < np.mean(np.abs(z) < 2.36) < 0.99
    assert np.mean(np.abs(z - 2) < 2.36) < 0.75  # negative twin: off by two errors


def test_divergence_says_so() -> None:
    p = problem(2, "relu", eta0=60.0, num_steps=40)
    with pytest.raises(Unsolved, match=r"diverged at step \d+: lower eta0 from 60 to") as failure:
        solve(p)
    status = failure.value.result.status
    assert status.first_bad_step is not None
    assert status.suggested_eta0 is not None
    assert solve(p.replace(eta0=status.suggested_eta0)).status.ok
    assert not solve(p, throw=False).status.ok


def test_bad_settings() -> None:
    p = problem()
    with pytest.raises(ValueError, match="multiple of 4"):
        March(num_paths=1022)
    with pytest.raises(ValueError, match="at least 2"):
        March(num_replicas=1)
    with pytest.raises(ValueError, match="Raise num_paths to"):
        solve(p, March(num_paths=16))
    with pytest.raises(ValueError, match="has no infinite-width limit"):
        dmft.solve(p.replace(kind="standard"))
    with pytest.raises(ValueError, match="use method=Lazy"):
        dmft.solve(p.replace(kind="ntk"), March())
    with pytest.raises(ValueError, match=r"0 \.\.\. 8"):
        solve(p, save_kernels=[9])
    with pytest.raises(MemoryError, match=r"Lower March|would take"):
        solve(p, March(num_paths=2**34))
    with pytest.raises(MemoryError, match=r"Lower March|would take"):
        solve(p.replace(num_steps=10**11))
    with pytest.raises(ValueError, match=r"use method=Lazy\(\)"):
        solve(p.replace(gamma0=1e-120))
    for method in ("march", March):
        with pytest.raises(ValueError, match=r"Pass March\(\), TwoLayer\(\), DeepLinear\(\) or Lazy\(\)"):
            dmft.solve(p, method)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="problem must be a Problem"):
        dmft.solve(p.task)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["tanh", pytest.param("relu", marks=pytest.mark.slow)])
def test_singular_and_degenerate_tasks(activation: str) -> None:
    """Duplicated samples, one sample, P > D, constant labels, a zero input: all solved, duplicates predicted alike."""
    x = tasks.sphere(2, input_dim=6, seed=3).X
    for task in (
        Task(np.concatenate([x, x[:1]]), [1.0, -1.0, 1.0]),
        Task(x[:1], [0.5]),
        Task(np.random.default_rng(0).standard_normal((5, 2)), [1.0, 1.0, 1.0, 1.0, 1.0]),
        Task(np.concatenate([x, 0 * x[:1]]), [1.0, -1.0, 0.0]),
    ):
        theory = solve(problem(2, activation).replace(task=task))
        assert theory.status.ok
        if len(task.X) == 3 and np.array_equal(task.X[0], task.X[2]):
            assert np.allclose(theory.mean.f[:, 0], theory.mean.f[:, 2], atol=1e-6)


# --- points that drive nothing -----------------------------------------------------------------------------------------------


def twins(gamma0: float = 1.0) -> Problem:
    """Three train points; the first test point is the first of them once more, the others are new."""
    X = np.random.default_rng(5).standard_normal((6, 8))
    task = Task(X[:3], np.array([1.0, -1.0, 1.0]), np.concatenate([X[:1], X[3:]]), np.array([1.0, 1.0, -1.0, 1.0]))
    return Problem(MLP(3, "tanh"), Parameterization(gamma0), task, GradientDescent(0.5, 40))


def test_a_train_point_once_more() -> None:
    """As a test point it gives the same f, path by path but for rests of tol; another point does not."""
    f = solve(twins(), March(512, 4, tol=1e-4, control_variate=False), save_kernels=[]).samples.f
    assert np.abs(f[..., 3] - f[..., 0]).max() < 0.01
    assert np.abs(f[..., 4] - f[..., 0]).max() > 0.1


@pytest.mark.parametrize("activation", ["tanh", pytest.param("relu", marks=pytest.mark.slow)])
def test_noise_of_test_points(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features outside the basis on frozen noise that decays, against a basis made to hold them by looking at every step."""
    p = twins().replace(architecture=MLP(3, activation), num_steps=10, weight_decay=0.1)
    many, method = March(1024, 16, tol=1e-4), March(512, 16, tol=1e-4)
    inside = solve(p, many, save_kernels=range(11))

    def z() -> np.ndarray:
        outside = solve(p, method, seed=1, save_kernels=[])
        return (outside.mean.f - inside.mean.f)[1:, 4:] / np.hypot(outside.sem.f, inside.sem.f)[1:, 4:]

    assert np.abs(z()).max() < 4.5
    room = run.Run.with_room

    def noiseless(*args: object) -> State:
        state = room(*args)  # type: ignore[arg-type]
        return state._replace(xi={l: 0 * x for l, x in state.xi.items()})

    monkeypatch.setattr(run.Run, "with_room", noiseless)
    assert np.abs(z()).max() > 7
