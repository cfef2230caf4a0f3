"""Curves: every prediction equals plain float64 hooks with those units silenced; rankings come from where they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from oracle import assert_exact
from small_networks import CLASSES, SITES, FunctionalReLU, SharedReLU
from test_exactness import settled, source_of
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.source import ImageSource


@pytest.fixture(autouse=True)
def few_verified_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitlab.compute.sweep.proof.MOST_VERIFIED", 4)


def curve(model: nn.Module, source: ImageSource, layer: str, order: Any, **options: Any) -> xr.Dataset:
    return unitlab.cumulative(model, source, layer, order, progress=False, device="cpu", **options)


def pixels_of(source: ImageSource) -> torch.Tensor:
    return torch.cat([batch for batch, _ in source.batches(0, len(source), len(source))])


def silenced(ds: xr.Dataset, half: int, order: int) -> list[list[int]]:
    """The units that are silenced at each k."""
    units = ds.ranked_unit.values[half, order].tolist()
    every = set(range(ds.attrs["channels"]))
    return [sorted(every - set(units[:k])) if ds.attrs["keep"] else sorted(units[:k]) for k in ds.k.values]


def assert_curve_exact(model: nn.Module, source: ImageSource, ds: xr.Dataset, half: int, some: np.ndarray) -> None:
    module, _, call = ds.attrs["site"].partition("#")
    pixels = pixels_of(source)[some]
    for order in range(ds.sizes["order"]):
        prediction = ds.curve_prediction.values[order][:, some]
        assert_exact(model, pixels, module, int(call or 1) - 1, silenced(ds, half, order), prediction, dim=ds.attrs["unit_dim"])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in SITES.items() for layer in layers])
def test_curves_over_given_orders(kind: type[nn.Module], layer: str, keep: bool) -> None:
    torch.manual_seed(1)
    model, source = settled(kind(), 17), source_of(torch.randn(24, 3, 17, 17), CLASSES)
    ds = curve(model, source, layer, "random", keep=keep, n_random=2)
    assert ds.sizes["order"] == 2 and ds.sizes["k"] == ds.attrs["channels"] + 1
    assert_curve_exact(model, source, ds, 0, np.arange(24))
    whole, none = (-1, 0) if keep else (0, -1)
    np.testing.assert_array_equal(ds.curve_prediction[0, whole], ds.baseline_prediction)
    np.testing.assert_array_equal(ds.curve_prediction[0, none], ds.curve_prediction[1, none])


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, ImageSource]:
    from unitlab.compute.networks.bundled import bundled_network

    bundled = unitlab.images("fashion_mnist")
    return bundled_network("vgg_fashion"), bundled.subset(range(0, len(bundled), len(bundled) // 120))


def test_crossfit_ranks_one_half_and_measures_the_other(trained: tuple[nn.Module, ImageSource]) -> None:
    model, source = trained
    ds = curve(model, source, "conv3_2", "overall_drop", ks=[0, 1, 3, 8, 16])
    from unitlab.compute.cumulative import _halves

    first, second = _halves(source, 0)
    assert ds.sizes["half"] == 2 and sorted([*first, *second]) == list(range(len(source)))
    for half, (ranked, measured) in enumerate([(first, second), (second, first)]):
        study = unitlab.ablate(model, source.subset(ranked), "conv3_2", progress=False, device="cpu")
        expected = study.unit.values[np.argsort(-study.overall_drop.values, kind="stable")]
        np.testing.assert_array_equal(ds.ranked_unit.values[half, 0], expected)
        assert_curve_exact(model, source, ds, half, measured)
    right = ds.curve_prediction.values[0] == ds.label.values
    np.testing.assert_allclose(ds.accuracy[0], right.mean(1))
    assert (ds.accuracy_low <= ds.accuracy).all() and (ds.accuracy <= ds.accuracy_high).all()
    assert ds.attrs["rank_on"] == "crossfit" and not ds.attrs["biased"]


def test_each_half_is_measured_with_its_own_means(trained: tuple[nn.Module, ImageSource]) -> None:
    model, source = trained
    ds = curve(model, source, "conv3_2", "overall_drop", ks=[0, 4], ablation="mean")
    from unitlab.compute.cumulative import _halves

    for half, measured in enumerate(_halves(source, 0)[::-1]):
        first = [ds.ranked_unit.values[half, 0, :4].tolist()]
        groups = unitlab.ablate_groups(
            model, source.subset(measured), "conv3_2", first, ablation="mean", progress=False, device="cpu"
        )
        np.testing.assert_array_equal(ds.curve_prediction.values[0, 1, measured], groups.prediction.values[0])


def test_rank_on_the_same_images_or_on_another_study(trained: tuple[nn.Module, ImageSource]) -> None:
    model, source = trained
    study = unitlab.ablate(model, source, "conv3_2", progress=False, device="cpu")
    same = curve(model, source, "conv3_2", "l1_norm", rank_on="same", ascending=True, ks=[0, 2])
    other = curve(model, source, "conv3_2", "l1_norm", rank_on=study, ks=[0, 2])
    assert same.attrs["biased"] and not other.attrs["biased"]
    np.testing.assert_array_equal(same.ranked_unit.values[0, 0], np.argsort(study.l1_norm.values, kind="stable"))
    np.testing.assert_array_equal(other.ranked_unit.values[0, 0], np.argsort(-study.l1_norm.values, kind="stable"))
    with pytest.raises(UnitlabError, match="another layer"):
        curve(model, source, "conv3_1", "l1_norm", rank_on=study)
    with pytest.raises(UnitlabError, match="another network"):
        curve(FunctionalReLU().eval(), source_of(torch.randn(8, 3, 17, 17), CLASSES), "conv2", "l1_norm", rank_on=study)


def test_every_class_has_its_own_order(trained: tuple[nn.Module, ImageSource]) -> None:
    model, source = trained
    study = unitlab.ablate(model, source, "conv3_2", progress=False, device="cpu")
    damage = unitlab.damage(study)
    ds = curve(model, source, "conv3_2", "balanced_accuracy_drop", rank_on=study, ks=[0, 4])
    names = [name for name in ds.order.values if not np.isnan(damage.balanced_accuracy_drop.sel(category=name)).all()]
    assert names == list(ds.order.values)
    for place, name in enumerate(names):
        k = list(ds.category.values).index(name)
        expected = np.argsort(-damage.balanced_accuracy_drop.values[:, k], kind="stable")
        np.testing.assert_array_equal(ds.ranked_unit.values[0, place], expected)
        predicted, own = ds.curve_prediction.values[place, 1] == k, ds.label.values == k
        balanced = (predicted[own].mean() + 1 - predicted[~own].mean()) / 2
        assert float(ds.own_balanced_accuracy[place, 1]) == pytest.approx(balanced)
        assert float(ds.own_accuracy[place, 1]) == pytest.approx(predicted[own].mean())
    assert_curve_exact(model, source, ds.isel(order=slice(3)), 0, np.arange(0, len(source), 4))
    one = curve(model, source, "conv3_2", "balanced_accuracy_drop", rank_on=study, category=names[2], ks=[0, 4])
    assert one.order.values.tolist() == [names[2]] and "own_accuracy" not in one
    np.testing.assert_array_equal(one.curve_prediction[0], ds.curve_prediction[2])


def test_a_part_of_the_units_in_a_given_order() -> None:
    torch.manual_seed(0)
    model, source = settled(SharedReLU(), 17), source_of(torch.randn(24, 3, 17, 17), CLASSES)
    removed = curve(model, source, "relu#2", np.array([7, 1, 4]))
    kept = curve(model, source, "relu#2", [7, 1, 4], keep=True)
    groups = [[], [7], [1, 7], [1, 4, 7], list(range(10)), sorted({*range(10)} - {1, 4, 7})]
    ds = unitlab.ablate_groups(model, source, "relu#2", groups, progress=False, device="cpu")
    np.testing.assert_array_equal(removed.curve_prediction[0], ds.prediction[:4])
    np.testing.assert_array_equal(kept.curve_prediction[0, [0, 3]], ds.prediction[4:])
    assert removed.attrs["rank_on"] == "none"


def test_classes_with_few_images_or_none() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 12 + [1] * 9 + [3])
    names = [f"class {k}" for k in range(CLASSES)]
    source = unitlab.images(TensorDataset(torch.randn(22, 3, 17, 17), labels), categories=names)
    model = settled(FunctionalReLU(), 17)
    ds = curve(model, source, "conv2", "accuracy_drop")
    assert ds.order.values.tolist() == ["class 0", "class 1"]
    assert ds.class_accuracy.sel(category="class 2").isnull().all() and ds.mean_balanced_accuracy.notnull().all()
    with pytest.raises(UnitlabError, match=r"cannot be halved|no class has images in both halves"):
        curve(model, source.subset([0, 21]), "conv2", "accuracy_drop")
    one_class = curve(model, source.subset(range(12)), "conv2", "overall_drop")
    assert one_class.balanced_accuracy.isnull().all() and one_class.accuracy.notnull().all()


def test_clusters_stay_whole_and_widen_the_interval() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(20, 3, 17, 17).repeat_interleave(3, 0)
    labels = (torch.arange(20) % CLASSES).repeat_interleave(3)
    plain = unitlab.images(TensorDataset(pixels, labels), categories=[f"class {k}" for k in range(CLASSES)])
    model = settled(FunctionalReLU(), 17)
    alone = curve(model, plain, "conv2", [0])
    plain.clusters = np.repeat(np.arange(20), 3)
    clustered = curve(model, plain, "conv2", [0])
    assert (clustered.accuracy_high - clustered.accuracy_low > 1.3 * (alone.accuracy_high - alone.accuracy_low)).all()
    from unitlab.compute.cumulative import _halves

    first, second = _halves(plain, 3)
    assert not set(plain.clusters[first]) & set(plain.clusters[second])


def test_dead_units_change_nothing() -> None:
    torch.manual_seed(0)
    model = settled(FunctionalReLU(), 17)
    with torch.no_grad():
        model.conv2.weight[[2, 5]], model.conv2.bias[[2, 5]] = 0, 0
    ds = curve(model, source_of(torch.randn(24, 3, 17, 17), CLASSES), "conv2", [2, 5, 0, 1])
    np.testing.assert_array_equal(ds.curve_prediction[0, 2], ds.baseline_prediction)
    np.testing.assert_array_equal(ds.curve_prediction[0, 1], ds.baseline_prediction)


def test_ks_are_thinned_out_where_sets_are_many() -> None:
    from unitlab.compute.cumulative import _ks

    assert _ks(None, 5, 1) == [0, 1, 2, 3, 4, 5]
    thinned = _ks(None, 512, 10)
    assert thinned[:5] == [0, 1, 2, 3, 4] and thinned[-1] == 512 and len(thinned) < 45 and {16, 64, 256} <= set(thinned)
    assert _ks([4, 0, 4], 9, 1) == [0, 4]


@pytest.mark.parametrize(
    ("order", "options", "message"),
    [
        ([0, 1, 0], {}, "more than once"),
        ([0, 12], {}, "units 0 to 11"),
        ([], {}, "is empty"),
        ([0.5, 1], {}, "units 0 to 11"),
        ("class_selectivty", {}, "Did you mean 'class_selectivity'"),
        ("max_class", {}, "cannot be ordered"),
        ("accuracy_drop", {"category": "clas 1"}, "Did you mean 'class 1'"),
        ("overall_drop", {"category": "class 1"}, "leave out category"),
        ([0, 1], {"category": "class 1"}, "over classes"),
        ("overall_drop", {"rank_on": "train"}, "'crossfit', 'same' or a study"),
        ("random", {"n_random": 0}, "at least 1"),
        ([0, 1], {"ks": [0, 3]}, "from 0 to 2"),
        ([0, 1], {"ks": [0.5]}, "from 0 to 2"),
        ([0, 1], {"ks": []}, "from 0 to 2"),
    ],
)
def test_bad_input_is_refused(order: Any, options: dict[str, Any], message: str) -> None:
    source = source_of(torch.randn(14, 3, 17, 17), CLASSES)
    with pytest.raises(UnitlabError, match=message):
        curve(FunctionalReLU().eval(), source, "conv2", order, **options)


@pytest.mark.parametrize(
    ("order", "ablation", "rank_on", "passes"),
    [
        ("overall_drop", "zero", "crossfit", 2),
        ("overall_drop", "mean", "same", 4),
        ("overall_drop", "mean", "crossfit", 4),
        ("random", "mean", "crossfit", 2),
    ],
)
def test_one_bar_for_all_that_a_curve_takes(
    order: str, ablation: str, rank_on: str, passes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(24, 3, 17, 17), CLASSES)
    options = {"ablation": ablation, "rank_on": rank_on, "n_random": 2, "ks": [0, 2]}
    unitlab.cumulative(model, source, SITES[FunctionalReLU][0], order, device="cpu", **options)
    shown = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    assert {line.partition(":")[0] for line in shown} == {f"cumulative {ablation} ablation of {SITES[FunctionalReLU][0]}"}
    assert f"{24 * passes}/{24 * passes}" in shown[-1]


def test_a_store_keeps_curves_and_knows_their_order(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(24, 3, 17, 17), CLASSES)
    store = tmp_path / "curves.zarr"
    ds = curve(model, source, "conv2", [3, 0, 7], store=store)
    expected = curve(model, source, "conv2", [3, 0, 7])
    assert ds.equals(expected) and unitlab.load(store).equals(expected) and not list(tmp_path.glob("*.partial"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unitlab.compute.cumulative.scored_sets", None)  # nothing is computed again
        assert curve(model, source, "conv2", np.array([3, 0, 7]), store=store).equals(expected)
    for other in ({"order": [3, 7, 0]}, {"keep": True}, {"ks": [0, 2]}):
        with pytest.raises(UnitlabError, match="holds a result of other curves"):
            curve(model, source, "conv2", **{"order": [3, 0, 7], "store": store, **other})
    crossfit = curve(model, source, "conv2", "overall_drop", ks=[0, 4], store=tmp_path / "crossfit.zarr")
    assert crossfit.equals(curve(model, source, "conv2", "overall_drop", ks=[0, 4]))
    study = unitlab.ablate(model, source, "conv2", progress=False, device="cpu")
    ranked = {"rank_on": study, "ks": [0, 4], "store": tmp_path / "ranked.zarr"}
    written = curve(model, source, "conv2", "overall_drop", **ranked)
    assert curve(model, source, "conv2", "overall_drop", **ranked).equals(written)
    with pytest.raises(UnitlabError, match="these are curves"):
        unitlab.damage(ds)
    with pytest.raises(UnitlabError, match="these are curves"):
        unitlab.verify(store, model, source)
