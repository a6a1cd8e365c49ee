"""The recording pass: which weights, populations and fields a description has; what has no limit is refused here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widthwise import check
from widthwise.networks.backend import Population, Start
from widthwise.parameterization import Role

PRIMES = (
    1009,
    1013,
    1019,
    1021,
    1031,
    1033,
    1039,
    1049,
    1051,
    1061,
    1063,
    1069,
    1087,
    1091,
    1093,
    1097,
    1103,
    1109,
    1117,
    1123,
)
"""Widths of populations while a description is recorded, so that two of them cannot be mistaken for each other."""

SAMPLES = 997
"""Of the batch that is recorded, a length like those of populations: samples do not mix either."""

ALONG = ("reduce", "arg", "sort", "cum", "top_k")
"""What a primitive's name starts with that mixes neurons when it goes along their axis."""


@dataclass(frozen=True)
class WeightPlan:
    """One weight of a network.

    Attributes:
        name: as in the description.
        kind: the operation that brought it in.
        to, frm: populations of its outputs and inputs; None for data and outputs.
        inputs: D of an input; how many fields side by side a hidden weight reads; rows of a table, or None of a vector.
        start: of vectors.
        blocks: residual blocks, of a weight inside of one.
        turned: whether the forward pass uses its transpose too.
        reads_out: whether a table of vectors is the readout as well.
    """

    name: str
    kind: Literal["input", "vectors", "hidden", "readout", "output_bias"]
    to: str | None
    frm: str | None
    inputs: int | None
    start: Start = "normal"
    blocks: int | None = None
    turned: bool = False
    reads_out: bool = False

    @property
    def count(self) -> int:
        """`inputs`, 1 of a vector."""
        return self.inputs or 1

    @property
    def role(self) -> Role:
        """Its row in the parameterization's table."""
        if self.kind == "vectors":
            return "bias" if self.inputs is None else "input"
        roles: dict[str, Role] = {"readout": "output"}
        return roles.get(self.kind, self.kind)  # type: ignore[arg-type]


@dataclass
class Plan:
    """What a description consists of, in the order in which it comes.

    Attributes:
        weights, populations: by name.
        fields: population of every field that has a name; None of attention.
        num_outputs: C.
    """

    num_outputs: int
    weights: dict[str, WeightPlan] = field(default_factory=dict)
    populations: dict[str, Population] = field(default_factory=dict)
    fields: dict[str, str | None] = field(default_factory=dict)
    text: str = ""

    @property
    def starts_at_zero(self) -> bool:
        """Whether f = 0 at the start in the limit: the readout is then independent of what it reads."""
        return not any(w.turned or w.reads_out for w in self.weights.values())


OPERATION = "operation"


@lru_cache(maxsize=1)
def _operation() -> Any:
    """What a backend does, as far as the recording pass knows: from arrays to one of this shape."""
    from jax.extend.core import Primitive  # imported where used

    primitive = Primitive(OPERATION)
    primitive.def_abstract_eval(lambda *of, shape, **_: jax.core.ShapedArray(shape, jnp.float32))
    return primitive


class NoLimit(ValueError):
    """A description that has no infinite-width limit."""


