#!/bin/sh
# The experiments of examples/hinton.c from start to end on a handful of made-up digits: every row, file and picture is
# there. usage: tests/hinton.sh BUILD_FOLDER
build=$(cd "${1:-build}" && pwd) || exit 1
cd "$(dirname "$0")" || exit 1
. ./checks.sh

# digits <file> <count> <the same, octal>: MNIST's two files of this name; pixels are the text of this project
digits()
{
    size='\000\000\000'"\\$3"
    { printf '\000\000\010\003'"$size"'\000\000\000\034\000\000\000\034' && head -c $(($2 * 784)) ../kd.h; } \
        >"$tmp/$1-images-idx3-ubyte"
    {
        printf '\000\000\010\001'"$size"
        for _ in $(seq $(($2 / 10))); do printf '\000\001\002\003\004\005\006\007\010\011'; done
    } >"$tmp/$1-labels-idx1-ubyte"
}
digits train 200 310
digits t10k 100 144
hinton() { "$build/hinton" "$tmp" --quick --seeds 3 --threads 1 --out "$tmp/out" >"$tmp/said" 2>"$tmp/complaints"; }
check 'runs to its end' hinton
check 'has nothing to complain of' test ! -s "$tmp/complaints"
has() { grep -q -e "$2" "$1" || { echo "no $2 in $1" && return 1; }; }
rows=$(sed -n 's/^    {"\(teacher\|student\)\( [^"]*\)",.*/\1\2/p' ../examples/hinton.c)
check 'there are 13 experiments' test "$(echo "$rows" | wc -l)" = 13
echo "$rows" >"$tmp/rows"
while read -r row; do
    check "printed: $row" has "$tmp/said" "^$row  .*+-"
    check "in the page: $row" has "$tmp/out/hinton.html" ">$row</td>"
    check "in the file: $row" has "$tmp/out/hinton.json" "\"title\": \"$row\""
done <"$tmp/rows"
check 'says how it compares with the paper' has "$tmp/said" 'the paper: 74, 51 % of 146'
check 'the page ends with its script' has "$tmp/out/hinton.html" '</main><script>'
check 'and nothing is behind it' test "$(tail -n 1 "$tmp/out/hinton.html" | grep -c '</script></body></html>$')" = 1
marks() { grep -o "$1" "$tmp/out/hinton.html" | wc -l; }
check 'the page has a mark for every seed, of two kinds' test "$(marks '<circle class="m"') $(marks '<path class="m"')" = '3 3'
check 'and a dot for every seed of the sweep' test "$(marks '<circle cx')" = $((3 * 7))
# what somebody else has put there stays
mkdir -p "$tmp/theirs"
echo theirs >"$tmp/theirs/hinton.html"
refused 'results of others are not replaced' 'not from a run of hinton' "$build/hinton" "$tmp" --quick --out "$tmp/theirs"
check 'they are as they were' grep -qx theirs "$tmp/theirs/hinton.html"
finish
