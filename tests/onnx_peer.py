"""What other programs make of the header's ONNX files, and the header of theirs. usage: onnx_peer.py PROGRAM FOLDER
PROGRAM is tests/onnx_peer.c; prints a line a check, "N passed, M failed" at the end."""
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime

program, folder = sys.argv[1:3]
passed = failed = 0


def report(name, fault):
    global passed, failed
    if fault:
        failed += 1
        print(f"FAIL  {name}: {fault}")
    else:
        passed += 1
        print(f"pass  {name}")


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def difference(y, wanted):
    """The largest difference, relative to the largest number of the row."""
    return float(np.max(np.abs(y - wanted) / np.maximum(np.max(np.abs(wanted), axis=1, keepdims=True), 1e-3)))


def run_written(index):
    path = f"{folder}/{index}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    if model.ir_version != 8 or [o.version for o in model.opset_import] != [17]:
        return "not IR version 8 and opset 17"
    s = session(path)
    x, wanted = np.load(f"{folder}/{index}.x.npy"), np.load(f"{folder}/{index}.y.npy")
    name = s.get_inputs()[0].name
    if name == "image":
        x = x.astype(np.uint8)
    for rows in (len(x), 1):
        y = s.run(None, {name: x[:rows]})[0]
        if y.shape != wanted[:rows].shape:
            return f"shape {y.shape}"
        apart = difference(y, wanted[:rows])
        if not apart < 1e-5:
            return f"batch of {rows}: apart by {apart:.2e}"
    return None


def attempt(function, *args):
    try:
        return function(*args)
    except Exception as e:  # noqa: BLE001
        return f"{type(e).__name__}: {str(e)[:300]}"


def written(count):
    lines = subprocess.run([program, "write", folder, str(count)], capture_output=True, text=True, check=True).stdout
    for line in lines.splitlines():
        index, spec = line.split(" ", 1)
        report(f"ONNX Runtime runs {spec}", attempt(run_written, int(index)))


def run_int8(index):
    """Bit by bit; where ONNX Runtime's sums and means differ between processors, by a few steps of the output."""
    path = f"{folder}/int8-{index}.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x, wanted = np.load(f"{folder}/int8-{index}.x.npy"), np.load(f"{folder}/int8-{index}.y.npy")
    y = session(path).run(None, {"input": x})[0]
    if index % 2 == 0:
        return None if np.array_equal(y, wanted) else f"{np.sum(y != wanted)} of {y.size} differ, by {np.max(np.abs(y - wanted)):.3g} of {np.max(np.abs(wanted)):.3g}"
    apart = difference(y, wanted)
    return None if apart < 0.05 else f"apart by {apart:.3g}"


def quantised(count):
    lines = subprocess.run([program, "int8", folder, str(count)], capture_output=True, text=True, check=True).stdout
    for line in lines.splitlines():
        index, spec = line.split(" ", 1)
        report(f"ONNX Runtime runs int8 {spec}", attempt(run_int8, int(index)))


os.makedirs(folder, exist_ok=True)
written(40)
quantised(60)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
