#!/usr/bin/env python3
"""Tidegate beside llama.cpp on one machine: one table, and what the machine itself can do."""
import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import cases
import cgroup
import machine
import processes
import programs
import report
from cases import MIB

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

EXAMPLES = """examples:
  bench/peer/run.py --q4-gguf model.Q4_0.gguf --q8-gguf model.Q8_0.gguf --json peer.json
  bench/peer/run.py --q8-gguf model.Q8_0.gguf --only capped --cap 4GiB
  bench/peer/run.py --q4-gguf model.Q4_0.gguf --only resident,resident-prefill --svg peer.svg
  bench/peer/run.py --q4-gguf model.Q4_0.gguf --only resident-streams --streams 1,8
  bench/peer/run.py --list

The capped cases need root: a memory control group holds each program, its shared memory and its page
cache. Everything else also runs without. README.md beside this file says what is measured and how.
"""


def parse_bytes(text):
    units = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
    number = text.rstrip("kKMGiB")
    try:
        value = int(float(number) * units[text[len(number):]])
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write for example 4GiB") from None
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0")
    return value


def whole(low):
    """A type for add_argument: decimal digits, at least `low`."""
    def parse(text):
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= low):
            raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a whole number from {low} to 999999999")
        return int(text)
    return parse


positive = whole(1)


def numbers_of_streams(text):
    """A comma-separated list of them, each once, in rising order."""
    return sorted({positive(part.strip()) for part in text.split(",")})


