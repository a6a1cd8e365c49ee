"""How fast does `finite.train` train, against PyTorch and against a bare JAX step written by hand?

    pip install torch                      # not needed by the package, only here
    python -m benchmarks.against_torch     # some minutes on two cores; prints the tables of docs/benchmarks.md
    python -m benchmarks.against_torch 0 3 # these cases of it

All do the same work: plain SGD in float32 from the same weights on the same batches; before anything is timed their losses are
compared, step by step. What stands in front of a matrix (`Weight.scale`) is taken into it for PyTorch and the bare step, and
its learning rate with it. PyTorch goes through its models one by one ("loop"), through all at once (torch.func.vmap), and so
by torch.compile; the first two on one thread and on all, and the better counts.

`finite.train` and PyTorch are timed as whole calls of equally many steps: weights put in place (`finite.train` draws them),
fresh batches from the stream, the loss of the batch, and at the same 32 steps f, loss and accuracy at the same 64 probes. Of
the bare step only steps are timed, on batches that are there. Compile time is apart. All take turns, several rounds; times are
the shortest of them, on the clock and in processor seconds: threads that wait for each other, or for a busy machine, differ.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import finite
from finite import ensemble
from finite.keys import key_of
from widthwise import MLP, ConvNet, GradientDescent, Parameterization, Problem, Transformer, data
from widthwise.outputs import recorded_steps

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    raise SystemExit("benchmarks.against_torch compares with PyTorch: pip install torch") from error

CHUNK = 16
"""Steps of one call of the bare step, and that losses are compared at."""

ROUNDS, SECONDS, MOST = 3, 2.0, 8.0
"""Turns that each takes; a call has so many steps that `finite.train` takes about SECONDS, but nobody more than MOST."""

PROBES = 64

SIZE = 2048
"""Of the matrices whose product gives the machine's rate."""

Weights = list[Any]
Seen = dict[str, np.ndarray]
"""What is recorded: "loss" (steps, seeds); "f", "test_loss", "accuracy" (recorded steps, seeds, ...)."""

Steps = Callable[[int], Seen]
"""Takes so many steps, and waits for their end."""


class Case(NamedTuple):
    """What is trained."""

    architecture: Any
    stream: Any
    width: int
    seeds: int
    batch: int
    eta0: float

    def problem(self, num_steps: int) -> Problem:
        training = GradientDescent(self.eta0, num_steps, "cross_entropy", batch_size=self.batch)
        return Problem(self.architecture, Parameterization(centered=False), self.stream, training)

    def __str__(self) -> str:
        name = f"{type(self.architecture).__name__}({self.architecture.depth})"
        return f"{name}, width {self.width}, {self.seeds} seed{'s' * (self.seeds > 1)}, batch {self.batch}"


DIGITS, TEXT = data.digits(), data.text(context=32)
CASES = [
    *(Case(MLP(depth, "relu"), DIGITS, N, 32, 64, 0.5) for depth, N in ((2, 64), (3, 128))),
    Case(MLP(3, "relu"), DIGITS, 64, 32, 8, 0.5),
    *(Case(MLP(2, "relu"), DIGITS, SIZE, 1, batch, 0.5) for batch in (64, 256)),
    *(Case(ConvNet(3), DIGITS, 32, seeds, 32, 5.0) for seeds in (1, 8)),
    *(Case(Transformer(2), TEXT, N, seeds, 16, 0.5) for N, seeds in ((64, 1), (128, 1), (64, 8))),
    Case(MLP(1, "relu"), DIGITS, 64, 32, 8, 0.5),
]


# --- the networks by hand, of weights W that include their multipliers ------------------------------------------------------


def mlp(W: Weights, x: Any) -> Any:
    x = x.reshape(len(x), -1)
    for w in W[:-1]:
        x = jax.nn.relu(x @ w.T)
    return x @ W[-1].T


def mlp_torch(W: Weights, x: Any) -> Any:
    x = x.flatten(1)
    for w in W[:-1]:
        x = F.relu(F.linear(x, w))
    return F.linear(x, W[-1])


def cnn(W: Weights, x: Any) -> Any:
    for w in W[:-1]:
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "OHWI", "NHWC")))
        if x.shape[1] > 1:
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
    return x.mean((1, 2)) @ W[-1].T


