"""Scaling laws: identities between the solvers, simulations of the same models, monotonicity, and the cost."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from dmft import scaling, spectra
from dmft.scaling.random_features import four
from finite import linear_models
from widthwise import GradientDescent, Spectrum

NAMES = ("test", "train", "same_data", "same_features", "bias")


def close(a: Any, b: Any, rtol: float, atol: float = 0.0) -> bool:
    return bool(np.allclose(a, b, rtol=rtol, atol=atol))


def agree(theory: scaling.Errors, draws: linear_models.Draws, name: str, rtol: float, sigmas: float = 3.0) -> bool:
    """Within rtol (what the limit leaves out at these sizes, of order 1 / k + 1 / n) and `sigmas` standard errors."""
    gap = np.abs(getattr(theory, name) - draws.mean(name))
    return bool((gap < sigmas * draws.sem(name) + rtol * draws.mean(name)).all())


def power_laws() -> st.SearchStrategy[Spectrum]:
    """Power laws of 30 to 3000 modes."""
    exponent = st.floats(1.05, 3.0)
    return st.builds(Spectrum.power_law, exponent, exponent, st.integers(30, 3000)).map(lambda spectrum: spectrum.binned(8))


SIZES = st.floats(2.0, 1e4)


# --- random features -------------------------------------------------------------------------------------------------------


def published_form(spectrum: Spectrum, n: float, k: float, ridge: float, noise: float) -> tuple[float, float]:
    """Test (with noise) and train error as 2311.14646 writes them, by plain bisection."""
    lam, v2 = spectrum.lam, spectrum.power

    def z(gamma: float) -> float:
        return float((lam / (lam + gamma)).sum())

    low, high = 1e-12, 1e6
    for _ in range(200):  # the branch z < min(n, k), where (n - z)(k - z) gamma = ridge k
        gamma = np.sqrt(low * high)
        below = z(gamma) >= min(n, k) or (n - z(gamma)) * (k - z(gamma)) * gamma < ridge * k
        low, high = (gamma, high) if below else (low, gamma)
    z_, q = z(gamma), float(((lam / (lam + gamma)) ** 2).sum())
    kappa = gamma * (k - z_) / k
    modes = gamma / (lam + gamma) - kappa * lam / (lam + gamma) ** 2 * k / (k - q)
    test = ((modes * v2).sum() + noise**2) / (1 - (q * (k - 2 * z_) + z_**2) / (n * (k - q)))
    return test, (ridge / (n * kappa)) ** 2 * test


@pytest.mark.parametrize(
    ("n", "k", "ridge", "test", "train"),  # the numbers of the shared design notes, computed apart from this code
    [
        (64, 32, 0.1, 1.6026, 0.5197),
        (64, 200, 0.1, 1.1945, None),
        (64, 200, 1.0, 1.0585, None),
        (200, 64, 0.03, 1.1417, None),
        (64, 128, 1e-6, 1.9950, None),
    ],
)
def test_random_features_as_published(n: int, k: int, ridge: float, test: float, train: float | None) -> None:
    spectrum, noise = Spectrum.power_law(1.5, 1.5, 400), np.sqrt(0.5)
    errors = scaling.random_features(spectrum, n, k, ridge=ridge, noise=noise)
    expected = published_form(spectrum, n, k, ridge, noise)
    assert close([errors.test + 0.5, errors.train], expected, 1e-9)
    assert abs(errors.test + 0.5 - test) < 6e-5
    assert train is None or abs(errors.train - train) < 6e-5


def test_infinitely_many_features_are_kernel_regression() -> None:
    noise, p = 0.3, np.array([3.0, 30.0, 300.0, 500.0])
    full = Spectrum.power_law(1.5, 1.5, 400)
    for spectrum in (full, full.truncated(60), Spectrum.power_law(1.3, 1.2, 1000, with_rest=True), full.binned()):
        for ridge in (0.0, 0.1):
            errors = scaling.random_features(spectrum, p, ridge=ridge, noise=noise)
            curve = spectra.learning_curve(spectrum, p, ridge=ridge, noise=noise)
            assert close(errors.test, curve.test, 1e-9)
            assert close(errors.train, curve.train, 1e-9, 1e-12)
            many = scaling.random_features(spectrum, p, 1e9, ridge=ridge, noise=noise)
            assert close(many.test, errors.test, 1e-5)
            assert close(errors.test, errors.same_data, 1e-12)
    assert not close(scaling.random_features(full, p, 1000, noise=noise).test, curve.test, 0.01)  # negative twin


def test_random_features_and_simulations() -> None:
    """Theory off by one of ridge, features or noise is rejected."""
    spectrum, noise = Spectrum.power_law(1.5, 1.5, 300), np.sqrt(0.5)
    for n, k, ridge in ((64, 40, 0.1), (64, 160, 0.3), (160, 64, 0.03), (64, 128, 1e-6)):
        draws = linear_models.ridge_regression(spectrum, n, k, ridge=ridge, noise=noise, num_draws=60, seed=n + k)
        theory = scaling.random_features(spectrum, n, k, ridge=ridge, noise=noise)
        assert all(agree(theory, draws, name, 0.02) for name in NAMES), (n, k)
        wrong = (
            scaling.random_features(spectrum, n, k, ridge=ridge, noise=0.8 * noise),
            scaling.random_features(spectrum, 1.5 * n, k, ridge=ridge, noise=noise),
            scaling.random_features(spectrum, n, k / 2, ridge=ridge, noise=noise),
        )
        assert not any(all(agree(other, draws, name, 0.02) for name in NAMES) for other in wrong)
    for name in ("same_data", "same_features", "bias"):  # what models share is told apart
        assert abs(getattr(theory, name) - draws.mean("test")) > 10 * draws.sem("test")


def test_without_a_ridge() -> None:
    spectrum = Spectrum.power_law(2.0, 1.5, 100)
    assert scaling.random_features(spectrum, 50, 50, noise=0.1).test == np.inf  # double descent
    assert scaling.random_features(spectrum, 50, 49.99, noise=0.1).test > 10
    exact = scaling.random_features(spectrum, 300, 200)  # everything is learned
    assert exact.test == exact.train == 0
    noisy = scaling.random_features(spectrum, 300, 200, noise=1.0)
    assert close(
        [noisy.test, noisy.train], [100 / 200, 200 / 300], 1e-12
    )  # least squares of 100 weights: M / (n - M), 1 - M / n
    assert close(scaling.random_features(spectrum, 60, 30).bias, scaling.random_features(spectrum, 30, 60).bias, 1e-12)
    kappa = scaling.resolution(spectrum, [30, 60], [60, 30])
    assert close([(spectrum.lam / (spectrum.lam + x)).sum() for x in kappa], 30, 1e-10)
    small = [scaling.random_features(spectrum, 30, 60, ridge=ridge, noise=0.1).test for ridge in (1e-10, 0.0)]
    assert close(*small, 1e-6)


@settings(max_examples=40, deadline=None)
@given(power_laws(), SIZES, SIZES, st.floats(0, 2), st.floats(1.1, 10.0))
def test_more_is_better_at_the_best_ridge(spectrum: Spectrum, n: float, k: float, noise: float, factor: float) -> None:
    _, test = scaling.optimal_ridge(spectrum, [n, factor * n, n], [k, k, factor * k], noise=noise)
    assert test[1] <= test[0] * (1 + 1e-7)
    assert test[2] <= test[0] * (1 + 1e-7)


@settings(max_examples=100, deadline=None)
@given(power_laws(), SIZES, SIZES, st.floats(0, 2), st.floats(0, 10.0))
def test_parts_of_the_error(spectrum: Spectrum, n: float, k: float, noise: float, ridge: float) -> None:
    """Variances are not negative, ensembles never hurt, the bias falls with n and k."""
    errors = scaling.random_features(spectrum, [n, 2 * n, n], [k, k, 2 * k], ridge=ridge, noise=noise)
    assert (errors.bias[1:] <= errors.bias[0] * (1 + 1e-9)).all()
    finite = np.isfinite(errors.test)
    slack = 1e-9 * np.where(finite, errors.test, 1.0)
    assert (errors.variance_of_features >= -slack).all()
    assert (errors.variance_of_data >= -slack).all()
    assert (errors.variance_of_both >= -slack)[finite].all()
    for E, B in ((2, 1), (1, 2), (3, 2)):
        assert (errors.ensemble(E, B) <= errors.test + slack)[finite].all()
        assert (errors.ensemble(E + 1, B) <= errors.ensemble(E, B) + slack)[finite].all()
    assert (errors.train[finite] >= 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: scaling.random_features(s, 0), "num_samples must be above zero"),
        (lambda s: scaling.random_features(s, 10, np.nan), "num_features must be above zero"),
        (lambda s: scaling.random_features(s, 10, 5, ridge=-1.0), "ridge must be finite and not negative"),
        (lambda s: scaling.random_features(s, 10, 5, noise=-1.0), "noise must be finite and not negative"),
        (lambda s: scaling.random_features(s.lam, 10), "spectrum must be a Spectrum"),
        (lambda s: scaling.optimal_ridge(s, np.inf), "num_samples must be finite"),
        (lambda s: scaling.random_features(s, 10).ensemble(0), "num_features must be a whole number of at least 1"),
    ],
)
def test_messages_of_random_features(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Spectrum.power_law(2.0, 1.5, 10))


# --- dynamics --------------------------------------------------------------------------------------------------------------

SMALL = Spectrum.power_law(1.75, 1.25, 200)


def equal(a: scaling.Errors, b: scaling.Errors, rtol: float, at: Any = ...) -> bool:
    """All five errors, `at` picking of a."""
    return all(close(getattr(a, name)[at], getattr(b, name), rtol, 1e-12) for name in NAMES)


@pytest.mark.parametrize(("k", "n"), [(40, 60), (60, 40), (300, 60), (60, 300), (300, 400), (np.inf, 60)])
def test_flow_ends_in_the_regression(k: float, n: float) -> None:
    end = scaling.flow(SMALL, [1e8], k, n, noise=0.3)
    assert equal(end, scaling.random_features(SMALL, n, k, noise=0.3), 1e-6, (..., 0))
    ridge = 0.01 * n
    end = scaling.flow(SMALL, [1e5], k, n, noise=0.3, weight_decay=0.01)
    assert equal(end, scaling.random_features(SMALL, n, k, noise=0.3, ridge=ridge), 1e-6, (..., 0))
    assert not equal(end, scaling.random_features(SMALL, n, k, noise=0.3, ridge=1.01 * ridge), 1e-6, (..., 0))


def test_steps_end_in_the_regression() -> None:
    """Decay 1/2: after 70 steps of rate 1/2 what is left of the start is below 0.75^70 = 2e-9."""
    spectrum = Spectrum.power_law(1.75, 1.25, 30)
    training = GradientDescent(0.5, 70, weight_decay=0.5)
    for k, n in ((8, 12), (12, 8), (np.inf, 8)):
        end = scaling.random_features(spectrum, n, k, noise=0.3, ridge=0.5 * n)
        assert equal(scaling.train(spectrum, training, k, n, noise=0.3), end, 1e-6, -1)


def test_infinitely_many_of_both() -> None:
    """Without limits by features and samples modes are independent."""
    t = np.array([0.5, 5.0, 50.0, 500.0])
    flow = scaling.flow(SMALL, t, noise=0.3)
    expected = (SMALL.power * np.exp(-2 * SMALL.lam * t[:, None])).sum(1)
    assert close(flow.test, expected, 1e-7)
    assert close(flow.train, expected + 0.09, 1e-7)
    for training in (GradientDescent(0.4, 30), GradientDescent(0.1, 30, momentum=0.8)):
        steps = scaling.train(SMALL, training, noise=0.3)
        assert close(steps.test, 2 * spectra.static_training(SMALL, training).loss, 1e-10)
    assert close(scaling.flow(SMALL, t, 1e12, 1e12).test, flow.test, 1e-6)
    binned = scaling.flow(Spectrum.power_law(1.75, 1.25, 20_000).binned(), t, 100, 200)
    assert close(binned.test, scaling.flow(Spectrum.power_law(1.75, 1.25, 20_000), t, 100, 200).test, 1e-3)


def test_flow_is_the_limit_of_small_steps() -> None:
    """Errors of first order in eta: halved with it; extrapolated they are of second order."""
    spectrum = Spectrum.power_law(1.75, 1.25, 60)
    flow = scaling.flow(spectrum, [2.0, 4.0], 40, 60, noise=0.3)
    runs = {eta: scaling.train(spectrum, GradientDescent(eta, round(4 / eta)), 40, 60, noise=0.3) for eta in (0.1, 0.05)}
    for name in NAMES:
        exact = getattr(flow, name)
        first, second = (getattr(runs[eta], name)[[round(2 / eta), round(4 / eta)]] - exact for eta in (0.1, 0.05))
        assert close(first / second, 2, 0.05)
        assert close(2 * second - first, 0, 0, 3e-4)
        assert not close(second, 0, 0, 3e-4)


def test_nodes_and_rests() -> None:
    t = np.geomspace(0.1, 1e8, 10)
    a, b = (scaling.flow(SMALL, t, 40, 60, noise=0.3, num_nodes=n) for n in (20, 28))
    assert equal(a, b, 1e-6)
    one = Spectrum.power_law(1.75, 1.25, 40_000)
    cut, training = one.truncated(4000), GradientDescent(0.3, 8)  # what is left out has lam t << 1
    assert close(scaling.flow(one, [3.0], 30, 50).test, scaling.flow(cut, [3.0], 30, 50).test, 1e-3)
    a, b = (scaling.train(x.binned(8), training, 30, 50) for x in (one, cut))
    assert close(a.test, b.test, 1e-3)
    assert not close(b.test, scaling.train(Spectrum(cut.lam, cut.power).binned(8), training, 30, 50).test, 1e-3)


def test_nothing_to_learn_with() -> None:
    for spectrum in (Spectrum([0.0], [2.0]), Spectrum([1.0], [0.0], rest_power=2.0)):
        assert close(scaling.flow(spectrum, [1.0, 1e6], 3, 4).test, 2.0 if spectrum.lam[0] == 0 else [2.0, 8 / 3], 0.3)
        assert close(scaling.feature_flow(spectrum, [1.0, 1e6], 1.0).loss, 2.0, 1e-12)
        assert close(scaling.random_features(spectrum, 4, 3).same_features, 2.0, 1e-12)
    whole = Spectrum.power_law(1.5, 2.0, 5000)
    assert close(scaling.power_law(1.5, 2.0, 5000.7).total_power, whole.total_power, 1e-12)
    assert scaling.power_law(1.5, 2.0, 1).num_modes == 1


def test_mean_residuals_are_the_bias() -> None:
    t = np.array([0.5, 5.0, 500.0, 1e7])
    left = scaling.residuals(SMALL, t, 40, 60)
    assert close((SMALL.power * left**2).sum(1), scaling.flow(SMALL, t, 40, 60).bias, 1e-7)
    assert close((1 - left[-1]).sum(), 40, 1e-5)  # as many modes as features are learned in the end


def test_early_corrections() -> None:
    """H_k(s) = 1 / (s + lam_k) + (1 / k + 1 / n) lam_k S0 / (s + lam_k)^2 + ..., S0 = sum lam / (s + lam)."""
    s, kappa, small, x, y = sympy.symbols("s kappa epsilon x y", positive=True)
    lams = (sympy.Integer(1), sympy.Rational(1, 3))
    S0 = sum(lam / (s + lam) for lam in lams)
    # kappa = s + first order: s = kappa (1 - small x z(kappa)) (1 - small y z(kappa)), x = 1 / k, y = 1 / n
    c = sympy.symbols("c")
    z = sum(lam / (lam + kappa) for lam in lams)
    equation = (kappa * (1 - small * x * z) * (1 - small * y * z) - s).subs(kappa, s + small * c)
    (first,) = sympy.solve(sympy.diff(equation, small).subs(small, 0), c)
    for lam in lams:
        H = (kappa / (kappa + lam) / s).subs(kappa, s + small * first)
        correction = sympy.diff(H, small).subs(small, 0)
        assert sympy.simplify(correction - (x + y) * lam * S0 / (s + lam) ** 2) == 0
    t, many = np.array([0.3, 1.0]), 1e5
    exact = scaling.residuals(SMALL, t)
    by_k, by_n = many * (scaling.residuals(SMALL, t, many) - exact), many * (scaling.residuals(SMALL, t, np.inf, many) - exact)
    assert close(by_k, by_n, 1e-3, 1e-6)
    assert by_k.max() > 0.01


def test_online_recursion() -> None:
    """k = inf: c_k <- (1 - eta lam)^2 c_k + eta^2 lam (sum lam c + sigma^2) / B; Gaussian samples add eta^2 lam^2 c / B."""
    eta, B, T, noise = 0.4, 16, 30, 0.3
    training = GradientDescent(eta, T, sampling="online", batch_size=B)
    errors = scaling.train(SMALL, training, noise=noise)
    draws = linear_models.descent(SMALL, training, np.inf, noise=noise, num_draws=80, seed=1)

    def recursion(extra: float) -> np.ndarray:
        lam, c, out = SMALL.lam, SMALL.power / SMALL.lam, []
        for _ in range(T + 1):
            out.append(lam @ c)
            c = c * ((1 - eta * lam) ** 2 + extra * eta**2 * lam**2 / B) + eta**2 * lam * (lam @ c + noise**2) / B
        return np.array(out)

    assert close(errors.test, recursion(0), 1e-10)
    assert (np.abs(recursion(1) - draws.mean("test")) < 4 * draws.sem("test") + 1e-12).all()
    assert agree(errors, draws, "test", 0.02)
    assert not agree(
        scaling.train(SMALL, GradientDescent(eta, T, sampling="online", batch_size=8), noise=noise), draws, "test", 0.02
    )


@pytest.mark.parametrize(
    ("training", "n"),
    [
        (GradientDescent(0.4, 40), 60),
        (GradientDescent(0.1, 40, momentum=0.8), 60),
        (GradientDescent(0.2, 40, momentum=0.5, nesterov=True, weight_decay=0.05, schedule=lambda t: 1 / (1 + t / 20)), 60),
        (GradientDescent(0.4, 40, sampling="online", batch_size=32), None),
    ],
)
def test_steps_and_simulations(training: GradientDescent, n: int | None) -> None:
    """3 %: order 1 / k + 1 / n of the first, large modes."""
    theory = scaling.train(SMALL, training, 40, n or np.inf, noise=0.3)
    draws = linear_models.descent(SMALL, training, 40, n, noise=0.3, num_draws=100, seed=5)
    assert all(agree(theory, draws, name, 0.03) for name in NAMES)
    wrong = scaling.train(SMALL, training, 25, n or np.inf, noise=0.3)
    assert not all(agree(wrong, draws, name, 0.03) for name in NAMES)
    assert not agree(scaling.train(SMALL, training, 40, n or np.inf), draws, "train", 0.03)  # without noise


def test_reference_numbers() -> None:
    """Of the shared design notes, computed apart from this code."""
    errors = scaling.train(SMALL, GradientDescent(0.4, 40), 40, 60, noise=0.3)
    assert close(errors.test[[5, 10, 39]], [0.6063, 0.4831, 0.3775], 0, 6e-5)
    assert close(errors.train[[5, 10, 39]], [0.5728, 0.4235, 0.2467], 0, 6e-5)
    spectrum = Spectrum.power_law(1.75, 1.25, 2000)
    by_members = [scaling.flow(spectrum, [300.0], 256 / E).ensemble(E)[0] for E in (4, 2, 1)]
    assert close(by_members, [0.1331, 0.0942, 0.0752], 0, 6e-5)


def test_flow_and_simulations() -> None:
    t = np.array([0.5, 2.0, 10.0, 50.0, 300.0, 3000.0])
    theory = scaling.flow(SMALL, t, 40, 60, noise=0.3)
    draws = linear_models.flow(SMALL, t, 40, 60, noise=0.3, num_draws=800, seed=40)
    assert all(agree(theory, draws, name, 0.03) for name in NAMES)
    assert all(agree(theory, draws, name, 0.03, sigmas=0) for name in ("test", "train"))  # standard errors are 0.3 to 0.6 %
    assert not agree(scaling.flow(SMALL, t, 60, 40, noise=0.3), draws, "train", 0.03)
    assert not agree(scaling.flow(SMALL, 1.5 * t, 40, 60, noise=0.3), draws, "test", 0.03)


@pytest.mark.slow
def test_what_the_theory_leaves_out_falls_with_size() -> None:
    """Relative deviations are of order 1 / k: a quarter at four times the size, and below a half within errors."""
    t = np.array([2.0, 10.0, 50.0, 300.0])
    gaps = []
    for k, n, num_draws in ((20, 30, 6400), (80, 120, 2400)):
        theory, draws = (
            scaling.flow(SMALL, t, k, n, noise=0.3),
            linear_models.flow(SMALL, t, k, n, noise=0.3, num_draws=num_draws, seed=k),
        )
        gaps.append(np.mean([getattr(theory, name) / draws.mean(name) - 1 for name in ("test", "train")]))
    assert gaps[0] < -0.02  # seen clearly
    assert abs(gaps[1]) < abs(gaps[0]) / 2


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.floats(1.3, 2.5), st.floats(1.1, 2.0), st.integers(40, 120), st.integers(40, 120), st.floats(0.1, 1.0))
def test_random_models_and_simulations(a: float, b: float, k: int, n: int, noise: float) -> None:
    spectrum, t = Spectrum.power_law(a, b, 150), np.array([1.0, 10.0, 100.0])
    draws = linear_models.flow(spectrum, t, k, n, noise=noise, num_draws=100, seed=k + n)
    theory = scaling.flow(spectrum, t, k, n, noise=noise)
    assert all(agree(theory, draws, name, 0.04, sigmas=4) for name in ("test", "train"))
    ridge = 0.05 * n
    regression = linear_models.ridge_regression(spectrum, n, k, ridge=ridge, noise=noise, num_draws=100, seed=k + n)
    theory = scaling.random_features(spectrum, n, k, ridge=ridge, noise=noise)
    assert all(agree(theory, regression, name, 0.04, sigmas=4) for name in ("test", "train"))


@settings(max_examples=40, deadline=None)
@given(power_laws(), SIZES, SIZES, st.floats(0, 2), st.floats(1.1, 10.0))
def test_monotone_in_time_features_and_samples(spectrum: Spectrum, k: float, n: float, noise: float, factor: float) -> None:
    t, tiny = np.geomspace(0.1, 1e6, 8), 1e-8 * spectrum.total_power
    bias = scaling.flow(spectrum, t, [k, factor * k, k], [n, n, factor * n], noise=noise)
    assert (np.diff(bias.bias, axis=-1) <= tiny).all()
    assert (np.diff(bias.train, axis=-1) <= tiny + 1e-8 * noise**2).all()  # flow goes down
    assert (bias.bias[1:] <= bias.bias[0] + tiny).all()
    alone = scaling.flow(spectrum, t, [k, factor * k])  # samples without end
    assert (alone.test[1] <= alone.test[0] + tiny).all()
    slack = tiny + 1e-6 * bias.test
    assert (bias.ensemble(2) <= bias.test + slack).all()
    assert (bias.ensemble(3, 2) <= bias.ensemble(2, 1) + slack).all()


def test_frontier() -> None:
    start = time.process_time()
    scaling.frontier(
        Spectrum.power_law(1.75, 1.25, 100_000).binned(), np.geomspace(1e2, 1e8, 32), np.geomspace(2, 1e5, 32), 1e4
    )
    assert time.process_time() - start < 10  # 1024 points; a fraction of a second where nothing else runs
    spectrum = scaling.power_law(1.5, 1.25)
    C, k = np.geomspace(1e3, 1e7, 9), np.geomspace(4, 2e4, 31)
    best = scaling.frontier(spectrum, C, k)
    assert best.inside.all()
    direct = [scaling.flow(spectrum, [t], f).test[0] for f, t in zip(best.num_features, best.times, strict=True)]
    assert close(best.test, direct, 1e-3)
    assert (best.test <= best.errors.min(0) * (1 + 1e-12)).all()
    assert close(np.polyfit(np.log(C), np.log(best.num_features), 1)[0], 1 / 2.25, 0.05)
    four = scaling.frontier(spectrum, C, k, num_members=4)
    assert (four.test > best.test).all()  # ensembles are not the best use of compute
    assert close(4 * four.num_features * four.times, C, 1e-12)  # four members share the budget
    members = [scaling.flow(spectrum, [four.times[i]], four.num_features[i]).ensemble(4)[0] for i in (0, 8)]
    assert close(four.test[[0, 8]], members, 1e-3)
    assert not scaling.frontier(spectrum, C, k[:8]).inside.any()
    assert "edge of k" in str(scaling.frontier(spectrum, C, k[:8]))


@settings(max_examples=8, deadline=None)
@given(st.floats(1.2, 2.0), st.floats(1.4, 2.5))
def test_exponents(a: float, b: float) -> None:
    """a - 1 < b: t^-(a-1)/b, k^-(a-1), n^-(a-1), C^-(a-1)/(1+b); what is left at these sizes is below 0.03."""
    spectrum = scaling.power_law(a, b, 1e15, per_decade=8)

    def slope(x: np.ndarray, y: np.ndarray) -> float:
        return -float(np.polyfit(np.log(x), np.log(y), 1)[0])

    assume(a - 1 < 0.8 * b)  # slow near the crossover
    t, sizes = np.geomspace(1e4, 1e5, 5), np.geomspace(1e3, 1e4, 5)
    assert abs(slope(t, scaling.flow(spectrum, t).test) - (a - 1) / b) < 0.03
    assert abs(slope(sizes, scaling.random_features(spectrum, 1e9, sizes).test) - (a - 1)) < 0.03
    assert abs(slope(sizes, scaling.random_features(spectrum, sizes).test) - (a - 1)) < 0.03
    C = np.geomspace(1e5, 1e7, 5)
    best = scaling.frontier(spectrum, C, np.geomspace(2, 1e5, 41))
    assert abs(slope(C, best.test) - (a - 1) / (1 + b)) < 0.03


def test_frontier_of_easy_tasks() -> None:
    """a - 1 > b: the variance t^(1/b - 1) / k limits, not the floor: C^-(a-1)/a at k ~ C^(a-b)/a, far from the quoted slope."""
    for a, b in ((5.0, 1.25), (4.0, 1.5)):
        spectrum, t, k = scaling.power_law(a, b, per_decade=16), np.geomspace(1e2, 1e3, 4), 1e6
        variance = scaling.flow(spectrum, t, k).test - scaling.flow(spectrum, t).test
        assert abs(np.polyfit(np.log(t), np.log(variance), 1)[0] - (1 / b - 1)) < 0.01
        best = scaling.frontier(spectrum, np.geomspace(1e6, 1e8, 3), np.geomspace(100, 1e8, 70))
        assert abs(best.exponent[1] - (a - 1) / a) < 0.01
        assert abs(np.polyfit(np.log(best.compute), np.log(best.num_features), 1)[0] - (a - b) / a) < 0.02
        quoted = min(a - 1, 2 * b)
        assert best.exponent[1] < (a - 1) * quoted / (a - 1 + b * quoted) - 0.3


def test_floor_of_hard_and_easy_tasks() -> None:
    """The floor in k falls as k^-min(a-1, b), its bias as k^-min(a-1, 2b): the quoted 2b is of the bias alone."""
    k = np.array([64.0, 512.0])
    for a, b, total, bias in ((3.0, 1.5, 1.5, 2.0), (6.0, 1.5, 1.5, 3.0), (1.6, 1.5, 0.6, 0.6)):
        errors = scaling.random_features(scaling.power_law(a, b), 1e13, k)
        assert abs(np.log(errors.test[0] / errors.test[1]) / np.log(8) - total) < 0.07, (a, b)
        assert abs(np.log(errors.bias[0] / errors.bias[1]) / np.log(8) - bias) < 0.13, (a, b)
    for size in (32, 64):  # and simulations have the whole floor, not the bias alone
        spectrum = Spectrum.power_law(5.0, 1.25, 300)
        draws = linear_models.ridge_regression(spectrum, 800, size, num_draws=40, seed=size)
        theory = scaling.random_features(spectrum, 800, size)
        assert agree(theory, draws, "test", 0.03)
        assert theory.test > 5 * theory.bias


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: scaling.flow(s, [0.0, 1.0]), "times must be above zero and increasing"),
        (lambda s: scaling.flow(s, [2.0, 1.0]), "times must be above zero and increasing"),
        (lambda s: scaling.flow(s, [1.0], -3), "num_features must be above zero"),
        (lambda s: scaling.flow(s, [1.0], num_nodes=7), "num_nodes must be even"),
        (lambda s: scaling.train(s, GradientDescent(0.1, 5, flow=True)), "call dmft.scaling.flow"),
        (lambda s: scaling.train(s, GradientDescent(0.1, 5, batch_size=4)), "sampling='online'"),
        (lambda s: scaling.train(s, GradientDescent(0.1, 5, "logistic")), "loss='mse', got 'logistic'"),
        (lambda s: scaling.train(s, GradientDescent(0.1, 5, label_noise=0.1)), "without label_noise.*noise="),
        (lambda s: scaling.train(s, GradientDescent(0.1, 5), [3, 4]), "must be a number"),
        (lambda s: scaling.train(s, GradientDescent(0.1, 5, sampling="online", batch_size=4), 3, 4), "leave num_samples out"),
        (lambda s: scaling.frontier(s, [1.0], [1, 2, 3]), "compute must be 2 numbers"),
        (lambda s: scaling.frontier(s, [1.0, 2.0], [1, 3, 2]), "num_features must be 3 numbers"),
        (lambda s: scaling.power_law(0.9, 2.0), "a must be above 1"),
        (lambda s: scaling.power_law(2.0, 2.0, 1e16), "from 1 to 1e15"),
        (lambda s: linear_models.flow(s.truncated(5), [1.0], 3, 3), "nothing left out"),
        (lambda s: linear_models.descent(s, GradientDescent(0.1, 5), 3), "pass num_samples"),
    ],
)
def test_messages_of_dynamics(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Spectrum.power_law(2.0, 1.5, 10))


def test_diverging() -> None:
    """Beyond 2 / lam_1 errors grow, and say so."""
    errors = scaling.train(SMALL, GradientDescent(2.5, 20), noise=0.3)
    assert errors.test[-1] > 1e3


# --- feature learning ------------------------------------------------------------------------------------------------------


def test_without_feature_learning() -> None:
    """gamma = 0 is the lazy model; gamma -> 0 goes there."""
    t = np.geomspace(0.1, 1e5, 13)
    spectrum = scaling.power_law(1.75, 1.25)
    assert close(scaling.feature_flow(spectrum, t, 0.0).loss, scaling.flow(spectrum, t).test, 1e-6)
    training = GradientDescent(0.3, 20, momentum=0.5)
    lazy = scaling.train(SMALL, training, 40, 60, noise=0.3)
    assert equal(scaling.train_features(SMALL, training, 0.0, 40, 60, noise=0.3), lazy, 1e-12)
    assert equal(scaling.train_features(SMALL, training, 1e-8, 40, 60, noise=0.3), lazy, 1e-6)
    assert not equal(scaling.train_features(SMALL, training, 0.01, 40, 60, noise=0.3), lazy, 1e-6)


def test_mode_equations() -> None:
    """dp/dt = [rich I + gamma p p^T / rich] Lam (w* - p), by a general integrator."""
    spectrum, gamma = Spectrum.power_law(1.75, 1.5, 30), 1.5
    w = np.sqrt(spectrum.power / spectrum.lam)

    def slope(_: float, p: np.ndarray) -> np.ndarray:
        rich = (1 + np.sqrt(1 + 4 * gamma * p @ p)) / 2
        force = spectrum.lam * (w - p)
        return rich * force + gamma * p * (p @ force) / rich

    t = np.array([0.3, 3.0, 30.0])
    p = solve_ivp(slope, (0, 30), 0 * w, method="LSODA", t_eval=t, rtol=1e-10, atol=1e-13).y.T
    found = scaling.feature_flow(spectrum, t, gamma)
    loss = (spectrum.lam * (w - p) ** 2).sum(1)
    assert close(found.loss, loss, 1e-3)
    assert close(found.norm, (np.sqrt(1 + 4 * gamma * (p**2).sum(1)) - 1) / (2 * gamma), 1e-3)
    errors = [np.abs(scaling.feature_flow(spectrum, t, gamma, per_decade=m).loss / loss - 1).max() for m in (80, 160)]
    assert 3 < errors[0] / errors[1] < 5  # second order
    assert not close(scaling.feature_flow(spectrum, t, 1.2 * gamma).loss, loss, 1e-2)


def test_flow_of_features_is_the_limit_of_small_steps() -> None:
    spectrum = Spectrum.power_law(1.75, 1.5, 40)
    exact = scaling.feature_flow(spectrum, [1.0, 3.0], 1.0).loss
    first, second = (
        scaling.train_features(spectrum, GradientDescent(eta, round(3 / eta)), 1.0).test[[round(1 / eta), -1]] - exact
        for eta in (0.1, 0.05)
    )
    assert close(first / second, 2, 0.1)
    assert close(2 * second - first, 0, 0, 1e-3)


@pytest.mark.parametrize(
    ("training", "n", "gamma", "numbers"),
    [
        (GradientDescent(0.2, 40, sampling="online", batch_size=40), None, 0.5, (0.5134, 0.2551)),
        (GradientDescent(0.15, 40), 80, 2.0, (0.5130, 0.2690)),
    ],
)
def test_features_and_simulations(training: GradientDescent, n: int | None, gamma: float, numbers: tuple[float, float]) -> None:
    spectrum = Spectrum.power_law(1.75, 1.5, 200)
    theory = scaling.train_features(spectrum, training, gamma, 60, n or np.inf, noise=0.2)
    assert close(theory.test[[10, 39]], numbers, 0, 6e-5)  # of the design notes
    draws = linear_models.descent(spectrum, training, 60, n, noise=0.2, gamma=gamma, num_draws=60, seed=3)
    assert all(agree(theory, draws, name, 0.03) for name in NAMES)
    lazy = scaling.train(spectrum, training, 60, n or np.inf, noise=0.2)
    assert not agree(lazy, draws, "test", 0.03)


def test_features_near_the_edge_of_stability() -> None:
    """Rates near 2 / (rich lam_1): what is not yet right on the way to the solution grows a lot, the solution does not."""
    for eta, steps in ((0.2, 80), (0.4, 60)):
        theory = scaling.train_features(SMALL.binned(8), GradientDescent(eta, steps), 1.0, 40, 60)
        draws = linear_models.descent(SMALL, GradientDescent(eta, steps), 40, 60, gamma=1.0, num_draws=10)
        assert agree(theory, draws, "test", 0.03)
        few = scaling.train_features(SMALL.binned(8), GradientDescent(eta, 11), 1.0, 40, 60)
        assert close(few.test, theory.test[:12], 1e-7)  # no state knows later ones


BETAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2, 1.5, 1.9)


def test_exponents_of_feature_learning() -> None:
    """chi = beta max(1, 2 / (1 + beta)) of ten beta, in less than a minute; at beta = 1 itself the approach is logarithmic."""
    t, began = np.geomspace(1e4, 1e5, 11), time.process_time()
    for beta in BETAS:
        spectrum = scaling.power_law(1.5 * beta + 1, 1.5, 1e15)
        for gamma in (1.0, 4.0):
            chi = scaling.feature_flow(spectrum, t, gamma).exponent(1e4, 1e5)
            assert abs(chi - beta * max(1, 2 / (1 + beta))) < 0.03, (beta, gamma, chi)
        lazy = scaling.feature_flow(spectrum, t, 0.0).exponent(1e4, 1e5)
        assert abs(lazy - beta) < 0.01
        assert (chi > lazy + 0.1) == (beta < 0.8), beta  # hard tasks alone gain
    assert time.process_time() - began < 60  # seconds where nothing else runs


def test_exponent_by_balance() -> None:
    """tau' = q, q ~ |p| ~ tau^((1 - beta) / 2), loss ~ tau^-beta, gives chi; frontiers from t^-x = k^-y at C = k t."""
    beta, r, x, y = sympy.symbols("beta r x y", positive=True)
    # tau = t^r: r - 1 = r (1 - beta) / 2
    (r_,) = sympy.solve(sympy.Eq(r - 1, r * (1 - beta) / 2), r)
    assert sympy.simplify(r_ * beta - 2 * beta / (1 + beta)) == 0
    (share,) = sympy.solve(sympy.Eq(x * (1 - r), y * r), r)  # k = C^r, t = C^(1 - r)
    a, b = sympy.symbols("a b", positive=True)
    lazy = (share * y).subs({x: (a - 1) / b, y: a - 1})
    assert sympy.simplify(lazy - (a - 1) / (1 + b)) == 0


