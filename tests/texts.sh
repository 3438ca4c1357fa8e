#!/bin/sh
# What people do with distill and classify when they have texts: tables of every make, rows that cannot be used, a whole
# run. usage: tests/texts.sh BUILD_FOLDER
build=$(cd "${1:-build}" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
checks=0
failures=0
distill=$build/distill

fail()
{
    failures=$((failures + 1))
    echo "FAILED: $*"
}

check()
{
    checks=$((checks + 1))
    what=$1
    shift
    "$@" >"$work/check" 2>&1 || fail "$what: $(head -5 "$work/check")"
}

# refused TEXT ARGUMENTS...: fails with one line on stderr that has TEXT in it, before anything is trained
refused()
{
    wanted=$1
    shift
    checks=$((checks + 1))
    if "$distill" "$@" --threads 1 --out "$work/refused" >"$work/stdout" 2>"$work/stderr"; then
        fail "distill $* was accepted"
        return
    fi
    [ "$(wc -l <"$work/stderr")" = 1 ] || fail "distill $*: not one line: $(cat "$work/stderr")"
    grep -q '^distill: ' "$work/stderr" || fail "distill $*: no sentence of its own: $(cat "$work/stderr")"
    grep -qF -- "$wanted" "$work/stderr" || fail "distill $*: \"$(cat "$work/stderr")\" does not say \"$wanted\""
    ! grep -q '^Training' "$work/stdout" || fail "distill $*: training began"
}

# said TEXT ARGUMENTS...: shows a model, and says TEXT of the data
said()
{
    wanted=$1
    shift
    checks=$((checks + 1))
    "$distill" "$@" --show-model text-tiny >"$work/stdout" 2>"$work/stderr" || fail "distill $*: $(cat "$work/stderr")"
    grep -qF -- "$wanted" "$work/stdout" || fail "distill $*: \"$(cat "$work/stdout")\" does not say \"$wanted\""
}

# table ROWS SEED SEPARATOR: rows with a word for their class somewhere among letters, every third in quotes
table()
{
    awk -v rows="$1" -v seed="$2" -v separator="$3" 'BEGIN {
        srand(seed)
        split("cat dog emu", words, " ")
        printf "category%stext\n", separator
        for (i = 0; i < rows; ++i) {
            text = ""
            n = 4 + int(16 * rand())
            at = int(n * rand())
            for (k = 0; k < n; ++k) {
                if (k == at) text = text words[i % 3 + 1]
                text = text substr("pqrstuvw  ", 1 + int(10 * rand()), 1)
            }
            quote = i % 3 ? "" : "\""
            printf "%s%s%s%s.%s\n", words[i % 3 + 1], separator, quote, text, quote
        }
    }'
}

# ---- tables -----------------------------------------------------------------------------------------------------

mkdir "$work/set"
table 180 1 , >"$work/set/train.csv"
table 60 2 , >"$work/set/test.csv"
table 120 3 '	' >"$work/one.tsv"
table 120 3 ';' >"$work/one.csv"
said 'tokens 32: embeddings: embed 256' "$work/set"
said 'tokens 48: ' "$work/set" --length 48
said 'no file is for testing: 20 % of each class is kept for that' "$work/one.tsv"
said 'no file is for testing: 25 % of each class is kept for that' "$work/one.csv" --test-share 0.25
said 'bytes and are cut there; --length keeps more' "$work/set" --length 16
# a byte order mark, CR LF, line breaks and quotes inside quotes, empty lines, white space, letters of several bytes
printf '\357\273\277Text,n,LABEL\r\n"one, ""two""\r\nthree",1, a \r\n\r\n\303\244\303\266,2,b\r\n  x ,3,a\r\n"y",4,b\r\n' >"$work/odd.csv"
said 'tokens 32: ' "$work/odd.csv" --test-share 0.5
mkdir "$work/kaggle" "$work/kaggle/train" "$work/kaggle/train/a" "$work/single"
cp "$work/set/train.csv" "$work/kaggle"
refused 'has only one class' "$work/kaggle" # images, with a table beside them
cp "$work/set/train.csv" "$work/single/anything.csv"
said 'no file is for testing' "$work/single"

