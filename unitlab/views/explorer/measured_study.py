"""What the views read: one layer and ablation of a study with its measures, as arrays that a click can afford."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA, LEVEL
from unitlab.analysis.attributes import own_attributes
from unitlab.analysis.correlations import measures
from unitlab.analysis.damage import largest_drop
from unitlab.analysis.paired_tests import bonett_price
from unitlab.analysis.requirements import class_positions, require, unit_position
from unitlab.catalog import load
from unitlab.errors import UnitlabError, nearest_names
from unitlab.schema import VARIABLES
from unitlab.views.words import quantity

Array = np.ndarray[Any, Any]

FEW_IMAGES = 20
# beyond this many predictions, the tests and the cross-fitting take longer than a reader waits for a first picture
QUICKLY_MEASURED = 4_000_000


@dataclass(frozen=True)
class ClassDrops:
    """What a unit's ablation costs every class, in points of 100, over ``category``; ``q`` is NaN while it is computed."""

    drop: Array
    low: Array
    high: Array
    q: Array
    n_images: Array
    n_broken: Array
    n_fixed: Array
    order: Array  # positions of the classes with images, the most damaged first

    @property
    def significant(self) -> Array:
        """Whether q ≤ 0.05."""
        return self.q <= ALPHA


@dataclass(frozen=True)
class TopImages:
    """The images that activate a unit most: positions, ids, class names, activations, maps and, where kept, pixels."""

    image: Array
    ids: list[str]
    names: list[str]
    activation: Array
    maps: Array
    pixels: Array | None


def measures_of(ds: xr.Dataset) -> xr.Dataset:
    """Damage, and the attributes where the study holds what they need."""
    return measures(ds, damage_alone=True)


def measures_of_store(path: str, layer: str, ablation: str) -> xr.Dataset:
    """`measures_of` of a store, for another process."""
    return measures_of(load(path, layer, ablation)).load()


def counted_measures(ds: xr.Dataset) -> xr.Dataset:
    """What counts alone give at once: drops, their largest, intervals where images are independent; stored attributes."""
    drop, n = ds["accuracy_drop"].values, ds["n_images"].values
    broken, fixed = ds["n_broken"].values.astype(np.int64), ds["n_fixed"].values.astype(np.int64)
    low, high = bonett_price(broken, fixed, n, LEVEL)
    if "cluster" in ds:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    values = {
        "accuracy_drop": drop,
        "drop_low": low,
        "drop_high": high,
        "n_broken": broken,
        "n_fixed": fixed,
        "n_images": n,
        "baseline_accuracy": ds["baseline_accuracy"].values,
        "overall_drop": ds["overall_drop"].values,
        **largest_drop(drop),
    }
    stored = [str(name) for name, found in ds.variables.items() if found.dims == ("unit",) and found.dtype.kind == "f"]
    values.update({name: ds[name].values for name in stored if name not in values and name in VARIABLES})
    counted = xr.Dataset(
        {name: (VARIABLES[name].dims, value) for name, value in values.items()},
        coords={name: ds[name] for name in ("unit", "category", "category_index")},
        attrs=ds.attrs,
    )
    return counted.assign(own_attributes(ds))