def test_messages_of_feature_learning() -> None:
    spectrum = Spectrum.power_law(2.0, 1.5, 10)
    for call, message in (
        (lambda: scaling.feature_flow(spectrum, [1.0], -1.0), "gamma must be finite and not negative"),
        (lambda: scaling.feature_flow(spectrum, [[1.0]], 1.0), "times must have shape"),
        (lambda: scaling.feature_flow(spectrum, [1.0], 1.0).exponent(1, 2), "only 1 of the times"),
        (lambda: scaling.train_features(spectrum, GradientDescent(0.1, 5, weight_decay=0.1), 1.0), "weight_decay"),
        (lambda: linear_models.descent(spectrum, GradientDescent(0.1, 5), np.inf, 5, gamma=1.0), "finite num_features"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- laws over random models -----------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.floats(1.2, 3), st.floats(1.1, 1.8), st.floats(4, 40), st.floats(1.5, 4), st.booleans(), st.floats(0, 1))
def test_identities_over_random_models(a: float, b: float, least: float, more: float, swap: bool, noise: float) -> None:
    """Flow to the end = regression without ridge = kernel regression at k = inf; features at gamma = 0 = the lazy model."""
    spectrum = Spectrum.power_law(a, b, 60)
    k, n = (more * least, least) if swap else (least, more * least)
    end = scaling.flow(spectrum, [1e10], k, n, noise=noise)
    assert equal(end, scaling.random_features(spectrum, n, k, noise=noise), 1e-6, (..., 0))
    end = scaling.flow(spectrum, [1e10], np.inf, least, noise=noise)
    curve = spectra.learning_curve(spectrum, least, noise=noise)
    assert close([end.test[0], end.train[0]], [curve.test[0], curve.train[0]], 1e-6, 1e-9)
    training = GradientDescent(0.3, 6, momentum=0.4)
    lazy = scaling.train(spectrum.binned(8), training, k, n, noise=noise)
    assert equal(scaling.train_features(spectrum.binned(8), training, 0.0, k, n, noise=noise), lazy, 1e-6)
    t = [0.3, 30.0]
    assert close(scaling.feature_flow(spectrum, t, 0.0).loss, scaling.flow(spectrum, t).test, 1e-6)
    assert not close(scaling.feature_flow(spectrum, t, 0.1).loss, scaling.flow(spectrum, t).test, 1e-3)


@settings(max_examples=10, deadline=None)
@given(st.floats(1.2, 2.0), st.floats(1.25, 3.0))
def test_floors_of_random_easy_tasks(b: float, over: float) -> None:
    """a - 1 = over b: the floor in k goes as k^-b, its bias as k^-min(a - 1, 2b), and the floor in n as n^-min(a - 1, 2b)."""
    assume(abs(over - 2) > 0.4)
    sizes = np.geomspace(1e4, 1e5, 4)
    spectrum = scaling.power_law(over * b + 1, b, 1e15, per_decade=16)

    def slope(y: np.ndarray) -> float:
        return -float(np.polyfit(np.log(sizes), np.log(y), 1)[0])

    of_features = scaling.random_features(spectrum, 1e14, sizes)
    assert abs(slope(of_features.test) - b) < 0.06
    assert abs(slope(of_features.bias) - min(over, 2) * b) < 0.06
    assert abs(slope(scaling.random_features(spectrum, sizes).test) - min(over, 2) * b) < 0.06


@settings(max_examples=10, deadline=None)
@given(st.floats(1.2, 2.5), st.one_of(st.floats(0.25, 0.8), st.floats(1.25, 1.8)), st.floats(0.5, 4))
def test_exponents_of_random_feature_learning(alpha: float, beta: float, gamma: float) -> None:
    spectrum = scaling.power_law(alpha * beta + 1, alpha, 1e15, per_decade=16)
    flow = scaling.feature_flow(spectrum, np.geomspace(1e4, 1e5, 6), gamma, per_decade=40)
    assert abs(flow.exponent(1e4, 1e5) - beta * max(1, 2 / (1 + beta))) < 0.03
    assert (np.diff(flow.loss) < 0).all()
    assert (flow.loss <= scaling.flow(spectrum, flow.times).test * (1 + 1e-3)).all()  # features that learn are never behind


@settings(max_examples=20, deadline=None)
@given(power_laws(), st.floats(10, 300), st.floats(10, 300), st.floats(0, 1), st.floats(1.2, 5))
def test_step_by_step_more_is_better(spectrum: Spectrum, k: float, n: float, noise: float, factor: float) -> None:
    """Of training in steps: the bias falls with k and n, ensembles never hurt, fresh batches are the better the larger.

    Away from the edge of stability, beyond which nothing is monotone: k = n = 3 at a trace of 5 has it at eta = 0.3.
    """
    coarse, training = spectrum.binned(2), GradientDescent(0.1, 6)
    few, wide, many = (
        scaling.train(coarse, training, x, y, noise=noise) for x, y in ((k, n), (factor * k, n), (k, factor * n))
    )
    tiny = 1e-9 * coarse.total_power
    assert (wide.bias <= few.bias + tiny).all()
    assert (many.bias <= few.bias + tiny).all()
    assert (few.ensemble(2) <= few.test + tiny).all()
    assert (few.ensemble(3, 2) <= few.ensemble(2, 2) + tiny).all()
    small, large = (
        scaling.train(coarse, GradientDescent(0.1, 6, sampling="online", batch_size=size), k, noise=noise) for size in (4, 16)
    )
    assert (large.test <= small.test + tiny).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spectrum.power_law(1.0, 1.5, 10), "a must be above 1, got 1: the power of the target"),
        (lambda: Spectrum.power_law(1.5, 0.9, 10), "b must be above 1, got 0.9: the trace of the kernel"),
        (lambda: scaling.power_law(1.5, 1.0), "has no limit"),
        (lambda: scaling.power_law(-1.0, 1.5), "a must be"),
        (lambda: Spectrum([1.0, -0.1], [1.0, 1.0]), "lam must not be negative, got -0.1 at index 1"),
        (lambda: Spectrum([0.1, 1.0], [1.0, 1.0]), "lam must come largest first, got 0.1 before 1 at index 0"),
        (lambda: Spectrum([1.0, np.inf], [1.0, 1.0]), "lam"),
        (lambda: Spectrum([1.0, 0.1], [1.0, np.nan]), "power"),
        (lambda: Spectrum([1.0, 0.1], [1.0, -1.0]), "power must not be negative"),
        (lambda: Spectrum([1.0, 0.1], [1.0]), "power must have one entry per eigenvalue"),
        (lambda: Spectrum([1.0], [1.0], rest_trace=-1.0), "rest_trace must be finite and not negative"),
    ],
)
def test_spectra_that_no_law_holds_for(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- by algebra ------------------------------------------------------------------------------------------------------------


def test_closed_covariances_by_algebra() -> None:
    """The two equations for C1 and C3 of 2402.01092 at two frequencies, solved exactly, are the formulas of the code."""
    lam, c = (sympy.Rational(1), sympy.Rational(2, 5), sympy.Rational(1, 7)), (sympy.Rational(3), sympy.Rational(1, 2), 1)
    N, P, sigma2 = sympy.Rational(9, 2), sympy.Rational(7), sympy.Rational(1, 3)
    kappas = sympy.Rational(1, 3), sympy.Rational(4, 7)
    R1, R3, s, H = [], [], [], []
    for kappa in kappas:
        z = sum(x / (x + kappa) for x in lam)
        R1.append(1 - z / P)
        R3.append(1 - z / N)
        s.append(kappa * R1[-1] * R3[-1])
        H.append([1 / (s[-1] + x * R1[-1] * R3[-1]) for x in lam])
    r1, r3, ss, both = R1[0] * R1[1], R3[0] * R3[1], s[0] * s[1], [x * y for x, y in zip(*H, strict=True)]
    S1 = sum(y * h for y, h in zip(c, both, strict=True))
    S2, A1, A2 = (
        sum(w * h for w, h in zip(weights, both, strict=True))
        for weights in ([x * y for x, y in zip(lam, c, strict=True)], lam, [x**2 for x in lam])
    )
    C1, C3 = sympy.symbols("C1 C3")
    found = sympy.solve(
        [
            (1 - r1 * r3 * A2 / P) * C1 - r1 * A1 / N * C3 - r1 * (S1 + sigma2 / ss),
            -r3 * ss * A1 / P * C1 + (1 - r3 * r1 * A2 / N) * C3 - r3 * r1 * S2,
        ],
        [C1, C3],
    )
    C0 = S1 + A1 * found[C3] / N + A2 * r3 * found[C1] / P
    over = [1 / ((x + kappas[0]) * (x + kappas[1])) for x in lam]
    sums = [
        sum(w * o for w, o in zip(weights, over, strict=True))
        for weights in (c, [x * y for x, y in zip(lam, c, strict=True)], lam, [x**2 for x in lam])
    ]
    product = kappas[0] * kappas[1]
    arguments = (product * sums[0], sums[1], sums[2], product * sums[2], sums[3], 1 / N, 1 / P, sigma2)
    test = four(*(np.float64(x) for x in arguments[:-1]), float(sigma2))[0]
    assert close(float(C0 * ss), test, 1e-12)
    train = float(r1) * (test + float(sigma2))
    assert close(float(found[C1] * ss), train, 1e-12)
    assert not close(float(C0 * ss), four(*(np.float64(x) for x in arguments[:-1]), 0.0)[0], 1e-3)


def test_fixed_points_by_algebra() -> None:
    """M equal modes: kappa is the root of a quadratic. Power laws: z = N becomes kappa = (pi / b / sin(pi / b) / N)^b."""
    lam, kappa, M, n, delta = sympy.symbols("lam kappa M n delta", positive=True)
    roots = sympy.solve(sympy.numer(sympy.together(kappa * (1 - M * lam / (lam + kappa) / n) - delta / n)), kappa)
    values = {lam: sympy.Rational(1, 2), M: 30, n: 8, delta: sympy.Rational(1, 5)}
    (expected,) = [float(root.subs(values)) for root in roots if root.subs(values) > 0]
    assert close(scaling.resolution(Spectrum([0.5], [1.0], [30]), 8.0, ridge=0.2), expected, 1e-12)
    k, b = sympy.symbols("k b", positive=True)
    for value in (2, 3):
        modes = sympy.integrate(1 / (1 + k**value), (k, 0, sympy.oo))  # kappa^(-1/b) times this is z
        assert sympy.simplify(modes - (sympy.pi / b / sympy.sin(sympy.pi / b)).subs(b, value)) == 0
        law = (float(modes) / 1e4) ** value
        assert close(scaling.resolution(scaling.power_law(2.0, value), 1e4), law, 1e-3)
        assert not close(scaling.resolution(scaling.power_law(2.0, value), 1.01e4), law, 1e-3)


def test_floors_by_algebra() -> None:
    """What lies beyond mode k has power k^-(a - 1) / (a - 1); the variance of easy tasks is kappa sum c / lam, kappa ~ k^-b."""
    more, k, x = sympy.symbols("more k x", positive=True)  # more = a - 1
    beyond = sympy.integrate(x ** (-1 - more), (x, k, sympy.oo))
    assert sympy.simplify(beyond - k**-more / more) == 0
    sizes = np.array([1e4, 4e4])
    for a, b in ((6.0, 1.5), (5.0, 1.25)):
        spectrum = scaling.power_law(a, b)
        kappa, errors = scaling.resolution(spectrum, 1e13, sizes), scaling.random_features(spectrum, 1e13, sizes)
        # (b / k) / (1 - q / k) = kappa: z = k, and z - q = sum lam kappa / (lam + kappa)^2 = b / kappa
        assert close(errors.variance_of_features / kappa, spectrum.multiplicity @ (spectrum.power / spectrum.lam), 0.02)
        assert errors.bias[1] < 0.02 * errors.test[1]


def test_what_the_early_corrections_leave_out() -> None:
    """<W^2> of Wishart matrices is lam^2 + (lam tr + lam^2) / k; the model, of many modes, has lam^2 + lam tr / k."""
    lam, k, rng = np.array([1.0, 0.3, 0.2]), 4, np.random.default_rng(0)
    A = rng.standard_normal((40_000, k, 3)) * np.sqrt(lam)
    W = A.swapaxes(1, 2) @ A / k
    seen = np.einsum("zij,zji->zi", W, W)
    mean, error = seen.mean(0), seen.std(0) / 200
    exact = lam**2 + (lam * lam.sum() + lam**2) / k
    assert (np.abs(mean - exact) < 4 * error).all()
    t = 1e-3
    left = scaling.residuals(Spectrum(lam, np.ones(3)), [t], k, num_nodes=28)[0]
    model = 2 * (left - 1 + lam * t) / t**2
    assert close(model, lam**2 + lam * lam.sum() / k, 0.01)
    assert not close(model, exact, 0.05)


# --- simulations -----------------------------------------------------------------------------------------------------------


def test_kernel_of_a_draw_is_the_network() -> None:
    """On the whole distribution: small steps go to the mode equations of the draw's kernel, at any gamma."""
    spectrum, k, T = Spectrum.power_law(1.75, 1.5, 30), 7, 3.0
    drawn = linear_models.kernel_of_draw(spectrum, k, seed=5)
    A = np.random.default_rng(5).standard_normal((k, 30))
    target = np.sqrt(spectrum.power / spectrum.lam)
    for gamma in (0.0, 1.5):
        gaps = []
        for eta in (0.02, 0.01):
            w, X = np.zeros(k), np.eye(k)
            for _ in range(round(T / eta)):
                g = A @ (spectrum.lam * (target - (w @ X) @ A / k))
                w, X = w + eta * X @ g, X + eta * gamma / k * np.outer(w, g)
            loss = float(spectrum.lam @ (target - (w @ X) @ A / k) ** 2)
            gaps.append(loss - scaling.feature_flow(drawn, [T], gamma, per_decade=320).loss[0])
        assert close(2 * gaps[1] - gaps[0], 0, 0, 2e-5)
        assert abs(gaps[1]) < 2e-3
    assert abs(scaling.feature_flow(drawn, [T], 0.0).loss[0] - loss) > 0.02  # twin
    many = [scaling.feature_flow(linear_models.kernel_of_draw(SMALL, 40, i), [20.0], 0.0).loss[0] for i in range(40)]
    assert abs(np.mean(many) - scaling.flow(SMALL, [20.0], 40).test[0]) < 0.03 * np.mean(many) + 3 * np.std(many) / 40**0.5


def test_simulations_without_end_of_samples() -> None:
    t = np.array([1.0, 30.0, 1e8])
    theory, nets = scaling.flow(SMALL, t, 40), linear_models.flow(SMALL, t, 40, np.inf, num_draws=60, noise=0.3)
    for name in ("test", "same_data", "same_features", "bias"):
        assert agree(theory, nets, name, 0.03), name
    assert close(nets.train, nets.test + 0.09, 1e-9)
    assert not agree(scaling.flow(SMALL, t, 30), nets, "test", 0.03)
    steps = linear_models.descent(SMALL, GradientDescent(0.01, 100), 40, np.inf, num_draws=60)
    assert close(steps.mean("test")[-1], nets.mean("test")[0], 0.03)
    several = linear_models.ridge_regression(SMALL, 30, 50, ridge=[0.0, 0.1, 1.0], num_draws=3, noise=0.1)
    for i, ridge in enumerate((0.0, 0.1, 1.0)):
        one = linear_models.ridge_regression(SMALL, 30, 50, ridge=ridge, num_draws=3, noise=0.1)
        assert close(several.test[:, i], one.test, 1e-12)
    with pytest.raises(ValueError, match="nothing beside infinitely many samples"):
        linear_models.ridge_regression(SMALL, np.inf, 50, ridge=0.1)
    with pytest.raises(ValueError, match="ridge must be finite and not negative"):
        linear_models.ridge_regression(SMALL, 20, 50, ridge=[0.1, -1.0])
