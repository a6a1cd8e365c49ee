"""One page of all figures: a self-contained HTML file, with the numbers that each was judged by."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from paper_figures.cache import Run
from paper_figures.drawing import Drawing
from paper_figures.headline import Headline
from widthwise.result import atomic_write

CSS = Path(__file__).with_name("report.css")


def write(folder: Path, names: Sequence[str]) -> Path:
    """Write index.html into the folder, from NAME.json and NAME.png of the figures there.

    Raises:
        FileNotFoundError: a figure has not been drawn into the folder.
    """
    if missing := [name for name in names if not (folder / f"{name}.json").exists()]:
        raise FileNotFoundError(f"not drawn in {folder}: {', '.join(missing)}.")
    drawings = [Drawing.load(folder / f"{name}.json") for name in names]
    pictures = [base64.b64encode((folder / f"{name}.png").read_bytes()).decode() for name in names]
    path = folder / "index.html"
    with atomic_write(path) as file:
        file.write(page(drawings, pictures).encode())
    return path


def page(drawings: Sequence[Drawing], pictures: Sequence[str]) -> str:
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
{_summary(drawings)}
{sections}
</body>
</html>
"""


def _summary(drawings: Sequence[Drawing]) -> str:
    holding = sum(drawing.holds for drawing in drawings)
    size = " and ".join(sorted({"quick" if drawing.quick else "full" for drawing in drawings}))
    last = max((drawing.versions for drawing in drawings), key=lambda versions: versions["date"])
    versions = ", ".join(f"{name} {value}" for name, value in last.items())
    rows = [
        f'<tr><td><a href="#{d.name}">{escape(d.name[:5])}</a></td><td>{escape(d.claim)}</td>'
        f'<td>{_verdict(d.holds)}</td><td class="number">{d.seconds:.0f} s</td></tr>'
        for d in drawings
    ]
    return f"""<p>What wide networks have in common, and what is left of their width: {len(drawings)} figures,
of the {size} size. In {holding} of them every headline number is inside of its bounds. Theory is drawn in black, or has a
legend that says so: the limit solved (dmft), a solvable model, the 1/N theory, or an extrapolation in 1/N.</p>
<p class="quiet">{escape(versions)}; {os.cpu_count()} cores; drawn in {_time(sum(d.seconds for d in drawings))}, of runs that
took {_time(sum(run.seconds for run in _distinct(drawings)))} when they were computed.</p>
<table><tr><th>figure</th><th>claim</th><th>numbers</th><th>time</th></tr>
{"".join(rows)}</table>"""


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
<img alt="{escape(drawing.title, quote=True)}" src="data:image/png;base64,{picture}">
<table><tr><th>number</th><th>measured</th><th>bounds</th><th></th></tr>
{"".join(map(_row, drawing.headlines))}</table>
<details><summary>What is drawn</summary><pre>{escape(drawing.text)}</pre></details>
<details><summary>All numbers</summary><pre>{escape(drawing.table)}</pre></details>
<details><summary>Settings of the {len(drawing.runs)} runs</summary><pre>{escape(runs)}</pre></details>
<p class="quiet">{escape(drawing.name)}, {escape(how)}</p>
</section>"""


def _row(line: Headline) -> str:
    cells = f'<td>{escape(line.number.name)}</td><td class="number">{escape(str(line.number))}</td>'
    return f"<tr>{cells}<td>{escape(line.wanted)}</td><td>{_verdict(line.holds)}</td></tr>\n"


def _verdict(holds: bool) -> str:
    return f'<span class="{"holds" if holds else "fails"}">{"holds" if holds else "FAILS"}</span>'


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
