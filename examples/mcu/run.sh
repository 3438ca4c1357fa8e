#!/bin/sh
# A student as C source on five emulated processors: the bits of its logits must be those of kd.h, and a table says what
# it takes. Usage: examples/mcu/run.sh STUDENT.safetensors SHEETS OUT       with $OUT/pack from pack.c
# Needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm; for the AVR gcc-avr, avr-libc and simavr. Fails,
# and says where, if a bit differs.
student=$1 sheets=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
warnings="-Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Werror"
"$out/pack" "$student" "$sheets" "$out" || exit 1
${CC:-cc} -std=c99 -O2 -DDESK $warnings -I"$out" "$here/pictures.c" "$out/net.c" -o "$out/desk" || exit 1
"$out/desk" | grep -v '^#' >"$out/desk.bits"
cmp -s "$out/wanted" "$out/desk.bits" || { echo "on this machine: other bits than kd_predict's"; exit 1; }

of() { sed -n "s/^# $1: //p" "$out/said"; }

# row PROCESSOR CODE RAM: what $out/said says, and whether its bits are the right ones
row()
{
    grep -v '^#' "$out/said" >"$out/bits"
    cmp -s "$out/wanted" "$out/bits" || { echo "$1: other bits than kd_predict's"; head -n 3 "$out/said"; exit 1; }
    per=$(awk "BEGIN { printf \"%.2f\", $(of instructions) / $(of multiply-adds) }")
    printf '%-11s %9s %9s %14s %9s %9s\n' "$1" "$2" $(($3 + $(of stack))) "$(of instructions)" "$per" \
        "$(of right)/$(of pictures)"
}

printf '%-11s %9s %9s %14s %9s %9s\n' processor flash RAM instructions 'per MAC' right
while read -r cpu machine float; do
    sed 's/BOARD_RAM/16K/' "$here/board.ld" >"$out/board.ld"
    arm="arm-none-eabi-gcc -mcpu=$cpu -mthumb $(echo "$float" | tr , ' ') --specs=nano.specs --specs=nosys.specs"
    $arm -std=c99 -O2 $warnings -I"$out" -c "$out/net.c" -o "$out/net.o" &&
        $arm -std=c99 -O2 $warnings -I"$out" -T "$out/board.ld" -nostartfiles "$here/pictures.c" "$here/board.c" \
            "$out/net.o" -o "$out/pictures.elf" || exit 1
    timeout 120 qemu-system-arm -M "$machine" -nographic -monitor none -serial none -icount shift=0 \
        -semihosting-config enable=on,target=native -kernel "$out/pictures.elf" >"$out/said" 2>&1
    set -- $(arm-none-eabi-size "$out/net.o" | tail -n 1)
    row "$cpu" $(($1 + $2)) $(($2 + $3))
done <<END
cortex-m0 microbit -mfloat-abi=soft
cortex-m3 mps2-an385 -mfloat-abi=soft
cortex-m4 mps2-an386 -mfloat-abi=hard,-mfpu=fpv4-sp-d16
cortex-m7 mps2-an500 -mfloat-abi=hard,-mfpu=fpv5-sp-d16
END

if ! command -v simavr >/dev/null || ! echo '#include <avr/pgmspace.h>' | avr-gcc -fsyntax-only -x c - 2>/dev/null; then
    echo "atmega2560: skipped, needs gcc-avr, avr-libc and simavr"
    exit
fi
avr="avr-gcc -mmcu=atmega2560 -std=c99 -O2 $warnings -I$out"
$avr -c "$out/net.c" -o "$out/net.o" && $avr "$here/pictures.c" "$here/avr.c" "$out/net.o" -o "$out/pictures.elf" || exit 1
timeout 120 simavr -m atmega2560 -f 16000000 "$out/pictures.elf" 2>&1 | tr -d '\r' | sed -n 's/.*\[32m\(.*\)\.$/\1/p' >"$out/said"
set -- $(avr-size "$out/net.o" | tail -n 1)
row atmega2560 $(($1 + $2)) $(($2 + $3))
