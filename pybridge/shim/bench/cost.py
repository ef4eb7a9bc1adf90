"""What a request costs in a worker, on every Python found: cost.py [--json] [PYTHON ...]

Two figures each, for a hello app and a request with ten headers: `shim` is all that a thread
does for it while it holds the GIL, the app's call included; `bare` is that call alone, from a loop
of C: the floor. Times are the best of some runs, each the median of its batches; other work on the
machine shows in them. Instructions come from valgrind and are the same each time; those of the
shim, of the interpreter and of the C library are told apart. drive.c says what is measured.

Run by `make -C pybridge/shim bench`, which builds what this needs.
"""

import argparse
import collections
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SHIM = os.path.join(os.path.dirname(HERE), "gophersnake_shim.so")
DRIVE = os.path.join(os.path.dirname(HERE), "build", "drive.so")
BOOT = os.path.join(HERE, "..", "..", "boot")

OLDEST = [3, 9]
BATCH = 64  # DRIVE_BATCH
TIMED_BATCHES = 2_000
COUNTED_BATCHES = 50
RUN_SECONDS_MAX = 120

PROBE = """
import json, sys
print(json.dumps({"path": sys.executable, "version": sys.version.replace("\\n", ""),
    "minor": sys.version_info[:2], "kind": sys.implementation.name}))
"""


def interpreters(asked):
    """Yield what PROBE says of each CPython that a worker can run on, each build once."""
    names = asked or [
        *(f"python3.{minor}{kind}" for minor in range(9, 16) for kind in ("", "t")),
        "python3",
        "/usr/bin/python3",
        *sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python3"))),
    ]
    seen = set()
    for name in names:
        try:
            out = subprocess.run([name, "-c", PROBE], capture_output=True, text=True, timeout=20)
            found = json.loads(out.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            if asked:
                sys.exit(f"cost.py: {name} is no Python that runs")
            continue  # pyenv's shims fail for versions that are not active
        if found["kind"] != "cpython" or found["minor"] < OLDEST or found["version"] in seen:
            continue
        seen.add(found["version"])
        yield found


def run(python, what, batches, *before):
    """Run serve.py and return the median and the least nanoseconds a request."""
    command = [*before, python["path"], os.path.join(HERE, "serve.py"), what, SHIM, BOOT,
               str(batches)]
    env = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
           "LD_PRELOAD": DRIVE}
    out = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, env=env)
    found = re.search(rf"^{what} ([\d.]+) ([\d.]+)$", out.stdout, re.MULTILINE)
    if out.returncode or not found:
        raise SystemExit(f"cost.py: {' '.join(command)}:\n{out.stdout}{out.stderr}")
    return float(found[1]), float(found[2])


def time_of(python, what, runs):
    return min(run(python, what, TIMED_BATCHES)[0] for _ in range(runs))


def by_object(path):
    """Sum callgrind's own costs by the file that the code comes from (its manual, format)."""
    names, totals = {}, collections.Counter()
    current, inclusive = None, False
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            name = re.match(r"(c?)ob=\((\d+)\)(?: (.*))?", line)
            if name:
                if name[3]:
                    names[name[2]] = name[3]
                if not name[1]:
                    current = name[2]
            elif line.startswith("calls="):
                inclusive = True  # the next line counts what is counted in the callee too
            elif re.match(r"[-+*\d]", line):
                if not inclusive:
                    totals[current] += int(line.split()[1])
                inclusive = False
    return {names.get(key, "?"): count for key, count in totals.items()}


def instructions(python, what):
    """Count the instructions of a request, by who executes them."""
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "callgrind.out")
        run(python, what, COUNTED_BATCHES, "valgrind", "--tool=callgrind", "--instr-atstart=no",
            "--collect-atstart=no", f"--callgrind-out-file={out}")
        parts = collections.Counter()
        for path, count in by_object(out).items():
            base = os.path.basename(path)
            if base == os.path.basename(DRIVE):
                continue
            part = "shim" if base == os.path.basename(SHIM) else "interpreter"
            if re.match(r"(libc|libm|libpthread|ld-).*\.so", base):
                part = "library"
            parts[part] += count
    if not parts:
        raise SystemExit("cost.py: nothing was counted: drive.so lacks valgrind's headers")
    return {part: round(count / COUNTED_BATCHES / BATCH, 1) for part, count in parts.items()}


def measure(python, runs, count):
    result = {"python": python["version"], "path": python["path"]}
    for what in ("shim", "bare"):
        if runs:
            result[f"{what}_ns"] = time_of(python, what, runs)
        if count:
            result[f"{what}_instructions"] = instructions(python, what)
    return result


def table(results):
    lines = [("python", "shim ns", "bare ns", "of the shim", "of Python", "of libc", "all", "bare")]
    for r in results:
        line = [r["python"].split()[0], r.get("shim_ns", ""), r.get("bare_ns", "")]
        if "shim_instructions" in r:
            found = r["shim_instructions"]
            parts = [found.get(part, 0) for part in ("shim", "interpreter", "library")]
            counts = [*parts, sum(parts), sum(r["bare_instructions"].values())]
            line += [f"{n:.0f}" for n in counts]
        lines.append(line)
    for line in lines:
        print("".join(f"{cell!s:>14}" for cell in line))
    for r in results:
        print(f"{r['python'].split()[0]:>14}  {r['path']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("python", nargs="*", help="interpreters (default: all found)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--list", action="store_true", help="only tell which there are")
    parser.add_argument("--runs", type=int, default=10, help="for the times; 0: none (10)")
    parser.add_argument("--instructions", choices=("auto", "yes", "no"), default="auto",
                        help="count instructions; auto: where there is valgrind")
    args = parser.parse_args()
    count = args.instructions == "yes" or args.instructions == "auto" and shutil.which("valgrind")
    if args.list:
        found = [{"python": p["version"], "path": p["path"]} for p in interpreters(args.python)]
        print(json.dumps(found, indent=1))
        return
    results = []
    for python in interpreters(args.python):
        results.append(measure(python, args.runs, count))
        print(results[-1]["python"].split()[0], "measured", file=sys.stderr)
    if args.json:
        json.dump(results, sys.stdout, indent=1)
        print()
    else:
        table(results)


main()