# rows that cannot be used are named by their line
cp "$work/set/train.csv" "$work/bad.csv"
printf '%s\n' 'cat' ',no class' 'dog,' 'cat,one,more' '"dog" x,text' >>"$work/bad.csv"
printf 'emu,\377\376\n' >>"$work/bad.csv"
printf 'emu,a\000b\n' >>"$work/bad.csv"
refused '7 of 187 rows cannot be used (more than the share of 0.01 allowed), first: bad.csv, line 182: has fewer columns' "$work/bad.csv"
said 'bad.csv, line 182: has fewer columns than the first line' "$work/bad.csv" --max-skipped 0.1
said 'bad.csv, line 183: has no label' "$work/bad.csv" --max-skipped 0.1
said 'bad.csv, line 184: has no text' "$work/bad.csv" --max-skipped 0.1
said 'bad.csv, line 185: has more columns than the first line: is a text with a separator in quotes?' "$work/bad.csv" --max-skipped 0.1
said 'bad.csv, line 186: has something behind a closing quote' "$work/bad.csv" --max-skipped 0.1
said 'bad.csv, line 187: is not in UTF-8' "$work/bad.csv" --max-skipped 0.1
said 'bad.csv, line 188: has a byte of 0 in it' "$work/bad.csv" --max-skipped 0.1
said '1 row left out, which has no label' "$work/bad.csv" --max-skipped 0.1
mkdir "$work/other"
cp "$work/set/train.csv" "$work/other"
cp "$work/set/test.csv" "$work/other"
echo 'yak,who is that' >>"$work/other/test.csv"
said 'test.csv, line 62: has a label that no text to learn from has' "$work/other"
head -1 "$work/set/test.csv" >"$work/other/test.csv"
grep '^cat' "$work/set/test.csv" >>"$work/other/test.csv"
refused 'class "dog" has no text in test.csv' "$work/other"
cp "$work/set/train.csv" "$work/other/test.csv"
said '180 of the test texts are among the training texts as well: the test accuracy flatters' "$work/other"

# what is no table
refused 'cannot be opened' "$work/none.csv"
printf '' >"$work/empty.csv"
refused 'is empty' "$work/empty.csv"
printf 'a,b\nc,d\n' >"$work/names.csv"
refused 'line 1: the columns must have names, one of them "text" and one "label" or "category", got "a", "b"' "$work/names.csv"
printf 'text,label\na,b\n' >"$work/names.csv"
refused 'has one class: there is nothing to tell apart' "$work/names.csv"
printf 'text,label\n' >"$work/names.csv"
refused 'has no row that can be used' "$work/names.csv"
printf 'text,label\na,b\n"c,d\ne,f\n' >"$work/names.csv"
refused 'names.csv, line 3: a quote is opened in this row and never closed' "$work/names.csv"
printf '\377\376t\000e\000' >"$work/wide.csv"
refused 'is in UTF-16: save it in UTF-8' "$work/wide.csv"

# ---- options ----------------------------------------------------------------------------------------------------

