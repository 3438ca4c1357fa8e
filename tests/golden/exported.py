"""Writes exported.h: small networks as PyTorch's two exporters write them, with what they make of an input.
usage: python3 tests/golden/exported.py >tests/golden/exported.h     (torch 2.9 or later, onnx, onnxscript)"""
import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings

import onnx
import torch
from torch import nn

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


class Block(nn.Module):
    def __init__(self, c, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if c != out or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(c, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, 1, 1, bias=False), nn.BatchNorm2d(3)
        self.layer1, self.layer2 = Block(3, 3, 1), Block(3, 4, 2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Views(nn.Module):
    """Shapes that are computed, an input that is normalised, a mean over pixels, a softmax."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.out = nn.Conv2d(2, 3, 3), nn.Linear(12, 4), nn.Linear(4, 2)
        self.register_buffer("mean", torch.tensor([0.25, 0.5]).view(1, 2, 1, 1))
        self.register_buffer("std", torch.tensor([0.5, 2.0]).view(1, 2, 1, 1))

    def forward(self, x):
        x = torch.max_pool2d(self.conv((x - self.mean) / self.std), 2)
        x = nn.functional.dropout(x.view(x.size(0), -1), 0.5, self.training)
        return torch.softmax(self.out(torch.tanh(self.fc(x))), 1)


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.wise = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1, groups=4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = nn.functional.hardswish(self.wise(nn.functional.relu6(self.conv(x))))
        return self.fc(x.mean([2, 3]))


def activations():
    layers = []
    for a in (nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(0.2), nn.Tanh(), nn.Sigmoid(), nn.ReLU()):
        layers += [nn.Linear(3, 3, bias=len(layers) % 4 == 0), a]
    return nn.Sequential(*layers, nn.BatchNorm1d(3), nn.Dropout(0.5))


def stripped(path):
    """Without what exporters say about themselves and the machine."""
    model = onnx.load(path, load_external_data=False)
    for n in model.graph.node:
        n.ClearField("doc_string")
        del n.metadata_props[:]
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    for v in list(model.graph.input) + list(model.graph.output) + list(model.graph.initializer):
        v.ClearField("doc_string")
        del v.metadata_props[:]
    return model.SerializeToString()


def export(model, x, way, path):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if way == "dynamo":
            torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("N")},))
        else:
            torch.onnx.export(model, x, path, dynamo=False, input_names=["x"],
                              dynamic_axes={"x": {0: "N"}} if way != "fixed" else None,
                              do_constant_folding=way != "kept",
                              training=torch.onnx.TrainingMode.PRESERVE if way == "kept" else torch.onnx.TrainingMode.EVAL)


def as_bytes(name, data):
    print(f"static const unsigned char {name}[] = {{")
    for i in range(0, len(data), 24):
        print("    " + " ".join(f"{b}," for b in data[i:i + 24]))
    print("};")


def as_floats(name, x):
    print(f"static const float {name}[] = {{" + ", ".join(f"{v:.9g}f" if "." in f"{v:.9g}" or "e" in f"{v:.9g}" else f"{v:.9g}.0f"
                                                        for v in x.flatten().tolist()) + "};")


def main():
    torch.manual_seed(1)
    print("/* Written by exported.py: small networks as PyTorch", torch.__version__.split("+")[0],
          "exports them, with inputs and outputs. */")
    print("/* clang-format off */")
    rows = []
    for name, make, shape, ways in (("mlp", lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)), (2, 2, 2),
                                     ("script", "dynamo", "fixed")),
                                    ("activations", activations, (3,), ("script", "dynamo")),
                                    ("residual", Residual, (3, 6, 6), ("script", "dynamo", "kept")),
                                    ("views", Views, (2, 6, 6), ("script", "dynamo")),
                                    ("mean", Mean, (1, 7, 7), ("script", "dynamo"))):
        model = make().eval()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                for p in (module.running_mean, module.bias.data):
                    p.normal_(0, 0.2)
                for p in (module.running_var, module.weight.data):
                    p.uniform_(0.5, 1.5)
        x = torch.rand(2, *shape) if name == "views" else torch.randn(2, *shape)
        with torch.no_grad():
            y = model(x)
        as_floats(f"onnx_{name}_x", x)
        as_floats(f"onnx_{name}_y", y)
        for way in ways:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, f"{name}.onnx")
                export(model, x if way != "fixed" else x[:1], way, path)
                as_bytes(f"onnx_{name}_{way}", stripped(path))
                data = path + ".data"
                if os.path.exists(data) and os.path.getsize(data):
                    as_bytes(f"onnx_{name}_{way}_data", open(data, "rb").read())
                    second = f"onnx_{name}_{way}_data, sizeof onnx_{name}_{way}_data"
                else:
                    second = "NULL, 0"
                rows.append(f'    {{"{name}.onnx", "{way}", onnx_{name}_{way}, sizeof onnx_{name}_{way}, {second}, '
                            f"onnx_{name}_x, onnx_{name}_y}},")
    print("typedef struct onnx_case {\n    const char *name, *way;\n    const unsigned char *file;\n    size_t size;\n"
          "    const unsigned char *data;\n    size_t data_size;\n    const float *x, *y; /* two samples */\n} onnx_case;")
    print("static const onnx_case onnx_cases[] = {")
    print("\n".join(rows))
    print("};")


if __name__ == "__main__":
    main()
