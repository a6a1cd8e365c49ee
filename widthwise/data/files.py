"""What every reader of files needs: a clear error for a file that is missing or damaged, and a stamp for the fingerprint."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO

AnyPath = str | PathLike[str]

AT_A_TIME = 2**20
"""Bytes that are read at a time."""

_VERIFIED: dict[Path, tuple[int, int, int]] = {}
"""Files whose checksums were right, as they were then: inode, size, time of the last change."""


def existing(path: AnyPath, cure: str) -> Path:
    """The path, if it is there; else FileNotFoundError."""
    if not (found := Path(path)).exists():
        raise FileNotFoundError(f"{found} is missing. {cure}")
    return found


def listed(paths: AnyPath | Sequence[AnyPath], cure: str) -> list[Path]:
    """One path or several, as a list of files that are there.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: there are none, or one is a folder.
    """
    found = [existing(path, cure) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    if not found:
        raise ValueError(f"paths must name at least one file, got none. {cure}")
    for path in found:
        if not path.is_file():
            raise ValueError(f"{path} must be a file, got a folder. {cure}")
    return found


class DamagedFile(ValueError):
    """A file does not hold what it should; the message names it."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns any error into a DamagedFile: there is no end to the ways in which a reader fails on a damaged file.

    Only want of memory is none of the file's, which is never asked how much to take.
    """
    try:
        yield
    except (DamagedFile, MemoryError):
        raise
    except Exception as error:
        raise damaged(path, str(error).rstrip(".") or type(error).__name__) from error


def damaged(path: Path, why: str) -> DamagedFile:
    """The error, with what is wrong and the cure."""
    return DamagedFile(f"{path} cannot be read: {why}. It may be cut short or damaged: download it again.")


Bytes = IO[bytes] | gzip.GzipFile


def verified(path: Path, parts: Callable[[Path], Iterable[Bytes]]) -> None:
    """Read `parts` of a file to their ends, where checksums are compared, unless that was done and the file has not changed.

    To be done before anything of it is handed out: a checksum at the end of gigabytes comes too late for a network that has
    trained on them.

    Raises:
        DamagedFile: a checksum is wrong.
    """
    now = (found := path.stat()).st_ino, found.st_size, found.st_mtime_ns
    if _VERIFIED.get(path.absolute()) != now:
        with reading(path):
            for part in parts(path):
                while part.read(AT_A_TIME):
                    pass
        _VERIFIED[path.absolute()] = now


def read_exactly(file: Bytes, number: int) -> bytearray:
    """The rest of a file if it has so many bytes; if it has fewer, those; if it has more, one more and no further."""
    content = bytearray()
    while block := file.read(min(AT_A_TIME, number + 1 - len(content))):
        content += block
    return content


def stamp(paths: Iterable[Path]) -> list[list[str | int]]:
    """Names and sizes in bytes."""
    return [[path.name, path.stat().st_size] for path in paths]