refused '--size is about pixels' "$work/set" --size 8
refused '--channels is about pixels' "$work/set" --channels 1
refused '--mean is about pixels' "$work/set" --mean 0.5 --std 0.5
refused '--augment is about pixels' "$work/set" --augment shift=1
refused '--teacher-augment is about pixels' "$work/set" --teacher-augment mixup=0.2
refused '--adversarial is about pixels' "$work/set" --adversarial 0.1
refused '--patient mixes pixels' "$work/set" --patient
refused '--fit looks among convolutional networks' "$work/set" --fit 64KB
refused 'none.txt cannot be opened' "$work/set" --unlabelled "$work/none.txt"
printf '\n \n' >"$work/blank.txt"
refused 'there is no text in' "$work/set" --unlabelled "$work/blank.txt"
printf 'a\n\377\n' >"$work/lines.txt"
refused '1 of 2 rows cannot be used (more than the share of 0.01 allowed) of' "$work/set" --unlabelled "$work/lines.txt"
said 'lines.txt left out, which is not in UTF-8' "$work/set" --unlabelled "$work/lines.txt" --max-skipped 0.6
said '60 of the test texts are among the texts without labels as well' "$work/set" --unlabelled "$work/set/test.csv"
refused '--pretrain hides words: it is for texts' examples/data/fashion --limit 2 --pretrain 1
refused '--pretrain needs a teacher with attention to its bytes' "$work/set" --pretrain 1 --teacher 'embed 256 4, meanpool, dense 3'
refused '--pretrain needs a teacher with attention to its bytes' "$work/set" --pretrain 1 --teacher 'embed 256 4, attention 2, dense 3'
refused '--pretrain needs a teacher with attention to its bytes' "$work/set" --pretrain 1 --teacher 'embed 256 4, conv 4 4x1 stride=2x1, tokens, attention 2, meanpool, dense 3'
refused '--length is for texts' examples/data/fashion --length 32
refused 'the length of texts must be 16 to 4096 bytes, got 8' "$work/set" --length 8
refused 'which embed has to read first' "$work/set" --student cnn-small
refused 'embed reads ids' examples/data/fashion --limit 2 --student text-tiny
refused 'the student reads 20 bytes of a text, but 32 are kept here; --length 20 may help' "$work/set" --student 'tokens 20: embed 256 4, meanpool, dense 3'
refused 'the student has 2 outputs, but the texts have 3 classes' "$work/set" --student 'embed 256 4, meanpool, dense 2'
check 'the presets are listed' sh -c "'$distill' --help | grep -q '^    text-small'"

# ---- a whole run ------------------------------------------------------------------------------------------------

small='--lr 0.01 --weight-decay 0 --temperature 2 --teacher-lr 0.01 --epochs 6 --teacher-epochs 6 --seeds 2 --trials 1 --threads 1 --batch 16 --ensemble no'
models='embed 256 16, conv 16 5x1 pad=2x0 stride=2x1, batchnorm, relu, position, encoder 1 2 mlp=1, layernorm, meanpool, dense 3'
student='embed 256 4, conv 6 3x1 pad=1x0 stride=2x1, batchnorm, relu, position, attention 2, meanpool, dense 3'
# shellcheck disable=SC2086
check 'a run' "$distill" "$work/set" $small --teacher "$models" --student "$student" --int8 --out "$work/out"
cp "$work/check" "$work/said"
check 'the texts are described' grep -q 'texts     .*153 to learn from, 27 held out, 60 to test; up to 32 bytes, 3 classes' "$work/said"
check 'nothing is said of images' sh -c "! grep -i image '$work/said'"
check 'a report' test -s "$work/out/report.html"
check 'nor in the report' sh -c "! grep -io '[^:<a-z]images\{0,1\}[^-a-z]' '$work/out/report.html'"
check 'texts are in it' grep -q '<q ' "$work/out/report.html"
check 'words are shaded' grep -q '<q style="--c:var(--t)">.*<mark style="--v:50%" title="[0-9.]*&#8239;%">' "$work/out/report.html"
check 'the words that tell the classes' sh -c "grep -o '<mark style=\"--v:50%\"[^>]*>[^<]*' '$work/out/report.html' | grep -qE 'cat|dog|emu'"
check 'it is said what shades are' grep -q 'shaded by their shares of attention, the teacher.s' "$work/out/report.html"
check 'the teacher knows something' grep -qE '"accuracy": (0\.[6-9]|1)' "$work/out/metrics.json"
check 'the student reads tokens' sh -c "head -c 4096 '$work/out/student.safetensors' | grep -aq 'tokens 32: embed'"
for file in teacher student student_int8; do check "$file" test -s "$work/out/$file.safetensors"; done
# its teacher teaches another, who must read as much
# shellcheck disable=SC2086
check 'a teacher from a file' "$distill" "$work/set" $small --teacher "$work/out/teacher.safetensors" --student "$student" --out "$work/again"
cp "$work/set/train.csv" "$work/set/test.csv" "$work/other"
# shellcheck disable=SC2086
check 'and says how much is read' "$distill" "$work/other" $small --length 32 --teacher "$work/out/teacher.safetensors" --student "$student" --seeds 1 --out "$work/again"
refused 'the teacher reads 32 bytes of a text, but 48 are kept here; --length 32 may help' "$work/set" --length 48 --teacher "$work/out/teacher.safetensors"
# shellcheck disable=SC2086
check 'a run in two parts' "$distill" "$work/one.tsv" $small --teacher "$models" --student "embed 256 4, meanpool, dense 3" --out "$work/tsv"
check 'its teacher looks' grep -q 'shares of attention, the teacher.s, in' "$work/tsv/report.html"
check 'its student does not' sh -c "! grep -q 'the student.s, in the last layer' '$work/tsv/report.html'"
# shellcheck disable=SC2086
check 'without attention' "$distill" "$work/one.csv" $small --epochs 1 --teacher-epochs 1 --seeds 1 --teacher 'embed 256 8, meanpool, dense 3' --student 'embed 256 4, meanpool, dense 3' --out "$work/blind"
check 'nothing is shaded' sh -c "! grep -q '<mark' '$work/blind/report.html'"
check 'and it is said' grep -q 'No words are shaded: no model here has attention' "$work/blind/report.html"

