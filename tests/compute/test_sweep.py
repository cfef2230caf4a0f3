"""Whole sweeps: what a study holds, what is refused, and what happens when a sweep is cut off."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from oracle import site_output
from PIL import Image
from small_networks import CLASSES, FunctionalReLU, InPlaceReLU, SharedReLU
from torch import nn
from torch.utils.data import TensorDataset
from torchvision import transforms

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.ablation import donor_of_image
from unitlab.compute.images.source import ImageSource
from unitlab.store.shards import PartialStudy

COUNT = 60


def source(count: int = COUNT, categories: int = CLASSES, labels: torch.Tensor | None = None) -> ImageSource:
    torch.manual_seed(3)
    pixels = torch.randn(count, 3, 17, 17)
    labels = torch.arange(count) % CLASSES if labels is None else labels
    return unitlab.images(TensorDataset(pixels, labels), categories=[f"class {k}" for k in range(categories)])


def network(kind: type[nn.Module] = FunctionalReLU) -> nn.Module:
    torch.manual_seed(5)
    return kind().eval()


def ablate(model: nn.Module, images: ImageSource, layer: str, **options: object) -> xr.Dataset:
    return unitlab.ablate(model, images, layer, progress=False, device="cpu", **options)


def test_counts_and_rates_follow_from_the_predictions() -> None:
    ds = ablate(network(), source(categories=CLASSES), "conv2")
    label, before = ds.label.values, ds.baseline_prediction.values
    for unit in range(ds.sizes["unit"]):
        after = ds.prediction.values[unit]
        for k in range(CLASSES):
            mine = label == k
            broken = int(((before == k) & (after != k) & mine).sum())
            fixed = int(((before != k) & (after == k) & mine).sum())
            assert (broken, fixed) == (int(ds.n_broken[unit, k]), int(ds.n_fixed[unit, k]))
            assert float(ds.accuracy_drop[unit, k]) == pytest.approx((broken - fixed) / mine.sum())
    assert (ds.n_predicted.sum("category") == COUNT).all()


def test_activation_statistics_agree_with_plain_numpy() -> None:
    model, images = network(), source()
    ds = ablate(model, images, "conv1", batch_size=7)
    pixels = torch.cat([batch for batch, _ in images.batches(0, COUNT, 60)])
    value = site_output(model, pixels, "conv1", 0).numpy()
    mean, top = value.mean((2, 3)), value.max((2, 3))
    # float16 has 11 significant bits, of which 8 are kept: half a step of each
    np.testing.assert_allclose(ds.activation_max.values, top.T, rtol=2**-8 + 2**-11, atol=1e-6)
    np.testing.assert_allclose(ds.activation_mean.values, mean.T, rtol=2**-8 + 2**-11, atol=1e-6)
    np.testing.assert_allclose(ds.mean_activation, value.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    by_class = np.stack([mean[images.labels == k].mean(0) for k in range(CLASSES)], 1)
    np.testing.assert_allclose(ds.class_activation, by_class, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ds.fraction_active, (top > 0).mean(0), rtol=1e-6)
    order = np.argsort(-top, axis=0, kind="stable")[: ds.sizes["top_rank"]].T
    np.testing.assert_array_equal(ds.top_image.values, order)
    np.testing.assert_allclose(ds.top_map.values[2, 0], value[order[2, 0], 2], rtol=2e-3, atol=1e-3)
    with torch.no_grad():
        probability = model(pixels).softmax(1).numpy()
    expected = np.corrcoef(top.T, probability.T)[: top.shape[1], top.shape[1] :]
    np.testing.assert_allclose(ds.class_correlation, expected, atol=1e-4)
    np.testing.assert_allclose(ds.l1_norm, np.abs(model.conv1.weight.detach().numpy()).sum((1, 2, 3)), rtol=1e-5)


def test_first_order_margin_drop_agrees_with_autograd() -> None:
    model, images = network(), source()
    ds = ablate(model, images, "conv2")
    pixels = torch.cat([batch for batch, _ in images.batches(0, COUNT, 60)])
    kept: list[torch.Tensor] = []
    handle = model.conv2.register_forward_hook(lambda _m, _i, out: (out.retain_grad(), kept.append(out))[1])
    logits, labels = model(pixels), torch.as_tensor(images.labels)
    handle.remove()
    other = logits.clone()
    other[torch.arange(COUNT), labels] = -torch.inf
    (logits[torch.arange(COUNT), labels] - other.amax(1)).sum().backward()
    first = (kept[0] * kept[0].grad).sum((2, 3)).detach().numpy()
    expected = np.stack([first[images.labels == k].mean(0) for k in range(CLASSES)], 1)
    np.testing.assert_allclose(ds.first_order_margin_drop, expected, rtol=1e-3, atol=1e-6)


def test_batch_size_and_shards_do_not_matter() -> None:
    one = ablate(network(), source(), "conv1")
    other = ablate(network(), source(), "conv1", batch_size=7, memory="64 MB")
    np.testing.assert_array_equal(one.prediction, other.prediction)
    np.testing.assert_allclose(one.class_activation, other.class_activation, rtol=1e-5)


def test_a_class_without_images_one_image_one_class() -> None:
    ds = ablate(network(), source(3, labels=torch.tensor([0, 0, 2])), "conv1")
    assert np.isnan(ds.accuracy_drop.values[:, 1]).all() and np.isfinite(ds.overall_drop).all()
    single = ablate(network(), source(1), "conv2", units=[3])
    assert single.prediction.shape == (1, 1) and int(single.top_image[0, 0]) == 0 and int(single.top_image[0, 1]) == -1


def test_predicted_labels() -> None:
    ds = ablate(network(), source(), "conv1", labels="predicted")
    assert ds.attrs["labels"] == "predicted" and (ds.label == ds.baseline_prediction).all() and (ds.n_fixed == 0).all()
    # labels of another task, some of them beyond the network's classes
    foreign = source(20, categories=12, labels=torch.arange(20) % 12 // -1 + 11)
    other = ablate(network(), foreign, "conv1", labels="predicted")
    assert other.category.values.tolist() == [f"class {k}" for k in range(CLASSES)] and float(other.overall_drop.min()) >= 0


def test_donors_are_seeded_and_never_the_image_itself() -> None:
    for images, seed in ((2, 0), (3, 1), (500, 2)):
        donors, chosen = donor_of_image(images, seed)
        assert (donors[chosen] != np.arange(images)).all() and len(set(donors.tolist())) == len(donors)
        np.testing.assert_array_equal(chosen, donor_of_image(images, seed)[1])
    one, same, other = (ablate(network(), source(), "conv1", ablation="resample", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.label_margin_drop, same.label_margin_drop)
    assert (one.label_margin_drop != other.label_margin_drop).any()


def test_a_late_picture_of_another_shape_has_a_thumbnail_too(tmp_path: Path) -> None:
    for number in range(102):
        (tmp_path / "class 0").mkdir(exist_ok=True)
        size = (40, 30) if number < 101 else (30, 50)
        Image.new("RGB", size, (200, 0, 0)).save(tmp_path / "class 0" / f"{number:03d}.png")
    transform = transforms.Compose([transforms.Resize((17, 17)), transforms.ToTensor()])
    photos = unitlab.images(tmp_path, transform=transform, categories=[f"class {k}" for k in range(CLASSES)])
    ds = ablate(network(), photos, "conv1", units=[0])
    assert ds.thumbnails.shape == (102, 64, 64, 3) and (ds.thumbnails[:, 32, 32] == [200, 0, 0]).all()
    red = (ds.thumbnails.values != 255).any(3).sum((1, 2))
    assert red[:101].tolist() == [40 * 30] * 101 and red[101] == 30 * 50


def test_several_layers_in_one_pass() -> None:
    found = unitlab.ablate(network(), source(), ["conv1", "conv2"], progress=False, device="cpu")
    for layer, ds in found.items():
        np.testing.assert_array_equal(ds.prediction, ablate(network(), source(), layer).prediction)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer": "conv9"}, "Did you mean"),
        ({"layer": "conv1", "units": [99]}, "units 0 to 7"),
        ({"layer": "conv1", "units": [1, 1]}, "twice"),
        ({"layer": "conv1", "units": []}, "names no unit"),
        ({"layer": "conv1", "units": "all"}, "units='all' is not a list"),
        ({"layer": "conv1", "units": [1.5]}, "is not a list of unit numbers"),
        ({"layer": "conv1", "units": slice(3)}, "is not a list of unit numbers"),
        ({"layer": None}, "layer=None names no layer"),
        ({"layer": []}, r"layer=\[\] names no layer"),
        ({"layer": ["conv1", "conv1"]}, "more than once"),
        ({"layer": "conv1", "seed": -1}, "seed is -1"),
        ({"layer": "conv1", "labels": "guessed"}, "labels='guessed'"),
        ({"layer": "conv1", "store": 3}, "store=3"),
        ({"layer": "conv1", "ablation": "zeros"}, "ablation='zeros'"),
        ({"layer": "conv1", "precision": "half"}, "precision='half'"),
        ({"layer": "conv1", "memory": "two"}, "amount of memory"),
        ({"layer": "conv1", "device": "abacus"}, "not a torch device"),
        ({"layer": "conv1", "batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_options(options: dict[str, object], match: str) -> None:
    with pytest.raises(UnitlabError, match=match):
        unitlab.ablate(network(), source(), progress=False, **{"device": "cpu", **options})


def test_a_module_that_is_called_several_times_needs_the_call() -> None:
    with pytest.raises(UnitlabError, match=r"called 3 times.*relu#1 \(feeds conv2\).*relu#3"):
        ablate(network(SharedReLU), source(), "relu")


def test_a_layer_whose_result_is_not_used_is_refused() -> None:
    with pytest.raises(UnitlabError, match="do not depend on what 'relu1' returns"):
        ablate(network(InPlaceReLU), source(), "relu1")


class Silent(nn.Module):
    """Refuses without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 1)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise AssertionError


