"""Deviations from infinite width, on outputs whose truth is known: estimates are unbiased, errors cover, twins are seen."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import compare
from compare import seeds
from compare.onset import _crossing as crossing
from compare.significance import intercept_weights
from tests.test_compare import as_often_as_stated, closed_form, two_layer, two_layer_limit
from widthwise import (
    MLP,
    Estimate,
    Fluctuations,
    GradientDescent,
    Parameterization,
    Problem,
    Result,
    Status,
    Task,
    Trajectory,
    data,
)

mpl.use("Agg")

STEPS, POINTS = np.arange(3), 4
LIMIT = np.array([0.2, 0.6, 1.1])[:, None] * np.array([1.0, -0.5, 0.8, 0.3])
"""(T, M) the limit of f."""
BIAS = np.array([0.5, 2.0, 4.0])[:, None] * np.array([-1.0, 0.5, -0.8, -0.3])
"""(T, M) N times the bias: narrower networks are behind."""
S = np.array([1.0, 2.0, 3.0])
"""(T,) N times the variance."""
Y = np.array([1.5, -0.8, 1.0, 0.4])
TASK = Task(np.eye(POINTS), Y)
PROBLEM = Problem(MLP(1, "linear"), Parameterization(), TASK, GradientDescent(0.1, 2))


def result(f: np.ndarray, problem: Problem = PROBLEM, exact: bool = False, **more: np.ndarray) -> Result:
    """A Result of outputs f (n, T, M[, C]), or (T, M[, C]) if exact."""
    axis = 0 if exact else 1
    steps = np.arange(f.shape[axis])
    loss = np.zeros(f.shape[: axis + 1])
    trajectory = Trajectory(steps, f, loss, None, np.array([0]), more=more)
    estimate = Estimate.exact(trajectory) if exact else Estimate.of(trajectory)
    return Result(problem, estimate, Status(True, "made by hand"), {"parameters": 1}, {})


def nets(rng: np.random.Generator, N: int, n: int, bias: float = 1.0, variance: float = 1.0) -> Result:
    """Networks of width N: LIMIT + bias BIAS / N + fluctuation, independent at every step and point."""
    noise = rng.standard_normal((n, 3, POINTS)) * np.sqrt(variance * S / N)[:, None]
    return result(LIMIT + bias * BIAS / N + noise)


def draws(rng: np.random.Generator, N: int, n: int, num: int, bias: float = 1.0, variance: float = 1.0) -> Result:
    """`num` independent ensembles of `nets` in one, a data set every three steps: what is measured at every step is cheap."""
    noise = rng.standard_normal((n, num, 3, POINTS)) * np.sqrt(variance * S / N)[:, None]
    return result((LIMIT + bias * BIAS / N + noise).reshape(n, 3 * num, POINTS))


def by_draw(*rows: np.ndarray) -> np.ndarray:
    """(rows, 3 num) as (num, rows, 3)."""
    return np.moveaxis(np.array(rows).reshape(len(rows), -1, 3), 1, 0)


def error_of(N: float, bias: float = 1.0) -> np.ndarray:
    """(T,) loss of the infinite ensemble of width N."""
    return ((Y - LIMIT - bias * BIAS / N) ** 2).mean(-1) / 2


def many(check: Callable[[np.random.Generator], Any], num: int, seed: int) -> np.ndarray:
    return np.array([check(np.random.default_rng((seed, i))) for i in range(num)])


def off(values: np.ndarray, truth: Any) -> np.ndarray:
    """Distance of the mean from the truth in standard errors."""
    return (values.mean(0) - truth) / (values.std(0, ddof=1) / np.sqrt(len(values)))


def covers(values: np.ndarray, errors: np.ndarray, most: float = 1.0, least: float = 1.0) -> bool:
    """Whether errors are the spread, which repetitions know to 1 / sqrt(2 num): four of these on either side.

    Squared errors of few seeds are unbiased, if not precise. `least` and `most` are what ratios may be that are not one.
    """
    ratio, known = np.sqrt(np.mean(errors**2, axis=0)) / values.std(0, ddof=1), 4 / np.sqrt(2 * len(values))
    return bool(((ratio > least * (1 - known)) & (ratio < most * (1 + known))).all())


def test_influences_make_the_standard_error() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3))
    np.testing.assert_allclose(seeds.size(seeds.influence(x)), x.std(0, ddof=1) / 2, rtol=1e-13)
    np.testing.assert_allclose(seeds.squares(x).mean(0), x.var(0, ddof=1), rtol=1e-13)


# --- ensembles -------------------------------------------------------------------------------------------------------------


def test_ensembles_of_mse_are_unbiased() -> None:
    N, n = 8, 6
    e = compare.ensemble(draws(np.random.default_rng(1), N, n, 4000), sizes=[1, 2, 6])
    values = by_draw(e.variance, *e.of_size, e.infinite, e.extrapolated)
    errors = by_draw(e.variance_error, *e.of_size_error, e.infinite_error, e.extrapolated_error)
    V, bottom = S / N, error_of(N)
    truth = np.array([V, bottom + V / 2, bottom + V / 4, bottom + V / 12, bottom, bottom])
    assert (np.abs(off(values, truth)) < 4).all()
    assert covers(values[:, 1:4], errors[:, 1:4])
    assert covers(values[:, 4:], errors[:, 4:], 1.05)  # too large where the bias is small beside the variance
    jackknife = np.sqrt((n - 1) / (n - 2))  # which is so much too large for a variance of normal numbers
    assert covers(values[:, 0], errors[:, 0] / jackknife)
    # negative twins: errors with n for n - 1; the ensemble of all n taken for the infinite one; the variance without ddof = 1
    assert not covers(values[:, 1:4], errors[:, 1:4] * np.sqrt((n - 1) / n))
    assert (off(values[:, 3] - values[:, 4], 0.0) > 5).all()
    assert (off(values[:, 0] * (n - 1) / n, V) < -4).all()


def test_infinite_ensemble_is_the_ensemble_less_its_variance() -> None:
    """L_ens(inf) = L_ens(n) - V / 2n, to rounding, V summed over outputs; and ensembles of any size lie on that line."""
    rng = np.random.default_rng(2)
    y, f = rng.standard_normal((5, 3)), rng.standard_normal((7, 2, 5, 3))
    e = compare.ensemble(result(f), y, loss="mse")
    everyone = ((f.mean(0) - y) ** 2).sum(-1).mean(-1) / 2
    assert e.sizes == (1, 2, 4, 7)
    np.testing.assert_allclose(e.infinite, everyone - 3 * e.variance / 14, rtol=1e-12)
    np.testing.assert_allclose(e.of_size[-1], everyone, rtol=1e-12)
    np.testing.assert_allclose(e.of_size[1], e.infinite + (e.single - e.infinite) / 2, rtol=1e-12)
    np.testing.assert_allclose(e.variance, f.var(0, ddof=1).mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(e.single, (((f - y) ** 2).sum(-1).mean(-1) / 2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(e.extrapolated, e.infinite, rtol=1e-9)  # seven groups of one: all subsets, so the same
    assert not np.allclose(e.infinite, everyone - e.variance / 14)  # negative twin: variance of one output


def two_class(average: str, spread: float, E: float, margin: float) -> float:
    """Cross-entropy of two classes whose difference of outputs is N(margin, spread^2 / E), by Gauss-Hermite quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    if average == "probabilities":
        return float(-np.log(w @ (1 / (1 + np.exp(-margin - spread * x)))))
    return float(w @ np.logaddexp(0, -margin - spread / np.sqrt(E) * x))


