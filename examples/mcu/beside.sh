#!/bin/sh
# The student of make mcu beside what other tools make of it: bytes of flash and RAM of a whole program, instructions for
# an image. Usage: [ONNX2C=onnx2c] [CMSIS_NN=FOLDER] examples/mcu/beside.sh build/mcu       after make mcu
# FOLDER is a copy of https://github.com/ARM-software/CMSIS-NN. Needs what make mcu needs.
out=$1
here=$(cd "$(dirname "$0")" && pwd)
sed 's/BOARD_RAM/512K/' "$here/board.ld" >"$out/large.ld"
mkdir -p "$out/one" # picture, that its bytes are not counted
printf '#define PICTURES 1\n#define PICTURES_EACH 1\nstatic const unsigned char pictures[1][784] = {{9}};\n' >"$out/one/pictures.h"

# weights.h: outputs and inputs of the layers; numbers as good as any
awk 'BEGIN {
    split("8 16 32 10", outputs); split("9 72 784 32", inputs)
    print "typedef struct {\n    const int8_t *weights;\n    const int32_t *bias, *multiplier, *shift;\n} weights;"
    for (i = 1; i <= 4; ++i) {
        printf "static const int8_t w%d[] = {", i
        for (k = 0; k < outputs[i] * inputs[i]; ++k) printf "%d,", (k * 37 + i) % 121 - 60
        printf "};\nstatic const int32_t b%d[] = {", i
        for (k = 0; k < outputs[i]; ++k) printf "%d,", k * 91 - 500
        printf "}, m%d[] = {", i
        for (k = 0; k < outputs[i]; ++k) printf "%d,", 1500000000 + k * 1001
        printf "}, s%d[] = {", i
        for (k = 0; k < outputs[i]; ++k) printf "-8,"
        print "};"
    }
    print "static const weights layers[] = {{w1, b1, m1, s1}, {w2, b2, m2, s2}, {w3, b3, m3, s3}, {w4, b4, m4, s4}};"
}' >"$out/weights.h"

of() { sed -n "s/^# $1: //p" "$out/said"; }

# row NAME PROCESSOR MACHINE: what stands in beside.elf
row()
{
    timeout 300 qemu-system-arm -M "$3" -nographic -monitor none -serial none -icount shift=0 \
        -semihosting-config enable=on,target=native -kernel "$out/beside.elf" >"$out/said" 2>&1
    [ -n "$(of stack)" ] || { echo "$1: $(head -n 1 "$out/said")"; exit 1; }
    set -- "$1" "$2" $(arm-none-eabi-size "$out/beside.elf" | tail -n 1)
    printf '%-24s %-10s %8s %8s %12s\n' "$1" "$2" $(($3 + $4)) $(($4 + $5 + $(of stack) + $(of heap))) "$(of instructions)"
}

printf '%-24s %-10s %8s %8s %12s\n' form processor flash RAM instructions
while read -r cpu machine float; do
    for level in -O2 -Os; do
        arm="arm-none-eabi-gcc -std=gnu99 $level -mcpu=$cpu -mthumb $(echo "$float" | tr , ' ') --specs=nano.specs --specs=nosys.specs"
        arm="$arm -ffunction-sections -fdata-sections -Wl,--gc-sections -nostartfiles -I$out/one -I$out -I$here -T $out/large.ld"
        $arm "$here/pictures.c" "$here/board.c" "$out/net.c" -o "$out/beside.elf" -lm || exit 1
        row "kd.h, C source, $level" "$cpu" "$machine"
        if [ -n "$CMSIS_NN" ]; then
            $arm -w -I"$CMSIS_NN/Include" "$here/cmsis_nn.c" "$here/board.c" \
                $(find "$CMSIS_NN/Source" -name '*.c' ! -name '*f16*' ! -name '*f32*' ! -path '*Bindings*') \
                -o "$out/beside.elf" -lm || exit 1
            row "CMSIS-NN, $level" "$cpu" "$machine"
        fi
        command -v "${ONNX2C:-onnx2c}" >/dev/null || continue
        "${ONNX2C:-onnx2c}" -d N:1 "$out/net.onnx" >"$out/onnx2c.c" || exit 1
        $arm -w "$here/onnx2c.c" "$here/board.c" "$out/onnx2c.c" -o "$out/beside.elf" -lm || exit 1
        row "onnx2c, $level" "$cpu" "$machine"
    done
done <<END
cortex-m0 mps2-an385 -mfloat-abi=soft
cortex-m4 mps2-an386 -mfloat-abi=hard,-mfpu=fpv4-sp-d16
END
