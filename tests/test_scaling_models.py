"""Solvable models around the scaling of networks, each against brute force, exact limits or simulation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmft import scaling
from widthwise import Parameterization, Spectrum

# --- spectral moments ------------------------------------------------------------------------------------------------------


def moment_by_enumeration(X: Any, Y: Any, n: int) -> float:
    """The definition: the mean over all increasing tuples."""
    P, Q = X.shape
    terms = [
        np.prod([X[I[a], J[a]] * Y[I[(a + 1) % n], J[a]] for a in range(n)])
        for I in itertools.combinations(range(P), n)
        for J in itertools.combinations(range(Q), n)
    ]
    return float(np.mean(terms))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 1))
@settings(max_examples=20, deadline=None)
def test_moments_are_the_enumeration(seed: int, P: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(2, P, P + more))
    order = min(P, 4)
    for trial in (X, Y):
        expected = [moment_by_enumeration(X, trial, n) for n in range(1, order + 1)]
        np.testing.assert_allclose(scaling.spectral_moments(X, order, trial=trial), expected, atol=1e-12)
    if more:
        np.testing.assert_allclose(scaling.spectral_moments(X.T, order), scaling.spectral_moments(X, order))


def rbf_moments(D: int, length: float, order: int) -> Any:
    """Of exp(-|x - x'|^2 / (2 length^2)) under x ~ N(0, 1): a Gaussian integral over a ring of n points."""
    q = [np.arange(n) / n for n in range(1, order + 1)]
    return np.array([np.prod(1 + 2 * (1 - np.cos(2 * np.pi * k)) / length**2) ** (-D / 2) for k in q])


def fourier_features(rng: np.random.Generator, P: int, Q: int, D: int, length: float) -> Any:
    x, w, phase = rng.normal(size=(P, D)), rng.normal(size=(D, Q)) / length, rng.uniform(-np.pi / 2, np.pi / 2, Q)
    return np.sqrt(2) * np.cos(x @ w - phase)


def test_moments_are_unbiased() -> None:
    """400 samples of 30 inputs and 60 features; the truth is known twice. Twin: plug-in moments are too large by far."""
    order, runs = 5, 400
    truth = rbf_moments(10, 2.0, order)
    spectrum = scaling_spectrum_rbf()
    np.testing.assert_allclose([(spectrum.multiplicity @ spectrum.lam**n) for n in range(2, order + 1)], truth[1:], rtol=1e-6)
    rng = np.random.default_rng(0)
    samples = [fourier_features(rng, 30, 60, 10, 2.0) for _ in range(runs)]
    for method, biased in ((scaling.spectral_moments, False), (scaling.plugin_moments, True)):
        values = np.array([method(F, order) for F in samples])
        z = (values.mean(0) - truth)[1:] / (values.std(0, ddof=1)[1:] / runs**0.5)
        assert (np.abs(z) < 3.5).all() != biased, z
        assert not biased or (values.mean(0)[1:] > 2 * truth[1:]).all()


def scaling_spectrum_rbf() -> Spectrum:
    from dmft.spectra import rbf

    return rbf(10, {0: 1.0}, length=2.0, max_degree=40)


def test_noise_of_measurement_drops_out_between_two_trials() -> None:
    """Noise of unit variance would add 1 to m_1 = 1. 200 samples, 3 standard errors."""
    rng = np.random.default_rng(1)
    two, one = [], []
    for _ in range(200):
        F = fourier_features(rng, 20, 30, 3, 2.0)
        X, Y = F + rng.normal(size=(2, *F.shape))
        two.append(scaling.spectral_moments(X, 3, trial=Y))
        one.append(scaling.spectral_moments(X, 3))
    truth = rbf_moments(3, 2.0, 3)
    for values, ok in ((np.array(two), [True] * 3), (np.array(one), [False, True, True])):
        z = (values.mean(0) - truth) / (values.std(0, ddof=1) / len(values) ** 0.5)
        assert (np.abs(z) < 3).tolist() == ok, z


def test_orders_of_rows_lower_the_variance() -> None:
    rng = np.random.default_rng(2)
    samples = [fourier_features(rng, 6, 7, 3, 1.0) for _ in range(400)]
    once, often = (np.var([scaling.spectral_moments(F, 3, repeats=r)[2] for F in samples]) for r in (1, 8))
    assert often < 0.7 * once


@pytest.mark.parametrize("spectrum", [Spectrum.power_law(2.0, 1.5, 1000), Spectrum([2.0, 0.5], [0.0, 0.0], [2, 4])])
def test_spectrum_of_exact_moments(spectrum: Spectrum) -> None:
    """Six moments fix the top eigenvalue and what a ridge resolves, sum lam / (lam + ridge), to 2%."""
    moments = [float(spectrum.multiplicity @ spectrum.lam**n) for n in range(1, 7)]
    found = scaling.spectrum_of_moments(moments)
    assert found.lam[0] == pytest.approx(spectrum.lam[0], rel=0.02)
    assert found.trace == pytest.approx(spectrum.trace, rel=1e-3)
    for ridge in (1.0, 0.3, 0.1):
        resolved = [s.multiplicity @ (s.lam / (s.lam + ridge)) + s.rest_trace / ridge for s in (found, spectrum)]
        assert resolved[0] == pytest.approx(resolved[1], rel=0.02)
    assert scaling.effective_dimension(moments) == pytest.approx(spectrum.trace**2 / moments[1])
    wrong = scaling.spectrum_of_moments([moments[0], *(2 * m for m in moments[1:])])  # twin
    assert abs(wrong.lam[0] / spectrum.lam[0] - 1) > 0.05


def test_spectrum_of_a_sample() -> None:
    """Effective dimension of Gaussian features from 60 x 80 of them: unbiased to 10%, the plug-in's is wrong by half."""
    spectrum = Spectrum.power_law(2.0, 1.2, 500)
    truth = spectrum.trace**2 / float(spectrum.lam @ spectrum.lam)
    rng = np.random.default_rng(3)
    moments: list[Any] = [[], []]
    for _ in range(40):
        x, w = rng.normal(size=(60, 500)) * spectrum.lam**0.5, rng.normal(size=(500, 80))
        for method, out in zip((scaling.spectral_moments, scaling.plugin_moments), moments, strict=True):
            out.append(method(x @ w, 3))
    ours, plugin = (scaling.effective_dimension(np.mean(m, 0)) for m in moments)
    assert ours == pytest.approx(truth, rel=0.1)
    assert plugin < 0.75 * truth


def test_moments_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="order must be at most min"):
        scaling.spectral_moments(np.eye(2), 3)
    with pytest.raises(ValueError, match="shape of features"):
        scaling.spectral_moments(np.eye(2), 1, trial=np.ones((2, 3)))
    with pytest.raises(ValueError, match="got m_2"):
        scaling.spectrum_of_moments([1.0, -1.0])
    with pytest.raises(ValueError, match="error must be above zero"):
        scaling.spectrum_of_moments([1.0, 1.0], error=[1.0])
    with pytest.raises(ValueError, match="m_2 above zero"):
        scaling.effective_dimension([1.0])


