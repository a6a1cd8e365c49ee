"""What comparisons are given: Results, ensembles by width, a theory and its networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from widthwise import Result, check

Either = Annotated[Any, Result | Mapping[int, Result]]
"""A theory, or networks: arguments that may change places."""


def width_of(net: Result) -> int | None:
    """N of networks; None of a theory, of what was extrapolated, and of Results made by hand, which do not say."""
    return net.stats.get("width")


def is_theory(value: Any) -> bool:
    """Whether a Result is known to be of a theory: it is exact, or says its method and has no width."""
    if not isinstance(value, Result):
        return False
    return value.trajectory.n == 0 or ("method" in value.provenance and not {"width", "widths"} & {*value.stats})


def by_width(nets: Any, what: str, least: int = 2) -> dict[int, Result]:
    """Ensembles by rising width, each under the width that it has.

    Raises:
        ValueError: not a dict of `least` Results or more; a key that is not the width of its networks; not networks.
    """
    if not isinstance(nets, Mapping) or len(nets) < least:
        got = len(nets) if isinstance(nets, Mapping) else f"{nets!r:.60}"
        widths = "two widths" if least > 1 else "one width"
        raise ValueError(f"{what} needs a dict {{width: Result}} of {widths} or more, got {got}.")
    for key, net in nets.items():
        N = check.count("every width", key)
        if is_theory(check.result(f"the value of {N}", net)) or "widths" in net.stats:
            exact = "an exact result" if net.trajectory.n == 0 else net.provenance.get("method", "")
            source = net.status.message if "widths" in net.stats else exact
            raise ValueError(f"{what} takes ensembles of networks by width, got {source} for width {N}.")
        if width_of(net) not in (None, N):
            raise ValueError(
                f"{what} takes {{width: Result}}, and the networks under {N} have width {width_of(net)}: "
                f"pass {{net.stats['width']: net for net in ...}}."
            )
    return {N: nets[N] for N in sorted(nets)}


def theory_first(theory: Any, nets: Any) -> tuple[Any, Any]:
    """The theory and its networks, in whichever order they came; two of a kind stay as they are."""
    swapped = isinstance(theory, Mapping) or (is_theory(nets) and not is_theory(theory))
    return (nets, theory) if swapped else (theory, nets)
