/* options.h - the command line of distill. A part of distill.c, which includes it. */

/* ---- options --------------------------------------------------------------------------------------------- */

enum { MAX_LIST = 16, EXIT_INTERRUPTED = 130, MAX_SPEC = 2048, MAX_PATH = 4096, MAX_WORDS = 256 };

typedef struct list {
    double values[MAX_LIST];
    int count;
} list;

/* An option that may be given several times. */
typedef struct texts {
    const char *values[MAX_LIST];
    int count;
} texts;

typedef struct options {
    const char *folder, *unlabelled, *teacher, *teacher_weights, *teacher_test, *teacher_names, *teacher_columns,
        *teacher_check, *student, *show_model, *fit, *fit_ram, *fit_macs, *augment, *teacher_augment, *loss,
        *optimizer, *ensemble, *out, *isa, *class_weights, *resize;
    list temperature, alpha, lr, weight_decay, mean, std;
    texts teachers_given, feature, beside, assistant;
    int epochs, teacher_epochs, batch, seeds, first_seed, trials, threads, size, channels, length, limit,
        train_limit, patient, int8, exif, resume, teacher_unchecked, write_order, force, list_layers, teachers,
        mutual, born_again, folds, fold, pretrain;
    uint64_t words;        /* of all options that count, for --folds */
    const char *whole_out; /* the folder that --out gave, where `out` is one in it; NULL: it is `out` */
    double adversarial, teacher_lr, teacher_weight_decay, search_minutes, prune, effort, teacher_minutes,
        teacher_from, teacher_until, trial_share, validation, test_share, max_skipped;
} options;

typedef enum kind { OPTION_TEXT, OPTION_TEXTS, OPTION_INT, OPTION_REAL, OPTION_LIST, OPTION_FLAG } kind;

