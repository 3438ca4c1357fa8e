/* hidden.h - texts whose words are hidden, and the loss of a model that tells them: the masked words of BERT
   (Devlin et al. 2019, section 3.1), for models that read bytes. Not part of kd.h; include it after that.

   Of each text 15 % of the words are asked for, at least one: 8 of 10 have in place of all their bytes one that
   UTF-8 does not have, 1 of 10 bytes of the same text, and 1 of 10 stay. The loss is the mean of the cross-entropy
   over the bytes of these words. Which words are hidden, and how, depends on the seed and the sample's number. */
#ifndef HIDDEN_H
#define HIDDEN_H

enum { HIDDEN_BYTE = 255, BYTE_CLASSES = 256 };

typedef struct hidden_words {
    kd_ctx *kd;
    const uint8_t *texts; /* (count, length), as they are */
    int count, length;
    uint64_t seed;
    uint8_t *asked, *seen; /* (length): 1 where a byte is asked for; the text with hidden words */
    float *logits, *grad;  /* (bytes asked for, 256) */
    int32_t *bytes;        /* (bytes asked for) */
    int room;              /* for how many of these */
} hidden_words;

/* splitmix64 (Vigna 2015): its finaliser */
static uint64_t hidden_random(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static int is_blank(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

/* Where the next word begins at or behind `at`, and its bytes; 0: none follows. */
static int next_word(const hidden_words *h, const uint8_t *text, int *at)
{
    int n = 0;
    while (*at < h->length && text[*at] && is_blank(text[*at])) ++*at;
    while (*at + n < h->length && text[*at + n] && !is_blank(text[*at + n])) ++n;
    return n;
}

/* Hides one word. lot: a random number. */
static void hide_word(hidden_words *h, const uint8_t *text, int at, int n, uint64_t lot)
{
    const int how = (int)((lot >> 32) % 10);
    int i, size = 0;
    while (size < h->length && text[size]) ++size;
    for (i = at; i < at + n; ++i) {
        h->asked[i] = 1;
        if (how < 8) h->seen[i] = HIDDEN_BYTE;
        if (how == 8) h->seen[i] = text[hidden_random(lot + (uint64_t)i) % (uint64_t)size];
    }
}

/* Sample number `sample` into h->seen and h->asked; of one text, all its samples differ. */
static void hide_words(hidden_words *h, int sample)
{
    const uint8_t *text = h->texts + (size_t)(sample % h->count) * (size_t)h->length;
    const uint64_t key = hidden_random(h->seed ^ hidden_random((uint64_t)sample + 1));
    int at, n, words = 0, word = 0, hidden = 0, pass;
    memcpy(h->seen, text, (size_t)h->length);
    memset(h->asked, 0, (size_t)h->length);
    for (at = 0; (n = next_word(h, text, &at)) > 0; at += n) ++words;
    for (pass = 0; pass < 2 && !hidden && words; ++pass) { /* one, if no lot falls on any */
        for (at = 0, word = 0; (n = next_word(h, text, &at)) > 0; at += n, ++word) {
            const uint64_t lot = hidden_random(key + (uint64_t)word);
            if (pass ? (uint64_t)word != key % (uint64_t)words : lot % 100 >= 15) continue;
            hide_word(h, text, at, n, lot);
            ++hidden;
        }
    }
}

/* Room for so many bytes, 0 without memory. */
static int hidden_reserve(hidden_words *h, int count)
{
    if (count <= h->room) return 1;
    free(h->logits), free(h->grad), free(h->bytes);
    h->room = count + count / 2;
    h->logits = (float *)calloc((size_t)h->room * BYTE_CLASSES, sizeof(float));
    h->grad = (float *)calloc((size_t)h->room * BYTE_CLASSES, sizeof(float));
    h->bytes = (int32_t *)calloc((size_t)h->room, sizeof(int32_t));
    if (h->logits && h->grad && h->bytes) return 1;
    h->room = 0;
    return 0;
}

/* The logits of the bytes that are asked for in sample number `sample`, behind `count` others, or, with `to`, their
   gradients put back to where the logits are. Returns how many there are with it. */
static int hidden_move(hidden_words *h, int sample, const float *logits, float *to, int count)
{
    const uint8_t *text = h->texts + (size_t)(sample % h->count) * (size_t)h->length;
    const size_t size = BYTE_CLASSES * sizeof *logits;
    int i;
    hide_words(h, sample);
    for (i = 0; i < h->length; ++i) {
        if (!h->asked[i]) continue;
        if (to)
            memcpy(to + (size_t)i * BYTE_CLASSES, h->grad + (size_t)count * BYTE_CLASSES, size);
        else
            memcpy(h->logits + (size_t)count * BYTE_CLASSES, logits + (size_t)i * BYTE_CLASSES, size);
        h->bytes[count++] = text[i];
    }
    return count;
}

/* Gathers what is asked for in `rows` samples, whose logits have `cols` numbers each; -1 without memory. */
static int hidden_gather(hidden_words *h, const int32_t *samples, const float *logits, int rows, int cols)
{
    int r, i, count = 0;
    for (r = 0; r < rows; ++r) {
        hide_words(h, samples[r]);
        for (i = 0; i < h->length; ++i) count += h->asked[i];
    }
    if (!hidden_reserve(h, count)) return -1;
    for (count = 0, r = 0; r < rows; ++r)
        count = hidden_move(h, samples[r], logits + (size_t)r * (size_t)cols, NULL, count);
    return count;
}

/* A kd_loss_desc.fn: the mean cross-entropy of the bytes asked for. Labels are numbers of samples, below the count
   of texts times some ways to hide their words; columns are 256 logits for each byte, or more. */
static double hidden_loss(void *user, const kd_loss_batch *batch)
{
    hidden_words *h = (hidden_words *)user;
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    const int count = hidden_gather(h, batch->labels, batch->student, batch->rows, batch->cols);
    double value = 0;
    int r, at;
    memset(batch->grad, 0, (size_t)batch->rows * (size_t)batch->cols * sizeof *batch->grad);
    if (count == 0) return 0;
    if (count < 0 || kd_loss(h->kd, &ce, h->logits, NULL, h->bytes, count, BYTE_CLASSES, h->grad, &value) != KD_OK)
        return (double)NAN; /* ends the training */
    for (r = 0, at = 0; r < batch->rows; ++r)
        at = hidden_move(h, batch->labels[r], NULL, batch->grad + (size_t)r * (size_t)batch->cols, at);
    return value;
}

static void hidden_close(hidden_words *h)
{
    free(h->asked), free(h->seen), free(h->logits), free(h->grad), free(h->bytes);
    memset(h, 0, sizeof *h);
}

/* Of texts of `length` bytes. 0 without memory. */
static int hidden_open(hidden_words *h, kd_ctx *kd, const uint8_t *from, int count, int length, uint64_t seed)
{
    memset(h, 0, sizeof *h);
    h->kd = kd;
    h->texts = from, h->count = count, h->length = length, h->seed = seed;
    h->asked = (uint8_t *)calloc((size_t)length, 1);
    h->seen = (uint8_t *)calloc((size_t)length, 1);
    if (h->asked && h->seen) return 1;
    hidden_close(h);
    return 0;
}

#endif /* HIDDEN_H */
