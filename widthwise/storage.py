"""Files of our own: they appear whole or not at all, are verified when they are read, and have one writer at a time."""

from __future__ import annotations

import contextlib
import io
import math
import os
import platform
import re
import secrets
import shutil
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from filelock import FileLock, Timeout

from widthwise import check
from widthwise.sharding import agreed

AnyPath = str | os.PathLike[str]

MOST_HEADER = 2**16
"""Bytes of the header of one array; numpy writes less than 200."""

MOST_CONTENTS = 2**24
"""Bytes of an archive's table of contents: over a hundred thousand arrays."""

AT_A_TIME = 2**20
"""Bytes that are read at a time."""

PATIENCE = 60.0
"""Seconds that a short write waits for another one."""


# --- writing ---------------------------------------------------------------------------------------------------------------


def target(path: AnyPath) -> Path:
    """The file itself, where `path` is a symbolic link to it (which may be still to come)."""
    return Path(os.path.realpath(check.path("path", path)))


def with_suffix(path: AnyPath, suffix: str = ".npz") -> Path:
    """The path, with the suffix if it has none."""
    path = Path(check.path("path", path))
    return path if path.suffix else path.with_suffix(suffix)


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[IO[bytes]]:
    """Open a file for writing bytes that replaces `path` when the block ends well, and vanishes when it does not.

    Until then it is `path`.XXXXXXXX.part, locked while its writer lives; those of writers that were killed are removed by the
    next one. Where `path` is a symbolic link, the file that it leads to is replaced.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = target(path)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        writable(path)
        forget_parts(path)
        with _locked(part, PATIENCE):
            try:
                with open(part, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                if path.is_file():
                    shutil.copymode(path, part)
                os.replace(part, path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.filename != str(part):
            raise
        raise _unwritable(path, error) from error


def forget_parts(path: AnyPath) -> None:
    """Remove what killed writers of `path` have left; parts of writers that live are locked, and stay."""
    path = target(path)
    for part in path.parent.glob("*.part"):
        if re.fullmatch(re.escape(path.name) + r"\.[0-9a-f]{8}\.part", part.name):
            with contextlib.suppress(OSError), FileLock(part, 0, fallback_to_soft=False):
                part.unlink()


def writable(path: Path) -> None:
    """Raise OSError, with the cure, unless this is a file, or one that can be made.

    To be asked before hours of computing, not after.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file.")
    _writable_folder(path)


def _writable_folder(path: Path) -> None:
    folder = path.parent
    kind: type[OSError] | None = None
    if not folder.exists():
        kind, why = (NotADirectoryError if any(p.is_file() for p in folder.parents) else FileNotFoundError), "it is missing"
    elif not folder.is_dir():
        kind, why = NotADirectoryError, "it is a file"
    elif not os.access(folder, os.W_OK | os.X_OK):
        kind, why = PermissionError, "it must not be written"
    if kind:
        raise kind(f"cannot write a file in the folder of {path}: {why}. Make it, or choose another path.")


def _unwritable(path: Path, error: OSError) -> OSError:
    return type(error)(
        error.errno, f"cannot write a file in the folder of {path}: {error.strerror}. Make room, or choose another path."
    )


