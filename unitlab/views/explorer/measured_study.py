"""What the views read: one layer and ablation of a study with its measures, as arrays that a click can afford."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.attributes import own_attributes
from unitlab.analysis.correlations import measures
from unitlab.analysis.damage import largest_drop
from unitlab.analysis.paired_tests import bonett_price
from unitlab.analysis.requirements import class_positions, require, unit_position
from unitlab.catalog import load
from unitlab.errors import UnitlabError, nearest_names
from unitlab.schema import VARIABLES
from unitlab.views.gallery import own_thresholds
from unitlab.views.words import quantity

Array = np.ndarray[Any, Any]

NEEDED = [
    "unit", "category", "label", "baseline_prediction", "accuracy_drop", "overall_drop", "n_broken", "n_fixed", "n_images",
    "prediction",
]  # fmt: skip
# beyond this many predictions, the tests and the cross-fitting take longer than a reader waits for a first picture
QUICKLY_MEASURED = 4_000_000
UNITS_AT_ONCE = 64


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
    values = {"accuracy_drop": drop, "drop_low": low, "drop_high": high, **largest_drop(drop)}
    values |= {"n_broken": broken, "n_fixed": fixed, "n_images": n}
    values |= {name: ds[name].values for name in ("baseline_accuracy", "overall_drop")}
    stored = [str(name) for name, found in ds.variables.items() if found.dims == ("unit",) and found.dtype.kind == "f"]
    known = [name for name in stored if name in VARIABLES and VARIABLES[name].dims == ("unit",)]
    values.update({name: ds[name].values for name in known if name not in values})
    counted = xr.Dataset(
        {name: xr.Variable(VARIABLES[name].dims, value, fastpath=True) for name, value in values.items()},
        coords={name: ds[name] for name in ("unit", "category", "category_index")},
        attrs=ds.attrs,
    )
    return counted.assign(own_attributes(ds))


class MeasuredStudy:
    """A study's layer and ablation, and the measures of its units.

    ``complete`` says whether tests and cross-fitted drops are there (`finish`), or counts only, which are there at once.
    """

    def __init__(self, ds: xr.Dataset, measures: xr.Dataset | None = None) -> None:
        require(ds, NEEDED, "the explorer")
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
        self.before = class_positions(ds, ds["baseline_prediction"].values)
        self.measures = counted_measures(ds) if measures is None else measures
        self.complete = measures is not None
        self._thresholds: dict[int, float] = {}
        self._threshold_said = ""
        self.awaiting: list[Callable[[], None]] = []  # who is told when `measure_beside` has finished it
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
        self._for_page: tuple[dict[str, Any], dict[str, Any]] | None = None
        found = self.measures
        self.n_images = found["n_images"].values
        # a unit that damages no class has no most damaged one
        self.max_class = np.where(found["max_class_drop"].values > 0, found["max_class"].values, -1)
        self.p_specific = found["p_specific"].values if self.complete else np.full(len(self.units), np.nan)
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

    def for_page(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """`names_for_page` and `measures_for_page`, made once for all explorers."""
        if self._for_page is None:
            self._for_page = self.names_for_page(), self.measures_for_page()
        return self._for_page

    def names_for_page(self) -> dict[str, Any]:
        """What the page keeps of the study: names, and what never changes."""
        awaited = [name for name in VARIABLES if self.is_awaited(name)] if not self.complete else []
        return {
            "key": f"{self.ds.attrs.get('name', '')} {self.layer} {self.ablation} {id(self)}",
            "layer": self.layer,
            "units": self.units.tolist(),
            "classes": self.names,
            "n": self.n_images.tolist(),
            "accuracy": [float(value) if np.isfinite(value) else None for value in self.measures["baseline_accuracy"].values],
            "level": float(self.measures.attrs.get("level", LEVEL)),
            "awaited": {name: quantity(name).title for name in awaited},
            "names": self._names(),
        }

    def _names(self) -> list[Any] | None:
        """For each unit what it is called, how well that fits, and who says so; None where no unit has a name."""
        if "unit_label" not in self.ds.coords:
            return None
        rows = zip(*(self.ds[f"unit_label{end}"].values for end in ("", "_score", "_source")), strict=True)
        return [[str(name), float(score) if np.isfinite(score) else None, str(source)] for name, score, source in rows]

    def measures_for_page(self) -> dict[str, Any]:
        """The measures of all units, (measure, unit) as they are shown, and the drop of each unit's most damaged class."""
        rows, k = np.arange(len(self.units)), np.maximum(self.max_class, 0)
        limits = {
            short: 100 * self.measures[worst].values if worst in self.measures else self.drops[own][rows, k]
            for short, worst, own in (
                ("worst_low", "max_class_drop_low", "drop_low"), ("worst_high", "max_class_drop_high", "drop_high"),
            )
        }  # fmt: skip
        values = [self.values(name) for name in self.variables]
        return {
            "complete": self.complete,
            "measures": [[name, quantity(name).title] for name in self.variables],
            "values": np.asarray(values, "<f4").tobytes(),
            "worst": self.max_class.astype("<i4").tobytes(),
            **{name: np.where(self.max_class >= 0, limit, np.nan).astype("<f4").tobytes() for name, limit in limits.items()},
        }

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

    def strongest_unit(self, category: str = "") -> int:
        """Number of the unit with the largest max class drop, or with the largest drop of ``category``."""
        drops = self.measures["max_class_drop"].values
        if category:
            drops = np.nan_to_num(self.drops["accuracy_drop"][:, self.category_position(category)], nan=-np.inf)
        return int(self.units[drops.argmax()])

    def thresholds(self, places: Sequence[int]) -> tuple[Array, str]:
        """`own_thresholds` of the units at these positions, read once."""
        missing = [place for place in places if place not in self._thresholds]
        if missing:
            values, self._threshold_said = own_thresholds(self.ds, missing)
            self._thresholds.update(zip(missing, values.tolist(), strict=True))
        return np.array([self._thresholds[place] for place in places]), self._threshold_said

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the images."""
        return [str(name) for name in self.ds["image"].values]

    @cached_property
    def lost(self) -> Array:
        """(unit, image / 8): a bit for each image that was right and is wrong without the unit."""
        right, rows = self.before == self.class_position, []
        for start in range(0, len(self.units), UNITS_AT_ONCE):
            after = class_positions(self.ds, self.ds["prediction"][start : start + UNITS_AT_ONCE].values)
            rows.append(np.packbits(right & (after != self.class_position), axis=1))
        return np.concatenate(rows)

    def thumbnails(self, images: Array) -> Array:
        """(image, row, column, channel), 8-bit, of the images at these positions."""
        if "thumbnails" not in self.ds:
            raise UnitlabError("the study keeps no thumbnails; compute it from images that have them to see its images")
        return self.ds["thumbnails"][images.tolist()].values
