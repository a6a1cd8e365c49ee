"""Fully connected networks, plain and residual."""

from __future__ import annotations

import math

import equinox as eqx
from jaxtyping import Array, Float

from finite.networks.weight import Fields, Maker, Watch, Weight, dense
from widthwise import MLP, Activation, ResidualMLP


class Dense(eqx.Module):
    """h^1 = W^0 x + bias b^0,   h^{l+1} = W^l phi(h^l) + bias b^l,   f = w phi(h^L) + bias b^L."""

    W: list[Weight]
    b: list[Weight]
    act: Activation = eqx.field(static=True)
    bias: float = eqx.field(static=True)

    def __init__(self, noun: MLP, make: Maker, input_shape: tuple[int, ...], num_outputs: int):
        N, D = make.width, math.prod(input_shape)
        inner = [make("hidden", (N, N), N) for _ in range(noun.depth - 1)]
        self.W = [make("input", (N, D), D), *inner, make("output", (num_outputs, N), N)]
        self.b = []
        if noun.bias:
            self.b = [*(make("bias", (N,), 1) for _ in range(noun.depth)), make("output_bias", (num_outputs,), 1)]
        self.act, self.bias = noun.activation, noun.bias

    def __call__(self, x: Float[Array, "..."], push: Fields | None = None) -> tuple[Float[Array, "outputs"], Fields]:
        see = Watch(push)
        phi = x.ravel()
        for l, W in enumerate(self.W):
            h = dense(W, phi)
            if self.b:
                h = h + self.bias * self.b[l]()
            if l < len(self.W) - 1:
                phi = self.act.phi(see(f"h{l + 1}", h))
        return h, see.fields


class Residual(eqx.Module):
    """h^1 = W^0 x,   h^{l+1} = h^l + L^-alpha W^l phi(h^l),   f = w phi(h^{L+1});  blocks of two: W' phi(W phi(h^l))."""

    W0: Weight
    blocks: list[list[Weight]]
    w: Weight
    act: Activation = eqx.field(static=True)
    branch: float = eqx.field(static=True)

    def __init__(self, noun: ResidualMLP, make: Maker, input_shape: tuple[int, ...], num_outputs: int):
        N, D = make.width, math.prod(input_shape)
        self.W0 = make("input", (N, D), D)
        self.blocks = [[make("hidden", (N, N), N, in_block=True) for _ in range(noun.block_depth)] for _ in range(noun.depth)]
        self.w = make("output", (num_outputs, N), N)
        self.act, self.branch = noun.activation, make.form.branch(noun.depth)

    def __call__(self, x: Float[Array, "..."], push: Fields | None = None) -> tuple[Float[Array, "outputs"], Fields]:
        see = Watch(push)
        h = see("h1", dense(self.W0, x.ravel()))
        for l, block in enumerate(self.blocks):
            branch = h
            for W in block:
                branch = dense(W, self.act.phi(branch))
            h = see(f"h{l + 2}", h + self.branch * branch)
        return dense(self.w, self.act.phi(h)), see.fields
