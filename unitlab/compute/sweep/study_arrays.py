"""From the shards of a sweep to the groups of a study."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from unitlab.compute.engine.filters import filter_attributes
from unitlab.compute.engine.maps.receptive_field import receptive_field
from unitlab.compute.engine.network import Network
from unitlab.compute.engine.scores import NOT_EVALUATED
from unitlab.compute.images.source import ImageSource
from unitlab.compute.images.thumbnails import PaddedThumbnails, common_shape
from unitlab.compute.sweep.activations import BY_IMAGE, eight_bits, reduced_statistics
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.screening import SAMPLED, Certificate
from unitlab.compute.sweep.shards import Arrays, ImageFacts, ShardResult
from unitlab.schema import SCHEMA_VERSION
from unitlab.schema.stored import why_undefined

Group = tuple[dict[str, Any], dict[str, Any]]
UNITS_AT_ONCE = 32
# of the plan's fingerprint, what holds for the whole study, and what it means where it differs
ROOT_FINGERPRINTS = {
    "weights": "a network with other weights",
    "images": "other images or classes",
    "pixels": "images with other pixels (changed files, or a transform that differs)",
    "transform": "another transform of the images",
    "reading": "images read by other rules (orientation, transparency, depth)",
    "labels": "other labels",
    "output": "logits read in another way from what the network returns (output=)",
}


class UnitRows:
    """A (unit, image) variable whose images are spread over shards: rows are put together when they are read."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
        self.dtype = parts[0].dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.concatenate([np.asarray(part[rows]) for part in self.parts], axis=-1)


