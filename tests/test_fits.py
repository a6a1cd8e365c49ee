"""Fits say how sure they are: errors of everything fitted against many simulated data sets, p-values at their level.

A draw costs a millisecond or less, so that there are a thousand or two of each: errors off by a tenth are seen, as four
standard errors of a variance over 2000 draws are 13 % of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri, stdtr

import compare
from compare.exponents import fit
from compare.power_law import with_error
from tests.test_compare import outputs

X = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
WIDTHS = np.array([16, 32, 64, 128, 256, 512])


def scores(values: Any, truth: Any, errors: Any, dof: float = np.inf) -> np.ndarray:
    """(value - truth) / error as a standard normal number; of errors told from few, by Student's t."""
    z = (np.asarray(values) - truth) / np.asarray(errors)
    return z if np.isinf(dof) else ndtri(np.clip(stdtr(dof, z), 1e-12, 1 - 1e-12))


def normal(z: np.ndarray, bias: float = 0.0) -> bool:
    """Whether mean, variance and the share within two are those of a standard normal number, to four standard errors.

    `bias` is what estimates that are not linear may be off by, in units of their error.
    """
    n, inside = len(z), 0.9545
    return bool(
        abs(z.mean()) < 4 / np.sqrt(n) + bias
        and abs(z.var() - 1) < 4 * np.sqrt(2 / n)
        and abs(np.mean(np.abs(z) < 2) - inside) < 4 * np.sqrt(inside * (1 - inside) / n)
    )


def uniform(p: np.ndarray) -> bool:
    """Whether p-values fall below 0.1 and 0.5 as often as they say, to four binomial errors."""
    return all(abs(np.mean(p < level) - level) < 4 * np.sqrt(level * (1 - level) / len(p)) for level in (0.1, 0.5))


def test_the_measure_sees_errors_off_by_a_tenth() -> None:
    z = np.random.default_rng(0).standard_normal(2000)
    assert normal(z)
    assert not normal(1.1 * z)
    assert not normal(z / 1.1)
    assert not normal(z + 0.12)
    t = np.random.default_rng(1).standard_t(4, 2000)
    assert normal(scores(t, 0, 1, 4))
    assert not normal(t)
    assert uniform(np.random.default_rng(2).uniform(size=2000))
    assert not uniform(np.random.default_rng(2).uniform(size=2000) ** 1.2)


def laws(draw: Callable[[np.random.Generator], compare.PowerLaw | None], num: int, seed: int) -> dict[str, np.ndarray]:
    found = [draw(np.random.default_rng((seed, i))) for i in range(num)]
    assert all(found)
    names = ("exponent", "error", "floor", "floor_error", "p_value")
    return {name: np.array([getattr(law, name) for law in found]) for name in names}


# --- power laws ------------------------------------------------------------------------------------------------------------

SIZE = 0.02 * np.array([0.5, 1, 1, 1, 2, 1])
"""Relative errors."""


@pytest.mark.parametrize("floor", [0.0, 1.7])
def test_power_law(floor: float) -> None:
    """With a floor that is known the fit is that of what lies above it; taken for none (negative twin) nothing is right."""
    above = 3 * X**-0.7

    def draw(rng: np.random.Generator, given: float = floor) -> Any:
        y = floor + above * (1 + SIZE * rng.standard_normal(6))
        return compare.fit_power_law(X, y, SIZE * above, floor=given)

    found = laws(draw, 2000, 1)
    assert normal(scores(found["exponent"], -0.7, found["error"]))
    assert uniform(found["p_value"])
    assert (found["floor"] == floor).all()
    assert not normal(scores(found["exponent"], -0.7, 1.1 * found["error"]))  # negative twin
    if floor:
        wrong = laws(lambda rng: draw(rng, 0.0), 20, 1)
        assert (np.abs(scores(wrong["exponent"], -0.7, wrong["error"])) > 20).all()
        assert (wrong["p_value"] < 1e-6).all()


def test_power_law_with_a_fitted_floor() -> None:
    """Exponent, floor and goodness of fit."""
    y, error = 1.7 + 3 * X**-0.7, 3e-3 * np.array([0.5, 1, 1, 1, 2, 1])
    found = laws(lambda rng: compare.fit_power_law(X, y + error * rng.standard_normal(6), error, floor="fit"), 1000, 2)
    assert normal(scores(found["exponent"], -0.7, found["error"]), 0.05)
    assert normal(scores(found["floor"], 1.7, found["floor_error"]), 0.05)
    assert uniform(found["p_value"])
    assert not normal(scores(found["floor"], 1.7, 0.9 * found["floor_error"]), 0.05)  # negative twin
    grows = compare.fit_power_law(X, 0.3 + 2 * X**1.5, 0.01, floor="fit")
    assert grows is not None
    assert (grows.exponent, grows.prefactor, grows.floor) == pytest.approx((1.5, 2.0, 0.3), rel=1e-6)
    np.testing.assert_allclose(grows(X), 0.3 + 2 * X**1.5, rtol=1e-6)


