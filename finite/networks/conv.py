"""Convolutional networks, plain and residual, on images (height, width, channels)."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Float

from finite.networks.weight import Fields, Maker, Watch, Weight, convolve, dense, normalize, pool
from widthwise import Activation, ConvNet, ResNet


class Convolutional(eqx.Module):
    """h^1 = W^0 * x,   h^{l+1} = W^l * phi(h^l) with 2 x 2 means between while there are sites,   f = w mean_sites phi(h^L)."""

    W: list[Weight]
    w: Weight
    act: Activation = eqx.field(static=True)

    def __init__(self, noun: ConvNet, make: Maker, input_shape: tuple[int, int, int], num_outputs: int):
        N, k, C = make.width, noun.kernel, input_shape[-1]
        inner = [make("hidden", (N, k, k, N), k * k * N) for _ in range(noun.depth - 1)]
        self.W = [make("input", (N, k, k, C), k * k * C), *inner]
        self.w = make("output", (num_outputs, N), N)
        self.act = noun.activation

    def __call__(
        self, x: Float[Array, "height width channels"], push: Fields | None = None
    ) -> tuple[Float[Array, "outputs"], Fields]:
        see = Watch(push)
        for l, W in enumerate(self.W):
            x = self.act.phi(see(f"h{l + 1}", convolve(W, x)))
            if min(x.shape[:2]) > 1:
                x = pool(x)
        return dense(self.w, x.mean((0, 1))), see.fields


class BasicBlock(eqx.Module):
    """h + L^-alpha W' * phi(W * phi(h)); where sites or channels change, h goes through a projection of kernel one."""

    W: Weight
    V: Weight
    shortcut: Weight | None
    stride: int = eqx.field(static=True)

    def __init__(self, make: Maker, channels: int, outputs: int, stride: int):
        self.W = make("hidden", (outputs, 3, 3, channels), 9 * channels, in_block=True)
        self.V = make("hidden", (outputs, 3, 3, outputs), 9 * outputs, in_block=True)
        changes = stride > 1 or channels != outputs
        self.shortcut = make("hidden", (outputs, 1, 1, channels), channels) if changes else None
        self.stride = stride


class Residual(eqx.Module):
    """A ResNet of pre-activation basic blocks: stages of N, 2N, 4N ... channels, each but the first with half the sites."""

    W0: Weight
    blocks: list[BasicBlock]
    w: Weight
    act: Activation = eqx.field(static=True)
    branch: float = eqx.field(static=True)
    norm: bool = eqx.field(static=True)

    def __init__(self, noun: ResNet, make: Maker, input_shape: tuple[int, int, int], num_outputs: int):
        N, C = make.width, input_shape[-1]
        self.W0 = make("input", (N, 3, 3, C), 9 * C)
        self.blocks, channels = [], N
        for stage, count in enumerate(noun.stages):
            for i in range(count):
                outputs = N * 2**stage
                self.blocks.append(BasicBlock(make, channels, outputs, 2 if stage and not i else 1))
                channels = outputs
        self.w = make("output", (num_outputs, channels), channels)
        self.act, self.branch, self.norm = noun.activation, make.form.branch(sum(noun.stages)), noun.norm

    def _phi(self, h: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        return self.act.phi(normalize(h) if self.norm else h)

    def __call__(
        self, x: Float[Array, "height width channels"], push: Fields | None = None
    ) -> tuple[Float[Array, "outputs"], Fields]:
        see = Watch(push)
        h = see("h1", convolve(self.W0, x))
        for l, block in enumerate(self.blocks):
            inner = convolve(block.W, self._phi(h), block.stride)
            branch = convolve(block.V, self._phi(inner))
            if block.shortcut is not None:
                h = convolve(block.shortcut, h, block.stride)
            h = see(f"h{l + 2}", h + self.branch * branch)
        return dense(self.w, self._phi(h).mean((0, 1))), see.fields
