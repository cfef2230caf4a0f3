"""Shards spread over Dask workers that share a file system: one shard a worker at a time, one GPU a worker."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cloudpickle
import distributed
import torch
from torch import nn
from tqdm.auto import tqdm

from unitlab.compute.engine.torch_state import working_copy
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.progress import InterruptRequest, images_bar, interrupt_after_shard
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shards import unit_replacements
from unitlab.compute.sweep.worker import SweepPlugin, WorkerFacts, shard_on_worker, sums_on_worker, worker_facts
from unitlab.errors import UnitlabError, what_it_says
from unitlab.store.shards import PartialStudy
from unitlab.version import __version__

log = logging.getLogger("unitlab")

LOSSES = 3
CONNECT_SECONDS = 10.0
NO_WORKER_SECONDS = 60.0
ANSWER_SECONDS = 300.0  # a worker may have to load torch from a slow disk first
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


def assigned_devices(
    workers: Mapping[str, WorkerFacts], device: str | None, assigned: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A device for each worker that takes part.

    Parameters
    ----------
    workers
        Facts of the workers, by address.
    device
        For all of them. "cuda": workers that see no GPU have no part, and those of one machine that see the same GPUs take
        them in turn. None: as "cuda" where any worker sees a GPU, else "cpu".
    assigned
        Devices given before, which stay: what a worker has loaded stays where it is.
    """
    if device is None:
        device = "cuda" if any(facts.gpus for facts in workers.values()) else "cpu"
    if device != "cuda":
        return dict.fromkeys(workers, device)
    found = {address: given for address, given in (assigned or {}).items() if address in workers}
    users = Counter((workers[address].host, workers[address].visible, given) for address, given in found.items())
    for address, facts in sorted(workers.items()):
        if facts.gpus and address not in found:
            choices = [(facts.host, facts.visible, f"cuda:{number}") for number in range(facts.gpus)]
            chosen = min(choices, key=lambda choice: users[choice])
            users[chosen] += 1
            found[address] = chosen[2]
    return found


