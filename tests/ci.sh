#!/bin/sh
# Everything that is known how to check, as one table: check, cases, result, seconds, what was skipped and why.
# Usage: tests/ci.sh [ci | full]     ci: about 15 minutes on two processors; full adds what takes longer.
# ONLY=pattern runs the checks whose names match it (grep -E); JOBS=1: one compiler at a time. Logs and programs go
# into build/ci.
cd "$(dirname "$0")/.." || exit 1
tier=${1:-ci}
case $tier in ci | full) ;; *) echo "usage: tests/ci.sh [ci | full]" >&2; exit 2 ;; esac
build=$PWD/build/ci
mkdir -p "$build"
sources=$(ls tests/test_*.c) jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
failed=0 skips=0 begun=$(date +%s)
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"

row() { printf '%-52s %8s  %-7s %5s  %s\n' "$@"; }
skip() { wanted "$1" || return 0; skips=$((skips + 1)); row "$1" - skipped - "$2"; }
wanted() { printf "%s\n" "$1" | grep -q -E "${ONLY:-.}" && matched=1; }
matched=

# fetch <package ...>: those that can be had; what cannot only means rows that are skipped
updated=
fetch()
{
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    [ -n "$updated" ] || apt-get update -qq >"$build/apt.log" 2>&1
    updated=1
    for package; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >>"$build/apt.log" 2>&1
    done
}

# have <command or file> <packages>: it is there, or can be fetched
there() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null ;; esac; }
have() { there "$1" || { fetch $2; there "$1"; }; }

# clang with sanitizers, which Debian keeps in a package that it only recommends
whole_clang()
{
    echo 'int main(void) { return 0; }' | clang -fsanitize=thread -x c - -o "$build/whole" >"$build/whole.log" 2>&1
}
have_clang() { whole_clang || { fetch clang libclang-rt-dev; whole_clang; }; }

# the compilers and machines that tests/compile.sh, tests/emulated.sh, tests/installed.sh, tests/mcu.sh and tests/web.sh
# look for
fetch_machines()
{
    for machine in arm64:aarch64 s390x:s390x i386:i686; do
        command -v "${machine#*:}-linux-gnu-gcc" >/dev/null && [ -e "/usr/${machine#*:}-linux-gnu/include/stdio.h" ] ||
            fetch "gcc-${machine#*:}-linux-gnu" "libc6-dev-${machine%:*}-cross"
    done
    have arm-linux-gnueabihf-gcc "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"
    have g++ g++
    have x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64
    have qemu-aarch64 qemu-user
    have cmake cmake
    have pkg-config pkg-config
    have arm-none-eabi-gcc gcc-arm-none-eabi
    have /usr/lib/arm-none-eabi/newlib/nano.specs libnewlib-arm-none-eabi
    have qemu-system-arm qemu-system-arm
    have avr-gcc gcc-avr
    have /usr/lib/avr/include/avr/pgmspace.h avr-libc
    have simavr simavr
    have riscv64-unknown-elf-gcc gcc-riscv64-unknown-elf
    have /usr/lib/picolibc/riscv64-unknown-elf/picolibc.specs picolibc-riscv64-unknown-elf
    have xtensa-lx106-elf-gcc gcc-xtensa-lx106
    have /usr/lib/xtensa-lx106-elf/picolibc.specs picolibc-xtensa-lx106-elf
    have qemu-system-riscv32 qemu-system-misc
    have wasm-ld lld
    have /usr/lib/wasm32-wasi/libc.a wasi-libc
    have "$(clang --target=wasm32-wasi --rtlib=compiler-rt -print-libgcc-file-name)" libclang-rt-dev-wasm32
    have node nodejs
    have chromium chromium
    there wine64 || there wine || have /usr/lib/wine/wine64 wine64
}

# What a log says about how much was looked at: tests, trainings, checks, executions; a silent success is one case.
cases_of()
{
    awk '/^\[  PASSED  \]/ { n += $4 } /^[0-9]+ (trainings|checks|mutants of)/ { n += $1 } $3 == "passed" { n += $2 }
        END { print n ? n : 1 }' "$1"
}

