/* fit.h - a student that fits: which of several families of small networks does best within a budget of flash, RAM
   and multiply-adds, as short trials on the held-out images say. A part of distill.c. */

/* ---- the budget ------------------------------------------------------------------------------------------ */

/* "64KB", "0.5MB", "5M": bytes count by 1024, multiply-adds by 1000. */
static int parse_budget(const char *name, const char *text, int bytes, int64_t *budget)
{
    const double step = bytes ? 1024 : 1000;
    char *end;
    const double value = strtod(text, &end);
    double factor = 1;
    *budget = 0;
    if (!*text) return 1;
    if (*end == 'K' || *end == 'k')
        factor = step, ++end;
    else if (*end == 'M' || *end == 'm')
        factor = step * step, ++end;
    if (bytes && (*end == 'B' || *end == 'b')) ++end;
    if (end == text || *end || !(value > 0 && value * factor >= 1 && value * factor <= 1e15))
        return complain("--%s takes %s, got \"%s\"", name,
                        bytes ? "a number of bytes such as 64KB or 0.5MB" : "a number such as 500K or 5M", text);
    *budget = (int64_t)(value * factor);
    return 1;
}

static int fit_wanted(const session *s) { return *s->o.fit || *s->o.fit_ram || *s->o.fit_macs; }

/* Before an image is read. */
static int fit_parse(session *s)
{
    fitting *f = &s->fitting;
    if (!parse_budget("fit", s->o.fit, 1, &f->most.flash_int8) ||
        !parse_budget("fit-ram", s->o.fit_ram, 1, &f->most.ram_int8) ||
        !parse_budget("fit-macs", s->o.fit_macs, 0, &f->most.macs))
        return 0;
    if (!fit_wanted(s)) return 1;
    if (*s->o.student) return complain("--fit chooses the student: leave out --student");
    if (s->objective.feature_count) return complain("--fit tries students whose layers --feature cannot name");
    return 1;
}

static int within(int64_t value, int64_t most) { return most == 0 || value <= most; }

static int fits(const fitting *f, const kd_cost *c)
{
    return within(c->flash_int8, f->most.flash_int8) && within(c->ram_int8, f->most.ram_int8) &&
           within(c->macs, f->most.macs);
}

/* "14.2 KB flash, 5.1 KB RAM, 0.9M multiply-adds" */
static setting_line cost_text(const kd_cost *c)
{
    setting_line line;
    snprintf(line.chars, sizeof line.chars, "%.1f KB flash, %.1f KB RAM, %s multiply-adds",
             (double)c->flash_int8 / 1024, (double)c->ram_int8 / 1024, report_short((double)c->macs).chars);
    return line;
}

/* ---- the candidates -------------------------------------------------------------------------------------- */

enum { FIT_PLAIN, FIT_RESIDUAL, FIT_SEPARABLE, FIT_FAMILIES };
static const char *const fit_families[FIT_FAMILIES] = {"plain", "residual", "separable"};

/* What a candidate is but for its width. */
typedef struct fit_shape {
    int family, blocks, stride; /* blocks of a stage; stride of the first convolution */
    int flat;                   /* the last layer sees every pixel, not their mean */
    double growth;              /* of the width from stage to stage */
} fit_shape;

static void fit_block(spec_line *l, const fit_shape *f, int block, int channels)
{
    if (f->family == FIT_RESIDUAL && block > 0)
        line_add(l, "residual(conv %d 3 pad=1, batchnorm, relu, conv %d 3 pad=1, batchnorm), relu, ", channels,
                 channels);
    else if (f->family == FIT_SEPARABLE)
        line_add(l, "depthwise 3 pad=1, batchnorm, relu, conv %d 1, batchnorm, relu, ", channels);
    else
        line_add(l, "conv %d 3 pad=1, batchnorm, relu, ", channels);
}

