"""Files of our own: every changed byte is noticed or harmless, one writer at a time, nothing left behind by killed ones."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmft
import finite
from finite.log import Log, run_name
from finite.sweeps import Sweep
from paper_figures import cache
from paper_figures.cache import Run, cached_arrays
from paper_figures.drawing import Drawing
from paper_figures.headline import Bounds, Headline, Number
from widthwise import MLP, Fluctuations, GradientDescent, Parameterization, Problem, Result, checkpoint, data, storage, tasks

ROOT = Path(__file__).parent.parent
PROBLEM = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(2, input_dim=3), GradientDescent(0.2, 2))


# --- every kind of file ----------------------------------------------------------------------------------------------------


def a_result() -> Result:
    return finite.train(PROBLEM, width=4, num_seeds=2, save_kernels=[2], progress=False)


def observed(result: Result) -> dict[str, np.ndarray]:
    return {
        f"{part}/{name}": x for part in ("mean", "sem", "samples") for name, x in getattr(result, part).observables().items()
    } | {"header": np.array(json.dumps([str(result), result.provenance, result.problem.to_json()], default=str))}


def same(a: Any, b: Any) -> bool:
    """Arrays by name, to the bit."""
    return a.keys() == b.keys() and all(
        np.shape(a[name]) == np.shape(b[name]) and np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes() for name in a
    )


def of_result(folder: Path) -> Path:
    return a_result().save(folder / "a.npz")


def of_sweep(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    return Sweep(PROBLEM, (4, 8), None, np.array([0.1, 0.2, 0.4]), rng.random((2, 3, 2))).save(folder / "s.npz")


def read_sweep(path: Path) -> Any:
    found = Sweep.load(path)
    sizes = [*found.widths, *(found.depths or ())]
    return {"rates": found.rates, "losses": found.losses, "sizes": sizes, "problem": str(found.problem.to_json())}


def of_arrays(folder: Path) -> Path:
    storage.write_arrays(folder / "x.npz", {"x": np.arange(7.0), "y": np.ones((3, 2), np.float32), "seconds": np.array(0.5)})
    return folder / "x.npz"


def of_checkpoint(folder: Path) -> Path:
    checkpoint.write(folder / "run.ckpt", {"seed": 1, "steps": [0, 5]}, {"state": [np.arange(5.0), np.ones((2, 2))], "t": 3})
    return folder / "run.ckpt"


def read_checkpoint(path: Path) -> Any:
    header, trees = checkpoint.load(path)
    return {f"{name}/{i}": x for name, leaves in trees.items() for i, x in enumerate(leaves)} | {"header": json.dumps(header)}


def of_fluctuations(folder: Path) -> Path:
    result = a_result()
    Fluctuations(result, result, None, {"f": np.random.default_rng(1).random((2, 3, 3, 2))}).save(folder)
    return folder / "rows.npz"


def of_drawing(folder: Path) -> Path:
    line = Headline(Number("slope", -1.02, 0.03), Bounds(-1.0, 0.1))
    whole = Drawing("fig", "a", "b", "c", "d", True, [line], "t", [Run("p", "s", 1.5)], 2.5, "x", {"jax": "1"})
    return whole.save(folder)


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "result": (of_result, lambda path: observed(Result.load(path))),
    "sweep": (of_sweep, read_sweep),
    "arrays": (of_arrays, storage.load_arrays),
    "checkpoint": (of_checkpoint, read_checkpoint),
    "fluctuations": (of_fluctuations, lambda path: Fluctuations.load(path.parent).rows),
    "drawing": (of_drawing, lambda path: {"all": np.array(json.dumps(asdict(Drawing.load(path))))}),
}


def changed(whole: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes, a bit, a block of zeros, a block of another place, or the end of it gone."""
    out = bytearray(whole)
    match rng.integers(6):
        case 0:
            out[rng.integers(len(out))] ^= 1 << rng.integers(8)
        case 1:
            for at in rng.integers(len(out), size=rng.integers(1, 9)):
                out[at] = rng.integers(256)
        case 2:  # where an array's header is: shapes and types
            at = whole.find(b"descr", rng.integers(len(out)))
            out[at + rng.integers(60) if at >= 0 else 0] = b"0123456789<>fiu8(, )"[rng.integers(20)]
        case 3:
            at = rng.integers(len(out))
            out[at : at + 64] = bytes(len(out[at : at + 64]))
        case 4:
            a, b = rng.integers(len(out), size=2)
            block = out[a : a + 40]
            out[b : b + len(block)] = block
        case 5:
            del out[rng.integers(len(out)) :]
    return bytes(out)


