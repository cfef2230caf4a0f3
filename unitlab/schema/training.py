"""Variables of the bundled comparison of networks that were trained in different ways."""

from dataclasses import replace
from functools import partial

from unitlab.schema.results import ATTRIBUTES, DAMAGE
from unitlab.schema.stored import ABLATION, LAYER, STUDY
from unitlab.schema.variable import UNIT, Variable

_training = partial(Variable, "training")
_NETWORK = ("arm", "seed")
# of every network, as damage and attributes tell it of one
_OF_TRAINING = (
    "overall_drop", "max_class_drop", "max_class_drop_null", "max_class_drop_crossfit", "max_class", "p_any", "p_specific",
    "n_damaged", "concentration", "reliability", "accuracy_drop", "class_selectivity", "class_selectivity_max",
    "mutual_information", "top_precision", "fraction_active", "mean_activation", "l1_norm_folded",
)  # fmt: skip
_KNOWN = {row.name: row for row in (*STUDY, *LAYER, *ABLATION, *DAMAGE, *ATTRIBUTES)}
# written before the mean under permuted labels was taken off
_MILLER_MADOW = replace(
    _KNOWN["mutual_information"],
    comment=(
        "Mutual information of the label and the spatial mean activation in a bin for zero (and below) and ten quantile bins, "
        "Miller–Madow corrected. NaN for a dead unit."
    ),
)
TRAINING = (
    *(_KNOWN[name] for name in ("unit", "category")),
    *(replace(_KNOWN[name], dims=(*_NETWORK, *_KNOWN[name].dims)) for name in _OF_TRAINING if name != _MILLER_MADOW.name),
    replace(_MILLER_MADOW, dims=(*_NETWORK, *UNIT)),
    _training("arm", ("arm",), "T", "1", "training", "How the network was trained.", coordinate=True),
    _training("seed", ("seed",), "i", "1", "seed",
         "Seed of the initial weights and of the order of the images; the same for all arms.", coordinate=True),
    _training("batch_norm", ("arm",), "b", "1", "batch norm", "Whether the arm has batch norm.", coordinate=True),
    _training("dropout", ("arm",), "b", "1", "dropout", "Whether the arm has dropout.", coordinate=True),
    _training("test_accuracy", _NETWORK, "f", "1", "test accuracy",
         "Top-1 accuracy of the unablated network over the images that the units were silenced on."),
    _training("train_accuracy", _NETWORK, "f", "1", "training accuracy",
         "Top-1 accuracy of the finished network, in eval mode, over the first 10,000 training images as they are."),
    _training("live_units", _NETWORK, "i", "units", "live units", "Units that are above zero somewhere on at least one image."),
    _training("weights_sha256", _NETWORK, "T", "1", "fingerprint of the weights",
         "SHA-256 of the network's state dict, as its study has it."),
)  # fmt: skip
