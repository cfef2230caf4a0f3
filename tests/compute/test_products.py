"""Replayed layers as matrix products of our own: the same values as torch's operations, and the same predictions as hooks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from make_believe_gpu import make_believe_gpu
from oracle import assert_exact
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab.compute.engine import products
from unitlab.compute.engine.ablation import donor_of_image
from unitlab.compute.engine.products import DenseProduct, PointwiseProduct, ProductByTap
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest

CLASSES, COUNT = 5, 20
KERNELS, STRIDES, DILATIONS = [(3, 3), (1, 3), (5, 2)], [(1, 1), (2, 1), (2, 3)], [(1, 1), (1, 3)]
PADDINGS, SIZES = [(0, 0), (1, 1), (2, 3)], [(4, 4), (7, 5), (3, 9), (1, 1)]


class SmallMaps(nn.Module):
    """Convolutions of maps of 5 × 5 and 3 × 3, 1 × 1 ones too, as modules and as a function, around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.mixed = nn.Conv2d(6, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / channels)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        self.point = nn.Conv2d(channels, channels, 1)
        self.around = nn.Conv2d(channels, channels, 1, stride=2, padding=1)  # 3 × 3 again, not of the same positions
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        mixed = torch.relu(self.norm(self.mixed(torch.relu(self.stem(pixels)))))
        mixed = mixed + torch.relu(F.conv2d(mixed, self.weight, None, 1, 1))
        small = torch.relu(self.point(torch.relu(self.down(mixed))))
        return self.head((small + torch.relu(self.around(small))).mean((2, 3)))


def small_maps(channels: int) -> nn.Module:
    torch.manual_seed(6)
    model = SmallMaps(channels)
    for _ in range(3):
        model(torch.randn(16, 3, 5, 5))
    return model.eval()


