/* results.h - distill's table and metrics.json. A part of distill.c. */

/* ---- results --------------------------------------------------------------------------------------------- */

enum { NAME_COLUMN = 24 };

static void print_row(const char *name, const report_model *m, const report_run *runs, int count)
{
    const report_statistic a = report_accuracy(runs, count);
    printf("%-*s", NAME_COLUMN, name);
    if (m->spec)
        printf("%11s%10s%8sB%5.*f us", report_count(m->parameters).chars, report_short((double)m->macs).chars,
               report_short((double)m->bytes).chars, m->latency_us < 99.95 ? 1 : 0, m->latency_us);
    else
        printf("%11s%10s%9s%8s", "-", "-", "-", "-");
    if (count == 0) printf("      -\n");
    if (count == 1) printf(" %6.2f %%\n", 100 * a.mean);
    if (count > 1) printf(" %6.2f %% +- %.2f\n", 100 * a.mean, 100 * a.sd);
}

/* Two students of one network: pruned from a larger one, and distilled from first weights. */
static report_statistic pruned_gain(const session *s)
{
    const report *r = &s->r;
    return report_paired(r->ways[way_place(s, PRUNED)].runs, r->ways[DISTILLED].runs, r->seeds);
}

static void print_pruned(const session *s)
{
    const report_statistic gain = pruned_gain(s);
    const int clear = s->r.seeds > 1 && fabs(gain.mean) > 2 * gain.error;
    char error[32] = "";
    if (s->r.seeds > 1) snprintf(error, sizeof error, " +- %.2f", 100 * gain.error);
    say("Pruned from a larger student, then distilled, it gets %+.2f points%s beside the same network distilled "
        "from "
        "its first weights: %s (the larger one was trained as long before)\n",
        100 * gain.mean, error,
        !clear          ? "no clear difference"
        : gain.mean > 0 ? "pruning is better"
                        : "pruning is worse");
}

/* The mean of the classes' accuracies, over the classes that have test images and over the seeds. */
static double balanced_mean(const report_run *runs, int count)
{
    double sum = 0;
    int i, c, seen = 0;
    for (i = 0; i < count; ++i) {
        for (c = 0; c < runs[i].test.classes; ++c) {
            seen += runs[i].test.class_count[c] > 0;
            sum += runs[i].test.class_count[c] > 0 ? runs[i].test.class_accuracy[c] : 0;
        }
    }
    return seen ? sum / seen : 0;
}

static void print_robust(const session *s)
{
    const report *r = &s->r;
    int i;
    if (!way_runs(s, ROBUST)) return;
    say("\nTest images that are attacked, each pixel of 0 to 1 moved by up to %g:\n", s->o.adversarial);
    if (r->teacher_known && s->teacher && !s->more_count)
        printf("%-*s %6.2f %%\n", NAME_COLUMN, "teacher", 100 * report_robust(&r->teacher_run, 1));
    for (i = 0; i < r->way_count; ++i) {
        if (!is_int8_way(s, i))
            printf("%-*s %6.2f %%\n", NAME_COLUMN, r->ways[i].title,
                   100 * report_robust(r->ways[i].runs, r->seeds));
    }
    say("Kept for that: %s/student_robust.safetensors\n", s->o.out);
}

/* What the student takes in 8 bits, and those beside it. */
static void print_fitting(const session *s)
{
    kd_cost cost;
    int i;
    if (!s->r.candidate_count && !s->o.beside.count) return;
    printf("\n%-*s%10s%10s%10s  %s\n", NAME_COLUMN, "in 8 bits", "flash", "RAM", "mult-adds",
           s->r.seeds > 1 ? "test, mean +- sd" : "test accuracy");
    for (i = -1; i < s->o.beside.count; ++i) {
        const report_statistic a =
            report_accuracy(i < 0 ? s->r.ways[DISTILLED].runs : s->rivals[i].runs, s->r.seeds);
        if (i < 0 && kd_model_cost(s->kept, &cost) != KD_OK) continue;
        if (i >= 0) cost = s->rivals[i].cost;
        printf("%-*s%7.1f KB%7.1f KB%10s %6.2f %%", NAME_COLUMN,
               i < 0 ? "student distilled" : "beside it, distilled", (double)cost.flash_int8 / 1024,
               (double)cost.ram_int8 / 1024, report_short((double)cost.macs).chars, 100 * a.mean);
        if (s->r.seeds > 1) printf(" +- %.2f", 100 * a.sd);
        printf("%s%s\n", i < 0 ? "" : "   ", i < 0 ? "" : s->rivals[i].spec);
    }
}

