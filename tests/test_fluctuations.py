"""The 1/N theory against closed forms, against the networks that it is a theory of, and against ensembles."""

from __future__ import annotations

import dataclasses
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compare
import dmft
import finite
from widthwise import MLP, Estimate, Fluctuations, GradientDescent, Parameterization, Problem, Result, schedules, tasks
from widthwise.precision import float64

functional = import_module("dmft.fluctuations.functional")
response = import_module("dmft.fluctuations.response")

WIDTHS = (64, 128, 256)


def problem(
    act: str = "tanh", depth: int = 1, gamma0: float = 1.0, eta0: float = 0.5, num_steps: int = 12, **more: Any
) -> Problem:
    training = GradientDescent(eta0, num_steps, **more)
    return Problem(MLP(depth, act), Parameterization(gamma0=gamma0), tasks.sphere(4, 2, input_dim=8), training)


@lru_cache
def ensembles(p: Problem, num_seeds: int) -> dict[int, Result]:
    return {N: finite.train(p, width=N, num_seeds=num_seeds, progress=False) for N in WIDTHS}


@lru_cache
def theory(p: Problem, **settings: Any) -> Fluctuations:
    return dmft.fluctuations(p, progress=False, **settings)


# --- closed forms -----------------------------------------------------------------------------------------------------------


def closed_form(gamma0: float, eta: float, y: float, num_steps: int, centered: bool) -> tuple[np.ndarray, np.ndarray]:
    """N Var f and N bias f of a two-layer linear network on one sample, |x|^2 = D, exactly solvable at every N.

    (f, K) follow f' = f + eta K Delta + eta^2 gamma0^2 f Delta^2 and K' = K + 4 eta gamma0^2 f Delta + eta^2 gamma0^2 K Delta^2
    from f(0) ~ N(0, 1 / gamma0^2 N), K(0) = 2 + N(0, 4 / N); f counts from f(0) if outputs are centred.
    """

    def f_of(start: jax.Array) -> jax.Array:
        f0, K = start
        f, out = f0, []
        for _ in range(num_steps + 1):
            shown = f - f0 if centered else f
            Delta = y - shown
            out.append(shown)
            f, K = (
                f + eta * K * Delta + eta**2 * gamma0**2 * f * Delta**2,
                K + 4 * eta * gamma0**2 * f * Delta + eta**2 * gamma0**2 * K * Delta**2,
            )
        return jnp.stack(out)

    with float64():
        at = jnp.array([0.0, 2.0])
        J, H = jax.jacobian(f_of)(at), jax.hessian(f_of)(at)
        variance = J[:, 0] ** 2 / gamma0**2 + 4 * J[:, 1] ** 2
        return np.asarray(variance), np.asarray(H[:, 0, 0] / (2 * gamma0**2) + 2 * H[:, 1, 1])


def one_sample(gamma0: float, centered: bool) -> Problem:
    task = tasks.Task(np.ones((1, 4)), np.ones(1))
    return Problem(MLP(1, "linear"), Parameterization(gamma0=gamma0, centered=centered), task, GradientDescent(0.05, 40))


@pytest.mark.parametrize("centered", [True, False])
def test_two_layer_linear_closed_form(centered: bool) -> None:
    got = theory(one_sample(1.0, centered), num_paths=1024, num_replicas=8)
    assert got.bias is not None
    for gamma0, agree in ((1.0, True), (1.2, False)):
        for result, exact in zip((got.variance, got.bias), closed_form(gamma0, 0.05, 1.0, 40, centered), strict=True):
            t = np.arange(2, 41)
            error = np.abs(result.mean.f[t, 0] - exact[t])
            assert agree == bool((error < 4 * result.sem.f[t, 0] + 0.01 * np.abs(exact).max()).all())


