"""Learning-rate sweeps: the loss against the learning rate at several widths, or depths, and how far its minimum moves.

    loss(N, eta0)  = mean over seeds, and over the last steps, of the loss of each step's batch before its update
    optimum(N)     = log2 of the eta0 of least loss, by the parabola through the best of the grid and its neighbours
    drift          = slope of optimum(N) against log2 N

In the feature-learning parameterizations the optimal eta0 keeps its place as the width grows (2203.03466), and with branches
L^-alpha, alpha >= 1/2, as the depth does (2309.16620, 2505.01618); in "standard" a step grows with the width, and it moves.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from tqdm import tqdm

from finite import ensemble, fit, rounding
from finite.coordinates import slope_of
from finite.keys import WIDEST, key_of
from widthwise import Problem, check
from widthwise.checked import checked
from widthwise.feed import batches
from widthwise.precision import computing_in
from widthwise.storage import read_arrays, with_suffix, write_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP = 0.5
"""log2 of sqrt 2: the step of the default grid, and how far an optimum may move that transfers."""

RATES = 2.0 ** np.arange(-3, 3 + STEP, STEP)
"""The default grid, in units of the problem's eta0."""

RESAMPLES = 400
"""Bootstrap resamples of the seeds."""


@dataclass(frozen=True)
class Sweep:
    """Losses at every width (or depth) and learning rate; prints as a table, draws itself with `plot`.

    Attributes:
        problem: what was trained; its eta0, width and depth aside.
        widths: (S,), or one width where the depth is swept.
        depths: (S,), or None where the width is swept.
        rates: (R,) the learning rates eta0, rising.
        losses: (S, R, seeds), infinite where a network diverged.
    """

    problem: Problem
    widths: tuple[int, ...]
    depths: tuple[int, ...] | None
    rates: Float[np.ndarray, "rates"]
    losses: Float[np.ndarray, "sizes rates seeds"]

    @property
    def axis(self) -> str:
        """What is swept besides the rate: "width" or "depth"."""
        return "width" if self.depths is None else "depth"

    @property
    def sizes(self) -> tuple[int, ...]:
        """(S,) the widths or the depths."""
        return self.widths if self.depths is None else self.depths

    @property
    def mean(self) -> Float[np.ndarray, "sizes rates"]:
        """(S, R) mean over seeds, infinite where one of them diverged."""
        return self.losses.mean(-1)

    @property
    def diverged(self) -> Int[np.ndarray, "sizes rates"]:
        """(S, R) how many seeds diverged."""
        return np.isinf(self.losses).sum(-1)

    @property
    def best(self) -> Int[np.ndarray, "sizes"]:
        """(S,) places in `rates` of the least mean loss."""
        return self.mean.argmin(-1)

    @property
    def at_edge(self) -> Bool[np.ndarray, "sizes"]:
        """(S,) whether the best rate is the first or the last, so that the optimum may lie beyond."""
        return (self.best == 0) | (self.best == len(self.rates) - 1)

    @cached_property
    def optimal(self) -> dict[int, tuple[float, float]]:
        """Optimal eta0 of every width (or depth), and the standard error of its log2, by the bootstrap over seeds.

        The error is that of initial weights alone. It does not know of an optimum beyond the grid (see `at_edge`), nor of the
        roughness that the one sequence of batches leaves in the curves of all seeds: average over more steps (`last`) where
        curves are rough. Beside a rate that diverged the optimum lies half a step away from it.
        """
        places, errors = self._optima
        return {n: (float(2**place), float(error)) for n, place, error in zip(self.sizes, places, errors, strict=True)}

    @cached_property
    def _optima(self) -> tuple[Float[np.ndarray, "sizes"], Float[np.ndarray, "sizes"]]:
        """log2 of the optimal rates, and their errors."""
        x, n = np.log2(self.rates), self.losses.shape[-1]
        picks = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
        resampled = minimum(x, np.moveaxis(self.losses[..., picks].mean(-1), 1, -1))
        return minimum(x, self.mean), resampled.std(-1) * math.sqrt(n / (n - 1))

    @property
    def drift(self) -> tuple[float, float]:
        """Slope of log2 of the optimal rate against log2 of the width (or depth), and its standard error.

        Raises:
            ValueError: there is but one width.
        """
        if len(self.sizes) < 2:
            raise ValueError(f"drift is what changes between {self.axis}s; there is one, {self.sizes[0]}.")
        slope, error = slope_of(np.log2(self.sizes), *self._optima)
        return float(slope), float(error)

    @property
    def moved(self) -> tuple[float, float]:
        """Factors of sqrt 2 (the steps of the default grid) between the lowest and the highest optimum, and its error."""
        places, errors = self._optima
        ends = [places.argmin(), places.argmax()]
        return float(np.ptp(places) / STEP), float(np.linalg.norm(errors[ends]) / STEP) if len(places) > 1 else 0.0

    @property
    def transfers(self) -> bool:
        """Whether the optimum moves by at most a factor sqrt 2, and nowhere lies on the edge of the rates."""
        return self.moved[0] <= 1 and not self.at_edge.any()

    @property
    def verdict(self) -> str:
        """`transfers` in words, and where it is False, why."""
        steps, error = self.moved
        if self.transfers:
            return "it transfers"
        if self.at_edge.any():
            return "cannot tell: widen the rates"
        return "cannot tell: take more seeds" if steps - 2 * error <= 1 else "IT DOES NOT TRANSFER"

    def __bool__(self) -> bool:
        return self.transfers

    def __str__(self) -> str:
        first, n = self.sizes[0], self.losses.shape[-1]
        fixed = "" if self.depths is None else f", width {self.widths[0]}"
        lines = [
            f"{self.problem.architecture}{fixed}\n{self.problem.parameterization}",
            f"  {self.axis:>6s}  optimal eta0  log2               least loss            at the best eta0 of {first}",
        ]
        at, mean = self.best, self.mean
        for i, (size, (rate, error)) in enumerate(self.optimal.items()):
            spread = self.losses[i, at[i]]
            sem = spread.std(ddof=1) / math.sqrt(n) if np.isfinite(spread).all() else math.inf
            edge = "  EDGE of the rates" if self.at_edge[i] else ""
            lines.append(
                f"  {size:6d}  {rate:<12.4g}  {math.log2(rate):+.2f} +- {error:.2f}      "
                f"{f'{mean[i, at[i]]:.4g} +- {sem:.1g}':20s}  {mean[i, at[0]]:.4g}{edge}"
            )
        if len(self.sizes) > 1:
            lines.append(
                "  optimal eta0 ~ {axis}^({:+.2f} +- {:.2f}), moves by {:.1f} +- {:.1f} steps of sqrt 2: {verdict}".format(
                    *self.drift, *self.moved, axis=self.axis, verdict=self.verdict
                )
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Loss against learning rate, a line per width (or depth), optima marked; crosses at the top where a seed diverged."""
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
        mean, best, n = self.mean, self.best, self.losses.shape[-1]
        finite = np.isfinite(mean)
        shown = np.where(finite, mean, np.nan)
        error = np.where(finite[..., None], self.losses, np.nan).std(-1, ddof=1) / math.sqrt(n)
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(self.sizes)))
        for i, (size, (rate, _)) in enumerate(self.optimal.items()):
            ax.errorbar(self.rates, shown[i], error[i], color=colours[i], marker="o", markersize=3, label=str(size))
            ax.plot(rate, mean[i, best[i]], "*", color=colours[i], markersize=12, markeredgecolor="white", zorder=3)
            lost = self.rates[~finite[i]]
            height = np.full(len(lost), 0.97 - 0.03 * i)
            ax.plot(lost, height, "x", color=colours[i], markersize=4, transform=ax.get_xaxis_transform())
        ax.set(xlabel="learning rate eta0", ylabel="train loss, last steps")
        ax.set_xscale("log", base=2)
        if finite.any():
            low, start = mean[finite].min(), mean[finite[:, 0], 0]
            high = max([*start, *mean.min(-1)[finite.any(-1)]])  # what is above the loss of the smallest rate is on its way out
            if low > 0:
                ax.set_yscale("log")
                ax.set_ylim(low / (high / low) ** 0.1 / 1.02, high * (high / low) ** 0.3 * 1.02)
                for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
                    which("{x:.3g}")
            else:
                ax.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
        ax.legend(title=self.axis, fontsize="small")
        form, noun = self.problem.parameterization, type(self.problem.architecture).__name__
        ax.set_title(f"{noun}, {form.kind}", fontsize="small")
        return figure

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write rates and losses with the problem to an .npz file, which appears whole or not at all.

        Raises:
            OSError: the place cannot be written.
        """
        path = with_suffix(path)
        header = json.dumps({"problem": self.problem.to_json(), "widths": self.widths, "depths": self.depths})
        write_arrays(path, {"header": np.array(header), "rates": self.rates, "losses": self.losses})
        return path

    @staticmethod
    def load(path: str | os.PathLike[str], **own: Any) -> Sweep:
        """Read what `save` wrote.

        Args:
            path: name of the file; `.npz` is added if it has no suffix.
            own: activation, loss, stream or optimizer of the user's own, as in `Result.load`.

        Raises:
            OSError: no such file.
            ValueError: no file of a sweep, or a damaged one; something of the user's own is missing.
        """
        try:
            data = read_arrays(with_suffix(path))
            header, rates, losses = json.loads(str(data["header"])), data["rates"], data["losses"]
            widths, depths = tuple(header["widths"]), header["depths"] and tuple(header["depths"])
            if losses.shape[:2] != (len(depths or widths), len(rates)) or losses.ndim != 3:
                raise ValueError(f"losses of shape {losses.shape} for {len(depths or widths)} sizes and {len(rates)} rates")
            problem = header["problem"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not a file of Sweep.save, or it is damaged ({error}): compute it again.") from error
        return Sweep(Problem.from_json(problem, **own), widths, depths, rates, losses)


def minimum(x: Float[np.ndarray, "rates"], y: Float[np.ndarray, "... rates"]) -> Float[np.ndarray, "..."]:
    """Where the parabola through the least y and its two neighbours is lowest; at an end of x, that end.

    Between the midpoints of the two intervals the parabola's slope goes from -p to q, and is zero in between at p : q.
    """
    i = y.argmin(-1)
    inner = np.clip(i, 1, len(x) - 2)
    left, middle, right = (np.take_along_axis(y, (inner + k)[..., None], -1)[..., 0] for k in (-1, 0, 1))
    a, b = x[inner] - x[inner - 1], x[inner + 1] - x[inner]
    with np.errstate(invalid="ignore"):  # inf - inf where all diverged, which is an end
        p, q = (np.minimum((z - middle) / d, 1e300) for z, d in ((left, a), (right, b)))
        share = np.divide(p, p + q, where=p + q != 0, out=np.full(p.shape, 0.5))
    return np.where(i == inner, x[inner] + (share * b - (1 - share) * a) / 2, x[i])


@checked
def sweep(
    problem: Problem,
    *,
    rates: Sequence[float] | None = None,
    widths: int | Sequence[int] = (64, 128, 256),
    depths: Sequence[int] | None = None,
    num_seeds: int = 4,
    seed: int = 0,
    last: float = 0.1,
    dtype: Literal["float32", "float64"] = "float32",
    progress: bool = True,
) -> Sweep:
    """Train at every learning rate and width (or depth), and see whether the optimal rate stays where it is.

    Networks of one width train at all rates together, from the same initial weights, on the same batches. What is compared is
    the train loss over the last steps: of a stream of fresh samples that is the test loss; of data that come again it is how
    well they are fitted. Take a task whose loss does not reach zero: where it does at many rates, none is best. A network whose
    loss is not finite counts as infinite. With `label_noise` it is the loss that training sees, against the noisy labels: with
    loss="mse" and C outputs larger by label_noise^2 C / 2 than `finite.train` records, at all rates alike.

    Args:
        problem: its eta0 in the middle of the default rates; all else (schedule, optimizer, batches) is kept.
        rates: learning rates eta0, rising, at least three; by default eta0 / 8 ... 8 eta0 in steps of sqrt 2.
        widths: those to compare; one alone says what its optimal rate is.
        depths: those to compare, at one width; of architectures that have a `depth`.
        num_seeds: networks per rate and width; their spread is the error of the optimum.
        seed: of the networks, which start as those of `finite.train` with that seed.
        last: the fraction of the steps whose losses are averaged.
        dtype: "float32" or "float64".
        progress: show a progress bar, if there is a terminal.

    Raises:
        ValueError: an argument out of range; training by a flow, at a temperature, or with layer_rates; gamma0 too small for
            the dtype.
        MemoryError: one network does not fit.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, data
        >>> training = GradientDescent(0.5, 48, batch_size=16)
        >>> problem = Problem(MLP(1, "relu"), Parameterization(), data.multi_index(4, 1, 2), training)
        >>> result = sweep(problem, rates=[0.01, 0.1, 1.0, 10.0, 100.0], widths=(16, 32), num_seeds=2)
        >>> result.losses.shape, [round(float(np.log10(rate))) for rate, _ in result.optimal.values()]
        ((2, 5, 2), [0, 0])
    """
    check.outside_jit("finite.sweep")
    grid = _rates(problem.training.eta0 * RATES if rates is None else rates)
    each_width = _sizes("widths", [widths] if isinstance(widths, int | np.integer) else widths)
    each_depth = None if depths is None else _sizes("depths", depths)
    if each_depth is not None and len(each_width) > 1:
        raise ValueError(f"depths are compared at one width: give it, e.g. widths=128; got widths={each_width}.")
    check.count("num_seeds", num_seeds, "Their spread is the error of the optimum.", least=2, most=check.MANY)
    check.seed("seed", seed)
    if check.positive("last", last) > 1:
        raise ValueError(f"last is a fraction of the steps, at most 1; got {last:g}.")
    for name in ("flow", "temperature", "layer_rates"):
        if getattr(problem.training, name):
            raise ValueError(f"{name} is not for sweeps: leave it out.")
    cases = [(problem, N) for N in each_width]
    if each_depth is not None:
        cases = [(problem.replace(depth=L), each_width[0]) for L in each_depth]
    for case, N in cases:
        case.architecture.check_input(ensemble.shapes_of(case)["input_shape"], N)

    def keys_of(N: int) -> Key[Array, "seeds"]:
        return jax.vmap(partial(jax.random.fold_in, key_of(seed, N)))(np.arange(num_seeds))

    bar = tqdm(cases, "sweep", unit="network", disable=None if progress else True, leave=False)
    with computing_in(dtype):
        _, y = next(iter(batches(problem.task, problem.training)))
        for case, N in cases:
            rounding.check_strength(case, N, dtype, y)
            fit.drawn(case, N, len(grid) * num_seeds)  # all fit, before the first is trained
        losses = [_losses(case, N, grid, keys_of(N), last, bar) for case, N in bar]
    return Sweep(problem, each_width, each_depth, grid, np.stack(losses))


def _losses(
    problem: Problem, width: int, rates: Float[np.ndarray, "rates"], keys: Key[Array, "seeds"], last: float, bar: tqdm
) -> Float[np.ndarray, "rates seeds"]:
    """Mean loss of the last steps at every rate and seed, a few networks at a time; infinite where it is not finite."""
    training, num_seeds = problem.training, len(keys)
    num = len(rates) * num_seeds
    start, each = fit.drawn(problem, width, num)
    count = -(-num // each)
    eta = np.outer(rates, replace(training, eta0=1.0).step_sizes)
    kept = math.ceil(last * training.num_steps)
    groups = (np.arange(count * each) % num).reshape(count, each)  # the last is filled up with networks once more
    bar.set_postfix_str(f"width {width}")
    tails = ensemble.at_once(
        lambda group: _tail(problem, start(keys[group % num_seeds]), eta[group // num_seeds], kept), groups
    )
    return np.concatenate(tails)[:num].reshape(len(rates), num_seeds)


def _tail(
    problem: Problem, state: ensemble.State, eta: Float[np.ndarray, "networks updates"], kept: int
) -> Float[np.ndarray, "networks"]:
    """Mean of the last `kept` losses of every network, infinite where it is not finite."""
    losses: list[np.ndarray] = []
    for _, now in ensemble.train(problem, state, eta):
        losses.append(now)
        if np.isnan(now[:, -1]).all():  # their weights are NaN, and stay so
            break
    mean = np.concatenate(losses, axis=1)[:, -kept:].mean(1, dtype=float)
    return np.where(np.isfinite(mean), mean, np.inf)


def _rates(rates: Any) -> Float[np.ndarray, "rates"]:
    grid = check.array("rates", rates, 1, "(R,)", "They are learning rates eta0.")
    if len(grid) < 3 or not (grid > 0).all() or not (np.diff(grid) > 0).all():
        raise ValueError(f"rates must be at least three, above zero and rising, got {grid.tolist()}.")
    return grid


def _sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    given = tuple(sorted(check.count(f"every entry of {name}", n, most=WIDEST) for n in check.sequence(name, sizes)))
    if not given or len({*given}) < len(given):
        raise ValueError(f"{name} must be different whole numbers, at least one; got {given}.")
    return given
