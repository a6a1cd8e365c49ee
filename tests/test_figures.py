"""The figures' command line: lists, draws, caches, and says what is wrong before it computes."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

import compare
import finite
from paper_figures import cache, drawing, figure, headline, report, runs
from paper_figures import fig01_width_consistency as fig01
from paper_figures import fig04_rmse as fig04
from paper_figures import fig09_catapult as fig09
from paper_figures.__main__ import main
from paper_figures.cache import Run, cached, cached_arrays, recorded
from paper_figures.drawing import Drawing
from paper_figures.headline import Bounds, Headline, HeadlineFailed, Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, tasks

NAME = "fig01_width_consistency"
PROBLEM = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(2, input_dim=3), GradientDescent(0.2, 3))


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for cached results that is not the user's."""
    monkeypatch.setattr(cache, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def stop(*_: Any, **__: Any) -> Any:
    raise AssertionError("this must not be computed")


# --- the command line ------------------------------------------------------------------------------------------------------


def test_list() -> None:
    done = subprocess.run([sys.executable, "-m", "paper_figures", "--list"], capture_output=True, text=True)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == figure.names()
    assert lines[0].startswith(f"{NAME}  ")
    assert lines[0].endswith("falls like 1/N.")
    assert {"fig02_variance", "fig03_ensembles", "fig04_rmse"} <= {*figure.names()}


def test_without_a_name_it_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert NAME in capsys.readouterr().out


def test_unknown_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fig99_nothing", "--folder", str(tmp_path / "figures")])
    assert caught.value.code == 2
    assert f"no figure 'fig99_nothing'; there are: {NAME}" in capsys.readouterr().err
    for name in ("fig99_nothing", "figure", "cache", ""):
        with pytest.raises(ValueError, match=f"no figure '{name}'; there are: {NAME}"):
            figure.find(name)
        with pytest.raises(ValueError, match="no figure"):
            drawing.draw(name, quick=True, folder=tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_unwritable_folder_is_an_error_before_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(fig01, "compute", stop)
    for folder in (tmp_path / "file", tmp_path / "file" / "figures"):
        with pytest.raises(OSError, match=r"cannot write into .*file.*: .*Choose another folder"):
            drawing.draw(NAME, quick=True, folder=folder)
        with pytest.raises(SystemExit) as caught:
            main([NAME, "--folder", str(folder)])
        assert caught.value.code == 1
        assert "cannot write into" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *_: False)  # for root every folder is writable
    with pytest.raises(PermissionError, match=r"Permission denied\. Choose another folder"):
        drawing.draw(NAME, quick=True, folder=tmp_path / "figures")


# --- the quick figure, end to end ------------------------------------------------------------------------------------------


def test_quick_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a minute; in one test, so that it is computed once."""
    assert main([NAME, "--quick", "--folder", str(tmp_path / "figures")]) == 0
    printed = capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert set(files) == {f"{NAME}.png", f"{NAME}.pdf", f"{NAME}.json"}
    assert files[f"{NAME}.png"].startswith(b"\x89PNG")
    assert files[f"{NAME}.pdf"].startswith(b"%PDF")
    assert min(len(files[f"{NAME}.{kind}"]) for kind in ("png", "pdf")) > 10_000
    one = Drawing.load(tmp_path / "figures" / f"{NAME}.json")
    assert one.holds
    assert one.quick
    assert one.table in printed
    assert len(one.runs) == 1 + len(fig01.WIDTHS)
    assert all(run.seconds > 0 for run in one.runs)
    for what in ("width  seeds", "limit", "exponent of the variance in N: -", "Extrapolated in 1/N, theory and", "p = "):
        assert what in printed
    assert all(f"\n{N:7d} " in printed for N in fig01.WIDTHS)
    assert not plt.get_fignums()  # nothing is left open

    monkeypatch.setattr("dmft.solve", stop)
    monkeypatch.setattr("finite.train", stop)
    assert main([NAME, "--quick", "--folder", str(tmp_path / "again")]) == 0  # the second run computes nothing
    again = capsys.readouterr().out
    assert again.split("wrote ")[0] == printed.split("wrote ")[0]  # and says the same
    assert (tmp_path / "again" / f"{NAME}.png").exists()
    assert main([NAME, "--folder", str(tmp_path / "again")]) == 1  # negative twin: another problem is not in the cache
    assert "must not be computed" in capsys.readouterr().err

    data = fig01.compute(quick=True)
    headline_numbers(*data)
    with plt.style.context(figure.STYLE):
        canvas = fig01.plot(data)
    assert isinstance(canvas, Canvas)
    assert [axes.get_title(loc="left")[:3] for axes in canvas.axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert all(axes.lines for axes in canvas.axes)
    plt.close(canvas)


def headline_numbers(theory: Result, nets: dict[int, Result]) -> None:
    """The figure's claims, at the quick size: it learned, widths approach the limit, variance falls like 1/N."""
    assert theory.status.ok
    assert theory.mean.loss[-1] < 0.2 * theory.mean.loss[0]
    assert [*nets] == [*fig01.WIDTHS]
    distances = [1 - compare.alignment_of_runs(net, theory)[:, 1, -1].mean() for net in nets.values()]
    assert 8 < distances[0] / distances[-1] < 32  # like 1/N: a factor 16, the mean of 8 to 64 networks known to some 20 %
    scaling = compare.width_scaling(nets, theory)
    assert scaling.variance_fit is not None
    assert abs(scaling.variance_fit.exponent + 1) < 3 * scaling.variance_fit.error + 0.1  # + the next order at width 64
    assert compare.agrees(theory, nets)
    assert not compare.agrees(theory, nets[64], alpha=0.05)  # negative twin: width 64 itself is not the limit


# --- the other figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figure.names())
def test_every_figure_has_its_parts(name: str) -> None:
    module = figure.find(name)
    title, *text = (module.__doc__ or "").splitlines()
    assert title.endswith(".")
    assert text
    assert all(callable(getattr(module, what)) for what in ("compute", "table", "numbers", "plot"))
    assert headline.claim(name).endswith(".")
    for bounds in headline._entry(name)["numbers"].values():
        Bounds(**bounds)


def test_table_of_headlines_has_no_other_figures() -> None:
    assert sorted(headline._table()) == figure.names()


def test_page_of_docs_lists_every_figure() -> None:
    page = (Path(__file__).parents[1] / "docs" / "figures.md").read_text()
    assert re.findall(r"^\| `(fig\w+)` \| (.*) \|$", page, re.MULTILINE) == [(n, headline.claim(n)) for n in figure.names()]


def test_catapult_map_is_that_of_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    (net,) = runs.networks(fig09.linear_problem(), {64: 8}, save=["NTK"], progress=False).values()
    f, K = (np.asarray(x, dtype=np.float64) for x in (net.samples.f[:, 0, 0], net.samples["NTK"][:, 0, 0, 0]))
    steps = net.problem.training.num_steps
    seen = np.asarray(net.samples.f[..., 0])
    assert np.abs(fig09.catapult_map(f, K, steps) - seen).max() < 1e-4  # float32, a dozen steps
    assert np.abs(fig09.catapult_map(f, 1.01 * K, steps) - seen).max() > 1e-2  # negative twin: K off by 1 %
    monkeypatch.setattr(fig09, "GAMMA0", 1.2 * fig09.GAMMA0)
    assert np.abs(fig09.catapult_map(f, K, steps) - seen).max() > 1e-2  # gamma0 off by 20 %


def test_runs_are_kept_by_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    first = runs.networks(PROBLEM, {4: 2, 8: 2}, save_kernels=range(2), progress=False)
    assert [*first] == [4, 8]
    monkeypatch.setattr("finite.train", stop)
    again = runs.networks(PROBLEM, {4: 2}, save_kernels=[0, 1], progress=False)
    assert np.array_equal(first[4].samples.f, again[4].samples.f)
    for num_seeds, kept in (({4: 3}, [0, 1]), ({4: 2}, [0, 2])):  # negative twins: other seeds, other settings
        with pytest.raises(AssertionError, match="must not be computed"):
            runs.networks(PROBLEM, num_seeds, save_kernels=kept, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", figure.names())
def test_figures_show_what_they_claim(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--quick", "--folder", str(tmp_path)]) == 0
    assert "FAILS" not in capsys.readouterr().out


# --- headline numbers --------------------------------------------------------------------------------------------------------


def test_bounds() -> None:
    near, above, below = Bounds(expected=-1, within=0.1), Bounds(above=0), Bounds(below=1, errors=2)
    cases = [
        (near, -1.09, 0, True),
        (near, -1.11, 0, False),
        (near, -1.11, 0.01, True),
        (near, -1.14, 0.01, False),
        (above, 3.1, 1, True),
        (above, 2.9, 1, False),
        (above, -0.1, 0, False),
        (below, 0.5, 0.2, True),
        (below, 0.5, 0.3, False),
        (near, np.nan, 0, False),
        (near, -1, np.inf, False),
        (above, np.inf, 0, False),
    ]
    for bounds, value, error, holds in cases:
        assert bounds.hold(Number("x", value, error)) is holds
    assert str(Headline(Number("slope", -1.05, 0.02), near)) == (
        "holds: slope is -1.05 +- 0.02, expected -1 within 0.1 + 3 errors"
    )
    assert str(Headline(Number("p", 0.5), Bounds(above=0.9))) == "FAILS: p is 0.5, above 0.9"
    with pytest.raises(ValueError, match=r"expected .* above or below"):
        Bounds()
    with pytest.raises(ValueError, match="within must be"):
        Bounds(expected=1, within=-1)


class Small:
    """A figure of <nothing>.

    With a text.
    """

    table = staticmethod(lambda data: "a table & more")
    plot = staticmethod(lambda data: plt.figure(figsize=(1, 1)))

    def __init__(self, value: float):
        self.value = value

    def compute(self, quick: bool) -> None:
        cached_arrays("small", {"value": self.value}, lambda value: {"x": np.array(value)})

    def numbers(self, data: Any) -> list[Number]:
        return [Number("slope", self.value), Number("gap", 3.1, 1.0)]


TABLE = {
    name: {
        "claim": "Nothing is < 1.",
        "open": "All.",
        "numbers": {"slope": {"expected": -1, "within": 0.1}, "gap": {"above": 0}},
    }
    for name in ("fig98_small", "fig99_small")
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two figures of nothing, the second outside of its bounds."""
    modules = {"fig98_small": Small(-1.05), "fig99_small": Small(-1.2)}
    monkeypatch.setattr(figure, "find", lambda name: modules[name])
    monkeypatch.setattr(figure, "names", lambda: [*modules])
    monkeypatch.setattr(headline, "_table", lambda: TABLE)


@pytest.mark.usefixtures("small")
def test_a_number_out_of_bounds_is_an_error(tmp_path: Path) -> None:
    """After the figure is written, and said in its print-out."""
    said: list[str] = []
    assert drawing.draw("fig98_small", quick=True, folder=tmp_path, say=said.append).holds
    assert said[0] == "a table & more"
    assert said[1] == "holds: slope is -1.05, expected -1 within 0.1\nholds: gap is 3.1 +- 1, above 0 by 3 errors"
    with pytest.raises(HeadlineFailed, match=r"fig99_small does not show what it claims\. FAILS: slope is -1\.2"):
        drawing.draw("fig99_small", quick=True, folder=tmp_path)
    assert {path.suffix for path in tmp_path.glob("fig99_small.*")} == {".png", ".pdf", ".json"}
    assert not Drawing.load(tmp_path / "fig99_small.json").holds


@pytest.mark.usefixtures("small")
def test_numbers_and_table_must_name_the_same() -> None:
    for names in (("slope",), ("slope", "gap", "more"), ("slope", "gap", "gap")):
        with pytest.raises(ValueError, match="must name the same numbers, each once"):
            headline.judge("fig98_small", [Number(name, 1.0) for name in names])
    with pytest.raises(ValueError, match=r"has no entry for fig97_other: give it its claim"):
        headline.claim("fig97_other")


# --- the page of all figures -------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page shows, and what it would load from elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.sources, self.ids, self.links = "", [], [], []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        attributes = dict(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value for name, value in attributes.items() if name == "src"]
        self.links += [value for name, value in attributes.items() if name == "href"]
        self.ids += [attributes["id"]] if "id" in attributes else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.usefixtures("small")
def test_page_of_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--all", "--quick", "--folder", str(tmp_path)]) == 1  # fig99_small fails, and the page is written all the same
    printed = capsys.readouterr()
    assert "1 of 2 do not show what they claim: fig99_small" in printed.err
    html = (tmp_path / "index.html").read_text()
    monkeypatch.setattr(Small, "compute", stop)
    assert main(["--all", "--quick", "--folder", str(tmp_path)]) == 1  # drawn by the same code: left alone, and judged
    assert capsys.readouterr().out.count("drawn by the same code") == 2
    assert (tmp_path / "index.html").read_text() == html
    for arguments in (["--all"], ["fig98", "--quick"]):  # negative twins: another size; one figure is always drawn
        assert main([*arguments, "--folder", str(tmp_path)]) == 1
        assert "must not be computed" in capsys.readouterr().err
    monkeypatch.setattr(cache, "sources", lambda *_: "other code")
    assert main(["--all", "--quick", "--folder", str(tmp_path)]) == 1
    assert "2 of 2 cannot be drawn: fig98_small, fig99_small" in capsys.readouterr().err
    assert Page((tmp_path / "index.html").read_text()).ids == []
    page = Page(html)
    assert page.ids == ["fig98_small", "fig99_small"]
    assert page.links == [f"#{name}" for name in page.ids]
    assert [source[:22] for source in page.sources] == ["data:image/png;base64,"] * 2
    pictures = [base64.b64decode(source[22:]) for source in page.sources]
    assert pictures == [(tmp_path / f"{name}.png").read_bytes() for name in page.ids]
    for what in ("A figure of <nothing>.", "With a text.", "a table & more", "Nothing is < 1.", "All.", "quick size"):
        assert what in page.text
    assert page.text.count("expected -1 within 0.1") == 2
    assert (page.text.count("FAILS"), page.text.count("In 1 of them")) == (3, 1)  # number, section, summary
    for name, value in Drawing.load(tmp_path / "fig98_small.json").versions.items():
        assert f"{name} {value}" in page.text or name == "date"
    assert "http" not in html
    with pytest.raises(FileNotFoundError, match=r"not drawn in .*: fig97_other"):
        report.write(tmp_path, ["fig97_other"])


@pytest.mark.usefixtures("small")
def test_a_figure_that_raises_leaves_the_others_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbers(self: Small, data: Any) -> list[Number]:
        if self.value == -1.05:
            raise ArithmeticError("a number < 0")
        return [Number("slope", -1.0), Number("gap", 3.1, 1.0)]

    monkeypatch.setattr(Small, "numbers", numbers)
    assert main(["--all", "--quick", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "1 of 2 cannot be drawn: fig98_small" in said
    page = Page((tmp_path / "index.html").read_text())
    assert page.ids == ["fig99_small"]
    assert "ArithmeticError: a number < 0" in page.text
    assert page.text.count("not drawn") == 1
    monkeypatch.setattr(Small, "numbers", lambda *_: [Number("slope", -1.0), Number("gap", 3.1, 1.0)])
    assert main(["--all", "--quick", "--folder", str(tmp_path)]) == 0  # negative twin: mended, and only that one is drawn
    assert capsys.readouterr().out.count("drawn by the same code") == 1
    assert "not drawn" not in (tmp_path / "index.html").read_text()


@pytest.mark.usefixtures("small")
def test_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in a line, not with a trace of it; and no other figure is begun."""

    def compute(self: Small, quick: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Small, "compute", compute)
    assert main(["--all", "--quick", "--folder", str(tmp_path)]) == 130
    printed = capsys.readouterr()
    assert "interrupted; what is done is kept under" in printed.err
    assert "Traceback" not in printed.err
    assert "fig99_small" not in printed.out


@pytest.mark.usefixtures("small")
def test_damaged_drawing_is_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--all", "--quick", "--folder", str(tmp_path)]
    main(arguments)
    path = tmp_path / "fig98_small.json"
    whole = path.read_text()
    for text in (whole[:-20], "", "[]", "{}", "null"):
        path.write_text(text)
        capsys.readouterr()
        assert main(arguments) == 1  # fig99_small is out of bounds
        assert capsys.readouterr().out.count("drawn by the same code") == 1
        assert Drawing.load(path).holds


def test_text_of_a_figure_is_paragraphs_and_equations() -> None:
    assert report._prose("One < two\nlines.\n\n    f = <z phi>\n\nMore.") == (
        "<p>One &lt; two\nlines.</p>\n<pre>    f = &lt;z phi&gt;</pre>\n<p>More.</p>"
    )


def test_beginnings_of_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("paper_figures.__main__.draw", lambda name, **_: drawn.append(name))
    assert main(["fig02", NAME, "fig01", "--folder", str(tmp_path)]) == 0
    assert drawn == ["fig02_variance", NAME]
    for wrong in ("fig99", ""):
        with pytest.raises(SystemExit):
            main([wrong])
    with pytest.raises(SystemExit):
        main(["fig01", "--quick", "--full"])
    capsys.readouterr()


def test_distances_of_averages() -> None:
    """On outputs of known S and b: E (f_N - f_M)^2 = S (1/N + 1/M) / E + b^2 (1/N - 1/M)^2."""
    rng, S, b = np.random.default_rng(0), 2.0, 5.0
    nets = {}
    for N in (16, 64, 256):
        f = b / N + np.sqrt(S / N) * rng.standard_normal((64, 400, 4))
        nets[N] = SimpleNamespace(problem=PROBLEM.replace(task=tasks.sphere(4, input_dim=3)), samples=SimpleNamespace(f=f))
    found = fig04.distances(nets)  # type: ignore[arg-type]
    for E in fig04.MEMBERS:
        value, error = found[E]
        for i, N in enumerate((16, 64)):
            bias = b**2 * (1 / N - 1 / 256) ** 2
            expected = S * (1 / N + 1 / 256) / E + bias
            assert abs(value[i] - expected) < 4 * error[i]
            assert error[i] < 0.1 * expected
            assert abs(value[i] - (expected - bias)) > 4 * error[i] or np.inf > E


# --- the cache -------------------------------------------------------------------------------------------------------------


class Counting:
    """A computation that counts how often it is asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Result:
        self.calls += 1
        return finite.train(PROBLEM, width=4, num_seeds=2, progress=False)


def test_cache(results: Path) -> None:
    compute = Counting()
    first = cached(PROBLEM, "width 4", compute)
    again = cached(PROBLEM.replace(), "width 4", compute)
    assert compute.calls == 1
    assert np.array_equal(first.samples.f, again.samples.f)
    assert [path.name.split("-")[0] for path in results.iterdir()] == [PROBLEM.fingerprint()]
    cached(PROBLEM, "width 5", compute)
    cached(PROBLEM.replace(eta0=0.21), "width 4", compute)
    assert compute.calls == 3
    assert len([*results.iterdir()]) == 3


def test_arrays_are_kept_and_runs_recorded(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def compute(n: int, name: str) -> dict[str, np.ndarray]:
        calls.append((n, name))
        return {"x": np.arange(n), "y": np.array([0.5])}

    with recorded() as first:
        a = cached_arrays("counting", {"n": 3, "name": "a"}, compute)
        b = cached_arrays("counting", {"name": "a", "n": 3}, compute)
    assert calls == [(3, "a")]
    assert sorted(a) == sorted(b) == ["x", "y"]
    assert np.array_equal(a["x"], b["x"])
    assert first[0] == first[1]  # with the seconds of the time it was computed
    assert first[0].of == "counting"
    for name, n in (("counting", 4), ("another", 3)):  # negative twins
        cached_arrays(name, {"n": n, "name": "a"}, compute)
    assert len(calls) == 3
    assert len(first) == 2  # nothing is recorded after the block
    for path in results.iterdir():
        path.write_bytes(b"damaged")
    cached_arrays("counting", {"n": 3, "name": "a"}, compute)
    assert "computing again" in capsys.readouterr().out
    assert len(calls) == 4


def test_arrays_depend_on_the_code_beside_them() -> None:
    """Of a figure's module, and of what it takes from others of this package; not of other figures (negative twin)."""
    names = [module.__name__ for module in cache._modules(figure.find("fig06_spectra").compute)]
    assert names[0] == "paper_figures.fig06_spectra"
    assert {"paper_figures.swapped_spectra", "paper_figures.runs"} <= {*names}
    assert "paper_figures.fig05_bias" not in names


def test_runs_of_results_are_recorded() -> None:
    compute = Counting()
    with recorded() as first:
        cached(PROBLEM, "width 4", compute)
    with recorded() as again:
        cached(PROBLEM, "width 4", compute)
    assert first == again == [Run(str(PROBLEM), "width 4", first[0].seconds)]
    assert first[0].seconds > 0


def test_other_code_computes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Counting()
    cached(PROBLEM, "width 4", compute)
    monkeypatch.setattr(cache, "sources", lambda *_: "other code")
    cached(PROBLEM, "width 4", compute)
    assert compute.calls == 2


def test_fingerprint_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def fingerprint() -> str:
        cache.sources.cache_clear()
        return cache.sources("some_package")

    (package / "__init__.py").write_text("x = 1\n")
    first = fingerprint()
    (package / "notes.txt").write_text("not code")
    assert fingerprint() == first
    (package / "__init__.py").write_text("x = 2\n")
    assert fingerprint() != first
    cache.sources.cache_clear()


def test_damaged_file_is_computed_again_and_said_so(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute = Counting()
    first = cached(PROBLEM, "width 4", compute)
    (path,) = results.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    again = cached(PROBLEM, "width 4", compute)
    assert compute.calls == 2
    assert f"computing again: {path} is not a result file or is damaged" in capsys.readouterr().out
    assert np.array_equal(first.samples.f, again.samples.f)
    cached(PROBLEM, "width 4", compute)
    assert compute.calls == 2  # mended
    assert not capsys.readouterr().out


def test_own_activation_is_cached(results: Path) -> None:
    def wavy(h: Any) -> Any:
        return h + 0.5 * np.pi * h**3 / (1 + h**2)

    problem = PROBLEM.replace(activation=wavy)
    calls = []

    def compute() -> Result:
        calls.append(1)
        return finite.train(problem, width=4, num_seeds=2, progress=False)

    cached(problem, "x", compute)
    assert cached(problem, "x", compute).problem.architecture.activation.phi is wavy
    assert len(calls) == 1


def test_unwritable_cache_is_an_error_before_computing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "RESULTS", tmp_path / "file" / "results")
    with pytest.raises(OSError, match=r"cannot write into .*Choose another folder"):
        cached(PROBLEM, "width 4", stop)


def test_figure_names_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two digits and a word, so that fig10 is found too, and helpers are not."""

    class Module:
        def __init__(self, name: str):
            self.name = name

    names = ["figure", "fig10_late", "cache", "fig02_early", "fig3_short"]
    monkeypatch.setattr("pkgutil.iter_modules", lambda _: [Module(name) for name in names])
    assert figure.names() == ["fig02_early", "fig10_late"]


def test_width_colors() -> None:
    colors = figure.width_colors({256: None, 64: None, 128: None})
    assert [*colors] == [64, 128, 256]
    brightness = [np.sum(color[:3]) for color in colors.values()]
    assert brightness[0] > brightness[1] > brightness[2]  # light for narrow, dark for wide
