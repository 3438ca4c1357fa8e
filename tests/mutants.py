#!/usr/bin/env python3
"""Changes an operator or a constant of kd.h, in a copy, and looks whether the tests notice.

usage: tests/mutants.py [COUNT] [SEED]     JOBS=1: one after another, instead of one for each processor

Each mutant is one change in a line of a loss, a layer, a kernel or a loader. It meets the test programs of its
section, compiled quickly: for portable kernels only, which are compiled once where they have not changed. Mutants that
pass meet them again as `make test` compiles them, for every instruction set and with sanitizers. Those that pass again
have survived, and are printed; whether one means the same as the original is for a reader to say, in
tests/equivalent.txt. Those, and mutants that do not compile, do not count. Fails if fewer than 95 % are caught.
"""
import concurrent.futures
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = {  # section: what tests it, the likeliest first
    "softmax": ["losses", "kernels", "methods"],
    "losses": ["losses", "methods"],
    "layers": ["layers", "training", "tasks", "models", "memory"],
    "spec": ["models", "tasks", "memory"],
    "attack": ["ways", "memory"],
    "data": ["training", "models", "tasks", "methods", "memory"],
    "optim": ["training", "ways", "checkpoints", "memory"],
    "features": ["features", "memory"],
    "train": ["training", "tasks", "methods", "ways", "checkpoints", "memory"],
    "pate": ["tasks", "memory"],
    "diagnose": ["methods", "memory"],
    "io": ["files", "checkpoints", "memory"],
    "kernels": ["kernels", "layers", "losses"],
}
CHANGES = [  # the first becomes the second; 1 becomes 0 since any other number would be as true
    (r"(?<![-+<>=!*/&|^%]) \+ (?!\+)", " - "),
    (r"(?<![-+<>=!*/&|^%(,]) - (?!-)", " + "),
    (r" \* ", " / "),
    (r" / ", " * "),
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" > ", " >= "),
    (r" >= ", " > "),
    (r" == ", " != "),
    (r" != ", " == "),
    (r" && ", " || "),
    (r" \|\| ", " && "),
    (r" \+= ", " -= "),
    (r"\b0\.5\b", "0.25"),
    (r"\b1\b", "0"),
    (r"\b0\b", "1"),
]
# Not changed, since nothing but speed, which of many random streams is drawn from, or what AddressSanitizer sees would
# be different: how many rows a task takes, what is fetched before it is needed, the numbers of streams, and fences.
NEUTRAL_FUNCTION = re.compile(r"kd__rows_per_task\(|kd__\w+_soon\(|fetch_v\(|KD__FN\((look_ahead|wino_fetch|fetch_share)\)")
NEUTRAL_LINE = re.compile(r"kd__rng_key\(|\bsoon(_[xy]|_step)?\b|\bnext_d?[xy]\b|KD__FENCE_|kd__give_back")
LIMIT = re.compile(r"(\S+) [<>]=? (\S+)(?= \? (?:\2 : \1\b|\1 : \2[;,)]))")  # a < b ? b : a is the same with <=
BUILDS = {
    "quick": [shutil.which("clang") or "gcc", "-O0", "-DKD_NO_SIMD"],  # clang needs a third of the time here
    "thorough": ["gcc", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
}
SLOW = ("features", "kernels", "layers")  # at -O0 they run for longer than -O1 takes to compile
ENVIRONMENT = dict(os.environ, ASAN_OPTIONS="hard_rss_limit_mb=4000", OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive")


def sections(lines):
    """The numbers of the lines of code of each section that has tests."""
    found, name, neutral = {}, None, False
    for number, line in enumerate(lines):
        if line.startswith("KD"):
            neutral = bool(NEUTRAL_FUNCTION.search(line))
        banner = re.match(r"   >>(\w+) {4}", line)
        if banner:
            name = banner.group(1)
        code = re.sub(r'/\*.*?\*/|"[^"]*"', "", line)
        if name in PROGRAMS and line.startswith("    ") and not line.startswith("   >>") and code.strip():
            if not neutral and not NEUTRAL_LINE.search(line) and not re.search(
                    r"kd__fail|KD__PRIVATE|^ +(static|enum|typedef|#)|\*/|/\*", line):
                found.setdefault(name, []).append(number)
    return found


def changed(line, dice):
    """The line with one change, or None."""
    places = [(m, new) for old, new in CHANGES for m in re.finditer(old, line)]
    places = [(m, new) for m, new in places if line[: m.start()].count('"') % 2 == 0]
    limits = [match.span(0) for match in LIMIT.finditer(line)]
    places = [(m, new) for m, new in places
              if m.group() not in (" < ", " <= ", " > ", " >= ") or not any(a <= m.start() < b for a, b in limits)]
    if not places:
        return None
    match, new = dice.choice(places)
    return line[: match.start()] + new + line[match.end():]


def equivalents():
    """Pairs of a line and of what means the same."""
    found = [line[2:] for line in (ROOT / "tests/equivalent.txt").read_text().split("\n") if line[:2] in ("- ", "+ ")]
    return set(zip(found[::2], found[1::2]))


def mutants(lines, seed):
    """Without end, none twice: section, number of a line, the line changed."""
    dice, places, seen, same = random.Random(seed), sections(lines), set(), equivalents()
    while True:
        section = dice.choice(sorted(places))
        number = dice.choice(places[section])
        line = changed(lines[number], dice)
        if line is not None and (number, line) not in seen and (lines[number].strip(), line.strip()) not in same:
            seen.add((number, line))
            yield section, number, line


def compiles(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


def passes(program, folder, seconds):
    """Whether all tests pass in that time; the first that does not is enough to know."""
    with subprocess.Popen(["sh", "-c", program], cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        timer = threading.Timer(20 * seconds, process.kill)  # only for one that waits for ever
        timer.start()
        failed = any(b"[  ERROR   ]" in line for line in process.stderr)
        timer.cancel()
        if failed:
            process.kill()
    return not failed and process.returncode == 0


class Bench:
    """Compiles and runs the test programs over kd.h and mutants of it."""

    def __init__(self, folder):
        self.original = folder / "original"
        self.lines = (ROOT / "kd.h").read_text().split("\n")
        self.limits, self.lock = {}, threading.Lock()
        self.original.mkdir()
        shutil.copytree(ROOT / "tests", self.original / "tests")
        shutil.copy(ROOT / "kd.h", self.original)

    def compile(self, folder, build, test, whole):
        """whole: with the kernels of this folder's kd.h, otherwise with the original's."""
        options = [*BUILDS[build], "-std=gnu99", "-w", *(["-O1"] if test in SLOW else [])]
        apart = [] if whole else ["-DKD__KERNELS_APART", str(self.original / f"kernels-{build}.o")]
        return compiles([*options, f"tests/test_{test}.c", *apart, "-o", f"{build}-{test}", "-lcmocka", "-lm"], folder)

    def passes(self, folder, build, test, seconds):
        limits = f"ulimit -t {seconds:.0f}" + ("; ulimit -v 4000000" if build == "quick" else "")
        return passes(f"{limits}; exec ./{build}-{test}", folder, seconds)  # AddressSanitizer limits memory itself

    def limit(self, build, test, whole):
        """Seconds of a processor that a mutant may take: many times those of the original, which must pass."""
        with self.lock:
            kernels, name = f"kernels-{build}.o", (build, test, whole)
            if not whole and not (self.original / kernels).exists():
                compiles([*BUILDS[build], "-std=gnu99", "-w", "-O1", "-c", "tests/kernels.c", "-o", kernels],
                         self.original)
            if name not in self.limits:
                built, started = self.compile(self.original, build, test, whole), time.monotonic()
                if not built or not self.passes(self.original, build, test, 1000):
                    sys.exit(f"test_{test} does not pass as it is, {build}")
                self.limits[name] = 10 + 10 * (time.monotonic() - started)
            return self.limits[name]

    def caught(self, build, mutant):
        """Whether a test fails; None if the mutant does not compile."""
        section, number, line = mutant
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            shutil.copytree(self.original / "tests", folder / "tests")
            (folder / "kd.h").write_text("\n".join([*self.lines[:number], line, *self.lines[number + 1:]]))
            for test in PROGRAMS[section]:
                whole = section == "kernels" or test == "kernels"
                limit = self.limit(build, test, whole)
                if not self.compile(folder, build, test, whole):
                    return None
                if not self.passes(folder, build, test, limit):
                    return True
        return False


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    jobs = int(os.environ.get("JOBS") or os.cpu_count())
    met, survivors = [], []
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        bench = Bench(pathlib.Path(name))
        more = mutants(bench.lines, seed)
        while len(met) < count:
            batch = [next(more) for _ in range(min(count - len(met), 10 * jobs))]
            caught = list(pool.map(bench.caught, ["quick"] * len(batch), batch))
            met += [mutant for mutant, result in zip(batch, caught) if result is not None]
            survivors += [mutant for mutant, result in zip(batch, caught) if result is False]
            left = ", ".join(str(number + 1) for _, number, _ in survivors)
            print(f"{len(met)} mutants; left for the thorough programs: {left or 'none'}", file=sys.stderr, flush=True)
        caught = list(pool.map(bench.caught, ["thorough"] * len(survivors), survivors))
        count -= caught.count(None)  # those compile for portable kernels only
        survivors = [mutant for mutant, result in zip(survivors, caught) if result is False]
    for section, number, line in survivors:
        print(f"survived  {section}, line {number + 1}\n  - {bench.lines[number].strip()}\n  + {line.strip()}")
    print(f"{count} mutants of seed {seed}, {count - len(survivors)} caught, {len(survivors)} survived")
    return 1 if len(survivors) > 0.05 * count else 0


if __name__ == "__main__":
    sys.exit(main())
