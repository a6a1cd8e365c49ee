"""The verdict, judged on data whose truth is known: error bars cover, false alarms are as rare as stated, twins are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, stdtrit
from scipy.stats import binom

import compare
import dmft
import dmft.two_layer
from compare.significance import coefficient_weights, intercept_weights, parts_of
from widthwise import MLP, Estimate, GradientDescent, Parameterization, Problem, Result, Status, Task, Trajectory, tasks

some = settings(deadline=None, derandomize=True, max_examples=30)
few = settings(deadline=None, derandomize=True, max_examples=8)

NOTHING = Problem(MLP(1, "linear"), Parameterization(centered=False), Task([[1.0]], [1.0]), GradientDescent(0.1, 1))
"""Of Results made by hand; `compare` looks at trajectories alone."""


def made(trajectory: Trajectory, exact: bool = False) -> Result:
    """A Result of runs (leading axis), or an exact one."""
    estimate = Estimate.exact(trajectory) if exact else Estimate.of(trajectory)
    return Result(NOTHING, estimate, Status(True, "made by hand"), {}, {})


def outputs(f: np.ndarray, exact: bool = False) -> Result:
    """A Result of outputs f (..., T+1, M), without kernels."""
    return made(Trajectory(np.arange(f.shape[-2]), f, f[..., 0] * 0, None, np.arange(0)), exact)


def simulated(check: Callable[[np.random.Generator], Any], num: int, seed: int) -> np.ndarray:
    """What `check` says of `num` independent data sets."""
    return np.array([check(np.random.default_rng((seed, i))) for i in range(num)])


# --- the exactly solvable model: two-layer linear, one sample, not centred (2304.03408) ----------------------------------
#
#   f' = f + eta K D + eta^2 gamma0^2 f D^2,   K' = K + 4 eta gamma0^2 f D + eta^2 gamma0^2 K D^2,   D = y - f
#   f(0) = w.h / (gamma0 N),   K(0) = (|w|^2 + |h|^2) / N:   with a, b = (w +- h) / sqrt 2, two chi-square numbers

STEPS = 20


def recursion(f: Any, K: Any, eta: float, gamma0: float, y: float, num_steps: int = STEPS) -> np.ndarray:
    """f at the states 0 ... num_steps: (..., T+1, 1)."""
    out = [f]
    for _ in range(num_steps):
        D = y - f
        f, K = f + eta * K * D + (eta * gamma0 * D) ** 2 * f, K + 4 * eta * gamma0**2 * f * D + (eta * gamma0 * D) ** 2 * K
        out.append(f)
    return np.stack(out, axis=-1)[..., None]


def two_layer(rng: np.random.Generator, N: float, num_seeds: int, eta: float, gamma0: float, y: float) -> Result:
    """Networks of width N, exactly."""
    a, b = rng.chisquare(N, (2, num_seeds))
    return outputs(recursion((a - b) / (2 * gamma0 * N), (a + b) / N, eta, gamma0, y))


def two_layer_limit(eta: float, gamma0: float, y: float) -> Result:
    return outputs(recursion(np.array(0.0), np.array(2.0), eta, gamma0, y), exact=True)


def closed_form(eta: float, gamma0: float, y: float, num_steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """N Var f and N bias of f at every state, to leading order in 1/N, from derivatives of the map (f(0), K(0)) -> f(t).

    Central differences with step d: error of order d^2 = 1e-6 against values of order one.
    """
    d = 1e-3
    F = {
        (i, j): recursion(np.array(i * d), np.array(2 + j * d), eta, gamma0, y, num_steps)[:, 0]
        for i, j in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    }
    F_f, F_K = (F[1, 0] - F[-1, 0]) / (2 * d), (F[0, 1] - F[0, -1]) / (2 * d)
    F_ff, F_KK = (F[1, 0] - 2 * F[0, 0] + F[-1, 0]) / d**2, (F[0, 1] - 2 * F[0, 0] + F[0, -1]) / d**2
    return F_f**2 / gamma0**2 + 4 * F_K**2, F_ff / (2 * gamma0**2) + 2 * F_KK


def test_closed_form_is_that_of_the_theory() -> None:
    variance, bias = closed_form(0.05, 1.0, 1.0, 40)
    at = [0, 5, 10, 20, 40]
    np.testing.assert_allclose(variance[at], [1, 0.511, 0.293, 0.046, 0.000], atol=6e-4)  # the table has three digits
    np.testing.assert_allclose(bias[at], [0, -0.189, -0.396, -0.318, -0.042], atol=6e-4)


parameters = st.tuples(st.floats(0.03, 0.12), st.floats(0.4, 1.5), st.sampled_from([-1, 1]), st.floats(0.4, 1.5))


@few
@given(parameters, st.integers(0, 2**32))
def test_exponents_of_variance_and_bias(drawn: tuple[float, float, int, float], seed: int) -> None:
    """Variance like 1/N, bias like 1/N. From width 32 on the next order, c/N, moves the exponents by less than their errors.

    Four errors: the cases are searched, and one in 400 lies beyond three.
    """
    (eta, gamma0, sign, size), rng = drawn, np.random.default_rng(seed)
    y, widths = sign * size, (32, 64, 128, 256)
    nets = {N: two_layer(rng, N, 6000, eta, gamma0, y) for N in widths}
    scaling = compare.width_scaling(nets, two_layer_limit(eta, gamma0, y), num_resamples=100)
    variance, bias2 = scaling.variance_fit, scaling.bias2_fit
    assert variance is not None
    assert abs(variance.exponent + 1) < 4 * variance.error
    assert variance.error < 0.02
    assume(bias2 is not None and bias2.num_points >= 3)
    assert abs(bias2.exponent / 2 + 1) < 4 * bias2.error / 2
    assert bias2.error < 0.7


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_other_exponents_are_rejected(power: float) -> None:
    """Negative twin: networks whose fluctuations and bias fall like another power of what is called their width."""
    rng = np.random.default_rng(1)
    nets = {N: two_layer(rng, 16 * (N / 16) ** power, 4000, 0.05, 1.0, 1.0) for N in (16, 32, 64, 128)}
    scaling = compare.width_scaling(nets, two_layer_limit(0.05, 1.0, 1.0), num_resamples=100)
    assert scaling.variance_fit is not None
    assert abs(scaling.variance_fit.exponent + 1) > 20 * scaling.variance_fit.error
    assert abs(scaling.variance_fit.exponent + power) < 4 * scaling.variance_fit.error + 0.02  # + the next order of 1/N
    assert scaling.bias2_fit is not None
    assert abs(scaling.bias2_fit.exponent + 2) > 3 * scaling.bias2_fit.error
    assert abs(scaling.bias2_fit.exponent + 2 * power) < 3 * scaling.bias2_fit.error


def test_variance_and_bias_are_those_of_the_closed_form() -> None:
    """At width 256 the next order is about 1 %: below the errors, which are 1 % of the variance and 10 % of bias^2."""
    eta, gamma0, y, rng = 0.05, 1.0, 1.0, np.random.default_rng(2)
    nets = {N: two_layer(rng, N, 20000, eta, gamma0, y) for N in (128, 256)}
    scaling = compare.width_scaling(nets, two_layer_limit(eta, gamma0, y), num_resamples=50)
    assert scaling.bias2 is not None
    assert scaling.bias2_error is not None
    for i, N in enumerate((128, 256)):
        for g, agree in ((gamma0, True), (0.8 * gamma0, False)):  # negative twin: gamma0 off by 20 %
            variance, bias = closed_form(eta, g, y)
            z = (N * scaling.variance[i] - variance.mean()) / (N * scaling.variance_error[i])
            assert (abs(z) < 3) == agree
            z = (N**2 * scaling.bias2[i] - (bias**2).mean()) / (N**2 * scaling.bias2_error[i])
            assert abs(z) < 3 or not agree


def test_exponent_from_few_and_unequal_seeds() -> None:
    """64 networks of the narrowest, 4 of the widest: the exponent is unbiased, its error what it scatters by, or little less.

    Of 1000 repetitions the mean of z is known to 0.03 and its variance to 0.05. Variances of four networks are far from normal:
    without what their logarithms are off by, the mean of z is -0.2.
    """
    seeds = {64: 64, 128: 32, 256: 16, 512: 8, 1024: 4}

    def once(rng: np.random.Generator) -> tuple[float, float]:
        nets = {N: outputs(rng.standard_normal((n, 4, 1)) / np.sqrt(N)) for N, n in seeds.items()}
        fit = compare.width_scaling(nets).variance_fit
        assert fit is not None
        squares = {N: np.var(net.samples.f[..., 0], axis=0, ddof=1).mean() for N, net in nets.items()}
        each = {N: ((net.samples.f[..., 0] - net.mean.f[:, 0]) ** 2).mean(1).std(ddof=1) for N, net in nets.items()}
        own = compare.fit_power_law([*seeds], [*squares.values()], [each[N] / np.sqrt(n) for N, n in seeds.items()])
        assert own is not None
        return (fit.exponent + 1) / fit.error, (own.exponent + 1) / own.error

    z, of_own = simulated(once, 1000, 5).T
    assert abs(z.mean()) < 0.12
    assert 1.0 < z.var() < 1.4
    assert np.mean(np.abs(of_own) > 3) > 0.03  # negative twin: every width with the errors of its own few seeds


def test_variance_of_five_seeds_each() -> None:
    """Errors by the jackknife are too large by the root of (n - 1) / (n - 2) = 4 / 3 at most, and not too small."""

    def once(rng: np.random.Generator) -> tuple[float, float, float]:
        found = compare.width_scaling({N: outputs(rng.standard_normal((5, 40, 1)) / np.sqrt(N)) for N in (64, 128, 256, 512)})
        assert found.variance_fit is not None
        fit, z = found.variance_fit, (found.variance[0] - 1 / 64) / found.variance_error[0]
        return (fit.exponent + 1) / fit.error, z, 64 * found.variance[0]

    exponent, narrow, variance = simulated(once, 800, 3).T
    for z in (exponent, narrow):
        assert 3 / 4 - 4 * 0.05 < z.var() < 1.0  # the variance of 800 is known to 0.05 of itself
    assert abs(variance.mean() - 1) < 4 * variance.std() / np.sqrt(800)
    two = compare.width_scaling({N: outputs(np.random.default_rng(N).standard_normal((2, 3, 1))) for N in (8, 16)})
    assert np.isinf(two.variance_error).all()  # two are equally far from their mean
    assert two.variance_fit is None


def test_bias_is_unbiased_where_there_is_none() -> None:
    """Networks around the theory itself: bias^2 averages to zero, sampling noise of both sides taken out, and errors cover."""

    def once(rng: np.random.Generator) -> tuple[float, float]:
        limit = np.sin(np.arange(6.0))[:, None]
        nets = {N: outputs(limit + rng.standard_normal((12, 6, 1)) / np.sqrt(N)) for N in (16, 32)}
        theory = outputs(limit + 0.2 * rng.standard_normal((8, 6, 1)))
        s = compare.width_scaling(nets, theory, num_resamples=20, seed=int(rng.integers(2**31)))
        assert s.bias2 is not None
        assert s.bias2_error is not None
        return s.bias2[0], s.bias2_error[0]

    value, error = simulated(once, 1500, 4).T
    noise = 4 * value.std() / np.sqrt(1500)
    assert abs(value.mean()) < noise
    assert noise < 1 / 16 / 12**2 + 0.2**2 / 8**2  # twin: noise without n / (n - 1), of networks and of replicas
    # sqrt(3) too large and a little more, as variances are told from few: the resamples repeat the sample's noise
    assert 1.7 < np.sqrt(np.mean(error**2)) / value.std() < 2.05  # 1500 repetitions know it to 2 %
    # negative twin: the theory's noise alone is 0.04 / 8, and would be seen if it were not taken out
    assert noise < 0.2**2 / 8


def test_resamples_of_few_seeds_scatter_as_samples() -> None:
    """Six networks beside six replicas, far from each other: the error of bias^2 is known, 2 b sqrt(2 s^2 / 6).

    Squared errors of 1500 repetitions are known to 1.4 %; plain resamples are 1 / 6 too small.
    """
    b, s = 3.0, 0.1

    def once(rng: np.random.Generator) -> float:
        nets = {N: outputs(b + s * rng.standard_normal((6, 1, 1))) for N in (8, 16)}
        theory = outputs(s * rng.standard_normal((6, 1, 1)))
        found = compare.width_scaling(nets, theory, num_resamples=40, seed=int(rng.integers(2**31)))
        assert found.bias2_error is not None
        return found.bias2_error[0] ** 2

    assert simulated(once, 1500, 25).mean() / (4 * b**2 * 2 * s**2 / 6) == pytest.approx(1, abs=0.06)


def test_width_scaling_prints_and_refuses() -> None:
    rng = np.random.default_rng(5)
    nets = {N: two_layer(rng, N, 1000, 0.05, 1.0, 1.0) for N in (32, 8)}
    limit = two_layer_limit(0.05, 1.0, 1.0)
    scaling = compare.width_scaling(nets, limit)
    assert scaling.widths.tolist() == [8, 32]
    text = str(scaling)
    assert text.splitlines()[0].split() == ["width", "seeds", "N", "Var", "f", "N", "|bias", "f|"]
    assert "exponent of the variance in N: -" in text
    assert "(expected -2)" in text
    assert compare.width_scaling(nets).bias2 is None
    assert (compare.width_scaling(nets, limit).bias2 == scaling.bias2).all()  # same seed, same bits
    assert "|bias" not in str(compare.width_scaling(nets))
    flat = {N: outputs(np.zeros((4, 3, 1))) for N in (8, 32)}
    assert "exponent of the variance in N: not resolved" in str(
        compare.width_scaling(flat, outputs(np.zeros((3, 1)), exact=True))
    )
    one = outputs(nets[8].samples.f[:1])
    for bad, theory, says in (
        ({8: nets[8]}, None, "of two widths or more, got 1"),
        ([nets[8], nets[32]], None, "a dict"),
        ({8: nets[8], 32: one}, None, "width 32 has fewer than two seeds"),
        ({8: limit, 32: nets[32]}, None, "got an exact result for width 8"),
        (nets, one, "the theory has one replica only"),
        (nets, outputs(np.zeros((5, 1)), exact=True), "must share their steps"),
        ({8: nets[8], 32: outputs(np.zeros((4, 3, 1)))}, None, "must share their steps"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.width_scaling(bad, theory)


# --- power laws ------------------------------------------------------------------------------------------------------------


@some
@given(st.floats(-3, 3), st.floats(1e-3, 1e3), st.lists(st.integers(1, 10**5), min_size=2, max_size=6, unique=True))
def test_exact_power_law_is_found(exponent: float, prefactor: float, x: list[int]) -> None:
    y = prefactor * np.array(x, float) ** exponent
    for error in (0.1 * y, np.zeros(len(x))):
        fit = compare.fit_power_law(x, y, error)
        assert fit is not None
        # logarithms are exact to 1e-15, over a range of log x of at least 1e-5
        assert fit.exponent == pytest.approx(exponent, abs=1e-8)
        np.testing.assert_allclose(fit(x), y, rtol=1e-8)
        assert fit.p_value > 0.999 or error[0] == 0
    shuffled = compare.fit_power_law(x[::-1], y[::-1], 0.1 * y[::-1])
    assert shuffled is not None
    assert shuffled.exponent == pytest.approx(exponent, abs=1e-8)


def test_unresolved_points_are_left_out() -> None:
    x, y = [1, 2, 4, 8], [8.0, 4.0, 2.0, 1.0]
    for i, (value, error) in enumerate([(0.5, 0.3), (-1.0, 0.1), (0.1, 0.1), (1.0, np.inf)]):
        bad_y, bad_error = [*y], [0.1] * 4
        bad_y[i], bad_error[i] = value, error
        fit = compare.fit_power_law(x, bad_y, bad_error)
        assert fit is not None
        assert fit.num_points == 3
        assert fit.exponent == pytest.approx(-1, abs=1e-12)
    seen = compare.fit_power_law(
        x, [0.5, *y[1:]], [0.3, 0.1, 0.1, 0.1], least_significance=1.0
    )  # negative twin: it is the error
    assert seen is not None
    assert seen.num_points == 4
    two = compare.fit_power_law(x[:2], y[:2], [0.1, 0.1])
    assert two is not None
    assert (two.num_points, two.p_value) == (2, 1.0)
    assert compare.fit_power_law(x, y, [0.1, 9, 9, 9]) is None
    assert compare.fit_power_law([], [], []) is None
    assert compare.fit_power_law([2, 2], [4.0, 2.0], [0.1, 0.1]) is None  # one x is no line
    with pytest.raises(ValueError, match="shapes must go together"):
        compare.fit_power_law([1, 2, 3], [1.0, 2.0], [0.1, 0.1])


# --- agreement -------------------------------------------------------------------------------------------------------------


@cache
def exact_run(gamma0: float = 1.0, shift: int = 0) -> Trajectory:
    """f and kernels of a linear network in the limit, in closed form; shifted in time, if asked, by whole steps."""
    task, T = tasks.sphere(2, 1, input_dim=5, seed=1), 8
    problem = Problem(MLP(1, "linear"), Parameterization(gamma0), task, GradientDescent(0.2, T + shift))
    mean = dmft.solve(problem, save_kernels=[shift, T + shift], progress=False).mean
    return Trajectory(np.arange(T + 1), mean.f[shift:], mean.loss[shift:], None, np.array([0, T]), mean.Phi, mean.G)


def around(truth: Trajectory, n: int, noise: float, rng: np.random.Generator, modes: int = 0) -> Result:
    """Runs scattered around a truth by `noise` times its size: independent in every entry, or along a few fixed modes."""

    def runs(x: np.ndarray) -> np.ndarray:
        size = noise * np.sqrt(np.mean(x**2))
        if not modes:
            return x + size * rng.standard_normal((n, *x.shape))
        shapes = np.random.default_rng(x.size).standard_normal((modes, x.size)) / np.sqrt(modes)
        return x + size * (rng.standard_normal((n, modes)) @ shapes).reshape(n, *x.shape)

    return made(truth.map(runs))


def p_values(draw: Callable[[np.random.Generator], compare.Agreement], num: int, seed: int) -> np.ndarray:
    """Of all single statistics of all draws, which are independent where all entries are."""
    return np.array([[s.p_value for s in draw(np.random.default_rng((seed, i))).statistics] for i in range(num)]).ravel()


def as_often_as_stated(p: np.ndarray, more: float = 0.0) -> bool:
    """Whether p-values fall below 5 and 30 % as often, to four binomial errors; `more` is what is allowed besides."""
    levels = np.array([0.05, 0.3])
    share, error = np.mean(p[:, None] < levels, axis=0), np.sqrt(levels * (1 - levels) / len(p))
    return bool((share > levels - 4 * error).all() and (share < levels * (1 + more) + 4 * error).all())


def test_p_values_are_uniform() -> None:
    """Few seeds and replicas, so that degrees of freedom matter; 3000 p-values a case know 5 % to 0.4 %, 30 % to 0.8 %.

    Negative twins: one-sided p-values, a normal number instead of Student's t.
    """
    truth = exact_run()

    def sampled(theory: int, seeds: int, noise: float) -> Callable[[np.random.Generator], compare.Agreement]:
        def draw(rng: np.random.Generator) -> compare.Agreement:
            limit = around(truth, theory, noise, rng) if theory else made(truth, exact=True)
            return compare.agrees(limit, around(truth, seeds, noise, rng))

        return draw

    exact = p_values(sampled(0, 4, 0.3), 500, 7)
    assert as_often_as_stated(exact)
    assert not as_often_as_stated(exact / 2)
    assert not as_often_as_stated(2 * ndtr(stdtrit(3, exact / 2)))
    assert as_often_as_stated(p_values(sampled(4, 12, 0.02), 500, 8))  # the theory's error is the larger
    assert as_often_as_stated(p_values(sampled(12, 4, 0.02), 500, 9))
    # extrapolated; Welch's degrees of freedom are nearly right for three seeds beside twelve

    def two_widths(rng: np.random.Generator) -> compare.Agreement:
        nets = {N: around(truth.map(lambda x, N=N: x * (1 + 2 / N)), n, 0.5 / N**0.5, rng) for N, n in ((64, 12), (128, 3))}
        return compare.agrees(made(truth, exact=True), nets)

    assert as_often_as_stated(p_values(two_widths, 500, 10), 0.5)


@pytest.mark.parametrize(
    ("gamma0", "theory_noise", "net_noise", "modes"),
    [(1.0, 0.0, 0.3, 4), (1.0, 0.1, 0.1, 4), (0.1, 0.1, 0.3, 0), (0.1, 0.1, 0.3, 4), (0.1, 0.02, 0.2, 0)],
)
def test_false_alarms_are_as_rare_as_stated(gamma0: float, theory_noise: float, net_noise: float, modes: int) -> None:
    """At gamma0 = 0.1 the theory's change of kernels drowns in its noise: a direction of mostly noise must not give it away.

    400 simulations at alpha = 0.05: at most alpha, and three binomial errors: 34.
    """
    alpha, num, truth = 0.05, 400, exact_run(gamma0)

    def rejected(rng: np.random.Generator) -> bool:
        nets = around(truth, 40, net_noise, rng, modes)
        theory = around(truth, 8, theory_noise, rng, modes) if theory_noise else made(truth, exact=True)
        return not compare.agrees(theory, nets, alpha=alpha)

    assert simulated(rejected, num, 7).sum() <= binom.isf(1.5e-3, num, alpha)


def test_false_alarms_after_extrapolation() -> None:
    """Networks that differ from the theory by b/N: extrapolated they agree; taken as they are (negative twin) they do not."""
    alpha, num, truth = 0.05, 300, exact_run()

    def at(N: int, rng: np.random.Generator) -> Result:
        return around(truth.map(lambda x: x * (1 + 20 / N)), 40, 2 / np.sqrt(N), rng)

    def verdicts(rng: np.random.Generator) -> tuple[bool, bool]:
        theory, nets = around(truth, 8, 0.02, rng), {N: at(N, rng) for N in (64, 128, 256)}
        return not compare.agrees(theory, nets, alpha=alpha), not compare.agrees(theory, nets[128], alpha=alpha)

    extrapolated, as_they_are = simulated(verdicts, num, 8).T
    assert extrapolated.sum() <= binom.isf(1.5e-3, num, alpha)
    assert as_they_are.mean() > 0.9


@pytest.mark.parametrize(("gamma0", "shift"), [(1.2, 0), (0.8, 0), (1.0, 1)])
def test_twins_are_caught(gamma0: float, shift: int) -> None:
    """gamma0 off by 20 %, or time by one step, with errors of about 1 % on either side: rejected nearly always."""

    def rejected(rng: np.random.Generator) -> bool:
        theory = around(exact_run(), 8, 0.03, rng, modes=4)
        return not compare.agrees(theory, around(exact_run(gamma0, shift), 64, 0.08, rng, modes=4), alpha=0.01)

    assert simulated(rejected, 100, 9).mean() > 0.95


@pytest.mark.parametrize("replicas", [0, 8])
def test_detectable_is_honest(replicas: int) -> None:
    """A difference of the size that the test says it would have seen in nine cases of ten is rejected in 86 ... 94 %.

    1000 simulations know 90 % to 1 %; the sum of two quantiles is right to a percent or two.
    """
    alpha, T, M = 0.05, 8, 3
    truth = Trajectory(
        np.arange(T + 1), 1 - np.exp(-np.arange(T + 1) / 3)[:, None] * np.ones(M), np.ones(T + 1), None, np.arange(0)
    )
    early = (np.arange(T + 1) < 3)[:, None]

    def statistic(rng: np.random.Generator, factor: float) -> compare.Statistic:
        theory = around(truth, replicas, 0.02, rng) if replicas else made(truth, exact=True)
        off = truth.map(lambda x: np.where(early, factor * x, x) if x.ndim == 2 else x)
        return compare.agrees(theory, around(off, 30, 0.1, rng), alpha=alpha)["f early"]

    detectable = simulated(lambda rng: statistic(rng, 1.0).detectable, 50, 10).mean()
    assert 0.01 < detectable < 0.5
    rejected = simulated(lambda rng: 2 * statistic(rng, 1 + detectable).p_value < alpha, 1000, 11)
    assert 0.86 < rejected.mean() < 0.94
    blind = simulated(lambda rng: 2 * statistic(rng, 1 + 0.8 * detectable).p_value < alpha, 1000, 12)
    assert blind.mean() < 0.80  # negative twin: four fifths of it are missed more often


PARTS: dict[str, Callable[[Trajectory], np.ndarray]] = {
    "f early": lambda x: x.f[:3],
    "f late": lambda x: x.f[3:],
    "Phi^1 size": lambda x: x.Phi[0, 1, :, 1],
    "Phi^1 change": lambda x: x.Phi[0, 1, :, 1] - x.Phi[0, 0, :, 0],
    "G^1 size": lambda x: x.G[0, 1, :, 1],
    "G^1 change": lambda x: x.G[0, 1, :, 1] - x.G[0, 0, :, 0],
}
"""What the statistics look at, written out; two kept steps."""


def test_agreement_reports() -> None:
    rng = np.random.default_rng(13)
    theory, nets = around(exact_run(), 8, 0.02, rng), around(exact_run(), 40, 0.1, rng)
    verdict = compare.agrees(theory, nets)
    names = ["f early", "f late", "Phi^1 size", "Phi^1 change", "G^1 size", "G^1 change"]
    assert [s.name for s in verdict.statistics] == names
    assert verdict["G^1 size"] is verdict.statistics[4]
    assert bool(verdict) == (verdict.p_value >= verdict.alpha)
    assert verdict.p_value == pytest.approx(min(1, 6 * min(s.p_value for s in verdict.statistics)))
    assert str(verdict).splitlines()[0] == f"theory and experiment agree: p = {verdict.p_value:.2g}"
    assert "could have seen" in str(verdict)
    wrong = compare.agrees(theory, around(exact_run(1.5), 40, 0.1, rng))
    assert not wrong
    assert "DISAGREE" in str(wrong)
    for name, part in PARTS.items():
        np.testing.assert_allclose(parts_of(made(exact_run(), exact=True))[name].ravel(), part(exact_run()).ravel(), rtol=1e-12)
        x, d = (part(truth) for truth in (exact_run(1.5), exact_run()))
        expected, error = np.sum(x * d) / np.sum(d**2) - 1, wrong[name].error
        assert abs(wrong[name].difference - expected) < 4 * error, name
        assert error < 0.1
        assert name != "Phi^1 change" or expected > 0.5  # of order gamma0^2: 1.5^2 - 1 = 1.25, less a little
    with pytest.raises(KeyError, match="loss"):
        verdict["loss"]


def test_agreement_leaves_out_what_is_not_there() -> None:
    rng = np.random.default_rng(14)
    truth = exact_run()
    still = truth.map(lambda x: x if x.ndim < 5 else np.broadcast_to(x[:, :1, :, :1], x.shape))  # as in the lazy limit
    names = [s.name for s in compare.agrees(made(still, exact=True), around(still, 9, 0.1, rng)).statistics]
    assert names == ["f early", "f late", "Phi^1 size", "G^1 size"]
    rounding = still.map(lambda x: x * (1 + 1e-15 * rng.standard_normal(x.shape)))
    assert [s.name for s in compare.agrees(made(rounding, exact=True), around(still, 9, 0.1, rng)).statistics] == names
    drowned = compare.agrees(around(exact_run(0.1), 8, 1.0, rng), around(exact_run(0.1), 9, 0.1, rng))
    assert not {"Phi^1 change", "G^1 change"} <= {s.name for s in drowned.statistics}
    no_kernels = Trajectory(truth.steps, truth.f, truth.loss, None, np.arange(0))
    none_kept = Trajectory(truth.steps, truth.f, truth.loss, None, np.arange(0), *np.zeros((2, 1, 0, 3, 0, 3)))
    for a in (no_kernels, none_kept):
        verdict = compare.agrees(made(a, exact=True), around(no_kernels, 9, 0.1, rng))
        assert [s.name for s in verdict.statistics] == ["f early", "f late"]
        assert [g.name for g in compare.gap(made(a, exact=True), made(no_kernels, exact=True))] == ["f"]


def test_agreement_refuses() -> None:
    rng = np.random.default_rng(15)
    truth = exact_run()
    theory, nets, exact = around(truth, 8, 0.1, rng), around(truth, 9, 0.1, rng), made(truth, exact=True)
    f = nets.samples.f
    for args, says in (
        ((exact, exact), r"got two exact results: agrees\(theory, nets\)"),
        ((theory, around(truth, 1, 0.1, rng)), "at least two seeds per ensemble, got one"),
        ((around(truth, 2, 0.1, rng), nets), "at least three replicas, got 2"),
        ((theory, {}), r"a dict \{width: Result\} of one width or more, got 0"),
        ((theory, [nets, nets]), "a dict"),
        (({64: nets}, {64: nets}), "theory must be a Result, got"),
        ((theory, {64: nets, 128: outputs(f)}), "must share their kernel_steps"),
        ((outputs(0 * f), outputs(f)), "nothing to compare: in the theory f and the kernels are zero"),
        ((theory, compare.extrapolate({64: nets, 128: nets})), "not its single runs: it was extrapolated"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.agrees(*args)
    for alpha in (0, 1, 5, -0.1):
        with pytest.raises(ValueError, match="alpha, the rate of false alarms, must lie between 0 and 1"):
            compare.agrees(theory, nets, alpha=alpha)


# --- extrapolation ---------------------------------------------------------------------------------------------------------

counts_by_width = st.dictionaries(st.integers(1, 4096), st.integers(2, 4096), min_size=2, max_size=5)


@some
@given(counts_by_width, st.integers(0, 2**32))
def test_intercept_weights(counts: dict[int, int], seed: int) -> None:
    weights = intercept_weights(counts)
    assert list(weights) == list(counts)
    N, w, n = np.array([*counts], float), np.array([*weights.values()]), np.array([*counts.values()])
    size = np.abs(w).max()  # close widths give large weights; the 2 x 2 system loses digits with its square
    assert w.sum() == pytest.approx(1, abs=1e-8 * size**2)
    assert (w / N).sum() == pytest.approx(0, abs=1e-8 * size**2 / N.min())
    # least variance: moving along any other weights with the same two sums raises it
    other = np.random.default_rng(seed).standard_normal(len(w))
    A = np.stack([np.ones(len(w)), 1 / N])
    other -= A.T @ np.linalg.lstsq(A.T, other, rcond=None)[0]
    slope = (w * other / (N * n)).sum()
    assert abs(slope) <= 1e-6 * size**2 * np.linalg.norm(other) * np.linalg.norm(1 / (N * n)) + 1e-12
    doubled = intercept_weights({width: 2 * count for width, count in counts.items()})
    np.testing.assert_allclose([*doubled.values()], w, atol=1e-8 * size**2)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_coefficient_weights(order: int) -> None:
    """Of every power of 1/N up to the order: its coefficient is found, and the others are not mixed in."""
    counts = {8: 5, 16: 7, 32: 4, 64: 9, 256: 3}
    N, truth = np.array([*counts], float), np.random.default_rng(order).standard_normal(order + 1)
    means = sum(truth[j] * N**-j for j in range(order + 1))
    for power in range(order + 1):
        weights = coefficient_weights(counts, order, power)
        assert np.dot([*weights.values()], means) == pytest.approx(truth[power], rel=1e-7)


def test_intercept_weights_of_one_and_two_widths() -> None:
    assert intercept_weights({7: 3}) == {7: 1.0}
    weights = intercept_weights({100: 8, 300: 1000})  # Richardson's: the counts do not matter
    assert weights == pytest.approx({100: -0.5, 300: 1.5})


@some
@given(st.lists(st.integers(1, 4096), min_size=2, max_size=5, unique=True), st.integers(0, 2**32))
def test_extrapolation_removes_a_term_in_1_over_N_exactly(widths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    limit, b, quadratic = rng.standard_normal((3, 4, 2))
    weights = intercept_weights(dict.fromkeys(widths, 2))
    size = max(map(abs, weights.values()))

    def nets(term: Callable[[int], np.ndarray]) -> dict[int, Result]:
        return {N: outputs(limit + term(N) + np.array([-1.0, 1.0])[:, None, None]) for N in widths}  # sem one, mean exact

    got = compare.extrapolate(nets(lambda N: b / N))
    np.testing.assert_allclose(got.mean.f, limit, atol=1e-8 * size**2)
    # two runs at -1 and +1 have the standard error one; extrapolated, the errors add in quadrature
    np.testing.assert_allclose(got.sem.f, np.sqrt(sum(w**2 for w in weights.values())), rtol=1e-9)
    left = compare.extrapolate(nets(lambda N: quadratic / N**2)).mean.f - limit  # negative twin: 1/N^2 stays
    np.testing.assert_allclose(left, sum(w / N**2 for N, w in weights.items()) * quadratic, atol=1e-8 * size**2)


def test_extrapolation_is_a_result_without_runs() -> None:
    rng = np.random.default_rng(16)
    nets = {N: around(exact_run(), 9, 1 / np.sqrt(N), rng) for N in (64, 128)}
    got = compare.extrapolate(nets)
    assert got.trajectory.n == 18
    assert got.mean.Phi.shape == nets[64].mean.Phi.shape
    assert "extrapolated in 1/N from widths 64, 128" in str(got)
    assert compare.gap(got, nets[128])["G^1"].noise > 0
    for bad, says in (
        ({64: nets[64]}, "two widths or more, got 1"),
        ([*nets.values()], "a dict"),
        (nets | {256: EXACT}, "exact"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.extrapolate(bad)


EXACT = made(exact_run(), exact=True)

# --- gap, alignment --------------------------------------------------------------------------------------------------------


def test_noise_of_the_gap_is_calibrated() -> None:
    """<relative^2> = noise^2 where only sampling errors separate two results; 1500 repetitions of 27 entries know it to 1 %."""

    def once(rng: np.random.Generator) -> tuple[float, float, float]:
        a, b = around(exact_run(), 10, 0.1, rng), around(exact_run(), 20, 0.1, rng)
        gap = compare.gap(a, b)["f"]
        return gap.relative**2, gap.noise**2, gap.resolved

    relative2, noise2, resolved = simulated(once, 1500, 17).T
    assert relative2.mean() / noise2.mean() == pytest.approx(1, abs=0.04)
    assert np.median(resolved) < np.sqrt(noise2.mean())
    other = compare.gap(around(exact_run(0.8), 2000, 0.1, np.random.default_rng(0)), EXACT)["Phi^1"]  # negative twin
    assert other.resolved > 0.9 * other.relative > 5 * other.noise


@some
@given(st.floats(0.1, 10), st.sampled_from(["Phi", "G"]))
def test_alignment_does_not_see_a_scale_and_the_gap_does(scale: float, kernel: str) -> None:
    scaled = made(exact_run().map(lambda x: scale * x), exact=True)
    np.testing.assert_allclose(compare.alignment(scaled, EXACT, kernel), 1.0, rtol=1e-12)
    for gap in compare.gap(scaled, EXACT):
        assert gap.relative == pytest.approx(abs(scale - 1), abs=1e-12)
        assert gap.noise == 0


def test_alignment_sees_a_shape() -> None:
    """Negative twin: kernels that differ by more than a scale. And single runs scatter below the alignment of the mean."""
    assert (compare.alignment(made(exact_run(3.0), exact=True), EXACT)[:, 1] < 0.999).all()
    rng = np.random.default_rng(18)
    nets = around(exact_run(), 50, 0.3, rng)
    runs, mean = compare.alignment_of_runs(nets, EXACT), compare.alignment(nets, EXACT)
    assert runs.shape == (50, 1, 2)
    assert mean.shape == (1, 2)
    assert (runs.mean(0) < mean).all()
    assert (runs <= 1).all()


def test_gap_prints_and_is_looked_up_by_name() -> None:
    gaps = compare.gap(EXACT, EXACT)
    assert [gap.name for gap in gaps] == ["f", "Phi^1", "G^1"]
    assert "relative error 0.00%" in str(gaps)
    with pytest.raises(KeyError, match="Q"):
        gaps["Q"]
    zero = outputs(np.zeros((3, 1)), exact=True)
    ones = outputs(np.ones((3, 1)), exact=True)
    assert compare.gap(zero, zero)["f"].relative == 0
    assert compare.gap(ones, zero)["f"].relative == 1  # relative to what does not vanish


def test_only_the_same_points_compare() -> None:
    f = np.ones((4, 2))
    base = Trajectory(np.arange(4), f, f[:, 0], None, np.array([0, 3]), *np.ones((2, 1, 2, 2, 2, 2)))

    def but(**changes: Any) -> Result:
        return made(Trajectory(**({k: getattr(base, k) for k in Trajectory.__dataclass_fields__} | changes)), exact=True)

    for other, says in (
        (
            but(steps=np.arange(4) + 1),
            r"share their steps, got \[0, 1, 2, 3\] and \[1, 2, 3, 4\]. Run both on the same Problem",
        ),
        (but(kernel_steps=np.array([0, 2])), r"share their kernel_steps, got \[0, 3\] and \[0, 2\].*the same save_kernels"),
        (but(f=np.ones((4, 2, 3))), r"outputs\), got \[2\] and \[2, 3\]"),
        (but(f=np.ones((4, 3))), r"share their number of points \(and outputs\), got \[2\] and \[3\]"),
    ):
        for function in (compare.gap, compare.alignment, compare.alignment_of_runs):
            with pytest.raises(ValueError, match=says):
                function(made(base, exact=True), other)
    with pytest.raises(ValueError, match="kernel must be one of 'Phi', 'G'; got 'phi'"):
        compare.alignment(EXACT, EXACT, "phi")
    with pytest.raises(ValueError, match=r"no kernels G: save_kernels was empty. Keep some, e.g. save_kernels=\[0, 10\]"):
        compare.alignment(outputs(f, exact=True), outputs(f, exact=True), "G")


# --- several outputs, and what else was saved --------------------------------------------------------------------------------

CLASSES = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, 0.5]])


@cache
def three_outputs(gamma0: float = 1.0, swap: bool = False) -> Trajectory:
    """f (T+1, M, 3), kernels and tangent kernel of a linear network in the limit; with two outputs exchanged, if asked."""
    task = Task(tasks.sphere(2, 1, input_dim=5, seed=1).X_all[:2], CLASSES, tasks.sphere(2, 1, input_dim=5, seed=1).X_test)
    problem = Problem(MLP(1, "linear"), Parameterization(gamma0), task, GradientDescent(0.4, 8))
    method = dmft.two_layer.TwoLayer(256, num_replicas=2)
    mean = method.run(problem, seed=0, kernel_steps=np.array([0, 8]), progress=False, save=("NTK",)).trajectory.mean
    return replace(mean, f=mean.f[..., [1, 0, 2]]) if swap else mean


def test_false_alarms_with_three_outputs() -> None:
    """300 simulations at alpha = 0.05: at most alpha, and three binomial errors; f of shape (n, T+1, M, C)."""
    truth = three_outputs()
    assert truth.f.shape == (9, 3, 3)

    def rejected(rng: np.random.Generator) -> bool:
        return not compare.agrees(around(truth, 8, 0.02, rng), around(truth, 40, 0.3, rng), alpha=0.05)

    assert simulated(rejected, 300, 21).sum() <= binom.isf(1.5e-3, 300, 0.05)


@pytest.mark.parametrize("twin", [{"gamma0": 1.2}, {"swap": True}])
def test_twins_with_three_outputs_are_caught(twin: dict[str, Any]) -> None:
    rng = np.random.default_rng(22)
    nets = around(three_outputs(), 64, 0.1, rng)
    assert compare.agrees(around(three_outputs(), 8, 0.01, rng), nets)
    verdict = compare.agrees(around(three_outputs(**twin), 8, 0.01, rng), nets)
    assert not verdict
    assert verdict["f late"].p_value < 1e-3


def test_early_is_a_third_of_the_steps() -> None:
    """Whatever the number of points and outputs: networks wrong in one state only."""
    truth = replace(three_outputs(), Phi=None, G=None, more={})
    for step, name, other in ((2, "f early", "f late"), (3, "f late", "f early")):
        f = truth.f.copy()
        f[step] *= 2
        rng = np.random.default_rng(23)
        verdict = compare.agrees(made(truth, exact=True), around(replace(truth, f=f), 64, 0.01, rng))
        assert verdict[name].p_value < 1e-6 < 0.01 < verdict[other].p_value


def test_what_else_was_saved() -> None:
    """Gaps of all that both have; extrapolation of all that every ensemble has; fields of neurons are left alone."""
    rng, truth = np.random.default_rng(24), three_outputs()
    nets = {N: around(truth.map(lambda x, N=N: x * (1 + 20 / N)), 64, 2 / N, rng) for N in (64, 128)}
    gaps = compare.gap(nets[64], made(truth, exact=True))
    assert [gap.name for gap in gaps] == ["f", "Phi^1", "G^1", "NTK"]
    assert gaps["NTK"].resolved == pytest.approx(20 / 64, rel=0.05)
    limit = compare.extrapolate(nets)
    np.testing.assert_allclose(limit.mean["NTK"], truth["NTK"], atol=8 * limit.sem["NTK"].max())
    assert np.abs(nets[128].mean["NTK"] - truth["NTK"]).max() > 8 * limit.sem["NTK"].max()  # negative twin
    fewer = {64: nets[64], 128: made(nets[128].samples.without("NTK"))}
    assert [*compare.extrapolate(fewer).mean.more] == []
    with_fields = replace(nets[64].samples, more={"h": np.ones((64, 2, 1, 3, 4))})
    assert "h" not in compare.extrapolate({64: made(with_fields), 128: made(with_fields)}).mean.more
    exact = made(replace(truth, more={"h": np.ones((2, 1, 3, 4))}), exact=True)
    assert [gap.name for gap in compare.gap(exact, exact)] == ["f", "Phi^1", "G^1"]
    scaling = compare.width_scaling({N: around(truth, 64, 10 / N**0.5, rng) for N in (64, 256)})
    assert scaling.variance_fit is not None
    assert abs(scaling.variance_fit.exponent + 1) < 5 * scaling.variance_fit.error
    np.testing.assert_allclose(compare.alignment(nets[64], made(truth, exact=True)), 1.0, atol=0.01)
