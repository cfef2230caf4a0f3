"""Where the channels of a layer stay apart on their way to the logits, and where they first mix.

A value of the network behind the layer is *untouched* (does not depend on the layer), *separable* (every position
depends on one unit at most, its owner) or *mixed*. Owners are found by sending a tensor of unit numbers through the
very operations that only move data, so no operation's index arithmetic is written again here.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from unitlab.compute.engine.capture import NetworkGraph, module_output
from unitlab.compute.engine.unit_dimension import units_back, units_first

NO_OWNER = -1

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold,
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip
ELEMENTWISE_FUNCTIONS = {
    module_output, torch.clone, torch.ops.aten.contiguous.default,
    F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.silu, F.gelu, F.mish,
    F.hardswish, F.hardsigmoid, F.hardtanh, torch.sigmoid, F.sigmoid, torch.tanh, F.tanh, F.softplus, F.logsigmoid,
    F.threshold, F.dropout, F.dropout2d, torch.clamp, torch.abs, torch.exp, torch.sqrt, torch.square, torch.neg,
    operator.neg, torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum,
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, torchvision.ops.stochastic_depth,
}  # fmt: skip
ELEMENTWISE_METHODS = {
    "relu", "sigmoid", "tanh", "clamp", "abs", "exp", "sqrt", "square", "neg", "add", "sub", "mul", "div", "pow",
    "contiguous", "detach", "float", "double",
}  # fmt: skip
POOLING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
POOLING_FUNCTIONS = {
    F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d,
    F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d, torch.max_pool2d, F.avg_pool1d,
}  # fmt: skip
REDUCING = {torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin"}
MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)
MOVING = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.cat, torch.concat,
    torch.stack, torch.chunk, torch.split, torch.unbind, torch.narrow, torch.swapaxes, torch.movedim, operator.getitem,
    F.channel_shuffle, F.pixel_shuffle, units_first, units_back, torch.select, torch.ops.aten.slice.Tensor,
    "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "unbind", "narrow",
    "swapaxes", "movedim", "unflatten", "select",
}  # fmt: skip


@dataclass
class Suffix:
    """What lies between a site and the logits.

    Two units with maps of 1 × 2: a ReLU of them has the owners (0), (1), padded by a position (0, 0, −1), (1, 1, −1), flattened
    (0, 0, −1, 1, 1, −1); a linear layer on that mixes, and so does all that follows it.
    ``entry`` is the value whose channels are ablated one by one: the site, or what stands for its coordinates in a basis.
    ``owners`` gives, for every separable value, the unit that owns each position: int64 of the value's own shape for
    one image (first dimension 1), with size 1 along trailing dimensions where the owner does not change.
    """

    entry: torch.fx.Node
    nodes: list[torch.fx.Node]
    owners: dict[torch.fx.Node, Tensor] = field(default_factory=dict)
    separable: list[torch.fx.Node] = field(default_factory=list)
    mixed: list[torch.fx.Node] = field(default_factory=list)
    shapes: dict[torch.fx.Node, tuple[int, ...]] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Units that the layer has."""
        return self.shapes[self.entry][1]


def divide(graph: NetworkGraph, site: torch.fx.Node, sample: Tensor) -> Suffix:
    """Classify what follows ``site``, with the shapes and owners of one image, ``sample`` (image=1, channel, row, column)."""
    suffix = Suffix(site, graph.downstream(site))
    with torch.no_grad():
        values = graph.run({graph.input: sample}, keep={graph.input, *graph.nodes})
    for node, value in values.items():
        if isinstance(value, Tensor):
            suffix.shapes[node] = tuple(value.shape)
    trailing = [1] * (len(suffix.shapes[site]) - 2)
    suffix.owners[site] = torch.arange(suffix.channels).reshape(1, -1, *trailing)
    touched = {site}
    for node in suffix.nodes:
        if not _depends(node, touched):
            continue
        value = values[node]
        sources = [used for used in node.all_input_nodes if used in touched]
        if _is_shape(value) and not isinstance(value, Tensor | tuple | list):
            continue
        owner = None
        if all(used in suffix.owners for used in sources):
            owner = _owner(graph, node, suffix, values)
        touched.add(node)
        if owner is None:
            suffix.mixed.append(node)
        else:
            suffix.owners[node] = owner
            suffix.separable.append(node)
    return suffix


