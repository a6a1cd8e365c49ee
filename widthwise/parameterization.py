r"""Every power of the width N, of a matrix's fan-in F, of the depth and of gamma0: in this one file.

A weight matrix enters the network as `multiplier * W`, its entries start as `init_std * N(0, 1)`, and gradient descent
moves it at the rate `learning_rate * eta0`. Multiplying by a constant c the multiplier, by 1/c the init, and by 1/c^2 the
learning rate (1/c with Adam) changes nothing that can be seen from outside; so "mean_field" and "mup" below are one and the
same network, and "ntk" is, under gradient descent, the same network again with gamma0 replaced by gamma0 / sqrt(N).

    kind        f at width N                        limit N -> infinity at fixed eta0
    mean_field  w.phi / (gamma0 N)                  feature learning (2205.09653)
    mup         the same, as the Tensor Programs    feature learning (2203.03466, table 3)
                V table for SGD and Adam
    ntk         w.phi / (gamma0 sqrt N)             lazy: kernel gradient descent (1806.07572)
    standard    PyTorch-like: no multipliers,       none: a step blows up like N
                init 1 / fan_in, one rate

"mup" with a base width N0 (base shapes, as the mup package has it) is the standard network at N = N0, and goes from there as
"mup" does: every number of the table is standard(N0) mup(N) / mup(N0).

Adam's steps have a size of their own. Its rates here are those that move f by O(eta0) per step, as gradient descent does, and
features by O(gamma0 eta0): in "mup" the usual 1, 1 / fan_in, 1 / fan_in, times gamma0 for all but the readout.

Residual networks of L blocks h <- h + L^-alpha block(h): alpha = 1/2 is depth-muP (2309.16620), alpha = 1 CompleteP
(2505.01618); weights inside of blocks then learn at rates with a factor L^(2 alpha - 1), with Adam L^(alpha - 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from widthwise import check
from widthwise.checked import checked

Kind = Literal["mean_field", "mup", "ntk", "standard"]
Role = Literal["input", "hidden", "output", "bias", "output_bias"]
Optimizer = Literal["sgd", "adam"]
Entry = Literal["multiplier", "init_std", "learning_rate", "adam"]


class Power(NamedTuple):
    """N^N F^F gamma0^gamma0 with these exponents."""

    N: float = 0.0
    F: float = 0.0
    gamma0: float = 0.0

    def at(self, width: int, fan_in: float, gamma0: float) -> float:
        return float(width**self.N * fan_in**self.F * gamma0**self.gamma0)


class Scaling(NamedTuple):
    """How one weight matrix enters, starts and moves under gradient descent and under Adam: a row of `TABLE`."""

    multiplier: Power
    init_std: Power
    learning_rate: Power
    adam: Power


class LayerScale(NamedTuple):
    """A row of the table at one width: three numbers."""

    multiplier: float
    init_std: float
    learning_rate: float

    def rescaled(self, c: float) -> LayerScale:
        """The same network under gradient descent, with c times the multiplier.

        Example:
            >>> LayerScale(1.0, 0.5, 2.0).rescaled(2.0)
            LayerScale(multiplier=2.0, init_std=0.25, learning_rate=0.5)
        """
        c = check.positive("c", c)
        return LayerScale(self.multiplier * c, self.init_std / c, self.learning_rate / c**2)


class LimitUnit(NamedTuple):
    """How a weight enters the limit and moves, its entries being N(0, 1) at the start.

    Attributes:
        size: multiplier times initial deviation, in units of inputs^-1/2 (of a readout: 1 / inputs).
        rate: learning rate over eta0, for gradients by paths of which each is one of infinitely many neurons.
    """

    size: float
    rate: float


LARGE = 1 << 20
"""A width at which to read off what is left of the powers of N."""

ONE = Power()
MEAN_FIELD = Power(N=1, gamma0=2)
TABLE: dict[Kind, dict[Role, Scaling]] = {
    "mean_field": {
        "input": Scaling(Power(F=-0.5), ONE, MEAN_FIELD, Power(F=-0.5, gamma0=1)),
        "hidden": Scaling(Power(F=-0.5), ONE, MEAN_FIELD, Power(F=-0.5, gamma0=1)),
        "output": Scaling(Power(F=-1, gamma0=-1), ONE, MEAN_FIELD, Power(gamma0=1)),
        "bias": Scaling(ONE, ONE, MEAN_FIELD, Power(gamma0=1)),
        "output_bias": Scaling(Power(N=-0.5, gamma0=-1), ONE, MEAN_FIELD, Power(N=0.5, gamma0=1)),
    },
    "mup": {
        "input": Scaling(ONE, Power(F=-0.5), Power(N=1, F=-1, gamma0=2), Power(F=-1, gamma0=1)),
        "hidden": Scaling(ONE, Power(F=-0.5), Power(N=1, F=-1, gamma0=2), Power(F=-1, gamma0=1)),
        "output": Scaling(ONE, Power(F=-1, gamma0=-1), Power(N=1, F=-2), Power(F=-1)),
        "bias": Scaling(ONE, ONE, MEAN_FIELD, Power(gamma0=1)),
        "output_bias": Scaling(ONE, Power(N=-0.5, gamma0=-1), ONE, ONE),
    },
    "ntk": {
        "input": Scaling(Power(F=-0.5), ONE, Power(gamma0=2), Power(N=-0.5, F=-0.5, gamma0=1)),
        "hidden": Scaling(Power(F=-0.5), ONE, Power(gamma0=2), Power(N=-0.5, F=-0.5, gamma0=1)),
        "output": Scaling(Power(F=-0.5, gamma0=-1), ONE, Power(gamma0=2), Power(F=-0.5, gamma0=1)),
        "bias": Scaling(ONE, ONE, Power(gamma0=2), Power(N=-0.5, gamma0=1)),
        "output_bias": Scaling(Power(gamma0=-1), ONE, Power(gamma0=2), Power(gamma0=1)),
    },
    "standard": {
        "input": Scaling(ONE, Power(F=-0.5), ONE, ONE),
        "hidden": Scaling(ONE, Power(F=-0.5), ONE, ONE),
        "output": Scaling(ONE, Power(F=-0.5), ONE, ONE),
        "bias": Scaling(ONE, ONE, ONE, ONE),
        "output_bias": Scaling(ONE, ONE, ONE, ONE),
    },
}


@dataclass(frozen=True)
class Parameterization:
    """How weights scale with the width and the depth, and how strongly features are learned.

    Args:
        gamma0: feature-learning strength; gamma0 -> 0 is lazy (kernel) learning, gamma0 = O(1) is rich. Units of 1 / f.
        kind: a row of `TABLE`: "mean_field" or "mup" (the same network), "ntk", "standard".
        centered: train f - f(0), a frozen copy of the initial output subtracted.
        alpha: residual branches of L blocks enter as L^-alpha: 1/2 is depth-muP, 1 CompleteP, 0 leaves the depth alone. None is
            1, and 0 for kind="standard" and where there is a base_width.
        base_width: with kind="mup", the width at which the network is the standard one, whose tuned eta0 is then right at every
            width. It has gamma0 = base_width^-1/2, and rates of its own for each role.

    Raises:
        ValueError: gamma0 not above zero, unknown kind, centered not a bool, a gamma0 or base_width where the kind has none, or
            an alpha between 0 and 1/2, whose networks blow up with the depth.

    Example:
        >>> Parameterization(gamma0=2.0).scale("output", width=100, fan_in=100)
        LayerScale(multiplier=0.005, init_std=1.0, learning_rate=400.0)
        >>> Parameterization(kind="mup").scale("hidden", width=100, fan_in=100, optimizer="adam")
        LayerScale(multiplier=1.0, init_std=0.1, learning_rate=0.01)
    """

    gamma0: float = 1.0
    kind: Kind = "mean_field"
    centered: bool = True
    alpha: float | None = None
    base_width: int | None = None

    def __post_init__(self) -> None:
        cure = "For the lazy limit gamma0 -> 0 use dmft.solve(problem, method=dmft.Lazy())."
        object.__setattr__(self, "gamma0", check.positive("gamma0", self.gamma0, cure))
        check.choice("kind", self.kind, get_args(Kind))
        object.__setattr__(self, "centered", check.flag("centered", self.centered))
        if self.kind == "standard" and self.gamma0 != 1.0:
            raise ValueError(f"kind='standard' has no gamma0; leave it at 1, got {self.gamma0!r}.")
        if self.base_width is not None:
            check.count("base_width", self.base_width)
            if self.kind != "mup" or self.gamma0 != 1.0:
                raise ValueError(f"base_width goes with kind='mup' and gamma0=1, got {self.kind!r} and {self.gamma0!r}.")
        if self.alpha is not None:
            object.__setattr__(self, "alpha", check.at_least_zero("alpha", self.alpha))
            if 0 < self.alpha < 0.5:
                raise ValueError(f"alpha must be 0 (no powers of the depth) or at least 1/2, got {self.alpha:g}.")

    @staticmethod
    @checked
    def of_richness(richness: float, width: int, *, kind: Kind = "mean_field", centered: bool = True) -> Parameterization:
        """Between lazy and rich (2404.19719): gamma0 = N^{r - 1/2}, so that one step moves hidden fields by |dh| ~ N^r.

        r = 0 is the tangent kernel's parameterization ("ntk"), r = 1/2 is muP. Unlike gamma0 at fixed N it says how the network
        changes with N: each width is a Problem of its own.

        Raises:
            ValueError: a richness outside [0, 1/2], or a kind that has none.

        Example:
            >>> Parameterization.of_richness(0.25, width=10_000).gamma0
            0.1
        """
        if not check.at_least_zero("richness", richness) <= 0.5:
            raise ValueError(f"richness goes from 0 (kernel) to 1/2 (muP), got {richness!r}.")
        if kind not in ("mean_field", "mup"):
            raise ValueError(f"kind must be 'mean_field' or 'mup', got {kind!r}: the others have one richness alone.")
        width = check.count("width", width)
        return Parameterization(float(width ** (richness - 0.5)), kind, centered)

    def __repr__(self) -> str:
        alpha = "" if self.alpha is None else f", alpha={self.alpha!r}"
        base = "" if self.base_width is None else f", base_width={self.base_width!r}"
        return f"Parameterization(gamma0={self.gamma0!r}, kind={self.kind!r}, centered={self.centered!r}{alpha}{base})"

    @checked
    def scale(
        self, role: Role, *, width: int, fan_in: int, optimizer: Optimizer = "sgd", blocks: int | None = None
    ) -> LayerScale:
        """Multiplier, initial standard deviation and learning rate (in units of eta0) of one weight matrix.

        Args:
            role: what the matrix is for.
            width: N.
            fan_in: F, how many numbers each of its outputs is a sum over.
            optimizer: whose learning rate.
            blocks: for a matrix inside a residual block, the number L of blocks.
        """
        if blocks is not None:
            check.count("blocks", blocks)
        rate: Entry = "adam" if optimizer == "adam" else "learning_rate"
        a, b, c = (self._number(role, entry, width, fan_in) for entry in ("multiplier", "init_std", rate))
        if blocks is not None and self.branch_power:
            c *= blocks ** (self.branch_power - 1 if optimizer == "adam" else 2 * self.branch_power - 1)
        return LayerScale(a, b, c)

    @checked
    def in_the_limit(self, role: Role, *, fan_in: int, times: int, blocks: int | None = None) -> LimitUnit:
        """What of `scale` is left as N -> infinity, for a weight whose entries are in units of their initial deviation.

        Args:
            role: what the matrix is for.
            fan_in: how many data an input sums over; of hidden weights and readouts the sum is over `fan_in` times N.
            times: outputs over N (of a readout: inputs).
            blocks: as in `scale`.

        Example:
            >>> Parameterization(gamma0=2.0).in_the_limit("output", fan_in=1, times=1)
            LimitUnit(size=0.5, rate=4.0)
        """
        N = self.base_width or LARGE
        inputs = fan_in * N if role in ("hidden", "output") else fan_in
        scale = self.scale(role, width=N, fan_in=inputs, blocks=blocks)
        if role == "output_bias":  # starts at zero, being of order N^-1/2
            return LimitUnit(1.0, scale.learning_rate * scale.multiplier**2)
        size = scale.multiplier * scale.init_std * inputs ** (1.0 if role == "output" else 0.5)
        return LimitUnit(size, scale.learning_rate / scale.init_std**2 / (times * N))

    @checked
    def gradient_size(self, role: Role, *, width: int, fan_in: int, blocks: int | None = None) -> float:
        """How d loss / d W scales, entry by entry: what Adam's epsilon has to be compared with.

        a_l a_L b_L L^-alpha    (a, b multiplier and initial deviation; a_L b_L those of the readout)
        """
        size = self._number(role, "multiplier", width, fan_in)
        if role in ("output", "output_bias"):
            return size
        size *= self.gradient_unit(width)
        return size if blocks is None else size * self.branch(blocks)

    @checked
    def gradient_unit(self, width: int) -> float:
        """How d f / d h scales, entry by entry, for the fields h of neurons: a_L b_L, those of the readout.

        Example:
            >>> Parameterization(gamma0=2.0).gradient_unit(width=100)
            0.005
        """
        return self._number("output", "multiplier", width, width) * self._number("output", "init_std", width, width)

    def output_size(self, width: int) -> float:
        """Root mean square of f at the start, not centred, for features of mean square one: sqrt(N) a_L b_L.

        Example:
            >>> Parameterization(gamma0=2.0).output_size(width=100)
            0.05
        """
        return self.gradient_unit(width) * width**0.5

    def _number(self, role: Role, entry: Entry, width: int, fan_in: int) -> float:
        """An entry of the table at this width."""

        check.count("width", width), check.count("fan_in", fan_in)

        def at(kind: Kind, N: int, F: float) -> float:
            return getattr(TABLE[kind][role], entry).at(N, F, self.gamma0)

        if self.base_width is None:
            return at(self.kind, width, fan_in)
        grows = role in ("hidden", "output")
        base = fan_in * self.base_width / width if grows else fan_in
        return at("standard", self.base_width, base) * at("mup", width, fan_in) / at("mup", self.base_width, base)

    @property
    def branch_power(self) -> float:
        """alpha"""
        as_standard = self.kind == "standard" or self.base_width is not None
        return (0.0 if as_standard else 1.0) if self.alpha is None else self.alpha

    @checked
    def branch(self, blocks: int) -> float:
        """L^-alpha, what multiplies each of L residual branches."""
        return float(check.count("blocks", blocks) ** -self.branch_power)

    @checked
    def feature_learning_strength(self, width: int) -> float:
        """The gamma0 at which the mean-field network of this width is the same network."""
        lazy, width = self.kind in ("ntk", "standard"), check.count("width", width)
        return self.gamma0 / (width if lazy else self.base_width or 1) ** 0.5

    @property
    def limit(self) -> Literal["feature_learning", "lazy", "none"]:
        """What N -> infinity at fixed eta0 leads to."""
        if self.kind == "standard":
            return "none"
        return "lazy" if self.kind == "ntk" else "feature_learning"
