"""The shared nouns: what they refuse and how they say so, fingerprints, activations, the table of parameterizations, tasks."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dmft
import finite
from dmft.march import March
from widthwise import MLP, Activation, Adam, GradientDescent, Loss, Parameterization, Problem, Task, tasks
from widthwise.activation import NAMED, as_activation
from widthwise.loss import as_loss
from widthwise.parameterization import TABLE
from widthwise.precision import float64

some = settings(deadline=None, derandomize=True, max_examples=25)
few = settings(deadline=None, derandomize=True, max_examples=5)

numbers = st.floats(-3, 3, allow_subnormal=False)
positive = st.floats(1e-3, 1e3)
KINDS = ("mean_field", "mup", "ntk", "standard")


@st.composite
def some_tasks(draw: Callable[..., Any]) -> Task:
    P, Q, D = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 4))
    X, y = draw(arrays(float, (P, D), elements=numbers)), draw(arrays(float, P, elements=numbers))
    X_test = draw(arrays(float, (Q, D), elements=numbers)) if Q else None
    y_test = draw(st.none() | arrays(float, Q, elements=numbers)) if Q else None
    return Task(X, y, X_test, y_test, draw(st.text(max_size=5)))


@st.composite
def some_problems(draw: Callable[..., Any]) -> Problem:
    kind = draw(st.sampled_from(KINDS))
    gamma0 = 1.0 if kind == "standard" else draw(positive)
    task, depth, T = draw(some_tasks()), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    settings = {
        "momentum": st.floats(0, 0.99),
        "weight_decay": st.floats(0, 1),
        "schedule": st.lists(st.floats(0, 2), min_size=T, max_size=T),
        "layer_rates": st.lists(st.floats(0, 2), min_size=depth + 1, max_size=depth + 1),
        "batches": arrays(int, (T + 1, 2), elements=st.integers(0, task.num_train - 1)),
        "label_noise": st.floats(0, 1),
        "data_seed": st.integers(0, 2**32 - 1),
    }
    training = {name: draw(setting) for name, setting in settings.items() if draw(st.booleans())}
    return Problem(
        MLP(depth, draw(st.sampled_from(sorted(NAMED))), draw(st.floats(0, 2))),
        Parameterization(gamma0, kind, draw(st.booleans())),
        task,
        GradientDescent(draw(positive), T, **training),
    )


def a_problem(activation: Any = "tanh", task: Task | None = None, eta0: float = 0.5, num_steps: int = 4) -> Problem:
    task = task or Task([[1.0, 0.5], [-0.5, 1.0]], [1.0, -1.0], [[0.3, 0.3]], [0.5], "made up")
    return Problem(MLP(1, activation), Parameterization(), task, GradientDescent(eta0, num_steps))


def rebuilt(problem: Problem) -> Problem:
    """An equal Problem that shares no object with the first."""
    task = problem.task
    data = [None if x is None else x.copy() for x in (task.X, task.y, task.X_test, task.y_test)]
    return Problem(
        MLP(problem.architecture.depth, problem.architecture.activation.name, problem.architecture.bias),
        Parameterization(**dataclasses.asdict(problem.parameterization)),
        Task(*data, "".join(task.name)),
        GradientDescent(**{f.name: getattr(problem.training, f.name) for f in dataclasses.fields(GradientDescent)}),
    )


# --- Problem: fingerprint, JSON, replace -----------------------------------------------------------------------------------


@some
@given(some_problems())
def test_fingerprint_of_equal_problems_is_equal(problem: Problem) -> None:
    assert re.fullmatch("[0-9a-f]{16}", problem.fingerprint())
    assert rebuilt(problem).fingerprint() == problem.fingerprint()


@some
@given(some_problems(), st.data())
def test_fingerprint_changes_with_every_bit_of_data(problem: Problem, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([k for k in ("X", "y", "X_test", "y_test") if getattr(problem.task, k) is not None]))
    value = getattr(problem.task, name).copy()
    at = tuple(data.draw(st.integers(0, n - 1)) for n in value.shape)
    value[at] = np.nextafter(value[at], data.draw(st.sampled_from([-np.inf, np.inf])))  # the last bit
    assert problem.replace(**{name: value}).fingerprint() != problem.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 2},
        {"activation": "erf"},
        {"activation": lambda h: jnp.tanh(h)},
        {"gamma0": np.nextafter(1.0, 2.0)},
        {"kind": "mup"},
        {"centered": False},
        {"eta0": np.nextafter(0.5, 1.0)},
        {"num_steps": 5},
        {"name": "made-up"},
        {"y_test": None},
        {"X_test": None, "y_test": None},
        {"X": [[1.0, 0.5], [-0.5, 1.0]][::-1], "y": [-1.0, 1.0]},
        {"y": [[1.0], [-1.0]], "y_test": [[0.5]]},
        {"bias": 0.1},
        {"loss": "logistic", "y_test": None},
        {"loss": lambda f, y: jnp.sum((f - y) ** 2) / 2},
        {"batch_size": 2},
        {"batch_size": 1, "data_seed": 1},
        {"data_seed": 1},
        {"sampling": "online", "batch_size": 1, "num_steps": 1},
        {"batches": [[0], [1], [0], [1], [0]]},
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"weight_decay": 1e-300},
        {"schedule": [1.0, 1.0, 1.0, np.nextafter(1.0, 2.0)]},
        {"layer_rates": [1.0, 1.0]},
        {"label_noise": 0.1},
        {"temperature": 0.1},
        {"flow": True},
        {"optimizer": Adam()},
        {"alpha": 0.5},
        {"kind": "mup", "base_width": 64},
    ],
    ids=lambda change: ",".join(change),
)
def test_fingerprint_changes_with_every_field(change: dict[str, Any]) -> None:
    problem = a_problem()
    assert problem.replace(**change).fingerprint() != problem.fingerprint()
    assert problem.replace().fingerprint() == problem.fingerprint()


def test_every_field_is_in_the_list_above() -> None:
    """Whoever adds a field adds it to `to_json` and to the test: this says so."""
    fields = {f.name for part in (MLP, Parameterization, Task, GradientDescent) for f in dataclasses.fields(part)}
    (mark,) = test_fingerprint_changes_with_every_field.pytestmark
    assert fields == {name for change in mark.args[1] for name in change}


def test_fingerprint_of_two_changes_differs_from_one() -> None:
    problem = a_problem()
    changes = [{}, {"momentum": 0.5}, {"momentum": 0.5, "nesterov": True}, {"batch_size": 1}, {"batch_size": 1, "data_seed": 1}]
    assert len({problem.replace(**change).fingerprint() for change in changes}) == len(changes)


@some
@given(some_problems())
def test_problem_survives_json(problem: Problem) -> None:
    again = Problem.from_json(json.loads(json.dumps(problem.to_json())))
    assert again.fingerprint() == problem.fingerprint()
    assert str(again) == str(problem)
    for name in ("X", "y", "X_test", "y_test"):
        a, b = getattr(again.task, name), getattr(problem.task, name)
        assert (a is b is None) or np.array_equal(a, b)


def test_replace() -> None:
    problem = a_problem()
    changed = problem.replace(gamma0=2.0, num_steps=7, y=[0.0, 1.0], activation="relu")
    assert (changed.parameterization.gamma0, changed.training.num_steps) == (2.0, 7)
    assert (changed.task.y.tolist(), changed.architecture.activation.name) == ([0.0, 1.0], "relu")
    assert changed.task.X.tolist() == problem.task.X.tolist()
    assert changed.training.eta0 == problem.training.eta0
    assert problem.parameterization.gamma0 == 1.0  # the original stays
    assert problem.replace() == problem  # parts that do not change are the same objects
    part_and_field = problem.replace(training=GradientDescent(0.1, 9), eta0=0.3)
    assert part_and_field.training == GradientDescent(0.3, 9)  # a field lands on the new part
    with pytest.raises(ValueError, match="no part of a Problem has a field gama0, steps"):
        problem.replace(gama0=2.0, steps=3)
    with pytest.raises(ValueError, match="X and y must have one row per sample; got 2 and 3"):
        problem.replace(y=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="Problem's task must be a Task or Stream, got 'digits'"):
        problem.replace(task="digits")


# --- Activations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMED))
def test_activation_derivative_is_that_of_jax(name: str) -> None:
    act = NAMED[name]
    with float64():
        h = jnp.concatenate([jnp.linspace(-6, 6, 400), jnp.array([1e-9, -1e-9, 30.0, -30.0])])  # 0 is relu's kink: left out
        expected = jax.vmap(jax.grad(act.phi))(h)
        # rounding 1e-16, times the condition of gelu's and tanh's tails (terms of order one that cancel)
        np.testing.assert_allclose(act.d(h), expected, atol=1e-14, rtol=1e-12)
        assert np.abs(act.d(h + 0.5) - expected).max() > 1e-3 or name == "linear"  # negative twin: some other point
        assert act.odd == bool(jnp.allclose(act.phi(h), -act.phi(-h)))
        assert act(h).shape == act.d(h).shape == h.shape
        assert jnp.isfinite(act.phi(1e3 * h)).all()
        assert jnp.isfinite(act.d(1e3 * h)).all()


def test_relu_at_its_kink() -> None:
    assert float(NAMED["relu"].d(jnp.array(0.0))) == 0.0  # as in the networks of the literature; phi'' is never asked for


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_copied_activation_is_the_same(name: str) -> None:
    act = NAMED[name]
    for copied in (copy.copy(act), copy.deepcopy(act), pickle.loads(pickle.dumps(act))):
        assert copied is act
    problem = a_problem(name)
    assert copy.deepcopy(problem).fingerprint() == pickle.loads(pickle.dumps(problem)).fingerprint() == problem.fingerprint()
    own = as_activation(wavy)
    assert pickle.loads(pickle.dumps(own)) == copy.deepcopy(own) == own


def wavy(h: jax.Array) -> jax.Array:
    return h + 0.5 * jnp.sin(h)


def test_own_activation() -> None:
    scale = 0.8
    act = as_activation(lambda h: jnp.tanh(scale * h) / scale)
    h = jnp.linspace(-2, 2, 9)
    # float32 rounding 6e-8 of numbers of order one
    np.testing.assert_allclose(act.d(h), 1 - jnp.tanh(scale * h) ** 2, atol=1e-6)
    assert act.odd
    assert not as_activation(lambda h: jnp.tanh(h) + 0.01).odd
    assert as_activation(wavy).name == "wavy"
    assert as_activation(act) is act


def test_equal_functions_give_equal_activations() -> None:
    assert as_activation(wavy) == as_activation(wavy)
    assert hash(as_activation(wavy)) == hash(as_activation(wavy))
    assert as_activation(wavy) != as_activation(lambda h: h + 0.4 * jnp.sin(h))
    assert MLP(2, wavy) == MLP(2, wavy)


def test_functions_made_anew_are_one_activation_if_they_compute_one() -> None:
    """Told apart by constants, however they reach the function: closures, arrays, globals, defaults, a derivative's rule."""

    def made(scale: Any) -> Activation:
        return as_activation(lambda h: jnp.tanh(h) * jnp.sum(jnp.asarray(scale)))

    other = float(np.nextafter(0.8, 1))
    for a, b in ((0.8, other), ([1.0, 0.8], [1.0, other])):
        assert made(a) is made(a)
        assert made(a) != made(b)
    assert as_activation(lambda h, s=0.8: s * h) != as_activation(lambda h, s=0.9: s * h)

    @jax.custom_jvp
    def straight(h: jax.Array) -> jax.Array:
        return jnp.tanh(h)

    straight.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), tangents[0]))
    assert as_activation(lambda h: straight(h)).d(jnp.ones(1)) == 1.0
    assert as_activation(lambda h: straight(h)) != as_activation(lambda h: jnp.tanh(h))
    for value in (0.25, 0.5):
        globals()["GAIN"] = value
        np.testing.assert_allclose(as_activation(lambda h: GAIN * h)(jnp.ones(1)), value)  # type: ignore[name-defined]


