"""Norms of the weights that make a site's units, backwards from the site, and of those that read them, forwards from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.capture import DROPOUT, NetworkGraph, module_output
from unitlab.compute.engine.layers import BatchNorm, Convolution, Site

OWN = ("l1_norm", "l2_norm", "l1_norm_folded", "l2_norm_folded", "batch_norm_scale")
OUTGOING = ("outgoing_l1_norm", "outgoing_l2_norm")

functional = nn.functional
ACTIVATIONS = (
    nn.ReLU | nn.ReLU6 | nn.SiLU | nn.Hardswish | nn.GELU | nn.ELU | nn.LeakyReLU | nn.Identity | nn.Sigmoid | nn.Hardsigmoid
)
ACTIVATION_FUNCTIONS = (
    module_output, functional.relu, torch.relu, functional.relu6, functional.silu, functional.gelu, functional.hardswish,
    functional.leaky_relu, functional.dropout,
)  # fmt: skip
# what hands a unit's map on, smaller or flat, and mixes it with no other unit's
POOLING = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Flatten
HAND_ON = ACTIVATIONS | POOLING | BatchNorm | DROPOUT
POOLING_FUNCTIONS = (
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d, torch.flatten,
)  # fmt: skip
CONVOLUTION_FUNCTIONS = (functional.conv1d, functional.conv2d, functional.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
METHODS = ("relu", "flatten", "contiguous", "squeeze", "view", "reshape")


def filter_attributes(graph: NetworkGraph | None, site: Site, units: int) -> dict[str, np.ndarray]:
    """Norms of each unit's own filter, raw and with the batch norm behind it folded in, and of the weights that read it.

    The filter of a unit is its row of the convolution or linear layer that the site is the (normalised, rectified)
    output of; a residual sum has none (Li et al. 2016 define the norms for filters). What reads it are the columns of the
    convolutions and linear layers behind the site. NaN where there is none.
    """
    found = {name: np.full(units, np.nan, np.float32) for name in (*OWN, *OUTGOING)}
    if graph is None:
        return found
    node = graph.calls[site.module][site.call]
    weight, norm = _own_filter(graph, node)
    scale = None
    if norm is not None and norm.running_var is not None and len(norm.running_var) == units:
        gamma = norm.weight.detach() if norm.affine else torch.ones(units, device=norm.running_var.device)
        scale = (gamma.double() / (norm.running_var.double() + norm.eps).sqrt()).abs().cpu().numpy()
        found["batch_norm_scale"] = gamma.float().cpu().numpy()
    if weight is not None and weight.shape[0] == units:
        flat = weight.detach().double().cpu().flatten(1)
        for name, values in (("l1_norm", flat.abs().sum(1)), ("l2_norm", flat.square().sum(1).sqrt())):
            found[name] = values.numpy().astype(np.float32)
            if scale is not None:
                found[f"{name}_folded"] = (values.numpy() * scale).astype(np.float32)
    read = _reading_weights(graph, node, units)
    if read:
        columns = torch.cat(read, 1)
        found["outgoing_l1_norm"] = columns.abs().sum(1).numpy().astype(np.float32)
        found["outgoing_l2_norm"] = columns.square().sum(1).sqrt().numpy().astype(np.float32)
    return found


def _own_filter(graph: NetworkGraph, node: torch.fx.Node) -> tuple[Tensor | None, Any]:
    """Walk back from a site over activations and batch norm to the layer whose rows are the units' filters."""
    norm = None
    while True:
        weight = _weight(graph, node)
        if weight is not None:
            return weight, norm
        module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, BatchNorm) and norm is None:
            norm = module
        elif not (isinstance(module, ACTIVATIONS) or _is_function(node, ACTIVATION_FUNCTIONS)):
            return None, norm
        sources: Sequence[torch.fx.Node] = node.all_input_nodes
        if len(sources) != 1:
            return None, norm
        node = sources[0]


def _reading_weights(graph: NetworkGraph, node: torch.fx.Node, units: int) -> list[Tensor]:
    """Weights (unit, …) of all layers that read a site; none where anything else does."""
    found: list[Tensor] = []
    for user in (other for other in graph.nodes if node in other.all_input_nodes):
        weight = _weight(graph, user)
        module = graph.modules.get(str(user.target)) if user.op == "call_module" else None
        if weight is not None:
            columns = _columns(weight, units, _groups(user, module))
            read = [] if columns is None else [columns]
        elif (isinstance(module, HAND_ON) or _hands_on(user)) and user is not graph.output:
            read = _reading_weights(graph, user, units)
        else:
            read = []
        if not read:
            return []
        found += read
    return found


def _columns(weight: Tensor, units: int, groups: int) -> Tensor | None:
    """The part (unit, …) of a weight (out, in, …) that reads each unit; a flattened map's positions are its unit's."""
    weight = weight.detach().double().cpu()
    if weight.dim() == 2 and weight.shape[1] % units == 0:
        return weight.unflatten(1, (units, -1)).movedim(1, 0).flatten(1)
    if weight.dim() > 2 and weight.shape[1] * groups == units:
        # the filters of a group read its own units alone
        return weight.unflatten(0, (groups, -1)).movedim(2, 1).flatten(0, 1).flatten(1)
    return None


def _weight(graph: NetworkGraph, node: torch.fx.Node) -> Tensor | None:
    """Weight of a convolution or linear layer, called as a module or as a function."""
    if node.op == "call_module":
        module = graph.modules[str(node.target)]
        return module.weight if isinstance(module, Convolution | nn.Linear) else None
    if _is_function(node, (*CONVOLUTION_FUNCTIONS, functional.linear)) and len(node.args) > 1:
        return graph.attributes.get(node.args[1])  # type: ignore[arg-type]
    return None


def _groups(node: torch.fx.Node, module: Any) -> int:
    if module is not None:
        return int(getattr(module, "groups", 1))
    given = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return given if isinstance(given, int) else 1


def _is_function(node: torch.fx.Node, functions: Sequence[Any]) -> bool:
    if node.op == "call_method":
        return functions is ACTIVATION_FUNCTIONS and node.target == "relu"
    return node.op == "call_function" and node.target in functions


def _hands_on(node: torch.fx.Node) -> bool:
    """Whether a function passes a map on, its units apart."""
    if node.target in ("mean", torch.mean):
        given = node.args[1:] or (node.kwargs.get("dim", ()),)
        dims = given[0] if isinstance(given[0], Sequence) else given
        return bool(dims) and set(dims) <= {2, 3, -1, -2}
    if node.op == "call_method":
        return node.target in METHODS
    return _is_function(node, (*ACTIVATION_FUNCTIONS, *POOLING_FUNCTIONS))
