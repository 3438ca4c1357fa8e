/* latency.h - how long a saved model takes for one image. A part of distill.c. */

/* ---- how fast a saved model is --------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median time of one prediction of one image on one thread, of the model in a saved file. */
static int measure_latency(session *s, const char *name, double *microseconds)
{
    enum { TRIES = 201 };
    double took[TRIES];
    char path[MAX_PATH];
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd = NULL;
    kd_model *m = NULL;
    kd_workspace *w = NULL;
    float *x =
        (float *)calloc((size_t)s->images.channels * (size_t)s->images.height * (size_t)s->images.width, sizeof *x);
    float *logits = (float *)calloc((size_t)s->images.class_count, sizeof *logits);
    size_t k;
    int i, done;
    for (k = 0; x && s->images.are_texts && k < (size_t)s->images.channels; ++k)
        x[k] = 'x'; /* one of full length */
    desc.isa = kd_ctx_isa(s->kd);
    output_path(s, name, path);
    done = x && logits && kd_open(&desc, &kd) == KD_OK && kd_model_load(kd, path, &m) == KD_OK &&
           kd_workspace_create(m, 1, &w) == KD_OK;
    for (i = 0; i < TRIES && done; ++i) {
        took[i] = seconds_now();
        done = kd_workspace_predict(w, x, 1, logits) == KD_OK;
        took[i] = seconds_now() - took[i];
    }
    if (!done) (void)complain("%s cannot be read again: %s", path, kd ? kd_error(kd) : "out of memory");
    if (done) {
        qsort(took, TRIES, sizeof *took, by_size);
        *microseconds = 1e6 * took[TRIES / 2];
    }
    kd_workspace_destroy(w);
    kd_model_destroy(m);
    kd_close(kd);
    free(x);
    free(logits);
    return done;
}
