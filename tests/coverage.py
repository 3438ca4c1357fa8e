#!/usr/bin/env python3
"""Which lines and branches of kd.h the test programs reach, taken together.

usage: tests/coverage.py [--list] [FOLDER]

Builds every tests/test_*.c with gcc --coverage at -O1, which folds what is constant in an inlined copy, runs it, and
adds up what gcov says. A line or branch that exists several times, once for each instruction set, counts once for
each. Fails if fewer lines or branches are reached than GOALS says, or if the readers and writers of files have a
branch that is not reached and not in tests/unreached.txt, or one that is there and is reached.
--list: also every line that is not reached, or has such a branch. FOLDER (build/coverage) keeps programs and counts;
programs whose counts are newer than all sources are not run again.
"""
import collections
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOALS = {"lines": 95.0, "branches": 90.0}
BANNERS = {"kd.h": r"   >>(\w+) {4}", "examples/images.h": r"/\* ---- (.+?) -+ \*/"}  # of what is measured
EVERY_BRANCH = {"kd.h": ("platform", "spec", "io"),
                "examples/images.h": ("bytes", "one file", "lists of files", "IDX")}  # sections


def measure(source, folder):
    """For each file, what gcov knows about it after one program has run."""
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "counts.json"
    sources = [ROOT / name for name in BANNERS] + list((ROOT / "tests").rglob("*.[ch]"))
    if not result.exists() or result.stat().st_mtime < max(file.stat().st_mtime for file in sources):
        for counts in folder.glob("*.gcda"):
            counts.unlink()
        subprocess.run(["gcc", "-std=gnu99", "-O1", "--coverage", "-w", str(source), "-o", "program",
                        "-lcmocka", "-lm"], cwd=folder, check=True)
        subprocess.run(["./program"], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        counts = next(folder.glob("*.gcda"))
        text = subprocess.run(["gcov", "-b", "--json-format", "--stdout", counts.name], cwd=folder, check=True,
                              capture_output=True, text=True).stdout
        found = {file["file"]: file["lines"] for file in json.loads(text)["files"]}
        result.write_text(json.dumps({name: found.get(str(ROOT / name), []) for name in BANNERS}))
    return json.loads(result.read_text())


class File:
    """A measured file: its lines, the section of each, and how often each place was passed."""

    def __init__(self, name):
        self.name, self.text, self.sections, section = name, (ROOT / name).read_text().split("\n"), [], "api"
        for line in self.text:
            banner = re.match(BANNERS[name], line)
            section = banner.group(1) if banner else section
            self.sections.append(section)
        self.lines, self.branches = collections.Counter(), collections.Counter()  # by number, function[, branch]

    def add(self, lines):
        for line in lines:
            place = (line["line_number"], line.get("function_name", ""))
            self.lines[place] += line["count"]
            for i, branch in enumerate(line["branches"]):
                self.branches[place + (i,)] += branch["count"]

    def table(self):
        """section: lines reached, lines, branches reached, branches; None: all of it."""
        rows = collections.defaultdict(lambda: [0, 0, 0, 0])
        for column, counts in ((0, self.lines), (2, self.branches)):
            for place, count in sorted(counts.items()):
                for section in (self.sections[place[0] - 1], None):
                    rows[section][column] += count > 0
                    rows[section][column + 1] += 1
        return rows

    def missed(self):
        """number of a line: how many of its branches were not reached, 1 for a line without branches."""
        found = collections.Counter(place[0] for place, count in self.branches.items() if count == 0)
        for place, count in self.lines.items():
            if count == 0 and place[0] not in found:
                found[place[0]] = 1
        return found


def check_every_branch(files):
    """Compares what the readers and writers of files miss with tests/unreached.txt; says what differs."""
    known, missed = collections.Counter(), collections.Counter()
    for line in (ROOT / "tests" / "unreached.txt").read_text().split("\n"):
        entry = re.match(r"(\d+)  (.+)", line)
        if entry:
            known[entry.group(2)] += int(entry.group(1))
    for file in files:
        for number, count in file.missed().items():
            if file.sections[number - 1] in EVERY_BRANCH[file.name]:
                missed[file.text[number - 1].strip()] += count
    wrong = [line for line in known | missed if known[line] != missed[line]]
    for line in wrong:
        print(f"{missed[line]} branches not reached, {known[line]} in tests/unreached.txt: {line}")
    return not wrong


def main():
    rest = [argument for argument in sys.argv[1:] if argument != "--list"]
    folder = pathlib.Path(rest[0] if rest else ROOT / "build" / "coverage")
    files = [File(name) for name in BANNERS]
    for source in sorted((ROOT / "tests").glob("test_*.c")):
        counts = measure(source, folder / source.stem)
        for file in files:
            file.add(counts[file.name])
    table = files[0].table()
    print(f"{'section':14} {'lines':>7} {'reached':>9} {'branches':>9} {'reached':>9}")
    for section in [*(section for section in table if section), None]:
        hit, of, taken, ways = table[section]
        print(f"{section or 'all of kd.h':14} {of:7} {100 * hit / max(of, 1):8.1f}% {ways:9} "
              f"{100 * taken / max(ways, 1):8.1f}%")
    if "--list" in sys.argv:
        for file in files:
            for number, count in sorted(file.missed().items()):
                print(f"{file.name}:{number}: {count}  {file.text[number - 1].strip()}")
    hit, of, taken, ways = table[None]
    reached = {"lines": 100 * hit / of, "branches": 100 * taken / ways}
    short = [name for name in GOALS if reached[name] < GOALS[name]]
    for name in short:
        print(f"{name}: {reached[name]:.1f} % reached, {GOALS[name]:.0f} % wanted")
    return 0 if check_every_branch(files) and not short else 1


if __name__ == "__main__":
    sys.exit(main())
