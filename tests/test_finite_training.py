"""Every setting of GradientDescent trains what it says: against SGD as PyTorch documents it on jax.grad, ODEs, closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import finite
from finite import mlp
from finite.keys import key_of
from widthwise import MLP, GradientDescent, Parameterization, Problem, Task, tasks
from widthwise.parameterization import LayerScale

SEED = 20250614
N, D, P, Q = 5, 4, 6, 2
GAMMA0 = 1.3


def quartic(f, y):
    return jnp.sum((f - y) ** 4) / 4


def flat(f, y):
    """Zero gradient: parameters move by decay and noise alone."""
    return 0.0 * jnp.sum(f)


LOSSES = {
    "mse": lambda f, y: ((f - y) ** 2).sum(-1) / 2,
    "logistic": lambda f, y: np.log(1 + np.exp(-y * f)).sum(-1),
    "cross_entropy": lambda f, y: -(y * np.log(np.exp(f) / np.exp(f).sum(-1, keepdims=True))).sum(-1),
    "quartic": lambda f, y: ((f - y) ** 4).sum(-1) / 4,
}
SLOPES = {
    "mse": lambda f, y: f - y,
    "logistic": lambda f, y: -y / (1 + np.exp(y * f)),
    "cross_entropy": lambda f, y: np.exp(f) / np.exp(f).sum(-1, keepdims=True) - y,
    "quartic": lambda f, y: (f - y) ** 3,
}


def a_task(outputs: int | None, num_train: int = P) -> Task:
    """Gaussian inputs; +-1 for one output (None: y of one axis), one-hot rows for several."""
    rng = np.random.default_rng(SEED)
    X, X_test = rng.standard_normal((num_train, D)), rng.standard_normal((Q, D))
    if outputs is not None and outputs > 1:
        y, y_test = (np.eye(outputs)[rng.integers(outputs, size=n)] for n in (num_train, Q))
    else:
        y, y_test = (rng.choice([-1.0, 1.0], size=n if outputs is None else (n, 1)) for n in (num_train, Q))
    return Task(X, y, X_test, y_test)


def a_problem(
    loss="mse", *, depth=2, outputs=None, bias=0.0, centered=True, eta0=0.15, num_steps=5, num_train=P, act="tanh", **training
) -> Problem:
    return Problem(
        MLP(depth, act, bias),
        Parameterization(GAMMA0, centered=centered),
        a_task(outputs, num_train),
        GradientDescent(eta0, num_steps, loss, **training),
    )


@pytest.fixture(autouse=True)
def quick_compilation():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# The oracle: NumPy, raw weights of the mean-field network -------------------------------------------------------------------


def network(params, X, bias, gamma0=GAMMA0):
    """f (n, C) and phi^0 ... phi^L: tanh network with unit normal weights, as 2205.09653 writes it; L + 1 pairs (W, b)."""
    width = len(params[0][0])
    phi = [X]
    for W, b in params[:-1]:
        phi.append(np.tanh(phi[-1] @ W.T / np.sqrt(W.shape[1]) + bias * b))
    w, b = params[-1]
    return (phi[-1] @ w.T / width + bias * b / np.sqrt(width)) / gamma0, phi


def gradient(params, X, y, f0, bias, loss, gamma0=GAMMA0):
    """Of the mean loss of f - f0 by every weight and bias, by the chain rule."""
    width = len(params[0][0])
    f, phi = network(params, X, bias, gamma0)
    df = SLOPES[loss](f - f0, y) / len(X)
    grads = [(df.T @ phi[-1] / (gamma0 * width), bias * df.sum(0) / (gamma0 * np.sqrt(width)))]
    back = df @ params[-1][0] / (gamma0 * width)
    for (W, _), above, below in zip(params[-2::-1], phi[:0:-1], phi[-2::-1], strict=True):
        dh = (1 - above**2) * back
        grads.insert(0, (dh.T @ below / np.sqrt(W.shape[1]), bias * dh.sum(0)))
        back = dh @ W / np.sqrt(W.shape[1])
    return grads


def start(problem: Problem, number: int = 1, width: int = N) -> list[tuple[np.ndarray, np.ndarray]]:
    """The unit normal weights and biases that network `number` starts from."""
    unit = mlp.Layer(LayerScale(1.0, 1.0, 1.0), LayerScale(1.0, 1.0, 1.0))
    key = jax.random.fold_in(key_of(SEED, width), number)
    shape = {"width": width, "input_dim": D, "num_outputs": problem.task.num_outputs, "dtype": jnp.dtype("float32")}
    layers = mlp.init(key, [unit] * (problem.architecture.depth + 1), **shape)
    return [(np.asarray(W, float), np.asarray(b, float)) for W, b in layers]


def sgd(problem: Problem, number: int = 1) -> dict[str, Any]:
    """f, loss, test_loss at states 0 ... T and the weights there, by the formulas of torch.optim.SGD's documentation."""
    task, training, bias = problem.task, problem.training, problem.architecture.bias
    T, C, rates = training.num_steps, task.num_outputs, training.layer_rates or (1.0,) * (problem.architecture.depth + 1)
    schedule, mu, unit = training.schedule or (1.0,) * T, training.momentum, N * GAMMA0**2  # rate of the mean-field form
    y, y_test = task.y.reshape(-1, C), task.y_test.reshape(-1, C)
    batches, noise = training.batches_of(task.num_train, C)
    loss_of = LOSSES[training.loss.name]
    params = first = start(problem, number)
    buffers = [[0.0, 0.0] for _ in params]
    out: dict[str, Any] = {"f": [], "loss": [], "test_loss": [], "weights": []}

    def output(params, X):
        return network(params, X, bias)[0]

    def f0(X):
        return output(first, X) * problem.parameterization.centered

    for t, batch in enumerate(batches):
        X_b, y_b = task.X[batch], y[batch]
        X_seen, y_seen = (X_b, y_b) if training.online else (task.X, y)
        f = output(params, problem.X_watched) - f0(problem.X_watched)
        out["f"].append(f)
        out["loss"].append(loss_of(output(params, X_seen) - f0(X_seen), y_seen).mean())
        out["test_loss"].append(loss_of(f[-Q:], y_test).mean())
        out["weights"].append(params)
        if t == T:
            break
        grads = gradient(params, X_b, y_b if noise is None else y_b + noise[t], f0(X_b), bias, training.loss.name)
        moved = []
        for layer, grad, buffer, rate in zip(params, grads, buffers, rates, strict=True):
            new = []
            for k in range(2):
                g = grad[k] + training.weight_decay / unit * layer[k]
                buffer[k] = mu * buffer[k] + g
                g = g + mu * buffer[k] if training.nesterov else buffer[k]
                new.append(layer[k] - training.eta0 * schedule[t] * rate * unit * g)
            moved.append(tuple(new))
        params = moved
    return out | {name: np.array(out[name]) for name in ("f", "loss", "test_loss")}


