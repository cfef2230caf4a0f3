"""Variables of what sets two studies, or units and directions, beside each other."""

from functools import partial

from unitlab.schema.variable import UNIT, Variable

# name, dimensions, kind, units, label, definition
_comparison = partial(Variable, "comparison")
COMPARISON = (
    _comparison("measure", ("measure",), "T", "1", "measure", "Name of a variable over units.", coordinate=True),
    _comparison("comparison", ("comparison",), "T", "1", "comparison",
         "Over the whole bases, or over pairs of like removed energy.", coordinate=True),
    _comparison("basis_name", ("basis",), "T", "1", "basis", "The ablation's name of a basis.", coordinate=True),
    _comparison("unit", UNIT, "i", "1", "unit", "Channel of the layer's output.", coordinate=True),
    _comparison("direction", ("direction",), "i", "1", "direction", "Row of the basis.", coordinate=True),
    _comparison("unit_value", ("measure", "unit"), "f", "1", "value of the unit", "The measure, of each unit."),
    _comparison("direction_value", ("measure", "basis", "direction"), "f", "1", "value of the direction",
         "The measure, of each direction."),
    _comparison("matched_unit", ("basis", "direction"), "i", "1", "matched unit",
         "Number of the unit whose removed energy is nearest in ratio to the direction's; −1 if none is within 1.25."),
    _comparison("n_matched", ("basis",), "i", "directions", "matched directions",
         "Directions with a unit of like removed energy."),
    _comparison("difference", ("comparison", "measure", "basis"), "f", "1", "directions minus units",
         "Mean of the directions minus mean of the units; over matched pairs, mean difference of the pairs."),
    _comparison("difference_mean", ("comparison", "measure"), "f", "1", "directions minus units, mean over bases",
         "Mean of the differences over the bases."),
    _comparison("difference_error_bases", ("comparison", "measure"), "f", "1", "standard error over bases",
         "Standard deviation of the differences over the bases / √(number of bases); NaN for one basis."),
    _comparison("difference_error_images", ("comparison", "measure"), "f", "1", "standard error over images",
         "Standard deviation of the mean difference over resampled image clusters, the same for units and for every basis; the "
         "pairs of like energy stay. 0 for the removed energy, which a study does not hold by image."),
    _comparison("difference_low", ("comparison", "measure"), "f", "1", "lower limit",
         "Lower limit, mean − √((t·error over bases)² + (t·error over images)²), with Student's t over bases and over samples "
         "of the images; NaN for one basis.", covers=("images", "bases")),
    _comparison("difference_high", ("comparison", "measure"), "f", "1", "upper limit", "Upper limit of the same interval.",
         covers=("images", "bases")),
)  # fmt: skip

