/* Training that stops and goes on: the same bits, whatever is lost on the way; and training that rolls back. */
#include "disk.h"

enum { COUNT = 41, CLASSES = 4, FLOATS = 3 * 6 * 6, BATCH = 9, EPOCHS = 10, STEPS = 5 * EPOCHS };

static const char student_line[] = "3x6x6: conv 5 3 pad=1, batchnorm, mid: relu, maxpool 2, dropout 0.2, dense 4";
static const char teacher_line[] = "3x6x6: conv 9 3 pad=1, middle: relu, maxpool 2, dense 4";

/* A training with everything in it that changes from step to step. */
typedef struct training {
    float *x;
    int32_t labels[COUNT];
    kd_data data;
    kd_model *teacher, *student;
    kd_loss_desc losses[3];
    kd_feature_loss features[1];
    kd_train_desc desc;
} training;

static kd_model *create(const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(kd, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(kd));
    return m;
}

static void open_training(training *r, kd_optimizer optimizer)
{
    int i;
    memset(r, 0, sizeof *r);
    r->x = test_floats(3, COUNT * FLOATS, 1);
    for (i = 0; i < COUNT; ++i) r->labels[i] = (i * 7 + i / 5) % CLASSES;
    r->data = kd_data_f32(r->x, r->labels, COUNT, 3, 6, 6, CLASSES);
    r->data.mean[1] = 0.25f, r->data.std[2] = 2;
    r->teacher = create(teacher_line, 1);
    r->student = create(student_line, 2);
    r->losses[0] = kd_loss_defaults(KD_LOSS_CTKD);
    r->losses[1] = kd_loss_defaults(KD_LOSS_CE);
    r->losses[2] = kd_loss_defaults(KD_LOSS_CTKD);
    r->losses[0].warmup = 2, r->losses[2].warmup = 3;
    r->features[0] = kd_feature_loss_defaults(KD_FEATURE_HINT); /* with a learned regressor */
    r->features[0].student = "mid", r->features[0].teacher = "middle", r->features[0].weight = 0.5f;
    r->desc = kd_train_defaults();
    r->desc.epochs = EPOCHS, r->desc.batch = BATCH, r->desc.seed = 5, r->desc.optimizer = optimizer;
    r->desc.lr = 0.01f, r->desc.accumulate = 2, r->desc.clip_norm = 2, r->desc.weight_decay = 0.01f;
    r->desc.schedule = KD_COSINE, r->desc.warmup = 1, r->desc.validation = 0.1f, r->desc.keep = KD_KEEP_BEST;
    r->desc.augment.shift = 1, r->desc.augment.flip = 1, r->desc.augment.cutout = 2;
    r->desc.teacher = r->teacher, r->desc.losses = r->losses, r->desc.loss_count = 3;
    r->desc.features = r->features, r->desc.feature_count = 1, r->desc.rollback = 0.5f;
    r->desc.ema = 0.9f, r->desc.decay_norms_and_biases = 0;
}

static void close_training(training *r)
{
    kd_model_destroy(r->student);
    kd_model_destroy(r->teacher);
    free(r->x);
}

static kd_trainer *start(training *r)
{
    kd_trainer *t;
    assert_ok(kd, kd_trainer_open(r->student, &r->data, &r->desc, &t));
    return t;
}

static void steps(kd_trainer *t, int count)
{
    for (; count > 0; --count) assert_ok(kd, kd_trainer_step(t, NULL));
}

/* Everything that training keeps. */
static uint64_t hash_of(const kd_trainer *trainer)
{
    kd_trainer *t = (kd_trainer *)(uintptr_t)trainer;
    kd__kept kept[KD__MAX_KEPT];
    const int count = kd__trainer_kept(t, kept);
    uint64_t hash = kd_model_hash(t->m) ^ kd__mix((uint64_t)t->m->batches_seen), words[KD__POSITION_WORDS];
    int i;
    size_t j;
    for (i = 0; i < count; ++i) {
        for (j = 0; j < kept[i].count; ++j) hash = kd__mix(hash ^ kd__float_bits(kept[i].values[j]));
    }
    memcpy(words, &t->at, sizeof words);
    for (i = 0; i < KD__POSITION_WORDS; ++i) hash = kd__mix(hash ^ words[i]);
    return hash;
}

