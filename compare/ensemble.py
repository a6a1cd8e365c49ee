"""Ensembles: variance over seeds, losses of ensembles of E networks, and the bias of narrower width.

At fixed data and order, f_N = <f_N> + fluctuation over the initial weights, and an ensemble of E networks averages outputs:

    L_ens(E) = E loss(mean of E outputs, y)      L_ens(1): a single network      L_ens(inf) = loss(<f_N>, y)
    mse:   L_ens(E) = L_ens(inf) + V / (2 E),    V = sum over outputs of Var f   (exactly)
    other: L_ens(E) = L_ens(inf) + a / E + O(1 / E^2)
    B(N) = L_ens(inf; N) - L(infinite width)     what no ensemble of this width removes          (2305.18411, 2304.03408)

L_ens(inf) comes from n networks without bias of order 1/n by the jackknife, n L(all) - (n - 1) mean of L(all but one): for mse
that is L_ens(n) - V / (2 n), unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float

from compare import seeds
from compare.gap import same_points
from compare.losses import Members, members
from compare.outputs import ensembles_of, outputs_of
from widthwise import Result, check
from widthwise.checked import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = 8
"""Of networks, whose subsets are all averaged to extrapolate in 1 / E."""

PARTITIONS = 16
"""Random partitions into ensembles of E networks, where the loss is not quadratic."""


@dataclass(frozen=True)
class Ensemble:
    """Networks of one width as an ensemble; at every recorded step; prints as a table.

    Attributes:
        steps: (T,)
        num_seeds: n.
        loss: its name.
        variance, variance_error: (T,) Var f over seeds, unbiased, mean over points and outputs.
        sizes: (S,) numbers E of members, from 1 to n.
        of_size, of_size_error: (S, T) expected loss of an ensemble of E.
        infinite, infinite_error: (T,) the same as E -> inf, by the jackknife. Its error is that of initial weights; where bias
            is nothing beside variance, it is too large, by sqrt 2 at most.
        extrapolated, extrapolated_error: (T,) the same by extrapolation in 1 / E, quadratic, from ensembles of n / 4, n / 2 and
            n: noisier, and free of the 1 / E^2 that the jackknife leaves. For mse both estimate the same.
    """

    steps: np.ndarray
    num_seeds: int
    loss: str
    variance: np.ndarray
    variance_error: np.ndarray
    sizes: tuple[int, ...]
    of_size: np.ndarray
    of_size_error: np.ndarray
    infinite: np.ndarray
    infinite_error: np.ndarray
    extrapolated: np.ndarray
    extrapolated_error: np.ndarray

    @property
    def single(self) -> np.ndarray:
        """(T,) mean loss of a single network."""
        return self.of_size[0]

    @property
    def single_error(self) -> np.ndarray:
        """(T,) its standard error."""
        return self.of_size_error[0]

    def __str__(self) -> str:
        title = f"   step   {'Var f':21s}  {'single':21s}  ensemble, E -> inf"
        lines = [f"{self.num_seeds} networks, {self.loss}", title]
        columns = ((self.variance, self.variance_error), (self.single, self.single_error), (self.infinite, self.infinite_error))
        for t in _shown(self.steps):
            row = "  ".join(plus_minus(value[t], error[t]) for value, error in columns)
            lines.append(f"{self.steps[t]:7d}   {row}".rstrip())
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Losses of single networks, of ensembles of every size and of the infinite one, against the step."""
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(self.sizes)))
        for E, value, colour in zip(self.sizes, self.of_size, colours, strict=True):
            ax.plot(self.steps, value, color=colour, label=f"E = {E}")
        ax.errorbar(self.steps, self.infinite, self.infinite_error, color="black", ls="--", label="E -> inf")
        ax.set(xlabel="step", ylabel=f"loss ({self.loss})")
        if self.of_size.min() > 0:
            ax.set_yscale("log")
        ax.legend(fontsize="small")
        return figure


