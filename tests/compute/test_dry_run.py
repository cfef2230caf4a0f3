"""What a sweep would take: the plan is the sweep's own, sizes agree with what is written, nothing is left behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scripted_images import scripted_source
from small_networks import FunctionalReLU, Untraceable

import unitlab
from unitlab.cli import main
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.passes import compute_shards
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.store.shards import PartialStudy


def test_the_command_prints_the_plan_and_writes_nothing(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compute", "vgg_fashion", "--layer", "all", "--units", "0-3", "--device", "cpu", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"^  conv\d_\d .* 4 units .*replayed", shown, re.MULTILINE)) == 6
    for words in (
        "asked    layer=['all'], units=[0, 1, 2, 3]",
        "10,000 images of 1 × 28 × 28, 10 classes",
        "on cpu",
        "passes",
        "time     about",
        "memory   2 GB",
        "disk",
    ):
        assert words in shown
    assert not own_home.exists()
    assert main(["compute", "vgg_fashion", "--layer", "conv9", "--dry-run"]) == 2


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_sizes_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablation: str) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 24)
    source, store = scripted_source(tmp_path, count=48), tmp_path / "study.zarr"
    options = {"batch_size": 24, "device": "cpu", "ablation": ablation, "memory": "64 MB"}
    found = unitlab.estimate(FunctionalReLU().eval(), source, ["conv1", "conv2"], store=store, **options)
    assert [(x.layer, x.units) for x in found.layers] == [("conv1", 8), ("conv2", 12)]
    assert (found.images, found.finished_images, found.shards, found.complete) == (48, 0, 2, False)
    assert 4 <= found.sample <= 24  # as many as a few seconds allow
    assert found.passes > 1 and found.seconds == pytest.approx(
        48 * (found.passes * found.seconds_per_pass + found.seconds_per_read)
    )
    assert not store.exists() and not list(tmp_path.glob("*.partial"))


def test_an_interrupted_sweep_and_a_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 24)
    model, source, store = FunctionalReLU().eval(), scripted_source(tmp_path, count=48), tmp_path / "study.zarr"
    plan = plan_sweep(model, source, SweepRequest("conv2", batch_size=24, memory="64 MB"), "cpu")
    study = PartialStudy(store, plan.fingerprint)
    compute_shards(plan, source, study, progress=False)
    written = sum(path.stat().st_size for path in study.folder.glob("shard-*.safetensors"))
    (study.folder / "shard-000001.safetensors").unlink()
    options = {"batch_size": 24, "device": "cpu", "memory": "64 MB"}
    found = unitlab.estimate(model, source, "conv2", store=store, **options)
    assert found.finished_images == 24 and "24 are computed already" in str(found)
    # the file's header comes on top
    assert np.isclose(found.disk_while_computing, written, rtol=0.25)
    study.close()
    unitlab.ablate(model, source, "conv2", store=store, progress=False, **options)
    found = unitlab.estimate(model, source, "conv2", store=store, **options)
    assert found.complete and found.seconds == 0 and "nothing is left" in str(found)
    part = unitlab.estimate(model, source, "conv2", store=store, units=[1], **options)
    assert part.complete and part.layers[0].units == 1


def test_only_the_units_that_a_store_lacks_are_counted(tmp_path: Path) -> None:
    model, source, store = FunctionalReLU().eval(), scripted_source(tmp_path, count=24), tmp_path / "study.zarr"
    unitlab.ablate(model, source, "conv2", units=[1, 4], store=store, progress=False, device="cpu")
    found = unitlab.estimate(model, source, "conv2", units=[1, 2, 3], store=store, device="cpu")
    assert not found.complete and found.layers[0].units == 2


def test_forward_hooks_are_foreseen(tmp_path: Path) -> None:
    found = unitlab.estimate(Untraceable().eval(), scripted_source(tmp_path), "conv", device="cpu")
    assert found.layers[0].strategy.startswith("forward hooks") and found.passes > 3