/* Stopped after each of 50 steps, saved, and taken up by a trainer and a model that know nothing of it. */
static void test_goes_on(void **state)
{
    int optimizer, stop;
    (void)state;
    for (optimizer = 0; optimizer < KD_OPTIMIZER_COUNT; ++optimizer) {
        training whole;
        kd_trainer *t;
        uint64_t last, best;
        open_training(&whole, (kd_optimizer)optimizer);
        t = start(&whole);
        assert_int_equal(t->batches * EPOCHS, STEPS);
        steps(t, STEPS);
        assert_int_equal(kd_trainer_done(t), 1);
        assert_int_equal(kd_trainer_step(t, NULL), KD_STOPPED);
        last = hash_of(t);
        kd_trainer_close(t);
        best = kd_model_hash(whole.student);
        for (stop = 0; stop <= STEPS; ++stop) {
            training first, second;
            open_training(&first, (kd_optimizer)optimizer);
            open_training(&second, (kd_optimizer)optimizer);
            kd_model_destroy(second.student);
            second.student = create(student_line, 77);
            t = start(&first);
            steps(t, stop);
            assert_ok(kd, kd_trainer_save(t, "checkpoint"));
            kd_trainer_close(t);
            t = start(&second);
            steps(t, stop % 7); /* loading makes it forget them */
            assert_ok(kd, kd_trainer_load(t, "checkpoint"));
            steps(t, STEPS - stop);
            if (hash_of(t) != last)
                fail_msg("%s: stopped after %d steps, another end", kd_optimizer_name(second.desc.optimizer), stop);
            kd_trainer_close(t);
            assert_true(kd_model_hash(second.student) == best);
            assert_true(stop == 0 || second.student->preprocessing_channels == 3);
            close_training(&first);
            close_training(&second);
        }
        close_training(&whole);
    }
}

/* Branches that are put side by side, on one thread and on three: the same end, stopped or not. */
static void test_branches_go_on(void **state)
{
    static const char line[] =
        "3x6x6: conv 5 3 pad=1, batchnorm, mid: relu, concat( | batchnorm, relu, conv 3 3 pad=1 | "
        "maxpool 3 stride=1 pad=1), dropout 0.2, concat(gap, flatten | dense 3), dense 4";
    kd_ctx *const own = kd;
    uint64_t wanted = 0;
    int threads, stop;
    (void)state;
    for (threads = 1; threads <= 3; threads += 2) {
        kd_ctx_desc desc = own->desc;
        desc.threads = threads;
        assert_int_equal(kd_open(&desc, &kd), KD_OK);
        for (stop = STEPS; stop > 0; stop /= 3) {
            training r;
            kd_trainer *t;
            open_training(&r, KD_ADAMW);
            kd_model_destroy(r.student);
            r.student = create(line, 2);
            t = start(&r);
            steps(t, stop);
            assert_ok(kd, kd_trainer_save(t, "checkpoint"));
            kd_trainer_close(t);
            kd_model_destroy(r.student);
            r.student = create(line, 77);
            t = start(&r);
            assert_ok(kd, kd_trainer_load(t, "checkpoint"));
            steps(t, STEPS - stop);
            if (!wanted) wanted = hash_of(t);
            assert_true(hash_of(t) == wanted);
            kd_trainer_close(t);
            close_training(&r);
        }
        kd_close(kd);
        kd = own;
    }
}

/* Saved by one instruction set, loaded by another: the same numbers. */
static void test_other_instruction_set(void **state)
{
    training r;
    kd_trainer *t;
    kd_isa isa;
    (void)state;
    open_training(&r, KD_ADAM);
    t = start(&r);
    steps(t, 13);
    assert_ok(kd, kd_trainer_save(t, "checkpoint"));
    FOR_EACH_ISA(isa)
    {
        kd_ctx_desc options = kd->desc;
        kd_ctx *own = kd, *other;
        training s;
        kd_trainer *u;
        options.isa = isa;
        assert_int_equal(kd_open(&options, &other), KD_OK);
        kd = other;
        open_training(&s, KD_ADAM);
        u = start(&s);
        assert_ok(other, kd_trainer_load(u, "checkpoint"));
        assert_true(kd_model_hash(s.student) == kd_model_hash(r.student));
        assert_ok(other, kd_trainer_save(u, "again"));
        assert_int_equal(disk_find("again")->size, disk_find("checkpoint")->size);
        assert_memory_equal(disk_find("again")->bytes, disk_find("checkpoint")->bytes, disk_find("again")->size);
        kd_trainer_close(u);
        close_training(&s);
        kd_close(other);
        kd = own;
    }
    kd_trainer_close(t);
    close_training(&r);
}

static int stop_at_end(void *user, const kd_step_info *info)
{
    (void)user;
    return info->step == info->steps - 1;
}

