/* The losses after bce, and what goes with every loss: standardisation, knowledge adjustment, weights, conventions,
   sums of several. Against PyTorch, a double-precision reference and finite differences; what must be equal by the
   formulas; limits; repeatability; what is refused; training. */
#include "support.h"
#include "golden/methods.h"

/* Rows of soft labels do not sum to 1 here, so that a sum that is forgotten shows. kd_loss itself refuses them. */
#define kd_loss kd__loss_of_rows

/* ---- problems -------------------------------------------------------------------------------------------- */

enum { MAX_ROWS = 40, MAX_COLS = 40, MAX_COUNT = 1600 };

/* The arguments of one call. */
typedef struct problem {
    const char *name;
    kd_loss_desc desc;
    int rows, cols, has_teacher;
    float student[MAX_COUNT], teacher[MAX_COUNT], soft_labels[MAX_COUNT];
    int32_t labels[MAX_ROWS];
} problem;

static int needs_teacher(kd_loss_kind kind)
{
    return kind != KD_LOSS_CE && kind != KD_LOSS_TFKD && kind != KD_LOSS_CSKD;
}

static kd_loss_desc desc_of(const golden_method *m)
{
    kd_loss_desc desc = kd_loss_defaults(m->kind);
    desc.temperature = m->temperature;
    desc.alpha = m->alpha;
    desc.label_smoothing = m->smoothing;
    desc.reduction = m->reduction;
    desc.soft_weight = m->soft_weight;
    desc.hard_weight = m->hard_weight;
    desc.beta = m->beta;
    desc.gamma = m->gamma;
    desc.certainty = m->certainty;
    desc.standardise = m->standardise;
    desc.adjust = m->adjust;
    desc.convention = m->convention;
    return desc;
}

static problem *problem_of(const golden_method *m, int rows, int cols)
{
    problem *p = (problem *)calloc(1, sizeof *p);
    int r;
    p->name = m->name;
    p->rows = rows;
    p->cols = cols;
    p->has_teacher = needs_teacher(m->kind);
    p->desc = desc_of(m);
    if (m->soft_labels) p->desc.soft_labels = p->soft_labels;
    for (r = 0; r < rows; ++r) p->labels[r] = m->unlabelled && r % 3 == 1 ? KD_UNLABELLED : (7 * r + 3) % cols;
    return p;
}

static void fill(float *x, uint64_t seed, int count, float scale, float shift)
{
    float *numbers = test_floats(seed, (size_t)count, scale);
    int i;
    for (i = 0; i < count; ++i) x[i] = numbers[i] + shift;
    free(numbers);
}

static problem *random_problem(const golden_method *m, int rows, int cols)
{
    const uint64_t seed = (uint64_t)(rows * 100 + cols);
    problem *p = problem_of(m, rows, cols);
    fill(p->student, seed, rows * cols, 4, 0);
    fill(p->teacher, seed + 1, rows * cols, 5, 0);
    fill(p->soft_labels, seed + 2, rows * cols, 0.5f, 0.5f);
    return p;
}

static problem *default_problem(kd_loss_kind kind, int rows, int cols)
{
    static golden_method m;
    const kd_loss_desc desc = kd_loss_defaults(kind);
    problem *p;
    memset(&m, 0, sizeof m);
    m.kind = kind;
    m.name = kd_loss_name(kind);
    p = random_problem(&m, rows, cols);
    p->desc = desc;
    return p;
}

static kd_result solve_result(kd_ctx *kd, const problem *p, float *grad, double *value)
{
    return kd_loss(kd, &p->desc, p->student, p->has_teacher ? p->teacher : NULL, p->labels, p->rows, p->cols, grad,
                   value);
}

static double solve(kd_ctx *kd, const problem *p, float *grad)
{
    double value = -1;
    if (solve_result(kd, p, grad, &value) != KD_OK) fail_msg("%s: %s", p->name, kd_error(kd));
    return value;
}

/* ---- the same in double precision, by the definitions ---------------------------------------------------- */

typedef struct reference {
    const problem *p;
    double s[MAX_COUNT], t[MAX_COUNT]; /* logits, adjusted and standardised */
    double constant[MAX_COUNT];        /* the student's, where a term takes them as constants */
    double ps[MAX_COUNT], pt[MAX_COUNT];
    int label[MAX_ROWS];
    int replaced[MAX_ROWS];
} reference;

static int largest_of(const float *x, int n)
{
    int best = 0, i;
    for (i = 1; i < n; ++i) best = x[i] > x[best] ? i : best;
    return best;
}

static void reference_standardise(double *x, int n)
{
    double mean = 0, square = 0;
    int i;
    for (i = 0; i < n; ++i) mean += x[i] / n;
    for (i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
    for (i = 0; i < n; ++i) x[i] = (x[i] - mean) / (sqrt(square / (n - 1)) + 1e-7);
}

static double certain(const problem *p, int label, int c)
{
    const double certainty = (double)p->desc.certainty;
    return c == label ? certainty : (1 - certainty) / (p->cols - 1);
}

static void reference_softmax(const double *x, int n, double t, double *y)
{
    double largest = x[0], sum = 0;
    int i;
    for (i = 1; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
    for (i = 0; i < n; ++i) sum += y[i] = exp((x[i] - largest) / t);
    for (i = 0; i < n; ++i) y[i] /= sum;
}

/* Everything that a term starts from, for the student logits x. */
static reference *reference_open(const problem *p, const double *x)
{
    reference *f = (reference *)calloc(1, sizeof *f);
    const int cols = p->cols;
    int r, c;
    f->p = p;
    for (r = 0; r < p->rows; ++r) {
        const float *soft = p->soft_labels + r * cols, *teacher = p->teacher + r * cols;
        const int best = largest_of(teacher, cols);
        int wrong;
        f->label[r] = p->desc.soft_labels ? largest_of(soft, cols) : p->labels[r];
        for (c = 0; c < cols; ++c) {
            f->s[r * cols + c] = x[r * cols + c];
            f->t[r * cols + c] = (double)teacher[c];
            f->constant[r * cols + c] = (double)p->student[r * cols + c];
        }
        wrong = f->label[r] >= 0 && best != f->label[r];
        if (wrong && p->desc.adjust == KD_ADJUST_SHIFT) {
            f->t[r * cols + best] = (double)teacher[f->label[r]];
            f->t[r * cols + f->label[r]] = (double)teacher[best];
        }
        f->replaced[r] = wrong && p->desc.adjust == KD_ADJUST_SMOOTH;
        if (p->desc.standardise) {
            reference_standardise(f->s + r * cols, cols);
            reference_standardise(f->t + r * cols, cols);
            reference_standardise(f->constant + r * cols, cols);
        }
    }
    return f;
}

static void reference_probs(reference *f, double t)
{
    const int cols = f->p->cols;
    int r, c;
    for (r = 0; r < f->p->rows; ++r) {
        reference_softmax(f->s + r * cols, cols, t, f->ps + r * cols);
        reference_softmax(f->t + r * cols, cols, t, f->pt + r * cols);
        for (c = 0; f->replaced[r] && c < cols; ++c) f->pt[r * cols + c] = certain(f->p, f->label[r], c);
    }
}

static double divergence(const double *p, const double *q, int n)
{
    double sum = 0;
    int i;
    for (i = 0; i < n; ++i) sum += p[i] > 0 ? p[i] * log(p[i] / q[i]) : 0;
    return sum;
}

/* Probabilities of the classes other than y; returns how many. */
static int without(const double *p, int n, int y, double *q)
{
    double sum = 0;
    int i, count = 0;
    for (i = 0; i < n; ++i) sum += i == y ? 0 : p[i];
    for (i = 0; i < n; ++i) {
        if (i != y) q[count++] = p[i] / sum;
    }
    return count;
}

static double pearson(const double *a, const double *b, int step, int n)
{
    double ma = 0, mb = 0, aa = 0, ab = 0, bb = 0;
    int i;
    for (i = 0; i < n; ++i) ma += a[i * step] / n, mb += b[i * step] / n;
    for (i = 0; i < n; ++i) {
        aa += (a[i * step] - ma) * (a[i * step] - ma);
        ab += (a[i * step] - ma) * (b[i * step] - mb);
        bb += (b[i * step] - mb) * (b[i * step] - mb);
    }
    return bb > 1e-24 ? ab / sqrt(aa * bb) : 0;
}

/* The soft term of row r with the probabilities at T. */
static double reference_row(const reference *f, int r)
{
    const problem *p = f->p;
    const int n = p->cols, y = f->label[r], at = r * n;
    const double T = (double)p->desc.temperature, a = (double)p->desc.alpha, b = (double)p->desc.beta,
                 g = (double)p->desc.gamma;
    const double *s = f->ps + at, *t = f->pt + at;
    double q[MAX_COLS], v[MAX_COLS], sum = 0, mean = 0;
    int c;
    switch (p->desc.kind) {
    case KD_LOSS_RKL: return T * T * divergence(s, t, n);
    case KD_LOSS_JSD:
        for (c = 0; c < n; ++c) q[c] = b * t[c] + (1 - b) * s[c];
        return T * T * (b * divergence(t, q, n) + (1 - b) * divergence(s, q, n));
    case KD_LOSS_SOFT_CE:
        for (c = 0; c < n; ++c) sum -= t[c] * log(s[c]);
        return T * T * sum;
    case KD_LOSS_MSE:
    case KD_LOSS_CENTRED_MSE:
        for (c = 0; c < n && p->desc.kind == KD_LOSS_CENTRED_MSE; ++c) mean += (f->s[at + c] - f->t[at + c]) / n;
        for (c = 0; c < n; ++c) sum += pow(f->s[at + c] - f->t[at + c] - mean, 2);
        return sum;
    case KD_LOSS_TFKD:
        for (c = 0; c < n; ++c) q[c] = certain(p, y, c);
        reference_softmax(q, n, T, v);
        reference_softmax(f->s + at, n, 1, q);
        return divergence(v, q, n);
    case KD_LOSS_DKD:
        sum = t[y] * log(t[y] / s[y]) + (1 - t[y]) * log((1 - t[y]) / (1 - s[y]));
        without(s, n, y, q);
        c = without(t, n, y, v);
        return T * T * (a * sum + b * divergence(v, q, c));
    case KD_LOSS_NKD: {
        double one_s[MAX_COLS], one_t[MAX_COLS];
        reference_softmax(f->s + at, n, 1, one_s);
        reference_softmax(f->t + at, n, 1, one_t);
        if (f->replaced[r]) one_t[y] = certain(p, y, y);
        without(s, n, y, q);
        without(t, n, y, v);
        for (c = 0; c < n - 1; ++c) sum -= v[c] * log(q[c]);
        return -one_t[y] * log(one_s[y]) + g * T * T * sum;
    }
    case KD_LOSS_TTM:
    case KD_LOSS_WTTM:
        for (c = 0; c < n; ++c) v[c] = f->replaced[r] ? log(certain(p, y, c)) : f->t[at + c];
        reference_softmax(v, n, 1, q);
        for (c = 0; c < n; ++c) sum += v[c] = pow(q[c], g);
        for (c = 0; c < n; ++c) v[c] /= sum;
        reference_softmax(f->s + at, n, 1, q);
        return (p->desc.kind == KD_LOSS_WTTM ? sum : 1) * divergence(v, q, n);
    case KD_LOSS_CSKD:
        for (c = 1; c < p->rows && f->label[(r + c) % p->rows] != y; ++c) {}
        if (c >= p->rows) return 0;
        reference_softmax(f->constant + (r + c) % p->rows * n, n, T, q);
        return T * T * divergence(q, s, n);
    default: return T * T * divergence(t, s, n);
    }
}

static double reference_soft(reference *f)
{
    const problem *p = f->p;
    const int rows = p->rows, cols = p->cols;
    const double b = (double)p->desc.beta, g = (double)p->desc.gamma;
    double T = (double)p->desc.temperature, sum = 0;
    int i, j, k, r;
    reference_probs(f, T);
    if (p->desc.kind == KD_LOSS_DIST) {
        for (i = 0; i < rows; ++i) sum += b * (1 - pearson(f->ps + i * cols, f->pt + i * cols, 1, cols)) / rows;
        for (i = 0; i < cols && rows > 1; ++i) sum += g * (1 - pearson(f->ps + i, f->pt + i, cols, rows)) / cols;
        return T * T * sum;
    }
    if (p->desc.kind != KD_LOSS_MLLD) {
        for (r = 0; r < rows; ++r) sum += reference_row(f, r) / rows;
        return sum;
    }
    for (k = 0; k < p->desc.temperature_count; ++k) {
        T = (double)p->desc.temperatures[k];
        reference_probs(f, T);
        for (r = 0; r < rows; ++r) sum += T * T * divergence(f->pt + r * cols, f->ps + r * cols, cols) / rows;
        for (i = 0; i < cols; ++i) {
            for (j = 0; j < cols; ++j) {
                double m = 0;
                for (r = 0; r < rows; ++r)
                    m += f->ps[r * cols + i] * f->ps[r * cols + j] - f->pt[r * cols + i] * f->pt[r * cols + j];
                sum += b / cols * m * m;
            }
        }
        for (i = 0; i < rows; ++i) {
            for (j = 0; j < rows; ++j) {
                double m = 0;
                for (r = 0; r < cols; ++r)
                    m += f->ps[i * cols + r] * f->ps[j * cols + r] - f->pt[i * cols + r] * f->pt[j * cols + r];
                sum += g / rows * m * m;
            }
        }
    }
    return sum;
}

/* Sigmoids instead of a softmax. */
static double reference_bce(const problem *p, const double *x)
{
    const kd_loss_desc *d = &p->desc;
    const double e = (double)d->label_smoothing, T = (double)d->temperature;
    const double alpha = p->has_teacher ? (double)d->alpha : 0;
    double sum = 0;
    int r, c;
    for (r = 0; r < p->rows; ++r) {
        for (c = 0; c < p->cols; ++c) {
            const int at = r * p->cols + c;
            const double hot = d->soft_labels ? (double)p->soft_labels[at]
                               : p->cols == 1 ? p->labels[r]
                                              : c == p->labels[r];
            const double q = (1 - e) * hot + e / 2, one = 1 / (1 + exp(-x[at])), ps = 1 / (1 + exp(-x[at] / T));
            const double pt = 1 / (1 + exp(-(double)p->teacher[at] / T));
            sum -= (1 - alpha) * (q * log(one) + (1 - q) * log(1 - one)) / p->rows;
            sum += alpha * T * T * (pt * log(pt / ps) + (1 - pt) * log((1 - pt) / (1 - ps))) / p->rows;
        }
    }
    return sum;
}

/* The terms and, separately, what they are multiplied by. */
static double reference_value(const problem *p, const double *x)
{
    const kd_loss_desc *d = &p->desc;
    const int alone = d->kind == KD_LOSS_HINTON || d->kind == KD_LOSS_TFKD;
    const double e = (double)d->label_smoothing, T = (double)d->temperature;
    double alpha = (double)d->alpha, soft_weight = (double)d->soft_weight, soft, hard = 0;
    reference *f;
    int r, c;
    if (d->kind == KD_LOSS_BCE) return reference_bce(p, x);
    f = reference_open(p, x);
    soft = reference_soft(f);
    for (r = 0; r < p->rows; ++r) {
        double q[MAX_COLS];
        reference_softmax(x + r * p->cols, p->cols, 1, q);
        for (c = 0; c < p->cols && (d->soft_labels || p->labels[r] >= 0); ++c) {
            const double hot = d->soft_labels ? (double)p->soft_labels[r * p->cols + c] : c == p->labels[r];
            hard -= ((1 - e) * hot + e / p->cols) * log(q[c]) / p->rows;
        }
    }
    free(f);
    if (d->kind == KD_LOSS_CE) return hard;
    if (d->reduction == KD_REDUCTION_ELEMENTS || d->convention == KD_CONVENTION_TFKD) soft_weight /= p->cols;
    if (d->convention == KD_CONVENTION_TEXTBREWER) soft_weight /= T * T;
    if (d->convention == KD_CONVENTION_TORCHDISTILL) {
        if (d->kind != KD_LOSS_HINTON || alpha == 0) soft_weight /= T * T;
        alpha = 1 - alpha;
    }
    if (alone) return alpha * soft_weight * soft + (1 - alpha) * hard;
    return soft_weight * soft + (double)d->hard_weight * hard;
}

/* By differences of fourth order. */
static void reference_gradient(const problem *p, double *x, double *grad)
{
    static const double at[] = {-2, -1, 1, 2}, step = 1e-4;
    int k, n;
    for (k = 0; k < p->rows * p->cols; ++k) {
        const double middle = x[k];
        double d[4];
        for (n = 0; n < 4; ++n) {
            x[k] = middle + at[n] * step;
            d[n] = reference_value(p, x);
        }
        x[k] = middle;
        grad[k] = (8 * (d[2] - d[1]) - (d[3] - d[0])) / (12 * step);
    }
}

/* ---- values and gradients -------------------------------------------------------------------------------- */

/* Those in double precision are as good as a double (values) and a float (gradients); those of the kernels as
   their own tests say. */
static void compare(kd_ctx *kd, const problem *p, double value, const float *grad, double wanted_value,
                    const double *wanted_grad, double slack)
{
    const int kernel = kd__loss_has_kernel(&p->desc);
    const double t = (double)p->desc.temperature, tolerance = kernel ? 1e-6 : 1e-10;
    double largest = 0;
    int i;
    if (!(fabs(value - wanted_value) <= tolerance * (fabs(wanted_value) + KD__MAX(1, kernel ? t * t : 1))))
        fail_msg("%s on %s, %d rows, %d columns: %.12g, expected %.12g", p->name, kd_isa_name(kd_ctx_isa(kd)),
                 p->rows, p->cols, value, wanted_value);
    for (i = 0; i < p->rows * p->cols; ++i) largest = KD__MAX(largest, fabs(wanted_grad[i]));
    for (i = 0; i < p->rows * p->cols; ++i) {
        const double error = fabs((double)grad[i] - wanted_grad[i]);
        if (!(error <=
              slack * (largest + 0.01) + (kernel ? 1e-6 * KD__MAX(1, t) : 1e-7 * fabs(wanted_grad[i])) + 1e-12))
            fail_msg("%s on %s, %d rows, %d columns: gradient %d is %.9g, expected %.9g", p->name,
                     kd_isa_name(kd_ctx_isa(kd)), p->rows, p->cols, i, (double)grad[i], wanted_grad[i]);
    }
}

static void test_like_pytorch(void **state)
{
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_results); ++i) {
            const golden_result *golden = &golden_results[i];
            problem *p = problem_of(golden->method, golden->rows, golden->cols);
            const size_t bytes = (size_t)(p->rows * p->cols) * sizeof(float);
            float grad[MAX_COUNT];
            memcpy(p->student, golden_students, bytes);
            memcpy(p->teacher, golden_teachers, bytes);
            memcpy(p->soft_labels, golden_soft_labels, bytes);
            if (golden->method->published) p->desc = kd_loss_defaults(golden->method->kind);
            compare(kd, p, solve(kd, p, grad), grad, golden->value, golden->grad, 0);
            free(p);
        }
        kd_close(kd);
    }
}

