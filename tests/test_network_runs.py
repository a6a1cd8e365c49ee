"""Runs of real networks: ensembles, what is recorded and where, precision, runs that are killed or find the disk full."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

import dmft
import finite
from finite import fit
from finite.log import Log
from widthwise import (
    MLP,
    Adam,
    ConvNet,
    GradientDescent,
    Optax,
    Parameterization,
    Problem,
    ResidualMLP,
    ResNet,
    Result,
    Transformer,
    Unsolved,
    ViT,
    checkpoint,
    data,
    tasks,
)
from widthwise.data import Stream
from widthwise.outputs import recorded_steps


def a_problem(**changes: Any) -> Problem:
    training = GradientDescent(0.3, 20, batch_size=8, momentum=0.5)
    return Problem(ResidualMLP(2, "relu"), Parameterization(), data.multi_index(), training).replace(**changes)


def run(problem: Problem, **settings: Any) -> Result:
    return finite.train(problem, **{"width": 16, "num_seeds": 3, "num_probes": 8, "progress": False} | settings)


def test_a_network_does_not_depend_on_its_company() -> None:
    three, five = run(a_problem()), run(a_problem(), num_seeds=5)
    assert np.array_equal(three.samples.f, five.samples.f[:3])
    assert three.mean.f.shape == (len(three.mean.steps), 8)
    assert np.abs(three.samples.f[:, 0]).max() == 0  # centred
    assert not np.array_equal(run(a_problem(), seed=1).samples.f, three.samples.f)


def test_recorded_where_asked() -> None:
    """What is recorded at a step does not depend on where else one looks; names of `save` at the kept steps."""
    few = run(a_problem(), record=[5, 17], save=["update_size", "kernels", "h"], save_kernels=[5])
    every = run(a_problem(), record=range(21))
    assert few.mean.steps.tolist() == [0, 5, 17, 20]
    assert np.array_equal(few.samples.f, every.samples.f[:, [0, 5, 17, 20]])
    assert np.array_equal(few.samples.loss, every.samples.loss[:, [0, 5, 17, 20]])
    assert few.samples["h/h3"].shape == (3, 1, 8, 16)
    h, K = few.samples["h/h3"][0, 0], few.samples["kernels/h3"][0, 0]
    np.testing.assert_allclose(K, h @ h.T / 16, rtol=1e-4, atol=1e-5)
    assert few.samples["update_size/h3"].shape == (3, 1)
    assert recorded_steps(1000, None).tolist()[:3] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"record must be whole numbers in 0 ... 20"):
        run(a_problem(), record=[21])


def test_task_and_stream_of_it_train_alike() -> None:
    """Full-batch Adam on a Task is that on a stream whose every batch is the task."""
    task = tasks.sphere(4, 2, input_dim=6)
    training = GradientDescent(0.05, 5, optimizer=Adam())
    of_task = run(Problem(ResidualMLP(1), Parameterization(), task, training), record=range(6))

    def source(batch_size: int, start: int) -> Any:
        while True:
            yield task.X, task.y[:, None]

    assert task.X_test is not None
    points = (task.X_all, np.concatenate([task.y, task.y_test])[:, None])
    stream = Stream("task", (6,), 1, "values", source, lambda n: points)
    of_stream = run(
        Problem(ResidualMLP(1), Parameterization(), stream, replace(training, batch_size=4)), record=range(6), num_probes=6
    )
    np.testing.assert_allclose(of_task.samples.f, of_stream.samples.f, atol=1e-6)
    assert np.abs(of_task.samples.f[:, 1:]).min() > 0


def test_diverging_networks_say_so_and_leave_the_others_alone() -> None:
    """At a rate at the edge some networks blow up: their neighbours are those of any other company."""
    with pytest.raises(Unsolved, match=r"diverged, by step \d+: lower eta0"):
        run(a_problem(eta0=1e4))
    edge = a_problem(eta0=60.0, batch_size=2, num_steps=60)
    result = run(edge, num_seeds=16, throw=False)
    finite_ones = np.isfinite(result.samples.f).all((1, 2))
    again = run(edge, num_seeds=4, throw=False)
    assert np.array_equal(result.samples.f[:4], again.samples.f, equal_nan=True)
    assert finite_ones.any() or not result.status.ok


def test_log_is_json_lines(tmp_path: Path) -> None:
    result = run(a_problem(), log=tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == result.mean.steps.tolist()
    np.testing.assert_allclose([line["test_loss"] for line in lines], result.samples.test_loss.T, rtol=1e-6)


DEFAULTS: dict[str, tuple[Any, Stream, dict[str, Any]]] = {
    "MLP": (MLP(2), data.multi_index(), {"eta0": 0.5}),
    "ResidualMLP": (ResidualMLP(2), data.multi_index(), {"eta0": 0.5}),
    "ConvNet": (ConvNet(2), data.digits(), {"eta0": 0.1, "optimizer": Adam()}),
    "ResNet": (ResNet(), data.digits(), {"eta0": 0.1, "optimizer": Adam()}),
    "Transformer": (Transformer(2), data.text(context=16), {"eta0": 0.1, "optimizer": Adam()}),
    "ViT": (ViT(2), data.digits(), {"eta0": 0.1, "optimizer": Adam()}),
}
"""Each with the settings of its own that it has by default, on data that come with the package."""


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_run_takes_less_than_a_minute_and_learns(name: str) -> None:
    """Two networks of width 32, a hundred steps: the test loss of each falls, and two cores have the seconds in a minute."""
    noun, stream, settings = DEFAULTS[name]
    loss = "mse" if stream.kind == "values" else "cross_entropy"
    training = GradientDescent(num_steps=100, loss=loss, batch_size=32, **settings)
    began = time.process_time()
    result = finite.train(Problem(noun, Parameterization(), stream, training), width=32, num_seeds=2, progress=False)
    seconds = time.process_time() - began
    start, end = result.samples.test_loss[:, 0], result.samples.test_loss[:, -1]
    print(f"{name}: test loss {start.mean():.3f} -> {end.round(3)}, {seconds:.0f} processor seconds")
    assert (end < 0.9 * start).all()
    assert seconds < 2 * 60


SCRIPT = """
import sys
from pathlib import Path
from tests.test_network_runs import a_problem, run
from widthwise import checkpoint
checkpoint.SECONDS = 0.0
settings = {"record": range(0, 4001, 100), "save": ["update_size"], "save_kernels": [100, 4000]}
run(a_problem(num_steps=4000), **settings, checkpoint=Path(sys.argv[1])).save(sys.argv[2])
"""


def test_killed_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"record": range(0, 4001, 100), "save": ["update_size"], "save_kernels": [100, 4000]}
    whole = run(a_problem(num_steps=4000), **settings)
    file, out = tmp_path / "run.ckpt", tmp_path / "out.npz"
    command = [sys.executable, "-c", SCRIPT, str(file), str(out)]
    process = subprocess.Popen(command)
    for _ in range(1200):
        if file.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(0.1)
    assert process.poll() is None, "it ended before it could be killed: take more steps"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert file.exists()
    assert not out.exists()
    subprocess.run(command, check=True)
    problem = a_problem(num_steps=4000)
    resumed = Result.load(out, stream=problem.task)
    assert np.array_equal(resumed.samples.f, whole.samples.f)
    assert np.array_equal(resumed.samples.loss, whole.samples.loss)
    for name in ("update_size/h1", "update_size/h3"):
        assert np.array_equal(resumed.samples[name], whole.samples[name])
    assert not file.exists()


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Path:
    """A run with a log that stops at step 15 of 20, all of them recorded, with its last checkpoint after step 5."""
    file, look = folder / "run.ckpt", fit.Run.look

    def write(path: Path, header: dict[str, Any], arrays: dict[str, Any], keep: Any = checkpoint.write) -> None:
        if arrays["clock"][0] <= 6:
            keep(path, header, arrays)

    def stop(self: Any, batch: Any) -> Any:
        if self.t == 15:
            raise KeyboardInterrupt
        return look(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "SECONDS", 0.0)
        patched.setattr(checkpoint, "write", write)
        patched.setattr(fit.Run, "look", stop)
        with pytest.raises(KeyboardInterrupt):
            run(a_problem(), checkpoint=file, log=folder / "log", record=range(21), **settings)
    return file


@pytest.mark.parametrize("forgetting", [True, False], ids=["", "negative twin"])
def test_log_of_a_resumed_run_has_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetting: bool) -> None:
    """Steps after the checkpoint are in it from before; lines of other runs, and of other programs, stay."""
    log = tmp_path / "log"
    run(a_problem(eta0=0.1), log=log, record=range(21))
    log.write_text(others := log.read_text() + "[17]\nno JSON\n")
    file = interrupted(tmp_path, monkeypatch)
    assert len(log.read_text().splitlines()) == len(others.splitlines()) + 15
    log.write_text(log.read_text() + '{"step": 15, "wid')  # killed while it wrote
    if not forgetting:
        monkeypatch.setattr(Log, "forget", lambda self, first: None)
    result = run(a_problem(), checkpoint=file, log=log, record=range(21))
    assert log.read_text().startswith(others)
    mine = log.read_text()[len(others) :].splitlines()
    assert (len(mine) == 21) == forgetting
    if forgetting:
        lines = [json.loads(line) for line in mine]
        assert [line["step"] for line in lines] == [*range(21)]
        np.testing.assert_allclose([line["loss"] for line in lines], result.samples.loss.T, rtol=1e-6)
        assert len({line["run"] for line in lines}) == 1
        assert {path.name for path in tmp_path.iterdir()} == {"log"}


def test_log_of_a_run_killed_before_its_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, monkeypatch).unlink()
    run(a_problem(), checkpoint=tmp_path / "run.ckpt", log=tmp_path / "log", record=range(21))
    assert [json.loads(line)["step"] for line in (tmp_path / "log").read_text().splitlines()] == [*range(21)]


def test_what_is_recorded_so_far_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record in a checkpoint is the beginning of that of the whole run; reading it does not disturb the run."""
    settings: dict[str, Any] = {"save": ["update_size"], "save_kernels": [2, 4, 20]}
    whole = run(a_problem(), record=range(21), **settings)
    file = interrupted(tmp_path, monkeypatch, **settings)
    so_far = finite.partial_result(file, stream=a_problem().task)
    assert so_far.mean.steps.tolist() == [*range(len(so_far.mean.steps))]
    n = len(so_far.mean.steps)
    assert n == 6
    for name in ("f", "loss", "test_loss"):
        assert np.array_equal(so_far.samples[name], whole.samples[name][:, :n])
        assert np.array_equal(so_far.sem[name], whole.sem[name][:n])
    assert so_far.mean.kernel_steps.tolist() == [2, 4]
    assert np.array_equal(so_far.samples["update_size/h1"], whole.samples["update_size/h1"][:, :2])
    assert str(so_far.status) == "step 6 of 20: 3 networks in training"
    assert so_far.problem.fingerprint() == whole.problem.fingerprint()
    assert so_far.stats["seconds"] > 0
    back = Result.load(so_far.save(tmp_path / "so_far"), stream=a_problem().task)
    assert np.array_equal(back.samples.f, so_far.samples.f)
    resumed = run(a_problem(), checkpoint=file, record=range(21), **settings)
    assert np.array_equal(resumed.samples.f, whole.samples.f)
    with pytest.raises(FileNotFoundError, match="the end of a run deletes it"):
        finite.partial_result(file)


