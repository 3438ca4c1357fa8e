/* peers.h - matrix multiplication of other libraries, as far as they are installed

   Opened with RTLD_LOCAL, so that libraries that define the same names can be in one process. */
#ifndef KD_BENCH_PEERS_H
#define KD_BENCH_PEERS_H

#include "measure.h"

#include <dlfcn.h>
#include <omp.h>

enum { CBLAS_ROW_MAJOR = 101, CBLAS_NO_TRANS = 111, CBLAS_TRANS = 112 };
typedef void (*cblas_sgemm_fn)(int layout, int trans_a, int trans_b, int m, int n, int k, float alpha,
                               const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef int (*dnnl_sgemm_fn)(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                             const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                             int64_t ldc);

typedef struct blas {
    const char *name, *files[4], *multiply, *set_threads, *how_to_get;
    int wide_count;       /* set_threads takes 64 bits */
    cblas_sgemm_fn sgemm; /* NULL where it is missing, or not CBLAS */
    dnnl_sgemm_fn dnnl_sgemm;
    void *library;
} blas;

static blas peers[] = {
    {"OpenBLAS",
     {"libopenblas.so.0"},
     "cblas_sgemm",
     "openblas_set_num_threads",
     "apt-get install libopenblas-dev",
     0,
     0,
     0,
     0},
    {"BLIS",
     {"libblis.so.4", "libblis.so.3", "libblis.so"},
     "cblas_sgemm",
     "bli_thread_set_num_threads",
     "apt-get install libblis-dev",
     1,
     0,
     0,
     0},
    {"MKL",
     {"libmkl_rt.so.2", "../build/peers/lib/libmkl_rt.so.2", "build/peers/lib/libmkl_rt.so.2", "libmkl_rt.so.3"},
     "cblas_sgemm",
     "MKL_Set_Num_Threads",
     "make -C bench peers",
     0,
     0,
     0,
     0},
    {"oneDNN", {"libdnnl.so.3", "libdnnl.so.2"}, "dnnl_sgemm", NULL, "apt-get install libdnnl-dev", 0, 0, 0, 0},
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
        if (strcmp(p->multiply, "dnnl_sgemm") == 0)
            find_symbol(p->library, p->multiply, &p->dnnl_sgemm);
        else
            find_symbol(p->library, p->multiply, &p->sgemm);
        if (p->sgemm || p->dnnl_sgemm) continue;
        printf("%s is missing: %s\n", p->name, p->how_to_get);
    }
}

/* How many threads all of them may use. */
static void set_peer_threads(int threads)
{
    int i;
    omp_set_num_threads(threads);
    for (i = 0; i < (int)KD__COUNT(peers); ++i) {
        void (*narrow)(int) = NULL;
        void (*wide)(int64_t) = NULL;
        if (!peers[i].set_threads) continue; /* follows OpenMP */
        find_symbol(peers[i].library, peers[i].set_threads, peers[i].wide_count ? (void *)&wide : (void *)&narrow);
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

#endif /* KD_BENCH_PEERS_H */
