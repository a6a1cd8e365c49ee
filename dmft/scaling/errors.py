"""Errors: what a model of scaling laws predicts, taken apart by where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import checked


@dataclass(frozen=True)
class Errors:
    """Mean squared errors, averaged over features and data; prints as a table.

    Take two models, and C = <(f - y)(f' - y)> over test points. They may share their features, their data, both or neither:

        test = C both     same_data = C data alone     same_features = C features alone     bias = C neither

    Attributes:
        test: (...) <(f - y)^2> of one model over new points, noise-free targets. The last axis is time where there are times.
        train: (...) mean of (y - f)^2 over the train points, with their noise.
        same_data, same_features, bias: (...) as above.
        times: (T,) or (..., T), or None at the end of training.
    """

    test: Float[np.ndarray, "..."]
    train: Float[np.ndarray, "..."]
    same_data: Float[np.ndarray, "..."]
    same_features: Float[np.ndarray, "..."]
    bias: Float[np.ndarray, "..."]
    times: Float[np.ndarray, "..."] | None = None

    @property
    def variance_of_features(self) -> Float[np.ndarray, "..."]:
        """Of the mean over data: what averaging over features takes away at once."""
        return self.same_features - self.bias

    @property
    def variance_of_data(self) -> Float[np.ndarray, "..."]:
        """Of the mean over features, label noise included: what averaging over data sets takes away at once."""
        return self.same_data - self.bias

    @property
    def variance_of_both(self) -> Float[np.ndarray, "..."]:
        """The rest of the variance: averaging over either takes it away."""
        return self.test - self.same_data - self.same_features + self.bias

    @checked
    def ensemble(self, num_features: int = 1, num_data: int = 1) -> Float[np.ndarray, "..."]:
        """Test error of the mean output of E x B models: E draws of features, each trained on each of B data sets.

            L = [C_both + (E - 1) C_data + (B - 1) C_features + (E - 1)(B - 1) C_neither] / (E B)

        Args:
            num_features: E (ensembling).
            num_data: B (bagging).

        Example:
            >>> one = np.ones(1)
            >>> Errors(4 * one, one, 2 * one, 2 * one, one).ensemble(2, 2).tolist()
            [2.25]
        """
        E, B = check.count("num_features", num_features), check.count("num_data", num_data)
        total = self.test + (E - 1) * self.same_data + (B - 1) * self.same_features + (E - 1) * (B - 1) * self.bias
        return total / (E * B)

    def __str__(self) -> str:
        head = "" if self.times is None else "      time"
        lines = [head + "    test MSE   train MSE        bias   of features   of data   of both"]
        rows: list[Any] = [self.test, self.train, self.bias, self.variance_of_features, self.variance_of_data]
        rows.append(self.variance_of_both)
        if self.times is not None:
            rows.insert(0, self.times)
        table = np.stack([np.broadcast_to(x, np.shape(self.test)).ravel() for x in rows], 1)
        picked = np.unique(np.linspace(0, len(table) - 1, 24).round().astype(int)) if len(table) > 24 else range(len(table))
        for row in (table[i] for i in picked):
            lines.append((" " if self.times is None else "") + " ".join(f"{x:10.4g} " for x in row))
        return "\n".join(lines)
