"""The experiment trains what the Problem says: against closed forms, a plain loop, automatic differentiation, itself."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

import finite
from finite import mlp
from finite.keys import key_of
from widthwise import MLP, GradientDescent, Parameterization, Problem, Task, Unsolved, tasks

SEED = 20230410
"""Every key of this file derives from it. A test that samples names its own offset."""
DIGITS = tasks.digits(3, 2)
ONE_SAMPLE = Task([[1.0]], [1.0])


def a_problem(depth=2, activation="tanh", task=DIGITS, eta0=0.2, num_steps=6, **parameterization) -> Problem:
    return Problem(MLP(depth, activation), Parameterization(**parameterization), task, GradientDescent(eta0, num_steps))


def scales_of(problem: Problem, width: int):
    roles = ["input", *["hidden"] * (problem.architecture.depth - 1), "output"]
    return [
        mlp.Layer(problem.parameterization.scale(r, width=width, fan_in=problem.task.input_dim if r == "input" else width))
        for r in roles
    ]


def same(a, b, rtol: float) -> bool:
    """Whether f, Phi and G of all samples agree within rtol of the largest entry of each."""
    pairs = [(getattr(a.samples, x), getattr(b.samples, x)) for x in ("f", "Phi", "G")]
    return all(np.abs(x - y).max() <= rtol * np.abs(x).max() for x, y in pairs)


# Against a plain loop ------------------------------------------------------------------------------------------------


def plain_loop(problem: Problem, W: list[np.ndarray], gamma0: float, N: int):
    """Mean-field gradient descent as 2205.09653 writes it, columns for samples, tanh; f, phi, g at states 0 ... T."""
    task, eta0 = problem.task, problem.training.eta0
    x, P, L = task.X_all.T / np.sqrt(task.input_dim), task.num_train, len(W) - 1
    f, phi, g = [], [], []
    for _ in range(problem.training.num_steps + 1):
        h = [W[0] @ x]
        for l in range(1, L):
            h.append(W[l] @ np.tanh(h[-1]) / np.sqrt(N))
        phi.append([np.tanh(a) for a in h])
        f.append(W[L] @ phi[-1][-1] / (gamma0 * N))
        g.append([(1 - phi[-1][-1] ** 2) * W[L][:, None]])
        for l in range(L - 1, 0, -1):
            g[-1].insert(0, (1 - phi[-1][l - 1] ** 2) * (W[l].T @ g[-1][0] / np.sqrt(N)))
        Delta = (task.y - f[-1][:P] + f[0][:P]) / P
        below = [np.sqrt(N) * x, *phi[-1]]
        for l in range(L):
            W[l] = W[l] + eta0 * gamma0 / np.sqrt(N) * (Delta * g[-1][l][:, :P]) @ below[l][:, :P].T
        W[L] = W[L] + eta0 * gamma0 * phi[-1][-1][:, :P] @ Delta
    return np.array(f) - f[0], np.array(phi), np.array(g)


def test_record_is_that_of_a_plain_loop():
    N, gamma0 = 7, 1.5
    problem = a_problem(depth=3, gamma0=gamma0)
    states = range(7)
    result = finite.train(problem, width=N, num_seeds=2, seed=SEED, save_kernels=states, dtype="float64")
    key = jax.random.fold_in(key_of(SEED, N), 1)
    scales, dtype = scales_of(problem, N), jnp.dtype("float32")
    init = jax.jit(partial(mlp.init, scales=scales, width=N, input_dim=64, num_outputs=1, dtype=dtype))
    W = [np.asarray(layer.W, np.float64) for layer in init(key)]  # unit normal in the mean-field form
    W[-1] = W[-1][0]
    f, phi, g = plain_loop(problem, W, gamma0, N)
    expected = {
        "f": f,
        "loss": ((DIGITS.y - f[:, :3]) ** 2).mean(1) / 2,
        "test_loss": ((DIGITS.y_test - f[:, 3:]) ** 2).mean(1) / 2,
        "Phi": np.einsum("tlim,slin->ltmsn", phi, phi) / N,
        "G": np.einsum("tlim,slin->ltmsn", g, g) / N,
    }
    for name, value in expected.items():
        got = getattr(result.samples, name)[1]
        # rounding 1e-16, some hundred operations per step, six steps that amplify by less than ten: below 1e-12
        np.testing.assert_allclose(got, value, atol=1e-12, err_msg=name)
        shifted = np.roll(got, 1, axis=0 if got.ndim < 5 else 1)  # negative twin: time off by one
        assert np.abs(shifted - value).max() > 1e-3, name


# Parameterizations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_parameterizations_are_one_network(depth):
    N, gamma0 = 7, 0.8

    def run(**parameterization):
        problem = a_problem(depth, **parameterization)
        return finite.train(problem, width=N, num_seeds=2, seed=SEED, save_kernels=range(7), dtype="float64")

    field = run(gamma0=gamma0)
    # the same products in another order: rounding 1e-16, amplified less than a thousandfold by six steps
    assert same(field, run(gamma0=gamma0, kind="mup"), 1e-12)
    assert same(field, run(gamma0=gamma0 * N**0.5, kind="ntk"), 1e-12)
    assert not same(field, run(gamma0=gamma0 * 1.001, kind="mup"), 1e-6)
    assert not same(field, run(gamma0=gamma0, kind="ntk"), 1e-2)


def test_update_is_the_gradient():
    N, P = 6, 3
    act = MLP(3, "gelu").activation
    y = jnp.array([[1.0], [-2.0], [0.5]])

    @jax.jit
    def moves(weights, scales, X, eta0):
        """The moves that finite.mlp makes, and -eta0 c_l d loss / d W^l."""
        rule = 0.0, False, 0.0  # no momentum, no weight decay

        def loss(weights):
            return jnp.mean((y - mlp.forward(weights, scales, act, X)[2]) ** 2) / 2

        h, phi, f = mlp.forward(weights, scales, act, X)
        G = mlp.descent(weights, scales, act, h, phi, (y - f) / P)
        new, _ = mlp.move(weights, None, G, jnp.full(4, eta0), *rule)
        expected = [-eta0 * scale.W.learning_rate * x.W for scale, x in zip(scales, jax.grad(loss)(weights), strict=True)]
        return [after.W - before.W for before, after in zip(weights, new, strict=True)], expected

    # W^l moves by a sum over samples of g phi^T; the P < N rows phi are independent, so equal moves mean equal g^l
    with jax.enable_x64(True):
        X = jax.random.normal(jax.random.key(SEED), (P, 5))
        init = jax.jit(partial(mlp.init, width=N, input_dim=5, num_outputs=1, dtype=jnp.dtype("float64")))
        for kind in ("mean_field", "mup", "ntk", "standard"):
            problem = a_problem(3, kind=kind, gamma0=1.0 if kind == "standard" else 1.7)
            scales = scales_of(problem, N)
            weights = init(jax.random.key(SEED + 1), scales)
            for move, right in zip(*moves(weights, scales, X, 0.3), strict=True):
                # 1e-16 of the weight, which is at most a thousand times its move
                np.testing.assert_allclose(move, right, rtol=1e-9, atol=1e-12)
                assert not np.allclose(move, right * P, rtol=1e-2)  # negative twin: the 1 / P of the mean forgotten


def test_output_at_initialization_has_variance_one_over_N():
    """f(0) = w . h / (gamma0 N) with w, h ~ N(0, 1): N Var f(0) = 1 / gamma0^2 exactly, at every N (depth 1, linear)."""
    num_seeds, gamma0 = 4096, 0.5

    def statistic(value, **parameterization) -> float:
        total = 0.0
        for N in (32, 64):
            problem = a_problem(1, "linear", ONE_SAMPLE, 0.05, 40, centered=False, **parameterization)
            result = finite.train(problem, width=N, num_seeds=num_seeds, seed=SEED, save_kernels=[], throw=False)
            squares = N * result.samples.f[:, 0, 0].astype(float) ** 2
            total += (squares.mean() - value) ** 2 / (squares.var(ddof=1) / num_seeds)
        return total

    bound = chi2.ppf(0.999, df=2)
    assert statistic(1 / gamma0**2, gamma0=gamma0) < bound
    assert statistic(1 / (1.2 * gamma0) ** 2, gamma0=gamma0) > bound  # gamma0 off by 20 %
    for value in (32, 64):  # there Var f(0) = 1 at every width: no one value fits N Var f(0)
        assert statistic(value, kind="standard") > bound


# The two-layer linear network on one sample --------------------------------------------------------------------------


def recursion(f, K, *, eta, gamma0, y, num_steps):
    """f, K at states 0 ... T: the recursion of 2304.03408, exact at every width."""
    fs, Ks = [f], [K]
    for _ in range(num_steps):
        Delta = y - f
        f, K = (
            f + eta * K * Delta + eta**2 * gamma0**2 * f * Delta**2,
            K + 4 * eta * gamma0**2 * f * Delta + eta**2 * gamma0**2 * K * Delta**2,
        )
        fs.append(f)
        Ks.append(K)
    return np.array(fs), np.array(Ks)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    eta=st.floats(0.01, 0.2),
    gamma0=st.floats(0.1, 3.0),
    y=st.floats(-2.0, 2.0),
    N=st.sampled_from([1, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_network_follows_the_recursion(eta, gamma0, y, N, seed):
    problem = a_problem(1, "linear", Task([[1.0]], [y]), eta, 12, gamma0=gamma0, centered=False)
    run = finite.train(problem, width=N, num_seeds=4, seed=seed, save_kernels=range(13), dtype="float64", throw=False)
    f, K = run.samples.f[..., 0], run.samples.tangent_kernel(np.ones((1, 1)))[..., 0, 0]
    assume(np.abs(f).max() < 100 and K.max() < 100)
    expected_f, expected_K = recursion(f[:, 0], K[:, 0], eta=eta, gamma0=gamma0, y=y, num_steps=12)
    # rounding 1e-16 of numbers below 100, amplified at each of 12 steps by at most |1 - eta K| + ... ~ 5: below 1e-6 even in
    # catapults, and 1e-13 in smooth training
    np.testing.assert_allclose(f, expected_f.T, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(K, expected_K.T, rtol=1e-7, atol=1e-7)


def test_recursion_sees_a_wrong_gamma0():
    problem = a_problem(1, "linear", ONE_SAMPLE, 0.05, 12, gamma0=1.0, centered=False)
    run = finite.train(problem, width=1, num_seeds=4, seed=SEED, save_kernels=range(13), dtype="float64")
    f, K = run.samples.f[..., 0], run.samples.tangent_kernel(np.ones((1, 1)))[..., 0, 0]
    wrong, _ = recursion(f[:, 0], K[:, 0], eta=0.05, gamma0=1.001, y=1.0, num_steps=12)
    assert np.abs(f - wrong.T).max() > 1e-5


TIMES = np.array([0, 5, 10, 20, 40])


def fluctuations(gamma0: float) -> tuple[np.ndarray, np.ndarray]:
    """N Var f and N bias at TIMES as N -> infinity, from derivatives of the map (f(0), K(0)) -> f(t) at (0, 2)."""

    def F(f, K):
        return recursion(f, K, eta=0.05, gamma0=gamma0, y=1.0, num_steps=40)[0][TIMES]

    e = 1e-3  # central differences: errors e^2 and 1e-16 / e^2, both below 1e-5
    F_f, F_K = (F(e, 2.0) - F(-e, 2.0)) / (2 * e), (F(0.0, 2 + e) - F(0.0, 2 - e)) / (2 * e)
    F_ff = (F(e, 2.0) - 2 * F(0.0, 2.0) + F(-e, 2.0)) / e**2
    F_KK = (F(0.0, 2 + e) - 2 * F(0.0, 2.0) + F(0.0, 2 - e)) / e**2
    return F_f**2 / gamma0**2 + 4 * F_K**2, F_ff / (2 * gamma0**2) + 2 * F_KK


def test_fluctuations_are_the_published_numbers():
    variance, bias = fluctuations(1.0)
    np.testing.assert_allclose(variance, [1, 0.511, 0.293, 0.046, 0.000], atol=5e-4)  # to the digits printed
    np.testing.assert_allclose(bias, [0, -0.189, -0.396, -0.318, -0.042], atol=5e-4)


@pytest.mark.parametrize("gamma0", [1.0, 0.6])
def test_fluctuations_of_two_layer_linear_networks(gamma0):
    """Means and variances at N = 32 and 64, extrapolated: 2 x(64) - x(32) is free of the first correction in 1/N."""
    num_seeds = 2**16
    limit = recursion(0.0, 2.0, eta=0.05, gamma0=gamma0, y=1.0, num_steps=40)[0][TIMES]
    values, errors = [], []
    for N in (32, 64):
        problem = a_problem(1, "linear", ONE_SAMPLE, 0.05, 40, gamma0=gamma0, centered=False)
        run = finite.train(problem, width=N, num_seeds=num_seeds, seed=SEED + N, save_kernels=[])
        f = run.samples.f[:, TIMES, 0].astype(float)
        variance, fourth = f.var(0), ((f - f.mean(0)) ** 4).mean(0)
        values.append(N * np.stack([variance, f.mean(0) - limit]))
        errors.append(N * np.sqrt(np.stack([fourth - variance**2, variance]) / num_seeds))
    value, error = 2 * values[1] - values[0], np.hypot(2 * errors[1], errors[0])

    def agrees(predicted) -> bool:
        return bool((np.abs(value - np.stack(predicted)) < 3 * error + 1e-6).all())

    assert agrees(fluctuations(gamma0)), (value, fluctuations(gamma0), error)
    assert not agrees(fluctuations(1.2 * gamma0))
    assert not agrees(np.roll(fluctuations(gamma0), 1, axis=1))


# Chunks, seeds, compilation ------------------------------------------------------------------------------------------


def bits(result, n: int = 3) -> list[bytes]:
    return [getattr(result.samples, name)[:n].tobytes() for name in ("f", "loss", "test_loss", "Phi", "G")]


def test_chunks_and_seeds_and_compilation(compilations):
    problem = a_problem(2, task=tasks.digits(8, 8), num_steps=12)
    many = finite.train(problem, width=40, num_seeds=50, seed=SEED)
    assert many.stats["chunks"] > 2
    compilations.clear()
    few = finite.train(problem, width=40, num_seeds=3, seed=SEED)
    assert few.stats["chunks"] == 1
    assert bits(few) == bits(many)
    other = finite.train(problem, width=40, num_seeds=3, seed=SEED + 1)
    assert not any(a == b for a, b in zip(bits(few), bits(other), strict=True))
    for change in ({"eta0": 0.1}, {"gamma0": 2.0}, {"kind": "ntk"}, {"centered": False}):
        assert bits(finite.train(problem.replace(**change), width=40, num_seeds=3, seed=SEED)) != bits(few)
    assert compilations == []  # settings are arguments of the program, not part of it

    # so little memory that a chunk is smaller: another program, the same to float32 rounding 6e-8 times less than 100
    per_seed = 2**20 // many.stats["seeds_per_chunk"]
    tight = finite.train(problem, width=40, num_seeds=3, seed=SEED, memory=4 * per_seed)
    assert tight.stats["seeds_per_chunk"] < many.stats["seeds_per_chunk"]
    assert same(few, tight, 6e-6)
    assert compilations  # negative twin: the counter counts


def test_precisions_train_the_same_networks():
    problem = a_problem(2, num_steps=6, centered=False)
    before = jax.config.jax_enable_x64
    single = finite.train(problem, width=7, num_seeds=2, seed=SEED, save_kernels=range(7))
    double = finite.train(problem, width=7, num_seeds=2, seed=SEED, save_kernels=range(7), dtype="float64")
    assert jax.config.jax_enable_x64 == before
    assert (single.samples.f.dtype, double.samples.f.dtype) == (np.float32, np.float64)
    assert same(double, single, 6e-6)  # float32 rounding 6e-8 times less than 100
    assert not same(double, single, 1e-10)


@pytest.mark.parametrize("gamma0", [1.0, 1e-2, 1e-3])
def test_rounding_error_is_what_the_docstring_says(gamma0):
    problem = a_problem(2, num_steps=6, gamma0=gamma0)
    single, double = (
        finite.train(problem, width=7, num_seeds=2, seed=SEED, save_kernels=range(7), dtype=dtype).samples.f
        for dtype in ("float32", "float64")
    )
    error = 25 * np.finfo(np.float32).eps / gamma0
    assert 0.002 * error < np.abs(single - double).max() < error  # an order of magnitude: few steps round less


def test_too_lazy_for_the_precision():
    with pytest.raises(ValueError, match=r"gamma0 = 1e-06 is too small for float32 .* Pass dtype=\"float64\""):
        finite.train(a_problem(gamma0=1e-6), width=7, num_seeds=2)
    with pytest.raises(ValueError, match=r"too small for float64 .* Raise gamma0"):
        finite.train(a_problem(gamma0=1e-14), width=7, num_seeds=2, dtype="float64")


# Time ----------------------------------------------------------------------------------------------------------------


def test_index_t_is_the_state_before_update_t():
    longer = finite.train(a_problem(num_steps=6), width=7, num_seeds=2, seed=SEED, save_kernels=range(7)).samples
    shorter = finite.train(a_problem(num_steps=1), width=7, num_seeds=2, seed=SEED).samples
    for kernel in ("Phi", "G"):
        state = longer.equal_time(kernel)
        np.testing.assert_allclose(shorter.equal_time(kernel)[:, :, 1], state[:, :, 1], rtol=1e-5, atol=1e-6)  # float32
        assert np.abs(state[:, :, 1] - state[:, :, 0]).max() > 1e-2
    np.testing.assert_allclose(shorter.f, longer.f[:, :2], rtol=1e-5, atol=1e-6)
    assert (longer.f[:, 0] == 0).all()  # centred
    assert (longer.f[:, 1] != 0).all()


def test_what_is_not_asked_for_is_none():
    problem = dataclasses.replace(a_problem(num_steps=6), task=Task(DIGITS.X, DIGITS.y, DIGITS.X_test))
    result = finite.train(problem, width=7, num_seeds=1, save_kernels=[])
    assert (result.mean.Phi, result.mean.G, result.mean.test_loss) == (None, None, None)
    assert result.mean.kernel_steps.size == 0
    assert result.mean.f.shape == (7, 5)
    assert np.isinf(result.sem.f).all()  # one network says nothing of the spread


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("width", 0, "width must be a whole number of at least 1, got 0"),
        ("width", -3, "got -3"),
        ("width", 2.5, "got 2.5"),
        ("num_seeds", 0, "num_seeds must be a whole number"),
        ("seed", -1, "seed must be"),
        ("seed", 2**32, "whole number in 0 ... 4294967295"),
        ("dtype", "bfloat16", "'float32', 'float64'"),
        ("save_kernels", [7], "must lie in 0 ... 6"),
        ("memory", 0, "number of bytes"),
    ],
)
def test_bad_input(setting, value, says):
    with pytest.raises(ValueError, match=says):
        finite.train(a_problem(), **({"width": 8, "num_seeds": 2} | {setting: value}))


def test_problem_must_be_a_problem():
    with pytest.raises(ValueError, match="problem must be a Problem"):
        finite.train(Parameterization(), width=8, num_seeds=2)


def test_divergence():
    problem = a_problem(2, task=tasks.digits(8, 8), eta0=300.0, num_steps=12)
    with pytest.raises(Unsolved, match="training of 20 of 20 networks diverged at step") as caught:
        finite.train(problem, width=40, num_seeds=20, seed=SEED)
    status = caught.value.result.status
    partial_result = finite.train(problem, width=40, num_seeds=20, seed=SEED, throw=False)
    assert partial_result.status == status
    assert 0 < status.first_bad_step <= 12
    assert np.isfinite(partial_result.samples.f[:, : status.first_bad_step]).all()
    assert finite.train(problem.replace(eta0=status.suggested_eta0), width=40, num_seeds=20, seed=SEED).status.ok


def test_one_diverged_network_is_not_averaged_away():
    # the recursion diverges from about eta K(0) > 4, and K(0) is broad at width 1
    problem = a_problem(1, "linear", ONE_SAMPLE, 0.8, 12, centered=False)
    result = finite.train(problem, width=1, num_seeds=64, seed=SEED, save_kernels=range(13), dtype="float64", throw=False)
    bad = (~(np.abs(result.samples.f) < 2e3)).any((1, 2)).sum()  # loss a million times its scale 1 / 2, to a few
    assert 0 < bad < 32
    assert f"training of {bad} of 64 networks" in result.status.message


def test_memory_is_asked_before_the_start():
    with pytest.raises(MemoryError, match=r"memory=1000 allows .* Lower num_seeds"):
        finite.train(a_problem(), width=8, num_seeds=2, memory=1000)
    with pytest.raises(MemoryError, match=r"GiB are free\. Lower num_seeds"):
        finite.train(a_problem(), width=8, num_seeds=10**12)
    with pytest.raises(MemoryError, match="GiB are free"):
        finite.train(a_problem(), width=10**7, num_seeds=1)


def test_networks_of_two_widths_are_independent():
    """Of one seed: f is not correlated between widths; from one key, without the width in it, it would be."""
    task, training = tasks.sphere(2, input_dim=6), GradientDescent(0.5, 6)
    problem = Problem(MLP(1, "tanh"), Parameterization(), task, training)
    a, b = (finite.train(problem, width=N, num_seeds=512, seed=SEED, progress=False).samples.f[:, 1] for N in (16, 32))
    alike = [abs(np.corrcoef(a[:, m], b[:, m])[0, 1]) for m in range(2)]
    assert max(alike) < 4 / np.sqrt(512)
    key, first = jax.random.key(SEED), []
    for N in (16, 32):
        weights = jax.vmap(lambda number, N=N: jax.random.normal(jax.random.fold_in(key, number), (N, 6)))(np.arange(512))
        first.append(np.asarray(weights).mean((1, 2)))
    assert np.corrcoef(*first)[0, 1] > 0.5
