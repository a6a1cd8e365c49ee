"""The 1/N theory against ensembles: slope and prefactor, predicted and not fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from compare import given
from compare.gap import same_points
from compare.seeds import squares
from compare.significance import Agreement, coefficient_weights, intercept_weights, parts_of, resolved, statistic
from widthwise import Fluctuations, Result, check
from widthwise.checked import checked

Given = Annotated[Any, Fluctuations | Mapping[int, Result]]


@checked
def deviations(theory: Given, nets: Given, *, alpha: float = 0.01) -> Agreement:
    """Test that networks of several widths have the variance and the bias of the 1/N theory.

    N Var x over the seeds of each width is extrapolated in 1/N, linearly, and with a term in 1/N^2 from four widths on; N bias
    x is the coefficient of 1/N in <x_N> (with three widths or more beside one of 1/N^2), which needs no limit. Both enter by
    their amplitudes along the theory, as the means do in `agrees`.

    Args:
        theory: of `dmft.fluctuations`.
        nets: ensembles by width, two widths or more; three or more to see the bias without what is left of order 1/N^2. (The
            two may change places.)
        alpha: level of the test.

    Raises:
        ValueError: fewer than two widths or three seeds; results that do not share steps and points; nothing resolved.

    Example:
        >>> import dmft, finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 5))
        >>> theory = dmft.fluctuations(problem, num_paths=1024, progress=False)
        >>> nets = {N: finite.train(problem, width=N, num_seeds=512, progress=False) for N in (64, 128)}
        >>> bool(deviations(theory, nets))
        True
    """
    theory, nets = given.theory_first(theory, nets)
    check.instance("theory", theory, Fluctuations, "It comes from dmft.fluctuations.")
    nets = given.by_width(nets, "deviations")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha, the rate of false alarms, must lie between 0 and 1, got {alpha!r}.")
    for N, net in nets.items():
        same_points(net, theory.limit)
        if net.trajectory.n < 3:
            raise ValueError(
                f"width {N} has {net.trajectory.n} seeds: a variance over seeds with an error takes three or more."
            )
    counts = {N: net.trajectory.n for N, net in nets.items()}
    parts = {N: parts_of(net) for N, net in nets.items()}
    spreads = {N: {name: N * squares(x) for name, x in part.items()} for N, part in parts.items()}
    tests = [("N Var", theory.variance, spreads, intercept_weights(counts, 2 if len(counts) > 3 else 1))]
    if theory.bias is not None:
        tests.append(("N bias", theory.bias, parts, coefficient_weights(counts, min(len(counts) - 1, 2), 1)))
    wanted = []
    for what, result, runs, weights in tests:
        for name, reference in parts_of(result, change=False).items():
            if resolved(reference):
                wanted.append((f"{what} {name}", reference, [runs[N][name] for N in nets], [weights[N] for N in nets]))
    if not wanted:
        raise ValueError("nothing to compare: no variance or bias of the theory is resolved by its replicas.")
    statistics = tuple(statistic(*one, alpha / len(wanted)) for one in wanted)
    return Agreement(statistics, min(1.0, len(statistics) * min(s.p_value for s in statistics)), alpha)
