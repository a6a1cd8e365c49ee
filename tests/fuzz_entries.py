"""The public entries that `tests.fuzzing` calls, each with arguments that make sense."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import optax

import compare
import dmft
import finite
import widthwise
from compare import testing
from dmft import scaling, spectra
from finite import linear_models
from widthwise import (
    MLP,
    Estimate,
    Fluctuations,
    GradientDescent,
    KernelSpectra,
    Parameterization,
    Problem,
    Result,
    Spectrum,
    Status,
    Task,
    Trajectory,
    data,
    schedules,
    tasks,
)


@dataclass(frozen=True)
class Entry:
    """A public entry.

    Attributes:
        name: as in reports.
        call: what is called, by keyword.
        base: thunks of arguments that make sense.
        kind: "quick" or "costly".
        weight: how often it is called, for each of its arguments.
        nan: whether a NaN may be an answer (documented there).
        expected: further exceptions that are an answer.
    """

    name: str
    call: Callable[..., Any]
    base: dict[str, Callable[[], Any]]
    kind: str = "quick"
    weight: float = 1.0
    nan: bool = False
    expected: tuple[type[Exception], ...] = ()


def entry(name: str, call: Callable[..., Any], base: dict[str, Any], **more: Any) -> Entry:
    """An Entry; what is a plain function among the arguments makes an argument, the rest are arguments."""
    return Entry(name, call, {k: v if isinstance(v, cache_type) else partial(_same, v) for k, v in base.items()}, **more)


def _same(value: Any) -> Any:
    return value


cache_type = type(cache(_same))

# --- things that entries take ----------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4))
POSITIVE = X @ X.T
SPECTRUM = Spectrum.power_law(1.5, 1.5, 20)
DEGREES = Spectrum([1.0, 0.1], [1.0, 0.5], [1, 10])
TRAINING = GradientDescent(0.3, 4)
MEAN = Parameterization()
T, M = 4, 5


@cache
def task() -> Task:
    return tasks.sphere(3, 2, input_dim=4)


@cache
def problem() -> Problem:
    return Problem(MLP(1, "tanh"), Parameterization(), task(), TRAINING)


@cache
def linear() -> Problem:
    return problem().replace(activation="linear")


@cache
def swapped() -> Problem:
    features = tasks.swapped(tasks.independent_features(4, 2, input_dim=4), [1, 0, 0, 0])
    return Problem(MLP(1, "relu", bias=1.0), Parameterization(), features, TRAINING)


def drawn(width: int, runs: int = 4, of: Problem | None = None) -> Result:
    """A Result as networks have it, of random numbers with shared means."""
    of = of or problem()
    points, few = of.task.num_points, min(width, 32)
    shared, own = np.random.default_rng(1), np.random.default_rng(width)

    def numbers(*shape: int) -> np.ndarray:
        return shared.standard_normal(shape) + own.standard_normal((runs, *shape)) / np.sqrt(width)

    def kernels(*shape: int) -> np.ndarray:
        half = numbers(*shape, 2 * points, 2 * points)
        return (half @ half.swapaxes(-1, -2)).reshape(runs, *shape, 2, points, 2, points)

    f, NTK = numbers(T + 1, points), numbers(2, points, points)
    more = {"NTK": NTK @ NTK.swapaxes(-1, -2), "h": numbers(2, 1, points, few), "z": numbers(2, 1, points, few)}
    trajectory = Trajectory(
        np.arange(T + 1), f, f[..., 0] ** 2, f[..., -1] ** 2, np.array([0, T]), kernels(1), kernels(1), more
    )
    return Result(of, Estimate.of(trajectory), Status(True, "drawn"), {"width": width}, {})


@cache
def theory() -> Result:
    out = drawn(10**6, 8)
    return replace(out, stats={}, provenance={"method": "March()"})


@cache
def nets() -> dict[int, Result]:
    return {n: drawn(n) for n in (8, 16, 32)}


@cache
def net() -> Result:
    return drawn(16)


@cache
def other() -> Result:
    return drawn(32)


@cache
def swap() -> Result:
    return drawn(16, of=swapped())


@cache
def fluctuating() -> Fluctuations:
    part = theory()
    rows = {"f": RNG.standard_normal((8, 3, T + 1, M))}
    return Fluctuations(part, part, part, rows)


@cache
def folder() -> Path:
    """Files of every kind."""
    out = Path(tempfile.mkdtemp())
    net().save(out / "net.npz")
    fluctuating().save(out / "fluctuations")
    (out / "words.txt").write_text("the quick brown fox jumps over the lazy dog " * 200)
    return out


@cache
def file() -> str:
    return str(folder() / "net.npz")


@cache
def saved() -> str:
    return str(folder() / "fluctuations")


@cache
def words() -> str:
    return str(folder() / "words.txt")


@cache
def stream() -> data.Stream:
    return data.multi_index(4, 2)


@cache
def streamed() -> Problem:
    training = GradientDescent(0.1, 2, batch_size=4)
    return Problem(MLP(1, "tanh"), MEAN, stream(), training)


@cache
def posterior() -> scaling.BranchingPosterior:
    return scaling.branching_posterior(scaling.branch_kernels(X[None]), np.ones(6), 8)


@cache
def errors() -> scaling.Errors:
    return scaling.random_features(SPECTRUM, [5.0, 9.0], 7.0)


@cache
def portrait() -> scaling.PhasePortrait:
    return scaling.phase_portrait([0.1], [1e-3, 1e-2], 2, steps=50)


@cache
def as_json() -> dict[str, Any]:
    return problem().to_json()


def trajectory() -> Trajectory:
    return net().mean


def made_batches(batch_size: int, start: int) -> Any:
    yield np.ones((batch_size, 4)), np.ones((batch_size, 1))
    return 1


def made_points(number: int) -> Any:
    return np.ones((number, 4)), np.ones((number, 1))


def product_of_rows(rows: slice, columns: slice) -> np.ndarray:
    return POSITIVE[rows, columns]


def kernel_matrix(between: Any, size: Any) -> Any:
    matrix = spectra.KernelMatrix(between, size)
    return matrix(np.ones(6)), matrix.trace()


@cache
def draws() -> linear_models.Draws:
    return linear_models.flow(SPECTRUM, [1.0], 4, 5, num_draws=2)


@cache
def law() -> compare.PowerLaw:
    found = compare.fit_power_law([1.0, 2.0, 4.0], [3.0, 1.5, 0.7], [0.1, 0.1, 0.1])
    assert found is not None
    return found


@cache
def fields() -> compare.FirstLayer:
    return compare.first_layer(net())


@cache
def kernel_spectra() -> KernelSpectra:
    return KernelSpectra.of(net())


def of(make: Callable[[], Any], name: str) -> Callable[..., Any]:
    """The bound method of a thing that is made when it is needed."""

    def call(**arguments: Any) -> Any:
        return getattr(make(), name)(**arguments)

    return call


def batches(batch_size: Any, start: Any) -> Any:
    return next(stream().batches(batch_size, start))


@cache
def task_of_two() -> Task:
    return tasks.independent_features(4, 2, input_dim=4)


@cache
def flowed() -> scaling.FeatureFlow:
    return scaling.feature_flow(SPECTRUM, [1.0, 3.0, 10.0], 0.5)


POWER = {"spectrum": SPECTRUM}
ENDLESS = [(X[:2], X[:2, 0])] * 5
DEPTH = {"depth": 1, "activation": "relu"}
SCALE = {"role": "hidden", "width": 64, "fan_in": 64, "optimizer": "sgd", "blocks": 4}
VALUES = {n: (1 + 4 / n + np.zeros(4), np.full(4, 0.01)) for n in (8, 16, 32)}
SAMPLES = [1 / x + 0.01 * RNG.standard_normal(32) for x in (1, 2, 4)]
ENDED = (AssertionError, testing.CannotTell)
TRACE = float(np.trace(POSITIVE))
LABELS = {"features": X, "adjacency": np.eye(6) + 0.1, "y": np.ones((2, 1)), "labelled": [0, 3]}

COSTLY = {"kind": "costly", "weight": 0.3, "expected": (widthwise.Unsolved,)}

ENTRIES = [
    # widthwise
    entry("MLP", MLP, {"depth": 2, "activation": "tanh", "bias": 0.1}),
    entry("ConvNet", widthwise.ConvNet, {**DEPTH, "kernel": 3}),
    entry("ResidualMLP", widthwise.ResidualMLP, {**DEPTH, "block_depth": 1}),
    entry("ResNet", widthwise.ResNet, {"stages": (1, 1), "activation": "relu", "norm": False}),
    entry("Transformer", widthwise.Transformer, {"depth": 1, "num_heads": 2, "mlp_ratio": 2, "tied": False}),
    entry("ViT", widthwise.ViT, {"depth": 1, "patch": 2, "head_dim": 4, "mlp_ratio": 2}),
    entry("Adam", widthwise.Adam, {"b1": 0.9, "b2": 0.95, "epsilon": 1e-8}),
    entry(
        "GradientDescent",
        GradientDescent,
        {
            "eta0": 0.1,
            "num_steps": 4,
            "loss": "mse",
            "batch_size": 2,
            "sampling": "epochs",
            "momentum": 0.5,
            "nesterov": True,
            "weight_decay": 0.1,
            "schedule": np.ones(4),
            "layer_rates": np.ones(2),
            "label_noise": 0.1,
            "temperature": 0.0,
            "data_seed": 0,
        },
    ),
    entry("GradientDescent.batches", GradientDescent, {"eta0": 0.1, "num_steps": 2, "batches": np.zeros((3, 2), int)}),
    entry("GradientDescent.optimizer", GradientDescent, {"eta0": 0.1, "num_steps": 2, "optimizer": widthwise.Adam()}),
    entry("eta", of(lambda: TRAINING, "eta"), {"depth": 2}),
    entry("rates", of(lambda: TRAINING, "rates"), {"depth": 2}),
    entry("Parameterization", Parameterization, {"gamma0": 1.0, "kind": "mean_field", "centered": True, "base_width": 64}),
    entry("of_richness", Parameterization.of_richness, {"richness": 0.3, "width": 64, "kind": "mean_field"}),
    entry("scale", MEAN.scale, SCALE),
    entry("gradient_size", MEAN.gradient_size, {"role": "input", "width": 64, "fan_in": 8, "blocks": 2}),
    entry("gradient_unit", MEAN.gradient_unit, {"width": 64}),
    entry("branch", MEAN.branch, {"blocks": 4}),
    entry("feature_learning_strength", MEAN.feature_learning_strength, {"width": 64}),
    entry("Problem", Problem, {"architecture": MLP(1), "parameterization": MEAN, "task": task, "training": TRAINING}, weight=2),
    entry("Problem.replace", of(problem, "replace"), {"gamma0": 0.5, "eta0": 0.1, "depth": 2, "activation": "relu"}),
    entry("Task", Task, {"X": X, "y": X[:, 0], "X_test": X[:2], "y_test": X[:2, 0], "name": "task"}, weight=2),
    entry(
        "Spectrum",
        Spectrum,
        {"lam": [2.0, 1.0], "power": [1.0, 1.0], "multiplicity": [1, 2], "rest_power": 0.1, "label": [1, 2]},
    ),
    entry("Spectrum.power_law", Spectrum.power_law, {"a": 1.5, "b": 1.5, "num_modes": 20, "with_rest": False}),
    entry("Spectrum.of_kernel", Spectrum.of_kernel, {"K": POSITIVE, "y": X[:, 0]}),
    entry("Spectrum.truncated", SPECTRUM.truncated, {"num_entries": 3}),
    entry("Spectrum.binned", SPECTRUM.binned, {"per_decade": 4}),
    entry("KernelSpectra.of", KernelSpectra.of, {"result": net, "points": "train", "y": np.ones(3)}),
    entry("kernel_descent", widthwise.kernel_descent, {"problem": problem, "K": POSITIVE[:5, :5], "kernel_steps": None}),
    entry(
        "kernel_descent moving",
        widthwise.kernel_descent,
        {"problem": problem, "K": np.stack([POSITIVE[:5, :5]] * 2), "kernel_steps": [0, 3]},
    ),
    entry("Result.load", Result.load, {"path": file}),
    entry("Result.save", of(net, "save"), {"path": file, "samples": True}),
    entry("Fluctuations.load", Fluctuations.load, {"folder": saved}),
    entry("Fluctuations.covariance", of(fluctuating, "covariance"), {"a": "f", "b": "f"}),
    entry("Fluctuations.loss", of(fluctuating, "loss"), {"width": 64, "members": 2.0, "test": False}),
    entry("tasks.digits", tasks.digits, {"num_train": 4, "num_test": 2, "classes": (0, 1), "one_hot": False, "seed": 0}),
    entry("tasks.stream", tasks.stream, {"batches": ENDLESS, "num_steps": 3, "X_test": X, "y_test": X[:, 0]}),
    entry("tasks.gaussian", tasks.gaussian, {"num_train": 3, "num_test": 2, "input_dim": 4, "seed": 0}),
    entry("tasks.sphere", tasks.sphere, {"num_train": 3, "num_test": 2, "input_dim": 4, "seed": 0}),
    entry("tasks.whitened", tasks.whitened, {"num_train": 3, "input_dim": 4, "seed": 0}),
    entry(
        "tasks.multi_index",
        tasks.multi_index,
        {"num_train": 3, "num_test": 2, "input_dim": 4, "link": (lambda u: u[:, 0]), "num_directions": 2, "seed": 0},
    ),
    entry(
        "tasks.independent",
        tasks.independent_features,
        {"num_train": 4, "num_test": 2, "input_dim": 4, "margin": 1.0, "num_slabs": 2, "slab": 1.0, "noise": 0.1, "seed": 0},
    ),
    entry("tasks.swapped", tasks.swapped, {"task": task_of_two, "directions": [1, 0, 0, 0], "seed": 0}),
    entry("tasks.without", tasks.without, {"task": task, "directions": [1, 0, 0, 0]}),
    entry("schedules.warmup", schedules.warmup, {"num_steps": 5, "warmup_steps": 2}),
    entry("schedules.cosine", schedules.cosine, {"num_steps": 5, "warmup_steps": 2, "final": 0.1}),
    entry("schedules.linear", schedules.linear, {"num_steps": 5, "warmup_steps": 2, "final": 0.1}),
    entry("schedules.steps", schedules.steps, {"num_steps": 5, "at": [2], "factor": 0.5}),
    entry("Optax", widthwise.Optax, {"transformation": optax.sgd(0.1), "like": "sgd"}),
    entry("Activation", widthwise.Activation, {"name": "mine", "phi": np.tanh, "d": np.cos, "odd": True}),
    entry("Loss", widthwise.Loss, {"name": "mine", "of_sample": np.sum}),
    entry("Problem.from_json", Problem.from_json, {"data": as_json, "activation": None, "stream": None}),
    entry("equal_time", of(trajectory, "equal_time"), {"kernel": "Phi"}),
    entry("tangent_kernel", of(trajectory, "tangent_kernel"), {"Phi0": POSITIVE[:5, :5], "rates": [1.0, 1.0], "bias": 0.1}),
    entry("Result.or_raise", of(net, "or_raise"), {"throw": True}),
    # streams
    entry("data.cifar5m", data.cifar5m, {"folder": words}),
    entry("data.wikitext", data.wikitext, {"path": words, "context": 4, "tokens": "words", "max_vocab": 16, "seed": 0}),
    entry("data.image_folder", data.image_folder, {"folder": words, "size": 8, "seed": 0, "epochs": 1}),
    entry(
        "Stream",
        data.Stream,
        {
            "name": "mine",
            "input_shape": (4,),
            "num_outputs": 1,
            "kind": "values",
            "source": made_batches,
            "held_out": made_points,
            "num_held_out": 8,
            "settings": None,
        },
    ),
    entry("data.multi_index", data.multi_index, {"input_dim": 8, "num_directions": 2, "degree": 2, "seed": 0}),
    entry("data.shapes", data.shapes, {"noise": 0.3, "seed": 0}),
    entry("data.text", data.text, {"paths": words, "context": 8, "tokens": "bytes", "seed": 0}),
    entry(
        "data.from_arrays", data.from_arrays, {"x": X, "y": np.arange(6) % 2, "test": 2, "seed": 0, "epochs": 2, "name": "a"}
    ),
    entry("data.digits", data.digits, {"num_test": 297, "seed": 0, "epochs": 1}),
    entry("data.mnist", data.mnist, {"folder": words}),
    entry("data.cifar10", data.cifar10, {"folder": words}),
    entry("data.c4", data.c4, {"paths": words, "context": 8}),
    entry("stream.batches", batches, {"batch_size": 2, "start": 0}),
    entry("stream.probe", of(stream, "probe"), {"num_points": 3}),
    # spectra
    entry("spectra.learning_curve", spectra.learning_curve, {**POWER, "num_samples": [1.0, 10.0], "ridge": 0.1, "noise": 0.1}),
    entry("spectra.plateaus", spectra.plateaus, {"spectrum": DEGREES, "num_samples": [1.0, 10.0], "ridge": 0.1, "noise": 0.1}),
    entry("spectra.sphere", spectra.sphere, {"kernel": np.exp, "input_dim": 5, "power": {1: 1.0}, "max_degree": 6}),
    entry(
        "spectra.ntk",
        lambda t, **k: spectra.ntk(**k)(t),
        {"architecture": MLP(1, "relu"), "kind": "ntk", "t": np.linspace(-1, 1, 5)},
    ),
    entry("spectra.rbf", spectra.rbf, {"input_dim": 3, "power": {1: 1.0}, "data_std": 1.0, "length": 1.0, "max_degree": 6}),
    entry(
        "spectra.top",
        spectra.top,
        {"multiply": POSITIVE.__matmul__, "y": X[:, 0], "num_modes": 2, "trace": TRACE, "tol": 1e-8, "seed": 0},
    ),
    entry(
        "spectra.trace_of",
        spectra.trace_of,
        {"function": np.abs, "multiply": POSITIVE.__matmul__, "size": 6, "num_steps": 4, "num_probes": 3, "seed": 0},
    ),
    entry("spectra.static_training", spectra.static_training, {**POWER, "training": TRAINING}),
    entry("spectra.moving_loss", spectra.moving_loss, {"result": net}),
    entry("spectra.of", spectra.of, {"result": net, "points": "train", "y": np.ones(3)}),
    entry("KernelMatrix", kernel_matrix, {"between": product_of_rows, "size": 6}),
    # scaling
    entry("scaling.branch_kernels", scaling.branch_kernels, {"features": X[None], "others": X[None, :2]}),
    entry(
        "scaling.branching_posterior",
        scaling.branching_posterior,
        {"kernels": POSITIVE[None], "y": X[:, 0], "neurons": 8, "variance": 1.0, "noise": 0.1},
    ),
    entry("BranchingPosterior.mean", of(posterior, "mean"), {"kernels": POSITIVE[None, :2]}),
    entry("BranchingPosterior.variance", of(posterior, "variance"), {"kernels": POSITIVE[None, :2], "own": np.ones((1, 2))}),
    entry("scaling.sgd_risk", scaling.sgd_risk, {**POWER, "eta": [0.1, 0.2], "batch": 2, "steps": 3, "noise": 0.1}),
    entry(
        "scaling.steps_to_target",
        scaling.steps_to_target,
        {**POWER, "batches": [1, 4], "target": 0.5, "eta": [0.1, 0.3], "noise": 0.1, "most": 50},
        nan=True,
    ),
    entry("scaling.critical_batch", scaling.critical_batch, {"batches": [1, 2, 4], "steps": [10.0, 6.0, 5.0], "overhead": 0.2}),
    entry("scaling.train", scaling.train, {**POWER, "training": TRAINING, "num_features": 20, "num_samples": 30, "noise": 0.1}),
    entry(
        "scaling.train_features",
        scaling.train_features,
        {**POWER, "training": TRAINING, "gamma": 0.5, "num_features": 20, "num_samples": 30, "noise": 0.1},
    ),
    entry("scaling.feature_flow", scaling.feature_flow, {**POWER, "times": [1.0, 10.0], "gamma": 0.5, "per_decade": 5}),
    entry("FeatureFlow.exponent", of(flowed, "exponent"), {"start": 1.0, "stop": 10.0}),
    entry(
        "scaling.flow",
        scaling.flow,
        {
            **POWER,
            "times": [1.0, 10.0],
            "num_features": 20,
            "num_samples": 30,
            "noise": 0.1,
            "weight_decay": 0.01,
            "num_nodes": 16,
        },
    ),
    entry(
        "scaling.residuals",
        scaling.residuals,
        {**POWER, "times": [1.0, 10.0], "num_features": 20, "num_samples": 30, "num_nodes": 16},
    ),
    entry(
        "scaling.frontier",
        scaling.frontier,
        {
            **POWER,
            "compute": [10.0, 100.0, 1000.0],
            "num_features": [2.0, 8.0, 32.0],
            "num_samples": 50,
            "noise": 0.1,
            "num_members": 2,
        },
    ),
    entry("scaling.normalized_adjacency", scaling.normalized_adjacency, {"edges": [[0, 1], [1, 0]]}),
    entry(
        "scaling.graph_kernel",
        scaling.graph_kernel,
        {**LABELS, "nu": 1.0, "hidden_layers": 1, "noise": 0.1, "most": 5},
        weight=0.5,
    ),
    entry("scaling.update_sizes", scaling.update_sizes, {"kind": "mean_field", "richness": 0.3, "hidden_layers": 2}),
    entry("scaling.largest_rate", scaling.largest_rate, {"gamma": [0.1, 1.0], "depth": 2, "target": 1.0}),
    entry("scaling.time_to_learn", scaling.time_to_learn, {"gamma": [0.1, 1.0], "depth": 2, "target": 1.0, "left": 0.1}),
    entry(
        "scaling.phase_portrait",
        scaling.phase_portrait,
        {"gamma": [0.1], "eta": [1e-3, 1e-2], "depth": 2, "steps": 20, "target": 1.0},
    ),
    entry("PhasePortrait.edges", of(portrait, "edges"), {"loss": 0.01}, nan=True),
    entry("scaling.noisy_features", scaling.noisy_features, {**POWER, "feature_noise": 0.1}),
    entry(
        "scaling.noisy_curve", scaling.noisy_curve, {**POWER, "num_samples": [1.0, 10.0], "feature_noise": 0.1, "ridge": 0.1}
    ),
    entry(
        "scaling.onset_of_variance", scaling.onset_of_variance, {**POWER, "feature_noise": [0.1], "largest": 100.0}, nan=True
    ),
    entry("scaling.power_law", scaling.power_law, {"a": 1.5, "b": 1.5, "num_modes": 1e4, "per_decade": 4}),
    entry(
        "scaling.random_features",
        scaling.random_features,
        {**POWER, "num_samples": [5.0, 9.0], "num_features": 7.0, "ridge": 0.1, "noise": 0.1},
    ),
    entry("Errors.ensemble", of(errors, "ensemble"), {"num_features": 2, "num_data": 3}),
    entry("scaling.resolution", scaling.resolution, {**POWER, "num_samples": [5.0, 9.0], "num_features": 7.0, "ridge": 0.1}),
    entry(
        "scaling.optimal_ridge",
        scaling.optimal_ridge,
        {**POWER, "num_samples": [5.0, 9.0], "num_features": 7.0, "noise": 0.1, "per_decade": 1},
    ),
    entry("scaling.effective_dimension", scaling.effective_dimension, {"moments": [3.0, 3.0]}),
    entry("scaling.plugin_moments", scaling.plugin_moments, {"features": X, "order": 2}),
    entry(
        "scaling.spectral_moments",
        scaling.spectral_moments,
        {"features": X, "order": 2, "trial": X + 0.1, "repeats": 2, "seed": 0},
    ),
    entry(
        "scaling.spectrum_of_moments", scaling.spectrum_of_moments, {"moments": [3.0, 5.0], "error": [0.1, 0.1], "decades": 2.0}
    ),
    # networks without training
    entry(
        "linear_models.descent",
        linear_models.descent,
        {
            **POWER,
            "training": TRAINING,
            "num_features": 6,
            "num_samples": 8,
            "noise": 0.1,
            "gamma": 0.1,
            "num_draws": 2,
            "seed": 0,
        },
    ),
    entry(
        "linear_models.flow",
        linear_models.flow,
        {**POWER, "times": [1.0, 10.0], "num_features": 6, "num_samples": 8, "noise": 0.1, "num_draws": 2, "seed": 0},
    ),
    entry(
        "linear_models.ridge",
        linear_models.ridge_regression,
        {**POWER, "num_samples": 8, "num_features": 6, "ridge": [0.1, 0.2], "noise": 0.1, "num_draws": 2, "seed": 0},
    ),
    entry("linear_models.kernel_of_draw", linear_models.kernel_of_draw, {**POWER, "num_features": 6, "seed": 0}),
    entry(
        "sample_branching",
        finite.sample_branching,
        {
            "features": X[None],
            "y": X[:, 0],
            "neurons": 4,
            "samples": 3,
            "burn_in": 1,
            "variance": 1.0,
            "noise": 0.1,
            "seed": 0,
            "others": X[None, :2],
        },
    ),
    entry(
        "sample_graph_process",
        finite.sample_graph_process,
        {**LABELS, "y": np.ones(2), "width": 4, "copies": 2, "noise": 0.1, "samples": 3, "burn_in": 1, "thin": 1, "seed": 0},
    ),
    entry("Draws.mean", of(draws, "mean"), {"name": "test"}),
    entry("Draws.sem", of(draws, "sem"), {"name": "test"}),
    entry("Sweep.load", finite.Sweep.load, {"path": file}),
    entry("partial_result", finite.partial_result, {"path": file}),
    # compare
    entry("PowerLaw", of(law, "__call__"), {"x": [1.0, 2.0]}, nan=True),
    entry("compare.gap", compare.gap, {"a": net, "b": other}, weight=2),
    entry("compare.alignment", compare.alignment, {"a": net, "b": other, "kernel": "Phi"}),
    entry("compare.alignment_of_runs", compare.alignment_of_runs, {"a": net, "b": other, "kernel": "G"}),
    entry("compare.agrees", compare.agrees, {"theory": theory, "nets": nets, "alpha": 0.01}),
    entry("compare.extrapolate", compare.extrapolate, {"nets": nets, "order": 1}),
    entry("compare.richardson", compare.richardson, {"nets": nets, "num_resamples": 8, "seed": 0}),
    entry("compare.width_scaling", compare.width_scaling, {"nets": nets, "theory": theory, "num_resamples": 8, "seed": 0}),
    entry("compare.deviations", compare.deviations, {"theory": fluctuating, "nets": nets, "alpha": 0.01}),
    entry(
        "compare.ensemble",
        compare.ensemble,
        {"nets": nets, "y": np.ones(2), "loss": "mse", "average": "outputs", "theory": theory, "points": "test"},
    ),
    entry("compare.ensemble of one", compare.ensemble, {"nets": net, "sizes": [1, 2], "points": "train"}),
    entry(
        "compare.equal_compute",
        compare.equal_compute,
        {"nets": nets, "by": "neurons", "step": 4, "loss": "mse", "average": "outputs", "points": "train"},
    ),
    entry("compare.onset", compare.onset, {"nets": nets, "loss": "mse", "step": 4, "points": "train"}),
    entry("compare.to_widest", compare.to_widest, {"nets": nets, "output": "raw", "points": "train"}),
    entry("compare.spectral", compare.spectral, {"nets": nets, "reference": theory, "points": "train", "num_modes": 2}),
    entry("compare.static_kernel", compare.static_kernel, {"result": net, "step": 4, "ridge": 0.1}),
    entry(
        "compare.preactivations",
        compare.preactivations,
        {"a": net, "b": other, "layer": 1, "units": "networks", "num_resamples": 4, "seed": 0},
    ),
    entry("compare.first_layer", compare.first_layer, {"result": net, "weighted": True}),
    entry("FirstLayer.share", of(fields, "share"), {"direction": [1.0, 0.0, 0.0, 0.0]}),
    entry("compare.swap_test", compare.swap_test, {"result": swap}),
    entry("compare.joint_errors", compare.joint_errors, {"a": swap, "b": swap, "points": slice(0, 2)}),
    entry("compare.wasserstein", compare.wasserstein, {"a": X, "b": X + 1, "name": "W1", "num_resamples": 4, "seed": 0}),
    entry(
        "compare.attention_distance",
        compare.attention_distance,
        {
            "a": np.full((3, 2, 2, 2), 0.5),
            "b": np.full((4, 2, 2, 2), 0.5),
            "kind": "rms",
            "match_heads": True,
            "num_resamples": 4,
            "seed": 0,
        },
    ),
    entry("compare.kernel_similarity", compare.kernel_similarity, {"K": POSITIVE, "L": POSITIVE + np.eye(6), "kind": "cka"}),
    entry("compare.hsic", compare.hsic, {"K": POSITIVE, "L": POSITIVE + np.eye(6)}),
    entry("compare.least_squares", compare.least_squares, {"design": X, "y": X[:, 0] ** 2, "covariance": np.eye(6)}),
    entry(
        "compare.fit_power_law",
        compare.fit_power_law,
        {"x": [1.0, 2.0, 4.0], "y": [3.0, 1.5, 0.7], "y_error": [0.1, 0.1, 0.1], "floor": 0.0, "least_significance": 2.0},
        nan=True,
    ),
    entry(
        "compare.regimes",
        compare.regimes,
        {
            "steps": np.arange(4),
            "values": VALUES,
            "limit": (np.ones(4), np.full(4, 0.01)),
            "early": 0.3,
            "late": 0.6,
            "least_significance": 2.0,
        },
        nan=True,
    ),
    entry(
        "testing.assert_agrees",
        testing.assert_agrees,
        {"theory": theory, "experiment": nets, "detect": 0.5, "alpha": 0.01, "plot": None},
        expected=ENDED,
    ),
    entry(
        "testing.assert_consistent",
        testing.assert_consistent_across_widths,
        {"results": nets, "early": 0.5, "constant": 8.0, "detect": 0.5, "alpha": 0.01, "plot": None},
        expected=ENDED,
    ),
    entry(
        "testing.assert_scaling",
        testing.assert_scaling,
        {
            "x": [1, 2, 4],
            "y": [3.0, 1.5, 0.74],
            "exponent": -1.0,
            "y_error": [0.06, 0.03, 0.015],
            "num_seeds": 64,
            "corrections": False,
            "tolerance": 0.0,
            "detect": 0.3,
            "alpha": 0.01,
            "plot": None,
        },
        expected=ENDED,
    ),
    entry(
        "testing.assert_scaling samples",
        testing.assert_scaling,
        {"x": [1, 2, 4], "samples": SAMPLES, "statistic": "mean", "detect": 0.5},
        expected=ENDED,
    ),
    entry(
        "testing.problems",
        testing.problems,
        {"depths": (1, 2), "activations": ["tanh"], "gamma0": (0.5, 1.0), "num_steps": (2, 3), "full_batch": True},
    ),
    entry("testing.spectra", testing.spectra, {"size": (5, 9), "decay": (1.1, 2.0), "source": (0.5, 1.0)}),
    entry("testing.tasks", testing.tasks, {"num_train": (1, 2), "num_test": (0, 1), "input_dim": (3, 4)}),
    # training and solving: a compilation each
    entry(
        "dmft.solve",
        dmft.solve,
        {
            "problem": problem,
            "method": dmft.March(16, 2),
            "seed": 0,
            "rtol": None,
            "max_seconds": None,
            "save_kernels": [0, 4],
            "save": ["NTK"],
            "checkpoint": None,
            "progress": False,
            "throw": True,
        },
        **COSTLY,
    ),
    entry(
        "dmft.solve exact",
        dmft.solve,
        {"problem": linear, "method": dmft.DeepLinear(), "seed": 0, "save_kernels": [0, 4], "save": ["NTK"], "progress": False},
        **COSTLY,
    ),
    entry(
        "March",
        dmft.March,
        {
            "num_paths": 16,
            "num_replicas": 2,
            "tol": 1e-3,
            "dtype": "float64",
            "substeps": 1,
            "control_variate": True,
            "readout": "exact",
        },
    ),
    entry(
        "TwoLayer",
        dmft.TwoLayer,
        {"num_paths": 16, "num_replicas": 2, "quadrature": False, "control_variate": True, "dtype": "float64"},
    ),
    entry("Lazy", dmft.Lazy, {"max_nodes": 64}),
    entry(
        "dmft.fluctuations",
        dmft.fluctuations,
        {
            "problem": problem,
            "num_paths": 16,
            "num_replicas": 2,
            "tol": None,
            "bias": False,
            "num_directions": 2,
            "num_draws": 2,
            "seed": 0,
            "save_kernels": [0, 4],
            "progress": False,
        },
        **COSTLY,
    ),
    entry(
        "finite.train",
        finite.train,
        {
            "problem": problem,
            "width": 8,
            "num_seeds": 2,
            "seed": 0,
            "save_kernels": [0, 4],
            "save": ["NTK"],
            "record": None,
            "num_probes": 2,
            "checkpoint": None,
            "log": None,
            "dtype": "float32",
            "accumulate": 1,
            "memory": None,
            "progress": False,
            "throw": True,
        },
        **COSTLY,
    ),
    entry(
        "finite.train stream",
        finite.train,
        {
            "problem": streamed,
            "width": 8,
            "num_seeds": 2,
            "seed": 0,
            "save_kernels": [0, 2],
            "record": [0, 2],
            "num_probes": 2,
            "progress": False,
        },
        **COSTLY,
    ),
    entry(
        "finite.sweep",
        finite.sweep,
        {"problem": problem, "rates": [0.1, 0.2], "widths": [8, 16], "num_seeds": 2, "seed": 0, "last": 0.5, "progress": False},
        **COSTLY,
    ),
    entry(
        "finite.coordinate_check",
        finite.coordinate_check,
        {"problem": problem, "widths": [8, 16], "num_seeds": 2, "num_probes": 2, "seed": 0, "progress": False},
        **COSTLY,
    ),
]
