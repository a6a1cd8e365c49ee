"""Streams: files in the formats of their authors read back to the bit, restart, held-out points, flat memory, clear errors."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import pickle
import re
import struct
import tracemalloc
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from widthwise import data
from widthwise.data.cifar import CIFAR
from widthwise.data.images import IMAGENET, MNIST, Scale
from widthwise.data.stream import Batch, in_order

some = settings(deadline=None, derandomize=True, max_examples=25)
DOCS = Path(__file__).parent.parent / "docs" / "data.md"

# --- files in the formats of their authors ---------------------------------------------------------------------------------


def random_images(number: int, *shape: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng((seed, number))
    return rng.integers(256, size=(number, *shape), dtype=np.uint8), rng.integers(10, size=number)


def python2_pickle(pixels: NDArray[np.uint8], labels: Any) -> bytes:
    """{"data": array, "labels": list} as Python 2's cPickle wrote CIFAR-10, protocol 2."""

    def text(s: bytes) -> bytes:
        return b"U" + bytes([len(s)]) + s

    number, size = pixels.shape
    shape = b"J" + struct.pack("<i", number) + b"J" + struct.pack("<i", size) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    array = empty + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"
    numbers = b"](" + b"".join(b"J" + struct.pack("<i", label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + text(b"batch_label") + text(b"b 1") + b"u."


def write_cifar10(folder: Path, kind: str, number: int = 4) -> list[Batch]:
    """Files of images (n, 32, 32, 3) and labels, the last the test batch's."""
    parts = [random_images(number, 32, 32, 3, seed=i) for i in range(6)]
    for name, (x, y) in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], parts, strict=True):
        rows = x.transpose(0, 3, 1, 2).reshape(number, -1)
        if kind == "binary":
            (folder / f"{name}.bin").write_bytes(np.column_stack([y.astype(np.uint8), rows]).tobytes())
        else:
            (folder / name).write_bytes(python2_pickle(rows, y))
    return parts


def write_mnist(folder: Path, ending: str = "", sizes: tuple[int, int] = (20, 10)) -> list[Batch]:
    parts = [random_images(number, 28, 28) for number in sizes]
    for part, (x, y) in zip(("train", "t10k"), parts, strict=True):
        images = struct.pack(">4I", 2051, len(x), 28, 28) + x.tobytes()
        labels = struct.pack(">2I", 2049, len(x)) + y.astype(np.uint8).tobytes()
        for what, content in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{what}-ubyte{ending}"
            path.write_bytes(gzip.compress(content) if ending else content)
    return parts


def write_cifar5m(folder: Path, sizes: tuple[int, ...] = (30, 20, 10), save: Callable[..., None] = np.savez) -> list[Batch]:
    parts = [random_images(number, 32, 32, 3, seed=i) for i, number in enumerate(sizes)]
    for i, (x, y) in enumerate(parts):
        save(folder / f"cifar5m_part{i}.npz", X=x, Y=y)
    return parts


def write_image_folder(folder: Path, parts: tuple[str, ...] = ("train", "val"), per_class: int = 6) -> dict[str, Batch]:
    from PIL import Image

    written = {}
    for i, part in enumerate(parts):
        x, _ = random_images(2 * per_class, 8, 8, 3, seed=i)
        y = np.repeat([0, 1], per_class)
        for j, (image, label) in enumerate(zip(x, y, strict=True)):
            path = folder / part / ("cat", "dog")[label] / f"{j:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        written[part] = x, y
    return written


def words(number: int, seed: int = 0) -> str:
    return " ".join(map(str, np.random.default_rng(seed).integers(10**6, size=number)))


def write_wikitext(folder: Path, lines: int = 200) -> None:
    for i, part in enumerate(("train", "valid", "test")):
        (folder / f"wiki.{part}.tokens").write_text("".join(f" {words(8, seed=lines * i + j)} \n" for j in range(lines)))


def write_c4(folder: Path, documents: int = 40, name: str = "c4-train.00000.json.gz", seed: int = 0) -> bytes:
    """The bytes that a reader should see."""
    texts = [words(20, seed=1000 * seed + j) + " é" for j in range(documents)]
    with gzip.open(folder / name, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "timestamp": "2019", "url": "u"}) + "\n" for text in texts)
    return b"".join(text.encode() + b"\0" for text in texts)


def make(name: str, folder: Path, **changes: Any) -> data.Stream:
    """A small stream of every sort, its files written to the folder."""
    if name == "arrays":
        rng = np.random.default_rng(1)
        return data.from_arrays(rng.standard_normal((40, 3)), rng.standard_normal(40), test=8, **changes)
    if name in ("digits", "multi_index", "shapes"):
        return getattr(data, name)(**changes)
    if name == "text":
        (folder / "a.txt").write_text(words(400))
        return data.text(folder / "a.txt", context=16, **changes)
    if name == "wikitext":
        write_wikitext(folder)
        return data.wikitext(folder, context=4, max_vocab=10_000, **changes)
    if name == "c4":
        write_c4(folder)
        return data.c4(folder / "c4-train.00000.json.gz", context=16, num_held_out=20, **changes)
    if name.startswith("cifar10"):
        write_cifar10(folder, name.split()[1])
        return data.cifar10(folder, **changes)
    if name == "image_folder":
        write_image_folder(folder)
        return data.image_folder(folder, size=8, **changes)
    {"mnist": write_mnist, "cifar5m": write_cifar5m}[name](folder)
    return getattr(data, name)(folder, **changes)