def _depends(node: torch.fx.Node, touched: set[torch.fx.Node]) -> bool:
    return any(used in touched for used in node.all_input_nodes)


def _is_shape(value: Any) -> bool:
    """Whether a value says something of shapes only (sizes, dtypes, devices)."""
    if isinstance(value, Tensor):
        return False
    if isinstance(value, tuple | list):
        return all(_is_shape(item) for item in value)
    return True


def _owner(graph: NetworkGraph, node: torch.fx.Node, suffix: Suffix, values: dict[torch.fx.Node, Any]) -> Any:
    """Owners of the node's positions, or None where channels mix (or might)."""
    module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
    target = node.target
    shape = suffix.shapes.get(node)
    if module is not None:
        if isinstance(module, ELEMENTWISE_MODULES):
            return _elementwise(node, suffix, values)
        if isinstance(module, POOLING_MODULES):
            return None if shape is None else _pooled(suffix.owners[node.all_input_nodes[0]], len(shape))
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return _depthwise(suffix.owners[node.all_input_nodes[0]], module.weight, module.groups, shape)
        return _moved(graph, node, suffix, values) if isinstance(module, MOVING_MODULES) else None
    if target in ELEMENTWISE_FUNCTIONS or (node.op == "call_method" and target in ELEMENTWISE_METHODS):
        return _elementwise(node, suffix, values)
    if target is F.batch_norm:
        first = node.args[0]
        return _elementwise(node, suffix, values) if node.all_input_nodes[0] is first else None
    if target in POOLING_FUNCTIONS:
        return None if shape is None else _pooled(suffix.owners[node.all_input_nodes[0]], len(shape))
    if target in REDUCING:
        return _reduced(node, suffix)
    if target in (F.conv1d, F.conv2d, F.conv3d, torch.conv2d):
        bound = _convolution_arguments(node, values)
        if bound is None:
            return None
        return _depthwise(suffix.owners[node.all_input_nodes[0]], bound[0], bound[1], shape)
    if target is F.pad:
        return _padded(node, suffix, values)
    if target in MOVING:
        return _moved(graph, node, suffix, values)
    return None


def _elementwise(node: torch.fx.Node, suffix: Suffix, values: dict[torch.fx.Node, Any]) -> Tensor | None:
    """Owners of several inputs, broadcast; None where two units meet at a position."""
    shape = suffix.shapes.get(node)
    if shape is None:
        return None
    # as torch broadcasts values: a vector's owners (1, 2) get ones in front, (1, 1, 1, 2), before they meet those of two maps,
    # (1, 2, 1, 1); then unit 1 of the vector meets unit 0 of the maps, and channels mix. What nobody owns takes any owner
    merged: Tensor | None = None
    for used in node.all_input_nodes:
        owner = suffix.owners.get(used)
        if owner is None:
            continue
        if owner.dim() < len(shape):
            owner = owner.reshape(*[1] * (len(shape) - owner.dim()), *owner.shape)
        if merged is None:
            merged = owner
            continue
        a, b = torch.broadcast_tensors(merged, owner)
        if not ((a == b) | (a == NO_OWNER) | (b == NO_OWNER)).all():
            return None
        merged = torch.where(a == NO_OWNER, b, a)
    if merged is None or merged.shape[0] != 1:
        return None
    return merged if merged.shape[1] == shape[1] else merged.expand(1, shape[1], *merged.shape[2:])


def one_owner(owner: Tensor) -> Tensor | None:
    """Owner (1, channel) of each channel, or None where a channel's positions have several."""
    flat = owner.flatten(2) if owner.dim() > 2 else owner.unsqueeze(2)
    top = flat.amax(2)
    return top if ((flat == top.unsqueeze(2)) | (flat == NO_OWNER)).all() else None


def _pooled(owner: Tensor, dims: int) -> Tensor | None:
    channel = one_owner(owner)
    return None if channel is None else channel.reshape(*channel.shape, *[1] * (dims - 2))


