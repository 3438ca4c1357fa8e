/* kd_loss and kd_average_teachers: every loss in every setting against a double-precision reference, finite
   differences and PyTorch; limits, invariances, repeatability, and what is refused. */
#include "support.h"
#include "reference.h"
#include "golden/losses.h"

/* Rows of soft labels do not sum to 1 here, so that a sum that is forgotten shows. kd_loss itself refuses them. */
#define kd_loss kd__loss_of_rows

/* ---- problems -------------------------------------------------------------------------------------------- */

/* The arguments of one call. teacher and soft labels are NULL where the setting has none. */
typedef struct problem {
    const char *name;
    kd_loss_desc desc;
    int rows, cols;
    float *student, *teacher, *soft_labels;
    int32_t *labels;
} problem;

static int classes_of(kd_loss_kind kind, int cols) { return kind == KD_LOSS_BCE && cols == 1 ? 2 : cols; }

/* Takes the three lists over. */
static problem problem_of(const golden_setting *s, int rows, int cols, float *student, float *teacher,
                          float *soft_labels)
{
    problem p;
    int r;
    p.name = s->name;
    p.rows = rows;
    p.cols = cols;
    p.student = student;
    p.teacher = s->teacher ? teacher : NULL;
    p.soft_labels = s->soft_labels ? soft_labels : NULL;
    if (!s->teacher) free(teacher);
    if (!s->soft_labels) free(soft_labels);
    p.labels = (int32_t *)malloc((size_t)rows * sizeof *p.labels);
    for (r = 0; r < rows; ++r)
        p.labels[r] = s->unlabelled && r % 3 == 1 ? KD_UNLABELLED : (7 * r + 3) % classes_of(s->kind, cols);
    p.desc = kd_loss_defaults(s->kind);
    p.desc.temperature = s->temperature;
    p.desc.alpha = s->alpha;
    p.desc.label_smoothing = s->smoothing;
    p.desc.reduction = s->reduction;
    p.desc.soft_labels = p.soft_labels;
    return p;
}

/* In a block of exactly its size, so that a step outside is noticed. */
static float *copy(const float *x, int count)
{
    float *y = (float *)malloc((size_t)count * sizeof *y);
    memcpy(y, x, (size_t)count * sizeof *y);
    return y;
}

static float *random_copy(uint64_t seed, int count, float scale, float shift)
{
    float *x = test_floats(seed, (size_t)count, scale), *y = copy(x, count);
    int i;
    free(x);
    for (i = 0; i < count; ++i) y[i] += shift;
    return y;
}

static problem random_problem(const golden_setting *s, int rows, int cols)
{
    const uint64_t seed = (uint64_t)(rows * 1000 + cols);
    return problem_of(s, rows, cols, random_copy(seed, rows * cols, 4, 0), random_copy(seed + 1, rows * cols, 5, 0),
                      random_copy(seed + 2, rows * cols, 0.5f, 0.5f));
}

static void problem_free(problem *p)
{
    free(p->student);
    free(p->teacher);
    free(p->soft_labels);
    free(p->labels);
}

static const golden_setting *setting(const char *name)
{
    int i;
    for (i = 0; i < KD__COUNT(golden_settings); ++i) {
        if (strcmp(golden_settings[i].name, name) == 0) return &golden_settings[i];
    }
    fail_msg("no setting has the name %s", name);
    return NULL;
}

static kd_result solve_result(kd_ctx *kd, const problem *p, float *grad, double *value)
{
    return kd_loss(kd, &p->desc, p->student, p->teacher, p->labels, p->rows, p->cols, grad, value);
}

static double solve(kd_ctx *kd, const problem *p, float *grad)
{
    double value = -1;
    if (solve_result(kd, p, grad, &value) != KD_OK) fail_msg("%s: %s", p->name, kd_error(kd));
    return value;
}

/* grad: (rows, cols), or NULL */
static double reference_loss(const problem *p, const double *student, double *grad)
{
    double *t = (double *)malloc((size_t)p->cols * 3 * sizeof *t), *q = t + p->cols, *unused = q + p->cols, sum = 0;
    int r, c;
    for (r = 0; r < p->rows; ++r) {
        const int at = r * p->cols;
        for (c = 0; c < p->cols; ++c) {
            t[c] = p->teacher ? (double)p->teacher[at + c] : 0;
            q[c] = p->soft_labels ? (double)p->soft_labels[at + c] : 0;
        }
        sum += reference_loss_row(&p->desc, p->cols, student + at, p->teacher ? t : NULL, p->soft_labels ? q : NULL,
                                  p->labels[r], p->rows, grad ? grad + at : unused);
    }
    free(t);
    return sum / p->rows;
}

static double *to_double(const float *x, int count)
{
    double *y = (double *)malloc((size_t)count * sizeof *y);
    int i;
    for (i = 0; i < count; ++i) y[i] = (double)x[i];
    return y;
}

/* A float's rounding, times what it is multiplied by on its way: T^2 in a value, T in a gradient, where there is a
   soft term. */
static void compare(kd_ctx *kd, const problem *p, double value, const float *grad, double wanted_value,
                    const double *wanted_grad)
{
    const double t = p->teacher && p->desc.kind != KD_LOSS_MSE ? (double)p->desc.temperature : 1;
    int i;
    if (!(fabs(value - wanted_value) <= 1e-6 * (fabs(wanted_value) + KD__MAX(1, t * t))))
        fail_msg("%s on %s, %d rows, %d columns: %.9g, expected %.9g", p->name, kd_isa_name(kd_ctx_isa(kd)),
                 p->rows, p->cols, value, wanted_value);
    for (i = 0; i < p->rows * p->cols; ++i) {
        const double scale = KD__MAX(1, t) / p->rows, error = fabs((double)grad[i] - wanted_grad[i]);
        if (!(error <= 1e-6 * (fabs(wanted_grad[i]) + scale)))
            fail_msg("%s on %s, %d rows, %d columns: gradient %d is %.8g, expected %.8g", p->name,
                     kd_isa_name(kd_ctx_isa(kd)), p->rows, p->cols, i, (double)grad[i], wanted_grad[i]);
    }
}

/* ---- values and gradients -------------------------------------------------------------------------------- */

/* Every setting, short rows and long ones with every tail, fewer and more rows than a vector has lanes; and
   AVX2, AVX-512 and NEON agree on every bit. */
