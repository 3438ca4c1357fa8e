#!/usr/bin/env python3
"""Writes features.h: values and gradients of every loss on features, from PyTorch in double precision.

    /usr/bin/python3 features.py > features.h        (torch 1.13, numpy)

Student and teacher features, and the numbers of learned parts, are the starts of common lists, one layer after the
other; where a case has a factor, the student's last sample is multiplied by it.
"""
import math
import textwrap

import numpy
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
random = numpy.random.RandomState(5)


def two_decimals(count, limit):
    """Short to write down; as floats, so that both sides mean the same number."""
    return numpy.round(random.uniform(-limit, limit, count), 2).astype(numpy.float32)


students, teachers, learned = two_decimals(160, 3), two_decimals(160, 3), two_decimals(400, 1)


def take(numbers, shapes):
    out, at = [], 0
    for shape in shapes:
        count = int(numpy.prod(shape))
        out.append(torch.from_numpy(numbers[at:at + count].astype(numpy.float64)).reshape(shape))
        at += count
    return out


def hint(s, t, p):
    if p:
        weight, bias = p
        s = [F.conv2d(s[0], weight[:, :, None, None], bias)]
    return F.mse_loss(s[0], t[0])


def attention(x):
    return F.normalize(x.pow(2).mean(1).flatten(1), dim=1)


def at(s, t, p):
    return (attention(s[0]) - attention(t[0])).pow(2).mean()


def at_paper(s, t, p):
    return torch.linalg.vector_norm(attention(s[0]) - attention(t[0]), dim=1).mean()


def sp(s, t, p):
    def similarities(x):
        x = x.flatten(1)
        return F.normalize(x @ x.T, dim=1)
    return (similarities(s[0]) - similarities(t[0])).pow(2).sum() / len(s[0]) ** 2


def rkd(s, t, p):
    def relations(x):
        x = x.flatten(1)
        n = len(x)
        lines = x[None] - x[:, None]
        other = ~torch.eye(n, dtype=torch.bool)
        distances = torch.zeros(n, n)
        distances[other] = lines[other].norm(dim=1)
        units = F.normalize(lines, dim=2)
        return distances / distances[other].mean(), torch.einsum('ijd,ikd->ijk', units, units)
    (ds, angles_s), (dt, angles_t) = relations(s[0]), relations(t[0])
    return 25 * F.smooth_l1_loss(ds, dt) + 50 * F.smooth_l1_loss(angles_s, angles_t)


def pkt(s, t, p):
    def probabilities(x):
        x = x.flatten(1)
        x = x / (x.norm(dim=1, keepdim=True) + 1e-7)
        similar = (x @ x.T + 1) / 2
        return similar / similar.sum(1, keepdim=True)
    ps, pt = probabilities(s[0]), probabilities(t[0])
    return (pt * torch.log((pt + 1e-7) / (ps + 1e-7))).mean()


def cc(s, t, p):
    gamma = float(numpy.float32(0.4))

    def kernel(x):
        x = F.normalize(x.flatten(1), dim=1)
        return sum(math.exp(-2 * gamma) * (2 * gamma) ** k / math.factorial(k) * (x @ x.T) ** k for k in range(3))
    return (kernel(s[0]) - kernel(t[0])).pow(2).sum() / len(s[0]) ** 2


def nst(s, t, p):
    fs, ft = F.normalize(s[0].flatten(2), dim=2), F.normalize(t[0].flatten(2), dim=2)

    def kernel(a, b):
        return (a[:, :, None] * b[:, None]).sum(-1).pow(2).mean()
    return kernel(ft, ft) + kernel(fs, fs) - 2 * kernel(fs, ft)


def vid(s, t, p):
    x = s[0]
    for weight in p[:2]:
        x = F.relu(F.conv2d(x, weight[:, :, None, None]))
    mean = F.conv2d(x, p[2][:, :, None, None])
    variance = F.softplus(p[3]) + 1e-5
    return F.gaussian_nll_loss(mean, t[0], variance[None, :, None, None].expand_as(mean), eps=0)


def fsp(s, t, p):
    def flow(a, b):
        return a.flatten(2) @ b.flatten(2).transpose(1, 2) / (a.shape[2] * a.shape[3])
    return F.mse_loss(flow(*s), flow(*t))


