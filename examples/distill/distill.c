/* distill.c - distil a classifier of images or texts: train a teacher, distil it into a student, report on it

       cc -O2 -o distill examples/distill/distill.c -lm         (needs stb: apt-get install libstb-dev)
       ./distill examples/data/fashion
       ./distill examples/data/banking77

   Everything is trained on the same images: a share of the training images is held out to choose the settings of
   every way of training with, and the test images are looked at once, at the end. */
#if !defined(_POSIX_C_SOURCE) && !defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L /* clock_gettime, fsync, sigaction */
#endif
#define KD_IMPLEMENTATION
#include "../../kd.h"
#include "../images.h"
#include "../texts.h"
#include "../hidden.h"
#include "../report.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* its parts, in the order in which they use each other */
#include "options.h"
#include "session.h"
#include "data.h"
#include "plan.h"
#include "presets.h"
#include "teacher_logits.h"
#include "models.h"
#include "losses.h"
#include "train.h"
#include "teachers.h"
#include "ensemble.h"
#include "pretrain.h"
#include "tasks.h"
#include "further.h"
#include "ways.h"
#include "fit.h"
#include "latency.h"
#include "int8.h"
#include "results.h"
#include "folds.h"

/* ---- the whole ------------------------------------------------------------------------------------------- */

