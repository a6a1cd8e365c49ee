"""Ridge regression on random features: test and train error from a spectrum (2311.14646), and where its variance comes from.

The model has k features A psi / sqrt(k), A of independent standard normals, psi the kernel's own features with covariance
diag(lam), and is fitted to n samples of noise sigma^2 with ridge delta (added to the n x n kernel matrix, not n times it). In

    z(kappa) = sum lam / (lam + kappa)          delta / n = kappa (1 - z / n)(1 - z / k)            (kappa: gamma of 2311.14646)

the right side grows with kappa where z < min(n, k): one root. Then, with c = power and sums over modes,

    S1 = sum c kappa^2 / (lam + kappa)^2     s2 = sum c lam / (lam + kappa)^2
    a  = sum lam / (lam + kappa)^2           b  = kappa^2 a                       q = sum lam^2 / (lam + kappa)^2
    test = S1 + (b / k) u + (q / n)(test + sigma^2)              u (1 - q / k) = s2 + (a / n)(test + sigma^2)
    train = (1 - z / n)^2 (test + sigma^2)

This is the fixed point of the dynamics of `dmft.scaling.laplace` (2402.01092), where kappa is a function of the frequency; two
models that do not share their features lose the terms in 1 / k, those that do not share their data lose 1 / n and sigma^2.
k = inf is kernel regression, `dmft.spectra.learning_curve`.

Modes left out of the spectrum are very many with very small eigenvalues: a ridge, and noise that stays in the test error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dmft.scaling.errors import Errors
from dmft.spectra.learning_curves import effective_ridge
from widthwise import Spectrum, check
from widthwise.checked import Numbers, checked

STEPS = 200
"""Most steps to the root; a dozen is usual."""

BLOCK = 4_000_000
"""Points times modes that are worked on at once."""

LEAST, MOST = 1e-6, 1e30
"""Numbers of samples and features; beyond, float64 loses the equations' digits."""

TINY = 1e-40
"""Eigenvalue, over the largest, of the modes that were left out of the spectrum."""


@dataclass(frozen=True)
class Modes:
    """Eigenvalues, power and multiplicity of the entries of a spectrum, what was left out being an entry of its own."""

    lam: Float[np.ndarray, "entries"]
    power: Float[np.ndarray, "entries"]
    many: Float[np.ndarray, "entries"]

    @staticmethod
    def of(spectrum: Spectrum) -> Modes:
        """The rests become one entry of sum lam = rest_trace and sum power = rest_power."""
        check.instance("spectrum", spectrum, Spectrum)
        lam, power, many = spectrum.lam, spectrum.power, spectrum.multiplicity
        if spectrum.rest_trace > 0:
            small = TINY * (lam[0] or spectrum.rest_trace)
            number = spectrum.rest_trace / small
            return Modes(np.append(lam, small), np.append(power, spectrum.rest_power / number), np.append(many, number))
        if spectrum.rest_power > 0:
            return Modes(np.append(lam, 0.0), np.append(power, spectrum.rest_power), np.append(many, 1.0))
        return Modes(lam, power, many)


def sizes(name: str, value: Any) -> Float[np.ndarray, "..."]:
    """Numbers of features or samples as an array: above zero, infinity allowed.

    Raises:
        ValueError: what is not such a number.
    """
    out = check.numbers(name, value)
    if out.size == 0 or not (out > 0).all():
        raise ValueError(f"{name} must be above zero (np.inf for the limit), got {check.shown(value)}.")
    if (odd := (out < LEAST) | ((out > MOST) & np.isfinite(out))).any():
        raise ValueError(f"{name} must be from {LEAST:g} to {MOST:g}, or np.inf for the limit; got {out[odd][0]:g}.")
    return out


def ridges(value: Any) -> Float[np.ndarray, "..."]:
    """Ridges as an array: finite and not negative, else ValueError."""
    out = check.numbers("ridge", value)
    if out.size == 0 or not ((out >= 0) & (out <= check.HUGE)).all():
        raise ValueError(f"ridge must be finite and not negative, got {check.shown(value)}.")
    return out


def _together(num_samples: Any, num_features: Any, ridge: Any) -> list[np.ndarray]:
    n, k = sizes("num_samples", num_samples), sizes("num_features", num_features)
    return check.broadcast(num_samples=n, num_features=k, ridge=ridges(ridge))


