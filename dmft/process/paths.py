"""A network in the limit: populations of sampled paths, and random matrices between them that are never drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dmft.process.basis import Policy
from dmft.process.matrix import Matrix, product
from dmft.process.noise import Noise
from widthwise import Parameterization, Problem
from widthwise.networks import Architecture, Plan, Population, WeightPlan, plan_of
from widthwise.networks.backend import Start, normalized
from widthwise.parameterization import LimitUnit

Weights = dict[str, Any]
"""By name: arrays over the paths, (entries, inputs), (rows, entries), (entries,), (S, C), (C,); hidden weights are a Matrix."""

Rank = tuple[int, int]
"""Numbers of functions b and a."""


@dataclass(frozen=True)
class Form:
    """What network it is; hashable, so that programs are compiled for it."""

    architecture: Architecture
    parameterization: Parameterization
    input_shape: tuple[int, ...]
    num_outputs: int
    whole: bool

    @staticmethod
    def of(problem: Problem) -> Form:
        return Form(
            problem.architecture, problem.parameterization, problem.input_shape, problem.task.num_outputs, problem.whole
        )

    @cached_property
    def plan(self) -> Plan:
        return plan_of(self.architecture, self.input_shape, self.num_outputs, self.whole)

    def parts(self, population: str) -> int:
        """Entries of a path: channels of a head of fixed size. Of a fixed number of heads one is enough: all are alike."""
        return self.plan.populations[population].head_dim or 1

    def layout(self, population: str) -> tuple[int, ...]:
        """Axes of a field before that of the paths: there is one of heads, or of their channels."""
        return (self.parts(population),) if self.plan.populations[population].parts else ()

    def times(self, population: str | None) -> int:
        return 1 if population is None else self.plan.populations[population].times

    def fan_ratio(self, w: WeightPlan) -> float:
        """Fan in over fan out of a hidden weight, in true widths."""
        return w.count * self.times(w.frm) / self.times(w.to)

    @cached_property
    def units(self) -> dict[str, LimitUnit]:
        """Of every weight by name."""
        out = {}
        for name, w in self.plan.weights.items():
            before = self.times(w.frm)
            fan_in = {"hidden": w.count * before, "readout": before}.get(w.kind, w.count)
            fan_in = 1 if w.kind == "vectors" else fan_in
            times = self.times(w.frm if w.kind == "readout" else w.to)
            out[name] = self.parameterization.in_the_limit(w.role, fan_in=fan_in, times=times, blocks=w.blocks)
        return out

    @property
    def gradient_size(self) -> float:
        """N times how d f / d h scales, for fields h of N neurons: 1 / gamma0."""
        return self.parameterization.in_the_limit("output", fan_in=1, times=1).size

    def entries(self, name: str, W: Array) -> int:
        """Of a population, along which this array lies; 1 of what lies along the outputs."""
        kind = self.plan.weights[name].kind
        return 1 if kind == "output_bias" else W.shape[-1] if kind == "vectors" else W.shape[0]

    def readout_size(self, frm: str) -> float:
        """Of a table that is read out, for entries N(0, 1)."""
        return self.parameterization.in_the_limit("output", fan_in=self.times(frm), times=1).size

    def uses(self, population: Population, side: int) -> list[tuple[str, int]]:
        """Who takes coordinates of this population, (weight, which of its fields): behind weights (0) or before them (1)."""
        name, slots = population.name, []
        for w in self.plan.weights.values():
            forward = side == 0
            if w.to == name and forward and w.kind != "output_bias":
                slots += [(w.name, part) for part in range(self.parts(name))]
            if w.frm == name and (forward == w.turned):  # a transpose that the forward pass uses has no mirror images
                slots += [(f"{w.name}.T", part) for part in range(w.count * self.parts(name))]
        return slots


class Source:
    """All noise of one replica.

    Args:
        form: the network.
        num_paths: S of every population.
        key: whole numbers.
    """

    def __init__(self, form: Form, num_paths: int, key: Iterable[int]):
        self.form, self.S = form, num_paths
        self.slots: dict[str, tuple[str, int, list[int]]] = {}  # weight or its transpose -> population, side, slots
        self.noise: dict[str, Noise] = {}
        for i, (name, population) in enumerate(form.plan.populations.items()):
            most = 0
            for side in (0, 1):
                for slot, (what, _) in enumerate(form.uses(population, side)):
                    self.slots.setdefault(what, (name, side, []))[2].append(slot)
                    most = max(most, slot + 1)
            self.noise[name] = Noise(num_paths, most, [*key, i])

    def draw(self, wanted: dict[str, range]) -> dict[str, np.ndarray]:
        """Coordinates k of `wanted` of weights and transposes, (fields S, number): leading ones first."""
        out = {what: np.empty((len(self.slots[what][2]), self.S, len(ks))) for what, ks in wanted.items()}
        for name, noise in self.noise.items():
            for side in (0, 1):
                mine = [what for what in wanted if self.slots[what][:2] == (name, side)]
                asked = sorted(
                    (k, slot, what, j) for what in mine for k in wanted[what] for j, slot in enumerate(self.slots[what][2])
                )
                columns = noise.columns(side, [(slot, k) for k, slot, _, _ in asked]) if asked else np.empty((self.S, 0))
                for i, (k, _, what, j) in enumerate(asked):
                    out[what][j, :, k - wanted[what].start] = columns[:, i]
        return {what: x.reshape(len(x) * self.S, -1) if x.size else x.reshape(len(x) * self.S, 0) for what, x in out.items()}

    def start(self, ranks: dict[str, Rank], policy: dict[str, Policy]) -> Weights:
        """The weights at the start, hidden ones with room for so many functions."""
        plan, wanted = self.form.plan, {}
        for name, w in plan.weights.items():
            if w.kind == "input" or (w.kind == "vectors" and w.start == "normal"):
                wanted[name] = range(w.count)
            elif w.kind == "readout":
                wanted[f"{name}.T"] = range(plan.num_outputs)
            elif w.kind == "hidden":
                wanted[name], wanted[f"{name}.T"] = (range(n) for n in ranks[name])
        eps, out = self.draw(wanted), dict[str, Any]()
        for name, w in plan.weights.items():
            if w.kind == "input":
                out[name] = eps[name]
            elif w.kind == "vectors":
                shape = (w.inputs or 1, self.form.parts(w.to or "") * self.S)
                table = eps[name].T if w.start == "normal" else np.full(shape, float(w.start == "one"))
                out[name] = table[0] if w.inputs is None else table
            elif w.kind == "readout":
                out[name] = eps[f"{name}.T"]
            elif w.kind == "hidden":
                out[name] = Matrix.fresh(*self._images(eps, w), policy[name])
            else:
                out[name] = np.zeros(plan.num_outputs)
        return out

    def more(self, ranges: dict[str, tuple[range, range]]) -> dict[str, tuple[Array, Array]]:
        """eps_u and eps_r of further functions of hidden weights."""
        eps = self.draw({k: v for name, (u, r) in ranges.items() for k, v in ((name, u), (f"{name}.T", r))})
        return {name: self._images(eps, self.form.plan.weights[name]) for name in ranges}

    def _images(self, eps: dict[str, np.ndarray], w: WeightPlan) -> tuple[Array, Array]:
        return jnp.asarray(eps[w.name]), jnp.asarray(eps[f"{w.name}.T"] * self.form.fan_ratio(w) ** 0.5)


class Paths:
    """`widthwise.networks.Net` in the limit. Used once: matrices that have learned of products are in `weights` afterwards.

    Attributes:
        fields: by name, with what `push` adds to them.
    """

    def __init__(self, form: Form, weights: Weights, push: dict[str, Array] | None = None):
        self.form, self.weights, self.push, self.num_outputs = form, dict(weights), push or {}, form.num_outputs
        self.fields: dict[str, Array] = {}

    def population(self, name: str, **_: Any) -> str:
        return name

    def _shaped(self, x: Array, name: str) -> Array:
        layout = self.form.layout(name)
        return x.reshape(*x.shape[:-1], *layout, -1) if layout else x

    def _flat(self, x: Array, name: str) -> Array:
        return x.reshape(*x.shape[:-2], -1) if self.form.layout(name) else x

    def input(self, name: str, x: Array, to: str) -> Array:
        return self._shaped(self.form.units[name].size / x.shape[-1] ** 0.5 * (x @ self.weights[name].T), to)

    def vectors(self, name: str, to: str, rows: int | None = None, start: Start = "normal") -> Array:
        return self._shaped(self.form.units[name].size * self.weights[name], to)

    def hidden(self, name: str, x: Array, frm: str, to: str, *, blocks: int | None = None) -> Array:
        x = self._flat(x, frm)
        out, self.weights[name] = product(self.weights[name], x.reshape(-1, x.shape[-1]))
        return self._shaped(self.form.units[name].size * out.reshape(*x.shape[:-1], -1), to)

    def transposed(self, name: str, x: Array) -> Array:
        ratio = self.form.fan_ratio(self.form.plan.weights[name])
        out, W = product(self.weights[name].T, x.reshape(-1, x.shape[-1]))
        self.weights[name] = W.T
        return self.form.units[name].size * ratio**-0.5 * out.reshape(*x.shape[:-1], -1)

    def readout(self, name: str, x: Array, frm: str) -> Array:
        w = self.weights[name]
        if self.form.plan.weights[name].kind == "readout":
            return self.form.units[name].size * (x @ w) / len(w)
        return self.form.readout_size(frm) * (x @ w.T) / x.shape[-1]

    def output_bias(self, name: str) -> Array:
        return self.weights[name]

    def average(self, x: Array) -> Array:
        return x.mean(-1, keepdims=True)

    def overlap(self, x: Array, y: Array) -> Array:
        return jnp.einsum("...tn,...sn->...ts", x, y) / x.shape[-1]

    def normalize(self, x: Array) -> Array:
        return normalized(self, x)

    def branch(self, blocks: int) -> float:
        return self.form.parameterization.branch(blocks)

    def see(self, name: str, h: Array) -> Array:
        self.fields[name] = h + self.push[name] if name in self.push else h
        return self.fields[name]