def test_other_refusals() -> None:
    with pytest.raises(UnitlabError, match="the images have 5"):
        ablate(network(), source(4, categories=5), "conv1")
    broken = network()
    with torch.no_grad():
        broken.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UnitlabError, match=r"'conv1\.weight'.*NaN"):
        ablate(broken, source(), "conv1")
    with pytest.raises(UnitlabError, match="another image"):
        ablate(network(), source(1), "conv1", ablation="resample")
    with pytest.raises(UnitlabError, match="does not take images of shape"):
        ablate(nn.Sequential(nn.Linear(5, 3)), source(), "0")
    with pytest.raises(UnitlabError, match=r"does not take images of shape .*: AssertionError$"):
        ablate(Silent(), source(), "inner")
    with pytest.raises(UnitlabError, match="model is a str"):
        ablate("resnet18", source(), "conv1")  # type: ignore[arg-type]


def test_verify_needs_a_network_and_a_sample() -> None:
    ds = ablate(network(), source(), "conv1")
    with pytest.raises(UnitlabError, match=r"verify\(ds, model, images\)"):
        unitlab.verify(ds)
    with pytest.raises(UnitlabError, match="sample=0"):
        unitlab.verify(ds, network(), source(), sample=0)


def test_verify_says_first_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    ds = ablate(network(), source(), "conv1")
    capsys.readouterr()
    unitlab.verify(ds, network(), source(), sample=7, progress=False)
    assert not capsys.readouterr().err
    unitlab.verify(ds, network(), source(), sample=7)
    assert re.search(r"comparing 7 \(unit, image\) pairs: a plain evaluation each, about \d+ s", capsys.readouterr().err)


