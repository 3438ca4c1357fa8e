#!/bin/sh
# Models of every layer as C source: what examples/export.c writes compiles without a warning, and computes what
# kd_predict does. Usage: tests/csource.sh
cd "$(dirname "$0")" || exit 1
. ./checks.sh

warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wfloat-conversion -Wdouble-promotion -Werror"
check "csource.c" ${CC:-cc} -std=gnu99 -O0 -DKD_NO_SIMD -DKD_NO_THREADS csource.c -o "$tmp/csource" -lm
check "export.c" ${CC:-cc} -std=gnu99 -O0 -DKD_NO_SIMD -DKD_NO_THREADS ../examples/export.c -o "$tmp/export" -lm
check "models" "$tmp/csource" "$tmp"
for model in "$tmp"/m*.safetensors; do
    to=${model%.safetensors}.c
    "$tmp/export" "$model" "$to" >"$log" 2>&1 || fail "$(basename "$to")"
done

says_nothing() { "$tmp/check"; }
for cc in gcc clang; do
    if ! compiles $cc; then
        skip "$cc" "not installed"
        continue
    fi
    for level in -Os -O3; do
        check "$cc $level" $cc -std=c99 $level $warnings -Wstrict-prototypes -Wmissing-prototypes -I"$tmp" csource_check.c -o "$tmp/check" -lm
        check "$cc $level: the logits of kd_predict" says_nothing
    done
done
if compiles g++; then
    check "g++ -std=c++17" g++ -x c++ -std=c++17 -O1 $warnings -I"$tmp" csource_check.c -o "$tmp/check" -lm
    check "g++: the logits of kd_predict" says_nothing
else
    skip "g++" "not installed"
fi
check "sanitizers" ${CC:-cc} -std=c99 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -I"$tmp" csource_check.c -o "$tmp/check" -lm
check "sanitizers: the logits of kd_predict" says_nothing
if compiles arm-none-eabi-gcc; then
    for model in "$tmp"/m*.c; do cat "$model"; done >"$tmp/all.c"
    for cpu in cortex-m0 cortex-m4; do
        check "arm-none-eabi-gcc -mcpu=$cpu" arm-none-eabi-gcc -mcpu=$cpu -mthumb -std=c99 -Os $warnings -c "$tmp/all.c" -o "$tmp/all.o"
    done
else
    skip "arm-none-eabi-gcc" "not installed"
fi
finish
