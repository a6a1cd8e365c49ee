"""The limit of any network: against networks written out by hand, extrapolated in 1/N, which share nothing with it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmft
import finite
from dmft.process import run as process
from dmft.process.basis import Policy
from dmft.process.matrix import Matrix, product, roomier, turned
from dmft.process.noise import Noise
from dmft.process.paths import Source
from dmft.process.step import Look, is_matrix
from tests import by_hand
from widthwise import (
    MLP,
    Adam,
    ConvNet,
    GradientDescent,
    Network,
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
from widthwise.precision import float64

T = 12
rng = np.random.default_rng(0)
VECTORS = tasks.sphere(4, input_dim=6)
SERIES = rng.standard_normal((4, 3, 5))
IMAGES = rng.standard_normal((6, 4, 4, 2))
TOKENS = rng.integers(0, 5, (6, 5))


def batches(x: np.ndarray, y: np.ndarray, kind: str, outputs: int) -> tuple[Stream, tuple[np.ndarray, ...]]:
    """A stream that goes round a few samples, four at a time; and the same batches for networks by hand. All are watched."""
    rows = np.stack([np.roll(np.arange(len(x)), 2 * t)[:4] for t in range(T + 1)])

    def source(batch_size: int, start: int) -> Generator[tuple[np.ndarray, np.ndarray], None, int]:
        for t in range(start, T + 1):
            yield x[rows[t]], y[rows[t]]
        return T + 1

    stream = Stream("round", x.shape[1:], outputs, kind, source, lambda n: (x[:n], y[:n]), num_held_out=len(x))
    Y = np.eye(outputs)[y] if kind != "values" else y
    return stream, (x[rows[:T]], Y[rows[:T]], x)


class Case(NamedTuple):
    """One network twice: its problem here, and written by hand."""

    architecture: Any
    by_hand: by_hand.Network
    task: Any
    data: tuple[np.ndarray, ...]
    gamma0: float = 1.0
    eta0: float = 0.3
    training: dict[str, Any] = {}  # noqa: RUF012
    pairs: int = 256
    width: int = 64
    alpha: float = 1.0
    sees_back: bool = False  # elsewhere f hardly depends on that response

    def problem(self) -> Problem:
        settings = dict(self.training)
        if isinstance(self.task, Stream):
            loss = "mse" if self.task.kind == "values" else "cross_entropy"
            settings |= {"batch_size": 4, "loss": loss}
        form = Parameterization(self.gamma0, alpha=self.alpha)
        return Problem(self.architecture, form, self.task, GradientDescent(self.eta0, T, **settings))

    def limit(self, num_paths: int = 512, num_replicas: int = 8, **settings: Any) -> dmft.March:
        return dmft.solve(self.problem(), dmft.March(num_paths, num_replicas), record=range(T + 1), progress=False, **settings)

    def networks(self) -> tuple[np.ndarray, np.ndarray]:
        """f at N -> infinity (steps, points, ...) and its standard error."""
        momentum, decay = self.training.get("momentum", 0.0), self.training.get("weight_decay", 0.0)
        loss = "cross_entropy" if isinstance(self.task, Stream) and self.task.kind != "values" else "mse"
        settings: dict[str, Any] = {"eta0": self.eta0, "gamma0": self.gamma0, "num_steps": T, "momentum": momentum}
        settings |= {"decay": decay, "loss": loss}
        small, large = (
            self.recorded(by_hand.ensemble(self.by_hand, self.data, width=N, num_seeds=n, **settings)["f"])
            for N, n in ((self.width, self.pairs), (2 * self.width, self.pairs))
        )
        mean = 2 * large.mean(0) - small.mean(0)
        return mean, np.sqrt((4 * large.var(0, ddof=1) + small.var(0, ddof=1)) / self.pairs)

    def recorded(self, f: np.ndarray) -> np.ndarray:
        """What results keep of f (seeds, steps, points, ...): of tokens the centred logit of the one that comes."""
        if not (isinstance(self.task, Stream) and self.task.kind == "tokens"):
            return f
        target = np.eye(f.shape[-1])[self.task.probe(len(TOKENS))[1]]
        f = np.sum((f - f.mean(-1, keepdims=True)) * target, axis=-1)
        return f.reshape(*f.shape[:2], -1)


def images(**settings: Any) -> dict[str, Any]:
    y = rng.standard_normal((6, 2))
    stream, by_hand_data = batches(IMAGES, y, "values", 2)
    return {"task": stream, "data": by_hand_data} | settings


def tokens(**settings: Any) -> dict[str, Any]:
    stream, by_hand_data = batches(TOKENS, np.roll(TOKENS, -1, axis=1), "tokens", 5)
    return {"task": stream, "data": by_hand_data} | settings


def looped(net: Any, x: Any) -> Any:
    h = net.input("W0", x, "h")
    for _ in range(3):
        h = 0.5 * h + net.hidden("W", jnp.tanh(h), "h", "h")
    return net.readout("w", jnp.tanh(h), "h")


def recurrent(net: Any, x: Any) -> Any:
    u = net.input("U", x.reshape(len(x), 3, 5), "h")
    h = u[:, 0]
    for t in (1, 2):
        h = net.hidden("W", jnp.tanh(h), "h", "h") + u[:, t]
    return net.readout("w", jnp.tanh(h), "h")


def autoencoder(net: Any, x: Any) -> Any:
    """W and its transpose in one pass."""
    h = net.input("W0", x, "h")
    m = net.hidden("W", jnp.tanh(h), "h", "m")
    return net.readout("w", jnp.tanh(net.transposed("W", jnp.tanh(m))), "h")


POINTS = (VECTORS.X, VECTORS.y)
SERIES_TASK = data.from_arrays(SERIES, VECTORS.y, test=(SERIES, VECTORS.y))
ON_POINTS: dict[str, Any] = {"task": VECTORS, "data": POINTS}
CASES = {
    "residual": Case(ResidualMLP(2, "tanh"), by_hand.residual(2, alpha=0.5), **ON_POINTS, gamma0=2.0, eta0=0.1, alpha=0.5),
    "blocks of two, norm": Case(
        ResidualMLP(2, "tanh", block_depth=2, norm=True),
        by_hand.residual(2, block_depth=2, norm=True),
        **ON_POINTS,
        gamma0=0.5,
        training={"momentum": 0.5, "weight_decay": 0.05},
    ),
    "conv": Case(ConvNet(2, "tanh"), by_hand.conv2d(2), **images(eta0=0.5, width=32, pairs=1024)),
    "resnet": Case(ResNet((1, 1), "tanh", norm=True), by_hand.resnet((1, 1), norm=True), **images(width=16, pairs=1024)),
    "transformer": Case(
        Transformer(1, num_heads=2, mlp_ratio=2), by_hand.transformer(1, heads=2, mlp_ratio=2, phi=jax.nn.gelu), **tokens()
    ),
    "fixed heads, tied": Case(
        Transformer(1, head_dim=4, mlp_ratio=1, tied=True),
        by_hand.transformer(1, head_dim=4, mlp_ratio=1, tied=True, phi=jax.nn.gelu),
        **tokens(),
    ),
    "vit": Case(ViT(1, patch=2, num_heads=2, mlp_ratio=2), by_hand.vit(1, patch=2, heads=2, mlp_ratio=2), **images()),
    "looped": Case(Network(looped), by_hand.looped(3), **ON_POINTS),
    "recurrent": Case(
        Network(recurrent),
        by_hand.recurrent(),
        tasks.Task(SERIES.reshape(4, -1), VECTORS.y),
        (SERIES, VECTORS.y),
    ),
    "both ways": Case(Network(autoencoder), by_hand.autoencoder(), **ON_POINTS, sees_back=True),
}
FAST = ("blocks of two, norm", "both ways")


def distance(f: np.ndarray, sem: np.ndarray, g: np.ndarray, error: np.ndarray) -> float:
    """Root mean square of f - g from the first step on, in units of its standard error."""
    f, sem, g, error = (np.asarray(x)[1:].reshape(len(f) - 1, -1) for x in (f, sem, g, error))
    return float(np.sqrt(np.mean((f - g) ** 2) / np.mean(sem**2 + error**2)))


def without(response: str) -> Callable[..., Any]:
    """`Source.start` of matrices whose products forward (or back) do not know of the gradients (or features) before them."""

    def start(self: Source, *args: Any) -> Any:
        weights = START(self, *args)
        lost = {"forward": "eps_r", "back": "eps_u"}[response]
        return {n: W._replace(**{lost: 0 * getattr(W, lost)}) if is_matrix(W) else W for n, W in weights.items()}

    return start


START = Source.start


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_limit_is_that_of_networks_written_by_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written before the numbers were seen: two standard errors in the root mean square; wrong theories four at least."""
    case = CASES[name]
    theory = case.limit()
    assert theory.status.ok
    f, error = case.networks()
    seen = distance(theory.mean.f, theory.sem.f, f, error)
    relative = np.sqrt(np.mean(error[1:] ** 2) / np.mean(f[1:] ** 2))
    size = np.sqrt(np.mean((theory.mean.f.reshape(f.shape) - f)[1:] ** 2) / np.mean(f[1:] ** 2))
    twins = {"one step late": distance(theory.mean.f[:-1], theory.sem.f[:-1], f[1:], error[1:])}
    for response in ("forward", "back"):
        monkeypatch.setattr(Source, "start", without(response))
        wrong = case.limit()
        twins[f"no response {response}"] = distance(wrong.mean.f, wrong.sem.f, f, error)
    print(f"{name}: {seen:.2f} errors, apart {size:.4f}, networks' error {relative:.4f}, {twins}; {theory.stats}")
    assert seen < 2
    assert all(far > 4 for twin, far in twins.items() if case.sees_back or twin != "no response back")


