"""Networks with one hidden layer: particles against quadrature, closed forms, and networks written out in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dmft.deep_linear import DeepLinear
from dmft.lazy import Lazy
from dmft.two_layer import NODES, SAVES, TwoLayer, trapezoid
from widthwise import MLP, GradientDescent, Parameterization, Problem, Task, memory, schedules, tasks

ONE, TWO = tasks.sphere(1, input_dim=8), tasks.sphere(2, input_dim=8)
RNG = np.random.default_rng(0)
X, X_TEST = RNG.standard_normal((6, 4)), RNG.standard_normal((2, 4))
CLASSES = np.eye(3)[[0, 1, 2, 1, 0, 2]]
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])


def make(activation="tanh", gamma0=1.0, task=ONE, eta0=0.5, num_steps=12, bias=0.0, **training) -> Problem:
    return Problem(MLP(1, activation, bias), Parameterization(gamma0), task, GradientDescent(eta0, num_steps, **training))


def solve(problem, method=TwoLayer(), steps=None, **settings):  # noqa: B008
    steps = [0, problem.training.num_steps] if steps is None else steps
    return method.run(problem, seed=0, kernel_steps=np.array(steps, dtype=int), progress=False, **settings)


def exact(problem, steps=None):
    estimate, status, stats = solve(problem, TwoLayer(quadrature=True), steps)
    assert status.ok
    assert estimate.n == 0
    assert stats["quadrature error"] < 1e-6
    return estimate.mean


# --- closed forms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma0", [0.1, 2.0])
def test_linear_networks_are_exact(gamma0):
    """Second moments of whitened particles close on themselves: rounding only, with 64 particles."""
    problem = make("linear", gamma0, tasks.gaussian(3, 1, input_dim=6, seed=1), 0.3)
    theory = solve(problem, DeepLinear(), range(13)).trajectory.mean
    mean = solve(problem, TwoLayer(64), range(13)).trajectory.mean
    for name in ("f", "loss", "test_loss", "Phi", "G"):
        np.testing.assert_allclose(mean[name], theory[name], rtol=1e-11, atol=1e-13)
    other = solve(problem.replace(gamma0=1.1 * gamma0), TwoLayer(64), range(13)).trajectory.mean
    assert not np.allclose(other["f"], theory["f"], rtol=1e-6, atol=0)  # negative twin


def test_one_sample_follows_the_recursion():
    """f, K of 2304.03408, exact at every N; by quadrature and by particles."""
    problem = make("linear", 2.0, Task([[1.0]], [1.0]), 0.2, 40)
    f, K, expected = 0.0, 2.0, []
    for _ in range(41):
        expected.append((f, K))
        Delta, c = 1.0 - f, 0.2 * 2.0
        f, K = f + 0.2 * K * Delta + c**2 * f * Delta**2, K + 4 * c * 2.0 * f * Delta + c**2 * K * Delta**2
    for mean in (exact(problem, range(41)), solve(problem, TwoLayer(64, quadrature=False), range(41)).trajectory.mean):
        got = np.stack([mean.f[:, 0], mean.tangent_kernel(problem.Phi0)[:, 0, 0]], axis=1)
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-15)
        assert not np.allclose(got[1:], expected[:-1], rtol=1e-3)  # negative twin: time shifted by one


def test_lazy_limit():
    """Corrections are of order gamma0^2 = 1e-6; at gamma0 = 2 they are seen."""
    lazy = solve(make(), Lazy()).trajectory.mean
    np.testing.assert_allclose(exact(make(gamma0=1e-3)).f, lazy.f, atol=1e-5)
    assert np.abs(exact(make(gamma0=2.0)).f - lazy.f).max() > 1e-2


# --- quadrature ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_trapezoid_is_exact_for_polynomials(dim):
    x, w = trapezoid(NODES[dim - 1][0], dim)
    for powers, moment in (((0, 0), 1), ((2, 0), 1), ((2, 4), 3), ((6, 2), 15), ((1, 4), 0)):
        assert w @ (x[:, 0] ** powers[0] * x[:, -1] ** powers[1]) == pytest.approx(moment, abs=1e-8)
    assert w @ x[:, 0] ** 4 != pytest.approx(1, abs=0.1)  # negative twin


@pytest.mark.parametrize(("activation", "task"), [("tanh", TWO), ("gelu", ONE)])
def test_particles_converge_to_the_quadrature(activation, task):
    """Errors fall faster than S^-1/2, and error bars with them; 7 standard errors of 8 replicas bound a bias of order 1/S."""
    problem = make(activation, 1.5, task)
    theory = exact(problem)
    errors, bars = [], []
    for num_paths in (256, 16384):
        estimate = solve(problem, TwoLayer(num_paths, quadrature=False)).trajectory
        errors.append(np.abs(estimate.mean.f - theory.f).max())
        bars.append(estimate.sem.f.max())
        assert errors[-1] < 7 * bars[-1]
    assert errors[1] < errors[0] / 8  # S is 64 times larger
    assert bars[1] < bars[0] / 8
    assert errors[0] > 1e-5  # negative twin: 256 particles do have an error


def test_quadrature_where_it_applies(monkeypatch):
    monkeypatch.setitem(NODES, 1, NODES[1][:3])
    assert solve(make()).trajectory.n == 0
    for problem in (make("relu", num_steps=3), make(temperature=0.1)):
        assert solve(problem, TwoLayer(256)).trajectory.n == 8
    _, status, stats = solve(make("relu", num_steps=3), TwoLayer(quadrature=True))
    assert not status.ok
    assert "leave quadrature=True out" in status.message
    assert stats["quadrature error"] > 1e-6
    with pytest.raises(ValueError, match=r"rank one or two and no temperature; the problem has data of rank 3"):
        solve(make(task=tasks.sphere(3, input_dim=8)), TwoLayer(quadrature=True))
    with pytest.raises(ValueError, match="the problem has 3 outputs, data of rank 4, temperature"):
        solve(make(task=Task(X, CLASSES), temperature=0.1), TwoLayer(quadrature=True))


# --- everything that training can be, against networks ----------------------------------------------------------------------

WIDTH, SEEDS = 4000, 8


def network(problem: Problem, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """f at the watched points and the loss of the batches, of a tanh network in mean-field form, each tensor by itself.

    Half of the neurons mirror the other half with w -> -w, so that f(0) = 0.
    """
    task, training = problem.task, problem.training
    gamma0, sigma, N, D, C = problem.parameterization.gamma0, problem.architecture.bias, WIDTH, task.input_dim, task.num_outputs
    rng = np.random.default_rng(seed)
    W, b, w, beta = (rng.standard_normal(shape) for shape in ((N, D), (N, 1), (C, N), (C, 1)))
    W[N // 2 :], b[N // 2 :], w[:, N // 2 :], beta[:] = W[: N // 2], b[: N // 2], -w[:, : N // 2], 0.0
    theta, velocity = [W, b, w, beta], [0.0, 0.0, 0.0, 0.0]
    index, noise = training.batches_of(task.num_train, C)
    targets, eta, rate = task.y.reshape(-1, C), training.eta(1), N * gamma0**2

    def forward(x):
        h = W @ x.T / np.sqrt(D) + sigma * b
        return h, (w @ np.tanh(h) / (gamma0 * N) + sigma / (gamma0 * np.sqrt(N)) * beta).T

    f, losses = [], []
    for t, rows in enumerate(index):
        x, y = task.X[rows], targets[rows] + (0.0 if noise is None else noise[t])
        f.append(forward(problem.X_watched)[1])
        h, out = forward(x)
        losses.append(training.loss_of(out, targets[rows]))
        if t == training.num_steps:
            return np.array(f), np.array(losses)
        Delta = training.Delta(out, y)
        back = (1 - np.tanh(h) ** 2) * (w.T @ Delta.T) / (gamma0 * N)
        gradients = (
            back @ x / np.sqrt(D),
            sigma * back.sum(1, keepdims=True),
            (np.tanh(h) @ Delta / (gamma0 * N)).T,
            sigma / (gamma0 * np.sqrt(N)) * Delta.sum(0)[:, None],
        )
        for i, (x_, gradient) in enumerate(zip(theta, gradients, strict=True)):
            G = rate * gradient - training.weight_decay * x_
            velocity[i] = training.momentum * velocity[i] + G
            x_ += eta[t, i // 2] * (G + training.momentum * velocity[i] if training.nesterov else velocity[i])
            x_ += np.sqrt(2 * training.temperature * eta[t, i // 2]) * rng.standard_normal(x_.shape)
    raise AssertionError


STREAM = Task(RNG.standard_normal((26, 4)), np.eye(3)[RNG.integers(0, 3, 26)], X_TEST, CLASSES[:2])
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {  # data, training, what the negative twin has instead
    "three outputs": (CLASSES, {}, {"eta0": 0.75}),
    "cross entropy": (CLASSES, {"loss": "cross_entropy"}, {"loss": "mse"}),
    "logistic": (SIGNS, {"loss": "logistic"}, {"loss": "mse"}),
    "momentum": (CLASSES, {"momentum": 0.6}, {"momentum": 0.57}),
    "nesterov": (CLASSES, {"momentum": 0.6, "nesterov": True}, {"nesterov": False}),
    "weight decay": (CLASSES, {"weight_decay": 0.05, "momentum": 0.5}, {"weight_decay": 0.0}),
    "schedule": (CLASSES, {"schedule": schedules.cosine(12)}, {"schedule": None}),
    "layer rates": (CLASSES, {"layer_rates": [0.5, 1.5]}, {"layer_rates": [1.5, 0.5]}),
    "mini-batches": (CLASSES, {"batch_size": 2}, {"data_seed": 1}),
    "own batches": (SIGNS, {"batches": np.arange(39).reshape(13, 3) % 5}, {"batches": np.arange(39).reshape(13, 3) % 6}),
    "online": (STREAM, {"batch_size": 2, "sampling": "online"}, {"eta0": 0.75}),
    "label noise": (CLASSES, {"label_noise": 0.5, "batch_size": 3}, {"label_noise": 0.0}),
    "temperature": (SIGNS, {"temperature": 0.15, "weight_decay": 0.1}, {"temperature": 0.0}),
}


def case(name: str) -> Problem:
    data, training, _ = CASES[name]
    task = data if isinstance(data, Task) else Task(X, data, X_TEST, data[:2])
    return make(gamma0=1.3, task=task, eta0=0.7, bias=0.7, **training)


@pytest.mark.parametrize("name", CASES)
def test_networks_with_every_setting(name):
    """Networks lie at 0 on the line from the theory (0) to its negative twin (1), and at 1 along the theory itself.

    Within 5 standard errors of 8 seeds and 4 replicas (Student's t: p = 0.004) plus 1 / N; the twin lies beyond that.
    """
    runs = [network(case(name), seed) for seed in range(SEEDS)]
    f, losses = np.array([f for f, _ in runs]), np.array([loss for _, loss in runs])
    method = TwoLayer(2048, num_replicas=4)
    problems = case(name), case(name).replace(**CASES[name][2])
    theory, twin = (solve(problem, method).trajectory.samples.f.reshape(4, *f.shape[1:]) for problem in problems)
    here, there = theory.mean(0), twin.mean(0)
    for direction, expected in ((there - here, 0.0), (here, 1.0)):

        def along(x: np.ndarray) -> np.ndarray:
            return ((x - (1 - expected) * here) * direction).sum((1, 2, 3)) / (direction**2).sum()  # noqa: B023

        nets, paths = along(f), along(theory)
        allowed = 5 * np.hypot(nets.std(ddof=1) / np.sqrt(SEEDS), paths.std(ddof=1) / 2) + 1 / WIDTH
        assert abs(nets.mean() - expected) < allowed
        assert allowed < 0.5
    if case(name).training.online:
        loss = solve(case(name), method).trajectory.mean.loss
        np.testing.assert_allclose(losses.mean(0), loss, atol=6 * losses.std(0).max() / np.sqrt(SEEDS))
        assert not np.allclose(losses.mean(0)[1:], loss[:-1], rtol=0.1)


def test_frozen_layers_stand_still():
    run = solve(make(task=Task(X, CLASSES), layer_rates=[0.0, 1.0]), save=("update_size", "NTK")).trajectory.mean
    assert (run["update_size"] == 0).all()
    np.testing.assert_array_equal(run.Phi[0, 0, :, 0], run.Phi[0, 1, :, 1])
    np.testing.assert_allclose(run["NTK"][0], run.Phi[0, 0, :, 0], rtol=1e-14)
    moved = solve(make(task=Task(X, CLASSES)), save=("update_size",)).trajectory.mean
    assert moved["update_size"][1] > 0.1 > moved["update_size"][0]


def test_flow_is_the_limit_of_small_steps():
    """2 f(eta / 2) - f(eta) is free of the first order; a flow at another speed is seen."""
    settings = {"layer_rates": [0.5, 1.0], "weight_decay": 0.02}
    problem = make(task=Task(X, SIGNS), num_steps=4, eta0=0.4, flow=True, schedule=[1.0, 0.5, 0.0, 1.0], bias=0.3, **settings)
    method = TwoLayer(256)
    flow = solve(problem, method).trajectory.mean.f

    def steps(n: int) -> np.ndarray:
        schedule = np.repeat([1.0, 0.5, 0.0, 1.0], n) / n
        return solve(problem.replace(flow=False, num_steps=4 * n, schedule=schedule), method).trajectory.mean.f[::n]

    np.testing.assert_allclose(2 * steps(64) - steps(32), flow, atol=2e-5)
    assert np.abs(steps(32) - flow).max() > 1e-4  # negative twin
    np.testing.assert_allclose(flow[2], flow[3], atol=1e-14)  # a pause


# --- what is measured -------------------------------------------------------------------------------------------------------


def test_sharpness():
    """Top eigenvalue of K times the Hessian of the loss; here where it is known from that of K (see also test_training)."""
    problem = make(task=Task(X, CLASSES), bias=0.5, layer_rates=[0.5, 2.0], loss="cross_entropy")
    estimate, _, _ = solve(problem, TwoLayer(1024), [5], save=("sharpness", "NTK", "eigenvalues"))
    got = estimate.samples.more
    assert got["sharpness"].shape == (8, 1)
    assert got["eigenvalues"].shape == (8, 1, 6)
    np.testing.assert_allclose(got["eigenvalues"], np.linalg.eigvalsh(got["NTK"] / 6)[..., ::-1], rtol=1e-12)
    mse = solve(make(task=Task(X, SIGNS)), TwoLayer(256), save=("sharpness", "eigenvalues")).trajectory.samples
    np.testing.assert_allclose(mse["sharpness"], mse["eigenvalues"][..., 0], rtol=1e-10)
    logistic = solve(make(task=Task(X, SIGNS), loss="logistic"), TwoLayer(256), [0], save=("sharpness", "eigenvalues"))
    sharp, top = (logistic.trajectory.mean[name].ravel()[0] for name in ("sharpness", "eigenvalues"))
    assert sharp == pytest.approx(top / 4, rel=1e-10)  # the Hessian p (1 - p) is 1/4 at f = 0


def test_each_name_by_itself():
    """Also where nothing is sampled; nodes are no sample of neurons, so that fields come from particles."""
    problem, names = make(num_steps=3), [name for name in SAVES if name not in ("h", "z")]
    by_nodes, by_paths = TwoLayer(quadrature=True), TwoLayer(4096, 2, quadrature=False)
    for name in names:
        run = solve(problem, by_nodes, save=(name,)).trajectory.mean
        assert [*run.more] == [name]
        np.testing.assert_allclose(solve(problem, by_paths, save=(name,)).trajectory.mean[name], run[name], atol=0.01)
    assert [*solve(problem, save=("h",)).trajectory.samples.more] == ["h"]
    assert solve(problem).trajectory.mean.more == {}
    with pytest.raises(ValueError, match="fields to save"):
        solve(problem, by_nodes, save=("z",))


def test_fields_have_the_moments_of_the_kernels():
    run = solve(make(task=Task(X, SIGNS)), TwoLayer(256), [0, 12], save=("h", "z")).trajectory
    h, z = run.samples["h"], run.samples["z"]
    assert h.shape == z.shape == (8, 2, 1, 6, 256)
    phi, g = np.tanh(h), (1 - np.tanh(h) ** 2) * z
    for x, name in ((phi, "Phi"), (g, "G")):
        kernel = np.einsum("rtlms,rulns->rltmun", x, x) / 256
        np.testing.assert_allclose(run.samples[name], kernel, rtol=1e-10, atol=1e-12)
        assert not np.allclose(run.samples[name][:, :, 1], kernel[:, :, 0], rtol=1e-3)
    assert "h" not in run.mean.more


# --- what goes wrong --------------------------------------------------------------------------------------------------------


def test_seeds_and_bits():
    f = [solve(make(task=Task(X, SIGNS), temperature=0.1), TwoLayer(256)).trajectory.mean.f for _ in range(2)]
    np.testing.assert_array_equal(*f)
    other = TwoLayer(256).run(
        make(task=Task(X, SIGNS), temperature=0.1), seed=1, kernel_steps=np.array([0]), progress=False
    ).trajectory.mean.f  # fmt: skip
    assert not np.allclose(other, f[0], rtol=1e-6)


def test_divergence_is_a_status_with_its_cure():
    for problem in (make(task=Task(X, SIGNS), eta0=500.0, num_steps=60), make(eta0=500.0, num_steps=60, weight_decay=1.0)):
        _, status, _ = solve(problem, TwoLayer(256))
        assert not status.ok
        assert "lower eta0" in status.message


def test_refusals(monkeypatch):
    deep = Problem(MLP(2), Parameterization(), TWO, GradientDescent(0.1, 2))
    assert TwoLayer.obstacle(make()) is None
    assert "depth=1, not 2" in TwoLayer.obstacle(deep)
    for problem, says in ((deep, r"use March\(\)"), (make(gamma0=1e-9), r"use Lazy\(\)")):
        with pytest.raises(ValueError, match=says):
            solve(problem)
    with pytest.raises(ValueError, match=r"save must be one of 'NTK'.*'phi_r'"):
        solve(make(), save=("phi_r",))
    with pytest.raises(ValueError, match=r"have 5 directions, and 16 paths in 2 mirror images span 8|Raise num_paths to"):
        solve(make("gelu", task=tasks.sphere(5, input_dim=8)), TwoLayer(16))
    for settings in ({"num_paths": 30}, {"num_paths": 0}, {"num_replicas": 1}, {"quadrature": 1}):
        with pytest.raises(ValueError, match="must be"):
            TwoLayer(**settings)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="num_paths="):
        solve(make())


def test_float32_and_control_variate():
    """Particles in float32 give the numbers of float64 to rounding; the control variate lowers the error bar."""
    p = make(gamma0=0.2, task=tasks.sphere(4, 2, input_dim=6, seed=2))
    runs = {
        (dtype, control): solve(
            p, TwoLayer(256, quadrature=False, dtype=dtype, control_variate=control), save=("update_size",)
        ).trajectory
        for dtype in ("float32", "float64")
        for control in (True, False)
    }
    for control in (True, False):
        single, double = runs["float32", control].mean, runs["float64", control].mean
        for name in ("f", "Phi", "G", "update_size"):
            assert 0 < np.abs(single[name] - double[name]).max() < 1e-4
    assert np.mean(runs["float64", False].sem.f ** 2) > 4 * np.mean(runs["float64", True].sem.f ** 2)
    with pytest.raises(ValueError, match="float64"):
        solve(p.replace(flow=True), TwoLayer(dtype="float32"))
