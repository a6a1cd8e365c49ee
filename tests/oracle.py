"""The plain march: the equations of docs/march.md word for word, in float64, slow, for tiny problems. An oracle, not a test."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widthwise import Problem
from widthwise.precision import float64


def plain_march(problem: Problem, num_paths: int, seed: int, *, drop_A: bool = False, drop_B: bool = False) -> dict[str, Any]:
    """The single-site process with plain Monte-Carlo noise and derivatives along each path, on the full (t, m) grid.

        h^l_m(t) = u^l_m(t) + sum_{s<t,n}  [A^{l-1}_mn(t,s) + gamma0 eta0 Delta_n(s) Phi^{l-1}_mn(t,s)]        g^l_n(s)
        z^l_m(t) = r^l_m(t) + sum_{s<=t,n} [B^l_mn(t,s)     + gamma0 eta0 Delta_n(s) G^{l+1}_mn(t,s) 1[s < t]] phi(h^l_n(s))
        Phi^l = <phi(h^l) phi(h^l)>,   G^l = <g^l g^l>,   A^l = <d phi(h^l) / d r^l>,   B^l = <d g^{l+1} / d u^{l+1}>
        f_m(t) = sum_s A^L_m(t,s) / gamma0 + eta0 sum_{s<t,n} Delta_n(s) Phi^L_mn(t,s)

    A and B carry their gamma0 here. Cost: num_paths L (T M)^3.

    Args:
        problem: smooth activation (phi'' is needed), M T of a few dozen.
        num_paths: S. One seed is one replica; the error of its averages is of order S^-1/2.
        seed: of the noise.
        drop_A, drop_B: leave these responses out (for tests that must fail then).

    Returns:
        f (T+1, M); Phi and G, lists over l = 1 ... L of (T+1, M, T+1, M); phi_r = <phi(h^l) r^l>, l = 1 ... L - 1, and
        g_u = <g^l u^l>, l = 2 ... L, the averages that responses make.
    """
    with float64():
        return _plain_march(problem, num_paths, seed, drop_A, drop_B)


def _plain_march(problem: Problem, S: int, seed: int, drop_A: bool, drop_B: bool) -> dict[str, Any]:
    act, L, task = problem.architecture.activation, problem.architecture.depth, problem.task
    if act.name == "relu":
        raise ValueError("the plain march needs phi'', which relu does not have as a function.")
    gamma0, eta0 = problem.parameterization.gamma0, problem.training.eta0
    M, P, T1 = task.num_points, task.num_train, problem.training.num_steps + 1
    n = T1 * M  # (t, m) is row t M + m
    rng = np.random.default_rng(seed)

    def fields() -> dict[int, np.ndarray]:
        return {l: np.zeros((S, n)) for l in range(1, L + 1)}

    def derivatives() -> dict[int, np.ndarray]:
        return {l: np.zeros((S, n, n)) for l in range(1, L + 1)}

    eps_u, eps_r = ({l: rng.standard_normal((S, n)) for l in range(1, L + 1)} for _ in range(2))
    u, r, phi, g = fields(), fields(), fields(), fields()
    dphi_du, dphi_dr, dg_du, dg_dr = derivatives(), derivatives(), derivatives(), derivatives()
    Phi, G, A, B = ({l: np.zeros((n, n)) for l in range(L + 2)} for _ in range(4))
    Phi[0][:] = np.tile(task.Phi0, (T1, T1))
    G[L + 1][:] = 1.0
    f, Delta = np.zeros((T1, M)), np.zeros(n)
    identity = np.eye(n)

    for t in range(T1):
        past, now, done = slice(0, t * M), slice(t * M, (t + 1) * M), slice(0, (t + 1) * M)
        d1, d2, dh_du, dh_dr = {}, {}, {}, {}

        for l in range(1, L + 1):
            u[l][:, now] = _next(Phi[l - 1], u[l], eps_u[l], past, now)
            memory = A[l - 1][now, past] + gamma0 * eta0 * Delta[past] * Phi[l - 1][now, past]
            h = u[l][:, now] + g[l][:, past] @ memory.T
            dh_du[l] = identity[now] + memory @ dg_du[l][:, past]
            dh_dr[l] = memory @ dg_dr[l][:, past]
            phi[l][:, now], d1[l], d2[l] = _with_derivatives(act, h)
            dphi_du[l][:, now] = d1[l][:, :, None] * dh_du[l]
            dphi_dr[l][:, now] = d1[l][:, :, None] * dh_dr[l]
            Phi[l][now, done] = phi[l][:, now].T @ phi[l][:, done] / S
            Phi[l][done, now] = Phi[l][now, done].T
            A[l][now] = dphi_dr[l][:, now].mean(0) * (1.0 if l == L or not drop_A else 0.0)

        f[t] = A[L][now].sum(1) / gamma0 + eta0 * Phi[L][now, past] @ Delta[past]
        Delta[now][:P] = problem.training.Delta(f[t, :P], task.y)

        for l in range(L, 0, -1):
            r[l][:, now] = _next(G[l + 1], r[l], eps_r[l], past, now)
            memory = B[l][now, done].copy()
            memory[:, past] += gamma0 * eta0 * Delta[past] * G[l + 1][now, past]
            z = r[l][:, now] + phi[l][:, done] @ memory.T
            dz_du = memory @ dphi_du[l][:, done]
            dz_dr = identity[now] + memory @ dphi_dr[l][:, done]
            g[l][:, now] = d1[l] * z
            dg_du[l][:, now] = (d2[l] * z)[:, :, None] * dh_du[l] + d1[l][:, :, None] * dz_du
            dg_dr[l][:, now] = (d2[l] * z)[:, :, None] * dh_dr[l] + d1[l][:, :, None] * dz_dr
            G[l][now, done] = g[l][:, now].T @ g[l][:, done] / S
            G[l][done, now] = G[l][now, done].T
            B[l - 1][now] = dg_du[l][:, now].mean(0) * (0.0 if drop_B else 1.0)

    grid = (T1, M, T1, M)
    layers = range(1, L + 1)
    return {
        "f": f,
        "Phi": [Phi[l].reshape(grid) for l in layers],
        "G": [G[l].reshape(grid) for l in layers],
        "phi_r": [(A[l] @ G[l + 1]).reshape(grid) for l in range(1, L)],  # Stein: the same with less noise
        "g_u": [(B[l - 1] @ Phi[l - 1]).reshape(grid) for l in range(2, L + 1)],
    }


def _next(kernel: np.ndarray, x: np.ndarray, eps: np.ndarray, past: slice, now: slice) -> np.ndarray:
    """x(t) ~ GP(0, kernel) given x before t: the next block of rows of the growing Cholesky factor, times frozen noise."""
    weights = kernel[now, past] @ np.linalg.pinv(kernel[past, past], rcond=1e-10, hermitian=True)
    values, vectors = np.linalg.eigh(kernel[now, now] - weights @ kernel[past, now])
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return x[:, past] @ weights.T + eps[:, now] @ root.T


def _with_derivatives(act: Any, h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """phi(h), phi'(h), phi''(h)."""
    x = jnp.asarray(h)
    d1, d2 = jax.jvp(act.d, (x,), (jnp.ones_like(x),))
    return np.asarray(act.phi(x)), np.asarray(d1), np.asarray(d2)


