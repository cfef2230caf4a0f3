"""What a layer's units do on the images: running statistics that are summed by shard and reduced in shard order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unitlab.compute.engine.host_copies import HostCopies, on_device

TOP_IMAGES = 20
BY_IMAGE = ("activation_mean", "activation_max")  # (unit, image): what of a shard grows with its images
TOP = ("top_activation", "top_image", "top_map")  # (unit, top_rank, …)
SUMS = {
    "active": ("unit",), "total": ("unit",), "positions": (), "maximum": ("unit",),
    "by_class": ("category", "unit"), "first_order_by_class": ("category", "unit"), "images_by_class": ("category",),
    "max_probability": ("unit", "category"), "max_sum": ("unit",), "max_square": ("unit",),
    "probability_sum": ("category",), "probability_square": ("category",),
}  # fmt: skip


class ActivationStatistics:
    """Statistics of one layer over one shard (add, add, …, result).

    ``patches`` are rows and columns that the last positions of a sequence are.
    """

    def __init__(self, units: list[int], categories: int, patches: tuple[int, int] | None = None) -> None:
        self.units, self.patches = torch.tensor(units), patches
        sizes = {"unit": len(units), "category": categories}
        self.sums = {name: torch.zeros([sizes[dim] for dim in dims], dtype=torch.float64) for name, dims in SUMS.items()}
        self.sums["maximum"].fill_(-torch.inf)
        self.means: list[Tensor] = []
        self.maxima: list[Tensor] = []
        self.top: tuple[Tensor, Tensor, Tensor] | None = None

    def add(
        self,
        value: Tensor,
        first_order: Tensor | None,
        positions: Tensor,
        labels: Tensor,
        probabilities: Tensor,
        host: HostCopies,
    ) -> None:
        """Take one batch: the site's value (image, unit, …), image positions, labels and class probabilities.

        What is summed is summed once ``host`` delivers it. ``first_order`` is the sum over positions of activation × gradient
        of the label margin, (image, unit).
        """
        if self.units.device != value.device:
            self.units = on_device(self.units, value.device)
        value = value if value.shape[1] == len(self.units) else value[:, self.units]
        flat = value.flatten(2) if value.dim() > 2 else value.unsqueeze(2)
        mean, maximum = flat.mean(2), flat.amax(2)
        self._keep_top(value, maximum, positions)
        if first_order is not None and first_order.shape[1] != len(self.units):
            first_order = first_order[:, self.units]
        known = (mean, maximum, labels, probabilities, *(() if first_order is None else (first_order,)))
        host.then(partial(self._add_on_host, flat.shape[2]), *known)

    def _add_on_host(
        self, size: int, mean: Tensor, maximum: Tensor, labels: Tensor, probabilities: Tensor, first_order: Tensor | None = None
    ) -> None:
        """Sums of a batch whose maps have ``size`` positions."""
        mean, maximum, probabilities = mean.double(), maximum.double(), probabilities.double()
        sums = self.sums
        sums["active"] += (maximum > 0).sum(0)
        sums["total"] += mean.sum(0) * size
        sums["positions"] += len(mean) * size
        sums["maximum"] = torch.maximum(sums["maximum"], maximum.amax(0))
        sums["by_class"].index_add_(0, labels, mean)
        sums["images_by_class"].index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
        if first_order is not None:
            sums["first_order_by_class"].index_add_(0, labels, first_order.double())
        sums["max_probability"] += maximum.t() @ probabilities
        sums["max_sum"] += maximum.sum(0)
        sums["max_square"] += maximum.square().sum(0)
        sums["probability_sum"] += probabilities.sum(0)
        sums["probability_square"] += probabilities.square().sum(0)
        self.means.append(_eight_bits(mean.t()))
        self.maxima.append(_eight_bits(maximum.t()))

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

    def arrays(self) -> dict[str, np.ndarray]:
        """What a shard keeps."""
        assert self.top is not None
        scores, positions, maps = self.top
        means, maxima = torch.cat(self.means, 1), torch.cat(self.maxima, 1)
        found = (means, maxima, scores.float(), positions.int(), maps.half(), *self.sums.values())
        names = (*BY_IMAGE, *TOP, *self.sums)
        return {name: values.numpy() for name, values in zip(names, found, strict=True)}


def _eight_bits(values: Tensor) -> Tensor:
    """float16 rounded to eight significant bits: a third less to store, and finer than any plot or rank needs."""
    # float16 has eleven. Its bits, read as an integer, grow with its size, so that 4 added and the last three bits cleared
    # is the nearest multiple of 8, and where that carries into the exponent it is right, too
    bits = values.half().contiguous().view(torch.int16)
    return ((bits + 4) & ~7).view(torch.float16)


def unit_maps(value: Tensor, patches: tuple[int, int] | None) -> Tensor:
    """Maps (image, unit, row, column); one row for vectors and sequences that are no patches, depth folded into rows."""
    if patches is not None:
        # class and register tokens stand before the patches
        return value[:, :, value.shape[2] - math.prod(patches) :].unflatten(2, patches)
    shape = (1, value.shape[2:].numel()) if value.dim() < 4 else (value.shape[2:-1].numel(), value.shape[-1])
    return value.reshape(*value.shape[:2], *shape)


def reduced_statistics(shards: Iterable[Mapping[str, np.ndarray]], *, first_order: bool) -> dict[str, np.ndarray]:
    """Variables of the level "layer" (see schema.py) from the shards of a sweep, in their order."""
    sums: dict[str, np.ndarray] = {}
    top: tuple[np.ndarray, ...] = ()
    for shard in shards:
        new = {name: np.asarray(shard[name]) for name in SUMS}
        sums = {name: (np.maximum if name == "maximum" else np.add)(sums[name], new[name]) for name in SUMS} if sums else new
        new_top = tuple(np.asarray(shard[name]) for name in TOP)
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


def _correlation(sums: Mapping[str, np.ndarray], count: float) -> np.ndarray:
    """Pearson correlation (unit, category) of spatial maxima and class probabilities; NaN where either is constant."""
    unit_mean, class_mean = sums["max_sum"] / count, sums["probability_sum"] / count
    covariance = sums["max_probability"] / count - unit_mean[:, None] * class_mean[None]
    unit_variance = sums["max_square"] / count - unit_mean**2
    class_variance = sums["probability_square"] / count - class_mean**2
    unit_variance[unit_variance <= 1e-12 * sums["max_square"] / count] = np.nan
    class_variance[class_variance <= 1e-12 * sums["probability_square"] / count] = np.nan
    return np.clip(covariance / np.sqrt(unit_variance[:, None] * class_variance[None]), -1, 1)
