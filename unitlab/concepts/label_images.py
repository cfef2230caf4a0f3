"""Label images: which concept every pixel of a picture belongs to, from masks, from colours, or from any function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from PIL import Image

from unitlab.bundled_images import IMAGE_SETS, bundled_images
from unitlab.concepts.basic_colours import COLOURS, nearest_colours
from unitlab.errors import UnitlabError, what_it_says

Array = np.ndarray[Any, Any]
# (plane, row, column) of labels, and labels of the whole image; 0 is none, n the n-th concept
Labels = tuple[Array, Array]

MOST_LABELS = np.iinfo(np.uint16).max
GROUND_DIFFERENCE = 24  # of 255
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class LabelImages:
    """Concepts with pixels, as `unitlab.dissect` takes them.

    Attributes
    ----------
    names, categories
        Of the labels 1, 2, …; no names: the labels are called by their numbers.
    labels
        From the id of an image and its pixels, (channel, row, column) as the network sees them, to the labels of its pixels,
        (plane, row, column), and those of the whole image.
    ids
        Of the images that there are labels for; None: of any.
    pictures
        (picture, 0) of each of ``ids``, where the labels come with pictures: ``unitlab.images(x.pictures, ids=x.ids)``.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    labels: Callable[[str, Array], Labels]
    ids: Sequence[str] | None = None
    pictures: Any = None

    def __post_init__(self) -> None:
        twice = pd.Index(self.names)[pd.Index(self.names).duplicated()]
        if len(twice):
            raise UnitlabError(f"there are two concepts {twice[0]!r}; name them differently")
        if len(self.names) > MOST_LABELS:
            raise UnitlabError(f"there are {len(self.names)} concepts; label images hold at most {MOST_LABELS}")

    def checked(self, image: str, pixels: Array) -> Labels:
        """The labels of an image; refused where they are no labels."""
        planes, whole = self.labels(image, pixels)
        planes = np.asarray(planes)
        planes = planes[None] if planes.ndim == 2 else planes
        if planes.ndim != 3 or planes.dtype.kind not in "iub" or 0 in planes.shape[1:]:
            raise UnitlabError(
                f"the labels of the image {image!r} are {planes.dtype} {planes.shape}; a label image is whole numbers "
                "(row, column), or several planes of them"
            )
        most = len(self.names) or MOST_LABELS
        if planes.size and not 0 <= planes.min() <= planes.max() <= most:
            wrong = int(planes.min()) if planes.min() < 0 else int(planes.max())
            raise UnitlabError(f"the image {image!r} has the label {wrong}; there are 1 to {most}, and 0 where there is none")
        return planes.astype(np.uint16), whole


def joined(concepts: Any) -> LabelImages:
    """One source of labels of one, of a function of the picture, or of several."""
    if isinstance(concepts, LabelImages):
        return concepts
    if callable(concepts):
        return LabelImages((), (), lambda image, pixels: (_label_image(concepts(pixels), image), NONE))
    if not isinstance(concepts, Sequence) or isinstance(concepts, str) or not len(concepts):
        raise UnitlabError(
            "concepts are what unitlab.concepts.broden, masks, colours or foreground give, a function of the picture, or a "
            f"list of these; given: {repr(concepts) if isinstance(concepts, str) else type(concepts).__name__}"
        )
    parts = [joined(one) for one in concepts]
    if len(parts) == 1:
        return parts[0]
    if not all(part.names for part in parts):
        raise UnitlabError("a function among several concepts needs names: unitlab.concepts.masks(images, function, names)")
    known = [set(part.ids) for part in parts if part.ids is not None]
    first = np.cumsum([0, *(len(part.names) for part in parts)])

    def labels(image: str, pixels: Array) -> Labels:
        found = [part.checked(image, pixels) for part in parts]
        if len({planes.shape[1:] for planes, _ in found}) > 1:
            sizes = " and ".join(" × ".join(map(str, planes.shape[1:])) for planes, _ in found)
            raise UnitlabError(f"the concepts have label images of {sizes} for {image!r}; give all of one size (step=)")
        planes = [np.where(one > 0, one + np.int64(before), 0) for (one, _), before in zip(found, first, strict=False)]
        whole = [one + before for (_, one), before in zip(found, first, strict=False)]
        return np.concatenate(planes), np.concatenate(whole)

    return LabelImages(
        tuple(name for part in parts for name in part.names),
        tuple(category for part in parts for category in part.categories),
        labels,
        sorted(set.intersection(*known)) if known else None,
    )


