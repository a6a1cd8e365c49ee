"""Which mistakes would the tests let pass?

    python -m benchmarks.mutants                       # all of benchmarks/mutants.toml; an hour or two on two cores
    python -m benchmarks.mutants --only march langevin # those whose name or file has one of these words

A mutant is one mistake in the code: a sign, a factor, an index, a layer, a term that is missing. Each entry of the list says
where it is made and which tests must see it:

    [[mutant]]
    name = "flow without decay"
    file = "dmft/site.py"
    old = "what stands there, once in the file"
    new = "what the mistake makes of it"
    tests = ["tests/test_march_training.py -k flow"]   # arguments of pytest, one set after the other

A mutant that no test fails on survives: the tests have a hole there. First the tests run on the code as it is, where they must
pass; a list that no longer fits the code is an error too. Tools that make mutants at random (mutmut, cosmic-ray) run the whole
suite per mutant and cannot tell an order of operations from an equation; every entry here is a mistake that someone could make.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".toml")
LONGEST = 900.0
"""Seconds after which tests of a mutant are stopped; a mutant that makes them hang has been seen."""


@dataclass(frozen=True)
class Mutant:
    """One mistake, and the tests that must fail on it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def source(self, root: Path) -> str:
        """The file with the mistake in it.

        Raises:
            ValueError: `old` does not stand in the file exactly once.
        """
        text = (root / self.file).read_text()
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has its text {times} times, not once; mend benchmarks/mutants.toml.")
        return text.replace(self.old, self.new)


def mutants(only: list[str]) -> list[Mutant]:
    """The list, or those whose name or file has one of the words; every one of them fits the code."""
    with LIST.open("rb") as file:
        all_ = [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in tomllib.load(file)["mutant"]]
    names = [mutant.name for mutant in all_]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names of mutants stand twice in benchmarks/mutants.toml: {', '.join(twice)}")
    for mutant in all_:
        mutant.source(ROOT)
    return [m for m in all_ if not only or any(word in f"{m.name} {m.file}" for word in only)]


def copy_of_the_tree(to: Path) -> Path:
    """Tracked files and new ones, as they stand."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def failure(root: Path, tests: tuple[str, ...], cache: Path) -> str | None:
    """What the first failing test says; None if all pass."""
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    for test in tests:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-o", f"cache_dir={cache}"]
        try:
            run = subprocess.run(
                [*command, *shlex.split(test)], cwd=root, env=environment, capture_output=True, text=True, timeout=LONGEST
            )
        except subprocess.TimeoutExpired:
            return f"{test}: still running after {LONGEST:.0f} s"
        if run.returncode == 5:
            raise ValueError(f"no test is named by {test!r}; mend benchmarks/mutants.toml.")
        if run.returncode:
            lines = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return lines[0] if lines else f"{test}: exit status {run.returncode}\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Which mistakes would the tests let pass?")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="words of names or files (all mutants)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (default 2)")
    arguments = parser.parse_args()
    chosen = mutants(arguments.only)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "compiled"
        trees: SimpleQueue[Path] = SimpleQueue()
        for i in range(arguments.jobs):
            trees.put(copy_of_the_tree(Path(folder) / f"tree{i}"))

        def unharmed(test: str) -> str | None:
            tree = trees.get()
            try:
                return failure(tree, (test,), cache)
            finally:
                trees.put(tree)

        def judged(mutant: Mutant) -> str | None:
            tree = trees.get()
            file = tree / mutant.file
            before = file.read_text()
            try:
                file.write_text(mutant.source(tree))
                seen = failure(tree, mutant.tests, cache)
            finally:
                file.write_text(before)
                trees.put(tree)
            print(f"{'killed  ' if seen else 'SURVIVED'}  {mutant.name}  {seen or ''}", flush=True)
            return seen

        with ThreadPoolExecutor(arguments.jobs) as pool:
            for bad in filter(None, pool.map(unharmed, sorted({test for mutant in chosen for test in mutant.tests}))):
                raise SystemExit(f"a test fails without any mutant: {bad}")
            verdicts = list(pool.map(judged, chosen))
    survivors = [mutant.name for mutant, seen in zip(chosen, verdicts, strict=True) if not seen]
    print(f"\n{len(chosen)} mutants, {len(survivors)} survived, {time.perf_counter() - start:.0f} s")
    raise SystemExit(bool(survivors))


if __name__ == "__main__":
    main()
