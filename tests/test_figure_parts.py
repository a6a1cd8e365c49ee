"""What single figures are made of beyond runs: a stream of images, swapped spectra, a target on the sphere."""

from __future__ import annotations

import itertools

import numpy as np

from paper_figures import onset_runs
from paper_figures.moving_digits import SIDE, moving_digits
from paper_figures.swapped_spectra import DIFFERENCE, swapped
from widthwise import GradientDescent

RNG = np.random.default_rng(0)


def digits_in(x: np.ndarray) -> set[bytes]:
    """Every 8 x 8 part of the images, as bytes."""
    places = list(itertools.product(range(SIDE - 7), repeat=2))
    return {np.ascontiguousarray(image[i : i + 8, j : j + 8, 0]).tobytes() for image in x for i, j in places}


def test_moving_digits_are_fresh_and_held_out_ones_are_other_digits() -> None:
    stream = moving_digits(noise=0.0)
    first = [x for x, _ in itertools.islice(stream.batches(16), 8)]
    assert np.array_equal(next(stream.batches(16, start=5))[0], first[5])
    assert not np.array_equal(first[0], first[1])
    x, y = stream.probe(64)
    assert x.shape == (64, SIDE, SIDE, 1)
    assert set(y) <= set(range(10))
    from sklearn.datasets import load_digits

    images = load_digits().images
    images = ((images - images.mean()) / images.std()).astype(np.float32)
    number = {image.tobytes(): i for i, image in enumerate(images)}
    order = np.random.default_rng(0).permutation(len(images))
    train, test = {*order[:1500].tolist()}, {*order[1500:].tolist()}
    seen = {number[part] for part in digits_in(np.concatenate(first)) if part in number}
    held = {number[part] for part in digits_in(x) if part in number}
    assert len(seen) > 50
    assert seen <= train
    assert len(held) > 30
    assert held <= test


def kernel(lam: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors * lam @ vectors.T)[None].repeat(3, 0)


def test_swaps_tell_eigenvalues_from_eigenfunctions() -> None:
    lam, training = 8.0 / np.arange(1, 9), GradientDescent(0.5, 20)
    vectors, other = (np.linalg.qr(RNG.standard_normal((8, 8)))[0] for _ in range(2))
    y = RNG.standard_normal(8)
    wide = kernel(lam, vectors)
    both, of_lam, of_c, difference = (rows[0] for rows in swapped([kernel(0.8 * lam, vectors), wide], y, training).values())
    assert np.allclose([both, of_c, difference], [of_lam, [0, 0], of_lam], atol=1e-9)
    assert of_lam[0] > 0.1
    both, of_lam, of_c, difference = (rows[0] for rows in swapped([kernel(lam, other), wide], y, training).values())
    assert np.allclose([both, of_lam, -difference], [of_c, [0, 0], of_c * [1, -1]], atol=1e-9)
    assert abs(of_c[0]) > 0.1
    t, share = training.num_steps // 2, (vectors.T @ y) ** 2 / 8
    losses = [share @ (1 - 0.5 * scale * lam / 8) ** (2 * t) for scale in (0.8, 1.0)]
    found = swapped([kernel(0.8 * lam, vectors), wide], y, training)
    assert np.isclose(found["own spectrum"][0, 0], np.log(losses[0] / losses[1]))
    assert DIFFERENCE in found


def test_target_on_the_sphere() -> None:
    task = onset_runs.problem("lazy", 20_000, 0, 1).task
    assert np.allclose((task.X**2).sum(1), onset_runs.INPUT_DIM)
    u, n = task.X[:, 0], len(task.y)
    for orthogonal in (np.ones(n), u, u**3, task.X[:, 1]):  # polynomials of the degrees 0, 1 and 3
        assert abs(np.mean(task.y * orthogonal)) < 4 * np.std(task.y * orthogonal) / np.sqrt(n)
    assert abs(np.mean(task.y**2) - 1) < 4 * np.std(task.y**2) / np.sqrt(n)
    assert abs(np.mean(task.y * u**2)) > 0.5  # negative twin: of degree two there is much
