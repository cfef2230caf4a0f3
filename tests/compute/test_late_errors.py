"""What goes wrong where results come a batch late and two batches are worked on in turn: said, and nothing half done kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from make_believe_gpu import make_believe_gpu
from small_networks import CLASSES, FunctionalReLU
from torch.utils.data import Dataset, TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shards import ShardComputation, ShardSums

BATCH = 8
NAMES = [f"class {k}" for k in range(CLASSES)]


class Standardised(FunctionalReLU):
    """Divides each image by its deviation: a blank one gives NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))


def pictures(count: int, blank: int | None = None) -> ImageSource:
    pixels = torch.randn(count, 3, 17, 17, generator=torch.Generator().manual_seed(3))
    if blank is not None:
        pixels[blank] = 0.5
    return unitlab.images(TensorDataset(pixels, torch.arange(count) % CLASSES), categories=NAMES)


def kept_and_said(
    images: ImageSource, bounds: list[tuple[int, int]], device: str, spoil: Callable[[SweepPlan], object] = lambda _: None,
    **options: Any,
) -> tuple[list[int], str]:  # fmt: skip
    """How many images the shards have that are kept, and the error."""
    torch.manual_seed(5)
    model, kept = Standardised().eval(), []
    with make_believe_gpu(), exact_float32():
        plan = plan_sweep(model, images, SweepRequest("conv2", batch_size=BATCH, **options), device)
        assert plan.at_a_time == (2 if device == "cuda" else 1)
        spoil(plan)
        computation = ShardComputation(plan, images, plan.replacements(None, len(images)))
        try:
            kept += (len(shard().to_arrays()["label"]) for shard in computation.shards(bounds, lambda _: None))
        except UnitlabError as error:
            return kept, str(error)
    return kept, ""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("bounds", "blank"), [([(0, 32), (32, 64)], 3), ([(0, 24), (24, 32)], 3), ([(0, 32), (32, 64)], 12)])
def test_no_shard_lacks_the_images_of_an_error_that_comes_late(bounds: list[tuple[int, int]], blank: int, device: str) -> None:
    kept, said = kept_and_said(pictures(bounds[-1][1], blank), bounds, device)
    assert kept == [] and "NaN or infinite logits" in said


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_shard_lacks_the_images_of_an_undefined_outcome(device: str) -> None:
    def outcome(logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return torch.where(images == 3, torch.nan, logits.amax(1))

    kept, said = kept_and_said(pictures(64), [(0, 32), (32, 64)], device, outcome=("odd", outcome))
    assert kept == [] and "outcome=odd is NaN or infinite for image '3'" in said


@pytest.mark.parametrize("bounds", [[(0, 32)], [(0, 24)]])
def test_a_worker_says_what_is_wrong_with_its_only_shard(bounds: list[tuple[int, int]]) -> None:
    """It takes one shard and closes the computation."""
    images = pictures(bounds[0][1], blank=3)
    torch.manual_seed(5)
    with make_believe_gpu(), exact_float32():
        plan = plan_sweep(Standardised().eval(), images, SweepRequest("conv2", batch_size=BATCH), "cuda")
        shards = ShardComputation(plan, images, plan.replacements(None, len(images))).shards(bounds, lambda _: None)
        with pytest.raises(UnitlabError, match="NaN or infinite logits"):
            next(shards)()


class GoneDrive(Dataset):
    """Images of which the last eight cannot be read any more."""

    def __init__(self) -> None:
        self.pixels, self.gone = torch.randn(24, 3, 17, 17, generator=torch.Generator().manual_seed(3)), False

    def __len__(self) -> int:
        return 24

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        if self.gone and position >= 16:
            raise OSError("the drive is gone")
        return self.pixels[position], position % CLASSES


@pytest.mark.parametrize("gone", [False, True])
def test_a_finished_shard_is_kept_where_the_network_fails_and_then_the_reading(gone: bool) -> None:
    drive = GoneDrive()

    def spoil(plan: SweepPlan) -> None:
        drive.gone, real, calls = gone, plan.network.evaluate, []

        def evaluate(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("too hot")
            return real(*args, **options)

        plan.network.evaluate = evaluate  # type: ignore[method-assign]

    kept, said = kept_and_said(unitlab.images(drive, categories=NAMES), [(0, 8), (8, 24)], "cuda", spoil)
    assert kept == [8] and "too hot" in said


@pytest.mark.parametrize("count", [17, 24])
def test_a_batch_that_does_not_fit_beside_another_waits_for_it(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, live, sizes = pictures(count), list[int](), list[int]()
    scored = ShardComputation._scored

    def counted(computation: ShardComputation, batch: Any) -> Any:
        live.append(len(batch.positions))
        try:
            result = yield from scored(computation, batch)
            sizes.append(len(batch.positions))
            return result
        finally:
            live.remove(len(batch.positions))

    def spoil(plan: SweepPlan) -> None:
        real = plan.network.evaluate

        def evaluate(*args: Any, **options: Any) -> Any:
            if sum(live) > BATCH:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*args, **options)

        plan.network.evaluate = evaluate  # type: ignore[method-assign]

    monkeypatch.setattr(ShardComputation, "_scored", counted)
    kept, said = kept_and_said(images, [(0, count)], "cuda", spoil)
    assert kept == [count] and said == ""
    assert sizes == [BATCH] * (count // BATCH) + [count % BATCH] * bool(count % BATCH), "no batch was halved"


def test_too_little_memory_for_statistics_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ShardSums, "add", add)
    kept, said = kept_and_said(pictures(16), [(0, 16)], "cuda")
    assert kept == [] and said == "the device's memory runs out with 8 images at a time; give a smaller batch_size="
