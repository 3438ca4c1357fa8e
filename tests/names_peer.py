"""Whether other libraries take the header's weights under their names, all of them and no others, and compute the same
logits. usage: names_peer.py FOLDER, which tests/names_peer.c has filled; prints a line a library."""
import json
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded

import numpy as np
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()
folder = sys.argv[1]
passed = failed = 0
SAMPLES = 4


def value(sample, i):
    return (i * 7919 + sample * 104729) % 2001


def numbers(*shape):
    size = int(np.prod(shape))
    x = [[(value(s, i) - 1000) / 1000 for i in range(size)] for s in range(SAMPLES)]
    return torch.tensor(x, dtype=torch.float32).reshape(SAMPLES, *shape)


def texts(length):
    return torch.tensor([[1 + value(s, i) % 11 if i < length - s else 0 for i in range(length)] for s in range(SAMPLES)])


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(12, 3, 48, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).layers
        self.head = torch.nn.Linear(12, 5)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def strict(net):
    def load(path):
        net.load_state_dict(load_file(path))
        return net.eval()
    return load


def pretrained(kind, config):
    """from_pretrained, which names what is missing and what is left over."""
    def load(path):
        with tempfile.TemporaryDirectory() as place:
            config.architectures = [kind.__name__]
            config.save_pretrained(place)
            os.symlink(os.path.abspath(path), os.path.join(place, "model.safetensors"))
            net, info = kind.from_pretrained(place, output_loading_info=True)
        left = {k: sorted(map(str, v)) for k, v in info.items() if v}
        if left:
            raise RuntimeError(json.dumps(left))
        return net.eval()
    return load


def words(net):
    ids = texts(9)
    return net(input_ids=ids, attention_mask=(ids != 0).long()).logits


vision = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=8,
              patch_size=4, num_labels=5)
libraries = {
    "timm": (strict(timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, num_classes=5, embed_dim=12, depth=2, num_heads=3)), lambda net: net(numbers(3, 8, 8))),
    "torchvision": (strict(torchvision.models.VisionTransformer(8, 4, 2, 3, 12, 48, num_classes=5)),
                    lambda net: net(numbers(3, 8, 8))),
    "encoder": (strict(Encoder()), lambda net: net(numbers(12, 5).transpose(1, 2))),
    "vit": (pretrained(transformers.ViTForImageClassification, transformers.ViTConfig(**vision)),
            lambda net: net(numbers(3, 8, 8)).logits),
    "deit": (pretrained(transformers.DeiTForImageClassificationWithTeacher, transformers.DeiTConfig(**vision)),
             lambda net: net(numbers(3, 8, 8)).logits),
    "bert": (pretrained(transformers.BertForSequenceClassification, transformers.BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=9, num_labels=3)), words),
    "distilbert": (pretrained(transformers.DistilBertForSequenceClassification, transformers.DistilBertConfig(
        vocab_size=12, dim=8, n_layers=2, n_heads=2, hidden_dim=16, max_position_embeddings=9, num_labels=3)), words),
}
for name, (load, run) in libraries.items():
    try:
        with torch.no_grad():
            y = run(load(f"{folder}/{name}.safetensors")).numpy()
        wanted = np.load(f"{folder}/{name}.npy")
        off = float(np.abs(y - wanted).max())
        fault = "" if y.shape == wanted.shape and off < 1e-4 else f"logits are {off:g} off"
    except Exception as e:
        fault = f"{type(e).__name__}: {e}"
    passed, failed = passed + (not fault), failed + bool(fault)
    print(f"FAIL  {name}: {fault}" if fault else f"pass  weights under the names of {name}: logits {off:.1e} apart")
print(f"{passed} passed, {failed} failed")
