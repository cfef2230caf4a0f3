"""The device to compute on, and torch's process-wide settings kept as they were."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from unitlab.errors import UnitlabError


def choose_device(device: str | torch.device | None, precision: str = "float32") -> torch.device:
    """The device given, or CUDA where it is present.

    Raises
    ------
    UnitlabError
        The device is unknown to torch, not present, or without the precision that is asked for.
    """
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    except RuntimeError as error:
        raise UnitlabError(f"device={device!r} is not a torch device; give 'cpu', 'cuda' or 'cuda:1'") from error
    if chosen.type == "cuda" and not (torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count()):
        raise UnitlabError(f"device={device!r}: this machine shows torch {torch.cuda.device_count()} CUDA devices; give 'cpu'")
    if chosen.type not in ("cpu", "cuda"):
        raise UnitlabError(f"device={device!r}: unitlab computes on 'cpu' and 'cuda'")
    if precision == "tf32" and not has_reduced_products(chosen):
        raise UnitlabError(
            f"precision='tf32' on the device '{chosen}', which has no TF32: GPUs of CUDA have it from capability 8.0 on; give "
            "such a device=, or precision='bfloat16' or 'float32'"
        )
    return chosen


def has_reduced_products(device: torch.device) -> bool:
    """Whether a GPU multiplies bfloat16 and TF32."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory ran out: torch says so, or cuBLAS or cuDNN, which ask for memory of their own."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in said for sign in ("ALLOC_FAILED", "ALLOCATION_FAILED"))
    )


@contextmanager
def exact_float32() -> Iterator[None]:
    """torch as the sweep needs it, whatever the caller set: float32 products in float32 (no TF32, no bfloat16, no autocast),
    sums of shorter products in float32, nothing compiled, gradients to be had, deterministic convolutions, tensors on the CPU.
    All is restored on leaving."""
    backends: Any = torch.backends
    operations = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]
    operations += [backends.mkldnn.conv, backends.mkldnn.rnn]
    with ExitStack() as stack:
        # from the general to the special, since a setting inherits from the more general one
        for where in (backends, backends.cudnn):
            stack.callback(setattr, where, "fp32_precision", where.fp32_precision)
            where.fp32_precision = "none"
        for where in operations:
            stack.callback(setattr, where, "fp32_precision", where.fp32_precision)
        # torch refuses to read its older switches where the newer ones contradict them
        with suppress(RuntimeError):
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        for name, value in (("allow_tf32", False), ("benchmark", False), ("deterministic", True)):
            with suppress(RuntimeError):
                stack.callback(setattr, backends.cudnn, name, getattr(backends.cudnn, name))
                setattr(backends.cudnn, name, value)
        for where in operations:
            where.fp32_precision = "ieee"
        # sums of products in bfloat16 and float16 are held in float32
        for name in ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction"):
            stack.callback(setattr, backends.cuda.matmul, name, getattr(backends.cuda.matmul, name))
            setattr(backends.cuda.matmul, name, False)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # what is compiled does not see hooks that come later; who has compiled nothing does not pay for the import
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def tf32_products() -> Iterator[None]:
    """Float32 matrix products and convolutions on CUDA in TF32; what was set is restored on leaving."""
    backends: Any = torch.backends
    with ExitStack() as stack:
        for where in (backends.cuda.matmul, backends.cudnn.conv):
            stack.callback(setattr, where, "fp32_precision", where.fp32_precision)
            where.fp32_precision = "tf32"
        yield
