#!/bin/sh
# What people do with distill and classify, right and wrong. Every mistake must give one sentence, a failing exit and
# leave the output folder as it was. usage: tests/distill.sh BUILD_FOLDER
build=$(cd "${1:-build}" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
checks=0
failures=0
distill=$build/distill
quick='--temperature 2.7,1.1 --alpha 0.7,0.9 --lr 0.002 --weight-decay 0 --augment none --validation 0.1 --limit 24 --epochs 2 --teacher-epochs 2 --seeds 2 --trials 1 --threads 1 --batch 16 --ensemble no'
teacher='dense 24, relu, dense 10'
student='dense 4, relu, dense 10'

fail()
{
    failures=$((failures + 1))
    echo "FAILED: $*"
}

# refused TEXT ARGUMENTS...: fails with one line on stderr that has TEXT in it, and writes nothing
refused()
{
    wanted=$1
    shift
    checks=$((checks + 1))
    before=$(cd "$work/out" && ls -l --time-style=full-iso && cat -- *.json)
    if "$distill" "$@" >"$work/stdout" 2>"$work/stderr"; then
        fail "distill $* was accepted"
        return
    fi
    [ "$(wc -l <"$work/stderr")" = 1 ] || fail "distill $*: not one line: $(cat "$work/stderr")"
    ! grep -q '^Training' "$work/stdout" || fail "distill $*: training began: $(cat "$work/stderr")"
    grep -q '^distill: ' "$work/stderr" || fail "distill $*: no sentence of its own: $(cat "$work/stderr")"
    grep -qF -- "$wanted" "$work/stderr" || fail "distill $*: \"$(cat "$work/stderr")\" does not say \"$wanted\""
    [ "$before" = "$(cd "$work/out" && ls -l --time-style=full-iso && cat -- *.json)" ] || fail "distill $*: the output changed"
}

check()
{
    checks=$((checks + 1))
    what=$1
    shift
    "$@" >"$work/check" 2>&1 || fail "$what: $(head -5 "$work/check")"
}

# npy FILE ROWS COLUMNS BYTES_OF_ONE_ROW(octal): an array with the same numbers in every row
npy()
{
    header="{'descr': '<f4', 'fortran_order': False, 'shape': ($2, $3), }"
    printf '\223NUMPY\001\000\166\000%-117s\n' "$header" >"$1"
    i=0
    while [ $i -lt "$2" ]; do
        # shellcheck disable=SC2059
        printf "$4" >>"$1"
        i=$((i + 1))
    done
}

# npy_of FILE COLUMNS ROW(octal)...: an array of these rows
npy_of()
{
    file=$1 columns=$2
    shift 2
    header="{'descr': '<f4', 'fortran_order': False, 'shape': ($#, $columns), }"
    printf '\223NUMPY\001\000\166\000%-117s\n' "$header" >"$file"
    for row in "$@"; do
        # shellcheck disable=SC2059
        printf "$row" >>"$file"
    done
}

# ---- a good run ----------------------------------------------------------------------------------------------------
fashion=examples/data/fashion
# shellcheck disable=SC2086
check 'a small run' "$distill" $fashion $quick --teacher "$teacher" --student "$student" --out "$work/out"
for file in teacher.safetensors student.safetensors metrics.json report.html; do
    check "$file is written" test -s "$work/out/$file"
done
for key in '"seeds": 2' '"train_images": 220' '"test_images": 240' '"accuracy"' '"params"' '"accuracy_mean"' \
    '"accuracy_sd"' '"accuracies": \[' '"agreement"' '"teacher_latency_us"' '"student_latency_us"' '"seconds"' \
    '"student_alone"' '"student_smoothed"' '"student_distilled"' '"gradient_cosine"' '"target_entropy": [0-9]' \
    '"loss": "hinton", "temperature": [12]\.[17], "alpha": 0\.[79],' '"epochs": 2, "trial_epochs": 1, "teacher_epochs": 2,' \
    '"teacher_lr": 0.004, "batch": 16, "optimizer": "adamw", "teacher_weight_decay": 0.03' '"augment": "none"' \
    '"teacher_augment": "none"' '"seed_numbers": \[1, 2\]' '"trials": 1' \
    '{"temperature": 2.7, "alpha": 0.7, "accuracy_mean": 0\.[0-9]*}'; do
    check "metrics.json has $key" grep -q -- "$key" "$work/out/metrics.json"
done
check 'each way has one chosen setting' test "$(grep -o '<td>chosen</td>' "$work/out/report.html" | wc -l)" = 3
check 'one trial has no deviation' sh -c "! grep -q 'plusmn; ' '$work/out/report.html'"
check 'pictures have their class as text' grep -q 'alt="Sandal"' "$work/out/report.html"
check 'no temporary file is left' sh -c "! ls '$work/out' | grep -q kd-tmp"
check 'the verdict comes first' sh -c "grep -q 'class=\"lead\">\(Distillation\|No clear\|The student alone wins\)' '$work/out/report.html' && grep -q '\"verdict\": \"[A-Z]' '$work/out/metrics.json'"
check 'which student was kept is said' grep -q 'Kept as <code>student.safetensors</code>: student[a-z ,]*, seed [12]; the best way of training on the held-out images' "$work/out/report.html"
check 'and in metrics.json' grep -q '"kept": {"student": "[a-z]*", "seed": [12], "held_out_accuracy": 0\.' "$work/out/metrics.json"
check 'the command is in the page as a shell takes it' grep -qF -- "$fashion $quick --teacher '$teacher' --student '$student'" "$work/out/report.html"
for file in teacher.safetensors student.safetensors metrics.json; do
    check "and the hash of $file" grep -q "<dt>$file</dt><dd><code>$(sha256sum <"$work/out/$file" | cut -c1-64)</code>" "$work/out/report.html"
done
check 'and the version' grep -q "<code>kd.h $(sed -n 's/^#define KD_VERSION "\(.*\)"/\1/p' kd.h)," "$work/out/report.html"
# has COUNT PATTERN: so many times in the page
has() { test "$(grep -o "$2" "$work/out/report.html" | wc -l)" = "$1"; }
check 'a confusion matrix of the student alone and one of that kept' has 2 '<table class="matrix'
check 'a line for each way and the teacher' has 4 '<tr><th scope="row" class="first">'
check 'a point for each seed and way says its value' has 6 '<title>student[^<]*, seed [12]: [0-9.]* %'
check 'percent is called percent' grep -q 'Errors in each class, percent of its test images' "$work/out/report.html"
check 'how many images there are of each class' has 10 '<small>22 train, 24&nbsp;test</small>'
check 'their first images, 12 and 6' has 30 'width="168" height="28"'
check 'bars of three temperatures' grep -q 'fill="var(--3)"/></g>' "$work/out/report.html"
check 'none of them faint' has 0 'fill-opacity="\.32"'
check 'a reliability diagram' grep -q 'confidence, %</text>' "$work/out/report.html"
check 'time by stage' grep -q '</span>students</dt><dd>[0-9]' "$work/out/report.html"
check 'numbers do not break' has 0 '&#8201;'
check 'pictures that disagree have the names of their files' grep -q '<small>test/[^<]*\.png' "$work/out/report.html"

# ---- the page in a browser: its width, and what its script does ----------------------------------------------------
browser=
for name in chromium chromium-browser google-chrome; do
    [ -n "$browser" ] || browser=$(command -v $name)
done
# in_browser PAGE WIDTH: what the page is like in a window of so many pixels, as words
in_browser()
{
    mkdir -p "$work/browser"
    cp "$1" "$work/browser/page.html"
    cat >>"$work/browser/page.html" <<'HTML'
<script>
function width() { return document.documentElement.scrollWidth }
onerror = function (message) { parent.postMessage('error ' + message, '*') }
onload = function () {
    var said = 'width ' + width(), point = document.querySelector('svg .p'), tip = document.getElementById('tip')
    point.focus()
    said += ' tip "' + tip.textContent + '"'
    point.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))
    said += document.activeElement != point && document.activeElement.matches('.p') ? ' arrow' : ''
    var table = document.querySelector('table.sort'), head = table.tHead.rows[0].cells[1]
    head.querySelector('button').click()
    var values = Array.prototype.map.call(table.tBodies[0].rows, function (r) { return parseFloat(r.cells[1].textContent) })
    said += ' ' + head.getAttribute('aria-sort')
    said += values.every(function (v, i) { return !i || values[i - 1] <= v }) ? ' sorted' : ' ' + values
    document.querySelector('details').open = true
    document.querySelector('.strip img').click()
    said += document.querySelector('dialog[open] img') ? ' enlarged' : ''
    parent.postMessage(said + ' then ' + width(), '*')
}
</script>
HTML
    cat >"$work/browser/frame.html" <<HTML
<body><iframe src="page.html" style="border:0;width:$2px;height:900px"></iframe>
<script>onmessage = function (m) { document.body.appendChild(document.createElement('p')).textContent = m.data }</script>
HTML
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/browser/profile" \
        --virtual-time-budget=10000 --dump-dom "file://$work/browser/frame.html" 2>"$work/browser/log"
}
if [ -n "$browser" ]; then
    for width in 390 1200; do
        in_browser "$work/out/report.html" $width >"$work/said"
        check "at $width px it is as wide as the window, with all open" grep -q "width $width .* then $width<" "$work/said"
        check 'a point that is focused says its value' grep -q 'tip "teacher: [0-9.]* %" arrow' "$work/said"
        check 'a table is sorted, a picture enlarged' grep -q 'ascending sorted enlarged' "$work/said"
        check 'nothing goes wrong in its script' sh -c "! grep -q '<p>error' '$work/said'"
    done
else
    echo 'skip  the page in a browser: chromium is not installed'
fi
check 'the report has no links to elsewhere' sh -c "! grep -Eq '(src|href)=\"?(http|/|file)' '$work/out/report.html'"
# shellcheck disable=SC2086
check 'two threads' "$distill" $fashion $quick --threads 2 --teacher "$teacher" --student "$student" --out "$work/two"
check 'the same bits with two threads' cmp "$work/out/student.safetensors" "$work/two/student.safetensors"
# shellcheck disable=SC2086
check 'a teacher from a file' "$distill" $fashion $quick --teacher "$work/out/teacher.safetensors" --student "$student" --out "$work/two"
check 'a teacher from a file gives the same student' cmp "$work/out/student.safetensors" "$work/two/student.safetensors"
# shellcheck disable=SC2086
check 'augmentation' "$distill" $fashion $quick --augment flip,shift=2,cutout=4 --loss kl --student "$student" --teacher "$teacher" --out "$work/two"
# more losses than one, some of them on features
named_teacher='low: dense 24, relu, high: dense 20, relu, dense 10'
named_student='low: dense 4, relu, high: dense 20, relu, dense 10'
listed=$work/listed
for name in mlp cnn-small cnn resnet8 resnet20 mobilenet vit-micro vit-tiny vit-small; do
    check "--show-model $name" sh -c "'$distill' $fashion --limit 9 --show-model $name --out '$work/unmade' >'$listed'"
    check "$name ends in ten outputs" grep -q '^[a-z0-9]*  *dense 10  *10 ' "$listed"
    check "$name stands in --help" sh -c "'$distill' --help | grep -q '^    $name '"
