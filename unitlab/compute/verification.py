"""The proof that a study carries: a random sample of its pairs, computed again with plain forward hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from unitlab.compute.hooks import recorded_output, replaced_output
from unitlab.compute.images import ImageSource
from unitlab.compute.images import images as image_source
from unitlab.compute.layers import Site
from unitlab.compute.replacements import donor_of_image
from unitlab.compute.working_copy import choose_device, exact_float32, working_copy
from unitlab.errors import UnitlabError

__all__ = ["Proof", "compared_with_hooks", "verify"]

IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Proof:
    """How many (unit, image) pairs were compared, excused (a tie within float noise) and different."""

    compared: int
    excused: int
    different: int
    first_difference: str = ""

    def attrs(self) -> dict[str, Any]:
        """As attributes of the ablation's group."""
        return {
            "verified_compared": self.compared,
            "verified_excused": self.excused,
            "verified_different": self.different,
        }


def verify(
    ds_or_name: xr.Dataset | str | Path,
    model: nn.Module | None = None,
    images: Any = None,
    *,
    sample: int = 2048,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Proof:
    """Compare a random sample of a study's predictions with plain forward hooks on the unmodified network.

    Parameters
    ----------
    ds_or_name
        A study: its name, its path, or the dataset. Of a path or a name, every byte is checked first.
    model, images
        The network and the images; for a study with a recipe they are found by name.
    sample
        How many (unit, image) pairs to compare.
    seed
        Of the sample.
    device
        Where to compute.

    Returns
    -------
    Proof
        ``compared``, ``excused`` (float64 top-two margin under max(1e-4 × the logits' range, 4 × |float32 − float64|)),
        and ``different``.

    Raises
    ------
    UnitlabError
        A corrupt store; no network or images to compare with; a network or images other than the study's.

    Examples
    --------
    >>> import unitlab
    >>> unitlab.verify("alexnet_fashion", sample=64).different
    0
    """
    from unitlab import catalog
    from unitlab.compute.plan import _images_fingerprint, weights_fingerprint

    if isinstance(ds_or_name, xr.Dataset):
        ds = ds_or_name
    else:
        catalog.check(ds_or_name)
        ds = catalog.load(ds_or_name)
    if model is None or images is None:
        from unitlab.compute.recipe_files import RecipeFiles

        files = RecipeFiles(catalog.recipe(str(ds.attrs.get("recipe", ds.attrs.get("name", ds_or_name)))))
        model = files.model() if model is None else model
        images = files.images() if images is None else images
    source = images if isinstance(images, ImageSource) else image_source(images)
    first = next(iter(source.batches(0, 1, 1)))[0]
    for name, now in (
        ("weights", weights_fingerprint(model)),
        ("images", _images_fingerprint(source, tuple(first.shape[1:]))),
    ):
        there = str(ds.attrs.get(f"fingerprint_{name}"))
        if there != now:
            raise UnitlabError(
                f"the study was computed with other {name} (fingerprint {there[:12]}, given {now[:12]}); give the study's own"
            )
    module, _, call = str(ds.attrs["site"]).partition("#")
    site = Site(str(ds.attrs["layer"]), module, int(call or 1) - 1, int(ds.attrs["site_call"]) + 1)
    return compared_with_hooks(
        model, source, site, [[unit] for unit in ds.unit.values.tolist()],
        str(ds.attrs["ablation"]), int(ds.attrs["seed"]), ds.prediction,
        device=choose_device(device), sample=sample, seed=seed,
    )  # fmt: skip


def compared_with_hooks(
    model: nn.Module,
    source: ImageSource,
    site: Site,
    sets: Sequence[Sequence[int]],
    ablation: str,
    ablation_seed: int,
    prediction: Any,
    *,
    device: torch.device,
    sample: int,
    seed: int,
) -> Proof:
    """Compare ``sample`` pairs of ``prediction`` (set, image) with hooks that silence sets of units, in float32 and float64."""
    with exact_float32(), torch.no_grad():
        single = working_copy(model, device)
        double = working_copy(model, device, dtype=torch.float64)
        dtype = next((tensor.dtype for tensor in single.parameters() if tensor.is_floating_point()), torch.float32)
        random = np.random.default_rng(seed)
        pairs = min(sample, len(sets) * len(source))
        flat = np.sort(random.choice(len(sets) * len(source), size=pairs, replace=False))
        images, rows = flat // len(sets), flat % len(sets)
        replacement = _Replacements(single, source, site, ablation, ablation_seed, device, dtype)
        stored = _stored_predictions(prediction, rows, images)
        compared = excused = different = 0
        difference = ""
        for start in range(0, pairs, IMAGES_AT_ONCE):
            part = slice(start, start + IMAGES_AT_ONCE)
            batch = torch.cat([_image(source, int(i)) for i in images[part]]).to(device, dtype)
            ablated = replacement.of(images[part])
            numbers = [sets[row] for row in rows[part]]
            plain = _logits(single, site, batch, ablated, numbers)
            exact = _logits(double, site, batch.double(), ablated.double(), numbers)
            top = exact.topk(2, dim=1)
            margin = top.values[:, 0] - top.values[:, 1]
            spread = exact.amax(1) - exact.amin(1)
            noise = torch.maximum(1e-4 * spread, 4 * (exact - plain.double()).abs().amax(1))
            # of logits that are exactly equal, as when all units are silent, either class is right
            given = torch.as_tensor(stored[part], device=device).unsqueeze(1)
            differs = exact.gather(1, given).squeeze(1) < top.values[:, 0]
            wrong = differs & (margin >= noise)
            compared += len(numbers)
            excused += int((differs & ~wrong).sum())
            different += int(wrong.sum())
            if wrong.any() and not difference:
                place = int(wrong.nonzero()[0])
                difference = f"units {list(numbers[place])}, image {source.ids[int(images[part][place])]!r}"
    return Proof(compared, excused, different, difference)


def _stored_predictions(prediction: Any, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Predictions of the pairs, read unit by unit."""
    found = np.empty(len(rows), np.int64)
    for row in np.unique(rows):
        mine = rows == row
        found[mine] = np.asarray(prediction[int(row) : int(row) + 1])[0][images[mine]]
    return found


def _image(source: ImageSource, position: int) -> Tensor:
    return next(iter(source.batches(position, position + 1, 1)))[0]


def _own_output(model: nn.Module, site: Site, batch: Tensor) -> Tensor:
    with recorded_output(model, site.module, site.call) as recorded:
        model(batch)
    return recorded[0]


def _logits(model: nn.Module, site: Site, batch: Tensor, ablated: Tensor, sets: Sequence[Sequence[int]]) -> Tensor:
    """Logits of each image with the units of its own set replaced."""

    def replace(output: Tensor) -> Tensor:
        out = output.clone()
        for row, units in enumerate(sets):
            out[row, list(units)] = ablated.expand_as(output)[row, list(units)].to(out.dtype)
        return out

    with replaced_output(model, site.module, site.call, replace):
        return model(batch)


class _Replacements:
    """Replacement values computed with plain hooks, apart from the sweep's own."""

    def __init__(
        self,
        model: nn.Module,
        source: ImageSource,
        site: Site,
        ablation: str,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.ablation = ablation
        if ablation == "mean":
            total, count = None, 0
            for batch, _ in source.batches(0, len(source), IMAGES_AT_ONCE):
                value = _own_output(model, site, batch.to(device, dtype)).double()
                axes = (0, *range(2, value.dim()))
                total = value.sum(axes) if total is None else total + value.sum(axes)
                count += value.numel() // value.shape[1]
                dims = value.dim()
            assert total is not None
            self.values = (total / count).reshape(1, -1, *[1] * (dims - 2))
        elif ablation == "resample":
            donors, self.chosen = donor_of_image(len(source), seed)
            outputs = [_own_output(model, site, _image(source, int(i)).to(device, dtype)) for i in donors]
            self.values = torch.cat(outputs)
        else:
            self.values = torch.zeros_like(_own_output(model, site, _image(source, 0).to(device, dtype)))

    def of(self, positions: np.ndarray) -> Tensor:
        """Values for the images at ``positions``, expandable to (image, unit, …)."""
        return self.values[torch.as_tensor(self.chosen[positions])] if self.ablation == "resample" else self.values