/* name, argument, kind, field, least, most, default, what --help says */
#define OPTIONS(X)                                                                                                 \
    X("teacher", "SPEC|FILE", OPTION_TEXTS, teachers_given, 0, 0, "",                                              \
      "what to train as teacher, as a model line or by name (above); or a .safetensors file of a trained one, or " \
      "an .onnx file (PyTorch's torch.onnx.export: MLPs, VGG, ResNet, MobileNetV2); or a .npy or .npz file with "  \
      "its logits (all.npz:train where it has several arrays), shape (images, classes), for the training images "  \
      "in the order that --write-order writes; all "                                                               \
      "of the folder where test images are taken out of it; or in any order, beside a .txt of the same name with " \
      "the image of each row, one a line. Several files of trained ones, each with a --teacher of its own, teach " \
      "together: the average of what they say")                                                                    \
    X("teacher-weights", "FILE", OPTION_TEXT, teacher_weights, 0, 0, "",                                           \
      "weights for the model line of --teacher from a .safetensors file that has none, such as PyTorch's, or "     \
      "from "                                                                                                      \
      "an .npz of numpy.savez")                                                                                    \
    X("mean", "M[,M...]", OPTION_LIST, mean, -1e6, 1e6, "",                                                        \
      "mean of each channel, subtracted from pixels of 0 to 1")                                                    \
    X("std", "D[,D...]", OPTION_LIST, std, 1e-6, 1e6, "",                                                          \
      "deviation of each channel, by which they are then divided, as in torchvision's Normalize: what a teacher "  \
      "from elsewhere was trained with; if neither is given, as a .safetensors teacher says, or those of the "     \
      "training images")                                                                                           \
    X("teacher-test", "FILE", OPTION_TEXT, teacher_test, 0, 0, "",                                                 \
      "with a .npy or .npz teacher: its logits for the test images, to compare with")                              \
    X("teacher-names", "FILE", OPTION_TEXT, teacher_names, 0, 0, "",                                               \
      "with a .npy teacher: the images of its rows, one a line, as paths below IMAGES or that end so")             \
    X("teacher-columns", "N,...|FILE", OPTION_TEXT, teacher_columns, 0, 0, "",                                     \
      "which of the teacher's outputs are the classes, in the order of the folders, from 0; or a file with the "   \
      "class of every output, one a line")                                                                         \
    X("teacher-check", "FILE", OPTION_TEXT, teacher_check, 0, 0, "",                                               \
      "a .npy or .npz file with the logits that the teacher's own program gave for the test images: they are "     \
      "compared")                                                                                                  \
    X("teacher-unchecked", "", OPTION_FLAG, teacher_unchecked, 0, 1, "",                                           \
      "go on with a teacher that knows no more than chance, or whose rows or columns look like others")            \
    X("write-order", "", OPTION_FLAG, write_order, 0, 1, "",                                                       \
      "only write order.txt into the output folder: which image each row of a .npy teacher is about")              \
    X("student", "SPEC", OPTION_TEXT, student, 0, 0, "", "what to train as student, likewise")                     \
    X("show-model", "NAME|SPEC", OPTION_TEXT, show_model, 0, 0, "",                                                \
      "train nothing: show a model's line and layers, as it would be for these images")                            \
    X("fit", "BYTES", OPTION_TEXT, fit, 0, 0, "",                                                                  \
      "choose a student whose constants take no more flash than this in 8 bits, as in 64KB: plain, residual and "  \
      "depthwise separable networks, each as wide as it may be, are tried on the held-out images")                 \
    X("fit-ram", "BYTES", OPTION_TEXT, fit_ram, 0, 0, "",                                                          \
      "the same, of RAM for all that is between the layers, in 8 bits: may stand alone or beside --fit")           \
    X("fit-macs", "N", OPTION_TEXT, fit_macs, 0, 0, "", "the same, of multiply-adds for one image, as in 5M")      \
    X("search-minutes", "M", OPTION_REAL, search_minutes, 0.01, 1e5, "2",                                          \
      "time for those trials; how many there are, and how long, follows from it")                                  \
    X("beside", "SPEC", OPTION_TEXTS, beside, 0, 0, "",                                                            \
      "another student, to compare with: distilled in the end with what was chosen for the first, and tested "     \
      "beside it. May be given several times")                                                                     \
    X("prune", "SHARE", OPTION_REAL, prune, 0, 0.95, "0",                                                          \
      "take --student for a larger network, of whose channels this share is removed: the student is what is "      \
      "left, "                                                                                                     \
      "trained from its first weights, and, as one more way, pruned from the larger one when that was distilled, " \
      "and then distilled itself; 0: off")                                                                         \
    X("temperature", "T[,T...]", OPTION_LIST, temperature, 1e-3, 1e3, "4,2", "temperatures to choose from")        \
    X("alpha", "A[,A...]", OPTION_LIST, alpha, 0, 1, "0.9",                                                        \
      "weights of the teacher's part in the loss to choose from; the labels have the rest")                        \
    X("loss", "NAME|SUM", OPTION_TEXT, loss, 0, 0, "hinton",                                                       \
      "hinton, kl (no labels), mse (on logits), rkl, jsd, softce, centredmse, dkd, nkd, dist, ttm, wttm, mlld, "   \
      "ctkd: all else as published; or a weighted sum of such and of ce, that of the labels, as in "               \
      "\"hinton+0.5*dist\" or \"ce+2*kl\": temperatures and alphas are for the first that has one")                \
    X("feature", "LAYERS", OPTION_TEXTS, feature, 0, 0, "",                                                        \
      "a loss on features beside that, as in \"hint stage2=stage2 weight=50\": hint, at, atpaper, sp, rkd, pkt, "  \
      "cc, nst, vid, crd, minilm, deit or deithard, a layer of the student = one of the teacher; fsp takes two "   \
      "such pairs, review and tinybert one to eight; weight, as published if not given, warmup, distance, angle, " \
      "gamma, order, temperature, width and heads may follow. May be given several times. --list-layers shows "    \
      "the names; kd.h describes the losses")                                                                      \
    X("teacher-from", "SHARE", OPTION_REAL, teacher_from, 0, 1, "0",                                               \
      "the share of the epochs from which on the teacher teaches; before, students learn from labels alone: 0.1 "  \
      "to 0.2 with --int8, as QKD does. Not of --mutual and --adversarial, nor of --patient with --unlabelled")    \
    X("teacher-until", "SHARE", OPTION_REAL, teacher_until, 0, 1, "1",                                             \
      "the share until which it does: less than 1 leaves the end to the labels")                                   \
    X("class-weights", "WORD", OPTION_TEXT, class_weights, 0, 0, "none",                                           \
      "auto: where classes are uneven, what labels teach is weighed so that all classes count alike; none")        \
    X("validation", "SHARE", OPTION_REAL, validation, 0, 0.5, "0.15",                                              \
      "share of the training images held out to choose settings with")                                             \
    X("trials", "N", OPTION_INT, trials, 1, 100, "1", "students trained for each setting to choose from")          \
    X("trial-share", "SHARE", OPTION_REAL, trial_share, 0.01, 1, "0.3",                                            \
      "how long those are trained, as a share of --epochs")                                                        \
    X("effort", "E", OPTION_REAL, effort, 0.001, 1000, "1",                                                        \
      "multiplies all epochs that are not given: 0.3 for a quick look")                                            \
    X("epochs", "N", OPTION_INT, epochs, 0, 100000, "0",                                                           \
      "passes over the images for each student; 0: 8000 / sqrt(images)")                                           \
    X("teacher-epochs", "N", OPTION_INT, teacher_epochs, 0, 100000, "0",                                           \
      "passes for the teacher; 0: 4000 / sqrt(images)")                                                            \
    X("teacher-minutes", "M", OPTION_REAL, teacher_minutes, 0, 1e6, "0",                                           \
      "fewer passes for the teacher where they would take longer; 0: no bound")                                    \
    X("batch", "N", OPTION_INT, batch, 1, 65536, "64", "images a step")                                            \
    X("optimizer", "NAME", OPTION_TEXT, optimizer, 0, 0, "adamw", "adam, adamw or sgd")                            \
    X("lr", "RATE[,R...]", OPTION_LIST, lr, 1e-9, 100, "0.004,0.01",                                               \
      "learning rates of the students to choose from, each way of training its own; lowered along a cosine")       \
    X("teachers", "N", OPTION_INT, teachers, 1, MAX_LIST, "1",                                                     \
      "teachers to train, from first weights and in orders of their own; the students learn from the average of "  \
      "them, which is then the teacher of all tables. They run beside every student: that takes its time")         \
    X("ensemble", "WORD", OPTION_TEXT, ensemble, 0, 0, "auto",                                                     \
      "whether the students without a teacher teach, too: the distilled learn from the average of the teacher "    \
      "and "                                                                                                       \
      "them, weighted by what the held-out images say; auto: yes with a teacher that is trained here; yes; no")    \
    X("teacher-lr", "RATE", OPTION_REAL, teacher_lr, 0, 100, "0",                                                  \
      "learning rate of the teacher, likewise; 0: 0.004, of texts 0.002")                                          \
    X("weight-decay", "W[,W...]", OPTION_LIST, weight_decay, 0, 10, "0.01,0.1",                                    \
      "weight decays of the students to choose from, likewise")                                                    \
    X("teacher-weight-decay", "W", OPTION_REAL, teacher_weight_decay, 0, 10, "0.03", "that of the teacher")        \
    X("augment", "WORDS", OPTION_TEXT, augment, 0, 0, "auto",                                                      \
      "random changes to training images: flip, shift=2, rotate=10, brightness=0.2, contrast=0.2, "                \
      "saturation=0.2, "                                                                                           \
      "cutout=8, mixup=0.2, joined by commas; none; or auto: shift, and flip where mirrored held-out "             \
      "images are known as well")                                                                                  \
    X("teacher-augment", "WORDS", OPTION_TEXT, teacher_augment, 0, 0, "auto",                                      \
      "other changes for the teacher's own training; auto: the same with mixup, and cutout for colour images")     \
    X("seeds", "N", OPTION_INT, seeds, 1, 1000, "5",                                                               \
      "students trained alone, as many with smoothed labels, and as many distilled")                               \
    X("seed", "N", OPTION_INT, first_seed, 0, 1000000000, "1",                                                     \
      "the first seed; everything random follows from it")                                                         \
    X("threads", "N", OPTION_INT, threads, 0, 256, "0", "0: as many as are fastest; results are the same")         \
    X("isa", "NAME", OPTION_TEXT, isa, 0, 0, "auto", "instruction set: auto, scalar, avx2, avx512 or neon")        \
    X("size", "N", OPTION_INT, size, 0, 4096, "0",                                                                 \
      "resize images to NxN; 0: as they are, or to 64x64 where they differ in size (to 32x32 if most are small) "  \
      "or "                                                                                                        \
      "are squares larger than 96x96")                                                                             \
    X("resize", "WORD|N", OPTION_TEXT, resize, 0, 0, "",                                                           \
      "how they are brought to that size: crop, by the shorter edge, and the middle is kept; N, the shorter edge " \
      "has N pixels before the middle is kept, as torchvision's Resize(256) and CenterCrop(224) are --resize 256 " \
      "--size 224; stretch, whole, whatever the ratio of the sides; pad, whole, with black or, as in "             \
      "pad=124,116,104, another colour beside it, or with pad=mean that of their mean. --fit takes the words, "    \
      "too. Kept with the models; a teacher "                                                                      \
      "that is a file may say it, else it is crop")                                                                \
    X("exif", "", OPTION_FLAG, exif, 0, 1, "",                                                                     \
      "turn photos as EXIF says, which torchvision does not; kept with the models likewise")                       \
    X("channels", "N", OPTION_INT, channels, 0, 3, "0", "1 grey, 3 colour; 0: as the images are")                  \
    X("length", "N", OPTION_INT, length, 0, 4096, "0",                                                             \
      "of texts: bytes that are read of each; 0: as many as nine of ten have, up to 512")                          \
    X("limit", "N", OPTION_INT, limit, 0, 1000000000, "0",                                                         \
      "use at most N training and N test images of each class")                                                    \
    X("train-limit", "N", OPTION_INT, train_limit, 0, 1000000000, "0",                                             \
      "learn from at most N images of each class, and test with all")                                              \
    X("test-share", "SHARE", OPTION_REAL, test_share, 0.001, 0.999, "0.2",                                         \
      "share of each class to test with, where there is no folder for that")                                       \
    X("folds", "N", OPTION_INT, folds, 0, MAX_LIST, "0",                                                           \
      "all of it N times, each time testing on another part of the images and learning from the others, so that "  \
      "every image is tested once: for small sets without a folder to test with; results in the output folder's "  \
      "fold-1, fold-2 ..., and folds.json; 0: off")                                                                \
    X("max-skipped", "SHARE", OPTION_REAL, max_skipped, 0, 1, "0.01",                                              \
      "share of files that may be unreadable before that is an error")                                             \
    X("unlabelled", "FOLDER|FILE", OPTION_TEXT, unlabelled, 0, 0, "",                                              \
      "images without labels, in any folders below it, or texts, in a .csv, .tsv or .txt file (one a line): the "  \
      "distilled student learns what the teacher says of them, in as many steps")                                  \
    X("pretrain", "N", OPTION_INT, pretrain, 0, 10000, "0",                                                        \
      "of texts: the teacher first learns to tell words that are hidden from it (Devlin et al. 2019), in N "       \
      "passes over those with and without labels. Compare with 0: of a few thousand short texts it did not pay")   \
    X("out", "FOLDER", OPTION_TEXT, out, 0, 0, "out", "where the results go")                                      \
    X("patient", "", OPTION_FLAG, patient, 0, 1, "",                                                               \
      "one more way: distilled three times as long from images that are mixed (Beyer et al. 2022)")                \
    X("assistant", "SPEC", OPTION_TEXTS, assistant, 0, 0, "",                                                      \
      "one more way: a network between teacher and student, which learns from the teacher and teaches the "        \
      "student; "                                                                                                  \
      "may be given several times, the largest first (Mirzadeh et al. 2020)")                                      \
    X("born-again", "N", OPTION_INT, born_again, 0, 16, "0",                                                       \
      "one more way: the distilled student teaches another one like it, that one the next, for N generations "     \
      "(Furlanello et al. 2018); 0: off")                                                                          \
    X("mutual", "", OPTION_FLAG, mutual, 0, 1, "",                                                                 \
      "one more way: two students without a teacher learn from each other, too (Zhang et al. 2018)")               \
    X("adversarial", "EPS", OPTION_REAL, adversarial, 0, 1, "0",                                                   \
      "one more way: students that withstand attacks, each pixel of 0 to 1 moved by up to EPS, as in 0.03: they "  \
      "learn to say of attacked images what the teacher says of the images as they are (Zi et al. 2021); all "     \
      "models in float are then tested with such images, too, and the best of these is "                           \
      "student_robust.safetensors; 0: off")                                                                        \
    X("int8", "", OPTION_FLAG, int8, 0, 1, "",                                                                     \
      "the student in int8 as well, a quarter of the size: as it is after distilling, and trained further with "   \
      "rounded weights and values, alone and from the teacher; the best is student_int8.safetensors")              \
    X("force", "", OPTION_FLAG, force, 0, 1, "",                                                                   \
      "replace files in the output folder that are not from a run of distill")                                     \
    X("resume", "", OPTION_FLAG, resume, 0, 1, "",                                                                 \
      "go on where a run with the same options and output folder was stopped")                                     \
    X("list-layers", "", OPTION_FLAG, list_layers, 0, 1, "",                                                       \
      "train nothing: show the layers of teacher and student, by name, with the shapes of what they put out")

