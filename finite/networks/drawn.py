"""A description with drawn weights: a network of width N, x of one sample -> outputs, and its fields by name."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from finite.networks.weight import Fields, Maker, Weight
from widthwise import Parameterization
from widthwise.networks import Architecture, Plan, Population
from widthwise.networks.backend import Start, normalized


class Drawn(eqx.Module):
    """A network at work: its weights by name.

    Called with a sample it gives f and its fields; what `push` has under the name of a field is added to it, so that a
    derivative by push is one by the field.
    """

    weights: dict[str, Weight]
    architecture: Architecture = eqx.field(static=True)
    form: Parameterization = eqx.field(static=True)
    width: int = eqx.field(static=True)
    num_outputs: int = eqx.field(static=True)
    populations: tuple[Population, ...] = eqx.field(static=True)

    def __init__(self, architecture: Architecture, plan: Plan, make: Maker):
        self.architecture, self.form, self.width, self.num_outputs = architecture, make.form, make.width, plan.num_outputs
        self.populations = tuple(plan.populations.values())
        neurons = {name: make.width * p.times for name, p in plan.populations.items()}
        self.weights = {}
        for name, w in plan.weights.items():
            to, frm = (neurons[p] if p else plan.num_outputs for p in (w.to, w.frm))
            if w.kind == "input":
                assert w.inputs is not None
                made = make("input", (to, w.inputs), w.inputs)
            elif w.kind == "vectors":
                made = make(w.role, (to,) if w.inputs is None else (w.inputs, to), 1, start=w.start)
            elif w.kind == "hidden":
                fan_in = (w.inputs or 1) * frm
                made = make("hidden", (to, fan_in), fan_in, blocks=w.blocks)
            elif w.kind == "readout":
                made = make("output", (plan.num_outputs, frm), frm)
            else:
                made = make("output_bias", (plan.num_outputs,), 1)
            self.weights[name] = made

    def __call__(self, x: Float[Array, "..."], push: Fields | None = None) -> tuple[Float[Array, "... outputs"], Fields]:
        net = Backend(self, push or {})
        f = self.architecture.forward(net, x[None])
        return f[0], {name: h[0] for name, h in net.fields.items()}


class Backend:
    """`widthwise.networks.Net` with drawn weights."""

    def __init__(self, network: Drawn, push: Fields):
        self.network, self.push, self.num_outputs = network, push, network.num_outputs
        self.fields: Fields = {}
        self.parts = {p.name: p.parts for p in network.populations}

    def population(self, name: str, **_: Any) -> str:
        return name

    def _heads(self, x: Array, name: str) -> Array:
        parts = self.parts[name]
        return x.reshape(*x.shape[:-1], parts, -1) if parts else x

    def _flat(self, x: Array, name: str) -> Array:
        return x.reshape(*x.shape[:-2], -1) if self.parts[name] else x

    def input(self, name: str, x: Array, to: str) -> Array:
        return self._heads(x @ self.network.weights[name]().T, to)

    def vectors(self, name: str, to: str, rows: int | None = None, start: Start = "normal") -> Array:
        return self._heads(self.network.weights[name](), to)

    def hidden(self, name: str, x: Array, frm: str, to: str, *, blocks: int | None = None) -> Array:
        return self._heads(self._flat(x, frm) @ self.network.weights[name]().T, to)

    def transposed(self, name: str, x: Array) -> Array:
        W = self.network.weights[name]()
        return x @ W * (W.shape[1] / W.shape[0]) ** 0.5

    def readout(self, name: str, x: Array, frm: str) -> Array:
        w = self.network.weights[name]
        if w.role == "output":
            return x @ w().T
        out = self.network.form.scale("output", width=self.network.width, fan_in=x.shape[-1])
        return out.multiplier * out.init_std / w.scale.init_std * (x @ w.value.T)

    def output_bias(self, name: str) -> Array:
        return self.network.weights[name]()

    def average(self, x: Array) -> Array:
        return x.mean(-1, keepdims=True)

    def overlap(self, x: Array, y: Array) -> Array:
        return jnp.einsum("...tn,...sn->...ts", x, y) / x.shape[-1]

    def normalize(self, x: Array) -> Array:
        return normalized(self, x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)

    def branch(self, blocks: int) -> float:
        return self.network.form.branch(blocks)

    def see(self, name: str, h: Array) -> Array:
        self.fields[name] = h + self.push[name] if name in self.push else h
        return self.fields[name]
