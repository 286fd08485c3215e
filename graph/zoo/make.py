#!/usr/bin/env python3
"""Makes the ONNX files and zoo.json of this folder; see README.md.

    python make.py              every network
    python make.py mlp gpt2.ts  only these (zoo.json keeps the others' entries)
    python make.py --check DIR  every network into DIR, compared byte for byte
                                with the files beside this script
"""

import argparse
import collections
import contextlib
import filecmp
import io
import json
import logging
import math
import os
import pathlib
import sys
import warnings
import zlib

if os.environ.get("PYTHONHASHSEED") != "0" and __name__ == "__main__":
    # onnxscript orders some values by a set of strings.
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnxruntime
import torch
import torch.nn.functional as F
import torchvision.models as tv
import transformers as hf
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformerBlockV2,
)
from torchvision.models.vgg import make_layers
from torchvision.ops.misc import Conv2dNormActivation

torch.backends.mha.set_fastpath_enabled(False)
torch.set_num_threads(1)
hf.logging.set_verbosity_error()
logging.getLogger("torch.onnx").setLevel(logging.ERROR)

HERE = pathlib.Path(__file__).resolve().parent
OPSET = 18
BATCH = 2
MAX_BYTES = 400_000
MAX_TOTAL_BYTES = 4_000_000

Net = collections.namedtuple("Net", "name build inputs note variants")
NETS = {}
# How a network is exported, and the ending of the file: NAME.onnx, NAME.ts.onnx, NAME.fn.onnx.
EXPORTERS = {
    "dynamo": ("", "dynamo"),
    "ts": (".ts", "torchscript"),
    "functions": (".fn", "dynamo, its model-local functions not inlined"),
    "fallback": ("", "torchscript, because the dynamo exporter gets this network wrong"),
}


def floats(*shape, low=-1.0, high=1.0):
    """A float32 input, drawn uniformly from [low, high)."""
    return {"shape": [BATCH, *shape], "dtype": "float32", "low": low, "high": high}


def ints(*shape, low=0, high):
    """An int64 input, drawn uniformly from low, ..., high - 1."""
    return {"shape": [BATCH, *shape], "dtype": "int64", "low": low, "high": high}


def net(note, *, variants="dynamo", **inputs):
    """Registers a builder and the ways in which it is exported, see EXPORTERS."""

    def register(build):
        key = build.__name__
        assert key not in NETS, key
        NETS[key] = Net(key, build, inputs, " ".join(note.split()), variants.split())
        return build

    return register


# ---------------------------------------------------------------------------
# Plain networks


@net(
    "Both hidden axes (32, 24) permutable; the 784 inputs and 10 outputs pinned.",
    variants="dynamo ts",
    input=floats(784),
)
def mlp():
    return nn.Sequential(
        collections.OrderedDict(
            fc1=nn.Linear(784, 32),
            act1=nn.ReLU(),
            fc2=nn.Linear(32, 24),
            act2=nn.ReLU(),
            fc3=nn.Linear(24, 10),
        )
    )


class MlpLayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(40, 32)
        self.norm1 = nn.LayerNorm(32)
        self.fc2 = nn.Linear(32, 24)
        self.norm2 = nn.LayerNorm(24)
        self.fc3 = nn.Linear(24, 10)

    def forward(self, x):
        x = F.gelu(self.norm1(self.fc1(x)))
        x = F.gelu(self.norm2(self.fc2(x)), approximate="tanh")
        return self.fc3(x)