static void print_table(const session *s)
{
    const report *r = &s->r;
    const report_run *alone = r->ways[r->base].runs, *soft = r->ways[r->headline].runs;
    char text[1024], agrees[128] = "", words[128];
    int i;
    printf("\n%-*s%11s%10s%9s%8s  %s\n", NAME_COLUMN, "", "parameters", "mult-adds", "file", "latency",
           r->seeds > 1 ? "test, mean +- sd" : "test accuracy");
    print_row("teacher", &r->teacher, &r->teacher_run, r->teacher_known);
    if (r->ensemble_students)
        printf("%-*s%11s%10s%9s%8s %6.2f %%\n", NAME_COLUMN, report_ensemble(r).chars, "-", "-", "-", "-",
               100 * r->ensemble_accuracy);
    for (i = 0; i < r->way_count; ++i)
        print_row(r->ways[i].title, is_int8_way(s, i) ? &s->int8_model : &r->student, r->ways[i].runs, r->seeds);
    print_fitting(s);
    if (s->class_weights && alone[0].test.classes == r->class_count)
        say("\nMean of the accuracies by class, which counts classes alike: alone %.2f %%, distilled %.2f %%\n",
            100 * balanced_mean(alone, r->seeds), 100 * balanced_mean(soft, r->seeds));
    print_robust(s);
    report_verdict(r, text, sizeof text);
    say("\n%s\n", text);
    if (report_teacher_warning(r, text, sizeof text)) say("note: %s\n", text);
    if (*s->larger_spec) print_pruned(s);
    report_kept(r, text, sizeof text);
    say("Kept: %s\n", text);
    if (r->teacher_known)
        snprintf(agrees, sizeof agrees,
                 images_reword("; agrees with the teacher on %.1f %% of the test images (alone: %.1f %%)", words,
                               sizeof words),
                 100 * report_agreement(soft, r->seeds), 100 * report_agreement(alone, r->seeds));
    say("Distilled by %s%s\n", loss_text(&r->ways[r->headline].grid[r->ways[r->headline].chosen]).chars, agrees);
    say("Pull of teacher and labels%s%s: weights %.3g and %.3g, gradients %.3g and %.3g, cosine %.2f (untrained: "
        "%.2f)\n",
        s->objective.count > 1 ? ", of " : "",
        s->objective.count > 1 ? kd_loss_name(losses[s->objective.which[s->objective.first]].kind) : "",
        r->after.soft_weight, r->after.hard_weight, r->after.soft_norm, r->after.hard_norm,
        r->after.gradient_cosine, r->before.gradient_cosine);
    if (s->objective.temperature >= 0)
        say("Targets at temperature %g: entropy %.2f nats of at most %.2f\n", r->temperature,
            r->after.target_entropy, log((double)r->class_count));
    print_int8(s);
    say("The report: %s/report.html   (%s)\n", s->o.out, time_text(r->seconds).chars);
}

/* ---- metrics.json ---------------------------------------------------------------------------------------- */

static const char *augment_text(const char *words) { return *words ? words : "none"; }

static void json_text(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text; ++text) {
        if (*text == '"' || *text == '\\') fputc('\\', f);
        if ((unsigned char)*text < 32)
            fprintf(f, "\\u%04x", (unsigned)(unsigned char)*text);
        else
            text += report_letter(f, text) - 1;
    }
    fputc('"', f);
}

