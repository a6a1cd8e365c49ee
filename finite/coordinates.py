"""Coordinate check: how sizes of fields, and of what training does to them, go with the width.

    size    = rms over neurons, sites and points of the field h at the last step
    update  = rms of h(T) - h(0)

In the feature-learning parameterizations neither depends on the width (2203.03466, 2011.14522); in "ntk" updates of the
hidden fields fall like N^-1/2 and f moves all the same; in "standard" they grow. Where the infinite-width limit is known its
update is given beside (`theory=`), which says more than that a line is flat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from tqdm import tqdm

from finite import ensemble, fit, observe, rounding
from finite.keys import WIDEST
from widthwise import Problem, Result, check
from widthwise.checked import checked
from widthwise.feed import trained
from widthwise.memory import require
from widthwise.precision import computing_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UPDATE = "update_size/"
"""Before the names of fields, in a Result of any network."""

NUM_PROBES = 16
"""Held-out points of a stream at which fields are looked at by default."""

FLAT = 0.05
"""Largest slope in log width that counts as none, if its error does not excuse it."""


@dataclass(frozen=True)
class CoordinateCheck:
    """Sizes and updates of every field at every width; prints as a table, draws itself with `plot`.

    Attributes:
        problem: what was trained.
        widths: (W,)
        fields: names of the fields.
        size, update: (W, seeds, fields) root mean squares at the last step.
        limit: update of the infinitely wide network by name of field, with its standard error, where it is known.
    """

    problem: Problem
    widths: tuple[int, ...]
    fields: tuple[str, ...]
    size: Float[np.ndarray, "widths seeds fields"]
    update: Float[np.ndarray, "widths seeds fields"]
    limit: dict[str, tuple[float, float]]

    @checked
    def slopes(self, what: str = "update") -> dict[str, tuple[float, float]]:
        """Exponent of "update" or "size" in the width and its standard error, field by field, from the spread over seeds.

        Infinite where a field overflowed at some width.
        """
        x = np.log(self.widths)
        values = getattr(self, check.choice("what", what, ("update", "size")))
        finite = np.isfinite(values).all((0, 1))
        y = np.log(np.where(finite, values, 1.0))
        mean, noise = y.mean(1), y.std(1, ddof=1) / np.sqrt(y.shape[1])
        slope, error = slope_of(x, mean, noise)
        slope = np.where(finite, slope, np.inf)
        return {name: (float(slope[i]), float(error[i])) for i, name in enumerate(self.fields)}

    @checked
    def expected(self, field: str) -> float | None:
        """The exponent of the update in the limit; None where there is no limit."""
        limit = self.problem.parameterization.limit
        if limit == "none":
            return None
        return -0.5 if limit == "lazy" and field != "f" else 0.0

    @property
    def passed(self) -> dict[str, bool]:
        """Field by field, whether the update goes with the width as it should: within FLAT and two standard errors.

        f also carries what is left of the random start, of size N^-1/2, and may fall that fast while it has learned little.
        """

        def holds(name: str, slope: float, error: float) -> bool:
            wanted = self.expected(name)
            if wanted is None:
                return False
            least = wanted - (0.5 if name == "f" else 0.0)
            return least - FLAT - 2 * error < slope < wanted + FLAT + 2 * error

        return {name: holds(name, *slope) for name, slope in self.slopes().items()}

    def __bool__(self) -> bool:
        return all(self.passed.values())

    def __str__(self) -> str:
        slopes, passed = self.slopes(), self.passed
        shown = [self.widths[0], self.widths[-1]]
        header = f"  {'field':12s} slope of update    " + "  ".join(f"N={N:<8d}" for N in shown)
        lines = [f"{self.problem.architecture}\n{self.problem.parameterization}", header + "  limit" * bool(self.limit)]
        for i, name in enumerate(self.fields):
            slope, error = slopes[name]
            values = "  ".join(f"{self.update[w, :, i].mean():<10.4g}" for w in (0, -1))
            verdict = "as it should" if passed[name] else f"SHOULD BE {self.expected(name)}"
            line = f"  {name:12s} {slope:+.3f} +- {error:.3f}   {values}"
            if self.limit:
                line += f"  {'{:.4g} +- {:.1g}'.format(*self.limit[name]) if name in self.limit else '':16s}"
            lines.append(f"{line}  {verdict if self.expected(name) is not None else 'has no limit'}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Sizes and updates against the width, a line per field; the limit dashed."""
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        colours = [*plt.get_cmap("viridis")(np.linspace(0, 0.9, len(self.fields) - 1)), "black"]
        for ax, title, values in zip(axes, ("size", "update"), (self.size, self.update), strict=True):
            mean, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(values.shape[1])
            for i, name in enumerate(self.fields):
                ax.errorbar(self.widths, mean[:, i], error[:, i], color=colours[i], marker="o", markersize=3, label=name)
                if title == "update" and name in self.limit:
                    ax.axhline(self.limit[name][0], color=colours[i], linestyle="--", linewidth=1)
            middle = np.sqrt(mean.min() * mean.max())
            half = max(1.3 * np.sqrt(mean.max() / mean.min()), 10.0)  # two decades at least: what is flat shall look flat
            ax.set(xscale="log", yscale="log", xlabel="width N", title=f"{title} (rms)", ylim=(middle / half, middle * half))
            ax.set_xticks(self.widths, [str(N) for N in self.widths], minor=False)
            ax.minorticks_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize="small")
        figure.suptitle(f"{type(self.problem.architecture).__name__}, {self.problem.parameterization.kind}", fontsize="small")
        return figure


