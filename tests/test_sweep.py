"""Learning-rate sweeps: losses against plain training, optima that are known, rates that diverge, and transfer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import finite
from finite import ensemble, fit
from finite.keys import key_of
from finite.sweeps import Sweep, minimum
from tests.test_networks import CHECKS
from widthwise import (
    MLP,
    Adam,
    ConvNet,
    GradientDescent,
    Parameterization,
    Problem,
    ResidualMLP,
    ResNet,
    Task,
    Transformer,
    data,
    schedules,
    tasks,
)
from widthwise.data import Stream
from widthwise.feed import batches

STREAM = data.multi_index(8, 2, 2)
FAST = "ResidualMLP, Adam"


def a_problem(**changes: Any) -> Problem:
    training = GradientDescent(0.5, 20, batch_size=8, momentum=0.5, schedule=schedules.cosine(20))
    return Problem(ResidualMLP(2, "relu"), Parameterization(), STREAM, training).replace(**changes)


def swept(problem: Problem, **settings: Any) -> Sweep:
    usual = {"rates": [0.25, 0.5, 1.0], "widths": (16,), "num_seeds": 3, "progress": False}
    return finite.sweep(problem, **usual | settings)


# --- losses -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [k if k == FAST else pytest.param(k, marks=pytest.mark.slow) for k in CHECKS])
def test_losses_are_those_of_train(name: str) -> None:
    """Every architecture at every rate and seed: the mean of what `finite.train` records over the last five of twenty steps."""
    noun, settings, stream = CHECKS[name]
    loss = "mse" if stream.kind == "values" else "cross_entropy"
    training = GradientDescent(num_steps=20, batch_size=8, loss=loss, schedule=schedules.cosine(20), **settings)
    problem = Problem(noun, Parameterization(), stream, training)
    eta0 = training.eta0
    result = swept(problem, rates=[eta0 / 2, eta0, 2 * eta0], seed=3, last=0.25)
    recorded = [
        finite.train(problem.replace(eta0=rate), width=16, num_seeds=3, seed=3, record=range(21), num_probes=2, progress=False)
        for rate in result.rates
    ]
    expected = np.array([nets.samples.loss[:, 15:20].mean(1) for nets in recorded])
    np.testing.assert_allclose(result.losses[0], expected, rtol=1e-5)
    for other in (expected[[1, 2, 0]], expected[:, [1, 2, 0]]):  # rates, seeds
        assert np.abs(result.losses[0] / other - 1).max() > 1e-4  # single ones can be near: images hardly train in 20 steps


def test_mlp_on_a_task_trains_as_an_ensemble() -> None:
    """Step by step, one network at one rate."""
    task = tasks.sphere(8, input_dim=6)
    training = GradientDescent(0.3, 18, batch_size=4, momentum=0.5, nesterov=True, weight_decay=0.01)
    problem = Problem(MLP(2, "tanh", bias=0.3), Parameterization(1.5), task, training)
    result = swept(problem, last=1e-9)
    key = jax.random.fold_in(key_of(0, 16), 2)
    shapes = ensemble.shapes_of(problem)
    state = ensemble.start(problem.architecture, problem.parameterization, training, key[None], width=16, **shapes)
    state = jax.tree.map(lambda a: a[0], state)
    program, numbers = ensemble.program_of(problem.parameterization, training), ensemble.Training.of(training)
    step = jax.jit(ensemble.step, static_argnums=0)
    losses = []
    for _, (x, y) in zip(range(18), batches(task, training), strict=False):
        state, loss = step(program, numbers, state, x, y, 1.0)
        losses.append(float(loss))
    assert result.losses[0, 2, 2] == pytest.approx(losses[-1], rel=1e-4)
    assert result.losses[0, 2, 2] != pytest.approx(losses[-2], rel=1e-2)


def test_however_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """All networks together, and five at a time, of which the last group is filled up."""
    together = swept(a_problem())
    monkeypatch.setattr(fit, "at_a_time", lambda num, size: 5)
    np.testing.assert_allclose(swept(a_problem()).losses, together.losses, rtol=1e-5)
    assert len({*together.losses.ravel().tolist()}) == 9


def test_depths() -> None:
    result = swept(a_problem(), widths=16, depths=(3, 1))
    assert (result.axis, result.sizes) == ("depth", (1, 3))
    for L, losses in zip(result.sizes, result.losses, strict=True):
        assert np.array_equal(swept(a_problem(depth=L)).losses[0], losses)
    assert not np.array_equal(result.losses[0], result.losses[1])


# --- known optima -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "kernel"), [("mean_field", lambda N: 2.0), ("standard", lambda N: 4.0 + N)])
def test_one_step_on_one_point(kind: Any, kernel: Any) -> None:
    """f = eta K y after one step of a linear network: the optimum is 1 / K, with K = 2 x.x / D or, in "standard", x.x + N."""
    task = Task(X=np.array([[1.0, -1.0, 1.0, 1.0]]), y=np.ones(1))
    problem = Problem(MLP(1, "linear"), Parameterization(kind=kind), task, GradientDescent(0.5, 2))
    result = swept(problem, rates=2.0 ** np.arange(-9, 1.25, 0.25), widths=(64, 256), num_seeds=16, last=0.5)
    for N, (rate, error) in result.optimal.items():
        assert np.log2(rate * kernel(N)) == pytest.approx(0, abs=0.05 + 4 * error)
        assert 0 < error < 0.1
    slope, error = result.drift
    assert slope == pytest.approx(np.log2(kernel(64) / kernel(256)) / 2, abs=0.03 + 4 * error)
    assert result.transfers == (kind == "mean_field")
    assert ("DOES NOT TRANSFER" in str(result)) == (kind == "standard")


def made(optima: np.ndarray, widths: tuple[int, ...] = (64, 128, 256, 512)) -> Sweep:
    """Losses that are parabolas in log2 of the rate around `optima` (widths, seeds)."""
    x = np.arange(-3, 3.5, 0.5)
    return Sweep(a_problem(), widths, None, 2.0**x, 1 + (x[:, None] - optima[:, None]) ** 2)


def test_parabolas() -> None:
    """Their optimum is exact, wherever it lies between points of the grid; so is a drift."""
    for slope in (0.0, -0.2, 0.3):
        where = 0.13 + slope * np.arange(4)
        result = made(np.tile(where[:, None], (1, 3)))
        np.testing.assert_allclose(np.log2([rate for rate, _ in result.optimal.values()]), where, atol=1e-12)
        np.testing.assert_allclose(result.drift, [slope, 0], atol=1e-12)
        np.testing.assert_allclose(result.moved, [3 * abs(slope) / 0.5, 0], atol=1e-12)
        assert result.transfers == (slope == 0.0)
        assert ("it transfers" in str(result)) == (slope == 0.0)


def test_error_bars() -> None:
    """Parabolas whose centres scatter by sigma from seed to seed: an optimum has the error sigma / sqrt(n).

    400 sweeps of four widths know it to 2 %, that of a drift to 4 %.
    """
    rng = np.random.default_rng(0)
    results = [made(0.1 + 0.2 * rng.standard_normal((4, 8))) for _ in range(400)]
    true = 0.2 / np.sqrt(8)
    errors = np.array([error for result in results for _, error in result.optimal.values()])
    places = np.log2([rate for result in results for rate, _ in result.optimal.values()])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(true, rel=0.04)
    assert places.mean() == pytest.approx(0.1, abs=4 * true / 40)
    assert places.std() == pytest.approx(true, rel=0.08)
    slopes, its = np.array([result.drift for result in results]).T
    assert np.sqrt(np.mean(its**2)) / slopes.std() == pytest.approx(1, abs=0.16)


@pytest.mark.parametrize(
    ("moved", "scatter", "verdict"),
    [
        (0.4, 0.3, "it transfers"),
        (1.0, 0.0, "IT DOES NOT TRANSFER"),
        (1.0, 0.27, "IT DOES NOT TRANSFER"),  # two steps, less two errors of 0.44: more than one
        (1.0, 0.34, "cannot tell: take more seeds"),  # 0.55: less than one
        (1.0, 0.8, "cannot tell: take more seeds"),
    ],
)
def test_verdicts(moved: float, scatter: float, verdict: str) -> None:
    """Optima that are 2 `moved` steps apart, with errors of the ends of sqrt(2 / 3) scatter / 0.5 steps (bootstrap)."""
    where = np.array([0.0, 0.0, 0.0, moved])[:, None] + scatter * np.array([1, -1, 1, -1])
    result = made(where)
    steps, error = result.moved
    assert steps == pytest.approx(2 * moved, abs=1e-9)
    assert error == pytest.approx(np.sqrt(2 / 3) * scatter / 0.5, rel=0.1)
    assert result.verdict == verdict
    assert verdict in str(result)
    assert result.transfers == (verdict == "it transfers")


def test_edges_are_marked() -> None:
    """An optimum beyond the grid is no optimum, and no verdict."""
    result = made(np.tile([[-4.0], [-4.0], [0.0], [5.0]], (1, 3)))
    assert result.at_edge.tolist() == [True, True, False, True]
    assert str(result).count("EDGE") == 3
    assert "widen the rates" in str(result)
    assert not made(np.full((4, 3), -4.0))
    assert made(np.full((4, 3), -2.0))


@pytest.mark.parametrize(
    ("y", "where"),
    [
        ([5, 1, 0, 1, 5], 2.0),
        ([5, 4, 1, 0, 1.0], 3.0),
        ([9, 4, 1, 0.25, 0.25], 3.5),
        ([3, 2, 1, np.inf, np.inf], 1.5),
        ([np.inf, np.inf, 1, 2, 3], 2.5),
        ([np.inf, np.inf, 1, np.inf, np.inf], 2.0),
        ([np.inf] * 5, 0.0),
        ([1.0] * 5, 0.0),
        ([3, 1, 1, 1, 3.0], 1.5),
    ],
)
def test_minimum(y: list[float], where: float) -> None:
    assert minimum(np.arange(5.0), np.array(y)) == pytest.approx(where)
    uneven = np.array([0.0, 1.0, 1.5, 4.0])
    assert minimum(uneven, (uneven - 1.7) ** 2) == pytest.approx(1.7)


# --- what diverges ------------------------------------------------------------------------------------------------------------


def test_a_rate_that_diverges_leaves_the_others_alone() -> None:
    problem = a_problem(num_steps=40, schedule=None, activation="linear")  # relus can die instead
    few = swept(problem, rates=[0.05, 0.1, 0.2])
    more = swept(problem, rates=[0.05, 0.1, 0.2, 1e4, 1e6])
    np.testing.assert_allclose(more.losses[:, :3], few.losses, rtol=1e-5)
    assert more.diverged.tolist() == [[0, 0, 0, 3, 3]]
    assert np.isfinite(few.losses).all()
    assert not np.isnan(more.losses).any()
    assert more.best[0] < 3
    lost = swept(problem, rates=[1e4, 1e5, 1e6])
    assert lost.at_edge.all()
    assert lost.optimal[16] == (pytest.approx(1e4), pytest.approx(0.0))
    assert "EDGE" in str(lost)
    lost.plot()


def test_one_seed_that_diverged_takes_its_rate_out() -> None:
    result = made(np.zeros((4, 3)))
    losses = result.losses.copy()
    losses[0, 6, 1] = np.inf  # at the optimum
    result = replace(result, losses=losses)
    assert result.diverged[0].tolist() == [0] * 6 + [1] + [0] * 6
    assert result.mean[0, 6] == np.inf
    assert result.best.tolist() == [5, 6, 6, 6]
    assert all(np.isfinite(result.optimal[64]))


# --- on paper and on disk -----------------------------------------------------------------------------------------------------


def test_picture() -> None:
    losses = made(np.zeros((4, 3))).losses.copy()
    losses[1, -2:] = np.inf
    figure = replace(made(np.zeros((4, 3))), losses=losses).plot()
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["64", "128", "256", "512"]
    stars = [line for line in ax.lines if line.get_marker() == "*"]
    np.testing.assert_allclose([line.get_xdata()[0] for line in stars], 1.0)
    crosses = [len(line.get_xdata()) for line in ax.lines if line.get_marker() == "x"]
    assert crosses == [0, 2, 0, 0]
    low, high = ax.get_ylim()
    assert low < 1 < 10 < high


def test_save_and_load(tmp_path: Path) -> None:
    result = swept(a_problem(), widths=16, depths=(1, 2))
    path = result.save(tmp_path / "sweep")
    back = Sweep.load(path, stream=STREAM)
    assert str(back) == str(result)
    assert np.array_equal(back.losses, result.losses)
    assert back.problem.fingerprint() == result.problem.fingerprint()
    assert (back.widths, back.depths) == ((16,), (1, 2))
    with pytest.raises(ValueError, match="another one was passed"):
        Sweep.load(path, stream=data.multi_index())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"not a file of Sweep\.save"):
        Sweep.load(path, stream=STREAM)


# --- bad input ----------------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no problem": ({"problem": None}, "problem must be a Problem"),
    "two rates": ({"rates": [0.1, 0.2]}, "at least three, above zero and rising"),
    "falling": ({"rates": [0.4, 0.2, 0.1]}, "above zero and rising"),
    "zero": ({"rates": [0.0, 0.2, 0.4]}, "above zero and rising"),
    "twice": ({"rates": [0.2, 0.2, 0.4]}, "above zero and rising"),
    "infinite": ({"rates": [0.2, 0.4, np.inf]}, "every entry of rates must be a finite number, got inf"),
    "no width": ({"widths": ()}, "widths must be different whole numbers, at least one"),
    "width twice": ({"widths": (16, 16)}, "widths must be different"),
    "width of half a neuron": ({"widths": (16.5, 32)}, "widths must be a whole number"),
    "widths and depths": ({"widths": (16, 32), "depths": (1, 2)}, "compared at one width"),
    "depth 0": ({"widths": 16, "depths": (0, 2)}, "depths must be a whole number of at least 1"),
    "depth of a ResNet": (
        {
            "problem": Problem(
                ResNet((1,)), Parameterization(), data.shapes(), GradientDescent(0.1, 2, "cross_entropy", batch_size=4)
            ),
            "widths": 16,
            "depths": (1, 2),
        },
        "no part of a Problem has a field depth",
    ),
    "one seed": ({"num_seeds": 1}, "num_seeds must be a whole number of at least 2"),
    "last": ({"last": 1.5}, "at most 1"),
    "flow": (
        {"problem": Problem(MLP(1), Parameterization(), tasks.sphere(4, input_dim=4), GradientDescent(0.1, 5, flow=True))},
        "flow is not for sweeps",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    settings, says = BAD[case]
    settings = {"problem": a_problem()} | settings
    with pytest.raises(ValueError, match=says):
        swept(**settings)


def test_one_width_has_an_optimum_and_no_drift() -> None:
    result = swept(a_problem(), widths=16)
    assert [*result.optimal] == [16]
    with pytest.raises(ValueError, match="drift is what changes between widths"):
        _ = result.drift
    assert "transfer" not in str(result)


# --- transfer: pytest -m slow tests/test_sweep.py -k transfers ----------------------------------------------------------------


def of_widths(noun: Any, optimizer: Any, rates: Any, widths: tuple[int, ...], kind: Any) -> Sweep:
    training = GradientDescent(1.0, 50, batch_size=64, optimizer=optimizer)
    problem = Problem(noun, Parameterization(kind=kind), STREAM, training)
    return finite.sweep(problem, rates=2.0 ** np.array(rates), widths=widths, num_seeds=3, last=0.4, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noun", "optimizer", "lowest", "standard"),
    [
        pytest.param(MLP(2, "relu"), None, -2, -7, id="MLP, SGD"),
        pytest.param(MLP(2, "relu"), Adam(), -4, -12, id="MLP, Adam"),
        pytest.param(ResidualMLP(2, "relu"), None, -2, -8, id="ResidualMLP, SGD"),
        pytest.param(ResidualMLP(2, "relu"), Adam(), -4, -13, id="ResidualMLP, Adam"),
    ],
)
def test_transfers(noun: Any, optimizer: Any, lowest: float, standard: float) -> None:
    """In mup the optimal rate is that of width 64 up to 1024, within a factor sqrt 2; in "standard" it falls with the width."""
    mup = of_widths(noun, optimizer, np.arange(lowest, lowest + 3.5, 0.5), (64, 256, 1024), "mup")
    assert mup, str(mup)
    assert np.ptp(mup.best) <= 1
    other = of_widths(noun, optimizer, np.arange(standard, standard + 6.5, 0.5), (64, 256), "standard")
    assert not other.transfers, str(other)
    assert not other.at_edge.any(), str(other)
    slope, error = other.drift
    assert slope + 2 * error < -0.3, str(other)


def small_images() -> Stream:
    """STREAM as images of 2 x 2 pixels with two channels."""
    return replace(
        STREAM,
        name="small images",
        input_shape=(2, 2, 2),
        source=lambda size, start: ((x.reshape(-1, 2, 2, 2), y) for x, y in STREAM.batches(size, start)),
        held_out=lambda number: (STREAM.probe(number)[0].reshape(-1, 2, 2, 2), STREAM.probe(number)[1]),
    )


def chain(vocabulary: int = 16, context: int = 4) -> Stream:
    """A Markov chain: every token has a few others that like to follow it."""
    follows = np.random.default_rng(0).dirichlet(np.full(vocabulary, 0.3), vocabulary).cumsum(1)

    def draw(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((0, seed))
        tokens = rng.integers(vocabulary, size=(1, size), dtype=np.int32)
        for _ in range(context):
            following = (rng.random((size, 1)) > follows[tokens[-1]]).sum(1)
            tokens = np.vstack([tokens, np.minimum(following, vocabulary - 1).astype(np.int32)])
        return tokens[:-1].T, tokens[1:].T

    def source(size: int, start: int) -> Any:
        for step in itertools.count(start):
            yield draw(step, size)

    return Stream("chain", (context,), vocabulary, "tokens", source, lambda number: draw(2**31, number))


def check_transfer(problem: Problem, rates: Any, standard: Any) -> None:
    """mup keeps the optimum of width 64 at 1024, and it is sharp; "standard" does not keep it up to 256."""
    settings: dict[str, Any] = {"num_seeds": 3, "last": 0.4, "progress": False}
    mup = finite.sweep(problem.replace(kind="mup"), rates=2.0 ** np.array(rates), widths=(64, 1024), **settings)
    print(mup)
    assert mup, str(mup)
    assert np.ptp(mup.best) <= 1
    error = mup.losses.std(-1, ddof=1) / np.sqrt(3)
    for i, best in enumerate(mup.best):  # two steps beside it the loss is higher, by more than its error
        beside = [k for k in (best - 2, best + 2) if 0 <= k < len(mup.rates)]
        assert all(mup.mean[i, k] - mup.mean[i, best] > 2 * np.hypot(error[i, k], error[i, best]) for k in beside), str(mup)
    other = finite.sweep(problem.replace(kind="standard"), rates=2.0 ** np.array(standard), widths=(64, 256), **settings)
    print(other)
    assert not other.at_edge.any(), str(other)
    assert "DOES NOT TRANSFER" in str(other), str(other)  # by more than a step and two errors
    slope, error = other.drift
    assert slope + 3 * error < 0, str(other)


@pytest.mark.slow
def test_transfers_of_a_convolutional_network() -> None:
    problem = Problem(ConvNet(2), Parameterization(), small_images(), GradientDescent(1.0, 50, batch_size=64))
    check_transfer(problem, np.arange(1, 4, 0.5), np.arange(-5, 0.5, 0.5))


@pytest.mark.slow
def test_transfers_of_a_transformer() -> None:
    training = GradientDescent(1.0, 24, "cross_entropy", batch_size=16, optimizer=Adam())
    problem = Problem(Transformer(1), Parameterization(), chain(), training)
    check_transfer(problem, np.arange(-2.5, 0, 0.5), np.arange(-14, -6.5, 0.5))


@pytest.mark.slow
def test_transfers_over_depths() -> None:
    """With branches L^-1/2 (depth-muP) the optimal rate of 2 blocks is that of 8; with alpha = 0 it falls."""
    training = GradientDescent(1.0, 50, batch_size=64)
    problem = Problem(ResidualMLP(2, "relu"), Parameterization(alpha=0.5), STREAM, training)
    settings: dict[str, Any] = {"widths": 64, "depths": (2, 4, 8), "num_seeds": 3, "last": 0.4, "progress": False}
    right = finite.sweep(problem, rates=2.0 ** np.arange(-3, 1.5, 0.5), **settings)
    assert right, str(right)
    wrong = finite.sweep(problem.replace(alpha=0.0), rates=2.0 ** np.arange(-7, 0.5, 0.5), **settings)
    assert not wrong.at_edge.any(), str(wrong)
    slope, error = wrong.drift
    assert slope + 2 * error < -0.5, str(wrong)


def test_label_noise_is_in_the_losses() -> None:
    """Networks that stand still at f = 0, targets 0: <noise^2> / 2, whose error over 4000 labels is sigma^2 / sqrt(8000)."""
    task = Task(np.random.default_rng(0).standard_normal((200, 4)), np.zeros(200))
    for sigma in (0.0, 2.0):
        training = GradientDescent(1e-6, 200, batch_size=20, label_noise=sigma)
        problem = Problem(MLP(1, "tanh"), Parameterization(), task, training)
        found = finite.sweep(problem, rates=[1e-7, 1e-6, 1e-5], widths=8, num_seeds=2, last=1.0, progress=False).losses
        np.testing.assert_allclose(found, sigma**2 / 2, atol=3 * sigma**2 / 8000**0.5)
