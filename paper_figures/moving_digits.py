"""A stream of fresh images for figures: handwritten digits at random places."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from widthwise.data import Stream

SIDE = 12
"""Of an image, in pixels; that of a digit is 8."""


def moving_digits(noise: float = 0.1) -> Stream:
    """Images (12, 12, 1) without end: one of 1500 digits at a random place on empty ground, and noise; 297 are held out."""
    from sklearn.datasets import load_digits  # imported where used: it costs over a second

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) - images.mean()) / images.std()
    order = np.random.default_rng(0).permutation(len(images))

    def draw(rng: np.random.Generator, digits: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = rng.choice(digits, size)
        x = np.full((size, SIDE, SIDE, 1), images.min())
        for image, i, (top, left) in zip(x, chosen, rng.integers(SIDE - 7, size=(size, 2)), strict=True):
            image[top : top + 8, left : left + 8] = images[i]
        return x + noise * rng.standard_normal(x.shape), labels[chosen]

    def source(batch_size: int, start: int) -> Generator[tuple[np.ndarray, np.ndarray], None, int]:
        while True:
            yield draw(np.random.default_rng((1, start)), order[:1500], batch_size)
            start += 1

    def held_out(size: int) -> tuple[np.ndarray, np.ndarray]:
        return draw(np.random.default_rng(0), order[1500:], size)

    settings = {"noise": noise}
    return Stream("moving digits", (SIDE, SIDE, 1), 10, "classes", source, held_out, settings=settings)