# hidden words first, of texts with and without labels; the teacher of another run starts from the same
table 200 5 , | tail -n +2 | cut -d, -f2 | tr -d '"' >"$work/more.txt"
# shellcheck disable=SC2086
check 'hidden words' "$distill" "$work/set" $small --seeds 1 --pretrain 12 --unlabelled "$work/more.txt" --teacher "$models" --student "$student" --out "$work/hidden"
cp "$work/check" "$work/said"
check 'how many texts' grep -q 'learns to tell hidden words of 353 texts, 12 times' "$work/said"
check 'it learns' awk '/of hidden letters in held-out texts it tells/ { exit !($8 > 2 * $11 && $8 > 5) }' "$work/said"
check 'and the report says it' grep -q 'of the letters hidden in held-out ones are told' "$work/hidden/report.html"
check 'texts without labels teach' grep -q '"unlabelled_images": 200' "$work/hidden/metrics.json"
# shellcheck disable=SC2086
check 'once more, on two threads' "$distill" "$work/set" $small --seeds 1 --threads 2 --pretrain 12 --unlabelled "$work/more.txt" --teacher "$models" --student "$student" --out "$work/hidden2"
check 'the same teacher' cmp "$work/hidden/teacher.safetensors" "$work/hidden2/teacher.safetensors"
refused '--pretrain needs a teacher that is trained here' "$work/set" --pretrain 1 --teacher "$work/out/teacher.safetensors"

# ---- classify ---------------------------------------------------------------------------------------------------

# told TEXT ARGUMENTS...: classify says TEXT
told()
{
    wanted=$1
    shift
    checks=$((checks + 1))
    "$build/classify" "$@" >"$work/stdout" 2>"$work/stderr"
    grep -qF -- "$wanted" "$work/stdout" "$work/stderr" || fail "classify $*: \"$(cat "$work/stdout" "$work/stderr")\" does not say \"$wanted\""
}
model=$work/out/teacher.safetensors
told 'ppq cat rr' "$model" --text 'ppq cat rr'
told '%  emu' "$model" --text 'ppq cat rr'
told '%  dog' "$model" --text ''
told 'a longer text than the model reads, which is shown as it is' "$model" --text 'a longer text than the model reads, which is shown as it is'
printf 'first line dog\r\n\nsecond \303\244\n' >"$work/lines.txt"
told 'second ä' "$model" "$work/lines.txt"
check 'all rows of a table' sh -c "[ \$('$build/classify' '$model' '$work/set/test.csv' | grep -c '%  emu') = 60 ]"
printf 'label\nx\n' >"$work/names.csv"
told 'line 1: no column is named "text", got "label"' "$model" "$work/names.csv"
told 'none.csv cannot be opened' "$model" "$work/none.csv"
told '--logits keeps those of images' "$model" --logits "$work/kept.npy" "$work/lines.txt"
told '--text is for models that read texts' examples/mcu/fashion.safetensors --text 'hello'
told '--resize and --exif are about images' "$model" --resize pad "$work/lines.txt"
check 'in int8, by texts' sh -c "'$build/export' '$model' '$work/int8.safetensors' --int8 --images '$work/set' >'$work/stdout'"
check 'that are told' grep -q 'texts of .*/set say what' "$work/stdout"
told '%  emu' "$work/int8.safetensors" --text 'ppq cat rr'

echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
