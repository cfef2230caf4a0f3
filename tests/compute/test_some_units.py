"""Some units now, further ones later: together they are the sweep of all of them, in one store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from small_networks import CLASSES, FunctionalReLU
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep import run

COUNT = 60
# of the run that was last, or of the time
OF_THE_RUN = {"created", "verified_compared", "verified_excused", "verified_different", "strategy", "layers"}


@pytest.fixture
def images() -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(COUNT, 3, 17, 17), torch.arange(COUNT) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(5)
    return FunctionalReLU().eval()


def ablate(model: nn.Module, images: ImageSource, layer: str | list[str], **options: object) -> xr.Dataset:
    return unitlab.ablate(model, images, layer, progress=False, device="cpu", **options)


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        if expected[name].dtype.kind == "f":
            # activations are summed the same, logits of fewer units come from other products
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))
    # those of a store, its name among them, are in no dataset in memory
    same = set(expected.attrs) & set(found.attrs) - OF_THE_RUN - {"name", "default_layer"}
    assert {name: found.attrs[name] for name in same} == {name: expected.attrs[name] for name in same}


@pytest.mark.parametrize("options", [{}, {"ablation": "mean"}, {"ablation": "resample", "seed": 4}, {"basis": "random"}])
def test_further_units_are_added(model: nn.Module, images: ImageSource, tmp_path: Path, options: dict[str, object]) -> None:
    store = tmp_path / "study.zarr"
    first = ablate(model, images, "conv2", units=[3, 5], store=store, **options)
    added = ablate(model, images, "conv2", units=[4, 0], store=store, **options)
    assert first.unit.values.tolist() == [3, 5] and added.unit.values.tolist() == [0, 4]
    together = ablate(model, images, "conv2", units=[0, 3, 4, 5], **options)
    stored = unitlab.load(store, ablation=str(together.attrs["ablation"]))
    assert_same(stored, together)
    assert_same(added, together.isel(unit=[0, 2]))
    assert stored.attrs["verified_compared"] == first.attrs["verified_compared"] * 2 and not stored.attrs["verified_different"]
    assert unitlab.verify(stored, model, images, sample=150, device="cpu").different == 0


def test_only_what_is_not_there_is_computed(
    model: nn.Module, images: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[dict[str, list[int]]] = []
    before = run.compute_shards

    def counted(plan: run.SweepPlan, *given: object) -> None:
        computed.append({layer.name: layer.units for layer in plan.layers})
        before(plan, *given)

    monkeypatch.setattr(run, "compute_shards", counted)
    store = tmp_path / "study.zarr"
    ablate(model, images, "conv2", units=[1, 2], store=store)
    ablate(model, images, "conv2", units=[2], store=store)
    assert computed == [{"conv2": [1, 2]}]
    found = ablate(model, images, ["conv1", "conv2"], store=store)
    rest = [unit for unit in range(found["conv2"].sizes["unit"]) if unit not in (1, 2)]
    assert computed[1:] == [{"conv1": list(range(found["conv1"].sizes["unit"]))}, {"conv2": rest}]
    assert_same(found["conv2"], ablate(model, images, "conv2"))
    ablate(model, images, ["conv1", "conv2"], store=store)
    assert len(computed) == 4


def test_ablations_of_one_layer_may_be_of_different_units(model: nn.Module, images: ImageSource, tmp_path: Path) -> None:
    store = tmp_path / "study.zarr"
    ablate(model, images, "conv2", units=[3, 5], store=store)
    ablate(model, images, "conv2", units=[0, 5, 6], ablation="mean", store=store)
    assert_same(unitlab.load(store), ablate(model, images, "conv2", units=[3, 5]))
    mean = unitlab.load(store, ablation="mean")
    assert_same(mean, ablate(model, images, "conv2", units=[0, 5, 6], ablation="mean"))
    # an index of one number, of several, of a part
    np.testing.assert_array_equal(mean.mean_activation[1], mean.mean_activation.values[1])
    np.testing.assert_array_equal(mean.activation_max[[2, 0], 3:9], mean.activation_max.values[[2, 0], 3:9])
    with xr.open_zarr(store, group="conv2/mean", chunks=None) as plain:
        np.testing.assert_array_equal(plain.unit, [0, 5, 6])
        np.testing.assert_array_equal(plain.accuracy_drop, mean.accuracy_drop)
    assert not unitlab.attributes(mean).l1_norm.isnull().any()


def test_units_computed_otherwise_are_refused_in_words(model: nn.Module, images: ImageSource, tmp_path: Path) -> None:
    store = tmp_path / "study.zarr"
    ablate(model, images, "conv2", units=[3, 5], store=store)
    with pytest.raises(UnitlabError, match=r"conv2/zero of 2 of \d+ units \(3, 5\) with other precision \(float32, now"):
        ablate(model, images, "conv2", units=[4], precision="bfloat16", store=store)
    torch.manual_seed(6)
    with pytest.raises(UnitlabError, match=r"a network with other weights than given now\. It holds 60 images") as refused:
        ablate(FunctionalReLU().eval(), images, "conv2", units=[4], store=store)
    assert "fingerprint" not in str(refused.value)


def test_an_interrupted_sweep_of_other_units_is_named(
    model: nn.Module, images: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "study.zarr"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run, "write_study", stop)
        ablate(model, images, "conv2", units=[0, 1, 2, 5], store=store)
    with pytest.raises(UnitlabError, match=r"an unfinished sweep with other units \(0-2, 5, now 4\)"):
        ablate(model, images, "conv2", units=[4], store=store)