/* A callback that stops at the last step of an epoch: its end comes first when training goes on. */
static void test_stopped_by_callback(void **state)
{
    training r;
    kd_trainer *t;
    uint64_t last;
    (void)state;
    open_training(&r, KD_SGD);
    r.desc.epochs = 3;
    t = start(&r);
    steps(t, 15);
    last = hash_of(t);
    kd_trainer_close(t);
    close_training(&r);
    open_training(&r, KD_SGD);
    r.desc.epochs = 3;
    r.desc.on_step = stop_at_end;
    t = start(&r);
    steps(t, 4);
    assert_int_equal(kd_trainer_step(t, NULL), KD_STOPPED);
    assert_int_equal(kd_trainer_done(t), 1);
    assert_int_equal(kd_trainer_step(t, NULL), KD_STOPPED);
    assert_ok(kd, kd_trainer_save(t, "checkpoint"));
    kd_trainer_close(t);
    r.desc.on_step = NULL;
    t = start(&r);
    assert_ok(kd, kd_trainer_load(t, "checkpoint"));
    steps(t, 11); /* the first one has no batch */
    assert_int_equal(kd_trainer_done(t), 1);
    assert_true(hash_of(t) == last);
    kd_trainer_close(t);
    close_training(&r);
}

typedef struct saver {
    kd_trainer *t;
    uint64_t shown; /* of the model in the callback */
} saver;

static int save_at_end(void *user, const kd_epoch_info *info)
{
    saver *s = (saver *)user;
    if (info->epoch != 2) return 0;
    s->shown = kd_model_hash(info->model);
    assert_ok(kd, kd_trainer_save(s->t, "checkpoint"));
    return 0;
}

/* A checkpoint from a callback, which sees the averaged weights, has those in training, too. */
static void test_saved_by_callback(void **state)
{
    training r;
    kd_trainer *t;
    saver s = {NULL, 0};
    uint64_t last, third;
    (void)state;
    open_training(&r, KD_ADAMW);
    r.desc.on_epoch = save_at_end, r.desc.user = &s;
    s.t = t = start(&r);
    steps(t, 15);
    third = hash_of(t);
    assert_true(s.shown != kd_model_hash(r.student));
    steps(t, STEPS - 15);
    last = hash_of(t);
    kd_trainer_close(t);
    r.desc.on_epoch = NULL;
    t = start(&r);
    assert_ok(kd, kd_trainer_load(t, "checkpoint"));
    assert_true(hash_of(t) == third);
    steps(t, STEPS - 15);
    assert_true(hash_of(t) == last);
    kd_trainer_close(t);
    close_training(&r);
}

#define ANOTHER(what, change)                                                                                      \
    do {                                                                                                           \
        training s;                                                                                                \
        kd_trainer *u;                                                                                             \
        uint64_t before;                                                                                           \
        open_training(&s, KD_ADAM);                                                                                \
        change;                                                                                                    \
        u = start(&s);                                                                                             \
        steps(u, 3);                                                                                               \
        before = hash_of(u);                                                                                       \
        assert_fails(kd, kd_trainer_load(u, "checkpoint"), KD_ERR_DATA, "belongs to a training with " what);       \
        assert_true(hash_of(u) == before);                                                                         \
        steps(u, 1);                                                                                               \
        kd_trainer_close(u);                                                                                       \
        close_training(&s);                                                                                        \
    } while (0)

