"""What comparisons are given: networks under their own width, theory and networks in either order, Results and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import compare
import dmft
import finite
from compare import given, testing
from widthwise import MLP, Estimate, Fluctuations, GradientDescent, Parameterization, Problem, Result, tasks

PROBLEM = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(3, 2, input_dim=5), GradientDescent(0.3, 4))


@cache
def theory() -> Result:
    return dmft.solve(PROBLEM, save=["NTK"], progress=False)


@cache
def real() -> Result:
    return finite.train(PROBLEM, width=32, num_seeds=24, save=["NTK"], progress=False)


def of_width(N: int) -> Result:
    """Networks that say they are of width N: those of width 32, brought nearer to the limit or further from it."""
    shift = 32 / N - 1
    runs, limit = real().samples, theory().mean
    moved = runs.map(lambda x, y: x + shift * (x.mean(0) - y) + (np.sqrt(32 / N) - 1) * (x - x.mean(0)), limit)
    return replace(real(), trajectory=Estimate.of(moved), stats=real().stats | {"width": N, "parameters": 6 * N})


def fluctuations() -> Fluctuations:
    return Fluctuations(theory(), real(), None, {})


TAKE_WIDTHS: dict[str, Callable[[dict[int, Result]], Any]] = {
    "agrees": lambda nets: compare.agrees(theory(), nets),
    "extrapolate": compare.extrapolate,
    "width_scaling": compare.width_scaling,
    "width_scaling with theory": lambda nets: compare.width_scaling(nets, theory()),
    "ensemble": compare.ensemble,
    "ensemble with theory": lambda nets: compare.ensemble(nets, theory=theory()),
    "to_widest": compare.to_widest,
    "richardson": compare.richardson,
    "equal_compute": compare.equal_compute,
    "spectral": lambda nets: compare.spectral(nets, points="train"),
    "spectral with reference": lambda nets: compare.spectral(nets, theory(), points="train"),
    "deviations": lambda nets: compare.deviations(fluctuations(), nets),
    "assert_agrees": lambda nets: testing.assert_agrees(theory(), nets, detect=100.0),
    "assert_consistent": lambda nets: testing.assert_consistent_across_widths(nets, detect=100.0),
}


@pytest.mark.parametrize("name", TAKE_WIDTHS)
def test_networks_stand_under_their_own_width(name: str) -> None:
    take = TAKE_WIDTHS[name]
    right = {32: real(), 64: of_width(64), 128: of_width(128)}
    with contextlib.suppress(testing.CannotTell, AssertionError):  # too few seeds to tell; the keys were right
        take(right)
    with pytest.raises(ValueError, match="the networks under 64 have width 32: pass"):
        take({64: real(), 128: of_width(128)})
    with pytest.raises(ValueError, match="networks under 32 have width 64"):  # exchanged
        take({32: right[64], 64: right[32]})
    with pytest.raises(ValueError, match="got an exact result for width 64"):
        take({32: real(), 64: theory()})
    sampled = replace(theory(), trajectory=real().trajectory)  # a theory of replicas has no width
    with pytest.raises(ValueError, match="for width 64"):
        take({32: real(), 64: sampled})
    with pytest.raises(ValueError, match="extrapolated in 1/N from widths 32, 64 for width 128"):
        take({32: real(), 128: compare.extrapolate({32: right[32], 64: right[64]})})
    with pytest.raises(ValueError, match=r"\[64\] must be a Result, got None"):
        take({32: real(), 64: None})  # type: ignore[dict-item]


def test_wrong_keys_agreed() -> None:
    """What the check is for: keys are what is extrapolated by. (Made by hand, nothing is known of their width.)"""
    bare = {N: replace(of_width(N), stats={}, provenance={}) for N in (32, 64, 128)}
    off = [
        np.abs(compare.extrapolate(dict(zip(keys, bare.values(), strict=True))).mean.f - theory().mean.f).max()
        for keys in ((32, 64, 128), (16, 64, 128))
    ]
    assert off[0] < 1e-6 < 1e-4 < off[1]  # these differ from the limit by a term in 1/N alone


def test_results_know_what_they_are_of() -> None:
    sampled = dmft.solve(PROBLEM, dmft.March(64), progress=False)
    assert [given.width_of(x) for x in (real(), theory(), sampled)] == [32, None, None]
    assert [given.is_theory(x) for x in (theory(), sampled, real(), None, {})] == [True, True, False, False, False]
    assert not given.is_theory(compare.extrapolate({32: real(), 64: of_width(64)}))
    unknown = replace(real(), stats={}, provenance={})
    assert not given.is_theory(unknown)


@pytest.mark.parametrize("exact", [True, False])
def test_either_order(exact: bool) -> None:
    """Theory first or networks first; by the theory, exact or with replicas, relative errors and amplitudes are measured."""
    limit = theory() if exact else dmft.solve(PROBLEM, dmft.March(64), save=["NTK"], progress=False)
    by_width = {32: real(), 64: of_width(64)}
    for nets in (real(), by_width):
        a, b = compare.agrees(limit, nets), compare.agrees(nets, limit)
        assert str(a) == str(b)
        assert [s.difference for s in a.statistics] == [s.difference for s in b.statistics]
    doubled = replace(real(), trajectory=Estimate.of(real().samples.map(lambda x: 3 * x)))
    for gap in (compare.gap(limit, doubled), compare.gap(doubled, limit)):
        assert gap["Phi^1"].relative == pytest.approx(2, abs=0.5)  # of the theory: 3 - 1; of the networks it would be 2 / 3
    runs = compare.alignment_of_runs(real(), limit)
    assert runs.shape == (24, 1, 2)
    assert np.array_equal(compare.alignment_of_runs(limit, real()), runs)
    scaling = [compare.width_scaling(*pair, num_resamples=20).bias2 for pair in ((by_width, limit), (limit, by_width))]
    assert np.array_equal(*scaling)
    spectra = [compare.spectral(*pair, points="train")[0].ratio for pair in ((by_width, limit), (limit, by_width))]
    assert np.array_equal(*spectra)
    assert str(compare.deviations(fluctuations(), by_width)) == str(compare.deviations(by_width, fluctuations()))


def test_two_of_a_kind_keep_their_order() -> None:
    """Networks and networks: relative to the second."""
    a, b = real(), replace(real(), trajectory=Estimate.of(real().samples.map(lambda x: 2 * x)))
    assert compare.gap(a, b)["Phi^1"].relative == pytest.approx(0.5)
    assert compare.gap(b, a)["Phi^1"].relative == pytest.approx(1.0)


def test_numbers_of_samples_are_those_trained_on() -> None:
    with pytest.raises(ValueError, match="the networks under P = 4 were trained on 3 samples"):
        compare.onset({3: real(), 4: real()}, points="train")
    more = replace(real(), problem=PROBLEM.replace(task=tasks.sphere(6, 2, input_dim=5)))
    assert compare.onset({3: real(), 6: [more, more]}, np.zeros(5)).samples.tolist() == [3, 6]
    with pytest.raises(ValueError, match=r"nets\[4\] must be a Result, got None"):
        compare.onset({3: real(), 4: [None]})  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"nets\[4\] must be a Result or .*, got 7"):
        compare.onset({3: real(), 4: 7})  # type: ignore[dict-item]


ONE: list[Callable[..., Any]] = [compare.swap_test, compare.first_layer, compare.static_kernel, compare.ensemble]
TWO: list[Callable[..., Any]] = [
    compare.gap,
    compare.alignment,
    compare.alignment_of_runs,
    compare.agrees,
    compare.joint_errors,
    lambda a, b: compare.preactivations(a, b, 1),
]


@pytest.mark.parametrize("bad", [None, 3, "result", [1.0, 2.0], np.ones(3), Result])
def test_nothing_but_results(bad: Any) -> None:
    for take in ONE:
        with pytest.raises(ValueError, match=r"must be a Result"):
            take(bad)
    for two in TWO:
        for pair in ((bad, real()), (real(), bad), (bad, bad)):
            with pytest.raises(ValueError, match=r"must be a Result"):
                two(*pair)
    for name, take in TAKE_WIDTHS.items():
        with pytest.raises(ValueError, match=r"must be a |needs a dict \{width: Result\}"):
            take(bad)
        with pytest.raises(ValueError, match=r"\[32\] must be a Result|two widths or more|the value of 32 must be a Result"):
            take({32: bad, 64: bad} if "agrees" not in name else {32: bad})
    with pytest.raises(ValueError, match="theory must be a"):
        compare.deviations(bad, {32: real(), 64: of_width(64)})
    if bad is not None:
        for other in (compare.width_scaling, compare.spectral):
            with pytest.raises(ValueError, match="must be a "):
                other({32: real(), 64: of_width(64)}, bad)
        with pytest.raises(ValueError, match="theory must be a Result"):
            compare.ensemble({32: real(), 64: of_width(64)}, theory=bad)
