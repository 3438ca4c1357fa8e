/* weight.h - what kd.h costs beside time: compiling it, its code, its memory, opening it */
#ifndef KD_BENCH_WEIGHT_H
#define KD_BENCH_WEIGHT_H

#include "measure.h"

#include <sys/wait.h>
#include <unistd.h>

#ifndef BENCH_HEADER /* the directory that kd.h is in */
#define BENCH_HEADER "."
#endif

/* Prints a number that was measured in its own way; less is better. */
static void say(const char *name, const char *unit, kd_isa isa, double value)
{
    const bench_case what = {"weight", name, unit, 0, 1, isa, 0};
    const contestant kd = {"kd", NULL, NULL, 1};
    const spread none = {0, 0, 0};
    report(&what, &kd, 1, &value, 0, &none, 0);
}

/* The first number that a command prints, or -1. */
static double number_from(const char *command)
{
    FILE *output = popen(command, "r");
    double number = -1;
    if (output && fscanf(output, "%lf", &number) != 1) number = -1;
    if (output) (void)pclose(output);
    return number;
}

/* Median seconds to compile a text, more than it takes to compile nothing. */
static double compile_time(const char *compiler, const char *text, int rounds)
{
    double more[MAX_ROUNDS];
    int i, j;
    for (i = 0; i < rounds; ++i) {
        double seconds[2];
        for (j = 0; j < 2; ++j) {
            char command[1000];
            snprintf(command, sizeof command,
                     "printf '%s' | %s -std=gnu99 -O2 -I" BENCH_HEADER " -x c -c -o /dev/null -",
                     j ? text : "int nothing;", compiler);
            seconds[j] = now();
            if (system(command) != 0) fail("this does not compile: %s", command);
            seconds[j] = now() - seconds[j];
        }
        more[i] = seconds[1] - seconds[0];
    }
    return spread_of(more, rounds).median;
}

static void open_and_close(void *arg)
{
    (void)arg;
    kd_close(open_context(KD_ISA_AUTO, 1));
}

static void bench_compiler(const char *compiler, int what)
{
    static const char declarations[] = "#include \"kd.h\"\\n";
    static const char whole[] = "#define KD_IMPLEMENTATION\\n#include \"kd.h\"\\n";
    char name[80], command[1000];
    snprintf(command, sizeof command, "command -v %s >/dev/null", compiler);
    if (system(command) != 0) {
        printf("%s is missing\n", compiler);
        return;
    }
    if (what == 0) {
        snprintf(name, sizeof name, "declarations, %s", compiler);
        if (wanted("weight", name, 1))
            say(name, "ms to compile", KD_ISA_AUTO, 1e3 * compile_time(compiler, declarations, options.rounds));
    } else if (what == 1) {
        snprintf(name, sizeof name, "implementation -O2, %s", compiler);
        if (wanted("weight", name, 0)) say(name, "s to compile", KD_ISA_AUTO, compile_time(compiler, whole, 3));
    } else {
        snprintf(name, sizeof name, "code -O2, %s", compiler);
        snprintf(command, sizeof command,
                 "object=$(mktemp) && printf '%s' | %s -std=gnu99 -O2 -I" BENCH_HEADER
                 " -x c -c -o $object - && size $object | sed 1d; rm -f $object",
                 whole, compiler);
        if (wanted("weight", name, 0)) say(name, "KB", KD_ISA_AUTO, number_from(command) / 1024);
    }
}

/* ---- from the start of a process to its first prediction ------------------------------------------------- */

/* The student of make demo, by a program that only predicts; `memory`: it says how many MB it took. */
static const char first_model[] =
    "1x28x28: conv 8 3 pad=1, batchnorm, relu, maxpool 2, conv 16 3 pad=1, batchnorm, relu, maxpool 2, "
    "conv 32 3 pad=1, batchnorm, relu, maxpool 2, dense 10";
