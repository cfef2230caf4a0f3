"""What an ablated unit's output is replaced by: nothing, its mean, or its map on another image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unitlab.errors import UnitlabError, nearest_names

__all__ = ["ABLATIONS", "Replacement", "donor_of_image", "replacement"]

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


def replacement(
    ablation: str,
    images: int,
    seed: int,
    site_values: Callable[[np.ndarray], Iterable[Tensor]],
) -> Replacement:
    """What each unit is replaced by.

    Parameters
    ----------
    ablation
        ``"zero"``, ``"mean"`` (one number per unit, over images and positions) or ``"resample"``.
    images
        How many images there are.
    seed
        Of the choice of donors.
    site_values
        Gives batches of the site's value (image, unit, …) for positions of images.

    Raises
    ------
    UnitlabError
        An unknown kind of ablation, or one image only for resample.
    """
    if ablation not in ABLATIONS:
        raise UnitlabError(f"ablation={ablation!r} is not known. {nearest_names(str(ablation), ABLATIONS)}")
    if ablation == "zero":
        first = next(iter(site_values(np.arange(1))))
        return Replacement(torch.zeros(1, *first.shape[1:2], *[1] * (first.dim() - 2), device=first.device))
    if ablation == "mean":
        total, count, dims = None, 0, 2
        for value in site_values(np.arange(images)):
            flat = value.double().flatten(2) if value.dim() > 2 else value.double().unsqueeze(2)
            part = flat.sum((0, 2))
            total = part if total is None else total + part
            count, dims = count + flat.shape[0] * flat.shape[2], value.dim()
        assert total is not None
        return Replacement((total / count).reshape(1, -1, *[1] * (dims - 2)))
    donors, chosen = donor_of_image(images, seed)
    return Replacement(torch.cat(list(site_values(donors))), chosen)
