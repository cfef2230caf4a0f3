"""What a shard has: images by predicted cost, activations that sum to a study's statistics, maps of the largest alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from make_believe_gpu import make_believe_gpu
from small_networks import CLASSES, Untraceable
from test_faults import ablate, network, source
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.host_copies import HostCopies
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.images.thumbnails import THUMBNAIL
from unitlab.compute.sweep import memory as memories
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.activations import (
    BY_IMAGE,
    TOP,
    TOP_IMAGES,
    ActivationStatistics,
    _sums,
    _top,
    eight_bits,
    reduced_statistics,
)
from unitlab.compute.sweep.memory import free_memory, resolved_memory
from unitlab.compute.sweep.passes import WrittenMeanwhile, compute_shards
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shard_bounds import MOST_ELEMENTS, RATES, SECONDS, SHARE_OF_MEMORY, bytes_of_image, images_at_once
from unitlab.compute.sweep.shards import ShardResult, ShardSums
from unitlab.store.shards import HeldShards, PartialStudy, read_shard, unfinished_fingerprint, write_shard


def planned(layer: Any = "conv2", model: nn.Module | None = None, **options: Any) -> SweepPlan:
    return plan_sweep(model or network(), source(), SweepRequest(layer, **options), "cpu")


def interrupted(monkeypatch: pytest.MonkeyPatch, shards: int, **options: Any) -> None:
    """A sweep that is cut off when so many shards are written."""
    real, written = PartialStudy.write, list[int]()

    def write(self: PartialStudy, index: int, arrays: Any) -> None:
        real(self, index, arrays)
        written.append(index)
        if len(written) == shards:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartialStudy, "write", write)
        ablate(**options)


def flops(model: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return float(counter.get_total_flops())


def test_shards_have_the_images_that_take_some_time_and_fit_in_memory() -> None:
    small = planned(memory="64 MB")
    held = int(64e6 * SHARE_OF_MEMORY) // bytes_of_image(small.layers, CLASSES)
    assert int(small.fingerprint["shard"]) == max(1, held // small.batch_size) * small.batch_size
    assert int(planned(batch_size=5).fingerprint["shard"]) == planning.SHARD_IMAGES // 5 * 5
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU())
    behind = nn.Sequential(nn.Conv2d(32, 4000, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4000, CLASSES))
    model, images = nn.Sequential(*before, *behind).eval(), torch.zeros(1, 3, 17, 17)
    # what the first two layers do costs little beside what is replayed for each of 16 units
    replayed = 16 * flops(behind, before(images)) / RATES["cpu"]
    slow = planned("0", model, batch_size=1)
    assert 0.5 * SECONDS / replayed < int(slow.fingerprint["shard"]) < SECONDS / replayed
    assert int(slow.sized_for("cuda").fingerprint["shard"]) > 3 * int(slow.fingerprint["shard"])
    hooked = nn.Sequential(Untraceable().conv, nn.ReLU()).eval()
    assert flops(hooked, images) > 0 and int(planned("conv", Untraceable().eval()).fingerprint["shard"]) > 1000


def test_images_that_wait_are_within_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)]
    model, ahead = nn.Sequential(*layers).eval(), list[int]()
    pixels = torch.rand(300, 3, 64, 64)
    images = unitlab.images((pixels, torch.arange(300) % CLASSES), categories=[f"class {k}" for k in range(CLASSES)])
    plans = {
        memory: plan_sweep(model, images, SweepRequest("1", memory=memory), "cpu") for memory in ("64 MB", "2 GB", "20 GB")
    }
    small, held = plans["64 MB"], int(plans["64 MB"].fingerprint["shard"]) * bytes_of_image(plans["64 MB"].layers, CLASSES) * 3
    engines: Any = [layer.engine for layer in small.layers]
    # an eighth of it; of much memory 256 MiB, beside which batches are what they were
    assert small.bytes_ahead == 8_000_000 and plans["2 GB"].bytes_ahead == 250_000_000
    assert plans["20 GB"].bytes_ahead == 256 << 20
    assert small.batch_size == images_at_once(small.network, engines, 64_000_000 - held - 8_000_000, False, "cpu")
    assert small.batch_size < plans["2 GB"].batch_size == plans["20 GB"].batch_size == 128
    assert small.sized_for("cuda").batch_size > small.batch_size  # which has memory of its own
    # as many as that are read, and no more, while the first batch is worked on
    read, late = (
        list[int](),
        replace(images, threads=2, read=lambda position: (read.append(position), images.read(position))[1]),
    )
    monkeypatch.setattr(ShardSums, "add", lambda *_: (time.sleep(0.5), ahead.append(len(read)), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        compute_shards(small, late, HeldShards(), progress=False)
    room = 8_000_000 // (pixels[0].nbytes + 3 * THUMBNAIL**2)
    assert small.batch_size + room <= ahead[0] <= small.batch_size + room + 3


def test_no_value_has_more_elements_than_kernels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("conv1", memory="20000 GB")
    engine = plan.layers[0].engine
    assert isinstance(engine, SuffixEngine)
    widest = 8 * 17**2
    assert engine.suffix.shapes[engine.site] == (1, 8, 17, 17)
    engine.device = torch.device("cuda")  # where what fits into the memory is replayed at once
    assert MOST_ELEMENTS // 3 < engine.rows_at_once() * engine.row_bytes // 8 <= MOST_ELEMENTS
    assert planned("conv1").batch_size == 128
    monkeypatch.setattr("unitlab.compute.sweep.shard_bounds.MOST_ELEMENTS", 50 * widest)
    assert planned("conv1").batch_size == 50


def test_sums_are_those_of_float64_in_the_order_of_the_images() -> None:
    plan, shards = planned("conv2", batch_size=8), HeldShards()
    compute_shards(plan, source(), shards, progress=False)
    (result,) = (ShardResult.from_arrays(shards.read(index)) for index in range(len(plan.shard_bounds)))
    units, facts = result.layers["conv2"].units, result.images
    mean, maximum, effect = (units[name].astype(np.float64).T for name in (*BY_IMAGE, "first_order"))
    with torch.no_grad():
        value = torch.nn.functional.max_pool2d(network().conv1(source().at(range(40))).relu(), 2)
        value = network().conv2(value).flatten(2)
    np.testing.assert_allclose(units["activation_mean"].T, value.mean(2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(units["activation_max"].T, value.amax(2), rtol=1e-4, atol=1e-6)
    found = _sums(units, facts.label, facts.probability, 8, 36)
    for name, values in (("by_class", mean), ("first_order_by_class", effect)):
        expected = np.zeros((CLASSES, mean.shape[1]))
        np.add.at(expected, facts.label, values)  # image by image
        np.testing.assert_array_equal(found[name], expected)
    np.testing.assert_allclose(found["max_probability"], maximum.T @ facts.probability.astype(np.float64), rtol=1e-12)
    np.testing.assert_allclose(found["total"], 36 * mean.sum(0), rtol=1e-12)
    assert found["positions"] == 36 * 40 and (found["active"] == (maximum > 0).sum(0)).all()
    ds = ablate()
    np.testing.assert_array_equal(ds.class_activation, (found["by_class"] / found["images_by_class"][:, None]).T.astype("f4"))
    np.testing.assert_array_equal(ds.activation_mean, eight_bits(units["activation_mean"]))


def test_maps_are_kept_of_what_may_be_among_the_largest_of_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With shards in any order, and ties: units that are silent on every image have nothing but ties."""
    whole = ablate()
    monkeypatch.setattr(planning, "SHARD_IMAGES", 8)
    plan, shards = planned("conv2", batch_size=8), HeldShards()
    compute_shards(plan, source(), shards, progress=False)
    kept = [np.asarray(shards.read(index)["units/top_kept/conv2"]) for index in range(5)]
    assert [one.all() for one in kept] == [True, True, True, False, False]  # 24 images come first
    scores, places, maps = (np.concatenate(parts, 1) for parts in zip(
        *(_top(ShardResult.from_arrays(shards.read(index)).layers["conv2"].units) for index in range(5)), strict=True
    ))  # fmt: skip
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP_IMAGES]
    for values, name in ((scores, "top_activation"), (places, "top_image"), (maps, "top_map")):
        found = np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), 1)
        np.testing.assert_array_equal(found, whole[name].values)
    interrupted(monkeypatch, 2, store=tmp_path / "cut.zarr")
    xr.testing.assert_equal(ablate(store=tmp_path / "cut.zarr").load(), whole)


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_activations_are_those_of_all_images_whichever_shards_come_first(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 9, (200, 16)).astype(np.float32)  # (image, unit); most are ties
    values[:, 0] = 0
    best: dict[str, np.ndarray] = {}
    shards: dict[int, dict[str, np.ndarray]] = {}
    for number in random.permutation(20):
        places = np.arange(10 * number, 10 * number + 10)
        statistics, host = ActivationStatistics(list(range(16))), HostCopies()
        statistics.add(torch.from_numpy(values[places]), None, torch.from_numpy(places), host)
        host.deliver()
        shards[number] = statistics.arrays(best)
    known = [(np.zeros(10, int), np.ones((10, 1), np.float32))] * 20
    found = reduced_statistics([shards[number] for number in range(20)], known, 10, 1, first_order=False)
    order = np.argsort(-values.T, axis=1, kind="stable")[:, :TOP_IMAGES]
    np.testing.assert_array_equal(found["top_image"], order)
    np.testing.assert_array_equal(found["top_activation"], np.take_along_axis(values.T, order, 1))
    np.testing.assert_array_equal(found["top_map"][:, :, 0, 0], found["top_activation"])
    assert sum(len(shard["top_map"]) for shard in shards.values()) < 0.7 * 16 * 200


