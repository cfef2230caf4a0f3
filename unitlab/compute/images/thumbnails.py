"""Small pictures of images, made from what was read for the network, and how they share one size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unitlab.compute.images.pictures import DEEP, in_8_bits

THUMBNAIL = 64

Shape = tuple[int, int, int]


def small(image: Any) -> np.ndarray | None:
    """RGB thumbnail of at most 64 px: of a picture as it is, of a tensor as `small_tensors`."""
    if isinstance(image, Tensor):
        return small_tensors(image.unsqueeze(0))[0]
    if not isinstance(image, Image.Image):
        return None
    if image.mode in DEEP:
        return small(torch.from_numpy(np.array(image, np.float32))[None])
    picture = in_8_bits(image).convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)


def small_tensors(images: Tensor) -> list[np.ndarray | None]:
    """RGB thumbnails of at most 64 px of tensors (image, channel, row, column), each stretched to its own range."""
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        return [None] * len(images)
    images = images.float()
    # made small first: scaling a picture of the network's input size takes more than twice as long
    shrink = max(images.shape[2:]) / THUMBNAIL
    if shrink > 1:
        size = [max(1, round(side / shrink)) for side in images.shape[2:]]
        images = nn.functional.interpolate(images, size, mode="area")
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    scaled = (images - low).div_((high - low).clamp(min=1e-12)).mul_(255).round_().to(torch.uint8)
    return list(scaled.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy())


def common_shape(shapes: Iterable[Sequence[int]]) -> Shape:
    """Rows, columns and channels that hold thumbnails of these shapes: theirs where they are equal, else a square."""
    found = {tuple(shape) for shape in shapes}
    if len(found) == 1:
        height, width, channels = found.pop()
        return height, width, channels
    return THUMBNAIL, THUMBNAIL, 3


def padded(pictures: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Thumbnails, each in the middle of white of one size; None where there is no thumbnail at all."""
    shapes = [picture.shape for picture in pictures if picture is not None]
    if not shapes:
        return None
    if len(shapes) == len(pictures) and len(set(shapes)) == 1:
        return np.stack([picture for picture in pictures if picture is not None])
    out = np.full((len(pictures), *common_shape(shapes)), 255, np.uint8)
    for place, picture in enumerate(pictures):
        if picture is not None:
            _middle(out[place : place + 1], picture.shape)[0] = picture
    return out


class PaddedThumbnails:
    """Thumbnails of one shard, (image, row, column, channel), padded to a larger size when they are read."""

    def __init__(self, part: Any, shape: Shape) -> None:
        self.part, self.shape, self.dtype = part, (part.shape[0], *shape), part.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = np.asarray(self.part[rows])
        out = np.full((len(found), *self.shape[1:]), 255, np.uint8)
        _middle(out, found.shape[1:])[:] = found
        return out


def _middle(out: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    top, left = (out.shape[1] - shape[0]) // 2, (out.shape[2] - shape[1]) // 2
    return out[:, top : top + shape[0], left : left + shape[1]]