def kinds(problem: Problem) -> list[Problem]:
    """The same network in the three forms that it has."""
    return [problem, problem.replace(kind="mup"), problem.replace(kind="ntk", gamma0=GAMMA0 * N**0.5)]


def train(problem: Problem, **settings):
    settings = {"width": N, "num_seeds": 2, "seed": SEED, "dtype": "float64", "save_kernels": []} | settings
    return finite.train(problem, **settings).samples


OWN_BATCHES = [[0, 0, 1], [5, 2, 3], [1, 4, 4], [0, 1, 2], [3, 4, 5], [0, 2, 4]]
CASES = {
    "momentum, biases": {"momentum": 0.9, "bias": 0.6},
    "nesterov, decay, batches of 4": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.4, "batch_size": 4},
    "schedule, layer rates, biases, 3 outputs": {
        "outputs": 3,
        "bias": 0.5,
        "schedule": [0.5, 1.0, 0.0, 0.8, 0.3],
        "layer_rates": [0.0, 2.0, 0.5],
    },
    "3 classes, batches of 2, momentum, depth 1": {
        "loss": "cross_entropy", "outputs": 3, "depth": 1, "batch_size": 2, "momentum": 0.5, "eta0": 0.8,
    },
    "logistic, decay with momentum, uncentred": {
        "loss": "logistic", "weight_decay": 0.5, "momentum": 0.5, "centered": False, "eta0": 0.5,
    },
    "own loss, own batches, 3 outputs, biases": {
        "loss": quartic, "outputs": 3, "batches": OWN_BATCHES, "bias": 0.3, "weight_decay": 0.1, "eta0": 0.2,
    },
    "online, label noise, momentum, biases": {
        "sampling": "online", "batch_size": 3, "num_train": 18, "label_noise": 0.5, "momentum": 0.5, "bias": 0.4,
    },
    "online, 3 classes, uncentred, depth 3": {
        "loss": "cross_entropy", "outputs": 3, "depth": 3, "sampling": "online", "batch_size": 3, "num_train": 20,
        "centered": False, "eta0": 0.8,
    },
    "full batch with label noise, one output in two axes": {"label_noise": 0.4, "outputs": 1, "schedule": [1, 1, 0.5, 0.5, 1]},
}  # fmt: skip
PLAIN = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": None, "layer_rates": None, "label_noise": 0.0}
PLAIN |= {"bias": 0.0, "centered": True}