/* Values are the reference's, gradients its differences, at sizes with every tail; and all instruction sets agree
   on every bit of what is computed in double precision, with the gradient in the student's place or none, too. */
static void test_reference(void **state)
{
    static const int sizes[][2] = {{1, 3}, {2, 5}, {7, 3}, {5, 9}, {3, 16}, {2, 17}, {4, 33}, {17, 4}};
    kd_ctx *contexts[KD_ISA_COUNT] = {NULL};
    kd_isa isa;
    int i, j, k;
    (void)state;
    FOR_EACH_ISA(isa) contexts[isa] = test_open(isa, 1);
    for (i = 0; i < KD__COUNT(golden_methods); ++i) {
        for (j = 0; j < KD__COUNT(sizes); ++j) {
            problem *p = random_problem(&golden_methods[i], sizes[j][0], sizes[j][1]);
            const int count = p->rows * p->cols;
            const size_t bytes = (size_t)count * sizeof(float);
            double x[MAX_COUNT], wanted_grad[MAX_COUNT], wanted, first = 0;
            float grad[MAX_COUNT], first_grad[MAX_COUNT], kept[MAX_COUNT];
            for (k = 0; k < count; ++k) x[k] = (double)p->student[k];
            wanted = reference_value(p, x);
            reference_gradient(p, x, wanted_grad);
            for (k = KD_ISA_SCALAR; k < KD_ISA_COUNT; ++k) {
                double value;
                if (!contexts[k]) continue;
                value = solve(contexts[k], p, grad);
                compare(contexts[k], p, value, grad, wanted, wanted_grad, 1e-8);
                if (kd__loss_has_kernel(&p->desc)) continue;
                if (k == KD_ISA_SCALAR) first = value, memcpy(first_grad, grad, bytes);
                if (value != first || memcmp(grad, first_grad, bytes) != 0)
                    fail_msg("%s: other bits on %s", p->name, kd_isa_name((kd_isa)k));
                assert_true(solve(contexts[k], p, NULL) == first);
                memcpy(kept, p->student, bytes);
                assert_true(solve(contexts[k], p, p->student) == first);
                assert_memory_equal(p->student, first_grad, bytes);
                memcpy(p->student, kept, bytes);
            }
            free(p);
        }
    }
    for (i = 0; i < KD_ISA_COUNT; ++i) kd_close(contexts[i]);
}

static void check_kind(kd_ctx *kd, kd_loss_kind kind, int cols, float smoothing, int soft_labels)
{
    problem *p = default_problem(kind, 6, cols);
    double x[MAX_COUNT], wanted_grad[MAX_COUNT], wanted, value = -1;
    float grad[MAX_COUNT];
    char words[64];
    int k;
    for (k = 0; k < p->rows && cols == 1 && kind == KD_LOSS_BCE; ++k) p->labels[k] = k % 3 == 0;
    p->desc.label_smoothing = smoothing;
    if (soft_labels) p->desc.soft_labels = p->soft_labels;
    if (cols < kd__loss_look_up(kind)->columns) {
        snprintf(words, sizeof words, "loss %s needs at least %d columns, got %d", p->name,
                 kd__loss_look_up(kind)->columns, cols);
        assert_fails(kd, solve_result(kd, p, grad, &value), KD_ERR_ARGUMENT, words);
    } else {
        for (k = 0; k < p->rows * cols; ++k) x[k] = (double)p->student[k];
        wanted = reference_value(p, x);
        reference_gradient(p, x, wanted_grad);
        value = solve(kd, p, grad);
        compare(kd, p, value, grad, wanted, wanted_grad, 1e-8);
    }
    free(p);
}

/* Every loss with one column, two, more; with smoothed labels; with soft labels, as mixup makes them: right, or
   refused in words. */
static void test_all_kinds(void **state)
{
    static const int cols[] = {1, 2, 3, 7};
    static const float smoothings[] = {0, 0.1f};
    kd_isa isa;
    int kind, c, e, soft_labels;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (kind = KD_LOSS_CE; kind < KD_LOSS_COUNT; ++kind) {
            for (c = 0; c < KD__COUNT(cols); ++c) {
                for (e = 0; e < KD__COUNT(smoothings); ++e) {
                    for (soft_labels = 0; soft_labels < 2; ++soft_labels)
                        check_kind(kd, (kd_loss_kind)kind, cols[c], smoothings[e], soft_labels);
                }
            }
        }
        kd_close(kd);
    }
}

/* A runner that starts from the end and pretends to be another worker each time. */
static void backwards(void *user, int count, kd_task_fn task, void *arg)
{
    int i;
    for (i = count - 1; i >= 0; --i) task(arg, i, i % *(int *)user);
}

static void test_threads(void **state)
{
    enum { ROWS = 67, COLS = 23 };
    int threads = 3, i, k, r;
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *contexts[3];
    float *student = test_floats(1, ROWS * COLS, 4), *teacher = test_floats(2, ROWS * COLS, 5),
          *soft = test_floats(3, ROWS * COLS, 1);
    int32_t labels[ROWS];
    (void)state;
    desc.threads = threads;
    desc.parallel_for = backwards;
    desc.parallel_user = &threads;
    contexts[0] = test_open(KD_ISA_AUTO, 1);
    contexts[1] = test_open(KD_ISA_AUTO, 2);
    assert_int_equal(kd_open(&desc, &contexts[2]), KD_OK);
    for (r = 0; r < ROWS; ++r) labels[r] = (7 * r + 3) % COLS;
    for (i = 0; i < KD__COUNT(golden_methods); ++i) {
        kd_loss_desc loss = desc_of(&golden_methods[i]);
        float grads[3][ROWS * COLS];
        double values[3];
        if (golden_methods[i].soft_labels) loss.soft_labels = soft;
        for (k = 0; k < 3; ++k) {
            assert_ok(contexts[k], kd_loss(contexts[k], &loss, student, needs_teacher(loss.kind) ? teacher : NULL,
                                           labels, ROWS, COLS, grads[k], &values[k]));
            if (values[k] != values[0] || memcmp(grads[k], grads[0], sizeof grads[0]) != 0)
                fail_msg("%s: other bits with %s", golden_methods[i].name, k == 1 ? "2 threads" : "another order");
        }
    }
    for (k = 0; k < 3; ++k) kd_close(contexts[k]);
    free(student);
    free(teacher);
    free(soft);
}

/* ---- what must be equal ---------------------------------------------------------------------------------- */

static void assert_same(const char *what, const float *a, const float *b, int count, double tolerance)
{
    int i;
    for (i = 0; i < count; ++i) {
        if (!(fabs((double)a[i] - (double)b[i]) <= tolerance * (1 + fabs((double)b[i]))))
            fail_msg("%s: number %d is %.9g, expected %.9g", what, i, (double)a[i], (double)b[i]);
    }
}

/* KL without its kernel */
static kd_loss_desc kl_in_double(void)
{
    kd_loss_desc desc = kd_loss_defaults(KD_LOSS_CTKD);
    desc.temperature = 4;
    desc.soft_weight = 1;
    desc.hard_weight = 0;
    return desc;
}

/* Zhao et al. 2022: KD is TCKD + (1 - p_t[y]) NCKD, row by row, value and gradient. */
static void test_dkd_is_kd(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int cols, c;
    (void)state;
    for (cols = 3; cols <= 30; cols += 3) {
        problem *p = default_problem(KD_LOSS_DKD, 1, cols);
        float dkd[MAX_COUNT], kl[MAX_COUNT], pt[MAX_COUNT];
        double value;
        assert_ok(kd, kd_softmax(kd, p->teacher, 1, cols, 4, pt));
        p->desc.hard_weight = 0;
        p->desc.beta = 0;
        for (c = 0; c < cols; ++c) p->desc.beta += c == p->labels[0] ? 0 : pt[c];
        value = solve(kd, p, dkd);
        p->desc = kl_in_double();
        assert_near(value, solve(kd, p, kl), 1e-6);
        assert_same("dkd", dkd, kl, cols, 1e-6);
        free(p);
    }
    kd_close(kd);
}

/* Hinton et al. 2015, section 2.1: T^2 KL goes to (1/2C) |s - t|^2 of centred logits. */
static void test_high_temperature_is_mse(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int cols, i;
    (void)state;
    for (cols = 2; cols <= 30; cols += 4) {
        problem *p = default_problem(KD_LOSS_CENTRED_MSE, 7, cols);
        float mse[MAX_COUNT], kl[MAX_COUNT];
        const double value = solve(kd, p, mse) / (2 * cols);
        double last = 1e30, error;
        p->desc = kl_in_double();
        for (p->desc.temperature = 100; p->desc.temperature < 1e5f; p->desc.temperature *= 10) {
            error = fabs(solve(kd, p, kl) - value);
            assert_true(error < 0.2 * last);
            last = error;
        }
        assert_true(last < 1e-3 * value);
        for (i = 0; i < 7 * cols; ++i) assert_near(kl[i], mse[i] / (2 * (float)cols), 1e-3);
        free(p);
    }
    kd_close(kd);
}

/* Zheng and Yang 2024: TTM is KD with the teacher at T = 1 / g and the student at 1, WTTM that times U. */
static void test_ttm_is_kd_of_a_softer_teacher(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    static const float gammas[] = {0.1f, 0.25f, 1, 2};
    int i, j, c, cols;
    (void)state;
    for (i = 0; i < KD__COUNT(gammas); ++i) {
        for (cols = 2; cols <= 26; cols += 8) {
            problem *p = default_problem(KD_LOSS_TTM, 1, cols), *q = default_problem(KD_LOSS_KL, 1, cols);
            float ttm[MAX_COUNT], kl[MAX_COUNT], pt[MAX_COUNT];
            double value, sum = 0;
            for (j = 0; j < cols; ++j) q->teacher[j] *= gammas[i];
            q->desc.temperature = 1;
            p->desc.gamma = gammas[i];
            p->desc.soft_weight = 1;
            p->desc.hard_weight = 0;
            value = solve(kd, q, kl);
            assert_near(solve(kd, p, ttm), value, 1e-6);
            assert_same("ttm", ttm, kl, cols, 1e-6);
            assert_ok(kd, kd_softmax(kd, p->teacher, 1, cols, 1, pt));
            for (c = 0; c < cols; ++c) sum += pow((double)pt[c], (double)gammas[i]);
            p->desc.kind = KD_LOSS_WTTM;
            assert_near(solve(kd, p, ttm), sum * value, 2e-6);
            for (c = 0; c < cols; ++c) kl[c] *= (float)sum;
            assert_same("wttm", ttm, kl, cols, 3e-6);
            free(p);
            free(q);
        }
    }
    kd_close(kd);
}

/* Pairs of losses, and settings of one, that are the same by definition. */
static void test_relatives(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float a[MAX_COUNT], b[MAX_COUNT], kept[MAX_COUNT];
    int cols, r, c;
    (void)state;
    for (cols = 3; cols <= 27; cols += 8) {
        problem *p = default_problem(KD_LOSS_KL, 6, cols);
        const size_t bytes = (size_t)(6 * cols) * sizeof(float);
        const double kl = solve(kd, p, a);
        double entropy = 0, value;
        /* soft cross-entropy: the teacher's entropy more, and the gradient of KL */
        assert_ok(kd, kd_softmax(kd, p->teacher, 6, cols, 4, b));
        for (c = 0; c < 6 * cols; ++c) entropy -= (double)b[c] * log((double)b[c]) / 6;
        p->desc = kd_loss_defaults(KD_LOSS_SOFT_CE);
        assert_near(solve(kd, p, b), kl + 16 * entropy, 1e-6);
        assert_same("softce", b, a, 6 * cols, 1e-6);
        /* MLLD with one temperature and without Gram matrices */
        p->desc = kd_loss_defaults(KD_LOSS_MLLD);
        p->desc.beta = p->desc.gamma = p->desc.hard_weight = 0;
        p->desc.soft_weight = 1;
        p->desc.temperature_count = 1;
        assert_near(solve(kd, p, b), kl, 1e-6);
        assert_same("mlld", b, a, 6 * cols, 1e-6);
        /* Tf-KD: a teacher whose logits are u / T */
        p->desc = kd_loss_defaults(KD_LOSS_TFKD);
        p->desc.temperature = 2;
        p->desc.alpha = 1;
        p->desc.reduction = KD_REDUCTION_ROWS;
        p->has_teacher = 0;
        value = solve(kd, p, a);
        memcpy(kept, p->teacher, bytes);
        for (r = 0; r < 6; ++r) {
            for (c = 0; c < cols; ++c)
                p->teacher[r * cols + c] = (c == p->labels[r] ? 0.99f : 0.01f / (float)(cols - 1)) / 2;
        }
        p->desc = kd_loss_defaults(KD_LOSS_KL);
        p->desc.temperature = 1;
        p->has_teacher = 1;
        assert_near(solve(kd, p, b), value, 1e-6);
        assert_same("tfkd", a, b, 6 * cols, 1e-6);
        memcpy(p->teacher, kept, bytes);
        /* reverse KL and symmetric JSD: teacher and student change places */
        p->desc = kd_loss_defaults(KD_LOSS_JSD);
        value = solve(kd, p, NULL);
        memcpy(kept, p->student, bytes);
        memcpy(p->student, p->teacher, bytes);
        memcpy(p->teacher, kept, bytes);
        assert_near(solve(kd, p, NULL), value, 1e-12);
        p->desc.beta = 0.25f;
        value = solve(kd, p, NULL);
        p->desc = kd_loss_defaults(KD_LOSS_RKL);
        assert_near(solve(kd, p, NULL), kl, 1e-6);
        memcpy(p->teacher, p->student, bytes);
        memcpy(p->student, kept, bytes);
        p->desc = kd_loss_defaults(KD_LOSS_JSD);
        p->desc.beta = 0.75f;
        assert_near(solve(kd, p, NULL), value, 1e-12);
        /* which goes to 0 at the ends of beta */
        p->desc.beta = 1e-6f;
        assert_true(solve(kd, p, NULL) < 1e-4 * kl);
        /* CS-KD: the next row with the label is the teacher */
        p->labels[0] = p->labels[2] = p->labels[5] = 0;
        p->labels[1] = 1;
        p->labels[3] = p->labels[4] = 2;
        for (r = 0; r < 6; ++r) {
            static const int next[] = {2, 1, 5, 4, 3, 0};
            memcpy(p->teacher + r * cols, p->student + next[r] * cols, (size_t)cols * sizeof(float));
        }
        p->desc = kd_loss_defaults(KD_LOSS_KL);
        value = solve(kd, p, a);
        p->desc = kd_loss_defaults(KD_LOSS_CSKD);
        p->desc.hard_weight = 0;
        p->has_teacher = 0;
        assert_near(solve(kd, p, b), value, 1e-6);
        assert_same("cskd", b, a, 6 * cols, 1e-6);
        for (c = 0; c < cols; ++c) assert_true(b[cols + c] == 0); /* row 1 is alone */
        free(p);
    }
    kd_close(kd);
}

