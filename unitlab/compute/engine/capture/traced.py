"""Networks captured by torch.fx, their in-place operations undone.

It keeps the module names that people use, its graphs take any batch size, and leaf modules stay whole, so that a convolution
runs with the weights' own memory format. A network that it cannot trace is captured by torch.export or ablated with hooks.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.graph import inplace_methods

from unitlab.compute.engine.capture.graph import NetworkGraph
from unitlab.compute.engine.capture.memory import Modules, is_view, module_output, name_of, same_storage, with_inplace
from unitlab.errors import what_it_says

# logits of the graph and of the network differ by no more than this share of their range, whatever the memory format
CLEARLY_SAME, MOST_NOISE = 1e-5, 1e-3
Noise = Callable[[], float]


def no_noise() -> float:
    return 0.0


class CannotCapture(Exception):
    """The network cannot be captured; the message says why. Forward hooks are the way that remains."""


class _Tracer(torch.fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[torch.fx.Node]] = {}

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        name = self.path_of_module(m)
        calls = self.calls.setdefault(name, [])
        position = len(calls)
        calls.append(None)  # type: ignore[arg-type]  # numbered in the order in which the calls begin, as hooks see them
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, torch.fx.Proxy):
            out = self.create_proxy("call_function", module_output, (out,), {})
            calls[position] = out.node
        return out


def capture(model: nn.Module, sample: Tensor, expected: Tensor, noise: Noise = no_noise) -> NetworkGraph:
    """Capture ``model`` (in eval mode) and check that it gives the logits ``expected`` for ``sample``.

    Parameters
    ----------
    model
        The network, in eval mode; it is not changed.
    sample
        A few images, ``(image, channel, row, column)``, on the model's device.
    expected
        The network's own logits for them, ``(image, category)``.
    noise
        How much logits err in the network's precision, measured when it is asked.

    Raises
    ------
    CannotCapture
        torch.fx cannot trace the network, an in-place operation cannot be undone, or the graph's logits differ from
        the network's own.
    """
    tracer = _Tracer()
    try:
        traced = tracer.trace(model)
    except Exception as error:
        raise CannotCapture(f"torch.fx cannot trace it ({what_it_says(error)})") from error
    # tracer and graph know each other: without this, Python keeps the network until it looks for cycles
    tracer.root, tracer.submodule_paths, tracer.tensor_attrs = nn.Module(), {}, {}
    modules = dict(model.named_modules())
    nodes = _without_in_place(list(traced.nodes), modules)
    inputs = [node for node in nodes if node.op == "placeholder"]
    output = nodes[-1].args[0]
    if not inputs or not isinstance(output, torch.fx.Node):
        raise CannotCapture("it does not return one tensor of logits")
    if any(node.args == () and node.users for node in inputs[1:]):
        raise CannotCapture("it takes more than one input")
    used = {str(node.target) for node in nodes if node.op == "call_module"}
    graph = NetworkGraph(
        nodes=[node for node in nodes if node.op not in ("placeholder", "output")],
        modules={name: of_its_kind(with_inplace(modules[name], False)) for name in used},
        attributes={node: operator.attrgetter(str(node.target))(model) for node in nodes if node.op == "get_attr"},
        calls=tracer.calls,
        input=inputs[0],
        output=output,
    )
    return checked(graph, sample, expected, noise)


class OwnForward(nn.Module):
    """A module of one of torch's kinds that computes something of its own, so that nobody takes it for one of the kind."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def of_its_kind(module: nn.Module) -> nn.Module:
    """The module, wrapped where ``forward`` was replaced: on it, or by a class derived from its kind, as in torch.ao."""
    kind = next(base for base in type(module).__mro__ if base.__module__.startswith("torch.nn.modules."))
    names = ("forward", "_conv_forward")
    replaced = any(name in vars(module) or getattr(type(module), name, None) != getattr(kind, name, None) for name in names)
    return OwnForward(module) if replaced and kind is not nn.Module else module


