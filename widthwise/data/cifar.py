"""Streams of CIFAR-10, in both of its formats, and of CIFAR-5m, part by part."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as short
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from widthwise.checked import checked
from widthwise.data.files import AnyPath, damaged, existing, reading, stamp, verified
from widthwise.data.images import Scale, image_fields, label_check, normalised
from widthwise.data.stream import Batch, Rows, Stream, in_order, shuffled
from widthwise.storage import npy_header

CIFAR: Scale = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and standard deviation per channel of CIFAR-10's training images, pixels in 0 ... 1; also used for CIFAR-5m."""

BLOCK = 512
"""Images of CIFAR-5m that are in memory at a time, 1.5 MB."""

MOST_PICKLED = 2**28
"""Bytes of a pickle; CIFAR-10's have 31 million."""


@checked
def cifar10(folder: AnyPath, *, seed: int = 0, epochs: int | None = None) -> Stream:
    """CIFAR-10: images (32, 32, 3), ten classes; the test batch is held out.

    Args:
        folder: with data_batch_1 ... data_batch_5 and test_batch (of cifar-10-python.tar.gz; held in memory as bytes), or
            the same with .bin (of cifar-10-binary.tar.gz; mapped into memory).
        seed: of the order.
        epochs: how often each image comes; 1 is one pass, None goes on for ever.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is cut short or damaged, has a label that is none, or a pickle of more than arrays or 256 MiB.

    Example:
        >>> try:
        ...     cifar10("nowhere")
        ... except FileNotFoundError as error:
        ...     print(error)
        nowhere/data_batch_1 is missing. Unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz and pass its folder.
    """
    cure = "Unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz and pass its folder."
    binary = (Path(folder) / "data_batch_1.bin").exists()
    names = [f"{name}.bin" if binary else name for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
    files = [existing(Path(folder) / name, cure) for name in names]
    parts = [(_cifar_bin if binary else _cifar_pickle)(file) for file in files]
    settings = {"files": stamp(files), "scale": CIFAR}
    train, test = _planes(parts[:-1]), _planes(parts[-1:])
    return shuffled(train, test, seed, epochs, settings=settings, **image_fields("cifar10", (32, 32, 3), 10))


def _planes(parts: list[Batch]) -> Rows:
    """Rows of several (n, 3072) arrays of red, green and blue planes, and their labels."""
    ends = np.cumsum([len(y) for _, y in parts])
    labels = np.concatenate([y for _, y in parts])

    def at(rows: NDArray[np.int64]) -> Batch:
        part = np.searchsorted(ends, rows, side="right")
        x = np.stack([parts[p][0][row - ends[p]] for p, row in zip(part, rows, strict=True)])  # counted from the end
        return normalised(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), CIFAR), labels[rows]

    return Rows(int(ends[-1]), at)


def _cifar_bin(path: Path) -> Batch:
    size = path.stat().st_size
    if size == 0 or size % 3073:
        raise damaged(path, f"its size must be a multiple of 3073 bytes (a label and 3072 pixels), got {size}")
    rows = np.memmap(path, np.uint8, "r").reshape(-1, 3073)
    return rows[:, 1:], label_check(path, rows[:, 0], 10)