static void json_model(FILE *f, const report_model *m)
{
    fputs("\"spec\": ", f);
    json_text(f, m->spec);
    fprintf(f, ", \"params\": %lld, \"macs\": %lld, \"bytes\": %lld", (long long)m->parameters, (long long)m->macs,
            (long long)m->bytes);
}

static void json_metrics(FILE *f, const kd_metrics *m)
{
    fprintf(f, "\"accuracy\": %.6f, \"nll\": %.6f, \"ece\": %.6f", m->accuracy, m->nll, m->ece);
    if (m->robust_accuracy >= 0) fprintf(f, ", \"robust_accuracy\": %.6f", m->robust_accuracy);
}

/* Accuracy of each class, mean of some runs; null where no test image is of it. Nothing where there are more
   classes than metrics have room for. */
static void json_classes(FILE *f, const report_run *runs, int count)
{
    const kd_metrics *first = &runs[0].test;
    int c, i;
    fputs(", \"class_accuracies\": [", f);
    for (c = 0; c < first->classes; ++c) {
        double sum = 0;
        for (i = 0; i < count; ++i) sum += runs[i].test.class_accuracy[c] / count;
        if (c) fputs(", ", f);
        if (first->class_count[c]) fprintf(f, "%.6f", sum);
        if (!first->class_count[c]) fputs("null", f);
    }
    fputc(']', f);
}

/* A setting: null where the run has none. */
static void json_number(FILE *f, const char *name, double value, int known)
{
    char text[32];
    (void)number_text(value, text, sizeof text);
    fprintf(f, "\"%s\": %s", name, known ? text : "null");
}

static void json_way(FILE *f, const session *s, int way)
{
    const report *r = &s->r;
    const report_run *runs = r->ways[way].runs;
    const int count = r->seeds;
    const report_statistic a = report_accuracy(runs, count), gain = report_gain(r, way);
    double nll = 0, ece = 0;
    int i;
    for (i = 0; i < count; ++i) nll += runs[i].test.nll / count, ece += runs[i].test.ece / count;
    fprintf(f, "  \"student_%s\": {\"accuracy_mean\": %.6f, \"accuracy_sd\": %.6f, \"accuracies\": [",
            r->ways[way].name, a.mean, a.sd);
    for (i = 0; i < count; ++i) fprintf(f, "%s%.6f", i ? ", " : "", runs[i].test.accuracy);
    fprintf(f, "], \"nll\": %.6f, \"ece\": %.6f", nll, ece);
    if (runs[0].test.agreement >= 0) fprintf(f, ", \"agreement\": %.6f", report_agreement(runs, count));
    if (runs[0].test.robust_accuracy >= 0) fprintf(f, ", \"robust_accuracy\": %.6f", report_robust(runs, count));
    if (runs[0].test.classes == r->class_count)
        fprintf(f, ", \"balanced_accuracy\": %.6f", balanced_mean(runs, count));
    json_classes(f, runs, count);
    if (way != r->base) fprintf(f, ", \"gain\": %.6f, \"gain_error\": %.6f", gain.mean, gain.error);
    fputs(", ", f);
    json_number(f, "held_out_mean", held_out_mean(s, way), s->held.data.count > 0);
    if (is_int8_way(s, way)) fprintf(f, ", \"bytes\": %lld", (long long)s->int8_model.bytes);
    fputs("},\n", f);
}

static void json_words(FILE *f, const char *name, const char *text, int known)
{
    fprintf(f, "\"%s\": ", name);
    if (known) json_text(f, text);
    if (!known) fputs("null", f);
}

