"""What the views read: one layer and ablation of a study with its measures, as arrays that a click can afford."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.attributes import own_attributes
from unitlab.analysis.correlations import chosen, measures
from unitlab.analysis.damage import largest_drop
from unitlab.analysis.paired_tests import bonett_price
from unitlab.analysis.requirements import class_positions, require, unit_position
from unitlab.errors import UnitlabError, nearest_names
from unitlab.schema import VARIABLES
from unitlab.views.gallery import own_thresholds
from unitlab.views.words import quantity

Array = np.ndarray[Any, Any]

NEEDED = [
    "unit", "category", "label", "baseline_prediction", "accuracy_drop", "overall_drop", "n_broken", "n_fixed", "n_images",
    "prediction",
]  # fmt: skip
COUNTED = ("accuracy_drop", "overall_drop", "n_broken", "n_fixed", "n_images", "baseline_accuracy")
DROPS = {"drop": "accuracy_drop", "low": "drop_low", "high": "drop_high"}
OF_THE_CLASS = "accuracy_drop"  # on an axis of the units: the drop of the chosen class
# up to this many predictions, tests and cross-fitting take about a second, as long as a reader waits for a first picture
QUICKLY_MEASURED = 4_000_000
UNITS_AT_ONCE = 64
measures_of = partial(measures, damage_alone=True)  # damage, and the attributes where the study holds what they need


def counted_measures(ds: xr.Dataset) -> xr.Dataset:
    """What counts alone give at once: drops, their largest, intervals where images are independent; stored attributes."""
    broken, fixed = ds["n_broken"].values.astype(np.int64), ds["n_fixed"].values.astype(np.int64)
    low = high = np.full(broken.shape, np.nan)
    if "cluster" not in ds:
        low, high = bonett_price(broken, fixed, ds["n_images"].values, LEVEL)
    stored = [str(name) for name, found in ds.data_vars.items() if found.dims == ("unit",) and found.dtype.kind == "f"]
    known = [name for name in stored if name in VARIABLES and VARIABLES[name].dims == ("unit",)]
    values = {name: ds[name].values for name in (*COUNTED, *known)}
    values |= {"drop_low": low, "drop_high": high, **largest_drop(ds["accuracy_drop"].values)}
    # not asked whether they are arrays of dask, which xarray would import for it
    found = {name: xr.Variable(row.dims, values[name], fastpath=True) for name, row in VARIABLES.items() if name in values}
    about = {name: ds[name].variable for name in ("unit", "category", "category_index")}
    return xr.Dataset(found, about, ds.attrs).assign(own_attributes(ds))


class MeasuredStudy:
    """A study's layer and ablation, and the measures of its units: counts at once, all of them when it is ``complete``.

    The page keeps what it has ``held``, names that never change, and ``measured``; ``drops`` are (unit, category), in points.
    """

    def __init__(self, ds: xr.Dataset, measures: xr.Dataset | None = None) -> None:
        require(ds, NEEDED, "the explorer")
        if not ds.sizes["unit"]:
            raise UnitlabError("the study has no units to explore")
        self.ds = ds
        self.layer, self.ablation = str(ds.attrs.get("layer", "")), str(ds.attrs.get("ablation", "zero"))
        self.units = ds["unit"].values.astype(int)
        self.names, self.ids = ([str(name) for name in ds[of].values] for of in ("category", "image"))
        self.class_position = class_positions(ds, ds["label"].values)
        self.before = class_positions(ds, ds["baseline_prediction"].values)
        self.top_image, self.top_activation = (
            ds[name].values if name in ds else None for name in ("top_image", "top_activation")
        )
        self.is_quick = ds.sizes["unit"] * ds.sizes["image"] <= QUICKLY_MEASURED
        self._thresholds: dict[int, float] = {}
        self._threshold_said = ""
        self.awaiting: list[Callable[[Exception | None], None]] = []  # who is told when `measure_beside` has ended
        self._take(counted_measures(ds) if measures is None else measures, measures is not None)

    def finish(self, measures: xr.Dataset | None = None) -> None:
        """Take ``measures`` (those of `measures_of`; computed here where not given)."""
        self._take(measures_of(self.ds) if measures is None else measures.assign(own_attributes(self.ds)), True)

    def _take(self, found: xr.Dataset, complete: bool) -> None:
        self.measures, self.complete = found, complete
        self.default_y = "max_class_drop_crossfit" if complete else "max_class_drop"
        # a unit that damages no class has no most damaged one
        self.max_class = np.where(found["max_class_drop"].values > 0, found["max_class"].values, -1)
        self.drops = {name: 100 * found[variable].values for name, variable in DROPS.items()}
        self.drops["q"] = found["q_value"].values if complete else np.full(self.drops["drop"].shape, np.nan)
        self.variables = [
            str(name)
            for name, variable in found.data_vars.items()
            if variable.dims == ("unit",) and variable.dtype.kind in "fi" and not str(name).endswith("_class")
        ]
        self.held, self.measured = self._names_for_page(), self._measures_for_page()

    def _names_for_page(self) -> dict[str, Any]:
        accuracy, called = self.measures["baseline_accuracy"].values, None
        if "unit_label" in self.ds.coords:
            # for each unit what it is called, how well that fits, and who says so
            rows = zip(*(self.ds[f"unit_label{end}"].values for end in ("", "_score", "_source")), strict=True)
            called = [[str(name), float(score) if np.isfinite(score) else None, str(source)] for name, score, source in rows]
        return {
            "key": f"{self.ds.attrs.get('name', '')} {self.layer} {self.ablation} {id(self)}",
            "layer": self.layer,
            "units": self.units.tolist(),
            "classes": self.names,
            "n": self.measures["n_images"].values.tolist(),
            "accuracy": [float(value) if np.isfinite(value) else None for value in accuracy],
            "level": float(self.measures.attrs.get("level", LEVEL)),
            "awaited": {name: quantity(name).title for name in VARIABLES if self.is_awaited(name)},
            "names": called,
        }

    def _measures_for_page(self) -> dict[str, Any]:
        worst, at = self.max_class, (np.arange(len(self.units)), np.maximum(self.max_class, 0))
        limits = {}
        for end in ("low", "high"):
            of_worst = self.measures.get(f"max_class_drop_{end}")
            limit = self.drops[end][at] if of_worst is None else 100 * of_worst.values
            limits[f"worst_{end}"] = np.where(worst >= 0, limit, np.nan).astype("<f4").tobytes()
        return {
            "complete": self.complete,
            "measures": [[name, quantity(name).title] for name in self.variables],
            "values": np.asarray([self.values(name) for name in self.variables], "<f4").tobytes(),
            "worst": worst.astype("<i4").tobytes(),
            **limits,
        }

    def is_awaited(self, name: str) -> bool:
        """Whether a variable over units may still come with the measures."""
        row = VARIABLES.get(name)
        coming = row is not None and row.level in ("damage", "attributes") and row.dims == ("unit",)
        return not self.complete and coming and not name.endswith("_class")

    def require_variable(self, name: str) -> None:
        """Refuse what is no variable over units; one that takes long to compute may come later."""
        if name not in self.variables and self.is_quick and not self.complete:
            self.finish()
        if self.complete or not self.is_awaited(name):
            chosen(self.measures, [name], [("unit",)])

    def values(self, name: str, category: str = "") -> Array:
        """(unit,): a variable as it is shown (drops in points), or the drop of a class."""
        if name == OF_THE_CLASS:
            return self.drops["drop"][:, self.category_position(category)]
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
        """Number of the unit whose drop of ``category``, or of its worst class, has the largest lower limit, since the largest
        drop itself is often chance in a class of few images. Of counts alone, and so the same before and after the tests."""
        of = self.ds["cluster"].values if "cluster" in self.ds else np.arange(len(self.ids))  # a cluster counts as one image
        n = np.array([len(np.unique(of[self.class_position == k])) for k in range(len(self.names))])
        share = n / np.maximum(self.measures["n_images"].values, 1)
        broken, fixed = (self.measures[name].values * share for name in ("n_broken", "n_fixed"))
        low, _ = bonett_price(broken, fixed, n, LEVEL)
        of_units = low[:, self.category_position(category)] if category else np.fmax.reduce(low, 1)
        return int(self.units[np.nan_to_num(of_units, nan=-np.inf).argmax()])

    def thresholds(self, places: Sequence[int]) -> tuple[Array, str]:
        """`own_thresholds` of the units at these positions, read once."""
        missing = [place for place in places if place not in self._thresholds]
        if missing:
            values, self._threshold_said = own_thresholds(self.ds, missing)
            self._thresholds.update(zip(missing, values.tolist(), strict=True))
        return np.array([self._thresholds[place] for place in places]), self._threshold_said

    def after(self, units: Any) -> Array:
        """(unit, image), or a part of it: the class that is predicted without the unit."""
        return class_positions(self.ds, self.ds["prediction"][units].values)

    def changed(self, after: Array) -> tuple[Array, Array]:
        """Which images are lost and which are won where their classes are predicted so."""
        right, still = self.before == self.class_position, after == self.class_position
        return right & ~still, ~right & still

    @cached_property
    def lost(self) -> Array:
        """(unit, image / 8): a bit for each image that was right and is wrong without the unit."""
        blocks = (slice(start, start + UNITS_AT_ONCE) for start in range(0, len(self.units), UNITS_AT_ONCE))
        return np.concatenate([np.packbits(self.changed(self.after(block))[0], axis=1) for block in blocks])

    def thumbnails(self, images: Array) -> Array:
        """(image, row, column, channel), 8-bit, of the images at these positions."""
        if "thumbnails" not in self.ds:
            raise UnitlabError("the study keeps no thumbnails; compute it from images that have them to see its images")
        return self.ds["thumbnails"][images.tolist()].values
