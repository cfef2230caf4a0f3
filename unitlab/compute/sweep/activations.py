"""What a layer's units do on the images: kept by image, summed in a fixed order once all shards are there."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitlab.compute.engine.host_copies import HostCopies, on_device

TOP_IMAGES = 20
BY_IMAGE = ("activation_mean", "activation_max")  # (unit, image): what of a shard grows with its images
TOP = ("top_activation", "top_image", "top_map")  # (unit, top_rank, …); of a shard where "top_kept" says so, one after another
SUMS = {
    "active": ("unit",), "total": ("unit",), "positions": (), "maximum": ("unit",),
    "by_class": ("category", "unit"), "first_order_by_class": ("category", "unit"), "images_by_class": ("category",),
    "max_probability": ("unit", "category"), "max_sum": ("unit",), "max_square": ("unit",),
    "probability_sum": ("category",), "probability_square": ("category",),
}  # fmt: skip
Best = dict[str, np.ndarray]


class ActivationStatistics:
    """What one shard keeps of a layer's activations: add, add, …, arrays.

    ``patches`` are rows and columns that the last positions of a sequence are.
    """

    def __init__(self, units: list[int], patches: tuple[int, int] | None = None) -> None:
        self.units, self.patches = torch.tensor(units), patches
        self.by_image: dict[str, list[np.ndarray]] = defaultdict(list)
        self.top: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, value: Tensor, first_order: Tensor | None, positions: Tensor, host: HostCopies) -> None:
        """Take one batch: the site's value (image, unit, …) and image positions; what is kept comes once ``host`` delivers it.

        ``first_order`` is the sum over positions of activation × gradient of the label margin, (image, unit).
        """
        if self.units.device != value.device:
            self.units = on_device(self.units, value.device)
        value = value if value.shape[1] == len(self.units) else value[:, self.units]
        flat = value.flatten(2) if value.dim() > 2 else value.unsqueeze(2)
        mean, maximum = flat.mean(2), flat.amax(2)
        self._keep_top(value, maximum, positions)
        if first_order is not None and first_order.shape[1] != len(self.units):
            first_order = first_order[:, self.units]
        host.then(self._keep, mean, maximum, *(() if first_order is None else (first_order,)))

    def _keep(self, mean: Tensor, maximum: Tensor, first_order: Tensor | None = None) -> None:
        if first_order is not None:
            self.by_image["first_order"].append(first_order.numpy())
        for name, values in zip(BY_IMAGE, (mean, maximum), strict=True):
            self.by_image[name].append(values.numpy())

    def _keep_top(self, value: Tensor, maximum: Tensor, positions: Tensor) -> None:
        """Merge the batch into the running top images; earlier images win ties, so the order of adding matters."""
        scores, place = torch.sort(maximum.t(), dim=1, descending=True, stable=True)
        keep = min(TOP_IMAGES, scores.shape[1])
        scores, place = scores[:, :keep], place[:, :keep]
        full = self.top is not None and self.top[0].shape[1] == TOP_IMAGES
        # a GPU would be waited for
        if full and value.device.type == "cpu" and not (scores[:, 0] > self.top[0][:, -1]).any():  # type: ignore[index]
            return
        rows = torch.arange(len(scores), device=value.device).unsqueeze(1)
        found = positions[place]
        maps = unit_maps(value, self.patches).transpose(0, 1)[rows, place]
        if self.top is not None:
            scores = torch.cat([self.top[0], scores], 1)
            found = torch.cat([self.top[1], found], 1)
            maps = torch.cat([self.top[2], maps], 1)
            scores, order = torch.sort(scores, dim=1, descending=True, stable=True)
            scores, order = scores[:, :TOP_IMAGES], order[:, :TOP_IMAGES]
            found, maps = found.gather(1, order), maps[rows, order]
        self.top = (scores, found, maps)

    def end(self, host: HostCopies) -> None:
        """Have the top images come to the host with the rest."""
        assert self.top is not None
        host.then(self._bring_top, *self.top)

    def _bring_top(self, *top: Tensor) -> None:
        self.top = (top[0], top[1], top[2])

    def arrays(self, best: Best) -> dict[str, np.ndarray]:
        """What a shard keeps; ``best`` has the largest activations of those before it, (unit, top_rank), and gets its own.

        Images that are behind twenty of these are left out with their maps, whichever shards those are in: one of the largest
        of all never is. With k shards about 1 + ½ + … + 1/k times those of one are kept.
        """
        assert self.top is not None
        scores, places, maps = (values.numpy() for values in (self.top[0].float(), self.top[1].int(), self.top[2].half()))
        kept = np.ones(scores.shape, bool)
        if best and best["places"].shape[1] == TOP_IMAGES:
            last, at = best["scores"][:, -1:], best["places"][:, -1:]
            kept = (scores > last) | ((scores == last) & (places < at))
        known = [scores, places]
        if best:
            known = [np.concatenate([best["scores"], scores], 1), np.concatenate([best["places"], places], 1)]
        order = np.lexsort((known[1], -known[0]))[:, :TOP_IMAGES]
        best["scores"], best["places"] = (np.take_along_axis(values, order, 1) for values in known)
        by_image = {name: _transposed(np.concatenate(parts)) for name, parts in self.by_image.items()}
        return {**by_image, **dict(zip(TOP, (scores[kept], places[kept], maps[kept]), strict=True)), "top_kept": kept}


def _transposed(values: np.ndarray) -> np.ndarray:
    """In memory, too; torch does it by all threads."""
    return torch.from_numpy(values).t().contiguous().numpy()


def eight_bits(values: np.ndarray) -> np.ndarray:
    """float16 rounded to eight significant bits: a third less to store, and finer than any plot or rank needs."""
    # float16 has eleven. Its bits, read as an integer, grow with its size, so that 4 added and the last three bits cleared
    # is the nearest multiple of 8, and where that carries into the exponent it is right, too
    bits = torch.from_numpy(values).half().view(torch.int16)
    return ((bits + 4) & ~7).view(torch.float16).numpy()


def unit_maps(value: Tensor, patches: tuple[int, int] | None) -> Tensor:
    """Maps (image, unit, row, column); one row for vectors and sequences that are no patches, depth folded into rows."""
    if patches is not None:
        # class and register tokens stand before the patches
        return value[:, :, value.shape[2] - math.prod(patches) :].unflatten(2, patches)
    shape = (1, value.shape[2:].numel()) if value.dim() < 4 else (value.shape[2:-1].numel(), value.shape[-1])
    return value.reshape(*value.shape[:2], *shape)


def reduced_statistics(
    shards: Iterable[Mapping[str, Any]], known: Iterable[tuple[Any, Any]], batch: int, positions: int, *, first_order: bool
) -> dict[str, np.ndarray]:
    """Variables of the level "layer" (see schema.py) from the shards of a sweep, in their order.

    ``known`` has each shard's labels (image) and class probabilities (image, category); images are summed a ``batch`` at a
    time, of maps with so many ``positions``.
    """
    sums: dict[str, np.ndarray] = {}
    top: tuple[np.ndarray, ...] = ()
    for shard, (labels, probabilities) in zip(shards, known, strict=True):
        new = _sums(shard, labels, probabilities, batch, positions)
        sums = {name: (np.maximum if name == "maximum" else np.add)(sums[name], new[name]) for name in SUMS} if sums else new
        new_top = _top(shard)
        top = new_top if not top else tuple(np.concatenate(pair, 1) for pair in zip(top, new_top, strict=True))
        order = np.argsort(-top[0], axis=1, kind="stable")[:, :TOP_IMAGES]
        rows = np.arange(len(order))[:, None]
        top = tuple(part[rows, order] for part in top)
    count = sums["images_by_class"].sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "class_activation": (sums["by_class"] / sums["images_by_class"][:, None]).T.astype(np.float32),
            "class_correlation": _correlation(sums, count).astype(np.float32),
            "mean_activation": (sums["total"] / sums["positions"]).astype(np.float32),
            "max_activation": sums["maximum"].astype(np.float32),
            "fraction_active": (sums["active"] / count).astype(np.float32),
        }
        if first_order:
            by_class = sums["first_order_by_class"] / sums["images_by_class"][:, None]
            found["first_order_margin_drop"] = by_class.T.astype(np.float32)
    missing = TOP_IMAGES - top[0].shape[1]
    pad = ((0, 0), (0, max(0, missing)))
    found["top_activation"] = np.pad(top[0], pad, constant_values=np.nan)
    found["top_image"] = np.pad(top[1], pad, constant_values=-1)
    found["top_map"] = np.pad(top[2], (*pad, (0, 0), (0, 0)), constant_values=np.nan)
    return found


def _sums(shard: Mapping[str, Any], labels: Any, probabilities: Any, batch: int, positions: int) -> dict[str, np.ndarray]:
    """Sums over a shard's images, batch by batch; as it has them, where an older version wrote it."""
    if "by_class" in shard:
        return {name: np.asarray(shard[name]) for name in SUMS}
    names = [name for name in (*BY_IMAGE, "first_order") if name in shard]
    by_image = [np.asarray(shard[name]) for name in names]
    label, probability = torch.as_tensor(np.asarray(labels)).long(), torch.as_tensor(np.asarray(probabilities))
    sizes = {"unit": len(by_image[0]), "category": probability.shape[1]}
    sums = {name: torch.zeros([sizes[dim] for dim in dims], dtype=torch.float64) for name, dims in SUMS.items()}
    sums["maximum"].fill_(-torch.inf)
    for start in range(0, len(label), batch):
        part = slice(start, start + batch)
        mean, maximum, *effect = (torch.from_numpy(np.ascontiguousarray(values[:, part].T)).double() for values in by_image)
        classes, likely = label[part], probability[part].double()
        sums["active"] += (maximum > 0).sum(0)
        sums["total"] += mean.sum(0) * positions
        sums["positions"] += len(mean) * positions
        sums["maximum"] = torch.maximum(sums["maximum"], maximum.amax(0))
        sums["by_class"].index_add_(0, classes, mean)
        sums["images_by_class"].index_add_(0, classes, torch.ones(len(classes), dtype=torch.float64))
        for values in effect:
            sums["first_order_by_class"].index_add_(0, classes, values)
        sums["max_probability"] += maximum.t() @ likely
        sums["max_sum"] += maximum.sum(0)
        sums["max_square"] += maximum.square().sum(0)
        sums["probability_sum"] += likely.sum(0)
        sums["probability_square"] += likely.square().sum(0)
    return {name: values.numpy() for name, values in sums.items()}