static void test_sizes(void **state)
{
    static const int row_counts[] = {1, 3, 8, 17, 35};
    kd_ctx *contexts[KD_ISA_COUNT] = {NULL};
    kd_isa isa;
    int i, j, cols;
    (void)state;
    FOR_EACH_ISA(isa) contexts[isa] = test_open(isa, 1);
    for (i = 0; i < KD__COUNT(golden_settings); ++i) {
        for (cols = 1; cols <= 65; ++cols) {
            for (j = 0; j < KD__COUNT(row_counts); ++j) {
                problem p = random_problem(&golden_settings[i], row_counts[j], cols);
                const int count = p.rows * p.cols;
                const size_t bytes = (size_t)count * sizeof(float);
                double *student = to_double(p.student, count), *wanted_grad = to_double(p.student, count);
                const double wanted = reference_loss(&p, student, wanted_grad);
                float *grad = (float *)malloc(bytes), *first_grad = NULL;
                double first = 0;
                int k;
                for (k = KD_ISA_SCALAR; k < KD_ISA_COUNT; ++k) {
                    double value;
                    if (!contexts[k]) continue;
                    value = solve(contexts[k], &p, grad);
                    compare(contexts[k], &p, value, grad, wanted, wanted_grad);
                    if (k == KD_ISA_SCALAR) continue;
                    if (first_grad && (value != first || memcmp(grad, first_grad, bytes) != 0))
                        fail_msg("%s, %d rows, %d columns: other bits on %s", p.name, p.rows, cols,
                                 kd_isa_name((kd_isa)k));
                    if (!first_grad) first_grad = copy(grad, count), first = value;
                }
                free(first_grad);
                free(grad);
                free(student);
                free(wanted_grad);
                problem_free(&p);
            }
        }
    }
    for (i = 0; i < KD_ISA_COUNT; ++i) kd_close(contexts[i]);
}

/* The gradient is that of the value: central differences of the reference, which knows of no gradient here. */
static void test_differences(void **state)
{
    static const int sizes[] = {1, 2, 5, 16, 17, 33};
    kd_isa isa;
    int i, j, k;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            for (j = 0; j < KD__COUNT(sizes); ++j) {
                problem p = random_problem(&golden_settings[i], 4, sizes[j]);
                const int count = p.rows * p.cols;
                double *student = to_double(p.student, count), *slopes = to_double(p.student, count), value;
                float *grad = (float *)malloc((size_t)count * sizeof *grad);
                for (k = 0; k < count; ++k) {
                    const double h = 1e-5, kept = student[k];
                    double up;
                    student[k] = kept + h;
                    up = reference_loss(&p, student, NULL);
                    student[k] = kept - h;
                    slopes[k] = (up - reference_loss(&p, student, NULL)) / (2 * h);
                    student[k] = kept;
                }
                value = solve(kd, &p, grad);
                compare(kd, &p, value, grad, reference_loss(&p, student, NULL), slopes);
                free(grad);
                free(student);
                free(slopes);
                problem_free(&p);
            }
        }
        kd_close(kd);
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
        for (i = 0; i < KD__COUNT(golden_losses); ++i) {
            const golden_loss *g = &golden_losses[i];
            const int count = g->rows * g->cols;
            problem p = problem_of(g->setting, g->rows, g->cols, copy(golden_students, count),
                                   copy(golden_teachers, count), copy(golden_soft_labels, count));
            float *grad = (float *)malloc((size_t)count * sizeof *grad);
            const double value = solve(kd, &p, grad);
            compare(kd, &p, value, grad, g->value, g->grad);
            free(grad);
            problem_free(&p);
        }
        kd_close(kd);
    }
}

/* Without a gradient, and with the gradient in the student's place: the same numbers. */
static void test_places(void **state)
{
    kd_isa isa;
    int i, j;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            for (j = 0; j < 3; ++j) {
                problem p = random_problem(&golden_settings[i], 19, 7 + 12 * j);
                const size_t bytes = (size_t)(p.rows * p.cols) * sizeof(float);
                float *grad = (float *)malloc(bytes);
                const double value = solve(kd, &p, grad);
                assert_true(solve(kd, &p, NULL) == value);
                assert_true(solve(kd, &p, p.student) == value);
                assert_memory_equal(p.student, grad, bytes);
                free(grad);
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

/* Tasks in an order of their own, for workers of their own. */
static void backwards(void *user, int count, kd_task_fn task, void *arg)
{
    ++*(int *)user;
    for (; count > 0; --count) task(arg, count - 1, (count * 5) % 4);
}

/* The same bits for any number of threads and any order, and the right ones. */
static void test_threads(void **state)
{
    static const int sizes[][2] = {{2500, 3}, {1300, 16}, {1000, 65}, {700, 100}, {40, 3001}};
    kd_ctx *contexts[KD_ISA_COUNT][4];
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_isa isa;
    int calls[KD_ISA_COUNT] = {0}, i, j, k;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        desc.isa = isa;
        desc.threads = 4;
        desc.parallel_for = backwards;
        desc.parallel_user = &calls[isa];
        for (i = 0; i < 3; ++i) contexts[isa][i] = test_open(isa, 1 + i);
        assert_int_equal(kd_open(&desc, &contexts[isa][3]), KD_OK);
    }
    for (i = 0; i < KD__COUNT(sizes); ++i) {
        for (j = i % 2; j < KD__COUNT(golden_settings); j += 2) {
            problem p = random_problem(&golden_settings[j], sizes[i][0], sizes[i][1]);
            const int count = p.rows * p.cols;
            const size_t bytes = (size_t)count * sizeof(float);
            double *student = to_double(p.student, count), *wanted_grad = to_double(p.student, count);
            float *first = (float *)malloc(bytes), *grad = (float *)malloc(bytes);
            const double wanted = reference_loss(&p, student, wanted_grad);
            FOR_EACH_ISA(isa)
            {
                kd_ctx *const *kd = contexts[isa];
                const double value = solve(kd[0], &p, first);
                compare(kd[0], &p, value, first, wanted, wanted_grad);
                for (k = 1; k < 4; ++k) {
                    assert_true(solve(kd[k], &p, grad) == value);
                    assert_memory_equal(grad, first, bytes);
                }
            }
            free(student);
            free(wanted_grad);
            free(first);
            free(grad);
            problem_free(&p);
        }
    }
    FOR_EACH_ISA(isa)
    {
        assert_true(calls[isa] > 0);
        for (i = 0; i < 4; ++i) kd_close(contexts[isa][i]);
    }
}

/* ---- limits ---------------------------------------------------------------------------------------------- */

/* One row; value and gradient in units of `unit`. */
static void check_row(kd_ctx *kd, const kd_loss_desc *desc, int cols, const float *s, const float *t, int32_t label,
                      double unit, double wanted, const double *wanted_grad)
{
    double value = -1;
    float grad[8];
    int c;
    assert_ok(kd, kd_loss(kd, desc, s, t, &label, 1, cols, grad, &value));
    assert_near(value / unit, wanted, 1e-5);
    for (c = 0; c < cols; ++c) assert_near((double)grad[c] / unit, wanted_grad[c], 1e-5);
}

static void test_huge_logits(void **state)
{
    static const float s[] = {1e30f, -1e30f, 0}, t[] = {-1e30f, 5e29f, 1e30f}, big[] = {1e15f, -1e15f, 0}, zeros[3];
    static const double none[] = {0, 0, 0}, wrong[] = {1, -1, 0}, towards[] = {1, 0, -1},
                        twice[] = {2e15, -2e15, 0}, binary[] = {1, -1, 0.5};
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE), kl = kd_loss_defaults(KD_LOSS_KL),
                     mse = kd_loss_defaults(KD_LOSS_MSE), bce = kd_loss_defaults(KD_LOSS_BCE);
        kl.temperature = 1;
        check_row(kd, &ce, 3, s, NULL, 0, 1, 0, none);
        check_row(kd, &ce, 3, s, NULL, 1, 1, 2e30, wrong);
        check_row(kd, &kl, 3, s, s, 0, 1, 0, none);
        check_row(kd, &kl, 3, s, t, 0, 1, 1e30, towards);
        check_row(kd, &mse, 3, big, zeros, 0, 1, 2e30, twice);
        check_row(kd, &bce, 3, s, NULL, 1, 1, 2e30, binary);
        kd_close(kd);
    }
}