NAMES = [
    *("arrays", "digits", "multi_index", "shapes", "text", "wikitext", "c4"),
    *("cifar10 pickle", "cifar10 binary", "mnist", "cifar5m", "image_folder"),
]
ONE_PASS = {"c4", "cifar5m"}
every_stream = pytest.mark.parametrize("name", NAMES)


def first(stream: data.Stream, number: int, batch_size: int, start: int = 0) -> list[Batch]:
    return list(itertools.islice(stream.batches(batch_size, start), number))


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return all((u == v).all() for pair in zip(a, b, strict=True) for u, v in zip(*pair, strict=True))


def all_rows(stream: data.Stream, batch_size: int, most: int = 40) -> Batch:
    """Every sample of a finite stream, or of its first batches."""
    taken: list[Batch] = []
    try:
        for batch in itertools.islice(stream.batches(batch_size), most):
            taken.append(batch)
    except data.EndOfStream:
        assert taken
    return np.concatenate([x for x, _ in taken]), np.concatenate([y for _, y in taken])


def pixels(x: NDArray[np.float32], scale: Scale) -> NDArray[np.uint8]:
    """Undo the normalisation."""
    mean, std = np.array(scale)
    return np.rint((x * std + mean) * 255).astype(np.uint8)


def as_set(x: NDArray[Any], y: NDArray[Any]) -> Counter[bytes]:
    return Counter(row.tobytes() + bytes([label]) for row, label in zip(x, y, strict=True))


# --- what holds of every stream --------------------------------------------------------------------------------------------


@every_stream
def test_types_and_shapes(name: str, tmp_path: Path) -> None:
    stream = make(name, tmp_path)
    for x, y in (*first(stream, 2, 5), stream.probe(3)):
        assert x.shape[1:] == stream.input_shape
        assert x.dtype == (np.int32 if stream.kind == "tokens" else np.float32)
        assert y.dtype == (np.float32 if stream.kind == "values" else np.int32)
        assert y.shape == {"classes": y.shape[:1], "tokens": x.shape, "values": (len(x), stream.num_outputs)}[stream.kind]
        if stream.kind == "tokens":
            assert (x[:, 1:] == y[:, :-1]).all()
    assert repr(stream).startswith(f"Stream('{stream.name}', {stream.kind}, ")


@every_stream
def test_same_batches_every_time_and_from_any_step(name: str, tmp_path: Path) -> None:
    stream = make(name, tmp_path)
    straight = first(stream, 9, 3)
    assert equal(first(make(name, tmp_path), 9, 3), straight)
    assert equal(first(stream, 2, 3, start=7), straight[7:])
    assert not equal(first(stream, 2, 3, start=6), straight[7:])  # negative twin


@every_stream
def test_no_batch_contains_a_probe_point(name: str, tmp_path: Path) -> None:
    stream = make(name, tmp_path)
    x, _ = all_rows(stream, 5)
    seen = {row.tobytes() for row in x}
    probe, labels = stream.probe(4)
    assert not any(row.tobytes() in seen for row in probe)
    assert any(row.tobytes() in seen for row in (*probe, x[3]))  # negative twin
    again = stream.probe(3)
    assert equal([again], [(probe[:3], labels[:3])])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONE_PASS])
def test_seeds(name: str, tmp_path: Path) -> None:
    """Another seed, other batches, another fingerprint; where the data are finite, the same held-out points."""
    one, other = make(name, tmp_path), make(name, tmp_path, seed=1)
    assert not equal(first(one, 1, 4), first(other, 1, 4))
    assert one.fingerprint() != other.fingerprint()
    assert equal([one.probe(3)], [other.probe(3)]) == (name not in ("multi_index", "shapes"))


def test_fingerprints(tmp_path: Path) -> None:
    prints = []
    for name in NAMES:
        (folder := tmp_path / name).mkdir()
        prints.append(make(name, folder).fingerprint())
        assert prints[-1] == make(name, folder).fingerprint()
        assert re.fullmatch("[0-9a-f]{16}", prints[-1])
    (tmp_path / "longer").mkdir()
    write_mnist(tmp_path / "longer", sizes=(21, 10))
    prints += [data.mnist(tmp_path / "longer").fingerprint(), data.multi_index(degree=2).fingerprint()]
    x = np.arange(12.0).reshape(6, 2)
    prints += [data.from_arrays(x + shift, np.arange(6), test=1).fingerprint() for shift in (0, 1)]
    assert len({*prints}) == len(prints)


@pytest.mark.parametrize("name", ["arrays", "digits", "cifar10 pickle", "mnist", "image_folder", "c4", "cifar5m"])
def test_a_finite_stream_ends_with_its_length(name: str, tmp_path: Path) -> None:
    stream = make(name, tmp_path, **({} if name in ONE_PASS else {"epochs": 1}))
    x, _ = all_rows(stream, 1, most=10**4)
    batches = stream.batches(3)
    number = len(x) // 3
    assert len(list(itertools.islice(batches, number))) == number
    with pytest.raises(data.EndOfStream, match=f"it has {number} batches of 3, and batch {number} .* more data"):
        next(batches)
    with pytest.raises(data.EndOfStream, match=f"it has {number} batches of 3, and batch 5000 "):
        next(stream.batches(3, start=5000))
    assert len(first(stream, 1, 3, start=number - 1)) == 1  # negative twin


