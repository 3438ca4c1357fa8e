/* Memory that runs out: every request of every public function is refused in turn, once, or from then on for good.
   Each time there is an error, nothing is lost, and models, results and files are as they were. */
#include "disk.h"

enum { COUNT = 12, CLASSES = 3, FLOATS = 2 * 4 * 4 };

/* What all scenarios start from, made while there is memory. */
static struct {
    float x[COUNT * FLOATS], logits[COUNT * CLASSES];
    uint8_t pixels[COUNT * FLOATS];
    int32_t labels[COUNT];
    kd_data data;
    kd_model *student, *teacher;
    uint64_t student_hash, teacher_hash;
} world;

static const char student_line[] =
    "2x4x4: low: conv 3 3 pad=1, batchnorm, relu, residual(conv 3 1), dropout 0.2, dense 3";
static const char teacher_line[] = "2x4x4: low: conv 5 3 pad=1, gelu, maxpool 2, depthwise 2, flatten, dense 3";

static int open_world(void **state)
{
    uint64_t random = 5;
    int i;
    if (open_context(state)) return -1;
    for (i = 0; i < COUNT * FLOATS; ++i) world.x[i] = test_random(&random), world.pixels[i] = (uint8_t)(i * 37);
    for (i = 0; i < COUNT * CLASSES; ++i) world.logits[i] = test_random(&random);
    for (i = 0; i < COUNT; ++i) world.labels[i] = i % CLASSES;
    world.data = kd_data_f32(world.x, world.labels, COUNT, 2, 4, 4, CLASSES);
    if (kd_model_create(kd, student_line, 1, &world.student)) return -1;
    if (kd_model_create(kd, teacher_line, 2, &world.teacher)) return -1;
    world.student_hash = kd_model_hash(world.student), world.teacher_hash = kd_model_hash(world.teacher);
    return 0;
}

static int close_world(void **state)
{
    kd_model_destroy(world.student);
    kd_model_destroy(world.teacher);
    return close_context(state);
}

/* Nothing may be kept from one attempt to the next. */
static void forget_scratch(void)
{
    kd__free(kd, kd->scratch);
    kd->scratch = NULL;
    kd->scratch_count = 0;
}

/* ---- scenarios: the first failure, KD_OK at the end ------------------------------------------------------- */

static kd_result opening(void)
{
    kd_ctx *other = NULL;
    const kd_result result = kd_open(&kd->desc, &other);
    assert_int_equal(other != NULL, result == KD_OK);
    kd_close(other);
    return result;
}

static kd_result building(void)
{
    kd_builder *b = NULL;
    kd_model *m = NULL;
    kd_result result = kd_builder_open(kd, 2, 4, 4, &b);
    assert_int_equal(b != NULL, result == KD_OK);
    if (result != KD_OK) return result;
    kd_builder_conv(b, 3, 3, 1, 1);
    kd_builder_depthwise(b, 3, 1, 1);
    kd_builder_residual(b);
    kd_builder_layer(b, "batchnorm, relu, conv 4 1");
    kd_builder_end(b);
    kd_builder_concat(b);
    kd_builder_branch(b);
    kd_builder_layer(b, "conv 2 3 pad=1, relu");
    kd_builder_end(b);
    kd_builder_maxpool(b, 2, 2);
    kd_builder_avgpool(b, 2, 2);
    kd_builder_dense(b, 2);
    result = kd_builder_finish(b, 1, &m);
    assert_int_equal(m != NULL, result == KD_OK);
    kd_model_destroy(m);
    return result;
}

static kd_result giving_up_building(void)
{
    kd_builder *b = NULL;
    const kd_result result = kd_builder_open(kd, 2, 4, 4, &b);
    if (result == KD_OK) kd_builder_conv(b, 3, 3, 1, 1);
    kd_builder_abandon(b);
    return *kd_error(kd) ? KD_ERR_MEMORY : result; /* what a builder's calls would have said at the end */
}

