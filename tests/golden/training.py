#!/usr/bin/env python3
"""Writes training.h: what PyTorch, in double precision, makes of twelve steps of every optimizer and schedule.

    /usr/bin/python3 training.py > training.h        (torch 1.13, numpy)

Everything that kd.h leaves to PyTorch's definition is taken from torch.optim; the rest (schedules, max-norm, clipping,
mean gradients of several batches) is written out here from its description in kd.h.
"""
import math
import textwrap

import numpy
import torch
from torch import nn

torch.set_default_dtype(torch.float64)
COUNT, BATCH, EPOCHS = 20, 8, 4  # batches of 8, 8 and 4
T, ALPHA = 3.0, 0.7
random = numpy.random.RandomState(5)


def draw(*shape, scale=1.0):
    return (random.uniform(-1, 1, shape) * scale).astype(numpy.float32)


def mlp():
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def teacher_net():
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))


def cnn():
    """No bias before a batch normalisation: its gradient is 0, and Adam would make steps of what rounding leaves."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def start(net, scale):
    """Numbers that are floats, so that both sides begin at the same point."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.from_numpy(draw(*p.shape, scale=scale).astype(numpy.float64)))
    return {k: v.clone() for k, v in net.state_dict().items()}


features = draw(COUNT, 6, scale=2)
labels = random.randint(0, 3, COUNT)
pixels = random.randint(0, 256, (COUNT, 2, 6, 6))
MEAN, STD = (0.4, 0.6), (0.25, 0.3)
teacher = teacher_net()
start(teacher, 1.5)
mlp_start = start(mlp(), 0.7)
cnn_start = start(cnn(), 0.6)


def f32(x):
    return float(numpy.float32(x))


def learning_rate(options, step, steps_per_epoch):
    lr, end, gamma = f32(options['lr']), f32(options.get('lr_end', 0)), f32(options.get('gamma', 0.1))
    warmup = options.get('warmup', 0)
    if step < warmup * steps_per_epoch:
        return lr * (step + 1) / math.ceil(warmup * steps_per_epoch)
    e = step / steps_per_epoch
    u = (e - warmup) / (EPOCHS - warmup)
    kind = options.get('schedule', 'KD_CONSTANT')
    if kind == 'KD_STEP':
        return lr * gamma ** math.floor(e / options['step'])
    if kind == 'KD_EXPONENTIAL':
        return lr * gamma ** math.floor(e)
    if kind == 'KD_LINEAR':
        return lr + (end - lr) * u
    if kind == 'KD_COSINE':
        return end + (lr - end) * (1 + math.cos(math.pi * u)) / 2
    return lr


def optimizer_for(net, o):
    decay = f32(o.get('decay', 0))
    if o['optimizer'] == 'KD_SGD':
        return torch.optim.SGD(net.parameters(), lr=1, momentum=f32(o.get('momentum', 0)), weight_decay=decay,
                               nesterov=bool(o.get('nesterov', 0)))
    kind = torch.optim.Adam if o['optimizer'] == 'KD_ADAM' else torch.optim.AdamW
    return kind(net.parameters(), lr=1, betas=(f32(o.get('beta1', 0.9)), f32(o.get('beta2', 0.999))),
                eps=f32(o.get('epsilon', 1e-8)), weight_decay=decay)


def loss_of(logits, rows, o):
    y = torch.from_numpy(labels[rows].astype(numpy.int64))
    hard = nn.functional.cross_entropy(logits, y, label_smoothing=f32(o.get('smoothing', 0)))
    if not o['distil']:
        return hard
    with torch.no_grad():
        target = teacher(torch.from_numpy(features[rows].astype(numpy.float64)))
    soft = nn.functional.kl_div(nn.functional.log_softmax(logits / T, 1), nn.functional.softmax(target / T, 1),
                                reduction='batchmean')
    alpha = f32(ALPHA)
    return alpha * T * T * soft + (1 - alpha) * hard


