#!/usr/bin/env python3
"""Writes methods.h: values and gradients of the losses after bce, and of every option, from PyTorch in double
precision. Written from the papers' formulas and the conventions of the libraries, with PyTorch's own functions.

    /usr/bin/python3 methods.py > methods.h        (torch 1.13, numpy)

Logits and soft labels are the starts of common lists. The label of row r is (7 r + 3) modulo the number of classes;
where a setting has unlabelled rows, they are those with r modulo 3 = 1.
"""
import textwrap

import numpy
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
random = numpy.random.RandomState(11)
SIZES = [(6, 4), (3, 17), (1, 5), (9, 3)]
LENGTH = max(rows * cols for rows, cols in SIZES)


def distinct(low, high):
    """Short to write down, no two alike, so that there is one largest; as floats, so that both sides mean the same."""
    x = random.choice(numpy.arange(int(low * 100), int(high * 100)), LENGTH, replace=False)
    return (x / 100).astype(numpy.float32)


students, teachers, soft_labels = distinct(-4, 4), distinct(-5, 5), distinct(0, 2)

PUBLISHED = {
    'KL': dict(), 'HINTON': dict(), 'MSE': dict(), 'RKL': dict(), 'SOFT_CE': dict(), 'CENTRED_MSE': dict(),
    'JSD': dict(beta=0.5),
    'TFKD': dict(t=40, alpha=0.1, certainty=0.99, elements=1),
    'DKD': dict(alpha=1, beta=8, hard_weight=1),
    'NKD': dict(t=1, gamma=1.5, hard_weight=1),
    'DIST': dict(beta=1, gamma=1, hard_weight=1),
    'TTM': dict(t=1, gamma=0.1, soft_weight=45, hard_weight=1),
    'WTTM': dict(t=1, gamma=0.2, soft_weight=4, hard_weight=1),
    'MLLD': dict(soft_weight=0.9, hard_weight=0.1),
    'CSKD': dict(hard_weight=1),
    'CTKD': dict(t=1 + 20 / (1 + numpy.exp(-1)), soft_weight=0.9, hard_weight=0.1),
}
FIELDS = dict(soft=0, unlabelled=0, t=4, alpha=0.9, smoothing=0, elements=0, soft_weight=1, hard_weight=0, beta=1,
              gamma=1, certainty=0.9, standardise=0, adjust='NONE', convention='DEFAULT')


def setting(name, kind, **changes):
    return dict(FIELDS, name=name, kind=kind, published=not changes, **dict(PUBLISHED[kind], **changes))


