#!/usr/bin/env python3
"""Trains once on this site's data: `fedbasin site run --train 'python train.py'` calls it in each round.

It finds in its environment FEDBASIN_REFERENCE, the checkpoint to start from (empty in a founding round: it then starts from a network
of its own), FEDBASIN_OUTPUT, where the trained one goes, and FEDBASIN_METRICS, where its figures go.
"""

import argparse
import json
import os

import torch
from torch.nn.functional import cross_entropy

import data
from model import device, load, make_model, save


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data.add_arguments(parser)
    parser.add_argument("--epochs", type=int, nargs=2, default=[6, 2], metavar=("N", "M"),
                        help="of a round without a reference, and of those that start from one (default: 6 2)")
    parser.add_argument("--learning-rate", type=float, nargs=2, default=[0.1, 0.03], metavar=("X", "Y"),
                        help="at the start, likewise (default: 0.1 0.03)")
    parser.add_argument("--batch", type=int, default=48, metavar="N", help="examples of a step (default: 48)")
    parser.add_argument("--weight-decay", type=float, default=0.01, metavar="X",
                        help="0.01 if it is left out; without any, what does nothing stays in the network, and fits nobody else's")
    parser.add_argument("--seed", type=int, metavar="N", help="to do the same again; another each time if it is left out")
    return parser.parse_args()


def train(model, inputs, labels, epochs, learning_rate, options):
    """All epochs, with a learning rate that falls to 0; returns the last epoch's mean loss."""
    optimiser = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=options.weight_decay)
    steps = epochs * -(-len(inputs) // options.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for epoch in range(epochs):
        total, seen = 0.0, 0
        for batch in torch.randperm(len(inputs)).split(options.batch):
            if len(batch) < 2:
                continue  # BatchNorm has no deviation of one example
            loss = cross_entropy(model(inputs[batch].to(device())), labels[batch].to(device()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total, seen = total + loss.item() * len(batch), seen + len(batch)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / seen:.4f}", flush=True)
    return total / seen


def main():
    options = arguments()
    # PyTorch begins with the same seed in every process.
    if options.seed is None:
        torch.seed()
    else:
        torch.manual_seed(options.seed)
    inputs, labels = data.load("train", options)
    model, reference = make_model(), os.environ["FEDBASIN_REFERENCE"]
    if reference:
        load(model, reference)
    kind = 1 if reference else 0
    loss = train(model.to(device()), inputs, labels, options.epochs[kind], options.learning_rate[kind], options)
    save(model, os.environ["FEDBASIN_OUTPUT"])
    with open(os.environ["FEDBASIN_METRICS"], "w") as file:
        json.dump({"num_examples": len(inputs), "metrics": {"loss": loss}}, file)


if __name__ == "__main__":
    main()
