"""KernelSpectra: eigenvalues and task power of a Result's tangent kernels at the kept steps, with errors over its runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from widthwise import check
from widthwise.checked import Numbers, checked
from widthwise.curvature import num_trained
from widthwise.data import Stream
from widthwise.jackknife import jackknife
from widthwise.result import Result
from widthwise.spectrum import Spectrum, eigen

Points = Literal["train", "test", "all"]


@dataclass(frozen=True)
class KernelSpectra:
    """Spectra of the mean tangent kernel over runs, at K kept steps, between n points; prints as a table.

        Kbar v_k = n lam_k v_k,   p_k = (v_k . y)^2 / |y|^2,   C(k) = p_1 + ... + p_k

    Eigenvalues (how fast) and C(k) (along which functions) are kept apart. Errors are by jackknife over runs; zero where the
    result is exact, infinite where there is one run. Noise of the kernel itself spreads eigenvalues: their bias falls like
    1 / runs, and `lam_unbiased` has its leading order taken out.

    Attributes:
        steps: (K,) the kept steps.
        lam, lam_error, lam_unbiased: (K, n) eigenvalues of Kbar / n, largest first.
        share, share_error: (K, n) lam_k / sum lam, the trace-normalised ones.
        cumulative, cumulative_error: (K, n) C(k).
        trace, trace_error: (K,) sum lam.
        power: (K, n) c_k^2 = (v_k . y)^2 / n, summed over outputs.
        num_runs: 0 if exact.
        points: which points: "train", "test" or "all".
    """

    steps: Int[np.ndarray, "kept"]
    lam: Float[np.ndarray, "kept modes"]
    lam_error: Float[np.ndarray, "kept modes"]
    lam_unbiased: Float[np.ndarray, "kept modes"]
    share: Float[np.ndarray, "kept modes"]
    share_error: Float[np.ndarray, "kept modes"]
    cumulative: Float[np.ndarray, "kept modes"]
    cumulative_error: Float[np.ndarray, "kept modes"]
    trace: Float[np.ndarray, "kept"]
    trace_error: Float[np.ndarray, "kept"]
    power: Float[np.ndarray, "kept modes"]
    num_runs: int
    points: Points

    @staticmethod
    @checked
    def of(result: Result, points: Points = "train", y: Numbers = None) -> KernelSpectra:
        """Of a Result with save=["NTK"].

        Args:
            result: of theory or experiment.
            points: between which points; "test" and "all" need test targets. Of a Stream "test" are its probes.
            y: (n,) or (n, C), other targets than the task's, which for loss="cross_entropy" are one-hot rows less their mean.

        Raises:
            ValueError: NTK was not saved, there are no such points, or the result has not its single runs.

        Example:
            >>> import dmft
            >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
            >>> problem = Problem(MLP(1, "linear"), Parameterization(kind="ntk"), tasks.sphere(3, input_dim=8),
            ...                   GradientDescent(0.5, 10))
            >>> spectra = KernelSpectra.of(dmft.solve(problem, save=["NTK"]))
            >>> spectra.lam.shape, bool(np.allclose(spectra.cumulative[:, -1], 1))
            ((2, 3), True)
        """
        NTK, n = ntk_of(result), result.trajectory.n
        rows, y = points_of(result, points, y)
        runs = NTK[..., rows, rows]

        def measure(weights: Float[np.ndarray, "runs"]) -> Float[np.ndarray, "kept numbers"]:
            K = np.tensordot(weights, runs, 1) if n else runs
            lam, vectors = eigen(K)
            power = (np.einsum("kmi,mc->kic", vectors, y) ** 2).sum(-1) / len(y)
            trace = np.trace(K, axis1=-2, axis2=-1)[:, None] / len(y)
            cumulative = np.cumsum(power, -1) / ((y**2).sum() / len(y))
            return np.concatenate([lam, lam / np.where(trace > 0, trace, 1.0), cumulative, power, trace], axis=-1)

        value, error, unbiased = jackknife(measure, n)
        cuts = len(y) * np.arange(1, 5)
        lam, share, cumulative, power, trace = np.split(value, cuts, axis=-1)
        lam_error, share_error, cumulative_error, _, trace_error = np.split(error, cuts, axis=-1)
        return KernelSpectra(
            np.asarray(result.mean.kernel_steps),
            lam,
            lam_error,
            np.split(unbiased, cuts, axis=-1)[0],
            share,
            share_error,
            cumulative,
            cumulative_error,
            trace[:, 0],
            trace_error[:, 0],
            power,
            n,
            points,
        )

    def __getitem__(self, kept: int) -> Spectrum:
        """The Spectrum at a kept step, by index: 0 the first, -1 the last."""
        return Spectrum(self.lam[kept], self.power[kept])

    @property
    def initial(self) -> Spectrum:
        """At the first kept step."""
        return self[0]

    @property
    def after(self) -> Spectrum:
        """At the last kept step: of the after-kernel."""
        return self[-1]

    def __str__(self) -> str:
        lines = [f"tangent kernel between {self.lam.shape[1]} {self.points} points, mean of {self.num_runs or 'exact'} runs"]
        for i, step in enumerate(self.steps):
            lines.append(f"step {step}: trace {self.trace[i]:.4g} +- {self.trace_error[i]:.1g}")
            lines.append("       k        lam_k               lam_k / trace          C(k)")
            for k in shown_modes(self.lam.shape[1]):
                lines.append(
                    f"  {k + 1:6d}   {self.lam[i, k]:9.4g} +- {self.lam_error[i, k]:7.1g}   {self.share[i, k]:8.4f} +- "
                    f"{self.share_error[i, k]:.4f}   {self.cumulative[i, k]:.4f} +- {self.cumulative_error[i, k]:.4f}"
                )
        return "\n".join(lines)


def shown_modes(num: int, most: int = 7) -> Int[np.ndarray, "shown"]:
    """Indices of modes for a table: the first, then evenly in the logarithm."""
    return np.unique(np.geomspace(1, num, most).round().astype(int)) - 1


def points_of(result: Result, points: Points, y: Any = None) -> tuple[slice, Float[np.ndarray, "points outputs"]]:
    """Where the train, test or all points are among the watched ones, and their targets (n, C).

    Raises:
        ValueError: no such points, no targets there, or targets that all vanish.
    """
    check.choice("points", points, get_args(Points))
    problem, M = result.problem, np.shape(result.mean["NTK"])[-1]
    if isinstance(problem.task, Stream):
        P, known = 0, {"test": _probe_targets(problem.task, M) if y is None else None}
    elif problem.training.online:
        P, known = 0, {"test": problem.task.y_test}
    else:
        P, known = num_trained(problem), {"train": problem.task.y, "test": problem.task.y_test}
    rows = {"train": slice(0, P), "test": slice(P, M), "all": slice(0, M)}[points]
    num = rows.stop - rows.start
    if not num:
        where = "test" if P == 0 else "train"
        raise ValueError(f"there are no {points} points among the {M} that were watched: take points={where!r}.")
    if y is None:
        asked = ["train", "test"] if points == "all" and P else ["test" if points == "all" else points]
        parts = [np.reshape(part, (len(part), -1)) for name in asked if (part := known.get(name)) is not None]
        if len(parts) < len(asked):
            raise ValueError(f"points={points!r} needs targets there: give the task y_test, or pass y.")
        y = np.concatenate(parts)
        if problem.training.loss.name == "cross_entropy":
            y = y - y.mean(-1, keepdims=True)
    y = np.asarray(y)
    y = check.array("y", y[:, None] if y.ndim == 1 else y, 2, "(n,) or (n, C)")
    if len(y) != num:
        raise ValueError(f"y must have one row for each of the {num} {points} points, got {len(y)}.")
    if not np.any(y):
        raise ValueError("the targets are all zero: they have no power in any mode.")
    return rows, y


def _probe_targets(stream: Stream, num: int) -> Float[np.ndarray, "points outputs"]:
    if stream.kind == "tokens":
        raise ValueError("rows of an NTK of tokens are places, each of the logit of its own next token: pass y for them.")
    y = stream.probe(num)[1]
    return np.eye(stream.num_outputs)[y] if stream.kind == "classes" else y


def ntk_of(result: Result) -> Float[np.ndarray, "*runs kept points points"]:
    """NTK of the single runs (n, K, M, M); of an exact result (K, M, M).

    Raises:
        ValueError: it was not saved, no step was kept, or the runs were not; not finite, as training diverged.
    """
    check.instance("result", result, Result)
    if "NTK" not in result.mean.more or not len(result.mean.kernel_steps):
        raise ValueError("the result has no tangent kernels: pass save=['NTK'] to dmft.solve or finite.train.")
    source = result.mean if result.trajectory.n == 0 else result.samples
    K = np.asarray(source["NTK"], dtype=np.float64)
    if not np.isfinite(K).all():
        raise ValueError(f"the tangent kernels are not finite: {result.status}")
    return K
