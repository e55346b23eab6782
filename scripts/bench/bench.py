#!/usr/bin/env python3
"""Runs stillframe, restic and borg side by side on the same disks, and prints one table and which bars are met.

  bench.py IMAGES WORK --stillframe BINARY --floor BINARY [--restic BINARY] [--borg BINARY]

RUNS (3) is how often each step is measured, medians are shown; TOOLS (stillframe,restic,borg) leaves some out; SERIES=30
adds a series of so many days, for sizes. Every step starts with its image in the page cache. All encrypt; restic and borg
compress as they do by default (borg: zstd,3). CPU is user and system time of the process and its children.
"""
import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

RUNS = int(os.environ.get("RUNS", "3"))
TOOLS = os.environ.get("TOOLS", "stillframe,restic,borg").split(",")
SERIES = int(os.environ.get("SERIES", "0"))
SECRET = "a passphrase for the bench"
PEERS = ("restic", "borg")
MIB = 1 << 20


class Measured:
    def __init__(self, wall, cpu, peak, stored):
        self.wall, self.cpu, self.peak, self.stored = wall, cpu, peak, stored


def tree_bytes(folder):
    seen, total = set(), 0
    for at, _, files in os.walk(folder):
        for name in files:
            state = os.stat(f"{at}/{name}")
            if state.st_ino not in seen:
                seen.add(state.st_ino)
                total += state.st_size
    return total


def measure(command, environment, folder=None, where=None):
    """One run of a command: wall and CPU seconds, peak memory and what `folder` holds afterwards, in MiB."""
    with open(os.devnull, "wb") as quiet:
        start = time.monotonic()
        child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=quiet, stderr=subprocess.PIPE, cwd=where)
        complaint = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"bench: {' '.join(command)} failed:\n{complaint.decode(errors='replace')}")
    stored = tree_bytes(folder) / MIB if folder else 0
    return Measured(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, stored)


def warm(path):
    with open(path, "rb") as file:
        while file.read(8 * MIB):
            pass


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(8 * MIB):
            sha.update(block)
    return sha.hexdigest()


class Tool:
    """One program and its repository. Images come in under one path, as one machine's disk does day by day."""

    def __init__(self, work, binary):
        self.work, self.binary = f"{work}/{self.name}", binary
        self.repository = f"{self.work}/repository"

    def start(self):
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(f"{self.work}/out")
        os.makedirs(f"{self.work}/in")
        self.run(self.init())

    def run(self, command):
        return measure(command, self.environment(), self.repository, self.work)

    def present(self, image):
        path = f"{self.work}/in/vm.raw"
        if os.path.exists(path):
            os.unlink(path)
        os.link(image, path)
        warm(path)
        return path

    def environment(self):
        return {}


class Stillframe(Tool):
    name = "stillframe"

    def environment(self):
        return {"STILLFRAME_PASSPHRASE": SECRET}

    def repo(self, verb, *words):
        return [self.binary, "repo", verb, "--path", self.repository, *words]

    def init(self):
        return self.repo("init")

    def backup(self, image, machine="vm1", areas=None):
        words = ["--changed-areas", areas] if areas else []
        return self.run(self.repo("backup", "--disk", self.present(image), "--machine", machine, *words))

    def restore(self):
        listed = subprocess.run(self.repo("list", "--json"), env={**os.environ, **self.environment()}, check=True,
                                stdout=subprocess.PIPE).stdout
        point = json.loads(listed)["points"][-1]["id"]
        out = f"{self.work}/out/vm.raw"
        return self.run(self.repo("restore", "--point", point, "--disk", "2000", "--output", out)), out

    def verify(self):
        return self.run(self.repo("verify"))


class Restic(Tool):
    name = "restic"

    def environment(self):
        return {"RESTIC_PASSWORD": SECRET, "RESTIC_CACHE_DIR": f"{self.work}/cache"}

    def restic(self, *words):
        return [self.binary, "-q", "-r", self.repository, *words]

    def init(self):
        return self.restic("init")

    def backup(self, image, machine="vm1", areas=None):
        return self.run(self.restic("backup", "--force", "--read-concurrency", "2", self.present(image)))

    def restore(self):
        out = f"{self.work}/out"
        return self.run(self.restic("restore", "--sparse", "latest", "--target", out)), f"{out}{self.work}/in/vm.raw"

    def verify(self):
        return self.run(self.restic("check", "--read-data"))