@net(
    "Both hidden axes (32, 24) permutable together with the LayerNorms' gains and biases; "
    "inputs and outputs pinned.",
    input=floats(40),
)
def mlp_layernorm_gelu():
    return MlpLayerNorm()


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 8, 5)
        self.fc1 = nn.Linear(8 * 5 * 5, 24)
        self.fc2 = nn.Linear(24, 18)
        self.fc3 = nn.Linear(18, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


@net(
    "conv1 (6), conv2 (8), fc1 (24), fc2 (18) permutable; conv2's permutation moves fc1's 200 "
    "inputs in blocks of 5*5; image channel and classes pinned.",
    input=floats(1, 28, 28),
)
def lenet():
    return LeNet()


def small_vgg(batch_norm):
    cfg = [6, "M", 10, 12, "M", 14, 14, "M"]
    model = tv.VGG(make_layers(cfg, batch_norm=batch_norm), num_classes=10)
    model.avgpool = nn.AdaptiveAvgPool2d((2, 2))
    model.classifier = nn.Sequential(
        nn.Linear(14 * 2 * 2, 20),
        nn.ReLU(True),
        nn.Dropout(0.5),
        nn.Linear(20, 18),
        nn.ReLU(True),
        nn.Dropout(0.5),
        nn.Linear(18, 10),
    )
    return model


@net(
    "Every conv width and both classifier widths permutable; the last conv's permutation moves "
    "the first Linear's 56 inputs in blocks of 2*2; RGB and classes pinned.",
    input=floats(3, 32, 32),
)
def vgg():
    return small_vgg(False)


@net(
    "As vgg, with each BatchNorm's gain, bias, mean and variance moved along with its conv.",
    input=floats(3, 32, 32),
)
def vgg_bn():
    return small_vgg(True)


# ---------------------------------------------------------------------------
# Residual networks


class SmallResNet(tv.ResNet):
    """torchvision's ResNet with other widths and a 3x3 stem."""

    def __init__(self, block, layers, planes, **kwargs):
        super().__init__(block, layers, **kwargs)
        self.inplanes, self.dilation = planes[0], 1
        self.conv1 = nn.Conv2d(3, planes[0], 3, padding=1, bias=False)
        self.bn1 = self._norm_layer(planes[0])
        self.layer1 = self._make_layer(block, planes[0], layers[0])
        self.layer2 = self._make_layer(block, planes[1], layers[1], stride=2)
        self.layer3 = self._make_layer(block, planes[2], layers[2], stride=2)
        self.layer4 = self._make_layer(block, planes[3], layers[3], stride=2)
        self.fc = nn.Linear(planes[3] * block.expansion, 10)
        for module in self.modules():
            if isinstance(module, (BasicBlock, Bottleneck)):
                # A random network this deep amplifies rounding errors unless its branches are weak.
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                last.gain_scale = 0.4


RESNET_NOTE = (
    "One shared permutation per stage for the residual stream (stem and layer1 share one; each "
    "downsample opens a new one) and a free one per inner conv of each block; BatchNorms move "
    "along; RGB and classes pinned."
)


@net(RESNET_NOTE, variants="dynamo ts", input=floats(3, 32, 32))
def resnet18():
    return SmallResNet(BasicBlock, [2, 2, 2, 2], (6, 8, 10, 12), num_classes=10)


@net(
    RESNET_NOTE + " Bottlenecks: two inner axes each; layer1 has a downsample too.",
    input=floats(3, 32, 32),
)
def resnet50():
    return SmallResNet(Bottleneck, [3, 4, 6, 3], (3, 4, 5, 6), num_classes=10)


@net(
    "As resnet50, but the grouped 3x3 convs (2 groups) allow on their input and output axes only "
    "permutations that keep the groups: within each group, and whole groups together on both.",
    input=floats(3, 32, 32),
)
def resnext():
    return SmallResNet(
        Bottleneck, [1, 1, 2, 1], (4, 6, 8, 10), groups=2, width_per_group=32, num_classes=10
    )


@net(
    "As resnet18, but every axis carries a GroupNorm (4 groups): only permutations that keep the "
    "groups, i.e. within groups and of whole groups, for stream and inner axes alike.",
    variants="dynamo ts",
    input=floats(3, 32, 32),
)
def resnet_groupnorm():
    return SmallResNet(
        BasicBlock,
        [1, 1, 1, 1],
        (8, 12, 16, 20),
        norm_layer=lambda c: nn.GroupNorm(4, c),
        num_classes=10,
    )


class PreActBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.cout, self.stride = cout, stride

    def forward(self, x):
        out = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        skip = x[:, :, :: self.stride, :: self.stride]
        pad = self.cout - skip.shape[1]
        return out + F.pad(skip, (0, 0, 0, 0, 0, pad))


class PadResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.block1 = PreActBlock(6, 6, 1)
        self.block2 = PreActBlock(6, 10, 2)
        self.bn = nn.BatchNorm2d(10)
        self.fc = nn.Linear(10, 10)

    def forward(self, x):
        x = self.block2(self.block1(self.conv1(x)))
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


@net(
    "Option-A ResNet: the 6-wide stream is zero padded to 10 channels, so the first 6 and the "
    "last 4 of the 10 may be permuted only apart, the first 6 with the 6-wide stream's "
    "permutation; inner axes free.",
    input=floats(3, 16, 16),
)
def resnet_pad_shortcut():
    return PadResNet()


# ---------------------------------------------------------------------------
# Depthwise, squeeze-excite, concat, shuffle


@net(
    "Stream widths permutable per stage (shared over its inverted residuals); expanded widths "
    "permutable with the depthwise conv's weight axis 0 and BatchNorms; RGB and classes pinned.",
    input=floats(3, 32, 32),
)
def mobilenet_v2():
    model = tv.MobileNetV2(
        num_classes=10,
        width_mult=0.25,
        round_nearest=2,
        inverted_residual_setting=[[1, 24, 1, 1], [3, 32, 2, 2], [4, 40, 2, 2]],
    )
    model.features[-1] = Conv2dNormActivation(10, 20, kernel_size=1, activation_layer=nn.ReLU6)
    model.classifier[1] = nn.Linear(20, 10)
    return model


@net(
    "As mobilenet_v2; each squeeze-excite keeps the expanded axis tied on both sides and has a "
    "free squeeze axis of its own.",
    input=floats(3, 32, 32),
)
def efficientnet():
    return tv.EfficientNet(
        [
            MBConvConfig(1, 3, 1, 8, 8, 1, 1.0, 1.0),
            MBConvConfig(2, 3, 2, 8, 16, 2, 1.0, 1.0),
            MBConvConfig(2, 5, 2, 16, 24, 1, 1.0, 1.0),
        ],
        dropout=0.2,
        last_channel=30,
        num_classes=10,
    )


@net(
    "As efficientnet, first stages with fused (dense 3x3) expansion and no squeeze-excite.",
    input=floats(3, 24, 24),
)
def efficientnet_v2():
    return tv.EfficientNet(
        [
            FusedMBConvConfig(1, 3, 1, 8, 8, 1),
            FusedMBConvConfig(2, 3, 2, 8, 16, 1),
            MBConvConfig(2, 3, 2, 16, 16, 2, 1.0, 1.0),
        ],
        dropout=0.2,
        last_channel=20,
        num_classes=10,
    )


@net(
    "One permutation per stage for the stream (stem/downsample conv, LayerNorms, depthwise conv, "
    "LayerScale (C,1,1), block output), one free per block for the 4C hidden axis. The dynamo file "
    "ends its average pooling over a permuted tensor by as_strided, made of a Loop, an If and "
    "sequences; pinning the last stage is safe there.",
    variants="dynamo ts",
    input=floats(3, 32, 32),
)
def convnext():
    return tv.ConvNeXt(
        [CNBlockConfig(8, 12, 2), CNBlockConfig(12, 18, 2), CNBlockConfig(18, None, 1)],
        layer_scale=1.0,
        num_classes=10,
    )


@net(
    "Each dense layer's bottleneck axis is free; each growth axis and the initial features are "
    "permutable too, as blocks of the concatenated axes of all later norms and convs.",
    input=floats(3, 32, 32),
)
def densenet():
    return tv.DenseNet(
        growth_rate=5,
        block_config=(2, 3, 2),
        num_init_features=8,
        bn_size=2,
        num_classes=10,
    )


@net(
    "The branches' inner axes are free; the stream is halved, concatenated and shuffled, so at "
    "most permutations survive that are consistent over those index maps (pinning it is safe); "
    "conv5's axis is free.",
    input=floats(3, 32, 32),
)
def shufflenet_v2():
    return tv.ShuffleNetV2([2, 3, 2], [6, 8, 16, 24, 28], num_classes=10)


class ShuffleUnit(nn.Module):
    def __init__(self, channels, groups, mid):
        super().__init__()
        self.groups = groups
        self.conv1 = nn.Conv2d(channels, mid, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, padding=1, groups=mid, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        b, c, h, w = y.shape
        y = y.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        return F.relu(x + y)


class ShuffleNetV1(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.unit1 = ShuffleUnit(12, 3, 18)
        self.unit2 = ShuffleUnit(12, 3, 18)
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.unit2(self.unit1(F.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


@net(
    "Stream (12): permutations that keep the 3 groups. Inner axis (18 = 3 groups of 6): the "
    "shuffle sends channel g*6+i to i*3+g, so conv3's groups are {i in (0,1)}, {2,3}, {4,5}: "
    "before the shuffle only permutations that respect both partitions; pinning is safe.",
    input=floats(3, 16, 16),
)
def shufflenet_v1():
    return ShuffleNetV1()


class DepthwiseMultiplier(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 3, padding=1)
        self.dw = nn.Conv2d(7, 14, 3, padding=1, groups=7)
        self.bn = nn.BatchNorm2d(14)
        self.pw = nn.Conv2d(14, 9, 1)
        self.fc = nn.Linear(9, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.bn(self.dw(x)))
        return self.fc(F.relu(self.pw(x)).mean((2, 3)))


@net(
    "stem (7) permutable and moves the depthwise conv's 14 outputs in blocks of 2 (each pair may "
    "also be swapped by itself); pw (9) free.",
    input=floats(3, 16, 16),
)
def depthwise_multiplier():
    return DepthwiseMultiplier()


class DoubleConv(nn.Sequential):
    def __init__(self, cin, cout):
        super().__init__(
            nn.Conv2d(cin, cout, 3, padding=1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
            nn.Conv2d(cout, cout, 3, padding=1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.mid = DoubleConv(3, 5), DoubleConv(5, 7), DoubleConv(7, 9)
        self.up2 = nn.ConvTranspose2d(9, 8, 2, stride=2)
        self.dec2 = DoubleConv(15, 7)
        self.up1 = nn.ConvTranspose2d(7, 6, 2, stride=2)
        self.dec1 = DoubleConv(11, 5)
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.mid(F.max_pool2d(b, 2))
        d = self.dec2(torch.cat([b, self.up2(c)], 1))
        e = self.dec1(torch.cat([a, self.up1(d)], 1))
        return self.out(e)


@net(
    "Every conv's output axis is free, the ConvTranspose ones on weight axis 1; the decoders' "
    "inputs are concatenations of a skip (first) and an upsampled axis, each block permuted by "
    "its own source; RGB and the 2 output channels pinned.",
    input=floats(3, 16, 16),
)
def unet():
    return UNet()


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.down, self.up = nn.Linear(12, 5), nn.Linear(5, 12)
        self.head = nn.Conv2d(12, 10, 1)

    def forward(self, x):
        x = F.relu(self.conv(x))
        s = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return self.head(x * s[:, :, None, None]).amax((2, 3))


@net(
    "conv (12) permutable, tied to down's input, up's output and head's input; down (5) free.",
    input=floats(3, 12, 12),
)
def squeeze_excite():
    return SqueezeExcite()


class ChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.score = nn.Linear(12, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.conv(x))
        a = torch.softmax(self.score(x.mean((2, 3))), dim=1)
        return self.head((x * a[:, :, None, None]).mean((2, 3)) * 12)


@net(
    "Softmax over the channels commutes with permutations: the one axis of 12 (conv, score in "
    "and out, head in) is permutable.",
    input=floats(3, 12, 12),
)
def channel_softmax():
    return ChannelAttention()


class EfficientChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.conv(x))
        a = torch.sigmoid(self.eca(x.mean((2, 3)).unsqueeze(1))).squeeze(1)
        return self.head((x * a[:, :, None, None]).mean((2, 3)))


@net(
    "ECA: a convolution that slides along the channel axis, so the 12 channels are pinned.",
    input=floats(3, 12, 12),
)
def channel_conv():
    return EfficientChannelAttention()


class PixelShuffleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5, padding=2)
        self.conv2 = nn.Conv2d(10, 6 * 4, 3, padding=1)
        self.conv3 = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(F.pixel_shuffle(self.conv2(x), 2))
        return F.pixel_shuffle(self.conv3(x), 2)


@net(
    "conv1 (10) free; conv2's 24 = 6 channels of 4 sub-pixels: the 6 permutable as blocks of 4 "
    "together with conv3's input; conv3's 4 outputs pinned.",
    input=floats(1, 8, 8),
)
def pixel_shuffle():
    return PixelShuffleNet()


class AutoencoderTied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder1, self.encoder2 = nn.Linear(30, 16), nn.Linear(16, 6)
        self.bias1, self.bias2 = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(30))

    def forward(self, x):
        z = torch.tanh(self.encoder2(torch.tanh(self.encoder1(x))))
        y = torch.tanh(F.linear(z, self.encoder2.weight.t(), self.bias1))
        return F.linear(y, self.encoder1.weight.t(), self.bias2)


@net(
    "Code (6) permutable; the hidden 16 permutable with one permutation for encoder and decoder, "
    "since the decoder's weights are the encoder's, transposed (bias1 moves along).",
    input=floats(30),
)
def autoencoder_tied():
    return AutoencoderTied()


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc1, self.fc2 = nn.Linear(8, 14), nn.Linear(14, 6)
        self.head = nn.Linear(6, 1)

    def embed(self, x):
        return torch.tanh(self.fc2(F.relu(self.fc1(F.relu(self.conv(x)).amax((2, 3))))))

    def forward(self, left, right):
        return self.head(torch.abs(self.embed(left) - self.embed(right)))


@net(
    "Both branches use the same tensors: conv (8), fc1 (14) and fc2 (6) permutable, one "
    "permutation each for both uses.",
    left=floats(1, 12, 12),
    right=floats(1, 12, 12),
)
def siamese():
    return Siamese()


class MultiOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk1, self.trunk2 = nn.Linear(20, 24), nn.Linear(24, 16)
        self.class_hidden, self.class_out = nn.Linear(16, 12), nn.Linear(12, 5)
        self.box_out = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.trunk2(F.relu(self.trunk1(x))))
        return self.class_out(F.relu(self.class_hidden(x))), self.box_out(x), x.mean(1)


@net(
    "trunk1 (24), trunk2 (16) and class_hidden (12) permutable; the outputs (5 and 4) pinned; the "
    "third output is a mean over trunk2's axis, which no permutation changes.",
    input=floats(20),
)
def multi_output():
    return MultiOutput()


class FeatureOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 16), nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x):
        h = F.relu(self.fc2(F.relu(self.fc1(x))))
        return self.fc3(h), h


@net(
    "fc1 (16) permutable; fc2's axis (12) is itself an output and therefore pinned.",
    input=floats(20),
)
def hidden_output():
    return FeatureOutput()


class DropoutNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3)
        self.drop2d, self.drop = nn.Dropout2d(0.2), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(10, 14), nn.Linear(14, 10)

    def forward(self, x):
        x = self.drop2d(F.relu(self.conv1(x)))
        x = F.adaptive_avg_pool2d(F.relu(self.conv2(x)), 1).flatten(1)
        return self.fc2(self.drop(F.leaky_relu(self.fc1(x), 0.1)))


@net(
    "Dropout is the identity in eval mode: conv1 (8), conv2 (10), fc1 (14) permutable.",
    input=floats(3, 12, 12),
)
def dropout():
    return DropoutNet()


class PReluNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.fc1, self.act2 = nn.Linear(10, 14), nn.PReLU(14)
        self.fc2, self.act3 = nn.Linear(14, 12), nn.PReLU()
        self.fc3 = nn.Linear(12, 10)

    def forward(self, x):
        x = self.act1(self.conv(x)).mean((2, 3))
        return self.fc3(self.act3(self.fc2(self.act2(self.fc1(x)))))


@net(
    "All hidden axes permutable; the slopes of act1 (10) and act2 (14) move along; act3's single "
    "slope is shared.",
    input=floats(3, 12, 12),
)
def prelu():
    return PReluNet()


class InstanceNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)
        self.conv2, self.norm2 = nn.Conv2d(8, 10, 3), nn.InstanceNorm2d(10)
        self.fc = nn.Linear(10, 10)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return self.fc(F.relu(self.norm2(self.conv2(x)) + 0.3).amax((2, 3)))