def _cifar_pickle(path: Path) -> Batch:
    if (size := path.stat().st_size) > MOST_PICKLED:
        raise damaged(path, f"a batch of CIFAR-10 has 31 million bytes, {MOST_PICKLED} are read at most, got {size}")
    with reading(path):
        batch = _Inert(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
            raise damaged(path, "it must hold a dictionary with data and labels")
        labels = batch[b"labels"]
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise damaged(path, "labels must be a list of whole numbers")
        y = label_check(path, labels, 10)
        _, shape, dtype, fortran, content = batch[b"data"].state
        if shape != (len(y), 3072) or dtype.arguments[0] != b"u1" or not len(y):
            raise damaged(
                path,
                f"data must be bytes u1 of shape ({len(y)}, 3072), got {short(dtype.arguments[0])} of shape {short(shape)}",
            )
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C"), y


class _Recorded:
    """Stands for whatever a pickle makes of numpy: it keeps the arguments and the state, and does nothing."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


Load = Callable[[Any], None]
"""An operation of a pickle, on the unpickler with its stack."""


def _only(load: Load, allowed: Callable[[list[Any]], bool]) -> Load:
    """The operation, if what it finds on the stack is allowed."""

    def checked(unpickler: Any) -> None:
        if not allowed(unpickler.stack):
            raise pickle.UnpicklingError("it has what no pickle of arrays has")
        load(unpickler)

    return checked


def _texts(keys: list[Any]) -> bool:
    """Nothing else is a key of a dictionary: to compare nested tuples can take for ever."""
    return all(isinstance(key, bytes | str) for key in keys)


def _few(arguments: Any) -> bool:
    return isinstance(arguments, tuple) and len(arguments) < 10


_OPERATIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
)
"""What a pickle of arrays is made of; no sets, no objects by class, no buffers."""

_ALLOWED: dict[str, Callable[[list[Any]], bool]] = {
    "SETITEM": lambda stack: _texts(stack[-2:-1]),
    "SETITEMS": lambda stack: _texts(stack[::2]),
    "DICT": lambda stack: _texts(stack[::2]),
    "REDUCE": lambda stack: _few(stack[-1]),
}


class _Inert(pickle._Unpickler):
    """A file can have numbers, strings, lists, dictionaries and records of arrays; it cannot make anything be called.

    This is the unpickler in Python: that in C makes room for every number under which something is remembered.
    """

    dispatch: ClassVar[dict[int, Load]] = {
        code: _only(load, _ALLOWED[name]) if name in _ALLOWED else load
        for name in _OPERATIONS
        for code, load in [(getattr(pickle, name)[0], pickle._Unpickler.dispatch[getattr(pickle, name)[0]])]
    }

    def load(self) -> Any:
        try:
            return super().load()
        except EOFError:
            raise pickle.UnpicklingError("it ends too early") from None
        except (KeyError, IndexError):  # no such operation, nothing on the stack
            raise pickle.UnpicklingError("it has what no pickle of arrays has") from None

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct")}:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only numpy arrays are allowed")
        return _Recorded


@checked
def cifar5m(folder: AnyPath) -> Stream:
    """One pass over CIFAR-5m in the order of its files: images (32, 32, 3), ten classes.

    Normalised as CIFAR-10 is. Of several parts the last is held out, of a single one its first tenth. Restarting skips whole
    parts without reading them. A part is read to its end once, for its checksum, before its first image is given.

    Args:
        folder: with cifar5m_part0.npz ... cifar5m_part5.npz, or the first few of them.

    Raises:
        FileNotFoundError: there is no part.
        ValueError: a part in between is missing; a file is cut short or damaged, or has a label that is none.
        EndOfStream: after the last whole batch.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in range(2):
        ...         images = np.full((20, 32, 32, 3), 100 * part, np.uint8)
        ...         np.savez(f"{folder}/cifar5m_part{part}.npz", X=images, Y=np.arange(20) % 10)
        ...     stream = cifar5m(folder)
        ...     stream, next(stream.batches(4))[1].tolist()
        (Stream('cifar5m', classes, (32, 32, 3) -> 10), [0, 1, 2, 3])
    """
    files = sorted(Path(folder).glob("cifar5m_part[0-9].npz"))
    if not files:
        raise FileNotFoundError(
            f"{Path(folder)} has no cifar5m_part0.npz. Download the parts of CIFAR-5m and pass their folder."
        )
    if missing := {f"cifar5m_part{i}.npz" for i in range(int(files[-1].stem[-1]))} - {file.name for file in files}:
        raise ValueError(f"{Path(folder)} must have every part up to the last, but {min(missing)} is missing. Download it.")
    sizes = [_size(file) for file in files]
    if len(files) > 1:
        train, skip, num_held_out = files[:-1], 0, sizes.pop()
    else:
        train, skip = files, max(sizes[0] // 10, 1)
        num_held_out = skip

    def blocks(first: int) -> Generator[Batch, None, int]:
        at = first + skip
        for file, size in zip(train, sizes, strict=True):
            if at < size:
                yield from _images(file, at)
            at = max(at - size, 0)
        return sum(sizes) - skip

    def held_out(number: int) -> Batch:
        parts: list[Batch] = []
        for part in _images(files[-1], 0):
            parts.append(part)
            if sum(len(y) for _, y in parts) >= number:
                break
        return np.concatenate([x for x, _ in parts])[:number], np.concatenate([y for _, y in parts])[:number]

    return in_order(
        blocks,
        held_out,
        num_held_out=num_held_out,
        settings={"files": stamp(files), "scale": CIFAR},
        **image_fields("cifar5m", (32, 32, 3), 10),
    )


def _size(path: Path) -> int:
    """Number of images, from the headers alone."""
    with (
        reading(path),
        zipfile.ZipFile(path) as archive,
        _member(path, archive, "X", (32, 32, 3)) as (_, number, _),
        _member(path, archive, "Y", ()) as (_, labels, _),
    ):
        if number != labels:
            raise damaged(path, f"it must have a label for each of {number} images, got {labels}")
        return number


def _images(path: Path, first: int) -> Iterator[Batch]:
    """Images and labels `first`, `first` + 1, ... of one part, a block at a time."""
    verified(path, _arrays)
    with (
        reading(path),
        zipfile.ZipFile(path) as archive,
        _member(path, archive, "X", (32, 32, 3)) as (pixels, number, _),
        _member(path, archive, "Y", ()) as (labels, _, label_type),
    ):
        pixels.seek(first * 3072, 1)
        labels.seek(first * label_type.itemsize, 1)
        for at in range(first, number, BLOCK):
            size = min(BLOCK, number - at)
            x, y = pixels.read(size * 3072), labels.read(size * label_type.itemsize)
            if len(x) < size * 3072 or len(y) < size * label_type.itemsize:
                raise damaged(path, f"it ends before image {at + size} of {number}")
            images = np.frombuffer(x, np.uint8).reshape(size, 32, 32, 3)
            yield normalised(images, CIFAR), label_check(path, np.frombuffer(y, label_type), 10)


def _arrays(path: Path) -> Iterator[IO[bytes]]:
    """X and Y of one part, open one after the other."""
    with zipfile.ZipFile(path) as archive:
        for name in ("X", "Y"):
            with archive.open(f"{name}.npy") as file:
                yield file


@contextmanager
def _member(
    path: Path, archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]
) -> Iterator[tuple[IO[bytes], int, np.dtype]]:
    """The array `name` of an npz file, open at its first byte, with its length and type; its rows must have that shape."""
    if f"{name}.npy" not in archive.namelist():
        raise damaged(path, f"it must hold an array {name}, got {', '.join(archive.namelist())}")
    with archive.open(f"{name}.npy") as file:
        full, fortran, dtype = npy_header(file)
        wanted, fits = ("bytes", dtype == np.uint8) if shape else ("whole numbers", dtype.kind in "iu")
        if fortran or not full or full[1:] != shape or not fits:
            sizes = ", ".join(map(str, shape))
            raise damaged(path, f"{name} must be {wanted} of shape (n, {sizes}), got {dtype} of shape {full}")
        length, there = math.prod(full) * dtype.itemsize, archive.getinfo(f"{name}.npy").file_size - file.tell()
        if length != there:
            raise damaged(path, f"{name} of shape {full} must have {length} bytes, got {there}")
        yield file, full[0], dtype
