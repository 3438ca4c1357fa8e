#!/usr/bin/env python3
"""Writes layers.h: what PyTorch, in double precision, makes of every layer, forward and backward.

    /usr/bin/python3 layers.py > layers.h        (torch 1.13, numpy)

All cases take their input, weights and direction from the start of three common lists. The loss is the sum of all
outputs times the direction, and what a layer adds to it.
"""
import textwrap

import numpy
import torch
from torch import nn

torch.set_default_dtype(torch.float64)
random = numpy.random.RandomState(7)


def two_decimals(x):
    """Short to write down; as floats, so that both sides mean the same number."""
    return numpy.round(x, 2).astype(numpy.float32)


# No two inputs are equal, or the maximum of a window would be a matter of taste.
inputs = two_decimals(random.permutation(numpy.arange(-40, 40)) * 0.06 + 0.01)
# The points where a slope jumps are in these, but for hardswish's, where PyTorch's own versions differ.
wide_inputs = two_decimals([-8, -6, -4.1, -2.9, -1.7, -0.7, -0.1, 0, 0.2, 0.9, 1.6, 2.8, 3.3, 4.5, 6, 7.5])
directions = two_decimals(random.uniform(-1, 1, 64))
weights = two_decimals(random.uniform(-0.9, 0.9, 96))


class Residual(nn.Module):
    def __init__(self, body, shortcut=None):
        super().__init__()
        self.body = nn.Sequential(*body)
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class Concat(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(*branch) for branch in branches])

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class SoftTree(nn.Module):
    """Frosst and Hinton 2017, path by path; the tensors in the order of kd.h."""

    def __init__(self, features, depth, classes, penalty):
        super().__init__()
        self.filters = nn.Linear(features, 2 ** depth - 1)
        self.beta = nn.ParameterList([nn.Parameter(torch.ones(2 ** depth - 1))])
        self.leaves = nn.ParameterList([nn.Parameter(torch.zeros(2 ** depth, classes))])
        self.depth, self.strength = depth, penalty

    def forward(self, x):
        right = torch.sigmoid(self.beta[0] * self.filters(x.flatten(1)))
        mixture, self.penalty = 0, 0
        for leaf in range(2 ** self.depth):
            path, node = torch.ones(len(x)), 0
            for depth in range(self.depth):
                level = self.depth - depth
                if leaf % 2 ** level == 0:  # the first leaf below this node
                    share = (path * right[:, node]).sum() / path.sum()
                    self.penalty -= self.strength * 2 ** -depth * (share.log() + (1 - share).log()) / 2
                goes_right = leaf >> level - 1 & 1
                path = path * (right[:, node] if goes_right else 1 - right[:, node])
                node = 2 * node + 1 + goes_right
            mixture = mixture + path[:, None] * torch.softmax(self.leaves[0][leaf], 0)
        return mixture.log()


class Tokens(nn.Module):
    """(n, c, h, w) to (n, tokens, c)"""

    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


class Images(nn.Module):
    """and back, for comparing"""

    def forward(self, x):
        return x.transpose(1, 2).unsqueeze(3)


class ClassToken(nn.Module):
    def __init__(self, width, place=0):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = place

    def forward(self, x):
        return torch.cat([x[:, :self.place], self.token.expand(len(x), -1, -1), x[:, self.place:]], 1)


class Position(nn.Module):
    def __init__(self, tokens, width):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, tokens, width))

    def forward(self, x):
        return x + self.table


class Pick(nn.Module):
    def __init__(self, pick):
        super().__init__()
        self.pick = pick

    def forward(self, x):
        return self.pick(x)


