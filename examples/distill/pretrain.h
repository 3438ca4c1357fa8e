/* pretrain.h - a teacher of texts that first learns, without any labels, to tell words that are hidden from it. A
   part of distill.c.

   All but the end of the teacher's line, from meanpool or token on, is trained with a layer behind it that says of
   each token which bytes it stands for, and the teacher starts from the weights of that. Each text comes in up to
   ten ways, as BERT's came. */

enum { MOST_WAYS = 10 };

/* ---- the model ------------------------------------------------------------------------------------------- */

/* Where the layer begins, outside of all brackets, that makes one vector of a teacher's tokens: meanpool or token.
   NULL: there is none. */
static const char *pooling_in(const char *spec)
{
    const char *c, *start = strchr(spec, ':'), *found = NULL;
    int depth = 0;
    for (c = start ? start : spec; *c; ++c) {
        const char *word;
        depth += (*c == '(') - (*c == ')');
        if (depth || (c != start && *c != ',')) continue;
        word = c + 1 + strspn(c + 1, " ");
        if (word[strcspn(word, ":,(")] == ':') word += strcspn(word, ":") + 1, word += strspn(word, " ");
        if (strncmp(word, "meanpool", 8) == 0 || strncmp(word, "token ", 6) == 0) found = c;
    }
    return found;
}

/* The teacher's line up to there, and what tells bytes: 256 logits for each byte that a token stands for, token by
   token. NULL after a complaint. */
static kd_model *pretrained_model(session *s)
{
    const char *spec = kd_model_spec(s->teacher), *end = pooling_in(spec);
    kd_attention_info about;
    kd_model *m = NULL;
    char *line;
    size_t room, at;
    int i;
    if (!end || kd_model_attention(s->teacher, NULL, &about) != KD_OK || about.stride <= 0) {
        (void)complain(
            "--pretrain needs a teacher with attention to its bytes and, behind that, meanpool or token");
        return NULL;
    }
    room = strlen(spec) + 64 + 16 * (size_t)about.tokens;
    line = (char *)images_memory(room, 1);
    if (!line) {
        (void)complain("there is not enough memory for --pretrain");
        return NULL;
    }
    at = (size_t)snprintf(line, room, "%.*s, hidden_bytes: linear %d, concat(", (int)(end - spec), spec,
                          BYTE_CLASSES * about.stride);
    for (i = about.first; i < about.tokens; ++i)
        at += (size_t)snprintf(line + at, room - at, "%stoken %d", i > about.first ? " | " : "", i);
    snprintf(line + at, room - at, ")");
    if (kd_model_create(s->kd, line, (uint64_t)s->o.first_seed, &m) != KD_OK) (void)kd_complain(s, "--pretrain");
    free(line);
    return m;
}

/* A teacher starts from what was learned of hidden words: all tensors but those behind its tokens. */
static int start_teacher(const session *s, kd_model *teacher)
{
    int i, good = 1;
    for (i = 0; s->pretrained && good && i < kd_model_tensors(teacher); ++i) {
        kd_tensor_info to;
        float *values;
        good = kd_model_tensor_info(teacher, i, &to) == KD_OK;
        values = good ? (float *)images_memory((size_t)to.count, sizeof *values) : NULL;
        good = values != NULL;
        if (good && kd_model_get_tensor(s->pretrained, to.name, values, to.count) == KD_OK)
            good = kd_model_set_tensor(teacher, to.name, values, to.count) == KD_OK;
        free(values);
    }
    return good || complain("the teacher cannot start from what was learned of hidden words: out of memory");
}

/* The share of the bytes asked for in texts that were held out that a model tells. -1 without memory. */
static double hidden_accuracy(const session *s, const kd_model *m)
{
    const int length = s->images.channels, outputs = kd_model_outputs(m);
    float *x = (float *)images_memory((size_t)length, sizeof *x),
          *logits = (float *)images_memory((size_t)outputs, sizeof *x);
    hidden_words h;
    int i, k, count, right = 0, all = 0, good;
    good = hidden_open(&h, s->kd, s->held.pixels, s->held.data.count, length, (uint64_t)s->o.first_seed) && x &&
           logits;
    for (i = 0; good && i < s->held.data.count; ++i) {
        const int32_t sample = i;
        hide_words(&h, i);
        for (k = 0; k < length; ++k) x[k] = h.seen[k];
        good = kd_predict(m, x, 1, logits) == KD_OK;
        count = good ? hidden_gather(&h, &sample, logits, 1, outputs) : -1;
        good = count >= 0;
        for (k = 0; k < count; ++k)
            right += report_argmax(h.logits + (size_t)k * BYTE_CLASSES, BYTE_CLASSES) == h.bytes[k];
        all += count > 0 ? count : 0;
    }
    hidden_close(&h);
    free(x);
    free(logits);
    return good ? all ? (double)right / all : 0 : -1;
}