static void add_setting(session *s, const char *name, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

static void add_setting(session *s, const char *name, const char *format, ...)
{
    report_setting *setting = &s->settings[s->r.setting_count];
    va_list args;
    if (s->r.setting_count == KD__COUNT(s->settings)) return;
    ++s->r.setting_count;
    setting->name = name;
    va_start(args, format);
    vsnprintf(setting->value, sizeof setting->value, format, args);
    va_end(args);
}

/* What is known before the first training: the images, and room for what the students will reach. */
static int open_report(session *s)
{
    const options *o = &s->o;
    report *r = &s->r;
    int i;
    r->folder = o->folder;
    r->classes = s->images.class_names;
    r->class_count = s->images.class_count;
    r->channels = s->images.channels;
    r->height = s->images.height;
    r->width = s->images.width;
    r->texts = s->images.are_texts;
    r->train_count = s->fit.data.count;
    r->validation_count = s->held.data.count;
    r->train.pixels = s->fit.pixels, r->train.labels = s->fit.labels, r->train.count = s->fit.data.count;
    r->test.pixels = s->images.test.pixels, r->test.labels = s->images.test.labels,
    r->test.count = s->images.test.count;
    r->loaded = &s->images;
    r->seeds = o->seeds;
    r->first_seed = o->first_seed;
    r->attacked = o->adversarial;
    r->base = ALONE;
    r->headline = DISTILLED;
    r->teacher_validation = r->alone_validation = -1;
    for (i = 0; i < WAY_COUNT; ++i) {
        if (way_runs(s, i) && report_way_add(r, way_names[i][0], way_names[i][1]) < 0) return 0;
    }
    if (way_runs(s, ROBUST)) r->ways[way_place(s, ROBUST)].apart = 1;
    return add_int8_ways(s);
}

static void fill_report(session *s)
{
    const options *o = &s->o;
    report *r = &s->r;
    char text[sizeof s->settings[0].value];
    int i;
    r->teacher_logits = s->teacher_test;
    r->student_logits = s->student_test;
    r->confusion = s->confusion;
    if (report_tree_open(&s->tree, s->kept, &s->test)) r->tree = &s->tree;
    if (s->more_count == 0) r->teacher_model = s->teacher; /* of several none speaks for all */
    r->student_model = s->kept;
    if (s->pretrained && s->held.data.count)
        add_setting(
            s, "hidden words",
            "%d passes over the texts; %.2f %% of the letters hidden in held-out ones are told, before %.2f %%",
            s->hidden_passes, 100 * s->hidden_told[1], 100 * s->hidden_told[0]);
    else if (s->pretrained)
        add_setting(s, "hidden words", "%d passes over the texts", s->hidden_passes);
    if (s->more_count) add_setting(s, "teachers", "%d, averaged", teacher_count(s));
    if (r->ensemble_students)
        add_setting(s, "teachers of the distilled",
                    "the teacher (%.0f %%) and the %d students alone (%.0f %%), logits averaged",
                    100 - 100 * r->ensemble_share, r->ensemble_students, 100 * r->ensemble_share);
    add_setting(s, "teacher", "%s", r->teacher.spec ? r->teacher.spec : o->teacher);
    for (i = 0; i < s->more_count && !r->teacher_trained; ++i)
        add_setting(s, "another teacher", "%s", kd_model_spec(s->more[i]));
    add_setting(s, "student", "%s", r->student.spec);
    if (*s->larger_spec) add_setting(s, "pruned from", "%s", s->larger_spec);
    add_setting(s, "loss",
                s->objective.count == 1 && s->objective.alpha >= 0
                    ? "%s: alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy"
                    : "%s",
                loss_text(&r->ways[DISTILLED].grid[r->ways[DISTILLED].chosen]).chars);
    for (i = 0; i < s->objective.feature_count; ++i) {
        feature_text(s, i, text, sizeof text);
        add_setting(s, "loss on features", "%s", text);
    }
    if (r->teacher_trained)
        add_setting(s, "teacher's training", "%d epoch%s, learning rate %g, weight decay %g",
                    s->plan.teacher_epochs, plural(s->plan.teacher_epochs), o->teacher_lr, o->teacher_weight_decay);
    for (i = 0; i < r->way_count; ++i) add_setting(s, r->ways[i].title, "%s", r->ways[i].how);
    add_setting(s, "all", "%s, cosine schedule with a warm-up of a twentieth, batch %d",
                kd_optimizer_name(s->optimizer), o->batch);
    if (s->class_weights) add_setting(s, "class weights", "by the inverse of their images");
    if (r->teacher_trained) add_setting(s, "teacher's augmentation", "%s", augment_text(s->plan.teacher_augment));
    add_setting(s, "students' augmentation", "%s", augment_text(s->plan.augment));
    if (o->seeds == 1)
        add_setting(s, "seed", "%d", o->first_seed);
    else
        add_setting(s, "seeds", "%d to %d", o->first_seed, o->first_seed + o->seeds - 1);
    add_setting(s, "library", "kd.h %s, %s", kd_version(), kd_isa_name(kd_ctx_isa(s->kd)));
    r->settings = s->settings;
    r->command = s->command;
}

static void list_input(session *s, const char *path)
{
    const char *name = strrchr(path, '/');
    if (ends_with(path, ".npy") || ends_with(path, ".safetensors") || ends_with(path, ".onnx"))
        report_file_add(&s->r, name ? name + 1 : path, path);
}

static void list_output(session *s, const char *name)
{
    char path[MAX_PATH];
    output_path(s, name, path);
    report_file_add(&s->r, name, path);
}

/* What came out and what went in, with hashes that anybody can check. */
static void list_files(session *s)
{
    const texts *teachers = &s->o.teachers_given;
    char name[64];
    int i;
    for (i = 0; s->teacher && i < teacher_count(s); ++i) {
        numbered_file("teacher", i, name, sizeof name);
        list_output(s, name);
    }
    for (i = 0; i < s->assistant_count; ++i) {
        numbered_file("assistant", i, name, sizeof name);
        list_output(s, name);
    }
    list_output(s, "student.safetensors");
    if (s->o.int8) list_output(s, "student_int8.safetensors");
    if (way_runs(s, ROBUST)) list_output(s, "student_robust.safetensors");
    list_output(s, "metrics.json");
    for (i = 0; i < teachers->count; ++i) list_input(s, teachers->values[i]);
    list_input(s, s->o.teacher_weights);
    list_input(s, s->o.teacher_test);
}

static int write_report(session *s)
{
    char path[MAX_PATH];
    FILE *f;
    list_files(s);
    report_left_out = 0;
    f = output_open(s, "report.html", path);
    if (!f || !output_close(s, "report.html", f, report_write(f, &s->r))) return 0;
    if (report_left_out)
        fprintf(stderr, "distill: %d pictures are left out of the report: there is not enough memory\n",
                report_left_out);
    return 1;
}

/* Seconds for an epoch of a small CNN; a large number where it cannot be had. */
static double try_threads(kd_isa isa, int threads)
{
    static float pixels[256 * 784];
    static int32_t labels[256];
    const kd_data data = kd_data_f32(pixels, labels, 256, 1, 28, 28, 10);
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_train_desc how = kd_train_defaults();
    kd_model *m = NULL;
    kd_ctx *kd;
    double seconds = 1e9;
    int i;
    desc.isa = isa;
    desc.threads = threads;
    for (i = 0; i < 256 * 784; ++i) pixels[i] = (float)(i % 251) / 251;
    if (kd_open(&desc, &kd) != KD_OK) return seconds;
    how.epochs = 1;
    if (kd_model_create(kd, "1x28x28: conv 16 3 pad=1, relu, maxpool 2, conv 32 3 pad=1, relu, gap, dense 10", 1,
                        &m) == KD_OK) {
        const double started = seconds_now();
        if (kd_train(m, &data, &how) == KD_OK) seconds = seconds_now() - started;
    }
    kd_model_destroy(m);
    kd_close(kd);
    return seconds;
}

/* A machine that is busy with something else may be faster with fewer threads than processors: all, half of them,
   and so on to one are tried by turns. Fewer are taken where they are faster by a tenth. */
static int fastest_threads(kd_isa isa)
{
    enum { ROUNDS = 5, MOST = 9 };
    double seconds[MOST][ROUNDS];
    int threads[MOST], count = 0, chosen = 0, n, i, round;
    for (n = kd_cpu_count(); n && count < MOST; n /= 2) threads[count++] = n;
    for (round = 0; round < ROUNDS && count > 1; ++round) {
        for (i = 0; i < count; ++i) seconds[i][round] = try_threads(isa, threads[i]);
    }
    for (i = 0; i < count && count > 1; ++i) {
        qsort(seconds[i], ROUNDS, sizeof seconds[i][0], by_size);
        if (seconds[i][ROUNDS / 2] < 0.9 * seconds[chosen][ROUNDS / 2]) chosen = i;
    }
    return threads[chosen];
}

static void print_note(void *user, const char *line)
{
    if (((const session *)user)->telling) say("  note: %s\n", line);
}

static int open_session(session *s)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_result result;
    int i;
    if (!plan_augmentation(s, 0)) return 0; /* what is wrong with the words is said at once */
    if (!parse_loss(s) || !parse_features(s) || !fit_parse(s)) return 0;
    for (i = 0; i < KD_OPTIMIZER_COUNT && strcmp(s->o.optimizer, kd_optimizer_name((kd_optimizer)i)) != 0; ++i) {}
    if (i == KD_OPTIMIZER_COUNT)
        return complain("--optimizer can be adam, adamw or sgd, got \"%s\"", s->o.optimizer);
    s->optimizer = (kd_optimizer)i;
    for (i = 0; i < KD_ISA_COUNT && strcmp(s->o.isa, kd_isa_name((kd_isa)i)) != 0; ++i) {}
    if (i == KD_ISA_COUNT)
        return complain("there is no instruction set \"%s\"; distill --help lists them", s->o.isa);
    desc.isa = (kd_isa)i;
    desc.threads = s->o.threads ? s->o.threads : s->o.list_layers ? 1 : fastest_threads(desc.isa);
    desc.log = print_note;
    desc.log_user = s;
    result = kd_open(&desc, &s->kd);
    if (result != KD_OK)
        return complain("the library cannot be opened with instruction set %s: %s", s->o.isa,
                        kd_result_meaning(result));
    if (s->o.list_layers) return 1;
    printf("kd.h %s, %s, %d thread%s%s\n", kd_version(), kd_isa_name(kd_ctx_isa(s->kd)), kd_ctx_threads(s->kd),
           plural(kd_ctx_threads(s->kd)),
           s->o.threads || kd_cpu_count() == 1 ? "" : ", the fastest just now; --threads chooses");
    return 1;
}

