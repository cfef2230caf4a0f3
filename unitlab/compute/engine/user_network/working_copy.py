"""A copy of the user's network to work on: without wrappers and foreign hooks, in a precision that sweeps compute in."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unitlab.errors import UnitlabError, what_it_says

# by name, since torch.compile's class is slow to import
WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
NARROW = (torch.float16, torch.bfloat16)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile's wrapper.

    Raises
    ------
    UnitlabError
        What is given is no network, or one that cannot be looked into: scripted, lazy, quantised or without memory.
    """
    while type(model).__name__ in WRAPPERS and isinstance(model, nn.Module):
        model = getattr(model, WRAPPERS[type(model).__name__])
    if not isinstance(model, nn.Module):
        raise UnitlabError(f"model is a {type(model).__name__}; give a torch.nn.Module that returns logits (image, category)")
    for name, module in model.named_modules():
        kind, at = type(module), f"'{name}' of the network" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise UnitlabError(
                f"{at} is a {kind.__name__} (TorchScript), whose layers cannot be ablated; give the network that it was made "
                "of, before torch.jit.script or torch.jit.trace"
            )
        if kind.__name__ == "FullyShardedDataParallel":
            raise UnitlabError(f"{at} is wrapped in {kind.__name__}, which has a part of the weights; give the network itself")
        if ".quantized" in kind.__module__ and kind.__module__.startswith("torch."):
            raise UnitlabError(f"{at} is quantised ({kind.__name__}); give the network as it was before, in float32")
    for name, tensor in _named_tensors(model):
        if nn.parameter.is_lazy(tensor):
            raise UnitlabError(
                f"'{name}' of the network is lazy and has no shape yet; run the network once on an image, then give it"
            )
        if tensor.is_meta:
            raise UnitlabError(f"'{name}' of the network is on the meta device and has no values; load its weights first")
        packed = isinstance(tensor, nn.Parameter) and tensor.dim() > 1 and tensor.element_size() < 2
        if packed or tensor.is_quantized:
            raise UnitlabError(
                f"'{name}' of the network is quantised ({tensor.dtype}); give the network as it was before, in float32"
            )
    return model


def preparation(model: nn.Module) -> str:
    """What `working_copy` changes of the network; "" where it is taken as it is."""
    said = []
    inside = unwrapped(model)
    wrapped = [module for module in (*model.modules(), *inside.modules()) if type(module).__name__ in WRAPPERS]
    said += [f"{name} unwrapped" for name in sorted({type(module).__name__ for module in wrapped})]
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in inside.modules()):
        said.append("compile() undone")
    narrow = {tensor.dtype for _, tensor in _named_tensors(inside) if tensor.dtype in NARROW}
    said += [f"{str(dtype).removeprefix('torch.')} converted to float32" for dtype in sorted(narrow, key=str)]
    return ", ".join(said)


def working_copy(
    model: nn.Module,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    as_stored: bool = False,
    like: nn.Module | None = None,
) -> nn.Module:
    """Copy of ``model`` in eval mode on ``device``; weights that need no change share the user's memory.

    Weights narrower than float32 become float32, all become ``dtype`` where it is given, and none change where the copy is to
    be ``as_stored``. Those that another copy ``like`` it has on the device are not brought there again. The copy has no
    wrappers (`unwrapped`), and of hooks only those by which torch computes weights.

    Raises
    ------
    UnitlabError
        The network is not an ``nn.Module``, cannot be copied, or has weights that are NaN or infinite; see `unwrapped`.
    """
    model = unwrapped(model)
    for name, tensor in _named_tensors(model):
        if tensor.is_floating_point() and not torch.isfinite(tensor.detach()).all():
            raise UnitlabError(f"'{name}' of the network holds NaN or infinite values; load other weights")

    there = {} if like is None else dict(_named_tensors(like))
    known = {id(tensor): there[name] for name, tensor in _named_tensors(model) if name in there}

    def prepared(tensor: Tensor) -> Tensor:
        found = known.get(id(tensor), tensor)
        new = found.detach().to(device)
        if new.is_inference():
            new = new.clone()
        wanted = dtype or (torch.float32 if new.dtype in NARROW else new.dtype)
        if new.is_floating_point() and not as_stored:
            new = new.to(wanted)
        if channels_last and new.dim() == 4:
            new = new.contiguous(memory_format=torch.channels_last)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(new, requires_grad=False)
        # a network may write into its buffers, and the user's are to stay as they are
        return new.clone() if new.data_ptr() == found.data_ptr() else new

    memo: dict[int, Any] = {id(tensor): prepared(tensor) for tensor in tensors_in(model)}
    try:
        for module in model.modules():
            memo.update({id(hooks): _without_foreign(hooks) for hooks in (getattr(module, name) for name in HOOKS)})
        # from the inside out, so that a wrapper in a wrapper is gone when its turn comes
        for module in reversed(list(model.modules())):
            if type(module).__name__ in WRAPPERS:
                memo[id(module)] = copy.deepcopy(getattr(module, WRAPPERS[type(module).__name__]), memo)
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise UnitlabError(
            f"the network ({type(model).__name__}) cannot be copied ({what_it_says(error)}); remove what copy.deepcopy refuses"
        ) from error


def floating_dtype(module: nn.Module) -> torch.dtype:
    """Of the network's first weights."""
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)


def is_foreign(hook: object) -> bool:
    """Whether a hook is the user's, and not one of torch's own, which compute a weight (weight norm, pruning)."""
    return not type(hook).__module__.startswith("torch.nn.utils")


def _without_foreign(hooks: Mapping[int, Any]) -> OrderedDict[int, Any]:
    return OrderedDict((number, copy.deepcopy(hook)) for number, hook in hooks.items() if not is_foreign(hook))


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def tensors_in(*objects: object) -> Iterator[Tensor]:
    """Tensors anywhere in objects, their attributes and collections: ``self.features = h`` keeps one that no name tells of."""
    seen: set[int] = set()
    waiting = list(objects)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type | ModuleType | FunctionType | BuiltinFunctionType | str | bytes):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting += list(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += list(value)
        elif isinstance(value, nn.Module) or not type(value).__module__.startswith("torch."):
            waiting += list(getattr(value, "__dict__", {}).values())
