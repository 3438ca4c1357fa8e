#!/bin/sh
# Runs distill and classify with memory that runs out at one request after another, once or for good: each time they
# end with a sentence or do all of their work, and no result is half written. usage: tests/starve.sh BUILD_FOLDER [RUNS]
build=$(cd "${1:-build}" && pwd) || exit 1
runs=${2:-100}
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
checks=0 failures=0

cat >"$work/starve.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
static long requests, at;
static int for_good, started;
static int refuse(void)
{
    ++requests;
    return started && at && (for_good ? requests >= at : requests == at);
}
void *malloc(size_t size) { return refuse() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return refuse() ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return refuse() ? NULL : __libc_realloc(old, size); }
static void report(void)
{
    const char *name = getenv("STARVE_REPORT");
    FILE *f;
    at = 0;
    f = name ? fopen(name, "w") : NULL;
    if (f) fprintf(f, "%ld\n", requests), fclose(f);
}
__attribute__((constructor)) static void start(void)
{
    const char *text = getenv("STARVE_AT");
    for_good = getenv("STARVE_FOR_GOOD") != NULL;
    atexit(report);
    requests = 0, at = text ? atol(text) : 0, started = 1;
}
C
if ! cc -O1 -w -shared -fPIC "$work/starve.c" -o "$work/starve.so"; then
    echo 'skip  needs the allocator of glibc'
    exit 0
fi

# without_times FILE: what two runs have alike; of a report also without the words for which is faster
without_times()
{
    sed -E 's/[0-9. ]+ images\/s, took [0-9]+ s//; s/"(teacher_latency_us|student_latency_us|seconds)": [0-9.]+//
        s/ +[0-9.]+ us//g; s/\([0-9]+ s\)//; s/[0-9.]+&nbsp;&micro;s//g; s/<dd>[0-9]+ s<.dd>//
        s/(answers|takes) [0-9.]+&nbsp;times (faster|as long to answer)\.//' "$1"
}

# same_work WHAT: a run that ended with 0 has said and written what the whole run did
same_work()
{
    for file in "$work/whole.stdout" "$work/whole"/*; do
        [ -f "$file" ] || continue
        other=$output/$(basename "$file")
        [ "$file" != "$work/whole.stdout" ] || other=$work/stdout
        case $other in */report.html) ! grep -q 'pictures are left out of the report' "$work/stderr" || continue ;; esac
        without_times "$file" >"$work/expected"
        [ -e "$other" ] && without_times "$other" | cmp -s - "$work/expected" || {
            failures=$((failures + 1))
            echo "FAILED: $1: ended with 0, but $(basename "$other") is not what it was"
        }
    done
}

# starve NAME OUTPUT COMMAND...: at about $runs of its requests
starve()
{
    name=$1 output=$2
    shift 2
    STARVE_REPORT=$work/count LD_PRELOAD=$work/starve.so "$@" >"$work/stdout" 2>"$work/stderr" || { cat "$work/stderr"; exit 1; }
    total=$(cat "$work/count")
    cp -r "$output" "$work/whole"
    cp "$work/stdout" "$work/whole.stdout"
    for good in '' 1; do
        n=1
        while [ $n -le "$total" ]; do
            checks=$((checks + 1))
            env ${good:+STARVE_FOR_GOOD=1} STARVE_AT=$n LD_PRELOAD="$work/starve.so" "$@" >"$work/stdout" 2>"$work/stderr"
            status=$?
            if [ $status != 0 ] && [ $status != 1 ]; then
                failures=$((failures + 1))
                echo "FAILED: $name, request $n${good:+ for good}: ended with $status: $(tail -1 "$work/stderr")"
            elif [ $status = 1 ] && [ ! -s "$work/stderr" ]; then
                failures=$((failures + 1))
                echo "FAILED: $name, request $n${good:+ for good}: gave up without a word"
            elif [ $status = 0 ]; then
                same_work "$name, request $n${good:+ for good}"
            fi
            for file in "$output"/*.safetensors; do
                [ ! -e "$file" ] || cmp -s "$file" "$work/whole/$(basename "$file")" || {
                    failures=$((failures + 1))
                    echo "FAILED: $name, request $n${good:+ for good}: $file is not what it was"
                }
            done
            n=$((n + 1 + total / runs))
        done
    done
    rm -rf "$work/whole"
    echo "$name: $total requests"
}

mkdir "$work/out"
starve distill "$work/out" "$build/distill" examples/data/fashion --limit 3 --epochs 1 --teacher-epochs 1 --seeds 1 --trials 1 \
    --temperature 2 --alpha 0.5 --threads 1 --teacher 'dense 12, relu, dense 10' --student 'conv 2 3, gap, dense 10' --out "$work/out"
starve classify "$work/out" "$build/classify" "$work/out/student.safetensors" "$(find examples/data/fashion -type f -name '*.jpg' -o -name '*.png' | head -1)"
echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
