#!/bin/sh
# The same training on every instruction set, compiler and machine that can be had here, real or emulated: weights
# must agree to the last bit. Usage: tests/emulated.sh [quick | native]
# quick: here with the first compiler; native: here with all of them, and nothing emulated.
cd "$(dirname "$0")/compile" || exit 1
. ../checks.sh

warnings="-Werror -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef"

# processor_has <flag ...>: Linux says that this processor has them all
processor_has()
{
    for flag; do grep -q -w "^flags.*[[:space:]]$flag" /proc/cpuinfo 2>/dev/null || return; done
}

# may_lack <command ... instruction set>: scalar and NEON are everywhere, others where Linux does not list them; an
# emulated processor may lack them, too
may_lack()
{
    for isa; do :; done
    case $isa in
        avx2) [ "$1" != "$tmp/hash" ] || ! processor_has avx2 fma ;;
        avx512) [ "$1" != "$tmp/hash" ] || ! processor_has avx512f avx512vl avx512bw avx512dq ;;
        *) false ;;
    esac
}

# same_weights <what it is> <fused or portable> <command ...>: its output equals that of the first of its kind
same_weights()
{
    what=$1 kind=$2
    shift 2
    if ! "$@" "$tmp/model" 2>"$log" | tr -d '\r' >"$tmp/weights" || ! grep -q averaged "$tmp/weights"; then
        if grep -q 'no context' "$tmp/weights" && may_lack "$@"; then
            skip "$what" "this processor has none"
        else
            fail "$what"
        fi
    elif ! [ -e "$tmp/$kind" ]; then
        cp "$tmp/weights" "$tmp/$kind"
        pass "$what"
    else
        diff "$tmp/$kind" "$tmp/weights" >"$log" && pass "$what" || fail "$what"
    fi
}

# build <compiler> <options ...>
build() { "$@" $warnings hash.c -o "$tmp/hash" -lm >"$log" 2>&1; }

for options in 'gcc -std=c99 -O2' 'gcc -std=c99 -O0' 'clang -std=c99 -O2' 'g++ -x c++ -std=c++17 -O1'; do
    if [ "$1" = quick ] && [ -e "$tmp/portable" ]; then
        continue
    fi
    if ! command -v "${options%% *}" >/dev/null; then
        skip "$options" "not installed"
    elif ! build $options; then
        fail "$options"
    else
        [ -e "$tmp/first" ] || cp "$tmp/hash" "$tmp/first"
        same_weights "$options: scalar" portable "$tmp/hash" scalar
        for isa in avx2 avx512; do same_weights "$options: $isa" fused "$tmp/hash" $isa; done
    fi
done

[ "$1" != native ] || { finish; exit; }

# emulated <target> <emulator> <instruction sets> [options]
emulated()
{
    if ! compiles "$1-gcc" || ! command -v "$2" >/dev/null; then
        skip "$1" "needs $1-gcc, its C library, and $2 (packages gcc-$1, libc6-dev-*-cross, qemu-user)"
        return
    fi
    if ! build "$1-gcc" -std=gnu99 -O1 -static $4; then
        fail "$1-gcc -std=gnu99 -O1 $4"
        return
    fi
    for isa in $3; do
        case $isa in scalar) kind=portable ;; *) kind=fused ;; esac
        same_weights "$1: $isa" $kind "$2" "$tmp/hash" $isa
    done
}
emulated aarch64-linux-gnu qemu-aarch64 "neon scalar"
emulated arm-linux-gnueabihf qemu-arm "neon scalar" "-mcpu=cortex-a7 -mfpu=neon-vfpv4"
emulated s390x-linux-gnu qemu-s390x scalar
emulated i686-linux-gnu qemu-i386 scalar "-msse2 -mfpmath=sse"

