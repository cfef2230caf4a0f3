"""What the notebook of directions says of a rotation in parts is what the bundled comparisons say."""

from __future__ import annotations

from pathlib import Path

import nbformat

import unitlab


def test_a_rotation_in_parts() -> None:
    path = Path(__file__).parents[2] / "notebooks" / "directions_batch_norm_dropout.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    said = " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())
    found = {power: unitlab.random_bases(power=power) for power in (0.25, 0.5, 0.75, 1)}
    crossfit = {power: ds.sel(measure="max_class_drop_crossfit", comparison="whole basis") for power, ds in found.items()}
    units = 100 * crossfit[1].unit_value.mean().item()
    quarter, half, three_quarters, whole = (100 * ds.direction_value.mean().item() for ds in crossfit.values())
    assert f"loses {units:.2f} points for the units, {quarter:.2f} a quarter of the way, {half:.2f} half way" in said
    assert f"{three_quarters:.2f} at three quarters and {whole:.2f} for random directions" in said
    assert "Already a quarter of the way the difference is clear of zero" in said
    assert all(ds.difference_high < 0 for ds in crossfit.values())
    assert "most of it is there half way" in said and (units - half) / (units - whole) > 0.8
    overall = [ds.sel(measure="overall_drop", comparison="whole basis") for ds in found.values()]
    assert "The overall drop shows no clear difference at any part of the way" in said
    assert all(ds.difference_low < 0 < ds.difference_high for ds in overall)
