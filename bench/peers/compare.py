"""kd.h beside PyTorch and ONNX Runtime: training, distillation, prediction, losses, memory.

Everything but memory runs in this process in turn, kd through ctypes: one process for each interpreter. Results are
checked against each other before they are timed. `make bench` runs it; by hand: python3 bench/peers/compare.py --help
"""
import argparse
import copy
import ctypes
import io
import json
import os
import statistics
import subprocess
import sys
import time
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(HERE, "..", "..", "build")
BATCH, CLASSES, TEMPERATURE, ALPHA = 128, 10, 4.0, 0.9


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases, fewer rounds")
    parser.add_argument("--only", default="", help="one group: training, features, prediction, losses, memory")
    parser.add_argument("--case", default="", help="cases with this text in their name")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default="auto", help="instruction set of kd: scalar, avx2, avx512, neon")
    parser.add_argument("--repeats", type=int, default=0, help="rounds, 9 (--quick: 5)")
    parser.add_argument("--json", help="appends the results to the array in this file")
    parser.add_argument("--library", default=os.path.join(BUILD, "libkdbench.so"))
    parser.add_argument("--train-once", action="store_true", help="prints the peak memory of PyTorch in training")
    parser.add_argument("--import-once", action="store_true", help="prints that of `import torch` alone")
    return parser.parse_args()


options = arguments()


def peak():
    """Peak memory of this process so far, in MB."""
    with open("/proc/self/status") as status:
        return int([line for line in status if line.startswith("VmHWM")][0].split()[1]) / 1024


os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
rounds = options.repeats or (5 if options.quick else 9)

try:
    import torch
    if options.import_once:
        print(peak())
        sys.exit()
    import torch.nn.functional as F
except ImportError:
    sys.exit("PyTorch is missing: sudo apt-get install python3-torch, or make -C bench peers for the newest one")
onnxruntime = None
try:
    if not options.train_once:  # whose memory is PyTorch's alone
        import onnxruntime
except ImportError:
    pass

torch.set_num_threads(options.threads)
PYTORCH = "PyTorch " + ".".join(torch.__version__.split(".")[:2])
torch.manual_seed(1)
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*torch.jit")


# ---- kd ------------------------------------------------------------------------------------------------------

class Kd:
    """One model (and teacher) of kd, or none for losses."""
    library = None

    def __init__(self, spec=None, teacher=None, capacity=BATCH):
        if Kd.library is None:
            Kd.library = ctypes.CDLL(options.library)
            Kd.library.bench_open.restype = ctypes.c_void_p
            Kd.library.bench_error.restype = Kd.library.bench_isa.restype = ctypes.c_char_p
        text = [None if s is None else s.encode() for s in (spec, teacher)]
        self.handle = ctypes.c_void_p(Kd.library.bench_open(text[0], text[1], capacity, options.threads,
                                                             options.isa.encode()))
        if not self.handle.value:
            sys.exit(f"kd cannot open {spec} on {options.isa}")
        self.isa = Kd.library.bench_isa(self.handle).decode()

    def close(self):
        Kd.library.bench_close(self.handle)

    def call(self, name, *args):
        if getattr(Kd.library, name)(self.handle, *args) != 0:
            sys.exit(f"{name}: {Kd.library.bench_error(self.handle).decode()}")

    def copy_weights(self, module, of_teacher=0):
        tensors = [t.detach().contiguous() for name, t in module.state_dict().items()
                   if not name.endswith("num_batches_tracked")]
        if Kd.library.bench_tensors(self.handle, of_teacher) != len(tensors):
            sys.exit("kd and PyTorch have different models")
        for i, p in enumerate(tensors):
            self.call("bench_set_tensor", of_teacher, i, address(p), ctypes.c_int64(p.numel()))

    def train(self, x, labels, epochs=1):
        loss = ctypes.c_double()
        self.call("bench_train", address(x), address(labels), len(x), CLASSES, epochs, ctypes.byref(loss))
        return loss.value