def test_the_numbers_of_the_design() -> None:
    """eta = 0.05, gamma0 = 1, y = 1, not centred, at t = 0, 5, 10, 20, 40: published with a simulation beside them."""
    variance, bias = closed_form(1.0, 0.05, 1.0, 40, centered=False)
    t = [0, 5, 10, 20, 40]
    np.testing.assert_allclose(variance[t], [1, 0.511, 0.293, 0.046, 0.000], atol=5e-4)
    np.testing.assert_allclose(bias[t], [0, -0.189, -0.396, -0.318, -0.042], atol=5e-4)


def test_covariance_at_the_start_grows_with_depth() -> None:
    """Linear, |x|^2 = D: N Cov(Phi^l, Phi^m) = 2 min(l, m), N Cov(G^l, G^m) = 2 min(L + 1 - l, L + 1 - m); networks too."""
    L = 3
    task = tasks.Task(np.ones((1, 4)), np.ones(1))
    p = Problem(MLP(L, "linear"), Parameterization(), task, GradientDescent(0.01, 1))
    got = theory(p, num_paths=512, bias=False, save_kernels=(0,))
    l = np.arange(1, L + 1)
    forward, backward = np.minimum.outer(l, l), np.minimum.outer(L + 1 - l, L + 1 - l)
    net = finite.train(p, width=128, num_seeds=4096, save_kernels=[0], progress=False)
    for name, depth in (("Phi", forward), ("G", backward)):
        here = got.covariance(name, name).reshape(L, L)
        np.testing.assert_allclose(here, 2 * depth, atol=0.35)  # five standard errors of <IF^2> over 2048 paths
        seen = 128 * np.cov(getattr(net.samples, name).reshape(-1, L).T)
        np.testing.assert_allclose(seen, 2 * depth, atol=0.12 * depth.max())
        assert np.abs(here - 2 * depth[::-1, ::-1]).max() > 2


# --- the functional is a network ----------------------------------------------------------------------------------------


def march_of_plain_noise(p: Problem, N: int, num: int) -> np.ndarray:
    """f of `num` marches of N paths with plain noise, all functions kept: networks of width N, if the theory holds."""
    with float64():
        setting = response.Setting(response.Form.of(p), True, 1, 0, 1, 1, False)
        physics, steps = response.physics_of(p, 1e-9), response.steps_of(p, np.array([0]))
        L, rank = p.architecture.depth, (24, 24)
        rng = np.random.default_rng(0)
        out = []
        for _ in range(num):
            u, r = (
                {l: rng.standard_normal((N, n(l))) for l in range(1, L + 1)}
                for n in (
                    lambda l: physics.watched.shape[1] if l == 1 else rank[0],
                    lambda l: 1 if l == L else rank[1],
                )
            )
            noise = functional.Noise(u, r)
            plan, size = functional.explore(setting.form, physics, noise, steps, centered=True, rank=rank)
            assert max(int(n) for n in jax.tree.leaves(size)) <= 24
            w = {l: jnp.ones(N) for l in u}
            out.append(np.asarray(_train(setting, physics, w, noise, steps, plan)))
    return np.array(out)[..., 0]


@partial(jax.jit, static_argnums=0)
def _train(setting: Any, physics: Any, w: Any, noise: Any, steps: Any, plan: Any) -> jax.Array:
    return response.functional_of(setting, physics, noise, steps, plan, w).f


def test_a_march_of_plain_noise_is_a_network() -> None:
    """Mean and variance over 768 marches of 32 paths are those of networks of width 32: at finite N, not to leading order."""
    p = Problem(MLP(2, "tanh"), Parameterization(gamma0=2.0), tasks.sphere(2, 1, input_dim=4), GradientDescent(0.4, 6))
    marches = march_of_plain_noise(p, 32, 768)
    for gamma0, agree in ((2.0, True), (3.0, False)):
        q = p.replace(parameterization=Parameterization(gamma0=gamma0))
        net = finite.train(q, width=32, num_seeds=16384, dtype="float64", progress=False).samples.f
        t = np.arange(1, 7)
        error = np.sqrt(marches.var(0)[t] / len(marches) + net.var(0)[t] / len(net))
        z = (marches.mean(0)[t] - net.mean(0)[t]) / error
        spread = np.log(marches.var(0)[t] / net.var(0)[t]) / np.sqrt(3 / len(marches))  # kurtosis up to 4
        assert agree == bool((np.abs(z) < 4).all() and (np.abs(spread) < 4).all())


