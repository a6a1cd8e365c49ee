"""What do the scaling laws cost, against modes, times, sizes and steps?

    python -m benchmarks.scaling          # a minute, best with OMP_NUM_THREADS=1; prints the tables of docs/scaling.md

Times are the shortest of three, on the clock. Spectra lam = k^-1.25, power = k^-1.75; 12 points k x 12 points n x 8 times where
nothing else is said. A binned spectrum has a few hundred entries whatever the number of modes, and binning is timed with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dmft import scaling
from widthwise import GradientDescent, Spectrum

A, B = 1.75, 1.25


def seconds(function: Callable[[], Any], tries: int = 3) -> float:
    """The shortest of some runs."""
    best = np.inf
    for _ in range(tries):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) + " |")


def flow(spectrum: Spectrum, num_k: int = 12, num_n: int = 12, num_times: int = 8, num_nodes: int = 24) -> scaling.Errors:
    k, n = np.geomspace(10, 1e4, num_k)[:, None], np.geomspace(20, 1e5, num_n)
    return scaling.flow(spectrum, np.geomspace(1, 1e8, num_times), k, n, noise=0.1, num_nodes=num_nodes)


def main() -> None:
    rows = []
    for modes in (1000, 10_000, 100_000, 1_000_000):
        whole = Spectrum.power_law(A, B, modes)
        rows.append((modes, len(whole.binned().lam), seconds(lambda whole=whole: flow(whole.binned()))))
    table("flow: modes (12 x 12 x 8 = 1152 points)", ("modes", "entries", "seconds"), rows)
    rows = []
    for modes in (100, 1000, 3000):
        whole = Spectrum.power_law(A, B, modes)
        small, binned = flow(whole, 2, 2, 4), flow(whole.binned(), 2, 2, 4)
        error = float(np.abs(binned.test / small.test - 1).max())
        rows.append((modes, seconds(lambda whole=whole: flow(whole, 2, 2, 4), 1), error))
    table("flow without bins (2 x 2 x 4 points)", ("modes", "seconds", "error that binning makes"), rows)
    binned = Spectrum.power_law(A, B, 100_000).binned()
    rows = [(t, 144 * t, seconds(lambda t=t: flow(binned, num_times=t))) for t in (1, 4, 16, 64)]
    table("flow: times (10^5 modes, 144 sizes)", ("times", "points", "seconds"), rows)
    rows = [(m * m, 8 * m * m, seconds(lambda m=m: flow(binned, m, m))) for m in (1, 4, 16, 32)]
    table("flow: sizes (10^5 modes, 8 times)", ("sizes", "points", "seconds"), rows)
    exact = flow(binned, num_nodes=26).test
    rows = []
    for nodes in (8, 12, 16, 20, 24):
        error = float(np.abs(flow(binned, num_nodes=nodes).test / exact - 1).max())
        rows.append((nodes, seconds(lambda nodes=nodes: flow(binned, num_nodes=nodes)), error))
    table("flow: nodes (10^5 modes, 1152 points)", ("nodes", "seconds", "largest relative difference from 26 nodes"), rows)

    C, k = np.geomspace(1e2, 1e8, 32), np.geomspace(2, 1e5, 32)
    rows = []
    for modes in (100_000, 1_000_000):
        whole = Spectrum.power_law(A, B, modes)
        rows.append((modes, C.size * k.size, seconds(lambda whole=whole: scaling.frontier(whole.binned(), C, k, 1e4))))
    table("frontier: 32 budgets x 32 numbers of features, 10^4 samples", ("modes", "points", "seconds"), rows)
    rows = []
    for steps in (20, 40, 80):
        training = GradientDescent(0.4, steps)
        small = binned.binned(8)
        lazy = seconds(lambda training=training, small=small: scaling.train(small, training, 40, 60), 1)
        rich = seconds(lambda training=training, small=small: scaling.train_features(small, training, 0.1, 40, 60), 1)
        rows.append((steps, len(small.lam), lazy, rich))
    table("train, train_features: steps", ("steps", "entries", "seconds", "with feature learning"), rows)
    t = np.geomspace(10, 1e5, 41)
    rows = []
    for modes in (1e5, 1e15):
        spectrum = scaling.power_law(A, 1.5, modes)
        rows.append((modes, len(spectrum.lam), seconds(lambda s=spectrum: scaling.feature_flow(s, t, 1.0))))
    table("feature_flow: to t = 10^5", ("modes", "entries", "seconds"), rows)
    betas = (0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2, 1.5, 1.9)

    def chi(modes: float) -> None:
        for beta in betas:
            scaling.feature_flow(scaling.power_law(1.5 * beta + 1, 1.5, modes), t, 1.0).exponent(1e4, 1e5)

    rows = [(modes, len(betas), seconds(lambda modes=modes: chi(modes), 1)) for modes in (1e5, 1e15)]
    table("chi(beta): exponents between t = 10^4 and 10^5", ("modes", "values of beta", "seconds"), rows)


if __name__ == "__main__":
    main()
