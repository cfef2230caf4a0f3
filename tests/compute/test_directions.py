"""Directions projected out: predictions equal plain float64 hooks that project; the identity is the sweep over units."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import xarray as xr
from oracle import assert_exact, site_output
from scipy.linalg import fractional_matrix_power
from small_networks import CLASSES, SITES, FunctionalReLU, SharedReLU, Untraceable
from test_exactness import settled, source_of
from torch import nn

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.ablation import donor_of_image
from unitlab.compute.engine.directions import powered, random_axes
from unitlab.compute.images.source import ImageSource
from unitlab.compute.networks import bundled_network


@pytest.fixture(autouse=True)
def few_verified_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitlab.compute.sweep.proof.MOST_VERIFIED", 16)


def ablate(model: nn.Module, source: ImageSource, layer: str, basis: Any, **options: Any) -> xr.Dataset:
    return unitlab.ablate(model, source, layer, basis=basis, device="cpu", progress=False, **options)


def checked(model: nn.Module, layer: str, pixels: torch.Tensor, classes: int, basis: Any, **options: Any) -> xr.Dataset:
    """The study, after comparing every prediction with the oracle."""
    ds = ablate(model, source_of(pixels, classes), layer, basis, **options)
    module, _, call = ds.attrs["site"].partition("#")
    donors, chosen = donor_of_image(len(pixels), 0)
    ablation = options.get("ablation", "zero")
    assert_exact(
        model, pixels, module, int(call or 1) - 1, list(range(ds.sizes["unit"])), ds.prediction.values,
        ablation=ablation, donors=donors[chosen] if ablation == "resample" else None, basis=torch.as_tensor(ds.basis.values),
        dim=ds.attrs["unit_dim"],
    )  # fmt: skip
    assert ds.attrs["verified_different"] == 0
    return ds


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in SITES.items() for layer in layers])
def test_hand_written_networks(kind: type[nn.Module], layer: str, ablation: str) -> None:
    torch.manual_seed(1)
    ds = checked(settled(kind(), 17), layer, torch.randn(24, 3, 17, 17), CLASSES, "random", ablation=ablation)
    assert ds.attrs["ablation"] == ("random-0" if ablation == "zero" else f"random-0-{ablation}")
    np.testing.assert_allclose(ds.basis.values @ ds.basis.values.T, np.eye(ds.sizes["unit"]), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "size", "layer", "precision"),
    [
        ("vgg16_bn", 32, "conv5_3", "float32"), ("vgg16_bn", 32, "conv4_3", "bfloat16"), ("resnet18", 64, "layer4", "float32"),
        ("resnet18", 64, "layer3", "float32"), ("squeezenet1_1", 64, "features.12", "float32"),
        ("densenet121", 64, "features.denseblock4.denselayer16.conv1", "float32"),
    ],
)  # fmt: skip
def test_torchvision_networks(name: str, size: int, layer: str, precision: str) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=20)
    if name == "vgg16_bn":
        first, second, last = [i for i, module in enumerate(model.classifier) if isinstance(module, nn.Linear)]
        model.classifier[first] = nn.Linear(model.classifier[first].in_features, 64)
        model.classifier[second], model.classifier[last] = nn.Linear(64, 64), nn.Linear(64, 20)
    ds = checked(
        settled(model, size), layer, torch.randn(5, 3, size, size), 20, "random", units=[0, 3, 9, 100], precision=precision
    )
    assert ("closed form" in ds.attrs["strategy"]) == (layer == "layer4")


@pytest.mark.parametrize(("kind", "layer"), [(FunctionalReLU, "conv2"), (SharedReLU, "fc1"), (Untraceable, "relu")])
def test_the_identity_is_the_sweep_over_units(kind: type[nn.Module], layer: str) -> None:
    torch.manual_seed(2)
    model, source = settled(kind(), 17), source_of(torch.randn(40, 3, 17, 17), CLASSES)
    plain = unitlab.ablate(model, source, layer, progress=False, device="cpu")
    ds = ablate(model, source, layer, np.eye(plain.sizes["unit"]))
    for name in ("prediction", "n_broken", "n_fixed", "n_predicted", "accuracy_drop", "overall_drop", "top_image"):
        np.testing.assert_array_equal(ds[name].values, plain[name].values)
    for name in ("label_margin_drop", "removed_energy", "activation_mean", "class_activation", "class_correlation"):
        np.testing.assert_allclose(ds[name].values, plain[name].values, rtol=2e-3, atol=1e-5)
    assert ds.l1_norm.isnull().all() and ds.attrs["ablation"].startswith("basis-")


def test_principal_axes_and_removed_energy_agree_with_numpy() -> None:
    torch.manual_seed(2)
    model, pixels = settled(FunctionalReLU(), 17), torch.randn(40, 3, 17, 17)
    ds = ablate(model, source_of(pixels, CLASSES), "conv2", "pca")
    value = np.moveaxis(site_output(model, pixels, "conv2", 0).double().numpy(), 1, -1).reshape(-1, 12)
    variance, axes = np.linalg.eigh(np.cov(value.T))
    np.testing.assert_allclose(np.abs((ds.basis.values * axes.T[::-1]).sum(1)), 1, atol=1e-4)
    coordinates = value @ ds.basis.values.T
    np.testing.assert_allclose(coordinates.var(0, ddof=1), variance[::-1], rtol=1e-3)
    np.testing.assert_allclose(ds.removed_energy, (coordinates**2).sum(0) / (value**2).sum(), rtol=1e-5)
    assert float(ds.removed_energy.sum()) == pytest.approx(1)
    mean = site_output(model, pixels, "conv2", 0).double().numpy().mean((2, 3)) @ ds.basis.values.T
    np.testing.assert_allclose(ds.activation_mean.values, mean.T, rtol=2**-8 + 2**-11, atol=1e-4)


def test_a_part_of_the_directions_and_seeds() -> None:
    torch.manual_seed(2)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(20, 3, 17, 17), CLASSES)
    whole, part = (
        ablate(model, source, "conv2", "random", seed=3),
        ablate(model, source, "conv2", "random", seed=3, units=[1, 7]),
    )
    np.testing.assert_array_equal(part.basis, whole.basis[[1, 7]])
    np.testing.assert_array_equal(part.prediction, whole.prediction[[1, 7]])
    np.testing.assert_array_equal(part.removed_energy, whole.removed_energy[[1, 7]])
    assert whole.attrs["ablation"] == "random-3"
    assert unitlab.verify(part, model, source, sample=40).different == 0
    assert not np.allclose(whole.basis, ablate(model, source, "conv2", "random", seed=4).basis)


def test_stores_hold_units_and_directions_side_by_side(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(20, 3, 17, 17), CLASSES)
    store = tmp_path / "study.zarr"
    plain = unitlab.ablate(model, source, "conv2", store=store, progress=False, device="cpu").load()
    for basis in ("random", "pca"):
        held = ablate(model, source, "conv2", basis)
        written = ablate(model, source, "conv2", basis, store=store).load()
        opened = unitlab.load(store, ablation=held.attrs["ablation"])
        for ds in (written, opened):
            assert set(ds.data_vars) == set(held.data_vars)
            for name in held.data_vars:
                np.testing.assert_array_equal(ds[name].values, held[name].values, err_msg=str(name))
        assert unitlab.verify(opened, model, source, sample=40).different == 0
        assert np.isnan(unitlab.attributes(opened).class_selectivity).all()
    again = unitlab.load(store)
    for name in plain.data_vars:
        np.testing.assert_array_equal(again[name].values, plain[name].values)
    with pytest.raises(UnitlabError, match="random-0"):
        unitlab.load(store, ablation="random-1")


def test_an_unfinished_sweep_over_another_basis_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    model, source = settled(FunctionalReLU(), 17), source_of(torch.randn(20, 3, 17, 17), CLASSES)
    store = tmp_path / "study.zarr"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("unitlab.compute.sweep.run.write_study", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        ablate(model, source, "conv2", np.eye(12), store=store)
    with pytest.raises(UnitlabError, match="other basis"):
        ablate(model, source, "conv2", np.eye(12)[::-1], store=store)
    assert ablate(model, source, "conv2", np.eye(12), store=store).sizes["unit"] == 12


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (np.ones((12, 12)), "not orthogonal"),
        (np.eye(12) * 1.01, "not orthogonal"),
        (np.eye(11), r"shape \(11, 11\)"),
        (np.eye(12)[:4], r"shape \(4, 12\)"),
        (np.full((12, 12), np.nan), "NaN"),
        ("PCA", "Did you mean|Valid"),
        ("randon", "Did you mean 'random'"),
        ({"a": 1}, "basis is a dict"),
    ],
)
def test_a_bad_basis_is_refused(basis: Any, message: str) -> None:
    with pytest.raises(UnitlabError, match=message):
        ablate(FunctionalReLU().eval(), source_of(torch.randn(4, 3, 17, 17), CLASSES), "conv2", basis)


def any_directions(k: int, channels: int, seed: int = 0) -> np.ndarray:
    """Directions that are neither at right angles nor of length one."""
    return np.random.default_rng(seed).standard_normal((k, channels)) * np.linspace(0.2, 5, k)[:, None]


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in SITES.items() for layer in layers])
def test_any_directions_are_ablated_alone(kind: type[nn.Module], layer: str, ablation: str) -> None:
    torch.manual_seed(1)
    model, pixels = settled(kind(), 17), torch.randn(24, 3, 17, 17)
    channels = unitlab.estimate(model, source_of(pixels, CLASSES), layer, device="cpu").layers[0].units
    for k in (3, channels + 4):
        given = any_directions(k, channels)
        ds = checked(model, layer, pixels, CLASSES, None, ablation=ablation, directions=given)
        assert ds.sizes["unit"] == k and ds.attrs["ablation"].startswith("directions-")
        np.testing.assert_allclose(ds.basis, given / np.linalg.norm(given, axis=1, keepdims=True))
        assert "lengths were" in ds.attrs["directions"] and "are one" in ds.attrs["directions"]
        assert unitlab.verify(ds, model, source_of(pixels, CLASSES), sample=30).different == 0


def test_directions_agree_with_numpy_and_with_a_basis(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, pixels = settled(FunctionalReLU(), 17), torch.randn(40, 3, 17, 17)
    source, given = source_of(pixels, CLASSES), any_directions(20, 12)
    ds = ablate(model, source, "conv2", None, directions=given)
    value = np.moveaxis(site_output(model, pixels, "conv2", 0).double().numpy(), 1, -1)
    along = value @ (given / np.linalg.norm(given, axis=1, keepdims=True)).T
    np.testing.assert_allclose(ds.removed_energy, (along**2).sum((0, 1, 2)) / (value**2).sum(), rtol=1e-5)
    assert float(ds.removed_energy.sum()) > 1.2
    # the images that a direction is most active on
    largest = along.max((1, 2)).T
    np.testing.assert_array_equal(ds.top_image[:, 0], largest.argmax(1))
    np.testing.assert_allclose(ds.activation_max, largest, rtol=2**-8, atol=1e-3)
    with pytest.raises(UnitlabError, match="no basis"):
        unitlab.compare_directions(unitlab.ablate(model, source, "conv2", progress=False, device="cpu"), ds)
    # of a basis, one by one, any order and sign: the same
    turned = ablate(model, source, "conv2", "random")
    some = ablate(model, source, "conv2", None, directions=-3 * turned.basis.values[[7, 2]])
    np.testing.assert_array_equal(some.prediction, turned.prediction[[7, 2]])
    np.testing.assert_allclose(some.label_margin_drop, turned.label_margin_drop[[7, 2]], rtol=2e-3, atol=2e-3)
    # beside the units, in their store, more directions than channels
    store = tmp_path / "study.zarr"
    plain = unitlab.ablate(model, source, "conv2", store=store, progress=False, device="cpu").load()
    part = ablate(model, source, "conv2", None, directions=given, units=[1, 19], store=store).load()
    whole = ablate(model, source, "conv2", None, directions=given, store=store).load()
    for name in ("prediction", "removed_energy", "activation_max", "basis", "class_activation"):
        np.testing.assert_array_equal(part[name].values, ds[name].values[[1, 19]])
        np.testing.assert_array_equal(whole[name].values, ds[name].values)
    again = unitlab.load(store, ablation="zero")
    assert again.sizes["unit"] == 12
    for name in plain.data_vars:
        np.testing.assert_allclose(again[name].values, plain[name].values, rtol=1e-5)


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_codes_of_ones_own_are_subtracted(layer: str) -> None:
    torch.manual_seed(3)
    model, pixels = settled(FunctionalReLU(), 17), torch.randn(24, 3, 17, 17)
    channels = unitlab.estimate(model, source_of(pixels, CLASSES), layer, device="cpu").layers[0].units
    given, encoder = any_directions(channels + 5, channels, 4), nn.Conv2d(channels, channels + 5, 1)

    def codes(value: torch.Tensor) -> torch.Tensor:
        return encoder(value).relu()

    ds = ablate(model, source_of(pixels, CLASSES), layer, None, directions=given, subtract=codes)
    np.testing.assert_array_equal(ds.basis, given)
    assert ds.attrs["verified_different"] == 0 and "times the codes of" in ds.attrs["directions"]
    module = ds.attrs["site"].partition("#")[0]
    exact, removed, whole = copy.deepcopy(model).double(), np.zeros(len(given)), 0.0
    for number in range(len(given)):

        def replace(_module: nn.Module, _inputs: object, out: torch.Tensor, number: int = number) -> torch.Tensor:
            taken = codes(out.float()).double()[:, [number]] * torch.as_tensor(given[number])[:, None, None]
            removed[number] = float(taken.square().sum())
            nonlocal whole
            whole = float(out.square().sum())
            return out - taken

        handle = exact.get_submodule(module).register_forward_hook(replace)
        with torch.no_grad():
            logits = exact(pixels.double())
        handle.remove()
        two = logits.topk(2, 1).values
        sure = ((two[:, 0] - two[:, 1]) > 1e-4).numpy()
        np.testing.assert_array_equal(ds.prediction.values[number][sure], logits.argmax(1).numpy()[sure])
    np.testing.assert_allclose(ds.removed_energy, removed / whole, rtol=1e-4)
    with pytest.raises(UnitlabError, match=r"subtract=.*does not keep"):
        unitlab.verify(ds, model, source_of(pixels, CLASSES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": np.eye(11)}, r"shape \(11, 11\)"),
        ({"directions": np.zeros((0, 12))}, "one in each row"),
        ({"directions": np.ones(12)}, "one in each row"),
        ({"directions": np.eye(12) * np.r_[np.ones(5), 0, np.ones(6)][:, None]}, "direction 5 is zero"),
        ({"directions": np.full((2, 12), np.inf)}, "directions holds NaN"),
        ({"directions": "pca"}, "directions is a str"),
        ({"directions": np.eye(12), "basis": "pca"}, "exclude each other"),
        ({"directions": np.eye(12)[:3], "units": [3]}, "units 0 to 2"),
        ({"directions": np.eye(12), "subtract": 3}, "give both"),
        ({"subtract": torch.relu}, "give both"),
        ({"directions": np.eye(12), "subtract": torch.relu, "ablation": "mean"}, "subtract= takes codes away"),
        ({"directions": np.eye(12)[:3], "subtract": torch.relu}, r"a code for each direction"),
        ({"directions": np.eye(12), "subtract": torch.log}, "NaN or infinite"),
        ({"power": 0.5}, "basis='random'"),
        ({"power": 1.5, "basis": "random"}, "from 0"),
        ({"power": True, "basis": "random"}, "from 0"),
    ],
)
def test_bad_directions_are_refused(options: dict[str, Any], message: str) -> None:
    source = source_of(torch.randn(4, 3, 17, 17), CLASSES)
    with pytest.raises(UnitlabError, match=message):
        unitlab.ablate(FunctionalReLU().eval(), source, "conv2", device="cpu", progress=False, **options)


def test_a_rotation_by_parts() -> None:
    for channels, seed in ((2, 1), (5, 0), (5, 3), (12, 2), (64, 0)):
        whole = random_axes(channels, seed)
        if np.linalg.det(whole) < 0:
            whole[-1] *= -1
        np.testing.assert_allclose(powered(whole, 1), whole, atol=1e-10)
        np.testing.assert_allclose(powered(whole, 0), np.eye(channels), atol=1e-10)
        # two halves are the whole, and the way there is as scipy's matrix power has it
        half = powered(whole, 0.5)
        np.testing.assert_allclose(half @ half, whole, atol=1e-10)
        np.testing.assert_allclose(powered(whole, 0.3), fractional_matrix_power(whole, 0.3).real, atol=1e-8)
    # two half turns at once, which scipy's principal power would make complex
    turned = np.diag([-1.0, 1.0, -1.0])
    half = powered(turned, 0.5)
    np.testing.assert_allclose(half @ half, turned, atol=1e-12)
    np.testing.assert_allclose(half @ half.T, np.eye(3), atol=1e-12)


def test_a_basis_on_the_way() -> None:
    torch.manual_seed(2)
    model, pixels = settled(FunctionalReLU(), 17), torch.randn(24, 3, 17, 17)
    source = source_of(pixels, CLASSES)
    ds = checked(model, "conv2", pixels, CLASSES, "random", power=0.3, seed=3)
    assert ds.attrs["ablation"] == "random-3-power-0.3"
    np.testing.assert_allclose(np.abs(np.trace(ds.basis.values)), np.abs(np.trace(powered(random_axes(12, 3), 0.3))))
    ends = {power: ablate(model, source, "conv2", "random", power=power, seed=3) for power in (0, 1)}
    units, turned = (
        unitlab.ablate(model, source, "conv2", progress=False, device="cpu"),
        ablate(model, source, "conv2", "random", seed=3),
    )
    np.testing.assert_array_equal(ends[0].prediction, units.prediction)
    np.testing.assert_array_equal(ends[1].prediction, turned.prediction)


def test_bundled_directions_are_those_that_are_computed() -> None:
    """Two directions of one of the ten bundled bases, on all images."""
    bundled = unitlab.random_bases().isel(basis=3, direction=slice(2))
    options = {"seed": 3, "units": range(2), "progress": False, "device": "cpu"}
    ds = unitlab.ablate(bundled_network("vgg_fashion"), unitlab.images("fashion_mnist"), "conv3_2", basis="random", **options)
    assert ds.attrs["ablation"] == bundled.basis_name
    value = bundled.direction_value
    # predictions of ties may differ by processor
    np.testing.assert_allclose(ds.overall_drop, value.sel(measure="overall_drop"), atol=3e-4)
    np.testing.assert_allclose(ds.accuracy_drop.max("category"), value.sel(measure="max_class_drop"), atol=3e-3)
    np.testing.assert_allclose(ds.removed_energy, value.sel(measure="removed_energy"), rtol=1e-4)
