"""Variables of what the analysis returns, function by function: those that are computed, and those that it hands on."""

from dataclasses import replace
from functools import partial

from unitlab.schema.stored import ABLATION, LAYER, STUDY
from unitlab.schema.variable import CELL, UNIT, Variable

_damage, _confusion = partial(Variable, "damage"), partial(Variable, "confusion")
_MOVED, _IMAGES = ("category", "predicted"), ("images",)
# name, dimensions, kind, units, label, definition
DAMAGE = (
    _damage("precision_drop", CELL, "f", "1", "precision drop",
         "Share of the images predicted as the class that are of the class, before minus after; positive = damage. NaN where "
         "nothing is predicted as the class, before or after."),
    _damage("balanced_accuracy_drop", CELL, "f", "1", "balanced-accuracy drop",
         "(Recall + true negative rate)/2 of the class against all others, before minus after (the importance of Bau et al., "
         "PNAS 2020); positive = damage. NaN for a class without images or without others."),
    _damage("margin_drop", CELL, "f", "logit", "mean margin drop",
         "Mean over the images of the class of the drop of the margin; positive = damage."),
    _damage("margin_drop_low", CELL, "f", "logit", "mean margin drop, lower limit",
         "Lower limit of the paired t interval of the mean margin drop, over clusters where images come in clusters.",
         covers=_IMAGES),
    _damage("margin_drop_high", CELL, "f", "logit", "mean margin drop, upper limit",
         "Upper limit of the paired t interval of the mean margin drop.", covers=_IMAGES),
    _damage("margin_p_value", CELL, "f", "1", "p of the margin drop",
         "Two-sided paired t test of the mean margin drop, over clusters where images come in clusters."),
    _damage("margin_q_value", CELL, "f", "1", "q of the margin drop",
         "The same p adjusted for false discoveries over all cells with images (Benjamini and Hochberg 1995)."),
    _damage("margin_specific", CELL, "f", "logit", "specific margin drop",
         "What the class loses in margin beyond what the unit costs all classes and what all units cost the class: the mean "
         "margin drop of the class less the mean by the other units, less a line through these differences along the class "
         "means of the other units. So damage to all classes alike, or in proportion to how sensitive they are, is 0. The "
         "line weighs a class by its images (clusters), and beyond three standard errors less (Huber); its level is the mean "
         "over classes. For the error, the other units' drops are taken off within classes in the proportion that leaves "
         "least. Fewer than four classes: no line, the difference less its mean over classes. NaN for a class of fewer than "
         "five images (clusters)."),
    _damage("margin_specific_low", CELL, "f", "logit", "specific margin drop, lower limit",
         "Lower limit of the t interval of the specific margin drop, over clusters where images come in clusters; the units "
         "are those of the study.", covers=_IMAGES),
    _damage("margin_specific_high", CELL, "f", "logit", "specific margin drop, upper limit",
         "Upper limit of the t interval of the specific margin drop.", covers=_IMAGES),
    _damage("margin_specific_p_value", CELL, "f", "1", "p of the specific margin drop",
         "Two-sided t test that the specific margin drop is 0, over clusters where images come in clusters."),
    _damage("margin_specific_q_value", CELL, "f", "1", "q of the specific margin drop",
         "The same p adjusted for false discoveries over all cells that have one (Benjamini and Hochberg 1995)."),
    _damage("drop_low", CELL, "f", "1", "accuracy drop, lower limit",
         "Lower limit of the interval of the accuracy drop after Bonett and Price (2012); where images come in clusters with "
         "the number of images divided by the design effect, and Student's t over clusters.", covers=_IMAGES),
    _damage("drop_high", CELL, "f", "1", "accuracy drop, upper limit", "Upper limit of the interval of the accuracy drop.",
         covers=_IMAGES),
    _damage("p_value", CELL, "f", "1", "p",
         "Two-sided exact paired test that the ablation changes nothing: McNemar; where images come in clusters, sign flips "
         "of cluster sums. NaN for a class without images."),
    _damage("q_value", CELL, "f", "1", "q",
         "p adjusted for false discoveries over all cells with images: step-down Benjamini–Hochberg for discrete tests "
         "(Döhler, Durand and Roquain 2018), which knows the p-values that each cell's exact test can attain."),
    _damage("damaged", CELL, "b", "1", "damaged", "q ≤ 0.05 and accuracy drop > 0."),
    _damage("n_changed", CELL, "i", "images", "changed",
         "Images of the class that the ablation breaks or fixes; where images come in clusters, clusters in which it does not "
         "break as many as it fixes. With fewer than six no exact p can be 0.05 or less."),
    _damage("overall_drop_low", UNIT, "f", "1", "overall drop, lower limit",
         "Lower limit of the interval of the overall drop after Bonett and Price (2012), at level 1 − 0.05/number of units, so "
         "that the intervals of all units hold at once; where images come in clusters as for the accuracy drop.",
         covers=_IMAGES),
    _damage("overall_drop_high", UNIT, "f", "1", "overall drop, upper limit", "Upper limit of the same interval.",
         covers=_IMAGES),
    _damage("overall_drop_upper", UNIT, "f", "1", "overall drop, one-sided upper limit",
         "What the overall drop of this one unit stays below, one-sided, 95 %.", covers=_IMAGES),
    _damage("overall_drop_bound", (), "f", "1", "no unit costs more",
         "The largest of the units' one-sided 95 % upper limits of the overall drop. For each d, given beforehand, that is at "
         "least this, 'no unit costs more than d' is shown (non-inferiority, intersection–union).", covers=_IMAGES),
    _damage("p_overall", UNIT, "f", "1", "p, overall drop",
         "Two-sided exact paired test that the overall accuracy does not change: McNemar; where images come in clusters, sign "
         "flips of cluster sums."),
    _damage("max_class_drop", UNIT, "f", "1", "max class drop",
         "The largest accuracy drop over classes. Biased upward: it is positive under pure chance."),
    _damage("max_class_drop_low", UNIT, "f", "1", "max class drop, lower limit",
         "Lower limit of the interval of the accuracy drop of the most damaged class, at level 1 − 0.05/K, as it is named "
         "because it is the worst of K classes.", covers=_IMAGES),
    _damage("max_class_drop_high", UNIT, "f", "1", "max class drop, upper limit", "Upper limit of the same interval.",
         covers=_IMAGES),
    _damage("max_class_drop_null", UNIT, "f", "1", "max class drop, 95 % of chance",
         "What 95 % of the max class drops stay below when the unit's flips fall on images regardless of class (99 shuffles, "
         "as for p_specific)."),
    _damage("max_class", UNIT, "i", "1", "most damaged class",
         "Position along category of the largest accuracy drop, the first among equals; −1 where there is none."),
    _damage("max_class_drop_crossfit", UNIT, "f", "1", "max class drop, cross-fitted",
         "The drop of the class chosen on one half of the images, measured on the other; mean over 100 class-stratified, "
         "cluster-respecting splits, both directions, ties averaged. Zero on average under chance; it is the drop of a class "
         "selected on half the data, not an estimate of the true maximum."),
    _damage("max_class_drop_crossfit_low", UNIT, "f", "1", "max class drop, cross-fitted, lower limit",
         "Lower limit of the t interval of the cross-fitted max class drop, its variance by a jackknife over 20 groups of "
         "image clusters, at level 1 − 0.05/number of units, so that the intervals of all units hold at once; at least as wide "
         "as that of the accuracy drop of the most damaged class at this level.", covers=_IMAGES),
    _damage("max_class_drop_crossfit_high", UNIT, "f", "1", "max class drop, cross-fitted, upper limit",
         "Upper limit of the same interval.", covers=_IMAGES),
    _damage("max_class_drop_crossfit_null", UNIT, "f", "1", "max class drop, cross-fitted, 95 % of chance",
         "What 95 % of the cross-fitted max class drops stay below when the unit's flips fall on images regardless of class "
         "(99 shuffles, as for p_specific; six splits each, fewer than of the value itself, which makes it about 3 % too wide "
         "rather than too narrow)."),
    _damage("max_z", UNIT, "f", "1", "max studentised drop",
         "The largest (broken − fixed)/√(broken + fixed + ¼) over classes (over cluster sums s: Σs/√(Σs² + ¼)); the raw "
         "maximum favours small classes, this one does not."),
    _damage("p_any", UNIT, "f", "1", "p, any class",
         "Chance of a max studentised drop as large if no class changes: 1 − Πk P(that of k < max_z) under random signs."),
    _damage("p_specific", UNIT, "f", "1", "p, specific classes",
         "Chance of a max of (net − mean)/√(variance + ¼) over classes as large if flips fall on images regardless of class, "
         "net = broken − fixed, mean and variance those of the shuffle: classes change places among images right (wrong) at "
         "the baseline within up to twenty strata of baseline margin, by cluster. 999 shuffles; up to 20 · units − 1 while a "
         "unit is neither reached by 20 of them nor sure to be found among all units (Besag and Clifford 1991)."),
    _damage("p_margin_specific", UNIT, "f", "1", "p, margins of specific classes",
         "Chance of a max over classes of the studentised specific margin drop as large if classes are shuffled among images "
         "(clusters) within up to twenty strata of baseline margin. Each drop is told in the spread of its unit and that of "
         "its class. 199 to 4,999 shuffles, while a unit may be found among all."),
    _damage("n_damaged", UNIT, "i", "classes", "damaged classes", "Classes with q ≤ 0.05 and drop > 0."),
    _damage("concentration", UNIT, "f", "classes", "concentration of damage",
         "Effective number of damaged classes, (Σ d⁺)²/Σ (d⁺)²; NaN where no drop is positive."),
    _damage("concentration_null", UNIT, "f", "classes", "concentration of damage by chance",
         "Mean of the same number when flips fall on images regardless of class (99 shuffles, as for p_specific)."),
    _damage("p_concentration", UNIT, "f", "1", "p, concentration of damage",
         "Chance of an effective number of damaged classes as small when flips fall on images regardless of class (the same 99 "
         "shuffles, so that 0.01 is the least). NaN where no drop is positive."),
    _damage("reliability", (), "f", "1", "reliability",
         "Split-half correlation of the unit × class drops after removing unit and class means, a class with the weight of its "
         "images, Spearman–Brown corrected, mean over 100 splits; from −1 to 1."),
    _damage("reliability_low", (), "f", "1", "reliability, lower limit",
         "Lower limit of the 95 % interval of the reliability over images: delete-group jackknife over up to 20 groups of "
         "image clusters, for Fisher's z of the split-half correlation.", covers=_IMAGES),
    _damage("reliability_high", (), "f", "1", "reliability, upper limit",
         "Upper limit of the same interval over images.", covers=_IMAGES),
    _confusion("predicted", ("predicted",), "T", "1", "predicted class",
         "Class predicted after the ablation (of lost images) or before it (of won ones).", coordinate=True),
    _confusion("n_lost", _MOVED, "i", "images", "lost",
         "Images of the class that were right before the ablation and are predicted as another class after it."),
    _confusion("n_won", _MOVED, "i", "images", "won",
         "Images of the class that are right after the ablation and were predicted as another class before it."),
    _confusion("n_swapped", _MOVED, "i", "images", "swapped",
         "Images of the class that were wrong before the ablation and are predicted as another wrong class after it."),
)  # fmt: skip

