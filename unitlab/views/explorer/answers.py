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
from unitlab.analysis.requirements import class_positions
from unitlab.errors import UnitlabError
from unitlab.schema import VARIABLES
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.findings import Finding, coefficient, interval, points, unit_finding
from unitlab.views.gallery import map_places
from unitlab.views.page.sheets import map_bytes, sheet
from unitlab.views.words import quantity

Array = np.ndarray[Any, Any]
Ask = dict[str, Any]

TOP, ON_PAGE, MOST_PAIRS = 12, 20, 10
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.int64)  # set, of each byte
NO_TOP = "The study keeps no top images; unitlab.ablate(model, images, layer) gives a study that does."
NO_ACTIVATIONS = "The study keeps no activations of single images, so it cannot say which of these are its top ones."
# what the views show most comes first
LEVELS = ("ablation", "damage", "attributes", "layer", "study")
KINDS = {"f": "<f4", "i": "<i4", "u": "u1", "h": "<i2"}
DROPS = ("drop", "low", "high", "precision", "balanced", "margin", "own")


def answered(study: MeasuredStudy, ask: Ask, *, hundredths: bool = False) -> tuple[Ask, list[bytes]]:
    """The answer to what the page asks: values, and its arrays as buffers, named with their kinds in ``arrays``.

    With ``hundredths``, drops are rounded to them, in 16 bits: "h", −32768 where there is none.
    """
    kind = str(ask.get("kind"))
    if kind not in ANSWERS:
        raise UnitlabError(f"the explorer knows no {kind!r}; it knows {', '.join(ANSWERS)}")
    return packed(ANSWERS[kind](study, ask), hundredths)


def packed(answer: Ask, hundredths: bool = False) -> tuple[Ask, list[bytes]]:
    """Values as they are, arrays as buffers."""
    arrays = {name: value for name, value in answer.items() if isinstance(value, np.ndarray)}
    kinds = {name: "h" if hundredths and name in DROPS else value.dtype.kind for name, value in arrays.items()}
    values = {name: _hundredths(value) if kinds[name] == "h" else value for name, value in arrays.items()}
    buffers = [np.ascontiguousarray(value.astype(KINDS[kinds[name]])).tobytes() for name, value in values.items()]
    rest = {name: value for name, value in answer.items() if name not in arrays}
    return rest | {"arrays": [[name, kind] for name, kind in kinds.items()]}, buffers


def _hundredths(values: Array) -> Array:
    return np.where(np.isfinite(values), np.clip(np.nan_to_num(100 * values), -32767, 32767).round(), -32768)


def _unit(study: MeasuredStudy, ask: Ask) -> Ask:
    place = study.position(ask["unit"])
    drop, low, high = (study.drops[name][place] for name in ("accuracy_drop", "drop_low", "drop_high"))
    lost, won = (study.measures[name].values[place] for name in ("n_broken", "n_fixed"))
    return {
        "drop": drop, "low": low, "high": high, "q": study.q[place], "lost": lost.astype("i4"), "won": won.astype("i4"),
        "finding": list(finding(study, int(ask["unit"]))), **_made_of(study, place),
    }  # fmt: skip


def _made_of(study: MeasuredStudy, place: int) -> Ask:
    """What the drops are made of: precision, balanced accuracy and margin, once they are measured."""
    found, percent = study.measures, {"precision": "precision_drop", "balanced": "balanced_accuracy_drop"}
    plain = {"margin": "margin_drop", "own": "margin_specific", "own_q": "margin_specific_q_value"}
    answer = {short: 100 * found[name].values[place] for short, name in percent.items() if name in found}
    return answer | {short: found[name].values[place] for short, name in plain.items() if name in found}


def finding(study: MeasuredStudy, unit: int) -> Finding:
    """What silencing a unit does; of a study whose tests are still being computed, what the counts say."""
    if study.complete:
        return unit_finding(study.measures, unit)
    place = study.position(unit)
    row = {name: study.measures[name].values[place] for name in ("overall_drop", "drop_low", "drop_high", "max_class_drop")}
    k = int(study.max_class[place])
    overall = f"overall {points(float(row['overall_drop']))}"
    if k < 0:
        return Finding(f"Unit {unit} costs no class anything; {overall}.")
    low, high = (float(row[name][k]) for name in ("drop_low", "drop_high"))
    sure = f"95 % interval {interval(low, high)}, " if np.isfinite(low) else ""
    drop = points(float(row["max_class_drop"]))
    return Finding(f"Unit {unit} costs ", study.names[k], f" {drop} points ({sure}q is being computed); {overall}.")


def _class(study: MeasuredStudy, ask: Ask) -> Ask:
    k = study.category_position(ask["category"])
    drop, low, high = (study.drops[name][:, k] for name in ("accuracy_drop", "drop_low", "drop_high"))
    answer: Ask = {"drop": drop, "low": low, "high": high, "q": study.q[:, k]}
    if study.complete:
        changed = study.measures["n_changed"].values[:, k]
        of = "clusters of images" if "cluster" in study.ds else "images"
        answer["tested"] = enough_images(int((changed >= LEAST_CHANGED).sum()), len(changed), cells="units", observations=of)
    return answer