@pytest.fixture
def images() -> ImageSource:
    pixels = torch.randn(COUNT, 3, 5, 5, generator=torch.Generator().manual_seed(7))
    return unitlab.images(TensorDataset(pixels, torch.arange(COUNT) % CLASSES), categories=list("abcde"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU there are products by tap for one thread alone."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.fixture
def however_small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Convolutions of few channels and rows are products as well; the rows that each of them is given."""
    for name in ("LEAST_CHANNELS", "LEAST_ROWS_CHANNELS", "CPU_CHANNELS"):
        monkeypatch.setattr(products, name, 1)
    rows: list[int] = []
    for kind in (ProductByTap, PointwiseProduct):

        def counted(product: Any, value: Tensor, of: Callable[..., Tensor] = kind.__call__) -> Tensor:
            rows.append(len(value))
            return of(product, value)

        monkeypatch.setattr(kind, "__call__", counted)
    return rows


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_products_by_tap_are_the_convolution(kernel: tuple[int, int], layout: torch.memory_format) -> None:
    compared = 0
    for stride, dilation, padding, size in itertools.product(STRIDES, DILATIONS, PADDINGS, SIZES):
        if any(s + 2 * p < d * (k - 1) + 1 for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)):
            continue  # the kernel is larger than the map
        weight, bias = torch.randn(6, 4, *kernel, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
        value = torch.randn(7, 4, *size, dtype=torch.float64).contiguous(memory_format=layout)
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        for given in (bias, None):
            expected = F.conv2d(value, weight, given, stride, padding, dilation)
            product = ProductByTap(weight, given, options, size, tuple(expected.shape[2:]))
            found = product(value)
            torch.testing.assert_close(found, expected)
            if not value.is_contiguous(memory_format=torch.channels_last) or not value.is_contiguous():
                assert found.is_contiguous(memory_format=layout)
        inside = F.conv2d(torch.ones(1, 1, *size), torch.ones(1, 1, *kernel), None, stride, padding, dilation).sum()
        every = expected[0, 0].numel() * kernel[0] * kernel[1]
        assert product.share_around == pytest.approx(1 - float(inside) / every)
        compared += 1
    assert compared > 30


@pytest.mark.usefixtures("however_small")
@pytest.mark.parametrize("ablation", ["zero", "resample"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_predictions_are_those_of_hooks(
    ablation: str, kind: torch.dtype, images: ImageSource, however_small: list[int]
) -> None:
    model = small_maps(8).to(kind)
    ds = unitlab.ablate(model, images, "stem", ablation=ablation, device="cpu", progress=False)
    assert len(however_small) >= 4 and sum(however_small) >= 4 * 100  # of 6 units and 20 images, by four convolutions
    pixels = images.at(range(COUNT)).to(kind)
    donors, chosen = donor_of_image(COUNT, 0)
    options = {"ablation": ablation, "donors": donors[chosen] if ablation == "resample" else None}
    assert_exact(model, pixels, "stem", 0, list(range(6)), ds.prediction.values, **options)


class OfTheSize(nn.Module):
    """A stride and a padding that are worked out from the size of the map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(8, CLASSES)
        self.mixed, self.later, self.last = (nn.Parameter(torch.randn(8, channels, 3, 3) / 4) for channels in (6, 8, 8))

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.stem(pixels))
        stride = x.shape[-1] // 3
        x = torch.relu(F.conv2d(x, self.mixed, None, (stride, stride), 1))
        x = torch.relu(F.conv2d(x, self.later, padding=(x.shape[-1] // 5, 1)))
        return self.head(F.conv2d(x, self.last, None, stride, padding=stride).amax((2, 3)))


class OneOfAll(nn.Module):
    """A linear function with a vector of weights, whose result is one number an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.stem, self.mixed, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(1, CLASSES)
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.mixed(torch.relu(self.stem(pixels)))).mean((2, 3))
        return self.head(F.linear(x, self.weight).unsqueeze(1))


@pytest.mark.usefixtures("however_small")
@pytest.mark.parametrize("kind", [OfTheSize, OneOfAll])
def test_what_is_no_plain_convolution_or_layer_is_left_alone(kind: type[nn.Module], images: ImageSource) -> None:
    model = kind().eval()
    ds = unitlab.ablate(model, images, "stem", device="cpu", progress=False)
    assert_exact(model, images.at(range(COUNT)), "stem", 0, list(range(6)), ds.prediction.values)


@pytest.mark.parametrize("channels", [6, 4096])
def test_the_networks_own_bias_is_not_written_into(channels: int) -> None:
    """Of one row and one position the bias, expanded, is the result's own memory."""
    weight, bias = torch.randn(channels, 2, 3, 3), torch.randn(channels)
    product = ProductByTap(weight, bias, dict.fromkeys(("stride", "padding", "dilation"), (1, 1)), (1, 1), (1, 1))
    before, value = bias.clone(), torch.randn(1, 2, 1, 1)
    for _ in range(2):
        torch.testing.assert_close(product(value), F.conv2d(value, weight, before, padding=1))
    assert torch.equal(bias, before)


def test_a_gpu_is_asked_for_nothing_that_it_has_not(images: ImageSource, however_small: list[int]) -> None:
    model, found = small_maps(8), {}
    for device in ("cpu", "cuda"):
        with make_believe_gpu() as gpu:
            ds = unitlab.ablate(model, images, "stem", device=device, batch_size=8, progress=False)
        found[device] = ds.prediction.values
        assert not gpu.of("violation")
    np.testing.assert_array_equal(found["cpu"], found["cuda"])
    assert len(however_small) == 24  # of four convolutions and three batches on both, the 1 × 1 one too


def test_few_rows_or_channels_and_large_maps_are_left_to_the_convolution(images: ImageSource) -> None:
    names = {}
    for channels in (128, 96):
        plan = plan_sweep(small_maps(channels), images, SweepRequest("stem"), "cpu")
        names[channels] = {node.name for node, product in plan.layers[0].engine.exact.products.items()}
    assert names == {128: {"conv2d", "down", "around", "head"}, 96: {"head"}}  # "point" from 512 channels on

    torch.manual_seed(8)
    photographs = TensorDataset(torch.randn(1, 3, 224, 224), torch.zeros(1, dtype=torch.long))
    source = unitlab.images(photographs, categories=[f"class {k}" for k in range(1000)])
    plan = plan_sweep(torchvision.models.resnet18().eval(), source, SweepRequest("layer3", units=[0]), "cpu")
    found = plan.layers[0].engine.exact.products
    by_tap = {node.name: product for node, product in found.items() if isinstance(product, ProductByTap)}
    # layer4.0.conv1, of maps of 14 × 14, is worked out from what each unit adds
    assert set(by_tap) == {"layer4_0_conv2", "layer4_1_conv1", "layer4_1_conv2"}
    assert {product.least_rows for product in by_tap.values()} == {8}
    assert {round(product.share_around, 4) for product in by_tap.values()} == {round(1 - 361 / 441, 4)}


@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_is_a_product_where_channels_are_last(bias: bool) -> None:
    layer, value = nn.Conv2d(12, 7, 1, bias=bias), torch.randn(5, 12, 3, 4)
    product = PointwiseProduct(layer.weight, layer.bias)
    assert not product.takes(value) and product.takes(value.contiguous(memory_format=torch.channels_last))
    with torch.no_grad():
        found = product(value.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, layer(value))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_dense_layer_gives_what_the_layer_gives(bias: bool) -> None:
    layer = nn.Linear(130, 70, bias=bias)
    for rows in (1, 40):
        value = torch.randn(rows, 130)
        with torch.no_grad():
            torch.testing.assert_close(DenseProduct(layer.weight, layer.bias)(value), layer(value))


def test_all_engines_of_a_network_share_the_products(images: ImageSource) -> None:
    plan = plan_sweep(small_maps(128), images, SweepRequest("all"), "cpu")
    found = [product for layer in plan.layers for product in layer.engine.exact.products.values()]
    assert len(found) > 4 and len({id(product) for product in found}) == 4