done
check 'names of vit-small are those of timm' grep -q '^blocks\.11\.mlp\.fc2 ' "$listed"
check 'and nothing else is done' sh -c "! test -e '$work/unmade' && ! grep -q 'Training\|to learn from' '$listed'"
# shellcheck disable=SC2086
check 'a student that is prompted' sh -c "'$distill' $fashion $quick --teacher '$teacher' --student 'dense 6, relu, prompt 10, dense 10' --out '$work/two' >'$work/prompted.txt'"
check 'is told of' grep -q 'what the teacher says as prompts, more and more rarely' "$work/prompted.txt"
refused 'the student takes a prompt of 3 numbers, but is given what the teacher says of 10 classes' $fashion $quick --teacher "$teacher" --student 'dense 6, relu, prompt 3, dense 10'
# shellcheck disable=SC2086
check 'a student and a teacher by name' "$distill" $fashion $quick --teacher mlp --student vit-micro --seeds 1 --out "$work/two"
check 'layers are listed' sh -c "'$distill' $fashion --limit 9 --teacher '$named_teacher' --list-layers --out '$work/unmade' >'$listed'"
check 'those of the teacher' grep -q '^high  *dense 20  *20 ' "$listed"
check 'those of the student, too' grep -q '^stage1  *maxpool 2  *8x14x14' "$listed"
check 'and nothing else is done' sh -c "! test -e '$work/unmade' && ! grep -q 'Training\|to learn from' '$listed'"
several()
{
    # shellcheck disable=SC2086
    $begin "$distill" $fashion $quick --teacher "$named_teacher" --student "$named_student" --seeds 1 --threads 1 "$@"
}
begin= # exec, where it is to be stopped
check 'a sum of losses, and features' several --loss 'hinton + 0.5*dist' --feature 'hint low weight=50' \
    --feature 'rkd 2=high angle=10;fsp high high weight=0.5' --feature 'review low high weight=2' --out "$work/several"
for key in '"loss": "hinton + 0.5\*dist", "temperature": [12]\.[17], "alpha": 0\.[79],' \
    '"losses": \[{"name": "hinton", "weight": 1}, {"name": "dist", "weight": 0.5}\], "features": \[{' \
    '{"name": "hint", "student": "low", "teacher": "low", "weight": 50}' '"student": "2", "teacher": "high", "weight": 1}' \
    '"student2": "high", "teacher2": "high", "weight": 0.5}' '"student": "low,high", "teacher": "low,high", "weight": 2}'; do
    check "metrics.json has $key" grep -q -- "$key" "$work/several/metrics.json"
done
check 'accuracy by class, of the teacher and of each way' test "$(grep -o '"class_accuracies": \[\([01]\.[0-9]\{6\}, \)\{9\}[01]\.[0-9]\{6\}\]' "$work/several/metrics.json" | wc -l)" = 4
check 'the report has them, too' grep -q 'loss on features</dt><dd><code>hint low=low weight=50<' "$work/several/report.html"
check 'a term of weight 1 alone' several --loss 'kl' --out "$work/two"
check 'and the same with its weight' several --loss '1*kl' --out "$work/several"
check 'is the same student' cmp "$work/two/student.safetensors" "$work/several/student.safetensors"
check 'labels alone at first' several --loss kl --teacher-from 0.5 --out "$work/several"
check 'metrics.json says so' grep -q '"teacher_from": 0.5, "teacher_until": 1' "$work/several/metrics.json"
check 'none would be left to the teacher' sh -c "! '$distill' $fashion $quick --teacher '$named_teacher' --student '$named_student' --seeds 1 --epochs 1 --teacher-from 0.5 --out '$work/none' 2>'$work/said' && grep -q 'leave none of 1 epochs to the teacher' '$work/said'"
check 'a feature of weight 0' several --loss kl --feature 'hint low weight=0' --out "$work/several"
check 'teaches nothing' cmp "$work/two/student.safetensors" "$work/several/student.safetensors"
# several teachers
check 'two teachers' sh -c "'$distill' $fashion $quick --teacher '$teacher' --student '$student' --teachers 2 --out '$work/teachers' >'$work/said'"
check 'both are saved' test -s "$work/teachers/teacher-2.safetensors"
check 'the first is what it is alone' cmp "$work/teachers/teacher.safetensors" "$work/out/teacher.safetensors"
check 'the second is another' sh -c "! cmp '$work/teachers/teacher-2.safetensors' '$work/teachers/teacher.safetensors'"
check 'they are counted' grep -q '"teachers": 2, "loss": "hinton"' "$work/teachers/metrics.json"
check 'with all their parameters' grep -q '^teacher  *38 180 ' "$work/said"
check 'and teach something else' sh -c "! cmp '$work/teachers/student.safetensors' '$work/out/student.safetensors'"
check 'the report says so' grep -q '<dt>teachers</dt><dd><code>2, averaged<' "$work/teachers/report.html"
check 'the average is tested' sh -c "! test \"\$(grep '\"teacher\": {' '$work/teachers/metrics.json' | sed 's/.*accuracy//')\" = \"\$(grep '\"teacher\": {' '$work/out/metrics.json' | sed 's/.*accuracy//')\""
# several teachers that are files: the same two, so the same students
both="--teacher $work/teachers/teacher.safetensors --teacher $work/teachers/teacher-2.safetensors"
check 'two files' sh -c "'$distill' $fashion $quick $both --student '$student' --out '$work/files' >'$work/said'"
check 'teach what the two taught that were trained here' cmp "$work/files/student.safetensors" "$work/teachers/student.safetensors"
check 'both are checked' test "$(grep -c '^The teacher gets .* of 220 training images right' "$work/said")" = 2
check 'and listed' grep -q 'teacher-2.safetensors' "$work/files/report.html"
# ways with more models than teacher and student
check 'ways with more models' several --assistant 'dense 9, relu, dense 10' --assistant 'dense 6, relu, dense 10' \
    --born-again 2 --mutual --adversarial 0.05 --out "$work/several"
for way in mutual assisted reborn robust; do
    check "$way: in metrics.json" grep -q "\"student_$way\": {\"accuracy_mean\": .*\"robust_accuracy\": [01]\.[0-9]" "$work/several/metrics.json"
done
check 'attacks in the report' grep -q '<th>attacked by up to 0.05 a pixel</th>' "$work/several/report.html"
check 'in the report' grep -q 'from 1x28x28: dense 6, relu, dense 10, learning rate' "$work/several/report.html"
check 'attacks on the teacher, too' grep -q '"teacher": {.*"robust_accuracy"' "$work/several/metrics.json"
for model in assistant assistant-2 student_robust; do
    check "$model is saved" "$distill" $fashion --teacher "$work/several/$model.safetensors" --list-layers
done
check 'an attack beside int8, and features' several --int8 --adversarial 0.05 --feature 'hint low weight=1' --out "$work/two"
check 'without them' several --out "$work/two"
distilled() { grep -o '"student_distilled": {"accuracy_mean": [0-9.]*, "accuracy_sd": [0-9.]*, "accuracies": [^]]*' "$1/metrics.json"; }
check 'the distilled are the same' test "$(distilled "$work/two")" = "$(distilled "$work/several")"
# students in int8: chosen and tested by their integers
# shellcheck disable=SC2086
check 'int8' sh -c "'$distill' $fashion $quick --teacher '$teacher' --student '$student' --int8 --out '$work/int8' >'$work/said'"
check 'the int8 student is saved' test -s "$work/int8/student_int8.safetensors"
check 'as bytes' grep -q '"dtype":"I8"' "$work/int8/student_int8.safetensors"
check 'it is a model like any other' sh -c "'$build/classify' '$work/int8/student_int8.safetensors' examples/data/samples/*.png | grep -q '%'"
for key in student_ptq student_int8_alone student_int8; do
    check "metrics.json has $key" grep -q "\"$key\": {\"accuracy_mean\": [01]\.[0-9]*, \"accuracy_sd\": [0-9.]*.*\"bytes\": [0-9]*}" "$work/int8/metrics.json"
done
check 'which one was kept' grep -q '"kept_int8": {"student": "[a-z0-9_]*", "seed": [12], "bytes": [0-9]*, "latency_us": [0-9.]*}' "$work/int8/metrics.json"
check 'the console has a line for each' test "$(grep -c '^int8, .* [0-9.]* %' "$work/said")" = 3
check 'and says what it costs' grep -q '^In int8 (int8, .*): [+-][0-9.]* points against the distilled student in float' "$work/said"
check 'so does the report' grep -q 'int8, distilled<small>1 more epoch with rounding' "$work/int8/report.html"
check 'the students in float are as without' cmp "$work/int8/student.safetensors" "$work/out/student.safetensors"
# the students alone as further teachers
# shellcheck disable=SC2086
check 'an ensemble' sh -c "'$distill' $fashion $quick --teacher '$teacher' --student '$student' --ensemble yes --epochs 20 --teacher-epochs 20 --out '$work/ensemble' >'$work/said'"
check 'what they know together is said' grep -q '^The 2 students alone teach with it, with [0-9]* % of the average: together [0-9.]* %' "$work/said"
check 'and that of the test images' grep -q '^teacher and 2 students .* [0-9.]* %$' "$work/said"
check 'and in metrics.json' grep -q '"ensemble": {"students": 2, "share": [01.5]*, "accuracy": 0\.[0-9]*, "held_out_accuracy": 0\.[0-9]*}' "$work/ensemble/metrics.json"
check 'and in the report, a line of its own' grep -q '>teacher and 2 students<small>averaged' "$work/ensemble/report.html"
# shellcheck disable=SC2086
check 'no ensemble' "$distill" $fashion $quick --teacher "$teacher" --student "$student" --epochs 20 --teacher-epochs 20 --out "$work/no-ensemble"
check 'the same teacher' cmp "$work/ensemble/teacher.safetensors" "$work/no-ensemble/teacher.safetensors"
check 'the same students alone' test "$(grep -o '"student_alone".*' "$work/ensemble/metrics.json" | sed 's/"agreement.*//')" = "$(grep -o '"student_alone".*' "$work/no-ensemble/metrics.json" | sed 's/"agreement.*//')"
check 'other distilled ones' sh -c "! test \"\$(grep '\"student_distilled' '$work/ensemble/metrics.json')\" = \"\$(grep '\"student_distilled' '$work/no-ensemble/metrics.json')\""
# weights that do not say what they were fed
tensors="$work/tensors.safetensors"
LC_ALL=C sed 's/"kd\.spec"/"my.spec"/' "$work/out/teacher.safetensors" >"$tensors"
# shellcheck disable=SC2086
check 'weights alone, images normalised otherwise' "$distill" $fashion $quick --teacher "$teacher" --teacher-weights "$tensors" --student "$student" --mean 0.9 --std 2 --teacher-unchecked --out "$work/otherwise"
check 'are another teacher' sh -c "! cmp '$work/out/student.safetensors' '$work/otherwise/student.safetensors'"
# shellcheck disable=SC2086
check 'weights alone' sh -c "'$distill' $fashion $quick --teacher '$teacher' --teacher-weights '$tensors' --student '$student' --out '$work/two' >'$work/said'"
check 'how good they are is said at once' sh -c "sed '/^Training/,\$d' '$work/said' | grep -q '^The teacher gets [0-9.]* % of the test images right'"
check 'it did not guess' sh -c "! grep -q 'than chance' '$work/said'"
check 'weights alone, nonsense for their images' sh -c "'$distill' $fashion $quick --seeds 1 --teacher '$teacher' --teacher-weights '$tensors' --student '$student' --mean 900 --std 0.1 --teacher-unchecked --out '$work/otherwise' >'$work/nonsense'"
check 'is noticed' grep -q 'hardly more than chance; were its images normalised like these' "$work/nonsense"
check 'nothing said about images' grep -q 'it does not say how its images were normalised' "$work/said"
check 'those of the training images' cmp "$work/out/student.safetensors" "$work/two/student.safetensors"
# shellcheck disable=SC2086
check 'a tree that is not the last layer' "$distill" $fashion $quick --teacher "$teacher" --student 'softtree 3 20, dense 10' --augment brightness=-0 --out "$work/two"
# shellcheck disable=SC2086
check 'a loss without temperature' sh -c "'$distill' $fashion $quick --teacher '$teacher' --student '$student' --loss mse --out '$work/two' >'$work/said'"
check 'has none' grep -q '^Distilled by mse' "$work/said"
check 'nor anything at one' sh -c "! grep -q 'emperature\|alpha' '$work/said'"
check 'nor in the report' sh -c "! grep -q 'at temperature\|[^-]alpha' '$work/two/report.html'"
# shellcheck disable=SC2086
check 'a loss without alpha' sh -c "'$distill' $fashion $quick --seeds 1 --epochs 1 --teacher-epochs 1 --teacher '$teacher' --student '$student' --loss kl --out '$work/kl' >'$work/said'"
check 'names none' sh -c "! grep -q '[^-]alpha' '$work/said' '$work/kl/report.html'"
check 'one is no plural' sh -c "! grep -w '1 \(threads\|epochs\|trials\|seeds\)' '$work/said'"
check 'nor in metrics.json' grep -q '"loss": "mse", "temperature": null, "alpha": null,' "$work/two/metrics.json"
# folders under other names, one of them to choose with; copies, and what is no image
named=$work/named
mkdir -p "$named/Training/a" "$named/Training/b" "$named/valid/a" "$named/valid/b" "$named/Testing/a" "$named/Testing/b" "$named/more"
i=0
for folder in Training valid Testing; do
    for class in a b; do
        for name in 1 2 3 4 5 6; do
            i=$((i + 64))
            { printf 'P5 8 8 255\n' && tail -c +$i kd.h | head -c 64; } >"$named/$folder/$class/$name.pgm"
        done
    done
