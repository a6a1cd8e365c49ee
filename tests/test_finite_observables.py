"""What `save` names is measured on each network exactly: against automatic differentiation of its raw weights."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import finite
from tests.test_finite_training import GAMMA0, N, P, a_problem, kinds, network, quick_compilation, sgd, start, train
from widthwise import Task
from widthwise.precision import float64

__all__ = ["quick_compilation"]
ALL = ["NTK", "eigenvalues", "sharpness", "update_size", "h", "z"]
RATES = [0.5, 2.5, 2.0]


def raw_network(params, X, bias, push=0.0):
    """As `network`, for jax; `push` is added to phi^1 ... phi^L."""
    phi = X
    for l, (W, b) in enumerate(params[:-1]):
        phi = jnp.tanh(phi @ W.T / np.sqrt(W.shape[1]) + bias * b) + (push if isinstance(push, float) else push[l])
    w, b = params[-1]
    return (phi @ w.T / N + bias * b / np.sqrt(N)) / GAMMA0


@jax.jit
def derivatives(params, X, bias):
    """Of f by the parameters, layer by layer (M, C, parameters); of f_0 by phi^1 ... phi^L (L, M, N)."""
    by_weights = jax.jacrev(raw_network)(params, X, bias)
    rows = [jnp.concatenate([x.reshape(*x.shape[:2], -1) for x in layer], -1) for layer in by_weights]
    zeros = jnp.zeros((len(params) - 1, len(X), N))
    return rows, jax.grad(lambda push: raw_network(params, X, bias, push)[:, 0].sum())(zeros)


def brute_force(problem, params, f, rates=RATES) -> dict[str, np.ndarray]:
    """All observables but the update size, at one state."""
    X, bias, C = problem.task.X_all, problem.architecture.bias, problem.task.num_outputs
    with float64():
        rows, by_phi = jax.tree.map(np.asarray, derivatives(params, X, bias))
        loss = problem.training.loss.of_sample
        H = jax.vmap(jax.hessian(loss))(jnp.asarray(f[:P]), jnp.asarray(problem.task.y.reshape(P, C)))
    unit = N * GAMMA0**2
    K = sum(rate * unit * np.einsum("mcp,ndp->mcnd", J, J) for rate, J in zip(rates, rows, strict=True))
    NTK = np.einsum("mcnc->mn", K) / C
    full = np.zeros((P, C, P, C))
    full[np.arange(P), :, np.arange(P)] = H
    operator = K[:P, :, :P].reshape(P * C, P * C) @ full.reshape(P * C, P * C) / P
    h, phi = [], network(params, X, bias)[1]
    for (W, b), below in zip(params[:-1], phi, strict=False):
        h.append(below @ W.T / np.sqrt(W.shape[1]) + bias * b)
    return {
        "NTK": NTK,
        "eigenvalues": np.linalg.eigvalsh(NTK[:P, :P] / P)[::-1],
        "sharpness": np.linalg.eigvals(operator).real.max(),
        "h": np.array(h),
        "z": N * GAMMA0 * by_phi,
    }


@pytest.mark.parametrize("case", ["cross_entropy", "mse"])
def test_observables_are_those_of_automatic_differentiation(case):
    settings = {"outputs": 3, "eta0": 0.8, "bias": 0.4} if case == "cross_entropy" else {"momentum": 0.5}
    problem = a_problem(case, layer_rates=RATES, **settings)
    plain = sgd(problem)
    right = [brute_force(problem, plain["weights"][t], plain["f"][t]) for t in (0, 5)]
    h = [x["h"] for x in right]
    for same in kinds(problem):
        samples = train(same, save_kernels=[0, 5], save=ALL)
        for name in right[0]:
            for k in range(2):
                # rounding as in the training of f; eigenvalues of a matrix of norm ten
                np.testing.assert_allclose(samples[name][1, k], right[k][name], atol=1e-9, err_msg=name)
        size = np.sqrt(((h[1] - h[0]) ** 2).mean((1, 2)))
        np.testing.assert_allclose(samples["update_size"][1], [np.zeros(2), size], atol=1e-10)
        K = samples.tangent_kernel(problem.Phi0, RATES, problem.architecture.bias)
        np.testing.assert_allclose(samples["NTK"], K, atol=1e-10)  # the kernels Phi and G say the same
    # negative twins: another time, rates forgotten
    forgotten = brute_force(problem, plain["weights"][5], plain["f"][5], rates=[1.0] * 3)
    for name in right[0]:
        assert np.abs(right[0][name] - right[1][name]).max() > 1e-3, name
        assert name in ("h", "z") or np.abs(forgotten[name] - right[1][name]).max() > 1e-2, name


def bump(f, y):
    """Curved upwards near y, downwards far from it."""
    return -jnp.sum(1 / (1 + 2 * (f - y) ** 2))


def test_sharpness_of_a_loss_that_is_not_convex():
    problem = a_problem(bump, outputs=3)
    got = train(problem, save_kernels=[0], save=["sharpness"])["sharpness"][1, 0]

    def right(loss) -> float:
        return brute_force(problem.replace(loss=loss), start(problem), np.zeros((P + 2, 3)), [1.0] * 3)["sharpness"]

    np.testing.assert_allclose(got, right(bump), atol=1e-10)
    assert 0.01 < right(lambda f, y: -bump(f, y)) < 0.9 * got  # negative twin: the other end of the spectrum


def test_online_observables_are_of_the_watched_points():
    problem = a_problem(sampling="online", batch_size=3, num_train=18)
    samples = train(problem, save_kernels=[0, 5], save=["eigenvalues", "sharpness"])
    assert samples["eigenvalues"].shape == (2, 2, 2)
    np.testing.assert_allclose(samples["sharpness"], samples["eigenvalues"][..., 0], rtol=1e-12)  # one output, mse
    K = samples.tangent_kernel(problem.Phi0)
    np.testing.assert_allclose(samples["eigenvalues"], np.linalg.eigvalsh(K / 2)[..., ::-1], rtol=1e-10)


@pytest.mark.parametrize(
    ("save", "kept", "says"),
    [
        (["Ntk"], None, "save must be one of 'NTK', 'eigenvalues', 'sharpness', 'update_size', 'h', 'z'; got 'Ntk'"),
        (["NTK", "phi_r"], None, "'phi_r' is a response of the theory"),
        (["g_u"], None, "leave it to dmft.solve"),
        ([3], None, "every entry of save must be text, got 3"),
        (3, None, "save must be text or a sequence"),
        (["NTK"], [], r"save_kernels=\[\] keeps none"),
    ],
)
def test_names_that_cannot_be_saved(save, kept, says):
    with pytest.raises(ValueError, match=says):
        finite.train(a_problem(), width=N, num_seeds=1, save=save, save_kernels=kept)


def test_sharpness_online_needs_targets():
    problem = a_problem(sampling="online", batch_size=3, num_train=18)
    task = problem.task
    blind = dataclasses.replace(problem, task=Task(task.X, task.y, task.X_test))
    with pytest.raises(ValueError, match="give the task y_test"):
        finite.train(blind, width=N, num_seeds=1, save=["sharpness"])
    assert train(blind).test_loss is None
