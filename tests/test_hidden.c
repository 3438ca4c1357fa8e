/* examples/hidden.h: which words are hidden, and the loss of a model that tells them: against sums of its own, by
   finite differences, and in training, whatever the threads. */
#include "support.h"

#include "../examples/hidden.h"

enum { LENGTH = 24, TEXTS = 40, BYTES = LENGTH * BYTE_CLASSES };

static uint8_t texts[TEXTS][LENGTH];

/* Words of a to z, of one to six letters, some with letters of two bytes; the first text is one word that fills its
   room, the second blanks alone. */
static int write_texts(void **state)
{
    uint64_t random = 5;
    int i, k, n;
    (void)state;
    memset(texts, 0, sizeof texts);
    for (i = 2; i < TEXTS; ++i) {
        for (k = 0; k < LENGTH - 8; ++k) {
            for (n = 1 + (int)(kd__mix(++random) % 6); n > 0; --n)
                texts[i][k++] = (uint8_t)('a' + kd__mix(++random) % 26);
            if (i % 3 == 0) texts[i][k++] = 0xc3, texts[i][k++] = 0xa4;
            texts[i][k] = i % 5 ? ' ' : '\n';
        }
    }
    memset(texts[0], 'x', LENGTH);
    memset(texts[1], ' ', 3);
    return 0;
}

static void test_which(void **state)
{
    enum { WAYS = 500 };
    hidden_words h, other;
    int sample, i, words = 0, asked = 0, kinds[3] = {0, 0, 0}, differ = 0;
    (void)state;
    assert_true(hidden_open(&h, NULL, texts[0], TEXTS, LENGTH, 7));
    assert_true(hidden_open(&other, NULL, texts[0], TEXTS, LENGTH, 8));
    for (sample = 0; sample < TEXTS * WAYS; ++sample) {
        const uint8_t *text = texts[sample % TEXTS];
        int here = 0, at = 0, n;
        uint8_t seen[LENGTH];
        hide_words(&h, sample);
        memcpy(seen, h.seen, LENGTH);
        for (i = 0; i < LENGTH; ++i) {
            assert_true(text[i] || (!h.seen[i] && !h.asked[i]));
            assert_true(h.asked[i] || h.seen[i] == text[i]);
            assert_true(!h.asked[i] || !is_blank(text[i]));
        }
        for (; (n = next_word(&h, text, &at)) > 0; at += n) {
            int all = 0, same = 1, marks = 0;
            for (i = at; i < at + n; ++i)
                all += h.asked[i], same &= h.seen[i] == text[i], marks += h.seen[i] == HIDDEN_BYTE;
            assert_true(all == 0 || all == n); /* whole words */
            assert_true(marks == 0 || marks == n);
            if (sample % TEXTS > 1) ++words, asked += all > 0; /* one word is always asked for */
            here += all > 0;
            for (i = at; i < at + n && all && !marks; ++i) assert_non_null(memchr(text, h.seen[i], LENGTH));
            if (all && n > 3) ++kinds[marks ? 0 : same ? 2 : 1];
        }
        assert_int_equal(here > 0, sample % TEXTS != 1);
        hide_words(&other, sample);
        differ += memcmp(seen, other.seen, LENGTH) != 0;
        hide_words(&h, (sample + 1) % TEXTS);
        hide_words(&h, sample);
        assert_memory_equal(seen, h.seen, LENGTH); /* a function of the number */
    }
    assert_true(differ > TEXTS * WAYS / 2);
    assert_in_range(100 * asked / words, 15, 35); /* 15 %, but at least one of a few */
    i = kinds[0] + kinds[1] + kinds[2];
    assert_in_range(1000 * kinds[0] / i, 785, 815);
    assert_in_range(1000 * kinds[1] / i, 88, 112);
    assert_in_range(1000 * kinds[2] / i, 88, 112);
    hidden_close(&h), hidden_close(&other);
}

/* 15 % of many words */
static void test_share(void **state)
{
    enum { WORDS = 400 };
    uint8_t text[2 * WORDS];
    hidden_words h;
    int sample, i, asked = 0;
    (void)state;
    for (i = 0; i < WORDS; ++i) text[2 * i] = 'a', text[2 * i + 1] = ' ';
    assert_true(hidden_open(&h, NULL, text, 1, 2 * WORDS, 1));
    for (sample = 0; sample < 100; ++sample) {
        hide_words(&h, sample);
        for (i = 0; i < 2 * WORDS; ++i) asked += h.asked[i];
    }
    assert_in_range(asked, 5800, 6200);
    hidden_close(&h);
}