_attributes, _discrimination = partial(Variable, "attributes"), partial(Variable, "discrimination")
ATTRIBUTES = (
    _attributes("class_selectivity", UNIT, "f", "1", "class selectivity, spatial mean",
         "(μmax − μrest)/(μmax + μrest) of the class means of the spatial mean activation, μrest the mean of the other "
         "classes' means (Morcos et al. 2018). NaN for a dead unit, fewer than two classes with images, or a negative class "
         "mean."),
    _attributes("class_selectivity_max", UNIT, "f", "1", "class selectivity, spatial max",
         "The same formula with the class means of the spatial max activation."),
    _attributes("class_selectivity_by_class", CELL, "f", "1", "selectivity for the class",
         "(μ − μrest)/(μ + μrest) of the class means of the spatial mean activation, μ that of the class, μrest the mean of "
         "the other classes' means: from −1 to 1. NaN for a unit with a negative class mean, for a cell whose sum is 0, and "
         "for a class without images or without others."),
    _attributes("max_class_correlation", UNIT, "f", "1", "max class correlation",
         "The largest Pearson correlation over classes of the spatial max activation with the predicted probability of the "
         "class (Zhou et al. 2018)."),
    _attributes("max_correlation_class", UNIT, "i", "1", "class of the max correlation",
         "Position along category of the largest class correlation; −1 where none is defined."),
    _attributes("mutual_information", UNIT, "f", "bit", "mutual information with the class",
         "Mutual information of the label and the spatial mean activation in a bin for zero (and below) and ten quantile "
         "bins, from counts, minus its mean under permuted labels (exact; where images come in clusters, these are permuted, "
         "20 shuffles), so that it may be slightly negative. NaN for a dead unit."),
    _attributes("top_precision", UNIT, "f", "1", "precision of the top images",
         "Share of the most frequent class among the 20 images of the largest spatial max activation (fewer, where fewer are "
         "above zero). NaN for a dead unit."),
    _attributes("first_order_margin_drop_overall", UNIT, "f", "logit", "first-order margin drop, all images",
         "Mean over all images of the first-order estimate of the margin lost to a zero ablation."),
    _attributes("ablated_distance", UNIT, "f", "1", "distance of the ablated activation",
         "Root of the mean square of (spatial mean activation under the ablation − the unit's mean) / standard deviation over "
         "images: 0 for a mean ablation, 1 for one that resamples; the more, the further zero is from what the unit ever does. "
         "The map's pattern, and the other units' activations, are not looked at. NaN for a constant unit."),
    _attributes("ablated_typicality", UNIT, "f", "1", "typicality of the ablated activation",
         "Twice the share of the images whose spatial mean activation is at or below (at or above, if that is smaller) what "
         "the ablation leaves, at most 1: 0 where no image has one as extreme, about ½ for an ablation that resamples."),
    _discrimination("class_d_prime", CELL, "f", "1", "class d′",
         "|μ₁ − μ₀| / √((σ₁² + σ₀²)/2) of the spatial mean activation, images of the class against all others; the same for v "
         "and −v. NaN for a constant unit, and for a class without images or without others."),
    _discrimination("class_auc", CELL, "f", "1", "area under the ROC curve",
         "Area under the ROC curve of the spatial mean activation, images of the class against all others, the larger of "
         "those of v and −v. NaN for a constant unit, and for a class without images or without others."),
    _discrimination("max_class_d_prime", UNIT, "f", "1", "max class d′", "The largest class d′ over classes."),
    _discrimination("max_class_auc", UNIT, "f", "1", "max area under the ROC curve",
         "The largest area under the ROC curve over classes."),
)  # fmt: skip