# --- what the MLP's solver has, too -------------------------------------------------------------------------------------------


def small(net: Any, x: Any) -> Any:
    h = net.see("h1", net.input("W0", x, "h"))
    h = net.see("h2", h + net.hidden("W", jnp.tanh(h), "h", "h"))
    return net.readout("w", jnp.tanh(h), "h")


SMALL = Problem(Network(small), Parameterization(1.0), VECTORS, GradientDescent(0.3, 40, momentum=0.5, weight_decay=0.1))
SAVE = ("kernels", "gradient_kernels", "update_size")


def solved(problem: Problem = SMALL, method: dmft.March | None = None, **settings: Any) -> Result:
    return dmft.solve(problem, method or dmft.March(128, 4, tol=1e-3), progress=False, **{"save": SAVE} | settings)


def test_stopped_and_resumed_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the matrices have been given more room, so that the noise of that is drawn again."""
    file = tmp_path / "march"
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(process, "FIRST_ROOM", 8)
    method = dmft.March(128, 4, tol=1e-2)
    whole = solved(method=method)
    look = process.Run.look

    def stopped(self: process.Run, t: int) -> None:
        if t > 20:
            raise KeyboardInterrupt
        look(self, t)

    monkeypatch.setattr(process.Run, "look", stopped)
    with pytest.raises(KeyboardInterrupt):
        solved(method=method, checkpoint=file)
    monkeypatch.setattr(process.Run, "look", look)
    begun: list[int] = []
    resume = process.Run.resume

    def watched(self: process.Run, path: Path) -> None:
        resume(self, path)
        begun.append(self.now)
        assert len(self.drawn) > 1

    monkeypatch.setattr(process.Run, "resume", watched)
    resumed = solved(method=method, checkpoint=file)
    assert 0 < begun[0] < 40
    for name, x in whole.samples.observables().items():
        assert np.array_equal(x, resumed.samples.observables()[name]), name
    assert not file.exists()
    assert not np.array_equal(solved(seed=1, method=method).samples.f, whole.samples.f)


def test_update_size_and_kernels_at_the_start() -> None:
    """Kernels of an untrained network in closed form; what has not moved has moved by nothing."""
    result = solved(SMALL.replace(num_steps=1), dmft.March(1024, 8))
    K = VECTORS.X @ VECTORS.X.T / VECTORS.input_dim
    np.testing.assert_allclose(result.mean["kernels/h1"][0], K, atol=1e-12)
    sd = np.sqrt(np.diag(K))
    x, w = np.polynomial.hermite_e.hermegauss(80)
    square = np.array([(w @ np.tanh(s * x) ** 2) / w.sum() for s in sd])
    found, sem = (np.diag(part["kernels/h2"][0]) for part in (result.mean, result.sem))
    assert np.abs((found - np.diag(K) - square) / np.hypot(sem, 1e-4)).max() < 5
    assert np.abs((found - np.diag(K) - square**2) / np.hypot(sem, 1e-4)).max() > 9
    for name in ("update_size/h1", "update_size/h2"):
        assert result.mean[name][0] < 1e-12
        assert result.mean[name][1] > 1e-3


def test_small_changes_are_small() -> None:
    """Nearly lazy: fields move by gamma0, in the layer behind the matrix too, and as much as those of networks."""
    p = SMALL.replace(gamma0=1e-3, num_steps=8, weight_decay=0.0)
    theory = solved(p, dmft.March(256, 8), save=["update_size"])
    nets = finite.train(p, width=256, num_seeds=16, save=["update_size"], dtype="float64", progress=False)
    for name in ("update_size/h1", "update_size/h2"):
        assert theory.mean[name][-1] == pytest.approx(nets.mean[name][-1], rel=0.15)
        assert 1e-4 < theory.mean[name][-1] < 5e-3


def test_true_widths_count() -> None:
    """Layers of N, 4 N and N neurons: gradients by every field at the start, and what one step does to f, are the networks'."""

    def wide(net: Any, x: Any) -> Any:
        h = net.see("h", net.input("W0", x, "h"))
        m = net.see("m", net.hidden("W1", jnp.tanh(h), "h", net.population("m", times=4)))
        return net.readout("w", jnp.tanh(net.see("k", net.hidden("W2", jnp.tanh(m), "m", "k"))), "k")

    p = Problem(Network(wide), Parameterization(0.5), VECTORS, GradientDescent(0.01, 1))
    theory = solved(p, dmft.March(512, 8), save=["gradient_kernels"])
    nets = finite.train(p, width=128, num_seeds=64, save=["gradient_kernels"], progress=False)
    np.testing.assert_allclose(theory.mean.f[1], nets.mean.f[1], atol=0.04 * np.abs(nets.mean.f[1]).max())
    for name in ("h", "m", "k"):
        G, networks = (result.mean[f"gradient_kernels/{name}"][0] for result in (theory, nets))
        np.testing.assert_allclose(G, networks, rtol=0.2)  # another width is a factor of four


