"""Result: what is saved comes back to the last bit, or an error says why not; Status, printing, pytree."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import finite
from widthwise import MLP, Estimate, GradientDescent, Parameterization, Problem, Result, Status, Task, Trajectory, Unsolved
from widthwise.result import FORMAT, provenance
from widthwise.storage import atomic_write

some = settings(deadline=None, derandomize=True, max_examples=25)

PROBLEM = Problem(
    MLP(2, "erf"),
    Parameterization(0.5, "mup"),
    Task([[1.0, 0.1], [0.3, -1.0]], [1.0, -1.0], [[0.2, 0.7]], [0.5], "näme"),
    GradientDescent(0.1, 3),
)
ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)  # every bit pattern of a diverged run included


@st.composite
def some_results(draw: Callable[..., Any]) -> Result:
    """Results of any shape, exact and sampled, with and without kernels, test loss and samples; float32 and float64."""
    n, T1, M, L, K = (draw(st.integers(*bounds)) for bounds in ((0, 3), (1, 4), (1, 3), (1, 2), (0, 2)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    has_test_loss, has_kernels, has_samples = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    C = draw(st.sampled_from([(), (3,)]))
    names = draw(st.lists(st.sampled_from(["NTK", "sharpness", "update_size", "h"]), unique=True))
    kernel_steps = np.sort(draw(st.permutations(range(T1)))[: min(K, T1)]).astype(int)
    K = len(kernel_steps)

    def trajectory(*lead: int) -> Trajectory:
        def make(*shape: int) -> np.ndarray:
            elements = ANY if dtype == np.float64 else st.floats(width=32)
            return draw(arrays(dtype, lead + shape, elements=elements, fill=elements))

        kernels = [make(L, K, M, K, M) if has_kernels else None for _ in range(2)]
        shapes = {"NTK": (K, M, M), "sharpness": (K,), "update_size": (K, L), "h": (K, L, M, 2)}
        more = {name: make(*shapes[name]) for name in names if lead or name not in Trajectory.UNAVERAGED}
        f, test_loss = make(T1, M, *C), make(T1) if has_test_loss else None
        return Trajectory(np.arange(T1), f, make(T1), test_loss, kernel_steps, *kernels, more)

    samples = trajectory(n) if n and has_samples else None
    status = Status(draw(st.booleans()), draw(st.text(max_size=20)), draw(st.none() | st.integers(0, 9)), draw(st.none() | ANY))
    stats = draw(st.dictionaries(st.text(max_size=4), st.integers() | ANY | st.text(max_size=4), max_size=3))
    return Result(PROBLEM, Estimate(trajectory(), trajectory(), n, samples), status, stats, provenance(PROBLEM, "test", 7))


def bits(trajectory: Trajectory | None) -> dict[str, Any]:
    """Name -> dtype, shape, bytes."""
    if trajectory is None:
        return {}
    values = {"steps": trajectory.steps, "kernel_steps": trajectory.kernel_steps} | trajectory.observables()
    return {k: (np.asarray(v).dtype, np.shape(v), np.asarray(v).tobytes()) for k, v in values.items()}


def same_facts(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN."""
    return repr(a) == repr(b)


def assert_same(a: Result, b: Result) -> None:
    assert a.problem.fingerprint() == b.problem.fingerprint()
    assert bits(a.mean) == bits(b.mean)
    assert bits(a.sem) == bits(b.sem)
    assert bits(a.trajectory.samples) == bits(b.trajectory.samples)
    assert a.trajectory.n == b.trajectory.n
    assert same_facts(a.status, b.status)
    assert same_facts(a.stats, b.stats)
    assert same_facts(a.provenance, b.provenance)


