"""Pictures that go to the device as they are decoded, in bytes: resized, cropped and normalised there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from unitlab.compute.images.pictures import DEEP, in_8_bits


@dataclass(frozen=True)
class DeviceTransform:
    """A `unitlab.recipes.Transform` by torch instead of Pillow, which rounds to bytes after its resize, from bytes."""

    resize: int | tuple[int, int]
    crop: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation = InterpolationMode.BILINEAR  # no field: studies keep the text of those

    def __call__(self, picture: Any) -> Tensor:
        """Float32 (channel=3, row, column) of a picture of Pillow, on the CPU."""
        return self.finished([self.decoded(picture)])[0]

    def decoded(self, picture: Any) -> Tensor:
        """Bytes of a picture, uint8 (row, column, channel=3): all that is left to the host."""
        if not isinstance(picture, Image.Image) or picture.mode in DEEP:
            given = f"of mode {picture.mode}" if isinstance(picture, Image.Image) else f"a {type(picture).__name__}"
            raise ValueError(f"decode='gpu' takes pictures of 8 or 16 bits, this is {given}; give decode='cpu' and a transform")
        return torch.from_numpy(np.array(in_8_bits(picture).convert("RGB")))

    def finished(self, pictures: Sequence[Tensor]) -> Tensor:
        """Float32 (image, channel=3, row, column) of what `decoded` gives, where it is.

        One by one, so that a picture's pixels do not depend on those beside it.
        """
        size, crop = [self.resize] if isinstance(self.resize, int) else list(self.resize), [self.crop, self.crop]
        floats = [picture.permute(2, 0, 1).float() for picture in pictures]
        resized = [functional.resize(picture, size, self.interpolation, antialias=True) for picture in floats]
        # bicubic overshoots, which bytes cannot hold
        pixels = torch.stack([functional.center_crop(picture.clamp_(0, 255), crop) for picture in resized])
        # numbers, where tensors of them would have to be brought to the device first
        for channel, (mean, deviation) in enumerate(zip(self.mean, self.deviation, strict=True)):
            pixels[:, channel].sub_(255 * mean).div_(255 * deviation)
        return pixels


class BicubicDeviceTransform(DeviceTransform):
    """The same, as some weights of torchvision want it."""

    interpolation = InterpolationMode.BICUBIC


class DecodedImages:
    """The pixels of a batch before they are: pictures of any sizes, and what is done to them on a GPU."""

    is_cuda = False

    def __init__(self, pictures: list[Tensor], transform: Any) -> None:
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, some: slice) -> DecodedImages:
        return DecodedImages(self.pictures[some], self.transform)

    def on(self, device: torch.device) -> Tensor:
        """Float32 (image, channel=3, row, column), after one copy that the host does not wait for."""
        sizes = [picture.numel() for picture in self.pictures]
        pinned = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
        torch.cat([picture.flatten() for picture in self.pictures], out=pinned)
        parts = pinned.to(device, non_blocking=True).split(sizes)
        shapes = [picture.shape for picture in self.pictures]
        return self.transform.finished([part.view(shape) for part, shape in zip(parts, shapes, strict=True)])
