"""Which pixels a position of a layer's map looks at: offset, size and step, from the convolutions and poolings before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import nn

from unitlab.compute.engine.capture import NetworkGraph

POOLINGS = {
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding"),
}


@dataclass(frozen=True)
class ReceptiveField:
    """Of rows and of columns: the first position sees the pixels from ``offset`` on, ``size`` of them; the next one begins
    ``step`` pixels later. Padding makes the offset negative."""

    offset: tuple[int, int]
    size: tuple[int, int]
    step: tuple[int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the pixel in the middle of what the first position sees; the pixels count from 0."""
        rows, columns = (offset + (size - 1) / 2 for offset, size in zip(self.offset, self.size, strict=True))
        return rows, columns

    def seen_through(
        self, size: tuple[int, int], step: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
    ) -> ReceptiveField:
        """The field behind one more window that slides over the map."""
        axes = range(2)
        return ReceptiveField(
            _pair([self.offset[axis] - padding[axis] * self.step[axis] for axis in axes]),
            _pair([self.size[axis] + dilation[axis] * (size[axis] - 1) * self.step[axis] for axis in axes]),
            _pair([self.step[axis] * step[axis] for axis in axes]),
        )


PIXEL = ReceptiveField((0, 0), (1, 1), (1, 1))


def receptive_field(graph: NetworkGraph, node: torch.fx.Node) -> ReceptiveField | None:
    """The theoretical receptive field of a node's value, or None for what is no map of the image, such as tokens.

    Only convolutions and poolings change it; what else keeps rows and columns passes it on. Of branches that meet, the
    largest field counts, as in Network Dissection (Bau et al. 2017), if their steps agree.
    """
    fields: dict[torch.fx.Node, ReceptiveField | None] = {graph.input: PIXEL}
    for other in graph.nodes:
        if other not in fields:
            fields[other] = _field_of(graph, other, fields)
        if other is node:
            break
    return fields.get(node)


def _field_of(
    graph: NetworkGraph, node: torch.fx.Node, fields: dict[torch.fx.Node, ReceptiveField | None]
) -> ReceptiveField | None:
    shape = graph.shapes.get(node, ())
    # gates and biases of one position a channel have no place on the map
    maps = [used for used in node.all_input_nodes if len(graph.shapes.get(used, ())) == 4 and graph.shapes[used][2:] != (1, 1)]
    if len(shape) != 4 or not maps:
        return None
    seen = [fields.get(used) for used in maps]
    known = [field for field in seen if field is not None]
    if len(known) < len(seen) or len({field.step for field in known}) != 1:
        return None
    largest = max(known, key=lambda field: field.size)
    window = _window(graph, node)
    if window is not None:
        return largest.seen_through(*window)
    return largest if all(graph.shapes[used][2:] == shape[2:] for used in maps) else None


Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]


def _window(graph: NetworkGraph, node: torch.fx.Node) -> Window | None:
    """Size, step, padding and dilation of a convolution or pooling; None of anything else."""
    module: Any = graph.modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return _sizes(module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1))
    if node.op != "call_function":
        return None
    weights, name = graph.weights(node), getattr(node.target, "__name__", "").partition(".")[0]
    if weights is not None and weights[0].dim() == 4:
        given = _arguments(node, ("input", "weight", "bias", "stride", "padding", "dilation"))
        return _sizes(weights[0].shape[2:], given.get("stride", 1), given.get("padding", 0), given.get("dilation", 1))
    if name in POOLINGS:
        given = _arguments(node, POOLINGS[name])
        size = given["kernel_size"]
        return _sizes(size, given.get("stride") or size, given.get("padding", 0), given.get("dilation", 1))
    return None


def _arguments(node: torch.fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _sizes(size: Any, step: Any, padding: Any, dilation: Any) -> Window | None:
    size, step, dilation = _pair(size), _pair(step), _pair(dilation)
    if isinstance(padding, str):
        # "valid", or "same", whose smaller half comes before
        padding = [dilation[axis] * (size[axis] - 1) // 2 if padding == "same" else 0 for axis in range(2)]
    return size, step, _pair(padding), dilation


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return int(values[0]), int(values[-1])
