"""What the page asks for a row at a time: the drops of a unit or a class, pictures, images that an ablation changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from unitlab.analysis.accuracies import accuracy_interval
from unitlab.analysis.attributes import own_attributes
from unitlab.analysis.comparisons.two_ablations import compare
from unitlab.analysis.correlations import fitted_line
from unitlab.analysis.damage import LEAST_CHANGED, enough_images
from unitlab.errors import UnitlabError
from unitlab.schema import VARIABLES
from unitlab.views.explorer.measured_study import DROPS, MeasuredStudy
from unitlab.views.findings import Finding, coefficient, interval, points, unit_finding
from unitlab.views.page.sheets import maps_over, sheet
from unitlab.views.words import quantity

Array = np.ndarray[Any, Any]
Ask = dict[str, Any]

TOP, ON_PAGE, MOST_PAIRS = 12, 20, 10
NO_TOP = "The study keeps no top images; unitlab.ablate(model, images, layer) gives a study that does."
NO_ACTIVATIONS = "The study keeps no activations of single images, so it cannot say which of these are its top ones."
# what the views show most comes first
LEVELS = ("ablation", "damage", "attributes", "layer", "study")
KINDS = {"f": "<f4", "i": "<i4", "u": "u1", "h": "<i2"}
# what drops are made of, once it is measured
MADE_OF = {
    "precision": "precision_drop", "balanced": "balanced_accuracy_drop", "margin": "margin_drop", "own": "margin_specific",
    "own_q": "margin_specific_q_value",
}  # fmt: skip
IN_HUNDREDTHS = {*DROPS, *MADE_OF} - {"own_q"}


def answered(study: MeasuredStudy, ask: Ask) -> Ask:
    """The answer to what the page asks: values and arrays."""
    kind = str(ask.get("kind"))
    if kind not in ANSWERS:
        raise UnitlabError(f"the explorer knows no {kind!r}; it knows {', '.join(ANSWERS)}")
    return ANSWERS[kind](study, ask)


def packed(answer: Ask, *, hundredths: bool = False) -> tuple[Ask, list[bytes]]:
    """Values as they are, arrays as buffers, named with their kinds in ``arrays``; "h": ``hundredths`` in 16 bits."""
    arrays = {name: value for name, value in answer.items() if isinstance(value, np.ndarray)}
    kinds = {name: "h" if hundredths and name in IN_HUNDREDTHS else value.dtype.kind for name, value in arrays.items()}
    for name, value in arrays.items():
        if kinds[name] == "h":  # −32768 where there is none
            arrays[name] = np.nan_to_num(np.clip(100 * value, -32767, 32767).round(), nan=-32768)
    buffers = [np.ascontiguousarray(value, KINDS[kinds[name]]).tobytes() for name, value in arrays.items()]
    rest = {name: value for name, value in answer.items() if name not in arrays}
    return rest | {"arrays": [[name, kind] for name, kind in kinds.items()]}, buffers


def _unit(study: MeasuredStudy, ask: Ask) -> Ask:
    place, found = study.position(ask["unit"]), study.measures
    counts = {short: found[name].values[place] for short, name in (("lost", "n_broken"), ("won", "n_fixed"))}
    made_of = {short: quantity(name).factor * found[name].values[place] for short, name in MADE_OF.items() if name in found}
    drops = {name: values[place] for name, values in study.drops.items()}
    return {**drops, **counts, "finding": list(finding(study, int(ask["unit"]))), **made_of}


def finding(study: MeasuredStudy, unit: int) -> Finding:
    """What silencing a unit does; of a study whose tests are still being computed, what the counts say."""
    if study.complete:
        return unit_finding(study.measures, unit)
    place, known = study.position(unit), study.measures
    k, overall = int(study.max_class[place]), f"overall {points(float(known['overall_drop'].values[place]))}"
    if k < 0:
        return Finding(f"Unit {unit} costs no class anything; {overall}.")
    drop, low, high = (float(known[name].values[place, k]) for name in DROPS.values())
    sure = f"95 % interval {interval(low, high)}, " if np.isfinite(low) else ""
    return Finding(f"Unit {unit} costs ", study.names[k], f" {points(drop)} points ({sure}q is being computed); {overall}.")


def _class(study: MeasuredStudy, ask: Ask) -> Ask:
    k = study.category_position(ask["category"])
    answer: Ask = {name: values[:, k] for name, values in study.drops.items()}
    if study.complete:
        changed = study.measures["n_changed"].values[:, k]
        of = "clusters of images" if "cluster" in study.ds else "images"
        answer["tested"] = enough_images(int((changed >= LEAST_CHANGED).sum()), len(changed), cells="units", observations=of)
    return answer


def _fit(study: MeasuredStudy, ask: Ask) -> Ask:
    """The fitted line over the units."""
    try:
        found = fitted_line(*(study.values(ask[axis], ask["category"]) for axis in "xy"))
    except UnitlabError as error:
        return {"x": [], "said": f"no line: {error}"}
    lines: Ask = {name: found[name].tolist() for name in ("x", "fit", "low", "high")}
    return lines | {name: coefficient(found[name]) for name in ("spearman", "pearson")}


def _top(study: MeasuredStudy, ask: Ask) -> Ask:
    """The images that activate a unit most: of all, of a class, of those that its ablation loses or wins."""
    place, of = study.position(ask["unit"]), ask.get("of", "all")
    if study.top_image is None or study.top_activation is None or "top_map" not in study.ds:
        return {"missing": NO_TOP}
    kept = images = study.top_image[place]
    activation = study.top_activation[place].astype(float)
    if of != "all":
        if "activation_max" not in study.ds:
            return {"missing": NO_ACTIVATIONS}
        here, every = _of_class(study, ask), study.ds["activation_max"][place].values.astype(float)
        if of in ("lost", "won"):
            here &= study.changed(study.after(place))[of == "won"]
        images = np.flatnonzero(here)[np.argsort(-every[here], kind="stable")]
        activation = every[images]
    some = np.flatnonzero((images >= 0) & (activation > 0))[:TOP]
    images, activation = images[some], activation[some]
    if "thumbnails" not in study.ds:
        names = ", ".join(f"{study.names[study.class_position[i]]} ({a:.3g})" for i, a in zip(images, activation, strict=True))
        return {"missing": f"The study keeps no thumbnails; unit {ask['unit']} is most active on: {names}."}
    if not len(images):
        return {"tiles": []}
    # maps are kept of the top images over all classes
    ranks = [int(np.flatnonzero(kept == image)[0]) if image in kept else -1 for image in images]
    maps = study.ds["top_map"].variable[place].values
    [threshold], said = study.thresholds([place])
    tiles = [
        {"k": int(study.class_position[image]), "activation": float(value), "id": study.ids[image], "image": int(image),
         "place": at, "map": rank >= 0, "least": float(threshold / value)}
        for at, (image, value, rank) in enumerate(zip(images, activation, ranks, strict=True))
    ]  # fmt: skip
    note = "" if of == "all" else "Maps are kept of the top images of all classes only."
    held = maps_over(study.ds, maps[[max(rank, 0) for rank in ranks]]) | sheet(study.thumbnails(images), ask.get("most"))
    return {"tiles": tiles, "note": note, "threshold": said, **held}


def _of_class(study: MeasuredStudy, ask: Ask) -> Array:
    """Which images are of the class that is asked for, if any."""
    if not ask.get("category"):
        return np.ones(len(study.class_position), bool)
    return study.class_position == study.category_position(ask["category"])


def _tiles(study: MeasuredStudy, ask: Ask) -> Ask:
    """Pictures of the images at these positions, and their ids."""
    images = np.asarray(ask["images"][:ON_PAGE], int)
    ids = [str(name) for name in study.ds["image"].values[images]]
    return {"ids": ids, **(sheet(study.thumbnails(images)) if "thumbnails" in study.ds else {})}


def _moved(study: MeasuredStudy, ask: Ask) -> Ask:
    """The images whose prediction an ablation changes, those that lose most of their margin first, and where they go."""
    ds, place = study.ds, study.position(ask["unit"])
    before, after, here = study.before, study.after(place), _of_class(study, ask)
    lost, won = (np.flatnonzero(here & some) for some in study.changed(after))
    moved = int((here & (before != after)).sum())
    answer: Ask = {"of": int(here.sum()), "swapped": moved - len(lost) - len(won)}
    margin = None
    if {"label_margin_drop", "baseline_margin"} <= set(ds.variables):
        margin = ds["label_margin_drop"][place].values.astype(float)
        lost, won = (some[np.argsort(-margin[some], kind="stable")] for some in (lost, won))
    for name, some in (("lost", lost), ("won", won[::-1])):
        answer |= {name: some, f"{name}_before": before[some], f"{name}_after": after[some]}
        if margin is not None:
            whole = ds["baseline_margin"].values[some]
            answer |= {f"{name}_margin": whole, f"{name}_margin_after": whole - margin[some]}
    pairs, counts = np.unique(before[lost] * len(study.names) + after[lost], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    split = [(*divmod(int(pairs[at]), len(study.names)), int(counts[at])) for at in order]
    return answer | {"pairs": split[:MOST_PAIRS], "rest": sum(row[2] for row in split[MOST_PAIRS:]), "n_pairs": len(split)}


def _class_images(study: MeasuredStudy, ask: Ask) -> Ask:
    """Baseline accuracy of a class, and its images, the least sure first."""
    k = study.category_position(ask["category"])
    here = np.flatnonzero(_of_class(study, ask))
    if not len(here):
        return {"of": 0}
    right = study.before[here] == k
    cluster = study.ds["cluster"].values[here] if "cluster" in study.ds else None
    low, high = accuracy_interval(right, cluster)
    answer: Ask = {"of": len(here), "right": int(right.sum()), "low": float(low), "high": float(high)}
    order = np.argsort(right, kind="stable")
    if "baseline_margin" in study.ds:
        margin = study.ds["baseline_margin"].values[here]
        order = np.argsort(margin, kind="stable")
        answer["margin"] = margin[order]
    return answer | {"images": here[order], "before": study.before[here[order]]}


def _losers(study: MeasuredStudy, ask: Ask) -> Ask:
    """The units whose ablation loses or wins one image."""
    image = int(ask["image"])
    after = study.after((slice(None), image))
    label, before = study.class_position[image], study.before[image]
    changed = np.flatnonzero(after != before)
    if "label_margin_drop" in study.ds:
        changed = changed[np.argsort(-study.ds["label_margin_drop"][:, image].values[changed], kind="stable")]
    units = [[int(study.units[at]), int(after[at])] for at in changed]
    return {"label": int(label), "before": int(before), "units": units, "image": str(study.ds["image"].values[image])}


def _best(study: MeasuredStudy, ask: Ask) -> Ask:
    """The top image of each unit, with its map, for the wall."""
    if study.top_image is None or study.top_activation is None or not {"top_map", "thumbnails"} <= set(study.ds.variables):
        return {"tiles": [None for _ in ask["units"]], "without": "no picture kept"}
    places = [study.position(unit) for unit in ask["units"]]
    image, activation = study.top_image[places, 0], study.top_activation[places, 0].astype(float)
    least, some = study.thresholds(places)[0], np.flatnonzero((image >= 0) & (activation > 0))
    tiles: list[Any] = [None] * len(places)
    for at, row in enumerate(some):
        tiles[row] = {"place": at, "map": True, "image": int(image[row]), "least": float(least[row] / activation[row])}
    maps = study.ds["top_map"][:, 0].values[np.asarray(places)[some]]
    return {"tiles": tiles, **(maps_over(study.ds, maps) | sheet(study.thumbnails(image[some])) if len(some) else {})}


def compared(a: MeasuredStudy, unit: int, b: MeasuredStudy, other: int) -> Ask:
    """`unitlab.compare` of two units, in points, and the images that they lose."""
    found = compare(a.ds.sel(unit=unit), b.ds.sel(unit=other))
    names = {"difference": "drop_difference", "low": "difference_low", "high": "difference_high"}
    answer: Ask = {short: 100 * found[name].values for short, name in names.items()} | {"q": found["difference_q"].values}
    for at, side in enumerate("ab"):
        for name, variable in DROPS.items():
            answer[side if name == "drop" else f"{side}_{name}"] = 100 * found[variable].values[at]
    one, two = (study.changed(study.after(study.position(number)))[0] for study, number in ((a, unit), (b, other)))
    for name, some in (("both", one & two), ("a", one & ~two), ("b", two & ~one)):
        images = np.flatnonzero(some)
        answer |= {f"{name}_images": images, f"{name}_class": a.class_position[images]}
    any_lost = one | two
    return answer | {"jaccard": float(found["jaccard"]) if any_lost.any() else None, "neither": int((~any_lost).sum())}


def _definitions(study: MeasuredStudy, _ask: Ask) -> Ask:
    """Every number on screen, from the schema: name, title, definition."""
    held = {*map(str, study.ds.variables), *map(str, study.measures.variables)}
    known = [row for level in LEVELS for row in VARIABLES.values() if row.level == level and row.name in held]
    rows = [
        [row.name + (f"({', '.join(row.dims)})" if row.dims else ""), quantity(row.name).title, row.comment] for row in known
    ]
    own = [[f"{name}(unit)", name, "Comes with the dataset that was given."] for name in sorted(own_attributes(study.ds))]
    return {"rows": rows + own}


ANSWERS: dict[str, Callable[[MeasuredStudy, Ask], Ask]] = {
    "unit": _unit, "class": _class, "fit": _fit, "top": _top, "tiles": _tiles, "moved": _moved,
    "class_images": _class_images, "losers": _losers, "best": _best, "definitions": _definitions,
}  # fmt: skip
