"""What other programs make of the header's ONNX files, and the header of theirs. usage: onnx_peer.py PROGRAM FOLDER
PROGRAM is tests/onnx_peer.c; prints a line a check, "N passed, M failed" at the end."""
import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime

program, folder = sys.argv[1:3]
passed = failed = 0


def report(name, fault):
    global passed, failed
    if fault:
        failed += 1
        print(f"FAIL  {name}: {fault}")
    else:
        passed += 1
        print(f"pass  {name}")


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def difference(y, wanted):
    """The largest difference, relative to the largest number of the row."""
    return float(np.max(np.abs(y - wanted) / np.maximum(np.max(np.abs(wanted), axis=1, keepdims=True), 1e-3)))


def run_written(index):
    path = f"{folder}/{index}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    if model.ir_version != 8 or [o.version for o in model.opset_import] != [17]:
        return "not IR version 8 and opset 17"
    s = session(path)
    x, wanted = np.load(f"{folder}/{index}.x.npy"), np.load(f"{folder}/{index}.y.npy")
    name = s.get_inputs()[0].name
    x = x.astype({"input": np.float32, "ids": np.int64, "image": np.uint8, "text": np.uint8}[name])
    for rows in (len(x), 1):
        y = s.run(None, {name: x[:rows]})[0]
        if y.shape != wanted[:rows].shape:
            return f"shape {y.shape}"
        apart = difference(y, wanted[:rows])
        if not apart < 1e-5:
            return f"batch of {rows}: apart by {apart:.2e}"
    return None


def attempt(function, *args):
    try:
        return function(*args)
    except Exception as e:  # noqa: BLE001
        return f"{type(e).__name__}: {str(e)[:300]}"


def written(count):
    lines = subprocess.run([program, "write", folder, str(count)], capture_output=True, text=True, check=True).stdout
    for line in lines.splitlines():
        index, spec = line.split(" ", 1)
        report(f"ONNX Runtime runs {spec}", attempt(run_written, int(index)))


def run_int8(index):
    """Bit by bit; where ONNX Runtime's sums and means differ between processors, by a few steps of the output."""
    path = f"{folder}/int8-{index}.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x, wanted = np.load(f"{folder}/int8-{index}.x.npy"), np.load(f"{folder}/int8-{index}.y.npy")
    y = session(path).run(None, {"input": x})[0]
    if index % 2 == 0:
        return None if np.array_equal(y, wanted) else f"{np.sum(y != wanted)} of {y.size} differ, by {np.max(np.abs(y - wanted)):.3g} of {np.max(np.abs(wanted)):.3g}"
    apart = difference(y, wanted)
    return None if apart < 0.05 else f"apart by {apart:.3g}"


def quantised(count):
    lines = subprocess.run([program, "int8", folder, str(count)], capture_output=True, text=True, check=True).stdout
    for line in lines.splitlines():
        index, spec = line.split(" ", 1)
        report(f"ONNX Runtime runs int8 {spec}", attempt(run_int8, int(index)))


