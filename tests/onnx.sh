#!/bin/sh
# ONNX files of the header in ONNX Runtime, and files of PyTorch's exporters in the header. Says what it skips where there
# is no Python with these packages; KD_PYTHON names one that has them. Usage: tests/onnx.sh
cd "$(dirname "$0")/.." || exit 1
. tests/checks.sh

cc=${CC:-cc}
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
check "examples/export.c" "$cc" -std=gnu99 -O0 $warnings -DKD_NO_SIMD examples/export.c -o "$tmp/export" -lm
check "tests/onnx_peer.c" "$cc" -std=gnu99 -O0 $warnings -DKD_NO_SIMD tests/onnx_peer.c -o "$tmp/peer" -lm

# ---- the example -------------------------------------------------------------------------------------------------

mkdir "$tmp/models" && "$tmp/peer" write "$tmp/models" 7 >/dev/null # the last of which C source can have, too
mv "$tmp/models/6.safetensors" "$tmp/student.safetensors"
check "export --help says what there is" sh -c "'$tmp/export' --help | grep -q '\.onnx'"
check "export to ONNX" sh -c "'$tmp/export' '$tmp/student.safetensors' '$tmp/student.onnx' >/dev/null"
check "export with pixels and probabilities" sh -c "'$tmp/export' '$tmp/student.safetensors' '$tmp/bytes.onnx' --u8 --softmax >/dev/null"
check "export to halves" sh -c "'$tmp/export' '$tmp/student.safetensors' '$tmp/half.safetensors' --f16 >/dev/null"
refused "export: no such format" 'ends in no format' "$tmp/export" "$tmp/student.safetensors" "$tmp/student.xyz"
refused "export: another format's option" 'is no option of' "$tmp/export" "$tmp/student.safetensors" "$tmp/a.onnx" --f16
refused "export: no such option" 'there is no option' "$tmp/export" "$tmp/student.safetensors" "$tmp/a.onnx" --fp16
refused "export: three files" 'follows the two files' "$tmp/export" "$tmp/student.safetensors" "$tmp/a.onnx" "$tmp/b.onnx"
refused "export: over its own input" 'is read, and cannot be replaced' "$tmp/export" "$tmp/student.safetensors" "$tmp/student.safetensors"
echo 'int main(void) { return 0; }' >"$tmp/main.c"
refused "export: over a source of somebody" "main.c is there, and not of export's making" "$tmp/export" "$tmp/student.safetensors" "$tmp/main.c"
check "which stays" grep -q '^int main' "$tmp/main.c"
refused "export: over another model" 'half.safetensors is there; give another name' "$tmp/export" "$tmp/student.safetensors" "$tmp/half.safetensors"
check "export over its own, and with --force" sh -c "cd '$tmp' && { ./export student.safetensors student.onnx && ./export student.safetensors main.c --force &&
    ./export student.safetensors main.c && ./export student.safetensors half.safetensors --f16 --force; } >/dev/null"
refused "export: .c takes little" 'is no option of .c, which takes --int8' "$tmp/export" "$tmp/student.safetensors" "$tmp/a.c" --u8
refused "export: no such model" 'cannot open' "$tmp/export" "$tmp/none.safetensors" "$tmp/a.onnx"
refused "export: no such folder" 'cannot create' "$tmp/export" "$tmp/student.safetensors" "$tmp/none/a.onnx"
refused "export: one name" 'usage' "$tmp/export" "$tmp/student.safetensors"

# ---- other programs ----------------------------------------------------------------------------------------------

python=${KD_PYTHON:-python3}
if command -v "$python" >/dev/null && "$python" -c 'import numpy, onnx, onnxruntime' 2>/dev/null; then
    "$python" tests/onnx_peer.py "$tmp/peer" "$tmp/models" >"$log" 2>&1
    grep -E '^(pass|skip|FAIL)' "$log"
    set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log")
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-1}))
    [ $# = 2 ] || tail "$log"
else
    skip "ONNX Runtime and the checker of onnx" "needs Python with numpy, onnx and onnxruntime (pip); KD_PYTHON names it"
fi
finish
