from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from unitlab import UnitlabError, lab
from unitlab.cli import main
from unitlab.lab import copy_notebooks

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks and a picture, to be changed as a new version would."""
    folder = tmp_path / "shipped"
    (folder / "pictures").mkdir(parents=True)
    for name in ("start.ipynb", "other.ipynb", "pictures/a.webp"):
        (folder / name).write_text(f"first {name}")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "start.ipynb").write_text("not ours")
    monkeypatch.setattr(lab, "_source", lambda: folder)
    return folder


def test_everything_that_ships_is_copied_byte_for_byte(tmp_path: Path) -> None:
    done = copy_notebooks(tmp_path / "mine")
    assert "damage_of_a_unit.ipynb" in done.written and done.kept == []
    for name in done.written:
        assert (tmp_path / "mine" / name).read_bytes() == (NOTEBOOKS / name).read_bytes()
    assert copy_notebooks(tmp_path / "mine").written == []


def test_a_new_version_reaches_what_is_unchanged_and_nothing_else(shipped: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    assert copy_notebooks(mine).written == ["other.ipynb", "pictures/a.webp", "start.ipynb"]
    (mine / "other.ipynb").write_text("work of an evening")
    (mine / "own.ipynb").write_text("not ours")
    assert copy_notebooks(mine).kept == ["other.ipynb"]
    for name in ("start.ipynb", "other.ipynb"):
        (shipped / name).write_text(f"second {name}")
    done = copy_notebooks(mine)
    assert done.written == ["start.ipynb"] and done.kept == ["other.ipynb"]
    assert (mine / "start.ipynb").read_text() == "second start.ipynb"
    assert (mine / "other.ipynb").read_text() == "work of an evening"
    assert (mine / "own.ipynb").read_text() == "not ours"
    (mine / "other.ipynb").unlink()
    assert copy_notebooks(mine).written == ["other.ipynb"]


@pytest.mark.parametrize("record", ["", "[1]", '{"start.ipynb": 3}'])
def test_without_a_record_that_can_be_read_everything_is_kept(record: str, shipped: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    copy_notebooks(mine)
    (mine / ".unitlab.json").write_text(record)
    (shipped / "start.ipynb").write_text("second")
    assert copy_notebooks(mine).kept == ["start.ipynb"]
    assert (mine / "start.ipynb").read_text() == "first start.ipynb"


def test_a_folder_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UnitlabError, match=r"cannot be copied to .*taken.*unitlab lab FOLDER"):
        copy_notebooks(tmp_path / "taken")


def test_the_command_says_what_it_kept_and_passes_options_on(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("unitlab.cli.open_lab", lambda *given: opened.append(given))
    monkeypatch.setattr("unitlab.cli.default_folder", lambda: tmp_path / "default")
    assert main(["lab", "--", "--no-browser"]) == 0
    assert main(["lab", str(tmp_path / "mine"), "--", "--port", "9000"]) == 0
    assert opened == [(tmp_path / "default", ["--no-browser"]), (tmp_path / "mine", ["--port", "9000"])]
    assert "3 files written" in capsys.readouterr().out
    (tmp_path / "mine" / "start.ipynb").write_text("mine")
    assert main(["lab", str(tmp_path / "mine")]) == 0
    assert "start.ipynb has changes of yours and was kept" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "mine" / ".unitlab.json").read_text())) == {
        "start.ipynb",
        "other.ipynb",
        "pictures/a.webp",
    }


def test_without_jupyterlab_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "jupyterlab.labapp", raising=False)
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    assert main(["lab", str(tmp_path / "mine")]) == 2
    shown = capsys.readouterr().err
    assert "jupyterlab is not installed" in shown and "pip install '.[notebook]'" in shown
    assert (tmp_path / "mine" / "damage_of_a_unit.ipynb").exists()
