"""Names of studies: the bundled ones, those computed on this machine, and recipes for computing them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from unitlab.bundled_images import IMAGE_SETS, bundled_images
from unitlab.errors import UnitlabError, nearest_names
from unitlab.files import bundled_folder, home
from unitlab.recipes import Recipe, known_recipes
from unitlab.recipes.needs import what_is_needed
from unitlab.schema import VARIABLES, variable_attrs
from unitlab.store.arrays import LazyArray, lazy
from unitlab.store.study import check_files, is_address, open_study, study_summary

if TYPE_CHECKING:
    import pandas as pd


STORE = ".zarr"


def stored_studies() -> dict[str, tuple[str, Path]]:
    """Name → (where, path) of every store that a name finds; what was computed here comes before what is bundled."""
    found: dict[str, tuple[str, Path]] = {}
    for where, folder in (("bundled", bundled_folder() / "studies"), ("computed", home() / "studies")):
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix == STORE and path.is_dir():
                    found[path.stem] = (where, path)
    return found


def studies() -> pd.DataFrame:
    """Studies that have a name.

    Returns
    -------
    pandas.DataFrame
        Index ``name``; columns ``network``, ``images``, ``layers``, ``categories``, ``where``: "bundled", "computed",
        "recipe" (known, not computed yet) or "damaged".

    Raises
    ------
    UnitlabError
        A recipe of your own whose file is damaged; the message names the file.

    Examples
    --------
    >>> import unitlab
    >>> "vgg_fashion" in unitlab.studies().index
    True
    """
    import pandas as pd

    rows: dict[str, dict[str, Any]] = {}
    for name, (where, path) in stored_studies().items():
        try:
            found = study_summary(path)
        except UnitlabError:
            rows[name] = {"network": "", "images": "", "layers": "", "categories": 0, "where": "damaged"}
            continue
        rows[name] = {
            "network": found.network,
            "images": f"{found.n_images:,} of {found.images}",
            "layers": ", ".join(found.layers),
            "categories": found.categories,
            "where": where,
        }
    for name, known in known_recipes().items():
        rows.setdefault(
            name,
            {
                "network": known.title,
                "images": known.images.name,
                "layers": ", ".join(known.layers),
                "categories": known.images.categories,
                "where": "recipe",
            },
        )
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["network", "images", "layers", "categories", "where"])
    table.index.name = "name"
    return table.sort_index()


def path_of(name_or_path: str | Path) -> str | Path:
    """Store of a name or path; an address as it is given.

    Raises
    ------
    UnitlabError
        No such study; a known one that is not computed yet, with the command that computes it.
    """
    text = str(name_or_path)
    if is_address(name_or_path):
        return text
    if isinstance(name_or_path, Path) or os.sep in text or text.endswith(STORE) or text.startswith("."):
        return Path(name_or_path).expanduser()
    stores = stored_studies()
    if text in stores:
        return stores[text][1]
    known = known_recipes()
    if text in known:
        found = known[text]
        raise UnitlabError(
            f"the study '{text}' is not computed on this machine yet\n({found.title}, measured on {found.images.name}, at "
            f"{', '.join(found.layers)}). {what_is_needed(found)}"
        )
    raise UnitlabError(f"there is no study '{text}'. {nearest_names(text, [*stores, *known])}")


def load(name_or_path: str | Path, layer: str | None = None, ablation: str = "zero") -> xr.Dataset:
    """Open a study by its name, path or address.

    Parameters
    ----------
    name_or_path
        A name that `studies` lists, the path of a store, or an address of one ("https://…", "s3://…": the extra
        "remote"), of which only what is looked at travels; every file is compared with the store's manifest.
    layer
        Default: the study's own default layer.
    ablation
        "zero", "mean" or "resample", where the study has it.

    Returns
    -------
    xarray.Dataset
        Over ``unit``, ``category``, ``image``, ``top_rank``, read lazily; variables as `unitlab.schema` defines them.

    Raises
    ------
    UnitlabError
        An unknown name (the nearest are suggested), layer or ablation; a store that is corrupt, cut, foreign or newer;
        an address without a study, or no connection to it.

    Examples
    --------
    >>> import unitlab
    >>> ds = unitlab.load("vgg_fashion")
    >>> ds.accuracy_drop.dims
    ('unit', 'category')
    """
    ds = open_study(path_of(name_or_path), layer, ablation)
    images = str(ds.attrs.get("images"))
    if "thumbnails" not in ds and images in IMAGE_SETS:
        pictures = lazy(_BundledThumbnails(images, [str(i) for i in ds.image.values]))
        ds["thumbnails"] = xr.Variable(VARIABLES["thumbnails"].dims, pictures, variable_attrs("thumbnails"))
    return ds


def check(name_or_path: str | Path) -> None:
    """Compare every byte of a study with what was written; raises a `UnitlabError` that names the file."""
    check_files(path_of(name_or_path))


def recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises
    ------
    UnitlabError
        No such recipe.
    """
    known = known_recipes()
    if name not in known:
        raise UnitlabError(f"there is no recipe '{name}' to compute. {nearest_names(name, known)}")
    return known[name]


class _BundledThumbnails(LazyArray):
    """Pictures of a bundled image set for the images of a study, read when asked."""

    def __init__(self, name: str, ids: list[str]) -> None:
        self.name, self.ids = name, ids
        size, channels = (64, 3) if name == "emoji" else (28, 1)
        self.shape, self.dtype = (len(ids), size, size, channels), np.dtype(np.uint8)

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        found = bundled_images(self.name)
        if found.ids != self.ids:
            position = {name: place for place, name in enumerate(found.ids)}
            missing = [name for name in self.ids if name not in position]
            if missing:
                raise UnitlabError(f"the study's image {missing[0]!r} is not in the bundled set '{self.name}'")
            rows = np.array([position[name] for name in self.ids])[key[0]]
        else:
            rows = np.arange(len(self.ids))[key[0]]
        # one axis after the other, from the last: an outer index, as xarray's adapter gives it
        picked = found.pictures[np.atleast_1d(rows)]
        for axis in (3, 2, 1):
            picked = picked[(slice(None),) * axis + (key[axis],)]
        return picked if np.ndim(rows) else picked[0]
