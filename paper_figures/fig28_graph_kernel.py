"""Graph kernels that adapt: they gain where edges lead across classes, and are what wide graph networks do.

Graphs of two blocks, 40 nodes, half of them labelled, one weak feature among eight. Left: test error of the graph kernel
machine (2402.06525) against nu, over graphs whose edges lead across the blocks or stay within; at large nu it is the Gaussian
process of infinite width (dashes), at small nu kernels follow the labels. Middle: outputs at unlabelled nodes of smaller graphs
at nu = 1, of sampled networks of finite width whose hidden features adapt, against that of the kernel machine; crosses are the
Gaussian process, which is not what they do. Right: root mean square difference to the samples against their width N.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from dmft import scaling
from finite.graph_process import propagate, sample_graph_process
from paper_figures.axes import width_axis
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, mean_and_error
from paper_figures.headline import Number

NUS = (1e6, 100.0, 10.0, 3.0, 1.0, 0.3, 0.1)
ONE = NUS.index(1.0)
EDGES = {"across": (0.05, 0.3), "within": (0.3, 0.05)}
"""Chance of an edge within a block, and between the blocks."""
NOISE = 0.1
WIDTHS = (2, 4, 8, 16, 32)

Data = dict[str, dict[str, np.ndarray]]
"""Of "across" and "within": test errors `error` (graphs, nus) and `process` (graphs,). Of "samples": `sampled` (graphs, widths,
nodes), `kernel` and `process` (graphs, nodes), outputs at unlabelled nodes."""


def graph(seed: int, n: int, within: float, between: float) -> tuple[Any, Any, Any, Any, Any]:
    """Features, adjacency, classes +-1, labelled and unlabelled nodes of a graph of two blocks."""
    rng = np.random.default_rng(seed)
    t = 2.0 * (np.arange(n) % 2) - 1
    E = np.triu(rng.random((n, n)) < np.where(t[:, None] == t, within, between), 1)
    X = 2 * rng.standard_normal((n, 8))
    X[:, 0] += t
    order = rng.permutation(n)
    return X, scaling.normalized_adjacency((E | E.T).astype(float)), t, order[: n // 2], order[n // 2 :]


def process_of(X: Any, A: Any, t: Any, known: Any) -> Float[np.ndarray, "n"]:
    """Output of the Gaussian process, in NumPy."""
    K = propagate(A, propagate(A, X @ X.T / X.shape[1]))
    return np.asarray(K[:, known] @ np.linalg.solve(K[np.ix_(known, known)] + NOISE * np.eye(len(known)), t[known]))


def errors_of(within: float, between: float, graphs: int) -> dict[str, Any]:
    """Test errors for every nu."""
    error, process = [], []
    for seed in range(graphs):
        X, A, t, known, new = graph(seed, 40, within, between)
        fits = [scaling.graph_kernel(X, A, t[known][:, None], known, nu=nu, noise=NOISE, most=80) for nu in NUS]
        error.append([np.mean((fit.mean[new, 0] - t[new]) ** 2) for fit in fits])
        process.append(np.mean((process_of(X, A, t, known)[new] - t[new]) ** 2))
    return {"error": error, "process": process}


def samples_of(graphs: int, draws: int) -> dict[str, Any]:
    """Sampled networks with as many copies of the targets as features (nu = 1), and both theories."""
    out: dict[str, list[Any]] = {"sampled": [], "kernel": [], "process": []}
    for seed in range(graphs):
        X, A, t, known, new = graph(1000 + seed, 20, *EDGES["across"])
        drawn = [
            sample_graph_process(X, A, t[known], known, N, copies=N, noise=NOISE, samples=draws, burn_in=draws // 4)
            for N in WIDTHS
        ]
        out["sampled"].append([s.means.mean(0)[new] for s in drawn])
        out["kernel"].append(scaling.graph_kernel(X, A, t[known][:, None], known, nu=1.0, noise=NOISE).mean[new, 0])
        out["process"].append(process_of(X, A, t, known)[new])
    return out


def compute(quick: bool = False) -> Data:
    """32 graphs each; samples of 5 small ones, 2000 draws (of full 200, 16 and 20000)."""
    graphs, few, draws = (32, 5, 2000) if quick else (200, 16, 20_000)
    found = {
        name: cached_arrays("graph kernels", {"within": within, "between": between, "graphs": graphs}, errors_of)
        for name, (within, between) in EDGES.items()
    }
    return found | {"samples": cached_arrays("graph processes", {"graphs": few, "draws": draws}, samples_of)}


def gain(run: dict[str, np.ndarray]) -> tuple[Float[np.ndarray, "nus"], Float[np.ndarray, "nus"]]:
    """Error of the process minus that of the kernel at every nu, paired over graphs, and its standard error."""
    return mean_and_error(run["process"][:, None] - run["error"])


def apart(data: Data, theory: str) -> tuple[Float[np.ndarray, "widths"], Float[np.ndarray, "widths"]]:
    """Root mean square difference between samples and a theory, and its standard error over graphs."""
    run = data["samples"]
    square, error = mean_and_error(((run["sampled"] - run[theory][:, None]) ** 2).mean(2))
    return square**0.5, error / (2 * square**0.5)


def table(data: Data) -> str:
    """Test errors and gains; differences to samples."""
    lines = ["edges       nu   test error       gain over the Gaussian process"]
    for name in EDGES:
        error = data[name]["error"]
        rows = zip(NUS, *mean_and_error(error), *gain(data[name]), strict=True)
        lines += [f"{name:7s} {nu:6.3g}   {e:.3f} +- {de:.3f}   {g:+.3f} +- {dg:.3f}" for nu, e, de, g, dg in rows]
    rows = zip(WIDTHS, *apart(data, "kernel"), *apart(data, "process"), strict=True)
    return "\n".join(
        [
            *lines,
            *(f"N = {N:2d}: samples - kernel {a:.3f} +- {da:.3f}, - process {b:.3f} +- {db:.3f}" for N, a, da, b, db in rows),
        ]
    )


def numbers(data: Data) -> list[Number]:
    """Gains; the limit of large nu; samples beside the kernel, and beside the process as twin."""
    (across, error), (within, its) = (tuple(x[ONE] for x in gain(data[name])) for name in EDGES)
    limit = max(np.abs(data[name]["error"][:, 0] - data[name]["process"]).max() for name in EDGES)
    ours, twin = ([x[-1] for x in apart(data, theory)] for theory in ("kernel", "process"))
    return [
        Number("gain at nu = 1, edges across", across, error),
        Number("gain at nu = 1, across minus within", across - within, np.hypot(error, its)),
        Number("largest difference to the Gaussian process at nu = 10^6", limit),
        Number(f"samples of N = {WIDTHS[-1]} minus kernel at nu = 1, rms", *ours),
        Number("the same minus the Gaussian process", *twin),
    ]


def plot(data: Data) -> Figure:
    """Test error against nu; outputs of kernel and samples; their difference against the width."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.6, 3.6))
    for i, name in enumerate(EDGES):
        error = data[name]["error"]
        left.plot(NUS[1:], error.mean(0)[1:], color=THEORY, label=None if i else "graph kernel (solvable model)")
        bars = gain(data[name])[1][1:]
        words = f"edges {name}, {len(error)} graphs"
        left.errorbar(NUS[1:], error.mean(0)[1:], bars, color=f"C{i}", marker="o", ms=4, ls="", label=words)
        dashes = "Gaussian process (solvable model)" if i else None
        left.axhline(data[name]["process"].mean(), color=THEORY, ls="--", lw=1, label=dashes)
    left.set(xscale="log", xlabel=r"$\nu$", ylabel="test error", title="(a) bars: error of the difference to the process")
    left.set_ylim(top=1.25 * left.get_ylim()[1])
    run = data["samples"]
    ends = [run["kernel"].min() - 0.1, run["kernel"].max() + 0.1]
    middle.plot(ends, ends, color=THEORY, lw=1, label=r"graph kernel, $\nu$ = 1 (solvable model)")
    middle.plot(run["kernel"].ravel(), run["sampled"][:, -1].ravel(), "o", ms=4, label=f"samples, N = {WIDTHS[-1]}")
    middle.plot(run["kernel"].ravel(), run["process"].ravel(), "x", ms=4, color="0.6", label="Gaussian process")
    middle.set(
        xlabel="output of the graph kernel", ylabel="output", title=f"(b) unlabelled nodes of {len(run['kernel'])} graphs"
    )
    for theory, color, label in (("kernel", "C0", r"graph kernel, $\nu$ = 1"), ("process", "0.6", "Gaussian process")):
        value, its = apart(data, theory)
        right.errorbar(WIDTHS, value, 2 * its, color=color, marker="o", ms=4, label=f"samples minus {label}")
    width_axis(right, WIDTHS)
    right.set(ylabel="rms difference", title="(c) finite width")
    right.set_ylim(0, 1.25 * right.get_ylim()[1])
    for ax in (left, middle, right):
        ax.legend(fontsize=7)
    return figure
