"""Variables that `unitlab.ablate_groups` returns: those of an ablation, over groups of units instead of units."""

from dataclasses import replace

from unitlab.schema.damage import DAMAGE
from unitlab.schema.stored import ABLATION, LAYER, STUDY
from unitlab.schema.variable import Variable

_OF_STUDY = tuple(row for row in STUDY if row.name != "thumbnails")
_UNIT = tuple(row for row in LAYER if row.name == "unit")
_BALANCED = tuple(row for row in DAMAGE if row.name == "balanced_accuracy_drop")


def _over_groups(row: Variable) -> Variable:
    dims = tuple("group" if dim == "unit" else dim for dim in row.dims)
    comment = row.comment.replace("ablation of the unit", "ablation of the group's units together")
    return replace(row, level="groups", dims=dims, comment=comment)


GROUPS = (
    *_OF_STUDY,
    *_UNIT,
    Variable("group", "groups", ("group",), "iT", "group", "1", "Name or number of a group of units.", coordinate=True),
    Variable("member", "groups", ("group", "unit"), "b", "member", "1", "Whether the group holds the unit."),
    Variable("n_units", "groups", ("group",), "i", "units", "units", "Units that the group holds."),
    *map(_over_groups, (*ABLATION, *_BALANCED)),
)