def _reduced(node: torch.fx.Node, suffix: Suffix) -> Tensor | None:
    """Mean, sum or extremum over positions of one unit, not over images."""
    source = node.all_input_nodes[0]
    owner, shape, out = suffix.owners[source], suffix.shapes[source], suffix.shapes.get(node)
    over = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis"))
    if out is None or over is None or not isinstance(over, int | tuple | list) or "dtype" in node.kwargs:
        return None
    axes = sorted({int(axis) % len(shape) for axis in ([over] if isinstance(over, int) else over)})  # type: ignore[arg-type]
    if 0 in axes or len(out) < 2:
        return None
    if 1 not in axes:
        return _pooled(owner, len(out))
    full = _full(owner, shape)
    top = full.amax(axes, keepdim=True)
    return top.reshape(out) if ((full == top) | (full == NO_OWNER)).all() else None


def _depthwise(owner: Tensor, weight: Tensor, groups: int, shape: tuple[int, ...] | None) -> Tensor | None:
    """A convolution whose output channels each read one input channel."""
    if shape is None or weight.shape[1] != 1 or groups != owner.shape[1]:
        return None
    channel = one_owner(owner)
    if channel is None:
        return None
    return channel.repeat_interleave(shape[1] // groups, 1).reshape(1, shape[1], *[1] * (len(shape) - 2))


def _convolution_arguments(node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> tuple[Tensor, int] | None:
    """Weight and groups of a functional convolution."""
    weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    if not isinstance(weight, torch.fx.Node):
        return None
    if isinstance(groups, torch.fx.Node):
        groups = values[groups]
    return values[weight], int(groups)  # type: ignore[arg-type]


def _full(owner: Tensor, shape: tuple[int, ...]) -> Tensor:
    return owner.expand(1, *shape[1:])


def _padded(node: torch.fx.Node, suffix: Suffix, values: dict[torch.fx.Node, Any]) -> Tensor | None:
    """Constant padding: the new positions have no owner."""
    source = node.all_input_nodes[0]
    pad = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    amounts: Any = torch.fx.node.map_arg(pad, lambda used: values[used])
    if mode != "constant" or len(amounts) > 2 * (len(suffix.shapes[source]) - 2):
        return None
    full = _full(suffix.owners[source], suffix.shapes[source])
    return F.pad(full, list(amounts), value=NO_OWNER)


def _moved(graph: NetworkGraph, node: torch.fx.Node, suffix: Suffix, values: dict[torch.fx.Node, Any]) -> Any:
    """Owners after an operation that only moves data: the operation itself, on the owners."""

    def stand_in(used: torch.fx.Node) -> Any:
        if used in suffix.owners:
            owner = suffix.owners[used]
            return owner if isinstance(owner, tuple | list) else _full(owner, suffix.shapes[used])
        value = values[used]
        return torch.full(value.shape, NO_OWNER) if isinstance(value, Tensor) else value

    stand_ins = {used: stand_in(used) for used in node.all_input_nodes}
    try:
        moved = graph.evaluate(node, stand_ins)
    except (RuntimeError, IndexError, TypeError):
        return None
    if isinstance(moved, Tensor) and (moved.dim() < 2 or moved.shape[0] != 1):
        return None
    return moved


# Operations that treat all channels alike and are linear, so that they may come before or after a rotation of the channels.
COMMUTING_MODULES = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten,
)  # fmt: skip
COMMUTING = {
    module_output, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout, torch.flatten, torch.mean, torch.squeeze,
    "flatten", "mean", "squeeze", "view", "reshape", "contiguous",
}  # fmt: skip


def commuting(graph: NetworkGraph, suffix: Suffix) -> list[torch.fx.Node]:
    """What follows the site by commuting operations alone and still has its positions channel by channel."""
    chain = [suffix.entry]
    for node in suffix.separable:
        module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
        touched = [used for used in node.all_input_nodes if used in suffix.owners or used in suffix.mixed]
        known = isinstance(module, COMMUTING_MODULES) or (module is None and node.target in COMMUTING)
        owner = suffix.owners[node]
        if not known or len(touched) != 1 or touched[0] not in chain or not isinstance(owner, Tensor):
            continue
        full = owner.expand(1, *suffix.shapes[node][1:]).flatten()
        by_channel = torch.arange(suffix.channels).repeat_interleave(full.numel() // suffix.channels)
        if full.shape == by_channel.shape and torch.equal(full, by_channel):
            chain.append(node)
    return chain[1:]
