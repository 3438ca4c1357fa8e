/* replay.c - runs a harness without libFuzzer: over files and folders, then over mutants of them. The same
   arguments give the same mutants. Usage: replay [-r ROUNDS] [-s SEED] [-d DICTIONARY] [-c CRASH]
   FILE_OR_FOLDER ... An input on which the program ends is kept in CRASH. */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

enum { MOST_BYTES = 1 << 16, MOST_INPUTS = 4096, MOST_WORDS = 256, WORD_BYTES = 64 };

typedef struct piece {
    uint8_t *bytes;
    size_t size;
} piece;

static piece inputs[MOST_INPUTS], words[MOST_WORDS];
static size_t input_count, word_count;
static uint8_t mutant[MOST_BYTES];
static piece running;
static uint64_t state = 1;
static const char *crash;

static void keep_crash(void)
{
    FILE *file = crash ? fopen(crash, "wb") : NULL;
    if (!file) return;
    fwrite(running.bytes, 1, running.size, file);
    fclose(file);
}

static void on_signal(int number)
{
    keep_crash();
    signal(number, SIG_DFL);
    raise(number);
}

/* A copy that ends where the input does, so that reading on is noticed. */
static void run(const uint8_t *bytes, size_t size)
{
    running.bytes = (uint8_t *)malloc(size ? size : 1);
    running.size = size;
    if (!running.bytes) exit(2);
    if (size) memcpy(running.bytes, bytes, size);
    (void)LLVMFuzzerTestOneInput(running.bytes, size);
    free(running.bytes);
}

static size_t below(size_t limit)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return limit ? (size_t)((state >> 11) % limit) : 0;
}

static int add_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    piece *p = &inputs[input_count];
    if (!file || input_count == MOST_INPUTS) {
        fprintf(stderr, "cannot take %s\n", path);
        exit(2);
    }
    p->bytes = (uint8_t *)calloc(MOST_BYTES, 1);
    if (!p->bytes) exit(2);
    p->size = fread(p->bytes, 1, MOST_BYTES, file);
    fclose(file);
    ++input_count;
    return 0;
}

