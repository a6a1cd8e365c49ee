"""Training as a noun: batches, streams, schedules, losses and their gradients, what one step does; what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, xlogy

import dmft
import finite
from widthwise import MLP, GradientDescent, Parameterization, Problem, ResidualMLP, Task, schedules, tasks
from widthwise.curvature import eigenvalues, sharpness
from widthwise.loss import as_loss
from widthwise.training import move

some = settings(deadline=None, derandomize=True, max_examples=40)


def own(f: Any, y: Any) -> Any:
    return jnp.sum(jnp.sqrt(1 + (f - y) ** 2))


# --- batches ---------------------------------------------------------------------------------------------------------------


@some
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**32))
def test_epochs_see_each_point_once(P: int, B: int, T: int, seed: int) -> None:
    training = GradientDescent(0.1, T, batch_size=B, data_seed=seed)
    if B > P:
        with pytest.raises(ValueError, match=rf"batch_size must be at most the number of train points, P = {P}; got {B}"):
            training.check_data(P)
        return
    training.check_data(P)
    index, noise = training.batches_of(P, 1)
    assert index.shape == (T + 1, B)
    assert noise is None
    per_epoch = P // B
    for start in range(0, T + 1, per_epoch):
        epoch = index[start : start + per_epoch].ravel()
        assert len(set(epoch)) == len(epoch)
        assert 0 <= epoch.min() <= epoch.max() < P
    longer = GradientDescent(0.1, T + 5, batch_size=B, data_seed=seed).batches_of(P, 1).index
    np.testing.assert_array_equal(longer[: T + 1], index)  # more steps leave the first as they were
    if P > 4 and per_epoch > 1:
        other = GradientDescent(0.1, T + 5, batch_size=B, data_seed=seed + 1).batches_of(P, 1).index
        assert not np.array_equal(other, longer) or (T + 5) * B < 4


def test_sequences_of_batches() -> None:
    full = GradientDescent(0.1, 2)
    assert full.full_batch
    np.testing.assert_array_equal(full.batches_of(3, 1).index, [[0, 1, 2]] * 3)
    online = GradientDescent(0.1, 2, batch_size=2, sampling="online")
    assert online.online
    assert not online.full_batch
    np.testing.assert_array_equal(online.batches_of(7, 1).index, [[0, 1], [2, 3], [4, 5]])
    mine = GradientDescent(0.1, 2, batches=[[0, 0], [2, 1], [1, 1]])
    np.testing.assert_array_equal(mine.batches_of(3, 1).index, [[0, 0], [2, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"batches has the index 2; train points are 0 ... 1"):
        mine.check_data(2)
    with pytest.raises(ValueError, match=r"need 6 train points, the task has 5. Make it longer, or take num_steps=1"):
        online.check_data(5)
    online.check_data(6)


def test_label_noise_is_part_of_the_data() -> None:
    training = GradientDescent(0.1, 2000, batch_size=2, label_noise=0.5)
    noise = training.batches_of(4, 3).noise
    assert noise is not None
    assert noise.shape == (2001, 2, 3)
    assert noise.std() == pytest.approx(0.5, rel=0.03)  # 12006 draws: 4 standard errors
    assert abs(noise.mean()) < 0.02
    np.testing.assert_array_equal(training.batches_of(4, 3).noise, noise)
    other = GradientDescent(0.1, 2000, batch_size=2, label_noise=0.5, data_seed=1).batches_of(4, 3).noise
    assert not np.array_equal(other, noise)


CLEAN: dict[str, tuple[Any, float, Any]] = {  # who trains, how near its loss is, and at what
    "networks": (MLP(1, "tanh"), 1e-6, lambda p: finite.train(p, width=16, num_seeds=2, progress=False)),
    "residual networks": (
        ResidualMLP(1, "tanh"),
        1e-5,
        lambda p: finite.train(p, width=16, num_seeds=2, record=range(4), num_probes=12, progress=False),
    ),
    "march": (MLP(2, "tanh"), 1e-6, lambda p: dmft.solve(p, dmft.March(256, 2, tol=1e-8), progress=False)),
    "particles": (MLP(1, "tanh"), 1e-12, lambda p: dmft.solve(p, dmft.TwoLayer(256, num_replicas=2), progress=False)),
    "lazy": (MLP(1, "tanh"), 1e-12, lambda p: dmft.solve(p.replace(gamma0=1e-9), dmft.Lazy(), progress=False)),
}


@pytest.mark.parametrize("who", CLEAN)
def test_loss_of_a_batch_knows_no_label_noise(who: str) -> None:
    """Online, the loss is that of the batch's targets and of the outputs, which are watched as test points too."""
    architecture, tolerance, run = CLEAN[who]
    one = tasks.sphere(12, input_dim=5, seed=3)
    task = Task(one.X, one.y, one.X, one.y)
    training = GradientDescent(0.3, 3, batch_size=3, sampling="online", label_noise=0.7)
    result = run(Problem(architecture, Parameterization(), task, training))
    index, noise = training.batches_of(12, 1)
    assert noise is not None
    f, loss = (getattr(result.samples if result.trajectory.n else result.mean, name) for name in ("f", "loss"))
    f, loss = np.reshape(f, (-1, 4, f.shape[-1])), np.reshape(loss, (-1, 4))
    off = np.take_along_axis(f, index[None], axis=2) - task.y[index]
    np.testing.assert_allclose(loss, (off**2).mean(-1) / 2, atol=tolerance)
    assert np.abs(loss - ((off - noise[..., 0]) ** 2).mean(-1) / 2).max() > 0.1  # negative twin


