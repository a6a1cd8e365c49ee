"""Small files that ask for gigabytes, or for ever, are refused in little memory and time; damaged ones are not handed out."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_data import equal, first, write_c4, write_cifar5m
from widthwise import data

ROOT = Path(__file__).parent.parent

# --- bombs -----------------------------------------------------------------------------------------------------------------

ALLOWED = 200
"""MiB that a bomb may take beyond what the interpreter has; every one of them asks for 500 or more."""

READ = """
import gzip, json, resource, struct, sys, zipfile, zlib
from pathlib import Path
import numpy as np
from tests import test_data as made
from widthwise import Result, data, storage

MANY = 2**29

def zeros(write, number):
    for _ in range(number >> 20):
        write(bytes(1 << 20))

def npy_header(name, shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\\x93NUMPY\\x01\\x00" + struct.pack("<H", len(text)) + text

def cifar_pickle(content):
    made.write_cifar10(folder, "pickle")
    (folder / "data_batch_1").write_bytes(content)
    return lambda: data.cifar10(folder)

def pickle_index():  # remembered under number 2^29
    return cifar_pickle(b"N\\x72" + struct.pack("<I", 2**29) + b".")

def pickle_arguments():  # one of a string's characters each
    return cifar_pickle(b"cnumpy\\nndarray\\nT" + struct.pack("<i", 2**26) + bytes(2**26) + b"R.")

def twice(times):  # a tuple of twice the tuple of twice the tuple ...
    return b"K\\0q\\0" + b"".join(b"h%c\\x86q%c" % (i, i + 1) for i in range(times))

def pickle_keys():  # the hash takes 2^60 steps
    return cifar_pickle(b"}" + twice(60) + b"Ns.")

def pickle_labels():  # an array of 2^40 entries
    return cifar_pickle(b"}(U\\4dataNU\\6labels](" + twice(40) + b"eu.")

def pickle_shape():  # of which the message would have 2^60 characters
    array = b"cnumpy\\nndarray\\n)R(K\\1" + twice(60) + b"cnumpy\\ndtype\\nU\\2u1\\x85R\\x89U\\0tb"
    return cifar_pickle(b"}(U\\4data" + array + b"U\\6labels](K\\1eu.")

def idx():  # more than the header says
    made.write_mnist(folder, ".gz")
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(struct.pack(">4I", 2051, 20, 28, 28))
        zeros(file.write, MANY)
    return lambda: data.mnist(folder)

def idx_header():  # all that the header says
    made.write_mnist(folder, ".gz")
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(struct.pack(">4I", 2051, 2**11, 2**10, 2**10))
        zeros(file.write, MANY)
    return lambda: data.mnist(folder)

def npz_header():  # of a gigabyte
    made.write_cifar5m(folder, (30,))
    with zipfile.ZipFile(folder / "cifar5m_part0.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("X.npy", "w") as file:
            file.write(b"\\x93NUMPY\\x02\\x00" + struct.pack("<I", MANY))
            zeros(file.write, MANY)
        archive.writestr("Y.npy", npy_header("Y", (30,)) + bytes(30))
    return lambda: data.cifar5m(folder)

def result():
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("header.npy", "w") as file:
            file.write(npy_header("header", (MANY,)))
            zeros(file.write, MANY)
    return lambda: Result.load(folder / "a.npz")

def result_shape():
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("header.npy", npy_header("header", (2**33,)))
    return lambda: Result.load(folder / "a.npz")

def c4():  # one line
    with gzip.open(folder / "a.json.gz", "wb", 1) as file:
        zeros(file.write, MANY)
    return lambda: next(data.c4(folder / "a.json.gz").batches(1))

def wikitext():  # one line, of a file that takes no room on the disk
    with (folder / "wiki.train.tokens").open("wb") as file:
        file.truncate(MANY)
    return lambda: data.wikitext(folder)

def png():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    for i in range(2):
        (folder / "cat").mkdir(exist_ok=True)
        (folder / "cat" / f"{i}.png").write_bytes(
            b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">2I5B", 11_000, 11_000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(33_001 * 11_000), 1)) + chunk(b"IEND", b""))
    return lambda: data.image_folder(folder, 8).probe(1)

