"""What tells networks and images apart, as a study and an unfinished sweep remember them; the texts must never change."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from unitlab.compute.images.source import ImageSource

SAMPLED_IMAGES = 8


def text_fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the state dict: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sampled_images(source: ImageSource) -> Tensor:
    """A few images, spread over all, the first one among them."""
    return source.at(np.unique(np.linspace(0, len(source) - 1, SAMPLED_IMAGES).astype(int)))


def source_fingerprints(source: ImageSource, few: Tensor) -> dict[str, str]:
    """Of ids, labels and categories, and of the pixels of `sampled_images`.

    The pixels, so that changed pictures or transforms are noticed before a sweep, not after it.
    """
    # the text of (ids, categories, shape), id by id: all at once it would be as large as the ids again
    digest = hashlib.sha256(b"([")
    for number, name in enumerate(source.ids):
        digest.update(f"{', ' if number else ''}{name!r}".encode())
    digest.update(f"], {list(source.categories)!r}, {tuple(few.shape[1:])!r})".encode())
    digest.update(np.ascontiguousarray(source.labels, dtype=np.int64).tobytes())
    return {"images": digest.hexdigest(), "pixels": hashlib.sha256(few.contiguous().numpy().tobytes()).hexdigest()}
