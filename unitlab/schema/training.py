"""Variables of the bundled comparisons of networks that were trained in different ways."""

from dataclasses import replace
from functools import partial

from unitlab.schema.results import ATTRIBUTES, CURVES, DAMAGE
from unitlab.schema.stored import ABLATION, LAYER, STUDY
from unitlab.schema.variable import Variable

_training, _memorising = partial(Variable, "training"), partial(Variable, "memorising")
_NETWORK = ("arm", "seed")
_KNOWN = {row.name: row for row in (*STUDY, *LAYER, *ABLATION, *DAMAGE, *ATTRIBUTES)}


def _of_networks(names: tuple[str, ...], *dims: str) -> tuple[Variable, ...]:
    return tuple(replace(_KNOWN[name], dims=(*dims, *_KNOWN[name].dims)) for name in names)


_ARM = _training("arm", ("arm",), "T", "1", "training", "How the network was trained.", coordinate=True)
_SEED = _training(
    "seed", ("seed",), "i", "1", "seed", "Seed of the initial weights and of the order of the images; the same for all arms.",
    coordinate=True,
)  # fmt: skip
_SHA256 = _training("weights_sha256", _NETWORK, "T", "1", "fingerprint of the weights",
     "SHA-256 of the network's state dict, as its study has it.")  # fmt: skip
TRAINING = (
    *(_KNOWN[name] for name in ("unit", "category")),
    # of every network, as damage and attributes tell it of one
    *_of_networks((
        "overall_drop", "max_class_drop", "max_class_drop_null", "max_class_drop_crossfit", "max_class", "p_any", "p_specific",
        "n_damaged", "concentration", "reliability", "accuracy_drop", "removed_energy", "class_selectivity",
        "class_selectivity_max", "mutual_information", "top_precision", "fraction_active", "mean_activation", "l1_norm_folded",
    ), *_NETWORK),
    _ARM,
    _SEED,
    _training("batch_norm", ("arm",), "b", "1", "batch norm", "Whether the arm has batch norm.", coordinate=True),
    _training("dropout", ("arm",), "T", "1", "dropout",
         "What dropout drops of the measured layer's maps in training: nothing (\"none\"), single positions (\"positions\", "
         "PyTorch's Dropout) or whole units (\"channels\", Dropout2d).", coordinate=True),
    _training("learning_rate", ("arm",), "f", "1", "learning rate",
         "Learning rate of the arm, chosen on validation images with another seed."),
    _training("steps", _NETWORK, "i", "steps", "training steps",
         "Batches until the validation accuracy that all networks were trained to was reached."),
    _training("test_accuracy", _NETWORK, "f", "1", "test accuracy",
         "Top-1 accuracy of the unablated network over the images that the units were silenced on."),
    _training("validation_accuracy", _NETWORK, "f", "1", "validation accuracy",
         "Top-1 accuracy over the images, taken from the training images, by which training was stopped: a little too high."),
    _training("train_accuracy", _NETWORK, "f", "1", "training accuracy",
         "Top-1 accuracy of the finished network, in eval mode, over the first 10,000 training images as they are."),
    _training("live_units", _NETWORK, "i", "units", "live units", "Units that are above zero somewhere on at least one image."),
    _SHA256,
)  # fmt: skip

_MEASURED = (*_NETWORK, "measured_on")
MEMORISING = (
    *(_KNOWN[name] for name in ("unit", "category")),
    *(row for row in CURVES if row.name == "k"),
    *_of_networks((
        "overall_drop", "max_class_drop", "max_class_drop_crossfit", "accuracy_drop", "removed_energy", "class_selectivity",
        "mutual_information", "fraction_active", "mean_activation",
    ), *_MEASURED),
    _ARM,
    _SEED,
    _memorising("random_labels", ("arm",), "f", "1", "random labels",
         "Share of the training images whose label was drawn anew from all classes, so that some are right by chance.",
         coordinate=True),
    _memorising("measured_on", ("measured_on",), "T", "1", "measured on",
         "\"training images\" with the labels that were trained on, or \"test images\" with their true ones.", coordinate=True),
    _memorising("epochs", _NETWORK, "i", "epochs", "epochs", "Passes through the training images until all were fitted."),
    _memorising("accuracy", (*_MEASURED, "k"), "f", "1", "accuracy",
         "Correct predictions / images, top-1, with the first k units of a random order silenced: mean over the orders."),
    _memorising("curve_area", _MEASURED, "f", "1", "area under the curve",
         "Area under the accuracy over the share of silenced units, by trapezoids: 1 for a network that loses nothing until "
         "its last unit."),
    _memorising("relative_area", _MEASURED, "f", "1", "area, relative",
         "The same area / the accuracy of the unablated network, so that networks of other accuracies compare."),
    _SHA256,
)  # fmt: skip
