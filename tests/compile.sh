#!/bin/sh
# Compiles kd.h in every way that its BUILDING and CONFIGURATION paragraphs promise, without a single warning.
# Usage: tests/compile.sh [quick]       quick: with the first alone; COMPILERS="gcc clang": with these that are there.
cd "$(dirname "$0")/compile" || exit 1
. ../checks.sh
[ "$1" != quick ] || COMPILERS=$(basename "$(command -v gcc || command -v clang)")

warnings="-Werror -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef"
in_c="-Wstrict-prototypes -Wmissing-prototypes"

# no_larger OBJECT BYTES: of code and constants
no_larger() { size "$1" | awk -v most="$2" 'NR == 2 && $1 > most {print $1 " bytes, more than " most; exit 1}'; }

# all_of <file> <pattern>: every line of the file matches; prints those that do not
all_of() { ! grep -v -x -E "$2" "$1"; }

# no_atomics <compiler>: nothing of the kind is left to be compiled
no_atomics() { ! "$1" -std=c99 -DKD_NO_THREADS -E implementation.c | grep -E '(^|[^a-z_])(__atomic_|_Interlocked)'; }

for cc in ${COMPILERS:-gcc clang}; do
    case $cc in
        gcc*) cxx=g++${cc#gcc} ;;
        clang*) cxx=clang++${cc#clang} ;;
        *) cxx= ;;
    esac
    if ! command -v "$cc" >/dev/null; then
        skip "$cc" "not installed"
        continue
    fi

    rm -f "$tmp"/*.o

    # the front end alone: every standard, every switch
    for std in c99 c11 gnu11; do
        check "$cc -std=$std" "$cc" -std=$std $warnings $in_c -fsyntax-only implementation.c
    done
    for switch in -DKD_STATIC -DKD_NO_SIMD -DKD_NO_THREADS -DKD_NO_STDIO -DKD_ALLOW_FAST_MATH \
        "-DKD_NO_SIMD -DKD_NO_THREADS -DKD_NO_STDIO -DKD_STATIC" -D_GNU_SOURCE; do
        check "$cc -std=c99 $switch" "$cc" -std=c99 $warnings $in_c $switch -fsyntax-only implementation.c
    done
    # macros that <windows.h> and Qt leave behind
    check "$cc -std=c99 after <windows.h>" "$cc" -std=c99 $warnings $in_c -Dfar= -Dnear= -Dsmall=char -Dinterface=struct -DSTRICT= \
        -DIN= -DOUT= -DOPTIONAL= -DERROR=0 -Dhuge= -Dpascal= -Dcdecl= -Dslots= -Demit= -Dforeach=for \
        -fsyntax-only implementation.c
    check "$cc -std=c99 declarations" "$cc" -std=c99 $warnings $in_c -c -o "$tmp/declarations.o" declarations.c
    nm "$tmp/declarations.o" >"$tmp/symbols"
    check "$cc declarations define nothing" all_of "$tmp/symbols" ''
    case $cc in *clang*)
        # its own warnings: of declarations in either language, and of what -Os and -Oz leave undone
        for language in c c++; do
            check "$cc -Weverything, $language" "$cc" -x $language -Weverything -Werror -Wno-c++98-compat \
                -Wno-c++98-compat-pedantic -Wno-declaration-after-statement -fsyntax-only declarations.c
        done
        check "$cc -Os" "$cc" -std=c99 -Os $warnings -c -o "$tmp/declarations.o" implementation.c
        ;;
    *) [ "$1" = quick ] || check "$cc -O3 -Wformat-overflow=2" "$cc" -std=c99 -O3 $warnings -Wformat-overflow=2 -Wformat-truncation=2 -c \
        -o "$tmp/declarations.o" implementation.c ;;
    esac

    refused "$cc -ffast-math" 'kd.h: -ffast-math breaks' "$cc" -ffast-math -fsyntax-only implementation.c
    check "$cc -ffast-math -DKD_ALLOW_FAST_MATH" "$cc" -std=c99 $warnings -ffast-math -DKD_ALLOW_FAST_MATH \
        -fsyntax-only implementation.c

    # the parts of -ffast-math, as flags and as pragmas, where the compiler tells of them
    for flag in "-fassociative-math -fno-signed-zeros -fno-trapping-math" -freciprocal-math -fno-signed-zeros \
        -funsafe-math-optimizations -ffinite-math-only -Ofast; do
        macro=$(echo | "$cc" $flag -dM -E -x c - 2>/dev/null |
            grep -E '__(FAST|ASSOCIATIVE|RECIPROCAL)_MATH__ 1|__NO_SIGNED_ZEROS__ 1|__FINITE_MATH_ONLY__ 1')
        [ -n "$macro" ] || [ "$flag" = -Ofast ] || { untold="$untold $cc:$flag"; continue; }
        if [ -n "$macro" ]; then
            refused "$cc $flag" 'kd.h: .*define KD_ALLOW_FAST_MATH' "$cc" $flag -fsyntax-only implementation.c
            check "$cc $flag -DKD_ALLOW_FAST_MATH" "$cc" -std=c99 $warnings $flag -DKD_ALLOW_FAST_MATH \
                -fsyntax-only implementation.c
        fi
    done
    case $cc in gcc*)
        for option in associative-math reciprocal-math no-signed-zeros fast-math; do
            printf '#pragma GCC optimize("%s", "no-signed-zeros", "no-trapping-math")\n#include "%s"\n' $option \
                "$PWD/implementation.c" >"$tmp/pragma.c"
            refused "$cc #pragma GCC optimize(\"$option\")" 'kd.h: ' "$cc" -O2 -I. -fsyntax-only "$tmp/pragma.c"
        done ;;
    esac
    if echo '#include <stdio.h>' | "$cc" -m32 -fsyntax-only -x c - 2>/dev/null; then
        refused "$cc -m32 -mfpmath=387" 'kd.h: x87 computes float as another type' "$cc" -m32 -mno-sse -mfpmath=387 \
            -fsyntax-only implementation.c
        check "$cc -m32 -msse2 -mfpmath=sse" "$cc" -std=c99 $warnings -m32 -msse2 -mfpmath=sse -fsyntax-only \
            implementation.c
    else
        skip "$cc -m32" "no C library for it"
    fi

    mkdir -p "$tmp/renamed"
    cp ../../kd.h "$tmp/renamed/other.h"
    printf '#define KD_IMPLEMENTATION\n#include "renamed/other.h"\n' >"$tmp/renamed.c"
    check "$cc renamed header" "$cc" -std=c99 $warnings '-DKD__HEADER_FILENAME="other.h"' -fsyntax-only \
        "$tmp/renamed.c"
    refused "$cc renamed header, not told so" 'kd.h: .*if it was renamed, define KD__HEADER_FILENAME' "$cc" -std=c99 \
        -fsyntax-only "$tmp/renamed.c"
    mkdir -p "$tmp/older" "$tmp/other"
    sed 's/^#define KD__PROBED .*/#define KD__PROBED 0x000001/' ../../kd.h >"$tmp/older/kd.h"
    echo 'struct keyboard_driver { int layout; };' >"$tmp/other/kd.h"
    for found in older other; do
        refused "$cc renamed header finds the kd.h of $found" 'kd.h: .*finds another file' "$cc" -std=c99 -I"$tmp/$found" \
            -fsyntax-only "$tmp/renamed.c"
    done
    check "$cc renamed header with another kd.h on the path" "$cc" -std=c99 $warnings -I"$tmp/older" \
        '-DKD__HEADER_FILENAME="other.h"' -fsyntax-only "$tmp/renamed.c"

    # what comes too late in a file, or does not go together
    late() { printf '#include "kd.h"\n#define KD_IMPLEMENTATION\n%s\n#include "kd.h"\n' "$1" >"$tmp/late.c"; }
    late '#define KD_STATIC'
    refused "$cc KD_STATIC after an include" 'kd.h: KD_STATIC must be defined before' "$cc" -I../.. -fsyntax-only "$tmp/late.c"
    late '#define KD_BUILD'
    refused "$cc KD_BUILD after an include" 'kd.h: KD_BUILD must be defined before' "$cc" -I../.. -fsyntax-only "$tmp/late.c"
    late ''
    refused "$cc KD_SHARED, KD_IMPLEMENTATION after an include" 'kd.h: KD_SHARED needs KD_BUILD' "$cc" -DKD_SHARED \
        -I../.. -fsyntax-only "$tmp/late.c"
    check "$cc KD_BUILD, KD_IMPLEMENTATION after an include" "$cc" -std=c99 $warnings -DKD_BUILD -I../.. -fsyntax-only \
        "$tmp/late.c"
    refused "$cc KD_STATIC and KD_SHARED" 'kd.h: KD_STATIC keeps' "$cc" -DKD_STATIC -DKD_SHARED -fsyntax-only declarations.c

    # a shared library shows kd_* and nothing else
    check "$cc shared library" "$cc" -std=c99 -O0 $warnings $in_c -DKD_NO_SIMD -DKD_SHARED -fPIC -fvisibility=hidden \
        -shared -o "$tmp/libkd.so" implementation.c -lm
    nm -D --defined-only "$tmp/libkd.so" | awk '{print $NF}' >"$tmp/symbols"
    check "$cc shared library shows functions" grep -q -x kd_open "$tmp/symbols"
    check "$cc shared library shows kd_* alone" all_of "$tmp/symbols" 'kd_[a-z0-9_]+'
    check "$cc use.c with the shared library" "$cc" -std=c99 $warnings $in_c -DKD_SHARED -o "$tmp/use" use.c -L"$tmp" \
        -lkd -Wl,-rpath,"$tmp"
    check "$cc use.c runs with the shared library" "$tmp/use"

    # real ones: some warnings need an optimiser
    check "$cc -std=c99 -O0 two private implementations" "$cc" -std=c99 -O0 $warnings $in_c -o "$tmp/private" \
        private_one.c private_two.c -lm
    check "$cc two private implementations run" "$tmp/private"
    check "$cc -std=c99 -O2" "$cc" -std=c99 -O2 $warnings $in_c -U_FORTIFY_SOURCE -fno-stack-protector -fno-pie -c \
        -o "$tmp/kd.o" implementation.c
    check "$cc use.c links with it" "$cc" -std=c99 -O2 $warnings $in_c -no-pie -o "$tmp/use" use.c "$tmp/kd.o" -lm
    check "$cc use.c runs" "$tmp/use"
    check "$cc -std=c99 -O2 -DKD_NO_SIMD -DKD_NO_THREADS -DKD_NO_STDIO" "$cc" -std=c99 -O2 $warnings $in_c \
        -DKD_NO_SIMD -DKD_NO_THREADS -DKD_NO_STDIO -U_FORTIFY_SOURCE -fno-stack-protector -fno-pie -c \
        -o "$tmp/bare.o" implementation.c

    # prediction alone, with everything else there or not; what nobody calls shows only where code is made
    for switch in '' -DKD_NO_SIMD -DKD_NO_STDIO -DKD_NO_THREADS '-DKD_NO_SIMD -DKD_NO_STDIO' \
        '-DKD_NO_SIMD -DKD_NO_THREADS' '-DKD_NO_STDIO -DKD_NO_THREADS' '-DKD_NO_SIMD -DKD_NO_STDIO -DKD_NO_THREADS'; do
        check "$cc -std=c99 -DKD_NO_TRAIN $switch" "$cc" -std=c99 -O0 $warnings $in_c -DKD_NO_TRAIN $switch -no-pie \
            -o "$tmp/predict" implementation.c predict.c -lm
        check "$cc predict.c runs" "$tmp/predict"
    done
    check "$cc -std=c99 -DKD_NO_INT8" "$cc" -std=c99 -O0 $warnings $in_c -DKD_NO_INT8 -c -o "$tmp/float.o" implementation.c
    nm --defined-only "$tmp/float.o" | awk '/ kd__int8_(product|forward|depthwise)/ {print $NF}' >"$tmp/symbols"
    check "$cc -DKD_NO_INT8 has no int8 engine" all_of "$tmp/symbols" ''
    check "$cc -std=c99 -O2 -DKD_NO_TRAIN" "$cc" -std=c99 -O2 $warnings $in_c -DKD_NO_TRAIN -c -o "$tmp/predict.o" \
        implementation.c
    nm -g --defined-only "$tmp/predict.o" | awk '/ kd_(train|loss|cache|attack|pate|diagnose|model_prune)/ {print $NF}' >"$tmp/symbols"
    check "$cc -DKD_NO_TRAIN trains nothing" all_of "$tmp/symbols" ''
    check "$cc -O0" "$cc" -std=c99 -O0 $warnings $in_c -c -o "$tmp/slow.o" implementation.c
    check "$cc -O0 is no larger than 4 MB" no_larger "$tmp/slow.o" 4000000

    # beside another user of stb_image and stb_image_write in the same program
    if [ -e /usr/include/stb/stb_image_write.h ]; then
        printf '#define STB_IMAGE_IMPLEMENTATION\n#include <stb/stb_image.h>\n#define STB_IMAGE_WRITE_IMPLEMENTATION\n%s\n' \
            '#include <stb/stb_image_write.h>' >"$tmp/other_user.c"
        check "$cc -c another user of stb" "$cc" -w -c -o "$tmp/other_user.o" "$tmp/other_user.c"
        for example in classify distill/distill; do
            check "$cc $example.c beside it" "$cc" -std=gnu99 -O0 $warnings -o "$tmp/example" ../../examples/$example.c \
                "$tmp/other_user.o" -lm
        done
    else
        skip "$cc beside another user of stb" "libstb-dev is not installed"
    fi

    # what the implementation brings into a program, what it asks of it, and that it keeps no state of its own
    nm -g --defined-only "$tmp/kd.o" | awk '{print $NF}' >"$tmp/symbols"
    check "$cc every symbol is kd_*" all_of "$tmp/symbols" 'kd_[a-z0-9_]+'
    nm "$tmp/kd.o" | awk '$2 ~ /^[bBdDC]$/ {print $NF}' >"$tmp/symbols"
    check "$cc no global state" all_of "$tmp/symbols" ''
    bare='mem(chr|cmp|cpy|move|set)|bcmp|str(chr|cmp|cspn|len|ncmp|rchr|spn|str)|malloc|calloc|free|qsort|exp|log|ceil|sqrtf?'
    files='f(open|close|read|write|seek|tell|flush|gets|ileno|sync)|remove|rename'
    threads='pthread_(create|join|attr_(init|destroy|setstacksize)|(mutex|cond)_(init|destroy)|mutex_(un)?lock'
    threads="$threads|cond_(signal|wait)|sigmask)|sigfillset|clock_gettime|getpid|sysconf|sched_getaffinity|strtol"
    nm -u "$tmp/kd.o" | awk '{print $NF}' >"$tmp/symbols"
    check "$cc asks for known functions only" all_of "$tmp/symbols" "$bare|$files|$threads"
    nm -u "$tmp/bare.o" | awk '{print $NF}' >"$tmp/symbols"
    check "$cc asks for no files with KD_NO_STDIO" all_of "$tmp/symbols" "$bare"
    check "$cc no atomics with KD_NO_THREADS" no_atomics "$cc"

    if [ -z "$cxx" ] || ! command -v "$cxx" >/dev/null; then
        skip "$cc as C++" "no C++ compiler beside it"
        continue
    fi
    for std in c++11 c++17 c++20; do
        if ! echo | "$cxx" -std=$std -fsyntax-only -x c++ - 2>/dev/null; then
            skip "$cxx -std=$std" "not known to this version"
            continue
        fi
        check "$cxx -std=$std" "$cxx" -std=$std $warnings -fsyntax-only -x c++ implementation.c
        check "$cxx -std=$std -DKD_NO_TRAIN" "$cxx" -std=$std $warnings -DKD_NO_TRAIN -fsyntax-only -x c++ \
            implementation.c
    done
    for switch in -DKD_STATIC -DKD_NO_SIMD -DKD_NO_THREADS -DKD_NO_STDIO; do
        check "$cxx -std=c++17 $switch" "$cxx" -std=c++17 $warnings $switch -fsyntax-only -x c++ implementation.c
    done
    check "$cxx -std=c++11 declarations" "$cxx" -std=c++11 $warnings -Wold-style-cast -fsyntax-only -x c++ declarations.c
    check "$cxx use.c links with an implementation in C" "$cxx" -std=c++11 $warnings -no-pie -o "$tmp/use" -x c++ use.c \
        -x none "$tmp/kd.o" -lm
    check "$cxx use.c runs" "$tmp/use"
    check "$cxx camera.cpp" "$cxx" -std=c++17 -O1 $warnings -no-pie -o "$tmp/camera" ../../examples/camera.cpp "$tmp/kd.o" -lm \
        -pthread
    check "$cxx camera.cpp runs" sh -c "'$tmp/camera' >'$tmp/said'"
