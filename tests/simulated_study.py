"""Made-up studies that follow the schema: counts, drops and baseline are consistent with the predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.store.study import assemble

LAYER = "conv5_3"


def simulated_groups(
    n_units: int = 12,
    n_categories: int = 5,
    n_images: int = 60,
    seed: int = 0,
    *,
    layer: str = LAYER,
    ablation: str = "zero",
    baseline_accuracy: float = 0.7,
    flip_rate: float = 0.05,
    specific_unit: int | None = None,
    specific_category: int = 0,
    clusters: int | None = None,
    dead_units: tuple[int, ...] = (),
    empty_categories: tuple[int, ...] = (),
    thumbnails: bool = True,
    top: int = 6,
    map_size: int = 4,
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Groups of a study whose predictions flip at random.

    ``specific_unit`` breaks about half of the images of ``specific_category`` besides. Images of a cluster (``clusters``
    of them, if given) share label and flips. Dead units are never active and change nothing.
    """
    random = np.random.default_rng(seed)
    classes = [k for k in range(n_categories) if k not in empty_categories]
    label = np.array(classes)[np.arange(n_images) % len(classes)].astype(np.int32)
    cluster = np.arange(n_images)
    if clusters is not None:
        cluster = np.sort(np.arange(n_images) % clusters)
        label = np.array(classes)[cluster % len(classes)].astype(np.int32)
    other = (label + random.integers(1, max(n_categories, 2), n_images)) % n_categories
    baseline = np.where(random.random(n_images) < baseline_accuracy, label, other).astype(np.int32)
    flips = (random.random((n_units, int(cluster.max()) + 1)) < flip_rate)[:, cluster]
    target = random.integers(0, n_categories, (n_units, n_images))
    if specific_unit is not None:
        hit = (label == specific_category) & (random.random(n_images) < 0.5)
        flips[specific_unit, hit] = True
        target[specific_unit, hit] = (label[hit] + 1) % n_categories
    alive = np.ones((n_units, 1), bool)
    alive[list(dead_units)] = False
    prediction = np.where(flips & alive, target, baseline).astype(np.int16)

    count = np.bincount(label, minlength=n_categories)
    # float32 counts exactly this far, and its products are those of BLAS
    one_hot = np.eye(n_categories, dtype=np.float32)[label]
    right, after = baseline == label, prediction == label
    broken, fixed = ((some.astype(np.float32) @ one_hot).astype(np.int32) for some in (right & ~after, ~right & after))
    with np.errstate(invalid="ignore", divide="ignore"):
        drop = (broken - fixed) / count
        accuracy = np.bincount(label[right], minlength=n_categories) / count
    activation = (random.gamma(1.0, 1.0, (n_units, n_images)) * (random.random((n_units, n_images)) < 0.6)).astype(np.float32)
    activation *= alive
    maximum = activation * random.uniform(1, 3, activation.shape).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        class_activation = activation.astype(np.float64) @ one_hot / count
    correlation = random.uniform(-0.5, 0.8, (n_units, n_categories))
    correlation[~alive[:, 0]] = np.nan
    order = np.argsort(-maximum, axis=1, kind="stable")[:, :top]
    top_image = np.pad(order, ((0, 0), (0, max(0, top - n_images))), constant_values=-1).astype(np.int32)
    top_activation = np.where(top_image >= 0, np.take_along_axis(maximum, np.maximum(top_image, 0), 1), np.nan)
    norms = {name: random.uniform(1, 9, n_units) for name in ("l1_norm", "l2_norm", "l1_norm_folded", "l2_norm_folded")}

    root: dict[str, Any] = {
        "category": np.array([f"class {k}" for k in range(n_categories)], dtype=object),
        "category_index": np.arange(n_categories, dtype=np.int32),
        "image": np.array([f"image-{i:04d}.png" for i in range(n_images)], dtype=object),
        "label": label,
        "baseline_prediction": baseline,
        # of the images alone, whatever layer is looked at
        "baseline_margin": (np.where(right, 1, -1) * np.random.default_rng(seed).gamma(2, 1, n_images)).astype(np.float32),
        "n_images": count.astype(np.int32),
        "baseline_accuracy": accuracy,
    }
    if clusters is not None:
        root["cluster"] = cluster.astype(np.int32)
    if thumbnails:
        root["thumbnails"] = random.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
    unit = np.arange(n_units, dtype=np.int32)
    layer_arrays: dict[str, Any] = {
        "unit": unit,
        "class_activation": class_activation,
        "activation_mean": activation,
        "activation_max": maximum,
        "class_correlation": correlation,
        "first_order_margin_drop": np.where(count > 0, drop + random.normal(0, 0.02, drop.shape), np.nan) * alive,
        "mean_activation": activation.mean(1).astype(np.float64),
        "max_activation": maximum.max(1),
        "fraction_active": (maximum > 0).mean(1),
        **norms,
        "batch_norm_scale": np.full(n_units, np.nan),
        "top_image": top_image,
        "top_activation": top_activation.astype(np.float32),
        "top_map": random.gamma(1.0, 1.0, (n_units, top, map_size, map_size)).astype(np.float16) * alive[:, :, None, None],
    }
    ablation_arrays: dict[str, Any] = {
        "unit": unit,
        "prediction": prediction,
        "label_margin_drop": ((prediction != baseline) + random.normal(0, 0.1, prediction.shape) * alive).astype(np.float16),
        "n_broken": broken.astype(np.int32),
        "n_fixed": fixed.astype(np.int32),
        "n_predicted": np.stack([np.bincount(row, minlength=n_categories) for row in prediction]).astype(np.int32),
        "accuracy_drop": drop,
        "overall_drop": (right.sum() - after.sum(1)) / n_images,
    }
    fingerprints = {f"fingerprint_{name}": f"{name} {seed}" for name in ("weights", "images", "transform", "labels")}
    attrs = {"unitlab_schema": 1, "network": "Simulated", "images": "simulated", "labels": "given", **fingerprints}
    return {
        "": (root, {**attrs, "name": "simulated"}),
        layer: (layer_arrays, {"layer": layer, "site": f"{layer} (simulated)"}),
        f"{layer}/{ablation}": (ablation_arrays, {"ablation": ablation, "precision": "float32", "strategy": "simulated"}),
    }