def masks(images: Any, masks: Any, names: Mapping[int, str] | Sequence[str] | None = None, *, step: int = 1) -> LabelImages:
    """Concepts of pixels from masks of one's own.

    Parameters
    ----------
    images
        What `unitlab.images` gives, the name of a bundled set, or ids.
    masks
        A folder with a PNG for each id, ``dog/a.png`` for ``dog/a.jpg`` (grey or palette: the label; colour: red + 256 ·
        green); a mapping from ids, or a sequence in the order of the images, of arrays (row, column) or (plane, row, column)
        of whole numbers or of yes and no; or a function from the picture, a float array (channel, row, column) as the network
        sees it, to such an array. Masks lie on what the network sees: cut them as the transform cuts the pictures.
    names
        Of the labels 1, 2, …, or a mapping from labels; a label whose name is "" counts as none. ``"animal: dog"`` is of the
        category animal. Default: ``names.csv`` in the folder, with the columns ``number``, ``name``.
    step
        Every how many pixels a mask is read; Network Dissection reads every second one.

    Returns
    -------
    LabelImages
        What `unitlab.dissect` takes.

    Raises
    ------
    UnitlabError
        An image without a mask, a mask that is none, a label without a name, names that are missing.

    Examples
    --------
    >>> import numpy as np
    >>> from unitlab import concepts
    >>> left = np.arange(64) < 32
    >>> concepts.masks(["a", "b"], [np.tile(left, (64, 1)), np.tile(~left, (64, 1))], ["bright"]).names
    ('bright',)
    """
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 1:
        raise UnitlabError(f"step is {step!r}; expected a whole number of pixels, 1 or more")
    folder = Path(masks) if isinstance(masks, str | Path) else None
    named = _names(names, folder)
    number_of = np.zeros(max(named, default=0) + 1, np.int64)
    kept = [number for number in sorted(named) if named[number]]
    number_of[kept] = np.arange(1, len(kept) + 1)
    given = _masks(images, masks, folder)

    def labels(image: str, pixels: Array) -> Labels:
        found = _label_image(given(image, pixels), image)[..., ::step, ::step]
        missing = np.setdiff1d(found, [0, *named])
        if len(missing):
            raise UnitlabError(
                f"the mask of {image!r} has the label {missing[0]}, which has no name; names are given for "
                f"{', '.join(map(str, sorted(named)[:8]))}; {{{missing[0]}: ''}} leaves it out"
            )
        return number_of[found], NONE

    texts = [named[number] for number in kept]
    categories = tuple(text.partition(": ")[0] if ": " in text else "" for text in texts)
    return LabelImages(tuple(texts), categories, labels, None if callable(masks) else _ids(images))


