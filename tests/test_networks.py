"""Real networks: layers against other code, forms of one network, optimizers, widths and depths, ensembles that survive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dmft
import finite
from finite import ensemble, mlp
from finite.keys import key_of
from finite.networks import build, is_weight
from finite.networks.drawn import Backend
from widthwise import (
    MLP,
    Adam,
    ConvNet,
    GradientDescent,
    Optax,
    Parameterization,
    Problem,
    ResidualMLP,
    ResNet,
    Transformer,
    ViT,
    data,
    tasks,
)
from widthwise.data import Stream
from widthwise.feed import CHUNK, rates
from widthwise.networks.backend import normalized
from widthwise.networks.layers import pool, shifts
from widthwise.parameterization import LayerScale

IMAGE, TOKENS = (8, 8, 3), (6,)
NETWORKS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "MLP": (MLP(2, "tanh", bias=0.5), (5,), 3),
    "ResidualMLP": (ResidualMLP(3, "relu", block_depth=2), (5,), 3),
    "ConvNet": (ConvNet(2), IMAGE, 3),
    "ResNet": (ResNet((1, 1), norm=True), IMAGE, 3),
    "Transformer": (Transformer(2, num_heads=2), TOKENS, 5),
    "tied": (Transformer(1, head_dim=4, tied=True), TOKENS, 5),
    "ViT": (ViT(1, patch=4, num_heads=2), IMAGE, 3),
}


def batch(name: str, size: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(CHUNK, size, ...) batches of the network of this name, all of them the same."""
    _, shape, C = NETWORKS[name]
    rng = np.random.default_rng(seed)
    tokens = shape == TOKENS
    x = rng.integers(0, C, (size, *shape)) if tokens else rng.standard_normal((size, *shape)).astype(np.float32)
    y = rng.integers(0, C, (size, *shape) if tokens else (size,))
    return tuple(np.broadcast_to(a, (CHUNK, *a.shape)) for a in (x, y))  # type: ignore[return-value]


def trained(name: str, form: Parameterization, training: GradientDescent, width: int = 16, seeds: int = 2) -> np.ndarray:
    """f after the steps of `training`, (seeds, size, ...)."""
    noun, shape, C = NETWORKS[name]
    keys = jax.random.split(jax.random.key(0), seeds)
    state = ensemble.start(noun, form, training, keys, width=width, input_shape=shape, num_outputs=C)
    program, (x, y) = ensemble.program_of(form, training), batch(name)
    eta = np.broadcast_to(rates(training, 0), (seeds, CHUNK))
    state, _ = ensemble.advance(program, ensemble.Training.of(training), state, x, y, eta, training.num_steps)
    return np.asarray(jax.vmap(lambda s: ensemble.centred(program, s, x[0])[0])(state))


