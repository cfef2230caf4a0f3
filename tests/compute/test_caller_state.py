"""What the caller has set, in the network and in torch: results do not depend on it, and it is as before afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from small_networks import CLASSES, InPlaceReLU
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.network import Network
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.images.source import ImageSource


def source() -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(20, 3, 17, 17), torch.arange(20) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


def network() -> nn.Module:
    torch.manual_seed(5)
    return InPlaceReLU().eval()


def ablate(model: nn.Module, **options: Any) -> xr.Dataset:
    return unitlab.ablate(model, source(), "conv1", progress=False, device="cpu", **options)


def torch_state() -> dict[str, Any]:
    backends: Any = torch.backends
    operations = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv)
    return {
        "precision": [where.fp32_precision for where in (backends, backends.cudnn, *operations)],
        "benchmark": backends.cudnn.benchmark,
        "deterministic": (backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
        "threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "defaults": (torch.get_default_dtype(), torch.get_default_device()),
        "random": torch.get_rng_state().tolist(),
    }


@contextmanager
def reduced_precision() -> Iterator[None]:
    """Both ways in which torch lets float32 products be less than float32."""
    backends: Any = torch.backends
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    backends.fp32_precision, backends.mkldnn.conv.fp32_precision = "tf32", "bf16"
    try:
        yield
    finally:
        backends.fp32_precision = backends.mkldnn.conv.fp32_precision = "none"
        torch.set_float32_matmul_precision(precision)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "setting",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
        reduced_precision,
        default_dtype,
    ],
    ids=["no_grad", "inference_mode", "autocast", "default device", "reduced precision", "default dtype"],
)
def test_results_do_not_depend_on_what_the_caller_set(setting: Callable[[], AbstractContextManager[Any]]) -> None:
    expected = ablate(network())
    model, images = network(), source()
    with setting():
        before = torch_state()
        found = unitlab.ablate(model, images, "conv1", progress=False, device="cpu")
        assert unitlab.verify(found, model, images, sample=50, device="cpu").different == 0
        assert torch_state() == before
    xr.testing.assert_equal(found, expected)


def test_a_network_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = network()
    xr.testing.assert_equal(ablate(model), ablate(network()))


def model_state(model: nn.Module) -> dict[str, Any]:
    return {
        "mode": [module.training for module in model.modules()],
        "hooks": [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in model.modules()],
        "in place": [getattr(module, "inplace", None) for module in model.modules()],
        "parameters": [(id(p), p.dtype, p.device, p.requires_grad, p.grad, p.is_contiguous()) for p in model.parameters()],
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
    }


@pytest.mark.parametrize("error", [None, ValueError("the cable is loose"), KeyboardInterrupt()], ids=["", "error", "Ctrl-C"])
def test_network_and_torch_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    model = network().train()
    model.conv2.eval()
    model.conv1.weight.requires_grad_(False)
    called = []
    model.fc.register_forward_hook(lambda *_: called.append(None))
    images = source()
    before, torch_before = model_state(model), torch_state()
    if error is None:
        unitlab.ablate(model, images, "conv1", progress=False, device="cpu")
    else:

        def fail(self: SuffixEngine, *_: object) -> None:
            raise error

        monkeypatch.setattr(SuffixEngine, "steps", fail)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UnitlabError):
            unitlab.ablate(model, images, "conv1", progress=False, device="cpu")
    assert model_state(model) == before and torch_state() == torch_before
    model(torch.zeros(1, 3, 17, 17))
    assert called and np.isfinite(model.conv1.weight.sum().item())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_of_a_sweep_outlives_it(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are freed without waiting until Python looks for cycles."""
    held = []

    def remembered(self: Network, *args: Any) -> None:
        real(self, *args)
        assert self.graph is not None
        held.extend(map(weakref.ref, (self.module, self.graph, *self.graph.modules.values())))

    real = Network.__init__
    monkeypatch.setattr(Network, "__init__", remembered)
    gc.collect()
    gc.disable()
    try:
        ablate(network(), precision=precision)
        assert held and all(found() is None for found in held)
    finally:
        gc.enable()
