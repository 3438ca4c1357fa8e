#!/usr/bin/env python3
"""Changes an operator or a constant of kd.h, in a copy, and looks whether the tests notice.

usage: tests/mutants.py [COUNT] [SEED]

Each mutant is one change in a line of a loss, a layer, a kernel or a loader. The test programs of that section are
compiled, those that need only portable kernels with AddressSanitizer, and run; a mutant that they all pass has
survived, and is printed. Mutants that do not compile do not count; whether a survivor means the same as the original
is for a reader to say. Fails if fewer than 95 % are caught.
"""
import pathlib
import random
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = {  # section: what tests it, the likeliest first
    "softmax": ["losses"],
    "losses": ["losses", "methods"],
    "layers": ["layers", "training", "tasks"],
    "spec": ["models"],
    "attack": ["ways"],
    "data": ["training", "models", "tasks"],
    "optim": ["training", "ways", "checkpoints"],
    "features": ["features"],
    "train": ["training", "methods", "checkpoints", "ways", "tasks"],
    "pate": ["tasks"],
    "diagnose": ["methods"],
    "io": ["files", "checkpoints"],
    "kernels": ["kernels", "layers", "losses"],
}
CHANGES = [  # one side of each becomes the other
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
    (r"\b1\b", "2"),
    (r"\b0\b", "1"),
]
SECONDS = 120


def sections(lines):
    """The numbers of the lines of code of each section that has tests."""
    found, name = {}, None
    for number, line in enumerate(lines):
        banner = re.match(r"   >>(\w+) {4}", line)
        if banner:
            name = banner.group(1)
        code = re.sub(r'/\*.*?\*/|"[^"]*"', "", line)
        if name in PROGRAMS and line.startswith("    ") and not line.startswith("   >>") and code.strip():
            if not re.search(r"kd__fail|KD__PRIVATE|^ +(static|enum|typedef|#)|\*/|/\*", line):
                found.setdefault(name, []).append(number)
    return found


def changed(line, dice):
    """The line with one change, or None."""
    places = [(m, new) for old, new in CHANGES for m in re.finditer(old, line)]
    places = [(m, new) for m, new in places if line[: m.start()].count('"') % 2 == 0]
    if not places:
        return None
    match, new = dice.choice(places)
    return line[: match.start()] + new + line[match.end():]


def run(command, folder):
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def compile_program(folder, test, section):
    """Only changes in kernels need them compiled for every instruction set."""
    portable = [] if section == "kernels" else ["-DKD_NO_SIMD", "-fsanitize=address,undefined"]
    return run(["gcc", "-std=gnu99", "-O1", "-w", "-fopenmp", *portable, f"tests/test_{test}.c", "-o", test,
                "-lcmocka", "-lm"], folder)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    dice = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    original = (ROOT / "kd.h").read_text().split("\n")
    places = sections(original)
    caught = survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run(["cp", "-r", str(ROOT / "tests"), str(folder / "tests")], check=True)
        (folder / "kd.h").write_text("\n".join(original))
        for section, programs in PROGRAMS.items():
            for test in programs:
                if not compile_program(folder, test, section) or not run([f"./{test}"], folder):
                    sys.exit(f"test_{test} does not pass as it is")
        while caught + survived < count:
            section = dice.choice(sorted(places))
            number = dice.choice(places[section])
            line = changed(original[number], dice)
            if line is None:
                continue
            mutant = list(original)
            mutant[number] = line
            (folder / "kd.h").write_text("\n".join(mutant))
            noticed = False
            for test in PROGRAMS[section]:
                if not compile_program(folder, test, section):
                    noticed = None
                    break
                if not run([f"./{test}"], folder):
                    noticed = True
                    break
            if noticed is None:
                continue
            caught, survived = caught + noticed, survived + (not noticed)
            if not noticed:
                print(f"survived  {section}, line {number + 1}\n  - {original[number].strip()}\n  + {line.strip()}",
                      flush=True)
    print(f"{caught + survived} mutants, {caught} caught, {survived} survived")
    return 1 if caught < 0.95 * (caught + survived) else 0


if __name__ == "__main__":
    sys.exit(main())
