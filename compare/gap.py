"""How far apart two results are, by relative error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from compare import given
from widthwise import Result, Trajectory, check
from widthwise.checked import checked


@dataclass(frozen=True)
class Gap:
    """Relative distance of one observable between two results.

    Attributes:
        name: e.g. "f", "Phi^1", "G^2", "NTK".
        relative: |a - b| / |b|, Frobenius norms of the means; over |a| where b vanishes.
        noise: what sampling errors alone would make of `relative`, sqrt(sum of sem_a^2 + sem_b^2) / |b|.
    """

    name: str
    relative: float
    noise: float

    @property
    def resolved(self) -> float:
        """The relative distance with the noise taken out in quadrature; zero where noise explains it."""
        return float(np.sqrt(max(self.relative**2 - self.noise**2, 0.0)))

    def __str__(self) -> str:
        return f"{self.name:11s} relative error {self.relative:.2%}   of it sampling noise {self.noise:.2%}"


@dataclass(frozen=True)
class Gaps:
    """A `Gap` for every observable that two results share; prints as a table."""

    gaps: tuple[Gap, ...]

    def __getitem__(self, name: str) -> Gap:
        return {gap.name: gap for gap in self.gaps}[name]

    def __iter__(self) -> Iterator[Gap]:
        return iter(self.gaps)

    def __str__(self) -> str:
        return "\n".join(map(str, self.gaps))


def observables(trajectory: Trajectory) -> dict[str, Float[np.ndarray, "..."]]:
    """f, and Phi^l and G^l of every layer if they were kept, by name; a leading axis of runs stays in front."""
    out = {"f": trajectory.f}
    for kernel in ("Phi", "G"):
        stack = getattr(trajectory, kernel)
        if stack is not None and stack.size:
            out |= {f"{kernel}^{ell + 1}": stack[..., ell, :, :, :, :] for ell in range(stack.shape[-5])}
    return out


def everything(trajectory: Trajectory) -> dict[str, Float[np.ndarray, "..."]]:
    """`observables`, and by name what else was saved and has a mean: NTK, sharpness, ..."""
    more = {name: x for name, x in trajectory.more.items() if name not in Trajectory.UNAVERAGED and x.size}
    return observables(trajectory) | more


@checked
def gap(a: Result, b: Result) -> Gaps:
    """Relative errors between the means of two results, with what of them is sampling noise: of all that both have.

    Cosine alignment reads 0.997 at relative errors of 5 to 10 %; judge by this instead.

    Args:
        a, b: Results on the same steps and points: the theory and networks, in either order, relative to the theory; or two of
            a kind, relative to b.

    Raises:
        ValueError: the two are not on the same steps and points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = [finite.train(problem, width=64, num_seeds=32, seed=seed, progress=False) for seed in (0, 1)]
        >>> gap(*nets)["f"].relative < 0.5
        True
    """
    b, a = given.theory_first(b, a)
    same_points(a, b)
    means, sems = (everything(a.mean), everything(b.mean)), (everything(a.sem), everything(b.sem))
    gaps = []
    for name in means[0].keys() & means[1].keys():
        size = np.linalg.norm(means[1][name]) or np.linalg.norm(means[0][name]) or 1.0
        noise = np.sqrt(np.sum(sems[0][name] ** 2) + np.sum(sems[1][name] ** 2))
        gaps.append(Gap(name, float(np.linalg.norm(means[0][name] - means[1][name]) / size), float(noise / size)))
    return Gaps(tuple(sorted(gaps, key=lambda gap: (gap.name != "f", gap.name[:4] != "Phi^", gap.name[:2] != "G^", gap.name))))


def same_points(a: Result, b: Result) -> None:
    """Raise ValueError unless two results share steps, points and the steps of their kernels."""
    for one in (a, b):
        check.result("what is compared", one)
    for name, x, y in (
        ("steps", a.mean.steps, b.mean.steps),
        ("kernel_steps", a.mean.kernel_steps, b.mean.kernel_steps),
        ("number of points (and outputs)", a.mean.f.shape[1:], b.mean.f.shape[1:]),
    ):
        if not np.array_equal(x, y):
            raise ValueError(
                f"results to compare must share their {name}, got {np.asarray(x).tolist()} and {np.asarray(y).tolist()}. "
                "Run both on the same Problem with the same save_kernels."
            )
