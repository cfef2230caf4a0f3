"""Maps of units brought to the size of label images, as either version of Network Dissection does it."""

from __future__ import annotations

import torch
from torch import Tensor

from unitlab.compute.engine.maps.receptive_field import ReceptiveField

Size = tuple[int, int]


def map_positions(field: ReceptiveField | None, axis: int, source: int, target: int, pixels: int, procedure: str) -> Tensor:
    """Where the positions of a map lie among the labels, along rows (``axis`` 0) or columns, (source,).

    A label is read at every (``pixels`` / ``target``)-th pixel, from the first one. Without a field the map fills the image.
    """
    index = torch.arange(source, dtype=torch.float64)
    if field is None:
        return (index + 0.5) * target / source - 0.5
    offset, size, step = field.offset[axis], field.size[axis], field.step[axis]
    if procedure == "2020":
        # the first pixel lies on the first label, the last one on the last
        return (offset + (size - 1) / 2 + index * step) * (target - 1) / max(pixels - 1, 1)
    reduction = round(pixels / target)
    if reduction and step % reduction == 0:
        # in whole labels, as the program has it
        return (size // 2 + offset) // reduction + index * (step // reduction)
    return (size // 2 + offset + index * step) / (reduction or pixels / target)


def bilinear_weights(positions: Tensor, target: int, procedure: str) -> Tensor:
    """Weights (target, source) of a map's positions for each label; beyond the outer positions the map goes on as it ends
    (2017) or falls to zero within one step (2020)."""
    n = len(positions)
    if n == 1:
        return torch.ones(target, 1, dtype=positions.dtype)
    # in steps of the map, whose positions are evenly spaced
    place = (torch.arange(target, dtype=positions.dtype) - positions[0]) / (positions[1] - positions[0])
    if procedure == "2017":
        place = place.clamp(0, n - 1)
    return (1 - (place[:, None] - torch.arange(n, dtype=positions.dtype)).abs()).clamp(min=0)


class Upsampling:
    """Maps (image, unit, row, column) at the size of label images."""

    def __init__(self, procedure: str, field: ReceptiveField | None, pixels: Size, device: torch.device) -> None:
        self.procedure, self.field, self.pixels, self.device = procedure, field, pixels, device
        self._weights: dict[tuple[Size, Size, torch.dtype], list[Tensor]] = {}

    def __call__(self, maps: Tensor, target: Size) -> Tensor:
        source = (maps.shape[2], maps.shape[3])
        key = (source, target, maps.dtype)
        if key not in self._weights:
            self._weights[key] = [
                bilinear_weights(
                    map_positions(self.field, axis, source[axis], target[axis], self.pixels[axis], self.procedure),
                    target[axis],
                    self.procedure,
                ).to(self.device, maps.dtype)
                for axis in range(2)
            ]
        rows, columns = self._weights[key]
        return rows @ maps @ columns.T