# --- formats ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pickle", "binary"])
def test_cifar10_to_the_pixel(kind: str, tmp_path: Path) -> None:
    *train, test = write_cifar10(tmp_path, kind)
    stream = data.cifar10(tmp_path, epochs=1)
    x, y = all_rows(stream, 1)
    expected = as_set(np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train]))
    assert as_set(pixels(x, CIFAR), y) == expected
    assert as_set(pixels(x, CIFAR)[..., ::-1].copy(), y) != expected  # negative twin: blue, green, red
    probe, labels = stream.probe(len(test[0]))
    assert as_set(pixels(probe, CIFAR), labels) == as_set(*test)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_to_the_pixel(ending: str, tmp_path: Path) -> None:
    train, test = write_mnist(tmp_path, ending)
    stream = data.mnist(tmp_path, epochs=1)
    x, y = all_rows(stream, 1)
    assert as_set(pixels(x, MNIST), y) == as_set(train[0][..., None], train[1])
    assert as_set(pixels(x, MNIST), y) != as_set(train[0].swapaxes(1, 2)[..., None].copy(), train[1])  # negative twin
    probe, labels = stream.probe(10)
    assert as_set(pixels(probe, MNIST), labels) == as_set(test[0][..., None], test[1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("sizes", [(30, 20, 10), (700, 5), (40,)])
def test_cifar5m_to_the_pixel_and_in_order(save: Callable[..., None], sizes: tuple[int, ...], tmp_path: Path) -> None:
    parts = write_cifar5m(tmp_path, sizes, save)
    x, y = (np.concatenate(a) for a in zip(*parts, strict=True))
    cut = sizes[0] // 10 if len(sizes) == 1 else sum(sizes[:-1])
    train, test = ((x[cut:], y[cut:]), (x[:cut], y[:cut])) if len(sizes) == 1 else ((x[:cut], y[:cut]), (x[cut:], y[cut:]))
    stream = data.cifar5m(tmp_path)
    read, labels = all_rows(stream, 1, most=1000)
    assert equal([(pixels(read, CIFAR), labels)], [train])
    assert equal([(pixels(a, CIFAR), b) for a, b in [stream.probe(len(test[0]))]], [test])
    start = len(train[0]) - 3  # beyond whole parts and blocks
    late = first(stream, 1, 3, start=start // 3)[0][1]
    assert (late == train[1][start // 3 * 3 :][:3]).all()


@pytest.mark.parametrize("parts", [("train", "val"), ("train",), (".",)])
def test_image_folder_to_the_pixel(parts: tuple[str, ...], tmp_path: Path) -> None:
    written = write_image_folder(tmp_path, parts)
    stream = data.image_folder(tmp_path, size=8, epochs=1)
    assert stream.num_held_out == (12 if "val" in parts else 1)
    got = [all_rows(stream, 1), stream.probe(stream.num_held_out)]
    read = sum((as_set(pixels(x, IMAGENET), y) for x, y in got), Counter[bytes]())
    assert read == sum((as_set(*part) for part in written.values()), Counter[bytes]())


def test_image_folder_crops_the_centre(tmp_path: Path) -> None:
    from PIL import Image

    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = 200  # the centre square
    for i, mode in enumerate(("RGB", "L")):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(wide).convert(mode).save(tmp_path / "a" / f"{i}.png")
    x, _ = data.image_folder(tmp_path, size=4).probe(1)
    assert (pixels(x, IMAGENET) == 200).all()
    assert x.shape == (1, 4, 4, 3)


@pytest.mark.parametrize("tokens", ["bytes", "characters"])
def test_windows_are_pieces_of_the_text(tokens: str, tmp_path: Path) -> None:
    corpus = words(400) + "äß€" * 3
    for i, part in enumerate((corpus[:500], corpus[500:])):
        (tmp_path / f"{i}.txt").write_text(part, encoding="utf-8")
    stream = data.text([tmp_path / "0.txt", tmp_path / "1.txt"], context=16, tokens=tokens)
    if tokens == "bytes":
        alphabet: list[Any] = list(range(256))
        whole: Any = corpus.encode()
        joined: Callable[[Any], Any] = bytes
    else:
        alphabet, whole, joined = sorted({*corpus}), corpus, "".join
    assert stream.num_outputs == len(alphabet)
    cut = len(whole) - len(whole) // 10
    for (x, y), piece in ((first(stream, 1, 50)[0], whole[:cut]), (stream.probe(50), whole[cut:])):
        for row, after in zip(x, y, strict=True):
            window = joined([alphabet[t] for t in (*row, after[-1])])
            assert window in piece
            assert window[::-1] not in piece  # negative twin


def test_the_default_text_is_the_standard_library() -> None:
    x, _ = first(data.text(context=400), 1, 100)[0]
    assert b"import " in x.astype(np.uint8).tobytes()


def test_wikitext_words(tmp_path: Path) -> None:
    (tmp_path / "wiki.train.tokens").write_text(" b a <unk> a \n \n c b a \n" * 10)
    (tmp_path / "wiki.valid.tokens").write_text(" a d b \n" * 5)
    stream = data.wikitext(tmp_path, context=3, max_vocab=4)
    assert stream.num_outputs == 4  # <unk>, <eos>, a, b
    x, y = first(stream, 1, 200)[0]
    sentence = [3, 2, 0, 2, 1, 1, 0, 3, 2, 1]
    windows = {tuple((sentence * 2)[i : i + 4]) for i in range(10)}
    assert {(*row, after[-1]) for row, after in zip(x.tolist(), y.tolist(), strict=True)} == windows
    x, y = stream.probe(50)
    held_out = {tuple(([2, 0, 3, 1] * 2)[i : i + 4]) for i in range(4)}
    assert {(*row, after[-1]) for row, after in zip(x.tolist(), y.tolist(), strict=True)} == held_out
    assert held_out.isdisjoint(windows)  # negative twin
    assert data.wikitext(tmp_path, context=3).num_outputs == 5  # and c; d is not in the training text


def test_wikitext_bytes_and_single_files(tmp_path: Path) -> None:
    (tmp_path / "wiki.train.raw").write_text(" training" * 50)
    (tmp_path / "wiki.test.raw").write_text(" held out" * 50)
    whole = data.wikitext(tmp_path, context=9, tokens="bytes")
    assert whole.num_outputs == 256
    assert b"held out" in whole.probe(20)[0].astype(np.uint8).tobytes()
    alone = data.wikitext(tmp_path / "wiki.train.raw", context=9, tokens="bytes")
    assert b"held out" not in alone.probe(20)[0].astype(np.uint8).tobytes()


def test_c4_is_packed_in_order(tmp_path: Path) -> None:
    names = ["z.json.gz", "a.json.gz"]
    texts = [write_c4(tmp_path, 10, name, seed=i) for i, name in enumerate(names)]
    stream = data.c4([tmp_path / name for name in names], context=16, num_held_out=20)

    def read(x: NDArray[Any], y: NDArray[Any]) -> bytes:
        return np.column_stack([x, y[:, -1:]]).astype(np.uint8).tobytes()

    whole = b"".join(texts)
    x, y = all_rows(stream, 1, most=10**4)
    assert whole[: len(whole) // 17 * 17] == read(*stream.probe(20)) + read(x, y)
    assert not b"".join(texts[::-1]).startswith(read(*stream.probe(20)))  # negative twin
    with pytest.raises(ValueError, match=r"holds out 20 points, got num_points=21\. Take fewer"):
        stream.probe(21)


# --- damage ----------------------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path) -> None:
    """Bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(255 - b for b in content[middle : middle + 20])
    path.write_bytes(content)


def overwrite(content: bytes, at: int = 0) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        old = path.read_bytes()
        path.write_bytes(old[:at] + content + old[at + len(content) :])

    return change


def rewrite(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def wrong_npz(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


IMAGES = np.zeros((30, 32, 32, 3), np.uint8)
DAMAGE: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("cifar10 pickle", "data_batch_3", cut_short, "it ends too early"),
    ("cifar10 pickle", "data_batch_3", rewrite(b"not a pickle"), ""),
    ("cifar10 pickle", "data_batch_3", rewrite(pickle.dumps([1, 2])), "a dictionary with data and labels"),
    ("cifar10 pickle", "data_batch_3", rewrite(python2_pickle(IMAGES.reshape(30, -1), [*range(10), 10])), r"got 0 \.\.\. 10"),
    (
        "cifar10 pickle",
        "data_batch_3",
        rewrite(python2_pickle(IMAGES.reshape(30, -1), [1, 2])),
        r"bytes u1 of shape \(2, 3072\)",
    ),
    ("cifar10 binary", "data_batch_5.bin", cut_short, "a multiple of 3073 bytes"),
    ("cifar10 binary", "test_batch.bin", rewrite(b""), "a multiple of 3073 bytes .*got 0"),
    ("cifar10 binary", "data_batch_2.bin", overwrite(b"\x0a"), r"labels must be in 0 \.\.\. 9, got .* 10"),
    ("mnist", "train-images-idx3-ubyte", overwrite(b"\x00\x00\x08\x01"), "magic number must be 2051, got 2049"),
    ("mnist", "t10k-labels-idx1-ubyte", overwrite(b"\x00\x00\x08\x03"), "magic number must be 2049, got 2051"),
    ("mnist", "train-images-idx3-ubyte", cut_short, "header says 20 x 28 x 28 bytes, got"),
    ("mnist", "train-images-idx3-ubyte", rewrite(b"\x00\x00\x08\x03\x00"), "header must have 16 bytes, got 5"),
    ("mnist", "train-images-idx3-ubyte", rewrite(b""), "header must have 16 bytes, got 0"),
    ("mnist", "train-labels-idx1-ubyte", overwrite(b"\x0b", 9), r"\.\.\. 11"),
    ("mnist", "t10k-labels-idx1-ubyte", rewrite(struct.pack(">2I", 2049, 2) + b"\x01\x02"), "label for each of the 10 images"),
    (
        "mnist",
        "t10k-images-idx3-ubyte",
        rewrite(struct.pack(">4I", 2051, 10, 1, 1) + bytes(10)),
        "size of those of train-images",
    ),
    ("cifar5m", "cifar5m_part0.npz", cut_short, "not a zip file"),
    ("cifar5m", "cifar5m_part0.npz", flip, "Bad CRC-32"),
    ("cifar5m", "cifar5m_part0.npz", wrong_npz(X=IMAGES), "must hold an array Y, got X.npy"),
    ("cifar5m", "cifar5m_part0.npz", wrong_npz(X=IMAGES[..., 0], Y=np.zeros(30, int)), "X must be bytes of shape"),
    ("cifar5m", "cifar5m_part0.npz", wrong_npz(X=IMAGES, Y=np.zeros(30)), "Y must be whole numbers of shape"),
    ("cifar5m", "cifar5m_part0.npz", wrong_npz(X=IMAGES, Y=np.zeros(29, int)), "a label for each of 30 images, got 29"),
    ("cifar5m", "cifar5m_part0.npz", wrong_npz(X=IMAGES, Y=np.full(30, -1)), r"got -1 \.\.\. -1"),
    ("c4", "c4-train.00000.json.gz", cut_short, "ended before"),
    ("c4", "c4-train.00000.json.gz", flip, ""),
    ("c4", "c4-train.00000.json.gz", rewrite(b'{"text": "not compressed"}'), "[Nn]ot a gzipped file"),
    ("c4", "c4-train.00000.json.gz", rewrite(gzip.compress(b'{"text": "a"}\n{"no": 1}\n')), 'line 2 is not .* with a "text"'),
    ("c4", "c4-train.00000.json.gz", rewrite(gzip.compress(b'{"text": "a"}\n[1]')), "line 2 is not"),
    ("c4", "c4-train.00000.json.gz", rewrite(b""), "no documents"),
    ("image_folder", "train/cat/02.png", cut_short, "truncated|cut"),
    ("image_folder", "train/cat/02.png", rewrite(b"not an image"), "cannot identify"),
]


def read_through(name: str, build: Callable[[], data.Stream]) -> None:
    all_rows(build(), 1, most=10**4 if name in ONE_PASS else 60)


def builder(name: str, folder: Path) -> Callable[[], data.Stream]:
    """The stream of files that are there, as they are."""
    if name == "c4":
        return lambda: data.c4(folder / "c4-train.00000.json.gz", context=16, num_held_out=20)
    options = {"size": 8} if name == "image_folder" else {}
    return lambda: getattr(data, name.split()[0])(folder, **options)


@pytest.mark.parametrize(("name", "file", "damage", "why"), DAMAGE)
def test_a_damaged_file_is_named_with_the_cure(
    name: str, file: str, damage: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    make(name, tmp_path)
    read_through(name, builder(name, tmp_path))  # negative twin
    damage(tmp_path / file)
    with pytest.raises(
        ValueError, match=f"{re.escape(str(tmp_path / file))} cannot be read: (.|\n)*download it again"
    ) as error:
        read_through(name, builder(name, tmp_path))
    assert re.search(why, str(error.value)), error.value


@pytest.mark.parametrize("name", ["cifar10 pickle", "mnist", "cifar5m", "c4", "image_folder"])
@given(changes=st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 255)), max_size=5), kept=st.floats(0, 1))
@settings(some, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_damage_the_file_is_named(name: str, changes: list[tuple[int, int]], kept: float, tmp_path: Path) -> None:
    """Or nothing is noticed: bytes of a pixel are as good as others."""
    if not any(tmp_path.iterdir()):
        make(name, tmp_path)
    file = next(file for other, file, *_ in DAMAGE if other == name)
    content = bytearray((tmp_path / file).read_bytes())
    whole = bytes(content)
    for at, byte in changes:
        content[at % len(content)] = byte
    (tmp_path / file).write_bytes(content[: round(kept * len(content))])
    try:
        read_through(name, builder(name, tmp_path))
    except ValueError as error:
        assert f"{tmp_path / file} cannot be read: " in str(error)  # noqa: PT017
    finally:
        (tmp_path / file).write_bytes(whole)


@pytest.mark.parametrize("ending", ["cut short", "flipped"])
def test_a_damaged_gz_of_mnist_is_named(ending: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, ".gz")
    (cut_short if ending == "cut short" else flip)(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz cannot be read: .* download it again"):
        data.mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "cure"),
    [
        ("cifar10 pickle", "data_batch_4", r"Unpack cifar-10-python\.tar\.gz"),
        ("cifar10 binary", "test_batch.bin", r"cifar-10-binary\.tar\.gz"),
        ("mnist", "t10k-images-idx3-ubyte", "Download MNIST's four files"),
        ("c4", "c4-train.00000.json.gz", "Pass the files"),
        ("image_folder", None, "Pass a folder with train"),
        ("cifar5m", None, "Download the parts"),
    ],
)
def test_a_missing_file_is_named_with_the_cure(name: str, file: str | None, cure: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    build = builder(name, tmp_path if file else tmp_path / "nowhere")
    if file:
        build()  # negative twin
        (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file or 'nowhere'}.*{cure}"):
        build()


def test_other_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.txt is missing\. Pass the path of a text file"):
        data.text(tmp_path / "no.txt")
    with pytest.raises(ValueError, match="must be a file, got a folder"):
        data.text(tmp_path)
    with pytest.raises(ValueError, match="at least one file, got none"):
        data.c4([])
    with pytest.raises(FileNotFoundError, match=r"wiki\.train\.tokens is missing\. Unpack wikitext-103-v1\.zip"):
        data.wikitext(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no images CLASS"):
        data.image_folder(tmp_path)
    write_cifar5m(tmp_path)
    (tmp_path / "cifar5m_part1.npz").unlink()
    with pytest.raises(ValueError, match=r"cifar5m_part1\.npz is missing\. Download it"):
        data.cifar5m(tmp_path)
    write_image_folder(tmp_path / "images")
    (tmp_path / "images" / "val" / "cat").rename(tmp_path / "images" / "val" / "cow")
    with pytest.raises(ValueError, match="the classes of train, got cow too"):
        data.image_folder(tmp_path / "images")


def test_a_pickle_that_calls_anything_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    write_cifar10(tmp_path, "pickle")
    content = pickle.dumps({"data": Malicious(), "labels": []}, protocol=2)
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"data_batch_2 cannot be read: it asks for \w+\.mkdir, and only numpy arrays are allowed"
    ):
        data.cifar10(tmp_path)
    assert not (tmp_path / "owned").exists()
    pickle.loads(content)  # negative twin
    assert (tmp_path / "owned").exists()


def test_pillow_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match="image_folder needs Pillow to decode images: pip install pillow"):
        data.image_folder(tmp_path)


def test_text_that_does_not_do(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("é".encode("latin-1") * 100)
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8: .* take tokens='bytes'"):
        data.text(path, tokens="characters", context=4)
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        data.wikitext(path, context=4)
    with pytest.raises(ValueError, match="more than context = 16 tokens held out, got 10"):
        data.text(path, context=16)
    assert data.text(path, context=4).num_outputs == 256  # negative twin
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="more than context = 4 tokens to train on, got 0"):
        data.text(path, context=4)


# --- NaN, wrong shapes, wrong labels ---------------------------------------------------------------------------------------


def mine(spoil: Callable[[NDArray[Any], NDArray[Any]], Batch], kind: str = "values") -> data.Stream:
    """A stream whose batch 5 is spoiled."""

    def source(batch_size: int, start: int) -> Generator[Batch, None, int]:
        for step in range(start, 9):
            x = np.full((batch_size, 2), step + 0.5) if kind != "tokens" else np.full((batch_size, 2), step)
            y = {"values": x[:, :1], "classes": np.arange(batch_size), "tokens": x}[kind]
            yield spoil(x.copy(), y.copy()) if step == 5 else (x, y)
        return 9

    held_out = {"values": np.ones((1, 1)), "classes": np.ones(1, int), "tokens": np.ones((1, 2), int)}[kind]
    return data.Stream("mine", (2,), {"values": 1}.get(kind, 9), kind, source, lambda n: (np.ones((1, 2)), held_out))


def nan(x: NDArray[Any], y: NDArray[Any]) -> Batch:
    x[2, 1] = np.nan
    return x, y


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("values", nan, "batch 5 of mine has NaN or infinite entries of x, the first in sample 2"),
        ("values", lambda x, y: (x * 1e39, y), "batch 5 of mine has NaN or infinite entries of x, the first in sample 0"),
        ("values", lambda x, y: (x, y / np.zeros_like(y)), "batch 5 of mine has NaN or infinite entries of y"),
        ("values", lambda x, y: (x[:3], y), r"batch 5 of mine must have x of shape \(4, 2\), got \(3, 2\)"),
        ("values", lambda x, y: (x, y[:, 0]), r"batch 5 of mine must have y of shape \(4, 1\), got \(4,\)"),
        (
            "classes",
            lambda x, y: (x, y + 6),
            r"batch 5 of mine must have whole numbers y in 0 \.\.\. 8, got int64 in 6 \.\.\. 9",
        ),
        ("classes", lambda x, y: (x, y - 1), r"whole numbers y in 0 \.\.\. 8, got int64 in -1"),
        ("classes", lambda x, y: (x, y + 0.5), "whole numbers y .*got float64"),
        ("tokens", lambda x, y: (x + 2**32, y), "whole numbers x .*got int64"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_bad_batch_is_named(kind: str, spoil: Callable[..., Batch], message: str) -> None:
    batches = mine(spoil, kind).batches(4, start=2)
    assert [float(next(batches)[0][0, 0]) // 1 for _ in range(3)] == [2, 3, 4]
    with pytest.raises(ValueError, match=message):
        next(batches)
    assert len(first(mine(lambda x, y: (x, y), kind), 9, 4)) == 9  # negative twin


def test_nan_in_the_middle_of_arrays() -> None:
    x = np.zeros((50, 2))
    x[17, 0] = np.inf
    stream = data.from_arrays(x, np.zeros(50), test=5, epochs=1)
    message = r"batch \d+ of arrays has NaN or infinite entries of x, the first in sample 0"
    clean: list[Batch] = []
    with pytest.raises(ValueError, match=message) as error:
        clean.extend(stream.batches(1))
    assert f"batch {len(clean)} of" in str(error.value)
    x[17, 0] = 0
    assert len(all_rows(stream, 1, most=100)[0]) == 45  # negative twin


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: data.from_arrays(np.ones((4, 2)), np.ones(3), test=1), r"got \(4, 2\) and \(3,\)"),
        (lambda: data.from_arrays(np.ones(4), np.ones(4), test=1), r"shapes \(n, \.\.\.\)"),
        (lambda: data.from_arrays([["a"]], [1], test=1), "x must be an array of numbers with one row per sample"),
        (lambda: data.from_arrays(np.ones((4, 2)), np.ones(4), test=4), "there are 4, got test=4. Hold out fewer"),
        (lambda: data.from_arrays(np.ones((4, 2)), np.ones(4), test=0), r"test must be a whole number .* pass the pair"),
        (lambda: data.from_arrays(np.ones((4, 2)), np.ones(4), test=(np.ones((4, 3)), np.ones(4))), "Apply the same"),
        (lambda: data.from_arrays(np.ones((4, 2)), np.ones(4), test=1, epochs=0), "epochs must be .* None goes on"),
        (lambda: data.multi_index(2, 3), "num_directions must be at most input_dim = 2, got 3"),
        (lambda: data.shapes(noise=-1), "noise must be finite and not negative"),
        (lambda: data.shapes(seed=-1), "seed must be a whole number"),
        (lambda: data.text(tokens="words"), "tokens must be one of 'bytes', 'characters'; got 'words'"),
        (lambda: data.digits().batches(0), "batch_size must be"),
        (lambda: data.digits().batches(1, start=-1), "start must be"),
        (lambda: data.digits().probe(298), "digits holds out 297 points, got num_points=298. Take fewer"),
        (lambda: data.Stream("mine", (2,), 1, "images", len, len), "kind must be one of"),  # type: ignore[arg-type]
    ],
)
def test_what_users_get_wrong(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# --- order -----------------------------------------------------------------------------------------------------------------


@some
@given(st.integers(2, 30), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_row_once_per_epoch_in_one_order_for_all_batch_sizes(n: int, batch_size: int, epochs: int, seed: int) -> None:
    stream = data.from_arrays(np.arange(n)[:, None], np.arange(n), test=1, seed=seed, epochs=epochs)
    x, y = all_rows(stream, 1, most=10**4)
    per_epoch = y.reshape(epochs, n - 1)
    assert (np.sort(per_epoch) == np.setdiff1d(np.arange(n), stream.probe(1)[1])).all()
    assert (x[:, 0] == y).all()
    if len(y) >= batch_size:
        assert (all_rows(stream, batch_size, most=10**4)[1] == y[: len(y) // batch_size * batch_size]).all()


def test_epochs_differ() -> None:
    y = all_rows(data.from_arrays(np.zeros((100, 1)), np.arange(100), test=1, epochs=2), 1, most=10**4)[1].reshape(2, 99)
    assert (y[0] != y[1]).any()


def test_from_arrays_with_a_test_set_and_several_targets() -> None:
    rng = np.random.default_rng(0)
    x, y, x_test, y_test = (rng.standard_normal((n, c)) for n, c in ((8, 3), (8, 2), (5, 3), (5, 2)))
    stream = data.from_arrays(x, y, test=(x_test, y_test), epochs=1)
    assert repr(stream) == "Stream('arrays', values, (3,) -> 2)"
    read = all_rows(stream, 1)
    order = np.argsort(read[0][:, 0])
    assert (read[1][order] == y[np.argsort(x[:, 0])].astype(np.float32)).all()
    probe = stream.probe(5)
    assert (np.sort(probe[1][:, 0]) == np.sort(y_test[:, 0].astype(np.float32))).all()
    labels = data.from_arrays(x, np.arange(8), test=(x_test, np.array([9, 0, 1, 2, 3])))
    assert labels.num_outputs == 10


@some
@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 5), st.integers(0, 6))
def test_blocks_of_any_size_become_batches(sizes: list[int], batch_size: int, start: int) -> None:
    total = sum(sizes)

    def blocks(at: int) -> Generator[Batch, None, int]:
        rest = np.arange(at, total)
        for size in sizes:
            yield rest[:size, None], rest[:size, None]
            rest = rest[size:]
        return total

    held_out = np.zeros((1, 1))
    stream = in_order(blocks, lambda n: (held_out, held_out), name="n", input_shape=(1,), num_outputs=1, kind="values")
    number = total // batch_size - start
    got = first(stream, max(number, 0), batch_size, start)
    assert [x.ravel().tolist() for x, _ in got] == [
        [*range(step * batch_size, (step + 1) * batch_size)] for step in range(start, start + number)
    ]
    with pytest.raises(data.EndOfStream, match=f"it has {total // batch_size} batches of {batch_size}, "):
        first(stream, max(number, 0) + 1, batch_size, start)


# --- synthetic -------------------------------------------------------------------------------------------------------------


@some
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_multi_index_targets_have_mean_0_and_variance_1(num_directions: int, degree: int, seed: int) -> None:
    """Within five standard errors, that of the variance from the sample's own fourth moment."""
    y = next(data.multi_index(6, num_directions, degree, seed=seed).batches(20_000))[1][:, 0].astype(float)
    assert abs(y.mean()) < 5 * y.std() / np.sqrt(len(y))
    error = np.std(y**2) / np.sqrt(len(y))
    assert abs(np.mean(y**2) - 1) < 5 * error


def test_multi_index_is_a_polynomial_of_its_degree() -> None:
    def residual(degree_of_fit: int) -> float:
        x, y = next(data.multi_index(3, 2, 2, seed=3).batches(500))
        x = x.astype(float)
        features = [np.ones(len(x)), *x.T]
        if degree_of_fit == 2:
            features += [x[:, i] * x[:, j] for i in range(3) for j in range(i + 1)]
        A = np.stack(features, 1)
        return float(np.abs(A @ np.linalg.lstsq(A, y, rcond=None)[0] - y).max())

    assert residual(2) < 1e-4
    assert residual(1) > 0.1  # negative twin


def test_shapes_need_more_than_a_linear_model() -> None:
    """Least squares on pixels is at chance (0.1 within 5 standard errors of 1000 test images, plus a little overfit); on the
    rectified and pooled output of fixed random filters, the simplest convolutional network, it is far above."""
    x, y = next(data.shapes().batches(3000))
    x_test, y_test = data.shapes().probe(1000)

    def score(features: Callable[[NDArray[Any]], NDArray[Any]]) -> float:
        A, A_test = (np.column_stack([f, np.ones(len(f))]).astype(float) for f in (features(x), features(x_test)))
        gram = A.T @ A
        W = np.linalg.solve(gram + 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)), A.T @ np.eye(10)[y])
        return float(((A_test @ W).argmax(1) == y_test).mean())

    filters = np.random.default_rng(0).standard_normal((75, 64)).astype(np.float32)
    filters -= np.tile(filters.reshape(25, 3, 64).mean(0), (25, 1))  # blind to colours that are everywhere the same

    def convolved(images: NDArray[Any]) -> NDArray[Any]:
        patches = np.lib.stride_tricks.sliding_window_view(images, (5, 5), axis=(1, 2))  # (n, 12, 12, 3, 5, 5)
        flat = patches.transpose(0, 1, 2, 4, 5, 3).reshape(len(images), 12, 12, 75)
        out = np.maximum(flat @ filters, 0)
        return out.reshape(len(images), 2, 6, 2, 6, 64).mean((2, 4)).reshape(len(images), -1)

    linear, convolutional = score(lambda images: images.reshape(len(images), -1)), score(convolved)
    assert linear < 0.1 + 5 * 0.0095
    assert convolutional > 0.5


# --- memory ----------------------------------------------------------------------------------------------------------------


def peak(read: Callable[[], Any]) -> int:
    """Bytes."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def exhaust(batches: Iterator[Batch]) -> None:
    with pytest.raises(data.EndOfStream):
        for _ in batches:
            pass


def long_c4(folder: Path, times: int) -> Callable[[], object]:
    write_c4(folder, 300 * times)
    return lambda: exhaust(data.c4(folder / "c4-train.00000.json.gz", num_held_out=10).batches(8))


def long_cifar5m(folder: Path, times: int) -> Callable[[], object]:
    write_cifar5m(folder, (2200 * times, 5))
    return lambda: exhaust(data.cifar5m(folder).batches(128))


def long_wikitext(folder: Path, times: int) -> Callable[[], object]:
    (folder / "wiki.train.tokens").write_text(f" {words(50)} \n" * (300 * times))
    return lambda: first(data.wikitext(folder, context=8), 5, 4)


def long_text(folder: Path, times: int) -> Callable[[], object]:
    (folder / "a.txt").write_text("some letters" * (500_000 * times))
    return lambda: first(data.text(folder / "a.txt"), 5, 4)


def long_cifar10(folder: Path, times: int) -> Callable[[], object]:
    write_cifar10(folder, "binary", 100 * times)
    return lambda: exhaust(data.cifar10(folder, epochs=1).batches(20))


def long_synthetic(folder: Path, times: int) -> Callable[[], object]:
    return lambda: sum(x[0, 0] for x, _ in itertools.islice(data.multi_index().batches(50), 20 * times))


@pytest.mark.parametrize("long", [long_c4, long_cifar5m, long_wikitext, long_text, long_cifar10, long_synthetic])
def test_memory_does_not_grow(long: Callable[[Path, int], Callable[[], object]], tmp_path: Path) -> None:
    """Ten times the data (megabytes more) within 200 kB: an index and a label per image are all that may grow."""
    peaks = []
    for times in (1, 10):
        (folder := tmp_path / str(times)).mkdir()
        read = long(folder, times)
        read()  # what is imported or cached the first time
        peaks.append(peak(read))
    assert peaks[1] < peaks[0] + 200_000, peaks


def test_memory_that_grows_is_seen(tmp_path: Path) -> None:
    """Negative twin."""
    peaks = []
    for times in (1, 10):
        write_c4(tmp_path, 300 * times)
        stream = data.c4(tmp_path / "c4-train.00000.json.gz", num_held_out=10)
        peaks.append(peak(partial(first, stream, 70 * times, 8)))
    assert peaks[1] > peaks[0] + 200_000, peaks


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for script in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL):
        exec(script, {})
    accuracy = float(capsys.readouterr().out.split()[-1])
    assert accuracy > 0.85