done

# flags that BUILDING calls safe, and those that clang does not tell of, give the same bits as no flag
bits() { "$@" -std=gnu99 -w -O1 -DKD_NO_SIMD -o "$tmp/bits" bits.c -lm >"$log" 2>&1 && "$tmp/bits" 2>>"$log"; }
same_bits()
{
    what=$1
    shift
    [ "$(bits "$@")" = "$wanted_bits" ] && pass "$what" || fail "$what"
}
wanted_bits=$(bits "${CC:-gcc}")
if [ "$1" = quick ] || [ -z "$wanted_bits" ]; then
    skip "bits of a training under other flags" "takes minutes"
else
    for cc in ${COMPILERS:-gcc clang}; do
        command -v "$cc" >/dev/null || continue
        for flag in -O0 -O3 "-fno-math-errno -fno-trapping-math" "-O2 -march=native" "-O2 -ffp-contract=on"; do
            same_bits "$cc $flag: the same bits" "$cc" $flag
        done
    done
    case "${COMPILERS:-gcc clang}" in *clang*)
        if [ "$(uname -m)" = x86_64 ] && command -v clang >/dev/null; then
            for flag in -fassociative-math -freciprocal-math -fno-signed-zeros -funsafe-math-optimizations; do
                same_bits "clang $flag: the same bits of the portable kernels" clang $flag
            done
        fi ;;
    esac