static void fit_line(const images *im, const fit_shape *f, int width, char *text)
{
    spec_line l;
    double channels = width;
    int side = shorter_side(im), level, block;
    l.text = text, l.length = 0;
    if (too_small_to_pool(im)) {
        for (block = 0; block < f->blocks; ++block) line_add(&l, "dense %d, batchnorm, relu, ", width);
        line_add(&l, "dense %d", im->class_count);
        return;
    }
    side = line_add_stem(&l, side, width);
    if (f->stride > 1 || f->family == FIT_SEPARABLE) {
        line_add(&l, "conv %d 3 %spad=1, batchnorm, relu, ", width, f->stride > 1 ? "stride=2 " : "");
        side = (side + f->stride - 1) / f->stride;
    }
    for (level = 0; side >= 6 || level == 0; ++level, side /= 2, channels *= f->growth) {
        for (block = 0; block < f->blocks + (f->family == FIT_RESIDUAL); ++block)
            fit_block(&l, f, block, (int)(channels + 0.5));
        if (side >= 6) line_add(&l, "maxpool 2, ");
    }
    line_add(&l, f->flat ? "dense %d" : "gap, dense %d", im->class_count);
}

/* 0 where a line that is too long, or a model that is too large, cannot be made. */
static int fit_cost(session *s, const fit_shape *f, int width, char *spec, kd_cost *cost)
{
    char line[MAX_SPEC];
    kd_model *m;
    int good;
    fit_line(&s->images, f, width, line);
    if (!complete_spec(s, line, spec) || kd_model_create(s->kd, spec, 1, &m) != KD_OK) return 0;
    good = kd_model_cost(m, cost) == KD_OK;
    kd_model_destroy(m);
    return good;
}

/* The widest of a shape that fits, if one does. */
static int fit_widest(session *s, const fit_shape *shape, report_candidate *c)
{
    enum { LEAST = 2, MOST = 256 };
    fitting *f = &s->fitting;
    int low = LEAST, high = MOST + 1;
    if (!fit_cost(s, shape, low, c->spec, &c->cost)) return 0;
    if (!fits(f, &c->cost)) {
        if (f->least.parameters == 0 || c->cost.flash_int8 < f->least.flash_int8) f->least = c->cost;
        return 0;
    }
    while (high - low > 1) {
        const int middle =
            low + (high - low > 2 * low ? low : (high - low) / 2); /* large ones only where asked for */
        if (fit_cost(s, shape, middle, c->spec, &c->cost) && fits(f, &c->cost))
            low = middle;
        else
            high = middle;
    }
    c->family = too_small_to_pool(&s->images) ? "dense" : fit_families[shape->family];
    if (too_small_to_pool(&s->images))
        snprintf(c->shape, sizeof c->shape, "%d of %d", shape->blocks, low);
    else
        snprintf(c->shape, sizeof c->shape, "%d channels, x%g; %d a stage%s; %s", low, shape->growth, shape->blocks,
                 shape->stride > 1 ? "; stride 2" : "", shape->flat ? "all pixels" : "their mean");
    return fit_cost(s, shape, low, c->spec, &c->cost);
}

static int fit_known(const session *s, const report_candidate *c)
{
    int i;
    for (i = 0; i < s->r.candidate_count; ++i) {
        if (strcmp(s->r.candidates[i].spec, c->spec) == 0) return 1;
    }
    return 0;
}

/* How much of flash and time a candidate uses: what it may learn goes with both. */
static double fit_use(const report_candidate *c) { return (double)c->cost.flash_int8 * (double)c->cost.macs; }

static int by_use(const void *a, const void *b)
{
    const report_candidate *x = (const report_candidate *)a, *y = (const report_candidate *)b;
    if (fit_use(x) < fit_use(y) || fit_use(y) < fit_use(x)) return fit_use(x) > fit_use(y) ? -1 : 1;
    return strcmp(x->spec, y->spec);
}

static int by_turn(const void *a, const void *b)
{
    const report_candidate *x = (const report_candidate *)a, *y = (const report_candidate *)b;
    return x->place != y->place ? x->place - y->place : strcmp(x->family, y->family);
}