# --- ensembles ----------------------------------------------------------------------------------------------------------

FAST = {
    "tanh, one layer": (problem("tanh", 1), {"num_paths": 2048}),
    "tanh, two layers": (problem("tanh", 2, num_steps=6), {"num_paths": 512, "bias": False, "num_directions": 20}),
}


@pytest.mark.parametrize("case", FAST)
def test_theory_predicts_ensembles(case: str) -> None:
    p, settings = FAST[case]
    nets = ensembles(p, 2048)
    assert compare.deviations(theory(p, **settings), nets)
    twin = p.replace(parameterization=Parameterization(gamma0=1.2))
    assert not compare.deviations(theory(twin, **settings), nets)


def test_terms_beyond_1_over_n_are_not_taken_for_a_wrong_theory() -> None:
    """Made ensembles, N Var x = S (1 + 300 / N^2): four widths tell the last term, three do not (the negative twin)."""
    expected = theory(problem("tanh", 1), num_paths=2048, bias=False)
    rng, limit, S = np.random.default_rng(0), expected.limit.mean, expected.variance.mean

    def made(N: int, n: int = 4096) -> Result:
        z = rng.standard_normal(n) * np.sqrt((1 + 300 / N**2) / N)
        more = {name: getattr(limit, name) + np.multiply.outer(z, np.sqrt(getattr(S, name))) for name in ("f", "Phi", "G")}
        samples = dataclasses.replace(expected.limit.samples, **more)
        return dataclasses.replace(expected.limit, trajectory=Estimate.of(samples))

    nets = {N: made(N) for N in (16, 32, 64, 128)}
    assert compare.deviations(expected, nets)
    assert not compare.deviations(expected, {N: nets[N] for N in (16, 32, 64)})


