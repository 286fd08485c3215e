"""The network, and how it becomes a checkpoint and is one again. Put your own network here.

All sites need the same one: names, shapes and dtypes of its state dict are the run's layout.
"""

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Net(nn.Module):
    """Two convolutions and two linear layers, BatchNorm behind all but the last; 28 x 28 grey images, ten classes."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.hidden = nn.Linear(32 * 7 * 7, 128)
        self.norm3 = nn.BatchNorm1d(128)
        self.classes = nn.Linear(128, 10)

    def forward(self, images):
        x = torch.relu(self.norm1(self.conv1(images)))
        x = torch.relu(self.norm2(self.conv2(x)))
        x = torch.relu(self.norm3(self.hidden(x.flatten(1))))
        return self.classes(x)


def make_model():
    """A network with random parameters."""
    return Net()


def example_inputs():
    """What the network is called with, as a tuple: for the export of its graph, which depends on shapes alone."""
    return (torch.zeros(2, 1, 28, 28),)


def device():
    """Where to compute."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save(model, path):
    """Writes the whole state, buffers too, as safetensors wants it: contiguous, and each name with a tensor of its own."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, path)


def load(model, path):
    """Reads what `save` wrote, or what the server made of it: every name must be there, and no other."""
    model.load_state_dict(load_file(path), strict=True)
