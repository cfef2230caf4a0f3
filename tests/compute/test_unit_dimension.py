"""Which dimension the units are: decided, said, overridden; and what follows from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from oracle import assert_exact, site_output
from small_networks import CLASSES, ChannelsLast, Tokens, Untraceable, Windows
from test_exactness import settled, source_of
from torch import Tensor, nn

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.unit_dimension import UnitDimensions
from unitlab.compute.images.source import ImageSource
from unitlab.views.top_images import top_images


def network(kind: type[nn.Module] = ChannelsLast, images: int = 20) -> tuple[nn.Module, Tensor, ImageSource]:
    torch.manual_seed(1)
    model, pixels = settled(kind(), 17), torch.randn(images, 3, 17, 17)
    return model, pixels, source_of(pixels, CLASSES)


def ablate(model: nn.Module, source: ImageSource, layer: str, **options: object) -> xr.Dataset:
    return unitlab.ablate(model, source, layer, device="cpu", progress=False, **options)


CONV, LINEAR, NORM = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.LayerNorm(8)
MAP, LAST = (1, 8, 6, 6), (1, 6, 6, 8)


def last(x: Tensor) -> Tensor:
    return CONV(x).permute(0, 2, 3, 1)


def tokens(x: Tensor) -> Tensor:
    return CONV(x).flatten(2).transpose(1, 2)


def heads(x: Tensor) -> Tensor:
    return tokens(x).unflatten(2, (2, 4)).transpose(1, 2)


@pytest.mark.parametrize(
    ("made", "shape", "dim"),
    [
        (CONV, MAP, 1),
        (lambda x: F.relu_(CONV(x)) + 1, MAP, 1),
        (lambda x: F.max_pool2d(CONV(x), 2), (1, 8, 3, 3), 1),
        (lambda x: CONV(x).mean((2, 3)), (1, 8), 1),
        (lambda x: F.adaptive_avg_pool2d(CONV(x), 1), (1, 8, 1, 1), 1),
        (lambda x: torch.cat([CONV(x), x], 1), (1, 11, 6, 6), 1),
        (lambda x: F.interpolate(CONV(x), scale_factor=2), (1, 8, 12, 12), 1),
        (last, LAST, 3),
        (lambda x: F.gelu(LINEAR(last(x))), LAST, 3),
        (lambda x: NORM(last(x)).movedim(-1, 1), MAP, 1),
        (lambda x: last(x) * torch.ones(8), LAST, 3),
        (lambda x: torch.roll(last(x), (1, 1), (1, 2)), LAST, 3),
        (lambda x: F.pad(last(x), (0, 0, 1, 1)), (1, 6, 8, 8), 3),
        (lambda x: last(x).reshape(1, 3, 2, 3, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(1, 9, 4, 8), (1, 9, 4, 8), 3),
        (tokens, (1, 36, 8), 2),
        (lambda x: tokens(x)[:, 1:], (1, 35, 8), 2),
        (lambda x: torch.cat([torch.zeros(1, 1, 8), tokens(x)], 1), (1, 37, 8), 2),
        (lambda x: F.dropout(tokens(x), 0.5, False).mean(1, keepdim=True), (1, 1, 8), 2),
        (lambda x: tokens(x) @ torch.ones(8, 5), (1, 36, 5), 2),
        (lambda x: LINEAR(tokens(x)).transpose(1, 2).reshape(1, 8, 6, 6), MAP, 1),
        (lambda x: F.group_norm(CONV(x), 2), MAP, 1),
        (lambda x: F.instance_norm(CONV(x)), MAP, 1),
        # attention: units are spread over heads, and together again
        (lambda x: tokens(x).reshape(1, 36, 2, 4).transpose(1, 2).transpose(1, 2).reshape(1, 36, 8), (1, 36, 8), 2),
        (lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3).transpose(1, 2).flatten(2), (1, 36, 8), 2),
        (lambda x: (torch.softmax(tokens(x) @ tokens(x).mT, -1) @ tokens(x)), (1, 36, 8), 2),
    ],
)  # fmt: skip
def test_what_made_a_value_decides(made: object, shape: tuple[int, ...], dim: int) -> None:
    image = torch.randn(1, 3, 6, 6)
    with torch.no_grad(), UnitDimensions(image) as dimensions:
        value = made(image)  # type: ignore[operator]
    layout = dimensions.layout(value, "layer", None)
    assert (layout.whole, layout.dim) == (shape, dim)
    assert dimensions.layout(value, "layer", dim - len(shape)).dim == dim
    assert layout.shape == tuple(value.movedim(dim, 1).shape)


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x + 1,  # the image itself
        lambda x: tokens(x).reshape(1, 36, 2, 4),  # heads
        lambda x: tokens(x) @ tokens(x).mT,  # attention
        lambda x: last(x) + F.pad(CONV(x), (0, 2))[:, :6],  # a row is added to a channel
        lambda x: CONV(x).reshape(1, 4, 12, 6),  # channels and rows in one dimension
        lambda x: CONV(x).mean(1, keepdim=True),
    ],
)  # fmt: skip
def test_what_nothing_tells_is_refused_with_the_candidates(made: object) -> None:
    image = torch.randn(1, 3, 6, 6)
    with torch.no_grad(), UnitDimensions(image) as dimensions:
        value = made(image)  # type: ignore[operator]
    with pytest.raises(UnitlabError, match=rf"unit_dim=1 \({value.shape[1]} units\); unit_dim=2 \({value.shape[2]} units\)"):
        dimensions.layout(value, "layer", None)
    assert dimensions.layout(value, "layer", -1).dim == value.dim() - 1


def test_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model, _, source = network()
    text = "12 units along the last dimension of (image, row 8, column 8, unit)"
    with caplog.at_level("INFO", logger="unitlab"):
        ds = ablate(model, source, "act")
    assert text in caplog.text and ds.attrs["unit_layout"] == text and ds.attrs["unit_dim"] == 3
    assert ds.attrs["fingerprint_unit_dim"] == "3"
    estimate = unitlab.estimate(model, source, ["stem", "act"], device="cpu")
    assert text in str(estimate) and [layer.unit_dim for layer in estimate.layers] == [1, 3]
    assert "8 units along dimension 1 of (image, unit, row 8, column 8)" in str(estimate)
    groups = unitlab.ablate_groups(model, source, "act", [[0, 11]], progress=False, device="cpu")
    curve = unitlab.cumulative(model, source, "act", [3, 4], progress=False, device="cpu")
    assert groups.attrs["unit_dim"] == curve.attrs["unit_dim"] == 3


def test_another_dimension_can_be_given() -> None:
    model, pixels, source = network()
    for given, dim in ((2, 2), (-3, 1), ({"act": 1}, 1)):
        ds = ablate(model, source, "act", unit_dim=given)
        assert ds.sizes["unit"] == 8 and ds.attrs["unit_dim"] == dim
        assert_exact(model, pixels, "act", 0, list(range(8)), ds.prediction.values, dim=dim)
        assert unitlab.verify(ds, model, source, sample=60).different == 0
    with pytest.raises(UnitlabError, match=r"unit_dim=4.*valid: unit_dim=1 \(8 units\)"):
        ablate(model, source, "act", unit_dim=4)
    for wrong in (0, True, "last", {"act": 0}):
        with pytest.raises(UnitlabError, match="no dimension of units"):
            ablate(model, source, "act", unit_dim=wrong)


class Channels(nn.Module):
    """Normalises its images in a module, whose channels nothing made."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.conv = nn.Identity(), nn.Conv2d(3, CLASSES, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.scale(x * 2)).mean((2, 3))


