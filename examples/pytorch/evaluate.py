#!/usr/bin/env python3
"""Tries one model on data that this site does not train on: `fedbasin site run … --evaluate 'python evaluate.py'` calls it.

It finds in its environment FEDBASIN_MODEL, the file to try (FEDBASIN_KIND says which: global, own or naive), and FEDBASIN_METRICS,
where its figures go.
"""

import argparse
import json
import os

import torch
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data.add_arguments(parser)
    inputs, labels = data.load("test", parser.parse_args())
    model = make_model()
    load(model, os.environ["FEDBASIN_MODEL"])
    loss, accuracy = evaluate(model, inputs, labels)
    with open(os.environ["FEDBASIN_METRICS"], "w") as file:
        json.dump({"num_examples": len(inputs), "loss": loss, "accuracy": accuracy}, file)


if __name__ == "__main__":
    main()