@pytest.mark.parametrize("average", ["outputs", "probabilities"])
def test_ensembles_of_cross_entropy(average: str) -> None:
    """One point of two classes: the jackknife leaves 1 / n^2, a 30th of what it takes away; the extrapolation less."""
    n, spread, margin = 8, 1.2, 0.5

    def once(rng: np.random.Generator) -> list[list[float]]:
        f = rng.standard_normal((n, 1, 1, 2)) * spread / np.sqrt(2) + np.array([margin, 0.0])
        e = compare.ensemble(result(f), np.array([0]), loss="cross_entropy", average=average, sizes=[2, 8])
        values = [*e.of_size[:, 0], e.infinite[0], e.extrapolated[0]]
        return [values, [*e.of_size_error[:, 0], e.infinite_error[0], e.extrapolated_error[0]]]

    values, errors = np.moveaxis(many(once, 500, 3), 1, 0)
    infinite = two_class(average, spread if average == "probabilities" else 0.0, 1, margin)
    assert abs(off(values[:, 3], infinite)) < 4
    assert abs(off(values[:, 4], infinite)) < 4
    assert abs(off(values[:, 0], two_class("outputs", spread, 1, margin))) < 4
    if average == "outputs":
        for k, E in ((1, 2), (2, 8)):
            assert abs(off(values[:, k], two_class(average, spread, E, margin))) < 4
    assert covers(values, errors, 1.3)
    if average == "outputs":  # what is taken away by the extrapolation, whose noise is small
        step = infinite - two_class(average, spread, 8, margin)
        assert abs(off(values[:, 3] - values[:, 2], step)) < 4
        assert abs(off(values[:, 4] - values[:, 2], step)) < 4
    # negative twins: the ensemble of all eight; the other average
    assert off(values[:, 2] - values[:, 3], 0.0) > 5
    other = (
        two_class("outputs", 0.0, 1, margin) if average == "probabilities" else two_class("probabilities", spread, 1, margin)
    )
    assert abs(off(values[:, 3], other)) > 4


@pytest.mark.parametrize("replicas", [0, 5])
def test_bias_of_narrower_width(replicas: int) -> None:
    """From the theory, exact or with replicas, and from the widest width; nothing where there is none (negative twin)."""

    rng, num = np.random.default_rng(4), 2000
    noise = 0.2 * rng.standard_normal((replicas, num, 3, POINTS))
    theory = result((LIMIT + noise).reshape(replicas, -1, POINTS)) if replicas else result(np.tile(LIMIT, (num, 1)), exact=True)
    found = [
        compare.ensemble({N: draws(rng, N, 12, num, bias) for N in (8, 32)}, theory=limit)
        for limit, bias in ((theory, 1.0), (None, 1.0), (theory, 0.0))
    ]
    values, errors = by_draw(*(b.bias[0] for b in found)), by_draw(*(b.bias_error[0] for b in found))
    truth = [error_of(8) - error_of(np.inf), error_of(8) - error_of(32), np.zeros(3)]
    assert (np.abs(off(values, truth)) < 4).all()
    assert covers(values[:, :2], errors[:, :2])
    assert covers(values[:, 2], errors[:, 2], 1.15)  # too large where there is no bias
    assert (off(values[:, 2], truth[0])[1:] < -10).all()