/* The families by turns, of each those first that make the most of the budget: there may be time for a few only. */
static void fit_order(report *r)
{
    int i, j;
    qsort(r->candidates, (size_t)r->candidate_count, sizeof *r->candidates, by_use);
    for (i = 0; i < r->candidate_count; ++i) {
        for (j = 0; j < i; ++j) r->candidates[i].place += r->candidates[j].family == r->candidates[i].family;
    }
    qsort(r->candidates, (size_t)r->candidate_count, sizeof *r->candidates, by_turn);
}

/* Every shape, each as wide as it may be. */
static int fit_enumerate(session *s)
{
    static const double growths[] = {1, 1.5, 2};
    static const int blocks[] = {1, 2, 3};
    fitting *f = &s->fitting;
    report *r = &s->r;
    const int dense = too_small_to_pool(&s->images);
    int index;
    enum { SHAPES = FIT_FAMILIES * 3 * 3 * 2 * 2 };
    r->candidates = (report_candidate *)calloc(SHAPES, sizeof *r->candidates);
    if (!r->candidates) return complain("there is not enough memory");
    for (index = 0; index < SHAPES; ++index) {
        report_candidate c;
        fit_shape shape;
        int rest = index;
        memset(&c, 0, sizeof c);
        shape.family = rest % FIT_FAMILIES, rest /= FIT_FAMILIES;
        shape.blocks = blocks[rest % 3], rest /= 3;
        shape.growth = growths[rest % 3], rest /= 3;
        shape.stride = 1 + rest % 2, rest /= 2;
        shape.flat = rest % 2;
        if (dense && (shape.family || shape.growth > 1 || shape.stride > 1 || shape.flat)) continue;
        if (shape.stride > 1 && shorter_side(&s->images) < 12) continue;
        if (fit_widest(s, &shape, &c) && !fit_known(s, &c)) r->candidates[r->candidate_count++] = c;
    }
    fit_order(r);
    if (r->candidate_count) return 1;
    return complain("no student fits; the smallest of those that are tried needs %s", cost_text(&f->least).chars);
}

/* Once the images are known: candidates, one of which stands for all until one is chosen. */
static int fit_open(session *s)
{
    if (!fit_wanted(s)) return 1;
    if (s->held.data.count < 1)
        return complain(
            "--fit chooses a student by held-out images, and none are held out: let --validation be above 0");
    if (!fit_enumerate(s)) return 0;
    s->o.student = s->r.candidates[0].spec;
    return 1;
}

/* ---- the search ------------------------------------------------------------------------------------------ */

static int by_reached(const void *a, const void *b)
{
    const report_candidate *x = (const report_candidate *)a, *y = (const report_candidate *)b;
    if (x->epochs != y->epochs) return x->epochs > y->epochs ? -1 : 1;
    if (x->accuracy < y->accuracy || y->accuracy < x->accuracy) return x->accuracy > y->accuracy ? -1 : 1;
    if (x->nll < y->nll || y->nll < x->nll) return x->nll < y->nll ? -1 : 1;
    return strcmp(x->spec, y->spec);
}

/* Trains a candidate from its first weights and looks at the held-out images. */
static int fit_try(session *s, stage *g, report_candidate *c, int epochs)
{
    report_trial t = first_setting(s, DISTILLED, 0);
    kd_metrics metrics;
    kd_model *m;
    kd_result result;
    t.epochs = way_epochs(s, DISTILLED, epochs);
    snprintf(s->student_spec, sizeof s->student_spec, "%s", c->spec);
    if (!train_student(s, g, DISTILLED, &t, (uint64_t)(s->o.first_seed + s->o.seeds), NULL, &m)) return 0;
    result = kd_evaluate(m, &s->held.data, &metrics);
    kd_model_destroy(m);
    if (result != KD_OK) return kd_complain(s, "evaluating a student");
    c->accuracy = metrics.accuracy;
    c->nll = metrics.nll;
    c->epochs = epochs;
    return 1;
}

