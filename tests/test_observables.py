"""What `save` names of real networks: against dense derivatives, against the theory's networks, against gradient descent.

A convolutional network, too: `pytest -m slow tests/test_observables.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import finite
from finite import ensemble, observe
from finite.networks import build, is_weight
from tests.test_networks import state_of_theory
from widthwise import (
    MLP,
    Adam,
    ConvNet,
    GradientDescent,
    Parameterization,
    Problem,
    ResidualMLP,
    Task,
    Transformer,
    data,
    tasks,
)

SETTINGS: dict[str, Any] = {"batch_size": 4}
PROBLEMS: dict[str, Problem] = {
    "MLP": Problem(
        MLP(2, "tanh", bias=0.5),
        Parameterization(1.5),
        data.multi_index(),
        GradientDescent(0.2, 3, optimizer=Adam(), **SETTINGS),
    ),
    "Transformer": Problem(
        Transformer(1, num_heads=2),
        Parameterization(1.5, "mup"),
        data.text(context=4),
        GradientDescent(0.05, 3, "cross_entropy", optimizer=Adam(), **SETTINGS),
    ),
    "ConvNet": Problem(
        ConvNet(2, "tanh"),
        Parameterization(1.5),
        data.shapes(),
        GradientDescent(0.5, 3, "cross_entropy", **SETTINGS),
    ),
}
WIDTH, M = 4, 3


def tokens_of_few_kinds(problem: Problem) -> Problem:
    """The text in an alphabet of seven, of which a dense Hessian can be had."""
    if problem.task.kind != "tokens":
        return problem
    stream = problem.task
    few = replace(stream, num_outputs=7, held_out=lambda n: tuple(a % 7 for a in stream.held_out(n)))
    return problem.replace(task=few)


def an_ensemble(problem: Problem, seeds: int = 2) -> ensemble.State:
    """Networks that are not at their start."""

    def start(seed: int) -> ensemble.State:
        keys = jax.random.split(jax.random.key(seed), seeds)
        shapes = ensemble.shapes_of(problem)
        return ensemble.start(problem.architecture, problem.parameterization, problem.training, keys, width=WIDTH, **shapes)

    return start(2)._replace(start=start(1).network)


def looked(problem: Problem, state: ensemble.State, *names: str, x: Any, y: Any) -> dict[str, np.ndarray]:
    """All seeds; state with a leading axis."""
    program = ensemble.program_of(problem.parameterization, problem.training)
    looks = observe.Looks.of(program, problem, names, WIDTH, len(x))
    return {name: np.asarray(value) for name, value in observe.look(looks, state, x, y).items()}


def first(state: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], state)


def rates_of(problem: Problem, optimizer: Any = "sgd") -> np.ndarray:
    """Of every parameter, from the table."""
    shapes = ensemble.shapes_of(problem)
    form = problem.parameterization
    network = build(problem.architecture, form, width=WIDTH, key=jax.random.key(0), optimizer=optimizer, **shapes)
    full = [jnp.full(W.value.shape, W.scale.learning_rate) for W in jax.tree.leaves(network, is_leaf=is_weight)]
    return np.asarray(ravel_pytree(full)[0])


# --- against dense derivatives ------------------------------------------------------------------------------------------------


def dense(problem: Problem, state: ensemble.State, x: Any, y: Any) -> tuple[np.ndarray, ...]:
    """Of one network, the whole of d f / d theta, d^2 loss / d f d f, d^2 loss / d theta d theta."""
    here, back = ravel_pytree(state.network)

    def predict(theta: Any) -> Any:
        return jax.vmap(lambda x: back(theta)(x)[0] - state.start(x)[0])(x)

    def loss(f: Any) -> Any:
        f = f.reshape(-1, f.shape[-1])
        if problem.training.loss.name == "mse":
            return jnp.sum((f - y) ** 2) / 2 / len(f)
        return -jnp.take_along_axis(jax.nn.log_softmax(f), y.reshape(-1, 1), 1).mean()

    @jax.jit
    def derivatives(theta: Any) -> Any:
        f = predict(theta)
        return jax.jacrev(predict)(theta), jax.hessian(loss)(f), jax.hessian(lambda theta: loss(predict(theta)))(theta)

    return tuple(np.asarray(a, float) for a in derivatives(here))


def observables(J: np.ndarray, H: np.ndarray, full: np.ndarray, y: Any, rates: np.ndarray) -> dict[str, np.ndarray]:
    """Of these derivatives."""
    root = np.sqrt(rates)
    J = J * root
    n = J[..., 0].size
    functions = J.reshape(-1, J.shape[-2], J.shape[-1])
    if J.ndim == 4:  # tokens: the centred logit of the one that comes
        functions = functions - functions.mean(1, keepdims=True)
        functions = np.take_along_axis(functions, y.reshape(-1, 1, 1), 1)
    NTK = np.einsum("rcp,scp->rs", functions, functions) / functions.shape[1]
    flat = J.reshape(n, -1)
    return {
        "NTK": NTK,
        "eigenvalues": np.linalg.eigvalsh(NTK / len(NTK))[::-1],
        "sharpness": np.linalg.eigvalsh(flat.T @ H.reshape(n, n) @ flat)[-1],
        "hessian": np.linalg.eigvalsh(full * root * root[:, None])[-1],
    }


@pytest.mark.parametrize("name", ["MLP", "Transformer", pytest.param("ConvNet", marks=pytest.mark.slow)])
def test_curvature_is_that_of_dense_derivatives(name: str) -> None:
    """NTK, its eigenvalues, Gauss-Newton and Hessian of the second network of two, trained by Adam or not."""
    problem = tokens_of_few_kinds(PROBLEMS[name])
    state, (x, y) = an_ensemble(problem), problem.task.probe(M)
    x = x[:, 4:12, 4:12] if name == "ConvNet" else x
    seen = looked(problem, state, "NTK", "eigenvalues", "sharpness", "hessian", x=x, y=y)
    second = jax.tree.map(lambda leaf: leaf[1], state)
    derivatives = dense(problem, second, x, y)
    right, wrong = (observables(*derivatives, y, rates_of(problem, optimizer)) for optimizer in ("sgd", "adam"))
    for what, value in right.items():
        np.testing.assert_allclose(seen[what][1], value, rtol=2e-3, atol=1e-5 * np.abs(value).max(), err_msg=what)
    # negative twins: another network, the rates of Adam
    for what, value in right.items():
        assert np.abs(seen[what][0] - value).max() > 0.02 * np.abs(value).max(), what
        assert np.abs(wrong[what] - value).max() > 0.1 * np.abs(value).max(), what
    assert abs(right["hessian"] / right["sharpness"] - 1) > 0.02


def test_blocks_of_rows_make_one_kernel() -> None:
    """Five rows at a time of twelve."""
    problem = PROBLEMS["Transformer"]
    network, (x, y) = first(an_ensemble(problem)).network, map(jnp.asarray, problem.task.probe(M))
    program = ensemble.program_of(problem.parameterization, problem.training)
    one, bytes_of_one = observe.rows_at_a_time(network, x, 4 * M, 0.0)
    assert (one, observe.rows_at_a_time(network, x, 4 * M, 5.5 * bytes_of_one)) == (1, (5, 5 * bytes_of_one))

    def kernel(budget: float) -> np.ndarray:
        return np.asarray(jax.jit(lambda: observe.tangent_kernel(program, network, x, y, budget))())

    whole = kernel(observe.ROWS_BYTES)
    assert whole.shape == (12, 12)
    np.testing.assert_allclose(kernel(5.5 * bytes_of_one), whole, rtol=1e-4, atol=1e-5)
    assert np.abs(whole - np.diag(np.diag(whole))).max() > 0.1  # blocks in the wrong place would show


def test_gradients_by_fields_are_those_by_weights_beside_them() -> None:
    """The embedding is a sum with the places: d f / d place = multiplier d f / d embedding. Of the ConvNet's last by hand."""
    problem = PROBLEMS["Transformer"]
    state, (x, y) = an_ensemble(problem), problem.task.probe(M)
    network = first(state).network
    seen = looked(problem, state, "gradient_kernels", x=x, y=y)
    assert {*seen} == {f"gradient_kernels/{name}" for name in ("embedding", "h1", "value1", "mlp1")}

    def total(place: Any, x: Any, y: Any) -> Any:
        f = eqx.tree_at(lambda network: network.weights["place"].value, network, place)(x)[0]
        return jnp.sum(jnp.take_along_axis(f, y[:, None], 1)[:, 0] - f.mean(1))

    by_place = jax.vmap(jax.grad(total), (None, 0, 0))(network.weights["place"].value, x, y)
    output = problem.parameterization.scale("output", width=WIDTH, fan_in=WIDTH)
    g = by_place / network.weights["place"].scale.multiplier / (output.multiplier * output.init_std)
    right = np.einsum("msi,nsi->mn", g, g) / g[0].size
    np.testing.assert_allclose(seen["gradient_kernels/embedding"][0], right, rtol=1e-3, atol=1e-6 * right.max())
    assert np.abs(seen["gradient_kernels/h1"][0] / right - 1).max() > 0.1  # negative twin: another field

    problem = PROBLEMS["ConvNet"]
    state, (x, y) = an_ensemble(problem), problem.task.probe(M)
    network = first(state).network
    h = np.asarray(jax.vmap(network)(x)[1]["h2"])
    sites, pooled = h[0, :, :, 0].size, 4 * (h.shape[1] // 2) * (h.shape[2] // 2)
    assert sites == pooled
    w = np.asarray(network.weights["w"].value)  # in units of b_L; each site has its share of the mean
    g = np.einsum("mabi,ci->mcabi", 1 - np.tanh(h) ** 2, w) / sites
    right = np.einsum("mcabi,ncabi->mn", g, g) / len(w) / h[0].size
    seen = looked(problem, state, "gradient_kernels", x=x, y=y)["gradient_kernels/h2"][0]
    np.testing.assert_allclose(seen, right, rtol=1e-3)


# --- against the theory's networks --------------------------------------------------------------------------------------------


def test_observables_are_those_of_the_theory() -> None:
    """The same MLP trained both ways: NTK, eigenvalues, sharpness, G and update sizes at the start and the end."""
    X, y = np.random.default_rng(0).standard_normal((6, 5)), np.eye(3)[[0, 1, 2, 0, 1, 2]]
    problem = Problem(
        MLP(2, "tanh", bias=0.5),
        Parameterization(1.5),
        Task(X[:4], y[:4], X[4:], y[4:]),
        GradientDescent(0.8, 5, "cross_entropy"),
    )
    names = ("NTK", "eigenvalues", "sharpness", "update_size")
    nets = finite.train(problem, width=WIDTH, num_seeds=1, seed=3, save=names, progress=False).samples
    state, training = state_of_theory(problem, WIDTH, seed=3), problem.training
    program, numbers = ensemble.program_of(problem.parameterization, training), ensemble.Training.of(training)
    x, y = X.astype(np.float32), y.astype(np.float32)
    for k in range(2):
        if k:
            for _ in range(5):
                state, _ = jax.jit(ensemble.step, static_argnums=0)(program, numbers, state, x[:4], y[:4], 0.8)
        one = jax.tree.map(lambda leaf: leaf[None], state)
        seen = looked(problem, one, *names, "gradient_kernels", x=x, y=y)
        assert seen["eigenvalues"].shape == (1, 4)
        for name in names[:3]:
            np.testing.assert_allclose(seen[name][0], nets[name][0, k], rtol=1e-3, atol=1e-4, err_msg=name)
        for l in range(2):
            G = nets.equal_time("G")[0, l]
            np.testing.assert_allclose(seen[f"gradient_kernels/h{l + 1}"][0], G[k], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(seen[f"update_size/h{l + 1}"][0], nets["update_size"][0, k, l], rtol=1e-3, atol=1e-6)
            assert np.abs(G[1] - G[0]).max() > 1e-2  # negative twin: the other state
    assert abs(nets["sharpness"][0, 1] / nets["sharpness"][0, 0] - 1) > 1e-2


# --- what it means ------------------------------------------------------------------------------------------------------------

BLOCKS = Problem(ResidualMLP(3, "tanh", 2), Parameterization(1.5), tasks.sphere(6, input_dim=5), GradientDescent(0.1, 4))


def test_hessian_is_gauss_newton_where_residuals_vanish() -> None:
    state, x = an_ensemble(BLOCKS), BLOCKS.task.X.astype(np.float32)
    one = first(state)
    f = np.asarray(ensemble.outputs(one.network, x)[0] - ensemble.outputs(one.start, x)[0])
    seen = looked(BLOCKS, state, "sharpness", "hessian", x=x, y=f)
    np.testing.assert_allclose(seen["hessian"][0], seen["sharpness"][0], rtol=1e-3)
    away = looked(BLOCKS, state, "sharpness", "hessian", x=x, y=f + 1)
    np.testing.assert_allclose(away["sharpness"], seen["sharpness"], rtol=1e-3)
    assert abs(away["hessian"][0] / away["sharpness"][0] - 1) > 0.02


def test_gradient_descent_is_stable_below_two_over_the_sharpness() -> None:
    """Near a minimum (targets zero, outputs centred): weights that moved a little come back at 1.9 / lambda, not at 2.1."""
    x, y = BLOCKS.task.X.astype(np.float32), np.zeros((6, 1), np.float32)
    state = first(an_ensemble(BLOCKS))
    state = state._replace(start=state.network)
    (top,) = looked(BLOCKS, jax.tree.map(lambda leaf: leaf[None], state), "hessian", x=x, y=y)["hessian"]
    keys = iter(jax.random.split(jax.random.key(5), 100))
    moved = jax.tree.map(lambda W: W + 1e-3 * jax.random.normal(next(keys), W.shape), state.network)
    program, numbers = ensemble.program_of(BLOCKS.parameterization, BLOCKS.training), ensemble.Training.of(BLOCKS.training)

    @jax.jit
    def after(eta: Any) -> Any:
        def body(_: Any, state: ensemble.State) -> ensemble.State:
            return ensemble.step(program, numbers, state, x, y, eta)[0]

        last = jax.lax.fori_loop(0, 40, body, state._replace(network=moved))
        return ensemble.step(program, numbers, last, x, y, eta)[1]

    before = float(ensemble.step(program, numbers, state._replace(network=moved), x, y, 0.0)[1])
    assert float(after(1.9 / top)) < 0.2 * before
    assert float(after(2.1 / top)) > 5 * before


def test_top_eigenvalue_is_a_number_only_if_it_is_found() -> None:
    values = np.concatenate([np.linspace(-9, 1, 500), [2.0, 2.0]]).astype(np.float32)
    np.testing.assert_allclose(observe.top_eigenvalue(lambda v: values * v, 502), 2.0, rtol=1e-3)
    assert observe.top_eigenvalue(lambda v: -abs(values) * v, 502) < 0.01 * 9
    assert np.isnan(observe.top_eigenvalue(lambda v: values * v, 502, tolerance=1e-6, restarts=1))
    nowhere = jax.tree.map(lambda W: W * np.nan, an_ensemble(BLOCKS))
    x, y = BLOCKS.task.X.astype(np.float32), BLOCKS.task.y[:, None].astype(np.float32)
    seen = looked(BLOCKS, nowhere, "sharpness", "hessian", "eigenvalues", "NTK", x=x, y=y)
    assert all(np.isnan(value).all() for value in seen.values())


# --- in a run -----------------------------------------------------------------------------------------------------------------


def run(problem: Problem, *save: str, **settings: Any) -> Any:
    return finite.train(problem, **{"width": 8, "num_seeds": 3, "num_probes": 5, "save": save, "progress": False} | settings)


def test_a_run_records_them() -> None:
    result = run(BLOCKS.replace(task=tasks.sphere(6, 2, input_dim=5)), *observe.NAMES, save_kernels=[0, 2])
    seen = result.samples
    assert seen["NTK"].shape == (3, 2, 8, 8)
    assert seen["eigenvalues"].shape == (3, 2, 6)  # of the train points
    assert seen["sharpness"].shape == seen["hessian"].shape == (3, 2)
    assert seen["gradient_kernels/h4"].shape == (3, 2, 8, 8)
    K = seen["NTK"][..., :6, :6]
    np.testing.assert_allclose(seen["eigenvalues"], np.linalg.eigvalsh(K / 6)[..., ::-1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(seen["sharpness"], seen["eigenvalues"][..., 0], rtol=2e-3)  # one output, mse
    assert np.isfinite(seen["hessian"]).all()
    assert np.abs(seen["NTK"][:, 1] - seen["NTK"][:, 0]).max() > 1e-3
    two = run(result.problem, *observe.NAMES, save_kernels=[0, 2], num_seeds=2).samples
    assert all(np.array_equal(two[name], seen[name][:2]) for name in ("NTK", "sharpness", "hessian"))


def test_names_and_memory() -> None:
    with pytest.raises(ValueError, match=r"save must be one of .*'hessian'; got 'Hessian'"):
        run(BLOCKS, "Hessian")
    online = BLOCKS.replace(task=Task(np.eye(30, 5), np.ones(30), np.eye(5)), sampling="online", batch_size=2)
    with pytest.raises(ValueError, match="give the task y_test"):
        run(online, "sharpness")
    with pytest.raises(MemoryError, match="num_probes, or save less"):
        run(BLOCKS.replace(task=tasks.sphere(200, input_dim=5)), "NTK", memory=3e5)
    run(BLOCKS.replace(task=tasks.sphere(200, input_dim=5)), memory=3e5)