done
cp "$named/Training/a/1.pgm" "$named/Testing/b/7.pgm"
echo 'no image' >"$named/Training/a/notes.txt"
check 'folders under other names' sh -c "'$distill' '$named' --teacher 'dense 4, relu, dense 2' --student 'dense 2' --seeds 1 --epochs 1 --teacher-epochs 1 --trials 1 --threads 1 --batch 4 --out '$work/named-out' >'$work/said'"
for text in '"Training" is taken for the images to learn from' '"valid" is taken for the images to choose with' \
    '"Testing" is taken for the images to test with' 'not used: "more"' '1 file left out, which is no image' \
    '1 of the test images is among the training images' '12 to learn from, 12 held out, 13 to test'; do
    check "$text" grep -qF -- "$text" "$work/said"
done
check 'the report says it of its images, too' grep -q '<li>1 of the test images is among the training images' "$work/named-out/report.html"
for key in '"test_in_train": 1, ' '"two_labels": 1}' '"left_out": \[{"count": 1, "why": "is no image"}\]' '"validation_images": 12'; do
    check "metrics.json has $key" grep -q -- "$key" "$work/named-out/metrics.json"
done
if command -v python3 >/dev/null; then
    check 'metrics.json is JSON' python3 -m json.tool "$work/out/metrics.json"
    check 'metrics.json is JSON without temperature' python3 -m json.tool "$work/two/metrics.json"
fi
check 'help in two columns' sh -c "'$distill' --help | sed '1,/^Options/d; /^\$/,\$d' | awk '!/^  --/ && match(\$0, /[^ ]/) != 28 { print; bad = 1 } END { exit bad }'"
check 'help in 80 columns' sh -c "! '$distill' --help | grep -E '.{80}'"
check 'help' sh -c "'$distill' --help | grep -q -- '--temperature'"
check 'classify' sh -c "'$build/classify' '$work/out/student.safetensors' examples/data/samples/*.png | grep -c '%' | grep -qx 30"
check 'the student as ONNX' sh -c "'$build/export' '$work/out/student.safetensors' '$work/student.onnx' >/dev/null"
# in int8, its ranges from images: by class, in any folder, of IDX files
exported() { "$build/export" "$work/out/student.safetensors" "$@" >"$work/said" 2>"$work/stderr"; }
check 'in int8' exported "$work/s8.safetensors" --int8 --images examples/data/fashion
check 'which looks at images' grep -q '^1024 images of examples/data/fashion say what' "$work/said"
check 'is four times smaller' test "$(($(wc -c <"$work/s8.safetensors") * 2))" -lt "$(wc -c <"$work/out/student.safetensors")"
check 'is a model' sh -c "'$build/classify' '$work/s8.safetensors' examples/data/samples/*.png | grep -c '%' | grep -qx 30"
check 'in int8 as ONNX' exported "$work/s8.onnx" --int8 --images examples/data/samples
check 'which looks at all there are' grep -q '^10 images of examples/data/samples say what' "$work/said"
check 'has quantised layers' grep -q QuantizeLinear "$work/s8.onnx"
check 'in int8 as C' exported "$work/s8.c" --int8 --images tests/images --weight-limit 64
check 'that is integers' grep -q int8_t "$work/s8.c"
check 'of another limit' exported "$work/s8.onnx" --int8 --images examples/data/samples --weight-limit 64
not_exported() { wanted=$1 && shift && ! exported "$@" && [ "$(wc -l <"$work/stderr")" = 1 ] && grep -qF -- "$wanted" "$work/stderr" && ! [ -e "$work/none.onnx" ]; }
check 'int8 without images' not_exported 'give a folder with some of the images that it was trained on, --images FOLDER' "$work/none.onnx" --int8
check 'images without int8' not_exported '--images goes with --int8' "$work/none.onnx" --images tests/images
check 'a limit without int8' not_exported '--weight-limit goes with --int8' "$work/none.onnx" --weight-limit 64
check 'no limit' not_exported '--weight-limit must be 1 to 127, got "128"' "$work/none.onnx" --int8 --weight-limit 128
check 'no value' not_exported '--images needs a value' "$work/none.onnx" --int8 --images
check 'no folder' not_exported 'there is no folder' "$work/none.onnx" --int8 --images "$work/nothing"
check 'no images in it' not_exported 'there is no image that can be read' "$work/none.onnx" --int8 --images "$work/out"
check 'int8 already' sh -c "! '$build/export' '$work/s8.safetensors' '$work/none.onnx' --int8 2>'$work/stderr'"
check 'is said' grep -q 'is in int8 already; leave out --int8' "$work/stderr"
check 'classify: the same of it' sh -c "'$build/classify' '$work/student.onnx' examples/data/samples/*.png >'$work/a'; '$build/classify' '$work/out/student.safetensors' examples/data/samples/*.png | cmp - '$work/a'"
# shellcheck disable=SC2086
check 'an ONNX teacher needs no model line' sh -c "'$distill' $fashion $quick --seeds 1 --epochs 1 --teacher-weights '$work/student.onnx' --student 'dense 8, relu, dense 10' --out '$work/by-onnx' >'$work/said'"
check 'and is listed' grep -q 'student\.onnx' "$work/by-onnx/report.html"
# a picture that would take gigabytes to be resized, by a square model and by a tall one that is stretched to
one_line=$work/60000x1.pgm
{ printf 'P5 60000 1 255\n' && head -c 60000 kd.h; } >"$one_line"
{ printf 'P5 1 60000 255\n' && head -c 60000 kd.h; } >"$work/1x60000.pgm"
cat >"$work/models.c" <<'C'
#define KD_IMPLEMENTATION
#define KD_NO_SIMD
#include "kd.h"
int main(int argc, char **argv)
{
    kd_ctx *kd = NULL;
    kd_model *m = NULL;
    return argc < 3 || kd_open(NULL, &kd) || kd_model_create(kd, argv[1], 1, &m) || kd_model_save(m, argv[2]);
}
C
check 'models for it' sh -c "\${CC:-cc} -std=gnu99 -O0 -w -I. '$work/models.c' -o '$work/models' -lm &&
    '$work/models' '3x224x224: gap, dense 2' '$work/square.safetensors' &&
    '$work/models' '1x2x4000: gap, dense 2' '$work/wide.safetensors'"
for pair in "square $one_line" "square $work/1x60000.pgm" "wide $work/1x60000.pgm"; do
    check "${pair##*/}, ${pair%% *} model: refused" sh -c "! (ulimit -v 4000000; exec '$build/classify' \
        '$work/${pair%% *}.safetensors' '${pair#* }') 2>'$work/stderr'"
    check "${pair##*/}, ${pair%% *} model: in a sentence" grep -q '^classify: .* is too long' "$work/stderr"
done

# ranges of models that are not square, of photos of 12 bits without classes, and what is to be given to others
check 'more models' sh -c "'$work/models' '1x20x12: conv 2 3, relu, gap, dense 2' '$work/tall.safetensors' &&
    '$work/models' 'tokens 9: embed 256 4, meanpool, linear 2' '$work/words.safetensors' &&
    '$work/models' '7: dense 3, relu, dense 2' '$work/seven.safetensors' && mkdir '$work/deep' &&
    '$work/models' '1x8x8: dense 3, relu, dense 2' '$work/eight.safetensors'"
check 'a tall model and square images' sh -c "'$build/export' '$work/tall.safetensors' '$work/tall8.safetensors' --int8 --images examples/data/samples >'$work/said'"
check 'looks at all of them' grep -q '^10 images of examples/data/samples say what' "$work/said"
# values of 12 bits in 16: as bright as the same of 8 bits
{ printf 'P5 8 8 65535\n'; head -c 64 kd.h | od -An -v -tu1 | tr -s ' ' '\n' | grep . | awk '{ printf "\\%03o\\%03o", $1 / 16 % 16, $1 % 16 * 16 }' | xargs -0 printf; } >"$work/deep/a.pgm"
mkdir "$work/flat" && { printf 'P5 8 8 255\n'; head -c 64 kd.h; } >"$work/flat/a.pgm"
for folder in deep flat; do
    check "ranges of $folder" sh -c "'$build/export' '$work/eight.safetensors' '$work/$folder.safetensors' --int8 --images '$work/$folder'"
done
check 'are alike' cmp "$work/deep.safetensors" "$work/flat.safetensors"
asked() { wanted=$1 && ! "$build/export" "$work/$2.safetensors" "$work/none.onnx" --int8 2>"$work/stderr" && grep -qF -- "$wanted" "$work/stderr"; }
check 'of texts' asked 'give some of the texts that it was trained on, --images FOLDER or --images TEXTS.csv' words
check 'of vectors' asked 'the model reads vectors of 7, which no file that export reads has' seven

# ---- what is done where nothing is said --------------------------------------------------------------------------------
check 'defaults' sh -c "'$distill' $fashion --limit 12 --effort 0.01 --seeds 1 --threads 1 --out '$work/auto' >'$work/said'"
check 'the time is told beforehand' sh -c "sed '/^May images/,\$d' '$work/said' | grep -q '^time      about [0-9]'"
check 'mirror images are asked about' grep -q '^  of [0-9]* it knows [0-9]* only as they are, [0-9]* only mirrored: \(yes\|no\)' "$work/said"
check 'the teacher is compared before anything is distilled' sh -c "sed '/^The student with the teacher/,\$d' '$work/said' |
    grep -q '^On the held-out images the teacher gets [0-9.]* % right, the student alone [0-9.]* %'"
for way in alone smoothed distilled; do # learning rates and weight decays, and one trial more
    check "$way: as many trials as the others" test "$(grep -c "^  $way .*learning rate" "$work/said")" = 5
done
check 'mixed images are tried without a teacher' test "$(grep -c 'mixup 0.4: held-out' "$work/said")" = 2
check 'and temperatures with one' grep -q '^  distilled  hinton, temperature 2,' "$work/said"
mkdir -p "$work/letters/train" "$work/letters/test"
for part in train test; do
    ln -s "$PWD/$fashion/$part/Bag.28x28.png" "$work/letters/$part/b.28x28.png"
    ln -s "$PWD/$fashion/$part/Coat.28x28.png" "$work/letters/$part/d.28x28.png"
done
few='--limit 12 --effort 0.01 --seeds 1 --threads 1'
# shellcheck disable=SC2086
check 'letters' sh -c "'$distill' '$work/letters' $few --out '$work/auto' >'$work/said'"
check 'are shifted' grep -q '"augment": "shift=2", "teacher_augment": "shift=2,mixup=0.4"' "$work/auto/metrics.json"
check 'are not mirrored' grep -q '^Images are not mirrored: the classes look like letters or digits' "$work/said"
# shellcheck disable=SC2086
check 'a teacher that knows nothing' sh -c "'$distill' $fashion $few --limit 40 --effort 0.1 --teacher 'dense 1, relu, dense 10' --out '$work/auto' >'$work/said'"
check 'another one is tried' grep -q '^The teacher is not better than the student: another one is trained, twice as long' "$work/said"
check 'and it is said' grep -q '^note: the teacher is not better than the student' "$work/said"
check 'what is kept is not what it spoilt' grep -q '^Kept: student\( alone\|, labels smoothed\)' "$work/said"
# shellcheck disable=SC2086
check 'a second for the teacher' sh -c "'$distill' $fashion $few --teacher-minutes 0.000001 --out '$work/auto' >'$work/said'"
check 'is too short, and one epoch is trained' sh -c "grep -q '^note: an epoch of the teacher takes about' '$work/said' && grep -q '^Training the teacher, 1 epoch\$' '$work/said'"
# shellcheck disable=SC2086
check 'nothing held out' sh -c "'$distill' $fashion $few --validation 0 --out '$work/auto' >'$work/said'"
check 'nothing chosen' sh -c "grep -q '^note: no images are held out, so nothing is chosen' '$work/said' && ! grep -q 'held-out accuracy' '$work/said'"
# shellcheck disable=SC2086
check 'images without labels' sh -c "'$distill' $fashion $few --unlabelled examples/data/samples --out '$work/auto' >'$work/said'"
check 'are said to be there' grep -q '10 without labels' "$work/said"
check 'and in metrics.json' grep -q '"unlabelled_images": 10' "$work/auto/metrics.json"
# shellcheck disable=SC2086
check 'the same without them' "$distill" $fashion $few --out "$work/other"
of() { grep "\"student_$1\"" "$2/metrics.json" | sed 's/"gain.*//'; }
check 'is the same student alone' test "$(of alone "$work/auto")" = "$(of alone "$work/other")"
check 'and another one with a teacher' test "$(of distilled "$work/auto")" != "$(of distilled "$work/other")"