def honest():  # negative twin: the limit is real
    return lambda: np.ones(MANY // 8)

from PIL import Image
Image.init()
for bomb in sys.argv[3:]:
    folder = Path(sys.argv[1]) / bomb
    folder.mkdir()
    read = globals()[bomb]()
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + int(sys.argv[2]) * 2**20, resource.RLIM_INFINITY))
    try:
        said = f"read: {read()}"
    except ValueError as error:
        said = f"refused: {error}"
    except MemoryError:
        said = "out of memory"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    print(json.dumps([bomb, said]), flush=True)
"""

BOMBS = {
    "pickle_index": "must hold a dictionary",
    "pickle_arguments": "no pickle of arrays has",
    "pickle_keys": "no pickle of arrays has",
    "pickle_labels": "labels must be a list of whole numbers",
    "pickle_shape": "got b'u1' of shape (((((",
    "idx": "header says 20 x 28 x 28 bytes, got more",
    "idx_header": "held in memory at most: unpack it",
    "npz_header": "must have the header of an array",
    "result": "not compressed",
    "result_shape": "must be as long as its shape",
    "c4": "line 1 is longer than 8388608 bytes",
    "wikitext": "has a line of more than 8388608 characters",
    "png": "11000 x 11000 pixels, more than Pillow's",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What reading each of them comes to, one after the other, as far as they come in two minutes."""
    folder = tmp_path_factory.mktemp("bombs")
    run = [sys.executable, "-W", "ignore", "-c", READ, str(folder), str(ALLOWED), *BOMBS, "honest"]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(120)
        process.kill()
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    shutil.rmtree(folder)
    return dict(map(json.loads, lines))


@pytest.mark.parametrize(("bomb", "says"), BOMBS.items())
def test_a_small_file_that_asks_for_much_is_refused(bomb: str, says: str, said: dict[str, str]) -> None:
    assert said[bomb].startswith("refused: ")
    assert says in said[bomb]


def test_the_limit_of_memory_is_real(said: dict[str, str]) -> None:
    """Negative twin."""
    assert said["honest"] == "out of memory"


# --- damage ----------------------------------------------------------------------------------------------------------------


def a_c4(folder: Path) -> tuple[Path, int, Callable[[], data.Stream]]:
    write_c4(folder, 2000)
    path = folder / "c4-train.00000.json.gz"
    return path, path.stat().st_size - 7, lambda: data.c4(path, num_held_out=10)  # a byte of the checksum


def a_cifar5m(folder: Path) -> tuple[Path, int, Callable[[], data.Stream]]:
    write_cifar5m(folder, (2200, 5))
    return folder / "cifar5m_part0.npz", 2100 * 3072, lambda: data.cifar5m(folder)  # a pixel of a late image


@pytest.mark.parametrize("make", [a_c4, a_cifar5m])
def test_nothing_of_a_damaged_file_is_handed_out(make: Callable[[Path], Any], tmp_path: Path) -> None:
    """The first batch could be had long before the checksum at the end."""
    path, at, stream = make(tmp_path)
    whole = path.read_bytes()
    right = first(stream(), 1, 4)
    for change in (1, 0):  # and negative twin
        path.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
        if change:
            with pytest.raises(ValueError, match=rf"{path.name} cannot be read: .*CRC"):
                next(stream().batches(4))
        else:
            assert equal(first(stream(), 1, 4), right)


def test_a_file_is_read_through_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_c4(tmp_path, 50)
    path = tmp_path / "c4-train.00000.json.gz"
    opened: list[Path] = []
    module = sys.modules["widthwise.data.text"]
    through = module._unzipped

    def counted(path: Path) -> Any:
        opened.append(path)
        return through(path)

    monkeypatch.setattr(module, "_unzipped", counted)
    stream = data.c4(path, num_held_out=10)
    for _ in range(3):
        next(stream.batches(2))
        stream.probe(3)
    assert len(opened) == 1
    write_c4(tmp_path, 51)
    next(stream.batches(2))
    assert len(opened) == 2