def _top(shard: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """A shard's largest activations, their images and maps; −∞ where one is not among the largest of all."""
    found = tuple(np.asarray(shard[name]) for name in TOP)
    if "top_kept" not in shard:  # an older version wrote it
        return found
    kept = np.asarray(shard["top_kept"])
    whole = []
    for values, fill in zip(found, (-np.inf, -1, 0), strict=True):
        whole.append(np.full((*kept.shape, *values.shape[1:]), fill, values.dtype))
        whole[-1][kept] = values
    return tuple(whole)


def _correlation(sums: Mapping[str, np.ndarray], count: float) -> np.ndarray:
    """Pearson correlation (unit, category) of spatial maxima and class probabilities; NaN where either is constant."""
    unit_mean, class_mean = sums["max_sum"] / count, sums["probability_sum"] / count
    covariance = sums["max_probability"] / count - unit_mean[:, None] * class_mean[None]
    unit_variance = sums["max_square"] / count - unit_mean**2
    class_variance = sums["probability_square"] / count - class_mean**2
    unit_variance[unit_variance <= 1e-12 * sums["max_square"] / count] = np.nan
    class_variance[class_variance <= 1e-12 * sums["probability_square"] / count] = np.nan
    return np.clip(covariance / np.sqrt(unit_variance[:, None] * class_variance[None]), -1, 1)