_curves = partial(Variable, "curves")
_CURVE = ("order", "k")
_OF_CURVES = ("category", "category_index", "image", "label", "cluster", "baseline_prediction", "n_images")
CURVES = (
    *(row for row in STUDY if row.name in _OF_CURVES),
    _curves("order", ("order",), "T", "1", "order",
         "What the units are ordered by: the variable, the class of a class's own order, or the number of a random order.",
         coordinate=True),
    _curves("k", ("k",), "i", "units", "units", "How many units are silenced, or kept.", coordinate=True),
    _curves("accuracy", _CURVE, "f", "1", "accuracy",
         "Correct predictions / images, top-1, with the first k units of the order silenced (or only they kept)."),
    _curves("accuracy_low", _CURVE, "f", "1", "accuracy, lower limit",
         "Lower limit of the 95 % interval of the accuracy (Wilson 1927); where images come in clusters with the number of "
         "images divided by the design effect.", covers=_IMAGES),
    _curves("accuracy_high", _CURVE, "f", "1", "accuracy, upper limit", "Upper limit of the same interval.", covers=_IMAGES),
    _curves("mean_balanced_accuracy", _CURVE, "f", "1", "mean balanced accuracy",
         "Mean over the classes with images of their balanced accuracies."),
    _curves("class_accuracy", (*_CURVE, "category"), "f", "1", "class accuracy",
         "Correct predictions for images of the class / images of the class. NaN for a class without images."),
    _curves("balanced_accuracy", (*_CURVE, "category"), "f", "1", "balanced accuracy",
         "(Recall + true negative rate)/2 of the class against all others. NaN for a class without images or without others."),
    _curves("own_accuracy", _CURVE, "f", "1", "class accuracy, own order",
         "Accuracy of the class that the order belongs to.", required=False),
    _curves("own_balanced_accuracy", _CURVE, "f", "1", "balanced accuracy, own order",
         "Balanced accuracy of the class that the order belongs to; its mean over orders at k = 20 is the measurement of Bau "
         "et al. (PNAS 2020).", required=False),
    _curves("ranked_unit", ("half", "order", "rank"), "i", "1", "ranked unit",
         "Units in the order in which they are silenced (or kept); with cross-fitting, of either half of the images."),
    _curves("curve_prediction", (*_CURVE, "image"), "i", "class index", "prediction",
         "Top-1 class with the first k units of the order silenced (or only they kept)."),
)  # fmt: skip


