"""Moments of a kernel's spectrum from a finite sample of inputs and features, without bias: 2410.17998.

The kernel k(x, x') = <phi_w(x) phi_w(x')>_w has eigenvalues lam_a over inputs x. Of it one sees Phi_ij = phi_{w_j}(x_i) for P
inputs and Q features (the neurons of a layer, say). Eigenvalues of Phi Phi^T / (P Q), and their moments, are too large: every
index that meets itself adds a term that the kernel does not have. Without such terms

    m_n = sum_a lam_a^n = < prod_{a=1..n} Phi_{i_a j_a} Phi_{i_{a+1} j_a} >,   i_{n+1} = i_1

is an average over rows i_1 < ... < i_n and columns j_1 < ... < j_n, all different, hence unbiased at every P and Q. The sum
over the tuples is taken from the left, for each first row i apart (`later`: sums over what comes before):

    S_1 = row i of Phi,   S_{n+1} = later_columns( later_rows(S_n) * Phi ) * Phi,
    m_n = sum_i sum_{rj} (S_n)_{rj} Phi_ij / ( C(P, n) C(Q, n) )

at a cost of P^2 Q n / 2 multiplications and a memory of P Q.
"""

from __future__ import annotations

from math import comb

import numpy as np
from jaxtyping import Float

from widthwise import Spectrum, check
from widthwise.checked import Numbers, checked

PER_DECADE = 64
"""Candidate eigenvalues per decade of `spectrum_of_moments`."""


@checked
def spectral_moments(
    features: Numbers, order: int = 4, *, trial: Numbers = None, repeats: int = 1, seed: int = 0
) -> Float[np.ndarray, "order"]:
    """m_1 ... m_n of the kernel that the features are a sample of; unbiased, by the sum above.

    Estimates vary from sample to sample and higher ones may come out negative; their error is measured by repeating
    with other inputs and features, or on halves.

    Args:
        features: (P, Q), rows are independent inputs, columns independent features. Divide by nothing: <Phi_ij^2> = trace.
        order: n, at most min(P, Q).
        trial: (P, Q) a second measurement of the same features, where measurements are noisy: noise that is
            independent between the two does not enter. Without it such noise of variance s^2 adds s^2 to m_1, and nothing
            to the others.
        repeats: average over this many orders of rows and columns, the first as they came; the variance falls a little.
        seed: of those orders.

    Returns:
        (order,) m_1 ... m_n.

    Raises:
        ValueError: an order above P or Q, a trial of another shape.

    Example:
        >>> spectral_moments([[1.0, 0.0], [1.0, 1.0]], order=2).tolist()  # m_2 = Phi_00 Phi_10 Phi_11 Phi_01
        [0.75, 0.0]
    """
    X = check.array("features", features, 2, "(P, Q)")
    Y = X if trial is None else check.array("trial", trial, 2, "(P, Q)")
    check.count("order", order)
    check.count("repeats", repeats, most=check.MANY)
    if X.shape != Y.shape:
        raise ValueError(f"trial must have the shape of features, {X.shape}; got {Y.shape}. It is the same, measured again.")
    if order > min(X.shape):
        raise ValueError(
            f"order must be at most min(P, Q) = {min(X.shape)}, got {order}: it takes so many different rows and columns."
        )
    if X.shape[0] > X.shape[1]:
        X, Y = X.T, Y.T  # the kernel between features has the same eigenvalues
    rng = np.random.default_rng(seed)
    P, Q = X.shape
    ways = np.array([float(comb(P, n)) * float(comb(Q, n)) for n in range(1, order + 1)])
    total = np.zeros(order)
    for repeat in range(repeats):
        rows, columns = (rng.permutation(P), rng.permutation(Q)) if repeat else (np.arange(P), np.arange(Q))
        total += _sums(X[np.ix_(rows, columns)], Y[np.ix_(rows, columns)], order)
    return total / repeats / ways


def _sums(X: Float[np.ndarray, "P Q"], Y: Float[np.ndarray, "P Q"], order: int) -> Float[np.ndarray, "order"]:
    """Sums over increasing tuples, of each order."""
    sums = np.zeros(order)
    for i in range(len(X)):
        S = np.zeros_like(X[i:])  # later rows alone come in
        S[0] = X[i]
        for n in range(order):
            sums[n] += S.sum(0) @ Y[i]
            if n + 1 < order:
                S = _before(_before(S, 0) * Y[i:], 1) * X[i:]
    return sums