def _fit(study: MeasuredStudy, ask: Ask) -> Ask:
    """The fitted line over the units."""

    def values(name: str) -> Array:
        if name == "accuracy_drop":
            return study.drops[name][:, study.category_position(ask["category"])]
        return study.values(name)

    try:
        found = fitted_line(values(ask["x"]), values(ask["y"]))
    except UnitlabError as error:
        return {"x": [], "said": f"no line: {error}"}
    lines: Ask = {name: found[name].tolist() for name in ("x", "fit", "low", "high")}
    return lines | {name: coefficient(found[name]) for name in ("spearman", "pearson")}


def _pictures(study: MeasuredStudy, images: Array, most: int | None = None) -> Ask:
    """A sheet of the images at these positions, ``most`` pixels wide each."""
    jpeg, laid_out = sheet(study.thumbnails(images), most)
    return {"sheet": np.frombuffer(jpeg, np.uint8), "laid_out": laid_out}


def maps_over(study: MeasuredStudy, maps: Array) -> Ask:
    """Activation maps (picture, row, column), and where they lie on the pictures."""
    mapped = {"maps": np.frombuffer(map_bytes(maps), np.uint8), "mapped": list(maps.shape[1:])}
    return mapped | {"over": map_places(study.ds)}


def _top(study: MeasuredStudy, ask: Ask) -> Ask:
    """The images that activate a unit most: of all, of a class, of those that its ablation loses or wins."""
    place, of = study.position(ask["unit"]), ask.get("of", "all")
    if study.top_image is None or study.top_activation is None or "top_map" not in study.ds:
        return {"missing": NO_TOP}
    kept = study.top_image[place]
    activation, images = study.top_activation[place].astype(float), kept
    if of != "all":
        if "activation_max" not in study.ds:
            return {"missing": NO_ACTIVATIONS}
        every = study.ds["activation_max"][place].values.astype(float)
        some = _among(study, place, of, ask.get("category", ""))
        images = some[np.argsort(-every[some], kind="stable")][:TOP]
        activation = every[images]
    images, activation = images[:TOP], activation[:TOP]
    some = (images >= 0) & (activation > 0)
    images, activation = images[some], activation[some]
    if "thumbnails" not in study.ds:
        names = ", ".join(f"{study.names[study.class_position[i]]} ({a:.3g})" for i, a in zip(images, activation, strict=True))
        return {"missing": f"The study keeps no thumbnails; unit {ask['unit']} is most active on: {names}."}
    if not len(images):
        return {"tiles": []}
    # maps are kept of the top images over all classes
    ranks = [int(np.flatnonzero(kept == image)[0]) if image in kept else -1 for image in images]
    maps = study.ds["top_map"].variable[place].values
    ids = [study.ids[image] for image in images]
    [threshold], said = study.thresholds([place])
    tiles = [
        {"k": int(study.class_position[image]), "activation": float(value), "id": str(name), "image": int(image),
         "place": at, "map": rank >= 0, "least": float(threshold / value)}
        for at, (image, value, name, rank) in enumerate(zip(images, activation, ids, ranks, strict=True))
    ]  # fmt: skip
    note = "" if of == "all" else "Maps are kept of the top images of all classes only."
    held = maps_over(study, maps[[max(rank, 0) for rank in ranks]]) | _pictures(study, images, ask.get("most"))
    return {"tiles": tiles, "note": note, "threshold": said, **held}


def _among(study: MeasuredStudy, place: int, of: str, category: str) -> Array:
    here = np.ones(len(study.class_position), bool)
    if category:
        here = study.class_position == study.category_position(category)
    if of in ("lost", "won"):
        after = class_positions(study.ds, study.ds["prediction"][place].values)
        right, still = study.before == study.class_position, after == study.class_position
        here &= right & ~still if of == "lost" else ~right & still
    return np.flatnonzero(here)


def _tiles(study: MeasuredStudy, ask: Ask) -> Ask:
    """Pictures of the images at these positions, and their ids."""
    images = np.asarray(ask["images"][:ON_PAGE], int)
    ids = [str(name) for name in study.ds["image"].values[images]]
    return {"ids": ids, **(_pictures(study, images) if "thumbnails" in study.ds else {})}


def _moved(study: MeasuredStudy, ask: Ask) -> Ask:
    """The images whose prediction an ablation changes, those that lose most of their margin first, and where they go."""
    ds, place = study.ds, study.position(ask["unit"])
    before, after, label = study.before, class_positions(ds, ds["prediction"][place].values), study.class_position
    here = np.ones(len(label), bool)
    if ask.get("category"):
        here = label == study.category_position(ask["category"])
    moved = here & (before != after)
    lost, won = np.flatnonzero(moved & (before == label)), np.flatnonzero(moved & (after == label))
    answer: Ask = {"of": int(here.sum()), "swapped": int(moved.sum()) - len(lost) - len(won)}
    margin = None
    if {"label_margin_drop", "baseline_margin"} <= set(ds.variables):
        margin = ds["label_margin_drop"][place].values.astype(float)
        lost, won = (some[np.argsort(-margin[some], kind="stable")] for some in (lost, won))
    for name, some in (("lost", lost), ("won", won[::-1])):
        answer |= {
            name: some.astype("i4"),
            f"{name}_before": before[some].astype("i4"),
            f"{name}_after": after[some].astype("i4"),
        }
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
    here = np.flatnonzero(study.class_position == k)
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
    return answer | {"images": here[order].astype("i4"), "before": study.before[here[order]].astype("i4")}


