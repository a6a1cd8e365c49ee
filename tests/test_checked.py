"""Functions hold their annotations: what is read as what, what is refused, and that every public function does it."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float, Int

import compare
import widthwise
from dmft import scaling, spectra
from widthwise import MLP, GradientDescent, Parameterization, Problem, Spectrum, kernel_descent, schedules, tasks
from widthwise.checked import Extended, Numbers, Size, checked, rules


@checked
def takes(
    number: float = 0.0,
    whole: int = 0,
    flag: bool = False,
    text: str = "",
    word: Literal["a", "b"] = "a",
    seed: int = 0,
    many: Extended = 1.0,
    size: Size = 1,
    numbers: Numbers = 0.0,
    network: MLP | None = None,
    steps: Iterable[int] = (),
    names: str | Sequence[str] = (),
    pair: tuple[int, float] = (0, 0.0),
    by_degree: Mapping[int, float] | None = None,
    function: Callable[..., Any] = len,
    path: str | os.PathLike[str] | None = None,
    either: Annotated[Any, MLP | Mapping[int, MLP]] = None,
    anything: Any = None,
) -> dict[str, Any]:
    return dict(locals())


READ = [
    ("number", np.float32(0.5), 0.5),
    ("number", jnp.array(2), 2.0),
    ("whole", np.int8(3), 3),
    ("whole", -3, -3),
    ("flag", np.True_, True),
    ("text", np.str_("x"), "x"),
    ("word", np.str_("b"), "b"),
    ("many", np.inf, np.inf),
    ("size", np.inf, np.inf),
    ("size", np.int64(3), 3),
    ("network", None, None),
    ("network", MLP(1), MLP(1)),
    ("steps", range(3), [0, 1, 2]),
    ("steps", np.array([1, 2]), [1, 2]),
    ("steps", (i for i in (1, 2)), [1, 2]),
    ("names", "one", "one"),
    ("names", ("one", "two"), ["one", "two"]),
    ("pair", [1, 2], (1, 2.0)),
    ("by_degree", {np.int64(1): 2}, {1: 2.0}),
    ("function", max, max),
    ("path", Path("a"), Path("a")),
    ("either", {1: MLP(1)}, {1: MLP(1)}),
    ("anything", "x", "x"),
]


@pytest.mark.parametrize(("name", "value", "read"), READ, ids=lambda x: str(x)[:20])
def test_what_fits_is_read(name: str, value: Any, read: Any) -> None:
    got = takes(**{name: value})[name]
    assert got == read
    assert type(got) is type(read)


REFUSED = [
    ("number", "1", "number must be a number, got '1'"),
    ("number", None, "number must be a number, got None"),
    ("number", np.nan, "number must be a number, got nan"),
    ("number", np.inf, "number must be a finite number, got inf"),
    ("whole", 2.9, "whole must be a whole number, got 2.9"),
    ("whole", True, "whole must be a whole number, got True"),
    ("flag", 1, "flag must be True or False, got 1"),
    ("text", b"x", "text must be text, got b'x'"),
    ("word", "c", "word must be one of 'a', 'b'; got 'c'"),
    ("seed", -1, "seed must be a whole number of at least 0, got -1"),
    ("many", "inf", "many must be a number, got 'inf'"),
    ("size", 0, "size must be a whole number of at least 1, got 0. Or np.inf"),
    ("numbers", np.ma.array([1.0, 2.0], mask=[0, 1]), "numbers must be an array of numbers .* masked"),
    ("network", "MLP", "network must be a MLP, got 'MLP'"),
    ("network", MLP, "network must be a MLP, got <class"),
    ("steps", 5, r"steps must be a sequence like \[1, 2\], got 5"),
    ("steps", [0.5], "every entry of steps must be a whole number, got 0.5"),
    ("names", 5, r"names must be text or a sequence like \[\"a\", \"b\"\], got 5"),
    ("pair", (1, 2, 3), r"pair must be a pair \(a whole number, a number\), got \(1, 2, 3\)"),
    ("pair", 3, "pair must be a pair"),
    ("by_degree", [1], r"by_degree must be a dict \{a whole number: a number\}, got \[1\]"),
    ("by_degree", {1: "x"}, r"by_degree\[1\] must be a number, got 'x'"),
    ("function", 3, "function must be a function, got 3"),
    ("path", 3, "path must be a path, got 3"),
    ("either", 3, r"either must be a MLP or a dict \{a whole number: a MLP\}, got 3"),
]


@pytest.mark.parametrize(("name", "value", "says"), REFUSED, ids=lambda x: str(x)[:20])
def test_what_does_not_fit_is_refused(name: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        takes(**{name: value})


def test_letters_of_shapes() -> None:
    @checked
    def both(
        K: Float[np.ndarray, "M M"],
        x: Float[np.ndarray, "M"],
        maps: Float[np.ndarray, "n ... M"] = np.zeros((1, 1)),  # noqa: B008
        at: Int[np.ndarray, "k"] = np.zeros(1, int),  # noqa: B008
    ) -> tuple[Any, ...]:
        return K, x, maps, at

    K, x, maps, at = both([[1, 2], [3, 4]], [1, 2], np.ones((3, 4, 5, 2)), [0, 1, 1])
    assert K.dtype == x.dtype == maps.dtype == np.float64
    assert at.dtype == np.int64
    for arguments, says in (
        (([1, 2], [1, 2]), r"K must have shape \(M, M\), got an array of shape \(2,\)"),
        ((np.ones((2, 3)), [1, 2]), r"K must have shape \(M, M\) with M = 2, got shape \(2, 3\)"),
        ((np.ones((2, 2)), [1, 2, 3]), r"x must have shape \(M,\) with M = 2 as K has, got shape \(3,\)"),
        ((np.ones((2, 2)), [1, np.nan]), "x has 1 NaN"),
        ((np.eye(2), [1, 2], [1.0]), r"maps must have shape \(n, ..., M\)"),
        ((np.eye(2), [1, 2], np.ones((3, 4))), r"maps must have shape \(n, ..., M\) with M = 2"),
        ((np.eye(2), [1, 2], np.ones((3, 2)), [0.5]), r"at must be an array of whole numbers of shape \(k,\)"),
    ):
        with pytest.raises(ValueError, match=says):
            both(*arguments)


def test_a_call_that_is_none_is_python_s_own_error() -> None:
    with pytest.raises(TypeError, match=r"takes\(\) got an unexpected keyword argument 'other'"):
        takes(other=1)


def test_an_annotation_that_means_nothing_is_an_error_of_ours() -> None:
    def odd(x: Any) -> None:
        pass

    odd.__annotations__["x"] = 2
    odd = checked(odd)
    with pytest.raises(TypeError, match="does not know what the annotation 2 means"):
        odd(3)


# --- what was computed with, and has no meaning -----------------------------------------------------------------------------

MEAN = Parameterization()
PROBLEM = Problem(MLP(1), MEAN, tasks.sphere(3, input_dim=4), GradientDescent(0.1, 3))
S = Spectrum([1.0, 0.5], [1.0, 1.0])
HALF = np.full((4, 4), 0.5)
WITHOUT_MEANING: dict[str, tuple[Callable[[], Any], str]] = {
    "batch 2.9, taken as 2": (lambda: scaling.sgd_risk(S, [0.1], 2.9, 3), "batch must be a whole number, got 2.9"),  # type: ignore[arg-type]
    "steps backwards": (lambda: scaling.feature_flow(S, [1.0, 2.0], 1.0, per_decade=-1), "per_decade must be .* at least 1"),
    "parts of steps": (lambda: scaling.feature_flow(S, [1.0, 2.0], 1.0, per_decade=-1.5), "per_decade must be a whole"),  # type: ignore[arg-type]
    "a negative ridge": (lambda: spectra.plateaus(S, [4.0], ridge=-0.5), "ridge must be finite and not negative"),
    "negative noise": (lambda: spectra.plateaus(S, [4.0], noise=-0.5), "noise must be finite and not negative"),
    "fewer than no samples": (lambda: spectra.plateaus(S, [-4.0]), "num_samples must not be negative"),
    "cosine to NaN": (lambda: schedules.cosine(4, final=np.nan), "final must be a number, got nan"),
    "linear to NaN": (lambda: schedules.linear(4, final=np.nan), "final must be a number, got nan"),
    "below zero": (lambda: schedules.linear(4, final=-1.0), "final must be finite and not negative"),
    "step 1.5, taken as 1": (lambda: schedules.steps(4, at=[1.5]), "every entry of at must be a whole number"),  # type: ignore[list-item]
    "NaN in a kernel": (lambda: compare.hsic(np.nan * HALF, HALF), "K has 16 NaN"),
    "NaN in a design": (lambda: compare.least_squares(np.nan * HALF, np.ones(4), np.eye(4)), "design has 16 NaN"),
    "NaN in errors": (lambda: compare.least_squares(HALF, np.ones(4), np.nan * HALF), "covariance has 16 NaN"),
    "a rate of -64": (lambda: MEAN.scale("hidden", width=-64, fan_in=-64), "width must be .* at least 1, got -64"),
    "no fan-in": (lambda: MEAN.scale("hidden", width=64, fan_in=0), "fan_in must be .* at least 1, got 0"),
    "parts of blocks": (lambda: MEAN.branch(2.5), "blocks must be a whole number, got 2.5"),  # type: ignore[arg-type]
    "singular noise": (lambda: scaling.random_features(S, 4.0, noise=1e300), "noise must be .*1e.150"),
    "a length of nothing": (lambda: spectra.rbf(3, {0: 1.0}, length=1e-300), "length must be finite and above zero"),
    "a kernel that is not one": (lambda: kernel_descent(PROBLEM, -np.eye(3)), "K must be positive"),
    "a gradient of what has none": (lambda: jax.grad(lambda t: spectra.ntk(MLP(1))(t)[0])(0.5), "t is traced by JAX"),
}
"""On the code before, each of these gave a number, or an exception of NumPy's."""


