"""How images are read: ahead of who uses them, by threads or by a DataLoader's processes, in order and with clear errors."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from small_networks import CLASSES, FunctionalReLU
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision import datasets, transforms

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.reading import ONE_EACH, Processors, content_hash, read_ahead
from unitlab.errors import what_it_says

COUNT = 30
CATEGORIES = [f"class {k}" for k in range(CLASSES)]
TRANSFORM = transforms.Compose([transforms.Resize((17, 17)), transforms.ToTensor()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of two shapes."""
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, 20, 30, 3), dtype=np.uint8)
    for position in range(COUNT):
        path = tmp_path / "photos" / CATEGORIES[position % CLASSES] / f"{position:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[position, :, : 30 - position % 2]).save(path)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def no_process_is_left() -> Any:
    yield
    assert not multiprocessing.active_children()


class Watched(Dataset[Any]):
    """Counts reads; tells when an image is read."""

    def __init__(self) -> None:
        self.targets = [0] * 12
        self.reads: Counter[int] = Counter()
        self.read = [threading.Event() for _ in self.targets]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        self.reads[position] += 1
        self.read[position].set()
        return torch.full((3, 4, 4), float(position)), 0


def all_pixels(source: Any) -> Tensor:
    return torch.cat([batch for batch, _ in source.batches(0, len(source), 8)])


def study(source: Any, ablation: str) -> xr.Dataset:
    torch.manual_seed(5)
    photos = unitlab.images(source, categories=CATEGORIES)
    found: xr.Dataset = unitlab.ablate(
        FunctionalReLU().eval(), photos, "conv1", ablation=ablation, batch_size=8, progress=False, device="cpu"
    )
    del found.attrs["created"]
    return found.load()


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_studies_do_not_depend_on_who_reads(folder: Path, ablation: str) -> None:
    dataset = datasets.ImageFolder(folder, TRANSFORM)
    before = torch.get_rng_state()
    by_threads = study(dataset, ablation)
    for workers in (0, 2):
        xr.testing.assert_identical(study(DataLoader(dataset, batch_size=3, num_workers=workers), ablation), by_threads)
    assert by_threads.thumbnails.shape == (COUNT, 64, 64, 3)
    torch.set_rng_state(before)


def test_processes_leave_the_callers_random_numbers_alone(folder: Path) -> None:
    source = unitlab.images(DataLoader(datasets.ImageFolder(folder, TRANSFORM), batch_size=4, num_workers=2))
    before = torch.get_rng_state()
    all_pixels(source)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_without_targets_are_read_by_the_processes_too() -> None:
    class Items(Dataset[Any]):
        def __len__(self) -> int:
            return 11

        def __getitem__(self, position: int) -> tuple[Tensor, int]:
            # none of the first images, which are read here to see whether they change
            assert position < 4 or get_worker_info() is not None
            return torch.full((1, 2, 2), float(position)), position % 3

    source = unitlab.images(DataLoader(Items(), batch_size=2, num_workers=2))
    assert source.labels.tolist() == [position % 3 for position in range(11)]
    assert all_pixels(source)[:, 0, 0, 0].tolist() == list(range(11))
    assert all_pixels(source.subset([9, 2, 7]))[:, 0, 0, 0].tolist() == [9, 2, 7]


@pytest.mark.parametrize("read_by", ["folder", "dataset", "loader", "workers"])
def test_an_unreadable_file_is_named(folder: Path, read_by: str) -> None:
    broken = sorted(folder.rglob("*.png"))[20]
    broken.write_bytes(broken.read_bytes()[:60])
    dataset = datasets.ImageFolder(folder, TRANSFORM)
    sources: dict[str, Any] = {
        "dataset": dataset,
        "loader": DataLoader(dataset),
        "workers": DataLoader(dataset, batch_size=4, num_workers=2),
    }
    source = unitlab.images(folder, transform=TRANSFORM) if read_by == "folder" else unitlab.images(sources[read_by])
    with pytest.raises(UnitlabError, match=re.escape(f"the image file {broken} cannot be read")) as raised:
        all_pixels(source)
    assert "Traceback" not in str(raised.value)
    assert not multiprocessing.active_children()


def test_sizes_that_differ_in_processes(folder: Path) -> None:
    loader = DataLoader(datasets.ImageFolder(folder, transforms.ToTensor()), batch_size=4, num_workers=2)
    with pytest.raises(UnitlabError, match=r"shape \(3, 20, 29\).*transform"):
        all_pixels(unitlab.images(loader))


