"""Photographs cut out with an alpha mask, Tux Paint's stamps, rendered as pictures of ImageNet's classes, and their masks."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.models import ResNet18_Weights
from torchvision.transforms import CenterCrop, Resize

from unitlab.compute.images.source import ImageSource, UnreadableFile
from unitlab.compute.images.transforms import transform_text
from unitlab.errors import UnitlabError

PACKAGE, INSIDE = "tuxpaint-stamps-default", Path("usr/share/tuxpaint/stamps")
RENDERINGS = 8
# rows and columns of a picture, and of the middle that the object stays in: a crop of 224 or 227 cuts nothing off
SIDE, MIDDLE = 256, 224
LEAST, MOST = 112, 208  # longest side of the object
DARKEST, BRIGHTEST, TINT = 70, 220, 20


def stamps(
    folder: str | Path, *, transform: Callable[[Any], Tensor] | None = None, renderings: int = RENDERINGS
) -> ImageSource:
    """Photographs of 150 objects in ImageNet's classes, each rendered several times: another size, place and plain ground.

    Parameters
    ----------
    folder
        ``/usr/share/tuxpaint/stamps`` of Debian's package ``tuxpaint-stamps-default`` (GPL-2), or where ``dpkg -x`` unpacks it.
    transform
        From a PIL picture, 256 × 256, to a float tensor (channel, row, column); default RGB in 0..1. The object is in the
        middle 224 × 224, so that a network's usual crop cuts nothing off.
    renderings
        Pictures of each object; those of one object are one cluster.

    Returns
    -------
    ImageSource
        Ids are ``animals/birds/hen/0`` …; classes are torchvision's names of ImageNet's thousand. What is not drawn and is of
        one of them is here, and what is of the only class of its kind (a Fuji apple counts as Granny Smith); the table that
        says so is ``unitlab/recipes/stamp_classes.txt``.

    Raises
    ------
    UnitlabError
        A folder that lacks a stamp; ``renderings`` that is no positive number.

    Examples
    --------
    >>> import unitlab
    >>> photographs = unitlab.stamps("/usr/share/tuxpaint/stamps")  # doctest: +SKIP
    """
    if isinstance(renderings, bool) or not isinstance(renderings, int) or renderings < 1:
        raise UnitlabError(f"renderings={renderings!r} is no number of pictures of each object; give 1 or more")
    root = _root(folder)
    classes = stamp_classes()
    missing = [name for name in classes if not (root / name).is_file()]
    if missing:
        raise UnitlabError(
            f"{root} lacks {len(missing)} of {len(classes)} stamps, such as {missing[0]}; give the folder /{INSIDE} of "
            f"Debian's package {PACKAGE} (apt install {PACKAGE}, or apt download and dpkg -x)"
        )
    names = list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    labels = np.repeat([names.index(category) for category in classes.values()], renderings).astype(np.int64)
    ids = [f"{name.removesuffix('.png')}/{number}" for name in classes for number in range(renderings)]
    source = ImageSource(
        "Tux Paint stamps", ids,
        labels, names, partial(_read, root, ids),
        transform_text=transform_text(transform), transform=transform, thumbnails=True,
        clusters=np.repeat(np.arange(len(classes)), renderings), threads=min(8, os.cpu_count() or 1),
    )  # fmt: skip
    source.refuse_changing()
    return source


def stamp_classes() -> dict[str, str]:
    """File of a stamp → torchvision's name of its ImageNet class."""
    text = resources.files("unitlab.recipes").joinpath("stamp_classes.txt").read_text(encoding="utf-8")
    return dict(line.split("\t")[:2] for line in text.splitlines())


def stamp_masks(images: ImageSource, folder: str | Path) -> Mapping[str, np.ndarray]:
    """Where the object is in each picture of `stamps`, as the network sees it.

    Parameters
    ----------
    images
        What `stamps` gives; of its transform what resizes and crops is done to the masks, too.
    folder
        As for `stamps`.

    Returns
    -------
    Mapping
        From ids to bool (row, column), made when asked: more than half of the pixel is the object's. It is what
        ``unitlab.concepts.masks`` takes.

    Examples
    --------
    >>> import unitlab
    >>> folder = "/usr/share/tuxpaint/stamps"
    >>> masks = unitlab.stamp_masks(unitlab.stamps(folder), folder)  # doctest: +SKIP
    """
    steps = getattr(images.transform, "transforms", [] if images.transform is None else [images.transform])
    cuts = [step for step in steps if isinstance(step, Resize | CenterCrop)]
    return _Masks(_root(folder), list(images.ids), cuts)


def _root(folder: str | Path) -> Path:
    given = Path(folder).expanduser()
    return given / INSIDE if (given / INSIDE).is_dir() else given


@dataclass(frozen=True)
class _Masks(Mapping[str, np.ndarray]):
    root: Path
    ids: list[str]
    cuts: list[Callable[[Any], Any]]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.ids:
            raise KeyError(name)
        mask = rendered(self.root, name)[1]
        for cut in self.cuts:
            mask = cut(mask)
        return np.asarray(mask) > 127

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def rendered(root: Path, name: str) -> tuple[Image.Image, Image.Image]:
    """A picture (RGB) and its mask (grey: the object's share of a pixel), of the id ``OBJECT/NUMBER``."""
    stamp, _, number = name.rpartition("/")
    try:
        with Image.open(root / f"{stamp}.png") as opened:
            cut_out = opened.convert("RGBA")
    except Exception as error:
        raise UnreadableFile(f"the stamp {root / stamp}.png cannot be read ({error}); install {PACKAGE} again") from error
    cut_out = cut_out.crop(cut_out.getchannel("A").getbbox())
    random = np.random.default_rng([zlib.crc32(stamp.encode()), int(number)])
    scale = random.uniform(LEAST, MOST) / max(cut_out.size)
    width, height = (max(1, round(scale * side)) for side in cut_out.size)
    left, top = ((SIDE - MIDDLE) // 2 + random.integers(0, MIDDLE - side + 1) for side in (width, height))
    ground = random.uniform(DARKEST, BRIGHTEST) + random.uniform(-TINT, TINT, 3)
    # with its transparent pixels' colours weighed by alpha, which Pillow does
    cut_out = cut_out.resize((width, height), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in ground))
    picture.paste(cut_out, (int(left), int(top)), cut_out)
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(cut_out.getchannel("A"), (int(left), int(top)))
    return picture, mask


def _read(root: Path, ids: list[str], position: int) -> Image.Image:
    return rendered(root, ids[position])[0]
