#!/bin/sh
# A student in the flash of an emulated Cortex-M4, with the C library for small devices: the bits of its logits must be
# those of a desk machine; and on an Xtensa. Then one that is C source, on five processors. Usage: tests/mcu.sh
cd "$(dirname "$0")/../examples/mcu" || exit 1
. ../../tests/checks.sh

warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
arm="arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 --specs=nano.specs --specs=nosys.specs"

check "model.c" ${CC:-cc} -std=c99 -O0 -DKD_NO_SIMD -DKD_NO_THREADS $warnings model.c -o "$tmp/model" -lm
"$tmp/model" >"$tmp/model.h"
check "student.c on a desk machine" ${CC:-cc} -std=c99 -O1 -DDESK $warnings -I"$tmp" student.c -o "$tmp/desk" -lm
check "it runs" sh -c "$tmp/desk >$tmp/desk.all"
grep -v '^#' "$tmp/desk.all" >"$tmp/desk.bits"
check "and prints four lines of bits" test "$(grep -c -E '^([0-9a-f]{8} ){10}$' "$tmp/desk.bits")" = 4
if ! command -v arm-none-eabi-gcc >/dev/null || ! echo '#include <stdio.h>' | arm-none-eabi-gcc -fsyntax-only -x c - 2>/dev/null; then
    skip "student.c on a Cortex-M4" "needs gcc-arm-none-eabi and libnewlib-arm-none-eabi"
else
    sed "s/BOARD_RAM/${BOARD_RAM:-64K}/" board.ld >"$tmp/board.ld"
    check "student.c for a Cortex-M4" $arm -std=c99 -Os $warnings -I"$tmp" -T "$tmp/board.ld" -nostartfiles -ffunction-sections \
        -fdata-sections -Wl,--gc-sections \
        student.c board.c -o "$tmp/student.elf" -lm
    if ! command -v qemu-system-arm >/dev/null; then
        skip "student.c in QEMU" "needs qemu-system-arm"
    else
        timeout 120 qemu-system-arm -M mps2-an386 -nographic -monitor none -serial none \
            -semihosting-config enable=on,target=native -kernel "$tmp/student.elf" 2>&1 | grep -v '^#' >"$tmp/arm.bits"
        check "it runs in ${BOARD_RAM:-64K} of RAM, to the same bits" diff "$tmp/desk.bits" "$tmp/arm.bits"
        check "there are four lines of them" test "$(grep -c -E '^([0-9a-f]{8} ){10}$' "$tmp/arm.bits")" = 4
    fi
fi

# the same on an Xtensa, the lx106 of an ESP8266, with picolibc and arithmetic of our own (soft.h)
xtensa="xtensa-lx106-elf-gcc --specs=/usr/lib/xtensa-lx106-elf/picolibc.specs"
if ! command -v qemu-system-xtensa >/dev/null || ! echo '#include <stdio.h>' | $xtensa -fsyntax-only -x c - 2>/dev/null; then
    skip "student.c on an Xtensa" "needs gcc-xtensa-lx106, picolibc-xtensa-lx106-elf and qemu-system-misc"
else
    sed "s/BOARD_RAM/${BOARD_RAM:-64K}/" xtensa.ld >"$tmp/xtensa.ld"
    check "student.c for an Xtensa" $xtensa --crt0=hosted -mlongcalls -std=c99 -Os -DDESK -DKD_NO_INT8 $warnings \
        -ffunction-sections -fdata-sections -Wl,--gc-sections -T "$tmp/xtensa.ld" -iquote "$tmp" student.c xtensa.c \
        -o "$tmp/xtensa.elf" -lm
    timeout 120 qemu-system-xtensa -M sim -cpu lx106 -m 4M -nographic -monitor none -serial none -semihosting \
        -kernel "$tmp/xtensa.elf" 2>&1 | grep -v '^#' >"$tmp/xtensa.bits"
    check "student.c runs on an Xtensa in ${BOARD_RAM:-64K} of RAM, to the same bits" diff "$tmp/desk.bits" "$tmp/xtensa.bits"
fi

