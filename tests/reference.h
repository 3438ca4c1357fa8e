/* reference.h - layers and losses again, in double precision and plain loops, for the tests to compare with
   The layers work on the nodes of a model, but on nothing of how kd.h computes: images are (c, h, w), weights are
   in PyTorch's order, every sum is a loop. */
#ifndef KD_TESTS_REFERENCE_H
#define KD_TESTS_REFERENCE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- layers ---------------------------------------------------------------------------------------------- */

typedef struct reference {
    const kd_model *m;
    double **weights;                 /* by parameter, PyTorch's order; the tests change these */
    double **values;                  /* by value: (n, c, h, w) */
    double **batch_mean, **batch_var; /* by node: what batch normalisation saw; var is biased */
    double penalty;                   /* what a softtree adds to the loss */
    const float *prompt;              /* (n, numbers of the prompt layer), NULL: zeros */
    int n, training;
} reference;

KD__PRIVATE void reference_open(reference *r, const kd_model *m, int n, int training)
{
    int i;
    int64_t j;
    r->m = m;
    r->n = n;
    r->training = training;
    r->penalty = 0;
    r->prompt = NULL;
    r->weights = (double **)calloc((size_t)m->param_count + 1, sizeof(double *));
    r->values = (double **)calloc((size_t)m->value_count, sizeof(double *));
    r->batch_mean = (double **)calloc((size_t)m->node_count, sizeof(double *));
    r->batch_var = (double **)calloc((size_t)m->node_count, sizeof(double *));
    for (i = 0; i < m->param_count; ++i) {
        const int64_t count = kd__param_count(&m->params[i]);
        float *plain = (float *)malloc((size_t)count * sizeof(float));
        kd_model_get_tensor(m, m->params[i].name, plain, count);
        r->weights[i] = (double *)malloc((size_t)count * sizeof(double));
        for (j = 0; j < count; ++j) r->weights[i][j] = (double)plain[j];
        free(plain);
    }
    for (i = 0; i < m->value_count; ++i)
        r->values[i] = (double *)calloc((size_t)(n * kd__shape_count(&m->values[i].shape)), sizeof(double));
    for (i = 0; i < m->node_count; ++i) {
        r->batch_mean[i] =
            (double *)calloc((size_t)kd__shape_count(&m->values[m->nodes[i].in].shape), sizeof(double));
        r->batch_var[i] =
            (double *)calloc((size_t)kd__shape_count(&m->values[m->nodes[i].in].shape), sizeof(double));
    }
}

KD__PRIVATE void reference_close(reference *r)
{
    int i;
    for (i = 0; i < r->m->param_count; ++i) free(r->weights[i]);
    for (i = 0; i < r->m->value_count; ++i) free(r->values[i]);
    for (i = 0; i < r->m->node_count; ++i) free(r->batch_mean[i]), free(r->batch_var[i]);
    free(r->weights);
    free(r->values);
    free(r->batch_mean);
    free(r->batch_var);
}

KD__PRIVATE double reference_act(int act, double arg, double x)
{
    switch (act) {
    case KD__RELU: return x > 0 ? x : 0;
    case KD__RELU6: return x < 0 ? 0 : x > 6 ? 6 : x;
    case KD__LEAKYRELU: return x < 0 ? arg * x : x;
    case KD__GELU: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case KD__SILU: return x / (1 + exp(-x));
    case KD__HARDSWISH: return x * (x < -3 ? 0 : x > 3 ? 6 : x + 3) / 6;
    case KD__SIGMOID: return 1 / (1 + exp(-x));
    case KD__TANH: return tanh(x);
    case KD__GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(8 * atan(1.0)) / (4 * atan(1.0)) * (x + 0.044715 * x * x * x)));
    default: return x;
    }
}

typedef struct reference_window {
    int kh, kw, sh, sw, ph, pw;
} reference_window;

KD__PRIVATE reference_window reference_window_of(const kd__node *n, int first_arg)
{
    reference_window w;
    w.kh = (int)n->arg[first_arg].v[0], w.kw = (int)n->arg[first_arg].v[1];
    w.sh = (int)n->arg[first_arg + 1].v[0], w.sw = (int)n->arg[first_arg + 1].v[1];
    w.ph = (int)n->arg[first_arg + 2].v[0], w.pw = (int)n->arg[first_arg + 2].v[1];
    return w;
}

