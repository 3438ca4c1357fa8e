#!/usr/bin/env python3
"""Writes losses.h: values and gradients of every loss in every setting, from PyTorch in double precision.

    /usr/bin/python3 losses.py > losses.h        (torch 1.13, numpy)

Logits and soft labels are the starts of common lists. The label of row r is (7 r + 3) modulo the number of classes;
where a setting has unlabelled rows, they are those with r modulo 3 = 1.
"""
import textwrap

import numpy
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, kl_divergence

torch.set_default_dtype(torch.float64)
random = numpy.random.RandomState(3)


def two_decimals(x):
    """Short to write down; as floats, so that both sides mean the same number."""
    return numpy.round(x, 2).astype(numpy.float32)


students, teachers = two_decimals(random.uniform(-4, 4, 60)), two_decimals(random.uniform(-5, 5, 60))
soft_labels = two_decimals(random.uniform(0, 1, 60))  # their rows do not sum to 1, so that a forgotten sum shows


def setting(name, kind, teacher=0, soft=0, unlabelled=0, t=4, alpha=0.9, smoothing=0, elements=0):
    return dict(name=name, kind=kind, teacher=teacher, soft=soft, unlabelled=unlabelled, t=t, alpha=alpha,
                smoothing=smoothing, elements=elements)


SETTINGS = [
    setting('ce', 'CE'),
    setting('ce, smoothing', 'CE', smoothing=0.1),
    setting('ce, soft labels', 'CE', soft=1),
    setting('ce, soft labels, smoothing', 'CE', soft=1, smoothing=0.25),
    setting('ce, elements', 'CE', elements=1),
    setting('kl, T = 1', 'KL', teacher=1, t=1),
    setting('kl', 'KL', teacher=1),
    setting('kl, T = 0.5', 'KL', teacher=1, t=0.5),
    setting('kl, T = 20', 'KL', teacher=1, t=20),
    setting('kl, elements', 'KL', teacher=1, elements=1),
    setting('hinton', 'HINTON', teacher=1),
    setting('hinton, smoothing', 'HINTON', teacher=1, t=2, alpha=0.3, smoothing=0.1),
    setting('hinton, soft labels', 'HINTON', teacher=1, soft=1, t=1, alpha=0.5),
    setting('hinton, elements', 'HINTON', teacher=1, t=3, alpha=0.6, elements=1),
    setting('hinton, unlabelled', 'HINTON', teacher=1, unlabelled=1, t=2.5, alpha=0.4),
    setting('hinton, unlabelled, elements, smoothing', 'HINTON', teacher=1, unlabelled=1, t=5, alpha=0.8,
            elements=1, smoothing=0.3),
    setting('hinton, alpha = 0', 'HINTON', teacher=1, unlabelled=1, alpha=0),
    setting('hinton, alpha = 1', 'HINTON', teacher=1, alpha=1),
    setting('mse', 'MSE', teacher=1),
    setting('mse, elements', 'MSE', teacher=1, elements=1),
    setting('bce', 'BCE'),
    setting('bce, smoothing', 'BCE', smoothing=0.2),
    setting('bce, soft labels', 'BCE', soft=1),
    setting('bce, teacher', 'BCE', teacher=1),
    setting('bce, teacher, smoothing', 'BCE', teacher=1, t=2, alpha=0.3, smoothing=0.1),
    setting('bce, teacher, elements', 'BCE', teacher=1, t=1, alpha=0.6, elements=1),
    setting('bce, teacher, unlabelled', 'BCE', teacher=1, unlabelled=1, t=0.75, alpha=0.5),
    setting('bce, teacher, soft labels, smoothing', 'BCE', teacher=1, soft=1, t=10, alpha=0.7, smoothing=0.5),
]
SIZES = [(5, 1), (4, 3), (3, 20)]


def f32(x):
    return float(numpy.float32(x))


def matrix(numbers, rows, cols):
    return torch.from_numpy(numbers[:rows * cols].astype(numpy.float64)).reshape(rows, cols)


