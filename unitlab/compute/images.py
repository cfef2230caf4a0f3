"""Image sources: where images come from, in an order that can be repeated, with labels, ids and thumbnails."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, SequentialSampler, Subset
from torchvision.datasets import DatasetFolder

from unitlab.bundled_images import IMAGE_SETS, bundled_images
from unitlab.compute.transforms import refuse_random, transform_text
from unitlab.errors import UnitlabError, nearest_names

__all__ = ["SUFFIXES", "ImageSource", "images", "picture_files"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
THUMBNAIL = 64
READ_TWICE = 4

Read = Callable[[int], Any]


class ImageSource:
    """Images in a fixed order.

    Attributes
    ----------
    ids
        Text for each image.
    labels
        int64, (image).
    categories
        Class names.
    clusters
        int64, (image): images of one cluster belong together; or None.
    name
        Of the source.
    transform_text
        What is done to the images, as text for the fingerprint.
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        labels: np.ndarray,
        categories: Sequence[str],
        read: Read,
        *,
        transform_text: str,
        thumbnail: Callable[[int], np.ndarray | None],
        clusters: np.ndarray | None = None,
        threads: int = 0,
    ) -> None:
        self.name, self.ids, self.categories = name, [str(i) for i in ids], [str(c) for c in categories]
        self.labels, self.clusters, self.transform_text = labels, clusters, transform_text
        self._read, self._thumbnail, self.threads = read, thumbnail, threads
        self._shape: tuple[int, ...] | None = None
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
        return f"<{self.name}: {len(self)} images, {len(self.categories)} classes>"

    def subset(self, positions: Sequence[int] | np.ndarray) -> ImageSource:
        """The images at these positions, in this order."""
        at = np.asarray(positions, dtype=np.int64)
        return ImageSource(
            self.name, [self.ids[i] for i in at], self.labels[at], self.categories, lambda i: self._read(int(at[i])),
            transform_text=self.transform_text, thumbnail=lambda i: self._thumbnail(int(at[i])),
            clusters=None if self.clusters is None else self.clusters[at], threads=self.threads,
        )  # fmt: skip

    def watched(self, told: Callable[[], None]) -> ImageSource:
        """The same images; ``told()`` is called whenever one is read, and may raise to end the reading."""
        other = copy(self)

        def read(position: int) -> Tensor:
            told()
            return self._read(position)

        other._read = read
        return other

    def thumbnail(self, position: int) -> np.ndarray | None:
        """A small picture, uint8 (row, column, channel), or None."""
        return self._thumbnail(position)

    def batches(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Images from ``start`` to ``stop`` as (float tensor (image, channel, row, column), positions).

        Raises
        ------
        UnitlabError
            An image that cannot be read, is no float tensor, differs in size from the others, or holds NaN.
        """
        tensors = self._decoded(start, stop, ahead=batch_size) if self.threads else map(self._tensor, range(start, stop))
        for first in range(start, stop, batch_size):
            positions = np.arange(first, min(first + batch_size, stop))
            yield torch.stack([self._checked(int(position), next(tensors)) for position in positions]), positions

    def _decoded(self, start: int, stop: int, ahead: int) -> Iterator[Tensor]:
        # threads, not DataLoader processes: decoding and resizing leave Python's lock free, and nothing has to be pickled
        # or to pass through a container's small shared memory
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[Tensor]] = deque()
            try:
                for position in range(start, stop):
                    waiting.append(pool.submit(self._tensor, position))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def refuse_changing(self, forget: Callable[[], None] = lambda: None) -> None:
        """Refuse a source whose first images differ from one reading to the next, as with hidden augmentation."""
        for position in range(min(READ_TWICE, len(self))):
            first = self._tensor(position)
            forget()
            if not torch.equal(first, self._tensor(position)):
                raise UnitlabError(
                    f"{self.name}: image {self.ids[position]!r} differs when it is read again; unitlab needs images that can "
                    "be repeated: leave out the augmentation"
                )

    def _tensor(self, position: int) -> Tensor:
        try:
            tensor = self._read(position)
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
        if not torch.isfinite(tensor).all():
            raise UnitlabError(f"{self.name}: image {self.ids[position]!r} holds NaN or infinite pixels")
        return tensor

    def _checked(self, position: int, tensor: Tensor) -> Tensor:
        if self._shape is None:
            self._shape = tuple(tensor.shape)
        if tuple(tensor.shape) != self._shape:
            raise UnitlabError(
                f"{self.name}: image {self.ids[position]!r} has shape {tuple(tensor.shape)}, the first read had {self._shape}; "
                "give a transform that makes all sizes equal, such as the weights' own transforms()"
            )
        return tensor


def images(
    source: Any,
    *,
    transform: Callable[[Any], Tensor] | None = None,
    categories: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> ImageSource:
    """Images to measure a network on.

    Parameters
    ----------
    source
        A folder with a folder per class; a torchvision dataset; any torch ``Dataset``, or a ``DataLoader`` in its own
        order, of (image, label); or a bundled set: "emoji", "fashion_mnist".
    transform
        From a PIL picture (or the dataset's image) to a float tensor (channel, row, column). Default for pictures:
        RGB in 0..1, all of one size. It must be repeatable.
    categories
        Class names in the order of the network's logits. Default: the folders' names, sorted, or the dataset's
        ``classes``. Classes without images are allowed.
    ids
        A text for each image; default the path inside the folder, or the position.

    Returns
    -------
    ImageSource

    Raises
    ------
    UnitlabError
        No images; an image that cannot be read; a label outside the classes; random order or random transforms.

    Examples
    --------
    >>> import unitlab
    >>> unitlab.images("fashion_mnist")
    <fashion_mnist: 10000 images, 10 classes>
    """
    if isinstance(source, str) and source in IMAGE_SETS and not Path(source).is_dir():
        return _bundled(source, transform, categories, ids)
    refuse_random(transform)
    if isinstance(source, str | Path):
        return _folder(Path(source), transform, categories, ids)
    if isinstance(source, DataLoader):
        drawn_by = source.sampler if type(source.batch_sampler) is BatchSampler else source.batch_sampler
        if not isinstance(drawn_by, SequentialSampler):
            raise UnitlabError(
                f"the DataLoader draws its images with {type(drawn_by).__name__}; unitlab needs an order that can be "
                "repeated: give the dataset itself, or a DataLoader with shuffle=False"
            )
        source = source.dataset
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        raise UnitlabError(
            f"images cannot be taken from a {type(source).__name__}; give a folder per class, a torch Dataset or DataLoader of "
            f"(image, label) with a length, or one of {sorted(IMAGE_SETS)}"
        )
    return _dataset(source, transform, categories, ids)


def _bundled(
    name: str, transform: Callable[[Any], Tensor] | None, categories: Sequence[str] | None, ids: Sequence[str] | None
) -> ImageSource:
    if transform is not None or categories is not None or ids is not None:
        raise UnitlabError(f"'{name}' comes with its own transform, categories and ids; leave them out")
    found = bundled_images(name)
    mean = torch.tensor(found.mean).view(-1, 1, 1)
    deviation = torch.tensor(found.deviation).view(-1, 1, 1)

    def read(position: int) -> Tensor:
        return (torch.from_numpy(found.pixels[position].copy()).permute(2, 0, 1).float() / 255 - mean) / deviation

    return ImageSource(
        name, found.ids, found.labels, found.categories, read,
        transform_text=f"(pixels / 255 - {found.mean}) / {found.deviation}",
        thumbnail=lambda position: None, clusters=found.clusters,
    )  # fmt: skip


def _folder(
    folder: Path, transform: Callable[[Any], Tensor] | None, categories: Sequence[str] | None, ids: Sequence[str] | None
) -> ImageSource:
    if not folder.is_dir():
        near = nearest_names(str(folder), IMAGE_SETS)
        raise UnitlabError(f"{folder} is not a folder; give one with a folder per class, or a bundled set. {near}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    classes = list(categories) if categories is not None else names
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UnitlabError(f"{folder} has a folder {unknown[0]!r} that is no category. {nearest_names(unknown[0], classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for name in names:
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        files += found
        labels += [classes.index(name)] * len(found)
    if not files:
        raise UnitlabError(f"{folder} holds no images; expected {folder}/CLASS/PICTURE with one of {sorted(SUFFIXES)}")
    _same_length(ids, len(files))
    found_ids = ids if ids is not None else [path.relative_to(folder).as_posix() for path in files]
    return picture_files(folder.name, files, labels, classes, transform, found_ids)


def picture_files(
    name: str,
    files: Sequence[Path],
    labels: Sequence[int],
    categories: Sequence[str],
    transform: Callable[[Any], Tensor] | None,
    ids: Sequence[str],
) -> ImageSource:
    """A source of picture files with the label of each."""

    def picture(position: int) -> Image.Image:
        try:
            with Image.open(files[position]) as opened:
                return opened.convert("RGB")
        except Exception as error:
            raise UnitlabError(f"the image file {files[position]} cannot be read ({error}); remove or replace it") from error

    found = ImageSource(
        name, ids, np.array(labels, dtype=np.int64), categories,
        lambda position: (transform or _plain_tensor)(picture(position)),
        transform_text=transform_text(transform), thumbnail=lambda position: _small(picture(position)),
        threads=min(8, os.cpu_count() or 1),
    )  # fmt: skip
    found.refuse_changing()
    return found


def _dataset(
    dataset: Any, transform: Callable[[Any], Tensor] | None, categories: Sequence[str] | None, ids: Sequence[str] | None
) -> ImageSource:
    inner = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    for part in inner.datasets if isinstance(inner, ConcatDataset) else [inner]:
        refuse_random(getattr(part, "transform", None))
    name = type(inner).__name__
    if len(dataset) == 0:
        raise UnitlabError(f"{name} holds no images")
    _same_length(ids, len(dataset))

    def item(position: int) -> tuple[Any, Any]:
        try:
            found = dataset[position]
            image, label = found[0], found[1]
        except Exception as error:
            raise UnitlabError(f"{name}: item {position} cannot be read as (image, label): {error}") from error
        return image, label

    labels = _labels(dataset, name, item)
    classes = list(categories if categories is not None else getattr(inner, "classes", ()))
    if not classes:
        classes = [f"class {index}" for index in range(int(labels.max()) + 1)]
    last: dict[int, Any] = {}

    def pixels(position: int) -> Any:
        if position not in last:
            last.clear()
            last[position] = item(position)[0]
        return last[position]

    def read(position: int) -> Tensor:
        image = pixels(position)
        if transform is not None:
            return transform(image)
        return _plain_tensor(image) if isinstance(image, Image.Image) else image

    files = _files(dataset)

    def thumbnail(position: int) -> np.ndarray | None:
        # the file as it is, before the dataset's own transform, where the dataset tells its files
        return _small(pixels(position) if files is None else inner.loader(files[position]))

    if ids is None:
        ids = [os.path.relpath(path, inner.root) for path in files] if files else list(map(str, range(len(dataset))))
    found = ImageSource(
        name, ids, labels, classes, read,
        transform_text=f"{transform_text(getattr(inner, 'transform', None))}, {transform_text(transform)}", thumbnail=thumbnail,
    )  # fmt: skip
    found.refuse_changing(forget=last.clear)
    return found


def _labels(dataset: Any, name: str, item: Callable[[int], tuple[Any, Any]]) -> np.ndarray:
    """Labels of a dataset, from its ``targets`` where they are plainly there, else item by item."""
    targets = _targets(dataset)
    if targets is None:
        targets = [item(position)[1] for position in range(len(dataset))]
    found = np.asarray([label.item() if isinstance(label, Tensor) and label.numel() == 1 else label for label in targets])
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise UnitlabError(f"{name}: labels must be one integer for each image; got {found.dtype} of shape {found.shape}")
    return found.astype(np.int64)


def _targets(dataset: Any) -> Any:
    if isinstance(dataset, Subset):
        inner = _targets(dataset.dataset)
        return None if inner is None else [inner[index] for index in dataset.indices]
    targets = getattr(dataset, "targets", None)
    plain = targets is not None and len(targets) == len(dataset) and getattr(dataset, "target_transform", None) is None
    return targets if plain else None


def _files(dataset: Any) -> list[str] | None:
    """Path of each image of a dataset of torchvision's ``DatasetFolder`` kind."""
    if isinstance(dataset, Subset):
        inner = _files(dataset.dataset)
        return None if inner is None else [inner[index] for index in dataset.indices]
    return [path for path, _ in dataset.samples] if isinstance(dataset, DatasetFolder) else None


def _same_length(ids: Sequence[str] | None, count: int) -> None:
    if ids is not None and len(ids) != count:
        raise UnitlabError(f"{len(ids)} ids are given for {count} images; give one for each")


def _plain_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def _small(image: Any) -> np.ndarray | None:
    """RGB thumbnail of at most 64 px: of a picture as it is, of a tensor stretched to its own range."""
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] not in (1, 3):
            return None
        # made small first: scaling a picture of the network's input size takes more than twice as long
        shrink = max(1.0, max(image.shape[1:]) / THUMBNAIL)
        size = [max(1, round(side / shrink)) for side in image.shape[1:]]
        image = nn.functional.interpolate(image.unsqueeze(0).float(), size, mode="area").squeeze(0)
        low, high = float(image.min()), float(image.max())
        scaled = ((image - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8)
        image = Image.fromarray(scaled.permute(1, 2, 0).expand(-1, -1, 3).numpy())
    if not isinstance(image, Image.Image):
        return None
    picture = image.convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)