@pytest.mark.parametrize("case", CASES)
def test_every_setting_is_that_of_torch(case):
    settings = CASES[case]
    problem = a_problem(**settings)
    right = sgd(problem)
    for same in kinds(problem):
        samples = train(same)
        for name in ("f", "loss", "test_loss"):
            got, expected = getattr(samples, name)[1], right[name]
            expected = expected[..., 0] if name == "f" and problem.task.y.ndim == 1 else expected
            # rounding 1e-16, a hundred operations per step, five steps that amplify by less than ten
            np.testing.assert_allclose(got, expected, atol=1e-11, err_msg=name)
        assert samples.f.shape[3:] == problem.task.y.shape[1:]
    # negative twins: each setting of the case left out
    without = [{s: PLAIN[s]} for s in settings if s in PLAIN and not (s == "momentum" and settings.get("nesterov"))]
    for change in [*without, {"eta0": 1.01 * problem.training.eta0}]:
        assert np.abs(sgd(problem.replace(**change))["f"] - right["f"]).max() > 1e-5, change
    if problem.training.batch_size or problem.training.batches:
        shifted = np.roll(problem.training.batches_of(problem.task.num_train, 1).index, 1, axis=0)
        wrong = problem.replace(batches=shifted, batch_size=None, sampling="epochs")
        assert np.abs(sgd(wrong)["f"][:, -Q:] - right["f"][:, -Q:]).max() > 1e-5


def test_all_layers_but_the_frozen_ones_move():
    samples = train(
        a_problem(layer_rates=[0.0, 1.0, 1.0], bias=0.5, momentum=0.5, weight_decay=0.1),
        save_kernels=range(6),
        save=["h", "update_size"],
    )
    h = samples["h"]
    assert (h[:, :, 0] == h[:, :1, 0]).all()
    assert (np.abs(h[:, 1:, 1] - h[:, :1, 1]).max((2, 3)) > 1e-3).all()
    np.testing.assert_allclose(samples["update_size"], np.sqrt(((h - h[:, :1]) ** 2).mean((-1, -2))), atol=1e-14)
    assert (samples["update_size"][:, :, 0] == 0).all()


def test_decay_alone_shrinks_a_homogeneous_network():
    """Each of the L + 1 matrices by 1 - eta lambda per step: f, homogeneous of that degree, by the product."""
    f = train(a_problem(flat, act="relu", centered=False, weight_decay=0.7)).f
    factor = (1 - 0.15 * 0.7) ** (3 * np.arange(6.0))[:, None]
    np.testing.assert_allclose(f, factor * f[:, :1], atol=1e-14)
    assert np.abs(f - factor**0.9 * f[:, :1]).max() > 1e-2


def test_bad_settings_reach_the_user():
    with pytest.raises(ValueError, match="batch_size must be at most the number of train points, P = 6"):
        finite.train(a_problem(batch_size=7), width=N, num_seeds=1)
    with pytest.raises(ValueError, match="the stream ends early"):
        finite.train(a_problem(sampling="online", batch_size=2), width=N, num_seeds=1)
    with pytest.raises(ValueError, match="layer_rates must have L"):
        finite.train(a_problem(layer_rates=[1.0, 1.0]), width=N, num_seeds=1)