class WorkerPool:
    """The workers of a Dask cluster, as a sweep uses them.

    Parameters
    ----------
    client
        A `distributed.Client`.
    device
        What workers compute on; None for their GPUs where there are any.

    Raises
    ------
    UnitlabError
        Not a client, an asynchronous one, no workers, workers without unitlab or with another version of it, a device
        that no worker has.
    """

    def __init__(self, client: Any, device: str | torch.device | None) -> None:
        if not isinstance(client, distributed.Client) or client.asynchronous:
            raise UnitlabError(
                f"client={client!r:.80} is not a synchronous Dask client; give distributed.Client(ADDRESS), or leave it out"
            )
        self.client, self.device = client, None if device is None else str(device)
        self.devices: dict[str, str] = {}
        self.facts: dict[str, WorkerFacts] = {}
        self.paused: dict[str, float] = {}  # since when, by address
        self.stuck: set[str] = set()  # paused for long, and computing nothing
        begin = time.monotonic()
        while not self.devices:
            self._meet_workers()
            if not self.facts and time.monotonic() > begin + NO_WORKER_SECONDS:
                raise UnitlabError(f"no Dask worker came within {NO_WORKER_SECONDS:.0f} s; start some: {_command(client)}")
            if self.facts and not self.devices:
                raise UnitlabError(f"device={self.device!r}: none of {len(self.facts)} Dask workers sees a GPU; give 'cpu'")
            time.sleep(0 if self.devices else POLL_SECONDS)
        self.device = self.device or self.device_type  # workers that come later compute on the same

    @property
    def device_type(self) -> str:
        """ "cpu" or "cuda"."""
        return next(iter(self.devices.values())).partition(":")[0]

    def _meet_workers(self) -> None:
        """Learn of workers that came or went since the last time."""
        try:
            there = set(_answer(self.client.nthreads))
            self._see_paused(there)
            new = sorted(there - set(self.facts))
            met = _answer(self.client.run, worker_facts, workers=new, on_error="return") if new else {}
        except (OSError, TimeoutError, ValueError) as error:
            raise UnitlabError(f"the Dask scheduler does not answer any more ({error}); run the same again") from error
        for address, facts in met.items():
            if isinstance(facts, ModuleNotFoundError):
                raise UnitlabError(
                    f"the Dask worker {address} has no {facts.name}; install unitlab with its extra 'cluster' there"
                )
            if isinstance(facts, Exception) and address in there:
                log.warning("the Dask worker %s does not answer (%s: %s)", address, type(facts).__name__, facts)
            if isinstance(facts, WorkerFacts) and facts.unitlab != __version__:
                raise UnitlabError(f"the Dask worker {address} has unitlab {facts.unitlab}, here it is {__version__}")
        known = {**self.facts, **{address: facts for address, facts in met.items() if isinstance(facts, WorkerFacts)}}
        known = {address: facts for address, facts in known.items() if address in there}
        if set(known) == set(self.facts):
            return
        self.devices = assigned_devices(known, self.device, self.devices)
        for address in sorted(set(self.devices) - set(self.facts)):
            facts = known[address]
            log.info("worker %s on %s: %s, threads: %d", address, facts.host, self.devices[address], facts.threads)
        self.facts = known

    def _see_paused(self, there: set[str]) -> None:
        """Learn of workers that Dask has paused, as it does where memory is full: they finish what they compute, no more."""
        if self.client.scheduler is None:
            raise OSError("the client is closed")
        awake, now = set(_answer(self.client.sync, self.client.scheduler.ncores_running)), time.monotonic()
        for address in sorted((set(self.facts) & there) - awake - set(self.paused)):  # new ones are not awake at once
            log.warning("worker %s is given nothing: Dask has paused it, as its memory is full, or is closing it", address)
        self.paused = {address: self.paused.get(address, now) for address in there - awake}
        long = [address for address, since in self.paused.items() if now > since + NO_WORKER_SECONDS]
        workers = _answer(self.client.scheduler_info)["workers"] if long else {}
        counts = {address: workers[address]["metrics"].get("task_counts", {}) for address in long if address in workers}
        self.stuck = {address for address, tasks in counts.items() if not tasks.get("executing")}

    def compute(
        self, plan: SweepPlan, model: nn.Module, source: ImageSource, request: SweepRequest, study: PartialStudy,
        progress: bool,
    ) -> None:  # fmt: skip
        """Compute the shards that are not finished yet; each worker writes its own to the sweep's folder.

        Raises
        ------
        UnitlabError
            A network or image source that cannot be pickled; workers that do not see the folder; a shard on which
            worker after worker dies.
        """
        done = set(study.finished())
        left = [index for index in range(len(plan.shard_bounds)) if index not in done]
        if not left:
            return
        with self._sent(plan, model, source, request, study) as name, interrupt_after_shard(True) as stop:
            if plan.request.ablation == "mean" and study.read_replacements() is None:
                with images_bar(len(source), description=f"means of {plan.layers_text}", shown=progress) as bar:
                    everything = _Spread(self, plan, name, sums_on_worker, list(range(len(plan.shard_bounds))))
                    sums = dict(everything.results(bar, stop))
                stop.heed()
                study.write_replacements(plan.means(sums[index] for index in range(len(plan.shard_bounds))))
            unit_replacements(plan, source, study, stop, progress)
            with images_bar(len(source), finished=plan.images_in(done), description=plan.description, shown=progress) as bar:
                for index, _ in _Spread(self, plan, name, shard_on_worker, left).results(bar, stop):
                    _see(study, index)
            stop.heed()

    @contextmanager
    def _sent(
        self, plan: SweepPlan, model: nn.Module, source: ImageSource, request: SweepRequest, study: PartialStudy
    ) -> Iterator[str]:
        """The name under which the workers know the sweep."""
        name = f"unitlab-{uuid.uuid4().hex[:12]}"
        try:
            payload = cloudpickle.dumps((working_copy(model, torch.device("cpu")), source))
        except Exception as error:
            raise UnitlabError(
                f"the network or the images cannot be sent to Dask workers, since pickle refuses them "
                f"({type(error).__name__}: {error}); give a network without open files, locks or generators, and images as a "
                "folder, or as a Dataset that opens its files when an image is asked for"
            ) from error
        log.info("sending network and images, %.1f MB, to each of %d workers once", len(payload) / 1e6, len(self.devices))
        plugin = SweepPlugin(name, payload, request, plan.fingerprint, study.folder)
        del payload
        try:
            _answer(self.client.register_plugin, plugin, name)
            yield name
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone, which was said already
                _answer(self.client.unregister_worker_plugin, name)


