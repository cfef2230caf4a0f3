"""unitlab: which single units of an image classifier matter, and to which classes?

``unitlab.studies()`` lists what is there, ``unitlab.load(name)`` opens a study as an `xarray.Dataset`,
``unitlab.explore(name)`` shows one in a notebook cell, ``unitlab.ablate(model, images, layer)`` computes one for a network of
your own.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from unitlab.errors import UnitlabError
from unitlab.named_studies import takes_names

if TYPE_CHECKING:
    from unitlab import concepts as concepts
    from unitlab import recipes as recipes
    from unitlab.analysis.accuracies import confusion as _confusion
    from unitlab.analysis.accuracies import shapley as shapley
    from unitlab.analysis.agreement import agreement as _agreement
    from unitlab.analysis.agreement import reliability as _reliability
    from unitlab.analysis.agreement import selective_damage as _selective_damage
    from unitlab.analysis.attributes import attributes as _attributes
    from unitlab.analysis.comparisons.across_layers import damage_across_layers as _damage_across_layers
    from unitlab.analysis.comparisons.direction_comparison import compare_directions as _compare_directions
    from unitlab.analysis.comparisons.direction_comparison import random_bases as random_bases
    from unitlab.analysis.comparisons.interaction import interaction as _interaction
    from unitlab.analysis.comparisons.training_choices import training_choices as training_choices
    from unitlab.analysis.comparisons.training_choices import training_effects as training_effects
    from unitlab.analysis.comparisons.two_ablations import compare as _compare
    from unitlab.analysis.correlations import correlations as _correlations
    from unitlab.analysis.damage import damage as _damage
    from unitlab.analysis.discrimination import discrimination as _discrimination
    from unitlab.analysis.regression import regression as _regression
    from unitlab.analysis.variance_components import variance_components as _variance_components
    from unitlab.catalog import load as load
    from unitlab.catalog import studies as studies
    from unitlab.compute.cumulative import cumulative as cumulative
    from unitlab.compute.dissect import dissect as dissect
    from unitlab.compute.estimate import estimate as estimate
    from unitlab.compute.images.datasets import images as images
    from unitlab.compute.network import network as network
    from unitlab.compute.own_recipe import add_recipe as add_recipe
    from unitlab.compute.sweep.run import ablate as ablate
    from unitlab.compute.unit_groups import ablate_groups as ablate_groups
    from unitlab.compute.verify import verify as verify
    from unitlab.concepts.alignment import align as _align
    from unitlab.concepts.class_dependence import units_of as _units_of
    from unitlab.concepts.importance import important_to as _important_to
    from unitlab.concepts.partners import match as _match
    from unitlab.views import plots as plots
    from unitlab.views.description import describe as _describe
    from unitlab.views.explorer import explore as explore
    from unitlab.views.report import report as report

    agreement = takes_names(_agreement)
    align = takes_names(_align)
    attributes = takes_names(_attributes)
    compare = takes_names(_compare)
    compare_directions = takes_names(_compare_directions)
    confusion = takes_names(_confusion)
    correlations = takes_names(_correlations)
    damage = takes_names(_damage)
    damage_across_layers = takes_names(_damage_across_layers)
    describe = takes_names(_describe)
    discrimination = takes_names(_discrimination)
    important_to = takes_names(_important_to)
    interaction = takes_names(_interaction)
    match = takes_names(_match)
    regression = takes_names(_regression)
    reliability = takes_names(_reliability)
    selective_damage = takes_names(_selective_damage)
    units_of = takes_names(_units_of)
    variance_components = takes_names(_variance_components)

from unitlab.version import __version__ as __version__

# public name → where it is, so that importing unitlab imports neither torch nor what draws
_WHERE = {
    "ablate": "unitlab.compute.sweep.run",
    "ablate_groups": "unitlab.compute.unit_groups",
    "add_recipe": "unitlab.compute.own_recipe",
    "agreement": "unitlab.analysis.agreement",
    "align": "unitlab.concepts.alignment",
    "attributes": "unitlab.analysis.attributes",
    "compare": "unitlab.analysis.comparisons.two_ablations",
    "compare_directions": "unitlab.analysis.comparisons.direction_comparison",
    "confusion": "unitlab.analysis.accuracies",
    "correlations": "unitlab.analysis.correlations",
    "cumulative": "unitlab.compute.cumulative",
    "damage": "unitlab.analysis.damage",
    "damage_across_layers": "unitlab.analysis.comparisons.across_layers",
    "describe": "unitlab.views.description",
    "discrimination": "unitlab.analysis.discrimination",
    "dissect": "unitlab.compute.dissect",
    "estimate": "unitlab.compute.estimate",
    "explore": "unitlab.views.explorer",
    "important_to": "unitlab.concepts.importance",
    "images": "unitlab.compute.images.datasets",
    "interaction": "unitlab.analysis.comparisons.interaction",
    "load": "unitlab.catalog",
    "match": "unitlab.concepts.partners",
    "network": "unitlab.compute.network",
    "random_bases": "unitlab.analysis.comparisons.direction_comparison",
    "regression": "unitlab.analysis.regression",
    "reliability": "unitlab.analysis.agreement",
    "report": "unitlab.views.report",
    "selective_damage": "unitlab.analysis.agreement",
    "shapley": "unitlab.analysis.accuracies",
    "stamp_masks": "unitlab.compute.images.stamps",
    "stamps": "unitlab.compute.images.stamps",
    "studies": "unitlab.catalog",
    "training_choices": "unitlab.analysis.comparisons.training_choices",
    "training_effects": "unitlab.analysis.comparisons.training_choices",
    "units_of": "unitlab.concepts.class_dependence",
    "variance_components": "unitlab.analysis.variance_components",
    "verify": "unitlab.compute.verify",
}
_MODULES = {"concepts": "unitlab.concepts", "plots": "unitlab.views.plots", "recipes": "unitlab.recipes"}
_TORCH = {"requests", "torch", "torchvision", "safetensors"}

__all__ = ["UnitlabError", *_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _WHERE:
        raise AttributeError(f"module 'unitlab' has no attribute {name!r}")
    try:
        found = getattr(importlib.import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _TORCH:
            raise
        raise UnitlabError(
            f"unitlab.{name} runs networks and needs {error.name}, which is not installed; "
            "install unitlab with its extra 'compute'"
        ) from error
    if inspect.isfunction(found):
        found = takes_names(found)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
