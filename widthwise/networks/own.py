"""Networks of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from widthwise import check
from widthwise.networks.backend import Net


@dataclass(frozen=True)
class Network:
    """A network that a function describes, for every width and for the limit.

    The function takes a backend `net` (`widthwise.networks.Net`: input, vectors, hidden, transposed, readout, average,
    normalize, see) and a batch x, samples first, and returns f (samples, outputs), or (samples, places, outputs) of tokens. It
    names weights and populations of neurons; the width, the last axis of every field, never appears.

    Args:
        function: (net, x) -> f.
        name: for `repr`, files and figures; by default that of the function.

    Raises:
        ValueError: not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> def looped(net, x):
        ...     h = net.input("W0", x, "stream")
        ...     for _ in range(3):
        ...         h = 0.5 * h + net.hidden("W", jnp.tanh(h), "stream", "stream")
        ...     return net.readout("w", jnp.tanh(h), "stream")
        >>> Network(looped)
        Network('looped')
    """

    function: Callable[[Net, Any], Any]
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"Network takes a function of (net, x), got {check.shown(self.function)}.")
        object.__setattr__(self, "name", self.name or getattr(self.function, "__name__", "network"))

    @property
    def num_blocks(self) -> None:
        """Residual blocks: the description says of each weight whether it is in one."""
        return None

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless it takes samples of this shape; the recording pass says."""

    def forward(self, net: Net, x: Any) -> Any:
        """f of a batch."""
        return self.function(net, x)

    def __repr__(self) -> str:
        return f"Network({self.name!r})"
