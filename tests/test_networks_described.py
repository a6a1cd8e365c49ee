"""Descriptions of networks: what the recording pass finds, what it refuses, and how a file knows a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import finite
from finite.networks import build
from widthwise import (
    MLP,
    ConvNet,
    GradientDescent,
    Network,
    Parameterization,
    Problem,
    ResidualMLP,
    ResNet,
    Result,
    Transformer,
    ViT,
    tasks,
)
from widthwise.networks import plan_of

POINTS = tasks.sphere(3, input_dim=4)


def residual(net: Any, x: Any, scale: float = 0.5) -> Any:
    h = net.input("W0", x, "s")
    h = h + scale * net.hidden("W1", jnp.tanh(net.normalize(h)), "s", "s")
    return net.readout("w", net.see("h2", h), "s")


def problem(function: Any = residual, **settings: Any) -> Problem:
    return Problem(Network(function), Parameterization(**settings), POINTS, GradientDescent(0.2, 2))


def test_plan_lists_weights_populations_and_fields() -> None:
    plan = plan_of(ResNet((1, 1)), (8, 8, 3), 2)
    seen = {name: (w.kind, w.frm, w.to, w.inputs, w.blocks) for name, w in plan.weights.items()}
    assert seen == {
        "W0": ("input", None, "stream0", 27, None),
        "W1": ("hidden", "stream0", "block1", 9, 2),
        "V1": ("hidden", "block1", "stream0", 9, 2),
        "W2": ("hidden", "stream0", "block2", 9, 2),
        "V2": ("hidden", "block2", "stream1", 9, 2),
        "shortcut2": ("hidden", "stream0", "stream1", 1, None),
        "w": ("readout", "stream1", None, None, None),
    }
    assert {name: p.times for name, p in plan.populations.items()} == {"stream0": 1, "block1": 1, "block2": 2, "stream1": 2}
    assert plan.fields == {"h1": "stream0", "h2": "stream0", "h3": "stream1"}
    tied = plan_of(Transformer(1, head_dim=4, tied=True), (6,), 5, whole=True)
    assert (tied.weights["E"].reads_out, tied.fields["attention1"], tied.starts_at_zero) == (True, None, False)
    assert plan_of(Transformer(1), (6,), 5, whole=True).starts_at_zero
    assert {w.role for w in plan_of(MLP(2, bias=0.1), (4,), 1).weights.values()} == {
        "input",
        "bias",
        "hidden",
        "output",
        "output_bias",
    }


@pytest.mark.parametrize(
    ("noun", "shape", "tokens"),
    [
        (MLP(2, bias=0.5), (4,), False),
        (ResidualMLP(2, block_depth=2, norm=True), (4,), False),
        (ConvNet(3, kernel=2), (5, 5, 2), False),
        (ViT(1, patch=2, head_dim=4), (4, 4, 1), False),
        (Transformer(2, num_heads=2), (6,), True),
    ],
)
def test_what_people_use_has_a_limit(noun: Any, shape: tuple[int, ...], tokens: bool) -> None:
    assert plan_of(noun, shape, 3, tokens).weights


def over_neurons(of: Any) -> Any:
    """A network that applies `of` to its field."""

    def description(net: Any, x: Any) -> Any:
        return net.readout("w", of(net.input("W0", x, "s")), "s")

    return description


def two_populations(net: Any, x: Any) -> Any:
    h = net.input("W0", x, "s")
    return net.readout("w", h + net.hidden("W", h, "s", "m"), "s")


def wrong_population(net: Any, x: Any) -> Any:
    net.input("V", x, "m")
    return net.readout("w", net.input("W0", x, "s"), "m")


def twice(net: Any, x: Any) -> Any:
    h = net.hidden("W", net.input("W0", x, "s"), "s", "m")
    return net.readout("w", net.hidden("W", h, "m", "s"), "s")


def no_readout(net: Any, x: Any) -> Any:
    return net.input("W0", x, "s")


def by_value(net: Any, x: Any) -> Any:
    h = net.input("W0", x, "s")
    return net.readout("w", h if h.sum() > 0 else -h, "s")


def data_again(net: Any, x: Any) -> Any:
    return net.readout("w", net.input("V", net.input("W0", x, "s"), "s"), "s")


def transposed_first(net: Any, x: Any) -> Any:
    return net.readout("w", net.transposed("W", net.input("W0", x, "s")), "s")


def one_name(net: Any, x: Any) -> Any:
    return net.readout("w", net.see("h", net.see("h", net.input("W0", x, "s"))), "s")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (over_neurons(lambda h: h - h.max(-1, keepdims=True)), "reduce_max.*neurons of 's'.*net.average"),
        (over_neurons(lambda h: h - h.mean(-1, keepdims=True)), "reduce_sum.*neurons of 's'"),
        (over_neurons(jax.nn.softmax), "reduce_max.*neurons of 's'"),
        (over_neurons(lambda h: jnp.sort(h)), "sort.*neurons of 's'"),
        (over_neurons(lambda h: jnp.cumsum(h, -1)), "cumsum.*neurons of 's'"),
        (over_neurons(lambda h: h @ jnp.ones((h.shape[-1], h.shape[-1]))), "dot_general.*neurons of 's'"),
        (over_neurons(lambda h: h[:, :64]), "last axis.*<s>|reads fields of 's'"),
        (over_neurons(lambda h: jnp.concatenate([h[:, 5:], h[:, :5]], -1)), "slice.*neurons of 's'"),
        (over_neurons(lambda h: h - h.mean(0)), "along the samples"),
        (two_populations, "populations 's' and 'm'"),
        (wrong_population, "readout 'w' reads fields of 'm'"),
        (twice, "weight 'W' is used twice"),
        (no_readout, "must return f of shape"),
        (by_value, "depend on values"),
        (data_again, "reads data.*net.hidden"),
        (transposed_first, "was used before"),
        (one_name, "two fields are called 'h'"),
        (lambda net, x: x.nothing, "nothing"),
    ],
)
def test_what_has_no_limit_is_refused(description: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        problem(description)


def test_neurons_may_be_multiplied_one_by_one() -> None:
    """Negative twin: gates, powers and averages are allowed."""
    assert problem(over_neurons(lambda h: h * jax.nn.sigmoid(h) + h**3 - jnp.where(h > 0, h, 0.1))).plan.weights

    def centred(net: Any, x: Any) -> Any:
        h = net.input("W0", x, "s")
        return net.readout("w", (h - net.average(h)) * net.vectors("gain", "s", start="one"), "s")

    assert problem(centred).plan.weights["gain"].start == "one"


def test_fingerprint_is_of_what_a_description_computes() -> None:
    same, other = (problem(lambda net, x, c=c: residual(net, x, c)) for c in (0.5, 0.25))
    assert problem(lambda net, x: residual(net, x)).fingerprint() == same.fingerprint()
    assert same.fingerprint() != other.fingerprint()


def test_what_a_weight_reads_is_part_of_a_description() -> None:
    """The same operations in the same order, on another field; on what is averaged; of a branch of other depth."""

    def reads(which: int, averaged: int = 0, blocks: int = 2) -> Any:
        def description(net: Any, x: Any) -> Any:
            h = [net.input(name, x, "s") for name in ("W0", "V0")]
            g = net.hidden("W", h[which], "s", "s") * net.branch(blocks)
            return net.readout("w", g - net.average(h[averaged]), "s")

        return description

    prints = [problem(reads(*x)).fingerprint() for x in ((0,), (1,), (0, 1), (0, 0, 3))]
    assert len({*prints}) == 4
    assert problem(reads(0)).fingerprint() == prints[0]


def test_a_network_made_anew_is_the_one_before() -> None:
    """So that nothing compiles twice."""
    one, again, other = (problem(lambda net, x, c=c: residual(net, x, c)).architecture for c in (0.5, 0.5, 0.25))
    assert one is again
    assert one is not other


def test_a_file_asks_for_the_network(tmp_path: Path) -> None:
    result = finite.train(problem(), width=8, num_seeds=2, progress=False)
    result.save(tmp_path / "nets")
    loaded = Result.load(tmp_path / "nets.npz", network=Network(residual))
    assert np.array_equal(loaded.mean.f, result.mean.f)
    with pytest.raises(ValueError, match=r"network of the user's own.*network=Network"):
        Result.load(tmp_path / "nets.npz")
    with pytest.raises(ValueError, match="is not the one the Problem had"):
        Result.load(tmp_path / "nets.npz", network=Network(lambda net, x: residual(net, x, 0.25), "residual"))


def test_vectors_of_a_table_start_as_told() -> None:
    """Zeros and ones stay what they are at the start; gains of one leave a network as it was."""

    def with_gain(net: Any, x: Any) -> Any:
        h = net.input("W0", x, "s") * net.vectors("gain", "s", start="one") + net.vectors("shift", "s", start="zero")
        return net.readout("w", jnp.tanh(h), "s")

    network = build(
        Network(with_gain), Parameterization(kind="mup"), width=8, input_shape=(4,), num_outputs=1, key=jax.random.key(0)
    )
    gain, shift = (np.asarray(network.weights[name]()) for name in ("gain", "shift"))
    assert (gain == 1).all()
    assert (shift == 0).all()
    f, _ = network(np.ones(4))
    g, _ = replace_one(network, "gain", 2.0)(np.ones(4))
    assert np.abs(f - g).max() > 0


def replace_one(network: Any, name: str, value: float) -> Any:
    """The network with all of one weight at this value."""
    return eqx.tree_at(lambda n: n.weights[name].value, network, jnp.full_like(network.weights[name].value, value))