KD__PRIVATE void reference_conv(const kd__shape *in, const kd__shape *out, reference_window k, int groups,
                                const double *x, const double *weight, const double *bias, double *y)
{
    const int ic = in->c / groups, oc = out->c / groups;
    int o, oy, ox, c, i, j;
    for (o = 0; o < out->c; ++o) {
        for (oy = 0; oy < out->h; ++oy) {
            const int top = oy * k.sh - k.ph, i0 = KD__MAX(0, -top), i1 = KD__MIN(k.kh, in->h - top);
            for (ox = 0; ox < out->w; ++ox) {
                const int left = ox * k.sw - k.pw, j0 = KD__MAX(0, -left), j1 = KD__MIN(k.kw, in->w - left);
                double sum = bias ? bias[o] : 0;
                for (c = 0; c < ic; ++c) {
                    for (i = i0; i < i1; ++i) {
                        const double *row = &x[((o / oc * ic + c) * in->h + top + i) * in->w];
                        const double *taps = &weight[((o * ic + c) * k.kh + i) * k.kw];
                        for (j = j0; j < j1; ++j) sum += row[left + j] * taps[j];
                    }
                }
                y[(o * out->h + oy) * out->w + ox] = sum;
            }
        }
    }
}

KD__PRIVATE void reference_pool(const kd__shape *in, const kd__shape *out, reference_window k, int max,
                                const double *x, double *y)
{
    int c, oy, ox, i, j;
    for (c = 0; c < in->c; ++c) {
        for (oy = 0; oy < out->h; ++oy) {
            for (ox = 0; ox < out->w; ++ox) {
                double best = -1e300, sum = 0;
                for (i = 0; i < k.kh; ++i) {
                    for (j = 0; j < k.kw; ++j) {
                        const int iy = oy * k.sh - k.ph + i, ix = ox * k.sw - k.pw + j;
                        double v;
                        if (iy < 0 || iy >= in->h || ix < 0 || ix >= in->w) continue;
                        v = x[(c * in->h + iy) * in->w + ix];
                        sum += v;
                        if (v > best) best = v;
                    }
                }
                y[(c * out->h + oy) * out->w + ox] = max ? best : sum / (k.kh * k.kw);
            }
        }
    }
}

KD__PRIVATE void reference_norm(reference *r, int node, const double *x, double *y)
{
    const kd__node *n = &r->m->nodes[node];
    const kd__shape *s = &r->m->values[n->in].shape;
    const int channels = s->flat ? (int)kd__shape_count(s) : s->c, pixels = (int)kd__shape_count(s) / channels;
    const double eps = n->arg[KD__NORM_EPS].v[0], total = (double)r->n * pixels;
    int c, i, p;
    for (c = 0; c < channels; ++c) {
        double mean = 0, var = 0;
        for (i = 0; i < r->n; ++i) {
            for (p = 0; p < pixels; ++p) mean += x[(i * channels + c) * pixels + p] / total;
        }
        for (i = 0; i < r->n; ++i) {
            for (p = 0; p < pixels; ++p) {
                const double d = x[(i * channels + c) * pixels + p] - mean;
                var += d * d / total;
            }
        }
        r->batch_mean[node][c] = mean;
        r->batch_var[node][c] = var;
        if (!r->training) mean = r->weights[n->param[2]][c], var = r->weights[n->param[3]][c];
        for (i = 0; i < r->n; ++i) {
            for (p = 0; p < pixels; ++p) {
                const int at = (i * channels + c) * pixels + p;
                y[at] = (x[at] - mean) / sqrt(var + eps) * r->weights[n->param[0]][c] + r->weights[n->param[1]][c];
            }
        }
    }
}