/* The terms of the sum, and the losses on features. */
static void json_objective(FILE *f, const session *s)
{
    const objective *sum = &s->objective;
    int i;
    fputs("  \"losses\": [", f);
    for (i = 0; i < sum->count; ++i) {
        fprintf(f, "%s{\"name\": \"%s\", ", i ? ", " : "", kd_loss_name(losses[sum->which[i]].kind));
        json_number(f, "weight", (double)sum->weights[i], 1);
        fputc('}', f);
    }
    fputs("], \"features\": [", f);
    for (i = 0; i < sum->feature_count; ++i) {
        const kd_feature_loss *l = &sum->features[i];
        fprintf(f, "%s{\"name\": \"%s\", ", i ? ",\n    " : "", kd_feature_name(l->kind));
        json_words(f, "student", l->student, 1);
        fputs(", ", f);
        json_words(f, "teacher", l->teacher, 1);
        if (l->student2) {
            fputs(", ", f);
            json_words(f, "student2", l->student2, 1);
            fputs(", ", f);
            json_words(f, "teacher2", l->teacher2, 1);
        }
        fputs(", ", f);
        json_number(f, "weight", (double)l->weight, 1);
        fputc('}', f);
    }
    fputs("],\n", f);
}

/* What was run. The loss has a temperature and an alpha, or has not. */
static void json_settings(FILE *f, const session *s)
{
    const options *o = &s->o;
    const report *r = &s->r;
    const int trained = r->teacher_trained;
    int i;
    fputs("  ", f);
    json_number(f, "teachers", teacher_count(s), 1);
    fputs(", ", f);
    json_words(f, "loss", o->loss, 1);
    fputs(", ", f);
    json_number(f, "temperature", r->temperature, s->objective.temperature >= 0);
    fputs(", ", f);
    json_number(f, "alpha", r->alpha, s->objective.alpha >= 0);
    fprintf(f, ",\n  \"epochs\": %d, \"trial_epochs\": %d, ", s->plan.epochs, s->plan.trial_epochs);
    json_number(f, "teacher_epochs", s->plan.teacher_epochs, trained);
    fputs(", ", f);
    json_number(f, "teacher_lr", o->teacher_lr, trained);
    fprintf(f, ", \"batch\": %d, ", o->batch);
    json_words(f, "optimizer", kd_optimizer_name(s->optimizer), 1);
    fputs(", ", f);
    json_number(f, "teacher_weight_decay", o->teacher_weight_decay, trained);
    fputs(",\n  ", f);
    json_words(f, "augment", augment_text(s->plan.augment), 1);
    fputs(", ", f);
    json_words(f, "teacher_augment", augment_text(s->plan.teacher_augment), trained);
    fputs(",\n  ", f);
    json_number(f, "teacher_from", o->teacher_from, 1);
    fputs(", ", f);
    json_number(f, "teacher_until", o->teacher_until, 1);
    fputs(", ", f);
    json_number(f, "adversarial", o->adversarial, o->adversarial > 0);
    fputs(", ", f);
    json_number(f, "born_again", o->born_again, o->born_again > 0);
    fputs(", ", f);
    json_words(f, "class_weights", o->class_weights, 1);
    fputs(", \"assistants\": [", f);
    for (i = 0; i < s->assistant_count; ++i) {
        if (i) fputs(", ", f);
        json_text(f, kd_model_spec(s->assistants[i]));
    }
    fputs("],\n  \"seed_numbers\": [", f);
    for (i = 0; i < r->seeds; ++i) fprintf(f, "%s%d", i ? ", " : "", o->first_seed + i);
    fputs("],\n", f);
}

/* What was tried on the held-out images; nothing where there was one to choose from. */
static void json_choices(FILE *f, const session *s)
{
    const report_way *way = &s->r.ways[s->r.headline];
    int i;
    fprintf(f, "  \"trials\": %d, \"choices\": [", s->o.trials);
    for (i = 0; i < way->grid_count && way->grid_count > 1; ++i) {
        const report_trial *t = &way->grid[i];
        fputs(i ? ",\n    {" : "\n    {", f);
        json_number(f, "temperature", t->temperature, s->objective.temperature >= 0);
        fputs(", ", f);
        json_number(f, "alpha", t->alpha, s->objective.alpha >= 0);
        fprintf(f, ", \"accuracy_mean\": %.6f", t->validation);
        if (s->o.trials > 1) fprintf(f, ", \"accuracy_sd\": %.6f", t->sd);
        fputs("}", f);
    }
    fputs("],\n", f);
}