# --- one writer at a time --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: Path, patience: float) -> Iterator[bool]:
    """Whether this file is locked (flock, which ends with the process): False where the file system has no locks.

    Raises:
        Timeout: another one has it.
    """
    lock = FileLock(path, patience, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def _guard(path: Path, patience: float, holder: str) -> Iterator[bool]:
    """As `_locked`, by a file beside `path` that says who holds it and goes with the lock."""
    guard = path.with_name(f"{path.name}.lock")
    with _locked(guard, patience) as held:
        try:
            if held:
                with contextlib.suppress(OSError):  # a full disk
                    guard.write_text(holder)
            yield held
        finally:
            if held:
                guard.unlink(missing_ok=True)  # while it is locked: who waits for it sees that, and makes another


@contextlib.contextmanager
def alone(path: AnyPath, patience: float = PATIENCE) -> Iterator[None]:
    """While the block lasts, other blocks for this path wait; so long, in seconds, or for ever (-1).

    Raises:
        TimeoutError: another block takes longer.
        OSError: the folder is missing or cannot be written.
    """
    path = target(path)
    _writable_folder(path)
    with _guard(path, patience, _me()):
        yield


@contextlib.contextmanager
def held(path: AnyPath | None, what: str, of: str = "") -> Iterator[None]:
    """While the block lasts, the file is this run's; None is no file. Of several processes of one run the first holds it.

    It is a lock on `path`.lock that the operating system lets go of when the process ends, however it ends. Where a file
    system has no locks that is a warning, and the run goes on.

    Args:
        path: the file.
        what: what it is, in a word, for the messages.
        of: distinguishes runs that may share the file.

    Raises:
        ValueError: another run has it.
        OSError: its folder is missing or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        error: Exception | None = None
        if path is not None and jax.process_index() == 0:
            try:
                _hold(stack, target(path), f"{what} {path}", of)
            except (OSError, ValueError) as found:
                error = found
        if agreed(error is not None):
            raise error or ValueError(f"the first process cannot have {what} {path}: see its message.")
        yield


def _hold(stack: contextlib.ExitStack, path: Path, name: str, of: str) -> None:
    writable(path)
    forget_parts(path)
    guarded = path.with_name(f"{path.name}.{of}") if of else path
    try:
        if not stack.enter_context(_guard(guarded, 0, _me())):
            warnings.warn(
                f"{name} cannot be locked, its file system has no locks: see that no other run uses it.",
                RuntimeWarning,
                stacklevel=4,
            )
    except Timeout:
        guard = guarded.with_name(f"{guarded.name}.lock")
        with contextlib.suppress(OSError):
            name = f"{name} ({guard.read_text() or 'who has it is not known'})"
        raise ValueError(
            f"{name} is in use by another run that has not ended. Wait for it, end it, or choose another file."
        ) from None


def _me() -> str:
    return f"process {os.getpid()} on {platform.node()}"


# --- arrays ----------------------------------------------------------------------------------------------------------------


def write_arrays(path: AnyPath, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name into an .npz file, which appears whole or not at all."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, x in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(x), allow_pickle=False)


def read_arrays(path: AnyPath) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote, if every byte that matters is as it was written.

    The checksum of each array is compared, there must be as many as were written, and each must be as long as its header says.
    So it takes no more memory than the file is long.

    Raises:
        OSError: there is no such file.
        ValueError: another file, or a damaged one.
    """
    with open(check.path("path", path), "rb") as file:
        try:
            with _archive(file) as archive:
                return {info.filename.removesuffix(".npy"): _array(archive, info) for info in archive.infolist()}
        except Exception as error:  # whatever zipfile and numpy make of arbitrary bytes
            raise ValueError(str(error).rstrip(".") or type(error).__name__) from error


def load_arrays(path: AnyPath) -> dict[str, np.ndarray]:
    """As `read_arrays`, with the file's name in the error."""
    try:
        return read_arrays(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a file of arrays or is damaged ({error}): compute it again.") from error


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    """The archive, if its table of contents is as long as its last 22 bytes say, and its members fit into the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 22, 0))
    end = file.read(22)
    if len(end) < 22 or end[:4] != b"PK\x05\x06":
        raise ValueError("it does not end as an archive of arrays does")
    _, _, _, count, length, at, comment = struct.unpack("<4H2LH", end[4:])
    if comment or length > MOST_CONTENTS:
        raise ValueError("its table of contents is none")
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if count != min(len(members), 0xFFFF) or len({info.filename for info in members}) < len(members):
        raise ValueError(f"its table of contents must name {count} arrays, got {len(members)}")
    if at != min(archive.start_dir, 0xFFFFFFFF):  # an end of zeros would be that of an empty archive after other bytes
        raise ValueError(f"its table of contents must be at byte {at}, got {archive.start_dir}")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members) or sum(info.file_size for info in members) > size:
        raise ValueError("its arrays must be stored as they are, not compressed")
    return archive


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        shape, fortran, dtype = npy_header(file)
        length = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or file.tell() + length != info.file_size:
            raise ValueError(f"array {info.filename} of {dtype} must be as long as its shape {shape} says")
        content, at = np.empty(length, np.uint8), 0
        while block := file.read(AT_A_TIME):  # to the end, where the checksum is compared
            content[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
    if at != length:
        raise ValueError(f"array {info.filename} is cut short")
    return np.ndarray(shape, dtype, content.data if length else None, order="F" if fortran else "C")


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis is the fastest, and type of an array, of a file in numpy's format.

    Raises:
        ValueError: no such header, or one of more than `MOST_HEADER` bytes.
    """
    start = file.read(8)
    width = 2 if start[6:7] == b"\x01" else 4
    length = file.read(width)
    if start[:6] != b"\x93NUMPY" or (size := int.from_bytes(length, "little")) > MOST_HEADER:
        raise ValueError("it must have the header of an array")
    header = io.BytesIO(start + length + file.read(size))
    version = np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(header)
    if min(shape, default=1) < 0:
        raise ValueError(f"its shape must not be negative, got {shape}")
    return shape, fortran, dtype