def test_equal_functions_compile_once(compilations: list[str]) -> None:
    settings = {"width": 8, "num_seeds": 2, "progress": False}
    finite.train(a_problem(wavy), **settings)
    before = len(compilations)
    finite.train(a_problem(wavy), **settings)
    assert len(compilations) == before
    anew = []
    for _ in range(2):
        finite.train(a_problem(lambda h: h + 0.3 * jnp.sin(h)), **settings)
        anew.append(len(compilations))
    assert before < anew[0] == anew[1]  # a function made anew that computes the same compiles nothing
    finite.train(a_problem(lambda h: h + 0.4 * jnp.sin(h)), **settings)  # negative twin: another function does compile
    assert len(compilations) > anew[1]


def test_equal_losses_are_one() -> None:
    """A loss is an argument of what is compiled, so that one made anew would compile everything anew."""

    def made(power: Any) -> Loss:
        return as_loss(lambda f, y: jnp.sum(jnp.abs(f - y) ** jnp.asarray(power)))

    assert made(4.0) is made(4.0)
    assert made([4.0]) is made([4.0])
    assert made(4.0) != made(np.nextafter(4.0, 5.0))  # negative twins
    assert made([4.0]) != made([np.nextafter(4.0, 5.0)])
    assert as_loss(lambda f, y: jnp.sum((f - y) ** 2)) != as_loss(lambda f, y: jnp.mean((f - y) ** 2))