def checked(graph: NetworkGraph, sample: Tensor, expected: Tensor, noise: Noise = no_noise) -> NetworkGraph:
    """The graph without what its output does not depend on, its shapes known, if it gives the logits ``expected``."""
    wanted = {graph.output}
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    graph = replace(graph, nodes=[node for node in graph.nodes if node in wanted])
    with torch.no_grad():
        try:
            got = graph.run({graph.input: sample}, keep={graph.output})[graph.output]
        except Exception as error:
            raise CannotCapture(f"its graph does not run ({type(error).__name__}: {error})") from error
    if not isinstance(got, Tensor) or expected.shape != got.shape:
        raise CannotCapture("its graph returns something else than the network")
    spread = (expected.max() - expected.min()).abs() + 1e-30
    differing = float((expected - got).abs().max() / spread)
    # direct convolutions come within a factor of 2 of the first limit, so that beyond it the noise is measured
    if not differing <= CLEARLY_SAME and not differing <= min(MOST_NOISE, float(noise() / spread)):
        raise CannotCapture("its graph gives other logits than the network (state that changes from call to call?)")
    try:
        graph.learn_shapes(sample)
    except Exception as error:
        raise CannotCapture(f"its graph takes one image alone ({type(error).__name__}: {error})") from error
    return graph


def _functional(node: torch.fx.Node, modules: Modules) -> bool:
    """Turn an in-place node into its functional twin; whether it was one."""
    if node.op == "call_module":
        return getattr(modules[str(node.target)], "inplace", False) is True
    name = name_of(node)
    if name.strip("_") in inplace_methods or "out" in node.kwargs:
        raise CannotCapture("it assigns to parts of a tensor")
    if node.op == "call_method" and name == "view" and not any(isinstance(size, torch.dtype) for size in node.args):
        # the graph runs in another memory format than the network was written for
        node.target = "reshape"
    elif name.endswith("_") and not name.endswith("__"):
        places = (Tensor,) if node.op == "call_method" else (torch, nn.functional)
        twin = next((getattr(place, name[:-1]) for place in places if hasattr(place, name[:-1])), None)
        if twin is None:
            raise CannotCapture(f"the in-place operation {name} has no functional twin")
        node.target = name[:-1] if node.op == "call_method" else twin
        return True
    elif node.op == "call_function":
        try:
            bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # written in C, where none takes such an argument
            return False
        if bound.arguments.get("inplace") is True:
            bound.arguments["inplace"] = False
            node.args, node.kwargs = bound.args, bound.kwargs
            return True
    return False


def _without_in_place(nodes: list[torch.fx.Node], modules: Modules) -> list[torch.fx.Node]:
    """Rewrite in-place operations: whoever used the overwritten tensor afterwards now uses the new value.

    For each tensor it is known which nodes are other names of it (``same``: what relu_ or dropout returned) and which are
    views of its memory (``views``); the sets are shared between these nodes, so that what one learns all know. After
    ``b = dropout(a); v = a.flatten(1); a.relu_()`` both a and b mean what relu returned. v has changed, too, and no node says
    into what: to use it from then on is ``forbidden``, and the network is ablated through hooks.
    """
    replaced: dict[torch.fx.Node, torch.fx.Node] = {}
    same: dict[torch.fx.Node, set[torch.fx.Node]] = {}
    views: dict[torch.fx.Node, set[torch.fx.Node]] = {}
    forbidden: dict[torch.fx.Node, str] = {}
    for node in nodes:
        original = list(node.all_input_nodes)
        for used in original:
            if used in forbidden:
                raise CannotCapture(f"'{used}' is used after {forbidden[used]} overwrote a view of it")
        first = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
        overwrites = _functional(node, modules)
        node.args = torch.fx.node.map_arg(node.args, lambda used: replaced.get(used, used))
        node.kwargs = torch.fx.node.map_arg(node.kwargs, lambda used: replaced.get(used, used))
        if first is None:
            continue
        # all names of one piece of memory: they are overwritten together
        group = same.setdefault(first, {first})
        if overwrites:
            behind = {view for member in group for view in views.get(member, ())} - group
            forbidden.update(dict.fromkeys(behind, str(node)))
            group.add(node)
            same[node], views[node] = group, behind
            replaced.update(dict.fromkeys(group, node))
        elif same_storage(node, modules):
            group.add(node)
            same[node], views[node] = group, views.setdefault(first, set())
        elif is_view(node, modules):
            family = views.setdefault(first, set())
            family.update({node} | group)
            views[node] = family
    return nodes
