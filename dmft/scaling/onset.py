"""Onset of variance: kernel regression on features that carry noise, as those of narrow networks do (2212.12147).

The kernel's features psi_k, of variance lam_k, are seen with noise of variance eta_k = s^2 lam_k, drawn anew for each point,
with s^2 ~ 1/N for networks of width N. Regression on them without a ridge is regression in a spectrum lam_k + eta_k, on the
part of the target that such features can tell, w_k lam_k / (lam_k + eta_k), while the rest acts as noise. With
power_k = lam_k w_k^2:

    kappa = kappa sum_k (lam_k + eta_k) / ((lam_k + eta_k) p + kappa)          (as in `dmft.spectra.learning_curve`)
    E(p) = sum_k power_k E_k / (1 - gamma),     gamma = p sum_k (lam_k + eta_k)^2 / (p (lam_k + eta_k) + kappa)^2
    E_k = [lam_k q_k^2 + eta_k] / (lam_k + eta_k),     q_k = 1 / (1 + p (lam_k + eta_k) / kappa)

E_k is the paper's eq. 5 in shorter form, [(1 + eta_k p / kappa) q_k + p eta_k / kappa] q_k; the factor 1 / (1 - gamma) makes
it the error that simulations have. At large p the error stays at sum_k power_k eta_k / (lam_k + eta_k) ~ 1/N: narrow networks
stop learning where the error of the wide one comes down to that. A target of one degree on the sphere has about E ~ p^-2
without noise, so that p_1/2 ~ N^1/2 (N^0.40 to N^0.48 at D = 10).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from dmft.spectra.learning_curves import learning_curve
from widthwise import Spectrum, check
from widthwise.checked import Numbers, checked


@checked
def noisy_features(spectrum: Spectrum, feature_noise: float) -> tuple[Spectrum, float]:
    """The spectrum lam + eta with the part of the target that noisy features tell; and what they do not, a variance.

    Args:
        spectrum: of the kernel without noise, with the target.
        feature_noise: s^2 = eta_k / lam_k.

    Example:
        >>> seen, lost = noisy_features(Spectrum([1.0], [4.0]), 0.25)
        >>> seen.lam.tolist(), seen.power.round(6).tolist(), round(lost, 6)
        ([1.25], [3.2], 0.8)
    """
    s2 = check.at_least_zero("feature_noise", feature_noise)
    told = 1 / (1 + s2)
    power = told * spectrum.power
    seen = Spectrum(
        (1 + s2) * spectrum.lam,
        power,
        spectrum.multiplicity,
        (1 + s2) * spectrum.rest_trace,
        told * spectrum.rest_power,
        spectrum.label,
    )
    return seen, (1 - told) * spectrum.total_power


@checked
def noisy_curve(
    spectrum: Spectrum, num_samples: Numbers, feature_noise: float, *, ridge: float = 0.0
) -> Float[np.ndarray, "sizes"]:
    """E(p), test error of kernel regression with noisy features (equations above), noise-free targets.

    Args:
        spectrum: of the kernel without noise, with the target.
        num_samples: (n,) p.
        feature_noise: s^2, variance of the noise over that of the feature.
        ridge: lambda, added to the kernel matrix.

    Raises:
        ValueError: a negative setting.

    Example:
        >>> curve = noisy_curve(Spectrum.power_law(3.0, 1.5, 1000), [100, 10**7], 0.01, ridge=0.1)
        >>> round(float(curve[1]) / (Spectrum.power_law(3.0, 1.5, 1000).total_power * 0.01 / 1.01), 3)  # the plateau
        1.0
    """
    seen, lost = noisy_features(spectrum, feature_noise)
    return learning_curve(seen, num_samples, ridge=ridge, noise=lost**0.5).test + lost


@checked
def onset_of_variance(spectrum: Spectrum, feature_noise: Numbers, *, largest: float = 1e9) -> Float[np.ndarray, "noises"]:
    """p_1/2: the number of samples at which noise makes half of the error, E(p; no noise) = E(p; s^2) / 2.

    The first such p, by bisection in log p on a grid of 16 per decade; NaN where there is none below `largest`.

    Args:
        spectrum: of the kernel, with the target.
        feature_noise: (n,) values of s^2 above zero, e.g. c / N.
        largest: end of the search.

    Example:
        >>> from dmft.spectra import ntk, sphere
        >>> from widthwise import MLP
        >>> p = onset_of_variance(sphere(ntk(MLP(2, "relu")), 10, {2: 1.0}), [1e-2, 1e-4])
        >>> round(float(np.log(p[1] / p[0]) / np.log(100)), 2)
        0.43
    """
    noises = check.array("feature_noise", np.atleast_1d(np.asarray(feature_noise)), 1, "(n,)")
    if (noises <= 0).any():
        raise ValueError(f"feature_noise must be above zero, got {noises.min():g}: without noise there is no onset.")
    decades = np.log10(check.positive("largest", largest))
    p = np.logspace(0, decades, int(16 * max(decades, 1)) + 1)
    clean = learning_curve(spectrum, p).test
    out = []
    for s2 in noises:
        ratio = clean / noisy_curve(spectrum, p, s2)
        below = np.flatnonzero(ratio < 0.5)
        if not len(below) or not below[0]:
            out.append(np.nan)
            continue
        low, high = p[below[0] - 1], p[below[0]]
        for _ in range(30):
            middle = (low * high) ** 0.5
            noisy = noisy_curve(spectrum, middle, s2)[0]
            low, high = (low, middle) if learning_curve(spectrum, middle).test[0] < noisy / 2 else (middle, high)
        out.append((low * high) ** 0.5)
    return np.array(out)