def _over_groups(row: Variable) -> Variable:
    dims = tuple("group" if dim == "unit" else dim for dim in row.dims)
    comment = row.comment.replace("ablation of the unit", "ablation of the group's units together")
    return replace(row, level="groups", dims=dims, comment=comment)


_groups = partial(Variable, "groups")
GROUPS = (
    *(row for row in STUDY if row.name != "thumbnails"),
    *(row for row in LAYER if row.name == "unit"),
    _groups("group", ("group",), "iT", "1", "group", "Name or number of a group of units.", coordinate=True),
    _groups("member", ("group", "unit"), "b", "1", "member", "Whether the group holds the unit."),
    _groups("n_units", ("group",), "i", "units", "units", "Units that the group holds."),
    *map(_over_groups, (*ABLATION, *(row for row in DAMAGE if row.name == "balanced_accuracy_drop"))),
)  # fmt: skip

_variance = partial(Variable, "variance_components")
VARIANCE = (
    _variance("component", ("component",), "T", "1", "component",
         "What drops differ by: \"unit\" (units that cost all classes more), \"class\" (classes that all units cost more), "
         "\"unit × class\" (what a unit costs one class beyond both), \"images\" (the luck of the images of a single cell).",
         coordinate=True),
    _variance("variance", ("component",), "f", "1", "variance",
         "Variance of the component, by the method of moments, in the squared unit of the drop; what the images that were "
         "drawn add to the sums of squares is taken off, so that it may be slightly below 0."),
    _variance("variance_share", ("component",), "f", "1", "share of the variance",
         "The variance by the sum of all four, which is that of a single cell's measured drop."),
    _variance("variance_share_low", ("component",), "f", "1", "share, lower limit",
         "Lower limit of the delete-group jackknife interval of the share; units and classes are those of the study.",
         covers=_IMAGES),
    _variance("variance_share_high", ("component",), "f", "1", "share, upper limit", "Upper limit of the same interval.",
         covers=_IMAGES),
    _variance("shrunken_drop", CELL, "f", "1", "shrunken drop",
         "Best linear prediction of the cell's drop on other images of the class (in the drop's unit): the parts of unit, "
         "class and cell, each shrunk towards 0 by what the images say of it. NaN for a class of fewer than five images "
         "(clusters)."),
)  # fmt: skip
