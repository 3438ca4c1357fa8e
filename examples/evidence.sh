#!/bin/sh
# Runs distill with its default options on several image sets and on small parts of them, and writes a table and a
# picture of what distilling brought. usage: examples/evidence.sh BUILD_FOLDER, which has distill and draw
#   DATA=folder      has mnist/ (IDX files) and cifar10/ (train/<class>/*.jpg, test/<class>/*.jpg) or cifar10.tar
#   MINUTES=120      what is not finished by then is left out and named; the next call goes on from there
#   EVIDENCE=words   more options of distill for all tasks, such as '--effort 0.5'
#   PATIENT=no       without the patient way, which takes as long as all others together
#   TASKS=file       other tasks than those below
#   RESULTS=folder   where RESULTS.md and results.svg go; examples/
# A task that is finished is not repeated by the same program with the same options.
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
results=${RESULTS:-examples}
minutes=${MINUTES:-120}
patient=--patient
[ "$PATIENT" != no ] || patient=
out=$build/evidence
started=$(date +%s)
running=

# name | what it is | folder | options. The most telling for their time first.
tasks()
{
    if [ -n "$TASKS" ]; then
        cat "$TASKS"
        return
    fi
    cat <<'END'
fashion-50|Fashion-MNIST, 50 a class|examples/data/fashion|--train-limit 50
fashion|Fashion-MNIST, embedded part|examples/data/fashion|
drawn-50|drawn figures, 50 a class|DRAWN|--train-limit 50
drawn|drawn figures, 200 a class|DRAWN|
mnist-50|MNIST, 50 a class|DATA/mnist|--train-limit 50
cifar10-50|CIFAR-10, 50 a class, the rest without labels|DATA/cifar10|--train-limit 50 --unlabelled DATA/cifar10/train
cifar10-300|CIFAR-10, 300 a class|DATA/cifar10|--train-limit 300
mnist-500|MNIST, 500 a class|DATA/mnist|--train-limit 500
cifar10-1000|CIFAR-10, 1000 a class|DATA/cifar10|--train-limit 1000
END
}

# ---- the data ----------------------------------------------------------------------------------------------------

# The set that is drawn; its last file is there once all others are.
draw()
{
    drawn=$build/drawn
    [ -e "$drawn/complete" ] || { "$build/draw" "$drawn" 200 50 1 && : >"$drawn/complete"; }
}

# unpack TAR FOLDER: once; half of it is no set
unpack()
{
    [ -d "$2" ] && return
    rm -rf "$2.part"
    mkdir -p "$2.part" && tar -xf "$1" -C "$2.part" && mv "$2.part/$(basename "$2")" "$2" && rmdir "$2.part"
}

# locate TEXT: DRAWN and DATA/<set> in it become folders, in $located; fails where one is not there
locate()
{
    located=$1
    case $located in
    *DRAWN*)
        draw || return 1
        located=$(echo "$located" | sed "s|DRAWN|$drawn|g")
        ;;
    *DATA/*)
        set_name=$(echo "$located" | sed 's|.*DATA/\([a-z0-9]*\).*|\1|')
        [ -n "$DATA" ] || return 1
        where=$DATA
        if ! [ -d "$DATA/$set_name" ] && [ -e "$DATA/$set_name.tar" ]; then
            where=$build
            unpack "$DATA/$set_name.tar" "$build/$set_name" || return 1
        fi
        [ -d "$where/$set_name" ] || return 1
        located=$(echo "$located" | sed "s|DATA/|$where/|g")
        ;;
    esac
}

# ---- one task ----------------------------------------------------------------------------------------------------

elapsed() { echo $(($(date +%s) - started)); }
left() { echo $((minutes * 60 - $(elapsed))); }

# run ARGUMENTS...: distill, which is asked to stop when time is up; it then leaves a checkpoint
run()
{
    asked=
    "$build/distill" "$@" >"$folder/log" 2>&1 &
    running=$!
    while kill -0 $running 2>/dev/null; do
        if [ -z "$asked" ] && [ "$(left)" -le 0 ]; then
            kill -TERM $running 2>/dev/null
            asked=yes
        fi
        sleep 1 &
        wait $! # unlike sleep, it lets Ctrl-C through at once
    done
    wait $running
    ended=$?
    running=
    return $ended
}

stop()
{
    trap '' INT TERM
    [ -z "$running" ] || { kill -TERM "$running" 2>/dev/null; wait "$running"; }
    add_seconds
    echo "stopped; the same command goes on from there"
    exit 130
}
trap stop INT TERM

# Seconds that a task has taken in all calls.
begun=
add_seconds()
{
    [ -n "$begun" ] || return
    before=$(cat "$folder/seconds" 2>/dev/null)
    echo $((${before:-0} + $(date +%s) - begun)) >"$folder/seconds"
    begun=
}

# task NAME FOLDER OPTIONS: sets $state to done, or to why there is no result
task()
{
    folder=$out/$1
    state='its images are not there'
    locate "$2 $3" || return
    # shellcheck disable=SC2086
    set -- $located $patient $EVIDENCE --out "$folder"
    stamp="$program $*"
    mkdir -p "$folder"
    if [ "$stamp" != "$(cat "$folder/stamp" 2>/dev/null)" ]; then # of another program or with other options
        rm -rf "$folder"
        mkdir -p "$folder"
        echo "$stamp" >"$folder/stamp"
    fi
    state='done'
    if [ -s "$folder/metrics.json" ]; then
        echo "  there already"
        return
    fi
    state="more than $minutes minutes"
    [ "$(left)" -gt 0 ] || return
    begun=$(date +%s)
    if run "$@" --resume; then state='done'; elif [ -z "$asked" ]; then state=$(tail -n 1 "$folder/log"); fi
    add_seconds
    [ "$state" = 'done' ] || state="not finished: $state"
}

# ---- all of them -------------------------------------------------------------------------------------------------

processor()
{
    name=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)
    echo "${name:-$(uname -m)}, $(getconf _NPROCESSORS_ONLN) processors"
}

mkdir -p "$out" || exit 1
program=$(cksum <"$build/distill") || exit 1
tasks >"$out/tasks"
: >"$out/states"
while IFS='|' read -r name title folder options <&3; do
    [ -n "$name" ] || continue
    echo "$title   ($(($(elapsed) / 60)) of $minutes minutes used)"
    task "$name" "$folder" "$options"
    [ "$state" = 'done' ] || echo "  left out: $state"
    echo "$name|$title|$state" >>"$out/states"
done 3<"$out/tasks"

for kind in md svg; do
    LC_ALL=C awk -v kind=$kind -v out="$out" -v options="$patient${EVIDENCE:+ $EVIDENCE}" -v processor="$(processor)" \
        -f examples/evidence.awk "$out/states" >"$out/results.$kind" || exit 1
done
cat "$out/results.md"
cp "$out/results.md" "$results/RESULTS.md" && cp "$out/results.svg" "$results/results.svg"
