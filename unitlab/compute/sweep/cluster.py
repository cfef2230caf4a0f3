"""Shards spread over Dask workers that share a file system: Dask decides who computes what, and what again."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
import distributed
import torch
from torch import nn
from tqdm.auto import tqdm

from unitlab.compute.engine.user_network.working_copy import working_copy
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.passes import Counts, first_rules, left_again
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.progress import InterruptRequest, images_bar, interrupt_after_shard
from unitlab.compute.sweep.replacements import unit_replacements
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.worker import SweepPlugin, count_gpus, on_worker
from unitlab.errors import UnitlabError, what_it_says
from unitlab.store.shards import PartialStudy
from unitlab.version import __version__

log = logging.getLogger("unitlab")

CONNECT_SECONDS = 10.0
NO_WORKER_SECONDS = 60.0
POLL_SECONDS = 0.5
SEEN_SECONDS = 30.0


@contextmanager
def connected(address: str) -> Iterator[distributed.Client]:
    """A client of the scheduler at an address.

    Raises
    ------
    UnitlabError
        No scheduler answers there.
    """
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UnitlabError(
            f"no Dask scheduler answers at {address} ({what_it_says(error)}); start one with 'dask scheduler', and "
            "workers with 'dask worker ADDRESS --nthreads 1'"
        ) from error
    with client:
        yield client


@contextmanager
def _answering() -> Iterator[None]:
    """Say what it means where Dask itself fails."""
    try:
        yield
    except (OSError, distributed.CancelledError) as error:
        raise UnitlabError(
            f"the Dask scheduler does not answer any more ({what_it_says(error)}); run the same again: finished shards are kept"
        ) from error


class WorkerPool:
    """The workers of a Dask cluster, as a sweep uses them.

    Parameters
    ----------
    client
        A `distributed.Client`.
    device
        What workers compute on; None for their GPUs where there are any. Workers that do not see one then have no part.

    Raises
    ------
    UnitlabError
        Not a client, an asynchronous one, no workers, workers without unitlab, a device that no worker has.
    """

    def __init__(self, client: Any, device: str | torch.device | None) -> None:
        if not isinstance(client, distributed.Client) or client.asynchronous:
            raise UnitlabError(
                f"client={client!r:.80} is not a synchronous Dask client; give distributed.Client(ADDRESS), or leave it out"
            )
        self.client, self.met = client, time.monotonic()
        while not (gpus := self._gpus()):
            time.sleep(POLL_SECONDS)
        self.device = str(device or ("cuda" if any(gpus) else "cpu"))
        self.device_type = self.device.partition(":")[0]
        self.resource = f"unitlab-{self.device_type}"
        if self.device_type == "cuda" and not any(gpus):
            raise UnitlabError(f"device={self.device!r}: none of {len(gpus)} Dask workers sees a GPU; give 'cpu'")

    def _gpus(self) -> list[int]:
        """How many GPUs each worker sees; nothing where there is no worker yet, or one that hangs still."""
        found = self.client.run(count_gpus, on_error="return") if self._running() else {}
        for address, error in found.items():
            if isinstance(error, OSError):
                log.warning("the Dask worker %s does not answer (%s); waiting until Dask ends it", address, what_it_says(error))
                return []
            if isinstance(error, Exception):
                raise UnitlabError(
                    f"the Dask worker {address} has no such unitlab ({error}); install unitlab with its extra 'cluster' there"
                )
        return list(found.values())

    def _running(self) -> int:
        """How many workers take tasks, which they do not while Dask pauses them; it raises where there are none for long."""
        if self.client.scheduler is None:
            raise OSError("the client is closed")
        count = len(self.client.sync(self.client.scheduler.ncores_running))
        self.met = time.monotonic() if count else self.met
        if time.monotonic() > self.met + NO_WORKER_SECONDS:
            paused, address = len(self.client.nthreads()), self.client.scheduler_info(n_workers=0)["address"]
            but = f" but {paused} that Dask has paused, as their memory is full" if paused else ""
            raise UnitlabError(
                f"no Dask worker came within {NO_WORKER_SECONDS:.0f} s{but}; start some: dask worker {address} --nthreads 1"
            )
        return count

    def compute(
        self, plan: SweepPlan, model: nn.Module, source: ImageSource, request: SweepRequest, study: PartialStudy,
        progress: bool,
    ) -> None:  # fmt: skip
        """Compute the shards that are not finished yet; each worker writes its own to the sweep's folder.

        Raises
        ------
        UnitlabError
            A network or image source that cannot be pickled; workers with another version or that do not see the folder; a
            shard on which worker after worker dies.
        """
        done = set(study.finished())
        left = [index for index in range(len(plan.shard_bounds)) if index not in done]
        if not left and not plan.screened:
            return
        with self._sent(plan, model, source, request, study) as name, interrupt_after_shard(True) as stop:
            if plan.request.ablation == "mean" and study.read_replacements() is None:
                sums: dict[int, Any] = {}
                with images_bar(len(source), description=f"means of {plan.layers_text}", shown=progress) as bar:
                    self._spread(plan, name, SweepPlugin.sums, range(len(plan.shard_bounds)), sums.__setitem__, bar, stop)
                stop.heed()
                study.write_replacements(plan.means(sums[index] for index in sorted(sums)))
            unit_replacements(plan, source, study, stop, progress)
            pilot: dict[int, Counts] = {}

            def measured() -> Counts:
                with images_bar(len(source), description=f"pilot of {plan.layers_text}", shown=False) as bar:
                    self._spread(plan, name, SweepPlugin.pilot, [0], pilot.__setitem__, bar, stop)
                stop.heed()
                return pilot[0]

            first_rules(plan, len(source), study, measured)
            finished = len(source) - plan.images_in(left)
            with images_bar(len(source), finished=finished, description=plan.description, shown=progress) as bar:
                self._spread(plan, name, SweepPlugin.shard, left, lambda index, _: _see(study, index), bar, stop)
            stop.heed()
            left = left_again(plan, study)
            with images_bar(plan.images_in(left), description="second attempt", shown=progress and bool(left)) as bar:
                self._spread(plan, name, SweepPlugin.shard_again, left, lambda index, _: _see(study, index), bar, stop)
            stop.heed()

    @contextmanager
    def _sent(
        self, plan: SweepPlan, model: nn.Module, source: ImageSource, request: SweepRequest, study: PartialStudy
    ) -> Iterator[str]:
        """The name under which the workers know the sweep."""
        name = f"unitlab-{uuid.uuid4().hex[:12]}"
        try:
            payload = cloudpickle.dumps((working_copy(model, torch.device("cpu"), as_stored=True), source))
        except Exception as error:
            raise UnitlabError(
                f"the network or the images cannot be sent to Dask workers, since pickle refuses them "
                f"({type(error).__name__}: {error}); give a network without open files, locks or generators, and images as a "
                "folder, or as a Dataset that opens its files when an image is asked for"
            ) from error
        log.info("sending network and images, %.1f MB, to each of %d workers once", len(payload) / 1e6, self._running())
        plugin = SweepPlugin(payload, request, plan.fingerprint, study.folder, self.device, self.resource, __version__)
        try:
            with _answering():
                self.client.register_plugin(plugin, name)
            yield name
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone, which was said already
                self.client.unregister_worker_plugin(name)

    @_answering()
    def _spread(
        self, plan: SweepPlan, name: str, work: Callable[..., Any], numbers: Iterable[int],
        take: Callable[[int, Any], object], bar: tqdm[Any], stop: InterruptRequest,
    ) -> None:  # fmt: skip
        """Have work done, and take number and result of each that ends; after a stop, of those that are begun.

        Dask is given about one for each worker at a time, so that a stop waits for no more than that.
        """
        left, begun = deque(numbers), dict[distributed.Future, int]()
        ended: dict[int, Any] = {}
        self.met, workers = time.monotonic(), self._running()
        try:
            while begun or ended or (left and not stop.made):
                # the next ones first, so that no worker waits while results are looked at
                while left and not stop.made and len(begun) < max(1, workers):
                    index = left.popleft()
                    begun[self.client.submit(
                        on_worker, name, work, index, plan.shard_bounds[index % len(plan.shard_bounds)],
                        key=f"{name}-{work.__name__}-{index}", pure=False, resources={self.resource: 1},
                    )] = index  # fmt: skip
                for index, result in ended.items():
                    take(index, result)
                    bar.update(plan.images_in([index]))
                bar.refresh()
                stop.heed_repeated()
                workers = self._running()
                # a result that is here already is not computed again should its worker die now
                ended = {(index := begun.pop(future)): _result(future, plan, index) for future in self._ended(list(begun))}
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel(list(begun), force=True)

    def _ended(self, begun: list[distributed.Future]) -> set[distributed.Future]:
        """Those that have ended, waiting a moment for one."""
        with contextlib.suppress(TimeoutError), self.client.as_current():
            return set(distributed.wait(begun, POLL_SECONDS, "FIRST_COMPLETED").done)
        return set()


def _result(future: distributed.Future, plan: SweepPlan, index: int) -> Any:
    if future.status == "finished":
        return future.result()
    error = future.exception()
    if isinstance(error, UnitlabError):
        raise error
    start, stop = plan.shard_bounds[index % len(plan.shard_bounds)]
    if isinstance(error, distributed.KilledWorker):
        raise UnitlabError(
            f"{error.allowed_failures + 1} Dask workers in turn were lost while computing images {start} to {stop}, as happens "
            f"where memory runs out; give workers more, or lower memory= (now {plan.request.budget / 1e9:.1f} GB); finished "
            "shards are kept"
        )
    raise UnitlabError(f"a Dask worker failed on images {start} to {stop} ({what_it_says(error)}); finished shards are kept")


def _see(study: PartialStudy, index: int) -> None:
    """Wait until a shard that a worker has written is seen here: network file systems show new files late."""
    until = time.monotonic() + SEEN_SECONDS
    while not study.has(index):
        if time.monotonic() > until:
            raise UnitlabError(
                f"a Dask worker has written a shard to {study.folder} and it is not there as seen from here; the store must be "
                "on a file system that all of them share"
            )
        time.sleep(POLL_SECONDS)
