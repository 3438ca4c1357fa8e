#!/usr/bin/env python3
"""Writes bert.h: logits of Hugging Face's BERT and DistilBERT, under the names that their state dicts have. Nothing is
downloaded: weights are those of value(k, i), as in sequence.py.

    python3 bert.py > bert.h        (torch 2.15, transformers 5.24)

Both have a longer table of positions than texts. A text's attention mask is 1 for ids other than 0. BertModel's
tensors are listed from the last to the first, and its output is that of the pooler.
"""
import textwrap

import torch
from transformers import (BertConfig, BertForSequenceClassification, BertModel, DistilBertConfig,
                          DistilBertForSequenceClassification)

VOCABULARY, LENGTH, POSITIONS, WIDTH, HEADS, HIDDEN, DEPTH, CLASSES = 12, 9, 16, 8, 2, 16, 2, 3
LENGTHS = [9, 5, 1, 7]


def value(k, i):
    return ((i * 7919 + k * 104729 + i * i % 31 * 577) % 2001 - 1000) / 1000.


def fill(tensor, k, scale, offset):
    numbers = torch.tensor([value(k, i) for i in range(tensor.numel())], dtype=torch.float32)
    numbers = numbers * torch.tensor(scale, dtype=torch.float32) + torch.tensor(offset, dtype=torch.float32)
    tensor.data.copy_(numbers.reshape(tensor.shape))


def numbers(name, tensor):
    print('static const double %s[] = {' % name)
    print('\n'.join(textwrap.wrap(', '.join('%.9g' % v for v in tensor.detach().flatten().tolist()), 112,
                                  initial_indent='    ', subsequent_indent='    ')))
    print('};')


def write(name, net, backwards=False):
    net = net.double().eval()
    items = list(net.named_parameters())
    print('static const golden_tensor %s[] = {' % name)
    for k, (key, tensor) in enumerate(reversed(items) if backwards else items):
        norm = 'norm' in key.lower() and key.endswith('weight')
        scale, offset = (0.25, 1.) if norm else (0.5, 0.)
        fill(tensor, k, scale, offset)
        sizes = list(tensor.shape)
        print('    {"%s", %d, {%s}, %sf, %sf},' % (key, len(sizes), ', '.join(map(str, sizes)), scale, offset))
    print('};')
    with torch.no_grad():
        out = net(input_ids=ids, attention_mask=(ids != 0).long())
    numbers(name + '_logits', out.pooler_output if backwards else out.logits)


ids = torch.tensor([[1 + (5 * i + 3 * j + i * j) % (VOCABULARY - 1) if j < n else 0 for j in range(LENGTH)]
                    for i, n in enumerate(LENGTHS)])
bert = BertConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
                  intermediate_size=HIDDEN, max_position_embeddings=POSITIONS, num_labels=CLASSES)
distilbert = DistilBertConfig(vocab_size=VOCABULARY, dim=WIDTH, n_layers=DEPTH, n_heads=HEADS, hidden_dim=HIDDEN,
                              max_position_embeddings=POSITIONS, num_labels=CLASSES)
print('/* Written by bert.py: do not edit. */')
print('/* clang-format off */')
print('enum { BERT_TEXTS = %d, BERT_LENGTH = %d };' % (len(LENGTHS), LENGTH))
print('static const uint8_t bert_ids[] = {\n    %s\n};' % ', '.join(str(v) for v in ids.flatten().tolist()))
write('bert', BertForSequenceClassification(bert))
write('distilbert', DistilBertForSequenceClassification(distilbert))
write('bert_model', BertModel(bert), backwards=True)
