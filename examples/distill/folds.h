/* folds.h - what several runs say together, each of which tested on another part of the images. A part of
   distill.c. */

/* ---- folds ------------------------------------------------------------------------------------------------ */

/* Accuracy of one fold, 0 to 1, means over its seeds: the teacher, and every way by name and title. */
typedef struct fold_results {
    double teacher;
    int count;
    struct {
        char name[32], title[64];
        double accuracy;
    } ways[REPORT_WAYS];
} fold_results;

static const char fold_file[] = "fold.txt";

/* Leaves in the output folder what this fold reached: it is also the sign that it came to its end. */
static int fold_note(const session *s)
{
    const report *r = &s->r;
    char path[MAX_PATH + 8];
    FILE *f = output_open(s, fold_file, path);
    int i;
    if (!f) return 0;
    fprintf(f, "%" PRIx64 " %.17g\n", s->o.words, r->teacher_known ? r->teacher_run.test.accuracy : -1);
    for (i = 0; i < r->way_count; ++i)
        fprintf(f, "%s=%.17g %s\n", r->ways[i].name, report_accuracy(r->ways[i].runs, r->seeds).mean,
                r->ways[i].title);
    return output_close(s, fold_file, f, !ferror(f));
}

/* A hash of the options that have a say, of the images' folder and of the version: a fold of others is none of this
   run's. */
static uint64_t folds_words(session *s, const options *o)
{
    char text[MAX_PATH];
    uint64_t hash = 0;
    const char *c;
    int i;
    memset(s, 0, sizeof *s);
    s->o = *o;
    for (i = -2; i < OPTION_COUNT; ++i) {
        if (i == -2) snprintf(text, sizeof text, "%s", kd_version());
        if (i == -1) snprintf(text, sizeof text, "%s", o->folder);
        if (i >= 0 && !option_counts(&option_table[i])) continue;
        if (i >= 0) option_text(s, &option_table[i], text, sizeof text);
        for (c = text; *c; ++c) hash = images_hash(hash ^ (unsigned char)*c);
        hash = images_hash(hash ^ 256);
    }
    return hash;
}

static void fold_path(const options *o, char *path)
{
    snprintf(path, MAX_PATH, "%.*s/%s", MAX_PATH - 32, o->out, fold_file);
}

/* Returns 0 where there is no such file, or it is not complete; -1 where it is of other options. */
static int fold_read(const options *o, fold_results *to)
{
    char path[MAX_PATH], line[256];
    uint64_t words = o->words;
    FILE *f;
    memset(to, 0, sizeof *to);
    fold_path(o, path);
    f = fopen(path, "rb");
    if (!f) return 0;
    if (fscanf(f, "%" SCNx64 " %lf ", &words, &to->teacher) == 2 && words == o->words) {
        while (to->count < REPORT_WAYS && fgets(line, sizeof line, f)) {
            if (sscanf(line, "%31[^=]=%lf %63[^\n]", to->ways[to->count].name, &to->ways[to->count].accuracy,
                       to->ways[to->count].title) != 3)
                break;
            ++to->count;
        }
    }
    fclose(f);
    return words != o->words ? -1 : to->count > DISTILLED;
}

/* Over the folds; way -1: the teacher. With `base`, of the difference to that way in the same fold. */
static report_statistic fold_statistic(const fold_results *all, int folds, int way, int base)
{
    report_statistic a = {0, 0, 0};
    double squares = 0;
    int i;
    for (i = 0; i < folds; ++i) {
        const double x =
            (way < 0 ? all[i].teacher : all[i].ways[way].accuracy) - (base < 0 ? 0 : all[i].ways[base].accuracy);
        a.mean += x / folds;
        squares += x * x;
    }
    a.sd = sqrt(fmax(0, (squares - folds * a.mean * a.mean) / (folds - 1)));
    a.error = a.sd / sqrt(folds);
    return a;
}

static int folds_write(const options *o, const fold_results *all)
{
    char path[MAX_PATH];
    FILE *f;
    int i, k;
    snprintf(path, sizeof path, "%.*s/folds.json", MAX_PATH - 32, o->out);
    f = fopen(path, "wb");
    if (!f) return complain("%s cannot be written: %s", path, strerror(errno));
    fprintf(f, "{\n  \"folds\": %d", o->folds);
    for (i = -1; i < all->count; ++i) {
        const report_statistic a = fold_statistic(all, o->folds, i, -1),
                               gain = fold_statistic(all, o->folds, i, ALONE);
        fprintf(f, ",\n  \"%s%s\": {\"accuracy_mean\": %.6f, \"accuracy_sd\": %.6f, \"accuracies\": [",
                i < 0 ? "teacher" : "student_", i < 0 ? "" : all->ways[i].name, a.mean, a.sd);
        for (k = 0; k < o->folds; ++k)
            fprintf(f, "%s%.6f", k ? ", " : "", i < 0 ? all[k].teacher : all[k].ways[i].accuracy);
        fputs("]", f);
        if (i > ALONE) fprintf(f, ", \"gain\": %.6f, \"gain_error\": %.6f", gain.mean, gain.error);
        fputs("}", f);
    }
    fputs("\n}\n", f);
    i = !ferror(f);
    return fclose(f) == 0 && i ? 1 : complain("%s cannot be written: %s", path, strerror(errno));
}

/* The table of all folds, and folds.json. */
static int folds_tell(const options *o, const fold_results *all)
{
    const report_statistic gain = fold_statistic(all, o->folds, DISTILLED, ALONE);
    int i;
    for (i = 1; i < o->folds; ++i) {
        if (all[i].count != all->count)
            return complain("fold %d has %d ways of training, the first %d: it is of a run with other options",
                            i + 1, all[i].count, all->count);
    }
    printf("\n%-*s  %s\n", NAME_COLUMN, "all folds", "test, mean +- sd");
    for (i = all->teacher < 0 ? 0 : -1; i < all->count; ++i) {
        const report_statistic a = fold_statistic(all, o->folds, i, -1);
        printf("%-*s %6.2f %% +- %.2f\n", NAME_COLUMN, i < 0 ? "teacher" : all->ways[i].title, 100 * a.mean,
               100 * a.sd);
    }
    say("\nOver %d folds, in which every image was tested once, distilling changed the accuracy by %+.2f points "
        "(standard error %.2f; folds share most of what they learn from, so the true one is somewhat larger)\n"
        "Each fold's student and report are in %s/fold-1 to fold-%d; to ship one that has learned from all folds, "
        "run without --folds\n",
        o->folds, 100 * gain.mean, 100 * gain.error, o->out, o->folds);
    return folds_write(o, all);
}