static void test_of_another_training(void **state)
{
    float soft[COUNT * CLASSES] = {0};
    training r;
    kd_trainer *t;
    kd_model *m;
    (void)state;
    open_training(&r, KD_ADAM);
    t = start(&r);
    steps(t, 8);
    assert_ok(kd, kd_trainer_save(t, "checkpoint"));
    ANOTHER("another model line",
            (kd_model_destroy(s.student), s.student = create("3x6x6: mid: conv 5 3, dense 4", 2)));
    ANOTHER("other data", s.x[0] += 1);
    ANOTHER("other data", s.labels[0] = (s.labels[0] + 1) % CLASSES);
    ANOTHER("other data", s.data.mean[0] = 0.5f);
    ANOTHER("other data", (s.data.soft_labels = soft, s.data.labels = NULL));
    ANOTHER("other data", (s.desc.validation = 0, s.desc.validation_data = &s.data));
    ANOTHER("another teacher",
            (kd_model_destroy(s.teacher), s.teacher = create(teacher_line, 9), s.desc.teacher = s.teacher));
    ANOTHER("other options", s.desc.lr = 0.02f);
    ANOTHER("other options", s.desc.seed = 6);
    ANOTHER("other options", s.desc.shuffle = 0);
    ANOTHER("other options", s.desc.nesterov = 1);
    ANOTHER("other options", s.desc.optimizer = KD_ADAMW);
    ANOTHER("other options", s.desc.augment.flip = 0);
    ANOTHER("other options", s.losses[0].temperature = 2);
    ANOTHER("other options", s.losses[1].label_smoothing = 0.1f);
    ANOTHER("other options", s.features[0].weight = 0.25f);
    ANOTHER("other options", s.desc.rollback = 0);
    ANOTHER("other options", s.desc.teacher_until = 0.5f);
    ANOTHER("other options", s.desc.ema = 0.99f);
    ANOTHER("other options", s.desc.decay_norms_and_biases = 1);
    {
        training s; /* of fewer epochs than it has trained for */
        kd_trainer *u;
        open_training(&s, KD_ADAM);
        s.desc.epochs = 1;
        u = start(&s);
        steps(t, 4);
        assert_ok(kd, kd_trainer_save(t, "later"));
        assert_fails(kd, kd_trainer_load(u, "later"), KD_ERR_ARGUMENT,
                     "has trained for 2 epochs already, of 1 wanted");
        kd_trainer_close(u);
        s.desc.epochs = 40; /* more are welcome */
        u = start(&s);
        assert_ok(kd, kd_trainer_load(u, "later"));
        steps(u, 40 * 5 - 12);
        assert_int_equal(kd_trainer_done(u), 1);
        kd_trainer_close(u);
        close_training(&s);
    }
    assert_fails(kd, kd_trainer_load(t, "none"), KD_ERR_IO, "kd_trainer_load: cannot open \"none\"");
    assert_ok(kd, kd_model_save(r.teacher, "model"));
    assert_fails(kd, kd_trainer_load(t, "model"), KD_ERR_FORMAT, "holds no checkpoint saved by kd_trainer_save");
    assert_fails(kd, kd_model_load(kd, "checkpoint", &m), KD_ERR_FORMAT, "format version \"none\"");
    assert_fails(kd, kd_trainer_open(r.student, &r.data, &r.desc, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_trainer_step(NULL, NULL), KD_ERR_ARGUMENT);
    assert_int_equal(kd_trainer_save(NULL, "x"), KD_ERR_ARGUMENT);
    assert_int_equal(kd_trainer_load(NULL, "x"), KD_ERR_ARGUMENT);
    assert_int_equal(kd_trainer_done(NULL), 1);
    kd_trainer_close(NULL);
    kd_trainer_close(t);
    close_training(&r);
}

/* Everything else that a training may be given: the last number of it matters, too. */
static void test_of_other_inputs(void **state)
{
    enum { TARGETS, SIDE, SEVERAL, CACHED, VIEWS, LOGITS, ANOTHER_VIEW, JUDGED, INPUTS };
    static const struct {
        const char *what;
        int numbers;
    } inputs[INPUTS] = {{"data", COUNT * CLASSES},
                        {"data", COUNT * 3},
                        {"teacher", 2},
                        {"teacher", 1},
                        {"teacher", 1},
                        {"teacher", COUNT * CLASSES},
                        {"data", COUNT * FLOATS},
                        {"teacher", COUNT * CLASSES}};
    int input, pass;
    (void)state;
    for (input = 0; input < INPUTS; ++input) {
        for (pass = 0; pass < 3; ++pass) { /* saved; loaded with another number; and with the same */
            training r;
            const kd_model *two[2];
            float *numbers = test_floats(4, COUNT * FLOATS, 1);
            kd_cache *cache = NULL;
            kd_data seen;
            kd_trainer *t;
            open_training(&r, KD_ADAM);
            r.desc.features = NULL, r.desc.feature_count = 0;
            numbers[inputs[input].numbers - 1] = pass == 1 ? 0.75f : 0.5f;
            two[0] = two[1] = r.teacher;
            if (input >= SEVERAL && input <= LOGITS) r.desc.teacher = NULL;
            switch (input) {
            case TARGETS: r.data.targets = numbers; break;
            case SIDE: r.data.side = numbers, r.data.side_count = 3; break;
            case SEVERAL:
                numbers[0] = 0.5f;
                r.desc.teachers = two, r.desc.teacher_count = 2, r.desc.teacher_weights = numbers;
                break;
            case CACHED:
                assert_ok(kd, kd_cache_create(r.teacher, &r.data, &r.desc.augment, pass == 1 ? 7 : 6, 1, &cache));
                r.desc.cache = cache;
                break;
            case VIEWS:
                assert_ok(kd, kd_cache_create(r.teacher, &r.data, &r.desc.augment, 6, pass == 1 ? 3 : 2, &cache));
                r.desc.cache = cache;
                break;
            case JUDGED:
                seen = r.data;
                seen.teacher_logits = numbers;
                r.desc.validation = 0, r.desc.validation_data = &seen;
                break;
            case LOGITS:
                r.data.teacher_logits = numbers;
                memset(&r.desc.augment, 0, sizeof r.desc.augment);
                break;
            default:
                seen = r.data;
                seen.pixels = numbers;
                r.desc.teacher_data = &seen;
                memset(&r.desc.augment, 0, sizeof r.desc.augment);
            }
            t = start(&r);
            if (pass == 1)
                assert_fails(kd, kd_trainer_load(t, "checkpoint"), KD_ERR_DATA, inputs[input].what);
            else if (pass == 2)
                assert_ok(kd, kd_trainer_load(t, "checkpoint"));
            steps(t, 2);
            if (pass == 0) assert_ok(kd, kd_trainer_save(t, "checkpoint"));
            kd_trainer_close(t);
            kd_cache_destroy(cache);
            close_training(&r);
            free(numbers);
        }
    }
}

/* Puts one text for another in the header of a file. */
static void edit(const char *name, const char *from, const char *to)
{
    const disk_file *f = disk_find(name);
    const size_t length = (size_t)kd__load_le(f->bytes, 8), size = f->size + strlen(to) - strlen(from);
    const char *at = strstr((const char *)f->bytes + 8, from);
    unsigned char *edited = (unsigned char *)malloc(size);
    size_t before;
    assert_non_null(at);
    before = (size_t)(at - (const char *)f->bytes);
    memcpy(edited, f->bytes, before);
    memcpy(edited + before, to, strlen(to));
    memcpy(edited + before + strlen(to), at + strlen(from), f->size - before - strlen(from));
    kd__store_le(edited, length + strlen(to) - strlen(from), 8);
    disk_put(name, edited, size);
    free(edited);
}

/* A valid file, with the right checksum, that is no checkpoint of this training. */
static void test_edited(void **state)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"kd.checkpoint\":\"1\"", "\"kd.checkpoint\":\"2\"", "holds no checkpoint saved by kd_trainer_save"},
        {"\"kd.training\":\"", "\"kd.training\":\"0", "holds no checkpoint saved by kd_trainer_save"},
        {"\"kd.training\"", "\"kd.trainings\"", "holds no checkpoint saved by kd_trainer_save"},
        {"\"kd.checksum\"", "\"kd.checksums\"", "its contents do not match its checksum"},
        {"\"position\"", "\"positions\"", "its position is missing or broken"},
        {"\"I64\",\"shape\":[2,13]", "\"I32\",\"shape\":[4,13]", "its position is missing or broken"},
        {"\"I64\",\"shape\":[2,13]", "\"F64\",\"shape\":[2,13]", "its position is missing or broken"},
        {"[2,13],\"data_offsets\":[0,208]}",
         "[2,12],\"data_offsets\":[0,192]},\"gap\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[192,208]}",
         "its position is missing or broken"},
        {"\"weights.6.bias\"", "\"weights.7.bias\"", "\"weights.6.bias\" is missing or not 4 numbers of type F32"},
        {"\"weights.6.bias\":{\"dtype\":\"F32\"", "\"weights.6.bias\":{\"dtype\":\"I32\"", "not 4 numbers"},
        {"\"weights.6.bias\":{\"dtype\":\"F32\",\"shape\":[4]",
         "\"weights.6.bias\":{\"dtype\":\"F64\",\"shape\":[2]", "not 4 numbers"},
        {"[5],\"data_offsets\":[748,768]}",
         "[4],\"data_offsets\":[748,764]},\"gap\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[764,768]}",
         "\"weights.0.bias\" is missing or not 5 numbers of type F32"},
        {"\"position\"", "\"more\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"position\"",
         "it has tensors that no checkpoint has"},
    };
    training r;
    kd_trainer *t;
    uint64_t before;
    int i;
    (void)state;
    open_training(&r, KD_SGD);
    t = start(&r);
    steps(t, 8);
    before = hash_of(t);
    for (i = 0; i < KD__COUNT(cases); ++i) {
        assert_ok(kd, kd_trainer_save(t, "checkpoint"));
        edit("checkpoint", cases[i].from, cases[i].to);
        assert_fails(kd, kd_trainer_load(t, "checkpoint"), KD_ERR_FORMAT, cases[i].message);
        assert_true(hash_of(t) == before);
    }
    kd_trainer_close(t);
    close_training(&r);
}

