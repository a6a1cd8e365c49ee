"""Parts of the march and of particles one by one, where the answer is known: linear networks, whose averages are exact.

Biases, rates of layers and decay are on everywhere, so that each of them is seen where it belongs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import dmft
from dmft import March, TwoLayer
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task, tasks

TASK = tasks.sphere(3, 1, input_dim=6, seed=1)
THREE = Task(TASK.X, np.random.default_rng(0).standard_normal((3, 3)), TASK.X_test)
X = TASK.X_all / np.sqrt(6)
BIAS = 0.6
RATES = [0.7, 1.5, 0.4]


def linear(depth: int, task: Task = TASK, gamma0: float = 1.0, bias: float = BIAS, **training: Any) -> Problem:
    settings = {"eta0": 0.3, "num_steps": 4, "layer_rates": RATES[: depth + 1]} | training
    return Problem(MLP(depth, "linear", bias), Parameterization(gamma0), task, GradientDescent(**settings))


def solve(problem: Problem, method: Any, **settings: Any) -> Result:
    return dmft.solve(problem, method, progress=False, **settings)


# --- curvature -------------------------------------------------------------------------------------------------------------


def start_kernel(rates: list[float], bias: float) -> np.ndarray:
    """The tangent kernel of a linear network at t = 0: G = 1, Phi^l = Phi^0 + l bias^2, and W^l gives Phi^l + bias^2."""
    return sum(rate * (X @ X.T + (l + 1) * bias**2) for l, rate in enumerate(rates))  # type: ignore[return-value]


@pytest.mark.parametrize("task", [TASK, THREE], ids=["one output", "three"])
@pytest.mark.parametrize(("depth", "method"), [(2, March(64, 2, tol=1e-10)), (1, TwoLayer(64, 2, quadrature=False))])
def test_curvature_at_the_start(task: Task, depth: int, method: Any) -> None:
    names = ["NTK", "eigenvalues", "sharpness"]
    mean = solve(linear(depth, task, num_steps=1), method, save=names).mean
    rates = RATES[: depth + 1]
    K = start_kernel(rates, BIAS)
    values = np.linalg.eigvalsh(K[:3, :3] / 3)[::-1]
    np.testing.assert_allclose(mean["NTK"][0], K, rtol=1e-9)
    np.testing.assert_allclose(mean["eigenvalues"][0], values, rtol=1e-9)
    np.testing.assert_allclose(mean["sharpness"][0], values[0], rtol=1e-9)
    for wrong in (start_kernel(rates, 0.0), start_kernel(rates[::-1], BIAS), start_kernel([1.0] * len(rates), BIAS)):
        assert np.abs(wrong / K - 1).min() > 0.01


# --- responses -------------------------------------------------------------------------------------------------------------


def responses(problem: Problem, theory: Result) -> tuple[np.ndarray, np.ndarray]:
    """alpha <phi^1 r0> and alpha <g^2 u0> of a linear network of two layers, over (step, point), from its kernels.

    With alpha the decay since the start, d(t, s) that since step s, and u0, r0 the fields of the initial weights,

        h^l = alpha u0 + M^l g^l,  M^l = A^{l-1} + gamma0 eta d Delta Phi^{l-1},   A^l = alpha <dh^l/dr0> alpha
        g^l = alpha r0 + N^l h^l,  N^l = B^l + gamma0 eta d Delta G^{l+1},         B^{l-1} = alpha <dg^l/du0> alpha

    and <h^1 r0> = <dh^1/dr0> G^2, <g^2 u0> = <dg^2/du0> (Phi^1 + bias^2). M and N are triangular in time: iterations end.
    """
    training, M, P = problem.training, problem.num_watched, problem.task.num_train
    T1, gamma0, rates = training.num_steps + 1, problem.parameterization.gamma0, training.rates(2)
    Delta = np.zeros((T1, M))
    Delta[:, :P] = (problem.task.y - theory.mean.f[:, :P]) / P
    steps, n = np.arange(T1), T1 * M

    def decay(l: int) -> np.ndarray:
        return 1 - training.eta0 * rates[l] * training.weight_decay

    def alpha(l: int) -> np.ndarray:
        return np.diag(np.repeat(decay(l) ** steps, M))

    def learned(l: int, kernel: np.ndarray) -> np.ndarray:
        """gamma0 eta_l d(t, s) Delta(s) kernel(t, s) of the steps before, for the weights W^l."""
        age = steps[:, None] - 1 - steps
        d = np.where(age >= 0, decay(l) ** np.maximum(age, 0), 0.0)
        return gamma0 * training.eta0 * rates[l] * np.kron(d, np.ones((M, M))) * kernel.reshape(n, n) * Delta.ravel()

    Phi, G, s2 = theory.mean.Phi, theory.mean.G, problem.architecture.bias**2
    M1 = learned(0, np.tile(X @ X.T + s2, (T1, T1)))
    N2 = learned(2, np.ones((n, n)))
    A, B = np.zeros((n, n)), np.zeros((n, n))
    for _ in range(2 * T1):
        N1, M2 = B + learned(1, G[1]), A + learned(1, Phi[0] + s2)
        A = alpha(1) @ np.linalg.solve(np.eye(n) - M1 @ N1, M1) @ alpha(1)
        B = alpha(1) @ np.linalg.solve(np.eye(n) - N2 @ M2, N2) @ alpha(1)
    shape = (T1, M, T1, M)
    return (A @ G[1].reshape(n, n)).reshape(shape), (B @ (Phi[0] + s2).reshape(n, n)).reshape(shape)


def test_responses() -> None:
    """phi_r and g_u of every pair of steps, from the kernels by linear algebra."""
    problem = linear(2, weight_decay=0.4, num_steps=3)
    theory = solve(problem, March(512, 2, tol=1e-12), save_kernels=range(4), save=["phi_r", "g_u"])
    A, B = responses(problem, theory)
    np.testing.assert_allclose(theory.mean["phi_r"][0], A, atol=1e-6)
    np.testing.assert_allclose(theory.mean["g_u"][0], B, atol=1e-6)
    assert min(np.abs(x[-1, :, 1]).max() for x in (A, B)) > 0.01
    other_A, other_B = responses(problem.replace(weight_decay=0.3), theory)
    assert min(np.abs(other_A - A).max(), np.abs(other_B - B).max()) > 1e-3


# --- gradient flow ---------------------------------------------------------------------------------------------------------


def flow_by_hand(problem: Problem) -> np.ndarray:
    """f of one hidden layer: neurons are linear in the normals (H, Z) of the start, and one for each of these is enough."""
    training, gamma0, bias = problem.training, problem.parameterization.gamma0, problem.architecture.bias
    x = np.hstack([X, np.full((len(X), 1), bias)])
    D, P, eta = x.shape[1], problem.task.num_train, training.eta0 * training.rates(1)

    def parts(state: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        return state[: (D + 1) * D].reshape(D + 1, D), state[(D + 1) * D : -1], state[-1]

    def f_of(state: np.ndarray) -> np.ndarray:
        H, Z, o = parts(state)
        return x @ (H.T @ Z) / (D + 1) / gamma0 + o

    def speed(_: float, state: np.ndarray) -> np.ndarray:
        H, Z, o = parts(state)
        Delta = (problem.task.y - f_of(state)[:P]) / P
        dH = gamma0 * np.outer(Z, Delta @ x[:P]) - training.weight_decay * H
        dZ = gamma0 * H @ (Delta @ x[:P]) - training.weight_decay * Z
        do = bias**2 * Delta.sum() - training.weight_decay * o
        return np.concatenate([eta[0] * dH.ravel(), eta[1] * dZ, [eta[1] * do]])

    start = np.sqrt(D + 1) * np.eye(D + 1)
    start = np.concatenate([start[:, :D].ravel(), start[:, D], [0.0]])
    times = np.arange(training.num_steps + 1)
    path = solve_ivp(speed, (0, times[-1]), start, t_eval=times, rtol=1e-10, atol=1e-12)
    return np.array([f_of(state) for state in path.y.T])


@pytest.mark.parametrize("method", [March(64, 2, tol=1e-12, substeps=8), TwoLayer(64, 2, quadrature=False)])
def test_flow_with_decay_and_rates(method: Any) -> None:
    problem = linear(1, weight_decay=0.4, flow=True)
    f = solve(problem, method, save_kernels=[]).mean.f
    np.testing.assert_allclose(f, flow_by_hand(problem), atol=1e-5)
    for change in ({"weight_decay": 0.3}, {"layer_rates": RATES[1::-1]}, {"layer_rates": [0.7, 1.4]}):
        assert np.abs(f - flow_by_hand(problem.replace(**change))).max() > 1e-3


def test_flow_of_two_layers_is_the_limit_of_small_steps() -> None:
    """2 f(eta / 2) - f(eta) of gradient descent, whose rates and decay are tested against networks."""
    flow = linear(2, weight_decay=0.4, flow=True)

    def steps(n: int) -> np.ndarray:
        fine = flow.replace(flow=False, eta0=0.3 / n, num_steps=4 * n)
        return solve(fine, March(64, 2, tol=1e-12), save_kernels=[]).mean.f[::n]

    f = solve(flow, March(64, 2, tol=1e-12, substeps=4), save_kernels=[]).mean.f
    coarse, fine = steps(16), steps(32)
    np.testing.assert_allclose(2 * fine - coarse, f, atol=2e-4)
    assert np.abs(fine - coarse).max() > 1e-3


# --- Langevin noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "method"), [(2, March(1024)), (1, TwoLayer(1024, quadrature=False))])
def test_langevin_noise_has_its_variance(depth: int, method: Any) -> None:
    """Without targets nothing is learned: weights decay by 1 - eta_l decay, and every step adds 2 temperature eta_l."""
    T, decay, temperature, rates = 4, 0.1, 0.5, np.array(RATES[: depth + 1])
    zero = Task(TASK.X, np.zeros(3), TASK.X_test)
    problem = linear(depth, zero, num_steps=T, weight_decay=decay, temperature=temperature)
    theory = solve(problem, method, save_kernels=[0, T])
    kept = 1 - 0.3 * rates * decay

    def variance(temperature: float) -> np.ndarray:
        return kept ** (2 * T) + 2 * temperature * 0.3 * rates * (1 - kept ** (2 * T)) / (1 - kept**2)

    def scores(variance: np.ndarray) -> np.ndarray:
        """z of the sums of Phi^l(T, T), Phi^l(T, 0) and G^l(T, T)."""
        out = []
        Phi = Phi_0 = X @ X.T
        for l in range(depth):
            Phi, Phi_0 = variance[l] * (Phi + BIAS**2), kept[l] ** T * (Phi_0 + BIAS**2)
            G = np.full_like(Phi, np.prod(variance[l + 1 :]))
            for name, expected, s in (("Phi", Phi, 1), ("Phi", Phi_0, 0), ("G", G, 1)):
                totals = getattr(theory.samples, name)[:, l, 1, :, s].sum((1, 2))
                error = totals.std(ddof=1) / np.sqrt(len(totals)) + 1e-3 * np.abs(expected.sum())  # what f learns of its noise
                out.append((totals.mean() - expected.sum()) / error)
        return np.array(out)

    assert np.abs(scores(variance(temperature))).max() < 4.5
    half, swapped = scores(variance(temperature / 2)), scores(variance(temperature)[::-1])
    assert np.abs(half[::3]).min() > 9  # Phi(T, T) of every layer
    assert np.abs(swapped[::3]).max() > 9


# --- the readout of the published notebooks ----------------------------------------------------------------------------------


def test_ntk_euler_moves_f_by_the_tangent_kernel() -> None:
    """f(t + 1) = f(t) + eta0 K(t) Delta(t) in every replica, K as it is saved; the exact readout has terms of higher order."""
    problem = Problem(MLP(2, "tanh"), Parameterization(1.5), TASK, GradientDescent(0.8, 4))

    def rest(readout: Any) -> float:
        method = March(256, 2, tol=1e-9, readout=readout, control_variate=False)
        runs = solve(problem, method, save_kernels=range(5), save=["NTK"]).samples
        f, K = runs.f, runs["NTK"]
        Delta = (TASK.y - f[:, :-1, :3]) / 3
        steps = 0.8 * np.einsum("rtmn,rtn->rtm", K[:, :-1, :, :3], Delta)
        return float(np.abs(np.diff(f, axis=1) - steps).max())

    assert rest("ntk_euler") < 1e-4
    assert rest("exact") > 1e-2
