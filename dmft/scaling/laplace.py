"""Gradient flow on random features at any time, without stepping: double inverse Laplace transforms (2402.01092).

The model is f = w . A psi / sqrt(k), w(0) = 0, trained by dw/dt = mean over n samples of (y - f) grad f - weight_decay w. Its
responses are functions of the frequency s through one number kappa(s), the root of

    s + weight_decay = kappa (1 - z / n)(1 - z / k),     z = sum lam / (lam + kappa)

(in 2402.01092: R1 = 1 - z / n, R3 = 1 - z / k, H_k = 1 / (s + lam_k R1 R3)), that goes like s at large s. With S1 ... q of
`random_features`, taken between two frequencies (kappa^2 -> kappa kappa', (lam + kappa)^2 -> (lam + kappa)(lam + kappa')),

    <(f(t) - y)(f(t') - y)> = inverse Laplace of test(kappa(s), kappa(s')) / (s s')
    train error            = inverse Laplace of R1(s) R1(s') (test + sigma^2) / (s s')
    residual of mode k     = inverse Laplace of kappa / (lam_k + kappa) / s

at t' = t. The contour is Talbot's as modified by Weideman, in both variables: relative errors of about 1e-8 at 24 nodes.
kappa(s) is followed from large |s| inwards, so that every time on the way costs no more than the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from dmft.scaling.errors import Errors
from dmft.scaling.random_features import Modes, four, sizes
from widthwise import Spectrum, check
from widthwise.checked import Extended, Numbers, checked

NEWTON = 60
"""Most Newton steps at one frequency; three or four are usual."""

FAR = 30.0
"""|s| over the trace where the continuation starts."""

BLOCK = 400_000
"""Frequencies times modes that are worked on at once."""


def talbot(num_nodes: int) -> tuple[Complex[np.ndarray, "half"], Complex[np.ndarray, "half"]]:
    """Nodes and weights of the upper half of the contour: f(t) = Re sum w F(z / t) / t.

        z = n (0.5017 theta cot(0.6407 theta) - 0.6122 + 0.2645 i theta),   theta = pi (2 j + 1) / n

    (Trefethen, Weideman, Schmelzer 2006), error 3.89^-n until rounding takes over at n ~ 24.

    Example:
        >>> z, w = talbot(24)
        >>> abs((w / (z / 2 + 3)).sum().real / 2 - np.exp(-6)) < 1e-10  # 1 / (s + 3) at t = 2
        np.True_
    """
    n = check.count("num_nodes", num_nodes, "The default is as exact as float64 allows.", least=4, most=200)
    if n % 2:
        raise ValueError(f"num_nodes must be even, got {n}.")
    theta = np.pi * (2 * np.arange(n // 2) + 1) / n
    cot = 1 / np.tan(0.6407 * theta)
    z = n * (0.5017 * theta * cot - 0.6122 + 0.2645j * theta)
    slope = 0.5017 * (cot - 0.6407 * theta * (1 + cot**2)) + 0.2645j
    return z, 2 * np.exp(z) * slope * n / (1j * n)


def kappa_along(modes: Modes, s: Any, per_sample: Any, per_feature: Any) -> Complex[np.ndarray, "points times nodes"]:
    """kappa(s) along paths that come in from far: s (points, times, nodes), |s| falling along the times.

    Steps of at most a factor of two in s, Euler in the logarithm and then Newton in log kappa.
    """
    trace = float(modes.many @ modes.lam)
    r, u = per_sample[:, None], per_feature[:, None]
    out = np.empty(s.shape, dtype=complex)
    now = s[:, 0] * np.maximum(1.0, FAR * trace / np.abs(s[:, 0]))  # where the path starts
    kappa = now.copy()
    for i in range(s.shape[1]):
        ratio = s[:, i] / now
        steps = max(1, int(np.ceil(np.abs(np.log(ratio)).max() / np.log(2))))
        start = now
        for j in range(1, steps + 1):
            before, now = now, start * ratio ** (j / steps)
            R1, R3, bend = _responses(modes, kappa, r, u)
            kappa = kappa * np.exp(np.log(now / before) * R1 * R3 / (R1 * R3 + bend))
            kappa = _newton(modes, kappa, now, r, u)
        now = s[:, i]
        out[:, i] = kappa
    return out


def _responses(modes: Modes, kappa: Any, r: Any, u: Any) -> tuple[Any, Any, Any]:
    """R1, R3 and kappa d(R1 R3) / d kappa."""
    fit = modes.lam / (modes.lam + kappa[..., None])
    z = fit @ modes.many
    fall = z - fit**2 @ modes.many
    R1, R3 = 1 - r * z, 1 - u * z
    return R1, R3, fall * (r * R3 + u * R1)


def _newton(modes: Modes, kappa: Any, s: Any, r: Any, u: Any) -> Any:
    for _ in range(NEWTON):
        R1, R3, bend = _responses(modes, kappa, r, u)
        step = (s / kappa - R1 * R3) / (R1 * R3 + bend)
        kappa = kappa * np.exp(step)
        if np.abs(step).max() < 1e-12:
            return kappa
    raise ValueError(
        f"kappa(s) was lost after {NEWTON} Newton steps (last relative step {np.abs(step).max():.1g}). Take fewer decades of "
        "time in one call, or report the spectrum."
    )


@checked
def flow(
    spectrum: Spectrum,
    times: Numbers,
    num_features: Numbers = np.inf,
    num_samples: Numbers = np.inf,
    *,
    noise: float = 0.0,
    weight_decay: float = 0.0,
    num_nodes: int = 24,
) -> Errors:
    """Errors of random features under gradient flow (equations above), at any times.

    Cost: times x sizes x num_nodes^2 x entries of the spectrum; bin the spectrum first. Good to 3 % from 40 features and
    samples on; early in time single large modes carry corrections of order 1 / n + 1 / k. Absolute errors of the inversion are
    1e-9 of the power.

    Args:
        spectrum: of the kernel that infinitely many features give, with the target.
        times: (T,) above zero, increasing; or with the sizes' axes before (..., T).
        num_features, num_samples: k and n, np.inf allowed; they broadcast.
        noise: standard deviation sigma of noise on the targets.
        weight_decay: at t = inf it is a ridge of weight_decay n.
        num_nodes: of the contour.

    Returns:
        Errors of shape (..., T).

    Raises:
        ValueError: times not above zero or not increasing, sizes not above zero.

    Example:
        >>> spectrum = Spectrum.power_law(1.75, 1.25, 10_000).binned()
        >>> errors = flow(spectrum, [1.0, 100.0, 1e8], num_features=[64, 256], num_samples=1000)
        >>> errors.test.round(3).tolist()
        [[0.845, 0.27, 0.272], [0.812, 0.113, 0.119]]
    """
    sigma2, decay = check.at_least_zero("noise", noise) ** 2, check.at_least_zero("weight_decay", weight_decay)
    k, n = check.broadcast(num_features=sizes("num_features", num_features), num_samples=sizes("num_samples", num_samples))
    t = increasing(times)
    shape = check.broadcast(sizes=k[..., None], times=t)[0].shape
    t = np.broadcast_to(t, shape).reshape(-1, shape[-1])
    u, r = (np.broadcast_to(1 / x[..., None], (*shape[:-1], 1)).ravel() for x in (k, n))
    modes = Modes.of(spectrum)
    z, w = talbot(num_nodes)
    out = np.empty((5, *t.shape))
    rows = max(1, BLOCK // (len(modes.lam) * len(z)))
    for i in range(0, len(t), rows):
        at = slice(i, i + rows)
        s = z / t[at, :, None]
        kappa = kappa_along(modes, s + decay, r[at], u[at])
        for j in range(t.shape[1]):
            out[:, at, j] = _invert(modes, kappa[:, j], s[:, j], decay, r[at], u[at], z, w, sigma2)
    test, data, features, bias, train = out.reshape(5, *shape)
    return Errors(test, train, data, features, bias, np.broadcast_to(increasing(times), shape) if np.ndim(times) > 1 else t[0])


def _invert(
    modes: Modes, kappa: Any, s: Any, decay: float, r: Any, u: Any, z: Any, w: Any, sigma2: float
) -> Float[np.ndarray, "five points"]:
    """The five errors of one time: kappa, s (points, nodes)."""
    other = np.concatenate([kappa, kappa.conj()], 1)  # the second variable runs over the whole contour
    over, over2 = 1 / (modes.lam + kappa[..., None]), 1 / (modes.lam + other[..., None])
    power, lam = modes.many * modes.power, modes.many * modes.lam

    def between(weight: np.ndarray) -> np.ndarray:
        return (over * weight) @ over2.swapaxes(1, 2)

    both = kappa[:, :, None] * other[:, None, :]
    a = between(lam)
    r_, u_ = r[:, None, None], u[:, None, None]
    found = four(both * between(power), between(power * modes.lam), a, both * a, between(lam * modes.lam), u_, r_, sigma2)
    fit = modes.lam * over
    total = fit @ modes.many
    R1, R3 = 1 - r[:, None] * total, 1 - u[:, None] * total
    R1 = np.where(np.abs(R1) < np.abs(R3), (s + decay) / (kappa * R3), R1)  # the smaller one from the equation of kappa
    train = R1[:, :, None] * np.concatenate([R1, R1.conj()], 1)[:, None, :] * (found[0] + sigma2)
    weight = (w / z)[:, None] * np.concatenate([w / z, (w / z).conj()]) / 2  # dt and 1 / s: t cancels
    return np.stack([(weight * x).real.sum((1, 2)) for x in (*found, train)])


@checked
def residuals(
    spectrum: Spectrum, times: Numbers, num_features: Extended = np.inf, num_samples: Extended = np.inf, *, num_nodes: int = 24
) -> Float[np.ndarray, "times entries"]:
    """(T, entries) what is left, on average over features and data, of the target's amplitude in every entry: H_k(t).

    exp(-lam_k t) at k = n = inf; it stops at kappa / (lam_k + kappa), with sum lam / (lam + kappa) = min(k, n).

    Example:
        >>> spectrum = Spectrum([2.0, 1.0], [1.0, 1.0])
        >>> bool(np.allclose(residuals(spectrum, [3.0]), np.exp([-6.0, -3.0])))
        True
    """
    t, modes = increasing(times), Modes.of(spectrum)
    u, r = (1 / sizes(name, x).reshape(1) for name, x in (("num_features", num_features), ("num_samples", num_samples)))
    z, w = talbot(num_nodes)
    kappa = kappa_along(modes, z / t[None, :, None], r, u)[0]
    left = kappa[..., None] / (spectrum.lam + kappa[..., None])
    return ((w / z)[:, None] * left).real.sum(1)


def increasing(times: Any) -> Float[np.ndarray, "*sizes times"]:
    """Times as an array, above zero and increasing along the last axis, else ValueError."""
    t = check.array("times", np.atleast_1d(np.asarray(times)), max(1, np.ndim(times)), "(..., T)")
    if (t < 1 / check.HUGE).any() or (np.diff(t, axis=-1) <= 0).any():
        raise ValueError("times must be above zero and increasing: sort them; at t = 0 the error is the target's power.")
    return t