static void json_diagnosis(FILE *f, const session *s)
{
    const kd_diagnosis *before = &s->r.before, *after = &s->r.after;
    fprintf(f,
            "  \"diagnosis\": {\"soft_weight\": %.6g, \"hard_weight\": %.6g, \"soft_norm\": %.6g, \"hard_norm\": "
            "%.6g, \"gradient_cosine\": %.6f, \"gradient_cosine_untrained\": %.6f, \"target_entropy\": ",
            after->soft_weight, after->hard_weight, after->soft_norm, after->hard_norm, after->gradient_cosine,
            before->gradient_cosine);
    fprintf(f, s->objective.temperature >= 0 ? "%.6f},\n" : "null},\n", after->target_entropy);
}

/* What the images were made of: files, and pictures that are there more than once. */
static void json_images(FILE *f, const images *im)
{
    const images_copies *c = &im->copies;
    int i;
    fprintf(f, "  \"files\": {\"read\": %d, \"left_out\": [", im->files - im->skipped);
    for (i = 0; i < IMAGES_REASONS && im->reasons[i].why; ++i) {
        fprintf(f, "%s{\"count\": %d, \"why\": ", i ? ", " : "", im->reasons[i].count);
        json_text(f, im->reasons[i].why);
        fputs("}", f);
    }
    fprintf(f,
            "]},\n  \"copies\": {\"train\": %d, \"validation\": %d, \"test\": %d, \"validation_in_train\": %d, "
            "\"test_in_train\": %d, \"test_in_validation\": %d, \"two_labels\": %d},\n",
            c->train, c->validation, c->test, c->validation_in_train, c->test_in_train, c->test_in_validation,
            c->two_labels);
}

/* What the student was chosen from; nothing without --fit. */
static void json_fit(FILE *f, const session *s)
{
    const report *r = &s->r;
    const kd_cost *most = &s->fitting.most;
    int i;
    if (!r->candidate_count) return;
    fputs("  \"fit\": {", f);
    json_number(f, "flash", (double)most->flash_int8, most->flash_int8 > 0);
    fputs(", ", f);
    json_number(f, "ram", (double)most->ram_int8, most->ram_int8 > 0);
    fputs(", ", f);
    json_number(f, "macs", (double)most->macs, most->macs > 0);
    fputs(", \"candidates\": [", f);
    for (i = 0; i < r->candidate_count; ++i) {
        const report_candidate *c = &r->candidates[i];
        fprintf(f, "%s{\"family\": \"%s\", \"spec\": ", i ? ",\n    " : "\n    ", c->family);
        json_text(f, c->spec);
        fprintf(f, ", \"params\": %lld, \"macs\": %lld, \"flash\": %lld, \"ram\": %lld, \"epochs\": %d, ",
                (long long)c->cost.parameters, (long long)c->cost.macs, (long long)c->cost.flash_int8,
                (long long)c->cost.ram_int8, c->epochs);
        json_number(f, "held_out_accuracy", c->accuracy, c->epochs > 0);
        fputc('}', f);
    }
    fputs("]},\n", f);
}

static void json_beside(FILE *f, const session *s)
{
    int i, k;
    if (!s->o.beside.count) return;
    fputs("  \"beside\": [", f);
    for (i = 0; i < s->o.beside.count; ++i) {
        const rival *v = &s->rivals[i];
        const report_statistic a = report_accuracy(v->runs, s->r.seeds);
        fputs(i ? ",\n    {\"spec\": " : "\n    {\"spec\": ", f);
        json_text(f, v->spec);
        fprintf(f,
                ", \"params\": %lld, \"macs\": %lld, \"flash\": %lld, \"ram\": %lld, \"accuracy_mean\": %.6f, "
                "\"accuracy_sd\": %.6f, \"accuracies\": [",
                (long long)v->cost.parameters, (long long)v->cost.macs, (long long)v->cost.flash_int8,
                (long long)v->cost.ram_int8, a.mean, a.sd);
        for (k = 0; k < s->r.seeds; ++k) fprintf(f, "%s%.6f", k ? ", " : "", v->runs[k].test.accuracy);
        fputs("]}", f);
    }
    fputs("],\n", f);
}