# ---- on a terminal -------------------------------------------------------------------------------------------------
# A training that fails while its progress is drawn, and weights that do not fit: sentences on lines of their own.
on_terminal() { script -qec "$1" /dev/null 2>&1 | tr '\r' '\n' >"$work/typescript"; }
if command -v script >/dev/null && script -qec true /dev/null >/dev/null 2>&1; then
    on_terminal "'$distill' $fashion --limit 300 --epochs 1 --teacher-epochs 9 --batch 8 --seeds 1 --threads 1 --optimizer sgd \
        --teacher-lr 0.3 --augment none --validation 0 --teacher 'dense 256, relu, dense 256, relu, dense 10' --out '$work/terminal'"
    check 'progress is drawn' grep -q '^  teacher .*\[[#.]*\]' "$work/typescript"
    check 'what went wrong has a line of its own' grep -q '^distill: training: ' "$work/typescript"
    on_terminal "stty cols 80; '$distill' $fashion --limit 12 --effort 0.01 --seeds 2 --threads 1 --out '$work/terminal'"
    check 'a terminal of 80 columns: lines are broken between words' sh -c "! grep -E '.{81}' '$work/typescript'"
    check 'and go on below where they begin' grep -Eq '^             [a-z0-9]' "$work/typescript"
    on_terminal "'$distill' $fashion --limit 12 --teacher 'dense 7, relu, dense 10' --teacher-weights '$tensors' --out '$work/terminal'"
    check 'weights that do not fit, too' grep -q '^distill: ' "$work/typescript"
else
    echo 'skip  distill: on a terminal: there is no script(1)'
fi
check 'as many threads as are fastest just now' sh -c "'$distill' $fashion --limit 12 --effort 0.01 --seeds 1 --out '$work/auto' >'$work/said' &&
    grep -q '^kd.h .*, [0-9]* threads\{0,1\}\(, the fastest just now; --threads chooses\)\{0,1\}\$' '$work/said'"
[ "$(getconf _NPROCESSORS_ONLN)" = 1 ] || check 'is said' grep -q 'the fastest just now' "$work/said"

# ---- mistakes ------------------------------------------------------------------------------------------------------
mkdir -p "$work/one/train/cat" "$work/one/test/cat" "$work/empty/a" "$work/empty/b" "$work/none" "$work/two_classes/a" "$work/two_classes/b"
cp examples/data/samples/Bag.png "$work/one/train/cat"
cp examples/data/samples/Coat.png "$work/one/test/cat"
cp examples/data/samples/Bag.png "$work/empty/a"
for i in 1 2 3 4 5 6; do
    cp examples/data/samples/Bag.png "$work/two_classes/a/$i.png"
    cp examples/data/samples/Coat.png "$work/two_classes/b/$i.png"
done
# Photos come in all sizes. A model that says its own is not given others.
for i in 1 2 3 4 5 6; do
    for class in a b; do
        mkdir -p "$work/photos/$class"
        { printf 'P5 %d 90 255\n' $((80 + i)); head -c $(((80 + i) * 90)) /dev/zero; } >"$work/photos/$class/$i.pgm"
    done
done
check 'photos of all sizes' sh -c "'$distill' '$work/photos' --teacher 'dense 2' --student 'dense 2' --list-layers >'$work/photos.txt'"
check 'their size' grep -q 'different sizes, up to 86x90: all are brought to 64x64; --size says otherwise' "$work/photos.txt"
check 'is theirs' grep -q 'input  *1x64x64' "$work/photos.txt"
refused 'the images have different sizes; say which to bring them to' "$work/photos" --student '1x28x28: dense 2'
refused 'the images have different sizes; say which to bring them to' "$work/photos" --teacher "$work/out/teacher.safetensors"
mkdir -p "$work/latin/a" "$work/latin/$(printf 'caf\351')" "$work/bad_labels"
cp examples/data/samples/Bag.png "$work/latin/a"
cp examples/data/samples/Coat.png "$work/latin/$(printf 'caf\351')"
for set in train t10k; do
    printf '\000\000\010\003\000\000\000\002\000\000\000\001\000\000\000\001ab' >"$work/bad_labels/$set-images-idx3-ubyte"
    printf '\000\000\010\001\000\000\000\002\000\377' >"$work/bad_labels/$set-labels-idx1-ubyte"
done
printf 'a\nb\n' >"$work/bad_labels/classes.txt"
cp "$work/out/teacher.safetensors" "$work/ours.safetensors" # what is in the output folder would be replaced
head -c 5000 "$work/ours.safetensors" >"$work/cut.safetensors"
npy "$work/nan.npy" 12 2 '\000\000\300\177\000\000\300\177'
npy "$work/short.npy" 5 2 '\000\000\200\077\000\000\200\077'
echo file >"$work/a_file"
printf 'PK\003\004%0100d' 0 >"$work/teacher.pt"
printf 'PK\003\004%022d\012\000\000\000logits.npy' 0 >"$work/teacher.npz"
printf 'PK\003\004%022d\012\000\000\000logits.npy' 0 >"$work/npz.npy"
printf '\010\010\022\007pytorch' >"$work/teacher.onnx"
printf '\211HDF\r\n\032\n' >"$work/teacher.h5"
printf '\066\000\000\000\000\000\000\000{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}01234567' >"$work/bare.safetensors"

one_setting="--temperature 2 --alpha 0.5 --validation 0"
out="--out $work/out --epochs 1 --teacher-epochs 1 --seeds 1 --threads 1 --limit 20"
# shellcheck disable=SC2086
{
    refused 'which images?'
    refused 'there is no folder' "$work/missing" $out
    refused 'one class' "$work/one" $out
    refused 'class "b" has no readable image' "$work/empty" $out
    refused 'the class name "caf\xE9" is not in UTF-8' "$work/latin" $out
    refused "$work/none" "$work/none" $out
    refused 'but some have label 255' "$work/bad_labels" $out
    refused 'there is no option --epoch' $fashion $out --epoch 3
    refused '--lr needs a value' $fashion $out --lr
    refused '--epochs must be 0 to' $fashion $out --epochs -1
    refused '--alpha must be 0 to 1' $fashion $out --alpha 0.5,2
    refused '--temperature takes numbers' $fashion $out --temperature warm
    refused '--loss can be' $fashion $out --loss l2
    refused '--loss can be' $fashion $out --loss hinton+
    refused '--teacher-from must be below --teacher-until, got 0.5 and 0.5' $fashion $out --teacher-from 0.5 --teacher-until 0.5
    refused '--loss needs one that learns from the teacher' $fashion $out --loss ce
    refused 'takes weights above 0' $fashion $out --loss '0*hinton+kl'
    refused 'joins losses by +' $fashion $out --loss 'hinton kl'
    refused '--teachers must be 1 to 16' $fashion $out --teachers 17
    refused '--ensemble can be auto, yes or no, got "some"' $fashion $out --ensemble some
    refused '--ensemble yes needs one teacher besides the students' $fashion $out --ensemble yes --teachers 2
    refused '--ensemble yes needs held-out images' $fashion $out --ensemble yes --validation 0
    refused 'where --feature is given' $fashion $out --ensemble yes --feature 'hint stage1'
    refused 'a teacher that is there already is one' $fashion $out --teachers 2 --teacher "$work/teachers/teacher.safetensors"
    refused 'the layers of several are not averaged' $fashion $out --teachers 2 --feature 'hint stage1'
    # shellcheck disable=SC2154
    refused 'the layers of several are not averaged' $fashion $out $both --feature 'hint stage1'
    refused '--teacher is given 2 times' $fashion $out $both --teachers 2
    refused 'several teachers are files of trained models, .safetensors or .onnx, but --teacher is "cnn"' $fashion $out --teacher cnn --teacher "$work/teachers/teacher.safetensors"
    refused 'several teachers are files of trained models, .safetensors or .onnx, but --teacher is "cnn"' $fashion $out --teacher "$work/teachers/teacher.safetensors" --teacher cnn
    refused 'the assistant is read as' $fashion $out --assistant 'dense ten'
    refused 'the assistant has 9 outputs, but the images have 10 classes' $fashion $out --assistant 'dense 9'
    refused '--adversarial must be 0 to 1' $fashion $out --adversarial 8
    refused '--born-again must be 0 to 16' $fashion $out --born-again 17
    refused '--class-weights can be auto or none, got "some"' $fashion $out --class-weights some
    refused '--folds needs 2 or more' $fashion $out --folds 1
    refused 'is for testing; folds take their test images out of one folder' $fashion $out --folds 2
    refused '--feature begins with one of hint' $fashion $out --feature 'hunt stage1'
    refused '--feature hint takes one pair of layers' $fashion $out --feature hint
    refused '--feature hint takes one pair of layers' $fashion $out --feature 'hint stage1 stage2'
    refused '--feature fsp takes two pairs' $fashion $out --feature 'fsp stage1'
    refused '--feature takes layers as student=teacher, got "stage1="' $fashion $out --feature 'hint stage1='
    refused '--feature weight takes a number, got "much"' $fashion $out --feature 'hint stage1 weight=much'
    refused 'weight of a feature loss must be 0 to 1000000, got -1' $fashion $out --feature 'hint stage1 weight=-1'
    refused 'the teacher has no layer "stage4"; did you mean "stage1"?' $fashion $out --feature 'hint stage1=stage4'
    refused '--augment does not know "flop"' $fashion $out --augment flop
    refused '--teacher-augment does not know "flop"' $fashion $out --teacher-augment flop
    refused '--augment flip takes a whole number up to 1, got "0.5"' $fashion $out --augment shift=2,flip=0.5,cutout=4
    refused '--teacher-augment shift takes a whole number' $fashion $out --teacher-augment shift=1.9
    refused 'no instruction set "sse"' $fashion $out --isa sse
    refused 'did you mean "conv"' $fashion $out --student 'covn 8 3, dense 10'
    refused 'is read as "1x28x28: dens 10": model line, column 10' $fashion $out --student 'dens 10'
    refused 'the student: there is no model "resnet18", nor a file of that name; there are mlp, cnn-small' $fashion $out --student resnet18
    refused 'let its last layer be dense 10' $fashion $out --student 'dense 9'
    refused 'but the images are 1x28x28' $fashion $out --teacher '3x32x32: dense 10'
    refused "the teacher's class 0 is \"Ankle-boot\", but that of the images is \"a\"" "$work/two_classes" $out --size 28 --student 'dense 2' $one_setting --teacher "$work/ours.safetensors"
    refused 'cut.safetensors' $fashion $out --teacher "$work/cut.safetensors"
    refused 'nothing.safetensors' $fashion $out --teacher "$work/nothing.safetensors"
    refused 'shape (12, 2), a row for each image of the folder, which is split with them, but it has (5, 2)' "$work/two_classes" $out --student 'dense 2' --teacher "$work/short.npy"
    refused '--mean and --std go together' $fashion $out --mean 0.5
    refused 'take one number for grey images, got 3 and 1' $fashion $out --mean 0.5,0.5,0.5 --std 0.2
    refused '--std must be 1e-06 to' $fashion $out --mean 0.5 --std 0
    refused 'says how its images were normalised' $fashion $out --teacher "$work/ours.safetensors" --mean 0.5 --std 0.2
    refused '--teacher-weights goes with a model line' $fashion $out --teacher "$work/ours.safetensors" --teacher-weights x
    refused '--teacher-weights goes with a model line' $fashion $out --teacher-weights x
    refused 'write it with safetensors.torch.save_file' $fashion $out --teacher 'dense 10' --teacher-weights "$work/teacher.pt"
    refused 'write it with safetensors.torch.save_file' $fashion $out --teacher "$work/teacher.pt"
    # what a file is shows before any image is read
    refused 'is no safetensors file but of torch.save; write it with' "$work/missing" $out --teacher "$work/teacher.pt"
    refused "of a checkpoint its ['model'] or ['state_dict'], of a whole module its .state_dict(); kept logits are" "$work/missing" $out --teacher "$work/teacher.pt"
    refused "the teacher's logits: kd_npy_read: " "$work/missing" $out --teacher "$work/teacher.npz"
    refused "npz.npy\" is no valid .npz file: it has no directory at its end; is it cut off?" "$work/missing" $out --teacher "$work/npz.npy"
    refused 'there is no file' "$work/missing" $out --teacher "$work/none.npz:logits"
    refused 'is no valid ONNX file: it is cut off' "$work/missing" $out --teacher "$work/teacher.onnx"
    refused 'is no safetensors file but HDF5' "$work/missing" $out --teacher 'dense 10' --teacher-weights "$work/teacher.h5"
    refused 'is no .npy file but safetensors; write its logits' "$work/missing" $out --teacher "$work/short.npy" --teacher-test "$work/bare.safetensors"
    refused 'is no safetensors file but one array' "$work/missing" $out --teacher 'dense 10' --teacher-weights "$work/short.npy"
    refused 'there is no file nowhere.pth' "$work/missing" $out --teacher nowhere.pth
    refused '--teacher-names goes with a .npy' "$work/missing" $out --teacher 'dense 10' --teacher-names x
    refused '--teacher-check goes with a teacher that has weights' "$work/missing" $out --teacher 'dense 10' --teacher-check x
    refused '--teacher-columns goes with a teacher from elsewhere' "$work/missing" $out --teacher 'dense 10' --teacher-columns 1
    refused 'has a model line of its own' $fashion $out --teacher "$teacher" --teacher-weights "$work/ours.safetensors"
    refused '--teacher "SPEC" --teacher-weights' $fashion $out --teacher "$work/bare.safetensors"
    refused "the student's training" $fashion $out --teacher-augment none --augment shift=40
    refused "the teacher's training" $fashion $out --teacher-augment shift=40
    refused "loss dkd needs at least 3 columns, got 2" "$work/two_classes" $out --student 'dense 2' --teacher 'dense 2' --loss dkd
    refused 'NaN' "$work/two_classes" $out --student 'dense 2' $one_setting --teacher "$work/nan.npy"
    refused '--augment needs a teacher that can be run' "$work/two_classes" $out --student 'dense 2' --teacher "$work/nan.npy" --augment flip
    refused 'the output folder' $fashion --out "$work/a_file/inside"
    refused 'nothing can be written' $fashion --out "$work/a_file"
}