static void test_loss(void **state)
{
    enum { ROWS = 5, EXTRA = BYTE_CLASSES };
    static float logits[ROWS][BYTES + EXTRA], grad[ROWS][BYTES + EXTRA];
    const int32_t samples[ROWS] = {3, TEXTS, 1, 9 * TEXTS + 7, 3};
    kd_ctx *kd = test_open(KD_ISA_SCALAR, 1);
    hidden_words h;
    kd_loss_batch batch;
    double value, sum = 0;
    int r, i, c, count = 0, checked = 0;
    (void)state;
    assert_true(hidden_open(&h, kd, texts[0], TEXTS, LENGTH, 7));
    for (r = 0; r < ROWS; ++r)
        for (i = 0; i < BYTES + EXTRA; ++i) logits[r][i] = (float)((i * 7919 + r * 104729) % 2001 - 1000) / 500;
    memset(&batch, 0, sizeof batch);
    batch.student = logits[0], batch.labels = samples, batch.rows = ROWS, batch.cols = BYTES + EXTRA;
    batch.grad = grad[0];
    for (r = 0; r < ROWS; ++r)
        for (i = 0; i < BYTES + EXTRA; ++i) grad[r][i] = NAN;
    value = hidden_loss(&h, &batch);
    for (r = 0; r < ROWS; ++r) { /* the same sum, written out */
        hide_words(&h, samples[r]);
        for (i = 0; i < LENGTH; ++i) {
            const float *row = logits[r] + i * BYTE_CLASSES;
            double all = 0;
            if (!h.asked[i]) continue;
            for (c = 0; c < BYTE_CLASSES; ++c) all += exp((double)row[c]);
            sum += log(all) - (double)row[texts[samples[r] % TEXTS][i]];
            ++count;
        }
    }
    assert_true(count > 5);
    assert_near(value, sum / count, 1e-6);
    for (r = 0; r < ROWS; ++r) {
        uint8_t asked[LENGTH];
        hide_words(&h, samples[r]);
        memcpy(asked, h.asked, LENGTH);
        for (i = 0; i < BYTES + EXTRA; ++i) {
            const int at = i / BYTE_CLASSES;
            static float spare[ROWS][BYTES + EXTRA];
            kd_loss_batch moved = batch;
            double up, down;
            if (at >= LENGTH || !asked[at]) {
                assert_true(grad[r][i] == 0);
                continue;
            }
            if (i % 37 && i % BYTE_CLASSES != texts[samples[r] % TEXTS][at]) continue;
            moved.grad = spare[0];
            logits[r][i] += 0.01f, up = hidden_loss(&h, &moved);
            logits[r][i] -= 0.02f, down = hidden_loss(&h, &moved);
            logits[r][i] += 0.01f;
            assert_near((up - down) / 0.02, grad[r][i], 2e-5);
            ++checked;
        }
    }
    assert_true(checked > 100);
    batch.rows = 1, batch.labels = samples + 2; /* blanks alone: nothing is asked for */
    for (i = 0; i < BYTES + EXTRA; ++i) grad[0][i] = NAN;
    assert_true(hidden_loss(&h, &batch) == 0);
    for (i = 0; i < BYTES + EXTRA; ++i) assert_true(grad[0][i] == 0);
    batch.labels = samples, logits[0][0] = NAN;
    for (i = 0; i < BYTES; ++i) logits[0][i] = NAN;
    assert_true(isnan(hidden_loss(&h, &batch)));
    hidden_close(&h);
    kd_close(kd);
}

/* What follows the first letter of a word follows from it: a model learns to tell hidden words, the same one on any
   number of threads. */
static void test_training(void **state)
{
    enum { WAYS = 6, SIZE = 12, MANY = 60 };
    static uint8_t lines[MANY][SIZE], seen[WAYS * MANY][SIZE];
    static int32_t numbers[WAYS * MANY];
    char line[400];
    size_t at;
    uint64_t hash[2] = {0, 0};
    double first = 0, last = 0;
    int i, k, threads;
    (void)state;
    at = (size_t)snprintf(line, sizeof line, "tokens %d: embed 256 16, position, encoder 1 2, linear 256, concat(",
                          SIZE);
    for (i = 0; i < SIZE; ++i) at += (size_t)snprintf(line + at, sizeof line - at, "%stoken %d", i ? " | " : "", i);
    snprintf(line + at, sizeof line - at, ")");
    for (i = 0; i < MANY;
         ++i) { /* three words, each of one letter over and over, the three of each text the same */
        for (k = 0; k < SIZE; ++k) lines[i][k] = k % 4 == 3 ? ' ' : (uint8_t)('a' + i % 4);
        lines[i][SIZE - 1] = 0;
    }
    for (threads = 1; threads <= 2; ++threads) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, threads);
        kd_model *m;
        kd_data data;
        kd_train_desc d = kd_train_defaults();
        hidden_words h;
        kd_loss_batch batch;
        float *x = (float *)malloc(MANY * SIZE * sizeof *x),
              *logits = (float *)malloc(MANY * SIZE * 256 * sizeof *logits),
              *grad = (float *)malloc(MANY * SIZE * 256 * sizeof *grad);
        assert_true(hidden_open(&h, kd, lines[0], MANY, SIZE, 3));
        for (i = 0; i < WAYS * MANY; ++i) {
            hide_words(&h, i);
            memcpy(seen[i], h.seen, SIZE);
            numbers[i] = i;
        }
        assert_int_equal(kd_model_create(kd, line, 1, &m), KD_OK);
        assert_int_equal(kd_model_outputs(m), SIZE * 256);
        data = kd_data_text(seen[0], numbers, WAYS * MANY, SIZE, SIZE * 256);
        d.epochs = 12, d.batch = 20, d.lr = 0.005f, d.optimizer = KD_ADAM;
        d.loss = kd_loss_defaults(KD_LOSS_CUSTOM);
        d.loss.fn = hidden_loss, d.loss.user = &h;
        for (i = 0; i < MANY * SIZE; ++i) x[i] = seen[i / SIZE][i % SIZE];
        memset(&batch, 0, sizeof batch);
        batch.student = logits, batch.labels = numbers, batch.rows = MANY, batch.cols = SIZE * 256,
        batch.grad = grad;
        assert_ok(kd, kd_predict(m, x, MANY, logits));
        first = hidden_loss(&h, &batch);
        assert_ok(kd, kd_train(m, &data, &d));
        assert_ok(kd, kd_predict(m, x, MANY, logits));
        last = hidden_loss(&h, &batch);
        hash[threads - 1] = kd_model_hash(m);
        hidden_close(&h);
        free(x), free(logits), free(grad);
        kd_model_destroy(m);
        kd_close(kd);
    }
    assert_true(first > 5);
    if (!(last < 0.5)) fail_msg("%g, before %g", last, first);
    assert_true(hash[0] == hash[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_which),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_loss),
        cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests_name("hidden", tests, write_texts, NULL);
}