def test_memory_knows_the_stream_and_the_outputs():
    stream = a_problem(sampling="online", batch_size=3, num_train=18)
    finite.train(stream, width=N, num_seeds=1, save_kernels=[], memory=2e4)
    with pytest.raises(MemoryError, match="memory=20000 allows"):
        finite.train(a_problem(sampling="online", batch_size=300, num_train=1800), width=N, num_seeds=1, memory=2e4)
    with pytest.raises(MemoryError, match="GiB are free"):
        finite.train(a_problem(outputs=3), width=N, num_seeds=10**9)
    with pytest.raises(MemoryError, match="GiB are free"):
        finite.train(a_problem(num_steps=40), width=10**3, num_seeds=10**5, save=["h"], save_kernels=range(40))


# Gradient flow --------------------------------------------------------------------------------------------------------------


def test_flow_is_the_ode_of_the_raw_weights():
    decay, bias, rates = 0.2, 0.4, [0.5, 2.0, 1.0]
    problem = a_problem(
        "cross_entropy", outputs=3, bias=bias, eta0=1.5, num_steps=3, flow=True, weight_decay=decay, layer_rates=rates,
        schedule=[1.0, 0.0, 0.6],
    )  # fmt: skip
    task, unit, first = problem.task, N * GAMMA0**2, start(problem)
    shapes = [x.shape for layer in first for x in layer]
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    f0 = network(first, task.X_all, bias)[0]

    def params(theta):
        flat = [x.reshape(shape) for x, shape in zip(np.split(theta, cuts), shapes, strict=True)]
        return [*zip(flat[::2], flat[1::2], strict=True)]

    def slope(_, theta):
        net = params(theta)
        grads = gradient(net, task.X, task.y, f0[:P], bias, "cross_entropy")
        moves = [r * (-unit * g[k] - decay * w[k]) for w, g, r in zip(net, grads, rates, strict=True) for k in range(2)]
        return np.concatenate([x.ravel() for x in moves])

    theta0 = np.concatenate([x.ravel() for layer in first for x in layer])
    path = solve_ivp(slope, (0, 2.4), theta0, t_eval=[0, 1.5, 2.4], rtol=1e-10, atol=1e-10).y.T
    right = np.array([network(params(x), task.X_all, bias)[0] - f0 for x in path[[0, 1, 1, 2]]])
    for same in kinds(problem):
        np.testing.assert_allclose(train(same).f[1], right, atol=1e-8)  # tolerances 1e-10 per step, some ten steps
    assert np.abs(right[1] - right[3]).max() > 1e-2


def test_flow_of_two_layer_linear_networks():
    """One sample: df/dtau = K (y - f), dK/dtau = 4 gamma0^2 f (y - f), the limit of the recursion of 2304.03408."""
    training = GradientDescent(0.4, 10, flow=True)
    problem = Problem(MLP(1, "linear"), Parameterization(0.8, centered=False), Task([[1.0]], [1.0]), training)
    run = train(problem, save_kernels=range(11), save=["NTK"], dtype="float32")
    f, K = run.f[..., 0], run["NTK"][..., 0, 0]

    def agrees(gamma0: float) -> bool:
        def slope(_, x):
            return x[1] * (1 - x[0]), 4 * gamma0**2 * x[0] * (1 - x[0])

        settings = {"t_eval": 0.4 * np.arange(11), "rtol": 1e-9, "atol": 1e-9}
        paths = [solve_ivp(slope, (0, 4), at, **settings).y for at in zip(f[:, 0], K[:, 0], strict=True)]
        return np.allclose(np.array(paths), np.stack([f, K], 1), rtol=0, atol=5e-5)  # 1e-6 per step, K of order ten

    assert agrees(0.8)
    assert not agrees(0.81)


def test_descent_converges_to_flow_at_first_order():
    exact = train(a_problem(flow=True, eta0=0.4, num_steps=2)).f[:, -1]
    errors = []
    for n in (8, 16, 32):  # steps in the same time, then pauses
        steps = a_problem(eta0=0.8 / n, num_steps=32, schedule=lambda t, n=n: float(t < n))
        errors.append(np.abs(train(steps).f[:, -1] - exact).max())
    for ratio in np.divide(errors[:-1], errors[1:]):
        assert 1.8 < ratio < 2.2, errors  # second order would give 4, a wrong limit 1