class Borg(Tool):
    name = "borg"
    count = 0

    def environment(self):
        return {"BORG_PASSPHRASE": SECRET, "BORG_BASE_DIR": f"{self.work}/base", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}

    def init(self):
        return [self.binary, "init", "-e", "repokey-blake2", self.repository]

    def backup(self, image, machine="vm1", areas=None):
        self.count += 1
        options = ["--chunker-params", "fixed,4194304", "-C", "zstd,3", "--sparse", "--files-cache", "disabled"]
        return self.run([self.binary, "create", *options, f"{self.repository}::{self.count}", self.present(image)])

    def restore(self):
        self.run([self.binary, "list", self.repository])
        out = f"{self.work}/out"
        done = measure([self.binary, "extract", "--sparse", f"{self.repository}::{self.count}"], self.environment(),
                       self.repository, out)
        return done, f"{out}{self.work}/in/vm.raw"

    def verify(self):
        return self.run([self.binary, "check", "--verify-data", self.repository])


def one_run(tool, images, note):
    """All steps of one tool. `stored` of each backup is what it added."""
    def added(step, measured, before):
        note(step, measured, measured.stored - before)
        return measured.stored

    tool.start()
    empty = tree_bytes(tool.repository) / MIB
    size = added("full", tool.backup(f"{images}/vm1-day1.raw"), empty)
    if tool.name == "stillframe":
        shutil.copytree(tool.repository, f"{tool.repository}.day1", copy_function=os.link)
        reread = tool.backup(f"{images}/vm1-day2.raw")
        note("re-read", reread, reread.stored - size)
        shutil.rmtree(tool.repository)
        os.rename(f"{tool.repository}.day1", tool.repository)
        size = added("areas", tool.backup(f"{images}/vm1-day2.raw", areas=f"{images}/vm1-day2.areas"), size)
    else:
        size = added("re-read", tool.backup(f"{images}/vm1-day2.raw"), size)
    size = added("clone", tool.backup(f"{images}/vm2-day1.raw", "vm2"), size)
    size = added("re-installed", tool.backup(f"{images}/vm3-day1.raw", "vm3"), size)
    restored, path = tool.restore()
    if digest(path) != digest(f"{images}/vm3-day1.raw"):
        raise SystemExit(f"bench: {tool.name} restored something else")
    note("restore", restored, os.stat(path).st_blocks / 2048)
    note("verify", tool.verify(), size)
    shutil.rmtree(tool.work)


def floor(binary, images, work, note):
    os.makedirs(work, exist_ok=True)
    stored = f"{work}/floor.stored"
    for step, words in {
        "full": [f"{images}/vm1-day1.raw", os.devnull],
        "areas": [f"{images}/vm1-day2.raw", os.devnull, f"{images}/vm1-day2.areas"],
        "re-read": [f"{images}/vm1-day2.raw", os.devnull],
    }.items():
        warm(words[0])
        note(step, measure([binary, "store", *words], {}), 0)
    measure([binary, "store", f"{images}/vm3-day1.raw", stored], {})
    note("restore", measure([binary, "restore", stored, f"{work}/floor.out"], {}), 0)
    for name in (stored, f"{work}/floor.out"):
        os.unlink(name)


def series(tools, images, work):
    """Days one after the other, sizes only: what each tool stores after so many."""
    from importlib import import_module
    make = import_module("make-images")
    for tool in tools:
        tool.start()
    before, sizes = f"{images}/vm1-day1.raw", {}
    for day in range(1, SERIES + 1):
        after = before
        if day > 1:
            after = f"{work}/series-{day}.raw"
            make.next_day(before, after, day)
        for tool in tools:
            areas = f"{work}/series-{day}.areas" if day > 1 else None
            sizes.setdefault(tool.name, []).append(tool.backup(after, areas=areas).stored)
        if day > 2:
            os.unlink(before)
        before = after
        print(f"bench: day {day}: " + ", ".join(f"{name} {days[-1]:.0f} MiB" for name, days in sizes.items()), flush=True)
    return {name: days[-1] for name, days in sizes.items()}


STEPS = ("full", "areas", "re-read", "clone", "re-installed", "restore", "verify")


def print_table(results):
    """results[tool][step]: medians of wall, cpu, peak, added."""
    print(f"\nmedians of {RUNS}; CPU and wall in seconds, peak memory and bytes stored in MiB; “:peer” is the best peer's figure"
          " over ours, “:floor” ours over the floor's\n")
    print(f"{'step':<13}{'tool':<12}{'CPU':>8}{'wall':>8}{'peak':>7}{'stored':>9}{':peer':>8}{':floor':>8}")
    for step in STEPS:
        for tool in ("floor", "stillframe", *PEERS):
            found = results[tool].get(step)
            if not found:
                continue
            best = best_cpu(results, step)
            ratio = f"{best / found['cpu']:.1f}" if tool == "stillframe" and best else ""
            under = results["floor"].get(step)
            over = f"{found['cpu'] / under['cpu']:.2f}" if tool == "stillframe" and under else ""
            stored = f"{found['added']:.0f}" if found["added"] else ""
            print(f"{step:<13}{tool:<12}{found['cpu']:>8.2f}{found['wall']:>8.2f}{found['peak']:>7.0f}{stored:>9}"
                  f"{ratio:>8}{over:>8}")