def test_what_is_recorded_so_far_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = interrupted(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="stream"):
        finite.partial_result(file)
    checkpoint.write(tmp_path / "other", {"problem": "x"}, {"x": [1.0]})
    with pytest.raises(ValueError, match=r"not of finite\.train"):
        finite.partial_result(tmp_path / "other")
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match="damaged"):
        finite.partial_result(file)


FULL = """
import resource, signal, sys, warnings
from pathlib import Path
from tests.test_network_runs import a_problem, run
from widthwise import checkpoint
checkpoint.SECONDS = 0.0
checkpoint.write(Path(sys.argv[1]), {"whose": "another"}, {"x": [1.0]})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))  # no file grows beyond, as on a full disk
kept = Path(sys.argv[1]).read_bytes()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    folder = Path(sys.argv[1]).parent
    result = run(a_problem(), checkpoint=folder / "new.ckpt", log=folder / "log", record=range(21))
says = {str(w.message).split()[0] for w in caught}
assert says == {"checkpoint", "log"}, caught
assert Path(sys.argv[1]).read_bytes() == kept
checkpoint.keep(Path(sys.argv[1]), {"whose": "new"}, {"x": [[0.0] * 1000]})
assert Path(sys.argv[1]).read_bytes() == kept
assert {path.name for path in folder.iterdir()} == {Path(sys.argv[1]).name, "log"}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
result.save(sys.argv[2])
"""


