"""Worker processes of a DataLoader that read, and how they hand over what they have read."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from multiprocessing.util import Finalize
from threading import RLock, current_thread, main_thread
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from unitlab.compute.images.reading import BatchInReading, Kind, ReadImage
from unitlab.errors import UnitlabError, what_it_says

T = TypeVar("T")
Job = TypeVar("Job")

CHUNK_BYTES, CHUNKS_AHEAD = 5 << 20, 2  # of sixteen workers 165 MB
MOST_BYTES = 256 << 20  # of all of them, but an image each
FORKS = sys.platform == "linux"  # elsewhere processes begin anew, or are not safe as copies of others


@dataclass(frozen=True)
class LoaderWorkers:
    """Worker processes as a given DataLoader has them; ``images_at_once`` is its batch size.

    Chunk number j leaves its pixels in ``slots`` (slot, byte) at j modulo their number, if there are any and there is room.
    """

    count: int
    images_at_once: int
    prefetch_factor: int | None
    timeout: float
    start_method: str | None
    worker_init_fn: Callable[[int], object] | None
    slots: np.ndarray | None = field(default=None, repr=False, compare=False)

    def chunks(self, positions: Sequence[int] | np.ndarray) -> list[list[int]]:
        """The positions, as many together as a worker reads at once."""
        found, several = [int(position) for position in positions], self.images_at_once
        return [found[first : first + several] for first in range(0, len(found), several)]

    def slot(self, number: int) -> np.ndarray:
        """Where a chunk leaves its pixels; of no bytes, where there is no such place."""
        return np.empty(0, np.uint8) if self.slots is None else self.slots[number % len(self.slots)]


def loader_workers(loader: DataLoader[Any]) -> LoaderWorkers | None:
    """The workers of a DataLoader, or None where it has none."""
    if loader.num_workers == 0:
        return None
    context = loader.multiprocessing_context
    return LoaderWorkers(
        loader.num_workers, getattr(loader.batch_sampler, "batch_size", None) or 1, loader.prefetch_factor, loader.timeout,
        None if context is None else context.get_start_method(), loader.worker_init_fn,
    )  # fmt: skip


def own_workers(count: int, image_bytes: int) -> LoaderWorkers:
    """Workers that begin as copies of this process, and leave images in memory that they share with it.

    A tensor would come by a file descriptor over a socket, to be mapped and its pages to be found, all by the main thread.

    A slot is free when it is written to: workers are given chunk j + count * CHUNKS_AHEAD when chunk j is handed over, whose
    slot is that of chunk j - 1, which the main process has copied before it asks for chunk j.
    """
    several = max(1, min(CHUNK_BYTES, MOST_BYTES // (count * CHUNKS_AHEAD + 1)) // image_bytes)
    shape = count * CHUNKS_AHEAD + 1, several * image_bytes
    slots = np.frombuffer(mmap.mmap(-1, shape[0] * shape[1]), np.uint8).reshape(shape)  # which /dev/shm does not limit
    return LoaderWorkers(count, several, CHUNKS_AHEAD, 0, "fork", None, slots)


class Chunk(NamedTuple):
    """Images that a worker hands over, the bytes of their pixels (None: in their slot), and what is wrong with the next."""

    number: int
    content: Tensor | np.ndarray | None
    kinds: list[Kind]
    images: list[ReadImage]
    wrong: UnitlabError | None

    @classmethod
    def of(cls, number: int, images: list[ReadImage], wrong: UnitlabError | None, workers: LoaderWorkers) -> Chunk:
        if not images:
            return cls(number, None, [], [], wrong)
        pixels = [image.pixels for image in images if image.pixels is not None]
        flat, slot = [one.flatten().view(torch.uint8) for one in pixels], workers.slot(number)
        size = sum(map(len, flat))
        content: Tensor | np.ndarray | None = None
        if size <= len(slot):
            torch.cat(flat, out=torch.from_numpy(slot[:size]))
        else:
            # one tensor, which takes a file descriptor; of own workers through a pipe, as /dev/shm may be too small
            content = torch.cat(flat) if workers.slots is None else torch.cat(flat).numpy()
        kinds = [(one.shape, one.dtype) for one in pixels]
        return cls(number, content, kinds, [image._replace(pixels=None) for image in images], wrong)

    def put(
        self, places: list[tuple[BatchInReading, int]], workers: LoaderWorkers, kind: Kind | None
    ) -> tuple[list[ReadImage], Kind | None]:
        """The images, and of what kind all are; put into their places in their batches, if they are of that kind."""
        sizes = [shape.numel() * dtype.itemsize for shape, dtype in self.kinds]
        in_slot, in_bytes = self.content is None, any(dtype == torch.uint8 for _, dtype in self.kinds)
        content = workers.slot(self.number)[: sum(sizes)] if self.content is None else self.content
        if len(set(self.kinds)) == 1 and kind in (None, self.kinds[0]) and not in_bytes:
            kind = shape, dtype = self.kinds[0]
            pixels = torch.as_tensor(content).view(dtype).view(-1, *shape)
            for batch, some in groupby(enumerate(places), lambda one: one[1][0]):
                (first, (_, place)), *rest = some
                batch.make_room(shape, dtype)
                batch.put(slice(place, place + 1 + len(rest)), pixels[first : first + 1 + len(rest)])
            return self.images, kind
        # by numpy, as `BatchInReading.put`
        parts = torch.as_tensor(np.array(content) if in_slot else content).split(sizes)
        images = []
        for image, part, (shape, dtype) in zip(self.images, parts, self.kinds, strict=True):
            # bytes need not lie as another type must
            images.append(image._replace(pixels=(part if in_bytes else part.clone()).view(dtype).view(shape)))
        return images, kind


def read_by_workers(read: Callable[[Job], T], jobs: list[Job], workers: LoaderWorkers) -> Generator[T, None, None]:
    """``read`` of each job in order, by worker processes.

    Raises
    ------
    UnitlabError
        What ``read`` raises in a worker; workers that cannot be started, or that die.
    """
    iterator, reading = None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the given loader says itself what torch thinks of it
            loader: DataLoader[Any] = DataLoader(
                jobs,  # type: ignore[arg-type]
                batch_size=None, num_workers=workers.count, collate_fn=partial(_read_or_error, read),
                prefetch_factor=workers.prefetch_factor, timeout=workers.timeout,
                worker_init_fn=partial(_start, workers.worker_init_fn), multiprocessing_context=workers.start_method,
                generator=torch.Generator(),  # else the caller's random numbers would depend on it
            )  # fmt: skip
            with _interrupted_later():
                iterator = iter(loader)
        DEATHS.begin()
        reading = True
        for found in iterator:
            if isinstance(found, UnitlabError):
                raise found
            yield found
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            _release_queues(jobs)
        # torch ends the processes with the iterator, which its frames would hold for as long as the traceback is kept
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, UnitlabError) or not isinstance(error, Exception):
            raise
        remedy = "give a DataLoader with fewer workers, smaller batches, or num_workers=0"
        if workers.slots is None:
            raise UnitlabError(f"a worker of the DataLoader failed ({what_it_says(error)}); {remedy}") from error
        raise UnitlabError(
            f"one of {workers.count} processes that read the images failed ({what_it_says(error)}), as where memory runs out; "
            f"{remedy}"
        ) from error
    finally:
        iterator = None
        if reading:
            DEATHS.end()


def _release_queues(asked: list[Any]) -> None:
    """A Ctrl-C that comes just when the lock of a queue to a worker has been taken leaves it so, and whoever ends the queue
    would wait for ever: torch, or Python where it clears up, whatever it is doing then."""
    # the iterator may be half made, and nobody's yet
    iterators = [each for each in gc.get_objects() if type(each) is _MultiProcessingDataLoaderIter]
    queues: Iterable[Any] = chain.from_iterable(each._index_queues for each in iterators if each._dataset is asked)
    for queue in queues:
        queue._notempty.acquire(timeout=1)
        queue._notempty.release()


class _Deaths:
    """Torch raises in a signal handler, wherever the main thread is when a worker dies, in the network, say.

    While anybody reads here that is kept from raising; readings notice deaths by themselves.
    """

    def __init__(self) -> None:
        self.lock, self.readings = RLock(), 0
        self.told: Callable[[int, FrameType | None], Any] | None = None

    def begin(self) -> None:
        with self.lock:
            self.readings += 1
            told = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") and self.told is None else None
            if callable(told) and current_thread() is main_thread():
                self.told = told
                signal.signal(signal.SIGCHLD, self._say)

    def end(self) -> None:
        """Torch's handler is back after the last one, or, of other threads, where the main one reads next."""
        with self.lock:
            self.readings -= 1
            if self.told is not None and not self.readings and current_thread() is main_thread():
                if signal.getsignal(signal.SIGCHLD) == self._say:
                    signal.signal(signal.SIGCHLD, self.told)
                self.told = None

    def _say(self, number: int, frame: FrameType | None) -> None:
        try:
            if self.told is not None:
                self.told(number, frame)
        except RuntimeError:
            if not self.readings:
                raise


DEATHS = _Deaths()


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """A Ctrl-C while processes begin is heeded once they have: Python would lose it, or raise it where torch makes them."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or current_thread() is not main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


def _read_or_error(read: Callable[[Job], Any], job: Job) -> Any:
    """What is read; or what is wrong with it, since torch would rewrite the message of what is raised."""
    try:
        return read(job)
    except UnitlabError as error:
        return bare(error)


def bare(error: UnitlabError) -> UnitlabError:
    """The error without its traceback, which packages such as tblib send along."""
    return type(error)(str(error))


def _start(own: Callable[[int], object] | None, number: int) -> None:
    """Called in a worker first: Ctrl-C reaches workers too, and it is for the main process to end them.

    Where that is gone, killed, say, a worker that has written more than a pipe holds would wait for ever for it to be read:
    the other workers hold the pipe open, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Finalize(None, _leave_if_alone, args=(os.getppid(),), exitpriority=10)  # before queues are waited for
    if own is not None:
        own(number)


def _leave_if_alone(parent: int) -> None:
    if os.getppid() != parent:
        os._exit(1)