/* Frosst and Hinton 2017: the mixture of the leaves, and equations 4 and 5, node by node. */
KD__PRIVATE void reference_tree(reference *r, int node, const double *a, double *y)
{
    const kd__node *n = &r->m->nodes[node];
    const int leaves = 1 << (int)n->arg[KD__TREE_DEPTH].v[0], classes = (int)n->arg[KD__TREE_CLASSES].v[0];
    const double *beta = r->weights[n->param[0]], *phi = r->weights[n->param[1]];
    double *mass = (double *)calloc((size_t)leaves * 4, sizeof *mass), *p = mass + 2 * leaves;
    int i, j, c, depth;
    for (i = 0; i < r->n; ++i, a += leaves - 1, y += classes) {
        for (c = 0; c < classes; ++c) y[c] = 0;
        for (j = 0, p[0] = 1; j < 2 * leaves - 1; ++j) {
            mass[j] += p[j];
            if (j < leaves - 1) {
                const double right = 1 / (1 + exp(-beta[j] * a[j]));
                p[2 * j + 2] = p[j] * right;
                p[2 * j + 1] = p[j] * (1 - right);
            } else {
                const double *row = phi + (j - leaves + 1) * classes;
                double sum = 0;
                for (c = 0; c < classes; ++c) sum += exp(row[c]);
                for (c = 0; c < classes; ++c) y[c] += p[j] * exp(row[c]) / sum;
            }
        }
        for (c = 0; c < classes; ++c) y[c] = log(y[c]);
    }
    r->penalty = 0;
    for (depth = 0, j = 0; j < leaves - 1; ++j) {
        const double share = mass[2 * j + 2] / mass[j];
        while (j >= (2 << depth) - 1) ++depth;
        r->penalty -= n->arg[KD__TREE_PENALTY].v[0] * pow(2, -depth) * 0.5 * (log(share) + log(1 - share));
    }
    free(mass);
}

/* Sequences are (c, h, 1): number c of token h is at c * tokens + h. */
KD__PRIVATE void reference_layernorm(const kd__shape *in, double eps, const double *x, const double *w,
                                     const double *b, double *y)
{
    const int tokens = in->flat ? 1 : in->h, width = (int)kd__shape_count(in) / tokens;
    int t, c;
    for (t = 0; t < tokens; ++t) {
        double mean = 0, var = 0;
        for (c = 0; c < width; ++c) mean += x[c * tokens + t] / width;
        for (c = 0; c < width; ++c) var += (x[c * tokens + t] - mean) * (x[c * tokens + t] - mean) / width;
        for (c = 0; c < width; ++c) y[c * tokens + t] = (x[c * tokens + t] - mean) / sqrt(var + eps) * w[c] + b[c];
    }
}

/* softmax(q k^T / sqrt(size)) v, head by head and token by token */
/* Whether sample i has a prompt. */
KD__PRIVATE int reference_prompted(const reference *r, int i)
{
    int k, given = 0;
    for (k = 0; r->prompt && k < r->m->prompt; ++k) given |= r->prompt[i * r->m->prompt + k] != 0;
    return given;
}

/* How many tokens of a value of sample i are no padding: all, of a value that no ids stand behind, but for those of
   a prompt that is missing. */
KD__PRIVATE int reference_real(const reference *r, int value, int i)
{
    const kd__value *v = &r->m->values[value];
    const int side = reference_prompted(r, i) ? v->side : 0;
    const int length = (int)kd__shape_count(&r->m->values[r->m->input].shape);
    const double *ids = r->values[r->m->input] + (ptrdiff_t)i * length;
    int last = -1, t;
    if (!v->stride) return v->shape.h - v->side + side;
    for (t = 0; t < length; ++t) {
        if (ids[t] != 0) last = t;
    }
    return (last < 0 ? v->lead : v->lead + last / v->stride + 1) + side;
}

/* Of padding, from `real` on, nobody sees anything, and it sees nothing. */
KD__PRIVATE void reference_attention(const kd__shape *in, int heads, int causal, int real, const double *x,
                                     double *y)
{
    const int tokens = in->h, width = in->c / 3, size = width / heads;
    double *p = (double *)malloc((size_t)tokens * sizeof *p);
    int head, i, j, c;
    for (head = 0; head < heads; ++head) {
        const double *q = x + head * size * tokens, *k = q + width * tokens, *v = k + width * tokens;
        for (i = 0; i < tokens; ++i) {
            const int seen = i >= real ? 0 : causal ? i + 1 : real;
            double largest = -1e300, sum = 0;
            for (j = 0; j < seen; ++j) {
                for (c = 0, p[j] = 0; c < size; ++c)
                    p[j] += q[c * tokens + i] * k[c * tokens + j] / sqrt((double)size);
                largest = KD__MAX(largest, p[j]);
            }
            for (j = 0; j < seen; ++j) p[j] = exp(p[j] - largest), sum += p[j];
            for (c = 0; c < size; ++c) {
                double *to = &y[(head * size + c) * tokens + i];
                for (j = 0, *to = 0; j < seen; ++j) *to += p[j] / sum * v[c * tokens + j];
            }
        }
    }
    free(p);
}

