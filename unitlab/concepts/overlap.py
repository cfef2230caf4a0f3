"""How much the active pixels of units overlap those of concepts, as the label images are and as chance shuffles them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from unitlab.analysis import LEVEL
from unitlab.analysis.undefined import leading, ratio
from unitlab.concepts.exchangeable import ImageClusters
from unitlab.concepts.label_images import Labels

Array = np.ndarray[Any, Any]

NETDISSECT_IOU = 0.04
RULES = ("above chance", f"{NETDISSECT_IOU}")


class StoredLabels:
    """The label images of all images in their order, in a file without a name while they are in use."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed when all is read, or by leaving the block
        self.sizes: list[tuple[int, int]] = []
        self._planes: list[int] = []
        self._whole: list[Array] = []
        self._present: list[Array] = []
        self._pixels: dict[int, int] = {}

    def __enter__(self) -> StoredLabels:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, labels: Labels) -> None:
        """The labels of the next image: (plane, row, column) in 16 bits, and those of the whole image."""
        planes, whole = labels
        size = (planes.shape[1], planes.shape[2])
        self.sizes.append(size)
        self._planes.append(len(planes))
        self._whole.append(whole)
        self._file.write(planes.tobytes())
        number, count = np.unique(planes[planes > 0], return_counts=True)
        for label, pixels in zip([*number, *whole], [*count, *[math.prod(size)] * len(whole)], strict=True):
            self._pixels[int(label)] = self._pixels.get(int(label), 0) + int(pixels)
        self._present.append(np.union1d(number, whole).astype(np.int64))

    def finish(self) -> None:
        """No more images; from here on labels can be read."""
        size = np.array([rows * columns for rows, columns in self.sizes])
        self.planes = np.array(self._planes)
        self.start = np.cumsum(self.planes * size) - self.planes * size
        self.size = size
        self._file.flush()
        n = int((self.planes * size).sum())
        self.values = np.memmap(self._file, np.uint16, "r", shape=(n,)) if n else np.zeros(0, np.uint16)

    @property
    def most(self) -> int:
        """The largest label."""
        return max(self._pixels, default=0)

    def pixels(self, concepts: int) -> Array:
        """How many pixels each concept has in all."""
        return np.array([self._pixels.get(number, 0) for number in range(1, concepts + 1)], np.int64)

    def present(self, category: Array) -> Array:
        """Whether an image has a pixel of a concept of the category, (image, category)."""
        found = np.zeros((len(self.sizes), int(category.max(initial=-1)) + 1), bool)
        for image, labels in enumerate(self._present):
            found[image, category[labels - 1]] = True
        return found

    def of_whole(self, images: Array) -> tuple[Array, Array]:
        """Which of the images has a label as a whole, and that label."""
        labels = [self._whole[image] for image in images]
        return np.repeat(np.arange(len(images)), [len(one) for one in labels]), np.concatenate([*labels, np.zeros(0, np.int64)])

    def at(self, images: Array, pixel: Array) -> list[tuple[Array, Array]]:
        """Labels of pixels of images, plane by plane: where there is one, and it."""
        found = []
        start, size, planes = self.start[images], self.size[images], self.planes[images]
        for plane in range(int(planes.max(initial=0))):
            some = np.flatnonzero(planes > plane)
            labels = self.values[start[some] + plane * size[some] + pixel[some]]
            labelled = np.flatnonzero(labels)
            found.append((some[labelled], labels[labelled].astype(np.int64)))
        return found