def test_a_sweep_that_an_older_version_began_is_ended_in_its_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Older shards have 512 images, sums by unit and class, activations in eight bits and all their maps."""
    whole, store = ablate(basis="random"), tmp_path / "study.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(planning, "SHARD_IMAGES", 8)
        interrupted(monkeypatch, 3, store=store, basis="random")
    for path in sorted(tmp_path.glob("*.partial/shard-*")):
        result = ShardResult.from_arrays({name: np.asarray(found) for name, found in read_shard(path, check=True).items()})
        (layer,), facts = result.layers.values(), result.images
        for part in (layer.units, layer.directions):
            part.update(_sums(part, facts.label, facts.probability, 8, 36), **dict(zip(TOP, _top(part), strict=True)))
            part.update({name: eight_bits(part[name]) for name in BY_IMAGE})
            part.pop("first_order", None), part.pop("top_kept")
        facts.probability = None
        write_shard(path, result.to_arrays())
    found = unitlab.estimate(network(), source(), "conv2", store=store, basis="random", device="cpu")
    assert (found.shards, found.finished_images, found.batch_size) == (5, 24, 8)
    xr.testing.assert_equal(ablate(store=store, basis="random").load(), whole)


def test_what_goes_wrong_while_a_shard_is_written_is_raised(tmp_path: Path) -> None:
    class Full(HeldShards):
        def write(self, index: int, arrays: dict[str, Any]) -> None:
            if index == 1:
                raise UnitlabError("the disk is full")
            super().write(index, arrays)

    def nothing() -> Any:
        return SimpleNamespace(to_arrays=dict)

    shards = Full()
    with pytest.raises(UnitlabError, match="full"), WrittenMeanwhile(shards) as written:
        written.write(0, nothing)
        written.write(1, nothing)
    assert shards.finished() == [0]
    with pytest.raises(KeyboardInterrupt), WrittenMeanwhile(shards) as written:
        written.write(2, nothing)
        raise KeyboardInterrupt
    assert shards.finished() == [0, 2]


def test_memory_auto_takes_half_of_a_gpu_and_an_unfinished_sweep_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, plans, real = tmp_path / "study.zarr", list[SweepPlan](), planning.SweepPlan.as_begun

    def as_begun(self: SweepPlan, known: Any) -> SweepPlan:
        plans.append(real(self, known))
        return plans[-1]

    monkeypatch.setattr(planning.SweepPlan, "as_begun", as_begun)
    monkeypatch.setattr(planning, "SHARD_IMAGES", 8)
    options: dict[str, Any] = {"memory": "auto", "device": "cuda"}
    with make_believe_gpu():
        torch.cuda.mem_get_info = lambda *_: (6 * 10**8, 80 << 30)  # what the block puts back
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("unitlab.compute.sweep.run.write_study", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            unitlab.ablate(network(), source(), "conv2", store=store, progress=False, **options)
        assert unfinished_fingerprint(store)["memory"] == "300000000"
        torch.cuda.mem_get_info = lambda *_: (4 * 10**8, 80 << 30)
        with caplog.at_level("INFO", logger="unitlab"):
            assert "memory   300 MB" in str(unitlab.estimate(network(), source(), "conv2", store=store, **options))
            found = unitlab.ablate(network(), source(), "conv2", store=store, progress=False, **options)
    assert "memory='auto': 300 MB, as the unfinished sweep has it" in caplog.text
    assert [plan.layers[0].engine.memory for plan in plans] == [150 * 10**6, 100 * 10**6, 100 * 10**6]  # type: ignore[attr-defined]
    assert len({plan.batch_size for plan in plans}) == 1
    np.testing.assert_array_equal(found.prediction, ablate().prediction)


def test_memory_is_half_of_a_gpu_by_default_and_2_gb_elsewhere() -> None:
    with make_believe_gpu():
        assert unitlab.estimate(network(), source(), "conv2", device="cuda").memory == 40 << 30
    assert unitlab.estimate(network(), source(), "conv2", device="cpu").memory == 2 * 10**9
    asked = SweepRequest("conv2", memory=None)
    with make_believe_gpu():
        assert resolved_memory(asked, None, "cuda", workers=True).budget == 2 * 10**9


def test_memory_auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    assert 10**8 < free_memory(torch.device("cpu")) < 1.2 * 1024 * int(available.split()[1])
    monkeypatch.setattr(memories, "free_memory", lambda _: 10**9)
    assert unitlab.estimate(network(), source(), "conv2", memory="auto", device="cpu").memory == 5 * 10**8
    ds = unitlab.ablate_groups(network(), source(), "conv2", [[0], [1, 2]], memory="auto", device="cpu", progress=False)
    assert ds.sizes["group"] == 2
    with pytest.raises(UnitlabError, match="what each of them may take"):
        ablate(memory="auto", client=object(), store=tmp_path / "study.zarr")
    with pytest.raises(UnitlabError, match="or 'auto'"):
        ablate(memory="much")


def test_the_weights_come_to_a_gpu_once() -> None:
    model = network()
    with make_believe_gpu() as gpu:
        SweepPlan.sized_for(plan_sweep(model, source(), SweepRequest("conv2"), "cuda"), "cuda")
    uploads = sum(count for (_, where), count in gpu.of("upload").items() if where.startswith("working_copy.py"))
    assert uploads == len(list(model.parameters()))
