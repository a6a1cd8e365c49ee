"""The documentation: names on its pages exist, pages are in the table of contents, everything public has an example."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.test_readme import scripts

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PACKAGES = (
    "widthwise",
    "widthwise.data",
    "widthwise.tasks",
    "widthwise.schedules",
    "dmft",
    "dmft.scaling",
    "dmft.spectra",
    "finite",
    "compare",
)
PACKAGES += ("compare.testing",)

SHOWN_BY = {
    "widthwise.KernelSpectra": "dmft.spectra.of",
    "widthwise.Result": "dmft.solve",
    "widthwise.Status": "dmft.solve",
    "widthwise.Trajectory": "widthwise.Estimate",
    "dmft.Method": "dmft.March",
    "dmft.scaling.BranchingPosterior": "dmft.scaling.branching_posterior",
    "dmft.scaling.Errors": "dmft.scaling.flow",
    "dmft.scaling.FeatureFlow": "dmft.scaling.feature_flow",
    "dmft.scaling.Frontier": "dmft.scaling.frontier",
    "dmft.scaling.GraphKernel": "dmft.scaling.graph_kernel",
    "dmft.scaling.PhasePortrait": "dmft.scaling.phase_portrait",
    "dmft.scaling.UpdateSizes": "dmft.scaling.update_sizes",
    "dmft.spectra.LearningCurve": "dmft.spectra.learning_curve",
    "dmft.spectra.StaticTraining": "dmft.spectra.static_training",
    "dmft.spectra.TraceEstimate": "dmft.spectra.trace_of",
    "finite.BranchingSamples": "finite.sample_branching",
    "finite.CoordinateCheck": "finite.coordinate_check",
    "finite.GraphSamples": "finite.sample_graph_process",
    "finite.Sweep": "finite.sweep",
    "compare.Agreement": "compare.agrees",
    "compare.Distance": "compare.wasserstein",
    "compare.Ensemble": "compare.ensemble",
    "compare.Ensembles": "compare.ensemble",
    "compare.EqualCompute": "compare.equal_compute",
    "compare.Extrapolated": "compare.richardson",
    "compare.FirstLayer": "compare.first_layer",
    "compare.Fit": "compare.least_squares",
    "compare.Gap": "compare.gap",
    "compare.Gaps": "compare.gap",
    "compare.JointErrors": "compare.joint_errors",
    "compare.KernelPredictors": "compare.static_kernel",
    "compare.Onset": "compare.onset",
    "compare.PowerLaw": "compare.fit_power_law",
    "compare.Regime": "compare.regimes",
    "compare.Regimes": "compare.regimes",
    "compare.Richardson": "compare.richardson",
    "compare.Similarity": "compare.kernel_similarity",
    "compare.SpectralComparison": "compare.spectral",
    "compare.Statistic": "compare.agrees",
    "compare.SwapTest": "compare.swap_test",
    "compare.ToWidest": "compare.to_widest",
    "compare.WidthScaling": "compare.width_scaling",
    "compare.testing.Consistency": "compare.testing.assert_consistent_across_widths",
    "compare.testing.Scaling": "compare.testing.assert_scaling",
    "compare.testing.Spectrum": "compare.testing.spectra",
}
"""What users get and do not make, and which function's example shows it."""


def find(name: str) -> Any:
    """The thing that a dotted name stands for. Raises AttributeError where there is none."""
    parts = name.split(".")
    thing: Any = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 1):
        if is_dataclass(thing) and part in {field.name for field in fields(thing)}:
            return thing  # a field without a default is no attribute of its class
        try:
            thing = getattr(thing, part)
        except AttributeError:
            try:
                thing = importlib.import_module(".".join(parts[: i + 1]))
            except ModuleNotFoundError:
                raise AttributeError(f"there is no {name}") from None
    return thing


