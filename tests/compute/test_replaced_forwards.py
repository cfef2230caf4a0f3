"""Modules of torch's kinds that compute something else: nobody takes them for one of the kind."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_exact
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import unitlab

CLASSES, COUNT, UNITS = 5, 40, 6


class Network(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.mixed = nn.Conv2d(3, UNITS, 3, padding=1), nn.Conv2d(UNITS, width, 3, padding=1)
        self.later, self.relu, self.head = nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.mixed(self.relu(self.stem(x))))
        return self.head(torch.relu(self.later(x)).mean((2, 3)))


class Centred(nn.Conv2d):
    """torch.fx takes it whole, as it does the modules for quantisation-aware training in torch.ao."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


Centred.__module__ = "torch.nn.own"


def circular(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)


def by_class(model: Network) -> None:
    model.mixed = Centred(UNITS, 8, 3)


def by_forward(model: Network) -> None:
    model.mixed.forward = types.MethodType(Centred.forward, model.mixed)  # type: ignore[method-assign]


def by_the_convolutions_own(model: Network) -> None:
    for module in (model.mixed, model.later):
        module._conv_forward = types.MethodType(circular, module)  # type: ignore[method-assign]


def of_the_linear_layer(model: Network) -> None:
    def forward(self: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight), self.bias)

    model.head.forward = types.MethodType(forward, model.head)  # type: ignore[method-assign]


def of_the_relu(model: Network) -> None:
    """Its channels are no longer apart."""
    model.relu.forward = types.MethodType(lambda self, x: torch.relu(x - x.mean(1, keepdim=True)), model.relu)  # type: ignore[method-assign]


@pytest.mark.parametrize("width", [8, 128])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [by_class, by_forward, by_the_convolutions_own, of_the_linear_layer, of_the_relu])
def test_predictions_are_those_of_hooks(change: Callable[[Network], None], precision: str, width: int) -> None:
    if change is by_class and width != 8:
        pytest.skip("of eight channels")
    model = Network(width)
    change(model)
    pixels = torch.randn(COUNT, 3, 7, 7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():  # centred, so that classes are close
        model.head.bias -= model(pixels).mean(0)
        labels = model(pixels).argmax(1)
    images = unitlab.images(TensorDataset(pixels, labels), categories=list("abcde"))
    ds = unitlab.ablate(model.eval(), images, "stem", precision=precision, device="cpu", progress=False)
    assert (ds.attrs["capture"], ds.attrs["verified_different"]) == ("torch.fx", 0)
    assert_exact(model, pixels, "stem", 0, list(range(UNITS)), ds.prediction.values)