def unnoticed(path: Path, read: Callable[[Path], Any], number: int) -> int:
    """Changes after which something else is read; an error that is not a ValueError passes through."""
    whole, rng, count = path.read_bytes(), np.random.default_rng(15), 0
    right = read(path)
    assert same(right, read(path))
    for _ in range(number):
        path.write_bytes(changed(whole, rng))
        with contextlib.suppress(ValueError):
            count += not same(read(path), right)
    path.write_bytes(whole)
    return count


@pytest.mark.parametrize("number", [200, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_are_noticed_or_harmless(kind: str, number: int, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    assert unnoticed(write(tmp_path), read, number) == 0


def test_numpy_alone_reads_garbage(tmp_path: Path) -> None:
    """Negative twin: so the changes are some that a reader without checksums believes."""

    def read(path: Path) -> Any:
        try:
            with np.load(path) as file:
                return dict(file)
        except Exception as error:
            raise ValueError from error

    assert unnoticed(of_arrays(tmp_path), read, 700) > 0


def test_an_array_that_says_it_is_shorter(tmp_path: Path) -> None:
    """By more than the 4096 bytes that are read ahead: numpy reads less, and never comes to the checksum at the end."""
    rates = np.geomspace(0.1, 1.0, 9003)
    Sweep(PROBLEM, (4, 8), None, rates, np.ones((2, 9003, 2))).save(tmp_path / "sweep.npz")
    storage.write_arrays(tmp_path / "arrays.npz", {"rates": rates})
    for name, read in (("sweep.npz", Sweep.load), ("arrays.npz", storage.load_arrays)):
        path = tmp_path / name
        read(path)
        whole = path.read_bytes()
        assert whole.count(b"(9003,)") == 1
        path.write_bytes(whole.replace(b"(9003,)", b"(8003,)"))  # one bit
        with np.load(path) as file:
            assert file["rates"].shape == (8003,)
        with pytest.raises(ValueError, match=r"rates.npy .* as long as its shape \(8003,\) says"):
            read(path)


def test_an_end_of_zeros_is_not_that_of_an_empty_archive(tmp_path: Path) -> None:
    path = of_arrays(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-18] + bytes(18))
    with np.load(path) as file:
        assert not file.files
    with pytest.raises(ValueError, match=r"contents must be at byte 0, got 802"):
        storage.load_arrays(path)
    storage.write_arrays(path, {})  # negative twin
    assert storage.load_arrays(path) == {}


def test_archives_that_numpy_did_not_write_like_this(tmp_path: Path) -> None:
    path = of_arrays(tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match="stored as they are, not compressed"):
        storage.load_arrays(path)
    np.savez(path, x=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="is damaged"):
        storage.load_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{")
    with pytest.raises(ValueError, match="must have the header of an array"):
        storage.load_arrays(path)
    np.savez(path, **arrays)  # negative twin: numpy's own
    assert same(storage.load_arrays(path), arrays)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        storage.write_arrays(path, {"x": np.array([object()], dtype=object)})
    assert same(storage.load_arrays(path), arrays)


@pytest.mark.parametrize(
    "x", [np.zeros((0, 3)), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array("text"), np.float32(2)]
)
def test_arrays_come_back(x: Any, tmp_path: Path) -> None:
    storage.write_arrays(tmp_path / "x.npz", {"x": x, "file": np.arange(3)})
    back = storage.read_arrays(tmp_path / "x.npz")
    assert same(back, {"x": x, "file": np.arange(3)})
    back["file"][0] = 7  # they can be written to


# --- one writer at a time --------------------------------------------------------------------------------------------------

HOLD = """
import sys
from widthwise.storage import atomic_write, held
with held(sys.argv[1], "checkpoint"), atomic_write(sys.argv[1]) as file:
    file.write(b"half of it")
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_run(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the file and is in the middle of writing it, until its input ends."""
    run = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(run, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        if process.poll() is None:
            process.communicate(b"")


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.part"))


def test_a_file_in_use_is_refused_until_its_run_is_gone_and_nothing_is_left(tmp_path: Path) -> None:
    """Killed (-9) in the middle of writing: what it held is free, and its half of a file goes with the next run."""
    path = tmp_path / "run.ckpt"
    link = tmp_path / "link.ckpt"
    link.symlink_to(path)
    with another_run(path) as process:
        says = rf"\(process {process.pid} on .*\) is in use by another run .* Wait for it, end it, or choose another file"
        for name in (path, link):  # the same file
            with pytest.raises(ValueError, match=says), storage.held(name, "checkpoint"):
                raise AssertionError
        with storage.held(tmp_path / "other.ckpt", "checkpoint"):  # negative twin
            pass
        with storage.atomic_write(path) as file:  # a part whose writer lives stays
            file.write(b"whole")
        assert len(parts(tmp_path)) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(parts(tmp_path)) == 1
    (tmp_path / "run.ckpt.mine.part").write_text("a user's")
    (tmp_path / "run.ckpt2.0123abcd.part").write_text("of another file")
    with storage.held(path, "checkpoint"):
        assert len(parts(tmp_path)) == 2
    assert path.read_bytes() == b"whole"
    assert {p.name for p in tmp_path.iterdir()} == {"run.ckpt", "link.ckpt", "run.ckpt.mine.part", "run.ckpt2.0123abcd.part"}


@pytest.mark.parametrize("path", [3, None, b"a.npz", "a\0.npz"])
def test_what_is_no_path_is_said(path: Any) -> None:
    """Not taken for the number of an open file."""
    for use in (Result.load, Sweep.load, a_result().save, storage.load_arrays):
        with pytest.raises(ValueError, match="path must be a path"):
            use(path)


def test_saving_over_what_a_killed_writer_left(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with another_run(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(parts(tmp_path)) == 1
    a_result().save(path)
    assert not parts(tmp_path)
    Result.load(path)


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    with storage.held(tmp_path / "a", "checkpoint"):
        refused: list[str] = []

        def other() -> None:
            try:
                with storage.held(tmp_path / "a", "checkpoint"):
                    pass
            except ValueError as error:
                refused.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(refused) == 1
        assert f"process {os.getpid()} on" in refused[0]


STREAMED = Problem(MLP(1, "tanh"), Parameterization(), data.multi_index(4, 1, 2), GradientDescent(0.1, 3, batch_size=4))


def solve(file: Path, **settings: Any) -> Result:
    problem = PROBLEM.replace(depth=2)
    return dmft.solve(
        problem, **{"method": dmft.March(64, 2, tol=1e-2)} | settings, checkpoint=file, progress=False, throw=False
    )


def train(file: Path | None = None, log: Path | None = None, **settings: Any) -> Result:
    settings = {"width": 4, "num_seeds": 2, "num_probes": 4} | settings
    return finite.train(STREAMED, **settings, checkpoint=file, log=log, progress=False)


RUNS = [solve, train, lambda file: solve(file, method=None, rtol=0.5)]


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every march and every training fails where it begins."""
    monkeypatch.setattr("dmft.march.Run.solve", lambda *_: pytest.fail("it has begun"))
    monkeypatch.setattr("finite.fit.Run.solve", lambda *_: pytest.fail("it has begun"))


@pytest.mark.usefixtures("begins")
@pytest.mark.parametrize("run", RUNS, ids=["solve", "train", "to order"])
def test_a_checkpoint_in_use_is_refused_before_anything_runs(run: Callable[[Path], Result], tmp_path: Path) -> None:
    path, says = tmp_path / "run.ckpt", r"checkpoint .*run\.ckpt .*is in use by another run"
    with storage.held(path, "checkpoint"), pytest.raises(ValueError, match=says):
        run(path)
    with pytest.raises(pytest.fail.Exception, match="it has begun"):  # negative twin
        run(path)
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("begins")
@pytest.mark.parametrize("run", [*RUNS, lambda file: train(log=file)], ids=["solve", "train", "to order", "log"])
def test_a_file_that_cannot_be_is_refused_before_anything_runs(run: Callable[[Path], Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, kind, says in (
        (tmp_path / "nowhere" / "run", FileNotFoundError, "it is missing. Make it, or choose another path"),
        (tmp_path / "file" / "run", NotADirectoryError, "it is a file. Make it"),
        (tmp_path / "folder", IsADirectoryError, "is a folder: name a file"),
    ):
        with pytest.raises(kind, match=says):
            run(path)
    with pytest.raises(pytest.fail.Exception, match="it has begun"):  # negative twin
        run(tmp_path / "folder" / "run")


def test_a_symbolic_link_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that it leads to is written, read, and removed at the end, on its own disk."""
    (disk := tmp_path / "disk").mkdir()
    link = tmp_path / "run.ckpt"
    link.symlink_to(disk / "real.ckpt")
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    write, seen = checkpoint.write, []

    def watched(path: Path, *rest: Any) -> None:
        write(path, *rest)
        seen.append((link.is_symlink(), (disk / "real.ckpt").is_file()))

    monkeypatch.setattr(checkpoint, "write", watched)
    train(link, record=range(4))
    assert seen
    assert all(both == (True, True) for both in seen)
    assert link.is_symlink()
    assert not any(disk.iterdir())
    a_result().save(link)
    assert link.is_symlink()
    Result.load(disk / "real.ckpt")


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    (stays := tmp_path / "run.ckpt.0123abcd.part").write_text("nobody knows whether it is being written")
    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(RuntimeWarning, match=r"checkpoint .*run\.ckpt cannot be locked.* see that no other run uses it"):
        train(tmp_path / "run.ckpt")
    of_arrays(tmp_path)
    assert storage.load_arrays(tmp_path / "x.npz")["x"].shape == (7,)
    assert parts(tmp_path) == [stays]


# --- logs and the figures' results -----------------------------------------------------------------------------------------

WRITE = """
import sys
from pathlib import Path
import numpy as np
from finite.log import Log
log = Log(Path(sys.argv[1]), {"seed": int(sys.argv[2])})
for t in range(40):
    log.write(t, 8, {"loss": np.zeros(2)}, 0.0)
    if sys.argv[2] == "0":
        log.forget(t)
        log.write(t, 8, {"loss": np.zeros(2)}, 0.0)
"""


def test_runs_that_share_a_log_lose_no_line(tmp_path: Path) -> None:
    """One of them takes lines back and replaces the file each time, while the other adds its own."""
    path = tmp_path / "log"
    both = [subprocess.Popen([sys.executable, "-c", WRITE, str(path), str(seed)], cwd=ROOT) for seed in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for seed in range(2):
        assert [line["step"] for line in lines if line["run"] == run_name({"seed": seed})] == [*range(40)]
    assert [*tmp_path.iterdir()] == [path]


def test_one_run_twice_on_a_log_is_refused_and_others_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, names = tmp_path / "log", []
    monkeypatch.setattr(sys.modules["finite.train"], "run_name", lambda whose: names.append(run_name(whose)) or names[-1])
    train(log=path)
    with storage.held(path, "log", of=names[0]):
        with pytest.raises(ValueError, match=r"log .*log .*is in use by another run"):
            train(log=path)
        train(log=path, seed=1)  # negative twin
    runs = [json.loads(line)["run"] for line in path.read_text().splitlines()]
    assert sorted({*runs}) == sorted({*names})
    assert len({*names}) == 2


def test_a_line_after_one_that_was_cut(tmp_path: Path) -> None:
    """Its writer was killed: the next line starts a new one."""
    log = Log(tmp_path / "log", {"seed": 0})
    log.path.write_text('{"step": 3, "wid')
    log.write(4, 8, {}, 0.0)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()[1:]] == [4]


def test_a_result_of_the_figures_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it meanwhile waits, and then loads it."""
    monkeypatch.setattr(cache, "RESULTS", tmp_path / "results")
    begun, calls = threading.Event(), itertools.count()

    def compute(n: int) -> dict[str, np.ndarray]:
        next(calls)
        begun.set()
        threading.Event().wait(0.3)
        return {"x": np.arange(n)}

    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(cached_arrays("once", {"n": 3}, compute))) for _ in range(2)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert next(calls) == 1
    assert len(got) == 2
    assert same(got[0], got[1])