def train(o):
    net = mlp() if o['distil'] else cnn()
    net.load_state_dict(mlp_start if o['distil'] else cnn_start)
    net.train()
    if o['distil']:
        x = torch.from_numpy(features.astype(numpy.float64))
    else:
        mean = torch.tensor([f32(v) for v in MEAN]).reshape(1, 2, 1, 1)
        std = torch.tensor([f32(v) for v in STD]).reshape(1, 2, 1, 1)
        x = (torch.from_numpy(pixels.astype(numpy.float64)) / 255 - mean) / std
    optimizer = optimizer_for(net, o)
    group = optimizer.param_groups[0]
    batches = [range(i, min(i + BATCH, COUNT)) for i in range(0, COUNT, BATCH)]
    together = o.get('accumulate', 1)
    updates = [batches[i:i + together] for i in range(0, len(batches), together)]
    rates, losses, norms, step = [], [], [], 0
    for _ in range(EPOCHS):
        for update in updates:
            optimizer.zero_grad()
            for rows in update:
                loss = loss_of(net(x[list(rows)]), list(rows), o)
                (loss / len(update)).backward()
                losses.append(loss.item())
            norm = math.sqrt(sum((p.grad ** 2).sum().item() for p in net.parameters()))
            norms.append(norm)
            if 'clip' in o and norm > f32(o['clip']):
                for p in net.parameters():
                    p.grad *= f32(o['clip']) / norm
            group['lr'] = learning_rate(o, step, len(updates))
            rates.append(group['lr'])
            optimizer.step()
            step += 1
            if 'max_norm' in o:
                with torch.no_grad():
                    for p in net.parameters():
                        if p.dim() > 1:
                            n = p.flatten(1).norm(dim=1).reshape([-1] + [1] * (p.dim() - 1))
                            p *= torch.clamp(f32(o['max_norm']) / n, max=1.0)
    return net.state_dict(), rates, losses, norms


SGD, ADAM, ADAMW = {'optimizer': 'KD_SGD'}, {'optimizer': 'KD_ADAM'}, {'optimizer': 'KD_ADAMW'}
DISTIL, PLAIN = {'distil': 1}, {'distil': 0}
CASES = [
    ('sgd', {**DISTIL, **SGD, 'lr': 0.1}),
    ('sgd, decay', {**DISTIL, **SGD, 'lr': 0.1, 'decay': 0.05}),
    ('sgd, momentum', {**DISTIL, **SGD, 'lr': 0.05, 'momentum': 0.9}),
    ('sgd, momentum, decay', {**DISTIL, **SGD, 'lr': 0.05, 'momentum': 0.8, 'decay': 0.02}),
    ('sgd, nesterov', {**DISTIL, **SGD, 'lr': 0.05, 'momentum': 0.9, 'nesterov': 1}),
    ('sgd, nesterov, decay', {**DISTIL, **SGD, 'lr': 0.05, 'momentum': 0.7, 'nesterov': 1, 'decay': 0.02}),
    ('adam', {**DISTIL, **ADAM, 'lr': 0.01}),
    ('adam, decay', {**DISTIL, **ADAM, 'lr': 0.01, 'decay': 0.1}),
    ('adam, other constants', {**DISTIL, **ADAM, 'lr': 0.02, 'beta1': 0.8, 'beta2': 0.95, 'epsilon': 0.01}),
    ('adamw', {**DISTIL, **ADAMW, 'lr': 0.01}),
    ('adamw, decay', {**DISTIL, **ADAMW, 'lr': 0.01, 'decay': 0.5}),
    ('label smoothing', {**DISTIL, **SGD, 'lr': 0.1, 'smoothing': 0.2}),
    ('clip', {**DISTIL, **SGD, 'lr': 0.1, 'momentum': 0.9, 'clip': 0.75}),
    ('max-norm', {**DISTIL, **ADAM, 'lr': 0.05, 'max_norm': 1.0}),
    ('accumulate', {**DISTIL, **SGD, 'lr': 0.1, 'momentum': 0.9, 'accumulate': 2}),
    ('accumulate, clip', {**DISTIL, **ADAM, 'lr': 0.02, 'accumulate': 2, 'clip': 0.5}),
    ('constant with warm-up', {**DISTIL, **SGD, 'lr': 0.1, 'warmup': 1.5}),
    ('step', {**DISTIL, **SGD, 'lr': 0.1, 'schedule': 'KD_STEP', 'step': 2, 'gamma': 0.5, 'warmup': 1}),
    ('exponential', {**DISTIL, **SGD, 'lr': 0.1, 'schedule': 'KD_EXPONENTIAL', 'gamma': 0.6, 'warmup': 0.5}),
    ('linear', {**DISTIL, **ADAM, 'lr': 0.02, 'schedule': 'KD_LINEAR', 'lr_end': 0.001, 'warmup': 1}),
    ('cosine', {**DISTIL, **SGD, 'lr': 0.2, 'schedule': 'KD_COSINE', 'lr_end': 0.02, 'warmup': 1.5, 'momentum': 0.5}),
    ('cosine, accumulate', {**DISTIL, **SGD, 'lr': 0.2, 'schedule': 'KD_COSINE', 'accumulate': 2}),
    ('convolutions, sgd', {**PLAIN, **SGD, 'lr': 0.05, 'momentum': 0.9, 'decay': 0.01}),
    ('convolutions, adam', {**PLAIN, **ADAM, 'lr': 0.01}),
    ('convolutions, max-norm', {**PLAIN, **SGD, 'lr': 0.1, 'max_norm': 1.2, 'smoothing': 0.1}),
]


