"""Streams of batches for training real networks: the same batches for every width and seed, from any step on."""

from widthwise.data.arrays import digits, from_arrays
from widthwise.data.cifar import cifar5m, cifar10
from widthwise.data.images import image_folder, mnist
from widthwise.data.stream import EndOfStream, Stream
from widthwise.data.synthetic import multi_index, shapes
from widthwise.data.text import c4, text, wikitext

__all__ = [
    "EndOfStream",
    "Stream",
    "c4",
    "cifar5m",
    "cifar10",
    "digits",
    "from_arrays",
    "image_folder",
    "mnist",
    "multi_index",
    "shapes",
    "text",
    "wikitext",
]