class Dying(Watched):
    """Kills the process that reads the sixth image, where that is a worker."""

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if position == 5 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(position)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of torch's socket to the process that is gone
def test_a_process_that_dies_is_an_error() -> None:
    source = unitlab.images(DataLoader(Dying(), batch_size=2, num_workers=1))
    with pytest.raises(UnitlabError, match=r"worker of the DataLoader failed.*num_workers=0"):
        all_pixels(source)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_process_that_dies_is_said_when_the_next_images_are_asked_for() -> None:
    batches = unitlab.images(DataLoader(Dying(), batch_size=2, num_workers=1)).batches(0, 12, 2)
    next(batches)
    handler = signal.getsignal(signal.SIGCHLD)
    while multiprocessing.active_children():
        time.sleep(0.01)  # torch would raise here
    with pytest.raises(UnitlabError, match="worker of the DataLoader failed"):
        list(batches)
    assert signal.getsignal(signal.SIGCHLD) is not handler, "torch's handler is back"


class Interrupting(Watched):
    """The process that reads the sixth image sends Ctrl-C to all, where that is a worker."""

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if position == 5 and get_worker_info() is not None:
            os.kill(os.getppid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return super().__getitem__(position)


@pytest.fixture
def plain_ctrl_c() -> Iterator[None]:
    """Ctrl-C as Python has it, whatever a test before has left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("plain_ctrl_c")
def test_ctrl_c_ends_the_processes_though_its_traceback_is_kept() -> None:
    source = unitlab.images(DataLoader(Interrupting(), batch_size=2, num_workers=2))
    raised = None
    for _ in range(5):  # one that comes in the middle of a callback is lost, whoever reads
        try:
            all_pixels(source)
        except KeyboardInterrupt as error:
            raised = error
            break
    assert raised is not None and raised.__traceback__ is not None and not multiprocessing.active_children()


@pytest.mark.parametrize("asked", [1, 6], ids=["first", "later"])
def test_ctrl_c_that_leaves_a_queue_locked_does_not_hang(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    locks, asks, ask = [], count(1), _MultiProcessingDataLoaderIter._try_put_index

    def interrupted(self: _MultiProcessingDataLoaderIter) -> None:
        if next(asks) == asked:
            locks.append(self._index_queues[0]._notempty)
            assert locks[0].acquire(timeout=5)
            raise KeyboardInterrupt
        ask(self)

    source = unitlab.images(DataLoader(Watched(), batch_size=2, num_workers=2))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_MultiProcessingDataLoaderIter, "_try_put_index", interrupted)
        all_pixels(source)
    assert not multiprocessing.active_children() and locks[0].acquire(timeout=5)
    locks[0].release()


def test_what_is_said_of_an_error() -> None:
    # a process that dies while its pixels are handed over is an EOFError, which says nothing
    said = [what_it_says(error) for error in (EOFError(), OSError(5, "input"), ValueError("\n one\ntwo"))]
    assert said == ["EOFError", "OSError: [Errno 5] input", "ValueError: one"]


def test_processes_that_cannot_be_started() -> None:
    # events hold locks, which cannot be sent
    source = unitlab.images(DataLoader(Watched(), batch_size=2, num_workers=1, multiprocessing_context="spawn"))
    with pytest.raises(UnitlabError, match=r"worker of the DataLoader failed.*pickle"):
        all_pixels(source)


def test_spawned_processes_and_the_loaders_own_start(folder: Path, tmp_path: Path) -> None:
    dataset = Subset(datasets.ImageFolder(folder, TRANSFORM), range(6))
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="spawn", worker_init_fn=_Note(tmp_path))
    assert torch.equal(all_pixels(unitlab.images(loader)), all_pixels(unitlab.images(dataset)))
    assert (tmp_path / "started 0").exists()


class _Note:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, number: int) -> None:
        (self.folder / f"started {number}").touch()


def test_a_reading_that_is_left_leaves_no_process(folder: Path) -> None:
    source = unitlab.images(DataLoader(datasets.ImageFolder(folder, TRANSFORM), batch_size=2, num_workers=2))
    batches = source.batches(0, COUNT, 4)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_the_next_images_are_read_while_a_batch_is_worked_on() -> None:
    data = Watched()
    source = unitlab.images(data)
    data.reads.clear()
    for event in data.read:
        event.clear()
    batches = source.batches(0, 12, 3)
    next(batches)
    assert data.read[5].wait(60)
    for _ in batches:
        pass
    assert data.reads == Counter(range(12))


def test_without_processes_a_loader_reads_what_is_asked_for() -> None:
    data = Watched()
    source = unitlab.images(DataLoader(data))
    data.reads.clear()
    batches = source.batches(0, 12, 3)
    next(batches)
    assert data.reads == Counter(range(3))


def test_a_watched_reading_can_be_ended(folder: Path) -> None:
    class Ended(Exception):
        pass

    seen = []

    def told() -> None:
        seen.append(len(seen))
        if len(seen) == 5:
            raise Ended

    loader = DataLoader(datasets.ImageFolder(folder, TRANSFORM), batch_size=2, num_workers=2)
    for source in (unitlab.images(folder, transform=TRANSFORM), unitlab.images(loader)):
        seen.clear()
        with pytest.raises(Ended):
            all_pixels(source.watched(told))
        assert len(seen) == 5


def sha256_of(image: Tensor) -> bytes:
    values = image.numpy()
    return hashlib.sha256(f"{image.dtype} {values.shape} ".encode() + values.tobytes()).digest()


def test_batches_and_hashes_do_not_depend_on_who_reads(folder: Path) -> None:
    dataset = datasets.ImageFolder(folder, TRANSFORM)
    expected = torch.stack([dataset[position][0] for position in range(COUNT)])
    tensors = TensorDataset(expected, torch.zeros(COUNT, dtype=torch.long))
    for read_by in (folder, dataset, tensors, DataLoader(dataset, batch_size=3), DataLoader(dataset, 4, num_workers=2)):
        source = unitlab.images(read_by, transform=TRANSFORM if read_by is folder else None)
        spans = [[7], range(5), range(5, COUNT), [0, 7]]  # of more than are read ahead, and again
        batches = list(source.stream(spans))  # kept: none may be written to again
        for span, batch in zip(spans, batches, strict=True):
            assert torch.equal(batch.pixels, expected[list(span)]) and batch.pixels.is_contiguous()
            assert batch.hashes.tobytes() == b"".join(sha256_of(expected[position]) for position in span)


def test_hashes_tell_shapes_and_types_apart() -> None:
    image = torch.zeros(2, 4, 8)
    kinds = [image, image.view(4, 2, 8), image.half().repeat(2, 1, 1), image.bfloat16().repeat(2, 1, 1), image.double()[:1]]
    assert len({content_hash(kind) for kind in kinds}) == len(kinds)
    mixed = torch.randn(8, 4, 2).permute(2, 1, 0)
    assert content_hash(mixed) == content_hash(mixed.contiguous()) != content_hash(mixed.flip(0))


class Late(Dataset[Any]):
    """Pictures of which the first one is the last to be read, and one is different."""

    def __init__(self, other: Tensor) -> None:
        self.targets, self.other, self.seen = [0] * 12, other, threading.Event()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if position == 0:
            self.seen.wait(0.5)
        if position == 7:
            self.seen.set()
        return (self.other if position == 7 else torch.ones(3, 4, 4)), 0


@pytest.mark.parametrize(
    ("other", "said"), [(torch.ones(3, 4, 5), r"shape \(3, 4, 5\)"), (torch.ones(3, 4, 4).double(), "of torch.float64")]
)
def test_the_first_image_says_what_the_others_must_be_like(other: Tensor, said: str) -> None:
    source = unitlab.images(Late(other)).subset(range(12))
    source.threads = 4
    with pytest.raises(UnitlabError, match=rf"image '7' (has|is) {said}, the first read "):
        all_pixels(source)


def test_images_are_read_ahead_as_far_as_memory_allows() -> None:
    data = Watched()
    source = unitlab.images(data)
    for far in (True, False):
        for event in data.read:
            event.clear()
        batches = source.stream([range(first, first + 3) for first in range(0, 12, 3)], ahead=1 << 20 if far else 0)
        next(batches)
        assert data.read[11 if far else 5].wait(60)
        if not far:
            time.sleep(0.05)
            assert not data.read[8].is_set()
        batches.close()


def test_processors_are_those_of_where_they_are_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    here = pickle.dumps(Processors())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert (pickle.loads(here), Processors() * 2) == (3, 6)


def test_readers_have_one_thread_each_and_threads_of_others_as_many_as_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert list(read_ahead(lambda _: torch.get_num_threads(), range(4), 2)) == [1 if ONE_EACH else 3] * 4
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_large_tensors_in_memory_are_read_ahead_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()

    def transform(image: Tensor) -> Tensor:
        names.add(threading.current_thread().name)
        return image

    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *given, pin_memory=False, **options: real(*given, **options))
    for side, pinned in ((128, True), (128, False), (16, True)):
        pairs = TensorDataset(torch.rand(4, 3, side, side), torch.arange(4))
        source = unitlab.images(pairs, transform=transform)
        names.clear()
        found = torch.cat([batch.pixels for batch in source.stream([[0, 1], [2, 3]], pinned=pinned)])
        assert torch.equal(found, pairs.tensors[0])
        assert names == {"unitlab reader" if side == 128 and pinned else threading.current_thread().name}