class _Spread:
    """Tasks, one for each of ``numbers``, given to workers one at a time, again where a worker is lost."""

    def __init__(self, pool: WorkerPool, plan: SweepPlan, name: str, task: Callable[..., Any], numbers: list[int]) -> None:
        self.pool, self.plan, self.name, self.task = pool, plan, name, task
        self.left, self.losses = deque(numbers), Counter[int]()
        self.running: dict[distributed.Future, tuple[int, str]] = {}
        self.ended: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()

    def results(self, bar: tqdm[Any], stop: InterruptRequest) -> Iterator[tuple[int, Any]]:
        """Number and result of every task that ends, in the order in which they end; after a stop, of those that run."""
        alone_since = time.monotonic()
        try:
            while self.running or (self.left and not stop.made):
                self.pool._meet_workers()
                self._take_back()
                if not stop.made:
                    self._give()
                alone_since = time.monotonic() if self.running else alone_since
                if time.monotonic() > alone_since + NO_WORKER_SECONDS:
                    raise UnitlabError(
                        f"no Dask worker for {NO_WORKER_SECONDS:.0f} s{self._paused_text()}; finished shards are kept: "
                        f"start workers ({_command(self.pool.client)}) and run the same again"
                    )
                try:
                    future = self.ended.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    bar.refresh()
                    continue
                if future in self.running:
                    index, address = self.running.pop(future)
                    result = self._result(future, index, address)
                    yield index, result
                    bar.update(self.plan.images_in([index]))
        finally:
            if self.running:
                with contextlib.suppress(Exception):
                    _answer(self.pool.client.cancel, list(self.running), force=True)

    def _give(self) -> None:
        """Give a task to every worker that has none."""
        busy = {address for _, address in self.running.values()}
        for address, device in self.pool.devices.items():
            if address not in busy and address not in self.pool.paused and self.left:
                index = self.left.popleft()
                future = self.pool.client.submit(
                    self.task, self.name, index, self.plan.shard_bounds[index], device,
                    key=f"{self.name}-{self.task.__name__}-{index}-{self.losses[index]}", workers=[address], pure=False,
                )  # fmt: skip
                self.running[future] = (index, address)
                future.add_done_callback(self.ended.put)

    def _take_back(self) -> None:
        """Take back the tasks of workers that are gone, or paused before they began."""
        for future, (index, address) in list(self.running.items()):
            if (address in self.pool.devices and address not in self.pool.stuck) or future.status == "finished":
                continue
            del self.running[future]
            future.cancel(force=True)
            self._lost(index, address, "paused by Dask, as its memory is full" if address in self.pool.stuck else "gone")

    def _paused_text(self) -> str:
        count = len(self.pool.paused)
        return f" but {count} that Dask has paused, as their memory is full" if count else ""

    def _lost(self, index: int, address: str, how: str) -> None:
        self.losses[index] += 1
        start, stop = self.plan.shard_bounds[index]
        if self.losses[index] >= LOSSES:
            raise UnitlabError(
                f"{LOSSES} Dask workers in turn were lost while computing images {start} to {stop}, as happens where memory "
                "runs out; give workers more, or lower memory= (now "
                f"{self.plan.request.budget / 1e9:.1f} GB); finished shards are kept"
            )
        log.warning("worker %s is %s: its shard, images %d to %d, is computed again", address, how, start, stop)
        self.left.appendleft(index)

    def _result(self, future: distributed.Future, index: int, address: str) -> Any:
        if future.status == "finished":
            return future.result()
        error = future.exception() if future.status == "error" else None
        if isinstance(error, UnitlabError):
            raise error
        start, stop = self.plan.shard_bounds[index]
        why = f"{type(error).__name__}: {error}" if error is not None else f"its task was {future.status}"
        raise UnitlabError(f"the Dask worker {address} failed on images {start} to {stop} ({why}); finished shards are kept")


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


def _answer(call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What a call to the cluster gives; Dask itself waits for ever for a worker that is frozen."""
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(*given, **options), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer, error = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise UnitlabError(
            f"Dask does not answer within {ANSWER_SECONDS:.0f} s: the scheduler or one of its workers hangs; end the process "
            "that does and run the same again: finished shards are kept"
        ) from None
    if error is not None:
        raise error
    return answer


def _command(client: distributed.Client) -> str:
    return f"dask worker {client.scheduler_info(n_workers=0)['address']} --nthreads 1"
