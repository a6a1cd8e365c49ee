"""Spectrum: eigenvalues of a kernel and the power of the target in each mode; what static kernels make of the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import Numbers, checked
from widthwise.memory import room

NEGATIVE = 1e-5
"""Eigenvalues of a measured kernel down to minus this share of the largest are rounding (of float32), and set to zero."""


@dataclass(frozen=True)
class Spectrum:
    """A kernel's eigenvalues and a target's power in its eigenfunctions: the one input of every spectral formula.

        K(x, x') = sum_k lam_k phi_k(x) phi_k(x'),   y(x) = sum_k c_k phi_k(x),   <phi_k phi_l> = delta_kl
        power_k = c_k^2 = lam_k w_k^2            (w_k the weights of y in the features psi_k = sqrt(lam_k) phi_k)

    An entry stands for `multiplicity` modes, each with eigenvalue `lam` and with `power`: degenerate modes, or modes so close
    that one stands for all (`binned`). What is known of the modes that are left out goes into the two rests.

    Args:
        lam: (n,) eigenvalues, not negative, largest first.
        power: (n,) power of one mode of the entry.
        multiplicity: (n,) modes in the entry; 1 each by default.
        rest_trace: sum of the eigenvalues left out, each of them small beside the ridge that learning sees.
        rest_power: power of the target in modes left out.
        label: (n,) names of the entries, e.g. the degrees of spherical harmonics.

    Raises:
        ValueError: negative or unsorted eigenvalues, negative power, lengths that differ.

    Example:
        >>> spectrum = Spectrum([2.0, 0.5], [1.0, 3.0], [1, 4])
        >>> spectrum.trace, spectrum.total_power, spectrum.task_power.round(3).tolist()
        (4.0, 13.0, [0.077, 0.923])
    """

    lam: Any
    power: Any
    multiplicity: Any = None
    rest_trace: float = 0.0
    rest_power: float = 0.0
    label: Any = None

    def __post_init__(self) -> None:
        lam = check.array("lam", self.lam, 1, "(n,)")
        if (lam < 0).any():
            first = int((lam < 0).argmax())
            raise ValueError(
                f"lam must not be negative, got {lam[first]:g} at index {first}. A kernel has eigenvalues of zero or above: "
                "symmetrise it, or set what is rounding to zero."
            )
        if (np.diff(lam) > 0).any():
            first = int((np.diff(lam) > 0).argmax())
            raise ValueError(
                f"lam must come largest first, got {lam[first]:g} before {lam[first + 1]:g} at index {first}. Sort lam and "
                "power together: order = np.argsort(-lam, kind='stable')."
            )
        power = check.array("power", self.power, 1, "(n,)")
        many = np.ones(len(lam)) if self.multiplicity is None else check.array("multiplicity", self.multiplicity, 1, "(n,)")
        label = None if self.label is None else np.asarray(check.raw("label", self.label))
        if label is not None and not label.ndim:
            raise ValueError(f"label must have one entry per eigenvalue, n = {len(lam)}; got {check.shown(self.label)}.")
        for name, x in (("power", power), ("multiplicity", many), ("label", label)):
            if x is not None and len(x) != len(lam):
                raise ValueError(f"{name} must have one entry per eigenvalue, n = {len(lam)}; got {len(x)}.")
        if (power < 0).any():
            raise ValueError(f"power must not be negative, got {power.min():g}. It is the square of a coefficient.")
        if (many <= 0).any():
            raise ValueError(f"multiplicity must be above zero, got {many.min():g}. Leave out entries that stand for no mode.")
        for name, value in (("lam", lam), ("power", power), ("multiplicity", many), ("label", label)):
            object.__setattr__(self, name, value)
        for name in ("rest_trace", "rest_power"):
            object.__setattr__(self, name, check.at_least_zero(name, getattr(self, name)))

    # --- where it comes from -----------------------------------------------------------------------------------------------

    @staticmethod
    @checked
    def power_law(a: float, b: float, num_modes: int, *, with_rest: bool = False) -> Spectrum:
        """lam_k = k^-b, power_k = k^-a, k = 1 ... M (the exponents of 2402.01092).

        Papers that write lam = k^-alpha, power = k^-(alpha beta + 1) have b = alpha, a = alpha beta + 1 (2409.17858).

        Args:
            a, b: exponents.
            num_modes: M.
            with_rest: count the modes beyond M too, as `rest_trace` and `rest_power`.

        Raises:
            ValueError: an exponent of 1 or below: the sum over modes has no limit.

        Example:
            >>> Spectrum.power_law(2.0, 1.5, 3).lam.round(3).tolist()
            [1.0, 0.354, 0.192]
            >>> round(Spectrum.power_law(2.0, 1.5, 100, with_rest=True).total_power, 6)  # pi^2 / 6
            1.644934
        """
        for name, value, what in (("a", a, "the power of the target"), ("b", b, "the trace of the kernel")):
            if check.positive(name, value) <= 1:
                raise ValueError(
                    f"{name} must be above 1, got {value:g}: {what} sum_k k^-{name} has no limit, so that every answer would "
                    "depend on where it is cut. For a cut that is meant, build Spectrum(lam, power) of your own."
                )
        room(40 * check.count("num_modes", num_modes), f"a spectrum of {num_modes} modes", "Take dmft.scaling.power_law.")
        k = np.arange(1.0, num_modes + 1)
        rests = (_rest_of_power_law(b, num_modes), _rest_of_power_law(a, num_modes)) if with_rest else (0.0, 0.0)
        return Spectrum(k**-b, k**-a, None, *rests)

    @staticmethod
    @checked
    def of_kernel(K: Numbers, y: Numbers) -> Spectrum:
        """Of a kernel between P points and targets there, the points standing for the distribution.

            K v_k = P lam_k v_k,   c_k = v_k . y / sqrt(P),   power_k = c_k^2 (summed over outputs)

        so that sum lam = tr K / P and sum power = |y|^2 / P.

        Args:
            K: (P, P), symmetric.
            y: (P,) or (P, C).

        Raises:
            ValueError: shapes that do not fit; K not symmetric, or with eigenvalues below zero by more than rounding.

        Example:
            >>> Spectrum.of_kernel([[2.0, 1.0], [1.0, 2.0]], [1.0, 1.0]).power.round(12).tolist()
            [1.0, 0.0]
        """
        K = check.array("K", K, 2, "(P, P)")
        y = check.array("y", y, np.ndim(y) if np.ndim(y) == 2 else 1, "(P,) or (P, C)")
        if K.shape != (len(y), len(y)):
            raise ValueError(f"K must have shape (P, P) with P = {len(y)}, the length of y; got {K.shape}.")
        if not np.allclose(K, K.T, rtol=0, atol=1e-4 * np.abs(K).max()):
            raise ValueError(f"K must be symmetric, got |K - K^T| up to {np.abs(K - K.T).max():.2g}. Pass (K + K.T) / 2.")
        lam, vectors = eigen(K)
        return Spectrum(lam, ((vectors.T @ y.reshape(len(y), -1)) ** 2).sum(1) / len(y))

    # --- what it says ------------------------------------------------------------------------------------------------------

    @property
    def num_modes(self) -> float:
        """Number of modes that the entries stand for."""
        return float(self.multiplicity.sum())

    @property
    def trace(self) -> float:
        """Sum of all eigenvalues, <K(x, x)>, the rest included."""
        return float(self.multiplicity @ self.lam + self.rest_trace)

    @property
    def total_power(self) -> float:
        """<y^2>, the rest included."""
        return float(self.multiplicity @ self.power + self.rest_power)

    @property
    def task_power(self) -> Float[np.ndarray, "entries"]:
        """(n,) share of the target's power in each entry, multiplicity power / total."""
        total = self.total_power
        if total == 0:
            raise ValueError("the target has no power in any mode: shares of it are not defined.")
        return self.multiplicity * self.power / total

    @property
    def cumulative(self) -> Float[np.ndarray, "entries"]:
        """(n,) C(k), share of the target's power in entries 1 ... k (2006.13198)."""
        return np.cumsum(self.task_power)

    @property
    def tail(self) -> Float[np.ndarray, "entries"]:
        """(n,) 1 - C(k), what is left after entry k."""
        return 1 - self.cumulative

    # --- others made of it -------------------------------------------------------------------------------------------------

    def normalized(self) -> Spectrum:
        """With eigenvalues over the trace: the shape without the scale.

        Raises:
            ValueError: the trace is zero.
        """
        if self.trace == 0:
            raise ValueError("the trace is zero: a kernel that vanishes cannot be normalised.")
        return replace(self, lam=self.lam / self.trace, rest_trace=self.rest_trace / self.trace)

    @checked
    def truncated(self, num_entries: int) -> Spectrum:
        """The first entries alone; trace and power of the others go to the rests.

        Example:
            >>> Spectrum.power_law(2.0, 2.0, 5).truncated(2).rest_trace == sum(k**-2.0 for k in (3, 4, 5))
            True
        """
        n = check.count("num_entries", num_entries)
        many, label = self.multiplicity, self.label
        return Spectrum(
            self.lam[:n],
            self.power[:n],
            many[:n],
            self.rest_trace + float(many[n:] @ self.lam[n:]),
            self.rest_power + float(many[n:] @ self.power[n:]),
            None if label is None else label[:n],
        )

    @checked
    def binned(self, per_decade: int = 32) -> Spectrum:
        """Neighbouring entries merged, so that a million modes cost a few hundred.

        A bin is one range of 1 / per_decade in log10 lam, and stands for all its modes with their mean eigenvalue and mean
        power; trace and power are kept exactly. A formula of relative slope of order one in log lam is off by about
        (2.3 / per_decade)^2 / 12 relative, 4e-4 for 32. Labels are dropped.

        Example:
            >>> spectrum = Spectrum.power_law(2.0, 1.5, 1_000_000)
            >>> len(spectrum.binned().lam) < 300
            True
        """
        check.count("per_decade", per_decade)
        top = self.lam[0] or 1.0
        with np.errstate(divide="ignore"):
            index = np.where(self.lam > 0, -np.floor(per_decade * np.log10(self.lam / top)), np.inf)
        _, start = np.unique(index, return_index=True)
        many = np.add.reduceat(self.multiplicity, start)
        lam, power = (np.add.reduceat(self.multiplicity * x, start) / many for x in (self.lam, self.power))
        return Spectrum(lam, power, many, self.rest_trace, self.rest_power)

    def __str__(self) -> str:
        lines = [
            f"spectrum of {self.num_modes:.6g} modes in {len(self.lam)} entries: trace {self.trace:.4g}, power "
            f"{self.total_power:.4g} (left out: {self.rest_trace:.2g}, {self.rest_power:.2g})",
            "   entry         lam   modes   C(k)",
        ]
        cumulative = self.cumulative if self.total_power else np.full(len(self.lam), np.nan)
        for k in np.unique(np.geomspace(1, len(self.lam), 8).round().astype(int)) - 1:
            name = k + 1 if self.label is None else self.label[k]
            lines.append(f"{name!s:>8s} {self.lam[k]:11.4g} {self.multiplicity[k]:7.4g}   {cumulative[k]:.4f}")
        return "\n".join(lines)


def eigen(
    K: Float[np.ndarray, "*runs points points"],
) -> tuple[Float[np.ndarray, "*runs points"], Float[np.ndarray, "*runs points points"]]:
    """(..., P) eigenvalues of K / P, largest first, and their vectors (..., P, k); those that are rounding are set to zero.

    Raises:
        ValueError: eigenvalues below zero by more than rounding.
    """
    values, vectors = np.linalg.eigh(np.asarray(K, dtype=np.float64) / K.shape[-1])
    values, vectors = values[..., ::-1], vectors[..., ::-1]
    worst = float((values[..., -1] + NEGATIVE * np.abs(values[..., 0])).min())
    if worst < 0:
        raise ValueError(
            f"a kernel has no negative eigenvalues, this one has {values[..., -1].min():.3g} beside "
            f"{values[..., 0].max():.3g}. Was a difference of kernels passed, or points of two sets against each other?"
        )
    return np.maximum(values, 0.0), vectors


def _rest_of_power_law(exponent: float, num_modes: int) -> float:
    """sum_{k > M} k^-exponent."""
    from scipy.special import zeta  # imported where used: it costs a quarter of a second

    return float(zeta(exponent, num_modes + 1))
