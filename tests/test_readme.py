"""The scripts of the README and of the documentation run as written, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"


def scripts(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ten_lines, training = scripts(README)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(ten_lines, names)
    shown = capsys.readouterr().out
    assert "theory and experiment agree" in shown
    assert "exponent of the variance in N: -" in shown
    assert (tmp_path / "theory.npz").exists()
    for script in (training, *scripts(DOCS / "training.md")):  # in one process: what is compiled serves again
        exec(script, names)
    shown = capsys.readouterr().out
    assert "relative error" in shown
    assert "(21, 12, 3) (21, 12, 3)" in shown
    assert "(8, 3, 2, 6, 256)" in shown


def test_scripts_of_networks(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for script in (*scripts(DOCS / "networks.md"), *scripts(DOCS / "data.md")):
        exec(script, names)
    shown = capsys.readouterr().out
    assert "accuracy: 0." in shown
    assert "as it should" in shown
    assert "SHOULD BE" not in shown
    assert bool(names["check"])
    assert bool(names["sweep"]), str(names["sweep"])


def test_script_of_any_network(capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = scripts(DOCS / "any_network.md")
    exec(script, {})
    assert "theory and experiment agree" in capsys.readouterr().out


def test_script_of_spectra(capsys: pytest.CaptureFixture[str]) -> None:
    for script in scripts(DOCS / "spectra.md"):
        exec(script, {})
    shown = capsys.readouterr().out
    assert "test MSE" in shown
    assert "task power C(k), difference" in shown
    assert "the mean kernel's output" in shown


def test_script_of_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    pages = ("scaling", "scaling/kernel_regression", "scaling/dynamics", "scaling/feature_learning", "scaling/spectral_moments")
    for page in pages:
        (script,) = scripts(DOCS / f"{page}.md")
        exec(script, {})
    shown = capsys.readouterr().out
    assert "test MSE" in shown
    assert "best ridge" in shown
    assert "exponent to be: 0.33" in shown
    assert "lazy and rich: [0.50" in shown
    assert "effective dimension" in shown


def test_scripts_of_testing(capsys: pytest.CaptureFixture[str]) -> None:
    """What the page has a user paste into pytest, called as pytest would."""
    names: dict[str, Any] = {}
    for script in scripts(DOCS / "testing.md"):
        exec(script, names)
    tests = [name for name in names if name.startswith("test_")]
    assert len(tests) == 3
    for name in tests:
        names[name]()
    assert "would have been seen" in capsys.readouterr().out


def test_script_of_fluctuations(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for script in scripts(DOCS / "fluctuations.md"):
        exec(script, names)
    assert "theory and experiment agree" in capsys.readouterr().out


def test_scripts_of_deviations(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for script in scripts(DOCS / "deviations.md"):
        exec(script, names)
    shown = capsys.readouterr().out
    assert "bias of narrower width from theory" in shown
    assert "exponents: -1/2 expected" in shown
    assert "W1 step 20" in shown
    ensembles = names["ensembles"]
    assert (ensembles.bias[0, 5:15] > 3 * ensembles.bias_error[0, 5:15]).all()  # narrow networks are behind


def test_script_of_scaling_models(capsys: pytest.CaptureFixture[str]) -> None:
    for page in ("learning_rates", "lazy_rich", "critical_batch", "branching", "graph_kernel", "onset"):
        (script,) = scripts(DOCS / "scaling" / f"{page}.md")
        exec(script, {})
    shown = capsys.readouterr().out
    assert "rates with loss below 1%" in shown
    assert "|dh| ~ N^(0.25, 0.25)" in shown
    assert "critical batch" in shown
    assert "scales of branches 1e-06" in shown
    assert "nu 1.0 outputs" in shown
    assert "onset of variance" in shown


@pytest.mark.parametrize("page", [README, *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for script in scripts(page):
        compile(script, page.name, "exec")