class Blocks(dict):
    """Networks of torchvision, most of them smaller than they are published, each for an image of one size."""

    def __init__(self):
        from torchvision import models
        from torchvision.models import densenet, resnet, vgg
        from torchvision.models.googlenet import BasicConv2d, Inception as Block
        from torchvision.models.vision_transformer import VisionTransformer

        class Vgg(torch.nn.Module):
            """As torchvision's, but for the sizes of its dense layers."""

            def __init__(self, features):
                super().__init__()
                self.features, self.avgpool = features, torch.nn.AdaptiveAvgPool2d((7, 7))
                self.classifier = torch.nn.Sequential(
                    torch.nn.Linear(32 * 7 * 7, 64), torch.nn.ReLU(True), torch.nn.Dropout(0.5), torch.nn.Linear(64, 64),
                    torch.nn.ReLU(True), torch.nn.Dropout(0.5), torch.nn.Linear(64, 9))

            def forward(self, x):
                return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

        class Inception(torch.nn.Module):
            """GoogLeNet's start and two of its blocks."""

            def __init__(self):
                super().__init__()
                self.conv1 = BasicConv2d(3, 16, kernel_size=7, stride=2, padding=3)
                self.maxpool1 = torch.nn.MaxPool2d(3, stride=2, ceil_mode=True)
                self.inception3a = Block(16, 8, 6, 12, 4, 6, 5)
                self.inception3b = Block(31, 12, 8, 16, 4, 10, 8)
                self.maxpool3 = torch.nn.MaxPool2d(3, stride=2, ceil_mode=True)
                self.avgpool, self.dropout, self.fc = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Dropout(0.2), torch.nn.Linear(46, 9)

            def forward(self, x):
                x = self.maxpool3(self.inception3b(self.inception3a(self.maxpool1(self.conv1(x)))))
                return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))

        self["SqueezeNet 1.1"] = lambda: models.squeezenet1_1(weights=None, num_classes=9), 64
        self["DenseNet"] = lambda: densenet.DenseNet(8, (3, 4, 3, 2), 16, bn_size=4, num_classes=9), 64
        self["GoogLeNet's blocks"] = Inception, 64
        self["Inception v3's blocks"] = inception_v3, 35
        self["VGG 11"] = lambda: Vgg(vgg.make_layers([8, "M", 16, "M", 24, 24, "M", 32, 32, "M", 32, 32, "M"])), 224
        self["ResNet 50"] = lambda: resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], num_classes=9), 64
        self["ViT"] = lambda: VisionTransformer(image_size=32, patch_size=8, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=40, num_classes=9), 32
        try:
            from timm.models.vision_transformer import VisionTransformer as TimmViT
            self["timm's ViT"] = lambda: TimmViT(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=9), 32
            self["timm's ViT, mean of tokens"] = lambda: TimmViT(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=9, class_token=False, global_pool="avg"), 32
        except ImportError:
            print("skip  timm's ViT by PyTorch's exporters: needs timm (pip)")
        try:
            from transformers import DeiTConfig, DeiTForImageClassification, ViTConfig, ViTForImageClassification

            class Logits(torch.nn.Module):
                def __init__(self, net):
                    super().__init__()
                    self.net = net

                def forward(self, x):
                    return self.net(pixel_values=x).logits

            small = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=32, patch_size=8, num_labels=9)
            for kind in "eager", "sdpa":
                self[f"Hugging Face's ViT, {kind}"] = lambda kind=kind: Logits(ViTForImageClassification(ViTConfig(attn_implementation=kind, qkv_bias=kind == "sdpa", **small))), 32
            self["Hugging Face's DeiT"] = lambda: Logits(DeiTForImageClassification(DeiTConfig(**small))), 32
        except ImportError:
            print("skip  Hugging Face's ViT by PyTorch's exporters: needs transformers (pip)")
        self["MobileNet v2"] = lambda: models.mobilenet_v2(weights=None, num_classes=9, width_mult=0.35), 64


def inception_v3():
    """One block of each kind of Inception v3, some of whose branches share their first layers."""
    from torchvision.models import inception

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = inception.InceptionA(3, pool_features=6)
            self.b = inception.InceptionB(16)
            self.c = inception.InceptionC(16, channels_7x7=8)
            self.d = inception.InceptionD(16)
            self.e = inception.InceptionE(16)
            self.narrow = torch.nn.ModuleList([torch.nn.Conv2d(c, 16, 1) for c in (230, 496, 768, 528)])
            self.fc = torch.nn.Linear(2048, 9)

        def forward(self, x):
            for block, narrow in zip((self.a, self.b, self.c, self.d), self.narrow):
                x = narrow(block(x))
            x = self.e(x)
            return self.fc(torch.flatten(torch.nn.functional.adaptive_avg_pool2d(x, (1, 1)), 1))
    return Net()


