from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import unitlab
from unitlab import catalog
from unitlab.cli import main


def test_list_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "vgg_emoji" in capsys.readouterr().out
    assert main(["info", "vgg_fashion"]) == 0
    shown = capsys.readouterr().out
    assert "conv3_2 (default), zero: 64 units at features.relu3_2" in shown and " 0 different" in shown


def test_compute_verify_and_load(capsys: pytest.CaptureFixture[str], own_home: Path) -> None:
    assert main(["compute", "vgg_fashion", "--units", "3,5,10-12", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "worst class" in shown and "overall drop" in shown and str(own_home) in shown
    ds = unitlab.load("vgg_fashion")
    assert ds.unit.values.tolist() == [3, 5, 10, 11, 12]
    store = own_home / "studies" / "vgg_fashion.zarr"
    assert main(["verify", str(store), "--sample", "200", "--device", "cpu"]) == 0
    assert "0 different" in capsys.readouterr().out


def test_what_is_computed_here_equals_what_is_bundled(own_home: Path) -> None:
    bundled = unitlab.load("vgg_fashion")
    assert main(["compute", "vgg_fashion", "--units", "0-7", "--device", "cpu"]) == 0
    here = unitlab.load("vgg_fashion")
    same = here.prediction.values == bundled.prediction.values[:8]
    assert same.mean() > 0.9999  # ties within float noise differ from machine to machine


def test_errors_end_with_2_and_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["info", "vgg_emojis"], ["compute", "vgg17"], ["compute", "vgg_fashion", "--units", "a"]):
        assert main(arguments) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("unitlab: ") and "Traceback" not in shown


def test_a_flipped_byte_fails_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(catalog.path_of("vgg_fashion"), copy)
    victim = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    assert main(["verify", str(copy)]) == 2
    assert victim.name in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unitlab.compute.sweep.run.compute_shards", interrupted)
    assert main(["compute", "vgg_fashion", "--device", "cpu"]) == 130
    assert "goes on from here" in capsys.readouterr().err
