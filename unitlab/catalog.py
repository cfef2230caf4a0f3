"""Names of studies: the bundled ones, those computed on this machine, and recipes for computing them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import xarray as xr

from unitlab.bundled_images import IMAGE_SETS, bundled_images
from unitlab.errors import UnitlabError, nearest_names, units_named
from unitlab.files import bundled_folder, folder_bytes, home
from unitlab.recipes import Recipe, known_recipes
from unitlab.recipes.needs import what_is_needed
from unitlab.recipes.own import of_another_process
from unitlab.schema import VARIABLES, variable_attrs
from unitlab.store.arrays import LazyArray, lazy
from unitlab.store.shards import PARTIAL, unfinished_images
from unitlab.store.study import StudySummary, check_files, is_address, open_group, open_study, study_summary

if TYPE_CHECKING:
    import pandas as pd


STORE = ".zarr"
KINDS = ("zero", "mean", "resample")


def stored_studies() -> dict[str, list[tuple[str, Path]]]:
    """Name → (where, path) of its stores: what was computed here comes before what is bundled."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for where, folder in (("computed", home() / "studies"), ("bundled", bundled_folder() / "studies")):
        if folder.is_dir():
            for path in sorted(folder.glob(f"*{STORE}")):
                if path.is_dir():
                    found.setdefault(path.stem, []).append((where, path))
    return found


def computed_store(name: str, *, units: bool = False, images: bool = False) -> Path:
    """Where the command computes the study of a name; of some units, or of other images than bundled ones, under its own."""
    known = known_recipes().get(name)
    images = images and known is not None and known.images.address in IMAGE_SETS
    return home() / "studies" / f"{name}{'+images' if images else ''}{'+units' if units else ''}{STORE}"


def studies() -> pd.DataFrame:
    """Studies that have a name.

    Returns
    -------
    pandas.DataFrame
        Index ``name``; columns ``network``, ``images``, ``layers``, ``categories``, ``where``: "bundled", "computed",
        "recipe" (known, not computed yet), "unfinished" or "damaged", ``size`` (bytes on disk of what was computed or is
        bundled, unfinished sweeps included) and ``unfinished`` (how many images an interrupted sweep has done).

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
    for name, stores in stored_studies().items():
        where, path = stores[0]
        try:
            found = [study_summary(store) for _, store in stores]
        except UnitlabError:
            rows[name] = {"where": "damaged"}
        else:
            first, layers = found[0], _joined_layers(found)
            rows[name] = {
                "network": first.network,
                "images": f"{first.n_images:,} of {first.images}",
                "layers": ", ".join(_with_units(path, layer) if layer in first.layers else layer for layer in layers),
                "categories": first.categories,
                "where": where,
            }
        rows[name]["size"] = sum(folder_bytes(store) for _, store in stores)
    for folder in sorted((home() / "studies").glob(f"*{STORE}{PARTIAL}")):
        row = rows.setdefault(folder.name.removesuffix(f"{STORE}{PARTIAL}"), {"where": "unfinished"})
        row["size"] = row.get("size", 0) + folder_bytes(folder)
        done, count = unfinished_images(folder.with_name(folder.name.removesuffix(PARTIAL)))
        row["unfinished"] = f"{done:,} of {count:,} images"
    for name, known in known_recipes().items():
        row = rows.setdefault(name, {"where": "recipe"})
        if row["where"] in ("recipe", "unfinished"):
            row |= {"network": known.title, "images": known.images.name, "layers": ", ".join(known.layers)}
            row["categories"] = known.images.categories
    columns = {"network": "", "images": "", "layers": "", "categories": 0, "where": "", "size": 0, "unfinished": ""}
    table = pd.DataFrame.from_dict({name: {**columns, **row} for name, row in rows.items()}, orient="index", columns=[*columns])
    table.index.name = "name"
    return table.sort_index()


def _with_units(path: Path, layer: str) -> str:
    """A layer's name, with how many of its units were ablated where these are not all."""
    group = open_group(path, layer)
    channels = int(group.attrs.get("channels", group.sizes["unit"]))
    return layer if group.sizes["unit"] == channels else f"{layer}: {units_named(group.unit.values, channels)}"


