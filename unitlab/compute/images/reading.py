"""Something read for many positions, in order, ahead of who uses it: by threads, or by a DataLoader's worker processes."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from queue import SimpleQueue
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from unitlab.errors import UnitlabError, what_it_says

T = TypeVar("T")
Job = TypeVar("Job")


class Processors(int):
    """How many processors this process may use; unpickled, as many as the process there may."""

    def __new__(cls) -> Processors:
        return super().__new__(cls, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

    def __reduce__(self) -> tuple[type[Processors], tuple[()]]:
        return Processors, ()


LAST_READ_SECONDS = 1.0  # how long the end of the reading waits for what is being read
ALIGNED = 64  # bytes
# Whether torch has threads by the thread: else each reader would have its own sixteen, say, which take half as much processor
# time again to read a photograph.
ONE_EACH = "parallel backend: OpenMP" in torch.__config__.parallel_info()


@dataclass(frozen=True)
class LoaderWorkers:
    """Worker processes as a given DataLoader has them; ``images_at_once`` is its batch size."""

    count: int
    images_at_once: int
    prefetch_factor: int | None
    timeout: float
    start_method: str | None
    worker_init_fn: Callable[[int], object] | None


def loader_workers(loader: DataLoader[Any]) -> LoaderWorkers | None:
    """The workers of a DataLoader, or None where it has none."""
    if loader.num_workers == 0:
        return None
    context = loader.multiprocessing_context
    return LoaderWorkers(
        loader.num_workers, getattr(loader.batch_sampler, "batch_size", None) or 1, loader.prefetch_factor, loader.timeout,
        None if context is None else context.get_start_method(), loader.worker_init_fn,
    )  # fmt: skip


class BatchInReading:
    """A batch as one tensor, in which each image has its place whoever reads it; where there is room, see `make_room`."""

    def __init__(self, images: int, *, pinned: bool) -> None:
        self.images, self.pinned = images, pinned
        self.pixels: Tensor | None = None

    def make_room(self, shape: torch.Size, dtype: torch.dtype) -> None:
        """Make the tensor; pinned memory torch gives again when no copy reads it any more."""
        if self.pixels is not None:
            return
        if self.pinned:
            self.pixels = torch.empty((self.images, *shape), dtype=dtype, pin_memory=True)
            return
        # numpy asks for large pages, whose first use costs half of what small ones cost; aligned as torch would
        count = self.images * shape.numel() * dtype.itemsize
        room = np.empty(count + ALIGNED, np.uint8)
        start = -room.ctypes.data % ALIGNED
        self.pixels = torch.from_numpy(room[start : start + count]).view(dtype).view(self.images, *shape)

    def put(self, place: int | slice, images: Tensor) -> None:
        assert self.pixels is not None
        if self.pinned and images.dtype != torch.bfloat16:
            # by one thread: others of torch's own would take processors from those who read
            np.copyto(self.pixels[place].numpy(), images.numpy())
        else:
            self.pixels[place].copy_(images)

    def taken(self) -> Tensor:
        """The batch, which is not held here any more."""
        found, self.pixels = self.pixels, None
        assert found is not None
        return found


def content_hash(image: Tensor, transform: str = "") -> bytes:
    """SHA-256 of an image's type, shape and values, and of what is still to be done to it."""
    digest = hashlib.sha256(_kind_text(image.dtype, image.shape) + transform.encode())
    digest.update(image.contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def free_shared_memory() -> int:
    """Bytes by which processes that begin as copies of this one can hand tensors over; 0 where there are none."""
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform != "linux":
        return 0
    with suppress(OSError):
        found = os.statvfs("/dev/shm")
        return found.f_bavail * found.f_frsize
    return 0


@cache
def _kind_text(dtype: torch.dtype, shape: torch.Size) -> bytes:
    return f"{dtype} {tuple(shape)} ".encode()


def read_ahead(
    read: Callable[[Job], T], jobs: Iterable[Job], threads: int, ahead: Callable[[], int] | None = None
) -> Generator[T, None, None]:
    """``read`` of each job in order, by ``threads`` ``ahead()`` jobs ahead (default 4 each); with none, by who asks."""
    if not threads:
        yield from map(read, jobs)
        return
    wanted: SimpleQueue[tuple[Future[T], Job] | None] = SimpleQueue()
    ready: SimpleQueue[None] = SimpleQueue()
    # daemons: a read that hangs, as of a network drive, must not hold up Ctrl-C or the end of the process
    readers = [Thread(target=_serve, args=(read, wanted, ready), daemon=True, name="unitlab reader") for _ in range(threads)]
    own_threads = torch.get_num_threads()
    for reader in readers:
        reader.start()
    waiting: deque[Future[T]] = deque()
    try:
        for _ in readers:
            ready.get()
        if ONE_EACH:
            torch.set_num_threads(own_threads)  # for whatever thread begins later
        for job in jobs:
            waiting.append(Future())
            wanted.put((waiting[-1], job))
            while len(waiting) > (4 * threads if ahead is None else ahead()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for _ in readers:
            wanted.put(None)
        until = time.monotonic() + LAST_READ_SECONDS
        for reader in readers:
            reader.join(max(0.0, until - time.monotonic()))


def _serve(read: Callable[[Job], T], wanted: SimpleQueue[tuple[Future[T], Job] | None], ready: SimpleQueue[None]) -> None:
    if ONE_EACH:
        torch.set_num_threads(1)
        torch.get_num_threads()  # takes it over: what is set for all when a thread first computes is its own from then on
    ready.put(None)
    while (job := wanted.get()) is not None:
        future, asked = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(read(asked))
            except BaseException as error:
                future.set_exception(error)


def read_by_workers(
    read: Callable[[list[int]], T], positions: Sequence[int] | np.ndarray, workers: LoaderWorkers
) -> Generator[T, None, None]:
    """``read`` of the positions, ``images_at_once`` together, by worker processes.

    Raises
    ------
    UnitlabError
        What ``read`` raises in a worker; workers that cannot be started, or that die.
    """
    iterator, handler, asked = None, None, [int(position) for position in positions]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the given loader says itself what torch thinks of it
            loader: DataLoader[Any] = DataLoader(
                asked,  # type: ignore[arg-type]
                batch_size=workers.images_at_once, num_workers=workers.count, collate_fn=partial(_read_or_error, read),
                prefetch_factor=workers.prefetch_factor, timeout=workers.timeout,
                worker_init_fn=partial(_start, workers.worker_init_fn), multiprocessing_context=workers.start_method,
                generator=torch.Generator(),  # else the caller's random numbers would depend on it
            )  # fmt: skip
            iterator = iter(loader)
        handler = _deaths_said_when_asked()
        for found in iterator:
            if isinstance(found, UnitlabError):
                raise found
            yield found
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            _release_queues(asked)
        # torch ends the processes with the iterator, which its frames would hold for as long as the traceback is kept
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, UnitlabError) or not isinstance(error, Exception):
            raise
        raise UnitlabError(
            f"a worker of the DataLoader failed ({what_it_says(error)}); give a DataLoader "
            "with fewer workers, smaller batches, or num_workers=0"
        ) from error
    finally:
        iterator = None
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)


