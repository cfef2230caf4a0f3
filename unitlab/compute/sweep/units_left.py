"""What a store does not have yet of the units that a sweep is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import xarray as xr
from torch import nn

from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.fingerprints import unit_dim_of
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.study_arrays import ROOT_FINGERPRINTS
from unitlab.errors import UnitlabError, before_and_now, units_named
from unitlab.store.study import open_study, study_summary


def plans_left(plan: SweepPlan, model: nn.Module, source: ImageSource, store: str | Path) -> list[SweepPlan]:
    """What of a plan a store does not have: one plan for all layers that lack the same units.

    Raises
    ------
    UnitlabError
        The store is of something else.
    """
    if not Path(store).exists():
        return [plan]
    there = _stored_units(Path(store), plan)
    lacking: dict[tuple[int, ...], list[LayerPlan]] = {}
    for layer in plan.layers:
        units = tuple(unit for unit in layer.units if unit not in there[layer.name])
        if units:
            lacking.setdefault(units, []).append(layer)
    if all(layer.units == list(units) for units, layers in lacking.items() for layer in layers) and len(plan.layers) == sum(
        map(len, lacking.values())
    ):
        return [plan]
    return [
        plan_sweep(
            model,
            source,
            replace(
                plan.request.with_axes(layer.basis for layer in layers), layer=[layer.name for layer in layers], units=units
            ),
            plan.network.device,
        )
        for units, layers in lacking.items()
    ]


def _stored_units(store: Path, plan: SweepPlan) -> dict[str, set[int]]:
    """The units of each layer that a store has under this ablation; a store of something else is refused."""
    summary = study_summary(store)
    if (result := summary.attrs.get("result")) is not None:
        raise UnitlabError(f"{store} holds {result}, no study; give another store, or remove this one")
    for field in ROOT_FINGERPRINTS:
        if summary.attrs.get(f"fingerprint_{field}") != plan.fingerprint.get(field):
            raise UnitlabError(
                f"{store} was computed with other {field}: with {ROOT_FINGERPRINTS[field]} than given now. It holds "
                f"{summary.n_images:,} images of {summary.images} in {summary.categories:,} classes, computed "
                f"{summary.attrs.get('created', 'earlier')}; give another store, or remove this one"
            )
    for layer in plan.layers:
        stored = summary.layers.get(layer.name)
        there = unit_dim_of(open_study(store, layer.name, stored[0]).attrs) if stored else layer.site.unit_dim
        if there != layer.site.unit_dim:
            raise UnitlabError(
                f"{store} has {layer.name} with its units along dimension {there}, here they are along dimension "
                f"{layer.site.unit_dim}; give unit_dim={there}, or another store"
            )
    found: dict[str, set[int]] = {layer.name: set() for layer in plan.layers}
    for layer in plan.layers:
        if plan.ablation_name not in summary.layers.get(layer.name, ()):
            continue
        ds = open_study(store, layer.name, plan.ablation_name)
        lacking = set(layer.units) - set(ds.unit.values.tolist())
        _refuse_other_screen(store, f"{layer.name}/{plan.ablation_name}", ds, plan.request.screen, bool(lacking))
        for field, asked in plan.layer_fingerprint(layer).items():
            if field not in ("unit_dim", "screen") and str(ds.attrs.get(f"fingerprint_{field}")) != asked:
                held = units_named(ds.unit.values, int(ds.attrs["channels"]))
                raise UnitlabError(
                    f"{store} holds {layer.name}/{plan.ablation_name} of {held} with other {field}"
                    f"{before_and_now(ds.attrs.get(f'fingerprint_{field}'), asked)}; give another store, or remove this one"
                )
        found[layer.name] = set(ds.unit.values.tolist())
    return found


def _refuse_other_screen(store: Path, name: str, ds: xr.Dataset, screen: float | None, lacking: bool) -> None:
    """Refuse to take what is stored for what is asked, or to add units to it, where one of both is screened.

    Of a layer of which every pair is evaluated more is known than any screen asks.
    """
    there = ds.attrs.get("fingerprint_screen")
    if screen is None and there is not None:
        raise UnitlabError(
            f"{store} holds {name} with screen={there}, and every pair is asked for now; give another store, or remove this one"
        )
    if screen is not None and (lacking or there not in (None, str(screen))):
        held = "every pair evaluated" if there is None else f"screen={there}"
        raise UnitlabError(
            f"{store} holds {name} with {held}, and screen={screen} {'of further units ' if lacking else ''}is asked for: a "
            "layer is screened as a whole; give another store, or remove this one"
        )