def callables() -> Iterator[tuple[str, Any]]:
    """Every function and class that a package exports, under the first name that it has."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        own = [name for name, x in vars(module).items() if getattr(x, "__module__", "") == package and not name.startswith("_")]
        for name in getattr(module, "__all__", own):
            thing = getattr(module, name)
            if callable(thing) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{package}.{name}", thing


def has_example(thing: Any) -> bool:
    return ">>>" in (inspect.getdoc(thing) or "")


def test_everything_that_users_call_has_an_example() -> None:
    """In its docstring, or in that of the function that makes it. Doctest runs them, with the suite."""
    things = dict(callables())
    assert {"dmft.solve", "finite.train", "compare.agrees", "widthwise.data.text", "dmft.spectra.sphere"} <= things.keys()
    assert {name for name, thing in things.items() if not has_example(thing)} == SHOWN_BY.keys()
    assert not [function for function in SHOWN_BY.values() if not has_example(find(function))]
    assert not [name for name in SHOWN_BY if inspect.isfunction(things[name])]


def names(text: str) -> list[str]:
    """Dotted names of our packages in code font; of a call, what is called."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    packages = "widthwise|dmft|finite|compare|paper_figures|benchmarks"
    found = [re.match(rf"((?:{packages})(?:\.\w+)+)(?:\(.*\))?$", span) for span in spans]
    return [match[1] for match in found if match and not match[1].endswith((".py", ".ckpt"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_on_the_page_exist(page: Path) -> None:
    for name in names(page.read_text()):
        find(name)
    for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|md))\b", page.read_text()):
        assert (ROOT / path).exists(), path


def hidden(text: str) -> list[str]:
    """Lines of a page with averages <x> that a browser would take for tags: they belong into code font or an indented block."""
    prose = re.sub(r"```.*?```|`[^`\n]*`|^    [^\n]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in prose.splitlines() if re.search(r"<[A-Za-z/]", line)]


def test_no_equation_is_taken_for_markup() -> None:
    assert not {page.name: lines for page in PAGES if (lines := hidden(page.read_text()))}
    assert hidden("    x = 1\n\nso <phi eps> = 0")  # negative twin
    assert not hidden("so `<phi eps>` = 0, a < b\n\n    f = <z phi>\n")


def test_names_that_do_not_exist_are_seen() -> None:
    """Negative twin."""
    assert names("see `dmft.solve(problem, rtol=1e-2)` and `widthwise.Task.X`, `x.y`, dmft.no") == [
        "dmft.solve",
        "widthwise.Task.X",
    ]
    for name in ("dmft.solv", "widthwise.Task.Z", "compare.testing.assert_nothing", "finite.mlp.sideways"):
        with pytest.raises(AttributeError):
            find(name)


def test_map_from_equations_to_functions() -> None:
    """Every row of the tables of equations ends in something that exists."""
    text = (DOCS / "equations.md").read_text().split("## From letter to name")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| equation |")]
    assert len(rows) > 40
    for row in rows:
        assert names(row.replace("\\|", "").split("|")[3]), row


def test_every_page_is_in_the_table_of_contents_once() -> None:
    """In that of the index, or of a page that is in it."""
    entries: list[str] = []
    for page in [DOCS / "index.md", DOCS / "scaling.md", DOCS / "scaling_models.md"]:
        for toctree in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.DOTALL):
            entries += [line for line in toctree.splitlines() if line and not line.startswith(":")]
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")} - {"index"}
    assert sorted(entries) == sorted(pages)


def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs as written, and what it says of its results is so."""
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = {}
    for script in scripts(DOCS / "tutorial.md"):
        exec(script, page)
    assert "theory and experiment agree" in capsys.readouterr().out
    losses = [page["results"][gamma0].mean.test_loss[-1] for gamma0 in (2.0, 1.0, 0.2)] + [page["lazy"].mean.test_loss[-1]]
    assert losses == sorted(losses)
    assert page["verdict"]
    assert not page["wrong"]
    assert (tmp_path / "first_result.png").stat().st_size > 10_000


def test_scripts_of_extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = {}
    for script in scripts(DOCS / "extend.md"):
        exec(script, page)
    shown = capsys.readouterr().out
    assert "{'kernels/gate': (2, 12, 12), 'kernels/h1': (2, 12, 12)}" in shown
    assert page["theory"].status.ok
    x, y = next(page["endless"].batches(4, start=3))
    assert x.shape == (4, 10)
    assert (x[:, :3].prod(1) == -y[:, 0]).all()  # a parity, up to its sign
    assert page["stream"].probe(40)[0].shape == (40, 8, 8, 1)
