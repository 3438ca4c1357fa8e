#!/usr/bin/env python3
"""Writes text.h: an encoder of texts by PyTorch, logits and gradients. torch.nn.Embedding with a padding_idx,
learned positions, torch.nn.TransformerEncoder with a src_key_padding_mask, the mean of what is no padding,
torch.nn.Linear.

    python3 text.py > text.h        (torch 2.15)

Weights are not written down: number i of tensor k is value(k, i) of sequence.py. Both sides compute them in whole
numbers.
"""
import textwrap

import torch
from torch import nn

torch.set_default_dtype(torch.float64)

VOCABULARY, LENGTH, WIDTH, HEADS, HIDDEN, DEPTH, CLASSES = 12, 9, 8, 2, 16, 2, 3
LENGTHS = [9, 5, 1, 7]
NAMES = [('self_attn.in_proj_', 'attn.qkv.'), ('self_attn.out_proj.', 'attn.proj.'), ('linear1.', 'mlp.fc1.'),
         ('linear2.', 'mlp.fc2.')]  # PyTorch's, timm's


def value(k, i):
    return ((i * 7919 + k * 104729 + i * i % 31 * 577) % 2001 - 1000) / 1000.


def fill(tensor, k, scale, offset=0.):
    numbers = torch.tensor([value(k, i) for i in range(tensor.numel())])
    numbers = numbers.float() * torch.tensor(scale).float() + torch.tensor(offset).float()
    tensor.data.copy_(numbers.reshape(tensor.shape))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0., nn.functional.gelu, 1e-6, True, True)
        self.embeddings = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.pos_embed = nn.Parameter(torch.zeros(1, LENGTH, WIDTH))
        self.blocks = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH, 1e-6), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids):
        padding = ids == 0
        x = self.blocks(self.embeddings(ids) + self.pos_embed, src_key_padding_mask=padding)
        real = (~padding).unsqueeze(2).double()
        return self.head((x * real).sum(1) / real.sum(1))


def name_of(key):
    key = key.replace('blocks.norm', 'norm').replace('blocks.layers.', 'blocks.')
    for theirs, ours in NAMES:
        key = key.replace(theirs, ours)
    return key


def numbers(name, tensor):
    print('static const double %s[] = {' % name)
    print('\n'.join(textwrap.wrap(', '.join('%.9g' % v for v in tensor.detach().flatten().tolist()), 112,
                                  initial_indent='    ', subsequent_indent='    ')))
    print('};')


net = Text().train()
rows = []
for k, (key, tensor) in enumerate(net.named_parameters()):
    norm = 'norm' in key and key.endswith('weight')
    scale, offset = (0.25, 1.) if norm else (0.5, 0.)
    fill(tensor, k, scale, offset)
    if key == 'embeddings.weight':
        tensor.data[0] = 0
    sizes = list(tensor.shape)
    rows.append('    {"%s", %d, {%s}, %s, %s},' % (name_of(key), len(sizes), ', '.join(map(str, sizes)),
                                                  '%sf' % scale, '%sf' % offset))
ids = torch.tensor([[1 + (5 * i + 3 * j + i * j) % (VOCABULARY - 1) if j < n else 0 for j in range(LENGTH)]
                    for i, n in enumerate(LENGTHS)])
logits = net(ids)
direction = torch.tensor([value(101, i) for i in range(logits.numel())]).float().double().reshape(logits.shape)
(logits * direction).sum().backward()

print('/* Written by text.py: do not edit. */')
print('/* clang-format off */')
print('enum { GOLDEN_TEXTS = %d, GOLDEN_LENGTH = %d, GOLDEN_CLASSES = %d };' % (len(LENGTHS), LENGTH, CLASSES))
print('static const golden_tensor golden_text[] = { /* row 0 of the first is 0 */\n%s\n};' % '\n'.join(rows))
print('static const uint8_t golden_text_ids[] = {\n    %s\n};' % ', '.join(str(v) for v in ids.flatten().tolist()))
numbers('golden_text_logits', logits)
print('/* by the sum of all logits times value(101, i) */')
numbers('golden_text_grads', torch.cat([p.grad.flatten() for p in net.parameters()]))