/* Layers over tokens that only move numbers, and position. Returns 0 for others. */
KD__PRIVATE int reference_tokens(const kd__node *n, const kd__shape *in, int real, const double *x, const double *w,
                                 double *y)
{
    const kd__layer_type *type = &kd__layer_types[n->type];
    const int tokens = in->h, learned = n->args == KD__TOKEN_ARGS;
    const int place = learned ? (int)n->arg[KD__TOKEN_PLACE].v[0] : 0,
              count = learned ? (int)n->arg[KD__TOKEN_COUNT].v[0] : 0;
    int t, c;
    for (c = 0; c < in->c; ++c, x += tokens) {
        if (type->build == kd__classtoken_build || type->build == kd__disttoken_build ||
            type->build == kd__prompttokens_build) {
            for (t = 0; t < tokens + count; ++t)
                *y++ = t < place ? x[t] : t < place + count ? w[(t - place) * in->c + c] : x[t - count];
        } else if (type->build == kd__position_build) {
            for (t = 0; t < tokens; ++t) *y++ = x[t] + w[t * in->c + c];
        } else if (type->build == kd__token_build) {
            *y++ = x[(int)n->arg[KD__TOKEN_K].v[0]];
        } else if (type->build == kd__meanpool_build) {
            for (t = 0, *y = 0; t < real; ++t) *y += x[t] / real;
            ++y;
        } else {
            return 0;
        }
    }
    return 1;
}

/* Tokens made of a prompt, behind those of sample i that are no padding. */
KD__PRIVATE void reference_sidetokens(const reference *r, const kd__node *n, int i, const double *x,
                                      const double *w, const double *b, double *y)
{
    const kd__shape *in = &r->m->values[n->in].shape;
    const int tokens = (int)n->arg[KD__SIDE_TOKENS].v[0], numbers = r->m->prompt, given = reference_prompted(r, i);
    const int place = given ? reference_real(r, n->in, i) : in->h;
    int t, c, k;
    for (c = 0; c < in->c; ++c, x += in->h) {
        for (t = 0; t < in->h + tokens; ++t, ++y) {
            const int row = (t - place) * in->c + c, made = t >= place && t < place + tokens;
            *y = !made ? x[t < place ? t : t - tokens] : given ? b[row] : 0;
            for (k = 0; made && given && k < numbers; ++k)
                *y += w[row * numbers + k] * (double)r->prompt[i * numbers + k];
        }
    }
}

