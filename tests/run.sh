#!/bin/sh
# Runs every test program and script, one line each, and says what failed. usage: tests/run.sh BUILD_FOLDER
# KD_TEST_ONLY=name runs one.
build=${1:-build}
cd "$(dirname "$0")/.." || exit 1
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
failed=0
passed=0

# run NAME COMMAND...: the output appears only if something went wrong
run()
{
    name=$1
    shift
    [ -n "$KD_TEST_ONLY" ] && [ "$KD_TEST_ONLY" != "$name" ] && return
    started=$(date +%s)
    if "$@" >"$build/$name.log" 2>&1; then
        passed=$((passed + 1))
        skipped=$(grep -c '^skip' "$build/$name.log")
        checks=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1 tests/p; s/^\([0-9]* checks\).*/\1/p' "$build/$name.log" | tail -1)
        printf '  ok      %-16s %4d s   %s%s\n' "$name" $(($(date +%s) - started)) "$checks" \
            "$([ "$skipped" -gt 0 ] && echo ", $skipped skipped:")"
        grep '^skip' "$build/$name.log" | sed 's/^/            /'
    else
        failed=$((failed + 1))
        printf '  FAILED  %-16s %4d s   %s\n' "$name" $(($(date +%s) - started)) "$build/$name.log"
        grep -v '^\[ *\(RUN\|OK\) *\]' "$build/$name.log" | tail -40
    fi
}

for program in "$build"/test_*; do
    case $program in *.log) continue ;; esac
    run "$(basename "$program")" "$program"
done
run consistency tests/consistency.sh
run compile tests/compile.sh
run emulated tests/emulated.sh
run distill tests/distill.sh "$build"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
