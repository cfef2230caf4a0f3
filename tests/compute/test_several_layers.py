"""Several layers in one sweep: one decode and one evaluation a batch, the same results as one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from small_networks import CLASSES, FunctionalReLU, Untraceable
from torch import nn
from torch.utils.data import Dataset

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.compute import verification
from unitlab.compute.dense_products import DenseProduct
from unitlab.compute.networks import VGG
from unitlab.compute.plan import plan_sweep
from unitlab.compute.recipe_files import RecipeFiles

COUNT, BATCH = 24, 8


@pytest.fixture(autouse=True)
def short_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "FEWEST_VERIFIED", 16)


class Pictures(Dataset):
    """Random images that count how often each is read."""

    def __init__(self, size: int = 17) -> None:
        self.pixels = torch.randn(COUNT, 3, size, size, generator=torch.Generator().manual_seed(2))
        self.targets = [position % CLASSES for position in range(COUNT)]
        self.reads: Counter[int] = Counter()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        self.reads[position] += 1
        return self.pixels[position], self.targets[position]


def small_vgg() -> nn.Module:
    torch.manual_seed(4)
    return VGG([(6, 6), (8, 8)], channels=3, categories=CLASSES, size=16, dense=12, batch_norm=False).eval()


class CountedCalls:
    """How often the modules of all networks are called within the block."""

    def __enter__(self) -> Counter[nn.Module]:
        self.calls: Counter[nn.Module] = Counter()
        self.handle = nn.modules.module.register_module_forward_hook(lambda module, *_: self.calls.update([module]))
        return self.calls

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def sweep(layer: Any, dataset: Pictures, network: nn.Module, **options: Any) -> dict[str, xr.Dataset]:
    source = unitlab.images(dataset, categories=[f"class {k}" for k in range(CLASSES)])
    options = {"batch_size": BATCH, "progress": False, "device": "cpu", **options}
    found = unitlab.ablate(network, source, layer, **options)
    return found if isinstance(found, dict) else {layer: found}


def prefix_calls(layer: Any) -> tuple[int, Counter[int]]:
    """Calls of the first convolution by the sweep's own evaluations, and reads of each image."""
    dataset, network = Pictures(16), small_vgg()
    source = unitlab.images(dataset, categories=[f"class {k}" for k in range(CLASSES)])
    options: dict[str, Any] = {"units": None, "ablation": "zero", "labels": "given", "precision": "float32", "seed": 0}
    plan = plan_sweep(network, source, layer, device="cpu", batch_size=BATCH, memory="2 GB", **options)
    assert plan.network.graph is not None
    first = plan.network.graph.modules["features.conv1_1"]
    dataset.reads.clear()
    from unitlab.compute.one_process import HeldShards, compute_shards

    with CountedCalls() as calls:
        compute_shards(plan, source, HeldShards(), progress=False)
    return calls[first], dataset.reads


def test_the_prefix_runs_once_and_images_are_read_no_more_often_for_more_layers() -> None:
    one, reads_for_one = prefix_calls("conv2_2")
    several, reads = prefix_calls(["conv1_2", "conv2_1", "conv2_2"])
    assert one == several == COUNT // BATCH
    assert reads == reads_for_one
    # for the network, for the thumbnail, and the first hundred for the size of thumbnails
    assert set(reads) == set(range(COUNT)) and max(reads.values()) <= 3


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_all_layers_are_what_each_gives_alone(ablation: str) -> None:
    dataset = Pictures(16)
    found = sweep("all", dataset, small_vgg(), ablation=ablation)
    assert list(found) == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]
    for layer, ds in found.items():
        alone = sweep(layer, dataset, small_vgg(), ablation=ablation)[layer]
        assert ds.attrs["site"] == alone.attrs["site"] == f"features.relu{layer[4:]}"
        for name in ("prediction", "baseline_prediction", "n_broken", "n_fixed", "top_image", "fraction_active"):
            np.testing.assert_array_equal(ds[name], alone[name], err_msg=f"{layer} {name}")
        for name in ("label_margin_drop", "first_order_margin_drop", "class_activation", "class_correlation"):
            scale = float(np.abs(alone[name]).max())
            np.testing.assert_allclose(ds[name], alone[name], rtol=2e-3, atol=1e-3 * scale, err_msg=f"{layer} {name}")


def test_means_of_several_layers_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Pictures(16)
    sweep(["conv1_1", "conv2_2"], dataset, small_vgg(), ablation="zero")
    zero = dataset.reads.total()
    dataset.reads.clear()
    sweep(["conv1_1", "conv2_2"], dataset, small_vgg(), ablation="mean")
    assert dataset.reads.total() == zero + COUNT