def test_activations_keep_the_precision_of_fields() -> None:
    """With numbers of NumPy's, which are float64 and stay it, as with Python's."""
    root = np.sqrt(2.0)
    own = Activation("own", lambda h: root * jnp.tanh(h), lambda h: root * (1 - jnp.tanh(h) ** 2), odd=True)
    with float64():
        for spec in (lambda h: root * jnp.tanh(h), own):
            act, same = as_activation(spec), as_activation(lambda h: float(root) * jnp.tanh(h))
            for dtype in ("float32", "float64"):
                h = jnp.linspace(-2, 2, 9, dtype=dtype)
                assert act.phi(h).dtype == act.d(h).dtype == dtype
                np.testing.assert_allclose(act.phi(h), same.phi(h), rtol=1e-6)
                np.testing.assert_allclose(act.d(h), same.d(h), rtol=1e-6)
        assert own.phi(jnp.zeros(1, "float32")).dtype == "float64"  # negative twin
    problem = a_problem(lambda h: root * jnp.tanh(h))
    settings = {"num_paths": 64, "num_replicas": 2}
    single, double = (
        dmft.solve(problem, March(**settings, dtype=dtype), progress=False).mean.f for dtype in ("float32", "float64")
    )
    np.testing.assert_allclose(single, double, atol=1e-4)


