"""Tags of images: what is said of a picture as a whole, a yes or no or a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitlab.errors import UnitlabError
from unitlab.schema import VARIABLES, described

Array = np.ndarray[Any, Any]


def tags(table: pd.DataFrame) -> xr.Dataset:
    """Concepts of whole images, from a table of one's own.

    Parameters
    ----------
    table
        A row an image, whose id is the index; a column a concept. A column of yes and no (or of 0 and 1) is a concept that an
        image has or has not; one of numbers is a measure, such as brightness; one of texts, such as the artist, becomes a
        concept for every text, ``"artist: noto"``.

    Returns
    -------
    xarray.Dataset
        ``tag`` (image, concept), ``tag_is_number`` (concept), ``n_tagged`` (concept), and the coordinate ``concept_category``:
        what stands before the ``": "`` of a concept, or nothing. What `unitlab.align` takes.

    Raises
    ------
    UnitlabError
        No table, image ids or concepts that occur twice, a value that is missing or infinite, a column that says the same of
        all images.

    Examples
    --------
    >>> import pandas as pd
    >>> from unitlab import concepts
    >>> table = pd.DataFrame({"smiles": [True, False], "artist": ["noto", "twemoji"]}, index=["a.png", "b.png"])
    >>> concepts.tags(table).concept.values.tolist()
    ['smiles', 'artist: noto', 'artist: twemoji']
    """
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise UnitlabError(
            "tags takes a table (pandas.DataFrame) with a row an image, whose id is the index, and a column a concept; given: "
            + (f"an empty one, {table.shape}" if isinstance(table, pd.DataFrame) else type(table).__name__)
        )
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise UnitlabError(f"the table has the image {twice!r} twice; each image has one row, and its id is the index")
    columns = [column for at in range(table.shape[1]) for column in _columns(table.iloc[:, at])]
    named = pd.Index([name for name, _ in columns])
    if not named.is_unique:
        raise UnitlabError(f"the table has the concept {named[named.duplicated()][0]!r} twice; name its columns differently")
    same = [name for name, values in columns if np.ptp(values) == 0]
    if same:
        raise UnitlabError(f"{same[0]!r} is the same for all {len(table)} images, so no unit can answer to it; leave it out")
    tag = np.stack([values for _, values in columns], 1)
    number = ~np.isin(tag, (0, 1)).all(0)
    values = {
        "image": table.index.astype(str).to_numpy(object),
        "concept": named.to_numpy(object),
        "concept_category": np.array([name.partition(": ")[0] if ": " in name else "" for name in named], dtype=object),
        "tag": tag,
        "tag_is_number": number,
        "n_tagged": np.where(number, len(tag), (tag == 1).sum(0)).astype(np.int32),
    }
    return described(VARIABLES, values, {})


def _columns(column: pd.Series) -> list[tuple[str, Array]]:
    """The concepts of a column, with their values (image,)."""
    name = str(column.name)
    if column.isna().any():
        missing = column.index[column.isna()][0]
        raise UnitlabError(f"the column {name!r} has no value for {missing!r}: say of every image whether it has the concept")
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(float)
        if not np.isfinite(values).all():
            raise UnitlabError(f"the column {name!r} has a value that is infinite; a concept is yes or no, or a finite number")
        return [(name, values)]
    texts = column.astype(str)
    return [(f"{name}: {text}", (texts == text).to_numpy(float)) for text in sorted(texts.unique())]
