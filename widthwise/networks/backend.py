"""What a network is made of: the operations that its forward pass may use, whoever carries them out.

A description is a function of a backend `net` and of a batch x, samples first. It names weights and populations of neurons and
never the width, which is the last axis of every field. `finite` draws the weights of N neurons, `dmft` conditions them on their
past: to both the description is the same network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from jaxtyping import Array, Float

Start = Literal["normal", "zero", "one"]


@dataclass(frozen=True)
class Population:
    """Neurons of one kind; their number is `times` the width.

    Fields of a population have their neurons on the last axis. Those of heads have two axes: (num_heads, width / num_heads) of
    a fixed number of heads, whose channels are the neurons, and (head_dim, width / head_dim) of heads of a fixed size, which
    are themselves the neurons.

    Attributes:
        name: what weights call it.
        times: neurons over the width.
        num_heads, head_dim: of heads; neither for other neurons.
    """

    name: str
    times: int = 1
    num_heads: int | None = None
    head_dim: int | None = None

    @property
    def parts(self) -> int | None:
        """Length of the axis before the last; None where there is none."""
        return self.num_heads or self.head_dim


class Net(Protocol):
    """The backend protocol.

    Attributes:
        num_outputs: C, of the readout.
    """

    num_outputs: int

    def population(self, name: str, *, times: int = 1, num_heads: int | None = None, head_dim: int | None = None) -> str:
        """Declare a population whose number of neurons is not the width, or which are heads; gives back its name."""
        ...

    def input(self, name: str, x: Float[Array, "*sites D"], to: str) -> Float[Array, "*sites N"]:
        """W x / sqrt(D) for data x, W trainable."""
        ...

    def vectors(self, name: str, to: str, rows: int | None = None, start: Start = "normal") -> Float[Array, "*rows N"]:
        """A trainable number for every neuron: biases, gains of norms; with `rows` a table of them: embeddings, positions."""
        ...

    def hidden(
        self, name: str, x: Float[Array, "*sites n"], frm: str, to: str, *, blocks: int | None = None
    ) -> Float[Array, "*sites N"]:
        """W x / sqrt(fan in) for fields x of `frm`, or several such fields side by side (the sites that a filter sees).

        A name that stands twice is one matrix used twice. `blocks`: the weight is inside of one of so many residual blocks.
        """
        ...

    def transposed(self, name: str, x: Float[Array, "*sites N"]) -> Float[Array, "*sites n"]:
        """W^T x / sqrt(fan in of W^T) with the W of an earlier `hidden`."""
        ...

    def readout(self, name: str, x: Float[Array, "*sites N"], frm: str) -> Float[Array, "*sites C"]:
        """w x / (gamma0 fan in), w trainable; or w the table of `vectors` of that name, if there is one."""
        ...

    def output_bias(self, name: str) -> Float[Array, "C"]:
        """A trainable number for every output."""
        ...

    def average(self, x: Float[Array, "*sites N"]) -> Float[Array, "*sites 1"]:
        """The mean over the neurons, an axis of length one in their place."""
        ...

    def overlap(self, x: Float[Array, "*sites t N"], y: Float[Array, "*sites s N"]) -> Float[Array, "*sites t s"]:
        """Mean over the neurons of x_t y_s, all pairs."""
        ...

    def normalize(self, x: Float[Array, "*sites N"]) -> Float[Array, "*sites N"]:
        """Mean zero and mean square one over the neurons: layer norm without parameters."""
        ...

    def branch(self, blocks: int) -> float:
        """L^-alpha, the factor of each of L residual branches."""
        ...

    def see(self, name: str, h: Any) -> Any:
        """Give a field a name, under which results have it; of attention, (samples, heads, sites, sites), likewise."""
        ...


EPSILON = 1e-6
"""Added to mean squares of a norm."""


def normalized(net: Net, x: Any) -> Any:
    """`Net.normalize` of whoever averages."""
    y = x - net.average(x)
    return y / (net.average(y * y) + EPSILON) ** 0.5