/* Seconds for an epoch of a candidate, mean of a few of them. */
static double fit_seconds(session *s)
{
    enum { MEASURED = 6 };
    const int step = 1 + s->r.candidate_count / MEASURED;
    double sum = 0;
    int i, count = 0;
    for (i = 0; i < s->r.candidate_count; i += step) {
        report_trial t = first_setting(s, DISTILLED, 0);
        kd_train_desc d;
        kd_model *m;
        task to;
        watch w;
        memset(&w, 0, sizeof w);
        t.epochs = 1;
        d = student_options(s, &w, DISTILLED, &t, 1, &to);
        if (kd_model_create(s->kd, s->r.candidates[i].spec, 1, &m) != KD_OK) continue;
        sum += seconds_for_epoch(s, m, &to.data, &d);
        ++count;
        kd_model_destroy(m);
    }
    return count ? sum / count : 0;
}

enum { FIT_THIRD = 3, FIT_MOST = 27 }; /* a third of them goes on, three times as long */

/* How many candidates, rounds and epochs of the first round there is time for. */
static int fit_plan(session *s, int *count, int *rounds, int *epochs)
{
    const double seconds = fit_seconds(s), time = 60 * s->o.search_minutes;
    double unit;
    int last;
    *count = s->r.candidate_count < FIT_MOST ? s->r.candidate_count : FIT_MOST;
    for (;; *count /= FIT_THIRD) {
        *rounds = *count > FIT_THIRD * FIT_THIRD ? 3 : *count > FIT_THIRD ? 2 : 1;
        last = *rounds == 3 ? FIT_THIRD * FIT_THIRD : *rounds == 2 ? FIT_THIRD : 1;
        unit = seconds > 0 ? floor(time / (seconds * *count * *rounds)) : 1;
        if (unit * last > s->plan.epochs) unit = floor((double)s->plan.epochs / last);
        if (unit >= 1 || *count <= FIT_THIRD) break;
    }
    if (unit < 1) unit = 1;
    if (!resume_number(s, "fit-epochs", &unit)) return 0; /* by which those who resume know the rest */
    *epochs = (int)unit;
    unit = *count;
    if (!resume_number(s, "fit-count", &unit)) return 0;
    *count = (int)unit;
    *rounds = *count > FIT_THIRD * FIT_THIRD ? 3 : *count > FIT_THIRD ? 2 : 1;
    printf("\nWhich student? %d that fit are tried on the held-out images, for %d epoch%s each; %s about %s\n",
           *count, *epochs, plural(*epochs),
           *rounds > 1 ? "a third goes on, three times as long, and so on;" : "it takes",
           time_text(seconds * *count * *rounds * *epochs).chars);
    return 1;
}

static void fit_print(const session *s)
{
    const report *r = &s->r;
    int i;
    printf("\n%-11s%10s%10s%16s%9s%12s   channels, convolutions; what the last layer sees\n", "family", "flash",
           "RAM", "multiply-adds", "epochs", "held-out");
    for (i = 0; i < r->candidate_count && r->candidates[i].epochs; ++i) {
        const report_candidate *c = &r->candidates[i];
        printf("%-11s%7.1f KB%7.1f KB%16s%9d%10.2f %%   %s\n", c->family, (double)c->cost.flash_int8 / 1024,
               (double)c->cost.ram_int8 / 1024, report_short((double)c->cost.macs).chars, c->epochs,
               100 * c->accuracy, c->shape);
    }
    printf("Chosen: the first, %s\n          %s\n", cost_text(&r->candidates[0].cost).chars, r->candidates[0].spec);
    fflush(stdout);
}

