"""Narrow Bayesian branches: each finds the scale that the data want, and the bias falls.

A Bayesian network of two parallel linear branches, each with N neurons and its own features of 60 points, learns a teacher
whose first branch is 1.3 and whose second is 0.5 (2407.18807). Left: mean square u of the readout weights of each branch, from
the saddle-point equations (lines; prior variances 1/2, 1 and 2) and from Gibbs sampling of the networks (points; variance 1).
At large N it is the prior's, at small N the data's own: the three priors meet. Right: squared bias and variance of the output
at new points, from the same saddle point and the same samples; dashes are the Gaussian process of infinite width. Mean over
three data sets; bars are two standard errors of sampling. Below N = 8 the saddle point is not exact: there it is drawn thin.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import finite
from dmft import scaling
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY
from paper_figures.headline import Number

P, D, M, NOISE = 60, 80, 200, 0.3
TEACHER = (1.3, 0.5)
PRIORS = (0.5, 1.0, 2.0)
WIDTHS = (2, 4, 8, 16, 64, 256)
LINE = tuple(np.geomspace(0.05, 2000, 24).tolist())
GOOD = 16
"""From which width on means over the posterior are those of the saddle point, to 5%."""
BLOCKS = 10

Data = dict[str, np.ndarray]
"""Sampled: `u` (sets, widths, blocks, 2), `f` (..., blocks, points), `variance` (..., blocks); `target` (sets, points).
Theory: `scales` (sets, priors, line, 2), `error` (sets, line, 2) bias^2 and variance, `at` and `error_at` at `WIDTHS`, and
`process` (sets, 2), that of infinite width.
"""


def sampled(sets: int, sweeps: int) -> dict[str, Any]:
    """Networks and theory on every data set."""
    out: dict[str, list[Any]] = {}
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        t = rng.standard_normal((2, D))
        t *= (np.array(TEACHER) / np.linalg.norm(t, axis=1))[:, None]
        X, Z = rng.standard_normal((2, P, D)), rng.standard_normal((2, M, D))
        target = np.einsum("lmd,ld->m", Z, t) / 2**0.5
        y = np.einsum("lpd,ld->p", X, t) / 2**0.5 + NOISE * rng.standard_normal(P)
        K, k, own = scaling.branch_kernels(X), scaling.branch_kernels(X, Z), np.einsum("lmd,lmd->lm", Z, Z) / (2 * D)

        def theory(N: float, prior: float, y: Any, K: Any, k: Any, own: Any, target: Any) -> tuple[Any, Any]:
            found = scaling.branching_posterior(K, y, N, variance=prior, noise=NOISE**2)
            return found.scales, (np.mean((found.mean(k) - target) ** 2), found.variance(k, own).mean())

        given = (y, K, k, own, target)
        lines = [[theory(N, prior, *given) for N in LINE] for prior in PRIORS]
        points = [theory(N, 1.0, *given) for N in WIDTHS]
        drawn = [finite.sample_branching(X, y, N, samples=sweeps, noise=NOISE**2, others=Z, seed=N) for N in WIDTHS]
        new = {
            "target": target,
            "scales": [[scales for scales, _ in line] for line in lines],
            "error": [error for _, error in lines[1]],
            "at": [scales for scales, _ in points],
            "error_at": [error for _, error in points],
            "process": theory(1e9, 1.0, *given)[1],
            "u": [s.scales.reshape(BLOCKS, -1, 2).mean(1) for s in drawn],
            "f": [s.others.reshape(BLOCKS, -1, M).mean(1) for s in drawn],  # type: ignore[union-attr]  # others were asked for
            "variance": [
                ((s.others - s.others.mean(0)) ** 2).mean(1).reshape(BLOCKS, -1).mean(1)  # type: ignore[union-attr]
                for s in drawn
            ],
        }
        for name, x in new.items():
            out.setdefault(name, []).append(x)
    return out


def compute(quick: bool = False) -> Data:
    """Three data sets, 1000 sweeps (of full 8 and 5000)."""
    return cached_arrays("branches", {"sets": 3 if quick else 8, "sweeps": 1000 if quick else 5000}, sampled)


def scales(data: Data) -> tuple[Float[np.ndarray, "widths 2"], Float[np.ndarray, "widths 2"]]:
    """Sampled u, and its standard error over blocks of sweeps."""
    u = data["u"]
    return u.mean((0, 2)), (u.var(2, ddof=1) / BLOCKS).sum(0) ** 0.5 / len(u)


def errors(data: Data) -> tuple[Float[np.ndarray, "widths 2"], Float[np.ndarray, "widths 2"]]:
    """Sampled bias^2 and variance, mean over sets; standard errors by leaving out blocks."""
    target, f, variance = data["target"][:, None], data["f"], data["variance"]

    def of(kept: Any) -> Any:
        bias2 = ((f[:, :, kept].mean(2) - target) ** 2).mean((0, 2))
        return np.stack([bias2, variance[:, :, kept].mean((0, 2))], 1)

    blocks = np.arange(BLOCKS)
    without = np.array([of(np.delete(blocks, b)) for b in blocks])
    return of(blocks), without.std(0) * (BLOCKS - 1) ** 0.5


def table(data: Data) -> str:
    """u, bias^2 and variance, sampled and of the saddle point."""
    u, u_error = scales(data)
    e, e_error = errors(data)
    lines = ["     N   u_1 sampled, saddle        u_2                      bias^2                   variance"]
    saddle = np.concatenate([data["at"].mean(0), data["error_at"].mean(0)], 1)
    for N, x, dx, theory in zip(WIDTHS, np.concatenate([u, e], 1), np.concatenate([u_error, e_error], 1), saddle, strict=True):
        lines.append(f"{N:6d}   " + "   ".join(f"{a:.3f} +- {b:.3f}  {c:.3f}" for a, b, c in zip(x, dx, theory, strict=True)))
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Saddle point against samples; branches part and bias falls at narrow width; priors meet there, and not at large N."""
    good = np.array(WIDTHS) >= GOOD
    out = []
    (u, u_error), (e, e_error) = scales(data), errors(data)
    found = (("u", u, u_error, data["at"]), ("bias^2 and variance", e, e_error, data["error_at"]))
    for name, x, error, theory in found:
        off, its = np.abs(x / theory.mean(0) - 1)[good], (error / x)[good]
        worst = np.unravel_index(off.argmax(), off.shape)
        out.append(Number(f"largest deviation of {name} from the saddle point, N >= {GOOD}", off[worst], its[worst]))
    at = WIDTHS.index(GOOD)
    out.append(Number(f"the same of the Gaussian process's u, N = {GOOD}", np.abs(u[at] - 1).max(), u_error[at].max()))
    out.append(Number("u_1 / u_2 at N = 2", u[0, 0] / u[0, 1], u[0, 0] / u[0, 1] * np.hypot(*(u_error[0] / u[0]))))
    out.append(
        Number(
            "bias^2 at N = 256 over N = 2",
            e[-1, 0] / e[0, 0],
            e[-1, 0] / e[0, 0] * np.hypot(*(e_error[[0, -1], 0] / e[[0, -1], 0])),
        )
    )
    spread = np.ptp(np.log(data["scales"]), axis=1).mean((0, 2))
    out.append(Number(f"spread of log u over priors, N = {LINE[0]:g}", spread[0]))
    return [*out, Number(f"spread of log u over priors, N = {LINE[-1]:g}", spread[-1])]