# fits NAME RAM OPTION...: the student in model.h, on a board with that much RAM and on a desk machine
fits()
{
    name=$1 ram=$2
    shift 2
    sed "s/BOARD_RAM/$ram/" board.ld >"$tmp/board.ld"
    check "$name on a desk machine" ${CC:-cc} -std=c99 -O0 -DDESK "$@" $warnings -I"$tmp" student.c -o "$tmp/desk" -lm
    "$tmp/desk" | grep -v '^#' >"$tmp/desk.bits"
    check "$name for a Cortex-M4" $arm -std=c99 -Os $warnings "$@" -I"$tmp" -T "$tmp/board.ld" -nostartfiles \
        -ffunction-sections -fdata-sections -Wl,--gc-sections student.c board.c -o "$tmp/student.elf" -lm
    timeout 120 qemu-system-arm -M mps2-an386 -nographic -monitor none -serial none \
        -semihosting-config enable=on,target=native -kernel "$tmp/student.elf" 2>&1 | grep -v '^#' >"$tmp/arm.bits"
    check "$name runs in $ram of RAM, to the same bits" diff "$tmp/desk.bits" "$tmp/arm.bits"
    check "$name prints four lines of them" test "$(grep -c -E '^([0-9a-f]{8} ){10}$' "$tmp/arm.bits")" = 4
}

# riscv NAME: the last of them on a 32-bit RISC-V with picolibc and 64 KB of RAM; its own <float.h> is no student
riscv()
{
    if ! command -v riscv64-unknown-elf-gcc >/dev/null || ! command -v qemu-system-riscv32 >/dev/null ||
        ! echo '#include <stdio.h>' | riscv64-unknown-elf-gcc --specs=picolibc.specs -fsyntax-only -x c - 2>/dev/null; then
        skip "$1 on a RISC-V" "needs gcc-riscv64-unknown-elf, picolibc-riscv64-unknown-elf and qemu-system-misc"
        return
    fi
    check "$1 for a RISC-V" riscv64-unknown-elf-gcc -march=rv32imafc -mabi=ilp32f --specs=picolibc.specs --crt0=semihost \
        --oslib=semihost -std=c99 -Os -DDESK -DKD_NO_INT8 $warnings -ffunction-sections -fdata-sections -Wl,--gc-sections \
        -Wl,--defsym=__flash=0x80000000,--defsym=__flash_size=0x200000,--defsym=__ram=0x80200000 \
        -Wl,--defsym=__ram_size=64K,--defsym=__stack_size=6K -iquote "$tmp" student.c -o "$tmp/riscv.elf" -lm
    timeout 120 qemu-system-riscv32 -M virt -bios none -nographic -monitor none -serial none \
        -semihosting-config enable=on,target=native -kernel "$tmp/riscv.elf" 2>&1 | grep -v '^#' >"$tmp/riscv.bits"
    check "$1 runs on a RISC-V in 64K of RAM, to the same bits" diff "$tmp/desk.bits" "$tmp/riscv.bits"
}
if ! command -v qemu-system-arm >/dev/null || ! compiles arm-none-eabi-gcc; then
    skip "the demo's student" "needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm"
else
    check "sizes.c" ${CC:-cc} -std=gnu99 -O0 -DKD_NO_SIMD $warnings sizes.c -o "$tmp/sizes" -lm
    check "it runs" "$tmp/sizes" "$tmp"
    cp "$tmp/float.h" "$tmp/model.h"
    fits "the demo's student" 64K -DKD_NO_INT8
    riscv "the demo's student"
    cp "$tmp/int8.h" "$tmp/model.h"
    fits "the demo's student in int8" 64K
fi

if ! command -v qemu-system-arm >/dev/null || ! compiles arm-none-eabi-gcc || ! [ -e /usr/include/stb/stb_image_write.h ]; then
    skip "pictures.c" "needs gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm and libstb-dev"
else
    check "pack.c" ${CC:-cc} -std=gnu99 -O0 -DKD_NO_SIMD $warnings pack.c -o "$tmp/pack" -lm
    ./run.sh fashion.safetensors ../data/fashion/test "$tmp" >"$tmp/table" 2>&1
    check "pictures.c on M0, M3, M4 and M7: the bits of kd_predict" test "$(grep -c '^cortex-m.*17/20$' "$tmp/table")" = 4
    if grep -q '^atmega2560: skipped' "$tmp/table"; then
        skip "pictures.c on an ATmega2560" "needs gcc-avr, avr-libc and simavr"
    else
        check "on an ATmega2560, in 4 KB of RAM" \
            test "$(awk '/^atmega2560 .*17\/20$/ && $2 <= 40960 && $3 <= 4096' "$tmp/table" | wc -l)" = 1
    fi
    check "in 40 KB of flash and 16 KB of RAM" \
        test "$(awk '/^cortex/ && $2 <= 40960 && $3 <= 16384' "$tmp/table" | wc -l)" = 4
    [ "$failed" = 0 ] || cat "$tmp/table"
fi
finish
