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

_interaction, _PAIRS, _PAIR_CELLS = partial(Variable, "interaction"), ("pair",), ("pair", "category")


def _tested(name: str, dims: tuple[str, ...], units: str, label: str, what: str) -> tuple[Variable, ...]:
    """A mean with its interval, p and q."""
    return (
        _interaction(name, dims, "f", units, label, f"{what}; positive: together they cost more than the sum."),
        _interaction(f"{name}_low", dims, "f", units, f"{label}, lower limit",
             "Lower limit of the paired t interval over the images (clusters) that the three ablations share; NaN where all "
             "have the same.", covers=_IMAGES),
        _interaction(f"{name}_high", dims, "f", units, f"{label}, upper limit", "Upper limit of the same interval.",
             covers=_IMAGES),
        _interaction(f"{name}_p_value", dims, "f", "1", f"p of the {label}", "Two-sided paired t test that it is 0."),
        _interaction(f"{name}_q_value", dims, "f", "1", f"q of the {label}",
             "The same p adjusted for false discoveries over all that have one (Benjamini and Hochberg 1995)."),
    )  # fmt: skip


INTERACTION = (
    _interaction("pair", _PAIRS, "iT", "1", "pair", "Name or number of a pair of units.", coordinate=True),
    _interaction("category", ("category",), "T", "1", "class", "Name of the class.", coordinate=True),
    _interaction("unit_i", _PAIRS, "i", "1", "first unit", "One unit of the pair.", coordinate=True),
    _interaction("unit_j", _PAIRS, "i", "1", "second unit", "The other.", coordinate=True),
    *_tested("interaction", _PAIR_CELLS, "1", "interaction", "Class accuracy's drop of the pair minus those of its units"),
    *_tested("overall_interaction", _PAIRS, "1", "overall interaction", "Overall drop of the pair minus those of its units"),
    *_tested("margin_interaction", _PAIR_CELLS, "logit", "margin interaction",
             "Mean margin drop over the class's images of the pair minus those of its units"),
    *_tested("overall_margin_interaction", _PAIRS, "logit", "overall margin interaction",
             "Mean margin drop over all images of the pair minus those of its units"),
)  # fmt: skip

_shapley = partial(Variable, "shapley")
SHAPLEY = (
    _shapley("unit", UNIT, "i", "1", "unit", "Channel of the layer's output.", coordinate=True),
    _shapley("category", ("category",), "T", "1", "class", "Name of the class.", coordinate=True),
    _shapley("shapley_drop", UNIT, "f", "1", "Shapley value",
         "Mean over random orders of what silencing the unit takes from the overall accuracy after those before it."),
    _shapley("shapley_drop_error", UNIT, "f", "1", "standard error over orders",
         "Standard deviation over the orders / √(number of orders); of the orders alone, with the images as they are."),
    _shapley("class_shapley_drop", CELL, "f", "1", "Shapley value of a class",
         "The same of the class's accuracy. NaN for a class without images."),
    _shapley("class_shapley_drop_error", CELL, "f", "1", "standard error over orders", "The same of the class's value."),
)  # fmt: skip