def _value_and_slope(act: Any, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """phi(h), phi'(h)."""
    with float64():
        return np.asarray(act.phi(jnp.asarray(h))), np.asarray(act.d(jnp.asarray(h)))


def small_networks(problem: Problem, width: int, num_seeds: int, seed: int) -> dict[str, np.ndarray]:
    """Mean-field networks (2205.09653) under plain gradient descent, output centred, in a loop over time; float64.

    Returns:
        f (num_seeds, T+1, M); Phi and G (num_seeds, L, T+1, M, T+1, M), kernels averaged over the neurons of each seed.
    """
    batch = 200
    parts = [_small_networks(problem, width, min(batch, num_seeds - i), (seed, i)) for i in range(0, num_seeds, batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("f", "Phi", "G")}


def _small_networks(problem: Problem, N: int, E: int, seed: tuple[int, int]) -> dict[str, np.ndarray]:
    act, L, task = problem.architecture.activation, problem.architecture.depth, problem.task
    gamma0, eta0 = problem.parameterization.gamma0, problem.training.eta0
    M, P, T1, D = task.num_points, task.num_train, problem.training.num_steps + 1, task.input_dim
    rng = np.random.default_rng(seed)
    x = np.broadcast_to(task.X_all.T / np.sqrt(D), (E, D, M))  # (E, neurons, samples) throughout
    W = [rng.standard_normal((E, N, D)), *(rng.standard_normal((E, N, N)) / np.sqrt(N) for _ in range(L - 1))]
    w = rng.standard_normal((E, N, 1))
    f = np.zeros((E, T1, M))
    phis, gs = np.zeros((2, L, E, T1, M, N))

    for t in range(T1):
        phi, slope = [x], []
        for layer in W:
            value, d1 = _value_and_slope(act, layer @ phi[-1])
            phi.append(value)
            slope.append(d1)
        out = (w * phi[-1]).sum(1) / (gamma0 * N)
        f0 = out if t == 0 else f0
        f[:, t] = out - f0
        Delta = np.zeros((E, 1, M))
        Delta[:, 0, :P] = problem.training.Delta(f[:, t, :P], task.y)
        g = [slope[-1] * w]
        for layer, d1 in zip(W[:0:-1], slope[-2::-1], strict=True):
            g.insert(0, d1 * (layer.transpose(0, 2, 1) @ g[0]))
        for l in range(L):
            phis[l, :, t], gs[l, :, t] = phi[l + 1].transpose(0, 2, 1), g[l].transpose(0, 2, 1)
            fan = 1.0 if l == 0 else 1.0 / N  # W^l enters as W^l / sqrt N, which is what W holds
            W[l] = W[l] + eta0 * gamma0 * fan * (Delta * g[l]) @ phi[l].transpose(0, 2, 1)
        w = w + eta0 * gamma0 * (Delta * phi[-1]).sum(2, keepdims=True)

    def kernel(fields: np.ndarray) -> np.ndarray:
        flat = fields.reshape(L, E, T1 * M, N)
        return (flat @ flat.transpose(0, 1, 3, 2) / N).transpose(1, 0, 2, 3).reshape(E, L, T1, M, T1, M)

    return {"f": f, "Phi": kernel(phis), "G": kernel(gs)}


def replicas(problem: Problem, num_paths: int, num_replicas: int, **settings: bool) -> dict[str, np.ndarray]:
    """Independent plain marches: f (R, T+1, M), Phi and G (R, L, T+1, M, T+1, M)."""
    runs = [plain_march(problem, num_paths, seed, **settings) for seed in range(num_replicas)]
    return {name: np.array([run[name] for run in runs]) for name in ("f", "Phi", "G")}


def overlaps(runs: dict[str, np.ndarray], theory: dict[str, np.ndarray]) -> np.ndarray:
    """<x, theory> / <theory, theory> - 1 for x = f, Phi^1 ... Phi^L, G^1 ... G^L of every run: (R, 1 + 2 L), zero on average.

    Linear in x, so that averages over runs and extrapolations in 1/N stay unbiased; few, so that no correction is needed
    for looking at many.
    """
    fields = [(runs["f"], theory["f"])]
    fields += [(runs[name][:, l], theory[name][l]) for name in ("Phi", "G") for l in range(len(theory[name]))]
    return np.stack([(x * y).reshape(len(x), -1).sum(1) / (y * y).sum() - 1 for x, y in fields], axis=1)


def z_scores(statistics: np.ndarray) -> np.ndarray:
    """Mean over standard error, column by column."""
    return statistics.mean(0) / (statistics.std(0, ddof=1) / np.sqrt(len(statistics)))


def extrapolated_z_scores(at_N: np.ndarray, at_2N: np.ndarray) -> np.ndarray:
    """z of 2 <x>_2N - <x>_N, which is free of 1/N."""
    variance = 4 * at_2N.var(0, ddof=1) / len(at_2N) + at_N.var(0, ddof=1) / len(at_N)
    return (2 * at_2N.mean(0) - at_N.mean(0)) / np.sqrt(variance)