/* Where some classes have many more images to learn from than others, accuracy says little of the small ones. */
static void note_uneven(const session *s)
{
    const int classes = s->images.class_count, uneven = 5;
    const part *fit = &s->fit;
    int *counts = (int *)calloc((size_t)classes, sizeof *counts);
    int i, most = 0, least = 0;
    for (i = 0; counts && i < fit->data.count; ++i) ++counts[fit->labels[i]];
    for (i = 0; counts && i < classes; ++i) {
        if (counts[i] > counts[most]) most = i;
        if (counts[i] < counts[least]) least = i;
    }
    if (counts && counts[most] > uneven * counts[least])
        say("          note: classes are very uneven: \"%s\" has %d image%s to learn from, \"%s\" %d; accuracy by "
            "class is in the report and in metrics.json%s\n",
            s->images.class_names[most], counts[most], plural(counts[most]), s->images.class_names[least],
            counts[least], s->class_weights ? "" : ". With --class-weights auto they count alike");
    free(counts);
}

static void print_plan(const session *s)
{
    const report *r = &s->r;
    const report_text fit = report_count(s->fit.data.count), held = report_count(s->held.data.count),
                      test = report_count(s->images.test.count);
    say("%-10s%s: %s to learn from, %s held out, %s to test; %s, %d classes\n",
        s->images.are_texts ? "texts" : "images", s->o.folder, fit.chars, held.chars, test.chars,
        report_shape(r).chars, s->images.class_count);
    note_uneven(s);
    if (r->unlabelled_count) say("          and %s without labels\n", report_count(r->unlabelled_count).chars);
    if (r->teacher.spec)
        say("teacher   %s\n          %s parameters\n", s->teacher_spec, report_count(r->teacher.parameters).chars);
    else
        say("teacher   logits in %s%s%s%s\n", s->o.teacher,
            s->rows_train.names ? "" : ": no list names the images of its rows, so those have the order of ",
            s->rows_train.names ? "" : s->o.out, s->rows_train.names ? "" : "/order.txt");
    if (r->teacher_guessed)
        say("          note: it does not say how its images were normalised, and is given them by mean and "
            "deviation "
            "of the training images; --mean and --std are there to say otherwise\n");
    if (r->candidate_count)
        say("student   one of %d that fit, of families of small networks: chosen by short trials\n",
            r->candidate_count);
    else
        say("student   %s\n          %s parameters\n", s->student_spec, report_count(r->student.parameters).chars);
    if (s->prompts)
        say("          in training the distilled are given what the teacher says as prompts, more and more "
            "rarely\n");
    fflush(stdout);
}