def test_an_undecided_layer_is_computed_once_it_is_said() -> None:
    model, _, source = network(Channels)
    with pytest.raises(UnitlabError, match=r"cannot be told.*unit_dim=1 \(3 units\)"):
        ablate(model, source, "scale")
    assert ablate(model, source, "scale", unit_dim=1).sizes["unit"] == 3


@pytest.mark.parametrize(("kind", "layer"), [(ChannelsLast, "act"), (ChannelsLast, "norm"), (Tokens, "act"), (Tokens, "qkv")])
def test_activations_and_first_order_are_those_of_the_units(kind: type[nn.Module], layer: str) -> None:
    model, pixels, source = network(kind)
    ds = ablate(model, source, layer)
    leaf: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, returned: Tensor) -> Tensor:
        leaf.append(returned.detach().requires_grad_())
        return leaf[0]

    with model.get_submodule(layer).register_forward_hook(keep):
        logits = model(pixels)
    labels = torch.arange(len(pixels)) % CLASSES
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad((own - other).sum(), leaf)
    effect = (leaf[0] * gradient).flatten(1, -2).sum(1).detach().numpy()
    value = site_output(model, pixels, layer, 0).flatten(1, -2).numpy()
    half = 2**-8 + 2**-11
    np.testing.assert_allclose(ds.activation_mean, value.mean(1).T, rtol=half, atol=1e-4)
    np.testing.assert_allclose(ds.activation_max, value.max(1).T, rtol=half, atol=1e-4)
    np.testing.assert_allclose(ds.mean_activation, value.mean((0, 1)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ds.removed_energy, (value**2).sum((0, 1)) / (value**2).sum(), rtol=1e-4)
    by_class = np.stack([effect[labels.numpy() == k].mean(0) for k in range(CLASSES)])
    np.testing.assert_allclose(ds.first_order_margin_drop, by_class.T, rtol=1e-3, atol=1e-6)


def test_norms_are_those_of_the_rows_of_the_linear_layer() -> None:
    for kind, layer in ((ChannelsLast, "expand"), (Tokens, "fc1")):
        model, _, source = network(kind)
        rows = model.get_submodule(layer).weight.detach().numpy()
        for site in (layer, "act"):
            found = unitlab.attributes(ablate(model, source, site))
            np.testing.assert_allclose(found.l1_norm, np.abs(rows).sum(1), rtol=1e-6)
            np.testing.assert_allclose(found.l2_norm, np.linalg.norm(rows, axis=1), rtol=1e-6)
        columns = model.get_submodule("reduce" if kind is ChannelsLast else "fc2").weight.detach().numpy()
        found = ablate(model, source, "act")
        np.testing.assert_allclose(found.outgoing_l1_norm, np.abs(columns).sum(0), rtol=1e-6)
        for dim in (1, 2) if kind is ChannelsLast else (1,):
            other = ablate(model, source, "act", unit_dim=dim)
            assert np.isnan(other.l2_norm).all() and np.isnan(other.outgoing_l2_norm).all()
    model, _, source = network(ChannelsLast)
    norm = ablate(model, source, "norm")
    assert np.isnan(norm.l2_norm).all()  # layer norm mixes the rows
    np.testing.assert_allclose(norm.outgoing_l1_norm, np.abs(model.expand.weight.detach().numpy()).sum(0), rtol=1e-6)


def test_maps_have_rows_and_columns() -> None:
    model, pixels, source = network()
    ds, value = ablate(model, source, "act"), site_output(model, pixels, "act", 0).numpy()
    for unit in (0, 7):
        best = int(ds.top_image[unit, 0])
        np.testing.assert_allclose(ds.top_map[unit, 0], value[best, :, :, unit], rtol=1e-3, atol=1e-4)


def test_maps_of_tokens_are_the_grid_of_patches() -> None:
    model, pixels, source = network(Tokens)
    ds, value = ablate(model, source, "act"), site_output(model, pixels, "act", 0).numpy()
    assert ds.attrs["unit_layout"].endswith("(image, token 17, unit), patches 4 × 4 behind 1 other token")
    best = int(ds.top_image[3, 0])
    np.testing.assert_allclose(ds.top_map[3, 0], value[best, 1:, 3].reshape(4, 4), rtol=1e-3, atol=1e-4)
    # the class token counts where nothing is drawn
    np.testing.assert_allclose(ds.top_activation[3, 0], value[best, :, 3].max(), rtol=1e-3)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (196, (224, 224), (14, 14)), (197, (224, 224), (14, 14)), (201, (224, 224), (14, 14)), (33, (64, 128), (4, 8)),
        (77, (224, 224), None), (3, (224, 224), None),
    ],
)  # fmt: skip
def test_patches_without_a_convolution(count: int, size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    dimensions = UnitDimensions(torch.zeros(1, 3, *size))
    assert dimensions.layout(torch.zeros(1, count, 8), "layer", -1).patches == expected


def test_a_strip_where_tokens_are_no_grid() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(225, 11), nn.Flatten(), nn.Linear(88, CLASSES)).eval()
    ds = ablate(model, source_of(torch.randn(9, 3, 17, 17), CLASSES), "2")
    assert ds.sizes["unit"] == 11 and ds.top_map.shape[2:] == (1, 8)


