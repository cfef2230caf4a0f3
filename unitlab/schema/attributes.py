"""Variables that `unitlab.attributes` and `unitlab.discrimination` return beside those that the study holds."""

from unitlab.schema.variable import Variable

ATTRIBUTES = (
    Variable(
        "class_selectivity",
        "attributes",
        ("unit",),
        "f",
        "class selectivity, spatial mean",
        "1",
        "(μmax − μrest)/(μmax + μrest) of the class means of the spatial mean activation, μrest the mean of the other classes' "
        "means (Morcos et al. 2018). NaN for a dead unit, fewer than two classes with images, or a negative class mean.",
    ),
    Variable(
        "class_selectivity_max",
        "attributes",
        ("unit",),
        "f",
        "class selectivity, spatial max",
        "1",
        "The same formula with the class means of the spatial max activation.",
    ),
    Variable(
        "max_class_correlation",
        "attributes",
        ("unit",),
        "f",
        "max class correlation",
        "1",
        "The largest Pearson correlation over classes of the spatial max activation with the predicted probability of the "
        "class (Zhou et al. 2018).",
    ),
    Variable(
        "max_correlation_class",
        "attributes",
        ("unit",),
        "i",
        "class of the max correlation",
        "1",
        "Position along category of the largest class correlation; −1 where none is defined.",
    ),
    Variable(
        "mutual_information",
        "attributes",
        ("unit",),
        "f",
        "mutual information with the class",
        "bit",
        "Mutual information of the label and the spatial mean activation in a bin for zero (and below) and ten quantile bins, "
        "Miller–Madow corrected, so that it may be slightly negative. NaN for a dead unit.",
    ),
    Variable(
        "top_precision",
        "attributes",
        ("unit",),
        "f",
        "precision of the top images",
        "1",
        "Share of the most frequent class among the 20 images of the largest spatial max activation (fewer, where fewer are "
        "above zero). NaN for a dead unit.",
    ),
    Variable(
        "first_order_margin_drop_overall",
        "attributes",
        ("unit",),
        "f",
        "first-order margin drop, all images",
        "logit",
        "Mean over all images of the first-order estimate of the margin lost to a zero ablation.",
    ),
    Variable(
        "class_d_prime",
        "discrimination",
        ("unit", "category"),
        "f",
        "class d′",
        "1",
        "|μ₁ − μ₀| / √((σ₁² + σ₀²)/2) of the spatial mean activation, images of the class against all others; the same for v "
        "and −v. NaN for a constant unit, and for a class without images or without others.",
    ),
    Variable(
        "class_auc",
        "discrimination",
        ("unit", "category"),
        "f",
        "area under the ROC curve",
        "1",
        "Area under the ROC curve of the spatial mean activation, images of the class against all others, the larger of "
        "those of v and −v. NaN for a constant unit, and for a class without images or without others.",
    ),
    Variable(
        "max_class_d_prime",
        "discrimination",
        ("unit",),
        "f",
        "max class d′",
        "1",
        "The largest class d′ over classes.",
    ),
    Variable(
        "max_class_auc",
        "discrimination",
        ("unit",),
        "f",
        "max area under the ROC curve",
        "1",
        "The largest area under the ROC curve over classes.",
    ),
)