# more views than a cache has: the teacher runs beside its students
timeout 1 "$distill" "$work/two_classes" --size 8 --teacher 'dense 2' --student 'dense 2' --teacher-epochs 1 --epochs 70000 \
    --augment flip --threads 1 $one_setting --out "$work/two" >"$work/said" 2>"$work/stderr"
check 'more epochs than a cache has views' test $? = 124

# ---- images as the teacher saw them --------------------------------------------------------------------------------
for class in a b; do
    mkdir -p "$work/wide_photos/$class"
    for i in 1 2 3 4 5 6; do
        { printf 'P5 16 8 255\n'; tail -c +"$((100 * i + 7 * $(printf %d "'$class")))" kd.h | head -c 128; } >"$work/wide_photos/$class/$i.pgm"
    done
done
{ printf 'P5 8 8 255\n'; head -c 16 /dev/zero; i=0; while [ $i -lt 32 ]; do printf '\144'; i=$((i + 1)); done; head -c 16 /dev/zero; } >"$work/padded.pgm"
{ printf 'P5 16 8 255\n'; i=0; while [ $i -lt 128 ]; do printf '\144'; i=$((i + 1)); done; } >"$work/plain.pgm"
tiny='--size 8 --channels 1 --epochs 1 --teacher-epochs 1 --seeds 1 --threads 1 --ensemble no --augment none'
# framed OUT ARGUMENTS...
# shellcheck disable=SC2086
framed() { out=$1 && shift && "$distill" "$work/wide_photos" $tiny $one_setting --student 'dense 2' --out "$work/$out" "$@" >"$work/said"; }
check 'images that are padded' framed padded --teacher 'dense 3, relu, dense 2' --resize pad
check 'are counted' grep -q 'note: 12 images were brought to this size, with the colour 0,0,0 beside them' "$work/said"
for model in teacher student; do
    check "the $model knows it" grep -q '"kd.framing":"pad=0,0,0"' "$work/padded/$model.safetensors"
    check "classify, $model" "$build/classify" "$work/padded/$model.safetensors" --force --logits "$work/a.npy" "$work/plain.pgm"
    check "classify, $model, padded before" "$build/classify" "$work/padded/$model.safetensors" --force --logits "$work/b.npy" "$work/padded.pgm"
    check "the $model is shown the same" cmp "$work/a.npy" "$work/b.npy"
    check "classify, $model, otherwise" "$build/classify" "$work/padded/$model.safetensors" --force --logits "$work/b.npy" --resize crop "$work/plain.pgm"
    check "the $model can be shown something else" sh -c "! cmp -s '$work/a.npy' '$work/b.npy'"
done
check 'so is what comes of a teacher that knows it' framed after --teacher "$work/padded/teacher.safetensors" --teacher-unchecked
check 'it is said' grep -q 'note: images are brought to their size as .*padded/teacher.safetensors says: pad=0,0,0' "$work/said"
check 'and kept' grep -q '"kd.framing":"pad=0,0,0"' "$work/after/student.safetensors"
check 'the same may be given' framed after --teacher "$work/padded/teacher.safetensors" --teacher-unchecked --fit pad
check 'the colour of the mean' framed mean --teacher 'dense 3, relu, dense 2' --resize pad=mean
grep -ao '"kd.framing":"pad=[0-9,]*"' "$work/mean/student.safetensors" >"$work/colour"
check 'is a grey' grep -q '=\([1-9][0-9]*\),\1,\1"' "$work/colour"
check 'that is said' grep -q "with the colour $(sed 's/.*=//; s/"//' "$work/colour") beside them" "$work/said"
check 'and the same of a teacher that knows it' framed after --teacher "$work/mean/teacher.safetensors" --teacher-unchecked
check 'in its student' grep -qF "$(cat "$work/colour")" "$work/after/student.safetensors"
check 'classify, a mean' "$build/classify" "$work/padded/teacher.safetensors" --force --logits "$work/b.npy" --resize pad=mean "$work/plain.pgm"
check 'shows something else than black' sh -c "! cmp -s '$work/a.npy' '$work/b.npy'"
sed 's/kd\.mean/xx.mean/; s/kd\.std/xx.std/; s/kd\.checksum/xx.checksum/g' "$work/padded/student.safetensors" >"$work/strange.safetensors"
check 'a mean that is not known' sh -c "! '$build/classify' '$work/strange.safetensors' --resize pad=mean '$work/plain.pgm' 2>'$work/stderr'"
check 'is told' grep -q 'pad=mean is the colour of the mean of the model' "$work/stderr"
check 'edges' framed edges --teacher 'dense 3, relu, dense 2' --resize 10 --exif
check 'are kept' grep -q '"kd.framing":"crop=10 exif"' "$work/edges/student.safetensors"
check 'as a word for --fit, beside a budget' framed edges --teacher 'dense 3, relu, dense 2' --fit 4KB --fit stretch --validation 0.2 --list-layers --student ''
check 'is stretched' grep -q 'stretched where they are no squares' "$work/said"
check 'what is usual' framed usual --teacher 'dense 3, relu, dense 2'
check 'is kept' grep -q '"kd.framing":"crop"' "$work/usual/student.safetensors"
# shellcheck disable=SC2086
{
    refused 'says that its images were brought to their size by "pad=0,0,0", and here it is "crop=10"' "$work/wide_photos" $tiny $one_setting \
        --student 'dense 2' --teacher "$work/padded/teacher.safetensors" --resize 10 --out "$work/out"
    refused 'and here it is "crop exif"' "$work/wide_photos" $tiny $one_setting \
        --student 'dense 2' --teacher "$work/padded/teacher.safetensors" --exif --out "$work/out"
    refused 'and here it is "pad=0,0,0"; without --resize' "$work/wide_photos" $tiny $one_setting --student 'dense 2' \
        --teacher "$work/padded/teacher.safetensors" --teacher "$work/usual/teacher.safetensors" --out "$work/out"
    refused '--resize takes crop, stretch, pad, pad=R,G,B, pad=mean or the pixels of the shorter edge, got "squeeze"' "$work/wide_photos" --resize squeeze --out "$work/out"
    refused 'an edge of 7 is too short to cut 8x8 out of the images' "$work/wide_photos" $tiny --student 'dense 2' --resize 7 --out "$work/out"
    refused '--resize is about pixels, which texts do not have' examples/data/banking77 --resize pad --out "$work/out"
    refused '--exif is about pixels, which texts do not have' examples/data/banking77 --exif --out "$work/out"
}
sed 's/pad=0,0,0/bad=0,0,0/; s/kd\.checksum/xx.checksum/g' "$work/padded/student.safetensors" >"$work/strange.safetensors"
check 'words that are not known' sh -c "! '$build/classify' '$work/strange.safetensors' '$work/plain.pgm' 2>'$work/stderr'"
check 'are named' grep -q 'by "bad=0,0,0", which is not known here' "$work/stderr"
check 'or asked for' sh -c "! '$build/classify' '$work/padded/student.safetensors' --resize 1,2 '$work/plain.pgm' 2>'$work/stderr'"
check 'are refused' grep -q 'classify: --resize takes crop, stretch, pad' "$work/stderr"

# ---- a budget in, a student out ------------------------------------------------------------------------------------
small='--temperature 2 --alpha 0.9 --lr 0.004 --weight-decay 0 --augment none --validation 0.2 --limit 10 --epochs 2 --teacher-epochs 1 --seeds 1 --threads 1 --batch 16'
# shellcheck disable=SC2086
check 'a student that fits' "$distill" $fashion $small --teacher "$teacher" --fit 4KB --fit-ram 2KB --fit-macs 100K \
    --search-minutes 0.01 --beside "$student" --out "$work/fit"
chosen=$(sed -n 's/.*"student": {"spec": "\([^"]*\)".*/\1/p' "$work/fit/metrics.json")
check 'is the first of its candidates' sh -c "grep -A1 '\"fit\": {\"flash\": 4096, \"ram\": 2048, \"macs\": 100000, \"candidates\"' '$work/fit/metrics.json' | grep -qF '\"spec\": \"$chosen\"'"
# most NAME LIMIT: no candidate has more
most() { test "$(sed '/"beside"/,$d' "$work/fit/metrics.json" | grep -o "\"family\".*\"$1\": [0-9]*" | sed 's/.* //' | sort -n | tail -1)" -le "$2"; }
check 'all fit in flash' most flash 4096
check 'in RAM' most ram 2048
check 'and in multiply-adds' most macs 100000
check 'of several families' test "$(grep -o '"family": "[a-z]*"' "$work/fit/metrics.json" | sort -u | wc -l)" = 3
check 'those that were tried have an accuracy' grep -q '"epochs": [1-9], "held_out_accuracy": 0' "$work/fit/metrics.json"
check 'the report shows them' grep -q 'Students that fit: accuracy by size' "$work/fit/report.html"
check 'and which was chosen' test "$(grep -o ' epochs; chosen' "$work/fit/report.html" | wc -l)" = 1
check 'another is tested beside it' grep -A1 '"beside": \[' "$work/fit/metrics.json"
# shellcheck disable=SC2086
check 'a student that is pruned' "$distill" $fashion $small --teacher "$teacher" --prune 0.5 \
    --student 'conv 8 3, batchnorm, relu, residual(conv 8 3 pad=1, batchnorm), gap, dense 10' --out "$work/pruned"
check 'has half of the channels' grep -q '"student": {"spec": "1x28x28: conv 4 3, batchnorm, relu, residual(conv 4 3 pad=1, batchnorm), gap, dense 10"' "$work/pruned/metrics.json"
check 'is one more way' grep -q '"student_pruned": {"accuracy_mean"' "$work/pruned/metrics.json"
check 'is compared' grep -q '"pruned": {"larger": "1x28x28: conv 8 3.*"gain_over_distilled": [-0-9.]*, "gain_error"' "$work/pruned/metrics.json"
refused '--fit takes a number of bytes such as 64KB or 0.5MB, got "small"' $fashion --out "$work/out" --fit small
refused '--fit-ram takes a number of bytes' $fashion --out "$work/out" --fit-ram -4KB
refused '--fit-macs takes a number such as 500K or 5M, got "5MB"' $fashion --out "$work/out" --fit-macs 5MB
refused '--fit chooses the student: leave out --student' $fashion --out "$work/out" --fit 64KB --student "$student"
refused '--fit tries students whose layers' $fashion --out "$work/out" --fit 64KB --feature 'hint stage1=stage1'
refused 'no student fits; the smallest of those that are tried needs' $fashion --limit 12 --out "$work/out" --fit 300
refused 'none are held out' $fashion --limit 12 --validation 0 --out "$work/out" --fit 64KB
refused 'give one of them' $fashion --limit 12 --out "$work/out" --fit 64KB --prune 0.5
refused '--prune must be 0 to 0.95' $fashion --out "$work/out" --prune 1
refused 'no layer has channels that may go' $fashion --limit 12 --out "$work/out" --prune 0.5 --student 'dense 10'
refused 'the student of --beside has 3 outputs' $fashion --limit 12 --out "$work/out" --beside 'dense 3'

# ---- what the report says ------------------------------------------------------------------------------------------
# a teacher of which only logits are known: 2 and 1 for every image, half of which are of the first class
for class in a b; do
    mkdir -p "$work/parted/train/$class" "$work/parted/test/$class"
    cp "$work/two_classes/$class/"[1-5].png "$work/parted/train/$class"
    cp "$work/two_classes/$class/6.png" "$work/parted/test/$class"
done
npy "$work/train.npy" 10 2 '\000\000\000\100\000\000\200\077'
npy "$work/test.npy" 2 2 '\000\000\000\100\000\000\200\077'
# shellcheck disable=SC2086
refused 'a file of logits has no layers' "$work/parted" $one_setting --teacher-unchecked --student 'dense 2' --teacher "$work/train.npy" --feature 'hint 0' --out "$work/out"
run_logits()
{
    # shellcheck disable=SC2086
    "$distill" "$work/parted" --student 'dense 2' $one_setting --teacher "$work/train.npy" --teacher-unchecked --epochs 2 \
        --threads 1 --out "$work/logits" "$@"
}
report=$work/logits/report.html
check 'logits for the test images' run_logits --teacher-test "$work/test.npy" --seed 40 --seeds 2
check 'are tested' grep -q '"accuracy": 0.500000, "nll": 0.813262, "ece": 0.231059' "$work/logits/metrics.json"
check 'a teacher that is no better is warned of' grep -q 'class="note">The teacher is not better than the student on the test images: 50.00 % and' "$report"
check 'class by class' grep -q '<th scope="row">a</th><td>1</td><td>0.0</td>' "$report"
check 'class by class' grep -q '<th scope="row">b</th><td>1</td><td>100.0</td>' "$report"
check 'seeds have their numbers' sh -c "grep -q '>40</text>' '$report' && grep -q '>41</text>' '$report'"
check 'logits for the training images only' run_logits --seeds 1
check 'one seed' grep -q "lead\">Distillation changed the student's accuracy" "$report"
# a path of bytes that are no UTF-8 is none in the results, either
latin=$work/$(printf 'caf\351')
mv "$work/two_classes" "$latin"
# shellcheck disable=SC2086
check 'a path in Latin-1' "$distill" "$latin" --student 'dense 2' --teacher 'dense 2' $one_setting --teacher-epochs 1 --epochs 1 \
    --seeds 1 --threads 1 --out "$work/logits"
mv "$latin" "$work/two_classes"
check 'is shown in metrics.json' grep -q "$(printf 'caf\357\277\275')\"" "$work/logits/metrics.json"
check 'and in the report' grep -q "$(printf 'caf\357\277\275')<" "$report"
if command -v iconv >/dev/null; then
    check 'all of metrics.json is UTF-8' iconv -f UTF-8 -t UTF-16 "$work/logits/metrics.json"
    check 'all of the report is UTF-8' iconv -f UTF-8 -t UTF-16 "$report"
fi
check 'even classes: nothing is said of it' sh -c "! grep -q uneven '$work/said'"
mkdir -p "$work/uneven/a" "$work/uneven/b"
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do cp examples/data/samples/Bag.png "$work/uneven/a/$i.png"; done
for i in 1 2; do cp examples/data/samples/Coat.png "$work/uneven/b/$i.png"; done
# shellcheck disable=SC2086
check 'uneven classes' sh -c "'$distill' '$work/uneven' --student 'dense 2' --teacher 'dense 2' $one_setting --teacher-epochs 1 --epochs 1 --seeds 1 --threads 1 --out '$work/logits' >'$work/said'"
check 'are noted' grep -q 'very uneven: "a" has 12 images to learn from, "b" [12];.* With --class-weights auto they count alike' "$work/said"
check 'weighed' sh -c "'$distill' '$work/uneven' --student 'dense 2' --teacher 'dense 2' $one_setting --class-weights auto --teacher-epochs 1 --epochs 1 --seeds 1 --threads 1 --out '$work/weighed' >'$work/said'"
check 'it says so' grep -q '^Mean of the accuracies by class, which counts classes alike: alone [0-9.]* %, distilled [0-9.]* %$' "$work/said"
check 'and there are other students' sh -c "! cmp '$work/weighed/student.safetensors' '$work/logits/student.safetensors'"
check 'the report says so' grep -q '<dt>class weights</dt>' "$work/weighed/report.html"
check 'metrics.json counts classes alike' grep -q '"student_alone": .*"balanced_accuracy": [01]\.[0-9]*' "$work/weighed/metrics.json"
# folds: all of it several times, whose results are joined
folded() { "$distill" examples/data/fashion/train $one_setting --limit 10 --student 'dense 10' --teacher 'dense 10' --teacher-epochs 2 --epochs 2 --seeds 1 --threads 1 --folds 3 --out "$work/folds" "$@"; }
folded >"$work/said"
check 'folds are joined' grep -q '^Over 3 folds, in which every image was tested once, distilling changed the accuracy by [+-]' "$work/said"
check 'each has a report' test -s "$work/folds/fold-3/report.html"
check 'folds.json has every fold' grep -q '^  "student_distilled": {"accuracy_mean": [01]\.[0-9]*, "accuracy_sd": [01]\.[0-9]*, "accuracies": \[[01]\.[0-9]*, [01]\.[0-9]*, [01]\.[0-9]*\], "gain": -*[01]\.[0-9]*, "gain_error": [01]\.[0-9]*}$' "$work/folds/folds.json"
cp "$work/folds/folds.json" "$work/folds.json"
rm -r "$work/folds/fold-2"
folded --resume >"$work/said"
check 'what is finished is not repeated' test "$(grep -c '^---- fold' "$work/said")" = 1
check 'and the rest is the same' cmp "$work/folds.json" "$work/folds/folds.json"
if folded --resume --epochs 3 >"$work/said" 2>"$work/stderr"; then fail 'folds of other options go on'; fi
check 'folds of other options: said' grep -q 'fold-1 is of a run with other options, images or version; without --resume' "$work/stderr"
check 'they stay' cmp "$work/folds.json" "$work/folds/folds.json"
check 'the number of threads is no such option' sh -c "! grep -q '^---- fold' \"\$1\"" - "$(folded --resume --threads 2 >"$work/said"; echo "$work/said")"
check 'layers of one fold' folded --list-layers
if folded --folds 12 >"$work/said" 2>"$work/stderr"; then fail 'more folds than images'; fi
check 'more folds than images: said' grep -q 'class "[A-Za-z-]*" has fewer images than the 12 folds' "$work/stderr"
# everybody right on every image: a narrow axis
# shellcheck disable=SC2086
check 'an easy task' "$distill" "$work/two_classes" --student 'dense 2' --teacher 'dense 2' $one_setting --teacher-epochs 9 \
    --epochs 9 --seeds 1 --threads 1 --out "$work/logits"
grep -o 'seed by seed.*' "$report" | sed 's,</svg>.*,,' | grep -o '[0-9.]*&#8239;%' >"$work/ticks"
check 'ticks up to 100 %' test "$(tail -1 "$work/ticks")" = '100.00&#8239;%'
check 'each once' test "$(sort "$work/ticks" | uniq -d | wc -l)" = 0

# ---- kept logits ---------------------------------------------------------------------------------------------------
# folders whose text order, 1 10 2, is not that of the numbers
for class in 1 10 2; do
    mkdir -p "$work/numbers/train/$class" "$work/numbers/test/$class"
    case $class in 1) sample=Bag ;; 10) sample=Coat ;; *) sample=Sandal ;; esac
    for i in a b c d e f; do cp "examples/data/samples/$sample.png" "$work/numbers/train/$class/$i.png"; done
    for i in a b; do cp "examples/data/samples/$sample.png" "$work/numbers/test/$class/$i.png"; done
