"""What a shard gives: named in one place, the same in memory and in a file, halved where a GPU's memory runs out."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import CLASSES, FunctionalReLU
from test_exactness import settled, source_of

from unitlab import UnitlabError
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.sweep.memory import in_halves
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shards import ShardComputation, ShardResult
from unitlab.store.shards import PartialStudy


@pytest.mark.parametrize("basis", [None, "random"])
def test_a_shard_comes_back_from_a_file_as_it_was(tmp_path: Path, basis: str | None) -> None:
    torch.manual_seed(0)
    source = source_of(torch.randn(6, 3, 17, 17), CLASSES)
    plan = plan_sweep(settled(FunctionalReLU(), 17), source, SweepRequest(["conv1", "conv2"], basis=basis), "cpu")
    computation = ShardComputation(plan, source, plan.replacements(None, len(source)))
    (ended,) = computation.shards(plan.shard_bounds, lambda _: None)
    given = ended()
    study = PartialStudy(tmp_path / "study.zarr", plan.fingerprint)
    study.write(0, given.to_arrays())
    found = ShardResult.from_arrays(study.read(0))
    study.close()
    assert set(found.layers) == {"conv1", "conv2"}
    for name, array in vars(given.images).items():
        np.testing.assert_array_equal(getattr(found.images, name), array, err_msg=name)
    for layer, shard in given.layers.items():
        assert bool(shard.directions) == (basis is not None)
        for part in ("ablation", "units", "directions"):
            arrays, again = getattr(shard, part), getattr(found.layers[layer], part)
            assert set(arrays) == set(again)
            for name, array in arrays.items():
                np.testing.assert_array_equal(again[name], array, err_msg=f"{layer} {part} {name}")


def test_halves_are_taken_in_order_and_hold_nothing_of_what_failed() -> None:
    source, before = source_of(torch.randn(9, 3, 17, 17), CLASSES), []

    def work(images: ImageBatch) -> list[int]:
        assert not any(reference() for reference in before)
        value = torch.zeros(1)
        before.append(weakref.ref(value))
        if len(images.positions) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.positions.tolist()

    batch = next(source.stream([range(9)]))
    assert list(in_halves(work, batch, source)) == [[0, 1], [2, 3], [4, 5], [6, 7, 8]]
    with pytest.raises(UnitlabError, match="one image does not fit"):
        list(in_halves(lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError()), batch, source))