/* A constant added to the student's logits, or the teacher's, changes nothing but raw MSE; so a row of the gradient
   sums to 0. */
static void test_shift(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int i, r, c;
    (void)state;
    for (i = 0; i < KD__COUNT(golden_methods); ++i) {
        problem *p = random_problem(&golden_methods[i], 6, 9);
        float before[MAX_COUNT], after[MAX_COUNT];
        double value, largest = 0;
        if (p->desc.kind != KD_LOSS_MSE || p->desc.standardise) {
            for (c = 0; c < 54; ++c) { /* so that the shift is exact */
                p->student[c] = (float)(int)(p->student[c] * 64) / 64;
                p->teacher[c] = (float)(int)(p->teacher[c] * 64) / 64;
            }
            value = solve(kd, p, before);
            for (c = 0; c < 54; ++c) largest = KD__MAX(largest, fabs((double)before[c]));
            for (r = 0; r < 6; ++r) {
                double sum = 0;
                for (c = r * 9; c < r * 9 + 9; ++c) {
                    sum += (double)before[c];
                    p->student[c] += (float)(10 * r + 1);
                    p->teacher[c] -= (float)(5 * r + 1);
                }
                if (fabs(sum) > 1e-5 * largest) fail_msg("%s: row %d sums to %g", p->name, r, sum);
            }
            assert_near(solve(kd, p, after), value, kd__loss_has_kernel(&p->desc) ? 1e-5 : 1e-12);
            assert_same(p->name, after, before, 54, 1e-5);
        }
        free(p);
    }
    kd_close(kd);
}

/* Classes in another order: the same value, the gradient in that order. Rows too, but for CS-KD, where the next row
   is another one. */
static void test_order(void **state)
{
    enum { ROWS = 5, COLS = 8 };
    static const int cols[COLS] = {3, 0, 6, 1, 7, 2, 5, 4}, rows[ROWS] = {2, 4, 0, 3, 1};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int i, r, c, by_row;
    (void)state;
    for (i = 0; i < KD__COUNT(golden_methods); ++i) {
        for (by_row = 0; by_row < 2; ++by_row) {
            problem *p = random_problem(&golden_methods[i], ROWS, COLS),
                    *q = random_problem(&golden_methods[i], ROWS, COLS);
            float grad[ROWS * COLS], other[ROWS * COLS], moved[ROWS * COLS];
            double value;
            if (by_row && p->desc.kind == KD_LOSS_CSKD) {
                free(p);
                free(q);
                continue;
            }
            value = solve(kd, p, grad);
            for (r = 0; r < ROWS; ++r) {
                const int from_row = by_row ? rows[r] : r;
                for (c = 0; c < COLS; ++c) {
                    const int to = r * COLS + c, from = from_row * COLS + (by_row ? c : cols[c]);
                    q->student[to] = p->student[from];
                    q->teacher[to] = p->teacher[from];
                    q->soft_labels[to] = p->soft_labels[from];
                    moved[to] = grad[from];
                }
                q->labels[r] = p->labels[from_row];
                for (c = 0; c < COLS && !by_row && p->labels[r] >= 0; ++c) {
                    if (cols[c] == p->labels[r]) q->labels[r] = c;
                }
            }
            assert_near(solve(kd, q, other), value, kd__loss_has_kernel(&p->desc) ? 1e-5 : 1e-12);
            assert_same(p->name, other, moved, ROWS * COLS, kd__loss_has_kernel(&p->desc) ? 2e-6 : 2e-7);
            free(p);
            free(q);
        }
    }
    kd_close(kd);
}

/* What asks the student to be the teacher is content when it is: value and gradient are 0. */
static void test_equal_logits(void **state)
{
    static const kd_loss_kind kinds[] = {KD_LOSS_KL,  KD_LOSS_RKL,  KD_LOSS_JSD,  KD_LOSS_CENTRED_MSE, KD_LOSS_MSE,
                                         KD_LOSS_DKD, KD_LOSS_DIST, KD_LOSS_MLLD, KD_LOSS_CTKD};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float grad[MAX_COUNT];
    problem *p;
    int i, j, standardise;
    (void)state;
    for (i = 0; i < KD__COUNT(kinds); ++i) {
        for (standardise = 0; standardise < 2; ++standardise) {
            p = default_problem(kinds[i], 6, 7);
            p->desc.hard_weight = 0;
            p->desc.standardise = standardise;
            memcpy(p->teacher, p->student, sizeof p->teacher);
            assert_true(fabs(solve(kd, p, grad)) < (kd__loss_has_kernel(&p->desc) ? 1e-5 : 1e-12));
            for (j = 0; j < 42; ++j)
                assert_true(fabs((double)grad[j]) < (kd__loss_has_kernel(&p->desc) ? 1e-6 : 1e-12));
            free(p);
        }
    }
    /* TTM when it is the softened teacher */
    for (i = 0; i < 2; ++i) {
        p = default_problem(i ? KD_LOSS_WTTM : KD_LOSS_TTM, 6, 7);
        p->desc.hard_weight = 0;
        p->desc.gamma = 0.25f;
        for (j = 0; j < 42; ++j) p->student[j] = p->teacher[j] * 0.25f;
        assert_true(fabs(solve(kd, p, grad)) < 1e-12);
        for (j = 0; j < 42; ++j) assert_true(fabs((double)grad[j]) < 1e-12);
        free(p);
    }
    kd_close(kd);
}

/* Logit standardisation: rows of either may be scaled and moved, which scales the gradient by the inverse; and the
   flag does something. */
static void test_standardisation_is_affine_invariant(void **state)
{
    static const kd_loss_kind kinds[] = {KD_LOSS_KL,  KD_LOSS_HINTON, KD_LOSS_MSE,  KD_LOSS_RKL,  KD_LOSS_JSD,
                                         KD_LOSS_DKD, KD_LOSS_NKD,    KD_LOSS_DIST, KD_LOSS_WTTM, KD_LOSS_MLLD};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int i, r, c;
    (void)state;
    for (i = 0; i < KD__COUNT(kinds); ++i) {
        problem *p = default_problem(kinds[i], 6, 7);
        float before[42], after[42];
        double value, plain;
        p->desc.hard_weight = 0;
        if (kinds[i] == KD_LOSS_HINTON) p->desc.alpha = 1;
        plain = solve(kd, p, NULL);
        p->desc.standardise = 1;
        value = solve(kd, p, before);
        assert_true(fabs(value - plain) > 1e-3 * fabs(plain));
        for (r = 0; r < 6; ++r) {
            for (c = r * 7; c < r * 7 + 7; ++c) {
                p->student[c] = p->student[c] * (float)(r + 2) + (float)r;
                p->teacher[c] = p->teacher[c] * (float)(7 - r) - (float)r;
                before[c] /= (float)(r + 2);
            }
        }
        assert_near(solve(kd, p, after), value, 1e-5);
        assert_same(p->name, after, before, 42, 1e-5);
        free(p);
    }
    kd_close(kd);
}

/* DIST: probabilities of the teacher that are a p + (1 - a) / C correlate as p does. */
static void test_dist_is_affine_invariant(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    problem *p = default_problem(KD_LOSS_DIST, 8, 6);
    float before[48], after[48], pt[48];
    double value;
    int r, c, each;
    (void)state;
    p->desc.hard_weight = 0;
    assert_ok(kd, kd_softmax(kd, p->teacher, 8, 6, 4, pt));
    for (each = 0; each < 2; ++each) {
        p->desc.gamma = each ? 0.0f : 1.0f; /* with a factor for each row, columns correlate no more */
        for (c = 0; c < 48; ++c) p->teacher[c] = 4 * (float)log((double)pt[c]);
        value = solve(kd, p, before);
        for (r = 0; r < 8; ++r) {
            const double a = each ? 0.2 + 0.1 * r : 0.3;
            for (c = r * 6; c < r * 6 + 6; ++c) p->teacher[c] = 4 * (float)log(a * (double)pt[c] + (1 - a) / 6);
        }
        assert_near(solve(kd, p, after), value, 2e-6);
        assert_same("dist", after, before, 48, 2e-6);
    }
    free(p);
    kd_close(kd);
}

/* Knowledge adjustment: a teacher that is right stays as it is; one that is wrong becomes right, with the numbers
   it had (shift) or with those that were asked for (smooth). */
static void test_adjustment(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    problem *p = default_problem(KD_LOSS_CTKD, 4, 5);
    static const float rows[4][5] = {{1, 5, 2, 3, 4}, {1, 5, 2, 3, 4}, {2, 2, 1, 1, 1}, {4, 1, 2, 3, 0}};
    static const int32_t labels[4] = {1, 2, 1, KD_UNLABELLED};
    static const float shifted[4][5] = {{1, 5, 2, 3, 4}, {1, 2, 5, 3, 4}, {2, 2, 1, 1, 1}, {4, 1, 2, 3, 0}};
    float adjusted[20], wanted[20];
    double value;
    int c;
    (void)state;
    p->desc.hard_weight = 0;
    p->desc.temperature = 2;
    memcpy(p->labels, labels, sizeof labels);
    memcpy(p->teacher, rows, sizeof rows);
    p->desc.adjust = KD_ADJUST_SHIFT;
    value = solve(kd, p, adjusted);
    p->desc.adjust = KD_ADJUST_NONE;
    memcpy(p->teacher, shifted, sizeof shifted);
    assert_true(solve(kd, p, wanted) == value);
    assert_memory_equal(adjusted, wanted, sizeof wanted);
    /* of two that are largest, the first counts: row 2 is wrong */
    memcpy(p->teacher, rows, sizeof rows);
    p->desc.adjust = KD_ADJUST_SMOOTH;
    value = solve(kd, p, adjusted);
    p->desc.adjust = KD_ADJUST_NONE;
    for (c = 0; c < 5; ++c) {
        p->teacher[5 + c] = 2 * (float)log(c == 2 ? 0.9 : 0.025);
        p->teacher[10 + c] = 2 * (float)log(c == 1 ? 0.9 : 0.025);
    }
    assert_near(solve(kd, p, wanted), value, 1e-6);
    assert_same("smooth", adjusted, wanted, 20, 1e-6);
    free(p);
    kd_close(kd);
}

/* The derivative by the temperature that ctkd learns from. */
static void test_slope(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    static const float temperatures[] = {1, 3, 15};
    int i, way;
    (void)state;
    for (i = 0; i < KD__COUNT(temperatures); ++i) {
        for (way = 0; way < 3; ++way) {
            problem *p = default_problem(KD_LOSS_CTKD, 6, 7);
            float grad[42], room[1024];
            const float step = temperatures[i] / 1024;
            kd__loss_call call;
            double low, high;
            p->desc.standardise = way == 1;
            p->desc.adjust = way == 2 ? KD_ADJUST_SMOOTH : KD_ADJUST_NONE;
            p->desc.temperature = temperatures[i];
            memset(&call, 0, sizeof call);
            call.desc = &p->desc;
            call.student = p->student;
            call.teacher = p->teacher;
            call.labels = p->labels;
            call.rows = 6;
            call.cols = 7;
            call.soft_scale = 2;
            call.hard_scale = 5;
            call.grad = grad;
            call.room = room;
            assert_true(kd__loss_room(kd, &p->desc, 6, 7) <= KD__COUNT(room));
            kd__loss_evaluate(kd, &call);
            p->desc.temperature = temperatures[i] - step;
            low = solve(kd, p, NULL);
            p->desc.temperature = temperatures[i] + step;
            high = solve(kd, p, NULL);
            assert_near(call.slope, 2 * (high - low) / (2 * (double)step), 1e-5);
            free(p);
        }
    }
    kd_close(kd);
}

/* ---- weights --------------------------------------------------------------------------------------------- */

/* soft_weight, hard_weight and alpha are linear, of values and gradients. */
static void test_weights_are_linear(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int kind, c;
    (void)state;
    for (kind = KD_LOSS_KL; kind < KD_LOSS_COUNT; ++kind) {
        problem *p, *ce;
        float soft[63], hard[63], both[63];
        double soft_value, hard_value;
        if (kind == KD_LOSS_BCE || kind == KD_LOSS_HINTON || kind == KD_LOSS_TFKD) continue;
        p = default_problem((kd_loss_kind)kind, 9, 7);
        ce = default_problem(KD_LOSS_CE, 9, 7);
        p->desc.soft_weight = 1;
        p->desc.hard_weight = 0;
        soft_value = solve(kd, p, soft);
        hard_value = solve(kd, ce, hard);
        p->desc.soft_weight = 0.25f;
        p->desc.hard_weight = 3;
        assert_near(solve(kd, p, both), 0.25 * soft_value + 3 * hard_value, 1e-6);
        for (c = 0; c < 63; ++c) assert_near(both[c], 0.25 * (double)soft[c] + 3 * (double)hard[c], 1e-6);
        p->desc.soft_weight = 0;
        assert_near(solve(kd, p, both), 3 * hard_value, 1e-6);
        for (c = 0; c < 63; ++c) assert_near(both[c], 3 * (double)hard[c], 1e-6);
        free(p);
        free(ce);
    }
    kd_close(kd);
}

/* alpha = 0.3, T = 5, 8 columns, in every library's words. */
static void test_conventions(void **state)
{
    static const struct {
        kd_loss_convention convention;
        const char *name;
        double soft, hard, alone; /* alone: kl */
    } known[] = {
        {KD_CONVENTION_DEFAULT, "default", 0.3, 0.7, 1},
        {KD_CONVENTION_REPDISTILLER, "repdistiller", 0.3, 0.7, 1},
        {KD_CONVENTION_MDISTILLER, "mdistiller", 0.3, 0.7, 1},
        {KD_CONVENTION_TORCHDISTILL, "torchdistill", 0.7, 0.3, 1.0 / 25},
        {KD_CONVENTION_TFKD, "tf-kd", 0.3 / 8, 0.7, 1.0 / 8},
        {KD_CONVENTION_TEXTBREWER, "textbrewer", 0.3 / 25, 0.7, 1.0 / 25},
    };
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    problem *p = default_problem(KD_LOSS_HINTON, 5, 8);
    kd_loss_desc desc = kd_loss_defaults(KD_LOSS_HINTON);
    float kl_grad[40], ce_grad[40], grad[40];
    double kl, ce, soft = -1, hard = -1;
    int i, c;
    (void)state;
    desc.temperature = 5;
    p->desc = desc;
    p->desc.alpha = 1;
    kl = solve(kd, p, kl_grad);
    p->desc.alpha = 0;
    ce = solve(kd, p, ce_grad);
    assert_int_equal(KD__COUNT(known), KD_CONVENTION_COUNT);
    for (i = 0; i < KD__COUNT(known); ++i) {
        assert_string_equal(kd_convention_name(known[i].convention), known[i].name);
        desc.kind = KD_LOSS_HINTON;
        desc.convention = known[i].convention;
        desc.alpha = 0.3f;
        assert_ok(kd, kd_loss_weights(kd, &desc, 8, &soft, &hard));
        assert_near(soft, known[i].soft, 1e-7);
        assert_near(hard, known[i].hard, 1e-7);
        p->desc = desc;
        assert_near(solve(kd, p, grad), known[i].soft * kl + known[i].hard * ce, 1e-6);
        for (c = 0; c < 40; ++c)
            assert_near(grad[c], known[i].soft * (double)kl_grad[c] + known[i].hard * (double)ce_grad[c], 1e-6);
        desc.kind = KD_LOSS_KL;
        assert_ok(kd, kd_loss_weights(kd, &desc, 8, &soft, &hard));
        assert_near(soft, known[i].alone, 1e-7);
        assert_true(hard == 0);
        p->desc = desc;
        assert_near(solve(kd, p, grad), known[i].alone * kl, 1e-6);
        for (c = 0; c < 40; ++c) assert_near(grad[c], known[i].alone * (double)kl_grad[c], 1e-6);
    }
    /* where that library's alpha is 0, it forgets T^2 */
    desc.kind = KD_LOSS_HINTON;
    desc.convention = KD_CONVENTION_TORCHDISTILL;
    desc.alpha = 0;
    assert_ok(kd, kd_loss_weights(kd, &desc, 8, &soft, &hard));
    assert_near(soft, 1.0 / 25, 1e-7);
    assert_true(hard == 0);
    assert_string_equal(kd_convention_name(KD_CONVENTION_COUNT), "unknown");
    free(p);
    kd_close(kd);
}

