"""Own worker processes, which decode picture files for a GPU: what they hand over is what a plain reading gives."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, get_worker_info
from torchvision import transforms

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images import processes, source
from unitlab.compute.images.decoded import DeviceTransform
from unitlab.compute.images.processes import Chunk, own_workers, read_by_workers
from unitlab.compute.images.reading import BatchInReading, ReadImage
from unitlab.compute.images.source import ImageSource

COUNT, SIDE, AT_ONCE, WORKERS = 40, 17, 3, 3
SPANS = [range(0, 7), range(7, 8), range(8, 21), range(21, COUNT)]  # none ends with a chunk but the last
FLOATS = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
BYTES = DeviceTransform(20, SIDE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))


class Unpinned(BatchInReading):
    """A batch that is read as a pinned one, for which there is no memory without a GPU."""

    def make_room(self, shape: torch.Size, dtype: torch.dtype) -> None:
        pinned, self.pinned = self.pinned, False
        super().make_room(shape, dtype)
        self.pinned = pinned


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(source, "BatchInReading", Unpinned)
    monkeypatch.setattr(source, "LEAST_FOR_WORKERS", 10)
    monkeypatch.setattr(processes, "CHUNK_BYTES", AT_ONCE * 3 * SIDE * SIDE * 4 + 100)
    yield
    assert not multiprocessing.active_children()


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What chunks hold that come from workers: None for what is in its slot."""
    found, put = [], Chunk.put

    def noted(chunk: Chunk, *given: Any) -> Any:
        found.append(chunk.content)
        return put(chunk, *given)

    monkeypatch.setattr(Chunk, "put", noted)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of many sizes, of which three may or may not fit into a slot as they are decoded."""
    random = np.random.default_rng(1)
    for number in range(COUNT):
        path = tmp_path / "photos" / f"class {number // 20}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + 2 * number, 60 - number, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def source_of(folder: Path, transform: Any) -> ImageSource:
    found = unitlab.images(folder, transform=transform)
    found.threads = WORKERS
    return found


def assert_as_plain(plain: ImageSource, pinned: ImageSource) -> None:
    for a, b in zip(plain.stream(SPANS, thumbnails=True), pinned.stream(SPANS, thumbnails=True, pinned=True), strict=True):
        pixels: Any = b.pixels if isinstance(b.pixels, Tensor) else b.pixels.on(torch.device("cpu"))
        assert a.pixels.dtype == pixels.dtype and torch.equal(a.pixels, pixels)
        assert np.array_equal(a.hashes, b.hashes) and np.array_equal(a.positions, b.positions)
        for one, other in zip(a.thumbnails, b.thumbnails, strict=True):
            assert one is not None and other is not None and np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "bytes"])
def test_images_of_workers_are_those_of_a_plain_reading(kind: str, folder: Path, handed_over: list[Any]) -> None:
    halved = transforms.Compose([FLOATS, transforms.ConvertImageDtype(torch.bfloat16)])
    transform = {"float32": FLOATS, "bfloat16": halved, "bytes": BYTES}[kind]
    assert_as_plain(source_of(folder, transform), source_of(folder, transform))
    in_slots = [content is None for content in handed_over]
    assert (any(in_slots), all(in_slots)) == (True, kind != "bytes")
    assert not any(isinstance(content, Tensor) for content in handed_over), "tensors would need /dev/shm"


def test_no_slot_is_written_to_before_it_is_read() -> None:
    workers = own_workers(WORKERS, processes.CHUNK_BYTES)

    def read(number: int) -> Chunk:
        found = get_worker_info()
        assert found is not None
        time.sleep(0.002 * found.id)
        image = ReadImage(torch.full((5, 7, 3), number, dtype=torch.uint8), None, b"")
        return Chunk.of(number, [image] * (1 + number % 2), None, workers)

    kept = []
    for number, chunk in enumerate(read_by_workers(read, list(range(90)), workers)):
        if number % 10 == 3:
            time.sleep(0.03)  # all workers have done by then what they were given
        assert chunk.number == number and chunk.content is None
        kept.append(chunk.put([], workers, None)[0])
    for number, images in enumerate(kept):
        assert len(images) == 1 + number % 2
        for image in images:
            assert image.pixels is not None and image.pixels.shape == (5, 7, 3) and (image.pixels == number).all()


def ended(images: ImageSource, pinned: bool) -> tuple[str, int, int]:
    """How a reading fails, and how many images and batches came before."""
    told, batches = [], 0
    with pytest.raises(UnitlabError) as raised:
        for _ in images.watched(lambda: told.append(1)).stream(SPANS, pinned=pinned):
            batches += 1
    return f"{type(raised.value).__name__}: {raised.value}", len(told), batches


@pytest.mark.parametrize("transform", [FLOATS, BYTES])
@pytest.mark.parametrize("position", [18, 22])  # the first of a chunk, and another
def test_an_unreadable_file_ends_the_reading_as_without_workers(folder: Path, transform: Any, position: int) -> None:
    broken = [sorted(folder.rglob("*.png"))[at] for at in (position, 33)]
    for file in broken:
        file.write_bytes(file.read_bytes()[:60])
    said, told, batches = ended(source_of(folder, transform), pinned=True)
    assert (said, told, batches) == ended(source_of(folder, transform), pinned=False)
    assert re.match(rf"UnreadableFile: .*{broken[0].name}.*1 more cannot be read: .*{broken[1].stem}", said)
    assert (told, batches) == (position, 2 if position < 21 else 3)


def test_sizes_that_differ_are_said_as_without_workers(folder: Path) -> None:
    found = [ended(source_of(folder, transforms.ToTensor()), pinned=pinned) for pinned in (True, False)]
    assert found[0] == found[1] and "shape (3, 22, 59), the first read had (3, 20, 60)" in found[0][0]


KILLED = """
import sys, time, multiprocessing, torch, unitlab
from torch.utils.data import DataLoader
class Pictures(torch.utils.data.Dataset):
    def __len__(self): return 200
    def __getitem__(self, i):
        from PIL import Image
        return Image.new("RGB", (300, 300), (i, 100, 50)), i % 2
