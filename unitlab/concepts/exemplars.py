"""What activates units most, in files that programs read which describe units in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from unitlab.analysis.requirements import class_positions, require
from unitlab.errors import UnitlabError, write_failure
from unitlab.files import folder_whole

Array = np.ndarray[Any, Any]


def write_exemplars(ds: xr.Dataset, folder: str | Path, *, count: int = 15, quantile: float = 0.8) -> Path:
    """Write each unit's top images, with masks of where it is active, for programs that describe units automatically.

    Parameters
    ----------
    ds
        A study with thumbnails; with ``activation_threshold`` (``study.merge(unitlab.dissect(…))``) the masks are where the
        unit exceeds it.
    folder
        Where a folder of the layer's name is written.
    count
        How many images of each unit, at most the 20 that a study keeps.
    quantile
        Without ``activation_threshold``: masks are where the unit exceeds this quantile of its maps on its top images, the only
        ones that a study keeps.

    Returns
    -------
    pathlib.Path
        The layer's folder, in the layout of MILAN (Hernandez et al. 2022) and MAIA (Rott Shaham et al. 2024): ``images.npy``
        (unit, exemplar, rgb, row, column) and ``masks.npy`` (unit, exemplar, 1, row, column) in 8 bits, ``units.npy``,
        ``activations.csv`` (unit × exemplar, spatial max), ``thresholds.csv``; and ``exemplars.json`` with ids, classes,
        activations and names. MILAN's ``TopImagesDataset`` takes ``folder``; MAIA looks for it at ``MODEL/imagenet``.

    Raises
    ------
    UnitlabError
        The study keeps no thumbnails or maps; a count or quantile that is none; a folder that is there already.

    Examples
    --------
    >>> import unitlab
    >>> written = unitlab.concepts.write_exemplars(unitlab.load("vgg_fashion").isel(unit=[3, 5]), "exemplars", count=4)
    >>> sorted(path.name for path in written.iterdir())
    ['activations.csv', 'exemplars.json', 'images.npy', 'masks.npy', 'thresholds.csv', 'units.npy']
    """
    require(ds, ["unit", "category", "image", "label", "top_image", "top_activation", "top_map"], "write_exemplars")
    if "thumbnails" not in ds:
        raise UnitlabError("the study keeps no thumbnails; compute it from images that have them to write its top images")
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise UnitlabError(f"count is {count!r}; expected a whole number of images, 1 or more")
    if isinstance(quantile, bool) or not isinstance(quantile, int | float | np.floating) or not 0 < quantile < 1:
        raise UnitlabError(f"quantile is {quantile!r}; expected a number between 0 and 1, for example 0.8")
    layer = str(ds.attrs.get("layer", "layer"))
    path = Path(folder) / layer
    if path.exists():
        raise UnitlabError(f"{path} is there already; give another folder, or remove it")
    top = ds["top_image"].values
    count = min(int(count), int((top >= 0).sum(1).min()))
    top, maps = top[:, :count], ds["top_map"].values[:, :count].astype(np.float32)
    known = "activation_threshold" in ds
    threshold = ds["activation_threshold"].values if known else np.nanquantile(ds["top_map"].values, quantile, axis=(1, 2, 3))
    used, place = np.unique(top, return_inverse=True)
    pictures = ds["thumbnails"].isel(image=used).values.transpose(0, 3, 1, 2)
    pictures = np.repeat(pictures, 3, 1) if pictures.shape[1] == 1 else pictures
    above = [
        [_resized(one, pictures.shape[2:]) > limit for one in of_unit] for of_unit, limit in zip(maps, threshold, strict=True)
    ]
    try:
        with folder_whole(path) as building:
            np.save(building / "images.npy", pictures[place.reshape(top.shape)])
            np.save(building / "masks.npy", np.array(above, np.uint8)[:, :, None])
            np.save(building / "units.npy", ds["unit"].values.astype(np.int64))
            np.savetxt(building / "activations.csv", ds["top_activation"].values[:, :count].astype(float), "%.7g", ",")
            np.savetxt(building / "thresholds.csv", threshold.astype(float), "%.7g")
            said = _said(
                ds, top, threshold, "activation_threshold" if known else f"quantile {quantile} of the top images' maps"
            )
            (building / "exemplars.json").write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise write_failure(error, path) from error
    return path


def _resized(one: Array, size: tuple[int, ...]) -> Array:
    return np.asarray(Image.fromarray(one).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _said(ds: xr.Dataset, top: Array, threshold: Array, how: str) -> dict[str, Any]:
    """What `exemplars.json` says."""
    ids, names = ds["image"].values, ds["category"].values[class_positions(ds, ds["label"].values)]
    activation = ds["top_activation"].values.astype(float)
    label = ds["unit_label"].values if "unit_label" in ds.variables else [""] * len(top)
    return {
        **{name: str(ds.attrs[name]) for name in ("name", "network", "images", "layer", "site") if name in ds.attrs},
        "masks": f"where the unit's map, interpolated, exceeds its threshold: {how}",
        "units": [
            {
                "unit": int(unit),
                "label": str(label[row]),
                "threshold": float(threshold[row]),
                "exemplars": [
                    {"image": str(ids[image]), "category": str(names[image]), "activation": activation[row, rank]}
                    for rank, image in enumerate(top[row])
                ],
            }
            for row, unit in enumerate(ds["unit"].values)
        ],
    }
