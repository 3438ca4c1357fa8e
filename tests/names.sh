#!/bin/sh
# Weights under other libraries' names, loaded by these: timm, torchvision, torch.nn and Hugging Face's transformers. Says
# what it skips where there is no Python with these packages; KD_PYTHON names one that has them. Usage: tests/names.sh
cd "$(dirname "$0")/.." || exit 1
. tests/checks.sh

cc=${CC:-cc}
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
check "tests/names_peer.c" "$cc" -std=gnu99 -O0 $warnings -DKD_NO_SIMD tests/names_peer.c -o "$tmp/peer" -lm
mkdir "$tmp/models"
check "files under seven kinds of names" "$tmp/peer" "$tmp/models"
check "examples/export.c" "$cc" -std=gnu99 -O0 $warnings -DKD_NO_SIMD examples/export.c -o "$tmp/export" -lm
check "export --names" sh -c "'$tmp/export' '$tmp/models/own.safetensors' '$tmp/bert.safetensors' --names bert >/dev/null"
check "what kd_model_save_names writes" cmp "$tmp/bert.safetensors" "$tmp/models/bert.safetensors"
check "export --names in halves" sh -c "'$tmp/export' '$tmp/models/own.safetensors' '$tmp/half.safetensors' --names bert --f16 >/dev/null"
refused "export: names of another kind" 'BertForSequence\|has no tensor for' "$tmp/export" "$tmp/models/own.safetensors" "$tmp/none.safetensors" --names vit
refused "export: names that are none" 'is one of timm, torchvision, encoder, vit, deit, bert, distilbert; got "gpt"' "$tmp/export" "$tmp/models/own.safetensors" "$tmp/none.safetensors" --names gpt
refused "export: names in ONNX" 'is no option of .onnx' "$tmp/export" "$tmp/models/own.safetensors" "$tmp/none.onnx" --names bert

python=${KD_PYTHON:-python3}
if command -v "$python" >/dev/null && "$python" -c 'import numpy, safetensors, timm, torch, torchvision, transformers' 2>/dev/null; then
    "$python" tests/names_peer.py "$tmp/models" >"$log" 2>&1
    grep -E '^(pass|FAIL)' "$log"
    set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log")
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-1}))
    [ $# = 2 ] || tail "$log"
else
    skip "other libraries" "needs Python with numpy, safetensors, timm, torch, torchvision and transformers (pip); KD_PYTHON names it"
fi
finish