@few
@given(st.floats(0.5, 2.0), st.booleans())
def test_fingerprint_sees_the_constants_of_an_own_activation(scale: float, inner_jit: bool) -> None:
    def act(c: Any) -> Callable[[jax.Array], jax.Array]:
        def phi(h: jax.Array) -> jax.Array:
            return jnp.tanh(h) * jnp.sum(jnp.asarray(c))

        return jax.jit(phi) if inner_jit else phi

    other = float(np.nextafter(scale, 3))
    for a, b in ((scale, other), ([1.0, scale], [1.0, other])):  # a literal of the trace, and an array in it
        assert a_problem(act(a)).fingerprint() == a_problem(act(a)).fingerprint()
        assert a_problem(act(a)).fingerprint() != a_problem(act(b)).fingerprint()


def test_fingerprint_sees_an_own_derivative() -> None:
    def smooth_d(h: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(10 * h)

    relu = NAMED["relu"]
    surrogate = Activation("relu", relu.phi, smooth_d)
    assert a_problem(surrogate).fingerprint() != a_problem(relu).fingerprint()
    assert a_problem(surrogate).fingerprint() != a_problem(Activation("relu", relu.phi, lambda h: 1.0 + 0.0 * h)).fingerprint()


def test_own_activation_survives_json_with_its_function() -> None:
    problem = a_problem(wavy)
    data = json.loads(json.dumps(problem.to_json()))
    assert Problem.from_json(data, wavy).fingerprint() == problem.fingerprint()
    assert Problem.from_json(data, problem.architecture.activation).fingerprint() == problem.fingerprint()
    with pytest.raises(ValueError, match=r"own, 'wavy'.*Pass the function: Result.load\(path, activation=function\)"):
        Problem.from_json(data)
    with pytest.raises(ValueError, match="is not the one the Problem had; that one traces to"):
        Problem.from_json(data, lambda h: h + 0.4 * jnp.sin(h))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (jax.nn.softmax, "Write it elementwise"),
        (lambda h: h - h.mean(), "act on every number by itself"),
        (lambda h: h / jnp.linalg.norm(h), "act on every number by itself"),
        (lambda h: h[..., ::-1], "Write it elementwise"),
        (lambda h: h.sum(), "Write it elementwise"),
        (lambda h: 1.0, "Write it elementwise"),
        (lambda h: h > 0, "Write it elementwise"),
        (lambda h: h if h > 0 else 0.0, "Write it elementwise"),
        (np.tanh, "with jax.numpy"),
        (jnp.log, "finite numbers"),
        (lambda a, b: a, "missing 1 required positional argument"),
        ("Tanh", "one of erf, gelu, linear, quadratic, relu, softplus, tanh, or a function of one array; got 'Tanh'"),
        (3, "a name or a function of one array; got 3"),
        (None, "a name or a function of one array; got None"),
    ],
)
def test_what_is_no_activation(function: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MLP(1, function)


# --- Parameterizations -----------------------------------------------------------------------------------------------------


def invariants(p: Parameterization, width: int, D: int) -> np.ndarray:
    """All that can be seen of a parameterization: per role the size of the weights and their speed, as they enter."""
    scales = [p.scale(role, width=width, fan_in=D if role == "input" else width) for role in ("input", "hidden", "output")]
    return np.array([(a * b, a**2 * c) for a, b, c in scales])


@some
@given(st.integers(1, 10**6), st.integers(1, 10**5), st.floats(1e-3, 10))
def test_three_forms_of_one_network(width: int, D: int, gamma0: float) -> None:
    expected = invariants(Parameterization(gamma0), width, D)
    # a handful of products and roots: rounding 1e-15
    np.testing.assert_allclose(invariants(Parameterization(gamma0, "mup"), width, D), expected, rtol=1e-12)
    np.testing.assert_allclose(invariants(Parameterization(gamma0 * width**0.5, "ntk"), width, D), expected, rtol=1e-12)


@some
@given(st.integers(2, 10**6), st.integers(1, 10**5))
def test_standard_is_another_network(width: int, D: int) -> None:
    """Negative twin: it starts as the NTK form does at gamma0 = 1, but its hidden layers move N times too fast."""
    standard, ntk = invariants(Parameterization(kind="standard"), width, D), invariants(Parameterization(kind="ntk"), width, D)
    np.testing.assert_allclose(standard[:, 0], ntk[:, 0], rtol=1e-12)
    np.testing.assert_allclose(standard[1:, 1] / ntk[1:, 1], width, rtol=1e-12)
    assert not np.allclose(standard, invariants(Parameterization(), width, D), rtol=0.1)


def test_limits_and_strength() -> None:
    limits = {kind: Parameterization(kind=kind).limit for kind in KINDS}
    assert limits == {"mean_field": "feature_learning", "mup": "feature_learning", "ntk": "lazy", "standard": "none"}
    assert set(TABLE) == set(KINDS)
    assert Parameterization(3.0, "ntk").feature_learning_strength(width=9) == pytest.approx(1.0, rel=1e-15)
    assert Parameterization(3.0).feature_learning_strength(width=9) == 3.0
    assert Parameterization(kind="mup", base_width=4).feature_learning_strength(width=9) == 0.5


def test_base_width_is_for_mup() -> None:
    with pytest.raises(ValueError, match="base_width goes with kind='mup' and gamma0=1, got 'ntk'"):
        Parameterization(kind="ntk", base_width=64)
    with pytest.raises(ValueError, match=r"and 2\.0"):
        Parameterization(2.0, kind="mup", base_width=64)
    with pytest.raises(ValueError, match="base_width must be"):
        Parameterization(kind="mup", base_width=0)
    assert eval(repr(Parameterization(kind="mup", base_width=64))) == Parameterization(kind="mup", base_width=64)


# --- Tasks -----------------------------------------------------------------------------------------------------------------

CONSTRUCTORS: dict[str, Callable[..., Task]] = {
    "digits": lambda P, Q, **k: tasks.digits(P, Q, classes=(4, 9), **k),
    "gaussian": lambda P, Q, **k: tasks.gaussian(P, Q, input_dim=9, **k),
    "sphere": lambda P, Q, **k: tasks.sphere(P, Q, input_dim=9, **k),
    "whitened": lambda P, Q, **k: tasks.whitened(P, input_dim=9, **k),
    "multi_index": lambda P, Q, **k: tasks.multi_index(P, Q, input_dim=9, num_directions=2, **k),
}


@pytest.mark.parametrize("name", sorted(CONSTRUCTORS))
@few
@given(st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**32 - 2))
def test_task_constructors(name: str, P: int, Q: int, seed: int) -> None:
    make = CONSTRUCTORS[name]
    task = make(P, Q, seed=seed)
    Q = 0 if name == "whitened" else Q
    M, D = P + Q, 64 if name == "digits" else 9
    assert (task.num_train, task.num_test, task.num_points, task.input_dim) == (P, Q, M, D)
    assert (task.X.shape, task.y.shape, task.X_all.shape, task.Phi0.shape) == ((P, D), (P,), (M, D), (M, M))
    assert (task.X_test is None) == (task.y_test is None) == (Q == 0)
    np.testing.assert_array_equal(task.Phi0, task.Phi0.T)
    again, other = make(P, Q, seed=seed), make(P, Q, seed=seed + 1)
    assert again.X_all.tobytes() == task.X_all.tobytes()  # same seed, same bits
    assert again.y.tobytes() == task.y.tobytes()
    assert not np.array_equal(other.X_all, task.X_all)
    if name in ("digits", "sphere"):
        np.testing.assert_allclose(np.diagonal(task.Phi0), 1.0, rtol=1e-13)
    if name == "whitened":
        np.testing.assert_allclose(task.Phi0, np.eye(P), atol=1e-13)  # QR is orthogonal to rounding
        assert task.y @ task.y == pytest.approx(P, rel=1e-13)
    if name in ("digits", "gaussian"):
        assert set(task.y) <= {-1.0, 1.0}