/* Cut at every byte, and each bit of it turned: refused, and the training goes on as if nothing had happened. */
static void test_damaged(void **state)
{
    training r;
    kd_trainer *t;
    disk_file *f;
    unsigned char *bytes;
    uint64_t before;
    size_t size, line, line_end, i;
    (void)state;
    open_training(&r, KD_SGD);
    kd_model_destroy(r.student);
    r.student = create("3x6x6: gap, dense 4, batchnorm", 1);
    r.desc.features = NULL, r.desc.feature_count = 0;
    r.desc.rollback = 0, r.desc.keep = KD_KEEP_LAST, r.desc.accumulate = 1;
    t = start(&r);
    steps(t, 8);
    assert_ok(kd, kd_trainer_save(t, "checkpoint"));
    steps(t, 1);
    before = hash_of(t);
    f = disk_find("checkpoint");
    bytes = f->bytes, size = f->size;
    line = (size_t)(strstr((char *)bytes + 8, "\"kd.spec") - (char *)bytes);
    line_end = (size_t)(strstr((char *)bytes + 8, "\"kd.training") - (char *)bytes);
    for (i = 0; i < size; ++i) {
        f->size = i;
        assert_true(kd_trainer_load(t, "checkpoint") == KD_ERR_FORMAT);
    }
    f->size = size;
    for (i = 0; i < 8 * size; ++i) {
        const unsigned char bit = (unsigned char)(1 << i % 8);
        const size_t padding = 8 + (size_t)kd__load_le(bytes, 8);
        kd_result result;
        if (i / 8 < padding && bytes[i / 8] == ' ') continue; /* another blank would mean the same */
        bytes[i / 8] ^= bit;
        result = kd_trainer_load(t, "checkpoint");
        if (result >= 0) {
            /* what is left: the model line, which is only there to be read by people */
            assert_true(i / 8 >= line && i / 8 < line_end);
            steps(t, 1);
            before = hash_of(t);
        } else if (hash_of(t) != before) {
            fail_msg("bit %d of byte %d: refused, but something changed", (int)(i % 8), (int)(i / 8));
        }
        bytes[i / 8] ^= bit;
    }
    kd_trainer_close(t);
    close_training(&r);
}