def _before(S: Float[np.ndarray, "P Q"], axis: int) -> Float[np.ndarray, "P Q"]:
    """Sums over what comes before, the entry itself left out."""
    out = np.zeros_like(S)
    if axis == 0:
        np.cumsum(S[:-1], 0, out=out[1:])
    else:
        np.cumsum(S[:, :-1], 1, out=out[:, 1:])
    return out


@checked
def plugin_moments(features: Numbers, order: int = 4) -> Float[np.ndarray, "order"]:
    """Moments of the eigenvalues of Phi Phi^T / (P Q) itself: biased upward at every order above the first.

    Example:
        >>> plugin_moments(np.eye(2), order=2).tolist()
        [0.5, 0.125]
    """
    X = check.array("features", features, 2, "(P, Q)")
    lam = np.linalg.svd(X, compute_uv=False) ** 2 / X.size
    return np.array([(lam**n).sum() for n in range(1, check.count("order", order, most=check.MANY) + 1)])


@checked
def effective_dimension(moments: Numbers) -> float:
    """Participation ratio m_1^2 / m_2: the number of eigenvalues, if they were equal.

    Example:
        >>> effective_dimension([3.0, 3.0])
        3.0
    """
    m = check.array("moments", moments, 1, "(order,)")
    if len(m) < 2 or m[1] <= 0:
        raise ValueError(f"moments must be m_1, m_2, ... with m_2 above zero, got {m.tolist()}. Take more inputs or features.")
    return float(m[0] ** 2 / m[1])


@checked
def spectrum_of_moments(moments: Numbers, *, error: Numbers = None, decades: float = 4.0) -> Spectrum:
    """A spectrum that has these moments: few eigenvalues with their (fractional) multiplicities.

    Each candidate eigenvalue l holds a share t_l >= 0 of the trace; the shares are the solution of

        min sum_n [ (sum_l t_l l^{n-1} - m_n) / e_n ]^2,   multiplicity = t_l / l

    over a grid that ends at min_n m_n^{1/n}, above which no eigenvalue can lie (non-negative least squares; a linear
    programme in 2410.17998's forerunner, Kong and Valiant). What few moments cannot say it does not know: large eigenvalues
    come out well, the shape of a tail as one or two atoms, and what is below the grid as `rest_trace`.

    Args:
        moments: m_1 ... m_n, above zero.
        error: (n,) their standard errors e_n; equal relative errors by default.
        decades: how far below the largest the grid goes.

    Returns:
        Spectrum, its power zero (moments of the kernel do not know the target).

    Raises:
        ValueError: a moment that is not above zero, errors that do not fit.

    Example:
        >>> spectrum = spectrum_of_moments([3.0, 5.0, 9.0, 17.0])  # 2 and 1
        >>> round(spectrum.trace, 3), spectrum.lam[0].round(1).item(), round(spectrum.num_modes, 1)
        (3.0, 2.0, 2.0)
    """
    from scipy.optimize import nnls

    m = check.array("moments", moments, 1, "(order,)")
    if (m <= 0).any():
        bad = int((m <= 0).argmax()) + 1
        raise ValueError(
            f"moments must be above zero, got m_{bad} = {m[bad - 1]:.3g}: too noisy. Leave out orders from {bad} on."
        )
    e = m if error is None else check.array("error", error, 1, "(order,)")
    if e.shape != m.shape or (e <= 0).any():
        raise ValueError(f"error must be above zero, one per moment ({len(m)}); got {e.tolist()}.")
    n = np.arange(len(m))
    top = float((m ** (1 / (n + 1))).min())
    if check.positive("decades", decades) > 300:
        raise ValueError(f"decades must be at most 300, which float64 has; got {decades:g}.")
    lam = top * np.logspace(0, -decades, int(PER_DECADE * decades) + 1)
    lam = np.append(lam, 0.0)
    scale = top ** -n.astype(float)  # powers of order one
    A = (lam / top) ** n[:, None] / (e * scale)[:, None]
    share, _ = nnls(A, m / e, maxiter=100 * len(lam))
    used = (share > 0) & (lam > 0)
    if not used.any():
        raise ValueError(f"no eigenvalue within {decades:g} decades of {top:.3g} fits the moments. Raise `decades`.")
    return Spectrum(lam[used], np.zeros(int(used.sum())), share[used] / lam[used], float(share[-1]))
