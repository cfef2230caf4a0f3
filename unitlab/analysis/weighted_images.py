"""Importances and attributes under weights of the images: a bootstrap sample, or one half of the images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.attributes import selectivity
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.splits import halves, measured_elsewhere
from unitlab.analysis.undefined import ratio

Array = np.ndarray[Any, Any]

WEIGHTED = (
    "overall_drop", "max_class_drop", "max_class_drop_crossfit", "class_selectivity", "class_selectivity_max",
    "mean_activation", "fraction_active",
)  # fmt: skip
CROSSFIT_SPLITS = 10


class WeightedImages:
    """The study's images, to be counted with weights; clusters share a weight."""

    def __init__(self, ds: xr.Dataset) -> None:
        self.images = PairedImages(ds, "correlations")
        self.ds = ds
        self.kept: dict[str, Array] = {}

    def bootstrap_weights(self, n: int, random: np.random.Generator) -> Array:
        """(image, sample): how often each image is in a sample, with replacement, of the clusters of each class."""
        cluster = self.images.cluster
        first = np.full(int(cluster.max()) + 1, -1)
        first[cluster[::-1]] = self.images.position[::-1]
        times = np.zeros((len(first), n), np.float32)
        for k in np.unique(first):
            members = np.flatnonzero(first == k)
            times[members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), n).T
        return times[cluster]

    def half(self, random: np.random.Generator) -> Array:
        """(image, 1): 1 for the images of a random half, class by class and cluster by cluster."""
        return halves(self.images.cluster, self.images.position, 1, random).T.astype(np.float32)

    def samples_at_once(self) -> int:
        """Samples that about 200 MB of sums allow."""
        return max(1, (50 << 20) // (self.ds.sizes["unit"] * self.images.n_categories * (CROSSFIT_SPLITS + 1)))

    def values(self, names: Iterable[str], weights: Array, random: np.random.Generator) -> dict[str, Array]:
        """(sample, unit): value of each variable of `WEIGHTED` for every unit, with each column of weights."""
        wanted = set(names)
        found: dict[str, Array] = {}
        n = self._class_sums(np.ones((1, len(weights)), np.float32), weights)[:, 0]
        if wanted & {"overall_drop", "max_class_drop", "max_class_drop_crossfit"}:
            net = self._class_sums(self._flips(), weights)
            found["overall_drop"] = (net.sum(0, dtype=float) / n.sum(0)).T
            found["max_class_drop"] = np.where(n[:, None] > 0, ratio(net, n[:, None]), -np.inf).max(0).T
            if "max_class_drop_crossfit" in wanted:
                found["max_class_drop_crossfit"] = self._crossfit(weights, net, n, random)
        for name, source in (("class_selectivity", "activation_mean"), ("class_selectivity_max", "activation_max")):
            if name in wanted:
                means = ratio(self._class_sums(self._activations(source), weights), n[:, None])
                found[name] = np.stack([selectivity(means[:, :, b].T, n[:, b]) for b in range(n.shape[1])])
        if "mean_activation" in wanted:
            found["mean_activation"] = (self._activations("activation_mean") @ weights / n.sum(0)).T
        if "fraction_active" in wanted:
            active = (self._activations("activation_max") > 0).astype(np.float32)
            found["fraction_active"] = (active @ weights / n.sum(0)).T
        return {name: value for name, value in found.items() if name in wanted}

    def _flips(self) -> Array:
        if "flips" not in self.kept:
            self.kept["flips"] = self.images.flips(slice(0, self.ds.sizes["unit"])).astype(np.float32)
        return self.kept["flips"]

    def _activations(self, name: str) -> Array:
        if name not in self.kept:
            self.kept[name] = self.ds[name].values[:, self.images.order].astype(np.float32)
        return self.kept[name]

    def _class_sums(self, values: Array, weights: Array) -> Array:
        """(category, row of values, sample)."""
        sums = np.zeros((self.images.n_categories, len(values), weights.shape[1]), np.float32)
        for k, some in self.images.class_slices():
            np.matmul(values[:, some], weights[some], out=sums[k])
        return sums

    def _crossfit(self, weights: Array, net: Array, n: Array, random: np.random.Generator) -> Array:
        total, count = np.zeros(net.shape[1:]), np.zeros(net.shape[1:])
        for half in halves(self.images.cluster, self.images.position, CROSSFIT_SPLITS, random):
            in_first = weights * half[:, None]
            first = self._class_sums(self._flips(), in_first)
            n_first = self._class_sums(np.ones((1, len(weights)), np.float32), in_first)
            n_second = n[:, None] - n_first
            valid = (n_first > 0) & (n_second > 0)
            one, other = ratio(first, n_first), ratio(net - first, n_second)
            for here, there in ((one, other), (other, one)):
                value = measured_elsewhere(here, there, valid)
                total += np.nan_to_num(value)
                count += np.isfinite(value)
        return ratio(total, count).T