done
r0='\000\000\200\100\000\000\000\000\000\000\000\000'
r1='\000\000\000\000\000\000\200\100\000\000\000\000'
r2='\000\000\000\000\000\000\000\000\000\000\200\100'
kept()
{
    # shellcheck disable=SC2086
    "$distill" "$work/numbers" --student 'dense 3' --teacher "$@" $one_setting --epochs 1 --seeds 1 --threads 1
}
# kept_refused TEXT FILE ARGUMENTS...: as refused, of logits
kept_refused()
{
    wanted=$1
    shift
    # shellcheck disable=SC2086
    refused "$wanted" "$work/numbers" --student 'dense 3' --teacher "$@" $one_setting --epochs 1 --seeds 1 --threads 1 --out "$work/out"
}
npy_of "$work/good.npy" 3 $r0 $r0 $r0 $r0 $r0 $r0 $r1 $r1 $r1 $r1 $r1 $r1 $r2 $r2 $r2 $r2 $r2 $r2
npy_of "$work/natural.npy" 3 $r0 $r0 $r0 $r0 $r0 $r0 $r2 $r2 $r2 $r2 $r2 $r2 $r1 $r1 $r1 $r1 $r1 $r1
npy_of "$work/swap.npy" 3 $r1 $r1 $r1 $r1 $r1 $r1 $r0 $r0 $r0 $r0 $r0 $r0 $r2 $r2 $r2 $r2 $r2 $r2
npy_of "$work/shuffled.npy" 3 $r0 $r1 $r2 $r0 $r1 $r2 $r0 $r1 $r2 $r0 $r1 $r2 $r0 $r1 $r2 $r0 $r1 $r2
npy_of "$work/two_tests.npy" 3 $r0 $r0 $r1 $r1 $r2 $r2
p0='\000\000\000\077\000\000\200\076\000\000\200\076' # 0.5, 0.25, 0.25, and their logarithms
l0='\030\162\061\277\030\162\261\277\030\162\261\277'
l1='\030\162\261\277\030\162\061\277\030\162\261\277'
l2='\030\162\261\277\030\162\261\277\030\162\061\277'
npy "$work/probabilities.npy" 18 3 "$p0"
npy_of "$work/logs.npy" 3 $l0 $l0 $l0 $l0 $l0 $l0 $l1 $l1 $l1 $l1 $l1 $l1 $l2 $l2 $l2 $l2 $l2 $l2
check 'kept logits' sh -c "'$distill' '$work/numbers' --student 'dense 3' --teacher '$work/good.npy' $one_setting --epochs 1 --seeds 1 \
    --threads 1 --out '$work/kept' >'$work/said'"