/* Towards temperature 0 both sides become certain, and T * KL is the student's gap; at high temperatures
   T^2 * KL is half the mean squared distance of the centred logits. A sigmoid is a softmax over two. */
static void test_temperatures(void **state)
{
    static const float s[] = {1, 2, 0.5f, -1}, t[] = {3, 1, 2, -2}, agrees[] = {-1, 5, 0, 2};
    static const double none[] = {0, 0, 0, 0}, gap[] = {-1, 1, 0, 0};
    kd_isa isa;
    int i, c;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        kd_loss_desc kl = kd_loss_defaults(KD_LOSS_KL), bce = kd_loss_defaults(KD_LOSS_BCE);
        bce.alpha = 1;
        for (i = 0; i < 2; ++i) {
            kl.temperature = i ? 1e-6f : 1e-3f;
            check_row(kd, &kl, 4, s, t, 0, (double)kl.temperature, 1, gap);
            check_row(kd, &kl, 4, s, agrees, 0, (double)kl.temperature, 0, none);
        }
        for (i = 0; i < 2; ++i) {
            double value, binary, limit = 0, binary_limit = 0, tolerance = i ? 5e-3 : 5e-2;
            float grad[4], binary_grad[4];
            const int32_t label = 0;
            kl.temperature = bce.temperature = i ? 1000.0f : 100.0f;
            assert_ok(kd, kd_loss(kd, &kl, s, t, NULL, 1, 4, grad, &value));
            assert_ok(kd, kd_loss(kd, &bce, s, t, &label, 1, 4, binary_grad, &binary));
            for (c = 0; c < 4; ++c) {
                const double distance = (double)(s[c] - t[c]), centred = distance - (0.625 - 1);
                limit += centred * centred / 8;
                binary_limit += distance * distance / 8;
                assert_near(grad[c], centred / 4, tolerance);
                assert_near(binary_grad[c], distance / 4, tolerance);
            }
            if (i == 0) assert_near(value, limit, tolerance);
            if (i == 0) assert_near(binary, binary_limit, tolerance);
        }
        kd_close(kd);
    }
}

/* Where the student says what the teacher says, the soft term and its gradient are exactly 0. */
static void test_equal_logits(void **state)
{
    kd_isa isa;
    int i, j, cols;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            if (!golden_settings[i].teacher) continue;
            for (cols = 1; cols <= 40; cols += 3) {
                problem p = random_problem(&golden_settings[i], 9, cols);
                const int count = p.rows * p.cols;
                float *grad = copy(p.student, count);
                p.desc.alpha = 1;
                memcpy(p.teacher, p.student, (size_t)count * sizeof *grad);
                assert_true(solve(kd, &p, grad) == 0);
                for (j = 0; j < count; ++j) assert_true(grad[j] == 0);
                free(grad);
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

/* A softmax over one column is 1, whatever the logits: nothing to learn but for sigmoids and squares. */
static void test_one_column(void **state)
{
    kd_isa isa;
    int i, r;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            problem p = random_problem(&golden_settings[i], 21, 1);
            float grad[21];
            const double value = solve(kd, &p, grad);
            const int learns = p.desc.kind == KD_LOSS_MSE || p.desc.kind == KD_LOSS_BCE;
            assert_int_equal(value != 0, learns);
            for (r = 0; r < p.rows; ++r) assert_int_equal(grad[r] != 0, learns);
            problem_free(&p);
        }
        kd_close(kd);
    }
}

/* ---- invariances ----------------------------------------------------------------------------------------- */

/* Sixteenths, of which sums are exact. */
static void to_sixteenths(float *x, int count)
{
    int i;
    for (i = 0; i < count; ++i) x[i] = (float)(int)(x[i] * 16) / 16;
}

