"""Every way of training, in the limit: against networks, which reject the theory of any other; limits and identities."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import compare
import dmft
import finite
from dmft import March, TwoLayer
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task, schedules, tasks

ALPHA = 1e-3
T = 20
NONE = 1e-9
"""As good as zero, and compiled as what is above zero."""
TASK = tasks.sphere(4, 2, input_dim=8, seed=1)
DIGITS = tasks.digits(6, 3, classes=(0, 1, 2))
STREAM = tasks.sphere((T + 1) * 4, 3, input_dim=8, seed=2)


def problem_of(
    depth: int = 2, act: str = "tanh", task: Task = TASK, gamma0: float = 1.0, bias: float = 0.0, **training: Any
) -> Problem:
    return Problem(MLP(depth, act, bias), Parameterization(gamma0), task, GradientDescent(**{"num_steps": T} | training))


def solve(problem: Problem, method: Any = March(1024), **settings: Any) -> Result:  # noqa: B008
    return dmft.solve(problem, method, progress=False, **settings)


@cache
def networks(problem: Problem) -> dict[int, Result]:
    return {N: finite.train(problem, width=N, num_seeds=2**16 // N, progress=False) for N in (64, 256)}


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# --- against networks -------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "eta0": 0.15,
    "batch_size": 2,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 0.1,
    "label_noise": 0.5,
    "schedule": schedules.cosine(T, warmup_steps=4),
    "layer_rates": [1, 0.5, 2],
}
CASES = {
    "everything": problem_of(bias=0.5, **EVERYTHING),
    "langevin": problem_of(eta0=0.3, temperature=0.1, weight_decay=0.1),
    "cross-entropy": problem_of(task=DIGITS, eta0=1.0, loss="cross_entropy", batch_size=3, momentum=0.5),
    "online": problem_of(task=STREAM, eta0=0.5, batch_size=4, sampling="online"),
    "flow": problem_of(eta0=0.5, flow=True),
    "frozen": problem_of(eta0=0.5, layer_rates=[0, 1, 0]),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("flow", "langevin", "frozen"))) for name in CASES]
)
def test_theory_equals_networks(name: str) -> None:
    verdict = compare.agrees(solve(CASES[name]), networks(CASES[name]), alpha=ALPHA)
    assert verdict, f"\n{verdict}"


WRONG: dict[str, tuple[str, dict[str, Any]]] = {  # what compiles to the program of the right theory
    "no momentum": ("everything", {"momentum": NONE}),
    "no decay": ("everything", {"weight_decay": NONE}),
    "no label noise": ("everything", {"label_noise": NONE}),
    "no bias": ("everything", {"architecture": MLP(2, "tanh", bias=NONE)}),
    "no schedule": ("everything", {"schedule": None}),
    "equal rates": ("everything", {"layer_rates": None}),
    "rates backwards": ("everything", {"layer_rates": [2, 0.5, 1]}),
    "other data sequence": ("everything", {"data_seed": 1}),
    "cold": ("langevin", {"temperature": NONE}),
    "other batches": ("cross-entropy", {"batch_size": None, "batches": np.tile([0, 1, 2], (T + 1, 1))}),
    "stream backwards": ("online", {"task": Task(STREAM.X[::-1], STREAM.y[::-1], STREAM.X_test, STREAM.y_test)}),
    "slower flow": ("flow", {"eta0": 0.4}),
    "not frozen": ("frozen", {"layer_rates": None}),
}


SLOW = ("no schedule", "equal rates", "rates backwards", "no bias", "not frozen", "slower flow")


@pytest.mark.parametrize("mistake", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WRONG])
def test_other_training_is_rejected(mistake: str) -> None:
    name, change = WRONG[mistake]
    verdict = compare.agrees(solve(CASES[name].replace(**change)), networks(CASES[name]), alpha=ALPHA)
    assert not verdict, f"\n{verdict}"


def diffusion(problem: Problem, heat: float = 2.0) -> list[np.ndarray]:
    """(T+1, T+1) <W(t) W(s)> / <W(0)^2> of the weights of every layer where there are no gradients, in closed form:

    W(t+1) = (1 - lambda eta_l) W(t) + sqrt(2 temperature eta_l) xi(t)
    """
    training, out = problem.training, []
    for eta in training.eta(problem.architecture.depth).T:
        a, V = 1 - training.weight_decay * eta, [1.0]
        for t in range(len(eta)):
            V.append(a[t] ** 2 * V[-1] + heat * training.temperature * eta[t])
        both = [(min(t, s), max(t, s)) for t in range(len(V)) for s in range(len(V))]
        out.append(np.reshape([V[i] * np.prod(a[i:j]) for i, j in both], (len(V), len(V))))
    return out


def test_langevin_noise_without_gradients_is_diffusion() -> None:
    """Targets of zero and linear layers: Phi^l = C_0 ... C_{l-1} Phi^0, G^l = C_l ... C_L with every layer's own diffusion."""
    task = Task(TASK.X, np.zeros(4), TASK.X_test)
    p = problem_of(2, "linear", task, eta0=0.3, temperature=0.3, weight_decay=0.3, layer_rates=[0.5, 1, 2], num_steps=5)
    theory = solve(p, March(1024), save_kernels=range(6))
    assert np.abs(theory.mean.f).max() < 1e-12

    def off(C: list[np.ndarray]) -> float:
        """The largest distance of the size of a kernel, in errors; each is known to 4 % or better."""
        z, one = [], np.ones_like(p.Phi0)
        for name, layers in (("Phi", [(C[0], p.Phi0), (C[0] * C[1], p.Phi0)]), ("G", [(C[1] * C[2], one), (C[2], one)])):
            for runs, (times, points) in zip(np.moveaxis(getattr(theory.samples, name), 1, 0), layers, strict=True):
                d = np.einsum("ts,mn->tmsn", times, points)
                size = np.array([np.sum(run * d) / np.sum(d**2) for run in runs])
                error = size.std(ddof=1) / np.sqrt(len(size))
                assert error < 0.04
                z.append((size.mean() - 1) / error)
        return float(np.abs(z).max())

    C = diffusion(p)
    assert off(C) < 5.5  # the largest of four with seven degrees of freedom: one in two hundred
    assert off(diffusion(p, heat=1.0)) > 7  # negative twins: half the heat; layers exchanged
    assert off(C[::-1]) > 7


