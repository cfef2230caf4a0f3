"""The bundled image sets as plain pixels: what thumbnails and the compute part read; no torch."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, WebPImagePlugin

from unitlab.errors import UnitlabError, nearest_names
from unitlab.files import bundled_folder

FASHION_CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip


class Pictures(Protocol):
    """Pixels (image, row, column, channel) in 8 bits, decoded where they are asked for."""

    def __getitem__(self, images: np.ndarray | slice) -> np.ndarray: ...


@dataclass(frozen=True)
class BundledImages:
    """Ids, labels, class names and clusters of a bundled set, and its ``pictures``, from which single ones are quick to get."""

    name: str
    pictures: Pictures
    ids: list[str]
    labels: np.ndarray
    categories: list[str]
    clusters: np.ndarray | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def pixels(self) -> np.ndarray:
        """(image, row, column, channel) in 8 bits: all of them."""
        return self.pictures[:]


@lru_cache(maxsize=2)
def bundled_images(name: str) -> BundledImages:
    """A bundled image set: "emoji" (validation part) or "fashion_mnist" (test part).

    Raises
    ------
    UnitlabError
        An unknown name, or files that are missing or damaged.

    Examples
    --------
    >>> from unitlab.bundled_images import bundled_images
    >>> bundled_images("fashion_mnist").pixels.shape
    (10000, 28, 28, 1)
    """
    if name not in IMAGE_SETS:
        raise UnitlabError(f"there is no bundled image set '{name}'. {nearest_names(name, IMAGE_SETS)}")
    folder = bundled_folder() / "images"
    with _readable(name, folder):
        return IMAGE_SETS[name](folder)


@contextmanager
def _readable(name: str, where: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UnitlabError(
            f"the bundled image set '{name}' in {where} cannot be read ({error}); install unitlab again"
        ) from error


class _EmojiPictures:
    """Pictures of the archive, each decoded once: all of them take more than a second, those of a unit a moment."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, entries: list[str]) -> None:
        self.archive, self.path, self.entries = archive, path, entries
        self.pixels = np.empty((len(entries), 64, 64, 3), np.uint8)
        self.decoded = np.zeros(len(entries), bool)

    def __getitem__(self, images: np.ndarray | slice) -> np.ndarray:
        asked = np.arange(len(self.entries))[images]
        with _readable("emoji", self.path):
            for image in {*asked[~self.decoded[asked]].tolist()}:
                content = io.BytesIO(self.archive.read(self.entries[image]))
                # the format by name: otherwise PIL imports all that it knows
                picture = Image.open(content, formats=[WebPImagePlugin.WebPImageFile.format])
                self.pixels[image] = np.asarray(picture.convert("RGB"))
                self.decoded[image] = True
        return self.pixels[images]


def _emoji(folder: Path) -> BundledImages:
    path = folder / "emoji.zip"
    # in memory, where its list of 8,858 files is read once
    archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    index = json.loads(archive.read("index.json"))
    entries = [entry for entry, _ in index["images"]]
    categories = list(index["categories"])
    labels = np.array([categories.index(entry.partition("/")[0]) for entry in entries], dtype=np.int64)
    clusters = np.array([cluster for _, cluster in index["images"]], dtype=np.int64)
    ids = [entry.removesuffix(".webp") for entry in entries]
    pictures = _EmojiPictures(archive, path, entries)
    return BundledImages("emoji", pictures, ids, labels, categories, clusters, (0.5,) * 3, (0.25,) * 3)


def _fashion_mnist(folder: Path) -> BundledImages:
    pixels = _idx(folder / "fashion_mnist" / "t10k-images-idx3-ubyte.gz")[..., None]
    labels = _idx(folder / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz").astype(np.int64)
    ids = [f"test-{index:05d}" for index in range(len(labels))]
    return BundledImages("fashion_mnist", pixels, ids, labels, list(FASHION_CLASSES), None, (0.2860,), (0.3530,))


def _idx(path: Path) -> np.ndarray:
    """Array of a gzipped idx file."""
    data = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


IMAGE_SETS = {"emoji": _emoji, "fashion_mnist": _fashion_mnist}
