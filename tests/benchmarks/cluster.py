"""Two one-thread Dask workers beside one, on a suffix-bound layer: ``python tests/benchmarks/cluster.py``.

Shards are computed by one worker and by two in turn, in the same run; what surrounds the shards (planning, proof,
writing) is the same for both and left out.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import distributed
import torch
from torch.utils.data import TensorDataset

import unitlab
from unitlab.compute.networks.bundled import AlexNet
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.cluster import WorkerPool
from unitlab.compute.sweep.request import SweepRequest
from unitlab.store.shards import PartialStudy

REPEATS = 2
IMAGES = 768
SHARD = 64


def seconds(workers: int) -> tuple[float, int]:
    """Time of the shards on so many workers, network and images sent before, and the number of pairs."""
    torch.manual_seed(0)
    network = AlexNet((32, 64, 96, 96, 64), channels=1, categories=10, size=28, dense=128).eval()
    pixels = torch.randn(IMAGES, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    source = unitlab.images(TensorDataset(pixels, torch.arange(IMAGES) % 10))
    request = SweepRequest("conv4", batch_size=64)
    plan = planning.plan_sweep(network, source, request, "cpu")
    options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": logging.CRITICAL}
    with (
        tempfile.TemporaryDirectory() as folder,
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        pool = WorkerPool(client, "cpu")
        # the first sweep of a worker loads torch and plans
        warm = PartialStudy(Path(folder) / "warm.zarr", plan.fingerprint)
        bounds = plan.shard_bounds
        plan.shard_bounds = bounds[: 2 * workers]
        pool.compute(plan, network, source, request, warm, progress=False)
        plan.shard_bounds = bounds
        study = PartialStudy(Path(folder) / "study.zarr", plan.fingerprint)
        begin = time.perf_counter()
        pool.compute(plan, network, source, request, study, progress=False)
        taken = time.perf_counter() - begin
        assert len(study.finished()) == len(bounds)
        return taken, IMAGES * len(plan.layers[0].units)


def main() -> None:
    planning.SHARD_IMAGES = SHARD
    torch.set_num_threads(1)
    taken = [(seconds(1)[0], seconds(2)[0]) for _ in range(REPEATS)]
    ratios = [one / two for one, two in taken]
    print("one worker, two workers, ratio: " + "; ".join(f"{a:.1f} s, {b:.1f} s, {a / b:.2f}" for a, b in taken))
    print(f"two one-thread workers are {statistics.median(ratios):.2f} times as fast as one (median of {REPEATS})")


if __name__ == "__main__":
    main()