def test_frozen_input_weights_keep_their_features() -> None:
    """Phi^1 stands still when W^0 does, and moves otherwise."""
    still, moving = solve(CASES["frozen"]), solve(CASES["frozen"].replace(layer_rates=None))
    first, last = (still.mean.Phi[0, t][:, t] for t in (0, 1))
    assert relative(last, first) < 1e-12
    assert relative(still.mean.Phi[1, 1][:, 1], still.mean.Phi[1, 0][:, 0]) > 0.01  # W^1 learns
    assert relative(moving.mean.Phi[0, 1][:, 1], first) > 0.01


# --- linear networks: second moments of whitened noise are exact --------------------------------------------------------------

LINEAR_TASK = Task(TASK.X, np.random.default_rng(0).standard_normal((4, 3)), TASK.X_test)
LINEAR = problem_of(
    1, "linear", LINEAR_TASK, gamma0=1.5, eta0=0.05, batch_size=2, momentum=0.8, weight_decay=0.1, layer_rates=[1, 2]
)


def by_hand(problem: Problem) -> np.ndarray:
    """f of a linear network with one hidden layer: neurons are linear in the normals (H, Z) of the start, so the averages
    over as many orthogonal neurons as there are normals are exact."""
    task, training, gamma0 = problem.task, problem.training, problem.parameterization.gamma0
    assert task.X_test is not None
    X = np.concatenate([task.X, task.X_test]) / np.sqrt(task.input_dim)
    D, C = X.shape[1], task.num_outputs
    start = np.sqrt(D + C) * np.eye(D + C)
    theta = [start[:, :D].copy(), start[:, D:].copy()]
    velocity = [np.zeros_like(x) for x in theta]
    out = []
    for t, batch in enumerate(training.batches_of(task.num_train, C).index):
        f = X @ (theta[0].T @ theta[1]) / (D + C) / gamma0
        out.append(f)
        if t == training.num_steps:
            break
        Delta = (task.y[batch] - f[batch]) / len(batch)
        G = gamma0 * theta[1] @ Delta.T @ X[batch], gamma0 * theta[0] @ X[batch].T @ Delta
        for i in (0, 1):
            velocity[i] = training.momentum * velocity[i] + G[i] - training.weight_decay * theta[i]
            theta[i] = theta[i] + training.eta0 * training.rates(1)[i] * velocity[i]
    return np.array(out)


@pytest.mark.parametrize("depth", [1, 2])
def test_linear_networks_are_exact(depth: int) -> None:
    problem = LINEAR.replace(architecture=MLP(depth, "linear"), layer_rates=[1, 2, 0.5][: depth + 1])
    theory = solve(problem, March(256, tol=1e-10))
    assert theory.samples.f.std(0).max() < 1e-6
    assert theory.mean.loss[-1] < theory.mean.loss[0]
    if depth == 1:
        expected = by_hand(problem)
        assert relative(theory.mean.f, expected) < 1e-8
        for change in ({"momentum": 0.79}, {"weight_decay": 0.09}, {"layer_rates": [1, 2.1]}, {"data_seed": 1}):
            assert relative(by_hand(problem.replace(**change)), expected) > 1e-3, change


# --- one hidden layer ---------------------------------------------------------------------------------------------------------


