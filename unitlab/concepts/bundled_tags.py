"""Concepts of the bundled images: from their ids, from Unicode's names, and from their pixels."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitlab.bundled_images import BundledImages, bundled_images
from unitlab.concepts.basic_colours import COLOURS, nearest_colours
from unitlab.concepts.image_tags import tags
from unitlab.errors import UnitlabError, nearest_names
from unitlab.files import bundled_folder

Array = np.ndarray[Any, Any]

LEAST_IMAGES = 20  # a keyword of fewer images is left out
ARTISTS = {
    "noto": "google", "noto-v1": "google", "twemoji": "twitter", "fluent": "microsoft", "fluent-flat": "microsoft",
    "fluent-3d": "microsoft", "emojione": "emojione", "fxemoji": "mozilla", "streamline": "streamline",
}  # fmt: skip
# of their drawn pixels 41 % differ from the next by a step of colour too small to be an edge; of the other sets' 17 to 24 %
SHADED = {"fluent", "fluent-3d"}
MAIN_COLOUR = 0.25  # share of the pixels that are not white
GARMENTS = {
    "upper body": ("T-shirt/top", "Pullover", "Coat", "Shirt"), "full length": ("Trouser", "Dress"),
    "footwear": ("Sandal", "Sneaker", "Ankle boot"),
}  # fmt: skip


def bundled(name: str) -> xr.Dataset:
    """Concepts of a bundled image set, of which studies tell no more than the classes.

    Parameters
    ----------
    name
        ``"emoji"``: the artist and the set of drawings, shaded or flat, Unicode's group and subgroup (before small ones were
        merged into classes), emojibase's keywords with 20 images or more, and the main colours: the nearest of eleven basic
        terms in CIELAB for a quarter or more of the pixels that are not white, the ground. ``"fashion_mnist"``: garment groups,
        and as numbers brightness (mean of the pixels, from 0 to 1) and symmetry (correlation with the mirror image).

    Returns
    -------
    xarray.Dataset
        As `unitlab.concepts.tags` gives it.

    Raises
    ------
    UnitlabError
        Another name, or files that are missing or damaged.

    Examples
    --------
    >>> from unitlab import concepts
    >>> concepts.bundled("fashion_mnist").concept.values.tolist()
    ['garment: footwear', 'garment: full length', 'garment: other', 'garment: upper body', 'brightness', 'symmetry']
    """
    if name not in TABLES:
        raise UnitlabError(f"there are no bundled concepts of {name!r}. {nearest_names(name, TABLES)}")
    return _of_set(name).copy()


@lru_cache(maxsize=2)
def _of_set(name: str) -> xr.Dataset:
    return tags(TABLES[name](bundled_images(name)))


def emoji_parts(image: str) -> tuple[str, str]:
    """Set and hexcode in the id of an emoji."""
    found = re.fullmatch(r"[^/]+/(.+?)-([0-9a-f]{4,5}(?:-[0-9a-f]{4,5})*)", image)
    assert found, image
    return found[1], found[2]


def _emoji(images: BundledImages) -> pd.DataFrame:
    sets, codes = zip(*map(emoji_parts, images.ids), strict=True)
    path = bundled_folder() / "images" / "emoji_words.json"
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
        said = [words[code] for code in codes]
    except (OSError, ValueError, KeyError) as error:
        raise UnitlabError(f"the keywords of the emoji in {path} cannot be read ({error!r}); install unitlab again") from error
    table = pd.DataFrame(
        {
            "artist": [ARTISTS[one] for one in sets],
            "set": sets,
            "shaded": [one in SHADED for one in sets],
            "group": [one[0] for one in said],
            "subgroup": [one[1] for one in said],
        },
        index=images.ids,
    )
    shares = colour_shares(images.pixels) >= MAIN_COLOUR
    colours = pd.DataFrame(shares, index=images.ids, columns=[f"colour: {one}" for one in [*COLOURS][:-1]])
    count = Counter(word for one in said for word in set(one[2:]))
    common = sorted(word for word, n in count.items() if n >= LEAST_IMAGES)
    keywords = pd.DataFrame({f"keyword: {word}": [word in one[2:] for one in said] for word in common}, index=images.ids)
    return pd.concat([table, colours, keywords], axis=1)


def _fashion(images: BundledImages) -> pd.DataFrame:
    pixels = images.pixels[..., 0].reshape(len(images.ids), 28, 28) / 255.0
    rest = pixels - pixels.mean((1, 2), keepdims=True)
    group = {garment: name for name, garments in GARMENTS.items() for garment in garments}
    return pd.DataFrame(
        {
            "garment": [group.get(images.categories[label], "other") for label in images.labels],
            "brightness": pixels.mean((1, 2)),
            "symmetry": (rest * rest[:, :, ::-1]).sum((1, 2)) / (rest**2).sum((1, 2)),
        },
        index=images.ids,
    )


def colour_shares(pixels: Array) -> Array:
    """(image, colour): share of the pixels (image, row, column, 3) that are nearest to a colour among those not white."""
    counts = np.empty((len(pixels), len(COLOURS)))
    for image, one in enumerate(pixels):
        counts[image] = np.bincount(nearest_colours(one).ravel(), minlength=len(COLOURS))
    coloured = counts[:, :-1]
    return coloured / np.maximum(coloured.sum(1, keepdims=True), 1)


TABLES = {"emoji": _emoji, "fashion_mnist": _fashion}
