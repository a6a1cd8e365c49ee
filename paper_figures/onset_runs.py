"""Networks on repeated data, lazy and rich, and the lazy limit: what fig14 is made of."""

from __future__ import annotations

import numpy as np

import compare
import dmft
import finite
from paper_figures.figure import mean_and_error
from widthwise import MLP, GradientDescent, Parameterization, Problem, Task

INPUT_DIM = 6
NUM_TEST = 256
REGIMES = {
    "lazy": (Parameterization(gamma0=0.1, kind="ntk"), 1.0),
    "rich": (Parameterization(gamma0=1.0), 0.2),
}
"""Parameterization and eta0."""

Arrays = dict[str, np.ndarray]


def problem(regime: str, P: int, data_set: int, num_steps: int) -> Problem:
    """y = (u^2 - 1) / norm, u = x_1, |x|^2 = D = 6: a Gegenbauer polynomial of variance 1."""
    rng = np.random.default_rng(data_set)
    X = rng.standard_normal((NUM_TEST + P, INPUT_DIM))
    X *= np.sqrt(INPUT_DIM) / np.linalg.norm(X, axis=1, keepdims=True)
    y = (X[:, 0] ** 2 - 1) * np.sqrt((INPUT_DIM + 2) / (2 * (INPUT_DIM - 1)))
    form, eta0 = REGIMES[regime]
    task = Task(X[NUM_TEST:], y[NUM_TEST:], X[:NUM_TEST], y[:NUM_TEST], "degree 2 on the sphere")
    return Problem(MLP(2, "relu"), form, task, GradientDescent(eta0, num_steps, momentum=0.95))


def networks(regime: str, width: int, num_seeds: int, samples: tuple[int, ...], data_sets: int, num_steps: int) -> Arrays:
    """Test errors after training, single, of infinite ensembles (also by data set), and their difference; onset of variance."""
    nets, rows = {}, []
    for P in samples:
        each = [
            finite.train(problem(regime, P, i, num_steps), width=width, num_seeds=num_seeds, save_kernels=[], seed=width + i)
            for i in range(data_sets)
        ]
        f = [np.asarray(net.samples.f[:, -1, P:], dtype=np.float64) for net in each]
        single = [((x - net.problem.task.y_test) ** 2).mean() for x, net in zip(f, each, strict=True)]
        variance = [x.var(0, ddof=1).mean() for x in f]
        rows.append((single, np.subtract(single, variance), variance))
        nets[P] = each
    found, values = compare.onset(nets), np.array(rows)
    half = [np.nan, np.nan] if found.half is None else [found.half, found.half_error]
    out = {"ensembles": values[:, 1], "ratio": found.ratio, "ratio_error": found.error, "half": np.array(half)}
    for i, what in enumerate(("single", "ensemble", "variance")):
        out[what], out[f"{what}_error"] = mean_and_error(values[:, i].T)
    return out


def limit(samples: tuple[int, ...], data_sets: int, num_steps: int) -> Arrays:
    """(P, data sets) test errors of lazy networks of infinite width, on the same data."""
    solved = [[dmft.solve(problem("lazy", P, i, num_steps), dmft.Lazy()) for i in range(data_sets)] for P in samples]
    return {"error": np.array([[2 * np.asarray(one.mean.test_loss)[-1] for one in row] for row in solved])}
