"""Variables of what units are: concepts, names, classes."""

from functools import partial

from unitlab.schema.variable import CELL, UNIT, Variable

_concepts = partial(Variable, "concepts")
_OF_UNITS = ("unit", "concept")
CONCEPTS = (
    _concepts("concept", ("concept",), "T", "1", "concept", "Name of the concept.", coordinate=True),
    _concepts("concept_category", ("concept",), "T", "1", "category of the concept",
         "What the concept is one of, such as artist or colour; empty where it stands alone.", coordinate=True),
    _concepts("tag", ("image", "concept"), "f", "1", "tag",
         "Of a concept of yes and no, 1 where the image has it and 0 elsewhere; otherwise the image's number."),
    _concepts("tag_is_number", ("concept",), "b", "1", "is a number", "Whether the concept is a number, not a yes or no."),
    _concepts("n_tagged", ("concept",), "i", "images", "images",
         "Images that have the concept, or for which there is a number."),
    _concepts("n_exchanged", ("concept",), "i", "1", "clusters exchanged",
         "Clusters (for a concept that differs within clusters: images) that change places under chance, in strata in which "
         "the concept differs."),
    _concepts("concept_auc", _OF_UNITS, "f", "1", "area under the ROC curve of the concept",
         "Chance that an image with the concept has a larger spatial max activation (or margin drop, as the attribute 'of' "
         "says) than one without, ties counted half. NaN for a constant unit, and for concepts that are numbers."),
    _concepts("concept_correlation", _OF_UNITS, "f", "1", "correlation with the concept",
         "Spearman correlation over images of the spatial max activation (or margin drop) and the tag."),
    _concepts("concept_z", _OF_UNITS, "f", "1", "z of the concept",
         "Rank sum of the images with the concept (of a number, Σ rank · rank) minus its mean under permutations, over their "
         "standard deviation, both exact. A concept that whole clusters share changes places with clusters of equal size (if "
         "asked for, and class); others with images of the same class and cluster. NaN where fewer than ten of those with, or "
         "without, the concept change places."),
    _concepts("concept_p", _OF_UNITS, "f", "1", "p of the concept", "Two-sided p of a normal z."),
    _concepts("concept_q", _OF_UNITS, "f", "1", "q of the concept",
         "p adjusted for false discoveries over all units and concepts (Benjamini and Hochberg 1995)."),
    _concepts("best_concept", UNIT, "T", "1", "best concept",
         "The concept with the largest area under the ROC curve among those with q ≤ 0.05 and an area above ½; none: empty."),
    _concepts("best_concept_auc", UNIT, "f", "1", "area of the best concept", "Area under the ROC curve of the best concept."),
    _concepts("iou", _OF_UNITS, "f", "1", "intersection over union",
         "Pixels that are active and of the concept / pixels that are either. A pixel is active where the unit's map, "
         "interpolated to the label image, exceeds the unit's threshold. In the procedure of 2017 only the active pixels of "
         "images with a concept of the same category count. NaN for a concept without pixels."),
    _concepts("intersection", _OF_UNITS, "i", "pixels", "intersection", "Pixels that are active and of the concept."),
    _concepts("activated", _OF_UNITS, "i", "pixels", "active pixels",
         "Active pixels that count: in the procedure of 2017 those of images with a concept of the same category."),
    _concepts("labelled", ("concept",), "i", "pixels", "labelled pixels", "Pixels of the concept, over all images."),
    _concepts("activation_threshold", UNIT, "f", "activation", "threshold of activity",
         "What at most the share of the unit's activations exceeds that the procedure says: 0.005 of the map's own positions "
         "(2017), 0.01 of the interpolated ones (2020)."),
    _concepts("best_iou", UNIT, "f", "1", "largest IoU", "The largest intersection over union over concepts."),
    _concepts("best_iou_concept", UNIT, "T", "1", "concept of the largest IoU",
         "The concept with the largest intersection over union, whether or not it is more than chance; none above 0: empty."),
    _concepts("best_iou_category", UNIT, "T", "1", "category of the largest IoU", "What that concept is one of."),
    _concepts("best_iou_p", UNIT, "f", "1", "p of the largest IoU",
         "Share of the shuffles, these labels counted among them, whose largest IoU over all units and concepts is as large: "
         "corrected for having looked at all of them (family-wise)."),
    _concepts("is_detector", UNIT, "b", "1", "detector", "Whether the largest IoU is above what 95 % of chance reach."),
    _concepts("is_netdissect_detector", UNIT, "b", "1", "detector by 0.04",
         "Whether the largest IoU is at least 0.04 (2020: above it), Network Dissection's limit, which knows no error rate."),
    _concepts("iou_null", ("shuffle",), "f", "1", "largest IoU by chance",
         "The largest IoU over units and concepts where label images of equal size change places, clusters whole."),
    _concepts("iou_threshold", (), "f", "1", "IoU, 95 % of chance",
         "What 95 % of the largest IoU over units and concepts stay below when label images change places."),
    _concepts("rule", ("rule",), "T", "1", "rule", "What makes a unit a detector: more than chance, or an IoU of 0.04.",
         coordinate=True),
    _concepts("detector_category", ("detector_category",), "T", "1", "category of the detectors",
         "What the concepts of the detectors are.", coordinate=True),
    _concepts("n_detectors", ("rule", "detector_category"), "i", "units", "detectors",
         "Units whose concept is of the category, and a detector of it by the rule."),
    _concepts("n_unique_detectors", ("rule", "detector_category"), "i", "1", "unique detectors",
         "Different concepts of the category that have a detector by the rule."),
    _concepts("helped", CELL, "b", "1", "helped", "q ≤ 0.05 and accuracy drop < 0: the class does better without the unit."),
    _concepts("selectivity_rank", CELL, "i", "1", "rank of the selectivity",
         "Place of the class by the unit's selectivity for it, 1 for the class that the unit prefers; equal ones share the "
         "better place. 0 where the selectivity is undefined."),
    _concepts("selective", CELL, "b", "1", "selective for the class", "The class is the one that the unit prefers."),
    _concepts("drop_rank", CELL, "i", "1", "rank of the drop",
         "Place of the unit by the class's balanced-accuracy drop, 1 for the largest; equal drops share the better one. 0 for "
         "a class without images or without others."),
    _concepts("among_largest", CELL, "b", "1", "among the largest drops",
         "Whether the unit has one of the class's largest balanced-accuracy drops (four, where no other number is asked for), "
         "and it is above zero (Bau et al., PNAS 2020)."),
    _concepts("n_important", UNIT, "i", "classes", "classes that the unit is important to",
         "Classes among whose largest balanced-accuracy drops the unit is."),
    _concepts("unit_label", UNIT, "T", "1", "name", "What the unit is called; empty where it has no name.", coordinate=True),
    _concepts("unit_label_score", UNIT, "f", "1", "score of the name", "How well the name fits, as its source measures it.",
         coordinate=True),
    _concepts("unit_label_source", UNIT, "T", "1", "source of the name", "Where the name is from.", coordinate=True),
)  # fmt: skip

# what a dissection holds
DISSECTION = (
    "concept", "concept_category", "iou", "intersection", "activated", "labelled", "activation_threshold", "best_iou",
    "best_iou_concept", "best_iou_category", "best_iou_p", "is_detector", "is_netdissect_detector", "iou_null", "iou_threshold",
    "rule", "detector_category", "n_detectors", "n_unique_detectors",
)  # fmt: skip