/* Whole and with the right checksum, but from no training: positions that it cannot be at. */
static void test_impossible_positions(void **state)
{
    training r;
    kd_trainer *t;
    kd__position sound;
    uint64_t before;
    int i;
    (void)state;
    open_training(&r, KD_SGD);
    t = start(&r);
    steps(t, 8);
    sound = t->at;
    before = hash_of(t);
    for (i = 0; i < 19; ++i) {
        kd__position *at = i < 17 ? &t->at : &t->start_at, keep = *at;
        switch (i) {
        case 0: at->epoch = -1; break;
        case 1: at->batch = -1; break;
        case 2: at->batch = t->batches + 1; break;
        case 3: at->step = -1; break;
        case 4: at->images = -1; break;
        case 5: at->labelled = -1; break;
        case 6: at->correct = -1; break;
        case 7: at->gathered_batches = -1; break;
        case 8: at->gathered_batches = 2; break;
        case 9: at->epochs_without_gain = -1; break;
        case 10: at->seen = -1; break;
        case 11: at->rollbacks = -1; break;
        case 12: at->rate = 0; break;
        case 13: at->rate = 2; break;
        case 14: at->rate = (double)NAN; break;
        case 15: at->loss = (double)NAN; break;
        case 16: at->best = (double)INFINITY; break;
        case 17: at->epoch = -5; break;
        default: at->epoch = EPOCHS + 1;
        }
        assert_ok(kd, kd_trainer_save(t, "checkpoint"));
        *at = keep;
        assert_fails(kd, kd_trainer_load(t, "checkpoint"), KD_ERR_FORMAT, "its position is out of range");
        assert_true(hash_of(t) == before);
    }
    assert_memory_equal(&sound, &t->at, sizeof sound);
    kd_trainer_close(t);
    close_training(&r);
}

static kd_result save_training(void *t) { return kd_trainer_save((const kd_trainer *)t, "target"); }