def test_more_points_keep_the_first() -> None:
    """Train points do not depend on how many test points there are (for digits: the order is one permutation)."""
    a, b = tasks.digits(6, 0, seed=3), tasks.digits(6, 8, seed=3)
    np.testing.assert_array_equal(a.X, b.X)
    np.testing.assert_array_equal(a.y, b.y)


def test_multi_index_with_own_link() -> None:
    task = tasks.multi_index(50, 10, input_dim=5, num_directions=2, link=lambda u: u[:, 0] ** 2 + u[:, 1] ** 2, seed=2)
    inside = np.linalg.lstsq(np.stack([np.outer(x, x).ravel() for x in task.X]), task.y, rcond=None)[0]
    B = (inside.reshape(5, 5) + inside.reshape(5, 5).T) / 2  # y = x^T B x, B the projector on the two directions
    np.testing.assert_allclose(np.linalg.eigvalsh(B), [0, 0, 0, 1, 1], atol=1e-10)
    for link, got in ((lambda u: u, "array"), (lambda u: 1.0, ""), (lambda u: u[:3, 0], "array")):
        with pytest.raises(ValueError, match=rf"link\(u\) must be finite numbers of shape \(4,\), got {got}.*e.g. lambda u"):
            tasks.multi_index(4, input_dim=5, num_directions=2, link=link)
    with pytest.raises(ValueError, match=r"link\(u\) .*(NaN|finite)"):
        tasks.multi_index(4, input_dim=5, link=lambda u: np.full(len(u), np.nan))


