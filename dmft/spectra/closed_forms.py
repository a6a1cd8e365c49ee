"""Spectra in closed form: dot-product kernels on the sphere, Gaussian kernels on Gaussian data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from dmft.gaussian import RESOLVED, Fields, averages, unresolved
from widthwise import MLP, Spectrum, check
from widthwise.checked import checked
from widthwise.precision import float64
from widthwise.trajectory import tangent_kernel

NODES = 2048
"""Nodes in the angle; kernels of networks are smooth in it, kinks of relu included."""

MOST_NODES = 512
"""Nodes per direction of averages over two fields, as of `dmft.Lazy`."""

UNCOUNTED = 10**30
"""More modes of a degree than a Spectrum takes."""
ROUNDING = 1e-13
"""Eigenvalues below this share of k(1) are rounding of the quadrature."""


@checked
def sphere(
    kernel: Callable[[Float[np.ndarray, "nodes"]], Any], input_dim: int, power: Mapping[int, float], *, max_degree: int = 50
) -> Spectrum:
    """Of a kernel k(t), t = x.x' / |x||x'|, for x uniform on the sphere in D dimensions; entries are degrees (Funk-Hecke).

        k(t) = sum_l N(D, l) eta_l P_l(t),   eta_l = int k(cos a) P_l(cos a) sin^{D-2} a da / int sin^{D-2} a da

    with P_l the Gegenbauer polynomials, P_l(1) = 1, and N(D, l) harmonics of degree l (`degeneracy`). The integral
    is a Gauss-Legendre rule in the angle, where (1 - t)^{1/2} of relu networks is smooth. What degrees above
    `max_degree` hold of the trace k(1) is `rest_trace`.

    Args:
        kernel: takes t (n,) in [-1, 1], gives k(t) (n,).
        input_dim: D >= 2.
        power: target power by degree, of all harmonics of the degree together; spread evenly over them (the learning curve
            does not depend on how).
        max_degree: the last degree kept.

    Returns:
        Spectrum with `label` the degrees, largest eigenvalue first.

    Raises:
        ValueError: the kernel is not positive on the sphere, is not finite, or the target has a degree above max_degree.

    Example:
        >>> spectrum = sphere(lambda t: t**2, 3, {2: 1.0}, max_degree=3)  # t^2 = 1/3 P_0 + 2/3 P_2
        >>> spectrum.lam.round(9).tolist(), spectrum.label.tolist()
        ([0.333333333, 0.133333333, 0.0, 0.0], [0, 2, 1, 3])
    """
    D, L = check.count("input_dim", input_dim, least=2), check.count("max_degree", max_degree, least=0, most=NODES)
    for degree, value in power.items():
        check.count("a degree of the target", degree, least=0)
        check.at_least_zero(f"power of degree {degree}", value)
        if degree > L:
            raise ValueError(f"the target has degree {degree}, above max_degree={L}: raise max_degree.")
    x, w = np.polynomial.legendre.leggauss(NODES)
    angle = np.pi / 2 * (1 + x)
    t, weight = np.cos(angle), w * np.sin(angle) ** (D - 2)
    weight = weight / weight.sum()
    cure = "It takes an array t in [-1, 1]."
    values = check.called("kernel(t)", kernel, np.append(t, 1.0), shape=(NODES + 1,), cure=cure)
    P = gegenbauer(L, D, t)
    eta, top = P @ (weight * values[:-1]), values[-1]
    if (eta < -1e-8 * abs(top)).any() or not top > 0:
        worst = int(eta.argmin())
        raise ValueError(
            f"kernel is not positive on the sphere in {D} dimensions: k(1) = {top:.3g}, eigenvalue {eta[worst]:.3g} at degree "
            f"{worst}. It must be a function of t = cos(angle) with Gegenbauer coefficients of zero or above."
        )
    many = np.array([degeneracy(D, l) for l in range(L + 1)])
    eta = np.where(eta < ROUNDING * top, 0.0, eta)
    total = np.array([power.get(l, 0.0) for l in range(L + 1)])
    rest = max(top - float(many @ eta), 0.0)
    rest = rest if rest > 1e-10 * top else 0.0
    order = np.argsort(-eta, kind="stable")
    return Spectrum(eta[order], (total / many)[order], many[order], rest, 0.0, order)


def gegenbauer(max_degree: int, input_dim: int, t: Float[np.ndarray, "nodes"]) -> Float[np.ndarray, "degrees nodes"]:
    """P_0 ... P_L at t, P_l(1) = 1: (l + D - 2) P_{l+1} = (2l + D - 2) t P_l - l P_{l-1}.

    Example:
        >>> gegenbauer(2, 3, np.array([0.5])).ravel().tolist()  # Legendre
        [1.0, 0.5, -0.125]
    """
    D = input_dim
    P = np.ones((max_degree + 1, len(t)))
    if max_degree:
        P[1] = t
    for l in range(1, max_degree):
        P[l + 1] = ((2 * l + D - 2) * t * P[l] - l * P[l - 1]) / (l + D - 2)
    return P


def degeneracy(input_dim: int, degree: int) -> float:
    """N(D, l), the number of harmonics of a degree on the sphere in D dimensions.

    Example:
        >>> [degeneracy(3, l) for l in range(4)]
        [1.0, 3.0, 5.0, 7.0]
    """
    from math import comb

    D, l = input_dim, degree
    return float(min(comb(l + D - 1, D - 1) - (comb(l + D - 3, D - 1) if l >= 2 else 0), UNCOUNTED))


@checked
def ntk(architecture: MLP, kind: str = "ntk") -> Callable[[Float[np.ndarray, "nodes"]], Float[np.ndarray, "nodes"]]:
    """Kernel of an infinitely wide MLP at initialisation as a function of t = x.x' / D, for inputs of norm |x|^2 = D.

        Phi^0 = t,   Phi^l = <phi(u) phi(v)>,   G^l = G^{l+1} <phi'(u) phi'(v)>,   K = sum_{l=0..L} G^{l+1} (Phi^l + bias^2)

    for u, v of covariance Phi^{l-1} + bias^2, as in `dmft.Lazy`; for relu it is the recursion of arc-cosine kernels.

    Args:
        architecture: MLP.
        kind: "ntk", all weights are trained; or "nngp", the readout alone (Phi^L + bias^2).

    Raises:
        ValueError: by the kernel where it is called: the averages of this activation are not resolved (a narrow feature, a kink
            away from zero).

    Example:
        >>> K = ntk(MLP(1, "relu"))
        >>> K(np.array([1.0])).tolist()  # <relu'^2> + <relu^2>
        [1.0]
    """
    check.choice("kind", kind, ("ntk", "nngp"))
    shift = architecture.bias**2

    def kernel(t: Float[np.ndarray, "nodes"]) -> Float[np.ndarray, "nodes"]:
        fields = Fields.of_cosines(check.array("t", np.atleast_1d(check.numbers("t", t)), 1, "(n,)")[:, None])
        check.outside_jit("the kernel of dmft.spectra.ntk")
        features, slopes, error = [fields.Phi], [], 0.0
        with float64():
            for _ in range(architecture.depth):
                fields, d_d, its_error = averages(architecture.activation, fields.with_bias(architecture.bias), MOST_NODES)
                features.append(fields.Phi)
                slopes.append(d_d)
                error = max(error, its_error)
        if not error <= RESOLVED:
            cure = "use one that is smooth on a scale of order one."
            raise ValueError(unresolved(architecture.activation, error, 1.0, cure))
        if kind == "nngp":
            return features[-1][:, 0] + shift
        G = np.cumprod(slopes[::-1], axis=0)[::-1]
        return tangent_kernel(np.array(features) + shift, G, np.ones(architecture.depth + 1))[:, 0]

    return kernel


@checked
def rbf(
    input_dim: int, power: Mapping[int, float], *, data_std: float = 1.0, length: float = 1.0, max_degree: int = 50
) -> Spectrum:
    """Of exp(-|x - x'|^2 / (2 length^2)) for x ~ N(0, data_std^2)^D; entries are degrees of Hermite polynomials.

        a = 1 / (4 data_std^2),  b = 1 / (2 length^2),  c = sqrt(a^2 + 2ab),  A = a + b + c,  B = b / A
        eta_l = (2a / A)^{D/2} B^l,   multiplicity (l + D - 1 over D - 1)

    (Zhu et al. 1998; 2006.13198.) The eigenfunctions are not the Hermite polynomials of the data's own variance, so `power` is
    that of the target in these eigenfunctions.

    Args:
        input_dim: D.
        power: target power by degree, of all eigenfunctions of the degree together.
        data_std, length: as above.
        max_degree: the last degree kept; the rest of the trace, 1, is `rest_trace`.

    Raises:
        ValueError: a setting out of range; a degree above max_degree.

    Example:
        >>> round(rbf(3, {0: 1.0}, max_degree=20).trace, 12)
        1.0
    """
    from math import comb

    D, L = check.count("input_dim", input_dim), check.count("max_degree", max_degree, least=0, most=10**4)
    s, g = check.positive("data_std", data_std), check.positive("length", length)
    if power and max(power) > L:
        raise ValueError(f"the target has degree {max(power)}, above max_degree={L}: raise max_degree.")
    b = 2 * check.positive("data_std / length", s / g) ** 2  # in units of a
    A = 1 + b + np.sqrt(1 + 2 * b)
    degrees = np.arange(L + 1)
    eta = (2 / A) ** (D / 2) * (b / A) ** degrees
    many = np.array([float(min(comb(l + D - 1, D - 1), UNCOUNTED)) for l in range(L + 1)])
    rest = max(1.0 - float(many @ eta), 0.0)
    total = np.array([power.get(l, 0.0) for l in range(L + 1)])
    return Spectrum(eta, total / many, many, rest if rest > 1e-12 else 0.0, 0.0, degrees)