static int allocate_results(session *s)
{
    const size_t classes = (size_t)s->images.class_count, tests = (size_t)s->images.test.count;
    if (!s->teacher_test && s->teacher) s->teacher_test = (float *)images_memory(tests * classes, sizeof(float));
    s->student_test = (float *)images_memory(tests * classes, sizeof(float));
    s->confusion = (int64_t *)images_memory(classes * classes, sizeof(int64_t));
    s->students = (kd_model **)calloc((size_t)(WAY_COUNT * s->o.seeds), sizeof(kd_model *));
    return open_report(s) && s->students && s->student_test && s->confusion && (s->teacher_test || !s->teacher)
               ? 1
               : complain("there is not enough memory for the results");
}

/* What a .npy teacher reaches on the test images, from its logits. */
static int test_logits(session *s)
{
    kd_metrics *m = &s->r.teacher_run.test;
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_CE);
    const int classes = s->test.classes;
    int i, c;
    if (kd_loss(s->kd, &loss, s->teacher_test, NULL, s->test.labels, s->test.count, classes, NULL, &m->nll) !=
        KD_OK)
        return kd_complain(s, "the teacher's logits");
    m->classes = classes < KD_METRICS_CLASSES ? classes : KD_METRICS_CLASSES;
    for (i = 0; i < s->test.count; ++i) {
        const int label = s->test.labels[i],
                  hit = report_argmax(s->teacher_test + (size_t)i * (size_t)classes, classes) == label;
        m->accuracy += (double)hit / s->test.count;
        if (label < m->classes) ++m->class_count[label], m->class_accuracy[label] += hit;
    }
    for (c = 0; c < m->classes; ++c) m->class_accuracy[c] /= m->class_count[c] ? m->class_count[c] : 1;
    report_reliability_add(&s->r.teacher_reliability, s->teacher_test, s->test.labels, s->test.count, classes);
    m->ece = report_ece(&s->r.teacher_reliability);
    m->agreement = 1;
    m->robust_accuracy = -1;
    return 1;
}

/* A teacher from elsewhere may have learnt from images normalised otherwise, or classes in another order: that is
   better said before the students are trained than after. */
