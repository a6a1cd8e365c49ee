"""Calls of every public entry with one or two arguments that make no sense, drawn from a seed.

A call may return, or raise what says in our own words what is wrong: a ValueError, TypeError or MemoryError that a `raise` of
the package raised, or an OSError that names its file. Everything else is a fault: another exception, one that came out of a
library below, a NaN in what is returned, a call that does not end.

    python -m tests.fuzzing --seed 0 --calls 3000 [--only name] [--kind quick]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import decimal
import fractions
import io
import json
import linecache
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.fuzz_entries import ENTRIES, Entry

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECONDS = 30
"""Longest call."""
ADDRESSES = 20 * 2**30
"""Bytes of address space of the process; what wants more fails, and our own refusals come before."""
OURS = ("widthwise", "dmft", "finite", "compare")
CLEAR = (ValueError, TypeError, MemoryError, OSError)


class Hostile:
    """An object that objects to being looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise KeyError("no array")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __len__(self) -> int:
        raise OSError("no length")

    __hash__ = None  # type: ignore[assignment]


class Weird:
    """An object like any other."""


TEXT = """
None  ...  True  False  np.True_  0  1  2  3  5  64  -1  -7  10**9  10**18  10**30  -(10**20)  2**63  2**32
0.0  0.5  1.0  2.9  -0.5  -1.5  -0.0  1e-12  1e-300  5e-324  1e300  1e308  -1e308  float('nan')  float('inf')  -float('inf')
np.float16(65504)  np.float32(0.5)  np.int8(3)  np.int64(5)  np.uint64(2**63)  np.longdouble(2)  np.float64('nan')
complex(1, 2)  1j  fractions.Fraction(1, 2)  decimal.Decimal('1.5')  ''  'x'  '2'  'tanh'  'adam'  'mse'  'NTK'  'train'  'test'
'fit'  'mean_field'  b'x'  np.str_('mean_field')  ['NTK']  []  ()  {}  set()  {1, 2}  {'a': 1}  {64: 1, 128: 2}  [1]  [2, 1]
[0, 5]  [1, 1, 1]  [0.1, 0.2, 0.3]  [1e308, 1e308]  [[0, 1], [1, 0]]  [[0, 1], [1, 0], [0, 0]]  [[]]  [[1], [1, 2]]  [10**9]
[None, 1.0]  ['1', '2']  range(3)  iter([1, 2])  (i for i in (1, 2, 3))  slice(None)  slice(1, None, 2)  int  object  Weird
Weird()  Hostile()  [Hostile()]  (lambda *a: 'x')  (lambda *a: 1 / 0)  (lambda h: h * jnp.nan)  (lambda x: x)  len
datetime.date(2020, 1, 1)  np.datetime64('2020-01-01')  np.timedelta64(3)  memoryview(b'ab')
np.array(2)  np.array(1.0)  np.array('mean_field')  np.array([])  np.array([3, 1, 2])  np.array([1.0, 2.0, 3.0])
np.array([1.0, 2.0])  np.array([np.nan, 1.0])  np.array([np.inf, 1.0])  np.array([1e-320, 1.0])  np.array(['a', 'b'])
np.array(['1', '2', '3'])  np.array([b'1'])  np.array([1, 'a', None], dtype=object)  np.array([1, 2, 3], dtype=object)
np.array(['2020-01-01'], dtype='M8[D]')  np.array([1, 2], dtype='m8[s]')  np.array([True, False, True])  np.array([1j, 2.0])
np.array([[1.0, 2.0], [3.0, 4.0]])  np.array([[2.0, 1.0], [1.0, 2.0]])  np.zeros(3)  np.zeros((2, 2))  np.zeros((0, 3))
np.zeros((2, 2, 2))  np.ones((3, 3)) * 1e200  np.ma.array([1.0, 2.0], mask=[0, 1])  np.ma.masked
np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]])  np.zeros(2, dtype=[('a', float)])
jnp.array(1.0)  jnp.array(3)  jnp.array([1.0, 2.0])  jnp.array([[1.0, 2.0], [3.0, 4.0]])  jnp.array([jnp.nan])
base  base  base[:0]  base[:1]  base[..., None]  base.astype(str)  base.astype(object)  base * np.nan  base * 1j  -base
base + base  base * 1e200  base * 1e-200  base * 0  [base]  (base, base)  {64: base}  list(base)  base.tolist()  str(base)
base[::-1]  np.ma.masked_less(base, 0.1)  jnp.asarray(base)
"""
POOL = [text for line in TEXT.split("\n") for text in line.split("  ") if text]
"""What goes in the place of an argument; `base` is the value that makes sense."""
NAMES = {
    "np": np,
    "jnp": jnp,
    "datetime": datetime,
    "decimal": decimal,
    "fractions": fractions,
    "Weird": Weird,
    "Hostile": Hostile,
}