check 'rows that nobody names have an order' grep -q "have the order of $work/kept/order.txt" "$work/said"
check 'are compared with the labels' grep -q '^The teacher gets 100.00 % of 18 training images right' "$work/said"
check 'and their order is written' test "$(cat "$work/kept/order.txt")" = "$(cd "$work/numbers" && ls train/*/*.png)"
check 'that of the test images, too' test "$(cat "$work/kept/order-test.txt")" = "$(cd "$work/numbers" && ls test/*/*.png)"
kept_refused 'look like the classes in the order 1, 2, 10 (natural order, 2 before 10); --teacher-columns 0,2,1' "$work/natural.npy"
kept_refused 'look like the classes in the order 10, 1, 2 (two of them swapped); --teacher-columns 1,0,2' "$work/swap.npy"
kept_refused 'is hardly more than chance, 33.33 %: are its rows in the order that --write-order writes' "$work/shuffled.npy"
kept_refused '(two of them swapped); --teacher-columns 1,0,2 takes them so, --teacher-unchecked as they are; if it is the rows' "$work/swap.npy"
kept_refused 'holds probabilities (every row sums to 1), not logits' "$work/probabilities.npy"
npy "$work/percent.npy" 18 3 '\000\000\110\102\000\000\310\101\000\000\310\101' # 50, 25, 25
kept_refused 'holds probabilities (every row sums to 100), not logits: save what comes before the softmax, or numpy.log(numpy.maximum(p / 100' "$work/percent.npy"
check 'unless asked' kept "$work/shuffled.npy" --teacher-unchecked --out "$work/two"
check 'columns by number' kept "$work/natural.npy" --teacher-columns 0,2,1 --out "$work/two"
check 'the same student' cmp "$work/kept/student.safetensors" "$work/two/student.safetensors"
printf '1\n2\r\n10\n\n' >"$work/columns.txt"
check 'columns by name' kept "$work/natural.npy" --teacher-columns "$work/columns.txt" --out "$work/two"
check 'the same student again' cmp "$work/kept/student.safetensors" "$work/two/student.safetensors"
kept_refused 'must be 3 numbers from 0 to 2' "$work/natural.npy" --teacher-columns 0,2,3
kept_refused 'must be 3 numbers from 0 to 2' "$work/natural.npy" --teacher-columns 0,2
kept_refused 'more numbers than there are classes' "$work/natural.npy" --teacher-columns 0,2,1,1
kept_refused 'gives "1" and "2" the same column, 0' "$work/natural.npy" --teacher-columns 0,2,0
printf '1\n2\n3\n' >"$work/columns.txt"
kept_refused 'does not name the class "10"' "$work/natural.npy" --teacher-columns "$work/columns.txt"
npy "$work/wide.npy" 18 6 "$r0$r0"
kept_refused 'say which are theirs, in the order of the folders: --teacher-columns 3,17' "$work/wide.npy"
# archives of arrays
if command -v python3 >/dev/null; then
    python3 - "$work" <<'END'
import io, json, struct, sys, zipfile
work = sys.argv[1] + "/"
def archive(name, kind=zipfile.ZIP_STORED, **arrays):
    with zipfile.ZipFile(work + name, "w", kind) as z:
        for array, data in arrays.items():
            z.writestr(array + ".npy", data)
def read(name): return open(work + name, "rb").read()
archive("one.npz", arr_0=read("good.npy"))
archive("two.npz", train=read("good.npy"), test=read("two_tests.npy"))
archive("packed.npz", zipfile.ZIP_DEFLATED, logits=read("good.npy"))
END
fi
if [ -e "$work/one.npz" ]; then
    check 'logits in an archive' kept "$work/one.npz" --out "$work/two"
    check 'the same student of it' cmp "$work/kept/student.safetensors" "$work/two/student.safetensors"
    check 'one of two arrays, and the other' kept "$work/two.npz:train" --teacher-test "$work/two.npz:test" --out "$work/two"
    check 'the same student of that' cmp "$work/kept/student.safetensors" "$work/two/student.safetensors"
    cp "$work/kept/order.txt" "$work/two.txt"
    check 'beside a list' kept "$work/two.npz:train" --out "$work/two"
    rm "$work/two.txt"
    kept_refused 'holds 2 arrays: train, test; one is chosen by its name, as in "' "$work/two.npz"
    kept_refused 'if they are weights, a model line goes with them: --teacher "SPEC" --teacher-weights' "$work/two.npz"
    kept_refused 'holds no array "tests", but train, test' "$work/two.npz:tests"
    kept_refused "is compressed, as by np.savez_compressed; np.savez does not compress: python3 -c" "$work/packed.npz"
fi
check 'logarithms of probabilities' sh -c "'$distill' '$work/numbers' --student 'dense 3' --teacher '$work/logs.npy' $one_setting --epochs 1 \
    --seeds 1 --threads 1 --out '$work/two' >'$work/said'"
check 'do as logits' grep -q 'holds logarithms of probabilities, which do as logits' "$work/said"
# rows in any order, by a list beside the array or of another name, however the paths begin
npy_of "$work/rows.npy" 3 $r2 $r2 $r2 $r2 $r2 $r2 $r1 $r1 $r1 $r1 $r1 $r1 $r0 $r0 $r0 $r0 $r0 $r0
awk '{ line[NR] = $0 } END { for (i = NR; i > 0; --i) print line[i] }' "$work/kept/order.txt" >"$work/reversed.txt"
sed 's,train/,,' "$work/reversed.txt" >"$work/short.txt"
sed 's,^,/home/me/data/,; s,/,\\,g' "$work/reversed.txt" >"$work/long.txt"
for names in reversed short long; do
    check "rows by $names names" kept "$work/rows.npy" --teacher-names "$work/$names.txt" --out "$work/two"
    check "the same student by $names names" cmp "$work/kept/student.safetensors" "$work/two/student.safetensors"
done
cp "$work/reversed.txt" "$work/rows.txt"
check 'rows by the list beside them' kept "$work/rows.npy" --out "$work/two"
check 'the same student by it' cmp "$work/kept/student.safetensors" "$work/two/student.safetensors"
check 'no order is told of rows that are named' sh -c "'$distill' '$work/numbers' --student 'dense 3' --teacher '$work/rows.npy' $one_setting --epochs 1 --seeds 1 \
    --threads 1 --out '$work/two' >'$work/said' && grep -q '^teacher   logits in .*/rows.npy\$' '$work/said'"
sed 's,.*/,,' "$work/reversed.txt" >"$work/rows.txt"
kept_refused 'the names of the rows, such as "a.png", must be paths below the folder, or end in those' "$work/rows.npy"
sed '1d' "$work/reversed.txt" >"$work/rows.txt"
kept_refused 'names 17 images, but ' "$work/rows.npy"
sed 's,2/e.png,2/f.png,' "$work/reversed.txt" >"$work/rows.txt"
kept_refused 'rows 0 and 1 are both about' "$work/rows.npy"
sed 's,2/e.png,2/x.png,' "$work/reversed.txt" >"$work/rows.txt"
kept_refused 'has no row for 1 of the 18 training images, such as train/2/e.png' "$work/rows.npy"
# rows in natural order, which no order of columns explains away: four classes, 1 10 2 3
for part in train test; do mkdir -p "$work/four/$part"; cp -r "$work/numbers/$part/1" "$work/numbers/$part/10" "$work/numbers/$part/2" "$work/four/$part"; done
for part in train test; do cp -r "$work/numbers/$part/1" "$work/four/$part/3"; done
f0="$r0\\000\\000\\000\\000" f1="$r1\\000\\000\\000\\000" f2="$r2\\000\\000\\000\\000" f3='\000\000\000\000\000\000\000\000\000\000\000\000\000\000\200\100'
npy_of "$work/four.npy" 4 $f0 $f0 $f0 $f0 $f0 $f0 $f2 $f2 $f2 $f2 $f2 $f2 $f3 $f3 $f3 $f3 $f3 $f3 $f1 $f1 $f1 $f1 $f1 $f1
refused 'its rows look like the images in natural order, 2 before 10; name them' "$work/four" --student 'dense 4' --teacher "$work/four.npy" \
    --temperature 2 --alpha 0.5 --validation 0 --epochs 1 --seeds 1 --threads 1 --out "$work/out"
# one folder: a row for every image, split as they are
npy_of "$work/flat.npy" 2 "${r0%????????????????}" "${r0%????????????????}" "${r0%????????????????}" "${r0%????????????????}" \
    "${r0%????????????????}" "${r0%????????????????}" "${r1%????????????????}" "${r1%????????????????}" "${r1%????????????????}" \
    "${r1%????????????????}" "${r1%????????????????}" "${r1%????????????????}"
# shellcheck disable=SC2086
check 'logits of one folder' "$distill" "$work/two_classes" --student 'dense 2' --teacher "$work/flat.npy" $one_setting --epochs 1 \
    --seeds 1 --threads 1 --out "$work/flat"
check 'go with the images' grep -q '"teacher": {"accuracy": 1.000000' "$work/flat/metrics.json"
check 'in one order' test "$(cat "$work/flat/order.txt")" = "$(cd "$work/two_classes" && ls ./*/*.png | sed 's,^\./,,')"
check 'alone' "$distill" "$work/two_classes" --write-order --out "$work/order"
check 'a folder in folders that are not there yet' sh -c "'$distill' '$work/numbers' --write-order --out '$work/new/a/b' >'$work/said' && test -s '$work/new/a/b/order.txt'"
check 'both files are spoken of' grep -q "a/b/order.txt says which image each row of --teacher is about, .*a/b/order-test.txt of --teacher-test" "$work/said"
check 'nothing is left of folders for nothing' sh -c "! '$distill' '$work/numbers' --student 'dense 99' --out '$work/newer/a/b' 2>'$work/stderr' && ! test -e '$work/newer'"
check 'it is the only file' test "$(ls "$work/order")" = order.txt
check 'the same' cmp "$work/order/order.txt" "$work/flat/order.txt"

# ---- a model line that is to be a network from elsewhere -------------------------------------------------------------
"$work/models" '1x28x28: flatten, dense 5' "$work/five.safetensors"
"$work/models" '1x28x28: flatten, dense 6, relu, dense 5' "$work/other.safetensors"
check 'logits kept by classify' "$build/classify" "$work/five.safetensors" --logits "$work/five.npy" "$work/numbers"/test/*/*.png
check 'and the names' test "$(cat "$work/five.txt")" = "$(ls "$work/numbers"/test/*/*.png)"
check 'are not replaced' sh -c "! '$build/classify' '$work/five.safetensors' --logits '$work/five.npy' '$work/numbers/test/1/a.png' 2>'$work/stderr'"
check 'and it says so' grep -q 'is there; give another name, or --force' "$work/stderr"
check 'nor is the model' sh -c "! '$build/classify' '$work/five.safetensors' --force --logits '$work/five.safetensors' '$work/numbers/test/1/a.png' 2>'$work/stderr'"
check 'which is read' grep -q 'five.safetensors is read, and' "$work/stderr"
check 'five outputs, three of them classes' sh -c "'$distill' '$work/numbers' --student 'dense 3' --teacher '$work/five.safetensors' \
    --teacher-columns 4,0,2 --teacher-check '$work/five.npy' --teacher-unchecked $one_setting --epochs 1 --seeds 1 --threads 1 \
    --mean 0 --std 1 --out '$work/five' >'$work/said'"
if command -v python3 >/dev/null; then # the same as arrays
    python3 - "$work" <<'END'
