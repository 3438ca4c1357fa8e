/* losses.h - what a student with a teacher minimises: a sum of losses on logits, and losses on features. A part of
   distill.c. */

/* ---- losses on logits ------------------------------------------------------------------------------------- */

/* Whether temperature and alpha are a loss's to choose. The last has no use for a teacher: it is for sums. */
static const struct {
    kd_loss_kind kind;
    int temperature, alpha;
} losses[] = {{KD_LOSS_HINTON, 1, 1}, {KD_LOSS_KL, 1, 0},      {KD_LOSS_MSE, 0, 0},         {KD_LOSS_RKL, 1, 0},
              {KD_LOSS_JSD, 1, 0},    {KD_LOSS_SOFT_CE, 1, 0}, {KD_LOSS_CENTRED_MSE, 0, 0}, {KD_LOSS_DKD, 1, 0},
              {KD_LOSS_NKD, 1, 0},    {KD_LOSS_DIST, 1, 0},    {KD_LOSS_TTM, 0, 0},         {KD_LOSS_WTTM, 0, 0},
              {KD_LOSS_MLLD, 0, 0},   {KD_LOSS_CTKD, 0, 0},    {KD_LOSS_CE, 0, 0}};

static const char *skip_spaces(const char *c)
{
    while (*c == ' ') ++c;
    return c;
}

/* One "0.5*dist" or "dist"; *text moves behind it. */
static int parse_term(session *s, const char **text)
{
    objective *to = &s->objective;
    const char *c = skip_spaces(*text);
    double weight = 1;
    size_t length;
    char *end;
    int i;
    if (to->count == MAX_LIST) return complain("--loss takes the sum of up to %d losses", (int)MAX_LIST);
    if (strchr("0123456789.", *c) && *c) {
        weight = strtod(c, &end);
        if (end == c || *skip_spaces(end) != '*' || !(weight > 0 && weight <= 1e6))
            return complain("--loss takes weights above 0 and up to 1e6, as in 0.5*dist, got \"%s\"", c);
        c = skip_spaces(skip_spaces(end) + 1);
    }
    length = strcspn(c, " +*");
    for (i = 0; i < KD__COUNT(losses); ++i) {
        const char *name = kd_loss_name(losses[i].kind);
        if (strlen(name) == length && memcmp(name, c, length) == 0) break;
    }
    if (i == KD__COUNT(losses))
        return complain("--loss can be one of those that distill --help lists, or a sum of them, got \"%.*s\"",
                        (int)length, c);
    to->which[to->count] = i;
    to->weights[to->count++] = (float)weight;
    *text = skip_spaces(c + length);
    return 1;
}

/* "hinton", or "hinton + 0.5*dist". Temperatures and alphas are for the first that has such. */
static int parse_loss(session *s)
{
    enum { MAX_LOSS = 200 };
    objective *to = &s->objective;
    const char *c = s->o.loss;
    int i;
    if (strlen(c) > MAX_LOSS) return complain("--loss may have up to %d letters", (int)MAX_LOSS);
    to->count = 0;
    to->temperature = to->alpha = to->first = -1;
    do {
        if (to->count && *c++ != '+') return complain("--loss joins losses by +, got \"%s\"", c - 1);
        if (!parse_term(s, &c)) return 0;
    } while (*c);
    for (i = to->count - 1; i >= 0; --i) {
        if (losses[to->which[i]].temperature) to->temperature = i;
        if (losses[to->which[i]].alpha) to->alpha = i;
        if (losses[to->which[i]].kind != KD_LOSS_CE) to->first = i;
    }
    if (to->first < 0) return complain("--loss needs one that learns from the teacher, got \"%s\"", s->o.loss);
    if (!(s->o.teacher_from < s->o.teacher_until))
        return complain("--teacher-from must be below --teacher-until, got %g and %g", s->o.teacher_from,
                        s->o.teacher_until);
    if (to->temperature >= 0) to->first = to->temperature;
    if (to->temperature < 0) s->o.temperature.count = 1;
    if (to->alpha < 0) s->o.alpha.count = 1, s->o.alpha.values[0] = 1;
    return 1;
}

/* ---- losses on features ----------------------------------------------------------------------------------- */

/* The numbers that a loss on features takes. */
static const struct {
    const char *name;
    int whole;
    size_t field;
} feature_numbers[] = {{"weight", 0, offsetof(kd_feature_loss, weight)},
                       {"warmup", 0, offsetof(kd_feature_loss, warmup)},
                       {"distance", 0, offsetof(kd_feature_loss, distance)},
                       {"angle", 0, offsetof(kd_feature_loss, angle)},
                       {"gamma", 0, offsetof(kd_feature_loss, gamma)},
                       {"order", 1, offsetof(kd_feature_loss, order)},
                       {"temperature", 0, offsetof(kd_feature_loss, temperature)},
                       {"width", 1, offsetof(kd_feature_loss, width)},
                       {"heads", 1, offsetof(kd_feature_loss, heads)}};

/* Puts a word behind those in one of the feature's lists of layers, joined by commas. */
static int feature_add_layer(char *layers, const char *word, size_t length)
{
    const size_t at = strlen(layers);
    if (at + length + 2 > MAX_LAYERS)
        return complain("--feature takes up to %d letters of layers", (int)MAX_LAYERS - 1);
    snprintf(layers + at, MAX_LAYERS - at, "%s%.*s", at ? "," : "", (int)length, word);
    return 1;
}

