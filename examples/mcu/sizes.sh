#!/bin/sh
# What the demo's student takes on a microcontroller, in each form: a table of bytes of flash and RAM, and instructions
# for an image. Usage: examples/mcu/sizes.sh OUT       with $OUT/sizes from sizes.c
# Needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. Where there is onnx2c (or $ONNX2C), its output
# for the same student stands beside them.
out=$1
here=$(cd "$(dirname "$0")" && pwd)
"$out/sizes" "$out" || exit 1
printf '#define PICTURES 1\n#define PICTURES_EACH 1\nstatic const unsigned char pictures[1][784] BOARD_CONST = {{9}};\n' >"$out/pictures.h"
sed 's/BOARD_RAM/512K/' "$here/board.ld" >"$out/board.ld"

of() { sed -n "s/^# $1: //p" "$out/said"; }

# row NAME PROCESSOR MACHINE FLAGS: what is compiled in $arm stands in student.elf
row()
{
    timeout 300 qemu-system-arm -M "$3" -nographic -monitor none -serial none -icount shift=0 \
        -semihosting-config enable=on,target=native -kernel "$out/student.elf" >"$out/said" 2>&1
    [ -n "$(of stack)" ] || { echo "$1: $(head -n 1 "$out/said")"; exit 1; }
    set -- "$1" "$2" $(arm-none-eabi-size "$out/student.elf" | tail -n 1)
    ram=$(($4 + $5 + $(of stack) + $(of heap)))
    printf '%-34s %-10s %8s %8s %12s\n' "$1" "$2" $(($3 + $4)) $ram "$(of instructions)"
}

printf '%-34s %-10s %8s %8s %12s\n' form processor flash RAM instructions
while read -r cpu machine float; do
    arm="arm-none-eabi-gcc -std=c99 -Os -mcpu=$cpu -mthumb $(echo "$float" | tr , ' ') --specs=nano.specs --specs=nosys.specs"
    arm="$arm -ffunction-sections -fdata-sections -Wl,--gc-sections -nostartfiles -I$out -T $out/board.ld"
    for type in int8 float; do
        cp "$out/$type.c" "$out/net.c"
        $arm "$here/pictures.c" "$here/board.c" "$out/net.c" -o "$out/student.elf" -lm || exit 1
        row "C source, $type" "$cpu" "$machine"
    done
    for type in int8 float; do
        command -v "${ONNX2C:-onnx2c}" >/dev/null || continue
        "${ONNX2C:-onnx2c}" -d N:1 "$out/$type.onnx" >"$out/onnx2c.c" || exit 1
        $arm -w "$here/onnx2c.c" "$here/board.c" "$out/onnx2c.c" -o "$out/student.elf" -lm || exit 1
        row "onnx2c, $type" "$cpu" "$machine"
    done
    while read -r type name options; do
        cp "$out/$type.h" "$out/model.h"
        $arm $options "$here/student.c" "$here/board.c" -o "$out/student.elf" -lm || exit 1
        row "kd.h, $(echo "$name" | tr _ ' ')" "$cpu" "$machine"
    done <<KINDS
int8 int8
float float,_weights_in_flash -DKD_NO_INT8
float float,_weights_copied -DKD_NO_INT8 -DCOPY
KINDS
done <<END
cortex-m0 mps2-an385 -mfloat-abi=soft
cortex-m4 mps2-an386 -mfloat-abi=hard,-mfpu=fpv4-sp-d16
END