def address(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


# ---- measuring -----------------------------------------------------------------------------------------------

def time_of(function, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return time.perf_counter() - start


def repeats_of(function, least=0.005):
    seconds, repeats = time_of(function, 1), 1
    while seconds < least:
        repeats = max(repeats * 2, int(repeats * least * 1.2 / max(seconds, 1e-7)) if seconds > least / 64 else 0)
        seconds = time_of(function, repeats)
    return repeats


def wanted(group, name, quick=True):
    return (quick or not options.quick) and options.only in ("", group) and options.case in name


shown = None


def report(group, name, unit, isa, value, ratio=None, best=None):
    """value: by contestant, kd first. ratio: median and quartiles of kd over the best peer."""
    global shown
    peers = [n for n in value if n != "kd"]
    heading = f"\n{group}: {unit}, {isa}, {options.threads} thread{'s' * (options.threads > 1)}\n{'':36} {'kd':>9}"
    heading += "".join(f" {n:>{max(11, len(n))}}" for n in peers)
    heading += "    kd / best peer [quartiles]" if best else ""
    if heading != shown:
        print(heading)
        shown = heading
    line = f"{name:36} {value['kd']:9.4g}" + "".join(f" {value[n]:{max(11, len(n))}.4g}" for n in peers)
    if best:
        line += f"    {ratio[1]:.2f} [{ratio[0]:.2f} {ratio[2]:.2f}] {best}"
    print(line, flush=True)
    if not options.json:
        return
    results = []
    if os.path.exists(options.json):
        with open(options.json) as file:
            results = json.load(file)
    results.append({"group": group, "case": name, "threads": options.threads, "isa": isa, "unit": unit,
                    "kd": value["kd"], "peers": {n: value[n] for n in peers},
                    "ratio_best_peer": ratio[1] if best else None,
                    "ratio_quartiles": [ratio[0], ratio[2]] if best else None,
                    "best_peer": best, "fraction_of_peak": None})
    with open(options.json, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(r) for r in results) + "\n]\n")


def measure(group, name, unit, isa, contestants, work):
    """contestants: functions by name, kd first; work: of one call, in what the unit counts (per second)."""
    repeats = {n: repeats_of(f) for n, f in contestants.items()}
    times = {n: [] for n in contestants}
    order = list(contestants)
    for r in range(rounds):
        for n in order[r % len(order):] + order[:r % len(order)]:
            times[n].append(time_of(contestants[n], repeats[n]) / repeats[n])
    median = {n: statistics.median(t) for n, t in times.items()}
    best, ratio = None, None
    if len(order) > 1:
        best = min(order[1:], key=median.get)
        ratios = sorted(b / a for a, b in zip(times["kd"], times[best]))
        ratio = [ratios[len(ratios) // 4], statistics.median(ratios), ratios[-1 - len(ratios) // 4]]
    if unit == "us":  # less is better
        value = {n: t / work * 1e6 for n, t in median.items()}
    else:
        value = {n: work / t for n, t in median.items()}
    report(group, name, unit, isa, value, ratio, best)


def agree(what, got, expected, tolerance):
    got, expected = torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    worst = ((got - expected).abs() / (1 + expected.abs())).max().item()
    if not worst <= tolerance:
        sys.exit(f"{what}: differs from kd by {worst:.3g}, more than {tolerance:.3g}")


# ---- models --------------------------------------------------------------------------------------------------

def mlp(*sizes):
    layers = []
    for i, o in zip(sizes, sizes[1:]):
        layers += [torch.nn.Linear(i, o), torch.nn.ReLU()]
    spec = f"{sizes[0]}: " + ", relu, ".join(f"dense {o}" for o in sizes[1:])
    return spec, lambda: torch.nn.Sequential(*[copy.deepcopy(layer) for layer in layers[:-1]]), (sizes[0],)


def cnn(a, b):
    layers = [torch.nn.Conv2d(1, a, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
              torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
              torch.nn.Linear(b * 49, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)]
    spec = (f"1x28x28: conv {a} 3 pad=1, relu, maxpool 2, conv {b} 3 pad=1, relu, maxpool 2, "
            "dense 128, relu, dense 10")
    return spec, lambda: torch.nn.Sequential(*[copy.deepcopy(layer) for layer in layers]), (1, 28, 28)


class Residual(torch.nn.Module):
    """The sum of some layers and of their input, through a 1x1 convolution where the shapes differ."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(a, b, 3, stride, 1, bias=False), torch.nn.BatchNorm2d(b), torch.nn.ReLU(),
            torch.nn.Conv2d(b, b, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(b))
        self.shortcut = torch.nn.Sequential(
            torch.nn.Conv2d(a, b, 1, stride, bias=False), torch.nn.BatchNorm2d(b)) if stride > 1 else torch.nn.Identity()

    def forward(self, x):
        return F.relu(self.layers(x) + self.shortcut(x))


def normed(conv, **how):
    """Layers and their words: a convolution, batch normalisation, ReLU."""
    layer = torch.nn.Conv2d(*conv, bias=False, **how)
    pad, groups = layer.padding[0], layer.groups
    word = (f"depthwise {conv[2]} stride={layer.stride[0]} pad={pad}" if groups > 1 else
            f"conv {conv[1]} {conv[2]} stride={layer.stride[0]} pad={pad}")
    return [layer, torch.nn.BatchNorm2d(conv[1]), torch.nn.ReLU()], f"{word} bias=0, batchnorm, relu, "


def joined(parts, end, end_word):
    layers = [layer for part, _ in parts for layer in part] + end
    spec = "3x32x32: " + "".join(word for _, word in parts) + end_word
    return spec, lambda: copy.deepcopy(torch.nn.Sequential(*layers)), (3, 32, 32)


STAGES = "low", "middle", "high"


def resnet(blocks):
    """He et al. 2016, section 4.2, with projections."""
    parts = [normed((3, 16, 3), padding=1)]
    for level in range(3):
        for block in range(blocks):
            b, stride = 16 << level, 2 if level and not block else 1
            tag = STAGES[level] + ": " if block == blocks - 1 else ""
            parts.append(([Residual(b // stride, b, stride)],
                          f"residual(conv {b} 3 stride={stride} pad=1 bias=0, batchnorm, relu, "
                          f"conv {b} 3 pad=1 bias=0, batchnorm), {tag}relu, "))
    return joined(parts, [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)], "gap, dense 10")


def mobilenet():
    parts, a = [normed((3, 32, 3), padding=1)], 32
    for i in range(6):
        b = a * (1 + i % 2)
        parts += [normed((a, a, 3), padding=1, stride=1 + i % 2, groups=a), normed((a, b, 1))]
        a = b
    return joined(parts, [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(a, 10)], "gap, dense 10")


def vgg():
    parts, a = [], 3
    for b in (32, 64, 128):
        parts += [normed((a, b, 3), padding=1), normed((b, b, 3), padding=1), ([torch.nn.MaxPool2d(2)], "maxpool 2, ")]
        a = b
    return joined(parts, [torch.nn.Flatten(), torch.nn.Linear(a * 16, 10)], "flatten, dense 10")


MODELS = {"mlp": {"large": mlp(784, 1200, 1200, 10), "small": mlp(784, 64, 10)},
          "cnn": {"large": cnn(32, 64), "small": cnn(8, 16)}}
# with batch normalisation, as on 32x32 photos
NORMED = {"resnet8": resnet(1), "resnet20": resnet(3), "mobilenet": mobilenet(), "vgg": vgg()}


# ---- training ------------------------------------------------------------------------------------------------

def adam(module):
    try:
        return torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    except (RuntimeError, TypeError):
        return torch.optim.Adam(module.parameters(), lr=1e-3)


def hinton(student, teacher, labels):
    soft = F.kl_div(F.log_softmax(student / TEMPERATURE, 1), F.softmax(teacher / TEMPERATURE, 1),
                    reduction="batchmean") * TEMPERATURE ** 2
    return ALPHA * soft + (1 - ALPHA) * F.cross_entropy(student, labels)


class Trainer:
    """An epoch of PyTorch, data resident, as one would write it by hand."""

    def __init__(self, module, teacher, x, labels, channels_last=False, compiled=False, feature=None):
        form = torch.channels_last if channels_last else torch.contiguous_format
        self.x, self.labels = x.contiguous(memory_format=form), labels
        self.module = module.to(memory_format=form)
        self.teacher = teacher.to(memory_format=form).eval() if teacher else None
        self.feature = feature.to(memory_format=form) if feature else None
        self.optimizer = adam(torch.nn.ModuleList([self.module] + [feature] * bool(feature)))
        if compiled:
            self.module = torch.compile(self.module)
            self.teacher = torch.compile(self.teacher) if teacher else None

    def epoch(self, shuffle=True):
        order = torch.randperm(len(self.x)) if shuffle else None
        for first in range(0, len(self.x), BATCH):
            part = order[first:first + BATCH] if shuffle else slice(first, first + BATCH)
            x, labels = self.x[part], self.labels[part]
            logits, features = with_stages(self.module, x) if self.feature else (self.module(x), None)
            if self.teacher:
                with torch.no_grad():
                    soft, wanted = with_stages(self.teacher, x) if self.feature else (self.teacher(x), None)
                loss = hinton(logits, soft, labels)
                if self.feature:
                    loss = loss + self.feature(features, wanted)
            else:
                loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return loss.item()


def trainings():
    """Name, student, teacher, images, whether they are images, and whether --quick has it."""
    few = 512 if options.quick else 2048
    for kind, models in MODELS.items():
        yield f"{kind} large", models["large"], None, few, kind == "cnn", True
        yield f"{kind} small", models["small"], None, 4 * few, kind == "cnn", False
        yield f"{kind} distil", models["small"], models["large"], 4 * few, kind == "cnn", True
    for name, model in NORMED.items():
        yield name, model, None, few, True, name == "resnet8"
    yield "resnet8 from resnet20", NORMED["resnet8"], NORMED["resnet20"], few, True, False


def bench_training():
    for what, (spec, make, shape), teacher, images, is_image, quick in trainings():
        if wanted("training", what, quick):
            x, labels = torch.rand(images, *shape), torch.randint(CLASSES, (images,))
            labels32 = labels.to(torch.int32)
            kd = Kd(spec, teacher and teacher[0])

            def start(**how):
                module, old = make(), teacher and teacher[1]()
                kd.copy_weights(module)
                if old:
                    kd.copy_weights(old, 1)
                return Trainer(module, old, how.pop("x", x), how.pop("labels", labels), **how)

            # three steps from the same weights have the same losses: the same model, loss and optimizer
            for steps in (1, 3):
                check = start(x=x[:BATCH], labels=labels[:BATCH])
                loss = [check.epoch(False) for _ in range(steps)][-1]
                mine = kd.train(x[:BATCH], labels32[:BATCH], steps)
                # Adam divides small gradients by themselves: with batchnorm, PyTorch in float is as far from PyTorch in
                # double by then
                agree(f"the loss of {what} at step {steps}", loss, mine, 2e-3 if steps > 1 and what in NORMED else 2e-4)
            contestants = {"kd": lambda: kd.train(x, labels32), PYTORCH: start().epoch}
            if is_image:
                contestants[PYTORCH + " nhwc"] = start(channels_last=True).epoch
            if hasattr(torch, "compile") and not options.quick:
                try:
                    compiled = start(compiled=True, channels_last=is_image)
                    compiled.epoch()
                    contestants[PYTORCH + " compiled"] = compiled.epoch
                except Exception as error:  # no compiler, no support for this Python ...
                    print(f"torch.compile does not work here: {str(error).splitlines()[0]}")
            measure("training", what, "images/s", kd.isa, contestants, images)
            kd.close()


# ---- losses on features --------------------------------------------------------------------------------------

def with_stages(net, x):
    """Logits of a ResNet, and what its three stages put out."""
    stages, blocks = [], [layer for layer in net if isinstance(layer, Residual)]
    ends = blocks[len(blocks) // 3 - 1::len(blocks) // 3]
    for layer in net:
        x = layer(x)
        if layer in ends:
            stages.append(x)
    return x, stages


class Feature(torch.nn.Module):
    """The formulas of kd.h's manual as one would write them with autograd; on what the last stage puts out."""

    def forward(self, ours, theirs):
        return self.value(ours[2], theirs[2])


class Hint(Feature):
    def value(self, s, t):
        return F.mse_loss(s, t)


class At(Feature):
    def value(self, s, t):
        s, t = (F.normalize(x.pow(2).sum(1).flatten(1)) for x in (s, t))
        return F.mse_loss(s, t)


class Sp(Feature):
    def value(self, s, t):
        s, t = (x.flatten(1) for x in (s, t))
        return (F.normalize(s @ s.T) - F.normalize(t @ t.T)).pow(2).mean()


class Rkd(Feature):
    def value(self, s, t):
        def distances(x):
            square = x.pow(2).sum(1)
            d = (square[:, None] + square[None, :] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
            d = d * (1 - torch.eye(len(x)))
            return d / d[d > 0].mean()

        def angles(x):
            e = F.normalize(x[None, :] - x[:, None], dim=2)
            return torch.bmm(e, e.transpose(1, 2))

        s, t = (x.flatten(1) for x in (s, t))
        return (25 * F.smooth_l1_loss(distances(s), distances(t)) + 50 * F.smooth_l1_loss(angles(s), angles(t)))


class Pkt(Feature):
    def value(self, s, t):
        def shares(x):
            x = x.flatten(1)
            x = x / (x.norm(dim=1, keepdim=True) + 1e-7)
            p = (x @ x.T + 1) / 2
            return p / p.sum(1, keepdim=True)

        s, t = shares(s), shares(t)
        return (t * torch.log((t + 1e-7) / (s + 1e-7))).mean()


class Nst(Feature):
    def value(self, s, t):
        s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))

        def kernel(a, b):
            return torch.bmm(a, b.transpose(1, 2)).pow(2).mean()

        return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


class Vid(Feature):
    def __init__(self):
        super().__init__()
        conv = lambda: torch.nn.Conv2d(64, 64, 1, bias=False)
        self.mean = torch.nn.Sequential(conv(), torch.nn.ReLU(), conv(), torch.nn.ReLU(), conv())
        self.spread = torch.nn.Parameter(torch.full((64,), 5.0))

    def value(self, s, t):
        v = (F.softplus(self.spread) + 1e-5)[None, :, None, None]
        return 0.5 * ((self.mean(s) - t) ** 2 / v + v.log()).mean()


class Crd(Feature):
    def __init__(self):
        super().__init__()
        self.ours, self.theirs = torch.nn.Linear(4096, 128), torch.nn.Linear(4096, 128)

    def value(self, s, t):
        e, f = F.normalize(self.ours(s.flatten(1))), F.normalize(self.theirs(t.flatten(1)))
        products, own = e @ f.T / 0.07, torch.arange(len(e))
        return F.cross_entropy(products, own) + F.cross_entropy(products.T, own)


class Review(Feature):
    WIDTHS = 16, 32, 64

    def __init__(self):
        super().__init__()
        normed = lambda a, b, side: torch.nn.Sequential(torch.nn.Conv2d(a, b, side, padding=side // 2, bias=False),
                                                        torch.nn.BatchNorm2d(b))
        self.into = torch.nn.ModuleList(normed(w, 64, 1) for w in self.WIDTHS)
        self.out = torch.nn.ModuleList(normed(64, w, 3) for w in self.WIDTHS)
        self.gate = torch.nn.ModuleList(torch.nn.Conv2d(128, 2, 1) for _ in self.WIDTHS[:2])

    @staticmethod
    def context(o, t):
        loss, share, shares = F.mse_loss(o, t), 1.0, 1.0
        for side in (4, 2, 1):
            if side < t.shape[2]:
                share /= 2
                shares += share
                loss = loss + share * F.mse_loss(F.adaptive_avg_pool2d(o, side), F.adaptive_avg_pool2d(t, side))
        return loss / shares

    def forward(self, ours, theirs):
        loss, x = 0, None
        for level in (2, 1, 0):
            y = self.into[level](ours[level])
            if x is not None:
                x = F.interpolate(x, y.shape[2:], mode="nearest")
                gates = torch.sigmoid(self.gate[level](torch.cat([y, x], 1)))
                y = y * gates[:, :1] + x * gates[:, 1:]
            x = y
            loss = loss + self.context(self.out[level](x), theirs[level])
        return loss


# those that learn something start from other weights than kd's, so that their values cannot be compared here; the
# tests do that
FEATURES = {"hint": (Hint, True), "at": (At, True), "sp": (Sp, True), "rkd": (Rkd, True), "pkt": (Pkt, True),
            "nst": (Nst, True), "vid": (Vid, False), "crd": (Crd, False), "review": (Review, False)}


def bench_features():
    """ResNet-8 from ResNet-20, by hinton and a loss on features. The first row has none: what is left is the loss."""
    few, (spec, make, shape), (teacher_spec, make_teacher, _) = 512, NORMED["resnet8"], NORMED["resnet20"]
    for word in ["none", *FEATURES]:
        if not wanted("features", word, word in ("none", "vid")):
            continue
        x, labels = torch.rand(few, *shape), torch.randint(CLASSES, (few,))
        labels32 = labels.to(torch.int32)
        kd = Kd(spec, teacher_spec)
        if word in FEATURES:
            kd.call("bench_feature", word.encode(), ", ".join(STAGES).encode() if word == "review" else b"high")

        def start(**how):
            module, old = make(), make_teacher()
            kd.copy_weights(module)
            kd.copy_weights(old, 1)
            feature = FEATURES[word][0]() if word in FEATURES else None
            return Trainer(module, old, how.pop("x", x), how.pop("labels", labels), feature=feature, **how)

        if word == "none" or FEATURES[word][1]:
            check = start(x=x[:BATCH], labels=labels[:BATCH]).epoch(False)
            agree(f"the loss of {word}", check, kd.train(x[:BATCH], labels32[:BATCH]), 1e-3)
            kd.copy_weights(make())
        measure("features", word, "images/s", kd.isa,
                {"kd": lambda: kd.train(x, labels32), PYTORCH: start().epoch,
                 PYTORCH + " nhwc": start(channels_last=True).epoch}, few)
        kd.close()


# ---- prediction ----------------------------------------------------------------------------------------------

def onnx_session(module, x):
    """A session of ONNX Runtime, or None with a word why not."""
    if onnxruntime is None:
        return None
    try:
        file = io.BytesIO()
        names = {"input_names": ["x"], "output_names": ["y"]}
        try:
            torch.onnx.export(module, x, file, dynamo=False, **names)
        except TypeError:
            torch.onnx.export(module, x, file, **names)
        config = onnxruntime.SessionOptions()
        config.intra_op_num_threads, config.inter_op_num_threads = options.threads, 1
        return onnxruntime.InferenceSession(file.getvalue(), config, providers=["CPUExecutionProvider"])
    except Exception as error:
        print(f"ONNX Runtime cannot be used: {str(error).splitlines()[0]}")
        return None


def bench_prediction():
    for kind, models in MODELS.items():
        for role, (spec, make, shape) in models.items():
            for count in (1, BATCH):
                unit = "us" if count == 1 else "images/s"
                name = f"{kind} {role}, batch {count}"
                if not wanted("prediction", name, role == "small"):
                    continue
                module = make().eval()
                x, logits = torch.rand(count, *shape), torch.empty(count, CLASSES)
                kd = Kd(spec, capacity=count)
                kd.copy_weights(module)

                def run_torch(run=module):
                    with torch.inference_mode():
                        return run(x)

                contestants = {"kd": lambda: kd.call("bench_predict", address(x), count, address(logits)),
                               PYTORCH: run_torch}
                contestants["kd"]()
                agree(f"PyTorch's {name}", run_torch(), logits, 1e-4)
                with torch.no_grad():
                    frozen = torch.jit.freeze(torch.jit.trace(module, x))
                for _ in range(3):  # it optimises in its first runs
                    agree(f"TorchScript's {name}", run_torch(frozen), logits, 1e-4)
                contestants[PYTORCH + " jit"] = lambda: run_torch(frozen)
                session = onnx_session(module, x)
                if session:
                    feed = {"x": x.numpy()}
                    agree(f"ONNX Runtime's {name}", session.run(None, feed)[0], logits, 1e-4)
                    contestants["ONNX Runtime"] = lambda: session.run(None, feed)
                measure("prediction", name, unit, kd.isa, contestants, count)
                kd.close()


# ---- softmax and losses --------------------------------------------------------------------------------------

def bench_losses():
    kd = Kd()
    for rows, cols in ((128, 10), (1024, 100), (4096, 1000), (256, 32000)):
        student, teacher = torch.randn(rows, cols), torch.randn(rows, cols)
        labels = torch.randint(cols, (rows,))
        labels32, out, value = labels.to(torch.int32), torch.empty(rows, cols), ctypes.c_double()
        leaf = student.clone().requires_grad_()

        def run_torch():
            leaf.grad = None
            loss = hinton(leaf, teacher, labels)
            loss.backward()
            return loss.item()

        def run_kd():
            kd.call("bench_hinton", address(student), address(teacher), address(labels32), rows, cols, address(out),
                    ctypes.byref(value))

        def softmax_kd():
            kd.call("bench_softmax", address(student), rows, cols, ctypes.c_float(TEMPERATURE), address(out))

        def softmax_torch():
            with torch.inference_mode():
                return torch.softmax(student / TEMPERATURE, 1)

        if wanted("losses", f"hinton {rows}x{cols}"):
            run_kd()
            agree("PyTorch's loss", run_torch(), value.value, 1e-4)
            agree("PyTorch's gradient", leaf.grad * rows, out * rows, 1e-4)
            measure("losses", f"hinton {rows}x{cols}", "logits/s", kd.isa, {"kd": run_kd, PYTORCH: run_torch},
                    rows * cols)
        if wanted("losses", f"softmax {rows}x{cols}"):
            softmax_kd()
            agree("PyTorch's softmax", softmax_torch(), out, 1e-5)
            measure("losses", f"softmax {rows}x{cols}", "logits/s", kd.isa,
                    {"kd": softmax_kd, PYTORCH: softmax_torch}, rows * cols)
    kd.close()


# ---- memory --------------------------------------------------------------------------------------------------

def train_once():
    """Peak memory of this process after an epoch of the large MLP, in MB."""
    images = 1024
    x, labels = torch.rand(images, 784), torch.randint(CLASSES, (images,))
    Trainer(MODELS["mlp"]["large"][1](), None, x, labels).epoch()
    print(peak())


def bench_memory():
    name = "peak, training mlp large"
    if not wanted("memory", name):
        return
    threads = ["--threads", str(options.threads)]
    torch_alone = [sys.executable, os.path.abspath(__file__), *threads]
    commands = {"kd": [os.path.join(BUILD, "bench"), "--train-once", "--isa", options.isa, *threads],
                PYTORCH: [*torch_alone, "--train-once"], "import torch": [*torch_alone, "--import-once"]}
    value = {who: float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
             for who, command in commands.items()}
    ratio = value[PYTORCH] / value["kd"]
    kd = Kd()
    report("memory", name, "MB", kd.isa, value, [ratio] * 3, PYTORCH)
    kd.close()


if options.train_once:
    train_once()
else:
    print(f"\nPyTorch {torch.__version__}, " +
          (f"ONNX Runtime {onnxruntime.__version__}" if onnxruntime else
           "ONNX Runtime is missing: make -C bench peers"))
    for run in (bench_training, bench_features, bench_prediction, bench_losses, bench_memory):
        run()
