"""Norms of filters, raw and with the batch norm folded in, against plain numpy on the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import unitlab


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
