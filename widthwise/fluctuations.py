"""What is left of the width at order 1/N: covariance over seeds and bias, times N."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import Size, checked
from widthwise.result import Result
from widthwise.storage import load_arrays, write_arrays


@dataclass(frozen=True)
class Fluctuations:
    """N times the covariance and the bias of networks of width N, to leading order, with error bars (2304.03408).

        f_N = f + N^-1/2 e_1 + N^-1 e_2 + ...       N Var f = <e_1^2>       N bias f = <e_2>       averages over seeds

    The three Results have the shape of one of `dmft.solve`; their errors are over replicas of the theory.

    Attributes:
        limit: f, losses and kernels at infinite width.
        variance: N Var of f, Phi and G, entry by entry (where phi' jumps, as that of ReLU does, G is None). Its `loss` is what
            the variance adds to the loss of one network, times N: mean over samples of 1/2 tr(l'' N Var f); ensembles take it
            away.
        bias: N (<x_N> - x) of f, Phi and G; None if it was not asked for. Its `loss` is what the bias adds to the loss of a
            network, and of any ensemble, times N: mean over samples of l' N bias f.
        rows: (replicas, n, ...) arrays by name, "f", "Phi" and, unless phi' jumps, "G": N Cov(x, y) = sum over n of
            rows_x rows_y, mean over replicas.

    Example:
        >>> import dmft
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(2, 1, input_dim=8), GradientDescent(0.5, 5))
        >>> theory = dmft.fluctuations(problem, num_paths=256, num_replicas=4, progress=False)
        >>> theory.variance.mean.f.shape, theory.covariance("f", "f").shape
        ((6, 3), (6, 3, 6, 3))
        >>> bool(np.allclose(np.einsum("tmtm->tm", theory.covariance("f", "f")), theory.variance.mean.f))
        True
    """

    limit: Result
    variance: Result
    bias: Result | None
    rows: dict[str, Float[np.ndarray, "replicas n ..."]] = field(repr=False)

    @checked
    def covariance(self, a: str, b: str) -> Float[np.ndarray, "..."]:
        """N Cov between any two of "f", "Phi" and "G": axes of a, then those of b.

        Raises:
            ValueError: another name, or G where phi' jumps.
        """
        for name in (a, b):
            if check.choice("name", name, ("f", "Phi", "G")) not in self.rows:
                raise ValueError(f"{name} has no expansion in 1/N where phi' jumps: take f and Phi, or a smooth activation.")
        x, y = self.rows[a], self.rows[b]
        R = len(x)
        flat = x.reshape(R * x.shape[1], -1).T @ y.reshape(R * y.shape[1], -1) / R
        return flat.reshape(*x.shape[2:], *y.shape[2:])

    @checked
    def loss(self, width: int, members: Size = 1, *, test: bool = False) -> Float[np.ndarray, "states"]:
        """Mean loss of ensembles of so many networks of this width (outputs averaged; inf for all), to order 1/N.

            <L> = L + (1/N) [ <1/2 tr l'' N Var f> / members + <l' N bias f> ]

        Raises:
            ValueError: the bias was not asked for.
        """
        if self.bias is None:
            raise ValueError("the loss at finite width takes the bias too: dmft.fluctuations(problem, bias=True).")
        name = "test_loss" if test else "loss"
        limit, variance, bias = (part.mean[name] for part in (self.limit, self.variance, self.bias))
        return limit + (variance / members + bias) / check.count("width", width)

    @checked
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write limit.npz, variance.npz, bias.npz (Results each) and rows.npz into a folder, for those that are there."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        parts = {name: getattr(self, name) for name in ("limit", "variance", "bias")}
        for name in ("rows", *parts):  # first: a run that is killed below leaves no mixture
            (path / f"{name}.npz").unlink(missing_ok=True)
        for name, result in parts.items():
            if result is not None:
                result.save(path / f"{name}.npz")
        write_arrays(path / "rows.npz", self.rows)

    @staticmethod
    @checked
    def load(folder: str | os.PathLike[str], **settings: Any) -> Fluctuations:
        """Read what `save` wrote; `settings` as for `Result.load`.

        Raises:
            ValueError: the folder does not hold it, a file there is damaged, or they are of different problems.
        """
        path = Path(folder)
        there = {name: path / f"{name}.npz" for name in ("limit", "variance", "bias")}
        parts = {name: Result.load(file, **settings) if file.exists() else None for name, file in there.items()}
        if parts["limit"] is None or parts["variance"] is None or not (path / "rows.npz").exists():
            raise ValueError(f"{path} holds no fluctuations: limit.npz, variance.npz and rows.npz are expected there.")
        if len({result.problem.fingerprint() for result in parts.values() if result is not None}) > 1:
            raise ValueError(
                f"the files in {path} are of different problems: compute them again, or save each into its own folder."
            )
        return Fluctuations(parts["limit"], parts["variance"], parts["bias"], load_arrays(path / "rows.npz"))

    def __str__(self) -> str:
        training = self.limit.problem.training
        steps = np.unique(np.geomspace(1, training.num_steps, 8).round().astype(int))
        lines = [f"{'step':>6s}   {'N Var f (rms over points)':28s}" + ("N bias f (rms)" if self.bias else "")]
        for t in steps:
            row = f"{t:6d}   {_size(self.variance, t):28s}"
            lines.append(row + (_size(self.bias, t) if self.bias else ""))
        return "\n".join([*lines, f"{self.variance.status}"])

    def plot(self) -> Any:
        """N Var f and N bias f of every point over time, with error bands."""
        import matplotlib.pyplot as plt  # imported where used

        parts = [("N Var f", self.variance)] + ([("N bias f", self.bias)] if self.bias else [])
        figure, axes = plt.subplots(1, len(parts), figsize=(4 * len(parts), 3), constrained_layout=True, squeeze=False)
        for axis, (name, result) in zip(axes[0], parts, strict=True):
            mean, sem = (x.f.reshape(len(x.f), -1) for x in (result.mean, result.sem))
            for m in range(mean.shape[1]):
                axis.plot(result.mean.steps, mean[:, m], lw=1)
                axis.fill_between(result.mean.steps, mean[:, m] - sem[:, m], mean[:, m] + sem[:, m], alpha=0.3, lw=0)
            axis.set(xlabel="step t", ylabel=name)
        return figure


def _size(result: Result, t: int) -> str:
    """Root mean square over points at a step, with its error."""
    x, e = (part.f[t].ravel() for part in (result.mean, result.sem))
    size = np.sqrt(np.mean(x**2))
    return f"{size:.3g} +- {np.sqrt(np.sum((x * e) ** 2)) / max(len(x) * size, 1e-300):.1g}"