static void test_effective_weights(void **state)
{
    static const struct {
        kd_loss_kind kind;
        double soft, hard;
    } known[] = {{KD_LOSS_CE, 0, 1},       {KD_LOSS_KL, 1, 0},       {KD_LOSS_HINTON, 0.9, 0.1},
                 {KD_LOSS_MSE, 1, 0},      {KD_LOSS_BCE, 0.9, 0.1},  {KD_LOSS_TFKD, 0.1 / 8, 0.9},
                 {KD_LOSS_DKD, 1, 1},      {KD_LOSS_TTM, 45, 1},     {KD_LOSS_WTTM, 4, 1},
                 {KD_LOSS_MLLD, 0.9, 0.1}, {KD_LOSS_CTKD, 0.9, 0.1}, {KD_LOSS_JSD, 1, 0},
                 {KD_LOSS_DIST, 1, 1},     {KD_LOSS_CSKD, 1, 1},     {KD_LOSS_NKD, 1, 1}};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_loss_desc desc = kd_loss_defaults(KD_LOSS_AUTO);
    double soft = -1, hard = -1;
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(known); ++i) {
        desc = kd_loss_defaults(known[i].kind);
        assert_ok(kd, kd_loss_weights(kd, &desc, 8, &soft, &hard));
        assert_near(soft, known[i].soft, 1e-7);
        assert_near(hard, known[i].hard, 1e-7);
        desc.reduction = KD_REDUCTION_ELEMENTS;
        desc.soft_weight *= 3;
        assert_ok(kd, kd_loss_weights(kd, &desc, 8, &soft, &hard));
        assert_near(soft, known[i].soft * 3 / (known[i].kind == KD_LOSS_TFKD ? 1 : 8), 1e-6);
        assert_near(hard, known[i].hard, 1e-7);
    }
    assert_int_equal(kd_loss_weights(NULL, &desc, 8, &soft, &hard), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_loss_weights(kd, &desc, 8, NULL, &hard), KD_ERR_ARGUMENT, "places for the two weights");
    assert_fails(kd, kd_loss_weights(kd, &desc, 8, &soft, NULL), KD_ERR_ARGUMENT, "places for the two weights");
    assert_fails(kd, kd_loss_weights(kd, NULL, 8, &soft, &hard), KD_ERR_DEFAULTS,
                 "kd_loss_weights: the loss must start from kd_loss_defaults()");
    desc = kd_loss_defaults(KD_LOSS_DKD);
    assert_fails(kd, kd_loss_weights(kd, &desc, 2, &soft, &hard), KD_ERR_ARGUMENT,
                 "needs at least 3 columns, got 2");
    desc.kind = KD_LOSS_AUTO;
    assert_fails(kd, kd_loss_weights(kd, &desc, 8, &soft, &hard), KD_ERR_ARGUMENT, "no loss that can be computed");
    kd_close(kd);
}

/* ---- limits ---------------------------------------------------------------------------------------------- */

static void assert_finite(const problem *p, double value, const float *grad)
{
    int i;
    if (!kd__is_finite(value)) fail_msg("%s: the value is %g", p->name, value);
    for (i = 0; i < p->rows * p->cols; ++i) {
        if (!kd__is_finite((double)grad[i])) fail_msg("%s: gradient %d is %g", p->name, i, (double)grad[i]);
    }
}

/* Logits that are large, far apart or all alike give numbers; nothing that is divided by becomes 0. */
static void test_extreme_logits(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    static const float scales[] = {0, 1e-30f, 1e-3f, 50, 1e4f, 1e15f};
    int i, j, k, c;
    (void)state;
    for (i = 0; i < KD__COUNT(golden_methods); ++i) {
        for (j = 0; j < KD__COUNT(scales); ++j) {
            for (k = 0; k < 3; ++k) {
                problem *p = random_problem(&golden_methods[i], 6, 5);
                float grad[30];
                double value;
                for (c = 0; c < 30; ++c) {
                    if (k != 1) p->student[c] *= scales[j];
                    if (k != 2) p->teacher[c] *= scales[j];
                }
                value = solve(kd, p, grad);
                assert_finite(p, value, grad);
                free(p);
            }
        }
    }
    kd_close(kd);
}

/* A student that is sure: 1 - p[y] is 0 in floats, and in doubles it must not be found by subtraction. */
static void test_sure_student(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    problem *p = default_problem(KD_LOSS_DKD, 1, 4);
    static const float student[] = {100, 1, 2, 3}, teacher[] = {0, 1, 2, 3};
    float grad[4];
    double rest, value;
    (void)state;
    memcpy(p->student, student, sizeof student);
    memcpy(p->teacher, teacher, sizeof teacher);
    p->labels[0] = 0;
    p->desc.temperature = 1;
    p->desc.hard_weight = p->desc.beta = 0;
    rest = (exp(1.0) + exp(2.0) + exp(3.0)) / (1 + exp(1.0) + exp(2.0) + exp(3.0));
    value = solve(kd, p, grad);
    assert_near(value, (1 - rest) * log(1 - rest) + rest * (log(rest) + 100 - log(exp(1.0) + exp(2.0) + exp(3.0))),
                1e-9);
    assert_near(grad[0], rest, 1e-6);
    assert_near(grad[3], -rest * exp(3.0) / (exp(1.0) + exp(2.0) + exp(3.0)), 1e-6);
    free(p);
    kd_close(kd);
}

/* What does not vary has no correlation and no scale: DIST counts it as uncorrelated, standardisation as zeros. */
static void test_nothing_varies(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int rows, cols, i;
    (void)state;
    for (rows = 1; rows <= 12; ++rows) { /* at some sizes the mean of equal numbers is not that number */
        for (cols = 2; cols <= 12; ++cols) {
            problem *p = default_problem(KD_LOSS_DIST, rows, cols);
            const int count = rows * cols;
            float grad[144];
            p->desc.hard_weight = 0;
            for (i = 0; i < count; ++i) p->student[i] = 0.7f;
            assert_near(solve(kd, p, grad), rows > 1 ? 32 : 16, 1e-12);
            for (i = 0; i < count; ++i) assert_true(grad[i] == 0);
            for (i = 0; i < count; ++i) p->student[i] = (float)(i % cols) / 3; /* rows vary, columns do not */
            p->desc.beta = 0;
            assert_near(solve(kd, p, grad), rows > 1 ? 16 : 0, 1e-12);
            for (i = 0; i < count; ++i) assert_true(grad[i] == 0);
            p->desc = kd_loss_defaults(KD_LOSS_KL);
            p->desc.standardise = 1;
            for (i = 0; i < cols; ++i) p->student[i] = 0.7f;
            for (i = count - cols; i < count; ++i) p->teacher[i] = -0.3f;
            assert_finite(p, solve(kd, p, grad), grad);
            for (i = 0; i < cols; ++i) assert_true(grad[i] == 0);
            for (i = cols; i < count; ++i) assert_true(grad[i] != 0);
            free(p);
        }
    }
    kd_close(kd);
}

/* Rows without a label have their soft term alone; losses that need a label of each say so. */
static void test_unlabelled(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int kind, r, c;
    (void)state;
    for (kind = KD_LOSS_KL; kind < KD_LOSS_COUNT; ++kind) {
        problem *p;
        float all[35], soft[35], some[35];
        if (kind == KD_LOSS_BCE || kind == KD_LOSS_HINTON) continue; /* have a test of their own */
        p = default_problem((kd_loss_kind)kind, 5, 7);
        if (kd__loss_look_up((kd_loss_kind)kind)->labels == KD__EACH) {
            char text[100];
            double value;
            p->labels[3] = KD_UNLABELLED;
            snprintf(text, sizeof text, "kd_loss: loss %s needs the label of every row, but row 3 has none",
                     kd_loss_name((kd_loss_kind)kind));
            assert_fails(kd, solve_result(kd, p, some, &value), KD_ERR_DATA, text);
            p->labels[3] = 7;
            assert_fails(kd, solve_result(kd, p, some, &value), KD_ERR_DATA, "label 7 of row 3 is outside 0 to 6");
            free(p);
            continue;
        }
        p->desc.hard_weight = 2;
        p->desc.label_smoothing = 0.25f; /* which gives every class of a labelled row something */
        solve(kd, p, all);
        p->desc.hard_weight = 0;
        solve(kd, p, soft);
        p->desc.hard_weight = 2;
        for (r = 0; r < 5; r += 2) p->labels[r] = KD_UNLABELLED;
        solve(kd, p, some);
        for (c = 0; c < 35; ++c) assert_near(some[c], c / 7 % 2 ? all[c] : soft[c], 1e-6);
        free(p);
    }
    kd_close(kd);
}

/* Labels that are not needed are not looked at. */
static void test_labels_not_needed(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int kind, r;
    (void)state;
    for (kind = KD_LOSS_KL; kind < KD_LOSS_COUNT; ++kind) {
        problem *p = default_problem((kd_loss_kind)kind, 5, 7);
        float with[35], none[35];
        double value, other;
        p->desc.hard_weight = 0;
        if (!kd__loss_uses_labels(&p->desc)) {
            value = solve(kd, p, with);
            for (r = 0; r < 5; ++r) p->labels[r] = -99;
            assert_true(solve(kd, p, with) == value);
            p->desc.soft_labels = p->soft_labels;
            assert_ok(kd, kd_loss(kd, &p->desc, p->student, p->teacher, NULL, 5, 7, none, &other));
            assert_true(other == value);
            assert_memory_equal(with, none, sizeof with);
        }
        free(p);
    }
    kd_close(kd);
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void test_defaults(void **state)
{
    static const char *const names[] = {"auto", "ce",     "kl",         "hinton", "mse", "bce", "rkl",
                                        "jsd",  "softce", "centredmse", "tfkd",   "dkd", "nkd", "dist",
                                        "ttm",  "wttm",   "mlld",       "cskd",   "ctkd"};
    static const float temperatures[] = {4, 2, 3, 5, 6};
    int kind, i;
    (void)state;
    assert_int_equal(KD_LOSS_COUNT, KD__COUNT(names));
    for (kind = 0; kind < KD_LOSS_COUNT; ++kind) {
        const kd_loss_desc d = kd_loss_defaults((kd_loss_kind)kind);
        assert_string_equal(kd_loss_name((kd_loss_kind)kind), names[kind]);
        assert_int_equal(d.kind, kind);
        assert_true(d.label_smoothing == 0 && !d.soft_labels && d.standardise == 0);
        assert_int_equal(d.adjust, KD_ADJUST_NONE);
        assert_int_equal(d.convention, KD_CONVENTION_DEFAULT);
        assert_int_equal(d.temperature_count, 5);
        for (i = 0; i < 5; ++i) assert_true(d.temperatures[i] == temperatures[i]);
        assert_true(d.warmup == (kind == KD_LOSS_DKD ? 20.0f : kind == KD_LOSS_CTKD ? 10.0f : 0.0f));
        if (kind <= KD_LOSS_BCE) assert_true(d.soft_weight == 1 && d.hard_weight == 0 && d.alpha == 0.9f);
    }
    for (i = 0; i < KD__COUNT(golden_methods) && golden_methods[i].published; ++i) {
        const kd_loss_desc d = kd_loss_defaults(golden_methods[i].kind), wanted = desc_of(&golden_methods[i]);
        assert_true(d.temperature == wanted.temperature && d.soft_weight == wanted.soft_weight);
        assert_true(d.hard_weight == wanted.hard_weight && d.certainty == wanted.certainty);
    }
}

static void test_refused(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int kind;
    (void)state;
/* the defaults of a loss but for one thing */
#define REFUSED(kind_, change, text)                                                                               \
    do {                                                                                                           \
        problem *p = default_problem(kind_, 4, 5);                                                                 \
        float grad[MAX_COUNT];                                                                                     \
        double value = 123;                                                                                        \
        p->change;                                                                                                 \
        grad[0] = 7;                                                                                               \
        assert_fails(kd, solve_result(kd, p, grad, &value), KD_ERR_ARGUMENT, text);                                \
        assert_true(value == 123 && grad[0] == 7);                                                                 \
        free(p);                                                                                                   \
    } while (0)
    for (kind = KD_LOSS_RKL; kind < KD_LOSS_COUNT; ++kind) {
        if (needs_teacher((kd_loss_kind)kind))
            REFUSED((kd_loss_kind)kind, has_teacher = 0, "needs a teacher's logits, got none");
        else
            REFUSED((kd_loss_kind)kind, has_teacher = 1, "would ignore the teacher");
        REFUSED((kd_loss_kind)kind, desc.soft_weight = -1, "kd_loss: soft_weight must be 0 to 1000000, got -1");
        REFUSED((kd_loss_kind)kind, desc.soft_weight = NAN, "kd_loss: soft_weight must be 0 to 1000000, got nan");
        REFUSED((kd_loss_kind)kind, desc.hard_weight = 2e6f, "kd_loss: hard_weight must be 0 to 1000000");
        REFUSED((kd_loss_kind)kind, desc.beta = -1, "kd_loss: beta must be ");
        REFUSED((kd_loss_kind)kind, desc.gamma = -1, "kd_loss: gamma must be ");
        REFUSED((kd_loss_kind)kind, desc.certainty = 1, "kd_loss: certainty must be 1e-06 to 0.999999, got 1");
        REFUSED((kd_loss_kind)kind, desc.certainty = 0, "kd_loss: certainty must be 1e-06 to 0.999999, got 0");
        REFUSED((kd_loss_kind)kind, desc.warmup = -1, "kd_loss: warmup must be 0 to 1000000, got -1");
        REFUSED((kd_loss_kind)kind, desc.standardise = 2, "kd_loss: standardise must be 0 to 1, got 2");
        REFUSED((kd_loss_kind)kind, desc.adjust = (kd_adjust)3, "kd_loss: adjust must be 0 to 2, got 3");
        REFUSED((kd_loss_kind)kind, desc.convention = KD_CONVENTION_COUNT, "kd_loss: convention must be 0 to 5");
        REFUSED((kd_loss_kind)kind, desc.temperature_count = 0, "kd_loss: temperature_count must be 1 to 8, got 0");
        REFUSED((kd_loss_kind)kind, desc.temperature_count = 9, "kd_loss: temperature_count must be 1 to 8, got 9");
        REFUSED((kd_loss_kind)kind, desc.temperature = 0, "kd_loss: the temperature must be above 0, got 0");
        REFUSED((kd_loss_kind)kind, desc.alpha = 1.5f, "kd_loss: alpha must be in [0, 1], got 1.5");
        REFUSED((kd_loss_kind)kind, cols = 1, "columns, got 1; bce and mse take a single one");
    }
    REFUSED(KD_LOSS_JSD, desc.beta = 0, "kd_loss: beta must be 1e-06 to 0.999999, got 0");
    REFUSED(KD_LOSS_JSD, desc.beta = 1, "kd_loss: beta must be 1e-06 to 0.999999, got 1");
    REFUSED(KD_LOSS_TTM, desc.gamma = 0, "kd_loss: gamma must be 1e-06 to 1000000, got 0");
    REFUSED(KD_LOSS_WTTM, desc.gamma = 0, "kd_loss: gamma must be 1e-06 to 1000000, got 0");
    REFUSED(KD_LOSS_MLLD, desc.temperatures[2] = 0, "kd_loss: temperatures must be above 0, number 2 is 0");
    REFUSED(KD_LOSS_MLLD, desc.temperatures[4] = NAN, "kd_loss: temperatures must be above 0, number 4 is nan");
    REFUSED(KD_LOSS_DKD, cols = 2, "kd_loss: loss dkd needs at least 3 columns, got 2");
    REFUSED(KD_LOSS_NKD, cols = 2, "kd_loss: loss nkd needs at least 3 columns, got 2");
    REFUSED(KD_LOSS_CE, has_teacher = 1, "kd_loss: loss ce would ignore the teacher");
    REFUSED(KD_LOSS_CE, desc.hard_weight = 1,
            "kd_loss: loss ce has a hard term of its own; leave hard_weight at 0");
    REFUSED(KD_LOSS_HINTON, desc.hard_weight = 1, "loss hinton has a hard term of its own; leave hard_weight at 0");
    REFUSED(KD_LOSS_BCE, desc.hard_weight = 1, "loss bce has a hard term of its own; leave hard_weight at 0");
    REFUSED(KD_LOSS_TFKD, desc.hard_weight = 1, "loss tfkd has a hard term of its own; leave hard_weight at 0");
    REFUSED(KD_LOSS_CE, desc.standardise = 1, "kd_loss: loss ce has no logits to standardise");
    REFUSED(KD_LOSS_BCE, desc.standardise = 1, "kd_loss: loss bce has no logits to standardise");
    REFUSED(KD_LOSS_TFKD, desc.standardise = 1, "kd_loss: loss tfkd has no logits to standardise");
    REFUSED(KD_LOSS_KL, cols = 1; p->desc.standardise = 1, "logit standardisation needs at least 2 columns, got 1");
    REFUSED(KD_LOSS_CE, desc.adjust = KD_ADJUST_SHIFT, "loss ce has no teacher whose knowledge could be adjusted");
    REFUSED(KD_LOSS_BCE, desc.adjust = KD_ADJUST_SHIFT,
            "loss bce has no teacher whose knowledge could be adjusted");
    REFUSED(KD_LOSS_CSKD, desc.adjust = KD_ADJUST_SMOOTH,
            "loss cskd has no teacher whose knowledge could be adjusted");
    REFUSED(KD_LOSS_MSE, desc.adjust = KD_ADJUST_SMOOTH,
            "but loss mse has 5 columns of logits; use KD_ADJUST_SHIFT");
    REFUSED(KD_LOSS_CENTRED_MSE, desc.adjust = KD_ADJUST_SMOOTH, "but loss centredmse has 5 columns of logits");
    REFUSED(KD_LOSS_KL, cols = 1; p->labels[1] = p->labels[2] = 0;
            p->desc.adjust = KD_ADJUST_SMOOTH,
            "replaces probabilities of 2 classes or more, but loss kl has 1 columns of them");
    REFUSED(KD_LOSS_DKD, desc.convention = KD_CONVENTION_TFKD,
            "convention tf-kd is for hinton, kl, rkl, jsd and softce, not for loss dkd");
    REFUSED(KD_LOSS_MSE, desc.convention = KD_CONVENTION_TEXTBREWER,
            "convention textbrewer is for hinton, kl, rkl, jsd and softce, not for loss mse");
    REFUSED(KD_LOSS_HINTON, desc.convention = KD_CONVENTION_MDISTILLER;
            p->desc.reduction = KD_REDUCTION_ELEMENTS,
            "convention mdistiller brings its own reduction; leave reduction alone");
    kd_close(kd);
}

static void test_labels_missing(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int kind;
    (void)state;
    for (kind = KD_LOSS_KL; kind < KD_LOSS_COUNT; ++kind) {
        problem *p = default_problem((kd_loss_kind)kind, 4, 5);
        const float *teacher = p->has_teacher ? p->teacher : NULL;
        double value;
        char text[100];
        if (kind == KD_LOSS_BCE || kind == KD_LOSS_HINTON) {
            free(p);
            continue;
        }
        if (kd__loss_look_up((kd_loss_kind)kind)->labels == KD__NO) {
            p->desc.hard_weight = 1;
            snprintf(text, sizeof text,
                     "kd_loss: loss %s needs labels for its hard term, got none; hard_weight = 0 does without",
                     kd_loss_name((kd_loss_kind)kind));
            assert_fails(kd, kd_loss(kd, &p->desc, p->student, teacher, NULL, 4, 5, NULL, &value), KD_ERR_ARGUMENT,
                         text);
            p->desc.hard_weight = 0;
            p->desc.adjust = KD_ADJUST_SHIFT;
            assert_fails(kd, kd_loss(kd, &p->desc, p->student, teacher, NULL, 4, 5, NULL, &value), KD_ERR_ARGUMENT,
                         "kd_loss: knowledge adjustment needs labels, got none");
            p->desc.adjust = KD_ADJUST_NONE;
            assert_ok(kd, kd_loss(kd, &p->desc, p->student, teacher, NULL, 4, 5, NULL, &value));
        } else {
            snprintf(text, sizeof text, "kd_loss: loss %s needs labels, got none",
                     kd_loss_name((kd_loss_kind)kind));
            assert_fails(kd, kd_loss(kd, &p->desc, p->student, teacher, NULL, 4, 5, NULL, &value), KD_ERR_ARGUMENT,
                         text);
        }
        free(p);
    }
    kd_close(kd);
}

static void check_not_finite(kd_ctx *kd, const problem *p, float *x, const char *whose)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float grad[MAX_COUNT];
    double value;
    int i, j;
    for (i = 0; i < p->rows * p->cols; i += 4) {
        for (j = 0; j < 3; ++j) {
            const float kept = x[i];
            char text[100];
            snprintf(text, sizeof text, "kd_loss: %s has %s in row %d, column %d", whose,
                     j ? "an infinity" : "a NaN", i / p->cols, i % p->cols);
            x[i] = bad[j];
            if (solve_result(kd, p, grad, &value) != KD_ERR_NOT_FINITE)
                fail_msg("%s: %s, and nobody noticed", p->name, text);
            assert_string_equal(kd_error(kd), text);
            x[i] = kept;
        }
    }
}