_pair = partial(Variable, "pair")
_SIDES, _MEANS, _CORRELATED, _IMAGES = ("side", "category"), ("side", "measure"), ("correlated",), ("images",)
PAIR = (
    _pair("side", ("side",), "T", "1", "side", "Which of the two ablations that are compared.", coordinate=True),
    _pair("category", ("category",), "T", "1", "class", "Name of the class.", coordinate=True),
    _pair("measure", ("measure",), "T", "1", "measure", "Name of a variable over units.", coordinate=True),
    _pair("unit", UNIT, "i", "1", "unit", "Channel of the layer's output, the same on both sides.", coordinate=True),
    _pair("correlated", ("correlated",), "T", "1", "correlated", "What of both sides is correlated, and over what.",
         coordinate=True),
    _pair("accuracy_drop", _SIDES, "f", "1", "accuracy drop",
         "Class accuracy before minus after the ablation; of all units of a study the mean over the units."),
    _pair("drop_low", _SIDES, "f", "1", "lower limit",
         "Lower limit of the drop's interval, as in damage; of a mean over units Student's t over clusters of images.",
         covers=_IMAGES),
    _pair("drop_high", _SIDES, "f", "1", "upper limit", "Upper limit of the drop's interval.", covers=_IMAGES),
    _pair("drop_difference", ("category",), "f", "1", "difference of the drops", "Drop under a minus drop under b."),
    _pair("difference_low", ("category",), "f", "1", "lower limit",
         "Lower limit of the paired interval: Bonett and Price; Student's t over clusters of images where the networks are two "
         "or the drops are means over units.", covers=_IMAGES),
    _pair("difference_high", ("category",), "f", "1", "upper limit", "Upper limit of the paired interval.", covers=_IMAGES),
    _pair("difference_q", ("category",), "f", "1", "q of the difference",
         "Adjusted p-value of the exact test that both lose alike, of means over units of the t test; NaN for single units of "
         "two networks."),
    _pair("mean_drop", _MEANS, "f", "1", "mean over units", "Mean of the measure over the units of a side."),
    _pair("mean_drop_low", _MEANS, "f", "1", "mean over units, lower limit",
         "Lower limit of its interval: delete-group jackknife over image clusters, Student's t; the units are those of the "
         "study.", covers=_IMAGES),
    _pair("mean_drop_high", _MEANS, "f", "1", "mean over units, upper limit", "Upper limit of the same interval.",
         covers=_IMAGES),
    _pair("mean_difference", ("measure",), "f", "1", "difference of the means", "Mean over the units of a minus that of b."),
    _pair("mean_difference_low", ("measure",), "f", "1", "difference of the means, lower limit",
         "Lower limit of its interval: the same groups of images are left out of both sides.", covers=_IMAGES),
    _pair("mean_difference_high", ("measure",), "f", "1", "difference of the means, upper limit",
         "Upper limit of the same interval.", covers=_IMAGES),
    _pair("mean_difference_p", ("measure",), "f", "1", "p of the difference of the means",
         "Two-sided p of the difference being 0, of the same jackknife."),
    _pair("unit_drop", ("side", "unit"), "f", "1", "overall drop", "Overall drop of the unit under either ablation."),
    _pair("unit_difference", UNIT, "f", "1", "difference of the overall drops", "Overall drop under a minus that under b."),
    _pair("unit_difference_low", UNIT, "f", "1", "lower limit",
         "Lower limit of the paired interval after Bonett and Price (2012), of this unit by itself; by clusters as in damage.",
         covers=_IMAGES),
    _pair("unit_difference_high", UNIT, "f", "1", "upper limit", "Upper limit of the same interval.", covers=_IMAGES),
    _pair("unit_difference_q", UNIT, "f", "1", "q of the difference",
         "p of the exact paired test that both ablations of the unit lose alike, adjusted over the units."),
    _pair("n_correlated", _CORRELATED, "i", "1", "number", "Units, cells or classes that are correlated."),
    _pair("sampling", _CORRELATED, "T", "1", "covers", "Which sampling the interval of the correlation covers."),
    *(
        _pair(f"{kind}{end}", _CORRELATED, "f", "1", f"{label}{text}", comment)
        for kind, label in (("spearman", "Spearman correlation"), ("pearson", "Pearson correlation"))
        for end, text, comment in (
            ("", "", "Correlation of the drops under a with those under b."),
            ("_low", ", lower limit", "Lower limit of its 95 % interval, the images of both sides left out together."),
            ("_high", ", upper limit", "Upper limit of the same interval."),
            ("_p", ", p", "Two-sided p of the correlation being 0."),
        )
    ),
    _pair("n_lost_both", ("category",), "i", "images", "lost by both", "Images right before and wrong under both."),
    _pair("n_lost_a", ("category",), "i", "images", "lost by a alone", "Images that a breaks and b does not."),
    _pair("n_lost_b", ("category",), "i", "images", "lost by b alone", "Images that b breaks and a does not."),
    _pair("n_lost_neither", ("category",), "i", "images", "lost by neither", "Images that neither breaks."),
    _pair("jaccard", (), "f", "1", "Jaccard overlap", "Images that both break, of those that either breaks."),
)  # fmt: skip