def test_verify_finds_a_wrong_prediction() -> None:
    ds = ablate(network(), source(), "conv1").load()
    assert unitlab.verify(ds, network(), source(), sample=10**6).different == 0
    ds.prediction.values[3, 17] = (ds.prediction.values[3, 17] + 1) % CLASSES
    found = unitlab.verify(ds, network(), source(), sample=10**6)
    assert (found.compared, found.different) == (ds.prediction.size, 1) and "unit 3, image '17'" in found.first_difference


def test_an_exception_inside_the_network_is_named() -> None:
    class Fails(FunctionalReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if float(x.sum()) != float(x.sum()) or x.shape[0] > 1:
                raise ValueError("the cable is loose")
            return super().forward(x)

    with pytest.raises(UnitlabError, match="the cable is loose"):
        ablate(Fails(), source(), "conv1")


# --- stores ------------------------------------------------------------------------------------------------------


def test_a_store_is_the_same_study_and_is_not_computed_twice(tmp_path: Path) -> None:
    store = tmp_path / "study.zarr"
    ds = ablate(network(), source(), "conv1", store=store)
    memory = ablate(network(), source(), "conv1")
    for name in memory.variables:
        np.testing.assert_array_equal(ds[name].values, memory[name].values)
    assert not list(tmp_path.glob("*.partial"))
    before = (store / "manifest.json").read_bytes()
    ablate(network(), source(), "conv1", store=store)
    assert (store / "manifest.json").read_bytes() == before
    ablate(network(), source(), "conv2", store=store)
    ablate(network(), source(), "conv1", store=store, ablation="mean")
    assert unitlab.load(store, "conv1", "mean").attrs["ablation"] == "mean"
    np.testing.assert_array_equal(unitlab.load(store, "conv1").prediction, memory.prediction)
    assert unitlab.verify(store, network(), source(), sample=100).different == 0


def test_a_store_of_something_else_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "study.zarr"
    ablate(network(), source(), "conv1", store=store)
    with pytest.raises(UnitlabError, match="other weights"):
        ablate(network(InPlaceReLU), source(), "conv1", store=store)
    with pytest.raises(UnitlabError, match="other images"):
        ablate(network(), source(30), "conv1", store=store)
    repainted = source()
    repainted.read = lambda position, read=repainted.read: read(position) * 1.5
    for again in (
        lambda: ablate(network(), repainted, "conv1", store=store),
        lambda: unitlab.verify(store, network(), repainted),
    ):
        with pytest.raises(UnitlabError, match="other pixels"):
            again()
    with pytest.raises(UnitlabError, match="other weights"):
        unitlab.verify(store, network(SharedReLU), source())


def test_an_unfinished_sweep_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitlab.compute.sweep.plan.SHARD_IMAGES", 4)
    write, written = PartialStudy.write, []

    def interrupted(self: PartialStudy, index: int, arrays: dict[str, np.ndarray]) -> None:
        write(self, index, arrays)
        written.append(index)
        if len(written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialStudy, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ablate(network(), source(), "conv1", store=tmp_path / "cut.zarr", batch_size=4, ablation="mean")
    for options, match in (
        ({}, "other ablation"),
        ({"ablation": "mean", "units": [2]}, "other units"),
        ({"ablation": "mean", "precision": "bfloat16"}, "other precision"),
    ):
        with pytest.raises(UnitlabError, match=match):
            ablate(network(), source(), "conv1", store=tmp_path / "cut.zarr", batch_size=4, **options)
    with pytest.raises(UnitlabError, match="other weights"):
        ablate(network(InPlaceReLU), source(), "conv1", store=tmp_path / "cut.zarr", batch_size=4, ablation="mean")
    with pytest.raises(UnitlabError, match="an unfinished one is"):
        unitlab.load(tmp_path / "cut.zarr")


def test_shards_that_a_killed_sweep_left_beside_its_finished_study_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, left = tmp_path / "study.zarr", tmp_path / "study.zarr.partial"
    with monkeypatch.context() as killed:
        killed.setattr(PartialStudy, "remove", PartialStudy.close)
        ablate(network(), source(), "conv1", units=[0], store=store)
    assert list(left.glob("shard-*.safetensors"))
    ablate(network(), source(), "conv1", units=[0], store=store)
    assert not left.exists()
    with closing(PartialStudy(store, {"layer": "another"})):
        ablate(network(), source(), "conv1", units=[0], store=store)
    assert left.exists()