def test_task_takes_what_looks_like_an_array() -> None:
    X, y = np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0, 3.0])

    class Frame:
        """What numpy sees of a pandas DataFrame."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return X.astype(dtype or float)

    for x in (X.tolist(), tuple(map(tuple, X)), X.astype(int), X.astype(np.float32), jnp.asarray(X), Frame(), X[::-1][::-1]):
        task = Task(x, y)
        np.testing.assert_array_equal(task.X, X)
        assert task.X.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        task.X[0, 0] = 5.0  # a Problem cannot change under its fingerprint
    X[0, 0] = 7.0
    assert task.X[0, 0] == 0.0  # nor through the array it was made of


# --- Bad input: every message names the cure -------------------------------------------------------------------------------

X, Y = np.ones((3, 4)), np.ones(3)


def with_entry(value: float) -> np.ndarray:
    out = X.copy()
    out[1, 2] = value
    return out


BAD = {
    "NaN": (lambda: Task(with_entry(np.nan), Y), r"X has 1 NaN or infinite entries, the first at index \(1, 2\). Remove those"),
    "infinite": (lambda: Task(with_entry(np.inf), Y), "X has 1 NaN or infinite entries.*fill the gaps"),
    "NaN label": (lambda: Task(X, [1.0, np.nan, 1.0]), r"y has 1 NaN or infinite entries, the first at index \(1,\)"),
    "None entry": (lambda: Task([[1.0, None]], [1.0]), "X must be an array of numbers of shape .P, D., .*it holds None"),
    "NaN test": (lambda: Task(X, Y, with_entry(np.nan)), "X_test has 1 NaN"),
    "too large": (lambda: Task(1e20 * X, Y), "X has entries as large as 1e.20, whose squares overflow. Rescale"),
    "lengths": (lambda: Task(X, Y[:2]), "X and y must have one row per sample; got 3 and 2 rows"),
    "test lengths": (lambda: Task(X, Y, X, Y[:2]), "X_test and y_test must have one row per sample; got 3 and 2 rows"),
    "X of rank 1": (lambda: Task(Y, Y), r"X must have shape \(P, D\).*\(3,\). One sample is X of shape \(1, D\)"),
    "X of rank 3": (lambda: Task(X[None], Y), r"X must have shape \(P, D\), got an array of shape \(1, 3, 4\)"),
    "y of rank 3": (lambda: Task(X, Y[:, None, None]), r"y must have shape \(P,\).*one row of C targets, shape \(P, C\)"),
    "other outputs": (
        lambda: Task(X, np.ones((3, 2)), X, np.ones((3, 3))),
        r"y_test must have the outputs of y, \(2,\); got \(3,\)",
    ),
    "y_test of rank 1": (lambda: Task(X, np.ones((3, 2)), X, Y), r"y_test must have the outputs of y, \(2,\); got \(\)"),
    "bias -1": (lambda: MLP(1, bias=-1), "bias must be finite and not negative, got -1"),
    "y of rank 0": (lambda: Task(X[:1], 1.0), r"y must have shape \(P,\), got an array of shape \(\)"),
    "empty": (lambda: Task(np.ones((0, 4)), []), "at least one entry"),
    "ragged": (lambda: Task([[1.0, 2.0], [3.0]], [1.0, 2.0]), "X must be an array of numbers"),
    "strings": (lambda: Task(X, ["cat", "dog", "cat"]), "y must be an array of numbers.*'cat'"),
    "complex": (lambda: Task(X + 1j, Y), "X must be an array of numbers.*complex"),
    "dict": (lambda: Task({"a": 1}, Y), "X must be an array of numbers"),
    "y_test alone": (lambda: Task(X, Y, y_test=Y), "y_test needs X_test: pass the test inputs too, or leave both out"),
    "other D": (lambda: Task(X, Y, X[:, :3]), "input dimension of X, D = 4; .*Apply the same preprocessing to both"),
    "depth 0": (lambda: MLP(0), "depth must be a whole number of at least 1, got 0. A network has at least one hidden layer"),
    "depth -1": (lambda: MLP(-1), "at least one hidden layer"),
    "depth 2.0": (lambda: MLP(2.0), "depth must be a whole number"),
    "depth True": (lambda: MLP(True), "depth must be a whole number of at least 1, got True"),
    "depth text": (lambda: MLP("2"), "depth must be a whole number of at least 1, got '2'"),
    "gamma0 0": (lambda: Parameterization(0.0), r"gamma0 must be finite and above zero.*use dmft.solve\(.*method=dmft.Lazy"),
    "gamma0 -1": (lambda: Parameterization(-1), "gamma0 must be finite and above zero, got -1"),
    "gamma0 NaN": (lambda: Parameterization(np.nan), "gamma0 must be finite and above zero, got nan"),
    "gamma0 True": (lambda: Parameterization(True), "gamma0 must be a positive number, got True"),
    "gamma0 text": (lambda: Parameterization("ntk"), "gamma0 must be a positive number, got 'ntk'"),
    "kind": (lambda: Parameterization(kind="NTK"), "kind must be one of 'mean_field', 'mup', 'ntk', 'standard'; got 'NTK'"),
    "standard": (lambda: Parameterization(2.0, "standard"), "'standard' has no gamma0; leave it at 1"),
    "centered": (lambda: Parameterization(centered="no"), "centered must be True or False, got 'no'"),
    "eta0 0": (lambda: GradientDescent(0, 5), "eta0 must be finite and above zero, got 0"),
    "eta0 huge": (lambda: GradientDescent(10**400, 5), "eta0 must be finite and above zero"),
    "eta0 inf": (lambda: GradientDescent(np.inf, 5), "eta0 must be finite and above zero"),
    "eta0 tuple": (lambda: GradientDescent((0.1,), 5), "eta0 must be a positive number"),
    "eta0 complex": (lambda: GradientDescent(np.complex128(1), 5), "eta0 must be a positive number"),
    "eta0 True": (lambda: GradientDescent(True, 5), "eta0 must be a positive number, got True"),
    "no steps": (lambda: GradientDescent(0.1, 0), "num_steps must be a whole number of at least 1, got 0"),
    "steps -3": (lambda: GradientDescent(0.1, -3), "num_steps must be a whole number of at least 1, got -3"),
    "steps 1e3": (lambda: GradientDescent(0.1, 1e3), "num_steps must be a whole number of at least 1, got 1000.0"),
    "steps True": (lambda: GradientDescent(0.1, True), "num_steps must be a whole number of at least 1, got True"),
    "loss": (
        lambda: GradientDescent(0.1, 5, "hinge"),
        "loss must be one of cross_entropy, logistic, mse, or a function of f and y; got 'hinge'",
    ),
    "order": (lambda: Problem(Parameterization(), MLP(1), Task(X, Y), GradientDescent(0.1, 5)), "architecture must be a MLP"),
    "class": (lambda: Problem(MLP, Parameterization(), Task(X, Y), GradientDescent(0.1, 5)), "architecture must be a MLP"),
    "whitened P > D": (lambda: tasks.whitened(5, input_dim=4), "num_train <= input_dim, got 5 > 4.*raise input_dim or"),
    "too many digits": (lambda: tasks.digits(400, 24), r"digits 0 and 1 have 360 images; asked for 400 \+ 24. Ask for fewer"),
    "no digits": (lambda: tasks.digits(0), "num_train must be a whole number of at least 1, got 0"),
    "test -1": (lambda: tasks.digits(3, -1), "num_test must be a whole number of at least 0, got -1"),
    "one class": (lambda: tasks.digits(classes=(3, 3)), r"two or more different digits 0 ... 9, got .3, 3."),
    "class 10": (lambda: tasks.digits(classes=(3, 10)), "two or more different digits"),
    "classes 3": (lambda: tasks.digits(classes=3), "classes must be a sequence"),
    "classes text": (lambda: tasks.digits(classes="35"), "classes must be a sequence"),
    "directions": (lambda: tasks.multi_index(3, input_dim=4, num_directions=5), "at most input_dim = 4, got 5"),
    "seed -1": (lambda: tasks.gaussian(3, input_dim=4, seed=-1), "seed must be a whole number of at least 0, got -1"),
    "seed None": (lambda: tasks.digits(3, seed=None), "seed must be a whole number of at least 0, got None"),
    "seed 1.5": (lambda: tasks.sphere(3, input_dim=4, seed=1.5), "seed must be a whole number"),
    "D 0": (lambda: tasks.sphere(3, input_dim=0), "input_dim must be a whole number of at least 1, got 0"),
    "a step too far": (lambda: finite.train(a_problem(), width=8, num_seeds=2, save_kernels=[5]), r"must lie in 0 ... 4"),
    "half a step": (
        lambda: finite.train(a_problem(), width=8, num_seeds=2, save_kernels=[0.5]),
        "every entry of save_kernels must be a whole",
    ),
    "one step": (lambda: dmft.solve(a_problem(), save_kernels=3), r"save_kernels must be a sequence like \[1, 2\], got 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    make, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        make()


def test_numbers_of_other_kinds() -> None:
    """Numpy's numbers are numbers; what is stored is plain, so that it goes into a file."""
    p = Parameterization(np.float32(2), centered=np.bool_(False))
    training, mlp = GradientDescent(np.int64(2), np.uint8(3)), MLP(np.int32(2))
    stored = (p.gamma0, p.centered, training.eta0, training.num_steps, mlp.depth)
    assert [type(x) for x in stored] == [float, bool, float, int, int]