# WebAssembly, by node, with vectors and without
wasi="${WASI:-/usr}" clang=${CLANG:-clang}
if ! command -v "$clang" >"$log" || ! command -v wasm-ld >"$log" || ! [ -e "$wasi/lib/wasm32-wasi/libc.a" ] ||
    ! [ -e "$("$clang" --target=wasm32-wasi --rtlib=compiler-rt -print-libgcc-file-name)" ] || ! command -v node >"$log"; then
    skip "WebAssembly" "needs clang, lld, wasi-libc, libclang-rt-dev-wasm32 and node"
else
    cat >"$tmp/wasi.mjs" <<'END'
import { WASI } from "node:wasi";
import { readFileSync } from "node:fs";
const args = process.argv.slice(2), folder = args[0].replace(/[^/]*$/, "");
const wasi = new WASI({ version: "preview1", args, env: {}, preopens: { [folder]: folder }, returnOnExit: true });
const program = await WebAssembly.compile(readFileSync(args[0]));
process.exitCode = wasi.start(await WebAssembly.instantiate(program, wasi.getImportObject()));
END
    for options in '-O0 -msimd128' -O0; do
        if "$clang" --target=wasm32-wasi -std=gnu99 $options -DKD_NO_THREADS $warnings hash.c -nostdlib \
            -isystem "$wasi/include/wasm32-wasi" -L"$wasi/lib/wasm32-wasi" "$wasi/lib/wasm32-wasi/crt1.o" -lm -lc \
            "$("$clang" --target=wasm32-wasi --rtlib=compiler-rt -print-libgcc-file-name)" -o "$tmp/hash" >"$log" 2>&1; then
            same_weights "WebAssembly: $options" portable node --no-warnings "$tmp/wasi.mjs" "$tmp/hash" scalar
        else
            fail "WebAssembly: $options"
        fi
    done
fi

# Windows, by wine, which finds this machine's files under their own names
wine=$(command -v wine64 || command -v wine || ls /usr/lib/wine/wine64 2>"$log")
if [ -n "$wine" ] && command -v x86_64-w64-mingw32-gcc >"$log"; then
    export WINEPREFIX="$tmp/wine" WINEDEBUG=-all
    rm -f "$tmp/hash" # the compiler adds .exe
    if build x86_64-w64-mingw32-gcc -std=gnu99 -O1 -static; then
        same_weights "Windows: scalar" portable "$wine" "$tmp/hash.exe" scalar
        for isa in avx2 avx512; do same_weights "Windows: $isa" fused "$wine" "$tmp/hash.exe" $isa; done
    else
        fail "x86_64-w64-mingw32-gcc"
    fi
    # names of files in all letters, and longer than Windows likes them
    if [ -e /usr/include/stb/stb_image.h ]; then
        mkdir -p "$tmp/include" "$tmp/paths"
        ln -sfn /usr/include/stb "$tmp/include/stb"
        check "Windows: paths.c" x86_64-w64-mingw32-gcc -std=gnu99 -O0 $warnings -DKD_NO_SIMD -isystem "$tmp/include" \
            -static paths.c -o "$tmp/paths.exe" -lm
        check "Windows: names of files" env LC_ALL=C.UTF-8 "$wine" "$tmp/paths.exe" "Z:$tmp/paths" ../images/rgb8.png
    else
        skip "Windows: names of files" "libstb-dev is not installed"
    fi
else
    skip "Windows" "needs x86_64-w64-mingw32-gcc and wine64 (packages gcc-mingw-w64-x86-64, wine64)"
fi

# an old processor: nothing that it lacks is ever executed
if command -v qemu-x86_64 >/dev/null && [ "$(uname -m)" = x86_64 ]; then
    same_weights "x86-64 of 2003: scalar" portable qemu-x86_64 -cpu qemu64 "$tmp/first" auto
    same_weights "x86-64 of 2013: auto" fused qemu-x86_64 -cpu Haswell "$tmp/first" auto
else
    skip "old x86-64 processors" "needs qemu-x86_64 (package qemu-user)"
fi
finish
