"""From the shards of a sweep to the groups of a study."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitlab.compute.engine.ablation import BatchBaseline
from unitlab.compute.engine.layers import filter_attributes
from unitlab.compute.images.source import ImageSource
from unitlab.compute.images.thumbnails import PaddedThumbnails, common_shape
from unitlab.compute.sweep.activations import reduced_statistics
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.schema import SCHEMA_VERSION

Group = tuple[dict[str, Any], dict[str, Any]]
UNITS_AT_ONCE = 32


class RootShards:
    """What a shard keeps of the images, whatever the layer."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {"label": [], "baseline_prediction": [], "baseline_margin": []}
        self.digest = hashlib.sha256()

    def add(self, batch: Tensor, base: BatchBaseline) -> None:
        self.digest.update(batch.contiguous().numpy().data)
        self.parts["label"].append(base.labels.cpu().numpy())
        self.parts["baseline_prediction"].append(base.prediction.cpu().numpy())
        self.parts["baseline_margin"].append(base.margin.float().cpu().numpy())

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        arrays["content"] = np.frombuffer(self.digest.digest(), np.uint8)
        return arrays


class ShardRows:
    """A (unit, image) variable spread over shards: rows are put together when they are read."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
        self.dtype = parts[0].dtype

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.concatenate([np.asarray(part[rows]) for part in self.parts], axis=-1)


class ShardImages:
    """An (image, …) variable spread over shards: a block of rows is read from those that have it."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        numbers = range(self.shape[0])[rows]
        found = [part[:0] for part in self.parts[:1]]
        for start, part in zip(self.starts, self.parts, strict=False):
            first, last = max(numbers.start - start, 0), min(numbers.stop - start, part.shape[0])
            if first < last:
                found.append(part[int(first) : int(last)])
        return np.concatenate(found)


def root_group(plan: SweepPlan, source: ImageSource, shards: Sequence[Mapping[str, Any]]) -> Group:
    """Variables of the level "study" and the study's attributes."""
    arrays: dict[str, Any] = {
        "category": np.array(plan.categories, dtype=object),
        "category_index": np.arange(len(plan.categories), dtype=np.int32),
        "image": np.array(list(source.ids), dtype=object),
    }
    for name in ("label", "baseline_prediction"):
        arrays[name] = np.concatenate([shard[name] for shard in shards]).astype(np.int32)
    arrays["baseline_margin"] = np.concatenate([shard["baseline_margin"] for shard in shards]).astype(np.float32)
    if source.clusters is not None:
        arrays["cluster"] = np.asarray(source.clusters, dtype=np.int32)
    count = np.bincount(arrays["label"], minlength=len(plan.categories)).astype(np.int32)
    right = arrays["label"] == arrays["baseline_prediction"]
    correct = np.bincount(arrays["label"][right], minlength=len(plan.categories))
    with np.errstate(invalid="ignore"):
        arrays["n_images"], arrays["baseline_accuracy"] = count, correct / count
    if all("thumbnails" in shard for shard in shards):
        parts = [shard["thumbnails"] for shard in shards]
        shape = common_shape(part.shape[1:] for part in parts)
        arrays["thumbnails"] = ShardImages([PaddedThumbnails(part, shape) for part in parts])
    content = hashlib.sha256(b"".join(np.asarray(shard["content"]).tobytes() for shard in shards)).hexdigest()
    attrs = {
        "unitlab_schema": SCHEMA_VERSION,
        "network": type(plan.network.module).__name__,
        "images": source.name,
        "labels": plan.labels,
        "default_layer": plan.sites[-1].layer,
        "baseline_overall_accuracy": float(right.mean()),
        "fingerprint_weights": plan.fingerprint["weights"],
        "fingerprint_images": plan.fingerprint["images"],
        "fingerprint_pixels": plan.fingerprint["pixels"],
        "fingerprint_transform": plan.fingerprint["transform"],
        "fingerprint_labels": plan.fingerprint["labels"],
        "fingerprint_content": content,
        "transform": source.transform_text,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
    }
    return arrays, attrs


