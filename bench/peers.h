/* peers.h - matrix multiplication of other libraries, as far as they are installed

   Opened with RTLD_LOCAL, so that libraries that define the same names can be in one process. */
#ifndef KD_BENCH_PEERS_H
#define KD_BENCH_PEERS_H

#include "measure.h"

#include <dlfcn.h>

enum { CBLAS_ROW_MAJOR = 101, CBLAS_NO_TRANS = 111, CBLAS_TRANS = 112 };
typedef void (*cblas_sgemm_fn)(int layout, int trans_a, int trans_b, int m, int n, int k, float alpha,
                               const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef int (*dnnl_sgemm_fn)(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                             const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                             int64_t ldc);

typedef struct blas {
    const char *name, *files[4], *how_to_get, *set_threads;
    int set_threads_64;   /* it takes 64 bits */
    void *library;        /* NULL where it is missing */
    cblas_sgemm_fn sgemm; /* one of these two is set then */
    dnnl_sgemm_fn dnnl_sgemm;
} blas;

#ifndef BENCH_PEERS /* the directory that make -C bench peers fills */
#define BENCH_PEERS "build/peers"
#endif
#define MKL_IN_PEERS BENCH_PEERS "/lib/libmkl_rt.so."

static blas peers[] = {
    {.name = "OpenBLAS",
     .files = {"libopenblas.so.0"},
     .how_to_get = "apt-get install libopenblas-dev",
     .set_threads = "openblas_set_num_threads"},
    {.name = "BLIS",
     .files = {"libblis.so.4", "libblis.so.3"},
     .how_to_get = "apt-get install libblis-dev",
     .set_threads = "bli_thread_set_num_threads",
     .set_threads_64 = 1},
    {.name = "MKL",
     .files = {MKL_IN_PEERS "3", MKL_IN_PEERS "2", "libmkl_rt.so.3", "libmkl_rt.so.2"},
     .how_to_get = "make -C bench peers",
     .set_threads = "MKL_Set_Num_Threads"},
    {.name = "oneDNN", .files = {"libdnnl.so.3", "libdnnl.so.2"}, .how_to_get = "apt-get install libdnnl-dev"},
};

/* A function pointer out of dlsym's object pointer, which ISO C does not convert. */
static void find_symbol(void *library, const char *name, void *function)
{
    void *found = library ? dlsym(library, name) : NULL;
    memcpy(function, &found, sizeof found);
}

static void open_peers(void)
{
    int i, j;
    for (i = 0; i < (int)KD__COUNT(peers); ++i) {
        blas *p = &peers[i];
        for (j = 0; j < 4 && p->files[j] && !p->library; ++j)
            p->library = dlopen(p->files[j], RTLD_NOW | RTLD_LOCAL);
        find_symbol(p->library, "cblas_sgemm", &p->sgemm);
        find_symbol(p->library, "dnnl_sgemm", &p->dnnl_sgemm);
        if (p->sgemm || p->dnnl_sgemm) continue;
        printf("%s is missing: %s\n", p->name, p->how_to_get);
    }
}

/* How many threads all of them may use. */
static void set_peer_threads(int threads)
{
    int i;
    for (i = 0; i < (int)KD__COUNT(peers); ++i) {
        void (*narrow)(int) = NULL;
        void (*wide)(int64_t) = NULL;
        find_symbol(peers[i].library, peers[i].set_threads ? peers[i].set_threads : "omp_set_num_threads",
                    peers[i].set_threads_64 ? (void *)&wide : (void *)&narrow);
        if (wide) wide(threads);
        if (narrow) narrow(threads);
    }
}

/* ---- one multiplication, by anyone ----------------------------------------------------------------------- */

typedef struct product {
    kd_ctx *kd; /* or */
    const blas *peer;
    int trans_a, trans_b, m, n, k;
    const float *a, *b;
    float *c;
} product;

static void multiply(void *arg)
{
    const product *p = (const product *)arg;
    const int lda = p->trans_a ? p->m : p->k, ldb = p->trans_b ? p->k : p->n;
    if (p->kd)
        need(p->kd,
             kd_sgemm(p->kd, p->trans_a, p->trans_b, p->m, p->n, p->k, 1, p->a, lda, p->b, ldb, 0, p->c, p->n));
    else if (p->peer->sgemm)
        p->peer->sgemm(CBLAS_ROW_MAJOR, p->trans_a ? CBLAS_TRANS : CBLAS_NO_TRANS,
                       p->trans_b ? CBLAS_TRANS : CBLAS_NO_TRANS, p->m, p->n, p->k, 1, p->a, lda, p->b, ldb, 0,
                       p->c, p->n);
    else
        p->peer->dnnl_sgemm(p->trans_a ? 'T' : 'N', p->trans_b ? 'T' : 'N', p->m, p->n, p->k, 1, p->a, lda, p->b,
                            ldb, 0, p->c, p->n);
}

/* ---- training -------------------------------------------------------------------------------------------- */

/* Of peers/kann.c; open is NULL where it is missing. */
static struct {
    void *(*open)(int cnn, int a, int b, int threads);
    int64_t (*parameters)(void *net);
    void (*train)(void *net, int count, float **x, float **one_hot);
    void (*close)(void *net);
} kann;

static void open_kann(void)
{
    void *library = dlopen(BENCH_PEERS "/libkannbench.so", RTLD_NOW | RTLD_LOCAL);
    find_symbol(library, "kann_bench_open", &kann.open);
    find_symbol(library, "kann_bench_parameters", &kann.parameters);
    find_symbol(library, "kann_bench_train", &kann.train);
    find_symbol(library, "kann_bench_close", &kann.close);
    if (!kann.open) puts("KANN is missing: bench/peers/kann.sh");
}

#endif /* KD_BENCH_PEERS_H */
