"""Replayed layers as matrix products that are quicker than torch's own operation."""

from __future__ import annotations

import math
from collections.abc import Container
from weakref import WeakKeyDictionary

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from unitlab.compute.engine.capture import NetworkGraph
from unitlab.compute.engine.separable import Suffix

Size = tuple[int, ...]
Geometry = dict[str, tuple[int, int]]

# Of the multiplications of 3 × 3 weights with a map of 7 × 7, 18 % are with zeros around it, with one of 14 × 14 9 %.
LEAST_AROUND = 1 / 6
# With fewer channels, or rows times channels, the convolution itself is as quick, or quicker.
LEAST_CHANNELS, LEAST_ROWS_CHANNELS = 128, 4096
# GFLOP/s of 1 × 1 convolutions by oneDNN and as a product on a CPU, 32 rows: 102 and 121 from 2,048 channels to 512 of 7 × 7,
# 119 and 103 with 256, 129 and 115 from 1,024 to 256 of 14 × 14. On a GPU cuDNN takes channels_last apart for float32 first.
CPU_CHANNELS, CPU_POSITIONS = 512, 64


class DenseProduct:
    """A linear layer in float32 on a CPU, (row, feature) → (row, output), by oneDNN, which reaches twice the rate of torch's
    default on some processors; the weights are held once more, as oneDNN wants them.

    Two units and 1,000 images give a layer 2,000 rows at a time, so that it pays to pack its weights once: whole sweeps of
    AlexNet's conv5 took 15.5 passes with torch's own product and 8.4 with this one, VGG16's conv5_3 2.5 and 1.7.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight.detach().to_mkldnn()
        self.bias = None if bias is None else bias.detach().to_mkldnn()

    @staticmethod
    def takes(value: Tensor) -> bool:
        return True

    def __call__(self, value: Tensor) -> Tensor:
        # F.linear takes tensors in oneDNN's layout to oneDNN
        return F.linear(value.to_mkldnn(), self.weight, self.bias).to_dense()


class PointwiseProduct:
    """A 1 × 1 convolution, (row, channel, y, x) → (row, output, y, x), as what it is of maps that are channels_last: one matrix
    product, (row · y · x, channel) · (channel, output)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight.detach().flatten(1).contiguous(), None if bias is None else bias.detach()

    @staticmethod
    def takes(value: Tensor) -> bool:
        return value.is_contiguous(memory_format=torch.channels_last)

    def __call__(self, value: Tensor) -> Tensor:
        return F.linear(value.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class ProductByTap:
    """A convolution of small maps, (row, channel, y, x) → (row, output, y, x), as one product for each tap of its kernel.

    Of 3 × 3 weights the tap in the middle meets all of a map of 7 × 7, one at an edge 6 × 7 positions, one in a corner 6 × 6:
    what would be multiplied with the zeros around the map is left out. With the positions in front, those of a tap are
    products (x · row, channel) · (channel, output), one for each y.

    Parameters
    ----------
    weight, bias
        (output, channel, y, x) and (output).
    geometry
        ``stride``, ``padding`` and ``dilation``, (y, x) each.
    size, outputs
        Rows and columns of the map, and of what the convolution gives.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry, size: Size, outputs: Size) -> None:
        options = zip(geometry["stride"], geometry["padding"], geometry["dilation"], strict=True)
        y, x = (_inside(*each) for each in zip(weight.shape[2:], size, outputs, options, strict=True))
        by_tap = weight.detach().permute(2, 3, 1, 0).contiguous()  # (y, x, channel, output)
        self.taps = [(by_tap[i, j], (to_y, to_x), (from_y, from_x)) for i, to_y, from_y in y for j, to_x, from_x in x]
        self.bias, self.outputs, self.channels = None if bias is None else bias.detach(), outputs, len(weight)
        self.least_rows = -(-LEAST_ROWS_CHANNELS // min(weight.shape[:2]))
        inside = sum((to_y.stop - to_y.start) * (to_x.stop - to_x.start) for _, (to_y, to_x), _ in self.taps)
        self.share_around = 1 - inside / (weight[0, 0].numel() * math.prod(outputs))

    def takes(self, value: Tensor) -> bool:
        return len(value) >= self.least_rows

    def __call__(self, value: Tensor) -> Tensor:
        maps, shape = value.permute(2, 3, 0, 1).contiguous(), (*self.outputs, len(value), self.channels)
        out = value.new_zeros(shape) if self.bias is None else value.new_empty(shape).copy_(self.bias)
        for weight, to, taken in self.taps:
            part = out[to].flatten(1, 2)  # a view
            part.baddbmm_(maps[taken].flatten(1, 2), weight.expand(len(part), -1, -1))
        own = value.is_contiguous(memory_format=torch.channels_last)
        return out.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last if own else torch.contiguous_format)


def _inside(taps: int, size: int, outputs: int, options: tuple[int, int, int]) -> list[tuple[int, slice, slice]]:
    """Along one axis, each tap that is ever inside the map: for which outputs, and where."""
    stride, padding, dilation = options
    found = []
    for tap in range(taps):
        at = tap * dilation - padding  # for the first output
        first, end = max(0, -(at // stride)), min(outputs, (size - 1 - at) // stride + 1)
        if first < end:
            found.append((tap, slice(first, end), slice(at + first * stride, at + end * stride, stride)))
    return found


Product = DenseProduct | PointwiseProduct | ProductByTap
_PRODUCTS: WeakKeyDictionary[torch.fx.Node, Product | None] = WeakKeyDictionary()


def products_of(graph: NetworkGraph, suffix: Suffix, contributions: Container[torch.fx.Node]) -> dict[torch.fx.Node, Product]:
    """Of the replayed layers those that are quicker so; all engines of a network share them, since they copy its weights."""
    found = {}
    for node in suffix.mixed:
        if node in contributions or node.args[:1] != tuple(node.all_input_nodes[:1]):
            continue
        if node not in _PRODUCTS:
            _PRODUCTS[node] = _product(graph, node, suffix.shapes)
        product = _PRODUCTS[node]
        if product is not None:
            found[node] = product
    return found


def _product(graph: NetworkGraph, node: torch.fx.Node, shapes: dict[torch.fx.Node, tuple[int, ...]]) -> Product | None:
    known, geometry = graph.weights(node), graph.geometry(node)
    if known is None:
        return None
    weight, shape = known[0], shapes.get(node.all_input_nodes[0], ())
    module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Linear) or node.target is F.linear:
        packed = weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        return DenseProduct(*known) if packed and len(shape) == weight.dim() == 2 else None
    if geometry is None or len(shape) != 4 or min(weight.shape[:2]) < LEAST_CHANNELS:
        return None
    if weight[0, 0].numel() == 1 and geometry["stride"] == (1, 1) and geometry["padding"] == (0, 0):
        quicker = min(weight.shape[:2]) >= CPU_CHANNELS and math.prod(shape[2:]) <= CPU_POSITIONS
        return PointwiseProduct(*known) if weight.device.type != "cpu" or quicker else None
    if weight.device.type == "cpu" and torch.get_num_threads() > 1:
        return None  # several threads divide oneDNN's convolution as well or better: see tests/benchmarks
    product = ProductByTap(*known, geometry, shape[2:], shapes[node][2:])
    return product if product.share_around >= LEAST_AROUND else None