static void print_known_teacher(const session *s)
{
    const double accuracy = s->r.teacher_run.test.accuracy, chance = 1.0 / s->images.class_count;
    if (!s->teacher_test || s->r.teacher_trained) return;
    say("\nThe teacher gets %.2f %% of the test images right\n", 100 * accuracy);
    if (accuracy < 2 * chance && s->images.class_count > 2)
        say("note: that is hardly more than chance; were its images normalised like these (--mean, --std), and are "
            "its "
            "classes those of the folders, in their order?\n");
    fflush(stdout);
}

static int save_more_teachers(const session *s)
{
    char name[64];
    int i;
    for (i = 0; i < s->more_count; ++i) {
        numbered_file("teacher", i + 1, name, sizeof name);
        if (!save_known(s, s->more[i], name)) return 0;
    }
    return 1;
}

/* The teacher is as it will be: it is saved, tested, and asked about the images that the students will see. */
static int finish_teacher(session *s)
{
    if (s->teacher && !save_known(s, s->teacher, "teacher.safetensors")) return 0;
    if (s->more_count) {
        if (!save_more_teachers(s) || !average_teachers(s, &s->test, 1, s->teacher_test) || !test_logits(s))
            return 0;
    } else if (s->teacher) {
        if (!test_model(s, s->teacher, &s->r.teacher_run, s->teacher_test, NULL)) return 0;
        report_reliability_add(&s->r.teacher_reliability, s->teacher_test, s->test.labels, s->test.count,
                               s->test.classes);
    } else if (s->teacher_test && !test_logits(s)) {
        return 0;
    }
    s->r.teacher_known = s->teacher_test != NULL;
    print_known_teacher(s);
    return 1;
}

/* What teacher and labels ask of the student that was kept, before it was trained and after. */
static int diagnose(session *s)
{
    const report_way *way = &s->r.ways[DISTILLED];
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_data data = s->fit.data;
    float *average = NULL;
    kd_model *fresh = create_model(s, "student", s->student_spec, (uint64_t)(s->o.first_seed + s->r.kept_seed));
    int done;
    if (!fresh) return 0;
    d.teacher = s->teacher;
    d.loss = loss_options(s, DISTILLED, s->objective.first, &way->grid[way->chosen]);
    if (!s->teacher) data.teacher_logits = s->fit.teacher_logits;
    if (s->more_count) {
        const int at_one = d.loss.kind == KD_LOSS_TTM || d.loss.kind == KD_LOSS_WTTM; /* as in training */
        data.teacher_logits = average = averaged_logits(s, &s->fit.data, at_one ? 1 : d.loss.temperature);
        d.teacher = NULL;
        if (!average) {
            kd_model_destroy(fresh);
            return 0;
        }
    }
    if (s->r.ensemble_students) {
        data.teacher_logits = average = ensemble_logits(s, &s->fit.data);
        d.teacher = NULL;
        if (!average) {
            kd_model_destroy(fresh);
            return 0;
        }
    }
    done = kd_diagnose(fresh, &data, &d, &s->r.before) == KD_OK &&
           kd_diagnose(s->kept, &data, &d, &s->r.after) == KD_OK;
    kd_model_destroy(fresh);
    free(average);
    return done ? 1 : kd_complain(s, "diagnosis");
}

static void note_choice(session *s)
{
    const report_trial *t = &s->r.ways[DISTILLED].grid[s->r.ways[DISTILLED].chosen];
    const kd_loss_desc loss = loss_options(s, DISTILLED, s->objective.first, t);
    s->r.has_temperature = s->objective.temperature >= 0;
    s->r.has_alpha = s->objective.alpha >= 0;
    s->r.temperature = t->temperature > 0 ? t->temperature : (double)loss.temperature;
    s->r.alpha = t->alpha >= 0 ? t->alpha : (double)loss.alpha;
}

/* Of the students of attacked images, that which knows most of the held-out ones. */
static int save_robust(const session *s)
{
    const int place = way_place(s, ROBUST);
    int i, best = 0;
    if (!way_runs(s, ROBUST)) return 1;
    for (i = 1; i < s->o.seeds; ++i) {
        if (s->r.ways[place].runs[i].held_out > s->r.ways[place].runs[best].held_out) best = i;
    }
    return save_known(s, s->students[place * s->o.seeds + best], "student_robust.safetensors");
}

