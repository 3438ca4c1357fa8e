#!/usr/bin/env python3
"""Which lines and branches of kd.h the test programs reach, taken together.

usage: tests/coverage.py [--list] [FOLDER]

Builds every tests/test_*.c with gcc --coverage at -O1, which folds what is constant in an inlined copy, runs it, and
adds up what gcov says. A line or branch that exists several times, once for each instruction set, counts once for
each. --list: also what was not reached. FOLDER (build/coverage) keeps programs and counts; programs whose counts are
there are not run again.
"""
import collections
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("kd.h", "examples/images.h")
GOALS = {"lines": 95.0, "branches": 90.0}


def measure(source, folder):
    """What gcov knows about kd.h after one program has run."""
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "counts.json"
    if not result.exists():
        subprocess.run(["gcc", "-std=gnu99", "-O1", "--coverage", "-fopenmp", "-w", str(source), "-o", "program",
                        "-lcmocka", "-lm"], cwd=folder, check=True)
        subprocess.run(["./program"], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        counts = next(folder.glob("*.gcda"))
        text = subprocess.run(["gcov", "-b", "--json-format", "--stdout", counts.name], cwd=folder, check=True,
                              capture_output=True, text=True).stdout
        found = {f["file"]: f["lines"] for f in json.loads(text)["files"]}
        result.write_text(json.dumps({name: found.get(str(ROOT / name), []) for name in SOURCES}))
    return json.loads(result.read_text())["kd.h"]


def section_of_lines():
    """The section that each line of kd.h belongs to."""
    names, name = [], "api"
    for line in (ROOT / "kd.h").read_text().split("\n"):
        banner = re.match(r"   >>(\w+) {4}", line)
        name = banner.group(1) if banner else name
        names.append(name)
    return names


def main():
    listing = "--list" in sys.argv
    rest = [a for a in sys.argv[1:] if a != "--list"]
    folder = pathlib.Path(rest[0] if rest else ROOT / "build" / "coverage")
    lines, branches = collections.Counter(), collections.Counter()
    for source in sorted((ROOT / "tests").glob("test_*.c")):
        for line in measure(source, folder / source.stem):
            place = (line["line_number"], line.get("function_name", ""))
            lines[place] += line["count"]
            for i, branch in enumerate(line["branches"]):
                branches[place + (i,)] += branch["count"]
    text = (ROOT / "kd.h").read_text().split("\n")
    sections = section_of_lines()
    table = collections.defaultdict(lambda: [0, 0, 0, 0])
    for column, counts in ((0, lines), (2, branches)):
        for place, count in counts.items():
            for row in (table[sections[place[0] - 1]], table["all of kd.h"]):
                row[column] += count > 0
                row[column + 1] += 1
    print(f"{'section':14} {'lines':>7} {'reached':>9} {'branches':>9} {'reached':>9}")
    for name, (hit, of, taken, ways) in table.items():
        print(f"{name:14} {of:7} {100 * hit / max(of, 1):8.1f}% {ways:9} {100 * taken / max(ways, 1):8.1f}%")
    if listing:
        missed = collections.defaultdict(list)
        for place, count in lines.items():
            if count == 0:
                missed[place[0]].append("line")
        for place, count in branches.items():
            if count == 0 and lines[place[:2]]:
                missed[place[0]].append(f"branch {place[2]}")
        for number in sorted(missed):
            print(f"{number}: {text[number - 1].strip()}   [{len(missed[number])}: {missed[number][0]}]")
    hit, of, taken, ways = table["all of kd.h"]
    reached = {"lines": 100 * hit / of, "branches": 100 * taken / ways}
    short = [name for name in GOALS if reached[name] < GOALS[name]]
    for name in short:
        print(f"{name}: {reached[name]:.1f} % reached, {GOALS[name]:.0f} % wanted")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