class MeasuredStudy:
    """A study's layer and ablation, and the measures of its units.

    ``complete`` says whether tests and cross-fitted drops are there (`finish`), or counts only, which are there at once.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        require(
            ds,
            ["unit", "category", "label", "accuracy_drop", "overall_drop", "n_broken", "n_fixed", "n_images", "prediction"],
            "the explorer",
        )
        if not ds.sizes["unit"]:
            raise UnitlabError("the study has no units to explore")
        self.ds = ds
        self.layer = str(ds.attrs.get("layer", ""))
        self.ablation = str(ds.attrs.get("ablation", "zero"))
        self.units = ds["unit"].values.astype(int)
        self.names = [str(name) for name in ds["category"].values]
        self.class_position = class_positions(ds, ds["label"].values)
        self.top_image, self.top_activation = (
            ds[name].values if name in ds else None for name in ("top_image", "top_activation")
        )
        self.measures = counted_measures(ds)
        self.complete = False
        self._read()

    @property
    def is_quick(self) -> bool:
        """Whether measuring takes about a second at most."""
        return self.ds.sizes["unit"] * self.ds.sizes["image"] <= QUICKLY_MEASURED

    def finish(self, measures: xr.Dataset | None = None) -> None:
        """Take ``measures`` (those of `measures_of`; computed here where not given)."""
        self.measures = measures_of(self.ds) if measures is None else measures.assign(own_attributes(self.ds))
        self.complete = True
        self._read()

    def _read(self) -> None:
        found = self.measures
        self.dead = ~(found["fraction_active"].values > 0) if "fraction_active" in found else np.zeros(len(self.units), bool)
        self.n_images = found["n_images"].values
        # a unit that damages no class has no most damaged one
        self.max_class = np.where(found["max_class_drop"].values > 0, found["max_class"].values, -1)
        self.p_specific = found["p_specific"].values if self.complete else np.full(len(self.units), np.nan)
        self.significant = self.p_specific <= ALPHA
        size = self.measures["accuracy_drop"].shape
        self.drops = {
            name: 100 * found[name].values for name in ("accuracy_drop", "drop_low", "drop_high")
        }  # (unit, category), points
        self.q = found["q_value"].values if self.complete else np.full(size, np.nan)
        self.variables = [
            str(name)
            for name, variable in found.data_vars.items()
            if variable.dims == ("unit",) and variable.dtype.kind in "fi" and not str(name).endswith("_class")
        ]

    def is_awaited(self, name: str) -> bool:
        """Whether a variable over units may still come with the measures."""
        row = VARIABLES.get(name)
        coming = row is not None and row.level in ("damage", "attributes") and row.dims == ("unit",)
        return not self.complete and coming and not name.endswith("_class")

    @property
    def default_y(self) -> str:
        """The cross-fitted maximum as soon as it is known."""
        return "max_class_drop_crossfit" if self.complete else "max_class_drop"

    def values(self, name: str) -> Array:
        """(unit,): a variable as it is shown (drops in points)."""
        if name not in self.variables:
            raise UnitlabError(f"the study has no {name!r} of its units")
        return self.measures[name].values.astype(float) * quantity(name).factor

    def position(self, unit: int) -> int:
        """Position of a unit's number along ``unit``."""
        return unit_position(self.ds, int(unit))

    def category_position(self, name: str) -> int:
        """Position of a class."""
        if name not in self.names:
            raise UnitlabError(f"the study has no class {name!r}. {nearest_names(name, self.names)}")
        return self.names.index(name)

    def class_drops(self, unit: int) -> ClassDrops:
        """A unit's row of the unit × class damage."""
        place = self.position(unit)
        drop = self.drops["accuracy_drop"][place]
        some = np.flatnonzero(np.isfinite(drop))
        return ClassDrops(
            drop,
            self.drops["drop_low"][place],
            self.drops["drop_high"][place],
            self.q[place],
            self.n_images,
            self.measures["n_broken"].values[place],
            self.measures["n_fixed"].values[place],
            some[np.argsort(-drop[some], kind="stable")],
        )

    @property
    def worst_unit(self) -> int:
        """Number of the unit with the largest max class drop."""
        return int(self.units[self.measures["max_class_drop"].values.argmax()])

    def worst_class(self, unit: int) -> str:
        """Name of the most damaged class, empty where there is none."""
        position = int(self.max_class[self.position(unit)])
        return self.names[position] if position >= 0 else ""

    def top_images(self, unit: int, count: int = 12) -> TopImages:
        """The first ``count`` top images of a unit, those with an activation above zero.

        Raises
        ------
        UnitlabError
            The study keeps no top images, or cannot be read any more.
        """
        if self.top_image is None or self.top_activation is None or "top_map" not in self.ds:
            raise UnitlabError("the study keeps no top images; unitlab.ablate(model, images, layer) gives a study that does")
        place = self.position(unit)
        image, activation = self.top_image[place, :count], self.top_activation[place, :count].astype(float)
        kept = (image >= 0) & (activation > 0)
        image, activation = image[kept], activation[kept]
        maps = self.ds["top_map"][place].values[:count][kept]
        pixels = self.thumbnails(image) if "thumbnails" in self.ds else None
        return TopImages(
            image,
            [str(name) for name in self.ds["image"].values[image]],
            [self.names[k] for k in self.class_position[image]],
            activation,
            maps,
            pixels,
        )

    def thumbnails(self, images: Array) -> Array:
        """(image, row, column, channel), 8-bit, of the images at these positions."""
        if "thumbnails" not in self.ds:
            raise UnitlabError("the study keeps no thumbnails; compute it from images that have them to see its images")
        return self.ds["thumbnails"][images].values
