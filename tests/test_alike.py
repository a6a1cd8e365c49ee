"""Checks that hold whatever the data come from, a Task or a Stream; what both sides say of labels, probes, names and seeds."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

import dmft
import finite
from dmft import spectra
from finite import observe
from widthwise import MLP, ConvNet, GradientDescent, Optax, Parameterization, Problem, ResidualMLP, Task, data, tasks
from widthwise.checked import checked

X = np.random.default_rng(0).standard_normal((12, 4))
SIGNS = np.sign(X[:, 0])
LABELS = np.arange(12) % 3


def on_task(y: Any, loss: Any = "mse", x: Any = X, **form: Any) -> Problem:
    return Problem(MLP(1, "tanh"), Parameterization(**form), Task(x, y), GradientDescent(0.1, 1, loss))


def on_stream(y: Any, loss: Any = "mse", x: Any = X, **form: Any) -> Problem:
    stream = data.from_arrays(x, y, test=4)
    return Problem(MLP(1, "tanh"), Parameterization(**form), stream, GradientDescent(0.1, 1, loss, batch_size=4))


def run(problem: Problem, **settings: Any) -> Any:
    return finite.train(problem, **{"width": 4, "num_seeds": 2, "progress": False} | settings)


BOTH = pytest.mark.parametrize("on", [on_task, on_stream])
Sides = Callable[..., Problem]


# --- targets ------------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("y", [(SIGNS + 1) / 2, 0.5 * SIGNS, X[:, 0]])
def test_logistic_targets_are_signs(on: Sides, y: Any) -> None:
    with pytest.raises(ValueError, match=r"loss='logistic' needs targets \+1 and -1, got .* For 0 and 1 pass 2 y - 1"):
        run(on(y, "logistic"))


@BOTH
def test_logistic_on_signs(on: Sides) -> None:
    """Negative twin."""
    assert run(on(SIGNS, "logistic")).status.ok


def test_a_later_batch_is_looked_at_too() -> None:
    def source(batch_size: int, start: int) -> Any:
        for t in range(start, 40):
            yield np.ones((batch_size, 2)), np.full((batch_size, 1), 1.0 if t < 20 else 0.0)
        return 40

    stream = data.Stream("mine", (2,), 1, "values", source, lambda n: (np.ones((n, 2)), np.ones((n, 1))))
    problem = Problem(MLP(1), Parameterization(), stream, GradientDescent(0.1, 30, "logistic", batch_size=2))
    with pytest.raises(ValueError, match=r"batch 20 of mine: loss='logistic' needs"):
        run(problem, num_probes=2)
    assert run(problem.replace(num_steps=10), num_probes=2).status.ok  # negative twin


@BOTH
@pytest.mark.parametrize("y", [LABELS.astype(float), LABELS[:, None]])
def test_labels_of_another_form_are_told_the_cure(on: Sides, y: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)cross_entropy.*integers 0 \.\.\. C - 1"):
        on(y, "cross_entropy")


def test_labels_count_from_zero() -> None:
    """Labels 1 ... K are refused on a stream, which would give them K + 1 outputs, and warned of on a Task that has them."""
    with pytest.raises(
        ValueError, match=r"got 1 \.\.\. 3: nothing is of class 0.*Count them from 0, y - 1; or pass num_outputs=4"
    ):
        data.from_arrays(X, LABELS + 1, test=4)
    with pytest.raises(ValueError, match=r"got -1\. Targets -1 and \+1 are values: make them floats"):
        data.from_arrays(X, SIGNS.astype(int), test=4)
    with pytest.raises(ValueError, match=r"must lie in 0 \.\.\. num_outputs - 1 = 2, got 3"):
        data.from_arrays(X, LABELS + 1, test=4, num_outputs=3)
    with pytest.raises(ValueError, match="num_outputs is of classes"):
        data.from_arrays(X, LABELS + 0.5, test=4, num_outputs=3)
    assert data.from_arrays(X, LABELS, test=4).num_outputs == 3
    assert data.from_arrays(X, LABELS + 1, test=4, num_outputs=5).num_outputs == 5
    labels = np.arange(60) % 3
    x = np.random.default_rng(0).standard_normal((60, 4))
    with pytest.warns(UserWarning, match=r"no sample is of class 0.*Count them from 0: np.eye\(K\)\[labels - 1\]"):
        on_task(np.eye(4)[labels + 1], "cross_entropy", x)


def test_sets_that_lack_a_class_are_left_in_peace() -> None:
    """Negative twin: a batch, a test set, a few points without class 0; classes that nothing is of, elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels in (LABELS, LABELS[LABELS > 0], np.array([0, 2, 2]), np.array([1, 2, 2])):
            on_task(np.eye(3)[labels], "cross_entropy", np.ones((len(labels), 2)))
    stream = data.from_arrays(X, LABELS, test=(X, np.ones(12, int)))
    assert (stream.num_outputs, stream.probe(12)[1].min()) == (3, 1)
    assert data.from_arrays(X, np.where(LABELS == 1, 0, LABELS), test=4).num_outputs == 3  # digits 0 and 2


