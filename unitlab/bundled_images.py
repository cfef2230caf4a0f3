"""The bundled image sets as plain pixels: what thumbnails and the compute part read; no torch."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from unitlab.errors import UnitlabError, nearest_names

__all__ = ["IMAGE_SETS", "BundledImages", "bundled_folder", "bundled_images"]

FASHION_CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip


@dataclass(frozen=True)
class BundledImages:
    """``pixels`` (image, row, column, channel) in 8 bits, with ids, labels, class names and clusters."""

    name: str
    pixels: np.ndarray
    ids: list[str]
    labels: np.ndarray
    categories: list[str]
    clusters: np.ndarray | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def bundled_folder() -> Path:
    """Folder of the bundled data: inside the installed package, or ``data/`` of a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "data"


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
    try:
        return IMAGE_SETS[name](folder)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UnitlabError(
            f"the bundled image set '{name}' in {folder} cannot be read ({error}); install unitlab again"
        ) from error


def _emoji(folder: Path) -> BundledImages:
    with zipfile.ZipFile(folder / "emoji.zip") as archive:
        index = json.loads(archive.read("index.json"))
        entries = [entry for entry, _ in index["images"]]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(entry))).convert("RGB")) for entry in entries])
    categories = list(index["categories"])
    labels = np.array([categories.index(entry.partition("/")[0]) for entry in entries], dtype=np.int64)
    clusters = np.array([cluster for _, cluster in index["images"]], dtype=np.int64)
    ids = [entry.removesuffix(".webp") for entry in entries]
    return BundledImages("emoji", pixels, ids, labels, categories, clusters, (0.5,) * 3, (0.25,) * 3)


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
