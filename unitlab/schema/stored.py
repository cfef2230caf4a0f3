"""Variables that a study on disk holds, level by level."""

from collections.abc import Iterable
from functools import partial

from unitlab.schema.variable import CELL, CLASS, IMAGE, UNIT, Variable

_study = partial(Variable, "study")
# name, dimensions, kind, units, label, definition
STUDY = (
    _study("category", CLASS, "T", "1", "class", "Name of the class.", coordinate=True),
    _study("category_index", CLASS, "i", "1", "class index",
         "Number that label and prediction use for the class.", coordinate=True),
    _study("image", IMAGE, "T", "1", "image", "Id of the image.", coordinate=True),
    _study("label", IMAGE, "i", "class index", "label", "Class that the image counts for."),
    _study("cluster", IMAGE, "i", "1", "cluster",
         "Images of one cluster belong together (drawings of one thing) and are not independent.", required=False),
    _study("baseline_prediction", IMAGE, "i", "class index", "baseline prediction", "Top-1 class of the unablated network."),
    _study("baseline_margin", IMAGE, "f", "logit", "baseline margin",
         "Logit of the label minus the largest other logit, unablated network."),
    _study("n_images", CLASS, "i", "images", "images", "Images of the class."),
    _study("baseline_accuracy", CLASS, "f", "1", "baseline class accuracy",
         "Correct predictions for images of the class / images of the class, top-1, unablated network. NaN for a class "
         "without images."),
    _study("thumbnails", ("image", "thumbnail_row", "thumbnail_column", "rgb"), "u", "1", "thumbnails",
         "The images, small, 8-bit RGB (or one grey channel).", required=False),
)  # fmt: skip

_layer = partial(Variable, "layer")
_UNIT_IMAGE, _TOP = ("unit", "image"), ("unit", "top_rank")
LAYER = (
    _layer("unit", UNIT, "i", "1", "unit", "Channel, or feature, of the layer's output.", coordinate=True),
    _layer("class_activation", CELL, "f", "activation", "class activation",
         "Mean over the images of a class of the spatial mean of the unit's map. NaN for a class without images."),
    _layer("activation_mean", _UNIT_IMAGE, "f", "activation", "spatial mean activation",
         "Mean of the unit's map over its positions, kept to 8 significant bits."),
    _layer("activation_max", _UNIT_IMAGE, "f", "activation", "spatial max activation",
         "Maximum of the unit's map over its positions, kept to 8 significant bits."),
    _layer("class_correlation", CELL, "f", "1", "class correlation",
         "Pearson correlation over images between the unit's spatial max activation and the predicted probability (softmax) "
         "of the class (Zhou et al. 2018). NaN where either is constant."),
    _layer("first_order_margin_drop", CELL, "f", "logit", "first-order margin drop",
         "Mean over a class's images of the sum over positions of activation × d(label margin)/d(activation): the linear "
         "estimate of the margin lost to a zero ablation. NaN for a class without images.", required=False),
    _layer("mean_activation", UNIT, "f", "activation", "mean activation", "Mean over all images and positions."),
    _layer("max_activation", UNIT, "f", "activation", "maximum activation", "Maximum over all images and positions."),
    _layer("fraction_active", UNIT, "f", "1", "fraction of images active",
         "Share of the images on which the unit is above zero somewhere."),
    _layer("l1_norm", UNIT, "f", "1", "L1 norm",
         "Sum of |w| over the unit's own filter (Li et al. 2016). NaN where the site has no filter of its own."),
    _layer("l2_norm", UNIT, "f", "1", "L2 norm", "Root of the sum of w² over the unit's own filter."),
    _layer("l1_norm_folded", UNIT, "f", "1", "L1 norm, batch norm folded in",
         "L1 norm of the filter times |γ/√(σ²+ε)| of the batch norm behind it; NaN without batch norm."),
    _layer("l2_norm_folded", UNIT, "f", "1", "L2 norm, batch norm folded in",
         "L2 norm of the filter times |γ/√(σ²+ε)| of the batch norm behind it; NaN without batch norm."),
    _layer("batch_norm_scale", UNIT, "f", "1", "batch-norm scale",
         "γ of the batch norm between the filter and the site; NaN without batch norm."),
    _layer("outgoing_l1_norm", UNIT, "f", "1", "outgoing L1 norm",
         "Sum of |w| over the weights with which the next convolutions and linear layers read the unit. NaN where anything "
         "else reads it, such as a residual sum.", required=False),
    _layer("outgoing_l2_norm", UNIT, "f", "1", "outgoing L2 norm",
         "Root of the sum of w² over the weights with which the next convolutions and linear layers read the unit. NaN where "
         "anything else reads it.", required=False),
    _layer("top_image", _TOP, "i", "1", "top image",
         "Positions (along image) of the images with the largest spatial max activation, descending; ties go to the earlier "
         "image; −1 where there are fewer images."),
    _layer("top_activation", _TOP, "f", "activation", "top activation", "Spatial max activation of the top images."),
    _layer("top_map", ("unit", "top_rank", "row", "column"), "f", "activation", "activation map",
         "The unit's map on its top images; of tokens the grid of patches, or one row."),
)  # fmt: skip

