"""One figure: computed, judged by its headline numbers, plotted, and written down."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from paper_figures import cache, figure, headline
from paper_figures.cache import Run, recorded, writable
from paper_figures.headline import Bounds, Headline, Number
from widthwise.result import versions
from widthwise.storage import atomic_write


@dataclass(frozen=True)
class Drawing:
    """What there is to know of a drawn figure; NAME.json beside the picture.

    Attributes:
        name: of the figure. title: first line of its text. text: the rest. claim: in one sentence. leaves_open: see headline.
        quick: the quick size. headlines: numbers, each with its bounds. table: as printed.
        runs: what it is made of. seconds: of this drawing, with what had to be computed for it.
        sources: fingerprint of all code that drew it. versions: and device and date.
    """

    name: str
    title: str
    text: str
    claim: str
    leaves_open: str
    quick: bool
    headlines: list[Headline]
    table: str
    runs: list[Run]
    seconds: float
    sources: str
    versions: dict[str, str]

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.headlines)

    def or_raise(self) -> Drawing:
        """This drawing, or HeadlineFailed with the numbers that are outside of their bounds."""
        if failed := [str(line) for line in self.headlines if not line.holds]:
            raise headline.HeadlineFailed(f"{self.name} does not show what it claims. {'; '.join(failed)}")
        return self

    def save(self, folder: Path) -> Path:
        """Write NAME.json."""
        path = folder / f"{self.name}.json"
        text = asdict(self)
        with atomic_write(path) as file:
            file.write(json.dumps(text | {"checksum": _checksum(text)}, indent=1).encode())
        return path

    @staticmethod
    def load(path: Path) -> Drawing:
        """Read what `save` wrote.

        Raises:
            OSError: no such file.
            ValueError: another file, or a damaged one.
        """
        try:
            text = json.loads(path.read_text(encoding="utf-8"))
            if text.pop("checksum") != _checksum(text):
                raise ValueError("wrong checksum")
            return Drawing._of(text)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not of a drawing or is damaged ({error}): draw it again.") from error

    @staticmethod
    def _of(text: dict[str, Any]) -> Drawing:
        lines = [Headline(Number(**line["number"]), Bounds(**line["bounds"])) for line in text["headlines"]]
        return Drawing(**{**text, "headlines": lines, "runs": [Run(**run) for run in text["runs"]]})


def _checksum(text: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:16]


def _sources() -> str:
    return cache.sources(*cache.PACKAGES, "compare", "paper_figures")


def drawn(name: str, *, quick: bool, folder: Path) -> Drawing | None:
    """The drawing in the folder, if there is one of this size that the same code has drawn."""
    try:
        drawing = Drawing.load(folder / f"{name}.json")
    except (OSError, ValueError):
        return None
    there = all((folder / f"{name}.{suffix}").exists() for suffix in ("png", "pdf"))
    return drawing if there and drawing.quick == quick and drawing.sources == _sources() else None


def draw(name: str, *, quick: bool, folder: Path, say: Callable[[str], Any] = print) -> Drawing:
    """Compute, say table and headline numbers, and write NAME.png, .pdf and .json into the folder.

    Raises:
        HeadlineFailed: a number is outside of its bounds; after everything is written.
        ValueError: there is no figure of that name.
        OSError: the folder cannot be made or written; before anything is computed.
    """
    start = time.perf_counter()
    module = figure.find(name)
    title, _, text = (module.__doc__ or "").partition("\n")
    claim, leaves_open = headline.claim(name), headline.leaves_open(name)
    writable(folder)
    with recorded() as runs:
        data = module.compute(quick)
    table = module.table(data)
    say(table)
    headlines = headline.judge(name, module.numbers(data))
    say("\n".join(map(str, headlines)))
    with plt.style.context(figure.STYLE):
        canvas = module.plot(data)
        for suffix in ("png", "pdf"):
            with atomic_write(folder / f"{name}.{suffix}") as file:
                canvas.savefig(file, format=suffix)
            say(f"wrote {folder / name}.{suffix}")
        plt.close(canvas)
    seconds = time.perf_counter() - start
    kept = [*dict.fromkeys(runs)]
    drawing = Drawing(
        name, title, text.strip(), claim, leaves_open, quick, headlines, table, kept, seconds, _sources(), versions()
    )
    drawing.save(folder)
    return drawing.or_raise()
