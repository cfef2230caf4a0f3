"""Which output of which module call a layer's name means: module names, research aliases, calls."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.capture import NetworkGraph, module_output
from unitlab.errors import UnitlabError, nearest_names

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
POOLING = nn.MaxPool2d | nn.AvgPool2d


@dataclass(frozen=True)
class Site:
    """Where units are ablated: the output of one call (counted from 0) of one module. ``layer`` is the name asked for.

    ``unit_dim`` is the output's dimension along which the units are.
    """

    layer: str
    module: str
    call: int
    calls: int
    unit_dim: int = 1

    @property
    def text(self) -> str:
        """Module name, with the call where there are several."""
        return self.module if self.calls == 1 else f"{self.module}#{self.call + 1}"


def called_modules(model: nn.Module, graph: NetworkGraph | None, sample: Tensor) -> dict[str, int]:
    """How often each module is called in one evaluation."""
    if graph is not None:
        return {name: len(calls) for name, calls in graph.calls.items()}
    counts: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(
                module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts.get(name, 0) + 1))
            )
    try:
        with torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def layer_names(model: nn.Module) -> dict[str, str]:
    """Research alias (``conv5_3``, ``fc6``) → name of its convolution or linear module."""
    aliases: dict[str, str] = {}
    kind = type(model).__name__
    features = getattr(model, "features", None)
    if kind in ("VGG", "AlexNet") and isinstance(features, nn.Sequential):
        block, within, dense = 1, 0, 6
        for name, module in model.named_modules():
            if isinstance(module, Convolution):
                within += 1
                aliases[f"conv{block}_{within}" if kind == "VGG" else f"conv{within}"] = name
            elif isinstance(module, POOLING) and kind == "VGG":
                block, within = block + 1, 0
            elif isinstance(module, nn.Linear):
                aliases[f"fc{dense}"] = name
                dense += 1
    last: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Convolution | nn.Linear):
            last.setdefault(name.rpartition(".")[2], []).append(name)
    for alias, names in last.items():
        if len(names) == 1 and names[0] != alias and re.fullmatch(r"[A-Za-z_]\w*\d\w*", alias):
            aliases.setdefault(alias, names[0])
    return aliases


def find_site(model: nn.Module, graph: NetworkGraph | None, layer: str, calls: dict[str, int]) -> Site:
    """The site that ``layer`` names.

    Raises
    ------
    UnitlabError
        No such layer (the nearest names are suggested); a module that is called several times without saying which
        call; a module that the network does not call; an alias whose ReLU is not a module.
    """
    if not isinstance(layer, str) or not layer:
        raise UnitlabError(f"layer={layer!r} is not a layer's name; give a module name such as 'layer4'")
    name, _, number = layer.partition("#")
    before_relu = name.endswith(":pre")
    name = name.removesuffix(":pre")
    aliases = layer_names(model)
    modules = dict(model.named_modules())
    if name in modules and name and not before_relu:
        return _call(layer, name, number, graph, calls)
    if name in aliases:
        convolution = _call(layer, aliases[name], number, graph, calls)
        if graph is None:
            raise UnitlabError(
                f"layer='{layer}': the network cannot be traced, so give the module's own name: "
                f"'{aliases[name]}' is the output of the layer itself, its ReLU has a name of its own"
            )
        return _around_relu(layer, convolution, graph, modules, before_relu)
    raise UnitlabError(f"the network has no layer '{layer}'. {nearest_names(name, [*aliases, *calls])}")


def _call(layer: str, module: str, number: str, graph: NetworkGraph | None, calls: dict[str, int]) -> Site:
    """The numbered call of a module."""
    count = calls.get(module, 0)
    if count == 0:
        raise UnitlabError(f"layer='{layer}': the network has the module '{module}' but does not call it")
    if number:
        if not number.isdigit() or not 1 <= int(number) <= count:
            raise UnitlabError(f"layer='{layer}': '{module}' is called {count} times; valid: {module}#1 … {module}#{count}")
        index = int(number) - 1
    elif count > 1:
        described = [f"{module}#{i + 1}{_feeds(module, i, graph)}" for i in range(count)]
        raise UnitlabError(f"layer='{layer}' is called {count} times; say which call: {', '.join(described)}")
    else:
        index = 0
    if graph is not None and graph.calls[module][index] is None:
        raise UnitlabError(f"layer='{layer}': the call does not return a tensor")
    return Site(layer, module, index, count)


def _feeds(module: str, call: int, graph: NetworkGraph | None) -> str:
    """Names of what uses the output of a call."""
    if graph is None or graph.calls[module][call] is None:
        return ""
    users = [user for user in graph.calls[module][call].users if user.target is not module_output]
    names = [str(user.target) if user.op == "call_module" else user.name for user in users]
    return f" (feeds {', '.join(names[:2])})" if names else ""


def _around_relu(layer: str, convolution: Site, graph: NetworkGraph, modules: dict[str, nn.Module], before: bool) -> Site:
    """The call whose output enters (``before``) or leaves the ReLU behind a convolution."""
    owner = {node: (name, i) for name, nodes in graph.calls.items() for i, node in enumerate(nodes)}
    node = graph.calls[convolution.module][convolution.call]
    entering = node
    while True:
        users = [user for user in graph.nodes if node in user.all_input_nodes]
        following = users[0] if len(users) == 1 else None
        if following is None:
            break
        module = modules.get(str(following.target)) if following.op == "call_module" else None
        if isinstance(module, nn.ReLU | nn.ReLU6):
            if before:
                break
            node = next(n for n in graph.calls[str(following.target)] if n is not None and n.args[0] is following)
            name, call = owner[node]
            return Site(layer, name, call, len(graph.calls[name]))
        if following.op == "call_function" and following.target in (nn.functional.relu, torch.relu) and not before:
            name = convolution.text
            raise UnitlabError(
                f"layer='{layer}': the ReLU behind '{name}' is a function, not a module; "
                f"give '{name}' or '{layer}:pre' (zeroing before a ReLU equals zeroing after it)"
            )
        if not (isinstance(module, BatchNorm) or following.target is module_output):
            break
        node = following
        if node in owner:
            entering = node
    name, call = owner[entering]
    return Site(layer, name, call, len(graph.calls[name]))
