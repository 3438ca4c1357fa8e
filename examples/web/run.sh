#!/bin/sh
# A student, and beside it its teacher, in one HTML file that needs no server and no network.
# Usage: examples/web/run.sh STUDENT TEACHER SAMPLES OUT PAGE      with $OUT/pack from pack.c; TEACHER, SAMPLES may be ''
# Needs clang with wasm-ld, and wasi-libc in $WASI (/usr). Nothing of WASI is called: it is the C library that is used.
student=$1 teacher=$2 samples=$3 out=$4 page=$5
here=$(cd "$(dirname "$0")" && pwd)
wasi=${WASI:-/usr}

# not anew for every model
if ! [ -e "$out/web.wasm" ] || [ -n "$(find "$here/web.c" "$here/image.h" "$here/../resize.h" "$here/../../kd.h" -newer "$out/web.wasm")" ]; then
    ${CLANG:-clang} --target=wasm32-wasi -std=c99 -O2 -msimd128 -Wall -Wextra -Wconversion -Wshadow -Werror \
        -isystem "$wasi/include/wasm32-wasi" -nostdlib -Wl,--no-entry -Wl,--strip-all -Wl,--stack-first -Wl,-z,stack-size=262144 \
        "$here/web.c" -L"$wasi/lib/wasm32-wasi" -lm -lc -o "$out/web.wasm" || exit 1
fi
"$out/pack" "$student" "$teacher" "$samples" "$out/web.wasm" "$out" || exit 1
gzip -9 -n <"$out/packed" >"$out/packed.gz" && base64 <"$out/packed.gz" >"$out/packed.txt" || exit 1
sed -e "/^@packed@\$/{r $out/packed.txt" -e 'd;}' "$here/page.html" >"$out/page.html" &&
    cp "$out/page.html" "$page.part" && mv "$page.part" "$page" || { rm -f "$page.part"; exit 1; }
echo "$page: $(($(wc -c <"$page"))) bytes: open it in a browser"