def test_a_full_disk_does_not_stop_a_run(tmp_path: Path) -> None:
    """It goes on with a warning, to the same end; what had been written stays, and no half of a file."""
    (folder := tmp_path / "disk").mkdir()
    out = tmp_path / "out.npz"
    subprocess.run([sys.executable, "-c", FULL, str(folder / "old.ckpt"), str(out)], check=True)
    problem = a_problem()
    assert np.array_equal(Result.load(out, stream=problem.task).samples.f, run(problem, record=range(21)).samples.f)
    with pytest.raises(OSError, match="cannot write a file in the folder"):  # Result.save has no warning: it raises
        run(problem).save(tmp_path / "nowhere" / "x.npz")
    with pytest.warns(RuntimeWarning, match="the run goes on"):
        checkpoint.keep(tmp_path / "nowhere" / "x", {}, {})


def test_batches_in_parts_train_alike() -> None:
    """The mean of gradients over parts is the gradient of the batch."""
    whole, parts = run(a_problem()), run(a_problem(), accumulate=4)
    np.testing.assert_allclose(parts.samples.f, whole.samples.f, atol=2e-6)
    assert not np.array_equal(parts.samples.f, whole.samples.f)
    tokens = Problem(Transformer(1), Parameterization(), data.text(context=8), replace(TRAINING, loss="cross_entropy"))
    whole, parts = run(tokens), run(tokens, accumulate=2)
    np.testing.assert_allclose(parts.samples.f, whole.samples.f, atol=2e-6)
    other = run(tokens.replace(batch_size=2))
    assert np.abs(other.samples.f - whole.samples.f).max() > 1e-4
    with pytest.raises(ValueError, match="batches of 8 cannot be cut into 3"):
        run(a_problem(), accumulate=3)