static kd_result creating(void)
{
    kd_model *m = NULL;
    const kd_result result = kd_model_create(kd, student_line, 3, &m);
    assert_int_equal(m != NULL, result == KD_OK);
    kd_model_destroy(m);
    return result;
}

static kd_result starting(void)
{
    kd_model *m = NULL;
    const kd_init init = kd_init_defaults(KD_INIT_PYTORCH);
    const kd_result result = kd_model_create_with(kd, student_line, 3, &init, &m);
    assert_int_equal(m != NULL, result == KD_OK);
    kd_model_destroy(m);
    return result;
}

static kd_result cloning(void)
{
    static const char *const names[CLASSES] = {"one", "two", "three"};
    kd_model *m = NULL;
    kd_result result = kd_model_clone(world.student, &m);
    assert_int_equal(m != NULL, result == KD_OK);
    if (result == KD_OK) result = kd_model_set_classes(m, names, CLASSES);
    if (result == KD_OK) result = kd_model_set_classes(m, names, CLASSES);
    kd_model_destroy(m);
    return result;
}

static kd_result multiplying(void)
{
    enum { N = 70 };
    static float a[N * N], b[N * N], c[N * N];
    kd_result result;
    forget_scratch();
    memset(c, 1, sizeof c);
    result = kd_sgemm(kd, 0, 1, N, N, N, 1, a, N, b, N, 0, c, N);
    if (result != KD_OK) assert_true(((unsigned char *)c)[5] == 1);
    return result;
}

static kd_result softening(void)
{
    float out[COUNT * CLASSES];
    kd_result result = kd_softmax(kd, world.logits, COUNT, CLASSES, 2, out);
    if (result == KD_OK) result = kd_log_softmax(kd, world.logits, COUNT, CLASSES, 2, out);
    return result;
}

static kd_result averaging(void)
{
    const float *both[2];
    float out[6 * CLASSES];
    forget_scratch();
    both[0] = world.logits, both[1] = world.logits + 6 * CLASSES;
    return kd_average_teachers(kd, both, NULL, 2, 6, CLASSES, 2, out);
}

/* Every loss on its own. */
static kd_result losing(void)
{
    kd_result result = KD_OK;
    int kind;
    for (kind = KD_LOSS_AUTO + 1; kind < KD_LOSS_COUNT && result == KD_OK; ++kind) {
        const kd_loss_desc desc = kd_loss_defaults((kd_loss_kind)kind);
        const int teacher = kd__loss_look_up((kd_loss_kind)kind)->teacher != KD__NO;
        float grad[6 * CLASSES];
        double value = 77;
        forget_scratch();
        result = kd_loss(kd, &desc, world.logits, teacher ? world.logits + 6 * CLASSES : NULL, world.labels, 6,
                         CLASSES, grad, &value);
        assert_true(result == KD_OK || value == 77);
    }
    return result;
}

static kd_result predicting(void)
{
    float out[COUNT * CLASSES];
    uint8_t pixels[FLOATS] = {9};
    kd_workspace *w = NULL;
    kd_model *m = NULL;
    kd_result result = kd_model_clone(world.student, &m);
    if (result == KD_OK) result = kd_predict(m, world.x, COUNT, out);
    if (result == KD_OK) {
        const float mean[2] = {0, 0}, std[2] = {1, 1};
        result = kd_model_set_preprocessing(m, mean, std);
    }
    if (result == KD_OK) result = kd_predict_u8(m, pixels, 1, out);
    if (result == KD_OK) result = kd_workspace_create(m, COUNT, &w);
    assert_int_equal(w != NULL, result == KD_OK);
    if (result == KD_OK) result = kd_workspace_predict(w, world.x, COUNT, out);
    kd_workspace_destroy(w);
    kd_model_destroy(m);
    return result;
}

