"""Public functions hold their own annotations: `@checked` reads every argument as what the signature says it is.

An annotation says of what kind an argument is. Its bounds (above zero, at most the width) are checked in the body. It means:

    float, int, bool, str      a finite number, a whole number, True or False, text (through `widthwise.check`)
    Extended, Size             a number, a whole number from 1 on, that may be infinite
    Result, Spectrum, ...      an object of that class
    Literal["a", "b"]          one of the words
    Callable[...]              a function
    str | os.PathLike[str]     a path
    Float[np.ndarray, "M M"]   an array of finite numbers of that rank; equal letters are equal sizes, in all arguments
    Numbers                    a number or an array of numbers of any rank, which may be infinite or NaN
    Sequence[T], Mapping[K, V], tuple[T, ...]   every entry a T
    A | B, A | None            whichever fits
    Annotated[Any, A]          an A, where type checkers cannot follow
    Any                        unread: the body checks it
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import jax
import numpy as np
from jaxtyping import AbstractArray, Int

from widthwise import check

Extended = Annotated[float, "may be infinite"]
"""A number that may be infinite, such as that of samples."""
Size = Annotated[float, "a whole number or infinite"]
"""A whole number above zero, or infinity."""
Numbers = Annotated[Any, "numbers"]
"""A number or an array of numbers of any shape; the body says which."""
Function = TypeVar("Function", bound=Callable[..., Any])
TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where a number is needed that has no value yet."""
Sizes = dict[str, tuple[int, str]]
"""What is known of a call: letter of a shape -> size, and which argument has it."""


@dataclass(frozen=True)
class Rule:
    """How an argument of one annotation is read."""

    words: str
    """What is expected: "a number"."""
    fits: Callable[[Any], bool]
    """Whether a value is of this kind, seen from outside; chooses between the alternatives of A | B."""
    read: Callable[[str, Any, Sizes], Any]
    """Return the value (as float64, as a tuple, ...), or raise ValueError that names the argument."""


def checked(function: Function) -> Function:
    """Return the function with every given argument checked against, and read as, its annotation; a class, with its fields.

    Raises:
        ValueError: with the name of the argument, what it must be, and what it is.
        TypeError: inside `jax.jit`, where the function needs numbers that have no value yet.

    Example:
        >>> @checked
        ... def area(width: float, height: float) -> float:
        ...     return width * height
        >>> area(2, np.float32(3))
        6.0
        >>> area(2, "3")
        Traceback (most recent call last):
        ...
        ValueError: height must be a number, got '3'.
    """

    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        signature, table = rules(function)
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says it with the function's name
        sizes: Sizes = {}
        for name, value in given.arguments.items():
            if (rule := table.get(name)) is not None and value is not signature.parameters[name].default:
                given.arguments[name] = rule.read(name, value, sizes)
        try:
            return function(*given.args, **given.kwargs)
        except TRACED:
            check.outside_jit(function.__qualname__)
            raise

    return cast("Function", wrapper)


@functools.cache
def rules(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Rule]]:
    """The function's signature, and the rule of every argument that has an annotation."""
    signature, names = inspect.signature(function), inspect.unwrap(function).__globals__
    table = {}
    for name, parameter in signature.parameters.items():
        if parameter.annotation is parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        said = parameter.annotation
        try:
            table[name] = SEED if name == "seed" else rule_of(eval(said, names) if isinstance(said, str) else said)
        except NameError:  # a class that is imported for type checkers alone: of a package that may not be installed
            table[name] = ANYTHING
    return signature, table


def rule_of(said: Any) -> Rule:
    """The rule of an annotation."""
    kind, parts = get_origin(said), get_args(said)
    if said in SIMPLE:
        return SIMPLE[said]
    if kind is Annotated:
        return rule_of(parts[1])
    if kind in (Union, types.UnionType):
        return _either(parts)
    if kind is Literal:
        words = f"one of {', '.join(map(repr, parts))}"
        return Rule(words, lambda value: isinstance(value, str), lambda name, value, _: check.choice(name, value, parts))
    if kind is tuple and parts[-1] is not ...:
        return _pair(parts)
    if kind in (tuple, list, Sequence, Iterable):
        return _sequence(parts[0], tuple if kind is tuple else list)
    if kind is Mapping or kind is dict:
        return _mapping(*parts)
    if kind is Callable or said is Callable:
        return Rule("a function", callable, lambda name, value, _: check.function(name, value))
    if isinstance(said, type) and issubclass(said, AbstractArray):
        return _shaped(said)
    if isinstance(kind or said, type):
        return _instance(kind or said)
    raise TypeError(f"@checked does not know what the annotation {said!r} means; see widthwise.checked")


# --- kinds -----------------------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int | float) or getattr(value, "ndim", None) == 0)


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | type)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _text(name: str, value: Any, _: Sizes) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {check.shown(value)}.")
    return str(value)


def _none(name: str, value: Any, _: Sizes) -> None:
    if value is not None:
        raise ValueError(f"{name} must be None, got {check.shown(value)}.")


def _path(name: str, value: Any, _: Sizes) -> Any:
    check.path(name, value)
    return value


def _size(name: str, value: Any, _: Sizes) -> float:
    return check.count(name, value, "Or np.inf.") if check.number(name, value, infinite=True) != np.inf else np.inf