def test_power_law_with_unknown_errors() -> None:
    """The scatter of six points: four degrees of freedom, three where the floor is fitted."""

    def noisy(rng: np.random.Generator, y: np.ndarray, size: float) -> np.ndarray:
        return y * (1 + size * rng.standard_normal(6))

    plain = laws(lambda rng: compare.fit_power_law(X, noisy(rng, 3 * X**-0.7, 0.01)), 2000, 3)
    assert normal(scores(plain["exponent"], -0.7, plain["error"], 4), 0.02)
    assert not normal(scores(plain["exponent"], -0.7, plain["error"]), 0.02)  # negative twin: not a normal number
    assert np.isnan(plain["p_value"]).all()
    floored = laws(lambda rng: compare.fit_power_law(X, noisy(rng, 1.7 + 3 * X**-0.7, 3e-4), floor="fit"), 1000, 4)
    assert normal(scores(floored["exponent"], -0.7, floored["error"], 3), 0.05)
    assert normal(scores(floored["floor"], 1.7, floored["floor_error"], 3), 0.05)
    one, ten = (compare.fit_power_law(X, X**-1.0 * (1 + s * np.array([1, -1, 1, -1, 1, -1]))) for s in (1e-4, 1e-3))
    assert one is not None
    assert ten is not None
    assert ten.error == pytest.approx(10 * one.error, rel=1e-2)  # errors go with the scatter


def test_power_law_of_points_that_share_noise() -> None:
    """Points with a common part in their noise, as of widths that are compared with one limit."""
    y = 3 * X**-0.7
    own, shared = 0.01 * y, 0.03 * np.ones(6)
    C = np.diag(own**2) + np.outer(shared, shared)

    def draw(rng: np.random.Generator) -> tuple[Any, Any]:
        noisy = y + own * rng.standard_normal(6) + shared * rng.standard_normal()
        whole, alone = (compare.fit_power_law(X, noisy, covariance=c) for c in (C, np.diag(np.diagonal(C))))
        same = compare.fit_power_law(X, noisy, np.sqrt(np.diagonal(C)))
        assert (alone.exponent, alone.error, alone.p_value) == pytest.approx((same.exponent, same.error, same.p_value))
        return whole, alone

    whole, alone = (laws(lambda rng, k=k: draw(rng)[k], 1000, 5) for k in (0, 1))
    assert normal(scores(whole["exponent"], -0.7, whole["error"]), 0.1)
    assert uniform(whole["p_value"])
    assert not normal(scores(alone["exponent"], -0.7, alone["error"]), 0.1)  # negative twins
    assert not uniform(alone["p_value"])


def test_power_law_prints_how_well_it_fits() -> None:
    """A loss with a floor of 1.7: what is printed says that it is no power law, and what to call."""
    y = 1.7 + 0.1 * X**-0.7
    plain, floored = compare.fit_power_law(X, y, 1e-4), compare.fit_power_law(X, y, 1e-4, floor="fit")
    assert str(plain).startswith("-0.014570 +- 0.000020 is NO POWER LAW: goodness of fit p = ")
    assert 'floor="fit"' in str(plain)
    assert str(floored) == "-0.7000 +- 0.0031 above a floor of 1.70000 +- 0.00017 (p = 1)"
    assert str(compare.fit_power_law(X, y, 1e-4, floor=1.7)) == "-0.7000 +- 0.0012 above a floor of 1.7 (p = 1)"
    assert "2 points: whether it is a power law they cannot tell" in str(compare.fit_power_law(X[:2], y[:2], 1e-4))
    assert "3 points: whether" in str(compare.fit_power_law(X[:3], y[:3], 1e-4, floor="fit"))
    assert "error from the scatter of 6 points" in str(compare.fit_power_law(X, y))
    bent = compare.fit_power_law(X, y + 0.02 * (X == 4), 1e-4, floor="fit")
    assert "is NO POWER LAW" in str(bent)
    assert "leave out points" in str(bent)
    assert with_error(0.1, 0.0) == "0.10 +- 0.00"
    assert with_error(1234.5, 12.0, "+") == "+1234.50 +- 12.00"


