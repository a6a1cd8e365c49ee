"""Many devices, many processes: the answer of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
START = """
import sys
import jax
out, replicas, devices, port, *rank = sys.argv[1:]
if rank:
    jax.distributed.initialize(f"localhost:{port}", 2, int(rank[0]))
import numpy as np
import dmft, finite
from widthwise import MLP, Adam, ConvNet, GradientDescent, Parameterization, Problem, data, tasks
assert len(jax.devices()) == int(devices)
"""
THEORY = """
problem = Problem(MLP(2, "tanh"), Parameterization(1.0), tasks.sphere(3, 1, input_dim=6, seed=3),
                  GradientDescent(0.5, 12, momentum=0.5))
found = dmft.solve(problem, dmft.March(240, int(replicas)), save=("NTK", "update_size"), progress=False).samples.observables()
"""
NETWORKS = """
adam = GradientDescent(0.3, 6, "cross_entropy", batch_size=8, optimizer=Adam())
problem = Problem(ConvNet(2), Parameterization(), data.digits(), adam)
nets = finite.train(problem, width=8, num_seeds=int(replicas), num_probes=8, save=["update_size"], progress=False)
more = {"conv-" + name: x for name, x in nets.samples.observables().items()}
problem = Problem(MLP(2), Parameterization(), tasks.sphere(3, 1, input_dim=6), GradientDescent(0.5, 6))
found = finite.train(problem, width=8, num_seeds=int(replicas), save=["NTK"], progress=False).samples.observables() | more
"""
END = """
np.savez(out + ("-" + rank[0] if rank else "") + ".npz", **{name.replace("/", "-"): x for name, x in found.items()})
"""


def start(
    out: Path,
    replicas: int,
    devices: int = 1,
    *,
    script: str = THEORY,
    local: int | None = None,
    port: int = 0,
    rank: int | None = None,
) -> subprocess.Popen[bytes]:
    """A process that solves and writes what it finds."""
    flag = f"--xla_force_host_platform_device_count={devices if local is None else local}"
    command = [sys.executable, "-c", START + script + END, str(out), str(replicas), str(devices), str(port)]
    env = os.environ | {
        "XLA_FLAGS": flag,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(command + ([] if rank is None else [str(rank)]), cwd=ROOT, env=env, stderr=subprocess.PIPE)


def found(process: subprocess.Popen[bytes], file: Path) -> dict[str, np.ndarray]:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()[-2000:]
    with np.load(file) as data:
        return dict(data)


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray], atol: float) -> None:
    assert {"f", "Phi", "G", "NTK"} <= a.keys() == b.keys()
    assert a["f"].std() > 0.01
    assert {"update_size", "conv-update_size-h2"} & a.keys()
    for name in a:
        assert np.allclose(a[name], b[name], rtol=0, atol=atol), name


def test_many_devices_give_the_answer_of_one(tmp_path: Path) -> None:
    """Replicas over devices (8 over 4), and paths over devices (3 replicas, 2 devices)."""
    for replicas, devices in ((8, 4), (3, 2)):
        one, many = tmp_path / f"one{replicas}", tmp_path / f"many{replicas}"
        a = found(start(one, replicas), one.with_suffix(".npz"))
        b = found(start(many, replicas, devices), many.with_suffix(".npz"))
        assert a["f"].shape == (replicas, 13, 4)
        assert_equal(a, b, 1e-9)


def test_networks_on_many_devices_are_those_of_one(tmp_path: Path) -> None:
    """Seeds over devices (6 over 2), and the batches of a network over devices (1 over 4), to rounding."""
    for seeds, devices in ((6, 2), (1, 4)):
        one, many = tmp_path / f"one{seeds}", tmp_path / f"many{seeds}"
        a = found(start(one, seeds, script=NETWORKS), one.with_suffix(".npz"))
        b = found(start(many, seeds, devices, script=NETWORKS), many.with_suffix(".npz"))
        assert len(a["f"]) == seeds
        assert_equal(a, b, 1e-5)


def both(tmp_path: Path, script: str, replicas: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What each of two processes finds."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = tmp_path / "both"
    processes = [start(out, replicas, 2, script=script, local=1, port=port, rank=rank) for rank in (0, 1)]
    try:
        first, second = (found(process, tmp_path / f"both-{rank}.npz") for rank, process in enumerate(processes))
    finally:
        for process in processes:
            process.kill()
    return first, second


@pytest.mark.parametrize(
    ("script", "replicas", "atol"),
    [(THEORY, 8, 1e-9), (NETWORKS, 6, 1e-5), pytest.param(NETWORKS, 1, 1e-5, marks=pytest.mark.slow)],
)
def test_two_processes_give_the_answer_of_one(tmp_path: Path, script: str, replicas: int, atol: float) -> None:
    first, second = both(tmp_path, script, replicas)
    assert_equal(first, second, 0.0)  # every process has all of it
    assert_equal(found(start(tmp_path / "one", replicas, script=script), tmp_path / "one.npz"), first, atol)
