/* bench - kd.h beside other libraries, on the shapes that distillation meets. bench --help says how. */
#include "measure.h"
#include "peers.h"

/* ---- matrix multiplication ------------------------------------------------------------------------------- */

typedef struct shape {
    int m, n, k;
    const char *trans;
    int quick;
} shape;

static const shape shapes[] = {
    {64, 64, 64, "NN", 1},      {100, 100, 100, "NN", 0},    {128, 128, 128, "NN", 0},    {256, 256, 256, "NN", 1},
    {512, 512, 512, "NN", 0},   {1024, 1024, 1024, "NN", 1}, {2048, 2048, 2048, "NN", 0}, {128, 1200, 784, "NT", 1},
    {128, 1200, 1200, "NT", 1}, {128, 10, 1200, "NT", 1},    {128, 784, 1200, "NN", 1},   {1200, 784, 128, "TN", 1},
    {1200, 1200, 128, "TN", 0}, {10, 1200, 128, "TN", 1},    {1, 800, 784, "NT", 1},      {1, 10, 800, "NT", 0},
    {32, 576, 16, "NN", 1},     {16, 784, 144, "NN", 0},     {32, 196, 288, "NN", 0},     {64, 196, 576, "NN", 1},
    {128, 32, 784, "NT", 1},    {32, 32, 784, "NT", 0},      {257, 129, 65, "NN", 1},
};

static double bench_product(const char *group, const shape *s, kd_isa isa, int threads)
{
    kd_ctx *kd = open_context(isa, threads);
    const size_t a = (size_t)s->m * (size_t)s->k, b = (size_t)s->k * (size_t)s->n, c = (size_t)s->m * (size_t)s->n;
    float *numbers[4];
    char name[40];
    product p[MAX_CONTESTANTS];
    contestant all[MAX_CONTESTANTS];
    bench_case what = {group, name, "GFLOP/s", 1e9, threads, kd_ctx_isa(kd), 1};
    double ratio;
    int count = 0, i;
    snprintf(name, sizeof name, "%dx%dx%d %s", s->m, s->n, s->k, s->trans);
    numbers[0] = random_floats(1, a);
    numbers[1] = random_floats(2, b);
    numbers[2] = (float *)memory(c * sizeof(float));
    numbers[3] = (float *)memory(c * sizeof(float));
    for (i = -1; i < (int)KD__COUNT(peers); ++i) {
        if (i >= 0 && !peers[i].sgemm && !peers[i].dnnl_sgemm) continue;
        memset(&p[count], 0, sizeof p[count]);
        p[count].kd = i < 0 ? kd : NULL;
        p[count].peer = i < 0 ? NULL : &peers[i];
        p[count].trans_a = s->trans[0] == 'T', p[count].trans_b = s->trans[1] == 'T';
        p[count].m = s->m, p[count].n = s->n, p[count].k = s->k;
        p[count].a = numbers[0], p[count].b = numbers[1], p[count].c = numbers[2];
        all[count].name = i < 0 ? "kd" : peers[i].name;
        all[count].run = multiply;
        all[count].arg = &p[count];
        all[count].work = 2.0 * s->m * s->n * s->k;
        multiply(&p[count]);
        if (i < 0)
            memcpy(numbers[3], numbers[2], c * sizeof(float));
        else
            compare(peers[i].name, name, numbers[2], numbers[3], c, 1e-6 * (s->k + 10));
        memset(numbers[2], 0, c * sizeof(float));
        ++count;
    }
    ratio = measure(&what, all, count);
    for (i = 0; i < 4; ++i) free(numbers[i]);
    kd_close(kd);
    return ratio;
}

static void bench_products(void)
{
    double logs = 0;
    int i, count = 0;
    for (i = 0; i < (int)KD__COUNT(shapes); ++i) {
        char name[40];
        double ratio;
        snprintf(name, sizeof name, "%dx%dx%d %s", shapes[i].m, shapes[i].n, shapes[i].k, shapes[i].trans);
        if (!wanted("gemm", name, shapes[i].quick)) continue;
        ratio = bench_product("gemm", &shapes[i], options.isa, options.threads);
        if (ratio > 0) logs += log(ratio), ++count;
    }
    if (count) printf("  geometric mean of %d: %.2fx the best peer\n", count, exp(logs / count));
}

/* ---- options --------------------------------------------------------------------------------------------- */

typedef struct group {
    const char *name, *what;
    void (*run)(void);
} group;

static const group groups[] = {
    {"gemm", "kd_sgemm", bench_products},
};

static void print_help(void)
{
    int i;
    puts("usage: bench [options]\n"
         "  --quick         fewer cases, fewer rounds\n"
         "  --only GROUP    one group of cases:");
    for (i = 0; i < (int)KD__COUNT(groups); ++i)
        printf("                    %-12s %s\n", groups[i].name, groups[i].what);
    puts("  --case TEXT     cases with this text in their name\n"
         "  --threads N     1; threads of kd and of its peers\n"
         "  --isa NAME      auto; instruction set of kd: scalar, avx2, avx512, neon\n"
         "  --repeats N     9 (--quick: 5); rounds, an odd number\n"
         "  --json FILE     appends the results to the array in FILE");
}

static const char *value_of(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc) fail("%s needs a value", argv[*i]);
    return argv[++*i];
}

static kd_isa isa_named(const char *name)
{
    int isa;
    for (isa = 0; isa < KD_ISA_COUNT; ++isa) {
        if (strcmp(kd_isa_name((kd_isa)isa), name) == 0 && kd_isa_available((kd_isa)isa)) return (kd_isa)isa;
    }
    fail("this machine has no instruction set %s", name);
}

static void read_options(int argc, char **argv)
{
    int i, rounds = 0, known = 0;
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--help") == 0)
            print_help(), exit(0);
        else if (strcmp(argv[i], "--quick") == 0)
            options.quick = 1;
        else if (strcmp(argv[i], "--only") == 0)
            options.only = value_of(argc, argv, &i);
        else if (strcmp(argv[i], "--case") == 0)
            options.wanted = value_of(argc, argv, &i);
        else if (strcmp(argv[i], "--threads") == 0)
            options.threads = atoi(value_of(argc, argv, &i));
        else if (strcmp(argv[i], "--isa") == 0)
            options.isa = isa_named(value_of(argc, argv, &i));
        else if (strcmp(argv[i], "--repeats") == 0)
            rounds = atoi(value_of(argc, argv, &i));
        else if (strcmp(argv[i], "--json") == 0)
            options.json = value_of(argc, argv, &i);
        else
            fail("unknown option %s; --help says what there is", argv[i]);
    }
    options.rounds = rounds ? rounds : options.quick ? 5 : 9;
    if (options.rounds < 1 || options.rounds > MAX_ROUNDS || options.rounds % 2 == 0)
        fail("--repeats must be odd, 1 to %d", MAX_ROUNDS);
    if (options.threads < 1 || options.threads > 256) fail("--threads must be 1 to 256");
    for (i = 0; i < (int)KD__COUNT(groups); ++i) known |= strcmp(groups[i].name, options.only) == 0;
    if (options.only[0] && !known) fail("there is no group %s; --help says which there are", options.only);
}

int main(int argc, char **argv)
{
    int i;
    read_options(argc, argv);
    open_peers();
    set_peer_threads(options.threads);
    for (i = 0; i < (int)KD__COUNT(groups); ++i) {
        if (!options.only[0] || strcmp(options.only, groups[i].name) == 0) groups[i].run();
    }
    return 0;
}
