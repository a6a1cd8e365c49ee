"""One step of the limit: the network, its derivative, and the update rule; and a look at it that leaves no trace."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dmft.process.matrix import Matrix, initial, roomier, turned
from dmft.process.paths import Form, Paths, Weights
from widthwise import Loss
from widthwise.outputs import judged, kernel, recorded, targets
from widthwise.training import move

FINEST = 1e-12
"""tol where small changes are measured."""


class Rule(NamedTuple):
    """What of the training is compiled in."""

    loss: Loss
    momentum: bool
    nesterov: bool
    decays: bool
    centered: bool


class Numbers(NamedTuple):
    """What of it is not."""

    momentum: Any
    weight_decay: Any


class State(NamedTuple):
    """One replica.

    Attributes:
        weights: at this step.
        velocity: by name, of arrays, and (of Wb, Wa, alpha) of matrices; None without momentum.
        start: the arrays over paths at the start, where the network as it was then is asked for; else None.
    """

    weights: Weights
    velocity: Any
    start: Any


def is_matrix(x: Any) -> bool:
    return isinstance(x, Matrix)


def subtracts(form: Form, rule: Rule) -> bool:
    """Whether f_0 is to be subtracted: elsewhere it is zero."""
    return rule.centered and not form.plan.starts_at_zero


def forward(form: Form, weights: Weights, x: Array, push: Any = None) -> tuple[Array, dict[str, Array], Weights]:
    """f, the fields, and the weights that know them."""
    net = Paths(form, weights, push)
    f = form.architecture.forward(net, x)
    return f, net.fields, net.weights


def at_start(state: State) -> Weights:
    """The weights of the network at its start, hidden ones as what is now known of them."""
    return {name: initial(W) if is_matrix(W) else state.start[name] for name, W in state.weights.items()}


def moving(W: Any) -> Any:
    """What the update rule moves."""
    return (W.Wb, W.Wa, W.alpha) if is_matrix(W) else W


def step(
    form: Form, rule: Rule, numbers: Numbers, state: State, x: Array, y: Array, eta: Float[Array, ""]
) -> tuple[State, Float[Array, ""], dict[str, Float[Array, "2"]]]:
    """The replica after one step, the loss of the batch before it, and the largest rests that had no room, by matrix."""
    f_0 = forward(form, at_start(state), x)[0] if subtracts(form, rule) else 0.0  # what it brings is forgotten

    def run(weights: Weights) -> tuple[tuple[Array, Weights], None]:
        f, _, after = forward(form, weights, x)
        loss = rule.loss.of(*targets(f - f_0, y)).mean()
        return (loss, {name: W for name, W in after.items() if is_matrix(W)}), None

    (loss, after), pull, _ = jax.vjp(run, state.weights, has_aux=True)
    (back,) = pull((jnp.ones_like(loss), {name: turned(W) for name, W in after.items()}))
    missed = {name: W.missed for name, W in back.items() if is_matrix(W)}
    weights: Weights = {}
    velocities: dict[str, Any] = {}
    for name, W in state.weights.items():
        rate, v = form.units[name].rate, None if state.velocity is None else state.velocity[name]
        if not is_matrix(W):
            G = -rate * form.entries(name, W) * back[name]
            weights[name], velocities[name] = _moved(rule, numbers, eta, W, v, G)
            continue
        images = (-rate * back[name].Wb, -rate * back[name].Wa, jnp.zeros_like(W.alpha))
        moved = [_moved(rule, numbers, eta, w, v and v[i], G) for i, (w, G) in enumerate(zip(moving(W), images, strict=True))]
        (Wb, Wa, alpha), velocities[name] = (tuple(part) for part in zip(*moved, strict=True))
        weights[name] = back[name]._replace(Wb=Wb, Wa=Wa, alpha=alpha, eps_u=W.eps_u, eps_r=W.eps_r)
    return State(weights, velocities if rule.momentum else None, state.start), loss, missed


def _moved(rule: Rule, numbers: Numbers, eta: Array, w: Array, v: Any, G: Array) -> tuple[Array, Array]:
    return move(w, v, G, eta, numbers.momentum, rule.nesterov, numbers.weight_decay if rule.decays else 0.0)


def largest_missed(matrices: Weights) -> Float[Array, ""]:
    """The largest rest that had no room in any of them."""
    return jnp.max(jnp.stack([jnp.zeros(()), *(jnp.max(W.missed) for W in matrices.values())]))


class Look(NamedTuple):
    """What to see of a network.

    Attributes:
        kernels: of every field.
        gradients: and of d f / d field.
        attention: softmax of every attention.
        update_size: root mean square of h(t) - h(0) of every field, path by path.
    """

    kernels: bool = False
    gradients: bool = False
    attention: bool = False
    update_size: bool = False


def look(
    form: Form, rule: Rule, what: Look, state: State, spare: dict[str, tuple[Array, Array]], x: Array, y: Array
) -> tuple[dict[str, Array], Float[Array, ""]]:
    """f at the points x and what is to be seen of the fields; `spare` is noise for what these bring, and is then forgotten."""

    weights = {name: roomier(W, *spare[name]) if is_matrix(W) else W for name, W in state.weights.items()}
    if what.update_size:  # of a change nothing is left out, however small it is
        fine = {name: W.policy._replace(tol=FINEST, coarse=FINEST) for name, W in weights.items() if is_matrix(W)}
        weights = {name: W._replace(policy=fine[name]) if name in fine else W for name, W in weights.items()}
    f_0: Any = 0.0
    if what.update_size or subtracts(form, rule):
        f_0, fields_0, known = forward(form, at_start(state._replace(weights=weights)), x)
        f_0 = f_0 if subtracts(form, rule) else 0.0
        for name, W in weights.items():
            if is_matrix(W):
                m = known[name]
                weights[name] = W._replace(b=m.b, a=m.a, size=m.size, scale=m.scale, missed=m.missed)

    matrices = {name: W for name, W in weights.items() if is_matrix(W)}

    def run(push: dict[str, Array], matrices: Weights) -> tuple[tuple[Array, Weights], dict[str, Array]]:
        f, fields, after = forward(form, weights | matrices, x, push)
        return (f - f_0, {name: W for name, W in after.items() if is_matrix(W)}), fields

    neurons = {name for name, population in form.plan.fields.items() if population is not None}
    if what.gradients:
        shapes = jax.eval_shape(lambda: run({}, matrices)[1])
        push = {name: jnp.zeros(shapes[name].shape) for name in neurons}
        (f, after), pull, fields = jax.vjp(run, push, matrices, has_aux=True)
    else:
        (f, after), fields = run({}, matrices)
    missed = largest_missed(after)
    seen = judged(rule.loss, f, y)
    if what.kernels:
        seen |= {f"kernels/{name}": kernel(fields[name]) for name in form.plan.fields if name in neurons}
    if what.attention:
        seen |= {name: fields[name] for name in form.plan.fields if name not in neurons}
    if what.update_size:
        changes = {name: fields[name] - fields_0[name] for name in form.plan.fields if name in neurons}
        seen |= {f"update_size/{name}": jnp.sqrt(jnp.mean(change**2)) for name, change in changes.items()}
    if what.gradients:
        C = seen["f"].shape[-1]

        def add(c: Array, carry: tuple) -> tuple:
            total, missed = carry
            (direction,) = jax.vjp(lambda f: recorded(f, y)[:, c].sum(), f)[1](jnp.ones(()))
            cotangent = {name: turned(W) for name, W in after.items()}
            g, back = pull((direction, cotangent))
            fresh = {}
            for name in total:
                population = form.plan.fields[name] or ""
                entries = form.parts(population) * g[name].shape[-1]
                fresh[name] = total[name] + kernel(g[name] * entries / (form.gradient_size * form.times(population))) / C
            return fresh, jnp.maximum(missed, largest_missed(back))

        zeros = {name: jnp.zeros((len(x), len(x))) for name in form.plan.fields if name in neurons}
        total, missed = jax.lax.fori_loop(0, C, add, (zeros, missed))
        seen |= {f"gradient_kernels/{name}": K for name, K in total.items()}
    return seen, missed
