"""Random features and two-layer linear networks on Gaussian data, drawn and trained: the experiment to the scaling laws.

    f = w . A psi / k,   A (k, M) of independent standard normals,   w = 0 at the start
    psi ~ N(0, diag(lam)),   y = w* . psi + noise

k = inf is training on psi itself, n = inf on the distribution. Every draw has two sets of features and two data sets, all four
combinations of which are trained, so that each draw gives an unbiased value of what two models have in common that share
features, data, both or neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from widthwise import GradientDescent, Spectrum, check
from widthwise.checked import Numbers, Size, checked
from widthwise.memory import room, room_for
from widthwise.training import move

BLOCK = 2**24
"""Numbers that one array holds at most."""

RANK = 1e-10
"""Eigenvalues below this share of the largest count as zero where there is no ridge."""


@dataclass(frozen=True)
class Draws:
    """Errors of every draw, (draws, ...): C = <(f - y)(f' - y)> over the distribution, of models that share what the name says.

    Attributes:
        test: both. train: mean of (f - y)^2 over the train points, with their noise.
        same_data, same_features: one of them. bias: neither.
    """

    test: Float[np.ndarray, "draws ..."]
    train: Float[np.ndarray, "draws ..."]
    same_data: Float[np.ndarray, "draws ..."]
    same_features: Float[np.ndarray, "draws ..."]
    bias: Float[np.ndarray, "draws ..."]

    def mean(self, name: str) -> Float[np.ndarray, "..."]:
        """Mean over draws of the error of that name."""
        return self._drawn(name).mean(0)

    def sem(self, name: str) -> Float[np.ndarray, "..."]:
        """Its standard error."""
        x = self._drawn(name)
        return x.std(0, ddof=1) / np.sqrt(len(x))

    def _drawn(self, name: str) -> Float[np.ndarray, "draws ..."]:
        return getattr(self, check.choice("name", name, tuple(field.name for field in fields(self))))


@dataclass(frozen=True)
class _Setting:
    """What is drawn."""

    lam: np.ndarray
    target: np.ndarray
    num_features: int | None
    num_samples: int
    noise: float
    endless: bool

    @staticmethod
    def of(spectrum: Spectrum, num_features: float, num_samples: float, noise: float) -> _Setting:
        check.instance("spectrum", spectrum, Spectrum)
        many = np.round(spectrum.multiplicity).astype(int)
        if not np.allclose(many, spectrum.multiplicity) or spectrum.rest_trace or spectrum.rest_power:
            raise ValueError("drawing features needs a spectrum with whole multiplicities and nothing left out: do not bin it.")
        room(48 * spectrum.num_modes, f"features of {spectrum.num_modes:.3g} modes", "Take a spectrum of fewer.")
        lam = np.repeat(spectrum.lam, many)
        weights = np.divide(spectrum.power, spectrum.lam, out=np.zeros(len(many)), where=spectrum.lam > 0)
        k = None if np.isinf(num_features) else check.count("num_features", num_features)
        endless = bool(np.isinf(num_samples))
        n = len(lam) if endless else check.count("num_samples", num_samples)
        return _Setting(lam, np.repeat(np.sqrt(weights), many), k, n, check.at_least_zero("noise", noise), endless)

    def features(self, rng: np.random.Generator, draws: int) -> np.ndarray | None:
        """(draws, 2, k, M), or None for psi itself."""
        return None if self.num_features is None else rng.standard_normal((draws, 2, self.num_features, len(self.lam)))

    def data(self, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """psi (draws, 2, n, M) and noise (draws, 2, n); without end of samples M of them whose covariance is diag(lam)."""
        if self.endless:
            psi = np.diag(np.sqrt(len(self.lam) * self.lam))
            return np.broadcast_to(psi, (draws, 2, *psi.shape)), np.zeros((draws, 2, len(self.lam)))
        psi = rng.standard_normal((draws, 2, self.num_samples, len(self.lam))) * np.sqrt(self.lam)
        return psi, self.noise * rng.standard_normal((draws, 2, self.num_samples))

    @property
    def unseen_noise(self) -> float:
        """What noise adds to the train error where it does nothing else."""
        return self.noise**2 if self.endless else 0.0

    def common(self, left: np.ndarray) -> list[np.ndarray]:
        """(draws,) each of test, same_data, same_features, bias, from w* - predictor (draws, features, data, M)."""
        x = left * np.sqrt(self.lam)
        product = np.einsum("zabm,zcdm->zabcd", x, x)
        same = np.eye(2, dtype=bool)
        pairs = [(same, same), (~same, same), (same, ~same), (~same, ~same)]
        return [product.transpose(0, 1, 3, 2, 4)[:, a][..., b].mean((1, 2)) for a, b in pairs]

    def run(self, draw: Callable[[np.random.Generator, int], list[np.ndarray]], num_draws: int, seed: int, size: int) -> Draws:
        """`draw` gives (draws, ...) of test, same_data, same_features, bias, train; called on as many as fit."""
        rng = np.random.default_rng(check.seed("seed", seed))
        num_draws, at_once = check.count("num_draws", num_draws, least=2, most=check.MANY), max(1, BLOCK // size)
        room_for((2, size), "one draw", "Lower num_samples or num_features, or take a shorter spectrum.")
        parts = [draw(rng, min(at_once, num_draws - i)) for i in range(0, num_draws, at_once)]
        test, data, features, bias, train = (np.concatenate(x) for x in zip(*parts, strict=True))
        test, data, features, bias, train = (np.where(np.isnan(x), np.inf, x) for x in (test, data, features, bias, train))
        return Draws(test, train, data, features, bias)


@checked
def descent(
    spectrum: Spectrum,
    training: GradientDescent,
    num_features: Size,
    num_samples: Size | None = None,
    *,
    noise: float = 0.0,
    gamma: float = 0.0,
    num_draws: int = 100,
    seed: int = 0,
) -> Draws:
    """Gradient descent of w, and with gamma of A = X A(0) too (2409.17858), step by step:

        g = mean over samples of (y - f) psi      w <- w + eta A g      A <- A + eta gamma w (g . A(0)^T A(0) / k)

    each with the momentum and schedule of `training`; weight decay acts on w. sampling="online" draws batch_size fresh samples
    at every step.

    Args:
        spectrum: unbinned.
        num_features: k; np.inf only with gamma = 0.
        num_samples: n of a fixed data set, np.inf for the whole distribution; None for online training.

    Returns:
        Draws of shape (draws, T + 1).
    """
    if training.flow or (training.batch_size is not None) != training.online or training.batches is not None:
        raise ValueError("training must be full-batch, or sampling='online' with a batch_size; see flow for gradient flow.")
    size = training.batch_size if training.online else num_samples
    if size is None or (training.online and num_samples is not None):
        raise ValueError("pass num_samples for full-batch training; online training has its batch_size alone.")
    setting = _Setting.of(spectrum, num_features, size, noise)
    gamma = check.at_least_zero("gamma", gamma)
    if gamma and (setting.num_features is None or training.weight_decay):
        raise ValueError("gamma above zero needs finite num_features and no weight decay.")
    k, M = setting.num_features or len(setting.lam), len(setting.lam)

    def draw(rng: np.random.Generator, draws: int) -> list[np.ndarray]:
        A, (psi, eps) = setting.features(rng, draws), setting.data(rng, draws)
        w, X = np.zeros((draws, 2, 2, k)), np.broadcast_to(np.eye(k), (draws, 2, 2, k, k)) if gamma else None
        velocity, turning, found = None, None, []
        for t in range(training.num_steps + 1):
            if t and training.online:
                psi, eps = setting.data(rng, draws)
            read = w if X is None else (w[..., None, :] @ X)[..., 0, :]
            predictor = w if A is None else read @ A / k
            left = setting.target - predictor
            error = (left.swapaxes(1, 2) @ psi.swapaxes(2, 3)).swapaxes(1, 2) + eps[:, None]
            found.append([*setting.common(left), (error**2).mean((1, 2, 3)) + setting.unseen_noise])
            if t == training.num_steps:
                break
            eta = training.step_sizes[t]
            g = (error.swapaxes(1, 2) @ psi).swapaxes(1, 2) / setting.num_samples
            seen = g if A is None else g @ A.swapaxes(2, 3)  # A(0) g
            G = seen if X is None else (X @ seen[..., None])[..., 0]
            if X is not None:
                turn = gamma / k * w[..., :, None] * seen[..., None, :]
                X, turning = move(X, turning, turn, eta, training.momentum, training.nesterov, 0.0)
            w, velocity = move(w, velocity, G, eta, training.momentum, training.nesterov, training.weight_decay)
        return [np.stack(x, 1) for x in zip(*found, strict=True)]

    return setting.run(draw, num_draws, seed, 2 * M * (setting.num_samples + k) + (4 * k * k if gamma else 0))


@checked
def flow(
    spectrum: Spectrum,
    times: Numbers,
    num_features: Size,
    num_samples: Size,
    *,
    noise: float = 0.0,
    num_draws: int = 100,
    seed: int = 0,
) -> Draws:
    """Gradient flow of w, exactly, from the eigenvectors of the features' empirical covariance; n = np.inf allowed.

    Returns:
        Draws of shape (draws, T).
    """
    t = check.array("times", times, 1, "(T,)")

    def kept(lam: np.ndarray) -> list[np.ndarray]:
        small = lam <= RANK * lam.max(-1, keepdims=True)
        return [np.where(small, x, -np.expm1(-lam * x) / np.where(small, 1.0, lam)) for x in t]

    return _filtered(_Setting.of(spectrum, num_features, num_samples, noise), kept, num_draws, seed)


@checked
def ridge_regression(
    spectrum: Spectrum,
    num_samples: Size,
    num_features: Size,
    *,
    ridge: Numbers = 0.0,
    noise: float = 0.0,
    num_draws: int = 100,
    seed: int = 0,
) -> Draws:
    """Ridge regression, the ridge added to the n x n kernel matrix; without one the solution of least norm.

    Args:
        num_samples: n; np.inf only without a ridge.
        ridge: one number, or (R,) ridges, all on the same draws.

    Returns:
        Draws of shape (draws,), or (draws, R).
    """
    ridges = check.array("ridge", np.atleast_1d(np.asarray(ridge)), 1, "(R,)")
    check.at_least_zero("the least ridge", float(ridges.min()))
    if np.isinf(num_samples) and ridges.any():
        raise ValueError("a ridge is nothing beside infinitely many samples: leave it out, or take finite num_samples.")

    def kept(lam: np.ndarray) -> list[np.ndarray]:
        small = lam <= RANK * lam.max(-1, keepdims=True)
        least = np.where(small, 0.0, 1 / np.where(small, 1.0, lam))
        return [1 / (lam + delta / num_samples) if delta else least for delta in ridges]

    draws = _filtered(_Setting.of(spectrum, num_features, num_samples, noise), kept, num_draws, seed)
    if np.ndim(ridge):
        return draws
    return Draws(*(getattr(draws, field.name)[:, 0] for field in fields(draws)))


@checked
def kernel_of_draw(spectrum: Spectrum, num_features: int, seed: int = 0) -> Spectrum:
    """The kernel of one draw of k features, in its own eigenfunctions: eigenvalues of A Lam A^T / k, target power in each.

        A Lam A^T / k = sum_j mu_j u_j u_j^T,   power_j = (u_j . A Lam w*)^2 / (k mu_j)

    What the features cannot express is `rest_power`. On the distribution itself (n = inf) w is trained as a kernel with this
    spectrum is; and so it is where the features learn by the projected rule: with the features X A(0), X starting at 1, X X^T =
    1 + gamma w w^T / k is conserved, and X^T w / sqrt(k) moves as the predictor in the basis u_j does at k = inf.

    Args:
        spectrum: unbinned.
        num_features: k.
        seed: of A.

    Example:
        >>> drawn = kernel_of_draw(Spectrum.power_law(2.0, 1.5, 100), 10)
        >>> len(drawn.lam), round(drawn.total_power / Spectrum.power_law(2.0, 1.5, 100).total_power, 12)
        (10, 1.0)
    """
    setting = _Setting.of(spectrum, check.count("num_features", num_features), 1, 0.0)
    room_for((3, num_features, len(setting.lam)), "features", "Lower num_features.")
    A = np.random.default_rng(check.seed("seed", seed)).standard_normal((num_features, len(setting.lam)))
    half = A * np.sqrt(setting.lam / num_features)
    mu, U = np.linalg.eigh(half @ half.T)
    mu, U = mu[::-1], U[:, ::-1]
    used = mu > RANK * mu[0]
    power = (U.T[used] @ (half @ (np.sqrt(setting.lam) * setting.target))) ** 2 / mu[used]
    rest = float(setting.lam @ setting.target**2 - power.sum())
    return Spectrum(mu[used], power, None, 0.0, max(rest, 0.0))


def _filtered(setting: _Setting, kept: Callable[[np.ndarray], list[np.ndarray]], num_draws: int, seed: int) -> Draws:
    """w = V kept(lam) V^T Phi^T y / n, with lam, V of Phi^T Phi / n and Phi (n, k) the features of the samples.

    Of Phi^T Phi and Phi Phi^T the smaller is taken: f(Phi^T Phi) Phi^T = Phi^T f(Phi Phi^T).
    """
    n, k, M = setting.num_samples, setting.num_features or len(setting.lam), len(setting.lam)

    def draw(rng: np.random.Generator, draws: int) -> list[np.ndarray]:
        A, (psi, eps) = setting.features(rng, draws), setting.data(rng, draws)
        y = (psi @ setting.target + eps)[:, None]  # (draws, 1, data, n)
        if A is None:
            Phi = np.broadcast_to(psi[:, None], (draws, 2, 2, n, M))
        else:
            A = A / np.sqrt(k)
            Phi = psi[:, None] @ A[:, :, None].swapaxes(3, 4)
        turned = Phi.swapaxes(3, 4)
        lam, V = np.linalg.eigh((turned @ Phi if k <= n else Phi @ turned) / n)
        Y = np.broadcast_to(y, (draws, 2, 2, n))[..., None]
        b = V.swapaxes(3, 4) @ (turned @ Y if k <= n else Y) / n
        found = []
        for factor in kept(np.maximum(lam, 0.0)):
            w = V @ (factor[..., None] * b)
            w = (w if k <= n else turned @ w)[..., 0]
            left = setting.target - (w if A is None else w @ A)
            train = (y - (Phi @ w[..., None])[..., 0]) ** 2
            found.append([*setting.common(left), train.mean((1, 2, 3)) + setting.unseen_noise])
        return [np.stack(x, 1) for x in zip(*found, strict=True)]

    return setting.run(draw, num_draws, seed, 2 * M * (n + k) + 4 * k * (n + 2 * min(n, k)))