static void test_not_finite(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(golden_methods); ++i) {
        problem *p = random_problem(&golden_methods[i], 3, 5);
        check_not_finite(kd, p, p->student, "the student");
        if (p->has_teacher) check_not_finite(kd, p, p->teacher, "the teacher");
        if (p->desc.soft_labels) check_not_finite(kd, p, p->soft_labels, "soft_labels");
        free(p);
    }
    kd_close(kd);
}

static void test_refused_memory(void **state)
{
    static const kd_loss_kind kinds[] = {KD_LOSS_JSD, KD_LOSS_DIST, KD_LOSS_MLLD, KD_LOSS_CSKD};
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(kinds); ++i) {
        test_memory memory;
        const kd_ctx_desc desc = test_memory_desc(&memory);
        problem *p = default_problem(kinds[i], 9, 11);
        kd_ctx *kd;
        double first;
        assert_int_equal(kd_open(&desc, &kd), KD_OK);
        memory.refuse_at = 1;
        assert_fails(kd, solve_result(kd, p, NULL, &first), KD_ERR_MEMORY, "out of memory");
        first = solve(kd, p, NULL);
        memory.requests = 0;
        assert_true(solve(kd, p, NULL) == first);
        assert_int_equal(memory.requests, 0); /* what was needed once is kept */
        free(p);
        test_memory_close(kd, &memory);
    }
}

/* ---- training -------------------------------------------------------------------------------------------- */

enum { SAMPLES = 96, INPUTS = 6, CLASSES = 4 };

/* A small problem: samples, labels that a linear rule gives them, two teachers that differ, log lines. */
typedef struct school {
    kd_ctx *kd;
    test_memory memory;
    float x[SAMPLES * INPUTS];
    int32_t labels[SAMPLES];
    kd_data data;
    kd_model *teacher, *other;
    char lines[2048];
    double losses[512];
    int steps;
} school;

static void keep_line(void *user, const char *line)
{
    school *s = (school *)user;
    const size_t used = strlen(s->lines);
    snprintf(s->lines + used, sizeof s->lines - used, "%s\n", line);
}

static kd_model *create(school *s, const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(s->kd, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(s->kd));
    return m;
}

static void school_open(school *s)
{
    kd_ctx_desc desc;
    int i, c;
    memset(s, 0, sizeof *s);
    desc = test_memory_desc(&s->memory);
    desc.log = keep_line;
    desc.log_user = s;
    assert_int_equal(kd_open(&desc, &s->kd), KD_OK);
    fill(s->x, 1, SAMPLES * INPUTS, 1, 0);
    for (i = 0; i < SAMPLES; ++i) {
        float scores[CLASSES];
        for (c = 0; c < CLASSES; ++c) scores[c] = s->x[i * INPUTS + c] + s->x[i * INPUTS + c + 1] / 2;
        s->labels[i] = largest_of(scores, CLASSES);
    }
    s->data = kd_data_f32(s->x, s->labels, SAMPLES, INPUTS, 1, 1, CLASSES);
    s->teacher = create(s, "6: dense 12, tanh, dense 4", 5);
    s->other = create(s, "6: dense 12, tanh, dense 4", 6);
}

static void school_close(school *s)
{
    kd_model_destroy(s->teacher);
    kd_model_destroy(s->other);
    test_memory_close(s->kd, &s->memory);
}

static int keep_loss(void *user, const kd_step_info *info)
{
    school *s = (school *)user;
    if (s->steps < KD__COUNT(s->losses)) s->losses[s->steps++] = info->loss;
    return 0;
}

static kd_train_desc school_desc(school *s, int epochs)
{
    kd_train_desc d = kd_train_defaults();
    d.epochs = epochs;
    d.batch = 32;
    d.lr = 0.01f;
    d.on_step = keep_loss;
    d.user = s;
    return d;
}

/* A student trained so, from the same start every time. */
static kd_model *train(school *s, const kd_train_desc *d)
{
    kd_model *m = create(s, "6: dense 8, tanh, dense 4", 9);
    s->steps = 0;
    s->lines[0] = 0;
    if (kd_train(m, &s->data, d) != KD_OK) fail_msg("%s", kd_error(s->kd));
    return m;
}

static double distance(school *s, const kd_model *m, const kd_model *teacher)
{
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics;
    desc.teacher = teacher;
    assert_ok(s->kd, kd_evaluate_with(m, &s->data, &desc, &metrics));
    return metrics.kl;
}

/* Every loss trains, and the teacher matters: the student comes nearer to the teacher it has than to another, and
   nearer than one that had the hard term alone; the seed of the student being the same, other teachers make other
   students. Losses without a teacher differ from cross-entropy. */
static void test_student_follows(void **state)
{
    school s;
    int kind;
    (void)state;
    school_open(&s);
    for (kind = KD_LOSS_KL; kind < KD_LOSS_COUNT; ++kind) {
        kd_train_desc d = school_desc(&s, 25);
        kd_model *plain, *m, *swapped;
        double near_teacher, near_other, from_labels;
        if (kind == KD_LOSS_BCE) continue;
        d.loss = kd_loss_defaults(KD_LOSS_CE);
        plain = train(&s, &d);
        d.loss = kd_loss_defaults((kd_loss_kind)kind);
        if (!needs_teacher((kd_loss_kind)kind)) {
            if (kind == KD_LOSS_TFKD) d.loss.alpha = 0.5f;
            m = train(&s, &d);
            assert_true(kd_model_hash(m) != kd_model_hash(plain));
            assert_true(s.losses[s.steps - 1] < s.losses[0]);
            kd_model_destroy(plain);
            kd_model_destroy(m);
            continue;
        }
        d.teacher = s.teacher;
        m = train(&s, &d);
        assert_true(s.losses[s.steps - 1] < s.losses[0]);
        d.teacher = s.other;
        swapped = train(&s, &d);
        assert_true(kd_model_hash(m) != kd_model_hash(swapped));
        near_teacher = distance(&s, m, s.teacher);
        near_other = distance(&s, swapped, s.teacher);
        from_labels = distance(&s, plain, s.teacher);
        if (!(near_teacher < near_other && near_teacher < from_labels))
            fail_msg("%s: KL to its teacher %g, of a student of another %g, of one of the labels alone %g",
                     kd_loss_name((kd_loss_kind)kind), near_teacher, near_other, from_labels);
        kd_model_destroy(plain);
        kd_model_destroy(m);
        kd_model_destroy(swapped);
    }
    school_close(&s);
}

static void weights_of(const kd_model *m, float *values)
{
    kd_tensor_info info;
    int i;
    for (i = 0; i < kd_model_tensors(m); ++i) {
        assert_ok(m->kd, kd_model_tensor_info(m, i, &info));
        assert_ok(m->kd, kd_model_get_tensor(m, info.name, values, info.count));
        values += info.count;
    }
}

/* A step of plain SGD on a sum is the sum of the steps, and so is the loss. */
static void test_composition(void **state)
{
    enum { LOSSES = 5, WEIGHTS = 8 * 6 + 8 + 4 * 8 + 4 };
    static const float weights[LOSSES] = {0.5f, 2, 1, 0.25f, 3};
    kd_loss_desc losses[LOSSES];
    float start[WEIGHTS], one[WEIGHTS], sum[WEIGHTS];
    double wanted[WEIGHTS], loss = 0;
    school s;
    kd_train_desc d;
    kd_model *m;
    int i, k;
    (void)state;
    school_open(&s);
    losses[0] = kd_loss_defaults(KD_LOSS_CE);
    losses[1] = kd_loss_defaults(KD_LOSS_AUTO); /* hinton */
    losses[2] = kd_loss_defaults(KD_LOSS_DIST);
    losses[3] = kd_loss_defaults(KD_LOSS_TFKD);
    losses[4] = kd_loss_defaults(KD_LOSS_RKL);
    losses[4].standardise = 1;
    d = school_desc(&s, 1);
    d.batch = SAMPLES;
    d.optimizer = KD_SGD;
    d.momentum = 0;
    d.lr = 0.05f;
    d.teacher = s.teacher;
    m = create(&s, "6: dense 8, tanh, dense 4", 9);
    weights_of(m, start);
    for (k = 0; k < WEIGHTS; ++k) wanted[k] = (double)start[k];
    kd_model_destroy(m);
    for (i = 0; i < LOSSES; ++i) {
        const int uses = kd__loss_look_up(losses[i].kind)->teacher != KD__NO;
        d.teacher = uses ? s.teacher : NULL;
        d.loss = losses[i];
        m = train(&s, &d);
        weights_of(m, one);
        loss += (double)weights[i] * s.losses[0];
        for (k = 0; k < WEIGHTS; ++k) wanted[k] += (double)weights[i] * ((double)one[k] - (double)start[k]);
        kd_model_destroy(m);
    }
    d.teacher = s.teacher;
    d.loss = kd_loss_defaults(KD_LOSS_AUTO);
    d.losses = losses;
    d.loss_weights = weights;
    d.loss_count = LOSSES;
    m = train(&s, &d);
    weights_of(m, sum);
    assert_near(s.losses[0], loss, 1e-6);
    for (k = 0; k < WEIGHTS; ++k) {
        assert_near(sum[k], wanted[k], 2e-6);
        if (k < 8 * 6) assert_true(sum[k] != start[k]);
    }
    kd_model_destroy(m);
    school_close(&s);
}

/* One loss in a list is that loss, to the bit; any number of threads computes the same sum. */
static void test_lists(void **state)
{
    kd_loss_desc losses[3];
    school s;
    kd_train_desc d;
    kd_model *m;
    uint64_t hash;
    (void)state;
    school_open(&s);
    d = school_desc(&s, 3);
    d.teacher = s.teacher;
    d.loss = losses[0] = kd_loss_defaults(KD_LOSS_HINTON);
    m = train(&s, &d);
    hash = kd_model_hash(m);
    kd_model_destroy(m);
    d.loss = kd_loss_defaults(KD_LOSS_AUTO);
    d.losses = losses;
    d.loss_count = 1;
    m = train(&s, &d);
    assert_true(kd_model_hash(m) == hash);
    kd_model_destroy(m);
    losses[1] = kd_loss_defaults(KD_LOSS_MLLD);
    losses[2] = kd_loss_defaults(KD_LOSS_DKD);
    d.loss_count = 3;
    m = train(&s, &d);
    hash = kd_model_hash(m);
    kd_model_destroy(m);
    s.kd->desc.threads = 2;
    assert_int_equal(kd__pool_open(s.kd), KD_OK);
    m = train(&s, &d);
    kd__pool_close(s.kd);
    s.kd->desc.threads = 1;
    assert_true(kd_model_hash(m) == hash);
    kd_model_destroy(m);
    school_close(&s);
}

/* Nothing is asked of the allocator between the first step and the last. */
typedef struct counter {
    const test_memory *memory;
    int first, last;
} counter;

static int count_requests(void *user, const kd_step_info *info)
{
    counter *c = (counter *)user;
    (void)info;
    if (!c->first) c->first = c->memory->requests;
    c->last = c->memory->requests;
    return 0;
}

static void test_no_allocation(void **state)
{
    school s;
    int kind;
    (void)state;
    school_open(&s);
    for (kind = KD_LOSS_CE; kind < KD_LOSS_COUNT; ++kind) {
        kd_train_desc d = school_desc(&s, 2);
        kd_model *m;
        counter c = {NULL, 0, 0};
        c.memory = &s.memory;
        d.loss = kd_loss_defaults((kd_loss_kind)kind);
        d.teacher = needs_teacher((kd_loss_kind)kind) ? s.teacher : NULL;
        d.on_step = count_requests;
        d.user = &c;
        m = create(&s, "6: dense 8, tanh, dense 4", 9);
        assert_ok(s.kd, kd_train(m, &s.data, &d));
        assert_true(c.first > 0);
        assert_int_equal(c.first, c.last);
        kd_model_destroy(m);
    }
    school_close(&s);
}

/* Over `warmup` epochs the soft term comes in: without a learning rate, the loss is hard + share * soft. */
static void test_warmup(void **state)
{
    school s;
    kd_train_desc d;
    kd_model *m;
    double full, hard;
    int epoch;
    (void)state;
    school_open(&s);
    d = school_desc(&s, 6);
    d.teacher = s.teacher;
    d.batch = SAMPLES;
    d.lr = 0;
    d.loss = kd_loss_defaults(KD_LOSS_DKD);
    d.loss.warmup = 0;
    m = train(&s, &d);
    full = s.losses[0];
    assert_near(s.losses[5], full, 1e-5);
    kd_model_destroy(m);
    d.loss.soft_weight = 0;
    m = train(&s, &d);
    hard = s.losses[0];
    kd_model_destroy(m);
    d.loss.soft_weight = 1;
    d.loss.warmup = 4;
    m = train(&s, &d);
    for (epoch = 0; epoch < 6; ++epoch)
        assert_near(s.losses[epoch], hard + KD__MIN((epoch + 1) / 4.0, 1) * (full - hard), 1e-5);
    kd_model_destroy(m);
    school_close(&s);
}

