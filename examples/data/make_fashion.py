#!/usr/bin/env python3
"""Makes the contact sheets in fashion/ from Debian's package dataset-fashion-mnist (needs python3-pil, python3-numpy).

The first 1000 training and 200 test images of each class, in their order, as 8-bit grey PNG tiles of 28 x 28 pixels,
40 (training) and 20 (test) to a line; and in samples/ a test image of each class that is not among them.
"""
import gzip
import pathlib
import sys

import numpy
from PIL import Image

NAMES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot"]


def idx(path):
    data = gzip.open(path).read()
    rank = data[3]
    shape = [int.from_bytes(data[4 + 4 * i:8 + 4 * i], "big") for i in range(rank)]
    return numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * rank).reshape(shape)


def main():
    source = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    target = pathlib.Path(__file__).resolve().parent / "fashion"
    for prefix, split, count, across in [("train", "train", 1000, 40), ("t10k", "test", 200, 20)]:
        images = idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        (target / split).mkdir(parents=True, exist_ok=True)
        for label, name in enumerate(NAMES):
            tiles = images[labels == label][:count]
            sheet = tiles.reshape(count // across, across, 28, 28).transpose(0, 2, 1, 3)
            sheet = sheet.reshape(count // across * 28, across * 28)
            Image.fromarray(sheet).save(target / split / f"{name}.28x28.png", optimize=True)
    (target.parent / "samples").mkdir(exist_ok=True)
    for label, name in enumerate(NAMES):  # the split in hand is the test set
        Image.fromarray(images[labels == label][count]).save(target.parent / "samples" / f"{name}.png", optimize=True)


main()
