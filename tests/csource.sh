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
riscv="riscv64-unknown-elf-gcc -march=rv32imac -mabi=ilp32 --specs=picolibc.specs"
if command -v riscv64-unknown-elf-gcc >/dev/null && echo '#include <math.h>' | $riscv -fsyntax-only -x c - 2>/dev/null; then
    for model in "$tmp"/m*.c; do cat "$model"; done >"$tmp/all.c"
    check "riscv64-unknown-elf-gcc -march=rv32imac" $riscv -std=c99 -Os $warnings -c "$tmp/all.c" -o "$tmp/all.o"
else
    skip "a 32-bit RISC-V" "needs gcc-riscv64-unknown-elf and picolibc-riscv64-unknown-elf"
fi

# Models on an AVR, whose constants are not in memory and whose int has 16 bits: those that fit. The bits are those of
# a desk machine, in float, too.
if ! compiles avr-gcc; then
    skip "an AVR" "needs gcc-avr and avr-libc"
    finish
fi
avr() # MODEL: m05
{
    define="-std=c99 -I$tmp -DMODEL_C=\"$1.c\" -Dmodel=$1 -DMODEL=M${1#m}"
    check "$1 on a desk machine" ${CC:-cc} -O1 -DDESK $warnings $define csource_avr.c -o "$tmp/desk"
    check "$1 for an AVR" avr-gcc -mmcu=atmega1284p -Os $warnings $define csource_avr.c ../examples/mcu/avr.c -o "$tmp/avr.elf"
    command -v simavr >/dev/null || return
    "$tmp/desk" >"$tmp/desk.bits"
    timeout 60 simavr -m atmega1284p -f 16000000 "$tmp/avr.elf" 2>&1 | tr -d '\r' | sed -n 's/.*\[32m\(.*\)\.$/\1/p' >"$tmp/avr.bits"
    check "$1 on an AVR: the same bits" diff "$tmp/desk.bits" "$tmp/avr.bits"
}
of() { sed -n "s/^#define M[0-9]*_$2 //p" "$1"; } # FILE MACRO
for model in "$tmp"/m[0-6]*.c; do
    grep -q "char \*text" "$model" && continue
    [ $(($(of "$model" RAM) + 5 * $(of "$model" CHANNELS) * $(of "$model" HEIGHT) * $(of "$model" WIDTH))) -lt 14000 ] || continue
    [ "$(of "$model" FLASH)" -lt 50000 ] && avr "$(basename "$model" .c)"
done
command -v simavr >/dev/null || skip "models on an AVR" "needs simavr; they were compiled"
sed 's/_FLASH [0-9]*$/_FLASH 65001/' "$tmp/m01.c" >"$tmp/large.c"
refused "an AVR: more constants than are reached" "do not fit into the first 64 KB" \
    avr-gcc -mmcu=atmega1284p -std=c99 -c "$tmp/large.c" -o "$tmp/large.o"
finish