static kd_result evaluating(void)
{
    kd_evaluate_desc desc = kd_evaluate_defaults();
    const kd_attack_desc attack = kd_attack_defaults(KD_ATTACK_FGSM);
    kd_metrics metrics, before;
    int64_t confusion[CLASSES * CLASSES];
    float logits[COUNT * CLASSES];
    kd_result result;
    memset(&metrics, 7, sizeof metrics);
    before = metrics;
    desc.teacher = world.teacher, desc.confusion = confusion, desc.logits = logits, desc.attack = &attack;
    result = kd_evaluate_with(world.student, &world.data, &desc, &metrics);
    if (result != KD_OK) assert_memory_equal(&metrics, &before, sizeof metrics);
    return result;
}

static kd_result evaluating_a_head(void)
{
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics;
    desc.columns = CLASSES;
    return kd_evaluate_with(world.student, &world.data, &desc, &metrics);
}

static kd_result attacking(void)
{
    kd_attack_desc desc = kd_attack_defaults(KD_ATTACK_PGD);
    float out[COUNT * FLOATS];
    kd_model *teacher = NULL;
    kd_result result = kd_model_clone(world.teacher, &teacher);
    desc.loss = kd_loss_defaults(KD_LOSS_KL);
    if (result == KD_OK) result = kd_attack(world.student, teacher, world.x, NULL, COUNT, &desc, out);
    kd_model_destroy(teacher);
    return result;
}

static kd_result caching(void)
{
    kd_augment augment;
    kd_cache *c = NULL, *again = NULL;
    kd_result result;
    memset(&augment, 0, sizeof augment);
    augment.shift = 1, augment.mixup = 0.3f;
    result = kd_cache_create(world.teacher, &world.data, &augment, 4, 2, &c);
    assert_int_equal(c != NULL, result == KD_OK);
    if (result == KD_OK) result = kd_cache_save(c, "target");
    if (result == KD_OK) result = kd_cache_load(kd, "target", &again);
    assert_int_equal(again != NULL, result == KD_OK);
    kd_cache_destroy(c);
    kd_cache_destroy(again);
    return result;
}

static kd_result saving(void)
{
    kd_model *m = NULL;
    kd_result result = kd_model_save(world.student, "target");
    if (result == KD_OK) result = kd_model_load(kd, "target", &m);
    assert_int_equal(m != NULL, result == KD_OK);
    if (result == KD_OK) result = kd_model_load_weights(m, "target");
    kd_model_destroy(m);
    return result;
}

static kd_result arrays(void)
{
    const int64_t shape[2] = {COUNT, CLASSES};
    kd_array array;
    kd_result result = kd_npy_write(kd, "target", world.logits, 2, shape);
    memset(&array, 0, sizeof array);
    if (result == KD_OK) result = kd_npy_read(kd, "target", &array);
    kd_array_free(kd, &array);
    return result;
}

/* A training with all that needs memory. No step asks for any. */
static kd_result training(void)
{
    kd_loss_desc losses[KD_LOSS_COUNT];
    kd_feature_loss features[KD__MAX_FEATURES];
    kd_train_desc desc = kd_train_defaults();
    kd_trainer *t = NULL;
    kd_model *m = NULL;
    kd_result result = kd_model_clone(world.student, &m);
    uint64_t before = 0;
    int i;
    forget_scratch();
    for (i = 0; i < KD__MAX_LOSSES; ++i) losses[i] = kd_loss_defaults((kd_loss_kind)(KD_LOSS_AUTO + 1 + i));
    for (i = 0; i < 9; ++i) {
        features[i] = kd_feature_loss_defaults((kd_feature_kind)i);
        features[i].student = features[i].teacher = "low";
    }
    desc.losses = losses, desc.loss_count = KD__MAX_LOSSES, desc.features = features, desc.feature_count = 9;
    desc.teacher = world.teacher, desc.batch = 4, desc.epochs = 2, desc.validation = 0.2f;
    desc.keep = KD_KEEP_BEST, desc.rollback = 0.5f, desc.accumulate = 2, desc.ema = 0.9f;
    desc.weight_decay = 0.1f, desc.decay_norms_and_biases = 0;
    desc.augment.shift = 1, desc.augment.flip = 1;
    if (result == KD_OK) {
        before = kd_model_hash(m);
        result = kd_trainer_open(m, &world.data, &desc, &t);
        assert_int_equal(t != NULL, result == KD_OK);
        assert_true(kd_model_hash(m) == before);
    }
    if (result == KD_OK) {
        const int requests = memory.requests, refuse_at = memory.refuse_at;
        while (!kd_trainer_done(t) && result == KD_OK) result = kd_trainer_step(t, NULL);
        assert_int_equal(memory.requests, requests);
        assert_int_equal(memory.refuse_at, refuse_at);
    }
    if (result == KD_OK) result = kd_trainer_save(t, "target");
    if (result == KD_OK) result = kd_trainer_load(t, "target");
    kd_trainer_close(t);
    kd_model_destroy(m);
    return result;
}