def colours(
    images: Any, *, mean: Sequence[float] | None = None, deviation: Sequence[float] | None = None, step: int = 2
) -> LabelImages:
    """The basic colour of every pixel, computed: no annotation is needed.

    Parameters
    ----------
    images
        What `unitlab.images` gives, or the name of a bundled set.
    mean, deviation
        What the transform took off the pixels (from 0 to 1) and divided them by, for each channel. Default: those of a
        bundled set, of the ``Normalize`` in the transform, or none.
    step
        Every how many pixels the colour is taken; Network Dissection's label images are half as large as the pictures.

    Returns
    -------
    LabelImages
        What `unitlab.dissect` takes: eleven concepts, ``"black"`` … ``"white"``.

    Raises
    ------
    UnitlabError
        Pixels that are outside 0 to 1 when mean and deviation are undone.

    Notes
    -----
    The basic terms of Berlin and Kay (1969). A pixel has the term whose colour is nearest in CIELAB (ΔE 1976): black (20, 20,
    20), grey (140, 140, 140), red (210, 35, 45), green (60, 160, 70), yellow (253, 210, 60), blue (45, 110, 200), brown (120,
    75, 45), orange (245, 135, 35), pink (245, 150, 180), purple (130, 70, 160) or white (255, 255, 255) in sRGB. So two terms
    meet where both are equally far, and no pixel is without one. Channels are told apart in 32 levels.

    Examples
    --------
    >>> from unitlab import concepts
    >>> concepts.colours("emoji").names[:3]
    ('black', 'grey', 'red')
    """
    picture = _eight_bits(images, mean, deviation)
    return LabelImages(
        tuple(COLOURS),
        ("colour",) * len(COLOURS),
        lambda image, pixels: (nearest_colours(picture(image, pixels)[::step, ::step]) + 1, NONE),
    )


def foreground(
    images: Any, *, mean: Sequence[float] | None = None, deviation: Sequence[float] | None = None, step: int = 2
) -> LabelImages:
    """What stands out from a plain ground, as in drawings and cut-outs: one concept, ``"foreground"``.

    A pixel stands out if a channel differs by more than 24 of 255 from the median of the four corners; what is enclosed by
    such pixels does, too. Parameters as for `colours`.

    Examples
    --------
    >>> from unitlab import concepts
    >>> concepts.foreground("emoji").names
    ('foreground',)
    """
    picture = _eight_bits(images, mean, deviation)

    def labels(image: str, pixels: Array) -> Labels:
        values = picture(image, pixels).astype(np.int16)
        ground = np.median(values[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
        apart = (np.abs(values - ground) > GROUND_DIFFERENCE).any(-1)
        return scipy.ndimage.binary_fill_holes(apart)[None, ::step, ::step], NONE

    return LabelImages(("foreground",), ("figure",), labels)


def read_label_image(path: Path) -> Array:
    """Labels (row, column) of a PNG: its grey or palette values, or of colour red + 256 · green, as Broden has them."""
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture).astype(np.int64)
    except (OSError, ValueError) as error:
        raise UnitlabError(f"{path} cannot be read as a label image ({what_it_says(error)})") from error
    return values if values.ndim == 2 else values[..., 0] + 256 * values[..., 1] if values.shape[2] > 2 else values[..., 0]


def _label_image(given: Any, image: str) -> Array:
    found = np.asarray(given)
    if found.ndim not in (2, 3) or found.dtype.kind not in "iub" or (found.size and found.min() < 0):
        raise UnitlabError(
            f"the mask of {image!r} is {found.dtype} {found.shape}; expected whole numbers from 0 on, (row, column) or "
            "(plane, row, column)"
        )
    return found.astype(np.int64) if found.ndim == 3 else found[None].astype(np.int64)


def _masks(images: Any, masks: Any, folder: Path | None) -> Callable[[str, Array], Any]:
    """From an image's id and pixels to its mask."""
    if folder is None and callable(masks):
        return lambda _, pixels: masks(pixels)
    ids = _ids(images)
    if folder is not None:
        files = {image: folder / Path(image).with_suffix(".png") for image in ids}
        missing = [image for image, file in files.items() if not file.is_file()]
        if missing:
            raise UnitlabError(
                f"{folder} has no mask for {len(missing)} of {len(ids)} images, such as {missing[0]!r}; expected "
                f"{files[missing[0]]}"
            )
        return lambda image, _: read_label_image(files[image])
    if not isinstance(masks, Mapping):
        if not hasattr(masks, "__len__") or len(masks) != len(ids):
            what = f"{len(masks)} of them" if hasattr(masks, "__len__") else type(masks).__name__
            raise UnitlabError(f"masks are a folder, a function, or one for each of {len(ids)} images; given: {what}")
        masks = dict(zip(ids, masks, strict=True))
    known = set(masks)  # of keys alone: a mapping may make its masks when they are asked for
    without = [image for image in ids if image not in known]
    if without:
        raise UnitlabError(f"there is no mask for {len(without)} of {len(ids)} images, such as {without[0]!r}")
    return lambda image, _: masks[image]


def _ids(images: Any) -> list[str]:
    if isinstance(images, str):
        return list(bundled_images(images).ids)
    found = getattr(images, "ids", images)
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(one, str) for one in found):
        raise UnitlabError(
            f"images are what unitlab.images gives, a bundled set, or a list of ids; given: {type(images).__name__}"
        )
    return list(found)


