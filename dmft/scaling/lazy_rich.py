"""The family of networks between lazy and rich: how much features move in one step, by powers of the width (2404.19719).

A network of width N and richness r in [0, 1/2] is the mean-field network with gamma0 = N^{r - 1/2}
(`widthwise.Parameterization.of_richness`): r = 0 is the tangent kernel's parameterization, r = 1/2 is muP. A step of size
O(1) in the output moves the fields of a hidden layer by

    |h(1) - h(0)| ~ N^r,   |h| ~ N^{1/2}          (norms over neurons)

which follows from a table of parameterizations alone, a row of which gives a matrix its multiplier, initial deviation and
rate ~ N^-m, N^-s, N^c. For a step of gradient descent on a squared error of order one:

    field h_l           h_l ~ N^{-m - s + F/2}           F = 1 if its matrix sums over N neurons, 0 for inputs
    gradient g_l        df/dh_L ~ N^{-m_out - s_out};    g_{l-1} ~ g_l N^{-m_l - s_l + 1/2}
    step of own W_l     dh_l ~ N^{-2 m_l + c_l + F} g_l h_{l-1}^2
    step of W below     dh_l ~ N^{-m_l - s_l + 1/2} dh_{l-1} for random weights (the sum does not align with the step)
                        dh_l ~ N^{-2 m_l + c_l + 1} g_l h_{l-1} dh_{l-1}   where the rank-one change of W_l meets it, at most
    output              df ~ N^{-2 m_out + c_out + 1} h_L^2,   and sum_neurons g_L dh_L ~ N g_L dh_L (they align)
"""

from __future__ import annotations

from dataclasses import dataclass

from widthwise import check
from widthwise.checked import checked
from widthwise.parameterization import TABLE, Kind, Power, Role


@dataclass(frozen=True)
class UpdateSizes:
    """Exponents of the width N.

    Attributes:
        hidden: (L,) |dh_l| ~ N^x after one step, norm over neurons, of each hidden layer.
        fields: (L,) |h_l| ~ N^x at the start, norm over neurons.
        readout: change of the output through the readout's own step.
        features: change of the output through the last layer's.
        output: the output at the start.
    """

    hidden: tuple[float, ...]
    fields: tuple[float, ...]
    readout: float
    features: float
    output: float

    @property
    def nontrivial(self) -> bool:
        """The output moves by order one: neither nothing nor without bound."""
        return abs(max(self.readout, self.features)) < 1e-12

    @property
    def useful(self) -> bool:
        """The movement of features moves the output by order one."""
        return abs(self.features) < 1e-12

    @property
    def stable(self) -> bool:
        """Fields do not grow beyond their size at the start."""
        return all(move <= size + 1e-12 for move, size in zip(self.hidden, self.fields, strict=True))

    def __str__(self) -> str:
        hidden = ", ".join(f"{x:g}" for x in self.hidden)
        words = [name if getattr(self, name) else f"not {name}" for name in ("nontrivial", "useful", "stable")]
        return (
            f"|dh| ~ N^({hidden}), df ~ N^{self.readout:g} by the readout, N^{self.features:g} by features; f(0) ~ "
            f"N^{self.output:g}: {', '.join(words)}"
        )


@checked
def update_sizes(kind: Kind = "mean_field", *, richness: float | None = None, hidden_layers: int = 2) -> UpdateSizes:
    """Sizes of what one step of gradient descent does, from the table of parameterizations (equations above).

    Args:
        kind: row of `widthwise.parameterization.TABLE`.
        richness: r, which sets gamma0 = N^{r - 1/2} in "mean_field" and "mup"; 1/2 by default, gamma0 of order one. "ntk" and
            "standard" have none.
        hidden_layers: L.

    Raises:
        ValueError: an unknown kind, a richness outside [0, 1/2] or where the kind has none.

    Example:
        >>> update_sizes(richness=0.25).hidden
        (0.25, 0.25)
        >>> print(update_sizes("standard", hidden_layers=1))
        |dh| ~ N^(0), df ~ N^1 by the readout, N^0 by features; f(0) ~ N^0: not nontrivial, useful, stable
    """
    check.choice("kind", kind, tuple(TABLE))
    check.count("hidden_layers", hidden_layers, most=10**4)
    rich = kind in ("mean_field", "mup")
    if richness is not None:
        check.at_least_zero("richness", richness)
        if not rich or richness > 0.5:
            raise ValueError(f"richness goes from 0 to 1/2, with kind 'mean_field' or 'mup'; got {richness!r} and {kind!r}.")
    strength = (0.5 if richness is None else richness) - 0.5 if rich else 0.0

    def exponents(role: Role) -> tuple[float, float, float]:
        def of(p: Power) -> float:
            return p.N + (p.F if role != "input" else 0.0) + p.gamma0 * strength

        row = TABLE[kind][role]
        return of(row.multiplier), of(row.init_std), of(row.learning_rate)

    rows = [exponents("input"), *[exponents("hidden")] * (hidden_layers - 1)]
    m_out, s_out, c_out = exponents("output")
    fan = [0.0, *[1.0] * (hidden_layers - 1)]
    gradient = [m_out + s_out]
    for m, s, _ in reversed(rows[1:]):
        gradient.insert(0, gradient[0] + m + s + 0.5)
    field: list[float] = []
    move: list[float] = []
    for (m, s, c), F, g in zip(rows, fan, gradient, strict=True):
        below = 2 * field[-1] if field else 0.0
        own = 2 * m + c + F + below + g
        passed = [m + s + 0.5 + move[-1], 2 * m + c + 1 + g + field[-1] + move[-1]] if move else []
        field.append(m + s + F / 2 + (field[-1] if field else 0.0))
        move.append(max(own, *passed) if passed else own)
    readout = 2 * m_out + c_out + 1 + 2 * field[-1]
    return UpdateSizes(
        tuple(x + 0.5 for x in move),
        tuple(x + 0.5 for x in field),
        readout,
        1 + gradient[-1] + move[-1],
        m_out + s_out + 0.5 + field[-1],
    )