# --- streams ---------------------------------------------------------------------------------------------------------------


def endless(bad: dict[int, Any] | None = None, B: int = 2) -> Iterator[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    for t in itertools.count():
        x = rng.standard_normal((B, 3))
        yield (bad or {}).get(t, (x, x[:, 0]))


def test_streams_take_what_they_need() -> None:
    source = endless()
    task = tasks.stream(source, 4, X_test=np.ones((1, 3)))
    assert (task.X.shape, task.y.shape) == ((10, 3), (10,))
    np.testing.assert_array_equal(next(source)[0], [*itertools.islice(endless(), 6)][5][0])  # the sixth is still there
    two = tasks.stream(((x, np.stack([y, -y], 1)) for x, y in endless()), 2)
    assert two.num_outputs == 2


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ((np.full((2, 3), np.nan), np.ones(2)), r"batch 2 of the stream: X has 6 NaN or infinite entries"),
        ((np.ones((2, 3)), [1.0, np.inf]), r"batch 2 of the stream: y has 1 NaN"),
        (
            (np.ones((3, 3)), np.ones(3)),
            r"batch 2 of the stream: X and y have shapes \(3, 3\), \(3,\); before \(2, 3\), \(2,\)",
        ),
        ((np.ones((2, 3)), np.ones(3)), r"batch 2 of the stream: X and y must have one row per sample; got 2 and 3"),
        ((np.ones((2, 3)), np.ones((2, 2))), r"batch 2 of the stream: X and y have shapes \(2, 3\), \(2, 2\)"),
    ],
)
def test_bad_batches_are_named(batch: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tasks.stream(endless({2: batch}), 4)
    tasks.stream(endless({2: batch}), 1)  # negative twin: it is not reached


@pytest.mark.parametrize(("there", "says"), [(3, "after 3 of the 5 batches .* take num_steps=2"), (0, "after 0 of the 5")])
def test_a_stream_that_ends_early(there: int, says: str) -> None:
    with pytest.raises(ValueError, match=f"the stream ends early: {says}"):
        tasks.stream(itertools.islice(endless(), there), 4)


# --- schedules -------------------------------------------------------------------------------------------------------------


@some
@given(st.integers(1, 50), st.integers(0, 60), st.floats(0, 1))
def test_schedules(T: int, n: int, final: float) -> None:
    for make in (schedules.cosine, schedules.linear):
        factors = make(T, warmup_steps=n, final=final)
        assert factors.shape == (T,)
        assert (factors >= 0).all()
        assert factors.max() <= 1
        rise = factors[: min(n, T)]
        np.testing.assert_allclose(rise, np.arange(1, len(rise) + 1) / max(n, 1))
        assert (np.diff(factors[n:]) <= 1e-15).all()
        GradientDescent(0.1, T, schedule=factors)
    np.testing.assert_array_equal(schedules.warmup(T, n), np.minimum(np.arange(1, T + 1) / max(n, 1), 1))
    left = [final + (1 - final) * np.array([np.cos(np.pi * x / 2) ** 2, 1 - x]) for x in (np.arange(n, T) - n) / max(T - n, 1)]
    for make, expected in zip((schedules.cosine, schedules.linear), np.reshape(left, (-1, 2)).T, strict=True):
        np.testing.assert_allclose(make(T, warmup_steps=n, final=final)[n:], expected, atol=1e-12)  # over the steps after it
    stepped = schedules.steps(T, at=[n], factor=0.5)
    np.testing.assert_array_equal(stepped, np.where(np.arange(T) < n, 1.0, 0.5))
    thrice = schedules.steps(T, at=[n, n + 3, n + 3], factor=0.5)
    np.testing.assert_array_equal(thrice, [1.0 if t < n else 0.5 if t < n + 3 else 0.125 for t in range(T)])


def test_schedules_as_functions_and_rates() -> None:
    training = GradientDescent(0.5, 3, schedule=lambda t: 1 / (1 + t), layer_rates=[1, 0, 2])
    assert training.schedule == (1.0, 0.5, 1 / 3)
    np.testing.assert_allclose(training.eta(2), 0.5 * np.outer([1, 1 / 2, 1 / 3], [1, 0, 2]))
    np.testing.assert_allclose(training.step_sizes, [0.5, 0.25, 0.5 / 3])
    assert training == GradientDescent(0.5, 3, schedule=np.array([1.0, 0.5, 1 / 3]), layer_rates=(1.0, 0.0, 2.0))


# --- losses ----------------------------------------------------------------------------------------------------------------

LOSSES = ("mse", "logistic", "cross_entropy", own)


def pairs(loss: Any, n: int, C: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    f, y = 2 * rng.standard_normal((2, n, C))
    return f, {"logistic": np.sign(y), "cross_entropy": np.exp(log_softmax(y, axis=-1))}.get(loss, y)


def formula(loss: Any, f: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Loss of every sample by NumPy and SciPy."""
    return {
        "mse": lambda: ((f - y) ** 2).sum(-1) / 2,
        "logistic": lambda: np.logaddexp(0, -y * f).sum(-1),
        "cross_entropy": lambda: -(y * log_softmax(f, axis=-1)).sum(-1),
        own: lambda: np.sqrt(1 + (f - y) ** 2).sum(-1),
    }[loss]()


@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, derandomize=True, max_examples=5)
@given(st.sampled_from([(1, 2), (3, 2), (4, 3)]), st.integers(0, 2**32))
def test_losses_and_their_gradients(loss: Any, shape: tuple[int, int], seed: int) -> None:
    """Against formulas (rounding), central differences (d^2 = 1e-10), and a negative twin of each."""
    training, (f, y) = GradientDescent(0.1, 5, loss), pairs(loss, *shape, seed)
    assert training.loss_of(f, y) == pytest.approx(formula(loss, f, y).mean(), rel=1e-12)
    np.testing.assert_allclose(training.loss_of(np.stack([f, 2 * f]), y)[0], training.loss_of(f, y), rtol=1e-14)
    d, Delta = 1e-5, training.Delta(f, y)
    assert Delta.dtype == np.float64
    for at in np.ndindex(f.shape):
        e = np.zeros(f.shape)
        e[at] = d
        slope = (training.loss_of(f + e, y) - training.loss_of(f - e, y)) / (2 * d)
        assert Delta[at] == pytest.approx(-slope, abs=1e-8)
        hessian = training.hessian_of(f, y)[at[0], at[1]]
        bend = (training.Delta(f + e, y) - training.Delta(f - e, y))[at[0]] / (2 * d) * -len(f)
        np.testing.assert_allclose(hessian, bend, atol=1e-8)
    assert not np.allclose(training.Delta(f + 0.1, y), Delta, rtol=1e-3) or loss == "cross_entropy"


def test_losses_of_one_output() -> None:
    """y (n,) is y (n, 1) without its last axis; leading axes of f are runs."""
    f, y = np.random.default_rng(0).standard_normal((2, 5))
    training = GradientDescent(0.1, 5)
    np.testing.assert_allclose(training.Delta(f, y), (y - f) / 5, rtol=1e-15)
    np.testing.assert_allclose(training.Delta(f[:, None], y[:, None])[:, 0], (y - f) / 5, rtol=1e-15)
    runs = np.stack([f, 3 * f])
    np.testing.assert_allclose(training.Delta(runs, y), (y - runs) / 5, rtol=1e-15)
    np.testing.assert_allclose(training.loss_of(runs, y), ((y - runs) ** 2).mean(1) / 2, rtol=1e-14)
    huge = np.array([[1e4, -1e4]])
    for loss, target in (("cross_entropy", [[0.0, 1.0]]), ("logistic", [[-1.0, 1.0]])):  # no overflow
        assert np.isfinite(GradientDescent(0.1, 5, loss).loss_of(huge, np.array(target)))
    f, y = pairs("cross_entropy", 4, 3, 1)
    entropy = -xlogy(y, y).sum(-1).mean()
    assert GradientDescent(0.1, 5, "cross_entropy").loss_of(np.log(y), y) == pytest.approx(
        entropy, rel=1e-12
    )  # its least value


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("hinge", "loss must be one of cross_entropy, logistic, mse, or a function of f and y; got 'hinge'"),
        (3, "loss must be a name or a function of f and y; got 3"),
        (lambda f, y: f - y, "fails on f and y of shape"),
        (lambda f: 0.0, "fails on f and y of shape"),
        (lambda f, y: jnp.sum(jnp.log(f - y)), "with gradient"),
        (lambda f, y: np.tanh(f).sum(), "with jax.numpy"),
    ],
)
def test_what_is_no_loss(loss: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GradientDescent(0.1, 5, loss)
    assert as_loss(own).name == "own"
    assert as_loss(own) == as_loss(as_loss(own))


# --- one step ----------------------------------------------------------------------------------------------------------------


@some
@given(st.floats(0.01, 1), st.floats(0, 0.99), st.booleans(), st.floats(0, 1), st.integers(0, 2**32))
def test_move_is_that_of_pytorch(eta: float, momentum: float, nesterov: bool, decay: float, seed: int) -> None:
    """torch.optim.SGD, written out: grad + decay theta; buf = grad at first, then momentum buf + grad; grad + momentum buf."""
    rng = np.random.default_rng(seed)
    theta = other = rng.standard_normal(3)
    velocity, buf = None, None
    for G in rng.standard_normal((5, 3)):
        theta, velocity = move(theta, velocity, G, eta, momentum, nesterov, decay)
        grad = -G + decay * other
        buf = grad if buf is None else momentum * buf + grad
        other = other - eta * (grad + momentum * buf if nesterov else buf)
        np.testing.assert_allclose(theta, other, rtol=1e-10, atol=1e-12)


def test_decay_does_not_depend_on_the_gradient() -> None:
    assert move(2.0, None, 0.0, 0.1, 0.0, False, 0.5)[0] == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert move(2.0, 1.0, 0.0, 0.0, 0.9, True, 0.5)[0] == 2.0  # a frozen layer stands still


# --- what is refused --------------------------------------------------------------------------------------------------------

TASK, HOT = tasks.sphere(4, 2, input_dim=3), np.eye(3)[[0, 1, 2, 0]]


def a_problem(task: Task = TASK, depth: int = 1, **training: Any) -> Problem:
    return Problem(MLP(depth), Parameterization(), task, GradientDescent(0.1, 3, **training))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "momentum 1": ({"momentum": 1.0}, "momentum must be below 1, got 1; common values are 0.9"),
    "momentum -1": ({"momentum": -0.1}, "momentum must be finite and not negative"),
    "nesterov alone": ({"nesterov": True}, "nesterov=True needs a momentum above zero"),
    "decay": ({"weight_decay": -1.0}, "weight_decay must be finite and not negative"),
    "negative schedule": ({"schedule": [1.0, -0.5, 1.0]}, "schedule must not be negative, got -0.5 at index 1. 0 pauses"),
    "long schedule": ({"schedule": [1.0] * 4}, "one factor per update, T = 3; got 4"),
    "schedule NaN": ({"schedule": [1.0, np.nan, 1.0]}, "schedule has 1 NaN"),
    "schedule text": ({"schedule": "cosine"}, r"schedule must .*See widthwise.schedules"),
    "negative rate": ({"layer_rates": [1.0, -1.0]}, "layer_rates must not be negative, got -1 at index 1"),
    "rates": ({"layer_rates": [1.0]}, r"layer_rates must have L \+ 1 = 2 factors, of W\^0 ... W\^0 and the readout; got 1"),
    "batch 0": ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0. None is full batch"),
    "batch P + 1": ({"batch_size": 5}, "at most the number of train points, P = 4; got 5"),
    "online": ({"sampling": "online"}, "sampling='online' needs a batch_size"),
    "stream ends": ({"sampling": "online", "batch_size": 2}, "3 steps of 2 points .* need 8 train points, the task has 4"),
    "sampling": ({"sampling": "random"}, "sampling must be one of 'epochs', 'online'; got 'random'"),
    "two batches": ({"batch_size": 2, "batches": [[0]] * 4}, "pass batch_size or batches, not both"),
    "few batches": ({"batches": [[0]] * 3}, r"batches must have T \+ 1 = 4 rows"),
    "half a point": ({"batches": [[0.5]] * 4}, "rows of whole numbers"),
    "point -1": ({"batches": [[-1]] * 4}, "whole numbers from 0 on"),
    "point 4": ({"batches": [[4]] * 4}, "batches has the index 4; train points are 0 ... 3"),
    "hot momentum": ({"temperature": 0.1, "momentum": 0.5}, "goes with momentum=0"),
    "noisy labels": ({"label_noise": 0.1, "loss": own}, "label_noise adds to the targets of loss='mse'; got loss='own'"),
    "flow batches": ({"flow": True, "batch_size": 2}, "goes without batch_size"),
    "flow momentum": ({"flow": True, "momentum": 0.5}, "goes without momentum"),
    "flow heat": ({"flow": True, "temperature": 0.5}, "goes without temperature"),
    "data_seed": ({"data_seed": -1}, "data_seed must be a whole number of at least 0"),
    "flag": ({"flow": 1}, "flow must be True or False, got 1"),
    "logistic": ({"loss": "logistic"}, r"loss='logistic' needs targets \+1 and -1, got .*For 0 and 1 pass 2 y - 1"),
    "one class": ({"loss": "cross_entropy"}, r"loss='cross_entropy' needs targets \(P, C\), C >= 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_training(name: str) -> None:
    training, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        a_problem(**training)


def test_targets_fit_the_loss() -> None:
    a_problem(Task(TASK.X, HOT), loss="cross_entropy")
    for y in (2 * HOT, HOT - 0.5, HOT * [[1.0, -1.0, 1.0]]):
        with pytest.raises(ValueError, match="needs rows of probabilities: not negative, with sum 1"):
            a_problem(Task(TASK.X, y), loss="cross_entropy")
    a_problem(Task(TASK.X, 2 * HOT - 1), loss="logistic")
    with pytest.raises(ValueError, match="needs targets"):
        a_problem(Task(TASK.X, [1.0, -1.0, 1.0, -1.0], TASK.X, [0.0, 1.0, 0.0, 1.0]), loss="logistic")  # the test targets
    with pytest.raises(ValueError, match="watched at the test points: give the task X_test"):
        a_problem(Task(TASK.X, TASK.y), sampling="online", batch_size=1)


def test_watched_points() -> None:
    full, online = a_problem(), a_problem(sampling="online", batch_size=1)
    assert (full.num_watched, online.num_watched) == (6, 2)
    np.testing.assert_array_equal(online.X_watched, TASK.X_test)
    np.testing.assert_allclose(full.Phi0, TASK.Phi0)
    np.testing.assert_allclose(full.replace(bias=0.5).Phi0, TASK.Phi0 + 0.25)
    np.testing.assert_allclose(online.Phi0, TASK.Phi0[4:, 4:])


def test_repr_shows_what_is_not_usual() -> None:
    training = GradientDescent(0.2, 9, own, momentum=0.9, schedule=schedules.cosine(9), layer_rates=[1, 2])
    shown = "eta0=0.2, num_steps=9, loss='own', momentum=0.9, schedule=<9 rows>, layer_rates=(1.0, 2.0)"
    assert repr(training) == f"GradientDescent({shown})"
    assert repr(MLP(2, "relu", bias=0.5)) == "MLP(depth=2, activation='relu', bias=0.5)"
    assert repr(Task(TASK.X, HOT, name="three")) == "Task('three', P=4, Q=0, D=3, C=3)"


# --- curvature --------------------------------------------------------------------------------------------------------------


@some
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32))
def test_sharpness_is_the_top_eigenvalue_of_K_H(P: int, C: int, seed: int) -> None:
    """By the eigenvalues of the product itself, which is not symmetric; points beyond P do not matter."""
    rng = np.random.default_rng(seed)
    problem = a_problem(Task(rng.standard_normal((P, 3)), rng.standard_normal((P, C)), np.ones((1, 3))), loss=own)
    J, f = rng.standard_normal(((P + 1) * C, 5)), rng.standard_normal((P + 1, C))
    K = (J @ J.T).reshape(P + 1, C, P + 1, C)
    H = np.zeros((P, C, P, C))
    for m, h in enumerate(problem.training.hessian_of(f[:P], problem.task.y)):
        H[m, :, m] = h / P
    product = K[:P, :, :P].reshape(P * C, P * C) @ H.reshape(P * C, P * C)
    top = np.linalg.eigvals(product).real.max()
    assert sharpness(problem, K, f) == pytest.approx(top, rel=1e-8)
    assert sharpness(problem, 1.01 * K, f) != pytest.approx(top, rel=1e-3)
    bad = np.stack([K, np.full_like(K, np.nan)])
    assert np.isnan(sharpness(problem, bad, np.stack([f, f]))).tolist() == [False, True]
    values = eigenvalues(problem, bad[:, :, 0, :, 0])
    np.testing.assert_allclose(values[0], np.linalg.eigvalsh(K[:P, 0, :P, 0] / P)[::-1], atol=1e-12)
    assert np.isnan(values[1]).all()


def test_sharpness_online_needs_test_targets() -> None:
    online = a_problem(Task(TASK.X, TASK.y, TASK.X_test), sampling="online", batch_size=1)
    with pytest.raises(ValueError, match="give the task y_test"):
        sharpness(online, np.ones((2, 1, 2, 1)), np.zeros((2, 1)))