_partners = partial(Variable, "partners")
_PAIR = ("unit", "unit_b")
PARTNERS = (
    _partners("unit", UNIT, "i", "1", "unit", "Channel of the layer's output, in the first study.", coordinate=True),
    _partners("unit_b", ("unit_b",), "i", "1", "unit of the other study", "Channel of the layer's output, in the second study.",
         coordinate=True),
    _partners("activation_correlation", _PAIR, "f", "1", "correlation of activations",
         "Pearson correlation over images of the two units' spatial max activations. NaN where either is constant."),
    _partners("damage_correlation", _PAIR, "f", "1", "correlation of damage",
         "Spearman correlation over classes of the two units' mean margin drops, each less its unit's and its class's mean. "
         "NaN where either is constant, or its drops are undefined."),
    _partners("partner", UNIT, "i", "1", "partner",
         "Number of the unit of the second study in the one-to-one assignment with the largest sum of correlations (Hungarian "
         "method); −1 for none."),
    _partners("partner_correlation", UNIT, "f", "1", "correlation with the partner",
         "Correlation of activations with the one-to-one partner."),
    _partners("partner_excess", UNIT, "f", "1", "correlation with the partner, above chance",
         "Correlation with the one-to-one partner minus what 95 % of the best correlations by chance stay below."),
    _partners("best_partner", UNIT, "i", "1", "best partner",
         "Number of the unit of the second study with the largest correlation of activations; −1 for none."),
    _partners("best_correlation", UNIT, "f", "1", "correlation with the best partner",
         "The largest correlation of activations over the units of the second study."),
    _partners("best_excess", UNIT, "f", "1", "correlation with the best partner, above chance",
         "Correlation with the best partner minus what 95 % of the best correlations by chance stay below."),
    _partners("best_gap", UNIT, "f", "1", "lead of the best partner",
         "Correlation with the best partner minus that with the second best."),
    _partners("correlation_null", UNIT, "f", "1", "best correlation, 95 % of chance",
         "What 95 % of the best correlations stay below when one study's images change places within classes, clusters whole "
         "among clusters of equal size (199 shuffles)."),
    _partners("partner_damage_correlation", UNIT, "f", "1", "correlation of damage with the partner",
         "Correlation of damage with the one-to-one partner."),
    _partners("other_damage_correlation", UNIT, "f", "1", "correlation of damage with others",
         "Mean correlation of damage with the one-to-one partners of all other units."),
    _partners("mean_partner_damage_correlation", (), "f", "1", "correlation of damage, partners",
         "Mean correlation of damage over the pairs of partners."),
    _partners("mean_other_damage_correlation", (), "f", "1", "correlation of damage, others",
         "Mean correlation of damage over all other pairs of units that have partners."),
    _partners("partner_damage_p", (), "f", "1", "p, partners damage the same classes",
         "Chance of a mean correlation of damage as large if the partners are dealt to the units anew (999 permutations, "
         "one-sided)."),
)  # fmt: skip

_seeds = partial(Variable, "partners of seeds")
_ARM_PAIR = ("arm", "pair")
# each a number of `PARTNERS` of two networks that differ in their seed alone
PARTNERS_OF_SEEDS = (
    _seeds("arm", ("arm",), "T", "1", "arm", "How the networks were trained.", coordinate=True),
    _seeds("seed_a", ("pair",), "i", "1", "first seed", "Seed of the network whose units are given partners.", coordinate=True),
    _seeds("seed_b", ("pair",), "i", "1", "second seed", "Seed of the network that the partners are of.", coordinate=True),
    _seeds("n_partners", _ARM_PAIR, "i", "units", "units with a partner", "Units that are active in both networks, paired."),
    _seeds("n_above_chance", _ARM_PAIR, "i", "units", "partners above chance",
         "Pairs whose partner_excess is above zero: their activations correlate more than 95 % of the best do by chance."),
    _seeds("partner_correlation", _ARM_PAIR, "f", "1", "correlation with the partner", "Median over the units."),
    _seeds("partner_damage_correlation", _ARM_PAIR, "f", "1", "correlation of damage, partners", "Mean over the pairs."),
    _seeds("other_damage_correlation", _ARM_PAIR, "f", "1", "correlation of damage, others", "Mean over all other pairs."),
    _seeds("partner_damage_p", _ARM_PAIR, "f", "1", "p, partners damage the same classes",
         "Chance of such a mean if partners are dealt to the units anew (999 permutations, one-sided)."),
)  # fmt: skip
