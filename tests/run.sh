#!/bin/sh
# Runs every test program and script, one line each, and says what failed. usage: tests/run.sh BUILD_FOLDER
# KD_TEST_ONLY=name runs one.
build=${1:-build}
cd "$(dirname "$0")/.." || exit 1
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
failed=0
passed=0
rm -f "$build"/*.result

wanted() { [ -z "$KD_TEST_ONLY" ] || [ "$KD_TEST_ONLY" = "$1" ]; }

# start NAME COMMAND...: what it prints goes into a log, how it ended and after how many seconds into a result
start()
{
    name=$1
    shift
    started=$(date +%s)
    if "$@" >"$build/$name.log" 2>&1; then end=passed; else end=FAILED; fi
    echo "$end $(($(date +%s) - started))" >"$build/$name.result"
}

# report NAME: one line; what it printed appears only if something went wrong
report()
{
    end=FAILED seconds=0 # of what was killed there is no result
    [ ! -e "$build/$1.result" ] || read -r end seconds <"$build/$1.result"
    log=$build/$1.log
    if [ "$end" = passed ]; then
        passed=$((passed + 1))
        skipped=$(grep -c '^skip' "$log")
        checks=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1 tests/p; s/^\([0-9]* checks\).*/\1/p' "$log" | tail -1)
        printf '  ok      %-16s %4d s   %s%s\n' "$1" "$seconds" "$checks" \
            "$([ "$skipped" -gt 0 ] && echo ", $skipped skipped:")"
        grep '^skip' "$log" | sed 's/^/            /'
    else
        failed=$((failed + 1))
        printf '  FAILED  %-16s %4d s   %s\n' "$1" "$seconds" "$log"
        grep -v '^\[ *\(RUN\|OK\) *\]' "$log" | tail -40
    fi
}

run() { if wanted "$1"; then start "$@"; report "$1"; fi; }

# beside everything else: scripts that mostly wait for compilers
scripts='consistency emulated mcu csource onnx names web'
{
    for script in $scripts; do
        if wanted $script; then start $script "tests/$script.sh" quick; fi
    done
} &
for program in "$build"/test_*; do
    case $program in *.log | *.result) continue ;; esac
    run "$(basename "$program")" "$program"
done
run distill tests/distill.sh "$build"
run texts tests/texts.sh "$build"
run hinton tests/hinton.sh "$build"
run evidence tests/evidence.sh "$build"
run compile tests/compile.sh quick
wait
for script in $scripts; do
    if wanted $script; then report $script; fi
done
echo "$passed passed, $failed failed"
[ $((passed + failed)) -gt 0 ] || echo "there is no test ${KD_TEST_ONLY:-in $build}"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
