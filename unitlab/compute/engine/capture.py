"""A network captured as a graph without in-place operations, in which the output of every module call is a node.

torch.fx is the one way in: it keeps the module names that people use, its graphs take any batch size, and leaf modules
stay whole, so that a convolution runs with the weights' own memory format. A network that it cannot trace is ablated
with forward hooks instead.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.unit_dimension import units_back, units_first
from unitlab.errors import what_it_says

Values = dict[torch.fx.Node, Any]

VIEW_METHODS = {
    "view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "narrow", "expand",
    "unbind", "t", "select", "view_as", "contiguous", "detach", "swapaxes", "movedim", "unflatten",
}  # fmt: skip
IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}

# in eval mode these return their very input
DROPOUT = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout | nn.FeatureAlphaDropout
# what they return is memory that nobody else holds; Identity, Dropout and Flatten return their input or a view of it
FRESH_MODULES = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
WEIGHTED_FUNCTIONS = (nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d)
FRESH_FUNCTIONS = (*WEIGHTED_FUNCTIONS, operator.add)
IN_PLACE_FUNCTIONS = {nn.functional.relu, nn.functional.relu6, nn.functional.silu, nn.functional.hardswish}


# logits of the graph and of the network differ by no more than this share of their range, whatever the memory format
CLEARLY_SAME, MOST_NOISE = 1e-5, 1e-3
Noise = Callable[[], float]


def no_noise() -> float:
    return 0.0


class CannotCapture(Exception):
    """The network cannot be captured; the message says why. Forward hooks are the way that remains."""


def module_output(value: Tensor) -> Tensor:
    """What a module call returned: a node of its own, so that an ablation reaches only those who use the return value."""
    return value


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


@dataclass
class Overwriting:
    """How an operation may overwrite its first input: the nodes that hold that tensor, and what to call."""

    input: list[torch.fx.Node]
    twin: Callable[..., Tensor]


@dataclass
class NetworkGraph:
    """Nodes in the order of execution, the modules that they call and, for every module call, the node of its output.

    ``relu(conv(x)) + conv.weight.mean()`` has a node for each operation and, behind each module call, one of `module_output`:
    ``calls["conv"][0]`` is that node, where the layer "conv" is ablated. The weight's mean is one of the ``constants``.
    """

    nodes: list[torch.fx.Node]
    modules: dict[str, nn.Module]
    attributes: dict[torch.fx.Node, Any]
    calls: dict[str, list[torch.fx.Node]]
    input: torch.fx.Node
    output: torch.fx.Node
    # of each node that depends on the image: the shape of its value for one image, and how many rows an image has. Windows of
    # attention may lie in the first dimension; what depends on sizes alone, as arange(tokens) does, has none
    shapes: dict[torch.fx.Node, tuple[int, ...]] = field(default_factory=dict)
    rows: dict[torch.fx.Node, int] = field(default_factory=dict)
    by_export: bool = False
    unproved: set[torch.fx.Node] = field(default_factory=set)  # module outputs that are not what hooks see

    def evaluate(self, node: torch.fx.Node, values: Mapping[torch.fx.Node, Any]) -> Any:
        """Value of one node, given the values of the nodes that it uses."""
        if node in self.attributes:
            return self.attributes[node]
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda used: values[used])
        if node.op == "call_module":
            return self.modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def run(self, values: Values, keep: set[torch.fx.Node]) -> Values:
        """Evaluate the whole graph from ``values`` of its input; the values that are not kept are dropped in time."""
        return self.run_slice(0, len(self.nodes), values, keep)

    def run_slice(self, start: int, end: int, values: Values, keep: set[torch.fx.Node]) -> Values:
        """Evaluate the nodes from ``start`` to ``end`` and drop, among the values, what no later node uses."""
        in_place = not torch.is_grad_enabled()
        for node in self.nodes[start:end]:
            overwriting = self.overwriting.get(node) if in_place else None
            if overwriting is not None and keep.isdisjoint(overwriting.input):
                values[node] = overwriting.twin(*(values[used] for used in node.all_input_nodes))
            else:
                values[node] = self.evaluate(node, values)
            for used in self._last_uses.get(node, ()):
                if used not in keep:
                    values.pop(used, None)
        return values

    @cached_property
    def overwriting(self) -> dict[torch.fx.Node, Overwriting]:
        """Activations and sums that may overwrite their first input, since nothing else reads it.

        In ``relu(bn(x))`` nobody else reads what bn returned, and bn made that memory: relu may overwrite it. In
        ``relu(x) + x`` x has a second reader; in ``relu(flatten(x))`` the memory is x's, whose readers are not looked up.
        """
        uses = Counter(used for node in self.nodes for used in node.all_input_nodes)
        found = {}
        for node in self.nodes:
            twin = _overwriting_twin(node, self.modules)
            source = node.args[0] if node.args else None
            chain: list[torch.fx.Node] = []
            while twin is not None and isinstance(source, torch.fx.Node) and uses[source] == 1:
                chain.append(source)
                if source.target is not module_output:
                    maker = self.modules.get(str(source.target)) if source.op == "call_module" else None
                    if isinstance(maker, FRESH_MODULES) or source.target in FRESH_FUNCTIONS:
                        found[node] = Overwriting(chain, twin)
                    break
                source = source.args[0]
        return found

    @cached_property
    def _last_uses(self) -> dict[torch.fx.Node, list[torch.fx.Node]]:
        """Node → the values that it is the last to use."""
        last = {used: node for node in self.nodes for used in node.all_input_nodes}
        by_node: dict[torch.fx.Node, list[torch.fx.Node]] = {}
        for used, node in last.items():
            by_node.setdefault(node, []).append(used)
        return by_node

    @cached_property
    def constants(self) -> Values:
        """Values that do not depend on the images."""
        dependent = {self.input}
        constants: Values = {}
        for node in self.nodes:
            if any(used in dependent for used in node.all_input_nodes):
                dependent.add(node)
            else:
                constants[node] = self.evaluate(node, constants)
        return constants

    def weights(self, node: torch.fx.Node) -> tuple[Tensor, Tensor | None] | None:
        """Weights and bias of a convolution or linear layer, module or function; None of any other operation."""
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            return module.weight, module.bias
        if node.target not in WEIGHTED_FUNCTIONS:
            return None
        given: dict[str, Any] = {**dict(zip(("input", "weight", "bias"), node.args, strict=False)), **node.kwargs}
        weight, bias = given.get("weight"), given.get("bias")
        if weight not in self.constants or (bias is not None and bias not in self.constants):
            return None
        return self.constants[weight], None if bias is None else self.constants[bias]

    def stand_in(self, node: torch.fx.Node, count: int, device: torch.device) -> Any:
        """A tensor of the right shape for ``count`` images; what is no tensor is worked out from such."""
        if node in self.constants:
            return self.constants[node]
        if node in self.shapes:
            rows = self.rows[node]
            shape = (count * rows, *self.shapes[node][1:]) if rows else self.shapes[node]
            return torch.empty(1, device=device).expand(shape)
        return self.evaluate(node, {used: self.stand_in(used, count, device) for used in node.all_input_nodes})

    def of_images(self, node: torch.fx.Node, value: Any, images: Tensor) -> Any:
        """The part of a node's value that some images of the batch have, one after the other."""
        rows = self.rows.get(node, 0)
        if rows == 0:
            return value
        if not isinstance(value, Tensor):
            return type(value)(self.of_images(node, part, images) for part in value)
        if rows != 1:
            return value.unflatten(0, (-1, rows)).index_select(0, images).flatten(0, 1)
        if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):  # which index_select does not keep
            return value.permute(0, 2, 3, 1).index_select(0, images).permute(0, 3, 1, 2)
        return value.index_select(0, images)

    def joined(self, node: torch.fx.Node, parts: list[Any], count: int, device: torch.device) -> Any:
        """A value for ``count`` images from its parts; what is no tensor says something of sizes and is worked out anew.

        EfficientNet-Lite asks for ``images.size(0)`` and reshapes by it behind the site: 128, where the parts had 5. A tuple of
        tensors is what ``x.chunk(2, 1)`` gives, where a part of it is taken behind the site only.
        """
        if node in self.attributes or (isinstance(parts[0], Tensor) and not self.rows.get(node)):
            return parts[0]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        if _are_tensors(parts[0]):
            return type(parts[0])(torch.cat(elements) for elements in zip(*parts, strict=True))
        return self.stand_in(node, count, device)

    def learn_shapes(self, sample: Tensor) -> None:
        """Fill ``shapes`` and ``rows`` in, from one image and from two."""
        try:
            of_one, of_two = (self._shapes(images) for images in (sample, torch.cat([sample, sample])))
        except Exception as error:
            raise CannotCapture(f"its graph takes one image alone ({type(error).__name__}: {error})") from error
        for node, several in of_one.items():
            shape, twice = several[0], of_two[node][0]
            self.rows[node] = shape[0] if shape and twice[0] == 2 * shape[0] else 0
            if not isinstance(several, list):
                self.shapes[node] = shape

    def _shapes(self, images: Tensor) -> dict[torch.fx.Node, Sequence[tuple[int, ...]]]:
        """Shape of every tensor that depends on the images, in a tuple, or in a list those of several tensors in one value."""
        dependent: set[torch.fx.Node] = {self.input}
        shapes: dict[torch.fx.Node, Sequence[tuple[int, ...]]] = {self.input: (tuple(images.shape),)}
        values: Values = {self.input: images}
        with torch.no_grad():
            for place, node in enumerate(self.nodes):
                self.run_slice(place, place + 1, values, {node})
                if any(used in dependent for used in node.all_input_nodes):
                    dependent.add(node)
                    value = values[node]
                    if isinstance(value, Tensor):
                        shapes[node] = (tuple(value.shape),)
                    elif _are_tensors(value):
                        shapes[node] = [tuple(part.shape) for part in value]
        return shapes

    def with_units_first(self, node: torch.fx.Node, dim: int) -> torch.fx.Node:
        """The node of a site's value with its units in dimension 1, which all that follows now goes through.

        A map (image, row, column, unit) gets two nodes behind it: `units_first`, whose units are ablated like channels, and
        `units_back`, which the network goes on with. Where units are in dimension 1 nothing changes.
        """
        if dim == 1:
            return node
        for user in node.users:
            if user.target is units_first and user.args[1] == dim:
                return user
        with node.graph.inserting_after(node):
            first = node.graph.call_function(units_first, (node, dim))
        with node.graph.inserting_after(first):
            back = node.graph.call_function(units_back, (first, dim))
        node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not first)
        place = self.nodes.index(node) + 1
        self.nodes[place:place] = [first, back]
        if node in self.shapes:
            self.shapes[back] = self.shapes[node]
            self.shapes[first] = tuple(units_first(torch.empty(1).expand(self.shapes[node]), dim).shape)
            self.rows[first] = self.rows[back] = self.rows[node]
        for cached in ("overwriting", "_last_uses", "constants"):
            self.__dict__.pop(cached, None)
        return first

    def downstream(self, node: torch.fx.Node) -> list[torch.fx.Node]:
        """Nodes that depend on ``node`` and that the output depends on, in the order of execution."""
        after = {node}
        for other in self.nodes:
            if any(used in after for used in other.all_input_nodes):
                after.add(other)
        before = {self.output}
        for other in reversed(self.nodes):
            if other in before:
                before.update(other.all_input_nodes)
        return [other for other in self.nodes if other in after and other in before and other is not node]


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
        modules={name: _not_in_place(modules[name]) for name in used},
        attributes={node: operator.attrgetter(str(node.target))(model) for node in nodes if node.op == "get_attr"},
        calls=tracer.calls,
        input=inputs[0],
        output=output,
    )
    return checked(graph, sample, expected, noise)