static void test_failing_disk(void **state)
{
    training r;
    kd_trainer *t;
    uint64_t before;
    int failed;
    (void)state;
    open_training(&r, KD_ADAM);
    t = start(&r);
    steps(t, 8);
    before = hash_of(t);
    check_failing_disk(save_training, t, "kd_trainer_save: ");
    check_power_cut(save_training, t);
    for (failed = 1;; ++failed) { /* memory */
        const int blocks = memory.blocks;
        kd_result result;
        memory.refuse_at = failed;
        result = kd_trainer_save(t, "checkpoint");
        assert_int_equal(memory.blocks, blocks);
        if (memory.refuse_at > 0) break;
        assert_int_equal(result, KD_ERR_MEMORY);
    }
    memory.refuse_at = 0;
    assert_true(failed > 3);
    for (failed = 1;; ++failed) {
        const int blocks = memory.blocks;
        kd_result result;
        memory.refuse_at = failed;
        result = kd_trainer_load(t, "checkpoint");
        assert_int_equal(memory.blocks, blocks);
        assert_true(hash_of(t) == before);
        if (memory.refuse_at > 0) break;
        assert_int_equal(result, KD_ERR_MEMORY);
    }
    memory.refuse_at = 0;
    assert_true(failed > 4);
    for (failed = 1; failed <= 3; ++failed) {
        disk.calls = 0, disk.fail_at = failed;
        assert_int_equal(kd_trainer_load(t, "checkpoint"), KD_ERR_IO);
        assert_true(hash_of(t) == before);
    }
    disk.fail_at = 0;
    kd_trainer_close(t);
    close_training(&r);
}

/* ---- rolling back ---------------------------------------------------------------------------------------- */

typedef struct log_lines {
    int lines;
    char last[400];
} log_lines;

static void take_line(void *user, const char *line)
{
    log_lines *log = (log_lines *)user;
    if (!strstr(line, "back to the start of epoch")) return;
    ++log->lines;
    snprintf(log->last, sizeof log->last, "%s", line);
}

/* A rate that diverges, until it has been halved often enough. */
static void test_rolls_back(void **state)
{
    training r;
    kd_trainer *t;
    kd_step_info info;
    log_lines log;
    int rolled = 0;
    (void)state;
    memset(&log, 0, sizeof log);
    kd->desc.log = take_line, kd->desc.log_user = &log;
    open_training(&r, KD_SGD);
    r.desc.losses = NULL, r.desc.loss_count = 0, r.desc.features = NULL, r.desc.feature_count = 0;
    r.desc.teacher = NULL, r.desc.clip_norm = 0, r.desc.schedule = KD_CONSTANT, r.desc.warmup = 0;
    kd_model_destroy(r.student);
    r.student = create("3x6x6: dense 16, dense 4", 1);
    r.desc.lr = 1e4f, r.desc.rollback = 0.03f;
    t = start(&r);
    while (!kd_trainer_done(t)) {
        assert_ok(kd, kd_trainer_step(t, &info));
        rolled += info.rolled_back;
        if (info.rolled_back) { /* to the start of the epoch */
            const kd_step_info at = kd_trainer_position(t);
            assert_int_equal(info.step, 0);
            assert_int_equal(info.epochs, EPOCHS);
            assert_int_equal(info.steps, at.steps);
            assert_true(info.steps > 0 && info.epoch == at.epoch && info.images == at.images && info.lr == at.lr);
        }
        if (!info.rolled_back) assert_true(fabs(info.lr - 1e4 * pow((double)0.03f, rolled)) < 1e-9 * info.lr);
    }
    assert_true(rolled >= 1 && rolled <= 10);
    assert_int_equal(log.lines, rolled);
    assert_non_null(strstr(log.last, "the learning rate times"));
    assert_int_equal(t->at.images, 37 * EPOCHS);
    kd_trainer_close(t);
    /* off, it fails; and a NaN that no rate can cure fails after ten attempts */
    r.desc.rollback = 0;
    kd_model_destroy(r.student);
    r.student = create("3x6x6: dense 16, dense 4", 1);
    assert_fails(kd, kd_train(r.student, &r.data, &r.desc), KD_ERR_NOT_FINITE, "at step");
    r.desc.rollback = 0.9f, log.lines = 0;
    kd_model_destroy(r.student);
    r.student = create("3x6x6: dense 16, dense 4", 1);
    r.student->weights[0] = (float)NAN;
    assert_fails(kd, kd_train(r.student, &r.data, &r.desc), KD_ERR_NOT_FINITE, "the student's output");
    assert_int_equal(log.lines, 10);
    t = NULL;
    kd->desc.log = NULL;
    close_training(&r);
}

/* After a failed step there is nothing to save. */
static void test_nothing_to_save(void **state)
{
    training r;
    kd_trainer *t;
    (void)state;
    open_training(&r, KD_SGD);
    r.desc.rollback = 0;
    t = start(&r);
    steps(t, 2);
    r.student->weights[0] = (float)NAN;
    assert_int_equal(kd_trainer_step(t, NULL), KD_ERR_NOT_FINITE);
    assert_int_equal(kd_trainer_done(t), 1);
    assert_fails(kd, kd_trainer_save(t, "checkpoint"), KD_ERR_ARGUMENT, "a step has failed");
    assert_null(disk_find("checkpoint"));
    kd_trainer_close(t);
    close_training(&r);
}

