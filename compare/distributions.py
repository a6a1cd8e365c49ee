"""Distances of representations between results: preactivations, kernels, attention; each with what noise makes of it.

    W1 = int |F_a(x) - F_b(x)| dx            of preactivations, F the empirical distribution functions
    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),    HSIC without bias                        (Song et al. 2012; 2010.15327)
    TV = 1/2 sum_s |a_s - b_s|               of rows of attention, probabilities

Distances of noisy things are never zero: each comes with its expectation where both sides are alike (`null`) and a p-value, by
resampling either side around its own mean. (Permutations between the sides would take networks of different widths for alike.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from compare.gap import same_points
from widthwise import Result, check
from widthwise.checked import checked


@dataclass(frozen=True)
class Distance:
    """A distance between two samples.

    Attributes:
        name: of what.
        value: the distance.
        error: its standard error, by the bootstrap.
        null: its expectation where both samples are of one distribution: that of resamples, around the samples.
        p_value: the chance of a distance as large then.
    """

    name: str
    value: float
    error: float
    null: float
    p_value: float

    @property
    def resolved(self) -> float:
        """The distance with the null taken out in quadrature; zero where noise explains it."""
        return float(np.sqrt(max(self.value**2 - self.null**2, 0.0)))

    def __str__(self) -> str:
        value = f"{self.value:.4g} +- {self.error:.1g}"
        return f"{self.name:16s} {value:20s} noise alone {self.null:.3g}   p = {self.p_value:.2g}"


@dataclass(frozen=True)
class Similarity:
    """A similarity of two kernels, 1 if they are equal up to a factor.

    Attributes:
        name: "cka" or "alignment".
        value, error: with the jackknife error over points.
    """

    name: str
    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} +- {self.error:.1g}"


# --- preactivations --------------------------------------------------------------------------------------------------------


@checked
def wasserstein(
    a: Float[np.ndarray, "units ..."],
    b: Float[np.ndarray, "units_ ..."],
    *,
    name: str = "W1",
    num_resamples: int = 200,
    seed: int = 0,
) -> Distance:
    """Wasserstein-1 distance of two samples of numbers.

    Args:
        a, b: (n, ...) and (m, ...) samples; what is independent, networks or neurons, on the first axis. What has the same
            place on a last axis of points is compared point by point and averaged, if there are three axes: (units, neurons,
            points); else all numbers are one sample.
        name: shown.
        num_resamples: of the bootstrap over units.
        seed: of it.

    Raises:
        ValueError: fewer than two units; other points; numbers that are not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> d = wasserstein(rng.standard_normal(400), 1 + rng.standard_normal(400))
        >>> abs(d.value - 1) < 4 * d.error, d.p_value < 0.01, d.null < 0.1
        (True, True, True)
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    a, b = (x if x.ndim == 3 else x.reshape(len(x), -1, 1) for x in (a, b))
    if a.shape[2] != b.shape[2]:
        raise ValueError(f"samples must be of the same points, got {a.shape[2]} and {b.shape[2]}.")
    _finite(a, b)
    both = np.concatenate([x.reshape(-1, x.shape[2]) for x in (a, b)])
    order = both.argsort(0, kind="stable")
    gaps = np.diff(np.take_along_axis(both, order, 0), axis=0)

    def difference(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """F_a - F_b between neighbouring numbers, with weights p and q of the units."""
        weights = np.concatenate([np.repeat(p / a.shape[1], a.shape[1]), -np.repeat(q / b.shape[1], b.shape[1])])
        return weights[order].cumsum(0)[:-1]

    return _distance(
        name, len(a), len(b), difference, lambda d: float(np.mean(np.sum(np.abs(d) * gaps, axis=0))), num_resamples, seed
    )


@checked
def preactivations(
    a: Result, b: Result, layer: int | str, *, units: str = "networks", num_resamples: int = 200, seed: int = 0
) -> tuple[Distance, ...]:
    """W1 of the preactivations of a layer between two results, at every kept step, mean over points.

    Args:
        a, b: Results that saved "h", of any widths (or paths of the theory), on the same points.
        layer: l = 1 ... L of an MLP on a Task; the name of a field, e.g. "h1", of other networks.
        units: what is independent: "networks" (four or more on each side), or "neurons": those of one network share its
            kernels, which at finite width fluctuate, so that errors by neurons are too small where there are few networks.
        num_resamples, seed: of the bootstrap.

    Raises:
        ValueError: "h" was not saved; too few networks; results on other steps or points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = [finite.train(problem, width=N, num_seeds=8, save=["h"], progress=False) for N in (16, 64)]
        >>> len(preactivations(*nets, layer=1, num_resamples=50))
        2
    """
    same_points(a, b)
    check.choice("units", units, ("networks", "neurons"))
    x, y = _fields(a, layer), _fields(b, layer)
    if units == "networks" and min(len(x), len(y)) < 4:
        raise ValueError(f"resamples of networks need four on each side, got {len(x)} and {len(y)}: take units='neurons'.")
    out = []
    for k, step in enumerate(np.asarray(a.mean.kernel_steps)):
        sides = [field[:, k] for field in (x, y)]
        if units == "neurons":
            sides = [field.reshape(-1, 1, field.shape[-1]) for field in sides]
        out.append(wasserstein(*sides, name=f"W1 step {step}", num_resamples=num_resamples, seed=seed))
    return tuple(out)


def _fields(result: Result, layer: int | str) -> Float[np.ndarray, "runs kept neurons points"]:
    name = "h" if isinstance(layer, int | np.integer) else f"h/{layer}"
    if name not in result.samples.more:
        there = ", ".join(result.samples.more) or "nothing else"
        raise ValueError(f"{name!r} is not among what was saved ({there}): pass save=['h'] to the run.")
    h = np.asarray(result.samples.more[name])
    if isinstance(layer, int | np.integer):
        if not 1 <= layer <= h.shape[2]:
            raise ValueError(f"layer must be 1 ... {h.shape[2]}, got {layer}.")
        h = h[:, :, layer - 1]
    return np.moveaxis(h.reshape(*h.shape[:3], -1), 2, 3)  # sites count as neurons


# --- attention -------------------------------------------------------------------------------------------------------------


@checked
def attention_distance(
    a: Float[np.ndarray, "n ... heads rows sites"],
    b: Float[np.ndarray, "m ... heads rows sites"],
    *,
    kind: str = "total_variation",
    match_heads: bool = False,
    num_resamples: int = 200,
    seed: int = 0,
) -> Distance:
    """Distance of the mean attention maps of two sets of networks.

    Args:
        a, b: (n, ..., heads, sites, sites) maps, rows of sum 1: `result.samples["attention1"][:, k]` at a kept step.
        kind: "total_variation", mean over rows of 1/2 sum |a - b|; or "rms", over all entries.
        match_heads: compare head by head; by default heads are averaged first, since those of different networks have no order.
        num_resamples, seed: of the bootstrap over networks.

    Raises:
        ValueError: rows that are no probabilities; shapes that differ; fewer than two networks.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> maps = rng.dirichlet(np.ones(4), size=(2, 8, 2, 4))  # sides, networks, heads, rows
        >>> attention_distance(*maps, num_resamples=50).p_value > 0.01
        True
    """
    check.choice("kind", kind, ("total_variation", "rms"))
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    for x in (a, b):
        _finite(x)
        if x.ndim < 4 or (x < -1e-6).any() or not np.allclose(x.sum(-1), 1, atol=1e-3):
            raise ValueError(f"maps must be (n, ..., heads, sites, sites) with rows of sum 1, got shape {x.shape}.")
    if not match_heads:
        a, b = (x.mean(-3, keepdims=True) for x in (a, b))
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"maps must be of the same points, heads and sites, got {a.shape[1:]} and {b.shape[1:]}.")

    def difference(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.tensordot(p, a, 1) - np.tensordot(q, b, 1)

    def size(d: np.ndarray) -> float:
        return float(np.abs(d).sum(-1).mean() / 2) if kind == "total_variation" else float(np.sqrt(np.mean(d**2)))

    return _distance(kind.replace("_", " "), len(a), len(b), difference, size, num_resamples, seed)


def _finite(*samples: np.ndarray) -> None:
    """Raise ValueError unless all numbers are finite."""
    if not all(np.isfinite(x).all() for x in samples):
        raise ValueError("samples must be finite: leave out networks that diverged.")


def _distance(
    name: str,
    n: int,
    m: int,
    difference: Callable[[np.ndarray, np.ndarray], np.ndarray],
    size: Callable[[np.ndarray], float],
    num: int,
    seed: int,
) -> Distance:
    """The size of a difference that is linear in the weights (n,) and (m,) of the units of either side.

    A resample weighs units by how often it holds them. Its weights are moved away from 1 / n by sqrt(n / (n - 1)): its mean
    varies around the sample as that of a sample does around the truth.
    """
    check.count("num_resamples", num, least=2, most=check.MANY)
    if min(n, m) < 2:
        raise ValueError(f"errors need two units on each side, got {n} and {m}.")
    rng = np.random.default_rng(seed)
    value, resampled, null = size(difference(np.full(n, 1 / n), np.full(m, 1 / m))), [], []
    for _ in range(num):
        p, q = (np.sqrt(k / (k - 1)) * (rng.multinomial(k, np.full(k, 1 / k)) / k - 1 / k) for k in (n, m))
        resampled.append(size(difference(1 / n + p, 1 / m + q)))
        null.append(size(difference(p, q)))
    at_least = np.sum(np.array(null) >= value * (1 - 1e-12))
    return Distance(name, value, float(np.std(resampled, ddof=1)), float(np.mean(null)), float((1 + at_least) / (1 + num)))


# --- kernels ---------------------------------------------------------------------------------------------------------------


@checked
def kernel_similarity(K: Float[np.ndarray, "M M"], L: Float[np.ndarray, "M M"], kind: str = "cka") -> Similarity:
    """How alike two kernels on the same points are, whatever their sizes.

    "cka" is debiased: kernels of independent features have 0 on average, however few the points (plain CKA does not). It
    stands for the population of points, and its error is that of the points. "alignment" is the cosine of the two kernels.

    Args:
        K, L: (M, M) symmetric, of the same points; e.g. `result.mean.equal_time("Phi")[layer, k]`.
        kind: "cka" (five points or more) or "alignment".

    Raises:
        ValueError: other shapes, too few points, kernels without any variation.

    Example:
        >>> X = np.random.default_rng(0).standard_normal((12, 3))
        >>> round(kernel_similarity(X @ X.T, 2 * X @ X.T).value, 6)
        1.0
    """
    check.choice("kind", kind, ("cka", "alignment"))
    K, L = (np.asarray(x, dtype=np.float64) for x in (K, L))
    least = 5 if kind == "cka" else 2
    if K.ndim != 2 or K.shape != L.shape or K.shape[0] != K.shape[1] or len(K) < least:
        raise ValueError(f"kernels must be two (M, M) arrays of {least} points or more, got shapes {K.shape} and {L.shape}.")
    product = hsic if kind == "cka" else lambda k, l: float(np.sum(k * l))

    def of(keep: np.ndarray) -> float:
        k, l = K[np.ix_(keep, keep)], L[np.ix_(keep, keep)]
        size = product(k, k) * product(l, l)
        if not size > 0:
            raise ValueError(f"{kind} is of kernels that vary over points; one of these does not.")
        return product(k, l) / float(np.sqrt(size))

    M = len(K)
    everyone = np.arange(M)
    left = np.array([of(np.delete(everyone, m)) for m in everyone])
    return Similarity(kind, of(everyone), float(np.sqrt((M - 1) * left.var())))


@checked
def hsic(K: Float[np.ndarray, "M M"], L: Float[np.ndarray, "M M"]) -> float:
    """Hilbert-Schmidt independence criterion of two kernels on M >= 4 points, unbiased (Song et al. 2012, eq. 5).

        [tr K L + 1.K.1 1.L.1 / (M-1)(M-2) - 2 1.K L.1 / (M-2)] / M (M-3),     diagonals of K and L set to zero

    Example:
        >>> hsic(np.ones((4, 4)), np.eye(4))
        0.0
    """
    M = len(K)
    K, L = (x - np.diag(np.diagonal(x)) for x in (K, L))
    value = np.sum(K * L) + K.sum() * L.sum() / ((M - 1) * (M - 2)) - 2 * (K.sum(0) @ L.sum(0)) / (M - 2)
    return float(value / (M * (M - 3)))
