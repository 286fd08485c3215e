#!/usr/bin/env python3
"""Exports networks of the kinds that sites have with examples/pytorch/export.py, derives a spec for each, and verifies it.

All of them are fresh, as their makers leave them: gains of 1, biases of 0, counters of 0.

usage: torch_networks.py [--programs target/debug]      (with a Python that has torch and safetensors)
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings

import torch
from torch import nn
from torch.nn import functional

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "pytorch"))

import export  # noqa: E402
import model  # noqa: E402


class Block(nn.Module):
    """Two convolutions beside a skip connection, which has one of its own where the shape changes."""

    def __init__(self, channels, out, norm):
        super().__init__()
        stride = 1 if channels == out else 2
        self.conv1, self.norm1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), norm(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), norm(out)
        self.skip = nn.Sequential() if stride == 1 else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(inner + self.skip(x))


def resnet(norm):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), norm(16), nn.ReLU(), nn.MaxPool2d(2), Block(16, 16, norm), Block(16, 32, norm),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 10))


class UNet(nn.Module):
    """One step down and up again, what was before beside what comes back."""

    def __init__(self):
        super().__init__()
        self.down, self.norm1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.inner, self.norm2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.both, self.out = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        wide = torch.relu(self.norm1(self.down(x)))
        deep = torch.relu(self.norm2(self.inner(functional.max_pool2d(wide, 2))))
        return self.out(torch.relu(self.both(torch.cat([self.up(deep), wide], 1))))


class Series(nn.Module):
    """A recurrent layer or a transformer's, over a series."""

    def __init__(self, layer, width):
        super().__init__()
        self.first, self.layer, self.classes = nn.Linear(6, width), layer, nn.Linear(width, 2)

    def forward(self, x):
        out = self.layer(self.first(x))
        return self.classes((out[0] if isinstance(out, tuple) else out)[:, -1])


# Name, network, shape of the input, and how many groups theory has for it.
NETWORKS = [
    ("residual blocks, BatchNorm", lambda: resnet(nn.BatchNorm2d), (2, 3, 16, 16), 4),
    # Whole groups of channels, and the channels within: two for each of four.
    ("residual blocks, GroupNorm", lambda: resnet(lambda channels: nn.GroupNorm(4, channels)), (2, 3, 16, 16), 8),
    ("residual blocks, InstanceNorm", lambda: resnet(lambda channels: nn.InstanceNorm2d(channels, affine=True)), (2, 3, 16, 16), 4),
    ("U-Net", UNet, (2, 1, 16, 16), 4),
    ("LayerNorm, GELU", lambda: nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 3)), (2, 12), 1),
    ("LSTM", lambda: Series(nn.LSTM(16, 16, batch_first=True), 16), (2, 5, 6), 2),
    ("transformer", lambda: Series(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 16), (2, 5, 6), 5),
]


def fedbasin(programs, *arguments):
    done = subprocess.run([programs / "fedbasin", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target" / "debug", metavar="DIR")
    programs = parser.parse_args().programs
    warnings.filterwarnings("ignore")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fedbasin-torch.") as name:
        folder = pathlib.Path(name)
        graph, spec, checkpoint = folder / "model.onnx", folder / "spec.json", folder / "model.safetensors"
        for kind, make, shape, groups in NETWORKS:
            model.save(make(), checkpoint)
            export.write_graph(make(), (torch.randn(shape),), str(graph))
            code, derived = fedbasin(programs, "spec", "derive", graph, "--checkpoint", checkpoint, "-o", spec)
            verified = ""
            if code == 0:
                code, verified = fedbasin(programs, "spec", "verify", spec, graph)
            found = re.search(r"^(\d+) groups; .*", derived, re.M)
            holds = code == 0 and found is not None and int(found[1]) == groups and "verified:" in verified
            print(f"  {'ok' if holds else 'FAILED'}: {kind}: {found[0] if found else 'no spec'}")
            if not holds:
                print(derived + verified)
            failed += not holds
    sys.exit(f"{failed} of {len(NETWORKS)} networks failed" if failed else 0)


if __name__ == "__main__":
    main()