def slope_of(x: Float[np.ndarray, "W"], y: Float[np.ndarray, "W *columns"], noise: Float[np.ndarray, "W *columns"]) -> Any:
    """Slopes of straight lines through the points (x, y), and their errors where the y have those of `noise`."""
    lever = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    return lever @ y, np.sqrt(lever**2 @ noise**2)


@checked
def coordinate_check(
    problem: Problem,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    num_seeds: int = 4,
    num_probes: int | None = None,
    theory: Result | None = None,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    progress: bool = True,
) -> CoordinateCheck:
    """Train networks of several widths and see whether their fields change as the parameterization promises.

    All the steps of `problem` are taken; take few (4 to 10): what grows with the width shows after the first, and later steps
    multiply the differences between widths that every finite network has.

    Args:
        problem: its architecture at every width, on the same batches.
        widths: at least two.
        num_seeds: networks per width; their spread is the error of the slopes.
        num_probes: points at which fields are looked at: of a Stream those it holds out, by default 16, or all there are; of a
            Task its train points.
        theory: `dmft.solve(problem, save=["update_size"])`, where there is a limit that is known.
        seed: of the networks.
        dtype: "float32" or "float64".
        progress: show a progress bar, if there is a terminal.

    Raises:
        ValueError: fewer than two widths or seeds; a theory without update_size, or of other points; gamma0 too small for the
            dtype.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "relu"), Parameterization(), tasks.sphere(4, input_dim=8), GradientDescent(0.5, 3))
        >>> result = coordinate_check(problem, widths=(64, 256), num_seeds=8)
        >>> sorted(result.slopes())
        ['f', 'h1', 'h2']
        >>> wrong = coordinate_check(problem.replace(kind="ntk"), widths=(64, 256), num_seeds=8)
        >>> bool(wrong.slopes()["h2"][0] < -0.3)
        True
    """
    check.outside_jit("finite.coordinate_check")
    widths = tuple(sorted(check.count("every entry of widths", N, most=WIDEST) for N in check.sequence("widths", widths)))
    if len({*widths}) < 2:
        raise ValueError(f"widths must be at least two, to see what changes between them; got {widths}.")
    check.count("num_seeds", num_seeds, "Their spread is the error of the slopes.", least=2, most=check.MANY)
    require(64.0 * num_seeds * len(widths), f"{num_seeds} networks at {len(widths)} widths", "Lower num_seeds.")
    if num_probes is not None:
        num_probes = check.count("num_probes", num_probes, most=check.MANY)
    limit = _limit(problem, theory)
    size, update = [], []
    names: tuple[str, ...] = ()
    with computing_in(dtype):
        keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), num_seeds)
        probes, y = trained(problem, num_probes, NUM_PROBES)
        for N in widths:
            rounding.check_strength(problem, N, dtype, y)
            fit.drawn(problem, N, num_seeds, probes)  # all fit, before the first is trained
        for N in tqdm(widths, "coordinate check", unit="width", disable=None if progress else True, leave=False):
            sizes = _sizes_at(problem, N, keys, probes)
            names = (*(name for name in sizes if name != "f"), "f")
            size.append(np.stack([sizes[name][0] for name in names], -1))
            update.append(np.stack([sizes[name][1] for name in names], -1))
    return CoordinateCheck(problem, widths, names, np.array(size), np.array(update), limit)


def _sizes_at(
    problem: Problem, width: int, keys: Key[Array, "seeds"], probes: np.ndarray
) -> dict[str, tuple[Float[np.ndarray, "seeds"], Float[np.ndarray, "seeds"]]]:
    """Size and update of every field, a few networks after the other where they are large."""
    training = problem.training
    program = ensemble.program_of(problem.parameterization, training)
    start, each = fit.drawn(problem, width, len(keys), probes)
    seen = []
    for first in range(0, len(keys), each):
        state = start(keys[first : first + each])
        before = _look(program, state, probes)
        etas = np.tile(training.step_sizes, (len(before["f"]), 1))
        ((after, _),) = deque(ensemble.train(problem, state, etas), maxlen=1)
        seen.append(jax.tree.map(np.asarray, _sizes(_look(program, after, probes), before)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *seen)


@partial(jax.jit, static_argnames="program")
def _look(program: ensemble.Program, state: ensemble.State, x: Array) -> dict[str, Array]:
    """Fields of all seeds (seeds, points, ...), f last."""

    def one(state: ensemble.State) -> dict[str, Array]:
        f, fields = ensemble.centred(program, state, x)
        return observe.hidden(fields) | {"f": f}

    return jax.vmap(one)(state)


@jax.jit
def _sizes(now: dict[str, Array], before: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    def rms(x: Array) -> Array:
        return jnp.sqrt(jnp.mean(x.reshape(len(x), -1) ** 2, axis=1))

    return {name: (rms(h), rms(h - before[name])) for name, h in now.items()}


def _limit(problem: Problem, theory: Result | None) -> dict[str, tuple[float, float]]:
    """Updates of h^l and f in the limit, at the last step."""
    if theory is None:
        return {}
    of_fields = [name for name in theory.mean.more if name.startswith(UPDATE)]
    if theory.problem != problem or not ("update_size" in theory.mean.more or of_fields):
        raise ValueError("theory must be dmft.solve(problem, save=['update_size']) of the same problem.")
    if of_fields:
        return {name.removeprefix(UPDATE): (float(theory.mean[name][-1]), float(theory.sem[name][-1])) for name in of_fields}
    mean, sem = theory.mean["update_size"][-1], theory.sem["update_size"][-1]
    return {f"h{l}": (float(m), float(s)) for l, (m, s) in enumerate(zip(mean, sem, strict=True), 1)}