# --- layers -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 8), (3, 2, 8), (1, 2, 7), (5, 1, 6), (2, 1, 5)])
def test_convolution_is_that_of_xla(kernel: int, stride: int, size: int) -> None:
    rng = np.random.default_rng(0)
    W, x = rng.standard_normal((4, kernel, kernel, 3)), rng.standard_normal((size, size, 3))
    before = (kernel - 1) // 2
    expected = jax.lax.conv_general_dilated(
        jnp.asarray(x[None], jnp.float32),
        jnp.asarray(W.transpose(1, 2, 3, 0), jnp.float32),
        (stride, stride),
        [(before, kernel - 1 - before)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0] / np.sqrt(3 * kernel**2)

    def filtered(W: np.ndarray) -> np.ndarray:
        return np.asarray(shifts(x[None], kernel, stride)[0] @ W.reshape(4, -1).T / np.sqrt(3 * kernel**2))

    np.testing.assert_allclose(filtered(W), expected, atol=1e-5)
    assert kernel == 1 or not np.allclose(filtered(W[:, ::-1]), expected, atol=1e-2)


def test_pool_and_normalize() -> None:
    x = np.arange(5 * 4 * 2, dtype=float).reshape(1, 5, 4, 2)
    assert pool(x).shape == (1, 2, 2, 2)
    assert pool(x)[0, 0, 0, 0] == x[0, :2, :2, 0].mean()
    network: Any = build(MLP(1), Parameterization(), width=4, input_shape=(3,), num_outputs=1, key=jax.random.key(0))
    y = normalized(Backend(network, {}), np.random.default_rng(0).standard_normal((3, 1000)) * 7 + 2)
    np.testing.assert_allclose([y.mean(-1), (y**2).mean(-1)], [[0] * 3, [1] * 3], atol=1e-5)


def test_decoder_sees_no_later_token_and_viewer_all_patches() -> None:
    noun, shape, C = NETWORKS["Transformer"]
    network: Any = build(noun, Parameterization(), width=16, input_shape=shape, num_outputs=C, key=jax.random.key(1))
    x = np.array([0, 1, 2, 3, 4, 0])
    later = np.array([0, 1, 2, 4, 0, 1])
    (f, fields), (other, _) = network(x), network(later)
    np.testing.assert_allclose(f[:3], other[:3], rtol=1e-6)
    assert np.abs(f[3:] - other[3:]).max() > 1e-3
    np.testing.assert_allclose(fields["attention1"].sum(-1), 1.0, rtol=1e-6)
    assert np.abs(np.triu(fields["attention1"][0], 1)).max() == 0
    noun, shape, C = NETWORKS["ViT"]
    view: Any = build(noun, Parameterization(), width=16, input_shape=shape, num_outputs=C, key=jax.random.key(1))
    image = np.random.default_rng(0).standard_normal(shape)
    _, fields = view(image)
    assert (np.asarray(fields["attention1"]) > 0).all()


def state_of_theory(problem: Problem, width: int, seed: int) -> ensemble.State:
    """The first network of `finite.train(problem, ...)`, hand-written there, put into the module."""
    from finite.train import _scales

    key = jax.random.fold_in(key_of(seed, width), 0)
    shapes: dict[str, Any] = {"width": width, "num_outputs": problem.task.num_outputs}
    D = problem.task.input_dim
    weights = mlp.init(key, _scales(problem, width), input_dim=D, dtype=jnp.float32, **shapes)
    module: Any = build(problem.architecture, problem.parameterization, input_shape=(D,), key=key, **shapes)
    for l, layer in enumerate(weights):
        last = l == len(weights) - 1
        for name, value in (("w" if last else f"W{l}", layer.W), (f"b{l}", layer.b)):
            if name in module.weights:
                module.weights[name] = replace(module.weights[name], value=value)
    return ensemble.State(module, module, jax.tree.map(jnp.zeros_like, module))


def test_dense_is_the_mlp_of_the_theory() -> None:
    """Weights of the hand-written network put into the module: the same f after the same steps, SGD with momentum and decay."""
    task = tasks.sphere(4, input_dim=6)
    training = GradientDescent(0.3, 5, momentum=0.5, nesterov=True, weight_decay=0.1)
    problem = Problem(MLP(2, "tanh", bias=0.5), Parameterization(1.5), task, training)
    nets = finite.train(problem, width=16, num_seeds=1, seed=3, progress=False)
    state = state_of_theory(problem, 16, seed=3)
    program, numbers = ensemble.program_of(problem.parameterization, training), ensemble.Training.of(training)
    X, y = task.X.astype(np.float32), task.y.reshape(-1, 1).astype(np.float32)
    for _ in range(5):
        state, _ = jax.jit(ensemble.step, static_argnums=0)(program, numbers, state, X, y, 0.3)
    f = ensemble.centred(program, state, X)[0][:, 0]
    np.testing.assert_allclose(f, nets.samples.f[0, -1], atol=2e-5)
    assert np.abs(f - nets.samples.f[0, -2]).max() > 1e-3


# --- forms of one network -----------------------------------------------------------------------------------------------------


FAST_FORMS = ("MLP-sgd", "MLP-adam", "ResidualMLP-sgd", "ConvNet-sgd", "Transformer-sgd")
FORMS = [
    pytest.param(name, optimizer, id=(case := f"{name}-{label}"), marks=[] if case in FAST_FORMS else [pytest.mark.slow])
    for name in NETWORKS
    for label, optimizer in (("sgd", None), ("adam", Adam(epsilon=0.1)))
]


@pytest.mark.parametrize(("name", "optimizer"), FORMS)
def test_multipliers_and_table_are_one_network(name: str, optimizer: Any) -> None:
    """mean_field and mup train alike; an epsilon that is seen, and decay, too."""
    training = GradientDescent(0.5 if optimizer is None else 0.05, 3, "cross_entropy", weight_decay=0.1, optimizer=optimizer)
    a, b = (trained(name, Parameterization(1.5, kind), training) for kind in ("mean_field", "mup"))
    np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(a).max())
    other = trained(name, Parameterization(1.5, "ntk"), training)
    assert np.abs(other - a).max() > 0.02 * np.abs(a).max()


