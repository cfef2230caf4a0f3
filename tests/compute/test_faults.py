"""Sweeps that something goes wrong with: memory, disk, interrupts, networks that are not finite."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from small_networks import CLASSES, FunctionalReLU
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.network import Network
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.progress import interrupt_after_shard


def source(count: int = 40) -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(count, 3, 17, 17), torch.arange(count) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


def network() -> nn.Module:
    torch.manual_seed(5)
    return FunctionalReLU().eval()


def ablate(**options: Any) -> xr.Dataset:
    return unitlab.ablate(network(), source(), "conv2", progress=False, device="cpu", batch_size=8, **options)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 8, raising=True)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int) -> None:
    """The network's evaluation raises at one call, and works before and after."""
    real, calls = Network.evaluate, []

    def evaluate(self: Network, *args: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            raise error
        return real(self, *args, **options)

    monkeypatch.setattr(Network, "evaluate", evaluate)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
    ids=["torch", "cuBLAS", "cuDNN", "cuDNN 9"],
)
def test_where_memory_runs_out_batches_are_halved(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = ablate()
    real = Network.evaluate

    def evaluate(self: Network, batch: torch.Tensor, *args: Any, **options: Any) -> Any:
        if len(batch) > 3:
            raise error
        return real(self, batch, *args, **options)

    values = Network.site_values

    def site_values(self: Network, batch: torch.Tensor, *args: Any) -> Any:
        if len(batch) > 3:
            raise error
        return values(self, batch, *args)

    monkeypatch.setattr(Network, "evaluate", evaluate)
    monkeypatch.setattr(Network, "site_values", site_values)
    with caplog.at_level(logging.WARNING):
        found = ablate()
    assert "batches of 4" in caplog.text and "batches of 2" in caplog.text
    np.testing.assert_array_equal(found.prediction, expected.prediction)
    np.testing.assert_allclose(found.mean_activation, expected.mean_activation, rtol=1e-5)
    mean = ablate(ablation="mean")
    monkeypatch.undo()
    np.testing.assert_array_equal(mean.prediction, ablate(ablation="mean").prediction)


def test_where_one_image_is_too_much_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(self: Network, *args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Network, "evaluate", evaluate)
    with pytest.raises(UnitlabError, match="compute on 'cpu'"):
        ablate()


@pytest.mark.usefixtures("small_shards")
def test_ctrl_c_keeps_the_shards_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "study.zarr"
    with monkeypatch.context() as patch:
        failing(patch, KeyboardInterrupt(), 4)
        with pytest.raises(KeyboardInterrupt):
            ablate(store=store)
    assert not store.exists() and len(list(tmp_path.glob("study.zarr.partial/shard-*.safetensors"))) == 3
    evaluated = []
    real = Network.evaluate

    def counted(self: Network, batch: torch.Tensor, *args: Any, **options: Any) -> Any:
        evaluated.append(len(batch))
        return real(self, batch, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Network, "evaluate", counted)
        found = ablate(store=store)
    # the two batches that are left, one image for the null check
    assert evaluated == [8, 8, 1]
    xr.testing.assert_equal(found.load(), ablate().load())
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_in_the_middle_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "study.zarr"
    real, calls = os.replace, []

    def filling(*args: Any) -> None:
        calls.append(None)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", filling)
        with pytest.raises(UnitlabError, match="no space left"):
            ablate(store=store)
    assert not store.exists()
    xr.testing.assert_equal(ablate(store=store).load(), ablate().load())


def test_the_network_is_named_with_the_images_it_fails_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, RuntimeError("a layer is broken"), 2)
    with pytest.raises(UnitlabError, match=r"failed on images .*a layer is broken"):
        ablate()


def test_nan_weights_are_refused() -> None:
    model = network()
    with torch.no_grad():
        model.conv1.weight[0] = float("nan")
    with pytest.raises(UnitlabError, match=r"NaN|finite"):
        unitlab.ablate(model, source(), "conv2", progress=False, device="cpu")


def test_a_second_ctrl_c_is_not_lost_where_python_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Released:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interrupt_after_shard(kept=True) as request:
            signal.raise_signal(signal.SIGINT)
            request.heed_repeated()
            Released()
            with pytest.raises(KeyboardInterrupt):
                request.heed_repeated()
    finally:
        signal.signal(signal.SIGINT, before)
