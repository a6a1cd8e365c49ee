"""Learning curves of kernel regression from a spectrum: 2002.02561, 2006.13198.

With eigenvalues eta_k of multiplicity N_k, target power c_k^2 = eta_k wbar_k^2 per mode, p samples of noise sigma^2, and
f(x) = k(x)^T (K + lambda)^-1 y (lambda is not divided by p):

    kappa = lambda + kappa sum_k N_k eta_k / (p eta_k + kappa)        gamma = p sum_k N_k eta_k^2 / (p eta_k + kappa)^2
    E_k   = [ c_k^2 kappa^2 + sigma^2 p eta_k^2 ] / (p eta_k + kappa)^2 / (1 - gamma)
    test  = sum_k N_k E_k                                             train = (lambda / kappa)^2 (same sum of c_k^2 + sigma^2)

E_k is what power and noise *from* mode k add to the error. The error *in* mode k has noise from all that is not learned, of
other modes too (the same sum, told apart by where it ends):

    <(f_k - c_k)^2> = c_k^2 kappa^2 / (p eta_k + kappa)^2 + p eta_k^2 / (p eta_k + kappa)^2 (test + sigma^2)

Modes left out of the spectrum have p eta << kappa: their trace adds to lambda in the equation of kappa, and their target power
is noise that stays in the test error. kappa here is p times the kappa of 2311.14646.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from widthwise import Spectrum, check
from widthwise.checked import Numbers, checked

STEPS = 200
"""Most Newton steps; a handful is usual."""


@dataclass(frozen=True)
class LearningCurve:
    """Errors of kernel regression against the number of samples; prints as a table.

    Attributes:
        num_samples: (n,) p.
        test: (n,) <(f - y)^2> over new points, noise-free targets; infinite where the formula has its double-descent peak.
        train: (n,) mean of (f - y)^2 over the train points, with their noise.
        mode_errors: (n, k) <(f_k - c_k)^2>, the part of `test` in one mode of each entry of the spectrum; times multiplicity,
            and with the spectrum's rest_power, they sum to `test`.
        by_source: (n, k) E_k, the part of `test` that comes from one mode of each entry; it has the same sum.
        kappa, gamma: (n,) the effective ridge, and the variance's feedback; test errors grow as 1 / (1 - gamma).
    """

    num_samples: Float[np.ndarray, "sizes"]
    test: Float[np.ndarray, "sizes"]
    train: Float[np.ndarray, "sizes"]
    mode_errors: Float[np.ndarray, "sizes entries"]
    by_source: Float[np.ndarray, "sizes entries"]
    kappa: Float[np.ndarray, "sizes"]
    gamma: Float[np.ndarray, "sizes"]

    def __str__(self) -> str:
        lines = ["       p     test MSE    train MSE        kappa   gamma"]
        for i, p in enumerate(self.num_samples):
            lines.append(f"{p:8g}   {self.test[i]:10.4g}   {self.train[i]:10.4g}   {self.kappa[i]:10.4g}   {self.gamma[i]:.3f}")
        return "\n".join(lines)


@checked
def learning_curve(spectrum: Spectrum, num_samples: Numbers, *, ridge: float = 0.0, noise: float = 0.0) -> LearningCurve:
    """Test and train error of kernel regression on p samples, averaged over data (equations above).

    Good to a few percent where many modes are half learned.

    Args:
        spectrum: of the kernel, with the target.
        num_samples: p, one number or several, from zero on.
        ridge: lambda, added to the p x p kernel matrix.
        noise: standard deviation sigma of noise on the targets.

    Raises:
        ValueError: a negative setting.

    Example:
        >>> curve = learning_curve(Spectrum.power_law(2.0, 1.5, 1000), [10, 100], noise=0.1)
        >>> bool(curve.test[1] < curve.test[0])
        True
    """
    p = _samples(num_samples, ridge, noise)
    lam, power, many = spectrum.lam, spectrum.power, spectrum.multiplicity
    kappa = effective_ridge(spectrum, p, ridge)
    below = p[:, None] * lam + kappa[:, None]
    left = np.divide(kappa[:, None], below, out=np.ones_like(below), where=below > 0)  # of a mode's amplitude
    fit = np.divide(lam, below, out=np.zeros_like(below), where=below > 0)
    gamma = p * (fit**2 @ many)
    noise2 = noise**2 + spectrum.rest_power
    with np.errstate(divide="ignore", invalid="ignore"):
        feedback = 1 / np.maximum(1 - gamma, 0.0)[:, None]
        by_source = power * left**2 + noise2 * p[:, None] * fit**2
        by_source = np.where(by_source > 0, by_source * feedback, 0.0)  # nothing to amplify stays nothing
        ratio = np.divide(ridge, kappa, out=1 - fit @ many, where=kappa > 0)
        spread = left**2 @ (many * power) + noise2
        train = np.where(ratio > 0, ratio**2 * spread * feedback[:, 0], 0.0)
        variance = p[:, None] * fit**2 * spread[:, None]
        mode_errors = power * left**2 + np.where(variance > 0, variance * feedback, 0.0)
    return LearningCurve(p, by_source @ many + spectrum.rest_power, train, mode_errors, by_source, kappa, gamma)


def _samples(num_samples: Numbers, ridge: float, noise: float) -> Float[np.ndarray, "sizes"]:
    """p as an array; the settings in range, else ValueError."""
    check.at_least_zero("ridge", ridge)
    check.at_least_zero("noise", noise)
    p = check.array("num_samples", np.atleast_1d(np.asarray(num_samples)), 1, "(n,)")
    if (p < 0).any():
        raise ValueError(f"num_samples must not be negative, got {p.min():g}.")
    return p


def effective_ridge(spectrum: Spectrum, p: Float[np.ndarray, "sizes"], ridge: float = 0.0) -> Float[np.ndarray, "sizes"]:
    """kappa of the equations above: zero if there is no ridge and samples are as many as modes or more.

    Newton on log(lambda / kappa + sum N eta / (p eta + kappa)) = 0 in log kappa, whose left side falls, inside a bracket that
    shrinks and is halved where a step would leave it.

    Example:
        >>> effective_ridge(Spectrum([1.0], [1.0], [10]), np.array([4.0, 10.0])).round(12).tolist()  # 10 - p
        [6.0, 0.0]
    """
    lam, many = spectrum.lam[spectrum.lam > 0], spectrum.multiplicity[spectrum.lam > 0]
    floor = ridge + spectrum.rest_trace
    p = np.asarray(p, dtype=np.float64)
    kappa = np.zeros(len(p))
    if not len(lam):
        return kappa + floor
    solve = np.flatnonzero((floor > 0) | (p < many.sum()))
    if not len(solve):
        return kappa
    p = p[solve]
    # kappa >= floor; and at p modes or more in the way, kappa >= (modes - p) eta_min
    low = np.log(np.maximum(floor, np.maximum(many.sum() - p, 0.0) * lam[-1]))
    high = np.full(len(p), np.log(spectrum.trace + ridge))
    low = np.minimum(low, high)
    x = (low + high) / 2
    for _ in range(STEPS):
        e = np.exp(x)[:, None]
        terms = many * lam / (p[:, None] * lam + e)
        h = floor / e[:, 0] + terms.sum(1)
        slope = -(floor / e[:, 0] + (terms * e / (p[:, None] * lam + e)).sum(1)) / h
        value = np.log(h)
        low, high = np.where(value > 0, x, low), np.where(value > 0, high, x)
        new = x - value / slope
        new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
        done = np.abs(new - x).max() < 1e-14 * max(1.0, np.abs(x).max())
        x = new
        if done:
            break
    kappa[solve] = np.exp(x)
    return kappa


@checked
def plateaus(spectrum: Spectrum, num_samples: Numbers, *, ridge: float = 0.0, noise: float = 0.0) -> Float[np.ndarray, "sizes"]:
    """Test error in high dimension, where degenerate entries are learned one after the other (2006.13198).

    At p ~ N_l the entries before l are learned and those after it are a ridge and noise; E_inf is their power:

        a = p / N_l,   a_l = (lambda + sum_{l' >= l} eta N) / (eta_l N_l),   k_l = (a_l - a + sqrt((a + a_l)^2 - 4 a)) / 2
        E = [N_l c_l^2 k_l^2 / (k_l + a)^2 + (sigma^2 + E_inf) g] / (1 - g) + E_inf,   g = a / (a + k_l)^2

    with peaks at p ~ N_l where noise or E_inf meets a small a_l. For each p the entry is taken whose N_l
    is nearest in the logarithm.

    Args:
        spectrum: with entries by degree, multiplicities far apart.
        num_samples, ridge, noise: as in `learning_curve`, which this is the limit of.

    Example:
        >>> from dmft.spectra import sphere
        >>> spectrum = sphere(lambda t: np.exp(t), 1000, {1: 1.0, 2: 1.0}, max_degree=3)
        >>> p = np.array([500.0, 250_000.0])
        >>> bool(np.allclose(plateaus(spectrum, p), learning_curve(spectrum, p).test, rtol=0.01))
        True
    """
    p = _samples(num_samples, ridge, noise)
    lam, many = spectrum.lam, spectrum.multiplicity
    used = np.flatnonzero(lam > 0)
    if not len(used):
        raise ValueError("plateaus needs an eigenvalue above zero; the spectrum has none.")
    l = used[np.abs(np.log(np.maximum(p, 1e-300))[:, None] - np.log(many[used])).argmin(1)]
    rest = np.cumsum((many * lam)[::-1])[::-1][l] + spectrum.rest_trace
    power = many * spectrum.power
    outside = np.append(np.cumsum(power[::-1])[::-1], 0.0)[l + 1] + spectrum.rest_power
    a, a_l = p / many[l], (ridge + rest) / (lam[l] * many[l])
    k = (a_l - a) / 2 + np.sqrt(np.maximum((a + a_l) ** 2 - 4 * a, 0.0)) / 2
    g = np.divide(a, (a + k) ** 2, out=np.zeros_like(a), where=a + k > 0)
    left = np.divide(k, a + k, out=np.ones_like(a), where=a + k > 0)
    return (power[l] * left**2 + (noise**2 + outside) * g) / (1 - g) + outside