STANDARD = dict(standardise=1, t=2, soft_weight=9, hard_weight=0.1)
SETTINGS = [setting(kind.lower().replace('_', ''), kind) for kind in PUBLISHED if kind not in ('KL', 'HINTON', 'MSE')] + [
    setting('kl, hard term', 'KL', hard_weight=0.5, smoothing=0.1),
    setting('kl, soft and hard weight, unlabelled', 'KL', soft_weight=2, hard_weight=0.25, unlabelled=1),
    setting('hinton, soft weight', 'HINTON', soft_weight=3, alpha=0.4),
    setting('mse, hard term', 'MSE', hard_weight=0.5),
    setting('rkl, T = 1, elements', 'RKL', t=1, elements=1),
    setting('rkl, hard term, soft labels', 'RKL', t=2, hard_weight=0.3, soft=1),
    setting('jsd, beta = 0.1', 'JSD', beta=0.1, t=1),
    setting('jsd, beta = 0.9', 'JSD', beta=0.9, t=2, hard_weight=1, unlabelled=1),
    setting('softce, T = 1', 'SOFT_CE', t=1),
    setting('centredmse, elements', 'CENTRED_MSE', elements=1),
    setting('tfkd, sharp', 'TFKD', t=0.5, alpha=0.6, certainty=0.7, elements=0),
    setting('tfkd, multiplier, soft labels, smoothing', 'TFKD', t=20, soft_weight=50, soft=1, smoothing=0.1),
    setting('dkd, other weights', 'DKD', alpha=0.5, beta=2, t=1, hard_weight=0, soft_weight=0.7),
    setting('dkd, target alone', 'DKD', alpha=1, beta=0, t=2),
    setting('dkd, soft labels', 'DKD', soft=1, hard_weight=0.5),
    setting('nkd, T = 3', 'NKD', t=3, gamma=0.5, hard_weight=0),
    setting('nkd, soft labels', 'NKD', soft=1),
    setting('dist, rows alone', 'DIST', gamma=0, t=1, hard_weight=0),
    setting('dist, columns alone', 'DIST', beta=0, gamma=2, t=2, hard_weight=0),
    setting('dist, unlabelled', 'DIST', unlabelled=1, elements=1),
    setting('ttm, hard teacher', 'TTM', gamma=2, soft_weight=1, hard_weight=0),
    setting('wttm, unlabelled', 'WTTM', gamma=0.7, unlabelled=1),
    setting('mlld, classes alone', 'MLLD', beta=2, gamma=0, hard_weight=0),
    setting('mlld, rows alone', 'MLLD', beta=0, gamma=3, hard_weight=0),
    setting('cskd, soft labels', 'CSKD', soft=1, t=2),
    setting('kl, standardised', 'KL', **STANDARD),
    setting('hinton, standardised', 'HINTON', standardise=1, t=3, alpha=0.3),
    setting('mse, standardised', 'MSE', standardise=1),
    setting('rkl, standardised', 'RKL', **STANDARD),
    setting('jsd, standardised', 'JSD', **STANDARD),
    setting('dkd, standardised', 'DKD', **STANDARD),
    setting('nkd, standardised', 'NKD', standardise=1),
    setting('dist, standardised', 'DIST', **STANDARD),
    setting('wttm, standardised', 'WTTM', standardise=1),
    setting('mlld, standardised', 'MLLD', standardise=1),
    setting('cskd, standardised', 'CSKD', **STANDARD),
    setting('kl, shift', 'KL', adjust='SHIFT'),
    setting('kl, smooth', 'KL', adjust='SMOOTH', certainty=0.8),
    setting('hinton, shift, unlabelled', 'HINTON', adjust='SHIFT', unlabelled=1),
    setting('hinton, smooth, unlabelled', 'HINTON', adjust='SMOOTH', unlabelled=1),
    setting('mse, shift', 'MSE', adjust='SHIFT'),
    setting('dkd, shift', 'DKD', adjust='SHIFT'),
    setting('nkd, smooth', 'NKD', adjust='SMOOTH', t=2),
    setting('dist, smooth', 'DIST', adjust='SMOOTH'),
    setting('wttm, smooth', 'WTTM', adjust='SMOOTH'),
    setting('mlld, smooth', 'MLLD', adjust='SMOOTH'),
    setting('kl, smooth, standardised', 'KL', adjust='SMOOTH', standardise=1),
    setting('kl, shift, standardised, soft labels', 'KL', adjust='SHIFT', standardise=1, soft=1),
    setting('hinton, repdistiller', 'HINTON', convention='REPDISTILLER', alpha=0.8),
    setting('hinton, mdistiller', 'HINTON', convention='MDISTILLER', alpha=0.8),
    setting('hinton, torchdistill', 'HINTON', convention='TORCHDISTILL', alpha=0.3),
    setting('hinton, torchdistill, alpha = 0', 'HINTON', convention='TORCHDISTILL', alpha=0),
    setting('kl, torchdistill', 'KL', convention='TORCHDISTILL'),
    setting('hinton, tf-kd', 'HINTON', convention='TFKD', alpha=0.95, t=20),
    setting('hinton, textbrewer', 'HINTON', convention='TEXTBREWER', alpha=0.5),
    setting('softce, textbrewer', 'SOFT_CE', convention='TEXTBREWER', t=8),
    setting('hinton, tf-kd, standardised', 'HINTON', convention='TFKD', standardise=1),
]


def f32(x):
    return float(numpy.float32(x))


def matrix(numbers, rows, cols):
    return torch.from_numpy(numbers[:rows * cols].astype(numpy.float64)).reshape(rows, cols)


def labels_of(o, rows, cols):
    """-1: none"""
    if o['soft']:
        return matrix(soft_labels, rows, cols).argmax(1)
    return torch.tensor([-1 if o['unlabelled'] and r % 3 == 1 else (7 * r + 3) % cols for r in range(rows)])


def cross_entropy(o, s, rows, cols):
    if o['soft']:
        return F.cross_entropy(s, matrix(soft_labels, rows, cols), label_smoothing=f32(o['smoothing']))
    rows_of = F.cross_entropy(s, labels_of(o, rows, cols), ignore_index=-1, label_smoothing=f32(o['smoothing']),
                              reduction='none')
    return rows_of.mean()  # not reduction='mean', which would divide by the number of labelled rows


def standardised(z):
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)


