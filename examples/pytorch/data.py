"""This site's examples. Put your own data here: `load` is all that the other files call.

As it is, it reads the four files of Fashion-MNIST (or MNIST: the same form) from a folder, and takes every N-th example of them, so
that several sites can be tried on one machine without a common example.
"""

import gzip
import pathlib

import numpy
import torch

FASHION_MNIST = pathlib.Path(__file__).resolve().parents[2] / "demo" / "data"


def add_arguments(parser):
    """What the command line says of the data. It stays at the site: the server sees no argument."""
    parser.add_argument("--data", type=pathlib.Path, default=FASHION_MNIST, metavar="DIR",
                        help="folder of the four IDX files, as .gz (default: the part of Fashion-MNIST in demo/data)")
    parser.add_argument("--share", type=share, default=(0, 1), metavar="K/N",
                        help="only the examples K, K + N, K + 2 N, ... (default: 0/1, all of them)")


def share(text):
    """`1/3` as (1, 3)."""
    first, step = (int(word) for word in text.split("/"))
    if not 0 <= first < step:
        raise ValueError
    return first, step


def load(part, arguments):
    """Inputs and labels of `train` or `test`, as two tensors. Nobody may train on what the other part holds."""
    images = read_idx(arguments.data / f"{part_file(part)}-images-idx3-ubyte.gz")
    labels = read_idx(arguments.data / f"{part_file(part)}-labels-idx1-ubyte.gz")
    if len(images) != len(labels):
        raise SystemExit(f"{arguments.data}: {len(images)} images, but {len(labels)} labels")
    first, step = arguments.share
    images, labels = images[first::step], labels[first::step]
    # Mean and deviation must be the same at all sites, as everything is that belongs to the network.
    inputs = (torch.from_numpy(images).float().unsqueeze(1) / 255 - 0.286) / 0.353
    return inputs, torch.from_numpy(labels).long()


def part_file(part):
    return {"train": "train", "test": "t10k"}[part]


def read_idx(path):
    """An array of bytes in the IDX form: two zeros, 8 for bytes, the number of axes, each axis's length (big-endian), the bytes."""
    with gzip.open(path) as file:
        raw = file.read()
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: no IDX file of bytes")
    shape = numpy.frombuffer(raw, ">u4", count=raw[3], offset=4)
    # Copied: PyTorch wants arrays that may be written.
    return numpy.frombuffer(raw, "u1", offset=4 + 4 * raw[3]).reshape(shape).copy()