class Attention(nn.Module):
    """timm's: one layer for queries, keys and values"""

    def __init__(self, width, heads, causal=False):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
        if self.causal:
            scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
        return self.proj((scores.softmax(3) @ v).transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    def __init__(self, width, heads, hidden, post=False, act=nn.GELU, eps=1e-6):
        super().__init__()
        norms = [nn.LayerNorm(width, eps=eps) for _ in range(2)]
        if not post:
            self.norm1 = norms[0]
        self.attn = Attention(width, heads)
        if post:
            self.norm1 = norms[0]
        else:
            self.norm2 = norms[1]
        self.mlp = nn.Sequential(nn.Linear(width, hidden), act(), nn.Linear(hidden, width))
        if post:
            self.norm2 = norms[1]
        self.post = post

    def forward(self, x):
        if self.post:
            x = self.norm1(x + self.attn(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def conv(a, b, k, **options):
    return nn.Conv2d(a, b, k, **options)


# model line, samples, PyTorch's layers
CASES = [
    ('3x2x2: dense 4', 2, [nn.Flatten(), nn.Linear(12, 4)]),
    ('2x1x3: dense 5 bias=0, tanh, dense 2', 2,
     [nn.Flatten(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)]),
    ('2x4x3: conv 3 3', 2, [conv(2, 3, 3)]),
    ('1x5x5: conv 2 3 stride=2 pad=1', 2, [conv(1, 2, 3, stride=2, padding=1)]),
    ('2x3x5: conv 2 2x3 stride=1x2 pad=0x1 bias=0', 2,
     [conv(2, 2, (2, 3), stride=(1, 2), padding=(0, 1), bias=False)]),
    ('2x3x3: conv 2 3 pad=same', 2, [conv(2, 2, 3, padding='same')]),
    ('4x3x3: conv 6 2 groups=2', 1, [conv(4, 6, 2, groups=2)]),
    ('3x3x3: conv 3 2 groups=3', 2, [conv(3, 3, 2, groups=3)]),
    ('1x2x2: conv 2 1 pad=1', 2, [conv(1, 2, 1, padding=1)]),
    ('2x4x3: depthwise 3 pad=1', 2, [conv(2, 2, 3, padding=1, groups=2)]),
    ('3x4x3: depthwise 2x3 stride=2x1 pad=0x1 bias=0', 1,
     [conv(3, 3, (2, 3), stride=(2, 1), padding=(0, 1), groups=3, bias=False)]),
    ('2x4x4: maxpool 2', 2, [nn.MaxPool2d(2)]),
    ('2x5x5: maxpool 3 stride=2 pad=1', 1, [nn.MaxPool2d(3, 2, 1)]),
    ('2x3x4: maxpool 2x3 stride=1', 2, [nn.MaxPool2d((2, 3), 1)]),
    ('2x4x4: avgpool 2', 2, [nn.AvgPool2d(2)]),
    ('2x5x5: avgpool 3 stride=2 pad=1', 1, [nn.AvgPool2d(3, 2, 1)]),
    ('3x3x4: gap', 2, [nn.AdaptiveAvgPool2d(1)]),
    ('2x2x3: batchnorm', 3, [nn.BatchNorm2d(2)]),
    ('4x1x1: flatten, batchnorm eps=0.25 momentum=0.4', 5, [nn.Flatten(), nn.BatchNorm1d(4, 0.25, 0.4)]),
    ('2x2x3: flatten', 2, [nn.Flatten()]),
    ('2x2x4: relu', 1, [nn.ReLU()]),
    ('2x2x4: relu6', 1, [nn.ReLU6()]),
    ('2x2x4: leakyrelu', 1, [nn.LeakyReLU()]),
    ('2x2x4: leakyrelu slope=0.25', 1, [nn.LeakyReLU(0.25)]),
    ('2x2x4: gelu', 1, [nn.GELU()]),
    ('2x2x4: silu', 1, [nn.SiLU()]),
    ('2x2x4: hardswish', 1, [nn.Hardswish()]),
    ('2x2x4: sigmoid', 1, [nn.Sigmoid()]),
    ('2x2x4: tanh', 1, [nn.Tanh()]),
    ('3x1x2: dense 6, relu', 2, [nn.Flatten(), nn.Linear(6, 6), nn.ReLU()]),
    ('2x3x3: conv 3 2, leakyrelu 0.5', 1, [conv(2, 3, 2), nn.LeakyReLU(0.5)]),
    ('2x3x3: depthwise 2, relu6', 2, [conv(2, 2, 2, groups=2), nn.ReLU6()]),
    ('2x2x2: batchnorm, relu', 3, [nn.BatchNorm2d(2), nn.ReLU()]),
    ('2x3x3: residual(conv 2 3 pad=1, tanh)', 2, [Residual([conv(2, 2, 3, padding=1), nn.Tanh()])]),
    ('2x3x4: residual(conv 3 2x1 stride=2 pad=1x0), relu', 1,
     [Residual([conv(2, 3, (2, 1), stride=2, padding=(1, 0))], conv(2, 3, 1, stride=2)), nn.ReLU()]),
    ('2x3x3: residual(conv 3 3 stride=2 pad=1 bias=0, batchnorm)', 2,
     [Residual([conv(2, 3, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(3)],
               nn.Sequential(conv(2, 3, 1, stride=2, bias=False), nn.BatchNorm2d(3)))]),
    ('2x1x2: flatten, residual(dense 3, tanh)', 2,
     [nn.Flatten(), Residual([nn.Linear(4, 3), nn.Tanh()], nn.Linear(4, 3))]),
    ('2x1x2: softtree 2 3', 3, [SoftTree(4, 2, 3, 0.1)]),
    ('3x1x1: softtree 3 2 penalty=0.75, tanh', 5, [SoftTree(3, 3, 2, 0.75), nn.Tanh()]),
    ('2x2x4: gelutanh', 1, [nn.GELU(approximate='tanh')]),
    ('3x4x1: linear 2', 2, [Tokens(), nn.Linear(3, 2), Images()]),
    ('5x3x1: layernorm', 2, [Tokens(), nn.LayerNorm(5, eps=1e-6), Images()]),
    ('2x3x1: flatten, layernorm eps=0.25', 3, [nn.Flatten(), nn.LayerNorm(6, eps=0.25)]),
    ('2x4x6: patch 2x3 3', 1, [nn.Conv2d(2, 3, (2, 3), stride=(2, 3)), Tokens(), Images()]),
    ('2x2x2: tokens, disttoken, classtoken', 2, [Tokens(), ClassToken(2, 1), ClassToken(2), Images()]),
    ('3x2x2: tokens, position', 2, [Tokens(), Position(4, 3), Images()]),
    ('3x4x1: tokens, token 2', 2, [Tokens(), Pick(lambda x: x[:, 2])]),
    ('3x4x1: meanpool', 2, [Tokens(), Pick(lambda x: x.mean(1))]),
    ('4x5x1: attention 2', 2, [Tokens(), Attention(4, 2), Images()]),
    ('4x5x1: attention 1 causal=1', 2, [Tokens(), Attention(4, 1, True), Images()]),
    ('2x7x1: encoder 1 1 mlp=2', 2, [Tokens(), Block(2, 1, 4), Images()]),
    ('2x4x1: encoder 1 2 mlp=1 norm=post act=relu eps=1e-5', 2,
     [Tokens(), Block(2, 2, 2, True, nn.ReLU, 1e-5), Images()]),
    ('2x3x3: concat(conv 1 1 | maxpool 3 stride=1 pad=1 | conv 3 3 pad=1, tanh)', 1,
     [Concat([conv(2, 1, 1)], [nn.MaxPool2d(3, 1, 1)], [conv(2, 3, 3, padding=1), nn.Tanh()])]),
    ('2x2x3: concat( | batchnorm, relu, conv 2 3 pad=1), concat( | conv 1 1)', 2,
     [Concat([], [nn.BatchNorm2d(2), nn.ReLU(), conv(2, 2, 3, padding=1)]), Concat([], [conv(4, 1, 1)])]),
    ('2x4x5: maxpool 3 stride=2 ceil=1', 2, [nn.MaxPool2d(3, 2, ceil_mode=True)]),
    ('2x4x4: maxpool 2 stride=3 pad=1 ceil=1', 2, [nn.MaxPool2d(2, 3, 1, ceil_mode=True)]),
    ('2x2x2: concat(flatten | gap, flatten), tanh', 2,
     [Concat([nn.Flatten()], [nn.AdaptiveAvgPool2d(1), nn.Flatten()]), nn.Tanh()]),
]
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh)


def fill(net):
    at = 0
    for name, tensor in net.state_dict().items():
        if tensor.dim():
            part = weights[at:at + tensor.numel()]
            assert len(part) == tensor.numel()
            if name.endswith('running_var'):
                part = part + numpy.float32(1)
            tensor.copy_(torch.from_numpy(part.astype(numpy.float64)).reshape(tensor.shape))
            at += tensor.numel()


def run(line, samples, layers):
    shape = [samples] + [int(size) for size in line.split(':')[0].split('x')]
    pool = wide_inputs if isinstance(layers[0], ACTIVATIONS) else inputs
    count = int(numpy.prod(shape))
    assert count <= len(pool)
    x = torch.from_numpy(pool[:count].astype(numpy.float64)).reshape(shape).requires_grad_()
    net = nn.Sequential(*layers)
    fill(net)
    still = net.eval()(x).detach().flatten().tolist()
    y = net.train()(x)
    assert y.numel() <= len(directions)
    loss = (y.flatten() * torch.from_numpy(directions[:y.numel()].astype(numpy.float64))).sum()
    (loss + sum(module.penalty for module in net.modules() if isinstance(module, SoftTree))).backward()
    grads = dict((name, p.grad) for name, p in net.named_parameters())
    tensors = [v for name, t in net.state_dict().items() if t.dim() for v in grads.get(name, t).flatten().tolist()]
    return int(pool is wide_inputs), y.detach().flatten().tolist(), still, x.grad.flatten().tolist(), tensors


def array(kind, name, values, form):
    words = [form % v for v in values]
    if kind == 'float':
        words = [word + ('f' if '.' in word or 'e' in word else '.0f') for word in words]
    print('static const %s %s[] = {' % (kind, name))
    print('\n'.join(textwrap.wrap(', '.join(words), 112, initial_indent='    ', subsequent_indent='    ')))
    print('};')


print('/* layers.h - made by /usr/bin/python3 layers.py > layers.h: every layer by PyTorch, in double precision */')
print('/* clang-format off */')
array('float', 'golden_inputs', inputs, '%g')
array('float', 'golden_wide_inputs', wide_inputs, '%g')
array('float', 'golden_directions', directions, '%g')
print('/* a running variance is 1 more than what is here */')
array('float', 'golden_weights', weights, '%g')
rows = []
for index, case in enumerate(CASES):
    wide, y, still, dx, tensors = run(*case)
    parts = {'y': y, 'still': still if still != y else [], 'dx': dx, 'tensors': tensors}
    for name, values in parts.items():
        if values:
            array('double', 'golden_%s_%d' % (name, index), values, '%.9g')
    names = ['golden_%s_%d' % (name, index) if values else 'NULL' for name, values in parts.items()]
    rows.append('    {"%s", %d, %d, %d,\n     %s},' % (case[0], case[1], wide, len(tensors), ', '.join(names)))
print('''typedef struct golden_layer {
    const char *line;
    int samples, wide_inputs, tensor_count;
    const double *training, *evaluation; /* outputs; NULL: evaluation is like training */
    const double *input_grad;
    const double *tensors; /* as state_dict has them: gradients, and the new running statistics */
} golden_layer;''')
print('static const golden_layer golden_layers[] = {\n%s\n};' % '\n'.join(rows))
