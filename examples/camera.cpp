/* camera.cpp - a program that classifies frames while its student learns the evening in the background:

       cc -O2 -x c -DKD_IMPLEMENTATION -c kd.h -o kd.o
       c++ -std=c++17 -O2 examples/camera.cpp kd.o -o camera -lm -pthread && ./camera

   One thread reads frames and predicts, without allocating. When the light changes, another one distils a copy of the
   student from a teacher on the frames just seen, which nobody has labelled, with the program's own thread pool and
   allocator. The new student takes the place of the old one between two frames. A training that is no longer wanted is
   cancelled. */
#include "../kd.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace
{

constexpr int side = 24, channels = 3, shapes = 3, pixels = side * side * channels;

/* ---- what the program has anyway: an allocator that counts, a pool of threads ------------------------------- */

struct counting_allocator {
    std::atomic<size_t> bytes{0}, calls{0};

    kd_allocator as_kd()
    {
        kd_allocator a;
        a.alloc = [](void *user, size_t size) -> void * {
            auto *self = static_cast<counting_allocator *>(user);
            void *memory = std::malloc(size);
            if (memory) self->bytes += size, self->calls++;
            return memory;
        };
        a.free = [](void *user, void *memory, size_t size) {
            if (memory) static_cast<counting_allocator *>(user)->bytes -= size;
            std::free(memory);
        };
        a.user = this;
        return a;
    }
};

class pool
{
  public:
    explicit pool(int threads)
    {
        for (int worker = 1; worker < threads; ++worker) others.emplace_back([this, worker] { work(worker); });
    }
    ~pool()
    {
        {
            std::lock_guard<std::mutex> lock(mutex);
            ended = true;
        }
        begun.notify_all();
        for (std::thread &t : others) t.join();
    }
    pool(const pool &) = delete;
    pool &operator=(const pool &) = delete;

    int threads() const { return static_cast<int>(others.size()) + 1; }

    /* kd_ctx_desc.parallel_for: every index once, on any thread; the caller works too and waits for the others. */
    void run(int count, kd_task_fn task, void *arg)
    {
        {
            std::lock_guard<std::mutex> lock(mutex);
            current = [task, arg](int index, int worker) { task(arg, index, worker); };
            next = 0, last = count, busy = static_cast<int>(others.size()), round++;
        }
        begun.notify_all();
        claim(0);
        std::unique_lock<std::mutex> lock(mutex);
        finished.wait(lock, [this] { return busy == 0; });
    }

  private:
    void claim(int worker)
    {
        for (int index; (index = next++) < last;) current(index, worker);
    }
    void work(int worker)
    {
        for (unsigned seen = 0;;) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                begun.wait(lock, [&] { return ended || round != seen; });
                if (ended) return;
                seen = round;
            }
            claim(worker);
            std::lock_guard<std::mutex> lock(mutex);
            if (--busy == 0) finished.notify_one();
        }
    }
    std::vector<std::thread> others;
    std::mutex mutex;
    std::condition_variable begun, finished;
    std::function<void(int, int)> current;
    std::atomic<int> next{0};
    int last = 0, busy = 0;
    unsigned round = 0;
    bool ended = false;
};

/* ---- a camera: circles, squares and crosses, by day and in the evening --------------------------------------- */

class camera
{
  public:
    explicit camera(unsigned seed) : random(seed) {}

    /* One frame, (side, side, channels) bytes as a camera has them. Returns what it shows. */
    int32_t read(uint8_t *frame, bool evening)
    {
        const int shape = integer(0, shapes - 1), x0 = integer(9, 14), y0 = integer(9, 14), size = integer(5, 8);
        const int light[channels] = {evening ? 60 : 200, evening ? 30 : 200, evening ? 20 : 190};
        const int wall[channels] = {evening ? 110 : 40, evening ? 70 : 60, evening ? 50 : 80};
        for (int p = 0; p < side * side; ++p) {
            const int x = p % side - x0, y = p / side - y0, ax = std::abs(x), ay = std::abs(y);
            const bool on = shape == 0   ? x * x + y * y <= size * size && x * x + y * y >= (size - 3) * (size - 3)
                            : shape == 1 ? std::max(ax, ay) <= size - 1 && std::max(ax, ay) >= size - 3
                                         : (ax == ay || ax == ay + 1) && ax < size;
            for (int c = 0; c < channels; ++c)
                frame[p * channels + c] =
                    static_cast<uint8_t>(std::clamp((on ? light : wall)[c] + integer(-25, 25), 0, 255));
        }
        return shape;
    }

