"""The finding about a unit, in a sentence."""

from __future__ import annotations

import numpy as np

from unitlab.views.explorer.measured_study import FEW_IMAGES, ClassDrops, MeasuredStudy
from unitlab.views.explorer.messages import as_text

__all__ = ["finding_html", "points"]


def points(value: float) -> str:
    """A drop in points: one decimal, a true minus, no minus zero."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def finding_html(study: MeasuredStudy, unit: int, row: ClassDrops, category: str = "") -> str:
    """What the ablation of ``unit`` costs its most damaged class, or ``category``, with interval, q and the overall drop."""
    place = study.position(unit)
    if study.dead[place]:
        return (
            f"<b>Unit {unit} is dead:</b> it is above zero on none of the {study.ds.sizes['image']:,} images, "
            "so nothing changes without it."
        )
    if not len(row.order):
        return f"<b>Unit {unit}:</b> no class of the study has images."
    k = study.category_position(category) if category else int(row.order[0])
    name = f"<em>{as_text(study.names[k])}</em>"
    overall = f"overall {points(study.values('overall_drop')[place])}"
    if not row.n_images[k]:
        return f"<b>Unit {unit}:</b> the study has no image of {name}, so there is no drop to show; {overall}."
    drop, q = row.drop[k], row.q[k]
    limits = "" if np.isnan(row.low[k]) else f" (95 %: {points(row.low[k])} to {points(row.high[k])})"
    level = "q is being computed" if np.isnan(q) else f"q = {q:.2g}" if q >= 0.001 else "q &lt; 0.001"
    if drop > 0:
        verb, amount = "costs", points(drop)
    elif drop < 0:
        verb, amount = "helps", points(-drop)
        limits = "" if np.isnan(row.low[k]) else f" (95 %: {points(-row.high[k])} to {points(-row.low[k])})"
        verb = "holds back"
    else:
        return f"<b>Unit {unit}</b> changes {name} by 0.0 points{limits}; {overall}."
    caution = f" Only {int(row.n_images[k])} images of the class." if row.n_images[k] < FEW_IMAGES else ""
    doubt = "" if np.isnan(q) or row.significant[k] else " — within chance"
    return f"<b>Unit {unit}</b> {verb} {name} <b>{amount}</b> points{limits}, {level}{doubt}; {overall}.{caution}"
