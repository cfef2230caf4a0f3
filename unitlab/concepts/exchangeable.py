"""Which images may change places where chance is asked: whole clusters among their like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitlab.analysis.requirements import class_positions
from unitlab.analysis.specificity import shuffled_blocks

Array = np.ndarray[Any, Any]


class ImageClusters:
    """Clusters of images, or each image alone, and ``kind`` (cluster): two of one kind may change places. They have the same
    size, and ``within_classes`` images of the same classes, which are given by ``position`` (image)."""

    def __init__(self, position: Array, cluster: Array | None, *, within_classes: bool) -> None:
        self.position, n = position, len(position)
        self.of_image = np.unique(np.arange(n) if cluster is None else cluster, return_inverse=True)[1]
        self.size = np.bincount(self.of_image)
        # by cluster, and within a cluster by class: images of exchanged clusters stand for those of their own class
        self.order = np.lexsort((self.position, self.of_image))
        self.start = np.cumsum(self.size) - self.size
        self.kind = np.unique(self.size, return_inverse=True)[1]
        if within_classes:
            classes = np.split(self.position[self.order], self.start[1:])
            self.kind = pd.factorize(pd.Series([tuple(one.tolist()) for one in classes], dtype=object))[0]

    @classmethod
    def of_study(cls, ds: xr.Dataset, *, within_classes: bool) -> ImageClusters:
        """The clusters of a study's images, whose classes are their labels'."""
        cluster = ds["cluster"].values if "cluster" in ds else None
        return cls(class_positions(ds, ds["label"].values), cluster, within_classes=within_classes)

    def shuffled(self, random: np.random.Generator) -> Array:
        """Which image each image stands for."""
        other = shuffled_blocks(self.kind, 1, random)[0]
        cluster = self.of_image[self.order]
        within = np.arange(len(cluster)) - self.start[cluster]
        stands_for = np.empty(len(cluster), np.int64)
        stands_for[self.order] = self.order[self.start[other[cluster]] + within]
        return stands_for
