"""Variables of outcomes of the user's own, and of pairs of units, as the analysis returns them."""

from functools import partial

from unitlab.schema.variable import CELL, UNIT, Variable

_damage, _IMAGES = partial(Variable, "damage"), ("images",)
# name, dimensions, kind, units, label, definition
OUTCOMES = (
    _damage("class_outcome_drop", CELL, "f", "outcome", "mean outcome drop",
         "Mean over the images of the class of the drop of the study's outcome; positive = damage where more is better.",
         required=False),
    _damage("class_outcome_drop_low", CELL, "f", "outcome", "mean outcome drop, lower limit",
         "Lower limit of the paired t interval of the mean outcome drop, over clusters where images come in clusters.",
         required=False, covers=_IMAGES),
    _damage("class_outcome_drop_high", CELL, "f", "outcome", "mean outcome drop, upper limit",
         "Upper limit of the same interval.", required=False, covers=_IMAGES),
    _damage("outcome_p_value", CELL, "f", "1", "p of the outcome drop",
         "Two-sided paired t test of the mean outcome drop, over clusters where images come in clusters.", required=False),
    _damage("outcome_q_value", CELL, "f", "1", "q of the outcome drop",
         "The same p adjusted for false discoveries over all cells with images (Benjamini and Hochberg 1995).", required=False),
    _damage("overall_outcome_drop", UNIT, "f", "outcome", "overall outcome drop",
         "Mean over all images of the drop of the study's outcome; positive = damage where more is better.", required=False),
    _damage("overall_outcome_drop_low", UNIT, "f", "outcome", "overall outcome drop, lower limit",
         "Lower limit of the paired t interval of the overall outcome drop, over clusters where images come in clusters, at "
         "level 1 − 0.05/number of units, so that the intervals of all units hold at once.", required=False, covers=_IMAGES),
    _damage("overall_outcome_drop_high", UNIT, "f", "outcome", "overall outcome drop, upper limit",
         "Upper limit of the same interval.", required=False, covers=_IMAGES),
    _damage("p_overall_outcome", UNIT, "f", "1", "p, overall outcome drop",
         "Two-sided paired t test of the overall outcome drop, over clusters where images come in clusters.", required=False),
    _damage("q_overall_outcome", UNIT, "f", "1", "q, overall outcome drop",
         "The same p adjusted for false discoveries over all units (Benjamini and Hochberg 1995).", required=False),
)  # fmt: skip