  private:
    int integer(int least, int most) { return std::uniform_int_distribution<int>(least, most)(random); }
    std::mt19937 random;
};

/* Frames for training, in the order of channels that training wants. */
struct images {
    std::vector<uint8_t> bytes;
    std::vector<int32_t> labels;

    void add(const uint8_t *frame, int32_t label)
    {
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < side * side; ++p) bytes.push_back(frame[p * channels + c]);
        labels.push_back(label);
    }
    kd_data data() const
    {
        kd_data d =
            kd_data_u8(bytes.data(), labels.data(), static_cast<int>(labels.size()), channels, side, side, shapes);
        for (int c = 0; c < channels; ++c) d.mean[c] = 0.5f, d.std[c] = 0.25f;
        return d;
    }
};

/* ---- models ----------------------------------------------------------------------------------------------- */

struct deleter {
    void operator()(kd_ctx *kd) const { kd_close(kd); }
    void operator()(kd_model *m) const { kd_model_destroy(m); }
    void operator()(kd_workspace *w) const { kd_workspace_destroy(w); }
};
template <class T> using owned = std::unique_ptr<T, deleter>;

[[noreturn]] void fail(const kd_ctx *kd, const char *doing)
{
    std::fprintf(stderr, "camera: %s: %s\n", doing, kd_error(kd));
    std::exit(EXIT_FAILURE);
}

owned<kd_ctx> open_context(counting_allocator &memory, pool *threads)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd = nullptr;
    desc.allocator = memory.as_kd();
    if (threads) {
        desc.threads = threads->threads();
        desc.parallel_user = threads;
        desc.parallel_for = [](void *user, int count, kd_task_fn task, void *arg) {
            static_cast<pool *>(user)->run(count, task, arg);
        };
    }
    if (kd_open(&desc, &kd) != KD_OK) std::exit(EXIT_FAILURE);
    return owned<kd_ctx>(kd);
}

owned<kd_model> copy_to(kd_ctx *kd, const kd_model *m)
{
    kd_model *copy = nullptr;
    if (kd_model_clone_to(m, kd, &copy) != KD_OK) fail(kd, "copying a model");
    return owned<kd_model>(copy);
}

owned<kd_model> learn(kd_ctx *kd, const char *spec, const images &from, int epochs)
{
    kd_model *m = nullptr;
    const kd_data data = from.data();
    kd_train_desc desc = kd_train_defaults();
    desc.epochs = epochs;
    if (kd_model_create(kd, spec, 1, &m) != KD_OK || kd_train(m, &data, &desc) != KD_OK) fail(kd, "training");
    owned<kd_model> made(m);
    if (kd_model_set_preprocessing(m, data.mean, data.std) != KD_OK) fail(kd, "the preprocessing");
    return made;
}

/* The student that frames are shown to, and the memory it predicts in. */
struct predictor {
    owned<kd_model> model;
    owned<kd_workspace> workspace; /* goes before its model */

    explicit predictor(owned<kd_model> m) : model(std::move(m))
    {
        kd_workspace *w = nullptr;
        if (kd_workspace_create(model.get(), 1, &w) != KD_OK) std::exit(EXIT_FAILURE);
        workspace.reset(w);
    }
    int classify(const uint8_t *frame)
    {
        float logits[shapes];
        if (kd_workspace_predict_u8_hwc(workspace.get(), frame, 1, logits) != KD_OK) return -1;
        return static_cast<int>(std::max_element(logits, logits + shapes) - logits);
    }
};

/* ---- learning in the background ----------------------------------------------------------------------------- */

class background
{
  public:
    background(kd_ctx *context, const kd_model *teacher, const kd_model *student, images seen, int epochs)
        : kd(context), frames(std::move(seen)), made(copy_to(context, student)),
          thread([this, teacher, epochs] { run(teacher, epochs); })
    {
    }
    ~background()
    {
        cancel = true;
        if (thread.joinable()) thread.join();
    }
    background(const background &) = delete;
    background &operator=(const background &) = delete;

