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
from PIL import Image
from small_networks import CLASSES, FunctionalReLU, Untraceable
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.networks.bundled import VGG
from unitlab.compute.sweep import proof as verification
from unitlab.compute.sweep.fingerprints import SAMPLED_IMAGES
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest

COUNT, BATCH = 24, 8
IN_FINGERPRINT = Counter(np.linspace(0, COUNT - 1, SAMPLED_IMAGES).astype(int).tolist())


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
    dataset.reads.clear()  # the first images are read twice, to see whether they change
    plan = plan_sweep(network, source, SweepRequest(layer, batch_size=BATCH), "cpu")
    assert plan.network.graph is not None
    first = plan.network.graph.modules["features.conv1_1"]
    assert dataset.reads == IN_FINGERPRINT
    dataset.reads.clear()
    from unitlab.compute.sweep.passes import compute_shards
    from unitlab.store.shards import HeldShards

    with CountedCalls() as calls:
        compute_shards(plan, source, HeldShards(), progress=False)
    return calls[first], dataset.reads


@pytest.mark.parametrize("layers", ["conv2_2", ["conv1_2", "conv2_1", "conv2_2"]])
def test_the_prefix_runs_once_and_every_image_is_read_once(layers: Any) -> None:
    calls, reads = prefix_calls(layers)
    assert calls == COUNT // BATCH
    assert reads == Counter(range(COUNT))


@pytest.mark.parametrize("kind", ["folder", "ImageFolder", "DataLoader"])
def test_every_picture_is_decoded_once_before_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for position in range(COUNT):
        folder = tmp_path / f"class {position % CLASSES}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (20, 17 + position % 2), (9 * position, 0, 0)).save(folder / f"{position:02d}.png")
    transform = transforms.Compose([transforms.Resize((17, 17)), transforms.ToTensor()])
    photos: Any = {"transform": transform, "source": tmp_path}
    if kind != "folder":
        dataset = datasets.ImageFolder(tmp_path, transform)
        photos = {"source": dataset if kind == "ImageFolder" else DataLoader(dataset)}
    source = unitlab.images(**photos, categories=[f"class {k}" for k in range(CLASSES)])
    decoded: Counter[str] = Counter()
    before_proof: list[Counter[str]] = []

    def opened(path: Any, *given: Any, _open: Any = Image.open, **options: Any) -> Any:
        decoded[Path(getattr(path, "name", path)).name] += 1
        return _open(path, *given, **options)

    def proof(*given: Any, **options: Any) -> Any:
        before_proof.append(decoded.copy())
        return verification.compared_with_hooks(*given, **options)

    monkeypatch.setattr(Image, "open", opened)
    monkeypatch.setattr("unitlab.compute.sweep.run.compared_with_hooks", proof)
    ds = unitlab.ablate(FunctionalReLU().eval(), source, "conv1", batch_size=BATCH, progress=False, device="cpu")
    names = [Path(name).name for name in source.ids]
    # all of so few are read for the baseline, and a few for the fingerprint, before anything is computed
    assert before_proof == [Counter(names) + Counter(names) + Counter(names[position] for position in IN_FINGERPRINT)]
    assert ds.thumbnails.shape == (COUNT, 64, 64, 3)
    np.testing.assert_array_equal(ds.thumbnails[:, 32, 32, 0], [9 * int(Path(name).stem) for name in names])


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
    plan = plan_sweep(small_vgg(), source, SweepRequest("all", batch_size=BATCH), "cpu")
    engines = [layer.engine for layer in plan.layers]
    before = sum(tensor.numel() for tensor in held_tensors(engines, set()))
    batch, positions = next(iter(source.batches(0, BATCH, BATCH)))
    labels = torch.as_tensor(source.labels[positions])
    evaluation = plan.network.evaluate(batch, labels, plan.sites, plan.needed, first_order=False)
    with torch.no_grad():
        for engine, value in zip(engines, evaluation.site_values, strict=True):
            engine.evaluate(evaluation.baseline, torch.zeros_like(value[:1]))
    assert sum(tensor.numel() for tensor in held_tensors(engines, set())) == before


def test_a_layer_whose_sums_exceed_the_memory_is_refused() -> None:
    class Wide(nn.Sequential):
        """Many units and many classes."""

    network = Wide(nn.Conv2d(3, 400, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(400, 4000)).eval()
    source = unitlab.images(Pictures(), categories=[f"class {k}" for k in range(4000)])
    with pytest.raises(UnitlabError, match=r"classes of 0 take 0\.1 GB.*memory='0\.2 GB' or more, or fewer units"):
        unitlab.ablate(network, source, "0", memory="64 MB", progress=False, device="cpu")


def test_layers_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = unitlab.images("fashion_mnist").subset(range(32))
    monkeypatch.setattr(RecipeFiles, "images", lambda _: few)
    command = ["compute", "alexnet_fashion", "--units", "0", "--device", "cpu"]
    assert main([*command, "--layer", "conv3", "--layer", "conv5", "--store", str(tmp_path / "two.zarr")]) == 0
    assert "alexnet_fashion, conv5, zero ablation" in capsys.readouterr().out
    assert main([*command, "--layer", "all", "--store", str(tmp_path / "all.zarr")]) == 0
    for layer in ("conv3", "conv5"):
        bundled = unitlab.load("alexnet_fashion", layer).prediction.sel(unit=0).values[:32]
        for store in ("two.zarr", "all.zarr"):
            # ties within float noise differ from machine to machine
            assert (unitlab.load(tmp_path / store, layer).prediction.sel(unit=0).values == bundled).mean() > 0.95