def checked(graph: NetworkGraph, sample: Tensor, expected: Tensor, noise: Noise = no_noise) -> NetworkGraph:
    """The graph without what its output does not depend on, its shapes known, if it gives the logits ``expected``."""
    graph = _without_unused(graph)
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
    graph.learn_shapes(sample)
    return graph


def _are_tensors(value: Any) -> bool:
    """Whether a value is several tensors, as ``x.chunk(2, 1)`` is."""
    return isinstance(value, tuple | list) and len(value) > 0 and all(isinstance(part, Tensor) for part in value)


def _without_unused(graph: NetworkGraph) -> NetworkGraph:
    """Drop what the output does not depend on; keep the module outputs, which a layer may name."""
    wanted = {graph.output}
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    nodes = [node for node in graph.nodes if node in wanted]
    return replace(graph, nodes=nodes)


def _overwriting_twin(node: torch.fx.Node, modules: Mapping[str, nn.Module]) -> Callable[..., Tensor] | None:
    """An activation or sum as a function of its tensors that overwrites the first of them; None for other operations."""
    if (
        node.target is operator.add
        and len(node.all_input_nodes) == 2
        and not any(isinstance(a, int | float) for a in node.args)
    ):
        return lambda total, other: (
            total.add_(other) if (total.shape, total.dtype) == (other.shape, other.dtype) else total + other
        )
    if len(node.args) != 1:
        return None
    if node.op == "call_module":
        module = modules[str(node.target)]
        if getattr(module, "inplace", None) is not False or isinstance(module, DROPOUT):
            return None
        twin = copy.copy(module)
        twin.inplace = True  # type: ignore[assignment]
        return twin
    if node.target is torch.relu:
        return torch.relu_
    if node.target in IN_PLACE_FUNCTIONS:
        return functools.partial(node.target, **{**node.kwargs, "inplace": True})  # type: ignore[arg-type]
    return None


