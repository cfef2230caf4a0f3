"""Variables that `unitlab.compare_directions` returns."""

from unitlab.schema.variable import Variable

COMPARISON = (
    Variable("measure", "comparison", ("measure",), "T", "measure", "1", "Name of a variable over units.", coordinate=True),
    Variable("comparison", "comparison", ("comparison",), "T", "comparison", "1",
             "Over the whole bases, or over pairs of like removed energy.", coordinate=True),
    Variable("basis_name", "comparison", ("basis",), "T", "basis", "1", "The ablation's name of a basis.", coordinate=True),
    Variable("unit", "comparison", ("unit",), "i", "unit", "1", "Channel of the layer's output.", coordinate=True),
    Variable("direction", "comparison", ("direction",), "i", "direction", "1", "Row of the basis.", coordinate=True),
    Variable("unit_value", "comparison", ("measure", "unit"), "f", "value of the unit", "1", "The measure, of each unit."),
    Variable("direction_value", "comparison", ("measure", "basis", "direction"), "f", "value of the direction", "1",
             "The measure, of each direction."),
    Variable("matched_unit", "comparison", ("basis", "direction"), "i", "matched unit", "1",
             "Number of the unit whose removed energy is nearest in ratio to the direction's; −1 if none is within 1.25."),
    Variable("n_matched", "comparison", ("basis",), "i", "matched directions", "directions",
             "Directions with a unit of like removed energy."),
    Variable("difference", "comparison", ("comparison", "measure", "basis"), "f", "directions minus units", "1",
             "Mean of the directions minus mean of the units; over matched pairs, mean difference of the pairs."),
    Variable("difference_mean", "comparison", ("comparison", "measure"), "f", "directions minus units, mean over bases", "1",
             "Mean of the differences over the bases."),
    Variable("difference_low", "comparison", ("comparison", "measure"), "f", "lower limit", "1",
             "Lower limit of Student's t interval over the bases; NaN for one basis."),
    Variable("difference_high", "comparison", ("comparison", "measure"), "f", "upper limit", "1",
             "Upper limit of Student's t interval over the bases."),
)  # fmt: skip