@pytest.mark.parametrize("name", ["ResidualMLP", pytest.param("Transformer", marks=pytest.mark.slow)])
def test_half_precision_trains_to_rounding(name: str) -> None:
    """bfloat16 has eight bits: f within a few percent of that in float32, and not the same."""
    problem = a_problem()
    if name == "Transformer":
        training = GradientDescent(0.05, 20, "cross_entropy", batch_size=8, optimizer=Adam())
        problem = Problem(Transformer(1), Parameterization(), data.text(context=8), training)
    single, half = run(problem), run(problem, dtype="bfloat16")
    assert half.samples.f.dtype == np.float32
    error = np.sqrt(np.mean((half.samples.f - single.samples.f) ** 2) / np.mean(single.samples.f**2))
    assert 1e-4 < error < 0.05
    with pytest.raises(ValueError, match="'bfloat16'; got 'float16'"):
        run(problem, dtype="float16")
    with pytest.raises(ValueError, match="dtype must be one of 'float32', 'float64'"):
        run(Problem(MLP(1), Parameterization(), tasks.sphere(2, input_dim=3), GradientDescent(0.1, 2)), dtype="bfloat16")


def test_save_and_load(tmp_path: Path) -> None:
    problem = a_problem(
        training=GradientDescent(0.05, 4, batch_size=8, optimizer=Adam(b2=0.9)), architecture=ResidualMLP(2, "gelu")
    )
    result = run(problem, save=["h", "kernels", "update_size", "sharpness"])
    path = result.save(tmp_path / "run")
    with np.load(path) as file:
        axes = json.loads(str(file["header"]))["axes"]
        assert {name: len(names) for name, names in axes.items()} == {name: file[name].ndim for name in axes}
    assert axes["samples/f"] == ["run", "step", "point"]
    assert axes["samples/h/h1"] == ["run", "kept", "point", "neuron"]
    assert axes["mean/kernels/h1"] == ["kept", "point", "point"]
    assert axes["mean/update_size/h1"] == axes["mean/sharpness"] == ["kept"]
    assert Result.load(path, stream=problem.task).problem.fingerprint() == problem.fingerprint()
    with pytest.raises(ValueError, match=r"pass it: Result\.load"):
        Result.load(path)
    with pytest.raises(ValueError, match="another one was passed"):
        Result.load(path, stream=data.multi_index(seed=5))