def review(s, t, p):
    """Chen et al. 2021: for each level the weights of in, of its normalisation (2), of the gates and their bias (not
    the deepest), of out, of its normalisation (2)."""
    p, value, above, levels = list(p), 0, None, []
    for level in range(len(s)):
        levels.append([p.pop(0) for _ in range(8 if level + 1 < len(s) else 6)])
    for x, wanted, part in reversed(list(zip(s, t, levels))):
        x = F.batch_norm(F.conv2d(x, part[0][:, :, None, None]), None, None, part[1], part[2], training=True)
        if above is not None:
            y = F.interpolate(above, x.shape[2:], mode='nearest')
            gates = torch.sigmoid(F.conv2d(torch.cat([x, y], 1), part[3][:, :, None, None], part[4]))
            x = x * gates[:, :1] + y * gates[:, 1:]
        above = F.interpolate(x, wanted.shape[2:], mode='nearest')
        out = F.batch_norm(F.conv2d(above, part[-3], padding=1), None, None, part[-2], part[-1], training=True)
        loss, share, total = F.mse_loss(out, wanted), 1, 1
        for cells in (4, 2, 1):
            if cells < wanted.shape[2]:  # the height, as in the authors' code
                share, total = share / 2, total + share / 2
                loss = loss + share * F.mse_loss(F.adaptive_avg_pool2d(out, cells),
                                                 F.adaptive_avg_pool2d(wanted, cells))
        value = value + loss / total
    return value


def level(student, teacher, width, gates):
    """Shapes of its learned part."""
    return ([(width, student), (width,), (width,)] + ([(2, 2 * width), (2,)] if gates else []) +
            [(teacher, width, 3, 3), (teacher,), (teacher,)])


def crd(s, t, p):
    es, et = (F.normalize(F.linear(x[0].flatten(1), *part)) for x, part in ((s, p[:2]), (t, p[2:])))
    logits, pairs = es @ et.T / float(numpy.float32(0.07)), torch.arange(len(es))
    return F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)