def _release_queues(asked: list[int]) -> None:
    """A Ctrl-C that comes just when the lock of a queue to a worker has been taken leaves it so, and whoever ends the queue
    would wait for ever: torch, or Python where it clears up, whatever it is doing then."""
    # the iterator may be half made, and nobody's yet
    iterators = [each for each in gc.get_objects() if type(each) is _MultiProcessingDataLoaderIter]
    queues: Iterable[Any] = chain.from_iterable(each._index_queues for each in iterators if each._dataset is asked)
    for queue in queues:
        queue._notempty.acquire(timeout=1)
        queue._notempty.release()


def _deaths_said_when_asked() -> Callable[[int, FrameType | None], Any] | None:
    """Torch raises in a signal handler, wherever the main thread is when a worker dies, in the network, say: that handler.

    It is kept from raising until it is handed back; the reading notices deaths by itself.
    """
    told = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") and current_thread() is main_thread() else None
    if not callable(told):
        return None

    def untold(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):
            told(number, frame)

    signal.signal(signal.SIGCHLD, untold)
    return told


def _read_or_error(read: Callable[[list[int]], Any], positions: list[int]) -> Any:
    """What is read; or what is wrong with it, since torch would rewrite the message of what is raised."""
    try:
        return read(positions)
    except UnitlabError as error:
        return type(error)(str(error))  # without its traceback, which packages such as tblib send along


def _start(own: Callable[[int], object] | None, number: int) -> None:
    """Called in a worker first: Ctrl-C reaches workers too, and it is for the main process to end them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if own is not None:
        own(number)
