"""Variables that `unitlab.cumulative` returns."""

from unitlab.schema.stored import STUDY
from unitlab.schema.variable import Variable

_CURVE = ("order", "k")
_OF_STUDY = ("category", "category_index", "image", "label", "cluster", "baseline_prediction", "n_images")

CURVES = (
    *(row for row in STUDY if row.name in _OF_STUDY),
    Variable(
        "order", "curves", ("order",), "T", "order", "1",
        "What the units are ordered by: the variable, the class of a class's own order, or the number of a random order.",
        coordinate=True,
    ),
    Variable("k", "curves", ("k",), "i", "units", "units", "How many units are silenced, or kept.", coordinate=True),
    Variable(
        "accuracy", "curves", _CURVE, "f", "accuracy", "1",
        "Correct predictions / images, top-1, with the first k units of the order silenced (or only they kept).",
    ),
    Variable(
        "accuracy_low", "curves", _CURVE, "f", "accuracy, lower limit", "1",
        "Lower limit of the 95 % interval of the accuracy (Wilson 1927); where images come in clusters with the number of "
        "images divided by the design effect.",
    ),
    Variable("accuracy_high", "curves", _CURVE, "f", "accuracy, upper limit", "1", "Upper limit of the same interval."),
    Variable(
        "mean_balanced_accuracy", "curves", _CURVE, "f", "mean balanced accuracy", "1",
        "Mean over the classes with images of their balanced accuracies.",
    ),
    Variable(
        "class_accuracy", "curves", (*_CURVE, "category"), "f", "class accuracy", "1",
        "Correct predictions for images of the class / images of the class. NaN for a class without images.",
    ),
    Variable(
        "balanced_accuracy", "curves", (*_CURVE, "category"), "f", "balanced accuracy", "1",
        "(Recall + true negative rate)/2 of the class against all others. NaN for a class without images or without others.",
    ),
    Variable(
        "own_accuracy", "curves", _CURVE, "f", "class accuracy, own order", "1",
        "Accuracy of the class that the order belongs to.", required=False,
    ),
    Variable(
        "own_balanced_accuracy", "curves", _CURVE, "f", "balanced accuracy, own order", "1",
        "Balanced accuracy of the class that the order belongs to; its mean over orders at k = 20 is the measurement of Bau et "
        "al. (PNAS 2020).", required=False,
    ),
    Variable(
        "ranked_unit", "curves", ("half", "order", "rank"), "i", "ranked unit", "1",
        "Units in the order in which they are silenced (or kept); with cross-fitting, of either half of the images.",
    ),
    Variable(
        "curve_prediction", "curves", (*_CURVE, "image"), "i", "prediction", "class index",
        "Top-1 class with the first k units of the order silenced (or only they kept).",
    ),
)  # fmt: skip
