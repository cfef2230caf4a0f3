"""Receptive fields by arithmetic are those that gradients show; maps are interpolated as Network Dissection does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import RectBivariateSpline
from torch import nn
from torchvision.models import resnet18
from torchvision.models.vgg import make_layers

from unitlab.compute.engine.maps.receptive_field import ReceptiveField, receptive_field
from unitlab.compute.engine.maps.upsampling import Upsampling
from unitlab.compute.engine.network import Network
from unitlab.compute.networks.places import AlexNet


def field_of(model: nn.Module, layer: str, size: int) -> ReceptiveField | None:
    network = Network(model.eval(), torch.device("cpu"), torch.rand(1, 3, size, size))
    assert network.graph is not None
    site = network.site(layer)
    return receptive_field(network.graph, network.graph.calls[site.module][site.call])


def test_known_fields() -> None:
    """The Caffe AlexNet and VGG16: the figures that Network Dissection's program prints for their last convolutions."""
    alexnet = field_of(AlexNet(8, 10), "features.relu5", 227)
    assert alexnet == ReceptiveField((-64, -64), (163, 163), (16, 16)) and alexnet.centre == (17.0, 17.0)
    narrow = [4, 4, "M", 4, 4, "M", 4, 4, 4, "M", 4, 4, 4, "M", 4, 4, 4]
    vgg = nn.Sequential(*make_layers(narrow), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    assert field_of(vgg, "29", 64) == ReceptiveField((-90, -90), (196, 196), (16, 16))
    # the longest way through the blocks
    assert field_of(resnet18(num_classes=5), "layer4", 64) == ReceptiveField((-217, -217), (435, 435), (32, 32))


class Windows(nn.Module):
    """Modules and functions, strides, dilation, other sizes of rows than of columns, and two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, (5, 3), stride=(2, 1), padding=(1, 0)), nn.Conv2d(2, 2, 3, dilation=2, padding="same")
        self.c, self.out, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Identity(), nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(self.a(x), 3, stride=2)
        x = self.b(x) + self.c(x)
        x = self.out(F.avg_pool2d(x, (1, 2), 1, padding=(0, 1)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("model", [Windows()])
def test_gradients_reach_just_the_field(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    field = field_of(model, "out", 80)
    assert field is not None
    images = torch.rand(1, 3, 80, 80, requires_grad=True)
    seen = []
    model.out.register_forward_hook(lambda _module, _given, value: seen.append(value))
    model(images)
    at = (6, 11)
    (gradient,) = torch.autograd.grad(seen[0][0, 0, at[0], at[1]], images)
    for axis, reached in enumerate((gradient.abs().sum((0, 1, 3)), gradient.abs().sum((0, 1, 2)))):
        pixels = reached.nonzero().ravel()
        assert int(pixels.min()) == field.offset[axis] + at[axis] * field.step[axis]
        assert int(pixels.max() - pixels.min()) + 1 == field.size[axis]


def test_maps_are_interpolated_as_by_the_programs() -> None:
    """2017: splines of degree one through the centres of the fields, of AlexNet's 13 × 13 positions among 113 × 113 labels."""
    field = ReceptiveField((-64, -64), (163, 163), (16, 16))
    maps = torch.rand(2, 3, 13, 13, dtype=torch.float64)
    found = Upsampling("2017", field, (227, 227), torch.device("cpu"))(maps, (113, 113))
    centres = (17 // 2) + np.arange(13) * 8
    for one, expected in zip(found.flatten(0, 1), maps.flatten(0, 1), strict=True):
        spline = RectBivariateSpline(centres, centres, expected.numpy(), kx=1, ky=1)
        np.testing.assert_allclose(one, spline(np.arange(113), np.arange(113)), atol=1e-12)
    # 2020: torch's own interpolation inside, falling to zero beyond the outermost positions
    found = Upsampling("2020", None, (224, 224), torch.device("cpu"))(maps, (52, 52))
    expected = F.interpolate(maps, (52, 52), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])
    assert (found[..., 0, :] < expected[..., 0, :]).all()
    # labels finer than pixels, which the program does not have: every second one is a pixel
    finer = Upsampling("2017", ReceptiveField((0, 0), (1, 1), (1, 1)), (13, 13), torch.device("cpu"))(maps, (26, 26))
    torch.testing.assert_close(finer[..., ::2, ::2], maps)
    one_position = Upsampling("2020", None, (8, 8), torch.device("cpu"))(torch.full((1, 1, 1, 1), 3.0), (4, 4))
    assert (one_position == 3).all()
