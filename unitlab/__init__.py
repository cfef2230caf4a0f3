"""unitlab: which single units of an image classifier matter, and to which classes?

``unitlab.studies()`` lists what is there, ``unitlab.load(name)`` opens a study as an `xarray.Dataset`,
``unitlab.explore(name)`` shows one in a notebook cell, ``unitlab.ablate(model, images, layer)`` computes one for a network of
your own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unitlab.errors import UnitlabError

if TYPE_CHECKING:
    from unitlab import concepts as concepts
    from unitlab import recipes as recipes
    from unitlab.analysis.accuracies import confusion as confusion
    from unitlab.analysis.agreement import agreement as agreement
    from unitlab.analysis.agreement import reliability as reliability
    from unitlab.analysis.agreement import selective_damage as selective_damage
    from unitlab.analysis.attributes import attributes as attributes
    from unitlab.analysis.comparisons.direction_comparison import compare_directions as compare_directions
    from unitlab.analysis.comparisons.direction_comparison import random_bases as random_bases
    from unitlab.analysis.comparisons.two_ablations import compare as compare
    from unitlab.analysis.correlations import correlations as correlations
    from unitlab.analysis.damage import damage as damage
    from unitlab.analysis.discrimination import discrimination as discrimination
    from unitlab.analysis.regression import regression as regression
    from unitlab.analysis.training_choices import training_choices as training_choices
    from unitlab.catalog import load as load
    from unitlab.catalog import studies as studies
    from unitlab.compute.cumulative import cumulative as cumulative
    from unitlab.compute.estimate import estimate as estimate
    from unitlab.compute.images.datasets import images as images
    from unitlab.compute.network import network as network
    from unitlab.compute.sweep.run import ablate as ablate
    from unitlab.compute.unit_groups import ablate_groups as ablate_groups
    from unitlab.compute.verify import verify as verify
    from unitlab.concepts.alignment import align as align
    from unitlab.concepts.importance import important_to as important_to
    from unitlab.concepts.partners import match as match
    from unitlab.recipes import add_recipe as add_recipe
    from unitlab.views import plots as plots
    from unitlab.views.explorer import explore as explore
    from unitlab.views.report import report as report

from unitlab.version import __version__ as __version__

# public name → where it is, so that importing unitlab imports neither torch nor what draws
_WHERE = {
    "ablate": "unitlab.compute.sweep.run",
    "ablate_groups": "unitlab.compute.unit_groups",
    "add_recipe": "unitlab.recipes",
    "agreement": "unitlab.analysis.agreement",
    "align": "unitlab.concepts.alignment",
    "attributes": "unitlab.analysis.attributes",
    "compare": "unitlab.analysis.comparisons.two_ablations",
    "compare_directions": "unitlab.analysis.comparisons.direction_comparison",
    "confusion": "unitlab.analysis.accuracies",
    "correlations": "unitlab.analysis.correlations",
    "cumulative": "unitlab.compute.cumulative",
    "damage": "unitlab.analysis.damage",
    "discrimination": "unitlab.analysis.discrimination",
    "estimate": "unitlab.compute.estimate",
    "explore": "unitlab.views.explorer",
    "important_to": "unitlab.concepts.importance",
    "images": "unitlab.compute.images.datasets",
    "load": "unitlab.catalog",
    "match": "unitlab.concepts.partners",
    "network": "unitlab.compute.network",
    "random_bases": "unitlab.analysis.comparisons.direction_comparison",
    "regression": "unitlab.analysis.regression",
    "reliability": "unitlab.analysis.agreement",
    "report": "unitlab.views.report",
    "selective_damage": "unitlab.analysis.agreement",
    "stamp_masks": "unitlab.compute.images.stamps",
    "stamps": "unitlab.compute.images.stamps",
    "studies": "unitlab.catalog",
    "training_choices": "unitlab.analysis.training_choices",
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
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