def best(results, step, figure):
    peers = [results[tool][step][figure] for tool in PEERS if step in results[tool]]
    return min(peers) if peers else None


def best_cpu(results, step):
    return best(results, "re-read" if step == "areas" else step, "cpu")


def print_bars(results, after_series):
    ours = results["stillframe"]
    bars = []

    def at_least(name, wanted, found):
        bars.append((name, f"≥ {wanted:g}", found, found >= wanted))

    def at_most(name, wanted, found):
        bars.append((name, f"≤ {wanted:g}", found, found <= wanted))

    if any(results[tool] for tool in PEERS):
        for step, wanted in {"full": 2.5, "areas": 15, "re-read": 5, "clone": 3, "re-installed": 3, "restore": 2.2}.items():
            at_least(f"{step}: CPU, best peer over ours", wanted, best_cpu(results, step) / ours[step]["cpu"])
        per_mib = lambda tool: results[tool]["verify"]["cpu"] / results[tool]["verify"]["added"]
        at_least("verify: CPU per stored MiB, best peer over ours", 2,
                 min(per_mib(tool) for tool in PEERS if results[tool]) / per_mib("stillframe"))
        at_most("areas: stored over the best peer's", 0.55, ours["areas"]["added"] / best(results, "re-read", "added"))
        at_most("clone: stored over the best peer's", 1.05, ours["clone"]["added"] / best(results, "clone", "added"))
        at_most("re-installed: stored over the best peer's", 0.3,
                ours["re-installed"]["added"] / best(results, "re-installed", "added"))
        total = lambda tool, steps: sum(results[tool][step]["added"] for step in steps)
        at_most("size after one full", 1.15, ours["full"]["added"] / best(results, "full", "added"))
        three = min(total(tool, ("full", "re-read", "clone")) for tool in PEERS if results[tool])
        at_most("size after three", 1.06, total("stillframe", ("full", "areas", "clone")) / three)
        if after_series:
            peers = min(after_series[tool] for tool in PEERS if tool in after_series)
            at_most(f"size after {SERIES} days", 0.70, after_series["stillframe"] / peers)
    if "full" in results["floor"]:
        at_most("full: wall over the floor's CPU / cores", 1.5,
                ours["full"]["wall"] / (results["floor"]["full"]["cpu"] / os.cpu_count()))
    at_most("memory of a backup, MiB", 128, max(ours[step]["peak"] for step in STEPS[:5]))
    print()
    for name, wanted, found, met in bars:
        print(f"{'met   ' if met else 'MISSED'}  {name:<52}{wanted:>8}{found:>9.2f}")
    return all(met for *_, met in bars)


def main():
    arguments = argparse.ArgumentParser(usage=__doc__)
    for name in ("images", "work"):
        arguments.add_argument(name)
    for name in ("stillframe", "floor", "restic", "borg"):
        arguments.add_argument(f"--{name}", default=shutil.which(name))
    options = arguments.parse_args()
    classes = {"stillframe": Stillframe, "restic": Restic, "borg": Borg}
    tools = [classes[name](os.path.abspath(options.work), os.path.abspath(getattr(options, name))) for name in TOOLS]
    found = defaultdict(lambda: defaultdict(list))
    for number in range(1, RUNS + 1):
        # Side by side: a slow moment of the machine falls on all.
        floor(options.floor, options.images, options.work, lambda *row: found["floor"][row[0]].append(row[1:]))
        for tool in tools:
            print(f"bench: run {number} of {RUNS}, {tool.name}", flush=True)
            one_run(tool, options.images, lambda *row, name=tool.name: found[name][row[0]].append(row[1:]))
    results = defaultdict(dict)
    for tool, steps in found.items():
        for step, rows in steps.items():
            median = lambda values: statistics.median(list(values))
            results[tool][step] = {
                "wall": median(row[0].wall for row in rows), "cpu": median(row[0].cpu for row in rows),
                "peak": median(row[0].peak for row in rows), "added": median(row[1] for row in rows),
            }
    with open(f"{options.work}/results.json", "w") as file:
        json.dump(results, file, indent=1)
    after_series = series(tools, options.images, options.work) if SERIES else {}
    print_table(results)
    met = print_bars(results, after_series)
    raise SystemExit(0 if met else 1)


if __name__ == "__main__":
    main()
