"""An image source: images in an order that can be repeated, each decoded once for its tensor and its thumbnail."""

from __future__ import annotations

import logging
import multiprocessing
import re
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unitlab.compute.images.pictures import in_8_bits, upright, values
from unitlab.compute.images.reading import LoaderWorkers, read_ahead, read_by_workers
from unitlab.compute.images.thumbnails import small, small_tensors
from unitlab.errors import UnitlabError

READ_TWICE = 4
MOST_NAMED = 20
REMEDY = "replace or remove them, or leave them out by unitlab.images(..., unreadable='skip')"
log = logging.getLogger("unitlab")
# torchvision's transforms that draw something and do not say so in the first word of their name
DRAWING = {
    "AugMix", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianBlur", "GaussianNoise", "MixUp",
    "RandAugment", "ScaleJitter", "TrivialAugmentWide",
}  # fmt: skip


class UnreadableFile(UnitlabError):
    """A picture file that cannot be decoded."""


@dataclass(frozen=True)
class ImageBatch:
    """Images as a float tensor (image, channel, row, column), their positions, and thumbnails where they are asked for."""

    pixels: Tensor
    positions: np.ndarray
    thumbnails: list[np.ndarray | None]


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
        self._shape: tuple[int, ...] | None = None
        self._sums = np.full(len(self.ids), -1, np.int64)  # checksums of the images' values, as they were read first
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
        self, batches: Iterable[Sequence[int] | np.ndarray], *, thumbnails: bool = False
    ) -> Generator[ImageBatch, None, None]:
        """Images at the positions of each batch, each image read once, while the batches before are worked on.

        Raises
        ------
        UnitlabError
            An image that cannot be read, is no float tensor, differs in size from the others, or holds NaN.
        """
        wanted = [np.asarray(positions, dtype=np.int64) for positions in batches]
        if not wanted:
            return
        thumbnails = thumbnails and self.thumbnails
        with closing(self._images(np.concatenate(wanted), max(map(len, wanted)), thumbnails)) as images:
            for positions in wanted:
                pixels: list[Tensor] = []
                made: list[np.ndarray | None] = []
                for position in positions:
                    try:
                        tensor, thumbnail = next(images)
                    except UnreadableFile as error:
                        left = np.concatenate(wanted)
                        self._name_others(error, left[np.flatnonzero(left == position)[-1] + 1 :])
                    if self.told is not None:
                        self.told()
                    pixels.append(self._of_one_size(int(position), tensor))
                    self._refuse_changed(int(position), tensor)
                    made.append(thumbnail)
                batch = torch.stack(pixels)
                self._refuse_infinite(batch, positions)
                if thumbnails and self.transform is None and made[0] is None:
                    made = small_tensors(batch)
                yield ImageBatch(batch, positions, made)

    def refuse_damaged(self) -> None:
        """Refuse files without a header or an end marker, all of them at once."""
        if self.damage is None:
            return
        found = list(read_ahead(self.damage, range(len(self)), self.threads, 4 * self.threads))
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

        failed = read_ahead(failure, positions, self.threads, 4 * self.threads)
        further = [self.ids[position] for position, wrong in zip(positions, failed, strict=True) if wrong]
        raise UnreadableFile(f"{error}. {len(further)} more cannot be read: {_some(further)}" if further else error) from error

    def refuse_changing(self) -> None:
        """Refuse a source whose first images differ from one reading to the next, as with hidden augmentation."""
        for position in range(min(READ_TWICE, len(self))):
            try:
                first, again = self._image(position)[0], self._image(position)[0]
            except UnreadableFile:
                self.refuse_damaged()  # which names all that are as bad
                raise
            self._refuse_infinite(first.unsqueeze(0), [position])
            if not torch.equal(first, again):
                raise self._changed(position)

    def _refuse_changed(self, position: int, tensor: Tensor) -> None:
        """Refuse an image that is not what it was when it was read first."""
        found = zlib.crc32(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        if self._sums[position] not in (-1, found):
            raise self._changed(position)
        self._sums[position] = found

    def _changed(self, position: int) -> UnitlabError:
        return UnitlabError(
            f"{self.name}: image {self.ids[position]!r} differs when it is read again; unitlab needs images that can be "
            f"repeated: leave out the augmentation in the transform ({self.transform_text:.300}) or in the dataset"
        )

    def _images(
        self, positions: np.ndarray, ahead: int, thumbnails: bool
    ) -> Generator[tuple[Tensor, np.ndarray | None], None, None]:
        workers, threads = self.workers, self.threads
        if workers is not None and len(positions) > workers.images_at_once:
            if not multiprocessing.current_process().daemon:
                with closing(read_by_workers(partial(self._chunk, thumbnails), positions, workers)) as chunks:
                    for pixels, made in chunks:
                        yield from zip(pixels, made, strict=True)
                return
            threads = 1  # such processes, as Dask's are, may have none of their own
        yield from read_ahead(partial(self._image, thumbnails=thumbnails), positions, threads, ahead)

    def _chunk(self, thumbnails: bool, positions: list[int]) -> tuple[Tensor | list[Tensor], list[np.ndarray | None]]:
        found = [self._image(position, thumbnails=thumbnails) for position in positions]
        pixels = [tensor for tensor, _ in found]
        alike = all(tensor.shape == pixels[0].shape and tensor.dtype == pixels[0].dtype for tensor in pixels)
        # a tensor takes a file descriptor on its way to the main process
        return torch.stack(pixels) if alike else pixels, [thumbnail for _, thumbnail in found]

    def _image(self, position: int, *, thumbnails: bool = False) -> tuple[Tensor, np.ndarray | None]:
        try:
            image = self.read(position)
            as_it_is = self.transform is None and isinstance(image, Tensor)
            if self.reading and isinstance(image, Image.Image):
                image = upright(image)
                image = image if self.transform is None else in_8_bits(image)
            # before the transform, which may work in place; of tensors that have none, for a whole batch later
            thumbnail = small(image) if thumbnails and not as_it_is else None
            tensor = image if self.transform is None else self.transform(image)
            if isinstance(tensor, Mapping) and "pixel_values" in tensor:  # of Hugging Face's processors: a batch of one
                tensor = torch.as_tensor(np.asarray(tensor["pixel_values"]))
                tensor = tensor[0] if tensor.dim() == 4 and len(tensor) == 1 else tensor
            if isinstance(tensor, Image.Image):
                tensor = values(tensor if self.reading else tensor.convert("RGB"))
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
        return tensor, thumbnail

    def _refuse_infinite(self, batch: Tensor, positions: Sequence[int] | np.ndarray) -> None:
        # sums are cheap, and hold whatever is not finite
        if not torch.isfinite(batch.sum()):
            for position, tensor in zip(positions, batch, strict=True):
                if not torch.isfinite(tensor).all():
                    raise UnitlabError(f"{self.name}: image {self.ids[position]!r} holds NaN or infinite pixels")

    def _of_one_size(self, position: int, tensor: Tensor) -> Tensor:
        if self._shape is None:
            self._shape = tuple(tensor.shape)
        if tuple(tensor.shape) != self._shape:
            raise UnitlabError(
                f"{self.name}: image {self.ids[position]!r} has shape {tuple(tensor.shape)}, the first read had {self._shape}; "
                "give a transform that makes all sizes equal, such as the weights' own transforms()"
            )
        return tensor


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")


def _read_at(read: Callable[[int], Any], at: np.ndarray, position: int) -> Any:
    return read(int(at[position]))


def refuse_random(transform: Any) -> None:
    """Refuse augmentation, also inside a composed transform: the same image must give the same tensor."""
    if transform is None:
        return
    kind = type(transform).__name__
    if kind.startswith("Random") or kind in DRAWING:
        raise UnitlabError(
            f"the transform holds {kind}, which changes from call to call; give the transform used for evaluation"
        )
    inner = getattr(transform, "transforms", None)
    if isinstance(transform, nn.Sequential):
        inner = list(transform)
    for part in inner if isinstance(inner, list | tuple) else ():
        refuse_random(part)


def transform_text(transform: Any) -> str:
    """A text that is the same from process to process: without the addresses of functions."""
    return "none" if transform is None else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform))
