"""Estimate: a Trajectory that knows how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import numpy as np

from widthwise.trajectory import Trajectory


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    """Mean and standard error of the mean over n independent runs (seeds of a network, or replicas of a solve).

    Attributes:
        mean: Trajectory of means.
        sem: Trajectory of standard errors of those means; zeros where the result is exact.
        n: number of independent runs; 0 where the result is exact.
        samples: the runs themselves, a Trajectory with a leading axis of length n; None where they were not kept, or the
            result is exact.

    Example:
        >>> import numpy as np
        >>> runs = Trajectory(np.arange(1), np.array([[[1.0]], [[3.0]]]), np.zeros((2, 1)), None, np.arange(0))
        >>> estimate = Estimate.of(runs)
        >>> estimate.mean.f.item(), estimate.sem.f.item(), estimate.n
        (2.0, 1.0, 2)
    """

    mean: Trajectory
    sem: Trajectory
    n: int = field(metadata={"static": True})
    samples: Trajectory | None = None

    @staticmethod
    def of(samples: Trajectory) -> Estimate:
        """The Estimate of runs with a leading axis; one run has an infinite standard error."""
        n = len(samples.f)

        def sem(x: np.ndarray) -> np.ndarray:
            if n == 1:
                return np.full(x.shape[1:], np.inf)
            return x.std(0, ddof=1, dtype=np.float64) / np.sqrt(n)

        with np.errstate(over="ignore", invalid="ignore"):  # of runs that diverged: their Status says so
            averaged = samples.without(*Trajectory.UNAVERAGED)
            return Estimate(averaged.map(lambda x: x.mean(0, dtype=np.float64)), averaged.map(sem), n, samples)

    @staticmethod
    def exact(trajectory: Trajectory) -> Estimate:
        """The Estimate of a result without sampling."""
        return Estimate(trajectory, trajectory.map(np.zeros_like), 0)