def a_result(problem: Problem = PROBLEM, n: int = 4) -> Result:
    """A small Result with finite numbers."""
    T1, M, L, K = 4, 3, 2, 2
    rng = np.random.default_rng(3)
    shapes = ((n, T1, M), (n, T1), (n, T1), (n, L, K, M, K, M), (n, L, K, M, K, M))
    f, loss, test_loss, Phi, G = (rng.standard_normal(shape) for shape in shapes)
    samples = Trajectory(np.arange(T1), f, loss**2, test_loss**2, np.array([0, 3]), Phi, G)
    stats = {"seconds": 0.5, "width": np.int64(8), "mean": np.float32(0.25)}  # numpy's numbers may slip in
    return Result(problem, Estimate.of(samples), Status(True, "made up"), stats, provenance(problem, "made up", 0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return a_result().save(tmp_path / "result.npz")


# --- there and back --------------------------------------------------------------------------------------------------------


@some
@given(some_results())
def test_round_trip_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, result: Result) -> None:
    path = result.save(tmp_path_factory.mktemp("results") / "a.npz")
    assert_same(Result.load(path), result)
    lean = Result.load(result.save(path, samples=False))  # over the first
    assert lean.trajectory.samples is None
    assert lean.trajectory.n == result.trajectory.n
    assert bits(lean.mean) == bits(result.mean)
    assert [*path.parent.iterdir()] == [path]


def test_round_trip_of_a_run(tmp_path: Path) -> None:
    result = finite.train(PROBLEM, width=8, num_seeds=3, progress=False)
    again = Result.load(result.save(tmp_path / "run"))
    assert_same(again, result)
    assert str(again) == str(result)
    assert (finite.train(again.problem, width=8, num_seeds=3, progress=False).mean.f == result.mean.f).all()


def test_comparison_is_not_blind(saved: Path) -> None:
    """Negative twin of the round trip: one bit of one number."""
    result = Result.load(saved)
    f = result.mean.f.copy()
    f[1, 1] = np.nextafter(f[1, 1], 9.0)
    estimate = dataclasses.replace(result.trajectory, mean=dataclasses.replace(result.mean, f=f))
    other = dataclasses.replace(result, trajectory=estimate)
    with pytest.raises(AssertionError):
        assert_same(other, result)


@pytest.mark.parametrize("kind", [str, Path])
def test_names_of_files(tmp_path: Path, kind: type) -> None:
    result = a_result()
    for name, written in (("a", "a.npz"), ("b.npz", "b.npz"), ("c.dat", "c.dat"), ("gamma0=0.5", "gamma0=0.5")):
        path = result.save(kind(tmp_path / name))
        assert path == tmp_path / written
        for asked in (name, written):  # what saves, loads
            assert bits(Result.load(kind(tmp_path / asked)).samples) == bits(result.samples)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "c.dat", "gamma0=0.5"]