_ablation = partial(Variable, "ablation")
ABLATION = (
    _ablation("prediction", _UNIT_IMAGE, "i", "class index", "prediction",
         "Top-1 class after the ablation of the unit; −1 where that was not evaluated, in a screened layer."),
    _ablation("label_margin_drop", _UNIT_IMAGE, "f", "logit", "margin drop",
         "Drop of the margin (logit of the label minus the largest other logit); positive = damage. Kept in 16 bits; beyond "
         "±65,504 it reads ±inf. A first-order estimate where a screened layer's pair was not evaluated."),
    _ablation("n_broken", CELL, "i", "images", "broken",
         "Images of the class that were right before the ablation and are wrong after it."),
    _ablation("n_fixed", CELL, "i", "images", "fixed",
         "Images of the class that were wrong before the ablation and are right after it."),
    _ablation("n_predicted", CELL, "i", "images", "predicted",
         "Images of any class that are predicted as the class after the ablation."),
    _ablation("accuracy_drop", CELL, "f", "1", "accuracy drop",
         "Class accuracy before minus after, (n_broken − n_fixed)/n_images; positive = damage. NaN for a class without "
         "images."),
    _ablation("overall_drop", UNIT, "f", "1", "overall drop",
         "Accuracy over all images before minus after; positive = damage. Of a screened layer an estimate, with "
         "overall_drop_error."),
    _ablation("evaluated", _UNIT_IMAGE, "u", "1", "evaluated",
         "Of a screened layer: 0 for a pair that was not evaluated, whose prediction is −1 and whose margin drop is a "
         "first-order estimate; 1 for one that was for sure, or in which the ablation changes nothing; 2 for one of the random "
         "sample of the rest, drawn with the probability in the attribute screen_probability.", required=False),
    _ablation("overall_drop_error", UNIT, "f", "1", "standard error of the overall drop",
         "Of a screened layer, whose overall_drop is a Horvitz–Thompson estimate: its standard error over draws of the sample, "
         "not over images. 0 where the sample found no image that changes, which does not say that none does.",
         required=False),
    _ablation("n_unevaluated", CELL, "i", "images", "not evaluated",
         "Of a screened layer: images of the class that were not evaluated for the unit; n_broken, n_fixed and n_predicted "
         "leave them out.", required=False),
    _ablation("accuracy_drop_missed", CELL, "f", "1", "accuracy drop, missed at most",
         "Of a screened layer, whose accuracy_drop is of the evaluated pairs (as if the others changed nothing): how far that "
         "of all images can be from it, all cells at once, 95 %: the smaller of the class's unevaluated images and the "
         "layer's limit of missed changes, over n_images.", required=False),
    _ablation("removed_energy", UNIT, "f", "1", "removed energy",
         "Sum of the squares of what the ablation takes away, over images and positions, as a share of the sum over all the "
         "layer's units (or directions).", required=False),
    _ablation("outcome_drop", _UNIT_IMAGE, "f", "outcome", "outcome drop",
         "The outcome that the attribute outcome names, unablated minus under the ablation of the unit; positive = damage "
         "where more is better.", required=False),
    _ablation("baseline_outcome", IMAGE, "f", "outcome", "baseline outcome", "The same outcome, unablated network.",
         required=False),
    _ablation("n_broken_topk", CELL, "i", "images", "broken, top-k",
         "Images of the class whose label was among the k largest logits before the ablation and is not after it; k is the "
         "attribute top_k, 5 for networks of 100 classes or more.", required=False),
    _ablation("n_fixed_topk", CELL, "i", "images", "fixed, top-k",
         "Images of the class whose label was not among the k largest logits before the ablation and is after it.",
         required=False),
    _ablation("topk_accuracy_drop", CELL, "f", "1", "top-k accuracy drop",
         "Share of the class's images whose label is among the k largest logits, before minus after, (n_broken_topk − "
         "n_fixed_topk)/n_images; positive = damage. NaN for a class without images.", required=False),
    _ablation("topk_overall_drop", UNIT, "f", "1", "top-k overall drop", "The same over all images.", required=False),
    _ablation("baseline_topk_accuracy", CLASS, "f", "1", "baseline top-k class accuracy",
         "Share of the class's images whose label is among the k largest logits, unablated network.", required=False),
    _ablation("basis", ("unit", "channel"), "f", "1", "direction",
         "The unit vector that is projected out, in the layer's channels.", required=False),
)  # fmt: skip

_NO_FILTER = "the layer's output is no filter's own, as of a residual sum or a concatenation"
_NO_BATCH_NORM = "no batch norm is right behind the filter"
_READ_BY_OTHERS = "something else than a convolution or linear layer reads the units"
_SIGNED = "activations are below zero: the layer is before its nonlinearity, or signed"
# attribute → why it is undefined where it is for all units of a layer
UNDEFINED = {
    "l1_norm": _NO_FILTER, "l2_norm": _NO_FILTER, "l1_norm_folded": _NO_BATCH_NORM, "l2_norm_folded": _NO_BATCH_NORM,
    "batch_norm_scale": _NO_BATCH_NORM, "outgoing_l1_norm": _READ_BY_OTHERS, "outgoing_l2_norm": _READ_BY_OTHERS,
    "class_selectivity": _SIGNED, "class_selectivity_max": _SIGNED,
}  # fmt: skip


def why_undefined(names: Iterable[str]) -> str:
    """ "l1_norm, l2_norm (why); class_selectivity (why)": attributes that no unit of a layer has."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        reasons.setdefault(UNDEFINED[name], []).append(name)
    return "; ".join(f"{', '.join(of_reason)} ({reason})" for reason, of_reason in reasons.items())
