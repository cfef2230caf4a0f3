"""A network captured as a graph without in-place operations, in which the output of every module call is a node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.capture.memory import WEIGHTED_FUNCTIONS, Overwriting, overwriting_of
from unitlab.compute.engine.unit_dimension import units_back, units_first

Values = dict[torch.fx.Node, Any]

CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


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
        """Activations and sums that may overwrite their first input, since nothing else reads it."""
        return overwriting_of(self.nodes, self.modules)

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

    def geometry(self, node: torch.fx.Node) -> dict[str, tuple[int, int]] | None:
        """Stride, padding and dilation of a convolution of maps, all channels and zeros around; None of any other operation."""
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, nn.Conv2d) and node.target is not torch.conv2d:
            return None
        given = {**dict(zip(CONVOLUTION_ARGUMENTS, node.args, strict=False)), **node.kwargs} if module is None else vars(module)
        options: list[Any] = [given.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
        plain = given.get("groups", 1) == 1 and given.get("padding_mode", "zeros") == "zeros"
        pairs = [(option[0], option[-1]) if isinstance(option, tuple | list) else (option, option) for option in options]
        # "same"; a number that is worked out
        if not plain or not all(isinstance(number, int) for pair in pairs for number in pair):
            return None
        return dict(zip(("stride", "padding", "dilation"), pairs, strict=True))

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
        of_one, of_two = (dict(self._shapes(images)) for images in (sample, torch.cat([sample, sample])))
        for node, found in of_one.items():
            several = isinstance(found, list)
            shape, twice = (found[0], of_two[node][0]) if several else (found, of_two[node])
            self.rows[node] = shape[0] if shape and twice[0] == 2 * shape[0] else 0
            if not several:
                self.shapes[node] = shape

    def _shapes(self, images: Tensor) -> Iterator[tuple[torch.fx.Node, Any]]:
        """Shape of every tensor that depends on the images, or a list of those of several tensors in one value."""
        values: Values = {self.input: images}
        yield self.input, tuple(images.shape)
        with torch.no_grad():
            for place, node in enumerate(self.nodes):
                value = self.run_slice(place, place + 1, values, {node})[node]
                if node in self.constants:
                    continue
                if isinstance(value, Tensor):
                    yield node, tuple(value.shape)
                elif _are_tensors(value):
                    yield node, [tuple(part.shape) for part in value]

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
        """Nodes that depend on ``node``, in the order of execution; the output depends on all that there are."""
        after = {node}
        for other in self.nodes:
            if any(used in after for used in other.all_input_nodes):
                after.add(other)
        return [other for other in self.nodes if other in after and other is not node]


def _are_tensors(value: Any) -> bool:
    """Whether a value is several tensors, as ``x.chunk(2, 1)`` is."""
    return isinstance(value, tuple | list) and len(value) > 0 and all(isinstance(part, Tensor) for part in value)
