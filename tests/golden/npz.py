#!/usr/bin/env python3
"""Writes npz.h: archives as NumPy writes them, bytes and all.

    python3 npz.py > npz.h     (numpy 1.20 or later)

Array number k of a file of weights has i / 8 - k for its number i.
"""
import io
import textwrap
import zipfile

import numpy


def saved(save, *arrays, **named):
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def numbers(k, shape, kind="<f4"):
    return (numpy.arange(int(numpy.prod(shape))) / 8 - k).astype(kind).reshape(shape)


def other():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as z:
        z.writestr("archive/data.pkl", b"pickled")
        z.writestr("archive/data/0", b"numbers")
    return stream.getvalue()


def streamed():
    """to a stream that cannot be sought: sizes follow the members"""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.bytes = b""

        def writable(self):
            return True

        def write(self, data):
            self.bytes += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as z:
        with z.open("logits.npy", "w", force_zip64=True) as f:
            numpy.lib.format.write_array(f, numbers(0, (3, 2)))
    return pipe.bytes


weights = {
    "0.weight": numbers(0, (2, 1, 3, 3)),
    "0.bias": numbers(1, (2,), ">f4"),
    "1.weight": numbers(2, (2,), "<f8"),
    "1.bias": numbers(3, (2,), "<f2"),
    "1.running_mean": numbers(4, (2,)),
    "1.running_var": numbers(0, (2,), "<f4"),
    "1.num_batches_tracked": numpy.array(1234567890123, ">i8"),
    "4.weight": numbers(5, (3, 32)),
    "4.bias": numpy.array([1, -2, 3], ">f2"),
}
files = {
    "one": saved(numpy.savez, numbers(0, (3, 2))),
    "streamed": streamed(),
    "several": saved(numpy.savez, train=numbers(0, (3, 2)), test=numbers(1, (4, 2), ">f8"), labels=numpy.arange(5)),
    "none": saved(numpy.savez),
    "weights": saved(numpy.savez, **weights),
    "columns": saved(numpy.savez, **{**weights, "4.weight": numpy.asfortranarray(numbers(5, (3, 32)))}),
    "compressed": saved(numpy.savez_compressed, logits=numbers(0, (3, 2))),
    "torch": other(),
}
print("/* Made by npz.py with NumPy. Not edited by hand. */\n/* clang-format off */")
for name, data in files.items():
    print("static const unsigned char npz_%s[] = {" % name)
    print("\n".join(textwrap.wrap(", ".join("%d" % b for b in data), 112)) + "};")
