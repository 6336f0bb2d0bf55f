#!/usr/bin/env python3
"""Checks that modules include only what tools/layers.txt allows.

A module is a folder of src/. Its line in layers.txt names the modules whose headers it may include
(`#include "module/..."`); its own headers always are allowed. A second line `module tests:` may
name what its tests, benches and fuzzers (x_test.cc, x_bench.cc, x_fuzz.cc, x_testing.h) may include
besides. Refused are also: a folder of src/ without a line, a line that names an unknown module or
two modules that need each other, and a quoted include that is no module's (third-party headers
stand in angle brackets).

Prints one line per violation and exits 1 if there is one, 0 if there is none, 2 on bad usage.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

# `python` is listed like a module, but its sources lie beside src/.
OUTSIDE_SRC = {"python"}
SOURCE_SUFFIXES = {".cc", ".h", ".cpp", ".cu", ".cuh", ".hpp", ".inc"}
TEST_FILE = re.compile(r"_(test|bench|fuzz|testing)\.(cc|h)$")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
TEST_FRAMEWORKS = {"gtest", "gmock", "benchmark"}


def read_layers(path):
    """Returns (allowed, allowed_in_tests, problems); both maps go from module to a set."""
    allowed, in_tests, problems = {}, {}, []
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = raw.split("#")[0].strip()
        if not line:
            continue
        name, colon, rest = line.partition(":")
        words = name.split()
        if not colon or len(words) not in (1, 2) or words[1:] not in ([], ["tests"]):
            problems.append(f"{path.name}:{number}: not 'module: modules' or 'module tests: modules'")
            continue
        table = in_tests if len(words) == 2 else allowed
        if words[0] in table:
            problems.append(f"{path.name}:{number}: {name.strip()} is listed twice")
        table[words[0]] = set(rest.split())
    for table in (allowed, in_tests):
        for module, others in table.items():
            for other in sorted({module, *others} - allowed.keys()):
                problems.append(f"{path.name}: {module}: '{other}' is not a listed module")
    problems += [
        f"{path.name}: {module} and others need each other: {' -> '.join(cycle)}"
        for module, cycle in find_cycles(allowed)
    ]
    return allowed, in_tests, problems


def find_cycles(allowed):
    """At most one cycle, as [(module, path)]."""
    done = set()

    def visit(module, trail):
        if module in trail:
            return trail[trail.index(module) :] + [module]
        if module in done:
            return None
        for other in sorted(allowed.get(module, ())):
            if other != module and (cycle := visit(other, trail + [module])):
                return cycle
        done.add(module)
        return None

    for module in sorted(allowed):
        if cycle := visit(module, []):
            return [(module, cycle)]
    return []


def check_file(path, shown, module, allowed, in_tests):
    is_test = TEST_FILE.search(path.name) is not None
    reachable = allowed[module] | {module}
    if is_test:
        reachable = reachable | in_tests.get(module, set())
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        first = target.split("/")[0]
        if is_test and first in TEST_FRAMEWORKS:
            continue
        if "/" not in target or first not in allowed:
            yield f'{shown}:{number}: "{target}" is no module\'s header'
        elif first not in reachable:
            yield f"{shown}:{number}: {module} may not include {first} ({target})"


def check(root):
    allowed, in_tests, problems = read_layers(root / "tools" / "layers.txt")
    source = root / "src"
    folders = {entry.name: entry for entry in source.iterdir() if entry.is_dir()}
    for name in sorted(folders.keys() - allowed.keys()):
        problems.append(f"src/{name}: not listed in tools/layers.txt")
    for name in sorted(allowed.keys() - folders.keys() - OUTSIDE_SRC):
        problems.append(f"tools/layers.txt: {name}: no such folder in src")
    for entry in sorted(source.iterdir()):
        if entry.is_file() and entry.suffix in SOURCE_SUFFIXES:
            problems.append(f"src/{entry.name}: belongs to no module")
    for name in OUTSIDE_SRC & allowed.keys():
        if (root / name).is_dir():
            folders[name] = root / name
    for name in sorted(folders.keys() & allowed.keys()):
        for path in sorted(folders[name].rglob("*")):
            if path.suffix in SOURCE_SUFFIXES and path.is_file():
                problems += check_file(path, path.relative_to(root), name, allowed, in_tests)
    return problems


GOOD_TREE = {
    "tools/layers.txt": "# comment\nbase:\nmem: base\nstore: base\nstore tests: mem\n",
    "src/base/a.h": "#include <vector>\n",
    "src/mem/b.cc": '#include "mem/b.h"\n#include "base/a.h"\n',
    "src/mem/b.h": "",
    "src/store/c.cc": '#include "base/a.h"\n',
    "src/store/c_test.cc": '#include "mem/b.h"\n#include "gtest/gtest.h"\n',
}
# What is laid over the good tree, and words of the one violation that it must give.
BAD_TREES = [
    ({"src/store/c.cc": '#include "mem/b.h"\n'}, "store may not include mem"),
    ({"src/base/a.h": '  #  include "store/c.h"\n'}, "base may not include store"),
    ({"src/mem/b_test.cc": '#include "store/c.h"\n'}, "mem may not include store"),
    ({"src/mem/b_fuzz.cc": '#include "other/x.h"\n'}, "is no module's header"),
    ({"src/mem/b.cc": '#include "b.h"\n'}, "is no module's header"),
    ({"src/mem/b.cc": '#include "gtest/gtest.h"\n'}, "is no module's header"),
    ({"src/new/d.cc": ""}, "src/new: not listed"),
    ({"src/e.cc": ""}, "belongs to no module"),
    ({"tools/layers.txt": "base:\nmem: base\nstore: base mem\ngone:\n"}, "gone: no such folder"),
    ({"tools/layers.txt": "base:\nmem: base\nstore: base mem nothing\n"}, "'nothing' is not"),
    ({"tools/layers.txt": "base: store\nmem: base\nstore: base mem\n"}, "need each other"),
    ({"tools/layers.txt": "base:\nmem: base\nmem: base\nstore: base mem\n"}, "listed twice"),
    ({"tools/layers.txt": "base:\nmem: base\nstore: base mem\nwhat\n"}, "not 'module: modules'"),
]


def self_test():
    """Each kind of violation is found, and only it; the good tree has none."""
    failures = []
    for number, (changes, expected) in enumerate([({}, None), *BAD_TREES]):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, text in {**GOOD_TREE, **changes}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            problems = check(root)
        good = problems == [] if expected is None else (len(problems) == 1 and expected in problems[0])
        if not good:
            failures.append(f"self-test {number}: expected {expected!r}, found {problems}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        help="top of the repository (default: the one this file lies in)",
    )
    parser.add_argument("--self-test", action="store_true", help="check that every kind of violation is found")
    arguments = parser.parse_args()
    problems = self_test() if arguments.self_test else check(arguments.root)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
