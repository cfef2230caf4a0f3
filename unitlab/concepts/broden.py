"""Broden, the data set of Network Dissection, or a set of one's own in its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from unitlab.concepts.label_images import LabelImages, Labels, read_label_image
from unitlab.errors import UnitlabError, nearest_names, what_it_says

Array = np.ndarray[Any, Any]


def broden(folder: str | Path, categories: Sequence[str] | None = None) -> LabelImages:
    """Concepts of a folder in the format of Broden (Bau, Zhou, Khosla, Oliva, Torralba 2017).

    Parameters
    ----------
    folder
        With ``index.csv``, ``category.csv``, ``label.csv``, a ``c_CATEGORY.csv`` for each category, and ``images``. A label
        image is a PNG, its labels red + 256 · green; a cell of the index may name several, and labels of the whole image.
    categories
        Which categories are used; default all of ``category.csv``.

    Returns
    -------
    LabelImages
        What `unitlab.dissect` takes, with the ``pictures`` and ``ids`` of the images that have a label. A concept's category
        is the one in which it covers most, where it competes.

    Raises
    ------
    UnitlabError
        No such folder, a table that is missing or lacks a column, a category that there is not, a label that no table names.

    Examples
    --------
    >>> from unitlab import concepts
    >>> data = concepts.broden("broden1_224", ["object", "part", "color"])  # doctest: +SKIP
    >>> images = unitlab.images(data.pictures, ids=data.ids, transform=transform)  # doctest: +SKIP
    >>> found = unitlab.dissect(model, images, "layer4", data)  # doctest: +SKIP
    """
    folder = Path(folder)
    known = _table(folder, "category.csv", ["name"])["name"].tolist()
    used = known if categories is None else [categories] if isinstance(categories, str) else list(categories)
    for category in used:
        if category not in known:
            raise UnitlabError(f"{folder} has no category {category!r}. {nearest_names(str(category), known)}")
    number, names, primary = _labels(folder, used)
    index = _table(folder, "index.csv", ["image", "ih", "iw", "sh", "sw", *used])
    index = index[(index[used] != "").any(axis=1)]
    if not len(index):
        raise UnitlabError(f"no image of {folder} has a label of {', '.join(used)}")
    rows = {row["image"]: row for row in index.to_dict("records")}
    if len(rows) < len(index):
        raise UnitlabError(f"{folder}/index.csv names the image {index['image'][index['image'].duplicated()].iloc[0]!r} twice")
    place = np.zeros(max(number, default=0) + 1, np.int64)
    place[number] = np.arange(1, len(number) + 1)

    def placed(labels: Array, where: object) -> Array:
        wrong = labels[(labels >= len(place)) | ((place[np.minimum(labels, len(place) - 1)] == 0) & (labels > 0))]
        if wrong.size:
            raise UnitlabError(f"{where} has the label {wrong.flat[0]}, which no table of {', '.join(used)} in {folder} names")
        return np.asarray(place[labels])

    def labels(image: str, pixels: Array) -> Labels:
        row = rows[image]
        size, seen = (int(row["ih"]), int(row["iw"])), pixels.shape[1:]
        if size != seen:
            raise UnitlabError(
                f"Broden's image {image!r} is {size[0]} × {size[1]} pixels and the network sees {seen[0]} × {seen[1]}, so that "
                "the labels would lie elsewhere; take the Broden of the network's size, and a transform that neither cuts nor "
                "resizes"
            )
        planes, whole = [], []
        for category in used:
            for item in filter(None, str(row[category]).split(";")):
                if item.isdigit():
                    whole.append(int(item))
                    continue
                path = folder / "images" / item
                plane = placed(read_label_image(path), path)
                if plane.shape != (int(row["sh"]), int(row["sw"])):
                    raise UnitlabError(f"{path} is {plane.shape}; index.csv says {row['sh']} × {row['sw']}")
                planes.append(plane)
        empty = np.zeros((0, int(row["sh"]), int(row["sw"])), np.int64)
        return np.stack(planes) if planes else empty, placed(np.array(whole, np.int64), f"{folder}/index.csv, {image!r},")

    return LabelImages(names, primary, labels, list(rows), _Pictures([folder / "images" / image for image in rows]))


class _Pictures:
    """(picture, 0) of each file: what `unitlab.images` takes."""

    classes = ("pictures",)

    def __init__(self, files: list[Path]) -> None:
        self.files, self.targets = files, [0] * len(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        with Image.open(self.files[position]) as picture:
            return picture.convert("RGB"), 0


def _labels(folder: Path, used: Sequence[str]) -> tuple[list[int], tuple[str, ...], tuple[str, ...]]:
    """Numbers, names and primary categories of the labels of the categories in use."""
    name_of = _table(folder, "label.csv", ["number", "name"]).set_index("number")["name"]
    coverage: dict[int, tuple[float, int]] = {}
    for place, category in enumerate(used):
        table = _table(folder, f"c_{category}.csv", ["number", "coverage"])
        for number, covered in zip(table["number"].astype(int), table["coverage"].astype(float), strict=True):
            # of equal coverages the later category counts, as in the program
            coverage[number] = max(coverage.get(number, (-1.0, -1)), (covered, place))
    numbers = sorted(number for number in coverage if number > 0)
    missing = [number for number in numbers if str(number) not in name_of.index]
    if missing:
        raise UnitlabError(f"{folder}/label.csv has no name for the label {missing[0]}")
    names = pd.Series([str(name_of[str(number)]) for number in numbers], dtype=object)
    names = names.where(~names.duplicated(keep=False), names + [f" ({number})" for number in numbers])
    return numbers, tuple(names), tuple(used[coverage[number][1]] for number in numbers)


def _table(folder: Path, file: str, columns: Sequence[str]) -> pd.DataFrame:
    """A table of texts; an empty cell is an empty text."""
    try:
        table = pd.read_csv(folder / file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UnitlabError(f"{folder / file} cannot be read as a table of Broden ({what_it_says(error)})") from error
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise UnitlabError(f"{folder / file} lacks the column {lacking[0]!r}")
    return table
