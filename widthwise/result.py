"""Result: what a solve or a training run answers; prints, saves, loads."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from widthwise import check
from widthwise.activation import Activation, Elementwise
from widthwise.checked import checked
from widthwise.data import Stream
from widthwise.estimate import Estimate
from widthwise.loss import SampleLoss
from widthwise.networks import Network
from widthwise.problem import Problem
from widthwise.storage import read_arrays, with_suffix, write_arrays
from widthwise.training import Optax
from widthwise.trajectory import Trajectory, axes_of
from widthwise.version import __version__

FORMAT = 2
"""Version of the file layout; raised when an older reader could misread a newer file."""

DIVERGED = 1e6
"""Training diverges where the loss exceeds so many times its scale."""


@dataclass(frozen=True)
class Status:
    """Whether a run did what was asked, in a sentence with the cure where it did not.

    Attributes:
        ok: True if every number in the result can be used.
        message: one sentence.
        first_bad_step: the first step at which a value is not finite, or None.
        suggested_eta0: a learning rate that should train, or None.
    """

    ok: bool
    message: str
    first_bad_step: int | None = None
    suggested_eta0: float | None = None

    def __str__(self) -> str:
        return self.message

    @staticmethod
    def of(problem: Problem, trajectory: Trajectory, done: str) -> Status:
        """The Status of a trajectory (no leading axis): `done` if it stayed finite, else where it diverged and the cure.

        Training diverges where the output is not finite or the loss exceeds a million times its scale. The suggestion is
        a quarter of the critical rate of the initial tangent kernel, 2 P / lambda_max(K(0)), since kernels grow, and at most
        half of the rate tried.
        """
        task, eta0 = problem.task, problem.training.eta0
        scale = max(float(trajectory.loss[0]), float(np.mean(task.y**2)) / 2, np.finfo(np.float64).tiny)
        with np.errstate(over="ignore", invalid="ignore"):
            bad = ~(np.isfinite(trajectory.f).reshape(len(trajectory.f), -1).all(-1) & (trajectory.loss < DIVERGED * scale))
        if not bad.any():
            return Status(True, done)
        step, suggestion = int(trajectory.steps[bad.argmax()]), eta0 / 2
        if 0 in trajectory.kernel_steps and trajectory.Phi is not None and trajectory.G is not None:
            P = task.num_test if problem.training.online else task.num_train
            rates, bias = problem.training.rates(problem.architecture.depth), problem.architecture.bias
            with np.errstate(over="ignore", invalid="ignore"):  # at the steps after it diverged
                K = trajectory.tangent_kernel(problem.Phi0, rates, bias)[list(trajectory.kernel_steps).index(0), :P, :P]
            if np.isfinite(K).all():
                suggestion = min(suggestion, P / (2 * float(np.linalg.eigvalsh(K)[-1])))
        suggestion = float(f"{suggestion:.2g}")
        return Status(False, f"training diverged at step {step}: lower eta0 from {eta0:g} to {suggestion:g}.", step, suggestion)

    @staticmethod
    def of_samples(problem: Problem, samples: Trajectory, done: str, whose: str) -> Status:
        """The Status of samples, which have an axis of runs: ok unless one diverged, as `of` says; it leaves the others alone.

        The scale of the loss is what they start at, at the points that are watched and on the first batch.

        Args:
            done: text of success, with the number of runs for {}.
            whose: what runs are.
        """
        losses = [loss for loss in (samples.loss, samples.test_loss) if loss is not None]
        scale = max(*(float(np.nanmax(loss[:, 0], initial=0.0)) for loss in losses), np.finfo(np.float64).tiny)
        finite = np.isfinite(samples.f.reshape(*samples.f.shape[:2], -1)).all(-1)
        for loss in losses:
            finite &= loss < DIVERGED * scale
        if finite.all():
            return Status(True, done.format(len(finite)))
        bad, step, eta0 = ~finite.all(1), int(samples.steps[(~finite).any(0).argmax()]), problem.training.eta0
        return Status(
            False,
            f"training of {bad.sum()} of {len(bad)} {whose} diverged, by step {step}: "
            f"lower eta0 from {eta0:g} to {eta0 / 2:g}.",
            step,
            eta0 / 2,
        )


class Unsolved(RuntimeError):
    """A solve or a training run that failed; `.result` holds what there is of it.

    Example:
        >>> import dmft
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(50.0, 30))
        >>> try:
        ...     theory = dmft.solve(problem)
        ... except Unsolved as failed:
        ...     theory, status = failed.result, failed.result.status
        >>> status.ok, status.suggested_eta0 < 50.0
        (False, True)
    """

    def __init__(self, result: Result):
        super().__init__(f"{result.status.message} (throw=False returns the partial result.)")
        self.result = result

    def __reduce__(self) -> Any:
        return Unsolved, (self.result,)  # so that it comes back from another process


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """What `dmft.solve` and `finite.train` return.

    Attributes:
        problem: the Problem that was solved.
        trajectory: Estimate of its Trajectory: mean, standard error, number of runs, the runs.
        status: Status.
        stats: numbers about the run: seconds, width or paths, ranks, memory.
        provenance: method, seed, versions, device, date.
    """

    problem: Problem = field(metadata={"static": True})
    trajectory: Estimate
    status: Status = field(metadata={"static": True})
    stats: dict[str, Any] = field(metadata={"static": True})
    provenance: dict[str, Any] = field(metadata={"static": True})

    @property
    def mean(self) -> Trajectory:
        return self.trajectory.mean

    @property
    def sem(self) -> Trajectory:
        return self.trajectory.sem

    @property
    def samples(self) -> Trajectory:
        """The single runs. Raises ValueError where the result is exact and has none, or where they were not kept."""
        if self.trajectory.samples is None:
            if self.trajectory.n == 0:
                raise ValueError("this result is exact: it has no samples, only .mean (and .sem, which is zero).")
            raise ValueError(
                "this result has .mean and .sem but not its single runs: it was extrapolated, or saved with samples=False. "
                "What needs the runs takes the Result of dmft.solve or finite.train itself, or saved with its samples."
            )
        return self.trajectory.samples

    @checked
    def or_raise(self, throw: bool = True) -> Result:
        """This Result, or `Unsolved` if its status is not ok and `throw`."""
        if throw and not self.status.ok:
            raise Unsolved(self)
        return self

    def __str__(self) -> str:
        mean, sem, n = self.mean, self.sem, self.trajectory.n
        shown = np.unique(np.linspace(0, len(mean.steps) - 1, 6).round().astype(int))
        runs = "exact" if n == 0 else f"{n} runs"
        why = f" ({why})" if (why := self.provenance.get("why")) else ""
        lines = [
            f"{self.provenance.get('method', 'Result')}: {self.status} [{runs}]{why}",
            "  step   train loss            test loss",
        ]
        for t in shown:
            row = f"{mean.steps[t]:6d}   {_plus_minus(mean.loss[t], sem.loss[t]):20s}"
            if mean.test_loss is not None and sem.test_loss is not None:
                row += f"  {_plus_minus(mean.test_loss[t], sem.test_loss[t])}"
            lines.append(row)
        lines.append("  " + ", ".join(f"{key} {_short(value)}" for key, value in self.stats.items()))
        return "\n".join(lines)

    @checked
    def save(self, path: str | os.PathLike[str], *, samples: bool = True) -> Path:
        """Write the result to one file that `numpy.load` opens: arrays `mean/f`, `sem/f`, `samples/f` ... and a JSON header.

        It needs no widthwise to be read: `json.loads(str(file["header"]))["axes"]` names the axes of every array ("run",
        "step", "point" ...), and `steps` and `kernel_steps` say which steps those are.

        The write is atomic: the file appears whole or not at all.

        Args:
            path: file name; `.npz` is added if it has no suffix.
            samples: whether to keep the single runs (most of the size).

        Raises:
            OSError: the place cannot be written.
        """
        path = with_suffix(path)
        arrays: dict[str, np.ndarray] = {}
        axes: dict[str, list[str]] = {"steps": ["step"], "kernel_steps": ["kept"]}
        parts = {"mean": self.mean, "sem": self.sem, "samples": self.trajectory.samples if samples else None}
        for part, trajectory in parts.items():
            if trajectory is not None:
                runs = ["run"] * (part == "samples")
                for name, x in trajectory.observables().items():
                    arrays[f"{part}/{name}"] = np.asarray(x)
                    axes[f"{part}/{name}"] = runs + axes_of(name, np.shape(x)[len(runs) :])
        arrays |= {"steps": self.mean.steps, "kernel_steps": self.mean.kernel_steps}
        header = {
            "format": FORMAT,
            "arrays": [*arrays],
            "axes": axes,
            "problem": self.problem.to_json(),
            "n": self.trajectory.n,
            "status": vars(self.status),
            "stats": self.stats,
            "provenance": self.provenance,
        }
        write_arrays(path, {"header": np.array(json.dumps(header, default=_plain)), **arrays})
        return path

    @staticmethod
    @checked
    def load(
        path: str | os.PathLike[str],
        activation: Elementwise | Activation | None = None,
        loss: SampleLoss | None = None,
        stream: Stream | None = None,
        optimizer: Optax | None = None,
        network: Network | None = None,
    ) -> Result:
        """Read what `save` wrote.

        Args:
            path: file name; `.npz` is added if it has no suffix.
            activation: the user's own activation function, where the problem had one.
            loss: the user's own loss function, likewise.
            stream: the Stream that was trained on, likewise.
            optimizer: the user's own optimizer, likewise.
            network: the user's own Network, likewise.

        Raises:
            OSError: no such file, or one that cannot be read.
            ValueError: not a result file, a half-written or damaged one, or one of another version.
        """
        try:
            data = read_arrays(with_suffix(path))
            header = json.loads(str(data.pop("header")))
            if header["format"] == FORMAT and {*header["arrays"]} != {*data}:
                raise ValueError("arrays are missing")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a result file or is damaged ({error}). Files written by Result.save appear whole or not "
                "at all, so this one was cut or changed afterwards: compute it again."
            ) from error
        if header["format"] != FORMAT:
            source = header.get("provenance")
            written_by = source.get("widthwise", "unknown") if isinstance(source, dict) else "unknown"
            raise ValueError(
                f"{path} has file format {header['format']}, written by widthwise {written_by}; this is widthwise "
                f"{__version__}, which reads format {FORMAT}. Load it with that version, or compute it again."
            )

        def trajectory(part: str) -> Trajectory:
            observables = {name[len(part) + 1 :]: x for name, x in data.items() if name.startswith(f"{part}/")}
            return Trajectory.of(data["steps"], data["kernel_steps"], observables)

        problem = Problem.from_json(header.get("problem"), activation, loss, stream, optimizer, network)
        try:
            n = check.count("n", header["n"], least=0)
            samples = _fitting(trajectory("samples"), n) if "samples/f" in data else None
            estimate = Estimate(_fitting(trajectory("mean")), _fitting(trajectory("sem")), n, samples)
            status = Status(**header["status"])
            check.flag("ok", status.ok)
            check.instance("message", status.message, str)
            return Result(problem, estimate, status, dict(header["stats"]), dict(header["provenance"]))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not as Result.save writes it ({error!r}): compute it again.") from error


def _fitting(trajectory: Trajectory, runs: int | None = None) -> Trajectory:
    """The trajectory, if it holds numbers whose axes are as long as each other and as the steps; else ValueError."""
    steps, kept = np.asarray(trajectory.steps), np.asarray(trajectory.kernel_steps)
    if steps.dtype.kind not in "iu" or kept.dtype.kind not in "iu" or steps.ndim != 1 or kept.ndim != 1 or not len(steps):
        raise ValueError("steps and kernel_steps must be rows of whole numbers")
    sizes = {"step": len(steps), "kept": len(kept), "point": np.shape(trajectory.f)[1 if runs is None else 2]}
    for name, x in trajectory.observables().items():
        shape = np.shape(check.numeric(name, x))
        if runs is not None and (not shape or shape[0] != runs):
            raise ValueError(f"{name} must be of {runs} runs, got shape {shape}")
        shape = shape if runs is None else shape[1:]
        known = ("f", "loss", "test_loss", "Phi", "G")
        for axis, size in zip(axes_of(name, shape), shape, strict=True):
            if (axis in ("step", "kept") or (axis == "point" and name in known)) and size != sizes[axis]:
                raise ValueError(f"{name} must have {sizes[axis]} entries along its axis of {axis}s, got shape {shape}")
        if len(shape) < {"f": 2, "Phi": 5, "G": 5}.get(name, 1):
            raise ValueError(f"{name} has an axis too few, got shape {shape}")
    return trajectory


def provenance(problem: Problem, method: str, seed: int | None) -> dict[str, Any]:
    """Where a result comes from: method, seed, fingerprint of the problem, versions, device, date."""
    return {"method": method, "seed": seed, "problem": problem.fingerprint(), **versions()}


def versions() -> dict[str, str]:
    """Versions, device and date, for what is written down."""
    device = jax.devices()[0]
    return {
        "widthwise": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform}: {device.device_kind}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _plus_minus(value: Any, sem: Any) -> str:
    return f"{float(value):.4g}" + ("" if sem == 0 else f" +- {float(sem):.1g}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {value!r} to a result file")