def layer_groups(
    plan: SweepPlan, number: int, shards: Sequence[Mapping[str, Any]], root: dict[str, Any]
) -> tuple[Group, Group]:
    """Groups "<layer>" and "<layer>/<ablation>" of one site."""
    site = plan.sites[number]
    own = [
        {name.removeprefix(f"{site.layer}/"): array for name, array in shard.items() if name.startswith(f"{site.layer}/")}
        for shard in shards
    ]
    units = np.array(plan.units[number], dtype=np.int32)
    layer: dict[str, Any] = {"unit": units, **reduced_statistics(own, first_order=plan.first_order)}
    for name in ("activation_mean", "activation_max"):
        layer[name] = ShardRows([shard[name] for shard in own])
    channels = plan.network.site_shape(site)[1]
    filters = filter_attributes(plan.network.graph, site, channels)
    layer.update({name: values[units] for name, values in filters.items()})
    layer_attrs = {"layer": site.layer, "site": site.text, "site_call": site.call, "channels": channels}
    ablation: dict[str, Any] = {
        "unit": units,
        "prediction": ShardRows([shard["prediction"] for shard in own]),
        "label_margin_drop": ShardRows([shard["label_margin_drop"] for shard in own]),
    }
    ablation.update(counts_and_rates(ablation["prediction"], root))
    energy = sum(np.asarray(shard["energy"]) for shard in own)
    ablation["removed_energy"] = sum(np.asarray(shard["removed"]) for shard in own) / max(float(energy), 1e-300)
    basis = plan.bases[number]
    if basis is not None:
        ablation.update(_direction_activations(own, layer), basis=basis.matrix[units])
    engine = plan.engines[number]
    attrs = {
        "ablation": plan.ablation_name,
        **({} if basis is None else {"replacement": plan.ablation}),
        "precision": plan.precision,
        "strategy": engine.strategy,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        **{f"fingerprint_{name}": value for name, value in plan.layer_fingerprint(site).items()},
    }
    return (layer, layer_attrs), (ablation, attrs)


def _direction_activations(shards: Sequence[Mapping[str, Any]], layer: Mapping[str, Any]) -> dict[str, Any]:
    """What the layer's group tells of units, told of directions: they have no filters, and no gradient is kept of them."""
    own = [
        {name.removeprefix("rotated/"): array for name, array in shard.items() if name.startswith("rotated/")}
        for shard in shards
    ]
    found: dict[str, Any] = dict(reduced_statistics(own, first_order=False))
    for name in ("activation_mean", "activation_max"):
        found[name] = ShardRows([shard[name] for shard in own])
    return {**{name: np.full_like(layer[name], np.nan) for name in layer if name != "unit" and name not in found}, **found}


def counts_and_rates(prediction: ShardRows | np.ndarray, root: dict[str, Any]) -> dict[str, np.ndarray]:
    """Exact counts by class, and the rates that follow from them."""
    label, before = root["label"].astype(np.int64), root["baseline_prediction"]
    categories, units = len(root["category"]), prediction.shape[0]
    broken, fixed, predicted = (np.zeros((units, categories), np.int32) for _ in range(3))
    right = label == before
    for start in range(0, units, UNITS_AT_ONCE):
        rows = prediction[start : start + UNITS_AT_ONCE]
        for place, row in enumerate(rows, start):
            after = row == label
            broken[place] = np.bincount(label[right & ~after], minlength=categories)
            fixed[place] = np.bincount(label[~right & after], minlength=categories)
            predicted[place] = np.bincount(row, minlength=categories)
    lost = broken.astype(np.float64) - fixed
    with np.errstate(invalid="ignore", divide="ignore"):
        drop = lost / root["n_images"]
    return {
        "n_broken": broken,
        "n_fixed": fixed,
        "n_predicted": predicted,
        "accuracy_drop": drop,
        "overall_drop": lost.sum(1) / len(label),
    }
