"""What operations do with the memory of their input: hand it on, look at it, or overwrite it where nobody reads it again."""

from __future__ import annotations

import copy
import functools
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.fx
from torch import Tensor, nn

Modules = Mapping[str, nn.Module]

VIEW_METHODS = {
    "view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "narrow", "expand",
    "unbind", "t", "select", "view_as", "contiguous", "detach", "swapaxes", "movedim", "unflatten", "getitem",
}  # fmt: skip
# in eval mode these return their very input
DROPOUT = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout | nn.FeatureAlphaDropout
# what they return is memory that nobody else holds; Identity, Dropout and Flatten return their input or a view of it
FRESH_MODULES = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
WEIGHTED_FUNCTIONS = (nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d)
FRESH_FUNCTIONS = (*WEIGHTED_FUNCTIONS, operator.add)
IN_PLACE_FUNCTIONS = {nn.functional.relu, nn.functional.relu6, nn.functional.silu, nn.functional.hardswish}


def module_output(value: Tensor) -> Tensor:
    """What a module call returned: a node of its own, so that an ablation reaches only those who use the return value."""
    return value


def name_of(node: torch.fx.Node) -> str:
    """Name of the method or function that a node calls."""
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def same_storage(node: torch.fx.Node, modules: Modules) -> bool:
    """Whether the node returns its first argument itself."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.Identity | DROPOUT)
    if node.op == "call_function":
        return node.target is module_output or node.target is nn.functional.dropout
    return node.op == "call_method" and node.target in ("contiguous", "to", "float", "double")


def is_view(node: torch.fx.Node, modules: Modules) -> bool:
    """Whether the node may return a view of its first argument."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.Flatten | nn.Unflatten)
    return name_of(node) in VIEW_METHODS


def with_inplace(module: nn.Module, inplace: bool) -> nn.Module:
    """A module with this flag: itself, or a shallow copy of it."""
    if getattr(module, "inplace", inplace) is inplace:
        return module
    twin = copy.copy(module)
    twin.inplace = inplace  # type: ignore[assignment]
    return twin


@dataclass
class Overwriting:
    """How an operation may overwrite its first input: the nodes that hold that tensor, and what to call."""

    input: list[torch.fx.Node]
    twin: Callable[..., Tensor]


def overwriting_of(nodes: Sequence[torch.fx.Node], modules: Modules) -> dict[torch.fx.Node, Overwriting]:
    """Activations and sums that may overwrite their first input, since nothing else reads it.

    In ``relu(bn(x))`` nobody else reads what bn returned, and bn made that memory: relu may overwrite it. In
    ``relu(x) + x`` x has a second reader; in ``relu(flatten(x))`` the memory is x's, whose readers are not looked up.
    """
    uses = Counter(used for node in nodes for used in node.all_input_nodes)
    found = {}
    for node in nodes:
        twin = _overwriting_twin(node, modules)
        source = node.args[0] if node.args else None
        chain: list[torch.fx.Node] = []
        while twin is not None and isinstance(source, torch.fx.Node) and uses[source] == 1:
            chain.append(source)
            if source.target is not module_output:
                maker = modules.get(str(source.target)) if source.op == "call_module" else None
                if isinstance(maker, FRESH_MODULES) or source.target in FRESH_FUNCTIONS:
                    found[node] = Overwriting(chain, twin)
                break
            source = source.args[0]
    return found


def _overwriting_twin(node: torch.fx.Node, modules: Modules) -> Callable[..., Tensor] | None:
    """An activation or sum as a function of its tensors that overwrites the first of them; None for other operations."""
    if node.target is operator.add and len(node.all_input_nodes) == 2:
        return lambda total, other: (
            total.add_(other) if (total.shape, total.dtype) == (other.shape, other.dtype) else total + other
        )
    if len(node.args) != 1:
        return None
    if node.op == "call_module":
        module = modules[str(node.target)]
        unsure = getattr(module, "inplace", None) is not False or isinstance(module, DROPOUT)
        return None if unsure else with_inplace(module, True)
    if node.target is torch.relu:
        return torch.relu_
    if node.target in IN_PLACE_FUNCTIONS:
        return functools.partial(node.target, **{**node.kwargs, "inplace": True})  # type: ignore[arg-type]
    return None