def _joined_layers(stores: Sequence[StudySummary]) -> dict[str, list[str]]:
    """The ablations of each layer over all stores of a name; the last store's layers come first: it is the bundled one."""
    found: dict[str, list[str]] = {}
    for store in reversed(stores):
        for layer, kinds in store.layers.items():
            found[layer] = sorted({*found.get(layer, ()), *kinds}, key=lambda kind: (kind != "zero", kind))
    return found


def stores_of(name_or_path: str | Path) -> list[str | Path]:
    """Stores of a name, in the order in which they are looked through; the one of a path or address as it is given.

    Raises
    ------
    UnitlabError
        No such study; a known one that is not computed yet, with the command that computes it.
    """
    text = str(name_or_path)
    if is_address(name_or_path):
        return [text]
    if isinstance(name_or_path, Path) or os.sep in text or text.endswith(STORE) or text.startswith("."):
        return [Path(name_or_path).expanduser()]
    stores = stored_studies()
    if text in stores:
        return [path for _, path in stores[text]]
    known = known_recipes()
    if text in known:
        found = known[text]
        raise UnitlabError(
            f"the study '{text}' is not computed on this machine yet\n({found.title}, measured on {found.images.name}, at "
            f"{', '.join(found.layers)}). {_computed_in_part(text, stores)}{what_is_needed(found)}"
        )
    raise UnitlabError(f"there is no study '{text}'. {of_another_process(text) or nearest_names(text, [*stores, *known])}")


def path_of(name_or_path: str | Path) -> str | Path:
    """The first of `stores_of`."""
    return stores_of(name_or_path)[0]


def _computed_in_part(name: str, stores: Mapping[str, Any]) -> str:
    """Which studies there are of some units or of other images."""
    parts = [other for other in stores if other.startswith(f"{name}+")]
    return f"Part of it was computed: {', '.join(f'unitlab.load({part!r})' for part in parts)}. " if parts else ""


@overload
def load(name_or_path: str | Path, layer: str | None = None, ablation: str | None = None) -> xr.Dataset: ...


@overload
def load(
    name_or_path: str | Path, layer: list[str] | tuple[str, ...], ablation: str | None = None
) -> dict[str, xr.Dataset]: ...