def test_gradient_kernels_at_the_start() -> None:
    """G of the last field is <tanh'(h)^2> at the start, whatever gamma0 (wrong: as many as in units of 1 / gamma0)."""
    result = solved(SMALL.replace(num_steps=1, gamma0=2.0), dmft.March(1024, 8))
    kernel, found = (result.mean[name][0] for name in ("kernels/h2", "gradient_kernels/h2"))
    sem = result.sem["gradient_kernels/h2"][0]
    x, w = np.polynomial.hermite_e.hermegauss(80)
    K = np.diag(VECTORS.X @ VECTORS.X.T / VECTORS.input_dim)
    square = np.array([(w @ np.tanh(np.sqrt(k) * x) ** 2) / w.sum() for k in K])
    sd = np.sqrt(K + square)
    slope = np.array([(w @ (1 - np.tanh(s * x) ** 2) ** 2) / w.sum() for s in sd])
    np.testing.assert_allclose(np.diag(kernel), K + square, rtol=0.02)
    assert np.abs((np.diag(found) - slope) / np.hypot(np.diag(sem), 1e-4)).max() < 5
    assert np.abs(np.diag(found) / slope - 1).max() < 0.02


S, K = 64, 6


def a_matrix(tol: float = 1e-8) -> tuple[Matrix, np.ndarray, np.ndarray]:
    """A random matrix that knows four functions forward and three back; and functions made of these (2, S), (3, S)."""
    orthonormal = [np.linalg.qr(rng.standard_normal((S, n)))[0] * np.sqrt(S) for n in (4, 3)]
    b, a = (np.pad(e, ((0, 0), (0, K - e.shape[1]))) for e in orthonormal)
    Wb, eps_u, Wa, eps_r = rng.standard_normal((4, S, K))
    policy = Policy(*(jnp.asarray(x) for x in (tol, tol, float(S), 1e-20)))
    size = jnp.array([4.0, 3.0])
    W = Matrix(b, Wb, eps_u, a, Wa, eps_r, size, jnp.zeros((2, 2)), jnp.zeros(2), jnp.array(0.5), policy)
    x, y = (c @ e.T for c, e in zip((rng.standard_normal((2, 4)), rng.standard_normal((2, 3))), orthonormal, strict=True))
    return jax.tree.map(jnp.asarray, W), x, y


