#!/bin/sh
# What examples/evidence.sh does with tiny tasks: their rows, nothing twice, and going on after a stop.
# usage: tests/evidence.sh BUILD_FOLDER
build=$(cd "${1:-build}" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
. tests/checks.sh
mkdir "$tmp/build" "$tmp/results" "$tmp/data"
cp "$build/distill" "$build/draw" "$tmp/build"
table=$tmp/results/RESULTS.md
tasks=$tmp/build/evidence

check "a set is drawn" "$build/draw" "$tmp/set" 4 2 1
check "the same again" "$build/draw" "$tmp/again" 4 2 1
check "from the same seed, the same images" diff -r "$tmp/set" "$tmp/again"
check "more of them" "$build/draw" "$tmp/more" 5 2 1
check "begin with the same" cmp "$tmp/set/train/heart/0003.png" "$tmp/more/train/heart/0003.png"
check "another seed" "$build/draw" "$tmp/other" 1 1 2
check "other images" sh -c "! cmp -s '$tmp/set/train/heart/0000.png' '$tmp/other/train/heart/0000.png'"
refused "no number of images" 'usage: draw' "$build/draw" "$tmp/none" 0 1 1

cat >"$tmp/tasks" <<END
drawn|figures & more|$tmp/set|--size 8 --epochs 300
fashion|clothes|examples/data/fashion|--size 8 --train-limit 8 --limit 12
unlabelled|figures without labels|$tmp/set|--size 8 --train-limit 3 --unlabelled $tmp/set/train
absent|somewhere else|DATA/nowhere|
END

DATA=$tmp/data TASKS=$tmp/tasks RESULTS=$tmp/results MINUTES=10
EVIDENCE='--effort 0.01 --seeds 2 --threads 1 --batch 16'
export DATA TASKS RESULTS MINUTES EVIDENCE

# all tasks; what it says goes to $tmp/said
evidence() { examples/evidence.sh "$tmp/build" >"$tmp/said" 2>&1; }

MINUTES=0
check "no time at all" evidence
check "leaves all out, by name" grep -q '^Left out: clothes (more than 0 minutes)' "$table"
MINUTES=10

# stopped in the first task once it has a checkpoint
examples/evidence.sh "$tmp/build" >"$tmp/said" 2>&1 &
pid=$!
tries=0
while ! ls "$tasks"/drawn/resume/*.safetensors >/dev/null 2>&1 && [ $tries -lt 600 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -TERM $pid
wait $pid
check "a stop is said" grep -q '^stopped; the same command goes on' "$tmp/said"
check "it leaves a checkpoint" test -s "$tasks/drawn/resume/0000.safetensors"
check "and no result" test ! -e "$tasks/drawn/metrics.json"

# that the next call goes on from it shows where it cannot
options=$tasks/drawn/resume/options.txt
cp "$options" "$tmp/options"
sed 's/^seeds=2/seeds=3/' "$tmp/options" >"$options"
check "a run that cannot be resumed" evidence
check "is left out, and why" grep -q '^Left out: figures & more (not finished: distill: the run to be resumed has --seeds' "$table"
cp "$tmp/options" "$options"

check "all tasks" evidence
check "leave no checkpoint" test ! -e "$tasks/drawn/resume"
check "a row for the first" grep -q '^| figures & more | [0-9]*, [0-9]* | 48 | 24 | [0-9.]* | [0-9.]* | [0-9.]* | [0-9.]* +- ' "$table"
check "a row for the second" grep -q '^| clothes | [0-9]*, [0-9]* | 120 | 10 | ' "$table"
check "gains with a verdict" grep -q -E '^\| clothes( \| [+-][0-9.]+ \+- [0-9.]+ \| (better|within|worse)){3} \| [0-9.]+ \|$' "$table"
check "a patient student of images without labels" grep -q -E '^\| figures without labels( \| [^|]* \| [a-z]+){3} \|' "$table"
check "who is missing" grep -q '^Left out: somewhere else (its images are not there)' "$table"
check "what was run" grep -q '^`distill FOLDER --patient --effort 0.01 --seeds 2 --threads 1 --batch 16`, kd.h [0-9]' "$table"
check "a dot for each way in the picture" test "$(grep -c '<circle' "$tmp/results/results.svg")" = 9
check "its text is escaped" grep -q '>figures &amp; more<' "$tmp/results/results.svg"
if command -v python3 >/dev/null; then
    check "it is XML" python3 -c "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])" "$tmp/results/results.svg"
fi

cp "$tasks/fashion/metrics.json" "$tmp/before"
check "a second call" evidence
check "repeats nothing" cmp "$tmp/before" "$tasks/fashion/metrics.json"
check "and says so" test "$(grep -c 'there already' "$tmp/said")" = 3
MINUTES=0
check "without time" evidence
check "what is there stays in the table" grep -q '^| clothes ' "$table"

finish