def cnn_torch(W: Weights, x: Any) -> Any:
    x = x.movedim(-1, 1)
    for w in W[:-1]:
        x = F.relu(F.conv2d(x, w, padding=w.shape[-1] // 2))
        if x.shape[-1] > 1:
            x = F.avg_pool2d(x, 2)
    return F.linear(x.mean((2, 3)), W[-1])


def norm(x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def transformer(W: Weights, x: Any, heads: int = 4, depth: int = 2) -> Any:
    E, place, *blocks, w = W
    h = E[x] + place
    B, T, N = h.shape
    for l in range(depth):
        q, k, v, o, U, V = blocks[6 * l : 6 * l + 6]
        a, b, c = ((norm(h) @ M.T).reshape(B, T, heads, -1) for M in (q, k, v))
        logits = jnp.einsum("bthd,bshd->bhts", a, b) * heads / N
        weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((T, T), bool)), logits, -jnp.inf))
        h = h + jnp.einsum("bhts,bshd->bthd", weights, c).reshape(B, T, N) @ o.T / depth
        h = h + jax.nn.gelu(norm(h) @ U.T, approximate=False) @ V.T / depth
    return norm(h) @ w.T


def transformer_torch(W: Weights, x: Any, heads: int = 4, depth: int = 2) -> Any:
    E, place, *blocks, w = W
    h = F.embedding(x, E) + place
    B, T, N = h.shape
    norm = partial(F.layer_norm, normalized_shape=(N,), eps=1e-6)
    for l in range(depth):
        q, k, v, o, U, V = blocks[6 * l : 6 * l + 6]
        y = norm(h)
        a, b, c = (F.linear(y, M).reshape(B, T, heads, -1).transpose(1, 2) for M in (q, k, v))
        attended = F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=heads / N)
        h = h + F.linear(attended.transpose(1, 2).reshape(B, T, N), o) / depth
        h = h + F.linear(F.gelu(F.linear(norm(h), U)), V) / depth
    return F.linear(norm(h), w)


FORWARD = {MLP: (mlp, mlp_torch), ConvNet: (cnn, cnn_torch), Transformer: (transformer, transformer_torch)}


# --- who takes part -----------------------------------------------------------------------------------------------------------


def start(case: Case) -> tuple[Weights, list[float]]:
    """Weights of all seeds (seeds, ...), as `finite.train` draws them, with their multipliers in them; their learning rates."""
    problem = case.problem(1)
    keys = jax.vmap(partial(jax.random.fold_in, key_of(0, case.width)))(np.arange(case.seeds))
    shapes = ensemble.shapes_of(problem)
    state = ensemble.start(problem.architecture, problem.parameterization, problem.training, keys, width=case.width, **shapes)
    weights = [state.network.weights[name] for name in problem.plan.weights]
    values = [np.asarray(W.value) * np.float32(W.scale.multiplier) for W in weights]
    if isinstance(case.architecture, ConvNet):  # filters (outputs, k k channels)
        k = case.architecture.kernel
        values = [W.reshape(*W.shape[:2], k, k, -1) if i < len(values) - 1 else W for i, W in enumerate(values)]
    return values, [case.eta0 * W.scale.learning_rate * W.scale.multiplier**2 for W in weights]


def batches(case: Case) -> tuple[np.ndarray, np.ndarray]:
    x, y = zip(*islice(case.stream.batches(case.batch), CHUNK), strict=True)
    return np.stack(x), np.stack(y)


