"""Transformers: a decoder of tokens, and one that looks at patches of an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from finite.networks.weight import Fields, Maker, Watch, Weight, dense, normalize
from widthwise import Activation, Transformer, ViT


class Block(eqx.Module):
    """h <- h + L^-alpha attention(norm h),   h <- h + L^-alpha V phi(W norm h)."""

    q: Weight
    k: Weight
    v: Weight
    o: Weight
    W: Weight
    V: Weight
    num_heads: int = eqx.field(static=True)

    def __init__(self, noun: Transformer | ViT, make: Maker):
        N, hidden = make.width, noun.mlp_ratio * make.width

        def weight(outputs: int, inputs: int) -> Weight:
            return make("hidden", (outputs, inputs), inputs, in_block=True)

        self.q, self.k, self.v, self.o = (weight(N, N) for _ in range(4))
        self.W, self.V = weight(hidden, N), weight(N, hidden)
        self.num_heads = noun.heads_at(N)

    def attend(
        self, x: Float[Array, "sites channels"], causal: bool, see: Callable[[Array], Array]
    ) -> Float[Array, "sites channels"]:
        """o softmax(q . k / d) v for every head of d channels; `see` is shown the softmax."""
        sites, H = len(x), self.num_heads
        q, k, v = (dense(W, x).reshape(sites, H, -1) for W in (self.q, self.k, self.v))
        logits = jnp.einsum("thd,shd->hts", q, k) / q.shape[-1]
        if causal:
            logits = jnp.where(jnp.tril(jnp.ones((sites, sites), bool)), logits, -jnp.inf)
        attention = see(jax.nn.softmax(logits.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=-1).astype(x.dtype))
        return dense(self.o, jnp.einsum("hts,shd->thd", attention, v).reshape(sites, -1))


class Body(eqx.Module):
    """The residual stream, from the embedding to the last norm."""

    blocks: list[Block]
    act: Activation = eqx.field(static=True)
    branch: float = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(self, noun: Transformer | ViT, make: Maker, causal: bool):
        self.blocks = [Block(noun, make) for _ in range(noun.depth)]
        self.act, self.branch, self.causal = noun.activation, make.form.branch(noun.depth), causal

    def __call__(self, h: Float[Array, "sites channels"], see: Watch) -> Float[Array, "sites channels"]:
        h = see("embedding", h)
        for l, block in enumerate(self.blocks, 1):
            attended = block.attend(normalize(h), self.causal, partial(see, f"attention{l}"))
            h = h + self.branch * see(f"value{l}", attended)
            inner = see(f"mlp{l}", dense(block.W, normalize(h)))
            h = see(f"h{l}", h + self.branch * dense(block.V, self.act.phi(inner)))
        return normalize(h)


class Decoder(eqx.Module):
    """Logits of the next token at every place. The rows of the embedding are inputs of fan-in one; tied, the readout too."""

    E: Weight
    place: Weight
    body: Body
    w: Weight | None
    readout: float = eqx.field(static=True)

    def __init__(self, noun: Transformer, make: Maker, input_shape: tuple[int], num_outputs: int):
        N, (context,) = make.width, input_shape
        self.E = make("input", (num_outputs, N), 1)
        self.place = make("input", (context, N), 1)
        self.body = Body(noun, make, causal=True)
        w = make("output", (num_outputs, N), N)
        self.w = None if noun.tied else w
        self.readout = w.scale.multiplier * w.scale.init_std / self.E.scale.init_std

    def __call__(
        self, x: Int[Array, "context"], push: Fields | None = None
    ) -> tuple[Float[Array, "context vocabulary"], Fields]:
        see = Watch(push)
        h = self.body(self.E()[x] + self.place()[: len(x)], see)
        return dense(self.w, h) if self.w is not None else self.readout * (h @ self.E.value.T), see.fields


class Viewer(eqx.Module):
    """Patches of an image, embedded with their place, attended to by each other; the readout of their mean."""

    W0: Weight
    place: Weight
    body: Body
    w: Weight
    patch: int = eqx.field(static=True)

    def __init__(self, noun: ViT, make: Maker, input_shape: tuple[int, int, int], num_outputs: int):
        N, p, (height, width, channels) = make.width, noun.patch, input_shape
        self.W0 = make("input", (N, p * p * channels), p * p * channels)
        self.place = make("input", ((height // p) * (width // p), N), 1)
        self.body = Body(noun, make, causal=False)
        self.w = make("output", (num_outputs, N), N)
        self.patch = p

    def __call__(
        self, x: Float[Array, "height width channels"], push: Fields | None = None
    ) -> tuple[Float[Array, "outputs"], Fields]:
        p, (height, width, channels) = self.patch, x.shape
        patches = x.reshape(height // p, p, width // p, p, channels).swapaxes(1, 2).reshape(len(self.place.value), -1)
        see = Watch(push)
        h = self.body(dense(self.W0, patches) + self.place(), see)
        return dense(self.w, h.mean(0)), see.fields