static const char first_program[] =
    "#define KD_NO_TRAIN\n#define KD_IMPLEMENTATION\n#include \"kd.h\"\n#include <sys/resource.h>\n"
    "static float x[784], y[10];\n"
    "int main(int argc, char **argv)\n{\n    kd_ctx *kd;\n    kd_model *m;\n    struct rusage used;\n"
    "    if (argc > 1 && (kd_open(NULL, &kd) || kd_model_load(kd, argv[1], &m) || kd_predict(m, x, 1, y))) return "
    "1;\n"
    "    if (argc > 2 && !getrusage(RUSAGE_SELF, &used)) printf(\"%g\\n\", (double)used.ru_maxrss / 1024);\n"
    "    return 0;\n}\n";
static const char empty_program[] = "int main(void) { return 0; }\n";

/* Compiles a program in a folder. */
static int compile_program(const char *folder, const char *name, const char *text)
{
    char path[200], command[1000];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.c", folder, name);
    file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) return 0;
    snprintf(command, sizeof command, "cc -std=gnu99 -O2 -I" BENCH_HEADER " %s -o %s/%s -lm", path, folder, name);
    return system(command) == 0;
}

/* Milliseconds from before a program starts until it has ended. */
static double run_of(const char *program, const char *argument)
{
    const double start = now();
    int status = 1;
    const pid_t child = fork();
    if (child == 0) {
        execl(program, program, argument, (char *)NULL);
        _exit(1);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) fail("%s does not run", program);
    return 1e3 * (now() - start);
}

static void bench_first_prediction(void)
{
    char folder[] = P_tmpdir "/kd-bench-XXXXXX", model[100], programs[2][100], command[1000];
    double times[2][MAX_ROUNDS], ratios[MAX_ROUNDS];
    const int rounds = options.rounds * 10 < MAX_ROUNDS ? options.rounds * 10 : MAX_ROUNDS;
    kd_ctx *kd = open_context(KD_ISA_AUTO, 1);
    kd_model *m = NULL;
    int i, j;
    if (!mkdtemp(folder)) fail("no folder can be made for programs: %s", folder);
    snprintf(model, sizeof model, "%s/student.safetensors", folder);
    snprintf(programs[0], sizeof programs[0], "%s/empty", folder);
    snprintf(programs[1], sizeof programs[1], "%s/first", folder);
    if (kd_model_create(kd, first_model, 1, &m) || kd_model_save(m, model)) fail("%s", kd_error(kd));
    if (!compile_program(folder, "empty", empty_program) || !compile_program(folder, "first", first_program))
        fail("the programs in %s do not compile", folder);
    for (i = 0; i < rounds; ++i) {
        for (j = 0; j < 2; ++j) times[j][i] = run_of(programs[j], j ? model : NULL);
        ratios[i] = times[1][i] / times[0][i];
    }
    say("an empty process", "ms", KD_ISA_AUTO, spread_of(times[0], rounds).median);
    say("process start to first prediction", "ms", KD_ISA_AUTO, spread_of(times[1], rounds).median);
    say("... by that of an empty process", "ratio", KD_ISA_AUTO, spread_of(ratios, rounds).median);
    snprintf(command, sizeof command, "said=$(%s %s memory) && echo $said", programs[1], model);
    say("... memory", "MB", KD_ISA_AUTO, number_from(command));
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0) fail("%s cannot be removed", folder);
    kd_model_destroy(m);
    kd_close(kd);
}

static void bench_weight(void)
{
    char name[400], command[1000];
    ssize_t length;
    int i;
    for (i = 0; i < 3; ++i) {
        bench_compiler("gcc", i);
        bench_compiler("clang", i);
    }
    if (wanted("weight", "peak memory, training mlp large", 1)) {
        length = readlink("/proc/self/exe", name, sizeof name - 1);
        if (length > 0) {
            name[length] = 0;
            snprintf(command, sizeof command, "%s --train-once --isa %s --threads %d", name,
                     kd_isa_name(options.isa), options.threads);
            say("peak memory, training mlp large", "MB", options.isa, number_from(command));
        }
    }
    if (wanted("weight", "process start to first prediction", 0)) bench_first_prediction();
    if (wanted("weight", "kd_open and kd_close", 1)) {
        const bench_case what = {"weight", "kd_open and kd_close", "us", 0, 1, KD_ISA_AUTO, 0};
        const contestant c = {"kd", open_and_close, NULL, 1e-6};
        (void)measure(&what, &c, 1);
    }
}

#endif /* KD_BENCH_WEIGHT_H */
