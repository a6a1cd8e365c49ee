"""What does an error of half a percent of the targets cost: the theory, or the average of many finite networks?

    python -m benchmarks.against_networks          # some ten minutes on two cores; prints the table of docs/benchmarks.md

Either side may choose its strategy with the reference in hand: the theory its paths, replicas and tolerance; networks their
width, the number of seeds, and whether to extrapolate 2 f_2N - f_N. Costs are processor seconds after compilation: of a whole
solve, and of the seeds that the measured variance and bias ask for at the measured seconds per seed. The reference is a march
of many paths with another seed; the networks' average, extrapolated in 1/N, says whether to believe it.
"""

from __future__ import annotations

import time

import numpy as np

import dmft
import finite
from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks

TARGET = 0.005
WIDTHS = (32, 64, 128, 256, 512)
PROBLEMS = (  # depth, activation, gamma0, P
    (1, "relu", 1.0, 16),
    (1, "tanh", 2.0, 4),
    (2, "tanh", 0.2, 16),
    (2, "relu", 1.0, 4),
    (2, "gelu", 2.0, 16),
    (3, "relu", 0.2, 16),
    (3, "tanh", 1.0, 4),
    (3, "gelu", 1.0, 32),
)


def problem(depth: int, activation: str, gamma0: float, P: int) -> Problem:
    """Digits, as many test points as train points, 30 steps at half the critical rate divided by the growth of the kernels."""
    task = tasks.digits(P, P, classes=(3, 5))
    p = Problem(MLP(depth, activation), Parameterization(gamma0), task, GradientDescent(1.0, 30))
    K = dmft.solve(p.replace(num_steps=1), dmft.Lazy(), throw=False).mean.tangent_kernel(task.Phi0)[0, :P, :P]
    growth = (1 + gamma0**2 / 2) * depth * (depth if activation in ("relu", "gelu") else 1)
    return p.replace(eta0=float(f"{P / np.linalg.eigvalsh(K)[-1] / growth:.2g}"))


def rms(f: np.ndarray) -> float:
    """Root mean square over steps and points; targets are +-1."""
    return float(np.sqrt(np.mean(f**2)))


def theory(p: Problem, reference: np.ndarray) -> tuple[float, str]:
    """Cheapest solve whose error, root mean square over five seeds, is at most TARGET: seconds, settings."""
    best = (np.inf, "none")
    for S in (128, 256, 512, 1024, 2048):
        for R in (2, 4, 8):
            for tol in (1e-2, 3e-3) if p.architecture.depth > 1 else (1e-2,):
                deep = p.architecture.depth > 1
                method = dmft.March(S, R, tol=tol, dtype="float32") if deep else dmft.TwoLayer(S, R, quadrature=False)
                seconds, errors = [], []
                try:
                    for seed in range(5):
                        start = time.process_time()
                        f = dmft.solve(p, method, seed=seed, save_kernels=[], progress=False).mean.f
                        seconds.append(time.process_time() - start)
                        errors.append(rms(f - reference))
                except ValueError:  # too few paths for the directions
                    continue
                if rms(np.array(errors)) <= TARGET and np.median(seconds[1:]) < best[0]:
                    best = (float(np.median(seconds[1:])), f"{R} x {S}, tol {tol:g}")
        if best[0] < np.inf:
            return best
    return best


def networks(p: Problem, reference: np.ndarray) -> tuple[float, str, float]:
    """Cheapest ensemble: seconds, strategy; and how far the extrapolated average lies from the reference."""
    seen = {}
    for N in WIDTHS:
        num_seeds = max(32, 2**18 // N // (4 if N > 128 else 1))
        for _ in range(2):
            start = time.process_time()
            net = finite.train(p, width=N, num_seeds=num_seeds, save_kernels=[], progress=False, throw=False)
            seconds = (time.process_time() - start) / num_seeds
        mean, std = net.mean.f, rms(net.samples.f.std(0, ddof=1))
        seen[N] = (mean, std, np.sqrt(max(rms(mean - reference) ** 2 - std**2 / num_seeds, 0.0)), seconds, num_seeds)
    ways = [(np.inf, "none")]
    for N, (mean, std, bias, seconds, num_seeds) in seen.items():
        if bias < TARGET:
            need = max(std**2 / (TARGET**2 - bias**2), 1.0)
            ways.append((need * seconds, f"N = {N}, {need:.0f} seeds"))
        if 2 * N in seen:
            mean2, std2, _, seconds2, num_seeds2 = seen[2 * N]
            noise = 4 * std2**2 / num_seeds2 + std**2 / num_seeds
            rest = max(rms(2 * mean2 - mean - reference) ** 2 - noise, 0.0)
            if rest < TARGET**2:
                cost = (2 * std2 * np.sqrt(seconds2) + std * np.sqrt(seconds)) ** 2 / (TARGET**2 - rest)
                ways.append((cost, f"N = {N} and {2 * N}, extrapolated"))
    a, b = seen[WIDTHS[-2]], seen[WIDTHS[-1]]
    return *min(ways), rms(2 * b[0] - a[0] - reference)


def main() -> None:
    """Print the table."""
    print("| depth | activation | gamma0 | P | theory: CPU s | paths | networks: CPU s | strategy | ratio | reference off by |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for depth, activation, gamma0, P in PROBLEMS:
        p = problem(depth, activation, gamma0, P)
        many = dmft.March(2048, 16, tol=3e-4, dtype="float32") if depth > 1 else dmft.TwoLayer(16384, 16)
        reference = dmft.solve(p, many, seed=99, save_kernels=[], progress=False).mean.f
        mine, paths = theory(p, reference)
        theirs, strategy, off = networks(p, reference)
        row = f"| {depth} | {activation} | {gamma0:g} | {P} | {mine:.3f} | {paths} | {theirs:.2f} | {strategy} |"
        print(f"{row} {theirs / mine:.1f} | {off:.4f} |", flush=True)


if __name__ == "__main__":
    main()
