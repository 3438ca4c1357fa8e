#!/usr/bin/env python3
"""Writes sequence.h: Transformers by PyTorch, under the names that their state dicts have.

    /usr/bin/python3 sequence.py > sequence.h        (torch 1.13)

Weights and inputs are not written down: number i of tensor k is value(k, i), the input is tensor 100. Both sides
compute them in whole numbers.
"""
import textwrap

import torch
from torch import nn

torch.set_default_dtype(torch.float64)


def value(k, i):
    return ((i * 7919 + k * 104729 + i * i % 31 * 577) % 2001 - 1000) / 1000.


def fill(tensor, k, scale, offset=0.):
    numbers = torch.tensor([value(k, i) for i in range(tensor.numel())])
    tensor.data.copy_((numbers.float() * torch.tensor(scale).float() + torch.tensor(offset).float()).reshape(tensor.shape))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) / (width // self.heads) ** 0.5
        return self.proj((scores.softmax(3) @ v).transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, 1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, 1e-6), Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, channels, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Names and order of timm's, and of DeiT's with a distillation token."""

    def __init__(self, channels, patch, tokens, width, depth, heads, classes, distilled=False):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 1 + distilled, width))
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = PatchEmbed(channels, patch, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)
        if distilled:
            self.head_dist = nn.Linear(width, classes)
        self.distilled = distilled

    def forward(self, x):
        x = self.patch_embed(x)
        tokens = [self.cls_token] + ([self.dist_token] if self.distilled else [])
        x = torch.cat([token.expand(len(x), -1, -1) for token in tokens] + [x], 1) + self.pos_embed
        x = self.norm(self.blocks(x))
        if self.distilled:
            return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        return self.head(x[:, 0])


MODELS = [
    ('vit', (2, 3, 8, 8), VisionTransformer(3, 4, 4, 12, 2, 3, 5)),
    ('deit', (2, 1, 6, 9), VisionTransformer(1, 3, 6, 8, 1, 2, 4, True)),
]

print('/* Written by sequence.py: do not edit. */')
print('''/* clang-format off */
typedef struct golden_tensor {
    const char *name;
    int rank, shape[4];
    float scale, offset; /* of value(k, i) */
} golden_tensor;''')
for name, shape, net in MODELS:
    rows = []
    for k, (key, tensor) in enumerate(net.state_dict().items()):
        norm = 'norm' in key and key.endswith('weight')
        scale, offset = (0.25, 1.) if norm else (0.5, 0.)
        fill(tensor, k, scale, offset)
        sizes = list(tensor.shape)
        rows.append('    {"%s", %d, {%s}, %gf, %gf},' % (key, len(sizes), ', '.join(map(str, sizes)), scale, offset))
    x = torch.zeros(shape)
    fill(x, 100, 1.)
    logits = net.eval()(x).detach().flatten().tolist()
    print('static const golden_tensor golden_%s[] = {\n%s\n};' % (name, '\n'.join(rows).replace('1f}', '1.0f}').replace(
        '0f}', '0.0f}').replace('1.0.0f', '1.0f')))
    print('static const double golden_%s_logits[] = {' % name)
    print('\n'.join(textwrap.wrap(', '.join('%.9g' % v for v in logits), 112, initial_indent='    ',
                                  subsequent_indent='    ')))
    print('};')
