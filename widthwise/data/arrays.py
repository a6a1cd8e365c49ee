"""Streams of arrays in memory (or mapped into it)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widthwise import check
from widthwise.checked import checked
from widthwise.data.stream import Batch, Rows, Stream, shuffled

DIGITS_SCALE = (0.3053 * 16, 0.3760 * 16)
"""Mean and standard deviation of the digits' pixels, which are 0 ... 16."""


@checked
def from_arrays(
    x: Any,
    y: Any,
    *,
    test: int | tuple[Any, Any],
    seed: int = 0,
    epochs: int | None = None,
    num_outputs: int | None = None,
    name: str = "arrays",
) -> Stream:
    """Batches from arrays, which may be memory maps; a random order per epoch.

    Args:
        x: (n, ...) inputs.
        y: (n,) whole numbers 0, 1, ...: labels of classes. Otherwise (n,) or (n, C) values.
        test: the held-out (x_test, y_test), or how many of the n rows to hold out; which ones does not depend on the seed.
        seed: of the order.
        epochs: how often each row comes; 1 is one pass, None goes on for ever.
        num_outputs: of classes, how many there are; by default the largest label and one.
        name: shown in tables and files.

    Raises:
        ValueError: lengths or shapes that do not go together; nothing left to train on; labels below 0, labels that all are
            above 0 (counted from 1?) where num_outputs is not given.

    Example:
        >>> stream = from_arrays(np.arange(12.0).reshape(6, 2), [0, 1, 2, 0, 1, 2], test=2, epochs=1)
        >>> stream
        Stream('arrays', classes, (2,) -> 3)
        >>> x, y = next(stream.batches(4))
        >>> x.shape, y.dtype.name, stream.probe(2)[0].tolist()
        ((4, 2), 'int32', [[6.0, 7.0], [4.0, 5.0]])
    """
    x, y = _pair("x", x, "y", y)
    if isinstance(test, tuple):
        x_test, y_test = _pair("x_test", test[0], "y_test", test[1])
        if x_test.shape[1:] != x.shape[1:] or y_test.shape[1:] != y.shape[1:]:
            raise ValueError(
                f"test must have rows like those of x and y, {x.shape[1:]} and {y.shape[1:]}; got {x_test.shape[1:]} and "
                f"{y_test.shape[1:]}. Apply the same preprocessing to both."
            )
        train_rows, test_rows = _rows(x, y, np.arange(len(x))), _rows(x_test, y_test, np.arange(len(x_test)))
    else:
        check.count("test", test, "Or pass the pair (x_test, y_test).")
        if test >= len(x):
            raise ValueError(f"test must leave rows to train on: there are {len(x)}, got test={test}. Hold out fewer.")
        order = np.random.default_rng(0).permutation(len(x))
        train_rows, test_rows = _rows(x, y, order[test:]), _rows(x, y, order[:test])
        x_test, y_test = x[:0], y[:0]
    classes = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
    if classes:
        outputs = _num_classes(y, y_test, num_outputs)
    elif num_outputs is not None:
        raise ValueError(f"num_outputs is of classes, whose labels are integers of shape (n,); got y of {y.dtype}, {y.shape}.")
    else:
        outputs = 1 if y.ndim == 1 else y.shape[1]
    return shuffled(
        train_rows,
        test_rows,
        seed,
        epochs,
        name=name,
        input_shape=x.shape[1:],
        num_outputs=outputs,
        kind="classes" if classes else "values",
        settings={"content": [_digest(a) for a in (x, y, x_test, y_test)]},
    )


@checked
def digits(*, num_test: int = 297, seed: int = 0, epochs: int | None = None) -> Stream:
    """Scikit-learn's 1797 handwritten digits: images (8, 8, 1), ten classes.

    Pixels have mean 0 and variance 1 over the data set.

    Args:
        num_test: held-out images.
        seed: of the order.
        epochs: how often each image comes; None goes on for ever.

    Example:
        >>> stream = digits()
        >>> stream, stream.probe(4)[1].shape
        (Stream('digits', classes, (8, 8, 1) -> 10), (4,))
    """
    from sklearn.datasets import load_digits  # imported where used: it costs over a second

    images, labels = load_digits(return_X_y=True)
    mean, std = DIGITS_SCALE
    x = ((images - mean) / std).astype(np.float32).reshape(-1, 8, 8, 1)
    return from_arrays(x, labels, test=num_test, seed=seed, epochs=epochs, name="digits")


def _num_classes(y: NDArray[Any], y_test: NDArray[Any], given: int | None) -> int:
    """How many classes there are."""
    values = np.concatenate([y, y_test])
    least, most = int(values.min()), int(values.max())
    if least < 0:
        raise ValueError(
            f"labels of classes are 0, 1, ..., got {least}. Targets -1 and +1 are values: make them floats, y.astype(float)."
        )
    if given is not None:
        if check.count("num_outputs", given) <= most:
            raise ValueError(f"labels must lie in 0 ... num_outputs - 1 = {given - 1}, got {most}.")
        return given
    if least > 0:
        raise ValueError(
            f"labels of classes are 0, 1, ..., got {least} ... {most}: nothing is of class 0, which would have an output. "
            f"Count them from 0, y - {least}; or pass num_outputs={most + 1}, if there is a class 0 and no sample of it here."
        )
    return most + 1


def _pair(x_name: str, x: Any, y_name: str, y: Any) -> Batch:
    x, y = (check.numeric(name, a, "with one row per sample") for name, a in ((x_name, x), (y_name, y)))
    if x.ndim < 2 or not 1 <= y.ndim <= 2 or len(x) != len(y) or not x.size:
        raise ValueError(
            f"{x_name} and {y_name} must have shapes (n, ...) and (n,) or (n, C), got {x.shape} and {y.shape}. "
            "One sample is x of shape (1, D) and y of shape (1,)."
        )
    return x, y


def _rows(x: NDArray[Any], y: NDArray[Any], keep: NDArray[np.int64]) -> Rows:
    values = y.ndim == 1 and not np.issubdtype(y.dtype, np.integer)
    return Rows(len(keep), lambda at: (x[keep[at]], y[keep[at], None] if values else y[keep[at]]))


def _digest(a: NDArray[Any]) -> str:
    """Of shape, type and up to 256 evenly spaced rows, so that a large array is not read through."""
    some = np.ascontiguousarray(a[:: max(len(a) // 256, 1)])
    return hashlib.sha256(f"{a.shape} {a.dtype.str}".encode() + some.tobytes()).hexdigest()[:16]