static int finish(session *s)
{
    report_run again; /* the kept student once more, for its logits */
    int i;
    if (!save_model(s, s->kept, "student.safetensors") || !save_robust(s)) return 0;
    if (!test_model(s, s->kept, &again, s->student_test, s->confusion)) return 0;
    if (!measure_latency(s, "student.safetensors", &s->r.student.latency_us)) return 0;
    s->r.student.bytes = file_bytes(s, "student.safetensors");
    if (!save_int8(s)) return 0;
    for (i = 0; s->teacher && i < teacher_count(s); ++i) { /* one after the other */
        char name[64];
        double latency;
        numbered_file("teacher", i, name, sizeof name);
        if (!measure_latency(s, name, &latency)) return 0;
        s->r.teacher.latency_us += latency;
        s->r.teacher.bytes += file_bytes(s, name);
    }
    s->r.seconds = seconds_now() - s->started;
    fill_report(s);
    if (!write_metrics(s) || !write_report(s)) return 0;
    resume_clear(s);
    print_table(s);
    return 1;
}

/* Without images to choose with, the first of each list is taken. */
static void choose_nothing(session *s)
{
    list *lists[4];
    int i;
    lists[0] = &s->o.lr, lists[1] = &s->o.weight_decay, lists[2] = &s->o.temperature, lists[3] = &s->o.alpha;
    say("note: no images are held out, so nothing is chosen by them: the first of each list of settings is taken, "
        "and "
        "images are not mirrored\n");
    for (i = 0; i < 4; ++i) lists[i]->count = 1;
}

static int say_orders(const session *s)
{
    const char *out = s->o.out;
    if (is_one_folder(&s->images))
        say("%s/order.txt says which image each row is about: all of the folder, before it is split\n", out);
    else
        say("%s/order.txt says which image each row of --teacher is about, %s/order-test.txt of --teacher-test\n",
            out, out);
    return 1;
}

static int run(session *s)
{
    s->started = seconds_now();
    if (*s->o.show_model) s->o.list_layers = 1; /* nothing else than that is done either */
    if (!open_session(s) || (!s->o.write_order && !inspect_teacher(s)) || (!s->o.list_layers && !check_output(s)) ||
        !load_images(s))
        return 0;
    if (s->o.write_order) return write_orders(s) && say_orders(s);
    if (!split_images(s)) return 0;
    if (s->fit.data.count < 1) return complain("%s has no images to learn from", s->o.folder);
    if (s->held.data.count < 1 && !s->o.list_layers) choose_nothing(s);
    plan_epochs(s);
    if (!plan_augmentation(s, 0)) return 0; /* now that the size of the images is known */
    if (*s->o.show_model) return show_model(s);
    measure_preprocessing(s);
    if (!weights_of_classes(s) || !given_preprocessing(s) || !fit_open(s) || !open_models(s) || !rivals_open(s))
        return 0;
    if (s->o.list_layers) return list_models(s);
    if (!allocate_results(s)) return 0;
    share_preprocessing(s);
    if (!check_known_teacher(s) || !check_ensemble(s) || !check_trainings(s)) return 0;
    print_plan(s);
    announce_time(s);
    if (!resume_begin(s) || !write_orders(s) || !choose_flip(s) || !prepare_teacher(s) || !fit_search(s) ||
        !train_ways(s, 0) || !compare_teacher(s) || !finish_teacher(s) || !train_ways(s, 1) || !rivals_train(s))
        return 0;
    note_choice(s);
    choose_kept(s);
    return make_int8_students(s) && test_students(s) && rivals_test(s) && test_int8_students(s) && diagnose(s) &&
           finish(s);
}

static void close_session(session *s)
{
    part *parts[3];
    int i;
    parts[0] = &s->fit, parts[1] = &s->held, parts[2] = &s->all;
    for (i = 0; i < 3; ++i) {
        free(parts[i]->pixels);
        free(parts[i]->labels);
        free(parts[i]->origin);
        free(parts[i]->teacher_logits);
    }
    if (s->training != s->teacher) kd_model_destroy(s->training);
    kd_model_destroy(s->teacher);
    if (s->training != s->pretrained) kd_model_destroy(s->pretrained);
    for (i = 0; i < s->more_count; ++i) kd_model_destroy(s->more[i]);
    for (i = 0; i < s->assistant_count; ++i) kd_model_destroy(s->assistants[i]);
    for (i = 0; s->students && i < WAY_COUNT * s->o.seeds; ++i) kd_model_destroy(s->students[i]);
    free(s->students);
    for (i = 0; s->int8_students && i < INT8_COUNT * s->o.seeds; ++i) kd_model_destroy(s->int8_students[i]);
    free(s->int8_students);
    rivals_close(s);
    free(s->class_weights);
    for (i = 0; i < WAY_COUNT; ++i) kd_cache_destroy(s->cache[i]);
    report_close(&s->r);
    free(s->teacher_test);
    rows_free(s, &s->rows_train);
    rows_free(s, &s->rows_test);
    rows_free(s, &s->rows_check);
    lines_free(s->column_names);
    free(s->columns);
    free(s->student_test);
    free(s->confusion);
    report_tree_close(&s->tree);
    images_free(&s->images);
    kd_close(s->kd);
}