/* "weight=50": 1; -1: it is no number of a loss's, but layers. */
static int feature_number(kd_feature_loss *f, const char *word, size_t length)
{
    const size_t name = strcspn(word, "=");
    double value;
    char *end;
    int i;
    for (i = 0; i < KD__COUNT(feature_numbers); ++i) {
        if (strlen(feature_numbers[i].name) == name && memcmp(feature_numbers[i].name, word, name) == 0) break;
    }
    if (i == KD__COUNT(feature_numbers) || name >= length) return -1;
    value = strtod(word + name + 1, &end);
    if (end != word + length || name + 1 == length || !(fabs(value) <= 1e9) ||
        (feature_numbers[i].whole && value != floor(value)))
        return complain("--feature %s takes a %s, got \"%.*s\"", feature_numbers[i].name,
                        feature_numbers[i].whole ? "whole number" : "number", (int)(length - name - 1),
                        word + name + 1);
    if (feature_numbers[i].whole) *(int *)(void *)((char *)f + feature_numbers[i].field) = (int)value;
    if (!feature_numbers[i].whole) *(float *)(void *)((char *)f + feature_numbers[i].field) = (float)value;
    return 1;
}

static kd_feature_kind feature_kind(const char *word, size_t length)
{
    int i;
    for (i = 0; i < (int)KD_FEATURE_COUNT; ++i) {
        const char *name = kd_feature_name((kd_feature_kind)i);
        if (strlen(name) == length && memcmp(name, word, length) == 0) break;
    }
    return (kd_feature_kind)i;
}

/* "student=teacher" or, where both have the same name, one name: behind those in the lists of the two. */
static int feature_pair(char *student, char *teacher, const char *word, size_t length)
{
    const size_t name = strcspn(word, "= ;");
    if (name == 0 || name + 1 == length)
        return complain("--feature takes layers as student=teacher, got \"%.*s\"", (int)length, word);
    if (!feature_add_layer(student, word, name)) return 0;
    if (name == length) return feature_add_layer(teacher, word, name);
    return feature_add_layer(teacher, word + name + 1, length - name - 1);
}

static int feature_takes_list(kd_feature_kind which)
{
    return which == KD_FEATURE_REVIEW || which == KD_FEATURE_TINYBERT;
}

static int feature_pairs_wrong(kd_feature_kind which)
{
    const char *example = "hint stage2=stage2 weight=50", *wanted = "one pair of layers, student=teacher";
    if (which == KD_FEATURE_FSP) example = "fsp stage1=stage1 stage2=stage2", wanted = "two pairs of layers";
    if (which == KD_FEATURE_TINYBERT) example = "tinybert blocks.0=blocks.1 blocks.1=blocks.3";
    if (which == KD_FEATURE_REVIEW) example = "review stage1=stage1 stage2=stage2";
    if (feature_takes_list(which)) wanted = "one to eight pairs of layers";
    return complain("--feature %s takes %s, as in \"%s\"", kd_feature_name(which), wanted, example);
}

/* "hint stage2=stage2 weight=50", which ends before `end`. */
static int parse_feature(session *s, const char *c, const char *end)
{
    objective *to = &s->objective;
    kd_feature_loss *f = to->features + to->feature_count;
    char(*layers)[MAX_LAYERS] = to->layers[to->feature_count < MAX_LIST ? to->feature_count : 0];
    size_t word = strcspn(c, " ;");
    const kd_feature_kind which = feature_kind(c, word);
    const int least = which == KD_FEATURE_FSP ? 2 : 1, most = feature_takes_list(which) ? 8 : least;
    int pairs = 0;
    if (to->feature_count == MAX_LIST) return complain("--feature may be given up to %d times", (int)MAX_LIST);
    if (which == KD_FEATURE_COUNT)
        return complain("--feature begins with one of hint, at, atpaper, sp, rkd, pkt, cc, nst, vid, fsp, review, "
                        "crd, minilm, tinybert, deit and deithard, got \"%.*s\"",
                        (int)word, c);
    *f = kd_feature_loss_defaults(which);
    for (c = skip_spaces(c + word); c < end && pairs <= most; c = skip_spaces(c + word)) {
        const int number = feature_number(f, c, word = strcspn(c, " ;"));
        const int second = least == 2 && pairs == 1; /* of fsp, it has fields of its own */
        if (number == 0) return 0;
        if (number > 0) continue;
        if (!feature_pair(layers[2 * second], layers[2 * second + 1], c, word)) return 0;
        ++pairs;
    }
    if (pairs < least || pairs > most) return feature_pairs_wrong(which);
    f->student = layers[0], f->teacher = layers[1];
    if (least == 2) f->student2 = layers[2], f->teacher2 = layers[3];
    ++to->feature_count;
    return 1;
}

static int parse_features(session *s)
{
    const texts *all = &s->o.feature;
    int i;
    for (i = 0; i < all->count; ++i) {
        const char *c = all->values[i];
        for (;;) {
            const char *end = c + strcspn(c, ";");
            if (!parse_feature(s, skip_spaces(c), end)) return 0;
            if (!*end) break;
            c = end + 1;
        }
    }
    return 1;
}

/* "hint stage2=stage2 weight 50", of one of them. */
static void feature_text(const session *s, int index, char *text, size_t size)
{
    const kd_feature_loss *f = &s->objective.features[index];
    int length = snprintf(text, size, "%s %s=%s", kd_feature_name(f->kind), f->student, f->teacher);
    if (f->student2 && length < (int)size)
        length += snprintf(text + length, size - (size_t)length, " %s=%s", f->student2, f->teacher2);
    if (length < (int)size) (void)snprintf(text + length, size - (size_t)length, " weight=%g", (double)f->weight);
}
