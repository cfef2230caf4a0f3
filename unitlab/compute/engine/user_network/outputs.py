"""How logits (image, category) are read from what a network returns, and the network as a module that returns them.

People's networks return dicts, tuples, probabilities, one logit. What that is, is decided once, on a few images, and said; then
every copy of the network is given a ``forward`` that takes images and returns logits. The copy stays the user's module, so that
layers keep their names, for hooks and for graphs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unitlab.errors import UnitlabError

Output = str | int | Callable[[Any], Any] | None

SMALLEST = torch.finfo(torch.float32).tiny
ENDINGS = {"softmax": {"softmax", "special_softmax", "softmax2d"}, "sigmoid": {"sigmoid", "special_expit"}}
# after these the values are the same, in the same order
SAME_VALUES = {
    "flatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous", "float", "double", "to", "detach", "dropout",
    "identity", "module_output",
}  # fmt: skip


def as_returned(returned: Any) -> Any:
    """``output`` by the rule of studies that say nothing of it: what the network returns is logits."""
    return returned


@dataclass(frozen=True)
class Reading:
    """How images are given to a network and logits are taken from what it returns.

    Attributes
    ----------
    argument
        The name by which the images are given; "" by position.
    element
        A name or an index of what is returned, a function of it, or None for all of it.
    before
        "softmax" or "sigmoid": the value before it is taken; "log": the logarithm.
    columns
        How many values an image has, where they do not come as (image, value); 0 where they do.
    binary
        Whether one logit z becomes two, (−z/2, z/2).
    plain
        Whether nothing of that is to be done.
    text
        All of that in words.
    """

    argument: str = ""
    element: Output = None
    before: str = ""
    columns: int = 0
    binary: bool = False
    plain: bool = False
    text: str = "as returned"

    def of(self, network: nn.Module) -> nn.Module:
        """The network, which from now on takes images and returns logits (image, category)."""
        if self.plain:
            return network
        kind, own = type(network), vars(network).pop("forward", None)

        def forward(self: nn.Module, images: Tensor) -> Tensor:
            return reading.logits(kind.forward.__get__(self) if own is None else own, images)

        reading = self
        # a class of the same name: torch.fx takes forward from it, and aliases of layers go by it
        network.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
        return network

    def logits(self, network: Callable[..., Any], images: Tensor) -> Tensor:
        """Logits (image, category)."""
        given = ((), {self.argument: images}) if self.argument else ((images,), {})
        if self.before not in ENDINGS:
            found = self.taken(network(*given[0], **given[1]))
        elif isinstance(images, torch.fx.Proxy):
            found = proxy_before(self.taken(network(*given[0], **given[1])), self.before)
        else:
            with ValuesBefore(self.before) as values:
                found = values.before(self.taken(network(*given[0], **given[1])))
        if self.before == "log":
            found = found.clamp_min(SMALLEST).log()
        if self.columns:
            found = found.reshape(-1, self.columns)
        return torch.cat([found * -0.5, found * 0.5], 1) if self.binary else found

    def taken(self, returned: Any) -> Any:
        """The element of what the network returned."""
        if self.element is None:
            return returned
        if callable(self.element):
            return self.element(returned)
        if isinstance(self.element, str):
            return returned[self.element] if isinstance(returned, Mapping) else getattr(returned, self.element)
        return list(returned.values())[self.element] if type(returned) is dict else returned[self.element]


class ValuesBefore(TorchFunctionMode):
    """Within the block, remembers what each softmax (or sigmoid) was given, whether it is a module, a function or a method."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        self.ending = ending
        self.known: dict[int, tuple[Any, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "_opname", getattr(func, "__name__", ""))
        given = args[0] if args else kwargs.get("input")
        before = None
        if name.rstrip("_") in ENDINGS[self.ending]:
            before = given.clone() if name.endswith("_") else given
        elif name in SAME_VALUES and id(given) in self.known:
            before = self.known[id(given)][1]
        result = func(*args, **kwargs)
        if before is not None:
            self.known[id(result)] = (result, before)  # which keeps the result, so that no other gets its id
        return result

    def before(self, result: Any) -> Tensor:
        """What was given to the softmax that returned this."""
        if id(result) not in self.known:
            raise UnitlabError(
                f"the logits are the value before the network's final {self.ending}, and here it does not end in one: other "
                f"images take another way, or a layer that is ablated behind the {self.ending} has changed it; give another "
                "layer, or output= a function that takes the logarithm"
            )
        return self.known[id(result)][1]


def proxy_before(proxy: torch.fx.Proxy, ending: str) -> torch.fx.Proxy:
    """What is given to the softmax at the end of what torch.fx has traced so far."""
    tracer: Any = proxy.tracer
    node: Any = proxy.node
    while True:
        if node.op == "call_module":
            called = type(tracer.root.get_submodule(node.target)).__name__.lower()
        else:
            called = str(getattr(node.target, "__name__", node.target)).rstrip("_")
        node = node.args[0] if node.args else node.kwargs.get("input")
        if called in ENDINGS[ending]:
            return tracer.proxy(node)
        if called not in SAME_VALUES or not isinstance(node, torch.fx.Node):
            raise UnitlabError(f"its graph does not end in a {ending}")


def output_text(output: Output) -> str:
    """``output`` as a study keeps it: "" where it was not given, a name or an index as Python writes them, or of a function
    its name and a hash of its code."""
    if output is None:
        return ""
    if not callable(output):
        return repr(output)
    code = getattr(output, "__code__", None)
    return f"function {function_name(output)}" + ("" if code is None else f" {code_hash(code)[:12]}")


def function_name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def code_hash(code: Any) -> str:
    inner = [code_hash(constant) if hasattr(constant, "co_code") else repr(constant) for constant in code.co_consts]
    return hashlib.sha256(repr((code.co_code.hex(), inner, code.co_names)).encode()).hexdigest()
