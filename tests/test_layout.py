"""The house rules that a reader relies on: who imports whom, everything public explained, one table of widths, light import."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "widthwise": set(),
    "dmft": {"widthwise"},
    "finite": {"widthwise"},
    "compare": {"widthwise"},
    "paper_figures": {"widthwise", "dmft", "finite", "compare"},
}
"""Package -> the packages of ours that it may import. Theory and experiment not knowing each other is the control."""


def trees(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ast.parse(path.read_text())


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the absolute imports anywhere in the code; doctests and strings are not code."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            argument = node.args[0]
            names |= {argument.value.split(".")[0]} if isinstance(argument, ast.Constant) else set()
    return names


def forbidden(package: str, tree: ast.AST) -> set[str]:
    return imported(tree) & (MAY_IMPORT.keys() - MAY_IMPORT[package] - {package})


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_who_imports_whom(package: str) -> None:
    found = {str(path): forbidden(package, tree) for path, tree in trees(package)}
    assert len(found) > 1
    assert not {path: names for path, names in found.items() if names}


def test_forbidden_imports_are_seen() -> None:
    """Negative twin."""
    for code in (
        "import finite",
        "from finite.mlp import init",
        "def f():\n    import finite as x",
        "import numpy, finite.train",
    ):
        assert forbidden("dmft", ast.parse(code)) == {"finite"}
    assert forbidden("dmft", ast.parse("importlib.import_module('finite.mlp')")) == {"finite"}
    assert forbidden("compare", ast.parse("import dmft, widthwise")) == {"dmft"}
    assert forbidden("widthwise", ast.parse("from widthwise import check")) == set()


def test_neural_tangents_has_one_door() -> None:
    users = [str(path.relative_to(ROOT)) for p in MAY_IMPORT for path, tree in trees(p) if "neural_tangents" in imported(tree)]
    assert users == ["dmft/neural_tangents.py"]


# --- docstrings ------------------------------------------------------------------------------------------------------------


def public() -> Iterator[tuple[str, object]]:
    """Everything that the packages export, with the public methods of its classes; and every module."""
    for package in ("widthwise", "dmft", "finite", "compare"):
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, str):
                continue  # a version
            yield f"{package}.{name}", thing
            if isinstance(thing, ModuleType):
                yield from ((f"{thing.__name__}.{k}", v) for k, v in vars(thing).items() if is_public(k, v, thing.__name__))
            if isinstance(thing, type):
                yield from ((f"{package}.{name}.{k}", v) for k, v in vars(thing).items() if is_public(k, v, thing.__module__))


def is_public(name: str, value: object, module: str) -> bool:
    value = getattr(value, "__func__", getattr(value, "fget", value))  # static methods, properties
    return not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module


def documented(thing: object) -> bool:
    own = thing.__doc__ or ""  # not inspect.getdoc, which inherits
    made_by_dataclass = isinstance(thing, type) and own.startswith(f"{thing.__name__}(")
    return bool(own.strip()) and not made_by_dataclass


SELF_EXPLAINING = {"widthwise.Result.mean", "widthwise.Result.sem"}  # they are what Estimate's are


def test_everything_public_has_a_docstring() -> None:
    things = dict(public())
    assert {
        "dmft.solve",
        "finite.train",
        "compare.agrees",
        "widthwise.Problem.replace",
        "widthwise.tasks.sphere",
    } <= things.keys()
    assert {name for name, thing in things.items() if not documented(thing)} <= SELF_EXPLAINING


def test_every_module_has_a_docstring() -> None:
    assert not [str(path) for package in MAY_IMPORT for path, tree in trees(package) if not ast.get_docstring(tree)]


def test_functions_that_users_call_have_an_example() -> None:
    """A runnable example (doctested) on every function in `__all__`; on methods and small dataclasses it is optional."""
    functions = {name: thing for name, thing in public() if inspect.isfunction(thing) and name.count(".") == 1}
    assert functions
    assert not {name for name, thing in functions.items() if ">>>" not in (thing.__doc__ or "")}


# --- powers of the width ---------------------------------------------------------------------------------------------------


def outside_checks(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those in functions called `_check_...`."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.FunctionDef) and child.name.startswith("_check_")):
            yield from outside_checks(child)


def powers_of_the_width(tree: ast.AST) -> list[str]:
    """Expressions width ** x, sqrt(width), x / width of a variable `width` or `N`."""

    def is_width(node: ast.AST) -> bool:
        return ast.unparse(node) in ("N", "width") or (isinstance(node, ast.Attribute) and node.attr == "width")

    found = []
    for node in outside_checks(tree):
        power = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and is_width(node.left)
        ratio = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_width(node.right)
        root = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sqrt") and any(map(is_width, node.args))
        if power or ratio or root:
            found.append(ast.unparse(node))
    return found


def test_powers_of_the_width_stand_in_one_table() -> None:
    """Of the trainer's and the solver's code; an average over neurons is taken by shape, and is no parameterization."""
    found = {str(path): powers_of_the_width(tree) for package in ("finite", "dmft") for path, tree in trees(package)}
    assert not {path: powers for path, powers in found.items() if powers}
    for path, tree in trees("widthwise"):
        assert path.name == "parameterization.py" or not powers_of_the_width(tree)
    # negative twin
    for code in ("w / width", "width ** -0.5 * W", "jnp.sqrt(N)", "eta0 * problem.width ** 2"):
        assert powers_of_the_width(ast.parse(code)), code
    table = ast.parse((ROOT / "widthwise" / "parameterization.py").read_text())
    assert "width ** self.N" in powers_of_the_width(table)


# --- the cost of importing -------------------------------------------------------------------------------------------------

HEAVY = {"neural_tangents", "sklearn", "matplotlib", "tensorflow", "pandas", "sympy", "scipy.special", "scipy.stats"}


def import_seconds(package: str) -> tuple[float, float]:
    """CPU-bound seconds of `import jax` and, after it, of `import package`, in a fresh process."""
    code = f"""
import time
start = time.process_time(); import jax; after_jax = time.process_time(); import {package}; end = time.process_time()
import sys
print(after_jax - start, end - after_jax, *sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    jax_seconds, seconds, *heavy = done.stdout.split()
    assert not heavy, f"import {package} loads {heavy}: import them where they are used"
    return float(jax_seconds), float(seconds)


@pytest.mark.parametrize("package", ["dmft", "finite", "compare"])
def test_import_is_light(package: str) -> None:
    """Below 0.3 s beyond JAX, of three tries the best (a busy machine only adds); or a quarter of JAX's own on a slow one.

    JAX alone takes about a second of processor time; scipy.stats or scikit-learn alone would be over the limit.
    """
    limits = []
    for _ in range(3):
        jax_seconds, seconds = import_seconds(package)
        if seconds < max(0.3, jax_seconds / 4):
            return
        limits.append((round(seconds, 2), round(jax_seconds, 2)))
    pytest.fail(f"import {package} took (seconds, of JAX) {limits}")
