"""Where images come from: a folder per class, a torch dataset or loader, a bundled set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, SequentialSampler, Subset, TensorDataset
from torchvision.datasets import DatasetFolder
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import Compose

from unitlab.bundled_images import IMAGE_SETS, bundled_images
from unitlab.compute.images.folders import (
    FURTHER_SUFFIXES,
    SUFFIXES,
    LabelledFiles,
    in_order,
    pictures_by_class,
    refuse_parts,
    subfolders,
)
from unitlab.compute.images.pictures import READING, damage, decoding_failure, picture_file
from unitlab.compute.images.processes import LoaderWorkers, loader_workers, read_by_workers
from unitlab.compute.images.reading import Processors, read_ahead
from unitlab.compute.images.source import MOST_NAMED, ImageSource, UnreadableFile
from unitlab.compute.images.transforms import refuse_random, transform_text
from unitlab.errors import UnitlabError, nearest_names

Transform = Callable[[Any], Tensor] | None
Names = Sequence[str] | None
ITEM_KEYS = (("image", "img", "pixel_values"), ("label", "labels", "fine_label"))
log = logging.getLogger("unitlab")
# Decoding and resizing leave Python's lock free. Beside a network on a CPU threads do; for a GPU processes, see `own_workers`.
PICTURE_THREADS = Processors()
LARGE = 64 << 10  # bytes of an image


def images(
    source: Any,
    *,
    transform: Callable[[Any], Tensor] | None = None,
    categories: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    unreadable: str = "refuse",
    clusters: Sequence[Any] | Callable[[str], Any] | None = None,
) -> ImageSource:
    """Images to measure a network on.

    Parameters
    ----------
    source
        A folder with a folder per class; a torchvision dataset; any torch ``Dataset``, or a ``DataLoader`` in its own
        order, of (image, label) or, as Hugging Face has them, {"image": …, "label": …}; two arrays, images and labels; or a
        bundled set: "emoji", "fashion_mnist". Labels are numbers, or one-hot. The next images are read while a batch is
        worked on: by threads, many files for a GPU by processes on Linux, or by those of a ``DataLoader`` with
        ``num_workers``; with ``num_workers=0``, and of tensors in memory but large ones for a GPU, nothing is read ahead.
    transform
        From a PIL picture (or the dataset's image) to a float tensor (channel, row, column). Default for pictures:
        RGB in 0..1, all of one size. It must be repeatable. Pictures of a folder come to it upright (EXIF), in RGB,
        what is transparent on white, grey of 16 bits scaled by its depth; floats as they are, which need a transform.
    categories
        Class names in the order of the network's logits. Default: the folders' names, sorted (numbers as numbers, where
        torchvision's ``ImageFolder`` has 0, 1, 10, 2), or the dataset's ``classes``. Classes without images are allowed;
        folders of ImageNet may be called by their WordNet ids (n01440764) where ``categories`` has torchvision's names.
    ids
        A text for each image; default the path inside the folder, or the position.
    unreadable
        "refuse": a sweep first looks for damaged files by their headers and ends, and names them. "skip": the files of a
        folder are decoded here and now, and those that cannot be are left out and named.
    clusters
        What belongs together, as pictures of one object, patient or film do, which statistics then take as one: a name or
        number for each image, or a function of its id, such as ``lambda id: id.split("_")[0]``.

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
    if unreadable not in ("refuse", "skip") or (unreadable == "skip" and not isinstance(source, str | Path)):
        raise UnitlabError(f"unreadable={unreadable!r} is 'refuse', or for a folder of pictures 'skip'")
    if isinstance(source, str) and source in IMAGE_SETS and not Path(source).is_dir():
        if clusters is not None:
            raise UnitlabError(f"'{source}' comes with its own clusters; leave them out")
        return _bundled(source, transform, categories, ids)
    found = _images(source, transform, categories, ids, skip=unreadable == "skip")
    return found if clusters is None else replace(found, clusters=_clusters(clusters, found))


def _images(source: Any, transform: Transform, categories: Names, ids: Names, *, skip: bool) -> ImageSource:
    refuse_random(transform)
    if isinstance(source, str | Path):
        return _folder(Path(source), transform, categories, ids, skip=skip)
    if isinstance(source, DataLoader):
        drawn_by = source.sampler if type(source.batch_sampler) in (BatchSampler, type(None)) else source.batch_sampler
        if not isinstance(drawn_by, SequentialSampler):
            raise UnitlabError(
                f"the DataLoader draws its images with {type(drawn_by).__name__}; unitlab needs an order that can be "
                "repeated: give the dataset itself, or a DataLoader with shuffle=False"
            )
        return _dataset(source.dataset, transform, categories, ids, source)
    if isinstance(source, tuple | list) and len(source) == 2 and getattr(source[0], "ndim", 0) > 2 and np.ndim(source[1]):
        if len(source[0]) != len(source[1]):
            raise UnitlabError(f"{len(source[1])} labels are given for {len(source[0])} images; give one for each")
        source = TensorDataset(*map(torch.as_tensor, source))
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        raise UnitlabError(
            f"images cannot be taken from a {type(source).__name__}; give a folder per class, a torch Dataset or DataLoader of "
            f"(image, label) with a length, or one of {sorted(IMAGE_SETS)}"
        )
    return _dataset(source, transform, categories, ids)


def _bundled(name: str, transform: Transform, categories: Names, ids: Names) -> ImageSource:
    if transform is not None or categories is not None or ids is not None:
        raise UnitlabError(f"'{name}' comes with its own transform, categories and ids; leave them out")
    found = bundled_images(name)
    mean = torch.tensor(found.mean).view(-1, 1, 1)
    deviation = torch.tensor(found.deviation).view(-1, 1, 1)

    def read(position: int) -> Tensor:
        return (torch.from_numpy(found.pixels[position].copy()).permute(2, 0, 1).float() / 255 - mean) / deviation

    return ImageSource(
        name, found.ids, found.labels, found.categories, read,
        transform_text=f"(pixels / 255 - {found.mean}) / {found.deviation}", clusters=found.clusters,
    )  # fmt: skip


def _folder(folder: Path, transform: Transform, categories: Names, ids: Names, *, skip: bool) -> ImageSource:
    if not folder.is_dir():
        near = nearest_names(str(folder), IMAGE_SETS)
        raise UnitlabError(f"{folder} is not a folder; give one with a folder per class, or a bundled set. {near}")
    found = subfolders(folder)
    refuse_parts(folder, found, categories)
    classes, notes = in_order(path.name for path in found) if categories is None else (list(categories), [])
    files, labels, skipped = pictures_by_class(found, classes, "category")
    if not files:
        raise UnitlabError(f"{folder} holds no images; expected {folder}/CLASS/PICTURE with one of {sorted(SUFFIXES)}")
    _same_length(ids, len(files))
    if skip:
        failures = list(read_ahead(lambda at: decoding_failure(files[at]), range(len(files)), PICTURE_THREADS))
        left_out = [path.relative_to(folder).as_posix() for path, why in zip(files, failures, strict=True) if why]
        skipped += [f"{len(left_out)} unreadable left out ({', '.join(left_out[:MOST_NAMED])})"] if left_out else []
        kept = [at for at, why in enumerate(failures) if not why]
        files, labels = [files[at] for at in kept], [labels[at] for at in kept]
        ids = None if ids is None else [ids[at] for at in kept]
    return picture_files(folder.name, LabelledFiles(folder, files, labels, classes, notes + skipped), classes, transform, ids)


def picture_files(name: str, found: LabelledFiles, categories: Sequence[str], transform: Transform, ids: Names) -> ImageSource:
    """A source of picture files with the label of each; default ids are the paths inside their root."""
    ids = ids if ids is not None else [path.relative_to(found.root).as_posix() for path in found.files]
    new = np.array([path.suffix.lower() in FURTHER_SUFFIXES for path in found.files])
    source = ImageSource(
        name, ids, np.array(found.labels, dtype=np.int64), categories, partial(_loaded, picture_file, found.files),
        transform_text=transform_text(transform), transform=transform, thumbnails=True, threads=PICTURE_THREADS,
        notes=found.notes, reading=READING, read_before=partial(_loaded, pil_loader, found.files),
        new=new if new.any() else None, damage=partial(_damage, found.files),
    )  # fmt: skip
    for note in found.notes:
        log.info("%s: %s", name, note)
    source.refuse_changing()
    return source


def _dataset(
    dataset: Any, transform: Transform, categories: Names, ids: Names, loader: DataLoader[Any] | None = None
) -> ImageSource:
    inner, at, plain = _unwrapped(dataset)
    for part in inner.datasets if isinstance(inner, ConcatDataset) else [inner]:
        refuse_random(getattr(part, "transform", None))
    name = type(inner).__name__
    if len(dataset) == 0:
        raise UnitlabError(f"{name} holds no images")
    _same_length(ids, len(dataset))
    # whether items are what torchvision's loader and transform make of the dataset's files
    plain = plain and isinstance(inner, DatasetFolder) and type(inner).__getitem__ is DatasetFolder.__getitem__
    workers = None if loader is None else loader_workers(loader)
    # in memory: a thread of its own costs up to 5 ms an image, and there is nothing to decode; but much to hash, of large ones
    large = type(inner) is TensorDataset and loader is None and inner.tensors[0][0].nbytes >= LARGE
    threads = 0 if loader is not None or isinstance(inner, TensorDataset) else PICTURE_THREADS if plain else 1
    targets = getattr(inner, "targets", None)
    if targets is not None and len(targets) == len(inner) and getattr(inner, "target_transform", None) is None:
        labels, count = _integers([targets[index] for index in at], name)
    else:
        labels, count = _integers(_labels(dataset, name, threads, workers), name)
    classes = list(categories if categories is not None else getattr(inner, "classes", None) or _feature_names(inner))
    named = bool(classes)
    if not named:
        classes = [f"class {index}" for index in range(count)]
    files = [inner.samples[index][0] for index in at] if isinstance(inner, DatasetFolder) else []
    if ids is None:
        ids = [os.path.relpath(path, inner.root) for path in files] or list(map(str, range(len(dataset))))
    read, steps = partial(_item, dataset, name, 0), [transform]
    if plain:
        # the file as it is, so that thumbnails are of pictures before the dataset's own transform
        read, steps = partial(_loaded, inner.loader, files), [inner.transform, transform]
    steps = [step for step in steps if step is not None]
    found = ImageSource(
        name, ids, labels, classes, read, named=named,
        transform_text=f"{transform_text(getattr(inner, 'transform', None))}, {transform_text(transform)}",
        transform=Compose(steps) if steps else None, thumbnails=True, threads=threads, workers=workers,
        threads_for_gpu=PICTURE_THREADS if large else 0,
        reading=READING if not plain and transform is None and isinstance(read(0), Image.Image) else "",
    )  # fmt: skip
    found.refuse_changing()
    return found


def _unwrapped(dataset: Any) -> tuple[Any, np.ndarray, bool]:
    """The dataset inside of `Subset`s, the positions in it, and whether they are torch's own."""
    at, plain = np.arange(len(dataset)), True
    while isinstance(dataset, Subset):
        at, plain = np.asarray(dataset.indices)[at], plain and type(dataset) is Subset
        dataset = dataset.dataset
    return dataset, at, plain


def _loaded(loader: Callable[[Any], Any], files: Sequence[Path | str], position: int) -> Any:
    try:
        return loader(files[position])
    except Exception as error:
        raise UnreadableFile(f"the image file {files[position]} cannot be read ({error}); remove or replace it") from error


def _damage(files: Sequence[Path], position: int) -> str:
    return damage(files[position])


def _item(dataset: Any, name: str, part: int, position: int) -> Any:
    """The image (``part`` 0) or the label (1) of an item."""
    try:
        found = dataset[position]
        if isinstance(found, Mapping):
            return found[next(key for key in ITEM_KEYS[part] if key in found)]
        return (found[0], found[1])[part]
    except StopIteration as error:
        raise UnitlabError(f"{name}: item {position} has none of {ITEM_KEYS[part]}; it has {sorted(found)}") from error
    except Exception as error:
        raise UnitlabError(f"{name}: item {position} cannot be read as (image, label): {error}") from error


def _labels(dataset: Any, name: str, threads: int, workers: LoaderWorkers | None) -> list[Any]:
    """Labels of a dataset, item by item; of Hugging Face's the whole column, for which no picture is decoded."""
    column = next((key for key in ITEM_KEYS[1] if key in (getattr(dataset, "features", None) or ())), None)
    if column is not None:
        return list(dataset[column])
    label = partial(_item, dataset, name, 1)
    if workers is None:
        return list(read_ahead(label, range(len(dataset)), threads))
    chunks = read_by_workers(partial(_each, label), workers.chunks(range(len(dataset))), workers)
    return [target for chunk in chunks for target in chunk]


def _feature_names(dataset: Any) -> Sequence[str]:
    """Class names of a dataset of Hugging Face."""
    features = getattr(dataset, "features", None) or {}
    return next((features[key].names for key in ITEM_KEYS[1] if hasattr(features.get(key), "names")), ())


def _integers(labels: list[Any], name: str) -> tuple[np.ndarray, int]:
    """Labels as int64, those of one-hot rows by their place, and how many classes that makes."""
    found = np.asarray([label.item() if isinstance(label, Tensor) and label.numel() == 1 else label for label in labels])
    rows = found.ndim == 2 and isinstance(labels[0], Tensor | np.ndarray) and found.dtype.kind in "iufb"
    if rows and np.isin(found, (0, 1)).all() and (found.sum(1) == 1).all():
        return found.argmax(1).astype(np.int64), found.shape[1]
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise UnitlabError(f"{name}: labels must be one integer for each image; got {found.dtype} of shape {found.shape}")
    return found.astype(np.int64), int(found.max()) + 1


def _each(read: Callable[[int], Any], positions: list[int]) -> list[Any]:
    return [read(position) for position in positions]


def _clusters(given: Sequence[Any] | Callable[[str], Any], source: ImageSource) -> np.ndarray:
    """A number for each image, the same for what belongs together, counted in the order of the images."""
    names = [given(name) for name in source.ids] if callable(given) else list(given)
    if len(names) != len(source):
        raise UnitlabError(
            f"{len(names)} clusters are given for {len(source)} images; give one for each, or a function of the id"
        )
    try:
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    except TypeError as error:
        raise UnitlabError(f"clusters must be names or numbers; got {type(names[0]).__name__}") from error
    return np.array([number[name] for name in names], dtype=np.int64)


def _same_length(ids: Sequence[str] | None, count: int) -> None:
    if ids is not None and len(ids) != count:
        raise UnitlabError(f"{len(ids)} ids are given for {count} images; give one for each")
