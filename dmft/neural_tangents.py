"""neural-tangents 0.5.0 on today's JAX: `from dmft import neural_tangents as nt`, then `nt.stax`, `nt.predict`, ...

The library is archived. Its last release needs TensorFlow and does not import on current JAX; version 0.5.0 needs neither
TensorFlow nor anything else that JAX has dropped for good, only four names under which JAX used to offer things it still has.
They are put in place while the library is imported and taken away again; three look-ups that it makes later, inside its own
modules, are redirected there. JAX is left as it was found, and the library is loaded at the first use, not by `import dmft`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.interpreters.pxla


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(load(), name)


@functools.cache
def load() -> types.ModuleType:
    """The package neural_tangents, imported at the first call.

    Example:
        >>> load().__version__
        '0.5.0'
    """
    with _old_names():
        package = importlib.import_module("neural_tangents")
    monte_carlo, predict, linear = (
        sys.modules[f"neural_tangents._src.{name}"] for name in ("monte_carlo", "predict", "stax.linear")
    )
    monte_carlo.random = _Over(jax.random, KeyArray=jax.Array)  # type: ignore[attr-defined]
    predict.jax = linear.jax = _Over(  # type: ignore[attr-defined]
        jax, core=_Over(jax.core, eval_context=jax.ensure_compile_time_eval)
    )
    scipy = predict.osp
    predict.osp = _Over(scipy, linalg=_Over(scipy.linalg, eigvalsh=_eigvalsh))  # type: ignore[attr-defined]
    return package


class _ShardedDeviceArray:
    """Stands for a class that no array is an instance of any more."""


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """JAX with the four names that neural-tangents 0.5.0 imports, for the duration of the context."""
    shaped_array = jax.core.ShapedArray if hasattr(jax.core, "ShapedArray") else type(jax.typeof(0.0))
    names = (
        (jax, "ShapedArray", shaped_array),
        (jax.tree_util, "tree_multimap", jax.tree_util.tree_map),
        (jax.random, "KeyArray", jax.Array),
        (jax.interpreters.pxla, "ShardedDeviceArray", _ShardedDeviceArray),
    )
    absent = [(module, name, value) for module, name, value in names if name not in vars(module)]
    for module, name, value in absent:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, _ in absent:
            delattr(module, name)


class _Over(types.ModuleType):
    """A module with some of its names replaced; the module itself is not touched."""

    def __init__(self, module: types.ModuleType, **names: Any):
        super().__init__(module.__name__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)


def _eigvalsh(a: Any, eigvals: tuple[int, int] | None = None, **settings: Any) -> Any:
    """`scipy.linalg.eigvalsh` under the name that its keyword had."""
    import scipy.linalg  # 0.3 s, so where it is used

    return scipy.linalg.eigvalsh(a, subset_by_index=eigvals, **settings)
