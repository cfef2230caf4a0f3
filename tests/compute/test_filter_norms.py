"""Norms of filters, raw and with the batch norm folded in, against plain numpy on the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab.recipes import Recipe
from unitlab.recipes.shipped import BUNDLED


def study(*layers: nn.Module, layer: str) -> tuple[nn.Module, object]:
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    images = TensorDataset(torch.rand(9, 2, 6, 6), torch.arange(9) % 3)
    source = unitlab.images(images, categories=["a", "b", "c"])
    return network, unitlab.ablate(network, source, layer, progress=False, device="cpu")


def test_norms_are_those_of_the_weights() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.5, 0.2, 2.0]))
        norm.running_var.copy_(torch.tensor([0.3, 1.0, 4.0, 0.01]))
    network, ds = study(nn.Conv2d(2, 4, 3, bias=False), norm, nn.ReLU(), layer="2")
    weight = network[0].weight.detach().numpy().astype(float).reshape(4, -1)
    gamma, variance = (value.detach().numpy().astype(float) for value in (norm.weight, norm.running_var))
    scale = np.abs(gamma / np.sqrt(variance + norm.eps))
    l1, l2 = np.abs(weight).sum(1), np.sqrt((weight**2).sum(1))
    found = unitlab.attributes(ds)
    for name, expected in {
        "l1_norm": l1, "l2_norm": l2, "l1_norm_folded": l1 * scale, "l2_norm_folded": l2 * scale, "batch_norm_scale": gamma,
    }.items():  # fmt: skip
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_without_batch_norm_what_needs_it_is_undefined_and_counted() -> None:
    torch.manual_seed(0)
    network, ds = study(nn.Conv2d(2, 4, 3), nn.ReLU(), layer="1")
    found = unitlab.attributes(ds)
    weight = network[0].weight.detach().numpy().reshape(4, -1)
    np.testing.assert_allclose(found.l2_norm, np.linalg.norm(weight, axis=1), rtol=1e-6)
    for name in ("l1_norm_folded", "l2_norm_folded", "batch_norm_scale"):
        assert np.isnan(found[name]).all() and found[name].attrs["n_undefined"] == 4


def test_a_functions_convolution_has_filters_too() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias, groups=self.groups)

    torch.manual_seed(0)
    network, ds = study(Padded(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), layer="2")
    weight = network[0].weight.detach().numpy().reshape(4, -1)
    np.testing.assert_allclose(ds.l1_norm, np.abs(weight).sum(1), rtol=1e-6)
    assert ds.batch_norm_scale.notnull().all()


class Reads(nn.Module):
    """What reads ``norm`` is a convolution in groups, or behind pooling a linear layer, or both."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.again = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.fc = nn.Linear(6 * size * size, 3)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.norm(self.conv(x)))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, self.size), 1)) + self.again(x).mean((2, 3))[:, :3]


@pytest.mark.parametrize("size", [1, 3])
def test_outgoing_norms_are_those_of_the_weights_that_read_the_unit(size: int) -> None:
    torch.manual_seed(0)
    network = Reads(size).eval()
    source = unitlab.images(TensorDataset(torch.rand(9, 2, 6, 6), torch.arange(9) % 3), categories=["a", "b", "c"])
    ds = unitlab.ablate(network, source, "norm", progress=False, device="cpu")
    grouped, dense = network.again.weight.detach().numpy(), network.fc.weight.detach().numpy()
    for unit in range(6):
        group = unit // 2
        reading = [grouped[2 * group : 2 * group + 2, unit % 2], dense[:, unit * size**2 : (unit + 1) * size**2]]
        weights = np.concatenate([part.ravel() for part in reading])
        np.testing.assert_allclose(ds.outgoing_l1_norm[unit], np.abs(weights).sum(), rtol=1e-6)
        np.testing.assert_allclose(ds.outgoing_l2_norm[unit], np.sqrt((weights**2).sum()), rtol=1e-6)


def test_what_a_sum_reads_has_no_outgoing_norm_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.again, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.fc((x + self.again(x)).mean((2, 3)))

    torch.manual_seed(0)
    network = Residual().eval()
    source = unitlab.images(TensorDataset(torch.rand(9, 2, 6, 6), torch.arange(9) % 3), categories=["a", "b", "c"])
    with caplog.at_level("INFO", "unitlab"):
        ds = unitlab.ablate(network, source, "conv", progress=False, device="cpu")
    assert ds.outgoing_l1_norm.isnull().all() and ds.l1_norm.notnull().all()
    said = next(record.message for record in caplog.records if "undefined for conv" in record.message)
    for words in ("outgoing_l1_norm", "something else than a convolution", "class_selectivity", "below zero", "no batch norm"):
        assert words in said
    assert "undefined for conv" in str(unitlab.estimate(network, source, "conv", device="cpu"))
    assert unitlab.attributes(ds).outgoing_l1_norm.attrs["n_undefined"] == 4


@pytest.mark.parametrize("sizes", [(-1, 9, 6), (-1, 6 * 9)])
def test_columns_are_told_apart_only_where_a_unit_keeps_its_positions(sizes: tuple[int, ...]) -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 6, 3), nn.Linear(sizes[-1], 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(nn.functional.adaptive_avg_pool2d(self.conv(x), 3).reshape(*sizes))
            return x.flatten(1)[:, :3]

    torch.manual_seed(0)
    source = unitlab.images(TensorDataset(torch.rand(9, 2, 6, 6), torch.arange(9) % 3), categories=["a", "b", "c"])
    ds = unitlab.ablate(Reshaped().eval(), source, "conv", progress=False, device="cpu")
    assert bool(ds.outgoing_l1_norm.isnull().all()) == (len(sizes) == 3)


@pytest.mark.parametrize("recipe", BUNDLED, ids=lambda recipe: recipe.name)
def test_the_default_layers_of_bundled_networks_define_selectivity_and_a_norm(recipe: Recipe) -> None:
    # of published ones: tests/recipes/test_stand_ins.py
    images = unitlab.images(recipe.images.address)
    few = images.subset(range(0, len(images), len(images) // 40))
    ds = unitlab.ablate(unitlab.network(recipe.name), few, recipe.layers[-1], units=[0, 1, 2, 3], progress=False, device="cpu")
    found = unitlab.attributes(ds)
    assert found.class_selectivity.notnull().any()
    assert found.l1_norm.notnull().all() or found.outgoing_l1_norm.notnull().all()