def test_power_law_refuses() -> None:
    y = 1 / X
    for arguments, settings, says in (
        ((X, np.where(X == 2, np.inf, y), 0.1), {}, "y of a power law must be finite, got inf at index 1"),
        ((X, np.where(X == 2, np.nan, y), 0.1), {}, "y of a power law must be finite, got nan at index 1"),
        ((X - 1, y, 0.1), {}, "x of a power law must be finite and above zero, got 0 at index 0"),
        ((np.where(X == 2, np.inf, X), y, 0.1), {}, "x of a power law must be finite and above zero, got inf at index 1"),
        ((X, y, np.where(X == 4, -1, 0.1)), {}, "y_error of a power law must be zero or above, got -1 at index 2"),
        ((X, y, np.where(X == 4, np.nan, 0.1)), {}, "y_error of a power law must be zero or above, got nan"),
        ((X, y, 0.1), {"floor": "free"}, "floor must be one of 'fit'"),
        ((X, y, 0.1), {"covariance": np.eye(6)}, "covariance takes the place of y_error"),
        ((X, y), {"covariance": np.eye(6), "floor": "fit"}, "goes with a floor that is given"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.fit_power_law(*arguments, **settings)
    assert compare.fit_power_law(X[:2], y[:2]) is None  # two points have no scatter
    assert compare.fit_power_law(X[:3], y[:3], floor="fit") is None
    assert compare.fit_power_law(X[:2], y[:2], 0.01, floor="fit") is None
    assert compare.fit_power_law(X, 1 + 0 * X, 0.1, floor="fit") is None  # nothing above the floor
    assert compare.fit_power_law(X, np.log(X) + 5, 1.0, floor="fit") is None  # a logarithm: zero is among the exponents


# --- exponents in the width --------------------------------------------------------------------------------------------------


def regimes(kind: str | None, c: float, error: float, num: int, seed: int, scatter: bool = False) -> compare.Regimes:
    """Every step is a data set of its own."""
    rng, offset = np.random.default_rng(seed), 0.0 if kind is None else 1.7

    def noisy(y: float) -> tuple[np.ndarray, np.ndarray | None]:
        size = error * (y if scatter else 1.0)
        return y + size * rng.standard_normal(num), None if scatter else np.full(num, size)

    values = {int(N): noisy(offset + float(N) ** -c) for N in WIDTHS}
    limit: Any = noisy(1.7) if kind == "known" else kind
    return compare.regimes(np.arange(num), values, limit)


@pytest.mark.parametrize("kind", [None, "known", "fit"])
def test_exponents_in_the_width(kind: str | None) -> None:
    """Exponent, limit and goodness of fit, at errors of c of about 0.005: a grid of exponents would show."""
    found = regimes(kind, 0.703, 6e-4, 700, 6)
    z = scores(found.c, 0.703, found.error)
    assert normal(z, 0.05)
    assert uniform(found.p_value)
    assert not normal(z / 1.2, 0.05)  # negative twin
    if kind is None:
        assert found.limit is None
    else:
        assert normal(scores(found.limit, 1.7, found.limit_error), 0.05)
        assert "limit" in str(found).splitlines()[0]
    precise = regimes(kind, 0.703, 1e-9, 5, 7)
    assert (np.abs(precise.c - 0.703) < 6 * precise.error).all()
    assert (precise.error < 1e-6).all()


@pytest.mark.parametrize("kind", [None, "fit"])
def test_exponents_in_the_width_with_unknown_errors(kind: str | None) -> None:
    found = regimes(kind, 0.703, 1e-3 if kind is None else 1e-4, 700, 8, scatter=True)
    assert normal(scores(found.c, 0.703, found.error, found.dof), 0.05)
    assert not normal(scores(found.c, 0.703, found.error), 0.05)
    assert np.isnan(found.p_value).all()
    assert "errors are told by the scatter" in str(found)
    assert "p = " not in str(found)


def test_regimes_say_where_there_is_no_power_law() -> None:
    found = regimes("fit", 0.7, 1e-3, 20, 9)
    assert "NO POWER LAW" not in str(found)
    steps, error = np.arange(20), np.full(20, 1e-3)
    values = {int(N): (np.full(20, 1.7 + N**-0.7), error) for N in WIDTHS}
    wrong = str(compare.regimes(steps, values))
    assert "NO POWER LAW" in wrong
    assert 'try limit="fit"' in wrong
    holes = {N: (np.where(steps == 3, np.nan, v), e) for N, (v, e) in values.items()}
    assert np.isnan(compare.regimes(steps, holes, "fit").c).tolist() == [step == 3 for step in steps]
    for bad, limit, says in (
        ({N: (v, -e) for N, (v, e) in values.items()}, None, "standard errors are zero or above, got -0.001"),
        (values | {16: (values[16][0], None)}, None, "errors are known of all values or of none"),
        ({N: (v, None) for N, (v, _) in values.items()}, values[16], "errors are known of all values or of none"),
        ({N: v for N, (v, _) in values.items()}, None, "pair"),
        ({N: (v, None) for N, (v, _) in list(values.items())[:2]}, None, "of 3 widths or more"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.regimes(steps, bad, limit)  # type: ignore[arg-type]


def test_curve_through_exponent_zero() -> None:
    """With a free offset (x^c - 1) / c goes through c = 0: a logarithm is found there, falling and rising laws beside it."""
    x = WIDTHS / 16.0
    logarithm = fit(x, 2 + 3 * np.log(x), np.full(6, 1e-3), offset=True, search=(-4, 4))
    assert abs(logarithm.exponent) < 1e-6
    for c in (-0.02, 0.02, 1e-3):
        curve = fit(x, 2 + 3 * x**c, np.full(6, 1e-9), offset=True, search=(-4, 4))
        assert curve.exponent == pytest.approx(c, abs=1e-6)
        assert curve.offset == pytest.approx(2, abs=0.01)
    assert not fit(x, x**-1.0, np.full(6, 1e-9), offset=False, search=(0.0, 4.0)).resolved  # beyond the search


# --- weighted least squares ------------------------------------------------------------------------------------------------


def test_least_squares() -> None:
    """Coefficients and chi^2 where errors are correlated; taken for independent (negative twin) neither is right."""
    rng, n = np.random.default_rng(10), 2000
    design = np.stack([np.ones(6), np.log(X)], axis=1)
    root = np.diag([1, 2, 1, 0.5, 1, 1.0]) + 0.7 * rng.standard_normal((6, 6))
    C, truth = root @ root.T, np.array([1.0, -2.0])
    y = design @ truth + rng.standard_normal((n, 6)) @ root.T
    whole = [compare.least_squares(design, row, C) for row in y]
    alone = [compare.least_squares(design, row, np.diag(np.diagonal(C))) for row in y]
    for k in (0, 1):
        for fits, right in ((whole, True), (alone, False)):
            assert normal(np.array([(f.coefficients[k] - truth[k]) / f.errors[k] for f in fits])) == right
    assert uniform(np.array([f.p_value for f in whole]))
    assert not uniform(np.array([f.p_value for f in alone]))
    assert np.mean([f.chi2 for f in whole]) == pytest.approx(4, abs=4 * np.sqrt(8 / n))
    for arguments, says in (
        ((design, y[0][:3], C), "y must have shape"),
        ((design, y[0], C[:3, :3]), "covariance must have shape"),
        ((design[:, [0, 0]], y[0], C), "columns of the design are not independent"),
        ((design[:1], y[0][:1], C[:1, :1]), "columns of the design are not independent"),
        ((design, np.where(X == 2, np.inf, y[0]), C), "y has 1 NaN or infinite"),
        ((design[:, 0], y[0], C), r"design must have shape \(n, p\)"),
    ):
        with pytest.raises(ValueError, match=says):
            compare.least_squares(*arguments)


# --- variance and bias against width ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_exponents_of_variance_and_bias(noise: float) -> None:
    """Also where all widths share the noise of a theory of eight replicas, seven degrees of freedom."""
    M, widths = 12, (16, 32, 64, 128)
    b = 12 * np.linspace(1, 2, M)

    def draw(rng: np.random.Generator) -> list[float]:
        nets = {N: outputs(b / N + rng.standard_normal((100, 1, M)) / np.sqrt(N)) for N in widths}
        theory = outputs(noise * rng.standard_normal((8, 1, M))) if noise else outputs(np.zeros((1, M)), exact=True)
        found = compare.width_scaling(nets, theory, num_resamples=50, seed=int(rng.integers(2**31)))
        variance, bias = found.variance_fit, found.bias2_fit
        assert variance is not None
        assert bias is not None
        assert found.bias2 is not None
        assert found.bias2_error is not None
        narrow = (found.bias2[0] - np.mean(b**2) / 16**2) / found.bias2_error[0]
        return [(variance.exponent + 1) / variance.error, (bias.exponent + 2) / bias.error, narrow, bias.p_value]

    z = np.array([draw(np.random.default_rng((11, i))) for i in range(500)])
    assert normal(z[:, 0], 0.1)
    dof = 7 if noise else 49  # of the theory's replicas, or of the resamples
    assert normal(scores(z[:, 1], 0, 1, dof), 0.1)
    assert normal(scores(z[:, 2], 0, 1, dof), 0.1)
    assert uniform(z[:, 3])  # of widths taken for independent, p is below 0.1 in one case of a hundred