def simulated_study(*args: Any, **options: Any) -> xr.Dataset:
    """`simulated_groups` as the dataset that `unitlab.load` would give."""
    layer, ablation = options.get("layer", LAYER), options.get("ablation", "zero")
    return assemble(simulated_groups(*args, **options), layer, ablation)


def study_of_predictions(
    label: np.ndarray, baseline: np.ndarray, prediction: np.ndarray, n_categories: int, cluster: np.ndarray | None = None
) -> xr.Dataset:
    """The study in which the given predictions (unit, image) were made; what else it holds is made up."""
    n_units, n_images = prediction.shape
    groups = simulated_groups(n_units, n_categories, n_images, 0, thumbnails=False)
    root, ablation = groups[""][0], groups[f"{LAYER}/zero"][0]
    one_hot = np.eye(n_categories, dtype=np.float32)[label]
    right, after = baseline == label, prediction == label
    n = np.bincount(label, minlength=n_categories)
    root.update(
        label=label.astype(np.int32),
        baseline_prediction=baseline.astype(np.int32),
        baseline_margin=np.where(right, 1.0, -1.0).astype(np.float32),
        n_images=n.astype(np.int32),
        baseline_accuracy=np.bincount(label[right], minlength=n_categories) / n,
    )
    if cluster is not None:
        root["cluster"] = cluster.astype(np.int32)
    broken, fixed = ((some.astype(np.float32) @ one_hot).astype(np.int32) for some in (right & ~after, ~right & after))
    ablation.update(
        prediction=prediction.astype(np.int16),
        n_broken=broken.astype(np.int32),
        n_fixed=fixed.astype(np.int32),
        n_predicted=np.stack([np.bincount(row, minlength=n_categories) for row in prediction]).astype(np.int32),
        accuracy_drop=(broken - fixed) / n,
        overall_drop=(right.sum() - after.sum(1)) / n_images,
    )
    return assemble(groups, LAYER, "zero")