# What was skipped in a check, and why, where no row above has said so; what several programs skip, once.
: >"$build/said"
skipped_in()
{
    sed -n 's/^ *skip *//p' "$1" | sort | uniq -c |
        awk '{ n = $1; sub(/^ *[0-9]+ /, ""); print "    skipped" (n > 1 ? " " n " times" : "") ": " $0 }' |
        grep -v -x -F -f "$build/said" | tee -a "$build/said"
}

# finish <check> <log> <status> <started>
finish()
{
    if [ "$3" = 0 ]; then
        row "$1" "$(cases_of "$2")" ok $(($(date +%s) - $4)) "$(awk '/^skip/ { ++n } END { if (n) print n " skipped:" }' "$2")"
        skipped_in "$2"
    else
        failed=$((failed + 1))
        row "$1" "$(cases_of "$2")" FAILED $(($(date +%s) - $4)) "$2"
        tail -n 15 "$2" | sed 's/^/    /'
    fi
}

# check <name> <command ...>
number=0
check()
{
    wanted "$1" || return
    name=$1 number=$((number + 1)) started=$(date +%s)
    log=$build/$number.log
    shift
    "$@" >"$log" 2>&1
    finish "$name" "$log" $? "$started"
}

# compile <name> <compiler ...>: every test program in another way, once in a run; all but one share the kernels
compiled=
compile()
{
    case " $compiled " in *" $1 "*) return 0 ;; esac
    way=$1 folder=$build/$1
    shift
    mkdir -p "$folder"
    "$@" -c tests/kernels.c -o "$folder/kernels.o" || return
    printf '%s\n' $sources | xargs -P "$jobs" -I FILE sh -c '
        file=$1 out=$2/$(basename "$1" .c) apart="-DKD__KERNELS_APART $2/kernels.o"
        shift 2
        case $file in */test_kernels.c) apart= ;; esac # looks inside
        "$@" "$file" $apart -o "$out" -lcmocka -lm || { rm -f "$out"; exit 255; }' sh FILE "$folder" "$@" || return
    compiled="$compiled $way"
}
programs()
{
    compile "$@" || return
    for source in $sources; do "$build/$1/$(basename "$source" .c)" || return; done
}

# ---- what every commit must pass ---------------------------------------------------------------------------------

if wanted 'make test' || wanted 'compilers: the same weights'; then fetch_machines; fi
row check cases result seconds 'skipped, and why'
if wanted 'make test'; then
    if make test >"$build/test.log" 2>&1; then end=ok; else end=FAILED failed=$((failed + 1)); fi
    awk '$1 == "ok" || $1 == "FAILED" { print }' "$build/test.log" | while read -r result name seconds _ cases _ rest; do
        row "make test: $name" "${cases:--}" "$result" "$seconds" "${rest%:}"
    done
    skipped_in "$build/test.log"
    [ $end = ok ] || echo "    $build/test.log"
fi

# ---- other compilers, options and machines -----------------------------------------------------------------------

have_clang && clang=1 || clang=
check 'compilers: clang and C++' env COMPILERS=clang tests/compile.sh
check 'compilers: the same weights' tests/emulated.sh native
check 'installed: pkg-config and CMake' tests/installed.sh
# libc and libm take 1.7 MB of it
first_prediction()
{
    make -s -C bench ../build/bench && build/bench --only weight --case 'first prediction' >"$build/first" || return
    cat "$build/first"
    awk '$2 == "memory" && $3 < 3 { small = 1 } END { exit !small }' "$build/first"
}
check 'a process to its first prediction: below 3 MB' first_prediction

flags="-std=gnu99 ${warnings% -Werror}"
optimised="gcc $flags -O3 -DNDEBUG"
if [ $clang ]; then
    check 'test programs: clang -O2' programs clang clang $flags -O2
else
    skip 'test programs: clang' 'needs clang, libclang-rt-dev'
fi
check 'test programs: gcc -O3 -DNDEBUG' programs O3 $optimised
if [ $tier = full ]; then
    check 'test programs: gcc -O0' programs O0 gcc $flags -O0
    check 'test programs: gcc -O2 -DKD_NO_THREADS' programs no_threads gcc $flags -O2 -DKD_NO_THREADS
    check 'test programs: gcc -O2 -march=native' programs native gcc $flags -O2 -march=native
fi

