"""What a study says of a unit and of all of them, in sentences, and how their numbers are written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA, LEVEL
from unitlab.analysis.damage import LEAST_CHANGED
from unitlab.analysis.paired_tests import benjamini_hochberg, simultaneous
from unitlab.analysis.requirements import unit_position


class Finding(NamedTuple):
    """A sentence around the name of a class (empty where it is about none)."""

    before: str
    category: str = ""
    after: str = ""

    def __str__(self) -> str:
        return self.before + self.category + self.after


def number(value: float) -> str:
    """Three significant digits; a dash where there is no value."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−")


def decimal(value: float) -> str:
    """One decimal, a true minus, no minus zero; a dash where there is no value."""
    text = f"{value:.1f}" if np.isfinite(value) else "–"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def coefficient(value: float) -> str:
    """Two decimals with their sign, a true minus; a dash where there is no value."""
    return f"{value:+.2f}".replace("-", "−") if np.isfinite(value) else "–"


def points(drop: float) -> str:
    """A drop (a fraction) in points of 100."""
    if not np.isfinite(drop):
        return "–"
    # halves away from zero, as the page writes the same number in single precision
    value = round(100.0001 * drop, 1 if abs(drop) >= 0.001 else 2) + 0.0
    return f"{value:.1f}".replace("-", "−") if abs(drop) >= 0.001 or value == 0 else f"{value:.2f}".replace("-", "−")


def interval(low: float, high: float) -> str:
    """An interval of a drop in points."""
    return f"{points(low)} to {points(high)}" if np.isfinite(low) and np.isfinite(high) else "–"


def probability(name: str, value: float) -> str:
    """``p = 0.012``, ``q < 0.001``."""
    if not np.isfinite(value):
        return f"{name} unknown"
    return f"{name} < 0.001" if value < 0.001 else f"{name} = {value:.2g}"


def unit_finding(known: xr.Dataset, unit: int) -> Finding:
    """What silencing one unit does, in a sentence or two; ``known`` holds `unitlab.damage` and `unitlab.attributes`."""
    row = known.isel(unit=unit_position(known, unit))
    changed = int((row["n_broken"] + row["n_fixed"]).sum())
    if "max_activation" in row and float(row["max_activation"]) <= 0 and changed == 0:
        return Finding(f"Unit {unit} is never active on these images: silencing it changes nothing.")
    if changed == 0:
        return Finding(f"Silencing unit {unit} makes no image right or wrong that was not so before.")
    lost, won = int(row["n_broken"].sum()), int(row["n_fixed"].sum())
    level = float(known.attrs.get("level", LEVEL))
    limits = interval(float(row["overall_drop_low"]), float(row["overall_drop_high"]))
    overall = (
        f"overall {points(float(row['overall_drop']))} ({100 * level:g} % interval for all units at once {limits}; {lost} "
        f"images lost, {won} won)"
    )
    place = int(row["max_class"])
    drop = float(row["max_class_drop"])
    if place < 0 or not drop > 0:
        return Finding(f"Unit {unit} costs no class anything; {overall}.")
    cell = row.isel(category=place)
    limits = interval(float(row["max_class_drop_low"]), float(row["max_class_drop_high"]))
    q, n_classes = float(cell["q_value"]), int((known["n_images"].values > 0).sum())
    sure = f"{100 * simultaneous(level, n_classes):.5g} % interval {limits}, as it is the worst of {n_classes:,} classes"
    p = probability("p", float(row["p_specific"]))
    limits = interval(float(row["max_class_drop_crossfit_low"]), float(row["max_class_drop_crossfit_high"]))
    unselected = f"{points(float(row['max_class_drop_crossfit']))} ({limits} for all units at once)"
    specific = (
        f"It damages specific classes ({p}); cross-fitted, its largest class drop is {unselected}."
        if float(row["p_specific"]) <= ALPHA
        else f"That it singles out classes is not shown ({p}); cross-fitted, its largest class drop is {unselected}."
    )
    name = str(known["category"].values[place])
    rest = f"({sure}; {probability('q', q)}); {overall}. {specific}"
    if q <= ALPHA:
        return Finding(f"Unit {unit} costs ", name, f" {points(drop)} points {rest}")
    few = "" if int(cell["n_changed"]) >= LEAST_CHANGED else ": too few of its images change for any p of 0.05"
    return Finding(
        f"The largest of the drops by unit {unit}, of ", name, f", is {points(drop)} points and not significant{few} {rest}"
    )


def study_finding(known: xr.Dataset) -> str:
    """What a study says of all its units, in two sentences."""
    n = known.sizes["unit"]
    overall = known["overall_drop"].values
    place = int(overall.argmax())
    specific = int((known["p_specific"].values <= ALPHA).sum())
    first = (
        f"Of {n} units, {specific} {'damages' if specific == 1 else 'damage'} specific classes (p ≤ {ALPHA:g}; by chance about "
        f"{number(round(ALPHA * n, 1))} would seem to)"
    )
    hurt = int(((benjamini_hochberg(known["p_overall"].values) <= ALPHA) & (overall > 0)).sum())
    level = float(known.attrs.get("level", LEVEL))
    second = (
        f"{hurt} {'costs' if hurt == 1 else 'cost'} overall accuracy (q ≤ {ALPHA:g} over the units), none more than "
        f"{points(float(known['overall_drop_bound']))} points ({100 * level:g} %, one-sided; the largest measured is "
        f"{points(float(overall[place]))}, unit {int(known['unit'][place])})"
    )
    cells = int(known["damaged"].values.sum())
    return (
        f"{first}, and {second}. {cells:,} of {known.attrs['n_cells']:,} unit–class pairs are damaged at q ≤ {ALPHA:g}. "
        f"{known.attrs['tested']}"
    )