fi

# one real compilation as C++
if [ "$1" = quick ]; then
    :
elif command -v g++ >/dev/null; then
    check "g++ -std=c++17 -O2" g++ -std=c++17 -O2 $warnings -c -o "$tmp/kd.o" -x c++ implementation.c
else
    skip "g++ -std=c++17 -O2" "not installed"
fi

# other machines: ARM of 64 and 32 bits (NEON), big-endian, 32-bit, Windows
for target in aarch64-linux-gnu s390x-linux-gnu arm-linux-gnueabihf i686-linux-gnu x86_64-w64-mingw32; do
    case $target in
        i686-*) options='-msse2 -mfpmath=sse' ;; # it computes as x87 does unless told otherwise, and that is refused
        arm-*) options='-mcpu=cortex-a7 -mfpu=neon-vfpv4' ;;
        *) options= ;;
    esac
    if compiles $target-gcc; then
        # shellcheck disable=SC2086
        check "$target-gcc" $target-gcc -std=c99 $options $warnings $in_c -fsyntax-only implementation.c
    else
        skip "$target-gcc" "not installed, or without a C library"
    fi
done

# MSVC: its front end as clang has it, with declarations of what is used of its headers; nothing is linked or run
if command -v clang >/dev/null; then
    for target in x86_64 'i686 -msse2' aarch64; do
        for language in '-x c -std=c99' '-x c++ -std=c++17' '-x c++ -std=c++17 -DKD_NO_SIMD'; do
            check "clang --target=${target%% *}-pc-windows-msvc $language" clang --target=${target%% *}-pc-windows-msvc \
                $(echo "$target" | sed 's/^[^ ]*//') $language -isystem msvc -Werror -Wall -Wextra -Wconversion \
                -fsyntax-only implementation.c
        done
    done
