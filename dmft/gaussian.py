"""Averages of an activation and of its slope over two normal variables, <phi(u) phi(v)> and <phi'(u) phi'(v)>.

In closed form where there is one (linear, relu, erf, gelu), by a series in Hermite polynomials for other smooth activations,
and by a double exponential quadrature in polar coordinates for the rest; each with its error, judged by entry. Angles between
fields are kept beside their covariances: near angle zero a covariance does not know the angle to more than 1e-8, and the slope
of a kink is as wrong as the angle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from widthwise import Activation
from widthwise.activation import NAMED

Kernel = Float[np.ndarray, "rows columns"]
Variances = Float[np.ndarray, "points"]

BATCH, PAIRS, VALUES = 2**18, 2**16, 2**14
"""Coordinates of points, nodes of the quadrature, and values of the activation, held in memory at a time."""

CLOSE = 0.9
"""Cosine above which an angle is taken from differences of coordinates."""

TERMS = (32, 64, 128, 256, 512, 1024)
"""Numbers of Hermite polynomials that are tried."""

NODES = (64, 128, 256, 512, 1024, 2048, 4096)
"""Nodes per direction of the quadrature that are tried."""

EXACT = 1e-12
"""Relative error of an average with which a series is taken for exact."""

CONVERGED = 1e-8
"""Relative error at which a quadrature, or the last series, has converged."""

RESOLVED = 1e-6
"""Relative error that an average may have; more nodes are not tried where the most allowed would not get there."""

LARGE = 1e4
"""|x|^2 / D above which the scale of the inputs is to blame if averages are not resolved; order one is meant."""

SAMPLES, FINE, WIDEST = 16, 0.04, 32.0
"""Variances at which averages over one field are integrated again on panels of width FINE, up to |h| = WIDEST (`on_panels`)."""

TINY = np.finfo(float).tiny


class Fields(NamedTuple):
    """Pairs of Gaussian fields u_m, v_n: their covariances (m, n), variances a (m,) and b (n,), and angles (m, n).

    cos(angle_mn) = Phi_mn / sqrt(a_m b_n)
    """

    Phi: Kernel
    a: Variances
    b: Variances
    angle: Kernel

    @staticmethod
    def of_points(x: Float[np.ndarray, "rows dim"], y: Float[np.ndarray, "columns dim"]) -> Fields:
        """Of covariance x y^T, with angle = 2 atan2(|x/|x| - y/|y||, |x/|x| + y/|y||), which loses no digits at any angle."""
        Phi, a, b = x @ y.T, (x**2).sum(1), (y**2).sum(1)
        x, y = (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), TINY) for z in (x, y))
        cos = x @ y.T
        angle = angle_of((1 - cos) / 2, (1 + cos) / 2)
        close = np.argwhere(np.abs(cos) > CLOSE)
        step = max(1, BATCH // x.shape[1])
        for start in range(0, len(close), step):
            m, n = close[start : start + step].T
            angle[m, n] = angle_of(*(((x[m] + sign * y[n]) ** 2).sum(1) / 4 for sign in (-1, 1)))
        return Fields(Phi, a, b, angle)

    @staticmethod
    def of_cosines(cos: Kernel) -> Fields:
        """Of variance one."""
        cos = np.clip(cos, -1.0, 1.0)
        return Fields(cos, np.ones(len(cos)), np.ones(cos.shape[1]), angle_of((1 - cos) / 2, (1 + cos) / 2))

    def with_bias(self, bias: float) -> Fields:
        """Of u + b, v + b with the same b ~ N(0, bias^2). With p, q = sqrt(a), sqrt(b) and P, Q likewise after that,

            4 P Q sin^2(angle' / 2) = |u - v|^2 - (P - Q)^2 = 4 p q sin^2(angle / 2) + (p - q)^2 [1 - (p + q)^2 / (P + Q)^2]
            4 P Q cos^2(angle' / 2) = (P + Q)^2 - |u - v|^2 = 4 p q cos^2(angle / 2) + (P + Q)^2 - (p + q)^2

        where nothing cancels.
        """
        if bias == 0:
            return self
        s2 = bias**2
        Phi, a, b = self.Phi + s2, self.a + s2, self.b + s2
        p, q, P, Q = np.sqrt(self.a)[:, None], np.sqrt(self.b), np.sqrt(a)[:, None], np.sqrt(b)
        more = 2 * s2 + 2 * s2 * (p * p + q * q + s2) / (P * Q + p * q)  # (P + Q)^2 - (p + q)^2
        sin2 = p * q * np.sin(self.angle / 2) ** 2 + (p - q) ** 2 * more / (P + Q) ** 2 / 4
        cos2 = p * q * np.cos(self.angle / 2) ** 2 + more / 4
        return Fields(Phi, a, b, angle_of(sin2, cos2))


class Averages(NamedTuple):
    """The fields phi(u), phi(v) of the next layer, <phi'(u) phi'(v)> (m, n), and the relative error of both.

    The error of an entry is relative to sqrt(<phi(u_m)^2> <phi(v_n)^2>), for slopes likewise; here is the largest.
    """

    fields: Fields
    d_d: Kernel
    error: float


def angle_of(sin2: Kernel, cos2: Kernel) -> Kernel:
    """Angle of which sin^2 and cos^2 of the half are given, up to a factor."""
    return 2 * np.arctan2(np.sqrt(np.maximum(sin2, 0.0)), np.sqrt(np.maximum(cos2, 0.0)))


def averages(act: Activation, fields: Fields, max_nodes: int, tolerance: float = EXACT) -> Averages:
    """phi(u_m), phi(v_n) and <phi'(u_m) phi'(v_n)> for Gaussian u_m, v_n.

    Singular kernels (equal samples, a zero input) are nothing special. A field of zero variance is zero, and phi' is then the
    activation's own phi'(0), as in a network: 0 for relu.
    """
    if act == NAMED.get(act.name) and act.name in CLOSED_FORM:
        return Averages(*CLOSED_FORM[act.name](fields), 0.0)
    return hermite_series(act, fields, tolerance) or quadrature(act, fields, max_nodes, tolerance)


def unresolved(act: Activation, error: float, largest: float, cure: str) -> str:
    """What to say of averages with an error above RESOLVED; `largest` is the largest |x|^2 / D of the inputs."""
    cause = (
        f"inputs have |x|^2 / D of up to {largest:.2g}, where order one is meant: standardize them (subtract the mean of every "
        "column and divide by its standard deviation)."
        if largest > LARGE
        else f"which happens with a kink, a jump or a narrow feature away from zero: {cure}"
    )
    return f"Gaussian averages of {act.name!r} are resolved to {error:.1g} only, {cause}"


def _linear(fields: Fields) -> tuple[Fields, Kernel]:
    return fields, np.ones_like(fields.Phi)


def _relu(fields: Fields) -> tuple[Fields, Kernel]:
    """Arc-cosine kernels (Cho & Saul 2009): 2 pi <phi phi> = pq (sin + (pi - angle) cos), 2 pi <phi' phi'> = pi - angle."""
    Phi, a, b, angle = fields
    sin, both = np.sin(angle) - angle * np.cos(angle), np.sqrt(np.outer(a, b))
    half = np.sin(angle / 2) ** 2 - sin / (2 * np.pi)  # (1 - cos(angle')) / 2, without a difference of large numbers
    d_d = (np.pi - angle) / (2 * np.pi) * np.outer(a > 0, b > 0)
    return Fields(Phi / 2 + both * sin / (2 * np.pi), a / 2, b / 2, angle_of(half, 1 - half)), d_d


def _erf(fields: Fields) -> tuple[Fields, Kernel]:
    """<phi phi> = 2/pi arcsin(2 Phi / sqrt((1 + 2a)(1 + 2b))), as an arctangent; <phi' phi'> = 4/pi / root (Williams 1997)."""

    def at(Phi: Kernel, a: Variances, b: Variances, sin2: Kernel) -> tuple[Kernel, Kernel]:
        root = np.sqrt(1 + 2 * (a + b) + 4 * a * b * sin2)
        return 2 / np.pi * np.arctan2(2 * Phi, root), 4 / np.pi / root

    return _smooth(at, fields)


def _gelu(fields: Fields) -> tuple[Fields, Kernel]:
    """By parts, with A, B = 1 + a, 1 + b, D = AB - Phi^2, T = <Psi Psi> and Q = <psi psi> = 1 / (2 pi sqrt(D)):

    <phi phi> = Phi T + Q [ab - Phi^2 + Phi^2 (1/A + 1/B)],   <phi' phi'> = T + Phi Q (1/A + 1/B + 1/D)
    """

    def at(Phi: Kernel, a: Variances, b: Variances, sin2: Kernel) -> tuple[Kernel, Kernel]:
        D = 1 + a + b + a * b * sin2
        T, Q, inverse = (
            0.25 + np.arctan2(Phi, np.sqrt(D)) / (2 * np.pi),
            1 / (2 * np.pi * np.sqrt(D)),
            1 / (1 + a) + 1 / (1 + b),
        )
        return Phi * T + Q * (a * b * sin2 + Phi * Phi * inverse), T + Phi * Q * (inverse + 1 / D)

    return _smooth(at, fields)


def _smooth(at: Callable[..., tuple[Kernel, Kernel]], fields: Fields) -> tuple[Fields, Kernel]:
    """A closed form at every entry, and at equal fields for the variances."""
    Phi, a, b, angle = fields
    phi_phi, d_d = at(Phi, a[:, None], b, np.sin(angle) ** 2)
    return _fields(phi_phi, *(at(x, x, x, 0.0)[0] for x in (a, b))), d_d


def _fields(Phi: Kernel, a: Variances, b: Variances) -> Fields:
    """With angles from covariances, to 1e-8: enough for what is smooth."""
    both = np.sqrt(np.outer(a, b))
    cos = np.divide(Phi, both, out=np.zeros_like(both), where=both > 0)
    return Fields(Phi, a, b, angle_of(1 - cos, 1 + cos))


CLOSED_FORM = {"linear": _linear, "relu": _relu, "erf": _erf, "gelu": _gelu}
"""Named activations whose averages are elementary."""


# --- smooth activations ------------------------------------------------------------------------------------------------------


def hermite_series(act: Activation, fields: Fields, tolerance: float = EXACT) -> Averages | None:
    """`averages` in normalised Hermite polynomials He_k (Mehler's formula); geometric convergence for smooth activations.

        <phi(u_m) phi(v_n)> = sum_k c_mk c_nk rho_mn^k,   c_mk = <phi(sqrt(a_m) x) He_k(x)>,   rho_mn = cos(angle_mn)

    and likewise for phi'. What the terms left out can add is known: sum_k c_mk^2 = <phi(u_m)^2>. None where `TERMS` do not get
    that below CONVERGED, or where the nodes miss what other nodes see (`on_panels`).
    """
    best = 1.0
    for terms in TERMS:
        u, v, error = _coefficients(act, terms, fields)
        if error <= tolerance or (terms == TERMS[-1] and error <= CONVERGED):
            break
        if terms > TERMS[1] and error > best / 4:
            return None  # a kink
        best = error
    else:
        return None
    variances, squares = (
        np.append(fields.a, fields.b),
        np.stack([np.append(x.square, y.square) for x, y in zip(u, v, strict=True)]),
    )
    some = _sample(variances)
    error = max(error, float(np.max(_relative(squares[:, some], on_panels(act, variances[some])))))
    if error > max(tolerance, CONVERGED):
        return None
    rho = np.cos(fields.angle)
    kernels = np.zeros((2, *rho.shape))
    for kernel, x, y in zip(kernels, u, v, strict=True):
        for k in range(terms)[::-1]:
            kernel *= rho
            kernel += np.outer(x.c[:, k], y.c[:, k])
    return Averages(_fields(kernels[0], u[0].square, v[0].square), kernels[1], error)


class _Coefficients(NamedTuple):
    """c_mk (m, terms) of phi or phi', and <phi(u_m)^2> (m,)."""

    c: Float[np.ndarray, "points terms"]
    square: Variances


def _coefficients(act: Activation, terms: int, fields: Fields) -> tuple[list[_Coefficients], list[_Coefficients], float]:
    """Of phi and phi' at the rows, and at the columns; and the largest relative error of an average."""
    x, w, He = _hermite(terms)

    def at(variances: Variances) -> list[_Coefficients]:
        c, squares = np.empty((2, len(variances), terms)), np.empty((2, len(variances)))
        step = max(1, 2 * BATCH // len(x))
        for i in range(0, len(variances), step):
            f = values(act, np.sqrt(variances[i : i + step])[:, None] * x)
            c[:, i : i + step], squares[:, i : i + step] = f * w @ He.T, f**2 @ w
        return [_Coefficients(*pair) for pair in zip(c, squares, strict=True)]

    rows = at(fields.a)
    columns = rows if np.array_equal(fields.a, fields.b) else at(fields.b)
    rests = [
        [np.max(np.maximum(1 - (s.c**2).sum(1) / np.maximum(s.square, TINY), 0.0) * (s.square > TINY)) for s in side]
        for side in (rows, columns)
    ]
    return rows, columns, float(np.sqrt(np.prod(rests, axis=0)).max())


@lru_cache
def _hermite(terms: int) -> tuple[Float[np.ndarray, "nodes"], Float[np.ndarray, "nodes"], Float[np.ndarray, "terms nodes"]]:
    """Nodes and weights for averages over N(0, 1), and He_0 ... He_{terms - 1} there."""
    from scipy.special import roots_hermitenorm  # imported where used: it costs a quarter of a second

    x, w = roots_hermitenorm(3 * terms)
    x, w = x[w > TINY], w[w > TINY]
    He = np.zeros((terms, len(x)))
    He[0], He[1] = 1.0, x
    for k in range(1, terms - 1):
        He[k + 1] = (x * He[k] - np.sqrt(k) * He[k - 1]) / np.sqrt(k + 1)
    return x, w / w.sum(), He


def values(act: Activation, u: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "2 *shape"]:
    """phi(u) and phi'(u), compiled once."""
    out = np.empty((2, u.size))
    for i in range(0, u.size, VALUES):
        some = u.ravel()[i : i + VALUES]
        out[:, i : i + VALUES] = np.asarray(_values(act, np.pad(some, (0, VALUES - len(some)))))[:, : len(some)]
    return out.reshape(2, *u.shape)


@partial(jax.jit, static_argnames="act")
def _values(act: Activation, u: Float[Array, "values"]) -> Float[Array, "2 values"]:
    return jnp.stack([act.phi(u), act.d(u)])


# --- an independent look -----------------------------------------------------------------------------------------------------


def _sample(variances: Variances) -> Int[np.ndarray, "samples"]:
    """`SAMPLES` of them, from the smallest to the largest."""
    return np.argsort(variances)[np.linspace(0, len(variances) - 1, SAMPLES).round().astype(int)]


def _relative(x: Float[np.ndarray, "2 points"], exact: Float[np.ndarray, "2 points"]) -> Float[np.ndarray, "2 points"]:
    return np.abs(x - exact) / np.maximum(exact, TINY) * (exact > TINY)


def on_panels(act: Activation, variances: Variances) -> Float[np.ndarray, "2 points"]:
    """<phi(u)^2> and <phi'(u)^2> by Gauss-Legendre rules on panels: FINE up to |u| = WIDEST, ever finer towards zero.

    A feature of the activation that is narrower than FINE / 8, or than |u| / 20 beyond WIDEST, can be missed.
    """
    x, w = np.polynomial.legendre.leggauss(8)
    size = np.sqrt(np.maximum(variances, TINY))[:, None]
    own = np.concatenate([[0.0], 2.0 ** np.arange(-30, 0), np.arange(1, 12, 0.25)])
    out = np.empty((2, len(variances)))
    for i in range(0, len(variances), SAMPLES):
        some = np.resize(np.arange(i, min(i + SAMPLES, len(variances))), SAMPLES)  # one shape, compiled once
        fine = np.minimum(np.arange(0, WIDEST, FINE) / size[some], 12.0)
        edges = np.sort(np.concatenate([np.broadcast_to(own, (SAMPLES, len(own))), fine], axis=1))
        middle, half = (edges[:, 1:] + edges[:, :-1])[:, :, None] / 2, (edges[:, 1:] - edges[:, :-1])[:, :, None] / 2
        z = (middle + half * x).reshape(SAMPLES, -1)
        weight = (half * w).reshape(z.shape) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        u = np.sqrt(variances[some])[:, None] * z
        out[:, some] = ((values(act, u) ** 2 + values(act, -u) ** 2) * weight).sum(2)
    return out


# --- all others --------------------------------------------------------------------------------------------------------------


def quadrature(act: Activation, fields: Fields, max_nodes: int, tolerance: float = CONVERGED) -> Averages:
    """`averages` of u_m, v_n pair by pair, in polar coordinates of two independent variables:

        <F> = int dr r exp(-r^2 / 2)  int ds / 2 pi  F(u, v),   u = +- sqrt(a) r sin(s),   v = sqrt(b) r sin(s')

    with s + s' = pi - angle where u and v have equal signs, and s + s' = angle where they have not. Nodes are double
    exponential in r and s (Takahasi & Mori 1974): they accumulate at r = 0, and where u or v changes sign. So a kink or a jump
    at zero sits on an end point and costs nothing, and an activation may be steep there by any factor.

    Pair by pair, nodes are doubled until leaving out every second one changes nothing; the error is then far below that change.
    Averages over one field are integrated on panels (`on_panels`), an independent check. Angles of the next layer come from
    <(phi(u) / |phi(u)| -+ phi(v) / |phi(v)|)^2>, where nothing cancels.
    """
    _, a, b, angle = fields
    tolerance = max(tolerance, CONVERGED)
    squares = [on_panels(act, x) for x in ((a,) if np.array_equal(a, b) else (a, b))]
    square_u, square_v = squares[0], squares[-1]
    out = np.stack([*square_u[:, :, None] * np.ones(len(b)), np.zeros_like(angle), np.ones_like(angle)])
    unequal = (angle > 0) | (a[:, None] != b)
    symmetric = np.array_equal(a, b) and np.array_equal(angle, angle.T)
    m, n = np.nonzero(np.triu(unequal) if symmetric else unequal)
    size_u, size_v = (np.sqrt(np.maximum(x, TINY)) for x in (square_u, square_v))
    out[:, m, n], error = _converged(act, max_nodes, tolerance, fields, size_u, size_v, m, n)
    if symmetric:
        out[:, n, m] = out[:, m, n]
    some, own = _sample(a), np.arange(SAMPLES)
    same = Fields(np.diag(a[some]), a[some], a[some], np.zeros((SAMPLES, SAMPLES)))
    alone, its_error = _converged(act, max_nodes, tolerance, same, size_u[:, some], size_u[:, some], own, own)
    error = max(error, its_error, float(np.max(_relative(alone[:2], square_u[:, some]))))
    phi_phi, d_d, sin2, cos2 = out
    return Averages(Fields(phi_phi, square_u[0], square_v[0], angle_of(sin2, cos2)), d_d, error)


def _converged(
    act: Activation,
    max_nodes: int,
    tolerance: float,
    fields: Fields,
    size_u: Float[np.ndarray, "2 rows"],
    size_v: Float[np.ndarray, "2 columns"],
    m: Int[np.ndarray, "pairs"],
    n: Int[np.ndarray, "pairs"],
) -> tuple[Float[np.ndarray, "4 pairs"], float]:
    """<phi phi>, <phi' phi'> and the two squares of pairs (m, n), and the largest error; sizes are |phi|, |phi'|."""
    _, a, b, angle = fields
    values, error = np.zeros((4, len(m))), np.full(len(m), np.inf)

    def take(nodes: int, pairs: Int[np.ndarray, "pairs"]) -> None:
        step = max(1, PAIRS // nodes**2)
        for start in range(0, len(pairs), step):
            some = np.resize(pairs[start : start + step], step)  # one shape, compiled once
            i, j = m[some], n[some]
            fine, coarse = np.asarray(_pairs(act, _rule(nodes), a[i], b[j], angle[i, j], size_u[:, i], size_v[:, j]))
            values[:, some] = fine
            own = np.maximum(size_u[:, i] * size_v[:, j], TINY)
            error[some] = np.max(np.abs(fine - coarse)[:2] / own, axis=0)

    tried = [nodes for nodes in NODES if nodes <= max_nodes]
    todo = np.arange(len(m))
    for i, nodes in enumerate(tried):
        if i == 2 and todo.size:  # from here on nodes are dear
            worst = todo[np.argsort(error[todo])[-2:]]
            take(tried[-1], worst)
            if not error[worst].max() <= RESOLVED:
                break
        take(nodes, todo)
        todo = np.flatnonzero(~(error <= tolerance))
        if not todo.size:
            break
    return values, float(error.max(initial=0.0))


class _Rule(NamedTuple):
    """Radii, shares of an arc to the left and right of its nodes, and weights by all nodes and by every second."""

    r: Float[np.ndarray, "nodes"]
    left: Float[np.ndarray, "nodes"]
    right: Float[np.ndarray, "nodes"]
    weight_r: Float[np.ndarray, "2 nodes"]
    weight_s: Float[np.ndarray, "2 nodes"]


@lru_cache
def _rule(nodes: int) -> _Rule:
    t, h = np.linspace(-4.0, 3.75, nodes + 1, retstep=True)
    energy = np.exp(t - np.exp(-t))  # r^2 / 2
    r, weight_r = np.sqrt(2 * energy), h * energy * (1 + np.exp(-t)) * np.exp(-energy)
    t, h = np.linspace(-3.2, 3.2, nodes + 1, retstep=True)
    left, right = (1 / (1 + np.exp(sign * np.pi * np.sinh(t))) for sign in (-1, 1))
    weight_s = h * np.pi * np.cosh(t) * left * right / (2 * np.pi)
    kept = np.array([(np.arange(nodes + 1) % k == 0) * k for k in (1, 2)])
    return _Rule(r, left, right, kept * weight_r, kept * weight_s)


@partial(jax.jit, static_argnames="act")
def _pairs(
    act: Activation,
    rule: _Rule,
    a: Float[Array, "pairs"],
    b: Float[Array, "pairs"],
    angle: Float[Array, "pairs"],
    size_u: Float[Array, "2 pairs"],
    size_v: Float[Array, "2 pairs"],
) -> Float[Array, "2 4 pairs"]:
    """The averages of `quadrature`, by all nodes and by every second."""

    def pair(a: Array, b: Array, angle: Array, size_u: Array, size_v: Array) -> Array:
        arcs, sign = jnp.stack([np.pi - angle, angle]), np.array([1.0, -1.0])[:, None, None]
        u = sign * jnp.sqrt(a) * rule.r[:, None] * jnp.sin(arcs[:, None, None] * rule.right)
        v = jnp.sqrt(b) * rule.r[:, None] * jnp.sin(arcs[:, None, None] * rule.left)
        both = [[(F(u), F(v)), (F(-u), F(-v))] for F in (act.phi, act.d)]  # the other half circle mirrors both
        functions = [jnp.asarray(sum(x * y for x, y in pairs)) for pairs in both]
        for minus in (-1.0, 1.0):
            functions.append(jnp.asarray(sum((x / size_u[0] + minus * y / size_v[0]) ** 2 for x, y in both[0])) / 4)
        return jnp.stack([jnp.einsum("ars,ks,kr,a->k", F, rule.weight_s, rule.weight_r, arcs) for F in functions], axis=1)

    return jnp.moveaxis(jax.vmap(pair, in_axes=(0, 0, 0, 1, 1))(a, b, angle, size_u, size_v), 0, -1)
