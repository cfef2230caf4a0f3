"""Groups of units silenced together: predictions equal plain hooks that replace them, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from oracle import assert_exact
from small_networks import CLASSES, SITES, DominantUnit, FunctionalReLU
from test_exactness import settled, source_of
from torch import nn

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.ablation import donor_of_image
from unitlab.compute.sweep.shards import ShardComputation


@pytest.fixture(autouse=True)
def few_verified_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitlab.compute.sweep.proof.MOST_VERIFIED", 16)


def checked(model: nn.Module, layer: str, pixels: torch.Tensor, classes: int, groups: object, **options: object) -> object:
    """The dataset, after comparing every prediction with the oracle."""
    ds = unitlab.ablate_groups(model, source_of(pixels, classes), layer, groups, device="cpu", progress=False, **options)
    module, _, call = ds.attrs["site"].partition("#")
    donors, chosen = donor_of_image(len(pixels), 0)
    ablation = options.get("ablation", "zero")
    sets = [np.flatnonzero(row).tolist() for row in ds.member.values]
    assert_exact(
        model, pixels, module, int(call or 1) - 1, sets, ds.prediction.values,
        ablation=ablation, donors=donors[chosen] if ablation == "resample" else None,
        dim=ds.attrs["unit_dim"],
    )  # fmt: skip
    assert ds.attrs["verified_different"] == 0
    return ds


def some_groups(channels: int) -> list[list[int]]:
    """None, one, two that overlap, a chain with a jump back, and all units."""
    order = np.random.default_rng(4).permutation(channels).tolist()
    chain = [sorted(order[:k]) for k in range(1, channels + 1)]
    half = order[: max(1, channels // 2)]
    return [[], [order[0]], half, order[channels // 3 :], *chain, [order[-1]], *chain[::3], list(range(channels)), []]


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in SITES.items() for layer in layers])
def test_hand_written_networks(kind: type[nn.Module], layer: str, ablation: str) -> None:
    torch.manual_seed(1)
    model = settled(kind(), 17)
    pixels = torch.randn(24, 3, 17, 17)
    channels = unitlab.ablate_groups(model, source_of(pixels[:2], CLASSES), layer, [[]], progress=False).attrs["channels"]
    ds = checked(model, layer, pixels, CLASSES, some_groups(channels), ablation=ablation)
    assert (ds.n_broken[0] == 0).all() and (ds.label_margin_drop[0] == 0).all()


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [("alexnet", 64, "conv5"), ("vgg16_bn", 32, "conv5_3"), ("resnet18", 64, "layer3"), ("resnet18", 64, "layer4")],
)
def test_torchvision_networks(name: str, size: int, layer: str) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=20)
    if name != "resnet18":
        first, second, last = [i for i, module in enumerate(model.classifier) if isinstance(module, nn.Linear)]
        model.classifier[first] = nn.Linear(model.classifier[first].in_features, 64)
        model.classifier[second], model.classifier[last] = nn.Linear(64, 64), nn.Linear(64, 20)
    order = np.random.default_rng(0).permutation(256).tolist()
    groups = [order[:k] for k in (1, 2, 3, 20, 200, 255, 256)] + [order[100:140]]
    checked(settled(model, size), layer, torch.randn(5, 3, size, size), 20, groups)


def test_nested_groups_that_remove_nearly_everything_keep_their_digits() -> None:
    torch.manual_seed(0)
    model = DominantUnit().eval()
    order = [2, 0, 1, 3, 4, 5, 6, 7]
    ds = checked(model, "relu", torch.randn(20, 3, 17, 17), CLASSES, [order[:k] for k in range(1, 9)])
    margin = torch.as_tensor(ds.baseline_margin.values - ds.label_margin_drop.values[-1].astype(np.float32))
    assert torch.isfinite(margin).all()


def test_groups_of_one_unit_are_the_sweep() -> None:
    torch.manual_seed(2)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(40, 3, 17, 17), CLASSES)
    study = unitlab.ablate(model, source, "conv2", progress=False, device="cpu")
    ds = unitlab.ablate_groups(model, source, "conv2", [[unit] for unit in range(12)], progress=False, device="cpu")
    for name in ("prediction", "label_margin_drop", "n_broken", "n_fixed", "n_predicted", "accuracy_drop", "overall_drop"):
        np.testing.assert_array_equal(ds[name].values, study[name].values)
    damage = unitlab.damage(study)
    np.testing.assert_allclose(ds.balanced_accuracy_drop, damage.balanced_accuracy_drop, atol=1e-12)
    again = unitlab.damage(ds.drop_dims("unit").rename(group="unit"))
    np.testing.assert_array_equal(again.p_value, damage.p_value)


def test_names_and_classes_without_images() -> None:
    torch.manual_seed(2)
    model, pixels = settled(FunctionalReLU(), 17), torch.randn(12, 3, 17, 17)
    labels = torch.tensor([0, 2] * 6)
    names = [f"class {k}" for k in range(CLASSES)]
    source = unitlab.images(torch.utils.data.TensorDataset(pixels, labels), categories=names)
    ds = unitlab.ablate_groups(model, source, "conv2", {"a": (3,), "none": []}, progress=False, device="cpu")
    assert ds.group.values.tolist() == ["a", "none"] and ds.n_units.values.tolist() == [1, 0]
    assert ds.accuracy_drop.sel(group="a", category="class 1").isnull() and not ds.accuracy_drop[:, [0, 2]].isnull().any()
    assert ds.balanced_accuracy_drop[:, 1].isnull().all()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 12]], "units 0 to 11"),
        ([[0, -1]], "units 0 to 11"),
        ([[3, 4, 3]], "more than once"),
        ([[0.5]], "units 0 to 11"),
        ([3, 4], "expected unit numbers"),
        (["ab"], "expected unit numbers"),
        ([], "is empty"),
        ({}, "is empty"),
        ("conv", "list of lists"),
        (7, "list of lists"),
    ],
)
def test_bad_groups_are_refused(groups: object, message: str) -> None:
    source = source_of(torch.randn(4, 3, 17, 17), CLASSES)
    with pytest.raises(UnitlabError, match=message):
        unitlab.ablate_groups(FunctionalReLU().eval(), source, "conv2", groups, progress=False)


def test_several_layers_are_refused() -> None:
    source = source_of(torch.randn(4, 3, 17, 17), CLASSES)
    with pytest.raises(UnitlabError, match="one layer"):
        unitlab.ablate_groups(FunctionalReLU().eval(), source, ["conv1", "conv2"], [[0]], progress=False)


@pytest.mark.parametrize("named", [True, False])
def test_a_store_keeps_groups_with_their_further_scores_and_resumes(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(24, 3, 17, 17), CLASSES)
    sets = [[0, 1], [3], []]
    groups: object = dict(zip(("a", "b", "none"), sets, strict=True)) if named else sets
    monkeypatch.setattr("unitlab.compute.sweep.plan.SHARD_IMAGES", 8)
    options = {"progress": False, "device": "cpu", "batch_size": 8, "top_k": 3, "outcome": ("first", lambda z, y: z[:, 0])}
    store, real, calls = tmp_path / "groups.zarr", ShardComputation.begin, list[int]()

    def counted(self: ShardComputation, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(ShardComputation, "begin", counted)
    with pytest.raises(KeyboardInterrupt):
        unitlab.ablate_groups(model, source, "conv2", groups, store=store, **options)
    with pytest.raises(UnitlabError, match="unfinished sweep with other result groups"):
        unitlab.ablate_groups(model, source, "conv2", [[4]], store=store, **options)
    found = unitlab.ablate_groups(model, source, "conv2", groups, store=store, **options)
    assert len(calls) == 4 and not list(tmp_path.glob("*.partial"))
    kept = {name for name in found.attrs if name.startswith("fingerprint_")}
    expected = unitlab.ablate_groups(model, source, "conv2", groups, **options)
    assert found.drop_attrs(deep=False).identical(expected.drop_attrs(deep=False)) and found.n_broken_topk.dims[0] == "group"
    assert kept > {"fingerprint_groups", "fingerprint_weights", "fingerprint_outcome"}
    assert unitlab.load(store).equals(expected) and unitlab.load(store, "conv2").equals(expected)
    again = unitlab.ablate_groups(model, source, "conv2", groups, store=store, **options)
    assert len(calls) == 7 and again.equals(expected)  # which the comparison without a store asked for
    for other in ({"ablation": "mean"}, {"outcome": None}, {"seed": 1}):
        if other == {"seed": 1}:
            assert unitlab.ablate_groups(model, source, "conv2", groups, store=store, **{**options, **other}).equals(expected)
            continue
        with pytest.raises(UnitlabError, match="holds a result of other"):
            unitlab.ablate_groups(model, source, "conv2", groups, store=store, **{**options, **other})
    with pytest.raises(UnitlabError, match="holds a result of other groups"):
        unitlab.ablate_groups(model, source, "conv2", [[4]], store=store, **options)
    with pytest.raises(UnitlabError, match="of the layer 'conv2', none of 'conv1'"):
        unitlab.load(store, "conv1")
    with pytest.raises(UnitlabError, match="is not a path"):
        unitlab.ablate_groups(model, source, "conv2", groups, store=3)
    assert unitlab.verify(store, model, source, device="cpu", sample=50).different == 0
    outcome = options["outcome"]
    assert unitlab.verify(store, model, source, device="cpu", sample=50, outcome=outcome).outcomes_different == 0
    with open(next(store.glob("prediction/c/*/*")), "r+b") as file:
        file.write(b"\0\0\0")
    with pytest.raises(UnitlabError, match="damaged"):
        unitlab.load(store).prediction.load()


def test_a_study_is_no_store_of_groups_and_groups_are_no_study(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(12, 3, 17, 17), CLASSES)
    options = {"progress": False, "device": "cpu"}
    unitlab.ablate(model, source, "conv2", store=tmp_path / "study.zarr", **options)
    with pytest.raises(UnitlabError, match="holds a result of other kind"):
        unitlab.ablate_groups(model, source, "conv2", [[1]], store=tmp_path / "study.zarr", **options)
    unitlab.ablate_groups(model, source, "conv2", [[1]], store=tmp_path / "groups.zarr", **options)
    with pytest.raises(UnitlabError, match="holds groups"):
        unitlab.ablate(model, source, "conv2", store=tmp_path / "groups.zarr", **options)
    with pytest.raises(UnitlabError, match="groups"):
        unitlab.explore(tmp_path / "groups.zarr")