class Overlaps:
    """Sums over images, with the labels as they are (0) and in each of their shuffles: ``intersection`` (1 + shuffle, unit,
    concept) in pixels, ``activated`` (1 + shuffle, unit, category) the active pixels in images that have the category."""

    def __init__(self, stored: StoredLabels, category: Array, units: int, stands_for: Array) -> None:
        self.stored, self.category, self.stands_for = stored, category, stands_for
        self.present = stored.present(category)
        self.intersection = np.zeros((len(stands_for), units, len(category)), np.int64)
        self.activated = np.zeros((len(stands_for), units, self.present.shape[1]), np.int64)
        self.area = np.zeros(units, np.int64)

    def add(self, images: Array, image: Array, unit: Array, pixel: Array) -> None:
        """Take the active pixels of some ``images``: for each its image (a place among these), unit and pixel."""
        units, concepts = self.intersection.shape[1:]
        area = np.bincount(unit * len(images) + image, minlength=units * len(images)).reshape(units, len(images))
        self.area += area.sum(1)
        cell = unit * concepts - 1
        for shuffle, stands_for in enumerate(self.stands_for):
            other = stands_for[images]
            self.activated[shuffle] += (area.astype(np.float64) @ self.present[other]).astype(np.int64)
            for some, label in self.stored.at(other[image], pixel):
                count = np.bincount(cell[some] + label, minlength=units * concepts)
                self.intersection[shuffle] += count.reshape(units, concepts)
            place, whole = self.stored.of_whole(other)
            np.add.at(self.intersection[shuffle].T, whole - 1, area[:, place].T)

    def iou(self, *, restricted: bool) -> Array:
        """(1 + shuffle, unit, concept): intersection over union; the active pixels of all images, or ``restricted`` to those
        with a concept of the same category. NaN for a concept without pixels."""
        labelled = self.stored.pixels(len(self.category))
        activated = self.activated[..., self.category] if restricted else self.area[:, None]
        found = ratio(self.intersection, activated + labelled - self.intersection)
        return np.where(labelled > 0, found, np.nan)


def shuffles_of_labels(sizes: Sequence[tuple[int, int]], cluster: Array | None, shuffles: int, seed: int) -> Array:
    """(1 + shuffle, image): whose label image an image is given; first its own. Clusters change places as a whole, with such
    of as many images whose label images have the same sizes."""
    shape = np.unique(np.array(sizes), axis=0, return_inverse=True)[1].reshape(-1)
    clusters, random = ImageClusters(shape, cluster, within_classes=True), np.random.default_rng(seed)
    return np.stack([np.arange(len(shape)), *(clusters.shuffled(random) for _ in range(shuffles))])


def detectors(iou: Array, largest: Array, names: Array, categories: Array, *, strictly: bool) -> dict[str, Any]:
    """Best concepts of the units by IoU (unit, concept), beside the ``largest`` of each shuffle, and beside 0.04.

    ``strictly``: whether 0.04 itself is too little.
    """
    best, place = leading(iou)
    n = len(largest)
    place_of_limit = math.ceil(LEVEL * (n + 1) - 1e-9) - 1  # Monte Carlo: at most 5 % of the draws lie above
    limit = np.sort(largest)[place_of_limit] if place_of_limit < n else np.nan
    named = (place >= 0) & (best > 0)
    reached = (largest >= best[:, None]).sum(1)
    sure = named & (best > limit)
    fixed = named & ((best > NETDISSECT_IOU) if strictly else (best >= NETDISSECT_IOU))
    known = np.array(sorted(set(categories.tolist())), dtype=object)
    of_category = [[rule & (categories[place] == category) for category in known] for rule in (sure, fixed)]
    return {
        "iou": iou,
        "best_iou": best,
        "best_iou_concept": np.where(named, names[place], "").astype(object),
        "best_iou_category": np.where(named, categories[place], "").astype(object),
        "best_iou_p": np.where(np.isfinite(best) & (n > 0), (1 + reached) / (1 + n), np.nan),
        "iou_null": largest,
        "iou_threshold": np.float64(limit),
        "is_detector": sure,
        "is_netdissect_detector": fixed,
        "rule": np.array(RULES, dtype=object),
        "detector_category": known,
        "n_detectors": np.array([[one.sum() for one in row] for row in of_category], np.int32),
        "n_unique_detectors": np.array([[len(np.unique(place[one])) for one in row] for row in of_category], np.int32),
    }