@pytest.mark.parametrize("kind", [ChannelsLast, Tokens])
def test_groups_and_curves_are_exact(kind: type[nn.Module]) -> None:
    model, pixels, source = network(kind)
    sets = [[0], [0, 5], [0, 5, 11], [7, 2]]
    groups = unitlab.ablate_groups(model, source, "act", sets, progress=False, device="cpu")
    assert groups.attrs["verified_different"] == 0
    assert_exact(model, pixels, "act", 0, sets, groups.prediction.values, dim=-1)
    study = ablate(model, source, "act")
    curve = unitlab.cumulative(model, source, "act", "overall_drop", rank_on=study, ks=[0, 3, 12], progress=False, device="cpu")
    first = [curve.ranked_unit.values[0, 0][:k].tolist() for k in (3, 12)]
    assert_exact(model, pixels, "act", 0, first, curve.curve_prediction.values[0, 1:], dim=-1)
    with pytest.raises(UnitlabError, match="unit_dim=1 is given"):
        unitlab.cumulative(model, source, "act", "overall_drop", rank_on=study, unit_dim=1, progress=False, device="cpu")


@pytest.mark.parametrize("kind", [ChannelsLast, Tokens])
def test_views_take_what_is_stored(kind: type[nn.Module], tmp_path: Path) -> None:
    model, _, source = network(kind)
    ds = ablate(model, source, "act", store=tmp_path / "study.zarr")
    assert len(top_images(ds, 3).pictures) == 12
    assert unitlab.report(ds, tmp_path / "study.html").stat().st_size > 0
    assert unitlab.verify(tmp_path / "study.zarr", model, source, sample=50).different == 0


