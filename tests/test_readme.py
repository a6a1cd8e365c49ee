"""The script of the README runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_readme_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert script is not None
    monkeypatch.chdir(tmp_path)
    exec(script.group(1), {})
    shown = capsys.readouterr().out
    assert "theory and experiment agree" in shown
    assert "exponent of the variance in N: -" in shown
    assert (tmp_path / "theory.npz").exists()


def test_readme_links() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("https://") or (README.parent / target).exists(), target