/* Dropout is left out: its mask is random by design and has tests of its own. */
KD__PRIVATE void reference_sample(reference *r, int node, int i)
{
    const kd__node *n = &r->m->nodes[node];
    const kd__shape *in = &r->m->values[n->in].shape, *out = &r->m->values[n->out].shape;
    const int64_t in_count = kd__shape_count(in), out_count = kd__shape_count(out);
    const double *x = r->values[n->in] + i * in_count, *w = n->param[0] >= 0 ? r->weights[n->param[0]] : NULL;
    const double *b = n->param[1] >= 0 ? r->weights[n->param[1]] : NULL;
    double *y = r->values[n->out] + i * out_count;
    const kd__layer_type *t = &kd__layer_types[n->type];
    int64_t o, c;
    if (n->act) {
        for (o = 0; o < out_count; ++o) y[o] = reference_act(n->act, (double)n->act_arg, x[o]);
    } else if (t->build == kd__dense_build) {
        for (o = 0; o < out_count; ++o) {
            y[o] = b ? b[o] : 0;
            for (c = 0; c < in_count; ++c) y[o] += w[o * in_count + c] * x[c];
        }
    } else if (t->build == kd__conv_build) {
        reference_conv(in, out, reference_window_of(n, KD__CONV_KERNEL), (int)n->arg[KD__CONV_GROUPS].v[0], x, w, b,
                       y);
    } else if (t->build == kd__depthwise_build) {
        reference_conv(in, out, reference_window_of(n, KD__DEPTHWISE_KERNEL), in->c, x, w, b, y);
    } else if (t->build == kd__pool_build || t->build == kd__gap_build) {
        reference_pool(in, out, reference_window_of(n, KD__POOL_KERNEL), strcmp(t->word, "maxpool") == 0, x, y);
    } else if (t->build == kd__linear_build) {
        reference_window one = {1, 1, 1, 1, 0, 0};
        reference_conv(in, out, one, 1, x, w, b, y);
    } else if (t->build == kd__layernorm_build) {
        reference_layernorm(in, n->arg[KD__LAYERNORM_EPS].v[0], x, w, b, y);
    } else if (t->build == kd__attention_build) {
        reference_attention(in, (int)n->arg[KD__ATTENTION_HEADS].v[0], n->arg[KD__ATTENTION_CAUSAL].v[0] != 0,
                            reference_real(r, n->in, i), x, y);
    } else if (t->build == kd__sidetokens_build) {
        reference_sidetokens(r, n, i, x, w, b, y);
    } else if (t->build == kd__embed_build) {
        for (o = 0; o < out_count; ++o) /* (c, h) of (vocabulary, c) */
            y[o] = w[(int64_t)x[o % out->h] * out->c + o / out->h] * (x[o % out->h] != 0);
    } else if (reference_tokens(n, in, reference_real(r, n->in, i), x, w, y)) {
    } else if (t->build == kd__concat_build) { /* one after the other, as PyTorch has them in memory */
        for (o = 0; o < n->inputs; ++o) {
            const int value = kd__input(r->m, n, (int)o);
            const int64_t count = kd__shape_count(&r->m->values[value].shape);
            for (c = 0; c < count; ++c) *y++ = r->values[value][i * count + c];
        }
    } else if (t->build == kd__add_build) {
        for (o = 0; o < out_count; ++o) y[o] = x[o] + r->values[kd__input(r->m, n, 1)][i * out_count + o];
    } else {
        for (o = 0; o < out_count; ++o)
            y[o] = o < in_count ? x[o]
                   : r->prompt  ? (double)r->prompt[i * (out_count - in_count) + o - in_count]
                                : 0;
    }
}

/* The nodes from `first` on, again, after a change of their weights. The logits are r->values[m->output]. */
KD__PRIVATE const double *reference_run_from(reference *r, int first)
{
    int i, node;
    for (node = first; node < r->m->node_count; ++node) {
        const kd__node *n = &r->m->nodes[node];
        if (kd__layer_types[n->type].build == kd__norm_build)
            reference_norm(r, node, r->values[n->in], r->values[n->out]);
        else if (kd__layer_types[n->type].build == kd__tree_build)
            reference_tree(r, node, r->values[n->in], r->values[n->out]);
        else
            for (i = 0; i < r->n; ++i) reference_sample(r, node, i);
    }
    return r->values[r->m->output];
}

/* The node that a tensor belongs to. */
KD__PRIVATE int reference_node_of(const kd_model *m, int tensor)
{
    int node = 0;
    while (m->nodes[node].param[0] != tensor && m->nodes[node].param[1] != tensor) ++node;
    return node;
}

KD__PRIVATE const double *reference_run(reference *r, const float *x)
{
    const int64_t input = kd__shape_count(&r->m->values[r->m->input].shape);
    int64_t j;
    for (j = 0; j < r->n * input; ++j) r->values[r->m->input][j] = (double)x[j];
    return reference_run_from(r, 0);
}

/* ---- losses ---------------------------------------------------------------------------------------------- */

KD__PRIVATE double reference_softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