@pytest.mark.parametrize("name", WITHOUT_MEANING)
def test_what_has_no_meaning_is_refused(name: str) -> None:
    call, says = WITHOUT_MEANING[name]
    with pytest.raises(TypeError if "traced" in says else ValueError, match=says):
        call()


# --- every public function -------------------------------------------------------------------------------------------------

MODULES = (
    "widthwise",
    "widthwise.tasks",
    "widthwise.schedules",
    "widthwise.data",
    "dmft",
    "dmft.scaling",
    "dmft.spectra",
    "finite",
    "finite.linear_models",
    "compare",
    "compare.testing",
)


def public_functions() -> dict[str, Callable[..., Any]]:
    out = {}
    for module in map(importlib.import_module, MODULES):
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if inspect.isfunction(thing) and not name.startswith("_") and own(thing, module):
                out[f"{module.__name__}.{name}"] = thing
    return out


def own(thing: Any, module: ModuleType) -> bool:
    return hasattr(module, "__all__") or thing.__module__ == module.__name__


def test_every_public_function_holds_its_annotations() -> None:
    functions = public_functions()
    assert len(functions) > 80
    assert {name for name, function in functions.items() if not hasattr(function, "__wrapped__")} == set()
    unread = set()
    for name, function in functions.items():
        table = rules(function.__wrapped__)[1]  # type: ignore[attr-defined]
        unread |= {f"{name}({argument})" for argument, rule in table.items() if rule.words == "anything"}
    assert {x for x in unread if x.endswith(("(nets)", "(theory)", "(spectrum)", "(num_steps)", "(width)"))} == set()


def test_methods_that_users_call_hold_theirs() -> None:
    for method in (
        widthwise.Parameterization.scale,
        widthwise.Parameterization.of_richness,
        Spectrum.power_law,
        Spectrum.of_kernel,
        Spectrum.truncated,
        widthwise.KernelSpectra.of,
        widthwise.Result.load,
        widthwise.Result.save,
        widthwise.Fluctuations.loss,
        widthwise.GradientDescent.rates,
    ):
        assert hasattr(method, "__wrapped__"), method
