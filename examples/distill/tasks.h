/* tasks.h - what each way of training the student trains with: images, losses, teachers. A part of distill.c. */

/* ---- what each way trains with --------------------------------------------------------------------------- */

/* How the ways differ. */
static const struct {
    int teacher;      /* has one */
    double smoothing; /* of the labels */
    int epochs;       /* times those of the plan */
    double mixup;     /* added to the augmentation */
    int like;         /* the way whose settings it takes over; itself: they are chosen for it */
} way_table[WAY_COUNT] = {{0, 0, 1, 0, ALONE},     {0, REPORT_SMOOTHING, 1, 0, SMOOTHED},
                          {1, 0, 1, 0, DISTILLED}, {1, 0, 3, 1, DISTILLED},
                          {1, 0, 1, 0, DISTILLED}, {0, 0, 1, 0, ALONE},
                          {1, 0, 1, 0, DISTILLED}, {1, 0, 1, 0, DISTILLED},
                          {1, 0, 1, 0, DISTILLED}};

static int way_runs(const session *s, int way)
{
    switch (way) {
    case PATIENT: return s->o.patient;
    case PRUNED: return *s->larger_spec != 0;
    case MUTUAL: return s->o.mutual;
    case ASSISTED: return s->o.assistant.count > 0;
    case REBORN: return s->o.born_again > 0;
    case ROBUST: return s->o.adversarial > 0;
    default: return 1;
    }
}

/* The number of a way among those that run, which the report has. */
static int way_place(const session *s, int way)
{
    int place = 0, i;
    for (i = 0; i < way; ++i) place += way_runs(s, i) != 0;
    return place;
}

/* Trainings, and so images, that a student of this way takes, as a multiple of those of one. */
static int way_trainings(const session *s, int way)
{
    return way == PRUNED || way == MUTUAL ? 2 : way == REBORN ? s->o.born_again : 1;
}

/* Whether those whose outputs are sought are the teacher, or with it the students: the layers of others are not
   those that --feature names. */
static int way_has_teacher_itself(int way) { return way_table[way].teacher && way != ASSISTED && way != REBORN; }

/* Mixed images without labels have nothing but the teacher's outputs to be learned from. */
static int way_has_no_labels(const session *s, int way)
{
    return way_table[way].teacher && way_table[way].mixup > 0 && s->all.data.count > 0;
}

/* Whatever has a hard term weighs classes in it, where they are weighed. */
static void weigh_classes(const session *s, kd_loss_desc *loss)
{
    double soft, hard;
    if (s->class_weights && kd_loss_weights(s->kd, loss, s->images.class_count, &soft, &hard) == KD_OK && hard > 0)
        loss->class_weights = s->class_weights;
}

/* Of a way with a teacher, a term of the sum. */
static kd_loss_desc loss_options(const session *s, int way, int term, const report_trial *t)
{
    const objective *sum = &s->objective;
    const int kl = way_has_no_labels(s, way);
    kd_loss_desc loss = kd_loss_defaults(kl                       ? KD_LOSS_KL
                                         : way_table[way].teacher ? losses[sum->which[term]].kind
                                                                  : KD_LOSS_CE);
    loss.label_smoothing = (float)way_table[way].smoothing;
    if (t->temperature > 0 && (kl || term == sum->temperature)) loss.temperature = (float)t->temperature;
    if (t->alpha >= 0 && (kl || term == sum->alpha)) loss.alpha = (float)t->alpha;
    weigh_classes(s, &loss);
    return loss;
}

/* Of the images without labels only a teacher can say something: whoever has one sees them, too, in as many
   steps. */
static const kd_data *way_data(const session *s, int way)
{
    return way_table[way].teacher && s->all.data.count ? &s->all.data : &s->fit.data;
}

static int way_epochs(const session *s, int way, int epochs)
{
    const double share = (double)s->fit.data.count / way_data(s, way)->count;
    const int scaled = (int)(epochs * way_table[way].epochs * share + 0.5);
    return scaled < 1 ? 1 : scaled;
}

static kd_augment way_augment(const session *s, int way)
{
    kd_augment augment = s->augment;
    if (way_table[way].mixup > 0) augment.mixup = (float)way_table[way].mixup;
    return augment;
}

static int changes_images(const kd_augment *augment)
{
    static const kd_augment none;
    return memcmp(augment, &none, sizeof none) != 0;
}

/* How images are attacked: each number moves by --adversarial at most, a quarter of it a step. */
static kd_attack_desc attack_options(const session *s)
{
    kd_attack_desc d = kd_attack_defaults(KD_ATTACK_PGD);
    d.epsilon = (float)s->o.adversarial;
    d.step = d.epsilon / 4;
    d.seed = (uint64_t)s->o.first_seed;
    return d;
}