/* log softmax(x / t) of one row */
KD__PRIVATE void reference_log_softmax(const double *x, int cols, double t, double *y)
{
    double largest = x[0], sum = 0, log_sum;
    int c;
    for (c = 1; c < cols; ++c) largest = x[c] > largest ? x[c] : largest;
    for (c = 0; c < cols; ++c) sum += exp((x[c] - largest) / t);
    log_sum = log(sum);
    for (c = 0; c < cols; ++c) y[c] = (x[c] - largest) / t - log_sum;
}

/* T^2 * KL(p_t^T || p_s^T), its gradient times weight added to grad */
KD__PRIVATE double reference_kl(const double *s, const double *t, int cols, double temperature, double weight,
                                double *grad)
{
    double *log_s = (double *)malloc((size_t)cols * 2 * sizeof *log_s), *log_t = log_s + cols, sum = 0;
    int c;
    reference_log_softmax(s, cols, temperature, log_s);
    reference_log_softmax(t, cols, temperature, log_t);
    for (c = 0; c < cols; ++c) {
        const double p_t = exp(log_t[c]);
        sum += p_t * (log_t[c] - log_s[c]);
        grad[c] += weight * temperature * (exp(log_s[c]) - p_t);
    }
    free(log_s);
    return temperature * temperature * sum;
}

/* -sum q log p_s */
KD__PRIVATE double reference_ce(const double *s, const double *q, int cols, double weight, double *grad)
{
    double *log_s = (double *)malloc((size_t)cols * sizeof *log_s), value = 0, total = 0;
    int c;
    reference_log_softmax(s, cols, 1, log_s);
    for (c = 0; c < cols; ++c) value -= q[c] * log_s[c], total += q[c];
    for (c = 0; c < cols; ++c) grad[c] += weight * (total * exp(log_s[c]) - q[c]);
    free(log_s);
    return value;
}

/* One row of kd_loss. teacher and soft_labels may be NULL. Writes the gradient divided by `rows`. */
KD__PRIVATE double reference_loss_row(const kd_loss_desc *desc, int cols, const double *s, const double *teacher,
                                      const double *soft_labels, int32_t label, int rows, double *grad)
{
    const double t = (double)desc->temperature, e = (double)desc->label_smoothing, alpha = (double)desc->alpha;
    const int binary = desc->kind == KD_LOSS_BCE;
    double soft = desc->kind == KD_LOSS_CE || !teacher ? 0 : 1, hard = 1 - soft, value = 0;
    double *q = (double *)malloc((size_t)cols * sizeof *q);
    int c;
    if (teacher && (binary || desc->kind == KD_LOSS_HINTON)) soft = alpha, hard = 1 - alpha;
    if (desc->reduction == KD_REDUCTION_ELEMENTS) soft /= cols;
    if (label == KD_UNLABELLED && !soft_labels) hard = 0;
    for (c = 0; c < cols; ++c) {
        q[c] = soft_labels ? soft_labels[c] : binary && cols == 1 ? label == 1 : label == c;
        q[c] = (1 - e) * q[c] + e / (binary ? 2 : cols);
        grad[c] = 0;
    }
    for (c = 0; c < cols && desc->kind == KD_LOSS_MSE; ++c) {
        value += soft * (s[c] - teacher[c]) * (s[c] - teacher[c]);
        grad[c] = soft * 2 * (s[c] - teacher[c]) / rows;
    }
    for (c = 0; c < cols && binary; ++c) {
        value += hard * (reference_softplus(s[c]) - s[c] * q[c]);
        grad[c] += hard * (1 / (1 + exp(-s[c])) - q[c]) / rows;
        if (teacher) {
            const double u = s[c] / t, v = teacher[c] / t, p = 1 / (1 + exp(-v));
            value += soft * t * t * p * (reference_softplus(-u) - reference_softplus(-v));
            value += soft * t * t * (1 - p) * (reference_softplus(u) - reference_softplus(v));
            grad[c] += soft * t * (1 / (1 + exp(-u)) - p) / rows;
        }
    }
    if (!binary && desc->kind != KD_LOSS_MSE) {
        if (soft != 0) value += soft * reference_kl(s, teacher, cols, t, soft / rows, grad);
        if (hard != 0) value += hard * reference_ce(s, q, cols, hard / rows, grad);
    }
    free(q);
    return value;
}

#endif /* KD_TESTS_REFERENCE_H */
