"""An image source: images in an order that can be repeated, each decoded once for its tensor and its thumbnail."""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unitlab.compute.images.decoded import DecodedImages, DeviceTransform
from unitlab.compute.images.pictures import in_8_bits, tensor_of, upright
from unitlab.compute.images.processes import FORKS, Chunk, LoaderWorkers, bare, own_workers, read_by_workers
from unitlab.compute.images.reading import BatchInReading, ImageBatch, Kind, ReadImage, content_hash, put_tensors, read_ahead
from unitlab.compute.images.thumbnails import THUMBNAIL, small, small_tensors
from unitlab.errors import UnitlabError

READ_TWICE = 4
MOST_NAMED = 20
AHEAD_BYTES = 256 << 20  # of images, with their thumbnails, that are read before they are asked for, at most
# With an H100 sixteen threads read a file of 256 px in 2.1 ms, one in 2.6; processes take some tenths of a second to begin.
LEAST_FOR_WORKERS = 512
TENSORS_AT_ONCE = 16
REMEDY = "replace or remove them, or leave them out by unitlab.images(..., unreadable='skip')"
log = logging.getLogger("unitlab")


class UnreadableFile(UnitlabError):
    """A picture file that cannot be decoded."""


@dataclass(eq=False, repr=False)
class ImageSource:
    """Images in a fixed order.

    Attributes
    ----------
    name
        Of the source.
    ids
        Text for each image.
    labels
        int64, (image).
    categories
        Class names.
    read
        The image at a position, decoded: what is costly.
    transform_text
        What is done to the images, as text for the fingerprint.
    transform
        From what ``read`` gives to a float tensor, to {"pixel_values": tensor} as Hugging Face's processors, or to a
        picture, whose values from 0 to 1 are taken; default as it is.
    thumbnails
        Whether small pictures can be made of what ``read`` gives.
    clusters
        int64, (image): images of one cluster belong together; or None.
    threads
        How many read at a time, ahead of who uses the images; 0: who uses them.
    threads_for_gpu
        The same for batches that are pinned: what costs a processor the same whoever does it, and would keep a GPU waiting.
    workers
        Processes that read instead of threads.
    told
        Called for each image that arrives; see `watched`.
    notes
        What was decided about the images without being asked for.
    reading
        By which rules pictures are made upright and brought to RGB; "": `read` and `transform` alone say.
    read_before, new
        What ``read`` was before there were such rules, and which images were not found then; see `as_before`.
    named
        Whether somebody named the classes; else there may be more of them than labels tell.
    damage
        What is wrong with the file of the image at a position, found without decoding it; "" where nothing is.
    """

    name: str
    ids: Sequence[str]
    labels: np.ndarray
    categories: Sequence[str]
    read: Callable[[int], Any]
    _: KW_ONLY
    transform_text: str
    transform: Callable[[Any], Tensor] | None = None
    thumbnails: bool = False
    clusters: np.ndarray | None = None
    threads: int = 0
    threads_for_gpu: int = 0
    workers: LoaderWorkers | None = None
    told: Callable[[], None] | None = None
    notes: Sequence[str] = ()
    reading: str = ""
    read_before: Callable[[int], Any] | None = None
    new: np.ndarray | None = None
    damage: Callable[[int], str] | None = None
    named: bool = True

    def __post_init__(self) -> None:
        self.ids, self.categories = [str(i) for i in self.ids], [str(c) for c in self.categories]
        self._kind: Kind | None = None  # of the image that came first
        self._hashes: dict[int, bytes] = {}  # of the images, as they were read first
        name, labels = self.name, self.labels
        if not self.ids:
            raise UnitlabError(f"{name} holds no images; give a folder per class with pictures in it")
        if len(set(self.ids)) != len(self.ids):
            repeated = Counter(self.ids).most_common(1)[0][0]
            raise UnitlabError(f"{name}: the id {repeated!r} occurs twice; ids must tell the images apart")
        if len(set(self.categories)) != len(self.categories):
            raise UnitlabError(f"{name}: a class name occurs twice in categories")
        if labels.min() < 0 or labels.max() >= len(self.categories):
            worst = int(np.flatnonzero((labels < 0) | (labels >= len(self.categories)))[0])
            raise UnitlabError(
                f"{name}: image {self.ids[worst]!r} has the label {labels[worst]}; there are {len(self.categories)} classes, "
                f"so labels go from 0 to {len(self.categories) - 1}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{'; '.join([f'{self.name}: {len(self)} images, {len(self.categories)} classes', *self.notes])}>"

    @property
    def read_together(self) -> int:
        """How many images are read at a time."""
        return max(1, self.threads if self.workers is None else self.workers.count)

    def subset(self, positions: Sequence[int] | np.ndarray) -> ImageSource:
        """The images at these positions, in this order."""
        at = np.asarray(positions, dtype=np.int64)
        clusters = None if self.clusters is None else self.clusters[at]
        ids, read = [self.ids[i] for i in at], partial(_read_at, self.read, at)
        before = None if self.read_before is None else partial(_read_at, self.read_before, at)
        new = None if self.new is None else self.new[at]
        damage = None if self.damage is None else partial(_read_at, self.damage, at)
        return replace(
            self, ids=ids, labels=self.labels[at], read=read, clusters=clusters, read_before=before, new=new, damage=damage
        )

    def as_before(self) -> ImageSource:
        """The images as studies have them that say nothing of ``reading``."""
        before = replace(self, reading="", read=self.read_before or self.read, read_before=None, new=None)
        return before if self.new is None else before.subset(np.flatnonzero(~self.new))

    def watched(self, told: Callable[[], None]) -> ImageSource:
        """The same images; ``told()`` is called for each one that arrives, and may raise to end the reading."""
        return replace(self, told=told)

    def batches(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Images from ``start`` to ``stop`` as (float tensor (image, channel, row, column), positions); see `stream`."""
        spans = (range(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size))
        for batch in self.stream(spans):
            yield batch.pixels, batch.positions

    def at(self, positions: Sequence[int] | np.ndarray) -> Tensor:
        """The images at some positions, (image, channel, row, column); see `stream`."""
        return next(self.stream([positions])).pixels

    def stream(
        self, batches: Iterable[Sequence[int] | np.ndarray], *, thumbnails: bool = False, pinned: bool = False,
        ahead: int = AHEAD_BYTES,
    ) -> Generator[ImageBatch, None, None]:  # fmt: skip
        """Images at the positions of each batch, each image read once, while the batches before are worked on.

        ``pinned`` batches can be copied to a GPU while the host goes on; of a `DeviceTransform` they are `DecodedImages`.
        ``ahead`` are the bytes of images that may wait; of a batch in any case.

        Raises
        ------
        UnitlabError
            An image that cannot be read, is no float tensor, differs in size or type from the others, or holds NaN.
        """
        wanted = [np.asarray(positions, dtype=np.int64) for positions in batches]
        if not wanted:
            return
        in_reading = [BatchInReading(len(positions), pinned=pinned) for positions in wanted]
        with closing(self._images(wanted, in_reading, thumbnails and self.thumbnails, ahead)) as images:
            for positions, batch in zip(wanted, in_reading, strict=True):
                found = []
                for place, position in enumerate(positions.tolist()):
                    try:
                        image = next(images)
                    except UnreadableFile as error:
                        left = np.concatenate(wanted)
                        self._name_others(error, left[np.flatnonzero(left == position)[-1] + 1 :])
                    if self.told is not None:
                        self.told()
                    if image.pixels is not None and image.pixels.dtype != torch.uint8:
                        batch.make_room(*self._one_kind(position, image.pixels))
                        batch.put(place, image.pixels)
                    if self._hashes.setdefault(position, image.hash) != image.hash:
                        raise self._changed(position)
                    found.append(image)
                pixels: Any = [image.pixels for image in found]  # bytes, where none found room
                pixels = DecodedImages(pixels, self.transform) if batch.pixels is None else batch.taken()
                made = [image.thumbnail for image in found]
                if thumbnails and self.thumbnails and self.transform is None and made[0] is None:
                    made = small_tensors(pixels)
                hashes = np.frombuffer(b"".join(image.hash for image in found), np.uint8).reshape(len(found), -1)
                yield ImageBatch(pixels, positions, made, hashes)

    def refuse_damaged(self) -> None:
        """Refuse files without a header or an end marker, all of them at once."""
        if self.damage is None:
            return
        found = list(read_ahead(self.damage, range(len(self)), self.threads))
        wrong = [f"{name} ({why})" for name, why in zip(self.ids, found, strict=True) if why]
        if wrong:
            raise UnitlabError(f"{self.name}: {len(wrong)} files cannot be read: {_some(wrong)}; {REMEDY}")

    def _name_others(self, error: UnreadableFile, positions: np.ndarray) -> NoReturn:
        """Raise the error with what else cannot be read among the images that are left."""
        log.warning("%s; reading the other %d images for what else cannot be read", error, len(positions))

        def failure(position: int) -> bool:
            try:
                self.read(position)
            except UnreadableFile:
                return True
            return False

        failed = read_ahead(failure, positions.tolist(), self.threads)
        further = [self.ids[position] for position, wrong in zip(positions, failed, strict=True) if wrong]
        raise UnreadableFile(f"{error}. {len(further)} more cannot be read: {_some(further)}" if further else error) from error

    def refuse_changing(self) -> None:
        """Refuse a source whose first images differ from one reading to the next, as with hidden augmentation."""
        for position in range(min(READ_TWICE, len(self))):
            try:
                # by a reader, where there are some
                first, again = read_ahead(lambda at: self._image(at).hash, (position, position), min(self.threads, 1))
            except UnreadableFile:
                self.refuse_damaged()  # which names all that are as bad
                raise
            if first != again:
                raise self._changed(position)

    def _changed(self, position: int) -> UnitlabError:
        return UnitlabError(
            f"{self.name}: image {self.ids[position]!r} differs when it is read again; unitlab needs images that can be "
            f"repeated: leave out the augmentation in the transform ({self.transform_text:.300}) or in the dataset"
        )

    def _images(
        self, wanted: list[np.ndarray], batches: list[BatchInReading], thumbnails: bool, ahead: int
    ) -> Generator[ReadImage, None, None]:
        positions, workers, threads = np.concatenate(wanted), self.workers, self.threads
        pinned = batches[0].pinned
        if pinned:
            threads = max(threads, self.threads_for_gpu)
        pictured: tuple[type, ...] = ()  # of what small ones are made, each when it is read
        if thumbnails:
            # of tensors that nobody reads ahead, for a whole batch later
            later = self.transform is None and not threads and workers is None
            pictured = (Image.Image,) if later else (Image.Image, Tensor)
        decoded = pinned and isinstance(self.transform, DeviceTransform)
        if multiprocessing.current_process().daemon:  # such processes, as Dask's are, may have none of their own
            threads = 1 if workers is not None else threads
        else:
            workers = workers or (self._own_workers(len(positions), int(positions[0])) if pinned else None)
            if workers is not None and len(positions) > workers.images_at_once:
                read_chunk = partial(self._chunk, pictured, decoded, workers)
                with closing(read_by_workers(read_chunk, list(enumerate(workers.chunks(positions))), workers)) as chunks:
                    yield from self._from_workers(chunks, batches, workers)
                return
        # of tensors in memory several: few calls of each operation leave Python's lock to the others
        several = TENSORS_AT_ONCE if pinned and self.threads_for_gpu and self.transform is None else 1
        if several > 1 and self._kind is None:
            self._learn_kind(int(positions[0]))

        def jobs() -> Iterator[tuple[BatchInReading, int, list[int]]]:
            for batch, some in zip(batches, wanted, strict=True):
                for place in range(0, len(some), several):
                    if self._kind is not None and not decoded:
                        batch.make_room(*self._kind)
                    yield batch, place, some[place : place + several].tolist()

        longest = max(map(len, wanted))
        # pictures as they are decoded may be large: a batch of them
        most = (lambda: longest) if decoded else lambda: -(-self._images_ahead(longest, ahead) // several)
        with closing(read_ahead(partial(self._put, pictured, decoded), jobs(), min(threads, len(positions)), most)) as read:
            for images in read:
                yield from images

    def _own_workers(self, images: int, first: int) -> LoaderWorkers | None:
        """Processes that decode many picture files for a GPU: threads, of which one works at a time, do not keep up."""
        if self.threads < 2 or images < LEAST_FOR_WORKERS or not FORKS:
            return None
        shape, dtype = self._kind or self._learn_kind(first)
        return own_workers(self.threads, shape.numel() * dtype.itemsize)

    def _learn_kind(self, position: int) -> Kind:
        pixels = self._image(position).pixels
        assert pixels is not None
        return self._one_kind(position, pixels)

    def _images_ahead(self, longest: int, ahead: int) -> int:
        """How many images are read ahead: a batch at least, which is all that is known before the first one came."""
        if self._kind is None:
            return longest
        shape, dtype = self._kind
        return max(longest, ahead // (shape.numel() * dtype.itemsize + 3 * THUMBNAIL**2))

    def _put(self, pictured: tuple[type, ...], decoded: bool, job: tuple[BatchInReading, int, list[int]]) -> list[ReadImage]:
        """Read images into their batch, where there is room for such."""
        batch, place, positions = job
        if len(positions) > 1:
            tensors = [self.read(position) for position in positions]
            if batch.pixels is not None and (found := put_tensors(tensors, self._kind, batch, place, bool(pictured))):
                return found
        images = []
        for at, position in enumerate(positions, place):
            image = self._image(position, pictured, decoded)
            assert image.pixels is not None
            if not decoded and batch.pixels is not None and self._kind == (image.pixels.shape, image.pixels.dtype):
                batch.put(at, image.pixels)
                image = image._replace(pixels=None)
            images.append(image)
        return images

    def _chunk(self, pictured: tuple[type, ...], decoded: bool, workers: LoaderWorkers, job: tuple[int, list[int]]) -> Chunk:
        (number, positions), found = job, []
        for position in positions:
            try:
                found.append(self._image(position, pictured, decoded))
            except UnitlabError as error:
                return Chunk.of(number, found, bare(error), workers)
        return Chunk.of(number, found, None, workers)

    def _from_workers(
        self, chunks: Iterable[Chunk], batches: list[BatchInReading], workers: LoaderWorkers
    ) -> Generator[ReadImage, None, None]:
        """The images of workers, their pixels in their batches, where they are such as have room there."""
        places = ((batch, place) for batch in batches for place in range(batch.images))
        for chunk in chunks:
            images, self._kind = chunk.put(list(islice(places, len(chunk.images))), workers, self._kind)
            yield from images
            if chunk.wrong is not None:
                raise chunk.wrong

    def _image(self, position: int, pictured: tuple[type, ...] = (), decoded: bool = False) -> ReadImage:
        try:
            image = self.read(position)
            if self.reading and isinstance(image, Image.Image):
                image = upright(image)
                image = image if self.transform is None else in_8_bits(image)
            # before the transform, which may work in place
            thumbnail = small(image) if isinstance(image, pictured) else None
            if isinstance(self.transform, DeviceTransform):
                content = self.transform.decoded(image)
                tensor = content if decoded else self.transform.finished([content])[0]
                return ReadImage(tensor, thumbnail, content_hash(content, self.transform_text))
            tensor = tensor_of(image if self.transform is None else self.transform(image), as_read=bool(self.reading))
        except UnitlabError:
            raise
        except Exception as error:
            raise UnitlabError(f"{self.name}: image {self.ids[position]!r} cannot be read ({error})") from error
        if not isinstance(tensor, Tensor) or tensor.dim() < 2 or not tensor.is_floating_point():
            given = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UnitlabError(
                f"{self.name}: image {self.ids[position]!r} is {given}; images are float tensors (channel, row, column): "
                "give a transform that ends in one"
            )
        tensor = tensor.detach()
        # sums are cheap, and hold whatever is not finite
        if not math.isfinite(tensor.sum().item()) and not torch.isfinite(tensor).all():
            raise UnitlabError(f"{self.name}: image {self.ids[position]!r} holds NaN or infinite pixels")
        return ReadImage(tensor, thumbnail, content_hash(tensor))

    def _one_kind(self, position: int, tensor: Tensor) -> Kind:
        """Shape and type of all images, this one among them."""
        self._kind = self._kind or (tensor.shape, tensor.dtype)
        (shape, dtype), image = self._kind, f"{self.name}: image {self.ids[position]!r}"
        if tensor.shape != shape:
            raise UnitlabError(
                f"{image} has shape {tuple(tensor.shape)}, the first read had {tuple(shape)}; "
                "give a transform that makes all sizes equal, such as the weights' own transforms()"
            )
        if tensor.dtype != dtype:
            raise UnitlabError(f"{image} is of {tensor.dtype}, the first read of {dtype}; give a transform that makes both one")
        return self._kind


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")


def _read_at(read: Callable[[int], Any], at: np.ndarray, position: int) -> Any:
    return read(int(at[position]))
