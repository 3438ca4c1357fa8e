/* libkannbench.so - the models of bench.c in KANN, which trains them by RMSprop. Built by kann.sh. */
#include <kann.h>

#include <stdlib.h>

enum { BATCH = 128, CLASSES = 10 };

static kad_node_t *block(kad_node_t *t, int channels)
{
    return kad_max2d(kad_relu(kann_layer_conv2d(t, channels, 3, 3, 1, 1, 1, 1)), 2, 2, 2, 2, 0, 0);
}

/* cnn: a and b channels and 128 units; otherwise a and b units, b 0 for one hidden layer only. */
void *kann_bench_open(int cnn, int a, int b, int threads)
{
    kad_node_t *t = cnn ? kad_feed(4, 1, 1, 28, 28) : kann_layer_input(784);
    kann_t *net;
    kann_verbose = 1;
    t->ext_flag |= KANN_F_IN;
    if (cnn) {
        t = kad_relu(kann_layer_dense(block(block(t, a), b), 128));
    } else {
        t = kad_relu(kann_layer_dense(t, a));
        if (b) t = kad_relu(kann_layer_dense(t, b));
    }
    net = kann_new(kann_layer_cost(t, CLASSES, KANN_C_CEM), 0);
    if (threads > 1) kann_mt(net, threads, BATCH);
    return net;
}

int64_t kann_bench_parameters(void *net) { return kann_size_var((kann_t *)net); }

void kann_bench_train(void *net, int count, float **x, float **one_hot)
{
    kann_train_fnn1((kann_t *)net, 0.001f, BATCH, 1, 1, 0, count, x, one_hot);
}

void kann_bench_close(void *net) { kann_delete((kann_t *)net); }
