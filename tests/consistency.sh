#!/bin/sh
# What is said in one place and done in another: CONTENTS and sections, README and code, versions, layout.
# Usage: tests/consistency.sh
cd "$(dirname "$0")/.." || exit 1
. tests/checks.sh

set -- kd.h
# all but tests/golden and tests/images, which are generated
for file in examples/*.[ch] examples/data/*.[ch] examples/distill/*.[ch] examples/mcu/*.[ch] examples/web/*.[ch] tests/*.[ch] tests/compile/*.[ch] tests/fuzz/*.[ch] bench/*.[ch] bench/peers/*.[ch]; do
    [ -e "$file" ] && set -- "$@" "$file"
done
texts="$*"
for file in README.md Makefile bench/Makefile bench/*/*.sh examples/*.sh examples/*/*.sh examples/web/page.html tests/*.sh tests/fuzz/*.sh; do
    [ -e "$file" ] && texts="$texts $file"
done

# lacks <pattern> <file ...>: prints the lines that match, and succeeds if there are none
lacks() { ! grep -n -E "$@" /dev/null; }

# ---- the header --------------------------------------------------------------------------------------------------

check "kd.h: sections are those of CONTENTS and use what they say" awk -f tests/banners.awk kd.h
LC_ALL=C check "kd.h: ASCII only" lacks '[^ -~]' kd.h

same_version()
{
    version=$(sed -n 's/^#define KD_VERSION "\(.*\)"$/\1/p' kd.h)
    parts=$(sed -n 's/^#define KD_VERSION_\(MAJOR\|MINOR\|PATCH\) \([0-9]*\)$/\2/p' kd.h | paste -s -d .)
    [ -n "$version" ] && [ "$version" = "$parts" ] || echo "KD_VERSION is \"$version\", its parts are $parts"
    head -n 1 kd.h | grep -q -F "v$version -" || echo "the first line of kd.h does not say v$version"
}
check "kd.h: one version" same_version

# printf of small C libraries knows no %lld and no %g, and locales change what it writes: kd.h has its own
check "kd.h: nothing of printf is called" lacks '\bv?[sfn]*printf *\(' kd.h

# a private name and a public one that an underscore alone tells apart
lookalikes()
{
    grep -o -E '\b(kd|KD)_[A-Za-z0-9_]+' kd.h | sort -u >"$tmp/names"
    ! sed -n 's/^\(kd\|KD\)__/\1_/p' "$tmp/names" | grep -x -F -f "$tmp/names"
}
check "kd.h: no two names that an underscore alone tells apart" lookalikes

# every configuration macro of the first comment is looked at below it
known_switches()
{
    sed -n '/^CONFIGURATION/,/^THREADS/s/^ *\(KD_[A-Z0-9_]*\).*/\1/p' kd.h >"$tmp/switches"
    [ -s "$tmp/switches" ] || echo "CONFIGURATION lists nothing"
    while read -r name; do
        grep -q -E "^# *(if|elif|ifdef|ifndef).*\b$name\b" kd.h || echo "$name is listed in CONFIGURATION and never looked at"
    done <"$tmp/switches"
}
check "kd.h: CONFIGURATION lists macros that exist" known_switches

# ---- all sources -------------------------------------------------------------------------------------------------

check "nothing is left to do" lacks -w -e 'TO''DO' -e 'FIX''ME' -e 'XX''X' $texts
check "C files: no tabs, nothing at the end of a line" lacks "$(printf '\t')| \$" "$@"
too_long() { awk 'length > 116 { print FILENAME ":" FNR ": " length " columns" }' "$@"; }
check "C files: at most 116 columns" too_long "$@"
if command -v clang-format >/dev/null; then
    check "C files: laid out by .clang-format" clang-format --style=file --dry-run --Werror "$@"
else
    skip "C files: laid out by .clang-format" "clang-format is not installed"
fi

# ---- the documents ------------------------------------------------------------------------------------------------

# Block by block into $tmp/block1.md, block2.md ...
split_blocks() { awk -v folder="$tmp" '/^```c$/ { inside = 1; ++n; next } /^```/ { inside = 0 } inside { print > (folder "/block" n ".md") }' "$1"; }

# Names that a fragment may take for granted.
cat >"$tmp/granted.h" <<'END'
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static kd_ctx *kd;
static kd_model *model, *teacher, *student;
static kd_train_desc desc;
static kd_data data, images, train, test;
static const uint8_t *pixels;
static const int32_t *labels;
static float *logits;
static int count, n;
END

# A fragment is the inside of a function; failing that, it stands by itself.
compile_fragment()
{
    grep '^#' "$1" >"$tmp/directives"
    grep -v '^#' "$1" >"$tmp/fragment"
    for inside in 1 0; do
        {
            cat "$tmp/directives"
            echo '#include "kd.h"'
            echo '#include "granted.h"'
            if [ $inside = 1 ]; then echo 'int main(void) {{'; fi
            cat "$tmp/fragment"
            if [ $inside = 1 ]; then echo '} return 0; }'; fi
        } >"$tmp/fragment.c"
        ${CC:-cc} -std=gnu99 -Werror=implicit-function-declaration -Werror=incompatible-pointer-types \
            -Werror=int-conversion -fsyntax-only -I. -I"$tmp" "$tmp/fragment.c" >"$tmp/errors$inside" 2>&1 && return
    done
    cat "$tmp/errors1"
    return 1
}

program=
# Every C block of a document; the first with a main is $program.
check_blocks()
{
    rm -f "$tmp"/block*.md
    split_blocks "$1"
    n=1
    while [ -e "$tmp/block$n.md" ]; do
        block=$tmp/block$n.md
        if grep -q -E '\bmain *\(' "$block"; then
            cp "$block" "$tmp/program.c"
            [ -n "$program" ] || { program=$tmp/program.md && cp "$block" "$program"; }
            check "$1: C block $n compiles" ${CC:-cc} -std=gnu99 -Wall -Wextra -Werror -I. -I./examples \
                -fsyntax-only "$tmp/program.c"
        else
            check "$1: C block $n compiles" compile_fragment "$block"
        fi
        n=$((n + 1))
    done
    if [ $n = 1 ]; then
        echo "there is none" >"$log"
        fail "$1: C blocks"
    fi
}

if ! [ -e README.md ]; then
    echo "it is missing" >"$log"
    fail "README.md"
else
    check_blocks README.md
    check_blocks examples/WAYS.md
    check "README.md: its program is examples/quickstart.c" diff "${program:-$tmp/none}" examples/quickstart.c

    # files and make targets that it names are there
    files_exist()
    {
        grep -o -E '\]\([^)#: ]+\)' README.md | sed 's/^](//; s/)$//' | sort -u | while read -r path; do
            [ -e "$path" ] || echo "$path is linked to and is not there"
        done
    }
    check "README.md: files it links to are there" files_exist
    targets_exist()
    {
        grep -o -E '\bmake [a-z][a-z-]*' README.md | sed 's/^make //' | sort -u | while read -r target; do
            grep -q -E "^([a-z-]+ )*$target( [a-z-]+)* *:" Makefile || echo "make $target: no such target"
        done
    }
    check "README.md: make targets it names are there" targets_exist
fi

introduction() { [ "$(wc -l <README.md)" -lt 250 ] || echo "it has $(wc -l <README.md) lines"; }
check "README.md: under 250 lines" introduction
short() { [ "$(wc -l <examples/quickstart.c)" -lt 50 ] || echo "it has $(wc -l <examples/quickstart.c) lines"; }
check "examples/quickstart.c: under 50 lines" short
finish
