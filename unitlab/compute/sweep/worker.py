"""A Dask worker's part of a sweep: network and images arrive once, shards are computed one at a time."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from distributed import Status, Worker, WorkerPlugin, get_worker
from filelock import FileLock, Timeout

from unitlab.compute.engine.torch_state import choose_device, exact_float32
from unitlab.compute.images.reading import Processors
from unitlab.compute.sweep.passes import Counts, SecondAttempt, pilot_counts
from unitlab.compute.sweep.plan import SweepPlan, UnitSums, plan_sweep
from unitlab.compute.sweep.replacements import activation_sums
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.screening import rules_from_arrays
from unitlab.compute.sweep.shards import ShardComputation
from unitlab.errors import UnitlabError, before_and_now
from unitlab.store.shards import JoinedStudy, differing_field
from unitlab.version import __version__


def count_gpus() -> int:
    """How many GPUs a worker sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def take_gpu(device: str, folder: Path, held: ExitStack) -> tuple[str, FileLock]:
    """A GPU that as few other workers as possible have, until ``held`` is closed, and the lock by which they take turns."""
    asked = torch.device(device).index
    for others in itertools.count():
        for number in range(count_gpus()) if asked is None else [asked]:
            # the same number is another GPU where a worker has another CUDA_VISIBLE_DEVICES
            gpu = folder / f"gpu-{torch.cuda.get_device_properties(number).uuid}"
            with contextlib.suppress(Timeout):
                held.enter_context(FileLock(f"{gpu}-{others}.lock", thread_local=False).acquire(timeout=0))
                return f"cuda:{number}", FileLock(f"{gpu}.lock")
    raise AssertionError("there is always another place")


@dataclass
class SweepPlugin(WorkerPlugin):
    """A sweep on a worker. Dask brings it to every worker once, to those that come later too.

    Parameters
    ----------
    payload
        The pickled network and image source.
    request
        What `plan_sweep` is asked for.
    fingerprint
        Of the plan that it must give.
    folder
        Where shards go.
    device
        What to compute on; "cuda": a GPU for each worker, or, where there are more workers, one that they use in turn.
    resource
        What Dask is told that workers have one of which can compute on that; each task takes it.
    unitlab
        The version that it must have.
    """

    payload: bytes
    request: SweepRequest
    fingerprint: dict[str, str]
    folder: Path
    device: str
    resource: str
    unitlab: str

    async def setup(self, worker: Worker) -> None:
        """Make ready to compute, and tell Dask so, where this worker can."""
        self.ended, self.threads = False, worker.state.nthreads
        known = (await worker.scheduler.identity())["workers"]
        beside = [one["host"] for one in known.values()].count(known.get(worker.address, {}).get("host"))
        self.readers = max(1, Processors() // max(1, beside))
        self.plan: SweepPlan | None = None
        self.computation: ShardComputation | None = None
        self.second: SecondAttempt | None = None
        self.turn: AbstractContextManager[Any] = nullcontext()
        self.held = ExitStack()
        if self.unitlab != __version__:
            raise UnitlabError(f"the Dask worker {worker.address} has unitlab {__version__}, here it is {self.unitlab}")
        able = not self.device.startswith("cuda") or count_gpus() > 0
        await worker.set_resources(**{self.resource: int(able)})
        if worker.status is Status.running:
            # Dask gives tasks for which it had no worker to one that begins to run, which this one did without the resource
            worker.status = Status.paused
            worker.status = Status.running

    def teardown(self, worker: Worker) -> None:
        self.ended = True
        self.held.close()

    @contextmanager
    def _prepared(self) -> Iterator[tuple[SweepPlan, Any, JoinedStudy]]:
        """Plan, images and folder, in the state that torch is to compute in."""
        before = torch.get_num_threads()
        study = JoinedStudy(self.folder, self.fingerprint)
        if self.plan is None and self.device.startswith("cuda"):
            self.device, self.turn = take_gpu(self.device, self.folder, self.held)
        with self.turn, exact_float32():
            torch.set_num_threads(self.threads)
            try:
                if self.plan is None:
                    self.plan, self.source = self._plan()
                yield self.plan, self.source, study
            finally:
                torch.set_num_threads(before)

    def _plan(self) -> tuple[SweepPlan, Any]:
        try:
            model, source = pickle.loads(self.payload)
        except Exception as error:
            raise UnitlabError(
                f"the worker on {socket.gethostname()} cannot load network or images ({type(error).__name__}: {error}); "
                "what they are made of must be installed there, or be on its PYTHONPATH"
            ) from error
        source.threads, source.threads_for_gpu = (min(n, self.readers) for n in (source.threads, source.threads_for_gpu))
        device = choose_device(self.device, self.request.precision)
        plan = plan_sweep(model, source, self.request, device).as_begun(self.fingerprint)
        differing = differing_field(self.fingerprint, plan.fingerprint)
        if differing is not None:
            values = before_and_now(self.fingerprint.get(differing), plan.fingerprint.get(differing))
            raise UnitlabError(
                f"on the worker on {socket.gethostname()} the sweep has other {differing}{values}; workers need the same "
                "versions and the same files"
            )
        self.payload = b""
        return plan, source

    def pilot(self, _index: int, _bounds: tuple[int, int]) -> Counts:
        """The pilot of a screened sweep."""
        with self._prepared() as (plan, source, study):
            return pilot_counts(plan, source, plan.replacements(study.read_replacements(), len(source)), progress=False)

    def shard(self, index: int, bounds: tuple[int, int]) -> None:
        """Compute a shard and write it to the sweep's folder."""
        with self._prepared() as (plan, source, study):
            if self.computation is None:
                replacements = plan.replacements(study.read_replacements(), len(source))
                rules = rules_from_arrays(study.read_rules(1) or {})
                self.computation = ShardComputation(plan, source, replacements, rules=rules)
            with closing(self.computation.shards([bounds], self._go_on)) as computed:
                study.write(index, next(computed)().to_arrays())

    def shard_again(self, index: int, bounds: tuple[int, int]) -> None:
        """Compute a shard of the second attempt, whose number follows those of the first."""
        with self._prepared() as (plan, source, study):
            if self.second is None:
                replacements = plan.replacements(study.read_replacements(), len(source))
                self.second = SecondAttempt(plan, source, replacements, study)
            study.write(index, self.second.shard(index, bounds, self._go_on))

    def sums(self, index: int, bounds: tuple[int, int]) -> list[UnitSums]:
        """A shard's part of the means that units are replaced by."""
        with (
            self._prepared() as (plan, source, _),
            closing(activation_sums(plan, source, [bounds], self._go_on)) as computed,
        ):
            return next(computed)

    def _go_on(self, _: int) -> None:
        if self.ended:
            raise UnitlabError("the sweep has ended")


def on_worker(name: str, work: Callable[..., Any], *given: Any) -> Any:
    """Task: work of the sweep ``name``."""
    return work(get_worker().plugins[name], *given)
