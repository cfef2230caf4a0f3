"""The finding about a unit and a class, as it heads the bars."""

from __future__ import annotations

import numpy as np

from unitlab.views.explorer.measured_study import FEW_IMAGES, ClassDrops, MeasuredStudy
from unitlab.views.explorer.messages import as_text
from unitlab.views.findings import interval, points, probability
from unitlab.views.words import shortened

NAME_WIDTH = 48


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
    name = f'<em title="{as_text(study.names[k])}">{as_text(shortened(study.names[k], NAME_WIDTH))}</em>'
    overall = f"overall {points(study.values('overall_drop')[place] / 100)}"
    if not row.n_images[k]:
        return f"<b>Unit {unit}:</b> the study has no image of {name}, so there is no drop to show; {overall}."
    drop, q, sign = row.drop[k] / 100, row.q[k], 1 if row.drop[k] >= 0 else -1
    ends = sorted((sign * row.low[k] / 100, sign * row.high[k] / 100))
    sure = [] if np.isnan(row.low[k]) else [f"95 %: {interval(*ends)}"]
    if np.isnan(q):
        sure.append("q is being computed")
    else:
        sure.append(as_text(probability("q", q)) + ("" if row.significant[k] else ", not significant by itself"))
    verb = f"costs {name}" if drop > 0 else f"holds {name} back by" if drop < 0 else f"changes {name} by"
    few = f" The class has only {int(row.n_images[k])} images." if row.n_images[k] < FEW_IMAGES else ""
    what = f"<b>Unit {unit}</b> {verb} <b>{points(abs(drop))}</b> points ({'; '.join(sure)}); {overall}."
    return f"{what}{few} {_unit_level(study, place)}"


def _unit_level(study: MeasuredStudy, place: int) -> str:
    """Whether the unit's damage falls on some classes more than flips regardless of class would."""
    if not study.complete:
        return ""
    p = as_text(probability("p", study.p_specific[place]))
    if study.significant[place]:
        return f"It damages specific classes ({p})."
    return f"Its damage is not shown to be specific ({p})."
