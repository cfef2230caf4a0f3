"""What needs no torch runs on the newest supported Python too, with warnings as errors, where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import unitlab

ROOT = Path(__file__).parents[1]
NEWEST = "3.13"
MOST = 60  # seconds that installing may take; on a busy machine or without a package index it is left out
CODE = """
import sys
import unitlab

ds = unitlab.load("vgg_fashion")
damage, attributes = unitlab.damage(ds, progress=False), unitlab.attributes(ds)
explorer = unitlab.explore(ds, unit=3)
explorer.category = "Coat"
assert "unit=3" in explorer.code()
assert unitlab.report(ds, "report.html").stat().st_size > 100_000
assert "torch" not in sys.modules
print(float(damage.max_class_drop_crossfit.max()), float(attributes.mutual_information.sum()))
"""


def newest_python() -> str | None:
    """The interpreter, on the PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for path in (shutil.which(f"python{NEWEST}"), *map(str, sorted(pyenv.glob(f"{NEWEST}.*/bin/python")))):
        told = path and subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True)
        if told and told.stdout.decode().strip() == NEWEST:
            return path
    return None


@pytest.mark.skipif(sys.version_info[:2] == (3, 13), reason="all tests run on it")
def test_loading_damage_explorer_and_report_on_the_newest_python(tmp_path: Path) -> None:
    python = newest_python()
    if python is None:
        pytest.skip(f"no Python {NEWEST} here")
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    widgets = [text for text in stated["optional-dependencies"]["notebook"] if text.startswith(("anywidget", "ipywidgets"))]
    environment = tmp_path / "env"
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    try:
        subprocess.run([python, "-m", "venv", environment], check=True, capture_output=True, timeout=MOST)
        subprocess.run([*pip, *stated["dependencies"], *widgets], check=True, capture_output=True, timeout=MOST)
    except subprocess.SubprocessError as error:
        pytest.skip(f"Python {NEWEST} has not got the packages within {MOST} s ({type(error).__name__})")
    done = subprocess.run(
        [environment / "bin" / "python", "-W", "error", "-c", CODE],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ds = unitlab.load("vgg_fashion")
    expected = unitlab.damage(ds, progress=False).max_class_drop_crossfit.max(), unitlab.attributes(ds).mutual_information.sum()
    assert [float(text) for text in done.stdout.split()] == pytest.approx([float(value) for value in expected], rel=1e-6)