    bool done() const { return ended; }
    kd_result stop()
    {
        cancel = true;
        return wait();
    }
    kd_result wait()
    {
        if (thread.joinable()) thread.join();
        return result;
    }
    const kd_model *student() const { return made.get(); } /* once it is done */

  private:
    void run(const kd_model *teacher, int epochs)
    {
        const kd_data data = frames.data();
        kd_train_desc desc = kd_train_defaults();
        desc.epochs = epochs;
        desc.teacher = teacher;
        desc.loss = kd_loss_defaults(KD_LOSS_KL); /* no labels */
        desc.on_step = [](void *user, const kd_step_info *) {
            return static_cast<background *>(user)->cancel.load() ? 1 : 0;
        };
        desc.user = this;
        result = kd_train(made.get(), &data, &desc);
        if (result < 0) std::fprintf(stderr, "camera: learning: %s\n", kd_error(kd));
        ended = true;
    }
    kd_ctx *kd;
    images frames;
    owned<kd_model> made;
    kd_result result = KD_OK;
    std::atomic<bool> cancel{false}, ended{false};
    std::thread thread; /* the last, so that all else is there when it starts */
};

} // namespace

int main()
{
    constexpr int window = 300;
    counting_allocator memory;
    int swapped_at = -1;
    double evening_before = 0, evening_after = 0;
    size_t allocations = 0;
    kd_result cancelled = KD_OK;
    {
        pool threads(2);
        const owned<kd_ctx> front = open_context(memory, nullptr), back = open_context(memory, &threads);
        camera training_camera(1), live(2);
        images day, all_day;
        uint8_t frame[pixels];
        for (int i = 0; i < 900; ++i) {
            const int32_t shape = training_camera.read(frame, i % 2 == 1);
            all_day.add(frame, shape);
            if (i % 2 == 0) day.add(frame, shape);
        }
        const owned<kd_model> teacher = learn(
            back.get(),
            "3x24x24: conv 8 3 pad=1, relu, maxpool 2, conv 16 3 pad=1, relu, maxpool 2, dense 32, relu, dense 3",
            all_day, 20);
        const owned<kd_model> first =
            learn(back.get(), "3x24x24: conv 8 3 stride=2, relu, conv 12 3, relu, maxpool 2, dense 3", day, 30);
        auto now = std::make_unique<predictor>(copy_to(front.get(), first.get()));
        std::unique_ptr<background> learning;
        images seen;

        for (int i = 0, right = 0; i < 40 * window; ++i) {
            const bool evening = i >= window;
            const int32_t shape = live.read(frame, evening);
            const size_t before = memory.calls;
            right += now->classify(frame) == shape;
            if (!learning) allocations += memory.calls - before; /* the other thread's are not this one's */
            if (evening && !learning && swapped_at < 0) {
                seen.add(frame, KD_UNLABELLED);
                if (seen.labels.size() == 600)
                    learning = std::make_unique<background>(back.get(), teacher.get(), now->model.get(), seen, 40);
            }
            if (learning && learning->done() && learning->wait() == KD_OK) {
                now =
                    std::make_unique<predictor>(copy_to(front.get(), learning->student())); /* between two frames */
                learning.reset();
                swapped_at = i;
                std::printf("frame %5d: the new student takes over\n", i);
            }
            if (i % window < window - 1) continue;
            if (evening && swapped_at < 0) evening_before = 1.0 * right / window;
            if (swapped_at >= 0 && i - swapped_at >= window) evening_after = 1.0 * right / window;
            std::printf("frame %5d: %s, %.1f %% right%s\n", i + 1, evening ? "evening" : "day",
                        100.0 * right / window, learning ? ", learning in the background" : "");
            right = 0;
            if (evening_after > 0) break;
            if (learning)
                std::this_thread::sleep_for(std::chrono::milliseconds(200)); /* a camera is not that fast */
        }
        background unwanted(back.get(), teacher.get(), now->model.get(), std::move(seen), 1000000);
        cancelled = unwanted.stop();
    }
    std::printf("cancelled: %s; allocated while predicting: %zu times; left over: %zu bytes\n",
                kd_result_name(cancelled), allocations, memory.bytes.load());
    return evening_after > evening_before && cancelled == KD_STOPPED && allocations == 0 && memory.bytes == 0
               ? EXIT_SUCCESS
               : EXIT_FAILURE;
}