def _names(names: Mapping[int, str] | Sequence[str] | None, folder: Path | None) -> dict[int, str]:
    if names is None:
        if folder is None:
            raise UnitlabError("give the names of the labels: a list, or a mapping from their numbers")
        try:
            table = pd.read_csv(folder / "names.csv", keep_default_na=False)
            names = dict(zip(table["number"].astype(int), table["name"].astype(str), strict=True))
        except (OSError, ValueError, KeyError) as error:
            raise UnitlabError(
                f"{folder} has no names.csv with the columns number, name ({what_it_says(error)}); give names="
            ) from error
    if isinstance(names, str) or not isinstance(names, Mapping | Sequence):
        raise UnitlabError(f"names are {names!r}; expected a list of the labels' names, or a mapping from their numbers")
    found = {int(number): str(name) for number, name in (names.items() if isinstance(names, Mapping) else enumerate(names, 1))}
    if not any(found.values()) or min(found) < 0 or max(found) > MOST_LABELS:
        raise UnitlabError(f"names are for the labels {sorted(found)[:8]}; labels go from 1 to {MOST_LABELS}, and one is named")
    return {number: name for number, name in found.items() if number}


def _eight_bits(images: Any, mean: Any, deviation: Any) -> Callable[[str, Array], Array]:
    """From an image's id and pixels to its picture, (row, column, rgb) in 8 bits."""
    known_mean, known_deviation = _normalisation(images)
    mean, deviation = known_mean if mean is None else mean, known_deviation if deviation is None else deviation

    def picture(image: str, pixels: Array) -> Array:
        if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            raise UnitlabError(f"the image {image!r} has shape {pixels.shape}; colours are of one channel, or of three")
        values = pixels * np.reshape(deviation, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
        if values.min() < -0.02 or values.max() > 1.02:
            raise UnitlabError(
                f"the image {image!r} has values from {values.min():.2f} to {values.max():.2f} where mean {tuple(mean)} and "
                f"deviation {tuple(deviation)} are undone, not from 0 to 1; give mean= and deviation= as the transform has them"
            )
        eight = (values.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
        return np.broadcast_to(eight, (*eight.shape[:2], 3))

    return picture


def _normalisation(images: Any) -> tuple[Sequence[float], Sequence[float]]:
    """What the transform of images takes off, and divides by."""
    name = images if isinstance(images, str) else getattr(images, "name", "")
    if isinstance(images, str) or (
        name in IMAGE_SETS and str(getattr(images, "transform_text", "")).startswith("(pixels / 255 - ")
    ):
        found = bundled_images(name)
        return found.mean, found.deviation
    return _of_transform(getattr(images, "transform", None)) or ((0.0,), (1.0,))


def _of_transform(transform: Any) -> tuple[Sequence[float], Sequence[float]] | None:
    mean, deviation = getattr(transform, "mean", None), getattr(transform, "std", None)
    if mean is not None and deviation is not None and not callable(mean):
        return np.ravel(mean).tolist(), np.ravel(deviation).tolist()
    inner = getattr(transform, "transforms", None) or ()
    return next((found for part in inner if (found := _of_transform(part)) is not None), None)