def _not_in_place(module: nn.Module) -> nn.Module:
    """The module, or a shallow copy of it that leaves its input alone."""
    if getattr(module, "inplace", False) is not True:
        return module
    twin = copy.copy(module)
    twin.inplace = False  # type: ignore[assignment]
    return twin


def _in_place_flag(node: torch.fx.Node) -> bool:
    """Whether a function is called with ``inplace=True``, by keyword or by position."""
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return node.kwargs.get("inplace") is True
    return bound.arguments.get("inplace") is True


def _functional(node: torch.fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Turn an in-place node into its functional twin; whether it was one."""
    if node.op == "call_module":
        return getattr(modules[str(node.target)], "inplace", False) is True
    if node.op == "call_method":
        name = str(node.target)
        if name == "view" and not any(isinstance(size, torch.dtype) for size in node.args):
            # the graph runs in another memory format than the network was written for
            node.target = "reshape"
            return False
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            if not hasattr(Tensor, name[:-1]):
                raise CannotCapture(f"the in-place method {name} has no functional twin")
            node.target = name[:-1]
            return True
        return False
    if node.op != "call_function":
        return False
    if node.target is operator.setitem or "out" in node.kwargs:
        raise CannotCapture("it assigns to parts of a tensor")
    if node.target in IN_PLACE_OPERATORS:
        node.target = IN_PLACE_OPERATORS[node.target]
        return True
    name = getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        twin = getattr(torch, name[:-1], None) or getattr(nn.functional, name[:-1], None)
        if twin is None:
            raise CannotCapture(f"the in-place function {name} has no functional twin")
        node.target = twin
        return True
    if _in_place_flag(node):
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
        bound.arguments["inplace"] = False
        node.args, node.kwargs = tuple(bound.args), dict(bound.kwargs)
        return True
    return False


def _same_storage(node: torch.fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the node returns its first argument itself."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.Identity | DROPOUT)
    if node.op == "call_function":
        return node.target is module_output or node.target is nn.functional.dropout
    return node.op == "call_method" and node.target in ("contiguous", "to", "float", "double")


def _is_view(node: torch.fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.Flatten | nn.Unflatten)
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name in VIEW_METHODS or name == "getitem"


def _without_in_place(nodes: list[torch.fx.Node], modules: Mapping[str, nn.Module]) -> list[torch.fx.Node]:
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
        elif _same_storage(node, modules):
            group.add(node)
            same[node], views[node] = group, views.setdefault(first, set())
        elif _is_view(node, modules):
            family = views.setdefault(first, set())
            family.update({node} | group)
            views[node] = family
    return nodes