def _losers(study: MeasuredStudy, ask: Ask) -> Ask:
    """The units whose ablation loses or wins one image."""
    image = int(ask["image"])
    after = class_positions(study.ds, study.ds["prediction"][:, image].values)
    label, before = study.class_position[image], study.before[image]
    changed = np.flatnonzero(after != before)
    margin = np.zeros(len(after))
    if "label_margin_drop" in study.ds:
        margin = study.ds["label_margin_drop"][:, image].values.astype(float)
    changed = changed[np.argsort(-margin[changed], kind="stable")]
    units = [[int(study.units[at]), int(after[at])] for at in changed]
    return {"label": int(label), "before": int(before), "units": units, "image": str(study.ds["image"].values[image])}


def _best(study: MeasuredStudy, ask: Ask) -> Ask:
    """The top image of each unit, with its map, for the wall."""
    if study.top_image is None or study.top_activation is None or not {"top_map", "thumbnails"} <= set(study.ds.variables):
        return {"tiles": [None for _ in ask["units"]]}
    places = [study.position(unit) for unit in ask["units"]]
    image, activation = study.top_image[places, 0], study.top_activation[places, 0].astype(float)
    least, some = study.thresholds(places)[0], np.flatnonzero((image >= 0) & (activation > 0))
    tiles: list[Any] = [None] * len(places)
    for at, row in enumerate(some):
        tiles[row] = {"place": at, "map": True, "image": int(image[row]), "least": float(least[row] / activation[row])}
    if not len(some):
        return {"tiles": tiles}
    maps = study.ds["top_map"][:, 0].values[np.asarray(places)[some]]
    return {"tiles": tiles, **maps_over(study, maps), **_pictures(study, image[some])}


def _alike(study: MeasuredStudy, ask: Ask) -> Ask:
    """The units that lose the same images: largest Jaccard overlap first."""
    lost = study.lost
    own = lost[study.position(ask["unit"])]
    both, each = BITS[lost & own].sum(1), BITS[lost].sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = np.nan_to_num(both / (each + BITS[own].sum() - both))
    order = [at for at in np.argsort(-overlap, kind="stable") if study.units[at] != ask["unit"] and overlap[at] > 0]
    return {"units": [[int(study.units[at]), float(overlap[at])] for at in order[:8]]}


def compared(a: MeasuredStudy, unit: int, b: MeasuredStudy, other: int) -> tuple[Ask, list[bytes]]:
    """`unitlab.compare` of two units, in points, and the images that they lose."""
    found = compare(a.ds.sel(unit=unit), b.ds.sel(unit=other))
    names = {"difference": "drop_difference", "low": "difference_low", "high": "difference_high"}
    answer: Ask = {short: 100 * found[name].values for short, name in names.items()} | {"q": found["difference_q"].values}
    for at, side in enumerate("ab"):
        values = {"": "accuracy_drop", "_low": "drop_low", "_high": "drop_high"}
        answer |= {f"{side}{end}": 100 * found[name].values[at] for end, name in values.items()}
    label = a.class_position
    one, two = (
        (study.before == label) & (class_positions(study.ds, study.ds["prediction"][study.position(number)].values) != label)
        for study, number in ((a, unit), (b, other))
    )
    for name, some in (("both", one & two), ("a", one & ~two), ("b", two & ~one)):
        images = np.flatnonzero(some)
        answer |= {f"{name}_images": images.astype("i4"), f"{name}_class": label[images].astype("i4")}
    return packed(
        answer | {"jaccard": float(found["jaccard"]) if (one | two).any() else None, "neither": int((~(one | two)).sum())}
    )


def _definitions(study: MeasuredStudy, _ask: Ask) -> Ask:
    """Every number on screen, from the schema: name, title, definition."""
    held = {*map(str, study.ds.variables), *map(str, study.measures.variables)}
    names = [name for name in VARIABLES if name in held and VARIABLES[name].level in LEVELS]
    rows = [
        [
            f"{name}({', '.join(VARIABLES[name].dims)})" if VARIABLES[name].dims else name,
            quantity(name).title,
            VARIABLES[name].comment,
        ]
        for name in sorted(names, key=lambda name: LEVELS.index(VARIABLES[name].level))
    ]
    own = [[f"{name}(unit)", name, "Comes with the dataset that was given."] for name in sorted(own_attributes(study.ds))]
    return {"rows": rows + own}


ANSWERS: dict[str, Callable[[MeasuredStudy, Ask], Ask]] = {
    "unit": _unit, "class": _class, "fit": _fit, "top": _top, "tiles": _tiles, "moved": _moved,
    "class_images": _class_images, "losers": _losers, "best": _best, "alike": _alike, "definitions": _definitions,
}  # fmt: skip