static void add(const char *path)
{
    struct dirent **names;
    const int count = scandir(path, &names, NULL, alphasort);
    int i;
    if (count < 0) add_file(path);
    for (i = 0; i < count; ++i) {
        char inside[1024];
        snprintf(inside, sizeof inside, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.') add_file(inside);
        free(names[i]);
    }
    if (count >= 0) free(names);
}

/* Lines of the form "text" with the escapes \\, \" and \xAB, as libFuzzer reads them. */
static void add_dictionary(const char *path)
{
    char line[256], digits[3] = {0};
    FILE *file = fopen(path, "r");
    if (!file) {
        fprintf(stderr, "cannot open %s\n", path);
        exit(2);
    }
    while (fgets(line, sizeof line, file) && word_count < MOST_WORDS) {
        static uint8_t store[MOST_WORDS][WORD_BYTES];
        piece *word = &words[word_count];
        const char *c = line[0] == '#' ? NULL : strchr(line, '"');
        if (!c) continue;
        word->bytes = store[word_count++];
        for (++c; *c && *c != '"' && word->size < WORD_BYTES; ++c) {
            if (*c == '\\' && c[1] == 'x' && c[2] && c[3]) {
                digits[0] = c[2], digits[1] = c[3];
                word->bytes[word->size++] = (uint8_t)strtoul(digits, NULL, 16);
                c += 3;
            } else {
                if (*c == '\\') ++c;
                word->bytes[word->size++] = (uint8_t)*c;
            }
        }
    }
    fclose(file);
}

/* Replaces `gone` bytes of the mutant by others; nothing happens where they do not fit. */
static size_t splice(size_t size, size_t at, size_t gone, const uint8_t *bytes, size_t count)
{
    uint8_t copy[MOST_BYTES];
    if (size - gone + count > MOST_BYTES) return size;
    if (count) memcpy(copy, bytes, count);
    memmove(mutant + at + count, mutant + at + gone, size - at - gone);
    if (count) memcpy(mutant + at, copy, count);
    return size - gone + count;
}

static size_t mutate(size_t size)
{
    static const char *const numbers[] = {
        "0",     "1",          "2",          "-1",         "7",    "255", "256",        "65535",
        "65536", "2147483647", "2147483648", "4294967296", "1e30", "0.5", "1000000000", "99999999999999999999"};
    static const uint8_t bytes[] = {0, 1, 2, 8, 16, 32, 64, 127, 128, 254, 255, '0', '9', '"', ',', ' '};
    const size_t at = below(size), length = 1 + below(1 + below(size - at < 32 ? size - at : 32));
    const size_t inside = length < size - at ? length : size - at;
    const piece *other = &inputs[below(input_count)];
    size_t from;
    switch (below(word_count ? 10 : 8)) {
    case 0:
        if (size) mutant[at] = (uint8_t)(mutant[at] ^ 1u << below(8));
        return size;
    case 1:
        if (size) mutant[at] = bytes[below(sizeof bytes)];
        return size;
    case 2: return splice(size, at, inside, NULL, 0);
    case 3: return splice(size, below(size + 1), 0, mutant + at, inside);
    case 4: return splice(size, at, 0, bytes + below(sizeof bytes), 1);
    case 5: /* a number for a number */
        for (from = at; from < size && (mutant[from] < '0' || mutant[from] > '9'); ++from) {}
        if (from < size) {
            const char *number = numbers[below(sizeof numbers / sizeof *numbers)];
            size_t end = from;
            while (end < size && mutant[end] >= '0' && mutant[end] <= '9') ++end;
            return splice(size, from, end - from, (const uint8_t *)number, strlen(number));
        }
        return size;
    case 6: /* a piece of another input */
        from = below(other->size);
        return splice(size, at, below(2) ? inside : 0, other->bytes + from, below(1 + other->size - from));
    case 7:
        for (from = at; from < size && from < at + 4; ++from) mutant[from] = (uint8_t)(below(2) ? 255 : 0);
        return size;
    default: {
        const piece *word = &words[below(word_count)];
        return splice(size, at, below(2) && word->size <= size - at ? word->size : 0, word->bytes, word->size);
    }
    }
}

int main(int argc, char **argv)
{
    long rounds = 0, round;
    size_t i, most = 0;
    int a;
    for (a = 1; a < argc; ++a) {
        if (strcmp(argv[a], "-r") == 0 && a + 1 < argc)
            rounds = atol(argv[++a]);
        else if (strcmp(argv[a], "-s") == 0 && a + 1 < argc)
            state = strtoull(argv[++a], NULL, 10) * 2 + 1;
        else if (strcmp(argv[a], "-d") == 0 && a + 1 < argc)
            add_dictionary(argv[++a]);
        else if (strcmp(argv[a], "-c") == 0 && a + 1 < argc)
            crash = argv[++a];
        else
            add(argv[a]);
    }
    if (!input_count) {
        fprintf(stderr, "usage: replay [-r ROUNDS] [-s SEED] [-d DICTIONARY] [-c CRASH] FILE_OR_FOLDER ...\n");
        return 2;
    }
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(keep_crash);
    signal(SIGABRT, on_signal);
    run(NULL, 0);
    for (i = 0; i < input_count; ++i) {
        run(inputs[i].bytes, inputs[i].size);
        most = inputs[i].size > most ? inputs[i].size : most;
    }
    for (round = 0; round < rounds; ++round) {
        const piece *input = &inputs[below(input_count)];
        size_t size = input->size, steps = 1 + below(6);
        memcpy(mutant, input->bytes, size);
        while (steps--) size = mutate(size);
        run(mutant, size);
    }
    printf("%zu inputs of up to %zu bytes, %ld mutants\n", input_count, most, rounds);
    for (i = 0; i < input_count; ++i) free(inputs[i].bytes);
    return 0;
}