SLOW = {
    **{f"{act}, gamma0 = {g}": (problem(act, 1, g, num_steps=20), {}) for act in ("tanh", "relu") for g in (0.3, 1.0, 2.0)},
    "linear, depth 1": (problem("linear", 1, num_steps=20), {}),
    "linear, depth 3": (problem("linear", 3, eta0=0.3, num_steps=20), {}),
    "tanh, depth 2": (problem("tanh", 2, num_steps=20), {}),
    "relu, depth 2": (problem("relu", 2, num_steps=20), {}),
    "momentum, batches, schedule": (
        problem("tanh", 2, eta0=0.3, batch_size=2, momentum=0.6, weight_decay=0.05, schedule=schedules.cosine(12)),
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_theory_predicts_ensembles_of_every_kind(case: str) -> None:
    p, settings = SLOW[case]
    nets = ensembles(p, 4096)
    verdict = compare.deviations(theory(p, **settings), nets)
    assert verdict, str(verdict)
    g = p.parameterization.gamma0
    twins = [p.replace(parameterization=Parameterization(gamma0=factor * g)) for factor in (0.8, 1.2)]
    assert not all(compare.deviations(theory(twin, bias=False), nets) for twin in twins)


def test_classes_batches_and_momentum() -> None:
    """Three outputs, cross-entropy, mini-batches with momentum: shapes, and N Var f of networks."""
    task = tasks.digits(num_train=6, num_test=2, classes=(0, 1, 2))
    training = GradientDescent(0.5, 5, "cross_entropy", batch_size=3, momentum=0.5, weight_decay=0.01)
    p = Problem(MLP(1, "tanh"), Parameterization(), task, training)
    got = theory(p, num_paths=1024, bias=False)
    assert got.variance.mean.f.shape == (6, 8, 3)
    net = finite.train(p, width=256, num_seeds=2048, progress=False)
    there = 256 * net.samples.f.var(0, ddof=1)
    ratio = (got.variance.mean.f[1:] * there[1:]).sum() / (there[1:] ** 2).sum()
    assert abs(ratio - 1) < 0.06
    wrong = theory(p.replace(training=GradientDescent(0.5, 5, "cross_entropy", batch_size=3)), num_paths=1024, bias=False)
    assert abs((wrong.variance.mean.f[1:] * there[1:]).sum() / (there[1:] ** 2).sum() - 1) > 0.12


# --- results ------------------------------------------------------------------------------------------------------------------


def test_losses_at_finite_width() -> None:
    p = problem("tanh", 1)
    got = theory(p, num_paths=2048)
    net = ensembles(p, 2048)[64]
    single, ensemble = got.loss(64), got.loss(64, members=float("inf"))
    y, mean = p.task.y, net.mean.f[:, :4]
    t = np.arange(1, 13)
    np.testing.assert_allclose(single[t], net.mean.loss[t], atol=4 * net.sem.loss[t].max())
    np.testing.assert_allclose(ensemble[t], ((y - mean) ** 2).mean(1)[t] / 2, atol=4 * net.sem.loss[t].max())
    assert (np.abs(single - got.limit.mean.loss)[3:9] > 4 * net.sem.loss[3:9]).any()


def test_saved_and_read_again(tmp_path: Any) -> None:
    got = theory(one_sample(1.0, True), num_paths=1024, num_replicas=8)
    got.save(tmp_path / "theory")
    again = Fluctuations.load(tmp_path / "theory")
    np.testing.assert_array_equal(again.variance.mean.f, got.variance.mean.f)
    np.testing.assert_array_equal(again.covariance("f", "Phi"), got.covariance("f", "Phi"))
    assert str(again) == str(got)
    with pytest.raises(ValueError, match="holds no fluctuations"):
        Fluctuations.load(tmp_path)
    rows = tmp_path / "theory" / "rows.npz"
    rows.write_bytes(rows.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"rows\.npz is not a file of arrays or is damaged"):
        Fluctuations.load(tmp_path / "theory")


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        ({"architecture": MLP(1, "tanh", bias=0.5)}, {}, "bias"),
        ({"parameterization": Parameterization(kind="ntk")}, {}, "mean_field"),
        ({"training": GradientDescent(0.5, 5, flow=True)}, {}, "flow"),
        ({"training": GradientDescent(0.5, 5, temperature=0.1)}, {}, "temperature"),
        ({"architecture": MLP(2, "relu")}, {"bias": True}, "bias=False"),
        ({}, {"num_paths": 30}, "multiple of 4"),
        ({}, {"num_replicas": 1}, "num_replicas"),
        ({"architecture": MLP(2, "tanh")}, {"num_paths": 32}, "raise num_paths"),
    ],
)
def test_what_it_does_not_know(change: dict[str, Any], settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dmft.fluctuations(problem().replace(**change), progress=False, **settings)


def test_streams() -> None:
    """One pass over a stream, watched at test points: N Var f of networks, and not that of another stream."""
    training = GradientDescent(0.5, 5, batch_size=4, sampling="online")
    p = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(24, 3, input_dim=8), training)
    got = theory(p, num_paths=1024, bias=False, save_kernels=())
    assert got.variance.mean.f.shape == (6, 3)
    assert got.variance.mean.Phi.size == 0
    net = finite.train(p, width=256, num_seeds=2048, progress=False)
    there = 256 * net.samples.f.var(0, ddof=1)[1:]
    np.testing.assert_allclose(got.variance.mean.f[1:], there, atol=0.15 * there.max())  # four errors of 2048 seeds
    np.testing.assert_allclose(got.limit.mean.loss, net.mean.loss, atol=4 * net.sem.loss.max() + 0.01)
    other = p.replace(task=tasks.sphere(24, 3, input_dim=8, seed=1))
    assert np.abs(theory(other, num_paths=1024, bias=False).variance.mean.f[1:] - there).max() > 0.3 * there.max()