def test_without_a_graph_all_layers_are_recorded_in_one_evaluation() -> None:
    dataset = Pictures()
    found = sweep(["conv", "fc"], dataset, Untraceable().eval())
    for layer, ds in found.items():
        torch.manual_seed(0)
        assert ds.attrs["strategy"].startswith("forward hooks") and ds.sizes["unit"] == {"conv": 8, "fc": CLASSES}[layer]


def test_all_is_what_can_be_named_without_doubt(caplog: pytest.LogCaptureFixture) -> None:
    class Twice(FunctionalReLU):
        """One convolution is called twice; its ReLUs are functions."""

        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.twice(self.twice(x)))

    with caplog.at_level("INFO", logger="unitlab"):
        assert list(sweep("all", Pictures(), Twice().eval(), units=[0])) == ["conv1", "conv2"]
    assert "leaves out twice" in caplog.text
    assert list(sweep(["all", "fc1"], Pictures(), FunctionalReLU().eval(), units=[0])) == ["conv1", "conv2", "fc1"]
    with pytest.raises(UnitlabError, match="more than once"):
        sweep(["conv1", "all"], Pictures(), FunctionalReLU().eval())
    with pytest.raises(UnitlabError, match="calls no convolution"):
        sweep("all", Pictures(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 17 * 17, CLASSES)))


def held_tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Tensors that an object holds in its attributes and collections."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from held_tensors(part, seen)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from held_tensors(part, seen)
    elif type(value).__module__.startswith("unitlab") and hasattr(value, "__dict__"):
        yield from held_tensors(vars(value), seen)


def test_engines_that_wait_hold_nothing_of_the_last_batch() -> None:
    source = unitlab.images(Pictures(16), categories=[f"class {k}" for k in range(CLASSES)])
    options: dict[str, Any] = {"units": None, "ablation": "zero", "labels": "given", "precision": "float32", "seed": 0}
    plan = plan_sweep(small_vgg(), source, "all", device="cpu", batch_size=BATCH, memory="2 GB", **options)
    before = sum(tensor.numel() for tensor in held_tensors(plan.engines, set()))
    batch, positions = next(iter(source.batches(0, BATCH, BATCH)))
    labels = torch.as_tensor(source.labels[positions])
    evaluation = plan.network.evaluate(batch, labels, plan.sites, plan.needed, first_order=False)
    with torch.no_grad():
        for engine, value in zip(plan.engines, evaluation.site_values, strict=True):
            engine.evaluate(evaluation.baseline, torch.zeros_like(value[:1]))
    assert sum(tensor.numel() for tensor in held_tensors(plan.engines, set())) == before


def test_dense_layers_are_packed_once_for_all_engines() -> None:
    source = unitlab.images(Pictures(16), categories=[f"class {k}" for k in range(CLASSES)])
    options: dict[str, Any] = {"units": None, "ablation": "zero", "labels": "given", "precision": "float32", "seed": 0}
    plan = plan_sweep(small_vgg(), source, "all", device="cpu", batch_size=BATCH, memory="2 GB", **options)
    products: list[DenseProduct] = [product for engine in plan.engines for product in engine.dense_products.values()]  # type: ignore[union-attr]
    assert len(products) > 4 and len({id(product) for product in products}) == 2


def test_layers_whose_sums_exceed_the_memory_are_refused() -> None:
    class Wide(nn.Sequential):
        """Many units and many classes."""

    network = Wide(nn.Conv2d(3, 400, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(400, 4000)).eval()
    source = unitlab.images(Pictures(), categories=[f"class {k}" for k in range(4000)])
    with pytest.raises(UnitlabError, match=r"1 layer\(s\) take 0\.0 GB.*fewer layers"):
        unitlab.ablate(network, source, "0", memory="64 MB", progress=False, device="cpu")


def test_layers_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = unitlab.images("fashion_mnist").subset(range(32))
    monkeypatch.setattr(RecipeFiles, "images", lambda _: few)
    command = ["compute", "alexnet_fashion", "--units", "0", "--device", "cpu"]
    assert main([*command, "--layer", "conv4", "--layer", "conv5", "--store", str(tmp_path / "two.zarr")]) == 0
    assert "alexnet_fashion, conv5, zero ablation" in capsys.readouterr().out
    assert main([*command, "--layer", "all", "--store", str(tmp_path / "all.zarr")]) == 0
    for layer in ("conv4", "conv5"):
        bundled = unitlab.load("alexnet_fashion", layer).prediction.sel(unit=0).values[:32]
        for store in ("two.zarr", "all.zarr"):
            # ties within float noise differ from machine to machine
            assert (unitlab.load(tmp_path / store, layer).prediction.sel(unit=0).values == bundled).mean() > 0.95
