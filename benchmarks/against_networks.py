"""What does an error of half a percent of the targets cost: the theory, or the average of many finite networks?

    python -m benchmarks.against_networks          # half an hour on two cores; prints the table of docs/benchmarks.md
    python -m benchmarks.against_networks 0 3      # these problems of it

Either side may choose its strategy with the reference in hand: the theory its paths, replicas and tolerance; networks their
width, the number of seeds, and whether to extrapolate 2 f_2N - f_N. Costs are processor seconds after compilation: of a whole
solve, and of the seeds that the measured variance and bias ask for at the measured seconds per seed. The reference is a run
that is not judged: a march of another seed with some hundred times the paths and a finer factor. The last column says whether
to believe it: the distance of the networks' average, extrapolated in 1/N, in units of what its own noise explains.
"""

from __future__ import annotations

import sys
import time
from itertools import product
from typing import Any

import jax
import numpy as np

import dmft
import finite
from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks

TARGET = 0.005
PATHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
WIDTHS = (32, 64, 128, 256, 512, 1024)
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
    """Digits, as many test points as train points, 30 steps at the first of 1/2, 1/4 ... of the lazy limit's critical rate at
    which the loss of networks falls at every step."""
    task = tasks.digits(P, P, classes=(3, 5))
    p = Problem(MLP(depth, activation), Parameterization(gamma0), task, GradientDescent(1.0, 30))
    K = dmft.solve(p.replace(num_steps=1), dmft.Lazy(), throw=False).mean.tangent_kernel(task.Phi0)[0, :P, :P]
    critical = 2 * P / np.linalg.eigvalsh(K)[-1]
    for eta0 in (float(f"{critical / 2**k:.2g}") for k in range(1, 12)):
        p = p.replace(eta0=eta0)
        loss = finite.train(p, width=256, num_seeds=16, progress=False, throw=False).mean.loss
        if (np.diff(loss) < 1e-6).all():
            break
    return p


def rms(f: np.ndarray) -> float:
    """Root mean square over steps and points; targets are +-1."""
    return float(np.sqrt(np.mean(f**2)))


def theory(p: Problem, reference: np.ndarray) -> tuple[float, str]:
    """Cheapest solve whose error, root mean square over five seeds, is at most TARGET: seconds, settings."""
    best, enough, deep = (np.inf, "none"), 2 * max(PATHS), p.architecture.depth > 1
    plain = (True, False) if p.parameterization.gamma0 >= 1 else (True,)  # the control variate may not be worth its time
    hopeless = 0
    for S, R, control in product(PATHS, (8, 4, 2), plain):
        if 2 * enough < S:
            break
        if hopeless == S:
            continue
        for tol in (1e-2, 3e-3) if deep else (0.0,):
            settings: Any = {"dtype": "float32", "control_variate": control} | ({"tol": tol} if deep else {})
            method = (dmft.March if deep else dmft.TwoLayer)(S, R, **settings)
            seconds, errors = [], [0.0]
            try:
                for seed in range(6):
                    start = time.process_time()
                    f = dmft.solve(p, method, seed=seed, save_kernels=[], progress=False).mean.f
                    seconds.append(time.process_time() - start)
                    errors.append(rms(f - reference))
                    if errors[-1] > 2 * TARGET:
                        hopeless = S if R == 8 else 0
                        break
            except ValueError:  # too few paths for the directions
                hopeless = S
                continue
            if rms(np.array(errors[1:])) <= TARGET:
                enough = min(S, enough)
                best = min(
                    best,
                    (float(np.median(seconds[1:])), f"{R} x {S}" + f", tol {tol:g}" * deep + ", control variate" * control),
                )
    return best


def networks(p: Problem, reference: np.ndarray) -> tuple[float, str, float]:
    """Cheapest ensemble: seconds, strategy; and the distance of the extrapolated average from the reference over its noise."""
    seen = {}
    for N in WIDTHS:
        num_seeds = max(64, 2**18 // N // (4 if N > 128 else 1))
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
    (mean, std, *_, num_seeds), (mean2, std2, *_, num_seeds2) = seen[WIDTHS[-2]], seen[WIDTHS[-1]]
    noise = np.sqrt(4 * std2**2 / num_seeds2 + std**2 / num_seeds)
    return *min(ways), rms(2 * mean2 - mean - reference) / noise


def main() -> None:
    """Print the table."""
    print("| depth | activation | gamma0 | P | theory: CPU s | paths | networks: CPU s | strategy | ratio | reference |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for depth, activation, gamma0, P in [PROBLEMS[int(i)] for i in sys.argv[1:]] or PROBLEMS:
        jax.clear_caches()  # programs of many shapes fill the memory that a process may map
        p = problem(depth, activation, gamma0, P)
        many = dmft.March(4096, 16, dtype="float32") if depth > 1 else dmft.TwoLayer(16384, 16)
        reference = dmft.solve(p, many, seed=99, save_kernels=[], progress=False).mean.f
        mine, paths = theory(p, reference)
        theirs, strategy, off = networks(p, reference)
        row = f"| {depth} | {activation} | {gamma0:g} | {P} | {mine:.3f} | {paths} | {theirs:.2f} | {strategy} |"
        print(f"{row} {theirs / mine:.1f} | {off:.1f} |", flush=True)


if __name__ == "__main__":
    main()