@net(
    "InstanceNorm treats each channel apart: conv1 (8) with its affine parameters and conv2 (10), "
    "without any, permutable.",
    input=floats(3, 12, 12),
)
def instance_norm():
    return InstanceNormNet()


class LayerNormChw(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 8, 3), nn.LayerNorm((8, 6, 6))
        self.conv2, self.fc = nn.Conv2d(8, 10, 3), nn.Linear(10, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.conv1(x)))
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


@net(
    "LayerNorm over (C,H,W): conv1 (8) permutable with axis 0 of the norm's (8,6,6) gain and bias; "
    "conv2 (10) free.",
    input=floats(3, 8, 8),
)
def layernorm_chw():
    return LayerNormChw()


class LayerNormFlat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.LayerNorm(8 * 4 * 4)
        self.fc1, self.fc2 = nn.Linear(8 * 4 * 4, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x).flatten(1)))
        return self.fc2(F.relu(self.fc1(x)))


@net(
    "conv (8) permutable in blocks of 4*4 on the flat LayerNorm's gain and bias and fc1's input; "
    "fc1 (12) free.",
    input=floats(3, 6, 6),
)
def layernorm_flat():
    return LayerNormFlat()


class LrnNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 8, 3)
        self.lrn = nn.LocalResponseNorm(3, alpha=0.9, beta=0.75, k=1.0)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.lrn(F.relu(self.conv1(x)))
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


@net(
    "LocalResponseNorm mixes neighbouring channels: conv1 (10) pinned (only its reversal would "
    "pass); conv2 (8) free.",
    input=floats(3, 10, 10),
)
def local_response_norm():
    return LrnNet()


# ---------------------------------------------------------------------------
# Networks whose hidden axes are restricted


class RollNet(nn.Module):
    def __init__(self, residual):
        super().__init__()
        self.residual = residual
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3)
        self.fc = nn.Linear(10, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        r = torch.roll(x, 3, dims=1)
        x = x + 0.5 * r if self.residual else r
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


@net(
    "conv1 (8) is only relabelled by the roll: conv1's rows may be permuted if conv2's input gets "
    "the conjugate permutation; the same permutation on both is wrong; pinning is safe. conv2 free.",
    input=floats(3, 10, 10),
)
def roll():
    return RollNet(False)


@net(
    "x + roll(x): only permutations that commute with the roll by 3 of 8 (the 8 cyclic shifts) "
    "survive on conv1's axis; pinning is safe. conv2 (10) free.",
    input=floats(3, 10, 10),
)
def roll_residual():
    return RollNet(True)


class CumsumNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 14), nn.Linear(14, 10)

    def forward(self, x):
        x = torch.cumsum(F.relu(self.fc1(x)), dim=1)
        return self.fc3(F.relu(self.fc2(x)))


@net(
    "The cumulative sum runs along fc1's axis (12): pinned; fc2 (14) free.",
    input=floats(20),
)
def cumsum():
    return CumsumNet()


class DctNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 14), nn.Linear(14, 10)
        n = torch.arange(12, dtype=torch.float64)
        dct = torch.cos(math.pi / 12 * (n[None, :] + 0.5) * n[:, None]) / math.sqrt(6)
        self.register_buffer("dct", dct.float())

    def forward(self, x):
        x = F.relu(self.fc1(x)) @ self.dct.t()
        return self.fc3(F.relu(self.fc2(x)))


@net(
    "A fixed cosine transform (buffer dct) mixes fc1's axis (12). With the buffer left alone both "
    "its sides are pinned; if buffers move as weights do, both are free. fc2 (14) free.",
    input=floats(20),
)
def fixed_transform():
    return DctNet()


class FourierMixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 14), nn.Linear(14, 10)

    def forward(self, x):
        x = torch.fft.fft(F.relu(self.fc1(x)), dim=1)
        return self.fc3(F.relu(self.fc2(torch.view_as_real(x)[..., 0])))


@net(
    "FNet's real part of the FFT along fc1's axis (12): pin both its sides (a few permutations such "
    "as n -> -n would pass); fc2 (14) free.",
    input=floats(20),
)
def fft():
    return FourierMixing()


class SliceNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3)
        self.conv2, self.conv3 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(12, 9, 1)
        self.fc = nn.Linear(9, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        half = x.shape[1] // 2
        x = torch.cat([F.relu(self.conv2(x[:, :half])), x[:, half:]], 1)
        return self.fc(F.relu(self.conv3(x)).mean((2, 3)))


@net(
    "conv1 (12) only within its first 6 and within its last 6 channels (partial convolution); "
    "conv2 (6) and conv3 (9) free.",
    input=floats(3, 10, 10),
)
def slice_half():
    return SliceNet()


class SliceOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 10), nn.Linear(6, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        y = F.relu(self.fc2(x))
        return self.fc3(y[:, : y.shape[1] // 2 + 1] + x[:, ::2])


@net(
    "fc1 (12): even channels are read by a strided slice and added to the first 6 of fc2 (10): "
    "even among themselves (tied to fc2's first 6), odd among themselves; fc2's last 4 are unused; "
    "pinning both is safe.",
    input=floats(20),
)
def slice_strided():
    return SliceOnly()


class ConstantActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 14), nn.Linear(14, 10)
        self.register_buffer("slope", torch.linspace(0.1, 1.2, 12))
        self.shift = torch.linspace(-1.0, 1.0, 14)

    def forward(self, x):
        x = F.relu(self.fc1(x)) * self.slope
        return self.fc3(F.relu(self.fc2(x) + self.shift))


@net(
    "Per-channel constants that differ: fc1 (12) is scaled by the registered buffer slope, fc2 "
    "(14) shifted by a plain tensor attribute. Pinned while constants stay; free if they move.",
    input=floats(20),
)
def channel_constant():
    return ConstantActivation()


class PositionCoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(10, 12)
        self.fc1, self.fc2 = nn.Linear(12, 18), nn.Linear(18, 7)
        pos = torch.arange(6, dtype=torch.float64)[:, None]
        freq = torch.exp(-math.log(100.0) * torch.arange(0, 12, 2, dtype=torch.float64) / 12)
        table = torch.stack([torch.sin(pos * freq), torch.cos(pos * freq)], -1).flatten(1)
        self.register_buffer("pe", table.float())

    def forward(self, x):
        x = self.proj(x) + self.pe
        return self.fc2(F.gelu(self.fc1(x)).mean(1))


@net(
    "A sinusoidal position buffer pe (6, 12) is added to proj's axis (12): pinned while the buffer "
    "stays, free if it moves; fc1 (18) free.",
    input=floats(6, 10),
)
def sinusoidal_positions():
    return PositionCoded()


class IndexSelect(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(5, 14), nn.Linear(14, 10)
        self.register_buffer("index", torch.tensor([7, 0, 3, 10, 4]))

    def forward(self, x):
        x = torch.index_select(F.relu(self.fc1(x)), 1, self.index)
        return self.fc3(F.relu(self.fc2(x)))


@net(
    "Channels 7, 0, 3, 10, 4 of fc1 (12) are gathered: at most permutations that keep the chosen "
    "set (with the conjugate one on fc2's input), the unused rest anyhow; pinning is safe; fc2 free.",
    input=floats(20),
)
def index_select():
    return IndexSelect()


class IndexPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 14), nn.Linear(14, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = x + 0.5 * x[:, [3, 5, 0, 11, 2, 9, 1, 4, 10, 6, 8, 7]]
        y = F.relu(self.fc2(x))
        return self.fc3(y) + y[:, 6:7]


@net(
    "fc1 (12) is added to a fixed reordering of itself: only its centraliser survives, pin; fc2 "
    "(14): channel 6 alone is read by a slice, so the other 13 permute and 6 stays (pin is safe).",
    input=floats(20),
)
def index_reorder():
    return IndexPair()


class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 8 * 3), nn.Linear(8, 2 * 6), nn.Linear(6, 10)

    def forward(self, x):
        x = self.fc1(x).view(-1, 8, 3).amax(2)
        return self.fc3(self.fc2(x).view(-1, 2, 6).amax(1))


@net(
    "fc1's 24 = 8 units of 3 adjacent pieces: the 8 permutable as blocks of 3 (pieces within a "
    "unit too); fc2's 12 = 2 pieces of 6 units: the 6 permutable with the same permutation in "
    "both pieces.",
    input=floats(20),
)
def maxout():
    return Maxout()


class ChannelMax(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.gate = nn.Conv2d(2, 1, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(8, 9, 3), nn.Linear(9, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        pooled = torch.stack([x.amax(1), x.mean(1)], 1)
        x = x * torch.sigmoid(self.gate(pooled))
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


@net(
    "CBAM's spatial attention: max and mean over the channels do not see their order, so conv1 (8) "
    "is permutable; the gate's 2 inputs (max, mean) are pinned; conv2 (9) free.",
    variants="dynamo functions",
    input=floats(3, 10, 10),
)
def channel_max():
    return ChannelMax()


class ArgmaxNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 14), nn.Linear(14, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        winner = self.fc2(x).argmax(1, keepdim=True)
        return self.fc3(F.relu(self.fc2(x))) + 0.1 * winner


@net(
    "fc1 (12) free; the argmax makes an output of the channel numbers of fc2 (14): pinned.",
    input=floats(20),
)
def argmax():
    return ArgmaxNet()


class TopkNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(4, 14), nn.Linear(14, 10)

    def forward(self, x):
        values, _ = torch.topk(self.fc1(x), 4, dim=1)
        return self.fc3(F.relu(self.fc2(values)))


@net(
    "Only the sorted values of the top 4 of fc1 (12) are used: fc1's rows are permutable, fc2's "
    "input (ranks) is pinned whatever fc1 does; fc2 (14) free.",
    input=floats(20),
)
def topk():
    return TopkNet()


class TopkMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        _, index = torch.topk(x, 5, dim=1)
        mask = torch.zeros_like(x).scatter(1, index, 1.0)
        return self.fc2(x * mask)


@net(
    "k-winners-take-all: the 5 largest of fc1 (12) pass, by a scatter at the indices of a top-k; "
    "permutable in theory (ties aside), pinning is safe.",
    input=floats(20),
)
def topk_mask():
    return TopkMask()


class ConcatGroupNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 1)
        self.norm = nn.GroupNorm(4, 16)
        self.conv, self.fc = nn.Conv2d(16, 9, 1), nn.Linear(9, 10)

    def forward(self, x):
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.fc(F.relu(self.conv(self.norm(x))).mean((2, 3)))


@net(
    "Concatenation 6+10 under a GroupNorm of 4 groups of 4: group 2 holds left's 4,5 and right's "
    "0,1. left: within 0-3 and within 4-5; right: within 0-1, and 2-5, 6-9 within and as two "
    "blocks; free permutations of left or right are wrong; pinning is safe. conv (9) free.",
    input=floats(3, 8, 8),
)
def concat_groupnorm():
    return ConcatGroupNorm()


class ConcatNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(20, 6), nn.Linear(20, 10)
        self.norm = nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = self.norm(torch.cat([self.left(x), torch.tanh(self.right(x))], 1))
        a, b = torch.split(x, [6, 10], 1)
        return self.fc2(F.relu(self.fc1(torch.cat([b, a], 1))))


@net(
    "left (6) and right (10) permutable, as blocks of the LayerNorm's gain and bias; fc1's input "
    "holds right before left; fc1 (12) free.",
    input=floats(20),
)
def concat_swap():
    return ConcatNorm()


class SumHidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(20, 12), nn.Linear(12, 12)
        self.out = nn.Linear(12, 10)

    def forward(self, x):
        h = F.relu(self.fc1(x)) * torch.sigmoid(self.fc2(x))
        outer = torch.einsum("bi,bj->bij", h, h)
        return self.out(torch.relu(self.fc3(outer).mean(1)) + h)


@net(
    "One axis of 12: fc1, fc2, out's input and both axes of fc3 share one permutation (fc3's output "
    "is added to h, its input is h's axis in an outer product).",
    input=floats(20),
)
def outer_product():
    return SumHidden()


class FlattenConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc1, self.fc2 = nn.Linear(4 * 4 * 6, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


@net(
    "Flattened channels last: conv's 6 move fc1's 96 inputs with stride 1 (index hw*6+c), not in "
    "blocks; fc1 (12) free.",
    input=floats(3, 6, 6),
)
def flatten_channels_last():
    return FlattenConv()


class ReshapeMix(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(4, 5), nn.Linear(15, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x)).view(-1, 3, 4)
        return self.fc3(F.relu(self.fc2(x)).flatten(1))


@net(
    "fc1's 12 = 3 rows of 4, fc2 works on the 4: fc1 admits row permutations (with fc3's blocks of "
    "5) and one column permutation for all rows (with fc2's input), nothing else; fc2's 5 free, "
    "the same in each of fc3's 3 blocks.",
    input=floats(20),
)
def reshape_grid():
    return ReshapeMix()


# ---------------------------------------------------------------------------
# Transformers


HEADS_NOTE = (
    "Stream axis: one permutation for the whole network; per layer: heads permutable, within each "
    "head one permutation for q and k and one for v and the output projection; MLP hidden free; "
)


@net(
    HEADS_NOTE + "class token and positions move along; token positions, RGB, classes pinned "
    "(in_proj_weight is q, k, v stacked).",
    variants="dynamo ts",
    input=floats(3, 16, 16),
)
def vit():
    return tv.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=40,
        num_classes=10,
    )  # fmt: skip


class FusedAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class FusedBlock(nn.Module):
    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), FusedAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x = x + self.ls1 * self.attn(self.norm1(x))
        return x + self.ls2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class FusedVit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 24, 4, stride=4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 24))
        self.blocks = nn.Sequential(FusedBlock(24, 4, 40), FusedBlock(24, 4, 40))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.head(self.norm(self.blocks(x)).mean(1))


@net(
    HEADS_NOTE + "qkv (72) = (3, 4 heads, 6); LayerScale ls1, ls2 and positions move along.",
    input=floats(3, 16, 16),
)
def vit_fused_qkv():
    return FusedVit()


@net(
    "One stream permutation per stage (patch merging concatenates 4 blocks of the old one); heads "
    "permutable with axis 1 of relative_position_bias_table; q/k and v axes within heads and MLP "
    "hidden free. The dynamo file ends its average pooling as convnext's does.",
    input=floats(3, 32, 32),
)
def swin():
    return tv.SwinTransformer(
        patch_size=[2, 2], embed_dim=12, depths=[2, 2], num_heads=[2, 3], window_size=[4, 4],
        mlp_ratio=1.5, num_classes=10,
    )  # fmt: skip


@net(
    "As swin; cosine attention with a logit_scale per head; the bias comes from a small MLP whose "
    "512 hidden units are free and whose outputs are the heads.",
    input=floats(3, 16, 16),
)
def swin_v2():
    return tv.SwinTransformer(
        patch_size=[2, 2], embed_dim=12, depths=[2, 1], num_heads=[2, 3], window_size=[4, 4],
        mlp_ratio=1.5, num_classes=10, block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )  # fmt: skip


@net(
    HEADS_NOTE + "word, position and type embeddings move along on axis 1; pooler axis free; "
    "vocabulary, positions and labels pinned.",
    input_ids=ints(7, high=37),
    attention_mask=ints(7, high=2),
)
def bert():
    return hf.BertForSequenceClassification(
        hf.BertConfig(
            vocab_size=37, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
            intermediate_size=40, max_position_embeddings=12, num_labels=4, return_dict=False,
            attn_implementation="eager",
        )
    )  # fmt: skip


@net(
    HEADS_NOTE + "c_attn (24,72) = q, k, v stacked on axis 1; lm_head is wte; vocabulary and "
    "positions pinned.",
    variants="dynamo ts",
    input_ids=ints(8, high=37),
)
def gpt2():
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=37, n_positions=12, n_embd=24, n_layer=2, n_head=3, n_inner=40,
            use_cache=False, return_dict=False, attn_implementation="eager",
        )
    )  # fmt: skip


