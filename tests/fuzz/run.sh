#!/bin/sh
# Runs the parsers' harnesses; a line each: name, executions, result, seconds, and the log of a failure, or what
# libFuzzer covered: of its edges, those that the corpus reaches and those reached in the end.
# Usage: tests/fuzz/run.sh fuzz SECONDS     clang's libFuzzer, with AddressSanitizer and UndefinedBehaviorSanitizer
#        tests/fuzz/run.sh runs EXECUTIONS  the same, so many executions instead of so many seconds
#        tests/fuzz/run.sh replay ROUNDS    the corpus and ROUNDS mutants of it, by $CC $CFLAGS
# What is built and found goes into $BUILD (build/fuzz). PARSERS="spec npy" limits it to these.
cd "$(dirname "$0")" || exit 1
mode=$1 much=$2
case $mode in
    fuzz) limit=-max_total_time=$much ;;
    runs) limit="-runs=$much -entropic=0" mode=fuzz ;; # which is three times as fast where the corpus is large
    replay) limit= ;;
    *) much= ;;
esac
case $much in '' | *[!0-9]*) echo "usage: run.sh fuzz SECONDS | runs EXECUTIONS | replay ROUNDS" >&2; exit 2 ;; esac
build=${BUILD:-../../build/fuzz}
mkdir -p "$build" && build=$(cd "$build" && pwd) || exit 1
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
failed=0

# The kernels are compiled only once and only in C: with sanitizers they take a minute for each instruction set. Without
# a trace of every comparison two to four times as many inputs are tried in a second, and more edges reached in a minute.
if [ "$mode" = fuzz ]; then
    compiler=clang
    common="-std=gnu99 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fsanitize-ignorelist=stb.ignore"
    common="$common -fno-sanitize-coverage=trace-cmp"
    object="$common -fsanitize=fuzzer-no-link -DKD_NO_SIMD -DKD_NO_THREADS" program="$common -fsanitize=fuzzer" driver=
    export ASAN_OPTIONS="quarantine_size_mb=4:malloc_context_size=3:$ASAN_OPTIONS"
else
    compiler=${CC:-gcc}
    common="-std=gnu99 ${CFLAGS:--g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-sanitize=shift}"
    object=$common program=$common driver=replay.c
fi

log=$build/compile.log
if ! $compiler $object $warnings -c ../compile/implementation.c -o "$build/kd-$mode.o" 2>"$log"; then
    echo "kd.h         0  FAILED  0  $log"
    exit 1
fi
# one <parser>
one()
{
    cases=0 edges= name=$1 needs=$build/kd-$mode.o dictionary=$1 inputs=corpus/$1 longest=4096
    case $name in
        onnx) longest=8192 ;; # a Transformer takes more bytes
        cache | checkpoint) dictionary=model ;;
        image) needs= inputs="../images $(ls -d corpus/image 2>/dev/null)" ;;
        idx | table) needs= ;;
    esac
    started=$(date +%s)
    log=$build/$name-$mode.log
    if ! $compiler $program $warnings "$name.c" $driver $needs -o "$build/$name-$mode" -lm >"$log" 2>&1; then
        end=FAILED
    elif [ "$mode" = fuzz ]; then
        mkdir -p "$build/found-$name"
        "$build/$name-$mode" $limit -timeout=20 -rss_limit_mb=3000 -max_len=$longest -print_final_stats=1 \
            -artifact_prefix="$build/$name-" -dict=$dictionary.dict "$build/found-$name" $inputs >>"$log" 2>&1 &&
            end=passed || end=FAILED
        cases=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        edges=$(awk '/INITED|DONE/ { for (i = 1; i < NF; ++i) if ($i == "cov:") printf "%s%s", n++ ? " to " : "edges ", $(i + 1) }' "$log")
    else
        "$build/$name-$mode" -r "$much" -c "$build/$name-crash" -d $dictionary.dict $inputs >>"$log" 2>&1 && end=passed || end=FAILED
        cases=$(sed -n 's/^\([0-9]*\) inputs.* \([0-9]*\) mutants$/\1 \2/p' "$log" | awk '{ print $1 + $2 + 1 }')
    fi
    [ $end = passed ] && word=$edges || { word=$log failed=1; }
    printf '%-8s %10s  %s %4d  %s\n' "$name" "${cases:-0}" $end $(($(date +%s) - started)) "$word"
}

for parser in ${PARSERS:-spec model cache checkpoint onnx npy idx table image}; do one "$parser"; done
exit $failed