else
    skip "clang --target=x86_64-pc-windows-msvc" "not installed"
fi

# a DLL, and a program with it; what the library shows is what the program asks for
dll=x86_64-w64-mingw32
if compiles $dll-gcc; then
    check "$dll-gcc DLL" $dll-gcc -std=c99 -O0 $warnings -DKD_NO_SIMD -DKD_BUILD -shared -o "$tmp/kd.dll" implementation.c \
        -Wl,--out-implib,"$tmp/libkd.dll.a"
    check "$dll-gcc use.c with the DLL" $dll-gcc -std=c99 $warnings -DKD_SHARED -o "$tmp/use.exe" use.c "$tmp/libkd.dll.a"
    $dll-objdump -p "$tmp/kd.dll" | sed -n '/Ordinal\/Name Pointer/,/^$/{/Table/d; s/.* //p;}' >"$tmp/symbols"
    check "$dll-gcc the DLL shows functions" grep -q -x kd_open "$tmp/symbols"
    check "$dll-gcc the DLL shows kd_* alone" all_of "$tmp/symbols" 'kd_[a-z0-9_]+'
    $dll-gcc -std=c99 -DKD_SHARED -c -o "$tmp/use.obj" use.c
    nm -u "$tmp/use.obj" | awk '{print $NF}' >"$tmp/symbols"
    check "$dll-gcc the program imports" grep -q -x __imp_kd_open "$tmp/symbols"
else
    skip "$dll-gcc DLL" "not installed, or without a C library"
fi

finish
