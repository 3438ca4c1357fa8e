#!/bin/sh
# Networks in a web page: under node their logits have the bits of kd.h's portable kernels, and Chromium shows what
# they say. Usage: tests/web.sh
cd "$(dirname "$0")/.." || exit 1
. tests/checks.sh

warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
if ! [ -e /usr/include/stb/stb_image_write.h ]; then
    skip "examples/web" "needs libstb-dev"
    finish
    exit
fi
check "pack.c" ${CC:-cc} -std=gnu99 -O0 -DKD_NO_SIMD $warnings tests/web_pack.c -o "$tmp/pack" -lm
check "models" "$tmp/pack" "$tmp"
student=examples/mcu/fashion.safetensors
mkdir -p "$tmp/images/train" "$tmp/images/test"
for class in Ankle-boot Bag Shirt; do
    cp examples/data/fashion/test/$class.28x28.png "$tmp/images/train"
    cp examples/data/fashion/test/$class.28x28.png "$tmp/images/test"
done

# ---- what cannot be packed -----------------------------------------------------------------------------------------

echo program >"$tmp/none.wasm"
cannot() # <what> <text> <student> <teacher> <samples> <out>
{
    refused "pack: $1" "$2" "$tmp/pack" "$3" "$4" "$5" "$tmp/none.wasm" "$6"
}
cannot "no student" 'cannot open' "$tmp/nothing" '' '' "$tmp"
cannot "a student that is no model" 'safetensors' README.md '' '' "$tmp"
cannot "no teacher" 'cannot open' $student "$tmp/nothing" '' "$tmp"
cannot "a teacher of other images" 'other images' $student "$tmp/colour.safetensors" '' "$tmp"
cannot "a teacher of fewer classes" 'has other classes' $student "$tmp/nine.safetensors" '' "$tmp"
cannot "a teacher of another order" 'another order' $student "$tmp/order.safetensors" '' "$tmp"
cannot "one output" 'single output' "$tmp/single.safetensors" '' '' "$tmp"
cannot "no image" 'takes no images' "$tmp/seven.safetensors" '' '' "$tmp"
cannot "no images to try" 'there is no folder' $student '' "$tmp/nothing" "$tmp"
cannot "no folder to write into" 'cannot be written' $student '' '' "$tmp/nothing"
[ ! -e /dev/full ] || {
    mkdir "$tmp/full" && ln -s /dev/full "$tmp/full/packed"
    cannot "a full disk" 'is the disk full' $student '' '' "$tmp/full"
}
refused "pack: no program" 'cannot' "$tmp/pack" $student '' '' "$tmp/nothing.wasm" "$tmp"
refused "pack: no arguments" 'usage' "$tmp/pack" $student ''

# ---- pages ---------------------------------------------------------------------------------------------------------

clang=${CLANG:-clang}
if ! command -v "$clang" >/dev/null || ! command -v wasm-ld >/dev/null || ! [ -e "${WASI:-/usr}/lib/wasm32-wasi/libc.a" ]; then
    skip "pages" "needs clang, lld and wasi-libc"
    finish
    exit
fi

page() # <name> <student> <teacher> <samples>
{
    check "a page: $1" sh -c "examples/web/run.sh '$2' '$3' '$4' '$tmp' '$tmp/$1.html' >'$tmp/said'"
}
cp $student "$tmp/both.html" # which is replaced
page both $student "$tmp/teacher.safetensors" "$tmp/images"
small() { [ "$(wc -c <"$1")" -lt 1000000 ] || wc -c "$1"; }
check "it is smaller than 1 MB" small "$tmp/both.html"
cat >"$tmp/wasm.js" <<'END'
const program = new WebAssembly.Module(require("fs").readFileSync(process.argv[2]));
for (const i of WebAssembly.Module.imports(program)) console.log("imports " + i.name);
END
cp "$tmp/both.html" "$tmp/kept.html"
refused "a page that is there" 'pack:' examples/web/run.sh README.md '' '' "$tmp" "$tmp/both.html"
check "stays after an error" cmp "$tmp/kept.html" "$tmp/both.html"

if ! command -v node >/dev/null || ! node -e 'new DecompressionStream("gzip")' 2>/dev/null; then
    skip "the bits of the pages" "needs node 18"
else
    check "12 images, two networks: the bits of kd.h" node tests/web.js "$tmp/both.html" "$tmp/wanted"
    check "there are as many" test "$(awk 'NF == 21' "$tmp/wanted" | wc -l)" = 12
    check "the program asks the browser for nothing" node "$tmp/wasm.js" "$tmp/web.wasm"
    for how in crop stretch pad mean tall; do
        page $how "$tmp/$how.safetensors" '' ''
        for picture in 50x31 17x40; do
            "$tmp/pack" fit "$tmp/$how.safetensors" $picture >"$tmp/fitted"
            check "what classify sees of a picture of $picture: $how" sh -c "node tests/web.js '$tmp/$how.html' $picture >'$tmp/seen' && cmp '$tmp/seen' '$tmp/fitted'"
        done
    done
    "$tmp/pack" fit "$tmp/pad.safetensors" 50x31 >"$tmp/fitted"
    check "and how it is brought to size matters" sh -c "! cmp -s '$tmp/seen' '$tmp/fitted'"
fi

page names "$tmp/names.safetensors" '' ''
page digits "$tmp/digits.safetensors" '' ''
if ! command -v chromium >/dev/null || ! command -v node >/dev/null; then
    skip "pages in a browser" "needs chromium and node"
else
    check "pages in Chromium, by keys and by finger" node tests/web_browser.js "$tmp"
fi
finish
