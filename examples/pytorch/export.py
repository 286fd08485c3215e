#!/usr/bin/env python3
"""Writes the network's graph, model.onnx, and a checkpoint of it, model.safetensors: what `fedbasin spec derive` reads.

One person does this, once, before the run; the sites do not need it.
"""

import argparse
import importlib.util
import inspect
import pathlib
import warnings

import torch

from model import example_inputs, make_model, save


def write_graph(model, inputs, path):
    """Writes a graph in which every parameter has the name that it has in the state dict.

    The parameters are disturbed first: where they are alike, as those of fresh BatchNorms are, the exporter may write one tensor for
    several of them.
    """
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor), alpha=0.01)
    model.eval()
    choice = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    if choice and importlib.util.find_spec("onnxscript"):
        torch.onnx.export(model, inputs, path, dynamo=True, optimize=False, external_data=False)
        return
    # The older exporter would put BatchNorms into the layers before them, and transpose weights: it must do neither.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ONNX export mode is set to")
        torch.onnx.export(model, inputs, path, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE, **choice)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("."), metavar="DIR", help="where the two files go")
    folder = parser.parse_args().output
    save(make_model(), folder / "model.safetensors")
    write_graph(make_model(), example_inputs(), str(folder / "model.onnx"))


if __name__ == "__main__":
    main()