/* ---- epochs without the teacher -------------------------------------------------------------------------- */

static int taught; /* samples that the teacher was asked about */

static int ask_teacher(void *user, const float *x, const int32_t *samples, int n, float *logits)
{
    school *s = (school *)user;
    (void)samples;
    taught += n;
    return kd_predict(s->teacher, x, n, logits) != KD_OK;
}

/* Two trainings of two epochs each, one after the other, from the start of all. */
static uint64_t in_two_parts(school *s, kd_train_desc first, kd_train_desc second)
{
    kd_model *m;
    uint64_t hash;
    first.epochs = second.epochs = 2;
    m = train(s, &first);
    assert_ok(s->kd, kd_train(m, &s->data, &second));
    hash = kd_model_hash(m);
    kd_model_destroy(m);
    return hash;
}

static uint64_t in_one(school *s, const kd_train_desc *d)
{
    kd_model *m = train(s, d);
    const uint64_t hash = kd_model_hash(m);
    kd_model_destroy(m);
    return hash;
}

/* What is trained partly with a teacher is what is trained with it and without it, one after the other. */
static void test_pauses(void **state)
{
    school s;
    kd_feature_loss feature = kd_feature_loss_defaults(KD_FEATURE_HINT);
    kd_train_desc with, without, d;
    double some;
    int kind, features;
    (void)state;
    school_open(&s);
    feature.student = feature.teacher = "0";
    for (kind = KD_LOSS_CE + 1; kind < KD_LOSS_COUNT; ++kind) {
        for (features = 0; features < 2; ++features) {
            if (!needs_teacher((kd_loss_kind)kind)) continue;
            with = school_desc(&s, 4);
            with.optimizer = KD_SGD, with.momentum = 0, with.shuffle = 0;
            with.loss = kd_loss_defaults((kd_loss_kind)kind);
            without = with;
            without.loss = kd_loss_defaults(kind == KD_LOSS_BCE ? KD_LOSS_BCE : KD_LOSS_CE);
            with.teacher = s.teacher;
            if (features) with.features = &feature, with.feature_count = 1;
            with.loss.warmup = 0;
            if (kind == KD_LOSS_CTKD || with.loss.temperature_end > 0) continue; /* it moves with the epochs */
            d = with;
            d.teacher_from = 0.5f;
            assert_true(in_one(&s, &d) == in_two_parts(&s, without, with));
            d.teacher_from = 0, d.teacher_until = 0.5f;
            assert_true(in_one(&s, &d) == in_two_parts(&s, with, without));
            assert_true(in_one(&s, &d) != in_one(&s, &with));
        }
    }
    { /* a sample without a label teaches nothing in epochs without the teacher */
        int32_t labels[SAMPLES];
        int i;
        for (i = 0; i < SAMPLES; ++i) labels[i] = i % 2 ? KD_UNLABELLED : s.labels[i];
        d = school_desc(&s, 2);
        d.batch = SAMPLES, d.shuffle = 0, d.lr = 0;
        d.teacher = s.teacher, d.teacher_from = 0.5f;
        s.data.labels = labels;
        in_one(&s, &d);
        some = s.losses[0];
        for (i = 0; i < SAMPLES; ++i) labels[i] = i % 2 ? s.labels[i] : KD_UNLABELLED;
        in_one(&s, &d);
        some += s.losses[0];
        s.data.labels = s.labels;
        in_one(&s, &d);
        assert_near(some, s.losses[0], 1e-5);
    }
    { /* losses that use no teacher move on; mse with targets keeps its options */
        static const float weights[] = {1, 0};
        kd_loss_desc losses[2];
        float targets[SAMPLES * 4];
        double whole[4];
        int i;
        losses[0] = kd_loss_defaults(KD_LOSS_TFKD), losses[1] = kd_loss_defaults(KD_LOSS_KL);
        losses[0].alpha = 0, losses[0].alpha_end = 1;
        d = school_desc(&s, 4);
        d.batch = SAMPLES, d.shuffle = 0, d.lr = 0, d.teacher = s.teacher;
        d.losses = losses, d.loss_weights = weights, d.loss_count = 2;
        in_one(&s, &d);
        memcpy(whole, s.losses, sizeof whole);
        d.teacher_from = 0.25f, d.teacher_until = 0.5f;
        in_one(&s, &d);
        for (i = 0; i < 4; ++i) assert_near(s.losses[i], whole[i], 1e-6);
        for (i = 0; i < SAMPLES * 4; ++i) targets[i] = (float)(i % 7);
        s.data.targets = targets;
        d = school_desc(&s, 4);
        d.batch = SAMPLES, d.shuffle = 0, d.lr = 0;
        d.loss = kd_loss_defaults(KD_LOSS_MSE);
        d.loss.reduction = KD_REDUCTION_ELEMENTS, d.loss.soft_weight = 0.5f, d.loss.hard_weight = 1;
        in_one(&s, &d);
        whole[0] = s.losses[0];
        d.teacher = s.teacher, d.teacher_from = 0.5f;
        in_one(&s, &d);
        assert_near(s.losses[0], whole[0], 1e-6);
        assert_true(fabs(s.losses[3] - whole[0]) > 1e-3);
        s.data.targets = NULL;
    }
    d = school_desc(&s, 20);
    d.teacher_fn = ask_teacher, d.teacher_user = &s;
    d.teacher_from = 0.15f, d.teacher_until = 0.85f;
    taught = 0;
    in_one(&s, &d);
    assert_int_equal(taught, 14 * SAMPLES);
    assert_non_null(strstr(s.lines, "kd_train: without the teacher from epoch 1 on\n"
                                    "kd_train: with the teacher from epoch 4 on\n"
                                    "kd_train: without the teacher from epoch 18 on\n"));
    school_close(&s);
}

static void test_pauses_refused(void **state)
{
    school s;
    kd_model *m;
    kd_train_desc d;
    kd_data data;
    float targets[SAMPLES * 4];
    uint64_t before;
    (void)state;
    school_open(&s);
    memset(targets, 0, sizeof targets);
    m = create(&s, "6: dense 8, tanh, dense 4", 9);
    before = kd_model_hash(m);
#define REFUSED_IN_PAUSES(change, text)                                                                            \
    d = school_desc(&s, 4), data = s.data, d.teacher = s.teacher, d.teacher_until = 0.5f;                          \
    change;                                                                                                        \
    assert_fails(s.kd, kd_train(m, &data, &d), KD_ERR_ARGUMENT, text);                                             \
    assert_true(kd_model_hash(m) == before)
    REFUSED_IN_PAUSES(d.teacher = NULL, "teacher_from and teacher_until need a teacher");
    REFUSED_IN_PAUSES(d.teacher_from = 0.75f, "teacher_until must be 0.75 to 1, got 0.5");
    REFUSED_IN_PAUSES(d.teacher_from = -0.1f, "teacher_from must be 0 to 1, got -0.1");
    REFUSED_IN_PAUSES(d.teacher_from = 0.5f,
                      "teacher_from 0.5 and teacher_until 0.5 leave none of 4 epochs to the teacher");
    REFUSED_IN_PAUSES((data.targets = targets, d.loss = kd_loss_defaults(KD_LOSS_MSE), d.augment.mixup = 1),
                      "in epochs without the teacher mse has targets, which mixup does not blend");
    REFUSED_IN_PAUSES(data.labels = NULL, "in epochs without the teacher loss ce needs labels, got none");
    REFUSED_IN_PAUSES((d.loss = kd_loss_defaults(KD_LOSS_MSE), d.loss.inputs = KD_INPUTS_ADVERSARIAL,
                       d.attack.epsilon = d.attack.step = 0.1f, d.attack.loss = kd_loss_defaults(KD_LOSS_KL)),
                      "attacks on a loss that uses it need it in every epoch");
#undef REFUSED_IN_PAUSES
    kd_model_destroy(m);
    m = create(&s, "6: dense 1", 9);
    {
        kd_model *teacher = create(&s, "6: dense 1", 10);
        data = s.data, data.classes = 2;
        d = school_desc(&s, 4);
        d.teacher = teacher, d.teacher_until = 0.5f, d.loss = kd_loss_defaults(KD_LOSS_MSE);
        assert_fails(s.kd, kd_train(m, &data, &d), KD_ERR_ARGUMENT,
                     "loss mse has no targets, and cross-entropy of a single output teaches nothing");
        kd_model_destroy(teacher);
    }
    kd_model_destroy(m);
    school_close(&s);
}

/* The temperature of ctkd stands still in the first epoch, and then goes where the soft term grows. */
static void test_learned_temperature(void **state)
{
    school s;
    int i;
    (void)state;
    school_open(&s);
    for (i = 0; i < 4; ++i) {
        kd_model *m = create(&s, "6: dense 8, tanh, dense 4", 9);
        kd_train_desc desc = school_desc(&s, 1);
        kd_trainer *t;
        float *weights = (float *)malloc(m->weight_count * sizeof *weights);
        kd_step_info info;
        double before, after, derivative;
        int32_t order[SAMPLES];
        kd__batch batch;
        int k;
        memset(&info, 0, sizeof info);
        memset(&batch, 0, sizeof batch);
        for (k = 0; k < SAMPLES; ++k) order[k] = k;
        desc.batch = SAMPLES;
        desc.teacher = i % 2 ? s.teacher : s.other;
        desc.loss = kd_loss_defaults(KD_LOSS_CTKD);
        desc.loss.hard_weight = 0;
        desc.loss.standardise = i / 2;
        desc.optimizer = i ? KD_ADAM : KD_SGD;
        assert_ok(s.kd, kd_trainer_open(m, &s.data, &desc, &t));
        assert_ok(s.kd, kd__trainer_train(t, order, SAMPLES, 0, 1, &info));
        assert_true(t->theta[0] == 1);
        memcpy(weights, m->weights, m->weight_count * sizeof *weights);
        assert_ok(s.kd, kd__trainer_train(t, order, SAMPLES, 10, 1, &info));
        assert_true(t->theta[0] != 1);
        /* the same batch by the same weights, at the old and the new temperature */
        memcpy(m->weights, weights, m->weight_count * sizeof *weights);
        t->losses[0].kind = KD_LOSS_KL;
        batch.samples = order, batch.n = SAMPLES, batch.epoch = 10, batch.soft_targets = t->teacher.logits;
        kd__run_forward(t->run, t->feed.x, SAMPLES);
        t->losses[0].temperature = (float)kd__trainer_temperature(1, &derivative);
        assert_near(t->losses[0].temperature, 1 + 20 / (1 + exp(-1.0)), 1e-6);
        assert_near(derivative, 20 * exp(-1.0) / pow(1 + exp(-1.0), 2), 1e-9);
        t->losses[0].adjust = KD_ADJUST_SHIFT; /* in double precision: the step is small */
        assert_ok(s.kd, kd__trainer_evaluate_all(t, KD_INPUTS_CLEAN, &batch, &before));
        t->losses[0].temperature = (float)kd__trainer_temperature((double)t->theta[0], &derivative);
        assert_ok(s.kd, kd__trainer_evaluate_all(t, KD_INPUTS_CLEAN, &batch, &after));
        if (!(after > before))
            fail_msg("from T = 15.62 to %g: %.12g, %.12g", (double)t->losses[0].temperature, before, after);
        kd_trainer_close(t);
        free(weights);
        kd_model_destroy(m);
    }
    school_close(&s);
}

/* Several teachers are averaged at the temperature of each loss. */
static void test_several_teachers(void **state)
{
    const kd_model *both[2];
    kd_loss_desc losses[2];
    float logits[2][SAMPLES * CLASSES], average[SAMPLES * CLASSES], student[SAMPLES * CLASSES];
    const float *each[2];
    school s;
    kd_train_desc d;
    kd_model *m;
    double wanted = 0, value;
    int i;
    (void)state;
    school_open(&s);
    both[0] = s.teacher;
    both[1] = s.other;
    losses[0] = kd_loss_defaults(KD_LOSS_KL);
    losses[1] = kd_loss_defaults(KD_LOSS_TTM);
    losses[1].hard_weight = 0;
    m = create(&s, "6: dense 8, tanh, dense 4", 9);
    assert_ok(s.kd, kd_predict(m, s.x, SAMPLES, student));
    kd_model_destroy(m);
    for (i = 0; i < 2; ++i) {
        assert_ok(s.kd, kd_predict(both[i], s.x, SAMPLES, logits[i]));
        each[i] = logits[i];
    }
    for (i = 0; i < 2; ++i) {
        assert_ok(s.kd, kd_average_teachers(s.kd, each, NULL, 2, SAMPLES, CLASSES, losses[i].temperature, average));
        assert_ok(s.kd, kd_loss(s.kd, &losses[i], student, average, NULL, SAMPLES, CLASSES, NULL, &value));
        wanted += value;
    }
    d = school_desc(&s, 1);
    d.batch = SAMPLES;
    d.shuffle = 0;
    d.teachers = both;
    d.teacher_count = 2;
    d.losses = losses;
    d.loss_count = 2;
    m = train(&s, &d);
    assert_near(s.losses[0], wanted, 1e-6);
    kd_model_destroy(m);
    school_close(&s);
}

/* What training sees is the mean of the logits: the loss of its first step, with any loss, T and weights. */
static void test_logits_averaged(void **state)
{
    static const float weights[] = {1, 3}, nothing[] = {0, 0};
    const kd_model *both[2];
    kd_loss_desc losses[2];
    float logits[2][SAMPLES * CLASSES], average[SAMPLES * CLASSES], student[SAMPLES * CLASSES];
    float even[SAMPLES * CLASSES];
    const float *each[2];
    school s;
    kd_train_desc d;
    double wanted = 0, value, probabilities;
    int i;
    (void)state;
    school_open(&s);
    both[0] = s.teacher;
    both[1] = s.other;
    losses[0] = kd_loss_defaults(KD_LOSS_KL);
    losses[1] = kd_loss_defaults(KD_LOSS_MSE);
    d = school_desc(&s, 1);
    d.batch = SAMPLES;
    d.shuffle = 0;
    d.lr = 0;
    d.teachers = both;
    d.teacher_weights = weights;
    d.teacher_count = 2;
    d.losses = losses;
    d.loss_count = 2;
    {
        kd_model *m = train(&s, &d);
        probabilities = s.losses[0];
        assert_ok(s.kd, kd_predict(m, s.x, SAMPLES, student));
        kd_model_destroy(m);
    }
    for (i = 0; i < 2; ++i) {
        assert_ok(s.kd, kd_predict(both[i], s.x, SAMPLES, logits[i]));
        each[i] = logits[i];
    }
    assert_ok(s.kd, kd_average_logits(s.kd, each, weights, 2, SAMPLES, CLASSES, average));
    for (i = 0; i < SAMPLES * CLASSES; ++i)
        assert_near(average[i], 0.25 * (double)logits[0][i] + 0.75 * (double)logits[1][i], 1e-7);
    assert_ok(s.kd, kd_average_logits(s.kd, each, NULL, 2, SAMPLES, CLASSES, even));
    for (i = 0; i < SAMPLES * CLASSES; ++i)
        assert_near(even[i], 0.5 * (double)logits[0][i] + 0.5 * (double)logits[1][i], 1e-7);
    for (i = 0; i < 2; ++i) {
        assert_ok(s.kd, kd_loss(s.kd, &losses[i], student, average, NULL, SAMPLES, CLASSES, NULL, &value));
        wanted += value;
    }
    d.teacher_average = KD_AVERAGE_LOGITS;
    kd_model_destroy(train(&s, &d));
    assert_near(s.losses[0], wanted, 1e-6);
    assert_int_equal(kd_average_logits(NULL, each, weights, 2, SAMPLES, CLASSES, average), KD_ERR_ARGUMENT);
    assert_fails(s.kd, kd_average_logits(s.kd, each, weights, 0, SAMPLES, CLASSES, average), KD_ERR_ARGUMENT,
                 "kd_average_logits: needs 1 to 64 teachers");
    assert_fails(s.kd, kd_average_logits(s.kd, each, weights, 2, SAMPLES, CLASSES, NULL), KD_ERR_ARGUMENT, "needs");
    assert_fails(s.kd, kd_average_logits(s.kd, each, nothing, 2, SAMPLES, CLASSES, average), KD_ERR_ARGUMENT,
                 "teacher 0 has no logits, or a weight that is not positive");
    assert_true(fabs(s.losses[0] - probabilities) > 1e-3);
    school_close(&s);
}