def test_opens_without_this_package(saved: Path) -> None:
    code = f"""
import json, sys, numpy as np
file = np.load({str(saved)!r})
header = json.loads(str(file["header"]))
print(file["mean/f"].shape, file["samples/Phi"].shape, file["steps"].tolist(), header["problem"]["training"]["eta0"])
assert not {{"widthwise", "jax"}} & set(sys.modules)
axes = header["axes"]
assert axes["samples/Phi"] == ["run", "layer", "kept", "point", "kept", "point"]
assert {{name: len(names) for name, names in axes.items()}} == {{name: file[name].ndim for name in header["arrays"]}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(4, 3) (4, 2, 2, 3, 2, 3) [0, 1, 2, 3] 0.1\n", done.stderr


# --- writing ---------------------------------------------------------------------------------------------------------------


def test_a_crash_in_the_middle_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()

    def crash() -> None:
        with atomic_write(saved) as file:
            file.write(b"half of a new fi")
            file.flush()
            assert len([*saved.parent.iterdir()]) == 2
            raise KeyboardInterrupt  # not even an Exception

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert saved.read_bytes() == before
    assert [*saved.parent.iterdir()] == [saved]  # no litter


def test_a_failing_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        a_result(n=2).save(saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    unwritable = dataclasses.replace(a_result(), stats={"what": object()})
    with pytest.raises(TypeError, match="cannot write <object"):
        unwritable.save(saved)
    assert saved.read_bytes() == before
    assert [*saved.parent.iterdir()] == [saved]


def test_unwritable_places(tmp_path: Path, saved: Path) -> None:
    result = a_result()
    for path, kind in ((tmp_path / "nowhere" / "a.npz", FileNotFoundError), (saved / "a.npz", NotADirectoryError)):
        with pytest.raises(kind, match=r"cannot write a file in the folder of .*a\.npz: .* Make it, or choose another path"):
            result.save(path)
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        result.save(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.npz", "result.npz"]


# --- reading what is broken ------------------------------------------------------------------------------------------------

DAMAGED = r"is not a result file or is damaged .*compute it again"


def test_every_cut_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [0, 1, 2, 3, 4, 21, 22, 100, *range(200, len(whole), len(whole) // 40), len(whole) - 22, len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=DAMAGED):
            Result.load(saved)
    saved.write_bytes(whole)
    Result.load(saved)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    result = a_result(n=2)
    path = result.save(tmp_path_factory.mktemp("flips") / "a.npz", samples=False)
    return path, path.read_bytes()


def load_or_none(path: Path, content: bytes) -> Result | None:
    """The Result, or None after the error that a damaged file deserves; any other error is a failure of the test."""
    path.write_bytes(content)
    try:
        return Result.load(path)
    except ValueError:
        return None


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.data())
def test_a_flipped_bit_is_noticed_or_harmless(small: tuple[Path, bytes], data: st.DataObject) -> None:
    """Flips in a time stamp of the archive change nothing; any other is an error, never another number."""
    path, whole = small
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    broken = bytearray(whole)
    broken[at] ^= 1 << bit
    result = load_or_none(path, bytes(broken))
    if result is not None:
        assert_same(result, load_or_none(path, whole))  # type: ignore[arg-type]


def test_a_flip_that_numpy_alone_would_believe(tmp_path: Path) -> None:
    """A smaller shape in an array's header: numpy reads less, and the checksum at its end is never reached."""
    long = Trajectory(np.arange(1003), np.ones((1003, 3)), np.ones(1003), None, np.arange(0))
    result = dataclasses.replace(a_result(), trajectory=Estimate.exact(long))
    path = result.save(tmp_path / "a.npz")
    whole = path.read_bytes()
    assert whole.count(b"(1003, 3)") == 2  # mean/f and sem/f
    path.write_bytes(whole.replace(b"(1003, 3)", b"(1003, 2)", 1))  # one bit
    with np.load(path) as file:
        assert file["mean/f"].shape == (1003, 2)
    with pytest.raises(ValueError, match=r"damaged \(array mean/f.npy .* as long as its shape \(1003, 2\) says"):
        Result.load(path)


def test_flips_that_hide_arrays(small: tuple[Path, bytes]) -> None:
    """Lengths in the table of contents of the archive: one entry swallows the next ones, with every checksum right."""
    path, whole = small
    entries = [at for at in range(len(whole)) if whole.startswith(b"PK\x01\x02", at)]
    assert len(entries) == 13  # header, steps, kernel_steps, mean/ and sem/ of five observables
    reference, noticed = load_or_none(path, whole), 0
    for bit in range(32):
        for entry in entries:
            broken = bytearray(whole)
            broken[entry + 30 + bit // 8] ^= 1 << bit % 8
            result = load_or_none(path, bytes(broken))
            noticed += result is None
            if result is not None:  # nothing came after this entry
                assert_same(result, reference)  # type: ignore[arg-type]
    assert noticed > 0.9 * 32 * len(entries)


def test_other_files(tmp_path: Path, saved: Path) -> None:
    texts = {"text.npz": b"step,loss\n0,1.0\n", "zeros.npz": bytes(100), "pickle.npz": b"\x80\x04N."}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "array.npy", np.arange(3))
    np.savez(tmp_path / "arrays.npz", f=np.arange(3))
    np.savez(tmp_path / "header.npz", header=np.array("[1, 2]"))
    np.savez(tmp_path / "no_json.npz", header=np.array("{"))
    np.savez(tmp_path / "no_format.npz", header=np.array("{}"))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("a.txt", "hello")
    for path in sorted(set(tmp_path.iterdir()) - {saved}):
        with pytest.raises(ValueError, match=DAMAGED):
            Result.load(path)