def test_bias_of_the_solvable_network() -> None:
    """Two-layer linear, one sample: B = -Delta b / N to leading order, b in closed form (2304.03408); narrow learn slower."""
    eta, gamma0, y, N = 0.05, 1.0, 1.0, 32
    limit = two_layer_limit(eta, gamma0, y)
    ensembles = {N: two_layer(np.random.default_rng(5), N, 4000, eta, gamma0, y)}
    found = compare.ensemble(ensembles, np.array([y]), theory=limit)
    _, bias = closed_form(eta, gamma0, y)
    expected = -(y - limit.mean.f[:, 0]) * bias / N
    z = (found.bias[0] - expected)[[5, 10, 20]] / found.bias_error[0][[5, 10, 20]]
    assert (np.abs(z) < 3.5).all()  # the next order is about 1 / N of it
    assert found.bias[0, 10] > 5 * found.bias_error[0, 10]
    wrong = (found.bias[0] + expected)[[5, 10, 20]] / found.bias_error[0][[5, 10, 20]]  # negative twin: wider slower
    assert (np.abs(wrong) > 4).all()


def test_equal_compute() -> None:
    """With variance alone, equal numbers of neurons are as good; with the bias, the wide network is better."""

    def once(rng: np.random.Generator) -> list[list[float]]:
        out = []
        for bias in (0.0, 1.0):
            found = compare.equal_compute({N: nets(rng, N, 16, bias) for N in (8, 32)}, by="neurons")
            assert found.sizes == (4,)
            out.append([found.differences[0], found.difference_errors[0]])
        return out

    found = many(once, 600, 6)
    truth = [0.0, (error_of(8) - error_of(32))[-1]]
    assert (np.abs(off(found[:, :, 0], truth)) < 4).all()
    assert covers(found[:, :, 0], found[:, :, 1])
    assert off(found[:, 1, 0], 0.0) > 10  # negative twin
    rng = np.random.default_rng(7)
    widths = {N: nets(rng, N, 4) for N in (8, 32)}
    for N, net in widths.items():
        net.stats["parameters"] = N**2
    found = compare.equal_compute(widths, step=1)
    assert (found.sizes, found.step) == ((16,), 1)  # more than there are: by the formula
    assert "one network of width 32" in str(found)
    with pytest.raises(ValueError, match="step 7 was not recorded"):
        compare.equal_compute(widths, step=7)
    widths[8].stats.clear()
    with pytest.raises(ValueError, match="by='neurons'"):
        compare.equal_compute(widths)


# --- targets ---------------------------------------------------------------------------------------------------------------


def test_targets_are_those_of_the_problem() -> None:
    rng = np.random.default_rng(8)
    task = Task(np.eye(5)[:3], [1.0, 2.0, 3.0], np.eye(5)[3:], [4.0, 5.0])
    problem = Problem(MLP(1, "linear"), Parameterization(), task, GradientDescent(0.1, 2))
    net = result(np.broadcast_to(np.arange(1.0, 6.0), (3, 2, 5)) + np.array([0, 0, 0, 1, 1.0]), problem)
    for points, loss in (("train", 0.0), ("test", 0.5), ("all", 0.2), (None, 0.5)):
        assert compare.ensemble(net, points=points).single[0] == pytest.approx(loss)
    stream = data.digits()
    problem = Problem(MLP(1), Parameterization(), stream, GradientDescent(0.1, 2, "cross_entropy", batch_size=4))
    f = rng.standard_normal((3, 2, 6, 10))
    labels = stream.probe(6)[1]
    own, given, hot = (compare.ensemble(result(f, problem), y).single for y in (None, labels, np.eye(10)[labels]))
    logp = f - np.log(np.exp(f).sum(-1, keepdims=True))
    np.testing.assert_allclose(own, -logp[:, :, np.arange(6), labels].mean((0, 2)), rtol=1e-12)
    assert (own == given).all()
    assert (own == hot).all()
    mine = compare.ensemble(result(f, problem), loss=lambda f, y: ((f - y) ** 2).sum() / 2).infinite  # in float32
    np.testing.assert_allclose(mine, compare.ensemble(result(f, problem), loss="mse").infinite, rtol=1e-5)
    wrong = compare.ensemble(result(f, problem), (labels + 1) % 10).single  # negative twin
    assert (np.abs(wrong - own) > 1e-3).all()