# --- Odd but valid data, through everything --------------------------------------------------------------------------------

FOUR = np.random.default_rng(5).standard_normal((4, 2))
ODD = {  # mostly of one shape, which compiles once
    "P > D": Task(FOUR, [1.0, -1.0, 0.5, -0.5]),
    "one sample": Task(FOUR[:1], [1.0]),
    "constant labels": Task(FOUR, np.ones(4)),
    "zero labels": Task(FOUR, np.zeros(4)),
    "duplicated samples": Task(np.repeat(FOUR[:2], 2, axis=0), [1.0, 1.0, -1.0, -1.0]),
    "test point is a train point": Task(FOUR[:1], [1.0], FOUR[:1]),
    "a sample of zeros": Task(FOUR * [[0.0], [1.0], [1.0], [1.0]], [1.0, -1.0, 0.5, -0.5]),
}
RUNS: dict[str, tuple[str, Callable[[Problem], Any]]] = {
    "March": ("tanh", lambda p: dmft.solve(p, dmft.March(num_paths=256), progress=False)),
    "March relu": ("relu", lambda p: dmft.solve(p, dmft.March(num_paths=256), progress=False)),
    "DeepLinear": ("linear", lambda p: dmft.solve(p, dmft.DeepLinear(), progress=False)),
    "Lazy": ("relu", lambda p: dmft.solve(p, dmft.Lazy(), progress=False)),
    "finite": ("tanh", lambda p: finite.train(p, width=32, num_seeds=4, progress=False)),
}


