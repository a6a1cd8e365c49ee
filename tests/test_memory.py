"""Solves ask before they start for what they take, within a factor of 1.5; the setting that a refusal names fits."""

import os
import re
from dataclasses import replace

import pytest

import dmft
import finite
from dmft.march import March
from dmft.two_layer import TwoLayer
from finite import ensemble
from tests import peaks
from widthwise import MLP, GradientDescent, Parameterization, Problem, memory, tasks

FACTOR = 1.5
QUICK = ("march", "march, kernels", "particles, kernels")

pytestmark = pytest.mark.skipif(not os.access(peaks.RESET, os.W_OK), reason="the kernel does not tell the peak")


def agrees(asked, peak):
    return 1 / FACTOR < asked / peak < FACTOR


@pytest.fixture(scope="module")
def quick():
    return peaks.in_a_process(*QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_peak(quick, name):
    one = quick[name]
    assert agrees(one["asked"], one["peak"]), one
    if "kernels" in name:  # the twin: an estimate that forgets them is seen
        assert not agrees(one["without kernels"], one["peak"]), one


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in peaks.CASES if name not in QUICK])
def test_peak_of_more(name):
    one = peaks.in_a_process(name)[name]
    assert agrees(one["asked"], one["peak"]), one


@pytest.mark.parametrize("method", [March(num_paths=2**14), TwoLayer(num_paths=2**16, quadrature=False)])
def test_a_cure_fits(method, monkeypatch):
    """8 MiB are not enough; the paths that the message names are, and twice as many are not."""
    free = 2**23
    monkeypatch.setattr(memory, "available_bytes", lambda: free)
    problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(4, input_dim=8), GradientDescent(0.1, 1))
    with pytest.raises(MemoryError, match=r"num_paths=\d+\) would take about .* GiB") as refused:
        dmft.solve(problem, method, progress=False)
    enough = int(re.search(r"num_paths=(\d+)", str(refused.value))[1])
    with pytest.raises(MemoryError):
        dmft.solve(problem, replace(method, num_paths=2 * enough), progress=False)
    dmft.solve(problem, replace(method, num_paths=enough), progress=False)


@pytest.mark.parametrize("entry", [finite.sweep, finite.coordinate_check])
def test_all_widths_fit_before_the_first_is_trained(entry, monkeypatch):
    trained = []

    def train(problem, state, eta):
        trained.append(1)
        raise RuntimeError("it trains")

    monkeypatch.setattr(ensemble, "train", train)
    problem = Problem(MLP(2, "tanh"), Parameterization(), tasks.sphere(4, input_dim=8), GradientDescent(0.1, 1))
    with monkeypatch.context() as little:
        little.setattr(memory, "available_bytes", lambda: 2**23)
        with pytest.raises(MemoryError, match="networks of width 2048 needs"):
            entry(problem, widths=(8, 2048), progress=False)
        assert not trained
    with pytest.raises(RuntimeError, match="it trains"):  # negative twin, last, as a thread of it may come late
        entry(problem, widths=(8, 16), progress=False)
