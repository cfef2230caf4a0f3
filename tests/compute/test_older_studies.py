"""Studies that say nothing of ``output`` were computed from what the network returned, and are verified and resumed as such."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from small_networks import CLASSES
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.user_network.outputs import as_returned
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.run import run_sweep
from unitlab.compute.sweep.shards import Arrays, ShardComputation, ShardResult
from unitlab.store.shards import unfinished_fingerprint


def source() -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(24, 3, 17, 17), torch.arange(24) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


class Probabilities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(5 * self.fc(F.relu(self.conv(x)).mean((2, 3))), 1)


OPTIONS: dict[str, Any] = {"progress": False, "device": "cpu"}


def as_before(store: Path | None = None, layer: str = "conv") -> xr.Dataset:
    """A study as fb18c65 computed it: margins of probabilities, and no word of output."""
    request = SweepRequest(layer, batch_size=8, output=as_returned)
    return run_sweep(Probabilities().eval(), source(), request, store=store, **OPTIONS)[layer]


def test_an_older_study_has_the_margins_of_what_was_returned_and_verifies() -> None:
    older = as_before()
    assert not [name for name in older.attrs if "output" in name]
    with torch.no_grad():
        top = Probabilities().eval()(source().at(range(24))).topk(2).values
    right = older.label.values == older.baseline_prediction.values
    np.testing.assert_allclose(older.baseline_margin.values[right], (top[:, 0] - top[:, 1]).numpy()[right], rtol=1e-5)
    assert unitlab.verify(older, Probabilities().eval(), source(), sample=64, device="cpu").different == 0
    newer = unitlab.ablate(Probabilities().eval(), source(), "conv", **OPTIONS)
    assert newer.attrs["output"] == "the value before its final softmax" and "fingerprint_output" in newer.attrs
    assert (abs(newer.baseline_margin) > abs(older.baseline_margin)).all()


def test_an_older_store_is_found_finished_and_takes_no_other_output(tmp_path: Path) -> None:
    store = tmp_path / "study.zarr"
    older = as_before(store).load()
    again = unitlab.ablate(Probabilities().eval(), source(), "conv", store=store, batch_size=8, **OPTIONS).load()
    xr.testing.assert_identical(again, older)
    assert unitlab.estimate(Probabilities().eval(), source(), "conv", store=store, device="cpu").complete
    with pytest.raises(UnitlabError, match=r"computed with other output"):
        unitlab.ablate(Probabilities().eval(), source(), "conv", store=store, output=lambda p: p.log(), **OPTIONS)


def test_an_older_unfinished_study_goes_on_by_its_own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 8)
    store, real, calls = tmp_path / "study.zarr", ShardComputation.begin, list[int]()

    def interrupted(self: ShardComputation, *given: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(ShardComputation, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            as_before(store)
    assert "output" not in unfinished_fingerprint(store) and len(list(tmp_path.glob("*.partial/shard-*.safetensors"))) == 2
    found = unitlab.ablate(Probabilities().eval(), source(), "conv", store=store, batch_size=8, **OPTIONS).load()
    xr.testing.assert_equal(found, as_before())
    assert "output" not in found.attrs


def test_a_newer_unfinished_study_says_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "study.zarr"

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unitlab.compute.sweep.run.write_study", fail)
        with pytest.raises(KeyboardInterrupt):
            unitlab.ablate(Probabilities().eval(), source(), "conv", store=store, **OPTIONS)
    assert "output" in json.loads((next(tmp_path.glob("*.partial")) / "fingerprint.json").read_text())
    with pytest.raises(UnitlabError, match="output"):
        unitlab.ablate(Probabilities().eval(), source(), "conv", store=store, output=lambda p: p, **OPTIONS)


@pytest.mark.parametrize("name", ["vgg_fashion", "resnet_emoji"])
def test_bundled_studies_verify(name: str) -> None:
    assert "output" not in unitlab.load(name).attrs
    assert unitlab.verify(name, sample=64).different == 0


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.second, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.second(F.relu(self.conv(x)))).mean((2, 3)))


def ablated(layer: str, store: Path, images: ImageSource, **options: Any) -> dict[str, Any]:
    found = unitlab.ablate(Chain().eval(), images, layer, store=store, batch_size=8, **OPTIONS, **options)
    return {name: value for name, value in found.attrs.items() if "content" in name}


def pixels_of(image: int, by: float) -> ImageSource:
    """The images, of which one that no sample of few has is changed."""
    pictures, labels = TensorDataset(torch.stack(list(source().at(range(24)))), torch.arange(24) % CLASSES).tensors
    pictures[image] += by
    return unitlab.images(TensorDataset(pictures, labels), categories=[f"class {k}" for k in range(CLASSES)])


def test_a_layer_is_added_to_a_study_with_the_older_hash_of_all_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, older = tmp_path / "study.zarr", {"fingerprint_content": "by shard"}
    with monkeypatch.context() as patch:
        patch.setattr("unitlab.compute.sweep.study_arrays.content_fingerprint", lambda _: older)
        assert ablated("conv", store, source()) == older
    with pytest.raises(UnitlabError, match="'baseline_margin' differs"):
        ablated("second", store, pixels_of(2, 5.0))
    shutil.rmtree(f"{store}.partial")
    both = ablated("second", store, source())
    assert set(both) == {"fingerprint_content", "fingerprint_content_images"} and both.items() > older.items()
    hashes = [hashlib.sha256(b"torch.float32 (3, 17, 17) " + image.numpy().tobytes()) for image in source().at(range(24))]
    assert both["fingerprint_content_images"] == hashlib.sha256(b"".join(one.digest() for one in hashes)).hexdigest()
    # from now on every pixel counts, however little it does
    with pytest.raises(UnitlabError, match="other content_images"):
        ablated("conv", store, pixels_of(2, 1e-6), ablation="mean")
    shutil.rmtree(f"{store}.partial")
    assert ablated("conv", store, source(), ablation="mean") == both
    assert unitlab.verify(store, Chain().eval(), source(), sample=64, device="cpu").different == 0


def test_shards_with_the_older_hash_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 8)
    store, begin, to_arrays = tmp_path / "study.zarr", ShardComputation.begin, ShardResult.to_arrays

    def interrupted(self: ShardComputation, batch: ImageBatch, *given: Any) -> Any:
        if batch.positions[0] == 16:
            raise KeyboardInterrupt
        return begin(self, batch, *given)

    def as_older(self: ShardResult) -> Arrays:
        arrays = to_arrays(self)
        del arrays["image_hashes"]
        return {**arrays, "content": np.zeros(32, np.uint8)}

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardComputation, "begin", interrupted)
        patch.setattr(ShardResult, "to_arrays", as_older)
        ablated("conv", store, source())
    assert len(list(tmp_path.glob("*.partial/shard-*.safetensors"))) == 2
    assert ablated("conv", store, source()) == {}
    whole = unitlab.ablate(Chain().eval(), source(), "conv", batch_size=8, **OPTIONS)
    xr.testing.assert_equal(unitlab.load(store).load(), whole.load())
    assert set(ablated("second", store, source())) == {"fingerprint_content_images"}