/* Prompts that are attacked in every step, and in the evaluation. */
static kd_result prompting(void)
{
    kd_train_desc desc = kd_train_defaults();
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    kd_trainer *t = NULL;
    kd_model *m = NULL;
    kd_result result;
    char line[64];
    forget_scratch();
    snprintf(line, sizeof line, "2x4x4: dense 5, prompt %d, dense %d", (int)CLASSES, (int)CLASSES);
    result = kd_model_create(kd, line, 3, &m);
    desc.teacher = evaluate.teacher = world.teacher;
    desc.prompt = evaluate.prompt = KD_PROMPT_TEACHER;
    desc.prompt_attack.epsilon = 0.1f;
    evaluate.prompt_attack = &desc.prompt_attack;
    desc.batch = 4, desc.epochs = 2;
    if (result == KD_OK) result = kd_trainer_open(m, &world.data, &desc, &t);
    if (result == KD_OK) {
        const int requests = memory.requests;
        while (!kd_trainer_done(t) && result == KD_OK) result = kd_trainer_step(t, NULL);
        assert_int_equal(memory.requests, requests);
    }
    kd_trainer_close(t);
    if (result == KD_OK) result = kd_evaluate_with(m, &world.data, &evaluate, &metrics);
    kd_model_destroy(m);
    return result;
}

static kd_result several_teachers(void)
{
    const kd_model *both[2];
    kd_train_desc desc = kd_train_defaults();
    kd_model *m = NULL;
    kd_result result = kd_model_clone(world.student, &m);
    both[0] = world.teacher, both[1] = world.student;
    desc.teachers = both, desc.teacher_count = 2, desc.epochs = 1, desc.batch = 5;
    if (result == KD_OK) result = kd_train(m, &world.data, &desc);
    kd_model_destroy(m);
    return result;
}

/* On attacked images, with two sides of gradients. */
static kd_result learning_together(void)
{
    kd_model *pair[2] = {NULL, NULL};
    kd_loss_desc losses[2];
    kd_train_desc desc = kd_train_defaults();
    kd_result result = kd_model_clone(world.student, &pair[0]);
    losses[0] = kd_loss_defaults(KD_LOSS_HINTON);
    losses[1] = kd_loss_defaults(KD_LOSS_KL);
    losses[1].inputs = KD_INPUTS_ADVERSARIAL;
    desc.losses = losses, desc.loss_count = 2, desc.epochs = 1, desc.batch = 5, desc.accumulate = 2;
    desc.optimizer = KD_SGD, desc.dot_delta = 0.05f, desc.attack.steps = 1, desc.validation = 0.2f;
    if (result == KD_OK) result = kd_model_clone(world.teacher, &pair[1]);
    if (result == KD_OK) result = kd_train_mutual(pair, 2, &world.data, &desc);
    kd_model_destroy(pair[0]);
    kd_model_destroy(pair[1]);
    return result;
}

