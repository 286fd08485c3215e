#!/usr/bin/env python3
"""Tries one model on data that this site does not train on: `fedbasin site run … --evaluate 'python evaluate.py'` calls it.

It finds in its environment FEDBASIN_MODEL, the file to try (FEDBASIN_KIND says which: global, own or naive), FEDBASIN_METRICS,
where its figures go, and FEDBASIN_GLOBAL, the global model's file where another one is tried (else it is empty).
"""

import argparse
import json
import os

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import data
from model import device, load, make_model


def evaluate(model, inputs, labels):
    """Mean loss, and the fraction that is right."""
    model.to(device()).eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for some, wanted in zip(inputs.split(256), labels.split(256)):
            wanted = wanted.to(device())
            outputs = model(some.to(device()))
            loss += cross_entropy(outputs, wanted, reduction="sum").item()
            right += (outputs.argmax(1) == wanted).sum().item()
    return loss / len(inputs), right / len(inputs)


def path(model, start, end, inputs, labels, places=5):
    """Loss and accuracy on the straight line from the file `start` to the file `end`: is there a barrier between them?"""
    first, last, points = load_file(start), load_file(end), []
    for t in (place / (places - 1) for place in range(places)):
        # Counters are whole numbers: they have no way between.
        mix = {name: torch.lerp(first[name], last[name], t) if last[name].is_floating_point() else last[name] for name in last}
        model.load_state_dict(mix)
        loss, accuracy = evaluate(model, inputs, labels)
        points.append({"t": t, "loss": loss, "accuracy": accuracy})
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data.add_arguments(parser)
    inputs, labels = data.load("test", parser.parse_args())
    model = make_model()
    load(model, os.environ["FEDBASIN_MODEL"])
    loss, accuracy = evaluate(model, inputs, labels)
    figures = {"num_examples": len(inputs), "loss": loss, "accuracy": accuracy}
    if os.environ.get("FEDBASIN_GLOBAL"):
        # By some of the data: the shape is what counts.
        figures["path"] = path(model, os.environ["FEDBASIN_MODEL"], os.environ["FEDBASIN_GLOBAL"], inputs[:256], labels[:256])
    with open(os.environ["FEDBASIN_METRICS"], "w") as file:
        json.dump(figures, file)


if __name__ == "__main__":
    main()