# a program that has set a German locale before main, with a comma for a decimal point
in_german()
{
    cat >"$build/german.c" <<'GERMAN'
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void set(void)
{
    char text[8];
    if (!setlocale(LC_ALL, "de_DE.UTF-8") || snprintf(text, sizeof text, "%.1f", 0.5) != 3 || text[1] != ',') abort();
}
GERMAN
    compile O3 $optimised || return
    mkdir -p "$build/locale"
    localedef -i de_DE -f UTF-8 "$build/locale/de_DE.UTF-8" || return
    gcc -shared -fPIC "$build/german.c" -o "$build/german.so" || return
    for source in $sources; do
        LOCPATH=$build/locale LD_PRELOAD=$build/german.so "$build/O3/$(basename "$source" .c)" || return
    done
}
if have /usr/share/i18n/locales/de_DE locales; then
    check 'test programs: in the locale de_DE' in_german
else
    skip 'test programs: in the locale de_DE' 'needs /usr/share/i18n/locales/de_DE (package locales)'
fi

# elsewhere <name> <compiler> <flags>: the parsers' corpus and mutants, and training on threads
elsewhere()
{
    CC=$2 CFLAGS=$3 BUILD=$build/$1 tests/fuzz/run.sh replay 2000 &&
        $2 -std=gnu99 $3 $warnings tests/fuzz/threads.c -o "$build/$1/threads" -lm -pthread && "$build/$1/threads"
}
check 'parsers and threads: gcc -O2 -DNDEBUG' elsewhere ndebug gcc '-O2 -DNDEBUG'
if have musl-gcc musl-tools; then
    check 'parsers and threads: musl' elsewhere musl musl-gcc '-O2 -static -idirafter /usr/include'
else
    skip 'parsers and threads: musl' 'needs musl-gcc (package musl-tools)'
fi
if have i686-linux-gnu-gcc "gcc-i686-linux-gnu libc6-dev-i386-cross"; then
    check 'parsers and threads: 32-bit x86' elsewhere i686 i686-linux-gnu-gcc \
        '-O2 -static -msse2 -mfpmath=sse -idirafter /usr/include'
else
    skip 'parsers and threads: 32-bit x86' 'needs i686-linux-gnu-gcc'
fi

# the kernels' own tests on NEON; cmocka for that machine is unpacked beside its libraries here, not installed
# have_arm <Debian's name> <its tools' name> <qemu>
have_arm()
{
    arm=$build/$1
    there "$3" && there "$2-gcc" && there apt-get || return
    [ ! -e "$arm/usr/include/cmocka.h" ] || return 0
    mkdir -p "$arm/lists/partial" "$arm/cache/archives/partial"
    cat >"$arm/apt.conf" <<APT
APT::Architecture "$1";
APT::Architectures "$1";
Dir::State::lists "$arm/lists";
Dir::State::status "/dev/null";
Dir::Cache "$arm/cache";
APT
    (
        export APT_CONFIG="$arm/apt.conf"
        cd "$arm" || exit
        apt-get update -qq # another list than the one that counts may be out of step
        apt-get download libcmocka0 libcmocka-dev &&
            for package in *.deb; do dpkg-deb -x "$package" . || exit; done
    ) >>"$build/apt.log" 2>&1
    there "$arm/usr/include/cmocka.h"
}
# by_qemu <its tools' name> <qemu> [options]
by_qemu()
{
    libraries=$arm/usr/lib/$1
    "$1-gcc" $flags -O2 $3 -idirafter "$arm/usr/include" tests/test_kernels.c -o "$arm/test_kernels" \
        -L"$libraries" -lcmocka -lm &&
        "$2" -L "/usr/$1" -E LD_LIBRARY_PATH="$libraries" "$arm/test_kernels" >"$arm/said" 2>&1
    status=$?
    cat "$arm/said"
    ! grep 'with neon, which this machine lacks' "$arm/said" && return $status
}
# neon <Debian's name> <its tools' name> <qemu> [options]
neon()
{
    if have_arm "$1" "$2" "$3"; then
        check "NEON kernels by $3" by_qemu "$2" "$3" "$4"
    else
        skip "NEON kernels by $3" "needs $3, $2-gcc, and libcmocka-dev for $1"
    fi
}
if [ $tier = full ]; then
    neon arm64 aarch64-linux-gnu qemu-aarch64
    neon armhf arm-linux-gnueabihf qemu-arm '-mcpu=cortex-a7 -mfpu=neon-vfpv4'