def chosen_cases(text):
    try:
        return cases.cases_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parser():
    p = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("--q4-gguf", type=pathlib.Path, metavar="FILE", help="a Q4_0 file, for the resident cases")
    add("--q8-gguf", type=pathlib.Path, metavar="FILE", help="a Q8_0 file of the same model, for the capped cases")
    add("--q4-pack", type=pathlib.Path, metavar="FILE", help="its pack, made if missing [FILE.q4.tgpack]")
    add("--q8-pack", type=pathlib.Path, metavar="FILE", help="its pack, made if missing [FILE.q8.tgpack]")
    add("--only", type=chosen_cases, default=cases.DEFAULT_CASES, metavar="CASE,...",
        help=f"cases to run [{cases.DEFAULT_CASES}]; --list shows all")
    add("--programs", choices=("both", "tidegate", "llama.cpp"), default="both", help="[both]")
    add("--runs", type=positive, default=3, help="rounds; medians are printed [3]")
    add("--cap", type=parse_bytes, metavar="BYTES", help="of the capped cases [half of the GGUF file + 300 MiB]")
    add("--overhead", type=parse_bytes, metavar="BYTES",
        help="of the cap, for what tidegate's --memory-budget does not cover: code, heap, activations, page tables "
             "[96 MiB, and 256 KiB for each token of the prompt]")
    add("--pin-slack", type=parse_bytes, default=500 * MIB, metavar="BYTES",
        help="of the cap, not pinned for llama.cpp [500MiB]")
    add("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="of both programs [one per core]")
    add("--prompt", type=positive, default=512, help="tokens of the prefill cases [512]")
    add("--tokens", type=positive, default=32, help="measured tokens of a run [32]")
    add("--warm-up", type=positive, default=32, help="tokens before them [32]")
    add("--streams", type=numbers_of_streams, default=[1, 4, 8, 16], metavar="N,...",
        help="numbers of streams of the cases with many; tokens and warm-up are of each stream [1,4,8,16]")
    add("--slow-tokens", type=positive, default=4,
        help="measured tokens of capped rows that read most of the file for each token [4]")
    add("--prefill-chunk", type=positive, default=512, help="of tidegate; llama.cpp takes the whole prompt [512]")
    add("--ids", type=pathlib.Path, metavar="FILE", help="token ids of a text, instead of pseudo-random ones")
    add("--build", type=pathlib.Path, default=REPOSITORY / "build" / "release", metavar="DIR",
        help="where tidegate was built [build/release]")
    add("--modules", type=pathlib.Path, default=REPOSITORY / "build" / "peer", metavar="DIR",
        help="where llama.cpp is installed from npm [build/peer]")
    add("--fio-seconds", type=whole(0), default=4, help="for each point; 0: no fio [4]")
    add("--cold-disk", action="store_true", help="do not read the files once beforehand")
    add("--lock", type=pathlib.Path, metavar="FILE", help="hold this lock (flock) during each run")
    add("--json", type=pathlib.Path, metavar="FILE", help="also write everything, every run included")
    add("--svg", type=pathlib.Path, metavar="FILE", help="also draw a bar chart")
    add("--list", action="store_true", help="print the cases and exit")
    return p


def make_setup(args, chosen):
    """Checks what was given and makes what is missing. SystemExit names the mistake."""
    if not (args.build / "tidegate").exists():
        sys.exit(f"{args.build / 'tidegate'} does not exist; run scripts/build, or say where with --build")
    files = {}
    for name in sorted({case.file for case in chosen}):
        gguf, pack = getattr(args, f"{name}_gguf"), getattr(args, f"{name}_pack")
        if gguf is None:
            needed = ", ".join(case.name for case in chosen if case.file == name)
            sys.exit(f"--{name}-gguf is missing; it is needed for {needed} (--only chooses cases)")
        if not gguf.exists():
            sys.exit(f"--{name}-gguf: {gguf} does not exist")
        files[name] = {"gguf": gguf.resolve(), "pack": (pack or gguf.with_suffix(f".{name}.tgpack")).resolve()}
    if any(case.capped for case in chosen):
        try:
            with cgroup.MemoryGroup(f"tidegate-peer-probe-{os.getpid()}"):
                pass
        except cgroup.Unavailable as error:
            sys.exit(f"the capped cases do not work here: {error}")
    setup = programs.Setup(build=args.build.resolve(), modules=args.modules.resolve(), files=files, ids=[],
                           threads=args.threads, overhead_bytes=args.overhead or 0, pin_slack_bytes=args.pin_slack,
                           prefill_chunk=args.prefill_chunk, cap_bytes=args.cap or 0)
    if args.programs != "tidegate":
        programs.install_peer(setup.modules)
    for name in files:
        programs.make_pack(setup, name)
    setup.ids = token_ids(args, setup, files, chosen)
    return setup


def token_ids(args, setup, files, chosen):
    streams = max(args.streams) if any(case.phase == "streams" for case in chosen) else 1
    needed = streams * (args.prompt + max(args.tokens, args.slow_tokens) + args.warm_up + 4)
    if args.ids:
        ids = [int(word) for word in args.ids.read_text().replace(",", " ").split()]
        if len(ids) < needed:
            sys.exit(f"--ids: {args.ids} holds {len(ids)} ids, {needed} are needed")
        return ids
    pack = next(iter(files.values()))["pack"]
    info = json.loads(subprocess.run([setup.build / "tidegate", "inspect", "--json", pack],
                                     stdout=subprocess.PIPE, check=True).stdout)
    generator = random.Random(1)
    # The first ids of a vocabulary are special: end of text and the like.
    return [generator.randrange(256, info["hyper_parameters"]["vocab_size"]) for _ in range(needed)]


def counts(args, case, entry):
    """(prompt, warm-up, measured tokens) of one run."""
    if case.phase == "prefill":
        return args.prompt, 0, 0
    prompt = min(16, args.prompt)
    if case.capped and entry.reads_everything:
        return prompt, 2, args.slow_tokens
    # Without a cap nothing is left to warm up once every weight was read.
    return prompt, args.warm_up if case.capped else 4, args.tokens


@contextlib.contextmanager
def locked(path):
    if path is None:
        yield
        return
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file lets go


def measure_machine(args, setup):
    files = next(iter(setup.files.values()))
    with locked(args.lock):
        if not args.cold_disk:
            for pair in setup.files.values():
                for path in pair.values():
                    note(f"reading {path} once")
                    machine.read_once(path)
        note("memory and fio")
        return {"facts": machine.facts(files["pack"]), "memory": machine.memory_bandwidth(setup.build),
                "fio": machine.fio(files["pack"], args.fio_seconds) if args.fio_seconds > 0 else []}


def run_case(args, setup, case):
    """Rows of one case. In every round each program runs once: in an order of its own in every second round (the
    same in every run), backwards in the one after it, so that none always comes after the same neighbour."""
    entries = [e for e in case.rows(args.streams) if args.programs in ("both", e.program)]
    samples, errors = {entry: [] for entry in entries}, {}
    for number in range(args.runs):
        order = random.Random(number // 2).sample(entries, len(entries))
        for entry in order if number % 2 == 0 else reversed(order):
            if entry in errors:
                continue
            start = time.monotonic()
            try:
                with locked(args.lock):
                    sample = programs.run(setup, case, entry, *counts(args, case, entry))
            except processes.Failed as error:
                errors[entry] = str(error)
                note(f"{case.name} {what(case, entry)}: {error}")
                continue
            samples[entry].append(sample)
            speed = sample["prefill_tokens_per_second" if case.phase == "prefill" else "tokens_per_second"]
            note(f"{case.name} round {number + 1}: {what(case, entry)} {report.speed_text(speed)} tokens/s "
                 f"({time.monotonic() - start:.0f} s)", *sample["warnings"])
    return [report.summarise(case, entry, samples[entry], errors.get(entry, "")) for entry in entries]


def what(case, entry):
    if case.phase != "streams":
        return entry.label
    return f"{entry.label} ({entry.streams} stream{'s' * (entry.streams != 1)})"


def note(*lines):
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def versions(setup):
    def first_line(*command):
        try:
            return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            return "unknown"
    peer = json.loads((programs.HERE / "package.json").read_text())["dependencies"]
    return {"tidegate": first_line(setup.build / "tidegate", "--version"), "node": first_line("node", "--version"),
            "node-llama-cpp": peer["node-llama-cpp"]}


def main():
    args = parser().parse_args()
    if args.list:
        for case in cases.CASES:
            print(f"{case.name:17} {case.about}: {', '.join(entry.label for entry in case.entries)}")
        return
    chosen = args.only if isinstance(args.only, list) else cases.cases_named(args.only)
    try:
        setup = make_setup(args, chosen)
        limits = measure_machine(args, setup)
        rows = []
        for case in chosen:
            rows += run_case(args, setup, case)
            report.add_ratios(rows, limits["fio"])
            save(args, setup, chosen, limits, rows)
    except (processes.Failed, cgroup.Unavailable) as error:
        sys.exit(f"bench/peer: {error}")
    print(report.machine_text(limits))
    for case in chosen:
        if case.capped:
            print(f"case {case.name}: all memory capped at {report.bytes_text(programs.cap_of(setup, case))}")
    print(report.table(rows))


def save(args, setup, chosen, limits, rows):
    """After every case, so that a long comparison that is interrupted leaves what it has."""
    if args.json:
        caps = {case.name: programs.cap_of(setup, case) for case in chosen}
        args.json.write_text(json.dumps({"machine": limits, "versions": versions(setup), "threads": args.threads,
                                         "caps": caps, "rows": rows}, indent=1) + "\n")
    if args.svg:
        args.svg.write_text(report.svg(rows))


if __name__ == "__main__":
    main()
