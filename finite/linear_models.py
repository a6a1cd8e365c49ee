"""Random features and two-layer linear networks on Gaussian data, drawn and trained: the experiment to the scaling laws.

    f = w . A psi / k,   A (k, M) of independent standard normals,   w = 0 at the start
    psi ~ N(0, diag(lam)),   y = w* . psi + noise

k = inf is training on psi itself. Every draw has two sets of features and two data sets, all four combinations of which are
trained, so that each draw gives an unbiased value of what two models have in common that share features, data, both or neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import GradientDescent, Spectrum, check
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
        return getattr(self, name).mean(0)

    def sem(self, name: str) -> Float[np.ndarray, "..."]:
        """Its standard error."""
        x = getattr(self, name)
        return x.std(0, ddof=1) / np.sqrt(len(x))


@dataclass(frozen=True)
class _Setting:
    """What is drawn."""

    lam: np.ndarray
    target: np.ndarray
    num_features: int | None
    num_samples: int
    noise: float

    @staticmethod
    def of(spectrum: Spectrum, num_features: float, num_samples: int, noise: float) -> _Setting:
        check.instance("spectrum", spectrum, Spectrum)
        many = np.round(spectrum.multiplicity).astype(int)
        if not np.allclose(many, spectrum.multiplicity) or spectrum.rest_trace or spectrum.rest_power:
            raise ValueError("drawing features needs a spectrum with whole multiplicities and nothing left out: do not bin it.")
        lam = np.repeat(spectrum.lam, many)
        weights = np.divide(spectrum.power, spectrum.lam, out=np.zeros(len(many)), where=spectrum.lam > 0)
        k = None if np.isinf(num_features) else check.count("num_features", num_features)
        n = check.count("num_samples", num_samples)
        return _Setting(lam, np.repeat(np.sqrt(weights), many), k, n, check.at_least_zero("noise", noise))

    def features(self, rng: np.random.Generator, draws: int) -> np.ndarray | None:
        """(draws, 2, k, M), or None for psi itself."""
        return None if self.num_features is None else rng.standard_normal((draws, 2, self.num_features, len(self.lam)))

    def data(self, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """psi (draws, 2, n, M) and noise (draws, 2, n)."""
        psi = rng.standard_normal((draws, 2, self.num_samples, len(self.lam))) * np.sqrt(self.lam)
        return psi, self.noise * rng.standard_normal((draws, 2, self.num_samples))

    def common(self, left: np.ndarray) -> list[np.ndarray]:
        """(draws,) each of test, same_data, same_features, bias, from w* - predictor (draws, features, data, M)."""
        x = left * np.sqrt(self.lam)
        product = np.einsum("zabm,zcdm->zabcd", x, x)
        same = np.eye(2, dtype=bool)
        pairs = [(same, same), (~same, same), (same, ~same), (~same, ~same)]
        return [product.transpose(0, 1, 3, 2, 4)[:, a][..., b].mean((1, 2)) for a, b in pairs]

    def run(self, draw: Callable[[np.random.Generator, int], list[np.ndarray]], num_draws: int, seed: int, size: int) -> Draws:
        """`draw` gives (draws, ...) of test, same_data, same_features, bias, train; called on as many as fit."""
        rng = np.random.default_rng(check.count("seed", seed, least=0))
        num_draws, at_once = check.count("num_draws", num_draws, least=2), max(1, BLOCK // size)
        parts = [draw(rng, min(at_once, num_draws - i)) for i in range(0, num_draws, at_once)]
        test, data, features, bias, train = (np.concatenate(x) for x in zip(*parts, strict=True))
        return Draws(test, train, data, features, bias)


def descent(
    spectrum: Spectrum,
    training: GradientDescent,
    num_features: float,
    num_samples: int | None = None,
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
        num_samples: n of a fixed data set; None for online training.

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
            found.append([*setting.common(left), (error**2).mean((1, 2, 3))])
            if t == training.num_steps:
                break
            eta = training.step_sizes[t]
            g = (error.swapaxes(1, 2) @ psi).swapaxes(1, 2) / size
            seen = g if A is None else g @ A.swapaxes(2, 3)  # A(0) g
            G = seen if X is None else (X @ seen[..., None])[..., 0]
            if X is not None:
                turn = gamma / k * w[..., :, None] * seen[..., None, :]
                X, turning = move(X, turning, turn, eta, training.momentum, training.nesterov, 0.0)
            w, velocity = move(w, velocity, G, eta, training.momentum, training.nesterov, training.weight_decay)
        return [np.stack(x, 1) for x in zip(*found, strict=True)]

    return setting.run(draw, num_draws, seed, 2 * M * (size + k) + (4 * k * k if gamma else 0))


def flow(
    spectrum: Spectrum,
    times: Any,
    num_features: float,
    num_samples: int,
    *,
    noise: float = 0.0,
    num_draws: int = 100,
    seed: int = 0,
) -> Draws:
    """Gradient flow of w, exactly, from the eigenvectors of the features' empirical covariance.

    Returns:
        Draws of shape (draws, T).
    """
    t = check.array("times", times, 1, "(T,)")

    def kept(lam: np.ndarray) -> list[np.ndarray]:
        small = lam <= RANK * lam.max(-1, keepdims=True)
        return [np.where(small, x, -np.expm1(-lam * x) / np.where(small, 1.0, lam)) for x in t]

    return _filtered(_Setting.of(spectrum, num_features, num_samples, noise), kept, num_draws, seed)


def ridge_regression(
    spectrum: Spectrum,
    num_samples: int,
    num_features: float,
    *,
    ridge: float = 0.0,
    noise: float = 0.0,
    num_draws: int = 100,
    seed: int = 0,
) -> Draws:
    """Ridge regression, the ridge added to the n x n kernel matrix; without one the solution of least norm.

    Returns:
        Draws of shape (draws,).
    """
    check.at_least_zero("ridge", ridge)

    def kept(lam: np.ndarray) -> list[np.ndarray]:
        if ridge:
            return [1 / (lam + ridge / num_samples)]
        small = lam <= RANK * lam.max(-1, keepdims=True)
        return [np.where(small, 0.0, 1 / np.where(small, 1.0, lam))]

    draws = _filtered(_Setting.of(spectrum, num_features, num_samples, noise), kept, num_draws, seed)
    return Draws(*(getattr(draws, field.name)[:, 0] for field in fields(draws)))


def _filtered(setting: _Setting, kept: Callable[[np.ndarray], list[np.ndarray]], num_draws: int, seed: int) -> Draws:
    """w = V kept(lam) V^T Phi^T y / n, with lam, V of Phi^T Phi / n and Phi (n, k) the features of the samples."""
    n, k, M = setting.num_samples, setting.num_features or len(setting.lam), len(setting.lam)

    def draw(rng: np.random.Generator, draws: int) -> list[np.ndarray]:
        A, (psi, eps) = setting.features(rng, draws), setting.data(rng, draws)
        y = (psi @ setting.target + eps)[:, None]  # (draws, 1, data, n)
        if A is None:
            Phi = np.broadcast_to(psi[:, None], (draws, 2, 2, n, M))
        else:
            A = A / np.sqrt(k)
            Phi = psi[:, None] @ A[:, :, None].swapaxes(3, 4)
        lam, V = np.linalg.eigh(Phi.swapaxes(3, 4) @ Phi / n)
        b = V.swapaxes(3, 4) @ (Phi.swapaxes(3, 4) @ np.broadcast_to(y, (draws, 2, 2, n))[..., None]) / n
        found = []
        for factor in kept(np.maximum(lam, 0.0)):
            w = (V @ (factor[..., None] * b))[..., 0]
            left = setting.target - (w if A is None else w @ A)
            train = (y - (Phi @ w[..., None])[..., 0]) ** 2
            found.append([*setting.common(left), train.mean((1, 2, 3))])
        return [np.stack(x, 1) for x in zip(*found, strict=True)]

    return setting.run(draw, num_draws, seed, 2 * M * (n + k) + 4 * k * (n + 2 * k))
