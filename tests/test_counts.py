"""Counts and sizes that would hang or take all memory are refused before anything is allocated, each with its cure."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import compare
import dmft
import finite
import finite.linear_models as linear
from dmft import scaling, spectra
from widthwise import (
    MLP,
    ConvNet,
    GradientDescent,
    Parameterization,
    Problem,
    Spectrum,
    Transformer,
    data,
    memory,
    schedules,
    tasks,
)

PROBLEM = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(2, 1, input_dim=4), GradientDescent(0.2, 2))
STREAMED = Problem(MLP(1, "tanh"), Parameterization(), data.multi_index(4, 1, 2), GradientDescent(0.1, 3, batch_size=4))
IMAGES = Problem(ConvNet(1), Parameterization(), data.shapes(), GradientDescent(0.1, 2, "cross_entropy", batch_size=2))
SPECTRUM = Spectrum.power_law(1.75, 1.5, 50)
TWO, EYE, ONES, MAPS = [1.0, 10.0], np.eye(3), np.ones((2, 3, 4)), np.full((3, 2, 4, 4), 0.25)
QUIET: dict[str, Any] = {"progress": False}
NETS: dict[str, Any] = {"width": 4, "num_seeds": 2, **QUIET}


def solve(method: Any = None, **changes: Any) -> Any:
    return dmft.solve(PROBLEM.replace(**changes), method, **QUIET)


def descent(n: int) -> GradientDescent:
    return GradientDescent(0.1, n)


def branch(**sizes: Any) -> Any:
    return finite.sample_branching(ONES, [1.0, 1.0, 1.0], **{"neurons": 8, "samples": 5, "burn_in": 0} | sizes)


def graph(**sizes: Any) -> Any:
    settings = {"width": 8, "copies": 8, "samples": 5, "burn_in": 0} | sizes
    return finite.sample_graph_process(EYE, EYE, [1.0, -1.0], [0, 2], **settings)


def graph_kernel(**sizes: Any) -> Any:
    return scaling.graph_kernel(EYE, EYE, [[1.0], [-1.0]], [0, 2], nu=1.0, **sizes)


CALLS: dict[str, Callable[[int], Any]] = {
    "batches": lambda n: next(data.multi_index().batches(n)),
    "batches of images": lambda n: next(data.shapes().batches(n)),
    "batches of text": lambda n: next(data.text(context=8).batches(n)),
    "probe": lambda n: data.multi_index().probe(n),
    "input_dim of a stream": lambda n: next(data.multi_index(n).batches(2)),
    "directions of a stream": lambda n: next(data.multi_index(n, n).batches(2)),
    "degree": lambda n: next(data.multi_index(4, 3, n).batches(2)),
    "sphere": lambda n: tasks.sphere(n, input_dim=4),
    "input_dim": lambda n: tasks.sphere(2, input_dim=n),
    "gaussian": lambda n: tasks.gaussian(2, n, input_dim=4),
    "whitened": lambda n: tasks.whitened(n, input_dim=n),
    "independent_features": lambda n: tasks.independent_features(n),
    "multi_index": lambda n: tasks.multi_index(2, input_dim=n, num_directions=3),
    "stream": lambda n: tasks.stream(data.multi_index().batches(4), n),
    "cosine": schedules.cosine,
    "linear": schedules.linear,
    "steps": lambda n: schedules.steps(n, [3]),
    "warmup": lambda n: schedules.warmup(n, 3),
    "step_sizes": lambda n: descent(n).step_sizes,
    "rates": lambda n: descent(2).rates(n),
    "depth": lambda n: MLP(n),
    "depth of a transformer": lambda n: Transformer(n),
    "kernel": lambda n: ConvNet(1, kernel=n),
    "steps of solve": lambda n: solve(num_steps=n),
    "steps of Lazy": lambda n: solve(dmft.Lazy(), num_steps=n),
    "steps of a march": lambda n: solve(dmft.March(64, 2), num_steps=n),
    "steps of DeepLinear": lambda n: solve(dmft.DeepLinear(), num_steps=n, activation="linear"),
    "paths": lambda n: solve(dmft.March(n, 2), depth=2),
    "replicas": lambda n: solve(dmft.March(64, n), depth=2),
    "substeps": lambda n: dmft.March(64, 2, substeps=n),
    "particles": lambda n: solve(dmft.TwoLayer(n, 2)),
    "paths of fluctuations": lambda n: dmft.fluctuations(PROBLEM, num_paths=n, **QUIET),
    "steps of fluctuations": lambda n: dmft.fluctuations(PROBLEM.replace(num_steps=n), **QUIET),
    "replicas of fluctuations": lambda n: dmft.fluctuations(PROBLEM, num_paths=64, num_replicas=n, **QUIET),
    "directions": lambda n: dmft.fluctuations(PROBLEM, num_paths=64, num_directions=n, **QUIET),
    "draws": lambda n: dmft.fluctuations(PROBLEM, num_paths=64, num_draws=n, **QUIET),
    "width": lambda n: finite.train(PROBLEM, **NETS | {"width": n}),
    "seeds": lambda n: finite.train(PROBLEM, **NETS | {"num_seeds": n}),
    "steps of networks": lambda n: finite.train(PROBLEM.replace(num_steps=n), **NETS),
    "width on a stream": lambda n: finite.train(STREAMED, **NETS | {"width": n}),
    "seeds on a stream": lambda n: finite.train(STREAMED, **NETS | {"num_seeds": n}),
    "probes": lambda n: finite.train(STREAMED, **NETS, num_probes=n),
    "batch_size": lambda n: finite.train(STREAMED.replace(batch_size=n), **NETS),
    "width of filters": lambda n: finite.train(IMAGES, **NETS | {"width": n}),
    "widths of a sweep": lambda n: finite.sweep(STREAMED, widths=[4, n], num_seeds=2, **QUIET),
    "seeds of a sweep": lambda n: finite.sweep(STREAMED, widths=[4], num_seeds=n, **QUIET),
    "depths of a sweep": lambda n: finite.sweep(STREAMED, widths=4, depths=[1, n], num_seeds=2, **QUIET),
    "steps of a sweep": lambda n: finite.sweep(STREAMED.replace(num_steps=n), widths=4, num_seeds=2, **QUIET),
    "widths of a check": lambda n: finite.coordinate_check(STREAMED, widths=[4, n], **QUIET),
    "seeds of a check": lambda n: finite.coordinate_check(STREAMED, widths=[4, 8], num_seeds=n, **QUIET),
    "probes of a check": lambda n: finite.coordinate_check(STREAMED, widths=[4, 8], num_probes=n, **QUIET),
    "max_degree": lambda n: spectra.sphere(lambda t: t, 5, {1: 1.0}, max_degree=n),
    "max_degree of rbf": lambda n: spectra.rbf(5, {1: 1.0}, max_degree=n),
    "num_probes": lambda n: spectra.trace_of(np.log1p, lambda v: v, 12, num_probes=n),
    "size": lambda n: spectra.trace_of(np.log1p, lambda v: v, n),
    "num_modes": lambda n: Spectrum.power_law(1.75, 1.5, n),
    "entries of a power law": lambda n: scaling.power_law(1.5, 2.0, per_decade=n),
    "per_decade": lambda n: scaling.feature_flow(SPECTRUM, TWO, 1.0, per_decade=n),
    "num_nodes": lambda n: scaling.flow(SPECTRUM, TWO, num_nodes=n),
    "ridges": lambda n: scaling.optimal_ridge(SPECTRUM, [10.0], per_decade=n),
    "order": lambda n: scaling.plugin_moments(EYE, order=n),
    "repeats": lambda n: scaling.spectral_moments(EYE, order=2, repeats=n),
    "decades": lambda n: scaling.spectrum_of_moments([3.0, 5.0, 9.0, 17.0], decades=n),
    "steps of SGD": lambda n: scaling.sgd_risk(SPECTRUM, 0.1, 2, n),
    "most": lambda n: scaling.steps_to_target(SPECTRUM, [1, 2], 1e-9, [0.01], most=n),
    "layers of a graph kernel": lambda n: graph_kernel(hidden_layers=n),
    "steps of a portrait": lambda n: scaling.phase_portrait([0.1], [0.1], 2, steps=n),
    "layers of update_sizes": lambda n: scaling.update_sizes(hidden_layers=n),
    "steps of features": lambda n: scaling.train(SPECTRUM, descent(n), num_features=40, num_samples=60),
    "num_draws": lambda n: linear.flow(SPECTRUM, TWO, num_features=10, num_samples=20, num_draws=n),
    "num_features": lambda n: linear.flow(SPECTRUM, TWO, num_features=n, num_samples=20, num_draws=2),
    "num_samples": lambda n: linear.ridge_regression(SPECTRUM, n, num_features=10, num_draws=2),
    "steps of linear models": lambda n: linear.descent(SPECTRUM, descent(n), num_features=10, num_samples=20, num_draws=2),
    "features of a draw": lambda n: linear.kernel_of_draw(SPECTRUM, n),
    "neurons": lambda n: branch(neurons=n),
    "samples": lambda n: branch(samples=n),
    "burn_in": lambda n: branch(burn_in=n),
    "width of a graph": lambda n: graph(width=n),
    "samples of a graph": lambda n: graph(samples=n),
    "burn_in of a graph": lambda n: graph(burn_in=n),
    "thin": lambda n: graph(thin=n),
    "samples times thin": lambda n: graph(samples=10**4, thin=10**4) if n == 10**9 else graph(samples=n, thin=n),
    "resamples": lambda n: compare.wasserstein(np.arange(9.0), np.arange(9.0), num_resamples=n),
    "resamples of attention": lambda n: compare.attention_distance(MAPS, MAPS, num_resamples=n),
    "resamples of richardson": lambda n: compare.richardson({}, num_resamples=n),
    "resamples of width_scaling": lambda n: compare.width_scaling({}, num_resamples=n),
}

OURS = r"GiB are free\. [A-Z]|must be (a whole number in|at most)"


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with one GiB left, whose patience ends after ten seconds."""

    def ring(*_: Any) -> None:
        raise TimeoutError("it hangs")

    for name in ("machine_bytes", "available_bytes"):
        monkeypatch.setattr(memory, name, lambda: 2**30)
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("name", CALLS)
def test_an_impossible_count_is_refused_at_once(name: str) -> None:
    for n in (10**9, 10**18):
        with pytest.raises((ValueError, MemoryError)) as refused:
            CALLS[name](n)
        assert re.search(OURS, str(refused.value)), (n, refused.value)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize(
    "name", ["batches", "probe", "sphere", "cosine", "num_modes", "num_draws", "samples", "thin", "resamples"]
)
def test_what_fits_is_not_refused(name: str) -> None:
    """Negative twin."""
    CALLS[name](10)


def test_little_memory_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: 0)
    memory.room(memory.LITTLE, "a batch", "Take fewer.")
    with pytest.raises(MemoryError, match=r"a batch needs about 0\.0625 GiB, 0 GiB are free\. Take fewer\."):
        memory.room(memory.LITTLE + 1, "a batch", "Take fewer.")