def minilm(s, t, p):
    """Wang et al. 2021; the most heads that divide both widths."""
    widths = [x[0].shape[1] // 3 for x in (s, t)]
    heads = max(a for a in range(1, 49) if widths[0] % a == 0 and widths[1] % a == 0)
    value = 0
    for x, y in zip(s[0].chunk(3, 1), t[0].chunk(3, 1)):
        relations = []
        for z in (x, y):
            z = z.flatten(2).reshape(len(z), heads, -1, z.shape[2]).transpose(2, 3)
            relations.append(torch.log_softmax(z @ z.transpose(2, 3) / math.sqrt(z.shape[3]), 3))
        kl = F.kl_div(relations[0], relations[1], reduction='none', log_target=True).sum(3)
        value = value + kl.mean()
    return value


def tinybert(s, t, p):
    weight, bias = p
    return sum(F.mse_loss(F.conv2d(x, weight[:, :, None, None], bias), y) for x, y in zip(s, t))


def deit(s, t, p):
    return 9 * F.kl_div(F.log_softmax(s[0].flatten(1) / 3, 1), F.softmax(t[0].flatten(1) / 3, 1),
                        reduction='batchmean')


def deit_hard(s, t, p):
    return F.cross_entropy(s[0].flatten(1), t[0].flatten(1).argmax(1))


# function, kind, shapes of the student, of the teacher, of the learned part, factor
CASES = [
    (hint, 'HINT', [(3, 2, 2, 3)], [(3, 2, 2, 3)], [], 1),
    (hint, 'HINT', [(3, 2, 2, 3)], [(3, 3, 2, 3)], [(3, 2), (3,)], 1),
    (hint, 'HINT', [(4, 5, 1, 1)], [(4, 2, 1, 1)], [(2, 5), (2,)], 1),
    (at, 'AT', [(3, 2, 2, 3)], [(3, 4, 2, 3)], [], 1),
    (at_paper, 'AT_PAPER', [(3, 2, 2, 3)], [(3, 4, 2, 3)], [], 1),
    (sp, 'SP', [(4, 2, 2, 3)], [(4, 3, 1, 2)], [], 1),
    (sp, 'SP', [(2, 7, 1, 1)], [(2, 5, 1, 1)], [], 1),
    (rkd, 'RKD', [(5, 6, 1, 1)], [(5, 2, 2, 1)], [], 1),
    (rkd, 'RKD', [(6, 2, 2, 1)], [(6, 9, 1, 1)], [], 12),
    (pkt, 'PKT', [(4, 2, 2, 3)], [(4, 3, 1, 2)], [], 1),
    (cc, 'CC', [(4, 2, 2, 3)], [(4, 3, 1, 2)], [], 1),
    (nst, 'NST', [(3, 2, 2, 3)], [(3, 4, 2, 3)], [], 1),
    (vid, 'VID', [(3, 2, 2, 3)], [(3, 3, 2, 3)], [(3, 2), (3, 3), (3, 3), (3,)], 1),
    (fsp, 'FSP', [(3, 2, 2, 3), (3, 4, 2, 3)], [(3, 2, 1, 2), (3, 4, 1, 2)], [], 1),
    (review, 'REVIEW', [(3, 2, 2, 3)], [(3, 2, 5, 4)], level(2, 2, 2, False), 1),
    (review, 'REVIEW', [(2, 2, 4, 4), (2, 3, 2, 2), (2, 4, 1, 1)], [(2, 1, 6, 6), (2, 3, 3, 2), (2, 4, 1, 1)],
     level(2, 1, 4, True) + level(3, 3, 4, True) + level(4, 4, 4, False), 1),
    (crd, 'CRD', [(4, 2, 2, 3)], [(4, 5, 1, 1)], [(3, 12), (3,), (3, 5), (3,)], 1),
    (minilm, 'MINILM', [(2, 6, 5, 1)], [(2, 12, 5, 1)], [], 1),
    (minilm, 'MINILM', [(1, 12, 4, 1)], [(1, 27, 4, 1)], [], 1),
    (tinybert, 'TINYBERT', [(2, 3, 4, 1)], [(2, 5, 4, 1)], [(5, 3), (5,)], 1),
    (tinybert, 'TINYBERT', [(2, 3, 4, 1), (2, 3, 2, 2)], [(2, 2, 4, 1), (2, 2, 2, 2)], [(2, 3), (2,)], 1),
    (deit, 'DEIT', [(4, 5, 1, 1)], [(4, 5, 1, 1)], [], 1),
    (deit_hard, 'DEIT_HARD', [(4, 5, 1, 1)], [(4, 5, 1, 1)], [], 12),
]


def array(kind, name, values, form):
    words = [form % v for v in values] or ['0.0']
    if kind == 'float':
        words = [word + ('f' if '.' in word else '.0f') for word in words]
    print('static const %s %s[] = {' % (kind, name))
    print('\n'.join(textwrap.wrap(', '.join(words), 112, initial_indent='    ', subsequent_indent='    ')))
    print('};')


def shapes_of(shapes):
    return '{%s}' % ', '.join('{%d, %d, %d}' % shape[1:] for shape in shapes)


print('/* features.h - made by /usr/bin/python3 features.py > features.h: losses on features by PyTorch */')
print('/* clang-format off */')
array('float', 'golden_students', students, '%g')
array('float', 'golden_teachers', teachers, '%g')
array('float', 'golden_learned', learned, '%g')
rows = []
for index, (function, kind, student, teacher, part, factor) in enumerate(CASES):
    s, t, p = take(students, student), take(teachers, teacher), take(learned, part)
    s[0][-1] *= factor
    for x in s + p:
        x.requires_grad_()
    value = function(s, t, p)
    value.backward()
    array('double', 'golden_grad_%d' % index, torch.cat([x.grad.flatten() for x in s]).tolist(), '%.9g')
    array('double', 'golden_learned_%d' % index, [g for x in p for g in x.grad.flatten().tolist()], '%.9g')
    rows.append('    {KD_FEATURE_%s, %d, %d, %s, %s, %d, %d, %.12g, golden_grad_%d, golden_learned_%d},' % (
        kind, student[0][0], len(student), shapes_of(student), shapes_of(teacher), sum(x.numel() for x in p), factor, value.item(),
        index, index))
print('''typedef struct golden_feature {
    kd_feature_kind kind;
    int n, layers, student[3][3], teacher[3][3], learned, factor;
    double value;
    const double *grad, *learned_grad;
} golden_feature;''')
print('static const golden_feature golden_features[] = {\n%s\n};' % '\n'.join(rows))
image = torch.arange(2 * 3 * 7 * 5).reshape(2, 3, 7, 5).to(torch.float64)
array('double', 'golden_pooled', F.adaptive_avg_pool2d(image, (3, 2)).flatten().tolist(), '%.9g')