def others(p, y):
    """Probabilities given that the class is not y."""
    rest = p[torch.arange(p.shape[1]).expand_as(p) != y[:, None]].reshape(p.shape[0], -1)
    return rest / rest.sum(1, keepdim=True)


def kl_rows(p, q):
    return F.kl_div(q.log(), p, reduction='none').sum(1)


def correlation(a, b):
    """0 where something does not vary."""
    return torch.stack([torch.corrcoef(torch.stack([x, y]))[0, 1] if y.std() > 1e-12 else torch.zeros(())
                        for x, y in zip(a, b)])


class Problem:
    def __init__(self, o, s, rows, cols):
        self.o, self.rows, self.cols = o, rows, cols
        self.y = labels_of(o, rows, cols)
        self.s, self.t = s, matrix(teachers, rows, cols)
        self.wrong = (self.t.argmax(1) != self.y) & (self.y >= 0)
        if o['adjust'] == 'SHIFT':
            self.t = self.t.clone()
            for r in torch.nonzero(self.wrong).flatten().tolist():
                top, y = self.t[r].argmax().item(), self.y[r].item()
                self.t[r, [top, y]] = self.t[r, [y, top]]
        if o['standardise']:
            self.s, self.t = standardised(self.s), standardised(self.t)

    def certain(self):
        certainty = f32(self.o['certainty'])
        p = torch.full((self.rows, self.cols), (1 - certainty) / (self.cols - 1))
        for r in range(self.rows):
            if self.y[r] >= 0:
                p[r, self.y[r]] = certainty
        return p

    def teacher(self, T):
        p = F.softmax(self.t / T, 1)
        return torch.where(self.wrong[:, None], self.certain(), p) if self.o['adjust'] == 'SMOOTH' else p

    def student(self, T):
        return F.softmax(self.s / T, 1)


def kl(p, T):
    return T * T * F.kl_div(F.log_softmax(p.s / T, 1), p.teacher(T), reduction='batchmean')


def soft_term(o, p):
    T, alpha, beta, gamma = f32(o['t']), f32(o['alpha']), f32(o['beta']), f32(o['gamma'])
    kind, y, rows, cols = o['kind'], p.y, p.rows, p.cols
    s, t = p.student(T), p.teacher(T)
    at = torch.arange(rows)
    if kind in ('KL', 'HINTON', 'CTKD'):
        return kl(p, T)
    if kind == 'MSE':
        return F.mse_loss(p.s, p.t, reduction='sum') / rows
    if kind == 'CENTRED_MSE':
        d = p.s - p.t
        return ((d - d.mean(1, keepdim=True)) ** 2).sum() / rows
    if kind == 'RKL':
        return T * T * kl_rows(s, t).mean()
    if kind == 'SOFT_CE':
        return -T * T * (t * F.log_softmax(p.s / T, 1)).sum(1).mean()
    if kind == 'JSD':
        m = beta * t + (1 - beta) * s
        return T * T * (beta * kl_rows(t, m) + (1 - beta) * kl_rows(s, m)).mean()
    if kind == 'TFKD':
        return F.kl_div(F.log_softmax(p.s, 1), F.softmax(p.certain() / T, 1), reduction='batchmean')
    if kind == 'DKD':
        pair_s = torch.stack([s[at, y], 1 - s[at, y]], 1)
        pair_t = torch.stack([t[at, y], 1 - t[at, y]], 1)
        return T * T * (alpha * kl_rows(pair_t, pair_s) + beta * kl_rows(others(t, y), others(s, y))).mean()
    if kind == 'NKD':
        target = -p.teacher(1)[at, y] * p.student(1)[at, y].log()
        rest = -(others(t, y) * others(s, y).log()).sum(1)
        return (target + gamma * T * T * rest).mean()
    if kind == 'DIST':
        value = beta * (1 - correlation(s, t).mean())
        if rows > 1:
            value = value + gamma * (1 - correlation(s.t(), t.t()).mean())
        return T * T * value
    if kind in ('TTM', 'WTTM'):
        power = p.teacher(1) ** gamma
        U = power.sum(1, keepdim=True)
        terms = kl_rows(power / U, p.student(1))
        return (terms * U[:, 0]).mean() if kind == 'WTTM' else terms.mean()
    if kind == 'MLLD':
        value = 0
        for T in (4., 2., 3., 5., 6.):
            s, t = p.student(T), p.teacher(T)
            value = value + kl(p, T) + beta / cols * ((s.t() @ s - t.t() @ t) ** 2).sum()
            value = value + gamma / rows * ((s @ s.t() - t @ t.t()) ** 2).sum()
        return value
    assert kind == 'CSKD'
    value = 0
    for r in range(rows):
        same = [i for i in list(range(r + 1, rows)) + list(range(r)) if y[i] == y[r]]
        if same:
            value = value + T * T * kl_rows(s[same[0]][None].detach(), s[r][None])[0] / rows
    return value