@pytest.mark.parametrize(
    "optimizer", [pytest.param(None, id="sgd"), pytest.param(Adam(epsilon=1e-12), id="adam", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["MLP", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet", "Transformer"))])
def test_base_shapes_are_the_third_form(name: str, optimizer: Any) -> None:
    """At the base width the standard network; at any other that of mean_field with the constants that it has at the base."""
    N0, N = 8, 32
    training = GradientDescent(0.02 if optimizer is None else 0.002, 3, "cross_entropy", optimizer=optimizer)
    base = Parameterization(kind="mup", base_width=N0)
    standard = trained(name, Parameterization(kind="standard"), training, width=N0)
    np.testing.assert_allclose(trained(name, base, training, width=N0), standard, atol=2e-5 * np.abs(standard).max())

    multipliers, power = Parameterization(N0**-0.5, alpha=0.0), 1 if optimizer else 2

    def seen(form: Parameterization, role: Any, width: int, fan_in: int) -> np.ndarray:
        """What can be seen from outside: the size at the start, and how fast it moves."""
        a, b, c = form.scale(role, width=width, fan_in=fan_in, optimizer=training.rates_of)
        return np.array([a * b, a**power * c])

    class AsTuned(Parameterization):
        def scale(self, role: Any, *, width: int, fan_in: int, **settings: Any) -> Any:
            a, b, c = multipliers.scale(role, width=width, fan_in=fan_in, **settings)
            F = fan_in * N0 // width if role in ("hidden", "output") else fan_in
            size, rate = seen(base, role, N0, F) / seen(multipliers, role, N0, F)
            return LayerScale(a, float(size * b), float(rate * c))

    wide = trained(name, base, training, width=N)
    np.testing.assert_allclose(
        trained(name, AsTuned(N0**-0.5, alpha=0.0), training, width=N), wide, atol=2e-4 * np.abs(wide).max()
    )
    other = trained(name, Parameterization(kind="standard"), training, width=N)
    assert np.abs(other - wide).max() > 0.05 * np.abs(wide).max()


def test_adam_is_the_textbook() -> None:
    """Three steps of a linear readout by hand."""
    X, y = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    x = X[:, :2]
    optimizer = Adam(0.8, 0.9, 0.01)
    training = GradientDescent(0.1, 3, weight_decay=0.2, optimizer=optimizer)
    form = Parameterization(2.0, centered=False)
    state = ensemble.start(
        MLP(1, "linear"), form, training, jax.random.split(jax.random.key(0), 1), width=8, input_shape=(2,), num_outputs=3
    )
    one = jax.tree.map(lambda a: a[0], state)
    weights = [one.network.weights[name] for name in ("W0", "w")]
    W = [np.asarray(w.value, float) for w in weights]
    scale = [w.scale for w in weights]
    s = [w.gradient_size for w in weights]
    m, v = ([np.zeros_like(w) for w in W] for _ in range(2))
    program, numbers = ensemble.program_of(form, training), ensemble.Training.of(training)
    for t in range(1, 4):
        a = [scale[0].multiplier, scale[1].multiplier]
        h = a[0] * x @ W[0].T
        e = (a[1] * h @ W[1].T - y) / 4
        gradient = [a[0] * a[1] * (e @ W[1]).T @ x, a[1] * e.T @ h]
        for i in (0, 1):
            g = gradient[i] / s[i]
            m[i] = 0.8 * m[i] + 0.2 * g
            v[i] = 0.9 * v[i] + 0.1 * g**2
            G = -scale[i].learning_rate * (m[i] / (1 - 0.8**t)) / (np.sqrt(v[i] / (1 - 0.9**t)) + 0.01)
            W[i] = W[i] + 0.1 * (G - 0.2 * W[i])
        one, _ = ensemble.step(program, numbers, one, x, y, 0.1)
        for mine, name in zip(W, ("W0", "w"), strict=True):
            np.testing.assert_allclose(one.network.weights[name].value, mine, rtol=2e-4, atol=1e-5)


def test_own_optimizer() -> None:
    """optax's SGD with momentum is ours; its Adam, like="adam", is ours too, and like="sgd" is not."""
    settings: dict[str, Any] = {"eta0": 0.3, "num_steps": 4, "loss": "cross_entropy"}
    ours = trained("MLP", Parameterization(), GradientDescent(**settings, momentum=0.5))
    theirs = trained("MLP", Parameterization(), GradientDescent(**settings, optimizer=Optax(optax.sgd(1.0, 0.5), "sgd")))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    settings["eta0"] = 0.05
    ours = trained("MLP", Parameterization(), GradientDescent(**settings, optimizer=Adam(0.9, 0.99)))
    adam = optax.adam(1.0, 0.9, 0.99, 1e-8)
    theirs, wrong = (
        trained("MLP", Parameterization(), GradientDescent(**settings, optimizer=Optax(adam, like)))  # type: ignore[arg-type]
        for like in ("adam", "sgd")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours - wrong).max() > 0.1 * np.abs(ours).max()


# --- widths and depths --------------------------------------------------------------------------------------------------------

SGD, ADAM = {"eta0": 0.5}, {"eta0": 0.05, "optimizer": Adam()}
CHECKS: dict[str, tuple[Any, dict[str, Any], Stream]] = {
    "MLP": (MLP(2, "relu"), SGD, data.multi_index()),
    "MLP, Adam": (MLP(2, "relu"), ADAM, data.multi_index()),
    "ResidualMLP": (ResidualMLP(2, "relu"), SGD, data.multi_index()),
    "ResidualMLP, Adam": (ResidualMLP(2, "relu"), ADAM, data.multi_index()),
    "ConvNet": (ConvNet(2), SGD, data.shapes()),
    "ConvNet, Adam": (ConvNet(2), ADAM, data.shapes()),
    "ResNet": (ResNet((1, 1)), SGD, data.shapes()),
    "ResNet, Adam": (ResNet((1, 1)), ADAM, data.shapes()),
    "Transformer": (Transformer(1), SGD, data.text(context=16)),
    "Transformer, Adam": (Transformer(1), ADAM, data.text(context=16)),
    "ViT": (ViT(1), SGD, data.shapes()),
    "ViT, Adam": (ViT(1), ADAM, data.shapes()),
}
FAST = ("MLP, Adam",)


def checked(name: str, **form: Any) -> finite.CoordinateCheck:
    noun, settings, stream = CHECKS[name]
    training = GradientDescent(
        num_steps=4, batch_size=16, loss="mse" if stream.kind == "values" else "cross_entropy", **settings
    )
    problem = Problem(noun, Parameterization(**form), stream, training)
    return finite.coordinate_check(problem, widths=(64, 256), num_seeds=8, progress=False)


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CHECKS])
def test_updates_go_with_the_width_as_they_should(name: str) -> None:
    """Flat in mean_field, N^-1/2 in ntk, growing in standard."""
    mean_field = checked(name)
    assert mean_field, str(mean_field)
    lazy = checked(name, kind="ntk")
    hidden = [field for field in lazy.fields if field != "f"]
    assert lazy, str(lazy)
    assert np.mean([lazy.slopes()[field][0] for field in hidden]) < -0.4
    standard = checked(name, kind="standard")
    assert max(slope for slope, _ in standard.slopes().values()) > 0.3, str(standard)
    assert not standard


@pytest.mark.parametrize("alpha", [0.5, 0.75, 1.0])
def test_rates_inside_of_blocks_make_up_for_their_number(alpha: float) -> None:
    """L branches enter as L^-alpha; the step of each is its rate, times another L^-alpha under gradient descent: in sum one."""
    form = Parameterization(alpha=alpha)
    for optimizer, powers in (("sgd", 2), ("adam", 1)):
        one, many = (form.scale("hidden", width=64, fan_in=64, optimizer=optimizer, blocks=L) for L in (1, 16))
        assert 16 * form.branch(16) ** powers * many.learning_rate / one.learning_rate == pytest.approx(1.0, rel=1e-12)
        assert (many.multiplier, many.init_std) == (one.multiplier, one.init_std)


@pytest.mark.parametrize(
    ("alpha", "block_depth", "settings"),
    [
        pytest.param(0.5, 1, SGD, id="depth-muP, sgd", marks=pytest.mark.slow),
        pytest.param(0.5, 1, ADAM, id="depth-muP, adam", marks=pytest.mark.slow),
        pytest.param(1.0, 2, SGD, id="CompleteP, sgd"),
        pytest.param(1.0, 2, ADAM, id="CompleteP, adam", marks=pytest.mark.slow),
    ],
)
def test_updates_do_not_go_with_the_depth(alpha: float, block_depth: int, settings: dict[str, Any]) -> None:
    """Updates of the last field at depth 4 and 16: the same in depth-muP and CompleteP, larger where alpha = 0."""

    def update(depth: int, alpha: float) -> float:
        noun = ResidualMLP(depth, "tanh", block_depth)
        training = GradientDescent(num_steps=3, batch_size=16, **settings | {"eta0": settings["eta0"] / 5})
        problem = Problem(noun, Parameterization(alpha=alpha), data.multi_index(), training)
        seen = finite.coordinate_check(problem, widths=(32, 64), num_seeds=4, progress=False)
        return float(seen.update[1, :, seen.fields.index(f"h{depth + 1}")].mean())

    assert 0.7 < update(16, alpha) / update(4, alpha) < 1.4
    assert not 0.6 < update(16, 0.0) / update(4, 0.0) < 1.6


def test_updates_against_the_limit() -> None:
    """What dmft says |h(T) - h(0)| is at infinite width: networks of width 512 are there, at another gamma0 they are not."""
    problem = Problem(MLP(2, "tanh"), Parameterization(1.0), tasks.sphere(4, input_dim=8), GradientDescent(0.5, 8))
    theory = dmft.solve(problem, save=["update_size"], progress=False)
    seen = finite.coordinate_check(problem, widths=(128, 512), num_seeds=32, theory=theory, progress=False)
    for name, (limit, error) in seen.limit.items():
        here = seen.update[1, :, seen.fields.index(name)]
        sem = here.std(ddof=1) / np.sqrt(len(here))
        assert abs(here.mean() - limit) < 4 * np.hypot(sem, error) + 0.02 * limit  # a bias of order 1/N
        assert 4 * np.hypot(sem, error) + 0.02 * limit < 0.1 * limit
    assert "limit" in str(seen)
    other = finite.coordinate_check(problem.replace(gamma0=1.3), widths=(128, 512), num_seeds=32, progress=False)
    assert all(other.update[1, :, other.fields.index(name)].mean() > 1.1 * limit for name, (limit, _) in seen.limit.items())
    with pytest.raises(ValueError, match="of the same problem"):
        finite.coordinate_check(problem.replace(gamma0=1.3), widths=(16, 32), theory=theory, progress=False)


# --- groups of networks -------------------------------------------------------------------------------------------------------


def test_groups_are_equal_and_cores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "cores", lambda: 2)
    monkeypatch.setattr(ensemble, "_one_by_one", lambda: True)
    sizes = [ensemble.group_size(*case) for case in ((32, 100), (32, 11), (5, 2), (1, 0), (3, 1))]
    assert sizes == [16, 8, 2, 1, 1]
    monkeypatch.setattr(ensemble, "_one_by_one", lambda: False)
    assert [ensemble.group_size(*case) for case in ((32, 100), (32, 11))] == [32, 11]


def test_threads_and_company_change_no_bit() -> None:
    """Groups advanced by threads of their own, one after the other, and one of their networks alone."""
    noun, shape, C = NETWORKS["Transformer"]
    form, training = Parameterization(), GradientDescent(0.1, 8, "cross_entropy")
    program, numbers, (x, y) = ensemble.program_of(form, training), ensemble.Training.of(training), batch("Transformer")

    def groups(*of: list[int]) -> list[ensemble.State]:
        keys = [jax.vmap(jax.random.key)(jnp.array(seeds)) for seeds in of]
        return [ensemble.start(noun, form, training, key, width=16, input_shape=shape, num_outputs=C) for key in keys]

    def after(states: list[ensemble.State]) -> list[np.ndarray]:
        eta = np.full((len(jax.tree.leaves(states[0].network)[0]), CHUNK), 0.1, np.float32)
        return [np.asarray(s.network.weights["W1"].value) for s in ensemble.advance_all(program, numbers, states, x, y, eta, 8)]

    threads = after(groups([0, 1], [2, 3]))
    in_turn = [after([group])[0] for group in groups([0, 1], [2, 3])]
    assert np.array_equal(threads, in_turn)
    assert np.array_equal(after(groups([2]))[0][0], threads[1][0])
    assert not np.array_equal(threads[0], threads[1])


def test_weights_know_their_row() -> None:
    """Every array of every network is a Weight."""
    for noun, shape, C in NETWORKS.values():
        network = build(noun, Parameterization(), width=16, input_shape=shape, num_outputs=C, key=jax.random.key(0))
        leaves = jax.tree.leaves(network, is_leaf=is_weight)
        assert leaves
        assert all(is_weight(leaf) for leaf in leaves)