CASES = [(name, run) for name in ODD for run in RUNS if run != "March relu" or ODD[name].num_points == 4]  # spare compilations


@pytest.mark.parametrize(("name", "run"), CASES)
def test_odd_data_works(name: str, run: str) -> None:
    activation, solve = RUNS[run]
    task = ODD[name]
    problem = Problem(MLP(2, activation), Parameterization(), task, GradientDescent(0.2, 4))
    result = solve(problem)
    f, loss = result.mean.f, result.mean.loss
    assert result.status.ok
    assert f.shape == (5, task.num_points)
    assert np.isfinite(f).all()
    assert loss[-1] < loss[0] or name == "zero labels"
    # f(0) = 0: centred in finite (float32: 6e-8), odd averages over mirrored noise in March (1e-16)
    np.testing.assert_allclose(loss[0], np.mean(task.y**2) / 2, rtol=1e-6, atol=1e-12)
    if name == "zero labels":
        np.testing.assert_allclose(f, 0.0, atol=1e-12)
    if name == "duplicated samples":  # the same point twice is predicted the same; float32 in finite
        np.testing.assert_allclose(f[:, ::2], f[:, 1::2], atol=1e-5)
    if name == "test point is a train point":  # March: to the rest of the train point that its basis leaves out
        np.testing.assert_allclose(f[:, 0], f[:, 1], atol=1e-3 if run.startswith("March") else 1e-5)
        assert result.mean.test_loss is None
    if name == "a sample of zeros":  # h = 0 at every layer, and phi(0) = 0 here
        np.testing.assert_allclose(f[:, 0], 0.0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_activations_keep_the_precision_of_their_fields(name: str) -> None:
    """float32 in, float32 out, where float64 is on too: a march of float32 paths carries them along."""
    act, h = NAMED[name], np.linspace(-1, 1, 4)
    with float64():
        for dtype in (jnp.float32, jnp.float64):
            assert {act.phi(jnp.asarray(h, dtype)).dtype, act.d(jnp.asarray(h, dtype)).dtype} == {jnp.dtype(dtype)}