def plot(data: Data) -> Figure:
    """Scales of the branches; bias and variance."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.8))
    line, exact = np.array(LINE), np.array(LINE) >= GOOD / 2
    u, u_error = scales(data)
    e, e_error = errors(data)
    for i, prior in enumerate(PRIORS):
        for branch in range(2):
            y, style = data["scales"].mean(0)[i, :, branch], {0.5: ":", 1.0: "-", 2.0: "--"}[prior]
            label = rf"solvable model, $\sigma^2$ = {prior:g}" if branch == 0 else None
            left.plot(line, y, color=THEORY, ls=style, lw=0.7)
            left.plot(line[exact], y[exact], color=THEORY, ls=style, label=label)
    for branch in range(2):
        label = f"sampled, branch {branch + 1} (teacher {TEACHER[branch]:g})"
        left.errorbar(WIDTHS, u[:, branch], 2 * u_error[:, branch], marker="o", ms=4, ls="", color=f"C{branch}", label=label)
    left.set(ylabel=r"$u_l = \langle |a_l|^2 \rangle / N$", yscale="log", title="(a) scales of the branches")
    for j, name in enumerate(("squared bias", "variance")):
        y = data["error"].mean(0)[:, j]
        right.plot(line, y, color=THEORY, lw=0.7)
        right.plot(line[exact], y[exact], color=THEORY, label="solvable model" if j == 0 else None)
        process = data["process"].mean(0)[j]
        right.axhline(process, color=THEORY, ls="--", lw=0.8, label="Gaussian process (solvable model)" if j == 0 else None)
        right.errorbar(WIDTHS, e[:, j], 2 * e_error[:, j], marker="o", ms=4, ls="", color=f"C{2 + j}", label=f"sampled, {name}")
    right.set(ylabel="error at new points", title="(b) bias and variance")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="neurons N of each branch")
        ax.legend(fontsize=7, loc="lower right")
    return figure