def load(
    name_or_path: str | Path, layer: str | list[str] | tuple[str, ...] | None = None, ablation: str | None = None
) -> xr.Dataset | dict[str, xr.Dataset]:
    """Open a study by its name, path or address.

    Parameters
    ----------
    name_or_path
        A name that `studies` lists, the path of a store, or an address of one ("https://…", "s3://…": the extra
        "remote"), of which only what is looked at travels; every file is compared with the store's manifest. What is
        computed here comes before what is bundled under the same name. A run of some units is kept apart: "NAME+units".
    layer
        Default: the study's own default layer. Or a list of layers.
    ablation
        "zero", "mean" or "resample", where the study has it. Default "zero", or what there is.

    Returns
    -------
    xarray.Dataset
        Over ``unit``, ``category``, ``image``, ``top_rank``, read lazily; variables as `unitlab.schema` defines them. For a
        list of layers, a dict of datasets by layer. Of a store of `unitlab.ablate_groups` or `unitlab.cumulative`, what that
        call gave.

    Raises
    ------
    UnitlabError
        An unknown name (the nearest are suggested), layer or ablation, with the command that computes it; a store that is
        corrupt, cut, foreign or newer; an address without a study, or no connection to it.

    Examples
    --------
    >>> import unitlab
    >>> ds = unitlab.load("vgg_fashion")
    >>> ds.accuracy_drop.dims
    ('unit', 'category')
    """
    if isinstance(layer, list | tuple):
        return {one: load(name_or_path, one, ablation) for one in layer}
    if layer is not None and not isinstance(layer, str):
        raise UnitlabError(f"layer is {layer!r}; expected the name of a layer, or a list of them")
    paths = stores_of(name_or_path)
    if paths == [name_or_path]:
        # nothing is asked twice of a store at an address; what goes wrong is told below
        with suppress(UnitlabError):
            return with_thumbnails(_opened_as(name_or_path, open_study(paths[0], layer, ablation or "zero")))
    stores = [(path, study_summary(path)) for path in paths]
    layers = _joined_layers([summary for _, summary in stores])
    name = str(name_or_path)
    if not layers and "result" in stores[0][1].attrs:
        return _opened_as(name_or_path, open_study(stores[0][0], layer))
    if layer is not None and layer not in layers:
        raise UnitlabError(
            f"the study {name!r} has no layer {layer!r}. {nearest_names(layer, layers)}{_to_compute(name_or_path, layer)}"
        )
    known = known_recipes().get(name)
    # the recipe's own default, so that a further layer does not take its place; then those of the stores
    order = [*(known.layers[-1:] if known else ()), *(str(found.attrs.get("default_layer")) for _, found in stores), *layers]
    wanted = [layer] if layer is not None else [other for other in order if other in layers]
    kinds = [ablation] if ablation is not None else ["zero", *layers[wanted[0]]]
    for kind in kinds:
        for candidate in wanted:
            for path, summary in stores:
                if kind in summary.layers.get(candidate, ()):
                    ds = _opened_as(name_or_path, open_study(path, candidate, kind))
                    ds.encoding["ablations"] = layers
                    return with_thumbnails(ds)
    raise UnitlabError(
        f"the study {name!r} has no ablation {ablation!r} of {wanted[0]!r}. {nearest_names(str(ablation), layers[wanted[0]])}"
        f"{_to_compute(name_or_path, layer, ablation, default=wanted[0])}"
    )


def _to_compute(name_or_path: str | Path, layer: str | None, ablation: str | None = None, default: str = "") -> str:
    """The command or call that computes what a study does not have, and what there is of it in part."""
    name = str(name_or_path)
    if (ablation is not None and ablation not in KINDS) or is_address(name_or_path):
        return ""
    if name in known_recipes():
        options = "".join(f" --{option} {given}" for option, given in (("layer", layer), ("ablation", ablation)) if given)
        return f" 'unitlab compute {name}{options}' computes it. {_computed_in_part(name, stored_studies())}".rstrip()
    kind = "" if ablation is None else f", ablation={ablation!r}"
    return f" unitlab.ablate(model, images, {layer or default!r}{kind}, store={name!r}) adds it."


def _opened_as(name_or_path: str | Path, ds: xr.Dataset) -> xr.Dataset:
    """The dataset, with what opens the other layers of its study: they may be in other stores of its name."""
    ds.encoding["opened_as"] = name_or_path
    return ds


def with_thumbnails(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with the pictures of a bundled image set, which no study of it keeps."""
    images = str(ds.attrs.get("images"))
    if "thumbnails" in ds or images not in IMAGE_SETS or "image" not in ds:
        return ds
    pictures = lazy(_BundledThumbnails(images, [str(i) for i in ds.image.values]))
    return ds.assign(thumbnails=xr.Variable(VARIABLES["thumbnails"].dims, pictures, variable_attrs("thumbnails")))


def check(name_or_path: str | Path, progress: bool = False) -> None:
    """Compare every byte of a study with what was written; raises a `UnitlabError` that names the file."""
    for path in stores_of(name_or_path):
        check_files(path, progress)


def recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises
    ------
    UnitlabError
        No such recipe.
    """
    known = known_recipes()
    if name not in known:
        raise UnitlabError(f"there is no recipe '{name}' to compute. {of_another_process(name) or nearest_names(name, known)}")
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
