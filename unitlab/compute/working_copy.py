"""A copy of the user's network to work on, and torch's process-wide settings kept as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unitlab.errors import UnitlabError

__all__ = ["choose_device", "exact_float32", "working_copy"]


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device given, or CUDA where it is present.

    Raises
    ------
    UnitlabError
        The device is unknown to torch or not present.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UnitlabError(f"device={device!r} is not a torch device; give 'cpu', 'cuda' or 'cuda:1'") from error
    if chosen.type == "cuda" and not (torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count()):
        raise UnitlabError(f"device={device!r}: this machine shows torch {torch.cuda.device_count()} CUDA devices; give 'cpu'")
    if chosen.type not in ("cpu", "cuda"):
        raise UnitlabError(f"device={device!r}: unitlab computes on 'cpu' and 'cuda'")
    return chosen


def working_copy(
    model: nn.Module, device: torch.device, *, dtype: torch.dtype | None = None, channels_last: bool = False
) -> nn.Module:
    """Copy of ``model`` in eval mode on ``device``; weights that need no change share the user's memory.

    Raises
    ------
    UnitlabError
        The network is not an ``nn.Module``, cannot be copied, or has weights that are NaN, infinite or of a dtype
        other than float32 and float64.
    """
    if not isinstance(model, nn.Module):
        raise UnitlabError(f"model is a {type(model).__name__}; give a torch.nn.Module that returns logits (image, category)")
    memo: dict[int, object] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            if tensor.dtype not in (torch.float32, torch.float64):
                raise UnitlabError(f"'{name}' of the network is {tensor.dtype}; convert the network with model.float() first")
            if not torch.isfinite(tensor).all():
                raise UnitlabError(f"'{name}' of the network holds NaN or infinite values; load other weights")
        new = tensor.detach().to(device)
        if dtype is not None and new.is_floating_point():
            new = new.to(dtype)
        if channels_last and new.dim() == 4:
            new = new.contiguous(memory_format=torch.channels_last)
        memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise UnitlabError(
            f"the network ({type(model).__name__}) cannot be copied ({error}); remove what copy.deepcopy refuses"
        ) from error


@contextmanager
def exact_float32() -> Iterator[None]:
    """float32 products in float32 (no TF32, no bfloat16), settings restored on leaving."""
    precision = torch.get_float32_matmul_precision()
    tf32, benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    deterministic = torch.backends.cudnn.deterministic
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cudnn.deterministic = deterministic
