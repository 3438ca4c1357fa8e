#!/usr/bin/env python3
"""Writes saved.h: names and shapes of the tensors that Transformers of other libraries have in their state dicts, as
kd_model_save_names must write them. Nothing is downloaded. transformers 5 has names of its own in memory for ViT and
DeiT; files have, as before, those that save_pretrained writes.

    python3 saved.py > saved.h        (torch 2.15, torchvision 0.29, timm 1.0, transformers 5.24)
"""
import tempfile

import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file


def tensors(net):
    if not isinstance(net, transformers.PreTrainedModel):
        return net.state_dict()
    with tempfile.TemporaryDirectory() as place:
        net.save_pretrained(place)
        return load_file(place + '/model.safetensors')


vision = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=8,
              patch_size=4, num_labels=5)
nets = {
    'timm': timm.models.vision_transformer.VisionTransformer(img_size=8, patch_size=4, num_classes=5, embed_dim=12,
                                                             depth=2, num_heads=3),
    'torchvision': torchvision.models.VisionTransformer(8, 4, 2, 3, 12, 48, num_classes=5),
    'encoder': torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(12, 3, 48), 2, enable_nested_tensor=False),
    'vit': transformers.ViTForImageClassification(transformers.ViTConfig(**vision)),
    'deit': transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**vision)),
    'bert': transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=9, num_labels=3)),
    'distilbert': transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(
        vocab_size=12, dim=8, n_layers=2, n_heads=2, hidden_dim=16, max_position_embeddings=9, num_labels=3)),
}
print('/* Written by saved.py: do not edit. */')
print('/* clang-format off */')
print('typedef struct saved_tensor {\n    const char *name, *shape; /* as in the header of a file */\n} saved_tensor;')
for name, net in nets.items():
    print('static const saved_tensor saved_%s[] = {' % name)
    for key, tensor in sorted(tensors(net).items()):
        print('    {"%s", "[%s]"},' % (key, ','.join(map(str, tensor.shape))))
    print('};')
