"""Streams of images: MNIST, and folders like ImageNet's. Pixels are (p / 255 - mean) / std per channel."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from widthwise import check
from widthwise.checked import checked
from widthwise.data.files import AnyPath, damaged, existing, read_exactly, reading, stamp
from widthwise.data.stream import Rows, Stream, shuffled
from widthwise.memory import room

Scale = tuple[tuple[float, ...], tuple[float, ...]]

MNIST: Scale = (0.1307,), (0.3081,)
"""Mean and standard deviation per channel of MNIST's training images, pixels in 0 ... 1."""

IMAGENET: Scale = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The same of ImageNet; used for every image folder."""

ENDINGS = {".jpeg", ".jpg", ".png"}

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""What a file of these endings may hold."""

MOST_ZIPPED = 2**30
"""Bytes that are held in memory of one .gz; MNIST's largest have 47 million."""


def normalised(pixels: NDArray[np.uint8], scale: Scale) -> NDArray[np.float32]:
    """(B, H, W, C) bytes -> (p / 255 - mean) / std per channel."""
    mean, std = np.array(scale, np.float32)
    out = pixels.astype(np.float32)
    out /= 255
    out -= mean
    out /= std
    return out


def label_check(path: Path, labels: Any, num_classes: int) -> NDArray[np.int32]:
    """Labels as int32, if they are whole numbers 0 ... num_classes - 1; else the error names the file."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise damaged(path, f"labels must be a list of whole numbers, got {labels.dtype} of shape {labels.shape}")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise damaged(path, f"labels must be in 0 ... {num_classes - 1}, got {labels.min()} ... {labels.max()}")
    return labels.astype(np.int32)


def image_fields(name: str, shape: tuple[int, ...], num_classes: int) -> dict[str, Any]:
    """What every stream of images and classes has."""
    return {"name": name, "input_shape": shape, "num_outputs": num_classes, "kind": "classes"}


@checked
def mnist(folder: AnyPath, *, seed: int = 0, epochs: int | None = None) -> Stream:
    """MNIST and what has its format (Fashion-MNIST, KMNIST): images (28, 28, 1), ten classes; t10k is held out.

    Args:
        folder: with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each as
            it is (mapped into memory) or with .gz (held in memory as bytes).
        seed: of the order.
        epochs: how often each image comes; 1 is one pass, None goes on for ever.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a wrong magic number, dimensions that are not those of the file, a label that is none, more than
            1 GiB in a .gz.

    Example:
        >>> try:
        ...     mnist("nowhere")
        ... except FileNotFoundError as error:
        ...     print(error)
        nowhere/train-images-idx3-ubyte is missing, with or without .gz. Download MNIST's four files and pass their folder.
    """
    parts: list[Rows] = []
    files: list[Path] = []
    shapes = set()
    for part in ("train", "t10k"):
        (images, x), (labels, y) = (_idx(Path(folder), f"{part}-{what}-ubyte") for what in ("images-idx3", "labels-idx1"))
        if len(x) != len(y) or not len(x):
            raise damaged(labels, f"it must have a label for each of the {len(x)} images of {images.name}, got {len(y)}")
        files += [images, labels]
        shapes.add(x.shape[1:])
        parts.append(_gray(x, label_check(labels, y, 10)))
    if len(shapes) > 1:
        raise damaged(files[2], f"its images must have the size of those of {files[0].name}, got {sorted(shapes)}")
    settings = {"files": stamp(files), "scale": MNIST}
    train, test = parts
    return shuffled(train, test, seed, epochs, settings=settings, **image_fields("mnist", (*shapes.pop(), 1), 10))


def _gray(x: NDArray[np.uint8], y: NDArray[np.int32]) -> Rows:
    return Rows(len(x), lambda rows: (normalised(x[rows, ..., None], MNIST), y[rows]))


def _idx(folder: Path, name: str) -> tuple[Path, NDArray[np.uint8]]:
    """An array of bytes in idx format: magic number 2048 + rank, sizes as big-endian 32-bit numbers, bytes."""
    path = folder / name
    if not path.exists() and not (path := folder / f"{name}.gz").exists():
        raise FileNotFoundError(
            f"{folder / name} is missing, with or without .gz. Download MNIST's four files and pass their folder."
        )
    rank = 3 if "idx3" in name else 1
    zipped = path.suffix == ".gz"
    file: IO[bytes] | gzip.GzipFile
    with reading(path), gzip.open(path) if zipped else path.open("rb") as file:
        header = file.read(4 * (rank + 1))
        if len(header) < 4 * (rank + 1):
            raise damaged(path, f"its header must have {4 * (rank + 1)} bytes, got {len(header)}")
        magic, *shape = struct.unpack(f">{rank + 1}I", header)
        if magic != 2048 + rank:
            raise damaged(path, f"its magic number must be {2048 + rank}, got {magic}")
        says, number = f"its header says {' x '.join(map(str, shape))} bytes", math.prod(shape)
        if zipped and number > MOST_ZIPPED:
            raise damaged(path, f"{says}, and {MOST_ZIPPED} are held in memory at most: unpack it")
        if zipped:
            room(number, f"to hold {path}", "Unpack it: then it is mapped into memory, not held.")
            content = np.frombuffer(read_exactly(file, number), np.uint8)
        else:
            content = np.memmap(path, np.uint8, "r")[len(header) :]
        if content.size != number:
            raise damaged(path, f"{says}, got {'more' if content.size > number else content.size}")
        return path, content.reshape(shape)


@checked
def image_folder(folder: AnyPath, size: int = 224, *, seed: int = 0, epochs: int | None = None) -> Stream:
    """Images in one folder per class, as ImageNet's: the centre square, resized (bilinear) to (size, size, 3).

    An image is decoded when its batch is asked for. Needs Pillow.

    Args:
        folder: with train/CLASS/*.JPEG (or .jpg, .png) and val/CLASS/*.JPEG, which is held out; or with CLASS/*.JPEG, of which
            a tenth is held out. Classes are numbered by name.
        size: of an image, in pixels.
        seed: of the order.
        epochs: how often each image comes; 1 is one pass, None goes on for ever.

    Raises:
        FileNotFoundError: no folder, or no images in it.
        ValueError: classes in val that train does not have; when a batch comes to it, an image that is damaged, or larger
            than Pillow's MAX_IMAGE_PIXELS.
        ImportError: Pillow is missing.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for path in (Path(root) / part / name / "1.png" for part in ("train", "val") for name in ("cat", "dog")):
        ...         path.parent.mkdir(parents=True)
        ...         Image.new("RGB", (12, 10)).save(path)
        ...     image_folder(root, size=8)
        Stream('image folder', classes, (8, 8, 3) -> 2)
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("image_folder needs Pillow to decode images: pip install pillow") from error
    check.count("size", size)
    root = existing(folder, "Pass a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG.")
    top = root / "train" if (root / "train").is_dir() else root
    split = top != root and (root / "val").is_dir()
    train, test = _labelled(top), _labelled(root / "val") if split else []
    classes = sorted({path.parent.name for path in train})
    if unknown := sorted({path.parent.name for path in test} - {*classes}):
        raise ValueError(f"{root / 'val'} must have the classes of train, got {', '.join(unknown)} too. Add them to train.")
    if not split:
        held_out = {*np.random.default_rng(0).permutation(len(train))[: max(len(train) // 10, 1)].tolist()}
        test = [path for i, path in enumerate(train) if i in held_out]
        train = [path for i, path in enumerate(train) if i not in held_out]
        if not train:
            raise ValueError(f"{top} must have at least two images, got one. Add images.")

    number = {name: i for i, name in enumerate(classes)}

    def pixels(path: Path) -> NDArray[np.uint8]:
        with reading(path), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise damaged(
                    path, f"it has {image.width} x {image.height} pixels, more than Pillow's {Image.MAX_IMAGE_PIXELS}"
                )
            side = min(image.size)
            left, upper = ((full - side) // 2 for full in image.size)
            square = image.convert("RGB").crop((left, upper, left + side, upper + side))
            return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))

    def rows(paths: list[Path]) -> Rows:
        label = np.array([number[path.parent.name] for path in paths])
        return Rows(len(paths), lambda at: (normalised(np.stack([pixels(paths[i]) for i in at]), IMAGENET), label[at]))

    names = "\n".join(f"{path.parent.name}/{path.name}" for path in (*train, *test))
    settings = {"scale": IMAGENET, "names": hashlib.sha256(names.encode()).hexdigest()}
    fields = image_fields("image folder", (size, size, 3), len(classes))
    return shuffled(rows(train), rows(test), seed, epochs, settings=settings, **fields)


def _labelled(folder: Path) -> list[Path]:
    """Paths folder/CLASS/image, sorted."""
    found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise FileNotFoundError(
            f"{folder} has no images CLASS/*.JPEG, .jpg or .png. Pass the folder above those of the classes."
        )
    return found