from torchvision import transforms
loader = DataLoader(Pictures(), batch_size=16, num_workers=2, collate_fn=list)
stream = unitlab.images(loader, transform=transforms.ToTensor()).stream(
    [range(i, i + 16) for i in range(0, 192, 16)], thumbnails=True)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_readers_end_once_the_process_that_they_read_for_is_killed(how: int) -> None:
    """What they have read is more than a pipe holds, so that nobody lets them go who waits for somebody to read it."""

    def alive(pid: str) -> bool:
        with suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", KILLED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        readers = process.stdout.readline().split()
        assert len(readers) == 2 and all(map(alive, readers))
        time.sleep(1)  # they read ahead until the pipe is full
        process.send_signal(how)
    try:
        until = time.monotonic() + 60
        while any(map(alive, readers)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(alive, readers)), "readers that nobody waits for"
    finally:
        for pid in filter(alive, readers):
            os.kill(int(pid), signal.SIGKILL)


def test_torchs_handler_of_deaths_is_back_whoever_ends_last(folder: Path) -> None:
    list(source_of(folder, FLOATS).stream(SPANS, pinned=True))  # torch has a handler from its first processes on
    handler = signal.getsignal(signal.SIGCHLD)
    first, second = (source_of(folder, FLOATS).stream(SPANS, pinned=True) for _ in range(2))
    next(first), next(second)
    assert signal.getsignal(signal.SIGCHLD) is not handler
    first.close()
    second.close()
    assert signal.getsignal(signal.SIGCHLD) is handler
    # begun here, closed in a thread, which may set no handler: the next one here does
    third = source_of(folder, FLOATS).stream(SPANS, pinned=True)
    next(third)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(third.close).result()
    list(source_of(folder, FLOATS).stream(SPANS, pinned=True))
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_ctrl_c_while_processes_begin_is_heeded_once_they_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, real = [], DataLoader.__iter__

    def interrupted(loader: DataLoader[Any]) -> Any:
        signal.raise_signal(signal.SIGINT)
        begun.append(real(loader))
        return begun[-1]

    monkeypatch.setattr(DataLoader, "__iter__", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            list(source_of(folder, FLOATS).stream(SPANS, pinned=True))
        assert len(begun) == 1 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    begun.clear()


def test_a_reading_that_is_left_leaves_no_process(folder: Path) -> None:
    batches = source_of(folder, FLOATS).stream(SPANS, pinned=True)
    next(batches)
    assert len(multiprocessing.active_children()) == WORKERS
    batches.close()


def test_processes_that_may_have_none_read_by_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()

    def transform(picture: Image.Image) -> Tensor:
        names.add(threading.current_thread().name)
        return FLOATS(picture)

    images = source_of(folder, transform)
    names.clear()
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert len(list(images.stream(SPANS, pinned=True))) == len(SPANS)
    assert names == {"unitlab reader"}


def tensors(pixels: Tensor) -> ImageSource:
    return unitlab.images(TensorDataset(pixels, torch.arange(COUNT) % 2))


def for_gpu(pixels: Tensor) -> ImageSource:
    found = tensors(pixels)
    found.threads_for_gpu = 2
    return found


def test_tensors_that_are_read_together_are_those_of_a_plain_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, together, put = torch.randn(COUNT, 3, 70, SIDE), [], source.put_tensors

    def noted(some: list[Any], *given: Any) -> Any:
        together.append(len(some))
        return put(some, *given)

    monkeypatch.setattr(source, "put_tensors", noted)
    assert_as_plain(tensors(pixels), for_gpu(pixels))
    assert sorted(together) == [3, 7, 13, 16]


@pytest.mark.parametrize("position", [0, 12, 37])
def test_nan_in_a_tensor_that_is_read_with_others(position: int) -> None:
    pixels = torch.randn(COUNT, 3, 8, 8)
    spoilt = pixels.clone()
    spoilt[position, 1, 2, 3] = torch.nan
    images = [tensors(pixels), for_gpu(pixels)]
    pixels[position] = spoilt[position]  # after the first images were read
    found = [ended(one, pinned=pinned)[0] for one, pinned in zip(images, (False, True), strict=True)]
    assert found[0] == found[1] and f"image '{position}' holds NaN" in found[0]