static kd_result voting(void)
{
    const kd_model *const teachers[1] = {world.teacher};
    int32_t votes[COUNT * CLASSES];
    return kd_pate_votes(teachers, 1, &world.data, votes);
}

static kd_result following_a_tree(void)
{
    kd_model *m = NULL;
    kd_result result = kd_model_create(kd, "2x4x4: softtree 2 3", 1, &m);
    float paths[COUNT * 7];
    if (result == KD_OK) result = kd_tree_paths(m, world.x, COUNT, paths);
    kd_model_destroy(m);
    return result;
}

static kd_result diagnosing(void)
{
    kd_diagnose_desc desc = kd_diagnose_defaults();
    kd_diagnosis found;
    desc.teacher = world.teacher;
    desc.loss.inputs = KD_INPUTS_ADVERSARIAL;
    return kd_diagnose(world.student, &world.data, &desc, &found);
}

static kd_result folding(void)
{
    kd_train_desc desc = kd_train_defaults();
    kd_cross_validation all;
    desc.teacher = world.teacher, desc.epochs = 1;
    return kd_cross_validate(world.student, &world.data, &desc, 2, NULL, &all);
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

typedef kd_result (*scenario_fn)(void);

static int refuse(scenario_fn scenario, const char *name, int for_good)
{
    static const char old[] = "the old file";
    int refused;
    for (refused = 1;; ++refused) {
        const int blocks = (forget_scratch(), memory.blocks);
        kd_result result;
        int reached;
        disk_put("target", old, sizeof old);
        kd->error[0] = 0;
        memory.refuse_at = refused;
        memory.for_good = for_good;
        result = scenario();
        reached = memory.refuse_at <= 0;
        memory.refuse_at = memory.for_good = 0;
        forget_scratch();
        if (memory.blocks != blocks) fail_msg("%s, request %d: something is lost", name, refused);
        assert_int_equal(disk.open, 0);
        assert_null(disk_find("target.kd-tmp"));
        assert_true(kd_model_hash(world.student) == world.student_hash);
        assert_true(kd_model_hash(world.teacher) == world.teacher_hash);
        if (!reached) {
            if (result != KD_OK) fail_msg("%s: %s, %s", name, kd_result_name(result), kd_error(kd));
            return refused - 1;
        }
        if (result != KD_ERR_MEMORY) fail_msg("%s, request %d: %s", name, refused, kd_result_name(result));
        if (scenario != opening && !strstr(kd_error(kd), "out of memory"))
            fail_msg("%s, request %d: \"%s\"", name, refused, kd_error(kd));
    }
}

static void test_every_request(void **state)
{
    static const struct {
        const char *name;
        scenario_fn scenario;
    } all[] = {{"opening", opening},
               {"building", building},
               {"giving up building", giving_up_building},
               {"creating", creating},
               {"starting", starting},
               {"cloning", cloning},
               {"multiplying", multiplying},
               {"softening", softening},
               {"averaging", averaging},
               {"losing", losing},
               {"predicting", predicting},
               {"evaluating", evaluating},
               {"evaluating a head", evaluating_a_head},
               {"attacking", attacking},
               {"caching", caching},
               {"saving", saving},
               {"arrays", arrays},
               {"training", training},
               {"prompting", prompting},
               {"several teachers", several_teachers},
               {"learning together", learning_together},
               {"voting", voting},
               {"following a tree", following_a_tree},
               {"diagnosing", diagnosing},
               {"folding", folding}};
    int i, sum = 0;
    (void)state;
    for (i = 0; i < KD__COUNT(all); ++i) {
        const int once = refuse(all[i].scenario, all[i].name, 0), good = refuse(all[i].scenario, all[i].name, 1);
        assert_int_equal(once, good);
        sum += once;
    }
    assert_true(sum > 1900); /* the README says how many */
    printf("memory: %d requests refused, once and for good\n", sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_request, open_world, close_world)};
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
