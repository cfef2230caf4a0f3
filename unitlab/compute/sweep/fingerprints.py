"""What tells networks and images apart, as a study and an unfinished sweep remember them; the texts must never change."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unitlab.compute.engine.user_network.outputs import Output, as_returned
from unitlab.compute.engine.user_network.working_copy import unwrapped
from unitlab.compute.images.decoded import DeviceTransform
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.request import SweepRequest
from unitlab.errors import UnitlabError
from unitlab.store.shards import unfinished_fingerprint
from unitlab.store.study import open_study, study_summary

SAMPLED_IMAGES = 8


def text_fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the state dict: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(unwrapped(model).state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def few_positions(source: ImageSource) -> np.ndarray:
    """Positions of a few images, spread over all, the first one among them."""
    return np.unique(np.linspace(0, len(source) - 1, SAMPLED_IMAGES).astype(int))


def sampled_images(source: ImageSource) -> Tensor:
    """The images at `few_positions`."""
    return source.at(few_positions(source))


def source_fingerprints(source: ImageSource, few: Tensor) -> dict[str, str]:
    """Of ids, labels and categories, and of the pixels of `sampled_images`.

    The pixels, so that changed pictures or transforms are noticed before a sweep, not after it. Those of a `DeviceTransform`,
    whose last digits are the processor's, by what they are made of.
    """
    # the text of (ids, categories, shape), id by id: all at once it would be as large as the ids again
    digest = hashlib.sha256(b"([")
    for number, name in enumerate(source.ids):
        digest.update(f"{', ' if number else ''}{name!r}".encode())
    digest.update(f"], {list(source.categories)!r}, {tuple(few.shape[1:])!r})".encode())
    digest.update(np.ascontiguousarray(source.labels, dtype=np.int64).tobytes())
    pixels = few.contiguous().numpy()
    if isinstance(source.transform, DeviceTransform):
        pixels = next(source.stream([few_positions(source)])).hashes
    return {"images": digest.hexdigest(), "pixels": hashlib.sha256(pixels.tobytes()).hexdigest()}


def as_in_study(source: ImageSource, attrs: Mapping[str, Any], where: object = "the study") -> ImageSource:
    """The images by the rules of a study; ``attrs`` are its attributes, or the fingerprint of an unfinished sweep.

    Raises
    ------
    UnitlabError
        Classes whose numbers were sorted as text there.
    """
    there = {name.removeprefix("fingerprint_"): value for name, value in attrs.items()}
    if "images" in there and "reading" not in there and source.reading:
        source = source.as_before()
    text_order = sorted(source.categories)
    if text_order != list(source.categories) and all(name.isdecimal() for name in text_order):
        place = np.array([text_order.index(name) for name in source.categories])
        as_text = replace(source, categories=text_order, labels=place[source.labels])
        if source_fingerprints(as_text, sampled_images(as_text))["images"] == there.get("images"):
            raise UnitlabError(
                f"{where} has its numbered classes sorted as text, and the images at hand have them sorted as numbers; where "
                f"the network's logits are in the text's order, give unitlab.images(..., categories={text_order})"
            )
    return source


def unit_dim_field(dims: Sequence[int]) -> dict[str, str]:
    """Field of a fingerprint; none where units are channels, as they all were before there was one."""
    return {"unit_dim": ", ".join(map(str, dims))} if set(dims) != {1} else {}


def request_in_store(request: SweepRequest, store: str | Path | None) -> SweepRequest:
    """The request with what it leaves open as the study, finished or not, that is in a store has it."""
    return top_k_in_store(unit_dim_in_store(output_in_store(request, store), store), store)


def unit_dim_in_store(request: SweepRequest, store: str | Path | None) -> SweepRequest:
    """A request that leaves the units' dimension open, by what a study, finished or not, has in a store.

    Studies that say nothing of it were computed with units in dimension 1.
    """
    if store is None or request.unit_dim is not None:
        return request
    if Path(store).exists():
        layers = study_summary(store).layers
        asked = {name: open_study(store, name, layers[name][0]).attrs for name in layers if layers[name]}
        return replace(request, unit_dim={name: unit_dim_of(attrs) for name, attrs in asked.items()} or None)
    unfinished = unfinished_fingerprint(store)
    return replace(request, unit_dim=1) if unfinished and "unit_dim" not in unfinished else request


def unit_dim_of(attrs: Mapping[str, Any]) -> int:
    """The dimension along which a study's units are."""
    return int(attrs.get("unit_dim", 1))


def as_in_store(source: ImageSource, store: str | Path | None) -> ImageSource:
    """`as_in_study` of the study, finished or not, that is in a store; the images as they are where there is none."""
    return source if store is None else as_in_study(source, _said_by(store), store)


def _said_by(store: str | Path) -> Mapping[str, Any]:
    """The attributes of the study in a store, or the fingerprint of the unfinished one beside it."""
    return study_summary(store).attrs if Path(store).exists() else unfinished_fingerprint(store)


def output_in_store(request: SweepRequest, store: str | Path | None) -> SweepRequest:
    """The request, by the rules of the study, finished or not, that is in a store."""
    there = {} if store is None else {name.removeprefix("fingerprint_") for name in _said_by(store)}
    older = request.output is None and "images" in there and "output" not in there
    return replace(request, output=as_returned) if older else request


def top_k_in_store(request: SweepRequest, store: str | Path | None) -> SweepRequest:
    """A request that leaves ``top_k`` open, by what the study, finished or not, in a store has: older ones have none."""
    if store is None or request.top_k is not None:
        return request
    if Path(store).exists():
        layers = study_summary(store).layers
        there = [open_study(store, name, kinds[0]).attrs for name, kinds in layers.items() if kinds]
        return replace(request, top_k=int(there[0].get("top_k", 0))) if there else request
    known = unfinished_fingerprint(store)
    return replace(request, top_k=int(known.get("top_k", 0))) if known else request


def output_in_study(attrs: Mapping[str, Any]) -> Output:
    """``output`` as it was given for a study.

    Raises
    ------
    UnitlabError
        A function, which a study cannot hold.
    """
    if "output" not in attrs:
        return as_returned
    given = str(attrs.get("output_given", ""))
    if given.startswith("function "):
        raise UnitlabError(f"the study's logits were taken by output={given.split()[1]}, a function; give it again as output=")
    return ast.literal_eval(given) if given else None
