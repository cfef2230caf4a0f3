"""Norms of the weights that make a site's units, backwards from the site, and of those that read them, forwards from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.capture import DROPOUT, NetworkGraph, module_output
from unitlab.compute.engine.layers import BatchNorm, Site
from unitlab.compute.engine.unit_dimension import units_back, units_first

OWN = ("l1_norm", "l2_norm", "l1_norm_folded", "l2_norm_folded", "batch_norm_scale")
OUTGOING = ("outgoing_l1_norm", "outgoing_l2_norm")

functional = nn.functional
ACTIVATIONS = (
    nn.ReLU | nn.ReLU6 | nn.SiLU | nn.Hardswish | nn.GELU | nn.ELU | nn.LeakyReLU | nn.Identity | nn.Sigmoid | nn.Hardsigmoid
    | DROPOUT
)  # fmt: skip
ACTIVATION_FUNCTIONS = (
    module_output, torch.clone, functional.relu, torch.relu, functional.relu6, functional.silu, functional.gelu,
    functional.hardswish, functional.leaky_relu, functional.dropout,
)  # fmt: skip
# what hands a unit's map on, smaller or flat, and mixes it with no other unit's
POOLING = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Flatten
HAND_ON = ACTIVATIONS | POOLING | BatchNorm
POOLING_FUNCTIONS = (
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d, torch.flatten,
    torch.max_pool2d,
)  # fmt: skip
METHODS = ("relu", "contiguous", "squeeze")


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
    weight, norm = _own_filter(graph, node, site.unit_dim)
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
    read = _reading_weights(graph, node, units, site.unit_dim)
    if read:
        columns = torch.cat(read, 1)
        found["outgoing_l1_norm"] = columns.abs().sum(1).numpy().astype(np.float32)
        found["outgoing_l2_norm"] = columns.square().sum(1).sqrt().numpy().astype(np.float32)
    return found


def _own_filter(graph: NetworkGraph, node: torch.fx.Node, dim: int) -> tuple[Tensor | None, Any]:
    """Walk back from a site over activations and batch norm to the layer whose rows are the units' filters.

    ``dim`` is where the units are: dimension 1 of what a convolution gives, the last of what a linear layer does.
    """
    norm: Any = None
    while True:
        known = graph.weights(node)
        if known is not None:
            return known[0] if dim == _feature_dim(graph, node, known[0]) else None, norm
        module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
        moved = _moved(node, dim, back=True)
        sources: Sequence[Any] = node.all_input_nodes
        if moved is not None:
            dim = moved
        elif norm is None and dim == 1 and (isinstance(module, BatchNorm) or node.target is functional.batch_norm):
            norm, sources = module or _batch_norm(graph, node), node.args[:1]
        elif not (isinstance(module, ACTIVATIONS) or _is_function(node, ACTIVATION_FUNCTIONS)):
            return None, norm
        if len(sources) != 1 or not isinstance(sources[0], torch.fx.Node):
            return None, norm
        node = sources[0]


def _feature_dim(graph: NetworkGraph, node: torch.fx.Node, weight: Tensor) -> int:
    """The dimension of a layer's value, or of what it reads, that its weights have rows or columns for."""
    return len(graph.shapes[node]) - 1 if weight.dim() == 2 else 1


def _moved(node: torch.fx.Node, dim: int, *, back: bool) -> int | None:
    """Where a dimension is before (``back``) or behind a permutation; None where the node is none."""
    if node.target in (units_first, units_back):
        # before it, dimension 1 of `units_first` was the other one, and dimensions between them were one further to the front
        rank, other = max(dim, int(node.args[1])) + 1, int(node.args[1])  # type: ignore[arg-type]
        from_dim, to_dim = (other, 1) if node.target is units_first else (1, other)
        order = [axis for axis in range(rank) if axis != from_dim]
        order.insert(to_dim, from_dim)
    elif node.target in (torch.permute, "permute"):
        given: Any = node.args[1] if isinstance(node.args[1], Sequence) else node.args[1:]
        order = [axis % len(given) for axis in given]
    else:
        return None
    return order[dim] if back else order.index(dim)


def _batch_norm(graph: NetworkGraph, node: torch.fx.Node) -> nn.BatchNorm2d | None:
    """A functional batch norm as a module."""
    given: Any = node.args
    if len(given) != 8:
        return None
    _, mean, variance, weight, bias, _, _, epsilon = given
    if not all(isinstance(part, torch.fx.Node) and part in graph.constants for part in (mean, variance, weight, bias)):
        return None
    norm = nn.BatchNorm2d(len(graph.constants[variance]), eps=epsilon, device="meta")
    norm.running_mean, norm.running_var = graph.constants[mean], graph.constants[variance]
    norm.weight, norm.bias = (nn.Parameter(graph.constants[part], requires_grad=False) for part in (weight, bias))
    return norm


def _reading_weights(graph: NetworkGraph, node: torch.fx.Node, units: int, dim: int) -> list[Tensor]:
    """Weights (unit, …) of all layers that read a site, whose units are along ``dim``; none where anything else does."""
    found: list[Tensor] = []
    for user in (other for other in graph.nodes if node in other.all_input_nodes):
        known = graph.weights(user)
        module = graph.modules.get(str(user.target)) if user.op == "call_module" else None
        moved = _moved(user, dim, back=False)
        if known is not None:
            columns = _columns(known[0], units, _groups(user, module))
            read = [] if columns is None or dim != _feature_dim(graph, user, known[0]) else [columns]
        elif moved is not None:
            read = _reading_weights(graph, user, units, moved)
        elif (isinstance(module, HAND_ON) or _hands_on(user)) and user is not graph.output and _keeps_units(user, module, dim):
            read = _reading_weights(graph, user, units, dim)
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


def _keeps_units(node: torch.fx.Node, module: Any, dim: int) -> bool:
    """Whether units stay in their dimension, as they do everywhere in dimension 1; elsewhere behind activations alone."""
    return dim == 1 or isinstance(module, ACTIVATIONS) or _is_function(node, ACTIVATION_FUNCTIONS)


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
    sizes = node.args[1:]
    if node.target in ("view", "reshape"):
        # (image, everything else): other sizes may hand a unit's positions to its neighbours
        return len(sizes) == 2
    if node.target in ("flatten", torch.flatten):
        return bool((*sizes, node.kwargs.get("start_dim", 0))[0] == 1)
    if node.op == "call_method":
        return node.target in METHODS
    return _is_function(node, (*ACTIVATION_FUNCTIONS, *POOLING_FUNCTIONS))
