"""Hooks that the user has on the network: they have no part in a study, so one that changes values is named."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from unitlab.compute.engine.user_network.working_copy import HOOKS, is_foreign, tensors_in, unwrapped


def value_changing_hooks(model: nn.Module, module: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Names of the user's forward hooks that change what a layer is given, gives or has, or that fail when they are tried.

    ``module`` is a working copy of ``model``, and has none of its hooks; ``run`` evaluates it. Copies of the hooks are called,
    on copies of the values, so that whatever they collect or count stays as it is.
    """
    trials = list(_trials(model))
    layers = dict(module.named_modules())
    handles = [
        getattr(layers[trial.layer], f"register_{trial.kind}")(trial, with_kwargs=True)
        for trial in trials
        if trial.layer in layers
    ]
    try:
        if handles:
            run()
    finally:
        for handle in handles:
            handle.remove()
    return [f"{trial.name} on '{trial.layer}'{trial.found}" for trial in trials if trial.found is not None]


def _trials(model: nn.Module) -> Iterator[_Trial]:
    for name, layer in unwrapped(model).named_modules():
        for kind in ("forward_pre_hook", "forward_hook"):
            with_kwargs = getattr(layer, f"_{kind}s_with_kwargs")
            for number, hook in getattr(layer, f"_{kind}s").items():
                if is_foreign(hook):
                    yield _Trial(hook, kind, name, number in with_kwargs)


@dataclass
class _Trial:
    """A hook that runs the user's on copies of all that it gets; ``found`` is None where that changes nothing."""

    hook: Callable[..., Any]
    kind: str
    layer: str
    with_kwargs: bool
    found: str | None = None

    @property
    def name(self) -> str:
        return str(getattr(self.hook, "__qualname__", type(self.hook).__name__))

    def __call__(self, layer: nn.Module, args: Any, kwargs: Any, *output: Any) -> None:
        values = (args, kwargs, *output) if self.with_kwargs else (args, *output)
        # what the hook may return: the output, or what the layer is given
        replaced = output[0] if output else values if self.with_kwargs else args
        layer = copy.deepcopy(layer, {id(getattr(m, hooks)): OrderedDict() for m in layer.modules() for hooks in HOOKS})
        before = _tensors(values, replaced, layer)
        try:
            with torch.enable_grad():
                given = tree_map_only(Tensor, _differentiable, values)
                returned = isolated(self.hook)(layer, *given)
        except Exception:
            self.found = " (which fails when it is tried)"
            return
        after = _tensors(given, replaced if returned is None else returned, layer)
        if len(before) != len(after) or not all(map(torch.equal, before, after)):
            self.found = ""


def _tensors(values: Any, replaced: Any, layer: nn.Module) -> list[Tensor]:
    everything = [*tree_leaves((values, replaced)), *layer.parameters(), *layer.buffers()]
    return [leaf.detach().clone() for leaf in everything if isinstance(leaf, Tensor)]


def _differentiable(tensor: Tensor) -> Tensor:
    """A copy as a hook gets it where gradients are had: no leaf, so that it may be written to."""
    return tensor.detach().clone().requires_grad_().clone() if tensor.is_floating_point() else tensor.clone()


def isolated(hook: Any, known: dict[int, Any] | None = None) -> Any:
    """A copy of a hook that reads and writes copies of the variables of the user's that it knows."""
    known = {} if known is None else known
    if id(hook) in known:
        return known[id(hook)]
    if isinstance(hook, functools.partial):
        return functools.partial(isolated(hook.func, known), *_copied(hook.args, known), **_copied(hook.keywords, known))
    if not isinstance(hook, FunctionType):
        return _copied(hook, known)
    scope = dict(hook.__globals__)
    cells = tuple(CellType() for _ in hook.__closure__ or ())
    twin = FunctionType(hook.__code__, scope, hook.__name__, _copied(hook.__defaults__, known), cells or None)
    twin.__kwdefaults__ = _copied(hook.__kwdefaults__, known)
    known[id(hook)] = twin
    for name in _names(hook.__code__) & scope.keys():
        scope[name] = isolated(scope[name], known)
    for cell, own in zip(cells, hook.__closure__ or (), strict=True):
        cell.cell_contents = isolated(own.cell_contents, known)
    return twin


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _copied(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, type | ModuleType | BuiltinFunctionType):
        return value
    for tensor in tensors_in(value):
        known.setdefault(id(tensor), tensor.detach().clone())
    return copy.deepcopy(value, known)