def cross_entropy(o, s, rows, cols):
    if o['soft']:
        return F.cross_entropy(s, matrix(soft_labels, rows, cols), label_smoothing=f32(o['smoothing']))
    labels = torch.tensor([-1 if o['unlabelled'] and r % 3 == 1 else (7 * r + 3) % cols for r in range(rows)])
    rows_of = F.cross_entropy(s, labels, ignore_index=-1, label_smoothing=f32(o['smoothing']), reduction='none')
    return rows_of.mean()  # not reduction='mean', which would divide by the number of labelled rows


def binary_cross_entropy(o, s, rows, cols):
    if o['soft']:
        target = matrix(soft_labels, rows, cols)
    else:
        classes = max(cols, 2)
        hot = F.one_hot(torch.tensor([(7 * r + 3) % classes for r in range(rows)]), classes).double()
        target = hot[:, 1:] if cols == 1 else hot
    target = (1 - f32(o['smoothing'])) * target + f32(o['smoothing']) / 2
    labelled = torch.tensor([[0.0 if o['unlabelled'] and r % 3 == 1 else 1.0] for r in range(rows)])
    return (F.binary_cross_entropy_with_logits(s, target, reduction='none') * labelled).sum() / rows


def loss(o, s, t, rows, cols):
    T, alpha, kind = f32(o['t']), f32(o['alpha']), o['kind']
    if kind == 'CE':
        return cross_entropy(o, s, rows, cols)
    if kind == 'MSE':
        return F.mse_loss(s, t, reduction='mean' if o['elements'] else 'sum') / (1 if o['elements'] else rows)
    if kind == 'BCE':
        hard = binary_cross_entropy(o, s, rows, cols)
        if not o['teacher']:
            return hard
        soft = T * T * kl_divergence(Bernoulli(logits=t / T), Bernoulli(logits=s / T))
        return alpha * (soft.mean() if o['elements'] else soft.sum(1).mean()) + (1 - alpha) * hard
    soft = T * T * F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1),
                            reduction='mean' if o['elements'] else 'batchmean')
    return soft if kind == 'KL' else alpha * soft + (1 - alpha) * cross_entropy(o, s, rows, cols)


def array(kind, name, values, form):
    words = [form % v for v in values]
    if kind == 'float':
        words = [word + ('f' if '.' in word else '.0f') for word in words]
    print('static const %s %s[] = {' % (kind, name))
    print('\n'.join(textwrap.wrap(', '.join(words), 112, initial_indent='    ', subsequent_indent='    ')))
    print('};')


def number(x):
    return '%g' % x + ('f' if x != int(x) else '')


print('/* losses.h - made by /usr/bin/python3 losses.py > losses.h: every loss by PyTorch, in double precision */')
print('/* clang-format off */')
array('float', 'golden_students', students, '%g')
array('float', 'golden_teachers', teachers, '%g')
array('float', 'golden_soft_labels', soft_labels, '%g')
print('''typedef struct golden_setting {
    const char *name;
    kd_loss_kind kind;
    int teacher, soft_labels, unlabelled;
    float temperature, alpha, smoothing;
    kd_reduction reduction;
} golden_setting;
static const golden_setting golden_settings[] = {''')
for o in SETTINGS:
    print('    {"%s", KD_LOSS_%s, %d, %d, %d, %s, %s, %s, KD_REDUCTION_%s},' % (
        o['name'], o['kind'], o['teacher'], o['soft'], o['unlabelled'], number(o['t']), number(o['alpha']),
        number(o['smoothing']), 'ELEMENTS' if o['elements'] else 'ROWS'))
print('};')
results = []
for index, o in enumerate(SETTINGS):
    for rows, cols in SIZES:
        s, t = matrix(students, rows, cols).requires_grad_(), matrix(teachers, rows, cols)
        value = loss(o, s, t, rows, cols)
        value.backward()
        name = 'golden_grad_%d_%d' % (index, cols)
        array('double', name, s.grad.flatten().tolist(), '%.9g')
        results.append('    {&golden_settings[%d], %d, %d, %.12g, %s},' % (index, rows, cols, value.item(), name))
print('''typedef struct golden_loss {
    const golden_setting *setting;
    int rows, cols;
    double value;
    const double *grad;
} golden_loss;''')
print('static const golden_loss golden_losses[] = {\n%s\n};' % '\n'.join(results))
