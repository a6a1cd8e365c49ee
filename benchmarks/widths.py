"""How fast do fields move as networks grow: slopes in log width of what a few steps do, for every architecture.

    python -m benchmarks.widths                    # half an hour and 4 GiB on one free core; the table of docs/networks.md
    python -m benchmarks.widths ConvNet ViT ntk    # of it these architectures, optimizers or kinds

    kind        fields                            f
    mean_field  0                                 0, and not below -1/2: what is left of the random start
    ntk         -1/2                              0, likewise
    standard    of the last 1/2; with Adam 1      1; with Adam from 1 towards 3/2

Those of "standard" are of one small step: of the last field eta |phi|^2 g with |phi|^2 = O(N), g = O(N^-1/2), and of f
eta |phi|^2; with Adam eta |phi|_1 sign g, and of f eta |phi|_1 (1 + |w|_1), |w|_1 = O(N^1/2). All others are of three steps.
The line of an architecture has the field whose slope is furthest from where it should be; it holds if that is at most 0.05
away, whatever the error.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from itertools import product
from typing import Any

import finite
from finite.coordinates import FLAT
from widthwise import (
    MLP,
    Adam,
    ConvNet,
    GradientDescent,
    Parameterization,
    Problem,
    ResidualMLP,
    ResNet,
    Transformer,
    ViT,
    data,
)
from widthwise.data import Stream

WIDTHS, FEWER = (64, 256, 512, 2048), (64, 512, 2048)
SEEDS, BATCH, PROBES = 4, 4, 8
SGD: dict[str, Any] = {"eta0": 0.5}
ADAM: dict[str, Any] = {"eta0": 0.05, "optimizer": Adam()}
SMALL = {"SGD": 2.0**-12, "Adam": 2.0**-20}
"""Rates at which a step of the standard network of width 2048 is small."""


def thinned(stream: Stream, stride: int) -> Stream:
    """Images of every stride-th pixel."""
    height, width, channels = stream.input_shape

    def source(batch_size: int, start: int) -> Any:
        for x, y in stream.batches(batch_size, start):
            yield x[:, ::stride, ::stride], y
        return 0  # never reached: there is no end of them

    def held_out(number: int) -> Any:
        x, y = stream.probe(number)
        return x[:, ::stride, ::stride], y

    shape = (height // stride, width // stride, channels)
    return replace(stream, input_shape=shape, source=source, held_out=held_out, settings={"stride": stride})


IMAGES = thinned(data.shapes(), 2)
TINY = thinned(data.shapes(), 4)
CASES: dict[str, tuple[Any, Stream, tuple[int, ...]]] = {
    "MLP": (MLP(2, "relu"), data.multi_index(8), WIDTHS),
    "ResidualMLP": (ResidualMLP(2, "relu"), data.multi_index(8), WIDTHS),
    "ConvNet": (ConvNet(2), IMAGES, WIDTHS),
    "ResNet": (ResNet((1,)), TINY, FEWER),
    "ResNet of two stages": (ResNet((1, 1)), TINY, (64, 256, 1024)),  # 2048 channels in the second
    "Transformer": (Transformer(1), data.text(context=8), FEWER),
    "ViT": (ViT(1), IMAGES, FEWER),
}


def checked(name: str, kind: Any, optimizer: str, num_seeds: int = SEEDS) -> finite.CoordinateCheck:
    """Updates of all fields at all widths."""
    noun, stream, widths = CASES[name]
    settings = (SGD if optimizer == "SGD" else ADAM) | {"loss": "mse" if stream.kind == "values" else "cross_entropy"}
    training = GradientDescent(num_steps=3, batch_size=BATCH, **settings)
    if kind == "standard":
        training = replace(training, num_steps=1, eta0=SMALL[optimizer])
    problem = Problem(noun, Parameterization(kind=kind), stream, training)
    return finite.coordinate_check(problem, widths=widths, num_seeds=num_seeds, num_probes=PROBES)


def verdict(seen: finite.CoordinateCheck, optimizer: str) -> tuple[str, float, str]:
    """The field furthest from its exponent, that exponent, and whether all is as it should be."""
    kind, slopes, fields = seen.problem.parameterization.kind, seen.slopes(), seen.fields
    if kind == "standard":
        right = {fields[-2]: 0.5 if optimizer == "SGD" else 1.0}
        low, high = (0.95, 1.05) if optimizer == "SGD" else (1.0, 1.55)
        f_too = low < slopes["f"][0] < high
    else:
        right, f_too = dict.fromkeys(fields[:-1], -0.5 if kind == "ntk" else 0.0), seen.passed["f"]
    worst = max(right, key=lambda field: abs(slopes[field][0] - right[field]))
    off, error = abs(slopes[worst][0] - right[worst]), slopes[worst][1]
    says = "holds" if off <= FLAT else "cannot tell" if off <= FLAT + 2 * error else "DOES NOT HOLD"
    return worst, right[worst], says if f_too else f"{says}, f DOES NOT"


def main(names: list[str]) -> None:
    began = time.perf_counter()
    axes = ([*CASES], ["SGD", "Adam"], ["mean_field", "ntk", "standard"])
    for name, optimizer, kind in product(*([x for x in axis if x in names] or axis for axis in axes)):
        start, seen = time.perf_counter(), checked(name, kind, optimizer)
        worst, right, says = verdict(seen, optimizer)
        slopes = {field: "{:+.3f} +- {:.3f}".format(*slope) for field, slope in seen.slopes().items()}
        cost = f"{time.perf_counter() - start:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
        row = f"{name:20s} {optimizer:4s} {kind:10s} {worst:9s} {slopes[worst]} (should be {right:+.1f})  f {slopes['f']}"
        print(f"{row}  {says}  {cost}", flush=True)
        if "--fields" in sys.argv:
            print("   ", ", ".join(f"{field} {slope}" for field, slope in slopes.items()), flush=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes, {SEEDS} seeds ")


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if not name.startswith("-")])
