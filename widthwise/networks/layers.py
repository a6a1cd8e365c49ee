"""What networks are made of besides weights: filters' views, pooling, attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from widthwise.networks.backend import Net


def shifts(x: Float[Array, "samples height width n"], kernel: int, stride: int = 1) -> Float[Array, "samples _ _ kkn"]:
    """What a k x k filter sees at every `stride`-th site: k^2 shifted images side by side, zeros around."""
    before, (_, height, width, _) = (kernel - 1) // 2, x.shape
    around = (before, kernel - 1 - before)
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    views = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(kernel) for j in range(kernel)]
    return jnp.concatenate(views, axis=-1)


def pool(x: Float[Array, "samples height width n"]) -> Float[Array, "samples _ _ n"]:
    """Means over 2 x 2 sites; what is left over at the edges of odd sizes is dropped."""
    samples, height, width, n = x.shape
    height, width = height // 2, width // 2
    return x[:, : 2 * height, : 2 * width].reshape(samples, height, 2, width, 2, n).mean((2, 4))


def attention(net: Net, l: int, noun: Any, x: Float[Array, "samples sites N"], causal: bool) -> Float[Array, "samples sites N"]:
    """o softmax(q . k / head_dim) v over heads: their number is fixed, and a head has many channels, or the other way round."""
    heads = net.population(f"heads{l}", num_heads=noun.num_heads, head_dim=noun.head_dim)
    q, k, v = (net.hidden(f"{name}{l}", x, "stream", heads, blocks=noun.depth) for name in "qkv")
    if noun.num_heads:  # (samples, sites, heads, channels)
        logits = net.overlap(q.swapaxes(1, 2), k.swapaxes(1, 2))
    else:  # (samples, sites, channels, heads)
        logits = jnp.einsum("ptdh,psdh->phts", q, k) / noun.head_dim
    if causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -jnp.inf)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    A = net.see(f"attention{l}", jax.nn.softmax(logits.astype(wide), axis=-1).astype(x.dtype))
    mixed = jnp.einsum("phts,pshd->pthd" if noun.num_heads else "phts,psdh->ptdh", A, v)
    return net.hidden(f"o{l}", mixed, heads, "stream", blocks=noun.depth)


def blocks_of_attention(
    net: Net, noun: Any, h: Float[Array, "samples sites N"], causal: bool
) -> Float[Array, "samples sites N"]:
    """The residual stream, from the embedding to the last norm.

    h <- h + L^-alpha attention(norm h),   h <- h + L^-alpha V phi(W norm h)
    """
    L, h = noun.depth, net.see("embedding", h)
    for l in range(1, L + 1):
        h = h + net.branch(L) * net.see(f"value{l}", attention(net, l, noun, net.normalize(h), causal))
        inner = net.population(f"mlp{l}", times=noun.mlp_ratio)
        m = net.see(f"mlp{l}", net.hidden(f"W{l}", net.normalize(h), "stream", inner, blocks=L))
        h = net.see(f"h{l}", h + net.branch(L) * net.hidden(f"V{l}", noun.activation(m), inner, "stream", blocks=L))
    return net.normalize(h)