class Hang(BaseException):
    """A call that took too long."""


def run(seed: int, number: int, kinds: set[str], only: str = "") -> Iterator[dict[str, Any]]:
    """The faults among so many calls; call i of a seed is the same whatever came before it."""
    signal.signal(signal.SIGALRM, _alarm)
    entries = [entry for entry in ENTRIES if entry.kind in kinds and only in entry.name]
    weights = np.array([entry.weight * len(entry.base) for entry in entries], dtype=float)
    bases = {}
    for i in range(number):
        rng = np.random.default_rng([seed, i])
        entry = entries[rng.choice(len(entries), p=weights / weights.sum())]
        if entry.name not in bases:
            bases[entry.name] = {name: make() for name, make in entry.base.items()}
            if (fault := judged(entry, dict(bases[entry.name]))) is not None:
                yield {"entry": entry.name, "args": {}, **fault}
        names = list(rng.permutation(list(entry.base))[: rng.choice([1, 1, 1, 2])])
        args, said = dict(bases[entry.name]), {}
        for name in names:
            text = str(rng.choice(POOL))
            try:
                args[name] = eval(text, NAMES | {"base": args[name]})
            except Exception:  # base has no such form
                text, args[name] = "None", None
            said[str(name)] = text
        if (fault := judged(entry, args)) is not None:
            yield {"call": i, "entry": entry.name, "args": said, **fault}


def judged(entry: Entry, args: dict[str, Any]) -> dict[str, Any] | None:
    """What is wrong with a call, or None."""
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = entry.call(**args)
            where = None if entry.nan else not_finite(out)
    except Hang as error:
        return {"fault": "hang", "site": site(error)}
    except entry.expected:
        return None
    except CLEAR as error:
        named = isinstance(error, OSError) and error.filename is not None  # says which file, whoever raises it
        return None if named or ours(error) else {"fault": f"{type(error).__name__}: {short(error)}", "site": site(error)}
    except Exception as error:
        if traceback.extract_tb(error.__traceback__)[-1].filename == "<string>":
            return None  # a function of the user's fails in its own words
        return {"fault": f"{type(error).__name__}: {short(error)}", "site": site(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if where is not None:
        return {"fault": f"NaN in {where}", "site": "returned"}
    if time.monotonic() - start > SECONDS:
        return {"fault": "hang", "site": "in a library"}
    return None


def ours(error: BaseException) -> bool:
    """Whether a `raise` of the package raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return package_of(last.filename) in OURS and (line.startswith("raise ") or " raise " in line)


def package_of(file: str) -> str:
    return os.path.relpath(file, ROOT).split(os.sep)[0]


def site(error: BaseException) -> str:
    """The innermost place in the package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if package_of(f.filename) in OURS]
    last = [f for f in frames if not f.filename.endswith("checked.py")] or frames
    return f"{os.path.relpath(last[-1].filename, ROOT)}:{last[-1].lineno}" if last else "outside"


def short(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:200]
    except Exception:
        return "(no message)"


def not_finite(out: Any, name: str = "it", depth: int = 0) -> str | None:
    """Where a NaN is in what was returned, or None; of a Result that says it is not ok, anything may be."""
    if depth > 6 or (hasattr(out, "status") and not getattr(out.status, "ok", True)):
        return None
    if isinstance(out, float | np.floating | np.ndarray) or (hasattr(out, "dtype") and hasattr(out, "shape")):
        value = np.asarray(out)
        return name if value.dtype.kind in "fc" and np.isnan(value).any() else None
    parts: Any = ()
    if dataclasses.is_dataclass(out) and not isinstance(out, type):
        parts = ((f.name, getattr(out, f.name)) for f in dataclasses.fields(out))
    elif isinstance(out, dict):
        parts = out.items()
    elif isinstance(out, list | tuple):
        parts = enumerate(out)
    found = (not_finite(value, f"{name}.{key}", depth + 1) for key, value in parts)
    return next((place for place in found if place is not None), None)


def _alarm(*_: Any) -> None:
    raise Hang


def main() -> None:
    """Print every fault as a line of JSON, then the number of calls; the exit status says whether there were faults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--kinds", default="quick,costly")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    os.chdir(tempfile.mkdtemp())  # some calls write files
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    faults, out = 0, sys.stdout
    with contextlib.redirect_stdout(io.StringIO()):  # what calls print
        for fault in run(given.seed, given.calls, set(given.kinds.split(",")), given.only):
            faults += 1
            print(json.dumps(fault), flush=True, file=out)
    print(json.dumps({"calls": given.calls, "faults": faults}))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