def run_torch(net, size, dynamo):
    """A file of one of PyTorch's exporters, in the header and in ONNX Runtime; then what the header has learnt of it."""
    path, x, y, again = (f"{folder}/torch{end}" for end in (".onnx", ".x.npy", ".y.npy", "-again.onnx"))
    example = torch.randn(7, 3, size, size)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.onnx.export(net, (example[:1],), path, dynamo=dynamo)
    np.save(x, example.numpy())
    runs = session(path)
    wanted = np.concatenate([runs.run(None, {runs.get_inputs()[0].name: row[None]})[0] for row in example.numpy()])
    done = subprocess.run([program, "read", path, x, y, again], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip() or f"status {done.returncode}"
    apart = difference(np.load(y), wanted)
    if not apart < 1e-4:
        return f"apart by {apart:.2e}; {done.stdout[:300]}"
    onnx.checker.check_model(onnx.load(again), full_check=True)
    apart = difference(session(again).run(None, {"input": example.numpy()})[0], np.load(again + ".npy"))
    return None if apart < 1e-4 else f"after training apart by {apart:.2e}"


def texts():
    """Networks of Hugging Face for texts of 9 ids: name, network, and whether they get an attention mask."""
    from transformers import (BertConfig, BertForSequenceClassification, DistilBertConfig,
                              DistilBertForSequenceClassification)

    class Logits(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, input_ids, attention_mask=None):
            return self.net(input_ids=input_ids, attention_mask=attention_mask).logits

    for kind in "eager", "sdpa":
        small = dict(vocab_size=20, max_position_embeddings=16, num_labels=5, attn_implementation=kind)
        nets = (("BERT", lambda: BertForSequenceClassification(BertConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, **small))),
                ("DistilBERT", lambda: DistilBertForSequenceClassification(DistilBertConfig(dim=24, n_layers=2, n_heads=3, hidden_dim=40, **small))))
        for name, make in nets:
            for masked in False, True:
                torch.manual_seed(1)
                net = make()
                for p in net.parameters():
                    p.data += 0.1 * torch.randn_like(p)
                yield f"Hugging Face's {name}, {kind}, {'any number of texts with masks' if masked else 'one text'}", Logits(net).eval(), masked


def run_text(net, masked, dynamo):
    """As run_torch: with masks the file takes several texts at a time, some of them short; without, one."""
    path, x, y, again = (f"{folder}/text{end}" for end in (".onnx", ".x.npy", ".y.npy", "-again.onnx"))
    ids = torch.randint(1, 20, (7, 9))
    for i in range(7 if masked else 0):
        ids[i, 1 + i:] = 0
    mask = (ids != 0).long()
    args, options = ((ids[:2], mask[:2]), {}) if masked else ((ids[:1],), {})
    if masked and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("n")},) * 2
    elif masked:
        options["dynamic_axes"] = {"input_ids": {0: "n"}, "attention_mask": {0: "n"}}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.onnx.export(net, args, path, dynamo=dynamo, input_names=["input_ids", "attention_mask"][:len(args)], **options)
    np.save(x, ids.numpy().astype(np.float32))
    feeds = [{"input_ids": ids.numpy()[i:i + 1], "attention_mask": mask.numpy()[i:i + 1]} for i in range(7)]
    runs = session(path)
    wanted = np.concatenate([runs.run(None, {k: v for k, v in feed.items() if masked or k == "input_ids"})[0] for feed in feeds])
    done = subprocess.run([program, "read", path, x, y, again], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip() or f"status {done.returncode}"
    apart = difference(np.load(y), wanted)
    if not apart < 1e-4:
        return f"apart by {apart:.2e}; {done.stdout[:300]}"
    onnx.checker.check_model(onnx.load(again), full_check=True)
    apart = difference(session(again).run(None, {"ids": ids.numpy()})[0], np.load(again + ".npy"))
    return None if apart < 1e-4 else f"after training apart by {apart:.2e}"


def exported_texts():
    try:
        import transformers  # noqa: F401
    except ImportError:
        print("skip  Hugging Face's BERT and DistilBERT by PyTorch's exporters: need transformers (pip)")
        return
    for name, net, masked in texts():
        for dynamo in (False, True):
            report(f"{name} by torch.onnx.export(dynamo={dynamo})", attempt(run_text, net, masked, dynamo))


def exported():
    for name, (make, size) in Blocks().items():
        torch.manual_seed(1)
        net = make()
        for module in net.modules():  # as after some training
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.uniform_(0.7, 1.3)
                module.bias.data.uniform_(-0.2, 0.2)
        for part, p in net.named_parameters():
            if part.endswith(("token", "embedding", "embed", "bias")) or "ln" in part or "norm" in part:
                p.data += 0.1 * torch.randn_like(p)
        net.eval()
        for dynamo in (False, True):
            report(f"{name} by torch.onnx.export(dynamo={dynamo})", attempt(run_torch, net, size, dynamo))


os.makedirs(folder, exist_ok=True)
written(40)
quantised(60)
try:
    import torch
    import torchvision
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        raise ImportError
    import onnxscript  # noqa: F401  (the newer exporter's)
except ImportError:
    print("skip  torchvision's networks by PyTorch's exporters: need torch 2.9 or later, torchvision and onnxscript (pip)")
else:
    exported()
    exported_texts()
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
