"""The checks of what a user hands in: what passes, what is refused, and that the message says expected, got and cure."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fuzzing import Hostile
from widthwise import GradientDescent, check, tasks

NUMBERS = [
    2,
    2.0,
    np.float16(2),
    np.int8(2),
    np.uint64(2),
    np.longdouble(2),
    np.array(2.0),
    np.array(2),
    jnp.array(2.0),
    jnp.array(2, jnp.bfloat16),
    Fraction(2),
]
NO_NUMBERS = [
    None,
    True,
    np.bool_(True),
    "2",
    b"2",
    2j,
    np.complex64(2),
    Decimal(2),
    [2.0],
    np.array([2.0]),
    np.ma.masked,
    np.ma.array(2.0, mask=True),
    np.datetime64("2020-01-01"),
    np.timedelta64(2),
    datetime.date(2020, 1, 1),
    float,
    ...,
    lambda: 2,
]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers_of_every_library_are_numbers(value: Any) -> None:
    for read in (check.number, check.positive, check.at_least_zero):
        got = read("x", value)
        assert got == 2.0
        assert type(got) is float


@pytest.mark.parametrize("value", [*NO_NUMBERS, Hostile(), float("nan")], ids=lambda v: type(v).__name__)
def test_everything_else_is_no_number(value: Any) -> None:
    for read in (check.number, check.positive, check.at_least_zero, check.count, check.seed):
        with pytest.raises(ValueError, match=r"^x must be .*, got .{1,80}\.( Cure\.)?$"):
            read("x", value)


def test_bounds_of_numbers() -> None:
    assert check.number("x", -3) == -3.0
    assert check.number("x", float("inf"), infinite=True) == float("inf")
    assert check.number("x", 1, least=1) == 1.0
    assert check.at_least_zero("x", 0) == 0.0
    for value in (float("inf"), -float("inf"), 10**400, -(10**400), 1e200):
        with pytest.raises(ValueError, match=r"x must be a finite number( \(of size up to 1e\+150\))?, got"):
            check.number("x", value)
    with pytest.raises(ValueError, match=r"x must be a number of at least 1, got 0\.5\. Raise it\."):
        check.number("x", 0.5, "Raise it.", least=1)
    for value in (0, -1.0, float("inf"), 10**400, Fraction(1, 10**400), 1e200, 1e-200):
        with pytest.raises(ValueError, match="x must be finite and above zero"):
            check.positive("x", value)
    for value in (-1e-300, float("inf"), 1e200):
        with pytest.raises(ValueError, match="x must be finite and not negative"):
            check.at_least_zero("x", value)
    assert 1 / check.positive("x", check.positive("x", 1e-150)) ** 2 < float("inf")
    assert check.positive("x", 1e150) ** 2 < float("inf")


def test_whole_numbers_and_seeds() -> None:
    for value in (3, np.int8(3), np.array(3), jnp.array(3), np.uint64(3)):
        for read in (check.count, check.seed):
            assert read("n", value) == 3
            assert type(read("n", value)) is int
    for bad in (3.0, np.float32(3), np.array(3.0), Fraction(3), 0, -1, 2**63, np.uint64(2**63), 10**30):
        with pytest.raises(ValueError, match="n must be a whole number"):
            check.count("n", bad)
    assert check.seed("seed", 0) == 0
    for bad in (-1, 2**32, 0.5):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            check.seed("seed", bad)


def test_seeds_end_where_two_would_be_one() -> None:
    """A key of JAX without 64-bit mode keeps 32 bits of the seed: the first refused one would give the networks of seed 0."""
    with jax.enable_x64(False):
        last, first, refused = (jax.random.key_data(jax.random.key(seed)) for seed in (check.SEEDS - 1, 0, check.SEEDS))
    assert (last != first).any()
    assert (refused == first).all()


def test_sequences() -> None:
    for value in ([1, 2], (1, 2), np.array([1, 2]), jnp.array([1, 2]), iter([1, 2]), range(1, 3), {1: "a", 2: "b"}.keys()):
        assert check.counts("n", value) == (1, 2)
    for value in (1, 1.5, None, "12", b"12", {1: 2}, np.array(1), np.ma.array([1, 2], mask=[0, 1]), list, ..., Hostile()):
        with pytest.raises(ValueError, match=r"n must be a sequence like \[1, 2\], got .*\. Cure\."):
            check.counts("n", value, "Cure.")
    with pytest.raises(ValueError, match="every entry of n must be a whole number of at least 1, got 0"):
        check.counts("n", [1, 0])
    with pytest.raises(ValueError, match="every entry of n must be a whole number of at least 0, got 'a'"):
        check.counts("n", [1, "a"], least=0)


def test_shapes_that_go_together() -> None:
    a, b = check.broadcast(a=np.ones((2, 1)), b=np.ones(3))
    assert a.shape == b.shape == (2, 3)
    with pytest.raises(ValueError, match=r"shapes must go together .* got a \(2,\), b \(3,\)"):
        check.broadcast(a=np.ones(2), b=np.ones(3))


def test_arrays_of_some_shape() -> None:
    assert check.per("x", 2, (3,), "step").tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=r"x must be one number or one per step, shape \(3,\); got shape \(2,\)"):
        check.per("x", [1, 2], (3,), "step")
    check.no_empty_row("A", np.eye(2))
    for small in (0.0, 1e-200):
        with pytest.raises(ValueError, match="A must have no row of zeros, got one at index 1"):
            check.no_empty_row("A", np.array([[1.0, 0.0], [small, 0.0]]))


def test_functions_of_the_users() -> None:
    assert check.called("f(x)", lambda x: 2 * x, np.ones(2), shape=(2,)).tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match=r"f\(x\) fails with ZeroDivisionError: division by zero. Cure\."):
        check.called("f(x)", lambda x: 1 / 0, np.ones(2), shape=(2,), cure="Cure.")
    for bad in (1.0, [1.0, np.nan], "text", None):
        with pytest.raises(ValueError, match=r"f\(x\) must be"):
            check.called("f(x)", lambda x, bad=bad: bad, np.ones(2), shape=(2,))


def test_a_sequence_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LONGEST", 100)
    with pytest.raises(ValueError, match="at most 100 entries"):
        check.sequence("n", itertools.count())


def test_arrays_of_numbers() -> None:
    for value in ([1, 2], np.array([1, 2], np.int8), jnp.array([1.0, 2.0]), jnp.array([1, 2], jnp.bfloat16), [Fraction(1), 2]):
        got = check.array("x", value, 1, "(n,)")
        assert got.dtype == np.float64
        assert got.tolist() == [1.0, 2.0]
        assert not got.flags.writeable
    assert check.array("x", [10**17, 1], 1, "(n,)").tolist() == [1e17, 1.0]
    assert check.array("x", np.ma.array([1.0, 2.0], mask=[0, 0]), 1, "(n,)").tolist() == [1.0, 2.0]  # a mask without entries
    assert check.array("x", np.ones((2, 3)), None, "of any rank").shape == (2, 3)
    got = check.numbers("x", [np.nan, np.inf])
    assert np.isnan(got[0])
    assert np.isinf(got[1])


@pytest.mark.parametrize(
    ("value", "says"),
    {
        "masked": (np.ma.array([1.0, 2.0], mask=[0, 1]), "masked entries; fill or remove them"),
        "digits": (["1", "2"], "its entries are text"),
        "bytes": (np.array([b"1"]), "its entries are bytes"),
        "dates": (np.array(["2020-01-01"], dtype="M8[D]"), "its entries are dates"),
        "times": (np.array([1], dtype="m8[s]"), "differences of dates"),
        "complex": ([1j], "its entries are complex"),
        "records": (np.zeros(2, dtype=[("a", float)]), "its entries are records"),
        "objects": ([1.0, None], "it holds None"),
        "one text among numbers": (np.array([1, "a"], dtype=object), "it holds 'a'"),
        "ragged": ([[1], [1, 2]], "inhomogeneous"),
        "set": ({1, 2}, "it holds {1, 2}"),
        "hostile": (Hostile(), "no array"),
    }.values(),
)
def test_what_is_no_array_of_numbers(value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^x must be an array of numbers of shape \(n,\), got .*{says}.* Cure\.$"):
        check.array("x", value, 1, "(n,)", "Cure.")


def test_masks_dates_and_digits_are_no_data() -> None:
    """They were taken as numbers: the masked value as if it were one, a date as its days since 1970."""
    X, y = np.eye(2), np.ones(2)
    for bad in (np.ma.array(y, mask=[0, 1]), np.array(["1", "2"]), np.array([0, 1], dtype="M8[D]")):
        with pytest.raises(ValueError, match="y must be an array of numbers"):
            tasks.Task(X, bad)
    with pytest.raises(ValueError, match="schedule must be an array of numbers"):
        GradientDescent(0.1, 2, schedule=["1", "2"])


def test_traced_values_are_named() -> None:
    reads: list[Callable[[Any], Any]] = [
        lambda x: check.number("x", x),
        lambda x: check.count("x", x),
        lambda x: check.array("x", x, 0, "()"),
        lambda x: check.sequence("x", x),
    ]
    for read in reads:
        with pytest.raises(TypeError, match="x is traced by JAX"):
            jax.grad(read)(1.0)


def test_words_kinds_functions_and_paths() -> None:
    assert check.choice("kind", np.str_("a"), ("a", "b")) == "a"
    for bad in ("c", None, 1, np.array("a"), np.array(["a"]), ["a"], Hostile()):
        with pytest.raises(ValueError, match="kind must be one of 'a', 'b'; got"):
            check.choice("kind", bad, ("a", "b"))
    assert check.function("link", len) is len
    with pytest.raises(ValueError, match="link must be a function, got 2"):
        check.function("link", 2)
    with pytest.raises(ValueError, match=r"theory must be a Result, got None\. It is what dmft\.solve"):
        check.result("theory", None)
    assert check.path("path", "a/b") == "a/b"
    for bad in (3, b"a", None, "a\0b", ""):
        with pytest.raises(ValueError, match="path must be a path"):
            check.path("path", bad)


def test_what_came_is_shown_briefly() -> None:
    assert check.shown([1, 2]) == "[1, 2]"
    assert check.shown(np.zeros((3, 4))) == "an array of shape (3, 4) and dtype float64"
    assert check.shown(np.eye(2)) == "array([[1., 0.], [0., 1.]])"  # one line
    assert check.shown(Hostile()) == check.shown(Hostile()) == "an object of type Hostile"
    assert check.shown(10**5000) == "an object of type int"
    assert len(check.shown("x" * 1000)) <= 80
