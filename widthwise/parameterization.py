r"""Every power of the width N, of the input dimension D and of gamma0: in this one table.

A weight matrix enters the network as `multiplier * W`, its entries start as `init_std * N(0, 1)`, and gradient descent
moves it at the rate `learning_rate * eta0`. Multiplying by a constant c the multiplier, by 1/c the init, and by 1/c^2 the
learning rate changes nothing that can be seen from outside; so "mean_field" and "mup" below are one and the same network,
and "ntk" is the same network again with gamma0 replaced by gamma0 / sqrt(N).

    kind        f at width N                        limit N -> infinity at fixed eta0
    mean_field  w.phi / (gamma0 N)                  feature learning (2205.09653)
    mup         the same, as the Tensor Programs    feature learning (2203.03466, table 3)
                V table for SGD
    ntk         w.phi / (gamma0 sqrt N)             lazy: kernel gradient descent (1806.07572)
    standard    PyTorch-like: no multipliers,       none: a step blows up like N
                init 1 / fan_in, one rate
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from widthwise import check

Kind = Literal["mean_field", "mup", "ntk", "standard"]
Role = Literal["input", "hidden", "output", "bias", "output_bias"]


class Power(NamedTuple):
    """N^N D^D gamma0^gamma0 with these exponents."""

    N: float = 0.0
    D: float = 0.0
    gamma0: float = 0.0

    def at(self, width: int, input_dim: int, gamma0: float) -> float:
        return float(width**self.N * input_dim**self.D * gamma0**self.gamma0)


class Scaling(NamedTuple):
    """How one weight matrix enters, starts and moves; rows of `TABLE`, or their values at one width."""

    multiplier: Power
    init_std: Power
    learning_rate: Power


class LayerScale(NamedTuple):
    """A row of the table at one width: three numbers."""

    multiplier: float
    init_std: float
    learning_rate: float


ONE = Power()
TABLE: dict[Kind, dict[Role, Scaling]] = {
    "mean_field": {
        "input": Scaling(Power(D=-0.5), ONE, Power(N=1, gamma0=2)),
        "hidden": Scaling(Power(N=-0.5), ONE, Power(N=1, gamma0=2)),
        "output": Scaling(Power(N=-1, gamma0=-1), ONE, Power(N=1, gamma0=2)),
        "bias": Scaling(ONE, ONE, Power(N=1, gamma0=2)),
        "output_bias": Scaling(Power(N=-0.5, gamma0=-1), ONE, Power(N=1, gamma0=2)),
    },
    "mup": {
        "input": Scaling(ONE, Power(D=-0.5), Power(N=1, D=-1, gamma0=2)),
        "hidden": Scaling(ONE, Power(N=-0.5), Power(gamma0=2)),
        "output": Scaling(ONE, Power(N=-1, gamma0=-1), Power(N=-1)),
        "bias": Scaling(ONE, ONE, Power(N=1, gamma0=2)),
        "output_bias": Scaling(ONE, Power(N=-0.5, gamma0=-1), ONE),
    },
    "ntk": {
        "input": Scaling(Power(D=-0.5), ONE, Power(gamma0=2)),
        "hidden": Scaling(Power(N=-0.5), ONE, Power(gamma0=2)),
        "output": Scaling(Power(N=-0.5, gamma0=-1), ONE, Power(gamma0=2)),
        "bias": Scaling(ONE, ONE, Power(gamma0=2)),
        "output_bias": Scaling(Power(gamma0=-1), ONE, Power(gamma0=2)),
    },
    "standard": {
        "input": Scaling(ONE, Power(D=-0.5), ONE),
        "hidden": Scaling(ONE, Power(N=-0.5), ONE),
        "output": Scaling(ONE, Power(N=-0.5), ONE),
        "bias": Scaling(ONE, ONE, ONE),
        "output_bias": Scaling(ONE, ONE, ONE),
    },
}


@dataclass(frozen=True)
class Parameterization:
    """How weights scale with the width, and how strongly features are learned.

    Args:
        gamma0: feature-learning strength; gamma0 -> 0 is lazy (kernel) learning, gamma0 = O(1) is rich. Units of 1 / f.
        kind: a row of `TABLE`: "mean_field" or "mup" (the same network), "ntk", "standard".
        centered: train f - f(0), a frozen copy of the initial output subtracted.

    Raises:
        ValueError: gamma0 not above zero, unknown kind, centered not a bool, or a gamma0 where the kind has none.

    Example:
        >>> Parameterization(gamma0=2.0).scale("output", width=100, input_dim=9)
        LayerScale(multiplier=0.005, init_std=1.0, learning_rate=400.0)
    """

    gamma0: float = 1.0
    kind: Kind = "mean_field"
    centered: bool = True

    def __post_init__(self) -> None:
        cure = "For the lazy limit gamma0 -> 0 use dmft.solve(problem, method=dmft.Lazy())."
        object.__setattr__(self, "gamma0", check.positive("gamma0", self.gamma0, cure))
        check.choice("kind", self.kind, get_args(Kind))
        object.__setattr__(self, "centered", check.flag("centered", self.centered))
        if self.kind == "standard" and self.gamma0 != 1.0:
            raise ValueError(f"kind='standard' has no gamma0; leave it at 1, got {self.gamma0!r}.")

    def scale(self, role: Role, *, width: int, input_dim: int) -> LayerScale:
        """Multiplier, initial standard deviation and learning rate (in units of eta0) of one weight matrix."""
        return LayerScale(*(power.at(width, input_dim, self.gamma0) for power in TABLE[self.kind][role]))

    def feature_learning_strength(self, width: int) -> float:
        """The gamma0 at which the mean-field network of this width is the same network."""
        return self.gamma0 / width**0.5 if self.kind in ("ntk", "standard") else self.gamma0

    @property
    def limit(self) -> Literal["feature_learning", "lazy", "none"]:
        """What N -> infinity at fixed eta0 leads to."""
        if self.kind == "standard":
            return "none"
        return "lazy" if self.kind == "ntk" else "feature_learning"
