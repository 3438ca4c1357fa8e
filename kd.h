/* kd.h - v0.1.0 - knowledge distillation in one C99 header - MIT licence (text at the end of this file)

   Train a large teacher, distil it into a small student, ship the student. No dependency but the C
   library and libm. C99; C++11 and later compile the same file.

QUICK START
   In ONE source file:                             Anywhere else:
       #define KD_IMPLEMENTATION                       #include "kd.h"
       #include "kd.h"

       kd_ctx *kd;                                 kd_open(NULL, &kd);
       kd_model *teacher, *student;                kd_model_create(kd, "1x28x28: conv 32 3 pad=1, relu, maxpool 2, "
                                                       "dense 128, relu, dense 10", 1, &teacher);
                                                   kd_model_create(kd, "1x28x28: dense 16, relu, dense 10", 2,
                                                       &student);
       kd_data images = kd_data_u8(pixels, labels, count, 1, 28, 28, 10);
       kd_train_desc desc = kd_train_defaults();   kd_train(teacher, &images, &desc);
       desc.teacher = teacher;                     kd_train(student, &images, &desc);
       kd_model_save(student, "student.safetensors");

   Every call that can fail returns a kd_result (0 is KD_OK); kd_error(kd) says what went wrong in words.

BUILDING
   cc -O2 main.c -lm                     nothing else is needed; with a glibc before 2.34 (2021) and some other
                                         C libraries also -pthread, or -DKD_NO_THREADS
   Do not pass -mavx2 or -march=native: the kernels for every instruction set are compiled in and the
   best one is chosen when kd_open runs. gcc 8 or clang 10 and later, MSVC 2019 and later.
   Safe: -O0 to -O3, -Os, -flto, -fno-math-errno, -fno-trapping-math, sanitizers; -march=native with gcc, and with
   clang up to its default -ffp-contract=on. Refused, where the compiler tells (gcc 12): -ffast-math, -Ofast,
   -funsafe-math-optimizations and each of -fassociative-math, -freciprocal-math, -fno-signed-zeros,
   -ffinite-math-only, and their pragmas before this file; x87 arithmetic (use -msse2 -mfpmath=sse). Not told, and
   other bits: these with clang or an older gcc, clang's -ffp-contract=fast where the target has fused
   multiply-add (-march=native), /fp:fast. KD_ALLOW_FAST_MATH accepts them all.
   Two files instead of one: put the two QUICK START lines into kd_impl.c and compile it once.

CONFIGURATION (define before including; none of them changes a public struct)
   KD_IMPLEMENTATION   compile the implementation here
   KD_STATIC           the implementation is private to this file (every function is static)
   KD_SHARED           the functions are in a shared library, wherever it is used: dllimport
   KD_BUILD            instead of that, in the library's own files: dllexport; with gcc and clang visibility
                       "default", so that -fvisibility=hidden hides the rest. The file with KD_IMPLEMENTATION may
                       have KD_SHARED, too
   KDDEF               what stands before every public function, if none of these; the same wherever it is included
   KD_NO_STDIO         no <stdio.h> files: saving and loading need kd_ctx_desc.io
   KD_NO_THREADS       no threads and no atomics: kd_ctx_desc.threads is 1 whatever it says, and a model belongs
                       to one thread at a time in kd_predict, too
   KD_NO_SIMD          portable C kernels only
   KD_ALLOW_FAST_MATH  accept -ffast-math and its parts, which break the promises about NaN and repeatability below
   KD_NO_TRAIN         no training: models are loaded, described, predict and are evaluated; functions that train
                       are not there to link
   KD__HEADER_FILENAME the name under which this header includes itself, if you rename it ("kd.h")

THREADS
   kd_ctx_desc.threads = 4: kd_open starts three more (POSIX or Windows threads), kd_close ends them, and no
   other function starts any. Between calls they sleep. They have 1 MB of stack each and take no signals (with
   -std=gnu99 and the like). Or give your own thread pool as kd_ctx_desc.parallel_for. A thread that the system
   puts aside, on a busy machine, delays only the task that it is in.
   A context and what hangs off it belong to one thread at a time,
   with one exception: a model that nobody is changing may be used by any number of threads at once in
   kd_predict, kd_predict_u8, kd_predict_u8_hwc and the kd_model getters, in workspaces of their own, and with
   kd_softmax and kd_log_softmax: the first of them has the context's threads, the others work alone; a parallel_for
   of your own is called by all of them at once. Two contexts never share anything.
   After fork() the child has the calling thread only: it goes on with all that it has inherited, on one thread,
   and must have forked while no other thread was in a call. A context that it opens has threads of its own.

MEMORY
   All memory comes from kd_ctx_desc.allocator and is returned to it with its size. Training plans all
   buffers before the first step; no step allocates. A callback must return: an exception or a longjmp out
   of it would lose the memory of the call that it leaves.

ERRORS
   A failed call leaves the model and the files on disk as they were, makes what it would have created
   NULL, and says in kd_error() what, where, wanted and got. Other outputs are as they were, too, unless
   their declaration says otherwise. With NULL for the handle itself (context, model, trainer, cache) there is
   nowhere to say it: kd_error() stays as it was. What returns no kd_result needs a handle that is not NULL, where
   its declaration does not allow it. The library never exits, aborts or prints.

DETERMINISM
   Training is a function of (data, options, seed, instruction set): the same bits for any number of
   threads, on any machine. AVX2, AVX-512 and NEON give the same bits as each other; the portable
   kernels, which have no fused multiply-add, give bits of their own. Reductions have a fixed shape and
   random numbers are a function of (seed, purpose, epoch, sample), never of a thread. The compiler must
   compute float as float (FLT_EVAL_METHOD 0; on 32-bit x86 that takes -msse2 -mfpmath=sse).

LOSS CONVENTION
   Means over rows, sums over classes, and the factor T^2 on terms softened by a temperature T, so that
   alpha keeps its meaning when T changes (Hinton, Vinyals and Dean 2015, section 2). An alpha that was published
   with another library's convention: kd_loss_desc.convention.

CONTENTS (search for the tag)
   >>api        everything public
   >>config     compilers, linkage, target regions
   >>platform   atomics, byte order, files
   >>text       formatting, numbers as text
   >>cpu        what this processor can do
   >>memory     allocation, error text
   >>threads    processors, the threads of a context
   >>random     counter-based random numbers
   >>math       double-precision functions that are the same everywhere
   >>dispatch   kernel table, one instance per instruction set
   >>parallel   tasks over threads
   >>gemm       matrix multiplication: packing, blocking
   >>softmax    softmax, log-softmax
   >>losses     losses and their gradients
   >>graph      what a model is made of, and what it runs in
   >>layers     what each layer computes, forward and backward
   >>spec       the one-line language of models, and the builder
   >>model      models: creation, tensors, description
   >>run        plans: which step writes which buffer, and when
   >>predict    prediction
   >>attack     adversarial inputs
   >>data       batches, augmentation, evaluation
   >>optim      optimizers, schedules
   >>features   losses on features and relations
   >>train      training and distillation, teacher caches
   >>pate       labels from noisy votes, and what they give away
   >>diagnose   what teacher and labels ask of a student
   >>io         .npy, safetensors, checkpoints
   >>vector     a few vector operations per instruction set
   >>kernels    everything that is compiled once per instruction set
   >>licence
*/
#ifdef KD__PROBE /* asked by itself whether it is the file that it would include again */
#undef KD__PROBE
#define KD__PROBED 0x000100  /* KD_VERSION, two digits a part */
#elif !defined(KD__TEMPLATE) /* the kernels at the end of the file include it again, once per instruction set */

/* ============================================================================================================
   >>api    everything public
   ============================================================================================================ */
#ifndef KD_H_INCLUDED
#define KD_H_INCLUDED

#include <stddef.h>
#include <stdint.h>

#define KD_VERSION_MAJOR 0
#define KD_VERSION_MINOR 1
#define KD_VERSION_PATCH 0
#define KD_VERSION "0.1.0"

/* How this file declares functions: 1 as its own, 2 plainly, 3 of a shared library, 4 of the one it is part of */
#if defined(KD_STATIC) && (defined(KD_SHARED) || defined(KD_BUILD))
#error "kd.h: KD_STATIC keeps every function to one file, KD_SHARED and KD_BUILD show them to others"
#endif
#if defined(KD_STATIC)
#define KD__LINKAGE 1
#elif defined(KD_BUILD) || (defined(KD_SHARED) && defined(KD_IMPLEMENTATION))
#define KD__LINKAGE 4
#elif defined(KD_SHARED)
#define KD__LINKAGE 3
#else
#define KD__LINKAGE 2
#endif
#ifndef KDDEF
#if defined(KD_STATIC) && defined(__GNUC__)
#define KDDEF static __attribute__((unused))
#elif defined(KD_STATIC)
#define KDDEF static
#elif KD__LINKAGE == 4 && defined(_WIN32)
#define KDDEF extern __declspec(dllexport)
#elif KD__LINKAGE == 3 && defined(_WIN32)
#define KDDEF extern __declspec(dllimport)
#elif KD__LINKAGE >= 3 && defined(__GNUC__)
#define KDDEF extern __attribute__((visibility("default")))
#else
#define KDDEF extern
#endif
#endif

#if defined(__clang__)
#define KD__PRINTF(text, first) __attribute__((format(printf, text, first)))
#elif defined(__GNUC__)
#define KD__PRINTF(text, first) __attribute__((format(gnu_printf, text, first))) /* not Microsoft's */
#else
#define KD__PRINTF(text, first)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- results and contexts -------------------------------------------------------------------------------- */

/* name, value, meaning. Negative values are failures. */
#define KD_RESULTS(X)                                                                                              \
    X(KD_OK, 0, "success")                                                                                         \
    X(KD_STOPPED, 1, "a callback asked to stop; what was computed until then is kept")                             \
    X(KD_ERR_ARGUMENT, -1, "an argument is missing, out of range, or does not fit another")                        \
    X(KD_ERR_DEFAULTS, -2, "an options struct was not made by its kd_*_defaults function")                         \
    X(KD_ERR_MEMORY, -3, "the allocator returned NULL, or a size does not fit in memory")                          \
    X(KD_ERR_IO, -4, "a file could not be opened, read, written or replaced")                                      \
    X(KD_ERR_FORMAT, -5, "a file is not what its format allows")                                                   \
    X(KD_ERR_SPEC, -6, "a model line cannot be understood")                                                        \
    X(KD_ERR_SHAPE, -7, "shapes do not fit together")                                                              \
    X(KD_ERR_DATA, -8, "data break a rule: labels out of range, different classes, no samples")                    \
    X(KD_ERR_NOT_FINITE, -9, "a NaN or an infinity where a number was expected")                                   \
    X(KD_ERR_UNSUPPORTED, -10, "not available on this processor or in this build")

typedef enum kd_result {
#define KD__ITEM(name, value, meaning) name = value,
    KD_RESULTS(KD__ITEM)
#undef KD__ITEM
} kd_result;

#define KD_ISAS(X)                                                                                                 \
    X(KD_ISA_AUTO, "auto")                                                                                         \
    X(KD_ISA_SCALAR, "scalar")                                                                                     \
    X(KD_ISA_AVX2, "avx2")                                                                                         \
    X(KD_ISA_AVX512, "avx512")                                                                                     \
    X(KD_ISA_NEON, "neon")

typedef enum kd_isa {
#define KD__ITEM(name, word) name,
    KD_ISAS(KD__ITEM)
#undef KD__ITEM
        KD_ISA_COUNT
} kd_isa;

typedef struct kd_ctx kd_ctx;     /* owns the options, the kernels in use, the last error; see kd_open */
typedef struct kd_model kd_model; /* layers and weights; see kd_model_create */
typedef struct kd_cache kd_cache; /* a teacher's outputs, tied to the images they belong to; see kd_cache_create */
typedef struct kd_builder kd_builder;     /* a model line in the making; see kd_builder_open */
typedef struct kd_workspace kd_workspace; /* buffers for predicting; see kd_workspace_create */

/* Where memory comes from. alloc returns at least `size` bytes aligned for any C type, or NULL.
   free gets the size that alloc was asked for. Both are called by the thread that calls the library, never by those
   of kd_open or parallel_for. So they need no lock as long as one thread at a time is in calls with this allocator;
   where several are, predicting with one model or in contexts that share the allocator, they are called at once. */
typedef struct kd_allocator {
    void *(*alloc)(void *user, size_t size);
    void (*free)(void *user, void *ptr, size_t size);
    void *user;
} kd_allocator;

/* Runs task(arg, index, worker) for every index in [0, count), in any order and on any threads, and
   returns when all are done. `worker` is in [0, kd_ctx_desc.threads) and is never used by two threads at once. */
typedef void (*kd_task_fn)(void *arg, int index, int worker);
typedef void (*kd_parallel_fn)(void *user, int count, kd_task_fn task, void *arg);

/* Where files are. A platform without stdio gives its own: every function, or none and no files. A few of them
   alone are refused by kd_open (KD_ERR_ARGUMENT), which says to kd_ctx_desc.log which one is missing.
   open:   mode 'r' or 'w' (create or truncate); returns a handle or NULL.
   read, write: return the number of bytes done; fewer than asked is an error or, for read, the end.
   size:   bytes in an open file, or -1.      sync: make what was written durable; 0 is success.
   close:  0 is success.                      replace: atomically give `from` the name `to`; 0 is success.
   remove: delete a file; failure is ignored. */
typedef struct kd_io {
    void *(*open)(void *user, const char *path, char mode);
    size_t (*read)(void *user, void *file, void *bytes, size_t size);
    size_t (*write)(void *user, void *file, const void *bytes, size_t size);
    int64_t (*size)(void *user, void *file);
    int (*sync)(void *user, void *file);
    int (*close)(void *user, void *file);
    int (*replace)(void *user, const char *from, const char *to);
    void (*remove)(void *user, const char *path);
    void *user;
} kd_io;

typedef struct kd_ctx_desc {
    uint32_t cookie;        /* set by kd_ctx_defaults */
    kd_allocator allocator; /* malloc and free */
    int threads;            /* 1; that work at once, the calling one among them, 1 to 256 */
    int threads_strict; /* 0; where fewer can be started: 0, log and kd_ctx_threads say how many; 1, kd_open fails
                               with KD_ERR_UNSUPPORTED */
    kd_parallel_fn parallel_for; /* NULL: threads that kd_open starts */
    void *parallel_user;
    kd_isa isa;                                /* KD_ISA_AUTO; forcing one that the CPU lacks is an error */
    void (*log)(void *user, const char *line); /* NULL; warnings and notes, one line each, without newline */
    void *log_user;
    kd_io io; /* stdio, with fsync where the platform has it */
    /* 0: what the processor's caches ask for. Otherwise bytes that a thread's buffers for blocks of work should
       keep to, where memory is short; one block of the smallest size is always taken. 3x3 convolutions whose
       smallest block by Winograd's way does not fit are computed directly, with other bits. */
    size_t scratch;
} kd_ctx_desc;

KDDEF kd_ctx_desc kd_ctx_defaults(void);

/* Opens a context; desc NULL means kd_ctx_defaults(). On failure *out is NULL, and since there is no context
   to ask, kd_result_name(result) is all there is to say. */
KDDEF kd_result kd_open(const kd_ctx_desc *desc, kd_ctx **out);
/* Closes a context. Destroy its models, caches and workspaces first. NULL is allowed. */
KDDEF void kd_close(kd_ctx *kd);
/* The last failure in words, "" if there was none. Valid until the next failure or kd_close. */
KDDEF const char *kd_error(const kd_ctx *kd);
KDDEF const char *kd_result_name(kd_result result);    /* "KD_ERR_SHAPE" */
KDDEF const char *kd_result_meaning(kd_result result); /* a sentence, without full stop */
KDDEF const char *kd_isa_name(kd_isa isa);             /* "avx2" */
KDDEF int kd_isa_available(kd_isa isa);                /* 1 if this build and this CPU can run it */
KDDEF kd_isa kd_ctx_isa(const kd_ctx *kd);             /* the one in use, never KD_ISA_AUTO */
KDDEF int kd_ctx_threads(const kd_ctx *kd);            /* that work at once; 1 in a child of fork() */
/* Processors that this process may run on, 1 to 256: by affinity and by the quota of its control groups (Linux,
   unless KD_NO_STDIO), rounded up. Reads files, so ask once. 1 where the system does not say, or KD_NO_THREADS. */
KDDEF int kd_cpu_count(void);
KDDEF const char *kd_version(void); /* KD_VERSION of the implementation that was linked */

/* ---- matrices -------------------------------------------------------------------------------------------- */

/* C = alpha * op(A) * op(B) + beta * C, row-major, CBLAS meaning: op(X) is X or, if trans is not 0, X transposed.
   op(A) is (m, k), op(B) is (k, n), C is (m, n); lda, ldb, ldc are distances between stored rows, in floats.
   beta 0 never reads C. C must not overlap A or B. Sizes may be 0.
   Packing buffers are kept in the context and grow on demand; where that fails (KD_ERR_MEMORY), C may have been
   multiplied by beta already. */
KDDEF kd_result kd_sgemm(kd_ctx *kd, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                         int lda, const float *b, int ldb, float beta, float *c, int ldc);

/* probs[r, c] = softmax(logits[r, :] / temperature)[c]. Both (rows, cols) row-major; they may be the same
   pointer. temperature > 0. Infinite logits count as limits: a lone +inf gets probability 1. A row with a NaN
   becomes NaN. Several threads may call it at once with one context, as kd_predict with one model: it allocates
   nothing, and keeps nothing but an error. */
KDDEF kd_result kd_softmax(kd_ctx *kd, const float *logits, int rows, int cols, float temperature, float *probs);
/* The logarithm of the same, computed without leaving the log domain; thread-safe likewise. */
KDDEF kd_result kd_log_softmax(kd_ctx *kd, const float *logits, int rows, int cols, float temperature,
                               float *log_probs);

/* ---- losses ---------------------------------------------------------------------------------------------- */

/* A label for "unknown": the row gets no hard term. Accepted where something else teaches the row: by losses with a
   soft term, and in training wherever there is a teacher. */
#define KD_UNLABELLED INT32_MIN

/* The value is the mean over rows of

       soft_weight * soft term + hard term,        hard term = hard_weight * CE unless the table says otherwise.

   Notation: s, t student and teacher logits, p^T = softmax(. / T), y label, a b g certainty the fields alpha, beta,
   gamma and certainty, e label smoothing, C columns. KL(p || q) = sum_c p_c log(p_c / q_c).

   name                 needs     terms of one row
   KD_LOSS_AUTO                   not in kd_loss: with a teacher Hinton, without labels KL; without a teacher MSE to
                                  kd_data.targets where they are given, else cross-entropy. Of a single column MSE
                                  with targets, else BCE
   KD_LOSS_CE           labels    hard CE = -sum_c q_c log p_s[c], q = (1-e) onehot(y) + e/C; desc.soft_labels
                                  (C columns) take the place of onehot(y)
   KD_LOSS_KL           teacher   soft T^2 KL(p_t^T || p_s^T)                       Hinton et al. 2015, eq. 2
   KD_LOSS_HINTON       both      soft a * KL, hard (1 - a) * CE, one pass          Hinton et al. 2015, section 2
   KD_LOSS_MSE          teacher   soft sum_c (s_c - t_c)^2 of raw logits            Ba and Caruana 2014, eq. 1
   KD_LOSS_BCE          labels    hard sum_c BCE(sigmoid(s_c), q_c), q = (1-e) onehot(y) + e/2 (one column: label 0
                                  or 1; desc.soft_labels as with ce); with a teacher: soft
                                  a T^2 sum_c KL(sigmoid(t_c/T) || sigmoid(s_c/T)), and the hard term times (1 - a)
   KD_LOSS_RKL          teacher   soft T^2 KL(p_s^T || p_t^T)                       Gu et al. 2024 (MiniLLM)
   KD_LOSS_JSD          teacher   soft T^2 (b KL(p_t^T || m) + (1-b) KL(p_s^T || m)), m = b p_t^T + (1-b) p_s^T;
                                  goes to 0, not to KL, as b goes to 0 or 1         Agarwal et al. 2024 (GKD)
   KD_LOSS_SOFT_CE      teacher   soft -T^2 sum_c p_t^T[c] log p_s^T[c]: KL and the teacher's entropy, with
                                  the gradient of KL                                Hinton et al. 2015, section 2
   KD_LOSS_CENTRED_MSE  teacher   soft sum_c ((s_c - mean s) - (t_c - mean t))^2; KL goes to 1/(2C) of it
                                  as T grows                                        Hinton et al. 2015, eq. 4
   KD_LOSS_TFKD         labels *  soft a KL(softmax(u / T) || p_s^1), u[y] = certainty and (1 - certainty)/(C - 1)
                                  elsewhere, hard (1 - a) CE                        Yuan et al. 2020 (Tf-KD_reg)
   KD_LOSS_DKD          both *    soft a TCKD + b NCKD; TCKD = T^2 KL of (p^T[y], 1 - p^T[y]), NCKD =
                                  T^2 KL of the softmax over the other C - 1 logits; 3 columns or more
                                                                                    Zhao et al. 2022
   KD_LOSS_NKD          both *    soft -p_t^1[y] log p_s^1[y] - g T^2 sum_{c != y} n_t[c] log n_s[c], n the softmax
                                  over the other C - 1 logits at T; 3 columns or more
                                                                                    Yang et al. 2023
   KD_LOSS_DIST         teacher   soft T^2 (b (1 - r(row of p_s^T, row of p_t^T)) + g (1 - mean over columns of
                                  r(column of p_s^T, column of p_t^T over the batch))), r Pearson's correlation.
                                  A row or column that does not vary has r = 0; with 2 columns a row's r is +-1
                                  and only the columns teach; a batch of 1 row has only its row
                                                                                    Huang et al. 2022
   KD_LOSS_TTM          teacher   soft KL(q || p_s^1), q_c = p_t^1[c]^g / U, U = sum_c p_t^1[c]^g. The
                                  teacher is softened, the student is not; no T     Zheng and Yang 2024
   KD_LOSS_WTTM         teacher   the same with soft term times U                   Zheng and Yang 2024
   KD_LOSS_MLLD         teacher   soft sum over desc.temperatures of T^2 KL(p_t^T || p_s^T) + (b/C) |P_s'P_s -
                                  P_t'P_t|^2 + (g/B) |P_s P_s' - P_t P_t'|^2, P the (B, C) probabilities of the
                                  batch at T, |.|^2 sums of squares. One view, no confidence masks; takes room for
                                  C^2 doubles                                       Jin et al. 2023
   KD_LOSS_CSKD         labels *  soft T^2 KL(p_s'^T || p_s^T), s' the next row of the batch (after the last comes
                                  the first) with the same label, taken as a constant, 0 where there is none
                                                                                    Yun et al. 2020
   KD_LOSS_CTKD         teacher   soft T^2 KL(p_t^T || p_s^T). kd_train learns T = 1 + 20 sigmoid(u)
                                  against the student, to make the soft term large: u starts at 1 (T = 15.6) and
                                  goes along l dL/du by the optimizer of the weights (no weight decay), l from 0 to
                                  1 as (1 - cos(pi k / warmup)) / 2 over epochs k = 0 to warmup. kd_loss takes T as
                                  given                                             Li et al. 2023
   From rkl on, 2 columns or more are needed, where nothing else is said.
   * the label of every row: KD_UNLABELLED is refused. Of soft labels (mixup, too), y is the largest, the first of
     several. The other losses give an unlabelled row its soft term alone.
   Where it says "teacher", labels are needed too if hard_weight is not 0: the losses that add CE by default take
   unlabelled data with hard_weight = 0.

   Defaults, as published (soft_weight 1 where the paper has no such weight):

   loss                 T     soft_weight  hard_weight  others
   ce kl hinton mse bce 4     1            0            alpha 0.9
   rkl softce           4     1            0
   jsd                  4     1            0            beta 0.5
   centredmse           -     1            0
   tfkd                 40    1            0            alpha 0.1, certainty 0.99, reduction KD_REDUCTION_ELEMENTS
   dkd                  4     1            1            alpha 1, beta 8 (2 to 8 by pair of models), warmup 20
   nkd                  1     1            1            gamma 1.5
   dist                 4     1            1            beta 1, gamma 1; on ImageNet T = 1
   ttm                  -     45           1            gamma 0.1 (the teacher at T = 10)
   wttm                 -     4            1            gamma 0.2
   mlld                 -     0.9          0.1          beta 1, gamma 1, temperatures 4 2 3 5 6
   cskd                 4     1            1
   ctkd                 15.6  0.9          0.1          warmup 10
   Logit standardisation was published with kl, standardise = 1, T = 2, soft_weight 9 and hard_weight 0.1. */
#define KD_LOSSES(X)                                                                                               \
    X(KD_LOSS_AUTO, "auto")                                                                                        \
    X(KD_LOSS_CE, "ce")                                                                                            \
    X(KD_LOSS_KL, "kl")                                                                                            \
    X(KD_LOSS_HINTON, "hinton")                                                                                    \
    X(KD_LOSS_MSE, "mse")                                                                                          \
    X(KD_LOSS_BCE, "bce")                                                                                          \
    X(KD_LOSS_RKL, "rkl")                                                                                          \
    X(KD_LOSS_JSD, "jsd")                                                                                          \
    X(KD_LOSS_SOFT_CE, "softce")                                                                                   \
    X(KD_LOSS_CENTRED_MSE, "centredmse")                                                                           \
    X(KD_LOSS_TFKD, "tfkd")                                                                                        \
    X(KD_LOSS_DKD, "dkd")                                                                                          \
    X(KD_LOSS_NKD, "nkd")                                                                                          \
    X(KD_LOSS_DIST, "dist")                                                                                        \
    X(KD_LOSS_TTM, "ttm")                                                                                          \
    X(KD_LOSS_WTTM, "wttm")                                                                                        \
    X(KD_LOSS_MLLD, "mlld")                                                                                        \
    X(KD_LOSS_CSKD, "cskd")                                                                                        \
    X(KD_LOSS_CTKD, "ctkd")

typedef enum kd_loss_kind {
#define KD__ITEM(name, word) name,
    KD_LOSSES(KD__ITEM)
#undef KD__ITEM
        KD_LOSS_COUNT
} kd_loss_kind;

typedef enum kd_reduction {
    KD_REDUCTION_ROWS,    /* sum over columns, mean over rows: this library's convention */
    KD_REDUCTION_ELEMENTS /* soft terms are divided by the number of columns as well (PyTorch's reduction='mean') */
} kd_reduction;

/* How other libraries weigh the soft term of hinton, kl, rkl, jsd and softce, so that a published alpha means here
   what it meant there. Other losses take the default alone.

   name                        divided by      T^2    alpha is the weight of
   KD_CONVENTION_DEFAULT       rows, or as     yes    the soft term
                               reduction says
   KD_CONVENTION_REPDISTILLER  rows            yes    the soft term: all as here
   KD_CONVENTION_MDISTILLER    rows            yes    the soft term: all as here
   KD_CONVENTION_TORCHDISTILL  rows            yes *  the hard term
   KD_CONVENTION_TFKD          rows * columns  yes    the soft term
   KD_CONVENTION_TEXTBREWER    rows            no     the soft term
   * Not where alpha is 0, and not in the losses without alpha: that library's KDLoss is the bare KL there. */
#define KD_LOSS_CONVENTIONS(X)                                                                                     \
    X(KD_CONVENTION_DEFAULT, "default")                                                                            \
    X(KD_CONVENTION_REPDISTILLER, "repdistiller")                                                                  \
    X(KD_CONVENTION_MDISTILLER, "mdistiller")                                                                      \
    X(KD_CONVENTION_TORCHDISTILL, "torchdistill")                                                                  \
    X(KD_CONVENTION_TFKD, "tf-kd")                                                                                 \
    X(KD_CONVENTION_TEXTBREWER, "textbrewer")

typedef enum kd_loss_convention {
#define KD__ITEM(name, word) name,
    KD_LOSS_CONVENTIONS(KD__ITEM)
#undef KD__ITEM
        KD_CONVENTION_COUNT
} kd_loss_convention;

/* Knowledge adjustment (Wen et al. 2019): what becomes of a teacher's row whose largest logit, the first of several
   that are equal, is not the label's. Rows without a label stay as they are. */
typedef enum kd_adjust {
    KD_ADJUST_NONE,
    KD_ADJUST_SHIFT, /* the largest logit and the label's change places, and so their probabilities at any T */
    KD_ADJUST_SMOOTH /* its probabilities, at any T: certainty on the label, (1 - certainty) / (C - 1) elsewhere */
} kd_adjust;

/* Of which images a loss sees the student's outputs, in training. The teacher sees them as they are. */
typedef enum kd_inputs {
    KD_INPUTS_CLEAN,      /* as they are */
    KD_INPUTS_ADVERSARIAL /* as kd_train_desc.attack makes them */
} kd_inputs;

#define KD_MAX_TEMPERATURES 8

/* A dash: the default is in the table above. */
typedef struct kd_loss_desc {
    uint32_t cookie; /* set by kd_loss_defaults */
    kd_loss_kind kind;
    float temperature;      /* -;   > 0 */
    float alpha;            /* -;   weight of the soft term, 0 to 1 */
    float label_smoothing;  /* 0;   0 to 1 (exclusive), on the hard term where there is one */
    kd_reduction reduction; /* KD_REDUCTION_ROWS */
    /* NULL; (rows, cols) probabilities that take the place of labels: 0 to 1, of a row 1 together within 0.001, or
       all 0 where it has no label; with bce each by itself. KD_ERR_DATA otherwise. */
    const float *soft_labels;

    float soft_weight; /* -; 0 to 1e6 */
    float hard_weight; /* -; 0 to 1e6; 0 with ce, hinton, bce and tfkd, whose hard term has a weight of its own */
    float beta;        /* -; 0 to 1e6; of jsd 1e-6 to 0.999999 */
    float gamma;       /* -; 0 to 1e6; of ttm and wttm 1e-6 to 1e6 */
    float certainty;   /* -; 0.9 for KD_ADJUST_SMOOTH; 1e-6 to 0.999999 */
    float warmup; /* -; epochs, 0 to 1e6; in training the soft term is multiplied by min((epoch + 1) / warmup, 1),
                          epochs counted from 0. Of ctkd: see there */
    /* Where temperature and alpha arrive in training, in equal steps from epoch to epoch: start in the first, end
       in the last. A temperature that falls to 1 is the annealing of Jafari et al. 2021, who scale the teacher's
       logits with it under mse. kd_loss and kd_loss_weights take temperature and alpha alone. */
    float temperature_end; /* 0: stays; > 0; of losses with a T in the table, ctkd excepted */
    float alpha_end;       /* -1: stays; 0 to 1; of hinton, tfkd, dkd, and of bce with a teacher */
    float temperatures[KD_MAX_TEMPERATURES]; /* -; of mlld, each above 0 */
    int temperature_count;                   /* -; 1 to KD_MAX_TEMPERATURES */
    /* 0; 1: the soft term sees (x - mean) / (std + 1e-7) of each row of both logits, std by C - 1: Sun et al. 2024.
       A row of equal logits counts as zeros and gets no gradient from the soft term. 2 columns or more; not with
       ce, bce and tfkd. */
    int standardise;
    kd_adjust adjust; /* KD_ADJUST_NONE; needs a teacher and labels; not with bce, and KD_ADJUST_SMOOTH not with the
                         losses on raw logits, mse and centredmse */
    kd_loss_convention convention; /* KD_CONVENTION_DEFAULT */
    kd_inputs inputs;              /* KD_INPUTS_CLEAN; in training */
    int to_targets; /* 0; 1: in training, mse compares with kd_data.targets where there is a teacher, too */
    /* Models with several heads, in training: the columns of the output (and of a teacher's, and of targets) that
       this loss sees, as if there were no others, and whose labels it takes. */
    int first, columns; /* 0, 0: all */
    int task;           /* 0: kd_data.labels, otherwise row task - 1 of kd_data.task_labels */
} kd_loss_desc;

KDDEF kd_loss_desc kd_loss_defaults(kd_loss_kind kind);
KDDEF const char *kd_loss_name(kd_loss_kind kind);                   /* "hinton" */
KDDEF const char *kd_convention_name(kd_loss_convention convention); /* "default" */
/* What the terms of a loss with `cols` columns, and with a teacher where it can have one, are multiplied by after
   alpha, reduction and convention: *hard CE, and *soft the soft term as it stands in the table, without the a of
   hinton, bce and tfkd but with T^2 where there is one. 0.9 and 0.1 is Hinton's loss with alpha = 0.9 here. */
KDDEF kd_result kd_loss_weights(kd_ctx *kd, const kd_loss_desc *desc, int cols, double *soft, double *hard);

/* The value of a loss and its gradient with respect to the student's logits.
   student, teacher, grad: (rows, cols) row-major; labels: (rows). teacher, labels and grad may be NULL where
   the loss needs none. grad is overwritten and may be the same pointer as student, but not as teacher.
   NaN or infinity in the logits gives KD_ERR_NOT_FINITE; value and grad are then unspecified.
   Losses after bce, and those with standardise or adjust, are computed in double precision: the same bits on every
   instruction set. */
KDDEF kd_result kd_loss(kd_ctx *kd, const kd_loss_desc *desc, const float *student, const float *teacher,
                        const int32_t *labels, int rows, int cols, float *grad, double *value);

/* Probabilities of several teachers, averaged with weights at a temperature, expressed as logits whose softmax
   at that temperature is the average: out[r, :] = T * log(sum_i w_i softmax(logits[i][r, :] / T)).
   weights NULL: equal; otherwise positive, scaled to sum 1. 1 to 64 teachers. out may be one of the inputs. */
KDDEF kd_result kd_average_teachers(kd_ctx *kd, const float *const *logits, const float *weights, int teachers,
                                    int rows, int cols, float temperature, float *out);
/* The same of logits: out[r, :] = sum_i w_i logits[i][r, :], whose softmax is at every temperature the teachers'
   geometric mean, scaled to sum 1. In double precision: the same bits on every instruction set. */
KDDEF kd_result kd_average_logits(kd_ctx *kd, const float *const *logits, const float *weights, int teachers,
                                  int rows, int cols, float *out);

/* ---- models ---------------------------------------------------------------------------------------------- */

/* Builds a model from a line of text and fills it with random weights that depend on the seed alone.

       1x28x28: conv 32 3 pad=1, relu, maxpool 2, conv 64 3 pad=1, relu, maxpool 2, dense 128, relu, dense 10
       784: dense 1200, relu, dropout 0.5, dense 10
       3x32x32: conv 16 3 pad=1, batchnorm, relu, residual(conv 16 3 pad=1, batchnorm, relu, conv 16 3 pad=1,
                batchnorm), relu, gap, dense 10

   Before the colon: channels x height x width of an image, or the length of a vector. Then layers, each a word,
   positional values and name=value options; `tag: layer` names a layer (up to 40 letters, digits, _ and, between
   them, dots: features.0), others are named by their number, as in PyTorch's nn.Sequential, which goes on from a
   tag that is a number. P stands for one number or HxW.

       dense UNITS [bias=1]                                    flattens an image, as PyTorch's nn.Flatten, which
                                                               takes a number of its own
       conv CHANNELS P [stride=P] [pad=P] [groups=1] [bias=1]  pad=same keeps the size where stride is 1
       depthwise P [stride=P] [pad=P] [bias=1]                 one filter a channel
       maxpool P [stride=P] [pad=P]     avgpool P [stride=P] [pad=P]     gap
       batchnorm [eps=1e-5] [momentum=0.1]                     dropout PROBABILITY
       relu  relu6  leakyrelu [slope=0.01]  gelu  silu  hardswish  sigmoid  tanh  flatten
       softtree DEPTH CLASSES [penalty=0.1]                    flattens what it gets; a soft decision tree, see
                                                               kd_tree
       prompt N                                                flattens what it gets, and appends N numbers, see
                                                               kd_prompt; one in a model
       residual(LAYERS)                                        adds its input; where the shapes differ, through
                                                               conv 1x1 (and batchnorm, if LAYERS has one)

   Options of the whole model stand between its input and the colon: how its weights start, see kd_init.

       3x32x32 init=pytorch residual=0: conv 16 3 pad=1, ...

       [init=auto] [fan_out=0] [std=0.02] [last=1] [residual=1]          init=auto, pytorch, he, glorot or trunc */
KDDEF kd_result kd_model_create(kd_ctx *kd, const char *spec, uint64_t seed, kd_model **out);

/* First weights. fan_in is the number of inputs that one output is a sum of, channels / groups * height * width of
   the kernel; fan_out is the same with the output's channels.

   KD_INIT_AUTO          uniform in +-sqrt(6 / fan_in) before a rectifier, +-sqrt(3 / fan_in) elsewhere
   KD_INIT_PYTORCH       uniform in +-1 / sqrt(fan_in), biases too: torch.nn.Linear's and Conv2d's reset_parameters
   KD_INIT_HE            normal with variance 2 / fan_in, or 2 / fan_out    He et al. 2015, equations 10 and 14
   KD_INIT_GLOROT        uniform in +-sqrt(6 / (fan_in + fan_out))          Glorot and Bengio 2010, equation 16
   KD_INIT_TRUNC_NORMAL  normal with deviation std, drawn again where it is beyond 2 std
                         Devlin et al. 2019 (BERT), as in their code

   Biases are 0 but for KD_INIT_PYTORCH, batchnorm's weights 1. Whatever the kind, a softtree's beta starts at 1 and
   its leaves uniform in +-sqrt(3). `last` multiplies weights and biases of the last layer that has some outside all
   residuals: 0 makes the first logits 0. `residual` multiplies those of the last layer that has some, batchnorm
   included, in the LAYERS of each residual: with 0 every residual passes its input on at first (Goyal et al. 2017,
   section 5.1; torchvision's zero_init_residual). 0 is refused where a relu or relu6 follows that layer, whose
   gradient would be 0 for ever. */
#define KD_INITS(X)                                                                                                \
    X(KD_INIT_AUTO, "auto")                                                                                        \
    X(KD_INIT_PYTORCH, "pytorch")                                                                                  \
    X(KD_INIT_HE, "he")                                                                                            \
    X(KD_INIT_GLOROT, "glorot")                                                                                    \
    X(KD_INIT_TRUNC_NORMAL, "trunc")
typedef enum kd_init_kind {
#define KD__ITEM(name, word) name,
    KD_INITS(KD__ITEM)
#undef KD__ITEM
        KD_INIT_COUNT
} kd_init_kind;

typedef struct kd_init {
    uint32_t cookie; /* set by kd_init_defaults */
    kd_init_kind kind;
    int fan_out;    /* 0; 1: the variance is 2 / fan_out; KD_INIT_HE */
    float std;      /* 0.02; 0 to 1e6; KD_INIT_TRUNC_NORMAL */
    float last;     /* 1; 0 to 1e6 */
    float residual; /* 1; 0 to 1e6 */
} kd_init;

KDDEF kd_init kd_init_defaults(kd_init_kind kind);
KDDEF const char *kd_init_name(kd_init_kind kind); /* "he" */
/* kd_model_create with first weights as given, whatever the line says of them, which stays as it is; init NULL: as
   the line says. */
KDDEF kd_result kd_model_create_with(kd_ctx *kd, const char *spec, uint64_t seed, const kd_init *init,
                                     kd_model **out);
KDDEF void kd_model_destroy(kd_model *m); /* NULL is allowed */
KDDEF kd_result kd_model_clone(const kd_model *m, kd_model **out);
/* The same in another context, which may have another instruction set, threads and allocator: to train a copy in
   the background, or to bring back what was trained. m is only read, as by kd_predict: other threads may predict
   with it meanwhile, none may change it. The calling thread must own kd; errors are said there. */
KDDEF kd_result kd_model_clone_to(const kd_model *m, kd_ctx *kd, kd_model **out);

/* The same language, a call at a time. Mistakes are remembered and reported by kd_builder_finish, which also
   frees the builder; kd_builder_abandon frees it without a model. Height and width 1: a vector of `channels`. */
KDDEF kd_result kd_builder_open(kd_ctx *kd, int channels, int height, int width, kd_builder **out);
KDDEF void kd_builder_dense(kd_builder *b, int units);
KDDEF void kd_builder_conv(kd_builder *b, int channels, int kernel, int stride, int pad);
KDDEF void kd_builder_depthwise(kd_builder *b, int kernel, int stride, int pad);
KDDEF void kd_builder_maxpool(kd_builder *b, int kernel, int stride);
KDDEF void kd_builder_avgpool(kd_builder *b, int kernel, int stride);
/* Any layer, as text: what printf takes but long double, wide characters, a and n, with a decimal point in every
   locale. */
KDDEF void kd_builder_layer(kd_builder *b, const char *format, ...) KD__PRINTF(2, 3);
KDDEF void kd_builder_residual(kd_builder *b);                  /* opens residual( ... */
KDDEF void kd_builder_end(kd_builder *b);                       /* ... and closes it ) */
KDDEF void kd_builder_init(kd_builder *b, const kd_init *init); /* first weights; NULL: the defaults */
KDDEF kd_result kd_builder_finish(kd_builder *b, uint64_t seed, kd_model **out);
KDDEF void kd_builder_abandon(kd_builder *b);

KDDEF const char *kd_model_spec(const kd_model *m);
KDDEF void kd_model_input(const kd_model *m, int *channels, int *height, int *width);
KDDEF int kd_model_outputs(const kd_model *m);        /* logits a sample */
KDDEF int kd_model_prompt(const kd_model *m);         /* the N of its prompt layer, 0 without one */
KDDEF int64_t kd_model_parameters(const kd_model *m); /* trained numbers */
KDDEF int64_t kd_model_macs(const kd_model *m);       /* multiply-adds of one prediction */
/* A fingerprint of the architecture and of every weight bit: equal models, equal numbers. */
KDDEF uint64_t kd_model_hash(const kd_model *m);
/* Writes a table of layers, output shapes, parameters and multiply-adds into text (at most size bytes with the
   final 0) and returns the length it needs without the 0, like snprintf. */
KDDEF size_t kd_model_describe(const kd_model *m, char *text, size_t size);

/* Class names travel with the saved file. Names are copied, with "?" for what is no UTF-8; count must be the number
   of outputs. */
KDDEF kd_result kd_model_set_classes(kd_model *m, const char *const *names, int count);
KDDEF const char *kd_model_class(const kd_model *m, int index); /* NULL where none was set */
/* x = (pixel - mean[c]) / std[c], with pixels in [0, 1], a number for each channel of the input (one, where the
   input is a vector). kd_train records what it was given, of a vector that was an image with more channels a number
   for each, which cannot be set again here. Both NULL: unknown. */
KDDEF kd_result kd_model_set_preprocessing(kd_model *m, const float *mean, const float *std);
/* The number of channels recorded, 0 if unknown; mean and std may be NULL or have room for KD_MAX_CHANNELS. */
KDDEF int kd_model_preprocessing(const kd_model *m, float *mean, float *std);

/* Tensors by PyTorch's names and in PyTorch's layouts: "0.weight" (out, in, h, w) or (out, in), "0.bias" (out),
   "1.running_mean" ... A tagged layer has its tag for a number. A residual's layers have "4.body.0.weight" ..., its
   projection "4.shortcut.weight" or, with batchnorm, "4.shortcut.0.weight" and "4.shortcut.1.weight" ... */
typedef struct kd_tensor_info {
    const char *name;
    int rank;
    int64_t shape[4];
    int64_t count;
    int trained; /* 0: running statistics */
} kd_tensor_info;
KDDEF int kd_model_tensors(const kd_model *m);
KDDEF kd_result kd_model_tensor_info(const kd_model *m, int index, kd_tensor_info *out);
KDDEF kd_result kd_model_get_tensor(const kd_model *m, const char *name, float *values, int64_t count);
KDDEF kd_result kd_model_set_tensor(kd_model *m, const char *name, const float *values, int64_t count);

/* A safetensors file with everything needed to rebuild the model: weights under PyTorch's names, and the model
   line, class names and preprocessing as metadata. Saving writes a temporary file beside the target, flushes it
   to the disk and renames it, so that a crash leaves the old file or the new one. */
KDDEF kd_result kd_model_save(const kd_model *m, const char *path);
/* What trained numbers are rounded to in a file, to the nearest, halves to even; running statistics stay F32. A
   model loaded from there computes in F32. KD_DTYPE_F16 with a number from 65520 on is KD_ERR_NOT_FINITE. */
typedef enum kd_dtype { KD_DTYPE_F32, KD_DTYPE_F16, KD_DTYPE_BF16 } kd_dtype;
KDDEF kd_result kd_model_save_as(const kd_model *m, const char *path, kd_dtype dtype);
/* The same file into memory of `size` bytes. *needed, where not NULL, is what it takes: with bytes NULL and size 0
   nothing else happens. With less than it takes nothing is written (KD_ERR_ARGUMENT). */
KDDEF kd_result kd_model_save_memory(const kd_model *m, kd_dtype dtype, void *bytes, size_t size, size_t *needed);
KDDEF kd_result kd_model_load(kd_ctx *kd, const char *path, kd_model **out);
/* The same from the bytes of such a file, in memory of any alignment (flash, a resource of the program). They are
   read once and may go afterwards. Either way loading takes memory for the weights and the file's header alone. */
KDDEF kd_result kd_model_load_memory(kd_ctx *kd, const void *bytes, size_t size, kd_model **out);
/* Weights from a safetensors file that has no model line, such as PyTorch's own, into a model made from one. Every
   tensor of the model must be there with its shape; tensors that the model does not have are an error. A file with
   a model line must be one that kd_model_load takes; its line, class names and preprocessing are not used.
   Where names differ from the model's, a prefix that all of them share is dropped ("module.", "_orig_mod."), and if
   that does not make them the same, layers are taken in the order that names of PyTorch's networks stand for, as
   conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, fc: convolutions, normalisations and dense layers each among
   themselves, a residual's shortcut only from one (downsample, shortcut, skip). kd_ctx_desc.log gets a line of
   either; names of which none can say the order are refused. */
KDDEF kd_result kd_model_load_weights(kd_model *m, const char *path);

/* ---- soft decision trees --------------------------------------------------------------------------------- */

/* The layer `softtree DEPTH CLASSES`, a student whose decisions can be read (Frosst and Hinton 2017): DEPTH 1 to
   12, CLASSES 2 or more. Nodes are numbered from the root, 0, level by level; j has the children 2j + 1, left, and
   2j + 2, right, and the last 2^DEPTH are the leaves. Inner node j sends x to the right with probability
   sigmoid(beta_j (<w_j, x> + b_j)); P_j(x) is the product of such probabilities on the way from the root to j, and
   leaf l has a distribution Q_l = softmax(phi_l) over the classes. All of beta, w, b and phi are learned.

   Output: logits[k] = log sum_l P_l(x) Q_l[k], the logarithms of the mixture's probabilities. Their softmax is the
   mixture, so that every loss applies (cross-entropy: -log of the label's share in the mixture, where the paper's
   eq. 3 averages each leaf's cross-entropy). The paper predicts by the most probable leaf instead: kd_tree_paths.

   In training the path penalty is added to the loss (eqs. 4 and 5, over the batch instead of a running average):
   -penalty * sum over inner nodes j of 2^-d (log a_j + log(1 - a_j)) / 2, d the depth of j, 0 at the root,
   a_j = sum_x P_{2j+2}(x) / sum_x P_j(x). That is penalty times the mean over leaves l of -log(mean_x P_l(x)), and
   least, DEPTH log 2, where the batch is spread evenly over the leaves.

   Tensors: NAME.filters.weight (inner nodes, features), NAME.filters.bias and NAME.beta (inner nodes), NAME.leaves
   (leaves, classes): phi. */
typedef struct kd_tree {
    const char *name;            /* of the layer */
    int depth, classes;          /* 2^depth - 1 inner nodes, 2^depth leaves */
    int channels, height, width; /* of what the filters see; of a vector length, 1, 1 */
} kd_tree;

/* About the first softtree of a model; without one, all three fail with KD_ERR_ARGUMENT. */
KDDEF kd_result kd_tree_info(const kd_model *m, kd_tree *out);
/* What the tree is drawn from: filters (inner nodes, channels, height, width) and biases (inner nodes), both times
   beta, and leaves (leaves, classes), Q. Each may be NULL. */
KDDEF kd_result kd_tree_read(const kd_model *m, float *filters, float *biases, float *leaves);
/* P_j(x) of n samples x (n, c, h, w), normalised as in training: paths (n, all nodes). Thread-safe. */
KDDEF kd_result kd_tree_paths(const kd_model *m, const float *x, int n, float *paths);

/* ---- data ------------------------------------------------------------------------------------------------ */

#define KD_MAX_CHANNELS 16 /* images with more channels are taken, but not normalised by channel */

typedef enum kd_pixels { KD_PIXELS_U8, KD_PIXELS_F32 } kd_pixels;

/* Fills x (n, channels, height, width), pixels in [0, 1], and labels (n), for the n samples whose numbers are
   given. Returns 0, or anything else to end training with KD_ERR_DATA. Called from the calling thread. The same
   number must always give the same sample. */
typedef int (*kd_batch_fn)(void *user, const int32_t *samples, int n, float *x, int32_t *labels);

/* Images and what is known about them. Pointers are borrowed: they must live as long as the struct is used. */
typedef struct kd_data {
    uint32_t cookie; /* set by kd_data_u8, kd_data_f32 and kd_data_stream */
    kd_pixels type;
    const void *pixels;    /* (count, channels, height, width) */
    const int32_t *labels; /* (count), 0 to classes - 1 or KD_UNLABELLED; NULL: none */
    int count, channels, height, width, classes;
    float mean[KD_MAX_CHANNELS]; /* 0; subtracted from pixels in [0, 1] */
    float std[KD_MAX_CHANNELS];  /* 1; then divided by */
    const float *soft_labels;    /* (count, classes) instead of labels, as in kd_loss_desc, or NULL */
    const float *targets;        /* (count, outputs of the model) for KD_LOSS_MSE without a teacher, or NULL */
    const float *teacher_logits; /* (count, outputs): cached soft targets of these images as they are, or NULL */
    /* (task_count, count) labels of further tasks, or NULL. Labels of a loss with columns of its own, these or
       those above, are 0 to its columns - 1 (0 or 1 of a single one); `classes` is then not looked at. */
    const int32_t *task_labels;
    int task_count;    /* 0 */
    const float *side; /* (count, side_count) for KD_PROMPT_SIDE, or NULL */
    int side_count;    /* 0 */
    kd_batch_fn batch; /* instead of pixels, for what does not fit in memory */
    void *user;
} kd_data;

/* Pixels 0 to 255 are scaled by 1/255. Fill in mean[], std[], teacher_logits ... afterwards where wanted. */
KDDEF kd_data kd_data_u8(const uint8_t *pixels, const int32_t *labels, int count, int channels, int height,
                         int width, int classes);
KDDEF kd_data kd_data_f32(const float *x, const int32_t *labels, int count, int channels, int height, int width,
                          int classes);
KDDEF kd_data kd_data_stream(kd_batch_fn batch, void *user, int count, int channels, int height, int width,
                             int classes);
/* A fingerprint of images (not of labels), used to tie cached teacher outputs to them. Streams are not hashed
   by content but by shape and count. */
KDDEF uint64_t kd_data_hash(const kd_data *data);

/* Random changes to training images, each a function of (seed, epoch, sample) alone, so that teacher and student
   see the same view. Zero switches a change off. */
typedef struct kd_augment {
    int shift;        /* pixels, to the image's larger side; moved by up to this either way, filled with 0 */
    int flip;         /* 1: mirrored left to right, half of the time */
    float rotate;     /* degrees, to 180; turned by up to this either way, bilinear, filled with 0 */
    float brightness; /* b, to 1: times 1-b to 1+b */
    float contrast;   /* c, to 1: blended with the mean grey, factor 1-c to 1+c */
    float saturation; /* s, to 1: blended with its own grey, factor 1-s to 1+s (3 channels) */
    int cutout;       /* side in pixels, to twice the image's, of a square set to the mean (0 when normalised) */
    float mixup;      /* a, to 4: blended with another sample of the set by Beta(a, a); so are labels */
} kd_augment;

/* What the layer `prompt N` appends to the features of a sample in training: knowledge that will be missing later
   (learning with privileged information: Vapnik and Vashist 2009, Lopez-Paz et al. 2016), or an adversarial version
   of it (kd_train_desc.prompt_attack). It is withdrawn by and by (prompt_drop), so that the student works without
   it. In prediction, in a teacher and where a prompt is dropped the N numbers are 0. The layer stays in the saved
   student, whose next layer still has weights for them: it can be trained with prompts again. */
typedef enum kd_prompt {
    KD_PROMPT_NONE,
    /* softmax(t / prompt_temperature) of the teacher's N logits t; where N is 1, sigmoid(t / prompt_temperature) */
    KD_PROMPT_TEACHER,
    KD_PROMPT_SIDE /* the sample's row of kd_data.side; N is side_count */
} kd_prompt;

/* ---- prediction and evaluation --------------------------------------------------------------------------- */

/* How far a long call is, from the calling thread: `done` of `all`, in units that the call names, growing to all.
   Not 0 asks to stop: the call returns KD_STOPPED, and what it would have made is as after an error. The callback
   may predict; it must not change what the call works with. */
typedef int (*kd_progress_fn)(void *user, int64_t done, int64_t all);

/* Logits of n samples. x: (n, c, h, w), normalised as in training; logits: (n, outputs). Thread-safe. */
KDDEF kd_result kd_predict(const kd_model *m, const float *x, int n, float *logits);
/* The same from pixels 0 to 255, with the model's own preprocessing (none known: scaled by 1/255). */
KDDEF kd_result kd_predict_u8(const kd_model *m, const uint8_t *pixels, int n, float *logits);
/* From pixels as cameras and image files have them, (n, h, w, c): the same bits as of those put in order first. */
KDDEF kd_result kd_predict_u8_hwc(const kd_model *m, const uint8_t *pixels, int n, float *logits);

/* kd_predict borrows buffers that are kept with the model. For a loop that must never allocate, plan them once:
   one workspace a thread, for at most `capacity` samples a call. Destroy it before the model. */
KDDEF kd_result kd_workspace_create(const kd_model *m, int capacity, kd_workspace **out);
KDDEF kd_result kd_workspace_predict(kd_workspace *w, const float *x, int n, float *logits);
KDDEF kd_result kd_workspace_predict_u8(kd_workspace *w, const uint8_t *pixels, int n, float *logits);
KDDEF kd_result kd_workspace_predict_u8_hwc(kd_workspace *w, const uint8_t *pixels, int n, float *logits);
KDDEF size_t kd_workspace_bytes(const kd_workspace *w); /* what it has from the allocator */
KDDEF void kd_workspace_destroy(kd_workspace *w);

/* Adversarial inputs: x changed so that a loss grows, each number by no more than epsilon (the L-infinity norm).

   name            the changed input
   KD_ATTACK_FGSM  x + epsilon sign(g), g the gradient of the loss by x          Goodfellow et al. 2015, section 4
   KD_ATTACK_PGD   `steps` times x' = P(x' + step sign(g)), g the gradient by x', from a random point; P moves each
                   number to the nearest within epsilon of x                     Madry et al. 2018, section 2.1

   epsilon, step, low and high are in pixels from 0 to 1, as they are before normalisation: 8/255 is 8 of 255
   levels, whatever mean and std are. Results are kept within low and high; a number of x that was outside does not
   move farther out.
   The model runs in evaluation mode, without dropout and with the running statistics of batchnorm, as those who
   attack it will find it; so the samples of a batch do not depend on each other, and nothing in the model
   changes. */
#define KD_ATTACKS(X)                                                                                              \
    X(KD_ATTACK_FGSM, "fgsm")                                                                                      \
    X(KD_ATTACK_PGD, "pgd")

typedef enum kd_attack_kind {
#define KD__ITEM(name, word) name,
    KD_ATTACKS(KD__ITEM)
#undef KD__ITEM
        KD_ATTACK_COUNT
} kd_attack_kind;

typedef struct kd_attack_desc {
    uint32_t cookie; /* set by kd_attack_defaults */
    kd_attack_kind kind;
    float epsilon;      /* 8/255; 0 to 1e6 */
    float step;         /* 2/255; 0 to 1e6; pgd */
    int steps;          /* 10; 1 to 10000; pgd */
    float random_start; /* 1; 0 to 1: pgd begins uniformly within random_start * epsilon of x */
    float low, high;    /* 0, 1; -1e6 to 1e6 */
    uint64_t seed;      /* 1; of random starts; in training that of kd_train_desc */
    /* What grows. KD_LOSS_AUTO: cross-entropy with the labels, as in training without a teacher. A loss with
       a teacher compares with what the teacher says of x as it is; KD_LOSS_KL with T = 1: Zi et al. 2021 (RSLAD).
       On all outputs, without soft_labels */
    kd_loss_desc loss;
} kd_attack_desc;

KDDEF kd_attack_desc kd_attack_defaults(kd_attack_kind kind);
KDDEF const char *kd_attack_name(kd_attack_kind kind); /* "pgd" */
/* Adversarial versions of n samples. x, out: (n, c, h, w), normalised as for kd_predict, with the preprocessing
   that the model knows (none: x has pixels); out may be x. teacher is NULL unless the loss has one; labels: (n),
   NULL where the loss has none. KD_ERR_NOT_FINITE: the loss or its gradient overflows; out is then unspecified. */
KDDEF kd_result kd_attack(const kd_model *m, const kd_model *teacher, const float *x, const int32_t *labels, int n,
                          const kd_attack_desc *desc, float *out);

#define KD_METRICS_CLASSES 256
typedef struct kd_metrics {
    int count;              /* samples with a label */
    double accuracy;        /* share of samples whose largest logit is the label (one output: sign against 0/1) */
    double robust_accuracy; /* the same of their adversarial versions; -1 where none were asked for */
    double nll;             /* mean negative log-likelihood, natural logarithm */
    double ece;             /* expected calibration error, 15 equal bins of confidence (Guo et al. 2017, eq. 3) */
    double mse;             /* mean squared error against data.targets, where given */
    double agreement; /* share of samples on which model and teacher choose the same class; -1 without a teacher */
    double kl;        /* mean KL(teacher || student) at temperature 1; -1 without a teacher */
    int classes;      /* filled entries of the two arrays below: at most KD_METRICS_CLASSES */
    int class_count[KD_METRICS_CLASSES];
    double class_accuracy[KD_METRICS_CLASSES]; /* 0 where class_count is 0 */
} kd_metrics;

KDDEF kd_result kd_evaluate(const kd_model *m, const kd_data *data, kd_metrics *out);

typedef struct kd_evaluate_desc {
    uint32_t cookie;             /* set by kd_evaluate_defaults */
    int batch;                   /* 256 */
    const kd_model *teacher;     /* NULL; for agreement and kl; without it, data.teacher_logits if set */
    const kd_data *teacher_data; /* NULL; the same samples as the teacher sees them, as in kd_train_desc */
    float *logits;               /* NULL; (count, outputs) */
    /* NULL; (classes, classes), row = label, column = prediction, overwritten. classes: the larger of data.classes
       and outputs; of a head its columns, or 2 of a single one */
    int64_t *confusion;
    int first, columns, task; /* 0; one head of several, as in kd_loss_desc: all metrics are those of its columns */
    kd_prompt prompt;         /* KD_PROMPT_NONE: without, as the student will be used */
    float prompt_temperature; /* 1; 1e-3 to 1e6 */
    const kd_attack_desc *prompt_attack; /* NULL; makes prompts adversarial, as in kd_train_desc, for all metrics */
    const kd_attack_desc *attack;        /* NULL; for robust_accuracy, with the teacher where its loss has one */
    kd_progress_fn on_progress;          /* NULL; after every batch: samples */
    void *user;
} kd_evaluate_desc;
KDDEF kd_evaluate_desc kd_evaluate_defaults(void);
/* After an error or KD_STOPPED, logits and confusion are unspecified. */
KDDEF kd_result kd_evaluate_with(const kd_model *m, const kd_data *data, const kd_evaluate_desc *desc,
                                 kd_metrics *out);

/* ---- losses on features and relations -------------------------------------------------------------------- */

/* They compare what a layer of the student computes with what a layer of the teacher computes for the same images,
   in training: give kd_train_desc.features. Layers are named by their tags, or by their numbers as in the names of
   tensors; the tag of a residual stands for its sum. A layer that a relu, relu6 or leakyrelu directly follows is
   read after it (conv, dense, depthwise, batchnorm and residual; other layers as they are).

   Notation: S, T features of student and teacher, (B, c, h, w), of the teacher with its own c, h, w; of a vector
   (dense, flatten and what follows them) c is the length, h = w = 1. In the relations x_i, t_i are their samples,
   flattened to vectors. <a, b> is the dot product, |a|^2 = <a, a>. Each value is multiplied by `weight` and added
   to the loss. Where "pooled" is said and sizes differ, both are averaged to the smaller height and the smaller
   width (cells as in PyTorch's adaptive_avg_pool2d).

   name                 value
   KD_FEATURE_HINT      mean over all numbers of (R(S) - T)^2, pooled. R is S itself where c is the same on both
                        sides, otherwise a learned 1x1 convolution with bias
                        Romero et al. 2015 (FitNets)
   KD_FEATURE_AT        mean over images and pixels of (a(S) - a(T))^2, pooled; a = q / |q| of each image, q the sum
                        over channels of squares
                        Zagoruyko and Komodakis 2017, as in their code
   KD_FEATURE_AT_PAPER  mean over images of |a(S) - a(T)|, not squared, pooled
                        the same, equation 2
   KD_FEATURE_SP        1/B^2 sum of (n(G_S) - n(G_T))^2, G[i, j] = <x_i, x_j>, n divides each row by its norm
                        Tung and Mori 2019
   KD_FEATURE_RKD       distance * mean over i, j of H(d_S/m_S - d_T/m_T) + angle * mean over i, j, k of
                        H(cos_S - cos_T); d = |x_i - x_j|, m its mean over i != j, cos that of the angle at x_i
                        between x_j and x_k, 0 where points coincide; H(u) = u^2/2 up to |u| = 1, |u| - 1/2 beyond
                        Park et al. 2019
   KD_FEATURE_PKT       mean over i, j of p_T log((p_T + e) / (p_S + e)), p the rows of (1 + cos(x_i, x_j)) / 2
                        divided by their sums, e = 1e-7, which is added to the norms, too
                        Passalis and Tefas 2018
   KD_FEATURE_CC        1/B^2 sum of (K_S - K_T)^2, K = exp(-2g) sum over p = 0 to order of
                        (2g cos(x_i, x_j))^p / p!, g = gamma: the Gaussian kernel's Taylor series; no embedding
                        Peng et al. 2019
   KD_FEATURE_NST       mean over images of mean k(T, T) + mean k(S, S) - 2 mean k(S, T), pooled; k the squared dot
                        products of all pairs of channels, each channel divided by its norm over the pixels
                        Huang and Wang 2017
   KD_FEATURE_VID       mean over all numbers of ((R(S) - T)^2 / v + log v) / 2, pooled. R: three learned 1x1
                        convolutions without bias, relu between, as wide as T; v = log(1 + exp(a)) + 1e-5, learned
                        for each channel of T, 5 at first
                        Ahn et al. 2019
   KD_FEATURE_FSP       mean over images, c1, c2 of (F_S - F_T)^2, F[c1, c2] = mean over pixels of the product of
                        channel c1 of the first layer and c2 of the second. The two layers of one model are averaged
                        to the smaller size; both models need the same numbers of channels
                        Yim et al. 2017
   KD_FEATURE_REVIEW    sum over the layers l of the lists student and teacher, first to last as images pass them,
                        of HCL(O_l, T_l): the mean over all numbers of (O - T)^2, plus 1/2, 1/4 and 1/8 of that of
                        their means over 4x4, 2x2 and 1x1 cells, divided by the sum of these shares; only
                        grids of fewer rows than T has count, the first of them with 1/2. O_l = N(conv
                        3x3(X_l)), X_l = g_1 N(conv 1x1(S_l)) + g_2 X_{l+1}, from the last layer, where X is
                        N(conv 1x1(S)), back to the first; g = sigmoid(conv 1x1(both)) by pixel, N batch
                        normalisation by the batch at hand. X has
                        min(512, channels of the student's last layer) channels; X_{l+1} is brought to the size of
                        S_l, and X_l to that of T_l, by taking the nearest pixel
                        Chen et al. 2021 (ReviewKD), as in their code
   KD_FEATURE_CRD       mean over i of -log softmax_j(<e_i, f_j> / temperature)[i] - log softmax_j(<e_j, f_i> /
                        temperature)[i]; e = E(S) / |E(S)|, f = F(T) / |F(T)|, E and F learned linear maps with
                        bias from all numbers of a sample to `width`. This is InfoNCE within the batch: a sample's
                        negatives are all others of its batch, whatever their class. The paper draws 16384 of other
                        classes from a memory of older embeddings, and has NCE with a constant in the place of the
                        sum. A batch of 1 teaches nothing
                        Tian et al. 2020

   Learned parts are updated by the optimizer of the weights with its learning rate and weight decay, count in
   clip_norm, start from desc.seed (weights uniform in +-1/sqrt(inputs), those of review's convolutions, but for its
   gates, sqrt(3) times that) and are forgotten when training ends.
   All is computed in double precision, the same on every instruction set.

   Weights as published with RepDistiller, whose total is cross-entropy and one of them: hint 100, at 1000, sp 3000,
   rkd 1 (distance 25, angle 50), pkt 30000, nst 50, vid 1, fsp 50, crd 0.8. atpaper 500 (1000 / 2). cc 0.02 (there
   with another form of it). review 5 with a warm-up of 20 epochs, as its authors have it for CIFAR-100. */
#define KD_FEATURES(X)                                                                                             \
    X(KD_FEATURE_HINT, "hint")                                                                                     \
    X(KD_FEATURE_AT, "at")                                                                                         \
    X(KD_FEATURE_AT_PAPER, "atpaper")                                                                              \
    X(KD_FEATURE_SP, "sp")                                                                                         \
    X(KD_FEATURE_RKD, "rkd")                                                                                       \
    X(KD_FEATURE_PKT, "pkt")                                                                                       \
    X(KD_FEATURE_CC, "cc")                                                                                         \
    X(KD_FEATURE_NST, "nst")                                                                                       \
    X(KD_FEATURE_VID, "vid")                                                                                       \
    X(KD_FEATURE_FSP, "fsp")                                                                                       \
    X(KD_FEATURE_REVIEW, "review")                                                                                 \
    X(KD_FEATURE_CRD, "crd")

typedef enum kd_feature_kind {
#define KD__ITEM(name, word) name,
    KD_FEATURES(KD__ITEM)
#undef KD__ITEM
        KD_FEATURE_COUNT
} kd_feature_kind;

typedef struct kd_feature_loss {
    uint32_t cookie; /* set by kd_feature_loss_defaults */
    kd_feature_kind kind;
    const char *student, *teacher;   /* tags, must be set; of review lists of 1 to 8, as in "low, middle, high" */
    const char *student2, *teacher2; /* NULL; tags of the second layers of fsp */
    float weight;                    /* as published; 0 to 1e6 */
    float distance, angle;           /* 25, 50; 0 to 1e6; rkd */
    float gamma;                     /* 0.4; 0 to 100; cc */
    int order;                       /* 2; 1 to 8; cc */
    float temperature;               /* 0.07; 1e-3 to 1e3; crd */
    int width;                       /* 128; 1 to 65536; numbers of an embedding; crd */
    float warmup; /* 0, review 20; epochs, 0 to 1e6; the weight is multiplied by min((epoch + 1) / warmup, 1) */
} kd_feature_loss;

KDDEF kd_feature_loss kd_feature_loss_defaults(kd_feature_kind kind);
KDDEF const char *kd_feature_name(kd_feature_kind kind); /* "hint" */

/* ---- training and distillation --------------------------------------------------------------------------- */

/* Updates, per number: g = gradient + weight_decay * w (AdamW: w -= lr * weight_decay * w instead).
   KD_SGD    v = momentum * v + g; w -= lr * v, or with nesterov w -= lr * (g + momentum * v)
   KD_ADAM   Kingma and Ba 2015, algorithm 1, with both bias corrections; beta1, beta2, epsilon
   KD_ADAMW  Loshchilov and Hutter 2019, algorithm 2 */
#define KD_OPTIMIZERS(X)                                                                                           \
    X(KD_SGD, "sgd")                                                                                               \
    X(KD_ADAM, "adam")                                                                                             \
    X(KD_ADAMW, "adamw")
typedef enum kd_optimizer {
#define KD__ITEM(name, word) name,
    KD_OPTIMIZERS(KD__ITEM)
#undef KD__ITEM
        KD_OPTIMIZER_COUNT
} kd_optimizer;

/* The learning rate at a point e of training, in epochs, of E in all, u = (e - warmup) / (E - warmup):
   KD_CONSTANT     lr                              KD_STEP    lr * gamma^floor(e / step)
   KD_EXPONENTIAL  lr * gamma^floor(e)             KD_LINEAR  lr + (lr_end - lr) * u
   KD_COSINE       lr_end + (lr - lr_end) * (1 + cos(pi u)) / 2
   each preceded by `warmup` epochs, which may be 0.5, in which it climbs from lr / steps to lr, a step at a time;
   steps is warmup times those of an epoch, rounded up. */
#define KD_SCHEDULES(X)                                                                                            \
    X(KD_CONSTANT, "constant")                                                                                     \
    X(KD_STEP, "step")                                                                                             \
    X(KD_EXPONENTIAL, "exponential")                                                                               \
    X(KD_LINEAR, "linear")                                                                                         \
    X(KD_COSINE, "cosine")
typedef enum kd_schedule {
#define KD__ITEM(name, word) name,
    KD_SCHEDULES(KD__ITEM)
#undef KD__ITEM
        KD_SCHEDULE_COUNT
} kd_schedule;

typedef enum kd_keep {
    KD_KEEP_LAST, /* the weights after the last epoch */
    /* those of the epoch with the best validation accuracy (robust_accuracy, where losses see adversarial inputs),
       of epochs with the same accuracy that with the lowest nll, the first of several. Without labels that with the
       lowest kl or mse. patience and is_best go by the same. Needs validation */
    KD_KEEP_BEST
} kd_keep;

typedef struct kd_step_info {
    int epoch, epochs; /* epoch counts from 0 */
    int step, steps;   /* within the epoch */
    int64_t images;    /* seen since training began */
    double loss;       /* of this step */
    double lr;         /* of this step */
    /* Before clipping. 0 unless clip_norm is set, and where accumulate postpones the update. */
    double gradient_norm;
    int rolled_back; /* 1: the step failed and training is where this epoch began; see kd_train_desc.rollback */
} kd_step_info;

typedef struct kd_epoch_info {
    int epoch, epochs;
    int64_t images;
    double loss; /* mean over the epoch's samples */
    /* On the training batches as they were seen; -1 without labels. Of several heads, that of the first loss. */
    double accuracy;
    int has_validation;
    /* Valid if has_validation. Where losses see adversarial inputs, robust_accuracy is that under the same attack,
       on the labels' cross-entropy. */
    kd_metrics validation;
    int is_best;                /* this epoch's validation is the best so far */
    double lr;                  /* of the last step */
    const kd_model *model;      /* as it is now, with ema as averaged; may be saved or evaluated */
    const double *loss_weights; /* what each of the losses is multiplied by now */
} kd_epoch_info;

/* Logits (n, outputs of the student) of n images x (n, c, h, w), normalised and augmented as the student sees them
   (or those of teacher_data); samples are their numbers in the data. Returns 0, or anything else to end training
   with KD_ERR_DATA. For teachers that run in another engine. Called from the calling thread. */
typedef int (*kd_teacher_fn)(void *user, const float *x, const int32_t *samples, int n, float *logits);

/* How several teachers become one. */
typedef enum kd_teacher_average {
    /* those at the temperature of the loss, 1 of ttm and wttm: kd_average_teachers; needs 2 outputs or more */
    KD_AVERAGE_PROBABILITIES,
    KD_AVERAGE_LOGITS /* kd_average_logits */
} kd_teacher_average;

typedef struct kd_train_desc {
    uint32_t cookie; /* set by kd_train_defaults */

    int epochs; /* 10 */
    /* 128; samples a step, 1 to 65536; the last batch of an epoch may be smaller. Where batchnorm sees one value a
       channel of each sample (after dense, on images of 1x1), a batch of one sample would teach it that nothing
       varies: a sample that would be left alone joins the batch before, which then has batch + 1, and batch 1 is
       refused. */
    int batch;
    int shuffle;   /* 1; 0: samples in their order */
    uint64_t seed; /* 1; order, dropout, augmentation (which follows the cache's seed where there is a cache) */

    kd_optimizer optimizer;      /* KD_ADAM */
    float lr;                    /* 0.001 */
    float momentum;              /* 0.9; SGD */
    int nesterov;                /* 0; SGD */
    float beta1, beta2, epsilon; /* 0.9, 0.999, 1e-8; Adam, AdamW */
    float weight_decay;          /* 0; on every trained tensor, as PyTorch does */
    int decay_norms_and_biases;  /* 1; 0: weight_decay leaves out biases, batchnorm and a softtree's beta */
    float max_norm;  /* 0: off; upper bound on the L2 norm of each unit's incoming weights (Srivastava 2014) */
    float clip_norm; /* 0: off; upper bound on the L2 norm of the whole gradient */
    int accumulate;  /* 1; batches whose mean gradient makes one update */
    /* 0: off; up to 0.999999: the model becomes a moving average of itself (Polyak and Juditsky 1992). After update
       t, counted from 1, a = a + (1 - d) (w - a), d = min(ema, (1 + t) / (10 + t)), as TensorFlow's
       ExponentialMovingAverage has it, for weights and running statistics w; a are the first ones at first. The
       gradient is that of w. Validation, kd_epoch_info.model and the model in the end have a; before the end the
       model has w, and so have models that learn with it. Learned parts of losses are not averaged. */
    float ema;
    /* 0: off; SGD: soft terms and losses on features have a momentum of their own, momentum + dot_delta, hard terms
       (and weight_decay) momentum - dot_delta, and both velocities move the weights. 0 to momentum and to
       1 - momentum; needs a teacher, not with clip_norm. 0.075 with momentum 0.9 on CIFAR-100: Zhao et al. 2023 */
    float dot_delta;
    /* 0: off. Up to 0.99: where a step fails because numbers left all bounds (KD_ERR_NOT_FINITE), everything goes
       back to where the epoch began, the learning rate is multiplied by this, and the epoch is trained again; up to
       10 times, with a line to kd_ctx_desc.log each. */
    float rollback;

    kd_schedule schedule; /* KD_CONSTANT */
    float warmup;         /* 0; epochs */
    float schedule_step;  /* 10; epochs, KD_STEP */
    float schedule_gamma; /* 0.1; KD_STEP, KD_EXPONENTIAL */
    float lr_end;         /* 0; KD_LINEAR, KD_COSINE */

    kd_augment augment; /* all off */

    /* At most one source of soft targets: teacher, teachers, teacher_fn, cache, or kd_data.teacher_logits. */
    const kd_model *teacher;            /* NULL; runs in evaluation mode, is never written to */
    const kd_model *const *teachers;    /* NULL; several, averaged */
    const float *teacher_weights;       /* NULL: equal */
    int teacher_count;                  /* 0; 0 to 64 */
    kd_teacher_average teacher_average; /* KD_AVERAGE_PROBABILITIES */
    kd_teacher_fn teacher_fn;           /* NULL */
    void *teacher_user;
    const kd_cache *cache; /* NULL; must have been made from these data and this augmentation */
    /* NULL. The same samples as a teacher (teachers, teacher_fn, a cache) sees them: in colour, larger, from
       another sensor. Of it, only the images and their normalisation are used: as many as the student's, in the
       same order, and without augment, which would have to be one view of two things. validation_data have no such
       partner: agreement and kl are then not measured. */
    const kd_data *teacher_data;
    kd_loss_desc loss; /* KD_LOSS_AUTO, temperature 4, alpha 0.9 */
    /* Several losses instead: their sum with weights, 0 to 1e6, NULL: 1 each. Each sees the labels and the teacher
       if it has a use for them; where there is a teacher, one must use it. `loss` stays as it is by default. */
    const kd_loss_desc *losses; /* NULL */
    const float *loss_weights;  /* NULL */
    int loss_count;             /* 0 to 16 */
    /* 0: off. 1: the weights are learned (Kendall, Gal and Cipolla 2018): the loss is
       sum_i (exp(-s_i) w_i L_i + s_i / 2), w those of loss_weights; the s_i, 0 at first, are updated by the
       optimizer of the weights, without weight decay and clip_norm. */
    int uncertainty;
    /* Losses on features, added to the others, which need not use the teacher then. They need desc.teacher. */
    const kd_feature_loss *features; /* NULL */
    int feature_count;               /* 0 to 16 */
    /* KD_ATTACK_PGD; makes the inputs of losses with KD_INPUTS_ADVERSARIAL, anew in every step and for the student
       as it is then. Clean and adversarial images pass through the student as two batches, each with its own
       statistics in batchnorm. */
    kd_attack_desc attack;

    kd_prompt prompt;         /* KD_PROMPT_NONE; others need a layer `prompt N` */
    float prompt_temperature; /* 1; 1e-3 to 1e6 */
    /* The share of samples whose prompt is dropped, drawn by the seed for each sample and epoch: prompt_drop at
       first, growing with the images seen, and 1 from prompt_until on, a share of the whole training. Validation is
       without prompts. */
    float prompt_drop;  /* 0; 0 to 1 */
    float prompt_until; /* 0.8; 0 to 1 */
    /* KD_ATTACK_PGD with epsilon 0: off. Otherwise prompts are adversarial: before any is dropped, each of their
       numbers moves, by epsilon at most, to where the attack's loss is larger for the student as it is then, with
       the images as they are. epsilon, step, low and high are in the units of the prompt; soft targets that have
       moved need not sum to 1. */
    kd_attack_desc prompt_attack;

    /* Validation is that of the first loss's columns and labels. */
    float validation;               /* 0; share of the samples held out, 0 to 0.9, chosen by the seed */
    const kd_data *validation_data; /* NULL; a set of its own instead */
    kd_keep keep;                   /* KD_KEEP_LAST */
    int patience;                   /* 0: off; stop after this many epochs without a better validation */

    /* Callbacks may predict, evaluate and save; changing the model or closing the trainer is for after the step. */
    int (*on_step)(void *user, const kd_step_info *info);   /* NULL; not 0: stop now, kd_train returns KD_STOPPED */
    int (*on_epoch)(void *user, const kd_epoch_info *info); /* NULL; likewise */
    void *user;
} kd_train_desc;

KDDEF kd_train_desc kd_train_defaults(void);
KDDEF const char *kd_optimizer_name(kd_optimizer optimizer);
KDDEF const char *kd_schedule_name(kd_schedule schedule);
/* The learning rate that kd_train will use at a step, counted from 0 over all epochs. */
KDDEF double kd_learning_rate(const kd_train_desc *desc, int64_t step, int64_t steps_per_epoch);

/* Trains a model in place. With a source of soft targets this is distillation.
   Everything is checked before the first step: on KD_ERR_ARGUMENT, _SHAPE, _DATA or a NaN in the data the model is
   as it was. What kd_data.batch and teacher_fn bring is checked batch by batch: the model is then that of the step
   before. A NaN or infinity that appears in training, or a tensor whose norm passes 1e15 on the way there, is
   found in the same step and named (KD_ERR_NOT_FINITE); the weights are finite, and those before that step unless
   it was they that grew. KD_STOPPED: a callback ended training; the model is usable.
   kd_ctx_desc.log gets a line for every loss but ce, and bce without a teacher, those on features too: what its
   terms are multiplied by. */
KDDEF kd_result kd_train(kd_model *m, const kd_data *data, const kd_train_desc *desc);

/* The same a step at a time, for loops of one's own: several models that learn from each other, training that stops
   and goes on another day.

       kd_trainer_open(m, data, &desc, &t);
       while (!kd_trainer_done(t) && kd_trainer_step(t, &info) == KD_OK) {}
       kd_trainer_close(t);

   The model, the data and all that desc points to must stay where they are until kd_trainer_close; a teacher may be
   trained by another trainer meanwhile. One thread at a time may use a trainer or its model. */
typedef struct kd_trainer kd_trainer;
/* Checks everything, as kd_train does, and changes nothing. */
KDDEF kd_result kd_trainer_open(kd_model *m, const kd_data *data, const kd_train_desc *desc, kd_trainer **out);
/* One batch; after the last of an epoch, its validation and on_epoch, too. info may be NULL. KD_STOPPED: a callback
   ended training, or it had ended before. Not from a callback of the same training (KD_ERR_ARGUMENT). */
KDDEF kd_result kd_trainer_step(kd_trainer *t, kd_step_info *info);
/* Where training is: epoch and step of the next batch, its learning rate, the images seen so far. */
KDDEF kd_step_info kd_trainer_position(const kd_trainer *t);
/* 1 after the last epoch, when patience has run out, a callback asked to stop or a step failed. */
KDDEF int kd_trainer_done(const kd_trainer *t);
/* Saves all that training needs to go on where it is: weights, their averages, the optimizer's state, learned parts
   of losses, the best weights so far, and the position, which with the seed is all there is of randomness;
   safetensors, replaced only when complete. Between steps; not after one that failed. */
KDDEF kd_result kd_trainer_save(const kd_trainer *t, const char *path);
/* Goes on where kd_trainer_save was called, to the same bits as if nothing had come between. The trainer must have
   been opened with the same model line, data, teacher and options (KD_ERR_DATA says which of them differs), but for
   callbacks and epochs; schedules follow the new epochs. Of models that teach each other, open all trainers before
   the first is loaded. On failure trainer and model are as they were. */
KDDEF kd_result kd_trainer_load(kd_trainer *t, const char *path);
/* Ends training wherever it is. Unless a step failed, the model gets, with KD_KEEP_BEST, the best weights so far,
   otherwise, with ema, the averaged ones.
   NULL is allowed. */
KDDEF void kd_trainer_close(kd_trainer *t);

/* Models that learn together (Zhang et al. 2018): in turn, a batch each, every one from the labels and from the
   average of what the others say of the same images at that moment, in evaluation mode.
   `desc` holds for each of the `count` models, 2 to 64 of one context, which may differ in all but their outputs.
   It has no source of soft targets: the others are the teachers; of two models each is the other's desc.teacher.
   Where its loss is left open, that is cross-entropy and KL at T = 1, as published (bce likewise, where there is
   one output), or, with kd_data.targets, the squared error to the targets and that to the others' outputs. With one
   output or targets the others' average is KD_AVERAGE_LOGITS. Of a loss left open label_smoothing, inputs, first,
   columns and task apply; others of its options are refused (KD_ERR_ARGUMENT).
   Seed, order, batches and augmentation are the same for all, dropout is each model's own. Callbacks come for one
   model
   after the other; one that asks to stop ends training for all. With patience, a model that has stopped goes on
   teaching. Errors are those of kd_train. */
KDDEF kd_result kd_train_mutual(kd_model *const *models, int count, const kd_data *data, const kd_train_desc *desc);

typedef struct kd_statistic {
    double mean, sd; /* sd: of a sample, with n - 1 */
} kd_statistic;

typedef struct kd_cross_validation {
    kd_statistic accuracy, robust_accuracy, nll, ece; /* over the folds that have a label; see kd_metrics */
    kd_statistic mse, agreement, kl;                  /* over all folds */
} kd_cross_validation;

/* k-fold cross-validation of any training: the samples are dealt, by desc.seed, into 2 to 10000 folds as equal as
   can be; for each of them a clone of m is trained on all the others (mixup, too, sees no more) and evaluated on
   it, as validation of kd_train would. m stays as it is. each: (folds), or NULL.
   Where kd_ctx_desc.threads is more than 1, that many folds are trained at the same time, each on one thread and in
   a context of its own, without log; the results are those of one thread. With callbacks of one's own (on_step,
   on_epoch, teacher_fn, kd_data.batch) it is one fold after the other, and KD_STOPPED ends them all.
   desc has no validation, validation_data, KD_KEEP_BEST or patience; its teachers are models of m's context. */
KDDEF kd_result kd_cross_validate(const kd_model *m, const kd_data *data, const kd_train_desc *desc, int folds,
                                  kd_metrics *each, kd_cross_validation *out);
/* The same, with progress: images to train on, of all folds and epochs, after every few steps. Folds are trained at
   the same time all the same. After KD_STOPPED each and *out are as they were. */
KDDEF kd_result kd_cross_validate_with(const kd_model *m, const kd_data *data, const kd_train_desc *desc, int folds,
                                       kd_progress_fn on_progress, void *user, kd_metrics *each,
                                       kd_cross_validation *out);

/* Runs a teacher once over all data and keeps its logits, for `views` augmented versions of each sample
   (1, and augment NULL or all off: the images as they are). Training with the cache shows the student view
   (epoch modulo views), made again from the cache's own seed whatever desc.seed is, so that soft targets and images
   always belong together; a cache of other images or another augmentation is refused (KD_ERR_DATA). */
KDDEF kd_result kd_cache_create(const kd_model *teacher, const kd_data *data, const kd_augment *augment,
                                uint64_t seed, int views, kd_cache **out);
/* The same, with progress: images, of all views, after every batch. After KD_STOPPED *out is NULL. */
KDDEF kd_result kd_cache_create_with(const kd_model *teacher, const kd_data *data, const kd_augment *augment,
                                     uint64_t seed, int views, kd_progress_fn on_progress, void *user,
                                     kd_cache **out);
KDDEF void kd_cache_destroy(kd_cache *c); /* NULL is allowed */
KDDEF kd_result kd_cache_save(const kd_cache *c,
                              const char *path); /* safetensors: "logits" (views, count, outputs) */
KDDEF kd_result kd_cache_load(kd_ctx *kd, const char *path, kd_cache **out);
KDDEF const float *kd_cache_logits(const kd_cache *c,
                                   int view); /* (count, outputs), NULL if there is no such view */

/* ---- diagnosis ------------------------------------------------------------------------------------------- */

/* How far a student is from teacher and labels, and whether the two pull it the same way. Gradients are those, by
   the student's trained numbers, of means over all data, in training mode as a step would have them (batch
   statistics, dropout), each term alone: cross-entropy with the loss's label_smoothing, of bce its hard term, of
   mse on data with targets instead of labels the squared error to those; and the loss's soft term as it stands in
   the table of losses, with T^2, without alpha, soft_weight, reduction and convention. Both terms see the images
   that loss.inputs says. */
typedef struct kd_diagnosis {
    kd_metrics metrics; /* as kd_evaluate has them, with agreement, kl and the accuracy of each class */
    /* Mean of -sum_c p_c log p_c, p = softmax(t / loss.temperature), of a single output with bce of the logits t
       and 0; nats, 0 to log C. */
    double target_entropy;
    double gradient_cosine;          /* of the two gradients, -1 to 1; 0 where one of them is 0 */
    double hard_norm, soft_norm;     /* their L2 norms */
    double hard_weight, soft_weight; /* what the loss multiplies the terms by: kd_loss_weights */
} kd_diagnosis;

typedef struct kd_diagnose_desc {
    uint32_t cookie;         /* set by kd_diagnose_defaults */
    const kd_model *teacher; /* NULL: data.teacher_logits, which must be there then */
    kd_loss_desc loss;       /* KD_LOSS_AUTO; one with a teacher, on all outputs */
    int batch;               /* 256; 1 to 65536; one sample left alone as in kd_train_desc */
    kd_attack_desc attack;   /* KD_ATTACK_PGD; for a loss with KD_INPUTS_ADVERSARIAL */
} kd_diagnose_desc;

KDDEF kd_diagnose_desc kd_diagnose_defaults(void);
/* desc NULL: the defaults. Every sample needs a label, or targets. A prompt layer gets zeros. The student is not
   changed. */
KDDEF kd_result kd_diagnose(const kd_model *student, const kd_data *data, const kd_diagnose_desc *desc,
                            kd_diagnosis *out);

/* ---- labels from private data ---------------------------------------------------------------------------- */

/* PATE (Papernot et al. 2017, 2018): each of many teachers is trained on its own part of private data; what they
   vote for on public samples, with noise, labels these for a student. The student then gives away about any one
   private record no more than (epsilon, delta)-differential privacy allows:

       label = argmax_c (n_c + noise_c), the first of several; n_c teachers have class c as their largest logit.

   KD_PATE_LAPLACE   noise of density gamma / 2 exp(-gamma |x|) (LNMax)       A = 2 gamma^2 answered
   KD_PATE_GAUSSIAN  noise N(0, sigma^2) (GNMax)                              A = answered / sigma^2
                     With a threshold (Confident-GNMax), samples on which max_c n_c + N(0, threshold_sigma^2) is
                     below it get KD_UNLABELLED and are not answered:         A + asked / (2 threshold_sigma^2)

   epsilon = A + 2 sqrt(A log(1 / delta)). For Laplace this is the moments accountant's bound, the least over l > 0
   of (A l (l + 1) + log(1 / delta)) / l, or 2 gamma answered where that is less; for Gaussian the composition of
   Renyi divergences, the least over orders a > 1 of A a + log(1 / delta) / (a - 1). Both hold whatever the votes
   are, so epsilon may be published; the votes may not.

   Noise is a function of (seed, sample, class), made from a hash that is no cryptographic generator, in floating
   point: the seed must be secret, from the system's source of randomness, and used for one set of votes alone. */
typedef enum kd_pate_noise { KD_PATE_LAPLACE, KD_PATE_GAUSSIAN } kd_pate_noise;

typedef struct kd_pate_desc {
    uint32_t cookie;        /* set by kd_pate_defaults */
    kd_pate_noise noise;    /* KD_PATE_GAUSSIAN */
    double gamma;           /* 0.05; 1e-6 to 1e6; Laplace */
    double sigma;           /* 40; 1e-6 to 1e6; Gaussian */
    double threshold;       /* 0: off; up to 1e9 teachers; Gaussian */
    double threshold_sigma; /* 150; 1e-6 to 1e6 */
    double delta;           /* 1e-5; 1e-300 to 0.5; less than 1 / private records */
    uint64_t seed;          /* 0 */
} kd_pate_desc;

typedef struct kd_pate_budget {
    double epsilon, delta;
    int asked, answered; /* samples; those that got a label */
} kd_pate_budget;

KDDEF kd_pate_desc kd_pate_defaults(void);
/* Counts what the teachers say: votes (count, classes), overwritten; classes is the number of outputs, or 2 of one
   output, whose sign decides. Everything else in data but images and normalisation is left alone. */
KDDEF kd_result kd_pate_votes(const kd_model *const *teachers, int teacher_count, const kd_data *data,
                              int32_t *votes);
/* Labels (samples) from votes (samples, classes), and, where out is not NULL, what they have cost. */
KDDEF kd_result kd_pate_label(kd_ctx *kd, const kd_pate_desc *desc, const int32_t *votes, int samples, int classes,
                              int32_t *labels, kd_pate_budget *out);
/* What labels would cost: out->epsilon for out->asked samples, of which out->answered get one. */
KDDEF kd_result kd_pate_cost(kd_ctx *kd, const kd_pate_desc *desc, int asked, int answered, kd_pate_budget *out);

/* ---- arrays in files ------------------------------------------------------------------------------------- */

/* An array in memory, numbers converted to float. Free it with kd_array_free. */
typedef struct kd_array {
    float *values;
    int rank;
    int64_t shape[8];
    int64_t count;
} kd_array;
/* NumPy's .npy, versions 1 to 3, C order, types f2 f4 f8 i1 i2 i4 i8 u1 u2 b1, either byte order. */
KDDEF kd_result kd_npy_read(kd_ctx *kd, const char *path, kd_array *out);
/* Version 1.0, '<f4', C order. */
KDDEF kd_result kd_npy_write(kd_ctx *kd, const char *path, const float *values, int rank, const int64_t *shape);
KDDEF void kd_array_free(kd_ctx *kd, kd_array *array);

#ifdef __cplusplus
}
#endif
#endif /* KD_H_INCLUDED */

/* What a later include in the same file says otherwise. */
#if defined(KD_STATIC) && KD__LINKAGE != 1
#error "kd.h: KD_STATIC must be defined before the first include of kd.h in a file; an earlier one was without it"
#elif defined(KD_BUILD) && KD__LINKAGE != 4
#error "kd.h: KD_BUILD must be defined before the first include of kd.h in a file; an earlier one was without it"
#elif defined(KD_SHARED) && defined(KD_IMPLEMENTATION) && KD__LINKAGE != 4
#error "kd.h: KD_SHARED needs KD_BUILD, in the file with KD_IMPLEMENTATION before its first include of kd.h"
#endif

#if defined(KD_IMPLEMENTATION) && !defined(KD__IMPLEMENTED)
#define KD__IMPLEMENTED

/* ============================================================================================================
   >>config    compilers, linkage, target regions
   uses: nothing
   ============================================================================================================ */
#ifndef KD_ALLOW_FAST_MATH
#if defined(__FAST_MATH__)
#error "kd.h: -ffast-math breaks NaN detection and repeatability; define KD_ALLOW_FAST_MATH to accept that"
#elif defined(__ASSOCIATIVE_MATH__)
#error "kd.h: -fassociative-math changes results; define KD_ALLOW_FAST_MATH to accept that"
#elif defined(__RECIPROCAL_MATH__)
#error "kd.h: -freciprocal-math changes results; define KD_ALLOW_FAST_MATH to accept that"
#elif defined(__NO_SIGNED_ZEROS__)
#error "kd.h: -fno-signed-zeros changes results; define KD_ALLOW_FAST_MATH to accept that"
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0
#error "kd.h: -ffinite-math-only breaks NaN detection; define KD_ALLOW_FAST_MATH to accept that"
#elif defined(__FLT_EVAL_METHOD__) && (defined(__i386__) || defined(__x86_64__))
#if __FLT_EVAL_METHOD__ < 0 || __FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2
#error "kd.h: x87 computes float as another type; -msse2 -mfpmath=sse, or define KD_ALLOW_FAST_MATH to accept that"
#endif
#elif defined(_M_IX86_FP) && _M_IX86_FP < 2
#error "kd.h: x87 computes float as another type; /arch:SSE2, or define KD_ALLOW_FAST_MATH to accept that"
#endif
#endif

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Which threads there are: 0 none, 1 POSIX, 2 Windows. */
#if !defined(KD_NO_THREADS) && defined(_WIN32) && (defined(__GNUC__) || defined(_MSC_VER))
#define KD__THREADS 2
#include <process.h>
#elif !defined(KD_NO_THREADS) && defined(__GNUC__) && (defined(__unix__) || defined(__APPLE__))
#include <unistd.h>
#if defined(_POSIX_THREADS) && _POSIX_THREADS > 0
#define KD__THREADS 1
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#endif
#endif
#ifndef KD__THREADS
#define KD__THREADS 0
#endif

#ifndef KD__HEADER_FILENAME
#define KD__HEADER_FILENAME "kd.h"
#endif

/* Under AddressSanitizer, buffers that would share memory have their own, with a fence of so many floats behind. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KD__FENCE 64
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(KD__FENCE)
#define KD__FENCE 64
#endif
#ifdef KD__FENCE
#include <sanitizer/asan_interface.h>
#define KD__FENCE_UP(start, bytes) __asan_poison_memory_region(start, bytes)
#define KD__FENCE_DOWN(start, bytes) __asan_unpoison_memory_region(start, bytes)
#else
#define KD__FENCE 0
#define KD__FENCE_UP(start, bytes) ((void)(start), (void)(bytes))
#define KD__FENCE_DOWN(start, bytes) ((void)(start), (void)(bytes))
#endif

#if defined(__GNUC__)
#define KD__OPAQUE(x) __asm__("" : "+r"(x)) /* of which a compiler knows nothing from here on */
#define KD__PRIVATE static __attribute__((unused))
#define KD__INLINE static inline __attribute__((always_inline, unused))
#define KD__ALIGN64 __attribute__((aligned(64)))
#else
#define KD__OPAQUE(x) ((void)(x))
#define KD__PRIVATE static
#if defined(_MSC_VER)
#define KD__INLINE static __forceinline
#define KD__ALIGN64 __declspec(align(64))
#else
#define KD__INLINE static inline
#define KD__ALIGN64
#endif
#endif

#if defined(_MSC_VER)
#include <intrin.h> /* atomics, pauses, what the processor can do */
#endif
#if !defined(KD_NO_SIMD) && (defined(__x86_64__) || defined(_M_X64))
#define KD__X86 1
#include <immintrin.h>
#if defined(_MSC_VER) && defined(__clang__) /* there <immintrin.h> leaves out what no /arch: asks for */
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <fmaintrin.h>
#include <avx512fintrin.h>
#include <avx512vlintrin.h>
#include <avx512bwintrin.h>
#include <avx512dqintrin.h>
#include <avx512vldqintrin.h>
#include <avx512vlbwintrin.h>
#elif !defined(_MSC_VER)
#include <cpuid.h>
#endif
#else
#define KD__X86 0
#endif
#if !defined(KD_NO_SIMD) && (defined(__aarch64__) || defined(_M_ARM64))
#define KD__ARM64 1
#include <arm_neon.h>
#else
#define KD__ARM64 0
#endif

/* Function bodies between BEGIN and END may use instructions that the rest of the file may not. The region is the
   only place that knows: inside it, never test __AVX2__ and its like, which compilers define differently. */
#if defined(__clang__)
#define KD__PRAGMA(text) _Pragma(#text)
#define KD__TARGET_BEGIN(features)                                                                                 \
    KD__PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define KD__TARGET_END KD__PRAGMA(clang attribute pop)
#define KD__UNROLL KD__PRAGMA(clang loop unroll(full))
#elif defined(__GNUC__)
#define KD__PRAGMA(text) _Pragma(#text)
#define KD__TARGET_BEGIN(features)                                                                                 \
    KD__PRAGMA(GCC push_options)                                                                                   \
    KD__PRAGMA(GCC target(features))
#define KD__TARGET_END KD__PRAGMA(GCC pop_options)
#define KD__UNROLL KD__PRAGMA(GCC unroll 32)
#else
#define KD__TARGET_BEGIN(features)
#define KD__TARGET_END
#define KD__UNROLL
#endif

/* Asks for a cache line that will be needed soon. */
#if defined(__GNUC__)
#define kd__fetch(address) __builtin_prefetch(address)
#else
#define kd__fetch(address) (void)(address)
#endif

/* a * b + c is rounded twice unless a kernel asks for a fused multiply-add: so compilers agree on every bit. */
#if defined(__clang__)
#if defined(__x86_64__) && __clang_major__ >= 12 && !defined(KD_ALLOW_FAST_MATH)
#define KD__FLOAT_CONTROL /* flags that clang does not tell of end here; intrinsics bring them in again */
#pragma float_control(push)
#pragma float_control(precise, on)
#endif
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

/* What a build for prediction alone leaves out, and what stands there instead. */
#ifdef KD_NO_TRAIN
#define KD__IN_TRAINING(there, instead) instead
#else
#define KD__IN_TRAINING(there, instead) there
#endif

#define KD__MIN(a, b) ((a) < (b) ? (a) : (b))
#define KD__MAX(a, b) ((a) > (b) ? (a) : (b))
#define KD__COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ============================================================================================================
   >>platform    atomics, byte order, files
   uses: config
   ============================================================================================================ */

/* A slot that threads take from and give back to: puts `value` in, returns what was there. Without atomics nothing
   is ever stored and the value comes straight back: correct, only slower. */
#if defined(KD_NO_THREADS)
KD__PRIVATE void *kd__atomic_swap(void **slot, void *value)
{
    void *before = *slot;
    *slot = value;
    return before;
}
#elif defined(__GNUC__)
KD__PRIVATE void *kd__atomic_swap(void **slot, void *value)
{
    return __atomic_exchange_n(slot, value, __ATOMIC_ACQ_REL);
}
#elif defined(_MSC_VER)
KD__PRIVATE void *kd__atomic_swap(void **slot, void *value)
{
    return _InterlockedExchangePointer((void *volatile *)slot, value);
}
#else
KD__PRIVATE void *kd__atomic_swap(void **slot, void *value)
{
    (void)slot;
    return value;
}
#endif

KD__PRIVATE void kd__lock(void **lock)
{
#if !defined(KD_NO_THREADS) && (defined(__GNUC__) || defined(_MSC_VER))
    while (kd__atomic_swap(lock, (void *)lock) != NULL) {}
#else
    (void)lock;
#endif
}

KD__PRIVATE void kd__unlock(void **lock) { (void)kd__atomic_swap(lock, NULL); }

KD__PRIVATE uint64_t kd__load_le(const unsigned char *bytes, int count)
{
    uint64_t value = 0;
    int i;
    for (i = count - 1; i >= 0; --i) value = (value << 8) | bytes[i];
    return value;
}

KD__PRIVATE void kd__store_le(unsigned char *bytes, uint64_t value, int count)
{
    int i;
    for (i = 0; i < count; ++i, value >>= 8) bytes[i] = (unsigned char)(value & 255u);
}

/* Whether this machine stores the highest byte first. */
KD__PRIVATE int kd__big_endian(void)
{
    const uint32_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 0;
}

KD__PRIVATE uint32_t kd__float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

KD__PRIVATE float kd__bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

KD__PRIVATE float kd__half_to_float(uint32_t h)
{
    const uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    float value;
    if (exponent == 31) return kd__bits_float(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0) return kd__bits_float(sign | (exponent + 112) << 23 | fraction << 13);
    value = (float)fraction * (1.0f / 16777216.0f); /* subnormal: fraction * 2^-24 */
    return sign ? -value : value;
}

/* The nearest half, of two the even one; infinity from 65520 on. */
KD__PRIVATE uint32_t kd__float_to_half(float x)
{
    const uint32_t bits = kd__float_bits(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size >= 0x47800000u) return sign | 0x7c00u;
    if (size >= 0x38800000u) return sign | (size - (112u << 23) + 0xfffu + (size >> 13 & 1u)) >> 13;
    {
        const float scaled = kd__bits_float(size) * 16777216.0f; /* subnormal: a multiple of 2^-24 */
        const uint32_t whole = (uint32_t)scaled;
        const float rest = scaled - (float)whole;
        return sign | (whole + (rest > 0.5f || (rest == 0.5f && (whole & 1u))));
    }
}

KD__PRIVATE float kd__round_to(kd_dtype dtype, float x)
{
    const uint32_t bits = kd__float_bits(x);
    if (dtype == KD_DTYPE_F16) return kd__half_to_float(kd__float_to_half(x));
    if (dtype == KD_DTYPE_BF16) return kd__bits_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
    return x;
}

/* By bit pattern, so that no compiler option can assume it away. */
KD__PRIVATE int kd__is_finite(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return ((bits >> 52) & 2047u) != 2047u;
}

#ifndef KD_NO_STDIO
#if defined(_WIN32)
#include <io.h>
#include <wchar.h>
#ifdef __cplusplus
extern "C" {
#endif
__declspec(dllimport) int __stdcall MoveFileExW(const wchar_t *from, const wchar_t *to, unsigned long flags);
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned page, unsigned long flags, const char *from,
                                                        int bytes, wchar_t *to, int room);
__declspec(dllimport) unsigned long __stdcall GetFullPathNameW(const wchar_t *path, unsigned long room, wchar_t *to,
                                                               wchar_t **name);
#ifdef __cplusplus
}
#endif

/* A path as Windows takes it, which knows UTF-8 in none of its calls, and more than 260 letters only of a whole
   path behind a mark. To be freed; NULL without memory or for what is no UTF-8. */
KD__PRIVATE wchar_t *kd__stdio_wide(const char *path)
{
    enum { UTF8 = 65001, STRICT = 8, MARK = 4, SHORT = 240, LONGEST = 32768 };
    const int letters = MultiByteToWideChar(UTF8, STRICT, path, -1, NULL, 0);
    wchar_t *wide = letters > 0 ? (wchar_t *)malloc((size_t)letters * sizeof *wide) : NULL, *whole;
    if (!wide) return NULL;
    (void)MultiByteToWideChar(UTF8, STRICT, path, -1, wide, letters);
    if (letters < SHORT) return wide;
    whole = (wchar_t *)malloc((LONGEST + MARK) * sizeof *whole);
    if (whole && GetFullPathNameW(wide, LONGEST, whole + MARK, NULL) < LONGEST && whole[MARK] != L'\\') {
        memcpy(whole, L"\\\\?\\", MARK * sizeof *whole);
        free(wide);
        return whole;
    }
    free(whole);
    return wide;
}
#elif defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#if defined(__STRICT_ANSI__) && !defined(__cplusplus) && !defined(__APPLE__)
int fileno(FILE *file); /* POSIX, which <stdio.h> hides under -std=c99 */
int fsync(int descriptor);
#endif
#endif

KD__PRIVATE void *kd__stdio_open(void *user, const char *path, char mode)
{
#if defined(_WIN32)
    wchar_t *wide = kd__stdio_wide(path);
    FILE *file = wide ? _wfopen(wide, mode == 'w' ? L"wb" : L"rb") : NULL;
    (void)user;
    free(wide);
    return file;
#else
    (void)user;
    return fopen(path, mode == 'w' ? "wb" : "rb");
#endif
}

KD__PRIVATE size_t kd__stdio_read(void *user, void *file, void *bytes, size_t size)
{
    (void)user;
    return fread(bytes, 1, size, (FILE *)file);
}

KD__PRIVATE size_t kd__stdio_write(void *user, void *file, const void *bytes, size_t size)
{
    (void)user;
    return fwrite(bytes, 1, size, (FILE *)file);
}

KD__PRIVATE int64_t kd__stdio_size(void *user, void *file)
{
#if defined(_WIN32) /* whose long has 32 bits */
    int64_t size = -1;
    (void)user;
    if (_fseeki64((FILE *)file, 0, SEEK_END) == 0) size = _ftelli64((FILE *)file);
    return _fseeki64((FILE *)file, 0, SEEK_SET) == 0 ? size : -1;
#else
    long size = -1;
    (void)user;
    if (fseek((FILE *)file, 0, SEEK_END) == 0) size = ftell((FILE *)file);
    return fseek((FILE *)file, 0, SEEK_SET) == 0 && size != LONG_MAX ? (int64_t)size : -1;
#endif
}

KD__PRIVATE int kd__stdio_sync(void *user, void *file)
{
    (void)user;
    if (fflush((FILE *)file) != 0) return -1;
#if defined(_WIN32)
    return _commit(_fileno((FILE *)file));
#elif defined(__unix__) || defined(__APPLE__)
    return fsync(fileno((FILE *)file));
#else
    return 0;
#endif
}

KD__PRIVATE int kd__stdio_close(void *user, void *file)
{
    (void)user;
    return fclose((FILE *)file);
}

/* The rename is durable once the folder is. A folder that cannot be opened or synced is no failure: the file is
   complete under its new name either way. */
KD__PRIVATE int kd__stdio_replace(void *user, const char *from, const char *to)
{
#if defined(_WIN32)
    wchar_t *wide_from = kd__stdio_wide(from), *wide_to = kd__stdio_wide(to);
    const int moved =
        wide_from && wide_to && MoveFileExW(wide_from, wide_to, 1ul | 8ul); /* replace, write through */
    (void)user;
    free(wide_from);
    free(wide_to);
    return moved ? 0 : -1;
#else
    (void)user;
    if (rename(from, to) != 0) return -1;
#if defined(__unix__) || defined(__APPLE__)
    {
        char folder[4096];
        const char *slash = strrchr(to, '/');
        size_t length = slash ? (size_t)(slash - to) + 1 : 0;
        FILE *file;
        if (length < sizeof folder) {
            memcpy(folder, to, length);
            folder[length] = 0;
            file = fopen(length ? folder : ".", "rb");
            if (file) {
                (void)!fsync(fileno(file));
                (void)fclose(file);
            }
        }
    }
#endif
    return 0;
#endif
}

KD__PRIVATE void kd__stdio_remove(void *user, const char *path)
{
#if defined(_WIN32)
    wchar_t *wide = kd__stdio_wide(path);
    if (wide) (void)_wremove(wide);
    free(wide);
#else
    (void)remove(path);
#endif
    (void)user;
}
#endif /* KD_NO_STDIO */

/* ============================================================================================================
   >>text    formatting, numbers as text
   uses: platform
   What printf writes, without printf: C libraries for small devices leave out %lld and %g, and locales change the
   decimal point.
   ============================================================================================================ */

/* Writes at most size - 1 characters and a final 0; length counts those that did not fit, too. */
typedef struct kd__writer {
    char *text;
    size_t size, length;
} kd__writer;

/* One directive of a format: %[flags][width][.precision][size]kind */
typedef struct kd__directive {
    int left, zero, plus, blank, alternate; /* the flags - 0 + blank # */
    int width, precision;                   /* precision -1: none given */
    char size;                              /* 0, h, l, L for ll and j, z, t */
    char kind;
} kd__directive;

KD__PRIVATE void kd__write_run(kd__writer *w, const char *text, size_t count)
{
    for (; count; --count, ++w->length) {
        if (w->length + 1 < w->size) w->text[w->length] = *text++;
    }
}

KD__PRIVATE void kd__write_repeated(kd__writer *w, char c, int count)
{
    for (; count > 0; --count) kd__write_run(w, &c, 1);
}

/* Before `length` characters, of which `prefix` is the sign or 0x, and behind them. */
KD__PRIVATE void kd__write_before(kd__writer *w, const kd__directive *d, const char *prefix, int length)
{
    if (!d->left && !d->zero) kd__write_repeated(w, ' ', d->width - length);
    kd__write_run(w, prefix, strlen(prefix));
    if (!d->left && d->zero) kd__write_repeated(w, '0', d->width - length);
}

KD__PRIVATE void kd__write_after(kd__writer *w, const kd__directive *d, int length)
{
    if (d->left) kd__write_repeated(w, ' ', d->width - length);
}

KD__PRIVATE const char *kd__sign(const kd__directive *d, int negative)
{
    return negative ? "-" : d->plus ? "+" : d->blank ? " " : "";
}

KD__PRIVATE void kd__write_whole(kd__writer *w, kd__directive d, uint64_t value, int negative)
{
    const unsigned base = d.kind == 'x' || d.kind == 'X' || d.kind == 'p' ? 16 : d.kind == 'o' ? 8 : 10;
    const char *const symbols = d.kind == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    const int shown = d.kind == 'd' || d.kind == 'i';
    const char *prefix = shown ? kd__sign(&d, negative) : "";
    char digits[24];
    int count = 0, leading, length;
    if (base == 16 && (d.kind == 'p' || (d.alternate && value))) prefix = d.kind == 'X' ? "0X" : "0x";
    for (; value; value /= base) digits[sizeof digits - (size_t)++count] = symbols[value % base];
    leading = d.precision < 0 ? count == 0 : KD__MAX(d.precision - count, 0);
    if (base == 8 && d.alternate && leading == 0) leading = 1;
    if (d.precision >= 0) d.zero = 0;
    length = (int)strlen(prefix) + leading + count;
    kd__write_before(w, &d, prefix, length);
    kd__write_repeated(w, '0', leading);
    kd__write_run(w, digits + sizeof digits - (size_t)count, (size_t)count);
    kd__write_after(w, &d, length);
}

/* Every digit of a finite double: limbs of nine digits, the largest first. limb[KD__UNITS] ends at the decimal
   point: 35 limbs hold 2^1024, and 120 behind them 2^-1074 to its last digit. */
enum { KD__UNITS = 34, KD__LIMBS = 35 + 120, KD__POINT = 9 * (KD__UNITS + 1) };

typedef struct kd__decimal {
    uint32_t limb[KD__LIMBS];
} kd__decimal;

static const uint32_t kd__tens[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};

KD__PRIVATE void kd__decimal_of(kd__decimal *n, double value)
{
    uint64_t bits, carry, x;
    int exponent, step, i;
    memcpy(&bits, &value, sizeof bits);
    exponent = (int)(bits >> 52 & 2047u);
    bits &= ((uint64_t)1 << 52) - 1;
    if (exponent) bits |= (uint64_t)1 << 52;
    exponent = KD__MAX(exponent, 1) - 1075; /* value = bits * 2^exponent */
    memset(n, 0, sizeof *n);
    n->limb[KD__UNITS] = (uint32_t)(bits % 1000000000u);
    n->limb[KD__UNITS - 1] = (uint32_t)(bits / 1000000000u);
    for (; exponent > 0; exponent -= step) {
        step = KD__MIN(exponent, 29);
        for (carry = 0, i = KD__UNITS; i >= 0; --i) {
            x = ((uint64_t)n->limb[i] << step) + carry;
            n->limb[i] = (uint32_t)(x % 1000000000u);
            carry = x / 1000000000u;
        }
    }
    for (; exponent < 0; exponent += step) {
        step = KD__MIN(-exponent, 9); /* 10^9 is a multiple of 2^9 */
        for (carry = 0, i = 0; i < KD__LIMBS; ++i) {
            x = n->limb[i];
            n->limb[i] = (uint32_t)((x >> step) + carry);
            carry = (x & ((1u << step) - 1u)) * (1000000000u >> step);
        }
    }
}

/* Digit i, counted from the first of the first limb; KD__POINT of them are before the decimal point. */
KD__PRIVATE int kd__decimal_digit(const kd__decimal *n, int i)
{
    return i < 9 * KD__LIMBS ? (int)(n->limb[i / 9] / kd__tens[8 - i % 9] % 10) : 0;
}

/* The first digit that is not 0; of 0 that of the units. */
KD__PRIVATE int kd__decimal_first(const kd__decimal *n)
{
    int i = 0;
    while (i < 9 * KD__LIMBS && kd__decimal_digit(n, i) == 0) ++i;
    return i < 9 * KD__LIMBS ? i : KD__POINT - 1;
}

/* Rounds to the digits before `end`; halves go to the even digit. */
KD__PRIVATE void kd__decimal_round(kd__decimal *n, int end)
{
    const int next = kd__decimal_digit(n, end);
    int i, up;
    if (end >= 9 * KD__LIMBS) return;
    for (i = end + 1; i < 9 * KD__LIMBS && kd__decimal_digit(n, i) == 0; ++i) {}
    up = next > 5 || (next == 5 && (i < 9 * KD__LIMBS || kd__decimal_digit(n, end - 1) % 2));
    i = end / 9;
    n->limb[i] -= n->limb[i] % kd__tens[9 - end % 9];
    memset(n->limb + i + 1, 0, (size_t)(KD__LIMBS - 1 - i) * sizeof n->limb[0]);
    if (!up) return;
    n->limb[i] += kd__tens[9 - end % 9];
    for (; n->limb[i] >= 1000000000u; --i) {
        n->limb[i] -= 1000000000u;
        ++n->limb[i - 1];
    }
}

/* `whole` digits from `first`, a point, and `places` more; with `exponent` what e writes behind them. */
KD__PRIVATE void kd__write_digits(kd__writer *w, const kd__directive *d, const kd__decimal *n, int first, int whole,
                                  int places, const int *exponent)
{
    char digit;
    int i;
    for (i = first; i < first + whole + places; ++i) {
        if (i == first + whole) kd__write_run(w, ".", 1);
        digit = (char)('0' + kd__decimal_digit(n, i));
        kd__write_run(w, &digit, 1);
    }
    if (places == 0 && d->alternate) kd__write_run(w, ".", 1);
    if (exponent) {
        kd__directive two = {0, 1, 1, 0, 0, 3, -1, 0, 'd'};
        digit = (char)(d->kind == 'E' || d->kind == 'G' ? 'E' : 'e');
        kd__write_run(w, &digit, 1);
        kd__write_whole(w, two, (uint64_t)(*exponent < 0 ? -*exponent : *exponent), *exponent < 0);
    }
}

/* Kinds e f g and E F G. */
KD__PRIVATE void kd__write_double(kd__writer *w, kd__directive d, double value)
{
    const int upper = d.kind < 'a', kind = upper ? d.kind + ('a' - 'A') : d.kind;
    kd__decimal n;
    kd__writer measured = {NULL, 0, 0};
    uint64_t bits;
    const char *sign;
    int first, places = d.precision < 0 ? 6 : d.precision, whole = 1, exponent, scientific = kind == 'e';
    memcpy(&bits, &value, sizeof bits);
    sign = kd__sign(&d, (int)(bits >> 63));
    if (!kd__is_finite(value)) {
        d.zero = 0;
        kd__write_before(w, &d, sign, 3 + (int)strlen(sign));
        kd__write_run(w, value != value ? upper ? "NAN" : "nan" : upper ? "INF" : "inf", 3);
        kd__write_after(w, &d, 3 + (int)strlen(sign));
        return;
    }
    places = KD__MIN(places, 9 * KD__LIMBS);
    kd__decimal_of(&n, value);
    if (kind == 'g') places = KD__MAX(places, 1) - 1; /* significant digits behind the first */
    kd__decimal_round(&n, kind == 'f' ? KD__POINT + places : kd__decimal_first(&n) + 1 + places);
    first = kd__decimal_first(&n);
    exponent = KD__POINT - 1 - first;
    if (kind == 'g') {
        scientific = exponent < -4 || exponent > places;
        if (!scientific) places -= exponent;
        while (!d.alternate && places > 0 &&
               kd__decimal_digit(&n, (scientific ? first : KD__POINT - 1) + places) == 0)
            --places;
    }
    if (!scientific) {
        first = KD__MIN(first, KD__POINT - 1);
        whole = KD__POINT - first;
    }
    kd__write_digits(&measured, &d, &n, first, whole, places, scientific ? &exponent : NULL);
    measured.length += strlen(sign);
    kd__write_before(w, &d, sign, (int)measured.length);
    kd__write_digits(w, &d, &n, first, whole, places, scientific ? &exponent : NULL);
    kd__write_after(w, &d, (int)measured.length);
}

KD__PRIVATE void kd__write_text(kd__writer *w, kd__directive d, const char *text)
{
    size_t length = 0;
    if (!text) text = "(null)";
    while ((d.precision < 0 || length < (size_t)d.precision) && text[length]) ++length;
    d.zero = 0;
    kd__write_before(w, &d, "", (int)length);
    kd__write_run(w, text, length);
    kd__write_after(w, &d, (int)length);
}

/* The digits at *c. */
KD__PRIVATE int kd__format_number(const char **c)
{
    int value = 0;
    for (; **c >= '0' && **c <= '9'; ++*c) value = KD__MIN(value * 10 + (**c - '0'), 100000);
    return value;
}

/* Flags from behind the percent sign. */
KD__PRIVATE const char *kd__format_flags(const char *c, kd__directive *d)
{
    memset(d, 0, sizeof *d);
    for (;; ++c) {
        if (*c == '-')
            d->left = 1;
        else if (*c == '0')
            d->zero = 1;
        else if (*c == '+')
            d->plus = 1;
        else if (*c == ' ')
            d->blank = 1;
        else if (*c == '#')
            d->alternate = 1;
        else
            return c;
    }
}

/* The size of an argument and its kind; hh is h, ll and j are L. */
KD__PRIVATE const char *kd__format_kind(const char *c, kd__directive *d)
{
    if (*c && strchr("hlzjt", *c)) d->size = *c++;
    if (d->size && *c == d->size) ++c, d->size = (char)(d->size == 'l' ? 'L' : d->size);
    if (d->size == 'j') d->size = 'L';
    d->kind = *c;
    return *c ? c + 1 : c;
}

/* All of printf but long double, wide characters, %a and %n. */
KD__PRIVATE void kd__write_list(kd__writer *w, const char *c, va_list args)
{
    while (*c) {
        kd__directive d;
        int64_t value;
        char letter;
        const char *percent = strchr(c, '%');
        kd__write_run(w, c, percent ? (size_t)(percent - c) : strlen(c));
        if (!percent) break;
        c = kd__format_flags(percent + 1, &d);
        d.width = kd__format_number(&c);
        if (*c == '*') ++c, d.width = va_arg(args, int);
        if (d.width < 0) d.left = 1, d.width = -d.width;
        d.precision = -1;
        if (*c == '.') {
            ++c;
            d.precision = kd__format_number(&c);
            if (*c == '*') ++c, d.precision = va_arg(args, int);
        }
        c = kd__format_kind(c, &d);
        switch (d.kind) {
        case 'd':
        case 'i':
            value = d.size == 'L'                    ? (int64_t)va_arg(args, long long)
                    : d.size == 'l'                  ? (int64_t)va_arg(args, long)
                    : d.size == 'z' || d.size == 't' ? (int64_t)va_arg(args, ptrdiff_t)
                                                     : (int64_t)va_arg(args, int);
            kd__write_whole(w, d, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0);
            break;
        case 'u':
        case 'x':
        case 'X':
        case 'o':
            kd__write_whole(w, d,
                            d.size == 'L'                    ? (uint64_t)va_arg(args, unsigned long long)
                            : d.size == 'l'                  ? (uint64_t)va_arg(args, unsigned long)
                            : d.size == 'z' || d.size == 't' ? (uint64_t)va_arg(args, size_t)
                                                             : (uint64_t)va_arg(args, unsigned),
                            0);
            break;
        case 'p': kd__write_whole(w, d, (uint64_t)(uintptr_t)va_arg(args, void *), 0); break;
        case 'e':
        case 'f':
        case 'g':
        case 'E':
        case 'F':
        case 'G': kd__write_double(w, d, va_arg(args, double)); break;
        case 's': kd__write_text(w, d, va_arg(args, const char *)); break;
        case 'c':
            letter = (char)va_arg(args, int);
            d.zero = 0;
            kd__write_before(w, &d, "", 1);
            kd__write_run(w, &letter, 1);
            kd__write_after(w, &d, 1);
            break;
        default: kd__write_run(w, "%", 1); break; /* %% */
        }
    }
    if (w->size) w->text[KD__MIN(w->length, w->size - 1)] = 0;
}

/* Goes on writing behind what is there. */
KD__PRIVATE void KD__PRINTF(2, 3) kd__write(kd__writer *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    kd__write_list(w, format, args);
    va_end(args);
}

/* vsnprintf and snprintf: the length that all of the text has. */
KD__PRIVATE int kd__print_list(char *text, size_t size, const char *format, va_list args)
{
    kd__writer w;
    w.text = text, w.size = size, w.length = 0;
    kd__write_list(&w, format, args);
    return (int)w.length;
}

KD__PRIVATE int KD__PRINTF(3, 4) kd__print(char *text, size_t size, const char *format, ...)
{
    va_list args;
    int length;
    va_start(args, format);
    length = kd__print_list(text, size, format, args);
    va_end(args);
    return length;
}

/* A number as text. */
typedef struct kd__text {
    char chars[40];
} kd__text;

KD__PRIVATE kd__text kd__number(double value, int digits)
{
    kd__text text;
    (void)kd__print(text.chars, sizeof text.chars, "%.*g", digits, value);
    return text;
}

/* Reads a decimal number, whatever the locale; *end is where it stops (text itself if there is none). */
KD__PRIVATE double kd__parse_number(const char *text, const char **end)
{
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *c = text, *digits;
    double value = 0;
    int negative, exponent = 0, seen = 0;
    negative = *c == '-';
    if (*c == '-' || *c == '+') ++c;
    digits = c;
    for (; *c >= '0' && *c <= '9'; ++c, ++seen) value = value * 10 + (*c - '0');
    if (*c == '.') {
        for (++c; *c >= '0' && *c <= '9'; ++c, ++seen) {
            if (seen < 17) {
                value = value * 10 + (*c - '0');
                --exponent;
            }
        }
    }
    *end = text;
    if (c == digits || seen == 0) return 0;
    if (*c == 'e' || *c == 'E') {
        const char *e = c + 1;
        int e_negative = *e == '-', e_value = 0;
        if (*e == '-' || *e == '+') ++e;
        if (*e >= '0' && *e <= '9') {
            for (; *e >= '0' && *e <= '9'; ++e) e_value = e_value < 1000 ? e_value * 10 + (*e - '0') : e_value;
            exponent += e_negative ? -e_value : e_value;
            c = e;
        }
    }
    for (; exponent > 22; exponent -= 22) value *= powers[22];
    for (; exponent < -22 && value != 0; exponent += 22) value /= powers[22];
    if (exponent > 0) value *= powers[exponent];
    if (exponent < 0 && value != 0) value /= powers[-exponent];
    *end = c;
    return negative ? -value : value;
}

/* ============================================================================================================
   >>cpu    what this processor can do
   uses: config
   ============================================================================================================ */

typedef struct kd__cpu {
    unsigned isas;        /* bit i: kd_isa i can run */
    ptrdiff_t l1, l2, l3; /* data cache sizes in bytes; only speed depends on them */
} kd__cpu;

#if KD__X86
KD__PRIVATE void kd__cpu_id(unsigned leaf, unsigned subleaf, unsigned r[4])
{
#if defined(_MSC_VER)
    int words[4], i;
    __cpuidex(words, (int)leaf, (int)subleaf);
    for (i = 0; i < 4; ++i) r[i] = (unsigned)words[i];
#else
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
#endif
}

/* Which register states the operating system saves: without its help AVX registers must not be touched. */
KD__PRIVATE unsigned kd__cpu_xcr0(void)
{
#if defined(_MSC_VER)
    return (unsigned)_xgetbv(0);
#else
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0u));
    (void)high;
    return low;
#endif
}

/* Whether the leaf says anything. */
KD__PRIVATE int kd__cpu_caches(kd__cpu *cpu, unsigned leaf)
{
    unsigned r[4], i;
    for (i = 0; i < 8; ++i) {
        unsigned type, level;
        ptrdiff_t size;
        kd__cpu_id(leaf, i, r);
        type = r[0] & 31u; /* 0 none, 1 data, 2 instructions, 3 unified */
        level = (r[0] >> 5) & 7u;
        if (type == 0) return i > 0;
        size = (ptrdiff_t)((r[1] >> 22) + 1) * (ptrdiff_t)(((r[1] >> 12) & 1023u) + 1) *
               (ptrdiff_t)((r[1] & 4095u) + 1) * (ptrdiff_t)(r[2] + 1);
        if (type == 2 || size < 4096) continue;
        if (level == 1) cpu->l1 = size;
        if (level == 2) cpu->l2 = size;
        if (level == 3) {
            cpu->l3 = size;
            break;
        }
    }
    return 1;
}
#endif

KD__PRIVATE kd__cpu kd__cpu_detect(void)
{
    kd__cpu cpu;
    cpu.isas = 1u << KD_ISA_SCALAR;
    cpu.l1 = 32 << 10;
    cpu.l2 = 512 << 10;
    cpu.l3 = 4 << 20;
#if KD__X86
    {
        /* no leaf more than it takes: in a virtual machine each is a trap of several microseconds */
        unsigned max_leaf, one[4], seven[4] = {0, 0, 0, 0}, r[4], xcr0;
        kd__cpu_id(0, 0, r);
        max_leaf = r[0];
        kd__cpu_id(1, 0, one);
        if (max_leaf >= 7) kd__cpu_id(7, 0, seven);
        if (max_leaf < 4 || !kd__cpu_caches(&cpu, 4)) { /* Intel's leaf; AMD's is another */
            kd__cpu_id(0x80000000u, 0, r);
            if (r[0] >= 0x8000001du) {
                kd__cpu_id(0x80000001u, 0, r);
                if (r[2] & (1u << 22)) (void)kd__cpu_caches(&cpu, 0x8000001du); /* topology extensions */
            }
        }
        if (one[2] & (1u << 27)) { /* OSXSAVE: xgetbv may be asked */
            const unsigned avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* f, dq, bw, vl */
            const unsigned fma = 1u << 12, avx = 1u << 28;
            xcr0 = kd__cpu_xcr0();
            if ((xcr0 & 0x06u) == 0x06u && (one[2] & fma) && (one[2] & avx) && (seven[1] & avx2)) {
                cpu.isas |= 1u << KD_ISA_AVX2;
                if ((xcr0 & 0xe6u) == 0xe6u && (seven[1] & avx512) == avx512) cpu.isas |= 1u << KD_ISA_AVX512;
            }
        }
    }
#endif
#if KD__ARM64
    cpu.isas |= 1u << KD_ISA_NEON; /* part of every 64-bit Arm */
#endif
    return cpu;
}

/* ============================================================================================================
   >>memory    allocation, error text
   uses: text, cpu
   ============================================================================================================ */

#define KD__COOKIE 0x6b642e68u /* proves that an options struct came from its defaults function */

typedef struct kd__kernels kd__kernels;

enum { KD__MAX_THREADS = 256 };

typedef struct kd__pool kd__pool;

struct kd_ctx {
    kd_ctx_desc desc; /* its threads are as many as there are */
    kd__pool *pool;   /* NULL: one thread, or the caller's parallel_for */
    kd__cpu cpu;
    const kd__kernels *k;
    kd_isa isa;
    float *scratch; /* of kd_sgemm and the losses, grown on demand */
    size_t scratch_count;
    void *error_lock; /* threads that predict at once may fail at once */
    char error[512];
};

KD__PRIVATE void *kd__malloc_alloc(void *user, size_t size)
{
    (void)user;
    return malloc(size);
}

KD__PRIVATE void kd__malloc_free(void *user, void *ptr, size_t size)
{
    (void)user;
    (void)size;
    free(ptr);
}

/* Records a failure. Text is cut at the size of the buffer; user text in it goes through %s only. */
KD__PRIVATE kd_result KD__PRINTF(3, 4) kd__fail(kd_ctx *kd, kd_result result, const char *format, ...)
{
    char text[sizeof kd->error];
    va_list args;
    va_start(args, format);
    kd__print_list(text, sizeof text, format, args);
    va_end(args);
    kd__lock(&kd->error_lock);
    memcpy(kd->error, text, sizeof text);
    kd__unlock(&kd->error_lock);
    return result;
}

KD__PRIVATE void KD__PRINTF(2, 3) kd__log(const kd_ctx *kd, const char *format, ...)
{
    char text[512];
    va_list args;
    if (!kd->desc.log) return;
    va_start(args, format);
    kd__print_list(text, sizeof text, format, args);
    va_end(args);
    kd->desc.log(kd->desc.log_user, text);
}

/* a * b, or SIZE_MAX where that does not fit: no allocator grants SIZE_MAX. */
KD__PRIVATE size_t kd__times(size_t a, size_t b) { return b && a > SIZE_MAX / b ? SIZE_MAX : a * b; }

KD__PRIVATE size_t kd__plus(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }

/* The next `count` numbers of a room that several arrays share, NULL while it is only measured. */
KD__PRIVATE double *kd__take(double *room, size_t *used, size_t count)
{
    double *at = room ? room + *used : NULL;
    *used = kd__plus(*used, count);
    if (room) KD__FENCE_UP(room + *used, KD__FENCE * sizeof(float));
    *used = kd__plus(*used, KD__FENCE * sizeof(float) / sizeof(double));
    return at;
}

/* After the use of what was taken, so that others may. */
KD__PRIVATE void kd__give_back(double *room, size_t used) { KD__FENCE_DOWN(room, used * sizeof *room); }

/* Memory aligned to 64 bytes and zeroed. In front of it stand the size and the start of the allocation. Both, and
   what is left over, are behind fences. */
typedef struct kd__block {
    void *start;
    size_t size;
} kd__block;

KD__PRIVATE void *kd__alloc(kd_ctx *kd, size_t count, size_t item)
{
    const size_t extra = sizeof(kd__block) + 63;
    const size_t bytes = kd__times(count, item);
    kd__block block;
    char *data;
    if (bytes > SIZE_MAX / 2 - extra) {
        (void)kd__fail(kd, KD_ERR_MEMORY, "out of memory: %llu items of %llu bytes do not fit in memory",
                       (unsigned long long)count, (unsigned long long)item);
        return NULL;
    }
    block.size = bytes + extra;
    block.start = kd->desc.allocator.alloc(kd->desc.allocator.user, block.size);
    if (!block.start) {
        (void)kd__fail(kd, KD_ERR_MEMORY, "out of memory: the allocator refused %llu bytes",
                       (unsigned long long)block.size);
        return NULL;
    }
    data = (char *)block.start + sizeof(kd__block);
    data += (64 - ((uintptr_t)data & 63u)) & 63u;
    memcpy(data - sizeof block, &block, sizeof block);
    memset(data, 0, bytes);
    KD__FENCE_UP(block.start, (size_t)(data - (char *)block.start));
    KD__FENCE_UP(data + bytes, block.size - bytes - (size_t)(data - (char *)block.start));
    return data;
}

KD__PRIVATE void kd__free(kd_ctx *kd, void *data)
{
    kd__block block;
    if (!data) return;
    KD__FENCE_DOWN((char *)data - sizeof block, sizeof block);
    memcpy(&block, (char *)data - sizeof block, sizeof block);
    KD__FENCE_DOWN(block.start, block.size);
    kd->desc.allocator.free(kd->desc.allocator.user, block.start, block.size);
}

/* What an allocation took from the allocator. */
KD__PRIVATE size_t kd__block_bytes(void *data)
{
    kd__block block;
    char *head;
    if (!data) return 0;
    head = (char *)data - sizeof block;
    KD__FENCE_DOWN(head, sizeof block);
    memcpy(&block, head, sizeof block);
    KD__FENCE_UP(head, sizeof block);
    return block.size;
}

/* Bytes that a block of work may take: half of what there is of them stays in the second-level cache. */
KD__PRIVATE ptrdiff_t kd__block_room(const kd_ctx *kd)
{
    const size_t half = (size_t)kd->cpu.l2 / 2;
    return (ptrdiff_t)(kd->desc.scratch ? KD__MIN(kd->desc.scratch, half) : half);
}

#define KD__NEW(kd, type, count) ((type *)kd__alloc(kd, (size_t)(count), sizeof(type)))

/* Room for `count` items in a growing list; the list moves when it is full. */
KD__PRIVATE void *kd__grow(kd_ctx *kd, void *list, int count, int *capacity, size_t item)
{
    void *bigger;
    const int wanted = *capacity ? *capacity * 2 : 16;
    if (count < *capacity) return list;
    if (*capacity > INT_MAX / 4) return NULL;
    bigger = kd__alloc(kd, (size_t)wanted, item);
    if (!bigger) return NULL;
    if (list) memcpy(bigger, list, (size_t)count * item);
    kd__free(kd, list);
    *capacity = wanted;
    return bigger;
}

KD__PRIVATE char *kd__copy_text(kd_ctx *kd, const char *text, size_t length)
{
    char *copy = KD__NEW(kd, char, length + 1);
    if (copy) memcpy(copy, text, length);
    return copy;
}

/* ============================================================================================================
   >>threads    processors, the threads of a context
   uses: platform, memory
   A context's threads wait until it has tasks for them. The tasks of one call are a region: each thread has a share
   of them, and who is done with his own helps the others. What a thread is about is said by one word of its own:

       IDLE     it looks at that word, for some microseconds
       ASLEEP   it looks no more: its bell must be rung
       CALLED   a share is there for it, which it has not begun
       WORKING  it has begun: it runs tasks until none is left
       AWAITED  the same, and the calling thread sleeps until it is done
       ENDED    it is to return

   The first task of a share goes to whoever turns CALLED into something else: into WORKING its own thread, into
   IDLE another one, once nothing else is left. So a thread that the system has put aside before it began is never
   waited for, and cannot begin later: only tasks in progress are waited for. A thread that does not exist, in a
   child of fork(), is one that never begins.
   ============================================================================================================ */

/* ---- processors ------------------------------------------------------------------------------------------ */

#if defined(_WIN32) && !defined(KD_NO_THREADS)
#ifdef _WIN64
typedef unsigned __int64 kd__affinity;
#else
typedef unsigned long kd__affinity;
#endif
#ifdef __cplusplus
extern "C" {
#endif
__declspec(dllimport) void *__stdcall GetCurrentProcess(void);
__declspec(dllimport) int __stdcall GetProcessAffinityMask(void *process, kd__affinity *own, kd__affinity *all);
#ifdef __cplusplus
}
#endif
#elif KD__THREADS && defined(__linux__)
#include <sched.h>
#ifdef CPU_SETSIZE
typedef cpu_set_t kd__cpu_set;
#else /* <sched.h> hides it without _GNU_SOURCE */
typedef void kd__cpu_set;
int sched_getaffinity(pid_t process, size_t bytes, kd__cpu_set *set);
#endif
#endif

/* Processors that the system lets this process run on, 1 where it does not say. */
KD__PRIVATE int kd__cpu_affinity(void)
{
    int count = 0;
#if defined(_WIN32) && !defined(KD_NO_THREADS)
    kd__affinity own = 0, all = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &own, &all)) {
        for (; own; own &= own - 1) ++count;
    }
#elif KD__THREADS
#if defined(__linux__)
    unsigned long set[8192 / CHAR_BIT / sizeof(unsigned long)], bits;
    size_t i;
    memset(set, 0, sizeof set);
    if (sched_getaffinity(0, sizeof set, (kd__cpu_set *)set) == 0) {
        for (i = 0; i < sizeof set / sizeof *set; ++i) {
            for (bits = set[i]; bits; bits &= bits - 1) ++count;
        }
    }
#endif
#ifdef _SC_NPROCESSORS_ONLN
    if (count < 1) count = (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
#endif
    return KD__MAX(count, 1);
}

#if defined(__linux__) && !defined(KD_NO_STDIO) && KD__THREADS
enum { KD__QUOTA_PATH = 2048 };

/* The first line of a file of a folder; "" where it cannot be read. */
KD__PRIVATE void kd__quota_read(const char *folder, const char *name, char *line, int size)
{
    char path[KD__QUOTA_PATH + 64];
    FILE *file;
    (void)kd__print(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "r");
    if (!file || !fgets(line, size, file)) *line = 0;
    if (file) (void)fclose(file);
}

/* How many processors' time the groups from a folder up to `root` may use, the least of them; 0: no limit. */
KD__PRIVATE int kd__quota_of(char *folder, size_t root)
{
    int least = 0;
    for (;;) {
        char line[64], *rest = line, *slash;
        long quota, period;
        kd__quota_read(folder, "cpu.max", line, sizeof line); /* "max 100000" where there is no limit */
        quota = strtol(line, &rest, 10);
        if (!*line) {
            kd__quota_read(folder, "cpu.cfs_quota_us", line, sizeof line);
            quota = strtol(line, NULL, 10);
            kd__quota_read(folder, "cpu.cfs_period_us", line, sizeof line);
            rest = line;
        }
        period = strtol(rest, NULL, 10);
        if (quota > 0 && period > 0 && (!least || (quota - 1) / period < least))
            least = (int)KD__MIN((quota - 1) / period + 1, (long)KD__MAX_THREADS);
        slash = strrchr(folder + root, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

/* The limit that control groups set: `groups` is a file like /proc/self/cgroup, whose lines are number:controllers:
   path (version 2 names no controllers); `root` is where they are mounted. A container may see a path that is its
   host's: then the mount itself is its group. */
KD__PRIVATE int kd__cpu_quota(const char *groups, const char *root)
{
    char line[KD__QUOTA_PATH / 2], folder[KD__QUOTA_PATH];
    FILE *file = fopen(groups, "r");
    int least = 0;
    while (file && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        const char *mount;
        int limit;
        if (!path) continue;
        *controllers++ = ',', *path = ',', path[strcspn(path, "\n")] = 0;
        mount = *controllers == ',' ? "" : "/cpu";
        if (*mount && !(strstr(line, ",cpu,") && strstr(line, ",cpu,") < path)) continue;
        (void)kd__print(folder, sizeof folder, "%s%s%s", root, mount, strcmp(path + 1, "/") == 0 ? "" : path + 1);
        limit = kd__quota_of(folder, strlen(root) + strlen(mount));
        if (limit && (!least || limit < least)) least = limit;
    }
    if (file) (void)fclose(file);
    return least;
}
#endif

KDDEF int kd_cpu_count(void)
{
    int count = kd__cpu_affinity();
#if defined(__linux__) && !defined(KD_NO_STDIO) && KD__THREADS
    const int quota = kd__cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    if (quota) count = KD__MIN(count, quota);
#endif
    return KD__MIN(count, (int)KD__MAX_THREADS);
}

/* ---- what systems have in common ------------------------------------------------------------------------- */

#if KD__THREADS
/* One thread of the system. */
typedef struct kd__thread {
    void (*run)(void *arg);
    void *arg;
#if KD__THREADS == 1
    pthread_t id;
#else
    void *handle;
#endif
} kd__thread;

/* Where one thread sleeps until another one rings. */
typedef struct kd__bell {
#if KD__THREADS == 1
    pthread_mutex_t lock;
    pthread_cond_t rung;
#else
    void *lock, *rung;
#endif
} kd__bell;

enum {
    KD__STACK = 1 << 20, /* bytes of a thread's stack */
    KD__SPIN = 30,       /* microseconds before a thread sleeps: about what waking it takes */
    KD__SPIN_LOOKS = 32  /* between two looks at the clock */
};

#if defined(__GNUC__)
KD__PRIVATE int kd__atomic_load(const int *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
KD__PRIVATE int kd__atomic_put(int *word, int value) { return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL); }
KD__PRIVATE int kd__atomic_turn(int *word, int from, int to)
{
    return __atomic_compare_exchange_n(word, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
KD__PRIVATE unsigned kd__atomic_next(unsigned *word) { return __atomic_fetch_add(word, 1u, __ATOMIC_RELAXED); }
#else
KD__PRIVATE int kd__atomic_load(const int *word)
{
    return (int)_InterlockedCompareExchange((volatile long *)(uintptr_t)word, 0, 0);
}
KD__PRIVATE int kd__atomic_put(int *word, int value)
{
    return (int)_InterlockedExchange((volatile long *)word, value);
}
KD__PRIVATE int kd__atomic_turn(int *word, int from, int to)
{
    return _InterlockedCompareExchange((volatile long *)word, to, from) == from;
}
KD__PRIVATE unsigned kd__atomic_next(unsigned *word)
{
    return (unsigned)_InterlockedExchangeAdd((volatile long *)word, 1);
}
#endif

/* Leaves the processor's units to others for some cycles. */
KD__PRIVATE void kd__pause(void)
{
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
    __builtin_ia32_pause();
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__ __volatile__("yield");
#elif defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
    _mm_pause();
#elif defined(_MSC_VER)
    __yield();
#endif
}

#if KD__THREADS == 1
#if defined(__linux__) && !defined(CLOCK_MONOTONIC) /* which <time.h> hides under -std=c99 */
#define CLOCK_REALTIME 0
#define CLOCK_MONOTONIC 1
int clock_gettime(int clock, struct timespec *time);
#endif

/* Microseconds since some moment. */
KD__PRIVATE int64_t kd__clock(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* What fork() changes. */
KD__PRIVATE long kd__process(void) { return (long)getpid(); }

KD__PRIVATE void *kd__thread_main(void *user)
{
    const kd__thread *t = (const kd__thread *)user;
    t->run(t->arg);
    return NULL;
}

/* Signals stay with the program's own threads, where the compiler's language standard lets <signal.h> say how. */
KD__PRIVATE int kd__thread_start(kd__thread *t)
{
    pthread_attr_t attributes;
    int started;
#ifdef SIG_BLOCK
    sigset_t all, before;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
    if (pthread_attr_init(&attributes) == 0) {
        (void)pthread_attr_setstacksize(&attributes, KD__STACK);
        started = pthread_create(&t->id, &attributes, kd__thread_main, t) == 0;
        (void)pthread_attr_destroy(&attributes);
    } else {
        started = 0;
    }
#ifdef SIG_BLOCK
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
#endif
    return started;
}

KD__PRIVATE void kd__thread_join(kd__thread *t) { (void)pthread_join(t->id, NULL); }

KD__PRIVATE int kd__bell_open(kd__bell *b)
{
    if (pthread_mutex_init(&b->lock, NULL) != 0) return 0;
    if (pthread_cond_init(&b->rung, NULL) == 0) return 1;
    (void)pthread_mutex_destroy(&b->lock);
    return 0;
}

KD__PRIVATE void kd__bell_close(kd__bell *b)
{
    (void)pthread_cond_destroy(&b->rung);
    (void)pthread_mutex_destroy(&b->lock);
}

KD__PRIVATE void kd__bell_wait(kd__bell *b, const int *word, int value)
{
    (void)pthread_mutex_lock(&b->lock);
    while (kd__atomic_load(word) == value) (void)pthread_cond_wait(&b->rung, &b->lock);
    (void)pthread_mutex_unlock(&b->lock);
}

KD__PRIVATE void kd__bell_ring(kd__bell *b)
{
    (void)pthread_mutex_lock(&b->lock);
    (void)pthread_mutex_unlock(&b->lock);
    (void)pthread_cond_signal(&b->rung);
}
#else
#ifdef __cplusplus
extern "C" {
#endif
struct _RTL_SRWLOCK;
struct _RTL_CONDITION_VARIABLE;
union _LARGE_INTEGER;
__declspec(dllimport) void __stdcall AcquireSRWLockExclusive(struct _RTL_SRWLOCK *lock);
__declspec(dllimport) void __stdcall ReleaseSRWLockExclusive(struct _RTL_SRWLOCK *lock);
__declspec(dllimport) int __stdcall SleepConditionVariableSRW(struct _RTL_CONDITION_VARIABLE *condition,
                                                              struct _RTL_SRWLOCK *lock, unsigned long milliseconds,
                                                              unsigned long flags);
__declspec(dllimport) void __stdcall WakeAllConditionVariable(struct _RTL_CONDITION_VARIABLE *condition);
__declspec(dllimport) int __stdcall QueryPerformanceCounter(union _LARGE_INTEGER *count);
__declspec(dllimport) int __stdcall QueryPerformanceFrequency(union _LARGE_INTEGER *count);
__declspec(dllimport) unsigned long __stdcall WaitForSingleObject(void *handle, unsigned long milliseconds);
__declspec(dllimport) int __stdcall CloseHandle(void *handle);
#ifdef __cplusplus
}
#endif
#define KD__SRWLOCK(bell) ((struct _RTL_SRWLOCK *)(void *)&(bell)->lock)
#define KD__CONDITION(bell) ((struct _RTL_CONDITION_VARIABLE *)(void *)&(bell)->rung)

KD__PRIVATE int64_t kd__clock(void)
{
    int64_t count = 0, frequency = 1;
    (void)QueryPerformanceCounter((union _LARGE_INTEGER *)(void *)&count);
    (void)QueryPerformanceFrequency((union _LARGE_INTEGER *)(void *)&frequency);
    return (int64_t)((double)count * 1e6 / (double)KD__MAX(frequency, 1));
}

KD__PRIVATE long kd__process(void) { return 0; } /* there is no fork() */

KD__PRIVATE unsigned __stdcall kd__thread_main(void *user)
{
    const kd__thread *t = (const kd__thread *)user;
    t->run(t->arg);
    return 0;
}

KD__PRIVATE int kd__thread_start(kd__thread *t)
{
    t->handle = (void *)_beginthreadex(NULL, KD__STACK, kd__thread_main, t, 0x10000 /* reserve so much */, NULL);
    return t->handle != NULL;
}

KD__PRIVATE void kd__thread_join(kd__thread *t)
{
    (void)WaitForSingleObject(t->handle, 0xfffffffful);
    (void)CloseHandle(t->handle);
}

KD__PRIVATE int kd__bell_open(kd__bell *b)
{
    b->lock = b->rung = NULL;
    return 1;
}

KD__PRIVATE void kd__bell_close(kd__bell *b) { (void)b; }

KD__PRIVATE void kd__bell_wait(kd__bell *b, const int *word, int value)
{
    AcquireSRWLockExclusive(KD__SRWLOCK(b));
    while (kd__atomic_load(word) == value)
        (void)SleepConditionVariableSRW(KD__CONDITION(b), KD__SRWLOCK(b), 0xfffffffful, 0);
    ReleaseSRWLockExclusive(KD__SRWLOCK(b));
}

KD__PRIVATE void kd__bell_ring(kd__bell *b)
{
    AcquireSRWLockExclusive(KD__SRWLOCK(b));
    ReleaseSRWLockExclusive(KD__SRWLOCK(b));
    WakeAllConditionVariable(KD__CONDITION(b));
}
#endif

/* Looks at a word until it is no longer `value`, for some microseconds. Returns what it is then. */
KD__PRIVATE int kd__spin(const int *word, int value)
{
    const int64_t end = kd__clock() + KD__SPIN;
    int i, now;
    do {
        for (i = 0; i < KD__SPIN_LOOKS; ++i) {
            now = kd__atomic_load(word);
            if (now != value) return now;
            kd__pause();
        }
    } while (kd__clock() < end);
    return value;
}

/* ---- the pool -------------------------------------------------------------------------------------------- */

enum { KD__IDLE, KD__ASLEEP, KD__CALLED, KD__WORKING, KD__AWAITED, KD__ENDED };

/* A thread and its share of the tasks, in cache lines of their own. Number 0 is the calling thread. */
typedef struct kd__worker {
    KD__ALIGN64 int state;
    KD__ALIGN64 unsigned next; /* of its tasks but the first */
    unsigned first, end;
    KD__ALIGN64 struct kd__pool *pool;
    int number;
    kd__thread thread;
    kd__bell bell;
} kd__worker;

struct kd__pool {
    void *taken;  /* by a region; another one meanwhile runs its tasks alone */
    int threads;  /* the calling one among them */
    long process; /* in which they were started */
    /* the region */
    kd_task_fn task;
    void *arg;
    int shares;
    kd__worker workers[1]; /* as many as there are threads */
};

/* Tasks of the region until none is left that nobody has begun; first the worker's own. */
KD__PRIVATE void kd__pool_work(kd__pool *p, int worker)
{
    const int shares = p->shares;
    int i;
    if (worker) p->task(p->arg, (int)p->workers[worker].first, worker);
    for (i = 0; i < shares; ++i) {
        kd__worker *w = &p->workers[(worker + i) % shares];
        for (;;) {
            const unsigned index = kd__atomic_next(&w->next);
            if (index >= w->end) break;
            p->task(p->arg, (int)index, worker);
        }
        if (i && w->number && kd__atomic_turn(&w->state, KD__CALLED, KD__IDLE))
            p->task(p->arg, (int)w->first, worker);
    }
}

KD__PRIVATE void kd__worker_run(void *arg)
{
    kd__worker *w = (kd__worker *)arg;
    for (;;) {
        int state = kd__spin(&w->state, KD__IDLE);
        if (state == KD__IDLE && kd__atomic_turn(&w->state, KD__IDLE, KD__ASLEEP))
            kd__bell_wait(&w->bell, &w->state, KD__ASLEEP);
        else if (state == KD__ENDED)
            return;
        else if (kd__atomic_turn(&w->state, KD__CALLED, KD__WORKING)) {
            kd__pool_work(w->pool, w->number);
            if (kd__atomic_put(&w->state, KD__IDLE) == KD__AWAITED) kd__bell_ring(&w->pool->workers[0].bell);
        }
    }
}

/* Tells a thread to work or to end. In a child of fork() there is nobody, and the bell may be locked for ever. */
KD__PRIVATE void kd__worker_call(const kd__pool *p, kd__worker *w, int what)
{
    if (kd__atomic_put(&w->state, what) == KD__ASLEEP && p->process == kd__process()) kd__bell_ring(&w->bell);
}

/* Runs all tasks on the threads of the pool. Returns 0, having done nothing, where they are in use. */
KD__PRIVATE int kd__pool_run(kd__pool *p, int count, kd_task_fn task, void *arg)
{
    int i;
    if (kd__atomic_swap(&p->taken, p)) return 0;
    p->task = task;
    p->arg = arg;
    p->shares = KD__MIN(p->threads, count);
    for (i = 0; i < p->shares; ++i) {
        p->workers[i].first = (unsigned)((int64_t)count * i / p->shares);
        p->workers[i].end = (unsigned)((int64_t)count * (i + 1) / p->shares);
        p->workers[i].next = p->workers[i].first + (i > 0);
    }
    for (i = 1; i < p->shares; ++i) kd__worker_call(p, &p->workers[i], KD__CALLED);
    kd__pool_work(p, 0);
    for (i = 1; i < p->shares; ++i) {
        kd__worker *w = &p->workers[i];
        if (kd__spin(&w->state, KD__WORKING) == KD__WORKING && kd__atomic_turn(&w->state, KD__WORKING, KD__AWAITED))
            kd__bell_wait(&p->workers[0].bell, &w->state, KD__AWAITED);
    }
    (void)kd__atomic_swap(&p->taken, NULL);
    return 1;
}

KD__PRIVATE int kd__worker_start(kd__pool *p, int number)
{
    kd__worker *w = &p->workers[number];
    w->pool = p;
    w->number = number;
    w->thread.run = kd__worker_run;
    w->thread.arg = w;
    if (!kd__bell_open(&w->bell)) return 0;
    if (kd__thread_start(&w->thread)) return 1;
    kd__bell_close(&w->bell);
    return 0;
}
#endif

/* Ends the threads. A child of fork() has none, and no bell that could be taken down: it only gives back memory. */
KD__PRIVATE void kd__pool_close(kd_ctx *kd)
{
#if KD__THREADS
    kd__pool *p = kd->pool;
    int i;
    if (!p) return;
    if (p->process == kd__process()) {
        for (i = 1; i < p->threads; ++i) kd__worker_call(p, &p->workers[i], KD__ENDED);
        for (i = 1; i < p->threads; ++i) {
            kd__thread_join(&p->workers[i].thread);
            kd__bell_close(&p->workers[i].bell);
        }
        kd__bell_close(&p->workers[0].bell);
    }
    kd->pool = NULL;
    kd__free(kd, p);
#else
    (void)kd;
#endif
}

/* Starts what desc.threads asks for; then it says how many there are. */
KD__PRIVATE kd_result kd__pool_open(kd_ctx *kd)
{
    const int wanted = kd->desc.threads;
    if (wanted == 1 || kd->desc.parallel_for) return KD_OK;
    kd->desc.threads = 1;
#if KD__THREADS
    kd->pool = (kd__pool *)kd__alloc(kd, 1, sizeof(kd__pool) + (size_t)(wanted - 1) * sizeof(kd__worker));
    if (!kd->pool) return KD_ERR_MEMORY;
    kd->pool->process = kd__process();
    if (kd__bell_open(&kd->pool->workers[0].bell)) {
        while (kd->desc.threads < wanted && kd__worker_start(kd->pool, kd->desc.threads)) ++kd->desc.threads;
        kd->pool->threads = kd->desc.threads;
        if (kd->desc.threads == 1) kd__pool_close(kd);
    } else {
        kd__free(kd, kd->pool);
        kd->pool = NULL;
    }
#endif
    if (kd->desc.threads < wanted && kd->desc.threads_strict) return KD_ERR_UNSUPPORTED;
    if (kd->desc.threads < wanted)
        kd__log(kd, "kd_open: %d of %d threads could be started; all goes on with those, only slower",
                kd->desc.threads, wanted);
    return KD_OK;
}

/* ============================================================================================================
   >>random    counter-based random numbers
   uses: nothing
   Every number is a hash of (key, counter); a key is a hash of (seed, purpose, epoch or step, sample). Nothing is
   drawn in sequence, so neither threads nor skipped work can change what comes out.
   ============================================================================================================ */

enum {
    KD__RNG_INIT = 1,
    KD__RNG_SHUFFLE,
    KD__RNG_SPLIT,
    KD__RNG_AUGMENT,
    KD__RNG_MIXUP,
    KD__RNG_DROPOUT,
    KD__RNG_FEATURES,
    KD__RNG_ATTACK,
    KD__RNG_PROMPT,
    KD__RNG_PATE
};

/* SplitMix64's output function (Steele, Lea and Flood 2014): a bijection in which every input bit reaches every
   output bit. */
KD__PRIVATE uint64_t kd__mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

KD__PRIVATE uint64_t kd__rng_key(uint64_t seed, int purpose, uint64_t a, uint64_t b)
{
    return kd__mix(kd__mix(kd__mix(seed ^ kd__mix((uint64_t)purpose)) ^ a) ^ b);
}

KD__PRIVATE uint64_t kd__rng_bits(uint64_t key, uint64_t counter) { return kd__mix(key ^ kd__mix(counter)); }

/* Uniform in [0, 1), 53 bits. */
KD__PRIVATE double kd__rng_unit(uint64_t key, uint64_t counter)
{
    return (double)(kd__rng_bits(key, counter) >> 11) * (1.0 / 9007199254740992.0);
}

/* Uniform in [low, high]. */
KD__PRIVATE double kd__rng_range(uint64_t key, uint64_t counter, double low, double high)
{
    return low + (high - low) * kd__rng_unit(key, counter);
}

/* Uniform in 0 .. count - 1; the bias is below count / 2^64. */
KD__PRIVATE int kd__rng_index(uint64_t key, uint64_t counter, int count)
{
    return (int)(kd__rng_bits(key, counter) % (uint64_t)count);
}

/* ============================================================================================================
   >>math    double-precision functions that are the same everywhere
   uses: random
   libm's exp, log and cos differ in the last bit between C libraries, which would let a learning rate or a view of
   an image differ too. These use only +, -, *, / and are good to about 1e-14, which is plenty for their use.
   ============================================================================================================ */

KD__PRIVATE double kd__power_of_two(int n)
{
    double value = 1, factor = n < 0 ? 0.5 : 2.0;
    int i;
    for (i = n < 0 ? -n : n; i; i >>= 1, factor *= factor) {
        if (i & 1) value *= factor;
    }
    return value;
}

KD__PRIVATE double kd__exp(double x)
{
    const double ln2 = 0.69314718055994530942;
    double r, sum = 1;
    int n, i;
    if (x < -700) return 0;
    if (x > 700) x = 700;
    n = (int)(x / ln2 + (x < 0 ? -0.5 : 0.5));
    r = x - n * ln2;
    for (i = 14; i > 0; --i) sum = 1 + r * sum / i;
    return sum * kd__power_of_two(n);
}

/* The same for many x that are 0 or less, without divisions; below -700 it is 0. */
KD__PRIVATE double kd__exp_below(double x)
{
    static const double factors[] = {1 / 2.0,       1 / 6.0,        1 / 24.0,        1 / 120.0,
                                     1 / 720.0,     1 / 5040.0,     1 / 40320.0,     1 / 362880.0,
                                     1 / 3628800.0, 1 / 39916800.0, 1 / 479001600.0, 1 / 6227020800.0};
    uint64_t bits;
    double r, sum, power;
    int n, i;
    if (!(x >= -700)) return 0;
    n = (int)(x * 1.44269504088896340736 - 0.5);
    r = x - n * 0.69314718055994530942;
    sum = factors[11];
    for (i = 10; i >= 0; --i) sum = sum * r + factors[i];
    bits = (uint64_t)(1023 + n) << 52; /* 2^n */
    memcpy(&power, &bits, sizeof power);
    return (1 + (r + r * r * sum)) * power;
}

KD__PRIVATE double kd__log_of(double x)
{
    const double ln2 = 0.69314718055994530942;
    double z, z2, sum = 0;
    int n = 0, i;
    if (!(x > 0)) return -1e300;
    for (; x > 1.5; ++n) x *= 0.5;
    for (; x < 0.75; --n) x *= 2;
    z = (x - 1) / (x + 1); /* log x = 2 atanh z */
    z2 = z * z;
    for (i = 27; i > 0; i -= 2) sum = sum * z2 + 1.0 / i;
    return n * ln2 + 2 * z * sum;
}

/* cos and sin of an angle in radians, |angle| up to about 1e6. */
KD__PRIVATE void kd__cos_sin(double angle, double *cosine, double *sine)
{
    const double half_pi = 1.57079632679489661923;
    const double turns = angle / half_pi;
    const int quarter = (int)(turns + (turns < 0 ? -0.5 : 0.5));
    const double x = angle - quarter * half_pi, x2 = x * x;
    double c = 1, s = 1;
    int i;
    for (i = 16; i > 0; i -= 2) {
        c = 1 - c * x2 / (i * (i - 1));
        s = 1 - s * x2 / (i * (i + 1));
    }
    s *= x;
    switch (((quarter % 4) + 4) % 4) {
    case 0:
        *cosine = c;
        *sine = s;
        break;
    case 1:
        *cosine = -s;
        *sine = c;
        break;
    case 2:
        *cosine = -c;
        *sine = -s;
        break;
    default:
        *cosine = s;
        *sine = -c;
        break;
    }
}

/* The normal number `index` of those that belong to a key (Box and Muller 1958). */
KD__PRIVATE double kd__normal(uint64_t key, uint64_t index, double deviation)
{
    const double half = 1.0 / 18014398509481984.0; /* 2^-54: never 0 */
    const double u = kd__rng_unit(key, 2 * index) + half, v = kd__rng_unit(key, 2 * index + 1);
    double cosine, sine;
    kd__cos_sin(6.28318530717958647692 * v, &cosine, &sine);
    return deviation * sqrt(-2 * kd__log_of(u)) * cosine;
}

/* base^n for n >= 0, by squaring. */
KD__PRIVATE double kd__power(double base, int64_t n)
{
    double value = 1;
    for (; n > 0; n >>= 1, base *= base) {
        if (n & 1) value *= base;
    }
    return value;
}

/* ============================================================================================================
   >>dispatch    kernel table, one instance per instruction set
   uses: memory, threads
   Kernels are written once, in >>kernels, and compiled once per instruction set. KD__KERNELS has one line for each:
   it makes the members of the table and fills them. A context holds a pointer to the table it uses, so that two
   contexts in one program can use two instruction sets.
   ============================================================================================================ */

/* Activations: name in a model line, what their derivative is made from, default and meaning of their number. */
#define KD__ACTIVATIONS(X)                                                                                         \
    X(KD__RELU, "relu")                                                                                            \
    X(KD__RELU6, "relu6")                                                                                          \
    X(KD__LEAKYRELU, "leakyrelu")                                                                                  \
    X(KD__GELU, "gelu")                                                                                            \
    X(KD__SILU, "silu")                                                                                            \
    X(KD__HARDSWISH, "hardswish")                                                                                  \
    X(KD__SIGMOID, "sigmoid")                                                                                      \
    X(KD__TANH, "tanh")
enum {
    KD__IDENTITY,
#define KD__ITEM(name, word) name,
    KD__ACTIVATIONS(KD__ITEM)
#undef KD__ITEM
};

/* Cache lines that are about to be read or written, `step` floats apart, so that they can be on the way. */
typedef struct kd__soon {
    const float *at;
    ptrdiff_t lines, step;
} kd__soon;
#define KD__LINE 16                     /* floats in a cache line */

/* What tiles fetch beside their own work, and how many of its lines they have. */
typedef struct kd__ahead {
    kd__soon soon[2];
    ptrdiff_t fetched;
} kd__ahead;

/* C = A * B in tiles of registers. A is read a number at a time and broadcast, B and C a vector at a time.
   The reduction runs over `segs` segments of `run` numbers. Rows of C come in `blocks` blocks of `rows`: a
   convolution has a block for every line of the image.
   Every number of C is one chain of fused multiply-adds in the order of the reduction, starting from 0, from the
   bias or (accumulate) from C. So its bits depend on nothing but its own operands: not on tile or block sizes,
   not on the vector width, not on where the work was cut for threads.
   B and C may be panels: groups of `panel` columns (kd__kernels) stored one after the other, each with b_rows
   (c_rows) rows of kd__panel_width floats; reading starts at row b_first (c_first). Otherwise they are matrices
   with rows b_k (c_row) apart, and every row of B must be readable up to the next multiple of `lanes`.
   Rows of C may come in pairs that share a vector, if the kernels know them (kd__kernels.pairs) and C has no more
   than `narrow` columns: `rows` counts pairs then, the second row lies c_row / 2 behind the first, and A has the
   second's number behind each of the first. */
typedef struct kd__gemm {
    int rows, blocks, cols, segs, run;
    const float *a;
    ptrdiff_t a_row, a_block, a_k, a_seg;
    ptrdiff_t a_three; /* 0, or rows are a multiple of three: from the first of three to the first of the next */
    const float *b;
    ptrdiff_t b_k, b_seg;
    int b_rows, b_first;
    float *c;
    ptrdiff_t c_row, c_block;
    int c_rows, c_first;
    int c_transposed; /* c[column * c_row + row + block * c_block]; without panels in C */
    int pairs;        /* with panels in B only, and neither in threes nor with panels in C nor transposed */
    int accumulate;
    const float *bias; /* NULL or by column, readable like a row of B */
    int act;           /* KD__IDENTITY to KD__LEAKYRELU */
    float act_arg;
    int c_far;        /* C is in no near cache */
    kd__soon soon[2]; /* fetched meanwhile, one line with each row of B; without, the next panel is */
    float *pack;      /* or NULL: B, one panel of a matrix and one segment, is copied here as it is first read */
} kd__gemm;

/* One tile of that, with everything in floats already worked out for its corner. */
typedef struct kd__tile {
    int segs, run;
    const float *a, *b, *bias;
    ptrdiff_t a_row, a_three, a_k, a_seg, b_k, b_seg;
    float *c;
    ptrdiff_t c_row;
    int tail; /* columns of the last vector that exist */
    int accumulate, act;
    int c_far;
    const float *soon; /* to be fetched, soon_step floats with each row of B */
    ptrdiff_t soon_step;
    float *pack; /* where tile_packing stores rows of B, one after the other */
    float act_arg;
} kd__tile;
typedef void (*kd__tile_fn)(const kd__tile *t);

/* The geometry of a layer that slides a window over an image of one sample. Pixels are `channels` floats apart,
   lines in_row and out_row. */
typedef struct kd__window {
    int channels, in_h, in_w, out_h, out_w;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
    ptrdiff_t in_row, out_row;
} kd__window;

/* An image cut into tiles of 4 x 4 outputs, and what Winograd's algorithm makes of them: 36 planes, each a matrix
   with a row for every tile and a column for every channel. Lines have zeros beside them as far as tiles reach. */
enum { KD__WINO_PLANES = 36 };
typedef struct kd__tiles {
    int channels, h, w; /* of the image */
    ptrdiff_t row;
    int origin_h, origin_w; /* pixel that the first tile begins at */
    int across, down;       /* tiles of the image */
    int first, count;       /* those to do, counted line by line */
    ptrdiff_t tile, plane;  /* floats between tiles, a multiple of `lanes`, and between planes */
    const float *zeros;     /* 6 pixels, in the place of lines above and below the image */
    const float *bias;      /* of what is written: as in kd__gemm */
    int accumulate, act;
    float act_arg;
} kd__tiles;

/* Windows of 2 x 2 beside each other and inside the image, as most pooling has them. */
KD__PRIVATE int kd__window_halves(const kd__window *w)
{
    return w->kernel_h == 2 && w->kernel_w == 2 && w->stride_h == 2 && w->stride_w == 2 && w->pad_h == 0 &&
           w->pad_w == 0 && w->out_h <= w->in_h / 2 && w->out_w <= w->in_w / 2;
}

/* maxpool_grad reads the activations as well as the gradients, whose lines may be padded differently.
   maxpool_places_grad reads where the largest of each window was, as maxpool_places wrote it: 0 to 3 along the
   lines of windows that halve, or 4 for nowhere, without padding. */
typedef struct kd__pool_grads {
    kd__window x;
    ptrdiff_t dx_row, dy_row;
    int overwrite; /* of maxpool_places_grad: dx is written, not added to */
    int relu;      /* of maxpool_grad: x comes from one, whose derivative is applied, too */
} kd__pool_grads;

/* An image of one sample, seen by batch normalisation. */
typedef struct kd__image {
    int channels, h, w;
    ptrdiff_t row;
} kd__image;

typedef struct kd__row_loss {
    int rows, cols;
    const float *student, *teacher, *soft_labels;
    const int32_t *labels;
    float temperature, smoothing;
    float soft_value, soft_grad; /* what the KL of a row and its gradient's p_s - p_t are multiplied by */
    float hard_value, hard_grad;
    float *grad;   /* or NULL */
    float *value;  /* (rows) */
    float *powers; /* 2 * cols * kd__loss_abreast, for powers of e that the gradient needs again */
} kd__row_loss;
enum { KD__ROW_SOFT = 1, KD__ROW_HARD = 2, KD__ROW_GIVEN = 4 }; /* by a teacher, by labels, which are soft */

/* Rows that a loss takes every step with together, so that short ones need not wait for their sums. */
KD__PRIVATE int kd__loss_abreast(int cols) { return KD__MIN(16, KD__MAX(1, 1024 / cols)); }

/* What decays must end: a number that is multiplied by less than 1 in every step gets to where floats lose their
   digits (subnormals, below 2^-126), stays there, and costs every operation on it a hundred times as much. So what
   is kept from step to step becomes 0 below KD__TINY, 2^26 above that: far enough that its products with learning
   rates, decays and 1 - beta are no subnormals either, and far below what moves a weight. The second moment of Adam
   is a square: 2^-120, whose root is below any epsilon in use. Results are cut at KD__LEAST, where they would be
   subnormal. All by comparing and selecting: the same on every instruction set and in every mode of a processor. */
#define KD__TINY 7.88860905e-31f        /* 2^-100 */
#define KD__TINY_SQUARE 7.52316385e-37f /* 2^-120 */
#define KD__LEAST 1.17549435e-38f       /* 2^-126, the smallest normal float */

typedef struct kd__update {
    int optimizer, nesterov;
    float lr, momentum, decay, beta1, beta2, epsilon;
    float correction1, correction2; /* 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
    float grad_scale;
} kd__update;

/* Convolutions of planes of doubles that keep their size: y += weight (out, in, side, side) x. A plane is `count`
   numbers in lines of `pitch`. As far as the filter reaches beyond a plane, and beyond its lines, x has zeros. */
typedef struct kd__planes {
    int in, out, side, count;
    ptrdiff_t pitch, x_plane, y_plane;
    const float *weight;
    ptrdiff_t w_out, w_in; /* floats from one to the next */
    int turned;            /* the first of the (side, side) is the last one in memory */
    const double *x;
    double *y;        /* of planes_add */
    const double *dy; /* of planes_learn: like y, with zeros between the lines, for so many samples */
    int samples;
    ptrdiff_t x_sample, y_sample;
} kd__planes;
enum { KD__LEARN_OUTS = 3 };

/* return type, name, parameters */
/* Those that prediction calls, and those that only training does. */
#define KD__PREDICTION_KERNELS(X)                                                                                  \
    X(void, gemm, (const kd__gemm *g))                                                                             \
    X(void, dots, (const float *a, ptrdiff_t a_row, int rows, const float *x, int k, float *y))                    \
    X(void, transpose, (const float *src, ptrdiff_t src_row, int rows, int cols, float *dst, ptrdiff_t dst_row))   \
    X(void, copy, (const float *src, ptrdiff_t src_row, int rows, int cols, float *dst, ptrdiff_t dst_row))        \
    X(void, pair_up, (ptrdiff_t n, ptrdiff_t step, const float *x, float *pairs))                                  \
    X(void, act, (int kind, float arg, ptrdiff_t n, const float *x, float *y))                                     \
    X(void, add, (ptrdiff_t n, const float *a, const float *b, int act, float arg, float *y))                      \
    X(void, scale, (ptrdiff_t n, float factor, float *x))                                                          \
    X(void, column_sums, (const float *x, ptrdiff_t row, int rows, int cols, float *sums))                         \
    X(void, depthwise,                                                                                             \
      (const kd__window *w, const float *x, const float *weight, const float *bias, int act, float arg, float *y)) \
    X(void, winograd_read, (const kd__tiles *t, float *image, float *planes))                                      \
    X(void, winograd_write, (const kd__tiles *t, float *image, float *planes))                                     \
    X(void, winograd_weight, (ptrdiff_t n, float *taps, float *planes))                                            \
    X(void, maxpool, (const kd__window *w, const float *x, float *y))                                              \
    X(void, avgpool, (const kd__window *w, const float *x, float *y))                                              \
    X(void, norm_apply,                                                                                            \
      (const kd__image *i, const float *x, const float *mean, const float *scale, const float *shift, int act,     \
       float arg, float *y, ptrdiff_t y_row))                                                                      \
    X(void, softmax, (const float *x, int rows, int cols, float temperature, int logarithm, float *y))             \
    X(int, all_finite, (ptrdiff_t n, const float *x))                                                              \
    X(void, planes_add, (const kd__planes *p))                                                                     \
    X(void, from_bytes, (ptrdiff_t n, const uint8_t *bytes, float *x))                                             \
    X(void, normalise, (ptrdiff_t n, const float *x, float mean, float std, float *y))

#define KD__TRAINING_KERNELS(X)                                                                                    \
    X(void, act_grad,                                                                                              \
      (int kind, float arg, ptrdiff_t n, const float *xy, const float *dy, float *dx, int accumulate))             \
    X(void, depthwise_input_grad,                                                                                  \
      (const kd__window *w, const float *dy, const float *weight, float *dx, int accumulate))                      \
    X(void, depthwise_weight_grad, (const kd__window *w, const float *x, const float *dy, float *dw))              \
    X(void, winograd_read_grad, (const kd__tiles *t, float *image, float *planes))                                 \
    X(void, winograd_weight_grad, (ptrdiff_t n, float *taps, float *planes))                                       \
    X(void, maxpool_grad, (const kd__pool_grads *g, const float *x, const float *y, const float *dy, float *dx))   \
    X(void, maxpool_places, (const kd__window *w, const float *x, int relu, float *y, float *places))              \
    X(void, maxpool_places_grad, (const kd__pool_grads *g, const float *places, const float *dy, float *dx))       \
    X(void, avgpool_grad, (const kd__window *w, const float *dy, float *dx))                                       \
    X(void, norm_stats, (const kd__image *i, const float *x, float *mean, float *m2))                              \
    X(void, norm_grad_stats,                                                                                       \
      (const kd__image *i, const float *x, const float *dy, ptrdiff_t dy_row, const float *mean,                   \
       const float *inv_std, float *sum_dy, float *sum_dy_xhat))                                                   \
    X(void, norm_grad,                                                                                             \
      (const kd__image *i, const float *x, const float *dy, ptrdiff_t dy_row, const float *mean,                   \
       const float *inv_std, const float *factor, const float *mean_dy, const float *mean_dy_xhat, float *dx,      \
       ptrdiff_t dx_row, int accumulate))                                                                          \
    X(void, dropout,                                                                                               \
      (ptrdiff_t n, uint32_t key0, uint32_t key1, float drop, float scale, const float *x, float *y,               \
       int accumulate))                                                                                            \
    X(void, log_mix,                                                                                               \
      (ptrdiff_t n, int count, const float *const *x, const float *log_weight, float scale, float *y))             \
    X(void, row_loss, (const kd__row_loss *l))                                                                     \
    X(void, mse_loss, (const kd__row_loss *l))                                                                     \
    X(void, bce_loss, (const kd__row_loss *l))                                                                     \
    X(double, sum_squares, (ptrdiff_t n, const float *x))                                                          \
    X(void, update, (const kd__update *u, ptrdiff_t n, float *w, const float *g, float *m, float *v))              \
    X(void, limit_norms, (float *w, ptrdiff_t row, int rows, int cols, float limit))                               \
    X(void, planes_learn, (const kd__planes *p, int outs, float *weight_grad))

#define KD__KERNELS(X) KD__PREDICTION_KERNELS(X) KD__TRAINING_KERNELS(X)

struct kd__kernels {
    kd_isa isa;
    int lanes;  /* floats in a vector */
    int narrow; /* floats in the narrowest vector that gemm uses */
    int panel;  /* columns in a panel */
    int rows;   /* rows in the tallest tile */
    int pairs;  /* whether gemm takes rows in pairs */
#define KD__ITEM(type, name, parameters) type(*name) parameters;
    KD__KERNELS(KD__ITEM)
#undef KD__ITEM
};

/* Stored width of the panel that starts with `left` columns to go. */
KD__PRIVATE int kd__panel_width(const kd__kernels *k, int left)
{
    if (left >= k->panel) return k->panel;
    if (left <= k->narrow) return k->narrow;
    return (left + k->lanes - 1) / k->lanes * k->lanes;
}

/* Columns as stored, all panels together. */
KD__PRIVATE int kd__panel_columns(const kd__kernels *k, int cols)
{
    return cols / k->panel * k->panel + (cols % k->panel ? kd__panel_width(k, cols % k->panel) : 0);
}

#define KD__JOIN2(a, b) a##_##b
#define KD__JOIN(a, b) KD__JOIN2(a, b)
#define KD__FN(name) KD__JOIN(kd__##name, KD__ISA) /* kd__gemm_avx2 */

/* Kernels are most of what a compiler has to do here. The tests compile them once for all of their programs. */
#ifndef KD__KERNEL_LINKAGE
#define KD__KERNEL_LINKAGE static
#endif
#ifdef KD__KERNELS_APART
extern const kd__kernels kd__table_scalar;
#if KD__X86
extern const kd__kernels kd__table_avx2, kd__table_avx512;
#endif
#if KD__ARM64
extern const kd__kernels kd__table_neon;
#endif
#else
#if defined(KD_NO_TRAIN) && defined(__GNUC__)
#pragma GCC diagnostic push /* the table does not name the kernels of training, and so they are dropped */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#ifdef __has_include
#if !__has_include(KD__HEADER_FILENAME)
#error "kd.h: includes itself again and does not find itself; if it was renamed, define KD__HEADER_FILENAME"
#endif
#endif
#define KD__PROBE
#include KD__HEADER_FILENAME
#if !defined(KD__PROBED) || KD__PROBED != KD_VERSION_MAJOR * 65536 + KD_VERSION_MINOR * 256 + KD_VERSION_PATCH
#error "kd.h: includes itself again and finds another file; if it was renamed, define KD__HEADER_FILENAME"
#endif
#undef KD__PROBED
#define KD__TEMPLATE
#define KD__ISA scalar
#define KD__ISA_ID 1 /* KD_ISA_SCALAR: the preprocessor cannot see enumerators */
#include KD__HEADER_FILENAME
#if KD__X86
KD__TARGET_BEGIN("avx2,fma")
#define KD__ISA avx2
#define KD__ISA_ID 2
#include KD__HEADER_FILENAME
KD__TARGET_END
#if defined(__cplusplus) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push /* g++ 12 complains of its own <immintrin.h> */
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
KD__TARGET_BEGIN("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#define KD__ISA avx512
#define KD__ISA_ID 3
#include KD__HEADER_FILENAME
KD__TARGET_END
#if defined(__cplusplus) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
#if KD__ARM64
#define KD__ISA neon
#define KD__ISA_ID 4
#include KD__HEADER_FILENAME
#endif
#undef KD__TEMPLATE
#if defined(KD_NO_TRAIN) && defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
#endif /* KD__KERNELS_APART */

KD__PRIVATE const kd__kernels *kd__kernels_for(kd_isa isa)
{
    switch (isa) {
    case KD_ISA_SCALAR: return &kd__table_scalar;
#if KD__X86
    case KD_ISA_AVX2: return &kd__table_avx2;
    case KD_ISA_AVX512: return &kd__table_avx512;
#endif
#if KD__ARM64
    case KD_ISA_NEON: return &kd__table_neon;
#endif
    default: return NULL;
    }
}

KDDEF const char *kd_version(void) { return KD_VERSION; }

KDDEF const char *kd_isa_name(kd_isa isa)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_ISAS(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)isa < (unsigned)KD_ISA_COUNT ? words[isa] : "unknown";
}

KDDEF int kd_isa_available(kd_isa isa)
{
    if (isa == KD_ISA_AUTO) return 1;
    return (unsigned)isa < (unsigned)KD_ISA_COUNT && ((kd__cpu_detect().isas >> isa) & 1u) && kd__kernels_for(isa);
}

KDDEF const char *kd_result_name(kd_result result)
{
    switch (result) {
#define KD__ITEM(name, value, meaning)                                                                             \
    case name:                                                                                                     \
        return #name;
        KD_RESULTS(KD__ITEM)
#undef KD__ITEM
    default: return "unknown result";
    }
}

KDDEF const char *kd_result_meaning(kd_result result)
{
    switch (result) {
#define KD__ITEM(name, value, meaning)                                                                             \
    case name:                                                                                                     \
        return meaning;
        KD_RESULTS(KD__ITEM)
#undef KD__ITEM
    default: return "unknown result";
    }
}

KDDEF kd_ctx_desc kd_ctx_defaults(void)
{
    kd_ctx_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.cookie = KD__COOKIE;
    desc.allocator.alloc = kd__malloc_alloc;
    desc.allocator.free = kd__malloc_free;
    desc.threads = 1;
#ifndef KD_NO_STDIO
    desc.io.open = kd__stdio_open;
    desc.io.read = kd__stdio_read;
    desc.io.write = kd__stdio_write;
    desc.io.size = kd__stdio_size;
    desc.io.sync = kd__stdio_sync;
    desc.io.close = kd__stdio_close;
    desc.io.replace = kd__stdio_replace;
    desc.io.remove = kd__stdio_remove;
#endif
    return desc;
}

/* All functions for files, or none. */
KD__PRIVATE kd_result kd__io_whole(const kd_ctx *kd)
{
    const kd_io *io = &kd->desc.io;
    const char *missing = NULL;
    int there = 0;
#define KD__ITEM(name) io->name ? (void)++there : (void)(missing = #name);
    KD__ITEM(open)
    KD__ITEM(read)
    KD__ITEM(write)
    KD__ITEM(size)
    KD__ITEM(sync)
    KD__ITEM(close)
    KD__ITEM(replace)
    KD__ITEM(remove)
#undef KD__ITEM
    if (!missing || !there) return KD_OK;
    kd__log(kd, "kd_open: kd_ctx_desc.io has %d functions, but no %s: all of them are needed, or none", there,
            missing);
    return KD_ERR_ARGUMENT;
}

KDDEF kd_result kd_open(const kd_ctx_desc *desc, kd_ctx **out)
{
    const kd_ctx_desc defaults = kd_ctx_defaults();
    kd__cpu cpu;
    kd_isa isa;
    kd_ctx *kd;
    kd_result result;
    if (!out) return KD_ERR_ARGUMENT;
    *out = NULL;
    if (!desc) desc = &defaults;
    if (desc->cookie != KD__COOKIE) return KD_ERR_DEFAULTS;
    if (!desc->allocator.alloc || !desc->allocator.free) return KD_ERR_ARGUMENT;
    if (desc->threads < 1 || desc->threads > KD__MAX_THREADS) return KD_ERR_ARGUMENT;
    cpu = kd__cpu_detect();
    isa = desc->isa;
    if (isa == KD_ISA_AUTO) {
        for (isa = (kd_isa)(KD_ISA_COUNT - 1); !((cpu.isas >> isa) & 1u) || !kd__kernels_for(isa);)
            isa = (kd_isa)(isa - 1);
    }
    if ((unsigned)isa >= (unsigned)KD_ISA_COUNT || !((cpu.isas >> isa) & 1u) || !kd__kernels_for(isa))
        return KD_ERR_UNSUPPORTED;
    kd = (kd_ctx *)desc->allocator.alloc(desc->allocator.user, sizeof *kd);
    if (!kd) return KD_ERR_MEMORY;
    memset(kd, 0, sizeof *kd);
    kd->desc = *desc;
    kd->cpu = cpu;
    kd->isa = isa;
    kd->k = kd__kernels_for(isa);
    result = kd__io_whole(kd);
    if (result == KD_OK) result = kd__pool_open(kd);
    if (result == KD_OK)
        *out = kd;
    else
        kd_close(kd);
    return result;
}

KDDEF void kd_close(kd_ctx *kd)
{
    kd_allocator allocator;
    if (!kd) return;
    allocator = kd->desc.allocator;
    kd__pool_close(kd);
    kd__free(kd, kd->scratch);
    allocator.free(allocator.user, kd, sizeof *kd);
}

KDDEF const char *kd_error(const kd_ctx *kd) { return kd ? kd->error : ""; }

KDDEF kd_isa kd_ctx_isa(const kd_ctx *kd) { return kd->isa; }

KDDEF int kd_ctx_threads(const kd_ctx *kd)
{
#if KD__THREADS
    if (kd->pool && kd->pool->process != kd__process()) return 1;
#endif
    return kd->desc.threads;
}

/* ============================================================================================================
   >>parallel    tasks over threads
   uses: memory, threads
   ============================================================================================================ */

KD__PRIVATE void kd__parallel(const kd_ctx *kd, int count, kd_task_fn task, void *arg)
{
    int i;
    if (kd->desc.threads > 1 && count > 1) {
        if (kd->desc.parallel_for) {
            kd->desc.parallel_for(kd->desc.parallel_user, count, task, arg);
            return;
        }
#if KD__THREADS
        if (kd->pool && kd__pool_run(kd->pool, count, task, arg)) return;
#endif
    }
    for (i = 0; i < count; ++i) task(arg, i, 0);
}

/* Elementwise work over one array, cut into pieces that do not depend on the number of threads. */
enum { KD__PIECE = 1 << 14 };

KD__PRIVATE int kd__pieces(ptrdiff_t n) { return (int)((n + KD__PIECE - 1) / KD__PIECE); }

KD__PRIVATE ptrdiff_t kd__piece_length(ptrdiff_t n, int piece)
{
    return KD__MIN((ptrdiff_t)KD__PIECE, n - (ptrdiff_t)piece * KD__PIECE);
}

/* ============================================================================================================
   >>gemm    matrix multiplication: packing, blocking
   uses: dispatch, parallel
   The kernel multiplies U, read number by number, with V, read vector by vector. Where V would have to be turned
   (A * B^T), the smaller operand is turned instead and C comes out transposed, which the tile's last step undoes.
   Three ways:
   - directly: V is read where it lies, for few rows, and for a V that is narrow;
   - by panels: a panel of V is packed as it is first read, all of U stays in the second-level cache. Where columns
     of U lie along memory it is packed, too: each number of a tile would come from another page;
   - by blocks (Goto and van de Geijn 2008), where U does not stay there: V is packed first, width x depth in the
     third-level cache, and few rows of U at a time in the second, so that what tiles write of C lies in few pages.
     If all of V stays in the second, rows of U are read once, where they lie.
   ============================================================================================================ */

typedef struct kd__matmul {
    const kd__kernels *k;
    int rows, cols, depth;
    const float *u, *v;
    ptrdiff_t u_row, u_k;
    ptrdiff_t v_row; /* between rows of V, if v_turned is 0; else between stored rows, which are V's columns */
    int v_turned;
    float alpha;
    float *c;
    ptrdiff_t c_row;
    int c_transposed, accumulate;
    float *worker_scratch;
    size_t worker_floats;
    int strips, strip_rows; /* rows are cut into strips of this many */
    int group_cols;         /* columns of one task of the first way */
    int tall;               /* rows of a tile of packed U */
    float *packed;          /* all of U in such tiles, or NULL */
    /* one block of the third way */
    int pack_u;
    float *shared;
    int col0, cols_now, k0, k_now, row_blocks;
} kd__matmul;

enum { KD__MATMUL_WIDTH = 2048, KD__MATMUL_ROWS = 56 /* of U in a block */ };

/* How many parts of at most `most` make up the whole, which is 1 or more. */
KD__PRIVATE int kd__parts(int whole, int most) { return (whole - 1) / most + 1; }

/* The largest part when a whole is cut into as few parts of at most `most` as will do, about equal. */
KD__PRIVATE int kd__even_share(int whole, int most) { return kd__parts(whole, kd__parts(whole, most)); }

/* Columns col to col + count of V, rows k0 to k0 + depth, as one panel. */
KD__PRIVATE void kd__matmul_pack_v(const kd__matmul *p, int col, int count, int k0, int depth, float *panel)
{
    const int width = kd__panel_width(p->k, count);
    const float *from = p->v_turned ? p->v + col * p->v_row + k0 : p->v + k0 * p->v_row + col;
    count = KD__MIN(count, width);
    if (count < width) memset(panel, 0, (size_t)depth * (size_t)width * sizeof *panel);
    if (p->v_turned)
        p->k->transpose(from, p->v_row, count, depth, panel, width);
    else
        p->k->copy(from, p->v_row, depth, count, panel, width);
    if (p->alpha != 1) p->k->scale((ptrdiff_t)depth * width, p->alpha, panel);
}

/* Rows of U from `first`, a multiple of `tall`, k0 to k0 + depth, as tiles. */
KD__PRIVATE void kd__matmul_pack_u(const kd__matmul *p, int first, int rows, int k0, int depth, float *tiles)
{
    const int tall = p->tall;
    int row;
    for (row = 0; row < rows; row += tall) {
        const float *from = p->u + (first + row) * p->u_row + k0 * p->u_k;
        const int count = KD__MIN(tall, rows - row);
        if (p->u_k == 1)
            p->k->transpose(from, p->u_row, count, depth, tiles + (ptrdiff_t)row * depth, tall);
        else
            p->k->copy(from, p->u_k, depth, count, tiles + (ptrdiff_t)row * depth, tall);
    }
}

/* Asks for the panel that begins at a column: the processor does not foresee what lies rows apart. */
KD__PRIVATE void kd__matmul_fetch_v(const kd__matmul *p, int col, kd__soon soon[2])
{
    const int count = KD__MIN(p->cols - col, p->k->panel);
    int i;
    for (i = 0; i < 2 && i * KD__LINE < count; ++i) {
        soon[i].at = p->v + col + i * KD__LINE;
        soon[i].lines = p->depth;
        soon[i].step = p->v_row;
    }
}

KD__PRIVATE void kd__matmul_describe(const kd__matmul *p, int row, int col, kd__gemm *g)
{
    memset(g, 0, sizeof *g);
    g->blocks = 1;
    g->segs = 1;
    g->c = p->c_transposed ? p->c + col * p->c_row + row : p->c + row * p->c_row + col;
    g->c_row = p->c_row;
    g->c_transposed = p->c_transposed;
    g->accumulate = p->accumulate;
}

/* Multiplies `rows` rows of U, packed from `tiles` on; everything but U and its rows is described. */
KD__PRIVATE void kd__matmul_tiles(const kd__matmul *p, const float *tiles, int rows, kd__gemm *g)
{
    g->a = tiles;
    g->a_row = 1;
    g->a_k = g->rows = p->tall;
    g->a_block = (ptrdiff_t)p->tall * g->run;
    g->c_block = p->c_transposed ? p->tall : p->tall * p->c_row;
    g->blocks = rows / p->tall;
    if (g->blocks) p->k->gemm(g);
    if (rows % p->tall) {
        if (g->pack) g->b = g->pack, g->b_rows = g->run, g->pack = NULL; /* packed by now */
        g->a += g->blocks * g->a_block;
        g->c += g->blocks * g->c_block;
        g->rows = rows % p->tall;
        g->blocks = 1;
        p->k->gemm(g);
    }
}

/* The same with rows where they lie. */
KD__PRIVATE void kd__matmul_rows(const kd__matmul *p, int row, int rows, int k0, kd__gemm *g)
{
    g->rows = rows;
    g->a = p->u + row * p->u_row + k0 * p->u_k;
    g->a_row = p->u_row;
    g->a_k = p->u_k;
    p->k->gemm(g);
}

/* First way: a group of columns and a strip of rows. Only columns that are no whole vectors are packed. */
KD__PRIVATE void kd__matmul_direct(void *arg, int index, int worker)
{
    const kd__matmul *p = (const kd__matmul *)arg;
    const int col = index / p->strips * p->group_cols, row = index % p->strips * p->strip_rows;
    const int cols = KD__MIN(p->group_cols, p->cols - col), rows = KD__MIN(p->strip_rows, p->rows - row);
    const int whole = cols % p->k->lanes == 0 ? cols : cols / p->k->panel * p->k->panel;
    kd__gemm g;
    if (whole > 0) {
        kd__matmul_describe(p, row, col, &g);
        g.cols = whole;
        g.run = p->depth;
        g.b = p->v + col;
        g.b_k = p->v_row;
        kd__matmul_rows(p, row, rows, 0, &g);
    }
    if (whole < cols) {
        float *panel = p->worker_scratch + (size_t)worker * p->worker_floats;
        kd__matmul_pack_v(p, col + whole, cols - whole, 0, p->depth, panel);
        kd__matmul_describe(p, row, col + whole, &g);
        g.cols = cols - whole;
        g.run = p->depth;
        g.b = panel;
        g.b_rows = p->depth;
        kd__matmul_rows(p, row, rows, 0, &g);
    }
}

/* Second way: one panel and one strip of rows. */
KD__PRIVATE void kd__matmul_panel(void *arg, int index, int worker)
{
    const kd__matmul *p = (const kd__matmul *)arg;
    float *panel = p->worker_scratch + (size_t)worker * p->worker_floats;
    const int col = index / p->strips * p->k->panel, row = index % p->strips * p->strip_rows;
    const int rows = KD__MIN(p->strip_rows, p->rows - row);
    kd__gemm g;
    kd__matmul_describe(p, row, col, &g);
    g.cols = KD__MIN(p->k->panel, p->cols - col);
    g.run = p->depth;
    if (!p->v_turned && p->alpha == 1 && g.cols == p->k->panel && rows >= p->k->rows &&
        (!p->packed || p->tall == p->k->rows)) {
        g.b = p->v + col;
        g.b_k = p->v_row;
        g.pack = panel;
    } else {
        kd__matmul_pack_v(p, col, g.cols, 0, p->depth, panel);
        g.b = panel;
        g.b_rows = p->depth;
    }
    if (!p->v_turned) kd__matmul_fetch_v(p, col + p->k->panel, g.soon);
    if (p->packed)
        kd__matmul_tiles(p, p->packed + (ptrdiff_t)row * p->depth, rows, &g);
    else
        kd__matmul_rows(p, row, rows, 0, &g);
}

KD__PRIVATE void kd__matmul_pack_strip(void *arg, int index, int worker)
{
    const kd__matmul *p = (const kd__matmul *)arg;
    const int row = index * p->strip_rows;
    (void)worker;
    kd__matmul_pack_u(p, row, KD__MIN(p->strip_rows, p->rows - row), 0, p->depth,
                      p->packed + (ptrdiff_t)row * p->depth);
}

/* Third way: packing one panel of the shared block of V ... */
KD__PRIVATE void kd__matmul_share(void *arg, int index, int worker)
{
    const kd__matmul *p = (const kd__matmul *)arg;
    const int col = index * p->k->panel;
    (void)worker;
    kd__matmul_pack_v(p, p->col0 + col, KD__MIN(p->k->panel, p->cols_now - col), p->k0, p->k_now,
                      p->shared + (ptrdiff_t)col * p->k_now);
}

/* Where a block of rows begins: all are whole tiles, and none has two more of them than another. */
KD__PRIVATE int kd__matmul_block_row(const kd__matmul *p, int index)
{
    const int tiles = kd__parts(p->rows, p->tall);
    return KD__MIN(p->rows, (int)((int64_t)tiles * index / p->row_blocks) * p->tall);
}

/* ... and multiplying it with one block of rows of U. */
KD__PRIVATE void kd__matmul_block(void *arg, int index, int worker)
{
    const kd__matmul *p = (const kd__matmul *)arg;
    float *tiles = p->worker_scratch + (size_t)worker * p->worker_floats;
    const int first = kd__matmul_block_row(p, index), rows = kd__matmul_block_row(p, index + 1) - first;
    kd__gemm g;
    kd__matmul_describe(p, first, p->col0, &g);
    g.cols = p->cols_now;
    g.run = p->k_now;
    g.b = p->shared;
    g.b_rows = p->k_now;
    g.accumulate = p->accumulate || p->k0 > 0;
    if (p->pack_u) {
        kd__matmul_pack_u(p, first, rows, p->k0, p->k_now, tiles);
        kd__matmul_tiles(p, tiles, rows, &g);
    } else {
        kd__matmul_rows(p, first, rows, p->k0, &g);
    }
}

/* At least `count` floats that stay until the next call. */
KD__PRIVATE float *kd__scratch(kd_ctx *kd, size_t count)
{
    if (count > kd->scratch_count) {
        float *bigger = KD__NEW(kd, float, count);
        if (!bigger) return NULL;
        kd__free(kd, kd->scratch);
        kd->scratch = bigger;
        kd->scratch_count = count;
    }
    return kd->scratch;
}

/* Strips of whole tiles, as many as make every thread work where there are `columns` pieces of each. */
KD__PRIVATE void kd__matmul_cut_rows(kd__matmul *p, int threads, int columns)
{
    const int tiles = kd__parts(p->rows, p->tall);
    p->strips = threads == 1 || columns >= 2 * threads ? 1 : KD__MIN(2 * threads, kd__parts(tiles, 4));
    p->strip_rows = kd__parts(tiles, p->strips) * p->tall;
    p->strips = kd__parts(p->rows, p->strip_rows);
}

KD__PRIVATE kd_result kd__matmul_run_direct(kd_ctx *kd, kd__matmul *p)
{
    const int threads = kd->desc.threads, step = 3 * p->k->panel; /* panels of two and of three vectors */
    const int groups = threads == 1 ? 1 : KD__MIN(2 * threads, kd__parts(p->cols, step));
    p->group_cols = kd__parts(KD__MIN(kd__parts(p->cols, groups), 1 << 20), step) * step;
    kd__matmul_cut_rows(p, threads, groups);
    if (p->cols % p->k->lanes) {
        p->worker_floats = kd__times((size_t)p->depth, (size_t)p->k->panel);
        p->worker_scratch = kd__scratch(kd, kd__times(p->worker_floats, (size_t)threads));
        if (!p->worker_scratch) return KD_ERR_MEMORY;
    }
    kd__parallel(kd, kd__parts(p->cols, p->group_cols) * p->strips, kd__matmul_direct, p);
    return KD_OK;
}

KD__PRIVATE kd_result kd__matmul_run_panels(kd_ctx *kd, kd__matmul *p)
{
    const int threads = kd->desc.threads, panels = kd__parts(p->cols, p->k->panel);
    const int pack_u = p->u_k != 1 && p->rows > p->tall && panels >= 4;
    size_t floats, packed = 0;
    kd__matmul_cut_rows(p, threads, panels);
    p->worker_floats = kd__times((size_t)p->depth, (size_t)p->k->panel);
    floats = kd__times(p->worker_floats, (size_t)threads);
    if (pack_u) packed = kd__times(kd__times((size_t)p->strips, (size_t)p->strip_rows), (size_t)p->depth);
    p->worker_scratch = kd__scratch(kd, kd__plus(floats, packed));
    if (!p->worker_scratch) return KD_ERR_MEMORY;
    if (pack_u) {
        p->packed = p->worker_scratch + floats;
        kd__parallel(kd, p->strips, kd__matmul_pack_strip, p);
    }
    kd__parallel(kd, panels * p->strips, kd__matmul_panel, p);
    return KD_OK;
}

KD__PRIVATE kd_result kd__matmul_run_blocks(kd_ctx *kd, kd__matmul *p, int v_fits)
{
    const kd__kernels *k = p->k;
    const int threads = kd->desc.threads, tiles = kd__parts(p->rows, p->tall);
    const int width = v_fits ? p->cols : (int)KD__MATMUL_WIDTH;
    int depth = (int)(kd->cpu.l2 / 8 / (ptrdiff_t)sizeof(float)) / k->panel, most;
    depth = KD__MIN(KD__MAX(depth, 256), 1024);
    depth = v_fits ? p->depth : kd__even_share(p->depth, depth);
    p->pack_u = !v_fits || p->u_k != 1;
    most = KD__MIN((int)KD__MATMUL_ROWS, (int)(kd->cpu.l2 / 4 / (ptrdiff_t)sizeof(float) / depth));
    most = KD__MAX(1, most / p->tall);
    p->row_blocks = kd__parts(tiles, most);
    if (threads > 1) { /* as many blocks for one as for another */
        p->row_blocks = KD__MAX(p->row_blocks, 2 * threads);
        p->row_blocks = KD__MIN(tiles, kd__parts(p->row_blocks, threads) * threads);
    }
    most = kd__parts(tiles, p->row_blocks);
    p->worker_floats = p->pack_u ? (size_t)most * (size_t)p->tall * (size_t)depth : 0;
    p->worker_scratch =
        kd__scratch(kd, p->worker_floats * (size_t)threads + (size_t)depth * (size_t)(width + k->panel));
    if (!p->worker_scratch) return KD_ERR_MEMORY;
    p->shared = p->worker_scratch + p->worker_floats * (size_t)threads;
    for (p->col0 = 0; p->col0 < p->cols; p->col0 += p->cols_now) {
        p->cols_now = KD__MIN(width, p->cols - p->col0);
        for (p->k0 = 0; p->k0 < p->depth; p->k0 += depth) {
            p->k_now = KD__MIN(depth, p->depth - p->k0);
            kd__parallel(kd, kd__parts(p->cols_now, k->panel), kd__matmul_share, p);
            kd__parallel(kd, p->row_blocks, kd__matmul_block, p);
        }
    }
    return KD_OK;
}

KD__PRIVATE kd_result kd__matmul_run(kd_ctx *kd, kd__matmul *p)
{
    const kd__kernels *k = p->k;
    const size_t l2 = (size_t)kd->cpu.l2, row_bytes = kd__times((size_t)p->depth, sizeof(float));
    const size_t u_bytes = kd__times((size_t)p->rows, row_bytes);
    const size_t v_bytes = kd__times((size_t)p->cols, row_bytes);
    p->tall = kd__even_share(p->rows, k->rows);
    if (!p->v_turned && p->alpha == 1 && (p->rows <= 5 * k->rows || p->v_row <= 2 * k->panel))
        return kd__matmul_run_direct(kd, p);
    if (p->cols <= k->panel || u_bytes <= l2 / 4) return kd__matmul_run_panels(kd, p);
    if (v_bytes <= l2 / 2) return kd__matmul_run_blocks(kd, p, 1);
    return u_bytes <= l2 / 4 * 3 ? kd__matmul_run_panels(kd, p) : kd__matmul_run_blocks(kd, p, 0);
}

/* A single row or column of C whose matrix has the reduction along memory: dot products, nothing packed. */
KD__PRIVATE kd_result kd__matmul_dots(kd_ctx *kd, int count, int depth, const float *matrix, ptrdiff_t row,
                                      const float *x, ptrdiff_t x_step, float alpha, float beta, float *c,
                                      ptrdiff_t c_step)
{
    float y[256];
    int first, i;
    if (x_step != 1) {
        float *packed = kd__scratch(kd, (size_t)depth);
        if (!packed) return KD_ERR_MEMORY;
        for (i = 0; i < depth; ++i) packed[i] = x[i * x_step];
        x = packed;
    }
    for (first = 0; first < count; first += KD__COUNT(y)) {
        const int now = KD__MIN(KD__COUNT(y), count - first);
        kd->k->dots(matrix + first * row, row, now, x, depth, y);
        for (i = 0; i < now; ++i) {
            float *to = c + (first + i) * c_step;
            const float product = alpha * y[i], kept = beta != 0 ? beta * *to : 0;
            *to = kept + product;
        }
    }
    return KD_OK;
}

KDDEF kd_result kd_sgemm(kd_ctx *kd, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                         int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    kd__matmul p;
    int i;
    if (!kd) return KD_ERR_ARGUMENT;
    if (m < 0 || n < 0 || k < 0)
        return kd__fail(kd, KD_ERR_ARGUMENT, "kd_sgemm: sizes must not be negative, got m = %d, n = %d, k = %d", m,
                        n, k);
    if (m == 0 || n == 0) return KD_OK;
    if (!c || (k > 0 && alpha != 0 && (!a || !b)))
        return kd__fail(kd, KD_ERR_ARGUMENT, "kd_sgemm: a, b and c must not be NULL");
    if (lda < (trans_a ? m : k) || ldb < (trans_b ? k : n) || ldc < n)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "kd_sgemm: rows overlap: lda = %d, ldb = %d, ldc = %d for m = %d, n = %d, k = %d", lda, ldb,
                        ldc, m, n, k);
    if (k > 0 && alpha != 0) {
        if (m == 1 && trans_b) return kd__matmul_dots(kd, n, k, b, ldb, a, trans_a ? lda : 1, alpha, beta, c, 1);
        if (n == 1 && !trans_a) return kd__matmul_dots(kd, m, k, a, lda, b, trans_b ? 1 : ldb, alpha, beta, c, ldc);
    }
    if (beta != 1) {
        for (i = 0; i < m; ++i) {
            if (beta != 0)
                kd->k->scale(n, beta, c + (ptrdiff_t)i * ldc);
            else if (k == 0 || alpha == 0)
                memset(c + (ptrdiff_t)i * ldc, 0, (size_t)n * sizeof *c);
        }
    }
    if (k == 0 || alpha == 0) return KD_OK;
    memset(&p, 0, sizeof p);
    p.k = kd->k;
    p.depth = k;
    p.alpha = alpha;
    p.c = c;
    p.c_row = ldc;
    p.accumulate = beta != 0;
    /* A^T B^T = (B A)^T needs no turning at all; A B^T turns A if that is less. */
    p.c_transposed = trans_b && (trans_a || m < n);
    if (p.c_transposed) {
        p.rows = n, p.cols = m;
        p.u = b, p.u_row = ldb, p.u_k = 1;
        p.v = a, p.v_row = lda, p.v_turned = !trans_a;
    } else {
        p.rows = m, p.cols = n;
        p.u = a, p.u_row = trans_a ? 1 : lda, p.u_k = trans_a ? lda : 1;
        p.v = b, p.v_row = ldb, p.v_turned = trans_b;
    }
    return kd__matmul_run(kd, &p);
}

/* ============================================================================================================
   >>softmax    softmax, log-softmax
   uses: gemm, math
   ============================================================================================================ */

/* Rows are worked on in groups of about 16k numbers, a multiple of 16 rows, whatever the number of threads. */
KD__PRIVATE int kd__rows_per_task(int cols)
{
    const int rows = (1 << 14) / KD__MAX(cols, 1);
    return KD__MAX(16, rows / 16 * 16);
}

/* Into how many of them rows fall. */
KD__PRIVATE int kd__row_tasks(int rows, int cols)
{
    const int step = kd__rows_per_task(cols);
    return rows / step + (rows % step != 0);
}

typedef struct kd__softmax_task {
    const kd__kernels *k;
    const float *x;
    float *y, temperature;
    int rows, cols, logarithm;
} kd__softmax_task;

KD__PRIVATE void kd__softmax_rows(void *arg, int index, int worker)
{
    const kd__softmax_task *t = (const kd__softmax_task *)arg;
    const int step = kd__rows_per_task(t->cols), first = index * step;
    const ptrdiff_t at = (ptrdiff_t)first * t->cols;
    (void)worker;
    t->k->softmax(t->x + at, KD__MIN(step, t->rows - first), t->cols, t->temperature, t->logarithm, t->y + at);
}

KD__PRIVATE kd_result kd__softmax_run(kd_ctx *kd, const char *where, const float *logits, int rows, int cols,
                                      float temperature, int logarithm, float *out)
{
    kd__softmax_task task;
    if (!kd) return KD_ERR_ARGUMENT;
    if (rows < 0 || cols < 0 || ((!logits || !out) && rows > 0 && cols > 0))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: logits of %d rows and %d columns, or a NULL pointer", where, rows,
                        cols);
    if (!(temperature > 0) || !kd__is_finite((double)temperature))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: the temperature must be above 0, got %s", where,
                        kd__number((double)temperature, 6).chars);
    if (rows == 0 || cols == 0) return KD_OK;
    task.k = kd->k;
    task.x = logits;
    task.y = out;
    task.temperature = temperature;
    task.rows = rows;
    task.cols = cols;
    task.logarithm = logarithm;
    kd__parallel(kd, kd__row_tasks(rows, cols), kd__softmax_rows, &task);
    return KD_OK;
}

KDDEF kd_result kd_softmax(kd_ctx *kd, const float *logits, int rows, int cols, float temperature, float *probs)
{
    return kd__softmax_run(kd, "kd_softmax", logits, rows, cols, temperature, 0, probs);
}

KDDEF kd_result kd_log_softmax(kd_ctx *kd, const float *logits, int rows, int cols, float temperature,
                               float *log_probs)
{
    return kd__softmax_run(kd, "kd_log_softmax", logits, rows, cols, temperature, 1, log_probs);
}

enum { KD__MAX_TEACHERS = 64 };

/* What every average needs; *total becomes the sum of the weights. */
KD__PRIVATE kd_result kd__average_check(kd_ctx *kd, const char *where, const float *const *logits,
                                        const float *weights, int teachers, int rows, int cols, const float *out,
                                        double *total)
{
    int i;
    *total = 0;
    if (!logits || !out || teachers < 1 || teachers > KD__MAX_TEACHERS || rows < 0 || cols < 1)
        return kd__fail(
            kd, KD_ERR_ARGUMENT,
            "%s: needs 1 to 64 teachers, 0 rows or more, 1 column or more and no NULL, got %d, %d and %d", where,
            teachers, rows, cols);
    for (i = 0; i < teachers; ++i) {
        if (!logits[i] || (weights && (!(weights[i] > 0) || !kd__is_finite((double)weights[i]))))
            return kd__fail(kd, KD_ERR_ARGUMENT, "%s: teacher %d has no logits, or a weight that is not positive",
                            where, i);
        *total += weights ? (double)weights[i] : 1.0;
    }
    return KD_OK;
}

KDDEF kd_result kd_average_teachers(kd_ctx *kd, const float *const *logits, const float *weights, int teachers,
                                    int rows, int cols, float temperature, float *out)
{
    enum { ROWS = 64 };
    const float *from[KD__MAX_TEACHERS];
    float log_weight[KD__MAX_TEACHERS], *log_probs;
    double total;
    kd_result result;
    int i, r;
    if (!kd) return KD_ERR_ARGUMENT;
    result = kd__average_check(kd, "kd_average_teachers", logits, weights, teachers, rows, cols, out, &total);
    if (result != KD_OK) return result;
    if (!(temperature > 0) || !kd__is_finite((double)temperature))
        return kd__fail(kd, KD_ERR_ARGUMENT, "kd_average_teachers: the temperature must be above 0, got %s",
                        kd__number((double)temperature, 6).chars);
    for (i = 0; i < teachers; ++i) log_weight[i] = (float)kd__log_of((weights ? (double)weights[i] : 1.0) / total);
    log_probs = kd__scratch(kd, kd__times(kd__times((size_t)teachers, ROWS), (size_t)cols));
    if (!log_probs) return KD_ERR_MEMORY;
    for (r = 0; r < rows; r += ROWS) {
        const int now = KD__MIN((int)ROWS, rows - r);
        for (i = 0; i < teachers; ++i) {
            float *to = log_probs + (ptrdiff_t)i * ROWS * cols;
            kd->k->softmax(logits[i] + (ptrdiff_t)r * cols, now, cols, temperature, 1, to);
            from[i] = to;
        }
        kd->k->log_mix((ptrdiff_t)now * cols, teachers, from, log_weight, temperature, out + (ptrdiff_t)r * cols);
    }
    return KD_OK;
}

KDDEF kd_result kd_average_logits(kd_ctx *kd, const float *const *logits, const float *weights, int teachers,
                                  int rows, int cols, float *out)
{
    double total, sum;
    ptrdiff_t at;
    kd_result result;
    int i;
    if (!kd) return KD_ERR_ARGUMENT;
    result = kd__average_check(kd, "kd_average_logits", logits, weights, teachers, rows, cols, out, &total);
    for (at = 0; result == KD_OK && at < (ptrdiff_t)rows * cols; ++at) {
        for (i = 0, sum = 0; i < teachers; ++i) sum += (weights ? (double)weights[i] : 1.0) * (double)logits[i][at];
        out[at] = (float)(sum / total);
    }
    return result;
}

/* ============================================================================================================
   >>losses    losses and their gradients
   uses: softmax
   ============================================================================================================ */

/* The first of the largest. */
KD__PRIVATE int kd__argmax(const float *x, int n)
{
    int best = 0, i;
    for (i = 1; i < n; ++i) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

/* A named number and the range it must be in. */
typedef struct kd__range {
    const char *name;
    double value, low, high;
} kd__range;

enum { KD__MAX_RANGES = 40 };

KD__PRIVATE kd_result kd__check_ranges(kd_ctx *kd, const char *where, const kd__range *ranges, int count)
{
    int i;
    for (i = 0; i < count; ++i) {
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return kd__fail(kd, KD_ERR_ARGUMENT, "%s: %s must be %s to %s, got %s", where, ranges[i].name,
                            kd__number(ranges[i].low, 8).chars, kd__number(ranges[i].high, 8).chars,
                            kd__number(ranges[i].value, 8).chars);
    }
    return KD_OK;
}

#ifndef KD_NO_TRAIN

/* ---- soft terms in double precision ---------------------------------------------------------------------- */

/* One row of a soft term. s and t are logits after adjustment and standardisation, the other lists are room for
   what a term needs. A term returns its value and writes its gradient by s into g. */
typedef struct kd__soft_row {
    const kd_loss_desc *desc;
    int cols, label; /* below 0: none */
    int replaced;    /* KD_ADJUST_SMOOTH has taken the teacher's place */
    const double *s, *t;
    double *g, *log_ps, *log_pt, *ps, *pt;
    double slope; /* derivative of the value by the temperature, of ctkd */
} kd__soft_row;

/* p = softmax(x / T) and its logarithm */
KD__PRIVATE void kd__soft_probs(const double *x, int cols, double temperature, double *log_p, double *p)
{
    double largest = x[0], sum = 0, log_sum;
    int c;
    for (c = 1; c < cols; ++c) largest = KD__MAX(largest, x[c]);
    for (c = 0; c < cols; ++c) {
        log_p[c] = (x[c] - largest) / temperature;
        p[c] = kd__exp_below(log_p[c]);
        sum += p[c];
    }
    log_sum = kd__log_of(sum);
    for (c = 0; c < cols; ++c) {
        log_p[c] -= log_sum;
        p[c] /= sum;
    }
}

/* `certainty` on the label, the rest shared by the other classes */
KD__PRIVATE double kd__soft_certain(const kd__soft_row *r, int c)
{
    const double certainty = (double)r->desc->certainty;
    return c == r->label ? certainty : (1 - certainty) / (r->cols - 1);
}

KD__PRIVATE void kd__soft_student(const kd__soft_row *r, double temperature)
{
    kd__soft_probs(r->s, r->cols, temperature, r->log_ps, r->ps);
}

KD__PRIVATE void kd__soft_teacher(const kd__soft_row *r, double temperature)
{
    int c;
    if (!r->replaced) kd__soft_probs(r->t, r->cols, temperature, r->log_pt, r->pt);
    for (c = 0; r->replaced && c < r->cols; ++c) {
        r->pt[c] = kd__soft_certain(r, c);
        r->log_pt[c] = kd__log_of(r->pt[c]);
    }
}

KD__PRIVATE double kd__soft_kl(kd__soft_row *r)
{
    const double t = (double)r->desc->temperature;
    double sum = 0;
    int c;
    kd__soft_student(r, t);
    kd__soft_teacher(r, t);
    for (c = 0; c < r->cols; ++c) {
        sum += r->pt[c] * (r->log_pt[c] - r->log_ps[c]);
        r->g[c] = t * (r->ps[c] - r->pt[c]);
    }
    return t * t * sum;
}

/* KL and its slope: with z / T as u, d log p[c] / dT = -(z[c] - <p, z>) / T^2. */
KD__PRIVATE double kd__soft_ctkd(kd__soft_row *r)
{
    const double t = (double)r->desc->temperature, value = kd__soft_kl(r);
    double mean_s = 0, mean_t = 0, sum = 0;
    int c;
    for (c = 0; c < r->cols; ++c) {
        mean_s += r->ps[c] * r->s[c];
        mean_t += r->pt[c] * r->t[c];
    }
    for (c = 0; c < r->cols; ++c) {
        if (!r->replaced) sum -= r->pt[c] * (r->t[c] - mean_t) * (r->log_pt[c] - r->log_ps[c]);
        sum += r->pt[c] * (r->s[c] - mean_s);
    }
    r->slope = 2 * value / t + sum;
    return value;
}

KD__PRIVATE double kd__soft_reverse_kl(kd__soft_row *r)
{
    const double t = (double)r->desc->temperature;
    double kl = 0;
    int c;
    kd__soft_student(r, t);
    kd__soft_teacher(r, t);
    for (c = 0; c < r->cols; ++c) kl += r->ps[c] * (r->log_ps[c] - r->log_pt[c]);
    for (c = 0; c < r->cols; ++c) r->g[c] = t * r->ps[c] * (r->log_ps[c] - r->log_pt[c] - kl);
    return t * t * kl;
}

/* The mixture m has its logarithm from those of its parts, so that no probability is too small for it. */
KD__PRIVATE double kd__soft_jsd(kd__soft_row *r)
{
    const double t = (double)r->desc->temperature, b = (double)r->desc->beta;
    const double log_b = kd__log_of(b), log_rest = kd__log_of(1 - b);
    double from_t = 0, from_s = 0;
    int c;
    kd__soft_student(r, t);
    kd__soft_teacher(r, t);
    for (c = 0; c < r->cols; ++c) {
        const double x = log_b + r->log_pt[c], y = log_rest + r->log_ps[c];
        const double log_m = KD__MAX(x, y) + kd__log_of(1 + kd__exp_below(x < y ? x - y : y - x));
        from_t += r->pt[c] * (r->log_pt[c] - log_m);
        r->g[c] = r->log_ps[c] - log_m;
        from_s += r->ps[c] * r->g[c];
    }
    for (c = 0; c < r->cols; ++c) r->g[c] = t * (1 - b) * r->ps[c] * (r->g[c] - from_s);
    return t * t * (b * from_t + (1 - b) * from_s);
}

KD__PRIVATE double kd__soft_cross_entropy(kd__soft_row *r)
{
    const double t = (double)r->desc->temperature;
    double sum = 0;
    int c;
    kd__soft_student(r, t);
    kd__soft_teacher(r, t);
    for (c = 0; c < r->cols; ++c) {
        sum -= r->pt[c] * r->log_ps[c];
        r->g[c] = t * (r->ps[c] - r->pt[c]);
    }
    return t * t * sum;
}

KD__PRIVATE double kd__soft_mse(kd__soft_row *r)
{
    double sum = 0;
    int c;
    for (c = 0; c < r->cols; ++c) {
        const double d = r->s[c] - r->t[c];
        sum += d * d;
        r->g[c] = 2 * d;
    }
    return sum;
}

KD__PRIVATE double kd__soft_centred_mse(kd__soft_row *r)
{
    double mean = 0, sum = 0;
    int c;
    for (c = 0; c < r->cols; ++c) mean += r->s[c] - r->t[c];
    mean /= r->cols;
    for (c = 0; c < r->cols; ++c) {
        const double d = r->s[c] - r->t[c] - mean;
        sum += d * d;
        r->g[c] = 2 * d;
    }
    return sum;
}

/* The made-up teacher's probabilities are softened as if they were logits. */
KD__PRIVATE double kd__soft_tfkd(kd__soft_row *r)
{
    double sum = 0;
    int c;
    for (c = 0; c < r->cols; ++c) r->g[c] = kd__soft_certain(r, c);
    kd__soft_probs(r->g, r->cols, (double)r->desc->temperature, r->log_pt, r->pt);
    kd__soft_student(r, 1);
    for (c = 0; c < r->cols; ++c) {
        sum += r->pt[c] * (r->log_pt[c] - r->log_ps[c]);
        r->g[c] = r->ps[c] - r->pt[c];
    }
    return sum;
}

/* Makes of p the probabilities given that the class is not `label`, and of log_p their logarithms; returns the
   logarithm of what the other classes had together. The label's own entries are left as they are. */
KD__PRIVATE double kd__soft_others(double *log_p, double *p, int cols, int label)
{
    double largest = -1e300, sum = 0, log_sum;
    int c;
    for (c = 0; c < cols; ++c) {
        if (c != label) largest = KD__MAX(largest, log_p[c]);
    }
    for (c = 0; c < cols; ++c) {
        if (c == label) continue;
        p[c] = kd__exp_below(log_p[c] - largest);
        sum += p[c];
    }
    log_sum = largest + kd__log_of(sum);
    for (c = 0; c < cols; ++c) {
        if (c == label) continue;
        p[c] /= sum;
        log_p[c] -= log_sum;
    }
    return log_sum;
}

KD__PRIVATE double kd__soft_dkd(kd__soft_row *r)
{
    const double t = (double)r->desc->temperature, a = (double)r->desc->alpha, b = (double)r->desc->beta;
    const int y = r->label;
    double not_s, not_t, target, others = 0;
    int c;
    kd__soft_student(r, t);
    kd__soft_teacher(r, t);
    not_s = kd__soft_others(r->log_ps, r->ps, r->cols, y);
    not_t = kd__soft_others(r->log_pt, r->pt, r->cols, y);
    target = r->pt[y] * (r->log_pt[y] - r->log_ps[y]) + kd__exp_below(not_t) * (not_t - not_s);
    for (c = 0; c < r->cols; ++c) {
        if (c == y) {
            r->g[c] = t * a * (r->ps[y] - r->pt[y]);
            continue;
        }
        others += r->pt[c] * (r->log_pt[c] - r->log_ps[c]);
        r->g[c] = t * (a * (r->pt[y] - r->ps[y]) * r->ps[c] + b * (r->ps[c] - r->pt[c]));
    }
    return t * t * (a * target + b * others);
}

KD__PRIVATE double kd__soft_nkd(kd__soft_row *r)
{
    const double t = (double)r->desc->temperature, g = (double)r->desc->gamma;
    const int y = r->label;
    double target, weight, others = 0;
    int c;
    kd__soft_student(r, 1);
    kd__soft_teacher(r, 1);
    weight = r->pt[y];
    target = -weight * r->log_ps[y];
    for (c = 0; c < r->cols; ++c) r->g[c] = weight * (r->ps[c] - (c == y));
    kd__soft_student(r, t);
    kd__soft_teacher(r, t);
    (void)kd__soft_others(r->log_ps, r->ps, r->cols, y);
    (void)kd__soft_others(r->log_pt, r->pt, r->cols, y);
    for (c = 0; c < r->cols; ++c) {
        if (c == y) continue;
        others -= r->pt[c] * r->log_ps[c];
        r->g[c] += g * t * (r->ps[c] - r->pt[c]);
    }
    return target + g * t * t * others;
}

KD__PRIVATE double kd__soft_transformed(kd__soft_row *r, int weighted)
{
    const double gamma = (double)r->desc->gamma;
    double sum = 0, kl = 0;
    int c;
    kd__soft_student(r, 1);
    kd__soft_teacher(r, 1);
    for (c = 0; weighted && c < r->cols; ++c) sum += kd__exp_below(gamma * r->log_pt[c]);
    for (c = 0; c < r->cols; ++c) r->g[c] = gamma * r->log_pt[c];
    kd__soft_probs(r->g, r->cols, 1, r->log_pt, r->pt);
    if (!weighted) sum = 1;
    for (c = 0; c < r->cols; ++c) {
        kl += r->pt[c] * (r->log_pt[c] - r->log_ps[c]);
        r->g[c] = sum * (r->ps[c] - r->pt[c]);
    }
    return sum * kl;
}

KD__PRIVATE double kd__soft_ttm(kd__soft_row *r) { return kd__soft_transformed(r, 0); }

KD__PRIVATE double kd__soft_wttm(kd__soft_row *r) { return kd__soft_transformed(r, 1); }

/* ---- soft terms over a batch ----------------------------------------------------------------------------- */

typedef struct kd__soft kd__soft;
typedef struct kd__loss_info kd__loss_info;

/* Runs for every index of a pass, in any order and on any threads: writes what belongs to its index alone. */
typedef void (*kd__soft_pass)(kd__soft *p, int index, int worker);

struct kd__soft {
    const kd_ctx *kd;
    const kd_loss_desc *desc;
    const kd__loss_info *info;
    int rows, cols;
    const float *student, *teacher, *soft_labels;
    const int32_t *labels;
    double soft, hard; /* weights of the terms */
    float *grad;       /* or NULL */
    /* the pass that runs */
    kd__soft_pass pass;
    int count, step;
    double temperature;
    /* room */
    double *values, *slopes, *stds; /* (rows) */
    double *lines;                  /* KD__SOFT_LINES rows for each worker */
    double *s, *t, *ps, *pt, *g;    /* (rows, cols); only of terms over a batch, like what follows */
    double *dp;                     /* (rows, cols): gradient by ps */
    double *by_column, *gram;       /* (cols), (cols, cols) */
    int32_t *partners;              /* (rows) */
};

enum { KD__SOFT_LINES = 7 };

KD__PRIVATE void kd__soft_task(void *arg, int index, int worker)
{
    kd__soft *p = (kd__soft *)arg;
    const int end = KD__MIN(p->count, (index + 1) * p->step);
    int i;
    for (i = index * p->step; i < end; ++i) p->pass(p, i, worker);
}

/* Each of `count` indices costs about `work` numbers. */
KD__PRIVATE void kd__soft_run(kd__soft *p, kd__soft_pass pass, int count, int work)
{
    p->pass = pass;
    p->count = count;
    p->step = KD__MAX(1, 1024 / KD__MAX(work, 1));
    kd__parallel(p->kd, (count + p->step - 1) / p->step, kd__soft_task, p);
}

KD__PRIVATE double kd__dot(const double *a, const double *b, int n)
{
    double sums[4] = {0, 0, 0, 0};
    int i;
    for (i = 0; i + 4 <= n; i += 4) {
        sums[0] += a[i] * b[i];
        sums[1] += a[i + 1] * b[i + 1];
        sums[2] += a[i + 2] * b[i + 2];
        sums[3] += a[i + 3] * b[i + 3];
    }
    for (; i < n; ++i) sums[0] += a[i] * b[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* A row of a batch: its logits, and room for its probabilities. */
KD__PRIVATE kd__soft_row kd__soft_row_of(const kd__soft *p, int r, int worker)
{
    const ptrdiff_t at = (ptrdiff_t)r * p->cols;
    double *line = p->lines + (ptrdiff_t)worker * KD__SOFT_LINES * p->cols;
    kd__soft_row row;
    memset(&row, 0, sizeof row);
    row.desc = p->desc;
    row.cols = p->cols;
    row.label = p->soft_labels ? kd__argmax(p->soft_labels + at, p->cols) : p->labels ? p->labels[r] : -1;
    row.replaced = p->desc->adjust == KD_ADJUST_SMOOTH && p->teacher && row.label >= 0 &&
                   kd__argmax(p->teacher + at, p->cols) != row.label;
    row.s = p->s ? p->s + at : line;
    row.t = p->s ? p->t + at : line + p->cols;
    row.g = p->s ? p->g + at : line + (ptrdiff_t)2 * p->cols;
    row.log_ps = line + (ptrdiff_t)3 * p->cols;
    row.log_pt = line + (ptrdiff_t)4 * p->cols;
    row.ps = p->s ? p->ps + at : line + (ptrdiff_t)5 * p->cols;
    row.pt = p->s ? p->pt + at : line + (ptrdiff_t)6 * p->cols;
    return row;
}

/* g += dp through the softmax of the row */
KD__PRIVATE void kd__soft_through(const kd__soft *p, int r)
{
    const ptrdiff_t at = (ptrdiff_t)r * p->cols;
    const double *ps = p->ps + at, *dp = p->dp + at, mean = kd__dot(ps, dp, p->cols);
    double *g = p->g + at;
    int c;
    for (c = 0; c < p->cols; ++c) g[c] += ps[c] * (dp[c] - mean) / p->temperature;
}

/* 1, or for probabilities that are all so small that their squares would be 0, a power of two that brings the
   largest to between 1/2 and 1. */
KD__PRIVATE double kd__pearson_unit(const double *p, ptrdiff_t step, int n)
{
    double largest = 0, unit = 1;
    int i;
    for (i = 0; i < n; ++i) largest = KD__MAX(largest, p[i * step]);
    if (!(largest > 1e-290) || largest > 1e-60) return 1;
    while (largest * unit < 0.5) unit *= 2;
    return unit;
}

/* Pearson's correlation of a and b, n probabilities `step` apart; `scale` times its gradient by a is added to g.
   What varies by rounding alone does not vary. */
KD__PRIVATE double kd__pearson(const double *a, const double *b, ptrdiff_t step, int n, double scale, double *g)
{
    const double unit_a = kd__pearson_unit(a, step, n), unit_b = kd__pearson_unit(b, step, n);
    double mean_a = 0, mean_b = 0, aa = 0, ab = 0, bb = 0, norm, r;
    int i;
    for (i = 0; i < n; ++i) {
        mean_a += unit_a * a[i * step];
        mean_b += unit_b * b[i * step];
    }
    mean_a /= n;
    mean_b /= n;
    for (i = 0; i < n; ++i) {
        const double x = unit_a * a[i * step] - mean_a, y = unit_b * b[i * step] - mean_b;
        aa += x * x;
        ab += x * y;
        bb += y * y;
    }
    if (!(aa > 1e-26 * n * mean_a * mean_a) || !(bb > 1e-26 * n * mean_b * mean_b)) return 0;
    norm = sqrt(aa) * sqrt(bb);
    r = ab / norm;
    for (i = 0; i < n; ++i)
        g[i * step] +=
            unit_a * scale * ((unit_b * b[i * step] - mean_b) / norm - r * (unit_a * a[i * step] - mean_a) / aa);
    return r;
}

/* Gradients are those of rows * mean, like those of terms that are sums over rows. */
KD__PRIVATE void kd__dist_row(kd__soft *p, int r, int worker)
{
    const kd__soft_row row = kd__soft_row_of(p, r, worker);
    const double beta = (double)p->desc->beta;
    double *dp = p->dp + (ptrdiff_t)r * p->cols;
    kd__soft_student(&row, p->temperature);
    kd__soft_teacher(&row, p->temperature);
    memset(dp, 0, (size_t)p->cols * sizeof *dp);
    memset(row.g, 0, (size_t)p->cols * sizeof *row.g);
    p->values[r] = beta * (1 - kd__pearson(row.ps, row.pt, 1, p->cols, -beta, dp));
}

KD__PRIVATE void kd__dist_column(kd__soft *p, int c, int worker)
{
    const double gamma = (double)p->desc->gamma;
    (void)worker;
    p->by_column[c] =
        gamma * (1 - kd__pearson(p->ps + c, p->pt + c, p->cols, p->rows, -gamma * p->rows / p->cols, p->dp + c));
}

KD__PRIVATE void kd__dist_finish(kd__soft *p, int r, int worker)
{
    const double square = p->temperature * p->temperature;
    int c;
    (void)worker;
    kd__soft_through(p, r);
    for (c = 0; c < p->cols; ++c) p->g[(ptrdiff_t)r * p->cols + c] *= square;
    p->values[r] *= square;
}

KD__PRIVATE double kd__soft_dist(kd__soft *p)
{
    double sum = 0;
    int c;
    p->temperature = (double)p->desc->temperature;
    kd__soft_run(p, kd__dist_row, p->rows, p->cols);
    if (p->rows > 1) kd__soft_run(p, kd__dist_column, p->cols, p->rows);
    for (c = 0; p->rows > 1 && c < p->cols; ++c) sum += p->by_column[c];
    kd__soft_run(p, kd__dist_finish, p->rows, p->cols);
    return p->temperature * p->temperature * sum / p->cols;
}

/* KL of a row; its value is added to those of other temperatures. */
KD__PRIVATE void kd__mlld_row(kd__soft *p, int r, int worker)
{
    const kd__soft_row row = kd__soft_row_of(p, r, worker);
    double sum = 0;
    int c;
    kd__soft_student(&row, p->temperature);
    kd__soft_teacher(&row, p->temperature);
    for (c = 0; c < p->cols; ++c) {
        sum += row.pt[c] * (row.log_pt[c] - row.log_ps[c]);
        row.g[c] += p->temperature * (row.ps[c] - row.pt[c]);
    }
    p->values[r] += p->temperature * p->temperature * sum;
}

/* Row i of P_s'P_s - P_t'P_t, and the squares in it */
KD__PRIVATE void kd__mlld_classes(kd__soft *p, int i, int worker)
{
    double *m = p->gram + (ptrdiff_t)i * p->cols;
    int r, c;
    (void)worker;
    memset(m, 0, (size_t)p->cols * sizeof *m);
    for (r = 0; r < p->rows; ++r) {
        const double *ps = p->ps + (ptrdiff_t)r * p->cols, *pt = p->pt + (ptrdiff_t)r * p->cols;
        for (c = 0; c < p->cols; ++c) m[c] += ps[i] * ps[c] - pt[i] * pt[c];
    }
    p->by_column[i] = kd__dot(m, m, p->cols);
}

/* Row r of P_s P_s' - P_t P_t' is used as it is made, so that it needs no room. */
KD__PRIVATE void kd__mlld_grams(kd__soft *p, int r, int worker)
{
    const double beta = (double)p->desc->beta, gamma = (double)p->desc->gamma;
    const double *ps = p->ps + (ptrdiff_t)r * p->cols, *pt = p->pt + (ptrdiff_t)r * p->cols;
    double *dp = p->dp + (ptrdiff_t)r * p->cols, squares = 0;
    int i, c;
    (void)worker;
    for (c = 0; c < p->cols; ++c)
        dp[c] =
            beta != 0 ? 4 * beta * p->rows / p->cols * kd__dot(p->gram + (ptrdiff_t)c * p->cols, ps, p->cols) : 0;
    for (i = 0; gamma != 0 && i < p->rows; ++i) {
        const double *other = p->ps + (ptrdiff_t)i * p->cols;
        const double m = kd__dot(ps, other, p->cols) - kd__dot(pt, p->pt + (ptrdiff_t)i * p->cols, p->cols);
        squares += m * m;
        for (c = 0; c < p->cols; ++c) dp[c] += 4 * gamma * m * other[c];
    }
    p->values[r] += gamma * squares;
    kd__soft_through(p, r);
}

KD__PRIVATE double kd__soft_mlld(kd__soft *p)
{
    const double beta = (double)p->desc->beta;
    double sum = 0;
    int i, c;
    memset(p->values, 0, (size_t)p->rows * sizeof *p->values);
    memset(p->g, 0, (size_t)p->rows * (size_t)p->cols * sizeof *p->g);
    for (i = 0; i < p->desc->temperature_count; ++i) {
        p->temperature = (double)p->desc->temperatures[i];
        kd__soft_run(p, kd__mlld_row, p->rows, p->cols);
        if (beta != 0) kd__soft_run(p, kd__mlld_classes, p->cols, p->rows * KD__MIN(p->cols, 1024));
        for (c = 0; beta != 0 && c < p->cols; ++c) sum += p->by_column[c];
        kd__soft_run(p, kd__mlld_grams, p->rows, p->rows * KD__MIN(p->cols, 1024));
    }
    return beta * sum / p->cols;
}

KD__PRIVATE void kd__cskd_row(kd__soft *p, int r, int worker)
{
    kd__soft_row row = kd__soft_row_of(p, r, worker);
    p->values[r] = 0;
    memset(row.g, 0, (size_t)p->cols * sizeof *row.g);
    row.t = p->s + (ptrdiff_t)p->partners[r] * p->cols;
    if (p->partners[r] != r) p->values[r] = kd__soft_kl(&row);
}

/* Twice backwards over the rows: the row met last with a label is the next one that has it. */
KD__PRIVATE double kd__soft_cskd(kd__soft *p)
{
    int r, c;
    for (c = 0; c < p->cols; ++c) p->by_column[c] = -1;
    for (r = 2 * p->rows - 1; r >= 0; --r) {
        const int now = r % p->rows, label = kd__soft_row_of(p, now, 0).label;
        p->partners[now] = p->by_column[label] < 0 ? now : (int32_t)p->by_column[label];
        p->by_column[label] = now;
    }
    kd__soft_run(p, kd__cskd_row, p->rows, p->cols);
    return 0;
}

/* ---- what there is --------------------------------------------------------------------------------------- */

enum { KD__NO, KD__MAYBE, KD__YES, KD__EACH }; /* EACH: of every row */
enum { KD__T = 1, KD__ALPHA = 2 };

/* What a loss needs, its defaults, and its soft term: of a row, or over a batch, which fills in `values` and g and
   returns what the mean of the values lacks. ce and bce have kernels alone. A new loss is a line in KD_LOSSES, one
   here with its kind, and its function. */
struct kd__loss_info {
    kd_loss_kind kind;
    int teacher, labels, columns; /* at least */
    int own_hard;                 /* a hard term that is weighed by 1 - alpha, where alpha weighs a soft term */
    int converts;                 /* other libraries' conventions apply */
    int moves;                    /* KD__T, KD__ALPHA: what may change in training */
    double temperature, alpha, soft, hard, beta, gamma;
    double (*row)(kd__soft_row *r);
    double (*batch)(kd__soft *p);
};

KD__PRIVATE const kd__loss_info *kd__loss_look_up(kd_loss_kind kind)
{
    int i;
    /* clang-format off */
    static const kd__loss_info table[] = {
        /* kind, teacher, labels, columns, own_hard, converts, moves, T, alpha, soft, hard, beta, gamma */
        {KD_LOSS_AUTO,         KD__MAYBE, KD__MAYBE, 1, 1, 1, 3,  4, 0.9, 1, 0, 1, 1, NULL, NULL}, /* see below */
        {KD_LOSS_CE,           KD__NO,    KD__YES,   1, 1, 0, 0,  4, 0.9, 1, 0, 1, 1, NULL, NULL},
        {KD_LOSS_KL,           KD__YES,   KD__NO,    1, 0, 1, 1,  4, 0.9, 1, 0, 1, 1, kd__soft_kl, NULL},
        {KD_LOSS_HINTON,       KD__YES,   KD__YES,   1, 1, 1, 3,  4, 0.9, 1, 0, 1, 1, kd__soft_kl, NULL},
        {KD_LOSS_MSE,          KD__YES,   KD__NO,    1, 0, 0, 0,  4, 0.9, 1, 0, 1, 1, kd__soft_mse, NULL},
        {KD_LOSS_BCE,          KD__MAYBE, KD__YES,   1, 1, 0, 3,  4, 0.9, 1, 0, 1, 1, NULL, NULL},
        {KD_LOSS_RKL,          KD__YES,   KD__NO,    2, 0, 1, 1,  4, 0.9, 1, 0, 1, 1, kd__soft_reverse_kl, NULL},
        {KD_LOSS_JSD,          KD__YES,   KD__NO,    2, 0, 1, 1,  4, 0.9, 1, 0, 0.5, 1, kd__soft_jsd, NULL},
        {KD_LOSS_SOFT_CE,      KD__YES,   KD__NO,    2, 0, 1, 1,  4, 0.9, 1, 0, 1, 1, kd__soft_cross_entropy, NULL},
        {KD_LOSS_CENTRED_MSE,  KD__YES,   KD__NO,    2, 0, 0, 0,  4, 0.9, 1, 0, 1, 1, kd__soft_centred_mse, NULL},
        {KD_LOSS_TFKD,         KD__NO,    KD__EACH,  2, 1, 0, 3, 40, 0.1, 1, 0, 1, 1, kd__soft_tfkd, NULL},
        {KD_LOSS_DKD,          KD__YES,   KD__EACH,  3, 0, 0, 3,  4, 1,   1, 1, 8, 1, kd__soft_dkd, NULL},
        {KD_LOSS_NKD,          KD__YES,   KD__EACH,  3, 0, 0, 1,  1, 0.9, 1, 1, 1, 1.5, kd__soft_nkd, NULL},
        {KD_LOSS_DIST,         KD__YES,   KD__NO,    2, 0, 0, 1,  4, 0.9, 1, 1, 1, 1, NULL, kd__soft_dist},
        {KD_LOSS_TTM,          KD__YES,   KD__NO,    2, 0, 0, 0,  1, 0.9, 45, 1, 1, 0.1, kd__soft_ttm, NULL},
        {KD_LOSS_WTTM,         KD__YES,   KD__NO,    2, 0, 0, 0,  1, 0.9, 4, 1, 1, 0.2, kd__soft_wttm, NULL},
        {KD_LOSS_MLLD,         KD__YES,   KD__NO,    2, 0, 0, 0,  4, 0.9, 0.9, 0.1, 1, 1, NULL, kd__soft_mlld},
        {KD_LOSS_CSKD,         KD__NO,    KD__EACH,  2, 0, 0, 1,  4, 0.9, 1, 1, 1, 1, NULL, kd__soft_cskd},
        {KD_LOSS_CTKD,         KD__YES,   KD__NO, 2, 0, 0, 0, 15.6211716, 0.9, 0.9, 0.1, 1, 1, kd__soft_ctkd, NULL},
    };
    /* clang-format on */
    for (i = 0; i < KD__COUNT(table) && table[i].kind != kind; ++i) {}
    return &table[i < KD__COUNT(table) ? i : 0];
}

KDDEF const char *kd_loss_name(kd_loss_kind kind)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_LOSSES(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)kind < (unsigned)KD_LOSS_COUNT ? words[kind] : "unknown";
}

KDDEF const char *kd_convention_name(kd_loss_convention convention)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_LOSS_CONVENTIONS(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)convention < (unsigned)KD_CONVENTION_COUNT ? words[convention] : "unknown";
}

KDDEF kd_loss_desc kd_loss_defaults(kd_loss_kind kind)
{
    static const float temperatures[] = {4, 2, 3, 5, 6};
    const kd__loss_info *info = kd__loss_look_up(kind);
    kd_loss_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.cookie = KD__COOKIE;
    desc.kind = kind;
    desc.temperature = (float)info->temperature;
    desc.alpha = (float)info->alpha;
    desc.alpha_end = -1;
    desc.reduction = kind == KD_LOSS_TFKD ? KD_REDUCTION_ELEMENTS : KD_REDUCTION_ROWS;
    desc.soft_weight = (float)info->soft;
    desc.hard_weight = (float)info->hard;
    desc.beta = (float)info->beta;
    desc.gamma = (float)info->gamma;
    desc.certainty = kind == KD_LOSS_TFKD ? 0.99f : 0.9f;
    desc.warmup = kind == KD_LOSS_DKD ? 20.0f : kind == KD_LOSS_CTKD ? 10.0f : 0.0f;
    memcpy(desc.temperatures, temperatures, sizeof temperatures);
    desc.temperature_count = KD__COUNT(temperatures);
    return desc;
}

/* ---- checks ---------------------------------------------------------------------------------------------- */

/* Losses that need no labels have a use for them where they add a hard term or correct the teacher. */
KD__PRIVATE int kd__loss_uses_labels(const kd_loss_desc *desc)
{
    return kd__loss_look_up(desc->kind)->labels != KD__NO || desc->hard_weight != 0 ||
           desc->adjust != KD_ADJUST_NONE;
}

KD__PRIVATE int kd__loss_ranges(const kd_loss_desc *desc, kd__range *to)
{
    const double least = (double)1e-6f, most = 0.999999;
    const int jsd = desc->kind == KD_LOSS_JSD, power = desc->kind == KD_LOSS_TTM || desc->kind == KD_LOSS_WTTM;
    const kd__range ranges[] = {
        {"temperature_end", (double)desc->temperature_end, 0, 1e30},
        {"alpha_end", (double)desc->alpha_end, -1, 1},
        {"soft_weight", (double)desc->soft_weight, 0, 1e6},
        {"hard_weight", (double)desc->hard_weight, 0, 1e6},
        {"beta", (double)desc->beta, jsd ? least : 0, jsd ? most : 1e6},
        {"gamma", (double)desc->gamma, power ? least : 0, 1e6},
        {"certainty", (double)desc->certainty, least, most},
        {"warmup", (double)desc->warmup, 0, 1e6},
        {"temperature_count", (double)desc->temperature_count, 1, KD_MAX_TEMPERATURES},
        {"standardise", (double)desc->standardise, 0, 1},
        {"adjust", (double)(int)desc->adjust, 0, (double)KD_ADJUST_SMOOTH},
        {"convention", (double)(int)desc->convention, 0, (double)(KD_CONVENTION_COUNT - 1)},
        {"first", (double)desc->first, 0, 1e9},
        {"columns", (double)desc->columns, 0, 1e9},
        {"task", (double)desc->task, 0, 1e9},
        {"inputs", (double)(int)desc->inputs, 0, (double)KD_INPUTS_ADVERSARIAL},
        {"reduction", (double)(int)desc->reduction, 0, (double)KD_REDUCTION_ELEMENTS},
        {"to_targets", (double)desc->to_targets, 0, desc->kind == KD_LOSS_MSE ? 1.0 : 0.0},
    };
    memcpy(to, ranges, sizeof ranges);
    return KD__COUNT(ranges);
}

/* The first of the options of a loss of this kind in which two differ, or NULL. */
KD__PRIVATE const char *kd__loss_difference(const kd_loss_desc *a, const kd_loss_desc *b)
{
    kd__range ranges[2][KD__MAX_RANGES];
    const int count = kd__loss_ranges(a, ranges[0]);
    int i;
    (void)kd__loss_ranges(b, ranges[1]);
    if (!(a->temperature == b->temperature)) return "temperature";
    if (!(a->alpha == b->alpha)) return "alpha";
    if (!(a->label_smoothing == b->label_smoothing)) return "label_smoothing";
    for (i = 0; i < count; ++i) {
        if (!(ranges[0][i].value == ranges[1][i].value)) return ranges[0][i].name;
    }
    return NULL;
}

KD__PRIVATE kd_result kd__loss_check_numbers(kd_ctx *kd, const char *where, const kd_loss_desc *desc)
{
    kd__range ranges[KD__MAX_RANGES];
    const kd_result result = kd__check_ranges(kd, where, ranges, kd__loss_ranges(desc, ranges));
    int i;
    for (i = 0; result == KD_OK && desc->kind == KD_LOSS_MLLD && i < desc->temperature_count; ++i) {
        if (!(desc->temperatures[i] > 0) || !kd__is_finite((double)desc->temperatures[i]))
            return kd__fail(kd, KD_ERR_ARGUMENT, "%s: temperatures must be above 0, number %d is %s", where, i,
                            kd__number((double)desc->temperatures[i], 6).chars);
    }
    return result;
}

/* What cannot change in training. */
KD__PRIVATE kd_result kd__loss_check_moves(kd_ctx *kd, const char *where, const kd_loss_desc *desc, int has_teacher)
{
    const kd__loss_info *info = kd__loss_look_up(desc->kind);
    const int moves = info->teacher == KD__MAYBE && !has_teacher ? 0 : info->moves;
    const char *name = kd_loss_name(desc->kind);
    if (desc->temperature_end > 0 && !(moves & KD__T))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s has no temperature that could go to temperature_end",
                        where, name);
    if (desc->alpha_end != -1 && !(moves & KD__ALPHA))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s has no alpha that could go to alpha_end", where, name);
    if (desc->alpha_end != -1 && desc->alpha_end < 0)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: alpha_end must be in [0, 1], or -1 where alpha stays, got %s",
                        where, kd__number((double)desc->alpha_end, 6).chars);
    return KD_OK;
}

/* Options that do not go with the loss, or not with each other. */
KD__PRIVATE kd_result kd__loss_check_options(kd_ctx *kd, const char *where, const kd_loss_desc *desc, int cols)
{
    const kd__loss_info *info = kd__loss_look_up(desc->kind);
    const char *name = kd_loss_name(desc->kind);
    if (cols < info->columns)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s needs at least %d columns, got %d%s", where, name,
                        info->columns, cols, cols == 1 ? "; bce and mse take a single one" : "");
    if (info->own_hard && desc->hard_weight != 0)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s has a hard term of its own; leave hard_weight at 0",
                        where, name);
    if (desc->standardise && !(info->teacher == KD__YES || desc->kind == KD_LOSS_CSKD))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s has no logits to standardise", where, name);
    if (desc->standardise && cols < 2)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: logit standardisation needs at least 2 columns, got %d", where,
                        cols);
    if (desc->adjust != KD_ADJUST_NONE && info->teacher != KD__YES)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s has no teacher whose knowledge could be adjusted", where,
                        name);
    if (desc->adjust == KD_ADJUST_SMOOTH &&
        (desc->kind == KD_LOSS_MSE || desc->kind == KD_LOSS_CENTRED_MSE || cols < 2))
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: KD_ADJUST_SMOOTH replaces probabilities of 2 classes or more, but loss %s has %d "
                        "columns of %s",
                        where, name, cols, cols < 2 ? "them" : "logits; use KD_ADJUST_SHIFT");
    if (desc->convention != KD_CONVENTION_DEFAULT && !info->converts)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: convention %s is for hinton, kl, rkl, jsd and softce, not for loss %s", where,
                        kd_convention_name(desc->convention), name);
    if (desc->convention != KD_CONVENTION_DEFAULT && desc->reduction != KD_REDUCTION_ROWS)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: convention %s brings its own reduction; leave reduction alone",
                        where, kd_convention_name(desc->convention));
    return KD_OK;
}

/* What KD_LOSS_AUTO stands for. */
KD__PRIVATE kd_loss_kind kd__loss_resolve(int has_teacher, int has_labels, int has_targets, int cols)
{
    if (has_targets && (!has_teacher || cols == 1)) return KD_LOSS_MSE;
    if (cols == 1) return KD_LOSS_BCE;
    if (has_teacher) return has_labels ? KD_LOSS_HINTON : KD_LOSS_KL;
    return KD_LOSS_CE;
}

KD__PRIVATE kd_result kd__loss_check(kd_ctx *kd, const char *where, const kd_loss_desc *desc, int has_teacher,
                                     int has_labels, int cols)
{
    const kd__loss_info *info;
    const char *name;
    kd_result result;
    if (!desc || desc->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS, "%s: the loss must start from kd_loss_defaults()", where);
    if ((unsigned)desc->kind >= (unsigned)KD_LOSS_COUNT || desc->kind == KD_LOSS_AUTO)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: %d is no loss that can be computed", where, (int)desc->kind);
    info = kd__loss_look_up(desc->kind);
    name = kd_loss_name(desc->kind);
    if (info->teacher == KD__YES && !has_teacher)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s needs a teacher's logits%s, got none", where, name,
                        desc->kind == KD_LOSS_MSE ? " or targets" : "");
    if (info->teacher == KD__NO && has_teacher)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: loss %s would ignore the teacher; use hinton or kl, or give no teacher", where, name);
    if (info->labels >= KD__YES && !has_labels)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: loss %s needs labels, got none", where, name);
    if (desc->adjust != KD_ADJUST_NONE && !has_labels)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: knowledge adjustment needs labels, got none", where);
    if (kd__loss_uses_labels(desc) && !has_labels)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: loss %s needs labels for its hard term, got none; hard_weight = 0 does without", where,
                        name);
    if (!(desc->temperature > 0) || !kd__is_finite((double)desc->temperature))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: the temperature must be above 0, got %s", where,
                        kd__number((double)desc->temperature, 6).chars);
    if (!(desc->alpha >= 0 && desc->alpha <= 1))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: alpha must be in [0, 1], got %s", where,
                        kd__number((double)desc->alpha, 6).chars);
    if (!(desc->label_smoothing >= 0 && desc->label_smoothing < 1))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: label smoothing must be in [0, 1), got %s", where,
                        kd__number((double)desc->label_smoothing, 6).chars);
    if (cols < 1 || cols > 1 << 24)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: logits must have 1 to %d columns, got %d", where, 1 << 24, cols);
    result = kd__loss_check_numbers(kd, where, desc);
    if (result == KD_OK) result = kd__loss_check_moves(kd, where, desc, has_teacher);
    return result == KD_OK ? kd__loss_check_options(kd, where, desc, cols) : result;
}

/* samples: what the rows are of, NULL: rows are all that is known. */
KD__PRIVATE kd_result kd__loss_check_labels(kd_ctx *kd, const char *where, const kd_loss_desc *desc,
                                            int has_teacher, const int32_t *labels, const int32_t *samples,
                                            int rows, int cols)
{
    const char *what = samples ? "sample" : "row";
    const int classes = desc->kind == KD_LOSS_BCE && cols == 1 ? 2 : cols;
    const int each = kd__loss_look_up(desc->kind)->labels == KD__EACH;
    int r;
    for (r = 0; r < rows; ++r) {
        if (labels[r] == KD_UNLABELLED && has_teacher && !each) continue;
        if (labels[r] == KD_UNLABELLED && each)
            return kd__fail(kd, KD_ERR_DATA, "%s: loss %s needs the label of every %s, but %s %d has none", where,
                            kd_loss_name(desc->kind), what, what, samples ? (int)samples[r] : r);
        if (labels[r] == KD_UNLABELLED)
            return kd__fail(kd, KD_ERR_DATA, "%s: %s %d has no label, and nothing else to learn from", where, what,
                            samples ? (int)samples[r] : r);
        if (labels[r] < 0 || labels[r] >= classes)
            return kd__fail(kd, KD_ERR_DATA, "%s: label %ld of %s %d is outside 0 to %d", where, (long)labels[r],
                            what, samples ? (int)samples[r] : r, classes - 1);
    }
    return KD_OK;
}

/* ---- weights --------------------------------------------------------------------------------------------- */

/* What the terms are multiplied by: hard; soft, T^2 where `squares`, share, and soft_weight. */
typedef struct kd__loss_parts {
    double soft, hard, share;
    int squares;
} kd__loss_parts;

KD__PRIVATE kd__loss_parts kd__loss_parts_of(const kd_loss_desc *desc, int has_teacher, int cols)
{
    const int by_column = desc->reduction == KD_REDUCTION_ELEMENTS || desc->convention == KD_CONVENTION_TFKD;
    const int torchdistill = desc->convention == KD_CONVENTION_TORCHDISTILL;
    const double alpha = (double)desc->alpha;
    kd__loss_parts parts;
    parts.soft = desc->kind == KD_LOSS_CE || (desc->kind == KD_LOSS_BCE && !has_teacher) ? 0 : 1;
    parts.hard = (double)desc->hard_weight;
    if (kd__loss_look_up(desc->kind)->own_hard) {
        parts.hard = parts.soft == 0 ? 1 : torchdistill ? alpha : 1 - alpha;
        parts.soft *= torchdistill ? 1 - alpha : alpha;
    }
    parts.share = by_column ? 1.0 / cols : 1;
    parts.squares = desc->convention != KD_CONVENTION_TEXTBREWER &&
                    (!torchdistill || (desc->kind == KD_LOSS_HINTON && desc->alpha != 0));
    return parts;
}

/* The same of a soft term that has T^2 in it. */
KD__PRIVATE void kd__loss_effect(const kd_loss_desc *desc, int has_teacher, int cols, double *soft, double *hard)
{
    const kd__loss_parts parts = kd__loss_parts_of(desc, has_teacher, cols);
    const double t = (double)desc->temperature;
    *soft = parts.soft * parts.share * (double)desc->soft_weight / (parts.squares ? 1 : t * t);
    *hard = parts.hard;
}

KDDEF kd_result kd_loss_weights(kd_ctx *kd, const kd_loss_desc *desc, int cols, double *soft, double *hard)
{
    kd_result result;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!soft || !hard) return kd__fail(kd, KD_ERR_ARGUMENT, "kd_loss_weights: needs places for the two weights");
    result = kd__loss_check(kd, "kd_loss_weights", desc, desc && kd__loss_look_up(desc->kind)->teacher != KD__NO, 1,
                            cols);
    if (result == KD_OK) kd__loss_effect(desc, 1, cols, soft, hard);
    return result;
}

/* ---- losses with kernels --------------------------------------------------------------------------------- */

typedef void (*kd__loss_fn)(const kd__row_loss *l);

KD__PRIVATE int kd__loss_has_kernel(const kd_loss_desc *desc)
{
    if (desc->standardise || desc->adjust != KD_ADJUST_NONE) return 0;
    return desc->kind == KD_LOSS_CE || desc->kind == KD_LOSS_KL || desc->kind == KD_LOSS_HINTON ||
           (desc->kind == KD_LOSS_MSE && desc->hard_weight == 0) || desc->kind == KD_LOSS_BCE;
}

/* Fills in what follows from desc: weights of value and gradient for a batch of `batch` rows. The caller adds the
   pointers and calls the kernel for any part of the rows. */
KD__PRIVATE kd__loss_fn kd__loss_prepare(const kd_ctx *kd, const kd_loss_desc *desc, int has_teacher, int cols,
                                         int batch, kd__row_loss *l)
{
    const kd__loss_parts parts = kd__loss_parts_of(desc, has_teacher, cols);
    const int mse = desc->kind == KD_LOSS_MSE;
    const float t = desc->temperature;
    memset(l, 0, sizeof *l);
    l->cols = cols;
    l->temperature = t;
    l->smoothing = desc->label_smoothing;
    l->hard_value = mse ? 0 : (float)parts.hard;
    l->soft_value = mse || !parts.squares ? (float)parts.soft : (float)parts.soft * t * t;
    l->soft_value = l->soft_value * (float)parts.share * desc->soft_weight;
    l->hard_grad = l->hard_value / (float)batch;
    l->soft_grad = l->soft_value / (mse ? 1 : t) / (float)batch;
    switch (desc->kind) {
    case KD_LOSS_MSE: return kd->k->mse_loss;
    case KD_LOSS_BCE: return kd->k->bce_loss;
    default: return kd->k->row_loss;
    }
}

typedef struct kd__loss_task {
    kd__loss_fn run;
    kd__row_loss all;
} kd__loss_task;

KD__PRIVATE size_t kd__loss_powers(int cols)
{
    return kd__times((size_t)(2 * kd__loss_abreast(cols)), (size_t)cols);
}

KD__PRIVATE void kd__loss_rows(void *arg, int index, int worker)
{
    const kd__loss_task *task = (const kd__loss_task *)arg;
    kd__row_loss l = task->all;
    const int step = kd__rows_per_task(l.cols), first = index * step;
    const ptrdiff_t at = (ptrdiff_t)first * l.cols;
    l.powers += (size_t)worker * kd__loss_powers(l.cols);
    l.rows = KD__MIN(step, l.rows - first);
    l.student += at;
    if (l.teacher) l.teacher += at;
    if (l.soft_labels) l.soft_labels += at;
    if (l.labels) l.labels += first;
    if (l.grad) l.grad += at;
    l.value += first;
    task->run(&l);
}

/* Numbers that the rows of a loss need beside their logits: a value each, and powers for every worker. */
KD__PRIVATE size_t kd__loss_floats(const kd_ctx *kd, int rows, int cols)
{
    const size_t powers = kd__times((size_t)kd->desc.threads, kd__loss_powers(cols));
    return kd__plus((size_t)rows + 2 * KD__FENCE, powers);
}

/* Mean over rows; `task` is prepared and complete but for rows and these numbers. */
KD__PRIVATE double kd__loss_run(const kd_ctx *kd, kd__loss_task *task, int rows, float *numbers)
{
    const size_t powers = (size_t)kd->desc.threads * kd__loss_powers(task->all.cols);
    double sum = 0;
    int r;
    task->all.rows = rows;
    task->all.value = numbers;
    task->all.powers = numbers + rows + KD__FENCE;
    KD__FENCE_UP(numbers + rows, KD__FENCE * sizeof *numbers);
    KD__FENCE_UP(task->all.powers + powers, KD__FENCE * sizeof *numbers);
    if (task->all.soft_value == 0) task->all.teacher = NULL;
    kd__parallel(kd, kd__row_tasks(rows, task->all.cols), kd__loss_rows, task);
    for (r = 0; r < rows; ++r) sum += (double)task->all.value[r];
    KD__FENCE_DOWN(numbers, ((size_t)rows + 2 * KD__FENCE + powers) * sizeof *numbers);
    return sum / rows;
}

/* ---- losses without -------------------------------------------------------------------------------------- */

/* x = (x - mean) / (std + 1e-7), 0 throughout where nothing varies; returns std. */
KD__PRIVATE double kd__standardise(double *x, int cols)
{
    double mean = 0, squares = 0, std;
    int c;
    for (c = 0; c < cols; ++c) mean += x[c];
    mean /= cols;
    for (c = 0; c < cols; ++c) {
        x[c] -= mean;
        squares += x[c] * x[c];
    }
    std = sqrt(squares / (cols - 1));
    for (c = 0; c < cols; ++c) x[c] /= std + 1e-7;
    return std;
}

/* The logits of a row as its soft term sees them, into places that are the row's own. */
KD__PRIVATE void kd__soft_load(kd__soft *p, int r, int worker)
{
    const kd__soft_row row = kd__soft_row_of(p, r, worker);
    const ptrdiff_t at = (ptrdiff_t)r * p->cols;
    double *line = p->lines + (ptrdiff_t)worker * KD__SOFT_LINES * p->cols;
    double *s = p->s ? p->s + at : line, *t = p->s ? p->t + at : line + p->cols;
    int c;
    for (c = 0; c < p->cols; ++c) s[c] = (double)p->student[at + c];
    for (c = 0; p->teacher && c < p->cols; ++c) t[c] = (double)p->teacher[at + c];
    if (p->desc->adjust == KD_ADJUST_SHIFT && p->teacher && row.label >= 0) {
        const int best = kd__argmax(p->teacher + at, p->cols);
        t[best] = (double)p->teacher[at + row.label];
        t[row.label] = (double)p->teacher[at + best];
    }
    if (!p->desc->standardise) return;
    p->stds[r] = kd__standardise(s, p->cols);
    if (p->teacher) kd__standardise(t, p->cols);
}

/* Gradient by the standardised logits x -> gradient by the logits */
KD__PRIVATE void kd__standardise_grad(const double *x, double std, int cols, double *g)
{
    double mean = 0, along = 0;
    int c;
    for (c = 0; c < cols; ++c) {
        mean += g[c];
        along += g[c] * x[c];
    }
    mean /= cols;
    for (c = 0; c < cols; ++c)
        g[c] = std > 0 ? (g[c] - mean) / (std + 1e-7) - along * x[c] / ((cols - 1) * std) : 0;
}

/* Adds the hard term to a row whose soft term is in `values` and g, and writes the gradient. */
KD__PRIVATE void kd__soft_finish(kd__soft *p, int r, int worker)
{
    const kd__soft_row row = kd__soft_row_of(p, r, worker);
    const ptrdiff_t at = (ptrdiff_t)r * p->cols;
    const double e = (double)p->desc->label_smoothing;
    const int hard = p->hard != 0 && (p->soft_labels || row.label >= 0);
    double *x = p->lines + (ptrdiff_t)worker * KD__SOFT_LINES * p->cols, total = 0, value = 0;
    int c;
    if (p->desc->standardise && p->soft != 0) kd__standardise_grad(row.s, p->stds[r], p->cols, row.g);
    p->values[r] *= p->soft;
    for (c = 0; c < p->cols; ++c) row.g[c] *= p->soft;
    if (hard) {
        for (c = 0; c < p->cols; ++c) x[c] = (double)p->student[at + c];
        kd__soft_probs(x, p->cols, 1, row.log_ps, row.log_pt);
        for (c = 0; c < p->cols; ++c) {
            const double hot = p->soft_labels ? (double)p->soft_labels[at + c] : c == row.label;
            x[c] = (1 - e) * hot + e / p->cols;
            total += x[c];
            value -= x[c] * row.log_ps[c];
        }
        for (c = 0; c < p->cols; ++c) row.g[c] += p->hard * (total * row.log_pt[c] - x[c]);
        p->values[r] += p->hard * value;
    }
    for (c = 0; p->grad && c < p->cols; ++c) p->grad[at + c] = (float)(row.g[c] / p->rows);
}

KD__PRIVATE void kd__soft_whole_row(kd__soft *p, int r, int worker)
{
    kd__soft_row row = kd__soft_row_of(p, r, worker);
    p->values[r] = 0;
    if (p->soft != 0) {
        kd__soft_load(p, r, worker);
        p->values[r] = p->info->row(&row);
    } else {
        memset(row.g, 0, (size_t)p->cols * sizeof *row.g);
    }
    p->slopes[r] = row.slope;
    kd__soft_finish(p, r, worker);
}

KD__PRIVATE void kd__soft_open(kd__soft *p, const kd_ctx *kd, const kd_loss_desc *desc, int rows, int cols)
{
    memset(p, 0, sizeof *p);
    p->kd = kd;
    p->desc = desc;
    p->info = kd__loss_look_up(desc->kind);
    p->rows = rows;
    p->cols = cols;
}

/* Gives a loss its arrays in a room, or NULL while that is only measured. Returns how many doubles they take. */
KD__PRIVATE size_t kd__soft_place(kd__soft *p, double *room)
{
    const size_t rows = (size_t)p->rows, cols = (size_t)p->cols, all = kd__times(rows, cols);
    double **const lists[] = {&p->s, &p->t, &p->ps, &p->pt, &p->g, &p->dp};
    size_t used = 0;
    int i;
    p->values = kd__take(room, &used, rows);
    p->slopes = kd__take(room, &used, rows);
    p->stds = kd__take(room, &used, rows);
    p->lines = kd__take(room, &used, kd__times((size_t)p->kd->desc.threads * KD__SOFT_LINES, cols));
    if (!p->info->batch) return used;
    for (i = 0; i < KD__COUNT(lists); ++i) *lists[i] = kd__take(room, &used, all);
    p->by_column = kd__take(room, &used, cols);
    p->partners = (int32_t *)(void *)kd__take(room, &used, rows);
    p->gram = kd__take(room, &used, p->desc->kind == KD_LOSS_MLLD ? kd__times(cols, cols) : 0);
    return used;
}

/* ---- one loss on a batch --------------------------------------------------------------------------------- */

typedef struct kd__loss_call {
    const kd_loss_desc *desc;
    const float *student, *teacher, *soft_labels;
    const int32_t *labels;
    int rows, cols;
    double soft_scale, hard_scale; /* what its terms have for weights among others */
    float *grad;
    float *room;  /* kd__loss_room floats */
    double slope; /* result: derivative by the temperature, of ctkd */
} kd__loss_call;

KD__PRIVATE size_t kd__loss_room(const kd_ctx *kd, const kd_loss_desc *desc, int rows, int cols)
{
    kd__soft p;
    if (kd__loss_has_kernel(desc)) return kd__loss_floats(kd, rows, cols);
    kd__soft_open(&p, kd, desc, rows, cols);
    return kd__times(kd__soft_place(&p, NULL), sizeof(double) / sizeof(float));
}

KD__PRIVATE int kd__loss_inputs_finite(const kd_ctx *kd, const kd__loss_call *call)
{
    const ptrdiff_t count = (ptrdiff_t)call->rows * call->cols;
    return kd->k->all_finite(count, call->student) && (!call->teacher || kd->k->all_finite(count, call->teacher)) &&
           (!call->soft_labels || kd->k->all_finite(count, call->soft_labels));
}

KD__PRIVATE double kd__loss_by_kernel(const kd_ctx *kd, const kd__loss_call *call)
{
    kd__loss_task task;
    kd__row_loss *l = &task.all;
    task.run = kd__loss_prepare(kd, call->desc, call->teacher != NULL, call->cols, call->rows, l);
    l->soft_value *= (float)call->soft_scale, l->soft_grad *= (float)call->soft_scale;
    l->hard_value *= (float)call->hard_scale, l->hard_grad *= (float)call->hard_scale;
    l->student = call->student;
    l->teacher = call->teacher;
    l->labels = call->labels;
    l->soft_labels = call->soft_labels;
    l->grad = call->grad;
    /* what no kernel reads cannot reach the value; a temperature whose square is 0 can leave nothing to read for */
    if (l->soft_value == 0 && (call->teacher || l->hard_value == 0) && !kd__loss_inputs_finite(kd, call))
        return (double)NAN;
    return kd__loss_run(kd, &task, call->rows, call->room);
}

KD__PRIVATE double kd__loss_by_double(const kd_ctx *kd, kd__loss_call *call)
{
    kd__soft p;
    double sum = 0;
    size_t used;
    int r;
    if (!kd__loss_inputs_finite(kd, call)) return (double)NAN;
    kd__soft_open(&p, kd, call->desc, call->rows, call->cols);
    p.student = call->student;
    p.teacher = call->teacher;
    p.labels = kd__loss_uses_labels(p.desc) ? call->labels : NULL;
    p.soft_labels = kd__loss_uses_labels(p.desc) ? call->soft_labels : NULL;
    p.grad = call->grad;
    kd__loss_effect(p.desc, call->teacher != NULL, p.cols, &p.soft, &p.hard);
    p.soft *= call->soft_scale;
    p.hard *= call->hard_scale;
    used = kd__soft_place(&p, (double *)(void *)call->room);
    if (p.info->batch) {
        kd__soft_run(&p, kd__soft_load, p.rows, p.cols);
        sum = p.soft * p.info->batch(&p) * p.rows;
        kd__soft_run(&p, kd__soft_finish, p.rows, p.cols);
    } else {
        kd__soft_run(&p, kd__soft_whole_row, p.rows, p.cols);
        call->slope = 0;
        for (r = 0; r < p.rows; ++r) call->slope += p.soft * p.slopes[r] / p.rows;
    }
    for (r = 0; r < p.rows; ++r) sum += p.values[r];
    kd__give_back((double *)(void *)call->room, used);
    return sum / p.rows;
}

/* The mean over rows, not finite where something is not that goes into it. */
KD__PRIVATE double kd__loss_evaluate(const kd_ctx *kd, kd__loss_call *call)
{
    return kd__loss_has_kernel(call->desc) ? kd__loss_by_kernel(kd, call) : kd__loss_by_double(kd, call);
}
#endif /* KD_NO_TRAIN */

/* Names the first number that is not finite, if there is one. */
KD__PRIVATE kd_result kd__check_finite(kd_ctx *kd, const char *where, const char *what, const float *x,
                                       int64_t rows, int64_t cols)
{
    int64_t i;
    if (kd->k->all_finite((ptrdiff_t)(rows * cols), x)) return KD_OK;
    for (i = 0; kd__is_finite((double)x[i]); ++i) {}
    return kd__fail(kd, KD_ERR_NOT_FINITE, "%s: %s has %s in row %lld, column %lld", where, what,
                    x[i] != x[i] ? "a NaN" : "an infinity", (long long)(i / cols), (long long)(i % cols));
}

/* Soft labels are probabilities: of one class a row, or (`apart`, as bce has them) of each class by itself. */
KD__PRIVATE kd_result kd__check_soft_labels(kd_ctx *kd, const char *where, const float *soft, int64_t rows,
                                            int cols, int apart)
{
    kd_result result = kd__check_finite(kd, where, "soft_labels", soft, rows, cols);
    int64_t r;
    int c;
    for (r = 0; r < rows && result == KD_OK; ++r, soft += cols) {
        double sum = 0;
        for (c = 0; c < cols && soft[c] >= 0 && soft[c] <= 1.001f; ++c) sum += (double)soft[c];
        if (c < cols)
            result = kd__fail(kd, KD_ERR_DATA,
                              "%s: soft_labels are probabilities from 0 to 1, but row %lld, column %d has %s",
                              where, (long long)r, c, kd__number((double)soft[c], 6).chars);
        else if (!apart && sum != 0 && !(sum > 0.999 && sum < 1.001))
            result =
                kd__fail(kd, KD_ERR_DATA,
                         "%s: soft_labels of a row must sum to 1 (or be all 0: no label), but row %lld sums to %s",
                         where, (long long)r, kd__number(sum, 6).chars);
    }
    return result;
}

#ifndef KD_NO_TRAIN

/* kd_loss, whatever soft labels sum to. */
KD__PRIVATE kd_result kd__loss_of_rows(kd_ctx *kd, const kd_loss_desc *desc, const float *student,
                                       const float *teacher, const int32_t *labels, int rows, int cols, float *grad,
                                       double *value)
{
    static const char where[] = "kd_loss";
    kd__loss_call call;
    kd_result result;
    double mean;
    if (!kd) return KD_ERR_ARGUMENT;
    result = kd__loss_check(kd, where, desc, teacher != NULL, labels || (desc && desc->soft_labels), cols);
    if (result != KD_OK) return result;
    if (desc->first || desc->columns || desc->task)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: first, columns and task are for training; give the columns alone",
                        where);
    if (rows < 1 || !student || !value)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: needs student logits, a place for the value, and at least one row, got %d", where,
                        rows);
    if (labels && !desc->soft_labels && kd__loss_uses_labels(desc)) {
        result = kd__loss_check_labels(kd, where, desc, teacher != NULL, labels, NULL, rows, cols);
        if (result != KD_OK) return result;
    }
    call.desc = desc;
    call.student = student;
    call.teacher = teacher;
    call.labels = labels;
    call.soft_labels = desc->soft_labels;
    call.rows = rows;
    call.cols = cols;
    call.soft_scale = call.hard_scale = 1;
    call.grad = grad;
    call.room = kd__scratch(kd, kd__loss_room(kd, desc, rows, cols));
    if (!call.room) return KD_ERR_MEMORY;
    if (grad == student) { /* a row is read before its gradient is written, but later there is no one to blame */
        result = kd__check_finite(kd, where, "the student", student, rows, cols);
        if (result != KD_OK) return result;
    }
    mean = kd__loss_evaluate(kd, &call);
    if (!kd__is_finite(mean)) {
        if (grad != student) result = kd__check_finite(kd, where, "the student", student, rows, cols);
        if (result == KD_OK && teacher) result = kd__check_finite(kd, where, "the teacher", teacher, rows, cols);
        if (result == KD_OK && desc->soft_labels)
            result = kd__check_finite(kd, where, "soft_labels", desc->soft_labels, rows, cols);
        if (result == KD_OK) result = kd__fail(kd, KD_ERR_NOT_FINITE, "%s: the loss overflows", where);
        return result;
    }
    *value = mean;
    return KD_OK;
}

KDDEF kd_result kd_loss(kd_ctx *kd, const kd_loss_desc *desc, const float *student, const float *teacher,
                        const int32_t *labels, int rows, int cols, float *grad, double *value)
{
    kd_result result = KD_OK;
    if (kd && desc && desc->cookie == KD__COOKIE && desc->soft_labels && kd__loss_uses_labels(desc) && cols > 0)
        result = kd__check_soft_labels(kd, "kd_loss", desc->soft_labels, rows, cols, desc->kind == KD_LOSS_BCE);
    if (result != KD_OK) return result;
    return kd__loss_of_rows(kd, desc, student, teacher, labels, rows, cols, grad, value);
}
#endif /* KD_NO_TRAIN */

/* ============================================================================================================
   >>graph    what a model is made of, and what it runs in
   uses: dispatch
   Values, parameters and nodes; slots, steps and spans.
   Inside, an image is stored (h, w, c), so that the channels of a pixel are one run of memory: convolutions,
   depthwise filters, pooling and normalisation all read vectors of channels. A sequence of tokens is an image of
   height tokens and width 1, so layers over sequences need no other layout.
   A value that a convolution with padding reads has zeros between its lines, so that windows may run over the edge
   sideways; lines above and below are skipped instead.
   ============================================================================================================ */

enum { KD__MAX_VALUE = INT_MAX / 8 }; /* numbers in one sample of a value, and weights of one output */

typedef struct kd__shape {
    int c, h, w;
    int flat; /* a vector for PyTorch: after flatten or dense. c, h, w remember the image it was made of */
} kd__shape;

KD__PRIVATE int64_t kd__shape_count(const kd__shape *s) { return (int64_t)s->c * s->h * s->w; }

/* How a tensor is stored.
   KD__PANELS  a matrix of `outputs` columns and c * h * w rows in (h, w, c) order, in panels (kd__gemm); one such
               matrix for each of `groups` groups, group_size floats apart
   KD__TAPS    depthwise filters (c, 1, h, w), stored (h, w, c)
   KD__VECTOR  one number for each channel, or for each number of a flattened image: (c, h, w), stored (h, w, c) */
enum { KD__PANELS, KD__TAPS, KD__VECTOR };

typedef struct kd__param {
    char *name; /* PyTorch's: "0.weight" */
    int rank;
    int64_t shape[4];
    int layout, trained;
    int groups, outputs, c, h, w;
    size_t group_size, size, offset; /* floats; offset into kd_model.weights, or .state if not trained */
    int summed;                      /* its gradient is summed chunk by chunk, at partial in kd__run.partials */
    size_t partial;
} kd__param;

enum { KD__MAX_ARGS = 8 };

typedef struct kd__arg {
    double v[2]; /* the two numbers of a pair are height and width */
    int same;    /* pad=same */
} kd__arg;

typedef struct kd__node {
    int type; /* index into kd__layer_types */
    kd__arg arg[KD__MAX_ARGS];
    int in, in2, out; /* values; in2 is -1 but for add */
    int param[4];     /* weight, bias, running mean, running variance; -1 where there is none */
    int act;          /* of an activation layer: which */
    int fused_act;    /* activation that this node applies to its own output, or KD__IDENTITY */
    float act_arg;
    int fused; /* an activation layer whose work its producer does */
    int shown; /* 0: made by the library, not written in the model line */
    int depth; /* nesting in residual */
    int64_t macs;
    char *name; /* PyTorch's module path: "0", "3.body.1" */
    char *text; /* as written */
} kd__node;

typedef struct kd__value {
    kd__shape shape;
    int producer; /* node, or -1 for the input */
    int consumers;
    int pad;      /* zero pixels between lines of the activation */
    int grad_pad; /* and of its gradient */
    int same_as;  /* the value whose storage this one shares in both directions (fused activations), or itself */
    int needs_grad;
} kd__value;

struct kd_model {
    kd_ctx *kd;
    char *spec;
    kd_init init;
    kd__node *nodes;
    kd__value *values;
    kd__param *params;
    int node_count, node_capacity, value_count, value_capacity, param_count, param_capacity;
    int input, output; /* values */
    int node_dropout;  /* 1 if any layer is random in training */
    int prompt;        /* numbers that its prompt layer appends, 0 without one */
    int prompted;      /* value that ends in them */
    float *weights;    /* trained parameters, each at its offset */
    float *state;      /* running statistics */
    size_t weight_count, state_count;
    size_t summed_count;  /* floats of the gradients that every chunk sums for itself */
    int64_t batches_seen; /* PyTorch's num_batches_tracked */
    char **classes;
    int preprocessing_channels; /* 0: unknown */
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    void *spare;  /* a kd_workspace that kd_predict may borrow */
    int trainers; /* open for it */
};

/* Where a value (or its gradient) is in a run. Local slots exist once a worker, for the samples of one span. */
typedef struct kd__slot {
    float *base;
    size_t sample, first; /* floats between samples; from the start of a sample to its pixel (0, 0) */
    ptrdiff_t row;        /* floats between lines */
    size_t worker;        /* floats between workers; 0: not local, samples counted from 0 */
    int tight;            /* no padding: a sample is one run of memory */
    int pad;
} kd__slot;

typedef struct kd__span {
    int first, count; /* samples */
    int chunk, worker;
} kd__span;

/* A value that losses on features look into. Where h and w are smaller than the value's, it is averaged over cells
   that may overlap: cell i of h begins at floor(i H / h) and ends before ceil((i + 1) H / h). */
typedef struct kd__tap {
    int value, c, h, w;
    double *map;  /* (n, c, h, w): what the forward pass computed */
    double *grad; /* the same, added to the value's gradient in the backward pass; NULL in runs without one */
} kd__tap;

typedef struct kd__run kd__run;
typedef void (*kd__step_fn)(const kd__run *r, const kd__node *n, kd__span s);

typedef struct kd__step {
    kd__step_fn fn;
    const kd__node *node;
    int whole;                /* runs once for the whole batch, with threads of its own */
    int touches;              /* reads or writes values */
    const kd__slot *clear[2]; /* local slots that this step writes first: their padding must be zeroed */
    const kd__shape *clear_shape[2];
} kd__step;

/* What a node has in one run beside values. */
typedef struct kd__node_plan {
    float *own; /* buffer of the size that its layer's `own` function asked for */
    size_t own_floats;
    int accumulate, accumulate2; /* the gradient of in (in2) already holds another consumer's share */
    int pooled_relu;             /* of a ReLU and the max pooling after it: see kd__plan_relus */
    double penalty;              /* what the layer adds to the loss of the batch */
} kd__node_plan;

/* Everything one call or one training needs to run a model: buffers, and the order of work.
   A step of kind span works on some samples and is called for one cache-sized span after the other, so that a span
   passes through several layers while it is in the cache; a step of kind whole needs all samples at once (dense:
   the whole batch shares each weight; batch normalisation: statistics).
   Samples are dealt to workers in chunks. Their number depends on the batch size alone, and every chunk sums its
   own weight gradients, which are added up in order afterwards: the same bits for any number of threads. */
struct kd__run {
    kd_ctx *kd;
    const kd__kernels *k;
    const kd_model *model;
    kd_model *trained; /* the same model where it may be changed, else NULL */
    int training;      /* statistics of the batch, dropout, gradients of the weights */
    int sought;        /* in evaluation mode, the value whose gradient is wanted; -1: none */
    int has_backward;
    int capacity;
    int chunk, block;     /* samples */
    int chunks;           /* chunks of a full batch */
    kd__slot *act, *grad; /* by value */
    kd__node_plan *plan;  /* by node */
    kd__step *forward, *backward, *commit;
    int forward_steps, backward_steps, commit_steps;
    int *input_aliases, input_alias_count; /* values that are the input itself */
    int import; /* the input is copied into the inner layout; otherwise read where it is */
    const kd__tap *taps;
    int tap_count;
    float *locals, *work, *weight_grads, *partials;
    size_t local_floats; /* of one worker */
    size_t work_floats;  /* of one worker: memory of a step while it runs */
    float **owned;       /* every buffer, for kd__run_close */
    int owned_count;
    /* the batch at hand */
    const float *x; /* (count, c, h, w) */
    int count;
    uint64_t dropout_key;
    const float *prompt; /* (count, model->prompt); NULL: zeros */
    int bare;            /* 1: the backward pass leaves out what layers add to the loss */
};

/* Whether the backward pass computes the gradient of a value. What a value has a part in comes after it. */
KD__PRIVATE int kd__needs_grad(const kd__run *r, int value)
{
    return r->has_backward && (r->training ? r->model->values[value].needs_grad : value >= r->sought);
}

KD__PRIVATE float *kd__slot_at(const kd__slot *slot, kd__span s, int sample)
{
    const int index = slot->worker ? sample - s.first : sample;
    return slot->base + (size_t)s.worker * slot->worker + (size_t)index * slot->sample + slot->first;
}

/* The sample after this one, unless it is not there yet. */
KD__PRIVATE kd__soon kd__slot_soon(const kd__run *r, const kd__slot *slot, kd__span s, int sample)
{
    const int there = !slot->worker && sample + 1 < r->count;
    kd__soon soon;
    soon.at = there ? kd__slot_at(slot, s, sample + 1) : NULL;
    soon.lines = there ? (ptrdiff_t)(slot->sample - slot->first + KD__LINE - 1) / KD__LINE : 0;
    soon.step = KD__LINE;
    return soon;
}

/* What kd__layer_type.work asked for, while a step runs. */
KD__PRIVATE float *kd__worker_memory(const kd__run *r, int worker)
{
    return r->work + (size_t)worker * r->work_floats;
}

KD__PRIVATE const float *kd__weight(const kd__run *r, int param)
{
    const kd__param *p;
    if (param < 0) return NULL;
    p = &r->model->params[param];
    return (p->trained ? r->model->weights : r->model->state) + p->offset;
}

KD__PRIVATE float *kd__weight_grad(const kd__run *r, int param)
{
    return param < 0 ? NULL : r->weight_grads + r->model->params[param].offset;
}

/* Where the chunk of a span sums its share of a gradient. */
KD__PRIVATE float *kd__partial(const kd__run *r, int param, kd__span s)
{
    return r->partials + (size_t)s.chunk * r->model->summed_count + r->model->params[param].partial;
}

/* Elementwise layers work on whole samples where both sides are tight, otherwise line by line. */
KD__PRIVATE int kd__lines(const kd__shape *shape, const kd__slot *a, const kd__slot *b, ptrdiff_t *length)
{
    const int whole = a->tight && b->tight;
    *length = (ptrdiff_t)shape->w * shape->c * (whole ? shape->h : 1);
    return whole ? 1 : shape->h;
}

/* ============================================================================================================
   >>layers    what each layer computes, forward and backward
   uses: graph, losses, parallel, random
   A layer is a row of kd__layer_types: its word, its arguments, how it is built (shapes, parameters) and the phases
   of its two passes. Adding one means writing its functions here and its row at the end of the section.
   ============================================================================================================ */

/* A model while its line is being read. `at` is where an error would point. */
typedef struct kd__draft {
    kd_ctx *kd;
    kd_model *m;
    const char *line, *at;
    int current; /* value that the next layer reads */
    int depth;
    int has_batchnorm; /* inside the residual that is being read */
    int tagged;        /* some layer is, so that names may meet */
} kd__draft;

KD__PRIVATE kd_result KD__PRINTF(2, 3) kd__spec_fail(const kd__draft *d, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    kd__print_list(text, sizeof text, format, args);
    va_end(args);
    return kd__fail(d->kd, KD_ERR_SPEC, "model line, column %d: %s", (int)(d->at - d->line) + 1, text);
}

/* "16x8x8", or "784" for a vector */
KD__PRIVATE kd__text kd__shape_text(const kd__shape *s)
{
    kd__text text;
    if (s->flat)
        kd__print(text.chars, sizeof text.chars, "%lld", (long long)kd__shape_count(s));
    else
        kd__print(text.chars, sizeof text.chars, "%dx%dx%d", s->c, s->h, s->w);
    return text;
}

/* A new value made by the node that is being built. */
KD__PRIVATE int kd__draft_value(kd__draft *d, int c, int h, int w, int flat, int producer)
{
    kd_model *m = d->m;
    kd__value *v;
    void *list = kd__grow(d->kd, m->values, m->value_count, &m->value_capacity, sizeof *v);
    if (!list) return -1;
    m->values = (kd__value *)list;
    v = &m->values[m->value_count];
    memset(v, 0, sizeof *v);
    v->shape.c = c, v->shape.h = h, v->shape.w = w, v->shape.flat = flat;
    v->producer = producer;
    v->same_as = m->value_count;
    return m->value_count++;
}

/* Fixes size and place of a parameter whose layout is set; n is the node it belongs to. */
KD__PRIVATE int kd__draft_param(kd__draft *d, const kd__node *n, const char *suffix, kd__param p)
{
    kd_model *m = d->m;
    const size_t rows = (size_t)p.c * (size_t)p.h * (size_t)p.w;
    const size_t length = strlen(n->name) + strlen(suffix) + 2;
    size_t *total = p.trained ? &m->weight_count : &m->state_count;
    void *list = kd__grow(d->kd, m->params, m->param_count, &m->param_capacity, sizeof p);
    if (!list) return -1;
    m->params = (kd__param *)list;
    p.name = KD__NEW(d->kd, char, length);
    if (!p.name) return -1;
    kd__print(p.name, length, "%s.%s", n->name, suffix);
    if (p.layout == KD__PANELS) {
        p.group_size = kd__times(rows, (size_t)kd__panel_columns(d->kd->k, p.outputs));
        p.size = kd__times(p.group_size, (size_t)p.groups);
    } else {
        p.size = rows;
    }
    p.offset = *total;
    *total = kd__plus(*total, kd__times(kd__plus(p.size, 15) / 16, 16));
    p.partial = m->summed_count;
    if (p.summed) m->summed_count = kd__plus(m->summed_count, kd__times(kd__plus(p.size, 15) / 16, 16));
    m->params[m->param_count] = p;
    return m->param_count++;
}

/* A vector with a number for each of `count` channels. */
KD__PRIVATE int kd__draft_vector(kd__draft *d, const kd__node *n, const char *suffix, kd__shape shape, int trained,
                                 int summed)
{
    kd__param p;
    memset(&p, 0, sizeof p);
    p.rank = 1;
    p.shape[0] = kd__shape_count(&shape);
    p.layout = KD__VECTOR;
    p.trained = trained;
    p.summed = summed;
    p.c = shape.c, p.h = shape.h, p.w = shape.w;
    return kd__draft_param(d, n, suffix, p);
}

KD__PRIVATE kd__shape kd__channels(int c)
{
    kd__shape s = {0, 1, 1, 1};
    s.c = c;
    return s;
}

/* Sliding windows: the output's height and width, or an error. `channels` go out. */
KD__PRIVATE kd_result kd__window_build(kd__draft *d, const kd__shape *in, kd__arg *kernel, kd__arg *stride,
                                       kd__arg *pad, int channels, int out[2])
{
    const int size[2] = {in->h, in->w};
    double padded = in->c;
    kd__shape shape;
    int i;
    if (in->flat)
        return kd__spec_fail(d, "this layer needs an image, but its input is a vector of %s",
                             kd__shape_text(in).chars);
    for (i = 0; i < 2; ++i) {
        const int k = (int)kernel->v[i], s = (int)stride->v[i];
        int p = (int)pad->v[i];
        if (pad->same) {
            if (k % 2 == 0) return kd__spec_fail(d, "pad=same needs an odd kernel, got %d", k);
            pad->v[i] = p = k / 2;
        }
        if (k > size[i] + 2 * p)
            return kd__spec_fail(d, "a window of %dx%d does not fit the input %s with padding %dx%d",
                                 (int)kernel->v[0], (int)kernel->v[1], kd__shape_text(in).chars, (int)pad->v[0],
                                 (int)pad->v[1]);
        out[i] = (size[i] + 2 * p - k) / s + 1;
        padded *= size[i] + 2 * p;
        stride->v[i] = KD__MIN(s, size[i] + 2 * p); /* the same windows, of which there is one */
    }
    if (kernel->v[0] * kernel->v[1] * in->c > (double)KD__MAX_VALUE)
        return kd__spec_fail(d, "a window of %dx%d over %d channels is too large", (int)kernel->v[0],
                             (int)kernel->v[1], in->c);
    shape.c = channels, shape.h = out[0], shape.w = out[1], shape.flat = 0;
    if ((double)channels * out[0] * out[1] > (double)KD__MAX_VALUE) /* as doubles: the product may pass 64 bits */
        return kd__spec_fail(d, "the output of this layer, %s, is too large", kd__shape_text(&shape).chars);
    if (padded > (double)KD__MAX_VALUE)
        return kd__spec_fail(d, "the input %s with padding %dx%d is too large", kd__shape_text(in).chars,
                             (int)pad->v[0], (int)pad->v[1]);
    return KD_OK;
}

KD__PRIVATE kd__window kd__window_of(const kd__run *r, const kd__node *n, const kd__arg *kernel,
                                     const kd__arg *stride, const kd__arg *pad, const kd__slot *in,
                                     const kd__slot *out)
{
    const kd__shape *a = &r->model->values[n->in].shape, *b = &r->model->values[n->out].shape;
    kd__window w;
    w.channels = a->c;
    w.in_h = a->h, w.in_w = a->w, w.out_h = b->h, w.out_w = b->w;
    w.kernel_h = (int)kernel->v[0], w.kernel_w = (int)kernel->v[1];
    w.stride_h = (int)stride->v[0], w.stride_w = (int)stride->v[1];
    w.pad_h = (int)pad->v[0], w.pad_w = (int)pad->v[1];
    w.in_row = in->row, w.out_row = out->row;
    return w;
}

/* An output like the input. */
KD__PRIVATE kd_result kd__same_shape(kd__draft *d, kd__node *n, int flat)
{
    const kd__shape in = d->m->values[n->in].shape;
    n->out = kd__draft_value(d, in.c, in.h, in.w, flat, d->m->node_count);
    return n->out < 0 ? KD_ERR_MEMORY : KD_OK;
}

/* Sets the gradient of one sample to zero, unless it already holds another consumer's share. */
KD__PRIVATE void kd__clear_sample(const kd__shape *shape, const kd__slot *slot, float *sample)
{
    ptrdiff_t length;
    int lines = kd__lines(shape, slot, slot, &length), i;
    for (i = 0; i < lines; ++i) memset(sample + i * slot->row, 0, (size_t)length * sizeof *sample);
}

/* to = from, or to += from */
KD__PRIVATE void kd__pass_on(const kd__run *r, const kd__shape *shape, const kd__slot *from, const kd__slot *to,
                             int accumulate, kd__span s)
{
    ptrdiff_t length;
    const int lines = kd__lines(shape, from, to, &length);
    int i, j;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *a = kd__slot_at(from, s, i);
        float *b = kd__slot_at(to, s, i);
        for (j = 0; j < lines; ++j, a += from->row, b += to->row) {
            if (accumulate)
                r->k->add(length, b, a, KD__IDENTITY, 0, b);
            else
                r->k->act(KD__IDENTITY, 0, length, a, b);
        }
    }
}

/* ---- activations ----------------------------------------------------------------------------------------- */

enum { KD__ACT_SLOPE };

/* The derivative of the first five is computed from the output, so their input need not be kept. */
KD__PRIVATE int kd__act_from_output(int act) { return act != KD__GELU && act != KD__SILU && act != KD__HARDSWISH; }

KD__PRIVATE kd_result kd__act_build(kd__draft *d, kd__node *n)
{
    if (n->act == KD__LEAKYRELU) n->act_arg = (float)n->arg[KD__ACT_SLOPE].v[0];
    return kd__same_shape(d, n, d->m->values[n->in].shape.flat);
}

KD__PRIVATE void kd__act_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *in = &r->act[n->in], *out = &r->act[n->out];
    ptrdiff_t length;
    const int lines = kd__lines(&r->model->values[n->in].shape, in, out, &length);
    int i, j;
    if (n->fused) return;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *x = kd__slot_at(in, s, i);
        float *y = kd__slot_at(out, s, i);
        for (j = 0; j < lines; ++j, x += in->row, y += out->row) r->k->act(n->act, n->act_arg, length, x, y);
    }
}

KD__PRIVATE void kd__act_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *kept = &r->act[kd__act_from_output(n->act) ? n->out : n->in];
    const kd__slot *dy = &r->grad[n->out], *dx = &r->grad[n->in];
    const kd__shape *shape = &r->model->values[n->in].shape;
    const kd__node_plan *plan = &r->plan[n - r->model->nodes];
    const int act = plan->pooled_relu ? KD__IDENTITY : n->act;
    const int tight = kept->tight && dy->tight && dx->tight;
    const ptrdiff_t length = (ptrdiff_t)shape->w * shape->c * (tight ? shape->h : 1);
    int i, j;
    if (plan->pooled_relu && dx->base == dy->base) return;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *xy = kd__slot_at(kept, s, i), *from = kd__slot_at(dy, s, i);
        float *to = kd__slot_at(dx, s, i);
        for (j = 0; j < (tight ? 1 : shape->h); ++j, xy += kept->row, from += dy->row, to += dx->row)
            r->k->act_grad(act, n->act_arg, length, xy, from, to, plan->accumulate);
    }
}

/* ---- flatten --------------------------------------------------------------------------------------------- */

KD__PRIVATE kd_result kd__flatten_build(kd__draft *d, kd__node *n) { return kd__same_shape(d, n, 1); }

/* Where input and output share their storage there is nothing to do. */
KD__PRIVATE void kd__flatten_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    if (r->act[n->in].base != r->act[n->out].base)
        kd__pass_on(r, &r->model->values[n->in].shape, &r->act[n->in], &r->act[n->out], 0, s);
}

KD__PRIVATE void kd__flatten_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    if (r->grad[n->in].base != r->grad[n->out].base)
        kd__pass_on(r, &r->model->values[n->in].shape, &r->grad[n->out], &r->grad[n->in],
                    r->plan[n - r->model->nodes].accumulate, s);
}

/* ---- prompt ---------------------------------------------------------------------------------------------- */

enum { KD__PROMPT_N };

KD__PRIVATE kd_result kd__prompt_build(kd__draft *d, kd__node *n)
{
    const int64_t features = kd__shape_count(&d->m->values[n->in].shape);
    const int count = (int)n->arg[KD__PROMPT_N].v[0];
    if (d->m->prompt) return kd__spec_fail(d, "a model may have one prompt layer");
    if (features + count > KD__MAX_VALUE)
        return kd__spec_fail(d, "the output of this layer, %lld, is too large", (long long)features + count);
    d->m->prompt = count;
    n->out = kd__draft_value(d, (int)features + count, 1, 1, 1, d->m->node_count);
    d->m->prompted = n->out;
    return n->out < 0 ? KD_ERR_MEMORY : KD_OK;
}

/* The features in PyTorch's order, since nobody knows an image from now on, then the prompt. */
KD__PRIVATE void kd__prompt_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__shape *in = &r->model->values[n->in].shape;
    const int pixels = in->h * in->w, features = pixels * in->c, count = r->model->prompt;
    int i;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *x = kd__slot_at(&r->act[n->in], s, i);
        float *y = kd__slot_at(&r->act[n->out], s, i);
        r->k->transpose(x, in->c, pixels, in->c, y, pixels);
        if (r->prompt)
            memcpy(y + features, r->prompt + (ptrdiff_t)i * count, (size_t)count * sizeof *y);
        else
            memset(y + features, 0, (size_t)count * sizeof *y);
    }
}

KD__PRIVATE void kd__prompt_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__shape *in = &r->model->values[n->in].shape;
    const int pixels = in->h * in->w, accumulate = r->plan[n - r->model->nodes].accumulate;
    int i, c, p;
    if (!kd__needs_grad(r, n->in)) return;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *dy = kd__slot_at(&r->grad[n->out], s, i);
        float *dx = kd__slot_at(&r->grad[n->in], s, i);
        for (p = 0; p < pixels; ++p) {
            for (c = 0; c < in->c; ++c, ++dx) *dx = (accumulate ? *dx : 0) + dy[c * pixels + p];
        }
    }
}

/* ---- dropout --------------------------------------------------------------------------------------------- */

enum { KD__DROPOUT_P };

KD__PRIVATE kd_result kd__dropout_build(kd__draft *d, kd__node *n)
{
    d->m->node_dropout = 1;
    return kd__same_shape(d, n, d->m->values[n->in].shape.flat);
}

/* The mask is a function of (seed, step, layer, sample in the batch, index), so that the backward pass makes it
   again instead of keeping it. */
KD__PRIVATE void kd__dropout_apply(const kd__run *r, const kd__node *n, const kd__slot *from, const kd__slot *to,
                                   int accumulate, kd__span s)
{
    const kd__shape *shape = &r->model->values[n->in].shape;
    const float p = (float)n->arg[KD__DROPOUT_P].v[0];
    const ptrdiff_t length = (ptrdiff_t)shape->w * shape->c;
    int i, j;
    for (i = s.first; i < s.first + s.count; ++i) {
        const uint64_t key =
            kd__rng_key(r->dropout_key, KD__RNG_DROPOUT, (uint64_t)(n - r->model->nodes), (uint64_t)i);
        const float *x = kd__slot_at(from, s, i);
        float *y = kd__slot_at(to, s, i);
        for (j = 0; j < shape->h; ++j, x += from->row, y += to->row)
            r->k->dropout(length, (uint32_t)key + (uint32_t)j * 0x9e3779b9u, (uint32_t)(key >> 32), p, 1 / (1 - p),
                          x, y, accumulate);
    }
}

KD__PRIVATE void kd__dropout_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    if (r->training)
        kd__dropout_apply(r, n, &r->act[n->in], &r->act[n->out], 0, s);
    else
        kd__flatten_forward(r, n, s);
}

KD__PRIVATE void kd__dropout_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    if (r->training)
        kd__dropout_apply(r, n, &r->grad[n->out], &r->grad[n->in], r->plan[n - r->model->nodes].accumulate, s);
    else
        kd__flatten_backward(r, n, s);
}

/* ---- dense ----------------------------------------------------------------------------------------------- */

enum { KD__DENSE_UNITS, KD__DENSE_BIAS };

KD__PRIVATE kd_result kd__dense_build(kd__draft *d, kd__node *n)
{
    const kd__shape in = d->m->values[n->in].shape;
    const int units = (int)n->arg[KD__DENSE_UNITS].v[0];
    kd__param p;
    memset(&p, 0, sizeof p);
    p.rank = 2;
    p.shape[0] = units;
    p.shape[1] = kd__shape_count(&in);
    p.layout = KD__PANELS;
    p.trained = 1;
    p.groups = 1;
    p.outputs = units;
    p.c = in.c, p.h = in.h, p.w = in.w;
    if (p.shape[1] > INT_MAX / 2)
        return kd__spec_fail(d, "dense: an input of %lld numbers is too large", (long long)p.shape[1]);
    n->param[0] = kd__draft_param(d, n, "weight", p);
    if (n->param[0] < 0) return KD_ERR_MEMORY;
    if (n->arg[KD__DENSE_BIAS].v[0] != 0) {
        n->param[1] = kd__draft_vector(d, n, "bias", kd__channels(units), 1, 0);
        if (n->param[1] < 0) return KD_ERR_MEMORY;
    }
    n->macs = p.shape[0] * p.shape[1];
    n->out = kd__draft_value(d, units, 1, 1, 1, d->m->node_count);
    return n->out < 0 ? KD_ERR_MEMORY : KD_OK;
}

/* A gemm cut into tasks: groups of panels, and strips of rows where panels alone are too few. How it is cut does
   not change a bit of the result. A thread's share is of few columns, since weights, their gradients and what the
   optimizer keeps of them are panels in this order; but if A is large it is read once, strip by strip, while B
   stays in the cache. */
typedef struct kd__gemm_tasks {
    const kd__kernels *k;
    kd__gemm g;
    int panels_each, column_tasks, rows_each, strips, strip_by_strip;
} kd__gemm_tasks;

KD__PRIVATE void kd__gemm_task(void *arg, int index, int worker)
{
    const kd__gemm_tasks *t = (const kd__gemm_tasks *)arg;
    const int column_task = t->strip_by_strip ? index % t->column_tasks : index / t->strips;
    const int strip = t->strip_by_strip ? index / t->column_tasks : index % t->strips;
    const int col = column_task * t->panels_each * t->k->panel, row = strip * t->rows_each;
    kd__gemm g = t->g;
    (void)worker;
    g.cols = KD__MIN(t->panels_each * t->k->panel, g.cols - col);
    g.rows = KD__MIN(t->rows_each, g.rows - row);
    g.a += row * g.a_row;
    g.b += g.b_rows ? (ptrdiff_t)col * g.b_rows : col;
    if (g.bias) g.bias += col;
    if (g.c_rows) {
        g.c += (ptrdiff_t)col * g.c_rows;
        g.c_first += row;
    } else {
        g.c += g.c_transposed ? col * g.c_row + row : row * g.c_row + col;
    }
    t->k->gemm(&g);
}

KD__PRIVATE void kd__gemm_run(const kd_ctx *kd, const kd__gemm *g)
{
    const int panels = kd__parts(g->cols, kd->k->panel), wanted = kd->desc.threads > 1 ? 4 * kd->desc.threads : 1;
    kd__gemm_tasks t;
    const ptrdiff_t row_bytes = (ptrdiff_t)g->segs * g->run * (ptrdiff_t)sizeof(float);
    t.k = kd->k;
    t.g = *g;
    t.panels_each = KD__MAX(1, panels / wanted);
    t.column_tasks = kd__parts(panels, t.panels_each);
    t.strips = KD__MIN(kd__parts(wanted, t.column_tasks), kd__parts(g->rows, 16));
    t.strip_by_strip = g->cols < g->rows && g->rows * row_bytes > kd->cpu.l2 / 2;
    if (t.strip_by_strip) t.strips = KD__MAX(t.strips, kd__parts(g->rows, 4 * kd->k->rows));
    t.rows_each = kd__parts(g->rows, t.strips);
    t.strips = kd__parts(g->rows, t.rows_each);
    kd__parallel(kd, t.column_tasks * t.strips, kd__gemm_task, &t);
}

KD__PRIVATE void kd__dense_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int depth = w->c * w->h * w->w;
    kd__gemm g;
    memset(&g, 0, sizeof g);
    g.rows = s.count;
    g.blocks = 1;
    g.cols = w->outputs;
    g.segs = 1;
    g.run = depth;
    g.a = kd__slot_at(&r->act[n->in], s, s.first);
    g.a_row = (ptrdiff_t)r->act[n->in].sample;
    g.a_k = 1;
    g.b = kd__weight(r, n->param[0]);
    g.b_rows = depth;
    g.c = kd__slot_at(&r->act[n->out], s, s.first);
    g.c_row = (ptrdiff_t)r->act[n->out].sample;
    g.bias = kd__weight(r, n->param[1]);
    g.act = n->fused_act;
    g.act_arg = n->act_arg;
    kd__gemm_run(r->kd, &g);
}

/* Whether the gradient of the weights is worth packing what it is made of. */
KD__PRIVATE int kd__dense_packs(const kd__run *r, const kd__param *w)
{
    return r->training && w->outputs >= 8 * r->k->panel && w->size / (size_t)w->outputs >= 8 * (size_t)r->k->panel;
}

/* Rows of packed tiles, whole ones. */
KD__PRIVATE int kd__dense_tall_rows(const kd__run *r, int depth)
{
    return kd__parts(depth, r->k->rows) * r->k->rows;
}

/* The gradient of the output, turned and in panels, for the input's gradient; then, for that of the weights, the
   input in tiles and the gradient of the output in panels. */
KD__PRIVATE size_t kd__dense_own(const kd__run *r, const kd__node *n)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int depth = w->c * w->h * w->w;
    size_t turned = 0, packed = 0;
    if (kd__needs_grad(r, n->in))
        turned = kd__times((size_t)kd__panel_columns(r->k, r->capacity), (size_t)w->outputs);
    if (kd__dense_packs(r, w))
        packed = kd__times((size_t)r->capacity,
                           (size_t)kd__dense_tall_rows(r, depth) + (size_t)kd__panel_columns(r->k, w->outputs));
    return KD__MAX(turned, packed);
}

typedef struct kd__dense_turn {
    const kd__run *r;
    const float *dy;
    ptrdiff_t dy_row;
    float *panels;
    int rows, cols;
} kd__dense_turn;

KD__PRIVATE void kd__dense_turn_panel(void *arg, int index, int worker)
{
    const kd__dense_turn *t = (const kd__dense_turn *)arg;
    const int first = index * t->r->k->panel, count = KD__MIN(t->r->k->panel, t->rows - first);
    const int width = kd__panel_width(t->r->k, t->rows - first);
    float *panel = t->panels + (ptrdiff_t)first * t->cols;
    (void)worker;
    if (count < width) memset(panel, 0, (size_t)width * (size_t)t->cols * sizeof *panel);
    t->r->k->transpose(t->dy + first * t->dy_row, t->dy_row, count, t->cols, panel, width);
}

/* dx^T = W dy^T: W is read where it lies, number by number, and only the gradient of the output, which is far
   smaller, is turned. The last panel of W is narrower: a product of its own that continues the same sums. */
KD__PRIVATE void kd__dense_input_grad(const kd__run *r, const kd__node *n, const float *dy, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__node_plan *plan = &r->plan[n - r->model->nodes];
    const int depth = w->c * w->h * w->w, panel = r->k->panel, whole = w->outputs / panel,
              left = w->outputs % panel;
    kd__dense_turn turn;
    kd__gemm g;
    turn.r = r;
    turn.dy = dy;
    turn.dy_row = (ptrdiff_t)r->grad[n->out].sample;
    turn.panels = plan->own;
    turn.rows = s.count;
    turn.cols = w->outputs;
    kd__parallel(r->kd, kd__parts(s.count, panel), kd__dense_turn_panel, &turn);
    memset(&g, 0, sizeof g);
    g.rows = depth;
    g.blocks = 1;
    g.cols = s.count;
    g.a_k = 1;
    g.b = plan->own;
    g.b_rows = w->outputs;
    g.c = kd__slot_at(&r->grad[n->in], s, s.first);
    g.c_row = (ptrdiff_t)r->grad[n->in].sample;
    g.c_transposed = 1;
    g.accumulate = plan->accumulate;
    if (whole) {
        g.segs = whole;
        g.run = panel;
        g.a = kd__weight(r, n->param[0]);
        g.a_row = panel;
        g.a_seg = (ptrdiff_t)depth * panel;
        kd__gemm_run(r->kd, &g);
        g.accumulate = 1;
    }
    if (left) {
        g.segs = 1;
        g.run = left;
        g.a = kd__weight(r, n->param[0]) + (ptrdiff_t)whole * depth * panel;
        g.a_row = kd__panel_width(r->k, left);
        g.b_first = whole * panel;
        kd__gemm_run(r->kd, &g);
    }
}

/* dW^T = x^T dy. Columns of x lie along memory, each number of a tile in another page, and both are read again for
   every tile and panel of the other: they are packed. */
typedef struct kd__dense_product {
    const kd__run *r;
    const float *x, *dy;
    ptrdiff_t x_row, dy_row;
    float *tiles, *panels, *grad;
    int count, depth, outputs;
} kd__dense_product;

enum { KD__DENSE_TILES = 8 }; /* packed in one task */

KD__PRIVATE void kd__dense_pack_tiles(void *arg, int index, int worker)
{
    const kd__dense_product *p = (const kd__dense_product *)arg;
    const int tall = p->r->k->rows, end = KD__MIN(p->depth, (index + 1) * KD__DENSE_TILES * tall);
    int row;
    (void)worker;
    for (row = index * KD__DENSE_TILES * tall; row < end; row += tall)
        p->r->k->copy(p->x + row, p->x_row, p->count, KD__MIN(tall, end - row),
                      p->tiles + (ptrdiff_t)row * p->count, tall);
}

KD__PRIVATE void kd__dense_product_panel(void *arg, int index, int worker)
{
    const kd__dense_product *p = (const kd__dense_product *)arg;
    const kd__kernels *k = p->r->k;
    const int first = index * k->panel, width = kd__panel_width(k, p->outputs - first);
    float *panel = p->panels + (ptrdiff_t)first * p->count;
    kd__gemm g;
    (void)worker;
    memset(&g, 0, sizeof g);
    g.cols = KD__MIN(k->panel, p->outputs - first);
    if (g.cols < width) memset(panel, 0, (size_t)width * (size_t)p->count * sizeof *panel);
    k->copy(p->dy + first, p->dy_row, p->count, g.cols, panel, width);
    g.segs = 1;
    g.run = p->count;
    g.a = p->tiles;
    g.a_row = 1;
    g.a_k = g.rows = k->rows;
    g.a_block = (ptrdiff_t)k->rows * p->count;
    g.b = panel;
    g.b_rows = p->count;
    g.c = p->grad + (ptrdiff_t)first * p->depth;
    g.c_row = width; /* one panel is a matrix */
    g.c_block = (ptrdiff_t)k->rows * width;
    g.blocks = p->depth / k->rows;
    k->gemm(&g);
    if (p->depth % k->rows == 0) return;
    g.a += g.blocks * g.a_block;
    g.c += g.blocks * g.c_block;
    g.rows = p->depth % k->rows;
    g.blocks = 1;
    k->gemm(&g);
}

KD__PRIVATE void kd__dense_weight_grad(const kd__run *r, const kd__node *n, const float *dy, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int panels = kd__parts(w->outputs, r->k->panel), strip = KD__DENSE_TILES * r->k->rows;
    kd__dense_product p;
    p.r = r;
    p.x = kd__slot_at(&r->act[n->in], s, s.first);
    p.x_row = (ptrdiff_t)r->act[n->in].sample;
    p.dy = dy;
    p.dy_row = (ptrdiff_t)r->grad[n->out].sample;
    p.count = s.count;
    p.depth = w->c * w->h * w->w;
    p.outputs = w->outputs;
    p.tiles = r->plan[n - r->model->nodes].own;
    p.panels = p.tiles + (ptrdiff_t)kd__dense_tall_rows(r, p.depth) * s.count;
    p.grad = kd__weight_grad(r, n->param[0]);
    kd__parallel(r->kd, kd__parts(p.depth, strip), kd__dense_pack_tiles, &p);
    kd__parallel(r->kd, panels, kd__dense_product_panel, &p);
}

KD__PRIVATE void kd__dense_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int depth = w->c * w->h * w->w;
    const float *dy = kd__slot_at(&r->grad[n->out], s, s.first);
    const ptrdiff_t dy_row = (ptrdiff_t)r->grad[n->out].sample;
    kd__gemm g;
    if (kd__needs_grad(r, n->in)) kd__dense_input_grad(r, n, dy, s);
    if (!r->training) return;
    if (kd__dense_packs(r, w)) {
        kd__dense_weight_grad(r, n, dy, s);
    } else {
        memset(&g, 0, sizeof g);
        g.rows = depth;
        g.blocks = 1;
        g.cols = w->outputs;
        g.segs = 1;
        g.run = s.count;
        g.a = kd__slot_at(&r->act[n->in], s, s.first);
        g.a_row = 1;
        g.a_k = (ptrdiff_t)r->act[n->in].sample;
        g.b = dy;
        g.b_k = dy_row;
        g.c = kd__weight_grad(r, n->param[0]);
        g.c_rows = depth;
        kd__gemm_run(r->kd, &g);
    }
    if (n->param[1] >= 0) {
        float *db = kd__weight_grad(r, n->param[1]);
        memset(db, 0, (size_t)w->outputs * sizeof *db);
        r->k->column_sums(dy, dy_row, s.count, w->outputs, db);
    }
}

/* ---- convolution ----------------------------------------------------------------------------------------- */

enum { KD__CONV_CHANNELS, KD__CONV_KERNEL, KD__CONV_STRIDE, KD__CONV_PAD, KD__CONV_GROUPS, KD__CONV_BIAS };

/* What a convolution reads: a sample as it is, or its pixels in pairs (kd__gemm). */
typedef struct kd__conv_input {
    const float *x;
    ptrdiff_t row, pixel, k; /* k: from a number to the next */
    int pairs;
} kd__conv_input;

/* A convolution of one sample and one group as the gemm kernel sees it. The backward pass with respect to the input
   is another such convolution (with a stride, one for each position of the pixel within a stride). */
typedef struct kd__conv {
    int out_h, out_w, in_h;
    int taps_h, taps_w, channels, cols;         /* window, channels read, channels written */
    int stride_h, stride_w, origin_h, origin_w; /* output (0, 0) starts reading at input (origin_h, origin_w) */
    kd__conv_input in;
    const float *panels, *bias;
    float *y;
    ptrdiff_t y_row, y_pixel;
    int act, accumulate;
    float act_arg;
    int y_far;
    kd__soon soon_x, soon_y; /* the next sample */
} kd__conv;

/* `lines` lines of output from line y on, all with taps kh0 to kh1 - 1. */
KD__PRIVATE void kd__conv_lines(const kd__kernels *k, const kd__conv *c, int y, int lines, int kh0, int kh1)
{
    /* the taps of a line are one run of memory: no groups */
    const int one_run = c->in.pixel == c->channels * c->in.k, side_by_side = c->in.pairs ? 2 : 1;
    const int line_taps = c->taps_w * c->channels;
    kd__gemm g;
    int kh;
    memset(&g, 0, sizeof g);
    g.rows = c->out_w / side_by_side;
    g.blocks = lines;
    g.cols = c->cols;
    g.pairs = c->in.pairs;
    g.a = c->in.x + (y * c->stride_h + c->origin_h + kh0) * c->in.row + c->origin_w * c->in.pixel;
    g.a_row = side_by_side * c->stride_w * c->in.pixel;
    g.a_block = c->stride_h * c->in.row;
    g.a_k = c->in.k;
    g.b = c->panels;
    g.b_rows = c->taps_h * line_taps;
    g.b_first = kh0 * line_taps;
    g.c = c->y + y * c->y_row;
    g.c_row = side_by_side * c->y_pixel;
    g.c_block = c->y_row;
    g.bias = c->bias;
    g.accumulate = c->accumulate;
    g.c_far = c->y_far && g.b_rows <= KD__LINE; /* longer sums leave time for soon_y to bring it */
    if (kh0 == 0 && kh1 == c->taps_h) g.soon[0] = c->soon_x, g.soon[1] = c->soon_y; /* most lines, and only once */
    if (g.a_block == g.rows * g.a_row && g.c_block == g.rows * g.c_row) g.rows *= lines, g.blocks = 1; /* 1 x 1 */
    if (one_run || kh1 == kh0) {
        g.segs = kh1 - kh0;
        g.run = line_taps;
        g.a_seg = c->in.row;
        g.act = c->act;
        g.act_arg = c->act_arg;
        k->gemm(&g);
        return;
    }
    for (kh = kh0; kh < kh1; ++kh) {
        g.segs = c->taps_w;
        g.run = c->channels;
        g.a_seg = c->in.pixel;
        g.act = kh == kh1 - 1 ? c->act : KD__IDENTITY;
        g.act_arg = c->act_arg;
        k->gemm(&g);
        g.accumulate = 1;
        g.a += c->in.row;
        g.b_first += line_taps;
    }
}

/* How many lines of output, from y on, see an image of in_h lines with the same taps, kh0 to kh1 - 1: all of those
   where the whole window fits; at the upper and lower edge one, with fewer. */
KD__PRIVATE int kd__conv_lines_alike(int y, int out_h, int in_h, int taps, int stride, int origin, int *kh0,
                                     int *kh1)
{
    const int top = y * stride + origin;
    *kh0 = KD__MIN(KD__MAX(0, -top), taps);
    *kh1 = KD__MAX(*kh0, KD__MIN(taps, in_h - top));
    if (taps == 0) return out_h;
    return *kh1 - *kh0 < taps ? 1 : KD__MIN(out_h - 1, (in_h - taps - origin) / stride) - y + 1;
}

/* Where pixels have so few channels that two of them fit into a vector, it takes neighbours; the numbers that they
   are made of must lie side by side then. Whether that pays: the taps that meet a pixel on average, against its
   way to the pairs. */
KD__PRIVATE int kd__conv_in_pairs(const kd__run *r, int cols, const kd__arg *kernel, const kd__arg *stride)
{
    return r->k->pairs && cols <= r->k->narrow && kernel->v[0] * kernel->v[1] >= 2 * stride->v[0] * stride->v[1];
}

/* Floats that the pairs of a sample take, of the input or of the gradient of the output. */
KD__PRIVATE size_t kd__conv_pairs_work(const kd__run *r, const kd__node *n)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__arg *kernel = &n->arg[KD__CONV_KERNEL], *stride = &n->arg[KD__CONV_STRIDE];
    const kd__slot *in = &r->act[n->in], *grad = &r->grad[n->out];
    size_t floats = 0;
    if (kd__conv_in_pairs(r, w->outputs, kernel, stride))
        floats = kd__times(2, in->first + (size_t)in->row * (size_t)r->model->values[n->in].shape.h);
    if (r->has_backward && kd__conv_in_pairs(r, w->c, kernel, stride))
        floats = KD__MAX(floats,
                         kd__times(2, grad->first + (size_t)grad->row * (size_t)r->model->values[n->out].shape.h));
    return floats;
}

KD__PRIVATE kd__conv_input kd__conv_read(const float *sample, const kd__slot *slot, const kd__shape *shape)
{
    kd__conv_input in;
    in.x = sample;
    in.row = slot->row, in.pixel = shape->c, in.k = 1;
    in.pairs = 0;
    return in;
}

/* Each pixel with the one `step` floats behind it. */
KD__PRIVATE kd__conv_input kd__conv_read_pairs(const kd__run *r, const float *sample, const kd__slot *slot,
                                               const kd__shape *shape, ptrdiff_t step, float *pairs)
{
    kd__conv_input in = kd__conv_read(sample, slot, shape);
    in.pairs = 1;
    if (step == 1) return in; /* they lie side by side as it is */
    r->k->pair_up((ptrdiff_t)slot->first + slot->row * shape->h - step, step, sample - slot->first, pairs);
    in.x = pairs + 2 * slot->first;
    in.row *= 2, in.pixel *= 2, in.k = 2;
    return in;
}

KD__PRIVATE void kd__conv_run(const kd__kernels *k, const kd__conv *c)
{
    int y = 0, lines, kh0, kh1;
    for (; y < c->out_h; y += lines) {
        lines = kd__conv_lines_alike(y, c->out_h, c->in_h, c->taps_h, c->stride_h, c->origin_h, &kh0, &kh1);
        kd__conv_lines(k, c, y, lines, kh0, kh1);
    }
}

KD__PRIVATE kd_result kd__depthwise_build(kd__draft *d, kd__node *n);

/* In which order the gradient of the output meets input pixels at position `phase` within a stride: the first
   output pixel that reached it, how many taps, and the last tap (taps run backwards). */
typedef struct kd__conv_phase {
    int count, taps, origin, last_tap;
} kd__conv_phase;

KD__PRIVATE kd__conv_phase kd__conv_phase_of(int phase, int size, int kernel, int stride, int pad)
{
    kd__conv_phase p;
    const int first_tap = (phase + pad) % stride;
    p.count = (size - phase + stride - 1) / stride;
    p.taps = first_tap < kernel ? (kernel - 1 - first_tap) / stride + 1 : 0;
    p.last_tap = first_tap + (p.taps - 1) * stride;
    p.origin = (phase + pad - p.last_tap) / stride; /* exact; may be negative */
    if (p.taps == 0) p.origin = 0;
    return p;
}

/* How far beyond a line of the output's gradient the gradient of the input reads. */
KD__PRIVATE int kd__conv_grad_pad(int size, int outputs, int kernel, int stride, int pad)
{
    int phase, reach = 0;
    for (phase = 0; phase < KD__MIN(stride, size); ++phase) {
        const kd__conv_phase w = kd__conv_phase_of(phase, size, kernel, stride, pad);
        if (w.taps == 0) continue;
        reach = KD__MAX(reach, -w.origin);
        reach = KD__MAX(reach, w.count - 1 + w.origin + w.taps - 1 - (outputs - 1));
    }
    return reach;
}

KD__PRIVATE int kd__tiles_over(int pixels) { return (pixels + 3) / 4; }

/* Channels as planes store them. */
KD__PRIVATE int kd__winograd_stored(const kd__kernels *k, int channels)
{
    return (channels + k->lanes - 1) / k->lanes * k->lanes;
}

/* Floats of kd__tiles.zeros, of a plane (with a gap, lest all begin at the same place of a cache), and of all. */
KD__PRIVATE size_t kd__winograd_zeros(int stored) { return (size_t)6 * (size_t)stored; }
KD__PRIVATE size_t kd__winograd_plane(int stored, int block)
{
    return kd__plus(kd__times((size_t)stored, (size_t)block), 16);
}
KD__PRIVATE size_t kd__winograd_floats(int stored, int block)
{
    return kd__plus(kd__winograd_zeros(stored), kd__times(KD__WINO_PLANES, kd__winograd_plane(stored, block)));
}

/* Whether the smallest block fits into what the context allows. */
KD__PRIVATE int kd__winograd_fits(const kd_ctx *kd, const kd__param *w)
{
    const int in = kd__winograd_stored(kd->k, w->c), out = kd__winograd_stored(kd->k, w->outputs);
    const size_t floats = kd__plus(kd__winograd_floats(in, kd->k->rows), kd__winograd_floats(out, kd->k->rows));
    return !kd->desc.scratch || kd__times(floats, sizeof(float)) <= kd->desc.scratch;
}

/* Whether it is worth while, by shape (and what fits) alone, since the bits depend on it: enough channels to pay
   for the way to planes and back, and at least half of what tiles cover inside of the image. */
KD__PRIVATE int kd__is_winograd(const kd_model *m, const kd__node *n)
{
    const kd__param *w = &m->params[n->param[0]];
    const kd__shape *out = &m->values[n->out].shape;
    const kd__arg *stride = &n->arg[KD__CONV_STRIDE], *pad = &n->arg[KD__CONV_PAD];
    return w->h == 3 && w->w == 3 && stride->v[0] == 1 && stride->v[1] == 1 && pad->v[0] <= 2 && pad->v[1] <= 2 &&
           w->groups == 1 && KD__MIN(w->c, w->outputs) >= 16 && kd__winograd_fits(m->kd, w) &&
           (int64_t)out->h * out->w >= (int64_t)8 * kd__tiles_over(out->h) * kd__tiles_over(out->w);
}

KD__PRIVATE kd_result kd__conv_build(kd__draft *d, kd__node *n)
{
    const kd__shape in = d->m->values[n->in].shape;
    const int channels = (int)n->arg[KD__CONV_CHANNELS].v[0], groups = (int)n->arg[KD__CONV_GROUPS].v[0];
    const kd__arg *kernel = &n->arg[KD__CONV_KERNEL], *stride = &n->arg[KD__CONV_STRIDE];
    kd__value *v;
    kd__param p;
    kd_result result;
    int out[2];
    if (groups > 1 && groups == in.c && channels == in.c) return kd__depthwise_build(d, n);
    result = kd__window_build(d, &in, &n->arg[KD__CONV_KERNEL], &n->arg[KD__CONV_STRIDE], &n->arg[KD__CONV_PAD],
                              channels, out);
    if (result != KD_OK) return result;
    if (in.c % groups || channels % groups)
        return kd__spec_fail(d, "groups=%d must divide the %d channels that come in and the %d that go out", groups,
                             in.c, channels);
    memset(&p, 0, sizeof p);
    p.rank = 4;
    p.layout = KD__PANELS;
    p.trained = p.summed = 1;
    p.groups = groups;
    p.outputs = channels / groups;
    p.c = in.c / groups;
    p.h = (int)kernel->v[0];
    p.w = (int)kernel->v[1];
    p.shape[0] = channels, p.shape[1] = p.c, p.shape[2] = p.h, p.shape[3] = p.w;
    n->param[0] = kd__draft_param(d, n, "weight", p);
    if (n->param[0] < 0) return KD_ERR_MEMORY;
    if (n->arg[KD__CONV_BIAS].v[0] != 0) {
        n->param[1] = kd__draft_vector(d, n, "bias", kd__channels(channels), 1, 1);
        if (n->param[1] < 0) return KD_ERR_MEMORY;
    }
    n->macs = (int64_t)out[0] * out[1] * channels * p.c * p.h * p.w;
    n->out = kd__draft_value(d, channels, out[0], out[1], 0, d->m->node_count);
    if (n->out < 0) return KD_ERR_MEMORY;
    v = &d->m->values[n->in];
    v->pad = KD__MAX(v->pad, (int)n->arg[KD__CONV_PAD].v[1]);
    v = &d->m->values[n->out];
    if (kd__is_winograd(d->m, n)) { /* tiles reach further */
        const int pad = (int)n->arg[KD__CONV_PAD].v[1], width = 4 * kd__tiles_over(out[1]);
        d->m->values[n->in].pad = KD__MAX(d->m->values[n->in].pad, width + 2 - pad - in.w);
        v->grad_pad = KD__MAX(width - out[1], 4 * kd__tiles_over(in.w) + pad - out[1]);
    }
    v->grad_pad = KD__MAX(v->grad_pad,
                          kd__conv_grad_pad(in.w, out[1], p.w, (int)stride->v[1], (int)n->arg[KD__CONV_PAD].v[1]));
    return KD_OK;
}

/* ---- Winograd's convolution ------------------------------------------------------------------------------ */

/* Convolutions of 3 x 3 taps and stride 1 can do with 36 multiplications for 16 outputs instead of 144: tiles of
   4 x 4 outputs, and the 6 x 6 pixels under each, are turned into 36 planes (>>kernels), and those are multiplied
   with the planes of the weights, a matrix product each. As many tiles are worked on together as leave their
   planes in the second-level cache. The gradient of the weights is summed over a chunk as planes. */

/* Where kd__node_plan.own has: from 0, the planes of the weights; the weights turned for the input's gradient; the
   planes of these; for each worker the planes of its chunk's share of the weights' gradient. And all of it. */
typedef struct kd__winograd_place {
    size_t turned, input_grad, weight_grad, worker, floats;
} kd__winograd_place;

KD__PRIVATE kd__winograd_place kd__winograd_own(const kd__run *r, const kd__node *n)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const size_t turned = kd__times((size_t)w->outputs, (size_t)kd__panel_columns(r->k, w->c));
    kd__winograd_place p;
    p.worker = kd__times(KD__WINO_PLANES, kd__times((size_t)w->c, (size_t)kd__panel_columns(r->k, w->outputs)));
    p.turned = p.input_grad = p.weight_grad = p.worker;
    if (kd__needs_grad(r, n->in)) {
        p.input_grad = kd__plus(p.turned, kd__times(9, turned));
        p.weight_grad = kd__plus(p.input_grad, kd__times(KD__WINO_PLANES, turned));
    }
    p.floats = p.weight_grad;
    if (r->training) p.floats = kd__plus(p.floats, kd__times(p.worker, (size_t)r->kd->desc.threads));
    return p;
}

/* Between taps and planes, both (tap or plane, rows) x cols in panels. */
KD__PRIVATE void kd__winograd_weights(const kd__run *r, void (*turn)(ptrdiff_t n, float *taps, float *planes),
                                      int rows, int cols, float *taps, float *planes)
{
    int col;
    for (col = 0; col < cols; col += r->k->panel) {
        const ptrdiff_t before = (ptrdiff_t)col * rows;
        turn((ptrdiff_t)rows * kd__panel_width(r->k, cols - col), taps + 9 * before,
             planes + KD__WINO_PLANES * before);
    }
}

KD__PRIVATE void kd__conv_forward_prepare(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    (void)s;
    if (kd__is_winograd(r->model, n))
        kd__winograd_weights(r, r->k->winograd_weight, w->c, w->outputs, r->model->weights + w->offset,
                             r->plan[n - r->model->nodes].own);
}

/* A value in a run on one side of the planes' products, and the planes of one block of its tiles. */
typedef struct kd__winograd {
    const kd__slot *slot;
    kd__tiles tiles;
    float *planes;
} kd__winograd;

/* Tiles in a block. */
KD__PRIVATE int kd__winograd_block(const kd__run *r, const kd__param *w)
{
    const ptrdiff_t stored = kd__winograd_stored(r->k, w->c) + kd__winograd_stored(r->k, w->outputs);
    const ptrdiff_t most = kd__block_room(r->kd) / (ptrdiff_t)sizeof(float) / KD__WINO_PLANES / stored;
    return KD__MAX((int)most / r->k->rows, 1) * r->k->rows;
}

KD__PRIVATE size_t kd__conv_work(const kd__run *r, const kd__node *n)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int block = kd__winograd_block(r, w);
    if (!kd__is_winograd(r->model, n)) return kd__conv_pairs_work(r, n);
    return kd__plus(kd__winograd_floats(kd__winograd_stored(r->k, w->c), block),
                    kd__winograd_floats(kd__winograd_stored(r->k, w->outputs), block));
}

/* The value whose slot is given, in tiles for outputs that cover the image `covered`. Takes memory from *work. */
KD__PRIVATE kd__winograd kd__winograd_side(const kd__run *r, int value, const kd__slot *slot, int covered,
                                           int block, float **work)
{
    const kd__shape *image = &r->model->values[value].shape, *outputs = &r->model->values[covered].shape;
    const int stored = kd__winograd_stored(r->k, image->c);
    kd__winograd w;
    memset(&w, 0, sizeof w);
    w.slot = slot;
    w.tiles.channels = image->c, w.tiles.h = image->h, w.tiles.w = image->w;
    w.tiles.row = slot->row;
    w.tiles.across = kd__tiles_over(outputs->w), w.tiles.down = kd__tiles_over(outputs->h);
    w.tiles.tile = stored;
    w.tiles.plane = (ptrdiff_t)kd__winograd_plane(stored, block);
    w.tiles.zeros = *work;
    memset(*work, 0, kd__winograd_zeros(stored) * sizeof **work);
    w.planes = *work + kd__winograd_zeros(stored);
    *work += kd__winograd_floats(stored, block);
    return w;
}

/* Tiles `first` to first + count of a span, counted through its samples, between pixels and planes. */
KD__PRIVATE void kd__winograd_move(const kd__winograd *w, kd__span s, int first, int count,
                                   void (*move)(const kd__tiles *t, float *image, float *planes))
{
    const int tiles = w->tiles.across * w->tiles.down;
    float *planes = w->planes;
    kd__tiles t = w->tiles;
    for (; count > 0; first += t.count, count -= t.count, planes += t.count * t.tile) {
        t.first = first % tiles;
        t.count = KD__MIN(count, tiles - t.first);
        move(&t, kd__slot_at(w->slot, s, s.first + first / tiles), planes);
    }
}

/* The pixels under `count` tiles, counted as above, as far as there are samples, in a share for each plane. */
KD__PRIVATE kd__soon kd__winograd_soon(const kd__run *r, const kd__winograd *w, kd__span s, int first, int count)
{
    const int tiles = w->tiles.across * w->tiles.down, sample = s.first + first / tiles;
    const ptrdiff_t samples = KD__MIN((ptrdiff_t)r->count, sample + (count + tiles - 1) / tiles) - sample;
    ptrdiff_t floats;
    kd__soon soon = {NULL, 0, KD__LINE};
    if (w->slot->worker || samples <= 0) return soon;
    soon.at = kd__slot_at(w->slot, s, sample) + first % tiles / w->tiles.across * 4 * w->tiles.row;
    floats = KD__MIN((ptrdiff_t)w->slot->sample * count / tiles,
                     samples * (ptrdiff_t)w->slot->sample - (ptrdiff_t)w->slot->first);
    soon.lines = (floats + KD__WINO_PLANES * KD__LINE - 1) / (KD__WINO_PLANES * KD__LINE);
    return soon;
}

/* The next plane's product fetches what comes after that which the last one has. */
KD__PRIVATE void kd__winograd_next_share(kd__gemm *g)
{
    int i;
    for (i = 0; i < KD__COUNT(g->soon); ++i) {
        if (g->soon[i].at) g->soon[i].at += g->soon[i].lines * KD__LINE;
    }
}

/* y = x * weights, whose planes are given */
KD__PRIVATE void kd__winograd_convolve(const kd__run *r, const kd__winograd *x, const kd__winograd *y, int block,
                                       const float *weights, kd__span s)
{
    const int total = s.count * x->tiles.across * x->tiles.down;
    kd__gemm g;
    int first, p;
    memset(&g, 0, sizeof g);
    g.blocks = g.segs = 1;
    g.cols = y->tiles.channels;
    g.run = x->tiles.channels;
    g.a_row = x->tiles.tile;
    g.a_k = 1;
    g.b = weights;
    g.b_rows = KD__WINO_PLANES * g.run;
    g.c_row = y->tiles.tile;
    for (first = 0; first < total; first += block) {
        g.rows = KD__MIN(block, total - first);
        g.soon[0] = kd__winograd_soon(r, y, s, first, g.rows);
        g.soon[1] = kd__winograd_soon(r, x, s, first + g.rows, g.rows);
        kd__winograd_move(x, s, first, g.rows, r->k->winograd_read);
        for (p = 0; p < KD__WINO_PLANES; ++p, kd__winograd_next_share(&g)) {
            g.a = x->planes + p * x->tiles.plane;
            g.b_first = p * g.run;
            g.c = y->planes + p * y->tiles.plane;
            r->k->gemm(&g);
        }
        kd__winograd_move(y, s, first, g.rows, r->k->winograd_write);
    }
}

KD__PRIVATE void kd__winograd_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const int block = kd__winograd_block(r, &r->model->params[n->param[0]]);
    float *work = kd__worker_memory(r, s.worker);
    kd__winograd x = kd__winograd_side(r, n->in, &r->act[n->in], n->out, block, &work);
    kd__winograd y = kd__winograd_side(r, n->out, &r->act[n->out], n->out, block, &work);
    x.tiles.origin_h = -(int)n->arg[KD__CONV_PAD].v[0], x.tiles.origin_w = -(int)n->arg[KD__CONV_PAD].v[1];
    y.tiles.bias = kd__weight(r, n->param[1]);
    y.tiles.act = n->fused_act;
    y.tiles.act_arg = n->act_arg;
    kd__winograd_convolve(r, &x, &y, block, r->plan[n - r->model->nodes].own, s);
}

KD__PRIVATE void kd__winograd_input_grad(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__node_plan *plan = &r->plan[n - r->model->nodes];
    const int block = kd__winograd_block(r, &r->model->params[n->param[0]]);
    float *work = kd__worker_memory(r, s.worker);
    kd__winograd dy = kd__winograd_side(r, n->out, &r->grad[n->out], n->in, block, &work);
    kd__winograd dx = kd__winograd_side(r, n->in, &r->grad[n->in], n->in, block, &work);
    dy.tiles.origin_h = (int)n->arg[KD__CONV_PAD].v[0] - 2, dy.tiles.origin_w = (int)n->arg[KD__CONV_PAD].v[1] - 2;
    dx.tiles.accumulate = plan->accumulate;
    kd__winograd_convolve(r, &dy, &dx, block, plan->own + kd__winograd_own(r, n).input_grad, s);
}

KD__PRIVATE void kd__winograd_weight_grad(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__winograd_place place = kd__winograd_own(r, n);
    const int block = kd__winograd_block(r, w);
    float *work = kd__worker_memory(r, s.worker);
    float *sums = r->plan[n - r->model->nodes].own + place.weight_grad + (size_t)s.worker * place.worker;
    kd__winograd x = kd__winograd_side(r, n->in, &r->act[n->in], n->out, block, &work);
    kd__winograd dy = kd__winograd_side(r, n->out, &r->grad[n->out], n->out, block, &work);
    const int total = s.count * x.tiles.across * x.tiles.down;
    kd__gemm g;
    int first, p;
    x.tiles.origin_h = -(int)n->arg[KD__CONV_PAD].v[0], x.tiles.origin_w = -(int)n->arg[KD__CONV_PAD].v[1];
    memset(&g, 0, sizeof g);
    g.blocks = g.segs = 1;
    g.rows = w->c;
    g.cols = w->outputs;
    g.a_row = 1;
    g.a_k = x.tiles.tile;
    g.b_k = dy.tiles.tile;
    g.c = sums;
    g.c_rows = KD__WINO_PLANES * w->c;
    for (first = 0; first < total; first += block) {
        g.run = KD__MIN(block, total - first);
        g.accumulate = first > 0 || s.first > s.chunk * r->chunk;
        g.soon[0] = kd__winograd_soon(r, &x, s, first + g.run, g.run);
        g.soon[1] = kd__winograd_soon(r, &dy, s, first + g.run, g.run);
        kd__winograd_move(&x, s, first, g.run, r->k->winograd_read);
        kd__winograd_move(&dy, s, first, g.run, r->k->winograd_read_grad);
        for (p = 0; p < KD__WINO_PLANES; ++p, kd__winograd_next_share(&g)) {
            g.a = x.planes + p * x.tiles.plane;
            g.b = dy.planes + p * dy.tiles.plane;
            g.c_first = p * w->c;
            r->k->gemm(&g);
        }
    }
    if (s.first + s.count == KD__MIN(r->count, (s.chunk + 1) * r->chunk))
        kd__winograd_weights(r, r->k->winograd_weight_grad, w->c, w->outputs, kd__partial(r, n->param[0], s), sums);
}

KD__PRIVATE void kd__conv_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__slot *in = &r->act[n->in], *out = &r->act[n->out];
    const kd__shape *a = &r->model->values[n->in].shape, *b = &r->model->values[n->out].shape;
    const float *bias = kd__weight(r, n->param[1]);
    const int pairs =
        b->w % 2 == 0 && kd__conv_in_pairs(r, w->outputs, &n->arg[KD__CONV_KERNEL], &n->arg[KD__CONV_STRIDE]);
    kd__conv c;
    int i, g;
    if (kd__is_winograd(r->model, n)) {
        kd__winograd_forward(r, n, s);
        return;
    }
    memset(&c, 0, sizeof c);
    c.out_h = b->h, c.out_w = b->w, c.in_h = a->h;
    c.taps_h = w->h, c.taps_w = w->w, c.channels = w->c, c.cols = w->outputs;
    c.stride_h = (int)n->arg[KD__CONV_STRIDE].v[0], c.stride_w = (int)n->arg[KD__CONV_STRIDE].v[1];
    c.origin_h = -(int)n->arg[KD__CONV_PAD].v[0], c.origin_w = -(int)n->arg[KD__CONV_PAD].v[1];
    c.y_row = out->row, c.y_pixel = b->c;
    c.act = n->fused_act;
    c.act_arg = n->act_arg;
    c.y_far = !out->worker;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *x = kd__slot_at(in, s, i);
        c.in = pairs
                   ? kd__conv_read_pairs(r, x, in, a, (ptrdiff_t)c.stride_w * a->c, kd__worker_memory(r, s.worker))
                   : kd__conv_read(x, in, a);
        c.soon_x = kd__slot_soon(r, in, s, i), c.soon_y = kd__slot_soon(r, out, s, i);
        for (g = 0; g < w->groups; ++g, c.soon_x.lines = c.soon_y.lines = 0) {
            c.y = kd__slot_at(out, s, i) + (ptrdiff_t)g * w->outputs;
            c.panels = kd__weight(r, n->param[0]) + (size_t)g * w->group_size;
            c.bias = bias ? bias + (ptrdiff_t)g * w->outputs : NULL;
            kd__conv_run(r->k, &c);
            c.in.x += w->c * c.in.k;
        }
    }
}

/* Floats of one group's turned weights at one phase. */
KD__PRIVATE size_t kd__conv_phase_floats(const kd__run *r, const kd__param *w, const kd__conv_phase *ph,
                                         const kd__conv_phase *pw)
{
    return (size_t)ph->taps * (size_t)pw->taps * (size_t)w->outputs * (size_t)kd__panel_columns(r->k, w->c);
}

/* Weights turned for the gradient of the input: for every phase and group, panels of input channels whose rows are
   (tap, tap, output channel), taps backwards. */
KD__PRIVATE size_t kd__conv_own(const kd__run *r, const kd__node *n)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__shape *in = &r->model->values[n->in].shape;
    const int sh = (int)n->arg[KD__CONV_STRIDE].v[0], sw = (int)n->arg[KD__CONV_STRIDE].v[1];
    size_t floats = 0;
    int y, x;
    if (kd__is_winograd(r->model, n)) return kd__winograd_own(r, n).floats;
    if (!kd__needs_grad(r, n->in)) return 0;
    for (y = 0; y < sh; ++y) {
        const kd__conv_phase ph = kd__conv_phase_of(y, in->h, w->h, sh, (int)n->arg[KD__CONV_PAD].v[0]);
        for (x = 0; x < sw; ++x) {
            const kd__conv_phase pw = kd__conv_phase_of(x, in->w, w->w, sw, (int)n->arg[KD__CONV_PAD].v[1]);
            floats = kd__plus(floats, kd__times((size_t)w->groups, kd__conv_phase_floats(r, w, &ph, &pw)));
        }
    }
    return kd__plus(floats, 64); /* slack: a row of B is read in whole vectors */
}

/* One tap of one group: rows (output channels) of panels of input channels. */
KD__PRIVATE void kd__conv_turn_tap(const kd__run *r, const kd__param *w, const float *weight, int tap,
                                   float *turned, int turned_rows, int turned_first)
{
    const int panel = r->k->panel, rows = w->c * w->h * w->w;
    int oc, ic;
    for (oc = 0; oc < w->outputs; oc += panel) {
        const int from_width = kd__panel_width(r->k, w->outputs - oc), count = KD__MIN(panel, w->outputs - oc);
        for (ic = 0; ic < w->c; ic += panel) {
            const int to_width = kd__panel_width(r->k, w->c - ic);
            r->k->transpose(weight + (ptrdiff_t)oc * rows + (ptrdiff_t)(tap * w->c + ic) * from_width, from_width,
                            KD__MIN(panel, w->c - ic), count,
                            turned + (ptrdiff_t)ic * turned_rows + (ptrdiff_t)(turned_first + oc) * to_width,
                            to_width);
        }
    }
}

KD__PRIVATE void kd__conv_backward_prepare(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__shape *in = &r->model->values[n->in].shape;
    const int sh = (int)n->arg[KD__CONV_STRIDE].v[0], sw = (int)n->arg[KD__CONV_STRIDE].v[1];
    const int winograd = kd__is_winograd(r->model, n);
    float *const own = r->plan[n - r->model->nodes].own, *to = own;
    int y, x, g, i, j;
    (void)s;
    if (!kd__needs_grad(r, n->in)) return;
    if (winograd) to += kd__winograd_own(r, n).turned;
    for (y = 0; y < sh; ++y) {
        const kd__conv_phase ph = kd__conv_phase_of(y, in->h, w->h, sh, (int)n->arg[KD__CONV_PAD].v[0]);
        for (x = 0; x < sw; ++x) {
            const kd__conv_phase pw = kd__conv_phase_of(x, in->w, w->w, sw, (int)n->arg[KD__CONV_PAD].v[1]);
            const int rows = ph.taps * pw.taps * w->outputs;
            for (g = 0; g < w->groups; ++g, to += kd__conv_phase_floats(r, w, &ph, &pw)) {
                const float *weight = kd__weight(r, n->param[0]) + (size_t)g * w->group_size;
                for (i = 0; i < ph.taps; ++i) {
                    for (j = 0; j < pw.taps; ++j)
                        kd__conv_turn_tap(r, w, weight, (ph.last_tap - i * sh) * w->w + pw.last_tap - j * sw, to,
                                          rows, (i * pw.taps + j) * w->outputs);
                }
            }
        }
    }
    if (winograd)
        kd__winograd_weights(r, r->k->winograd_weight, w->outputs, w->c, own + kd__winograd_own(r, n).turned,
                             own + kd__winograd_own(r, n).input_grad);
}

KD__PRIVATE void kd__conv_sample_grad(const kd__run *r, const kd__node *n, kd__span s, int i)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__shape *in = &r->model->values[n->in].shape, *out = &r->model->values[n->out].shape;
    const kd__slot *from = &r->grad[n->out], *to = &r->grad[n->in];
    const int sh = (int)n->arg[KD__CONV_STRIDE].v[0], sw = (int)n->arg[KD__CONV_STRIDE].v[1];
    const float *panels = r->plan[n - r->model->nodes].own, *dy = kd__slot_at(from, s, i);
    const int in_pairs = (in->w % 2 == 0 || sw > 1) &&
                         kd__conv_in_pairs(r, w->c, &n->arg[KD__CONV_KERNEL], &n->arg[KD__CONV_STRIDE]);
    float *dx = kd__slot_at(to, s, i);
    const kd__conv_input plain = kd__conv_read(dy, from, out);
    const kd__conv_input paired =
        in_pairs ? kd__conv_read_pairs(r, dy, from, out, out->c, kd__worker_memory(r, s.worker)) : plain;
    kd__conv c;
    int y, x, g;
    memset(&c, 0, sizeof c);
    c.in_h = out->h;
    c.channels = w->outputs, c.cols = w->c;
    c.stride_h = c.stride_w = 1;
    c.y_row = sh * to->row, c.y_pixel = (ptrdiff_t)sw * in->c;
    c.accumulate = r->plan[n - r->model->nodes].accumulate;
    c.y_far = !to->worker;
    if (!c.accumulate && (w->h < sh || w->w < sw)) kd__clear_sample(in, to, dx); /* pixels that no tap meets */
    c.soon_x = kd__slot_soon(r, from, s, i), c.soon_y = kd__slot_soon(r, to, s, i);
    for (y = 0; y < sh; ++y) {
        const kd__conv_phase ph = kd__conv_phase_of(y, in->h, w->h, sh, (int)n->arg[KD__CONV_PAD].v[0]);
        for (x = 0; x < sw; ++x) {
            const kd__conv_phase pw = kd__conv_phase_of(x, in->w, w->w, sw, (int)n->arg[KD__CONV_PAD].v[1]);
            c.out_h = ph.count, c.out_w = pw.count;
            c.taps_h = ph.taps, c.taps_w = pw.taps;
            c.origin_h = ph.origin, c.origin_w = pw.origin;
            c.in = c.out_w % 2 == 0 ? paired : plain;
            for (g = 0; g < w->groups; ++g, panels += kd__conv_phase_floats(r, w, &ph, &pw)) {
                c.panels = panels;
                c.y = dx + y * to->row + (ptrdiff_t)x * in->c + (ptrdiff_t)g * w->c;
                if (ph.taps && pw.taps && c.out_h > 0 && c.out_w > 0)
                    kd__conv_run(r->k, &c), c.soon_x.lines = c.soon_y.lines = 0;
                c.in.x += w->outputs * c.in.k;
            }
        }
    }
}

/* dW = x^T dy, the reduction over the pixels of a sample: what is the same for all taps, a call of the kernel for
   `calls` parts of a line of them. */
KD__PRIVATE kd__gemm kd__conv_weight_gemm(const kd__run *r, const kd__node *n, kd__span s, int i, int calls)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const kd__slot *from = &r->act[n->in], *grad = &r->grad[n->out];
    const int channels = r->model->values[n->in].shape.c;
    kd__gemm g;
    memset(&g, 0, sizeof g);
    g.rows = w->c * w->w / calls;
    g.blocks = 1;
    g.cols = w->outputs;
    g.run = r->model->values[n->out].shape.w;
    g.a = kd__slot_at(from, s, i) - (ptrdiff_t)n->arg[KD__CONV_PAD].v[1] * channels;
    g.a_row = 1;
    g.a_k = (ptrdiff_t)n->arg[KD__CONV_STRIDE].v[1] * channels;
    g.a_seg = (ptrdiff_t)n->arg[KD__CONV_STRIDE].v[0] * from->row;
    g.b = kd__slot_at(grad, s, i);
    g.b_k = r->model->values[n->out].shape.c;
    g.b_seg = grad->row;
    g.c = kd__partial(r, n->param[0], s);
    g.c_rows = w->c * w->h * w->w;
    g.soon[0] = kd__slot_soon(r, from, s, i);
    g.soon[1] = kd__slot_soon(r, grad, s, i);
    return g;
}

/* One line of taps after the other, where there are groups tap by tap; adds to what the chunk's earlier samples
   gave. */
KD__PRIVATE void kd__conv_weight_grad(const kd__run *r, const kd__node *n, kd__span s, int i, int accumulate)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int calls = w->groups == 1 ? 1 : w->w; /* without groups, all taps of a line are one run */
    const int in_h = r->model->values[n->in].shape.h, out_h = r->model->values[n->out].shape.h;
    const int sh = (int)n->arg[KD__CONV_STRIDE].v[0], ph = (int)n->arg[KD__CONV_PAD].v[0];
    const kd__gemm all = kd__conv_weight_gemm(r, n, s, i, calls);
    kd__gemm g = all;
    int kh, kw, group;
    g.accumulate = accumulate;
    for (kh = 0; kh < w->h; ++kh) {
        const int y0 = ph > kh ? (ph - kh + sh - 1) / sh : 0;
        const int reach = in_h - 1 + ph - kh; /* the last output line that this tap still meets the image in */
        const int y1 = reach < 0 ? 0 : KD__MIN(out_h, reach / sh + 1);
        g.segs = KD__MAX(0, y1 - y0);
        for (group = 0; group < w->groups; ++group) {
            for (kw = 0; kw < calls; ++kw) {
                g.a = all.a + (y0 * sh + kh - ph) * r->act[n->in].row + (ptrdiff_t)(kw * w->groups + group) * w->c;
                g.b = all.b + y0 * all.b_seg + (ptrdiff_t)group * w->outputs;
                g.c = all.c + (size_t)group * w->group_size;
                g.c_first = (kh * w->w + kw) * w->c;
                r->k->gemm(&g);
                g.soon[0].lines = g.soon[1].lines = 0;
            }
        }
    }
}

/* The same to the last bit where a line of taps is three numbers, as for grey images: all lines at once, since
   tiles of three rows would spend their time waiting for sums. */
KD__PRIVATE void kd__conv_weight_grad_of_threes(const kd__run *r, const kd__node *n, kd__span s, int i,
                                                int accumulate)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int in_h = r->model->values[n->in].shape.h, out_h = r->model->values[n->out].shape.h;
    const int sh = (int)n->arg[KD__CONV_STRIDE].v[0], ph = (int)n->arg[KD__CONV_PAD].v[0];
    const kd__gemm all = kd__conv_weight_gemm(r, n, s, i, 1);
    kd__gemm g = all;
    int y, kh0, kh1;
    if (!accumulate) memset(g.c, 0, w->group_size * sizeof *g.c);
    g.accumulate = 1;
    g.a_three = r->act[n->in].row;
    for (y = 0; y < out_h; y += g.segs) {
        g.segs = kd__conv_lines_alike(y, out_h, in_h, w->h, sh, -ph, &kh0, &kh1);
        if (kh0 == kh1) continue;
        g.rows = 3 * (kh1 - kh0);
        g.a = all.a + (y * sh + kh0 - ph) * g.a_three;
        g.b = all.b + y * all.b_seg;
        g.c_first = 3 * kh0;
        r->k->gemm(&g);
        if (g.segs > 1) g.soon[0].lines = g.soon[1].lines = 0;
    }
}

KD__PRIVATE void kd__bias_grad(const kd__run *r, const kd__shape *shape, const kd__slot *slot, const float *dy,
                               float *db, int accumulate)
{
    int y;
    if (!accumulate) memset(db, 0, (size_t)shape->c * sizeof *db);
    for (y = 0; y < shape->h; ++y) r->k->column_sums(dy + y * slot->row, shape->c, shape->w, shape->c, db);
}

KD__PRIVATE void kd__conv_input_grad(const kd__run *r, const kd__node *n, kd__span s)
{
    int i;
    if (kd__is_winograd(r->model, n)) {
        kd__winograd_input_grad(r, n, s);
        return;
    }
    for (i = s.first; i < s.first + s.count; ++i) kd__conv_sample_grad(r, n, s, i);
}

KD__PRIVATE void kd__conv_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *w = &r->model->params[n->param[0]];
    const int winograd = kd__is_winograd(r->model, n), threes = w->groups == 1 && w->c * w->w == 3;
    int i;
    if (kd__needs_grad(r, n->in)) kd__conv_input_grad(r, n, s);
    if (!r->training) return;
    if (winograd) kd__winograd_weight_grad(r, n, s);
    for (i = s.first; i < s.first + s.count; ++i) {
        const int accumulate = i > s.chunk * r->chunk;
        if (!winograd) (threes ? kd__conv_weight_grad_of_threes : kd__conv_weight_grad)(r, n, s, i, accumulate);
        if (n->param[1] >= 0)
            kd__bias_grad(r, &r->model->values[n->out].shape, &r->grad[n->out], kd__slot_at(&r->grad[n->out], s, i),
                          kd__partial(r, n->param[1], s), accumulate);
    }
}

/* ---- depthwise convolution ------------------------------------------------------------------------------- */

enum { KD__DEPTHWISE_KERNEL, KD__DEPTHWISE_STRIDE, KD__DEPTHWISE_PAD, KD__DEPTHWISE_BIAS };
enum { KD__TYPE_DENSE, KD__TYPE_CONV, KD__TYPE_DEPTHWISE }; /* first rows of kd__layer_types */

/* `depthwise P`, or a conv whose groups are its channels, which becomes the same node. */
KD__PRIVATE kd_result kd__depthwise_build(kd__draft *d, kd__node *n)
{
    const kd__shape in = d->m->values[n->in].shape;
    kd__param p;
    kd_result result;
    int out[2];
    if (n->type == KD__TYPE_CONV) {
        const kd__arg bias = n->arg[KD__CONV_BIAS];
        memmove(n->arg, n->arg + KD__CONV_KERNEL, 3 * sizeof n->arg[0]);
        n->arg[KD__DEPTHWISE_BIAS] = bias;
        memset(n->arg + KD__DEPTHWISE_BIAS + 1, 0, 2 * sizeof n->arg[0]);
        n->type = KD__TYPE_DEPTHWISE;
    }
    result = kd__window_build(d, &in, &n->arg[KD__DEPTHWISE_KERNEL], &n->arg[KD__DEPTHWISE_STRIDE],
                              &n->arg[KD__DEPTHWISE_PAD], in.c, out);
    if (result != KD_OK) return result;
    memset(&p, 0, sizeof p);
    p.rank = 4;
    p.layout = KD__TAPS;
    p.trained = p.summed = 1;
    p.groups = 1;
    p.outputs = 1;
    p.c = in.c;
    p.h = (int)n->arg[KD__DEPTHWISE_KERNEL].v[0];
    p.w = (int)n->arg[KD__DEPTHWISE_KERNEL].v[1];
    p.shape[0] = in.c, p.shape[1] = 1, p.shape[2] = p.h, p.shape[3] = p.w;
    n->param[0] = kd__draft_param(d, n, "weight", p);
    if (n->param[0] < 0) return KD_ERR_MEMORY;
    if (n->arg[KD__DEPTHWISE_BIAS].v[0] != 0) {
        n->param[1] = kd__draft_vector(d, n, "bias", kd__channels(in.c), 1, 1);
        if (n->param[1] < 0) return KD_ERR_MEMORY;
    }
    n->macs = (int64_t)out[0] * out[1] * in.c * p.h * p.w;
    n->out = kd__draft_value(d, in.c, out[0], out[1], 0, d->m->node_count);
    if (n->out < 0) return KD_ERR_MEMORY;
    d->m->values[n->in].pad = KD__MAX(d->m->values[n->in].pad, (int)n->arg[KD__DEPTHWISE_PAD].v[1]);
    d->m->values[n->out].grad_pad = kd__conv_grad_pad(in.w, out[1], p.w, (int)n->arg[KD__DEPTHWISE_STRIDE].v[1],
                                                      (int)n->arg[KD__DEPTHWISE_PAD].v[1]);
    return KD_OK;
}

KD__PRIVATE kd__window kd__depthwise_window(const kd__run *r, const kd__node *n, const kd__slot *in,
                                            const kd__slot *out)
{
    return kd__window_of(r, n, &n->arg[KD__DEPTHWISE_KERNEL], &n->arg[KD__DEPTHWISE_STRIDE],
                         &n->arg[KD__DEPTHWISE_PAD], in, out);
}

KD__PRIVATE void kd__depthwise_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *in = &r->act[n->in], *out = &r->act[n->out];
    const kd__window w = kd__depthwise_window(r, n, in, out);
    int i;
    for (i = s.first; i < s.first + s.count; ++i)
        r->k->depthwise(&w, kd__slot_at(in, s, i), kd__weight(r, n->param[0]), kd__weight(r, n->param[1]),
                        n->fused_act, n->act_arg, kd__slot_at(out, s, i));
}

KD__PRIVATE void kd__depthwise_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *p = &r->model->params[n->param[0]];
    const kd__shape *out = &r->model->values[n->out].shape;
    const kd__window w = kd__depthwise_window(r, n, &r->act[n->in], &r->grad[n->out]);
    kd__window g = w;
    int i;
    g.in_row = r->grad[n->in].row;
    for (i = s.first; i < s.first + s.count; ++i) {
        const int accumulate = i > s.chunk * r->chunk;
        const float *x = kd__slot_at(&r->act[n->in], s, i), *dy = kd__slot_at(&r->grad[n->out], s, i);
        float *dw;
        if (kd__needs_grad(r, n->in)) {
            r->k->depthwise_input_grad(&g, dy, kd__weight(r, n->param[0]), kd__slot_at(&r->grad[n->in], s, i),
                                       r->plan[n - r->model->nodes].accumulate);
        }
        if (!r->training) continue;
        dw = kd__partial(r, n->param[0], s);
        if (!accumulate) memset(dw, 0, p->size * sizeof *dw);
        r->k->depthwise_weight_grad(&w, x, dy, dw);
        if (n->param[1] >= 0)
            kd__bias_grad(r, out, &r->grad[n->out], dy, kd__partial(r, n->param[1], s), accumulate);
    }
}

/* ---- pooling --------------------------------------------------------------------------------------------- */

enum { KD__POOL_KERNEL, KD__POOL_STRIDE, KD__POOL_PAD };

KD__PRIVATE kd_result kd__pool_build(kd__draft *d, kd__node *n)
{
    const kd__shape in = d->m->values[n->in].shape;
    int out[2], i;
    kd_result result;
    for (i = 0; i < 2; ++i) {
        if (n->arg[KD__POOL_PAD].same) return kd__spec_fail(d, "pad=same is for convolutions");
        if (n->arg[KD__POOL_PAD].v[i] > n->arg[KD__POOL_KERNEL].v[i] / 2)
            return kd__spec_fail(d, "padding %d is more than half of the window %d", (int)n->arg[KD__POOL_PAD].v[i],
                                 (int)n->arg[KD__POOL_KERNEL].v[i]);
    }
    result = kd__window_build(d, &in, &n->arg[KD__POOL_KERNEL], &n->arg[KD__POOL_STRIDE], &n->arg[KD__POOL_PAD],
                              in.c, out);
    if (result != KD_OK) return result;
    n->out = kd__draft_value(d, in.c, out[0], out[1], 0, d->m->node_count);
    return n->out < 0 ? KD_ERR_MEMORY : KD_OK;
}

/* The mean over the whole image. */
KD__PRIVATE kd_result kd__gap_build(kd__draft *d, kd__node *n)
{
    const kd__shape in = d->m->values[n->in].shape;
    if (in.flat)
        return kd__spec_fail(d, "gap needs an image, but its input is a vector of %s", kd__shape_text(&in).chars);
    memset(n->arg, 0, sizeof n->arg);
    n->arg[KD__POOL_KERNEL].v[0] = n->arg[KD__POOL_STRIDE].v[0] = in.h;
    n->arg[KD__POOL_KERNEL].v[1] = n->arg[KD__POOL_STRIDE].v[1] = in.w;
    return kd__pool_build(d, n);
}

KD__PRIVATE kd__window kd__pool_window(const kd__run *r, const kd__node *n, const kd__slot *in, const kd__slot *out)
{
    return kd__window_of(r, n, &n->arg[KD__POOL_KERNEL], &n->arg[KD__POOL_STRIDE], &n->arg[KD__POOL_PAD], in, out);
}

/* Whether the backward pass knows by the places of the largest alone where gradients go: neither x nor y need stay
   for it, and x is four times as large. */
KD__PRIVATE int kd__maxpool_keeps_places(const kd__run *r, const kd__node *n)
{
    const kd__window w = kd__pool_window(r, n, &r->act[n->in], &r->act[n->out]);
    return r->has_backward && kd__needs_grad(r, n->in) && kd__window_halves(&w);
}

KD__PRIVATE size_t kd__maxpool_own(const kd__run *r, const kd__node *n)
{
    if (!kd__maxpool_keeps_places(r, n)) return 0;
    return kd__times((size_t)r->capacity, (size_t)kd__shape_count(&r->model->values[n->out].shape));
}

KD__PRIVATE void kd__maxpool_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__node_plan *plan = &r->plan[n - r->model->nodes];
    const kd__slot *in = &r->act[n->in], *out = &r->act[n->out];
    const kd__window w = kd__pool_window(r, n, in, out);
    const ptrdiff_t places = (ptrdiff_t)kd__shape_count(&r->model->values[n->out].shape);
    int i;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *x = kd__slot_at(in, s, i);
        if (plan->own)
            r->k->maxpool_places(&w, x, plan->pooled_relu, kd__slot_at(out, s, i), plan->own + i * places);
        else
            r->k->maxpool(&w, x, kd__slot_at(out, s, i));
    }
}

KD__PRIVATE void kd__avgpool_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *in = &r->act[n->in], *out = &r->act[n->out];
    const kd__window w = kd__pool_window(r, n, in, out);
    int i;
    for (i = s.first; i < s.first + s.count; ++i) r->k->avgpool(&w, kd__slot_at(in, s, i), kd__slot_at(out, s, i));
}

KD__PRIVATE void kd__maxpool_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__node_plan *plan = &r->plan[n - r->model->nodes];
    const ptrdiff_t places = (ptrdiff_t)kd__shape_count(&r->model->values[n->out].shape);
    kd__pool_grads g;
    int i;
    g.relu = plan->pooled_relu;
    g.x = kd__pool_window(r, n, &r->act[n->in], &r->act[n->out]);
    g.dx_row = r->grad[n->in].row;
    g.dy_row = r->grad[n->out].row;
    g.overwrite = plan->own && !plan->accumulate && g.x.in_h == 2 * g.x.out_h && g.x.in_w == 2 * g.x.out_w;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *dy = kd__slot_at(&r->grad[n->out], s, i);
        float *dx = kd__slot_at(&r->grad[n->in], s, i);
        if (!plan->accumulate && !g.overwrite)
            kd__clear_sample(&r->model->values[n->in].shape, &r->grad[n->in], dx);
        if (plan->own)
            r->k->maxpool_places_grad(&g, plan->own + i * places, dy, dx);
        else
            r->k->maxpool_grad(&g, kd__slot_at(&r->act[n->in], s, i), kd__slot_at(&r->act[n->out], s, i), dy, dx);
    }
}

KD__PRIVATE void kd__avgpool_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__window w = kd__pool_window(r, n, &r->grad[n->in], &r->grad[n->out]);
    int i;
    for (i = s.first; i < s.first + s.count; ++i) {
        float *dx = kd__slot_at(&r->grad[n->in], s, i);
        if (!r->plan[n - r->model->nodes].accumulate)
            kd__clear_sample(&r->model->values[n->in].shape, &r->grad[n->in], dx);
        r->k->avgpool_grad(&w, kd__slot_at(&r->grad[n->out], s, i), dx);
    }
}

/* ---- batch normalisation --------------------------------------------------------------------------------- */

/* Ioffe and Szegedy 2015. Statistics are taken sample by sample, joined within a chunk and then over the chunks in
   order (Chan, Golub and LeVeque 1983), in double precision. */
enum { KD__NORM_EPS, KD__NORM_MOMENTUM };
enum {
    KD__NORM_MEAN,
    KD__NORM_VAR,
    KD__NORM_INV_STD,
    KD__NORM_SCALE,
    KD__NORM_MEAN_DY,
    KD__NORM_MEAN_DYX,
    KD__NORM_ARRAYS
};

KD__PRIVATE kd_result kd__norm_build(kd__draft *d, kd__node *n)
{
    static const char *const names[4] = {"weight", "bias", "running_mean", "running_var"};
    const kd__shape in = d->m->values[n->in].shape;
    const kd__shape channels = in.flat ? in : kd__channels(in.c);
    int i;
    d->has_batchnorm = 1;
    for (i = 0; i < 4; ++i) {
        n->param[i] = kd__draft_vector(d, n, names[i], channels, i < 2, 0);
        if (n->param[i] < 0) return KD_ERR_MEMORY;
    }
    return kd__same_shape(d, n, in.flat);
}

/* A flattened image is one pixel with many channels. */
KD__PRIVATE kd__image kd__norm_image(const kd__run *r, const kd__node *n, const kd__slot *slot)
{
    const kd__shape *s = &r->model->values[n->in].shape;
    kd__image i;
    i.channels = s->flat ? s->c * s->h * s->w : s->c;
    i.h = s->flat ? 1 : s->h;
    i.w = s->flat ? 1 : s->w;
    i.row = slot->row;
    return i;
}

KD__PRIVATE size_t kd__norm_stride(const kd__run *r, const kd__node *n)
{
    return (r->model->params[n->param[0]].size + 15) / 16 * 16;
}

/* Floats a chunk needs: two sums by channel in double, the count, and one sample's statistics. */
KD__PRIVATE size_t kd__norm_chunk_floats(const kd__run *r, const kd__node *n)
{
    return 6 * kd__norm_stride(r, n) + 16;
}

KD__PRIVATE size_t kd__norm_own(const kd__run *r, const kd__node *n)
{
    const size_t arrays = KD__NORM_ARRAYS * kd__norm_stride(r, n);
    return r->training ? kd__plus(arrays, kd__times((size_t)r->chunks, kd__norm_chunk_floats(r, n))) : arrays;
}

KD__PRIVATE float *kd__norm_array(const kd__run *r, const kd__node *n, int which)
{
    return r->plan[n - r->model->nodes].own + (size_t)which * kd__norm_stride(r, n);
}

typedef struct kd__norm_chunk {
    double *a, *b, *count; /* mean and squared deviations, or sums of dy and dy * xhat */
    float *sample_a, *sample_b;
} kd__norm_chunk;

KD__PRIVATE kd__norm_chunk kd__norm_chunk_of(const kd__run *r, const kd__node *n, int chunk)
{
    const size_t stride = kd__norm_stride(r, n);
    float *at = kd__norm_array(r, n, KD__NORM_ARRAYS) + (size_t)chunk * kd__norm_chunk_floats(r, n);
    kd__norm_chunk c;
    c.a = (double *)(void *)at;
    c.b = c.a + stride;
    c.sample_a = at + 4 * stride;
    c.sample_b = at + 5 * stride;
    c.count = (double *)(void *)(at + 6 * stride);
    return c;
}

/* Joins statistics of `count` numbers with mean b and squared deviations m2 to those in *mean, *sum. */
KD__PRIVATE void kd__norm_join(double have, double *mean, double *sum, double count, double b, double m2)
{
    const double delta = b - *mean, total = have + count;
    *mean += delta * (count / total);
    *sum += m2 + delta * delta * (have * count / total);
}

KD__PRIVATE void kd__norm_forward_stats(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__image image = kd__norm_image(r, n, &r->act[n->in]);
    const kd__norm_chunk chunk = kd__norm_chunk_of(r, n, s.chunk);
    const double pixels = (double)image.h * image.w;
    int i, c;
    for (i = s.first; i < s.first + s.count; ++i) {
        if (i == s.chunk * r->chunk) {
            memset(chunk.a, 0, (size_t)image.channels * sizeof *chunk.a);
            memset(chunk.b, 0, (size_t)image.channels * sizeof *chunk.b);
            *chunk.count = 0;
        }
        r->k->norm_stats(&image, kd__slot_at(&r->act[n->in], s, i), chunk.sample_a, chunk.sample_b);
        for (c = 0; c < image.channels; ++c)
            kd__norm_join(*chunk.count, &chunk.a[c], &chunk.b[c], pixels, (double)chunk.sample_a[c],
                          (double)chunk.sample_b[c]);
        *chunk.count += pixels;
    }
}

KD__PRIVATE void kd__norm_set_scale(const kd__run *r, const kd__node *n, int c, double variance)
{
    const double inv_std = 1 / sqrt(variance + n->arg[KD__NORM_EPS].v[0]);
    kd__norm_array(r, n, KD__NORM_INV_STD)[c] = (float)inv_std;
    kd__norm_array(r, n, KD__NORM_SCALE)[c] = (float)(inv_std * (double)kd__weight(r, n->param[0])[c]);
}

KD__PRIVATE void kd__norm_forward_join(const kd__run *r, const kd__node *n, kd__span s)
{
    const int channels = kd__norm_image(r, n, &r->act[n->in]).channels;
    const int chunks = (s.count + r->chunk - 1) / r->chunk;
    int i, c;
    for (c = 0; c < channels; ++c) {
        double mean = 0, sum = 0, count = 0;
        for (i = 0; i < chunks; ++i) {
            const kd__norm_chunk chunk = kd__norm_chunk_of(r, n, i);
            kd__norm_join(count, &mean, &sum, *chunk.count, chunk.a[c], chunk.b[c]);
            count += *chunk.count;
        }
        kd__norm_array(r, n, KD__NORM_MEAN)[c] = (float)mean;
        kd__norm_array(r, n, KD__NORM_VAR)[c] =
            (float)(sum / KD__MAX(count - 1, 1)); /* unbiased, for the running mean */
        kd__norm_set_scale(r, n, c, sum / count);
    }
}

/* The first batchnorm that sees a single value a channel where a batch has a single sample: its output would be the
   same whatever the input is, and the variance 0. NULL: none. */
KD__PRIVATE const kd__node *kd__norm_lone(const kd_model *m)
{
    int i;
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        const kd__shape *s = &m->values[n->in].shape;
        if (n->param[2] >= 0 && (s->flat || s->h * s->w == 1)) return n;
    }
    return NULL;
}

/* Whether the last of `count` samples in batches of `batch`, left alone, must join the batch before. */
KD__PRIVATE int kd__norm_joins(int lone, int count, int batch)
{
    return lone && batch > 1 && count > batch && count % batch == 1;
}

/* The running mean (0) or variance (1) that a channel will have after this step; of one that sees nothing but zeros
   both end at 0. */
KD__PRIVATE float kd__norm_next(const kd__run *r, const kd__node *n, int which, size_t channel)
{
    const double momentum = n->arg[KD__NORM_MOMENTUM].v[0];
    const double running = (double)kd__weight(r, n->param[2 + which])[channel];
    const double now = (double)kd__norm_array(r, n, which ? KD__NORM_VAR : KD__NORM_MEAN)[channel];
    const double next = (1 - momentum) * running + momentum * now;
    return next < (double)KD__TINY && next > -(double)KD__TINY ? 0.0f : (float)next;
}

/* Once a step has succeeded, its statistics join the running ones. */
KD__PRIVATE void kd__norm_commit(const kd__run *r, const kd__node *n, kd__span s)
{
    size_t i;
    int which;
    (void)s;
    for (which = 0; which < 2; ++which) {
        const kd__param *p = &r->model->params[n->param[2 + which]];
        for (i = 0; i < p->size; ++i) r->trained->state[p->offset + i] = kd__norm_next(r, n, which, i);
    }
}

KD__PRIVATE void kd__norm_forward_prepare(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__param *p = &r->model->params[n->param[2]];
    int c;
    (void)s;
    memcpy(kd__norm_array(r, n, KD__NORM_MEAN), kd__weight(r, n->param[2]), p->size * sizeof(float));
    for (c = 0; c < (int)p->size; ++c) kd__norm_set_scale(r, n, c, (double)kd__weight(r, n->param[3])[c]);
}

KD__PRIVATE void kd__norm_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *in = &r->act[n->in], *out = &r->act[n->out];
    const kd__image image = kd__norm_image(r, n, in);
    int i;
    for (i = s.first; i < s.first + s.count; ++i)
        r->k->norm_apply(&image, kd__slot_at(in, s, i), kd__norm_array(r, n, KD__NORM_MEAN),
                         kd__norm_array(r, n, KD__NORM_SCALE), kd__weight(r, n->param[1]), n->fused_act, n->act_arg,
                         kd__slot_at(out, s, i), out->row);
}

KD__PRIVATE void kd__norm_backward_stats(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *in = &r->act[n->in], *dy = &r->grad[n->out];
    const kd__image image = kd__norm_image(r, n, in);
    const kd__norm_chunk chunk = kd__norm_chunk_of(r, n, s.chunk);
    int i, c;
    for (i = s.first; i < s.first + s.count; ++i) {
        if (i == s.chunk * r->chunk) {
            memset(chunk.a, 0, (size_t)image.channels * sizeof *chunk.a);
            memset(chunk.b, 0, (size_t)image.channels * sizeof *chunk.b);
        }
        r->k->norm_grad_stats(&image, kd__slot_at(in, s, i), kd__slot_at(dy, s, i), dy->row,
                              kd__norm_array(r, n, KD__NORM_MEAN), kd__norm_array(r, n, KD__NORM_INV_STD),
                              chunk.sample_a, chunk.sample_b);
        for (c = 0; c < image.channels; ++c) {
            chunk.a[c] += (double)chunk.sample_a[c];
            chunk.b[c] += (double)chunk.sample_b[c];
        }
    }
}

KD__PRIVATE void kd__norm_backward_join(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__image image = kd__norm_image(r, n, &r->act[n->in]);
    const int chunks = (s.count + r->chunk - 1) / r->chunk;
    const double count = (double)s.count * image.h * image.w;
    int i, c;
    for (c = 0; c < image.channels; ++c) {
        double sum_dy = 0, sum_dyx = 0;
        for (i = 0; i < chunks; ++i) {
            const kd__norm_chunk chunk = kd__norm_chunk_of(r, n, i);
            sum_dy += chunk.a[c];
            sum_dyx += chunk.b[c];
        }
        kd__weight_grad(r, n->param[0])[c] = (float)sum_dyx;
        kd__weight_grad(r, n->param[1])[c] = (float)sum_dy;
        kd__norm_array(r, n, KD__NORM_MEAN_DY)[c] = (float)(sum_dy / count);
        kd__norm_array(r, n, KD__NORM_MEAN_DYX)[c] = (float)(sum_dyx / count);
    }
}

/* In evaluation mode the two means stay 0, as they were allocated: the statistics do not depend on the input. */
KD__PRIVATE void kd__norm_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *in = &r->act[n->in], *dy = &r->grad[n->out], *dx = &r->grad[n->in];
    const kd__image image = kd__norm_image(r, n, in);
    int i;
    if (!kd__needs_grad(r, n->in)) return;
    for (i = s.first; i < s.first + s.count; ++i)
        r->k->norm_grad(&image, kd__slot_at(in, s, i), kd__slot_at(dy, s, i), dy->row,
                        kd__norm_array(r, n, KD__NORM_MEAN), kd__norm_array(r, n, KD__NORM_INV_STD),
                        kd__norm_array(r, n, KD__NORM_SCALE), kd__norm_array(r, n, KD__NORM_MEAN_DY),
                        kd__norm_array(r, n, KD__NORM_MEAN_DYX), kd__slot_at(dx, s, i), dx->row,
                        r->plan[n - r->model->nodes].accumulate);
}

/* ---- soft decision tree ---------------------------------------------------------------------------------- */

/* The node that follows the dense layer of the filters. Everything is kept as logarithms, so that no leaf is too
   improbable to learn. */
enum { KD__TREE_DEPTH, KD__TREE_CLASSES, KD__TREE_PENALTY };
enum { KD__TREE_MAX_DEPTH = 12 };

typedef struct kd__soft_tree {
    int inner, leaves, nodes, classes;
    double penalty;
    const float *beta;          /* (inner) */
    float *log_q, *q;           /* (classes, leaves): what the leaves say; q: in training only */
    float *turned;              /* (leaves, classes), for making them */
    float *log_mass;            /* (leaves): log of the sum of P over the batch */
    float *log_p;               /* (capacity, nodes) */
    float *row, *branch, *grad; /* of one worker: (leaves), (nodes), (nodes) */
} kd__soft_tree;

KD__PRIVATE kd__soft_tree kd__tree_of(const kd__run *r, const kd__node *n, int worker)
{
    kd__soft_tree t;
    float *own = r->plan[n - r->model->nodes].own;
    size_t table;
    t.leaves = 1 << (int)n->arg[KD__TREE_DEPTH].v[0];
    t.inner = t.leaves - 1;
    t.nodes = t.inner + t.leaves;
    t.classes = (int)n->arg[KD__TREE_CLASSES].v[0];
    t.penalty = n->arg[KD__TREE_PENALTY].v[0];
    table = (size_t)t.leaves * (size_t)t.classes;
    t.beta = kd__weight(r, n->param[0]);
    t.log_q = own;
    t.q = t.log_q + table;
    t.turned = t.q + table;
    t.log_mass = t.turned + table;
    t.log_p = t.log_mass + t.nodes;
    t.row = kd__worker_memory(r, worker);
    t.branch = t.row + t.nodes;
    t.grad = t.branch + t.nodes;
    return t;
}

KD__PRIVATE size_t kd__tree_own(const kd__run *r, const kd__node *n)
{
    const size_t leaves = (size_t)1 << (int)n->arg[KD__TREE_DEPTH].v[0];
    const size_t tables = kd__times(kd__times(3, leaves), (size_t)n->arg[KD__TREE_CLASSES].v[0]);
    return kd__plus(tables, kd__times(1 + (size_t)r->capacity, 2 * leaves - 1));
}

KD__PRIVATE size_t kd__tree_work(const kd__run *r, const kd__node *n)
{
    (void)r;
    return 3 * (((size_t)2 << (int)n->arg[KD__TREE_DEPTH].v[0]) - 1);
}

KD__PRIVATE kd_result kd__tree_build(kd__draft *d, kd__node *n)
{
    const int leaves = 1 << (int)n->arg[KD__TREE_DEPTH].v[0], classes = (int)n->arg[KD__TREE_CLASSES].v[0];
    kd__param p;
    memset(&p, 0, sizeof p);
    p.rank = 2;
    p.shape[0] = leaves;
    p.shape[1] = classes;
    p.layout = KD__VECTOR;
    p.trained = p.summed = 1;
    p.c = leaves, p.h = 1, p.w = classes; /* stored (classes, leaves) */
    n->param[0] = kd__draft_vector(d, n, "beta", kd__channels(leaves - 1), 1, 1);
    if (n->param[0] < 0) return KD_ERR_MEMORY;
    n->param[1] = kd__draft_param(d, n, "leaves", p);
    if (n->param[1] < 0) return KD_ERR_MEMORY;
    n->macs = (int64_t)leaves * classes;
    n->out = kd__draft_value(d, classes, 1, 1, 1, d->m->node_count);
    return n->out < 0 ? KD_ERR_MEMORY : KD_OK;
}

/* The softmax of every leaf, or its logarithm. */
KD__PRIVATE void kd__tree_leaves(const kd__run *r, const kd__node *n, const kd__soft_tree *t, int logarithm,
                                 float *to)
{
    r->k->transpose(kd__weight(r, n->param[1]), t->leaves, t->classes, t->leaves, t->turned, t->classes);
    r->k->softmax(t->turned, t->leaves, t->classes, 1, logarithm, t->turned);
    r->k->transpose(t->turned, t->classes, t->leaves, t->classes, to, t->leaves);
}

KD__PRIVATE void kd__tree_forward_prepare(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__soft_tree t = kd__tree_of(r, n, s.worker);
    kd__tree_leaves(r, n, &t, 1, t.log_q);
    if (r->training) kd__tree_leaves(r, n, &t, 0, t.q);
}

/* The probability, or its logarithm, with which each node is chosen by its parent: 1 - p and p are the softmax of
   (0, beta (w x + b)). */
KD__PRIVATE void kd__tree_branches(const kd__run *r, const kd__soft_tree *t, const float *a, int logarithm,
                                   float *to)
{
    int j;
    to[0] = logarithm ? 0.0f : 1.0f;
    for (j = 0; j < t->inner; ++j) to[2 * j + 1] = 0, to[2 * j + 2] = t->beta[j] * a[j];
    r->k->softmax(to + 1, t->inner, 2, 1, logarithm, to + 1);
}

/* Into row: log P_l Q_l[c], by leaf; then its softmax: each leaf's share in the probability of class c. */
KD__PRIVATE void kd__tree_joint(const kd__run *r, const kd__soft_tree *t, const float *log_p, int c)
{
    r->k->add(t->leaves, log_p + t->inner, t->log_q + (ptrdiff_t)c * t->leaves, KD__IDENTITY, 0, t->row);
}

KD__PRIVATE void kd__tree_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__soft_tree t = kd__tree_of(r, n, s.worker);
    int i, j, c;
    for (i = s.first; i < s.first + s.count; ++i) {
        float *log_p = t.log_p + (ptrdiff_t)i * t.nodes, *y = kd__slot_at(&r->act[n->out], s, i);
        kd__tree_branches(r, &t, kd__slot_at(&r->act[n->in], s, i), 1, log_p);
        for (j = 1; j < t.nodes; ++j) log_p[j] += log_p[(j - 1) / 2];
        for (c = 0; c < t.classes; ++c) {
            int best;
            float top;
            kd__tree_joint(r, &t, log_p, c);
            best = kd__argmax(t.row, t.leaves);
            top = t.row[best];
            r->k->softmax(t.row, 1, t.leaves, 1, 1, t.row);
            y[c] = top - t.row[best]; /* log of the sum; best has the smallest rounding error */
        }
    }
}

/* The path penalty. With A the sum of P over the batch, log a + log(1 - a) = log A_right + log A_left - 2 log A;
   times 2^-d, all but the root and the leaves cancel: it is the mean over leaves of log A_root - log A_leaf. */
KD__PRIVATE void kd__tree_forward_join(const kd__run *r, const kd__node *n, kd__span s)
{
    enum { ROWS = 64 };
    const kd__soft_tree t = kd__tree_of(r, n, 0);
    const float *rows[ROWS], zeros[ROWS] = {0};
    double sum = 0;
    int i = 0, l, now;
    if (t.penalty == 0) return;
    while (i < s.count) {
        now = 0;
        if (i) rows[now++] = t.log_mass;
        while (now < ROWS && i < s.count) rows[now++] = t.log_p + (ptrdiff_t)i++ * t.nodes + t.inner;
        r->k->log_mix(t.leaves, now, rows, zeros, 1, t.log_mass);
    }
    for (l = 0; l < t.leaves; ++l) sum += (double)t.log_mass[l];
    r->plan[n - r->model->nodes].penalty = t.penalty * (kd__log_of(s.count) - sum / t.leaves);
}

/* Its derivative by log P of the leaves: the sample's share in their mass. e^u = s / (1 - s) of the sigmoid s of u;
   u is 0 or less, where that loses nothing. */
KD__PRIVATE void kd__tree_penalise(const kd__run *r, const kd__soft_tree *t, const float *log_p)
{
    const float factor = (float)(t->penalty / t->leaves);
    float *grad = t->grad + t->inner;
    int l;
    if (t->penalty == 0) return;
    for (l = 0; l < t->leaves; ++l) t->row[l] = log_p[t->inner + l] - t->log_mass[l];
    r->k->act(KD__SIGMOID, 0, t->leaves, t->row, t->row);
    for (l = 0; l < t->leaves; ++l) grad[l] -= factor * (t->row[l] / (1 - t->row[l]));
}

/* grad becomes the derivative by log P of every node: of the leaves from the outputs, of the others from below. */
KD__PRIVATE void kd__tree_backward_sample(const kd__run *r, const kd__soft_tree *t, const float *log_p,
                                          const float *dy, float *dphi)
{
    int c, j;
    memset(t->grad, 0, (size_t)t->nodes * sizeof(float));
    for (c = 0; c < t->classes; ++c) {
        kd__tree_joint(r, t, log_p, c);
        r->k->softmax(t->row, 1, t->leaves, 1, 0, t->row);
        r->k->scale(t->leaves, dy[c], t->row);
        r->k->add(t->leaves, t->row, t->grad + t->inner, KD__IDENTITY, 0, t->grad + t->inner);
        if (dphi) r->k->add(t->leaves, t->row, dphi + c * t->leaves, KD__IDENTITY, 0, dphi + c * t->leaves);
    }
    if (r->training && !r->bare) kd__tree_penalise(r, t, log_p);
    for (j = t->nodes - 1; j > 0; --j) t->grad[(j - 1) / 2] += t->grad[j];
}

/* Only in training are there sums to add to. */
KD__PRIVATE void kd__tree_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__soft_tree t = kd__tree_of(r, n, s.worker);
    float *dbeta = r->training ? kd__partial(r, n->param[0], s) : NULL;
    float *dphi = r->training ? kd__partial(r, n->param[1], s) : NULL;
    int i, j;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *a = kd__slot_at(&r->act[n->in], s, i);
        float *da = kd__slot_at(&r->grad[n->in], s, i);
        if (r->training && i == s.chunk * r->chunk) {
            memset(dbeta, 0, r->model->params[n->param[0]].size * sizeof *dbeta);
            memset(dphi, 0, r->model->params[n->param[1]].size * sizeof *dphi);
        }
        kd__tree_backward_sample(r, &t, t.log_p + (ptrdiff_t)i * t.nodes, kd__slot_at(&r->grad[n->out], s, i),
                                 dphi);
        kd__tree_branches(r, &t, a, 0, t.branch);
        for (j = 0; j < t.inner; ++j) {
            const float dz = t.grad[2 * j + 2] * t.branch[2 * j + 1] - t.grad[2 * j + 1] * t.branch[2 * j + 2];
            if (dbeta) dbeta[j] += dz * a[j];
            da[j] = dz * t.beta[j]; /* nobody else reads the filters */
        }
    }
}

/* From the gradient by log Q, which every chunk has summed, to that by phi. */
KD__PRIVATE void kd__tree_backward_join(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__soft_tree t = kd__tree_of(r, n, 0);
    const int chunks = (s.count + r->chunk - 1) / r->chunk;
    int c, l;
    for (s.chunk = 0; s.chunk < chunks; ++s.chunk) {
        float *dphi = kd__partial(r, n->param[1], s);
        memset(t.row, 0, (size_t)t.leaves * sizeof(float));
        r->k->column_sums(dphi, t.leaves, t.classes, t.leaves, t.row);
        for (c = 0; c < t.classes; ++c) {
            for (l = 0; l < t.leaves; ++l) dphi[c * t.leaves + l] -= t.q[c * t.leaves + l] * t.row[l];
        }
    }
}

/* ---- the sum at the end of a residual -------------------------------------------------------------------- */

KD__PRIVATE kd_result kd__add_build(kd__draft *d, kd__node *n)
{
    return kd__same_shape(d, n, d->m->values[n->in].shape.flat);
}

KD__PRIVATE void kd__add_forward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__slot *a = &r->act[n->in], *b = &r->act[n->in2], *y = &r->act[n->out];
    const kd__shape *shape = &r->model->values[n->out].shape;
    const int tight = a->tight && b->tight && y->tight;
    const ptrdiff_t length = (ptrdiff_t)shape->w * shape->c * (tight ? shape->h : 1);
    int i, j;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *from = kd__slot_at(a, s, i), *from2 = kd__slot_at(b, s, i);
        float *to = kd__slot_at(y, s, i);
        for (j = 0; j < (tight ? 1 : shape->h); ++j, from += a->row, from2 += b->row, to += y->row)
            r->k->add(length, from, from2, n->fused_act, n->act_arg, to);
    }
}

KD__PRIVATE void kd__add_backward(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__shape *shape = &r->model->values[n->out].shape;
    const kd__node_plan *plan = &r->plan[n - r->model->nodes];
    if (kd__needs_grad(r, n->in2)) kd__pass_on(r, shape, &r->grad[n->out], &r->grad[n->in2], plan->accumulate2, s);
    if (kd__needs_grad(r, n->in) && r->grad[n->in].base != r->grad[n->out].base)
        kd__pass_on(r, shape, &r->grad[n->out], &r->grad[n->in], plan->accumulate, s);
}

/* ---- the table ------------------------------------------------------------------------------------------- */

/* When a phase runs: before the pass, over spans of samples, over the whole batch at once, between spans without
   touching values (JOIN), or after a training step that has succeeded. */
enum { KD__PREPARE = 1, KD__SPANS, KD__WHOLE, KD__JOIN, KD__COMMIT };
enum { KD__TRAINING = 1, KD__EVALUATION = 2, KD__ALWAYS = 3 };

typedef struct kd__phase {
    kd__step_fn fn;
    int kind, mode;
} kd__phase;

/* args: name:kind, "=" and a default unless required; kinds are i (whole number from 1), p (pair from 1), q (pair
   from 0, or "same"), f (number from 0), u (number in [0, 1)), b (0 or 1). A default may be the name of the first
   argument. */
typedef struct kd__layer_type {
    const char *word, *args;
    kd_result (*build)(kd__draft *d, kd__node *n);
    size_t (*own)(const kd__run *r, const kd__node *n);  /* floats of kd__node_plan.own */
    size_t (*work)(const kd__run *r, const kd__node *n); /* of kd__run.work */
    kd__phase forward[4], backward[4];
    int takes_act; /* applies a relu, relu6 or leakyrelu that follows it itself */
    int act;
} kd__layer_type;

/* Layers that only predict have no way back. */
#ifdef KD_NO_TRAIN
#define KD__BACKWARD(...)                                                                                          \
    {                                                                                                              \
        {                                                                                                          \
            NULL, 0, 0                                                                                             \
        }                                                                                                          \
    }
#else
#define KD__BACKWARD(...)                                                                                          \
    {                                                                                                              \
        __VA_ARGS__                                                                                                \
    }
#endif

#define KD__ACT_ROW(name, word)                                                                                    \
    {word,                                                                                                         \
     name == KD__LEAKYRELU ? "slope:f=0.01" : "",                                                                  \
     kd__act_build,                                                                                                \
     NULL,                                                                                                         \
     NULL,                                                                                                         \
     {{kd__act_forward, KD__SPANS, KD__ALWAYS}},                                                                   \
     KD__BACKWARD({kd__act_backward, KD__SPANS, KD__ALWAYS}),                                                      \
     0,                                                                                                            \
     name},
#define KD__POOL_ARGS "kernel:p stride:p=kernel pad:q=0"

static const kd__layer_type kd__layer_types[] = {
    {"dense",
     "units:i bias:b=1",
     kd__dense_build,
     kd__dense_own,
     NULL,
     {{kd__dense_forward, KD__WHOLE, KD__ALWAYS}},
     KD__BACKWARD({kd__dense_backward, KD__WHOLE, KD__ALWAYS}),
     1,
     0},
    {"conv",
     "channels:i kernel:p stride:p=1 pad:q=0 groups:i=1 bias:b=1",
     kd__conv_build,
     kd__conv_own,
     kd__conv_work,
     {{kd__conv_forward_prepare, KD__PREPARE, KD__ALWAYS}, {kd__conv_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__conv_backward_prepare, KD__PREPARE, KD__ALWAYS}, {kd__conv_backward, KD__SPANS, KD__ALWAYS}),
     1,
     0},
    {"depthwise",
     "kernel:p stride:p=1 pad:q=0 bias:b=1",
     kd__depthwise_build,
     NULL,
     NULL,
     {{kd__depthwise_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__depthwise_backward, KD__SPANS, KD__ALWAYS}),
     1,
     0},
    {"maxpool",
     KD__POOL_ARGS,
     kd__pool_build,
     kd__maxpool_own,
     NULL,
     {{kd__maxpool_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__maxpool_backward, KD__SPANS, KD__ALWAYS}),
     0,
     0},
    {"avgpool",
     KD__POOL_ARGS,
     kd__pool_build,
     NULL,
     NULL,
     {{kd__avgpool_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__avgpool_backward, KD__SPANS, KD__ALWAYS}),
     0,
     0},
    {"gap",
     "",
     kd__gap_build,
     NULL,
     NULL,
     {{kd__avgpool_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__avgpool_backward, KD__SPANS, KD__ALWAYS}),
     0,
     0},
    {"batchnorm",
     "eps:f=1e-5 momentum:s=0.1",
     kd__norm_build,
     kd__norm_own,
     NULL,
     {{kd__norm_forward_prepare, KD__PREPARE, KD__EVALUATION},
      {kd__norm_forward_stats, KD__SPANS, KD__TRAINING},
      {kd__norm_forward_join, KD__JOIN, KD__TRAINING},
      {kd__norm_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__norm_backward_stats, KD__SPANS, KD__TRAINING},
                  {kd__norm_backward_join, KD__JOIN, KD__TRAINING}, {kd__norm_backward, KD__SPANS, KD__ALWAYS},
                  {kd__norm_commit, KD__COMMIT, KD__TRAINING}),
     1,
     0},
    {"dropout",
     "probability:u",
     kd__dropout_build,
     NULL,
     NULL,
     {{kd__dropout_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__dropout_backward, KD__SPANS, KD__ALWAYS}),
     0,
     0},
    {"flatten",
     "",
     kd__flatten_build,
     NULL,
     NULL,
     {{kd__flatten_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__flatten_backward, KD__SPANS, KD__ALWAYS}),
     0,
     0},
    {"softtree",
     "depth:i classes:i penalty:f=0.1",
     kd__tree_build,
     kd__tree_own,
     kd__tree_work,
     {{kd__tree_forward_prepare, KD__PREPARE, KD__ALWAYS},
      {kd__tree_forward, KD__SPANS, KD__ALWAYS},
      {kd__tree_forward_join, KD__JOIN, KD__TRAINING}},
     KD__BACKWARD({kd__tree_backward, KD__SPANS, KD__ALWAYS}, {kd__tree_backward_join, KD__JOIN, KD__TRAINING}),
     0,
     0},
    {"prompt",
     "numbers:i",
     kd__prompt_build,
     NULL,
     NULL,
     {{kd__prompt_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__prompt_backward, KD__SPANS, KD__ALWAYS}),
     0,
     0},
    KD__ACTIVATIONS(KD__ACT_ROW)
    /* made by residual(...), not a word of its own */
    {"+",
     "",
     kd__add_build,
     NULL,
     NULL,
     {{kd__add_forward, KD__SPANS, KD__ALWAYS}},
     KD__BACKWARD({kd__add_backward, KD__SPANS, KD__ALWAYS}),
     1,
     0},
};

KD__PRIVATE int kd__layer_find(const char *word, size_t length)
{
    int i;
    for (i = 0; i < KD__COUNT(kd__layer_types); ++i) {
        if (strlen(kd__layer_types[i].word) == length && memcmp(kd__layer_types[i].word, word, length) == 0)
            return i;
    }
    return -1;
}

/* ============================================================================================================
   >>spec    the one-line language of models, and the builder
   uses: layers
   line:    input {NAME "=" value} ":" layers          input: NUMBER | NUMBER "x" NUMBER "x" NUMBER
   layers:  layer {"," layer}         layer: [TAG ":"] WORD {value | NAME "=" value}
                                           |  [TAG ":"] "residual" "(" layers ")"
   ============================================================================================================ */

enum { KD__MAX_DEPTH = 16, KD__MAX_NAME = 120, KD__MAX_LAYERS = 10000 }; /* tags are looked up one by one */

KD__PRIVATE int kd__is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
KD__PRIVATE int kd__is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
KD__PRIVATE int kd__is_digit(char c) { return c >= '0' && c <= '9'; }

KD__PRIVATE const char *kd__skip_space(const char *c)
{
    while (kd__is_space(*c)) ++c;
    return c;
}

/* Every run of white space as one blank, none at the ends. */
KD__PRIVATE void kd__tidy(char *text)
{
    const char *c = kd__skip_space(text);
    while (*c) {
        const char *next = kd__skip_space(c);
        if (next > c && *next) *text++ = ' ';
        if (next == c) *text++ = *next++;
        c = next;
    }
    *text = 0;
}

KD__PRIVATE const char *kd__skip_word(const char *c)
{
    while (kd__is_letter(*c) || kd__is_digit(*c)) ++c;
    return c;
}

/* Words with dots between them, the way PyTorch names what is inside another module. */
KD__PRIVATE const char *kd__skip_tag(const char *c)
{
    const char *end = kd__skip_word(c);
    while (end > c && *end == '.' && kd__skip_word(end + 1) > end + 1) end = kd__skip_word(end + 1);
    return end;
}

/* How many letters must be added, dropped, changed or swapped with their neighbour; words up to 31 letters. */
KD__PRIVATE int kd__edit_distance(const char *a, size_t a_length, const char *b)
{
    int row[3][33];
    const size_t b_length = strlen(b);
    size_t i, j;
    if (a_length > 31 || b_length > 31) return INT_MAX;
    for (j = 0; j <= b_length; ++j) row[1][j] = (int)j;
    for (i = 1; i <= a_length; ++i) {
        int *now = row[(i + 1) % 3], *last = row[i % 3], *before = row[(i + 2) % 3];
        now[0] = (int)i;
        for (j = 1; j <= b_length; ++j) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = KD__MIN(best, KD__MIN(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = KD__MIN(best, before[j - 2] + 1);
            now[j] = best;
        }
    }
    return row[(a_length + 1) % 3][b_length];
}

KD__PRIVATE kd_result kd__unknown_layer(kd__draft *d, const char *word, size_t length)
{
    const char *nearest = "residual";
    int best = kd__edit_distance(word, length, nearest), i;
    for (i = 0; i + 1 < KD__COUNT(kd__layer_types); ++i) { /* the last row is no word */
        const int distance = kd__edit_distance(word, length, kd__layer_types[i].word);
        if (distance < best) best = distance, nearest = kd__layer_types[i].word;
    }
    if (best <= 1 + (int)length / 3)
        return kd__spec_fail(d, "there is no layer \"%.*s\"; did you mean \"%s\"?", (int)length, word, nearest);
    return kd__spec_fail(
        d,
        "there is no layer \"%.*s\"; there are dense, conv, depthwise, maxpool, avgpool, gap, batchnorm, "
        "dropout, flatten, residual, softtree, prompt, relu, relu6, leakyrelu, gelu, silu, hardswish, sigmoid and "
        "tanh",
        (int)KD__MIN(length, 40), word);
}

/* One argument of the little list in kd__layer_type.args. */
typedef struct kd__arg_info {
    const char *name, *fallback; /* fallback NULL: required */
    size_t length;
    char kind;
} kd__arg_info;

KD__PRIVATE int kd__arg_infos(const char *args, kd__arg_info *infos)
{
    int count = 0;
    while (*args) {
        kd__arg_info *info = &infos[count++];
        info->name = args;
        args = kd__skip_word(args);
        info->length = (size_t)(args - info->name);
        info->kind = args[1];
        args += 2;
        info->fallback = NULL;
        if (*args == '=') {
            info->fallback = ++args;
            while (*args && *args != ' ') ++args;
        }
        if (*args == ' ') ++args;
    }
    return count;
}

KD__PRIVATE const char *kd__arg_kind(char kind)
{
    switch (kind) {
    case 'i': return "a whole number from 1 to 1e8";
    case 'p': return "a whole number from 1 to 1e8, or two as HxW";
    case 'q': return "a whole number from 0 to 1e8, two as HxW, or same";
    case 's': return "a number from 0 to 1";
    case 'u': return "a number from 0 to below 1";
    case 'b': return "0 or 1";
    case 'k': return "auto, pytorch, he, glorot or trunc";
    default: return "a number from 0 to 1e6";
    }
}

KD__PRIVATE int kd__init_word(const char **at, kd__arg *arg)
{
    const size_t length = (size_t)(kd__skip_word(*at) - *at);
    int i;
    for (i = 0; i < KD_INIT_COUNT; ++i) {
        const char *word = kd_init_name((kd_init_kind)i);
        if (strlen(word) != length || memcmp(word, *at, length) != 0) continue;
        arg->v[0] = i;
        *at += length;
        return 1;
    }
    return 0;
}

/* Reads a value of a kind at *at; on failure *at stays. */
KD__PRIVATE int kd__arg_value(const char **at, char kind, kd__arg *arg)
{
    const char *c = *at, *end;
    const double low = kind == 'i' || kind == 'p' ? 1 : 0;
    const double high = kind == 'b' || kind == 's' || kind == 'u' ? 1 : kind == 'f' ? 1e6 : 1e8;
    const int whole = kind != 'f' && kind != 's' && kind != 'u';
    const int pair = kind == 'p' || kind == 'q';
    int i;
    memset(arg, 0, sizeof *arg);
    if (kind == 'q' && strncmp(c, "same", 4) == 0 && !kd__is_letter(c[4])) {
        arg->same = 1;
        *at = c + 4;
        return 1;
    }
    if (kind == 'k') return kd__init_word(at, arg);
    for (i = 0;; ++i) {
        double v;
        if (!kd__is_digit(*c) && *c != '.') return 0;
        v = kd__parse_number(c, &end);
        if (end == c) return 0;
        if (whole && v != (double)(int)KD__MIN(v, 1e9)) return 0;
        if (v < low || v > high || (kind == 'u' && v >= 1)) return 0;
        arg->v[i] = v;
        if (i == 0) arg->v[1] = v;
        c = end;
        if (i == 1 || !pair || *c != 'x') break;
        ++c;
    }
    *at = c;
    return 1;
}

/* The colon ends the options of the whole model. */
KD__PRIVATE int kd__at_layer_end(const char *c) { return *c == 0 || *c == ',' || *c == ')' || *c == ':'; }

/* Positional values in the order of the list, then or among them name=value. */
KD__PRIVATE kd_result kd__parse_args(kd__draft *d, const char *word, const char **at, const char *args,
                                     kd__arg *values)
{
    kd__arg_info infos[KD__MAX_ARGS];
    int given[KD__MAX_ARGS] = {0}, next = 0, count = kd__arg_infos(args, infos), i;
    const char *c = kd__skip_space(*at);
    while (!kd__at_layer_end(c)) {
        d->at = c;
        if (kd__is_letter(*c) && *kd__skip_space(kd__skip_word(c)) == '=') {
            const size_t length = (size_t)(kd__skip_word(c) - c);
            for (i = 0; i < count && (infos[i].length != length || memcmp(infos[i].name, c, length) != 0); ++i) {}
            if (i == count) {
                int nearest = -1, best = 3;
                for (i = 0; i < count; ++i) {
                    char name[32];
                    int distance;
                    kd__print(name, sizeof name, "%.*s", (int)infos[i].length, infos[i].name);
                    distance = kd__edit_distance(c, length, name);
                    if (distance < best) best = distance, nearest = i;
                }
                if (nearest < 0)
                    return kd__spec_fail(d, "%s has no option \"%.*s\"", word, (int)KD__MIN(length, 40), c);
                return kd__spec_fail(d, "%s has no option \"%.*s\"; did you mean \"%.*s\"?", word, (int)length, c,
                                     (int)infos[nearest].length, infos[nearest].name);
            }
            c = kd__skip_space(kd__skip_space(kd__skip_word(c)) + 1);
            d->at = c;
        } else {
            while (next < count && given[next]) ++next;
            i = next;
            if (i == count) {
                const char *end = c;
                while (*end && !kd__is_space(*end) && !kd__at_layer_end(end)) ++end;
                return kd__spec_fail(d,
                                     "%s takes nothing more, but \"%.*s\" follows; layers are separated by commas",
                                     word, (int)KD__MIN(end - c, 40), c);
            }
        }
        if (given[i])
            return kd__spec_fail(d, "%.*s of %s is given twice", (int)infos[i].length, infos[i].name, word);
        if (!kd__arg_value(&c, infos[i].kind, &values[i]) || (!kd__is_space(*c) && !kd__at_layer_end(c))) {
            const char *end = d->at;
            while (*end && !kd__is_space(*end) && !kd__at_layer_end(end)) ++end;
            return kd__spec_fail(d, "%.*s of %s must be %s, got \"%.*s\"", (int)infos[i].length, infos[i].name,
                                 word, kd__arg_kind(infos[i].kind), (int)KD__MIN(end - d->at, 40), d->at);
        }
        given[i] = 1;
        c = kd__skip_space(c);
    }
    for (i = 0; i < count; ++i) {
        const char *fallback = infos[i].fallback;
        if (given[i]) continue;
        d->at = c;
        if (!fallback)
            return kd__spec_fail(d, "%s needs %.*s: %s", word, (int)infos[i].length, infos[i].name,
                                 kd__arg_kind(infos[i].kind));
        if (kd__is_letter(*fallback) && infos[i].kind != 'k')
            values[i] = values[0];
        else
            (void)kd__arg_value(&fallback, infos[i].kind, &values[i]);
    }
    *at = c;
    return KD_OK;
}

/* Adds a layer that reads d->current. */
KD__PRIVATE kd_result kd__draft_node(kd__draft *d, int type, const kd__arg *args, const char *name,
                                     const char *text, size_t text_length, int shown, int in2)
{
    kd_model *m = d->m;
    const kd__layer_type *t = &kd__layer_types[type];
    kd__node *n;
    kd_result result;
    int i;
    void *list;
    if (m->node_count == KD__MAX_LAYERS)
        return kd__spec_fail(d, "a model may have up to %d layers", (int)KD__MAX_LAYERS);
    for (i = 0; d->tagged && i < m->node_count; ++i) {
        if (strcmp(m->nodes[i].name, name) == 0)
            return kd__spec_fail(d, "the name \"%.40s\" is taken, by a tag before; give this layer one, too", name);
    }
    list = kd__grow(d->kd, m->nodes, m->node_count, &m->node_capacity, sizeof *n);
    if (!list) return KD_ERR_MEMORY;
    m->nodes = (kd__node *)list;
    n = &m->nodes[m->node_count];
    memset(n, 0, sizeof *n);
    n->type = type;
    if (args) memcpy(n->arg, args, sizeof n->arg);
    n->in = d->current;
    n->in2 = in2;
    n->act = t->act;
    n->shown = shown;
    n->depth = d->depth;
    for (i = 0; i < 4; ++i) n->param[i] = -1;
    n->name = kd__copy_text(d->kd, name, strlen(name));
    n->text = kd__copy_text(d->kd, text, text_length);
    if (n->text) kd__tidy(n->text);
    result = n->name && n->text ? t->build(d, n) : KD_ERR_MEMORY;
    if (result != KD_OK) {
        kd__free(d->kd, n->name);
        kd__free(d->kd, n->text);
        return result;
    }
    ++m->values[n->in].consumers;
    if (in2 >= 0) ++m->values[in2].consumers;
    d->current = n->out;
    ++m->node_count;
    return KD_OK;
}

/* Whether a layer, or a residual around one, has this name. */
KD__PRIVATE int kd__draft_named(const kd__draft *d, const char *name)
{
    const size_t length = strlen(name);
    int i;
    for (i = 0; i < d->m->node_count; ++i) {
        const char *other = d->m->nodes[i].name;
        if (strncmp(other, name, length) == 0 && (other[length] == 0 || other[length] == '.')) return 1;
    }
    return 0;
}

/* The stride of a node, or NULL of one that keeps height and width, or has none. */
KD__PRIVATE const kd__arg *kd__node_stride(const kd__node *n)
{
    const kd__layer_type *t = &kd__layer_types[n->type];
    if (n->type == KD__TYPE_CONV) return &n->arg[KD__CONV_STRIDE];
    if (n->type == KD__TYPE_DEPTHWISE) return &n->arg[KD__DEPTHWISE_STRIDE];
    return t->build == kd__pool_build || t->build == kd__gap_build ? &n->arg[KD__POOL_STRIDE] : NULL;
}

/* The strides of all layers between a value and the current one together, of height (0) or width (1). */
KD__PRIVATE int kd__draft_stride(const kd__draft *d, int from, int axis)
{
    double stride = 1;
    int value = d->current;
    while (value != from) {
        const kd__node *n = &d->m->nodes[d->m->values[value].producer];
        const kd__arg *own = kd__node_stride(n);
        if (own) stride = KD__MIN(1e8, stride * own->v[axis]);
        value = n->in;
    }
    return (int)stride;
}

/* The name of a module inside another: "path.part", or "part" on the outermost level. */
typedef struct kd__path {
    char chars[KD__MAX_NAME + 64];
} kd__path;

KD__PRIVATE kd__path kd__path_join(const char *path, const char *part, size_t length)
{
    kd__path joined;
    kd__print(joined.chars, sizeof joined.chars, "%.*s%s%.*s", (int)KD__MAX_NAME, path, *path ? "." : "",
              (int)KD__MIN(length, 60), part);
    return joined;
}

KD__PRIVATE kd__path kd__path_index(const char *path, int index)
{
    char digits[16];
    kd__print(digits, sizeof digits, "%d", index);
    return kd__path_join(path, digits, strlen(digits));
}

/* What is added to a residual's body: its input, through a projection where the shapes differ. */
KD__PRIVATE kd_result kd__draft_shortcut(kd__draft *d, const char *path, int entry, int has_batchnorm,
                                         int *shortcut)
{
    const kd__shape from = d->m->values[entry].shape, to = d->m->values[d->current].shape;
    const int body = d->current, deep = d->depth;
    kd__path name;
    char text[64];
    kd__arg args[KD__MAX_ARGS];
    kd_result result;
    int i;
    *shortcut = entry;
    if (from.c == to.c && from.h == to.h && from.w == to.w && from.flat == to.flat) return KD_OK;
    memset(args, 0, sizeof args);
    args[0].v[0] = to.c;
    if (to.flat) {
        args[KD__DENSE_UNITS].v[0] = (double)kd__shape_count(&to);
        args[KD__DENSE_BIAS].v[0] = !has_batchnorm;
        kd__print(text, sizeof text, "dense %lld%s", (long long)kd__shape_count(&to),
                  has_batchnorm ? " bias=0" : "");
        if (!from.flat)
            return kd__spec_fail(d,
                                 "the residual's input is an image and its output a vector; they cannot be added");
    } else {
        const int stride[2] = {kd__draft_stride(d, entry, 0), kd__draft_stride(d, entry, 1)};
        kd__shape made = to;
        made.h = (from.h - 1) / stride[0] + 1, made.w = (from.w - 1) / stride[1] + 1;
        if (made.h != to.h || made.w != to.w)
            return kd__spec_fail(d,
                                 "the residual's output %s cannot be added to its input %s: a 1x1 convolution with "
                                 "the stride of its layers, %dx%d, makes that %s; does one of them need a pad?",
                                 kd__shape_text(&to).chars, kd__shape_text(&from).chars, stride[0], stride[1],
                                 kd__shape_text(&made).chars);
        for (i = 0; i < 2; ++i) args[KD__CONV_KERNEL].v[i] = 1, args[KD__CONV_STRIDE].v[i] = stride[i];
        args[KD__CONV_GROUPS].v[0] = 1;
        args[KD__CONV_BIAS].v[0] = !has_batchnorm;
        kd__print(text, sizeof text, "conv %d 1 stride=%dx%d%s", to.c, (int)args[KD__CONV_STRIDE].v[0],
                  (int)args[KD__CONV_STRIDE].v[1], has_batchnorm ? " bias=0" : "");
    }
    d->current = entry;
    ++d->depth;
    name = kd__path_join(path, has_batchnorm ? "shortcut.0" : "shortcut", 10);
    result =
        kd__draft_node(d, to.flat ? KD__TYPE_DENSE : KD__TYPE_CONV, args, name.chars, text, strlen(text), 0, -1);
    if (result == KD_OK && has_batchnorm) {
        memset(args, 0, sizeof args);
        args[KD__NORM_EPS].v[0] = 1e-5;
        args[KD__NORM_MOMENTUM].v[0] = 0.1;
        name = kd__path_join(path, "shortcut.1", 10);
        result = kd__draft_node(d, kd__layer_find("batchnorm", 9), args, name.chars, "batchnorm", 9, 0, -1);
    }
    *shortcut = d->current;
    d->current = body;
    d->depth = deep;
    return result;
}

KD__PRIVATE kd_result kd__parse_layers(kd__draft *d, const char **at, const char *path);

/* residual( ... ), at the opening parenthesis */
KD__PRIVATE kd_result kd__parse_residual(kd__draft *d, const char **at, const char *path)
{
    const char *c = *at, *start = c;
    const int entry = d->current, outer_batchnorm = d->has_batchnorm;
    kd__path name = kd__path_join(path, "body", 4);
    int shortcut, inner_batchnorm;
    kd_result result;
    if (*c != '(')
        return kd__spec_fail(d, "residual needs its layers in parentheses: residual(conv 16 3 pad=1, relu)");
    if (d->depth >= KD__MAX_DEPTH)
        return kd__spec_fail(d, "residuals are nested more than %d deep", (int)KD__MAX_DEPTH);
    if (strlen(path) + 5 > KD__MAX_NAME)
        return kd__spec_fail(d, "the tags around this residual have more than %d letters together",
                             (int)KD__MAX_NAME - 5);
    ++c;
    d->has_batchnorm = 0;
    ++d->depth;
    result = kd__parse_layers(d, &c, name.chars);
    --d->depth;
    if (result != KD_OK) return result;
    d->at = c;
    if (*c && *c != ')') return kd__spec_fail(d, "expected a comma or a parenthesis, got \"%c\"", *c);
    d->at = start;
    if (*c == 0) return kd__spec_fail(d, "this parenthesis is never closed");
    d->at = start;
    inner_batchnorm = d->has_batchnorm;
    result = kd__draft_shortcut(d, path, entry, inner_batchnorm, &shortcut);
    d->has_batchnorm = outer_batchnorm || inner_batchnorm;
    if (result != KD_OK) return result;
    name = kd__path_join(path, "sum", 3);
    result = kd__draft_node(d, KD__COUNT(kd__layer_types) - 1, NULL, name.chars, "+", 1, 0, shortcut);
    *at = c + 1;
    return result;
}

/* The inner nodes of a softtree before they are squashed: a dense layer inside it. */
KD__PRIVATE kd_result kd__draft_filters(kd__draft *d, const char *path, const kd__arg *tree)
{
    const double depth = tree[KD__TREE_DEPTH].v[0], classes = tree[KD__TREE_CLASSES].v[0];
    const kd__path name = kd__path_join(path, "filters", 7);
    kd__arg args[KD__MAX_ARGS];
    char text[32];
    kd_result result;
    if (depth > (double)KD__TREE_MAX_DEPTH)
        return kd__spec_fail(d, "the depth of a softtree must be 1 to %d, got %.0f", (int)KD__TREE_MAX_DEPTH,
                             depth);
    if (classes < 2 || classes * (1 << (int)depth) > (double)KD__MAX_VALUE)
        return kd__spec_fail(d, "a softtree of depth %.0f needs 2 to %d classes, got %.0f", depth,
                             (int)KD__MAX_VALUE >> (int)depth, classes);
    if (strlen(path) > KD__MAX_NAME)
        return kd__spec_fail(d, "this softtree's tag and those around it have more than %d letters together",
                             (int)KD__MAX_NAME);
    memset(args, 0, sizeof args);
    args[KD__DENSE_UNITS].v[0] = (1 << (int)depth) - 1;
    args[KD__DENSE_BIAS].v[0] = 1;
    kd__print(text, sizeof text, "dense %d", (1 << (int)depth) - 1);
    ++d->depth;
    result = kd__draft_node(d, KD__TYPE_DENSE, args, name.chars, text, strlen(text), 0, -1);
    --d->depth;
    return result;
}

/* A layer in the making: its name, the number after its own, and where its text and its word begin. */
typedef struct kd__named {
    kd__path name;
    int next, tagged;
    const char *text;
    size_t length; /* of the word */
} kd__named;

/* The tag of a layer, if there is one, and its word. `index` is its number, if the tag is none. */
KD__PRIVATE kd_result kd__parse_name(kd__draft *d, const char *c, const char *path, int index, kd__named *n)
{
    const char *end = kd__skip_tag(c), *digit = c;
    const size_t length = (size_t)(end - c);
    d->at = c;
    n->name = kd__path_index(path, index);
    n->next = index + 1;
    n->tagged = length > 0 && *kd__skip_space(end) == ':';
    if (n->tagged) {
        if (length > 40) return kd__spec_fail(d, "a tag may have up to 40 letters");
        n->name = kd__path_join(path, c, length);
        if (kd__draft_named(d, n->name.chars)) return kd__spec_fail(d, "the tag \"%.*s\" is taken", (int)length, c);
        while (kd__is_digit(*digit)) ++digit;
        if (digit == end && length <= 9) n->next = (int)kd__parse_number(c, &digit) + 1;
        d->tagged = 1;
        d->at = c = kd__skip_space(kd__skip_space(end) + 1);
        if (!kd__is_letter(*c)) return kd__spec_fail(d, "a layer is missing after the tag");
    } else if (!kd__is_letter(*c)) {
        return *c == 0 || *c == ')' ? kd__spec_fail(d, "a layer is missing here")
                                    : kd__spec_fail(d, "expected a layer, got \"%c\"", *c);
    }
    n->text = c;
    n->length = (size_t)(kd__skip_word(c) - c);
    return KD_OK;
}

/* A layer that takes a vector after one that gives an image. In PyTorch it has a number of its own. */
KD__PRIVATE kd_result kd__draft_flatten(kd__draft *d, const char *path, int index, kd__named *n)
{
    kd__path name = kd__path_index(path, index);
    if (!n->tagged) {
        n->name = kd__path_index(path, n->next);
        ++n->next;
    } else if (strcmp(name.chars, n->name.chars) == 0) {
        name = kd__path_join(name.chars, "flatten", 7);
    } else {
        n->next = KD__MAX(n->next, index + 2);
    }
    return kd__draft_node(d, kd__layer_find("flatten", 7), NULL, name.chars, "flatten", 7, 0, -1);
}

/* One layer at *at; `index` is its number on this level, which PyTorch's Sequential would give it. */
KD__PRIVATE kd_result kd__parse_layer(kd__draft *d, const char **at, const char *path, int *index)
{
    const char *c, *end;
    kd__named n;
    kd__arg args[KD__MAX_ARGS];
    kd_result result = kd__parse_name(d, kd__skip_space(*at), path, *index, &n);
    int type, is_tree, takes_vector;
    if (result != KD_OK) return result;
    c = kd__skip_space(n.text + n.length);
    if (n.length == 8 && memcmp(n.text, "residual", 8) == 0) {
        *index = n.next;
        result = kd__parse_residual(d, &c, n.name.chars);
        *at = kd__skip_space(c);
        return result;
    }
    type = kd__layer_find(n.text, n.length);
    if (type < 0) return kd__unknown_layer(d, n.text, n.length);
    memset(args, 0, sizeof args);
    result = kd__parse_args(d, kd__layer_types[type].word, &c, kd__layer_types[type].args, args);
    if (result != KD_OK) return result;
    d->at = n.text;
    is_tree = kd__layer_types[type].build == kd__tree_build;
    takes_vector = type == KD__TYPE_DENSE || is_tree || kd__layer_types[type].build == kd__prompt_build;
    if (takes_vector && !d->m->values[d->current].shape.flat) {
        result = kd__draft_flatten(d, path, *index, &n);
        if (result != KD_OK) return result;
    }
    *index = n.next;
    if (is_tree && (result = kd__draft_filters(d, n.name.chars, args)) != KD_OK) return result;
    for (end = c; kd__is_space(end[-1]); --end) {} /* not beyond the word itself */
    result = kd__draft_node(d, type, args, n.name.chars, n.text, (size_t)(end - n.text), 1, -1);
    *at = c;
    return result;
}

KD__PRIVATE kd_result kd__parse_layers(kd__draft *d, const char **at, const char *path)
{
    int index = 0;
    for (;;) {
        const kd_result result = kd__parse_layer(d, at, path, &index);
        if (result != KD_OK) return result;
        *at = kd__skip_space(*at);
        if (**at != ',') return KD_OK;
        ++*at;
    }
}

/* ---- first weights --------------------------------------------------------------------------------------- */

KDDEF const char *kd_init_name(kd_init_kind kind)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_INITS(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)kind < (unsigned)KD_INIT_COUNT ? words[kind] : "unknown";
}

KDDEF kd_init kd_init_defaults(kd_init_kind kind)
{
    kd_init init;
    memset(&init, 0, sizeof init);
    init.cookie = KD__COOKIE;
    init.kind = kind;
    init.std = 0.02f;
    init.last = init.residual = 1;
    return init;
}

KD__PRIVATE int kd__has_weights(const kd_model *m, const kd__node *n)
{
    return n->param[0] >= 0 && m->params[n->param[0]].trained;
}

/* The last layer with weights in the branch that ends in a sum, or -1; *dead: a rectifier follows it, of whose
   gradient at 0 nothing is left. Of a residual that the branch itself ends in, what the sum adds counts. */
KD__PRIVATE int kd__branch_end(const kd_model *m, const kd__node *sum, int *dead)
{
    int at = m->values[sum->in].producer;
    *dead = 0;
    while (at >= 0 && m->nodes[at].depth > sum->depth) {
        const kd__node *n = &m->nodes[at];
        if (kd__has_weights(m, n)) return at;
        if (n->act == KD__RELU || n->act == KD__RELU6) *dead = 1;
        at = m->values[n->in2 >= 0 ? n->in2 : n->in].producer;
    }
    return -1;
}

/* What is wrong with first weights, or NULL. */
KD__PRIVATE const char *kd__init_fault(const kd_model *m, const kd_init *init)
{
    const float limit = 1e6f;
    int i, dead;
    if ((unsigned)init->kind >= (unsigned)KD_INIT_COUNT) return "there is no such kind of first weights";
    if (init->fan_out != 0 && init->fan_out != 1) return "fan_out must be 0 or 1";
    if (init->fan_out && init->kind != KD_INIT_HE) return "fan_out goes with init=he";
    if (!(init->std >= 0 && init->std <= limit)) return "std must be 0 to 1e6";
    if (init->std != 0.02f && init->kind != KD_INIT_TRUNC_NORMAL) return "std goes with init=trunc";
    if (!(init->last >= 0 && init->last <= limit)) return "last must be 0 to 1e6";
    if (!(init->residual >= 0 && init->residual <= limit)) return "residual must be 0 to 1e6";
    for (i = 0; init->residual == 0 && i < m->node_count; ++i) {
        if (m->nodes[i].in2 >= 0 && kd__branch_end(m, &m->nodes[i], &dead) >= 0 && dead)
            return "residual=0 would leave a residual without gradients for ever, whose last layer with weights is "
                   "followed by a relu or relu6";
    }
    return NULL;
}

/* Options of the whole model, after its input. */
KD__PRIVATE kd_result kd__parse_init(kd__draft *d, const char **at)
{
    kd__arg args[KD__MAX_ARGS];
    kd_init *init = &d->m->init;
    kd_result result;
    memset(args, 0, sizeof args);
    result = kd__parse_args(d, "the input", at, "init:k=auto fan_out:b=0 std:f=0.02 last:f=1 residual:f=1", args);
    if (result != KD_OK) return result;
    init->kind = (kd_init_kind)(int)args[0].v[0];
    init->fan_out = (int)args[1].v[0];
    init->std = (float)args[2].v[0];
    init->last = (float)args[3].v[0];
    init->residual = (float)args[4].v[0];
    return KD_OK;
}

/* ---- the line -------------------------------------------------------------------------------------------- */

KD__PRIVATE kd_result kd__parse_model(kd__draft *d)
{
    const char *c = kd__skip_space(d->line), *end, *options, *fault;
    double size[3] = {0, 1, 1};
    int count = 0;
    kd_result result;
    while (count < 3) {
        d->at = c;
        size[count] = kd__is_digit(*c) ? kd__parse_number(c, &end) : -1;
        if (!kd__is_digit(*c) || size[count] < 1 || size[count] > 1e8 || size[count] != (double)(int)size[count])
            return kd__spec_fail(
                d, "a model starts with its input, such as 1x28x28: or 784:, of numbers from 1 to 1e8");
        c = end;
        ++count;
        if (*c != 'x') break;
        ++c;
    }
    c = kd__skip_space(c);
    d->at = c;
    if (count == 2) return kd__spec_fail(d, "an image needs three sizes, channels x height x width, got two");
    options = c;
    if (kd__is_letter(*c) && *kd__skip_space(kd__skip_word(c)) == '=' && (result = kd__parse_init(d, &c)) != KD_OK)
        return result;
    d->at = c;
    if (*c != ':') return kd__spec_fail(d, "a colon must follow the input, such as 1x28x28: dense 10");
    if (size[0] * size[1] * size[2] > (double)KD__MAX_VALUE) return kd__spec_fail(d, "the input is too large");
    ++c;
    d->m->input = d->current = kd__draft_value(d, (int)size[0], (int)size[1], (int)size[2], count == 1, -1);
    if (d->current < 0) return KD_ERR_MEMORY;
    result = kd__parse_layers(d, &c, "");
    if (result != KD_OK) return result;
    d->at = c;
    if (*c == ')') return kd__spec_fail(d, "this parenthesis was never opened");
    if (*c) return kd__spec_fail(d, "expected a comma or the end, got \"%c\"", *c);
    d->at = options;
    if ((fault = kd__init_fault(d->m, &d->m->init)) != NULL) return kd__spec_fail(d, "%s", fault);
    if (!d->m->values[d->current].shape.flat) /* what comes out is a vector of logits */
        result = kd__draft_node(d, kd__layer_find("flatten", 7), NULL, "output", "flatten", 7, 0, -1);
    d->m->output = d->current;
    return result;
}

/* ---- builder --------------------------------------------------------------------------------------------- */

struct kd_builder {
    kd_ctx *kd;
    char *text;
    size_t length, capacity;
    int first; /* no comma before the next layer */
    kd_init init;
    kd_result failed;
};

KD__PRIVATE void kd__builder_append(kd_builder *b, const char *text)
{
    const size_t length = strlen(text);
    if (b->failed != KD_OK) return;
    if (b->length + length + 1 > b->capacity) {
        const size_t capacity = (b->length + length + 1) * 2;
        char *bigger = KD__NEW(b->kd, char, capacity);
        if (!bigger) {
            b->failed = KD_ERR_MEMORY;
            return;
        }
        if (b->text) memcpy(bigger, b->text, b->length);
        kd__free(b->kd, b->text);
        b->text = bigger;
        b->capacity = capacity;
    }
    memcpy(b->text + b->length, text, length + 1);
    b->length += length;
}

KDDEF kd_result kd_builder_open(kd_ctx *kd, int channels, int height, int width, kd_builder **out)
{
    char text[64];
    kd_builder *b;
    if (out) *out = NULL;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(kd, KD_ERR_ARGUMENT, "kd_builder_open: out must not be NULL");
    b = KD__NEW(kd, kd_builder, 1);
    if (!b) return KD_ERR_MEMORY;
    b->kd = kd;
    b->first = 1;
    b->init = kd_init_defaults(KD_INIT_AUTO);
    if (height == 1 && width == 1)
        kd__print(text, sizeof text, "%d: ", channels);
    else
        kd__print(text, sizeof text, "%dx%dx%d: ", channels, height, width);
    kd__builder_append(b, text);
    *out = b;
    return KD_OK;
}

enum { KD__BUILDER_LETTERS = 255 };

KDDEF void kd_builder_layer(kd_builder *b, const char *format, ...)
{
    char text[KD__BUILDER_LETTERS + 1];
    va_list args;
    int length;
    if (!b) return;
    va_start(args, format);
    length = format ? kd__print_list(text, sizeof text, format, args) : -1;
    va_end(args);
    if (length < 0 || length >= (int)sizeof text) {
        b->failed = KD_ERR_SPEC;
        return;
    }
    if (!b->first) kd__builder_append(b, ", ");
    kd__builder_append(b, text);
    b->first = 0;
}

KDDEF void kd_builder_dense(kd_builder *b, int units) { kd_builder_layer(b, "dense %d", units); }

KDDEF void kd_builder_conv(kd_builder *b, int channels, int kernel, int stride, int pad)
{
    kd_builder_layer(b, "conv %d %d stride=%d pad=%d", channels, kernel, stride, pad);
}

KDDEF void kd_builder_depthwise(kd_builder *b, int kernel, int stride, int pad)
{
    kd_builder_layer(b, "depthwise %d stride=%d pad=%d", kernel, stride, pad);
}

KDDEF void kd_builder_maxpool(kd_builder *b, int kernel, int stride)
{
    kd_builder_layer(b, "maxpool %d stride=%d", kernel, stride);
}
KDDEF void kd_builder_avgpool(kd_builder *b, int kernel, int stride)
{
    kd_builder_layer(b, "avgpool %d stride=%d", kernel, stride);
}

KDDEF void kd_builder_residual(kd_builder *b)
{
    if (!b) return;
    kd_builder_layer(b, "residual(");
    b->first = 1;
}

KDDEF void kd_builder_end(kd_builder *b)
{
    if (!b) return;
    kd__builder_append(b, ")");
    b->first = 0;
}

KDDEF void kd_builder_init(kd_builder *b, const kd_init *init)
{
    if (b) b->init = init ? *init : kd_init_defaults(KD_INIT_AUTO);
}

KDDEF void kd_builder_abandon(kd_builder *b)
{
    if (!b) return;
    kd__free(b->kd, b->text);
    kd__free(b->kd, b);
}

KDDEF kd_result kd_builder_finish(kd_builder *b, uint64_t seed, kd_model **out)
{
    kd_result result;
    if (out) *out = NULL;
    if (!b) return KD_ERR_ARGUMENT;
    result = b->failed;
    if (result == KD_ERR_SPEC)
        kd__fail(b->kd, result, "kd_builder_layer: the text of a layer is NULL, or longer than %d letters",
                 (int)KD__BUILDER_LETTERS);
    if (result == KD_OK && !out)
        result = kd__fail(b->kd, KD_ERR_ARGUMENT, "kd_builder_finish: out must not be NULL");
    if (result == KD_OK) result = kd_model_create_with(b->kd, b->text, seed, &b->init, out);
    kd_builder_abandon(b);
    return result;
}

/* ============================================================================================================
   >>model    models: creation, tensors, description
   uses: spec, losses
   ============================================================================================================ */

enum { KD__SLACK = 64 }; /* floats after every buffer that kernels read in whole vectors */

/* Activations that their producer can apply while its output is in registers; storage is then shared. */
KD__PRIVATE void kd__model_fuse(kd_model *m)
{
    int i;
    for (i = 0; i < m->node_count; ++i) {
        kd__node *n = &m->nodes[i], *producer;
        const int at = m->values[n->in].producer;
        if (n->act != KD__RELU && n->act != KD__RELU6 && n->act != KD__LEAKYRELU) continue;
        if (at < 0 || m->values[n->in].consumers != 1) continue;
        producer = &m->nodes[at];
        if (!kd__layer_types[producer->type].takes_act || producer->fused_act != KD__IDENTITY) continue;
        producer->fused_act = n->act;
        producer->act_arg = n->act_arg;
        n->fused = 1;
        m->values[n->out].same_as = m->values[n->in].same_as;
    }
}

KD__PRIVATE void kd__model_propagate(kd_model *m)
{
    int i, j;
    for (i = 0; i < m->value_count; ++i) {
        kd__value *v = &m->values[i], *root = &m->values[v->same_as];
        root->pad = KD__MAX(root->pad, v->pad);
        root->grad_pad = KD__MAX(root->grad_pad, v->grad_pad);
    }
    for (i = 0; i < m->value_count; ++i) {
        kd__value *v = &m->values[i];
        v->pad = m->values[v->same_as].pad;
        v->grad_pad = m->values[v->same_as].grad_pad;
    }
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        int needs = m->values[n->in].needs_grad || (n->in2 >= 0 && m->values[n->in2].needs_grad);
        for (j = 0; j < 4; ++j) needs |= n->param[j] >= 0 && m->params[n->param[j]].trained;
        m->values[n->out].needs_grad = needs;
    }
}

/* A tensor in PyTorch's order: runs of numbers, each with one distance between them where they are stored. */
typedef struct kd__walk {
    const kd__kernels *k;
    const kd__param *p;
    int output, channel, line; /* of the next run */
    ptrdiff_t at, step;        /* where the next number of this run is, and how far the one after it */
    int left;                  /* numbers of this run */
} kd__walk;

KD__PRIVATE kd__walk kd__walk_begin(const kd__kernels *k, const kd__param *p)
{
    kd__walk w;
    memset(&w, 0, sizeof w);
    w.k = k;
    w.p = p;
    return w;
}

/* Enters the next run; not after the last one. */
KD__PRIVATE void kd__walk_run(kd__walk *w)
{
    const kd__param *p = w->p;
    const int rows = p->c * p->h * p->w;
    ptrdiff_t start = 0, step = 1;
    if (p->layout == KD__PANELS) {
        const int column = w->output % p->outputs, first = column / w->k->panel * w->k->panel;
        step = kd__panel_width(w->k, p->outputs - first);
        start = (ptrdiff_t)((size_t)(w->output / p->outputs) * p->group_size + (size_t)first * (size_t)rows) +
                (column - first);
    }
    w->at = start + ((ptrdiff_t)w->line * p->w * p->c + w->channel) * step;
    if (p->h == 1 && p->w == 1) { /* all channels are one run */
        w->step = step;
        w->left = p->c;
        ++w->output;
        return;
    }
    w->step = p->c * step;
    w->left = p->w;
    if (++w->line < p->h) return;
    w->line = 0;
    if (++w->channel < p->c) return;
    w->channel = 0;
    ++w->output;
}

/* The next `count` numbers between their stored form and PyTorch's order, in the direction asked for. */
KD__PRIVATE void kd__walk_copy(kd__walk *w, float *stored, float *plain, int64_t count, int to_plain)
{
    while (count > 0) {
        int i, now;
        if (w->left == 0) kd__walk_run(w);
        now = (int)KD__MIN((int64_t)w->left, count);
        if (to_plain) {
            for (i = 0; i < now; ++i) plain[i] = stored[w->at + i * w->step];
        } else {
            for (i = 0; i < now; ++i) stored[w->at + i * w->step] = plain[i];
        }
        w->at += now * w->step;
        w->left -= now;
        plain += now;
        count -= now;
    }
}

KD__PRIVATE int64_t kd__param_count(const kd__param *p)
{
    int64_t count = 1;
    int i;
    for (i = 0; i < p->rank; ++i) count *= p->shape[i];
    return count;
}

/* Copies a whole tensor. */
KD__PRIVATE void kd__param_copy(const kd__kernels *k, const kd__param *p, float *stored, float *plain, int to_plain)
{
    kd__walk w = kd__walk_begin(k, p);
    kd__walk_copy(&w, stored, plain, kd__param_count(p), to_plain);
}

/* Running variances of batch normalisation: negative ones have no root. */
KD__PRIVATE int kd__param_negative(const kd__param *p, const float *plain, size_t count)
{
    static const char suffix[] = "running_var";
    const size_t length = strlen(p->name);
    size_t i;
    if (length < sizeof suffix || strcmp(p->name + length - sizeof suffix + 1, suffix) != 0) return 0;
    for (i = 0; i < count && plain[i] >= 0; ++i) {}
    return i < count;
}

KD__PRIVATE float *kd__param_stored(const kd_model *m, const kd__param *p)
{
    return (p->trained ? m->weights : m->state) + p->offset;
}

/* Whether a rectifier comes before the next layer with weights. */
KD__PRIVATE int kd__before_rectifier(const kd_model *m, int node)
{
    int value = m->nodes[node].out, i;
    for (i = node + 1; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        if (n->in != value) continue;
        if (n->act) return n->act != KD__SIGMOID && n->act != KD__TANH;
        if (n->type == KD__TYPE_DENSE || n->type == KD__TYPE_CONV || n->type == KD__TYPE_DEPTHWISE) return 0;
        value = n->out;
    }
    return 0;
}

/* How numbers are drawn: uniform in +-bound, or normal; where cut is not 0, within cut deviations. */
typedef struct kd__law {
    double bound, deviation, cut;
} kd__law;

KD__PRIVATE kd__law kd__init_law(const kd_model *m, int node, const kd__param *p)
{
    const kd_init *init = &m->init;
    const double area = p->rank == 4 ? (double)p->h * p->w : 1;
    const double fan_in = p->layout == KD__PANELS ? (double)p->c * p->h * p->w : p->layout == KD__TAPS ? area : 1;
    const double fan_out = (p->layout == KD__PANELS ? p->outputs : 1) * area;
    kd__law law = {0, 0, 0};
    if (init->kind == KD_INIT_AUTO || p->layout == KD__VECTOR)
        law.bound = sqrt((kd__before_rectifier(m, node) ? 6.0 : 3.0) / fan_in);
    else if (init->kind == KD_INIT_PYTORCH)
        law.bound = sqrt(1 / fan_in);
    else if (init->kind == KD_INIT_GLOROT)
        law.bound = sqrt(6 / (fan_in + fan_out));
    else if (init->kind == KD_INIT_HE)
        law.deviation = sqrt(2 / (init->fan_out ? fan_out : fan_in));
    else
        law.deviation = (double)init->std, law.cut = 2;
    return law;
}

KD__PRIVATE double kd__init_number(const kd__law *law, uint64_t key, uint64_t index)
{
    uint64_t i;
    double x;
    if (law->deviation == 0) return kd__rng_range(key, index, -law->bound, law->bound);
    if (law->cut == 0) return kd__normal(key, index, law->deviation);
    key = kd__rng_key(key, KD__RNG_INIT, index, 0);
    for (i = 0; x = kd__normal(key, i, 1), x < -law->cut || x > law->cut; ++i) {}
    return law->deviation * x;
}

KD__PRIVATE kd_result kd__init_tensor(kd_model *m, int param, kd__law law, uint64_t seed)
{
    const kd__param *p = &m->params[param];
    const int64_t count = kd__param_count(p);
    const uint64_t key = kd__rng_key(seed, KD__RNG_INIT, (uint64_t)param, 0);
    float *plain = KD__NEW(m->kd, float, count);
    int64_t e;
    if (!plain) return KD_ERR_MEMORY;
    for (e = 0; e < count; ++e) plain[e] = (float)kd__init_number(&law, key, (uint64_t)e);
    kd__param_copy(m->kd->k, p, kd__param_stored(m, p), plain, 0);
    kd__free(m->kd, plain);
    return KD_OK;
}

/* Multiplies what a layer is trained in, but for the inner nodes of a softtree. */
KD__PRIVATE void kd__init_scale(kd_model *m, int node, float factor)
{
    const kd__node *n = &m->nodes[node];
    const int is_tree = kd__layer_types[n->type].build == kd__tree_build;
    size_t e;
    int j;
    for (j = 0; j < 4; ++j) {
        const kd__param *p = n->param[j] >= 0 ? &m->params[n->param[j]] : NULL;
        if (!p || !p->trained || (is_tree && p->rank == 1) || factor == 1) continue;
        for (e = 0; e < p->size; ++e)
            m->weights[p->offset + e] = factor > 0 ? m->weights[p->offset + e] * factor : 0; /* no -0 */
    }
}

KD__PRIVATE kd_result kd__model_initialise(kd_model *m, uint64_t seed)
{
    int i, j, dead, last = -1;
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        const kd__layer_type *t = &kd__layer_types[n->type];
        const int is_norm = t->build == kd__norm_build, is_tree = t->build == kd__tree_build;
        for (j = 0; j < 4; ++j) {
            const kd__param *p = n->param[j] >= 0 ? &m->params[n->param[j]] : NULL;
            const int random_bias = p && m->init.kind == KD_INIT_PYTORCH && j == 1 && !is_norm && !is_tree;
            size_t e;
            if (p && p->rank == 1 && !random_bias) {
                const int scales = (is_norm && (j == 0 || j == 3)) || is_tree;
                for (e = 0; e < (size_t)kd__param_count(p); ++e) kd__param_stored(m, p)[e] = scales ? 1.0f : 0.0f;
            } else if (p) {
                const kd__param *weight = random_bias ? &m->params[n->param[0]] : p;
                const kd_result result = kd__init_tensor(m, n->param[j], kd__init_law(m, i, weight), seed);
                if (result != KD_OK) return result;
            }
        }
        if (n->depth == 0 && kd__has_weights(m, n) && !is_norm) last = i;
    }
    if (last >= 0) kd__init_scale(m, last, m->init.last);
    for (i = 0; i < m->node_count; ++i) {
        const int end = m->nodes[i].in2 >= 0 ? kd__branch_end(m, &m->nodes[i], &dead) : -1;
        if (end >= 0) kd__init_scale(m, end, m->init.residual);
    }
    return KD_OK;
}

KD__PRIVATE char *kd__tidy_line(kd_ctx *kd, const char *line)
{
    char *tidy = kd__copy_text(kd, line, strlen(line));
    if (tidy) kd__tidy(tidy);
    return tidy;
}

/* A model without weights: a line of a few letters must not claim gigabytes before a file has shown that it has
   them. */
KD__PRIVATE kd_result kd__model_plan(kd_ctx *kd, const char *spec, kd_model **out)
{
    kd_model *m = KD__NEW(kd, kd_model, 1);
    kd__draft d;
    kd_result result;
    *out = NULL;
    if (!m) return KD_ERR_MEMORY;
    memset(&d, 0, sizeof d);
    d.kd = kd;
    d.m = m;
    d.line = d.at = spec;
    m->kd = kd;
    m->init = kd_init_defaults(KD_INIT_AUTO);
    m->spec = kd__tidy_line(kd, spec);
    result = m->spec ? kd__parse_model(&d) : KD_ERR_MEMORY;
    if (result != KD_OK) {
        kd_model_destroy(m);
        return result;
    }
    kd__model_fuse(m);
    kd__model_propagate(m);
    *out = m;
    return KD_OK;
}

KD__PRIVATE kd_result kd__model_allocate(kd_model *m)
{
    m->weights = KD__NEW(m->kd, float, kd__plus(m->weight_count, KD__SLACK));
    m->state = KD__NEW(m->kd, float, kd__plus(m->state_count, KD__SLACK));
    return m->weights && m->state ? KD_OK : KD_ERR_MEMORY;
}

/* First weights other than the line's own. */
KD__PRIVATE kd_result kd__model_take_init(kd_model *m, const kd_init *init)
{
    const char *where = "kd_model_create_with", *fault;
    if (init->cookie != KD__COOKIE)
        return kd__fail(m->kd, KD_ERR_DEFAULTS, "%s: init must start from kd_init_defaults()", where);
    fault = kd__init_fault(m, init);
    if (fault) return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: %s", where, fault);
    m->init = *init;
    return KD_OK;
}

KDDEF kd_result kd_model_create(kd_ctx *kd, const char *spec, uint64_t seed, kd_model **out)
{
    return kd_model_create_with(kd, spec, seed, NULL, out);
}

KDDEF kd_result kd_model_create_with(kd_ctx *kd, const char *spec, uint64_t seed, const kd_init *init,
                                     kd_model **out)
{
    kd_model *m;
    kd_result result;
    if (out) *out = NULL;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!spec || !out) return kd__fail(kd, KD_ERR_ARGUMENT, "kd_model_create: spec and out must not be NULL");
    result = kd__model_plan(kd, spec, &m);
    if (result == KD_OK && init) result = kd__model_take_init(m, init);
    if (result == KD_OK) result = kd__model_allocate(m);
    if (result == KD_OK) result = kd__model_initialise(m, seed);
    if (result != KD_OK) {
        kd_model_destroy(m);
        return result;
    }
    *out = m;
    return KD_OK;
}

KD__PRIVATE void kd__free_classes(kd_model *m)
{
    int i;
    for (i = 0; m->classes && i < kd_model_outputs(m); ++i) kd__free(m->kd, m->classes[i]);
    kd__free(m->kd, m->classes);
    m->classes = NULL;
}

KDDEF void kd_model_destroy(kd_model *m)
{
    kd_ctx *kd;
    int i;
    if (!m) return;
    kd = m->kd;
    kd_workspace_destroy((kd_workspace *)m->spare);
    kd__free_classes(m);
    for (i = 0; i < m->node_count; ++i) {
        kd__free(kd, m->nodes[i].name);
        kd__free(kd, m->nodes[i].text);
    }
    for (i = 0; i < m->param_count; ++i) kd__free(kd, m->params[i].name);
    kd__free(kd, m->nodes);
    kd__free(kd, m->values);
    kd__free(kd, m->params);
    kd__free(kd, m->weights);
    kd__free(kd, m->state);
    kd__free(kd, m->spec);
    kd__free(kd, m);
}

/* Weights and running statistics between models of one line, whose kernels may want another order of them. */
KD__PRIVATE void kd__model_copy_tensors(kd_model *to, const kd_model *from)
{
    float some[256];
    int i;
    for (i = 0; i < to->param_count; ++i) {
        const kd__param *p = &to->params[i], *q = &from->params[i];
        kd__walk write = kd__walk_begin(to->kd->k, p), read = kd__walk_begin(from->kd->k, q);
        int64_t left = kd__param_count(p), now;
        for (; left > 0; left -= now) {
            now = KD__MIN(left, KD__COUNT(some));
            kd__walk_copy(&read, kd__param_stored(from, q), some, now, 1);
            kd__walk_copy(&write, kd__param_stored(to, p), some, now, 0);
        }
    }
}

KD__PRIVATE kd_result kd__model_copy(kd_ctx *kd, const kd_model *m, kd_model **out)
{
    kd_model *copy;
    kd_result result = kd_model_create(kd, m->spec, 0, out);
    if (result != KD_OK) return result;
    copy = *out;
    kd__model_copy_tensors(copy, m);
    copy->batches_seen = m->batches_seen;
    copy->preprocessing_channels = m->preprocessing_channels;
    memcpy(copy->mean, m->mean, sizeof m->mean);
    memcpy(copy->std, m->std, sizeof m->std);
    if (m->classes) result = kd_model_set_classes(copy, (const char *const *)m->classes, kd_model_outputs(m));
    if (result != KD_OK) {
        kd_model_destroy(copy);
        *out = NULL;
    }
    return result;
}

KDDEF kd_result kd_model_clone_to(const kd_model *m, kd_ctx *kd, kd_model **out)
{
    if (out) *out = NULL;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!m || !out) return kd__fail(kd, KD_ERR_ARGUMENT, "kd_model_clone_to: m and out must not be NULL");
    return kd__model_copy(kd, m, out);
}

KDDEF kd_result kd_model_clone(const kd_model *m, kd_model **out)
{
    if (out) *out = NULL;
    return m ? kd__model_copy(m->kd, m, out) : KD_ERR_ARGUMENT;
}

KDDEF const char *kd_model_spec(const kd_model *m) { return m->spec; }

KDDEF void kd_model_input(const kd_model *m, int *channels, int *height, int *width)
{
    const kd__shape *s = &m->values[m->input].shape;
    if (channels) *channels = s->c;
    if (height) *height = s->h;
    if (width) *width = s->w;
}

KDDEF int kd_model_outputs(const kd_model *m) { return (int)kd__shape_count(&m->values[m->output].shape); }

KDDEF int kd_model_prompt(const kd_model *m) { return m->prompt; }

KDDEF int64_t kd_model_parameters(const kd_model *m)
{
    int64_t count = 0;
    int i;
    for (i = 0; i < m->param_count; ++i) count += m->params[i].trained ? kd__param_count(&m->params[i]) : 0;
    return count;
}

KDDEF int64_t kd_model_macs(const kd_model *m)
{
    int64_t macs = 0;
    int i;
    for (i = 0; i < m->node_count; ++i) macs += m->nodes[i].macs;
    return macs;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

KDDEF int kd_model_tensors(const kd_model *m) { return m->param_count; }

KDDEF kd_result kd_model_tensor_info(const kd_model *m, int index, kd_tensor_info *out)
{
    const kd__param *p;
    if (!m) return KD_ERR_ARGUMENT;
    if (!out || index < 0 || index >= m->param_count)
        return kd__fail(m->kd, KD_ERR_ARGUMENT,
                        "kd_model_tensor_info: out must not be NULL, and index 0 to %d, got %d", m->param_count - 1,
                        index);
    p = &m->params[index];
    out->name = p->name;
    out->rank = p->rank;
    memcpy(out->shape, p->shape, sizeof out->shape);
    out->count = kd__param_count(p);
    out->trained = p->trained;
    return KD_OK;
}

KD__PRIVATE int kd__param_find(const kd_model *m, const char *name)
{
    int i;
    for (i = 0; i < m->param_count; ++i) {
        if (strcmp(m->params[i].name, name) == 0) return i;
    }
    return -1;
}

KD__PRIVATE kd_result kd__tensor_access(const kd_model *m, const char *where, const char *name, const float *values,
                                        int64_t count, int *index)
{
    if (!m) return KD_ERR_ARGUMENT;
    if (!name || !values) return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: name and values must not be NULL", where);
    *index = kd__param_find(m, name);
    if (*index < 0) return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: the model has no tensor \"%s\"", where, name);
    if (count != kd__param_count(&m->params[*index]))
        return kd__fail(m->kd, KD_ERR_SHAPE, "%s: tensor \"%s\" has %lld numbers, got room for %lld", where, name,
                        (long long)kd__param_count(&m->params[*index]), (long long)count);
    return KD_OK;
}

KDDEF kd_result kd_model_get_tensor(const kd_model *m, const char *name, float *values, int64_t count)
{
    int i;
    const kd_result result = kd__tensor_access(m, "kd_model_get_tensor", name, values, count, &i);
    if (result == KD_OK) kd__param_copy(m->kd->k, &m->params[i], kd__param_stored(m, &m->params[i]), values, 1);
    return result;
}

KDDEF kd_result kd_model_set_tensor(kd_model *m, const char *name, const float *values, int64_t count)
{
    int i;
    kd_result result = kd__tensor_access(m, "kd_model_set_tensor", name, values, count, &i);
    if (result == KD_OK) result = kd__check_finite(m->kd, "kd_model_set_tensor", name, values, 1, count);
    if (result == KD_OK && kd__param_negative(&m->params[i], values, (size_t)count))
        result = kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_model_set_tensor: %s has a negative variance", name);
    if (result == KD_OK)
        kd__param_copy(m->kd->k, &m->params[i], kd__param_stored(m, &m->params[i]), (float *)(uintptr_t)values, 0);
    return result;
}

KD__PRIVATE uint64_t kd__hash_text(uint64_t hash, const char *text)
{
    for (; *text; ++text) hash = kd__mix(hash ^ (unsigned char)*text);
    return kd__mix(hash);
}

/* What the model computes and what its tensors are called, however its line was written. */
KD__PRIVATE uint64_t kd__hash_architecture(const kd_model *m)
{
    const kd__shape *in = &m->values[m->input].shape;
    uint64_t hash = kd__rng_key((uint64_t)in->c, in->flat, (uint64_t)in->h, (uint64_t)in->w);
    int i, j;
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        hash = kd__hash_text(kd__hash_text(hash, kd__layer_types[n->type].word), n->name);
        hash = kd__mix(hash ^ ((uint64_t)n->in << 32 | (uint32_t)n->in2));
        for (j = 0; j < KD__MAX_ARGS; ++j)
            hash = kd__mix(hash ^ ((uint64_t)kd__float_bits((float)n->arg[j].v[0]) << 32 |
                                   kd__float_bits((float)n->arg[j].v[1])));
    }
    return hash;
}

enum { KD__PLAIN = 256 }; /* numbers in PyTorch's order that are looked at in one go */

/* Goes on with a tensor's numbers, in PyTorch's order: the panel width of an instruction set does not show. */
KD__PRIVATE uint64_t kd__hash_tensor(uint64_t hash, const kd__kernels *k, const kd__param *p, float *stored)
{
    kd__walk w = kd__walk_begin(k, p);
    float plain[KD__PLAIN];
    int64_t left;
    int i, now;
    for (left = kd__param_count(p); left > 0; left -= now) {
        now = (int)KD__MIN(left, (int64_t)KD__PLAIN);
        kd__walk_copy(&w, stored, plain, now, 1);
        for (i = 0; i < now; ++i) hash = kd__mix(hash ^ kd__float_bits(plain[i]));
    }
    return hash;
}

KDDEF uint64_t kd_model_hash(const kd_model *m)
{
    uint64_t hash = kd__hash_architecture(m);
    int i;
    for (i = 0; i < m->param_count; ++i)
        hash = kd__hash_tensor(hash, m->kd->k, &m->params[i], kd__param_stored(m, &m->params[i]));
    return hash;
}

/* ---- what travels with a model --------------------------------------------------------------------------- */

/* Length of the UTF-8 sequence at c (before end), 0 if it is none. */
KD__PRIVATE int kd__utf8_length(const char *c, const char *end)
{
    const unsigned char first = (unsigned char)*c;
    const int length = first < 0x80                    ? 1
                       : first >= 0xc2 && first < 0xe0 ? 2
                       : (first & 0xf0) == 0xe0        ? 3
                       : first >= 0xf0 && first < 0xf5 ? 4
                                                       : 0;
    int i;
    if (length == 0 || end - c < length) return 0;
    for (i = 1; i < length; ++i) {
        if (((unsigned char)c[i] & 0xc0) != 0x80) return 0;
    }
    if (length == 3 &&
        ((first == 0xe0 && (unsigned char)c[1] < 0xa0) || (first == 0xed && (unsigned char)c[1] > 0x9f)))
        return 0;
    if (length == 4 &&
        ((first == 0xf0 && (unsigned char)c[1] < 0x90) || (first == 0xf4 && (unsigned char)c[1] > 0x8f)))
        return 0;
    return length;
}

/* A file can hold nothing but UTF-8, and a model is to be the same before and after. */
KD__PRIVATE char *kd__copy_name(kd_ctx *kd, const char *name)
{
    const size_t size = strlen(name);
    char *copy = kd__copy_text(kd, name, size), *c = copy, *end = copy + (copy ? size : 0);
    while (c < end) {
        const int length = kd__utf8_length(c, end);
        if (!length) *c = '?';
        c += KD__MAX(length, 1);
    }
    return copy;
}

KDDEF kd_result kd_model_set_classes(kd_model *m, const char *const *names, int count)
{
    char **copies;
    int i;
    if (!m) return KD_ERR_ARGUMENT;
    if (!names || count != kd_model_outputs(m))
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_model_set_classes: the model has %d outputs, got %d names",
                        kd_model_outputs(m), count);
    for (i = 0; i < count; ++i) {
        if (!names[i]) return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_model_set_classes: name %d is NULL", i);
    }
    copies = KD__NEW(m->kd, char *, count);
    for (i = 0; copies && i < count; ++i) {
        copies[i] = kd__copy_name(m->kd, names[i]);
        if (!copies[i]) {
            while (i > 0) kd__free(m->kd, copies[--i]);
            kd__free(m->kd, copies);
            copies = NULL;
        }
    }
    if (!copies) return KD_ERR_MEMORY;
    kd__free_classes(m);
    m->classes = copies;
    return KD_OK;
}

KDDEF const char *kd_model_class(const kd_model *m, int index)
{
    return m->classes && index >= 0 && index < kd_model_outputs(m) ? m->classes[index] : NULL;
}

KD__PRIVATE kd_result kd__check_preprocessing(kd_ctx *kd, const char *where, int channels, const float *mean,
                                              const float *std)
{
    int c;
    for (c = 0; c < KD__MIN(channels, KD_MAX_CHANNELS); ++c) {
        if (!kd__is_finite((double)mean[c]) || !(std[c] > 0) || !kd__is_finite((double)std[c]))
            return kd__fail(kd, KD_ERR_ARGUMENT,
                            "%s: channel %d needs a finite mean and a std above 0, got %s and %s", where, c,
                            kd__number((double)mean[c], 6).chars, kd__number((double)std[c], 6).chars);
    }
    return KD_OK;
}

KD__PRIVATE void kd__record_preprocessing(kd_model *m, int channels, const float *mean, const float *std)
{
    if (channels > KD_MAX_CHANNELS) return;
    memcpy(m->mean, mean, (size_t)channels * sizeof *mean);
    memcpy(m->std, std, (size_t)channels * sizeof *std);
    m->preprocessing_channels = channels;
}

KDDEF kd_result kd_model_set_preprocessing(kd_model *m, const float *mean, const float *std)
{
    int channels;
    kd_result result;
    if (!m) return KD_ERR_ARGUMENT;
    if (!mean != !std)
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_model_set_preprocessing: %s without %s", mean ? "mean" : "std",
                        mean ? "std" : "mean");
    if (!mean) {
        m->preprocessing_channels = 0;
        return KD_OK;
    }
    channels = m->values[m->input].shape.flat ? 1 : m->values[m->input].shape.c;
    if (channels > KD_MAX_CHANNELS)
        return kd__fail(m->kd, KD_ERR_ARGUMENT,
                        "kd_model_set_preprocessing: %d channels, but at most %d can be normalised", channels,
                        KD_MAX_CHANNELS);
    result = kd__check_preprocessing(m->kd, "kd_model_set_preprocessing", channels, mean, std);
    if (result == KD_OK) kd__record_preprocessing(m, channels, mean, std);
    return result;
}

KDDEF int kd_model_preprocessing(const kd_model *m, float *mean, float *std)
{
    const size_t bytes = (size_t)m->preprocessing_channels * sizeof(float);
    if (mean) memcpy(mean, m->mean, bytes);
    if (std) memcpy(std, m->std, bytes);
    return m->preprocessing_channels;
}

/* ---- description ----------------------------------------------------------------------------------------- */

/* 1234567 as 1,234,567 */
KD__PRIVATE kd__text kd__grouped(int64_t value)
{
    char digits[32];
    kd__text text;
    size_t length, i, at = 0;
    kd__print(digits, sizeof digits, "%lld", (long long)value);
    length = strlen(digits);
    for (i = 0; i < length; ++i) {
        if (i && (length - i) % 3 == 0) text.chars[at++] = ',';
        text.chars[at++] = digits[i];
    }
    text.chars[at] = 0;
    return text;
}

KDDEF size_t kd_model_describe(const kd_model *m, char *text, size_t size)
{
    kd__writer w;
    int i, j;
    w.text = text;
    w.size = size;
    w.length = 0;
    if (text && size) text[0] = 0;
    kd__write(&w, "%-14s %-36s %12s %12s %14s\n", "name", "layer", "output", "parameters", "multiply-adds");
    kd__write(&w, "%-14s %-36s %12s\n", "", "input", kd__shape_text(&m->values[m->input].shape).chars);
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        int64_t params = 0;
        char layer[64];
        for (j = 0; j < 4; ++j) {
            if (n->param[j] >= 0 && m->params[n->param[j]].trained)
                params += kd__param_count(&m->params[n->param[j]]);
        }
        kd__print(layer, sizeof layer, "%*s%.48s", KD__MIN(2 * n->depth, 8), "", n->text);
        kd__write(&w, "%-14s %-36s %12s %12s %14s\n", n->name, layer,
                  kd__shape_text(&m->values[n->out].shape).chars, params ? kd__grouped(params).chars : "",
                  n->macs ? kd__grouped(n->macs).chars : "");
    }
    kd__write(&w, "%-14s %-36s %12s %12s %14s\n", "", "total", "", kd__grouped(kd_model_parameters(m)).chars,
              kd__grouped(kd_model_macs(m)).chars);
    return w.length;
}

/* ============================================================================================================
   >>run    plans: which step writes which buffer, and when
   uses: model
   ============================================================================================================ */

enum { KD__MAX_CHUNKS = 16 };

enum { KD__SAMPLE_CLASH = 1024, KD__SAMPLE_GAP = 16 };

/* Padding only matters in images; a flat value is one line of one pixel. Samples a multiple of 4096 bytes apart
   would all meet in the same few places of a cache: unless others count on their being `close`, a gap keeps them
   apart. */
KD__PRIVATE void kd__slot_layout(kd__slot *slot, const kd__shape *s, int pad, int close)
{
    const size_t line = (size_t)(s->w + pad) * (size_t)s->c;
    slot->pad = pad;
    slot->tight = pad == 0;
    slot->row = (ptrdiff_t)line;
    slot->first = (size_t)pad * (size_t)s->c;
    slot->sample = line * (size_t)s->h;
    if (pad) slot->sample = (slot->sample + slot->first + 15) / 16 * 16;
    if (!close && slot->sample % KD__SAMPLE_CLASH == 0) slot->sample += KD__SAMPLE_GAP;
}

KD__PRIVATE void kd__slot_clear_padding(const kd__slot *slot, const kd__shape *s, kd__span span)
{
    const size_t edge = slot->first * sizeof(float);
    int i, y;
    for (i = span.first; i < span.first + span.count; ++i) {
        float *at = kd__slot_at(slot, span, i);
        memset(at - slot->first, 0, edge);
        for (y = 0; y < s->h; ++y) memset(at + y * slot->row + (ptrdiff_t)s->w * s->c, 0, edge);
    }
}

/* The input as the first layer reads it: (c, h, w) turned into (h, w, c), with padding. */
KD__PRIVATE void kd__import(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__shape *shape = &r->model->values[r->model->input].shape;
    const kd__slot *to = &r->act[r->model->input];
    const ptrdiff_t pixels = (ptrdiff_t)shape->h * shape->w;
    int i, y;
    (void)n;
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *x = r->x + i * pixels * shape->c;
        float *at = kd__slot_at(to, s, i);
        if (shape->c == 1) {
            r->k->copy(x, shape->w, shape->h, shape->w, at, to->row);
            continue;
        }
        for (y = 0; y < shape->h; ++y, x += shape->w, at += to->row)
            r->k->transpose(x, pixels, shape->c, shape->w, at, shape->c);
    }
}

/* ---- taps ------------------------------------------------------------------------------------------------ */

KD__PRIVATE int kd__is_tapped(const kd__run *r, int value)
{
    int i;
    for (i = 0; i < r->tap_count; ++i) {
        if (r->taps[i].value == value) return 1;
    }
    return 0;
}

typedef struct kd__cell {
    int first, end;
} kd__cell;

KD__PRIVATE kd__cell kd__cell_of(int i, int cells, int pixels)
{
    kd__cell cell;
    cell.first = (int)((int64_t)i * pixels / cells);
    cell.end = (int)(((int64_t)(i + 1) * pixels + cells - 1) / cells);
    return cell;
}

/* What is read of a value: a vector that was an image is read as that image, c by c, whatever its tap calls it. */
KD__PRIVATE int kd__tap_height(const kd__tap *t, const kd__shape *shape) { return shape->flat ? shape->h : t->h; }
KD__PRIVATE int kd__tap_width(const kd__tap *t, const kd__shape *shape) { return shape->flat ? shape->w : t->w; }

typedef struct kd__tap_task {
    const kd__run *r;
    const kd__tap *tap;
} kd__tap_task;

KD__PRIVATE void kd__tap_read_sample(void *arg, int sample, int worker)
{
    const kd__tap_task *task = (const kd__tap_task *)arg;
    const kd__tap *t = task->tap;
    const kd__shape *shape = &task->r->model->values[t->value].shape;
    const kd__slot *slot = &task->r->act[t->value];
    const kd__span all = {0, 0, 0, 0};
    const float *from = kd__slot_at(slot, all, sample);
    const int h = kd__tap_height(t, shape), w = kd__tap_width(t, shape);
    double *to = t->map + (ptrdiff_t)sample * t->c * t->h * t->w;
    int c, i, j, y, x;
    (void)worker;
    for (c = 0; c < shape->c; ++c) {
        for (i = 0; i < h; ++i) {
            const kd__cell rows = kd__cell_of(i, h, shape->h);
            for (j = 0; j < w; ++j) {
                const kd__cell cols = kd__cell_of(j, w, shape->w);
                double sum = 0;
                for (y = rows.first; y < rows.end; ++y) {
                    for (x = cols.first; x < cols.end; ++x)
                        sum += (double)from[y * slot->row + (ptrdiff_t)x * shape->c + c];
                }
                *to++ = sum / ((rows.end - rows.first) * (cols.end - cols.first));
            }
        }
    }
}

/* After a forward pass. */
KD__PRIVATE void kd__tap_read(const kd__run *r, const kd__tap *tap)
{
    kd__tap_task task;
    task.r = r;
    task.tap = tap;
    kd__parallel(r->kd, r->count, kd__tap_read_sample, &task);
}

/* Before a node's own backward pass: what the losses on its output add to the gradient. */
KD__PRIVATE void kd__tap_add(const kd__run *r, const kd__node *n, kd__span s)
{
    const kd__shape *shape = &r->model->values[n->out].shape;
    const kd__slot *slot = &r->grad[n->out];
    int k, sample, c, i, j, y, x;
    for (k = 0; k < r->tap_count; ++k) {
        const kd__tap *t = &r->taps[k];
        const double *from = t->grad + (ptrdiff_t)s.first * t->c * t->h * t->w;
        const int h = kd__tap_height(t, shape), w = kd__tap_width(t, shape);
        if (t->value != n->out) continue;
        for (sample = s.first; sample < s.first + s.count; ++sample) {
            float *to = kd__slot_at(slot, s, sample);
            for (c = 0; c < shape->c; ++c) {
                for (i = 0; i < h; ++i) {
                    const kd__cell rows = kd__cell_of(i, h, shape->h);
                    for (j = 0; j < w; ++j) {
                        const kd__cell cols = kd__cell_of(j, w, shape->w);
                        const float g = (float)(*from++ / ((rows.end - rows.first) * (cols.end - cols.first)));
                        for (y = rows.first; y < rows.end; ++y) {
                            for (x = cols.first; x < cols.end; ++x)
                                to[y * slot->row + (ptrdiff_t)x * shape->c + c] += g;
                        }
                    }
                }
            }
        }
    }
}

/* ---- planning -------------------------------------------------------------------------------------------- */

typedef struct kd__planner {
    kd__run *r;
    int *act_root, *grad_root;
    int *unread;                                 /* by value: what comes forward is not read on the way back */
    int *from, *until, *group, *spread, *tapped; /* by value, for the pass being planned */
} kd__planner;

/* Which values share one buffer in this run, forward ... */
KD__PRIVATE void kd__plan_act_roots(kd__planner *p)
{
    const kd_model *m = p->r->model;
    int i;
    for (i = 0; i < m->value_count; ++i) p->act_root[i] = i;
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        const kd__layer_type *t = &kd__layer_types[n->type];
        const int passes = t->build == kd__flatten_build || (t->build == kd__dropout_build && !p->r->training);
        if (n->fused || (passes && m->values[n->in].pad == m->values[n->out].pad))
            p->act_root[n->out] = p->act_root[n->in];
    }
}

/* ... and backward, where a node hands its gradient on as it is. */
KD__PRIVATE void kd__plan_grad_roots(kd__planner *p)
{
    const kd_model *m = p->r->model;
    int i;
    for (i = 0; i < m->value_count; ++i) p->grad_root[i] = i;
    for (i = m->node_count - 1; i >= 0; --i) {
        const kd__node *n = &m->nodes[i];
        const kd__layer_type *t = &kd__layer_types[n->type];
        const int passes = n->fused || t->build == kd__flatten_build || t->build == kd__add_build;
        if (passes && m->values[n->in].consumers == 1 && kd__needs_grad(p->r, n->in) &&
            m->values[n->in].grad_pad == m->values[p->grad_root[n->out]].grad_pad)
            p->grad_root[n->in] = p->grad_root[n->out];
    }
}

KD__PRIVATE void kd__plan_step(kd__step *steps, int *count, const kd__phase *phase, const kd__node *node)
{
    kd__step *step = &steps[(*count)++];
    memset(step, 0, sizeof *step);
    step->fn = phase->fn;
    step->node = node;
    step->whole = phase->kind != KD__SPANS;
    step->touches = phase->kind == KD__SPANS || phase->kind == KD__WHOLE;
}

/* Appends the phases of the given kinds of one node. */
KD__PRIVATE void kd__plan_phases(const kd__run *r, kd__step *steps, int *count, const kd__phase *phases,
                                 const kd__node *n, int first_kind, int last_kind)
{
    const int mode = r->training ? KD__TRAINING : KD__EVALUATION;
    int i;
    for (i = 0; i < 4 && phases[i].fn; ++i) {
        if (phases[i].kind >= first_kind && phases[i].kind <= last_kind && (phases[i].mode & mode))
            kd__plan_step(steps, count, &phases[i], n);
    }
}

KD__PRIVATE int kd__plan_steps(kd__run *r)
{
    static const kd__phase import = {kd__import, KD__SPANS, KD__ALWAYS};
    static const kd__phase tap = {kd__tap_add, KD__SPANS, KD__TRAINING};
    const kd_model *m = r->model;
    const kd__node *n = m->nodes;
    int i;
    r->forward = KD__NEW(r->kd, kd__step, 4 * m->node_count + 1);
    r->backward = KD__NEW(r->kd, kd__step, 4 * m->node_count + 1 + r->tap_count);
    r->commit = KD__NEW(r->kd, kd__step, m->node_count + 1);
    if (!r->forward || !r->backward || !r->commit) return 0;
    for (i = 0; i < m->node_count; ++i)
        kd__plan_phases(r, r->forward, &r->forward_steps, kd__layer_types[n[i].type].forward, &n[i], KD__PREPARE,
                        KD__PREPARE);
    if (r->import) kd__plan_step(r->forward, &r->forward_steps, &import, NULL);
    for (i = 0; i < m->node_count; ++i) {
        if (!n[i].fused)
            kd__plan_phases(r, r->forward, &r->forward_steps, kd__layer_types[n[i].type].forward, &n[i], KD__SPANS,
                            KD__JOIN);
    }
    if (!r->has_backward) return 1;
    for (i = 0; i < m->node_count; ++i)
        kd__plan_phases(r, r->backward, &r->backward_steps, kd__layer_types[n[i].type].backward, &n[i], KD__PREPARE,
                        KD__PREPARE);
    for (i = m->node_count - 1; i >= 0; --i) {
        if (kd__is_tapped(r, n[i].out)) kd__plan_step(r->backward, &r->backward_steps, &tap, &n[i]);
        if (kd__needs_grad(r, n[i].out))
            kd__plan_phases(r, r->backward, &r->backward_steps, kd__layer_types[n[i].type].backward, &n[i],
                            KD__SPANS, KD__JOIN);
        kd__plan_phases(r, r->commit, &r->commit_steps, kd__layer_types[n[i].type].backward, &n[i], KD__COMMIT,
                        KD__COMMIT);
    }
    return 1;
}

/* The first consumer met in the backward pass writes a gradient, later ones add to it. */
KD__PRIVATE void kd__plan_accumulation(kd__planner *p)
{
    const kd_model *m = p->r->model;
    int i;
    for (i = 0; i < m->value_count; ++i) p->from[i] = 0;
    for (i = m->node_count - 1; i >= 0; --i) {
        const kd__node *n = &m->nodes[i];
        if (n->in2 >= 0) p->r->plan[i].accumulate2 = p->from[n->in2]++ > 0;
        p->r->plan[i].accumulate = p->from[n->in]++ > 0;
    }
}

/* Where only max pooling reads what a ReLU made, its backward pass applies the ReLU's derivative as well, to its
   own gradient, which is smaller and in its hands anyway. */
KD__PRIVATE void kd__plan_relus(kd__run *r)
{
    const kd_model *m = r->model;
    int i;
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *pool = &m->nodes[i];
        const kd__value *v = &m->values[pool->in];
        const kd__node *relu = v->producer >= 0 ? &m->nodes[v->producer] : NULL;
        if (!relu || kd__layer_types[pool->type].backward[0].fn != kd__maxpool_backward ||
            kd__layer_types[relu->type].build != kd__act_build || relu->act != KD__RELU)
            continue;
        if (v->consumers == 1 && kd__needs_grad(r, relu->in) && !kd__is_tapped(r, pool->in))
            r->plan[i].pooled_relu = r->plan[v->producer].pooled_relu = 1;
    }
}

/* What only max pooling reads, which keeps places instead, need not stay: it comes from a layer whose backward pass
   does not read its own output (those that take an activation, the ReLU being pooling's by then). */
KD__PRIVATE void kd__plan_unread(kd__planner *p)
{
    const kd__run *r = p->r;
    const kd_model *m = r->model;
    int i;
    for (i = 0; i < m->value_count; ++i) p->unread[i] = 0;
    for (i = 0; i < m->node_count; ++i) {
        const kd__value *v = &m->values[m->nodes[i].in];
        if (kd__layer_types[m->nodes[i].type].own != kd__maxpool_own || v->consumers > 1 || v->producer < 0)
            continue;
        if (m->nodes[v->producer].fused && r->plan[v->producer].pooled_relu) {
            v = &m->values[m->nodes[v->producer].in];
            if (v->consumers > 1 || v->producer < 0) continue;
        }
        if (kd__layer_types[m->nodes[v->producer].type].takes_act && kd__maxpool_keeps_places(r, &m->nodes[i]))
            p->unread[p->act_root[m->nodes[i].in]] = 1;
    }
}

/* Between which steps each buffer of a pass is used, and whether all of them are one run of span steps, in which
   case every worker needs it for its own span only. */
KD__PRIVATE void kd__plan_lifetimes(kd__planner *p, const kd__step *steps, int count, const int *root, int backward)
{
    const kd_model *m = p->r->model;
    int i, j, group = 0;
    for (i = 0; i < m->value_count; ++i) p->from[i] = p->until[i] = p->group[i] = -1, p->spread[i] = 0;
    for (i = 0; i < count; ++i) {
        const kd__node *n = steps[i].node;
        int values[3] = {-1, -1, -1};
        if (i && (steps[i].whole || steps[i - 1].whole)) ++group;
        if (!steps[i].touches) continue;
        if (!n) {
            values[0] = m->input;
        } else {
            values[0] = n->in, values[1] = n->in2, values[2] = n->out;
        }
        for (j = 0; j < 3; ++j) {
            const int v = values[j] >= 0 ? root[values[j]] : -1;
            if (v < 0 || (backward && !kd__needs_grad(p->r, v))) continue;
            if (p->from[v] < 0) p->from[v] = i, p->group[v] = group;
            p->until[v] = i;
            p->spread[v] |= steps[i].whole || p->group[v] != group;
        }
    }
}

/* Local buffers of one worker: each goes to the lowest place that is free during its lifetime. Different passes,
   and different groups of steps, may use the same memory. */
KD__PRIVATE size_t kd__plan_place(const kd__planner *p, const size_t *offset, const size_t *floats,
                                  const int *placed, int placed_count, int v)
{
    size_t at = KD__FENCE ? p->r->local_floats : 0;
    int i, moved = !KD__FENCE;
    while (moved) {
        moved = 0;
        for (i = 0; i < placed_count; ++i) {
            const int o = placed[i];
            const int together = p->from[o] <= p->until[v] && p->from[v] <= p->until[o];
            if (together && at < offset[o] + floats[o] && offset[o] < at + floats[v]) {
                at = offset[o] + floats[o];
                moved = 1;
            }
        }
    }
    return at;
}

/* How many samples pass through a run of span steps together: as many as leave the second-level cache room. */
KD__PRIVATE int kd__plan_block(const kd__planner *p)
{
    const kd__run *r = p->r;
    const kd_model *m = r->model;
    size_t bytes = 1;
    int i;
    for (i = 0; i < m->value_count; ++i) {
        if (!m->values[i].shape.flat && p->act_root[i] == i)
            bytes += (size_t)kd__shape_count(&m->values[i].shape) * sizeof(float) * (r->has_backward ? 2 : 1);
    }
    return (int)KD__MAX((size_t)1, KD__MIN((size_t)kd__block_room(r->kd) / bytes, (size_t)r->chunk));
}

KD__PRIVATE float *kd__run_alloc(kd__run *r, size_t floats)
{
    const size_t with_slack = kd__plus(floats, KD__SLACK);
    float *buffer = KD__NEW(r->kd, float, with_slack);
    if (buffer) r->owned[r->owned_count++] = buffer;
    return buffer;
}

/* Which buffers will be read when the pass is over: by losses on features, or for the gradient that is sought. */
KD__PRIVATE void kd__plan_taps(kd__planner *p, const int *root, int backward)
{
    const kd_model *m = p->r->model;
    int i;
    for (i = 0; i < m->value_count; ++i) p->tapped[i] = 0;
    if (backward && p->r->sought >= 0) p->tapped[root[p->r->sought]] = 1;
    for (i = 0; i < p->r->tap_count && !backward; ++i) p->tapped[root[p->r->taps[i].value]] = 1;
}

KD__PRIVATE size_t kd__plan_local_floats(const kd__run *r, const kd__slot *slot)
{
    return (kd__times(slot->sample, (size_t)r->block) + KD__SLACK + 15) / 16 * 16;
}

/* Lays out and allocates the buffers of one pass. `keep`: every value that it reads stays for the backward pass. */
KD__PRIVATE kd_result kd__plan_buffers(kd__planner *p, kd__slot *slot, const int *root, int backward, int keep)
{
    kd__run *r = p->r;
    const kd_model *m = r->model;
    kd__step *steps = backward ? r->backward : r->forward;
    size_t *offset = KD__NEW(r->kd, size_t, m->value_count), *floats = KD__NEW(r->kd, size_t, m->value_count);
    int *placed = KD__NEW(r->kd, int, m->value_count), placed_count = 0, v, i,
        failed = !offset || !floats || !placed;
    kd__plan_taps(p, root, backward);
    for (v = 0; v < m->value_count && !failed; ++v) {
        const kd__value *value = &m->values[v];
        kd__slot_layout(&slot[v], &value->shape, backward ? value->grad_pad : value->pad,
                        root[v] == m->input || root[v] == root[m->output] || p->tapped[root[v]]);
        if (root[v] != v || (backward && !kd__needs_grad(r, v))) continue;
        if (!backward && v == m->input && !r->import) continue; /* read where the caller has it */
        if ((keep && !p->unread[v]) || p->spread[v] || v == root[m->output] || p->from[v] < 0 || p->tapped[v]) {
            slot[v].base = kd__run_alloc(r, kd__times(slot[v].sample, (size_t)r->capacity));
            failed |= !slot[v].base;
        } else {
            floats[v] = kd__plan_local_floats(r, &slot[v]) + KD__FENCE;
            offset[v] = kd__plan_place(p, offset, floats, placed, placed_count, v);
            placed[placed_count++] = v;
            r->local_floats = KD__MAX(r->local_floats, kd__plus(offset[v], floats[v]));
            slot[v].worker = 1 + offset[v]; /* made final by kd__plan_locals */
            if (slot[v].pad) {
                kd__step *first = &steps[p->from[v]];
                i = first->clear[0] != NULL;
                first->clear[i] = &slot[v];
                first->clear_shape[i] = &value->shape;
            }
        }
    }
    kd__free(r->kd, offset);
    kd__free(r->kd, floats);
    kd__free(r->kd, placed);
    return failed ? KD_ERR_MEMORY : KD_OK;
}

/* Once the size of a worker's memory is known: one allocation for all workers, and pointers for everyone. */
KD__PRIVATE kd_result kd__plan_locals(kd__run *r, kd__slot *slot, const int *root)
{
    int i, v;
    if (!r->locals && r->local_floats) {
        r->locals = kd__run_alloc(r, kd__times(r->local_floats, (size_t)r->kd->desc.threads));
        if (!r->locals) return KD_ERR_MEMORY;
    }
    for (v = 0; v < r->model->value_count; ++v) {
        if (slot[v].worker) {
            slot[v].base = r->locals + (slot[v].worker - 1);
            slot[v].worker = r->local_floats;
            for (i = 0; i < r->kd->desc.threads; ++i)
                KD__FENCE_UP(slot[v].base + (size_t)i * r->local_floats + kd__plan_local_floats(r, &slot[v]),
                             KD__FENCE * sizeof(float));
        }
    }
    for (v = 0; v < r->model->value_count; ++v) {
        if (root[v] != v) {
            slot[v].base = slot[root[v]].base;
            slot[v].worker = slot[root[v]].worker;
        }
    }
    return KD_OK;
}

KD__PRIVATE kd_result kd__plan(kd__planner *p)
{
    kd__run *r = p->r;
    const kd_model *m = r->model;
    const kd__shape *in = &m->values[m->input].shape;
    kd_result result;
    int i;
    r->import = m->values[m->input].pad > 0 || (in->c > 1 && in->h * in->w > 1);
    r->chunk = r->training ? (r->capacity + KD__MAX_CHUNKS - 1) / KD__MAX_CHUNKS : r->capacity;
    kd__plan_act_roots(p);
    kd__plan_grad_roots(p);
    r->block = kd__plan_block(p);
    if (!r->training)
        r->chunk = KD__MIN(r->block, (r->capacity + 4 * r->kd->desc.threads - 1) / (4 * r->kd->desc.threads));
    r->block = KD__MIN(r->block, r->chunk);
    r->chunks = (r->capacity + r->chunk - 1) / r->chunk;
    if (!kd__plan_steps(r)) return KD_ERR_MEMORY;
    for (i = 0; i < m->value_count; ++i) {
        if (p->act_root[i] == m->input) r->input_aliases[r->input_alias_count++] = i;
    }
    if (r->has_backward) kd__plan_relus(r);
    kd__plan_unread(p);
    kd__plan_lifetimes(p, r->forward, r->forward_steps, p->act_root, 0);
    result = kd__plan_buffers(p, r->act, p->act_root, 0, r->has_backward);
    if (result == KD_OK && r->has_backward) {
        kd__plan_accumulation(p);
        kd__plan_lifetimes(p, r->backward, r->backward_steps, p->grad_root, 1);
        result = kd__plan_buffers(p, r->grad, p->grad_root, 1, 0);
    }
    if (result == KD_OK) result = kd__plan_locals(r, r->act, p->act_root);
    if (result == KD_OK && r->has_backward) result = kd__plan_locals(r, r->grad, p->grad_root);
    if (result == KD_OK && r->training) {
        r->weight_grads = kd__run_alloc(r, m->weight_count);
        r->partials = kd__run_alloc(r, kd__times(m->summed_count, (size_t)r->chunks));
        if (!r->weight_grads || !r->partials) result = KD_ERR_MEMORY;
    }
    for (i = 0; i < m->node_count && result == KD_OK; ++i) {
        const kd__layer_type *t = &kd__layer_types[m->nodes[i].type];
        r->plan[i].own_floats = t->own ? t->own(r, &m->nodes[i]) : 0;
        if (r->plan[i].own_floats) r->plan[i].own = kd__run_alloc(r, r->plan[i].own_floats);
        if (r->plan[i].own_floats && !r->plan[i].own) result = KD_ERR_MEMORY;
        if (t->work) r->work_floats = KD__MAX(r->work_floats, t->work(r, &m->nodes[i]));
    }
    if (result == KD_OK && r->work_floats) {
        r->work = kd__run_alloc(r, kd__times(r->work_floats, (size_t)r->kd->desc.threads));
        if (!r->work) result = KD_ERR_MEMORY;
    }
    return result;
}

enum { KD__RUN_LISTS = 9 };

/* All that a run has allocated but its buffers, itself last. */
KD__PRIVATE void kd__run_lists(kd__run *r, void **lists)
{
    void *all[KD__RUN_LISTS] = {0};
    all[0] = r->owned, all[1] = r->forward, all[2] = r->backward, all[3] = r->commit, all[4] = r->plan;
    all[5] = r->act, all[6] = r->grad, all[7] = r->input_aliases, all[8] = r;
    memcpy(lists, all, sizeof all);
}

KD__PRIVATE void kd__run_close(kd__run *r)
{
    void *lists[KD__RUN_LISTS];
    kd_ctx *kd;
    int i;
    if (!r) return;
    kd = r->kd;
    if (KD__FENCE && r->locals)
        KD__FENCE_DOWN(r->locals, r->local_floats * (size_t)r->kd->desc.threads * sizeof(float));
    for (i = 0; i < r->owned_count; ++i) kd__free(r->kd, r->owned[i]);
    kd__run_lists(r, lists);
    for (i = 0; i < KD__RUN_LISTS; ++i) kd__free(kd, lists[i]);
}

/* What a run is for. */
typedef struct kd__run_desc {
    kd_model *trained;   /* the model itself where the run is for training, else NULL */
    int sought;          /* see kd__run; -1 in training */
    const kd__tap *taps; /* stay the caller's */
    int tap_count;
} kd__run_desc;

KD__PRIVATE kd_result kd__run_open_for(const kd_model *m, const kd__run_desc *desc, int capacity, kd__run **out)
{
    kd_ctx *kd = m->kd;
    const int values = m->value_count;
    kd__run *r = KD__NEW(kd, kd__run, 1);
    int *lists = KD__NEW(kd, int, 8 * values);
    kd_result result = KD_ERR_MEMORY;
    *out = NULL;
    if (r) r->kd = kd; /* kd__run_close needs it, however far this gets */
    if (r && lists) {
        kd__planner p;
        p.r = r;
        p.act_root = lists, p.grad_root = lists + values, p.from = lists + 2 * values;
        p.until = lists + 3 * values, p.group = lists + 4 * values, p.spread = lists + 5 * values;
        p.tapped = lists + 6 * values, p.unread = lists + 7 * values;
        r->taps = desc->taps;
        r->tap_count = desc->tap_count;
        r->k = kd->k;
        r->model = m;
        r->trained = desc->trained;
        r->training = desc->trained != NULL;
        r->sought = desc->sought;
        r->has_backward = r->training || r->sought >= 0;
        r->capacity = capacity;
        r->act = KD__NEW(kd, kd__slot, values);
        r->grad = KD__NEW(kd, kd__slot, values);
        r->plan = KD__NEW(kd, kd__node_plan, m->node_count);
        r->input_aliases = KD__NEW(kd, int, values);
        r->owned = KD__NEW(kd, float *, 2 * values + m->node_count + 8);
        if (r->act && r->grad && r->plan && r->input_aliases && r->owned) result = kd__plan(&p);
    }
    kd__free(kd, lists);
    if (result == KD_OK)
        *out = r;
    else
        kd__run_close(r);
    return result;
}

KD__PRIVATE kd_result kd__run_open_tapped(const kd_model *m, kd_model *trained, int capacity, const kd__tap *taps,
                                          int tap_count, kd__run **out)
{
    kd__run_desc desc = {NULL, -1, NULL, 0};
    desc.trained = trained;
    desc.taps = taps;
    desc.tap_count = tap_count;
    return kd__run_open_for(m, &desc, capacity, out);
}

KD__PRIVATE kd_result kd__run_open(const kd_model *m, kd_model *trained, int capacity, kd__run **out)
{
    return kd__run_open_tapped(m, trained, capacity, NULL, 0, out);
}

/* ---- running --------------------------------------------------------------------------------------------- */

typedef struct kd__span_task {
    const kd__run *r;
    const kd__step *steps;
    int count;
} kd__span_task;

/* One chunk through a run of span steps, a cache-sized block of samples at a time. */
KD__PRIVATE void kd__run_chunk(void *arg, int index, int worker)
{
    const kd__span_task *t = (const kd__span_task *)arg;
    const kd__run *r = t->r;
    const int end = KD__MIN(r->count, (index + 1) * r->chunk);
    kd__span s;
    int i, j;
    s.chunk = index;
    s.worker = worker;
    for (s.first = index * r->chunk; s.first < end; s.first += s.count) {
        s.count = KD__MIN(r->block, end - s.first);
        for (i = 0; i < t->count; ++i) {
            const kd__step *step = &t->steps[i];
            for (j = 0; j < 2 && step->clear[j]; ++j)
                kd__slot_clear_padding(step->clear[j], step->clear_shape[j], s);
            step->fn(r, step->node, s);
        }
    }
}

KD__PRIVATE void kd__run_steps(const kd__run *r, const kd__step *steps, int count)
{
    int i = 0;
    while (i < count) {
        kd__span_task t;
        if (steps[i].whole) {
            kd__span s = {0, 0, 0, 0};
            s.count = r->count;
            steps[i].fn(r, steps[i].node, s);
            ++i;
            continue;
        }
        t.r = r;
        t.steps = steps + i;
        for (t.count = 0; i < count && !steps[i].whole; ++i) ++t.count;
        kd__parallel(r->kd, (r->count + r->chunk - 1) / r->chunk, kd__run_chunk, &t);
    }
}

/* The chunks' shares of one parameter's gradient, added up in their order. */
KD__PRIVATE void kd__run_reduce(void *arg, int index, int worker)
{
    const kd__run *r = (const kd__run *)arg;
    const kd__param *p = &r->model->params[index];
    const int chunks = (r->count + r->chunk - 1) / r->chunk;
    kd__span s = {0, 0, 0, 0};
    float *grad = r->weight_grads + p->offset;
    (void)worker;
    if (!p->summed) return;
    memcpy(grad, kd__partial(r, index, s), p->size * sizeof *grad);
    for (s.chunk = 1; s.chunk < chunks; ++s.chunk)
        r->k->add((ptrdiff_t)p->size, grad, kd__partial(r, index, s), KD__IDENTITY, 0, grad);
}

/* x: (count, c, h, w); the logits are then at kd__run_logits. */
KD__PRIVATE void kd__run_forward(kd__run *r, const float *x, int count)
{
    int i;
    r->x = x;
    r->count = count;
    for (i = 0; i < r->input_alias_count && !r->import; ++i) {
        kd__slot *slot = &r->act[r->input_aliases[i]];
        slot->base = (float *)(uintptr_t)x; /* only read */
    }
    kd__run_steps(r, r->forward, r->forward_steps);
}

/* After a forward pass in training: what layers add to the loss. */
KD__PRIVATE double kd__run_penalty(const kd__run *r)
{
    double sum = 0;
    int i;
    for (i = 0; i < r->model->node_count; ++i) sum += r->plan[i].penalty;
    return sum;
}

KD__PRIVATE float *kd__run_logits(const kd__run *r) { return r->act[r->model->output].base; }
KD__PRIVATE float *kd__run_logits_grad(const kd__run *r) { return r->grad[r->model->output].base; }

/* After a forward pass, and with the logits' gradient in place: all weight gradients, or the one sought. */
KD__PRIVATE void kd__run_backward(kd__run *r)
{
    kd__run_steps(r, r->backward, r->backward_steps);
    if (r->training) kd__parallel(r->kd, r->model->param_count, kd__run_reduce, r);
}

/* ============================================================================================================
   >>predict    prediction
   uses: run, math
   ============================================================================================================ */

struct kd_workspace {
    kd__run *run;
    float *pixels; /* normalised images of kd_predict_u8 and evaluation */
};

enum { KD__PREDICT_BATCH = 256 };

KDDEF kd_result kd_workspace_create(const kd_model *m, int capacity, kd_workspace **out)
{
    kd_workspace *w;
    kd_result result = KD_ERR_MEMORY;
    int64_t input;
    if (out) *out = NULL;
    if (!m) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_workspace_create: out must not be NULL");
    if (capacity < 1 || capacity > 1 << 16)
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_workspace_create: capacity must be 1 to 65536, got %d",
                        capacity);
    input = kd__shape_count(&m->values[m->input].shape);
    w = KD__NEW(m->kd, kd_workspace, 1);
    if (w) w->pixels = KD__NEW(m->kd, float, kd__plus(kd__times((size_t)capacity, (size_t)input), KD__SLACK));
    if (w && w->pixels) result = kd__run_open(m, NULL, capacity, &w->run);
    if (result != KD_OK && w) {
        kd__free(m->kd, w->pixels);
        kd__free(m->kd, w);
    } else {
        *out = w;
    }
    return result;
}

KDDEF void kd_workspace_destroy(kd_workspace *w)
{
    kd_ctx *kd;
    if (!w) return;
    kd = w->run->kd;
    kd__run_close(w->run);
    kd__free(kd, w->pixels);
    kd__free(kd, w);
}

KDDEF size_t kd_workspace_bytes(const kd_workspace *w)
{
    void *lists[KD__RUN_LISTS];
    size_t bytes = kd__block_bytes((void *)w) + kd__block_bytes(w->pixels);
    int i;
    kd__run_lists(w->run, lists);
    for (i = 0; i < KD__RUN_LISTS; ++i) bytes += kd__block_bytes(lists[i]);
    for (i = 0; i < w->run->owned_count; ++i) bytes += kd__block_bytes(w->run->owned[i]);
    return bytes;
}

/* Logits as PyTorch orders them: (c, h, w), where a model ends in an image. */
KD__PRIVATE void kd__export(const kd__run *r, int n, float *logits)
{
    const kd__shape *s = &r->model->values[r->model->output].shape;
    const int pixels = s->h * s->w, count = pixels * s->c;
    const float *from = kd__run_logits(r);
    int i;
    if (pixels == 1 || s->c == 1) {
        memcpy(logits, from, (size_t)n * (size_t)count * sizeof *logits);
        return;
    }
    for (i = 0; i < n; ++i)
        r->k->transpose(from + (ptrdiff_t)i * count, s->c, pixels, s->c, logits + (ptrdiff_t)i * count, pixels);
}

KD__PRIVATE kd_result kd__workspace_check(const kd_workspace *w, const char *where, const void *x, int n,
                                          const float *logits)
{
    if (!w) return KD_ERR_ARGUMENT;
    if (n < 0 || n > w->run->capacity || (n > 0 && (!x || !logits)))
        return kd__fail(w->run->kd, KD_ERR_ARGUMENT,
                        "%s: %d samples, but this workspace holds 0 to %d, and pointers must not be NULL", where, n,
                        w->run->capacity);
    return KD_OK;
}

KD__PRIVATE void kd__workspace_run(kd_workspace *w, const float *x, int n, float *logits)
{
    if (n == 0) return;
    kd__run_forward(w->run, x, n);
    kd__export(w->run, n, logits);
}

KDDEF kd_result kd_workspace_predict(kd_workspace *w, const float *x, int n, float *logits)
{
    const kd_result result = kd__workspace_check(w, "kd_workspace_predict", x, n, logits);
    if (result == KD_OK) kd__workspace_run(w, x, n, logits);
    return result;
}

/* One sample of pixels in [0, 1] to network input, in place allowed. */
KD__PRIVATE void kd__normalise_sample(const kd__kernels *k, int channels, int pixels, const float *mean,
                                      const float *std, const float *from, float *to)
{
    int c, known = mean ? KD__MIN(channels, KD_MAX_CHANNELS) : 0, plain = 1;
    ptrdiff_t done;
    for (c = 0; c < known; ++c) plain &= mean[c] == 0 && std[c] == 1;
    if (plain) known = 0;
    for (c = 0; c < known; ++c)
        k->normalise(pixels, from + (ptrdiff_t)c * pixels, mean[c], std[c], to + (ptrdiff_t)c * pixels);
    done = (ptrdiff_t)known * pixels;
    if (from != to) memcpy(to + done, from + done, (size_t)(channels - known) * (size_t)pixels * sizeof *to);
}

/* One sample of bytes (pixels, channels) to (channels, pixels) in [0, 1]. */
KD__PRIVATE void kd__from_interleaved(const kd__kernels *k, int channels, int pixels, const uint8_t *from,
                                      float *to)
{
    uint8_t some[512];
    int c, p, i, now;
    for (c = 0; c < channels; ++c) {
        for (p = 0; p < pixels; p += now) {
            const uint8_t *at = from + (ptrdiff_t)p * channels + c;
            now = KD__MIN(KD__COUNT(some), pixels - p);
            for (i = 0; i < now; ++i) some[i] = at[(ptrdiff_t)i * channels];
            k->from_bytes(now, some, to + (ptrdiff_t)c * pixels + p);
        }
    }
}

/* Arguments are checked. */
KD__PRIVATE void kd__workspace_run_u8(kd_workspace *w, const uint8_t *pixels, int interleaved, int n, float *logits)
{
    const kd_model *m = w->run->model;
    const kd__shape *s = &m->values[m->input].shape;
    const ptrdiff_t count = (ptrdiff_t)kd__shape_count(s);
    int i;
    for (i = 0; i < n; ++i) {
        float *to = w->pixels + i * count;
        if (interleaved)
            kd__from_interleaved(w->run->k, s->c, s->h * s->w, pixels + i * count, to);
        else
            w->run->k->from_bytes(count, pixels + i * count, to);
        if (m->preprocessing_channels)
            kd__normalise_sample(w->run->k, m->preprocessing_channels, (int)count / m->preprocessing_channels,
                                 m->mean, m->std, to, to);
    }
    kd__workspace_run(w, w->pixels, n, logits);
}

KDDEF kd_result kd_workspace_predict_u8(kd_workspace *w, const uint8_t *pixels, int n, float *logits)
{
    const kd_result result = kd__workspace_check(w, "kd_workspace_predict_u8", pixels, n, logits);
    if (result == KD_OK) kd__workspace_run_u8(w, pixels, 0, n, logits);
    return result;
}

KDDEF kd_result kd_workspace_predict_u8_hwc(kd_workspace *w, const uint8_t *pixels, int n, float *logits)
{
    const kd_result result = kd__workspace_check(w, "kd_workspace_predict_u8_hwc", pixels, n, logits);
    if (result == KD_OK) kd__workspace_run_u8(w, pixels, 1, n, logits);
    return result;
}

/* The workspace kept with the model, or a new one where it is in use or too small. */
KD__PRIVATE kd_result kd__workspace_borrow(const kd_model *m, int n, kd_workspace **out)
{
    const int capacity = KD__MIN(n, (int)KD__PREDICT_BATCH);
    kd_workspace *w = (kd_workspace *)kd__atomic_swap((void **)(uintptr_t)&m->spare, NULL);
    if (w && w->run->capacity < capacity) {
        kd_workspace_destroy(w);
        w = NULL;
    }
    *out = w;
    return w ? KD_OK : kd_workspace_create(m, capacity, out);
}

KD__PRIVATE void kd__workspace_return(const kd_model *m, kd_workspace *w)
{
    kd_workspace_destroy((kd_workspace *)kd__atomic_swap((void **)(uintptr_t)&m->spare, w));
}

KDDEF kd_result kd_predict(const kd_model *m, const float *x, int n, float *logits)
{
    kd_workspace *w;
    int64_t input, outputs;
    kd_result result;
    int i;
    if (!m) return KD_ERR_ARGUMENT;
    if (n < 0 || (n > 0 && (!x || !logits)))
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_predict: %d samples, or a NULL pointer", n);
    if (n == 0) return KD_OK;
    result = kd__workspace_borrow(m, n, &w);
    if (result != KD_OK) return result;
    input = kd__shape_count(&m->values[m->input].shape);
    outputs = kd_model_outputs(m);
    for (i = 0; i < n && result == KD_OK; i += w->run->capacity)
        result = kd_workspace_predict(w, x + i * input, KD__MIN(w->run->capacity, n - i), logits + i * outputs);
    kd__workspace_return(m, w);
    return result;
}

KD__PRIVATE kd_result kd__predict_bytes(const kd_model *m, const char *where, const uint8_t *pixels,
                                        int interleaved, int n, float *logits)
{
    kd_workspace *w;
    ptrdiff_t input, outputs;
    kd_result result;
    int i;
    if (!m) return KD_ERR_ARGUMENT;
    if (n < 0 || (n > 0 && (!pixels || !logits)))
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: %d samples, or a NULL pointer", where, n);
    if (n == 0) return KD_OK;
    result = kd__workspace_borrow(m, n, &w);
    if (result != KD_OK) return result;
    input = (ptrdiff_t)kd__shape_count(&m->values[m->input].shape);
    outputs = kd_model_outputs(m);
    for (i = 0; i < n; i += w->run->capacity)
        kd__workspace_run_u8(w, pixels + i * input, interleaved, KD__MIN(w->run->capacity, n - i),
                             logits + i * outputs);
    kd__workspace_return(m, w);
    return KD_OK;
}

KDDEF kd_result kd_predict_u8(const kd_model *m, const uint8_t *pixels, int n, float *logits)
{
    return kd__predict_bytes(m, "kd_predict_u8", pixels, 0, n, logits);
}

KDDEF kd_result kd_predict_u8_hwc(const kd_model *m, const uint8_t *pixels, int n, float *logits)
{
    return kd__predict_bytes(m, "kd_predict_u8_hwc", pixels, 1, n, logits);
}

/* ---- soft decision trees --------------------------------------------------------------------------------- */

/* The node of the first softtree; its filters are the node before it. */
KD__PRIVATE const kd__node *kd__tree_find(const kd_model *m, const char *where)
{
    int i;
    for (i = 0; i < m->node_count; ++i) {
        if (kd__layer_types[m->nodes[i].type].build == kd__tree_build) return &m->nodes[i];
    }
    kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: the model has no softtree layer", where);
    return NULL;
}

KDDEF kd_result kd_tree_info(const kd_model *m, kd_tree *out)
{
    const kd__node *n;
    const kd__shape *in;
    if (!m) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_tree_info: out must not be NULL");
    n = kd__tree_find(m, "kd_tree_info");
    if (!n) return KD_ERR_ARGUMENT;
    in = &m->values[n[-1].in].shape;
    out->name = n->name;
    out->depth = (int)n->arg[KD__TREE_DEPTH].v[0];
    out->classes = (int)n->arg[KD__TREE_CLASSES].v[0];
    out->channels = in->c, out->height = in->h, out->width = in->w;
    return KD_OK;
}

KDDEF kd_result kd_tree_read(const kd_model *m, float *filters, float *biases, float *leaves)
{
    const kd__param *weight, *phi;
    const kd__node *n;
    const float *beta, *bias;
    int64_t i, features;
    if (!m) return KD_ERR_ARGUMENT;
    n = kd__tree_find(m, "kd_tree_read");
    if (!n) return KD_ERR_ARGUMENT;
    weight = &m->params[n[-1].param[0]];
    phi = &m->params[n->param[1]];
    bias = kd__param_stored(m, &m->params[n[-1].param[1]]);
    beta = kd__param_stored(m, &m->params[n->param[0]]);
    features = weight->shape[1];
    if (filters) {
        kd__param_copy(m->kd->k, weight, kd__param_stored(m, weight), filters, 1);
        for (i = 0; i < weight->shape[0] * features; ++i) filters[i] *= beta[i / features];
    }
    for (i = 0; biases && i < weight->shape[0]; ++i) biases[i] = beta[i] * bias[i];
    if (leaves) {
        kd__param_copy(m->kd->k, phi, kd__param_stored(m, phi), leaves, 1);
        m->kd->k->softmax(leaves, (int)phi->shape[0], (int)phi->shape[1], 1, 0, leaves);
    }
    return KD_OK;
}

KDDEF kd_result kd_tree_paths(const kd_model *m, const float *x, int n, float *paths)
{
    const kd__node *node;
    kd_workspace *w;
    kd_result result;
    ptrdiff_t input, nodes, j;
    int i, now;
    if (!m) return KD_ERR_ARGUMENT;
    if (n < 0 || (n > 0 && (!x || !paths)))
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_tree_paths: %d samples, or a NULL pointer", n);
    node = kd__tree_find(m, "kd_tree_paths");
    if (!node) return KD_ERR_ARGUMENT;
    if (n == 0) return KD_OK;
    result = kd__workspace_borrow(m, n, &w);
    if (result != KD_OK) return result;
    input = (ptrdiff_t)kd__shape_count(&m->values[m->input].shape);
    nodes = ((ptrdiff_t)2 << (int)node->arg[KD__TREE_DEPTH].v[0]) - 1;
    for (i = 0; i < n; i += now, paths += now * nodes) {
        now = KD__MIN(w->run->capacity, n - i);
        kd__run_forward(w->run, x + i * input, now);
        for (j = 0; j < now * nodes; ++j)
            paths[j] = (float)kd__exp_below((double)kd__tree_of(w->run, node, 0).log_p[j]);
    }
    kd__workspace_return(m, w);
    return KD_OK;
}

/* Teacher and student must mean the same by output i. */
KD__PRIVATE kd_result kd__check_teacher(kd_ctx *kd, const char *where, const kd_model *student,
                                        const kd_model *teacher)
{
    const int outputs = kd_model_outputs(student);
    int i;
    if (teacher->kd->k != student->kd->k)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: teacher and student must use the same instruction set", where);
    if (kd_model_outputs(teacher) != outputs)
        return kd__fail(kd, KD_ERR_SHAPE, "%s: the teacher has %d outputs, the student %d", where,
                        kd_model_outputs(teacher), outputs);
    for (i = 0; i < outputs && teacher->classes && student->classes; ++i) {
        if (strcmp(teacher->classes[i], student->classes[i]) != 0)
            return kd__fail(kd, KD_ERR_DATA,
                            "%s: output %d is \"%.60s\" for the teacher, but \"%.60s\" for the student", where, i,
                            teacher->classes[i], student->classes[i]);
    }
    return KD_OK;
}

/* ============================================================================================================
   >>attack    adversarial inputs
   uses: predict, run, losses, random
   ============================================================================================================ */
#ifndef KD_NO_TRAIN

KDDEF const char *kd_attack_name(kd_attack_kind kind)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_ATTACKS(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)kind < (unsigned)KD_ATTACK_COUNT ? words[kind] : "unknown";
}

KDDEF kd_attack_desc kd_attack_defaults(kd_attack_kind kind)
{
    kd_attack_desc d;
    memset(&d, 0, sizeof d);
    d.cookie = KD__COOKIE;
    d.kind = kind;
    d.epsilon = 8 / 255.0f;
    d.step = 2 / 255.0f;
    d.steps = 10;
    d.random_start = 1;
    d.high = 1;
    d.seed = 1;
    d.loss = kd_loss_defaults(KD_LOSS_AUTO);
    return d;
}

/* Makes adversarial versions of images, or of the prompts beside them; opened once, for batches of up to `capacity`
   samples. */
typedef struct kd__attacker {
    kd_ctx *kd;
    kd_attack_desc desc; /* with the kind of its loss resolved */
    kd__run *run;
    float *x, *loss_room;                                  /* x: (capacity, floats), what it makes */
    ptrdiff_t floats;                                      /* of a sample's image or prompt */
    ptrdiff_t plane;                                       /* of those, consecutive ones with the same limits */
    float epsilon[KD_MAX_CHANNELS], step[KD_MAX_CHANNELS]; /* normalised, by plane */
    float low[KD_MAX_CHANNELS], high[KD_MAX_CHANNELS];
    /* the batch at hand */
    const float *from;
    const int32_t *samples; /* their numbers; NULL: from `first` on */
    int first;
    uint64_t seed, epoch; /* what random starts depend on, beside the numbers of samples */
} kd__attacker;

/* bce needs no teacher, and has none where its kind was left open. */
KD__PRIVATE int kd__attack_uses_teacher(const kd_attack_desc *desc)
{
    const int teacher = kd__loss_look_up(desc->loss.kind)->teacher;
    return teacher == KD__YES || (teacher == KD__MAYBE && desc->loss.alpha > 0);
}

KD__PRIVATE int kd__attack_ranges(const kd_attack_desc *desc, kd__range *to)
{
    const double most = 1e6;
    const kd__range ranges[] = {
        {"the kind of attack", (double)(int)desc->kind, 0, (double)(KD_ATTACK_COUNT - 1)},
        {"the attack's epsilon", (double)desc->epsilon, 0, most},
        {"the attack's step", (double)desc->step, 0, most},
        {"the attack's steps", (double)desc->steps, 1, 10000},
        {"the attack's random_start", (double)desc->random_start, 0, 1},
        {"the attack's low", (double)desc->low, -most, most},
        {"the attack's high", (double)desc->high, (double)desc->low, most},
    };
    memcpy(to, ranges, sizeof ranges);
    return KD__COUNT(ranges);
}

/* Resolves what was left open. has_targets: in a training, those of the data. */
KD__PRIVATE kd_result kd__attack_check(kd_ctx *kd, const char *where, kd_attack_desc *desc, int has_teacher,
                                       int has_targets, int has_labels, int outputs)
{
    kd__range ranges[KD__MAX_RANGES];
    kd_result result;
    if (desc->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS, "%s: the attack must start from kd_attack_defaults()", where);
    result = kd__check_ranges(kd, where, ranges, kd__attack_ranges(desc, ranges));
    if (result != KD_OK) return result;
    if (desc->loss.soft_labels || desc->loss.first || desc->loss.columns || desc->loss.task)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: the loss of an attack takes labels and all outputs: no soft_labels, first, columns or "
                        "task",
                        where);
    if (desc->loss.kind == KD_LOSS_AUTO) {
        desc->loss.kind = kd__loss_resolve(0, 1, 0, outputs);
        desc->loss.alpha = 0;
    }
    if (desc->loss.to_targets && !has_targets)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: to_targets needs kd_data.targets, in training", where);
    has_teacher |= has_targets && desc->loss.kind == KD_LOSS_MSE;
    return kd__loss_check(kd, where, &desc->loss, has_teacher && kd__attack_uses_teacher(desc), has_labels,
                          outputs);
}

KD__PRIVATE void kd__attack_close(kd__attacker *a)
{
    if (!a->kd) return;
    kd__run_close(a->run);
    kd__free(a->kd, a->x);
    kd__free(a->kd, a->loss_room);
    memset(a, 0, sizeof *a);
}

/* desc has been checked. value: what moves, m->input or the prompts in m->prompted. mean and std are those of its
   numbers, for each of `channels`, or NULL. */
KD__PRIVATE kd_result kd__attack_open(kd__attacker *a, const kd_model *m, int value, const kd_attack_desc *desc,
                                      int channels, const float *mean, const float *std, int capacity)
{
    kd__run_desc run = {NULL, 0, NULL, 0};
    const int planes = channels > KD_MAX_CHANNELS || channels < 1 ? 1 : channels;
    const kd__shape *out = &m->values[m->output].shape;
    kd_result result;
    int c;
    memset(a, 0, sizeof *a);
    if (out->h * out->w > 1 && out->c > 1)
        return kd__fail(m->kd, KD_ERR_SHAPE,
                        "an attack: the model ends in an image of %dx%dx%d; end it with gap or dense", out->c,
                        out->h, out->w);
    a->kd = m->kd;
    a->desc = *desc;
    a->floats = value == m->input ? (ptrdiff_t)kd__shape_count(&m->values[value].shape) : m->prompt;
    a->plane = a->floats / planes;
    for (c = 0; c < planes; ++c) {
        const float centre = mean && planes == channels ? mean[c] : 0,
                    unit = std && planes == channels ? std[c] : 1;
        a->epsilon[c] = desc->epsilon / unit;
        a->step[c] = (desc->kind == KD_ATTACK_FGSM ? desc->epsilon : desc->step) / unit;
        a->low[c] = (desc->low - centre) / unit;
        a->high[c] = (desc->high - centre) / unit;
    }
    a->x = KD__NEW(m->kd, float, kd__plus(kd__times((size_t)capacity, (size_t)a->floats), KD__SLACK));
    a->loss_room = KD__NEW(m->kd, float, kd__loss_room(m->kd, &desc->loss, capacity, kd_model_outputs(m)));
    run.sought = value;
    result = a->x && a->loss_room ? kd__run_open_for(m, &run, capacity, &a->run) : KD_ERR_MEMORY;
    if (result != KD_OK) kd__attack_close(a);
    return result;
}

/* The nearest number to x that is allowed in place of `from`. */
KD__PRIVATE float kd__attack_limit(const kd__attacker *a, ptrdiff_t plane, float from, float x)
{
    const float low = KD__MAX(from - a->epsilon[plane], KD__MIN(from, a->low[plane]));
    const float high = KD__MIN(from + a->epsilon[plane], KD__MAX(from, a->high[plane]));
    return x < low ? low : x > high ? high : x;
}

KD__PRIVATE void kd__attack_start(void *arg, int index, int worker)
{
    const kd__attacker *a = (const kd__attacker *)arg;
    const int sample = a->samples ? a->samples[index] : a->first + index;
    const uint64_t key = kd__rng_key(a->seed, KD__RNG_ATTACK, a->epoch, (uint64_t)sample);
    const double width = a->desc.kind == KD_ATTACK_FGSM ? 0 : (double)a->desc.random_start;
    const float *from = a->from + index * a->floats;
    float *to = a->x + index * a->floats;
    ptrdiff_t i;
    (void)worker;
    for (i = 0; i < a->floats; ++i) {
        const double reach = width * (double)a->epsilon[i / a->plane];
        const float shift = reach > 0 ? (float)kd__rng_range(key, (uint64_t)i, -reach, reach) : 0;
        to[i] = kd__attack_limit(a, i / a->plane, from[i], from[i] + shift);
    }
}

/* One step along the sign of the gradient, which is stored (h, w, c). A prompt stands at the end of a vector. */
KD__PRIVATE void kd__attack_move(void *arg, int index, int worker)
{
    const kd__attacker *a = (const kd__attacker *)arg;
    const kd__shape *s = &a->run->model->values[a->run->sought].shape;
    const kd__slot *slot = &a->run->grad[a->run->sought];
    const kd__span all = {0, 0, 0, 0};
    const ptrdiff_t others = (ptrdiff_t)kd__shape_count(s) - a->floats;
    const float *grad = kd__slot_at(slot, all, index), *from = a->from + index * a->floats;
    float *to = a->x + index * a->floats;
    ptrdiff_t i = 0;
    int c, y, x;
    (void)worker;
    for (c = (int)others; c < s->c; ++c) {
        for (y = 0; y < s->h; ++y) {
            for (x = 0; x < s->w; ++x, ++i) {
                const float g = grad[y * slot->row + (ptrdiff_t)x * s->c + c];
                const float shift = g > 0 ? a->step[i / a->plane] : g < 0 ? -a->step[i / a->plane] : 0;
                to[i] = kd__attack_limit(a, i / a->plane, from[i], to[i] + shift);
            }
        }
    }
}

/* Fills a->x from images, or from the prompts beside them, NULL: none. teacher, labels and soft_labels as for a
   loss; what they belong to is in a->samples or a->first. */
KD__PRIVATE kd_result kd__attack_make(kd__attacker *a, const char *where, const float *images, const float *prompts,
                                      int n, const float *teacher, const int32_t *labels, const float *soft_labels)
{
    const kd__slot *slot = &a->run->grad[a->run->sought];
    const int steps = a->desc.kind == KD_ATTACK_FGSM ? 1 : a->desc.steps;
    kd__loss_call call;
    int i;
    memset(&call, 0, sizeof call);
    call.desc = &a->desc.loss;
    call.teacher = kd__attack_uses_teacher(&a->desc) ? teacher : NULL;
    call.labels = labels;
    call.soft_labels = kd__loss_uses_labels(&a->desc.loss) ? soft_labels : NULL;
    call.rows = n;
    call.cols = kd_model_outputs(a->run->model);
    call.soft_scale = call.hard_scale = 1;
    call.room = a->loss_room;
    a->from = prompts ? prompts : images;
    a->run->prompt = prompts ? a->x : NULL;
    kd__parallel(a->kd, n, kd__attack_start, a);
    for (i = 0; i < steps; ++i) {
        kd__run_forward(a->run, prompts ? images : a->x, n);
        call.student = kd__run_logits(a->run);
        call.grad = kd__run_logits_grad(a->run);
        if (!kd__is_finite(kd__loss_evaluate(a->kd, &call)))
            return kd__fail(a->kd, KD_ERR_NOT_FINITE, "%s: the loss of the attack is not finite", where);
        kd__run_backward(a->run);
        if (!a->kd->k->all_finite((ptrdiff_t)((size_t)n * slot->sample), slot->base))
            return kd__fail(a->kd, KD_ERR_NOT_FINITE, "%s: the gradient by the inputs is not finite", where);
        kd__parallel(a->kd, n, kd__attack_move, a);
    }
    return KD_OK;
}

KD__PRIVATE kd_result kd__attack_all(kd__attacker *a, const kd_model *teacher, const float *x,
                                     const int32_t *labels, int n, int capacity, float *logits, float *out)
{
    kd_result result = KD_OK;
    for (a->first = 0; a->first < n && result == KD_OK; a->first += capacity) {
        const int now = KD__MIN(capacity, n - a->first);
        const ptrdiff_t at = a->first * a->floats;
        if (teacher) result = kd_predict(teacher, x + at, now, logits);
        if (result == KD_OK)
            result = kd__attack_make(a, "kd_attack", x + at, NULL, now, teacher ? logits : NULL,
                                     labels ? labels + a->first : NULL, NULL);
        if (result == KD_OK) memcpy(out + at, a->x, (size_t)now * (size_t)a->floats * sizeof *out);
    }
    return result;
}

/* Both read the same numbers. */
KD__PRIVATE kd_result kd__attack_check_sizes(kd_ctx *kd, const char *where, const kd_model *m,
                                             const kd_model *teacher)
{
    const kd__shape *ours = &m->values[m->input].shape, *theirs = &teacher->values[teacher->input].shape;
    if (kd__shape_count(ours) == kd__shape_count(theirs) &&
        (ours->flat || theirs->flat || (ours->c == theirs->c && ours->h == theirs->h)))
        return KD_OK;
    return kd__fail(kd, KD_ERR_SHAPE, "%s: the model reads %s, but its teacher %s", where,
                    kd__shape_text(ours).chars, kd__shape_text(theirs).chars);
}

KDDEF kd_result kd_attack(const kd_model *m, const kd_model *teacher, const float *x, const int32_t *labels, int n,
                          const kd_attack_desc *desc, float *out)
{
    static const char where[] = "kd_attack";
    kd_attack_desc checked;
    kd__attacker a;
    float *logits = NULL;
    kd_result result;
    int capacity, outputs;
    if (!m) return KD_ERR_ARGUMENT;
    if (!desc || n < 0 || (n > 0 && (!x || !out)))
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: %d samples, or a NULL pointer", where, n);
    checked = *desc;
    outputs = kd_model_outputs(m);
    result = kd__attack_check(m->kd, where, &checked, teacher != NULL, 0, labels != NULL, outputs);
    if (result == KD_OK && teacher && !kd__attack_uses_teacher(&checked))
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: loss %s would ignore the teacher", where,
                        kd_loss_name(checked.loss.kind));
    if (result == KD_OK && teacher) result = kd__check_teacher(m->kd, where, m, teacher);
    if (result == KD_OK && teacher) result = kd__attack_check_sizes(m->kd, where, m, teacher);
    if (result == KD_OK && labels && n > 0)
        result = kd__loss_check_labels(m->kd, where, &checked.loss, teacher != NULL, labels, NULL, n, outputs);
    if (result != KD_OK || n == 0) return result;
    capacity = KD__MIN(n, (int)KD__PREDICT_BATCH);
    if (teacher) logits = KD__NEW(m->kd, float, kd__times((size_t)capacity, (size_t)outputs));
    if (teacher && !logits) return KD_ERR_MEMORY;
    result = kd__attack_open(&a, m, m->input, &checked, m->preprocessing_channels, m->mean, m->std, capacity);
    if (result == KD_OK) {
        a.seed = checked.seed;
        result = kd__attack_all(&a, teacher, x, labels, n, capacity, logits, out);
        kd__attack_close(&a);
    }
    kd__free(m->kd, logits);
    return result;
}
#else  /* KD_NO_TRAIN: without gradients there is nothing to attack by, and kd__attack_check says so */

typedef struct kd__attacker {
    kd_ctx *kd; /* NULL: none */
    const float *x;
    uint64_t seed;
} kd__attacker;

KD__PRIVATE kd_result kd__attack_check(kd_ctx *kd, const char *where, kd_attack_desc *desc, int has_teacher,
                                       int has_targets, int has_labels, int outputs)
{
    (void)desc, (void)has_teacher, (void)has_targets, (void)has_labels, (void)outputs;
    return kd__fail(kd, KD_ERR_UNSUPPORTED, "%s: attacks follow gradients, and this build has none (KD_NO_TRAIN)",
                    where);
}

KD__PRIVATE kd_result kd__attack_open(kd__attacker *a, const kd_model *m, int value, const kd_attack_desc *desc,
                                      int channels, const float *mean, const float *std, int capacity)
{
    (void)a, (void)value, (void)channels, (void)mean, (void)std, (void)capacity;
    return m && desc ? KD_ERR_UNSUPPORTED : KD_ERR_ARGUMENT;
}

KD__PRIVATE void kd__attack_close(kd__attacker *a) { a->kd = NULL; }
#endif /* KD_NO_TRAIN */

/* ============================================================================================================
   >>data    batches, augmentation, evaluation
   uses: attack, predict, math
   ============================================================================================================ */

KD__PRIVATE kd_data kd__data_of(kd_pixels type, const void *pixels, const int32_t *labels, int count, int channels,
                                int height, int width, int classes)
{
    kd_data data;
    int c;
    memset(&data, 0, sizeof data);
    data.cookie = KD__COOKIE;
    data.type = type;
    data.pixels = pixels;
    data.labels = labels;
    data.count = count;
    data.channels = channels;
    data.height = height;
    data.width = width;
    data.classes = classes;
    for (c = 0; c < KD_MAX_CHANNELS; ++c) data.std[c] = 1;
    return data;
}

KDDEF kd_data kd_data_u8(const uint8_t *pixels, const int32_t *labels, int count, int channels, int height,
                         int width, int classes)
{
    return kd__data_of(KD_PIXELS_U8, pixels, labels, count, channels, height, width, classes);
}

KDDEF kd_data kd_data_f32(const float *x, const int32_t *labels, int count, int channels, int height, int width,
                          int classes)
{
    return kd__data_of(KD_PIXELS_F32, x, labels, count, channels, height, width, classes);
}

KDDEF kd_data kd_data_stream(kd_batch_fn batch, void *user, int count, int channels, int height, int width,
                             int classes)
{
    kd_data data = kd__data_of(KD_PIXELS_F32, NULL, NULL, count, channels, height, width, classes);
    data.batch = batch;
    data.user = user;
    return data;
}

KD__PRIVATE int64_t kd__data_floats(const kd_data *data)
{
    const int64_t channels = data->channels, plane = (int64_t)data->height * data->width;
    return plane > 0 && channels > INT64_MAX / plane ? INT64_MAX : channels * plane;
}

KDDEF uint64_t kd_data_hash(const kd_data *data)
{
    const size_t item = data->type == KD_PIXELS_U8 ? 1 : 4;
    const size_t bytes = data->batch ? 0 : (size_t)data->count * (size_t)kd__data_floats(data) * item;
    const unsigned char *from = (const unsigned char *)data->pixels;
    uint64_t hash = kd__rng_key((uint64_t)data->count, (int)data->type, (uint64_t)data->channels,
                                (uint64_t)kd__data_floats(data));
    size_t i;
    int c;
    hash = kd__mix(hash ^ (uint64_t)data->height);
    for (c = 0; c < KD__MIN(data->channels, KD_MAX_CHANNELS); ++c)
        hash = kd__mix(hash ^ ((uint64_t)kd__float_bits(data->mean[c]) << 32 | kd__float_bits(data->std[c])));
    if (item == 4) { /* by value, not by byte order */
        for (i = 0; i < bytes; i += 4) {
            float x;
            memcpy(&x, from + i, 4);
            hash = kd__mix(hash ^ kd__float_bits(x));
        }
    } else {
        for (i = 0; i + 8 <= bytes; i += 8) hash = kd__mix(hash ^ kd__load_le(from + i, 8));
        if (i < bytes) hash = kd__mix(hash ^ kd__load_le(from + i, (int)(bytes - i)));
    }
    return hash;
}

/* A look at all numbers, in as many parts as are worth a thread. */
typedef struct kd__scan {
    const kd__kernels *k;
    const float *x;
    int64_t count, step;
    unsigned char spoilt[64];
} kd__scan;

KD__PRIVATE void kd__scan_part(void *arg, int index, int worker)
{
    kd__scan *p = (kd__scan *)arg;
    const int64_t first = index * p->step, count = KD__MIN(p->step, p->count - first);
    (void)worker;
    p->spoilt[index] = (unsigned char)!p->k->all_finite((ptrdiff_t)count, p->x + first);
}

KD__PRIVATE int kd__finite_data(const kd_ctx *kd, const float *x, int64_t count)
{
    kd__scan p;
    int i, parts;
    p.k = kd->k;
    p.x = x;
    p.count = count;
    p.step = KD__MAX(count / KD__COUNT(p.spoilt) + 1, (int64_t)1 << 16);
    parts = (int)((count + p.step - 1) / p.step);
    kd__parallel(kd, parts, kd__scan_part, &p);
    for (i = 0; i < parts; ++i) {
        if (p.spoilt[i]) return 0;
    }
    return 1;
}

/* m: what is to read them, or NULL, and who that is. */
KD__PRIVATE kd_result kd__data_check(kd_ctx *kd, const char *where, const kd_data *data, const kd_model *m,
                                     const char *who)
{
    const kd__shape *in = m ? &m->values[m->input].shape : NULL;
    int64_t total;
    kd_result result;
    if (!data || data->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS,
                        "%s: the data must start from kd_data_u8, kd_data_f32 or kd_data_stream", where);
    if (data->type != KD_PIXELS_U8 && data->type != KD_PIXELS_F32)
        return kd__fail(kd, KD_ERR_DATA, "%s: the type of pixels must be KD_PIXELS_U8 or KD_PIXELS_F32, got %d",
                        where, (int)data->type);
    if (data->count < 1) return kd__fail(kd, KD_ERR_DATA, "%s: there are no samples", where);
    if (data->classes < 0)
        return kd__fail(kd, KD_ERR_DATA, "%s: classes must be 0 or more, got %d", where, data->classes);
    if (data->channels < 1 || data->height < 1 || data->width < 1 || (!data->pixels && !data->batch))
        return kd__fail(kd, KD_ERR_DATA, "%s: images of %dx%dx%d, or no pixels", where, data->channels,
                        data->height, data->width);
    if (in && (data->channels != in->c || data->height != in->h || data->width != in->w)) {
        if (!(in->flat && kd__data_floats(data) == kd__shape_count(in)))
            return kd__fail(kd, KD_ERR_SHAPE, "%s: the %s reads %s, but the images are %dx%dx%d", where, who,
                            kd__shape_text(in).chars, data->channels, data->height, data->width);
    }
    result = kd__check_preprocessing(kd, where, data->channels, data->mean, data->std);
    if (result != KD_OK) return result;
    if (m && m->preprocessing_channels == data->channels) {
        int c;
        for (c = 0; c < data->channels; ++c) {
            if (fabsf(m->mean[c] - data->mean[c]) > 1e-5f || fabsf(m->std[c] - data->std[c]) > 1e-5f)
                return kd__fail(
                    kd, KD_ERR_DATA,
                    "%s: the %s was trained on images normalised with mean %s and std %s in channel %d, but "
                    "these have %s and %s",
                    where, who, kd__number((double)m->mean[c], 6).chars, kd__number((double)m->std[c], 6).chars, c,
                    kd__number((double)data->mean[c], 6).chars, kd__number((double)data->std[c], 6).chars);
        }
    }
    total = (int64_t)data->count * kd__data_floats(data);
    if (!data->batch && data->type == KD_PIXELS_F32) {
        char what[64];
        int64_t i;
        const int64_t floats = kd__data_floats(data);
        const float *x = (const float *)data->pixels;
        if (!kd__finite_data(kd, x, total)) {
            for (i = 0; kd__is_finite((double)x[i]); ++i) {}
            kd__print(what, sizeof what, "%s", x[i] != x[i] ? "a NaN" : "an infinity");
            return kd__fail(kd, KD_ERR_NOT_FINITE, "%s: %s in the data, sample %lld, number %lld", where, what,
                            (long long)(i / floats), (long long)(i % floats));
        }
    }
    return KD_OK;
}

/* ---- augmentation ---------------------------------------------------------------------------------------- */

KD__PRIVATE int kd__augment_any(const kd_augment *a)
{
    return a->shift || a->flip || a->rotate != 0 || a->brightness != 0 || a->contrast != 0 || a->saturation != 0 ||
           a->cutout || a->mixup != 0;
}

KD__PRIVATE kd_result kd__augment_check(kd_ctx *kd, const char *where, const kd_augment *a, const kd_data *data)
{
    const int size = KD__MAX(data->height, data->width);
    if (a->shift < 0 || a->shift > size || a->cutout < 0 || a->cutout > 2 * size)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: shift must be 0 to the size of the image, %d, and cutout to twice that, got %d and %d",
                        where, size, a->shift, a->cutout);
    if (a->flip < 0 || a->flip > 1)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: flip must be 0 or 1, got %d", where, a->flip);
    if (!(a->rotate >= 0 && a->rotate <= 180))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: rotate must be 0 to 180 degrees, got %s", where,
                        kd__number((double)a->rotate, 6).chars);
    if (!(a->brightness >= 0 && a->brightness <= 1 && a->contrast >= 0 && a->contrast <= 1 && a->saturation >= 0 &&
          a->saturation <= 1))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: brightness, contrast and saturation must be 0 to 1", where);
    if (!(a->mixup >= 0 && a->mixup <= 4))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: mixup must be 0 to 4, got %s", where,
                        kd__number((double)a->mixup, 6).chars);
    return KD_OK;
}

KD__PRIVATE float kd__clamp01(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

KD__PRIVATE float kd__pixel(const float *plane, int h, int w, int y, int x)
{
    return y >= 0 && y < h && x >= 0 && x < w ? plane[(ptrdiff_t)y * w + x] : 0.0f;
}

/* Turn about the centre by angle, then shift, then mirror: every output pixel looks up where it came from. */
KD__PRIVATE void kd__augment_place(const kd_augment *a, uint64_t key, int channels, int h, int w, const float *from,
                                   float *to)
{
    const int dy = a->shift ? kd__rng_index(key, 0, 2 * a->shift + 1) - a->shift : 0;
    const int dx = a->shift ? kd__rng_index(key, 1, 2 * a->shift + 1) - a->shift : 0;
    const int mirror = a->flip && (kd__rng_bits(key, 2) & 1u);
    double cosine = 1, sine = 0;
    int c, y, x;
    if (a->rotate != 0)
        kd__cos_sin(kd__rng_range(key, 3, -(double)a->rotate, (double)a->rotate) * 0.017453292519943295, &cosine,
                    &sine);
    for (c = 0; c < channels; ++c, from += (ptrdiff_t)h * w) {
        for (y = 0; y < h; ++y) {
            for (x = 0; x < w; ++x, ++to) {
                const int sx = (mirror ? w - 1 - x : x) - dx, sy = y - dy;
                if (a->rotate == 0) {
                    *to = kd__pixel(from, h, w, sy, sx);
                } else {
                    const double cy = 0.5 * (h - 1), cx = 0.5 * (w - 1), ry = sy - cy, rx = sx - cx;
                    const double fy = cy + cosine * ry - sine * rx, fx = cx + sine * ry + cosine * rx;
                    const int y0 = (int)(fy + 4096) - 4096, x0 = (int)(fx + 4096) - 4096; /* floor */
                    const float ty = (float)(fy - y0), tx = (float)(fx - x0);
                    const float top =
                        kd__pixel(from, h, w, y0, x0) * (1 - tx) + kd__pixel(from, h, w, y0, x0 + 1) * tx;
                    const float low =
                        kd__pixel(from, h, w, y0 + 1, x0) * (1 - tx) + kd__pixel(from, h, w, y0 + 1, x0 + 1) * tx;
                    *to = top * (1 - ty) + low * ty;
                }
            }
        }
    }
}

/* What grey a pixel is (ITU-R BT.601), or the mean of its channels where there are not three. */
KD__PRIVATE float kd__grey(const float *x, int channels, int pixels, int i)
{
    float sum = 0;
    int c;
    if (channels == 3) return 0.299f * x[i] + 0.587f * x[i + pixels] + 0.114f * x[i + 2 * (ptrdiff_t)pixels];
    for (c = 0; c < channels; ++c) sum += x[(ptrdiff_t)c * pixels + i];
    return sum / (float)channels;
}

/* Brightness, then contrast, then saturation, each clamped to [0, 1]. */
KD__PRIVATE void kd__augment_colour(const kd_augment *a, uint64_t key, int channels, int pixels, float *x)
{
    const ptrdiff_t all = (ptrdiff_t)channels * pixels;
    ptrdiff_t i;
    int p, c;
    if (a->brightness != 0) {
        const float f = (float)kd__rng_range(key, 4, 1 - (double)a->brightness, 1 + (double)a->brightness);
        for (i = 0; i < all; ++i) x[i] = kd__clamp01(x[i] * f);
    }
    if (a->contrast != 0) {
        const float f = (float)kd__rng_range(key, 5, 1 - (double)a->contrast, 1 + (double)a->contrast);
        double sum = 0;
        float grey;
        for (p = 0; p < pixels; ++p) sum += (double)kd__grey(x, channels, pixels, p);
        grey = (float)(sum / pixels);
        for (i = 0; i < all; ++i) x[i] = kd__clamp01(f * x[i] + (1 - f) * grey);
    }
    if (a->saturation != 0 && channels == 3) {
        const float f = (float)kd__rng_range(key, 6, 1 - (double)a->saturation, 1 + (double)a->saturation);
        for (p = 0; p < pixels; ++p) {
            const float grey = kd__grey(x, 3, pixels, p);
            for (c = 0; c < 3; ++c) {
                float *number = x + (ptrdiff_t)c * pixels + p;
                *number = kd__clamp01(f * *number + (1 - f) * grey);
            }
        }
    }
}

/* A square around a random pixel, cut at the edges, becomes 0 (DeVries and Taylor 2017); after normalisation. */
KD__PRIVATE void kd__augment_cutout(const kd_augment *a, uint64_t key, int channels, int h, int w, float *x)
{
    const int y0 = kd__rng_index(key, 7, h) - a->cutout / 2, x0 = kd__rng_index(key, 8, w) - a->cutout / 2;
    int c, y, column;
    for (c = 0; c < channels; ++c) {
        for (y = KD__MAX(0, y0); y < KD__MIN(h, y0 + a->cutout); ++y) {
            for (column = KD__MAX(0, x0); column < KD__MIN(w, x0 + a->cutout); ++column)
                x[((ptrdiff_t)c * h + y) * w + column] = 0;
        }
    }
}

/* Beta(a, a) by Johnk's method: the ratio of two powers of uniform numbers whose sum is at most 1. */
KD__PRIVATE float kd__beta(uint64_t key, double a)
{
    uint64_t i;
    for (i = 0; i < 2000; i += 2) {
        const double x = kd__exp(kd__log_of(kd__rng_unit(key, i) + 1e-300) / a);
        const double y = kd__exp(kd__log_of(kd__rng_unit(key, i + 1) + 1e-300) / a);
        if (x + y > 0 && x + y <= 1) return (float)(x / (x + y));
    }
    return 1;
}

/* ---- batches --------------------------------------------------------------------------------------------- */

/* Makes batches: network input (n, c, h, w), labels, and, for mixup, soft labels. */
typedef struct kd__feed {
    kd_ctx *kd;
    const kd_data *data;
    kd_augment augment;
    int augmented, batch;
    uint64_t seed;
    ptrdiff_t floats; /* of a sample */
    float *x;         /* (batch, c, h, w) */
    int32_t *labels;  /* (batch) */
    float *soft;      /* (batch, classes); NULL unless labels are soft */
    float *scratch;   /* two samples for each worker */
    float *stream;    /* what a stream delivered: samples, then partners for mixup */
    int32_t *stream_labels, *partners;
    /* the batch being made */
    const int32_t *samples;
    int n, view;
    kd_data images;      /* of data, where nothing else of them is asked for */
    const int32_t *pool; /* among which mixup finds partners; NULL: all samples */
    int pool_count;
} kd__feed;

KD__PRIVATE void kd__feed_close(kd__feed *f)
{
    kd__free(f->kd, f->x);
    kd__free(f->kd, f->labels);
    kd__free(f->kd, f->soft);
    kd__free(f->kd, f->scratch);
    kd__free(f->kd, f->stream);
    kd__free(f->kd, f->stream_labels);
    kd__free(f->kd, f->partners);
    memset(f, 0, sizeof *f);
}

KD__PRIVATE kd_result kd__feed_open(kd__feed *f, kd_ctx *kd, const kd_data *data, const kd_augment *augment,
                                    uint64_t seed, int batch)
{
    const size_t scratches = 2 * (size_t)kd->desc.threads;
    size_t floats, i;
    memset(f, 0, sizeof *f);
    f->kd = kd;
    f->data = data;
    f->batch = batch;
    f->seed = seed;
    f->floats = (ptrdiff_t)kd__data_floats(data);
    if (augment) f->augment = *augment;
    f->augmented = kd__augment_any(&f->augment);
    floats = kd__times((size_t)batch, (size_t)f->floats);
    f->x = KD__NEW(kd, float, kd__plus(floats, KD__SLACK));
    f->labels = KD__NEW(kd, int32_t, batch);
    f->partners = KD__NEW(kd, int32_t, batch);
    f->scratch = KD__NEW(kd, float, kd__times(scratches, (size_t)f->floats + KD__FENCE));
    for (i = 1; i <= scratches && f->scratch; ++i)
        KD__FENCE_UP(f->scratch + i * ((size_t)f->floats + KD__FENCE) - KD__FENCE, KD__FENCE * sizeof(float));
    if (data->batch) {
        f->stream = KD__NEW(kd, float, kd__times(floats, 2));
        f->stream_labels = KD__NEW(kd, int32_t, 2 * batch);
    }
    if (data->soft_labels || f->augment.mixup != 0)
        f->soft = KD__NEW(kd, float, kd__times((size_t)batch, (size_t)KD__MAX(data->classes, 1)));
    if (f->x && f->labels && f->partners && f->scratch && (!data->batch || (f->stream && f->stream_labels)) &&
        (f->soft || (!data->soft_labels && f->augment.mixup == 0)))
        return KD_OK;
    kd__feed_close(f);
    return KD_ERR_MEMORY;
}

/* The same of images alone: labels are not looked at. */
KD__PRIVATE kd_result kd__feed_open_images(kd__feed *f, kd_ctx *kd, const kd_data *data, const kd_augment *augment,
                                           uint64_t seed, int batch)
{
    kd_data images = *data;
    kd_result result;
    images.labels = NULL;
    images.soft_labels = NULL;
    images.classes = 0;
    result = kd__feed_open(f, kd, &images, augment, seed, batch);
    if (result != KD_OK) return result;
    f->images = images;
    f->data = &f->images;
    return KD_OK;
}

/* One view of one sample, normalised, into `to`. `slot` is its place among what a stream delivered. */
KD__PRIVATE void kd__feed_view(const kd__feed *f, int sample, int slot, float *scratch, float *to)
{
    const kd_data *d = f->data;
    const kd__kernels *k = f->kd->k;
    const int pixels = d->height * d->width;
    const uint64_t key = kd__rng_key(f->seed, KD__RNG_AUGMENT, (uint64_t)f->view, (uint64_t)sample);
    const float *from;
    if (d->batch) {
        from = f->stream + slot * f->floats;
    } else if (d->type == KD_PIXELS_U8) {
        float *bytes = f->augmented ? scratch : to;
        k->from_bytes(f->floats, (const uint8_t *)d->pixels + sample * f->floats, bytes);
        from = bytes;
    } else {
        from = (const float *)d->pixels + sample * f->floats;
    }
    if (f->augmented) {
        if (f->augment.shift || f->augment.flip || f->augment.rotate != 0)
            kd__augment_place(&f->augment, key, d->channels, d->height, d->width, from, to);
        else
            memcpy(to, from, (size_t)f->floats * sizeof *to);
        kd__augment_colour(&f->augment, key, d->channels, pixels, to);
        from = to;
    }
    kd__normalise_sample(k, d->channels, pixels, d->mean, d->std, from, to);
    if (f->augment.cutout) kd__augment_cutout(&f->augment, key, d->channels, d->height, d->width, to);
}

KD__PRIVATE int32_t kd__feed_label(const kd__feed *f, int sample, int slot)
{
    return f->data->batch ? f->stream_labels[slot] : f->data->labels ? f->data->labels[sample] : KD_UNLABELLED;
}

/* soft += share * the label of a sample */
KD__PRIVATE void kd__feed_soft_label(const kd__feed *f, int sample, int slot, float share, float *soft)
{
    const int classes = f->data->classes;
    const int32_t label = kd__feed_label(f, sample, slot);
    int c;
    if (f->data->soft_labels) {
        for (c = 0; c < classes; ++c) soft[c] += share * f->data->soft_labels[(ptrdiff_t)sample * classes + c];
    } else if (label >= 0 && label < classes) {
        soft[label] += share;
    }
}

enum { KD__FEED_TASK = 8 }; /* samples */

KD__PRIVATE void kd__feed_task(void *arg, int index, int worker)
{
    const kd__feed *f = (const kd__feed *)arg;
    float *scratch = f->scratch + (ptrdiff_t)worker * 2 * (f->floats + KD__FENCE);
    float *other = scratch + f->floats + KD__FENCE;
    const int classes = f->data->classes, end = KD__MIN(f->n, (index + 1) * KD__FEED_TASK);
    int i;
    ptrdiff_t j;
    for (i = index * KD__FEED_TASK; i < end; ++i) {
        float *to = f->x + i * f->floats;
        kd__feed_view(f, f->samples[i], i, scratch, to);
        f->labels[i] = kd__feed_label(f, f->samples[i], i);
        if (!f->soft) continue;
        memset(f->soft + (ptrdiff_t)i * classes, 0, (size_t)classes * sizeof(float));
        if (f->augment.mixup != 0) { /* Zhang et al. 2018 */
            const uint64_t key = kd__rng_key(f->seed, KD__RNG_MIXUP, (uint64_t)f->view, (uint64_t)f->samples[i]);
            const float share = kd__beta(key, (double)f->augment.mixup);
            kd__feed_view(f, f->partners[i], f->n + i, scratch, other);
            for (j = 0; j < f->floats; ++j) to[j] = share * to[j] + (1 - share) * other[j];
            kd__feed_soft_label(f, f->samples[i], i, share, f->soft + (ptrdiff_t)i * classes);
            kd__feed_soft_label(f, f->partners[i], f->n + i, 1 - share, f->soft + (ptrdiff_t)i * classes);
        } else {
            kd__feed_soft_label(f, f->samples[i], i, 1, f->soft + (ptrdiff_t)i * classes);
        }
    }
}

/* Another sample, each with the same probability: who draws himself draws once more, from all others. */
KD__PRIVATE int32_t kd__feed_partner(const kd__feed *f, int32_t sample, uint64_t key)
{
    const int count = f->pool ? f->pool_count : f->data->count;
    int at = kd__rng_index(key, UINT64_MAX, count);
    if (count > 1 && (f->pool ? f->pool[at] : at) == sample)
        at = (at + 1 + kd__rng_index(key, UINT64_MAX - 1, count - 1)) % count;
    return f->pool ? f->pool[at] : at;
}

/* Makes the batch of the given samples, in the given view (0 where nothing is augmented). */
KD__PRIVATE kd_result kd__feed_batch(kd__feed *f, const int32_t *samples, int n, int view)
{
    int i;
    f->samples = samples;
    f->n = n;
    f->view = view;
    for (i = 0; i < n && f->augment.mixup != 0; ++i)
        f->partners[i] = kd__feed_partner(
            f, samples[i], kd__rng_key(f->seed, KD__RNG_MIXUP, (uint64_t)view, (uint64_t)samples[i]));
    if (f->data->batch) {
        const int sets = f->augment.mixup != 0 ? 2 : 1;
        for (i = 0; i < sets; ++i) {
            float *to = f->stream + i * n * f->floats;
            int32_t *labels = f->stream_labels + i * n;
            int j;
            for (j = 0; j < n; ++j) labels[j] = KD_UNLABELLED;
            if (f->data->batch(f->data->user, i ? f->partners : samples, n, to, labels))
                return kd__fail(f->kd, KD_ERR_DATA,
                                "the batch callback failed for %d samples, the first of them sample %d", n,
                                (int)samples[0]);
            if (!f->kd->k->all_finite(n * f->floats, to))
                return kd__check_finite(f->kd, "the batch callback", "the images", to, n, f->floats);
        }
    }
    kd__parallel(f->kd, (n + KD__FEED_TASK - 1) / KD__FEED_TASK, kd__feed_task, f);
    return KD_OK;
}

/* ---- evaluation ------------------------------------------------------------------------------------------ */

KDDEF kd_evaluate_desc kd_evaluate_defaults(void)
{
    kd_evaluate_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.cookie = KD__COOKIE;
    desc.batch = 256;
    desc.prompt_temperature = 1;
    return desc;
}

enum { KD__ECE_BINS = 15 };

/* A callback about progress, or none. */
typedef struct kd__progress {
    kd_progress_fn fn;
    void *user;
    int64_t done, all;
} kd__progress;

KD__PRIVATE kd_result kd__progress_add(kd__progress *p, int64_t more)
{
    p->done = KD__MIN(p->done + more, p->all);
    return p->fn && p->fn(p->user, p->done, p->all) ? KD_STOPPED : KD_OK;
}

/* Sums over samples from which the metrics follow. */
typedef struct kd__tally {
    int outputs, classes;
    int64_t labelled, correct, attacked, robust, agreed, seen, teacher_seen;
    double nll, kl, squares;
    int64_t bin_count[KD__ECE_BINS], bin_correct[KD__ECE_BINS];
    double bin_confidence[KD__ECE_BINS];
    int64_t class_correct[KD_METRICS_CLASSES], class_count[KD_METRICS_CLASSES];
    int64_t *confusion;
} kd__tally;

/* A single logit decides between two classes by its sign. */
KD__PRIVATE int kd__choice(const float *logits, int outputs)
{
    return outputs == 1 ? logits[0] > 0 : kd__argmax(logits, outputs);
}

/* Log-probability of a class, from logits or, where there are several, from their log-softmax. */
KD__PRIVATE double kd__log_prob(const float *logits, const float *log_probs, int outputs, int class_index)
{
    const double s = outputs == 1 ? (double)logits[0] * (class_index == 1 ? 1 : -1) : 0;
    if (outputs > 1) return (double)log_probs[class_index];
    return -(s > 0 ? log(1 + exp(-s)) : log(1 + exp(s)) - s);
}

/* KL(teacher || student) of a sample, from logits and their log-softmax. Where the two nearly agree, from the terms
   p (e^w - 1 - w), w = s - t about its mean, which are all positive, so that nothing cancels. */
KD__PRIVATE double kd__tally_kl(const float *teacher, const float *teacher_log_probs, const float *student,
                                const float *log_probs, int outputs)
{
    double sum = 0, mean = 0, beyond = 0, kl = 0;
    int c;
    for (c = 0; c < KD__MAX(outputs, 2); ++c) {
        const double log_p = kd__log_prob(teacher, teacher_log_probs, outputs, c), p = exp(log_p);
        const int column = outputs > 1 ? c : c == 1 ? 0 : -1; /* a single logit is that of class 1, beside 0 */
        sum += p;
        if (column >= 0) mean += p * ((double)student[column] - (double)teacher[column]);
        kl += p * (log_p - kd__log_prob(student, log_probs, outputs, c));
    }
    if (!(kl < 0.5)) return kl;
    for (c = 0; c < KD__MAX(outputs, 2); ++c) {
        const double log_p = kd__log_prob(teacher, teacher_log_probs, outputs, c), p = exp(log_p);
        const int column = outputs > 1 ? c : c == 1 ? 0 : -1;
        const double w = (column >= 0 ? (double)student[column] - (double)teacher[column] : 0) - mean / sum;
        const double series = w * w * (0.5 + w * (1 / 6.0 + w * (1 / 24.0 + w * (1 / 120.0 + w / 720.0))));
        beyond += w > -0.01 && w < 0.01 ? p * series : exp(log_p + w) - p * (1 + w);
    }
    beyond /= sum;
    return beyond < 1e-4 ? beyond * (1 - beyond * (0.5 - beyond / 3)) : log(1 + beyond);
}

KD__PRIVATE void kd__tally_sample(kd__tally *t, const float *logits, const float *log_probs, const float *teacher,
                                  const float *teacher_log_probs, int32_t label)
{
    const int choice = kd__choice(logits, t->outputs);
    ++t->seen;
    if (teacher) {
        ++t->teacher_seen;
        t->agreed += choice == kd__choice(teacher, t->outputs);
        t->kl += kd__tally_kl(teacher, teacher_log_probs, logits, log_probs, t->outputs);
    }
    if (label >= 0) {
        const double confidence = exp(kd__log_prob(logits, log_probs, t->outputs, choice));
        const int bin = KD__MIN(KD__ECE_BINS - 1, KD__MAX(0, (int)ceil(confidence * (double)KD__ECE_BINS) - 1));
        const int correct = choice == label;
        ++t->labelled;
        t->correct += correct;
        t->nll -= kd__log_prob(logits, log_probs, t->outputs, label);
        ++t->bin_count[bin];
        t->bin_correct[bin] += correct;
        t->bin_confidence[bin] += confidence;
        if (label < KD_METRICS_CLASSES) {
            ++t->class_count[label];
            t->class_correct[label] += correct;
        }
        if (t->confusion && choice < t->classes) ++t->confusion[(ptrdiff_t)label * t->classes + choice];
    }
}

KD__PRIVATE void kd__tally_finish(const kd__tally *t, kd_metrics *out)
{
    int i;
    memset(out, 0, sizeof *out);
    out->count = (int)t->labelled;
    out->agreement = out->kl = out->robust_accuracy = -1;
    if (t->attacked) out->robust_accuracy = (double)t->robust / (double)t->attacked;
    if (t->labelled) {
        out->accuracy = (double)t->correct / (double)t->labelled;
        out->nll = t->nll / (double)t->labelled;
        for (i = 0; i < KD__ECE_BINS; ++i)
            out->ece += fabs((double)t->bin_correct[i] - t->bin_confidence[i]) / (double)t->labelled;
    }
    if (t->seen) out->mse = t->squares / ((double)t->seen * t->outputs);
    if (t->teacher_seen) {
        out->agreement = (double)t->agreed / (double)t->teacher_seen;
        out->kl = t->kl / (double)t->teacher_seen;
    }
    out->classes = KD__MIN(t->classes, KD_METRICS_CLASSES);
    for (i = 0; i < out->classes; ++i) {
        out->class_count[i] = (int)t->class_count[i];
        if (t->class_count[i]) out->class_accuracy[i] = (double)t->class_correct[i] / (double)t->class_count[i];
    }
}

/* Everything an evaluation needs, opened once and run over any samples: the training loop evaluates every epoch. */
typedef struct kd__evaluator {
    const kd_model *m;
    const kd_data *data;
    const kd_model *teacher;
    kd__feed feed, teacher_feed; /* the second where the teacher sees something else */
    kd__attacker attack, prompt_attack;
    kd__run *run, *teacher_run;
    float *logits, *log_probs, *teacher_logits, *teacher_log_probs; /* (batch, outputs) */
    float *head, *teacher_head;                                     /* (batch, columns); NULL without a head */
    kd_prompt prompt;
    float prompt_temperature;
    float *prompts; /* (batch, N); NULL unless there are prompts */
    int32_t *order; /* (batch) */
    int batch, outputs;
    int first, columns, task; /* the head that is looked at; columns: of all outputs, if there are no others */
    kd__progress progress;
} kd__evaluator;

/* The labels of a task, NULL where they come with the batch or there are none. */
KD__PRIVATE const int32_t *kd__data_labels(const kd_data *data, int task)
{
    return task ? data->task_labels + (ptrdiff_t)(task - 1) * data->count : data->labels;
}

KD__PRIVATE int kd__data_has_label(const kd_data *data)
{
    int i;
    for (i = 0; data->labels && i < data->count; ++i) {
        if (data->labels[i] != KD_UNLABELLED) return 1;
    }
    return 0;
}

/* What labels of a head may be: with one column they are 0 or 1. */
KD__PRIVATE int kd__head_classes(int columns) { return KD__MAX(columns, 2); }

/* And of all outputs: `classes` may say anything where each loss has columns of its own. */
KD__PRIVATE int kd__whole_classes(const kd_data *data, int outputs)
{
    return KD__MIN(KD__MAX(data->classes, outputs), kd__head_classes(outputs));
}

/* Whether model and data have the columns and labels that a loss or an evaluation asks for. */
KD__PRIVATE kd_result kd__head_check(kd_ctx *kd, const char *where, const kd_model *m, const kd_data *data,
                                     int first, int columns, int task)
{
    const int outputs = kd_model_outputs(m);
    if (first < 0 || columns < 0 || (first && !columns) || columns > outputs || first > outputs - columns)
        return kd__fail(kd, KD_ERR_SHAPE, "%s: %d columns from column %d, but the model has %d outputs", where,
                        columns, first, outputs);
    if (task < 0 || task > (data->task_labels ? data->task_count : 0))
        return kd__fail(kd, KD_ERR_DATA, "%s: task %d, but the data have labels for %d besides the first", where,
                        task, data->task_labels ? data->task_count : 0);
    if (task && !columns)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: task %d needs first and columns of its head", where, task);
    return KD_OK;
}

/* Columns of some rows, one row after the other. */
KD__PRIVATE void kd__gather_columns(float *to, const float *from, int rows, int cols, int first, int columns)
{
    int r;
    for (r = 0; r < rows; ++r)
        memcpy(to + (ptrdiff_t)r * columns, from + (ptrdiff_t)r * cols + first, (size_t)columns * sizeof *to);
}

KD__PRIVATE void kd__gather_rows(float *to, const float *from, const int32_t *rows, int n, int cols)
{
    int i;
    for (i = 0; i < n; ++i)
        memcpy(to + (ptrdiff_t)i * cols, from + (ptrdiff_t)rows[i] * cols, (size_t)cols * sizeof *to);
}

/* Whether a model can be given these prompts. */
KD__PRIVATE kd_result kd__prompt_check(kd_ctx *kd, const char *where, const kd_model *m, kd_prompt prompt,
                                       const kd_data *data, int has_teacher, int attacked)
{
    const int wanted = prompt == KD_PROMPT_SIDE ? data->side_count : kd_model_outputs(m);
    if (prompt == KD_PROMPT_NONE && attacked)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: prompt_attack without prompts that it could change", where);
    if (prompt == KD_PROMPT_NONE) return KD_OK;
    if ((unsigned)prompt > (unsigned)KD_PROMPT_SIDE)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: %d is no kind of prompt", where, (int)prompt);
    if (prompt == KD_PROMPT_TEACHER ? !has_teacher : !data->side)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: these prompts need %s", where,
                        prompt == KD_PROMPT_TEACHER ? "a teacher" : "kd_data.side");
    if (m->prompt != wanted)
        return kd__fail(kd, KD_ERR_SHAPE, "%s: a prompt has %d numbers, but the model takes %d", where, wanted,
                        m->prompt);
    return prompt == KD_PROMPT_SIDE ? kd__check_finite(kd, where, "side", data->side, data->count, wanted) : KD_OK;
}

KD__PRIVATE void kd__prompt_fill(const kd_model *m, kd_prompt prompt, float temperature, const kd_data *data,
                                 const float *teacher_logits, const int32_t *samples, int n, float *to)
{
    int i;
    if (prompt == KD_PROMPT_SIDE)
        kd__gather_rows(to, data->side, samples, n, m->prompt);
    else if (m->prompt == 1)
        for (i = 0; i < n; ++i)
            to[i] = (float)(1 / (1 + kd__exp(-(double)teacher_logits[i] / (double)temperature)));
    else
        m->kd->k->softmax(teacher_logits, n, m->prompt, temperature, 0, to);
}

KD__PRIVATE void kd__evaluator_close(kd__evaluator *e)
{
    kd_ctx *kd = e->m->kd;
    kd__run_close(e->run);
    kd__run_close(e->teacher_run);
    if (e->feed.kd) kd__feed_close(&e->feed);
    if (e->teacher_feed.kd) kd__feed_close(&e->teacher_feed);
    kd__attack_close(&e->attack);
    kd__attack_close(&e->prompt_attack);
    kd__free(kd, e->logits);
    kd__free(kd, e->log_probs);
    kd__free(kd, e->teacher_logits);
    kd__free(kd, e->teacher_log_probs);
    kd__free(kd, e->head);
    kd__free(kd, e->teacher_head);
    kd__free(kd, e->prompts);
    kd__free(kd, e->order);
    memset(e, 0, sizeof *e);
}

/* attack: NULL, or checked. */
/* What an evaluation compares outputs with. */
KD__PRIVATE kd_result kd__check_comparisons(kd_ctx *kd, const char *where, const kd_data *data, int outputs)
{
    kd_result result = KD_OK;
    if (data->targets) result = kd__check_finite(kd, where, "targets", data->targets, data->count, outputs);
    if (result == KD_OK && data->teacher_logits)
        result = kd__check_finite(kd, where, "teacher_logits", data->teacher_logits, data->count, outputs);
    return result;
}

KD__PRIVATE kd_result kd__evaluator_open(kd__evaluator *e, const kd_model *m, const kd_data *data,
                                         const kd_model *teacher, const kd_attack_desc *attack, int batch)
{
    kd_ctx *kd = m->kd;
    size_t all;
    kd_result result;
    memset(e, 0, sizeof *e);
    e->m = m;
    e->data = data;
    e->teacher = teacher;
    e->outputs = e->columns = kd_model_outputs(m);
    e->batch = KD__MIN(batch, data->count);
    all = kd__times((size_t)e->batch, (size_t)e->outputs);
    e->logits = KD__NEW(kd, float, all);
    e->log_probs = KD__NEW(kd, float, all);
    e->teacher_logits = KD__NEW(kd, float, all);
    e->teacher_log_probs = KD__NEW(kd, float, all);
    e->order = KD__NEW(kd, int32_t, e->batch);
    result = e->logits && e->log_probs && e->teacher_logits && e->teacher_log_probs && e->order
                 ? kd__feed_open(&e->feed, kd, data, NULL, 0, e->batch)
                 : KD_ERR_MEMORY;
    if (result == KD_OK) result = kd__run_open(m, NULL, e->batch, &e->run);
    if (result == KD_OK && teacher) result = kd__run_open(teacher, NULL, e->batch, &e->teacher_run);
    if (result == KD_OK && attack)
        result = kd__attack_open(&e->attack, m, m->input, attack, data->channels, data->mean, data->std, e->batch);
    if (attack) e->attack.seed = attack->seed;
    if (result != KD_OK) kd__evaluator_close(e);
    return result;
}

/* attack: NULL, or checked. On failure the evaluator is closed. */
KD__PRIVATE kd_result kd__evaluator_prompt(kd__evaluator *e, kd_prompt prompt, float temperature,
                                           const kd_attack_desc *attack)
{
    kd_result result = KD_OK;
    if (prompt == KD_PROMPT_NONE) return KD_OK;
    e->prompt = prompt;
    e->prompt_temperature = temperature;
    e->prompts = KD__NEW(e->m->kd, float, kd__times((size_t)e->batch, (size_t)e->m->prompt));
    if (!e->prompts)
        result = KD_ERR_MEMORY;
    else if (attack)
        result = kd__attack_open(&e->prompt_attack, e->m, e->m->prompted, attack, 0, NULL, NULL, e->batch);
    if (attack) e->prompt_attack.seed = attack->seed;
    if (result != KD_OK) kd__evaluator_close(e);
    return result;
}

/* On failure the evaluator is closed. */
KD__PRIVATE kd_result kd__evaluator_teacher_data(kd__evaluator *e, const kd_data *data)
{
    const kd_result result =
        data && e->teacher ? kd__feed_open_images(&e->teacher_feed, e->m->kd, data, NULL, 0, e->batch) : KD_OK;
    if (result != KD_OK) kd__evaluator_close(e);
    return result;
}

/* On failure the evaluator is closed. */
KD__PRIVATE kd_result kd__evaluator_head(kd__evaluator *e, int first, int columns, int task)
{
    const size_t all = kd__times((size_t)e->batch, (size_t)columns);
    if (columns == 0) return KD_OK;
    e->first = first;
    e->columns = columns;
    e->task = task;
    e->head = KD__NEW(e->m->kd, float, all);
    e->teacher_head = KD__NEW(e->m->kd, float, all);
    if (e->head && e->teacher_head) return KD_OK;
    kd__evaluator_close(e);
    return KD_ERR_MEMORY;
}

KD__PRIVATE int kd__evaluator_classes(const kd__evaluator *e)
{
    return e->head ? kd__head_classes(e->columns) : kd__whole_classes(e->data, e->outputs);
}

#ifndef KD_NO_TRAIN
/* Attacks the images of a batch that the feed has made, or their prompts. */
KD__PRIVATE kd_result kd__evaluator_attack(kd__evaluator *e, kd__attacker *a, const float *prompts,
                                           const int32_t *samples, int n)
{
    static const char where[] = "evaluation";
    const float *teacher = e->teacher_run || e->data->teacher_logits ? e->teacher_logits : NULL;
    kd_result result = KD_OK;
    a->samples = samples;
    if (kd__loss_uses_labels(&a->desc.loss)) /* what has no label is left in its place */
        result = kd__loss_check_labels(a->kd, where, &a->desc.loss, 1, e->feed.labels, samples, n, e->outputs);
    if (result != KD_OK) return result;
    return kd__attack_make(a, where, e->feed.x, prompts, n, teacher, e->feed.labels, NULL);
}
#else
KD__PRIVATE kd_result kd__evaluator_attack(kd__evaluator *e, kd__attacker *a, const float *prompts,
                                           const int32_t *samples, int n)
{
    (void)e, (void)a, (void)prompts, (void)samples, (void)n;
    return KD_ERR_UNSUPPORTED; /* kd__attack_check has refused it */
}
#endif

/* What both models say to a batch that the feed has made, and their log-probabilities. */
KD__PRIVATE kd_result kd__evaluator_batch(kd__evaluator *e, const int32_t *now, int n, const float **student,
                                          const float **teacher)
{
    const kd__kernels *k = e->m->kd->k;
    const kd_data *d = e->data;
    kd_result result = KD_OK;
    *teacher = e->teacher_run || d->teacher_logits ? e->teacher_logits : NULL;
    if (e->teacher_run) {
        kd__run_forward(e->teacher_run, e->teacher_feed.kd ? e->teacher_feed.x : e->feed.x, n);
        kd__export(e->teacher_run, n, e->teacher_logits);
    } else if (d->teacher_logits) {
        kd__gather_rows(e->teacher_logits, d->teacher_logits, now, n, e->outputs);
    }
    if (e->prompts)
        kd__prompt_fill(e->m, e->prompt, e->prompt_temperature, d, e->teacher_logits, now, n, e->prompts);
    if (e->prompt_attack.kd) result = kd__evaluator_attack(e, &e->prompt_attack, e->prompts, now, n);
    if (result != KD_OK) return result;
    e->run->prompt = e->prompt_attack.kd ? e->prompt_attack.x : e->prompts;
    kd__run_forward(e->run, e->feed.x, n);
    kd__export(e->run, n, e->logits);
    *student = e->logits;
    if (e->head) {
        kd__gather_columns(e->head, e->logits, n, e->outputs, e->first, e->columns);
        *student = e->head;
        if (*teacher) {
            kd__gather_columns(e->teacher_head, e->teacher_logits, n, e->outputs, e->first, e->columns);
            *teacher = e->teacher_head;
        }
    }
    k->softmax(*student, n, e->columns, 1, 1, e->log_probs);
    if (*teacher) k->softmax(*teacher, n, e->columns, 1, 1, e->teacher_log_probs);
    return KD_OK;
}

/* Counts what is left of the accuracy when the batch at hand is attacked; its labels are good. */
KD__PRIVATE kd_result kd__evaluator_robust(kd__evaluator *e, const int32_t *samples, int n, kd__tally *t)
{
    const kd_result result = kd__evaluator_attack(e, &e->attack, NULL, samples, n);
    int i;
    if (result != KD_OK) return result;
    kd__run_forward(e->run, e->attack.x, n);
    kd__export(e->run, n, e->logits);
    for (i = 0; i < n; ++i) {
        if (e->feed.labels[i] < 0) continue;
        ++t->attacked;
        t->robust += kd__choice(e->logits + (ptrdiff_t)i * e->outputs, e->outputs) == e->feed.labels[i];
    }
    return KD_OK;
}

/* samples NULL: 0 to count - 1. keep_logits and t->confusion are optional. */
KD__PRIVATE kd_result kd__evaluator_run(kd__evaluator *e, const int32_t *samples, int count, kd__tally *t,
                                        float *keep_logits)
{
    const kd_data *d = e->data;
    const int32_t *labels = e->task ? kd__data_labels(d, e->task) : NULL;
    int first, i, c, n;
    t->outputs = e->columns;
    t->classes = kd__evaluator_classes(e);
    for (first = 0; first < count; first += n) {
        const int32_t *now = samples ? samples + first : e->order;
        const float *student, *teacher;
        kd_result result;
        n = KD__MIN(e->batch, count - first);
        for (i = 0; i < n && !samples; ++i) e->order[i] = first + i;
        result = kd__feed_batch(&e->feed, now, n, 0);
        if (result == KD_OK && e->teacher_feed.kd) result = kd__feed_batch(&e->teacher_feed, now, n, 0);
        if (result != KD_OK) return result;
        result = kd__evaluator_batch(e, now, n, &student, &teacher);
        if (result != KD_OK) return result;
        for (i = 0; i < n; ++i) {
            const ptrdiff_t at = (ptrdiff_t)i * e->columns;
            const int32_t label = labels ? labels[now[i]] : e->feed.labels[i];
            if (label != KD_UNLABELLED && (label < 0 || label >= t->classes))
                return kd__fail(e->m->kd, KD_ERR_DATA, "evaluation: label %ld of sample %ld is outside 0 to %d",
                                (long)label, (long)now[i], t->classes - 1);
            kd__tally_sample(t, student + at, e->log_probs + at, teacher ? teacher + at : NULL,
                             e->teacher_log_probs + at, label);
            for (c = 0; d->targets && c < e->columns; ++c) {
                const double difference =
                    (double)student[at + c] - (double)d->targets[(ptrdiff_t)now[i] * e->outputs + e->first + c];
                t->squares += difference * difference;
            }
        }
        if (keep_logits)
            memcpy(keep_logits + (ptrdiff_t)first * e->outputs, e->logits,
                   (size_t)n * (size_t)e->outputs * sizeof(float));
        if (e->attack.kd) result = kd__evaluator_robust(e, now, n, t);
        if (result == KD_OK) result = kd__progress_add(&e->progress, n);
        if (result != KD_OK) return result;
    }
    return KD_OK;
}

/* Model and data fit: outputs and classes. */
KD__PRIVATE kd_result kd__check_classes(kd_ctx *kd, const char *where, const kd_model *m, const kd_data *data)
{
    const int outputs = kd_model_outputs(m);
    if (data->classes < 0 ||
        (data->classes > 0 && data->classes != outputs && !(outputs == 1 && data->classes == 2)))
        return kd__fail(kd, KD_ERR_SHAPE, "%s: the model has %d outputs, but the data have %d classes", where,
                        outputs, data->classes);
    if (data->classes == 0 && data->labels)
        return kd__fail(kd, KD_ERR_DATA, "%s: there are labels, but the number of classes is 0", where);
    return KD_OK;
}

/* What a teacher sees must be the same samples as the student's. */
KD__PRIVATE kd_result kd__check_teacher_data(kd_ctx *kd, const char *where, const kd_data *data,
                                             const kd_data *teacher_data)
{
    if (!teacher_data) return KD_OK;
    if (teacher_data->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS,
                        "%s: teacher_data must start from kd_data_u8, kd_data_f32 or kd_data_stream", where);
    if (teacher_data->count != data->count)
        return kd__fail(kd, KD_ERR_DATA, "%s: the student has %d samples, but teacher_data %d", where, data->count,
                        teacher_data->count);
    return KD_OK;
}

/* An attack of an evaluation, NULL: none, and what it is where that was left open. */
KD__PRIVATE kd_result kd__evaluate_attack(const kd_model *m, const kd_data *data, const kd_evaluate_desc *desc,
                                          const kd_attack_desc *attack, kd_attack_desc *out)
{
    static const char where[] = "kd_evaluate";
    if (!attack) return KD_OK;
    if (desc->columns) return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: attacks know nothing of several heads", where);
    *out = *attack;
    return kd__attack_check(m->kd, where, out, desc->teacher || data->teacher_logits, 0,
                            data->labels || data->batch, kd_model_outputs(m));
}

KD__PRIVATE kd_result kd__evaluate_all(const char *where, const kd_model *m, const kd_data *data,
                                       const kd_evaluate_desc *desc, kd_metrics *out)
{
    const kd_evaluate_desc defaults = kd_evaluate_defaults();
    kd_attack_desc attack, prompt_attack;
    kd__evaluator e;
    kd__tally *tally;
    kd_result result;
    if (!m) return KD_ERR_ARGUMENT;
    if (!desc) desc = &defaults;
    if (desc->cookie != KD__COOKIE)
        return kd__fail(m->kd, KD_ERR_DEFAULTS, "%s: the options must start from kd_evaluate_defaults()", where);
    if (!out) return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: out must not be NULL", where);
    if (desc->batch < 1 || desc->batch > 1 << 16)
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: batch must be 1 to 65536, got %d", where, desc->batch);
    if (!(desc->prompt_temperature >= 1e-3f && desc->prompt_temperature <= 1e6f))
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: prompt_temperature must be 0.001 to 1e+06, got %s", where,
                        kd__number((double)desc->prompt_temperature, 6).chars);
    result = kd__data_check(m->kd, where, data, m, "model");
    if (result == KD_OK) result = kd__head_check(m->kd, where, m, data, desc->first, desc->columns, desc->task);
    if (result == KD_OK && !desc->columns) result = kd__check_classes(m->kd, where, m, data);
    if (result == KD_OK && desc->teacher) {
        const kd_data *seen = desc->teacher_data ? desc->teacher_data : data;
        result = kd__check_teacher(m->kd, where, m, desc->teacher);
        if (result == KD_OK) result = kd__check_teacher_data(m->kd, where, data, desc->teacher_data);
        if (result == KD_OK) result = kd__data_check(m->kd, where, seen, desc->teacher, "teacher");
    } else if (result == KD_OK && desc->teacher_data) {
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: teacher_data without a teacher that would see them", where);
    }
    if (result == KD_OK)
        result = kd__prompt_check(m->kd, where, m, desc->prompt, data, desc->teacher || data->teacher_logits,
                                  desc->prompt_attack != NULL);
    if (result == KD_OK) result = kd__check_comparisons(m->kd, where, data, kd_model_outputs(m));
    if (result == KD_OK) result = kd__evaluate_attack(m, data, desc, desc->attack, &attack);
    if (result == KD_OK) result = kd__evaluate_attack(m, data, desc, desc->prompt_attack, &prompt_attack);
    if (result != KD_OK) return result;
    tally = KD__NEW(m->kd, kd__tally, 1);
    if (!tally) return KD_ERR_MEMORY;
    result = kd__evaluator_open(&e, m, data, desc->teacher, desc->attack ? &attack : NULL, desc->batch);
    if (result == KD_OK) result = kd__evaluator_teacher_data(&e, desc->teacher_data);
    if (result == KD_OK)
        result = kd__evaluator_prompt(&e, desc->prompt, desc->prompt_temperature,
                                      desc->prompt_attack ? &prompt_attack : NULL);
    if (result == KD_OK) result = kd__evaluator_head(&e, desc->first, desc->columns, desc->task);
    if (result == KD_OK) {
        const int classes = kd__evaluator_classes(&e);
        tally->confusion = desc->confusion;
        e.progress.fn = desc->on_progress, e.progress.user = desc->user, e.progress.all = data->count;
        if (desc->confusion)
            memset(desc->confusion, 0, (size_t)classes * (size_t)classes * sizeof *desc->confusion);
        result = kd__evaluator_run(&e, NULL, data->count, tally, desc->logits);
        kd__evaluator_close(&e);
    }
    if (result == KD_OK) kd__tally_finish(tally, out);
    kd__free(m->kd, tally);
    return result;
}

KDDEF kd_result kd_evaluate_with(const kd_model *m, const kd_data *data, const kd_evaluate_desc *desc,
                                 kd_metrics *out)
{
    return kd__evaluate_all("kd_evaluate_with", m, data, desc, out);
}

KDDEF kd_result kd_evaluate(const kd_model *m, const kd_data *data, kd_metrics *out)
{
    return kd__evaluate_all("kd_evaluate", m, data, NULL, out);
}

/* ============================================================================================================
   >>optim    optimizers, schedules
   uses: graph, parallel, math
   ============================================================================================================ */
#ifndef KD_NO_TRAIN

KDDEF const char *kd_optimizer_name(kd_optimizer optimizer)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_OPTIMIZERS(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)optimizer < (unsigned)KD_OPTIMIZER_COUNT ? words[optimizer] : "unknown";
}

KDDEF const char *kd_schedule_name(kd_schedule schedule)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_SCHEDULES(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)schedule < (unsigned)KD_SCHEDULE_COUNT ? words[schedule] : "unknown";
}

/* An option such as 0.1f is a little more or less than what was meant: x, or the whole number that it is within a
   float's rounding of. */
KD__PRIVATE double kd__meant(double x)
{
    const double whole = x < 1e15 ? (double)(int64_t)(x + 0.5) : x;
    return x - whole < 1e-7 * whole && whole - x < 1e-7 * whole ? whole : x;
}

KDDEF double kd_learning_rate(const kd_train_desc *desc, int64_t step, int64_t steps_per_epoch)
{
    const double lr = (double)desc->lr, end = (double)desc->lr_end, gamma = (double)desc->schedule_gamma;
    const int64_t steps = KD__MAX(1, steps_per_epoch);
    const double epoch = (double)step / (double)steps;
    const double warmup_steps = kd__meant((double)desc->warmup * (double)steps);
    double u, cosine, sine;
    if ((double)step < warmup_steps) return lr * ((double)step + 1) / (warmup_steps < 1 ? 1 : ceil(warmup_steps));
    u = desc->epochs > (double)desc->warmup ? (epoch - (double)desc->warmup) / (desc->epochs - (double)desc->warmup)
                                            : 0;
    switch (desc->schedule) {
    case KD_STEP: return lr * kd__power(gamma, (int64_t)kd__meant(epoch / (double)desc->schedule_step));
    case KD_EXPONENTIAL: return lr * kd__power(gamma, step / steps);
    case KD_LINEAR: return lr + (end - lr) * u;
    case KD_COSINE:
        kd__cos_sin(3.14159265358979323846 * u, &cosine, &sine);
        return end + (lr - end) * 0.5 * (1 + cosine);
    default: return lr;
    }
}

/* State of an optimizer: as many numbers as weights, once (SGD) or twice (Adam). */
typedef struct kd__optim {
    kd_model *m;
    const kd_train_desc *desc;
    float *first, *second; /* momentum, and with dot_delta that of soft terms; Adam's two moments */
    int64_t updates;
    kd__update update, soft_update; /* soft_update: of what follows soft terms; the same but for momentum */
    const float *grads, *soft_grads;
    char *grown; /* by piece of the weights: their norm has passed the limit */
} kd__optim;

/* The square of the norm from which on a tensor counts as infinite. Below it no update, with the largest learning
   rate and weight decay that are allowed, can leave the range of a float: what is found is still finite. */
static const double kd__norm_limit = 1e30;

KD__PRIVATE kd_result kd__optim_open(kd__optim *o, kd_model *m, const kd_train_desc *desc)
{
    const int sgd = desc->optimizer == KD_SGD;
    memset(o, 0, sizeof *o);
    o->m = m;
    o->desc = desc;
    if (!sgd || desc->momentum != 0) o->first = KD__NEW(m->kd, float, m->weight_count + 16);
    if (!sgd || desc->dot_delta > 0) o->second = KD__NEW(m->kd, float, m->weight_count + 16);
    o->grown = KD__NEW(m->kd, char, kd__pieces((ptrdiff_t)m->weight_count) + 1);
    if (!o->grown || (!o->second && (!sgd || desc->dot_delta > 0)) || (!o->first && (!sgd || desc->momentum != 0)))
        return KD_ERR_MEMORY;
    return KD_OK;
}

KD__PRIVATE void kd__optim_close(kd__optim *o)
{
    if (!o->m) return;
    kd__free(o->m->kd, o->first);
    kd__free(o->m->kd, o->second);
    kd__free(o->m->kd, o->grown);
}

KD__PRIVATE void kd__optim_update(const kd__optim *o, const kd__update *u, ptrdiff_t at, ptrdiff_t length)
{
    o->m->kd->k->update(u, length, o->m->weights + at, o->grads + at, o->first ? o->first + at : NULL,
                        o->second ? o->second + at : NULL);
}

/* The same tensor by tensor, where vectors do not decay. */
KD__PRIVATE void kd__optim_update_tensors(const kd__optim *o, ptrdiff_t at, ptrdiff_t length)
{
    int i;
    for (i = 0; i < o->m->param_count; ++i) {
        const kd__param *p = &o->m->params[i];
        const ptrdiff_t first = KD__MAX((ptrdiff_t)p->offset, at);
        const ptrdiff_t end = KD__MIN((ptrdiff_t)(p->offset + p->size), at + length);
        kd__update u = o->update;
        if (p->rank == 1) u.decay = 0;
        if (p->trained && first < end) kd__optim_update(o, &u, first, end - first);
    }
}

KD__PRIVATE void kd__optim_piece(void *arg, int index, int worker)
{
    const kd__optim *o = (const kd__optim *)arg;
    const kd__kernels *k = o->m->kd->k;
    const ptrdiff_t at = (ptrdiff_t)index * KD__PIECE,
                    length = kd__piece_length((ptrdiff_t)o->m->weight_count, index);
    (void)worker;
    if (o->desc->decay_norms_and_biases || o->update.decay == 0)
        kd__optim_update(o, &o->update, at, length);
    else
        kd__optim_update_tensors(o, at, length);
    if (o->soft_grads) {
        kd__update soft = o->soft_update;
        soft.decay = 0; /* once is enough */
        k->update(&soft, length, o->m->weights + at, o->soft_grads + at, o->second + at, NULL);
    }
    /* looked at while it is in the cache */
    o->grown[index] = !(k->sum_squares(length, o->m->weights + at) <= kd__norm_limit);
}

/* Max-norm (Srivastava et al. 2014, section 5.1): the weights that come into each unit. */
KD__PRIVATE void kd__optim_limit(void *arg, int index, int worker)
{
    const kd__optim *o = (const kd__optim *)arg;
    const kd__param *p = &o->m->params[index];
    const kd__kernels *k = o->m->kd->k;
    float *w = o->m->weights + p->offset;
    int g, col;
    (void)worker;
    if (!p->trained || p->layout == KD__VECTOR) return;
    if (p->layout == KD__TAPS) {
        k->limit_norms(w, p->c, p->h * p->w, p->c, o->desc->max_norm);
        return;
    }
    for (g = 0; g < p->groups; ++g, w += p->group_size) {
        for (col = 0; col < p->outputs; col += k->panel) {
            const int width = kd__panel_width(k, p->outputs - col);
            k->limit_norms(w + (ptrdiff_t)col * p->c * p->h * p->w, width, p->c * p->h * p->w, width,
                           o->desc->max_norm);
        }
    }
}

/* Returns 0 where weights have grown too large. soft_grads: NULL, or those of soft terms, which then are not in
   grads. */
KD__PRIVATE int kd__optim_step(kd__optim *o, const float *grads, const float *soft_grads, double lr,
                               double grad_scale)
{
    const kd_train_desc *d = o->desc;
    const int pieces = kd__pieces((ptrdiff_t)o->m->weight_count);
    kd__update *u = &o->update;
    int i, grown = 0;
    ++o->updates;
    o->grads = grads;
    o->soft_grads = soft_grads;
    u->optimizer = (int)d->optimizer;
    u->nesterov = d->nesterov;
    u->lr = (float)lr;
    u->momentum = KD__MAX(d->momentum - d->dot_delta, 0.0f);
    u->decay = d->weight_decay;
    u->beta1 = d->beta1;
    u->beta2 = d->beta2;
    u->epsilon = d->epsilon;
    u->correction1 = (float)(1 / (1 - kd__power((double)d->beta1, o->updates)));
    u->correction2 = (float)(1 / sqrt(1 - kd__power((double)d->beta2, o->updates)));
    u->grad_scale = (float)grad_scale;
    o->soft_update = *u;
    o->soft_update.momentum = d->momentum + d->dot_delta;
    kd__parallel(o->m->kd, pieces, kd__optim_piece, o);
    if (d->max_norm > 0) kd__parallel(o->m->kd, o->m->param_count, kd__optim_limit, o);
    for (i = 0; i < pieces; ++i) grown |= o->grown[i];
    return !grown;
}
#endif /* KD_NO_TRAIN */

/* ============================================================================================================
   >>features    losses on features and relations
   uses: optim, run
   Features are read into plain (n, c, h, w) arrays of doubles, where everything below works (kd__tap). Relations
   between samples are functions of the matrix of dot products, and so is their gradient. Work is dealt out by
   sample or by row and summed in their order: the same bits for any number of threads.
   ============================================================================================================ */
#ifndef KD_NO_TRAIN

enum { KD__MAX_FEATURES = 16, KD__MAX_TAPS = 8, KD__MAX_PARTS = 8 * KD__MAX_TAPS };
enum { KD__STUDENT, KD__TEACHER };

typedef struct kd__feature kd__feature;
typedef struct kd__feature_info kd__feature_info;
typedef struct kd__part kd__part;

struct kd__feature {
    kd_ctx *kd;
    kd_feature_loss desc;
    const kd__feature_info *info;
    kd__tap *tap[2][KD__MAX_TAPS]; /* of student, teacher */
    int layers;                    /* of each */
    double *room;
    double *values, *more;       /* in the room: (n), and what else the loss wants */
    float *params, *param_grads; /* of its learned part */
    int n;                       /* samples */
};

struct kd__feature_info {
    kd_feature_kind kind;
    double weight;
    int pools, pairs, lists;         /* averages to the smaller size; has second layers; takes several */
    double (*value)(kd__feature *f); /* and the gradient into the student's taps and param_grads */
    size_t (*more)(const kd__feature *f, size_t n);      /* beside a number for each sample; may be NULL */
    int (*parts)(const kd__feature *f, kd__part *parts); /* of its learned part; returns how many */
    double (*relation)(kd__feature *f, const double *gs, const double *gt, double *grad, size_t used);
};

KD__PRIVATE size_t kd__tap_pixels(const kd__tap *t) { return (size_t)t->h * (size_t)t->w; }
KD__PRIVATE size_t kd__tap_count(const kd__tap *t) { return (size_t)t->c * kd__tap_pixels(t); }

/* to += factor * from; by fours, which compilers make vectors of */
KD__PRIVATE void kd__add_times(double *to, double factor, const double *from, size_t n)
{
    size_t i;
    for (i = 0; i + 4 <= n; i += 4) {
        const double a = to[i] + factor * from[i], b = to[i + 1] + factor * from[i + 1];
        const double c = to[i + 2] + factor * from[i + 2], d = to[i + 3] + factor * from[i + 3];
        to[i] = a, to[i + 1] = b;
        to[i + 2] = c, to[i + 3] = d;
    }
    for (; i < n; ++i) to[i] += factor * from[i];
}

/* x /= |x|; returns the norm. A vector of zeros stays. */
KD__PRIVATE double kd__unit(double *x, size_t n)
{
    const double norm = sqrt(kd__dot(x, x, (int)n));
    size_t i;
    for (i = 0; i < n && norm > 0; ++i) x[i] /= norm;
    return norm;
}

/* The gradient by x where g is that by the unit vector u = x / norm. */
KD__PRIVATE void kd__unit_backward(const double *u, double norm, double *g, size_t n)
{
    const double along = kd__dot(u, g, (int)n);
    size_t i;
    for (i = 0; i < n; ++i) g[i] = norm > 0 ? (g[i] - u[i] * along) / norm : 0;
}

KD__PRIVATE double kd__sum(const double *x, int n)
{
    double sum = 0;
    int i;
    for (i = 0; i < n; ++i) sum += x[i];
    return sum;
}

/* Gives a loss its arrays in a room, or NULL while that is only measured. Returns how many doubles they take. */
KD__PRIVATE size_t kd__feature_place(kd__feature *f, size_t n, double *room)
{
    size_t used = 0;
    f->values = kd__take(room, &used, n);
    f->more = kd__take(room, &used, f->info->more ? f->info->more(f, n) : 0);
    return used;
}

/* The gradients go into the student's taps and param_grads. */
KD__PRIVATE double kd__feature_value(kd__feature *f)
{
    const size_t used = kd__feature_place(f, (size_t)f->n, f->room);
    const double value = f->info->value(f);
    kd__give_back(f->room, used);
    return value;
}

/* ---- learned parts --------------------------------------------------------------------------------------- */

/* A convolution that keeps the size: y = weight (out, in, side, side) x + bias, side odd, for n images. If side is
   more than 1, images are copied into wider ones with zeros around, whose room the owner of the filter gives. */
typedef struct kd__filter {
    const kd__kernels *k;
    int n, in, out, h, w, side;
    const float *weight, *bias; /* bias may be NULL */
    const double *x, *dy;
    double *y, *dx; /* dx may be NULL */
    double *wide_x, *wide_y;
    float *weight_grad, *bias_grad;
} kd__filter;

KD__PRIVATE kd__filter kd__filter_of(int n, int in, int out, const kd__tap *size, int side)
{
    kd__filter p;
    memset(&p, 0, sizeof p);
    p.n = n, p.in = in, p.out = out, p.side = side;
    p.h = size->h, p.w = size->w;
    return p;
}

KD__PRIVATE size_t kd__filter_weights(const kd__filter *p)
{
    return (size_t)p->out * (size_t)p->in * (size_t)(p->side * p->side);
}

/* Between lines, and before and after all, are as many zeros as the filter reaches beyond its middle. */
KD__PRIVATE int kd__filter_pitch(const kd__filter *p) { return p->w + p->side / 2; }
KD__PRIVATE int kd__filter_margin(const kd__filter *p) { return p->side / 2 * (kd__filter_pitch(p) + 1); }
KD__PRIVATE size_t kd__filter_plane(const kd__filter *p)
{
    return (size_t)(p->h * kd__filter_pitch(p) + 2 * kd__filter_margin(p));
}

/* Numbers of room that wide_x or wide_y takes. */
KD__PRIVATE size_t kd__filter_room(const kd__filter *p, int channels)
{
    return (size_t)p->n * (size_t)channels * kd__filter_plane(p);
}

/* What the kernels see from the first sample on: plain images, or the wider ones. */
KD__PRIVATE kd__planes kd__filter_planes(const kd__filter *p)
{
    kd__planes q;
    memset(&q, 0, sizeof q);
    q.in = p->in, q.out = p->out, q.side = p->side;
    q.pitch = kd__filter_pitch(p);
    q.count = p->h * (int)q.pitch;
    q.x_plane = q.y_plane = (ptrdiff_t)kd__filter_plane(p);
    q.x_sample = p->in * q.x_plane, q.y_sample = p->out * q.y_plane;
    q.w_out = (ptrdiff_t)p->in * p->side * p->side, q.w_in = (ptrdiff_t)p->side * p->side;
    q.weight = p->weight;
    q.samples = p->n;
    return q;
}

KD__PRIVATE void kd__filter_widen(const kd__filter *p, int channels, const double *from, double *to)
{
    const size_t pitch = (size_t)kd__filter_pitch(p), w = (size_t)p->w;
    int c, y;
    memset(to, 0, (size_t)channels * kd__filter_plane(p) * sizeof *to);
    for (c = 0; c < channels; ++c) {
        double *line = to + (size_t)c * kd__filter_plane(p) + kd__filter_margin(p);
        for (y = 0; y < p->h; ++y, from += w, line += pitch) memcpy(line, from, w * sizeof *from);
    }
}

KD__PRIVATE void kd__filter_narrow(const kd__filter *p, int channels, const double *from, double *to)
{
    const size_t pitch = (size_t)kd__filter_pitch(p), w = (size_t)p->w;
    int c, y;
    for (c = 0; c < channels; ++c) {
        const double *line = from + (size_t)c * kd__filter_plane(p) + kd__filter_margin(p);
        for (y = 0; y < p->h; ++y, to += w, line += pitch) memcpy(to, line, w * sizeof *to);
    }
}

KD__PRIVATE void kd__filter_forward(void *arg, int sample, int worker)
{
    const kd__filter *p = (const kd__filter *)arg;
    const size_t pixels = (size_t)(p->h * p->w);
    const double *x = p->x + (size_t)sample * (size_t)p->in * pixels;
    double *y = p->y + (size_t)sample * (size_t)p->out * pixels;
    kd__planes q = kd__filter_planes(p);
    ptrdiff_t i;
    int o;
    (void)worker;
    q.x = x, q.y = y;
    if (p->side > 1) {
        kd__filter_widen(p, p->in, x, p->wide_x + sample * q.x_sample);
        q.x = p->wide_x + sample * q.x_sample + kd__filter_margin(p);
        q.y = p->wide_y + sample * q.y_sample + kd__filter_margin(p);
    }
    for (o = 0; o < p->out; ++o) {
        for (i = 0; i < q.count; ++i) q.y[o * q.y_plane + i] = p->bias ? (double)p->bias[o] : 0;
    }
    p->k->planes_add(&q);
    if (p->side > 1) kd__filter_narrow(p, p->out, p->wide_y + sample * q.y_sample, y);
}

KD__PRIVATE void kd__filter_widen_gradient(void *arg, int sample, int worker)
{
    const kd__filter *p = (const kd__filter *)arg;
    const size_t count = (size_t)p->out * (size_t)(p->h * p->w);
    (void)worker;
    kd__filter_widen(p, p->out, p->dy + (size_t)sample * count,
                     p->wide_y + (size_t)sample * (size_t)p->out * kd__filter_plane(p));
}

/* Rows of weights from KD__LEARN_OUTS * task on. */
KD__PRIVATE void kd__filter_learn(void *arg, int task, int worker)
{
    const kd__filter *p = (const kd__filter *)arg;
    const int first = task * KD__LEARN_OUTS, end = KD__MIN(p->out, first + KD__LEARN_OUTS);
    const size_t pixels = (size_t)(p->h * p->w);
    kd__planes q = kd__filter_planes(p);
    size_t k;
    int o, i;
    (void)worker;
    q.x = p->side > 1 ? p->wide_x + kd__filter_margin(p) : p->x;
    q.dy = (p->side > 1 ? p->wide_y + kd__filter_margin(p) : p->dy) + first * q.y_plane;
    p->k->planes_learn(&q, end - first, p->weight_grad + first * q.w_out);
    for (o = first; o < end && p->bias; ++o) {
        double sum = 0;
        for (i = 0; i < p->n; ++i) {
            const double *dy = p->dy + ((size_t)i * (size_t)p->out + (size_t)o) * pixels;
            for (k = 0; k < pixels; ++k) sum += dy[k];
        }
        p->bias_grad[o] = (float)sum;
    }
}

/* By x: the same filter turned around, its inputs and outputs exchanged. The wider images of x are not needed any
   more. */
KD__PRIVATE void kd__filter_backward(void *arg, int sample, int worker)
{
    const kd__filter *p = (const kd__filter *)arg;
    const kd__planes forward = kd__filter_planes(p);
    double *dx = p->dx + (size_t)sample * (size_t)p->in * (size_t)(p->h * p->w);
    kd__planes q = forward;
    (void)worker;
    q.in = p->out, q.out = p->in;
    q.w_out = forward.w_in, q.w_in = forward.w_out;
    q.turned = 1;
    q.x = (p->side > 1 ? p->wide_y + kd__filter_margin(p) : p->dy) + sample * forward.y_sample;
    q.y = p->side > 1 ? p->wide_x + sample * forward.x_sample : dx;
    memset(q.y, 0, (size_t)forward.x_sample * sizeof *q.y);
    if (p->side > 1) q.y += kd__filter_margin(p);
    p->k->planes_add(&q);
    if (p->side > 1) kd__filter_narrow(p, p->in, p->wide_x + sample * forward.x_sample, dx);
}

KD__PRIVATE void kd__filter_gradients(const kd_ctx *kd, kd__filter *p)
{
    if (p->side > 1) kd__parallel(kd, p->n, kd__filter_widen_gradient, p);
    kd__parallel(kd, (p->out + KD__LEARN_OUTS - 1) / KD__LEARN_OUTS, kd__filter_learn, p);
    if (p->dx) kd__parallel(kd, p->n, kd__filter_backward, p);
}

/* Takes the next numbers of the learned part for weights and bias. */
KD__PRIVATE void kd__filter_params(kd__filter *p, const kd__feature *f, int bias, size_t *at)
{
    p->k = f->kd->k;
    p->weight = f->params + *at, p->weight_grad = f->param_grads + *at;
    *at += kd__filter_weights(p);
    if (!bias) return;
    p->bias = f->params + *at, p->bias_grad = f->param_grads + *at;
    *at += (size_t)p->out;
}

/* A stretch of a learned part starts uniform in centre +- 1/sqrt(fan), or at centre where fan is 0. */
struct kd__part {
    size_t count;
    double fan, centre;
};

KD__PRIVATE int kd__part_add(kd__part *parts, int at, size_t count, double fan, double centre)
{
    parts[at].count = count;
    parts[at].fan = fan;
    parts[at].centre = centre;
    return at + 1;
}

KD__PRIVATE size_t kd__feature_params(const kd__feature *f)
{
    kd__part parts[KD__MAX_PARTS];
    const int count = f->info->parts ? f->info->parts(f, parts) : 0;
    size_t sum = 0;
    int i;
    for (i = 0; i < count; ++i) sum += parts[i].count;
    return sum;
}

KD__PRIVATE void kd__feature_start(kd__feature *f, uint64_t key)
{
    kd__part parts[KD__MAX_PARTS];
    const int count = f->info->parts ? f->info->parts(f, parts) : 0;
    size_t at = 0, j;
    int i;
    for (i = 0; i < count; ++i) {
        for (j = 0; j < parts[i].count; ++j, ++at)
            f->params[at] =
                (float)(parts[i].fan > 0 ? parts[i].centre + (2 * kd__rng_unit(key, at) - 1) / sqrt(parts[i].fan)
                                         : parts[i].centre);
    }
}

/* ---- features -------------------------------------------------------------------------------------------- */

/* Value and gradient of the mean of squares, from prediction to gradient in place. */
KD__PRIVATE double kd__feature_squares(double *predicted, const double *wanted, size_t count)
{
    double sum = 0;
    size_t i;
    for (i = 0; i < count; ++i) {
        const double d = predicted[i] - wanted[i];
        sum += d * d;
        predicted[i] = 2 * d / (double)count;
    }
    return sum / (double)count;
}

KD__PRIVATE int kd__feature_regresses(const kd__feature *f)
{
    return f->tap[KD__STUDENT][0]->c != f->tap[KD__TEACHER][0]->c;
}

KD__PRIVATE int kd__feature_hint_parts(const kd__feature *f, kd__part *parts)
{
    const int in = f->tap[KD__STUDENT][0]->c, out = f->tap[KD__TEACHER][0]->c;
    return kd__feature_regresses(f) ? kd__part_add(parts, 0, (size_t)out * (size_t)(in + 1), in, 0) : 0;
}

KD__PRIVATE size_t kd__feature_hint_more(const kd__feature *f, size_t n)
{
    return kd__feature_regresses(f) ? n * kd__tap_count(f->tap[KD__TEACHER][0]) : 0;
}

KD__PRIVATE double kd__feature_hint(kd__feature *f)
{
    kd__tap *s = f->tap[KD__STUDENT][0], *t = f->tap[KD__TEACHER][0];
    const size_t count = (size_t)f->n * kd__tap_count(t);
    kd__filter p = kd__filter_of(f->n, s->c, t->c, t, 1);
    size_t at = 0;
    double value;
    if (!kd__feature_regresses(f)) {
        memcpy(s->grad, s->map, count * sizeof *s->grad);
        return kd__feature_squares(s->grad, t->map, count);
    }
    kd__filter_params(&p, f, 1, &at);
    p.x = s->map, p.dx = s->grad;
    p.y = f->more, p.dy = p.y;
    kd__parallel(f->kd, f->n, kd__filter_forward, &p);
    value = kd__feature_squares(p.y, t->map, count);
    kd__filter_gradients(f->kd, &p);
    return value;
}

/* Attention: a = q / |q|, where q is the sum over channels of squares. Returns |q|. */
KD__PRIVATE double kd__attention(const kd__tap *t, int sample, double *a)
{
    const size_t pixels = kd__tap_pixels(t);
    const double *x = t->map + (size_t)sample * kd__tap_count(t);
    size_t i;
    int c;
    memset(a, 0, pixels * sizeof *a);
    for (c = 0; c < t->c; ++c, x += pixels) {
        for (i = 0; i < pixels; ++i) a[i] += x[i] * x[i];
    }
    return kd__unit(a, pixels);
}

KD__PRIVATE size_t kd__feature_at_more(const kd__feature *f, size_t n)
{
    return n * 3 * kd__tap_pixels(f->tap[KD__STUDENT][0]);
}

KD__PRIVATE void kd__feature_at_sample(void *arg, int i, int worker)
{
    const kd__feature *f = (const kd__feature *)arg;
    const kd__tap *s = f->tap[KD__STUDENT][0];
    const size_t pixels = kd__tap_pixels(s);
    const double *x = s->map + (size_t)i * kd__tap_count(s);
    double *as = f->more + (size_t)i * 3 * pixels, *at = as + pixels, *g = at + pixels;
    double *grad = s->grad + (size_t)i * kd__tap_count(s);
    const double norm = kd__attention(s, i, as);
    double squares, factor;
    size_t j;
    int c;
    (void)worker;
    kd__attention(f->tap[KD__TEACHER][0], i, at);
    for (j = 0; j < pixels; ++j) g[j] = as[j] - at[j];
    squares = kd__dot(g, g, (int)pixels);
    if (f->desc.kind == KD_FEATURE_AT) {
        factor = 1 / ((double)f->n * (double)pixels);
        f->values[i] = squares * factor;
        factor *= 2;
    } else {
        f->values[i] = sqrt(squares) / f->n;
        factor = squares > 0 ? 1 / (sqrt(squares) * f->n) : 0;
    }
    for (j = 0; j < pixels; ++j) g[j] *= factor;
    kd__unit_backward(as, norm, g, pixels);
    for (c = 0; c < s->c; ++c) {
        for (j = 0; j < pixels; ++j) grad[(size_t)c * pixels + j] = 2 * x[(size_t)c * pixels + j] * g[j];
    }
}

KD__PRIVATE double kd__feature_at(kd__feature *f)
{
    kd__parallel(f->kd, f->n, kd__feature_at_sample, f);
    return kd__sum(f->values, f->n);
}

/* ---- relations ------------------------------------------------------------------------------------------- */

typedef struct kd__gram {
    const kd__feature *f;
    const kd__tap *tap;
    double *g; /* (n, n): dot products; or their gradient */
} kd__gram;

KD__PRIVATE void kd__gram_row(void *arg, int i, int worker)
{
    const kd__gram *m = (const kd__gram *)arg;
    const size_t n = (size_t)m->f->n, count = kd__tap_count(m->tap), row = (size_t)i;
    size_t j;
    (void)worker;
    for (j = 0; j <= row; ++j)
        m->g[row * n + j] = m->g[j * n + row] =
            kd__dot(m->tap->map + row * count, m->tap->map + j * count, (int)count);
}

KD__PRIVATE void kd__gram_backward(void *arg, int i, int worker)
{
    const kd__gram *m = (const kd__gram *)arg;
    const size_t n = (size_t)m->f->n, count = kd__tap_count(m->tap), row = (size_t)i;
    size_t j;
    (void)worker;
    memset(m->tap->grad + row * count, 0, count * sizeof(double));
    for (j = 0; j < n; ++j)
        kd__add_times(m->tap->grad + row * count, m->g[row * n + j] + m->g[j * n + row], m->tap->map + j * count,
                      count);
}

/* The most that a relation takes, with the three squares that all have. */
enum { KD__RELATION_SQUARES = 6, KD__RELATION_ROWS = 2 };

KD__PRIVATE size_t kd__relation_more(const kd__feature *f, size_t n)
{
    size_t used = 0;
    int i;
    (void)f;
    for (i = 0; i < KD__RELATION_SQUARES; ++i) kd__take(NULL, &used, n * n);
    for (i = 0; i < KD__RELATION_ROWS; ++i) kd__take(NULL, &used, n);
    return used;
}

KD__PRIVATE double kd__feature_relation(kd__feature *f)
{
    const size_t squares = (size_t)f->n * (size_t)f->n;
    kd__gram s, t, back;
    size_t used = 0;
    double value;
    s.f = t.f = f;
    s.tap = f->tap[KD__STUDENT][0], t.tap = f->tap[KD__TEACHER][0];
    s.g = kd__take(f->more, &used, squares), t.g = kd__take(f->more, &used, squares);
    kd__parallel(f->kd, f->n, kd__gram_row, &s);
    kd__parallel(f->kd, f->n, kd__gram_row, &t);
    back = s;
    back.g = kd__take(f->more, &used, squares);
    memset(back.g, 0, squares * sizeof(double));
    value = f->info->relation(f, s.g, t.g, back.g, used);
    kd__parallel(f->kd, f->n, kd__gram_backward, &back);
    return value;
}

KD__PRIVATE double kd__relation_sp(kd__feature *f, const double *gs, const double *gt, double *grad, size_t used)
{
    const size_t n = (size_t)f->n;
    double *s = kd__take(f->more, &used, n), *t = kd__take(f->more, &used, n), value = 0;
    size_t i, j;
    for (i = 0; i < n; ++i) {
        double norm;
        memcpy(s, gs + i * n, n * sizeof *s);
        memcpy(t, gt + i * n, n * sizeof *t);
        norm = kd__unit(s, n);
        kd__unit(t, n);
        for (j = 0; j < n; ++j) {
            const double d = s[j] - t[j];
            value += d * d;
            grad[i * n + j] = 2 * d / ((double)n * (double)n);
        }
        kd__unit_backward(s, norm, grad + i * n, n);
    }
    return value / ((double)n * (double)n);
}

KD__PRIVATE double kd__smooth_l1(double u, double *slope)
{
    const double size = u < 0 ? -u : u;
    *slope = size < 1 ? u : u < 0 ? -1 : 1;
    return size < 1 ? u * u / 2 : size - 0.5;
}

/* Distances from dot products; what cannot be told from rounding is 0. Returns the mean over i != j. */
KD__PRIVATE double kd__distances(const double *g, size_t n, double *d)
{
    double sum = 0;
    size_t i, j;
    for (i = 0; i < n; ++i) {
        for (j = 0; j < n; ++j) {
            const double both = g[i * n + i] + g[j * n + j], square = both - 2 * g[i * n + j];
            d[i * n + j] = i != j && square > 1e-14 * both ? sqrt(square) : 0;
            sum += d[i * n + j];
        }
    }
    return n > 1 ? sum / ((double)n * (double)(n - 1)) : 0;
}

/* The cosine of the angle at i between j and k. */
KD__PRIVATE double kd__angle(const double *g, const double *d, size_t n, size_t i, size_t j, size_t k)
{
    const double sides = d[i * n + j] * d[i * n + k];
    return sides > 0 ? (g[j * n + k] - g[i * n + j] - g[i * n + k] + g[i * n + i]) / sides : 0;
}

KD__PRIVATE double kd__relation_rkd(kd__feature *f, const double *gs, const double *gt, double *grad, size_t used)
{
    const size_t n = (size_t)f->n;
    const double pairs = (double)n * (double)n, triples = pairs * (double)n;
    double *ds = kd__take(f->more, &used, n * n), *dt = kd__take(f->more, &used, n * n);
    double *by_square = kd__take(f->more, &used, n * n); /* gradient by squared distances */
    const double mean_s = kd__distances(gs, n, ds), mean_t = kd__distances(gt, n, dt);
    double value = 0, angles = 0, spread = 0, slope;
    size_t i, j, k;
    for (i = 0; i < n * n; ++i) {
        const double s = mean_s > 0 ? ds[i] / mean_s : 0, t = mean_t > 0 ? dt[i] / mean_t : 0;
        value += kd__smooth_l1(s - t, &slope);
        by_square[i] = (double)f->desc.distance * slope / pairs;
        spread += by_square[i] * ds[i];
    }
    for (i = 0; i < n; ++i) {
        for (j = 0; j < n; ++j) {
            const double d = ds[i * n + j];
            if (d > 0)
                by_square[i * n + j] =
                    (by_square[i * n + j] - spread / (mean_s * (double)n * (double)(n - 1))) / mean_s / (2 * d);
            else
                by_square[i * n + j] = 0;
        }
    }
    /* (i, j, k) and (i, k, j) are the same; j = k has the cosine 1 on both sides, or 0 where points coincide */
    for (i = 0; i < n && f->desc.angle > 0; ++i) {
        for (j = 0; j < n; ++j) {
            if (i != j) angles += kd__smooth_l1((double)(ds[i * n + j] > 0) - (double)(dt[i * n + j] > 0), &slope);
            for (k = j + 1; k < n; ++k) {
                const double s = kd__angle(gs, ds, n, i, j, k), a = ds[i * n + j], b = ds[i * n + k];
                double by_angle;
                angles += 2 * kd__smooth_l1(s - kd__angle(gt, dt, n, i, j, k), &slope);
                by_angle = 2 * slope * (double)f->desc.angle / triples;
                if (!(a * b > 0)) continue;
                grad[j * n + k] += by_angle / (a * b);
                grad[i * n + j] -= by_angle / (a * b);
                grad[i * n + k] -= by_angle / (a * b);
                grad[i * n + i] += by_angle / (a * b);
                by_square[i * n + j] -= by_angle * s / (2 * a * a);
                by_square[i * n + k] -= by_angle * s / (2 * b * b);
            }
        }
    }
    for (i = 0; i < n; ++i) {
        for (j = 0; j < n; ++j) {
            grad[i * n + i] += by_square[i * n + j];
            grad[j * n + j] += by_square[i * n + j];
            grad[i * n + j] -= 2 * by_square[i * n + j];
        }
    }
    return (double)f->desc.distance * value / pairs + (double)f->desc.angle * angles / triples;
}

static const double kd__pkt_epsilon = 1e-7;

/* Cosines, where a small number is added to each norm; scale gets its inverse. */
KD__PRIVATE void kd__cosines(const double *g, size_t n, double epsilon, double *scale, double *y)
{
    size_t i, j;
    for (i = 0; i < n; ++i) scale[i] = 1 / (sqrt(g[i * n + i]) + epsilon);
    for (i = 0; i < n; ++i) {
        for (j = 0; j < n; ++j) y[i * n + j] = g[i * n + j] * scale[i] * scale[j];
    }
}

/* From the gradient by cosines to that by dot products. */
KD__PRIVATE void kd__cosines_backward(const double *g, size_t n, const double *scale, const double *by_y,
                                      double *grad)
{
    size_t i, j;
    for (i = 0; i < n; ++i) {
        const double norm = sqrt(g[i * n + i]);
        double by_scale = 0;
        for (j = 0; j < n; ++j) {
            grad[i * n + j] += by_y[i * n + j] * scale[i] * scale[j];
            by_scale += (by_y[i * n + j] + by_y[j * n + i]) * g[i * n + j] * scale[j];
        }
        if (norm > 0) grad[i * n + i] -= by_scale * scale[i] * scale[i] / (2 * norm);
    }
}

/* p[i, :] = (1 + cosine) / 2, divided by its sum */
KD__PRIVATE void kd__pkt_probabilities(const double *g, size_t n, double *scale, double *sums, double *p)
{
    size_t i, j;
    kd__cosines(g, n, kd__pkt_epsilon, scale, p);
    for (i = 0; i < n; ++i) {
        double *row = p + i * n;
        sums[i] = 0;
        for (j = 0; j < n; ++j) {
            row[j] = (1 + row[j]) / 2;
            sums[i] += row[j];
        }
        for (j = 0; j < n; ++j) row[j] /= sums[i];
    }
}

KD__PRIVATE double kd__relation_pkt(kd__feature *f, const double *gs, const double *gt, double *grad, size_t used)
{
    const size_t n = (size_t)f->n;
    const double pairs = (double)n * (double)n;
    double *ps = kd__take(f->more, &used, n * n), *pt = kd__take(f->more, &used, n * n);
    double *by_y = kd__take(f->more, &used, n * n);
    double *scale = kd__take(f->more, &used, n), *sums = kd__take(f->more, &used, n), value = 0;
    size_t i, j;
    kd__pkt_probabilities(gt, n, scale, sums, pt);
    kd__pkt_probabilities(gs, n, scale, sums, ps);
    for (i = 0; i < n; ++i) {
        double *g = by_y + i * n, along = 0;
        for (j = 0; j < n; ++j) {
            const double s = ps[i * n + j], t = pt[i * n + j];
            value += t * (kd__log_of(t + kd__pkt_epsilon) - kd__log_of(s + kd__pkt_epsilon));
            g[j] = -t / (s + kd__pkt_epsilon) / pairs;
            along += g[j] * s;
        }
        for (j = 0; j < n; ++j) g[j] = (g[j] - along) / sums[i] / 2;
    }
    kd__cosines_backward(gs, n, scale, by_y, grad);
    return value / pairs;
}

/* The kernel of a cosine, and its slope. */
KD__PRIVATE double kd__cc_kernel(const kd_feature_loss *d, double y, double *slope)
{
    double term = kd__exp(-2 * (double)d->gamma), sum = term;
    int p;
    *slope = 0;
    for (p = 1; p <= d->order; ++p) {
        *slope += term * 2 * (double)d->gamma;
        term *= 2 * (double)d->gamma * y / p;
        sum += term;
    }
    return sum;
}

KD__PRIVATE double kd__relation_cc(kd__feature *f, const double *gs, const double *gt, double *grad, size_t used)
{
    const size_t n = (size_t)f->n;
    const double pairs = (double)n * (double)n, tiny = 1e-12;
    double *ys = kd__take(f->more, &used, n * n), *yt = kd__take(f->more, &used, n * n);
    double *scale = kd__take(f->more, &used, n), value = 0, slope;
    size_t i;
    kd__cosines(gt, n, tiny, scale, yt);
    kd__cosines(gs, n, tiny, scale, ys);
    for (i = 0; i < n * n; ++i) {
        double d = -kd__cc_kernel(&f->desc, yt[i], &slope);
        d += kd__cc_kernel(&f->desc, ys[i], &slope);
        value += d * d;
        ys[i] = 2 * d * slope / pairs;
    }
    kd__cosines_backward(gs, n, scale, ys, grad);
    return value / pairs;
}

/* ---- channels -------------------------------------------------------------------------------------------- */

KD__PRIVATE size_t kd__feature_nst_more(const kd__feature *f, size_t n)
{
    return n * (size_t)f->tap[KD__STUDENT][0]->c;
}

/* The sum over pairs of squared dot products; grad += factor * its gradient by a, where b is a constant. */
KD__PRIVATE double kd__nst_kernel(const double *a, int a_count, const double *b, int b_count, size_t pixels,
                                  double factor, double *grad)
{
    double sum = 0;
    int i, j;
    for (i = 0; i < a_count; ++i) {
        for (j = 0; j < b_count; ++j) {
            const double dot = kd__dot(a + (size_t)i * pixels, b + (size_t)j * pixels, (int)pixels);
            sum += dot * dot;
            if (grad) kd__add_times(grad + (size_t)i * pixels, 2 * factor * dot, b + (size_t)j * pixels, pixels);
        }
    }
    return sum;
}

KD__PRIVATE void kd__feature_nst_sample(void *arg, int i, int worker)
{
    const kd__feature *f = (const kd__feature *)arg;
    const kd__tap *s = f->tap[KD__STUDENT][0], *t = f->tap[KD__TEACHER][0];
    const size_t pixels = kd__tap_pixels(s);
    double *a = s->map + (size_t)i * kd__tap_count(s), *b = t->map + (size_t)i * kd__tap_count(t);
    double *grad = s->grad + (size_t)i * kd__tap_count(s), *norms = f->more + (size_t)i * (size_t)s->c;
    const double same = 1 / ((double)f->n * s->c * s->c), cross = -2 / ((double)f->n * s->c * t->c);
    const double constant = 1 / ((double)f->n * t->c * t->c);
    int c;
    (void)worker;
    for (c = 0; c < s->c; ++c) norms[c] = kd__unit(a + (size_t)c * pixels, pixels);
    for (c = 0; c < t->c; ++c) kd__unit(b + (size_t)c * pixels, pixels);
    memset(grad, 0, kd__tap_count(s) * sizeof *grad);
    f->values[i] = same * kd__nst_kernel(a, s->c, a, s->c, pixels, 2 * same, grad);
    f->values[i] += cross * kd__nst_kernel(a, s->c, b, t->c, pixels, cross, grad);
    f->values[i] += constant * kd__nst_kernel(b, t->c, b, t->c, pixels, 0, NULL);
    for (c = 0; c < s->c; ++c)
        kd__unit_backward(a + (size_t)c * pixels, norms[c], grad + (size_t)c * pixels, pixels);
}

KD__PRIVATE double kd__feature_nst(kd__feature *f)
{
    kd__parallel(f->kd, f->n, kd__feature_nst_sample, f);
    return kd__sum(f->values, f->n);
}

KD__PRIVATE void kd__feature_fsp_sample(void *arg, int i, int worker)
{
    const kd__feature *f = (const kd__feature *)arg;
    const size_t sample = (size_t)i;
    const kd__tap *s1 = f->tap[KD__STUDENT][0], *s2 = f->tap[KD__STUDENT][1];
    const kd__tap *t1 = f->tap[KD__TEACHER][0], *t2 = f->tap[KD__TEACHER][1];
    const size_t ps = kd__tap_pixels(s1), pt = kd__tap_pixels(t1);
    const double *a = s1->map + sample * kd__tap_count(s1), *b = s2->map + sample * kd__tap_count(s2);
    const double *u = t1->map + sample * kd__tap_count(t1), *v = t2->map + sample * kd__tap_count(t2);
    double *ga = s1->grad + sample * kd__tap_count(s1), *gb = s2->grad + sample * kd__tap_count(s2);
    const double count = (double)f->n * s1->c * s2->c;
    int c1, c2;
    (void)worker;
    memset(ga, 0, kd__tap_count(s1) * sizeof *ga);
    memset(gb, 0, kd__tap_count(s2) * sizeof *gb);
    f->values[i] = 0;
    for (c1 = 0; c1 < s1->c; ++c1) {
        for (c2 = 0; c2 < s2->c; ++c2) {
            const size_t at1 = (size_t)c1 * ps, at2 = (size_t)c2 * ps;
            const double d = kd__dot(a + at1, b + at2, (int)ps) / (double)ps -
                             kd__dot(u + (size_t)c1 * pt, v + (size_t)c2 * pt, (int)pt) / (double)pt;
            f->values[i] += d * d / count;
            kd__add_times(ga + at1, 2 * d / (count * (double)ps), b + at2, ps);
            kd__add_times(gb + at2, 2 * d / (count * (double)ps), a + at1, ps);
        }
    }
}

KD__PRIVATE double kd__feature_fsp(kd__feature *f)
{
    kd__parallel(f->kd, f->n, kd__feature_fsp_sample, f);
    return kd__sum(f->values, f->n);
}

/* ---- variational information ----------------------------------------------------------------------------- */

enum { KD__VID_LAYERS = 3 };
static const double kd__vid_least = 1e-5, kd__vid_start = 5;

KD__PRIVATE int kd__feature_vid_parts(const kd__feature *f, kd__part *parts)
{
    const int in = f->tap[KD__STUDENT][0]->c, out = f->tap[KD__TEACHER][0]->c;
    int n = kd__part_add(parts, 0, (size_t)in * (size_t)out, in, 0);
    n = kd__part_add(parts, n, (KD__VID_LAYERS - 1) * (size_t)out * (size_t)out, out, 0);
    return kd__part_add(parts, n, (size_t)out, 0, kd__log_of(kd__exp(kd__vid_start - kd__vid_least) - 1));
}

KD__PRIVATE size_t kd__feature_vid_more(const kd__feature *f, size_t n)
{
    size_t used = 0;
    int i;
    for (i = 0; i <= KD__VID_LAYERS; ++i) kd__take(NULL, &used, n * kd__tap_count(f->tap[KD__TEACHER][0]));
    return used;
}

/* Loss and gradients of one channel, by prediction (in place) and by a. */
KD__PRIVATE double kd__feature_vid_channel(kd__feature *f, int c, double *predicted, float a, float *a_grad)
{
    const kd__tap *t = f->tap[KD__TEACHER][0];
    const size_t pixels = kd__tap_pixels(t);
    const double total = (double)f->n * (double)kd__tap_count(t), e = kd__exp((double)(a < 0 ? a : -a));
    const double variance = (a < 0 ? 0 : (double)a) + kd__log_of(1 + e) + kd__vid_least;
    const double slope = a < 0 ? e / (1 + e) : 1 / (1 + e);
    double sum = 0;
    size_t j;
    int i;
    for (i = 0; i < f->n; ++i) {
        const size_t at = (size_t)i * kd__tap_count(t) + (size_t)c * pixels;
        for (j = at; j < at + pixels; ++j) {
            const double d = predicted[j] - t->map[j];
            sum += d * d;
            predicted[j] = d / variance / total;
        }
    }
    *a_grad = (float)((f->n * (double)pixels - sum / variance) / variance * slope / (2 * total));
    return (sum / variance + f->n * (double)pixels * kd__log_of(variance)) / (2 * total);
}

KD__PRIVATE double kd__feature_vid(kd__feature *f)
{
    kd__tap *s = f->tap[KD__STUDENT][0], *t = f->tap[KD__TEACHER][0];
    const size_t count = (size_t)f->n * kd__tap_count(t);
    kd__filter p[KD__VID_LAYERS];
    size_t at = 0, used = 0, i;
    double *spare = kd__take(f->more, &used, count), value = 0;
    int l, c;
    for (l = 0; l < KD__VID_LAYERS; ++l) {
        p[l] = kd__filter_of(f->n, l ? t->c : s->c, t->c, t, 1);
        kd__filter_params(&p[l], f, 0, &at);
        p[l].x = l ? p[l - 1].y : s->map;
        p[l].y = kd__take(f->more, &used, count);
        kd__parallel(f->kd, f->n, kd__filter_forward, &p[l]);
        for (i = 0; i < count && l < KD__VID_LAYERS - 1; ++i) p[l].y[i] = p[l].y[i] > 0 ? p[l].y[i] : 0;
    }
    for (c = 0; c < t->c; ++c)
        value += kd__feature_vid_channel(f, c, p[KD__VID_LAYERS - 1].y, f->params[at + (size_t)c],
                                         &f->param_grads[at + (size_t)c]);
    for (l = KD__VID_LAYERS - 1; l >= 0; --l) {
        p[l].dy = p[l].y;
        p[l].dx = l ? spare : s->grad;
        kd__filter_gradients(f->kd, &p[l]);
        for (i = 0; i < count && l > 0; ++i) p[l - 1].y[i] = p[l - 1].y[i] > 0 ? spare[i] : 0;
    }
    return value;
}

/* ---- review ---------------------------------------------------------------------------------------------- */

/* Batch normalisation by the batch at hand: y = weight (x - mean) / sqrt(variance + 1e-5) + bias by channel. */
typedef struct kd__standard {
    int n, c;
    size_t pixels, stride; /* of y and dy: from sample to sample */
    const float *weight, *bias;
    float *weight_grad, *bias_grad;
    double *x, *y, *scale; /* x is standardised in place, and becomes its own gradient; scale (c) */
    const double *dy;
} kd__standard;

KD__PRIVATE void kd__standard_params(kd__standard *p, const kd__feature *f, size_t *at)
{
    p->weight = f->params + *at, p->weight_grad = f->param_grads + *at;
    *at += (size_t)p->c;
    p->bias = f->params + *at, p->bias_grad = f->param_grads + *at;
    *at += (size_t)p->c;
}

KD__PRIVATE void kd__standard_forward(void *arg, int c, int worker)
{
    const kd__standard *p = (const kd__standard *)arg;
    const double count = (double)p->n * (double)p->pixels;
    double mean = 0, squares = 0;
    size_t j;
    int i;
    (void)worker;
    for (i = 0; i < p->n; ++i) {
        const double *x = p->x + ((size_t)i * (size_t)p->c + (size_t)c) * p->pixels;
        for (j = 0; j < p->pixels; ++j) mean += x[j];
    }
    mean /= count;
    for (i = 0; i < p->n; ++i) {
        double *x = p->x + ((size_t)i * (size_t)p->c + (size_t)c) * p->pixels;
        for (j = 0; j < p->pixels; ++j) x[j] -= mean;
        squares += kd__dot(x, x, (int)p->pixels);
    }
    p->scale[c] = 1 / sqrt(squares / count + 1e-5);
    for (i = 0; i < p->n; ++i) {
        double *x = p->x + ((size_t)i * (size_t)p->c + (size_t)c) * p->pixels;
        double *y = p->y + (size_t)i * p->stride + (size_t)c * p->pixels;
        for (j = 0; j < p->pixels; ++j) {
            x[j] *= p->scale[c];
            y[j] = (double)p->weight[c] * x[j] + (double)p->bias[c];
        }
    }
}

KD__PRIVATE void kd__standard_backward(void *arg, int c, int worker)
{
    const kd__standard *p = (const kd__standard *)arg;
    const double count = (double)p->n * (double)p->pixels, factor = (double)p->weight[c] * p->scale[c];
    double sum = 0, along = 0;
    size_t j;
    int i;
    (void)worker;
    for (i = 0; i < p->n; ++i) {
        const double *x = p->x + ((size_t)i * (size_t)p->c + (size_t)c) * p->pixels;
        const double *dy = p->dy + (size_t)i * p->stride + (size_t)c * p->pixels;
        for (j = 0; j < p->pixels; ++j) sum += dy[j];
        along += kd__dot(x, dy, (int)p->pixels);
    }
    p->weight_grad[c] = (float)along;
    p->bias_grad[c] = (float)sum;
    for (i = 0; i < p->n; ++i) {
        double *x = p->x + ((size_t)i * (size_t)p->c + (size_t)c) * p->pixels;
        const double *dy = p->dy + (size_t)i * p->stride + (size_t)c * p->pixels;
        for (j = 0; j < p->pixels; ++j) x[j] = factor * (dy[j] - (sum + x[j] * along) / count);
    }
}

/* A level, from a layer of the student to one of the teacher: `in` brings its features to the common width, `gate`
   says how much of them and how much from the level above is blended, `out` goes to the teacher's channels. */
typedef struct kd__review kd__review;
struct kd__review {
    const kd__feature *f;
    const kd__tap *s, *t;
    kd__review *above; /* NULL: the deepest */
    kd__filter in, gate, out;
    kd__standard in_norm, out_norm;
    int width;
    double *both;  /* (n, 2 width, size of s): own features, and those from above where there are any */
    double *gates; /* (n, 2, size of s) */
    double *blend, *blend_grad; /* (n, width, size of t) */
    /* levels share this room, and that of out_norm: like both; like the teacher's features */
    double *both_grad, *by_gate, *out_grad;
};

/* Lays out all levels; returns how many numbers of room they take. */
KD__PRIVATE size_t kd__review_open(const kd__feature *f, int n, double *room, kd__review *levels)
{
    const int last = f->layers - 1, width = KD__MIN(512, f->tap[KD__STUDENT][last]->c);
    size_t used = 0, both = 0, outs = 0, channels = 0, wide_x = 0, wide_y = 0;
    double *shared[6], *wide[2];
    int l, i;
    for (l = last; l >= 0; --l) {
        kd__review *v = &levels[l];
        const size_t pixels = (size_t)n * kd__tap_pixels(f->tap[KD__STUDENT][l]);
        memset(v, 0, sizeof *v);
        v->f = f;
        v->s = f->tap[KD__STUDENT][l], v->t = f->tap[KD__TEACHER][l];
        v->above = l < last ? v + 1 : NULL;
        v->width = width;
        v->in = kd__filter_of(n, v->s->c, width, v->s, 1);
        v->gate = kd__filter_of(n, 2 * width, 2, v->s, 1);
        v->out = kd__filter_of(n, width, v->t->c, v->t, 3);
        v->in_norm.n = v->out_norm.n = n;
        v->in_norm.c = width, v->out_norm.c = v->t->c;
        v->in_norm.pixels = kd__tap_pixels(v->s), v->out_norm.pixels = kd__tap_pixels(v->t);
        v->in_norm.stride = 2 * (size_t)width * v->in_norm.pixels, v->out_norm.stride = kd__tap_count(v->t);
        v->in_norm.x = kd__take(room, &used, (size_t)width * pixels);
        v->in_norm.scale = kd__take(room, &used, (size_t)width);
        v->both = kd__take(room, &used, 2 * (size_t)width * pixels);
        v->gates = kd__take(room, &used, 2 * pixels);
        v->blend = kd__take(room, &used, (size_t)n * (size_t)width * v->out_norm.pixels);
        v->blend_grad = kd__take(room, &used, (size_t)n * (size_t)width * v->out_norm.pixels);
        both = KD__MAX(both, 2 * (size_t)width * pixels);
        outs = KD__MAX(outs, (size_t)n * kd__tap_count(v->t));
        channels = KD__MAX(channels, (size_t)v->t->c);
        wide_x = KD__MAX(wide_x, kd__filter_room(&v->out, width));
        wide_y = KD__MAX(wide_y, kd__filter_room(&v->out, v->t->c));
    }
    for (i = 0; i < 6; ++i) shared[i] = kd__take(room, &used, i < 2 ? both : i < 5 ? outs : channels);
    wide[0] = kd__take(room, &used, wide_x), wide[1] = kd__take(room, &used, wide_y);
    for (l = 0; l <= last; ++l) {
        levels[l].both_grad = shared[0], levels[l].by_gate = shared[1];
        levels[l].out_norm.x = shared[2], levels[l].out_norm.y = shared[3], levels[l].out_grad = shared[4];
        levels[l].out_norm.scale = shared[5];
        levels[l].out.wide_x = wide[0], levels[l].out.wide_y = wide[1];
    }
    return used;
}

KD__PRIVATE size_t kd__feature_review_more(const kd__feature *f, size_t n)
{
    kd__review levels[KD__MAX_TAPS];
    return kd__review_open(f, (int)n, NULL, levels);
}

/* Kaiming's uniform start with slope 1 for the convolutions, PyTorch's for the gates. */
KD__PRIVATE int kd__feature_review_parts(const kd__feature *f, kd__part *parts)
{
    kd__review levels[KD__MAX_TAPS];
    int l, n = 0;
    (void)kd__review_open(f, 1, NULL, levels);
    for (l = 0; l < f->layers; ++l) {
        const kd__review *v = &levels[l];
        const size_t width = (size_t)v->width, out = (size_t)v->t->c;
        n = kd__part_add(parts, n, kd__filter_weights(&v->in), v->s->c / 3.0, 0);
        n = kd__part_add(parts, n, width, 0, 1);
        n = kd__part_add(parts, n, width, 0, 0);
        if (v->above) n = kd__part_add(parts, n, kd__filter_weights(&v->gate) + 2, 2 * v->width, 0);
        n = kd__part_add(parts, n, kd__filter_weights(&v->out), 3 * v->width, 0);
        n = kd__part_add(parts, n, out, 0, 1);
        n = kd__part_add(parts, n, out, 0, 0);
    }
    return n;
}

KD__PRIVATE void kd__review_params(kd__review *v, size_t *at)
{
    kd__filter_params(&v->in, v->f, 0, at);
    kd__standard_params(&v->in_norm, v->f, at);
    if (v->above) kd__filter_params(&v->gate, v->f, 1, at);
    kd__filter_params(&v->out, v->f, 0, at);
    kd__standard_params(&v->out_norm, v->f, at);
}

/* The number of the nearest pixel, in an image of the size of `from`, of pixel i of one of the size of `to`. */
KD__PRIVATE size_t kd__nearest(const kd__tap *from, const kd__tap *to, size_t i)
{
    size_t y;
    if (from->h == to->h && from->w == to->w) return i;
    y = i / (size_t)to->w * (size_t)from->h / (size_t)to->h;
    return y * (size_t)from->w + i % (size_t)to->w * (size_t)from->w / (size_t)to->w;
}

KD__PRIVATE void kd__review_bring(void *arg, int sample, int worker)
{
    const kd__review *v = (const kd__review *)arg, *above = v->above;
    const size_t pixels = v->in_norm.pixels, from = above->out_norm.pixels, width = (size_t)v->width;
    double *to = v->both + ((size_t)sample * 2 + 1) * width * pixels;
    const double *blend = above->blend + (size_t)sample * width * from;
    size_t c, i;
    (void)worker;
    for (c = 0; c < width; ++c, blend += from) {
        for (i = 0; i < pixels; ++i) *to++ = blend[kd__nearest(above->t, v->s, i)];
    }
}

KD__PRIVATE void kd__review_blend(void *arg, int sample, int worker)
{
    const kd__review *v = (const kd__review *)arg;
    const size_t pixels = v->in_norm.pixels, count = v->out_norm.pixels, width = (size_t)v->width;
    const double *own = v->both + (size_t)sample * 2 * width * pixels, *other = own + width * pixels;
    double *gates = v->gates + (size_t)sample * 2 * pixels, *to = v->blend + (size_t)sample * width * count;
    size_t c, i;
    (void)worker;
    for (i = 0; v->above && i < 2 * pixels; ++i) gates[i] = 1 / (1 + kd__exp(-gates[i]));
    for (c = 0; c < width; ++c, own += pixels, other += pixels) {
        for (i = 0; i < count; ++i) {
            const size_t at = kd__nearest(v->s, v->t, i);
            *to++ = v->above ? gates[at] * own[at] + gates[pixels + at] * other[at] : own[at];
        }
    }
}

KD__PRIVATE void kd__review_forward(kd__review *v)
{
    const kd_ctx *kd = v->f->kd;
    v->in.x = v->s->map, v->in.y = v->in_norm.x;
    kd__parallel(kd, v->in.n, kd__filter_forward, &v->in);
    v->in_norm.y = v->both;
    kd__parallel(kd, v->width, kd__standard_forward, &v->in_norm);
    if (v->above) {
        kd__parallel(kd, v->in.n, kd__review_bring, v);
        v->gate.x = v->both, v->gate.y = v->gates;
        kd__parallel(kd, v->in.n, kd__filter_forward, &v->gate);
    }
    kd__parallel(kd, v->in.n, kd__review_blend, v);
}

/* The squares of a plane's means over (cells, cells) cells; `factor` times their gradient is added to grad. */
KD__PRIVATE double kd__review_cells(const double *d, int h, int w, int cells, double factor, double *grad)
{
    double squares = 0;
    int i, j, y, x;
    for (i = 0; i < cells; ++i) {
        const kd__cell rows = kd__cell_of(i, cells, h);
        for (j = 0; j < cells; ++j) {
            const kd__cell cols = kd__cell_of(j, cells, w);
            const double count = (double)(rows.end - rows.first) * (cols.end - cols.first);
            double mean = 0;
            for (y = rows.first; y < rows.end; ++y) {
                for (x = cols.first; x < cols.end; ++x) mean += d[y * w + x];
            }
            mean /= count;
            squares += mean * mean;
            for (y = rows.first; y < rows.end; ++y) {
                for (x = cols.first; x < cols.end; ++x) grad[y * w + x] += 2 * factor * mean / count;
            }
        }
    }
    return squares;
}

/* Hierarchical context loss: squares of the difference, and of its means over 4x4, 2x2 and 1x1 cells. */
KD__PRIVATE void kd__review_compare(void *arg, int sample, int worker)
{
    static const int cells[] = {4, 2, 1};
    const kd__review *v = (const kd__review *)arg;
    const int h = v->t->h, w = v->t->w; /* the height decides which cells count, as in the authors' code */
    const size_t pixels = v->out_norm.pixels, count = v->out_norm.stride;
    const double *t = v->t->map + (size_t)sample * count;
    double *d = v->out_norm.y + (size_t)sample * count, *grad = v->out_grad + (size_t)sample * count;
    double share = 1, total = 1, planes, squares;
    size_t i;
    int k, c;
    (void)worker;
    for (k = 0; k < KD__COUNT(cells); ++k) {
        if (cells[k] < h) share /= 2, total += share;
    }
    planes = (double)v->in.n * v->t->c * total;
    for (i = 0; i < count; ++i) d[i] -= t[i];
    v->f->values[sample] = kd__dot(d, d, (int)count) / (planes * (double)pixels);
    for (i = 0; i < count; ++i) grad[i] = 2 * d[i] / (planes * (double)pixels);
    for (k = 0, share = 1; k < KD__COUNT(cells); ++k) {
        if (cells[k] >= h) continue;
        share /= 2;
        for (c = 0, squares = 0; c < v->t->c; ++c)
            squares += kd__review_cells(d + (size_t)c * pixels, h, w, cells[k],
                                        share / (planes * cells[k] * cells[k]), grad + (size_t)c * pixels);
        v->f->values[sample] += share * squares / (planes * cells[k] * cells[k]);
    }
}

/* The loss of a level, and its gradient by what was blended. */
KD__PRIVATE double kd__review_value(kd__review *v)
{
    const kd_ctx *kd = v->f->kd;
    v->out.x = v->blend, v->out.y = v->out_norm.x;
    kd__parallel(kd, v->out.n, kd__filter_forward, &v->out);
    kd__parallel(kd, v->t->c, kd__standard_forward, &v->out_norm);
    kd__parallel(kd, v->out.n, kd__review_compare, v);
    v->out_norm.dy = v->out_grad;
    kd__parallel(kd, v->t->c, kd__standard_backward, &v->out_norm);
    v->out.dy = v->out_norm.x, v->out.dx = v->blend_grad;
    kd__filter_gradients(kd, &v->out);
    return kd__sum(v->f->values, v->f->n);
}

/* From the gradient by the blend to those by its two parts and, in the place of the gates, by their sigmoids. */
KD__PRIVATE void kd__review_split(void *arg, int sample, int worker)
{
    const kd__review *v = (const kd__review *)arg;
    const size_t pixels = v->in_norm.pixels, count = v->out_norm.pixels, width = (size_t)v->width;
    const double *own = v->both + (size_t)sample * 2 * width * pixels, *other = own + width * pixels;
    const double *from = v->blend_grad + (size_t)sample * width * count;
    double *own_grad = v->both_grad + (size_t)sample * 2 * width * pixels, *other_grad = own_grad + width * pixels;
    double *gates = v->gates + (size_t)sample * 2 * pixels;
    size_t c, i;
    (void)worker;
    memset(own_grad, 0, width * pixels * sizeof *own_grad);
    for (c = 0; c < width; ++c) {
        for (i = 0; i < count; ++i) own_grad[c * pixels + kd__nearest(v->s, v->t, i)] += *from++;
    }
    for (i = 0; v->above && i < pixels; ++i) {
        const double a = gates[i], b = gates[pixels + i];
        double by_a = 0, by_b = 0;
        for (c = i; c < width * pixels; c += pixels) {
            by_a += own_grad[c] * own[c];
            by_b += own_grad[c] * other[c];
            other_grad[c] = own_grad[c] * b;
            own_grad[c] *= a;
        }
        gates[i] = by_a * a * (1 - a);
        gates[pixels + i] = by_b * b * (1 - b);
    }
}

/* Adds what came by way of the gates, and passes the other part on to the level above. */
KD__PRIVATE void kd__review_pass_on(void *arg, int sample, int worker)
{
    const kd__review *v = (const kd__review *)arg;
    const size_t pixels = v->in_norm.pixels, width = (size_t)v->width, count = v->above->out_norm.pixels;
    double *grad = v->both_grad + (size_t)sample * 2 * width * pixels;
    double *to = v->above->blend_grad + (size_t)sample * width * count;
    size_t c, i;
    (void)worker;
    kd__add_times(grad, 1, v->by_gate + (size_t)sample * 2 * width * pixels, 2 * width * pixels);
    for (c = 0, grad += width * pixels; c < width; ++c, to += count) {
        for (i = 0; i < pixels; ++i) to[kd__nearest(v->above->t, v->s, i)] += *grad++;
    }
}

KD__PRIVATE void kd__review_backward(kd__review *v)
{
    const kd_ctx *kd = v->f->kd;
    kd__parallel(kd, v->in.n, kd__review_split, v);
    if (v->above) {
        v->gate.dy = v->gates, v->gate.dx = v->by_gate;
        kd__filter_gradients(kd, &v->gate);
        kd__parallel(kd, v->in.n, kd__review_pass_on, v);
    }
    v->in_norm.dy = v->both_grad;
    kd__parallel(kd, v->width, kd__standard_backward, &v->in_norm);
    v->in.dy = v->in_norm.x, v->in.dx = v->s->grad;
    kd__filter_gradients(kd, &v->in);
}

KD__PRIVATE double kd__feature_review(kd__feature *f)
{
    kd__review levels[KD__MAX_TAPS];
    size_t at = 0;
    double value = 0;
    int l;
    (void)kd__review_open(f, f->n, f->more, levels);
    for (l = 0; l < f->layers; ++l) kd__review_params(&levels[l], &at);
    for (l = f->layers - 1; l >= 0; --l) {
        kd__review_forward(&levels[l]);
        value += kd__review_value(&levels[l]);
    }
    for (l = 0; l < f->layers; ++l) kd__review_backward(&levels[l]);
    return value;
}

/* ---- contrast -------------------------------------------------------------------------------------------- */

/* Embeddings of both models, and the logits of telling which of one belongs to which of the other. */
typedef struct kd__contrast {
    const kd__feature *f;
    int width;
    kd__filter embed[2];
    double *unit[2], *norm[2], *grad[2]; /* (n, width), (n), (n, width) */
    double *logits;                      /* (n, n): of student i and teacher j */
    double *by_row, *by_col;             /* (n): logarithms of the sums of their exponentials */
} kd__contrast;

KD__PRIVATE size_t kd__contrast_open(const kd__feature *f, int n, double *room, kd__contrast *c)
{
    kd__tap point = {0, 0, 1, 1, NULL, NULL};
    const size_t rows = (size_t)n, width = (size_t)f->desc.width;
    size_t used = 0;
    int side;
    memset(c, 0, sizeof *c);
    c->f = f;
    c->width = f->desc.width;
    for (side = 0; side < 2; ++side) {
        c->embed[side] = kd__filter_of(n, (int)kd__tap_count(f->tap[side][0]), c->width, &point, 1);
        c->unit[side] = kd__take(room, &used, rows * width);
        c->norm[side] = kd__take(room, &used, rows);
        c->grad[side] = kd__take(room, &used, rows * width);
    }
    c->logits = kd__take(room, &used, rows * rows);
    c->by_row = kd__take(room, &used, rows);
    c->by_col = kd__take(room, &used, rows);
    return used;
}

KD__PRIVATE size_t kd__feature_crd_more(const kd__feature *f, size_t n)
{
    kd__contrast c;
    return kd__contrast_open(f, (int)n, NULL, &c);
}

KD__PRIVATE int kd__feature_crd_parts(const kd__feature *f, kd__part *parts)
{
    const size_t width = (size_t)f->desc.width;
    int side, n = 0;
    for (side = 0; side < 2; ++side) {
        const size_t in = kd__tap_count(f->tap[side][0]);
        n = kd__part_add(parts, n, width * (in + 1), (double)in, 0);
    }
    return n;
}

/* log sum exp of n numbers, `step` apart */
KD__PRIVATE double kd__log_sum(const double *x, size_t n, size_t step)
{
    double largest = x[0], sum = 0;
    size_t i;
    for (i = 1; i < n; ++i) largest = KD__MAX(largest, x[i * step]);
    for (i = 0; i < n; ++i) sum += kd__exp_below(x[i * step] - largest);
    return largest + kd__log_of(sum);
}

KD__PRIVATE void kd__contrast_unit(void *arg, int i, int worker)
{
    const kd__contrast *c = (const kd__contrast *)arg;
    const size_t width = (size_t)c->width;
    int side;
    (void)worker;
    for (side = 0; side < 2; ++side) c->norm[side][i] = kd__unit(c->unit[side] + (size_t)i * width, width);
}

KD__PRIVATE void kd__contrast_row(void *arg, int i, int worker)
{
    const kd__contrast *c = (const kd__contrast *)arg;
    const size_t width = (size_t)c->width, n = (size_t)c->f->n;
    double *row = c->logits + (size_t)i * n;
    size_t j;
    (void)worker;
    for (j = 0; j < n; ++j)
        row[j] = kd__dot(c->unit[KD__STUDENT] + (size_t)i * width, c->unit[KD__TEACHER] + j * width, c->width) /
                 (double)c->f->desc.temperature;
    c->by_row[i] = kd__log_sum(row, n, 1);
}

KD__PRIVATE void kd__contrast_value(void *arg, int i, int worker)
{
    const kd__contrast *c = (const kd__contrast *)arg;
    const size_t n = (size_t)c->f->n;
    (void)worker;
    c->by_col[i] = kd__log_sum(c->logits + i, n, n);
    c->f->values[i] = (c->by_row[i] + c->by_col[i] - 2 * c->logits[(size_t)i * (n + 1)]) / (double)n;
}

/* The gradient by the i-th embedding of either side. */
KD__PRIVATE void kd__contrast_gradient(void *arg, int i, int worker)
{
    const kd__contrast *c = (const kd__contrast *)arg;
    const size_t width = (size_t)c->width, n = (size_t)c->f->n;
    int side;
    size_t j;
    (void)worker;
    for (side = 0; side < 2; ++side) {
        double *grad = c->grad[side] + (size_t)i * width;
        memset(grad, 0, width * sizeof *grad);
        for (j = 0; j < n; ++j) {
            const size_t s = side == KD__STUDENT ? (size_t)i : j, t = side == KD__STUDENT ? j : (size_t)i;
            const double x = c->logits[s * n + t];
            const double by_logit =
                kd__exp_below(x - c->by_row[s]) + kd__exp_below(x - c->by_col[t]) - 2 * (s == t);
            kd__add_times(grad, by_logit / ((double)n * (double)c->f->desc.temperature), c->unit[!side] + j * width,
                          width);
        }
        kd__unit_backward(c->unit[side] + (size_t)i * width, c->norm[side][i], grad, width);
    }
}

KD__PRIVATE double kd__feature_crd(kd__feature *f)
{
    kd__contrast c;
    size_t at = 0;
    int side;
    (void)kd__contrast_open(f, f->n, f->more, &c);
    for (side = 0; side < 2; ++side) {
        kd__filter *e = &c.embed[side];
        kd__filter_params(e, f, 1, &at);
        e->x = f->tap[side][0]->map, e->y = c.unit[side];
        e->dy = c.grad[side], e->dx = f->tap[side][0]->grad;
        kd__parallel(f->kd, f->n, kd__filter_forward, e);
    }
    kd__parallel(f->kd, f->n, kd__contrast_unit, &c);
    kd__parallel(f->kd, f->n, kd__contrast_row, &c);
    kd__parallel(f->kd, f->n, kd__contrast_value, &c);
    kd__parallel(f->kd, f->n, kd__contrast_gradient, &c);
    for (side = 0; side < 2; ++side) kd__filter_gradients(f->kd, &c.embed[side]);
    return kd__sum(f->values, f->n);
}

/* ---- the table ------------------------------------------------------------------------------------------- */

KD__PRIVATE const kd__feature_info *kd__feature_look_up(kd_feature_kind kind)
{
    int i;
    /* clang-format off */
    static const kd__feature_info table[] = {
        /* kind, weight, pools, pairs, lists */
        {KD_FEATURE_HINT,    100,   1, 0, 0, kd__feature_hint, kd__feature_hint_more, kd__feature_hint_parts, NULL},
        {KD_FEATURE_AT,      1000,  1, 0, 0, kd__feature_at, kd__feature_at_more, NULL, NULL},
        {KD_FEATURE_AT_PAPER,500,   1, 0, 0, kd__feature_at, kd__feature_at_more, NULL, NULL},
        {KD_FEATURE_SP,      3000,  0, 0, 0, kd__feature_relation, kd__relation_more, NULL, kd__relation_sp},
        {KD_FEATURE_RKD,     1,     0, 0, 0, kd__feature_relation, kd__relation_more, NULL, kd__relation_rkd},
        {KD_FEATURE_PKT,     30000, 0, 0, 0, kd__feature_relation, kd__relation_more, NULL, kd__relation_pkt},
        {KD_FEATURE_CC,      0.02,  0, 0, 0, kd__feature_relation, kd__relation_more, NULL, kd__relation_cc},
        {KD_FEATURE_NST,     50,    1, 0, 0, kd__feature_nst, kd__feature_nst_more, NULL, NULL},
        {KD_FEATURE_VID,     1,     1, 0, 0, kd__feature_vid, kd__feature_vid_more, kd__feature_vid_parts, NULL},
        {KD_FEATURE_FSP,     50,    0, 1, 0, kd__feature_fsp, NULL, NULL, NULL},
        {KD_FEATURE_REVIEW,  5,     0, 0, 1,
         kd__feature_review, kd__feature_review_more, kd__feature_review_parts, NULL},
        {KD_FEATURE_CRD,     0.8,   0, 0, 0, kd__feature_crd, kd__feature_crd_more, kd__feature_crd_parts, NULL},
    };
    /* clang-format on */
    for (i = 0; i < KD__COUNT(table) - 1 && table[i].kind != kind; ++i) {}
    return &table[i];
}

KDDEF const char *kd_feature_name(kd_feature_kind kind)
{
#define KD__ITEM(name, word) word,
    static const char *const words[] = {KD_FEATURES(KD__ITEM)};
#undef KD__ITEM
    return (unsigned)kind < (unsigned)KD_FEATURE_COUNT ? words[kind] : "unknown";
}

KDDEF kd_feature_loss kd_feature_loss_defaults(kd_feature_kind kind)
{
    kd_feature_loss d;
    memset(&d, 0, sizeof d);
    d.cookie = KD__COOKIE;
    d.kind = kind;
    d.weight = (unsigned)kind < (unsigned)KD_FEATURE_COUNT ? (float)kd__feature_look_up(kind)->weight : 0;
    d.distance = 25;
    d.angle = 50;
    d.gamma = 0.4f;
    d.order = 2;
    d.temperature = 0.07f;
    d.width = 128;
    d.warmup = kind == KD_FEATURE_REVIEW ? 20.0f : 0.0f;
    return d;
}

/* ---- options --------------------------------------------------------------------------------------------- */

/* The value of the layer with this tag or number, -1 if there is none; of a layer that does the work of the
   activation after it, the value after both. */
KD__PRIVATE int kd__feature_find(const kd_model *m, const char *tag, size_t length)
{
    int i, j;
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        if (strncmp(n->name, tag, length) != 0 || (n->name[length] && strcmp(n->name + length, ".sum") != 0))
            continue;
        for (j = i + 1; j < m->node_count; ++j) {
            if (m->nodes[j].fused && m->nodes[j].in == n->out) return m->nodes[j].out;
        }
        return n->out;
    }
    return -1;
}

static const char *const kd__sides[] = {"student", "teacher"};

KD__PRIVATE kd_result kd__feature_tap(kd_ctx *kd, const kd_model *m, int side, int index, const char *tag,
                                      size_t length, kd__tap *tap)
{
    const int shown = (int)KD__MIN(length, (size_t)40);
    const char *nearest = "";
    kd__shape shape;
    int best = INT_MAX, i;
    tap->value = kd__feature_find(m, tag, length);
    if (tap->value < 0) {
        for (i = 0; i < m->node_count; ++i) {
            const int distance = kd__edit_distance(tag, length, m->nodes[i].name);
            if (m->nodes[i].shown && distance < best) best = distance, nearest = m->nodes[i].name;
        }
        return kd__fail(kd, KD_ERR_ARGUMENT, "kd_train: the %s has no layer \"%.*s\"%s%.*s%s", kd__sides[side],
                        shown, tag, *nearest ? "; did you mean \"" : "", KD__MAX_NAME, nearest,
                        *nearest ? "\"?" : "");
    }
    if (side == KD__STUDENT && !m->values[tap->value].needs_grad)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "kd_train: layer \"%.*s\" of the student depends on no weights; feature loss %d could not "
                        "train anything",
                        shown, tag, index);
    shape = m->values[tap->value].shape;
    tap->c = shape.flat ? (int)kd__shape_count(&shape) : shape.c;
    tap->h = shape.flat ? 1 : shape.h;
    tap->w = shape.flat ? 1 : shape.w;
    return KD_OK;
}

/* Two taps are averaged to the smaller size. */
KD__PRIVATE void kd__feature_pool(kd__tap *a, kd__tap *b)
{
    a->h = b->h = KD__MIN(a->h, b->h);
    a->w = b->w = KD__MIN(a->w, b->w);
}

/* Finds the layers of a list of tags, of one tag where the loss takes no lists, and adds them to those of f. */
KD__PRIVATE kd_result kd__feature_tags(kd__feature *f, const kd_model *m, int side, int index, const char *tags,
                                       kd__tap *taps)
{
    if (!tags)
        return kd__fail(f->kd, KD_ERR_ARGUMENT, "kd_train: feature loss %d needs the tag of a layer of the %s",
                        index, kd__sides[side]);
    for (;;) {
        const size_t all = f->info->lists ? strcspn(tags, ",") : strlen(tags);
        const size_t first = f->info->lists ? strspn(tags, " ") : 0;
        size_t end = all;
        kd_result result;
        while (f->info->lists && end > first && tags[end - 1] == ' ') --end;
        if (f->layers == KD__MAX_TAPS)
            return kd__fail(f->kd, KD_ERR_ARGUMENT, "kd_train: feature loss %d takes up to %d layers of the %s",
                            index, (int)KD__MAX_TAPS, kd__sides[side]);
        f->tap[side][f->layers] = &taps[f->layers];
        result = kd__feature_tap(f->kd, m, side, index, tags + first, end - KD__MIN(first, end), &taps[f->layers]);
        if (result != KD_OK) return result;
        ++f->layers;
        if (!tags[all]) return KD_OK;
        tags += all + 1;
    }
}

/* The layers of both models: taps has room for KD__MAX_TAPS of each. */
KD__PRIVATE kd_result kd__feature_layers(kd__feature *f, int index, const kd_model *const models[2],
                                         kd__tap *const taps[2])
{
    const char *const tags[2][2] = {{f->desc.student, f->desc.student2}, {f->desc.teacher, f->desc.teacher2}};
    kd_result result = KD_OK;
    int side, which, first = 0;
    for (side = 0; side < 2 && result == KD_OK; ++side) {
        first = f->layers;
        f->layers = 0;
        for (which = 0; which <= f->info->pairs && result == KD_OK; ++which)
            result = kd__feature_tags(f, models[side], side, index, tags[side][which], taps[side]);
    }
    if (result == KD_OK && first != f->layers)
        return kd__fail(
            f->kd, KD_ERR_ARGUMENT,
            "kd_train: feature loss %d needs as many layers of the student as of the teacher, got %d and "
            "%d",
            index, first, f->layers);
    return result;
}

/* Averages to the smaller size what a loss compares number by number. */
KD__PRIVATE kd_result kd__feature_sizes(kd__feature *f)
{
    int side, which;
    if (f->info->pools) kd__feature_pool(f->tap[KD__STUDENT][0], f->tap[KD__TEACHER][0]);
    for (side = 0; side < 2 && f->info->pairs; ++side) kd__feature_pool(f->tap[side][0], f->tap[side][1]);
    for (which = 0; which < f->layers && f->info->pairs; ++which) {
        if (f->tap[KD__STUDENT][which]->c != f->tap[KD__TEACHER][which]->c)
            return kd__fail(
                f->kd, KD_ERR_SHAPE,
                "kd_train: feature loss %s needs layers of as many channels, but \"%.40s\" of the student "
                "has %d and \"%.40s\" of the teacher %d",
                kd_feature_name(f->desc.kind), which ? f->desc.student2 : f->desc.student,
                f->tap[KD__STUDENT][which]->c, which ? f->desc.teacher2 : f->desc.teacher,
                f->tap[KD__TEACHER][which]->c);
    }
    return KD_OK;
}

KD__PRIVATE int kd__feature_ranges(const kd_feature_loss *desc, kd__range *to)
{
    const kd__range ranges[] = {
        {"weight of a feature loss", (double)desc->weight, 0, 1e6},
        {"distance", (double)desc->distance, 0, 1e6},
        {"angle", (double)desc->angle, 0, 1e6},
        {"gamma of a feature loss", (double)desc->gamma, 0, 100},
        {"order", (double)desc->order, 1, 8},
        {"temperature of a feature loss", (double)desc->temperature, (double)1e-3f, 1e3},
        {"width", (double)desc->width, 1, 65536},
        {"warmup of a feature loss", (double)desc->warmup, 0, 1e6},
    };
    memcpy(to, ranges, sizeof ranges);
    return KD__COUNT(ranges);
}

/* Checks one loss and finds its layers. */
KD__PRIVATE kd_result kd__feature_check(kd__feature *f, kd_ctx *kd, int index, const kd_feature_loss *desc,
                                        const kd_model *const models[2], kd__tap *const taps[2])
{
    kd__range ranges[KD__MAX_RANGES];
    kd_result result;
    if (desc->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS, "kd_train: feature loss %d must start from kd_feature_loss_defaults()",
                        index);
    if ((unsigned)desc->kind >= (unsigned)KD_FEATURE_COUNT)
        return kd__fail(kd, KD_ERR_ARGUMENT, "kd_train: %d is no kind of feature loss", (int)desc->kind);
    f->kd = kd;
    f->desc = *desc;
    f->info = kd__feature_look_up(desc->kind);
    result = kd__check_ranges(kd, "kd_train", ranges, kd__feature_ranges(desc, ranges));
    if (result == KD_OK && !f->info->pairs && (desc->student2 || desc->teacher2))
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "kd_train: feature loss %s takes one %s a model, not student2, teacher2",
                        kd_feature_name(desc->kind), f->info->lists ? "list of layers" : "layer");
    if (result == KD_OK) result = kd__feature_layers(f, index, models, taps);
    return result == KD_OK ? kd__feature_sizes(f) : result;
}

/* ---- all of one training --------------------------------------------------------------------------------- */

typedef struct kd__features {
    kd_ctx *kd;
    kd__feature list[KD__MAX_FEATURES];
    kd__tap taps[2][KD__MAX_TAPS * KD__MAX_FEATURES]; /* those in use come first */
    int count, tap_count;
    double *maps, *room; /* of all taps; of any of the losses */
    size_t map_count;
    /* the learned parts of all losses one after another, like a model's weights */
    float *params, *grads, *gathered, *first, *second;
    size_t param_count;
} kd__features;

KD__PRIVATE void kd__features_close(kd__features *fs)
{
    if (!fs->kd) return;
    kd__give_back(fs->maps, fs->map_count);
    kd__free(fs->kd, fs->maps);
    kd__free(fs->kd, fs->room);
    kd__free(fs->kd, fs->params);
    kd__free(fs->kd, fs->grads);
    kd__free(fs->kd, fs->gathered);
    kd__free(fs->kd, fs->first);
    kd__free(fs->kd, fs->second);
}

KD__PRIVATE kd_result kd__features_check(kd__features *fs, kd_model *student, const kd_train_desc *desc)
{
    const kd_model *models[2];
    kd__tap *taps[2];
    kd_result result = KD_OK;
    int i;
    if (desc->feature_count < 0 || desc->feature_count > KD__MAX_FEATURES ||
        (desc->feature_count > 0) != (desc->features != NULL))
        return kd__fail(student->kd, KD_ERR_ARGUMENT,
                        "kd_train: features and feature_count belong together; the count must be 0 to %d, got %d",
                        (int)KD__MAX_FEATURES, desc->feature_count);
    if (desc->feature_count > 0 && !desc->teacher)
        return kd__fail(
            student->kd, KD_ERR_ARGUMENT,
            "kd_train: losses on features look into the teacher's layers and need desc.teacher, a model; "
            "logits alone, from a cache, a callback or several teachers, do not have them");
    models[KD__STUDENT] = student;
    models[KD__TEACHER] = desc->teacher;
    for (i = 0; i < desc->feature_count && result == KD_OK; ++i) {
        taps[KD__STUDENT] = &fs->taps[KD__STUDENT][fs->tap_count];
        taps[KD__TEACHER] = &fs->taps[KD__TEACHER][fs->tap_count];
        result = kd__feature_check(&fs->list[i], student->kd, i, &desc->features[i], models, taps);
        fs->tap_count += fs->list[i].layers;
    }
    fs->count = desc->feature_count;
    return result;
}

/* Whether one of them normalises single values by the batch. */
KD__PRIVATE int kd__features_lone(const kd__features *fs)
{
    int i, l;
    for (i = 0; i < fs->count; ++i) {
        const kd__feature *f = &fs->list[i];
        for (l = 0; f->desc.kind == KD_FEATURE_REVIEW && l < f->layers; ++l) {
            if (kd__tap_pixels(f->tap[KD__STUDENT][l]) == 1 || kd__tap_pixels(f->tap[KD__TEACHER][l]) == 1)
                return 1;
        }
    }
    return 0;
}

KD__PRIVATE kd_result kd__features_open(kd__features *fs, kd_ctx *kd, const kd_train_desc *desc, int batch)
{
    const size_t n = (size_t)batch;
    size_t maps = 0, room = 0, at = 0;
    int i, side;
    if (!fs->count) return KD_OK;
    fs->kd = kd;
    for (i = 0; i < 2 * fs->tap_count; ++i) {
        const kd__tap *tap = &fs->taps[i / fs->tap_count][i % fs->tap_count];
        for (side = i < fs->tap_count ? 0 : 1; side < 2; ++side)
            kd__take(NULL, &maps, kd__times(n, kd__tap_count(tap)));
    }
    for (i = 0; i < fs->count; ++i) {
        kd__feature *f = &fs->list[i];
        room = KD__MAX(room, kd__feature_place(f, n, NULL));
        fs->param_count += kd__feature_params(f);
    }
    fs->maps = KD__NEW(kd, double, maps);
    fs->room = KD__NEW(kd, double, room);
    fs->params = KD__NEW(kd, float, fs->param_count + KD__SLACK);
    fs->grads = KD__NEW(kd, float, fs->param_count + KD__SLACK);
    fs->gathered = KD__NEW(kd, float, fs->param_count + KD__SLACK);
    fs->first = KD__NEW(kd, float, fs->param_count + KD__SLACK);
    fs->second = KD__NEW(kd, float, fs->param_count + KD__SLACK);
    if (!fs->maps || !fs->room || !fs->params || !fs->grads || !fs->gathered || !fs->first || !fs->second)
        return KD_ERR_MEMORY;
    for (side = 0; side < 2; ++side) {
        for (i = 0; i < fs->tap_count; ++i) {
            kd__tap *tap = &fs->taps[side][i];
            tap->map = kd__take(fs->maps, &fs->map_count, n * kd__tap_count(tap));
            if (side == KD__STUDENT) tap->grad = kd__take(fs->maps, &fs->map_count, n * kd__tap_count(tap));
        }
    }
    for (i = 0; i < fs->count; ++i) {
        kd__feature *f = &fs->list[i];
        f->room = fs->room;
        f->params = fs->params + at, f->param_grads = fs->grads + at;
        kd__feature_start(f, kd__rng_key(desc->seed, KD__RNG_FEATURES, (uint64_t)i, 0));
        at += kd__feature_params(f);
    }
    return KD_OK;
}

/* Share of the way from 0 to `length` epochs that lies behind, 1 at its end. */
KD__PRIVATE double kd__ramp(double epochs, double length) { return epochs < length ? epochs / length : 1; }

/* What the runs have just computed: the weighted sum of the losses, and the gradients into the student's taps. */
KD__PRIVATE kd_result kd__features_evaluate(kd__features *fs, const kd__run *student, const kd__run *teacher,
                                            int epoch, int64_t step, double *sum)
{
    int i, which;
    *sum = 0;
    for (i = 0; i < fs->tap_count; ++i) {
        kd__tap_read(student, &fs->taps[KD__STUDENT][i]);
        kd__tap_read(teacher, &fs->taps[KD__TEACHER][i]);
    }
    for (i = 0; i < fs->count; ++i) {
        kd__feature *f = &fs->list[i];
        const double weight = (double)f->desc.weight * kd__ramp((double)epoch + 1, (double)f->desc.warmup);
        const size_t params = kd__feature_params(f);
        double value;
        size_t j;
        f->n = student->count;
        value = kd__feature_value(f);
        if (!kd__is_finite(value))
            return kd__fail(fs->kd, KD_ERR_NOT_FINITE,
                            "kd_train: feature loss %s of \"%.40s\" and \"%.40s\" is not finite at step %lld",
                            kd_feature_name(f->desc.kind), f->desc.student, f->desc.teacher, (long long)step);
        *sum += weight * value;
        for (which = 0; which < f->layers; ++which) {
            kd__tap *tap = f->tap[KD__STUDENT][which];
            for (j = 0; j < (size_t)f->n * kd__tap_count(tap); ++j) tap->grad[j] *= weight;
        }
        for (j = 0; j < params; ++j) f->param_grads[j] *= (float)weight;
    }
    return KD_OK;
}

/* For a backward pass that they have no part in. */
KD__PRIVATE void kd__features_leave_out(kd__features *fs, int n)
{
    int i;
    for (i = 0; i < fs->tap_count; ++i) {
        kd__tap *tap = &fs->taps[KD__STUDENT][i];
        memset(tap->grad, 0, (size_t)n * kd__tap_count(tap) * sizeof *tap->grad);
    }
}

/* Of the learned parts. */
KD__PRIVATE kd_result kd__features_check_gradient(const kd__features *fs, int64_t step)
{
    if (fs->param_count == 0 || fs->kd->k->sum_squares((ptrdiff_t)fs->param_count, fs->grads) <= kd__norm_limit)
        return KD_OK;
    return kd__fail(
        fs->kd, KD_ERR_NOT_FINITE,
        "kd_train: the gradient of a feature loss's learned part is not finite, or beyond 1e15, at step "
        "%lld; the weights are those before it",
        (long long)step);
}
#endif /* KD_NO_TRAIN */

/* ============================================================================================================
   >>train    training and distillation, teacher caches
   uses: features, optim, predict, data, losses
   ============================================================================================================ */
#ifndef KD_NO_TRAIN

/* ---- teacher caches -------------------------------------------------------------------------------------- */

struct kd_cache {
    kd_ctx *kd;
    float *logits; /* (views, count, classes) */
    int views, count, classes;
    uint64_t data_hash, teacher_hash, seed;
    kd_augment augment;
};

KDDEF void kd_cache_destroy(kd_cache *c)
{
    if (!c) return;
    kd__free(c->kd, c->logits);
    kd__free(c->kd, c);
}

KDDEF const float *kd_cache_logits(const kd_cache *c, int view)
{
    return c && view >= 0 && view < c->views ? c->logits + (ptrdiff_t)view * c->count * c->classes : NULL;
}

KD__PRIVATE kd_cache *kd__cache_new(kd_ctx *kd, int views, int count, int classes)
{
    kd_cache *c = KD__NEW(kd, kd_cache, 1);
    if (!c) return NULL;
    c->kd = kd;
    c->views = views;
    c->count = count;
    c->classes = classes;
    c->logits = KD__NEW(kd, float, kd__times(kd__times((size_t)views, (size_t)count), (size_t)classes));
    if (c->logits) return c;
    kd__free(kd, c);
    return NULL;
}

KD__PRIVATE kd_result kd__cache_fill(kd_cache *c, kd__feed *feed, kd__run *run, kd__progress *progress)
{
    int32_t *samples = feed->partners ? KD__NEW(c->kd, int32_t, feed->batch) : NULL;
    kd_result result = samples ? KD_OK : KD_ERR_MEMORY;
    int view, first, i;
    for (view = 0; view < c->views && result == KD_OK; ++view) {
        for (first = 0; first < c->count && result == KD_OK; first += feed->batch) {
            const int n = KD__MIN(feed->batch, c->count - first);
            float *to = c->logits + ((ptrdiff_t)view * c->count + first) * c->classes;
            for (i = 0; i < n; ++i) samples[i] = first + i;
            result = kd__feed_batch(feed, samples, n, view);
            if (result != KD_OK) break;
            kd__run_forward(run, feed->x, n);
            kd__export(run, n, to);
            result = kd__check_finite(c->kd, "kd_cache_create", "the teacher's logits", to, n, c->classes);
            if (result == KD_OK) result = kd__progress_add(progress, n);
        }
    }
    kd__free(c->kd, samples);
    return result;
}

KDDEF kd_result kd_cache_create_with(const kd_model *teacher, const kd_data *data, const kd_augment *augment,
                                     uint64_t seed, int views, kd_progress_fn on_progress, void *user,
                                     kd_cache **out)
{
    static const char where[] = "kd_cache_create";
    kd__progress progress = {on_progress, user, 0, 0};
    kd_ctx *kd;
    kd_cache *c;
    kd__feed feed;
    kd__run *run = NULL;
    kd_result result;
    if (out) *out = NULL;
    if (!teacher) return KD_ERR_ARGUMENT;
    kd = teacher->kd;
    if (!out) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: out must not be NULL", where);
    if (views < 1 || views > 1 << 16)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: views must be 1 to 65536, got %d", where, views);
    result = kd__data_check(kd, where, data, teacher, "teacher");
    if (result == KD_OK && augment) result = kd__augment_check(kd, where, augment, data);
    if (result != KD_OK) return result;
    if (views > 1 && (!augment || !kd__augment_any(augment)))
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: without augmentation every view is the same, so views must be 1, got %d", where,
                        views);
    c = kd__cache_new(kd, views, data->count, kd_model_outputs(teacher));
    if (!c) return KD_ERR_MEMORY;
    if (augment) c->augment = *augment;
    c->seed = kd__augment_any(&c->augment) ? seed : 0;
    c->data_hash = kd_data_hash(data);
    c->teacher_hash = kd_model_hash(teacher);
    result = kd__feed_open_images(&feed, kd, data, augment, seed, KD__MIN(256, data->count));
    if (result == KD_OK) {
        result = kd__run_open(teacher, NULL, feed.batch, &run);
        progress.all = (int64_t)views * data->count;
        if (result == KD_OK) result = kd__cache_fill(c, &feed, run, &progress);
        kd__run_close(run);
        kd__feed_close(&feed);
    }
    if (result == KD_OK)
        *out = c;
    else
        kd_cache_destroy(c);
    return result;
}

KDDEF kd_result kd_cache_create(const kd_model *teacher, const kd_data *data, const kd_augment *augment,
                                uint64_t seed, int views, kd_cache **out)
{
    return kd_cache_create_with(teacher, data, augment, seed, views, NULL, NULL, out);
}

KD__PRIVATE kd_result kd__cache_check(kd_ctx *kd, const kd_cache *c, const kd_data *data, const kd_train_desc *desc)
{
    static const char where[] = "kd_train";
    if (c->count != data->count || c->data_hash != kd_data_hash(data))
        return kd__fail(kd, KD_ERR_DATA,
                        "%s: the cached teacher outputs belong to other images (%d samples, fingerprint %016llx) "
                        "than these (%d, %016llx)",
                        where, c->count, (unsigned long long)c->data_hash, data->count,
                        (unsigned long long)kd_data_hash(data));
    if (memcmp(&c->augment, &desc->augment, sizeof c->augment) != 0)
        return kd__fail(kd, KD_ERR_DATA, "%s: the cached teacher outputs were made with another augmentation",
                        where);
    return KD_OK;
}

/* ---- options --------------------------------------------------------------------------------------------- */

KDDEF kd_train_desc kd_train_defaults(void)
{
    kd_train_desc d;
    memset(&d, 0, sizeof d);
    d.cookie = KD__COOKIE;
    d.epochs = 10;
    d.batch = 128;
    d.shuffle = 1;
    d.seed = 1;
    d.optimizer = KD_ADAM;
    d.lr = 0.001f;
    d.momentum = 0.9f;
    d.beta1 = 0.9f;
    d.beta2 = 0.999f;
    d.epsilon = 1e-8f;
    d.decay_norms_and_biases = 1;
    d.accumulate = 1;
    d.schedule_step = 10;
    d.schedule_gamma = 0.1f;
    d.prompt_temperature = 1;
    d.prompt_until = 0.8f;
    d.loss = kd_loss_defaults(KD_LOSS_AUTO);
    d.attack = d.prompt_attack = kd_attack_defaults(KD_ATTACK_PGD);
    d.prompt_attack.epsilon = 0;
    return d;
}

KD__PRIVATE int kd__train_ranges(const kd_train_desc *d, kd__range *to)
{
    const double most = 1e30, momentum = (double)d->momentum;
    const kd__range ranges[] = {
        {"epochs", (double)d->epochs, 0, 1e9},
        {"batch", (double)d->batch, 1, 65536},
        {"lr", (double)d->lr, 0, 1e6},
        {"momentum", (double)d->momentum, 0, 1},
        {"beta1", (double)d->beta1, 0, 0.9999999},
        {"beta2", (double)d->beta2, 0, 0.9999999},
        {"epsilon", (double)d->epsilon, 1e-30, 1e6},
        {"weight_decay", (double)d->weight_decay, 0, 1e6},
        {"decay_norms_and_biases", (double)d->decay_norms_and_biases, 0, 1},
        {"ema", (double)d->ema, 0, 0.9999995},
        {"max_norm", (double)d->max_norm, 0, most},
        {"clip_norm", (double)d->clip_norm, 0, most},
        {"dot_delta", (double)d->dot_delta, 0, KD__MAX(0.0, KD__MIN(momentum, 1 - momentum)) + 1e-7},
        {"accumulate", (double)d->accumulate, 1, 1e6},
        {"warmup", (double)d->warmup, 0, 1e9},
        {"schedule_step", (double)d->schedule_step, 1e-6, 1e9},
        {"schedule_gamma", (double)d->schedule_gamma, 0, 1e6},
        {"lr_end", (double)d->lr_end, 0, 1e6},
        {"validation", (double)d->validation, 0, 0.9},
        {"patience", (double)d->patience, 0, 1e9},
        {"optimizer", (double)(int)d->optimizer, 0, (double)(KD_OPTIMIZER_COUNT - 1)},
        {"schedule", (double)(int)d->schedule, 0, (double)(KD_SCHEDULE_COUNT - 1)},
        {"keep", (double)(int)d->keep, 0, (double)KD_KEEP_BEST},
        {"teacher_average", (double)(int)d->teacher_average, 0, (double)KD_AVERAGE_LOGITS},
        {"rollback", (double)d->rollback, 0, (double)0.99f},
        {"uncertainty", (double)d->uncertainty, 0, 1},
        {"prompt", (double)(int)d->prompt, 0, (double)KD_PROMPT_SIDE},
        {"prompt_temperature", (double)d->prompt_temperature, 1e-3, 1e6},
        {"prompt_drop", (double)d->prompt_drop, 0, 1},
        {"prompt_until", (double)d->prompt_until, 0, 1},
    };
    memcpy(to, ranges, sizeof ranges);
    return KD__COUNT(ranges);
}

/* ---- the trainer ----------------------------------------------------------------------------------------- */

enum { KD__MAX_LOSSES = 16 };
enum { KD__TEACHER_NONE, KD__TEACHER_MODELS, KD__TEACHER_FN, KD__TEACHER_CACHE, KD__TEACHER_DATA };

/* How far training has come: all that changes from step to step, but for the arrays of numbers. Members have 8
   bytes each, so that a checkpoint can hold them one after another. */
#define KD__POSITIONS(X)                                                                                           \
    X(int64_t, epoch)                                                                                              \
    X(int64_t, batch) /* of the epoch: the next one */                                                             \
    X(int64_t, step)  /* updates */                                                                                \
    X(int64_t, images)                                                                                             \
    X(int64_t, labelled) /* in this epoch, */                                                                      \
    X(int64_t, correct)  /* and of those */                                                                        \
    X(int64_t, gathered_batches)                                                                                   \
    X(int64_t, epochs_without_gain)                                                                                \
    X(int64_t, seen) /* kd_model.batches_seen */                                                                   \
    X(int64_t, rollbacks)                                                                                          \
    X(double, rate) /* what they have multiplied the learning rate by */                                           \
    X(double, loss) /* sum over this epoch's samples */                                                            \
    X(double, best)

typedef struct kd__position {
#define KD__ITEM(type, name) type name;
    KD__POSITIONS(KD__ITEM)
#undef KD__ITEM
} kd__position;

struct kd_trainer {
    kd_ctx *kd;
    kd_model *m;
    const kd_data *data;
    kd_train_desc desc;
    kd_loss_desc losses[KD__MAX_LOSSES]; /* kinds resolved */
    double loss_weights[KD__MAX_LOSSES];
    int loss_count;
    int outputs, source, teacher_count, has_labels, uses_labels, has_heads;
    int inputs[2]; /* losses that see each kind of images */
    const kd_model *teachers[KD__MAX_TEACHERS];
    kd__run *runs[2]; /* by kd_inputs; NULL where no loss needs it */
    kd__run *run;     /* the first of them */
    kd__run *teacher_runs[KD__MAX_TEACHERS];
    kd__attacker attack, prompt_attack;
    kd__feed feed, teacher_feed; /* the second where the teachers see something else */
    kd__optim optim;
    kd__features features;
    kd__evaluator evaluator;
    kd__tally *tally;
    int has_validation, validation_count, train_count;
    int fold, folds;              /* of kd_cross_validate; folds 0: no */
    int lone;                     /* 1: no batch may have a single sample */
    int batch;                    /* samples of every batch but the last */
    int peer;                     /* of kd_train_mutual: its number, else 0 */
    int32_t *pool;                /* (train_count) the others' samples, for mixup */
    int32_t *order;               /* (count): training samples in this epoch's order, then those held out */
    float *teacher_logits;        /* (batch, outputs) */
    float *teacher_all;           /* (teachers, batch, outputs) */
    float averaged_at;            /* temperature at which they were, 0: not yet */
    float *targets;               /* (batch, outputs) */
    float *prompts;               /* (batch, N); NULL unless there are prompts */
    float *loss_room, *loss_grad; /* of any of the losses; (batch, outputs), NULL unless there are several */
    float theta[KD__MAX_LOSSES], theta_moments[KD__MAX_LOSSES][2];        /* temperatures that are learned */
    float slopes[KD__MAX_LOSSES];                                         /* their gradient, gathered */
    float variances[KD__MAX_LOSSES], variance_moments[KD__MAX_LOSSES][2]; /* s of kd_train_desc.uncertainty */
    float variance_slopes[KD__MAX_LOSSES];
    double weights_now[KD__MAX_LOSSES];
    float *head, *teacher_head, *head_grad; /* (batch, columns of a loss); NULL if all losses see all columns */
    int32_t *task;                          /* (batch) labels of a task */
    float *grads[2];                        /* of all terms; with dot_delta of hard terms, then of soft ones */
    float *gathered[2];                     /* those of several batches; NULL unless accumulate > 1 */
    float *best_weights, *best_state;
    float *ema_weights,
        *ema_state; /* moving averages, as large as the model's own, with which they change places */
    int ema_shown;  /* 1: they have */
    int64_t steps_per_epoch;
    int batches;  /* of an epoch */
    int stepping; /* a step is on its way, so that a callback may not begin another */
    int stopped;  /* no step may follow: the end, patience, a callback, or a failure */
    int failed;
    kd__position at, start_at; /* start: of this epoch; NULL unless rollback is on */
    float *start;
};

/* An array that changes from step to step: flat, or laid out as the weights or the running statistics are. */
enum { KD__KEPT_FLAT, KD__KEPT_WEIGHTS, KD__KEPT_STATISTICS };
typedef struct kd__kept {
    const char *name;
    float *values;
    size_t count;
    int layout;
} kd__kept;

enum { KD__MAX_KEPT = 24 };

/* All arrays in which training keeps something between two steps. */
KD__PRIVATE int kd__trainer_kept(kd_trainer *t, kd__kept *list)
{
    const size_t weights = t->m->weight_count, state = t->m->state_count, learned = t->features.param_count;
    const size_t learns = t->desc.uncertainty != 0;
    const kd__kept all[] = {
        {"weights", t->ema_shown ? t->ema_weights : t->m->weights, weights, KD__KEPT_WEIGHTS},
        {"statistics", t->ema_shown ? t->ema_state : t->m->state, state, KD__KEPT_STATISTICS},
        {"ema.weights", t->ema_shown ? t->m->weights : t->ema_weights, weights, KD__KEPT_WEIGHTS},
        {"ema.statistics", t->ema_shown ? t->m->state : t->ema_state, state, KD__KEPT_STATISTICS},
        {"first", t->optim.first, weights, KD__KEPT_WEIGHTS},
        {"second", t->optim.second, weights, KD__KEPT_WEIGHTS},
        {"gathered", t->gathered[0], weights, KD__KEPT_WEIGHTS},
        {"gathered.soft", t->gathered[1], weights, KD__KEPT_WEIGHTS},
        {"best.weights", t->best_weights, weights, KD__KEPT_WEIGHTS},
        {"best.statistics", t->best_state, state, KD__KEPT_STATISTICS},
        {"features", t->features.params, learned, KD__KEPT_FLAT},
        {"features.first", t->features.first, learned, KD__KEPT_FLAT},
        {"features.second", t->features.second, learned, KD__KEPT_FLAT},
        {"features.gathered", t->features.gathered, learned, KD__KEPT_FLAT},
        {"temperatures", t->theta, KD__COUNT(t->theta), KD__KEPT_FLAT},
        {"temperatures.moments", t->theta_moments[0], 2 * KD__COUNT(t->theta), KD__KEPT_FLAT},
        {"temperatures.gathered", t->slopes, KD__COUNT(t->slopes), KD__KEPT_FLAT},
        {"variances", t->variances, learns * KD__COUNT(t->variances), KD__KEPT_FLAT},
        {"variances.moments", t->variance_moments[0], learns * 2 * KD__COUNT(t->variances), KD__KEPT_FLAT},
        {"variances.gathered", t->variance_slopes, learns * KD__COUNT(t->variances), KD__KEPT_FLAT},
    };
    int i, count = 0;
    for (i = 0; i < KD__COUNT(all); ++i) {
        if (all[i].values && all[i].count > 0) list[count++] = all[i];
    }
    return count;
}

/* Floats in all of them. */
KD__PRIVATE size_t kd__trainer_kept_floats(kd_trainer *t)
{
    kd__kept kept[KD__MAX_KEPT];
    size_t sum = 0;
    int i = kd__trainer_kept(t, kept);
    while (i--) sum += kept[i].count;
    return sum;
}

/* After the position has been changed from outside. */
KD__PRIVATE void kd__trainer_settle(kd_trainer *t)
{
    t->optim.updates = t->at.step;
    t->m->batches_seen = t->at.seen;
}

KD__PRIVATE void kd__trainer_remember(kd_trainer *t)
{
    kd__kept kept[KD__MAX_KEPT];
    const int count = kd__trainer_kept(t, kept);
    float *to = t->start;
    int i;
    for (i = 0; i < count; to += kept[i++].count) memcpy(to, kept[i].values, kept[i].count * sizeof *to);
    t->start_at = t->at;
}

KD__PRIVATE int kd__trainer_roll_back(kd_trainer *t)
{
    enum { MOST = 10 };
    const double rate = t->at.rate * (double)t->desc.rollback;
    const int64_t rollbacks = t->at.rollbacks + 1, step = t->at.step;
    kd__kept kept[KD__MAX_KEPT];
    const int count = kd__trainer_kept(t, kept);
    const float *from = t->start;
    int i;
    if (!t->start || rollbacks > MOST) return 0;
    for (i = 0; i < count; from += kept[i++].count) memcpy(kept[i].values, from, kept[i].count * sizeof *from);
    t->at = t->start_at;
    t->at.rate = rate;
    t->at.rollbacks = rollbacks;
    kd__trainer_settle(t);
    kd__log(t->kd, "kd_train: step %lld failed (%s); back to the start of epoch %lld, the learning rate times %s",
            (long long)step, kd_error(t->kd), (long long)t->at.epoch, kd__number(rate, 4).chars);
    return 1;
}

KD__PRIVATE void kd__trainer_free(kd_trainer *t)
{
    kd_ctx *kd = t->kd;
    int i;
    for (i = 0; i < 2; ++i) {
        kd__run_close(t->runs[i]);
        kd__free(kd, t->gathered[i]);
    }
    kd__free(kd, t->grads[1]); /* the first is the run's */
    for (i = 0; i < t->teacher_count; ++i) kd__run_close(t->teacher_runs[i]);
    if (t->feed.kd) kd__feed_close(&t->feed);
    if (t->teacher_feed.kd) kd__feed_close(&t->teacher_feed);
    if (t->evaluator.m) kd__evaluator_close(&t->evaluator);
    kd__attack_close(&t->attack);
    kd__attack_close(&t->prompt_attack);
    kd__optim_close(&t->optim);
    kd__features_close(&t->features);
    kd__free(kd, t->tally);
    kd__free(kd, t->order);
    kd__free(kd, t->pool);
    kd__free(kd, t->teacher_logits);
    kd__free(kd, t->teacher_all);
    kd__free(kd, t->targets);
    kd__free(kd, t->prompts);
    kd__free(kd, t->head);
    kd__free(kd, t->teacher_head);
    kd__free(kd, t->head_grad);
    kd__free(kd, t->task);
    kd__free(kd, t->loss_room);
    kd__free(kd, t->loss_grad);
    kd__free(kd, t->best_weights);
    kd__free(kd, t->best_state);
    kd__free(kd, t->ema_weights);
    kd__free(kd, t->ema_state);
    kd__free(kd, t->start);
    kd__free(kd, t);
}

/* Where soft targets come from: exactly one source, or none. */
KD__PRIVATE kd_result kd__trainer_teachers(kd_trainer *t)
{
    static const char where[] = "kd_train";
    const kd_train_desc *d = &t->desc;
    const kd_data *seen = d->teacher_data ? d->teacher_data : t->data;
    const int sources = (d->teacher != NULL) + (d->teacher_count > 0) + (d->teacher_fn != NULL) +
                        (d->cache != NULL) + (t->data->teacher_logits != NULL);
    kd_result result = KD_OK;
    int i;
    if (sources > 1)
        return kd__fail(
            t->kd, KD_ERR_ARGUMENT,
            "%s: give one source of soft targets: teacher, teachers, teacher_fn, cache or teacher_logits; got %d",
            where, sources);
    if (d->teacher_count < 0 || d->teacher_count > KD__MAX_TEACHERS ||
        (d->teacher_count > 0) != (d->teachers != NULL))
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "%s: teachers and teacher_count belong together; the count must be 0 to %d, got %d", where,
                        (int)KD__MAX_TEACHERS, d->teacher_count);
    if (d->teacher_count > 1 && t->outputs == 1 && d->teacher_average == KD_AVERAGE_PROBABILITIES)
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "%s: the softmax of a single output is always 1; of several teachers average the logits, "
                        "KD_AVERAGE_LOGITS",
                        where);
    t->source = d->teacher || d->teacher_count ? KD__TEACHER_MODELS
                : d->teacher_fn                ? KD__TEACHER_FN
                : d->cache                     ? KD__TEACHER_CACHE
                : t->data->teacher_logits      ? KD__TEACHER_DATA
                                               : KD__TEACHER_NONE;
    result = kd__check_teacher_data(t->kd, where, t->data, d->teacher_data);
    if (result == KD_OK && d->teacher_data && (t->source == KD__TEACHER_NONE || t->source == KD__TEACHER_DATA))
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: teacher_data without a teacher that would see them", where);
    if (result == KD_OK && d->teacher_data && kd__augment_any(&d->augment))
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "%s: augment would show the student another view than teacher_data shows the teacher",
                        where);
    if (d->teacher) t->teachers[t->teacher_count++] = d->teacher;
    for (i = 0; i < d->teacher_count; ++i) t->teachers[t->teacher_count++] = d->teachers[i];
    for (i = 0; i < t->teacher_count && result == KD_OK; ++i) {
        if (!t->teachers[i]) return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: teacher %d is NULL", where, i);
        if (t->teachers[i] == t->m)
            return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: a model cannot be its own teacher; clone it first", where);
        if (d->teacher_weights && (!(d->teacher_weights[i] > 0) || !kd__is_finite((double)d->teacher_weights[i])))
            return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: the weight of teacher %d must be above 0, got %s", where,
                            i, kd__number((double)d->teacher_weights[i], 6).chars);
        result = kd__check_teacher(t->kd, where, t->m, t->teachers[i]);
        if (result == KD_OK) result = kd__data_check(t->kd, where, seen, t->teachers[i], "teacher");
    }
    if (result == KD_OK && d->teacher_data && t->teacher_count == 0)
        result = kd__data_check(t->kd, where, d->teacher_data, NULL, "teacher");
    if (result == KD_OK && d->cache) {
        if (d->cache->classes != t->outputs)
            return kd__fail(t->kd, KD_ERR_SHAPE, "%s: the cached teacher has %d outputs, the student %d", where,
                            d->cache->classes, t->outputs);
        result = kd__cache_check(t->kd, d->cache, seen, d);
    }
    if (result == KD_OK && t->source == KD__TEACHER_DATA) {
        if (kd__augment_any(&d->augment))
            return kd__fail(t->kd, KD_ERR_DATA,
                            "%s: teacher_logits belong to the images as they are, but augment changes them; make a "
                            "kd_cache with views",
                            where);
        result =
            kd__check_finite(t->kd, where, "teacher_logits", t->data->teacher_logits, t->data->count, t->outputs);
    }
    return result;
}

/* How many columns a loss sees. */
KD__PRIVATE int kd__trainer_columns(const kd_trainer *t, const kd_loss_desc *loss)
{
    return loss->columns ? loss->columns : t->outputs;
}

/* If there is one. */
KD__PRIVATE int kd__trainer_uses_teacher(const kd_loss_desc *loss)
{
    return kd__loss_look_up(loss->kind)->teacher != KD__NO && !loss->to_targets;
}

/* One of the losses: what it is where that was left open, and whether it can be computed. */
KD__PRIVATE kd_result kd__trainer_loss(kd_trainer *t, kd_loss_desc *loss)
{
    static const char where[] = "kd_train";
    const kd_data *data = t->data;
    const int has_targets = data->targets != NULL, has_labels = loss->task || t->has_labels;
    int has_teacher = t->source != KD__TEACHER_NONE;
    kd_result result;
    if (loss->cookie != KD__COOKIE)
        return kd__fail(t->kd, KD_ERR_DEFAULTS, "%s: loss must start from kd_loss_defaults()", where);
    if (loss->kind == KD_LOSS_AUTO)
        loss->kind = kd__loss_resolve(has_teacher, has_labels, has_targets, kd__trainer_columns(t, loss));
    if (loss->soft_labels)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: soft labels of a data set go into kd_data.soft_labels", where);
    if (loss->to_targets && !has_targets)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: to_targets needs kd_data.targets", where);
    if (loss->to_targets || ((t->desc.loss_count > 0 || t->features.count > 0) && !kd__trainer_uses_teacher(loss)))
        has_teacher = 0;
    result = kd__head_check(t->kd, where, t->m, data, loss->first, loss->columns, loss->task);
    if (result == KD_OK)
        result = kd__loss_check(t->kd, where, loss, has_teacher || (loss->kind == KD_LOSS_MSE && has_targets),
                                has_labels, kd__trainer_columns(t, loss));
    if (result != KD_OK) return result;
    if (loss->columns && (data->soft_labels || t->desc.augment.mixup != 0))
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: soft labels and mixup know nothing of several heads", where);
    if (loss->columns == 1 && t->teacher_count > 1 && kd__trainer_uses_teacher(loss) &&
        t->desc.teacher_average == KD_AVERAGE_PROBABILITIES)
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "%s: the softmax of a single column is always 1; of several teachers average the logits, "
                        "KD_AVERAGE_LOGITS",
                        where);
    if (kd__trainer_columns(t, loss) == 1 && loss->kind != KD_LOSS_MSE && loss->kind != KD_LOSS_BCE)
        return kd__fail(
            t->kd, KD_ERR_ARGUMENT,
            "%s: the softmax of a single output is always 1, so that loss %s teaches nothing; bce and mse "
            "take a single one",
            where, kd_loss_name(loss->kind));
    if (loss->kind == KD_LOSS_MSE && !has_teacher && t->desc.augment.mixup != 0)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: mixup blends labels and what a teacher sees, but not targets",
                        where);
    if (loss->kind == KD_LOSS_MSE && !has_teacher && loss->adjust != KD_ADJUST_NONE)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: targets are no teacher whose knowledge could be adjusted",
                        where);
    return KD_OK;
}

/* The attacks of a training: on images, and on prompts; NULL: not. */
KD__PRIVATE void kd__trainer_attacks(const kd_trainer *t, const kd_attack_desc **attacks)
{
    attacks[0] = t->inputs[KD_INPUTS_ADVERSARIAL] ? &t->desc.attack : NULL;
    attacks[1] = t->desc.prompt_attack.epsilon != 0 ? &t->desc.prompt_attack : NULL;
}

/* One of them: what it is where that was left open, and whether it can be made. */
KD__PRIVATE kd_result kd__trainer_attack(kd_trainer *t, kd_attack_desc *attack)
{
    static const char where[] = "kd_train";
    const kd_loss_desc *loss = &attack->loss;
    const int has_teacher = t->source != KD__TEACHER_NONE, has_targets = t->data->targets != NULL;
    const int to_targets = loss->kind == KD_LOSS_MSE && has_targets && (!has_teacher || loss->to_targets);
    kd_result result;
    if (t->has_heads) return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: attacks know nothing of several heads", where);
    if (to_targets && t->desc.augment.mixup != 0)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: mixup blends labels and what a teacher sees, but not targets",
                        where);
    result = kd__attack_check(t->kd, where, attack, has_teacher, has_targets, t->has_labels, t->outputs);
    if (result == KD_OK) t->uses_labels |= kd__loss_uses_labels(loss);
    return result;
}

/* Whether a row without a label still has something to learn from. */
KD__PRIVATE int kd__trainer_has_soft(const kd_trainer *t, const kd_loss_desc *loss)
{
    return t->source != KD__TEACHER_NONE || (loss->kind == KD_LOSS_MSE && t->data->targets);
}

/* The labels of `samples` (NULL: of all), as losses, attacks and mixup need them. */
KD__PRIVATE kd_result kd__trainer_check_labels(kd_trainer *t, const int32_t *labels, const int32_t *samples, int n)
{
    const kd_attack_desc *attacks[2];
    kd_result result = KD_OK;
    int i;
    kd__trainer_attacks(t, attacks);
    for (i = 0; i < t->loss_count && result == KD_OK; ++i) {
        if (kd__loss_uses_labels(&t->losses[i]) && t->losses[i].task == 0)
            result = kd__loss_check_labels(t->kd, "kd_train", &t->losses[i], kd__trainer_has_soft(t, &t->losses[i]),
                                           labels, samples, n, kd__trainer_columns(t, &t->losses[i]));
    }
    for (i = 0; i < 2 && result == KD_OK; ++i) {
        if (attacks[i] && kd__loss_uses_labels(&attacks[i]->loss))
            result = kd__loss_check_labels(t->kd, "kd_train", &attacks[i]->loss,
                                           kd__attack_uses_teacher(attacks[i]), labels, samples, n, t->outputs);
    }
    for (i = 0; i < n && result == KD_OK && t->data->classes == 1 && !t->has_heads; ++i) {
        if (labels[i] > 0)
            result = kd__fail(t->kd, KD_ERR_DATA,
                              "kd_train: label %ld of sample %d is outside 0 to 0; classes are 2 where one output "
                              "tells 0 from 1",
                              (long)labels[i], samples ? (int)samples[i] : i);
    }
    for (i = 0; i < n && result == KD_OK && t->uses_labels && t->desc.augment.mixup != 0; ++i) {
        if (labels[i] == KD_UNLABELLED)
            result =
                kd__fail(t->kd, KD_ERR_DATA, "kd_train: mixup blends labels, but sample %d has none; use loss kl",
                         samples ? (int)samples[i] : i);
    }
    return result;
}

/* The labels that the losses need, of all samples. */
KD__PRIVATE kd_result kd__trainer_labels(kd_trainer *t)
{
    static const char where[] = "kd_train";
    const kd_data *data = t->data;
    kd_result result = KD_OK;
    int i, apart = 1;
    if ((data->soft_labels || t->desc.augment.mixup != 0) && data->classes != t->outputs)
        return kd__fail(t->kd, KD_ERR_SHAPE,
                        "%s: soft labels and mixup need an output for each class, but the model has %d outputs and "
                        "the data have %d classes",
                        where, t->outputs, data->classes);
    if (data->labels && !data->soft_labels) result = kd__trainer_check_labels(t, data->labels, NULL, data->count);
    for (i = 0; i < t->loss_count && result == KD_OK; ++i) {
        if (t->losses[i].task && kd__loss_uses_labels(&t->losses[i]))
            result = kd__loss_check_labels(t->kd, where, &t->losses[i], kd__trainer_has_soft(t, &t->losses[i]),
                                           kd__data_labels(data, t->losses[i].task), NULL, data->count,
                                           kd__trainer_columns(t, &t->losses[i]));
    }
    for (i = 0; i < t->loss_count; ++i)
        apart &= t->losses[i].kind == KD_LOSS_BCE || !kd__loss_uses_labels(&t->losses[i]);
    if (result == KD_OK && data->soft_labels)
        result = kd__check_soft_labels(t->kd, where, data->soft_labels, data->count, data->classes, apart);
    return result;
}

/* The labels that a stream delivered with a batch, and with those that mixup blends into it. */
KD__PRIVATE kd_result kd__trainer_check_stream(kd_trainer *t, int n)
{
    const kd__feed *f = &t->feed;
    const int sets = t->desc.augment.mixup != 0 ? 2 : 1;
    kd_result result = KD_OK;
    int i;
    for (i = 0; i < sets && result == KD_OK; ++i)
        result = kd__trainer_check_labels(t, f->stream_labels + i * n, i ? f->partners : f->samples, n);
    return result;
}

KD__PRIVATE kd_result kd__trainer_losses(kd_trainer *t)
{
    static const char where[] = "kd_train";
    const kd_train_desc *d = &t->desc;
    const kd_loss_desc open = kd_loss_defaults(KD_LOSS_AUTO);
    kd_result result = KD_OK;
    int i, uses_teacher = t->features.count > 0 || d->prompt == KD_PROMPT_TEACHER;
    t->has_labels = t->data->labels || t->data->soft_labels || t->data->batch;
    if (d->loss_count < 0 || d->loss_count > KD__MAX_LOSSES || (d->loss_count > 0) != (d->losses != NULL))
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "%s: losses and loss_count belong together; the count must be 0 to %d, got %d", where,
                        (int)KD__MAX_LOSSES, d->loss_count);
    if (d->loss_count > 0 && d->loss.kind != KD_LOSS_AUTO)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: give loss or losses, not both", where);
    if (d->loss_count > 0 && kd__loss_difference(&d->loss, &open))
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: give loss or losses, not both; %s of loss has no use", where,
                        kd__loss_difference(&d->loss, &open));
    if (d->loss_count == 0 && d->loss_weights)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: loss_weights weigh several losses; give losses", where);
    if (d->uncertainty && d->loss_count == 0)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: uncertainty weighs several losses; give losses", where);
    if (d->uncertainty && d->dot_delta > 0)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: uncertainty weighs whole losses, dot_delta parts them", where);
    t->loss_count = KD__MAX(1, d->loss_count);
    for (i = 0; i < t->loss_count && result == KD_OK; ++i) {
        const double weight = d->loss_count > 0 && d->loss_weights ? (double)d->loss_weights[i] : 1;
        if (!(weight >= 0 && weight <= 1e6))
            return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: the weight of loss %d must be 0 to 1e+06, got %s", where,
                            i, kd__number(weight, 6).chars);
        t->loss_weights[i] = weight;
        t->losses[i] = d->loss_count > 0 ? d->losses[i] : d->loss;
        t->theta[i] = 1; /* of Li et al. */
        result = kd__trainer_loss(t, &t->losses[i]);
        if (result != KD_OK) return result;
        t->uses_labels |= kd__loss_uses_labels(&t->losses[i]);
        uses_teacher |= kd__trainer_uses_teacher(&t->losses[i]);
        ++t->inputs[t->losses[i].inputs];
    }
    if (t->source != KD__TEACHER_NONE && !uses_teacher)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: none of the losses would use the teacher", where);
    t->inputs[KD_INPUTS_CLEAN] += t->features.count;
    if (t->inputs[KD_INPUTS_ADVERSARIAL]) result = kd__trainer_attack(t, &t->desc.attack);
    if (result == KD_OK && d->prompt_attack.epsilon != 0) result = kd__trainer_attack(t, &t->desc.prompt_attack);
    return result == KD_OK && t->uses_labels ? kd__trainer_labels(t) : result;
}

/* The teacher that validation compares with, or NULL. */
KD__PRIVATE const kd_model *kd__trainer_judge(const kd_trainer *t)
{
    const int sees_all = !t->desc.teacher_data || !t->desc.validation_data;
    return t->teacher_count == 1 && sees_all ? t->teachers[0] : NULL;
}

/* What an epoch will be judged by: its labels must be good, and where something depends on the judgement there must
   be something to judge by. */
KD__PRIVATE kd_result kd__trainer_check_validation(kd_trainer *t, const kd_data *data)
{
    static const char where[] = "kd_train";
    const kd_loss_desc *judge = &t->losses[0];
    const int classes = judge->columns ? kd__head_classes(judge->columns) : kd__whole_classes(data, t->outputs);
    const int32_t *labels;
    const kd_result result = kd__head_check(t->kd, where, t->m, data, judge->first, judge->columns, judge->task);
    int i;
    if (result != KD_OK) return result;
    labels = kd__data_labels(data, judge->task);
    for (i = 0; labels && i < data->count; ++i) {
        if (labels[i] == KD_UNLABELLED) continue;
        if (labels[i] < 0 || labels[i] >= classes)
            return kd__fail(t->kd, KD_ERR_DATA,
                            "%s: label %ld of sample %d of the validation data is outside 0 to %d", where,
                            (long)labels[i], i, classes - 1);
    }
    return KD_OK;
}

/* Whether something depends on how good an epoch was. */
KD__PRIVATE int kd__trainer_is_judged(const kd_trainer *t)
{
    return t->desc.keep == KD_KEEP_BEST || t->desc.patience > 0;
}

/* Then there must be something to judge by, in what is held out; of a stream only its labels will tell. */
KD__PRIVATE kd_result kd__trainer_check_judge(const kd_trainer *t)
{
    const kd_data *data = t->desc.validation_data ? t->desc.validation_data : t->data;
    const int32_t *labels = kd__data_labels(data, t->losses[0].task);
    const int count = t->desc.validation_data ? data->count : t->validation_count;
    int i;
    if (!kd__trainer_is_judged(t) || data->targets || data->teacher_logits || kd__trainer_judge(t)) return KD_OK;
    if (data->batch && t->losses[0].task == 0) return KD_OK;
    for (i = 0; labels && i < count; ++i) {
        if (labels[t->desc.validation_data ? i : t->order[t->train_count + i]] != KD_UNLABELLED) return KD_OK;
    }
    return kd__fail(t->kd, KD_ERR_ARGUMENT,
                    "kd_train: keeping the best weights and patience need validation data with labels, targets or "
                    "teacher_logits, or a single teacher model");
}

/* Validation sees images as training does. */
KD__PRIVATE kd_result kd__trainer_check_alike(const kd_trainer *t)
{
    const kd_data *a = t->data, *b = t->desc.validation_data;
    int c;
    for (c = 0; a->channels == b->channels && c < KD__MIN(a->channels, (int)KD_MAX_CHANNELS); ++c) {
        if (fabsf(a->mean[c] - b->mean[c]) > 1e-5f || fabsf(a->std[c] - b->std[c]) > 1e-5f)
            return kd__fail(t->kd, KD_ERR_DATA,
                            "kd_train: the data are normalised with mean %s and std %s in channel %d, but the "
                            "validation data with %s and %s",
                            kd__number((double)a->mean[c], 6).chars, kd__number((double)a->std[c], 6).chars, c,
                            kd__number((double)b->mean[c], 6).chars, kd__number((double)b->std[c], 6).chars);
    }
    return KD_OK;
}

/* Where a fold ends in the order of all samples. */
KD__PRIVATE int kd__fold_end(const kd_trainer *t, int fold)
{
    return (int)((int64_t)(fold + 1) * t->data->count / t->folds);
}

KD__PRIVATE int kd__train_has_heads(const kd_train_desc *d)
{
    int i, heads = d->loss.columns > 0;
    for (i = 0; d->losses && i < KD__MIN(d->loss_count, (int)KD__MAX_LOSSES); ++i)
        heads |= d->losses[i].columns > 0;
    return heads;
}

/* Everything that can be wrong is found here, before anything is allocated or changed. */
KD__PRIVATE kd_result kd__trainer_check(kd_trainer *t)
{
    static const char where[] = "kd_train";
    const kd_train_desc *d = &t->desc;
    const kd__shape *out = &t->m->values[t->m->output].shape;
    const double share = (double)d->validation * (1 + 1e-7); /* 0.7f is a little less than 7 of 10 */
    const kd__node *lone;
    kd__range ranges[KD__MAX_RANGES];
    kd_result result = kd__check_ranges(t->kd, where, ranges, kd__train_ranges(d, ranges));
    if (result == KD_OK) result = kd__data_check(t->kd, where, t->data, t->m, "model");
    t->has_heads = kd__train_has_heads(d);
    if (result == KD_OK && !t->has_heads) result = kd__check_classes(t->kd, where, t->m, t->data);
    if (result == KD_OK) result = kd__augment_check(t->kd, where, &d->augment, t->data);
    if (result != KD_OK) return result;
    if (out->h * out->w > 1 && out->c > 1)
        return kd__fail(t->kd, KD_ERR_SHAPE,
                        "%s: the model ends in an image of %dx%dx%d; end it with gap or dense to train it", where,
                        out->c, out->h, out->w);
    result = kd__trainer_teachers(t);
    if (result == KD_OK)
        result = kd__prompt_check(t->kd, where, t->m, d->prompt, t->data, t->source != KD__TEACHER_NONE,
                                  d->prompt_attack.epsilon != 0);
    if (result == KD_OK && d->prompt == KD_PROMPT_SIDE && d->augment.mixup != 0)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: mixup blends labels, but not side vectors", where);
    if (result == KD_OK && d->dot_delta > 0 &&
        (d->optimizer != KD_SGD || t->source == KD__TEACHER_NONE || d->clip_norm > 0))
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: dot_delta needs KD_SGD and a teacher, and no clip_norm",
                        where);
    if (result == KD_OK) result = kd__features_check(&t->features, t->m, d);
    if (result == KD_OK) result = kd__trainer_losses(t);
    if (result == KD_OK && t->data->targets)
        result = kd__check_finite(t->kd, where, "targets", t->data->targets, t->data->count, t->outputs);
    if (result == KD_OK && d->validation_data) {
        if (d->validation > 0)
            return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: give validation or validation_data, not both", where);
        result = kd__data_check(t->kd, where, d->validation_data, t->m, "model");
        if (result == KD_OK && !t->has_heads) result = kd__check_classes(t->kd, where, t->m, d->validation_data);
        if (result == KD_OK && kd__trainer_judge(t))
            result = kd__data_check(t->kd, where, d->validation_data, t->teachers[0], "teacher");
        if (result == KD_OK) result = kd__trainer_check_alike(t);
        if (result == KD_OK) result = kd__check_comparisons(t->kd, where, d->validation_data, t->outputs);
    }
    if (result != KD_OK) return result;
    t->validation_count = d->validation > 0 ? KD__MAX(1, (int)(share * t->data->count)) : 0;
    t->has_validation = d->validation_data || t->validation_count > 0;
    if (t->folds) t->validation_count = kd__fold_end(t, t->fold) - kd__fold_end(t, t->fold - 1);
    t->train_count = t->data->count - t->validation_count;
    if (t->train_count < 1)
        return kd__fail(t->kd, KD_ERR_DATA, "%s: validation leaves no sample to train on", where);
    if (t->validation_count > 0 && d->cache && d->augment.mixup != 0)
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "%s: the cached images of mixup have held-out ones blended in; use validation_data", where);
    lone = kd__norm_lone(t->m);
    t->lone |= lone != NULL || kd__features_lone(&t->features);
    if (t->lone && KD__MIN(d->batch, t->train_count) == 1)
        return kd__fail(
            t->kd, d->batch == 1 ? KD_ERR_ARGUMENT : KD_ERR_DATA,
            "%s: batch normalisation%s%.60s%s sees one value a channel, whose variance is 0, in a batch of "
            "one sample; %s",
            where, lone ? " \"" : "", lone ? lone->name : " of loss review", lone ? "\"" : "",
            d->batch == 1 ? "batch must be 2 or more" : "there must be 2 samples to train on");
    if ((d->keep == KD_KEEP_BEST || d->patience > 0) && !t->has_validation)
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "%s: keeping the best weights and patience need validation or validation_data", where);
    return t->has_validation || t->folds
               ? kd__trainer_check_validation(t, d->validation_data ? d->validation_data : t->data)
               : KD_OK;
}

KD__PRIVATE void kd__shuffle(int32_t *order, int count, uint64_t key)
{
    int i;
    for (i = count - 1; i > 0; --i) {
        const int j = kd__rng_index(key, (uint64_t)i, i + 1);
        const int32_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

/* The order of the samples in the epoch that begins, made from that in the one before. */
KD__PRIVATE void kd__trainer_shuffle(kd_trainer *t, int64_t epoch)
{
    if (t->desc.shuffle)
        kd__shuffle(t->order, t->train_count, kd__rng_key(t->desc.seed, KD__RNG_SHUFFLE, (uint64_t)epoch, 0));
}

KD__PRIVATE void kd__reverse(int32_t *first, int32_t *end)
{
    for (; first < end; ++first) {
        const int32_t swap = *--end;
        *end = *first;
        *first = swap;
    }
}

KD__PRIVATE int kd__ascending(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

/* The order after some epochs, from the beginning. */
KD__PRIVATE void kd__trainer_order(kd_trainer *t, int64_t epochs)
{
    int64_t epoch;
    int i;
    for (i = 0; i < t->data->count; ++i) t->order[i] = i;
    if (t->validation_count) kd__shuffle(t->order, t->data->count, kd__rng_key(t->desc.seed, KD__RNG_SPLIT, 0, 0));
    if (t->folds) { /* turned until the fold is at the end */
        int32_t *middle = t->order + kd__fold_end(t, t->fold), *end = t->order + t->data->count;
        kd__reverse(t->order, middle);
        kd__reverse(middle, end);
        kd__reverse(t->order, end);
    }
    if (!t->desc.shuffle) qsort(t->order, (size_t)t->train_count, sizeof *t->order, kd__ascending);
    for (epoch = 0; epoch < epochs; ++epoch) kd__trainer_shuffle(t, epoch);
}

/* The runs of the student, and what goes with them. */
KD__PRIVATE kd_result kd__trainer_open_runs(kd_trainer *t, int batch)
{
    const kd_train_desc *d = &t->desc;
    const kd_data *data = t->data;
    kd_result result = KD_OK;
    int i;
    for (i = 0; i < 2 && result == KD_OK; ++i) {
        const int taps = i == KD_INPUTS_CLEAN ? t->features.tap_count : 0;
        if (t->inputs[i])
            result = kd__run_open_tapped(t->m, t->m, batch, t->features.taps[KD__STUDENT], taps, &t->runs[i]);
    }
    if (result == KD_OK && t->inputs[KD_INPUTS_ADVERSARIAL])
        result = kd__attack_open(&t->attack, t->m, t->m->input, &d->attack, data->channels, data->mean, data->std,
                                 batch);
    if (result == KD_OK && d->prompt_attack.epsilon != 0)
        result = kd__attack_open(&t->prompt_attack, t->m, t->m->prompted, &d->prompt_attack, 0, NULL, NULL, batch);
    if (result != KD_OK) return result;
    t->attack.seed = d->seed;
    t->prompt_attack.seed = kd__mix(d->seed);
    t->run = t->runs[KD_INPUTS_CLEAN] ? t->runs[KD_INPUTS_CLEAN] : t->runs[KD_INPUTS_ADVERSARIAL];
    t->grads[0] = t->run->weight_grads;
    if (d->dot_delta > 0) t->grads[1] = KD__NEW(t->kd, float, t->m->weight_count + KD__SLACK);
    if (d->dot_delta > 0 && !t->grads[1]) return KD_ERR_MEMORY;
    for (i = 0; i < 2 && d->accumulate > 1 && t->grads[i]; ++i) {
        t->gathered[i] = KD__NEW(t->kd, float, t->m->weight_count + KD__SLACK);
        if (!t->gathered[i]) return KD_ERR_MEMORY;
    }
    return KD_OK;
}

/* With labels to judge by, robust accuracy is that under the training's attack, on their cross-entropy. */
KD__PRIVATE kd_result kd__trainer_open_evaluator(kd_trainer *t)
{
    const kd_data *data = t->desc.validation_data ? t->desc.validation_data : t->data;
    const int attacked = t->inputs[KD_INPUTS_ADVERSARIAL] && (data->labels || data->batch);
    kd_attack_desc attack = t->desc.attack;
    kd_result result = KD_OK;
    attack.loss = kd_loss_defaults(KD_LOSS_AUTO);
    attack.seed = t->desc.seed;
    if (attacked) result = kd__attack_check(t->kd, "kd_train", &attack, 0, 0, 1, t->outputs);
    if (result != KD_OK) return result;
    result = kd__evaluator_open(&t->evaluator, t->m, data, kd__trainer_judge(t), attacked ? &attack : NULL, 256);
    if (result == KD_OK) result = kd__evaluator_teacher_data(&t->evaluator, t->desc.teacher_data);
    if (result == KD_OK)
        result = kd__evaluator_head(&t->evaluator, t->losses[0].first, t->losses[0].columns, t->losses[0].task);
    return result;
}

KD__PRIVATE kd_result kd__trainer_prepare(kd_trainer *t)
{
    kd_ctx *kd = t->kd;
    const kd_train_desc *d = &t->desc;
    const int joined = kd__norm_joins(t->lone, t->train_count, KD__MIN(d->batch, t->train_count));
    const int batch = KD__MIN(d->batch, t->train_count) + joined; /* the largest */
    const size_t logits = (size_t)batch * (size_t)t->outputs;
    const uint64_t views_seed = d->cache ? d->cache->seed : d->seed;
    const kd__features *fs = &t->features;
    kd_result result = kd__trainer_open_runs(t, batch);
    size_t room = 0;
    int i, failed;
    if (result == KD_OK) result = kd__feed_open(&t->feed, kd, t->data, &d->augment, views_seed, batch);
    if (result == KD_OK && d->teacher_data && t->source != KD__TEACHER_CACHE)
        result = kd__feed_open_images(&t->teacher_feed, kd, d->teacher_data, NULL, 0, batch);
    for (i = 0; i < t->teacher_count && result == KD_OK; ++i)
        result = kd__run_open_tapped(t->teachers[i], NULL, batch, fs->taps[KD__TEACHER], fs->tap_count,
                                     &t->teacher_runs[i]);
    if (result == KD_OK) result = kd__features_open(&t->features, kd, d, batch);
    if (result == KD_OK) result = kd__optim_open(&t->optim, t->m, d);
    if (result == KD_OK && (t->has_validation || t->folds)) result = kd__trainer_open_evaluator(t);
    if (result != KD_OK) return result;
    t->tally = KD__NEW(kd, kd__tally, 1);
    t->order = KD__NEW(kd, int32_t, t->data->count);
    t->teacher_logits = KD__NEW(kd, float, logits);
    t->targets = KD__NEW(kd, float, logits);
    for (i = 0; i < t->loss_count; ++i)
        room = KD__MAX(room, kd__loss_room(kd, &t->losses[i], batch, kd__trainer_columns(t, &t->losses[i])));
    t->loss_room = KD__NEW(kd, float, room);
    failed = !t->tally || !t->order || !t->teacher_logits || !t->targets || !t->loss_room;
    if (t->has_heads) {
        t->head = KD__NEW(kd, float, logits);
        t->teacher_head = KD__NEW(kd, float, logits);
        t->head_grad = KD__NEW(kd, float, logits);
        t->task = KD__NEW(kd, int32_t, batch);
        failed |= !t->head || !t->teacher_head || !t->head_grad || !t->task;
    }
    if (d->prompt != KD_PROMPT_NONE) {
        t->prompts = KD__NEW(kd, float, kd__times((size_t)batch, (size_t)t->m->prompt));
        failed |= !t->prompts;
    }
    if (t->loss_count > 1) {
        t->loss_grad = KD__NEW(kd, float, logits);
        failed |= !t->loss_grad;
    }
    if (t->teacher_count > 1) {
        t->teacher_all = KD__NEW(kd, float, kd__times(logits, (size_t)t->teacher_count));
        failed |= !t->teacher_all ||
                  !kd__scratch(kd, kd__times(64, kd__times((size_t)t->teacher_count, (size_t)t->outputs)));
    }
    if (d->keep == KD_KEEP_BEST) {
        t->best_weights = KD__NEW(kd, float, t->m->weight_count + 1);
        t->best_state = KD__NEW(kd, float, t->m->state_count + 1);
        failed |= !t->best_weights || !t->best_state;
    }
    if (d->ema > 0) {
        t->ema_weights = KD__NEW(kd, float, kd__plus(t->m->weight_count, KD__SLACK));
        t->ema_state = KD__NEW(kd, float, kd__plus(t->m->state_count, KD__SLACK));
        failed |= !t->ema_weights || !t->ema_state;
    }
    if (d->rollback > 0) {
        t->start = KD__NEW(kd, float, kd__trainer_kept_floats(t));
        failed |= !t->start;
    }
    if (t->validation_count > 0) { /* what is held out is not blended in either */
        t->pool = KD__NEW(kd, int32_t, t->train_count);
        failed |= !t->pool;
    }
    if (failed) return KD_ERR_MEMORY;
    kd__trainer_order(t, 0);
    result = kd__trainer_check_judge(t);
    if (result != KD_OK) return result;
    if (t->pool) {
        memcpy(t->pool, t->order, (size_t)t->train_count * sizeof *t->pool);
        t->feed.pool = t->pool;
        t->feed.pool_count = t->train_count;
    }
    t->batch = batch - joined;
    t->batches = (t->train_count + t->batch - 1) / t->batch - joined;
    t->steps_per_epoch = (t->batches + d->accumulate - 1) / d->accumulate;
    t->at.best = -1e300;
    t->at.rate = 1;
    t->at.seen = t->m->batches_seen;
    return KD_OK;
}

/* ---- one step -------------------------------------------------------------------------------------------- */

KD__PRIVATE kd_result kd__trainer_mix(const kd_trainer *t, const float *const *each, float temperature, int rows,
                                      int cols, float *out)
{
    const float *weights = t->desc.teacher_weights;
    if (t->desc.teacher_average == KD_AVERAGE_LOGITS)
        return kd_average_logits(t->kd, each, weights, t->teacher_count, rows, cols, out);
    return kd_average_teachers(t->kd, each, weights, t->teacher_count, rows, cols, temperature, out);
}

/* Where a loss softens teachers; ttm and wttm do it in their own way. */
KD__PRIVATE float kd__trainer_softness(const kd_loss_desc *loss)
{
    return loss->kind == KD_LOSS_TTM || loss->kind == KD_LOSS_WTTM ? 1 : loss->temperature;
}

/* Several teachers as one, for a loss at this temperature. */
KD__PRIVATE kd_result kd__trainer_average(kd_trainer *t, float temperature, int n)
{
    const float *each[KD__MAX_TEACHERS];
    kd_result result;
    int i;
    if (t->desc.teacher_average == KD_AVERAGE_LOGITS) temperature = 1; /* it makes no difference */
    if (t->teacher_count < 2 || t->averaged_at == temperature) return KD_OK;
    for (i = 0; i < t->teacher_count; ++i) each[i] = t->teacher_all + (ptrdiff_t)i * n * t->outputs;
    t->averaged_at = temperature;
    result = kd__trainer_mix(t, each, temperature, n, t->outputs, t->teacher_logits);
    if (result != KD_OK) return result;
    return kd__check_finite(t->kd, "kd_train", "the teacher's logits", t->teacher_logits, n, t->outputs);
}

/* The soft targets of the batch that the feed has just made, or NULL; of several teachers, each one's. */
KD__PRIVATE kd_result kd__trainer_soft_targets(kd_trainer *t, const int32_t *samples, int n, const float **out)
{
    const kd_train_desc *d = &t->desc;
    const float *x = t->teacher_feed.kd ? t->teacher_feed.x : t->feed.x;
    int i;
    *out = NULL;
    switch (t->source) {
    case KD__TEACHER_NONE: return KD_OK;
    case KD__TEACHER_MODELS:
        for (i = 0; i < t->teacher_count; ++i) {
            float *to = t->teacher_count > 1 ? t->teacher_all + (ptrdiff_t)i * n * t->outputs : t->teacher_logits;
            kd__run_forward(t->teacher_runs[i], x, n);
            kd__export(t->teacher_runs[i], n, to);
        }
        break;
    case KD__TEACHER_FN:
        if (d->teacher_fn(d->teacher_user, x, samples, n, t->teacher_logits))
            return kd__fail(t->kd, KD_ERR_DATA, "kd_train: teacher_fn failed for %d samples from sample %ld on", n,
                            (long)samples[0]);
        break;
    case KD__TEACHER_CACHE:
        kd__gather_rows(t->teacher_logits, kd_cache_logits(d->cache, t->feed.view), samples, n, t->outputs);
        break;
    default: kd__gather_rows(t->teacher_logits, t->data->teacher_logits, samples, n, t->outputs);
    }
    *out = t->teacher_logits;
    t->averaged_at = 0;
    if (t->teacher_count > 1) return KD_OK; /* checked when they are averaged */
    return kd__check_finite(t->kd, "kd_train", "the teacher's logits", t->teacher_logits, n, t->outputs);
}

/* Names the first tensor that is not finite, or about to be: in its gradient, or in the weights themselves. */
KD__PRIVATE kd_result kd__trainer_check_norms(kd_trainer *t, const float *numbers, const char *what,
                                              const char *then)
{
    int i;
    for (i = 0; i < t->m->param_count; ++i) {
        const kd__param *p = &t->m->params[i];
        if (p->trained && !(t->kd->k->sum_squares((ptrdiff_t)p->size, numbers + p->offset) <= kd__norm_limit))
            return kd__fail(t->kd, KD_ERR_NOT_FINITE,
                            "kd_train: %s%s is not finite, or beyond 1e15, at step %lld%s", what, p->name,
                            (long long)t->at.step, then);
    }
    return KD_OK;
}

KD__PRIVATE kd_result kd__trainer_check_statistics(kd_trainer *t, const kd__run *run)
{
    size_t c;
    int i, which;
    for (i = 0; i < t->m->node_count; ++i) {
        const kd__node *n = &t->m->nodes[i];
        for (which = 0; n->param[2] >= 0 && which < 2; ++which) {
            const kd__param *p = &t->m->params[n->param[2 + which]];
            for (c = 0; c < p->size; ++c) {
                if (!kd__is_finite((double)kd__norm_next(run, n, which, c)))
                    return kd__fail(
                        t->kd, KD_ERR_NOT_FINITE,
                        "kd_train: %s would not be finite after step %lld; the weights are those before it",
                        p->name, (long long)t->at.step);
            }
        }
    }
    return KD_OK;
}

/* Squares are summed as whole numbers, so that the norm has the same bits in whatever order an instruction set
   stores the weights. unit: what a square is multiplied by; 0: only the largest is looked for. */
KD__PRIVATE int64_t kd__count_squares(const float *x, size_t count, double unit, double *largest)
{
    int64_t sum = 0;
    size_t i;
    for (i = 0; i < count; ++i) {
        const double square = (double)x[i] * (double)x[i];
        if (unit > 0)
            sum += (int64_t)(square * unit + 0.5);
        else
            *largest = KD__MAX(*largest, square);
    }
    return sum;
}

KD__PRIVATE double kd__gradient_norm(const kd_trainer *t, const float *grads, const float *feature_grads)
{
    const double whole = 4611686018427387904.0; /* 2^62, which the sum does not pass */
    const size_t count = t->m->weight_count + t->features.param_count;
    double largest = 0, unit = 0;
    int64_t sum = 0;
    int pass, i;
    for (pass = 0; pass < 2; ++pass) {
        for (i = 0; i < t->m->param_count; ++i) {
            const kd__param *p = &t->m->params[i];
            if (p->trained) sum += kd__count_squares(grads + p->offset, p->size, unit, &largest);
        }
        sum += kd__count_squares(feature_grads, t->features.param_count, unit, &largest);
        if (!(largest > 0)) return 0;
        unit = whole / ((double)count + 1) / largest;
    }
    return sqrt((double)sum / unit);
}

/* A number beside the weights follows its gradient (sign 1: down, -1: up), by the same rule but without weight
   decay. */
KD__PRIVATE void kd__trainer_update_scalar(const kd_trainer *t, float *value, float *moments, float *slope,
                                           float sign, int batches)
{
    kd__update update = t->optim.soft_update;
    const float grad = sign * *slope / (float)batches;
    update.decay = 0;
    update.grad_scale = 1;
    t->kd->k->update(&update, 1, value, &grad, &moments[0], &moments[1]);
    *slope = 0;
}

/* Learned temperatures go up where the weights go down. */
KD__PRIVATE void kd__trainer_update_scalars(kd_trainer *t, int batches)
{
    int i;
    for (i = 0; i < t->loss_count; ++i) {
        if (t->losses[i].kind == KD_LOSS_CTKD)
            kd__trainer_update_scalar(t, &t->theta[i], t->theta_moments[i], &t->slopes[i], -1, batches);
        if (t->desc.uncertainty)
            kd__trainer_update_scalar(t, &t->variances[i], t->variance_moments[i], &t->variance_slopes[i], 1,
                                      batches);
    }
}

KD__PRIVATE void kd__trainer_gather(const kd_trainer *t, float *sum, const float *grads, size_t count)
{
    if (count == 0) return;
    if (t->at.gathered_batches == 0)
        memcpy(sum, grads, count * sizeof *grads);
    else
        t->kd->k->add((ptrdiff_t)count, sum, grads, KD__IDENTITY, 0, sum);
}

/* Gradient in hand: update the weights, or wait for the rest of the batches that make one update. */
KD__PRIVATE kd_result kd__trainer_update(kd_trainer *t, int last_of_epoch, kd_step_info *info)
{
    const kd_train_desc *d = &t->desc;
    const float *grads[2] = {t->grads[0], t->grads[1]}, *feature_grads = t->features.grads;
    double scale = 1;
    int batches = 1, i;
    info->lr = kd_learning_rate(d, t->at.step, t->steps_per_epoch) * t->at.rate;
    info->gradient_norm = 0;
    if (d->accumulate > 1) {
        for (i = 0; i < 2 && grads[i]; ++i) {
            kd__trainer_gather(t, t->gathered[i], grads[i], t->m->weight_count);
            grads[i] = t->gathered[i];
        }
        kd__trainer_gather(t, t->features.gathered, feature_grads, t->features.param_count);
        if (++t->at.gathered_batches < d->accumulate && !last_of_epoch) return KD_OK;
        feature_grads = t->features.gathered;
        batches = (int)t->at.gathered_batches;
        scale = 1.0 / batches;
        t->at.gathered_batches = 0;
    }
    if (d->clip_norm > 0) {
        info->gradient_norm = kd__gradient_norm(t, grads[0], feature_grads) * scale;
        if (info->gradient_norm > (double)d->clip_norm) scale *= (double)d->clip_norm / info->gradient_norm;
    }
    if (!kd__optim_step(&t->optim, grads[0], grads[1], info->lr, scale)) {
        const kd_result result = kd__trainer_check_norms(t, t->m->weights, "", "; lower the learning rate");
        if (result != KD_OK) return result; /* max_norm may have called them back */
    }
    kd__trainer_update_scalars(t, batches);
    if (t->features.param_count > 0)
        t->kd->k->update(&t->optim.soft_update, (ptrdiff_t)t->features.param_count, t->features.params,
                         feature_grads, t->features.first, t->features.second);
    ++t->at.step;
    return KD_OK;
}

/* Counts the samples of a batch that have a label, and those that the model gives it. */
KD__PRIVATE void kd__trainer_count(kd_trainer *t, const int32_t *samples, int n)
{
    const kd_loss_desc *judge = &t->losses[0];
    const float *logits = kd__run_logits(t->run) + judge->first;
    const int32_t *labels = judge->task ? kd__data_labels(t->data, judge->task) : NULL;
    const int classes = t->data->classes;
    int i;
    for (i = 0; (labels || t->has_labels) && i < n; ++i) {
        const float *soft = t->feed.soft && !labels ? t->feed.soft + (ptrdiff_t)i * classes : NULL;
        const int label = labels ? labels[samples[i]] : soft ? kd__argmax(soft, classes) : t->feed.labels[i];
        if (label < 0 || (soft && soft[label] == 0)) continue;
        ++t->at.labelled;
        t->at.correct += label == kd__choice(logits + (ptrdiff_t)i * t->outputs, kd__trainer_columns(t, judge));
    }
}

/* The temperature that ctkd has learned so far (Li et al. 2023), and its derivative by theta. */
KD__PRIVATE double kd__trainer_temperature(double theta, double *derivative)
{
    const double sigmoid = 1 / (1 + kd__exp(-theta));
    *derivative = 20 * sigmoid * (1 - sigmoid);
    return 1 + 20 * sigmoid;
}

/* The batch at hand. */
typedef struct kd__batch {
    const int32_t *samples;
    int n, epoch;
    const float *soft_targets;
    int side; /* with dot_delta, what the pass computes: 0 hard terms, 1 soft ones */
} kd__batch;

/* A loss that has columns of its own sees them alone: student, teacher and labels are gathered, and so is the
   gradient, which kd__trainer_scatter brings back. */
KD__PRIVATE kd_result kd__trainer_head(kd_trainer *t, kd__loss_call *call, const int32_t *samples, int n)
{
    const kd_loss_desc *desc = call->desc;
    const float *each[KD__MAX_TEACHERS];
    kd_result result = KD_OK;
    int i, r;
    if (desc->columns == 0) return KD_OK;
    call->cols = desc->columns;
    kd__gather_columns(t->head, call->student, n, t->outputs, desc->first, desc->columns);
    call->student = t->head;
    if (call->teacher && t->teacher_count > 1 && call->teacher == t->teacher_logits) {
        for (r = 0; r < n && result == KD_OK; ++r) {
            for (i = 0; i < t->teacher_count; ++i)
                each[i] = t->teacher_all + ((ptrdiff_t)i * n + r) * t->outputs + desc->first;
            result = kd__trainer_mix(t, each, kd__trainer_softness(desc), 1, desc->columns,
                                     t->teacher_head + (ptrdiff_t)r * desc->columns);
        }
        if (result == KD_OK)
            result = kd__check_finite(t->kd, "kd_train", "the teacher's logits", t->teacher_head, n, desc->columns);
    } else if (call->teacher) {
        kd__gather_columns(t->teacher_head, call->teacher, n, t->outputs, desc->first, desc->columns);
    }
    if (call->teacher) call->teacher = t->teacher_head;
    call->grad = t->head_grad;
    for (r = 0; r < n && desc->task; ++r) t->task[r] = kd__data_labels(t->data, desc->task)[samples[r]];
    if (desc->task) call->labels = t->task;
    return result;
}

KD__PRIVATE void kd__trainer_scatter(const kd_trainer *t, const kd__loss_call *call, int n, float *grad)
{
    const int columns = call->desc->columns;
    int r;
    if (columns == 0) return;
    memset(grad, 0, (size_t)n * (size_t)t->outputs * sizeof *grad);
    for (r = 0; r < n; ++r)
        memcpy(grad + (ptrdiff_t)r * t->outputs + call->desc->first, call->grad + (ptrdiff_t)r * columns,
               (size_t)columns * sizeof *grad);
}

/* What a loss is multiplied by: its weight, divided by the variance that has been learned for it. */
KD__PRIVATE double kd__trainer_weight(const kd_trainer *t, int index)
{
    const double weight = t->loss_weights[index];
    return t->desc.uncertainty ? weight * kd__exp(-(double)t->variances[index]) : weight;
}

/* One of the losses as it is in an epoch. */
KD__PRIVATE kd_loss_desc kd__trainer_loss_at(const kd_trainer *t, int index, int epoch)
{
    kd_loss_desc d = t->losses[index];
    const double way = t->desc.epochs > 1 ? (double)epoch / (t->desc.epochs - 1) : 0;
    if (d.temperature_end > 0)
        d.temperature = (float)((double)d.temperature + way * ((double)d.temperature_end - (double)d.temperature));
    if (d.alpha_end >= 0) d.alpha = (float)((double)d.alpha + way * ((double)d.alpha_end - (double)d.alpha));
    return d;
}

/* One of the losses of a batch: its value, and its gradient into `grad`. */
KD__PRIVATE kd_result kd__trainer_evaluate(kd_trainer *t, int index, const kd__batch *b, float *grad, double *value)
{
    const kd__loss_info *info = kd__loss_look_up(t->losses[index].kind);
    kd_loss_desc desc = kd__trainer_loss_at(t, index, b->epoch);
    const int learns = desc.kind == KD_LOSS_CTKD;
    kd__loss_call call;
    double derivative = 0;
    kd_result result;
    if (learns) desc.temperature = (float)kd__trainer_temperature((double)t->theta[index], &derivative);
    result = desc.columns ? KD_OK : kd__trainer_average(t, kd__trainer_softness(&desc), b->n);
    if (result != KD_OK) return result;
    call.desc = &desc;
    call.student = kd__run_logits(t->runs[desc.inputs]);
    call.teacher = info->teacher == KD__NO ? NULL : b->soft_targets;
    if (desc.kind == KD_LOSS_MSE && (!b->soft_targets || desc.to_targets)) {
        kd__gather_rows(t->targets, t->data->targets, b->samples, b->n, t->outputs);
        call.teacher = t->targets;
    }
    call.labels = t->feed.soft ? NULL : t->feed.labels;
    call.soft_labels = kd__loss_uses_labels(&desc) ? t->feed.soft : NULL;
    call.rows = b->n;
    call.cols = t->outputs;
    call.soft_scale = call.hard_scale = kd__trainer_weight(t, index);
    if (!learns) call.soft_scale *= kd__ramp((double)b->epoch + 1, (double)desc.warmup);
    if (t->grads[1]) {
        call.soft_scale *= desc.to_targets ? b->side == 0 : b->side == 1;
        call.hard_scale *= b->side == 0;
    }
    call.grad = grad;
    call.room = t->loss_room;
    result = kd__trainer_head(t, &call, b->samples, b->n);
    if (result != KD_OK) return result;
    *value = kd__loss_evaluate(t->kd, &call);
    kd__trainer_scatter(t, &call, b->n, grad);
    if (t->desc.uncertainty) {
        t->variance_slopes[index] += (float)(0.5 - *value);
        *value += 0.5 * (double)t->variances[index];
    }
    if (learns) {
        double cosine, sine;
        kd__cos_sin(3.14159265358979323846 * kd__ramp((double)b->epoch, (double)desc.warmup), &cosine, &sine);
        t->slopes[index] += (float)(call.slope * derivative * (1 - cosine) / 2);
    }
    return KD_OK;
}

/* The sum of the losses that see one kind of images, and of their gradients where the run has its own. */
KD__PRIVATE kd_result kd__trainer_evaluate_all(kd_trainer *t, int inputs, const kd__batch *b, double *loss)
{
    const ptrdiff_t count = (ptrdiff_t)b->n * t->outputs;
    float *grad = kd__run_logits_grad(t->runs[inputs]);
    kd_result result = KD_OK;
    double value = 0;
    int i, seen = 0;
    *loss = 0;
    for (i = 0; i < t->loss_count && result == KD_OK; ++i) {
        if ((int)t->losses[i].inputs != inputs) continue;
        result = kd__trainer_evaluate(t, i, b, seen ? t->loss_grad : grad, &value);
        if (result == KD_OK && seen++) t->kd->k->add(count, grad, t->loss_grad, KD__IDENTITY, 0, grad);
        *loss += value;
    }
    if (!seen) memset(grad, 0, (size_t)count * sizeof *grad); /* losses on features alone */
    if (result != KD_OK || kd__is_finite(*loss)) return result;
    result = kd__check_finite(t->kd, "kd_train", "the student's output", kd__run_logits(t->runs[inputs]), b->n,
                              t->outputs);
    if (result == KD_OK)
        result = kd__fail(t->kd, KD_ERR_NOT_FINITE, "kd_train: the loss is not finite at step %lld",
                          (long long)t->at.step);
    return result;
}

/* Losses and backward pass of one run, whose gradient joins those of its side. */
KD__PRIVATE kd_result kd__trainer_pass(kd_trainer *t, int inputs, const kd__batch *b, double *loss)
{
    kd__run *run = t->runs[inputs];
    double value, features = 0;
    kd_result result = kd__trainer_evaluate_all(t, inputs, b, &value);
    if (result == KD_OK && inputs == KD_INPUTS_CLEAN && t->features.count > 0) {
        if (t->grads[1] && b->side == 0)
            kd__features_leave_out(&t->features, b->n);
        else
            result = kd__features_evaluate(&t->features, run, t->teacher_runs[0], b->epoch, t->at.step, &features);
    }
    if (result != KD_OK) return result;
    run->bare = b->side == 1;
    *loss += value + features + (run->bare ? 0 : kd__run_penalty(run));
    if (run == t->run) run->weight_grads = t->grads[b->side];
    kd__run_backward(run);
    if (run != t->run)
        t->kd->k->add((ptrdiff_t)t->m->weight_count, t->grads[b->side], run->weight_grads, KD__IDENTITY, 0,
                      t->grads[b->side]);
    return kd__trainer_check_norms(t, t->grads[b->side], "the gradient of ", "; the weights are those before it");
}

/* What an attack makes of a batch: of its images, or, where there are any, of the prompts beside them. */
KD__PRIVATE kd_result kd__trainer_attacked(kd_trainer *t, kd__attacker *a, const kd__batch *b, const float *prompts)
{
    const kd_loss_desc *loss = &a->desc.loss;
    const float *teacher = b->soft_targets;
    kd_result result = KD_OK;
    if (loss->kind == KD_LOSS_MSE && (!teacher || loss->to_targets)) {
        kd__gather_rows(t->targets, t->data->targets, b->samples, b->n, t->outputs);
        teacher = t->targets;
    } else if (kd__attack_uses_teacher(&a->desc)) {
        result = kd__trainer_average(t, kd__trainer_softness(loss), b->n);
    }
    if (result != KD_OK) return result;
    a->samples = b->samples;
    a->epoch = (uint64_t)b->epoch;
    return kd__attack_make(a, "kd_train", t->feed.x, prompts, b->n, teacher, t->feed.soft ? NULL : t->feed.labels,
                           t->feed.soft);
}

/* The prompts of a batch, those that are dropped as zeros. */
KD__PRIVATE kd_result kd__trainer_prompt(kd_trainer *t, const kd__batch *b)
{
    const kd_train_desc *d = &t->desc;
    const double behind = (double)t->at.images / ((double)t->train_count * d->epochs),
                 first = (double)d->prompt_drop;
    const double until = (double)d->prompt_until, drop = behind < until ? first + (1 - first) * behind / until : 1;
    const size_t bytes = (size_t)t->m->prompt * sizeof(float);
    kd_result result = KD_OK;
    int i;
    if (!t->prompts) return KD_OK;
    if (d->prompt == KD_PROMPT_TEACHER) result = kd__trainer_average(t, d->prompt_temperature, b->n);
    if (result != KD_OK) return result;
    kd__prompt_fill(t->m, d->prompt, d->prompt_temperature, t->data, t->teacher_logits, b->samples, b->n,
                    t->prompts);
    if (t->prompt_attack.kd && drop < 1) {
        result = kd__trainer_attacked(t, &t->prompt_attack, b, t->prompts);
        if (result != KD_OK) return result;
        memcpy(t->prompts, t->prompt_attack.x, (size_t)b->n * bytes);
    }
    for (i = 0; i < b->n; ++i) {
        const uint64_t key = kd__rng_key(d->seed, KD__RNG_PROMPT, (uint64_t)b->epoch, (uint64_t)b->samples[i]);
        if (kd__rng_unit(key, 0) < drop) memset(t->prompts + (ptrdiff_t)i * t->m->prompt, 0, bytes);
    }
    for (i = 0; i < 2; ++i) {
        if (t->runs[i]) t->runs[i]->prompt = t->prompts;
    }
    return KD_OK;
}

/* The student's outputs for the images as they are and as the attack has made them, where losses see them. */
KD__PRIVATE kd_result kd__trainer_forward(kd_trainer *t, const kd__batch *b)
{
    kd_result result = KD_OK;
    int i;
    if (t->inputs[KD_INPUTS_ADVERSARIAL]) result = kd__trainer_attacked(t, &t->attack, b, NULL);
    for (i = 0; i < 2 && result == KD_OK; ++i) {
        if (!t->runs[i]) continue;
        t->runs[i]->dropout_key =
            kd__rng_key(t->desc.seed, KD__RNG_DROPOUT, (uint64_t)t->at.images, (uint64_t)(2 * t->peer + i));
        kd__run_forward(t->runs[i], i == KD_INPUTS_CLEAN ? t->feed.x : t->attack.x, b->n);
    }
    return result;
}

/* With dot_delta there are two backward passes of the same forward pass. */
KD__PRIVATE kd_result kd__trainer_gradient(kd_trainer *t, kd__batch *b, double *loss)
{
    const int sides = t->grads[1] ? 2 : 1;
    kd_result result = KD_OK;
    int i;
    *loss = 0;
    for (b->side = 0; b->side < sides; ++b->side) {
        for (i = 0; i < 2 && result == KD_OK; ++i) {
            if (t->runs[i]) result = kd__trainer_pass(t, i, b, loss);
        }
    }
    if (result == KD_OK) result = kd__features_check_gradient(&t->features, t->at.step);
    for (i = 0; i < 2 && result == KD_OK; ++i) {
        if (t->runs[i]) result = kd__trainer_check_statistics(t, t->runs[i]);
    }
    return result;
}

/* ---- the moving average ---------------------------------------------------------------------------------- */

KD__PRIVATE void kd__trainer_copy(kd_trainer *t, float *to_weights, float *to_state, const float *weights,
                                  const float *state)
{
    memcpy(to_weights, weights, t->m->weight_count * sizeof *weights);
    memcpy(to_state, state, t->m->state_count * sizeof *state);
}

typedef struct kd__ema {
    kd_trainer *t;
    kd__update update;
} kd__ema;

KD__PRIVATE void kd__ema_piece(void *arg, int index, int worker)
{
    const kd__ema *e = (const kd__ema *)arg;
    const kd_model *m = e->t->m;
    const ptrdiff_t at = (ptrdiff_t)index * KD__PIECE;
    (void)worker;
    m->kd->k->update(&e->update, kd__piece_length((ptrdiff_t)m->weight_count, index), e->t->ema_weights + at,
                     m->weights + at, NULL, NULL);
}

/* After an update: a -= (1 - d) (a - w) is a step of gradient descent along -w with a weight decay of 1. */
KD__PRIVATE void kd__trainer_ema(kd_trainer *t)
{
    const double steps = (double)t->at.step;
    kd__ema e;
    memset(&e, 0, sizeof e);
    e.t = t;
    e.update.optimizer = (int)KD_SGD;
    e.update.decay = 1;
    e.update.grad_scale = -1;
    e.update.lr = (float)(1 - KD__MIN((double)t->desc.ema, (1 + steps) / (10 + steps)));
    kd__parallel(t->kd, kd__pieces((ptrdiff_t)t->m->weight_count), kd__ema_piece, &e);
    t->kd->k->update(&e.update, (ptrdiff_t)t->m->state_count, t->ema_state, t->m->state, NULL, NULL);
}

/* Lets the model have the averages, and, called again, its own weights. */
KD__PRIVATE void kd__trainer_swap(kd_trainer *t)
{
    float *weights = t->m->weights, *state = t->m->state;
    if (!t->ema_weights || t->at.step == 0) return; /* before the first update there is nothing to average */
    t->m->weights = t->ema_weights, t->m->state = t->ema_state;
    t->ema_weights = weights, t->ema_state = state;
    t->ema_shown = !t->ema_shown;
}

/* ---- one step, from images to weights -------------------------------------------------------------------- */

KD__PRIVATE kd_result kd__trainer_train(kd_trainer *t, const int32_t *samples, int n, int epoch, int last_of_epoch,
                                        kd_step_info *info)
{
    const kd_train_desc *d = &t->desc;
    const int64_t updates = t->at.step;
    kd__batch b = {NULL, 0, 0, NULL, 0};
    int i, view = kd__augment_any(&d->augment) ? epoch : 0;
    kd_result result;
    b.samples = samples, b.n = n, b.epoch = epoch;
    if (t->source == KD__TEACHER_CACHE) view = epoch % d->cache->views;
    if (t->ema_weights && t->at.images == 0)
        kd__trainer_copy(t, t->ema_weights, t->ema_state, t->m->weights, t->m->state);
    result = kd__feed_batch(&t->feed, samples, n, view);
    if (result == KD_OK && t->teacher_feed.kd) result = kd__feed_batch(&t->teacher_feed, samples, n, 0);
    if (result == KD_OK && t->data->batch && !t->data->soft_labels) result = kd__trainer_check_stream(t, n);
    if (result == KD_OK) result = kd__trainer_soft_targets(t, samples, n, &b.soft_targets);
    if (result == KD_OK) result = kd__trainer_prompt(t, &b);
    if (result == KD_OK) result = kd__trainer_forward(t, &b);
    if (result == KD_OK) result = kd__trainer_gradient(t, &b, &info->loss);
    if (result != KD_OK) return result;
    kd__trainer_count(t, samples, n);
    result = kd__trainer_update(t, last_of_epoch, info);
    if (result != KD_OK) return result;
    for (i = 0; i < 2; ++i) {
        if (!t->runs[i]) continue;
        kd__run_steps(t->runs[i], t->runs[i]->commit, t->runs[i]->commit_steps);
        ++t->m->batches_seen;
    }
    if (t->ema_weights && t->at.step > updates) kd__trainer_ema(t);
    if (t->at.images == 0) kd__record_preprocessing(t->m, t->data->channels, t->data->mean, t->data->std);
    t->at.seen = t->m->batches_seen;
    t->at.images += n;
    return KD_OK;
}

/* ---- epochs ---------------------------------------------------------------------------------------------- */

KD__PRIVATE kd_result kd__trainer_judge_epoch(kd_trainer *t, kd_epoch_info *info)
{
    const int own = t->desc.validation_data != NULL;
    const kd_data *data = own ? t->desc.validation_data : t->data;
    kd_result result;
    double score, nll;
    memset(t->tally, 0, sizeof *t->tally);
    result = own ? kd__evaluator_run(&t->evaluator, NULL, t->desc.validation_data->count, t->tally, NULL)
                 : kd__evaluator_run(&t->evaluator, t->order + t->train_count, t->validation_count, t->tally, NULL);
    if (result != KD_OK) return result;
    kd__tally_finish(t->tally, &info->validation);
    info->has_validation = 1;
    if (kd__trainer_is_judged(t) && !info->validation.count && info->validation.kl < 0 && !data->targets)
        return kd__fail(t->kd, KD_ERR_DATA,
                        "kd_train: no sample of the validation data has a label, targets or a teacher's logits, so "
                        "that no epoch could be the best");
    nll = KD__MIN(info->validation.nll, 1e30);
    score = info->validation.robust_accuracy >= 0 ? info->validation.robust_accuracy : info->validation.accuracy;
    score = info->validation.count ? score - 1e-9 * nll / (1 + nll) /* which decides between equals alone */
                                   : -KD__MAX(info->validation.kl, info->validation.mse);
    info->is_best = score > t->at.best;
    t->at.epochs_without_gain = info->is_best ? 0 : t->at.epochs_without_gain + 1;
    if (!info->is_best) return KD_OK;
    t->at.best = score;
    if (t->best_weights) kd__trainer_copy(t, t->best_weights, t->best_state, t->m->weights, t->m->state);
    return KD_OK;
}

KD__PRIVATE kd_result kd__trainer_validate(kd_trainer *t, kd_epoch_info *info)
{
    kd_result result;
    kd__trainer_swap(t);
    result = kd__trainer_judge_epoch(t, info);
    kd__trainer_swap(t);
    return result;
}

KD__PRIVATE kd_result kd__trainer_end_epoch(kd_trainer *t)
{
    const kd_train_desc *d = &t->desc;
    kd_result result = KD_OK;
    kd_epoch_info info;
    int i;
    memset(&info, 0, sizeof info);
    info.epoch = (int)t->at.epoch;
    info.epochs = d->epochs;
    info.images = t->at.images;
    info.loss = t->at.loss / t->train_count;
    info.accuracy = t->at.labelled ? (double)t->at.correct / (double)t->at.labelled : -1;
    info.lr = kd_learning_rate(d, t->at.step - 1, t->steps_per_epoch) * t->at.rate;
    info.model = t->m;
    for (i = 0; i < t->loss_count; ++i) t->weights_now[i] = kd__trainer_weight(t, i);
    info.loss_weights = t->weights_now;
    if (t->has_validation) result = kd__trainer_validate(t, &info);
    if (result != KD_OK) return result;
    ++t->at.epoch;
    t->at.batch = 0;
    kd__trainer_swap(t);
    if (d->on_epoch && d->on_epoch(d->user, &info)) result = KD_STOPPED;
    kd__trainer_swap(t);
    return result;
}

KD__PRIVATE kd_result kd__trainer_next(kd_trainer *t, kd_step_info *info)
{
    const kd_train_desc *d = &t->desc;
    const int b = (int)t->at.batch, first = b * t->batch;
    const int n = b == t->batches - 1 ? t->train_count - first : t->batch;
    kd_result result;
    if (b == t->batches) return kd__trainer_end_epoch(t); /* which a callback had kept from coming */
    if (b == 0) {
        t->at.labelled = t->at.correct = 0;
        t->at.loss = 0;
        if (t->start) kd__trainer_remember(t);
        kd__trainer_shuffle(t, t->at.epoch);
    }
    result = kd__trainer_train(t, t->order + first, n, (int)t->at.epoch, b == t->batches - 1, info);
    if (result != KD_OK) return result;
    t->at.loss += info->loss * n;
    info->epoch = (int)t->at.epoch;
    info->epochs = d->epochs;
    info->step = b;
    info->steps = t->batches;
    info->images = t->at.images;
    ++t->at.batch;
    if (d->on_step && d->on_step(d->user, info)) return KD_STOPPED;
    return b == t->batches - 1 ? kd__trainer_end_epoch(t) : KD_OK;
}

typedef struct kd__from_to {
    char chars[2 * sizeof(kd__text) + 8];
} kd__from_to;

/* "0.9", or "0.9 to 0.5" where a number changes over training */
KD__PRIVATE kd__from_to kd__numbers(double first, double last)
{
    kd__from_to text;
    if (first == last)
        kd__print(text.chars, sizeof text.chars, "%s", kd__number(first, 4).chars);
    else
        kd__print(text.chars, sizeof text.chars, "%s to %s", kd__number(first, 4).chars, kd__number(last, 4).chars);
    return text;
}

/* What a published alpha, a convention and the weights have come to. */
KD__PRIVATE void kd__trainer_announce(const kd_trainer *t)
{
    const kd_attack_desc *attacks[2];
    int i;
    for (i = 0; i < t->loss_count; ++i) {
        const kd_loss_desc loss = kd__trainer_loss_at(t, i, 0),
                           last = kd__trainer_loss_at(t, i, KD__MAX(1, t->desc.epochs) - 1);
        const double weight = t->loss_weights[i];
        double soft, hard, last_soft, last_hard;
        char ramp[64] = "", head[64] = "";
        if (kd__loss_look_up(loss.kind)->teacher == KD__MAYBE && t->source == KD__TEACHER_NONE) continue;
        if (loss.kind == KD_LOSS_CE) continue;
        kd__loss_effect(&loss, 1, kd__trainer_columns(t, &loss), &soft, &hard);
        kd__loss_effect(&last, 1, kd__trainer_columns(t, &last), &last_soft, &last_hard);
        if (loss.columns)
            kd__print(head, sizeof head, " of columns %d to %d", loss.first, loss.first + loss.columns - 1);
        if (loss.warmup > 0)
            kd__print(ramp, sizeof ramp, ", over %s epochs", kd__number((double)loss.warmup, 4).chars);
        kd__log(t->kd,
                "kd_train: loss %s%s: soft term times %s, hard term times %s, T = %s%s%s (convention %s)%s%s",
                kd_loss_name(loss.kind), head, kd__numbers(soft * weight, last_soft * weight).chars,
                kd__numbers(hard * weight, last_hard * weight).chars,
                kd__numbers((double)loss.temperature, (double)last.temperature).chars,
                loss.kind == KD_LOSS_CTKD ? " and learned" : "", ramp, kd_convention_name(loss.convention),
                loss.inputs == KD_INPUTS_ADVERSARIAL ? ", on adversarial images" : "",
                t->desc.uncertainty ? ", times a learned weight" : "");
    }
    kd__trainer_attacks(t, attacks);
    for (i = 0; i < 2; ++i) {
        const kd_attack_desc *a = attacks[i];
        if (a && a->kind == KD_ATTACK_FGSM)
            kd__log(t->kd, "kd_train: attack fgsm on loss %s: a step of %s%s", kd_loss_name(a->loss.kind),
                    kd__number((double)a->epsilon, 4).chars, i ? ", of prompts" : "");
        if (!a || a->kind == KD_ATTACK_FGSM) continue;
        kd__log(t->kd, "kd_train: attack %s on loss %s: %d steps of %s within %s, from a start within %s%s",
                kd_attack_name(a->kind), kd_loss_name(a->loss.kind), a->steps, kd__number((double)a->step, 4).chars,
                kd__number((double)a->epsilon, 4).chars,
                kd__number((double)(a->random_start * a->epsilon), 4).chars, i ? ", of prompts" : "");
    }
    if (t->desc.dot_delta > 0)
        kd__log(t->kd, "kd_train: momentum %s for soft terms, %s for hard terms",
                kd__number((double)(t->desc.momentum + t->desc.dot_delta), 4).chars,
                kd__number((double)(t->desc.momentum - t->desc.dot_delta), 4).chars);
    for (i = 0; i < t->features.count; ++i) {
        const kd__feature *f = &t->features.list[i];
        kd__log(t->kd, "kd_train: feature loss %s of \"%.40s\" and \"%.40s\": times %s%s",
                kd_feature_name(f->desc.kind), f->desc.student, f->desc.teacher,
                kd__number((double)f->desc.weight, 4).chars, kd__feature_params(f) ? ", with a learned part" : "");
    }
}

KDDEF int kd_trainer_done(const kd_trainer *t)
{
    return !t || t->stopped || t->at.epoch >= t->desc.epochs ||
           (t->desc.patience > 0 && t->at.epochs_without_gain >= t->desc.patience);
}

KDDEF kd_step_info kd_trainer_position(const kd_trainer *t)
{
    kd_step_info info;
    memset(&info, 0, sizeof info);
    if (!t) return info;
    info.epoch = (int)t->at.epoch;
    info.epochs = t->desc.epochs;
    info.step = (int)t->at.batch;
    info.steps = t->batches;
    info.images = t->at.images;
    info.lr = kd_learning_rate(&t->desc, t->at.step, t->steps_per_epoch) * t->at.rate;
    return info;
}

KDDEF kd_result kd_trainer_step(kd_trainer *t, kd_step_info *info)
{
    kd_step_info own;
    kd_result result;
    if (!t) return KD_ERR_ARGUMENT;
    if (t->stepping) return kd__fail(t->kd, KD_ERR_ARGUMENT, "kd_trainer_step: called from a callback of its own");
    if (kd_trainer_done(t)) return KD_STOPPED;
    own = kd_trainer_position(t);
    t->stepping = 1;
    result = kd__trainer_next(t, &own);
    t->stepping = 0;
    if (result == KD_ERR_NOT_FINITE && kd__trainer_roll_back(t)) {
        kd__trainer_order(t, t->at.epoch);
        own = kd_trainer_position(t);
        own.rolled_back = 1;
        result = KD_OK;
    }
    t->stopped = result != KD_OK;
    t->failed = result != KD_OK && result != KD_STOPPED;
    if (info) *info = own;
    return result;
}

KDDEF void kd_trainer_close(kd_trainer *t)
{
    if (!t) return;
    if (!t->failed && t->best_weights && t->at.best > -1e300)
        kd__trainer_copy(t, t->m->weights, t->m->state, t->best_weights, t->best_state);
    else if (!t->failed && t->ema_weights && t->at.step > 0)
        kd__trainer_copy(t, t->m->weights, t->m->state, t->ema_weights, t->ema_state);
    --t->m->trainers;
    kd__trainer_free(t);
}

/* lone: no batch may have a single sample, whatever the model is. */
KD__PRIVATE kd_result kd__trainer_make(kd_model *m, const kd_data *data, const kd_train_desc *desc, int fold,
                                       int folds, int lone, kd_trainer **out)
{
    const kd_train_desc defaults = kd_train_defaults();
    kd_trainer *t;
    kd_result result;
    *out = NULL;
    if (!desc) desc = &defaults;
    if (desc->cookie != KD__COOKIE)
        return kd__fail(m->kd, KD_ERR_DEFAULTS, "kd_train: the options must start from kd_train_defaults()");
    t = KD__NEW(m->kd, kd_trainer, 1);
    if (!t) return KD_ERR_MEMORY;
    t->kd = m->kd;
    t->m = m;
    t->data = data;
    t->desc = *desc;
    t->fold = fold;
    t->folds = folds;
    t->lone = lone;
    t->outputs = kd_model_outputs(m);
    result = kd__trainer_check(t);
    if (result == KD_OK) result = kd__trainer_prepare(t);
    if (result == KD_OK) {
        kd__trainer_announce(t);
        ++m->trainers;
        *out = t;
    } else {
        kd__trainer_free(t);
    }
    return result;
}

KD__PRIVATE kd_result kd__trainer_new(kd_model *m, const kd_data *data, const kd_train_desc *desc, int fold,
                                      int folds, kd_trainer **out)
{
    return kd__trainer_make(m, data, desc, fold, folds, 0, out);
}

KDDEF kd_result kd_trainer_open(kd_model *m, const kd_data *data, const kd_train_desc *desc, kd_trainer **out)
{
    if (out) *out = NULL;
    if (!m) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_trainer_open: out must not be NULL");
    return kd__trainer_new(m, data, desc, 0, 0, out);
}

KDDEF kd_result kd_train(kd_model *m, const kd_data *data, const kd_train_desc *desc)
{
    kd_trainer *t;
    kd_result result = kd_trainer_open(m, data, desc, &t);
    if (result != KD_OK) return result;
    while (result == KD_OK && !kd_trainer_done(t)) result = kd_trainer_step(t, NULL);
    kd_trainer_close(t);
    return result;
}

/* ---- models that learn together -------------------------------------------------------------------------- */

enum { KD__MAX_PEERS = 64 };

typedef struct kd__peer {
    kd_trainer *trainer;
    kd_loss_desc losses[2];
    const kd_model *others[KD__MAX_PEERS];
} kd__peer;

KD__PRIVATE int kd__peer_columns(const kd_model *m, const kd_loss_desc *loss)
{
    return loss->columns ? loss->columns : kd_model_outputs(m);
}

KD__PRIVATE kd_result kd__peer_losses(kd__peer *p, const kd_model *m, const kd_data *data, kd_train_desc *d)
{
    static const float twice[] = {2};
    kd_loss_desc open = kd_loss_defaults(KD_LOSS_AUTO), given = d->loss;
    int i;
    open.first = given.first, open.columns = given.columns, open.task = given.task;
    open.inputs = given.inputs, open.label_smoothing = given.label_smoothing;
    if (kd__loss_difference(&given, &open))
        return kd__fail(m->kd, KD_ERR_ARGUMENT,
                        "kd_train_mutual: a loss left open has no use for %s; name its kind, or give losses",
                        kd__loss_difference(&given, &open));
    if (d->uncertainty || d->loss_weights)
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "kd_train_mutual: %s several losses; give losses",
                        d->uncertainty ? "uncertainty weighs" : "loss_weights weigh");
    d->loss = kd_loss_defaults(KD_LOSS_AUTO);
    d->losses = p->losses;
    d->loss_count = 1;
    if (data && data->targets) {
        p->losses[0] = p->losses[1] = kd_loss_defaults(KD_LOSS_MSE);
        p->losses[0].to_targets = 1;
        d->loss_count = 2;
    } else if (kd__peer_columns(m, &given) == 1) {
        p->losses[0] = kd_loss_defaults(KD_LOSS_BCE);
        p->losses[0].alpha = 0.5f;
        d->loss_weights = twice;
    } else {
        p->losses[0] = kd_loss_defaults(KD_LOSS_KL);
        p->losses[0].hard_weight = 1;
    }
    p->losses[0].temperature = 1;
    for (i = 0; i < d->loss_count; ++i) {
        p->losses[i].first = given.first, p->losses[i].columns = given.columns, p->losses[i].task = given.task;
        p->losses[i].inputs = given.inputs, p->losses[i].label_smoothing = given.label_smoothing;
    }
    return KD_OK;
}

/* Model i, with all the others for teachers. */
KD__PRIVATE kd_result kd__peer_open(kd__peer *p, kd_model *const *models, int count, int i, const kd_data *data,
                                    const kd_train_desc *desc)
{
    kd_train_desc d = *desc;
    kd_result result = KD_OK;
    int j, lone = 0; /* all have the same batches */
    for (j = 0; j < count; ++j) lone |= kd__norm_lone(models[j]) != NULL;
    for (j = 0; j < count - 1; ++j) p->others[j] = models[j < i ? j : j + 1];
    if (count == 2) {
        d.teacher = p->others[0];
    } else {
        d.teachers = p->others;
        d.teacher_count = count - 1;
    }
    if (d.loss_count == 0 && d.loss.kind == KD_LOSS_AUTO && d.loss.cookie == KD__COOKIE)
        result = kd__peer_losses(p, models[i], data, &d);
    if (result != KD_OK) return result;
    if ((data && data->targets) || kd__peer_columns(models[i], &desc->loss) == 1)
        d.teacher_average = KD_AVERAGE_LOGITS;
    result = kd__trainer_make(models[i], data, &d, 0, 0, lone, &p->trainer);
    if (result == KD_OK) p->trainer->peer = i;
    return result;
}

KDDEF kd_result kd_train_mutual(kd_model *const *models, int count, const kd_data *data, const kd_train_desc *desc)
{
    static const char where[] = "kd_train_mutual";
    const kd_train_desc defaults = kd_train_defaults();
    kd__peer *peers;
    kd_ctx *kd;
    kd_result result = KD_OK;
    int i, going = 1;
    if (!models || count < 1 || !models[0]) return KD_ERR_ARGUMENT;
    kd = models[0]->kd;
    if (!desc) desc = &defaults;
    if (desc->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS, "%s: the options must start from kd_train_defaults()", where);
    if (count < 2 || count > KD__MAX_PEERS)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: needs 2 to %d models, got %d", where, (int)KD__MAX_PEERS, count);
    for (i = 0; i < count; ++i) {
        if (!models[i] || models[i]->kd != kd)
            return kd__fail(kd, KD_ERR_ARGUMENT, "%s: model %d is %s", where, i,
                            models[i] ? "of another context than model 0" : "NULL");
    }
    if (desc->teacher || desc->teachers || desc->teacher_count || desc->teacher_fn || desc->cache)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: the models are each other's teachers; leave the others out",
                        where);
    peers = KD__NEW(kd, kd__peer, count);
    if (!peers) return KD_ERR_MEMORY;
    for (i = 0; i < count && result == KD_OK; ++i) result = kd__peer_open(&peers[i], models, count, i, data, desc);
    while (result == KD_OK && going) {
        for (i = going = 0; i < count && result == KD_OK; ++i) {
            if (kd_trainer_done(peers[i].trainer)) continue;
            result = kd_trainer_step(peers[i].trainer, NULL);
            going = 1;
        }
    }
    for (i = 0; i < count; ++i) kd_trainer_close(peers[i].trainer);
    kd__free(kd, peers);
    return result;
}

/* ---- cross-validation ------------------------------------------------------------------------------------ */

enum { KD__FOLD_SLICE = 16 }; /* steps of each fold from one word about progress to the next */

typedef struct kd__fold {
    kd_ctx *kd;
    kd_model *m;
    kd_trainer *trainer;
    int steps; /* to go on with before progress is told; INT_MAX: to the end */
    int done;
    kd_epoch_info info; /* its validation */
    kd_result result;
} kd__fold;

/* A context, a model and a trainer of its own: nothing that two threads would share is written to. Teachers' runs,
   too, work on its threads. */
KD__PRIVATE kd_result kd__fold_open(kd__fold *f, const kd_model *m, const kd_data *data, const kd_train_desc *desc,
                                    int threads, int fold, int folds)
{
    kd_ctx_desc ctx = m->kd->desc;
    int i;
    ctx.threads = threads;
    ctx.isa = kd_ctx_isa(m->kd);
    ctx.log = NULL;
    f->result = kd_open(&ctx, &f->kd);
    if (f->result == KD_OK) f->result = kd__model_copy(f->kd, m, &f->m);
    if (f->result == KD_OK) f->result = kd__trainer_new(f->m, data, desc, fold, folds, &f->trainer);
    if (f->result != KD_OK) return f->result;
    for (i = 0; i < f->trainer->teacher_count; ++i) f->trainer->teacher_runs[i]->kd = f->kd;
    if (f->trainer->evaluator.teacher_run) f->trainer->evaluator.teacher_run->kd = f->kd;
    return KD_OK;
}

KD__PRIVATE void kd__fold_run(void *arg, int index, int worker)
{
    kd__fold *f = (kd__fold *)arg + index;
    int i;
    (void)worker;
    for (i = 0; i < f->steps && f->result == KD_OK && !kd_trainer_done(f->trainer); ++i)
        f->result = kd_trainer_step(f->trainer, NULL);
    if (f->result != KD_OK || !kd_trainer_done(f->trainer) || f->done) return;
    f->result = kd__trainer_validate(f->trainer, &f->info);
    f->done = 1;
}

/* Trains folds at the same time, in slices between which progress is told, where somebody wants to hear of it. */
KD__PRIVATE kd_result kd__folds_run(kd_ctx *kd, kd__fold *wave, int size, kd__progress *progress)
{
    const int64_t before = progress->done;
    kd_result result = KD_OK;
    int i, going = 1;
    for (i = 0; i < size; ++i) wave[i].steps = progress->fn ? KD__FOLD_SLICE : INT_MAX;
    while (going && result == KD_OK) {
        int64_t images = 0;
        if (size > 1)
            kd__parallel(kd, size, kd__fold_run, wave);
        else
            kd__fold_run(wave, 0, 0);
        for (going = i = 0; i < size; ++i) {
            going |= !wave[i].done && wave[i].result == KD_OK;
            images += wave[i].done ? (int64_t)wave[i].trainer->train_count * wave[i].trainer->desc.epochs
                                   : kd_trainer_position(wave[i].trainer).images;
            if (wave[i].result != KD_OK) return KD_OK; /* the fold says it */
        }
        result = kd__progress_add(progress, KD__MAX(before + images - progress->done, 0)); /* rollback goes back */
    }
    return result;
}

KD__PRIVATE void kd__fold_close(kd__fold *f)
{
    kd_trainer_close(f->trainer);
    kd_model_destroy(f->m);
    kd_close(f->kd);
}

KD__PRIVATE double kd__metric(const kd_metrics *m, size_t offset)
{
    double value;
    memcpy(&value, (const char *)m + offset, sizeof value);
    return value;
}

KD__PRIVATE kd_statistic kd__statistic_of(const kd_metrics *each, int count, size_t member, int of_labels)
{
    kd_statistic s = {0, 0};
    int i, n = 0;
    for (i = 0; i < count; ++i) n += !of_labels || each[i].count > 0;
    for (i = 0; i < count; ++i) {
        if (!of_labels || each[i].count > 0) s.mean += kd__metric(each + i, member) / n;
    }
    for (i = 0; i < count && n > 1; ++i) {
        const double off = kd__metric(each + i, member) - s.mean;
        if (!of_labels || each[i].count > 0) s.sd += off * off / (n - 1);
    }
    s.sd = sqrt(s.sd);
    return s;
}

/* Some folds at the same time. */
KD__PRIVATE kd_result kd__fold_wave(kd__fold *wave, int size, const kd_model *m, const kd_data *data,
                                    const kd_train_desc *desc, int first, int folds, kd__progress *progress,
                                    kd_metrics *metrics)
{
    kd_ctx *kd = m->kd;
    kd_result result = KD_OK, stopped = KD_OK;
    int i, opened;
    memset(wave, 0, (size_t)size * sizeof *wave);
    for (opened = 0; opened < size && result == KD_OK; ++opened)
        result =
            kd__fold_open(&wave[opened], m, data, desc, size > 1 ? 1 : kd->desc.threads, first + opened, folds);
    if (result == KD_OK) stopped = kd__folds_run(kd, wave, size, progress);
    for (result = KD_OK, i = 0; i < opened; ++i) {
        if (result == KD_OK && wave[i].result != KD_OK) {
            result = wave[i].result;
            if (!wave[i].kd) kd__fail(kd, result, "out of memory for the context of a fold");
            if (wave[i].kd && *kd_error(wave[i].kd)) kd__fail(kd, result, "%s", kd_error(wave[i].kd));
        }
        metrics[i] = wave[i].info.validation;
        kd__fold_close(&wave[i]);
    }
    return result == KD_OK ? stopped : result;
}

KD__PRIVATE kd_result kd__folds_check(kd_ctx *kd, const kd_data *data, const kd_train_desc *desc, int folds,
                                      const kd_cross_validation *out)
{
    static const char where[] = "kd_cross_validate";
    int i;
    if (desc->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS, "%s: the options must start from kd_train_defaults()", where);
    if (!data || !out) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: data and out must not be NULL", where);
    if (folds < 2 || folds > 10000 || folds > data->count)
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: of %d samples 2 to %d folds can be made, got %d", where,
                        data->count, KD__MIN(data->count, 10000), folds);
    if (desc->validation > 0 || desc->validation_data || desc->keep == KD_KEEP_BEST || desc->patience > 0)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: every fold is trained to the end and looked at once: no validation, validation_data, "
                        "keep or patience",
                        where);
    for (i = -1; i < desc->teacher_count && i < KD__MAX_TEACHERS; ++i) {
        const kd_model *teacher = i < 0 ? desc->teacher : desc->teachers ? desc->teachers[i] : NULL;
        if (teacher && teacher->kd != kd)
            return kd__fail(kd, KD_ERR_ARGUMENT, "%s: a teacher of another context than the student's", where);
    }
    return KD_OK;
}

KDDEF kd_result kd_cross_validate(const kd_model *m, const kd_data *data, const kd_train_desc *desc, int folds,
                                  kd_metrics *each, kd_cross_validation *out)
{
    return kd_cross_validate_with(m, data, desc, folds, NULL, NULL, each, out);
}

KDDEF kd_result kd_cross_validate_with(const kd_model *m, const kd_data *data, const kd_train_desc *desc, int folds,
                                       kd_progress_fn on_progress, void *user, kd_metrics *each,
                                       kd_cross_validation *out)
{
    const kd_train_desc defaults = kd_train_defaults();
    kd__progress progress = {on_progress, user, 0, 0};
    kd__fold *wave;
    kd_metrics *metrics;
    kd_result result;
    int first, size, most;
    if (!m) return KD_ERR_ARGUMENT;
    if (!desc) desc = &defaults;
    result = kd__folds_check(m->kd, data, desc, folds, out);
    if (result != KD_OK) return result;
    most = desc->on_step || desc->on_epoch || desc->teacher_fn || data->batch ||
                   (desc->teacher_data && desc->teacher_data->batch)
               ? 1
               : KD__MIN(m->kd->desc.threads, folds);
    progress.all = (int64_t)data->count * (folds - 1) * desc->epochs;
    wave = KD__NEW(m->kd, kd__fold, most);
    metrics = KD__NEW(m->kd, kd_metrics, folds);
    if (!wave || !metrics) result = KD_ERR_MEMORY;
    for (first = 0; first < folds && result == KD_OK; first += size) {
        size = KD__MIN(most, folds - first);
        result = kd__fold_wave(wave, size, m, data, desc, first, folds, &progress, metrics + first);
    }
    if (result == KD_OK) {
        if (each) memcpy(each, metrics, (size_t)folds * sizeof *each);
#define KD__ITEM(name, labelled) out->name = kd__statistic_of(metrics, folds, offsetof(kd_metrics, name), labelled);
        KD__ITEM(accuracy, 1)
        KD__ITEM(robust_accuracy, 1)
        KD__ITEM(nll, 1)
        KD__ITEM(ece, 1)
        KD__ITEM(mse, 0)
        KD__ITEM(agreement, 0)
        KD__ITEM(kl, 0)
#undef KD__ITEM
    }
    kd__free(m->kd, wave);
    kd__free(m->kd, metrics);
    return result;
}
#endif /* KD_NO_TRAIN */

/* ============================================================================================================
   >>pate    labels from noisy votes, and what they give away
   uses: predict, data, math
   ============================================================================================================ */
#ifndef KD_NO_TRAIN

KDDEF kd_pate_desc kd_pate_defaults(void)
{
    kd_pate_desc d;
    memset(&d, 0, sizeof d);
    d.cookie = KD__COOKIE;
    d.noise = KD_PATE_GAUSSIAN;
    d.gamma = 0.05;
    d.sigma = 40;
    d.threshold_sigma = 150;
    d.delta = 1e-5;
    return d;
}

KD__PRIVATE kd_result kd__pate_check(kd_ctx *kd, const char *where, const kd_pate_desc *d)
{
    if (!d || d->cookie != KD__COOKIE)
        return kd__fail(kd, KD_ERR_DEFAULTS, "%s: the options must start from kd_pate_defaults()", where);
    {
        const kd__range ranges[] = {
            {"noise", (double)(int)d->noise, 0, (double)KD_PATE_GAUSSIAN},
            {"gamma", d->gamma, 1e-6, 1e6},
            {"sigma", d->sigma, 1e-6, 1e6},
            {"threshold", d->threshold, 0, d->noise == KD_PATE_GAUSSIAN ? 1e9 : 0},
            {"threshold_sigma", d->threshold_sigma, 1e-6, 1e6},
            {"delta", d->delta, 1e-300, 0.5},
        };
        return kd__check_ranges(kd, where, ranges, KD__COUNT(ranges));
    }
}

KD__PRIVATE kd_result kd__pate_count(const kd_model *teacher, kd__feed *feed, int32_t *votes)
{
    const int outputs = kd_model_outputs(teacher), classes = KD__MAX(outputs, 2), count = feed->data->count;
    kd_ctx *kd = teacher->kd;
    int32_t samples[256];
    float *logits = KD__NEW(kd, float, kd__times((size_t)feed->batch, (size_t)outputs));
    kd__run *run = NULL;
    kd_result result = logits ? kd__run_open(teacher, NULL, feed->batch, &run) : KD_ERR_MEMORY;
    int first, i, n;
    for (first = 0; first < count && result == KD_OK; first += n) {
        n = KD__MIN(feed->batch, count - first);
        for (i = 0; i < n; ++i) samples[i] = first + i;
        result = kd__feed_batch(feed, samples, n, 0);
        if (result != KD_OK) break;
        kd__run_forward(run, feed->x, n);
        kd__export(run, n, logits);
        result = kd__check_finite(kd, "kd_pate_votes", "a teacher's logits", logits, n, outputs);
        for (i = 0; i < n && result == KD_OK; ++i)
            ++votes[(ptrdiff_t)(first + i) * classes + kd__choice(logits + (ptrdiff_t)i * outputs, outputs)];
    }
    kd__run_close(run);
    kd__free(kd, logits);
    return result;
}

KDDEF kd_result kd_pate_votes(const kd_model *const *teachers, int teacher_count, const kd_data *data,
                              int32_t *votes)
{
    static const char where[] = "kd_pate_votes";
    kd_ctx *kd;
    kd__feed feed;
    int32_t *counts;
    size_t cells;
    kd_result result = KD_OK;
    int i;
    if (!teachers || teacher_count < 1 || !teachers[0]) return KD_ERR_ARGUMENT;
    kd = teachers[0]->kd;
    if (!votes) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: votes must not be NULL", where);
    for (i = 0; i < teacher_count && result == KD_OK; ++i) {
        if (!teachers[i]) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: teacher %d is NULL", where, i);
        result = kd__data_check(kd, where, data, teachers[i], "teacher");
        if (result == KD_OK) result = kd__check_teacher(kd, where, teachers[0], teachers[i]);
    }
    if (result != KD_OK) return result;
    cells = kd__times((size_t)data->count, (size_t)KD__MAX(kd_model_outputs(teachers[0]), 2));
    counts = KD__NEW(kd, int32_t, cells);
    if (!counts) return KD_ERR_MEMORY;
    result = kd__feed_open_images(&feed, kd, data, NULL, 0, KD__MIN(256, data->count));
    for (i = 0; i < teacher_count && result == KD_OK; ++i) result = kd__pate_count(teachers[i], &feed, counts);
    if (feed.kd) kd__feed_close(&feed);
    if (result == KD_OK) memcpy(votes, counts, cells * sizeof *votes);
    kd__free(kd, counts);
    return result;
}

/* Number `index` of those that belong to a key; scale is 1 / gamma or sigma. */
KD__PRIVATE double kd__pate_draw(kd_pate_noise noise, double scale, uint64_t key, int index)
{
    const double half = 1.0 / 18014398509481984.0; /* 2^-54: never 0 */
    double u;
    if (noise == KD_PATE_GAUSSIAN) return kd__normal(key, (uint64_t)index, scale);
    u = kd__rng_unit(key, 2 * (uint64_t)index) + half;
    return u < 0.5 ? scale * kd__log_of(2 * u) : -scale * kd__log_of(2 * (1 - u));
}

KD__PRIVATE int32_t kd__pate_answer(const kd_pate_desc *d, const int32_t *votes, int classes, uint64_t key)
{
    const double scale = d->noise == KD_PATE_LAPLACE ? 1 / d->gamma : d->sigma;
    double most = 0, best = 0;
    int32_t label = KD_UNLABELLED;
    int c;
    for (c = 0; c < classes; ++c) {
        const double noisy = votes[c] + kd__pate_draw(d->noise, scale, key, c);
        most = KD__MAX(most, (double)votes[c]);
        if (c == 0 || noisy > best) best = noisy, label = c;
    }
    if (d->threshold > 0 && most + kd__pate_draw(d->noise, d->threshold_sigma, key, classes) < d->threshold)
        return KD_UNLABELLED;
    return label;
}

KD__PRIVATE double kd__pate_epsilon(const kd_pate_desc *d, int asked, int answered)
{
    const double threshold = d->threshold > 0 ? asked / (2 * d->threshold_sigma * d->threshold_sigma) : 0;
    const double rate = d->noise == KD_PATE_LAPLACE ? 2 * d->gamma * d->gamma * answered
                                                    : answered / (d->sigma * d->sigma) + threshold;
    const double epsilon = rate + 2 * sqrt(-rate * kd__log_of(d->delta));
    return d->noise == KD_PATE_LAPLACE ? KD__MIN(epsilon, 2 * d->gamma * answered) : epsilon;
}

KDDEF kd_result kd_pate_cost(kd_ctx *kd, const kd_pate_desc *desc, int asked, int answered, kd_pate_budget *out)
{
    static const char where[] = "kd_pate_cost";
    kd_result result;
    if (!kd) return KD_ERR_ARGUMENT;
    result = kd__pate_check(kd, where, desc);
    if (result != KD_OK) return result;
    if (!out || answered < 0 || asked < answered)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: out must not be NULL, and of %d samples 0 to all answered, got %d", where, asked,
                        answered);
    out->asked = asked;
    out->answered = answered;
    out->delta = desc->delta;
    out->epsilon = kd__pate_epsilon(desc, asked, answered);
    return KD_OK;
}

KDDEF kd_result kd_pate_label(kd_ctx *kd, const kd_pate_desc *desc, const int32_t *votes, int samples, int classes,
                              int32_t *labels, kd_pate_budget *out)
{
    static const char where[] = "kd_pate_label";
    kd_pate_budget budget;
    kd_result result;
    ptrdiff_t at;
    int i, answered = 0;
    if (!kd) return KD_ERR_ARGUMENT;
    result = kd__pate_check(kd, where, desc);
    if (result != KD_OK) return result;
    if (!votes || !labels || samples < 1 || classes < 2)
        return kd__fail(kd, KD_ERR_ARGUMENT,
                        "%s: needs votes, room for labels, 1 sample or more and 2 classes or more, got %d and %d",
                        where, samples, classes);
    for (at = 0; at < (ptrdiff_t)samples * classes; ++at) {
        if (votes[at] < 0)
            return kd__fail(kd, KD_ERR_ARGUMENT, "%s: class %d of sample %d has %ld votes", where,
                            (int)(at % classes), (int)(at / classes), (long)votes[at]);
    }
    for (i = 0; i < samples; ++i) {
        const uint64_t key = kd__rng_key(desc->seed, KD__RNG_PATE, (uint64_t)i, 0);
        labels[i] = kd__pate_answer(desc, votes + (ptrdiff_t)i * classes, classes, key);
        answered += labels[i] != KD_UNLABELLED;
    }
    return kd_pate_cost(kd, desc, samples, answered, out ? out : &budget);
}
#endif /* KD_NO_TRAIN */

/* ============================================================================================================
   >>diagnose    what teacher and labels ask of a student
   uses: train, predict, data, losses
   ============================================================================================================ */
#ifndef KD_NO_TRAIN

enum { KD__HARD, KD__SOFT };

typedef struct kd__diagnoser {
    kd_ctx *kd;
    const kd_model *m;
    const kd_data *data;
    kd_loss_desc losses[2]; /* each term alone */
    kd_attack_desc attack_desc;
    int outputs;
    kd__feed feed;
    kd__run *run, *teacher_run;
    kd__attacker attack;
    const float *x;     /* the student's images: those of the feed or of the attack */
    int32_t *samples;   /* (batch) */
    float *compared[2]; /* by term, (batch, outputs): what data.targets or the teacher say; NULL: nothing */
    float *room;        /* of either loss */
    double *row;        /* logits of a sample, their probabilities and the logarithms of those */
    double *grads[2];   /* by weight: sums over batches */
    double entropy;
    int batch; /* samples of every batch but the last */
} kd__diagnoser;

KD__PRIVATE void kd__diagnoser_close(kd__diagnoser *d)
{
    kd__run_close(d->run);
    kd__run_close(d->teacher_run);
    kd__attack_close(&d->attack);
    if (d->feed.kd) kd__feed_close(&d->feed);
    kd__free(d->kd, d->samples);
    kd__free(d->kd, d->compared[KD__HARD]);
    kd__free(d->kd, d->compared[KD__SOFT]);
    kd__free(d->kd, d->room);
    kd__free(d->kd, d->row);
    kd__free(d->kd, d->grads[0]);
    kd__free(d->kd, d->grads[1]);
}

KD__PRIVATE kd_result kd__diagnoser_open(kd__diagnoser *d, const kd_diagnose_desc *desc)
{
    const int joined = kd__norm_joins(kd__norm_lone(d->m) != NULL, d->data->count, desc->batch);
    const int batch = KD__MIN(desc->batch, d->data->count) + joined;
    const size_t outputs = (size_t)d->outputs, weights = d->m->weight_count + 1;
    const kd_data *data = d->data;
    kd_result result = kd__feed_open(&d->feed, d->kd, data, NULL, 0, batch);
    int i, failed = 0;
    /* nothing is committed: a run for training, but the model stays as it is */
    if (result == KD_OK) result = kd__run_open(d->m, (kd_model *)(uintptr_t)d->m, batch, &d->run);
    if (result == KD_OK && desc->teacher) result = kd__run_open(desc->teacher, NULL, batch, &d->teacher_run);
    if (result == KD_OK && desc->loss.inputs == KD_INPUTS_ADVERSARIAL)
        result = kd__attack_open(&d->attack, d->m, d->m->input, &d->attack_desc, data->channels, data->mean,
                                 data->std, batch);
    if (result != KD_OK) return result;
    d->batch = batch - joined;
    d->attack.seed = d->attack_desc.seed;
    d->run->bare = 1;
    d->samples = KD__NEW(d->kd, int32_t, batch);
    d->room = KD__NEW(d->kd, float,
                      KD__MAX(kd__loss_room(d->kd, &d->losses[KD__HARD], batch, d->outputs),
                              kd__loss_room(d->kd, &d->losses[KD__SOFT], batch, d->outputs)));
    d->row = KD__NEW(d->kd, double, kd__times(3, outputs + 1));
    for (i = 0; i < 2; ++i) {
        const int compares = i == KD__SOFT || d->losses[i].kind == KD_LOSS_MSE;
        d->grads[i] = KD__NEW(d->kd, double, weights);
        if (compares) d->compared[i] = KD__NEW(d->kd, float, kd__times((size_t)batch, outputs));
        failed |= !d->grads[i] || (compares && !d->compared[i]);
    }
    return d->samples && d->room && d->row && !failed ? KD_OK : KD_ERR_MEMORY;
}

/* The teacher's logits for a batch, and the entropy of what they become. */
KD__PRIVATE kd_result kd__diagnoser_teach(kd__diagnoser *d, int n)
{
    const int cols = d->outputs == 1 && d->losses[KD__SOFT].kind == KD_LOSS_BCE ? 2 : d->outputs;
    double *log_p = d->row + cols, *p = log_p + cols;
    float *teacher = d->compared[KD__SOFT];
    kd_result result;
    int i, c;
    if (d->teacher_run) {
        kd__run_forward(d->teacher_run, d->feed.x, n);
        kd__export(d->teacher_run, n, teacher);
    } else {
        kd__gather_rows(teacher, d->data->teacher_logits, d->samples, n, d->outputs);
    }
    result = kd__check_finite(d->kd, "kd_diagnose", "the teacher's logits", teacher, n, d->outputs);
    for (i = 0; i < n && result == KD_OK; ++i) {
        d->row[cols - 1] = 0;
        for (c = 0; c < d->outputs; ++c) d->row[c] = (double)teacher[(ptrdiff_t)i * d->outputs + c];
        kd__soft_probs(d->row, cols, (double)d->losses[KD__SOFT].temperature, log_p, p);
        d->entropy -= kd__dot(p, log_p, cols) / d->data->count;
    }
    return result;
}

/* The share of a batch in the gradient of one term. */
KD__PRIVATE kd_result kd__diagnoser_pull(kd__diagnoser *d, int which, int n)
{
    const kd_loss_desc *loss = &d->losses[which];
    const double share = (double)n / d->data->count;
    kd__loss_call call;
    size_t i;
    d->run->dropout_key = kd__rng_key(0, KD__RNG_DROPOUT, (uint64_t)d->samples[0], 0);
    kd__run_forward(d->run, d->x, n);
    memset(&call, 0, sizeof call);
    call.desc = loss;
    call.student = kd__run_logits(d->run);
    call.teacher = d->compared[which];
    call.labels = d->feed.soft ? NULL : d->feed.labels;
    call.soft_labels = kd__loss_uses_labels(loss) ? d->feed.soft : NULL;
    call.rows = n;
    call.cols = d->outputs;
    call.soft_scale = call.hard_scale = 1;
    call.grad = kd__run_logits_grad(d->run);
    call.room = d->room;
    if (!kd__is_finite(kd__loss_evaluate(d->kd, &call))) {
        const kd_result result =
            kd__check_finite(d->kd, "kd_diagnose", "the student's output", call.student, n, d->outputs);
        if (result != KD_OK) return result;
        return kd__fail(d->kd, KD_ERR_NOT_FINITE, "kd_diagnose: loss %s overflows", kd_loss_name(loss->kind));
    }
    kd__run_backward(d->run);
    for (i = 0; i < d->m->weight_count; ++i) d->grads[which][i] += share * (double)d->run->weight_grads[i];
    return KD_OK;
}

/* The images that the student sees. */
KD__PRIVATE kd_result kd__diagnoser_show(kd__diagnoser *d, int n)
{
    d->x = d->attack.kd ? d->attack.x : d->feed.x;
    if (!d->attack.kd) return KD_OK;
    d->attack.samples = d->samples;
    return kd__attack_make(&d->attack, "kd_diagnose", d->feed.x, NULL, n, d->compared[KD__SOFT],
                           d->feed.soft ? NULL : d->feed.labels, d->feed.soft);
}

KD__PRIVATE kd_result kd__diagnoser_run(kd__diagnoser *d)
{
    const int labelled = !d->compared[KD__HARD];
    kd_result result = KD_OK;
    int first, n, i;
    for (first = 0; first < d->data->count && result == KD_OK; first += n) {
        n = d->data->count - first > d->feed.batch ? d->batch : d->data->count - first;
        for (i = 0; i < n; ++i) d->samples[i] = first + i;
        result = kd__feed_batch(&d->feed, d->samples, n, 0);
        for (i = 0; i < 2 && result == KD_OK && labelled && !d->feed.soft; ++i) {
            if (!kd__loss_uses_labels(&d->losses[i])) continue;
            result = kd__loss_check_labels(d->kd, "kd_diagnose", &d->losses[i], 0, d->feed.labels, d->samples, n,
                                           d->outputs);
        }
        if (result == KD_OK) result = kd__diagnoser_teach(d, n);
        if (d->compared[KD__HARD])
            kd__gather_rows(d->compared[KD__HARD], d->data->targets, d->samples, n, d->outputs);
        if (result == KD_OK) result = kd__diagnoser_show(d, n);
        for (i = 0; i < 2 && result == KD_OK; ++i) result = kd__diagnoser_pull(d, i, n);
    }
    return result;
}

KD__PRIVATE void kd__diagnoser_finish(const kd__diagnoser *d, kd_diagnosis *out)
{
    double hard = 0, soft = 0, both = 0;
    int i;
    for (i = 0; i < d->m->param_count; ++i) {
        const kd__param *p = &d->m->params[i];
        const double *h = d->grads[KD__HARD] + p->offset, *s = d->grads[KD__SOFT] + p->offset;
        if (!p->trained) continue;
        hard += kd__dot(h, h, (int)p->size);
        soft += kd__dot(s, s, (int)p->size);
        both += kd__dot(h, s, (int)p->size);
    }
    out->target_entropy = d->entropy;
    out->hard_norm = sqrt(hard);
    out->soft_norm = sqrt(soft);
    out->gradient_cosine = hard > 0 && soft > 0 ? both / (out->hard_norm * out->soft_norm) : 0;
}

/* Sets up both terms, and checks that there are labels and a teacher for them. */
KD__PRIVATE kd_result kd__diagnose_check(kd__diagnoser *d, const kd_diagnose_desc *desc)
{
    static const char where[] = "kd_diagnose";
    const kd__shape *out = &d->m->values[d->m->output].shape;
    const int has_labels = d->data->soft_labels || d->data->batch || kd__data_has_label(d->data);
    const int to_targets = desc->loss.kind == KD_LOSS_MSE && d->data->targets && !has_labels;
    kd_loss_desc *hard = &d->losses[KD__HARD], *soft = &d->losses[KD__SOFT];
    kd_result result;
    if (out->h * out->w > 1 && out->c > 1)
        return kd__fail(d->kd, KD_ERR_SHAPE,
                        "%s: the student ends in an image of %dx%dx%d; end it with gap or dense", where, out->c,
                        out->h, out->w);
    if (!desc->teacher && !d->data->teacher_logits)
        return kd__fail(d->kd, KD_ERR_ARGUMENT, "%s: needs a teacher, or data with teacher_logits", where);
    if (d->data->soft_labels && d->data->classes != d->outputs)
        return kd__fail(d->kd, KD_ERR_SHAPE, "%s: soft labels need an output for each class", where);
    if (desc->loss.columns || desc->loss.first || desc->loss.task)
        return kd__fail(d->kd, KD_ERR_ARGUMENT, "%s: gradients are those by all outputs, not of one head", where);
    if (desc->loss.to_targets)
        return kd__fail(d->kd, KD_ERR_ARGUMENT, "%s: a loss with to_targets has no soft term", where);
    if (desc->loss.soft_labels)
        return kd__fail(d->kd, KD_ERR_ARGUMENT, "%s: soft labels of a data set go into kd_data.soft_labels", where);
    result = kd__loss_check(d->kd, where, &desc->loss, 1, has_labels, d->outputs);
    d->attack_desc = desc->attack;
    if (result == KD_OK && desc->loss.inputs == KD_INPUTS_ADVERSARIAL)
        result = kd__attack_check(d->kd, where, &d->attack_desc, 1, 0, has_labels, d->outputs);
    if (result == KD_OK && to_targets)
        result = kd__check_finite(d->kd, where, "targets", d->data->targets, d->data->count, d->outputs);
    if (result == KD_OK && d->data->soft_labels)
        result = kd__check_soft_labels(d->kd, where, d->data->soft_labels, d->data->count, d->outputs,
                                       d->outputs == 1 || desc->loss.kind == KD_LOSS_BCE);
    if (result != KD_OK) return result;
    if (kd__norm_lone(d->m) && KD__MIN(desc->batch, d->data->count) == 1)
        return kd__fail(
            d->kd, KD_ERR_ARGUMENT,
            "%s: batch normalisation \"%.60s\" sees one value a channel, whose variance is 0, in a batch "
            "of one sample; it takes a batch and data of 2 or more",
            where, kd__norm_lone(d->m)->name);
    *hard = kd_loss_defaults(to_targets                                          ? KD_LOSS_MSE
                             : d->outputs == 1 || desc->loss.kind == KD_LOSS_BCE ? KD_LOSS_BCE
                                                                                 : KD_LOSS_CE);
    hard->label_smoothing = desc->loss.label_smoothing;
    *soft = desc->loss;
    if (kd__loss_look_up(soft->kind)->own_hard) soft->alpha = 1;
    soft->soft_weight = 1, soft->hard_weight = 0;
    soft->reduction = KD_REDUCTION_ROWS, soft->convention = KD_CONVENTION_DEFAULT;
    return kd__loss_check(d->kd, where, hard, to_targets, has_labels, d->outputs);
}

KDDEF kd_diagnose_desc kd_diagnose_defaults(void)
{
    kd_diagnose_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.cookie = KD__COOKIE;
    desc.loss = kd_loss_defaults(KD_LOSS_AUTO);
    desc.batch = 256;
    desc.attack = kd_attack_defaults(KD_ATTACK_PGD);
    return desc;
}

KDDEF kd_result kd_diagnose(const kd_model *student, const kd_data *data, const kd_diagnose_desc *desc,
                            kd_diagnosis *out)
{
    const kd_diagnose_desc defaults = kd_diagnose_defaults();
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_diagnose_desc resolved;
    kd__diagnoser d;
    kd_diagnosis found;
    kd_result result;
    if (!student) return KD_ERR_ARGUMENT;
    if (!desc) desc = &defaults;
    if (desc->cookie != KD__COOKIE)
        return kd__fail(student->kd, KD_ERR_DEFAULTS,
                        "kd_diagnose: the options must start from kd_diagnose_defaults()");
    if (!out) return kd__fail(student->kd, KD_ERR_ARGUMENT, "kd_diagnose: out must not be NULL");
    memset(&found, 0, sizeof found);
    memset(&d, 0, sizeof d);
    evaluate.teacher = desc->teacher;
    evaluate.batch = desc->batch;
    result = kd__evaluate_all("kd_diagnose", student, data, &evaluate,
                              &found.metrics); /* checks model, data and teacher, too */
    if (result != KD_OK) return result;
    d.kd = student->kd;
    d.m = student;
    d.data = data;
    d.outputs = kd_model_outputs(student);
    resolved = *desc;
    if (desc->loss.kind == KD_LOSS_AUTO)
        resolved.loss.kind = kd__loss_resolve(1, 1, data->targets != NULL, d.outputs);
    result = kd__diagnose_check(&d, &resolved);
    if (result == KD_OK) result = kd__diagnoser_open(&d, &resolved);
    if (result == KD_OK) result = kd__diagnoser_run(&d);
    if (result == KD_OK) {
        kd__diagnoser_finish(&d, &found);
        kd__loss_effect(&resolved.loss, 1, d.outputs, &found.soft_weight, &found.hard_weight);
        *out = found;
    }
    kd__diagnoser_close(&d);
    return result;
}
#endif /* KD_NO_TRAIN */

/* ============================================================================================================
   >>io    .npy, safetensors, checkpoints
   uses: model, train
   Every number in a file is checked before it is used. Nothing here depends on the byte order of the machine or on
   the locale.
   ============================================================================================================ */

/* ---- bytes ----------------------------------------------------------------------------------------------- */

KD__PRIVATE kd_result kd__io_check(kd_ctx *kd, const char *where)
{
    if (kd->desc.io.open) return KD_OK; /* and so all the others */
    return kd__fail(kd, KD_ERR_UNSUPPORTED, "%s: kd_ctx_desc.io has no functions, which files need", where);
}

/* Bytes that are read once, from the first to the last: of a file, or of memory. */
typedef struct kd__source {
    kd_ctx *kd;
    const char *where, *path;
    void *file;                  /* NULL: memory */
    const unsigned char *memory; /* the next byte */
    size_t size, left;
} kd__source;

KD__PRIVATE kd_result kd__source_open(kd__source *s, kd_ctx *kd, const char *where, const char *path)
{
    const kd_io *io = &kd->desc.io;
    kd_result result;
    int64_t length;
    memset(s, 0, sizeof *s);
    s->kd = kd;
    s->where = where;
    s->path = path;
    if (!path) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: the path must not be NULL", where);
    result = kd__io_check(kd, where);
    if (result != KD_OK) return result;
    s->file = io->open(io->user, path, 'r');
    if (!s->file) return kd__fail(kd, KD_ERR_IO, "%s: cannot open \"%.300s\" for reading", where, path);
    length = io->size(io->user, s->file);
    if (length < 0 || (uint64_t)length > SIZE_MAX / 2) {
        io->close(io->user, s->file);
        s->file = NULL;
        return kd__fail(kd, KD_ERR_IO, "%s: cannot tell the size of \"%.300s\"", where, path);
    }
    s->size = s->left = (size_t)length;
    return KD_OK;
}

KD__PRIVATE kd_result kd__source_memory(kd__source *s, kd_ctx *kd, const char *where, const void *bytes,
                                        size_t size)
{
    memset(s, 0, sizeof *s);
    s->kd = kd;
    s->where = where;
    s->path = "memory";
    s->memory = (const unsigned char *)bytes;
    s->size = s->left = size;
    if (bytes && size <= SIZE_MAX / 2) return KD_OK;
    return kd__fail(kd, KD_ERR_ARGUMENT, "%s: bytes must not be NULL, and size what they have", where);
}

/* The next `count` bytes, which must be there. */
KD__PRIVATE kd_result kd__source_read(kd__source *s, void *to, size_t count)
{
    const kd_io *io = &s->kd->desc.io;
    size_t got = count <= s->left ? count : 0;
    if (!s->file && got) {
        memcpy(to, s->memory, got);
        s->memory += got;
    } else if (got) {
        got = io->read(io->user, s->file, to, got);
    }
    s->left -= KD__MIN(got, s->left);
    if (got == count) return KD_OK;
    return kd__fail(s->kd, KD_ERR_IO, "%s: \"%.300s\" ended before its %llu bytes were read", s->where, s->path,
                    (unsigned long long)s->size);
}

KD__PRIVATE void kd__source_close(kd__source *s)
{
    if (s->file) s->kd->desc.io.close(s->kd->desc.io.user, s->file);
    s->file = NULL;
}

/* The whole file, with a 0 after it. */
KD__PRIVATE kd_result kd__read_file(kd_ctx *kd, const char *where, const char *path, char **bytes, size_t *size)
{
    kd__source s;
    kd_result result = kd__source_open(&s, kd, where, path);
    *bytes = NULL;
    *size = 0;
    if (result != KD_OK) return result;
    *bytes = KD__NEW(kd, char, s.size + 1);
    result = *bytes ? kd__source_read(&s, *bytes, s.size) : KD_ERR_MEMORY;
    kd__source_close(&s);
    if (result != KD_OK) {
        kd__free(kd, *bytes);
        *bytes = NULL;
    } else {
        *size = s.size;
    }
    return result;
}

/* A file that appears under its name only when it is complete and on the disk. */
typedef struct kd__save {
    kd_ctx *kd;
    const char *where, *path;
    char *temporary;
    void *file;
    int to_memory; /* instead of a file */
    unsigned char *memory;
    size_t size, length; /* of the memory; of what was written, whether it fits or not */
    kd_result result;
} kd__save;

KD__PRIVATE kd_result kd__save_open(kd__save *s, kd_ctx *kd, const char *where, const char *path)
{
    const kd_io *io = &kd->desc.io;
    size_t length;
    memset(s, 0, sizeof *s);
    s->kd = kd;
    s->where = where;
    s->path = path;
    if (!path || !*path)
        return s->result = kd__fail(kd, KD_ERR_ARGUMENT, "%s: the path must not be NULL or empty", where);
    s->result = kd__io_check(kd, where);
    if (s->result != KD_OK) return s->result;
    length = strlen(path) + 8;
    s->temporary = KD__NEW(kd, char, length);
    if (!s->temporary) return s->result = KD_ERR_MEMORY;
    kd__print(s->temporary, length, "%s.kd-tmp", path);
    s->file = io->open(io->user, s->temporary, 'w');
    if (!s->file) {
        s->result = kd__fail(kd, KD_ERR_IO, "%s: cannot create \"%.300s\"", where, s->temporary);
        kd__free(kd, s->temporary);
    }
    return s->result;
}

KD__PRIVATE void kd__save_bytes(kd__save *s, const void *bytes, size_t size)
{
    const kd_io *io = &s->kd->desc.io;
    if (s->to_memory) {
        if (size && size <= s->size && s->length <= s->size - size) memcpy(s->memory + s->length, bytes, size);
        s->length = kd__plus(s->length, size);
        return;
    }
    if (s->result == KD_OK && io->write(io->user, s->file, bytes, size) != size)
        s->result = kd__fail(s->kd, KD_ERR_IO, "%s: cannot write all of \"%.300s\"; is the disk full?", s->where,
                             s->temporary);
}

/* Little-endian floats, through a small buffer. */
KD__PRIVATE void kd__save_floats(kd__save *s, const float *x, size_t count)
{
    unsigned char bytes[2048];
    size_t done, i;
    if (!kd__big_endian()) {
        kd__save_bytes(s, x, count * sizeof *x);
        return;
    }
    for (done = 0; done < count && s->result == KD_OK;) {
        const size_t now = KD__MIN(sizeof bytes / 4, count - done);
        for (i = 0; i < now; ++i) kd__store_le(bytes + 4 * i, kd__float_bits(x[done + i]), 4);
        kd__save_bytes(s, bytes, 4 * now);
        done += now;
    }
}

/* Numbers that are exact in the type: the upper halves of floats, or halves. */
KD__PRIVATE void kd__save_halves(kd__save *s, const float *x, size_t count, kd_dtype dtype)
{
    unsigned char bytes[2];
    size_t i;
    for (i = 0; i < count; ++i) {
        kd__store_le(bytes, dtype == KD_DTYPE_F16 ? kd__float_to_half(x[i]) : kd__float_bits(x[i]) >> 16, 2);
        kd__save_bytes(s, bytes, sizeof bytes);
    }
}

/* Of a file that was opened: the result of all that was done with it. */
KD__PRIVATE kd_result kd__save_close(kd__save *s)
{
    const kd_io *io = &s->kd->desc.io;
    if (s->result == KD_OK && io->sync(io->user, s->file) != 0)
        s->result = kd__fail(s->kd, KD_ERR_IO, "%s: \"%.300s\" could not be made durable", s->where, s->temporary);
    if (io->close(io->user, s->file) != 0 && s->result == KD_OK)
        s->result = kd__fail(s->kd, KD_ERR_IO, "%s: \"%.300s\" could not be closed", s->where, s->temporary);
    if (s->result == KD_OK && io->replace(io->user, s->temporary, s->path) != 0)
        s->result = kd__fail(s->kd, KD_ERR_IO, "%s: cannot rename \"%.200s\" to \"%.200s\"", s->where, s->temporary,
                             s->path);
    if (s->result != KD_OK) io->remove(io->user, s->temporary);
    kd__free(s->kd, s->temporary);
    return s->result;
}

/* ---- number types ---------------------------------------------------------------------------------------- */

enum { KD__FLOAT, KD__BFLOAT, KD__SIGNED, KD__UNSIGNED };

/* Numbers of any type to floats. `size` in bytes. */
KD__PRIVATE void kd__convert(const unsigned char *from, int kind, int size, int big_endian, int64_t count,
                             float *to)
{
    int64_t i;
    if (kind == KD__FLOAT && size == 4 && big_endian == kd__big_endian()) { /* as they are */
        memcpy(to, from, (size_t)count * sizeof *to);
        return;
    }
    for (i = 0; i < count; ++i, from += size) {
        unsigned char bytes[8];
        uint64_t bits;
        int j;
        for (j = 0; j < size; ++j) bytes[j] = from[big_endian ? size - 1 - j : j];
        bits = kd__load_le(bytes, size);
        if (kind == KD__BFLOAT) {
            to[i] = kd__bits_float((uint32_t)bits << 16);
        } else if (kind == KD__FLOAT && size == 8) {
            double value;
            memcpy(&value, &bits, sizeof value);
            to[i] = (float)value;
        } else if (kind == KD__FLOAT) {
            to[i] = size == 4 ? kd__bits_float((uint32_t)bits) : kd__half_to_float((uint32_t)bits);
        } else if (kind == KD__SIGNED) {
            const uint64_t sign = (uint64_t)1 << (8 * size - 1);
            to[i] = (float)((bits & sign) ? -(double)(sign - (bits & (sign - 1))) : (double)bits);
        } else {
            to[i] = (float)bits;
        }
    }
}

/* ---- .npy ------------------------------------------------------------------------------------------------ */

KDDEF void kd_array_free(kd_ctx *kd, kd_array *array)
{
    if (!kd || !array) return;
    kd__free(kd, array->values);
    memset(array, 0, sizeof *array);
}

/* The dictionary in front of the numbers: exactly descr, fortran_order and shape, in any order. */
typedef struct kd__npy_header {
    char descr[8];
    int fortran, rank, seen;
    int64_t shape[8];
} kd__npy_header;

KD__PRIVATE const char *kd__npy_blank(const char *c)
{
    while (*c == ' ') ++c;
    return c;
}

/* A quoted word of at most size - 1 characters; NULL if there is none. */
KD__PRIVATE const char *kd__npy_word(const char *c, char *word, size_t size)
{
    const char quote = *c;
    size_t length = 0;
    if (quote != '\'' && quote != '"') return NULL;
    for (++c; *c && *c != quote; ++c) {
        if (length + 1 >= size) return NULL;
        word[length++] = *c;
    }
    word[length] = 0;
    return *c == quote ? c + 1 : NULL;
}

KD__PRIVATE const char *kd__npy_shape(const char *c, kd__npy_header *h)
{
    if (*c != '(') return NULL;
    c = kd__npy_blank(c + 1);
    while (*c != ')') {
        int64_t value = 0;
        int digits = 0;
        if (h->rank == 8) return NULL;
        for (; kd__is_digit(*c); ++c, ++digits) {
            if (value > (INT64_MAX - 9) / 10) return NULL;
            value = value * 10 + (*c - '0');
        }
        if (!digits) return NULL;
        if (*c == 'L') ++c; /* Python 2 */
        h->shape[h->rank++] = value;
        c = kd__npy_blank(c);
        if (*c == ',')
            c = kd__npy_blank(c + 1);
        else if (*c != ')')
            return NULL;
    }
    return c + 1;
}

KD__PRIVATE int kd__npy_parse(const char *c, kd__npy_header *h)
{
    char key[16];
    memset(h, 0, sizeof *h);
    c = kd__npy_blank(c);
    if (*c++ != '{') return 0;
    c = kd__npy_blank(c);
    while (*c != '}') {
        int bit;
        c = kd__npy_word(c, key, sizeof key);
        if (!c) return 0;
        c = kd__npy_blank(c);
        if (*c++ != ':') return 0;
        c = kd__npy_blank(c);
        if (strcmp(key, "descr") == 0) {
            bit = 1;
            c = kd__npy_word(c, h->descr, sizeof h->descr);
        } else if (strcmp(key, "fortran_order") == 0) {
            bit = 2;
            h->fortran = strncmp(c, "True", 4) == 0;
            c = h->fortran ? c + 4 : strncmp(c, "False", 5) == 0 ? c + 5 : NULL;
        } else if (strcmp(key, "shape") == 0) {
            bit = 4;
            c = kd__npy_shape(c, h);
        } else {
            return 0;
        }
        if (!c || (h->seen & bit)) return 0;
        h->seen |= bit;
        c = kd__npy_blank(c);
        if (*c == ',')
            c = kd__npy_blank(c + 1);
        else if (*c != '}')
            return 0;
    }
    for (++c; *c == ' ' || *c == '\n'; ++c) {}
    return *c == 0 && h->seen == 7;
}

KD__PRIVATE kd_result kd__npy_numbers(kd_ctx *kd, const char *path, const char *bytes, size_t size, size_t data,
                                      const kd__npy_header *h, kd_array *out)
{
    static const char types[] = "f2f4f8i1i2i4i8u1u2b1";
    static const char where[] = "kd_npy_read";
    const char order = h->descr[0];
    const char *type = NULL;
    int64_t count = 1;
    int i, item, kind;
    for (i = 0; types[i]; i += 2) {
        if (strncmp(h->descr + 1, types + i, 2) == 0 && h->descr[3] == 0) type = types + i;
    }
    if (!type || (order != '<' && order != '>' && order != '|' && order != '='))
        return kd__fail(kd, KD_ERR_FORMAT,
                        "%s: \"%.200s\" holds numbers of type \"%s\"; f2 f4 f8 i1 i2 i4 i8 u1 u2 b1 can be read",
                        where, path, h->descr);
    if (h->fortran && h->rank > 1)
        return kd__fail(kd, KD_ERR_FORMAT,
                        "%s: \"%.200s\" is in Fortran order; save np.ascontiguousarray(x) instead", where, path);
    item = type[1] - '0';
    kind = type[0] == 'f' ? KD__FLOAT : type[0] == 'i' ? KD__SIGNED : KD__UNSIGNED;
    for (i = 0; i < h->rank; ++i) {
        if (h->shape[i] && count > (int64_t)(INT64_MAX / 16) / h->shape[i])
            count = INT64_MAX / 16;
        else
            count *= h->shape[i];
    }
    if ((uint64_t)count > (size - data) / (size_t)item || (size - data) != (size_t)count * (size_t)item)
        return kd__fail(kd, KD_ERR_FORMAT,
                        "%s: \"%.200s\" should hold %lld numbers of %d bytes, but %lld bytes follow its header",
                        where, path, (long long)count, item, (long long)(size - data));
    out->values = KD__NEW(kd, float, (size_t)count + 1);
    if (!out->values) return KD_ERR_MEMORY;
    out->rank = h->rank;
    memcpy(out->shape, h->shape, sizeof out->shape);
    out->count = count;
    kd__convert((const unsigned char *)bytes + data, kind, item, order == '>', count, out->values);
    return KD_OK;
}

KDDEF kd_result kd_npy_read(kd_ctx *kd, const char *path, kd_array *out)
{
    static const char where[] = "kd_npy_read";
    kd__npy_header header;
    size_t size, header_size, data;
    char *bytes, *text;
    kd_result result;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: out must not be NULL", where);
    memset(out, 0, sizeof *out);
    result = kd__read_file(kd, where, path, &bytes, &size);
    if (result != KD_OK) return result;
    if (size < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0 || bytes[6] < 1 || bytes[6] > 3) {
        result = kd__fail(kd, KD_ERR_FORMAT, "%s: \"%.300s\" is no .npy file of version 1 to 3", where, path);
    } else {
        const int length_bytes = bytes[6] == 1 ? 2 : 4;
        header_size = (size_t)kd__load_le((const unsigned char *)bytes + 8, length_bytes);
        data = 8 + (size_t)length_bytes + header_size;
        if (header_size > 10000 || data > size) {
            result = kd__fail(kd, KD_ERR_FORMAT, "%s: \"%.300s\" claims a header of %lld bytes", where, path,
                              (long long)header_size);
        } else {
            text = KD__NEW(kd, char, header_size + 1);
            if (text) memcpy(text, bytes + 8 + length_bytes, header_size);
            if (!text)
                result = KD_ERR_MEMORY;
            else if (memchr(text, 0, header_size) || !kd__npy_parse(text, &header))
                result = kd__fail(kd, KD_ERR_FORMAT, "%s: the header of \"%.300s\" is not understood", where, path);
            else
                result = kd__npy_numbers(kd, path, bytes, size, data, &header, out);
            kd__free(kd, text);
        }
    }
    kd__free(kd, bytes);
    return result;
}

KDDEF kd_result kd_npy_write(kd_ctx *kd, const char *path, const float *values, int rank, const int64_t *shape)
{
    static const char where[] = "kd_npy_write";
    unsigned char head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 0, 0};
    char text[320];
    kd__writer w;
    kd__save s;
    size_t count = 1, padded;
    int i;
    if (!kd) return KD_ERR_ARGUMENT;
    if (rank < 0 || rank > 8 || (rank > 0 && !shape))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: rank must be 0 to 8, got %d", where, rank);
    w.text = text, w.size = sizeof text, w.length = 0;
    kd__write(&w, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (i = 0; i < rank; ++i) {
        if (shape[i] < 0) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: dimension %d is negative", where, i);
        count = kd__times(count, (size_t)shape[i]);
        kd__write(&w, "%lld%s", (long long)shape[i], i < rank - 1 ? ", " : rank == 1 ? "," : "");
    }
    kd__write(&w, "), }");
    if (count > SIZE_MAX / 8 || (count > 0 && !values))
        return kd__fail(kd, KD_ERR_ARGUMENT, "%s: too many values, or NULL", where);
    padded = (w.length + 11 + 63) / 64 * 64 - 10;
    memset(text + w.length, ' ', padded - w.length);
    text[padded - 1] = '\n';
    kd__store_le(head + 8, padded, 2);
    if (kd__save_open(&s, kd, where, path) != KD_OK) return s.result;
    kd__save_bytes(&s, head, sizeof head);
    kd__save_bytes(&s, text, padded);
    kd__save_floats(&s, values, count);
    return kd__save_close(&s);
}

/* ---- safetensors: reading -------------------------------------------------------------------------------- */

typedef struct kd__st_entry {
    char *name;        /* looked up by this, which may be the model's */
    const char *given; /* as in the file */
    int kind, size;    /* of a number, in bytes */
    int rank;
    int64_t shape[8], count;
    uint64_t begin, end;
    int param; /* of the model that the file was matched with; -1: a count of batches */
} kd__st_entry;

typedef struct kd__st_pair {
    char *key, *value;
} kd__st_pair;

/* A file of which all bytes are in memory, or only the header: its data are then read from first to last. */
typedef struct kd__st_file {
    kd_ctx *kd;
    const char *where, *path;
    kd__source source;
    int whole;
    char *bytes;
    size_t size, data; /* of the file; where its data begin */
    kd__st_entry *entries;
    kd__st_pair *pairs;
    int entry_count, entry_capacity, pair_count, pair_capacity;
    char *c, *end; /* while the header is read */
    char *adopted; /* memory of names that the model has no memory for: kd__st_adopt */
} kd__st_file;

KD__PRIVATE kd_result KD__PRINTF(2, 3) kd__st_fail(kd__st_file *f, const char *format, ...)
{
    char text[300];
    va_list args;
    va_start(args, format);
    kd__print_list(text, sizeof text, format, args);
    va_end(args);
    return kd__fail(f->kd, KD_ERR_FORMAT, "%s: \"%.200s\" is no valid safetensors file: %s", f->where, f->path,
                    text);
}

KD__PRIVATE void kd__st_blank(kd__st_file *f)
{
    while (f->c < f->end && kd__is_space(*f->c)) ++f->c;
}

/* Takes one character of punctuation, with blanks around it. */
KD__PRIVATE int kd__st_take(kd__st_file *f, char c)
{
    kd__st_blank(f);
    if (f->c == f->end || *f->c != c) return 0;
    ++f->c;
    kd__st_blank(f);
    return 1;
}

static const char kd__hex_digits[] = "0123456789abcdefABCDEF";

KD__PRIVATE int kd__hex4(const char *c, unsigned *value)
{
    int i;
    *value = 0;
    for (i = 0; i < 4; ++i) {
        const char *digit = c[i] ? strchr(kd__hex_digits, c[i]) : NULL;
        if (!digit) return 0;
        *value = *value << 4 | (unsigned)(digit - kd__hex_digits - (digit - kd__hex_digits < 16 ? 0 : 6));
    }
    return 1;
}

KD__PRIVATE char *kd__put_utf8(char *to, unsigned code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 63));
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    }
    return to;
}

/* A string, decoded where it stands and ended with a 0 in place of its closing quote or earlier. */
KD__PRIVATE char *kd__st_string(kd__st_file *f)
{
    char *start, *to;
    kd__st_blank(f);
    if (f->c == f->end || *f->c != '"') return NULL;
    start = to = ++f->c;
    while (f->c < f->end && *f->c != '"') {
        const unsigned char first = (unsigned char)*f->c;
        if (first < 0x20) return NULL;
        if (first == '\\') {
            static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
            const char *which;
            if (f->end - f->c < 2) return NULL;
            which = f->c[1] ? strchr(from, f->c[1]) : NULL;
            if (which) {
                *to++ = into[which - from];
                f->c += 2;
            } else {
                unsigned code, low;
                if (f->c[1] != 'u' || f->end - f->c < 6 || !kd__hex4(f->c + 2, &code) || code == 0) return NULL;
                f->c += 6;
                if (code >= 0xd800 && code < 0xdc00) { /* a surrogate must be followed by the other half */
                    if (f->end - f->c < 6 || f->c[0] != '\\' || f->c[1] != 'u' || !kd__hex4(f->c + 2, &low) ||
                        low < 0xdc00 || low > 0xdfff)
                        return NULL;
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                    f->c += 6;
                } else if (code >= 0xdc00 && code < 0xe000) {
                    return NULL;
                }
                to = kd__put_utf8(to, code);
            }
        } else {
            int length = kd__utf8_length(f->c, f->end);
            if (!length) return NULL;
            while (length--) *to++ = *f->c++;
        }
    }
    if (f->c == f->end) return NULL;
    ++f->c;
    *to = 0;
    return start;
}

KD__PRIVATE int kd__st_integer(kd__st_file *f, uint64_t *value)
{
    const char *start;
    kd__st_blank(f);
    start = f->c;
    *value = 0;
    for (; f->c < f->end && kd__is_digit(*f->c); ++f->c) {
        if (*value > (uint64_t)(INT64_MAX - 9) / 10) return 0;
        *value = *value * 10 + (uint64_t)(*f->c - '0');
    }
    return f->c > start && !(*start == '0' && f->c - start > 1);
}

/* Numbers in brackets, at most `room`; the count, or -1. */
KD__PRIVATE int kd__st_integers(kd__st_file *f, uint64_t *values, int room)
{
    int count = 0;
    if (!kd__st_take(f, '[')) return -1;
    if (kd__st_take(f, ']')) return 0;
    do {
        if (count == room || !kd__st_integer(f, &values[count++])) return -1;
    } while (kd__st_take(f, ','));
    return kd__st_take(f, ']') ? count : -1;
}

typedef struct kd__ftype {
    const char *name;
    int kind, size;
} kd__ftype;

KD__PRIVATE const kd__ftype *kd__dtype_find(const char *name)
{
    static const kd__ftype types[] = {{"F64", KD__FLOAT, 8},    {"I64", KD__SIGNED, 8},  {"U64", KD__UNSIGNED, 8},
                                      {"F32", KD__FLOAT, 4},    {"I32", KD__SIGNED, 4},  {"U32", KD__UNSIGNED, 4},
                                      {"F16", KD__FLOAT, 2},    {"BF16", KD__BFLOAT, 2}, {"I16", KD__SIGNED, 2},
                                      {"U16", KD__UNSIGNED, 2}, {"I8", KD__SIGNED, 1},   {"U8", KD__UNSIGNED, 1},
                                      {"BOOL", KD__UNSIGNED, 1}};
    int i;
    for (i = 0; i < KD__COUNT(types); ++i) {
        if (strcmp(types[i].name, name) == 0) return &types[i];
    }
    return NULL;
}

/* {"dtype": ..., "shape": ..., "data_offsets": ...} */
KD__PRIVATE kd_result kd__st_tensor(kd__st_file *f, char *name)
{
    kd__st_entry e;
    int seen = 0, i;
    void *list;
    memset(&e, 0, sizeof e);
    e.name = name;
    e.given = name;
    e.count = 1;
    if (!kd__st_take(f, '{')) return kd__st_fail(f, "tensor \"%.80s\" has no description", name);
    do {
        const char *key = kd__st_string(f);
        uint64_t numbers[8];
        if (!key || !kd__st_take(f, ':'))
            return kd__st_fail(f, "the description of tensor \"%.80s\" is broken", name);
        if (strcmp(key, "dtype") == 0 && !(seen & 1)) {
            const char *type = kd__st_string(f);
            const kd__ftype *dtype = type ? kd__dtype_find(type) : NULL;
            if (!dtype)
                return kd__st_fail(f, "tensor \"%.80s\" has the type \"%.20s\", which cannot be read", name,
                                   type ? type : "?");
            e.kind = dtype->kind;
            e.size = dtype->size;
            seen |= 1;
        } else if (strcmp(key, "shape") == 0 && !(seen & 2)) {
            e.rank = kd__st_integers(f, numbers, 8);
            if (e.rank < 0)
                return kd__st_fail(f, "the shape of tensor \"%.80s\" is broken or has more than 8 dimensions",
                                   name);
            for (i = 0; i < e.rank; ++i) {
                e.shape[i] = (int64_t)numbers[i];
                if (numbers[i] && e.count > INT64_MAX / 16 / (int64_t)numbers[i])
                    return kd__st_fail(f, "tensor \"%.80s\" is too large", name);
                e.count *= (int64_t)numbers[i];
            }
            seen |= 2;
        } else if (strcmp(key, "data_offsets") == 0 && !(seen & 4)) {
            if (kd__st_integers(f, numbers, 2) != 2)
                return kd__st_fail(f, "the data_offsets of tensor \"%.80s\" are broken", name);
            e.begin = numbers[0];
            e.end = numbers[1];
            seen |= 4;
        } else {
            return kd__st_fail(f, "the description of tensor \"%.80s\" has an unknown or repeated key \"%.40s\"",
                               name, key);
        }
    } while (kd__st_take(f, ','));
    if (!kd__st_take(f, '}') || seen != 7)
        return kd__st_fail(f, "the description of tensor \"%.80s\" is incomplete", name);
    if (e.begin > e.end || e.end > f->size - f->data || e.end - e.begin != (uint64_t)e.count * (uint64_t)e.size)
        return kd__st_fail(
            f, "tensor \"%.80s\" has %lld numbers of %d bytes, but its data_offsets are %llu and %llu of %llu",
            name, (long long)e.count, e.size, (unsigned long long)e.begin, (unsigned long long)e.end,
            (unsigned long long)(f->size - f->data));
    list = kd__grow(f->kd, f->entries, f->entry_count, &f->entry_capacity, sizeof e);
    if (!list) return KD_ERR_MEMORY;
    f->entries = (kd__st_entry *)list;
    f->entries[f->entry_count++] = e;
    return KD_OK;
}

KD__PRIVATE kd_result kd__st_metadata(kd__st_file *f)
{
    if (!kd__st_take(f, '{')) return kd__st_fail(f, "__metadata__ is no object");
    if (kd__st_take(f, '}')) return KD_OK;
    do {
        kd__st_pair p;
        void *list;
        p.key = kd__st_string(f);
        p.value = p.key && kd__st_take(f, ':') ? kd__st_string(f) : NULL;
        if (!p.value) return kd__st_fail(f, "__metadata__ must map strings to strings");
        list = kd__grow(f->kd, f->pairs, f->pair_count, &f->pair_capacity, sizeof p);
        if (!list) return KD_ERR_MEMORY;
        f->pairs = (kd__st_pair *)list;
        f->pairs[f->pair_count++] = p;
    } while (kd__st_take(f, ','));
    return kd__st_take(f, '}') ? KD_OK : kd__st_fail(f, "__metadata__ is not closed");
}

KD__PRIVATE int kd__st_by_name(const void *a, const void *b)
{
    return strcmp(((const kd__st_entry *)a)->name, ((const kd__st_entry *)b)->name);
}

KD__PRIVATE int kd__st_by_offset(const void *a, const void *b)
{
    const kd__st_entry *x = (const kd__st_entry *)a, *y = (const kd__st_entry *)b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

KD__PRIVATE int kd__st_by_key(const void *a, const void *b)
{
    return strcmp(((const kd__st_pair *)a)->key, ((const kd__st_pair *)b)->key);
}

/* No name twice, and data that follow each other without gap or overlap from the first byte to the last. */
KD__PRIVATE kd_result kd__st_layout(kd__st_file *f)
{
    uint64_t at = 0;
    int i;
    if (f->pair_count) qsort(f->pairs, (size_t)f->pair_count, sizeof *f->pairs, kd__st_by_key);
    for (i = 1; i < f->pair_count; ++i) {
        if (strcmp(f->pairs[i - 1].key, f->pairs[i].key) == 0)
            return kd__st_fail(f, "the metadata key \"%.80s\" is there twice", f->pairs[i].key);
    }
    if (f->entry_count) qsort(f->entries, (size_t)f->entry_count, sizeof *f->entries, kd__st_by_offset);
    for (i = 0; i < f->entry_count; ++i) {
        if (f->entries[i].begin != at)
            return kd__st_fail(f, "the data of tensor \"%.80s\" begin at %llu, expected %llu", f->entries[i].name,
                               (unsigned long long)f->entries[i].begin, (unsigned long long)at);
        at = f->entries[i].end;
    }
    if (at != f->size - f->data)
        return kd__st_fail(f, "%llu bytes of data belong to no tensor",
                           (unsigned long long)(f->size - f->data - at));
    if (f->entry_count) qsort(f->entries, (size_t)f->entry_count, sizeof *f->entries, kd__st_by_name);
    for (i = 1; i < f->entry_count; ++i) {
        if (strcmp(f->entries[i - 1].name, f->entries[i].name) == 0)
            return kd__st_fail(f, "tensor \"%.80s\" is there twice", f->entries[i].name);
    }
    return KD_OK;
}

KD__PRIVATE kd_result kd__st_header(kd__st_file *f)
{
    int has_metadata = 0;
    f->c = f->bytes + 8;
    f->end = f->bytes + f->data;
    if (f->end - f->c < 2 || *f->c != '{') return kd__st_fail(f, "its header does not begin with a brace");
    ++f->c;
    if (!kd__st_take(f, '}')) {
        do {
            char *name = kd__st_string(f);
            kd_result result;
            if (!name || !kd__st_take(f, ':'))
                return kd__st_fail(f, "its header is broken at byte %llu", (unsigned long long)(f->c - f->bytes));
            if (strcmp(name, "__metadata__") == 0) {
                if (has_metadata++) return kd__st_fail(f, "__metadata__ is there twice");
                result = kd__st_metadata(f);
            } else {
                result = kd__st_tensor(f, name);
            }
            if (result != KD_OK) return result;
        } while (kd__st_take(f, ','));
        if (!kd__st_take(f, '}'))
            return kd__st_fail(f, "its header is broken at byte %llu", (unsigned long long)(f->c - f->bytes));
    }
    if (f->c < f->end) return kd__st_fail(f, "something follows its header");
    return kd__st_layout(f);
}

KD__PRIVATE void kd__st_close(kd__st_file *f)
{
    kd__source_close(&f->source);
    kd__free(f->kd, f->entries);
    kd__free(f->kd, f->pairs);
    kd__free(f->kd, f->adopted);
    kd__free(f->kd, f->bytes);
}

/* From a source that was opened: the header, and with `whole` everything behind it. */
KD__PRIVATE kd_result kd__st_read(kd__st_file *f, int whole)
{
    unsigned char head[8] = {0};
    uint64_t length;
    size_t kept;
    kd_result result = KD_OK;
    f->kd = f->source.kd;
    f->where = f->source.where;
    f->path = f->source.path;
    f->size = f->source.size;
    f->whole = whole;
    if (f->size < 8) return kd__st_fail(f, "it has only %llu bytes", (unsigned long long)f->size);
    result = kd__source_read(&f->source, head, sizeof head);
    if (result != KD_OK) return result;
    length = kd__load_le(head, 8);
    if (length > 100000000u || length > f->size - 8)
        return kd__st_fail(f, "it claims a header of %llu bytes in a file of %llu", (unsigned long long)length,
                           (unsigned long long)f->size);
    f->data = 8 + (size_t)length;
    kept = whole ? f->size : f->data;
    f->bytes = KD__NEW(f->kd, char, kept + 1);
    if (!f->bytes) return KD_ERR_MEMORY;
    memcpy(f->bytes, head, sizeof head);
    result = kd__source_read(&f->source, f->bytes + 8, kept - 8);
    return result == KD_OK ? kd__st_header(f) : result;
}

KD__PRIVATE kd_result kd__st_open(kd__st_file *f, kd_ctx *kd, const char *where, const char *path, int whole)
{
    kd_result result;
    memset(f, 0, sizeof *f);
    f->kd = kd;
    result = kd__source_open(&f->source, kd, where, path);
    if (result == KD_OK) result = kd__st_read(f, whole);
    if (result == KD_OK && whole) kd__source_close(&f->source);
    if (result != KD_OK) kd__st_close(f);
    return result;
}

KD__PRIVATE const char *kd__st_value(const kd__st_file *f, const char *key)
{
    const kd__st_pair *found;
    kd__st_pair wanted;
    if (f->pair_count == 0) return NULL;
    wanted.key = (char *)(uintptr_t)key; /* only read */
    wanted.value = NULL;
    found = (const kd__st_pair *)bsearch(&wanted, f->pairs, (size_t)f->pair_count, sizeof wanted, kd__st_by_key);
    return found ? found->value : NULL;
}

KD__PRIVATE kd__st_entry *kd__st_find(const kd__st_file *f, const char *name)
{
    int low = 0, high = f->entry_count;
    while (low < high) {
        const int middle = low + (high - low) / 2, order = strcmp(f->entries[middle].name, name);
        if (order == 0) return &f->entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Of a file that is whole. */
KD__PRIVATE void kd__st_floats(const kd__st_file *f, const kd__st_entry *e, float *to)
{
    kd__convert((const unsigned char *)f->bytes + f->data + e->begin, e->kind, e->size, 0, e->count, to);
}

/* ---- safetensors: writing -------------------------------------------------------------------------------- */

/* A growing header. */
typedef struct kd__st_writer {
    kd_ctx *kd;
    char *text;
    size_t length, capacity;
    int failed;
    uint64_t offset;
} kd__st_writer;

KD__PRIVATE void kd__st_put(kd__st_writer *w, const char *bytes, size_t length)
{
    if (w->failed) return;
    if (w->length + length > w->capacity) {
        const size_t capacity = (w->length + length) * 2 + 256;
        char *bigger = KD__NEW(w->kd, char, capacity);
        if (!bigger) {
            w->failed = 1;
            return;
        }
        if (w->text) memcpy(bigger, w->text, w->length);
        kd__free(w->kd, w->text);
        w->text = bigger;
        w->capacity = capacity;
    }
    memcpy(w->text + w->length, bytes, length);
    w->length += length;
}

KD__PRIVATE void kd__st_text(kd__st_writer *w, const char *text) { kd__st_put(w, text, strlen(text)); }

/* In quotes. All text in a model is UTF-8. */
KD__PRIVATE void kd__st_quoted(kd__st_writer *w, const char *text)
{
    const char *c;
    kd__st_text(w, "\"");
    for (c = text; *c; ++c) {
        if ((unsigned char)*c < 0x20 || *c == '"' || *c == '\\') {
            char escape[8];
            kd__print(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*c);
            kd__st_text(w, escape);
        } else {
            kd__st_put(w, c, 1);
        }
    }
    kd__st_text(w, "\"");
}

KD__PRIVATE void kd__st_pair_put(kd__st_writer *w, int *first, const char *key, const char *value)
{
    if (!*first) kd__st_text(w, ",");
    *first = 0;
    kd__st_quoted(w, key);
    kd__st_text(w, ":");
    kd__st_quoted(w, value);
}

KD__PRIVATE void kd__st_tensor_put(kd__st_writer *w, const char *name, const char *dtype, int rank,
                                   const int64_t *shape, uint64_t bytes)
{
    char text[96];
    int i;
    kd__st_text(w, ",");
    kd__st_quoted(w, name);
    kd__print(text, sizeof text, ":{\"dtype\":\"%s\",\"shape\":[", dtype);
    kd__st_text(w, text);
    for (i = 0; i < rank; ++i) {
        kd__print(text, sizeof text, "%s%lld", i ? "," : "", (long long)shape[i]);
        kd__st_text(w, text);
    }
    kd__print(text, sizeof text, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)w->offset,
              (unsigned long long)(w->offset + bytes));
    kd__st_text(w, text);
    w->offset += bytes;
}

/* Length and header, padded with blanks so that the data begin at a multiple of 8. */
KD__PRIVATE void kd__st_save_header(kd__save *s, kd__st_writer *w)
{
    unsigned char length[8];
    while (!w->failed && w->length % 8) kd__st_put(w, " ", 1);
    if (w->failed) {
        s->result = KD_ERR_MEMORY;
        return;
    }
    kd__store_le(length, w->length, 8);
    kd__save_bytes(s, length, sizeof length);
    kd__save_bytes(s, w->text, w->length);
}

/* ---- models ---------------------------------------------------------------------------------------------- */

/* Everything in the file that matters, so that a flipped bit is found. */
KD__PRIVATE uint64_t kd__model_checksum(const kd_model *m)
{
    uint64_t hash = kd_model_hash(m);
    int i;
    if (m->state_count)
        hash ^= kd__mix((uint64_t)m->batches_seen); /* saved only where there are running statistics */
    for (i = 0; m->classes && i < kd_model_outputs(m); ++i)
        hash = kd__hash_text(kd__mix(hash ^ (uint64_t)i), m->classes[i]);
    for (i = 0; i < m->preprocessing_channels; ++i)
        hash = kd__mix(hash ^ ((uint64_t)kd__float_bits(m->mean[i]) << 32 | kd__float_bits(m->std[i])));
    return hash;
}

/* Numbers as text, separated by blanks; 9 digits bring a float back exactly. */
KD__PRIVATE void kd__floats_text(const float *x, int count, char *text, size_t size)
{
    kd__writer w;
    int i;
    w.text = text, w.size = size, w.length = 0;
    for (i = 0; i < count; ++i) kd__write(&w, "%s%s", i ? " " : "", kd__number((double)x[i], 9).chars);
}

KD__PRIVATE int kd__text_floats(const char *text, float *x, int room)
{
    int count = 0;
    while (*text) {
        const char *end;
        const double value = kd__parse_number(text, &end);
        if (end == text || count == room) return -1;
        x[count++] = (float)value;
        text = *end == ' ' ? end + 1 : end;
        if (*end && *end != ' ') return -1;
    }
    return count;
}

KD__PRIVATE void kd__model_metadata(const kd_model *m, kd__st_writer *w)
{
    char text[KD_MAX_CHANNELS * 20];
    int first = 1, i;
    kd__st_text(w, "{\"__metadata__\":{");
    kd__st_pair_put(w, &first, "format", "pt");
    kd__st_pair_put(w, &first, "kd.version", "1");
    kd__st_pair_put(w, &first, "kd.spec", m->spec);
    if (m->preprocessing_channels) {
        kd__floats_text(m->mean, m->preprocessing_channels, text, sizeof text);
        kd__st_pair_put(w, &first, "kd.mean", text);
        kd__floats_text(m->std, m->preprocessing_channels, text, sizeof text);
        kd__st_pair_put(w, &first, "kd.std", text);
    }
    for (i = 0; m->classes && i < kd_model_outputs(m); ++i) {
        char key[32];
        kd__print(key, sizeof key, "kd.class.%d", i);
        kd__st_pair_put(w, &first, key, m->classes[i]);
    }
    kd__print(text, sizeof text, "%016llx", (unsigned long long)kd__model_checksum(m));
    kd__st_pair_put(w, &first, "kd.checksum", text);
    kd__st_text(w, "}");
}

/* PyTorch keeps a step count beside the running statistics. The name of a node's, or NULL. */
KD__PRIVATE int kd__tracked_name(const kd__node *n, char *name, size_t size)
{
    if (n->param[2] < 0) return 0;
    kd__print(name, size, "%s.num_batches_tracked", n->name);
    return 1;
}

typedef struct kd__sorted {
    const char *name;
    int index, wide; /* wide numbers come first, as the format's own writer orders them */
} kd__sorted;

KD__PRIVATE int kd__sorted_by_name(const void *a, const void *b)
{
    const kd__sorted *x = (const kd__sorted *)a, *y = (const kd__sorted *)b;
    return x->wide != y->wide ? y->wide - x->wide : strcmp(x->name, y->name);
}

/* The header, and the tensors in their order. */
KD__PRIVATE kd_result kd__model_header(const kd_model *m, kd_dtype dtype, kd__st_writer *w, kd__sorted *order)
{
    char name[KD__MAX_NAME + 64];
    int i;
    for (i = 0; i < m->param_count; ++i) {
        order[i].name = m->params[i].name, order[i].index = i;
        order[i].wide = dtype == KD_DTYPE_F32 || !m->params[i].trained;
    }
    if (m->param_count) qsort(order, (size_t)m->param_count, sizeof *order, kd__sorted_by_name);
    kd__model_metadata(m, w);
    for (i = 0; i < m->node_count; ++i) {
        if (kd__tracked_name(&m->nodes[i], name, sizeof name)) kd__st_tensor_put(w, name, "I64", 0, NULL, 8);
    }
    for (i = 0; i < m->param_count; ++i) {
        const kd__param *p = &m->params[order[i].index];
        kd__st_tensor_put(w, p->name,
                          order[i].wide           ? "F32"
                          : dtype == KD_DTYPE_F16 ? "F16"
                                                  : "BF16",
                          p->rank, p->shape, (uint64_t)kd__param_count(p) * (order[i].wide ? 4 : 2));
    }
    kd__st_text(w, "}");
    return w->failed ? KD_ERR_MEMORY : KD_OK;
}

KD__PRIVATE void kd__model_write(const kd_model *m, kd_dtype dtype, kd__save *s, kd__st_writer *w,
                                 const kd__sorted *order)
{
    char name[KD__MAX_NAME + 64];
    unsigned char bytes[8];
    float plain[KD__PLAIN];
    int i, now;
    kd__st_save_header(s, w);
    kd__store_le(bytes, (uint64_t)m->batches_seen, 8);
    for (i = 0; i < m->node_count; ++i) {
        if (kd__tracked_name(&m->nodes[i], name, sizeof name)) kd__save_bytes(s, bytes, sizeof bytes);
    }
    for (i = 0; i < m->param_count; ++i) {
        const kd__param *p = &m->params[order[i].index];
        kd__walk walk = kd__walk_begin(m->kd->k, p);
        int64_t left;
        for (left = kd__param_count(p); left > 0; left -= now) {
            now = (int)KD__MIN(left, (int64_t)KD__PLAIN);
            kd__walk_copy(&walk, kd__param_stored(m, p), plain, now, 1);
            if (order[i].wide)
                kd__save_floats(s, plain, (size_t)now);
            else
                kd__save_halves(s, plain, (size_t)now, dtype);
        }
    }
}

/* Into a file where there is a path, else into the memory that `s` has. */
KD__PRIVATE kd_result kd__model_save_to(const kd_model *m, const char *path, kd_dtype dtype, const char *where,
                                        kd__save *s)
{
    kd__st_writer w;
    kd__sorted *order = KD__NEW(m->kd, kd__sorted, m->param_count + 1);
    kd_result result = KD_ERR_MEMORY;
    memset(&w, 0, sizeof w);
    w.kd = m->kd;
    if (order) result = kd__model_header(m, dtype, &w, order);
    if (result == KD_OK && !s->to_memory) result = kd__save_open(s, m->kd, where, path);
    if (result == KD_OK) {
        kd__model_write(m, dtype, s, &w, order);
        result = s->to_memory ? s->result : kd__save_close(s);
    }
    kd__free(m->kd, w.text);
    kd__free(m->kd, order);
    return result;
}

/* A copy whose trained numbers are rounded. */
KD__PRIVATE kd_result kd__model_rounded(const kd_model *m, kd_dtype dtype, kd_model **out)
{
    kd_result result = kd_model_clone(m, out);
    size_t i;
    for (i = 0; result == KD_OK && i < m->weight_count; ++i)
        (*out)->weights[i] = kd__round_to(dtype, m->weights[i]);
    return result;
}

KD__PRIVATE kd_result kd__model_check_finite(const kd_model *m, const kd_model *rounded, const char *where)
{
    int i;
    for (i = 0; i < m->param_count; ++i) {
        const kd__param *p = &m->params[i];
        if (!m->kd->k->all_finite((ptrdiff_t)p->size, kd__param_stored(m, p)))
            return kd__fail(m->kd, KD_ERR_NOT_FINITE,
                            "%s: tensor \"%.80s\" holds a NaN or an infinity; nothing was written", where, p->name);
        if (!m->kd->k->all_finite((ptrdiff_t)p->size, kd__param_stored(rounded, p)))
            return kd__fail(m->kd, KD_ERR_NOT_FINITE,
                            "%s: tensor \"%.80s\" holds a number beyond 65504, the largest of F16; nothing was "
                            "written",
                            where, p->name);
    }
    return KD_OK;
}

KD__PRIVATE kd_result kd__model_write_file(const kd_model *m, const char *path, kd_dtype dtype, const char *where,
                                           kd__save *s)
{
    kd_model *rounded = NULL;
    kd_result result = KD_OK;
    if ((unsigned)dtype > (unsigned)KD_DTYPE_BF16)
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: there is no kd_dtype %d", where, (int)dtype);
    if (dtype != KD_DTYPE_F32) result = kd__model_rounded(m, dtype, &rounded);
    if (result == KD_OK) result = kd__model_check_finite(m, rounded ? rounded : m, where);
    if (result == KD_OK) result = kd__model_save_to(rounded ? rounded : m, path, dtype, where, s);
    kd_model_destroy(rounded);
    return result;
}

KDDEF kd_result kd_model_save(const kd_model *m, const char *path)
{
    kd__save s;
    memset(&s, 0, sizeof s);
    return m ? kd__model_write_file(m, path, KD_DTYPE_F32, "kd_model_save", &s) : KD_ERR_ARGUMENT;
}

KDDEF kd_result kd_model_save_as(const kd_model *m, const char *path, kd_dtype dtype)
{
    kd__save s;
    memset(&s, 0, sizeof s);
    return m ? kd__model_write_file(m, path, dtype, "kd_model_save_as", &s) : KD_ERR_ARGUMENT;
}

KDDEF kd_result kd_model_save_memory(const kd_model *m, kd_dtype dtype, void *bytes, size_t size, size_t *needed)
{
    static const char where[] = "kd_model_save_memory";
    kd__save s;
    kd_result result;
    if (!m) return KD_ERR_ARGUMENT;
    if (!bytes && size) return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: bytes must not be NULL", where);
    memset(&s, 0, sizeof s);
    s.kd = m->kd;
    s.to_memory = 1;
    result = kd__model_write_file(m, NULL, dtype, where, &s); /* the length first: too little memory stays as is */
    if (needed && result == KD_OK) *needed = s.length;
    if (result != KD_OK || !bytes) return result;
    if (s.length > size)
        return kd__fail(m->kd, KD_ERR_ARGUMENT, "%s: the model takes %llu bytes, got room for %llu", where,
                        (unsigned long long)s.length, (unsigned long long)size);
    s.memory = (unsigned char *)bytes, s.size = size, s.length = 0;
    return kd__model_write_file(m, NULL, dtype, where, &s);
}

/* Whether a model has a tensor of this name, or may have one in a file. */
KD__PRIVATE int kd__model_has_tensor(const kd_model *m, const char *name)
{
    char tracked[KD__MAX_NAME + 64];
    int has = kd__param_find(m, name) >= 0, i;
    for (i = 0; i < m->node_count && !has; ++i)
        has = kd__tracked_name(&m->nodes[i], tracked, sizeof tracked) && strcmp(tracked, name) == 0;
    return has;
}

typedef struct kd__st_dims {
    char chars[8 * 24];
} kd__st_dims;

/* "(2, 4)" */
KD__PRIVATE kd__st_dims kd__st_shape(const int64_t *shape, int rank)
{
    kd__st_dims text;
    size_t at = 0;
    int i;
    for (i = 0; i < rank; ++i)
        at += (size_t)kd__print(text.chars + at, sizeof text.chars - at, "%s%lld", i ? ", " : "(",
                                (long long)shape[i]);
    kd__print(text.chars + at, sizeof text.chars - at, rank ? ")" : "a single number");
    return text;
}

/* The next `count` numbers of a tensor, from number `first` on. A file that is not whole is read in the order of
   its data. */
KD__PRIVATE kd_result kd__st_next(kd__st_file *f, const kd__st_entry *e, int64_t first, int count,
                                  unsigned char *bytes)
{
    const size_t from = (size_t)e->begin + (size_t)first * (size_t)e->size;
    const size_t size = (size_t)count * (size_t)e->size;
    if (!f->whole) return kd__source_read(&f->source, bytes, size);
    memcpy(bytes, f->bytes + f->data + from, size);
    return KD_OK;
}

#define KD__MOST_BATCHES 1000000000000000000u

/* A count of batches, which PyTorch keeps as I64, and .float() makes F32; below 1e18, to go on counting from. */
KD__PRIVATE kd_result kd__st_steps(kd__st_file *f, const kd__st_entry *e, int64_t *steps)
{
    unsigned char bytes[8] = {0};
    float number;
    kd_result result = kd__st_next(f, e, 0, 1, bytes);
    if (result != KD_OK) return result;
    if (e->kind == KD__SIGNED) {
        const uint64_t count = kd__load_le(bytes, 8);
        *steps = (int64_t)KD__MIN(count, (uint64_t)KD__MOST_BATCHES);
        if (count < KD__MOST_BATCHES) return KD_OK;
    } else {
        kd__convert(bytes, e->kind, e->size, 0, 1, &number);
        *steps = number >= 0 && number < (float)KD__MOST_BATCHES ? (int64_t)number : 0;
        if (number == (float)*steps) return KD_OK;
    }
    return kd__fail(f->kd, KD_ERR_FORMAT,
                    "%s: tensor \"%.80s\" of \"%.200s\" must be one whole number from 0 to below 1e18", f->where,
                    e->given, f->path);
}

/* ---- PyTorch's names ------------------------------------------------------------------------------------- */

enum { KD__ST_TRACKED = 24 }; /* more than ".num_batches_tracked" and its end take */

typedef struct kd__st_label {
    char chars[96];
} kd__st_label;

/* ' "0.weight"', or nothing where that is what the file calls it, too. */
KD__PRIVATE kd__st_label kd__st_own_name(const kd__st_entry *e)
{
    kd__st_label label;
    label.chars[0] = 0;
    if (strcmp(e->name, e->given) != 0) kd__print(label.chars, sizeof label.chars, " \"%.80s\"", e->name);
    return label;
}

KD__PRIVATE int kd__st_names_fit(const kd__st_file *f, const kd_model *m)
{
    int i;
    for (i = 0; i < m->param_count && kd__st_find(f, m->params[i].name); ++i) {}
    return i == m->param_count;
}

/* How many letters all names begin with together, up to a dot. */
KD__PRIVATE int kd__st_prefix(const kd__st_file *f)
{
    const char *a = f->entries[0].name, *b = f->entries[f->entry_count - 1].name; /* sorted: as far apart as any */
    int i, length = 0;
    for (i = 0; a[i] && a[i] == b[i]; ++i) {
        if (a[i] == '.') length = i + 1;
    }
    return length;
}

/* The words that networks in PyTorch name their parts with, and in which order siblings run: what is below a word
   of a smaller place comes first. Words of the same place follow each other by the number behind them, as conv1 and
   conv2. Convolutions, normalisations and dense layers are counted apart: conv1 may stand before bn1 or after it.
   torchvision, timm, mdistiller, RepDistiller, Hugging Face's ResNets, VGGs and plain nets are named in these. */
enum { KD__ST_STEM, KD__ST_UNIT, KD__ST_BODY, KD__ST_SHORTCUT, KD__ST_HEAD };
typedef struct kd__st_word {
    const char *word;
    int place;
} kd__st_word;
static const kd__st_word kd__st_words[] = {{"", KD__ST_UNIT}, /* the numbers of a Sequential */
                                           {"stem", KD__ST_STEM},
                                           {"embedder", KD__ST_STEM},
                                           {"conv", KD__ST_UNIT},
                                           {"convolution", KD__ST_UNIT},
                                           {"bn", KD__ST_UNIT},
                                           {"norm", KD__ST_UNIT},
                                           {"normalization", KD__ST_UNIT},
                                           {"b", KD__ST_BODY},
                                           {"backbone", KD__ST_BODY},
                                           {"block", KD__ST_BODY},
                                           {"blocks", KD__ST_BODY},
                                           {"body", KD__ST_BODY},
                                           {"encoder", KD__ST_BODY},
                                           {"features", KD__ST_BODY},
                                           {"group", KD__ST_BODY},
                                           {"layer", KD__ST_BODY},
                                           {"layers", KD__ST_BODY},
                                           {"linear_relu_stack", KD__ST_BODY},
                                           {"main", KD__ST_BODY},
                                           {"model", KD__ST_BODY},
                                           {"net", KD__ST_BODY},
                                           {"residual_function", KD__ST_BODY},
                                           {"s", KD__ST_BODY},
                                           {"stage", KD__ST_BODY},
                                           {"stages", KD__ST_BODY},
                                           {"downsample", KD__ST_SHORTCUT},
                                           {"shortcut", KD__ST_SHORTCUT},
                                           {"skip", KD__ST_SHORTCUT},
                                           {"classifier", KD__ST_HEAD},
                                           {"fc", KD__ST_HEAD},
                                           {"fcbn", KD__ST_HEAD},
                                           {"head", KD__ST_HEAD},
                                           {"linear", KD__ST_HEAD},
                                           {"output", KD__ST_HEAD},
                                           {"pre_logits", KD__ST_HEAD}};

/* One part of a name: "layer1" of "layer1.0.conv1". */
typedef struct kd__st_part {
    const kd__st_word *word; /* NULL: unknown */
    int number, length;      /* number: -1 if there is none; length: with the dot behind it */
} kd__st_part;

/* `room`: the letters up to the tensor's own word, "weight". */
KD__PRIVATE kd__st_part kd__st_part_of(const char *name, int room)
{
    kd__st_part part;
    int letters = 0, end, i;
    part.word = NULL;
    part.number = -1;
    for (end = 0; end < room && name[end] != '.'; ++end) {}
    while (letters < end && !kd__is_digit(name[letters])) ++letters;
    for (i = letters; i < end && kd__is_digit(name[i]) && i < letters + 8; ++i)
        part.number = KD__MAX(part.number, 0) * 10 + (name[i] - '0');
    for (i = 0; i < KD__COUNT(kd__st_words) && !part.word; ++i) {
        if (strlen(kd__st_words[i].word) == (size_t)letters &&
            memcmp(kd__st_words[i].word, name, (size_t)letters) == 0)
            part.word = &kd__st_words[i];
    }
    part.length = KD__MIN(end + 1, room);
    return part;
}

/* A tensor of the file, and the layer that it belongs to: all of the name but the last word. */
typedef struct kd__st_named {
    kd__st_entry *entry;
    const char *leaf;    /* "weight" */
    int layer;           /* letters of the layer's name, with the dot */
    const char *becomes; /* the model's name for it; NULL: not known yet */
} kd__st_named;

/* By what the words stand for, part by part; *ambiguous if nothing says which comes first. */
KD__PRIVATE int kd__st_compare(const kd__st_named *a, const kd__st_named *b, int *ambiguous)
{
    const char *x = a->entry->name, *y = b->entry->name;
    int i = 0, j = 0;
    while (i < a->layer && j < b->layer) {
        const kd__st_part p = kd__st_part_of(x + i, a->layer - i), q = kd__st_part_of(y + j, b->layer - j);
        const int order = strncmp(x + i, y + j, (size_t)KD__MIN(p.length, q.length));
        *ambiguous = p.word != q.word;
        if (p.word && q.word && p.word->place != q.word->place) {
            *ambiguous = 0;
            return p.word->place - q.word->place;
        }
        if (p.word != q.word) return p.word < q.word ? -1 : 1;
        if (p.number != q.number) return p.number < q.number ? -1 : 1;
        if (order != 0 || p.length != q.length) {
            *ambiguous = 1;
            return order ? order : p.length - q.length;
        }
        i += p.length, j += q.length;
    }
    *ambiguous = 1;
    return (a->layer - i) - (b->layer - j);
}

KD__PRIVATE int kd__st_by_part(const void *a, const void *b)
{
    const kd__st_named *x = (const kd__st_named *)a, *y = (const kd__st_named *)b;
    int ambiguous;
    const int order = kd__st_compare(x, y, &ambiguous);
    return order ? order : strcmp(x->leaf, y->leaf);
}

KD__PRIVATE int kd__st_same_layer(const kd__st_named *a, const kd__st_named *b)
{
    return a->layer == b->layer && memcmp(a->entry->name, b->entry->name, (size_t)a->layer) == 0;
}

/* Whether every part of the name is a known word, and one of them more than a number. */
KD__PRIVATE int kd__st_is_known(const kd__st_named *n, int *worded)
{
    int i = 0;
    while (i < n->layer) {
        const kd__st_part part = kd__st_part_of(n->entry->name + i, n->layer - i);
        if (!part.word) return 0;
        *worded |= *part.word->word != 0;
        i += part.length;
    }
    return 1;
}

KD__PRIVATE int kd__st_on_shortcut(const kd__st_named *n)
{
    int i = 0, found = 0;
    while (i < n->layer) {
        const kd__st_part part = kd__st_part_of(n->entry->name + i, n->layer - i);
        found |= part.word && part.word->place == KD__ST_SHORTCUT;
        i += part.length;
    }
    return found;
}

/* A file whose names are put in order, and the model whose layers they are dealt to: those with weights of rank 4
   are convolutions, of rank 1 normalisations, of rank 2 dense layers. */
typedef struct kd__st_match {
    kd__st_file *f;
    const kd_model *m;
    kd__st_named *named;
    int count;
    char *room; /* for the names of counts of batches */
} kd__st_match;

KD__PRIVATE const char *kd__st_kind(int rank)
{
    return rank == 4 ? "convolution" : rank == 2 ? "dense layer" : "normalisation";
}

/* From *first on, the next layer of the file whose weight has a rank: *first to *end. NULL: there is none. */
KD__PRIVATE const kd__st_named *kd__st_next_layer(const kd__st_match *t, int rank, int *first, int *end)
{
    const kd__st_named *weight = NULL;
    *end = *first;
    while (!weight && *end < t->count) {
        for (*first = *end; *end < t->count && kd__st_same_layer(&t->named[*first], &t->named[*end]); ++*end) {
            if (strcmp(t->named[*end].leaf, "weight") == 0 && t->named[*end].entry->rank == rank)
                weight = &t->named[*end];
        }
    }
    return weight;
}

/* The same among the nodes after number `at`: that of its node, or -1. */
KD__PRIVATE int kd__st_next_node(const kd_model *m, int rank, int at)
{
    for (++at; at < m->node_count; ++at) {
        const int weight = m->nodes[at].param[0];
        if (weight >= 0 && m->params[weight].rank == rank) return at;
    }
    return -1;
}

/* A shortcut that the library made: "4.shortcut", or "4.shortcut.0" and "4.shortcut.1". */
KD__PRIVATE int kd__node_on_shortcut(const kd__node *n)
{
    const char *part = n->shown ? NULL : strstr(n->name, "shortcut");
    return part && (!part[8] || part[8] == '.');
}

/* Whether a weight can be that of a node. */
KD__PRIVATE kd_result kd__st_check_pair(const kd__st_match *t, const kd__st_named *last, const kd__st_named *weight,
                                        const kd__node *n)
{
    const kd__st_entry *e = weight->entry;
    const kd__param *p = &t->m->params[n->param[0]];
    int ambiguous = 0, i, same = 1;
    if (last) (void)kd__st_compare(last, weight, &ambiguous);
    if (ambiguous)
        return kd__fail(
            t->f->kd, KD_ERR_FORMAT,
            "%s: nothing in the names \"%.80s\" %s and \"%.80s\" %s of \"%.200s\" says which comes first",
            t->f->where, last->entry->given, kd__st_shape(last->entry->shape, last->entry->rank).chars, e->given,
            kd__st_shape(e->shape, e->rank).chars, t->f->path);
    if (kd__st_on_shortcut(weight) != kd__node_on_shortcut(n))
        return kd__fail(
            t->f->kd, KD_ERR_SHAPE,
            "%s: tensor \"%.80s\" %s of \"%.200s\" would be the model's \"%.80s\" %s, but only one of them "
            "is on a shortcut; the model must have the same residuals",
            t->f->where, e->given, kd__st_shape(e->shape, e->rank).chars, t->f->path, p->name,
            kd__st_shape(p->shape, p->rank).chars);
    for (i = 0; i < p->rank; ++i) same = same && e->shape[i] == p->shape[i];
    if (same) return KD_OK;
    return kd__fail(t->f->kd, KD_ERR_SHAPE,
                    "%s: tensor \"%.80s\" of \"%.200s\" is %s, but the model's \"%.80s\" is %s", t->f->where,
                    e->given, t->f->path, kd__st_shape(e->shape, e->rank).chars, p->name,
                    kd__st_shape(p->shape, p->rank).chars);
}

/* The tensors of one layer are those of a node. */
KD__PRIVATE kd_result kd__st_take_layer(kd__st_match *t, int first, int end, const kd__node *n)
{
    int i, k;
    for (k = 0; k < 4; ++k) {
        const kd__param *p = n->param[k] < 0 ? NULL : &t->m->params[n->param[k]];
        for (i = first; p && i < end && strcmp(t->named[i].leaf, strrchr(p->name, '.') + 1) != 0; ++i) {}
        if (p && i == end)
            return kd__fail(t->f->kd, KD_ERR_FORMAT,
                            "%s: \"%.200s\" has no \"%.*s%s\", which would be the model's \"%.80s\" %s%s",
                            t->f->where, t->f->path, (int)KD__MIN(t->named[first].layer, 80),
                            t->named[first].entry->name, strrchr(p->name, '.') + 1, p->name,
                            kd__st_shape(p->shape, p->rank).chars,
                            k == 1 && n->param[2] < 0 ? "; a layer without it has bias=0" : "");
        if (p) t->named[i].becomes = p->name;
    }
    for (i = first; i < end; ++i) {
        if (n->param[2] < 0 || strcmp(t->named[i].leaf, "num_batches_tracked") != 0) continue;
        (void)kd__tracked_name(n, t->room, strlen(n->name) + KD__ST_TRACKED);
        t->named[i].becomes = t->room;
        t->room += strlen(t->room) + 1;
    }
    return KD_OK;
}

/* Deals the layers whose weights have a rank to those of the model, in order. */
KD__PRIVATE kd_result kd__st_deal(kd__st_match *t, int rank)
{
    const kd__st_named *last = NULL, *weight;
    int first = 0, end = 0, node = -1;
    for (;; last = weight, first = end) {
        kd_result result;
        weight = kd__st_next_layer(t, rank, &first, &end);
        node = kd__st_next_node(t->m, rank, node);
        if (!weight && node < 0) return KD_OK;
        if (!weight || node < 0) {
            const kd__param *p = weight ? NULL : &t->m->params[t->m->nodes[node].param[0]];
            return kd__fail(t->f->kd, KD_ERR_FORMAT,
                            "%s: \"%.200s\" has %s %ss than the model: \"%.80s\" %s is left over", t->f->where,
                            t->f->path, p ? "fewer" : "more", kd__st_kind(rank), p ? p->name : weight->entry->given,
                            p ? kd__st_shape(p->shape, p->rank).chars
                              : kd__st_shape(weight->entry->shape, weight->entry->rank).chars);
        }
        result = kd__st_check_pair(t, last, weight, &t->m->nodes[node]);
        if (result == KD_OK) result = kd__st_take_layer(t, first, end, &t->m->nodes[node]);
        if (result != KD_OK) return result;
    }
}

/* Puts the tensors in the order that their names stand for. 0 if there is a name that is none of those known. */
KD__PRIVATE int kd__st_order(kd__st_match *t)
{
    int i, worded = 0;
    t->count = t->f->entry_count;
    for (i = 0; i < t->count; ++i) {
        kd__st_named *n = &t->named[i];
        const char *dot;
        n->entry = &t->f->entries[i];
        n->becomes = NULL;
        dot = strrchr(n->entry->name, '.');
        n->leaf = dot ? dot + 1 : n->entry->name;
        n->layer = (int)KD__MIN(n->leaf - n->entry->name, INT_MAX);
        if (!kd__st_is_known(n, &worded)) return 0;
    }
    if (t->count) qsort(t->named, (size_t)t->count, sizeof *t->named, kd__st_by_part);
    return worded;
}

KD__PRIVATE kd_result kd__st_deal_all(kd__st_match *t)
{
    const char *first = NULL, *last = NULL;
    kd_result result = kd__st_deal(t, 4);
    int i;
    if (result == KD_OK) result = kd__st_deal(t, 1);
    if (result == KD_OK) result = kd__st_deal(t, 2);
    for (i = 0; i < t->count && result == KD_OK; ++i) {
        const kd__st_named *n = &t->named[i];
        if (!n->becomes)
            result = kd__fail(t->f->kd, KD_ERR_FORMAT,
                              "%s: \"%.200s\" has a tensor \"%.80s\" %s that the model does not have", t->f->where,
                              t->f->path, n->entry->given, kd__st_shape(n->entry->shape, n->entry->rank).chars);
        if (strcmp(n->leaf, "weight") != 0) continue;
        if (!first) first = n->entry->given;
        last = n->entry->given;
    }
    if (result != KD_OK) return result;
    for (i = 0; i < t->count; ++i) t->named[i].entry->name = (char *)(uintptr_t)t->named[i].becomes; /* only read */
    if (t->count) qsort(t->f->entries, (size_t)t->count, sizeof *t->f->entries, kd__st_by_name);
    kd__log(t->f->kd,
            "%s: the layers of \"%.200s\" are taken in the order of their names, from \"%.80s\" to \"%.80s\"",
            t->f->where, t->f->path, first ? first : "", last ? last : "");
    return KD_OK;
}

/* Weights that are not named as the model's are, but as networks in PyTorch name theirs: without a prefix that all
   share (module. of DataParallel, _orig_mod. of compile), or in the order that their names stand for. Where neither
   does, names are left as they are. */
KD__PRIVATE kd_result kd__st_adopt(kd__st_file *f, const kd_model *m)
{
    enum { MOST_PREFIXES = 8 };
    kd__st_match t;
    kd_result result = KD_ERR_MEMORY;
    size_t room = 1;
    int prefix, tries = 0, at, i;
    if (f->entry_count == 0 || kd__st_names_fit(f, m)) return KD_OK;
    prefix = kd__st_prefix(f);
    for (at = 1; at <= prefix && tries < MOST_PREFIXES; ++at) {
        if (f->entries[0].name[at - 1] != '.') continue;
        ++tries;
        for (i = 0; i < f->entry_count; ++i) f->entries[i].name += at;
        if (kd__st_names_fit(f, m)) {
            kd__log(f->kd, "%s: all names of \"%.200s\" begin with \"%.*s\", which is left out", f->where, f->path,
                    (int)KD__MIN(at, 80), f->entries[0].given);
            return KD_OK;
        }
        for (i = 0; i < f->entry_count; ++i) f->entries[i].name -= at;
    }
    for (i = 0; i < m->node_count; ++i)
        room += m->nodes[i].param[2] < 0 ? 0 : strlen(m->nodes[i].name) + KD__ST_TRACKED;
    memset(&t, 0, sizeof t);
    t.f = f;
    t.m = m;
    t.named = KD__NEW(f->kd, kd__st_named, f->entry_count);
    t.room = f->adopted = KD__NEW(f->kd, char, room);
    if (t.named && t.room) {
        for (i = 0; i < f->entry_count; ++i) f->entries[i].name += prefix;
        if (kd__st_order(&t)) {
            result = kd__st_deal_all(&t);
        } else {
            for (i = 0; i < f->entry_count; ++i) f->entries[i].name -= prefix;
            result = KD_OK;
        }
    }
    kd__free(f->kd, t.named);
    return result;
}

/* Whether file and model agree tensor by tensor. The model need not have its weights yet. */
KD__PRIVATE kd_result kd__model_match_tensors(kd__st_file *f, const kd_model *m)
{
    char tracked[KD__MAX_NAME + 64];
    int i, j, used = m->param_count;
    for (i = 0; i < m->param_count; ++i) {
        const kd__param *p = &m->params[i];
        kd__st_entry *e = kd__st_find(f, p->name);
        int same;
        if (!e) {
            for (j = 0; j < f->entry_count && kd__model_has_tensor(m, f->entries[j].name); ++j) {}
            return kd__fail(f->kd, KD_ERR_FORMAT, "%s: \"%.200s\" has no tensor \"%.80s\"%s%.80s%s", f->where,
                            f->path, p->name, j < f->entry_count ? ", but a \"" : "",
                            j < f->entry_count ? f->entries[j].given : "",
                            j < f->entry_count ? "\" that the model does not have" : "");
        }
        same = e->rank == p->rank;
        for (j = 0; same && j < p->rank; ++j) same = e->shape[j] == p->shape[j];
        if (!same)
            return kd__fail(f->kd, KD_ERR_SHAPE,
                            "%s: tensor \"%.80s\" of \"%.200s\" is %s, but the model's%s is %s", f->where, e->given,
                            f->path, kd__st_shape(e->shape, e->rank).chars, kd__st_own_name(e).chars,
                            kd__st_shape(p->shape, p->rank).chars);
        if (e->kind != KD__FLOAT && e->kind != KD__BFLOAT)
            return kd__fail(
                f->kd, KD_ERR_FORMAT,
                "%s: tensor \"%.80s\" of \"%.200s\" holds whole numbers; weights must be F32, F16, BF16 or F64",
                f->where, e->given, f->path);
        e->param = i;
    }
    for (i = 0; i < m->node_count; ++i) {
        kd__st_entry *e = kd__tracked_name(&m->nodes[i], tracked, sizeof tracked) ? kd__st_find(f, tracked) : NULL;
        if (!e) continue;
        if (e->count != 1 || e->kind == KD__UNSIGNED || (e->kind == KD__SIGNED && e->size != 8))
            return kd__fail(f->kd, KD_ERR_FORMAT, "%s: tensor \"%.80s\" of \"%.200s\" must be one whole number",
                            f->where, e->given, f->path);
        e->param = -1;
        ++used;
    }
    if (used == f->entry_count) return KD_OK;
    for (i = 0; i < f->entry_count - 1 && kd__model_has_tensor(m, f->entries[i].name); ++i) {}
    return kd__fail(f->kd, KD_ERR_FORMAT, "%s: \"%.200s\" has a tensor \"%.80s\" that the model does not have",
                    f->where, f->path, f->entries[i].given);
}

/* A few numbers at a time, so that loading takes no memory but the weights'. */
KD__PRIVATE kd_result kd__model_read_tensor(kd__st_file *f, kd_model *m, const kd__st_entry *e)
{
    const kd__param *p = &m->params[e->param];
    kd__walk w = kd__walk_begin(m->kd->k, p);
    unsigned char bytes[4 * KD__PLAIN];
    float plain[KD__PLAIN];
    int64_t done;
    int now;
    for (done = 0; done < e->count; done += now) {
        kd_result result;
        now = (int)KD__MIN(e->count - done, (int64_t)(sizeof bytes / (size_t)KD__MAX(e->size, 4)));
        result = kd__st_next(f, e, done, now, bytes);
        if (result != KD_OK) return result;
        kd__convert(bytes, e->kind, e->size, 0, now, plain);
        if (!m->kd->k->all_finite(now, plain))
            return kd__fail(f->kd, KD_ERR_NOT_FINITE,
                            "%s: tensor \"%.80s\" of \"%.200s\" holds a NaN or an infinity%s", f->where, e->given,
                            f->path, e->size == 8 ? ", or what is one as a float" : "");
        if (kd__param_negative(p, plain, (size_t)now))
            return kd__fail(f->kd, KD_ERR_FORMAT, "%s: tensor \"%.80s\" of \"%.200s\" holds a negative variance",
                            f->where, e->given, f->path);
        kd__walk_copy(&w, kd__param_stored(m, p), plain, now, 0);
    }
    return KD_OK;
}

/* Reads the tensors of a file that matches, in the order of its data. */
KD__PRIVATE kd_result kd__model_read_tensors(kd__st_file *f, kd_model *m)
{
    kd_result result = KD_OK;
    int i;
    if (f->entry_count) qsort(f->entries, (size_t)f->entry_count, sizeof *f->entries, kd__st_by_offset);
    for (i = 0; i < f->entry_count && result == KD_OK; ++i) {
        const kd__st_entry *e = &f->entries[i];
        result = e->param < 0 ? kd__st_steps(f, e, &m->batches_seen) : kd__model_read_tensor(f, m, e);
    }
    if (f->entry_count) qsort(f->entries, (size_t)f->entry_count, sizeof *f->entries, kd__st_by_name);
    return result;
}

KD__PRIVATE kd_result kd__model_read_classes(kd__st_file *f, kd_model *m)
{
    const int outputs = kd_model_outputs(m);
    const char **names;
    kd_result result = KD_OK;
    int i;
    if (!kd__st_value(f, "kd.class.0")) return KD_OK;
    if (outputs > f->pair_count) return kd__st_fail(f, "it does not name all of its %d classes", outputs);
    names = KD__NEW(f->kd, const char *, outputs);
    if (!names) return KD_ERR_MEMORY;
    for (i = 0; i < outputs && result == KD_OK; ++i) {
        char key[32];
        kd__print(key, sizeof key, "kd.class.%d", i);
        names[i] = kd__st_value(f, key);
        if (!names[i]) result = kd__st_fail(f, "the name of class %d is missing", i);
    }
    if (result == KD_OK) result = kd_model_set_classes(m, names, outputs);
    kd__free(f->kd, (void *)names);
    return result;
}

KD__PRIVATE kd_result kd__model_read_metadata(kd__st_file *f, kd_model *m)
{
    const char *mean = kd__st_value(f, "kd.mean"), *std = kd__st_value(f, "kd.std"),
               *checksum = kd__st_value(f, "kd.checksum");
    kd_result result = kd__model_read_classes(f, m);
    char wanted[24];
    if (result != KD_OK) return result;
    if (mean || std) {
        const int channels = mean && std ? kd__text_floats(mean, m->mean, KD_MAX_CHANNELS) : -1;
        if (channels < 1 || kd__text_floats(std, m->std, KD_MAX_CHANNELS) != channels ||
            kd__shape_count(&m->values[m->input].shape) % channels)
            return kd__st_fail(f, "kd.mean or kd.std is broken");
        result = kd__check_preprocessing(f->kd, f->where, channels, m->mean, m->std);
        if (result != KD_OK) return result;
        m->preprocessing_channels = channels;
    }
    kd__print(wanted, sizeof wanted, "%016llx", (unsigned long long)kd__model_checksum(m));
    if (checksum && strcmp(checksum, wanted) != 0)
        return kd__fail(
            f->kd, KD_ERR_FORMAT,
            "%s: \"%.200s\" is damaged: its contents do not match its checksum; if it was edited on purpose, "
            "remove kd.checksum from the metadata",
            f->where, f->path);
    return KD_OK;
}

KD__PRIVATE kd_result kd__model_read(kd__st_file *f, kd_model **out)
{
    const char *spec = kd__st_value(f, "kd.spec"), *version = kd__st_value(f, "kd.version");
    kd_model *m = NULL;
    kd_result result;
    if (!spec)
        return kd__fail(
            f->kd, KD_ERR_FORMAT,
            "%s: \"%.200s\" holds weights but no model line; build the model and use kd_model_load_weights",
            f->where, f->path);
    if (!version || strcmp(version, "1") != 0)
        return kd__fail(f->kd, KD_ERR_FORMAT, "%s: \"%.200s\" has format version \"%.20s\", this library reads 1",
                        f->where, f->path, version ? version : "none");
    result = kd__model_plan(f->kd, spec, &m);
    if (result == KD_OK) result = kd__model_match_tensors(f, m);
    if (result == KD_OK) result = kd__model_allocate(m);
    if (result == KD_OK) result = kd__model_read_tensors(f, m);
    if (result == KD_OK) result = kd__model_read_metadata(f, m);
    if (result == KD_OK)
        *out = m;
    else
        kd_model_destroy(m);
    return result;
}

KDDEF kd_result kd_model_load(kd_ctx *kd, const char *path, kd_model **out)
{
    static const char where[] = "kd_model_load";
    kd__st_file f;
    kd_result result;
    if (out) *out = NULL;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: out must not be NULL", where);
    result = kd__st_open(&f, kd, where, path, 0);
    if (result != KD_OK) return result;
    result = kd__model_read(&f, out);
    kd__st_close(&f);
    return result;
}

KDDEF kd_result kd_model_load_memory(kd_ctx *kd, const void *bytes, size_t size, kd_model **out)
{
    static const char where[] = "kd_model_load_memory";
    kd__st_file f;
    kd_result result;
    if (out) *out = NULL;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: out must not be NULL", where);
    memset(&f, 0, sizeof f);
    result = kd__source_memory(&f.source, kd, where, bytes, size);
    if (result != KD_OK) return result;
    result = kd__st_read(&f, 0);
    if (result == KD_OK) result = kd__model_read(&f, out);
    kd__st_close(&f);
    return result;
}

KDDEF kd_result kd_model_load_weights(kd_model *m, const char *path)
{
    kd__st_file f;
    kd_model *copy = NULL;
    kd_result result;
    if (!m) return KD_ERR_ARGUMENT;
    result = kd__st_open(&f, m->kd, "kd_model_load_weights", path, 1);
    if (result != KD_OK) return result;
    if (kd__st_value(&f, "kd.spec")) result = kd__model_read(&f, &copy); /* whether it is undamaged */
    kd_model_destroy(copy);
    if (result == KD_OK && !kd__st_value(&f, "kd.spec")) result = kd__st_adopt(&f, m);
    if (result == KD_OK) result = kd__model_match_tensors(&f, m);
    if (result == KD_OK) result = kd_model_clone(m, &copy); /* a bad file must leave the model as it was */
    if (result == KD_OK) {
        result = kd__model_read_tensors(&f, copy);
        if (result == KD_OK) {
            memcpy(m->weights, copy->weights, m->weight_count * sizeof(float));
            memcpy(m->state, copy->state, m->state_count * sizeof(float));
            m->batches_seen = copy->batches_seen;
        }
        kd_model_destroy(copy);
    }
    kd__st_close(&f);
    return result;
}

#ifndef KD_NO_TRAIN

/* ---- teacher caches -------------------------------------------------------------------------------------- */

/* The settings of a cache as text, whole numbers and floats by their bits. */
KD__PRIVATE void kd__cache_settings(const kd_cache *c, char *text, size_t size)
{
    const kd_augment *a = &c->augment;
    kd__print(text, size, "%016llx %016llx %016llx %x %x %x %08x %08x %08x %08x %08x",
              (unsigned long long)c->data_hash, (unsigned long long)c->teacher_hash, (unsigned long long)c->seed,
              (unsigned)a->shift, (unsigned)a->flip, (unsigned)a->cutout, (unsigned)kd__float_bits(a->rotate),
              (unsigned)kd__float_bits(a->brightness), (unsigned)kd__float_bits(a->contrast),
              (unsigned)kd__float_bits(a->saturation), (unsigned)kd__float_bits(a->mixup));
}

/* Only what kd__cache_settings would have written. */
KD__PRIVATE int kd__cache_parse(const char *text, kd_cache *c)
{
    uint64_t words[11];
    const char *at = text, *digit;
    char written[256];
    int i;
    for (i = 0; i < KD__COUNT(words); ++i, at += *at != 0) {
        words[i] = 0;
        for (; (digit = (const char *)memchr(kd__hex_digits, *at, 16)) != NULL; ++at)
            words[i] = words[i] << 4 | (uint64_t)(digit - kd__hex_digits);
    }
    c->data_hash = words[0], c->teacher_hash = words[1], c->seed = words[2];
    c->augment.shift = (int)(words[3] & INT_MAX), c->augment.flip = (int)(words[4] & INT_MAX),
    c->augment.cutout = (int)(words[5] & INT_MAX);
    c->augment.rotate = kd__bits_float((uint32_t)words[6]),
    c->augment.brightness = kd__bits_float((uint32_t)words[7]);
    c->augment.contrast = kd__bits_float((uint32_t)words[8]),
    c->augment.saturation = kd__bits_float((uint32_t)words[9]);
    c->augment.mixup = kd__bits_float((uint32_t)words[10]);
    kd__cache_settings(c, written, sizeof written);
    return strcmp(text, written) == 0;
}

KDDEF kd_result kd_cache_save(const kd_cache *c, const char *path)
{
    kd__st_writer w;
    kd__save s;
    char settings[256];
    int64_t shape[3];
    size_t count;
    int first = 1;
    if (!c) return KD_ERR_ARGUMENT;
    shape[0] = c->views, shape[1] = c->count, shape[2] = c->classes;
    count = (size_t)c->views * (size_t)c->count * (size_t)c->classes;
    memset(&w, 0, sizeof w);
    w.kd = c->kd;
    kd__cache_settings(c, settings, sizeof settings);
    kd__st_text(&w, "{\"__metadata__\":{");
    kd__st_pair_put(&w, &first, "kd.cache", settings);
    kd__st_text(&w, "}");
    kd__st_tensor_put(&w, "logits", "F32", 3, shape, (uint64_t)count * 4);
    kd__st_text(&w, "}");
    if (kd__save_open(&s, c->kd, "kd_cache_save", path) == KD_OK) {
        kd__st_save_header(&s, &w);
        kd__save_floats(&s, c->logits, count);
        (void)kd__save_close(&s);
    }
    kd__free(c->kd, w.text);
    return s.result;
}

KDDEF kd_result kd_cache_load(kd_ctx *kd, const char *path, kd_cache **out)
{
    static const char where[] = "kd_cache_load";
    const kd__st_entry *e;
    const char *settings;
    kd__st_file f;
    kd_cache *c = NULL;
    kd_result result;
    if (out) *out = NULL;
    if (!kd) return KD_ERR_ARGUMENT;
    if (!out) return kd__fail(kd, KD_ERR_ARGUMENT, "%s: out must not be NULL", where);
    result = kd__st_open(&f, kd, where, path, 1);
    if (result != KD_OK) return result;
    e = kd__st_find(&f, "logits");
    settings = kd__st_value(&f, "kd.cache");
    if (!e || !settings || e->rank != 3 || e->kind != KD__FLOAT || e->shape[0] < 1 || e->shape[1] < 1 ||
        e->shape[2] < 1 || e->shape[0] > 65536 || e->shape[1] > INT_MAX || e->shape[2] > 1 << 24) {
        result = kd__fail(kd, KD_ERR_FORMAT, "%s: \"%.300s\" holds no teacher outputs saved by kd_cache_save",
                          where, path);
    } else {
        c = kd__cache_new(kd, (int)e->shape[0], (int)e->shape[1], (int)e->shape[2]);
        if (!c) result = KD_ERR_MEMORY;
    }
    if (result == KD_OK) {
        kd__st_floats(&f, e, c->logits);
        if (!kd__cache_parse(settings, c)) result = kd__st_fail(&f, "the settings of the cache are broken");
        if (result == KD_OK)
            result = kd__check_finite(kd, where, "logits", c->logits, e->shape[0] * e->shape[1], e->shape[2]);
    }
    if (result == KD_OK)
        *out = c;
    else
        kd_cache_destroy(c);
    kd__st_close(&f);
    return result;
}

/* ---- checkpoints of training ----------------------------------------------------------------------------- */

KD__PRIVATE uint64_t kd__hash_double(uint64_t hash, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return kd__mix(hash ^ bits);
}

KD__PRIVATE uint64_t kd__hash_ranges(uint64_t hash, const kd__range *ranges, int count)
{
    int i;
    for (i = 0; i < count; ++i) {
        if (strcmp(ranges[i].name, "epochs") != 0) hash = kd__hash_double(hash, ranges[i].value);
    }
    return hash;
}

KD__PRIVATE uint64_t kd__hash_loss(uint64_t hash, const kd_loss_desc *loss)
{
    kd__range ranges[KD__MAX_RANGES];
    int i;
    hash = kd__hash_ranges(hash, ranges, kd__loss_ranges(loss, ranges));
    hash = kd__hash_text(hash, kd_loss_name(loss->kind));
    hash = kd__hash_double(hash, (double)loss->temperature);
    hash = kd__hash_double(hash, (double)loss->alpha);
    hash = kd__hash_double(hash, (double)loss->label_smoothing);
    for (i = 0; i < loss->temperature_count; ++i) hash = kd__hash_double(hash, (double)loss->temperatures[i]);
    return hash;
}

KD__PRIVATE uint64_t kd__hash_options(const kd_trainer *t)
{
    const kd_train_desc *d = &t->desc;
    const kd_augment *a = &d->augment;
    const double others[] = {(double)(d->shuffle != 0), (double)(d->nesterov != 0), (double)a->shift,
                             (double)a->flip,           (double)a->cutout,          (double)a->rotate,
                             (double)a->brightness,     (double)a->contrast,        (double)a->saturation,
                             (double)a->mixup,          (double)t->loss_count,      (double)t->features.count,
                             (double)t->teacher_count};
    const kd_attack_desc *attacks[2];
    kd__range ranges[KD__MAX_RANGES];
    uint64_t hash = kd__hash_ranges(kd__mix(d->seed), ranges, kd__train_ranges(d, ranges));
    int i;
    kd__trainer_attacks(t, attacks);
    for (i = 0; i < KD__COUNT(others); ++i) hash = kd__hash_double(hash, others[i]);
    for (i = 0; i < t->loss_count; ++i)
        hash = kd__hash_double(kd__hash_loss(hash, &t->losses[i]), t->loss_weights[i]);
    for (i = 0; i < 2; ++i) {
        if (attacks[i])
            hash = kd__hash_loss(kd__hash_ranges(hash, ranges, kd__attack_ranges(attacks[i], ranges)),
                                 &attacks[i]->loss);
    }
    for (i = 0; i < t->features.count; ++i) {
        const kd_feature_loss *f = &d->features[i];
        const char *tags[4];
        int j;
        tags[0] = f->student, tags[1] = f->teacher, tags[2] = f->student2, tags[3] = f->teacher2;
        hash = kd__hash_ranges(hash, ranges, kd__feature_ranges(f, ranges));
        hash = kd__hash_text(hash, kd_feature_name(f->kind));
        for (j = 0; j < KD__COUNT(tags); ++j) hash = kd__hash_text(hash, tags[j] ? tags[j] : "");
    }
    return hash;
}

KD__PRIVATE uint64_t kd__hash_data(const kd_data *data, int outputs)
{
    const size_t count = (size_t)data->count;
    uint64_t hash = kd_data_hash(data);
    size_t i;
    for (i = 0; data->labels && i < count; ++i) hash = kd__mix(hash ^ (uint32_t)data->labels[i]);
    for (i = 0; data->soft_labels && i < count * (size_t)data->classes; ++i)
        hash = kd__mix(hash ^ kd__float_bits(data->soft_labels[i]));
    for (i = 0; data->targets && i < count * (size_t)outputs; ++i)
        hash = kd__mix(hash ^ kd__float_bits(data->targets[i]));
    for (i = 0; data->task_labels && i < count * (size_t)data->task_count; ++i)
        hash = kd__mix(hash ^ (uint32_t)data->task_labels[i]);
    for (i = 0; data->side && i < count * (size_t)data->side_count; ++i)
        hash = kd__mix(hash ^ kd__float_bits(data->side[i]));
    return hash;
}

/* Of a teacher that is in training itself, only what stays. */
KD__PRIVATE uint64_t kd__hash_teacher(const kd_trainer *t)
{
    uint64_t hash = kd__mix((uint64_t)t->source);
    size_t i;
    int j;
    for (j = 0; j < t->teacher_count; ++j) {
        const kd_model *teacher = t->teachers[j];
        hash = kd__mix(hash ^ (teacher->trainers ? kd__hash_architecture(teacher) : kd_model_hash(teacher)));
        if (t->desc.teacher_weights) hash = kd__hash_double(hash, (double)t->desc.teacher_weights[j]);
    }
    if (t->desc.cache) {
        hash = kd__mix(hash ^ t->desc.cache->teacher_hash ^ kd__mix(t->desc.cache->seed));
        hash = kd__mix(hash ^ (uint64_t)t->desc.cache->views);
    }
    for (j = 0; j < 2; ++j) {
        const kd_data *data = j ? t->desc.validation_data : t->data;
        for (i = 0; data && data->teacher_logits && i < (size_t)data->count * (size_t)t->outputs; ++i)
            hash = kd__mix(hash ^ kd__float_bits(data->teacher_logits[i]));
    }
    return hash;
}

/* What must be the same in the training that is saved and in the one that goes on. */
enum { KD__SAME_MODEL, KD__SAME_DATA, KD__SAME_TEACHER, KD__SAME_OPTIONS, KD__SAME_COUNT };

KD__PRIVATE void kd__checkpoint_same(const kd_trainer *t, uint64_t *same)
{
    same[KD__SAME_MODEL] = kd__hash_architecture(t->m);
    same[KD__SAME_DATA] = kd__hash_data(t->data, t->outputs);
    if (t->desc.validation_data)
        same[KD__SAME_DATA] = kd__mix(same[KD__SAME_DATA] ^ kd__hash_data(t->desc.validation_data, t->outputs));
    if (t->desc.teacher_data)
        same[KD__SAME_DATA] = kd__mix(same[KD__SAME_DATA] ^ kd_data_hash(t->desc.teacher_data));
    same[KD__SAME_TEACHER] = kd__hash_teacher(t);
    same[KD__SAME_OPTIONS] = kd__hash_options(t);
}

enum { KD__POSITION_WORDS = (int)(sizeof(kd__position) / 8) };

/* One way through all tensors of a checkpoint, taken for several purposes. */
typedef enum kd__purpose { KD__LIST, KD__HASH, KD__WRITE, KD__MATCH, KD__READ } kd__purpose;

typedef struct kd__checkpoint {
    kd_trainer *t;
    kd__st_writer w;
    kd__save s;
    kd__st_file f;
    float *plain; /* room for the largest tensor */
    uint64_t hash;
    int tensors;
} kd__checkpoint;

/* A tensor of a file, into c->plain. */
KD__PRIVATE kd_result kd__checkpoint_match(kd__checkpoint *c, const char *name, int64_t count)
{
    const kd__st_entry *e = kd__st_find(&c->f, name);
    if (!e || e->kind != KD__FLOAT || e->size != 4 || e->count != count)
        return kd__st_fail(&c->f, "tensor \"%.80s\" is missing or not %lld numbers of type F32", name,
                           (long long)count);
    kd__st_floats(&c->f, e, c->plain);
    if (!c->t->kd->k->all_finite((ptrdiff_t)count, c->plain))
        return kd__fail(c->t->kd, KD_ERR_NOT_FINITE,
                        "%s: tensor \"%.80s\" of \"%.200s\" holds a NaN or an infinity", c->f.where, name,
                        c->f.path);
    return KD_OK;
}

/* param: how the numbers are laid out, NULL: as they are. */
KD__PRIVATE kd_result kd__checkpoint_tensor(kd__checkpoint *c, kd__purpose purpose, const char *name, float *values,
                                            const kd__param *param, int64_t count)
{
    const int out = purpose == KD__HASH || purpose == KD__WRITE;
    kd_result result = KD_OK;
    int64_t i;
    ++c->tensors;
    if (purpose == KD__LIST) {
        kd__st_tensor_put(&c->w, name, "F32", param ? param->rank : 1, param ? param->shape : &count,
                          (uint64_t)count * 4);
        return KD_OK;
    }
    if (!out) result = kd__checkpoint_match(c, name, count);
    if (result != KD_OK) return result;
    if (param && purpose != KD__MATCH)
        kd__param_copy(c->t->kd->k, param, values, c->plain, out);
    else if (out)
        memcpy(c->plain, values, (size_t)count * sizeof *values);
    else if (purpose == KD__READ)
        memcpy(values, c->plain, (size_t)count * sizeof *values);
    if (purpose == KD__WRITE) kd__save_floats(&c->s, c->plain, (size_t)count);
    for (i = 0; i < count && (purpose == KD__HASH || purpose == KD__MATCH); ++i)
        c->hash = kd__mix(c->hash ^ kd__float_bits(c->plain[i]));
    return KD_OK;
}

KD__PRIVATE kd_result kd__checkpoint_walk(kd__checkpoint *c, kd__purpose purpose)
{
    const kd_model *m = c->t->m;
    char name[KD__MAX_NAME + 128];
    kd__kept kept[KD__MAX_KEPT];
    const int count = kd__trainer_kept(c->t, kept);
    kd_result result = KD_OK;
    float *start;
    int i, j, pass;
    c->tensors = 0;
    for (pass = 0, start = NULL; pass < (c->t->start ? 2 : 1) && result == KD_OK; ++pass) {
        if (pass) start = c->t->start; /* the same arrays at the start of the epoch */
        for (i = 0; i < count && result == KD_OK; start = start ? start + kept[i].count : NULL, ++i) {
            float *values = start ? start : kept[i].values;
            const char *prefix = start ? "start." : "";
            if (kept[i].layout == KD__KEPT_FLAT) {
                kd__print(name, sizeof name, "%s%s", prefix, kept[i].name);
                result = kd__checkpoint_tensor(c, purpose, name, values, NULL, (int64_t)kept[i].count);
            }
            for (j = 0; j < m->param_count && kept[i].layout != KD__KEPT_FLAT && result == KD_OK; ++j) {
                const kd__param *p = &m->params[j];
                if (p->trained != (kept[i].layout == KD__KEPT_WEIGHTS)) continue;
                kd__print(name, sizeof name, "%s%s.%s", prefix, kept[i].name, p->name);
                result = kd__checkpoint_tensor(c, purpose, name, values + p->offset, p, kd__param_count(p));
            }
        }
    }
    return result;
}

KD__PRIVATE kd_result kd__checkpoint_open(kd__checkpoint *c, kd_trainer *t)
{
    kd__kept kept[KD__MAX_KEPT];
    size_t largest = 1;
    int i = kd__trainer_kept(t, kept);
    while (i--) largest = KD__MAX(largest, kept[i].count);
    memset(c, 0, sizeof *c);
    c->t = t;
    c->w.kd = t->kd;
    c->plain = KD__NEW(t->kd, float, largest);
    return c->plain ? KD_OK : KD_ERR_MEMORY;
}

/* The positions, now and at the start of the epoch, and their hash. */
KD__PRIVATE void kd__checkpoint_positions(kd__checkpoint *c, uint64_t *words)
{
    int i;
    memcpy(words, &c->t->at, sizeof c->t->at);
    memcpy(words + KD__POSITION_WORDS, &c->t->start_at, sizeof c->t->start_at);
    for (i = 0; i < 2 * KD__POSITION_WORDS; ++i) c->hash = kd__mix(c->hash ^ words[i]);
}

KD__PRIVATE kd_result kd__checkpoint_write(kd__checkpoint *c, const char *path)
{
    static const int64_t shape[2] = {2, KD__POSITION_WORDS};
    uint64_t same[KD__SAME_COUNT], words[2 * KD__POSITION_WORDS];
    char text[80];
    int first = 1, i;
    kd__checkpoint_positions(c, words);
    (void)kd__checkpoint_walk(c, KD__HASH);
    kd__checkpoint_same(c->t, same);
    kd__st_text(&c->w, "{\"__metadata__\":{");
    kd__st_pair_put(&c->w, &first, "kd.checkpoint", "1");
    kd__st_pair_put(&c->w, &first, "kd.spec", c->t->m->spec);
    kd__print(text, sizeof text, "%016llx %016llx %016llx %016llx", (unsigned long long)same[0],
              (unsigned long long)same[1], (unsigned long long)same[2], (unsigned long long)same[3]);
    kd__st_pair_put(&c->w, &first, "kd.training", text);
    kd__print(text, sizeof text, "%016llx", (unsigned long long)c->hash);
    kd__st_pair_put(&c->w, &first, "kd.checksum", text);
    kd__st_text(&c->w, "}");
    kd__st_tensor_put(&c->w, "position", "I64", 2, shape, sizeof words);
    (void)kd__checkpoint_walk(c, KD__LIST);
    kd__st_text(&c->w, "}");
    if (c->w.failed) return KD_ERR_MEMORY;
    if (kd__save_open(&c->s, c->t->kd, "kd_trainer_save", path) != KD_OK) return c->s.result;
    kd__st_save_header(&c->s, &c->w);
    for (i = 0; i < KD__COUNT(words); ++i) {
        unsigned char bytes[8];
        kd__store_le(bytes, words[i], 8);
        kd__save_bytes(&c->s, bytes, 8);
    }
    (void)kd__checkpoint_walk(c, KD__WRITE);
    return kd__save_close(&c->s);
}

KDDEF kd_result kd_trainer_save(const kd_trainer *t, const char *path)
{
    kd__checkpoint c;
    kd_result result;
    if (!t) return KD_ERR_ARGUMENT;
    if (t->failed)
        return kd__fail(t->kd, KD_ERR_ARGUMENT,
                        "kd_trainer_save: a step has failed; training cannot go on from there");
    result = kd__checkpoint_open(&c, (kd_trainer *)(uintptr_t)t); /* only read */
    if (result == KD_OK) result = kd__checkpoint_write(&c, path);
    kd__free(t->kd, c.w.text);
    kd__free(t->kd, c.plain);
    return result;
}

/* Whether a file is a checkpoint of this training. */
KD__PRIVATE kd_result kd__checkpoint_check_same(kd__checkpoint *c)
{
    static const char *const names[KD__SAME_COUNT] = {"another model line", "other data", "another teacher",
                                                      "other options"};
    const char *version = kd__st_value(&c->f, "kd.checkpoint"), *text = kd__st_value(&c->f, "kd.training");
    uint64_t same[KD__SAME_COUNT];
    char wanted[24];
    int i;
    if (!version || strcmp(version, "1") != 0 || !text || strlen(text) != 17 * KD__SAME_COUNT - 1)
        return kd__fail(c->t->kd, KD_ERR_FORMAT, "%s: \"%.300s\" holds no checkpoint saved by kd_trainer_save",
                        c->f.where, c->f.path);
    kd__checkpoint_same(c->t, same);
    for (i = 0; i < KD__SAME_COUNT; ++i, text += 17) {
        kd__print(wanted, sizeof wanted, "%016llx", (unsigned long long)same[i]);
        if (memcmp(text, wanted, 16) != 0)
            return kd__fail(c->t->kd, KD_ERR_DATA, "%s: \"%.200s\" belongs to a training with %s", c->f.where,
                            c->f.path, names[i]);
    }
    return KD_OK;
}

KD__PRIVATE int kd__position_sound(const kd_trainer *t, const kd__position *at)
{
    return at->epoch >= 0 && at->epoch <= t->desc.epochs && at->batch >= 0 && at->batch <= t->batches &&
           at->step >= 0 && at->images >= 0 && at->labelled >= 0 && at->correct >= 0 && at->gathered_batches >= 0 &&
           at->gathered_batches < t->desc.accumulate && at->epochs_without_gain >= 0 && at->seen >= 0 &&
           at->seen < 2 * (int64_t)KD__MOST_BATCHES && at->rollbacks >= 0 && at->rate > 0 && at->rate <= 1 &&
           kd__is_finite(at->loss) && kd__is_finite(at->best);
}

KD__PRIVATE kd_result kd__checkpoint_read(kd__checkpoint *c)
{
    kd_trainer *t = c->t;
    const kd__st_entry *e = kd__st_find(&c->f, "position");
    const char *checksum = kd__st_value(&c->f, "kd.checksum");
    uint64_t words[2 * KD__POSITION_WORDS];
    kd__position at[2];
    char wanted[24];
    kd_result result = kd__checkpoint_check_same(c);
    int i;
    if (result != KD_OK) return result;
    if (!e || e->kind != KD__SIGNED || e->size != 8 || e->count != KD__COUNT(words))
        return kd__st_fail(&c->f, "its position is missing or broken");
    for (i = 0; i < KD__COUNT(words); ++i) {
        words[i] = kd__load_le((const unsigned char *)c->f.bytes + c->f.data + e->begin + 8 * i, 8);
        c->hash = kd__mix(c->hash ^ words[i]);
    }
    memcpy(at, words, sizeof at);
    result = kd__checkpoint_walk(c, KD__MATCH);
    if (result != KD_OK) return result;
    kd__print(wanted, sizeof wanted, "%016llx", (unsigned long long)c->hash);
    if (!checksum || strcmp(checksum, wanted) != 0)
        return kd__st_fail(&c->f, "its contents do not match its checksum");
    if (c->tensors + 1 != c->f.entry_count) return kd__st_fail(&c->f, "it has tensors that no checkpoint has");
    if (at[0].epoch > t->desc.epochs)
        return kd__fail(t->kd, KD_ERR_ARGUMENT, "%s: \"%.200s\" has trained for %lld epochs already, of %d wanted",
                        c->f.where, c->f.path, (long long)at[0].epoch, t->desc.epochs);
    if (!kd__position_sound(t, &at[0]) || (t->start && at[0].batch > 0 && !kd__position_sound(t, &at[1])))
        return kd__st_fail(&c->f, "its position is out of range");
    result = kd__checkpoint_walk(c, KD__READ); /* has been matched: cannot fail */
    t->at = at[0];
    t->start_at = at[1];
    kd__trainer_settle(t);
    kd__trainer_order(t, t->at.batch > 0 ? t->at.epoch + 1 : t->at.epoch);
    if (t->at.images > 0) kd__record_preprocessing(t->m, t->data->channels, t->data->mean, t->data->std);
    t->stopped = t->failed = 0;
    return result;
}

KDDEF kd_result kd_trainer_load(kd_trainer *t, const char *path)
{
    kd__checkpoint c;
    kd_result result;
    if (!t) return KD_ERR_ARGUMENT;
    result = kd__checkpoint_open(&c, t);
    if (result == KD_OK) result = kd__st_open(&c.f, t->kd, "kd_trainer_load", path, 1);
    if (result == KD_OK) {
        result = kd__checkpoint_read(&c);
        kd__st_close(&c.f);
    }
    kd__free(t->kd, c.plain);
    return result;
}
#endif /* KD_NO_TRAIN */

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#ifdef KD__FLOAT_CONTROL
#pragma float_control(pop)
#undef KD__FLOAT_CONTROL
#endif
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif /* KD_IMPLEMENTATION */

#else               /* KD__TEMPLATE: from here on, compiled once per instruction set */

/* ============================================================================================================
   >>vector    a few vector operations per instruction set
   uses: dispatch
   kd__v a vector of KD__W floats, kd__vi of 32-bit integers, kd__vm a mask from a comparison.
   max(a, b) and min(a, b) give b where either is a NaN, on every instruction set. Functions ending in _n take a
   count of 1 to KD__W lanes; lanes beyond it load as 0. to_int rounds to the nearest integer, ties to even.
   down(x, half) brings the lanes from half on to lane 0 on. kd__d is a vector of KD__DW doubles.
   ============================================================================================================ */
#if KD__ISA_ID == 3 /* AVX-512 F, VL, BW, DQ */
#define KD__W 16
#define KD__PANEL_VECTORS 2
#define KD__TILE_ROWS 14
#define KD__TILE_ROWS_1 14
#define KD__TILE_ROWS_WIDE 9
#define kd__v __m512
#define kd__vi __m512i
#define kd__vm __mmask16
#define kd__v_mask_n(n) ((__mmask16)((1u << (n)) - 1u))
#define kd__v_load(p) _mm512_loadu_ps(p)
#define kd__v_load_n(p, n) _mm512_maskz_loadu_ps(kd__v_mask_n(n), p)
#define kd__v_store(p, x) _mm512_storeu_ps(p, x)
#define kd__v_store_n(p, x, n) _mm512_mask_storeu_ps(p, kd__v_mask_n(n), x)
#define kd__v_set(s) _mm512_set1_ps(s)
#define kd__v_add(a, b) _mm512_add_ps(a, b)
#define kd__v_sub(a, b) _mm512_sub_ps(a, b)
#define kd__v_mul(a, b) _mm512_mul_ps(a, b)
#define kd__v_div(a, b) _mm512_div_ps(a, b)
#define kd__v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define kd__v_max(a, b) _mm512_max_ps(a, b)
#define kd__v_min(a, b) _mm512_min_ps(a, b)
#define kd__v_sqrt(a) _mm512_sqrt_ps(a)
#define kd__v_lt(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define kd__v_eq(a, b) _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)
#define kd__v_select(m, a, b) _mm512_mask_blend_ps(m, b, a)
#define kd__v_bits(a) _mm512_castps_si512(a)
#define kd__vi_float(a) _mm512_castsi512_ps(a)
#define kd__v_to_int(a) _mm512_cvtps_epi32(a)
#define kd__vi_to_float(a) _mm512_cvtepi32_ps(a)
#define kd__vi_set(s) _mm512_set1_epi32(s)
#define kd__vi_add(a, b) _mm512_add_epi32(a, b)
#define kd__vi_sub(a, b) _mm512_sub_epi32(a, b)
#define kd__vi_mul(a, b) _mm512_mullo_epi32(a, b)
#define kd__vi_and(a, b) _mm512_and_si512(a, b)
#define kd__vi_or(a, b) _mm512_or_si512(a, b)
#define kd__vi_xor(a, b) _mm512_xor_si512(a, b)
#define kd__vi_shl(a, n) _mm512_slli_epi32(a, n)
#define kd__vi_shr(a, n) _mm512_srli_epi32(a, n)
#define kd__vi_sar(a, n) _mm512_srai_epi32(a, n)
#define kd__vi_iota() _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define kd__v_load_bytes(p)                                                                                        \
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))

KD__INLINE __m512 KD__FN(down)(__m512 x, int half)
{
    switch (half) {
    case 8: return _mm512_shuffle_f32x4(x, x, 0xee);
    case 4: return _mm512_shuffle_f32x4(x, x, 0x01);
    case 2: return _mm512_shuffle_ps(x, x, 0xee);
    default: return _mm512_shuffle_ps(x, x, 0x55);
    }
}
#define kd__v_first(x) _mm512_cvtss_f32(x)

#define KD__DW 8
#define KD__PLANES_OUTS 8
#define KD__PLANES_VECTORS 3
#define KD__LEARN_COLUMNS 9
#define kd__d __m512d
#define kd__d_load(p) _mm512_loadu_pd(p)
#define kd__d_load_n(p, n) _mm512_maskz_loadu_pd((__mmask8)((1u << (n)) - 1u), p)
#define kd__d_store(p, x) _mm512_storeu_pd(p, x)
#define kd__d_store_n(p, x, n) _mm512_mask_storeu_pd(p, (__mmask8)((1u << (n)) - 1u), x)
#define kd__d_set(s) _mm512_set1_pd(s)
#define kd__d_fma(a, b, c) _mm512_fmadd_pd(a, b, c)

#elif KD__ISA_ID == 2 /* AVX2 and FMA */
#define KD__W 8
#define KD__PANEL_VECTORS 2
#define KD__TILE_ROWS 6
#define KD__TILE_ROWS_1 12
#define kd__v __m256
#define kd__vi __m256i
#define kd__vm __m256
static const int32_t KD__FN(lane_masks)[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
#define kd__v_mask_n(n) _mm256_loadu_si256((const __m256i *)(const void *)(KD__FN(lane_masks) + 8 - (n)))
#define kd__v_load(p) _mm256_loadu_ps(p)
#define kd__v_load_n(p, n) _mm256_maskload_ps(p, kd__v_mask_n(n))
#define kd__v_store(p, x) _mm256_storeu_ps(p, x)
#define kd__v_store_n(p, x, n) _mm256_maskstore_ps(p, kd__v_mask_n(n), x)
#define kd__v_set(s) _mm256_set1_ps(s)
#define kd__v_add(a, b) _mm256_add_ps(a, b)
#define kd__v_sub(a, b) _mm256_sub_ps(a, b)
#define kd__v_mul(a, b) _mm256_mul_ps(a, b)
#define kd__v_div(a, b) _mm256_div_ps(a, b)
#define kd__v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define kd__v_max(a, b) _mm256_max_ps(a, b)
#define kd__v_min(a, b) _mm256_min_ps(a, b)
#define kd__v_sqrt(a) _mm256_sqrt_ps(a)
#define kd__v_lt(a, b) _mm256_cmp_ps(a, b, _CMP_LT_OQ)
#define kd__v_eq(a, b) _mm256_cmp_ps(a, b, _CMP_EQ_OQ)
#define kd__v_select(m, a, b) _mm256_blendv_ps(b, a, m)
#define kd__v_bits(a) _mm256_castps_si256(a)
#define kd__vi_float(a) _mm256_castsi256_ps(a)
#define kd__v_to_int(a) _mm256_cvtps_epi32(a)
#define kd__vi_to_float(a) _mm256_cvtepi32_ps(a)
#define kd__vi_set(s) _mm256_set1_epi32(s)
#define kd__vi_add(a, b) _mm256_add_epi32(a, b)
#define kd__vi_sub(a, b) _mm256_sub_epi32(a, b)
#define kd__vi_mul(a, b) _mm256_mullo_epi32(a, b)
#define kd__vi_and(a, b) _mm256_and_si256(a, b)
#define kd__vi_or(a, b) _mm256_or_si256(a, b)
#define kd__vi_xor(a, b) _mm256_xor_si256(a, b)
#define kd__vi_shl(a, n) _mm256_slli_epi32(a, n)
#define kd__vi_shr(a, n) _mm256_srli_epi32(a, n)
#define kd__vi_sar(a, n) _mm256_srai_epi32(a, n)
#define kd__vi_iota() _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)
#define kd__v_load_bytes(p)                                                                                        \
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))

KD__INLINE __m256 KD__FN(down)(__m256 x, int half)
{
    switch (half) {
    case 4: return _mm256_permute2f128_ps(x, x, 0x01);
    case 2: return _mm256_shuffle_ps(x, x, 0xee);
    default: return _mm256_shuffle_ps(x, x, 0x55);
    }
}
#define kd__v_first(x) _mm256_cvtss_f32(x)

#define KD__DW 4
#define KD__PLANES_OUTS 4
#define KD__PLANES_VECTORS 3
#define KD__LEARN_COLUMNS 2
#define kd__d __m256d
static const int64_t KD__FN(wide_masks)[8] = {-1, -1, -1, -1, 0, 0, 0, 0};
#define kd__d_mask_n(n) _mm256_loadu_si256((const __m256i *)(const void *)(KD__FN(wide_masks) + 4 - (n)))
#define kd__d_load(p) _mm256_loadu_pd(p)
#define kd__d_load_n(p, n) _mm256_maskload_pd(p, kd__d_mask_n(n))
#define kd__d_store(p, x) _mm256_storeu_pd(p, x)
#define kd__d_store_n(p, x, n) _mm256_maskstore_pd(p, kd__d_mask_n(n), x)
#define kd__d_set(s) _mm256_set1_pd(s)
#define kd__d_fma(a, b, c) _mm256_fmadd_pd(a, b, c)

#elif KD__ISA_ID == 4 /* NEON, 64-bit Arm */
#define KD__W 4
#define KD__PANEL_VECTORS 3
#define KD__TILE_ROWS 8
#define KD__TILE_ROWS_1 8
#define kd__v float32x4_t
#define kd__vi int32x4_t
#define kd__vm uint32x4_t
KD__INLINE float32x4_t KD__FN(load_n)(const float *p, int n)
{
    float lanes[4] = {0, 0, 0, 0};
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vld1q_f32(lanes);
}
KD__INLINE void KD__FN(store_n)(float *p, float32x4_t x, int n)
{
    float lanes[4];
    vst1q_f32(lanes, x);
    memcpy(p, lanes, (size_t)n * sizeof *p);
}
KD__INLINE float32x4_t KD__FN(load_bytes)(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, 4);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8((uint64_t)four)))));
}
KD__INLINE int32x4_t KD__FN(iota)(void)
{
    const int32_t lanes[4] = {0, 1, 2, 3};
    return vld1q_s32(lanes);
}
#define kd__v_load(p) vld1q_f32(p)
#define kd__v_load_n(p, n) KD__FN(load_n)(p, n)
#define kd__v_store(p, x) vst1q_f32(p, x)
#define kd__v_store_n(p, x, n) KD__FN(store_n)(p, x, n)
#define kd__v_set(s) vdupq_n_f32(s)
#define kd__v_add(a, b) vaddq_f32(a, b)
#define kd__v_sub(a, b) vsubq_f32(a, b)
#define kd__v_mul(a, b) vmulq_f32(a, b)
#define kd__v_div(a, b) vdivq_f32(a, b)
#define kd__v_fma(a, b, c) vfmaq_f32(c, a, b)
#define kd__v_max(a, b) vbslq_f32(vcgtq_f32(a, b), a, b)
#define kd__v_min(a, b) vbslq_f32(vcltq_f32(a, b), a, b)
#define kd__v_sqrt(a) vsqrtq_f32(a)
#define kd__v_lt(a, b) vcltq_f32(a, b)
#define kd__v_eq(a, b) vceqq_f32(a, b)
#define kd__v_select(m, a, b) vbslq_f32(m, a, b)
#define kd__v_bits(a) vreinterpretq_s32_f32(a)
#define kd__vi_float(a) vreinterpretq_f32_s32(a)
#define kd__v_to_int(a) vcvtnq_s32_f32(a)
#define kd__vi_to_float(a) vcvtq_f32_s32(a)
#define kd__vi_set(s) vdupq_n_s32(s)
#define kd__vi_add(a, b) vaddq_s32(a, b)
#define kd__vi_sub(a, b) vsubq_s32(a, b)
#define kd__vi_mul(a, b) vmulq_s32(a, b)
#define kd__vi_and(a, b) vandq_s32(a, b)
#define kd__vi_or(a, b) vorrq_s32(a, b)
#define kd__vi_xor(a, b) veorq_s32(a, b)
#define kd__vi_shl(a, n) vshlq_n_s32(a, n)
#define kd__vi_shr(a, n) vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), n))
#define kd__vi_sar(a, n) vshrq_n_s32(a, n)
#define kd__vi_iota() KD__FN(iota)()
#define kd__v_load_bytes(p) KD__FN(load_bytes)(p)

KD__INLINE float32x4_t KD__FN(down)(float32x4_t x, int half)
{
    return half == 2 ? vextq_f32(x, x, 2) : vextq_f32(x, x, 1);
}
#define kd__v_first(x) vgetq_lane_f32(x, 0)

#define KD__DW 2
#define KD__PLANES_OUTS 8
#define KD__PLANES_VECTORS 3
#define KD__LEARN_COLUMNS 2
#define kd__d float64x2_t
#define kd__d_load(p) vld1q_f64(p)
#define kd__d_load_n(p, n) ((n) == 2 ? vld1q_f64(p) : vsetq_lane_f64(*(p), vdupq_n_f64(0), 0))
#define kd__d_store(p, x) vst1q_f64(p, x)
#define kd__d_store_n(p, x, n) ((n) == 2 ? vst1q_f64(p, x) : vst1q_lane_f64(p, x, 0))
#define kd__d_set(s) vdupq_n_f64(s)
#define kd__d_fma(a, b, c) vfmaq_f64(c, a, b)

#else /* portable C: the reference, and what runs on any other machine */
#define KD__W 1
#define KD__PANEL_VECTORS 4
#define KD__TILE_ROWS 4
#define KD__TILE_ROWS_1 4
#define kd__v float
#define kd__vi int32_t
#define kd__vm int
KD__INLINE int32_t KD__FN(bits)(float x)
{
    int32_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}
KD__INLINE float KD__FN(float_of)(int32_t i)
{
    float x;
    memcpy(&x, &i, sizeof x);
    return x;
}
/* Adding and taking away 1.5 * 2^23 leaves no room for a fraction; larger numbers have none. */
KD__INLINE float KD__FN(round_even)(float x)
{
    const volatile float big = 12582912.0f;
    float sum = x + big;
    if (!(x > -4194304.0f && x < 4194304.0f)) return x;
    return sum - big;
}
KD__INLINE int32_t KD__FN(to_int)(float x)
{
    const float r = KD__FN(round_even)(x);
    return r > -2147483648.0f && r < 2147483648.0f ? (int32_t)r : INT32_MIN;
}
#define kd__v_load(p) (*(p))
#define kd__v_load_n(p, n) ((void)(n), *(p))
#define kd__v_store(p, x) ((void)(*(p) = (x)))
#define kd__v_store_n(p, x, n) ((void)(n), (void)(*(p) = (x)))
#define kd__v_set(s) ((float)(s))
#define kd__v_add(a, b) ((a) + (b))
#define kd__v_sub(a, b) ((a) - (b))
#define kd__v_mul(a, b) ((a) * (b))
#define kd__v_div(a, b) ((a) / (b))
#define kd__v_fma(a, b, c) ((a) * (b) + (c))
#define kd__v_max(a, b) ((a) > (b) ? (a) : (b))
#define kd__v_min(a, b) ((a) < (b) ? (a) : (b))
#define kd__v_sqrt(a) sqrtf(a)
#define kd__v_lt(a, b) ((a) < (b))
#define kd__v_eq(a, b) ((a) == (b))
#define kd__v_select(m, a, b) ((m) ? (a) : (b))
#define kd__v_bits(a) KD__FN(bits)(a)
#define kd__vi_float(a) KD__FN(float_of)(a)
#define kd__v_to_int(a) KD__FN(to_int)(a)
#define kd__vi_to_float(a) ((float)(a))
#define kd__vi_set(s) ((int32_t)(s))
#define kd__vi_add(a, b) ((int32_t)((uint32_t)(a) + (uint32_t)(b)))
#define kd__vi_sub(a, b) ((int32_t)((uint32_t)(a) - (uint32_t)(b)))
#define kd__vi_mul(a, b) ((int32_t)((uint32_t)(a) * (uint32_t)(b)))
#define kd__vi_and(a, b) ((a) & (b))
#define kd__vi_or(a, b) ((a) | (b))
#define kd__vi_xor(a, b) ((a) ^ (b))
#define kd__vi_shl(a, n) ((int32_t)((uint32_t)(a) << (n)))
#define kd__vi_shr(a, n) ((int32_t)((uint32_t)(a) >> (n)))
#define kd__vi_sar(a, n) ((a) >> (n))
#define kd__vi_iota() 0
#define kd__v_load_bytes(p) ((float)*(p))
KD__INLINE float KD__FN(down)(float x, int half)
{
    (void)half;
    return x;
}
#define kd__v_first(x) (x)

#define KD__DW 1
#define KD__PLANES_OUTS 4
#define KD__PLANES_VECTORS 2
#define KD__LEARN_COLUMNS 1
#define kd__d double
#define kd__d_load(p) (*(p))
#define kd__d_load_n(p, n) ((void)(n), *(p))
#define kd__d_store(p, x) ((void)(*(p) = (x)))
#define kd__d_store_n(p, x, n) ((void)(n), (void)(*(p) = (x)))
#define kd__d_set(s) (s)
#define kd__d_fma(a, b, c) ((a) * (b) + (c))
#endif

#define KD__PANEL (KD__W * KD__PANEL_VECTORS)
#ifdef KD__TILE_ROWS_WIDE /* tiles wider than a panel, where B is no panels */
#define KD__TILE_VECTORS (KD__PANEL_VECTORS + 1)
#else
#define KD__TILE_VECTORS KD__PANEL_VECTORS
#endif
#if KD__ISA_ID == 3 /* what fills half a vector runs on AVX2: less is thrown away, and nothing is masked */
#define KD__NARROW 8
#define KD__IF_NARROW(columns, kernel, arguments)                                                                  \
    if ((columns) <= KD__NARROW) {                                                                                 \
        kd__##kernel##_avx2 arguments;                                                                             \
        return;                                                                                                    \
    }
#else
#define KD__NARROW KD__W
#define KD__IF_NARROW(columns, kernel, arguments)
#endif
/* Sums along memory run in 16 lanes on every instruction set, so that their bits agree. */
#define KD__SUM_VECTORS (16 / KD__W)
#if KD__W > 1
#define KD__UNROLL_SUMS KD__UNROLL
#else
#define KD__UNROLL_SUMS
#endif
/* So many vectors go through long calculations side by side: each step of one waits for its last. */
#define KD__ABREAST (KD__W > 1 ? 4 : 1)
#define KD__LOOP(body)                                                                                             \
    KD__UNROLL_SUMS                                                                                                \
    for (i = 0; i < count; ++i) {                                                                                  \
        body;                                                                                                      \
    }

/* The lanes of `count` vectors (a power of two) joined: of 16, lane i with i + 8, then i + 4, i + 2, i + 1. */
#define KD__JOIN_LANES(join, parts, count)                                                                         \
    kd__v all[count];                                                                                              \
    int i, half;                                                                                                   \
    for (i = 0; i < (count); ++i) all[i] = (parts)[i];                                                             \
    for (half = (count) / 2; half > 0; half /= 2) {                                                                \
        for (i = 0; i < half; ++i) all[i] = join(all[i], all[i + half]);                                           \
    }                                                                                                              \
    if (KD__W > 8) all[0] = join(all[0], KD__FN(down)(all[0], 8));                                                 \
    if (KD__W > 4) all[0] = join(all[0], KD__FN(down)(all[0], 4));                                                 \
    if (KD__W > 2) all[0] = join(all[0], KD__FN(down)(all[0], 2));                                                 \
    if (KD__W > 1) all[0] = join(all[0], KD__FN(down)(all[0], 1));                                                 \
    return kd__v_first(all[0]);

KD__INLINE float KD__FN(sum16)(const kd__v *parts){KD__JOIN_LANES(kd__v_add, parts, KD__SUM_VECTORS)}

/* The larger one, or the one that is no NaN. */
KD__INLINE kd__v KD__FN(known_max)(kd__v a, kd__v b)
{
    return kd__v_select(kd__v_eq(b, b), kd__v_max(a, b), a);
}

KD__INLINE float KD__FN(max_of_4)(const kd__v *parts){KD__JOIN_LANES(KD__FN(known_max), parts, 4)}

/* A W x W block in registers: row i, lane j becomes row j, lane i. */
KD__INLINE void KD__FN(turn)(kd__v *r)
{
#if KD__ISA_ID == 3
    __m512 t[16], u[16];
    int i;
    KD__UNROLL
    for (i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    KD__UNROLL
    for (i = 0; i < 16; i += 4) { /* then u[i + c] holds column 4L + c of rows i to i + 3 in its quarter L */
        u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
        u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
    KD__UNROLL
    for (i = 0; i < 4; ++i) { /* quarters are a 4 x 4 matrix of their own */
        t[0] = _mm512_shuffle_f32x4(u[i], u[4 + i], 0x44);
        t[1] = _mm512_shuffle_f32x4(u[i], u[4 + i], 0xee);
        t[2] = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0x44);
        t[3] = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0xee);
        r[i] = _mm512_shuffle_f32x4(t[0], t[2], 0x88);
        r[4 + i] = _mm512_shuffle_f32x4(t[0], t[2], 0xdd);
        r[8 + i] = _mm512_shuffle_f32x4(t[1], t[3], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(t[1], t[3], 0xdd);
    }
#elif KD__ISA_ID == 2
    __m256 t[8], u[8];
    int i;
    KD__UNROLL
    for (i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    KD__UNROLL
    for (i = 0; i < 8; i += 4) {
        u[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(t[i]), _mm256_castps_pd(t[i + 2])));
        u[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(t[i]), _mm256_castps_pd(t[i + 2])));
        u[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(t[i + 1]), _mm256_castps_pd(t[i + 3])));
        u[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(t[i + 1]), _mm256_castps_pd(t[i + 3])));
    }
    KD__UNROLL
    for (i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x31);
    }
#elif KD__ISA_ID == 4
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1]));
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3]));
    const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
#else
    (void)r;
#endif
}

/* For loops over n floats that end in less than a vector. */
KD__INLINE kd__v KD__FN(get)(const float *p, ptrdiff_t left)
{
    return left >= KD__W ? kd__v_load(p) : kd__v_load_n(p, (int)left);
}
KD__INLINE void KD__FN(put)(float *p, kd__v x, ptrdiff_t left)
{
    if (left >= KD__W)
        kd__v_store(p, x);
    else
        kd__v_store_n(p, x, (int)left);
}
#define kd__v_get(p, left) KD__FN(get)(p, left)
#define kd__v_put(p, x, left) KD__FN(put)(p, x, left)

/* ============================================================================================================
   >>kernels    everything that is compiled once per instruction set
   uses: vector
   ============================================================================================================ */

/* ---- functions of one vector ----------------------------------------------------------------------------- */

/* x * 2^n for x near 1 and |n| <= 151, which comes as a number and as an integer. In two halves, or by an
   instruction: 2^128 is no float, but half of it times two may be reached. */
KD__INLINE kd__v KD__FN(times_2n)(kd__v x, kd__v n, kd__vi whole)
{
#if KD__ISA_ID == 3
    (void)whole;
    return _mm512_scalef_ps(x, n);
#else
    const kd__vi half = kd__vi_sar(whole, 1), bias = kd__vi_set(127);
    const kd__v first = kd__vi_float(kd__vi_shl(kd__vi_add(half, bias), 23));
    const kd__v second = kd__vi_float(kd__vi_shl(kd__vi_add(kd__vi_sub(whole, half), bias), 23));
    (void)n;
    return kd__v_mul(kd__v_mul(x, first), second);
#endif
}

/* x[i] becomes e^x[i] within 1.05 ulp, for numbers up to 88.8: x = n ln 2 + r, |r| <= ln 2 / 2, and a minimax
   polynomial in r. Adding 1.5 * 2^23 leaves no room for a fraction and puts n into the lowest bits. Below -87.3365,
   where it would be subnormal, it is 0. */
#define KD__LEAST_EXPONENT (-87.3365f) /* a little above log(KD__LEAST) */
KD__INLINE void KD__FN(exps)(kd__v *x, const int count)
{
    kd__v n[16], p[16];
    kd__vi whole[16];
    kd__vm none[16];
    int i;
    KD__LOOP(none[i] = kd__v_lt(x[i], kd__v_set(KD__LEAST_EXPONENT)))
    KD__LOOP(x[i] = kd__v_max(kd__v_set(KD__LEAST_EXPONENT), x[i]))
#if KD__W == 1
    KD__LOOP(whole[i] = kd__v_to_int(kd__v_mul(x[i], kd__v_set(1.44269504f))))
    KD__LOOP(n[i] = kd__vi_to_float(whole[i]))
#else
    KD__LOOP(n[i] = kd__v_fma(x[i], kd__v_set(1.44269504f), kd__v_set(12582912.0f)))
    KD__LOOP(whole[i] = kd__vi_sub(kd__v_bits(n[i]), kd__vi_set(0x4b400000)))
    KD__LOOP(n[i] = kd__v_sub(n[i], kd__v_set(12582912.0f)))
#endif
    KD__LOOP(x[i] = kd__v_fma(n[i], kd__v_set(-0.693359375f), x[i]))
    KD__LOOP(x[i] = kd__v_fma(n[i], kd__v_set(2.12194440e-4f), x[i]))
    KD__LOOP(p[i] = kd__v_fma(kd__v_set(0.00139504799f), x[i], kd__v_set(0.00836888235f)))
    KD__LOOP(p[i] = kd__v_fma(p[i], x[i], kd__v_set(0.0416662060f)))
    KD__LOOP(p[i] = kd__v_fma(p[i], x[i], kd__v_set(0.166665196f)))
    KD__LOOP(p[i] = kd__v_fma(p[i], x[i], kd__v_set(0.5f)))
    KD__LOOP(p[i] = kd__v_fma(kd__v_mul(x[i], x[i]), p[i], x[i]))
    KD__LOOP(p[i] = kd__v_add(p[i], kd__v_set(1.0f)))
    KD__LOOP(x[i] = kd__v_select(none[i], kd__v_set(0.0f), KD__FN(times_2n)(p[i], n[i], whole[i])))
}

KD__INLINE kd__v KD__FN(exp)(kd__v x)
{
    x = kd__v_min(kd__v_set(88.8f), x);
    KD__FN(exps)(&x, 1);
    return x;
}

/* Natural logarithm within 1 ulp: x = 2^e (1 + f), 1 + f between sqrt(1/2) and sqrt(2). */
KD__INLINE kd__v KD__FN(log)(kd__v x)
{
    const kd__vm tiny = kd__v_lt(x, kd__v_set(1.17549435e-38f));
    const kd__v scaled = kd__v_select(tiny, kd__v_mul(x, kd__v_set(8388608.0f)), x);
    const kd__vi bits = kd__v_bits(scaled);
    const kd__vi e_int = kd__vi_sar(kd__vi_sub(bits, kd__vi_set(0x3f3504f3)), 23);
    const kd__v e = kd__v_add(kd__vi_to_float(e_int), kd__v_select(tiny, kd__v_set(-23.0f), kd__v_set(0.0f)));
    const kd__v f = kd__v_sub(kd__vi_float(kd__vi_sub(bits, kd__vi_shl(e_int, 23))), kd__v_set(1.0f));
    const kd__v f2 = kd__v_mul(f, f);
    const kd__v infinity = kd__v_set(INFINITY), zero = kd__v_set(0.0f);
    kd__v p = kd__v_fma(kd__v_set(0.0691554099f), f, kd__v_set(-0.117898643f));
    p = kd__v_fma(p, f, kd__v_set(0.118729256f));
    p = kd__v_fma(p, f, kd__v_set(-0.12384335f));
    p = kd__v_fma(p, f, kd__v_set(0.142186642f));
    p = kd__v_fma(p, f, kd__v_set(-0.166692525f));
    p = kd__v_fma(p, f, kd__v_set(0.200022265f));
    p = kd__v_fma(p, f, kd__v_set(-0.249999866f));
    p = kd__v_fma(p, f, kd__v_set(0.333333105f));
    p = kd__v_mul(p, kd__v_mul(f, f2));
    p = kd__v_fma(e, kd__v_set(-2.12194440e-4f), p);
    p = kd__v_fma(f2, kd__v_set(-0.5f), p);
    p = kd__v_fma(e, kd__v_set(0.693359375f), kd__v_add(f, p));
    p = kd__v_select(kd__v_eq(x, infinity), infinity, p);
    p = kd__v_select(kd__v_lt(zero, x), p, kd__v_select(kd__v_eq(x, zero), kd__v_set(-INFINITY), kd__v_set(NAN)));
    return p;
}

KD__INLINE kd__v KD__FN(abs)(kd__v x) { return kd__vi_float(kd__vi_and(kd__v_bits(x), kd__vi_set(0x7fffffff))); }

/* x with the sign of y put on; x must not be negative. */
KD__INLINE kd__v KD__FN(with_sign)(kd__v x, kd__v y)
{
    return kd__vi_float(kd__vi_or(kd__v_bits(x), kd__vi_and(kd__v_bits(y), kd__vi_set(INT32_MIN))));
}

/* x, or 0 where it is nearer to 0 than `bound`; a NaN stays. */
KD__INLINE kd__v KD__FN(cut)(kd__v x, kd__v bound)
{
    return kd__v_select(kd__v_lt(KD__FN(abs)(x), bound), kd__v_set(0.0f), x);
}

KD__INLINE kd__v KD__FN(sigmoid)(kd__v x)
{
    const kd__v one = kd__v_set(1.0f), zero = kd__v_set(0.0f), least = kd__v_set(KD__LEAST_EXPONENT);
    const kd__v e = KD__FN(exp)(kd__v_sub(zero, kd__v_max(least, x)));
    return kd__v_select(kd__v_lt(x, least), zero, kd__v_div(one, kd__v_add(one, e)));
}

KD__INLINE kd__v KD__FN(tanh)(kd__v x)
{
    const kd__v a = KD__FN(abs)(x), u = kd__v_mul(a, a), one = kd__v_set(1.0f);
    const kd__v e = KD__FN(exp)(kd__v_add(a, a));
    const kd__v tail = kd__v_sub(one, kd__v_div(kd__v_set(2.0f), kd__v_add(e, one)));
    kd__v p = kd__v_fma(kd__v_set(-0.00571704516f), u, kd__v_set(0.020650588f));
    p = kd__v_fma(p, u, kd__v_set(-0.0537434965f));
    p = kd__v_fma(p, u, kd__v_set(0.133314908f));
    p = kd__v_fma(p, u, kd__v_set(-0.333332837f));
    p = kd__v_fma(kd__v_mul(a, u), p, a);
    return KD__FN(with_sign)(kd__v_select(kd__v_lt(a, kd__v_set(0.625f)), p, tail), x);
}

/* The normal distribution function: from a polynomial of erf near 0, from one of log erfc in the tails. */
KD__INLINE kd__v KD__FN(normal_cdf)(kd__v x)
{
    const kd__v u = kd__v_mul(KD__FN(abs)(x), kd__v_set(0.707106781f)), u2 = kd__v_mul(u, u);
    const kd__v t = kd__v_min(kd__v_set(6.0f), u), half = kd__v_set(0.5f), one = kd__v_set(1.0f);
    const kd__vm central = kd__v_lt(u, one);
    kd__v p, q, lower;
    p = kd__v_fma(kd__v_set(7.88912294e-05f), u2, kd__v_set(-0.000802084222f));
    p = kd__v_fma(p, u2, kd__v_set(0.00518953567f));
    p = kd__v_fma(p, u2, kd__v_set(-0.0268544443f));
    p = kd__v_fma(p, u2, kd__v_set(0.112836003f));
    p = kd__v_fma(p, u2, kd__v_set(-0.37612626f));
    p = kd__v_fma(p, u2, kd__v_set(1.12837911f));
    p = kd__v_sub(half, kd__v_mul(half, kd__v_mul(p, u)));
    q = kd__v_fma(kd__v_set(-8.29532567e-08f), t, kd__v_set(3.32500258e-06f));
    q = kd__v_fma(q, t, kd__v_set(-6.04247471e-05f));
    q = kd__v_fma(q, t, kd__v_set(0.000662446313f));
    q = kd__v_fma(q, t, kd__v_set(-0.00492916256f));
    q = kd__v_fma(q, t, kd__v_set(0.0266482793f));
    q = kd__v_fma(q, t, kd__v_set(-0.110151581f));
    q = kd__v_fma(q, t, kd__v_set(-0.632026315f));
    q = kd__v_fma(q, t, kd__v_set(-1.1299814f));
    q = kd__v_fma(q, t, kd__v_set(0.000229259487f));
    /* beyond the polynomial 0, or x times it would not end at 0 */
    q = kd__v_select(kd__v_lt(kd__v_set(6.0f), u), kd__v_set(0.0f), KD__FN(exp)(q));
    lower = kd__v_select(central, p, kd__v_mul(half, q)); /* the probability beyond |x| */
    return kd__v_select(kd__v_lt(x, kd__v_set(0.0f)), lower, kd__v_sub(one, lower));
}

KD__INLINE kd__v KD__FN(act_value)(const int kind, kd__v x, kd__v arg)
{
    const kd__v zero = kd__v_set(0.0f), six = kd__v_set(6.0f);
    switch (kind) {
    case KD__RELU: return kd__v_max(zero, x);
    case KD__RELU6: return kd__v_min(six, kd__v_max(zero, x));
    case KD__LEAKYRELU: return kd__v_select(kd__v_lt(x, zero), kd__v_mul(x, arg), x);
    case KD__GELU: return kd__v_mul(x, KD__FN(normal_cdf)(x));
    case KD__SILU: return kd__v_mul(x, KD__FN(sigmoid)(x));
    case KD__HARDSWISH: {
        const kd__v gate = kd__v_min(six, kd__v_max(zero, kd__v_add(x, kd__v_set(3.0f))));
        return kd__v_div(kd__v_mul(x, gate), six);
    }
    case KD__SIGMOID: return KD__FN(sigmoid)(x);
    case KD__TANH: return KD__FN(tanh)(x);
    default: return x;
    }
}

/* dy times the derivative. v is the output of the activation, or its input for gelu, silu and hardswish. */
KD__INLINE kd__v KD__FN(act_slope)(const int kind, kd__v v, kd__v dy, kd__v arg)
{
    const kd__v zero = kd__v_set(0.0f), one = kd__v_set(1.0f);
    switch (kind) {
    case KD__RELU: return kd__v_select(kd__v_lt(zero, v), dy, zero);
    case KD__RELU6:
        return kd__v_select(kd__v_lt(v, kd__v_set(6.0f)), kd__v_select(kd__v_lt(zero, v), dy, zero), zero);
    case KD__LEAKYRELU: return kd__v_select(kd__v_lt(zero, v), dy, kd__v_mul(dy, arg));
    case KD__GELU: {
        const kd__v density =
            kd__v_mul(kd__v_set(0.398942280f), KD__FN(exp)(kd__v_mul(kd__v_set(-0.5f), kd__v_mul(v, v))));
        return kd__v_mul(dy, kd__v_fma(v, density, KD__FN(normal_cdf)(v)));
    }
    case KD__SILU: {
        const kd__v s = KD__FN(sigmoid)(v);
        return kd__v_mul(dy, kd__v_mul(s, kd__v_fma(v, kd__v_sub(one, s), one)));
    }
    case KD__HARDSWISH: {
        const kd__v inside = kd__v_mul(kd__v_fma(v, kd__v_set(2.0f), kd__v_set(3.0f)), kd__v_set(0.166666667f));
        const kd__v upper = kd__v_select(kd__v_lt(v, kd__v_set(3.0f)), inside, one);
        return kd__v_mul(dy, kd__v_select(kd__v_lt(kd__v_set(-3.0f), v), upper, zero));
    }
    case KD__SIGMOID: return kd__v_mul(dy, kd__v_mul(v, kd__v_sub(one, v)));
    case KD__TANH: return kd__v_mul(dy, kd__v_sub(one, kd__v_mul(v, v)));
    default: return dy;
    }
}

/* ---- matrix multiplication ------------------------------------------------------------------------------- */

/* The activations that layers apply to what they have just computed. */
KD__INLINE kd__v KD__FN(gemm_act)(int act, float arg, kd__v x)
{
    switch (act) {
    case KD__RELU: return KD__FN(act_value)(KD__RELU, x, x);
    case KD__RELU6: return KD__FN(act_value)(KD__RELU6, x, x);
    case KD__LEAKYRELU: return KD__FN(act_value)(KD__LEAKYRELU, x, kd__v_set(arg));
    default: return x;
    }
}

#define KD__TILE_EACH(body)                                                                                        \
    KD__UNROLL                                                                                                     \
    for (i = 0; i < rows; ++i) {                                                                                   \
        KD__UNROLL                                                                                                 \
        for (j = 0; j < vectors; ++j) {                                                                            \
            body;                                                                                                  \
        }                                                                                                          \
    }

/* The same with `to`, where row i of C begins. gcc would make these addresses for every use at once, before the
   first, and run out of registers to keep them in. */
#define KD__TILE_EACH_OF_C(body)                                                                                   \
    do {                                                                                                           \
        float *to = t->c;                                                                                          \
        ptrdiff_t c_row = t->c_row;                                                                                \
        KD__OPAQUE(c_row);                                                                                         \
        KD__UNROLL                                                                                                 \
        for (i = 0; i < rows; ++i) {                                                                               \
            if (i > 0) to += c_row;                                                                                \
            KD__UNROLL                                                                                             \
            for (j = 0; j < vectors; ++j) {                                                                        \
                body;                                                                                              \
            }                                                                                                      \
        }                                                                                                          \
    } while (0)

/* rows and vectors are constants in every use, so acc lives in registers: on AVX-512 14 x 2 accumulators, 2 vectors
   of B and 1 broadcast number make 31 of 32 registers, and 9 x 3 + 3 + 1 as many; on AVX2 6 x 2 + 2 + 1 make 15 of
   16, on NEON 8 x 3 + 3 + 1.
   Rows are reached from every third one, so that five pointers serve fourteen rows, and threes may lie apart. */
KD__INLINE void KD__FN(tile)(const kd__tile *t, const int rows, const int vectors, const int packing)
{
    kd__v acc[KD__TILE_ROWS_1 > KD__TILE_ROWS ? KD__TILE_ROWS_1 : KD__TILE_ROWS][KD__TILE_VECTORS];
    const ptrdiff_t a_row = t->a_row, a_three = t->a_three, a_k = t->a_k, b_k = t->b_k;
    const ptrdiff_t a_skip = t->a_seg - t->run * a_k, b_skip = t->b_seg - t->run * b_k;
    const float *a0 = t->a, *a3 = a0 + a_three, *a6 = a0 + 2 * a_three, *a9 = a0 + 3 * a_three,
                *a12 = a0 + 4 * a_three;
    const float *b = t->b;
    const float *soon = t->soon;
    const ptrdiff_t soon_step = t->soon_step;
    float *pack = t->pack;
    const int tail = t->tail;
    int i, j, k, seg;
    if (t->c_far) /* C is on its way while products are summed: its cache lines, and the end of each row */
        KD__TILE_EACH_OF_C(if (j % (KD__LINE / KD__W) == 0) kd__fetch(to + j * KD__W);
                           if (j == vectors - 1) kd__fetch(to + vectors * KD__W - 1));
    if (t->accumulate && tail == KD__W) {
        KD__TILE_EACH_OF_C(acc[i][j] = kd__v_load(to + j * KD__W));
    } else if (t->accumulate) {
        KD__TILE_EACH_OF_C(acc[i][j] =
                               j < vectors - 1 ? kd__v_load(to + j * KD__W) : kd__v_load_n(to + j * KD__W, tail));
    } else if (t->bias) {
        KD__TILE_EACH(acc[i][j] = kd__v_load(t->bias + j * KD__W))
    } else {
        KD__TILE_EACH(acc[i][j] = kd__v_set(0.0f))
    }
    for (seg = t->segs; seg > 0; --seg) {
        for (k = t->run; k > 0; --k) {
            kd__v column[KD__TILE_VECTORS];
            KD__UNROLL
            for (j = 0; j < vectors; ++j) column[j] = kd__v_load(b + j * KD__W);
            if (packing) {
                KD__UNROLL
                for (j = 0; j < vectors; ++j) kd__v_store(pack + j * KD__W, column[j]);
                pack += vectors * KD__W;
            }
            KD__UNROLL
            for (i = 0; i < rows; ++i) {
                const float *from = i < 3 ? a0 : i < 6 ? a3 : i < 9 ? a6 : i < 12 ? a9 : a12;
                const kd__v number = kd__v_set(from[(i % 3) * a_row]);
                KD__UNROLL
                for (j = 0; j < vectors; ++j) acc[i][j] = kd__v_fma(number, column[j], acc[i][j]);
            }
            if (rows > 4) kd__fetch(soon), soon += soon_step; /* one in the shade of many products */
            a0 += a_k, a3 += a_k, a6 += a_k, a9 += a_k, a12 += a_k, b += b_k;
        }
        a0 += a_skip, a3 += a_skip, a6 += a_skip, a9 += a_skip, a12 += a_skip, b += b_skip;
    }
    switch (t->act) {
    case KD__RELU: KD__TILE_EACH(acc[i][j] = KD__FN(act_value)(KD__RELU, acc[i][j], acc[i][j])) break;
    case KD__RELU6: KD__TILE_EACH(acc[i][j] = KD__FN(act_value)(KD__RELU6, acc[i][j], acc[i][j])) break;
    case KD__LEAKYRELU:
        KD__TILE_EACH(acc[i][j] = KD__FN(act_value)(KD__LEAKYRELU, acc[i][j], kd__v_set(t->act_arg))) break;
    default: break;
    }
    if (tail == KD__W) {
        KD__TILE_EACH_OF_C(kd__v_store(to + j * KD__W, acc[i][j]));
    } else {
        KD__TILE_EACH_OF_C(if (j < vectors - 1) kd__v_store(to + j * KD__W, acc[i][j]);
                           else kd__v_store_n(to + j * KD__W, acc[i][j], tail));
    }
}

#define KD__TILES_4(X, v) X(1, v) X(2, v) X(3, v) X(4, v)
#define KD__TILES_6(X, v) KD__TILES_4(X, v) X(5, v) X(6, v)
#define KD__TILES_8(X, v) KD__TILES_6(X, v) X(7, v) X(8, v)
#define KD__TILES_9(X, v) KD__TILES_8(X, v) X(9, v)
#define KD__TILES_12(X, v) KD__TILES_9(X, v) X(10, v) X(11, v) X(12, v)
#define KD__TILES_14(X, v) KD__TILES_12(X, v) X(13, v) X(14, v)
#define KD__TILES(X, rows, v) KD__JOIN(KD__TILES, rows)(X, v)
#define KD__TILE_NAME(rows, v) KD__FN(tile_##rows##x##v)
#define KD__TILE_DEFINE(rows, v)                                                                                   \
    static void KD__TILE_NAME(rows, v)(const kd__tile *t) { KD__FN(tile)(t, rows, v, 0); }
#define KD__TILE_ENTRY(rows, v) KD__TILE_NAME(rows, v),

KD__TILES(KD__TILE_DEFINE, KD__TILE_ROWS_1, 1)
KD__TILES(KD__TILE_DEFINE, KD__TILE_ROWS, 2)
#if KD__PANEL_VECTORS > 2
KD__TILES(KD__TILE_DEFINE, KD__TILE_ROWS, 3)
#elif defined(KD__TILE_ROWS_WIDE)
KD__TILES(KD__TILE_DEFINE, KD__TILE_ROWS_WIDE, 3)
#endif
#if KD__PANEL_VECTORS > 3
KD__TILES(KD__TILE_DEFINE, KD__TILE_ROWS, 4)
#endif

/* The tallest tile of a whole panel, which it also packs. */
static void KD__FN(tile_packing)(const kd__tile *t) { KD__FN(tile)(t, KD__TILE_ROWS, KD__PANEL_VECTORS, 1); }

/* [vectors - 1][rows - 1] */
static const kd__tile_fn KD__FN(tiles)[KD__TILE_VECTORS][16] = {
    {KD__TILES(KD__TILE_ENTRY, KD__TILE_ROWS_1, 1) NULL},
    {KD__TILES(KD__TILE_ENTRY, KD__TILE_ROWS, 2) NULL},
#if KD__PANEL_VECTORS > 2
    {KD__TILES(KD__TILE_ENTRY, KD__TILE_ROWS, 3) NULL},
#elif defined(KD__TILE_ROWS_WIDE)
    {KD__TILES(KD__TILE_ENTRY, KD__TILE_ROWS_WIDE, 3) NULL},
#endif
#if KD__PANEL_VECTORS > 3
    {KD__TILES(KD__TILE_ENTRY, KD__TILE_ROWS, 4) NULL},
#endif
};

/* Pixels in pairs: lanes 2 j and 2 j + 1 are column j of the first and of the second. */
#if KD__ISA_ID == 3
KD__INLINE __m512 kd__pair_number(const float *p)
{
    double both; /* bits of two floats */
    memcpy(&both, p, sizeof both);
    return _mm512_castpd_ps(_mm512_set1_pd(both));
}

KD__INLINE __m512 kd__pair_columns(const float *p)
{
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}

KD__INLINE __m512 kd__pair_read(const float *first, const float *second, __mmask8 there)
{
    const __m512i mixed = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    const __m512 one = _mm512_castps256_ps512(_mm256_maskz_loadu_ps(there, first));
    return _mm512_permutexvar_ps(mixed, _mm512_insertf32x8(one, _mm256_maskz_loadu_ps(there, second), 1));
}

/* Two permutations: an extraction to masked memory, which is what gcc makes of one and a masked store, faults on
   lanes that the mask leaves out. */
KD__INLINE void kd__pair_write(float *first, float *second, __mmask8 there, __m512 x)
{
    const __m512i one = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i other = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm256_mask_storeu_ps(first, there, _mm512_castps512_ps256(_mm512_permutexvar_ps(one, x)));
    _mm256_mask_storeu_ps(second, there, _mm512_castps512_ps256(_mm512_permutexvar_ps(other, x)));
}

/* The tile above for `rows` pairs, one vector wide. */
KD__INLINE void kd__pair_tile(const kd__tile *t, const int rows)
{
    const __mmask8 there = (__mmask8)((1u << t->tail) - 1u);
    const ptrdiff_t a_row = t->a_row, a_three = t->a_three, a_k = t->a_k, b_k = t->b_k, second = t->c_row / 2;
    const ptrdiff_t a_skip = t->a_seg - t->run * a_k, b_skip = t->b_seg - t->run * b_k;
    const float *a0 = t->a, *a3 = a0 + a_three, *a6 = a0 + 2 * a_three, *a9 = a0 + 3 * a_three,
                *a12 = a0 + 4 * a_three;
    const float *b = t->b, *soon = t->soon;
    __m512 acc[KD__TILE_ROWS_1];
    int i, k, seg;
    if (t->accumulate) {
        KD__UNROLL
        for (i = 0; i < rows; ++i) acc[i] = kd__pair_read(t->c + i * t->c_row, t->c + i * t->c_row + second, there);
    } else {
        const __m512 first = t->bias ? kd__pair_columns(t->bias) : _mm512_setzero_ps();
        KD__UNROLL
        for (i = 0; i < rows; ++i) acc[i] = first;
    }
    for (seg = t->segs; seg > 0; --seg) {
        for (k = t->run; k > 0; --k) {
            const __m512 columns = kd__pair_columns(b);
            KD__UNROLL
            for (i = 0; i < rows; ++i) {
                const float *from = i < 3 ? a0 : i < 6 ? a3 : i < 9 ? a6 : i < 12 ? a9 : a12;
                acc[i] = _mm512_fmadd_ps(kd__pair_number(from + (i % 3) * a_row), columns, acc[i]);
            }
            kd__fetch(soon), soon += t->soon_step;
            a0 += a_k, a3 += a_k, a6 += a_k, a9 += a_k, a12 += a_k, b += b_k;
        }
        a0 += a_skip, a3 += a_skip, a6 += a_skip, a9 += a_skip, a12 += a_skip, b += b_skip;
    }
    KD__UNROLL
    for (i = 0; i < rows; ++i) {
        float *to = t->c + i * t->c_row;
        kd__pair_write(to, to + second, there, KD__FN(gemm_act)(t->act, t->act_arg, acc[i]));
    }
}

#define KD__PAIR_DEFINE(rows, v)                                                                                   \
    static void kd__pair_tile_##rows(const kd__tile *t) { kd__pair_tile(t, rows); }
#define KD__PAIR_ENTRY(rows, v) kd__pair_tile_##rows,
KD__TILES(KD__PAIR_DEFINE, KD__TILE_ROWS_1, 1)
static const kd__tile_fn kd__pair_tiles[] = {KD__TILES(KD__PAIR_ENTRY, KD__TILE_ROWS_1, 1)};
#endif

/* One row times several whole panels at once: a single tile would wait for its own additions. */
KD__INLINE void KD__FN(row_panels)(const kd__tile *t, ptrdiff_t b_panel, const int panels)
{
    kd__v acc[4 * KD__PANEL_VECTORS];
    const float *a = t->a, *b = t->b;
    int i, j, k, seg;
    KD__UNROLL
    for (i = 0; i < panels * KD__PANEL_VECTORS; ++i) {
        const float *from = t->accumulate ? t->c + i * KD__W : t->bias ? t->bias + i * KD__W : NULL;
        acc[i] = from ? kd__v_load(from) : kd__v_set(0.0f);
    }
    for (seg = t->segs; seg > 0; --seg, a += t->a_seg - t->run * t->a_k, b += t->b_seg - t->run * t->b_k) {
        for (k = t->run; k > 0; --k, a += t->a_k, b += t->b_k) {
            const kd__v number = kd__v_set(*a);
            KD__UNROLL
            for (i = 0; i < panels; ++i) {
                KD__UNROLL
                for (j = 0; j < KD__PANEL_VECTORS; ++j) {
                    const int n = i * KD__PANEL_VECTORS + j;
                    acc[n] = kd__v_fma(number, kd__v_load(b + i * b_panel + j * KD__W), acc[n]);
                }
            }
        }
    }
    KD__UNROLL
    for (i = 0; i < panels * KD__PANEL_VECTORS; ++i)
        kd__v_store(t->c + i * KD__W, KD__FN(gemm_act)(t->act, t->act_arg, acc[i]));
}

static void KD__FN(transpose)(const float *src, ptrdiff_t src_row, int rows, int cols, float *dst,
                              ptrdiff_t dst_row)
{
    int i, j, n;
    for (i = 0; i < rows; i += KD__W) {
        const int height = KD__MIN(KD__W, rows - i);
        for (j = 0; j < cols; j += KD__W) {
            const int width = KD__MIN(KD__W, cols - j);
            kd__v block[KD__W];
            if (height == KD__W && width == KD__W) {
                KD__UNROLL
                for (n = 0; n < KD__W; ++n) block[n] = kd__v_load(src + (i + n) * src_row + j);
                KD__FN(turn)(block);
                KD__UNROLL
                for (n = 0; n < KD__W; ++n) kd__v_store(dst + (j + n) * dst_row + i, block[n]);
            } else {
                for (n = 0; n < KD__W; ++n)
                    block[n] = n < height ? kd__v_load_n(src + (i + n) * src_row + j, width) : kd__v_set(0.0f);
                KD__FN(turn)(block);
                for (n = 0; n < width; ++n) kd__v_store_n(dst + (j + n) * dst_row + i, block[n], height);
            }
        }
    }
}

static void KD__FN(copy)(const float *src, ptrdiff_t src_row, int rows, int cols, float *dst, ptrdiff_t dst_row)
{
    int i, j;
    for (i = 0; i < rows; ++i) {
        for (j = 0; j < cols; j += KD__W)
            kd__v_put(dst + i * dst_row + j, kd__v_get(src + i * src_row + j, cols - j), cols - j);
    }
}

static void KD__FN(pair_up)(ptrdiff_t n, ptrdiff_t step, const float *x, float *pairs)
{
    ptrdiff_t i = 0;
#if KD__ISA_ID == 3
    const __m512i lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i upper = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    for (; i + KD__W <= n; i += KD__W) {
        const __m512 one = _mm512_loadu_ps(x + i), other = _mm512_loadu_ps(x + i + step);
        _mm512_storeu_ps(pairs + 2 * i, _mm512_permutex2var_ps(one, lower, other));
        _mm512_storeu_ps(pairs + 2 * i + KD__W, _mm512_permutex2var_ps(one, upper, other));
    }
#endif
    for (; i < n; ++i) pairs[2 * i] = x[i], pairs[2 * i + 1] = x[i + step];
}

KD__INLINE void KD__FN(look_ahead)(kd__ahead *ahead, kd__tile *t)
{
    ptrdiff_t line = ahead->fetched;
    int i;
    ahead->fetched += (ptrdiff_t)t->segs * t->run;
    for (i = 0; i < KD__COUNT(ahead->soon); line -= ahead->soon[i++].lines) {
        if (line < ahead->soon[i].lines) {
            t->soon = ahead->soon[i].at + line * ahead->soon[i].step;
            t->soon_step = ahead->soon[i].step;
            return;
        }
    }
    t->soon = t->b;
    t->soon_step = 0;
}

#define KD__C_FAR (1 << 18) /* floats: the second-level cache of most processors */

/* All row tiles of one panel. Tiles are cut to nearly equal heights, 16 rows run as 8 + 8 and not as 14 + 2, and
   never within three rows that lie together. */
KD__INLINE void KD__FN(panel_rows)(const kd__gemm *g, kd__tile *t, const kd__tile_fn *tiles, int tallest, int col,
                                   int width, kd__ahead *ahead)
{
    KD__ALIGN64 float turned[16 * KD__PANEL];
    const int threes = g->a_three != 0, most = threes ? tallest / 3 : tallest;
    const int units = threes ? g->rows / 3 : g->rows, parts = (units + most - 1) / most;
    const int cols = KD__MIN(width, g->cols - col);
    const float *a = t->a;
    int block, part;
    for (block = 0; block < g->blocks; ++block) {
        int unit = 0;
        for (part = 0; part < parts; ++part) {
            const int packing = g->pack && block + part == 0;
            const int share = packing ? KD__TILE_ROWS : (units - unit + parts - part - 1) / (parts - part);
            const int row = threes ? 3 * unit : unit, height = threes ? 3 * share : share;
            float *turned_c = g->c_transposed ? g->c + (ptrdiff_t)col * g->c_row + row + block * g->c_block : NULL;
            t->a = a + block * g->a_block + unit * (threes ? g->a_three : g->a_row);
            if (turned_c) {
                t->c = turned;
                t->c_row = KD__PANEL;
                if (t->accumulate) KD__FN(transpose)(turned_c, g->c_row, cols, height, turned, KD__PANEL);
            } else if (g->c_rows) {
                t->c_row = width;
                t->c =
                    g->c + (ptrdiff_t)col * g->c_rows + (ptrdiff_t)(g->c_first + row) * width + block * g->c_block;
            } else {
                t->c_row = g->c_row;
                t->c = g->c + block * g->c_block + row * g->c_row + col;
            }
            KD__FN(look_ahead)(ahead, t);
            if (packing) {
                KD__FN(tile_packing)(t);
                t->b = t->pack, t->b_k = width;
            } else {
                tiles[height - 1](t);
            }
            if (turned_c) KD__FN(transpose)(turned, KD__PANEL, height, cols, turned_c, g->c_row);
            unit += share;
        }
    }
}

#ifdef KD__TILE_ROWS_WIDE
/* Whether tiles of three vectors leave fewer registers idle: 16 rows run as 8 x 3 rather than as 8 x 2. */
KD__INLINE int KD__FN(wide_is_better)(const kd__gemm *g)
{
    const int parts = (g->rows + KD__TILE_ROWS - 1) / KD__TILE_ROWS;
    const int parts_wide = (g->rows + KD__TILE_ROWS_WIDE - 1) / KD__TILE_ROWS_WIDE;
    return !g->b_rows && !g->c_rows && !g->c_transposed && 3 * parts > 2 * parts_wide;
}
#endif

/* Columns that the next panel takes of those that are left, rounded up to whole vectors. */
KD__INLINE int KD__FN(panel_width)(int left, int wide)
{
    if (wide && left >= 3 * KD__W && (left <= 3 * KD__W + KD__NARROW || left > 4 * KD__W)) return 3 * KD__W;
    if (left >= KD__PANEL) return KD__PANEL;
    return left <= KD__NARROW ? KD__NARROW : (left + KD__W - 1) / KD__W * KD__W;
}

static void KD__FN(gemm)(const kd__gemm *g)
{
    const int foreseen = g->soon[0].lines + g->soon[1].lines > 0;
    kd__ahead ahead;
    int col = 0, wide = 0;
    kd__tile t;
    memset(&t, 0, sizeof t);
    memcpy(ahead.soon, g->soon, sizeof ahead.soon);
    ahead.fetched = 0;
    t.run = g->run, t.accumulate = g->accumulate, t.act = g->act;
    t.c_far =
        KD__W == 16 && !g->c_transposed && (g->c_far || (ptrdiff_t)g->rows * g->blocks * g->c_row >= KD__C_FAR);
    t.segs = g->segs, t.a_row = g->a_row, t.a_k = g->a_k, t.a_seg = g->a_seg;
    t.a_three = g->a_three ? g->a_three : 3 * g->a_row;
    t.act_arg = g->act_arg;
    t.pack = g->pack;
#ifdef KD__TILE_ROWS_WIDE
    wide = KD__FN(wide_is_better)(g);
#endif
    while (col < g->cols) {
        const int left = g->cols - col, width = KD__FN(panel_width)(left, wide);
        const int vectors = (width + KD__W - 1) / KD__W;
        const kd__tile_fn *tiles = KD__FN(tiles)[vectors - 1];
        int tallest = vectors == 1 ? KD__TILE_ROWS_1 : KD__TILE_ROWS;
        t.tail = KD__MIN(left, width) - (vectors - 1) * KD__W;
#if KD__ISA_ID == 3
        if (g->pairs) {
            tiles = kd__pair_tiles;
        } else if (width == KD__NARROW) {
            tiles = kd__tiles_avx2[0];
            tallest = 12;
        }
#endif
#ifdef KD__TILE_ROWS_WIDE
        if (width > KD__PANEL) tallest = KD__TILE_ROWS_WIDE;
#endif
        t.b = g->b_rows ? g->b + (ptrdiff_t)col * g->b_rows + (ptrdiff_t)g->b_first * width : g->b + col;
        t.b_k = g->b_rows ? width : g->b_k;
        t.b_seg = g->b_rows ? (ptrdiff_t)g->run * width : g->b_seg;
        t.a = g->a;
        t.bias = g->bias ? g->bias + col : NULL;
        if (g->rows * g->blocks == 1 && !g->c_rows && !g->c_transposed && left >= 2 * KD__PANEL) {
            const ptrdiff_t panel = g->b_rows ? (ptrdiff_t)g->b_rows * KD__PANEL : KD__PANEL;
            t.c = g->c + col;
            if (left >= 4 * KD__PANEL) {
                KD__FN(row_panels)(&t, panel, 4);
                col += 4 * KD__PANEL;
            } else {
                KD__FN(row_panels)(&t, panel, 2);
                col += 2 * KD__PANEL;
            }
            continue;
        }
        if (g->b_rows && !foreseen) { /* the next panel: it is farther than where the processor looks by itself */
            ahead.soon[0].at = left > width ? t.b + (ptrdiff_t)g->b_rows * width : t.b;
            ahead.soon[0].lines = left > width ? (ptrdiff_t)g->segs * g->run * width / KD__LINE : 0;
            ahead.soon[0].step = KD__LINE;
            ahead.fetched = 0;
        }
        KD__FN(panel_rows)(g, &t, tiles, tallest, col, width, &ahead);
        col += width;
    }
}

/* So many rows at once that their sums, each a chain in 16 lanes, hide the time of one addition. */
#define KD__DOT_ROWS (KD__W == 16 ? 8 : KD__W == 8 ? 6 : 4)

KD__INLINE void KD__FN(dot_rows)(const float *a, ptrdiff_t a_row, const float *x, int k, float *y, const int rows)
{
    kd__v acc[8][KD__SUM_VECTORS];
    int i, j, n;
    KD__UNROLL
    for (i = 0; i < rows; ++i) {
        KD__UNROLL_SUMS
        for (j = 0; j < KD__SUM_VECTORS; ++j) acc[i][j] = kd__v_set(0.0f);
    }
    for (n = 0; n + 16 <= k; n += 16) {
        KD__UNROLL_SUMS
        for (j = 0; j < KD__SUM_VECTORS; ++j) {
            const kd__v number = kd__v_load(x + n + j * KD__W);
            KD__UNROLL
            for (i = 0; i < rows; ++i)
                acc[i][j] = kd__v_fma(kd__v_load(a + i * a_row + n + j * KD__W), number, acc[i][j]);
        }
    }
    for (j = 0; n < k; ++j, n += KD__W) {
        KD__UNROLL
        for (i = 0; i < rows; ++i)
            acc[i][j] = kd__v_fma(kd__v_get(a + i * a_row + n, k - n), kd__v_get(x + n, k - n), acc[i][j]);
    }
    KD__UNROLL
    for (i = 0; i < rows; ++i) y[i] = KD__FN(sum16)(acc[i]);
}

/* y[i] = a[i, :] . x */
static void KD__FN(dots)(const float *a, ptrdiff_t a_row, int rows, const float *x, int k, float *y)
{
    int row = 0, count;
    for (; row < rows; row += count) {
        const int parts = (rows - row + KD__DOT_ROWS - 1) / KD__DOT_ROWS;
        const float *from = a + row * a_row;
        count = (rows - row + parts - 1) / parts;
        switch (count) {
#define KD__ITEM(n, unused)                                                                                        \
    case n:                                                                                                        \
        KD__FN(dot_rows)(from, a_row, x, k, y + row, n);                                                           \
        break;
#if KD__W == 16
            KD__TILES_8(KD__ITEM, 0)
#elif KD__W == 8
            KD__TILES_6(KD__ITEM, 0)
#else
            KD__TILES_4(KD__ITEM, 0)
#endif
#undef KD__ITEM
        default: break;
        }
    }
}

/* ---- elementwise ----------------------------------------------------------------------------------------- */

/* Those whose values or slopes get as small as one likes. */
KD__INLINE int KD__FN(act_fades)(const int kind)
{
    return kind == KD__GELU || kind == KD__SILU || kind == KD__SIGMOID || kind == KD__TANH;
}

KD__INLINE void KD__FN(act_loop)(const int kind, kd__v arg, ptrdiff_t n, const float *x, float *y)
{
    ptrdiff_t i;
    for (i = 0; i < n; i += KD__W) {
        kd__v value = KD__FN(act_value)(kind, kd__v_get(x + i, n - i), arg);
        if (KD__FN(act_fades)(kind)) value = KD__FN(cut)(value, kd__v_set(KD__LEAST));
        kd__v_put(y + i, value, n - i);
    }
}

#define KD__ACT_CASE(name, word)                                                                                   \
    case name:                                                                                                     \
        KD__FN(act_loop)(name, kd__v_set(arg), n, x, y);                                                           \
        break;
static void KD__FN(act)(int kind, float arg, ptrdiff_t n, const float *x, float *y)
{
    switch (kind) {
        KD__ACTIVATIONS(KD__ACT_CASE)
    default: memmove(y, x, (size_t)n * sizeof *y);
    }
}

KD__INLINE void KD__FN(act_grad_loop)(const int kind, kd__v arg, ptrdiff_t n, const float *xy, const float *dy,
                                      float *dx, int accumulate)
{
    ptrdiff_t i;
    for (i = 0; i < n; i += KD__W) {
        kd__v d = KD__FN(act_slope)(kind, kd__v_get(xy + i, n - i), kd__v_get(dy + i, n - i), arg);
        if (KD__FN(act_fades)(kind)) d = KD__FN(cut)(d, kd__v_set(KD__LEAST));
        if (accumulate) d = kd__v_add(kd__v_get(dx + i, n - i), d);
        kd__v_put(dx + i, d, n - i);
    }
}

#define KD__ACT_GRAD_CASE(name, word)                                                                              \
    case name:                                                                                                     \
        KD__FN(act_grad_loop)(name, kd__v_set(arg), n, xy, dy, dx, accumulate);                                    \
        break;
static void KD__FN(act_grad)(int kind, float arg, ptrdiff_t n, const float *xy, const float *dy, float *dx,
                             int accumulate)
{
    switch (kind) {
        KD__ACTIVATIONS(KD__ACT_GRAD_CASE)
    default: KD__FN(act_grad_loop)(KD__IDENTITY, kd__v_set(arg), n, xy, dy, dx, accumulate);
    }
}

static void KD__FN(add)(ptrdiff_t n, const float *a, const float *b, int act, float arg, float *y)
{
    ptrdiff_t i;
    for (i = 0; i < n; i += KD__W)
        kd__v_put(y + i, kd__v_add(kd__v_get(a + i, n - i), kd__v_get(b + i, n - i)), n - i);
    if (act) KD__FN(act)(act, arg, n, y, y);
}

static void KD__FN(scale)(ptrdiff_t n, float factor, float *x)
{
    const kd__v number = kd__v_set(factor);
    ptrdiff_t i;
    for (i = 0; i < n; i += KD__W) kd__v_put(x + i, kd__v_mul(kd__v_get(x + i, n - i), number), n - i);
}

static void KD__FN(column_sums)(const float *x, ptrdiff_t row, int rows, int cols, float *sums)
{
    int c, r;
    KD__IF_NARROW(cols, column_sums, (x, row, rows, cols, sums))
    for (c = 0; c < cols; c += KD__W) {
        kd__v sum = kd__v_get(sums + c, cols - c);
        for (r = 0; r < rows; ++r) sum = kd__v_add(sum, kd__v_get(x + r * row + c, cols - c));
        kd__v_put(sums + c, sum, cols - c);
    }
}

static void KD__FN(from_bytes)(ptrdiff_t n, const uint8_t *bytes, float *x)
{
    const kd__v full = kd__v_set(255.0f);
    ptrdiff_t i;
    for (i = 0; i + KD__W <= n; i += KD__W) kd__v_store(x + i, kd__v_div(kd__v_load_bytes(bytes + i), full));
    for (; i < n; ++i) x[i] = (float)bytes[i] / 255.0f;
}

static void KD__FN(normalise)(ptrdiff_t n, const float *x, float mean, float std, float *y)
{
    const kd__v m = kd__v_set(mean), s = kd__v_set(std);
    ptrdiff_t i;
    for (i = 0; i < n; i += KD__W) kd__v_put(y + i, kd__v_div(kd__v_sub(kd__v_get(x + i, n - i), m), s), n - i);
}

/* A multiply-and-shift hash of the index, keyed twice (the finalizer of MurmurHash3), decides each number. */
static void KD__FN(dropout)(ptrdiff_t n, uint32_t key0, uint32_t key1, float drop, float scale, const float *x,
                            float *y, int accumulate)
{
    const kd__vi first = kd__vi_set((int32_t)key0), second = kd__vi_set((int32_t)key1);
    const kd__v limit = kd__v_set(drop * 16777216.0f), factor = kd__v_set(scale), zero = kd__v_set(0.0f);
    ptrdiff_t i;
    for (i = 0; i < n; i += KD__W) {
        kd__vi h = kd__vi_xor(kd__vi_add(kd__vi_iota(), kd__vi_set((int32_t)i)), first);
        kd__v value;
        h = kd__vi_mul(kd__vi_xor(h, kd__vi_shr(h, 16)), kd__vi_set((int32_t)0x85ebca6bu));
        h = kd__vi_xor(kd__vi_mul(kd__vi_xor(h, kd__vi_shr(h, 13)), kd__vi_set((int32_t)0xc2b2ae35u)), second);
        h = kd__vi_mul(kd__vi_xor(h, kd__vi_shr(h, 16)), kd__vi_set((int32_t)0x85ebca6bu));
        h = kd__vi_mul(kd__vi_xor(h, kd__vi_shr(h, 13)), kd__vi_set((int32_t)0xc2b2ae35u));
        h = kd__vi_shr(kd__vi_xor(h, kd__vi_shr(h, 16)), 8);
        value = kd__v_select(kd__v_lt(kd__vi_to_float(h), limit), zero, kd__v_mul(kd__v_get(x + i, n - i), factor));
        if (accumulate) value = kd__v_add(kd__v_get(y + i, n - i), value);
        kd__v_put(y + i, value, n - i);
    }
}

/* ---- windows over images --------------------------------------------------------------------------------- */

/* The part of the window at output position `out` that lies inside the image: taps first to end - 1. */
KD__INLINE void KD__FN(clip)(int out, int stride, int pad, int kernel, int size, int *first, int *end)
{
    const int start = out * stride - pad;
    *first = start < 0 ? -start : 0;
    *end = KD__MIN(kernel, size - start);
    if (*end < *first) *end = *first;
}

/* x stays in its register: compilers would rather load it again for every use. */
#if KD__ISA_ID == 4 && defined(__GNUC__)
#define kd__v_once(x) __asm__("" : "+w"(x))
#elif (KD__ISA_ID == 2 || KD__ISA_ID == 3) && defined(__GNUC__)
#define kd__v_once(x) __asm__("" : "+v"(x))
#else
#define kd__v_once(x) ((void)0)
#endif

#define KD__PIXELS 8 /* sums that do not wait for each other */

/* The last block of a line overlaps the one before it, rather than being cut short. */
KD__INLINE int KD__FN(block_start)(int block, int pixels)
{
    return KD__MIN(block, KD__MAX(0, pixels - KD__PIXELS));
}

/* One line of taps for `count` sums, whose windows begin `step` apart. Where taps are as far apart, and three, the
   usual case, every pixel is loaded once; each sum meets its taps in the same order. */
KD__INLINE void KD__FN(depthwise_line)(const float *from, ptrdiff_t step, ptrdiff_t pixel, const float *tap,
                                       ptrdiff_t tap_step, int taps, int count, int left, kd__v *acc)
{
    int i, k;
    if (count < KD__PIXELS || left < KD__W) {
        for (k = 0; k < taps; ++k, from += pixel, tap += tap_step) {
            const kd__v number = kd__v_get(tap, left);
            KD__UNROLL
            for (i = 0; i < KD__PIXELS; ++i) {
                if (i < count) acc[i] = kd__v_fma(kd__v_get(from + i * step, left), number, acc[i]);
            }
        }
    } else if (taps == 3 && step == pixel) {
        const kd__v tap0 = kd__v_load(tap), tap1 = kd__v_load(tap + tap_step),
                    tap2 = kd__v_load(tap + 2 * tap_step);
        KD__UNROLL
        for (i = 0; i < KD__PIXELS + 2; ++i) {
            kd__v x = kd__v_load(from + i * step);
            kd__v_once(x);
            if (i < KD__PIXELS) acc[i] = kd__v_fma(x, tap0, acc[i]);
            if (i > 0 && i <= KD__PIXELS) acc[i - 1] = kd__v_fma(x, tap1, acc[i - 1]);
            if (i > 1) acc[i - 2] = kd__v_fma(x, tap2, acc[i - 2]);
        }
    } else {
        for (k = 0; k < taps; ++k, from += pixel, tap += tap_step) {
            const kd__v number = kd__v_load(tap);
            KD__UNROLL
            for (i = 0; i < KD__PIXELS; ++i) acc[i] = kd__v_fma(kd__v_load(from + i * step), number, acc[i]);
        }
    }
}

/* The share of a block of KD__PIXELS vectors in fetching what is next in memory. */
KD__INLINE void KD__FN(fetch_share)(const float *next)
{
    int i;
    KD__UNROLL
    for (i = 0; i < KD__PIXELS * KD__W / KD__LINE; ++i) kd__fetch(next + (ptrdiff_t)KD__LINE * i);
}

/* x has zeros beside every line (pad_w of them), so only lines are clipped. */
static void KD__FN(depthwise)(const kd__window *w, const float *x, const float *weight, const float *bias, int act,
                              float arg, float *y)
{
    const ptrdiff_t step = (ptrdiff_t)w->stride_w * w->channels;
    int oy, block, c, i, kh, kh0, kh1;
    for (oy = 0; oy < w->out_h; ++oy) {
        const float *next_x = x + (oy * w->stride_h - w->pad_h + w->kernel_h) * w->in_row;
        const float *next_y = y + (oy + 1) * w->out_row;
        KD__FN(clip)(oy, w->stride_h, w->pad_h, w->kernel_h, w->in_h, &kh0, &kh1);
        for (block = 0; block < w->out_w; block += KD__PIXELS) {
            const int ox = KD__FN(block_start)(block, w->out_w), count = KD__MIN(KD__PIXELS, w->out_w - ox);
            for (c = 0; c < w->channels; c += KD__W, next_x += KD__PIXELS * KD__W, next_y += KD__PIXELS * KD__W) {
                const int left = w->channels - c;
                float *to = y + oy * w->out_row + (ptrdiff_t)ox * w->channels + c;
                kd__v acc[KD__PIXELS];
                KD__UNROLL
                for (i = 0; i < KD__PIXELS; ++i) acc[i] = bias ? kd__v_get(bias + c, left) : kd__v_set(0.0f);
                KD__FN(fetch_share)(next_x);
                KD__FN(fetch_share)(next_y);
                for (kh = kh0; kh < kh1; ++kh) {
                    const float *from = x + (oy * w->stride_h - w->pad_h + kh) * w->in_row + ox * step + c -
                                        (ptrdiff_t)w->pad_w * w->channels;
                    KD__FN(depthwise_line)
                    (from, step, w->channels, weight + (ptrdiff_t)kh * w->kernel_w * w->channels + c, w->channels,
                     w->kernel_w, count, left, acc);
                }
                KD__UNROLL
                for (i = 0; i < KD__PIXELS; ++i) {
                    if (i < count) kd__v_put(to + (ptrdiff_t)i * w->channels, acc[i], left);
                }
            }
        }
        if (act) {
            float *line = y + oy * w->out_row;
            KD__FN(act)(act, arg, (ptrdiff_t)w->out_w * w->channels, line, line);
        }
    }
}

/* `count` pixels of dx from ix on, a stride apart, gather from the output pixels whose windows they were in; all
   but the first `done` are stored. Sums run from right to left, as taps do. */
KD__INLINE void KD__FN(depthwise_gather)(const kd__window *w, const float *dy, const float *weight, float *dx,
                                         int iy, int ix, int c, int done, int count, int accumulate)
{
    const ptrdiff_t step = (ptrdiff_t)w->stride_w * w->channels;
    const int left = w->channels - c, kw = (ix + w->pad_w) % w->stride_w;
    const int taps = (w->kernel_w - kw + w->stride_w - 1) / w->stride_w;
    const int ox = (ix + w->pad_w - kw) / w->stride_w + count - 1;
    float *to = dx + iy * w->in_row + (ptrdiff_t)ix * w->channels + (count - 1) * step + c;
    kd__v acc[KD__PIXELS];
    int i, kh;
    KD__UNROLL
    for (i = 0; i < KD__PIXELS; ++i)
        acc[i] = accumulate && i < count ? kd__v_get(to - i * step, left) : kd__v_set(0.0f);
    for (kh = (iy + w->pad_h) % w->stride_h; kh < w->kernel_h; kh += w->stride_h) {
        const int oy = (iy + w->pad_h - kh) / w->stride_h;
        if (iy + w->pad_h < kh || oy >= w->out_h) continue;
        KD__FN(depthwise_line)
        (dy + oy * w->out_row + (ptrdiff_t)ox * w->channels + c, -(ptrdiff_t)w->channels, -(ptrdiff_t)w->channels,
         weight + (ptrdiff_t)(kh * w->kernel_w + kw) * w->channels + c, step, taps, count, left, acc);
    }
    KD__UNROLL
    for (i = 0; i < KD__PIXELS; ++i) {
        if (i < count - done) kd__v_put(to - i * step, acc[i], left);
    }
}

/* dy has zeros beside every line as far as windows over dx reach. */
static void KD__FN(depthwise_input_grad)(const kd__window *w, const float *dy, const float *weight, float *dx,
                                         int accumulate)
{
    const int phases = KD__MIN(w->stride_w, w->in_w), lines = w->in_h * phases;
    int line, c, block;
    for (line = 0; line < lines; ++line) {
        const int phase = line % phases, pixels = (w->in_w - phase + w->stride_w - 1) / w->stride_w;
        const float *next_dx = dx + (line / phases + 1) * w->in_row;
        const float *next_dy = dy + ((line / phases + w->pad_h) / w->stride_h + 1) * w->out_row;
        for (block = 0; block < pixels; block += KD__PIXELS) {
            const int first = KD__FN(block_start)(block, pixels), count = KD__MIN(KD__PIXELS, pixels - first);
            for (c = 0; c < w->channels; c += KD__W) {
                KD__FN(fetch_share)(next_dx), next_dx += KD__PIXELS * KD__W;
                KD__FN(fetch_share)(next_dy), next_dy += KD__PIXELS * KD__W;
                KD__FN(depthwise_gather)
                (w, dy, weight, dx, line / phases, phase + first * w->stride_w, c, block - first, count,
                 accumulate);
            }
        }
    }
}

#define KD__TAPS_AT_ONCE 9

/* What one line of dy adds to nine taps of one vector of channels: sums that do not wait for each other. */
KD__INLINE void KD__FN(depthwise_taps)(const float *const *from, const float *dy, int pixels, ptrdiff_t step,
                                       ptrdiff_t dy_step, int left, const int whole, kd__v *acc)
{
    ptrdiff_t at;
    int ox, i;
    for (ox = 0, at = 0; ox < pixels; ++ox, at += step, dy += dy_step) {
        const kd__v d = whole ? kd__v_load(dy) : kd__v_load_n(dy, left);
        KD__UNROLL
        for (i = 0; i < KD__TAPS_AT_ONCE; ++i)
            acc[i] = kd__v_fma(whole ? kd__v_load(from[i] + at) : kd__v_load_n(from[i] + at, left), d, acc[i]);
    }
}

/* The same for 3 x 3 taps of stride 1, which share what they read with their neighbours. */
KD__INLINE void KD__FN(depthwise_taps_3x3)(const float *const *from, const float *dy, int pixels, ptrdiff_t step,
                                           kd__v *acc)
{
    kd__v x[3][3]; /* line, column of the image modulo 3 */
    ptrdiff_t at = 0;
    int ox, i, j, line;
    KD__UNROLL
    for (line = 0; line < 3; ++line) {
        x[line][0] = kd__v_load(from[3 * line]);
        x[line][1] = kd__v_load(from[3 * line + 1]);
    }
    for (ox = 0; ox < pixels; ox += 3) {
        KD__UNROLL
        for (i = 0; i < 3; ++i, at += step) {
            kd__v d;
            if (ox + i >= pixels) return;
            d = kd__v_load(dy + at);
            KD__UNROLL
            for (line = 0; line < 3; ++line) {
                x[line][(i + 2) % 3] = kd__v_load(from[3 * line + 2] + at);
                KD__UNROLL
                for (j = 0; j < 3; ++j) acc[3 * line + j] = kd__v_fma(x[line][(i + j) % 3], d, acc[3 * line + j]);
            }
        }
    }
}

/* Adds what line oy of dy gives to up to nine taps, from first_tap on. Where there are fewer, or a line of the
   image is missing, another tap is summed in its place and the sum dropped. */
KD__INLINE void KD__FN(depthwise_line_grad)(const kd__window *w, const float *x, const float *dy, int oy,
                                            int first_tap, float *dw)
{
    const int count = KD__MIN(KD__TAPS_AT_ONCE, w->kernel_h * w->kernel_w - first_tap);
    const ptrdiff_t step = (ptrdiff_t)w->stride_w * w->channels;
    const float *from[KD__TAPS_AT_ONCE], *some = NULL, *grad = dy + oy * w->out_row;
    const float *next_x = x + (oy * w->stride_h - w->pad_h + w->kernel_h) * w->in_row, *next_dy = grad + w->out_row;
    int c, i, j;
    for (i = 0; i < KD__TAPS_AT_ONCE; ++i) {
        const int tap = first_tap + i, line = oy * w->stride_h - w->pad_h + tap / w->kernel_w;
        const int there = i < count && line >= 0 && line < w->in_h;
        from[i] = there ? x + line * w->in_row + (ptrdiff_t)(tap % w->kernel_w - w->pad_w) * w->channels : NULL;
        if (there && !some) some = from[i];
    }
    if (!some) return;
    for (c = 0; c < w->channels; c += KD__W) {
        const int left = w->channels - c;
        const float *here[KD__TAPS_AT_ONCE];
        kd__v acc[KD__TAPS_AT_ONCE];
        float *to = dw + (ptrdiff_t)first_tap * w->channels + c;
        for (j = 0; j < w->out_w; j += KD__PIXELS, next_x += KD__PIXELS * KD__W, next_dy += KD__PIXELS * KD__W) {
            KD__FN(fetch_share)(next_x);
            KD__FN(fetch_share)(next_dy);
        }
        KD__UNROLL
        for (i = 0; i < KD__TAPS_AT_ONCE; ++i) {
            here[i] = (from[i] ? from[i] : some) + c;
            acc[i] = from[i] ? kd__v_get(to + (ptrdiff_t)i * w->channels, left) : kd__v_set(0.0f);
        }
        if (left >= KD__W && KD__W != 8 && w->kernel_h == 3 && w->kernel_w == 3 && w->stride_w == 1)
            KD__FN(depthwise_taps_3x3)(here, grad + c, w->out_w, step, acc);
        else if (left >= KD__W)
            KD__FN(depthwise_taps)(here, grad + c, w->out_w, step, w->channels, left, 1, acc);
        else
            KD__FN(depthwise_taps)(here, grad + c, w->out_w, step, w->channels, left, 0, acc);
        KD__UNROLL
        for (i = 0; i < KD__TAPS_AT_ONCE; ++i) {
            if (from[i]) kd__v_put(to + (ptrdiff_t)i * w->channels, acc[i], left);
        }
    }
}

/* Adds to dw, line by line through all channels, as memory lies. */
static void KD__FN(depthwise_weight_grad)(const kd__window *w, const float *x, const float *dy, float *dw)
{
    int oy, tap;
    for (oy = 0; oy < w->out_h; ++oy) {
        for (tap = 0; tap < w->kernel_h * w->kernel_w; tap += KD__TAPS_AT_ONCE)
            KD__FN(depthwise_line_grad)(w, x, dy, oy, tap, dw);
    }
}

/* ---- Winograd's convolution ------------------------------------------------------------------------------ */

/* F(4 x 4, 3 x 3) of Lavin and Gray (2016): output = A'[(G w G')(B' x B)]A, element by element in the middle, where
   x are 6 x 6 pixels; the gradient of w is G'[(A dy A')(B' x B)]G. Here is each of these for one dimension: from
   vectors `step` apart to y, one after the other. The polynomials meet at 0, +-P, +-Q and infinity. With 3/4 and
   3/2, outputs of 64 channels err by 9e-7 of their root mean square; with the usual 1 and 2 it is twice that, with
   plain sums 4e-7 (Barabasz et al. 2020 on the choice of points). */
#define KD__WINO_P 0.75f
#define KD__WINO_Q 1.5f
#define KD__WINO_P2 (KD__WINO_P * KD__WINO_P)
#define KD__WINO_Q2 (KD__WINO_Q * KD__WINO_Q)
/* rows of G: 1 over the product of the distances to the other points */
#define KD__WINO_G0 (1 / (KD__WINO_P2 * KD__WINO_Q2))
#define KD__WINO_GP (1 / (2 * KD__WINO_P2 * (KD__WINO_P2 - KD__WINO_Q2)))
#define KD__WINO_GQ (1 / (2 * KD__WINO_Q2 * (KD__WINO_Q2 - KD__WINO_P2)))

/* *plus, *minus = even +- point * odd */
KD__INLINE void KD__FN(wino_pair)(kd__v even, kd__v odd, float point, kd__v *plus, kd__v *minus)
{
    *plus = kd__v_fma(odd, kd__v_set(point), even);
    *minus = kd__v_fma(odd, kd__v_set(-point), even);
}

/* B' x */
KD__INLINE void KD__FN(wino_image)(const kd__v *x, const int step, kd__v *y)
{
    const kd__v p2 = kd__v_set(-KD__WINO_P2), q2 = kd__v_set(-KD__WINO_Q2);
    const kd__v product = kd__v_set(KD__WINO_P2 * KD__WINO_Q2), sum = kd__v_set(-(KD__WINO_P2 + KD__WINO_Q2));
    const kd__v x1 = x[step], x2 = x[2 * step], x3 = x[3 * step], x4 = x[4 * step];
    y[0] = kd__v_fma(x[0], product, kd__v_fma(x2, sum, x4));
    KD__FN(wino_pair)(kd__v_fma(x2, q2, x4), kd__v_fma(x1, q2, x3), KD__WINO_P, &y[1], &y[2]);
    KD__FN(wino_pair)(kd__v_fma(x2, p2, x4), kd__v_fma(x1, p2, x3), KD__WINO_Q, &y[3], &y[4]);
    y[5] = kd__v_fma(x1, product, kd__v_fma(x3, sum, x[5 * step]));
}

/* A' x */
KD__INLINE void KD__FN(wino_output)(const kd__v *x, const int step, kd__v *y)
{
    const kd__v p = kd__v_set(KD__WINO_P), p2 = kd__v_set(KD__WINO_P2), p3 = kd__v_set(KD__WINO_P * KD__WINO_P2);
    const kd__v q = kd__v_set(KD__WINO_Q), q2 = kd__v_set(KD__WINO_Q2), q3 = kd__v_set(KD__WINO_Q * KD__WINO_Q2);
    const kd__v even_p = kd__v_add(x[step], x[2 * step]), odd_p = kd__v_sub(x[step], x[2 * step]);
    const kd__v even_q = kd__v_add(x[3 * step], x[4 * step]), odd_q = kd__v_sub(x[3 * step], x[4 * step]);
    y[0] = kd__v_add(x[0], kd__v_add(even_p, even_q));
    y[1] = kd__v_fma(odd_q, q, kd__v_mul(odd_p, p));
    y[2] = kd__v_fma(even_q, q2, kd__v_mul(even_p, p2));
    y[3] = kd__v_fma(odd_q, q3, kd__v_fma(odd_p, p3, x[5 * step]));
}

/* A x */
KD__INLINE void KD__FN(wino_output_grad)(const kd__v *x, const int step, kd__v *y)
{
    const kd__v p2 = kd__v_set(KD__WINO_P2), q2 = kd__v_set(KD__WINO_Q2);
    const kd__v x0 = x[0], x1 = x[step], x2 = x[2 * step], x3 = x[3 * step];
    y[0] = x0;
    KD__FN(wino_pair)(kd__v_fma(x2, p2, x0), kd__v_fma(x3, p2, x1), KD__WINO_P, &y[1], &y[2]);
    KD__FN(wino_pair)(kd__v_fma(x2, q2, x0), kd__v_fma(x3, q2, x1), KD__WINO_Q, &y[3], &y[4]);
    y[5] = x3;
}

/* G x */
KD__INLINE void KD__FN(wino_weight)(const kd__v *x, const int step, kd__v *y)
{
    const kd__v x0 = x[0], x1 = x[step], x2 = x[2 * step];
    const kd__v gp = kd__v_set(KD__WINO_GP), gq = kd__v_set(KD__WINO_GQ);
    y[0] = kd__v_mul(x0, kd__v_set(KD__WINO_G0));
    KD__FN(wino_pair)
    (kd__v_mul(gp, kd__v_fma(x2, kd__v_set(KD__WINO_P2), x0)), kd__v_mul(gp, x1), KD__WINO_P, &y[1], &y[2]);
    KD__FN(wino_pair)
    (kd__v_mul(gq, kd__v_fma(x2, kd__v_set(KD__WINO_Q2), x0)), kd__v_mul(gq, x1), KD__WINO_Q, &y[3], &y[4]);
    y[5] = x2;
}

/* G' x */
KD__INLINE void KD__FN(wino_weight_grad)(const kd__v *x, const int step, kd__v *y)
{
    const kd__v gp = kd__v_set(KD__WINO_GP), gq = kd__v_set(KD__WINO_GQ);
    const kd__v even_p = kd__v_mul(gp, kd__v_add(x[step], x[2 * step]));
    const kd__v odd_p = kd__v_mul(gp, kd__v_sub(x[step], x[2 * step]));
    const kd__v even_q = kd__v_mul(gq, kd__v_add(x[3 * step], x[4 * step]));
    const kd__v odd_q = kd__v_mul(gq, kd__v_sub(x[3 * step], x[4 * step]));
    y[0] = kd__v_fma(x[0], kd__v_set(KD__WINO_G0), kd__v_add(even_p, even_q));
    y[1] = kd__v_fma(odd_q, kd__v_set(KD__WINO_Q), kd__v_mul(odd_p, kd__v_set(KD__WINO_P)));
    y[2] = kd__v_fma(even_q, kd__v_set(KD__WINO_Q2), kd__v_fma(even_p, kd__v_set(KD__WINO_P2), x[5 * step]));
}

/* One of these over lines and then over columns, from in x in vectors to out x out: load gives the one at (i, j),
   store has it in `value`. */
#define KD__WINO_BOTH(step, in, out, load, store)                                                                  \
    {                                                                                                              \
        kd__v half[in][6], line[6];                                                                                \
        int i, j;                                                                                                  \
        KD__UNROLL                                                                                                 \
        for (i = 0; i < (in); ++i) {                                                                               \
            KD__UNROLL                                                                                             \
            for (j = 0; j < (in); ++j) line[j] = load;                                                             \
            KD__FN(step)(line, 1, half[i]);                                                                        \
        }                                                                                                          \
        KD__UNROLL                                                                                                 \
        for (j = 0; j < (out); ++j) {                                                                              \
            KD__FN(step)(&half[0][j], 6, line);                                                                    \
            KD__UNROLL                                                                                             \
            for (i = 0; i < (out); ++i) {                                                                          \
                const kd__v value = line[i];                                                                       \
                store;                                                                                             \
            }                                                                                                      \
        }                                                                                                          \
    }

/* The lines of the tile at (y, x), `size` of them. */
KD__INLINE void KD__FN(wino_lines)(const kd__tiles *t, float *image, int tile, const int size, const float **lines)
{
    const int y = t->origin_h + tile / t->across * 4, x = t->origin_w + tile % t->across * 4;
    int i;
    for (i = 0; i < size; ++i)
        lines[i] = y + i >= 0 && y + i < t->h ? image + (y + i) * t->row + (ptrdiff_t)x * t->channels : t->zeros;
}

/* What the tile to the right will read beside this one: lines of images are too far apart for the processor to see
   where reading goes on. */
KD__INLINE void KD__FN(wino_fetch)(const kd__tiles *t, const float *const *lines, int c, int tile, const int size)
{
    int i, j;
    if ((tile + 1) % t->across == 0) return;
    KD__UNROLL
    for (i = 0; i < size; ++i) {
        KD__UNROLL
        for (j = size; j < size + 4; ++j) kd__fetch(lines[i] + (ptrdiff_t)j * t->channels + c);
    }
}

static void KD__FN(winograd_read)(const kd__tiles *t, float *image, float *planes)
{
    const float *lines[6];
    int n, c;
    for (n = 0; n < t->count; ++n) {
        KD__FN(wino_lines)(t, image, t->first + n, 6, lines);
        for (c = 0; c < t->channels; c += KD__W) {
            float *to = planes + n * t->tile + c;
            KD__FN(wino_fetch)(t, lines, c, t->first + n, 6);
            KD__WINO_BOTH(wino_image, 6, 6, kd__v_load(lines[i] + (ptrdiff_t)j * t->channels + c),
                          kd__v_store(to + (i * 6 + j) * t->plane, value))
        }
    }
}

static void KD__FN(winograd_read_grad)(const kd__tiles *t, float *image, float *planes)
{
    const float *lines[4];
    int n, c;
    for (n = 0; n < t->count; ++n) {
        KD__FN(wino_lines)(t, image, t->first + n, 4, lines);
        for (c = 0; c < t->channels; c += KD__W) {
            float *to = planes + n * t->tile + c;
            KD__FN(wino_fetch)(t, lines, c, t->first + n, 4);
            KD__WINO_BOTH(wino_output_grad, 4, 6, kd__v_load(lines[i] + (ptrdiff_t)j * t->channels + c),
                          kd__v_store(to + (i * 6 + j) * t->plane, value))
        }
    }
}

KD__INLINE void KD__FN(wino_put)(const kd__tiles *t, float *y, int c, kd__v value)
{
    const int left = t->channels - c;
    if (t->bias) value = kd__v_add(value, kd__v_load(t->bias + c));
    if (t->accumulate) value = kd__v_add(kd__v_get(y, left), value);
    kd__v_put(y, KD__FN(gemm_act)(t->act, t->act_arg, value), left);
}

static void KD__FN(winograd_write)(const kd__tiles *t, float *image, float *planes)
{
    int n, c;
    for (n = 0; n < t->count; ++n) {
        const int y = (t->first + n) / t->across * 4, x = (t->first + n) % t->across * 4;
        const int lines = t->h - y, pixels = t->w - x;
        for (c = 0; c < t->channels; c += KD__W) {
            const float *from = planes + n * t->tile + c;
            float *to = image + y * t->row + (ptrdiff_t)x * t->channels + c;
            KD__WINO_BOTH(wino_output, 6, 4, kd__v_load(from + (i * 6 + j) * t->plane),
                          if (i < lines && j < pixels)
                              KD__FN(wino_put)(t, to + i * t->row + (ptrdiff_t)j * t->channels, c, value))
        }
    }
}

/* n numbers for every tap, to n for every plane ... */
static void KD__FN(winograd_weight)(ptrdiff_t n, float *taps, float *planes)
{
    ptrdiff_t c;
    for (c = 0; c < n; c += KD__W) {
        KD__WINO_BOTH(wino_weight, 3, 6, kd__v_get(taps + (i * 3 + j) * n + c, n - c),
                      kd__v_put(planes + (i * 6 + j) * n + c, value, n - c))
    }
}

/* ... and back. */
static void KD__FN(winograd_weight_grad)(ptrdiff_t n, float *taps, float *planes)
{
    ptrdiff_t c;
    for (c = 0; c < n; c += KD__W) {
        KD__WINO_BOTH(wino_weight_grad, 6, 3, kd__v_get(planes + (i * 6 + j) * n + c, n - c),
                      kd__v_put(taps + (i * 3 + j) * n + c, value, n - c))
    }
}

/* ---- pooling --------------------------------------------------------------------------------------------- */

/* NaN if either is, so that pooling hides none. */
KD__INLINE kd__v KD__FN(larger)(kd__v a, kd__v b) { return kd__v_select(kd__v_eq(b, b), kd__v_max(b, a), b); }

/* The largest of four in windows that halve, and its place, the first of several and none if it is a NaN, as
   PyTorch has it. Without places a NULL, that and left are constants in most uses. */
KD__INLINE void KD__FN(maxpool_four)(const float *from, const ptrdiff_t *steps, int relu, float *to, float *place,
                                     const int left)
{
    const kd__v nowhere = kd__v_set(4.0f);
    kd__v four[4], largest, at = nowhere;
    int i;
    KD__UNROLL
    for (i = 0; i < 4; ++i) four[i] = kd__v_get(from + steps[i], left);
    largest = KD__FN(larger)(four[0], four[1]);
    largest = KD__FN(larger)(largest, KD__FN(larger)(four[2], four[3]));
    kd__v_put(to, largest, left);
    if (!place) return;
    KD__UNROLL
    for (i = 3; i >= 0; --i) at = kd__v_select(kd__v_eq(four[i], largest), kd__v_set((float)i), at);
    if (relu) at = kd__v_select(kd__v_lt(kd__v_set(0.0f), largest), at, nowhere);
    kd__v_put(place, at, left);
}

KD__INLINE void KD__FN(maxpool_halves)(const kd__window *w, const float *x, int relu, float *y, float *places)
{
    const ptrdiff_t steps[4] = {0, w->channels, w->in_row, w->in_row + w->channels};
    const int whole = w->channels / KD__W * KD__W;
    float *place = places;
    int oy, ox, c;
    for (oy = 0; oy < w->out_h; ++oy) {
        const float *from = x + 2 * oy * w->in_row;
        float *to = y + oy * w->out_row;
        for (ox = 0; ox < w->out_w; ++ox, from += 2 * w->channels, to += w->channels) {
            for (c = 0; c < whole; c += KD__W)
                KD__FN(maxpool_four)(from + c, steps, relu, to + c, places ? place + c : NULL, KD__W);
            if (c < w->channels)
                KD__FN(maxpool_four)(from + c, steps, relu, to + c, places ? place + c : NULL, w->channels - c);
            if (places) place += w->channels;
        }
    }
}

static void KD__FN(maxpool)(const kd__window *w, const float *x, float *y)
{
    int oy, ox, c, kh, kw, kh0, kh1, kw0, kw1;
    KD__IF_NARROW(w->channels, maxpool, (w, x, y))
    if (kd__window_halves(w)) {
        KD__FN(maxpool_halves)(w, x, 0, y, NULL);
        return;
    }
    for (oy = 0; oy < w->out_h; ++oy) {
        KD__FN(clip)(oy, w->stride_h, w->pad_h, w->kernel_h, w->in_h, &kh0, &kh1);
        for (ox = 0; ox < w->out_w; ++ox) {
            const float *corner = x + (oy * w->stride_h - w->pad_h) * w->in_row +
                                  (ptrdiff_t)(ox * w->stride_w - w->pad_w) * w->channels;
            float *to = y + oy * w->out_row + (ptrdiff_t)ox * w->channels;
            KD__FN(clip)(ox, w->stride_w, w->pad_w, w->kernel_w, w->in_w, &kw0, &kw1);
            for (c = 0; c < w->channels; c += KD__W) {
                const int left = w->channels - c;
                kd__v largest = kd__v_set(-INFINITY);
                for (kh = kh0; kh < kh1; ++kh) {
                    for (kw = kw0; kw < kw1; ++kw)
                        largest = KD__FN(larger)(
                            largest, kd__v_get(corner + kh * w->in_row + (ptrdiff_t)kw * w->channels + c, left));
                }
                kd__v_put(to + c, largest, left);
            }
        }
    }
}

static void KD__FN(maxpool_places)(const kd__window *w, const float *x, int relu, float *y, float *places)
{
    KD__IF_NARROW(w->channels, maxpool_places, (w, x, relu, y, places))
    KD__FN(maxpool_halves)(w, x, relu, y, places);
}

/* overwrite is a constant in all uses, left in most. */
KD__INLINE void KD__FN(maxpool_grad_four)(kd__v place, kd__v dy, const ptrdiff_t *steps, float *to,
                                          const int overwrite, const int left)
{
    const kd__v zero = kd__v_set(0.0f);
    int i;
    KD__UNROLL
    for (i = 0; i < 4; ++i) {
        const kd__v old = overwrite ? zero : kd__v_get(to + steps[i], left);
        const kd__v share = kd__v_select(kd__v_eq(place, kd__v_set((float)i)), dy, zero);
        kd__v_put(to + steps[i], kd__v_add(old, share), left);
    }
}

KD__INLINE void KD__FN(maxpool_halves_grad)(const kd__pool_grads *g, const float *places, const float *dy,
                                            float *dx, const int overwrite)
{
    const int channels = g->x.channels, whole = channels / KD__W * KD__W, left = channels - whole;
    const ptrdiff_t steps[4] = {0, channels, g->dx_row, g->dx_row + channels};
    int oy, ox, c;
    for (oy = 0; oy < g->x.out_h; ++oy) {
        const float *from = dy + oy * g->dy_row;
        float *to = dx + 2 * oy * g->dx_row;
        for (ox = 0; ox < g->x.out_w; ++ox, from += channels, places += channels, to += 2 * channels) {
            for (c = 0; c < whole; c += KD__W) {
                const kd__v place = kd__v_load(places + c), share = kd__v_load(from + c);
                KD__FN(maxpool_grad_four)(place, share, steps, to + c, overwrite, KD__W);
            }
            if (left) {
                const kd__v place = kd__v_load_n(places + c, left), share = kd__v_load_n(from + c, left);
                KD__FN(maxpool_grad_four)(place, share, steps, to + c, overwrite, left);
            }
        }
    }
}

static void KD__FN(maxpool_places_grad)(const kd__pool_grads *g, const float *places, const float *dy, float *dx)
{
    KD__IF_NARROW(g->x.channels, maxpool_places_grad, (g, places, dy, dx))
    if (g->overwrite)
        KD__FN(maxpool_halves_grad)(g, places, dy, dx, 1);
    else
        KD__FN(maxpool_halves_grad)(g, places, dy, dx, 0);
}

/* The first of several equal maxima gets the gradient, as in PyTorch. */
static void KD__FN(maxpool_grad)(const kd__pool_grads *g, const float *x, const float *y, const float *dy,
                                 float *dx)
{
    const kd__window *w = &g->x;
    const kd__v zero = kd__v_set(0.0f);
    int oy, ox, c, kh, kw, kh0, kh1, kw0, kw1;
    for (oy = 0; oy < w->out_h; ++oy) {
        KD__FN(clip)(oy, w->stride_h, w->pad_h, w->kernel_h, w->in_h, &kh0, &kh1);
        for (ox = 0; ox < w->out_w; ++ox) {
            const ptrdiff_t pixel = (ptrdiff_t)(ox * w->stride_w - w->pad_w) * w->channels;
            const float *largest_at = y + oy * w->out_row + (ptrdiff_t)ox * w->channels;
            const float *grad = dy + oy * g->dy_row + (ptrdiff_t)ox * w->channels;
            KD__FN(clip)(ox, w->stride_w, w->pad_w, w->kernel_w, w->in_w, &kw0, &kw1);
            for (c = 0; c < w->channels; c += KD__W) {
                const int left = w->channels - c;
                const kd__v largest = kd__v_get(largest_at + c, left);
                kd__v rest = kd__v_get(grad + c, left);
                if (g->relu) rest = kd__v_select(kd__v_lt(zero, largest), rest, zero);
                for (kh = kh0; kh < kh1; ++kh) {
                    const int line = oy * w->stride_h - w->pad_h + kh;
                    for (kw = kw0; kw < kw1; ++kw) {
                        const ptrdiff_t at = pixel + (ptrdiff_t)kw * w->channels + c;
                        const kd__vm hit = kd__v_eq(kd__v_get(x + line * w->in_row + at, left), largest);
                        float *to = dx + line * g->dx_row + at;
                        kd__v_put(to, kd__v_add(kd__v_get(to, left), kd__v_select(hit, rest, zero)), left);
                        rest = kd__v_select(hit, zero, rest);
                    }
                }
            }
        }
    }
}

/* The mean over the whole window, padding counted as zeros, as PyTorch does by default. */
static void KD__FN(avgpool)(const kd__window *w, const float *x, float *y)
{
    const kd__v area = kd__v_set((float)(w->kernel_h * w->kernel_w));
    int oy, ox, c, kh, kw, kh0, kh1, kw0, kw1;
    for (oy = 0; oy < w->out_h; ++oy) {
        KD__FN(clip)(oy, w->stride_h, w->pad_h, w->kernel_h, w->in_h, &kh0, &kh1);
        for (ox = 0; ox < w->out_w; ++ox) {
            const float *corner = x + (oy * w->stride_h - w->pad_h) * w->in_row +
                                  (ptrdiff_t)(ox * w->stride_w - w->pad_w) * w->channels;
            float *to = y + oy * w->out_row + (ptrdiff_t)ox * w->channels;
            KD__FN(clip)(ox, w->stride_w, w->pad_w, w->kernel_w, w->in_w, &kw0, &kw1);
            for (c = 0; c < w->channels; c += KD__W) {
                const int left = w->channels - c;
                kd__v sum = kd__v_set(0.0f);
                for (kh = kh0; kh < kh1; ++kh) {
                    for (kw = kw0; kw < kw1; ++kw)
                        sum = kd__v_add(sum,
                                        kd__v_get(corner + kh * w->in_row + (ptrdiff_t)kw * w->channels + c, left));
                }
                kd__v_put(to + c, kd__v_div(sum, area), left);
            }
        }
    }
}

/* Adds to dx. */
static void KD__FN(avgpool_grad)(const kd__window *w, const float *dy, float *dx)
{
    const kd__v area = kd__v_set((float)(w->kernel_h * w->kernel_w));
    int oy, ox, c, kh, kw, kh0, kh1, kw0, kw1;
    for (oy = 0; oy < w->out_h; ++oy) {
        KD__FN(clip)(oy, w->stride_h, w->pad_h, w->kernel_h, w->in_h, &kh0, &kh1);
        for (ox = 0; ox < w->out_w; ++ox) {
            float *corner = dx + (oy * w->stride_h - w->pad_h) * w->in_row +
                            (ptrdiff_t)(ox * w->stride_w - w->pad_w) * w->channels;
            const float *from = dy + oy * w->out_row + (ptrdiff_t)ox * w->channels;
            KD__FN(clip)(ox, w->stride_w, w->pad_w, w->kernel_w, w->in_w, &kw0, &kw1);
            for (c = 0; c < w->channels; c += KD__W) {
                const int left = w->channels - c;
                const kd__v share = kd__v_div(kd__v_get(from + c, left), area);
                for (kh = kh0; kh < kh1; ++kh) {
                    for (kw = kw0; kw < kw1; ++kw) {
                        float *to = corner + kh * w->in_row + (ptrdiff_t)kw * w->channels + c;
                        kd__v_put(to, kd__v_add(kd__v_get(to, left), share), left);
                    }
                }
            }
        }
    }
}

/* ---- batch normalisation --------------------------------------------------------------------------------- */

/* Mean and sum of squared deviations by channel over one sample: two passes, so that nothing cancels. */
static void KD__FN(norm_stats)(const kd__image *i, const float *x, float *mean, float *m2)
{
    const kd__v count = kd__v_set((float)(i->h * i->w));
    int c, h, w;
    for (c = 0; c < i->channels; c += KD__W) {
        const int left = i->channels - c;
        kd__v sum = kd__v_set(0.0f), average;
        for (h = 0; h < i->h; ++h) {
            kd__v line = kd__v_set(0.0f);
            for (w = 0; w < i->w; ++w)
                line = kd__v_add(line, kd__v_get(x + h * i->row + (ptrdiff_t)w * i->channels + c, left));
            sum = kd__v_add(sum, line);
        }
        average = kd__v_div(sum, count);
        sum = kd__v_set(0.0f);
        for (h = 0; h < i->h; ++h) {
            kd__v line = kd__v_set(0.0f);
            for (w = 0; w < i->w; ++w) {
                const kd__v d =
                    kd__v_sub(kd__v_get(x + h * i->row + (ptrdiff_t)w * i->channels + c, left), average);
                line = kd__v_fma(d, d, line);
            }
            sum = kd__v_add(sum, line);
        }
        kd__v_put(mean + c, average, left);
        kd__v_put(m2 + c, sum, left);
    }
}

static void KD__FN(norm_apply)(const kd__image *i, const float *x, const float *mean, const float *scale,
                               const float *shift, int act, float arg, float *y, ptrdiff_t y_row)
{
    int c, h, w;
    for (h = 0; h < i->h; ++h) {
        for (c = 0; c < i->channels; c += KD__W) {
            const int left = i->channels - c;
            const kd__v m = kd__v_get(mean + c, left), s = kd__v_get(scale + c, left),
                        b = kd__v_get(shift + c, left);
            for (w = 0; w < i->w; ++w) {
                const ptrdiff_t at = (ptrdiff_t)w * i->channels + c;
                const kd__v d = kd__v_sub(kd__v_get(x + h * i->row + at, left), m);
                kd__v_put(y + h * y_row + at, kd__v_fma(d, s, b), left);
            }
        }
        if (act) KD__FN(act)(act, arg, (ptrdiff_t)i->w * i->channels, y + h * y_row, y + h * y_row);
    }
}

/* Sums by channel over one sample of dy and of dy times the normalised input; overwrites both. */
static void KD__FN(norm_grad_stats)(const kd__image *i, const float *x, const float *dy, ptrdiff_t dy_row,
                                    const float *mean, const float *inv_std, float *sum_dy, float *sum_dy_xhat)
{
    int c, h, w;
    for (c = 0; c < i->channels; c += KD__W) {
        const int left = i->channels - c;
        const kd__v m = kd__v_get(mean + c, left), s = kd__v_get(inv_std + c, left);
        kd__v sum = kd__v_set(0.0f), weighted = kd__v_set(0.0f);
        for (h = 0; h < i->h; ++h) {
            kd__v line = kd__v_set(0.0f), line_weighted = kd__v_set(0.0f);
            for (w = 0; w < i->w; ++w) {
                const ptrdiff_t at = (ptrdiff_t)w * i->channels + c;
                const kd__v d = kd__v_get(dy + h * dy_row + at, left);
                const kd__v xhat = kd__v_mul(kd__v_sub(kd__v_get(x + h * i->row + at, left), m), s);
                line = kd__v_add(line, d);
                line_weighted = kd__v_fma(d, xhat, line_weighted);
            }
            sum = kd__v_add(sum, line);
            weighted = kd__v_add(weighted, line_weighted);
        }
        kd__v_put(sum_dy + c, sum, left);
        kd__v_put(sum_dy_xhat + c, weighted, left);
    }
}

/* dx = factor * (dy - mean_dy - xhat * mean_dy_xhat), factor = gamma / std */
static void KD__FN(norm_grad)(const kd__image *i, const float *x, const float *dy, ptrdiff_t dy_row,
                              const float *mean, const float *inv_std, const float *factor, const float *mean_dy,
                              const float *mean_dy_xhat, float *dx, ptrdiff_t dx_row, int accumulate)
{
    int c, h, w;
    for (h = 0; h < i->h; ++h) {
        for (c = 0; c < i->channels; c += KD__W) {
            const int left = i->channels - c;
            const kd__v m = kd__v_get(mean + c, left), s = kd__v_get(inv_std + c, left),
                        f = kd__v_get(factor + c, left);
            const kd__v a = kd__v_get(mean_dy + c, left), b = kd__v_get(mean_dy_xhat + c, left);
            for (w = 0; w < i->w; ++w) {
                const ptrdiff_t at = (ptrdiff_t)w * i->channels + c;
                const kd__v xhat = kd__v_mul(kd__v_sub(kd__v_get(x + h * i->row + at, left), m), s);
                kd__v d = kd__v_sub(kd__v_sub(kd__v_get(dy + h * dy_row + at, left), a), kd__v_mul(xhat, b));
                d = kd__v_mul(d, f);
                if (accumulate) d = kd__v_add(kd__v_get(dx + h * dx_row + at, left), d);
                kd__v_put(dx + h * dx_row + at, d, left);
            }
        }
    }
}

/* ---- rows of logits -------------------------------------------------------------------------------------- */

/* Rows of up to KD__SHORT columns are turned, so that a vector holds one column of KD__W rows and nothing has to be
   summed across lanes; longer ones are read along the row. Which it is depends on the number of columns alone.
   What bounds long ones: one exponential after the other waits for its own steps, so several go abreast; rows of a
   hundred wait for sums across lanes, so several rows take each step together; and large batches wait for memory,
   so the next row is fetched while one is worked on. */
#define KD__SHORT 16

KD__INLINE void KD__FN(load_short)(const float *x, int rows, int cols, kd__v *columns)
{
    int c = 0, i;
    do {
        kd__v block[KD__W];
        for (i = 0; i < KD__W; ++i)
            block[i] = i < rows ? kd__v_get(x + (ptrdiff_t)i * cols + c, cols - c) : kd__v_set(0.0f);
        KD__FN(turn)(block);
        for (i = 0; i < KD__W; ++i) columns[c + i] = block[i];
        c += KD__W;
    } while (c < cols);
}

KD__INLINE void KD__FN(store_short)(float *x, int rows, int cols, const kd__v *columns)
{
    int c, i;
    for (c = 0; c < cols; c += KD__W) {
        kd__v block[KD__W];
        for (i = 0; i < KD__W; ++i) block[i] = columns[c + i];
        KD__FN(turn)(block);
        for (i = 0; i < rows; ++i) kd__v_put(x + (ptrdiff_t)i * cols + c, block[i], cols - c);
    }
}

/* A row is gone through in blocks of columns: as many whole ones as stand abreast, and 16 or what is left of them.
   `run` is one on (column, columns left, vectors). */
#define KD__BLOCK KD__MAX(KD__ABREAST, KD__SUM_VECTORS)
#define KD__ROW_BLOCKS(cols, run)                                                                                  \
    do {                                                                                                           \
        int c = 0;                                                                                                 \
        for (; KD__W > 1 && c + KD__BLOCK * KD__W <= (cols); c += KD__BLOCK * KD__W)                               \
            run(c, KD__BLOCK *KD__W, KD__BLOCK);                                                                   \
        for (; c < (cols); c += 16) run(c, (cols)-c, KD__SUM_VECTORS);                                             \
    } while (0)

/* Of columns in vectors of rows, with room for a multiple of KD__ABREAST. */
KD__INLINE void KD__FN(exps_short)(kd__v *columns, int cols)
{
    int c;
    for (c = cols; c % KD__ABREAST; ++c) columns[c] = kd__v_set(0.0f);
    for (c = 0; c < cols; c += KD__ABREAST) KD__FN(exps)(columns + c, KD__ABREAST);
}

KD__INLINE void KD__FN(fetch_block)(const float *p, int columns)
{
    int i;
    for (i = 0; i < columns && i < KD__BLOCK * KD__W; i += KD__LINE) kd__fetch(p + i);
}

/* Of a whole vector at least; four at a time, so that none waits for another. */
KD__INLINE float KD__FN(row_max)(const float *x, int cols)
{
    kd__v largest[4];
    int c, i;
    KD__UNROLL
    for (i = 0; i < 4; ++i) largest[i] = kd__v_set(x[0]);
    for (c = 0; c + 4 * KD__W <= cols; c += 4 * KD__W) {
        KD__UNROLL
        for (i = 0; i < 4; ++i) largest[i] = kd__v_max(kd__v_load(x + c + i * KD__W), largest[i]);
    }
    KD__UNROLL
    for (i = 0; i < 3; ++i) {
        if (c + KD__W <= cols) largest[i] = kd__v_max(kd__v_load(x + c), largest[i]), c += KD__W;
    }
    if (c < cols) largest[3] = kd__v_max(kd__v_load(x + cols - KD__W), largest[3]); /* some once more */
    return KD__FN(max_of_4)(largest);
}

KD__INLINE kd__vm KD__FN(first_lanes)(int count)
{
    return kd__v_lt(kd__vi_to_float(kd__vi_iota()), kd__v_set((float)count));
}

/* Of a row with `left` columns to go: those there are, and `other` beyond. */
KD__INLINE kd__v KD__FN(get_or)(const float *p, int left, kd__v other)
{
    if (left >= KD__W) return kd__v_load(p);
    return left <= 0 ? other : kd__v_select(KD__FN(first_lanes)(left), kd__v_load_n(p, left), other);
}

KD__INLINE void KD__FN(put_any)(float *p, kd__v x, int left)
{
    if (left > 0) kd__v_put(p, x, left);
}

KD__INLINE kd__v KD__FN(zero_beyond)(kd__v x, int left)
{
    const kd__v zero = kd__v_set(0.0f);
    if (left >= KD__W) return x;
    return left <= 0 ? zero : kd__v_select(KD__FN(first_lanes)(left), x, zero);
}

/* x - largest, where equal infinities count as equal. */
KD__INLINE kd__v KD__FN(centred)(kd__v x, kd__v largest)
{
    return kd__v_select(kd__v_eq(x, largest), kd__v_set(0.0f), kd__v_sub(x, largest));
}

/* Half of that, which no two floats are too far apart for. */
KD__INLINE kd__v KD__FN(centred_half)(kd__v x, kd__v largest)
{
    const kd__v half = kd__v_fma(x, kd__v_set(0.5f), kd__v_mul(largest, kd__v_set(-0.5f)));
    return kd__v_select(kd__v_eq(x, largest), kd__v_set(0.0f), half);
}

/* two_t: 2 / temperature */
KD__INLINE void KD__FN(softmax_short)(const float *x, int rows, int cols, kd__v two_t, int logarithm, float *y)
{
    kd__v column[KD__SHORT], e[KD__SHORT], largest, sum = kd__v_set(0.0f);
    int c;
    KD__FN(load_short)(x, rows, cols, column);
    largest = column[0];
    for (c = 1; c < cols; ++c) largest = kd__v_max(column[c], largest);
    for (c = 0; c < cols; ++c) column[c] = e[c] = kd__v_mul(KD__FN(centred_half)(column[c], largest), two_t);
    KD__FN(exps_short)(e, cols);
    for (c = 0; c < cols; ++c) sum = kd__v_add(sum, e[c]);
    if (logarithm) sum = KD__FN(log)(sum);
    for (c = 0; c < cols; ++c)
        column[c] = logarithm ? kd__v_sub(column[c], sum) : KD__FN(cut)(kd__v_div(e[c], sum), kd__v_set(KD__LEAST));
    KD__FN(store_short)(y, rows, cols, column);
}

KD__INLINE void KD__FN(softmax_block)(const float *x, int left, const int count, kd__v largest, kd__v two_t,
                                      const int logarithm, float *y, kd__v *sums)
{
    const kd__v half = kd__v_set(0.5f), centre = kd__v_mul(largest, kd__v_set(-0.5f));
    kd__v e[16];
    int i;
    KD__LOOP(e[i] = kd__v_fma(KD__FN(get_or)(x + i * KD__W, left - i * KD__W, largest), half, centre))
    KD__LOOP(e[i] = kd__v_mul(e[i], two_t))
    if (logarithm) KD__LOOP(KD__FN(put_any)(y + i * KD__W, e[i], left - i * KD__W))
    KD__FN(exps)(e, count);
    if (!logarithm) KD__LOOP(KD__FN(put_any)(y + i * KD__W, e[i], left - i * KD__W))
    KD__LOOP(sums[i % KD__SUM_VECTORS] =
                 kd__v_add(sums[i % KD__SUM_VECTORS], KD__FN(zero_beyond)(e[i], left - i * KD__W)))
}

/* `next`: floats to the next row, which is fetched meanwhile; or 0 */
KD__INLINE void KD__FN(softmax_long)(const float *x, int cols, kd__v two_t, const int logarithm, float *y,
                                     ptrdiff_t next)
{
    float highest = KD__FN(row_max)(x, cols);
    kd__v sums[KD__SUM_VECTORS], largest, sum;
    int i;
    for (i = 0; i < KD__SUM_VECTORS; ++i) sums[i] = kd__v_set(0.0f);
    if (!kd__is_finite((double)highest)) { /* 0 for each of those, and what is left without them */
        for (i = 0; i < cols; i += KD__W)
            kd__v_put(y + i, KD__FN(centred)(kd__v_get(x + i, cols - i), kd__v_set(highest)), cols - i);
        x = y;
        highest = 0;
    }
    largest = kd__v_set(highest);
#define KD__RUN(c, left, count)                                                                                    \
    do {                                                                                                           \
        KD__FN(fetch_block)(x + c + next, left);                                                                   \
        KD__FN(fetch_block)(y + c + next, left);                                                                   \
        KD__FN(softmax_block)(x + c, left, count, largest, two_t, logarithm, y + c, sums);                         \
    } while (0)
    KD__ROW_BLOCKS(cols, KD__RUN);
#undef KD__RUN
    sum = kd__v_set(KD__FN(sum16)(sums));
    sum = logarithm ? KD__FN(log)(sum) : kd__v_div(kd__v_set(1.0f), sum);
    for (i = 0; i < cols; i += KD__W) {
        const kd__v value = kd__v_get(y + i, cols - i);
        if (logarithm)
            kd__v_put(y + i, kd__v_sub(value, sum), cols - i);
        else
            kd__v_put(y + i, KD__FN(cut)(kd__v_mul(value, sum), kd__v_set(KD__LEAST)), cols - i);
    }
}

static void KD__FN(softmax)(const float *x, int rows, int cols, float temperature, int logarithm, float *y)
{
    const kd__v two_t = kd__v_set(KD__MIN(2.0f / temperature, 3e38f)); /* times 0, too */
    int r;
    if (cols <= KD__SHORT) {
        for (r = 0; r < rows; r += KD__W) KD__FN(softmax_short)
        (x + (ptrdiff_t)r * cols, KD__MIN(KD__W, rows - r), cols, two_t, logarithm, y + (ptrdiff_t)r * cols);
        return;
    }
    for (r = 0; r < rows; ++r, x += cols, y += cols) {
        const ptrdiff_t next = r + 1 < rows ? cols : 0;
        if (logarithm)
            KD__FN(softmax_long)(x, cols, two_t, 1, y, next);
        else
            KD__FN(softmax_long)(x, cols, two_t, 0, y, next);
    }
}

/* scale * log(sum_i exp(x[i][j] + log_weight[i])) */
static void KD__FN(log_mix)(ptrdiff_t n, int count, const float *const *x, const float *log_weight, float scale,
                            float *y)
{
    ptrdiff_t j;
    int i;
    for (j = 0; j < n; j += KD__W) {
        kd__v largest = kd__v_set(-INFINITY), sum = kd__v_set(0.0f);
        for (i = 0; i < count; ++i)
            largest = kd__v_max(kd__v_add(kd__v_get(x[i] + j, n - j), kd__v_set(log_weight[i])), largest);
        for (i = 0; i < count; ++i) {
            const kd__v term = kd__v_add(kd__v_get(x[i] + j, n - j), kd__v_set(log_weight[i]));
            sum = kd__v_add(sum, KD__FN(exp)(KD__FN(centred)(term, largest)));
        }
        kd__v_put(y + j, kd__v_mul(kd__v_add(largest, KD__FN(log)(sum)), kd__v_set(scale)), n - j);
    }
}

/* Cross-entropy, softened KL, or both in one pass (Hinton et al. 2015). With u = s - max s, v = (t - max t) / T:
     e1 = exp(u), eT = exp(u / T), q = exp(v), y = u / T - v      by column
     S1, ST, Q, D, H = sum of e1, eT, q, q * y, q * h(y)          by row, h(y) = e^y - 1 - y
     KL = H / Q - z + log(1 + z), z = (D + H) / Q = ST / Q - 1;  CE = log S1 * sum(target) - sum(target * u)
     gradient = soft * (eT / ST - q / Q) + hard * (e1 / S1 * sum(target) - target)
   target is (1 - smoothing) * label + smoothing / columns, where label is 1 or 0, or given.
   Nearly equal logits have a KL that is far below each of log ST, log Q and D / Q: every term of H is positive, y
   is taken from s - t, whose rounding is known; z - log(1 + z) has a series. Likewise S1 - 1 is summed alone. */

/* log(1 + x) for x from 0 to 1e30, however small: what 1 + x has lost is made good by a factor (Kahan). */
KD__INLINE kd__v KD__FN(log1p)(kd__v x)
{
    const kd__v one = kd__v_set(1.0f), sum = kd__v_add(one, x);
    const kd__v factor = kd__v_div(x, kd__v_sub(sum, one));
    return kd__v_select(kd__v_eq(sum, one), x, kd__v_mul(KD__FN(log)(sum), factor));
}

/* e^y - 1 - y for |y| < 1 */
KD__INLINE kd__v KD__FN(exp_beyond)(kd__v y)
{
    kd__v p = kd__v_fma(kd__v_set(2.50521084e-8f), y, kd__v_set(2.75573192e-7f)); /* 1/11!, 1/10! */
    p = kd__v_fma(p, y, kd__v_set(2.75573192e-6f));
    p = kd__v_fma(p, y, kd__v_set(2.48015873e-5f));
    p = kd__v_fma(p, y, kd__v_set(1.98412698e-4f));
    p = kd__v_fma(p, y, kd__v_set(1.38888889e-3f));
    p = kd__v_fma(p, y, kd__v_set(8.33333333e-3f));
    p = kd__v_fma(p, y, kd__v_set(4.16666667e-2f));
    p = kd__v_fma(p, y, kd__v_set(0.166666667f));
    p = kd__v_fma(p, y, kd__v_set(0.5f));
    return kd__v_mul(kd__v_mul(y, y), p);
}

/* q * (e^y - 1 - y), where q * e^y is et */
KD__INLINE kd__v KD__FN(kl_term)(kd__v q, kd__v et, kd__v y)
{
    const kd__vm near = kd__v_lt(KD__FN(abs)(y), kd__v_set(1.0f));
    return kd__v_select(near, kd__v_mul(q, KD__FN(exp_beyond)(y)), kd__v_sub(et, kd__v_fma(q, y, q)));
}

/* a - b, and what was lost in that (Knuth's two-sum). */
KD__INLINE kd__v KD__FN(lost)(kd__v a, kd__v b, kd__v difference)
{
    const kd__v of_b = kd__v_sub(difference, a);
    return kd__v_sub(kd__v_sub(a, kd__v_sub(difference, of_b)), kd__v_add(b, of_b));
}

/* What student and teacher differ by in a row, about the difference of their largest. */
typedef struct KD__FN(row_centre) {
    kd__v difference, lost, inv_t;
} KD__FN(row_centre);

KD__INLINE KD__FN(row_centre) KD__FN(row_centre_of)(kd__v largest_s, kd__v largest_t, kd__v inv_t)
{
    KD__FN(row_centre) centre;
    centre.difference = kd__v_sub(largest_s, largest_t);
    centre.lost = KD__FN(lost)(largest_s, largest_t, centre.difference);
    centre.inv_t = inv_t;
    return centre;
}

/* y of a column; `far`, which is u / T - v, where that is as good. */
KD__INLINE kd__v KD__FN(row_apart)(const KD__FN(row_centre) * centre, kd__v s, kd__v t, kd__v far)
{
    const kd__v difference = kd__v_sub(s, t), lost = KD__FN(lost)(s, t, difference);
    const kd__v sum = kd__v_add(kd__v_sub(difference, centre->difference), kd__v_sub(lost, centre->lost));
    const kd__v y = kd__v_mul(sum, centre->inv_t);
    return kd__v_select(kd__v_lt(KD__FN(abs)(y), kd__v_set(1.0f)), y, far);
}

KD__INLINE int KD__FN(row_kind)(const kd__row_loss *l)
{
    return (l->teacher ? KD__ROW_SOFT : 0) | (l->hard_value == 0 ? 0
                                              : l->soft_labels   ? KD__ROW_HARD | KD__ROW_GIVEN
                                                                 : KD__ROW_HARD);
}

/* rest: s1 without the columns whose e1 is 1 */
typedef struct KD__FN(row_sums) {
    kd__v s1, rest, st, sq, d, h, target_u, targets;
} KD__FN(row_sums);

KD__INLINE kd__v KD__FN(row_kl)(const KD__FN(row_sums) * p)
{
    const kd__v z = kd__v_div(kd__v_add(p->d, p->h), p->sq), r = kd__v_div(z, kd__v_add(kd__v_set(2.0f), z));
    const kd__v r2 = kd__v_mul(r, r), apart = kd__v_sub(KD__FN(log)(p->st), KD__FN(log)(p->sq));
    const kd__vm near = kd__v_lt(KD__FN(abs)(z), kd__v_set(0.5f));
    kd__v series = kd__v_fma(kd__v_set(0.181818182f), r2, kd__v_set(0.222222222f)); /* 2/11, 2/9 */
    series = kd__v_fma(series, r2, kd__v_set(0.285714286f));
    series = kd__v_fma(series, r2, kd__v_set(0.4f));
    series = kd__v_fma(series, r2, kd__v_set(0.666666667f));
    series = kd__v_mul(r, kd__v_sub(z, kd__v_mul(series, r2))); /* z - log(1 + z), r = z / (2 + z) */
    series = kd__v_select(near, series, kd__v_sub(z, apart));
    return kd__v_max(kd__v_set(0.0f), kd__v_sub(kd__v_div(p->h, p->sq), series));
}

/* log S1; no other column is 1 where the sum is below 1.5 */
KD__INLINE kd__v KD__FN(row_log_sum)(const KD__FN(row_sums) * p)
{
    const kd__vm confident = kd__v_lt(p->s1, kd__v_set(1.5f));
    return kd__v_select(confident, KD__FN(log1p)(p->rest), KD__FN(log)(p->s1));
}

/* The loss of a row from its sums, which turn into what the gradient multiplies by. */
KD__INLINE kd__v KD__FN(row_value)(const kd__row_loss *l, KD__FN(row_sums) * p, kd__v labelled, int kind)
{
    const kd__v one = kd__v_set(1.0f);
    kd__v value = kd__v_set(0.0f);
    if (kind & KD__ROW_SOFT) {
        value = kd__v_mul(KD__FN(row_kl)(p), kd__v_set(l->soft_value));
        p->st = kd__v_div(one, p->st);
        p->sq = kd__v_div(one, p->sq);
    }
    if (kind & KD__ROW_HARD) {
        const kd__v ce = kd__v_sub(kd__v_mul(KD__FN(row_log_sum)(p), p->targets), p->target_u);
        value = kd__v_fma(kd__v_mul(ce, labelled), kd__v_set(l->hard_value), value);
        p->s1 = kd__v_div(p->targets, p->s1);
    }
    return value;
}

/* The soft terms cancel to 0 where student and teacher agree, the hard ones where the label is certain. NULL in the
   place of soft_grad is 1, in that of target 0. */
KD__INLINE kd__v KD__FN(row_grad)(const KD__FN(row_sums) * p, const kd__v *soft_grad, kd__v hard_grad,
                                  const kd__v *e1, const kd__v *et, const kd__v *q, const kd__v *target,
                                  const int kind)
{
    kd__v grad = kd__v_set(0.0f), share;
    if (kind & KD__ROW_SOFT) grad = kd__v_sub(kd__v_mul(*et, p->st), kd__v_mul(*q, p->sq));
    if (soft_grad) grad = kd__v_mul(*soft_grad, grad);
    if (!(kind & KD__ROW_HARD)) return KD__FN(cut)(grad, kd__v_set(KD__LEAST));
    share = kd__v_mul(*e1, p->s1);
    if (target) share = kd__v_sub(share, *target);
    return KD__FN(cut)(kd__v_fma(share, hard_grad, grad), kd__v_set(KD__LEAST));
}

KD__INLINE void KD__FN(row_loss_short)(const kd__row_loss *l, int row, int rows, int kind)
{
    const ptrdiff_t at = (ptrdiff_t)row * l->cols;
    const kd__v zero = kd__v_set(0.0f), one = kd__v_set(1.0f), inv_t = kd__v_set(1.0f / l->temperature);
    const kd__v onehot = kd__v_set(1.0f - l->smoothing), flat = kd__v_set(l->smoothing / (float)l->cols);
    const kd__v soft_grad = kd__v_set(l->soft_grad);
    kd__v s[KD__SHORT], v[KD__SHORT], target[KD__SHORT], e1[KD__SHORT], et[KD__SHORT], q[KD__SHORT];
    kd__v label, labelled, largest, largest_t;
    float lanes[KD__W];
    KD__FN(row_sums) p = {zero, zero, zero, zero, zero, zero, zero, zero};
    int c, i;
    for (i = 0; i < KD__W; ++i) lanes[i] = i < rows && l->labels ? (float)l->labels[row + i] : 0.0f;
    label = kd__v_load(lanes);
    labelled = l->soft_labels ? one : kd__v_select(kd__v_lt(label, zero), zero, one);
    KD__FN(load_short)(l->student + at, rows, l->cols, s);
    largest = s[0];
    for (c = 1; c < l->cols; ++c) largest = kd__v_max(s[c], largest);
    for (c = 0; c < l->cols; ++c) e1[c] = kd__v_sub(s[c], largest);
    if (kind & KD__ROW_SOFT) {
        KD__FN(row_centre) centre;
        KD__FN(load_short)(l->teacher + at, rows, l->cols, v);
        largest_t = v[0];
        for (c = 1; c < l->cols; ++c) largest_t = kd__v_max(v[c], largest_t);
        centre = KD__FN(row_centre_of)(largest, largest_t, inv_t);
        for (c = 0; c < l->cols; ++c) {
            q[c] = kd__v_mul(kd__v_sub(v[c], largest_t), inv_t);
            et[c] = kd__v_mul(e1[c], inv_t);
            v[c] = KD__FN(row_apart)(&centre, s[c], v[c], kd__v_sub(et[c], q[c]));
        }
        KD__FN(exps_short)(et, l->cols);
        KD__FN(exps_short)(q, l->cols);
        for (c = 0; c < l->cols; ++c) {
            p.st = kd__v_add(p.st, et[c]);
            p.sq = kd__v_add(p.sq, q[c]);
            p.d = kd__v_fma(q[c], v[c], p.d);
            p.h = kd__v_add(p.h, KD__FN(kl_term)(q[c], et[c], v[c]));
        }
    }
    for (c = 0; c < l->cols; ++c) s[c] = e1[c];
    if (kind & KD__ROW_HARD) {
        if (kind & KD__ROW_GIVEN) KD__FN(load_short)(l->soft_labels + at, rows, l->cols, target);
        KD__FN(exps_short)(e1, l->cols);
        for (c = 0; c < l->cols; ++c) {
            if (!(kind & KD__ROW_GIVEN)) target[c] = kd__v_select(kd__v_eq(label, kd__v_set((float)c)), one, zero);
            target[c] = kd__v_fma(target[c], onehot, flat);
            p.s1 = kd__v_add(p.s1, e1[c]);
            p.rest = kd__v_add(p.rest, kd__v_select(kd__v_eq(s[c], zero), zero, e1[c]));
            p.target_u = kd__v_fma(target[c], s[c], p.target_u);
            p.targets = kd__v_add(p.targets, target[c]);
        }
    }
    kd__v_put(l->value + row, KD__FN(row_value)(l, &p, labelled, kind), rows);
    if (!l->grad) return;
    labelled = kd__v_mul(labelled, kd__v_set(l->hard_grad));
    for (c = 0; c < l->cols; ++c)
        s[c] = KD__FN(row_grad)(&p, &soft_grad, labelled, &e1[c], &et[c], &q[c], &target[c], kind);
    KD__FN(store_short)(l->grad + at, rows, l->cols, s);
}

/* What the loops over a long row share. */
typedef struct KD__FN(row) {
    const float *s, *t, *given;
    float *grad, *q, *e1;
    ptrdiff_t next; /* floats to the row that is fetched meanwhile, or 0 */
    kd__v largest_s, largest_t, inv_t, onehot, flat;
    KD__FN(row_centre) centre;
    kd__v s1[KD__SUM_VECTORS], rest[KD__SUM_VECTORS];
    kd__v st[KD__SUM_VECTORS], sq[KD__SUM_VECTORS], d[KD__SUM_VECTORS], h[KD__SUM_VECTORS];
    kd__v target_u[KD__SUM_VECTORS], targets[KD__SUM_VECTORS];
    float flat_share; /* of a column, which is in all lanes of `flat` */
} KD__FN(row);

/* What is kept of rows that stand abreast: by row. */
typedef struct KD__FN(row_group) {
    float largest_s[16], largest_t[16], label_u[16], labelled[16];
    float s1[16], rest[16], st[16], sq[16], d[16], h[16], target_u[16], targets[16];
} KD__FN(row_group);

#define KD__SUM_UP(sum, term)                                                                                      \
    KD__LOOP((sum)[i % KD__SUM_VECTORS] =                                                                          \
                 kd__v_add((sum)[i % KD__SUM_VECTORS], KD__FN(zero_beyond)(term, left - i * KD__W)))

KD__INLINE void KD__FN(row_hard)(KD__FN(row) * r, int c, int left, const int count, const kd__v *u)
{
    kd__v e[16], target[16];
    int i;
    KD__LOOP(e[i] = u[i])
    KD__FN(exps)(e, count);
    if (r->grad) KD__LOOP(KD__FN(put_any)(r->e1 + c + i * KD__W, e[i], left - i * KD__W))
    KD__SUM_UP(r->s1, e[i])
    KD__SUM_UP(r->rest, kd__v_select(kd__v_eq(u[i], kd__v_set(0.0f)), kd__v_set(0.0f), e[i]))
    if (r->given) {
        KD__LOOP(target[i] = KD__FN(get_or)(r->given + c + i * KD__W, left - i * KD__W, kd__v_set(0.0f)))
        KD__LOOP(target[i] = kd__v_fma(target[i], r->onehot, r->flat))
        KD__LOOP(target[i] = KD__FN(zero_beyond)(target[i], left - i * KD__W))
        KD__SUM_UP(r->targets, target[i])
        KD__LOOP(r->target_u[i % KD__SUM_VECTORS] = kd__v_fma(target[i], u[i], r->target_u[i % KD__SUM_VECTORS]))
    } else {
        KD__SUM_UP(r->target_u, u[i])
    }
}

/* u: s - largest_s, overwritten */
KD__INLINE void KD__FN(row_soft)(KD__FN(row) * r, int c, int left, const int count, kd__v *u)
{
    kd__v et[16], q[16], t[16];
    int i;
    KD__LOOP(t[i] = KD__FN(get_or)(r->t + c + i * KD__W, left - i * KD__W, r->largest_t))
    KD__LOOP(q[i] = kd__v_mul(kd__v_sub(t[i], r->largest_t), r->inv_t))
    KD__LOOP(et[i] = kd__v_mul(u[i], r->inv_t))
    KD__LOOP(u[i] =
                 KD__FN(get_or)(r->s + c + i * KD__W, left - i * KD__W, r->largest_s)) /* before grad is written */
    KD__LOOP(u[i] = KD__FN(row_apart)(&r->centre, u[i], t[i], kd__v_sub(et[i], q[i])))
    KD__FN(exps)(et, count);
    if (r->grad) KD__LOOP(KD__FN(put_any)(r->grad + c + i * KD__W, et[i], left - i * KD__W))
    KD__SUM_UP(r->st, et[i])
    KD__FN(exps)(q, count);
    if (r->grad) KD__LOOP(KD__FN(put_any)(r->q + c + i * KD__W, q[i], left - i * KD__W))
    KD__LOOP(q[i] = KD__FN(zero_beyond)(q[i], left - i * KD__W))
    KD__SUM_UP(r->sq, q[i])
    KD__LOOP(r->d[i % KD__SUM_VECTORS] = kd__v_fma(q[i], u[i], r->d[i % KD__SUM_VECTORS]))
    KD__SUM_UP(r->h, KD__FN(kl_term)(q[i], et[i], u[i]))
}

KD__INLINE void KD__FN(row_block)(KD__FN(row) * r, int c, int left, const int count, const int kind)
{
    kd__v u[16];
    int i;
    KD__FN(fetch_block)(r->s + c + r->next, left);
    if (kind & KD__ROW_SOFT) KD__FN(fetch_block)(r->t + c + r->next, left);
    if (r->grad) KD__FN(fetch_block)(r->grad + c + r->next, left);
    KD__LOOP(u[i] = kd__v_sub(KD__FN(get_or)(r->s + c + i * KD__W, left - i * KD__W, r->largest_s), r->largest_s))
    if (kind & KD__ROW_HARD) KD__FN(row_hard)(r, c, left, count, u);
    if (kind & KD__ROW_SOFT) KD__FN(row_soft)(r, c, left, count, u);
}

/* Puts r on row `first` + index. */
KD__INLINE void KD__FN(row_go)(KD__FN(row) * r, const kd__row_loss *l, int first, int index, int next, int kind)
{
    const ptrdiff_t at = (ptrdiff_t)(first + index) * l->cols;
    r->s = l->student + at;
    r->t = kind & KD__ROW_SOFT ? l->teacher + at : NULL;
    r->given = kind & KD__ROW_GIVEN ? l->soft_labels + at : NULL;
    r->grad = l->grad ? l->grad + at : NULL;
    r->q = l->powers + (ptrdiff_t)2 * index * l->cols;
    r->e1 = r->q + l->cols;
    r->next = first + index + next < l->rows ? (ptrdiff_t)next * l->cols : 0;
}

KD__INLINE void KD__FN(row_sum_up)(const kd__row_loss *l, KD__FN(row) * r, KD__FN(row_group) * g, int index,
                                   const int kind)
{
    int i;
    r->largest_s = kd__v_set(g->largest_s[index]);
    r->largest_t = kd__v_set(g->largest_t[index]);
    r->centre = KD__FN(row_centre_of)(r->largest_s, r->largest_t, r->inv_t);
    for (i = 0; i < KD__SUM_VECTORS; ++i) {
        r->s1[i] = r->rest[i] = r->target_u[i] = r->targets[i] = kd__v_set(0.0f);
        r->st[i] = r->sq[i] = r->d[i] = r->h[i] = kd__v_set(0.0f);
    }
#define KD__RUN(c, left, count) KD__FN(row_block)(r, c, left, count, kind)
    KD__ROW_BLOCKS(l->cols, KD__RUN);
#undef KD__RUN
    if (kind & KD__ROW_HARD) {
        g->s1[index] = KD__FN(sum16)(r->s1);
        g->rest[index] = KD__FN(sum16)(r->rest);
    }
    if (kind & KD__ROW_SOFT) {
        g->st[index] = KD__FN(sum16)(r->st);
        g->sq[index] = KD__FN(sum16)(r->sq);
        g->d[index] = KD__FN(sum16)(r->d);
        g->h[index] = KD__FN(sum16)(r->h);
    }
    if (r->given) {
        g->target_u[index] = KD__FN(sum16)(r->target_u);
        g->targets[index] = KD__FN(sum16)(r->targets);
    } else {
        const float sum = KD__FN(sum16)(r->target_u) * r->flat_share; /* even 0 times an infinite logit is a NaN */
        g->target_u[index] = sum + (1.0f - l->smoothing) * g->label_u[index];
        g->targets[index] = 1.0f;
    }
}

KD__INLINE void KD__FN(row_grads)(const kd__row_loss *l, const KD__FN(row) * r, const KD__FN(row_group) * g,
                                  int index, int label, const int kind)
{
    const kd__v zero = kd__v_set(0.0f), hard_grad = kd__v_set(l->hard_grad * g->labelled[index]);
    KD__FN(row_sums) p = {zero, zero, zero, zero, zero, zero, zero, zero};
    int c;
    p.s1 = kd__v_set(g->s1[index]), p.st = kd__v_set(g->st[index]), p.sq = kd__v_set(g->sq[index]);
    for (c = 0; c < l->cols; c += KD__W) {
        const int left = l->cols - c;
        kd__v e1 = zero, et = zero, q = zero, given = zero;
        const kd__v *target = r->given ? &given : r->flat_share != 0 ? &r->flat : NULL;
        if (kind & KD__ROW_SOFT) et = kd__v_get(r->grad + c, left), q = kd__v_get(r->q + c, left);
        if (kind & KD__ROW_HARD) e1 = kd__v_get(r->e1 + c, left);
        if (kind & KD__ROW_HARD && r->given) given = kd__v_fma(kd__v_get(r->given + c, left), r->onehot, r->flat);
        kd__v_put(r->grad + c, KD__FN(row_grad)(&p, NULL, hard_grad, &e1, &et, &q, target, kind), left);
    }
    if (label >= 0) r->grad[label] -= l->hard_grad * (1.0f - l->smoothing);
}

/* Combinations have loops of their own: questions inside them cost vectors a tenth to a third of their speed. */
#if KD__W == 1
#define KD__BY_KIND(run) run(kind);
#else
#define KD__BY_KIND(run)                                                                                           \
    switch (kind & (KD__ROW_SOFT | KD__ROW_HARD)) {                                                                \
    case KD__ROW_SOFT: run(KD__ROW_SOFT); break;                                                                   \
    case KD__ROW_HARD: run(KD__ROW_HARD); break;                                                                   \
    case KD__ROW_SOFT | KD__ROW_HARD: run(KD__ROW_SOFT | KD__ROW_HARD); break;                                     \
    default: run(0);                                                                                               \
    }
#endif

/* `count` rows from `first` on, every step for all of them before the next. */
KD__INLINE void KD__FN(row_loss_long)(const kd__row_loss *l, int first, int count, int next, int kind)
{
    const int by_label = (kind & KD__ROW_HARD) && !(kind & KD__ROW_GIVEN) && l->labels;
    KD__FN(row_group) g;
    KD__FN(row) r;
    int32_t label[16];
    int i;
    memset(&g, 0, sizeof g);
    r.inv_t = kd__v_set(1.0f / l->temperature);
    r.onehot = kd__v_set(1.0f - l->smoothing);
    r.flat_share = l->smoothing / (float)l->cols;
    r.flat = kd__v_set(r.flat_share);
    for (i = 0; i < count; ++i) {
        const ptrdiff_t at = (ptrdiff_t)(first + i) * l->cols;
        label[i] = by_label ? l->labels[first + i] : -1;
        g.labelled[i] = kind & KD__ROW_GIVEN || label[i] >= 0 ? 1.0f : 0.0f;
        g.largest_s[i] = KD__FN(row_max)(l->student + at, l->cols);
        if (kind & KD__ROW_SOFT) g.largest_t[i] = KD__FN(row_max)(l->teacher + at, l->cols);
        if (label[i] >= 0) g.label_u[i] = l->student[at + label[i]] - g.largest_s[i];
    }
    for (i = 0; i < count; ++i) {
        KD__FN(row_go)(&r, l, first, i, next, kind);
#define KD__RUN(known) KD__FN(row_sum_up)(l, &r, &g, i, known)
        KD__BY_KIND(KD__RUN)
#undef KD__RUN
    }
    for (i = 0; i < count; i += KD__W) {
        KD__FN(row_sums) p;
        p.s1 = kd__v_load(g.s1 + i), p.st = kd__v_load(g.st + i), p.sq = kd__v_load(g.sq + i);
        p.d = kd__v_load(g.d + i), p.h = kd__v_load(g.h + i), p.rest = kd__v_load(g.rest + i);
        p.target_u = kd__v_load(g.target_u + i), p.targets = kd__v_load(g.targets + i);
        kd__v_put(l->value + first + i, KD__FN(row_value)(l, &p, kd__v_load(g.labelled + i), kind), count - i);
        kd__v_store(g.s1 + i, p.s1);
        kd__v_store(g.st + i, kd__v_mul(p.st, kd__v_set(l->soft_grad)));
        kd__v_store(g.sq + i, kd__v_mul(p.sq, kd__v_set(l->soft_grad)));
    }
    for (i = 0; i < count && l->grad; ++i) {
        KD__FN(row_go)(&r, l, first, i, next, kind);
#define KD__RUN(known) KD__FN(row_grads)(l, &r, &g, i, label[i], known)
        KD__BY_KIND(KD__RUN)
#undef KD__RUN
    }
}

static void KD__FN(row_loss)(const kd__row_loss *l)
{
    const int kind = KD__FN(row_kind)(l), abreast = kd__loss_abreast(l->cols);
    int r;
    if (l->cols <= KD__SHORT) {
        for (r = 0; r < l->rows; r += KD__W) KD__FN(row_loss_short)(l, r, KD__MIN(KD__W, l->rows - r), kind);
    } else {
        for (r = 0; r < l->rows; r += abreast)
            KD__FN(row_loss_long)(l, r, KD__MIN(abreast, l->rows - r), abreast, kind);
    }
}

static void KD__FN(mse_loss)(const kd__row_loss *l)
{
    int r, c, i;
    for (r = 0; r < l->rows; ++r) {
        const ptrdiff_t at = (ptrdiff_t)r * l->cols;
        kd__v sums[KD__SUM_VECTORS];
        if (!l->teacher) { /* it weighs nothing */
            l->value[r] = 0;
            if (l->grad) memset(l->grad + at, 0, (size_t)l->cols * sizeof *l->grad);
            continue;
        }
        for (i = 0; i < KD__SUM_VECTORS; ++i) sums[i] = kd__v_set(0.0f);
        for (c = 0; c < l->cols; c += 16) {
            KD__UNROLL_SUMS
            for (i = 0; i < KD__SUM_VECTORS; ++i) {
                const int from = c + i * KD__W, left = l->cols - from;
                if (left > 0) {
                    const kd__v d =
                        kd__v_sub(kd__v_get(l->student + at + from, left), kd__v_get(l->teacher + at + from, left));
                    sums[i] = kd__v_fma(d, d, sums[i]);
                    if (l->grad) kd__v_put(l->grad + at + from, kd__v_mul(d, kd__v_set(2.0f * l->soft_grad)), left);
                }
            }
        }
        l->value[r] = KD__FN(sum16)(sums) * l->soft_value;
    }
}

KD__INLINE kd__v KD__FN(onehot)(const kd__row_loss *l, ptrdiff_t at, int c, int left, kd__v label)
{
    if (l->soft_labels) return kd__v_get(l->soft_labels + at + c, left);
    return kd__v_select(kd__v_eq(kd__v_add(kd__vi_to_float(kd__vi_iota()), kd__v_set((float)c)), label),
                        kd__v_set(1.0f), kd__v_set(0.0f));
}

/* log(1 + e^x) without overflow */
KD__INLINE kd__v KD__FN(softplus)(kd__v x)
{
    const kd__v e = KD__FN(exp)(kd__v_sub(kd__v_set(0.0f), KD__FN(abs)(x)));
    return kd__v_add(kd__v_max(x, kd__v_set(0.0f)), KD__FN(log1p)(e));
}

/* KL of the probabilities sigmoid(u) from sigmoid(v), x = u - v. Where x is small, from terms that are positive;
   otherwise, with both signs turned so that v is positive, log((1 + e^-u) / (1 + e^-v)) + x sigmoid(-v). */
KD__INLINE kd__v KD__FN(bernoulli_kl)(kd__v u, kd__v v, kd__v x)
{
    const kd__v zero = kd__v_set(0.0f), minus = kd__v_sub(zero, KD__FN(abs)(v));
    const kd__vm turned = kd__v_lt(v, zero), near = kd__v_lt(KD__FN(abs)(x), kd__v_set(1.0f));
    const kd__v other = KD__FN(sigmoid)(minus), same = KD__FN(sigmoid)(KD__FN(abs)(v));
    const kd__v apart = kd__v_select(turned, kd__v_sub(zero, x), x);
    const kd__v minus_u = kd__v_select(turned, u, kd__v_sub(zero, u));
    const kd__v logs = kd__v_sub(KD__FN(softplus)(minus_u), KD__FN(softplus)(minus));
    const kd__v a = kd__v_mul(same, KD__FN(exp_beyond)(kd__v_mul(apart, other)));
    const kd__v b = kd__v_mul(other, KD__FN(exp_beyond)(kd__v_mul(kd__v_sub(zero, apart), same)));
    return kd__v_select(near, KD__FN(log1p)(kd__v_add(a, b)), kd__v_fma(other, apart, logs));
}

static void KD__FN(bce_loss)(const kd__row_loss *l)
{
    const kd__v zero = kd__v_set(0.0f), one = kd__v_set(1.0f), inv_t = kd__v_set(1.0f / l->temperature);
    int r, c, i;
    for (r = 0; r < l->rows; ++r) {
        const ptrdiff_t at = (ptrdiff_t)r * l->cols;
        const int32_t y = l->labels && !l->soft_labels ? l->labels[r] : 0;
        const float hard = y < 0 ? 0.0f : 1.0f; /* 0: unlabelled */
        const kd__v label = kd__v_set(l->cols == 1 ? (y == 1 ? 0.0f : -1.0f) : (float)y);
        kd__v sums[KD__SUM_VECTORS];
        for (i = 0; i < KD__SUM_VECTORS; ++i) sums[i] = zero;
        for (c = 0; c < l->cols; c += 16) {
            KD__UNROLL_SUMS
            for (i = 0; i < KD__SUM_VECTORS; ++i) {
                const int from = c + i * KD__W, left = l->cols - from;
                if (left > 0) {
                    const kd__v s = kd__v_get(l->student + at + from, left), size = KD__FN(abs)(s);
                    kd__v target =
                        kd__v_mul(KD__FN(onehot)(l, at, from, left, label), kd__v_set(1.0f - l->smoothing));
                    kd__v value, grad;
                    target = kd__v_add(target, kd__v_set(0.5f * l->smoothing));
                    value = kd__v_select(kd__v_lt(zero, s), kd__v_sub(one, target), target); /* of the wrong side */
                    value = kd__v_fma(size, value, KD__FN(softplus)(kd__v_sub(zero, size)));
                    value = kd__v_mul(value, kd__v_set(l->hard_value * hard));
                    grad = kd__v_mul(kd__v_sub(KD__FN(sigmoid)(s), target), kd__v_set(l->hard_grad * hard));
                    if (l->teacher) {
                        const kd__v t = kd__v_get(l->teacher + at + from, left);
                        const kd__v u = kd__v_mul(s, inv_t), v = kd__v_mul(t, inv_t);
                        const kd__v kl = KD__FN(bernoulli_kl)(u, v, kd__v_mul(kd__v_sub(s, t), inv_t));
                        const kd__v p = KD__FN(sigmoid)(v);
                        value = kd__v_fma(kl, kd__v_set(l->soft_value), value);
                        grad = kd__v_fma(kd__v_sub(KD__FN(sigmoid)(u), p), kd__v_set(l->soft_grad), grad);
                    }
                    sums[i] = kd__v_add(sums[i], KD__FN(zero_beyond)(value, left));
                    if (l->grad) kd__v_put(l->grad + at + from, KD__FN(cut)(grad, kd__v_set(KD__LEAST)), left);
                }
            }
        }
        l->value[r] = KD__FN(sum16)(sums);
    }
}

/* ---- sums and updates over all weights ------------------------------------------------------------------- */

static double KD__FN(sum_squares)(ptrdiff_t n, const float *x)
{
    double total = 0;
    ptrdiff_t start, i;
    int j, k;
    for (start = 0; start < n; start += 4096) {
        const ptrdiff_t end = KD__MIN(n, start + 4096);
        kd__v sums[4][KD__SUM_VECTORS]; /* four chains of additions beside each other */
        for (k = 0; k < 4; ++k) {
            for (j = 0; j < KD__SUM_VECTORS; ++j) sums[k][j] = kd__v_set(0.0f);
        }
        for (i = start; i + 64 <= end; i += 64) {
            KD__UNROLL_SUMS
            for (k = 0; k < 4; ++k) {
                KD__UNROLL_SUMS
                for (j = 0; j < KD__SUM_VECTORS; ++j) {
                    const kd__v v = kd__v_load(x + i + 16 * k + j * KD__W);
                    sums[k][j] = kd__v_fma(v, v, sums[k][j]);
                }
            }
        }
        for (k = 0; i < end; i += KD__W, ++k) {
            const kd__v v = kd__v_get(x + i, end - i);
            kd__v *sum = &sums[k / KD__SUM_VECTORS][k % KD__SUM_VECTORS];
            *sum = kd__v_fma(v, v, *sum);
        }
        for (k = 1; k < 4; ++k) {
            for (j = 0; j < KD__SUM_VECTORS; ++j) sums[0][j] = kd__v_add(sums[0][j], sums[k][j]);
        }
        total += (double)KD__FN(sum16)(sums[0]);
    }
    return total;
}

/* An exponent of all ones becomes the sign bit when one is added to it: integers only, whatever the compiler may
   assume about NaN. */
static int KD__FN(all_finite)(ptrdiff_t n, const float *x)
{
    kd__vi seen = kd__vi_set(0);
    float lanes[KD__W];
    ptrdiff_t i;
    int j;
    for (i = 0; i < n; i += KD__W) {
        const kd__vi bits = kd__v_bits(kd__v_get(x + i, n - i));
        seen = kd__vi_or(seen, kd__vi_add(kd__vi_and(bits, kd__vi_set(0x7f800000)), kd__vi_set(0x00800000)));
    }
    kd__v_store(lanes, kd__vi_float(seen));
    for (j = 0; j < KD__W; ++j) {
        uint32_t bits;
        memcpy(&bits, &lanes[j], sizeof bits);
        if (bits >> 31) return 0;
    }
    return 1;
}

static void KD__FN(update)(const kd__update *u, ptrdiff_t n, float *w, const float *g, float *m, float *v)
{
    const kd__v lr = kd__v_set(-u->lr), scale = kd__v_set(u->grad_scale), decay = kd__v_set(u->decay);
    const kd__v beta1 = kd__v_set(u->beta1), rest1 = kd__v_set(1.0f - u->beta1);
    const kd__v beta2 = kd__v_set(u->beta2), rest2 = kd__v_set(1.0f - u->beta2);
    const kd__v step = kd__v_set(-u->lr * u->correction1), root = kd__v_set(u->correction2);
    const kd__v epsilon = kd__v_set(u->epsilon), momentum = kd__v_set(u->momentum);
    const kd__v shrink = kd__v_set(1.0f - u->lr * u->decay);
    /* A gradient that the second moment has no number for is none to the first either, or steps had no measure. */
    const float least = u->optimizer == KD_SGD ? KD__TINY : sqrtf(KD__TINY_SQUARE / (1.0f - u->beta2));
    const kd__v tiny = kd__v_set(KD__TINY), tiny_square = kd__v_set(KD__TINY_SQUARE), tiny_grad = kd__v_set(least);
    ptrdiff_t i;
    for (i = 0; i < n; i += KD__W) {
        const ptrdiff_t left = n - i;
        kd__v weight = kd__v_get(w + i, left), grad = kd__v_mul(kd__v_get(g + i, left), scale);
        if (u->optimizer == KD_ADAMW)
            weight = kd__v_mul(weight, shrink);
        else if (u->decay != 0)
            grad = kd__v_fma(decay, weight, grad);
        grad = KD__FN(cut)(grad, tiny_grad);
        if (u->optimizer == KD_SGD) {
            if (u->momentum != 0) {
                const kd__v velocity = KD__FN(cut)(kd__v_fma(momentum, kd__v_get(m + i, left), grad), tiny);
                kd__v_put(m + i, velocity, left);
                grad = u->nesterov ? kd__v_fma(momentum, velocity, grad) : velocity;
            }
            weight = kd__v_fma(lr, grad, weight);
        } else {
            const kd__v square = kd__v_mul(rest2, kd__v_mul(grad, grad));
            const kd__v first = KD__FN(cut)(kd__v_fma(beta1, kd__v_get(m + i, left), kd__v_mul(rest1, grad)), tiny);
            const kd__v second = KD__FN(cut)(kd__v_fma(beta2, kd__v_get(v + i, left), square), tiny_square);
            const kd__v spread = kd__v_fma(kd__v_sqrt(second), root, epsilon);
            kd__v_put(m + i, first, left);
            kd__v_put(v + i, second, left);
            weight = kd__v_fma(step, kd__v_div(first, spread), weight);
        }
        kd__v_put(w + i, KD__FN(cut)(weight, tiny), left);
    }
}

/* Every column whose L2 norm is above the limit is scaled down to it. */
static void KD__FN(limit_norms)(float *w, ptrdiff_t row, int rows, int cols, float limit)
{
    const kd__v bound = kd__v_set(limit), one = kd__v_set(1.0f);
    int r, c;
    for (c = 0; c < cols; c += KD__W) {
        kd__v sum = kd__v_set(0.0f), norm, factor;
        for (r = 0; r < rows; ++r) {
            const kd__v x = kd__v_get(w + r * row + c, cols - c);
            sum = kd__v_fma(x, x, sum);
        }
        norm = kd__v_sqrt(sum);
        factor = kd__v_select(kd__v_lt(bound, norm), kd__v_div(bound, norm), one);
        for (r = 0; r < rows; ++r) {
            const kd__v x = kd__v_mul(kd__v_get(w + r * row + c, cols - c), factor);
            kd__v_put(w + r * row + c, KD__FN(cut)(x, kd__v_set(KD__TINY)), cols - c);
        }
    }
}

/* ---- learned filters, in double -------------------------------------------------------------------------- */

/* Where the numbers begin that the given column of the weights (in, side, side) is multiplied by. */
KD__INLINE ptrdiff_t KD__FN(planes_at)(const kd__planes *p, int column)
{
    const int taps = p->side * p->side, middle = p->side / 2, tap = column % taps;
    return column / taps * p->x_plane + (tap / p->side - middle) * p->pitch + (tap % p->side - middle);
}

/* Adds `columns` of the weights times what lies at `at` to `vectors` vectors of up to KD__PLANES_OUTS planes; with
   `left` not 0 only so many numbers of a single one. */
KD__INLINE void KD__FN(planes_tile)(const double *weight, const ptrdiff_t *at, int columns, const double *x,
                                    double *y, ptrdiff_t y_plane, int outs, const int vectors, const int left)
{
    kd__d acc[KD__PLANES_OUTS][KD__PLANES_VECTORS], numbers[KD__PLANES_VECTORS];
    int i, j, k;
    KD__UNROLL
    for (i = 0; i < KD__PLANES_OUTS; ++i) {
        const double *from = y + (i < outs ? i : 0) * y_plane;
        KD__UNROLL
        for (j = 0; j < vectors; ++j) acc[i][j] = left ? kd__d_load_n(from, left) : kd__d_load(from + j * KD__DW);
    }
    for (k = 0; k < columns; ++k, weight += KD__PLANES_OUTS) {
        KD__UNROLL
        for (j = 0; j < vectors; ++j)
            numbers[j] = left ? kd__d_load_n(x + at[k], left) : kd__d_load(x + at[k] + j * KD__DW);
        KD__UNROLL
        for (i = 0; i < KD__PLANES_OUTS; ++i) {
            const kd__d factor = kd__d_set(weight[i]);
            KD__UNROLL
            for (j = 0; j < vectors; ++j) acc[i][j] = kd__d_fma(factor, numbers[j], acc[i][j]);
        }
    }
    KD__UNROLL
    for (i = 0; i < KD__PLANES_OUTS; ++i) {
        if (i >= outs) break;
        KD__UNROLL
        for (j = 0; j < vectors; ++j) {
            if (left)
                kd__d_store_n(y + i * y_plane, acc[i][j], left);
            else
                kd__d_store(y + i * y_plane + j * KD__DW, acc[i][j]);
        }
    }
}

/* Whether a column meets anything but zeros. */
KD__INLINE int KD__FN(planes_meet)(const kd__planes *p, int column)
{
    const int tap = column % (p->side * p->side), middle = p->side / 2, down = tap / p->side - middle;
    const int across = tap % p->side - middle, h = p->count / (int)p->pitch, w = (int)p->pitch - middle;
    return down > -h && down < h && across > -w && across < w;
}

/* y += weight x. Each number of y is one chain in the order of the columns. Weights are turned into doubles once
   for KD__PLANES_OUTS planes and as many columns as stay in the nearest cache. */
static void KD__FN(planes_add)(const kd__planes *p)
{
    enum { COLUMNS = 128 };
    double weight[COLUMNS * KD__PLANES_OUTS];
    ptrdiff_t at[COLUMNS], from[COLUMNS];
    const int taps = p->side * p->side, all = p->in * taps;
    int next = 0, o, i, k;
    while (next < all) {
        int columns = 0;
        for (; next < all && columns < COLUMNS; ++next) {
            const int tap = p->turned ? taps - 1 - next % taps : next % taps;
            if (!KD__FN(planes_meet)(p, next)) continue;
            at[columns] = KD__FN(planes_at)(p, next);
            from[columns++] = next / taps * p->w_in + tap;
        }
        for (o = 0; o < p->out; o += KD__PLANES_OUTS) {
            const int outs = KD__MIN(KD__PLANES_OUTS, p->out - o);
            double *y = p->y + o * p->y_plane;
            for (k = 0; k < columns; ++k) {
                const float *w = p->weight + o * p->w_out + from[k];
                for (i = 0; i < KD__PLANES_OUTS; ++i)
                    weight[k * KD__PLANES_OUTS + i] = i < outs ? (double)w[i * p->w_out] : 0;
            }
            for (i = 0; i + KD__PLANES_VECTORS * KD__DW <= p->count; i += KD__PLANES_VECTORS * KD__DW)
                KD__FN(planes_tile)(weight, at, columns, p->x + i, y + i, p->y_plane, outs, KD__PLANES_VECTORS, 0);
            for (; i + KD__DW <= p->count; i += KD__DW)
                KD__FN(planes_tile)(weight, at, columns, p->x + i, y + i, p->y_plane, outs, 1, 0);
            if (i < p->count)
                KD__FN(planes_tile)(weight, at, columns, p->x + i, y + i, p->y_plane, outs, 1, p->count - i);
        }
    }
}

/* Adds to sums, 8 lanes for each plane and column, the products of a sample; `left` as above. */
KD__INLINE void KD__FN(planes_products)(kd__d sums[KD__LEARN_OUTS][KD__LEARN_COLUMNS][8 / KD__DW],
                                        const double *const *dy, const double *x, const ptrdiff_t *at, int i,
                                        const int left)
{
    int o, k, j;
    KD__UNROLL
    for (j = 0; j < 8 / KD__DW; ++j) {
        const int n = left ? KD__MIN(KD__DW, left - j * KD__DW) : KD__DW;
        kd__d by[KD__LEARN_OUTS];
        if (n <= 0) break;
        KD__UNROLL
        for (o = 0; o < KD__LEARN_OUTS; ++o)
            by[o] = left ? kd__d_load_n(dy[o] + i + j * KD__DW, n) : kd__d_load(dy[o] + i + j * KD__DW);
        KD__UNROLL
        for (k = 0; k < KD__LEARN_COLUMNS; ++k) {
            const double *from = x + at[k] + i + j * KD__DW;
            const kd__d numbers = left ? kd__d_load_n(from, n) : kd__d_load(from);
            KD__UNROLL
            for (o = 0; o < KD__LEARN_OUTS; ++o) sums[o][k][j] = kd__d_fma(by[o], numbers, sums[o][k][j]);
        }
    }
}

/* The gradient of up to KD__LEARN_OUTS rows of the weights. Each is a sum over all samples in 8 lanes on every
   instruction set; planes and columns that there are none of repeat the last and are not written. */
static void KD__FN(planes_learn)(const kd__planes *p, int outs, float *weight_grad)
{
    const int all = p->in * p->side * p->side;
    int first, o, k, i, j, sample;
    for (first = 0; first < all; first += KD__LEARN_COLUMNS) {
        kd__d sums[KD__LEARN_OUTS][KD__LEARN_COLUMNS][8 / KD__DW];
        const double *dy[KD__LEARN_OUTS], *x = p->x;
        ptrdiff_t at[KD__LEARN_COLUMNS];
        for (o = 0; o < KD__LEARN_OUTS; ++o) dy[o] = p->dy + KD__MIN(o, outs - 1) * p->y_plane;
        for (k = 0; k < KD__LEARN_COLUMNS; ++k) at[k] = KD__FN(planes_at)(p, KD__MIN(first + k, all - 1));
        KD__UNROLL
        for (o = 0; o < KD__LEARN_OUTS; ++o) {
            KD__UNROLL
            for (k = 0; k < KD__LEARN_COLUMNS; ++k) {
                KD__UNROLL
                for (j = 0; j < 8 / KD__DW; ++j) sums[o][k][j] = kd__d_set(0.0);
            }
        }
        for (sample = 0; sample < p->samples; ++sample, x += p->x_sample) {
            for (i = 0; i + 8 <= p->count; i += 8) KD__FN(planes_products)(sums, dy, x, at, i, 0);
            if (i < p->count) KD__FN(planes_products)(sums, dy, x, at, i, p->count - i);
            for (o = 0; o < KD__LEARN_OUTS; ++o) dy[o] += p->y_sample;
        }
        for (o = 0; o < outs; ++o) {
            for (k = 0; k < KD__LEARN_COLUMNS && first + k < all; ++k) {
                double lanes[8], sum = 0;
                for (j = 0; j < 8 / KD__DW; ++j) kd__d_store(lanes + j * KD__DW, sums[o][k][j]);
                for (j = 0; j < 8; ++j) sum += lanes[j];
                weight_grad[(ptrdiff_t)o * all + first + k] = (float)sum;
            }
        }
    }
}

KD__KERNEL_LINKAGE const kd__kernels KD__FN(table) = {(kd_isa)KD__ISA_ID,
                                                      KD__W,
                                                      KD__NARROW,
                                                      KD__PANEL,
                                                      KD__TILE_ROWS,
                                                      KD__NARROW < KD__W,
#define KD__ITEM(type, name, parameters) KD__FN(name),
                                                      KD__PREDICTION_KERNELS(KD__ITEM)
#undef KD__ITEM
#define KD__ITEM(type, name, parameters) KD__IN_TRAINING(KD__FN(name), NULL),
                                                          KD__TRAINING_KERNELS(KD__ITEM)
#undef KD__ITEM
};

/* Nothing of this instance may reach the next. */
#undef KD__ISA
#undef KD__ISA_ID
#undef KD__W
#undef KD__PANEL_VECTORS
#undef KD__TILE_ROWS
#undef KD__TILE_ROWS_1
#undef KD__TILE_ROWS_WIDE
#undef KD__TILE_VECTORS
#undef kd__v
#undef kd__vi
#undef kd__vm
#undef kd__v_mask_n
#undef kd__v_once
#undef kd__v_load
#undef kd__v_load_n
#undef kd__v_store
#undef kd__v_store_n
#undef kd__v_set
#undef kd__v_add
#undef kd__v_sub
#undef kd__v_mul
#undef kd__v_div
#undef kd__v_fma
#undef kd__v_max
#undef kd__v_min
#undef kd__v_sqrt
#undef kd__v_lt
#undef kd__v_eq
#undef kd__v_select
#undef kd__v_bits
#undef kd__vi_float
#undef kd__v_to_int
#undef kd__vi_to_float
#undef kd__vi_set
#undef kd__vi_add
#undef kd__vi_sub
#undef kd__vi_mul
#undef kd__vi_and
#undef kd__vi_or
#undef kd__vi_xor
#undef kd__vi_shl
#undef kd__vi_shr
#undef kd__vi_sar
#undef kd__vi_iota
#undef kd__v_load_bytes
#undef kd__v_first
#undef KD__DW
#undef KD__PLANES_OUTS
#undef KD__PLANES_VECTORS
#undef KD__LEARN_COLUMNS
#undef kd__d
#undef kd__d_mask_n
#undef kd__d_load
#undef kd__d_load_n
#undef kd__d_store
#undef kd__d_store_n
#undef kd__d_set
#undef kd__d_fma
#undef KD__PANEL
#undef KD__NARROW
#undef KD__IF_NARROW
#undef KD__DOT_ROWS
#undef KD__SUM_VECTORS
#undef KD__UNROLL_SUMS
#undef KD__JOIN_LANES
#undef kd__v_get
#undef kd__v_put
#undef KD__TILE_EACH
#undef KD__TILES_4
#undef KD__TILES_6
#undef KD__TILES_8
#undef KD__TILES_9
#undef KD__TILES_12
#undef KD__TILES_14
#undef KD__TILES
#undef KD__C_FAR
#undef KD__TILE_NAME
#undef KD__TILE_DEFINE
#undef KD__TILE_ENTRY
#undef KD__PIXELS
#undef KD__WINO_P
#undef KD__WINO_Q
#undef KD__WINO_P2
#undef KD__WINO_Q2
#undef KD__WINO_G0
#undef KD__WINO_GP
#undef KD__WINO_GQ
#undef KD__WINO_BOTH
#undef KD__ACT_CASE
#undef KD__ACT_GRAD_CASE
#undef KD__SHORT
#undef KD__ABREAST
#undef KD__LOOP
#undef KD__BLOCK
#undef KD__ROW_BLOCKS
#undef KD__SUM_UP
#undef KD__BY_KIND
#endif /* KD__TEMPLATE */

/* ============================================================================================================
   >>licence
   ============================================================================================================

   MIT License

   Copyright (c) 2026 the kd.h authors

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
   documentation files (the "Software"), to deal in the Software without restriction, including without limitation
   the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
   to permit persons to whom the Software is furnished to do so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all copies or substantial portions of
   the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
   THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
   AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
   CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS
   IN THE SOFTWARE. */
