"""One page of all figures: a self-contained HTML file, with the numbers that each was judged by."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType

from paper_figures.cache import Run
from paper_figures.drawing import Drawing
from paper_figures.headline import Headline, claim
from widthwise.storage import atomic_write

CSS = Path(__file__).with_name("report.css")


def write(folder: Path, names: Sequence[str], broken: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Write index.html into the folder, from NAME.json and NAME.png of the figures there.

    Args:
        folder: where the figures are.
        names: of the figures.
        broken: those of them that could not be drawn, and why; the page says so.

    Raises:
        FileNotFoundError: another figure has not been drawn into the folder.
    """
    whole = [name for name in names if name not in broken]
    if missing := [name for name in whole if not (folder / f"{name}.json").exists()]:
        raise FileNotFoundError(f"not drawn in {folder}: {', '.join(missing)}.")
    drawings = [Drawing.load(folder / f"{name}.json") for name in whole]
    pictures = [base64.b64encode((folder / f"{name}.png").read_bytes()).decode() for name in whole]
    path = folder / "index.html"
    with atomic_write(path) as file:
        file.write(page(drawings, pictures, broken).encode())
    return path


def page(drawings: Sequence[Drawing], pictures: Sequence[str], broken: Mapping[str, str]) -> str:
    """The page; pictures are PNG in base 64."""
    sections = "\n".join(map(_section, drawings, pictures))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>widthwise: theory against experiment</title>
<style>
{CSS.read_text(encoding="utf-8")}</style>
</head>
<body>
<h1>Theory against experiment</h1>
{_summary(drawings, broken)}
{sections}
</body>
</html>
"""


def _summary(drawings: Sequence[Drawing], broken: Mapping[str, str]) -> str:
    holding = sum(drawing.holds for drawing in drawings)
    size = " and ".join(sorted({"quick" if drawing.quick else "full" for drawing in drawings}))
    rows = [
        f'<tr><td><a href="#{d.name}">{escape(d.name[:5])}</a></td><td>{escape(d.claim)}</td>'
        f'<td>{_verdict(d.holds)}</td><td class="number">{d.seconds:.0f} s</td></tr>'
        for d in drawings
    ]
    lost = [
        f'<tr><td>{escape(name[:5])}</td><td>{escape(claim(name))} <span class="quiet">{escape(error)}</span></td>'
        '<td><span class="fails">not drawn</span></td><td></td></tr>'
        for name, error in broken.items()
    ]
    return f"""<p>What wide networks have in common, and what is left of their width: {len(drawings)} figures,
of the {size} size. In {holding} of them every headline number is inside of its bounds. Theory is drawn in black, or has a
legend that says so: the limit solved (dmft), a solvable model, the 1/N theory, or an extrapolation in 1/N.</p>
{_how(drawings) if drawings else ""}
<table><tr><th>figure</th><th>claim</th><th>numbers</th><th>time</th></tr>
{"".join(rows + lost)}</table>"""


def _how(drawings: Sequence[Drawing]) -> str:
    last = max((drawing.versions for drawing in drawings), key=lambda versions: versions["date"])
    versions = ", ".join(f"{name} {value}" for name, value in last.items())
    drawing, running = sum(d.seconds for d in drawings), sum(run.seconds for run in _distinct(drawings))
    return f"""<p class="quiet">{escape(versions)}; {os.cpu_count()} cores; drawn in {_time(drawing)}, of runs that took
{_time(running)} when they were computed.</p>"""


def _distinct(drawings: Iterable[Drawing]) -> set[Run]:
    """Runs, each once: some are shown in several figures."""
    return {run for drawing in drawings for run in drawing.runs}


def _section(drawing: Drawing, picture: str) -> str:
    narrowed = f'<p class="open">{escape(drawing.leaves_open)}</p>' if drawing.leaves_open else ""
    runs = "\n\n".join(f"{run.of}\n  {run.settings}\n  {_time(run.seconds)}" for run in drawing.runs)
    how = f"{'quick' if drawing.quick else 'full'} size, drawn in {_time(drawing.seconds)} on {drawing.versions['date']}"
    return f"""<section id="{drawing.name}">
<h2>{escape(drawing.title)}</h2>
<p class="claim">{escape(drawing.claim)} {_verdict(drawing.holds)}</p>
{narrowed}
<div class="wide"><img alt="{escape(drawing.title, quote=True)}" src="data:image/png;base64,{picture}"></div>
<table><tr><th>number</th><th>measured</th><th>bounds</th><th></th></tr>
{"".join(map(_row, drawing.headlines))}</table>
<details><summary>What is drawn</summary>{_prose(drawing.text)}</details>
<details><summary>All numbers</summary><pre>{escape(drawing.table)}</pre></details>
<details><summary>Settings of the {len(drawing.runs)} runs</summary><pre>{escape(runs)}</pre></details>
<p class="quiet">{escape(drawing.name)}, {escape(how)}</p>
</section>"""


def _prose(text: str) -> str:
    """Paragraphs; what is indented is an equation, as in all docstrings."""
    blocks = re.split(r"\n{2,}", text)
    return "\n".join(f"<pre>{escape(b)}</pre>" if b.startswith(" ") else f"<p>{escape(b)}</p>" for b in blocks)


def _row(line: Headline) -> str:
    cells = f'<td>{escape(line.number.name)}</td><td class="number">{escape(str(line.number))}</td>'
    return f"<tr>{cells}<td>{escape(line.wanted)}</td><td>{_verdict(line.holds)}</td></tr>\n"


def _verdict(holds: bool) -> str:
    return f'<span class="{"holds" if holds else "fails"}">{"holds" if holds else "FAILS"}</span>'


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