@dataclass(frozen=True)
class Ensembles:
    """An `Ensemble` per width, and the bias of narrower width; prints as a table, draws itself with `plot`.

    Attributes:
        of_width: Ensemble by width.
        reference: what B is measured from: the widest width, or "theory".
        bias, bias_error: (W, T) B(N) = L_ens(inf; N) - L_ens(inf; reference), of all widths but the reference.
    """

    of_width: dict[int, Ensemble]
    reference: int | str
    bias: np.ndarray
    bias_error: np.ndarray

    def __getitem__(self, width: int) -> Ensemble:
        return self.of_width[width]

    @property
    def widths(self) -> list[int]:
        """(W,) the widths that have a bias."""
        return [N for N in self.of_width if self.reference != N]

    def __str__(self) -> str:
        first = next(iter(self.of_width.values()))
        lines = [
            f"{first.loss} at step {first.steps[-1]}; bias of narrower width from {_named(self.reference)}",
            f"  width  seeds   {'Var f':21s}  {'single':21s}  {'ensemble, E -> inf':21s}  bias",
        ]
        biases = {N: (self.bias[i], self.bias_error[i]) for i, N in enumerate(self.widths)}
        for N, e in self.of_width.items():
            columns = [(e.variance, e.variance_error), (e.single, e.single_error), (e.infinite, e.infinite_error)]
            columns += [biases[N]] if N in biases else []
            row = "  ".join(plus_minus(value[-1], error[-1]) for value, error in columns)
            lines.append(f"{N:7d} {e.num_seeds:6d}   {row}".rstrip())
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Left: single networks (solid) and infinite ensembles (dashed) against the step; right: the bias of narrower width."""
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
        colours = dict(zip(self.of_width, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(self.of_width))), strict=True))
        for N, e in self.of_width.items():
            left.plot(e.steps, e.single, color=colours[N], label=str(N))
            left.errorbar(e.steps, e.infinite, e.infinite_error, color=colours[N], ls="--")
        for i, N in enumerate(self.widths):
            right.errorbar(self.of_width[N].steps, self.bias[i], self.bias_error[i], color=colours[N])
        right.axhline(0, color="black", lw=0.8)
        left.set(xlabel="step", ylabel=f"loss ({e.loss}): single -, ensemble - -")
        right.set(xlabel="step", ylabel=f"bias of narrower width, from {_named(self.reference)}")
        if min(e.single.min() for e in self.of_width.values()) > 0:
            left.set_yscale("log")
        left.legend(title="width", fontsize="small")
        return figure


@overload
def ensemble(
    nets: Result,
    y: Any = ...,
    *,
    loss: Any = ...,
    average: str = ...,
    theory: None = ...,
    points: str | None = ...,
    sizes: Sequence[int] | None = ...,
) -> Ensemble: ...
@overload
def ensemble(
    nets: Mapping[int, Result],
    y: Any = ...,
    *,
    loss: Any = ...,
    average: str = ...,
    theory: Result | None = ...,
    points: str | None = ...,
    sizes: Sequence[int] | None = ...,
) -> Ensembles: ...
@checked
def ensemble(
    nets: Result | Mapping[int, Result],
    y: Any = None,
    *,
    loss: Any = None,
    average: str = "outputs",
    theory: Result | None = None,
    points: str | None = None,
    sizes: Sequence[int] | None = None,
) -> Ensemble | Ensembles:
    """Variance over seeds, losses of ensembles, and what ensembles do not remove.

    Args:
        nets: networks of one width, or ensembles by width; seeds share data and order.
        y: targets (M,), (M, C) or classes (M,) of the watched points; by default those of the problem (of a Stream its probes).
        loss: a name or a function of f and y, by default that of the problem.
        average: what members average, "outputs" or (cross_entropy, logistic) "probabilities".
        theory: limit to measure the bias of narrower width from; by default the widest width.
        points: "train", "test" or "all"; by default test points if they have targets.
        sizes: numbers of members E to show, by default 1, 2, 4, ... n.

    Returns:
        Ensemble of a Result, Ensembles of a dict.

    Raises:
        ValueError: fewer than three networks of a width, tokens without targets, settings that do not fit.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> result = ensemble(finite.train(problem, width=16, num_seeds=16, progress=False))
        >>> bool((result.infinite[-1] < result.single[-1]).all()), result.sizes
        (True, (1, 2, 4, 8, 16))
    """
    if isinstance(nets, Result):
        if theory is not None:
            raise ValueError("the bias from a theory is that of widths: pass {width: Result}, e.g. {64: nets}.")
        return _ensemble(nets, y, loss, average, points, sizes)[0]
    by_width = ensembles_of(nets, "ensemble", 1 if theory is not None else 2)
    both = {N: _ensemble(net, y, loss, average, points, sizes) for N, net in by_width.items()}
    of_width = {N: found for N, (found, _) in both.items()}
    pseudo = {N: values for N, (_, values) in both.items()}
    rows = dict(zip(by_width, seeds.rows_of(list(by_width.values())), strict=True))
    reference: int | str
    if theory is None:
        reference = max(of_width)
        widest = seeds.influence(pseudo[reference])
        limit, error = of_width[reference].infinite, np.zeros(1)
    else:
        reference, first = "theory", next(iter(by_width.values()))
        check.result("theory", theory)
        same_points(theory, first)
        problem_loss = first.problem.training.loss if loss is None else loss
        limit, error = _limit(theory, y, members(problem_loss, average), points)
    narrower = {N: e for N, e in of_width.items() if reference != N}
    errors = []
    for N in narrower:
        parts, own = [seeds.influence(pseudo[N])], [rows[N]]
        if isinstance(reference, int):
            parts, own = [*parts, -widest], [*own, rows[reference]]
        errors.append(np.hypot(seeds.size(seeds.joint(own, parts)), error))
    return Ensembles(
        of_width,
        reference,
        np.array([e.infinite - limit for e in narrower.values()]),
        np.array(errors),
    )


# --- one width ---------------------------------------------------------------------------------------------------------------


def votes_of(net: Result, y: Any, loss: Any, average: str, points: str | None) -> tuple[Members, np.ndarray, np.ndarray]:
    kind = members(check.result("a result", net).problem.training.loss if loss is None else loss, average)
    out = outputs_of(net, y, points, least=3)
    return kind, kind.vote(out.f), np.asarray(out.y)


def _ensemble(
    net: Result, y: Any, loss: Any, average: str, points: str | None, sizes: Sequence[int] | None
) -> tuple[Ensemble, np.ndarray]:
    """The Ensemble, and the pseudo-values of its infinite ensemble."""
    kind, votes, targets = votes_of(net, y, loss, average, points)
    n = len(votes)
    wanted = [*(2**k for k in range(n.bit_length()) if 2**k < n), n] if sizes is None else [*sizes]
    for E in wanted:
        if check.count("every size", E) > n:
            raise ValueError(f"ensembles of {E} cannot be made of {n} networks. Take more seeds, or sizes up to {n}.")
    wanted = sorted({1, *wanted})
    pseudo, single = pseudo_values(kind, votes, targets)
    losses = [of_size(kind, votes, targets, E, pseudo, single) for E in wanted]
    variance, variance_error = variance_of(outputs_of(net, y, points).f)
    extrapolated = _extrapolated(kind, votes, targets)
    found = Ensemble(
        np.asarray(net.mean.steps),
        n,
        kind.name,
        variance,
        variance_error,
        tuple(wanted),
        np.array([value for value, _ in losses]),
        np.array([_sem(mixed) for _, mixed in losses]),
        pseudo.mean(0),
        _sem(pseudo),
        *extrapolated,
    )
    return found, pseudo


def variance_of(f: Float[np.ndarray, "runs steps points outputs"]) -> tuple[np.ndarray, np.ndarray]:
    """(T,) unbiased variance over runs, mean over points and outputs, and its jackknife error."""
    n = len(f)
    squares = ((f - f.mean(0)) ** 2).mean((2, 3))
    total = squares.sum(0)
    left = (total - n / (n - 1) * squares) / (n - 2)  # the variance without run i
    value = total / (n - 1)
    return value, _sem(n * value - (n - 1) * left)


def _sem(x: Float[np.ndarray, "runs steps"]) -> np.ndarray:
    return x.std(0, ddof=1) / np.sqrt(len(x))


def pseudo_values(kind: Members, votes: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, T) pseudo-values n L(all) - (n - 1) L(all but i) of L_ens(inf); and the losses of the single networks."""
    n, total = len(votes), votes.sum(0)
    without = np.array([kind.of((total - vote) / (n - 1), y) for vote in votes])
    return n * kind.of(total / n, y) - (n - 1) * without, np.array([kind.of(vote, y) for vote in votes])