def bare(case: Case) -> Steps:
    """The least of JAX: value and gradient, an update per weight, seeds by vmap, a scan over the batches."""
    values, rates = start(case)
    xs, ys = jax.tree.map(jnp.asarray, batches(case))
    forward = FORWARD[type(case.architecture)][0]

    def loss(W: Weights, x: Any, y: Any) -> Any:
        f = jax.nn.log_softmax(forward(W, x))
        return -jnp.take_along_axis(f, y[..., None], -1).mean()

    def step(W: Weights, batch: Any) -> tuple[Weights, Any]:
        value, G = jax.vmap(jax.value_and_grad(loss), (0, None, None))(W, *batch)
        return [w - rate * g for w, rate, g in zip(W, rates, G, strict=True)], value

    advance = jax.jit(lambda W, xs, ys: jax.lax.scan(step, W, (xs, ys)), donate_argnums=0)
    W = [jnp.array(w) for w in values]

    def steps(n: int) -> Seen:
        nonlocal W
        for _ in range(n // CHUNK):
            W, losses = advance(W, xs, ys)
        return {"loss": np.asarray(losses)}

    return steps


def ours(case: Case) -> Steps:
    """`finite.train` from nothing to its Result."""

    def steps(n: int, record: Any = None) -> Seen:
        settings = {"num_seeds": case.seeds, "num_probes": PROBES, "record": record, "progress": False}
        samples = finite.train(case.problem(n), width=case.width, **settings).samples
        return {name: np.swapaxes(getattr(samples, name), 0, 1) for name in ("loss", "f", "test_loss")}

    return steps


def theirs(case: Case, how: str, threads: int) -> Steps:
    """PyTorch: how is "loop", "vmap" or "compile"."""
    values, rates = start(case)
    if isinstance(case.architecture, ConvNet):
        values = [np.moveaxis(w, -1, 2) if w.ndim == 5 else w for w in values]
    values = [np.ascontiguousarray(w) for w in values]
    forward, probes = FORWARD[type(case.architecture)][1], tensors(*case.stream.probe(PROBES))

    def loss(W: Weights, x: Any, y: Any) -> Any:
        return F.cross_entropy(forward(W, x).flatten(0, -2), y.flatten())

    def look(W: Weights, x: Any, y: Any) -> tuple[Any, Any, Any]:
        f = forward(W, x)
        flat, target = f.flatten(0, -2), y.flatten()
        if f.ndim > 2:  # of tokens the centred logit of the one that comes
            f = flat.gather(-1, target[:, None])[:, 0] - flat.mean(-1)
        return f, F.cross_entropy(flat, target), (flat.argmax(-1) == target).float().mean()

    W: Any = None
    if how == "loop":
        models = [[torch.nn.Parameter(torch.tensor(w[s])) for w in values] for s in range(case.seeds)]
        each = [torch.optim.SGD([{"params": [w], "lr": r} for w, r in zip(W, rates, strict=True)]) for W in models]

        def begin() -> None:
            with torch.no_grad():
                for s, model in enumerate(models):
                    for parameter, w in zip(model, values, strict=True):
                        parameter.copy_(torch.from_numpy(w[s]))

        def step(x: Any, y: Any) -> Any:
            seen = []
            for W, optimizer in zip(models, each, strict=True):
                optimizer.zero_grad()
                value = loss(W, x, y)
                value.backward()
                optimizer.step()
                seen.append(value.detach())
            return torch.stack(seen)

        def of_all(what: Callable[..., Any], x: Any, y: Any) -> Any:
            seen = [what(W, x, y) for W in models]
            return [torch.stack(parts) for parts in zip(*seen, strict=True)]

    else:
        one = case.seeds == 1

        def together(function: Callable[..., Any]) -> Callable[..., Any]:
            return function if one else torch.func.vmap(function, in_dims=(0, None, None))

        gradient = together(torch.func.grad_and_value(loss))

        def functional(W: Weights, x: Any, y: Any) -> Any:
            G, value = gradient(W, x, y)
            return [w - rate * g for w, rate, g in zip(W, rates, G, strict=True)], value

        looks = together(look)
        if how == "compile":
            functional, looks = torch.compile(functional), torch.compile(looks)

        def begin() -> None:
            nonlocal W
            W = [torch.tensor(w[0] if one else w) for w in values]

        def step(x: Any, y: Any) -> Any:
            nonlocal W
            with torch.no_grad():
                W, value = functional(W, x, y)
            return value.reshape(-1)

        def of_all(what: Callable[..., Any], x: Any, y: Any) -> Any:
            seen = looks(W, x, y)
            return [part[None] for part in seen] if one else seen

    def steps(n: int) -> Seen:
        torch.set_num_threads(threads)
        begin()
        recorded, losses, seen = {*recorded_steps(n, None).tolist()}, [], []
        for t, batch in zip(range(n + 1), case.stream.batches(case.batch), strict=False):
            if t in recorded:
                with torch.no_grad():
                    seen.append([part.numpy() for part in of_all(look, *probes)])
            if t < n:
                losses.append(step(*tensors(*batch)).numpy())
        f, test_loss, accuracy = (np.stack(parts) for parts in zip(*seen, strict=True))
        return {"loss": np.stack(losses), "f": f, "test_loss": test_loss, "accuracy": accuracy}

    return steps


def tensors(x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    """Of a batch; places and tokens as PyTorch wants them."""
    return tuple(torch.from_numpy(a.astype(np.int64) if a.dtype == np.int32 else a) for a in (x, y))


def product() -> Steps:
    """Products of matrices: the rate of the machine."""
    A = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
    multiply = jax.jit(lambda A, B: A @ B)

    def steps(n: int) -> Seen:
        for _ in range(n // CHUNK):
            multiply(A, A).block_until_ready()
        return {}

    return steps


def flops(case: Case) -> float:
    """Of a step's matrix products of all seeds, of an MLP: forward, and backward twice but for the inputs."""
    sizes = [int(np.prod(w.shape[1:])) for w in start(case)[0]]
    return case.seeds * case.batch * (6.0 * sum(sizes) - 2 * sizes[0])


def compare(case: Case, everyone: dict[str, Steps]) -> None:
    """Losses of the first steps agree to rounding, and f and losses at the probes; those at half the rate do not.

    Raises:
        SystemExit: they do not, or they do.
    """
    every = range(CHUNK + 1)
    recorded = recorded_steps(CHUNK, None)

    def of(case: Case) -> Seen:
        seen = ours(case)(CHUNK, every)  # type: ignore[call-arg]
        return {name: a[:-1] if name == "loss" else a[recorded] for name, a in seen.items()}

    mine, slower = of(case), of(case._replace(eta0=case.eta0 / 2))
    for who in everyone.keys() - {"ours"}:
        theirs = everyone[who](CHUNK)
        for name in mine.keys() & theirs.keys():
            off = np.abs(theirs[name] - mine[name]).max()
            if not 10 * off < min(np.abs(slower[name] - mine[name]).max(), 0.01 * mine[name].max()):
                raise SystemExit(f"{case}: {who} does other work than finite.train: {name} differs by {off:.2g}.")


def measure(everyone: dict[str, Steps]) -> tuple[int, dict[str, np.ndarray]]:
    """Steps of a call; of each the shortest seconds per step, on the clock and of the processor."""
    rates = {}
    for who, steps in everyone.items():
        steps(CHUNK)  # compiles
        n = CHUNK
        while (seconds := timed(steps, n)[0]) < SECONDS / 4:
            n *= 2
        rates[who] = seconds / n
    n = int(np.ceil(min(SECONDS / rates["ours"], MOST / max(rates.values())) / CHUNK)) * CHUNK
    best = dict.fromkeys(everyone, np.full(2, np.inf))
    for _ in range(ROUNDS):
        for who, steps in everyone.items():
            time.sleep(0.05)  # threads of the one before come to rest
            best[who] = np.minimum(best[who], timed(steps, n) / n)
    return n, best


def timed(steps: Steps, n: int) -> np.ndarray:
    began = time.perf_counter(), time.process_time()
    steps(n)
    return np.array([time.perf_counter() - began[0], time.process_time() - began[1]])


def main() -> None:
    """Print the table."""
    cores = torch.get_num_threads()
    ways = [("loop", 1), ("loop", cores), ("vmap", 1), ("vmap", cores), ("compile", cores)]
    names = [f"{how}, {threads}" for how, threads in ways]
    header = ["", "steps", "finite.train", "bare JAX", *names, "loop", "vmap", "best", "ours / bare", "share of rate"]
    print(
        f"JAX {jax.__version__}, PyTorch {torch.__version__}, {cores} threads. Milliseconds per step of all networks, clock /"
    )
    print(
        "processor; then ratios of PyTorch's to ours, of ours to the bare step; and of ours to the rate of a matrix product.\n"
    )
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|", flush=True)
    for case in [CASES[int(i)] for i in sys.argv[1:]] or CASES:
        torch._dynamo.reset()
        everyone = {"ours": ours(case), "bare": bare(case)}
        everyone |= {name: theirs(case, *way) for name, way in zip(names, ways, strict=True)}
        compare(case, everyone)
        n, best = measure(everyone | {"product": product()})
        rate = 2 * SIZE**3 / (best.pop("product") * CHUNK)
        mine = best["ours"]
        least = {how: np.min([best[name] for name in names if name.startswith(how)], axis=0) for how, _ in ways}
        ratios = [least["loop"] / mine, least["vmap"] / mine, np.min([*least.values()], axis=0) / mine, mine / best["bare"]]
        cells = ["{:.3g} / {:.3g}".format(*(1e3 * t)) for t in best.values()] + ["{:.2f} / {:.2f}".format(*r) for r in ratios]
        share = "{:.0%} / {:.0%}".format(*(flops(case) / mine / rate)) if isinstance(case.architecture, MLP) else ""
        print(f"| {' | '.join([str(case), str(n), *cells, share])} |", flush=True)


if __name__ == "__main__":
    main()