def test_product_is_what_its_two_lines_say() -> None:
    """W x, W^T y and the gradients by images, of functions that bring nothing new; and of the transpose."""
    with float64():
        W, x, y = a_matrix()
        for V, u, v in ((W, x, y), (W.T, y, x)):
            (out, after), pull = jax.vjp(product, V, u)
            back, z = pull((v / S, turned(after)))
            row_u, row_v = u @ V.b / S, v @ V.a / S
            np.testing.assert_allclose(out, row_u @ V.Wb.T + 0.5 * (u @ V.eps_r / S) @ V.a.T, rtol=1e-10)
            np.testing.assert_allclose(S * z, row_v @ V.Wa.T + 0.5 * (v @ V.eps_u / S) @ V.b.T, rtol=1e-10)
            np.testing.assert_allclose(back.Wb, v.T @ row_u, atol=1e-10)
            np.testing.assert_allclose(back.Wa, u.T @ row_v, atol=1e-10)
            assert np.array_equal(back.size, V.size)


def test_room_for_more_functions_comes_with_what_is_left_of_the_start() -> None:
    with float64():
        W, x, _ = a_matrix()
        more = roomier(W, jnp.ones((S, 2)), 3 * jnp.ones((S, 1)))
        assert np.array_equal(more.Wb[:, K:], 0.5 * np.ones((S, 2)))
        assert np.array_equal(more.Wa[:, K:], 1.5 * np.ones((S, 1)))
        assert np.array_equal(more.eps_u[:, K:], np.ones((S, 2)))
        assert np.array_equal(more.b[:, :K], W.b)
        np.testing.assert_allclose(product(more, x)[0], product(W, x)[0], rtol=1e-12)
        new, _ = product(more, jnp.asarray(rng.standard_normal((1, S))))
        assert np.abs(new).max() > 0


