"""A picture as it is meant to be seen: upright, on white, in all of its depth."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

# Studies keep this text: other rules need another text, and studies without one were read by `ImageSource.as_before`.
READING = "upright by EXIF, transparency on white, CMYK by its marker, grey of 16 bits by its depth"
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 258
ENDS, TAIL = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}, 4096  # of JPEG and PNG, by how they begin
DEEP = ("F", "I")  # what has no range of its own


def picture_file(path: Path | str) -> Image.Image:
    """The picture in a file, decoded."""
    with Image.open(path) as picture:
        picture.load()
    return picture


def upright(picture: Image.Image) -> Image.Image:
    """A picture as `READING` says: in RGB, grey of 16 bits as "I;16", floats and grey of 32 bits as they are."""
    kind, info, bits = picture.format, picture.info, getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
    with suppress(Exception):  # a damaged EXIF block says nothing
        if picture.getexif().get(ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM")):
        # Pillow leaves 12 bits as small numbers
        values = np.asarray(picture).astype(np.float64) * (65535 / (2**bits - 1))
        return Image.fromarray(values.round().astype(np.uint16))
    if picture.mode in DEEP or (picture.mode == "RGB" and "transparency" not in info):
        return picture
    if picture.mode == "CMYK" and kind in ("JPEG", "MPO") and "adobe" not in info:
        picture = ImageChops.invert(picture)  # Pillow takes every such file for Adobe's, which are negatives
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def in_8_bits(picture: Image.Image) -> Image.Image:
    """What `upright` gives as transforms expect it: grey of 16 bits in RGB of 8."""
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8)).convert("RGB")


def values(picture: Image.Image) -> Tensor:
    """Values from 0 to 1 of what `upright` gives, float32 (channel=3, row, column)."""
    if picture.mode in DEEP:
        raise ValueError(
            f"it is a picture of {'floats' if picture.mode == 'F' else '32 bits'}, whose range only you know; give for example "
            "transform=lambda picture: torch.from_numpy(np.array(picture, np.float32) / 1000).expand(3, -1, -1)"
        )
    if picture.mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(picture) / np.float32(65535)).expand(3, -1, -1)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def tensor_of(transformed: Any, *, as_read: bool) -> Any:
    """What a transform gave as a tensor, if it is a picture, ``as_read`` by `READING`, or of Hugging Face's processors."""
    if isinstance(transformed, Mapping) and "pixel_values" in transformed:  # a batch of one
        tensor = torch.as_tensor(np.asarray(transformed["pixel_values"]))
        return tensor[0] if tensor.dim() == 4 and len(tensor) == 1 else tensor
    if isinstance(transformed, Image.Image):
        return values(transformed if as_read else transformed.convert("RGB"))
    return transformed


def damage(path: Path | str) -> str:
    """What is wrong with a file by its header and end marker; decoded is only what has no end marker, as after its own end."""
    try:
        with open(path, "rb") as file:
            end = ENDS.get(file.read(2))
            file.seek(-min(TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            whole = end is not None and end in file.read()
        if end is None:
            Image.open(path).close()
        return "" if whole or end is None else decoding_failure(path)
    except Exception as error:
        return str(error)


def decoding_failure(path: Path | str) -> str:
    """Why a file cannot be decoded; "" where it can."""
    found = os.stat(path)
    return _decoding_failure(str(path), found.st_size, found.st_mtime_ns)


@cache
def _decoding_failure(path: str, _size: int, _changed: int) -> str:
    try:
        picture_file(path)
    except Exception as error:
        return str(error)
    return ""