def test_one_hidden_layer_is_two_layer() -> None:
    """Cross-entropy of three classes, mini-batches: without responses and with the march's, within the error bars."""
    problem = CASES["cross-entropy"].replace(architecture=MLP(1, "tanh"))
    march, particles = solve(problem), solve(problem, TwoLayer(1024))
    noise = np.sqrt(np.sum(march.sem.f**2 + particles.sem.f**2))
    assert noise < 0.02 * np.linalg.norm(march.mean.f)
    assert np.linalg.norm(march.mean.f - particles.mean.f) < 4 * noise
    other = solve(problem.replace(data_seed=1), TwoLayer(1024))
    assert np.linalg.norm(march.mean.f - other.mean.f) > 4 * noise


# --- losses -------------------------------------------------------------------------------------------------------------------


def test_cross_entropy_of_two_classes_is_logistic() -> None:
    """f = f_1 - f_2 has the readout w_1 - w_2, sqrt(2) times a normal one: gamma0 / sqrt(2), and twice the learning rate."""
    labels = np.sign(TASK.y)
    two = problem_of(
        task=Task(TASK.X, np.stack([labels > 0, labels < 0], axis=1).astype(float), TASK.X_test), eta0=0.5, loss="cross_entropy"
    )
    one = problem_of(task=Task(TASK.X, labels, TASK.X_test), eta0=1.0, gamma0=1 / np.sqrt(2), loss="logistic")
    a, b = solve(two), solve(one)
    f = a.samples.f[..., 0] - a.samples.f[..., 1]
    noise = np.sqrt(np.sum(f.var(0, ddof=1) / len(f) + b.sem.f**2))
    assert np.linalg.norm(f.mean(0) - b.mean.f) < 4 * noise
    assert np.allclose(a.mean.loss, b.mean.loss, atol=4 * (a.sem.loss + b.sem.loss).max())
    wrong = solve(one.replace(gamma0=1.0))
    assert np.linalg.norm(f.mean(0) - wrong.mean.f) > 8 * noise


def test_own_loss_is_the_named_one() -> None:
    problem = CASES["frozen"]
    own = solve(problem.replace(loss=lambda f, y: jnp.sum((y - f) ** 2) / 2))
    named = solve(problem)
    assert np.array_equal(own.samples.f, named.samples.f)
    assert np.array_equal(own.mean.loss, named.mean.loss)


# --- rates and batches --------------------------------------------------------------------------------------------------------


def test_no_rate_no_movement() -> None:
    problem = CASES["everything"].replace(schedule=np.zeros(T))
    f = solve(problem).samples.f
    assert np.abs(f).max() < 1e-12
    pause = [1.0] * 5 + [0.0] * 5 + [1.0] * (T - 10)
    paused = solve(problem.replace(schedule=pause))
    moved = np.abs(np.diff(paused.mean.f, axis=0)).max(-1)
    assert moved[5:10].max() < paused.sem.f.max()  # batches bring new directions, and those sampling noise
    assert moved[[4, 10]].min() > 5 * moved[5:10].max()


def test_full_batch_in_any_order() -> None:
    """All train points at every step, as full batch, as batches of their own, or in permuted epochs."""
    full = problem_of(eta0=0.5)
    plain = March(1024, control_variate=False)  # which full batches have by default
    f = solve(full, plain).samples.f
    for way in ({"batches": np.tile(np.arange(4), (T + 1, 1))}, {"batch_size": 4}, {"batch_size": 4, "data_seed": 1}):
        assert np.abs(solve(full.replace(**way), plain).samples.f - f).max() < 1e-3, (
            way
        )  # to what the basis leaves out of watched points
    half = solve(full.replace(batches=np.tile([0, 1, 0, 1], (T + 1, 1))), plain).samples.f
    assert np.abs(half - f).max() > 0.1


def test_flow_is_the_limit_of_small_steps() -> None:
    """On the same paths gradient descent in n times smaller steps is off by 1/n."""
    flow = solve(problem_of(eta0=1.0, num_steps=4, flow=True), March(1024, tol=1e-6, substeps=4))
    errors = []
    for n in (2, 5):
        fine = solve(problem_of(eta0=1.0 / n, num_steps=4 * n), March(1024, tol=1e-6))
        errors.append(np.linalg.norm(fine.mean.f[::n] - flow.mean.f))
    slope = np.log(errors[1] / errors[0]) / np.log(5 / 2)
    assert abs(slope + 1) < 0.15, slope


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.9, 0.8])
def test_sixty_four_digits(momentum: float) -> None:
    """Three classes of digits, cross-entropy, 300 mini-batch steps with momentum."""
    task = tasks.digits(64, 16, classes=(0, 1, 2))
    training = {"num_steps": 300, "batch_size": 16, "loss": "cross_entropy", "eta0": 0.5}
    problem = problem_of(task=task, momentum=0.9, **training)
    theory = solve(problem.replace(momentum=momentum), March(2048, tol=3e-3, dtype="float32"))
    nets = {N: finite.train(problem, width=N, num_seeds=2**15 // N, progress=False) for N in (128, 512)}
    verdict = compare.agrees(theory, nets, alpha=ALPHA)
    assert bool(verdict) == (momentum == 0.9), f"\n{verdict}"