def four(
    S1: Any, s2: Any, a: Any, b: Any, q: Any, per_feature: Any, per_sample: Any, noise2: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The covariances of `Errors`, both, same_data, same_features and neither, from the sums over modes above.

    Every argument may be an array; per_feature = 1 / k, per_sample = 1 / n. In the dynamics the sums are of two frequencies.
    """

    def covariance(u: Any, r: Any, noise2: float) -> np.ndarray:
        left = 1 - u * q
        over = np.divide(u * b, left, out=np.zeros_like(left * b), where=left != 0)  # b = 0 where left is
        feedback = r * (q + over * a)
        source = S1 + over * s2 + feedback * noise2
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.iscomplexobj(source):
                return source / (1 - feedback)
            return np.where(source > 0, source / np.maximum(1 - feedback, 0.0), 0.0)  # nothing to amplify stays nothing

    u, r, none = np.asarray(per_feature), np.asarray(per_sample), np.zeros(())
    return covariance(u, r, noise2), covariance(none, r, noise2), covariance(u, none, 0.0), np.array(S1)


@checked
def resolution(
    spectrum: Spectrum, num_samples: Numbers, num_features: Numbers = np.inf, *, ridge: Numbers = 0.0
) -> Float[np.ndarray, "..."]:
    """kappa of the equations above: modes with lam >> kappa are learned, those with lam << kappa are not.

    Newton in log kappa within a bracket that shrinks, halved where a step would leave it. Arguments broadcast.

    Args:
        spectrum: of the kernel.
        num_samples, num_features: n and k, np.inf allowed.
        ridge: delta; with n = inf it is delta / n.

    Raises:
        ValueError: sizes that are not above zero; a negative ridge.

    Example:
        >>> spectrum = Spectrum([1.0], [1.0], [10])
        >>> resolution(spectrum, 4.0).round(12).tolist(), resolution(spectrum, [4.0, 20.0], 5.0).round(12).tolist()
        (1.5, [1.5, 1.0])
    """
    n, k, delta = _together(num_samples, num_features, ridge)
    modes, shape = Modes.of(spectrum), n.shape
    n, k, delta = n.ravel(), k.ravel(), delta.ravel()
    per_sample, per_feature = 1 / n, 1 / k
    s = np.where(np.isinf(n), delta, delta * per_sample)
    least = np.minimum(n, k)
    kappa = np.zeros(len(n))  # where neither ridge nor a lack of samples or features holds it up
    finite = np.isfinite(least)
    kappa[finite] = effective_ridge(spectrum, least[finite]) / least[finite]  # the root without a ridge
    solve = np.flatnonzero(s > 0)
    rows = max(1, BLOCK // len(modes.lam))
    for i in range(0, len(solve), rows):
        at = solve[i : i + rows]
        kappa[at] = _root(modes, s[at], per_sample[at], per_feature[at], kappa[at], spectrum.trace)
    return kappa.reshape(shape)


def _root(modes: Modes, s: Any, r: Any, u: Any, least: Any, trace: float) -> Float[np.ndarray, "points"]:
    """log kappa + log(1 - r z) + log(1 - u z) = log s, whose left side grows, between max(least, s) and s + (r + u) trace."""
    low, high = np.log(np.maximum(least, s)), np.log(s + (r + u) * trace)
    high = np.maximum(low, high)
    x = high.copy()
    for _ in range(STEPS):
        kappa = np.exp(x)[:, None]
        fit = modes.lam / (modes.lam + kappa)
        z = fit @ modes.many
        fall = z - fit**2 @ modes.many  # -dz / dx
        R1, R3 = 1 - r * z, 1 - u * z
        inside = (R1 > 0) & (R3 > 0)
        safe1, safe3 = np.where(inside, R1, 1.0), np.where(inside, R3, 1.0)
        value = np.where(inside, x + np.log(safe1) + np.log(safe3) - np.log(s), -np.inf)
        low, high = np.where(value < 0, x, low), np.where(value < 0, high, x)
        new = np.where(inside, x - np.where(inside, value, 0.0) / (1 + r * fall / safe1 + u * fall / safe3), low - 1)
        new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
        done = np.abs(new - x).max() < 4e-16 * max(1.0, np.abs(x).max())
        x = new
        if done:
            break
    return np.exp(x)


@checked
def random_features(
    spectrum: Spectrum, num_samples: Numbers, num_features: Numbers = np.inf, *, ridge: Numbers = 0.0, noise: float = 0.0
) -> Errors:
    """Test and train error of ridge regression with random features, and their parts (equations above).

    Good to about 2 % from 64 samples and features on. Without a ridge it diverges at n = k.

    Args:
        spectrum: of the kernel that infinitely many features give, with the target.
        num_samples: n; num_features: k, np.inf for kernel regression; ridge: delta. They broadcast.
        noise: standard deviation sigma of noise on the targets.

    Raises:
        ValueError: sizes that are not above zero; a negative ridge or noise.

    Example:
        >>> spectrum = Spectrum.power_law(1.5, 1.5, 10_000).binned()
        >>> errors = random_features(spectrum, 256, [64, 256, 1024], ridge=0.1, noise=0.5)
        >>> errors.test.round(3).tolist()
        [0.626, 0.494, 0.349]
        >>> errors.ensemble(4).round(3).tolist()  # the mean output of four draws of features
        [0.414, 0.34, 0.309]
    """
    sigma2 = check.at_least_zero("noise", noise) ** 2
    n, k, delta = _together(num_samples, num_features, ridge)
    kappa = resolution(spectrum, n, k, ridge=delta).ravel()
    modes = Modes.of(spectrum)
    parts = np.empty((6, len(kappa)))
    rows = max(1, BLOCK // len(modes.lam))
    for i in range(0, len(kappa), rows):
        parts[:, i : i + rows] = _sums(modes, kappa[i : i + rows])
    z, *sums = parts
    n, k, delta, shape = n.ravel(), k.ravel(), delta.ravel(), n.shape
    S1, s2, a, b, q = sums
    both, data, features, bias = four(S1, s2, a, b, q, 1 / k, 1 / n, sigma2)
    peak = (delta == 0) & (n == k) & (kappa > 0) & np.isfinite(n)  # where 1 - feedback is zero
    both = np.where(peak & (both > 0), np.inf, both)
    # 1 - z / n; where it is small, from delta / n = kappa (1 - z / n)(1 - z / k)
    R1, R3 = np.maximum(1 - z / n, 0.0), np.maximum(1 - z / k, 0.0)
    small = (n <= k) & (kappa * R3 > 0)
    R1 = np.where(small, np.divide(delta / n, kappa * R3, out=np.zeros_like(R1), where=small), R1)
    with np.errstate(invalid="ignore"):
        train = np.where(R1 > 0, R1**2 * (both + sigma2), 0.0)
    return Errors(*(x.reshape(shape) for x in (both, train, data, features, bias)))


def _sums(modes: Modes, kappa: Float[np.ndarray, "points"]) -> tuple[np.ndarray, ...]:
    """z, then S1, s2, a, b, q of the equations above."""
    below = modes.lam + kappa[:, None]
    one = np.ones_like(below)
    left = np.divide(kappa[:, None], below, out=one, where=below > 0)
    fit = np.divide(modes.lam, below, out=np.zeros_like(below), where=below > 0)
    over = np.divide(1.0, below, out=np.zeros_like(below), where=below > 0)
    power, lam = modes.many * modes.power, modes.many * modes.lam
    return fit @ modes.many, left**2 @ power, (fit * over) @ power, over**2 @ lam, left**2 @ lam, fit**2 @ modes.many


@checked
def optimal_ridge(
    spectrum: Spectrum, num_samples: Numbers, num_features: Numbers = np.inf, *, noise: float = 0.0, per_decade: int = 4
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The ridge of least test error, zero included, and that error.

    The best of a grid from 1e-8 to 1e3 times max(n lam_1, trace), refined by golden sections between its neighbours.

    Returns:
        ridge (...), test (...).

    Example:
        >>> ridge, test = optimal_ridge(Spectrum.power_law(1.5, 1.5, 1000), 100, [50, 200], noise=0.5)
        >>> bool(test[1] < test[0]), bool((ridge > 0).all())
        (True, True)
    """
    n, k, _ = _together(num_samples, num_features, 0.0)
    if np.isinf(n).any():
        raise ValueError("num_samples must be finite: with infinitely many samples the best ridge is zero.")
    scale = np.log10(np.maximum(n * spectrum.lam[0], spectrum.trace))
    grid = np.linspace(-8, 3, 11 * check.count("per_decade", per_decade, most=10**4) + 1).reshape(-1, *(1,) * n.ndim) + scale

    def test(x: np.ndarray) -> np.ndarray:
        return random_features(spectrum, n, k, ridge=10**x, noise=noise).test

    best = test(grid).argmin(0)[None]
    low = np.take_along_axis(grid, np.maximum(best - 1, 0), 0)[0]
    high = np.take_along_axis(grid, np.minimum(best + 1, len(grid) - 1), 0)[0]
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(40):
        x, y = high - ratio * (high - low), low + ratio * (high - low)
        left = test(x) < test(y)
        low, high = np.where(left, low, x), np.where(left, y, high)
    ridge = 10 ** ((low + high) / 2)
    none, some = random_features(spectrum, n, k, noise=noise).test, test((low + high) / 2)
    return np.where(none <= some, 0.0, ridge), np.minimum(none, some)