/* Softmax knows differences only: a constant added to all logits of a row changes no bit. */
static void test_shift(void **state)
{
    kd_isa isa;
    int i, j, cols;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            if (golden_settings[i].kind == KD_LOSS_MSE || golden_settings[i].kind == KD_LOSS_BCE) continue;
            for (cols = 1; cols <= 40; cols += 3) {
                problem p = random_problem(&golden_settings[i], 9, cols);
                const int count = p.rows * p.cols;
                float *grad = copy(p.student, count), *shifted_grad = copy(p.student, count);
                double value;
                to_sixteenths(p.student, count);
                if (p.teacher) to_sixteenths(p.teacher, count);
                value = solve(kd, &p, grad);
                for (j = 0; j < count; ++j) {
                    p.student[j] += (float)(100 * (j / cols) - 300);
                    if (p.teacher) p.teacher[j] += (float)(7 - 50 * (j / cols));
                }
                assert_true(solve(kd, &p, shifted_grad) == value);
                assert_memory_equal(grad, shifted_grad, (size_t)count * sizeof *grad);
                free(grad);
                free(shifted_grad);
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

/* Divided by T, logits give the same soft term at temperature 1, but for T^2 in the value and T in the gradient. */
static void test_temperature_factor(void **state)
{
    static const kd_loss_kind kinds[] = {KD_LOSS_KL, KD_LOSS_HINTON, KD_LOSS_BCE};
    kd_isa isa;
    int i, j, cols;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(kinds); ++i) {
            for (cols = 2; cols <= 40; cols += 3) {
                problem p = random_problem(setting("hinton"), 5, cols);
                const int count = p.rows * p.cols;
                float *grad = copy(p.student, count), *cold_grad = copy(p.student, count);
                double value;
                p.desc.kind = kinds[i];
                p.desc.alpha = 1;
                p.desc.temperature = 4;
                value = solve(kd, &p, grad);
                for (j = 0; j < count; ++j) p.student[j] /= 4, p.teacher[j] /= 4;
                p.desc.temperature = 1;
                assert_near(value, 16 * solve(kd, &p, cold_grad), 1e-6);
                for (j = 0; j < count; ++j) assert_near(grad[j], 4 * (double)cold_grad[j], 1e-6);
                free(grad);
                free(cold_grad);
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

static void reverse_rows(float *x, int rows, int cols)
{
    int r, c;
    for (r = 0; r < rows / 2 && x; ++r) {
        for (c = 0; c < cols; ++c) {
            float *a = x + r * cols + c, *b = x + (rows - 1 - r) * cols + c, kept = *a;
            *a = *b;
            *b = kept;
        }
    }
}

/* The gradient of a row is a function of that row: wherever it stands and whatever stands beside it. */
static void test_rows_are_independent(void **state)
{
    kd_isa isa;
    int i, r, cols;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            for (cols = 1; cols <= 40; cols += 3) {
                problem p = random_problem(&golden_settings[i], 21, cols);
                const int count = p.rows * p.cols;
                float *grad = copy(p.student, count), *reversed = copy(p.student, count);
                const double value = solve(kd, &p, grad);
                reverse_rows(p.student, p.rows, cols);
                reverse_rows(p.teacher, p.rows, cols);
                reverse_rows(p.soft_labels, p.rows, cols);
                for (r = 0; r < p.rows / 2; ++r) {
                    const int32_t kept = p.labels[r];
                    p.labels[r] = p.labels[p.rows - 1 - r];
                    p.labels[p.rows - 1 - r] = kept;
                }
                assert_near(solve(kd, &p, reversed), value, 1e-12);
                reverse_rows(reversed, p.rows, cols);
                assert_memory_equal(grad, reversed, (size_t)count * sizeof *grad);
                free(grad);
                free(reversed);
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

/* A sigmoid is a softmax over the logits 0 and s: BCE of one column is Hinton's loss, or cross-entropy, of two. */
static void test_sigmoid_is_softmax_of_two(void **state)
{
    static const char *const names[] = {"bce", "bce, smoothing", "bce, teacher", "bce, teacher, smoothing",
                                        "bce, teacher, unlabelled"};
    kd_isa isa;
    int i, r;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(names); ++i) {
            problem p = random_problem(setting(names[i]), 21, 1);
            float grad[21], pair_grad[42], student[42], teacher[42];
            const double value = solve(kd, &p, grad);
            problem pair = p;
            for (r = 0; r < p.rows; ++r) {
                student[2 * r] = teacher[2 * r] = 0;
                student[2 * r + 1] = p.student[r];
                teacher[2 * r + 1] = p.teacher ? p.teacher[r] : 0;
            }
            pair.cols = 2;
            pair.student = student;
            pair.teacher = p.teacher ? teacher : NULL;
            pair.desc.kind = p.teacher ? KD_LOSS_HINTON : KD_LOSS_CE;
            assert_near(value, solve(kd, &pair, pair_grad), 1e-6);
            for (r = 0; r < p.rows; ++r) {
                assert_near(grad[r], pair_grad[2 * r + 1], 1e-6);
                assert_near(grad[r], -pair_grad[2 * r], 1e-6);
            }
            problem_free(&p);
        }
        kd_close(kd);
    }
}

/* alpha at its ends leaves one of the two losses, to the bit. */
static void test_ends_of_alpha(void **state)
{
    kd_isa isa;
    int cols;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (cols = 2; cols <= 40; cols += 3) {
            problem p = random_problem(setting("hinton"), 11, cols), alone = p;
            const size_t bytes = (size_t)(p.rows * p.cols) * sizeof(float);
            float *grad = (float *)malloc(bytes), *alone_grad = (float *)malloc(bytes);
            double value;
            p.desc.alpha = 1;
            value = solve(kd, &p, grad);
            alone.desc.kind = KD_LOSS_KL;
            assert_true(solve(kd, &alone, alone_grad) == value);
            assert_memory_equal(grad, alone_grad, bytes);
            p.desc.alpha = 0;
            value = solve(kd, &p, grad);
            alone.desc.kind = KD_LOSS_CE;
            alone.teacher = NULL;
            assert_true(solve(kd, &alone, alone_grad) == value);
            assert_memory_equal(grad, alone_grad, bytes);
            free(grad);
            free(alone_grad);
            problem_free(&p);
        }
        kd_close(kd);
    }
}

/* ---- labels ---------------------------------------------------------------------------------------------- */

/* Rows without a label have the soft term alone; the mean is over all rows all the same. */
static void test_unlabelled(void **state)
{
    static const char *const names[] = {"hinton", "hinton, smoothing", "bce, teacher", "bce, teacher, smoothing"};
    kd_isa isa;
    int i, r, c, cols;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(names); ++i) {
            for (cols = 1; cols <= 40; cols += 13) {
                problem p = random_problem(setting(names[i]), 10, cols);
                const float alpha = p.desc.alpha;
                float *full = copy(p.student, 10 * cols), *soft = copy(p.student, 10 * cols),
                      *mixed = copy(p.student, 10 * cols);
                double none, value;
                const double all = solve(kd, &p, full);
                p.desc.alpha = 1;
                value = solve(kd, &p, soft);
                p.desc.alpha = alpha;
                for (r = 4; r < 10; ++r) p.labels[r] = KD_UNLABELLED;
                solve(kd, &p, mixed);
                for (r = 0; r < 10; ++r) {
                    for (c = r * cols; c < (r + 1) * cols; ++c)
                        assert_near(mixed[c], r < 4 ? (double)full[c] : (double)alpha * (double)soft[c], 1e-6);
                }
                for (r = 0; r < 10; ++r) p.labels[r] = KD_UNLABELLED;
                none = solve(kd, &p, mixed);
                assert_near(none, (double)alpha * value, 1e-6);
                assert_true(cols == 1 || none != all);
                for (c = 0; c < 10 * cols; ++c) assert_near(mixed[c], (double)alpha * (double)soft[c], 1e-6);
                free(full);
                free(soft);
                free(mixed);
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

/* Labels that a loss does not need are not looked at: of kl and mse, and where there are soft labels. */
static void test_labels_not_needed(void **state)
{
    kd_isa isa;
    int i, j, r;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            const golden_setting *s = &golden_settings[i];
            if (!s->soft_labels && s->kind != KD_LOSS_KL && s->kind != KD_LOSS_MSE) continue;
            for (j = 0; j < 3; ++j) {
                problem p = random_problem(s, 12, 1 + 15 * j);
                const size_t bytes = (size_t)(p.rows * p.cols) * sizeof(float);
                int32_t *labels = p.labels;
                float *without = (float *)malloc(bytes), *with = (float *)malloc(bytes);
                double value;
                p.labels = NULL;
                value = solve(kd, &p, without);
                p.labels = labels;
                for (r = 0; r < p.rows; ++r) labels[r] = r % 3 ? r % 3 == 1 ? KD_UNLABELLED : 1 << 20 : -5;
                assert_true(solve(kd, &p, with) == value);
                assert_memory_equal(without, with, bytes);
                free(without);
                free(with);
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void test_defaults_and_names(void **state)
{
    static const char *const names[] = {"auto", "ce", "kl", "hinton", "mse", "bce"};
    int kind;
    (void)state;
    for (kind = 0; kind < KD__COUNT(names); ++kind) {
        const kd_loss_desc desc = kd_loss_defaults((kd_loss_kind)kind);
        assert_string_equal(kd_loss_name((kd_loss_kind)kind), names[kind]);
        assert_int_equal(desc.kind, kind);
        assert_true(desc.temperature == 4 && desc.alpha == 0.9f && desc.label_smoothing == 0);
        assert_int_equal(desc.reduction, KD_REDUCTION_ROWS);
        assert_null(desc.soft_labels);
    }
    assert_string_equal(kd_loss_name(KD_LOSS_COUNT), "unknown");
    assert_string_equal(kd_loss_name((kd_loss_kind)-1), "unknown");
}

/* A call that must fail with this message, and leave value and gradient as they were. */
static void refused(kd_ctx *kd, const problem *p, kd_result wanted, const char *text)
{
    float grad[64];
    double value = 123;
    int i;
    for (i = 0; i < 64; ++i) grad[i] = 7;
    assert_fails(kd, solve_result(kd, p, grad, &value), wanted, text);
    if (strncmp(kd_error(kd), "kd_loss: ", 9) != 0) fail_msg("who says \"%s\"?", kd_error(kd));
    assert_true(value == 123);
    for (i = 0; i < 64; ++i) assert_true(grad[i] == 7);
}

/* F.cross_entropy(s, y or q, weight=w, label_smoothing=0.125, reduction='none').mean() of torch 2.15 in double */
static const float weighed_student[12] = {1.5f,  -0.25f, 0.5f, 0.75f, 2.0f, -1.25f,
                                          -0.5f, 0.25f,  3.0f, 2.5f,  1.0f, -2.0f};
static const float weighed_soft[12] = {0.5f, 0.25f, 0.25f, 0, 1, 0, 0.25f, 0.75f, 0, 1, 0, 0};
static const int32_t weighed_labels[4] = {0, 2, 1, 0};
static const float class_weights[3] = {0.5f, 2.0f, 1.25f};
static const double weighed_values[2] = {2.5818365602133815, 1.8399383363877881};
static const double weighed_grads[2][12] = {
    {-0.01829872002, -0.004101576384, 0.02240029641, 0.06234932713, 0.2149660711, -0.2773153982, 0.007944585501,
     -0.4304886039, 0.4225440184, 0.005683066575, 0.006001727739, -0.01168479431},
    {0.1162036568, -0.09960683049, -0.01659682631, 0.09781709887, -0.09873924159, 0.000922142715, -0.02166319151,
     -0.3259065492, 0.3475697407, 0.005683066575, 0.006001727739, -0.01168479431}};

static void test_class_weights(void **state)
{
    static const float ones[3] = {1, 1, 1}, teacher[12] = {1, 0, -1, 0, 2, 0, 3, -1, 0, 0.5f, 0.25f, 0};
    static const kd_loss_kind kinds[] = {KD_LOSS_CE, KD_LOSS_HINTON, KD_LOSS_DKD, KD_LOSS_KL};
    int soft, i, k;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        float grad[12], hard[12], plain[12], weighed[12];
        double value, hard_value, plain_value, weighed_value, soft_weight, hard_weight;
        for (soft = 0; soft < 2; ++soft) {
            kd_loss_desc d = kd_loss_defaults(KD_LOSS_CE);
            d.class_weights = class_weights;
            d.label_smoothing = 0.125f;
            if (soft) d.soft_labels = weighed_soft;
            assert_ok(kd, kd_loss(kd, &d, weighed_student, NULL, weighed_labels, 4, 3, grad, &value));
            assert_near(value, weighed_values[soft], 1e-12);
            for (k = 0; k < 12; ++k) assert_near((double)grad[k], weighed_grads[soft][k], 1e-7);
        }
        for (i = 0; i < KD__COUNT(kinds); ++i) { /* the hard term alone is weighed; weights of 1 change nothing */
            kd_loss_desc d = kd_loss_defaults(kinds[i]), ce = kd_loss_defaults(KD_LOSS_CE);
            const float *t = i ? teacher : NULL;
            if (kinds[i] == KD_LOSS_KL) d.hard_weight = 0.75f;
            assert_ok(kd, kd_loss(kd, &ce, weighed_student, NULL, weighed_labels, 4, 3, hard, &hard_value));
            assert_ok(kd, kd_loss(kd, &d, weighed_student, t, weighed_labels, 4, 3, plain, &plain_value));
            assert_ok(kd, kd_loss_weights(kd, &d, 3, &soft_weight, &hard_weight));
            if (kinds[i] == KD_LOSS_CE) hard_weight = 1;
            d.class_weights = ones;
            assert_ok(kd, kd_loss(kd, &d, weighed_student, t, weighed_labels, 4, 3, weighed, &weighed_value));
            assert_near(weighed_value, plain_value, 1e-6);
            for (k = 0; k < 12; ++k) assert_near((double)weighed[k], (double)plain[k], 1e-6);
            d.class_weights = ce.class_weights = class_weights;
            assert_ok(kd, kd_loss(kd, &ce, weighed_student, NULL, weighed_labels, 4, 3, grad, &value));
            assert_ok(kd, kd_loss(kd, &d, weighed_student, t, weighed_labels, 4, 3, weighed, &weighed_value));
            assert_near(weighed_value, plain_value + hard_weight * (value - hard_value), 1e-6);
            for (k = 0; k < 12; ++k)
                assert_near((double)weighed[k], (double)plain[k] + hard_weight * (double)(grad[k] - hard[k]), 1e-6);
        }
        kd_close(kd);
    }
}

static void test_class_weights_refused(void **state)
{
    static const float wrong[3] = {1, 2, -1}, nan[3] = {NAN, 1, 1};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_loss_desc d = kd_loss_defaults(KD_LOSS_CE);
    double value;
    (void)state;
    d.class_weights = wrong;
    assert_fails(kd, kd_loss(kd, &d, weighed_student, NULL, weighed_labels, 4, 3, NULL, &value), KD_ERR_ARGUMENT,
                 "kd_loss: class_weights must be 0 to 1e6, that of class 2 is -1");
    d.class_weights = nan;
    assert_fails(kd, kd_loss(kd, &d, weighed_student, NULL, weighed_labels, 4, 3, NULL, &value), KD_ERR_ARGUMENT,
                 "kd_loss: class_weights must be 0 to 1e6, that of class 0 is nan");
    d = kd_loss_defaults(KD_LOSS_BCE);
    d.class_weights = class_weights;
    assert_fails(kd, kd_loss(kd, &d, weighed_student, NULL, weighed_labels, 4, 3, NULL, &value), KD_ERR_ARGUMENT,
                 "kd_loss: loss bce has no hard term that class_weights could weigh");
    d = kd_loss_defaults(KD_LOSS_KL);
    d.class_weights = class_weights;
    assert_fails(kd, kd_loss(kd, &d, weighed_student, weighed_soft, weighed_labels, 4, 3, NULL, &value),
                 KD_ERR_ARGUMENT, "kd_loss: loss kl has no hard term that class_weights could weigh");
    kd_close(kd);
}

static void test_arguments(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    const problem ce = random_problem(setting("ce"), 4, 5), hinton = random_problem(setting("hinton"), 4, 5);
    problem p;
    double value = 123;
    (void)state;
    assert_int_equal(solve_result(NULL, &ce, NULL, &value), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_loss(kd, NULL, ce.student, NULL, ce.labels, 4, 5, NULL, &value), KD_ERR_DEFAULTS,
                 "kd_loss: the loss must start from kd_loss_defaults()");
    assert_fails(kd, solve_result(kd, &ce, NULL, NULL), KD_ERR_ARGUMENT,
                 "needs student logits, a place for the value");
    assert_true(value == 123);
/* `from` but for one thing */
#define REFUSED(from, change, result, text)                                                                        \
    do {                                                                                                           \
        p = from;                                                                                                  \
        p.change;                                                                                                  \
        refused(kd, &p, result, text);                                                                             \
    } while (0)
    REFUSED(ce, desc.cookie = 0, KD_ERR_DEFAULTS, "the loss must start from kd_loss_defaults()");
    REFUSED(ce, desc.kind = KD_LOSS_AUTO, KD_ERR_ARGUMENT, "0 is no loss that can be computed");
    REFUSED(ce, desc.kind = KD_LOSS_COUNT, KD_ERR_ARGUMENT, "is no loss that can be computed");
    REFUSED(ce, desc.kind = (kd_loss_kind)-1, KD_ERR_ARGUMENT, "-1 is no loss that can be computed");
    REFUSED(ce, desc.kind = KD_LOSS_KL, KD_ERR_ARGUMENT, "loss kl needs a teacher's logits, got none");
    REFUSED(ce, desc.kind = KD_LOSS_HINTON, KD_ERR_ARGUMENT, "loss hinton needs a teacher's logits, got none");
    REFUSED(ce, desc.kind = KD_LOSS_MSE, KD_ERR_ARGUMENT, "loss mse needs a teacher's logits or targets, got none");
    REFUSED(hinton, desc.kind = KD_LOSS_CE, KD_ERR_ARGUMENT,
            "loss ce would ignore the teacher; use hinton or kl, or give no teacher");
    REFUSED(ce, labels = NULL, KD_ERR_ARGUMENT, "loss ce needs labels, got none");
    REFUSED(hinton, labels = NULL, KD_ERR_ARGUMENT, "loss hinton needs labels, got none");
    p = ce, p.desc.kind = KD_LOSS_BCE;
    REFUSED(p, labels = NULL, KD_ERR_ARGUMENT, "loss bce needs labels, got none");
    REFUSED(hinton, desc.temperature = 0, KD_ERR_ARGUMENT, "the temperature must be above 0, got 0");
    REFUSED(hinton, desc.temperature = -2, KD_ERR_ARGUMENT, "the temperature must be above 0, got -2");
    REFUSED(hinton, desc.temperature = NAN, KD_ERR_ARGUMENT, "the temperature must be above 0, got nan");
    REFUSED(hinton, desc.temperature = INFINITY, KD_ERR_ARGUMENT, "the temperature must be above 0, got inf");
    REFUSED(hinton, desc.alpha = -0.5f, KD_ERR_ARGUMENT, "alpha must be in [0, 1], got -0.5");
    REFUSED(hinton, desc.alpha = 1.5f, KD_ERR_ARGUMENT, "alpha must be in [0, 1], got 1.5");
    REFUSED(hinton, desc.alpha = NAN, KD_ERR_ARGUMENT, "alpha must be in [0, 1], got nan");
    REFUSED(ce, desc.label_smoothing = -0.5f, KD_ERR_ARGUMENT, "label smoothing must be in [0, 1), got -0.5");
    REFUSED(ce, desc.label_smoothing = 1, KD_ERR_ARGUMENT, "label smoothing must be in [0, 1), got 1");
    REFUSED(ce, desc.label_smoothing = NAN, KD_ERR_ARGUMENT, "label smoothing must be in [0, 1), got nan");
    REFUSED(ce, cols = 0, KD_ERR_ARGUMENT, "logits must have 1 to 16777216 columns, got 0");
    REFUSED(ce, cols = -3, KD_ERR_ARGUMENT, "logits must have 1 to 16777216 columns, got -3");
    REFUSED(ce, cols = (1 << 24) + 1, KD_ERR_ARGUMENT, "logits must have 1 to 16777216 columns, got 16777217");
    REFUSED(ce, rows = 0, KD_ERR_ARGUMENT, "at least one row, got 0");
    REFUSED(ce, rows = -1, KD_ERR_ARGUMENT, "at least one row, got -1");
    REFUSED(ce, student = NULL, KD_ERR_ARGUMENT, "needs student logits");
    p = ce, problem_free(&p);
    p = hinton, problem_free(&p);
    kd_close(kd);
}

static void test_bad_labels(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    problem p = random_problem(setting("hinton"), 4, 5), without;
    (void)state;
    p.labels[2] = 5;
    refused(kd, &p, KD_ERR_DATA, "label 5 of row 2 is outside 0 to 4");
    p.labels[2] = -1;
    refused(kd, &p, KD_ERR_DATA, "label -1 of row 2 is outside 0 to 4");
    p.labels[2] = KD_UNLABELLED + 1;
    refused(kd, &p, KD_ERR_DATA, "label -2147483647 of row 2 is outside 0 to 4");
    p.desc.kind = KD_LOSS_BCE;
    p.labels[2] = 5;
    refused(kd, &p, KD_ERR_DATA, "label 5 of row 2 is outside 0 to 4");
    /* a sigmoid of its own */
    p.cols = 1;
    p.labels[0] = 1, p.labels[1] = 0, p.labels[2] = KD_UNLABELLED, p.labels[3] = 2;
    refused(kd, &p, KD_ERR_DATA, "label 2 of row 3 is outside 0 to 1");
    p.desc.kind = KD_LOSS_HINTON;
    refused(kd, &p, KD_ERR_DATA, "label 1 of row 0 is outside 0 to 0");
    /* without a soft term, a row must have a label */
    without = p;
    without.teacher = NULL;
    without.cols = 5;
    without.labels[3] = 0;
    without.desc.kind = KD_LOSS_CE;
    refused(kd, &without, KD_ERR_DATA, "row 2 has no label, and nothing else to learn from");
    without.desc.kind = KD_LOSS_BCE;
    refused(kd, &without, KD_ERR_DATA, "row 2 has no label, and nothing else to learn from");
    problem_free(&p);
    kd_close(kd);
}

/* Puts a bad number into each place of x in turn, and has it named. */
static void check_not_finite(kd_ctx *kd, const problem *p, float *x, const char *whose)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const int count = p->rows * p->cols;
    float *grad = copy(x, count), *student = copy(p->student, count);
    double value;
    int i, j, in_place;
    for (i = 0; i < count; i += count / 7 + 1) {
        for (j = 0; j < 3; ++j) {
            const float kept = x[i];
            char text[100];
            snprintf(text, sizeof text, "kd_loss: %s has %s in row %d, column %d", whose,
                     j ? "an infinity" : "a NaN", i / p->cols, i % p->cols);
            x[i] = bad[j];
            for (in_place = 0; in_place < 2; ++in_place) {
                problem now = *p;
                memcpy(student, p->student, (size_t)count * sizeof *student);
                if (in_place) now.student = student;
                if (solve_result(kd, &now, in_place ? student : grad, &value) != KD_ERR_NOT_FINITE)
                    fail_msg("%s on %s: %s, and nobody noticed", p->name, kd_isa_name(kd_ctx_isa(kd)), text);
                assert_string_equal(kd_error(kd), text);
            }
            x[i] = kept;
        }
    }
    free(grad);
    free(student);
}

static void test_not_finite(void **state)
{
    static const int sizes[] = {1, 2, 16, 17, 40};
    kd_isa isa;
    int i, j;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_settings); ++i) {
            for (j = 0; j < KD__COUNT(sizes); ++j) {
                problem p = random_problem(&golden_settings[i], 5, sizes[j]);
                check_not_finite(kd, &p, p.student, "the student");
                if (p.teacher) check_not_finite(kd, &p, p.teacher, "the teacher");
                if (p.soft_labels) check_not_finite(kd, &p, p.soft_labels, "soft_labels");
                problem_free(&p);
            }
        }
        kd_close(kd);
    }
}

/* Finite numbers of which a float cannot hold the loss; and a temperature whose square is 0, which leaves nothing
   to compute but must not hide what is wrong with the logits. */
static void test_out_of_range(void **state)
{
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        problem p = random_problem(setting("mse"), 3, 4), wide = random_problem(setting("mse"), 3, 90);
        float grad[270];
        double value;
        int i;
        p.student[5] = 1e25f;
        assert_fails(kd, solve_result(kd, &p, NULL, &value), KD_ERR_NOT_FINITE, "kd_loss: the loss overflows");
        p.student[5] = 1;
        p.desc.kind = KD_LOSS_KL;
        p.desc.temperature = 1e30f;
        assert_fails(kd, solve_result(kd, &p, NULL, &value), KD_ERR_NOT_FINITE, "kd_loss: the loss overflows");
        p.desc.temperature = 1e-30f;
        assert_true(solve(kd, &p, grad) == 0);
        assert_true(grad[0] == 0 && grad[11] == 0);
        p.student[6] = NAN;
        assert_fails(kd, solve_result(kd, &p, grad, &value), KD_ERR_NOT_FINITE,
                     "kd_loss: the student has a NaN in row 1, column 2");
        wide.desc.kind = KD_LOSS_KL;
        wide.desc.temperature = 1e-30f;
        assert_true(solve(kd, &wide, grad) == 0);
        for (i = 0; i < 270; ++i) assert_true(grad[i] == 0);
        problem_free(&wide);
        problem_free(&p);
        kd_close(kd);
    }
}

static void test_refused_memory(void **state)
{
    test_memory memory;
    const kd_ctx_desc desc = test_memory_desc(&memory);
    problem p = random_problem(setting("hinton"), 4, 5);
    const float *const teachers[] = {p.teacher};
    float out[20];
    kd_ctx *kd;
    double first;
    (void)state;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    memory.refuse_at = 1;
    assert_fails(kd, kd_average_teachers(kd, teachers, NULL, 1, 4, 5, 2, out), KD_ERR_MEMORY, "out of memory");
    memory.refuse_at = 1;
    assert_fails(kd, solve_result(kd, &p, NULL, &first), KD_ERR_MEMORY, "out of memory");
    first = solve(kd, &p, NULL);
    memory.requests = 0;
    assert_true(solve(kd, &p, NULL) == first);
    assert_int_equal(memory.requests, 0); /* what was needed once is kept */
    problem_free(&p);
    test_memory_close(kd, &memory);
}

/* ---- several teachers ------------------------------------------------------------------------------------ */

enum { TEACHERS = 5 };

/* T * log(sum_i w_i softmax(x_i / T)) of one row */
static void reference_average(const float *const *x, const float *weights, int teachers, int at, int cols, double t,
                              double *y)
{
    double row[70], log_probs[70], total = 0;
    int i, c;
    for (i = 0; i < teachers; ++i) total += weights ? (double)weights[i] : 1;
    for (c = 0; c < cols; ++c) y[c] = 0;
    for (i = 0; i < teachers; ++i) {
        for (c = 0; c < cols; ++c) row[c] = (double)x[i][at + c];
        reference_log_softmax(row, cols, t, log_probs);
        for (c = 0; c < cols; ++c) y[c] += exp(log_probs[c]) * (weights ? (double)weights[i] : 1) / total;
    }
    for (c = 0; c < cols; ++c) y[c] = t * log(y[c]);
}

static void check_average(kd_ctx *kd, int teachers, const float *weights, int rows, int cols, float t, int in_place)
{
    float *x[TEACHERS], *out;
    const float *from[TEACHERS];
    double wanted[70], *all = (double *)malloc((size_t)(rows * cols) * sizeof *all);
    int i, r, c;
    for (i = 0; i < teachers; ++i) from[i] = x[i] = random_copy((uint64_t)(i + 1), rows * cols, 6, 0);
    for (r = 0; r < rows; ++r) {
        reference_average(from, weights, teachers, r * cols, cols, (double)t, wanted);
        for (c = 0; c < cols; ++c) all[r * cols + c] = wanted[c];
    }
    out = in_place ? x[teachers - 1] : copy(x[0], rows * cols);
    assert_ok(kd, kd_average_teachers(kd, from, weights, teachers, rows, cols, t, out));
    for (i = 0; i < rows * cols; ++i) {
        const double error = fabs((double)out[i] - all[i]);
        if (!(error <= 1e-6 * (fabs(all[i]) + (double)t)))
            fail_msg("average of %d at T = %g on %s, %d rows, %d columns: %d is %.8g, expected %.8g", teachers,
                     (double)t, kd_isa_name(kd_ctx_isa(kd)), rows, cols, i, (double)out[i], all[i]);
    }
    if (!in_place) free(out);
    for (i = 0; i < teachers; ++i) free(x[i]);
    free(all);
}

static void test_average(void **state)
{
    static const float weights[TEACHERS] = {1, 3, 0.25f, 2, 1e-3f}, temperatures[] = {1, 4, 0.5f, 20};
    static const int row_counts[] = {1, 7, 64, 65, 130}; /* work is done 64 rows at a time */
    kd_isa isa;
    int i, teachers, cols, way = 0;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(row_counts); ++i) {
            for (teachers = 1; teachers <= TEACHERS; ++teachers) {
                for (cols = 1; cols <= 65; cols += 8, ++way)
                    check_average(kd, teachers, way % 3 ? weights : NULL, row_counts[i], cols,
                                  temperatures[way % 4], way % 2);
            }
        }
        kd_close(kd);
    }
}