/* What a student's training points to. */
typedef struct task {
    kd_data data;
    kd_loss_desc losses[MAX_LIST];
} task;

/* Students of attacked images say of them what the teacher says of the images as they are, and mostly that: 5 of 6
   parts, at temperature 1, and the attack drives the two apart (Zi et al. 2021). No labels are needed. */
static void robust_options(const session *s, task *to, kd_train_desc *d)
{
    static const float weights[] = {5.0f / 6, 1.0f / 6};
    int i;
    for (i = 0; i < 2; ++i) {
        to->losses[i] = kd_loss_defaults(KD_LOSS_KL);
        to->losses[i].temperature = 1;
    }
    to->losses[0].inputs = KD_INPUTS_ADVERSARIAL;
    d->loss = kd_train_defaults().loss;
    d->features = NULL;
    d->feature_count = 0;
    d->losses = to->losses;
    d->loss_weights = weights;
    d->loss_count = 2;
    d->attack = attack_options(s);
    d->attack.loss = to->losses[1];
}

/* What one of two that learn together minimises: labels and, as much, what the other says (Zhang et al. 2018). */
static void mutual_options(const session *s, kd_train_desc *d)
{
    d->loss = kd_loss_defaults(KD_LOSS_KL);
    d->loss.temperature = 1;
    d->loss.hard_weight = 1;
    weigh_classes(s, &d->loss);
    d->teacher = s->elder;
}

/* The sum of losses of a way with a teacher. */
static void sum_options(const session *s, int way, const report_trial *t, task *to, kd_train_desc *d)
{
    const objective *sum = &s->objective;
    int i;
    d->feature_count = way_has_teacher_itself(way) ? sum->feature_count : 0;
    d->features = d->feature_count ? sum->features : NULL;
    d->loss = loss_options(s, way, 0, t);
    if (way_has_no_labels(s, way) || (sum->count == 1 && !(sum->weights[0] < 1 || sum->weights[0] > 1))) return;
    d->loss = kd_train_defaults().loss;
    for (i = 0; i < sum->count; ++i) to->losses[i] = loss_options(s, way, i, t);
    d->losses = to->losses;
    d->loss_weights = sum->weights;
    d->loss_count = sum->count;
}

/* Who teaches: what was kept of its outputs, itself, or several. */
static void teacher_options_of(const session *s, int way, task *to, kd_train_desc *d)
{
    d->cache = s->cache[way == PRUNED || way == ROBUST ? DISTILLED : way];
    if (d->cache) return;
    if (!way_has_teacher_itself(way)) {
        d->teacher = way == REBORN ? s->elder : s->assistants[s->assistant_count - 1];
        return;
    }
    to->data.teacher_logits = s->fit.teacher_logits;
    if (s->more_count) {
        d->teachers = s->averaged, d->teacher_count = teacher_count(s);
    } else if (s->r.ensemble_students) {
        d->teachers = s->averaged, d->teacher_count = s->averaged_count;
        d->teacher_weights = s->average_weights;
        d->teacher_average = KD_AVERAGE_LOGITS;
    } else {
        d->teacher = s->teacher;
    }
}

/* Whether any of so many epochs is the teacher's. */
static int teacher_has_epochs(const session *s, int epochs)
{
    return ceil(s->o.teacher_from * epochs - 1e-6) < ceil(s->o.teacher_until * epochs - 1e-6);
}

/* When the teacher teaches; a trial that is too short to be shared is all its own. */
static void share_epochs(const session *s, kd_train_desc *d)
{
    if (!teacher_has_epochs(s, d->epochs)) return;
    d->teacher_from = (float)s->o.teacher_from;
    d->teacher_until = (float)s->o.teacher_until;
}

static kd_train_desc student_options(const session *s, watch *w, int way, const report_trial *t, uint64_t seed,
                                     task *to)
{
    kd_train_desc d = training_options(s, w, t->epochs, t->lr, t->weight_decay);
    d.seed = seed;
    d.augment = way_augment(s, way);
    if (t->mixup > 0) d.augment.mixup = (float)t->mixup;
    to->data = *way_data(s, way);
    if (way_table[way].teacher) {
        sum_options(s, way, t, to, &d);
        teacher_options_of(s, way, to, &d);
        if (way != ROBUST && way != MUTUAL && !way_has_no_labels(s, way)) share_epochs(s, &d);
    } else {
        d.loss = loss_options(s, way, 0, t);
    }
    if (way == ROBUST) robust_options(s, to, &d);
    if (way == MUTUAL) mutual_options(s, &d);
    if (s->prompts && way_table[way].teacher && way != ROBUST && way != MUTUAL) {
        d.prompt = KD_PROMPT_TEACHER;
        if (t->temperature > 0) d.prompt_temperature = (float)t->temperature;
    }
    return d;
}