/* The command line, so that a shell reads it as it was. What is too long ends in an ellipsis. */
static void keep_command(session *s, int argc, char **argv)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=,:+@%";
    const size_t size = sizeof s->command - 8;
    size_t at = 0;
    const char *c;
    int i;
    for (i = 0; i < argc; ++i) {
        const int quoted = !*argv[i] || argv[i][strspn(argv[i], plain)];
        if (at < size && i) s->command[at++] = ' ';
        if (at < size && quoted) s->command[at++] = '\'';
        for (c = argv[i]; *c && at + 4 < size; ++c) {
            if (*c == '\'') memcpy(s->command + at, "'\\'", 3), at += 3;
            s->command[at++] = *c;
        }
        if (at < size && quoted) s->command[at++] = '\'';
        if (*c) memcpy(s->command + at, " ...", 4), at += 4, i = argc;
    }
}

/* One session from its options to its end. */
static int run_session(session *s, const options *o, int argc, char **argv)
{
    int done;
    memset(s, 0, sizeof *s);
    s->o = *o;
    keep_command(s, argc, argv);
    done = run(s);
    if (done && o->folds) done = fold_note(s);
    close_session(s);
    if (!done) drop_output(s);
    return done;
}

/* Where a fold's results go; its file that says that it is finished is of this run, or removed. */
static int open_fold(const options *all, int fold, options *o, char *out, fold_results *to)
{
    char path[MAX_PATH];
    int known;
    snprintf(out, MAX_PATH, "%.*s/fold-%d", MAX_PATH - 128, all->out, fold + 1);
    *o = *all;
    o->out = out;
    o->whole_out = all->out;
    o->fold = fold;
    known = fold_read(o, to);
    if (known < 0 && o->resume)
        return complain(
            "%s is of a run with other options, images or version; without --resume, all folds start again", out);
    fold_path(o, path);
    if (!o->resume) (void)remove(path);
    return 1;
}

/* Each of the folds, and what they say together. */
static int run_folds(session *s, options *all, int argc, char **argv)
{
    static fold_results results[MAX_LIST];
    static options each[MAX_LIST];
    static char out[MAX_LIST][MAX_PATH];
    int i;
    if (all->folds == 1) return complain("--folds needs 2 or more; one is what there is without it");
    if (!*all->out) return complain("--out needs the name of a folder");
    all->words = folds_words(s, all);
    for (i = 0; i < all->folds; ++i) {
        if (!open_fold(all, i, &each[i], out[i], &results[i])) return 0;
    }
    for (i = 0; i < all->folds; ++i) {
        if (all->resume && results[i].count) continue;
        printf("%s---- fold %d of %d ----\n", i ? "\n" : "", i + 1, all->folds);
        if (!run_session(s, &each[i], argc, argv)) return 0;
        if (fold_read(&each[i], &results[i]) != 1) return complain("%s/%s cannot be read", out[i], fold_file);
    }
    return folds_tell(all, results);
}

int main(int argc, char **argv)
{
    static session s; /* too large for some stacks */
    static options o;
    struct sigaction action;
    const int parsed = parse_options(&o, argc, argv);
    int done;
    if (parsed < 0) return EXIT_SUCCESS;
    if (parsed == 0) return EXIT_FAILURE;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (o.list_layers || o.write_order || *o.show_model) o.folds = 0; /* nothing is trained */
    done = o.folds ? run_folds(&s, &o, argc, argv) : run_session(&s, &o, argc, argv);
    return done ? EXIT_SUCCESS : interrupted ? EXIT_INTERRUPTED : EXIT_FAILURE;
}