def test_what_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(9)
    good = nets(rng, 8, 4)
    tokens = Problem(MLP(1), Parameterization(), data.digits(), GradientDescent(0.1, 2, "cross_entropy", batch_size=4))
    diverged = result(np.where(np.arange(4)[:, None, None] == 1, np.nan, good.samples.f))
    for arguments, settings, says in (
        ((nets(rng, 8, 2),), {}, "at least 3 networks"),
        ((diverged,), {}, "1 of 4 networks diverged"),
        (({8: good},), {}, "two widths or more|2 widths or more"),
        ((good,), {"theory": good}, "pass {width: Result}"),
        ((good, np.zeros(5)), {}, r"targets of 4 points and 1 outputs have shape \(4, 1\)"),
        ((good,), {"sizes": [5]}, "ensembles of 5 cannot be made of 4"),
        ((good,), {"average": "probabilities"}, "has no probabilities"),
        ((good,), {"average": "votes"}, "average must be one of"),
        ((good,), {"points": "test"}, "has no test points"),
        ((result(rng.standard_normal((4, 3, 6))),), {}, "outputs are at 6 points"),
        ((result(rng.standard_normal((4, 3, 6, 10)), tokens), np.arange(6) + 7), {}, "classes must lie in 0 ... 9"),
        (({8: good, 16: result(LIMIT, exact=True)},), {}, "got an exact result for width 16"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.ensemble(*arguments, **settings)


# --- distances to the widest -----------------------------------------------------------------------------------------------


def test_distances_to_the_widest() -> None:
    """Squared distances, their covariance (they share the widest networks), and S and b^2 of the fit."""
    widths, n = (8, 16, 32, 64), 12

    rng = np.random.default_rng(10)
    found = compare.to_widest({N: draws(rng, N, n, 1000) for N in widths})
    error = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2).T)
    values, errors = by_draw(*found.squared, found.S, found.b2), by_draw(*error, found.S_error, found.b2_error)
    rest = by_draw(*found.covariance[:, 0, :].T, found.p_value)
    N, b2 = np.array(widths[:3])[:, None], (BIAS**2).mean(-1)
    truth = np.array([*(S * (1 / N + 1 / 64) + b2 * (1 / N - 1 / 64) ** 2), S, b2])
    z = off(values, truth)
    assert (np.abs(z[:3]) < 4).all()
    # weights come from the same networks, which moves fits by a share of their errors
    assert (np.abs(values.mean(0) - truth)[3:] < 0.3 * values.std(0)[3:]).all()
    assert covers(values[:, :3], errors[:, :3])
    assert covers(values[:, 3:], errors[:, 3:], 1.0, 0.9)
    assert not covers(values[:, :3], errors[:, :3] * 0.85)  # negative twin
    shared = np.array([np.cov(values[:, 0, t], values[:, 2, t])[0, 1] for t in range(3)])
    size = np.sqrt(values[:, 0].var(0) * values[:, 2].var(0))
    assert (np.abs(rest[:, 2].mean(0) - shared) < 4 * size / np.sqrt(1000)).all()
    assert np.sum(shared / size) > 4 * np.sqrt(3 / 1000)  # negative twin: independent distances
    assert (np.mean(rest[:, 3] < 0.05, axis=0) < 0.11).all()  # the chi^2 of the fit, with errors of twelve networks
    # negative twin: without the reference's own variance
    assert (off(values[:, 2], S / 32 + b2 * (1 / 32 - 1 / 64) ** 2) > 5).all()


def test_slopes_of_the_distance() -> None:
    rng = np.random.default_rng(11)
    widths = (8, 16, 32, 64, 512)
    variance = compare.to_widest({N: nets(rng, N, 64, bias=0) for N in widths})
    assert (np.abs(variance.slope + 0.5) < 3.5 * variance.slope_error).all()
    assert (variance.slope_error < 0.05).all()
    close = compare.to_widest({N: nets(rng, N, 400, bias=0) for N in (16, 32, 64, 128)})  # the widest varies, too
    assert (np.abs(close.slope + 0.5) < 3.5 * close.slope_error).all()
    assert (close.slope_error < 0.025).all()  # left in, its share would make the slope -0.4
    bias = compare.to_widest({N: nets(rng, N, 64, bias=40, variance=0.01) for N in (8, 16, 32, 4096)})
    assert (np.abs(bias.slope + 1) < 0.03).all()  # N / M = 1 / 128 of the widest at most
    assert (np.abs(variance.slope + 1) > 10 * variance.slope_error).all()  # negative twin
    mixed = compare.to_widest({N: nets(rng, N, 400, bias=3) for N in widths})
    b2 = 9 * (BIAS**2).mean(-1)
    assert (np.abs(mixed.crossover - b2 / S)[1:] < 4 * mixed.crossover_error[1:]).all()
    # another law, S / N^1/2, is rejected
    wrong = {N: result(LIMIT + rng.standard_normal((400, 3, POINTS)) / N**0.25) for N in widths}
    assert (compare.to_widest(wrong).p_value < 1e-3).all()
    assert (mixed.p_value > 1e-3).all()


def test_kinds_of_output() -> None:
    rng = np.random.default_rng(12)
    y = np.array([0, 2, 1, 1])
    f = {N: rng.standard_normal((3, 2, 4, 3)) for N in (8, 16)}
    shifted = {N: x + rng.standard_normal((3, 2, 4, 1)) for N, x in f.items()}

    def squared(outputs: dict[int, np.ndarray], kind: str) -> np.ndarray:
        return compare.to_widest({N: result(x) for N, x in outputs.items()}, kind, y).squared[0]

    for kind, alike in (("centred", True), ("correct", True), ("softmax", True), ("raw", False)):
        assert np.allclose(squared(f, kind), squared(shifted, kind)) == alike
    centred = {N: x - x.mean(-1, keepdims=True) for N, x in f.items()}
    pairs = centred[8][:, None] - centred[16][None]
    np.testing.assert_allclose(squared(f, "centred"), (pairs**2).mean((0, 1, 3, 4)), rtol=1e-12)
    at = pairs[..., np.arange(4), y]
    np.testing.assert_allclose(squared(f, "correct"), (at**2).mean((0, 1, 3)), rtol=1e-12)
    one = {N: nets(rng, N, 3) for N in (8, 16)}
    with pytest.raises(ValueError, match="take output='raw'"):
        compare.to_widest(one, "softmax")
    with pytest.raises(ValueError, match="output must be one of"):
        compare.to_widest(one, "logits")
    assert np.isnan(compare.to_widest(one).S).all()  # one narrower width does not tell S from b
    start = {N: result(np.zeros((3, 2, 4))) for N in (8, 16, 32)}
    assert np.isnan(compare.to_widest(start).slope).all()  # centred networks at their start


