"""Variables of the comparison of training choices; per-unit variables keep the names that damage and attributes give them,
with the dimensions ``arm`` and ``seed`` in front."""

from dataclasses import replace

from unitlab.schema.attributes import ATTRIBUTES
from unitlab.schema.damage import DAMAGE
from unitlab.schema.stored import ABLATION, LAYER, STUDY
from unitlab.schema.variable import Variable

_SHARED = ("unit", "category")
_MEASURED = (
    "overall_drop", "max_class_drop", "max_class_drop_null", "max_class_drop_crossfit", "max_class", "p_any", "p_specific",
    "n_damaged", "concentration", "reliability", "accuracy_drop", "class_selectivity", "class_selectivity_max",
    "mutual_information", "top_precision", "fraction_active", "mean_activation", "l1_norm_folded",
)  # fmt: skip
_KNOWN = {row.name: row for row in (*STUDY, *LAYER, *ABLATION, *DAMAGE, *ATTRIBUTES)}

TRAINING = (
    *(_KNOWN[name] for name in _SHARED),
    *(replace(_KNOWN[name], dims=("arm", "seed", *_KNOWN[name].dims)) for name in _MEASURED),
    Variable("arm", "training", ("arm",), "T", "training", "1", "How the network was trained.", coordinate=True),
    Variable(
        "seed",
        "training",
        ("seed",),
        "i",
        "seed",
        "1",
        "Seed of the initial weights and of the order of the images; the same for all arms.",
        coordinate=True,
    ),
    Variable("batch_norm", "training", ("arm",), "b", "batch norm", "1", "Whether the arm has batch norm.", coordinate=True),
    Variable("dropout", "training", ("arm",), "b", "dropout", "1", "Whether the arm has dropout.", coordinate=True),
    Variable(
        "test_accuracy",
        "training",
        ("arm", "seed"),
        "f",
        "test accuracy",
        "1",
        "Top-1 accuracy of the unablated network over the images that the units were silenced on.",
    ),
    Variable(
        "train_accuracy",
        "training",
        ("arm", "seed"),
        "f",
        "training accuracy",
        "1",
        "Top-1 accuracy of the finished network, in eval mode, over the first 10,000 training images as they are.",
    ),
    Variable(
        "live_units",
        "training",
        ("arm", "seed"),
        "i",
        "live units",
        "units",
        "Units that are above zero somewhere on at least one image.",
    ),
    Variable(
        "weights_sha256",
        "training",
        ("arm", "seed"),
        "T",
        "fingerprint of the weights",
        "1",
        "SHA-256 of the network's state dict, as its study has it.",
    ),
)