/* Without a learning rate, the loss of each epoch is that of its own temperature and alpha. */
static void test_curricula(void **state)
{
    enum { EPOCHS = 5 };
    static const kd_loss_kind kinds[] = {KD_LOSS_HINTON, KD_LOSS_RKL, KD_LOSS_DKD, KD_LOSS_TFKD, KD_LOSS_DIST};
    school s;
    int i, epoch;
    (void)state;
    school_open(&s);
    for (i = 0; i < KD__COUNT(kinds); ++i) {
        const int has_alpha = (kd__loss_look_up(kinds[i])->moves & KD__ALPHA) != 0;
        kd_train_desc d = school_desc(&s, EPOCHS);
        double moving[EPOCHS], first, last;
        d.batch = SAMPLES;
        d.lr = 0;
        d.teacher = needs_teacher(kinds[i]) ? s.teacher : NULL;
        d.loss = kd_loss_defaults(kinds[i]);
        d.loss.warmup = 0;
        d.loss.temperature = 8;
        d.loss.alpha = 0.75f;
        d.loss.temperature_end = 2;
        if (has_alpha) d.loss.alpha_end = 0.25f;
        kd_model_destroy(train(&s, &d));
        memcpy(moving, s.losses, sizeof moving);
        d.epochs = 1;
        kd_model_destroy(train(&s, &d));
        assert_near(s.losses[0], moving[0], 0); /* a single epoch has the start */
        for (epoch = 0; epoch < EPOCHS; ++epoch) {
            d.loss.temperature = 8 - 1.5f * (float)epoch;
            if (has_alpha) d.loss.alpha = 0.75f - 0.125f * (float)epoch;
            d.loss.temperature_end = 0;
            d.loss.alpha_end = -1;
            kd_model_destroy(train(&s, &d));
            assert_near(moving[epoch], s.losses[0], 1e-7);
        }
        first = moving[0], last = moving[EPOCHS - 1];
        assert_true(fabs(first - last) > 1e-4);
    }
    school_close(&s);
}

/* A loss has an end for each number that it uses, and refuses the other. */
static void test_curricula_refused(void **state)
{
    static const float s[] = {1, -1, 0.5f, 0, 2, 1, 0, 3, 1}, t[] = {0, 1, 2, -1, 1, 0, 1, 1, -2};
    static const int32_t labels[] = {0, 2, 0};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int kind, which;
    (void)state;
    for (kind = KD_LOSS_CE; kind < KD_LOSS_COUNT; ++kind) {
        const float *teacher = needs_teacher((kd_loss_kind)kind) ? t : NULL;
        double start, changed, still;
        for (which = 0; which < 2; ++which) {
            kd_loss_desc d = kd_loss_defaults((kd_loss_kind)kind);
            float *number = which ? &d.alpha : &d.temperature, *end = which ? &d.alpha_end : &d.temperature_end;
            kd_result result;
            assert_ok(kd, kd_loss(kd, &d, s, teacher, labels, 3, 3, NULL, &start));
            *end = 0.5f;
            result = kd_loss(kd, &d, s, teacher, labels, 3, 3, NULL, &still);
            *end = which ? -1.0f : 0.0f;
            *number = 0.5f;
            assert_ok(kd, kd_loss(kd, &d, s, teacher, labels, 3, 3, NULL, &changed));
            if (changed == start || kind == KD_LOSS_CTKD) {
                assert_int_equal(result, KD_ERR_ARGUMENT);
                assert_non_null(
                    strstr(kd_error(kd), which ? "no alpha that could go" : "no temperature that could"));
            } else {
                assert_int_equal(result, KD_OK);
                assert_true(still == start);
            }
        }
    }
    {
        kd_loss_desc d = kd_loss_defaults(KD_LOSS_BCE);
        double value;
        d.alpha_end = 0.5f;
        assert_fails(kd, kd_loss(kd, &d, s, NULL, labels, 3, 3, NULL, &value), KD_ERR_ARGUMENT, "no alpha");
        assert_ok(kd, kd_loss(kd, &d, s, t, labels, 3, 3, NULL, &value));
        d.alpha_end = -0.5f;
        assert_fails(kd, kd_loss(kd, &d, s, t, labels, 3, 3, NULL, &value), KD_ERR_ARGUMENT,
                     "alpha_end must be in [0, 1], or -1 where alpha stays, got -0.5");
        d.alpha_end = 2;
        assert_fails(kd, kd_loss(kd, &d, s, t, labels, 3, 3, NULL, &value), KD_ERR_ARGUMENT, "alpha_end must be");
        d.alpha_end = -1;
        d.temperature_end = -1;
        assert_fails(kd, kd_loss(kd, &d, s, t, labels, 3, 3, NULL, &value), KD_ERR_ARGUMENT,
                     "temperature_end must be");
    }
    kd_close(kd);
}

static void test_announcement(void **state)
{
    kd_loss_desc losses[2];
    static const float weights[] = {1, 0.5f};
    school s;
    kd_train_desc d;
    (void)state;
    school_open(&s);
    d = school_desc(&s, 1);
    d.teacher = s.teacher;
    kd_model_destroy(train(&s, &d));
    assert_string_equal(s.lines,
                        "kd_train: loss hinton: soft term times 0.9, hard term times 0.1, T = 4 (convention "
                        "default)\n");
    d.loss.convention = KD_CONVENTION_TFKD;
    kd_model_destroy(train(&s, &d));
    assert_string_equal(s.lines, "kd_train: loss hinton: soft term times 0.225, hard term times 0.1, T = 4 "
                                 "(convention tf-kd)\n");
    losses[0] = kd_loss_defaults(KD_LOSS_CTKD);
    losses[1] = kd_loss_defaults(KD_LOSS_DKD);
    d.loss = kd_loss_defaults(KD_LOSS_AUTO);
    d.losses = losses;
    d.loss_weights = weights;
    d.loss_count = 2;
    kd_model_destroy(train(&s, &d));
    assert_string_equal(
        s.lines, "kd_train: loss ctkd: soft term times 0.9, hard term times 0.1, T = 15.62 and learned, over 10 "
                 "epochs (convention default)\n"
                 "kd_train: loss dkd: soft term times 0.5, hard term times 0.5, T = 4, over 20 epochs "
                 "(convention default)\n");
    d = school_desc(&s, 3);
    d.teacher = s.teacher;
    d.loss = kd_loss_defaults(KD_LOSS_HINTON);
    d.loss.temperature_end = 1, d.loss.alpha_end = 0.5f;
    kd_model_destroy(train(&s, &d));
    assert_string_equal(s.lines,
                        "kd_train: loss hinton: soft term times 0.9 to 0.5, hard term times 0.1 to 0.5, T = 4 "
                        "to 1 (convention default)\n");
    d = school_desc(&s, 1);
    d.teacher = s.teacher;
    d.loss = kd_loss_defaults(KD_LOSS_MSE); /* takes a teacher or targets */
    kd_model_destroy(train(&s, &d));
    assert_string_equal(s.lines,
                        "kd_train: loss mse: soft term times 1, hard term times 0, T = 4 (convention default)\n");
    d = school_desc(&s, 1);
    d.teacher = s.teacher;
    d.loss = kd_loss_defaults(KD_LOSS_BCE);
    kd_model_destroy(train(&s, &d));
    assert_string_equal(
        s.lines, "kd_train: loss bce: soft term times 0.9, hard term times 0.1, T = 4 (convention default)\n");
    d = school_desc(&s, 1);
    d.loss = kd_loss_defaults(KD_LOSS_TFKD); /* takes none, and has a soft term */
    kd_model_destroy(train(&s, &d));
    assert_string_equal(
        s.lines, "kd_train: loss tfkd: soft term times 0.025, hard term times 0.9, T = 40 (convention default)\n");
    d = school_desc(&s, 1);
    kd_model_destroy(train(&s, &d));
    assert_string_equal(s.lines, "");
    school_close(&s);
}

/* The first step of every loss under mixup: blended images, blended labels, and what kd_loss makes of them. */
static void test_mixup(void **state)
{
    school s;
    int kind;
    (void)state;
    school_open(&s);
    for (kind = KD_LOSS_CE; kind < KD_LOSS_COUNT; ++kind) {
        kd_model *m = create(&s, "6: dense 8, tanh, dense 4", 9);
        float student[SAMPLES * CLASSES], teacher[SAMPLES * CLASSES];
        kd_train_desc d = school_desc(&s, 1);
        const int has_teacher = needs_teacher((kd_loss_kind)kind);
        int i, c, blended = 0;
        double wanted;
        kd_trainer *t;
        d.batch = SAMPLES;
        d.augment.mixup = 0.4f;
        d.teacher = has_teacher ? s.teacher : NULL;
        d.loss = kd_loss_defaults((kd_loss_kind)kind);
        d.loss.warmup = 0;
        d.lr = 0;
        s.steps = 0;
        assert_ok(s.kd, kd_trainer_open(m, &s.data, &d, &t));
        assert_ok(s.kd, kd_trainer_step(t, NULL));
        for (i = 0; i < SAMPLES; ++i) {
            double sum = 0;
            int more = 0;
            for (c = 0; c < CLASSES; ++c) {
                sum += (double)t->feed.soft[i * CLASSES + c];
                more += t->feed.soft[i * CLASSES + c] > 0;
            }
            assert_near(sum, 1, 1e-6);
            blended += more == 2;
        }
        assert_true(blended > SAMPLES / 4);
        assert_ok(s.kd, kd_predict(m, t->feed.x, SAMPLES, student));
        assert_ok(s.kd, kd_predict(s.teacher, t->feed.x, SAMPLES, teacher));
        d.loss = t->losses[0];
        d.loss.soft_labels = t->feed.soft;
        assert_ok(s.kd, kd_loss(s.kd, &d.loss, student, has_teacher ? teacher : NULL, NULL, SAMPLES, CLASSES, NULL,
                                &wanted));
        assert_near(s.losses[0], wanted, 1e-5);
        kd_trainer_close(t);
        kd_model_destroy(m);
    }
    school_close(&s);
}

/* ---- diagnosis ------------------------------------------------------------------------------------------- */

/* The gradient by all weights of one loss over all samples: what one step of plain descent takes off. */
static void gradient_of(school *s, const kd_model *m, kd_loss_desc loss, const kd_attack_desc *attack, double *grad)
{
    kd_train_desc d = school_desc(s, 1);
    kd_model *moved;
    size_t i;
    d.batch = SAMPLES;
    d.optimizer = KD_SGD, d.momentum = 0, d.lr = 0.25f;
    d.teacher = needs_teacher(loss.kind) && !loss.to_targets ? s->teacher : NULL;
    d.loss = loss;
    if (attack) d.attack = *attack;
    assert_ok(s->kd, kd_model_clone(m, &moved));
    assert_ok(s->kd, kd_train(moved, &s->data, &d));
    for (i = 0; i < m->weight_count; ++i) grad[i] = 4 * ((double)m->weights[i] - (double)moved->weights[i]);
    kd_model_destroy(moved);
}

/* Of one output, the targets are the two probabilities that its sign decides between. */
static void test_diagnosis_of_one_output(void **state)
{
    double entropy = 0;
    float logits[SAMPLES];
    school s;
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_diagnosis found;
    kd_model *m, *teacher;
    int i;
    (void)state;
    school_open(&s);
    m = create(&s, "6: dense 1", 9);
    teacher = create(&s, "6: dense 5, tanh, dense 1", 10);
    for (i = 0; i < SAMPLES; ++i) s.labels[i] %= 2;
    s.data.classes = 2;
    d.teacher = teacher;
    d.loss = kd_loss_defaults(KD_LOSS_BCE);
    d.loss.temperature = 0.5f;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &found));
    assert_ok(s.kd, kd_predict(teacher, s.x, SAMPLES, logits));
    for (i = 0; i < SAMPLES; ++i) {
        const double p = 1 / (1 + exp(-2 * (double)logits[i]));
        entropy -= (p * log(p) + (1 - p) * log(1 - p)) / SAMPLES;
    }
    assert_near(found.target_entropy, entropy, 1e-6);
    d.loss = kd_loss_defaults(KD_LOSS_MSE); /* its own rows have no labels */
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &found));
    assert_true(found.hard_norm > 0 && found.soft_norm > 0);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    school_close(&s);
}

static void check_pulls(const kd_model *m, const kd_diagnosis *found, const double *hard, const double *soft)
{
    double hh = 0, ss = 0, hs = 0;
    size_t i;
    for (i = 0; i < m->weight_count; ++i) hh += hard[i] * hard[i], ss += soft[i] * soft[i], hs += hard[i] * soft[i];
    assert_near(found->hard_norm, sqrt(hh), 1e-4);
    assert_near(found->soft_norm, sqrt(ss), 1e-4);
    assert_near(found->gradient_cosine, hs / sqrt(hh * ss), 1e-4);
}

/* Where no sample has a label, the targets take their place, as if there were no labels at all. */
static void test_diagnosis_of_targets(void **state)
{
    school s;
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_diagnosis with, without;
    int32_t labels[SAMPLES];
    float *targets = test_floats(8, SAMPLES * CLASSES, 1);
    int i;
    (void)state;
    school_open(&s);
    for (i = 0; i < SAMPLES; ++i) labels[i] = KD_UNLABELLED;
    s.data.targets = targets;
    d.teacher = s.other;
    d.loss = kd_loss_defaults(KD_LOSS_MSE);
    s.data.labels = labels;
    assert_ok(s.kd, kd_diagnose(s.teacher, &s.data, &d, &with));
    s.data.labels = NULL;
    assert_ok(s.kd, kd_diagnose(s.teacher, &s.data, &d, &without));
    assert_true(with.hard_norm > 0 && with.hard_norm == without.hard_norm);
    assert_true(with.soft_norm > 0 && with.soft_norm == without.soft_norm);
    s.data.labels = labels;
    labels[SAMPLES - 1] = 0;
    assert_fails(s.kd, kd_diagnose(s.teacher, &s.data, &d, &with), KD_ERR_DATA, "label");
    free(targets);
    school_close(&s);
}

/* A loss that weighs nothing is 0, and so is its gradient; but what it would read must be numbers. */
static void test_weightless(void **state)
{
    enum { ROWS = 5, COLS = 7 };
    const int32_t labels[ROWS] = {0, 6, 3, 3, 1};
    float *s = test_floats(4, ROWS * COLS, 3), *t = test_floats(5, ROWS * COLS, 3), grad[ROWS * COLS];
    kd_isa isa;
    int kind, i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (kind = KD_LOSS_KL; kind < KD_LOSS_COUNT; ++kind) {
            kd_loss_desc desc = kd_loss_defaults((kd_loss_kind)kind);
            double value = 1;
            desc.soft_weight = desc.hard_weight = 0, desc.alpha = 1;
            for (i = 0; i < ROWS * COLS; ++i) grad[i] = 1;
            assert_ok(kd,
                      kd_loss(kd, &desc, s, needs_teacher(desc.kind) ? t : NULL, labels, ROWS, COLS, grad, &value));
            assert_true(value == 0);
            for (i = 0; i < ROWS * COLS; ++i) assert_true(grad[i] == 0);
            if (!needs_teacher(desc.kind)) continue;
            t[9] = (float)NAN;
            assert_int_equal(kd_loss(kd, &desc, s, t, labels, ROWS, COLS, grad, &value), KD_ERR_NOT_FINITE);
            t[9] = 1;
        }
        kd_close(kd);
    }
    free(s), free(t);
}

