"""Importances and attributes of one half of the images, and without each group of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from unitlab.analysis.attributes import selectivity
from unitlab.analysis.discrimination import area_under_roc
from unitlab.analysis.mutual_information import ChanceInformation, activation_bins, plug_in_information
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.splits import halves, measured_elsewhere
from unitlab.analysis.undefined import leading, ratio
from unitlab.progress import shown_progress

Array = np.ndarray[Any, Any]

MEASURED = (
    "overall_drop", "max_class_drop", "max_class_drop_crossfit", "class_selectivity", "class_selectivity_max",
    "mean_activation", "max_activation", "fraction_active", "mutual_information", "top_precision",
)  # fmt: skip
CROSSFIT_SPLITS = 6  # fewer than of the value itself
CELLS_AT_ONCE = 1 << 20  # sums of classes and groups that stay in a processor's cache


class LeftOutImages:
    """Variables of a study measured on some of its images: all of a half, and those less each group in turn.

    ``group`` numbers the groups of images, in the order of ``images``; without, nothing is left out. What is returned has
    (all, then without each group) first, then the unit (and the class).
    """

    def __init__(self, images: PairedImages, group: Array | None = None, seed: int = 0) -> None:
        self.images, self.ds, self.seed = images, images.ds, seed
        self.group = np.zeros(len(images.order), np.int64) if group is None else group
        self.n_groups = 0 if group is None else int(group.max()) + 1
        width = max(self.n_groups, 1)
        self.cell = images.position * width + self.group
        self.by_cell = np.argsort(self.cell, kind="stable")
        self.cells, self.start = np.unique(self.cell[self.by_cell], return_index=True)
        self.shape = (images.n_categories, width)

    @property
    def share(self) -> Array:
        """Share of the images that each group holds."""
        return np.bincount(self.group, minlength=self.n_groups) / len(self.group)

    def half(self, random: np.random.Generator) -> Array:
        """Bool, (image,): in a random half, class by class and cluster by cluster."""
        return halves(self.images.cluster, self.images.position, 1, random)[0]

    def values(self, names: Iterable[str], half: Array | None = None, progress: bool = False) -> dict[str, Array]:
        """Variables of `MEASURED`, (all and without each group, unit), of the images in ``half`` (image,), default all."""
        parts = shown_progress(self._unit_blocks(), "without some of the images", progress, " parts")
        blocks = [self._block(set(names), units, self._mask(half)) for units in parts]
        return {name: np.concatenate([block[name] for block in blocks], 1) for name in blocks[0]}

    def cells_of(self, name: str, half: Array | None = None) -> Array:
        """``accuracy_drop``, ``class_selectivity_by_class`` or ``class_auc``, (all and without each group, unit, class)."""
        mask = self._mask(half)
        return np.concatenate([self._cells(name, units, mask) for units in self._unit_blocks()], 1)

    def _mask(self, half: Array | None) -> Array:
        return np.ones(len(self.group), np.float32) if half is None else half.astype(np.float32)

    def _unit_blocks(self) -> list[slice]:
        n_units, cells = self.ds.sizes["unit"], max(self.shape[0] * self.shape[1], len(self.group) // 4)
        width = max(1, CELLS_AT_ONCE // cells)
        return [slice(start, min(start + width, n_units)) for start in range(0, n_units, width)]

    def _sums(self, values: Array) -> Array:
        """(all and without each group, row, class): sums of values (row, image) over the images of every class."""
        sums = np.zeros((len(values), self.shape[0] * self.shape[1]), np.float32)
        sums[:, self.cells] = np.add.reduceat(values[:, self.by_cell], self.start, axis=1, dtype=np.float32)
        return self._left_out(sums)

    def _left_out(self, sums: Array) -> Array:
        by_group = np.ascontiguousarray(np.moveaxis(sums.reshape(len(sums), *self.shape), 2, 0))
        whole = by_group.sum(0, keepdims=True)
        return np.concatenate([whole, whole - by_group]) if self.n_groups else whole

    def _net(self, units: slice) -> Callable[[Array], Array]:
        """Function that gives `_sums` of the flips with a mask: only images that a unit flips are counted."""
        flips = self.images.flips(units)
        n_units, n_cells = len(flips), self.shape[0] * self.shape[1]
        rows, at = np.nonzero(flips)
        value, cell = flips[rows, at].astype(np.float64), rows * n_cells + self.cell[at]

        def net(mask: Array) -> Array:
            sums = np.bincount(cell, weights=value * mask[at], minlength=n_units * n_cells)
            return self._left_out(sums.astype(np.float32).reshape(n_units, n_cells))

        return net

    def _cells(self, name: str, units: slice, mask: Array) -> Array:
        n = self._sums(mask[None])
        if name == "accuracy_drop":
            return ratio(self._net(units)(mask), n)
        means = ratio(self._sums(self._activations("activation_mean", units) * mask), n)
        if name == "class_selectivity_by_class":
            return np.stack([selectivity(one, of[0], by_class=True) for one, of in zip(means, n, strict=True)])
        kept = [mask > 0, *((mask > 0) & (self.group != one) for one in range(self.n_groups))]
        values = self._activations("activation_mean", units)
        return np.stack([area_under_roc(values[:, some], self.images.position[some], self.shape[0]) for some in kept])

    def _block(self, names: set[str], units: slice, mask: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        n = self._sums(mask[None])
        n_all = n.sum(2)
        if names & {"overall_drop", "max_class_drop", "max_class_drop_crossfit"}:
            net_of = self._net(units)
            net = net_of(mask)
            found["overall_drop"] = ratio(net.sum(2, dtype=float), n_all)
            if "max_class_drop" in names:
                found["max_class_drop"] = leading(ratio(net, n))[0]
            if "max_class_drop_crossfit" in names:
                found["max_class_drop_crossfit"] = self._crossfit(net_of, net, mask, n)
        for name, source in (("class_selectivity", "activation_mean"), ("class_selectivity_max", "activation_max")):
            if name in names:
                means = ratio(self._sums(self._activations(source, units) * mask), n)
                found[name] = np.stack([selectivity(one, of[0]) for one, of in zip(means, n, strict=True)])
        if "mean_activation" in names:
            found["mean_activation"] = ratio(self._sums(self._activations("activation_mean", units) * mask).sum(2), n_all)
        peaks = self._activations("activation_max", units) if names & {"max_activation", "fraction_active"} else None
        if peaks is not None and "fraction_active" in names:
            found["fraction_active"] = ratio(self._sums((peaks > 0) * mask).sum(2), n_all)
        if peaks is not None and "max_activation" in names:
            found["max_activation"] = self._maximum(np.where(mask > 0, peaks, -np.inf))
        if "mutual_information" in names:
            found["mutual_information"] = self._information(units, mask > 0)
        if "top_precision" in names:
            found["top_precision"] = self._top_precision(units, mask > 0)
        return {name: value for name, value in found.items() if name in names}

    def _activations(self, name: str, units: slice) -> Array:
        return self.images.activations(name, units).astype(np.float32)

    def _crossfit(self, net_of: Callable[[Array], Array], net: Array, mask: Array, n: Array) -> Array:
        total, count = np.zeros(net.shape[:2]), np.zeros(net.shape[:2])
        random = np.random.default_rng(self.seed)
        for half in halves(self.images.cluster, self.images.position, CROSSFIT_SPLITS, random):
            n_first, first = self._sums((mask * half)[None]), net_of(mask * half)
            valid = (n_first > 0) & (n > n_first)
            one, other = first / np.maximum(n_first, 1), (net - first) / np.maximum(n - n_first, 1)
            for here, there in ((one, other), (other, one)):
                value = measured_elsewhere(here, there, None if valid.all() else valid, axis=2)
                total += np.nan_to_num(value)
                count += np.isfinite(value)
        return ratio(total, count)

    def _maximum(self, peaks: Array) -> Array:
        order = np.argsort(self.group, kind="stable")
        start = np.searchsorted(self.group[order], np.arange(max(self.n_groups, 1)))
        by_group = np.maximum.reduceat(peaks[:, order], start, axis=1).T
        without = [np.delete(by_group, one, 0).max(0) for one in range(self.n_groups)] if self.n_groups > 1 else []
        return np.stack([by_group.max(0), *without])

    def _information(self, units: slice, some: Array) -> Array:
        """The bins stay those of all these images; what chance gives goes with 1/n."""
        group, label = self.group[some], self.images.position[some]
        cluster = self.images.cluster[some] if self.images.clustered else None
        chance = ChanceInformation(label, cluster)
        n = len(label) / (len(label) - np.bincount(group, minlength=self.n_groups)[: self.n_groups])
        found = []
        for row in self._activations("activation_mean", units)[:, some]:
            bins = activation_bins(row)
            found.append(plug_in_information(bins, label, group, self.n_groups) - chance.of(bins) * np.append(1, n))
        alive = (self._activations("activation_max", units)[:, some] > 0).any(1)
        return np.where(alive, np.stack(found, 1), np.nan)

    def _top_precision(self, units: slice, some: Array) -> Array:
        """Of the images that the study keeps as each unit's top images, those that are not left out."""
        place = np.empty(len(self.group), np.int64)
        place[self.images.order] = np.arange(len(self.group))
        image, activation = (self.ds[name][units].values for name in ("top_image", "top_activation"))
        at = place[np.maximum(image, 0)]
        active = (image >= 0) & (activation > 0) & some[at]
        kept = np.stack([active, *(active & (self.group[at] != one) for one in range(self.n_groups))])
        label = self.images.position[at]
        most = np.max([((label[:, [rank]] == label) & kept).sum(2) for rank in range(label.shape[1])], axis=0)
        return np.where(kept.any(2), ratio(most, kept.sum(2)), np.nan)
