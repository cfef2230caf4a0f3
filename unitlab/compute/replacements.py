"""What an ablated unit's output is replaced by: nothing, its mean, or its map on another image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unitlab.errors import UnitlabError

__all__ = ["ABLATIONS", "Replacement", "donor_of_image", "replacement_of"]

ABLATIONS = ("zero", "mean", "resample")
DONORS = 64


@dataclass
class Replacement:
    """``values`` (1 or donor, unit, …) and, for resample, the donor of each image."""

    values: Tensor
    donor: np.ndarray | None = None

    def of(self, positions: np.ndarray, like: Tensor) -> Tensor:
        """Replacement values for the images at ``positions``, expandable to ``like`` (image, unit, …)."""
        if self.donor is None:
            return self.values.to(like)
        return self.values[torch.as_tensor(self.donor[positions], device=self.values.device)].to(like)


def donor_of_image(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the donor images, and for each image the index of its donor, never the image itself."""
    if images < 2:
        raise UnitlabError("ablation='resample' takes a unit's map from another image; give two images or more")
    random = np.random.default_rng(seed)
    donors = np.sort(random.choice(images, size=min(images, DONORS), replace=False))
    chosen = random.integers(len(donors), size=images)
    chosen = np.where(donors[chosen] == np.arange(images), (chosen + 1) % len(donors), chosen)
    return donors, chosen


def replacement_of(ablation: str, shape: tuple[int, ...], images: int, seed: int, values: np.ndarray | None) -> Replacement:
    """What each unit of a site is replaced by.

    Parameters
    ----------
    ablation
        ``"zero"``, ``"mean"`` (one number per unit, over images and positions) or ``"resample"``.
    shape
        Of the site's value for one image, (image=1, unit, …).
    images
        How many images there are.
    seed
        Of the choice of donors.
    values
        For mean (unit), for resample (donor, unit, …).
    """
    flat = (1, -1, *[1] * (len(shape) - 2))
    if ablation == "zero":
        return Replacement(torch.zeros(1, shape[1]).reshape(flat))
    if values is None:
        raise UnitlabError(f"what the units are replaced by is missing for ablation={ablation!r}; run the same again")
    if ablation == "mean":
        return Replacement(torch.from_numpy(values).reshape(flat))
    return Replacement(torch.from_numpy(values), donor_of_image(images, seed)[1])