# --- between lazy and rich -------------------------------------------------------------------------------------------------


def relu_network(scales: Any, draws: Any, x: Any, y: Any, steps: int, eta: float) -> tuple[Any, Any]:
    """Three layers of relu by hand: fields of the second hidden layer and outputs before each step, on a squared error."""
    (a1, b1, c1), (a2, b2, c2), (a3, b3, c3) = scales
    W1, W2, w3 = b1 * draws[0], b2 * draws[1], b3 * draws[2]
    fields, outputs = [], []
    for _ in range(steps):
        h1 = a1 * W1 @ x
        z1 = np.sqrt(2) * np.maximum(h1, 0)
        h2 = a2 * W2 @ z1
        z2 = np.sqrt(2) * np.maximum(h2, 0)
        f = a3 * w3 @ z2
        fields.append(h2)
        outputs.append(f)
        error = (f - y) / len(y)
        g2 = a3 * w3[:, None] * error * np.sqrt(2) * (h2 > 0)
        g1 = a2 * W2.T @ g2 * np.sqrt(2) * (h1 > 0)
        w3 = w3 - eta * c3 * a3 * z2 @ error
        W2 = W2 - eta * c2 * a2 * g2 @ z1.T
        W1 = W1 - eta * c1 * a1 * g1 @ x.T
    return np.array(fields), np.array(outputs)


def layer_scales(parameterization: Parameterization, N: int, D: int) -> list[Any]:
    roles: Any = (("input", D), ("hidden", N), ("output", N))
    return [parameterization.scale(role, width=N, fan_in=F) for role, F in roles]