def of_size(
    kind: Members, votes: np.ndarray, y: np.ndarray, E: int, pseudo: np.ndarray, single: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """L_ens(E) (T,), and pseudo-values (n, T) whose standard error is its own.

    mse: L_ens(inf) + (L_ens(1) - L_ens(inf)) / E, exact at any E. Others: the mean over ensembles of E networks (random
    partitions; E = n: the one); where E > n, L_ens(inf) + (L_ens(n) - L_ens(inf)) n / E. Pseudo-values are
    those of the formula for mse, which to leading order in 1 / E are those of any loss.
    """
    mixed, n = pseudo + (single - pseudo) / E, len(votes)
    if kind.quadratic or E == 1:
        return mixed.mean(0), mixed
    if n < E:
        infinite = pseudo.mean(0)
        return infinite + (kind.of(votes.mean(0), y) - infinite) * n / E, mixed
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(1 if n == E else PARTITIONS):
        order = rng.permutation(n)
        losses += [kind.of(votes[order[k : k + E]].mean(0), y) for k in range(0, n - E + 1, E)]
    return np.mean(losses, axis=0), mixed


def _extrapolated(kind: Members, votes: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L_ens(inf) by polynomials in 1 / E through all ensembles of G, G / 2, G / 4 of G groups; error by leaving one out."""
    G = min(len(votes), GROUPS)
    each = len(votes) // G
    groups = votes[: G * each].reshape(G, each, *votes.shape[1:]).mean(1)

    def limit(numbers: list[int]) -> tuple[int, ...]:
        g = len(numbers)
        return tuple(sorted({k for k in (g, g // 2, g // 4) if k}))

    known: dict[tuple[int, ...], np.ndarray] = {}

    def of(chosen: tuple[int, ...]) -> np.ndarray:
        if chosen not in known:
            known[chosen] = kind.of(groups[list(chosen)].mean(0), y)
        return known[chosen]

    def value(numbers: list[int]) -> np.ndarray:
        sizes = limit(numbers)
        means = [np.mean([of(chosen) for chosen in combinations(numbers, k)], axis=0) for k in sizes]
        x = [1 / k for k in sizes]
        weights = [np.prod([x[m] / (x[m] - x[k]) for m in range(len(x)) if m != k]) for k in range(len(x))]
        return np.sum([w * mean for w, mean in zip(weights, means, strict=True)], axis=0)

    everyone = list(range(G))
    left = np.array([value([g for g in everyone if g != out]) for out in everyone])
    return value(everyone), np.sqrt((G - 1) * left.var(0))


def _limit(theory: Result, y: Any, kind: Members, points: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Loss of the theory's mean output, the noise of its replicas taken out, and its error."""
    out = outputs_of(theory, y, points, least=3)
    votes, targets = kind.vote(out.f), np.asarray(out.y)
    if theory.trajectory.n == 0:
        value = kind.of(votes[0], targets)
        return value, np.zeros_like(value)
    pseudo, _ = pseudo_values(kind, votes, targets)
    return pseudo.mean(0), _sem(pseudo)


def _shown(steps: np.ndarray) -> np.ndarray:
    return np.unique(np.linspace(0, len(steps) - 1, 6).round().astype(int))


def _named(reference: int | str) -> str:
    return reference if isinstance(reference, str) else f"width {reference}"


def plus_minus(value: float, error: float) -> str:
    return f"{f'{value:.4g} +- {error:.1g}':21s}"