/* Each loss: cosine and norms as the trainer's own steps have them, entropy and metrics by their definitions. */
static void test_diagnosis(void **state)
{
    school s;
    int kind, r;
    (void)state;
    school_open(&s);
    for (kind = KD_LOSS_KL; kind < KD_LOSS_COUNT; ++kind) {
        kd_model *m = create(&s, "6: dense 8, tanh, dense 4", 9);
        double hard[400], soft[400], hh, ss, entropy = 0;
        float logits[SAMPLES * CLASSES];
        kd_diagnose_desc d = kd_diagnose_defaults();
        kd_loss_desc term;
        kd_diagnosis found;
        if (!needs_teacher((kd_loss_kind)kind)) {
            kd_model_destroy(m);
            continue;
        }
        assert_true(m->weight_count <= 400);
        d.loss = kd_loss_defaults((kd_loss_kind)kind);
        d.loss.temperature = 3;
        d.loss.warmup = 0;
        d.loss.label_smoothing = 0.1f;
        d.teacher = s.teacher;
        assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &found));
        term = d.loss;
        term.soft_weight = 1, term.hard_weight = 0;
        if (kind == KD_LOSS_HINTON || kind == KD_LOSS_BCE) term.alpha = 1;
        if (kind == KD_LOSS_CTKD) term.kind = KD_LOSS_KL; /* in training its temperature is another */
        gradient_of(&s, m, term, NULL, soft);
        term = kd_loss_defaults(kind == KD_LOSS_BCE ? KD_LOSS_BCE : KD_LOSS_CE);
        term.label_smoothing = 0.1f;
        if (kind == KD_LOSS_BCE) term.alpha = 0;
        gradient_of(&s, m, term, NULL, hard);
        check_pulls(m, &found, hard, soft);
        assert_true(found.gradient_cosine > -1 && found.gradient_cosine < 0.9999);
        assert_ok(s.kd, kd_predict(s.teacher, s.x, SAMPLES, logits));
        for (r = 0; r < SAMPLES * CLASSES; r += CLASSES) {
            double z[CLASSES], p[CLASSES];
            int c;
            for (c = 0; c < CLASSES; ++c) z[c] = (double)logits[r + c];
            reference_softmax(z, CLASSES, 3, p);
            for (c = 0; c < CLASSES; ++c) entropy -= p[c] * log(p[c]) / SAMPLES;
        }
        assert_near(found.target_entropy, entropy, 1e-6);
        assert_near(found.metrics.kl, distance(&s, m, s.teacher), 1e-12);
        assert_int_equal(found.metrics.classes, CLASSES);
        assert_ok(s.kd, kd_loss_weights(s.kd, &d.loss, CLASSES, &hh, &ss));
        assert_true(found.soft_weight == hh && found.hard_weight == ss);
        kd_model_destroy(m);
    }
    school_close(&s);
}

/* Another source of the same targets and another batch find the same; another teacher, or roles changed, do not. A
   student that is its teacher is not pulled by it. */
static void test_diagnosis_of_whom(void **state)
{
    float logits[SAMPLES * CLASSES], soft[SAMPLES * CLASSES] = {0};
    school s;
    kd_model *m, *twin;
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_diagnosis first, other;
    kd_data data;
    int i;
    (void)state;
    school_open(&s);
    m = create(&s, "6: dense 8, tanh, dense 4", 9);
    d.teacher = s.teacher;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &first));
    d.batch = 7;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &other));
    assert_near(other.gradient_cosine, first.gradient_cosine, 1e-5);
    assert_near(other.soft_norm, first.soft_norm, 1e-5);
    d.teacher = s.other;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &other));
    assert_true(fabs(other.gradient_cosine - first.gradient_cosine) > 0.01);
    assert_true(fabs(other.target_entropy - first.target_entropy) > 1e-4);
    d.teacher = m;
    assert_ok(s.kd, kd_diagnose(s.teacher, &s.data, &d, &other));
    assert_true(fabs(other.hard_norm - first.hard_norm) > 1e-3);
    d = kd_diagnose_defaults();
    data = s.data;
    data.teacher_logits = logits;
    assert_ok(s.kd, kd_predict(s.teacher, s.x, SAMPLES, logits));
    assert_ok(s.kd, kd_diagnose(m, &data, &d, &other));
    assert_memory_equal(&other, &first, sizeof first);
    assert_ok(s.kd, kd_diagnose(m, &data, NULL, &other));
    assert_memory_equal(&other, &first, sizeof first);
    for (i = 0; i < SAMPLES; ++i) soft[i * CLASSES + s.data.labels[i]] = 1;
    data.labels = NULL, data.soft_labels = soft; /* the same labels, as probabilities */
    assert_ok(s.kd, kd_diagnose(m, &data, &d, &other));
    assert_near(other.hard_norm, first.hard_norm, 1e-5);
    assert_near(other.gradient_cosine, first.gradient_cosine, 1e-5);
    assert_ok(s.kd, kd_model_clone(m, &twin));
    d.teacher = twin;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &other));
    assert_near(other.soft_norm, 0, 1e-6);
    assert_near(other.metrics.agreement, 1, 0);
    kd_model_destroy(twin);
    kd_model_destroy(m);
    school_close(&s);
}

/* Of a loss on adversarial images, both terms are those on the images that a training's attack would make, which
   are not those of images as they are; in batches as in one. */
static void test_diagnosis_attacked(void **state)
{
    double hard[400], soft[400];
    school s;
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_loss_desc ce;
    kd_diagnosis found, clean;
    kd_model *m;
    (void)state;
    school_open(&s);
    m = create(&s, "6: dense 8, tanh, dense 4", 9);
    d.teacher = s.teacher;
    d.loss = kd_loss_defaults(KD_LOSS_KL);
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &clean));
    d.loss.inputs = KD_INPUTS_ADVERSARIAL;
    d.attack = kd_attack_defaults(KD_ATTACK_FGSM);
    d.attack.epsilon = 0.2f, d.attack.low = -5, d.attack.high = 5;
    d.attack.loss = kd_loss_defaults(KD_LOSS_KL);
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &found));
    gradient_of(&s, m, d.loss, &d.attack, soft);
    ce = d.loss;
    ce.soft_weight = 0, ce.hard_weight = 1; /* for the attack has a teacher */
    gradient_of(&s, m, ce, &d.attack, hard);
    check_pulls(m, &found, hard, soft);
    assert_true(fabs(found.hard_norm - clean.hard_norm) > 0.01 && fabs(found.soft_norm - clean.soft_norm) > 0.01);
    d.batch = 7;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &found));
    check_pulls(m, &found, hard, soft);
    d.attack.loss = kd_loss_defaults(KD_LOSS_AUTO);
    s.labels[3] = 99;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_DATA, "label");
    kd_model_destroy(m);
    school_close(&s);
}

/* Of a regression, targets and teacher pull. */
static void test_diagnosis_of_regression(void **state)
{
    double hard[400], soft[400];
    float *targets = test_floats(5, SAMPLES * CLASSES, 2);
    school s;
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_diagnosis found;
    kd_model *m;
    (void)state;
    school_open(&s);
    m = create(&s, "6: dense 8, tanh, dense 4", 9);
    s.data.labels = NULL;
    s.data.targets = targets;
    d.teacher = s.teacher;
    d.loss = kd_loss_defaults(KD_LOSS_MSE);
    d.batch = 11;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &found));
    gradient_of(&s, m, d.loss, NULL, soft);
    d.loss.to_targets = 1;
    gradient_of(&s, m, d.loss, NULL, hard);
    check_pulls(m, &found, hard, soft);
    targets[9] = NAN;
    d.loss.to_targets = 0;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_NOT_FINITE, "targets");
    kd_model_destroy(m);
    school_close(&s);
    free(targets);
}

/* Running statistics and weights stay; what cannot be diagnosed is refused, and out stays. */
static void test_diagnosis_refused(void **state)
{
    school s;
    kd_model *m, *plain;
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_diagnosis found, kept;
    float logits[CLASSES];
    uint64_t hash;
    int i, requests;
    (void)state;
    school_open(&s);
    m = create(&s, "6: dense 8, batchnorm, relu, dropout 0.5, dense 4", 9);
    hash = kd_model_hash(m);
    memset(&found, 1, sizeof found);
    kept = found;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "needs a teacher, or data with");
    d.teacher = s.teacher;
    d.loss = kd_loss_defaults(KD_LOSS_CE);
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "loss ce would ignore the teacher");
    d.loss = kd_loss_defaults(KD_LOSS_HINTON);
    d.loss.columns = 4;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "not of one head");
    d.loss.columns = 0, d.loss.first = 1;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "not of one head");
    d.loss.first = 0, d.loss.task = 1;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "not of one head");
    d.loss = kd_loss_defaults(KD_LOSS_MSE);
    d.loss.to_targets = 1;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "to_targets has no soft term");
    d.loss = kd_loss_defaults(KD_LOSS_KL);
    d.loss.inputs = KD_INPUTS_ADVERSARIAL;
    d.attack.epsilon = -1;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "epsilon must be");
    d.loss = kd_loss_defaults(KD_LOSS_HINTON);
    d.cookie = 0;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_DEFAULTS, "kd_diagnose_defaults()");
    d = kd_diagnose_defaults();
    d.teacher = s.teacher;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_diagnose(NULL, &s.data, &d, &found), KD_ERR_ARGUMENT);
    d.loss = kd_loss_defaults(KD_LOSS_MSE);
    plain = create(&s, "6: dense 4", 9);
    for (i = 0; i < (int)plain->weight_count; ++i) plain->weights[i] *= 1e25f;
    assert_fails(s.kd, kd_diagnose(plain, &s.data, &d, &found), KD_ERR_NOT_FINITE,
                 "kd_diagnose: loss mse overflows");
    for (i = 0; i < (int)plain->weight_count; ++i) plain->weights[i] *= 1e14f;
    assert_fails(s.kd, kd_diagnose(plain, &s.data, &d, &found), KD_ERR_NOT_FINITE, "the student's output has");
    kd_model_destroy(plain);
    d.loss = kd_loss_defaults(KD_LOSS_HINTON);
    s.labels[3] = KD_UNLABELLED;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_DATA, "label");
    s.labels[3] = 0;
    s.data.labels = NULL;
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "loss hinton needs labels");
    d.loss = kd_loss_defaults(KD_LOSS_KL);
    assert_fails(s.kd, kd_diagnose(m, &s.data, &d, &found), KD_ERR_ARGUMENT, "loss ce needs labels");
    s.data.labels = s.labels;
    d.loss.inputs = KD_INPUTS_ADVERSARIAL;
    assert_ok(s.kd, kd_predict(m, s.x, 1, logits)); /* plans that are kept */
    requests = s.memory.requests;
    assert_ok(s.kd, kd_diagnose(m, &s.data, &d, &found));
    requests = s.memory.requests - requests;
    found = kept;
    for (i = 1; i <= requests; ++i) {
        s.memory.refuse_at = i;
        assert_int_equal(kd_diagnose(m, &s.data, &d, &found), KD_ERR_MEMORY);
        s.memory.refuse_at = 0;
    }
    assert_memory_equal(&found, &kept, sizeof found);
    assert_true(kd_model_hash(m) == hash);
    kd_model_destroy(m);
    school_close(&s);
}

static void test_training_refused(void **state)
{
    static const float bad[] = {1, -1}, worse[] = {NAN, 1};
    kd_loss_desc losses[17], ce = kd_loss_defaults(KD_LOSS_CE);
    school s;
    kd_train_desc d;
    kd_model *m;
    uint64_t hash;
    int i;
    (void)state;
    school_open(&s);
    m = create(&s, "6: dense 8, tanh, dense 4", 9);
    hash = kd_model_hash(m);
    for (i = 0; i < 17; ++i) losses[i] = kd_loss_defaults(KD_LOSS_KL);
#define TRAINING_REFUSED(result, text, change)                                                                     \
    do {                                                                                                           \
        d = school_desc(&s, 1);                                                                                    \
        d.teacher = s.teacher;                                                                                     \
        d.losses = losses;                                                                                         \
        d.loss_count = 2;                                                                                          \
        change;                                                                                                    \
        assert_fails(s.kd, kd_train(m, &s.data, &d), result, text);                                                \
        assert_true(kd_model_hash(m) == hash);                                                                     \
    } while (0)
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "losses and loss_count belong together", d.loss_count = 0);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "losses and loss_count belong together", d.losses = NULL);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "the count must be 0 to 16, got 17", d.loss_count = 17);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "the count must be 0 to 16, got -1", d.loss_count = -1);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "give loss or losses, not both", d.loss.kind = KD_LOSS_HINTON);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "the weight of loss 1 must be 0 to 1e+06, got -1", d.loss_weights = bad);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "the weight of loss 0 must be 0 to 1e+06, got nan", d.loss_weights = worse);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "none of the losses would use the teacher", d.losses = &ce; d.loss_count = 1);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "loss kl needs a teacher's logits", d.teacher = NULL);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "teacher_average must be 0 to 1, got 2",
                     d.teacher_average = (kd_teacher_average)2);
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "temperatures must be above 0", losses[1] = kd_loss_defaults(KD_LOSS_MLLD);
                     losses[1].temperatures[0] = -1);
    losses[1].cookie = 0;
    TRAINING_REFUSED(KD_ERR_DEFAULTS, "loss must start from kd_loss_defaults()", (void)0);
    losses[1] = kd_loss_defaults(KD_LOSS_DKD);
    s.labels[40] = KD_UNLABELLED;
    TRAINING_REFUSED(KD_ERR_DATA, "loss dkd needs the label of every row, but row 40 has none", (void)0);
    losses[1] = kd_loss_defaults(KD_LOSS_DIST);
    s.data.labels = NULL;
    TRAINING_REFUSED(KD_ERR_ARGUMENT, "loss dist needs labels for its hard term, got none; hard_weight = 0",
                     (void)0);
    losses[1].hard_weight = 0;
    d.losses = losses;
    d.loss_count = 2;
    assert_ok(s.kd, kd_train(m, &s.data, &d));
    s.data.labels = s.labels; /* one of which is missing, which a sum with a soft term takes */
    losses[1] = ce;
    assert_ok(s.kd, kd_train(m, &s.data, &d));
    kd_model_destroy(m);
    m = create(&s, "6: dense 1", 9);
    d = school_desc(&s, 1);
    d.loss = kd_loss_defaults(KD_LOSS_CE);
    memset(s.labels, 0, sizeof s.labels);
    s.data.classes = 2;
    assert_fails(s.kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT,
                 "the softmax of a single output is always 1, so that loss ce teaches nothing; bce and mse");
    kd_model_destroy(m);
    school_close(&s);
}

/* A row's loss writes its own columns and nothing behind them, which in a batch is another row. */
static void test_rows_stay_apart(void **state)
{
    enum { COLS = 5, ARRAYS = 7 };
    int kind, label, i, tried = 0;
    (void)state;
    for (kind = 0; kind < KD_LOSS_COUNT; ++kind) {
        const kd__loss_info *info = kd__loss_look_up((kd_loss_kind)kind);
        const kd_loss_desc desc = kd_loss_defaults((kd_loss_kind)kind);
        for (label = 0; label < COLS && info->row; ++label, ++tried) {
            double room[ARRAYS][COLS + 1];
            kd__soft_row r;
            memset(&r, 0, sizeof r);
            for (i = 0; i < ARRAYS * (COLS + 1); ++i)
                room[i / (COLS + 1)][i % (COLS + 1)] = 0.37 * (i * i % 11) - 1;
            for (i = 0; i < ARRAYS; ++i) room[i][COLS] = 12345;
            r.desc = &desc;
            r.cols = COLS;
            r.label = label;
            r.s = room[0], r.t = room[1], r.g = room[2], r.log_ps = room[3], r.log_pt = room[4];
            r.ps = room[5], r.pt = room[6];
            assert_true(isfinite(info->row(&r)));
            for (i = 0; i < ARRAYS; ++i) assert_true(room[i][COLS] == 12345);
        }
    }
    assert_true(tried > 10 * COLS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_stay_apart),
        cmocka_unit_test(test_like_pytorch),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_all_kinds),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_dkd_is_kd),
        cmocka_unit_test(test_high_temperature_is_mse),
        cmocka_unit_test(test_ttm_is_kd_of_a_softer_teacher),
        cmocka_unit_test(test_relatives),
        cmocka_unit_test(test_shift),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_equal_logits),
        cmocka_unit_test(test_standardisation_is_affine_invariant),
        cmocka_unit_test(test_dist_is_affine_invariant),
        cmocka_unit_test(test_adjustment),
        cmocka_unit_test(test_slope),
        cmocka_unit_test(test_weights_are_linear),
        cmocka_unit_test(test_conventions),
        cmocka_unit_test(test_effective_weights),
        cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_sure_student),
        cmocka_unit_test(test_nothing_varies),
        cmocka_unit_test(test_unlabelled),
        cmocka_unit_test(test_labels_not_needed),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_labels_missing),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_refused_memory),
        cmocka_unit_test(test_student_follows),
        cmocka_unit_test(test_composition),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_warmup),
        cmocka_unit_test(test_pauses),
        cmocka_unit_test(test_pauses_refused),
        cmocka_unit_test(test_learned_temperature),
        cmocka_unit_test(test_several_teachers),
        cmocka_unit_test(test_logits_averaged),
        cmocka_unit_test(test_curricula),
        cmocka_unit_test(test_curricula_refused),
        cmocka_unit_test(test_announcement),
        cmocka_unit_test(test_mixup),
        cmocka_unit_test(test_diagnosis),
        cmocka_unit_test(test_diagnosis_of_targets),
        cmocka_unit_test(test_weightless),
        cmocka_unit_test(test_diagnosis_of_whom),
        cmocka_unit_test(test_diagnosis_of_one_output),
        cmocka_unit_test(test_diagnosis_attacked),
        cmocka_unit_test(test_diagnosis_of_regression),
        cmocka_unit_test(test_diagnosis_refused),
        cmocka_unit_test(test_training_refused),
    };
    const int failed = cmocka_run_group_tests_name("methods", tests, NULL, NULL);
    test_print_skips("methods");
    return failed;
}