static int write_metrics(const session *s)
{
    const report *r = &s->r;
    char path[MAX_PATH], text[1024];
    FILE *f = output_open(s, "metrics.json", path);
    int i;
    if (!f) return 0;
    fprintf(f, "{\n  \"version\": \"%s\", \"isa\": \"%s\", \"images\": ", kd_version(),
            kd_isa_name(kd_ctx_isa(s->kd)));
    json_text(f, r->folder);
    fprintf(f,
            ",\n  \"seeds\": %d, \"train_images\": %d, \"validation_images\": %d, \"test_images\": %d, "
            "\"unlabelled_images\": %d, \"classes\": [",
            r->seeds, r->train_count, r->validation_count, r->test.count, r->unlabelled_count);
    for (i = 0; i < r->class_count; ++i) {
        if (i) fputs(", ", f);
        json_text(f, r->classes[i]);
    }
    fputs("],\n", f);
    json_images(f, &s->images);
    json_settings(f, s);
    json_objective(f, s);
    json_choices(f, s);
    fputs("  \"teacher\": {", f);
    if (r->teacher.spec) json_model(f, &r->teacher);
    if (r->teacher.spec && r->teacher_known) fputs(", ", f);
    if (r->teacher_known) json_metrics(f, &r->teacher_run.test);
    if (r->teacher_known) json_classes(f, &r->teacher_run, 1);
    fputs("},\n", f);
    if (r->ensemble_students)
        fprintf(
            f,
            "  \"ensemble\": {\"students\": %d, \"share\": %g, \"accuracy\": %.6f, \"held_out_accuracy\": %.6f},\n",
            r->ensemble_students, r->ensemble_share, r->ensemble_accuracy, r->ensemble_validation);
    fputs("  \"student\": {", f);
    json_model(f, &r->student);
    fputs("},\n", f);
    for (i = 0; i < r->way_count; ++i) json_way(f, s, i);
    fprintf(f, "  \"kept\": {\"student\": \"%s\", \"seed\": %d, \"held_out_accuracy\": ", r->ways[r->kept_way].name,
            r->first_seed + r->kept_seed);
    fprintf(f, r->validation_count ? "%.6f},\n" : "null},\n", r->ways[r->kept_way].runs[r->kept_seed].held_out);
    if (s->o.int8)
        fprintf(f, "  \"kept_int8\": {\"student\": \"%s\", \"seed\": %d, \"bytes\": %lld, \"latency_us\": %.3f},\n",
                r->ways[s->int8_way[s->int8_kept_kind]].name, r->first_seed + s->int8_kept_seed,
                (long long)s->int8_model.bytes, s->int8_model.latency_us);
    report_verdict(r, text, sizeof text);
    fputs("  ", f);
    json_words(f, "verdict", text, 1);
    fputs(",\n  ", f);
    json_number(f, "teacher_held_out_accuracy", r->teacher_validation, r->teacher_validation >= 0);
    fputs(",\n", f);
    json_diagnosis(f, s);
    json_fit(f, s);
    json_beside(f, s);
    if (*s->larger_spec) {
        const report_statistic gain = pruned_gain(s);
        fputs("  \"pruned\": {\"larger\": ", f);
        json_text(f, s->larger_spec);
        fprintf(f, ", \"gain_over_distilled\": %.6f, \"gain_error\": %.6f},\n", gain.mean, gain.error);
    }
    if (r->teacher_known)
        fprintf(f, "  \"agreement\": %.6f,\n", report_agreement(r->ways[r->headline].runs, r->seeds));
    if (r->teacher.spec) fprintf(f, "  \"teacher_latency_us\": %.3f,\n", r->teacher.latency_us);
    fprintf(f, "  \"student_latency_us\": %.3f,\n  \"seconds\": %.3f\n}\n", r->student.latency_us, r->seconds);
    return output_close(s, "metrics.json", f, !ferror(f));
}
