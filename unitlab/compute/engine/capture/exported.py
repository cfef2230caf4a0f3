"""Networks that torch.fx cannot trace, captured by torch.export in the operations that the engine knows.

torch.export follows Python's control flow for images of one shape and gives ATen operations, none of them in place. Its
``nn_module_stack`` names the module of an operation, not what a module returns: an identity has no operation at all. While it
traces, every module therefore passes what it returns through an operation of its own, which is a `module_output` in the graph.
ATen operations become the functions that `separable` and `contributions` have in their tables, so that one table serves both
captures.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from unitlab.compute.engine.capture.graph import NetworkGraph
from unitlab.compute.engine.capture.memory import module_output
from unitlab.compute.engine.capture.traced import CannotCapture, Noise, checked, no_noise
from unitlab.errors import what_it_says

# names whose ATen operation takes the same arguments in the same order as the function that people write
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(F, name)
        for name in (
            "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool1d", "avg_pool2d", "dropout", "gelu", "hardsigmoid",
            "hardswish", "hardtanh", "leaky_relu", "linear", "mish", "pad", "pixel_shuffle", "relu6",
            "scaled_dot_product_attention", "silu", "softplus",
        )
    },
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), torch.reshape),
    "split_with_sizes": torch.split,
    **{
        name: getattr(torch, name)
        for name in (
            "abs", "adaptive_avg_pool1d", "amax", "amin", "cat", "chunk", "clamp", "clone", "conv1d", "conv2d", "conv3d",
            "exp", "flatten", "layer_norm", "max_pool2d", "maximum", "mean", "minimum", "movedim", "narrow", "neg", "permute",
            "pow", "relu", "select", "sigmoid", "split", "sqrt", "square", "squeeze", "stack", "sum", "tanh", "transpose",
            "unbind", "unsqueeze",
        )
    },
}  # fmt: skip
# the same where there is nothing to say of rounding or of a factor
OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}


def exported(model: nn.Module, sample: Tensor, expected: Tensor, noise: Noise = no_noise) -> NetworkGraph:
    """Capture ``model`` as `capture` does, by torch.export.

    Raises
    ------
    CannotCapture
        torch.export cannot, the network changes its own state, or the graph's logits differ from the network's own.
    """
    several = torch.cat([sample, sample.flip(-1)])
    counts: dict[str, int] = {}
    try:
        with torch.no_grad(), warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            # it may look at the network more than once
            stack.callback(model.register_forward_pre_hook(lambda *_: counts.clear()).remove)
            for name, module in model.named_modules():
                if name:
                    stack.callback(module.register_forward_hook(partial(_marked, name, counts)).remove)
            dynamic = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(model, (several,), dynamic_shapes=dynamic)
            # which takes two thirds of the time and is of use where something is written in place
            program = program.run_decompositions({}) if _writes(program.graph) else program
    except Exception as error:
        raise CannotCapture(f"torch.export cannot capture it ({what_it_says(error)})") from error
    signature = program.graph_signature
    if signature.buffers_to_mutate or len(signature.user_outputs) != 1:
        raise CannotCapture("it changes its own state, or returns more than one tensor")
    calls: dict[str, list[Any]] = {name: [None] * (last + 1) for name, last in counts.items()}
    attributes, inputs, nodes = {}, [], []
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in held:
            attributes[node] = program.state_dict.get(held[node.name], program.constants.get(held[node.name]))
        elif node.op == "get_attr":
            attributes[node] = operator.attrgetter(str(node.target))(program.graph_module)
        elif node.op == "placeholder":
            inputs.append(node)
            continue
        elif node.op == "output":
            output = node.args[0][0]
            continue
        elif node.target is torch.ops.unitlab.module_output.default:
            value, name, call = node.args
            node.target, node.args = module_output, (value,)
            calls[name][call] = node
        elif not _as_function(node):
            continue
        nodes.append(node)
    if len(inputs) != 1 or not isinstance(output, torch.fx.Node):
        raise CannotCapture("torch.export gives it another input than images")
    graph = NetworkGraph(nodes, {}, attributes, calls, inputs[0], output, by_export=True)
    graph = checked(graph, sample, expected, noise)
    graph.unproved = _unproved(graph, model, several)
    return graph


@cache
def _marker() -> Callable[..., Tensor]:
    """The operation through which modules pass what they return, while they are traced."""

    def mark(value: Tensor, module: str, call: int) -> Tensor:
        return value.clone()

    marker = torch.library.custom_op("unitlab::module_output", mutates_args=())(mark)
    marker.register_fake(lambda value, module, call: torch.empty_like(value))
    return torch.ops.unitlab.module_output.default  # type: ignore[no-any-return]


def _marked(name: str, counts: dict[str, int], _module: nn.Module, _given: object, returned: object) -> Any:
    call = counts[name] = counts.get(name, -1) + 1
    return _marker()(returned, name, call) if isinstance(returned, Tensor) else None


def _writes(graph: torch.fx.Graph) -> bool:
    """Whether an operation of the graph may write into what it is given; what a graph within the graph does is not known."""
    schemas = [getattr(node.target, "_schema", None) for node in graph.nodes]
    return any(node.op == "get_attr" for node in graph.nodes) or any(schema and schema.is_mutable for schema in schemas)


def _as_function(node: torch.fx.Node) -> bool:
    """Give an ATen operation the function of the tables as its target; whether the node is still of use."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.partition("::")[2] if schema is not None else ""
    if name == "_native_batch_norm_legit_no_training":
        value, weight, bias, mean, variance, momentum, epsilon = node.args
        node.target, node.args = F.batch_norm, (value, mean, variance, weight, bias, False, momentum, epsilon)
        for user in list(node.users):
            user.replace_all_uses_with(node)
            user.args = ()
    elif name == "batch_norm":
        value, weight, bias, mean, variance, training, momentum, epsilon, _ = node.args
        node.target, node.args = F.batch_norm, (value, mean, variance, weight, bias, training, momentum, epsilon)
    elif node.target is operator.getitem and not node.args:
        return False
    elif name in OPERATORS and not node.kwargs:
        node.target = OPERATORS[name]
    elif name in FUNCTIONS:
        node.target = FUNCTIONS[name]
    return True


def _unproved(graph: NetworkGraph, model: nn.Module, several: Tensor) -> set[torch.fx.Node]:
    """Module outputs that are not, to the bit, what a hook sees on two inputs."""
    nodes = {node for calls in graph.calls.values() for node in calls if node is not None}
    proved = set(nodes)
    for images in (several, several.flip(0, -2) * 0.7):
        counts: dict[str, int] = {}
        equal: set[torch.fx.Node] = set()
        with torch.no_grad(), ExitStack() as stack:
            values = graph.run({graph.input: images}, keep=nodes)

            def compare(
                name: str, counts: Any, equal: Any, values: Any, _module: nn.Module, _given: object, returned: object
            ) -> None:
                call = counts[name] = counts.get(name, -1) + 1
                node = graph.calls[name][call] if call < len(graph.calls.get(name, ())) else None
                if node in values and isinstance(returned, Tensor) and torch.equal(returned, values.pop(node)):
                    equal.add(node)

            for name, module in model.named_modules():
                if name:
                    seen = partial(compare, name, counts, equal, values)
                    stack.callback(module.register_forward_hook(seen).remove)
            model(images)
        proved &= equal
    return nodes - proved