# --- the onset of variance -------------------------------------------------------------------------------------------------


def at_samples(rng: np.random.Generator, P: float, n: int, onset: float = 100.0) -> Result:
    """Networks with E_g(ensemble) = 1/2 and variance P / onset: R = 1 / (1 + P / onset), antisymmetric in log P."""
    task = Task(np.eye(40)[:1], [0.0], np.eye(40)[1:], np.ones(39))
    f = np.sqrt(P / onset) * rng.standard_normal((n, 2, 40))
    return result(f, Problem(MLP(1, "linear"), Parameterization(), task, GradientDescent(0.1, 1)))


@pytest.mark.parametrize("sets", [1, 4])
def test_onset_of_variance(sets: int) -> None:
    def once(rng: np.random.Generator) -> list[list[float]]:
        found = compare.onset({P: [at_samples(rng, P, 24 // sets) for _ in range(sets)] for P in (10, 50, 200, 900)})
        assert found.half is not None
        return [[*found.ratio, found.half], [*found.error, found.half_error]]

    values, errors = np.moveaxis(many(once, 300, 13), 1, 0)
    truth = np.array([1 / (1 + P / 100) for P in (10, 50, 200, 900)])
    bias = 0.3 * values.std(0)  # of a ratio: a share of its error
    assert (np.abs(values.mean(0)[:4] - truth) < np.maximum(bias[:4], 4 * values.std(0)[:4] / np.sqrt(300))).all()
    assert abs(values[:, 4].mean() - 100) < max(bias[4], 4 * values[:, 4].std() / np.sqrt(300))
    assert covers(values, errors, 1.07, 0.93)  # of a ratio, to first order
    assert not covers(values, errors * 1.3, 1.07, 0.93)  # negative twin
    assert abs(off(values[:, 4], 120.0)) > 5  # negative twin: an onset elsewhere


def test_onset_is_none_where_it_is_not_between() -> None:
    rng = np.random.default_rng(14)
    for P in ((10, 40), (300, 900)):
        found = compare.onset({p: at_samples(rng, p, 16) for p in P})
        assert (found.half, found.half_error, found.bracketed) == (None, None, False)
        assert "at no P" in str(found)
    # a line in log P from 0.9 +- 0.04 to 0.4 +- 0.02 meets 1/2 at four fifths, with a fifth and four fifths of their errors
    half, error, bracketed = crossing(np.log([10.0, 100.0]), np.array([0.9, 0.4]), np.array([0.04, 0.02]))
    assert half == pytest.approx(10**1.8)
    assert error == pytest.approx(10**1.8 * np.log(10) / 0.5 * np.hypot(0.2 * 0.04, 0.8 * 0.02))
    assert bracketed
    near = compare.onset({p: at_samples(rng, p, 3, 100) for p in (97, 104)})
    assert not near.bracketed
    with pytest.raises(ValueError, match="two numbers or more"):
        compare.onset({10: at_samples(rng, 10, 4)})


# --- extrapolation ---------------------------------------------------------------------------------------------------------


def curved(rng: np.random.Generator, N: int, n: int, second: float) -> Result:
    """x0 + x1 / N + second / N^2 with fluctuations of two modes only: entries are far from independent."""
    modes = np.random.default_rng(0).standard_normal((2, 3, POINTS))
    noise = np.tensordot(rng.standard_normal((n, 2)), modes, 1) / np.sqrt(N)
    return result(LIMIT + BIAS / N + second / N**2 + noise)


def test_weights_of_every_order() -> None:
    for order in (0, 1, 2, 3):
        weights = intercept_weights({8: 5, 16: 7, 32: 4, 64: 2}, order)
        for power in range(order + 1):
            assert sum(w * N**-power for N, w in weights.items()) == pytest.approx(float(power == 0), abs=1e-10)
    w = intercept_weights({8: 5, 16: 7, 32: 4}, 0)
    assert w[16] / w[8] == pytest.approx(2 * 7 / 5)


def test_extrapolation_is_unbiased_to_its_order() -> None:
    widths, second = (8, 16, 32, 64), 30.0

    def once(rng: np.random.Generator) -> list[np.ndarray]:
        straight, bent = (
            compare.richardson({N: curved(rng, N, 16, c) for N in widths}, num_resamples=99) for c in (0.0, second)
        )
        assert straight.quadratic is not None
        assert bent.quadratic is not None
        values = [straight.linear.mean.f, bent.quadratic.mean.f, bent.linear.mean.f]
        errors = [straight.linear.sem.f, bent.quadratic.sem.f, bent.linear.sem.f]
        numbers = np.zeros((2, 3, POINTS))
        numbers[0, 0] = straight["f"].p_value, bent["f"].p_value, bent["f"].quadratic_p_value, bent["f"].truncation
        numbers[1, 0] = straight["f"].chi2, bent["f"].chi2, straight["f"].truncation, straight["f"].truncation_error
        return [*values, *errors, *numbers]

    found = many(once, 200, 15)
    values, errors, p, chi2 = found[:, :3], found[:, 3:6], found[:, 6, 0], found[:, 7, 0]
    assert (np.abs(off(values[:, :2], LIMIT)) < 4.5).all()
    assert covers(values, errors)
    assert (np.abs(off(values[:, 2], LIMIT)) > 5).all()  # negative twin: the linear law where it does not hold
    w = intercept_weights(dict.fromkeys(widths, 16))
    cut = abs(sum(x * second / N**2 for N, x in w.items()))
    assert p[:, 3].mean() == pytest.approx(cut, rel=0.25)
    assert (p[:, 1] < 0.05).mean() > 0.75
    for level in (0.05, 0.3):  # p-values of laws that hold, of entries that go together
        for holds in (p[:, 0], p[:, 2]):
            assert abs((holds < level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 200) + 0.02
    assert chi2[:, 0].mean() == pytest.approx(1, abs=0.25)
    assert np.median(chi2[:, 2]) < np.median(chi2[:, 3])


def test_extrapolation_says_what_it_does_not_know() -> None:
    rng = np.random.default_rng(16)
    two = compare.richardson({N: curved(rng, N, 8, 0) for N in (16, 8)})
    assert two.widths == (8, 16)
    assert two.quadratic is None
    assert (two["f"].truncation, two["f"].p_value) == (None, None)
    assert "unknown" in str(two)
    with pytest.raises(ValueError, match="order 2 in 1/N needs 3 widths"):
        compare.extrapolate({N: curved(rng, N, 8, 0) for N in (8, 16)}, order=2)
    with pytest.raises(ValueError, match="width 8 has a single seed"):
        compare.richardson({8: curved(rng, 8, 1, 0), 16: curved(rng, 16, 8, 0)})
    with pytest.raises(KeyError, match="g"):
        two["g"]


# --- variance and bias against the 1/N theory ------------------------------------------------------------------------------


def predicted(bias: float = 1.0, variance: float = 1.0) -> Fluctuations:
    """N Var f and N bias f of `nets`, exactly."""
    limit, N_var, N_bias = (result(f, exact=True) for f in (LIMIT, variance * np.tile(S[:, None], (1, POINTS)), bias * BIAS))
    return Fluctuations(limit, N_var, N_bias, {})


def test_deviations_of_known_networks() -> None:
    """Variance S / N and bias BIAS / N: p-values as often as stated; 1.3 times the one or the other is seen."""

    def once(rng: np.random.Generator) -> list[float]:
        widths = {N: nets(rng, N, 256, bias=40) for N in (8, 16, 32)}
        found = compare.deviations(predicted(bias=40), widths)
        assert [s.name for s in found.statistics] == ["N Var f early", "N Var f late", "N bias f early", "N bias f late"]
        others = [compare.deviations(predicted(40 * b, v), widths).p_value for b, v in ((1.3, 1.0), (1.0, 1.3))]
        return [*(s.p_value for s in found.statistics), *others]

    found = many(once, 200, 26)
    assert as_often_as_stated(found[:, :4].ravel(), 0.3)  # squares of normal numbers are not normal
    assert (found[:, 4] < 0.01).mean() > 0.95
    assert (found[:, 5] < 0.01).mean() > 0.5


# --- regimes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, "known", "fit"])
def test_regimes(limit: str | None) -> None:
    """1/N until step 10, N^-1/2 after it; around nothing, around a limit with an error, and around an unknown one."""
    steps, widths = np.arange(0, 41, 4), np.array([8, 16, 32, 64, 128, 256, 512, 1024])
    c = np.where(steps <= 10, 1.0, 0.5)
    offset, error = (0.0 if limit is None else 0.7), 2e-3

    def once(rng: np.random.Generator) -> list[list[float]]:
        values = {
            int(N): (offset + N**-c + error * rng.standard_normal(len(steps)), np.full(len(steps), error)) for N in widths
        }
        known = (offset + error * rng.standard_normal(len(steps)), np.full(len(steps), error)) if limit == "known" else limit
        found = compare.regimes(steps, values, known, early=0.2, late=0.5)
        return [[found.early.c, found.late.c], [found.early.error, found.late.error]]

    values, errors = np.moveaxis(many(once, 20, 17), 1, 0)
    middle = values[:, :2].mean(0)
    assert (np.abs(middle - [1.0, 0.5]) < 0.05).all()
    assert (np.abs(middle - [0.5, 1.0]) > 5 * errors[:, :2].mean(0)).all()  # negative twin: the regimes exchanged


def test_regimes_depart_and_are_not_resolved() -> None:
    steps, widths, rng = np.arange(11), (16, 32, 64, 128), np.random.default_rng(18)
    error = np.full(11, 1e-4)
    values = {N: (np.where(steps < 6, N**-1.0, N**-0.6), error) for N in widths}
    found = compare.regimes(steps, values)
    assert found.departs == 6
    assert compare.regimes(steps, {N: (np.full(11, N**-1.0), error) for N in widths}).departs is None
    noise = compare.regimes(steps, {N: (1e-5 * rng.standard_normal(11), error) for N in widths})
    assert np.isnan(noise.c).all()
    assert "not resolved" in str(noise)
    bent = compare.regimes(steps, {N: (np.full(11, 1 / N + 20 / N**2), error) for N in widths})
    assert (bent.p_value < 1e-3).all()  # no power law
    for arguments, settings, says in (
        ((steps, {16: values[16]}), {}, "of 2 widths"),
        ((steps, {N: values[N] for N in (16, 32)}, "fit"), {}, "of 3 widths"),
        ((steps, values, "free"), {}, "limit must be one of"),
        ((steps, values), {"early": 1.5}, "early is a fraction"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.regimes(*arguments, **settings)


# --- distributions ---------------------------------------------------------------------------------------------------------


def test_distance_of_distributions_is_known() -> None:
    """W1 of normal numbers: the shift of the mean; |s - 1| sqrt(2 / pi) of the width s. The noise of 4000 numbers is 0.02."""
    rng = np.random.default_rng(19)
    a = rng.standard_normal((4000, 1, 2))
    for b, truth in (
        (rng.standard_normal((4000, 1, 2)) + np.array([0.3, 0.5]), 0.4),
        (1.5 * rng.standard_normal((4000, 1, 2)), 0.5 * np.sqrt(2 / np.pi)),
    ):
        found = compare.wasserstein(a, b)
        assert abs(found.value - truth) < 4 * found.error
        assert found.error < 0.03
        assert found.p_value < 0.01
        assert abs(found.value - 0.8 * truth) > 4 * found.error  # negative twin
    from scipy.stats import wasserstein_distance

    x, y = rng.standard_normal(17), rng.standard_normal(23)
    assert compare.wasserstein(x, y).value == pytest.approx(wasserstein_distance(x, y), rel=1e-12)


def test_noise_of_distributions_is_known() -> None:
    """Networks of two widths, alike but for sampling: values are those of noise, and false alarms as rare as stated.

    Neurons of a network share a shift; taken for independent (negative twin), they are found different where they are not.
    """

    def once(rng: np.random.Generator) -> list[list[float]]:
        a, b = (rng.standard_normal((12, N, 1)) + rng.standard_normal((12, 1, 1)) for N in (20, 40))
        alike = compare.wasserstein(a, b, num_resamples=100)
        twin = compare.wasserstein(a.reshape(-1, 1, 1), b.reshape(-1, 1, 1), num_resamples=100)
        return [[x.value, x.null, x.p_value] for x in (alike, twin)]

    value, null, p = np.moveaxis(many(once, 60, 20), 2, 0)
    assert value[:, 0].mean() == pytest.approx(null[:, 0].mean(), rel=0.15)
    assert (p[:, 0] < 0.05).mean() < 0.15
    assert (p[:, 1] < 0.05).mean() > 0.4
    assert value[:, 1].mean() > 1.5 * null[:, 1].mean()


def test_preactivations_of_results() -> None:
    rng = np.random.default_rng(21)

    def fields(N: int, scale: float, name: str = "h") -> Result:
        shape = (8, 1, 2, POINTS, N) if name == "h" else (8, 1, POINTS, 3, N)  # layers; or sites
        h = scale * rng.standard_normal(shape)
        return result(np.zeros((8, 3, POINTS)), **{name: h})

    a, same, other = fields(40, 1.0), fields(80, 1.0), fields(80, 1.3)
    assert compare.preactivations(a, same, 1)[0].p_value > 0.01
    for units in ("networks", "neurons"):
        (found,) = compare.preactivations(a, other, layer=2, units=units)
        assert abs(found.value - 0.3 * np.sqrt(2 / np.pi)) < 4 * found.error + found.null**2 / found.value
        assert found.p_value < 0.02
        assert found.name == "W1 step 0"
    (found,) = compare.preactivations(fields(20, 1.0, "h/h1"), fields(20, 1.3, "h/h1"), "h1")
    assert found.resolved > 0.1
    with pytest.raises(ValueError, match="pass save="):
        compare.preactivations(a, other, "h1")
    with pytest.raises(ValueError, match=r"layer must be 1 \.\.\. 2"):
        compare.preactivations(a, other, 3)
    with pytest.raises(ValueError, match="two units"):
        compare.wasserstein(np.zeros(1), np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        compare.wasserstein(np.array([0, np.nan]), np.zeros(3))


def test_hsic_is_the_sum_over_different_points() -> None:
    """Unbiased HSIC by its definition: means over tuples of different points, K_ij L_ij - 2 K_ij L_ik + K_ij L_kl."""
    rng = np.random.default_rng(22)
    K, L = (x @ x.T for x in rng.standard_normal((2, 6, 3)))

    def mean(function: Callable[..., float], n: int) -> float:
        return float(np.mean([function(*at) for at in permutations(range(6), n)]))

    brute = mean(lambda i, j: K[i, j] * L[i, j], 2) + mean(lambda i, j, k, l: K[i, j] * L[k, l], 4)
    brute -= 2 * mean(lambda i, j, k: K[i, j] * L[i, k], 3)
    assert compare.hsic(K, L) == pytest.approx(brute, rel=1e-10)
    assert compare.hsic(K, L + 1) == pytest.approx(brute, rel=1e-10)  # whatever constant


def test_debiased_cka() -> None:
    """Independent features: zero on average, with fewer points than features; plain CKA is far from it (negative twin)."""

    def plain(K: np.ndarray, L: np.ndarray) -> float:
        H = np.eye(len(K)) - 1 / len(K)
        K, L = H @ K @ H, H @ L @ H
        return float(np.sum(K * L) / np.linalg.norm(K) / np.linalg.norm(L))

    def once(rng: np.random.Generator) -> list[float]:
        K, L = (x @ x.T for x in rng.standard_normal((2, 12, 40)))
        cka = compare.kernel_similarity(K, L)
        return [compare.hsic(K, L), cka.value, cka.error, plain(K, L)]

    found = many(once, 200, 23)
    assert abs(off(found[:, 0], 0.0)) < 4
    assert abs(off(found[:, 1], 0.0)) < 4
    assert found[:, 3].mean() > 0.4

    def shared(rng: np.random.Generator) -> list[float]:
        """Features x and (x, x') of as many dimensions: CKA = 1 / sqrt(2) of the population (linear kernels)."""
        x, more = rng.standard_normal((2, 60, 4))
        K, L = x @ x.T, x @ x.T + more @ more.T
        cka = compare.kernel_similarity(K, L)
        return [cka.value, cka.error]

    value, error = many(shared, 150, 24).T
    assert abs(value.mean() - 0.5**0.5) < 0.3 * value.std() + 4 * value.std() / np.sqrt(150)
    assert covers(value, error, 1.3)
    assert compare.kernel_similarity(np.diag([1.0, 0, 1]), np.eye(3), "alignment").value == pytest.approx((2 / 3) ** 0.5)
    with pytest.raises(ValueError, match="5 points or more"):
        compare.kernel_similarity(np.eye(4), np.eye(4))
    with pytest.raises(ValueError, match="vary over points"):
        compare.kernel_similarity(np.eye(6), np.ones((6, 6)))


def test_distance_of_attention() -> None:
    rng = np.random.default_rng(25)

    def maps(n: int, first: float) -> np.ndarray:
        """Rows of three sites: `first` on the first, the rest at random between the others; two heads, four rows."""
        share = rng.uniform(size=(n, 5, 2, 4)) * (1 - first)
        return np.stack([np.full_like(share, first), share, 1 - first - share], axis=-1)

    a, b = maps(200, 0.2), maps(100, 0.5)
    found = compare.attention_distance(a[..., :3, :], b[..., :3, :])
    assert abs(found.value - 0.3) < 4 * found.error + 0.01  # 0.3 moves, half of it from either other site
    rms = compare.attention_distance(a, b, kind="rms")
    assert rms.value == pytest.approx(np.sqrt((0.3**2 + 2 * 0.15**2) / 3), abs=4 * rms.error + 0.01)
    assert found.p_value < 0.01
    assert found.resolved > 0.25

    def same(rng_: np.random.Generator) -> list[float]:
        nonlocal rng
        rng = rng_
        d = compare.attention_distance(maps(6, 0.2), maps(12, 0.2), num_resamples=100)
        return [d.value, d.null, d.p_value]

    value, null, p = many(same, 60, 26).T
    assert value.mean() == pytest.approx(null.mean(), rel=0.15)
    assert (p < 0.05).mean() < 0.17
    swapped = a[:, :, ::-1] * np.array([1.0, 1, 1])
    swapped[:, :, 0, :, 0] += 0.1
    swapped[:, :, 0, :, 1:] *= 0.7 / 0.8
    whole = compare.attention_distance(a, swapped).value  # one head of two: half as far in the mean
    assert compare.attention_distance(a, swapped, match_heads=True).value == pytest.approx(whole, rel=0.3)
    with pytest.raises(ValueError, match="rows of sum 1"):
        compare.attention_distance(2 * a, b)
    with pytest.raises(ValueError, match="same points"):
        compare.attention_distance(a, b[:, :2])


# --- what is shown ---------------------------------------------------------------------------------------------------------


def test_tables_and_figures() -> None:
    rng = np.random.default_rng(27)
    widths = {N: nets(rng, N, 8) for N in (8, 16, 32)}
    one, all_of = compare.ensemble(widths[8]), compare.ensemble(widths)
    assert str(one).splitlines()[0] == "8 networks, mse"
    assert "bias of narrower width from width 32" in str(all_of)
    assert all_of.widths == [8, 16]
    assert all_of[16].num_seeds == 8
    assert "from theory" in str(compare.ensemble(widths, theory=result(LIMIT, exact=True)))
    distance, grown = compare.to_widest(widths), compare.richardson(widths)
    assert "exponents: -1/2 expected" in str(distance)
    assert "p linear" in str(grown)
    half = compare.onset({P: at_samples(rng, P, 8) for P in (20, 500)})
    assert "half of the error at P" in str(half)
    values = {N: (e.variance, e.variance_error) for N, e in all_of.of_width.items()}
    found = compare.regimes(STEPS, values)
    assert "early, steps 0" in str(found)
    assert "noise alone" in str(compare.wasserstein(np.arange(3.0), np.arange(4.0)))
    assert "cka" in str(
        compare.kernel_similarity(np.eye(6) + np.outer(np.arange(6), np.arange(6)), np.outer(np.arange(6), np.arange(6)))
    )
    for shown in (one, all_of, distance, grown, half, found):
        figure = shown.plot()
        figure.canvas.draw()
        plt.close(figure)