fi

# ---- sanitizers, valgrind ----------------------------------------------------------------------------------------

# the same weights on kd.h's own threads, on a program's, and without either
threads_agree()
{
    for kind in -DKD_OWN -DPARALLEL_FOR -DKD_NO_THREADS; do
        gcc -std=gnu99 -O1 $kind tests/fuzz/threads.c -o "$build/threads" -lm -pthread || return
        "$build/threads" "$1" 2>"$build/weights$kind" || return
        cmp "$build/weights-DKD_OWN" "$build/weights$kind" || return
    done
}
runs=1
[ $tier = full ] && runs=10
check "1 to 16 threads, $runs times: the same weights" threads_agree $runs
pool_by()
{
    clang -std=gnu99 -O1 -g "$@" -DKD_NO_SIMD tests/test_threads.c -o "$build/pool" -lcmocka -lm -pthread && "$build/pool"
}
threads_by() { clang -std=gnu99 -O1 -g "$@" tests/fuzz/threads.c -o "$build/threads" -lm -pthread && "$build/threads"; }
if [ $clang ]; then
    check 'ThreadSanitizer: 1 to 16 threads' threads_by -fsanitize=thread
    check "ThreadSanitizer: 1 to 16 of a program's threads" threads_by -fsanitize=thread -DPARALLEL_FOR
    check 'ThreadSanitizer: regions, starting, ending' pool_by -fsanitize=thread
    check 'MemorySanitizer: 1 to 16 threads' threads_by -fsanitize=memory
    check 'MemorySanitizer: parsers' env CC=clang CFLAGS='-g -O1 -fsanitize=memory' BUILD="$build/msan" \
        tests/fuzz/run.sh replay 20000
else
    skip 'ThreadSanitizer, MemorySanitizer' 'needs clang, libclang-rt-dev'
fi
check 'AddressSanitizer, UndefinedBehaviorSanitizer: parsers' env CC=gcc BUILD="$build/asan" \
    tests/fuzz/run.sh replay 20000
by_valgrind()
{
    gcc -std=gnu99 -O1 -g tests/fuzz/threads.c -o "$build/threads" -lm -pthread &&
        valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=all "$build/threads" 0
}
if have valgrind valgrind; then
    check 'valgrind: training' by_valgrind
else
    skip 'valgrind: training' 'needs valgrind'
fi

# ---- what the tests are worth ------------------------------------------------------------------------------------

starved() { make -s examples BUILD="$build" && tests/starve.sh "$build" "$1"; }
if [ $tier = full ]; then
    check 'examples: memory runs out, once and for good' starved 400
    check 'coverage: 95 % of lines, 90 % of branches' python3 tests/coverage.py "$build/coverage"
    check 'mutants: 95 % caught' python3 tests/mutants.py "${MUTANTS:-20}" "$(date +%j)"
else
    check 'examples: memory runs out, once and for good' starved 60
fi

# ---- readers of source -------------------------------------------------------------------------------------------

# What clang-tidy is not asked, and why:
#   narrowing-conversions                  the compilers' -Wconversion is, everywhere
#   implicit-widening                      products of kernels' small block sizes, and of counts bounded by the planner
#   easily-swappable, reserved-identifier  matters of taste; private names are kd__*, as the header says
#   err33, macro-parentheses               snprintf into buffers that fit; X-macros that paste enumerators
#   flp30, integer-division                powers counted down in floating point; halves of odd kernels, on purpose
#   branch-clone, misplaced-widening-cast  branches that differ on another instruction set or another width of long
#   suspicious-memory-comparison           settings of a cache are compared bit by bit, on purpose
tidy()
{
    clang-tidy --quiet --warnings-as-errors='*' --header-filter='kd\.h' --checks='-*,bugprone-*,cert-*,
-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result,
-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier,-cert-dcl37-c,-cert-dcl51-cpp,
-cert-err33-c,-bugprone-macro-parentheses,-cert-flp30-c,-bugprone-integer-division,-bugprone-branch-clone,
-bugprone-misplaced-widening-cast,-bugprone-suspicious-memory-comparison,-cert-exp42-c,-cert-flp37-c' tests/compile/implementation.c -- -std=c99
}
if have clang-tidy clang-tidy; then check 'clang-tidy' tidy; else skip 'clang-tidy' 'needs clang-tidy'; fi