/* What it is for: distilling from the average pulls towards the mean of the teachers' probabilities. */
static void test_average_as_teacher(void **state)
{
    enum { ROWS = 6, COLS = 9 };
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        problem p = random_problem(setting("kl"), ROWS, COLS);
        float *other = random_copy(50, ROWS * COLS, 5, 0), first[ROWS * COLS], second[ROWS * COLS],
              grad[ROWS * COLS];
        const float *const both[] = {p.teacher, other};
        const float weights[] = {1, 3};
        int i;
        assert_ok(kd, kd_softmax(kd, p.teacher, ROWS, COLS, 4, first));
        assert_ok(kd, kd_softmax(kd, other, ROWS, COLS, 4, second));
        assert_ok(kd, kd_average_teachers(kd, both, weights, 2, ROWS, COLS, 4, p.teacher));
        solve(kd, &p, grad);
        assert_ok(kd, kd_softmax(kd, p.student, ROWS, COLS, 4, p.student));
        for (i = 0; i < ROWS * COLS; ++i)
            assert_near(grad[i],
                        4 * ((double)p.student[i] - 0.25 * (double)first[i] - 0.75 * (double)second[i]) / ROWS,
                        1e-6);
        free(other);
        problem_free(&p);
        kd_close(kd);
    }
}