typedef struct option {
    const char *name, *argument;
    kind type;
    size_t field;
    double least, most;
    const char *standard, *help;
} option;

static const option option_table[] = {
#define X(name, argument, type, field, least, most, standard, help)                                                \
    {name, argument, type, offsetof(options, field), least, most, standard, help},
    OPTIONS(X)
#undef X
};
enum { OPTION_COUNT = (int)(sizeof option_table / sizeof *option_table) };

/* Letters of the progress line on the terminal, which whatever is said next wipes first. */
static int progress_drawn;

static void progress_wipe(void)
{
    if (progress_drawn) fprintf(stderr, "\r%*s\r", progress_drawn, "");
    progress_drawn = 0;
}

/* Columns of a terminal that a stream goes to; 0: it goes to none. */
static int columns_of(FILE *f)
{
    struct winsize size;
    if (!isatty(fileno(f))) return 0;
    return ioctl(fileno(f), TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

/* Where the lines go on that a line is broken into: behind its first word if that stands in a column of its own,
   else where it begins. */
static int hanging_indent(const char *line)
{
    enum { FIRST_COLUMN = 16 };
    const int begin = (int)strspn(line, " ");
    int at = begin + (int)strcspn(line + begin, " \n");
    if (strncmp(line + at, "  ", 2) != 0) return begin;
    at += (int)strspn(line + at, " ");
    return at <= FIRST_COLUMN ? at : begin;
}

/* At a blank, but not inside a number or before its unit. */
static int may_break(const char *text, int at)
{
    const int number = at > 0 && isdigit((unsigned char)text[at - 1]);
    return text[at] == ' ' && !(number && (isdigit((unsigned char)text[at + 1]) || text[at + 1] == '%'));
}

/* Text whose lines are broken at blanks where a terminal is narrower. */
static void print_text(FILE *f, const char *text)
{
    const int columns = columns_of(f);
    while (*text) {
        const int indent = hanging_indent(text);
        int length = (int)strcspn(text, "\n"), room = columns, cut;
        while (columns && length > room) {
            for (cut = room; cut > 0 && !may_break(text, cut); --cut) {}
            if (strspn(text, " ") >= (size_t)cut) break; /* one long word */
            fprintf(f, "%.*s\n%*s", cut, text, indent, "");
            text += cut + 1, length -= cut + 1;
            room = columns - indent;
        }
        fprintf(f, "%.*s", length, text);
        text += length;
        if (*text) fputc(*text++, f);
    }
}

/* printf for text, not for tables. */
static int say(const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;

static int say(const char *format, ...)
{
    char text[8192], words[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, images_reword(format, words, sizeof words), args);
    va_end(args);
    print_text(stdout, text);
    return 1;
}

/* One sentence on stderr. Returns 0, for `return complain(...)`. */
static int complain(const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;

static int complain(const char *format, ...)
{
    char text[8192], words[2048];
    va_list args;
    progress_wipe();
    fflush(stdout);
    memcpy(text, "distill: ", 10);
    va_start(args, format);
    vsnprintf(text + 9, sizeof text - 9, images_reword(format, words, sizeof words), args);
    va_end(args);
    print_text(stderr, text);
    fputc('\n', stderr);
    return 0;
}

/* A help text, and what is taken if nothing is given, broken into lines that start at a column. */
static void print_wrapped(const char *text, const char *standard, int column)
{
    const int width = 79 - column;
    char all[1024], *at = all;
    snprintf(all, sizeof all, *standard ? "%s (%s)" : "%s", text, standard);
    while (*at) {
        int length = (int)strlen(at);
        if (length > width) {
            for (length = width; length > 0 && at[length] != ' '; --length) {}
        }
        printf("%.*s\n", length, at);
        at += length;
        if (*at == ' ') ++at;
        if (*at) printf("%*s", column, "");
    }
}

static void print_presets(void); /* presets.h */

static void print_help(void)
{
    enum { HELP_COLUMN = 27 };
    int i;
    puts("usage: distill IMAGES [options]\n"
         "\n"
         "Trains a large model, the teacher, on a folder of images, and then a small one,\n"
         "the student: alone, with smoothed labels, and distilled, which means that it\n"
         "also learns from the teacher's outputs. All are tested on images that nobody\n"
         "has seen before. Results: a table here, and in the output folder\n"
         "teacher.safetensors, student.safetensors, metrics.json and report.html, which\n"
         "you can open in a browser.\n"
         "\n"
         "IMAGES is a folder with train/<class>/*.jpg and test/<class>/*.jpg, or only\n"
         "<class>/*.jpg, which are then split; JPEG, PNG, BMP and PNM are read. Or one\n"
         "with MNIST's IDX files, also as .gz. Or texts: a .csv or .tsv file with the\n"
         "columns text and label (or category), or a folder with train.csv and test.csv.\n"
         "\n"
         "A model line names layers in order, for example\n"
         "    conv 8 3 pad=1, relu, maxpool 2, dense 10  8 filters of 3x3, ... 10 outputs\n"
         "    dense 64, relu, dropout 0.5, dense 10      a multilayer perceptron\n"
         "    softtree 5 10                              a soft decision tree\n"
         "It may begin with the size of the images: \"1x28x28: dense 10\", or, of texts,\n"
         "with the bytes that are read: \"tokens 96: embed 256 64, meanpool, dense 5\".\n"
         "kd.h describes all layers. Or a name stands for one:");
    print_presets();
    puts("\nOptions (and what they are if not given):");
    for (i = 0; i < OPTION_COUNT; ++i) {
        const option *o = &option_table[i];
        const int length = printf("  --%s %s", o->name, o->argument);
        if (length < HELP_COLUMN) printf("%*s", HELP_COLUMN - length, "");
        if (length >= HELP_COLUMN) printf("\n%*s", HELP_COLUMN, "");
        print_wrapped(o->help, o->standard, HELP_COLUMN);
    }
    puts("\nCtrl-C stops; the model in training is then in the output folder as\n"
         "checkpoint.safetensors, and --resume goes on from there, to the same results.");
}

static const char *plural(int count) { return count == 1 ? "" : "s"; }

static int parse_number(const option *o, const char *text, char end, double *value, const char **rest)
{
    char *stop;
    *value = strtod(text, &stop);
    if (stop == text || (*stop && *stop != end)) return complain("--%s takes numbers, got \"%s\"", o->name, text);
    if (!(*value >= o->least && *value <= o->most))
        return complain("--%s must be %g to %g, got %.*s", o->name, o->least, o->most, (int)(stop - text), text);
    *rest = *stop ? stop + 1 : stop;
    return 1;
}

static int parse_option(const option *o, options *all, const char *text)
{
    void *field = (char *)all + o->field;
    double value;
    if (o->type == OPTION_TEXT) {
        *(const char **)field = text;
    } else if (o->type == OPTION_TEXTS) {
        texts *t = (texts *)field;
        if (t->count == MAX_LIST) return complain("--%s may be given up to %d times", o->name, (int)MAX_LIST);
        t->values[t->count++] = text;
    } else if (o->type == OPTION_LIST) {
        list *l = (list *)field;
        l->count = 0;
        do {
            if (l->count == MAX_LIST) return complain("--%s takes up to %d numbers", o->name, (int)MAX_LIST);
            if (!parse_number(o, text, ',', &l->values[l->count++], &text)) return 0;
        } while (*text);
    } else {
        if (!parse_number(o, text, 0, &value, &text)) return 0;
        if (o->type == OPTION_INT && value != floor(value)) return complain("--%s takes whole numbers", o->name);
        if (o->type == OPTION_INT) *(int *)field = (int)value;
        if (o->type == OPTION_REAL) *(double *)field = value;
    }
    return 1;
}

/* Returns 1 to go on, 0 after a complaint, -1 after --help. */
static int parse_options(options *o, int argc, char **argv)
{
    images_framing framing;
    const char *budget = "";
    int i, k;
    memset(o, 0, sizeof *o);
    for (k = 0; k < OPTION_COUNT; ++k) {
        const option *p = &option_table[k];
        if ((*p->standard || p->type == OPTION_TEXT) && !parse_option(p, o, p->standard)) return 0;
    }
    for (i = 1; i < argc; ++i) {
        const char *name = argv[i] + 2, *value = strchr(argv[i], '=');
        const size_t length = value ? (size_t)(value - name) : strlen(argv[i]) - (argv[i][0] == '-' ? 2 : 0);
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help();
            return -1;
        }
        if (argv[i][0] != '-') {
            if (o->folder) return complain("one folder of images is enough, got %s and %s", o->folder, argv[i]);
            o->folder = argv[i];
            continue;
        }
        for (k = 0; k < OPTION_COUNT; ++k) {
            if (strncmp(argv[i], "--", 2) == 0 && strlen(option_table[k].name) == length &&
                memcmp(option_table[k].name, name, length) == 0)
                break;
        }
        if (k == OPTION_COUNT) return complain("there is no option %s; distill --help lists them", argv[i]);
        if (option_table[k].type == OPTION_FLAG) {
            if (value) return complain("--%s takes no value", option_table[k].name);
            *(int *)(void *)((char *)o + option_table[k].field) = 1;
            continue;
        }
        if (!value && ++i == argc) return complain("--%s needs a value", option_table[k].name);
        if (!parse_option(&option_table[k], o, value ? value + 1 : argv[i])) return 0;
        if (*o->fit && images_framing_parse(o->fit, &framing) && !strspn(o->fit, "0123456789"))
            o->resize = o->fit, o->fit = budget; /* a word, and no bytes */
        budget = o->fit;
    }
    o->teacher = o->teachers_given.count ? o->teachers_given.values[0] : "";
    if (!o->folder) return complain("which images? Try: distill examples/data/fashion, or distill --help");
    return 1;
}

/* "flip,shift=2", of the option of that name */
static int parse_augment(const char *name, const char *text, kd_augment *augment)
{
    static const struct {
        const char *word;
        int whole; /* takes a whole number, or 1 if none is given */
        size_t field;
        double most;
    } words[] = {
        {"flip", 1, offsetof(kd_augment, flip), 1},         {"shift", 1, offsetof(kd_augment, shift), 1000},
        {"rotate", 0, offsetof(kd_augment, rotate), 180},   {"brightness", 0, offsetof(kd_augment, brightness), 1},
        {"contrast", 0, offsetof(kd_augment, contrast), 1}, {"saturation", 0, offsetof(kd_augment, saturation), 1},
        {"cutout", 1, offsetof(kd_augment, cutout), 1000},  {"mixup", 0, offsetof(kd_augment, mixup), 100}};
    memset(augment, 0, sizeof *augment);
    if (strcmp(text, "none") == 0) return 1;
    while (*text) {
        const size_t length = strcspn(text, "=,");
        double value = 1;
        size_t i;
        for (i = 0; i < sizeof words / sizeof *words; ++i) {
            if (strlen(words[i].word) == length && memcmp(words[i].word, text, length) == 0) break;
        }
        if (i == sizeof words / sizeof *words)
            return complain("--%s does not know \"%.*s\"; distill --help lists the words", name, (int)length, text);
        text += length;
        if (*text == '=') {
            char *end;
            value = strtod(text + 1, &end);
            if (end == text + 1 || (*end && *end != ',') || !(value >= 0 && value <= words[i].most) ||
                (words[i].whole && value != floor(value)))
                return complain("--%s %s takes a %s up to %g, got \"%.*s\"", name, words[i].word,
                                words[i].whole ? "whole number" : "number", words[i].most,
                                (int)strcspn(text + 1, ","), text + 1);
            text = end;
        } else if (!words[i].whole) {
            return complain("--%s %s needs a value, as in %s=0.2", name, words[i].word, words[i].word);
        }
        value = fabs(value); /* no -0: that is not the same as nothing to memcmp */
        if (words[i].whole) *(int *)(void *)((char *)augment + words[i].field) = (int)value;
        if (!words[i].whole) *(float *)(void *)((char *)augment + words[i].field) = (float)value;
        if (*text == ',') ++text;
    }
    return 1;
}