class ActivationRows(UnitRows):
    """Activations (unit, image) as a study keeps them: in eight bits."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__(parts)
        self.dtype = np.dtype(np.float16)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return eight_bits(super().__getitem__(rows))


class ImageRows:
    """An (image, …) variable spread over shards: a block of rows is read from those that have it."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(part.shape[0] for part in parts)]).tolist()
        self.shape = (self.starts[-1], *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        return np.concatenate(
            [
                part[max(first - start, 0) : last - start]
                for part, start, stop in zip(self.parts, self.starts, self.starts[1:], strict=False)
                if start < last and first < stop
            ]
        )


def root_group(plan: SweepPlan, source: ImageSource, facts: Sequence[ImageFacts]) -> Group:
    """Variables of the level "study" and the study's attributes."""
    arrays: dict[str, Any] = {
        "category": np.array(plan.categories, dtype=object),
        "category_index": np.arange(len(plan.categories), dtype=np.int32),
        "image": np.array(list(source.ids), dtype=object),
    }
    arrays["label"] = np.concatenate([part.label for part in facts]).astype(np.int32)
    arrays["baseline_prediction"] = np.concatenate([part.baseline_prediction for part in facts]).astype(np.int32)
    arrays["baseline_margin"] = np.concatenate([part.baseline_margin for part in facts]).astype(np.float32)
    if source.clusters is not None:
        arrays["cluster"] = np.asarray(source.clusters, dtype=np.int32)
    count = np.bincount(arrays["label"], minlength=len(plan.categories)).astype(np.int32)
    right = arrays["label"] == arrays["baseline_prediction"]
    correct = np.bincount(arrays["label"][right], minlength=len(plan.categories))
    with np.errstate(invalid="ignore"):
        arrays["n_images"], arrays["baseline_accuracy"] = count, correct / count
    thumbnails = [part.thumbnails for part in facts if part.thumbnails is not None]
    if len(thumbnails) == len(facts):
        shape = common_shape(part.shape[1:] for part in thumbnails)
        arrays["thumbnails"] = ImageRows([PaddedThumbnails(part, shape) for part in thumbnails])
    content = hashlib.sha256(b"".join(np.asarray(part.content).tobytes() for part in facts)).hexdigest()
    attrs = {
        "unitlab_schema": SCHEMA_VERSION,
        "network": type(plan.network.module).__name__,
        "images": source.name,
        "labels": plan.request.labels,
        "default_layer": plan.layers[-1].name,
        "baseline_overall_accuracy": float(right.mean()),
        **{f"fingerprint_{name}": plan.fingerprint[name] for name in ROOT_FINGERPRINTS if name in plan.fingerprint},
        "fingerprint_content": content,
        **plan.output_attrs,
        "transform": source.transform_text,
        **({"reading": source.reading} if source.reading else {}),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
    }
    return arrays, attrs


def layer_groups(
    plan: SweepPlan,
    layer: LayerPlan,
    results: Sequence[ShardResult],
    root: Mapping[str, Any],
    certificate: Certificate | None = None,
) -> tuple[Group, Group]:
    """Groups "<layer>" and "<layer>/<ablation>" of one layer; ``certificate`` is that of a screened one."""
    shards, facts = [result.layers[layer.name] for result in results], [result.images for result in results]
    site, channels, basis = layer.site, layer.shape[1], layer.basis
    filters = filter_attributes(plan.network.graph, site, channels)
    of_units = {
        **_activations(plan, layer, [shard.units for shard in shards], facts, first_order=plan.first_order),
        **{name: values[layer.channels] for name, values in filters.items()},
    }
    units = np.array(layer.units, dtype=np.int32)
    prediction = UnitRows([shard.ablation["prediction"] for shard in shards])
    energy = sum(np.asarray(shard.ablation["energy"]) for shard in shards)
    removed = sum(np.asarray(shard.ablation["removed"]) for shard in shards)
    ablation = {
        "unit": units,
        "prediction": prediction,
        "label_margin_drop": UnitRows([shard.ablation["label_margin_drop"] for shard in shards]),
        **counts_and_rates(prediction, root),
        "removed_energy": removed / max(float(energy), 1e-300),
        **further_scores([shard.ablation for shard in shards], facts, root),
    }
    screen: dict[str, Any] = {}
    if certificate is not None:
        evaluated = UnitRows([shard.ablation["evaluated"] for shard in shards])
        found, screen = screened_estimates(prediction, evaluated, root, certificate)
        ablation.update(found, evaluated=evaluated)
    elif plan.request.screen is not None:
        why = "no cheaper way to a bound" if layer in plan.screened else "every pair costs no more than some"
        screen = {"screen_exact": why}
    if basis is not None:
        # what the layer's group tells of units, told of directions: they have no filters, and no gradient is kept of them
        found = _activations(plan, layer, [shard.directions for shard in shards], facts, first_order=False)
        unknown = {name: np.full_like(values, np.nan) for name, values in of_units.items() if name not in found}
        ablation.update(unknown, **found, basis=basis.matrix[units])
    request = plan.request
    attrs = {
        "ablation": plan.ablation_name,
        **({} if basis is None else {"replacement": request.ablation}),
        **({} if basis is None or not basis.note else {"directions": basis.note}),
        **({} if basis is None or basis.codes is None else {"subtracted": "codes"}),
        "precision": request.precision,
        "strategy": layer.engine.strategy,
        "capture": plan.network.capture,
        "seed": request.seed,
        "batch_size": plan.batch_size,
        **scores_attrs(plan),
        **screen,
        **{f"fingerprint_{name}": value for name, value in plan.layer_fingerprint(layer).items()},
    }
    layer_attrs = {"layer": layer.name, "site": site.text, "site_call": site.call, "channels": channels, **units_attrs(layer)}
    layer_attrs |= map_attrs(plan.network, layer)
    return ({"unit": units, **of_units}, layer_attrs), (ablation, attrs)


def scores_attrs(plan: SweepPlan) -> dict[str, Any]:
    """What an ablation says of the further scores that it has."""
    scoring = plan.scoring
    return {**({"top_k": scoring.top_k} if scoring.top_k else {}), **({"outcome": scoring.name} if scoring.outcome else {})}


def further_scores(shards: Sequence[Arrays], facts: Sequence[ImageFacts], root: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of outcomes and of top-k hits, where they were asked for."""
    found: dict[str, Any] = {}
    if facts[0].baseline_outcome is not None:
        found["outcome_drop"] = UnitRows([shard["outcome_drop"] for shard in shards])
        found["baseline_outcome"] = np.concatenate([part.baseline_outcome for part in facts])
    if facts[0].baseline_among_top is not None:
        before, label = np.concatenate([part.baseline_among_top for part in facts]), root["label"].astype(np.int64)
        after, n = UnitRows([shard["among_top"] for shard in shards]), root["n_images"]
        broken, fixed = (np.zeros((after.shape[0], len(n)), np.int32) for _ in range(2))
        for start in range(0, len(broken), UNITS_AT_ONCE):
            for place, row in enumerate(after[start : start + UNITS_AT_ONCE], start):
                broken[place] = np.bincount(label[before & ~row], minlength=len(n))
                fixed[place] = np.bincount(label[~before & row], minlength=len(n))
        lost = broken.astype(np.float64) - fixed
        with np.errstate(invalid="ignore", divide="ignore"):
            found["baseline_topk_accuracy"] = np.bincount(label[before], minlength=len(n)) / n
            found |= {"n_broken_topk": broken, "n_fixed_topk": fixed, "topk_accuracy_drop": lost / n}
        found["topk_overall_drop"] = lost.sum(1) / len(label)
    return found


def units_attrs(layer: LayerPlan) -> dict[str, Any]:
    """Which dimension of a layer's value its units are, for attributes."""
    return {"unit_dim": layer.site.unit_dim, "unit_layout": layer.layout.text}


def map_attrs(network: Network, layer: LayerPlan) -> dict[str, Any]:
    """Where the cells of a layer's maps lie on an image, as shares of it, for attributes; nothing where no map of it is known.

    ``map_places`` has, for rows and then for columns, the centre of the first cell's receptive field and the step to the next
    cell's. A convolution of 11 pixels without padding looks, first, at the 5th of 227 pixels (from 0): at 5.5/227.
    """
    graph, site = network.graph, layer.site
    field = None if graph is None or site.unit_dim != 1 else receptive_field(graph, graph.calls[site.module][site.call])
    if field is None:
        return {}
    axes = zip(field.centre, field.step, network.sample.shape[2:], strict=True)
    return {"map_places": [share for centre, step, size in axes for share in ((centre + 0.5) / size, step / size)]}


def undefined_attributes(plan: SweepPlan, layer: LayerPlan) -> str:
    """What no unit of a layer is going to have, and why; "" where all is defined. One image tells what is signed."""
    filters = filter_attributes(plan.network.graph, layer.site, layer.shape[1])
    names = [name for name, values in filters.items() if np.isnan(values).all()]
    with torch.no_grad():
        value = plan.network.site_values(plan.network.sample, [layer.site])[0]
    signed = layer.basis is not None or bool((value < 0).any())
    return why_undefined([*names, *(["class_selectivity", "class_selectivity_max"] if signed else [])])


def _activations(
    plan: SweepPlan, layer: LayerPlan, shards: Sequence[Arrays], facts: Sequence[ImageFacts], *, first_order: bool
) -> dict[str, Any]:
    """Statistics over all shards, and what each image's activations are."""
    known, positions = ((part.label, part.probability) for part in facts), math.prod(layer.shape[2:])
    found = reduced_statistics(shards, known, plan.batch_size, positions, first_order=first_order)
    return {**found, **{name: ActivationRows([shard[name] for shard in shards]) for name in BY_IMAGE}}


def screened_estimates(
    prediction: UnitRows, evaluated: UnitRows, root: Mapping[str, Any], certificate: Certificate
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Of a screened layer: estimates of all images from the pairs evaluated, and what the classes may have beside.

    Variables, and attributes with the layer's totals.
    """
    label, before = root["label"].astype(np.int64), root["baseline_prediction"]
    categories, (units, images) = len(root["category"]), prediction.shape
    probability = certificate.rule.probability or 1.0
    left = np.zeros((units, categories), np.int32)
    # of changed predictions, and of images lost, (unit): found for sure, in the sample, and the sample's squares
    sums = np.zeros((2, 3, units))
    for start in range(0, units, UNITS_AT_ONCE):
        rows = slice(start, start + UNITS_AT_ONCE)
        for place, (row, kept) in enumerate(zip(prediction[rows], evaluated[rows], strict=True), start):
            left[place] = np.bincount(label[kept == 0], minlength=categories)
            changed = ((row != before) & (kept > 0)).astype(float)
            lost = np.where(kept > 0, (before == label).astype(float) - (row == label), 0.0)
            for number, what in enumerate((changed, lost)):
                in_sample = what[kept == SAMPLED]
                sums[number, :, place] = what.sum() - in_sample.sum(), in_sample.sum(), np.square(in_sample).sum()
    value = sums[:, 0] + sums[:, 1] / probability
    variance = sums[:, 2] * (1 - probability) / probability**2
    found = {
        "overall_drop": value[1] / images,
        "overall_drop_error": np.sqrt(variance[1]) / images,
        "n_unevaluated": left,
        "accuracy_drop_missed": np.where(
            root["n_images"] > 0, np.minimum(left, certificate.limit) / np.maximum(root["n_images"], 1), np.nan
        ),
    }
    (flips, lost), (flips_error, lost_error) = value.sum(1), np.sqrt(variance.sum(1))
    totals = {
        "screen_flips": flips, "screen_flips_error": flips_error, "screen_lost": lost, "screen_lost_error": lost_error,
    }  # fmt: skip
    return found, {**certificate.attrs(), **{name: float(total) for name, total in totals.items()}}


def counts_and_rates(prediction: UnitRows | np.ndarray, root: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Exact counts by class, of the pairs that are evaluated, and the rates that follow from them."""
    label, before = root["label"].astype(np.int64), root["baseline_prediction"]
    categories, units = len(root["category"]), prediction.shape[0]
    broken, fixed, predicted = (np.zeros((units, categories), np.int32) for _ in range(3))
    right = label == before
    for start in range(0, units, UNITS_AT_ONCE):
        rows = prediction[start : start + UNITS_AT_ONCE]
        for place, row in enumerate(rows, start):
            after = row == label
            broken[place] = np.bincount(label[right & ~after & (row != NOT_EVALUATED)], minlength=categories)
            fixed[place] = np.bincount(label[~right & after], minlength=categories)
            predicted[place] = np.bincount(row[row != NOT_EVALUATED], minlength=categories)
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
