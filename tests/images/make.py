"""Makes the image files in this folder and golden.h, the numbers that Pillow and zlib say are right.

Run with Pillow 9.4 in this folder:  python3 make.py
The pictures of the format files are formulas, so that the test knows every pixel: see colour() and grey().
"""

import gzip
import io
import os
import struct
import zlib

from PIL import Image, ImageOps

W, H = 16, 12


def colour(x, y):
    return 16 * x, 20 * y, 9 * (x + y)


def grey(x, y):
    return 9 * (x + y)


def write(name, data):
    with open(name, "wb") as file:
        file.write(data)


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(bits, kind, lines, w=W, h=H, interlaced=0, extra=b""):
    packed = b"".join(b"\0" + line for line in lines)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, kind, 0, 0, interlaced)) + extra
            + chunk(b"IDAT", zlib.compress(packed, 9)) + chunk(b"IEND", b""))


def lines_of(pixel, columns=range(W), rows=range(H)):
    return [b"".join(pixel(x, y) for x in columns) for y in rows]


def pictures():
    rgb = lambda x, y: bytes(colour(x, y))
    wide = lambda x, y: b"".join(struct.pack(">H", v * 257) for v in colour(x, y))
    write("rgb8.png", png(8, 2, lines_of(rgb)))
    write("rgb16.png", png(16, 2, lines_of(wide)))
    write("rgba.png", png(8, 6, lines_of(lambda x, y: rgb(x, y) + bytes([x * y]))))
    write("grey8.png", png(8, 0, lines_of(lambda x, y: bytes([grey(x, y)]))))
    write("grey16.png", png(16, 0, lines_of(lambda x, y: struct.pack(">H", grey(x, y) * 257))))
    write("grey12.png", png(16, 0, lines_of(lambda x, y: struct.pack(">H", grey(x, y) * 16 + 15))))
    write("rgb12.png", png(16, 2, lines_of(lambda x, y: b"".join(struct.pack(">H", v * 16) for v in colour(x, y)))))
    write("grey_alpha.png", png(8, 4, lines_of(lambda x, y: bytes([grey(x, y), x * y]))))
    bit_lines = [bytes(int("".join(str((x + y) & 1) for x in range(i, i + 8)), 2) for i in (0, 8)) for y in range(H)]
    write("bits.png", png(1, 0, bit_lines))
    palette = chunk(b"PLTE", b"".join(rgb(i % W, i // W) for i in range(W * H)))
    index = lambda x, y: bytes([y * W + x])
    write("palette.png", png(8, 3, lines_of(index), extra=palette))
    write("palette_alpha.png", png(8, 3, lines_of(index), extra=palette + chunk(b"tRNS", bytes(range(100)))))
    passes = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    adam7 = [line for x, dx, y, dy in passes for line in lines_of(rgb, range(x, W, dx), range(y, H, dy))]
    write("interlaced.png", png(8, 2, adam7, interlaced=1))

    picture, plain = Image.new("RGB", (W, H)), Image.new("L", (W, H))
    picture.putdata([colour(x, y) for y in range(H) for x in range(W)])
    plain.putdata([grey(x, y) for y in range(H) for x in range(W)])
    best = dict(quality=98, subsampling=0)
    baseline = saved(picture, "JPEG", **best)
    write("rgb.jpg", baseline)
    write("progressive.jpg", saved(picture, "JPEG", progressive=True, **best))
    write("grey.jpg", saved(plain, "JPEG", quality=98))
    inks = saved(picture.convert("CMYK"), "JPEG", **best)
    write("cmyk.jpg", inks)
    adobe = inks.index(b"\xff\xee")
    unmarked = inks[:adobe] + inks[adobe + 2 + struct.unpack(">H", inks[adobe + 2:adobe + 4])[0]:]
    seen = [list(Image.open(io.BytesIO(data)).convert("RGB").getdata()) for data in (inks, unmarked)]
    assert seen[0] == seen[1]  # Pillow takes them for the same
    write("unmarked_cmyk.jpg", unmarked)
    little = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x112, 3, 1, 6, 0, 0)
    big = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x112, 3, 1, 6, 0, 0)
    upright = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x112, 3, 1, 1, 0, 0)
    write("rotated_little.jpg", saved(picture, "JPEG", exif=b"Exif\0\0" + little, **best))
    write("rotated_big.jpg", saved(picture, "JPEG", exif=b"Exif\0\0" + big, **best))
    write("thumbnail.jpg", saved(picture, "JPEG", exif=b"Exif\0\0" + upright + saved(plain, "JPEG"), **best))

    bottom_up = saved(picture, "BMP")
    write("rgb.bmp", bottom_up)
    rows = [bottom_up[54 + i * 3 * W:54 + (i + 1) * 3 * W] for i in range(H)]
    write("top_down.bmp", bottom_up[:22] + struct.pack("<i", -H) + bottom_up[26:54] + b"".join(reversed(rows)))
    write("palette.bmp", saved(plain, "BMP"))
    write("rgba.bmp", saved(picture.convert("RGBA"), "BMP"))
    write("rgb.ppm", saved(picture, "PPM"))
    write("grey.pgm", b"P5 # a comment\n#and another\n16\t12 \n255\n" + plain.tobytes())
    write("grey16.pgm", b"P5 16 12 65535\n" + b"".join(struct.pack(">H", 257 * v) for v in plain.tobytes()))
    write("grey12.pgm", b"P5 16 12 4095\n" + b"".join(struct.pack(">H", v * 4095 // 255) for v in plain.tobytes()))
    write("rgb16.ppm", b"P6 16 12 65535\n" + b"".join(struct.pack(">H", 257 * v) for v in picture.tobytes()))

    # what must be refused
    write("refused.gif", saved(picture.quantize(16), "GIF"))
    write("refused.tga", saved(picture, "TGA"))
    write("refused.tif", saved(picture, "TIFF"))
    write("refused.webp", saved(picture, "WEBP"))
    planes = b"".join(bytes(colour(x, y)[c] for y in range(H) for x in range(W)) for c in range(3))
    write("refused.psd", struct.pack(">4sH6sHIIHHIIIH", b"8BPS", 1, b"", 3, H, W, 8, 3, 0, 0, 0, 0) + planes)
    write("refused_text.ppm", b"P3 2 1 255\n1 2 3 4 5 6\n")


def idx(name, magic, shape, body, flags):
    """gzip with the parts of its header that gzip.compress leaves out"""
    data = struct.pack(">I", magic) + b"".join(struct.pack(">I", n) for n in shape) + body
    extra = struct.pack("<H", 5) + b"extra" if flags & 4 else b""
    text = (b"name\0" if flags & 8 else b"") + (b"a comment\0" if flags & 16 else b"")
    head = bytes([0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255]) + extra + text
    check = struct.pack("<H", zlib.crc32(head) & 0xffff) if flags & 2 else b""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    packed = head + check + body + struct.pack("<II", zlib.crc32(data), len(data))
    assert gzip.decompress(packed) == data
    write(name, packed)


def idx_files():
    """12 training and 6 test images of 5x4, pixel p of image i is (7 i + 11 p) mod 256, its class i mod 3"""
    for prefix, count, flags in (("train", 12, (8, 4)), ("t10k", 6, (2 | 16, 0))):
        pixels = bytes((7 * i + 11 * p) % 256 for i in range(count) for p in range(20))
        idx(prefix + "-images-idx3-ubyte.gz", 0x803, (count, 4, 5), pixels, flags[0])
        idx(prefix + "-labels-idx1-ubyte.gz", 0x801, (count,), bytes(i % 3 for i in range(count)), flags[1])


def noise(w, h, channels):
    """the test makes the same"""
    state, out = w * 65536 + h, bytearray()
    for _ in range(w * h * channels):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(state >> 24)
    return Image.frombytes("L" if channels == 1 else "RGB", (w, h), bytes(out))


def fitted(image, size, edge=None):
    """torchvision's Resize(edge) and CenterCrop(size)"""
    w, h = image.size
    edge = edge or size
    to = (int(edge * w / h), edge) if w > h else (edge, int(edge * h / w))
    image = image.resize(to, Image.BILINEAR) if to != image.size else image
    left, top = int(round((to[0] - size) / 2.0)), int(round((to[1] - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


def framed(image, to, words):
    """as images_framing_parse understands it"""
    for word in words.split():
        if word.startswith("exif="):
            image.getexif()[0x112] = int(word[5:])
            image = ImageOps.exif_transpose(image)
        elif word.startswith("crop="):
            image = fitted(image, to[0], int(word[5:]))
        elif word == "stretch":
            image = image.resize(to, Image.BILINEAR)
        elif word.startswith("pad="):
            colour = tuple(map(int, word[4:].split(",")))
            image = ImageOps.pad(image, to, Image.BILINEAR, colour[0] if image.mode == "L" else colour)
    assert image.size == to
    return image


def framings():
    ways = [((32, 32), "crop=37"), ((32, 32), "crop=32"), ((27, 27), "crop=64"), ((32, 32), "stretch"),
            ((20, 40), "stretch"), ((40, 30), "stretch"), ((32, 32), "pad=0,0,0"), ((33, 33), "pad=77,77,77"),
            ((20, 40), "pad=9,9,9"), ((45, 20), "pad=255,255,255")]
    rows = [(source, channels, *way) for source in [(40, 30), (30, 40), (33, 32), (32, 32), (9, 60), (60, 9), (5, 7), (641, 480)]
            for way in ways for channels in (1, 3)]
    rows += [((60, 9), 3, (32, 32), "pad=124,116,104")]
    rows += [((7, 5), channels, (5, 7) if turned > 4 else (7, 5), "exif=%d" % turned)
             for turned in range(2, 9) for channels in (1, 3)]
    rows += [((50, 23), 3, (16, 16), "exif=6 crop=20"), ((50, 23), 3, (16, 16), "exif=8 pad=0,0,0")]
    return ["    {%d, %d, %d, %d, %d, \"%s\", 0x%08xu}," % (*source, channels, *to, words, zlib.crc32(
        framed(noise(*source, channels), to, words).tobytes())) for source, channels, to, words in rows]


def golden():
    sides = [(1, 1), (2, 2), (3, 5), (8, 8), (17, 40), (28, 28), (37, 29), (37, 11), (12, 29), (36, 28), (38, 30), (74, 58),
             (100, 7), (5, 90), (111, 200), (31, 64)]
    sources = [(37, 29), (1, 1), (1, 9), (300, 2), (64, 64), (227, 151)]
    resized = ["    {%d, %d, %d, %d, %d, 0x%08xu}," % (*source, channels, *to, zlib.crc32(
        noise(*source, channels).resize(to, Image.BILINEAR).tobytes()))
               for source in sources for to in sides for channels in (1, 3)]
    squares = ["    {%d, %d, %d, %d, %d, 0x%08xu}," % (*source, channels, size, size, zlib.crc32(
        fitted(noise(*source, channels), size).tobytes()))
               for source in [(40, 30), (30, 40), (33, 32), (32, 35), (9, 200), (200, 9), (16, 16), (5, 7), (641, 480)]
               for size in (1, 16, 27, 32) for channels in (1, 3)]
    rows = ["/* Made by make.py with Pillow. Not edited by hand. */", "/* clang-format off */",
            "typedef struct golden {",
            "    int w, h, channels, to_w, to_h; /* noise of this size, brought to that one */",
            "    uint32_t crc;                   /* CRC-32 of the result */",
            "} golden;", "", "static const golden golden_resized[] = {", *resized, "};", "",
            "/* short side to the size, then the middle */",
            "static const golden golden_fitted[] = {", *squares, "};", "",
            "/* in the words of a framing; with exif=N for the N that EXIF says */", "typedef struct golden_framing {",
            "    int w, h, channels, to_w, to_h;", "    const char *words;", "    uint32_t crc;", "} golden_framing;", "",
            "static const golden_framing golden_framed[] = {", *framings(), "};", "", "/* noise of 64x64 from colour to grey */",
            "#define GREY_CRC 0x%08xu" % zlib.crc32(noise(64, 64, 3).convert("L").tobytes())]
    fashion = os.path.join("..", "..", "examples", "data", "fashion")
    for split in ("train", "test"):
        crc, count = 0, 0
        for name in sorted(os.listdir(os.path.join(fashion, split)), key=os.fsencode):
            sheet = Image.open(os.path.join(fashion, split, name))
            for y in range(0, sheet.height, 28):
                for x in range(0, sheet.width, 28):
                    crc, count = zlib.crc32(sheet.crop((x, y, x + 28, y + 28)).tobytes(), crc), count + 1
        rows += ["", "/* pixels of examples/data/fashion/%s */" % split,
                 "#define FASHION_%s_COUNT %d" % (split.upper(), count),
                 "#define FASHION_%s_CRC 0x%08xu" % (split.upper(), crc)]
    write("golden.h", ("\n".join(rows) + "\n").encode())


pictures()
idx_files()
golden()
