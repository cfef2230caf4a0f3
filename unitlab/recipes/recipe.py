"""What a recipe says: a network, its weights, images, transform and layers, in text and numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Weights:
    """A file of trained weights.

    Attributes
    ----------
    address
        A URL; ``torchvision:ENUM.MEMBER``, one of torchvision's weight enums; ``package:PACKAGE/FILE``, a file that an
        installed package carries; or a path.
    sha256
        Hexadecimal digits of the file's SHA-256, all or the first of them; "" where its makers give none.
    within
        Key of the state dict inside the checkpoint; "" where the file is the state dict.
    renamed
        Regular expressions and their replacements, from the file's names of parameters to the network's.
    megabytes
        Size of the file, about.
    """

    address: str
    sha256: str = ""
    within: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    megabytes: int = 0


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes
    ----------
    name
        What they are called.
    address
        URL of an archive, or a folder, or the name of a bundled set; "" where they may not be downloaded.
    digest
        ``md5:…`` or ``sha256:…`` of the archive.
    categories
        How many classes.
    class_names
        In the order of the logits; ``torchvision:ENUM.MEMBER``; or "", the folders' names, sorted.
    folders
        Names of the classes' folders in the order of the logits, where they are not the class names: "wnids" for
        ImageNet's, "" otherwise.
    source
        What to tell somebody who has to get them.
    made_by
        ``module:function``, from a folder and a ``transform`` to the images, where they are not the folder's files.
    """

    name: str
    address: str = ""
    digest: str = ""
    categories: int = 0
    class_names: str | tuple[str, ...] = ""
    folders: str = ""
    source: str = ""
    made_by: str = ""


@dataclass(frozen=True)
class Transform:
    """Resize (the shorter side, or rows and columns), crop the centre, to 0..1, normalise."""

    resize: int | tuple[int, int]
    crop: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION


@dataclass(frozen=True)
class Recipe:
    """How a named study is computed; ``layers[-1]`` is its default layer.

    Attributes
    ----------
    name
        Of the study.
    title
        Of the network.
    network
        ``module:function`` or ``file.py:function`` that builds the network, or the function itself.
    images, weights, transform, layers
        What it is measured on, loaded with, shown, and silenced at. Without weights the function returns a trained
        network. The transform is a `Transform`, ``torchvision:ENUM.MEMBER``, a function as for ``network``, or None.
    options
        Keyword arguments of the function.
    decode
        "cpu", or "gpu": a `Transform`, or that of torchvision's weights, is done by torch where the network is, of bytes.
    """

    name: str
    title: str
    network: str | Callable[..., Any]
    images: Images
    layers: tuple[str, ...]
    weights: Weights | None = None
    transform: Transform | str | Callable[..., Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    decode: str = "cpu"
