/* weight.h - what kd.h costs beside time: compiling it, its code, its memory, opening it */
#ifndef KD_BENCH_WEIGHT_H
#define KD_BENCH_WEIGHT_H

#include "measure.h"

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
    if (wanted("weight", "kd_open and kd_close", 1)) {
        const bench_case what = {"weight", "kd_open and kd_close", "us", 0, 1, KD_ISA_AUTO, 0};
        const contestant c = {"kd", open_and_close, NULL, 1e-6};
        (void)measure(&what, &c, 1);
    }
}

#endif /* KD_BENCH_WEIGHT_H */
