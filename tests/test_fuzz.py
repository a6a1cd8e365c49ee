"""Calls with arguments that make no sense say so: nothing obscure, nothing that hangs, no NaN. See `tests.fuzzing`."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compare
import dmft
import finite
import widthwise
from dmft import scaling, spectra
from finite import linear_models
from tests import fuzzing
from tests.fuzz_entries import Entry, drawn, entry
from widthwise import Result, check, data, schedules, tasks
from widthwise.storage import read_arrays, write_arrays

ROOT = Path(__file__).parent.parent


def faults(*arguments: str, seconds: int) -> list[dict[str, Any]]:
    """Those of a process of its own, whose memory is bounded."""
    command = [sys.executable, "-m", "tests.fuzzing", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr[-2000:]
    assert "calls" in lines[-1], f"the process ended after {lines[-1]}: {done.stderr[-2000:]}"
    return lines[:-1]


def test_a_sample_of_calls() -> None:
    assert not faults("--calls", "150", "--kinds", "quick", "--seed", "0", seconds=300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_calls(seed: int) -> None:
    assert not faults("--calls", "3000", "--kinds", "quick", "--seed", str(seed), seconds=3000)


@pytest.mark.slow
def test_many_calls_that_compile() -> None:
    assert not faults("--calls", "600", "--kinds", "costly", "--seed", "1", seconds=3000)


# --- files whose checksums are right and whose contents are not ---------------------------------------------------------------


def odd_json(value: Any, rng: np.random.Generator) -> Any:
    """The header with one of its parts replaced, or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice([*value]))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: odd_json(value[key], rng)}
    return [None, -1, 0, 3, 2.5, 1e308, "x", "", [], {}, [1, 2], {"a": 1}, True, [None], [["x"]]][rng.integers(15)]


def odd_array(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    odd = (
        x[:0],
        x[:1],
        x[..., None],
        x.astype(str),
        x.astype(complex),
        np.array(1.0),
        -x - 1,
        x.ravel(),
        np.zeros((2, 3)),
        x.T,
    )
    return odd[rng.integers(len(odd))]


def test_contents_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """An axis of another length, a part of the header that is missing or of another kind: a message of ours, or a Result."""
    drawn(16).save(tmp_path / "net.npz")
    arrays = read_arrays(tmp_path / "net.npz")
    refused = []
    for i in range(300):
        rng = np.random.default_rng([7, i])
        changed = dict(arrays)
        if i % 2:
            header = odd_json(json.loads(str(arrays["header"])), rng)
            changed["header"] = np.array(json.dumps(header))
        else:
            name = str(rng.choice([name for name in arrays if name != "header"]))
            changed[name] = odd_array(arrays[name], rng)
        write_arrays(tmp_path / "odd.npz", changed)
        try:
            assert str(Result.load(tmp_path / "odd.npz"))
        except ValueError as error:
            refused.append(fuzzing.ours(error))
    assert len(refused) > 200
    assert all(refused)


# --- the judge, judged -----------------------------------------------------------------------------------------------------


def answer(x: Any) -> Any:
    return x


def hang(x: Any) -> Any:
    while True:
        pass


@pytest.mark.parametrize(
    ("call", "fault"),
    {
        "a number": (lambda x: 1.0, None),
        "our words": (lambda x: check.positive("x", x), None),
        "words of a library": (lambda x: np.zeros(3) + np.zeros(2), "ValueError: operands"),
        "another exception": (lambda x: {}["x"], "KeyError"),
        "NaN": (lambda x: {"a": [np.array([1.0, np.nan])]}, "NaN in it.a.0"),
        "an endless call": (hang, "hang"),
    }.values(),
)
def test_faults_are_seen(call: Any, fault: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative twin."""
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    monkeypatch.setattr(fuzzing, "ENTRIES", [entry("it", call, {"x": -1.0})])
    found = list(fuzzing.run(0, 1, {"quick"}))
    assert bool(found) == bool(fault)
    assert not fault or found[0]["fault"].startswith(fault)


def test_the_same_seed_gives_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def note(which: Entry, args: dict[str, Any]) -> None:
        seen.append(f"{which.name} {sorted(args)} {[type(x).__name__ for x in args.values()]}")

    monkeypatch.setattr(fuzzing, "judged", note)
    for _ in range(2):
        list(fuzzing.run(3, 40, {"quick"}, "scaling.s"))
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert len({*seen}) > 20


def test_every_public_function_is_called() -> None:
    """Of what the packages export; plots, and what is made by other functions, apart."""
    modules = [widthwise, dmft, finite, compare, compare.testing, scaling, spectra, tasks, schedules, linear_models, data]
    public = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, thing in vars(module).items()
        if inspect.isfunction(inspect.unwrap(thing)) and not name.startswith("_")
        if thing.__module__ == module.__name__ or name in getattr(module, "__all__", ())
    }
    text = (ROOT / "tests" / "fuzz_entries.py").read_text()
    called = {name for name in public if re.search(rf"\b{name.split('.', 1)[1]}\b|\b{name}\b", text)}
    assert len(called) > 80
    assert public == called