def test_new_functions_are_found_by_the_size_of_their_kind() -> None:
    """Small gradients beside large features of the same basis; and what is below tol of its own kind is left out."""
    with float64():
        W, x, y = a_matrix(tol=1e-2)
        new, small = rng.standard_normal((2, 1, S))

        def both_ways(W: Matrix) -> tuple[Any, Matrix]:
            _, turned_round = product(W.T, y)
            return product(turned_round.T, x)

        (_, after), pull = jax.vjp(both_ways, W)
        for gradient, brings in ((1e-3 * new, 1), (1e-3 * (y[:1] + 0.01 * new), 0), (1e-3 * np.concatenate([new, small]), 2)):
            ct = np.concatenate([gradient, gradient])[:2] / S
            (back,) = pull((jnp.asarray(ct), turned(after)))
            assert float(back.size[1]) == 3 + brings
            np.testing.assert_allclose(back.a.T @ back.a / S, np.diag(np.arange(K) < 3 + brings), atol=1e-10)


def test_gradients_that_are_looked_at_have_room() -> None:
    """Sixteen points have sixteen gradients by h1: room for one of them, and enough for all features, grows."""
    points = tasks.sphere(4, 12, input_dim=20)
    p = Problem(Network(small), Parameterization(1.0), points, GradientDescent(0.3, 1))
    steps = np.array([0, 1])
    with float64():
        run = process.Run(
            dmft.March(256, 4, tol=1e-4),
            p,
            seed=0,
            steps=steps,
            kernel_steps=steps,
            save=("gradient_kernels",),
            num_probes=None,
        )
        run.spares = {"W": (12, 1)}
        run.spare = [{"W": (u[..., :12], r[..., :1])} for u, r in (group["W"] for group in run.spare)]
        run.seen(Look(), run.x, run.y)
        features = run.spares["W"][0]
        run.spares = {"W": (features, 1)}
        run.spare = [{"W": (u, r[..., :1])} for u, r in (group["W"] for group in run.spare)]
        run.seen(Look(), run.x, run.y)
        assert run.spares["W"] == (features, 1)  # features alone ask for no more
        run.seen(Look(gradients=True), run.x, run.y)
        assert run.spares["W"][1] >= 16