/* Before anything is trained. */
static int check_pretrain(session *s)
{
    if (!s->o.pretrain) return 1;
    if (!s->images.are_texts) return complain("--pretrain hides words: it is for texts");
    if (!s->r.teacher_trained) return complain("--pretrain needs a teacher that is trained here");
    s->pretrained = pretrained_model(s);
    return s->pretrained != NULL;
}

/* ---- training -------------------------------------------------------------------------------------------- */

/* All samples, as they are seen, with their numbers for labels. */
static int hidden_samples(hidden_words *h, int ways, uint8_t **seen, int32_t **numbers)
{
    const size_t count = (size_t)h->count * (size_t)ways;
    size_t i;
    *seen = (uint8_t *)images_memory(count, (size_t)h->length);
    *numbers = (int32_t *)images_memory(count, sizeof **numbers);
    for (i = 0; *seen && *numbers && i < count; ++i) {
        hide_words(h, (int)i);
        memcpy(*seen + i * (size_t)h->length, h->seen, (size_t)h->length);
        (*numbers)[i] = (int32_t)i;
    }
    return *seen && *numbers;
}

/* Trains s->pretrained on all texts but those held out and those to test with. */
static int pretrain(session *s)
{
    const part *from = s->all.data.count ? &s->all : &s->fit;
    const int passes = s->o.pretrain, epochs = (passes + MOST_WAYS - 1) / MOST_WAYS,
              ways = epochs ? (passes + epochs - 1) / epochs : 0;
    stage g = stage_begin(s, "hidden words", (int64_t)epochs * ways * from->data.count);
    const double started = seconds_now();
    double before, after;
    uint8_t *seen = NULL;
    int32_t *numbers = NULL;
    hidden_words h;
    watch w;
    kd_train_desc d;
    int good;
    if (passes == 0) return 1;
    if ((int64_t)from->data.count * ways > INT32_MAX / 2) return complain("--pretrain: too many texts");
    good = hidden_open(&h, s->kd, from->pixels, from->data.count, s->images.channels, (uint64_t)s->o.first_seed) &&
           hidden_samples(&h, ways, &seen, &numbers);
    before = good ? hidden_accuracy(s, s->pretrained) : -1;
    say("\nThe teacher learns to tell hidden words of %s texts, %d time%s\n", report_count(from->data.count).chars,
        epochs * ways, plural(epochs * ways));
    w.g = &g, w.run = NULL, w.lines = 1;
    d = training_options(s, &w, epochs, s->o.teacher_lr, s->o.teacher_weight_decay);
    d.seed = (uint64_t)s->o.first_seed;
    d.loss = kd_loss_defaults(KD_LOSS_CUSTOM);
    d.loss.fn = hidden_loss, d.loss.user = &h;
    s->training = s->pretrained;
    if (good) {
        const kd_data data = kd_data_text(seen, numbers, from->data.count * ways, s->images.channels,
                                          kd_model_outputs(s->pretrained));
        good = train(s, &g, &data, &d, NULL);
    } else {
        (void)complain("there is not enough memory for %d ways to hide words", ways);
    }
    after = good ? hidden_accuracy(s, s->pretrained) : -1;
    if (good) s->training = NULL;
    if (good && s->held.data.count)
        say("  of hidden letters in held-out texts it tells %.2f %%, before %.2f %%\n", 100 * after, 100 * before);
    if (good && s->held.data.count && (before < 0 || after < 0))
        good = complain("--pretrain: what is told of hidden letters cannot be computed");
    s->hidden_passes = epochs * ways;
    s->hidden_told[0] = before, s->hidden_told[1] = after;
    hidden_close(&h);
    free(seen);
    free(numbers);
    report_time(&s->r, "hidden words", seconds_now() - started);
    return good;
}
