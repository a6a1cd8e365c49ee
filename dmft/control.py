"""Control variate of the march: what sampling does to the lazy limit, which is known exactly.

A replica's tangent kernel at t = 0, an average over its paths, misses the exact one. How far f moves when a network is trained
lazily with the one kernel instead of the other is known, and at small gamma0 it is most of what the replica's f misses:

    f_r(t)  <-  f_r(t) - beta_r(t) d_r(t),     d_r = f_lazy(t; K_r) - f_lazy(t; K)

K_r is the kernel that moves f_r, test points and all. beta_r is the regression of f on d over points and the *other* replicas,
so that the spread of the corrected replicas is still their error bar; it falls from 1 at early times towards 0 as features
move.

Near the rate at which lazy training diverges d grows without bound and f does not, and the little that a regression leaves of
d would ruin f. So the correction is weighed, step by step, by what it does (`weight`): it must lower the spread of replicas,
none of which has a part in its own beta, and it may move the mean only as far as the error bar allows.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dmft import site
from dmft.gaussian import RESOLVED
from dmft.lazy import Lazy, TangentKernel, train
from dmft.physics import Form, Physics
from dmft.site import REPLICAS, Layers, State
from widthwise import Problem
from widthwise.sharding import host
from widthwise.trajectory import tangent_kernel

LARGEST_GAMMA0 = 1.0
"""Where kernels move more than that, they forget their start, and a control variate gains nothing."""

LEAST_REPLICAS = 4
"""With fewer the regression follows the noise."""

MOST_POINTS = 1024
"""A kernel of more points costs as much as the march."""

MOST_NODES = 64
"""Of quadrature, for the exact kernel where there is no series; it is used if its error is at most RESOLVED."""

MEMORY = 4
"""Steps for which a correction that failed is not trusted again: by chance alone the spread falls now and then."""

FARTHEST = 5.0
"""Standard errors of the uncorrected mean, over which the correction may move it at full weight; at twice that it has none."""


def applies(problem: Problem, num_replicas: int) -> bool:
    """Whether there is something to gain: features that move little, full batches, one output."""
    training = problem.training
    return (
        problem.parameterization.gamma0 <= LARGEST_GAMMA0
        and num_replicas >= LEAST_REPLICAS
        and training.full_batch
        and problem.num_watched <= MOST_POINTS
        and problem.task.num_outputs == 1
        and Lazy.obstacle(problem) is None
    )


def tangent_kernels(problem: Problem, form: Form, physics: Physics, state: State) -> Float[np.ndarray, "R points points"]:
    """K_r of every replica at t = 0."""
    Phi, G = (np.stack([host(x) for _, x in sorted(kernels.items())], axis=1) for kernels in _kernels(form, physics, state))
    return tangent_kernel(Phi, G, problem.training.rates(form.L))


@partial(jax.jit, static_argnames="form")
def _kernels(form: Form, physics: Physics, state: State) -> tuple[Layers, Layers]:
    """Phi^{l-1} + bias^2 and G^l (R, M, M) at t = 0, in the bases of the first step: what else fields have moves no f."""

    def replica(state: State) -> tuple[Layers, Layers]:
        P, M = len(physics.y), len(physics.watched)
        seen = site.forward(form, physics, state, physics.watched, P)
        first = {l: x[:, :P] for l, x in seen.h.items()}
        Delta = form.loss.minus_gradient(seen.f[:P], physics.y)
        a = site.backward(form, physics, state, seen, first, Delta, state.size_g, P).a
        g = site.backward(form, physics, state._replace(a=a), seen, seen.h, jnp.ones((M, 1)), state.size_g, 0).g
        Phi = {l: row @ row.T for l, row in seen.row_u.items()}
        Phi[form.L + 1] = site.average(seen.phi[form.L], seen.phi[form.L]) + physics.bias**2
        return Phi, {l: site.average(x, x) for l, x in g.items()}

    return jax.vmap(replica, axis_name=REPLICAS)(state)


def corrected(
    problem: Problem, f: Float[np.ndarray, "R states points outputs"], K: Float[np.ndarray, "R points points"]
) -> Float[np.ndarray, "R states points outputs"]:
    """f less what the sampled kernels K did to it."""
    watched = slice(problem.num_watched)
    exact = TangentKernel(problem, MOST_NODES, RESOLVED)
    K_exact = exact.between(watched, watched)[2]
    if not exact.unresolved <= RESOLVED:
        return f
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges is left as it is
        lazy = train(problem, np.concatenate([K_exact[None], K]), exact)[0]
        change = correction(f, lazy[1:] - lazy[:1])
        w = weight(f, change)[:, None, None]
        return f + np.where(w > 0, w * change, 0.0)


def correction(
    f: Float[np.ndarray, "R states points outputs"], d: Float[np.ndarray, "R states points outputs"]
) -> Float[np.ndarray, "R states points outputs"]:
    """-beta_r d_r, with beta from the other replicas."""
    others = [np.delete(np.arange(len(f)), r) for r in range(len(f))]
    own, product = (np.stack([_covariance(x[o], d[o]) for o in others]) for x in (d, f))
    beta = np.clip(np.divide(product, own, out=np.zeros_like(own), where=own > 0), 0.0, 1.0)
    return -beta[:, :, None, None] * d


def weight(
    f: Float[np.ndarray, "R states points outputs"], change: Float[np.ndarray, "R states points outputs"]
) -> Float[np.ndarray, "states"]:
    """How much of the change every state is to have, from 0 to 1, by what it did to the replicas then and just before.

        min(2 (1 - V' / V),  2 - |shift| / FARTHEST)      the least of this state and the MEMORY - 1 before it

    V and V' are the variance over replicas without and with the change, summed over points, so that a spread that falls by half
    or more gives it full weight; |shift| is how far the mean moves, in standard errors of the mean without it.
    """
    R = len(f)
    before, after = _covariance(f, f), _covariance(f + change, f + change)
    shift = np.sqrt(R * (R - 1) * np.sum(change.mean(0) ** 2, axis=(1, 2)) / before)
    w = np.minimum(2 * (1 - after / before), 2 - shift / FARTHEST)
    w = np.where(np.isfinite(w), np.clip(w, 0.0, 1.0), 0.0)
    w[np.all(change == 0, axis=(0, 2, 3))] = 1.0  # nothing is changed, and nothing is known
    return np.min([np.concatenate([np.ones(i), w])[: len(w)] for i in range(MEMORY)], axis=0)


def _covariance(
    x: Float[np.ndarray, "R states points outputs"], y: Float[np.ndarray, "R states points outputs"]
) -> Float[np.ndarray, "states"]:
    """Covariance over replicas, summed over points, at every state."""
    return np.sum((x - x.mean(0)) * (y - y.mean(0)), axis=(0, 2, 3))