def loss(o, s, rows, cols):
    T, alpha = f32(o['t']), f32(o['alpha'])
    p = Problem(o, s, rows, cols)
    ce = cross_entropy(o, s, rows, cols)
    kl_t, kl_s = p.teacher(T), F.log_softmax(p.s / T, 1)
    if o['convention'] in ('REPDISTILLER', 'MDISTILLER'):
        return (1 - alpha) * ce + alpha * F.kl_div(kl_s, kl_t, reduction='sum') * T ** 2 / rows
    if o['convention'] == 'TORCHDISTILL':
        soft = F.kl_div(kl_s, kl_t, reduction='batchmean')
        return soft if alpha == 0 or o['kind'] == 'KL' else alpha * ce + (1 - alpha) * T ** 2 * soft
    if o['convention'] == 'TFKD':
        return (1 - alpha) * ce + alpha * T * T * F.kl_div(kl_s, kl_t, reduction='mean')
    if o['convention'] == 'TEXTBREWER' and o['kind'] == 'SOFT_CE':
        return -(kl_t * kl_s).sum(-1).mean()
    if o['convention'] == 'TEXTBREWER':
        return (1 - alpha) * ce + alpha * F.kl_div(kl_s, kl_t, reduction='batchmean')
    soft = f32(o['soft_weight']) * soft_term(o, p)
    if o['elements']:
        soft = soft / cols
    if o['kind'] in ('HINTON', 'TFKD'):
        return alpha * soft + (1 - alpha) * ce
    return soft + f32(o['hard_weight']) * ce


def array(kind, name, values, form):
    words = [form % v for v in values]
    if kind == 'float':
        words = [word + ('f' if '.' in word else '.0f') for word in words]
    print('static const %s %s[] = {' % (kind, name))
    print('\n'.join(textwrap.wrap(', '.join(words), 112, initial_indent='    ', subsequent_indent='    ')))
    print('};')


def number(x):
    word = '%.9g' % x
    return word + ('f' if '.' in word or 'e' in word else '')


print('/* methods.h - made by /usr/bin/python3 methods.py > methods.h: losses by PyTorch, in double precision */')
print('/* clang-format off */')
array('float', 'golden_students', students, '%g')
array('float', 'golden_teachers', teachers, '%g')
array('float', 'golden_soft_labels', soft_labels, '%g')
print('''/* published: kd_loss_defaults must have these numbers */
typedef struct golden_method {
    const char *name;
    kd_loss_kind kind;
    int published, soft_labels, unlabelled;
    float temperature, alpha, smoothing, soft_weight, hard_weight, beta, gamma, certainty;
    int standardise;
    kd_adjust adjust;
    kd_loss_convention convention;
    kd_reduction reduction;
} golden_method;
static const golden_method golden_methods[] = {''')
for o in SETTINGS:
    print('    {"%s", KD_LOSS_%s, %d, %d, %d, %s, %d, KD_ADJUST_%s, KD_CONVENTION_%s, KD_REDUCTION_%s},' % (
        o['name'], o['kind'], o['published'], o['soft'], o['unlabelled'],
        ', '.join(number(o[f]) for f in ('t', 'alpha', 'smoothing', 'soft_weight', 'hard_weight', 'beta', 'gamma',
                                         'certainty')),
        o['standardise'], o['adjust'], o['convention'], 'ELEMENTS' if o['elements'] else 'ROWS'))
print('};')
results = []
for index, o in enumerate(SETTINGS):
    for rows, cols in SIZES:
        s = matrix(students, rows, cols).requires_grad_()
        value = loss(o, s, rows, cols)
        value.backward()
        name = 'golden_grad_%d_%d' % (index, cols)
        array('double', name, s.grad.flatten().tolist(), '%.9g')
        results.append('    {&golden_methods[%d], %d, %d, %.15g, %s},' % (index, rows, cols, value.item(), name))
print('''typedef struct golden_result {
    const golden_method *method;
    int rows, cols;
    double value;
    const double *grad;
} golden_result;''')
print('static const golden_result golden_results[] = {\n%s\n};' % '\n'.join(results))
