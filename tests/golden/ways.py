#!/usr/bin/env python3
"""Writes ways.h: what PyTorch, in double precision, makes of six steps of adversarial distillation and of DOT.

    /usr/bin/python3 ways.py > ways.h        (torch 1.13, numpy)

Attacks, losses and DOT's two momenta are written out here from their papers; batches are normalised as kd_data says,
and epsilon and step are in pixels from 0 to 1.
"""
import textwrap

import numpy
import torch
import torch.nn.functional as F
from torch import nn

torch.set_default_dtype(torch.float64)
COUNT, BATCH, EPOCHS = 12, 6, 3
random = numpy.random.RandomState(11)
MEAN, STD = (0.4, 0.6), (0.25, 0.3)
EPSILON, STEP, STEPS = 0.06, 0.025, 3
LR, MOMENTUM, DECAY, DELTA = 0.05, 0.8, 0.02, 0.15


def f32(x):
    return float(numpy.float32(x))


def student_net(outputs):
    """No bias before the batch normalisation, where its gradient would be what rounding leaves."""
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2),
                         nn.Conv2d(4, 3, 2), nn.SiLU(), nn.Flatten(), nn.Linear(3, outputs))


def teacher_net(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(32, outputs))


def start(net, scale):
    """Numbers that are floats, so that both sides begin at the same point."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.from_numpy(random.uniform(-scale, scale, p.shape).astype(numpy.float32).astype(numpy.float64)))
    return {k: v.clone() for k, v in net.state_dict().items()}


pixels = random.randint(0, 256, (COUNT, 2, 4, 4))
labels = random.randint(0, 3, COUNT)
teachers = {n: teacher_net(n) for n in (3, 1)}
starts = {n: start(student_net(n), 0.9) for n in (3, 1)}
for net in teachers.values():
    start(net, 0.8)
mean = torch.tensor([f32(v) for v in MEAN]).reshape(1, 2, 1, 1)
std = torch.tensor([f32(v) for v in STD]).reshape(1, 2, 1, 1)
images = (torch.from_numpy(pixels.astype(numpy.float64)) / 255 - mean) / std


def kl(s, t, temperature):
    return temperature ** 2 * F.kl_div(F.log_softmax(s / temperature, 1), F.softmax(t / temperature, 1),
                                       reduction='batchmean')


def binary_kl(s, t, temperature):
    p, log_p, log_q = torch.sigmoid(t / temperature), F.logsigmoid(t / temperature), F.logsigmoid(-t / temperature)
    value = p * (log_p - F.logsigmoid(s / temperature)) + (1 - p) * (log_q - F.logsigmoid(-s / temperature))
    return temperature ** 2 * value.sum(1).mean()


def binary_ce(s, y):
    return F.binary_cross_entropy_with_logits(s[:, 0], y.double())


def attack(net, x, objective, step, steps):
    net.eval()
    low, high = torch.max(x - f32(EPSILON) / std, (0 - mean) / std), torch.min(x + f32(EPSILON) / std, (1 - mean) / std)
    moved = x.clone()
    for _ in range(steps):
        moved.requires_grad_(True)
        grad, = torch.autograd.grad(objective(net(moved)), moved)
        moved = torch.min(torch.max(moved.detach() + f32(step) / std * grad.sign(), low), high)
    net.train()
    return moved


def ard(net, x, y, t):
    moved = attack(net, x, lambda s: F.cross_entropy(s, y), STEP, STEPS)
    clean, adversarial = net(x), net(moved)
    return f32(0.3) * F.cross_entropy(clean, y), f32(0.7) * kl(adversarial, t, 3)


def rslad(net, x, y, t):
    moved = attack(net, x, lambda s: kl(s, t, 1), STEP, STEPS)
    clean, adversarial = net(x), net(moved)
    return 0, f32(1 / 6) * kl(clean, t, 1) + f32(5 / 6) * kl(adversarial, t, 1)


def fgsm(net, x, y, t):
    return F.cross_entropy(net(attack(net, x, lambda s: F.cross_entropy(s, y), EPSILON, 1)), y), 0


def binary(net, x, y, t):
    y = y.clamp(max=1)
    adversarial = net(attack(net, x, lambda s: binary_ce(s, y), STEP, STEPS))
    return (1 - f32(0.6)) * binary_ce(adversarial, y), f32(0.6) * binary_kl(adversarial, t, 2)


def hinton(net, x, y, t):
    s = net(x)
    return (1 - f32(0.7)) * F.cross_entropy(s, y), f32(0.7) * kl(s, t, 3)


def gradients(net, loss, keep):
    if not torch.is_tensor(loss):
        return [torch.zeros_like(p) for p in net.parameters()]
    return torch.autograd.grad(loss, list(net.parameters()), retain_graph=keep)


def train(way, outputs, delta=0.0, together=1):
    net = student_net(outputs)
    net.load_state_dict(starts[outputs])
    net.train()
    batches = [list(range(i, i + BATCH)) for i in range(0, COUNT, BATCH)]
    params = list(net.parameters())
    hard_v, soft_v = ([torch.zeros_like(p) for p in params] for _ in range(2))
    losses = []
    for _ in range(EPOCHS):
        for update in [batches[i:i + together] for i in range(0, len(batches), together)]:
            hard_g, soft_g = ([torch.zeros_like(p) for p in params] for _ in range(2))
            for rows in update:
                x, y = images[rows], torch.from_numpy(labels[rows])
                with torch.no_grad():
                    t = teachers[outputs](x)
                hard, soft = way(net, x, y, t)
                losses.append(float(hard + soft))
                for total, loss, keep in ((hard_g, hard, True), (soft_g, soft, False)):
                    for g, part in zip(total, gradients(net, loss, keep)):
                        g += part / len(update)
            with torch.no_grad():
                for p, hv, sv, hg, sg in zip(params, hard_v, soft_v, hard_g, soft_g):
                    hv.mul_(f32(MOMENTUM) - f32(delta)).add_(hg + f32(DECAY) * p)
                    sv.mul_(f32(MOMENTUM) + f32(delta)).add_(sg)
                    p -= f32(LR) * (hv + sv)
    return net.state_dict(), losses


def array(kind, name, values, form='%.9g'):
    words = [form % v for v in values]
    if kind == 'float':
        words = [w + 'f' if '.' in w or 'e' in w else w + '.0f' for w in words]
    print('static const %s %s[] = {' % (kind, name))
    print('\n'.join(textwrap.wrap(', '.join(words), 112, initial_indent='    ', subsequent_indent='    ')))
    print('};')


def flat(state):
    return [v for k, t in state.items() if t.dim() for v in t.flatten().tolist()]


print('/* ways.h - made by ways.py: data, start, and what PyTorch reaches in double precision */')
print('/* clang-format off */')
print('enum { GOLDEN_COUNT = %d, GOLDEN_BATCH = %d, GOLDEN_EPOCHS = %d };' % (COUNT, BATCH, EPOCHS))
array('uint8_t', 'golden_pixels', pixels.flatten(), '%d')
array('int32_t', 'golden_labels', labels, '%d')
array('int32_t', 'golden_binary_labels', labels.clip(max=1), '%d')
print('/* tensors one after the other, in the order of state_dict, without the counts of batches */')
for n, word in ((3, ''), (1, 'binary_')):
    array('float', 'golden_%steacher' % word, flat(teachers[n].state_dict()))
    array('float', 'golden_%sstudent' % word, flat(starts[n]))
for name, way, outputs, options in (('ard', ard, 3, {}), ('rslad', rslad, 3, {}), ('fgsm', fgsm, 3, {}),
                                    ('binary', binary, 1, {}), ('dot', hinton, 3, {'delta': DELTA}),
                                    ('dot_gathered', hinton, 3, {'delta': DELTA, 'together': 2}),
                                    ('dot_ard', ard, 3, {'delta': DELTA})):
    state, losses = train(way, outputs, **options)
    array('double', 'golden_%s_end' % name, flat(state), '%.8g')
    array('double', 'golden_%s_losses' % name, losses, '%.8g')