# --- bad input ----------------------------------------------------------------------------------------------------------------

STREAM = data.multi_index()
TRAINING = GradientDescent(0.1, 5, batch_size=4)
BAD: dict[str, tuple[Any, str]] = {
    "image net on vectors": (lambda: Problem(ConvNet(2), Parameterization(), STREAM, TRAINING), "takes images"),
    "decoder on images": (lambda: Problem(Transformer(2), Parameterization(), data.shapes(), TRAINING), "takes tokens"),
    "conv on a task": (
        lambda: Problem(ConvNet(2), Parameterization(), tasks.sphere(4, input_dim=8), TRAINING),
        "takes a Stream",
    ),
    "full batch of a stream": (lambda: a_problem(batch_size=None), "needs a batch_size"),
    "classes with mse": (lambda: Problem(ConvNet(2), Parameterization(), data.shapes(), TRAINING), "cross_entropy"),
    "patches": (lambda: Problem(ViT(1, patch=5), Parameterization(), data.shapes(), TRAINING), "patch=5 must divide"),
    "two ways of heads": (lambda: Transformer(2, num_heads=2, head_dim=8), "not both"),
    "heads and width": (
        lambda: run(
            Problem(
                Transformer(1, num_heads=3), Parameterization(), data.text(context=8), replace(TRAINING, loss="cross_entropy")
            )
        ),
        "num_heads=3 must divide the width",
    ),
    "alpha": (lambda: Parameterization(alpha=0.3), "at least 1/2"),
    "optimizer": (lambda: GradientDescent(0.1, 5, optimizer="adam"), "must be None, Adam"),
    "momentum of Adam": (lambda: GradientDescent(0.1, 5, momentum=0.9, optimizer=Adam()), "momentum belongs to plain"),
    "b1": (lambda: Adam(b1=1.0), "b1 must be below 1"),
    "like": (lambda: Optax(optax.sgd(1.0), "lion"), "like must be one of"),  # type: ignore[arg-type]
    "save": (lambda: run(a_problem(), save=["z"]), "save='z' is of an MLP on a Task"),
    "layer rates": (
        lambda: Problem(
            ResidualMLP(1), Parameterization(), tasks.sphere(4, input_dim=8), GradientDescent(0.1, 5, layer_rates=(1.0, 1.0))
        ),
        "layer_rates is for an MLP on a Task",
    ),
    "too many probes": (lambda: finite.coordinate_check(a_problem(), widths=[8]), "at least two"),
    "theory of Adam": (lambda: dmft.solve(a_problem(optimizer=Adam(), momentum=0.0)), "leave out the optimizer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    make, says = BAD[case]
    with pytest.raises(ValueError, match=says):
        make()


def test_memory_is_asked_for_first() -> None:
    with pytest.raises(MemoryError, match=r"needs about .* memory=1e\+06 allows"):
        run(a_problem(), width=512, memory=1e6)