def without_unit_dim(ds: xr.Dataset) -> xr.Dataset:
    """As it was written before studies said which dimension their units are."""
    old = ds.copy()
    old.attrs = {name: value for name, value in ds.attrs.items() if "unit_dim" not in name and name != "unit_layout"}
    return old


def test_a_study_that_does_not_say_has_its_units_in_dimension_1() -> None:
    model, _, source = network()
    old = without_unit_dim(ablate(model, source, "act", unit_dim=1))
    assert "unit_dim" not in old.attrs
    assert unitlab.verify(old, model, source, sample=100).different == 0
    curve = unitlab.cumulative(model, source, "act", "overall_drop", rank_on=old, ks=[0, 3], progress=False, device="cpu")
    assert curve.attrs["unit_dim"] == 1


def test_an_unfinished_sweep_that_does_not_say_goes_on_in_dimension_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, source = network()
    store = tmp_path / "study.zarr"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("unitlab.compute.sweep.run.write_study", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        ablate(model, source, "act", store=store, unit_dim=1)
    with pytest.raises(UnitlabError, match="other unit_dim"):
        ablate(model, source, "act", store=store, unit_dim=-1)
    assert ablate(model, source, "act", store=store).attrs["unit_dim"] == 1
    # and so does the finished one, while another dimension is refused
    assert ablate(model, source, "act", store=store, ablation="mean").attrs["unit_dim"] == 1
    with pytest.raises(UnitlabError, match="give unit_dim=1, or another store"):
        ablate(model, source, "act", store=store, unit_dim=-1)
    assert ablate(model, source, "expand", store=store).attrs["unit_dim"] == 3


def test_as_many_images_as_tokens() -> None:
    """A value that depends on sizes alone is not taken apart by images where its length happens to be theirs."""
    model, pixels, source = network(Windows, 16)
    ds = ablate(model, source, "value")
    assert_exact(model, pixels, "value", 0, list(range(8)), ds.prediction.values, dim=2)


def test_hooks_know_it_as_well() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 8, 3), nn.GELU(), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv(x).permute(0, 2, 3, 1))
            return self.fc(x.mean((1, 2)) * (1 if float(x.sum()) > -1e9 else 2))

    model, pixels, source = network(Last)
    for basis in (None, "random"):
        ds = ablate(model, source, "act", basis=basis)
        assert ds.sizes["unit"] == 8 and ds.attrs["unit_dim"] == 3 and "hooks" in ds.attrs["strategy"]
        directions = None if basis is None else torch.as_tensor(ds.basis.values)
        assert_exact(model, pixels, "act", 0, list(range(8)), ds.prediction.values, basis=directions, dim=3)
    assert ablate(*network(Untraceable)[::2], "conv").attrs["unit_dim"] == 1