def test_no_file(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path / "nothing.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        Result.load(tmp_path / "folder.npz")
    with pytest.raises(NotADirectoryError):
        Result.load(saved / "a.npz")


def test_a_file_of_another_version(saved: Path) -> None:
    with np.load(saved) as file:
        data = dict(file)
    header = json.loads(str(data.pop("header")))
    header["format"], header["provenance"]["widthwise"] = FORMAT + 1, "9.9"
    np.savez(saved, header=np.array(json.dumps(header)), **data)
    says = rf"has file format {FORMAT + 1}, written by widthwise 9.9; .* reads format {FORMAT}. Load it with that version"
    with pytest.raises(ValueError, match=says):
        Result.load(saved)
    header["format"] = FORMAT  # negative twin: it is the format that is refused
    np.savez(saved, header=np.array(json.dumps(header)), **data)
    Result.load(saved)


def ramp(h: jax.Array) -> jax.Array:
    return jnp.clip(h, -1.0, 1.0)


def test_an_own_activation_needs_its_function(tmp_path: Path) -> None:
    result = a_result(PROBLEM.replace(activation=ramp))
    path = result.save(tmp_path / "a.npz")
    assert_same(Result.load(path, ramp), Result.load(path, activation=ramp))
    assert Result.load(path, ramp).problem.fingerprint() == result.problem.fingerprint()
    with pytest.raises(ValueError, match=r"activation of the user's own, 'ramp'.*Result.load\(path, activation=function\)"):
        Result.load(path)
    with pytest.raises(ValueError, match="not the one the Problem had"):
        Result.load(path, lambda h: jnp.clip(h, -1.0, 1.1))


def steep(f: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum((f - y) ** 4)


def test_an_own_loss_needs_its_function(tmp_path: Path) -> None:
    result = a_result(PROBLEM.replace(loss=steep))
    path = result.save(tmp_path / "a.npz")
    assert Result.load(path, loss=steep).problem.fingerprint() == result.problem.fingerprint() != PROBLEM.fingerprint()
    with pytest.raises(ValueError, match=r"loss of the user's own, 'steep'.*Result.load\(path, loss=function\)"):
        Result.load(path)
    with pytest.raises(ValueError, match="the loss passed is not the one the Problem had"):
        Result.load(path, loss=lambda f, y: jnp.sum((f - y) ** 6))


def test_observables_by_name() -> None:
    trajectory = dataclasses.replace(a_result().mean, more={"NTK": np.zeros((2, 3, 3))})
    assert [*trajectory.observables()] == ["f", "loss", "test_loss", "Phi", "G", "NTK"]
    assert trajectory["NTK"] is trajectory.more["NTK"]
    assert trajectory["f"] is trajectory.f
    assert [*trajectory.without("NTK", "G").observables()] == ["f", "loss", "test_loss", "Phi"]
    with pytest.raises(KeyError, match=r"'sharpness' was not saved; there are f, loss.*Pass save=\('sharpness',\)"):
        trajectory["sharpness"]


def test_fields_are_not_averaged() -> None:
    runs = a_result().samples
    estimate = Estimate.of(
        dataclasses.replace(runs, more={"h": np.ones((4, 2, 2, 3, 5)), "sharpness": np.arange(8.0).reshape(4, 2)})
    )
    assert [*estimate.mean.more] == [*estimate.sem.more] == ["sharpness"]
    np.testing.assert_allclose(estimate.mean["sharpness"], [3.0, 4.0])
    assert estimate.samples["h"].shape == (4, 2, 2, 3, 5)


# --- Status ----------------------------------------------------------------------------------------------------------------


def diverging(at: int, value: float, K: float | None = None) -> Trajectory:
    """f and loss of order one until step `at`; K(0) of PROBLEM's two train points has the largest eigenvalue K."""
    f, loss = np.zeros((9, 3)), np.ones(9)
    f[at:], loss[at:] = (value, 1.0) if not math.isfinite(value) else (0.0, value)
    if K is None:
        return Trajectory(np.arange(9), f, loss, None, np.array([0]))
    Phi, G = np.zeros((2, 2, 1, 3, 1, 3))
    Phi[1, 0, :2, 0, :2] = K * np.eye(2)  # K = Phi^2 where the other terms vanish
    return Trajectory(np.arange(9), f, loss, None, np.array([0]), Phi, G)


@some
@given(st.integers(0, 8), st.sampled_from([np.nan, np.inf, -np.inf, 1.1e6, 1e300]))
def test_status_finds_the_first_bad_step(at: int, value: float) -> None:
    if at == 0 and math.isfinite(value):
        return  # the loss at the start sets the scale
    status = Status.of(PROBLEM, diverging(at, value), "done")
    assert (status.ok, status.first_bad_step) == (False, at)
    assert str(status) == f"training diverged at step {at}: lower eta0 from 0.1 to 0.05."


def test_status_of_what_is_fine() -> None:
    assert Status.of(PROBLEM, diverging(4, 0.9e6), "done") == Status(True, "done")  # a catapult is no divergence


@some
@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_suggested_eta0(K: float, eta0: float) -> None:
    """A quarter of the critical rate 2 P / K, at most half of what was tried; two digits: within 5 %."""
    problem = PROBLEM.replace(eta0=eta0)
    assert Status.of(problem, diverging(3, np.nan, K), "").suggested_eta0 == pytest.approx(min(eta0 / 2, 1 / K), rel=0.051)
    assert Status.of(problem, diverging(3, np.nan), "").suggested_eta0 == pytest.approx(eta0 / 2, rel=0.051)
    no_kernel_at_0 = dataclasses.replace(diverging(3, np.nan, K), kernel_steps=np.array([1]))
    assert Status.of(problem, no_kernel_at_0, "").suggested_eta0 == pytest.approx(eta0 / 2, rel=0.051)


def test_unsolved_carries_the_result() -> None:
    result = a_result()
    assert result.or_raise() is result
    bad = dataclasses.replace(result, status=Status(False, "training diverged at step 3: lower eta0 from 1 to 0.5.", 3, 0.5))
    with pytest.raises(Unsolved, match=r"lower eta0 from 1 to 0.5. \(throw=False returns the partial result.\)") as caught:
        bad.or_raise()
    assert caught.value.result is bad
    assert bad.or_raise(throw=False) is bad
    again = pickle.loads(pickle.dumps(caught.value))  # as from a worker process
    assert str(again) == str(caught.value)
    assert_same(again.result, bad)


# --- in memory -------------------------------------------------------------------------------------------------------------


@some
@given(some_results())
def test_prints(result: Result) -> None:
    text = str(result)
    assert str(result.status) in text
    runs = "exact" if result.trajectory.n == 0 else f"{result.trajectory.n} runs"
    assert f"[{runs}]" in text


def test_prints_a_short_table() -> None:
    lines = str(a_result()).splitlines()
    assert lines[0] == "made up: made up [4 runs]"
    assert lines[1].split() == ["step", "train", "loss", "test", "loss"]
    assert [line.split()[0] for line in lines[2:-1]] == ["0", "1", "2", "3"]
    assert all("+-" in line for line in lines[2:-1])
    assert lines[-1] == "  seconds 0.5, width 8, mean 0.25"


@some
@given(some_results())
def test_pytree(result: Result) -> None:
    leaves, structure = jax.tree_util.tree_flatten(result)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)  # numbers of runs and facts are no leaves
    assert_same(jax.tree_util.tree_unflatten(structure, leaves), result)
    assert_same(jax.tree.map(np.asarray, result), result)
    with np.errstate(over="ignore"):
        doubled = jax.tree.map(lambda x: 2 * x, result)
    assert doubled.trajectory.n == result.trajectory.n
    assert_same(copy.deepcopy(result), result)


def test_pytree_under_jit() -> None:
    result = a_result()
    doubled = jax.jit(lambda r: jax.tree.map(lambda x: 2 * x, r))(result)
    assert doubled.problem == result.problem
    np.testing.assert_allclose(doubled.mean.f, 2 * result.mean.f, rtol=1e-6)  # float32 of jit


def test_what_has_no_samples_says_why(tmp_path: Path) -> None:
    result = a_result()
    lean = Result.load(result.save(tmp_path / "a.npz", samples=False))
    with pytest.raises(ValueError, match="saved with samples=False"):
        _ = lean.samples
    exact = dataclasses.replace(result, trajectory=Estimate.exact(result.mean))
    with pytest.raises(ValueError, match="this result is exact"):
        _ = exact.samples
    assert not exact.sem.f.any()
    assert result.samples is result.trajectory.samples


def test_standard_error_of_runs() -> None:
    """1, 2, 4, 5: mean 3, variance 10 / 3 with n - 1, standard error sqrt(10 / 12); of one run nothing is known."""
    f = np.array([1.0, 2.0, 4.0, 5.0])[:, None, None]
    runs = Estimate.of(Trajectory(np.arange(1), f, f[..., 0], None, np.arange(0)))
    assert (runs.mean.f.item(), runs.n) == (3.0, 4)
    assert runs.sem.f.item() == pytest.approx(np.sqrt(10 / 12), rel=1e-14)
    alone = Estimate.of(Trajectory(np.arange(1), f[:1], f[:1, :, 0], None, np.arange(0)))
    assert np.isinf(alone.sem.f).all()


@pytest.mark.parametrize("rates", [None, [0.5, 2.0, 3.0]])
def test_tangent_kernel_term_by_term(rates: list[float] | None) -> None:
    """Against the sum written out, with runs in front, on kernels without any symmetry."""
    rng, (L, K, M), bias = np.random.default_rng(0), (2, 3, 4), 0.7
    Phi, G = rng.standard_normal((2, 5, L, K, M, K, M))
    Phi0 = rng.standard_normal((M, M))
    f = np.zeros((5, 1, M))
    trajectory = Trajectory(np.arange(1), f, f[..., 0], None, np.arange(K), Phi, G)
    found = trajectory.tangent_kernel(Phi0, rates, bias)
    assert found.shape == (5, K, M, M)
    r = [1.0] * 3 if rates is None else rates
    for k in range(K):
        first = r[0] * G[:, 0, k, :, k] * Phi0
        second = r[1] * G[:, 1, k, :, k] * (Phi[:, 0, k, :, k] + bias**2)
        np.testing.assert_allclose(found[:, k], first + second + r[2] * (Phi[:, 1, k, :, k] + bias**2), rtol=1e-12)
        np.testing.assert_array_equal(trajectory.equal_time("Phi")[:, :, k], Phi[:, :, k, :, k])


def test_one_run_has_an_infinite_error() -> None:
    one = a_result(n=1)
    assert np.isinf(one.sem.f).all()
    assert "+- inf" in str(one)
    two = a_result(n=2)
    np.testing.assert_allclose(two.sem.f, np.abs(two.samples.f[0] - two.samples.f[1]) / 2, rtol=1e-12)