def test_update_sizes_go_as_the_table_says() -> None:
    """|dh| ~ N^r, df ~ 1: widths 128 ... 1024, 12 seeds or more, slopes to 3.5 SE and 0.02 for 1/N. Twin: another r."""
    D, B, widths = 32, 16, [128, 256, 512, 1024]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(D, B)), 5 * rng.normal(size=B)  # large beside f(0), whose spread is noise here
    for richness in (0.0, 0.25, 0.5):
        sizes: list[Any] = []
        for N in widths:
            scales = layer_scales(Parameterization.of_richness(richness, N), N, D)
            moves = []
            for _ in range(12 * 1024 // N if N > 256 else 48):
                draws = rng.normal(size=(N, D)), rng.normal(size=(N, N)), rng.normal(size=N)
                h, f = relu_network(scales, draws, x, y, 2, 0.02)
                moves.append(np.log([np.linalg.norm(h[1] - h[0]), np.linalg.norm(h[0]), np.linalg.norm(f[1] - f[0])]))
            sizes.append((np.mean(moves, 0), np.std(moves, 0, ddof=1) / len(moves) ** 0.5))
        means, errors = np.array(sizes).transpose(1, 0, 2)
        weights = np.linalg.pinv(np.stack([np.log(widths), np.ones(len(widths))], 1))[0]
        slopes, error = weights @ means, (weights**2 @ errors**2) ** 0.5
        assert error[0] < 0.03
        theory = scaling.update_sizes(richness=richness)
        expected = [theory.hidden[1], theory.fields[1], max(theory.readout, theory.features)]
        assert (np.abs(slopes - expected) < 3.5 * error + 0.02).all(), (slopes, error)
        for other in {0.0, 0.25, 0.5} - {richness}:
            assert abs(slopes[0] - scaling.update_sizes(richness=other).hidden[1]) > 0.15


@pytest.mark.parametrize("richness", [0.0, 0.3, 0.5])
def test_three_forms_are_one_network(richness: float) -> None:
    """Unit deviations, no multipliers, unit rates: one trajectory to rounding. Twin: the wrong richness departs from it."""
    N, D, B = 50, 8, 6
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(N, D)), rng.normal(size=(N, N)), rng.normal(size=N)
    x, y = rng.normal(size=(D, B)), rng.normal(size=B)
    forms = [layer_scales(Parameterization.of_richness(richness, N, kind=kind), N, D) for kind in ("mean_field", "mup")]
    forms.append([scale.rescaled(scale.learning_rate**0.5) for scale in forms[0]])
    assert [scale.init_std for scale in forms[0]] == [1, 1, 1]
    assert [scale.multiplier for scale in forms[1]] == [1, 1, 1]
    np.testing.assert_allclose([scale.learning_rate for scale in forms[2]], 1, rtol=1e-12)
    forms.append(layer_scales(Parameterization.of_richness(0.45 - 0.8 * richness, N), N, D))
    first, *others = (relu_network(scales, draws, x, y, 20, 0.1)[1] for scales in forms)
    assert np.abs(first[-1] - first[0]).max() > 0.1
    np.testing.assert_allclose(others[0], first, atol=1e-10)
    np.testing.assert_allclose(others[1], first, atol=1e-10)
    assert np.abs(others[2][-1] - first[-1]).max() > 1e-3


def test_ends_of_the_family() -> None:
    """r = 0 is the table's "ntk" without its own gamma0, r = 1/2 mean field; "standard" blows up, the more the deeper."""
    for N in (10, 1000):
        for scale, ntk in zip(
            layer_scales(Parameterization.of_richness(0.0, N), N, 7),
            layer_scales(Parameterization(kind="ntk"), N, 7),
            strict=True,
        ):
            np.testing.assert_allclose(scale, ntk)
    assert Parameterization.of_richness(0.5, 64) == Parameterization()
    assert scaling.update_sizes("ntk", hidden_layers=3) == scaling.update_sizes(richness=0.0, hidden_layers=3)
    for hidden_layers in (2, 3):
        standard = scaling.update_sizes("standard", hidden_layers=hidden_layers)
        assert not standard.nontrivial
        assert not standard.stable
        assert "not stable" in str(standard)
    for call in (
        lambda: scaling.update_sizes(richness=0.7),
        lambda: scaling.update_sizes("ntk", richness=0.2),
        lambda: Parameterization.of_richness(0.6, 10),
        lambda: Parameterization.of_richness(0.1, 10, kind="ntk"),
    ):
        with pytest.raises(ValueError, match="richness"):
            call()


@given(st.floats(0, 0.5), st.integers(1, 6), st.sampled_from(["mean_field", "mup"]))
def test_family_is_nontrivial_useful_and_stable(richness: float, hidden_layers: int, kind: Any) -> None:
    sizes = scaling.update_sizes(kind, richness=richness, hidden_layers=hidden_layers)
    assert sizes.nontrivial
    assert sizes.useful
    assert sizes.stable
    np.testing.assert_allclose(sizes.hidden, richness, atol=1e-12)
    assert sizes.output == pytest.approx(-richness)