static void test_average_arguments(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float x[6] = {1, 2, 3, 4, 5, 6}, out[6] = {7, 7, 7, 7, 7, 7};
    const float *many[65], *const *const all = many, good[] = {1, 2}, zero[] = {1, 0}, negative[] = {-1, 1},
                                         nan[] = {1, NAN}, infinite[] = {INFINITY, 1};
    int i;
    (void)state;
    for (i = 0; i < 65; ++i) many[i] = x;
#define AVERAGE(from, weights, teachers, rows, cols, t, to)                                                        \
    kd_average_teachers(kd, from, weights, teachers, rows, cols, t, to)
#define NEEDS "kd_average_teachers: needs 1 to 64 teachers, 0 rows or more, 1 column or more and no NULL, got "
#define POSITIVE "kd_average_teachers: the temperature must be above 0, got "
#define WEIGHT(i) "kd_average_teachers: teacher " #i " has no logits, or a weight that is not positive"
    assert_int_equal(kd_average_teachers(NULL, all, good, 2, 2, 3, 1, out), KD_ERR_ARGUMENT);
    assert_fails(kd, AVERAGE(NULL, good, 2, 2, 3, 1, out), KD_ERR_ARGUMENT, NEEDS);
    assert_fails(kd, AVERAGE(all, good, 2, 2, 3, 1, NULL), KD_ERR_ARGUMENT, NEEDS);
    assert_fails(kd, AVERAGE(all, good, 0, 2, 3, 1, out), KD_ERR_ARGUMENT, NEEDS);
    assert_fails(kd, AVERAGE(all, NULL, 65, 2, 3, 1, out), KD_ERR_ARGUMENT, NEEDS);
    assert_fails(kd, AVERAGE(all, good, 2, -1, 3, 1, out), KD_ERR_ARGUMENT, NEEDS);
    assert_fails(kd, AVERAGE(all, good, 2, 2, 0, 1, out), KD_ERR_ARGUMENT, NEEDS);
    assert_fails(kd, AVERAGE(all, good, 2, 2, 3, 0, out), KD_ERR_ARGUMENT, POSITIVE "0");
    assert_fails(kd, AVERAGE(all, good, 2, 2, 3, NAN, out), KD_ERR_ARGUMENT, POSITIVE "nan");
    assert_fails(kd, AVERAGE(all, good, 2, 2, 3, INFINITY, out), KD_ERR_ARGUMENT, POSITIVE "inf");
    assert_fails(kd, AVERAGE(all, zero, 2, 2, 3, 1, out), KD_ERR_ARGUMENT, WEIGHT(1));
    assert_fails(kd, AVERAGE(all, negative, 2, 2, 3, 1, out), KD_ERR_ARGUMENT, WEIGHT(0));
    assert_fails(kd, AVERAGE(all, nan, 2, 2, 3, 1, out), KD_ERR_ARGUMENT, WEIGHT(1));
    assert_fails(kd, AVERAGE(all, infinite, 2, 2, 3, 1, out), KD_ERR_ARGUMENT, WEIGHT(0));
    many[1] = NULL;
    assert_fails(kd, AVERAGE(all, good, 2, 2, 3, 1, out), KD_ERR_ARGUMENT, WEIGHT(1));
    many[1] = x;
    for (i = 0; i < 6; ++i) assert_true(out[i] == 7);
    assert_ok(kd, AVERAGE(all, NULL, 64, 2, 3, 1, out));
    for (i = 0; i < 6; ++i) assert_near(out[i], (double)x[i] - (i < 3 ? 3.40760596 : 6.40760596), 1e-6);
    kd_close(kd);
}

