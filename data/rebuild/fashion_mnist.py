"""Rebuild data/images/fashion_mnist: the test set of Fashion-MNIST, as its authors published it.

    python data/rebuild/fashion_mnist.py FOLDER

FOLDER holds the four original .gz files (Debian's package dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist; torchvision's FashionMNIST downloads the same files).
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
from pathlib import Path

# of the uncompressed files: how they are compressed differs from place to place
SHA256 = {
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    target = Path(__file__).parents[1] / "images" / "fashion_mnist"
    target.mkdir(parents=True, exist_ok=True)
    for name, expected in SHA256.items():
        source = Path(sys.argv[1]) / name
        if hashlib.sha256(gzip.decompress(source.read_bytes())).hexdigest() != expected:
            raise SystemExit(f"{source} is not the file that was published")
        shutil.copyfile(source, target / name)


if __name__ == "__main__":
    main()
