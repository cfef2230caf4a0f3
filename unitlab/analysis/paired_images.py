"""The images of a study in the order of their classes, and what an ablation changes on each."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.requirements import class_positions, require, require_all_images

Array = np.ndarray[Any, Any]


class PairedImages:
    """Images sorted by class, then cluster; every array over ``image`` here is in that order.

    A block is the part of a cluster that is in one class; without clusters each image is a block. ``flips`` are
    +1 for an image that an ablation breaks, −1 for one that it fixes.
    """

    def __init__(self, ds: xr.Dataset, what: str, *, screened: bool = False) -> None:
        needed = ["category", "unit", "label", "baseline_prediction", "baseline_margin", "prediction"]
        require(ds, needed, what, screened=screened)
        self.ds = ds
        self.n_categories = ds.sizes["category"]
        position = class_positions(ds, ds["label"].values)
        cluster = ds["cluster"].values if "cluster" in ds else np.arange(len(position))
        self.order = np.lexsort((np.arange(len(position)), cluster, position))
        self.in_order = np.array_equal(self.order, np.arange(len(position)))
        self.label = ds["label"].values[self.order]
        self.position = position[self.order]
        self.cluster = np.unique(cluster[self.order], return_inverse=True)[1]
        self.right = (ds["baseline_prediction"].values == ds["label"].values)[self.order]
        self.baseline_margin = ds["baseline_margin"].values[self.order].astype(np.float64)
        self.n_images = np.bincount(position, minlength=self.n_categories)
        require_all_images(ds, self.n_images, what)
        self._find_blocks()
        self.clustered = bool((self.block_size > 1).any()) or len(np.unique(self.cluster)) < len(position)

    def _find_blocks(self) -> None:
        new = np.ones(len(self.order), bool)
        new[1:] = (np.diff(self.position) != 0) | (np.diff(self.cluster) != 0)
        self.block_start = np.flatnonzero(new)
        self.block_size = np.diff(np.append(self.block_start, len(self.order)))
        self.block_position = self.position[self.block_start]

    def only(self, some: Array) -> PairedImages:
        """Those of the images for which ``some``, in the same order, is true; whole clusters."""
        one = copy(self)
        one.order, one.in_order = self.order[some], False
        one.label, one.position, one.cluster = self.label[some], self.position[some], self.cluster[some]
        one.right, one.baseline_margin = self.right[some], self.baseline_margin[some]
        one.n_images = np.bincount(one.position, minlength=one.n_categories)
        one._find_blocks()
        return one

    def of_one_class(self) -> PairedImages:
        """The same images as if all were of one class, in the order of the clusters, which are whole."""
        one = copy(self)
        one.n_categories, one.n_images = 1, np.array([len(self.order)])
        one.position = np.zeros_like(self.position)
        by_cluster = np.argsort(self.cluster, kind="stable")
        one.order, one.in_order = self.order[by_cluster], False
        one.label, one.right, one.cluster = self.label[by_cluster], self.right[by_cluster], self.cluster[by_cluster]
        one.baseline_margin = self.baseline_margin[by_cluster]
        one.block_start = np.flatnonzero(np.diff(one.cluster, prepend=-1))
        one.block_size = np.diff(np.append(one.block_start, len(self.order)))
        one.block_position = np.zeros_like(one.block_start)
        return one

    def class_slices(self) -> list[tuple[int, slice]]:
        """(position of the class, its images) for every class that has any."""
        stop = np.cumsum(self.n_images)
        return [(k, slice(int(stop[k] - n), int(stop[k]))) for k, n in enumerate(self.n_images) if n]

    def flips(self, units: slice | Array) -> Array:
        """Int8, (unit, image)."""
        after = self._ordered("prediction", units) == self.label
        return self.right.astype(np.int8) - after.astype(np.int8)

    def margin_drops(self, units: slice | Array) -> Array:
        """Float64, (unit, image)."""
        return self._ordered("label_margin_drop", units).astype(np.float64)

    def outcome_drops(self, units: slice | Array) -> Array:
        """Float64, (unit, image)."""
        return self._ordered("outcome_drop", units).astype(np.float64)

    def activations(self, name: str, units: slice) -> Array:
        """``activation_mean`` or ``activation_max``, (unit, image)."""
        return self._ordered(name, units)

    def _ordered(self, name: str, units: slice | Array) -> Array:
        # a list: xarray would import dask to ask whether an array is one of dask's
        values = self.ds[name][units if isinstance(units, slice) else units.tolist()].values
        return values if self.in_order else values.take(self.order, axis=1)

    def unit_blocks(self, cells: int) -> list[slice]:
        """Slices of units that have about ``cells`` images (or classes × splits) together."""
        width = max(1, (2 << 20) // max(cells, 1))
        n = self.ds.sizes["unit"]
        return [slice(start, min(start + width, n)) for start in range(0, n, width)]