def test_noise_is_white_of_mean_zero_and_mirrored() -> None:
    """Whatever is asked for together or later, on the same side; the first columns do not change."""
    noise = Noise(256, 3, [0, 1])
    u, r = noise.columns(0, [(slot, k) for k in range(4) for slot in range(3)]), noise.columns(1, [(0, 0), (1, 0)])
    more = noise.columns(0, [(0, 4), (1, 4)])
    both = np.concatenate([u, more], axis=1)
    np.testing.assert_allclose(both.T @ both / 256, np.eye(14), atol=1e-12)
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(r.T @ r / 256, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(both.T @ r, 0, atol=1e-10)
    assert np.array_equal(u[:128], u[128:])
    assert np.array_equal(r[:128], -r[128:])
    again = Noise(256, 3, [0, 1])
    assert np.array_equal(u, again.columns(0, [(slot, k) for k in range(4) for slot in range(3)]))
    assert not np.allclose(Noise(256, 3, [0, 2]).columns(0, [(0, 0)])[:, 0], u[:, 0])


def test_decay_scales_the_initial_matrix() -> None:
    """Nothing but decay (the readout reads zeros): W = (1 - eta decay)^t W(0), so the part of h^2 beyond h^1 shrinks alike."""

    def still(net: Any, x: Any) -> Any:
        h = net.input("W0", x, "h")
        net.see("m", net.hidden("W", jnp.ones_like(h), "h", "h"))
        return net.readout("w", 0 * h, "h")

    p = Problem(Network(still), Parameterization(), VECTORS, GradientDescent(0.5, 10, weight_decay=0.1))
    result = solved(p, dmft.March(256, 2), save=["kernels"], save_kernels=[0, 10])
    before, after = result.mean["kernels/m"]
    np.testing.assert_allclose(before, 1.0, rtol=1e-10)
    np.testing.assert_allclose(after, before * 0.95**20, rtol=1e-10)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda: solved(SMALL.replace(optimizer=Adam(), momentum=0.0)), "leave out the optimizer"),
        (lambda: solved(SMALL.replace(kind="ntk")), "lazy limit"),
        (lambda: solved(SMALL.replace(gamma0=1e-9)), "at least 1e-08"),
        (lambda: solved(save=["sharpness"]), "save must be one of"),
        (lambda: solved(method=dmft.Lazy()), "is for an MLP on a Task"),
        (lambda: solved(method=dmft.March(128, 4, dtype="float32")), "leave them out"),
        (lambda: solved(method=dmft.March(24, 2, tol=1e-12)), "Raise num_paths to 48 or more"),
        (lambda: solved(SMALL.replace(architecture=MLP(2)), record=[1]), "leave out record"),
    ],
)
def test_what_does_not_apply(of: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of()


def test_diverging_training_says_so() -> None:
    with pytest.raises(Unsolved, match=r"replicas diverged.*lower eta0"):
        solved(SMALL.replace(eta0=100.0))


def test_recorded_loss_knows_no_label_noise() -> None:
    noisy, T = SMALL.replace(label_noise=2.0, num_steps=6), [0, 3, 6]
    result = solved(noisy, record=T, save=())
    of_f = np.mean((result.samples.f - VECTORS.y) ** 2, axis=-1) / 2
    np.testing.assert_allclose(result.samples.loss, of_f, rtol=1e-10)
    assert np.abs(result.mean.f[1] - solved(SMALL.replace(num_steps=6), record=T, save=()).mean.f[1]).max() > 0.1


def test_status_tells_of_few_paths() -> None:
    assert "many for 32 paths" in solved(method=dmft.March(32, 4, tol=1e-2)).status.message
    assert "many for" not in solved(method=dmft.March(256, 4, tol=1e-2)).status.message


def test_coordinate_check_has_the_limit_beside() -> None:
    theory = solved(SMALL.replace(num_steps=2), save=["update_size"])
    found = finite.coordinate_check(SMALL.replace(num_steps=2), widths=(32, 64), num_seeds=2, theory=theory, progress=False)
    assert {*found.limit} == {"h1", "h2"}
    for name, (size, _) in found.limit.items():
        assert 0.5 < size / theory.mean[f"update_size/{name}"][-1] < 2