class Recorder:
    """The backend of the recording pass: no numbers, shapes alone. Neurons of each population have a length of their own."""

    def __init__(self, num_outputs: int):
        self.plan, self.num_outputs = Plan(num_outputs), num_outputs
        self.widths: dict[int, str] = {}

    # --- populations and weights ------------------------------------------------------------------------------------------

    def population(self, name: str, *, times: int = 1, num_heads: int | None = None, head_dim: int | None = None) -> str:
        known, new = self.plan.populations.get(name), Population(name, times, num_heads, head_dim)
        if known is None:
            check.count(f"times of population {name!r}", times)
            self.plan.populations[name] = new
            count = len(self.plan.populations) - 1
            self.widths[PRIMES[count % len(PRIMES)] + 100_000 * (count // len(PRIMES))] = name
        elif known != new:
            raise NoLimit(f"population {name!r} is declared twice, as {known} and as {new}: give them two names.")
        return name

    def _known(self, name: str) -> Population:
        if name not in self.plan.populations:
            self.population(name)
        return self.plan.populations[name]

    def _width(self, name: str) -> int:
        self._known(name)
        return next(width for width, whose in self.widths.items() if whose == name)

    def _new(self, sites: tuple[int, ...], name: str, what: str, *of: Any) -> Any:
        parts = self._known(name).parts
        return _operation().bind(*of, shape=(*sites, *([parts] if parts else []), self._width(name)), what=f"{what} to {name}")

    def _sites(self, what: str, x: Any, frm: str) -> tuple[tuple[int, ...], int]:
        """The axes of x that are not neurons of `frm`, and how many such fields stand side by side."""
        width, parts = self._width(frm), self._known(frm).parts
        shape = jnp.shape(x)
        ends = 2 if parts else 1
        if len(shape) <= ends or shape[-1] % width or (parts and (shape[-2:] != (parts, width))):
            raise NoLimit(
                f"{what} reads fields of {frm!r}, whose neurons are the last axis (or several such fields side by side); got "
                f"{self._shown(shape)}."
            )
        return shape[:-ends], 1 if parts else shape[-1] // width

    def _shown(self, shape: tuple[int, ...]) -> str:
        names = {SAMPLES: "samples"} | {n: f"<{name}>" for n, name in self.widths.items()}
        return f"({', '.join(names.get(n, str(n)) for n in shape)})"

    def _weight(self, new: WeightPlan) -> None:
        known = self.plan.weights.get(new.name)
        if (
            known is not None
            and known != new
            and (known.kind, known.frm, known.to, known.inputs)
            != (
                new.kind,
                new.frm,
                new.to,
                new.inputs,
            )
        ):
            raise NoLimit(f"weight {new.name!r} is used twice, as {known} and as {new}: give them two names.")
        self.plan.weights.setdefault(new.name, new)

    # --- the protocol -----------------------------------------------------------------------------------------------------

    def input(self, name: str, x: Any, to: str) -> Any:
        shape = jnp.shape(x)
        if any(n in self.widths for n in shape):
            raise NoLimit(f"input {name!r} reads data, and got a field of neurons {self._shown(shape)}: that is net.hidden.")
        self._known(to)
        self._weight(WeightPlan(name, "input", to, None, shape[-1]))
        return self._new(shape[:-1], to, f"input {name}", x)

    def vectors(self, name: str, to: str, rows: int | None = None, start: Start = "normal") -> Any:
        check.choice("start", start, ("normal", "zero", "one"))
        self._known(to)
        self._weight(WeightPlan(name, "vectors", to, None, rows, start))
        return self._new(() if rows is None else (rows,), to, f"vectors {name} {start}")

    def hidden(self, name: str, x: Any, frm: str, to: str, *, blocks: int | None = None) -> Any:
        sites, copies = self._sites(f"hidden weight {name!r}", x, frm)
        self._known(to)
        self._weight(WeightPlan(name, "hidden", to, frm, copies, blocks=blocks))
        return self._new(sites, to, f"hidden {name} of {frm} blocks {blocks}", x)

    def transposed(self, name: str, x: Any) -> Any:
        known = self.plan.weights.get(name)
        if known is None or known.kind != "hidden":
            raise NoLimit(f"transposed({name!r}) is of a hidden weight that was used before; there is none of that name.")
        assert known.to is not None
        assert known.frm is not None
        sites, copies = self._sites(f"transposed weight {name!r}", x, known.to)
        if known.inputs != 1 or copies != 1:
            raise NoLimit(f"transposed({name!r}) is of a weight that reads one field, not several side by side.")
        self.plan.weights[name] = WeightPlan(name, "hidden", known.to, known.frm, 1, blocks=known.blocks, turned=True)
        return self._new(sites, known.frm, f"transposed {name}", x)

    def readout(self, name: str, x: Any, frm: str) -> Any:
        sites, copies = self._sites(f"readout {name!r}", x, frm)
        if copies != 1 or self._known(frm).parts:
            raise NoLimit(f"readout {name!r} reads one field of neurons, no heads and no fields side by side.")
        table = self.plan.weights.get(name)
        if table is not None and table.kind == "vectors":
            if table.inputs != self.num_outputs or table.to != frm:
                raise NoLimit(f"the table {name!r} is read out: it needs a row for each of the {self.num_outputs} outputs.")
            self.plan.weights[name] = WeightPlan(name, "vectors", frm, None, table.inputs, table.start, reads_out=True)
        else:
            self._weight(WeightPlan(name, "readout", None, frm, None))
        return _operation().bind(x, shape=(*sites, self.num_outputs), what=f"readout {name}")

    def output_bias(self, name: str) -> Any:
        self._weight(WeightPlan(name, "output_bias", None, None, None))
        return _operation().bind(shape=(self.num_outputs,), what=f"output_bias {name}")

    def average(self, x: Any) -> Any:
        return _operation().bind(x, shape=(*jnp.shape(x)[:-1], 1), what="average")

    def overlap(self, x: Any, y: Any) -> Any:
        if jnp.shape(x)[-1] != jnp.shape(y)[-1]:
            raise NoLimit(
                f"overlap is of fields of one population, got {self._shown(jnp.shape(x))} and {self._shown(jnp.shape(y))}."
            )
        shape = (*jnp.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-2])
        return _operation().bind(x, y, shape=shape, what="overlap")

    def normalize(self, x: Any) -> Any:
        return _operation().bind(x, shape=jnp.shape(x), what="normalize")

    def branch(self, blocks: int) -> Any:
        return _operation().bind(shape=(), what=f"branch {blocks}")

    def see(self, name: str, h: Any) -> Any:
        if name in self.plan.fields:
            raise NoLimit(f"two fields are called {name!r}: give each its own name.")
        self.plan.fields[name] = self.widths.get(jnp.shape(h)[-1])
        return _operation().bind(h, shape=jnp.shape(h), what=f"see {name}")


@lru_cache(maxsize=256)
def plan_of(architecture: Any, input_shape: tuple[int, ...], num_outputs: int, whole: bool = False) -> Plan:
    """The Plan of a description for samples of this shape.

    Args:
        architecture: whose `forward`.
        input_shape: of one sample.
        num_outputs: C, or the vocabulary.
        whole: whether data are whole numbers (tokens).

    Raises:
        ValueError: what it does has no limit: neurons mixed by anything but weights and averages, fields of two populations
            combined, a shape that depends on values.

    Example:
        >>> from widthwise import MLP
        >>> [(w.name, w.kind) for w in plan_of(MLP(2), (8,), 1).weights.values()]
        [('W0', 'input'), ('W1', 'hidden'), ('w', 'readout')]
    """
    recorder = Recorder(num_outputs)
    x = jax.ShapeDtypeStruct((SAMPLES, *input_shape), jnp.int32 if whole else jnp.float32)
    says = f"the description {architecture!r}"
    try:
        jaxpr = jax.make_jaxpr(lambda x: architecture.forward(recorder, x))(x)
    except NoLimit:
        raise
    except jax.errors.ConcretizationTypeError as error:
        raise NoLimit(f"{says} lets a shape or a branch depend on values, which has no limit: {_first(error)}") from error
    except Exception as error:  # whatever a function of the user's own raises
        text = _first(error)
        if (mixed := [name for width, name in recorder.widths.items() if str(width) in text]) and len(mixed) > 1:
            raise NoLimit(f"{says} combines fields of the populations {' and '.join(map(repr, mixed))}, whose neurons are not "
                          f"the same: bring one to the other by net.hidden. ({text})") from error  # fmt: skip
        raise ValueError(f"{says} fails on samples of shape {input_shape}: {text}") from error
    for primitive, name in _mixing(jaxpr.jaxpr, recorder.widths | {SAMPLES: ""}):
        if not name:
            raise NoLimit(f"{says} applies {primitive!r} along the samples of a batch: f of a sample is of that sample alone.")
        raise NoLimit(
            f"{says} applies {primitive!r} along the neurons of {name!r}. Neurons meet in weights and in averages alone: use "
            "net.average(x) for a mean, net.overlap(x, y) for products, net.normalize(x) for a norm; a maximum has no limit."
        )
    shapes = [v.aval.shape for v in jaxpr.jaxpr.outvars]
    if len(shapes) != 1 or len(shapes[0]) < 2 or (shapes[0][0], shapes[0][-1]) != (SAMPLES, num_outputs):
        raise ValueError(
            f"{says} must return f of shape (samples, ..., {num_outputs} outputs), got "
            f"{', '.join(recorder._shown(s) for s in shapes)}. End it with net.readout."
        )
    if not any(w.kind == "readout" or w.reads_out for w in recorder.plan.weights.values()):
        raise ValueError(f"{says} has no readout: end it with net.readout(name, x, population).")
    constants = [(np.asarray(c).dtype.str, np.asarray(c).tolist()) for c in jaxpr.consts]
    recorder.plan.text = f"{jaxpr.jaxpr} {constants}"
    return recorder.plan


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _mixing(jaxpr: Any, widths: dict[int, str]) -> Iterator[tuple[str, str]]:
    """Primitives that mix neurons, and whose."""
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves([*eqn.params.values()], is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from _mixing(getattr(inner, "jaxpr", inner), widths)
        name = eqn.primitive.name
        for along in AXES.get(name, _axes_of_reduction)(eqn):
            if along in widths:
                yield name, widths[along]


def _axes_of_reduction(eqn: Any) -> list[int]:
    """Lengths of the axes that a reduction or a scan goes along."""
    if not eqn.primitive.name.startswith(ALONG):
        return []
    shape, axes = eqn.invars[0].aval.shape, eqn.params.get("axes", eqn.params.get("axis", eqn.params.get("dimension")))
    return [shape[a] for a in (axes if isinstance(axes, tuple) else (axes,)) if a is not None and a < len(shape)]


def _contracted(eqn: Any) -> list[int]:
    (left, _), _ = eqn.params["dimension_numbers"]
    return [eqn.invars[0].aval.shape[a] for a in left]


def _cut(eqn: Any) -> list[int]:
    """Axes that a slice shortens."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return [n for n, m in zip(before, after, strict=True) if n != m]


def _reshaped(eqn: Any) -> list[int]:
    """Neurons that a reshape does not keep together."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return [n for n in before if n >= SAMPLES and not any(m % n == 0 for m in after if m)]


AXES: dict[str, Callable[[Any], list[int]]] = {
    "dot_general": _contracted,
    "slice": _cut,
    "dynamic_slice": _cut,
    "reshape": _reshaped,
}
