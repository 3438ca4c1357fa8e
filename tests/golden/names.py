#!/usr/bin/env python3
"""Writes names.h: how networks of PyTorch name their layers, and a small residual network's weights and logits.

    PYTHONPATH=<folder of timm> /usr/bin/python3 names.py > names.h     (torch 1.13, torchvision 0.14, timm 1.0, numpy)

A row is a layer: its name, and the shape of its weight; rank 1 is a batch normalisation, with its five tensors.
mdistiller's and RepDistiller's CIFAR networks are torchvision's blocks in three stages ("downsample", "fc"); their
ResNets of four stages, after kuangliu's, have "shortcut" and "linear" for those.
"""
import textwrap

import numpy
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

random = numpy.random.RandomState(3)


def projected(block, inputs, planes, stride):
    outputs = planes * block.expansion
    return block(inputs, planes, stride, nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs)))


class Small(nn.Module):
    """A BasicBlock without a projection, one with, and a Bottleneck."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(BasicBlock(4, 4))
        self.layer2 = nn.Sequential(projected(BasicBlock, 4, 6, 2))
        self.layer3 = nn.Sequential(projected(Bottleneck, 6, 2, 2))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class Cifar(nn.Module):
    """resnet20: three stages of three blocks, 16 to 64 channels."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[BasicBlock(16, 16) for _ in range(3)])
        self.layer2 = nn.Sequential(projected(BasicBlock, 16, 32, 2), *[BasicBlock(32, 32) for _ in range(2)])
        self.layer3 = nn.Sequential(projected(BasicBlock, 32, 64, 2), *[BasicBlock(64, 64) for _ in range(2)])
        self.fc = nn.Linear(64, 100)


def rows(name, model, changes=()):
    print(f"static const torch_layer {name}[] = {{")
    for key, tensor in model.state_dict().items():
        layer, _, leaf = key.rpartition(".")
        if leaf != "weight":
            continue
        for old, new in changes:
            layer = layer.replace(old, new)
        bias = int(tensor.dim() > 1 and key[:-6] + "bias" in model.state_dict())
        print(f'    {{"{layer}", {tensor.dim()}, {{{", ".join(map(str, tensor.shape))}}}, {bias}}},')
    print("};")


def values(name, numbers):
    numbers = [str(x) + "f" for x in numpy.asarray(numbers, numpy.float32).ravel()]  # as short as it is exact
    print(f"static const float {name}[] = {{")
    print(textwrap.fill(", ".join(numbers), 112, initial_indent="    ", subsequent_indent="    ") + "};")


def main():
    small = Small().eval()
    state = small.state_dict()
    for key, tensor in state.items():
        if tensor.dim() == 0:
            tensor.fill_(5)
        else:
            low = 0.2 if "var" in key else -0.8
            tensor.copy_(torch.from_numpy(numpy.round(random.uniform(low, 0.9, tensor.shape), 2).astype(numpy.float32)))
    inputs = numpy.round(random.uniform(-1, 1, (2, 3, 9, 7)), 2).astype(numpy.float32)
    with torch.no_grad():
        logits = small.double()(torch.from_numpy(inputs).double())
    print("/* Written by names.py: do not edit. */")
    print("typedef struct torch_layer {")
    print("    const char *name;")
    print("    int rank, shape[4], bias;")
    print("} torch_layer;")
    rows("small_layers", small)
    values("small_values", numpy.concatenate([t.numpy().ravel() for t in state.values() if t.dim()]))
    values("small_inputs", inputs)
    values("small_logits", logits)
    rows("torchvision_resnet18", torchvision.models.resnet18())
    rows("mdistiller_resnet20", Cifar())
    rows("repdistiller_resnet18", torchvision.models.resnet18(), (("downsample", "shortcut"), ("fc", "linear")))
    rows("timm_resnet26", timm.create_model("resnet26"))
    rows("timm_regnetx_002", timm.create_model("regnetx_002"))
    rows("torchvision_vgg11_bn", torchvision.models.vgg11_bn())


main()
