"""A killed solve goes on from its checkpoint and gives the bits of one that was never killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmft
from dmft.march import March
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, checkpoint, tasks

ROOT = Path(__file__).parent.parent
STEPS = 100
SETTINGS = {"momentum": {"momentum": 0.5}, "langevin": {"temperature": 1e-4, "weight_decay": 0.1}}


def run(
    kind: str,
    file: Path | None = None,
    seed: int = 0,
    *,
    save_kernels: tuple[int, ...] = (0, 20, STEPS),
    save: tuple[str, ...] = ("update_size",),
    **changes: Any,
) -> Result:
    training = GradientDescent(0.1, STEPS, **SETTINGS[kind])
    problem = Problem(MLP(2, "tanh"), Parameterization(1.0), tasks.sphere(2, 1, input_dim=6, seed=3), training)
    return dmft.solve(
        problem.replace(**changes),
        March(512, 2, tol=1e-2),
        seed=seed,
        checkpoint=file,
        save=save,
        save_kernels=save_kernels,
        progress=False,
    )


SCRIPT = """
import sys
from pathlib import Path
from widthwise import checkpoint
from tests.test_checkpoint import run
checkpoint.SECONDS = 0
write = checkpoint.write
def counted(*args):
    write(*args)
    print("written", flush=True)
checkpoint.write = counted
run(sys.argv[1], Path(sys.argv[2]))
"""


def killed(kind: str, file: Path, after: int, delay: float) -> None:
    """SIGKILL after that many checkpoints, and a moment."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT, kind, str(file)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(after):
            assert process.stdout.readline() == b"written\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["momentum", pytest.param("langevin", marks=pytest.mark.slow)])
def test_killed_and_resumed_gives_the_same_bits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(kind)
    file = tmp_path / "march.npz"
    killed(kind, file, *{"momentum": (2, 0.0), "langevin": (2, 0.003)}[kind])  # past the kernels of step 20
    resumed_at: list[int] = []
    read = checkpoint.read

    def watched(*args: Any) -> Any:
        leaves = read(*args)
        assert leaves is not None
        resumed_at.append(int(leaves["record"][0].min()))
        return leaves

    monkeypatch.setattr(checkpoint, "read", watched)
    again = run(kind, file)
    assert len(resumed_at) == 1
    assert 20 < resumed_at[0] <= STEPS
    mine, others = again.samples.observables(), whole.samples.observables()
    assert {"f", "Phi", "G", "update_size"} <= mine.keys() == others.keys()
    for name in mine:
        assert np.array_equal(mine[name], others[name]), name
    assert not file.exists()


@pytest.mark.parametrize(("kept", "save"), [((20, STEPS), ()), ((STEPS,), ("update_size",))])
def test_resumes_whatever_was_kept_before(
    kept: tuple[int, ...], save: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels at later steps only, without the fields of step 0; and those fields before any kernel."""
    whole = run("momentum", save_kernels=kept, save=save)
    write = checkpoint.write

    def interrupted(*args: Any) -> None:
        write(*args)
        if int(args[2]["record"][0].min()) > 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "SECONDS", 0)
    monkeypatch.setattr(checkpoint, "write", interrupted)
    file = tmp_path / "march.npz"
    with pytest.raises(KeyboardInterrupt):
        run("momentum", file, save_kernels=kept, save=save)
    monkeypatch.setattr(checkpoint, "write", write)
    again = run("momentum", file, save_kernels=kept, save=save)
    mine, others = again.samples.observables(), whole.samples.observables()
    assert mine.keys() == others.keys()
    assert all(np.array_equal(mine[name], others[name]) for name in mine)


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint as a killed solve leaves it."""
    file = tmp_path_factory.mktemp("killed") / "march.npz"
    killed("momentum", file, 1, 0.0)
    return file.read_bytes()


def test_checkpoint_of_another_solve_is_refused(left_behind: bytes, tmp_path: Path) -> None:
    file = tmp_path / "march.npz"
    file.write_bytes(left_behind)
    for says, other in (("problem", {"gamma0": 1.1}), ("problem", {"momentum": 0.4}), ("seed", {"seed": 1})):
        with pytest.raises(ValueError, match=rf"of another run: it differs in {says}\. Delete it, or choose another file"):
            run("momentum", file, **other)
    assert file.read_bytes() == left_behind


@pytest.mark.parametrize("damage", ["empty", "cut short", "a flipped bit", "no checkpoint"])
def test_damaged_checkpoint_is_refused(damage: str, left_behind: bytes, tmp_path: Path) -> None:
    middle = len(left_behind) // 2
    file = tmp_path / "march.npz"
    file.write_bytes(
        {
            "empty": b"",
            "cut short": left_behind[:middle],
            "a flipped bit": left_behind[:middle] + bytes([left_behind[middle] ^ 1]) + left_behind[middle + 1 :],
            "no checkpoint": b"hello",
        }[damage]
    )
    with pytest.raises(ValueError, match=r"is damaged \(.*: delete it to start anew"):
        run("momentum", file)


def test_several_marches_share_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy to order takes more than one march; none stumbles over what another has written."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0)
    problem = Problem(MLP(2, "tanh"), Parameterization(1.0), tasks.sphere(2, 1, input_dim=6, seed=3), GradientDescent(0.5, 40))
    file = tmp_path / "march.npz"
    theory = dmft.solve(problem, rtol=0.004, checkpoint=file, progress=False, throw=False)
    assert theory.stats["tried"].count("paths") > 1, theory.stats
    assert theory.status.ok, theory.status
    assert not file.exists()
