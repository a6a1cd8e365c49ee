"""Losses of outputs in float64, and what the members of an ensemble average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.loss import Loss, as_loss

Losses = Callable[[Float[np.ndarray, "... points outputs"], Float[np.ndarray, "points outputs"]], np.ndarray]

AVERAGES = ("outputs", "probabilities")


@dataclass(frozen=True)
class Members:
    """A loss as a function of what an ensemble averages.

    Attributes:
        name: of the loss.
        of: what is averaged (..., M, C), targets (M, C) -> mean loss over points (...).
        vote: outputs f -> what is averaged: f itself, or probabilities.
    """

    name: str
    of: Losses
    vote: Callable[[np.ndarray], np.ndarray]

    @property
    def quadratic(self) -> bool:
        """Whether the loss is quadratic in the average, and so exactly linear in 1 / E."""
        return self.name == "mse"


def members(loss: Any, average: str) -> Members:
    """The Members of a loss by name or function.

    Raises:
        ValueError: an unknown loss or average; probabilities of a loss that knows none.
    """
    check.choice("average", average, AVERAGES)
    known: Loss = as_loss(loss)
    if average == "probabilities":
        if known.name == "cross_entropy":
            return Members(known.name, lambda p, y: _mean(-np.sum(y * np.log(np.maximum(p, 1e-300)), -1)), softmax)
        if known.name == "logistic":
            return Members(known.name, _of_sign_probability, lambda f: np.exp(-np.logaddexp(0, -f)))
        raise ValueError(f"average='probabilities' is for cross_entropy and logistic; {known.name!r} has no probabilities.")
    named: dict[str, Losses] = {"mse": _mse, "cross_entropy": _cross_entropy, "logistic": _logistic}
    custom: Losses = lambda f, y: _mean(np.asarray(known.of(f, y), dtype=np.float64))  # noqa: E731
    return Members(known.name, named.get(known.name, custom), lambda f: f)


def softmax(f: Float[np.ndarray, "... outputs"]) -> Float[np.ndarray, "... outputs"]:
    """exp f / sum exp f"""
    p = np.exp(f - f.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def _mean(of_samples: Float[np.ndarray, "... points"]) -> np.ndarray:
    return of_samples.mean(-1)


def _mse(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _mean(np.sum((f - y) ** 2, -1) / 2)


def _cross_entropy(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    top = f.max(-1)
    return _mean(y.sum(-1) * (top + np.log(np.exp(f - top[..., None]).sum(-1))) - np.sum(y * f, -1))


def _logistic(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _mean(np.logaddexp(0, -y * f).sum(-1))


def _of_sign_probability(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _mean(-np.log(np.maximum(np.where(y > 0, p, 1 - p), 1e-300)).sum(-1))
