"""A Dask worker's part of a sweep: network and images arrive once, shards are computed one at a time."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from distributed import WorkerPlugin, get_worker

from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.sweep.plan import SweepPlan, UnitSums, plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shards import ShardComputation, activation_sums
from unitlab.errors import UnitlabError
from unitlab.store.shards import JoinedStudy, differing_field
from unitlab.version import __version__


@dataclass(frozen=True)
class WorkerFacts:
    """What the sweep wants to know of a worker before it gives it work."""

    host: str
    threads: int
    gpus: int
    visible: str
    unitlab: str


def worker_facts(dask_worker: Any) -> WorkerFacts:
    """Facts of a worker, which Dask gives to what it runs there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return WorkerFacts(socket.gethostname(), dask_worker.state.nthreads, gpus, visible, __version__)


class SweepPlugin(WorkerPlugin):
    """A sweep on a worker. Dask brings it to every worker once, to those that come later too.

    Parameters
    ----------
    name
        Of the sweep, as no other has it.
    payload
        The pickled network and image source.
    request
        What `plan_sweep` is asked for.
    fingerprint
        Of the plan that it must give.
    folder
        Where shards go.
    """

    def __init__(
        self,
        name: str,
        payload: bytes,
        request: SweepRequest,
        fingerprint: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.name = name
        self.payload, self.request, self.fingerprint, self.folder = payload, request, dict(fingerprint), folder

    def setup(self, worker: Any) -> None:
        self.one_at_a_time, self.ended = threading.Lock(), threading.Event()
        self.threads = worker.state.nthreads
        self.plan: SweepPlan | None = None
        self.computation: ShardComputation | None = None

    def teardown(self, worker: Any) -> None:
        self.ended.set()

    @contextmanager
    def _prepared(self, device: str) -> Iterator[tuple[SweepPlan, Any]]:
        """The plan and the images, in the state that torch is to compute in."""
        before = torch.get_num_threads()
        with self.one_at_a_time, exact_float32():
            torch.set_num_threads(self.threads)
            try:
                if self.plan is None:
                    self.plan, self.source = self._plan(device)
                yield self.plan, self.source
            finally:
                torch.set_num_threads(before)

    def _plan(self, device: str) -> tuple[SweepPlan, Any]:
        try:
            model, source = pickle.loads(self.payload)
        except Exception as error:
            raise UnitlabError(
                f"the worker on {socket.gethostname()} cannot load network or images ({type(error).__name__}: {error}); "
                "what they are made of must be installed there, or be on its PYTHONPATH"
            ) from error
        plan = plan_sweep(model, source, self.request, device)
        plan.fingerprint["shard"] = self.fingerprint["shard"]  # bounds come with every task
        differing = differing_field(self.fingerprint, plan.fingerprint)
        if differing is not None:
            raise UnitlabError(
                f"on the worker on {socket.gethostname()} the sweep has other {differing} "
                f"({plan.fingerprint.get(differing, '')[:24]}, here {self.fingerprint.get(differing, '')[:24]}); workers need "
                "the same versions and the same files"
            )
        self.payload = b""
        return plan, source

    def shard(self, index: int, bounds: tuple[int, int], device: str) -> None:
        """Compute a shard and write it to the sweep's folder."""
        with self._prepared(device) as (plan, source):
            study = JoinedStudy(self.folder, self.fingerprint)
            if self.computation is None:
                replacements = plan.replacements(study.read_replacements(), len(source))
                self.computation = ShardComputation(plan, source, replacements)
            with closing(self.computation.shards([bounds], self._go_on)) as computed:
                study.write(index, next(computed).to_arrays())

    def sums(self, bounds: tuple[int, int], device: str) -> list[UnitSums]:
        """A shard's part of the means that units are replaced by."""
        with (
            self._prepared(device) as (plan, source),
            closing(activation_sums(plan, source, [bounds], self._go_on)) as computed,
        ):
            return next(computed)

    def _go_on(self, _: int) -> None:
        if self.ended.is_set():
            raise UnitlabError("the sweep has ended")


def shard_on_worker(name: str, index: int, bounds: tuple[int, int], device: str) -> None:
    """Task: compute a shard of the sweep ``name`` and write it."""
    _sweep(name).shard(index, bounds, device)


def sums_on_worker(name: str, index: int, bounds: tuple[int, int], device: str) -> list[UnitSums]:
    """Task: a shard's part of the means of the sweep ``name``."""
    return _sweep(name).sums(bounds, device)


def _sweep(name: str) -> SweepPlugin:
    plugin = get_worker().plugins[name]
    assert isinstance(plugin, SweepPlugin)
    return plugin
