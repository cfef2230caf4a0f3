"""A recipe for real: EfficientNet-Lite0 with its ImageNet weights on twenty photographs of ImageNet, by the command."""

from __future__ import annotations

import importlib.util
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch

import unitlab
from unitlab.cli import main


def test_twenty_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    wnids = resources.files("unitlab.recipes").joinpath("imagenet_wnids.txt").read_text().split()
    folder, numbers = tmp_path / "photographs", []
    for path in sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg")):
        number = int(path.stem.rpartition("_")[2])  # the class is in the name: imagenet_00_243.jpg
        (folder / wnids[number]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / wnids[number])
        numbers.append(number)
    name = "efficientnet_lite0_imagenet"
    assert main(["compute", name, "--images", str(folder), "--units", "720-735", "--device", "cpu"]) == 0
    with torch.no_grad():
        assert unitlab.network(name)(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    ds = unitlab.load(f"{name}+units")
    assert sorted(ds.label.values.tolist()) == sorted(numbers)
    assert int((ds.baseline_prediction == ds.label).sum()) == 16
    assert ds.attrs["weights_are_the_recipes"] == "yes" and ds.attrs["verified_different"] == 0
    capsys.readouterr()
    assert main(["verify", f"{name}+units", "--sample", "20", "--device", "cpu"]) == 0
    assert "0 different" in capsys.readouterr().out