def array(kind, name, values, form='%.9g'):
    words = [form % v for v in values]
    if kind == 'float':
        words = [w + 'f' if '.' in w or 'e' in w else w for w in words]
    print('static const %s %s[] = {' % (kind, name))
    print('\n'.join(textwrap.wrap(', '.join(words), 112, initial_indent='    ', subsequent_indent='    ')))
    print('};')


def float_text(value):
    text = '%g' % value
    return text + 'f' if '.' in text or 'e' in text else text


def flat(state):
    return [v for k, t in state.items() if t.dim() for v in t.flatten().tolist()]


print('/* training.h - made by training.py: data, start, and what PyTorch reaches in double precision */')
print('/* clang-format off */')
print('enum { GOLDEN_COUNT = %d, GOLDEN_BATCH = %d, GOLDEN_EPOCHS = %d };' % (COUNT, BATCH, EPOCHS))
array('float', 'golden_features', features.flatten())
array('int32_t', 'golden_labels', labels, '%d')
array('uint8_t', 'golden_pixels', pixels.flatten(), '%d')
array('float', 'golden_mean', MEAN)
array('float', 'golden_std', STD)
print('/* tensors one after the other, in the order of state_dict, without the counts of batches */')
array('float', 'golden_teacher', flat(teacher.state_dict()))
array('float', 'golden_mlp', flat(mlp_start))
array('float', 'golden_cnn', flat(cnn_start))
rows = []
for index, (name, o) in enumerate(CASES):
    state, rates, losses, norms = train(o)
    array('double', 'golden_end_%d' % index, flat(state), '%.8g')
    array('double', 'golden_rates_%d' % index, rates, '%.10g')
    array('double', 'golden_losses_%d' % index, losses, '%.8g')
    if 'clip' in o:
        array('double', 'golden_norms_%d' % index, norms, '%.8g')
    fields = ['"%s"' % name, o['distil'], o['optimizer'], o.get('nesterov', 0)]
    fields += [float_text(o.get(key, usual)) for key, usual in (
        ('lr', 0), ('momentum', 0), ('beta1', 0.9), ('beta2', 0.999), ('epsilon', 1e-8), ('decay', 0), ('max_norm', 0),
        ('clip', 0), ('smoothing', 0))]
    fields += [o.get('accumulate', 1), o.get('schedule', 'KD_CONSTANT')]
    fields += [float_text(o.get(key, usual)) for key, usual in (
        ('warmup', 0), ('step', 10), ('gamma', 0.1), ('lr_end', 0))]
    fields += ['golden_%s_%d' % (what, index) for what in ('end', 'rates', 'losses')]
    fields += ['golden_norms_%d' % index if 'clip' in o else 'NULL']
    rows.append('    {%s},' % ', '.join(str(field) for field in fields))
print('''/* Numbers as the options have them. */
typedef struct golden_case {
    const char *name;
    int distil;
    kd_optimizer optimizer;
    int nesterov;
    float lr, momentum, beta1, beta2, epsilon, weight_decay, max_norm, clip_norm, label_smoothing;
    int accumulate;
    kd_schedule schedule;
    float warmup, schedule_step, schedule_gamma, lr_end;
    const double *end, *rates, *losses, *norms; /* all weights; by update, by batch, by update where there is clip_norm */
} golden_case;''')
print('static const golden_case golden_cases[] = {\n%s\n};' % '\n'.join(rows))