def small_llama(cls, config, **kwargs):
    return cls(
        config(
            vocab_size=37, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
            use_cache=False, attn_implementation="eager", **kwargs,
        )
    )  # fmt: skip


ROPE_NOTE = (
    "Stream axis: one permutation for the network; q/k axes within heads pinned by RoPE; v axis "
    "within each key-value head free (same for all query heads that read it, with o_proj); "
    "key-value heads permutable, query heads within theirs; MLP hidden (gate, up, down) free; "
    "vocabulary pinned."
)


@net(ROPE_NOTE, variants="dynamo ts", input_ids=ints(6, high=37))
def llama():
    return small_llama(hf.LlamaForCausalLM, hf.LlamaConfig, tie_word_embeddings=False)


@net(
    ROPE_NOTE + " Biases on q, k, v; lm_head tied to the embedding.",
    input_ids=ints(6, high=37),
)
def qwen2():
    return small_llama(hf.Qwen2ForCausalLM, hf.Qwen2Config, tie_word_embeddings=True)


@net(
    ROPE_NOTE + " q_norm and k_norm are pinned with q and k.",
    input_ids=ints(6, high=37),
)
def qwen3():
    return small_llama(hf.Qwen3ForCausalLM, hf.Qwen3Config, head_dim=8)


@net(
    "Stream axis pinned, since it is the output; heads: one permutation for all layers, since the "
    "relative bias (buckets, heads) is made once and shared; q/k and v axes within heads and the "
    "MLP hidden (wi, wo) free; vocabulary pinned.",
    input_ids=ints(7, high=37),
)
def t5_encoder():
    model = hf.T5EncoderModel(
        hf.T5Config(
            vocab_size=37, d_model=20, d_kv=6, d_ff=32, num_layers=2, num_heads=4,
            relative_attention_num_buckets=8, relative_attention_max_distance=16,
            use_cache=False, return_dict=False,
        )
    )  # fmt: skip
    return model


class EncoderClassifier(nn.Module):
    def __init__(self, norm_first):
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 36, batch_first=True, norm_first=norm_first)
        self.proj = nn.Linear(10, 24)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.encoder(self.proj(x)).mean(1))


@net(HEADS_NOTE + "in_proj_weight (72,24) = q, k, v stacked; post-norm.", input=floats(6, 10))
def transformer_encoder():
    return EncoderClassifier(False)


@net(
    "As transformer_encoder with pre-norm and cross attention from a decoder layer: source and "
    "target streams have one permutation each, tied only through the cross attention's weights.",
    source=floats(6, 10),
    target=floats(5, 8),
)
def transformer_seq2seq():
    class Seq2Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.source_proj, self.target_proj = nn.Linear(10, 18), nn.Linear(8, 18)
            self.transformer = nn.Transformer(
                18, 3, 1, 1, 28, batch_first=True, norm_first=True, activation="gelu"
            )
            self.transformer.encoder.enable_nested_tensor = False
            self.head = nn.Linear(18, 5)

        def forward(self, source, target):
            source, target = self.source_proj(source), self.target_proj(target)
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            return self.head(
                self.transformer(source, target, tgt_mask=mask, tgt_is_causal=True)
            )

    return Seq2Seq()


class AlibiAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(29, 20)
        self.q, self.k, self.v, self.o = (nn.Linear(20, 20) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(20), nn.Linear(20, 5)
        distance = torch.arange(6)[None, :] - torch.arange(6)[:, None]
        slopes = 2.0 ** (-2.0 * torch.arange(1, 5))
        self.register_buffer("alibi", -slopes[:, None, None] * distance.abs())

    def forward(self, ids):
        x = self.embed(ids)
        y = self.norm(x)
        q, k, v = (f(y).view(-1, 6, 4, 5).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(5) + self.alibi, -1)
        x = x + self.o((a @ v).transpose(1, 2).reshape(-1, 6, 20))
        return self.head(x.mean(1))


@net(
    "Stream (20) permutable; heads pinned by their different ALiBi slopes (buffer alibi (4,6,6)), "
    "unless the buffer moves; q/k and v axes within heads free.",
    input_ids=ints(6, high=29),
)
def alibi():
    return AlibiAttention()


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class MultiQuery(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(29, 20)
        self.q, self.k, self.v = nn.Linear(20, 24), nn.Linear(20, 6), nn.Linear(20, 6)
        self.o = nn.Linear(24, 20)
        self.norm, self.q_norm, self.k_norm = RmsNorm(20), RmsNorm(6), RmsNorm(6)
        self.head = nn.Linear(20, 5)

    def forward(self, ids):
        x = self.embed(ids)
        b, n, _ = x.shape
        y = self.norm(x)
        q = self.q_norm(self.q(y).view(b, n, 4, 6)).transpose(1, 2)
        k = self.k_norm(self.k(y)).unsqueeze(1)
        v = self.v(y).unsqueeze(1)
        a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(6), -1)
        x = x + self.o((a @ v).transpose(1, 2).reshape(b, n, 24))
        return self.head(x.mean(1))


@net(
    "One key-value head for 4 query heads: query heads permutable; q/k axis (6): one permutation "
    "for k, both norms and every query head; v axis (6): one, repeated in o's 24 inputs; stream free.",
    input_ids=ints(6, high=29),
)
def mqa_qk_norm():
    return MultiQuery()


class FusedSwiGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(14, 20)
        self.norm = RmsNorm(20)
        self.w12, self.w3 = nn.Linear(20, 2 * 18), nn.Linear(18, 20)
        self.head = nn.Linear(20, 7)

    def forward(self, x):
        x = self.embed(x)
        gate, up = self.w12(self.norm(x)).chunk(2, dim=-1)
        return self.head(x + self.w3(F.silu(gate) * up))


@net(
    "Stream (20) free; w12's 36 = gate 18, up 18: one permutation of 18 in both halves and w3's "
    "input.",
    input=floats(6, 14),
)
def swiglu_fused():
    return FusedSwiGlu()


class ConvGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(10, 2 * 9, 3, padding=1), nn.Conv1d(9, 2 * 7, 3)
        self.fc = nn.Linear(7, 5)

    def forward(self, x):
        x = F.glu(self.conv1(x), dim=1)
        a, b = self.conv2(x).view(-1, 7, 2, 6).unbind(2)
        return self.fc((torch.tanh(a) * torch.sigmoid(b)).mean(2))


@net(
    "conv1's 18 = value 9, gate 9: one permutation of 9 in both halves; conv2's 14 = 7 interleaved "
    "pairs (value, gate): the 7 permutable as blocks of 2, never the two of a pair.",
    input=floats(10, 8),
)
def conv1d_glu():
    return ConvGlu()


class MambaLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(29, 12)
        self.norm = RmsNorm(12)
        self.in_proj = nn.Linear(12, 2 * 18, bias=False)
        self.conv1d = nn.Conv1d(18, 18, 4, padding=3, groups=18)
        self.decay, self.skip = nn.Parameter(torch.zeros(18)), nn.Parameter(torch.zeros(18))
        self.out_proj = nn.Linear(18, 12, bias=False)
        self.norm_f, self.head = RmsNorm(12), nn.Linear(12, 6)

    def forward(self, ids):
        x = self.embed(ids)
        n = x.shape[1]
        u, z = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        u = F.silu(self.conv1d(u.transpose(1, 2))[..., :n]).transpose(1, 2)
        rate = torch.sigmoid(self.decay)
        state, states = torch.zeros_like(u[:, 0]), []
        for t in range(n):
            state = rate * state + (1 - rate) * u[:, t]
            states.append(state)
        y = torch.stack(states, 1) + self.skip * u
        return self.head(self.norm_f(x + self.out_proj(y * F.silu(z))).mean(1))


@net(
    "Stream (12) free; inner axis (18): one permutation for both halves of in_proj, the depthwise "
    "conv1d, decay, skip and out_proj's input.",
    input_ids=ints(6, high=29),
)
def mamba_like():
    return MambaLike()


@net(
    "Real Mamba (selective scan in plain torch): stream permutable; inner axis one permutation for "
    "both halves of in_proj, conv1d, A_log, D, x_proj in, dt_proj out, out_proj in; state axis one "
    "for A_log axis 1 and the B and C parts of x_proj; dt rank axis free.",
    input_ids=ints(5, high=29),
)
def mamba():
    return hf.MambaForCausalLM(
        hf.MambaConfig(
            vocab_size=29, hidden_size=12, state_size=4, num_hidden_layers=1, expand=2,
            conv_kernel=3, time_step_rank=3, use_cache=False, return_dict=False,
        )
    )  # fmt: skip


class MlpMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 14, 4, stride=4)
        self.norm1, self.norm2 = nn.LayerNorm(14), nn.LayerNorm(14)
        self.token1, self.token2 = nn.Linear(16, 11), nn.Linear(11, 16)
        self.channel1, self.channel2 = nn.Linear(14, 19), nn.Linear(19, 14)
        self.head = nn.Linear(14, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.token2(F.gelu(self.token1(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.channel2(F.gelu(self.channel1(self.norm2(x))))
        return self.head(x.mean(1))


@net(
    "Channel stream (14), token hidden (11) and channel hidden (19) permutable; the 16 tokens are "
    "image positions, pinned.",
    input=floats(3, 16, 16),
)
def mlp_mixer():
    return MlpMixer()


class DenseMoe(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.router = nn.Linear(16, 14), nn.Linear(14, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(14, 10), nn.GELU(), nn.Linear(10, 14)) for _ in range(4)
        )
        self.head = nn.Linear(14, 6)

    def forward(self, x):
        x = self.embed(x)
        p = torch.softmax(self.router(x), -1)
        x = x + sum(p[..., i : i + 1] * e(x) for i, e in enumerate(self.experts))
        return self.head(x)


@net(
    "Stream (14) and each expert's hidden (10) free; the experts themselves could be exchanged "
    "with the router's rows, a symmetry between separate tensors (pinning the router is safe).",
    input=floats(16),
)
def moe():
    return DenseMoe()


class StackedMoe(nn.Module):
    def __init__(self, bmm):
        super().__init__()
        self.bmm = bmm
        self.embed, self.router = nn.Linear(16, 14), nn.Linear(14, 4)
        self.w1, self.b1 = nn.Parameter(torch.zeros(4, 14, 10)), nn.Parameter(torch.zeros(4, 10))
        self.w2, self.b2 = nn.Parameter(torch.zeros(4, 10, 14)), nn.Parameter(torch.zeros(4, 14))
        self.head = nn.Linear(14, 6)

    def forward(self, x):
        x = self.embed(x)
        p = torch.softmax(self.router(x), -1)
        if self.bmm:
            h = F.gelu(torch.bmm(x.expand(4, *x.shape), self.w1) + self.b1[:, None])
            y = torch.bmm(h, self.w2) + self.b2[:, None]
            return self.head(x + (p.t()[..., None] * y).sum(0))
        h = F.gelu(torch.einsum("bd,edf->bef", x, self.w1) + self.b1)
        y = torch.einsum("bef,efd->bed", h, self.w2) + self.b2
        return self.head(x + torch.einsum("be,bed->bd", p, y))


STACKED_NOTE = (
    "Stream (14) free; expert axis (4) permutable over w1, b1, w2, b2 and the router's rows; hidden "
    "axis (10) permutable, for each expert by itself (one permutation for all is the weaker form)."
)


@net(STACKED_NOTE, input=floats(16))
def moe_einsum():
    return StackedMoe(False)


@net(STACKED_NOTE, input=floats(16))
def moe_bmm():
    return StackedMoe(True)


# ---------------------------------------------------------------------------
# Recurrent networks and text


class Recurrent(nn.Module):
    def __init__(self, cls, tokens, **kwargs):
        super().__init__()
        self.embed = nn.Embedding(23, 10) if tokens else nn.Identity()
        self.rnn = cls(10, 9, batch_first=True, **kwargs)
        self.head = nn.Linear(9 * (2 if kwargs.get("bidirectional") else 1), 5)

    def forward(self, x):
        out, _ = self.rnn(self.embed(x))
        return self.head(out[:, -1] + out.mean(1))


@net(
    "Embedding axis (10) and hidden axis (9) permutable, the latter in each of the 4 gate blocks "
    "of weight_ih, weight_hh (rows) and biases, weight_hh's columns and head's input.",
    variants="dynamo ts",
    input_ids=ints(6, high=23),
)
def lstm():
    return Recurrent(nn.LSTM, True)


@net(
    "Hidden axis (9) permutable in each of the 3 gate blocks, weight_hh's columns, head's input.",
    variants="fallback",
    input=floats(6, 10),
)
def gru():
    return Recurrent(nn.GRU, False)


@net(
    "Hidden axis (9) permutable (tanh RNN: one block).",
    variants="dynamo ts",
    input=floats(6, 10),
)
def rnn():
    return Recurrent(nn.RNN, False)


@net(
    "Four hidden axes (2 layers, 2 directions), each permutable in its 4 gate blocks; a layer's "
    "output is the concatenation forward, backward.",
    variants="dynamo ts",
    input=floats(6, 10),
)
def bilstm():
    return Recurrent(nn.LSTM, False, num_layers=2, bidirectional=True)


class LstmLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.ih, self.hh = nn.Linear(10, 36), nn.Linear(9, 36)
        self.head = nn.Linear(9, 5)

    def forward(self, x):
        h = c = torch.zeros(x.shape[0], 9)
        for t in range(3):
            i, f, g, o = (self.ih(x[:, t]) + self.hh(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


@net(
    "Hidden axis (9): one permutation in the 4 row blocks of ih and hh, hh's columns, head's input.",
    input=floats(3, 10),
)
def lstm_loop():
    return LstmLoop()


class GruCells(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(10, 9), nn.Linear(9, 5)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 9)
        for t in range(3):
            h = self.cell(x[:, t], h)
        return self.head(h)


@net(
    "Hidden axis (9): one permutation in the 3 row blocks of weight_ih, weight_hh and both biases, "
    "weight_hh's columns, head's input.",
    input=floats(3, 10),
)
def gru_cell():
    return GruCells()


class BagClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(41, 16, padding_idx=0)
        self.fc1, self.fc2 = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, ids):
        mask = (ids != 0).unsqueeze(-1).float()
        mean = (self.embed(ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.fc2(F.relu(self.fc1(mean)))


@net(
    "Embedding axis (16) and fc1 (12) permutable; vocabulary (0 is padding) and classes pinned.",
    input_ids=ints(8, high=41),
)
def text_bag():
    return BagClassifier()


class TextCnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(41, 12)
        self.convs = nn.ModuleList(nn.Conv1d(12, c, k) for c, k in ((5, 2), (6, 3), (7, 4)))
        self.fc = nn.Linear(18, 5)

    def forward(self, ids):
        x = self.embed(ids).transpose(1, 2)
        return self.fc(torch.cat([F.relu(c(x)).amax(2) for c in self.convs], 1))


@net(
    "Embedding axis (12) permutable; the three convs (5, 6, 7) too, as blocks of fc's 18 inputs.",
    input_ids=ints(8, high=41),
)
def text_cnn():
    return TextCnn()


class Conv3dNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6)
        self.conv2, self.fc = nn.Conv3d(6, 8, 3), nn.Linear(8 * 2 * 2 * 2, 10)

    def forward(self, x):
        x = F.elu(self.bn1(self.conv1(x)))
        return self.fc(F.avg_pool3d(F.softplus(self.conv2(x)), 2).flatten(1))


@net(
    "conv1 (6) and conv2 (8) permutable; conv2 moves fc's 64 inputs in blocks of 2*2*2.",
    input=floats(1, 8, 8, 8),
)
def conv3d():
    return Conv3dNet()


class WeightNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        wn = nn.utils.parametrizations.weight_norm
        self.fc1, self.fc2 = wn(nn.Linear(20, 12)), wn(nn.Linear(12, 14))
        self.fc3 = nn.Linear(14, 10)

    def forward(self, x):
        return self.fc3(torch.sin(self.fc2(torch.sin(self.fc1(x)))))


@net(
    "Weight norm: original0 (norms) and original1 (directions) of fc1 (12) and fc2 (14) move "
    "along on axis 0, fc2's original1 also on axis 1; both axes permutable.",
    input=floats(20),
)
def weight_norm():
    return WeightNormNet()


class BilinearNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(12, 8), nn.Linear(10, 7)
        self.mix, self.out = nn.Bilinear(8, 7, 9), nn.Linear(9, 5)

    def forward(self, left, right):
        return self.out(F.relu(self.mix(F.relu(self.left(left)), F.relu(self.right(right)))))


@net(
    "left (8), right (7) and mix (9) permutable: mix.weight has axes (9, 8, 7).",
    left=floats(12),
    right=floats(10),
)
def bilinear():
    return BilinearNet()


class WeightStandardized(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3)
        self.gain1, self.gain2 = nn.Parameter(torch.ones(8, 1, 1, 1)), nn.Parameter(torch.ones(10, 1, 1, 1))
        self.fc = nn.Linear(10, 10)

    @staticmethod
    def conv(conv, gain, x):
        w = conv.weight
        w = w - w.mean((1, 2, 3), keepdim=True)
        w = w * torch.rsqrt(w.square().sum((1, 2, 3), keepdim=True) + 1e-4)
        return F.conv2d(x, w * gain, conv.bias)

    def forward(self, x):
        x = F.relu(self.conv(self.conv1, self.gain1, x))
        return self.fc(F.relu(self.conv(self.conv2, self.gain2, x)).mean((2, 3)))


@net(
    "Weight standardisation: the weights are normalised over axes 1-3 inside the graph; conv1 (8) "
    "with gain1 and conv2 (10) with gain2 permutable.",
    input=floats(3, 10, 10),
)
def weight_standardized():
    return WeightStandardized()


# ---------------------------------------------------------------------------
# Weights


def fan_in(module, weight):
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return weight.shape[0] * math.prod(weight.shape[2:]) / math.prod(module.stride)
    if type(module).__name__ == "Conv1D":  # GPT-2's, (in, out)
        return weight.shape[0]
    if isinstance(module, StackedMoe):  # (experts, in, out)
        return weight.shape[1]
    return math.prod(weight.shape[1:])


def randomise(model, seed):
    """Draws every parameter and running statistic; nothing stays at ones or zeros."""
    rng = torch.Generator().manual_seed(seed)
    seen = set()
    # Parameters of parametrised modules (weight norm) are named original0, original1.
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, p in module.named_parameters(recurse=False):
            if id(p) in seen:
                continue
            seen.add(id(p))
            normal = torch.randn(p.shape, generator=rng)
            uniform = torch.rand(p.shape, generator=rng)
            positive = name.startswith(("layer_scale", "gain", "ls", "D", "logit_scale"))
            if isinstance(module, nn.PReLU):
                value = 0.05 + 0.4 * uniform
            elif positive or name == "original0" or (is_norm and "bias" not in name):
                value = (0.5 + uniform) * getattr(module, "gain_scale", 1.0)
            elif isinstance(module, nn.Embedding):
                value = 0.7 * normal
            elif name in ("class_token", "pos_embedding", "pos_embed") or p.dim() < 2:
                value = 0.3 * normal
            elif name == "A_log":
                value = 0.5 * normal
            elif name == "relative_position_bias_table":
                value = normal
            else:
                value = normal * math.sqrt(1.5 / fan_in(module, p))
            with torch.no_grad():
                p.copy_(value)
        for name, b in module.named_buffers(recurse=False):
            if name == "running_mean":
                b.copy_(0.3 * torch.randn(b.shape, generator=rng))
            elif name == "running_var":
                b.copy_(0.5 + torch.rand(b.shape, generator=rng))
            elif name == "num_batches_tracked":
                b.fill_(1000)


CALIBRATED = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip


def calibrate(model, spec, seed):
    """Fits scales to random inputs, layer by layer, so that no unit is dead and no output flat.

    A linear or convolutional layer's weight is scaled to outputs of deviation 1, its bias set to
    a random number of deviations off its outputs' mean; a BatchNorm's statistics become those of
    its inputs, disturbed.
    """
    rng = torch.Generator().manual_seed(seed)
    uses = collections.Counter(
        id(p) for m in model.modules() for p in m._parameters.values() if p is not None
    )
    done = set()

    def hook(module, args, out):
        if module in done or uses[id(module.weight)] > 1:
            return None
        channel = out.dim() - 1 if isinstance(module, nn.Linear) else 1
        other = [d for d in range(out.dim()) if d != channel]
        if out.std(other).mean() < 1e-4:  # a recurrent layer's first step, all zeros
            return None
        done.add(module)
        width = out.shape[channel]
        normal = torch.randn(width, generator=rng)
        uniform = torch.rand(width, generator=rng)
        if hasattr(module, "running_mean"):
            x = args[0]
            mean = x.mean(other)
            # Deep features of noise hardly vary: dividing by that would amplify rounding errors.
            deviation = (x.var(other) + 0.3 * x.square().mean()).sqrt()
            module.running_mean.copy_(mean + 0.3 * deviation * normal)
            module.running_var.copy_(deviation.square() * (0.5 + uniform) + 1e-3)
        else:
            module.weight /= out.std(other).mean()
            if module.bias is not None:
                module.bias.zero_()
                free = type(module).forward(module, *args)
                module.bias.copy_(0.5 * free.std(other) * normal.clamp(-2, 2) - free.mean(other))
        return type(module).forward(module, *args)

    hooks = [m.register_forward_hook(hook) for m in model.modules() if type(m) in CALIBRATED]
    draws = [draw(spec.inputs, seed + trial) for trial in range(16)]
    with torch.no_grad():
        outputs_of(model, {k: torch.cat([d[k] for d in draws]) for k in spec.inputs})
    for h in hooks:
        h.remove()


def draw(inputs, seed):
    rng = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, spec in inputs.items():
        low, high = spec["low"], spec["high"]
        if spec["dtype"] == "int64":
            drawn[name] = torch.randint(low, high, spec["shape"], generator=rng)
        else:
            drawn[name] = low + (high - low) * torch.rand(spec["shape"], generator=rng)
    return drawn


def outputs_of(model, inputs):
    """Runs model; transformers' classes take keywords, ours positions."""
    if isinstance(model, hf.PreTrainedModel):
        out = model(**inputs)
    else:
        out = model(*inputs.values())
    out = out.to_tuple() if isinstance(out, hf.utils.ModelOutput) else out
    return list(out) if isinstance(out, (tuple, list)) else [out]


# ---------------------------------------------------------------------------
# Export


def strip(model):
    """Drops all that tells where and by which code the graph was made."""
    model.ClearField("doc_string")
    del model.metadata_props[:]

    def strip_graph(graph):
        graph.ClearField("doc_string")
        del graph.metadata_props[:]
        infos = (graph.input, graph.output, graph.value_info, graph.initializer)
        for item in (x for items in infos for x in items):
            item.ClearField("doc_string")
            del item.metadata_props[:]
        strip_nodes(graph.node)

    def strip_nodes(nodes):
        for node in nodes:
            node.ClearField("doc_string")
            del node.metadata_props[:]
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                if attribute.HasField("t"):
                    attribute.t.ClearField("doc_string")
                    del attribute.t.metadata_props[:]
                for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    strip_graph(graph)

    strip_graph(model.graph)
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
        del function.value_info[:]
        strip_nodes(function.node)


@contextlib.contextmanager
def broadcast_masks(wanted):
    """Makes transformers' masks without torch.vmap and diff, unknown to the TorchScript exporter."""
    masks = hf.masking_utils
    before = masks._vmap_for_bhqkv, masks.find_packed_sequence_indices
    if wanted:
        masks.find_packed_sequence_indices = lambda position_ids: None
        masks._vmap_for_bhqkv = lambda mask, bh_indices=True: lambda b, h, q, k: mask(
            b[:, None, None, None], h[:, None, None], q[:, None], k
        ).expand(len(b), len(h), len(q), len(k))
    try:
        yield
    finally:
        masks._vmap_for_bhqkv, masks.find_packed_sequence_indices = before


def export(model, inputs, dynamo):
    buffer = io.BytesIO()
    keywords = dynamo and isinstance(model, hf.PreTrainedModel)
    common = {
        "args": () if keywords else tuple(inputs.values()),
        "kwargs": dict(inputs) if keywords else None,
        "input_names": list(inputs),
        "opset_version": OPSET,
        "verbose": False,
    }
    with torch.no_grad(), broadcast_masks(not dynamo):
        outs = outputs_of(model, inputs)
        names = ["output"] if len(outs) == 1 else [f"output{i}" for i in range(len(outs))]
        common["output_names"] = names
        if dynamo:
            program = torch.onnx.export(model, dynamo=True, optimize=False, **common)
            return program.model_proto
        if isinstance(model, hf.PreTrainedModel):
            # The TorchScript exporter would make inputs of its forward's numeric defaults.
            forward = model.forward
            model.forward = lambda *given: forward(**dict(zip(inputs, given)))
        torch.onnx.export(
            model, f=buffer, dynamo=False, do_constant_folding=False,
            keep_initializers_as_inputs=False, **common,
        )  # fmt: skip
        model.__dict__.pop("forward", None)
    return onnx.load_from_string(buffer.getvalue())


def check_names(model, proto):
    """Returns what differs between state_dict keys and initializer names."""
    state = model.state_dict()
    held = {t.name: t for t in proto.graph.initializer}
    problems, owner = [], {}
    for key, value in state.items():
        owner.setdefault((value.data_ptr(), tuple(value.shape)), []).append(key)
    for key, value in state.items():
        if key in held:
            array = onnx.numpy_helper.to_array(held[key])
            if array.shape == tuple(value.shape) and np.array_equal(array, value.numpy()):
                continue
            problems.append(f"{key}: the initializer of this name is another tensor")
            continue
        if key.endswith("num_batches_tracked"):
            continue  # eval mode does not read it
        others = [k for k in owner[value.data_ptr(), tuple(value.shape)] if k in held]
        if others:
            problems.append(f"{key}: stored once, as {others[0]} (tied)")
            continue
        same = [
            n for n, t in held.items()
            if tuple(t.dims) in (tuple(value.shape), tuple(value.shape)[::-1])
            and any(
                np.array_equal(onnx.numpy_helper.to_array(t), v) for v in (value.numpy(), value.numpy().T)
            )
        ]  # fmt: skip
        how = f"stored as {same[0]} {list(held[same[0]].dims)}" if same else "not found"
        problems.append(f"{key} {list(value.shape)}: {how}")
    return problems


def without_effect(model, spec, seed):
    """Parameters and rows (axis 0) that the outputs of 8 draws do not depend on."""
    params = dict(model.named_parameters())
    seen = {n: torch.zeros(p.shape[:1], dtype=torch.bool) for n, p in params.items()}
    for trial in range(8):
        outs = outputs_of(model, draw(spec.inputs, seed + trial))
        rng = torch.Generator().manual_seed(trial)
        loss = sum((o * torch.randn(o.shape, generator=rng)).sum() for o in outs if o.requires_grad)
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for (name, p), g in zip(params.items(), grads):
            if g is not None:
                seen[name] |= g.reshape(*p.shape[:1], -1).abs().amax(-1) > 1e-7 if p.dim() else g != 0
    rows = {n: int((~s).sum()) for n, s in seen.items() if not s.all() and s.any()}
    return [n for n, s in seen.items() if not s.any()], rows


def make(name, where):
    base, variant = every_name()[name]
    spec = NETS[base]
    dynamo = variant in ("dynamo", "functions")
    seed = zlib.crc32(base.encode())
    torch.manual_seed(seed)
    model = spec.build()
    for p in model.parameters():
        p.requires_grad_(True)
    randomise(model, seed)
    model.eval()
    calibrate(model, spec, seed + 100)
    inputs = draw(spec.inputs, seed + 1)
    unused, dead = without_effect(model, spec, seed + 1)
    proto = export(model, inputs, dynamo)
    strip(proto)
    assert bool(proto.functions) or variant != "functions", f"{name} has no functions"
    if proto.functions and variant != "functions":
        proto = onnx.inliner.inline_local_functions(proto)
    problems = check_names(model, proto)
    assert all(p.endswith("(tied)") for p in problems), f"{name}: {problems}"
    onnx.checker.check_model(proto, full_check=True)
    assert not any(t.external_data for t in proto.graph.initializer)

    data = proto.SerializeToString(deterministic=True)
    assert len(data) <= MAX_BYTES, f"{name}: {len(data)} bytes"
    for path in (str(pathlib.Path.home()), str(HERE), sys.prefix, os.getcwd(), "site-packages"):
        assert len(path) < 4 or path.encode() not in data, f"{name} holds the path {path}"

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    given = [i.name for i in session.get_inputs()]
    assert given == list(spec.inputs), f"{name} has inputs {given}"
    worst = scale = 0.0
    for trial in range(3):
        given = draw(spec.inputs, seed + 1 + trial)
        with torch.no_grad():
            expected = outputs_of(model, given)
        got = session.run(None, {k: v.numpy() for k, v in given.items()})
        assert len(got) == len(expected), name
        for g, e in zip(got, expected):
            e = e.numpy()
            assert g.shape == e.shape and np.isfinite(g).all(), name
            scale = max(scale, float(np.abs(e).max()))
            assert e.std() > 1e-3, f"{name}: constant output"
            assert e.shape[0] == BATCH and np.abs(e[0] - e[1]).max() > 1e-3, f"{name}: ignores input"
            worst = max(worst, float(np.abs(g - e).max() / (1 + np.abs(e).max())))
    assert worst < 2e-5, f"{name}: differs from torch by {worst}"

    (where / f"{name}.onnx").write_bytes(data)
    entry = {
        "inputs": spec.inputs,
        "note": spec.note,
        "parameters": sum(p.numel() for p in model.parameters()),
        "exporter": EXPORTERS[variant][1],
    }
    if problems:
        entry["names"] = problems
    if unused:
        entry["unused"] = unused
    ops = collections.Counter(n.op_type for n in proto.graph.node)
    print(
        f"{name}: {len(data)} bytes, {entry['parameters']} parameters, max |out| {scale:.3g}, "
        f"error {worst:.1e}", *(f"\n    name: {p}" for p in problems),
        *(f"\n    unused: {u}" for u in unused), *([f"\n    unused rows: {dead}"] if dead else []),
        flush=True,
    )  # fmt: skip
    return entry, ops


def every_name():
    """File name without .onnx -> (network, variant)."""
    return {
        n.name + EXPORTERS[v][0]: (n.name, v) for n in NETS.values() for v in n.variants
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", metavar="DIR", type=pathlib.Path)
    args = parser.parse_args()
    where = args.check or HERE
    where.mkdir(exist_ok=True)
    table = where / "zoo.json"
    order = every_name()
    entries = json.loads(table.read_text()) if args.names and table.exists() else {}
    failed, total = {}, collections.Counter()
    for name in args.names or order:
        try:
            entries[name], ops = make(name, where)
            total += ops
        except Exception as error:  # noqa: BLE001 - report and go on
            failed[name] = error
            text = str(error).strip() or type(error).__name__
            print(f"{name}: FAILED: {text[:1500]}", flush=True)
        kept = {n: entries[n] for n in order if n in entries}
        text = json.dumps(kept, indent=1)
        table.write_text(text + "\n")
    size = sum((where / f"{n}.onnx").stat().st_size for n in entries)
    print(f"{len(entries)} files, {size} bytes, {sum(total.values())} nodes")
    print(", ".join(f"{op} {n}" for op, n in sorted(total.items())))
    assert size <= MAX_TOTAL_BYTES, "too large altogether"
    if args.check:
        for name in [f"{n}.onnx" for n in entries] + ["zoo.json"] * (not args.names):
            if not filecmp.cmp(HERE / name, where / name, shallow=False):
                failed[name] = "differs"
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
