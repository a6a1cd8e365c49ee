"""The log of a run: a file that anyone can read while it goes on, a line of JSON per recorded step."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from widthwise.storage import alone, atomic_write

RECORDED = ("loss", "test_loss", "accuracy")


def run_name(whose: dict[str, Any]) -> str:
    """What the lines of a run have as `run`."""
    return f"{zlib.crc32(json.dumps(whose, sort_keys=True).encode()):08x}"


@dataclass(frozen=True)
class Log:
    """Lines of one run in a file that others may share: step, width, run, seconds, and losses of every network.

    Runs that share it take turns. A file that cannot be written is a warning, and the run goes on.

    Args:
        path: the file; lines are added to what is there.
        whose: what tells the run from others, as JSON; its checksum is `run` of every line.
    """

    path: Path
    whose: dict[str, Any]

    @property
    def run(self) -> str:
        return run_name(self.whose)

    def write(self, t: int, width: int, seen: dict[str, np.ndarray], seconds: float) -> None:
        """Add the line of step t."""
        line: dict[str, Any] = {"step": t, "width": width, "run": self.run, "seconds": round(seconds, 3)}
        line |= {name: [float(x) for x in seen[name]] for name in RECORDED if name in seen}
        try:
            with alone(self.path), open(self.path, "ab+") as stream:
                end = stream.seek(0, os.SEEK_END)
                stream.seek(max(end - 1, 0))
                cut = stream.read(1) not in (b"", b"\n")  # by a kill of who wrote it
                stream.write(b"\n" * cut + json.dumps(line).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._warn(error)

    def forget(self, first: int) -> None:
        """Drop the lines of this run from step `first` on, and a last line that was cut: those steps will be recorded again.

        The file is replaced as a whole; lines of other runs stay as they are.
        """
        try:
            with alone(self.path):
                lines = self.path.read_bytes().splitlines(keepends=True)
                kept = [line for line in lines if line.endswith(b"\n") and not self._is_of(line, first)]
                if len(kept) < len(lines):
                    with atomic_write(self.path) as file:
                        file.writelines(kept)
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn(error)

    def _is_of(self, line: bytes, first: int) -> bool:
        """Whether this is a line of this run at a step from `first` on."""
        try:
            seen = json.loads(line)
            return bool(seen["run"] == self.run and seen["step"] >= first)
        except (ValueError, KeyError, TypeError):  # not one of ours
            return False

    def _warn(self, error: OSError) -> None:
        warnings.warn(f"log {self.path} could not be written ({error}); training goes on.", RuntimeWarning, stacklevel=3)