import json, struct, sys, zipfile
work = sys.argv[1] + "/"
data = open(work + "five.safetensors", "rb").read()
length, = struct.unpack("<Q", data[:8])
with zipfile.ZipFile(work + "five.npz", "w") as z, zipfile.ZipFile(work + "check.npz", "w") as check:
    for name, t in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        head = ("{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}\n" % "".join("%d," % n for n in t["shape"])).encode()
        begin, end = (8 + length + i for i in t["data_offsets"])
        z.writestr(name + ".npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + data[begin:end])
    check.writestr("logits.npy", open(work + "five.npy", "rb").read())
END
    check 'weights in an archive' sh -c "'$distill' '$work/numbers' --student 'dense 3' --teacher '1x28x28: flatten, dense 5' \
        --teacher-weights '$work/five.npz' --teacher-columns 4,0,2 --teacher-check '$work/check.npz' --teacher-unchecked $one_setting --epochs 1 \
        --seeds 1 --threads 1 --mean 0 --std 1 --out '$work/five-npz' >'$work/said.npz'"
    check 'are those of the network, too' grep -q '^6 of 6 choices are the same' "$work/said.npz"
    check 'and teach the same' cmp "$work/five/student.safetensors" "$work/five-npz/student.safetensors"
    refused 'has no tensor "1.weight"' "$work/numbers" --student 'dense 3' --teacher '1x28x28: flatten, dense 5' --teacher-weights "$work/check.npz" \
        --teacher-columns 4,0,2 --out "$work/out"
fi
check 'are those of the network' grep -q '^The teacher.s logits are at most [0-9.e-]* from those of .*whose largest is' "$work/said"
check 'in every choice' grep -q '^6 of 6 choices are the same' "$work/said"
# a random network knows nothing, which is told first; that it is another one, where its labels fit
# shellcheck disable=SC2086
refused 'were its images normalised like these' "$work/numbers" --student 'dense 3' --teacher "$work/other.safetensors" --teacher-columns 4,0,2 \
    $one_setting --mean 900 --std 0.001 --threads 1 --out "$work/out"
check 'a teacher for three' "$distill" "$work/numbers" --student 'dense 3' --teacher 'dense 3' $one_setting --teacher-epochs 60 --epochs 1 \
    --seeds 1 --threads 1 --out "$work/three"
check 'its logits' "$build/classify" "$work/three/teacher.safetensors" --logits "$work/three.npy" "$work/numbers"/test/*/*.png
mv "$work/three.npy" "$work/blind.npy" # without its names: in the order of the test images, as before
npy "$work/nobody.npy" 6 3 "$r0"
check 'the same pixels, the same logits: decoders have no say' sh -c "! grep -q 'decoder of JPEG' '$work/said'"
check 'they are its own' kept "$work/three/teacher.safetensors" --teacher-check "$work/blind.npy" --out "$work/two"
kept_refused 'the teacher is not the network of' "$work/three/teacher.safetensors" --teacher-check "$work/nobody.npy"

# ---- files of others -------------------------------------------------------------------------------------------------
mkdir -p "$work/theirs" "$work/mine"
cp "$tensors" "$work/theirs/teacher.safetensors"
# shellcheck disable=SC2086
refused 'teacher.safetensors is read, and' $fashion $quick --teacher "$teacher" --teacher-weights "$work/theirs/teacher.safetensors" --out "$work/theirs"
check 'it is as it was' cmp "$tensors" "$work/theirs/teacher.safetensors"
echo mine >"$work/mine/report.html"
# shellcheck disable=SC2086
refused 'report.html is there, and not from a run of distill; give another --out, or --force' "$work/two_classes" --student 'dense 2' \
    --teacher 'dense 2' $one_setting --out "$work/mine"
check 'that is as it was' grep -qx mine "$work/mine/report.html"
# shellcheck disable=SC2086
check 'unless forced' "$distill" "$work/two_classes" --student 'dense 2' --teacher 'dense 2' $one_setting --teacher-epochs 1 --epochs 1 --seeds 1 \
    --threads 1 --out "$work/mine" --force
cp "$work/reversed.txt" "$work/kept/order.txt" # a list of somebody's, where distill writes its own
check 'a list that is read is not replaced' sh -c "! '$distill' '$work/numbers' --student 'dense 3' --teacher '$work/rows.npy' --teacher-names '$work/kept/order.txt' \
    $one_setting --epochs 1 --seeds 1 --threads 1 --out '$work/kept' >'$work/said' 2>'$work/stderr'"
check 'and that is said' grep -q 'order.txt is read, and .* would replace it' "$work/stderr"
check 'it is as it was, too' cmp "$work/reversed.txt" "$work/kept/order.txt"
check 'results beside the classes' sh -c "cp -r '$work/two_classes' '$work/beside' && cd '$work/beside' && for i in 1 2; do
    '$distill' . --student 'dense 2' --teacher 'dense 2' $one_setting --teacher-epochs 1 --epochs 1 --seeds 1 --threads 1 >'$work/said' || exit 1; done"
check 'are no class' grep -q '2 classes' "$work/said"
check 'the test images are said to be taken out' grep -q 'no folder is for testing: 20 % of each class is kept for that' "$work/said"
check 'one seed is no mean' sh -c "'$distill' '$work/two_classes' --student 'dense 2' --teacher 'dense 2' --validation 0.3 --teacher-epochs 1 --epochs 1 --seeds 1 --threads 1 \
    --out '$work/mine' >'$work/said' && grep -q '^  distilled  held-out accuracy [0-9.]* %, 1 seed ' '$work/said'"
# shellcheck disable=SC2086
check 'what a run has written another replaces' "$distill" "$work/two_classes" --student 'dense 2' --teacher 'dense 2' $one_setting \
    --teacher-epochs 1 --epochs 1 --seeds 1 --threads 1 --out "$work/mine"
refused 'the images are in' "$work/two_classes" --out "$work/two_classes"

# ---- Ctrl-C --------------------------------------------------------------------------------------------------------
: >"$work/stdout" # what an earlier one said there would be taken for its own
"$distill" $fashion --teacher-epochs 1000 --threads 1 --out "$work/stopped" >"$work/stdout" 2>"$work/stderr" &
pid=$!
i=0
while [ $i -lt 600 ] && ! grep -q 'epoch  1' "$work/stdout"; do
    sleep 0.1
    i=$((i + 1))
done
kill -INT $pid
wait $pid
check 'Ctrl-C ends with 130' test $? = 130
check 'Ctrl-C leaves a model' test -s "$work/stopped/checkpoint.safetensors"
check 'which distill takes' "$distill" $fashion --limit 20 --epochs 1 --seeds 1 --trials 1 --threads 1 \
    --teacher "$work/stopped/checkpoint.safetensors" --teacher-unchecked --out "$work/again"

# ---- resumed: what was done before is said to be -------------------------------------------------------------------
many() # in a shell of its own, which it replaces: a signal is for distill
{
    exec "$distill" $fashion --limit 20 --epochs 200 --teacher-epochs 1 --seeds 2 --trials 1 --threads 1 --augment none \
        --student 'dense 10' --teacher 'dense 10' --temperature 2 --alpha 0.5 --lr 0.002 --weight-decay 0 \
        --out "$work/many" "$@"
}
: >"$work/stdout"
many >"$work/stdout" 2>"$work/stderr" &
pid=$!
i=0
while [ $i -lt 6000 ] && ! grep -q '^  alone .* seeds ' "$work/stdout"; do
    sleep 0.01
    i=$((i + 1))
done
kill -INT $pid
wait $pid
(many --resume) >"$work/said" 2>"$work/stderr"
check 'what the run before did has no speed' grep -q '^  alone .* seeds   from the run before$' "$work/said"
check 'what this run did has one' grep -q '^  distilled .* 2 seeds .*images/s' "$work/said"
check 'none goes at 0 images/s' sh -c "! grep -q ' 0 images/s' '$work/said'"
(many --resume) >"$work/said" 2>"$work/stderr"
check 'nothing to resume: said' grep -q "^note: there is nothing to resume in $work/many" "$work/said"

# ---- stopped and resumed -------------------------------------------------------------------------------------------
# the same metrics as a run that nobody stopped, but for the times
metrics() { grep -v 'latency_us\|"seconds"' "$1/metrics.json"; }
long="$fashion --limit 60 --teacher-epochs 6 --epochs 6 --seeds 2 --trials 1 --threads 1 --augment flip"
check 'a run that nobody stops' "$distill" $long --out "$work/whole"
for signal in INT KILL; do
    resume=
    for pause in 0.3 0.7 1.2; do
        "$distill" $long --out "$work/parts" $resume >"$work/stdout" 2>"$work/stderr" &
        pid=$!
        sleep $pause
        kill -$signal $pid 2>"$work/kill"
        wait $pid 2>"$work/kill"
        resume=--resume
    done
    check "stopped by $signal, resumed" "$distill" $long --out "$work/parts" --resume
    check "stopped by $signal, the same metrics" test "$(metrics "$work/parts")" = "$(metrics "$work/whole")"
    check "stopped by $signal, the same student" cmp "$work/parts/student.safetensors" "$work/whole/student.safetensors"
    check 'no checkpoints are left' test ! -e "$work/parts/resume"
done
# what losses on features have learnt for themselves is in their checkpoints, and so is each of several teachers
stopped_at()
{
    begun=$1
    shift
    check "$*, not stopped" several "$@" --limit 60 --out "$work/unbroken"
    : >"$work/stdout"
    begin=exec
    several "$@" --limit 60 --out "$work/parts" >"$work/stdout" 2>"$work/stderr" &
    pid=$!
    begin=
    i=0
    while [ $i -lt 600 ] && kill -0 $pid 2>"$work/kill" && ! grep -q "$begun" "$work/stdout"; do
        sleep 0.05
        i=$((i + 1))
    done
    kill -INT $pid 2>"$work/kill"
    wait $pid
    check "$*, resumed" several "$@" --limit 60 --out "$work/parts" --resume
    check "$*, the same student" cmp "$work/parts/student.safetensors" "$work/unbroken/student.safetensors"
    check "$*, the same metrics" test "$(metrics "$work/parts")" = "$(metrics "$work/unbroken")"
}
stopped_at '^  distilled' --epochs 40 --loss kl+0.5*dist --feature 'hint low weight=1'
stopped_at '^  distilled' --epochs 40 --ensemble yes
stopped_at 'epoch 40 of 40' --epochs 2 --teachers 2 --teacher-epochs 40
stopped_at '^  smoothed .*1 seed' --epochs 60 --mutual
stopped_at '^  distilled .*1 seed' --epochs 60 --born-again 2 --assistant 'dense 9, relu, dense 10'
"$distill" $long --out "$work/parts" >"$work/stdout" 2>"$work/stderr" &
pid=$!
sleep 1
kill -INT $pid
wait $pid
# no other options, whether they have a say in the weights or only in how long there is training; nothing is changed
not_resumed()
{
    wanted=$1
    shift
    before=$(cd "$work/parts/resume" && cksum -- *)
    if "$distill" "$@" --out "$work/parts" --resume >"$work/stdout" 2>"$work/stderr"; then
        fail "resumed with $*"
    fi
    check "$*: refused in a line" test "$(wc -l <"$work/stderr")" = 1
    check "$*: which says $wanted" grep -qF -- "$wanted" "$work/stderr"
    check "$*: and changes nothing" test "$before" = "$(cd "$work/parts/resume" && cksum -- *)"
}
not_resumed '--seed "1", this one "9"' $long --seed 9
not_resumed '--teacher-epochs "6", this one "9"' $long --teacher-epochs 9
not_resumed '--epochs "6", this one "7"' $long --epochs 7
not_resumed '--lr "0.004,0.01", this one "0.0025"' $long --lr 0.0025
not_resumed 'this one "scalar"' $long --isa scalar
not_resumed '--temperature "4,2", this one "2.7"' $long --temperature 2.7
not_resumed '--feature "", this one "hint stage1;at stage2"' $long --feature 'hint stage1' --feature 'at stage2'
mkdir "$work/swapped"
ln -s "$PWD/$fashion/test" "$work/swapped/train"
ln -s "$PWD/$fashion/train" "$work/swapped/test"
not_resumed 'belongs to a training with' "$work/swapped" ${long#* }
check 'nor is it spoilt' "$distill" $long --out "$work/parts" --resume
check 'but the same run' test "$(metrics "$work/parts")" = "$(metrics "$work/whole")"

echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