# Temperature and chunks ------------------------------------------------------------------------------------------------------


def test_heat_is_an_ornstein_uhlenbeck_process():
    """Without gradients theta <- (1 - eta lambda) theta + sqrt(2 temperature eta) N(0, 1); h^1 = theta on orthogonal inputs."""
    eta0, decay, temperature, width = 0.2, 0.5, 0.3, 64
    schedule, rates = np.array([1.0, 0.5, 0.0, 1.0, 1.0]), np.array([1.5, 0.0])
    training = GradientDescent(eta0, 5, flat, weight_decay=decay, temperature=temperature, schedule=schedule, layer_rates=rates)
    task = Task(np.sqrt(4) * np.eye(4), np.zeros(4))
    problem = Problem(MLP(1, "linear"), Parameterization(GAMMA0), task, training)
    settings = {"width": width, "num_seeds": 64, "seed": SEED, "save_kernels": range(6), "save": ["h"]}
    h = finite.train(problem, **settings).samples["h"][:, :, 0].astype(float)  # (seeds, t, m, N)
    assert (finite.train(problem.replace(kind="mup"), **settings).samples["h"][:, :, 0] - h).max() < 1e-5

    def z_scores(temperature: float) -> np.ndarray:
        variance = [1.0]
        for eta in eta0 * schedule * rates[0]:
            variance.append((1 - eta * decay) ** 2 * variance[-1] + 2 * temperature * eta)
        count = h[:, 0].size
        return ((h**2).mean((0, 2, 3)) / np.array(variance) - 1) / np.sqrt(2 / count)

    assert (np.abs(z_scores(temperature)) < 4).all()
    assert (np.abs(z_scores(1.2 * temperature))[1:] > 4).any()
    noise = h[:, 1:] - (1 - eta0 * schedule * rates[0] * decay)[:, None, None] * h[:, :-1]
    noise = noise[:, schedule > 0].reshape(64, 4, -1)
    noise /= noise.std()
    same_time = (noise[::2] * noise[1::2]).mean()  # another network
    same_network = (noise[:, 1:] * noise[:, :-1]).mean()  # another step
    assert abs(same_time) < 4 / np.sqrt(noise.size / 2)
    assert abs(same_network) < 4 / np.sqrt(noise.size * 3 / 4)
    assert (h[:, 2] == h[:, 3]).all()  # rate zero: neither noise nor decay


def test_chunks_do_not_matter():
    problem = a_problem(bias=0.3, temperature=0.1, batch_size=4, label_noise=0.2, weight_decay=0.1)
    settings = {"width": 40, "seed": SEED, "save": ["NTK"]}
    many, three = (finite.train(problem, num_seeds=n, **settings) for n in (80, 3))
    assert many.stats["chunks"] > 1
    few = three.samples
    assert all(x.tobytes() == many.samples[name][:3].tobytes() for name, x in few.observables().items())
    assert few.f[0].tobytes() != few.f[1].tobytes()


def test_a_stream_of_any_source_trains():
    rng = np.random.default_rng(SEED)
    beta = rng.standard_normal(8)
    source = ((x, x @ beta / np.sqrt(8)) for x in (rng.standard_normal((16, 8)) for _ in itertools.count()))
    X_test = rng.standard_normal((20, 8))
    task = tasks.stream(source, 60, X_test, X_test @ beta / np.sqrt(8))
    training = GradientDescent(0.3, 60, sampling="online", batch_size=16)
    result = finite.train(Problem(MLP(1, "relu"), Parameterization(1.0), task, training), width=64, num_seeds=4)
    assert result.samples.f.shape == (4, 61, 20)
    assert result.mean.Phi.shape == (1, 2, 20, 2, 20)
    assert result.mean.test_loss[-1] < 0.2 * result.mean.test_loss[0]
    assert result.mean.loss[-10:].mean() < 0.2 * result.mean.loss[0]