# --- numbers ------------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("x", "says"),
    [
        (X * 1e19, "whose squares overflow"),
        (np.ma.masked_greater(X, 0.5), "masked entries"),
        (X + 0j, "complex"),
    ],
)
def test_inputs_are_numbers_of_float32(on: Sides, x: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run(on(SIGNS, x=x), num_probes=4)


@pytest.mark.parametrize("noun", [MLP(1, "tanh"), ResidualMLP(1)])
@BOTH
def test_gamma0_too_small_for_the_dtype(on: Sides, noun: Any) -> None:
    lazy = on(SIGNS, gamma0=1e-6).replace(architecture=noun)
    says = r"gamma0 = 1e-06 is too small for float32 .* Pass dtype=\"float64\""
    with pytest.raises(ValueError, match=says):
        run(lazy)
    with pytest.raises(ValueError, match=says):
        finite.sweep(lazy, rates=[0.1, 0.2, 0.3], widths=4, num_seeds=2, progress=False)
    with pytest.raises(ValueError, match=says):
        finite.coordinate_check(lazy, widths=(4, 8), num_seeds=2, progress=False)
    with pytest.raises(ValueError, match=r"too small for float64 .* Raise gamma0"):
        run(lazy.replace(gamma0=1e-15), dtype="float64")
    if on is on_stream and noun == MLP(1, "tanh"):
        with pytest.raises(ValueError, match=r"too small for bfloat16 .* Pass dtype=\"float32\""):
            run(lazy.replace(gamma0=1e-3), dtype="bfloat16")
        assert run(lazy, dtype="float64").status.ok  # negative twin


def test_a_loss_that_explodes_is_no_result() -> None:
    """A million times the loss of the start is divergence, before anything overflows: networks of the theory and others."""
    for problem in (on_task(SIGNS), on_stream(SIGNS)):
        result = run(problem.replace(activation="linear", eta0=1e4), throw=False)
        assert np.isfinite(result.samples.f).all()
        assert "diverged" in result.status.message
        assert run(problem.replace(activation="linear")).status.ok  # negative twin


# --- settings -----------------------------------------------------------------------------------------------------------------


def test_probes_are_as_many_as_there_are() -> None:
    """The default is at most what is held out; more is blamed on num_probes."""
    problem = on_stream(SIGNS)
    assert run(problem).samples.f.shape == (2, 2, 4)
    assert finite.coordinate_check(problem, widths=(4, 8), num_seeds=2, progress=False).size.shape == (2, 2, 2)
    for call in (lambda n: run(problem, num_probes=n), lambda n: finite.coordinate_check(problem, widths=(4, 8), num_probes=n)):
        with pytest.raises(ValueError, match="num_probes must be at most the 4 points that arrays holds out, got 5"):
            call(5)
        with pytest.raises(ValueError, match="num_probes must be a whole number"):
            call(0)


def test_a_short_stream_says_so_at_the_start() -> None:
    stream = data.from_arrays(X, SIGNS, test=4, epochs=2)  # 16 samples
    training = GradientDescent(0.1, 3, batch_size=4)
    assert run(Problem(MLP(1), Parameterization(), stream, training)).status.ok
    with pytest.raises(
        ValueError, match="arrays ends early: 4 steps of 4 samples and a last batch to measure need 20, it has 16"
    ):
        Problem(MLP(1), Parameterization(), stream, GradientDescent(0.1, 4, batch_size=4))


@pytest.mark.parametrize("setting", [{"data_seed": 1}, {"sampling": "online"}])
def test_the_order_of_a_stream_is_its_own(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the order of a Stream is its own"):
        on_stream(SIGNS).replace(**setting)


TASK, STREAM = on_task(SIGNS), on_stream(SIGNS)
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "hessian of the theory's": (lambda: run(TASK, save=["hessian"]), "'hessian' is of networks that the theory does not solve"),
    "z of others": (lambda: run(STREAM, save=["z"]), "'z' is of an MLP on a Task"),
    "no step to save at": (lambda: run(STREAM, save=["NTK"], save_kernels=[]), r"save_kernels=\[\] keeps none"),
    "save a number": (lambda: run(STREAM, save=5e-324), "save must be text or a sequence"),
    "save a number on a task": (lambda: run(TASK, save=3), "save must be text or a sequence"),
    "record a number": (lambda: run(STREAM, record=64), "record must be a sequence"),
    "record False": (lambda: run(STREAM, record=False), "record must be a sequence"),
    "kernels at a word": (lambda: run(TASK, save_kernels=np.array("mean_field")), "save_kernels must be a sequence"),
    "kernels at a number": (lambda: run(STREAM, save_kernels=np.array(1.0)), "save_kernels must be a sequence"),
    "widths a bool": (lambda: finite.coordinate_check(STREAM, widths=True), "widths must be a sequence"),  # type: ignore[arg-type]
    "widths a date": (
        lambda: finite.sweep(STREAM, widths=datetime.date(2020, 1, 1)),
        "widths must be a whole number or a sequence",
    ),  # type: ignore[arg-type]
    "width too large": (lambda: finite.sweep(STREAM, widths=np.uint64(2**63)), "widths must be a whole number"),  # type: ignore[arg-type]
    "seed below zero": (lambda: finite.coordinate_check(STREAM, seed=-(10**20)), "seed must be a whole number"),
    "seed a half": (lambda: finite.coordinate_check(STREAM, seed=0.5), "seed must be a whole number"),  # type: ignore[arg-type]
    "theory an array": (
        lambda: finite.coordinate_check(STREAM, theory=np.array([np.inf, 1.0])),  # type: ignore[arg-type]
        "theory must be a Result",
    ),
    "a line search": (
        lambda: run(STREAM.replace(optimizer=Optax(optax.lbfgs(), like="sgd"))),
        r"gradient, state and parameters .* line search",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    make, says = BAD[case]
    with pytest.raises(ValueError, match=says):
        make()


# --- zero curvature -----------------------------------------------------------------------------------------------------------


def test_zero_curvature_is_zero() -> None:
    """Inputs zero: f is zero whatever the weights, and so are NTK, sharpness and Hessian; a bias makes them positive."""
    zeros = np.zeros((12, 4))
    for bias, flat in ((0.0, True), (0.5, False)):
        net = MLP(1, "tanh", bias=bias)
        seen = run(on_stream(SIGNS, x=zeros).replace(architecture=net), save=["sharpness", "hessian"]).samples
        of_theory = run(on_task(SIGNS, x=zeros).replace(architecture=net), save=["sharpness"]).samples
        for values in (seen["sharpness"], seen["hessian"], of_theory["sharpness"]):
            assert (values == 0).all() if flat else (values[:, 0] > 0).all()


@pytest.mark.parametrize("zeros", [1, 30, 300])
def test_top_eigenvalue_of_what_is_not_positive(zeros: int) -> None:
    """-1 ... -2 and zeros: 0. Without the zeros: the least negative one."""
    negative = -np.linspace(1, 2, 300).astype(np.float32)
    values = np.concatenate([negative, np.zeros(zeros, np.float32)])
    assert observe.top_eigenvalue(lambda v: values * v, len(values)) == 0.0
    np.testing.assert_allclose(observe.top_eigenvalue(lambda v: negative * v, 300), -1.0, rtol=1e-3)


def test_lanczos_of_a_kernel_that_is_zero() -> None:
    y = np.ones(6)
    spectrum, bound = spectra.top(lambda v: 0.0 * v, y, 2, trace=0.0)
    assert spectrum.lam.tolist() == bound.tolist() == [0.0, 0.0]
    np.testing.assert_allclose([spectrum.rest_trace, spectrum.power.sum() + spectrum.rest_power], [0.0, 1.0])
    low = np.outer(y, y)  # of rank one, asked for three modes
    spectrum, bound = spectra.top(low.__matmul__, y, 3, trace=6.0)
    np.testing.assert_allclose(spectrum.lam, [1.0, 0.0, 0.0], atol=1e-12)
    assert bound.max() < 1e-8
    assert spectra.trace_of(np.square, lambda v: 0.0 * v, 6, num_probes=2).value == 0.0


@pytest.mark.parametrize(
    "solver", ["dmft.solve", "dmft.fluctuations", "finite.train", "finite.sweep", "finite.coordinate_check"]
)
def test_inside_jit(solver: str) -> None:
    """Outside, or under a gradient that it is no part of, it runs; the message is one of ours."""
    module, name = solver.split(".")
    function = getattr({"dmft": dmft, "finite": finite}[module], name)
    given: dict[str, Any] = {"width": 4, "num_seeds": 2} if name == "train" else {}

    def loss(x: Any) -> Any:
        function(TASK, progress=False, **given)
        return 2 * x

    with pytest.raises(TypeError, match=f"{solver} computes numbers as it goes .* call it outside jax.jit"):
        jax.jit(loss)(1.0)
    if name == "train":
        assert jax.grad(loss)(1.0) == 2.0  # negative twin


def test_kernels_inside_jit() -> None:
    """Whatever is @checked says it where it needs a number; what is in closed form runs."""
    for activation, t in (("tanh", np.zeros(1)), ("relu", None)):
        with pytest.raises(TypeError, match=r"call it outside jax.jit|traced by JAX .* Call it outside"):
            jax.jit(lambda x, a=activation, t=t: spectra.ntk(MLP(1, a))(x if t is None else t))(1.0)

    @checked
    def length(x: Any) -> float:
        return float(x)

    with pytest.raises(TypeError, match=r"length computes numbers as it goes .* call it outside jax.jit"):
        jax.jit(length)(1.0)
    assert length(1.0) == 1.0
    assert jax.jit(lambda x: x * spectra.rbf(3, {0: 1.0}).trace)(1.0) == pytest.approx(1.0)


@pytest.mark.slow
def test_convolutions_of_nothing_are_flat() -> None:
    stream = data.from_arrays(np.zeros((12, 4, 4, 1)), LABELS, test=4)
    problem = Problem(ConvNet(1), Parameterization(), stream, GradientDescent(0.1, 1, "cross_entropy", batch_size=4))
    seen = run(problem, save=["sharpness", "hessian"]).samples
    assert not seen["sharpness"].any()
    assert not seen["hessian"].any()


def test_a_task_of_the_same_numbers_is_no_stream() -> None:
    """What is refused is refused for the data alone: `tasks.stream` makes a Task, with the checks of one."""
    batches = ((x, (x[:, 0] > 0) * 1.0) for x in np.split(X, 6))
    task = tasks.stream(batches, 5, X)
    with pytest.raises(ValueError, match="For 0 and 1 pass 2 y - 1"):
        Problem(MLP(1), Parameterization(), task, GradientDescent(0.1, 5, "logistic", batch_size=2, sampling="online"))