/* More rows than one task takes: each comes out as if it were alone. */
static void test_softmax_of_many_rows(void **state)
{
    enum { ROWS = 5000, COLS = 7 };
    float *x = test_floats(3, ROWS * COLS, 5), *y = test_floats(4, ROWS * COLS, 0), alone[COLS];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int r;
    (void)state;
    assert_true(kd__rows_per_task(COLS) < ROWS / 2);
    assert_ok(kd, kd_softmax(kd, x, ROWS, COLS, 2, y));
    for (r = 0; r < ROWS; ++r) {
        assert_ok(kd, kd_softmax(kd, x + r * COLS, 1, COLS, 2, alone));
        assert_memory_equal(y + r * COLS, alone, sizeof alone);
    }
    kd_close(kd);
    free(x);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_like_pytorch),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_huge_logits),
        cmocka_unit_test(test_temperatures),
        cmocka_unit_test(test_equal_logits),
        cmocka_unit_test(test_one_column),
        cmocka_unit_test(test_shift),
        cmocka_unit_test(test_softmax_of_many_rows),
        cmocka_unit_test(test_temperature_factor),
        cmocka_unit_test(test_rows_are_independent),
        cmocka_unit_test(test_sigmoid_is_softmax_of_two),
        cmocka_unit_test(test_ends_of_alpha),
        cmocka_unit_test(test_unlabelled),
        cmocka_unit_test(test_labels_not_needed),
        cmocka_unit_test(test_defaults_and_names),
        cmocka_unit_test(test_class_weights),
        cmocka_unit_test(test_class_weights_refused),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_bad_labels),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_out_of_range),
        cmocka_unit_test(test_refused_memory),
        cmocka_unit_test(test_average),
        cmocka_unit_test(test_average_as_teacher),
        cmocka_unit_test(test_average_arguments),
    };
    const int failed = cmocka_run_group_tests_name("losses", tests, NULL, NULL);
    test_print_skips("losses");
    return failed;
}