# The analyzer that follows paths. Headers it leaves out unless told not to, and functions with ... it does not look
# into: in a copy it is told what those return that record a failure. Of what it says, this is not so:
#   desc->...            kd__loss_check refuses NULL, but is too large to be looked into
#   memset(dbeta, ...)   r->training stays what it is while the kernels run
#   t.beta[j]            a tree has weights
#   labels[j]            data that have a batch callback had it when their feed was opened
#   g->blocks            what points to `turned` is written anew before its next use
not_so='(const int by_column = |if \()desc->|memset\(dbeta, 0, |da\[j\] = dz \* t\.beta|labels\[j\] = KD_UNLABELLED;|block < g->blocks;'
analyzer()
{
    mkdir -p "$build/analyzed"
    awk '{ print }
        /^KD__PRIVATE kd_result .*fail\(.*\.\.\.\)$/ { match($0, /kd__[a-z_]*fail\(/); name = substr($0, RSTART, RLENGTH - 1) }
        name && /^}/ {
            if (name == "kd__fail") print "void kd__said(const void *, ...);"
            value = name == "kd__fail" ? "(kd, result, ...) (%s, (result))\n" : "(kd, ...) (%s, KD_ERR_FORMAT)\n"
            printf "#define " name value "#line %d\n", "kd__said(kd, __VA_ARGS__)", NR + 1
            name = ""
        }' kd.h >"$build/analyzed/kd.h"
    printf '#define KD_IMPLEMENTATION\n#include "kd.h"\n' >"$build/analyzed/kd.c"
    # memcpy_s is not there to be called
    clang-tidy --quiet --header-filter='kd\.h' \
        --checks='-*,clang-analyzer-*,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling' \
        "$build/analyzed/kd.c" -- -std=c99 -DKD_NO_SIMD -Xclang -analyzer-opt-analyze-headers >"$build/analyzer.log" || return
    # a warning and the line that it is about
    awk '/ warning: / { said = $0; next } said { print said ": " $0; said = "" }' "$build/analyzer.log" >"$build/warnings.log"
    ! grep -v -E "$not_so" "$build/warnings.log"
}
if [ $tier = full ]; then
    if have clang-tidy clang-tidy; then
        check 'clang-tidy: analyzer' analyzer
    else
        skip 'clang-tidy: analyzer' 'needs clang-tidy'
    fi
fi

# Of what cppcheck says, this is not so: it does not see that a caller fills these through a pointer.
filled='Uninitialized variable: (bytes|ranges|task->all)|argument (call|task) that points at uninitialized'
by_cppcheck()
{
    cppcheck --enable=warning,portability,performance --std=c99 --language=c -q --template='{file}:{line}: {message}' \
        -D__GNUC__=12 -D__x86_64__ -D__linux__ -D__unix__ -UKD__TEMPLATE tests/compile/implementation.c \
        2>"$build/cppcheck.log" || return
    ! grep -E '^[^ ]*kd\.h:' "$build/cppcheck.log" | grep -v -E "$filled"
}
if have cppcheck cppcheck; then check 'cppcheck' by_cppcheck; else skip 'cppcheck' 'needs cppcheck'; fi

if [ $tier = full ]; then
    check 'gcc -fanalyzer' gcc -std=c99 -O1 -fanalyzer -Werror -DKD_NO_SIMD -c -o "$build/analyzed.o" \
        tests/compile/implementation.c
    if [ $clang ]; then
        check 'libFuzzer, 60 seconds a parser' env BUILD="$PWD/build/fuzz" tests/fuzz/run.sh fuzz "${SECONDS_EACH:-60}"
    fi
fi

echo "$failed failed, $skips skipped, $((($(date +%s) - begun) / 60)) minutes; $(nproc) processors, $(gcc --version | head -n 1)"
[ $matched ] || echo "no check has a name like $ONLY"
[ "$failed" = 0 ] && [ $matched ]