ANYTHING = Rule("anything", lambda value: True, lambda name, value, _: value)
NOTHING = Rule("None", lambda value: value is None, _none)
PATH = Rule("a path", lambda value: isinstance(value, str | os.PathLike), _path)
SEED = Rule("a seed", _is_number, lambda name, value, _: check.seed(name, value))
SIMPLE: dict[Any, Rule] = {
    Any: ANYTHING,
    object: ANYTHING,
    None: NOTHING,
    type(None): NOTHING,
    bool: Rule("True or False", _is_flag, lambda name, value, _: check.flag(name, value)),
    int: Rule("a whole number", _is_number, lambda name, value, _: check.whole(name, value)),
    float: Rule("a number", _is_number, lambda name, value, _: check.number(name, value)),
    str: Rule("text", lambda value: isinstance(value, str), _text),
    Extended: Rule("a number", _is_number, lambda name, value, _: check.number(name, value, infinite=True)),
    Size: Rule("a whole number or np.inf", _is_number, _size),
    Numbers: Rule("an array of numbers", lambda v: _is_number(v) or _is_array(v), lambda name, v, _: check.numbers(name, v)),
}
CURES = {
    "Result": "It is what dmft.solve and finite.train return.",
    "Method": "Pass March(), TwoLayer(), DeepLinear() or Lazy(), or leave it out.",
}


def _instance(kind: type) -> Rule:
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    cure = CURES.get(kind.__name__, "")

    def read(name: str, value: Any, _: Sizes) -> Any:
        check.instance(name, value, kind, cure)
        return value

    return Rule(f"{article} {kind.__name__}", lambda value: isinstance(value, kind), read)


def _either(parts: tuple[Any, ...]) -> Rule:
    """The first of several kinds that fits; a path is text or a PathLike."""
    if any(part is os.PathLike or get_origin(part) is os.PathLike for part in parts):
        rest = tuple(part for part in parts if part is not str and os.PathLike not in (part, get_origin(part)))
        options = [PATH, *map(rule_of, rest)]
    else:
        options = [rule_of(part) for part in parts]
    words = " or ".join(option.words for option in options)

    def read(name: str, value: Any, sizes: Sizes) -> Any:
        fitting = next((option for option in options if option.fits(value)), None)
        if fitting is None and len(options) == 2 and options[1] is NOTHING:
            fitting = options[0]  # it says best what is wrong
        if fitting is None:
            raise ValueError(f"{name} must be {words}, got {check.shown(value)}.")
        return fitting.read(name, value, sizes)

    return Rule(words, lambda value: any(option.fits(value) for option in options), read)


def _pair(parts: tuple[Any, ...]) -> Rule:
    each = [rule_of(part) for part in parts]
    inside = f"({', '.join(rule.words for rule in each)})"
    words = f"{'a pair' if len(each) == 2 else f'{len(each)} entries'} {inside}"

    def read(name: str, value: Any, sizes: Sizes) -> Any:
        entries = check.sequence(name, value) if _is_sequence(value) else []
        if len(entries) != len(each):
            raise ValueError(f"{name} must be {words}, got {check.shown(value)}.")
        return tuple(rule.read(f"entry {i} of {name}", x, sizes) for i, (rule, x) in enumerate(zip(each, entries, strict=True)))

    return Rule(words, _is_sequence, read)


def _sequence(part: Any, make: type) -> Rule:
    entry = rule_of(part)
    like = {int: "[1, 2]", float: "[0.1, 0.2]", str: '["a", "b"]'}.get(part, "[a, b]")

    def read(name: str, value: Any, sizes: Sizes) -> Any:
        return make(entry.read(f"every entry of {name}", x, {**sizes}) for x in check.sequence(name, value, like=like))

    return Rule(f"a sequence like {like}", _is_sequence, read)


def _mapping(key: Any, part: Any) -> Rule:
    keys, entry = rule_of(key), rule_of(part)
    words = f"a dict {{{keys.words}: {entry.words}}}"
    cure = "E.g. {64: finite.train(problem, width=64, num_seeds=8)}." if entry.words.startswith("a Result") else ""

    def read(name: str, value: Any, sizes: Sizes) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be {words}, got {check.shown(value)}.{' ' if cure else ''}{cure}")
        return {
            keys.read(f"every key of {name}", k, sizes): entry.read(f"{name}[{check.shown(k)}]", x, {**sizes})
            for k, x in value.items()
        }

    return Rule(words, lambda value: isinstance(value, Mapping), read)


def _shaped(said: Any) -> Rule:
    """An array; letters of its shape that come again must be the same size."""
    axes = said.dim_str.split()
    free = [i for i, axis in enumerate(axes) if axis == "..." or axis.startswith("*")]
    letters = ", ".join(axis.lstrip("*") for axis in axes)
    words = f"an array of numbers of shape ({letters}{',' if len(axes) == 1 else ''})"
    shape = words[words.index("(") :]

    def read(name: str, value: Any, sizes: Sizes) -> Any:
        out = check.array(name, value, None if free else len(axes), shape)
        if free and out.ndim < len(axes) - 1:
            raise ValueError(f"{name} must have shape {shape}, got an array of shape {out.shape}.")
        head = free[0] if free else len(axes)
        tail = len(axes) - head - 1
        fixed = [*zip(axes[:head], out.shape, strict=False), *zip(axes[head + 1 :], out.shape[out.ndim - tail :], strict=False)]
        for letter, size in fixed:
            expected, owner = sizes.setdefault(letter, (size, name))
            if size != expected:
                where = "" if owner == name else f" as {owner} has"
                raise ValueError(f"{name} must have shape {shape} with {letter} = {expected}{where}, got shape {out.shape}.")
        if said.dtype is Int:
            whole = out.astype(np.int64)
            if (whole != out).any():
                raise ValueError(f"{name} must be an array of whole numbers of shape {shape}, got {check.shown(value)}.")
            return whole
        return out

    return Rule(words, _is_array, read)