/* Two models that teach each other, both stopped and taken up. */
static void test_mutual(void **state)
{
    uint64_t wanted[2] = {0, 0};
    int pass, i;
    (void)state;
    for (pass = 0; pass < 2; ++pass) {
        training r[2];
        kd_trainer *t[2];
        int step;
        for (i = 0; i < 2; ++i) {
            open_training(&r[i], KD_ADAM);
            r[i].desc.losses = NULL, r[i].desc.loss_count = 0, r[i].desc.features = NULL,
            r[i].desc.feature_count = 0;
            kd_model_destroy(r[i].student);
            r[i].student = create(student_line, 10 + (uint64_t)i);
        }
        for (i = 0; i < 2; ++i) r[i].desc.teacher = r[1 - i].student;
        for (i = 0; i < 2; ++i) t[i] = start(&r[i]);
        for (step = 0; step < STEPS; ++step) {
            if (pass && step == 17) {
                for (i = 0; i < 2; ++i) {
                    assert_ok(kd, kd_trainer_save(t[i], i ? "b" : "a"));
                }
                for (i = 0; i < 2; ++i) kd_trainer_close(t[i]);
                for (i = 0; i < 2; ++i) {
                    kd_model_destroy(r[i].student);
                    r[i].student = create(student_line, 20);
                }
                for (i = 0; i < 2; ++i) r[i].desc.teacher = r[1 - i].student;
                for (i = 0; i < 2; ++i) t[i] = start(&r[i]);
                for (i = 0; i < 2; ++i) assert_ok(kd, kd_trainer_load(t[i], i ? "b" : "a"));
            }
            for (i = 0; i < 2; ++i) steps(t[i], 1);
        }
        for (i = 0; i < 2; ++i) {
            const uint64_t hash = hash_of(t[i]);
            if (pass) assert_true(hash == wanted[i]);
            wanted[i] = hash;
            kd_trainer_close(t[i]);
        }
        for (i = 0; i < 2; ++i) close_training(&r[i]);
    }
    assert_true(wanted[0] != wanted[1]);
}

/* What a checkpoint knows its data by: all numbers that belong to them, and none behind. */
static void test_hash_of_data(void **state)
{
    enum { COUNT_OF = 5, OUTPUTS = 2, NUMBERS = COUNT_OF * OUTPUTS };
    uint8_t pixels[COUNT_OF * 3] = {0};
    int32_t labels[COUNT_OF + 1] = {0}, tasks[NUMBERS + 1] = {0};
    float soft[NUMBERS + 1] = {0}, targets[NUMBERS + 1] = {0}, side[NUMBERS + 1] = {0};
    kd_data data = kd_data_u8(pixels, labels, COUNT_OF, 3, 1, 1, OUTPUTS);
    uint64_t hash;
    int i;
    (void)state;
    data.soft_labels = soft, data.targets = targets;
    data.task_labels = tasks, data.task_count = OUTPUTS;
    data.side = side, data.side_count = OUTPUTS;
    hash = kd__hash_data(&data, OUTPUTS);
#define CHANGED(array, count)                                                                                      \
    for (i = 0; i <= (count); ++i) {                                                                               \
        ++(array)[i];                                                                                              \
        assert_true((kd__hash_data(&data, OUTPUTS) != hash) == (i < (count)));                                     \
        --(array)[i];                                                                                              \
    }
    CHANGED(labels, COUNT_OF)
    CHANGED(tasks, NUMBERS)
    CHANGED(soft, NUMBERS)
    CHANGED(targets, NUMBERS)
    CHANGED(side, NUMBERS)
#undef CHANGED
    assert_true(kd__hash_data(&data, OUTPUTS) == hash);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_goes_on),
        TEST(test_branches_go_on),
        TEST(test_other_instruction_set),
        TEST(test_stopped_by_callback),
        TEST(test_saved_by_callback),
        TEST(test_of_another_training),
        TEST(test_of_other_inputs),
        TEST(test_edited),
        TEST(test_damaged),
        TEST(test_impossible_positions),
        TEST(test_failing_disk),
        TEST(test_rolls_back),
        TEST(test_nothing_to_save),
        TEST(test_mutual),
        TEST(test_hash_of_data),
    };
    return cmocka_run_group_tests_name("checkpoints", tests, NULL, NULL);
}