/* Successive halving (Jamieson and Talwalkar 2016), by thirds. The student is the best of the last round. */
static int fit_search(session *s)
{
    report *r = &s->r;
    const double started = seconds_now();
    int count, rounds, epochs, round, i;
    int64_t seen = 0, all = way_data(s, DISTILLED)->count;
    stage g;
    if (!fit_wanted(s)) return 1;
    if (!run_teacher(s, DISTILLED) || !fit_plan(s, &count, &rounds, &epochs)) return 0;
    for (round = 0, i = count; round < rounds; ++round, i = (i + FIT_THIRD - 1) / FIT_THIRD)
        seen += i * way_epochs(s, DISTILLED, epochs * (round == 2 ? 9 : round == 1 ? 3 : 1)) * all;
    g = stage_begin(s, "search", seen);
    for (round = 0; round < rounds; ++round, epochs *= FIT_THIRD, count = (count + FIT_THIRD - 1) / FIT_THIRD) {
        for (i = 0; i < count; ++i) {
            report_candidate *c = &r->candidates[i];
            snprintf(g.now, sizeof g.now, "%d of %d, %d epoch%s", i + 1, count, epochs, plural(epochs));
            if (!fit_try(s, &g, c, epochs)) return 0;
        }
        qsort(r->candidates, (size_t)(round ? count : r->candidate_count), sizeof *r->candidates, by_reached);
        stage_line(&g, "  %d student%s, %d epoch%s: held-out accuracy up to %.2f %%", count, plural(count), epochs,
                   plural(epochs), 100 * r->candidates[0].accuracy);
    }
    progress_wipe();
    kd_cache_destroy(s->cache[DISTILLED]); /* the students themselves may become teachers, too */
    s->cache[DISTILLED] = NULL;
    report_time(r, "search", seconds_now() - started);
    snprintf(s->student_spec, sizeof s->student_spec, "%s", r->candidates[0].spec);
    r->student.parameters = r->candidates[0].cost.parameters;
    r->student.macs = r->candidates[0].cost.macs;
    r->student.spec = s->student_spec;
    fit_print(s);
    return 1;
}

/* ---- others beside it ------------------------------------------------------------------------------------ */

/* Lines given with --beside: trained in the end with what was chosen for the distilled student, and tested. */
static int rivals_open(session *s)
{
    int i;
    for (i = 0; i < s->o.beside.count; ++i) {
        rival *v = &s->rivals[i];
        kd_model *m;
        int good;
        if (!complete_spec(s, s->o.beside.values[i], v->spec)) return 0;
        m = create_model(s, "student of --beside", v->spec, 1);
        good = m && kd_model_cost(m, &v->cost) == KD_OK;
        kd_model_destroy(m);
        v->runs = (report_run *)calloc((size_t)s->o.seeds, sizeof *v->runs);
        v->models = (kd_model **)calloc((size_t)s->o.seeds, sizeof *v->models);
        if (!m) return 0;
        if (!good || !v->runs || !v->models) return complain("there is not enough memory for --beside");
    }
    return 1;
}

static int rivals_train(session *s)
{
    const report_way *about = &s->r.ways[DISTILLED];
    const double started = seconds_now();
    report_trial setting = about->grid[about->chosen];
    char chosen[MAX_SPEC];
    int i, k, good = 1;
    if (!s->o.beside.count) return 1;
    setting.epochs = way_epochs(s, DISTILLED, s->plan.epochs);
    memcpy(chosen, s->student_spec, sizeof chosen);
    for (i = 0; i < s->o.beside.count && good; ++i) {
        rival *v = &s->rivals[i];
        stage g = stage_begin(s, "beside", (int64_t)s->o.seeds * setting.epochs * way_data(s, DISTILLED)->count);
        memcpy(s->student_spec, v->spec, sizeof v->spec);
        for (k = 0; k < s->o.seeds && good; ++k)
            good = train_student(s, &g, DISTILLED, &setting, (uint64_t)(s->o.first_seed + k), NULL, &v->models[k]);
        if (good) stage_line(&g, "  beside it  %s", v->spec);
    }
    memcpy(s->student_spec, chosen, sizeof chosen);
    report_time(&s->r, "students beside it", seconds_now() - started);
    return good;
}

static int rivals_test(session *s)
{
    int i, k;
    for (i = 0; i < s->o.beside.count; ++i) {
        for (k = 0; k < s->o.seeds; ++k) {
            rival *v = &s->rivals[i];
            if (!test_model(s, v->models[k], &v->runs[k], s->student_test, NULL)) return 0;
        }
    }
    return 1;
}

static void rivals_close(session *s)
{
    int i, k;
    for (i = 0; i < s->o.beside.count; ++i) {
        for (k = 0; s->rivals[i].models && k < s->o.seeds; ++k) kd_model_destroy(s->rivals[i].models[k]);
        free(s->rivals[i].models);
        free(s->rivals[i].runs);
    }
}
