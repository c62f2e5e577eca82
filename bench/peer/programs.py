"""Runs one program once, in a memory group of its own, and says what came out of it."""
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import cgroup
import machine
import processes
import serving
from cases import MIB, default_cap, default_overhead
from processes import Failed

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Setup:
    """What all runs share."""
    build: pathlib.Path          # tidegate's build folder
    modules: pathlib.Path        # holds node_modules and a copy of llama.mjs
    files: dict                  # "q4", "q8" -> {"gguf": path, "pack": path}
    ids: list                    # of all streams, one after the other
    threads: int
    overhead_bytes: int          # of the cap, for what --memory-budget does not cover; 0: by length of the prompt
    pin_slack_bytes: int         # of the cap, left free of the pinned part
    prefill_chunk: int
    cap_bytes: int = 0           # 0: half of the file and 300 MiB


def install_peer(modules):
    """Installs llama.cpp from npm into `modules`, once for each package.json."""
    wanted, installed = HERE / "package.json", modules / "node_modules" / ".installed-package"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        if shutil.which("npm") is None or shutil.which("node") is None:
            raise Failed("node and npm are missing; install them (Node 20 or later), or leave llama.cpp out "
                         "(--programs tidegate)")
        modules.mkdir(parents=True, exist_ok=True)
        shutil.copy(wanted, modules / "package.json")
        # No install scripts: nothing is compiled, nothing fetched from elsewhere. The optional packages are
        # llama.cpp for other processors and graphics cards.
        command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--omit=optional", "--no-audit",
                   "--no-fund"]
        done = subprocess.run(command, cwd=modules, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)} failed in {modules}:\n{done.stdout.decode(errors='replace')[-2000:]}")
        shutil.copy(wanted, installed)
    shutil.copy(HERE / "llama.mjs", modules / "llama.mjs")


def make_pack(setup, name):
    """Packs the file `name` unless its pack exists."""
    gguf, pack = setup.files[name]["gguf"], setup.files[name]["pack"]
    if pack.exists():
        return
    print(f"packing {gguf} into {pack}", file=sys.stderr)
    done = subprocess.run([setup.build / "tidegate", "pack", gguf, "-o", pack, "--units", name],
                          stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Failed(f"tidegate pack {gguf} failed")


def cap_of(setup, case):
    """Bytes of the case's cap; None: no cap."""
    if not case.capped:
        return None
    return setup.cap_bytes or default_cap(setup.files[case.file]["gguf"].stat().st_size)


def run(setup, case, entry, prompt, warm_up, tokens):
    """One run of one row: a dict of numbers. Raises Failed."""
    files, cap = setup.files[case.file], cap_of(setup, case)
    warnings = []
    for path in (files["gguf"], files["pack"]):
        stayed = machine.evict(path) if case.capped else 0
        if stayed > 16 * MIB:
            warnings.append(f"{stayed // MIB} MiB of {path} stayed in the page cache: somebody else maps it")
    with _group(case, cap) as group:
        sample = _run_in(group, setup, case, entry, cap, files, (prompt, warm_up, tokens))
        sample["peak_bytes"] = group.peak_bytes() if group else sample["peak_rss_bytes"]
    sample["warnings"] = warnings
    return sample


def _group(case, cap):
    try:
        return cgroup.MemoryGroup(f"tidegate-peer-{os.getpid()}", cap)
    except cgroup.Unavailable:
        if case.capped:
            raise
        return contextlib.nullcontext()  # without a cap a group only counts


def _run_in(group, setup, case, entry, cap, files, counts):
    if entry.program == "tidegate":
        # What is read at once: the prompts of all streams.
        budget = cap - (setup.overhead_bytes or default_overhead(counts[0] * entry.streams)) if cap else None
        if case.phase == "streams":
            return serving.run(group, setup, entry, files["pack"], budget, counts)
        return _tidegate(group, setup, entry, budget, files["pack"], counts)
    if not entry.pinned:
        return _llama(group, setup, entry, files["gguf"], counts)
    wanted = max(0, cap - setup.pin_slack_bytes)
    with subprocess.Popen([sys.executable, HERE / "pin_file.py", files["gguf"], str(wanted)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          preexec_fn=processes.prepare(group)) as helper:
        if helper.stdout.readline().strip() != b"pinned":
            raise Failed(f"pinning {wanted // MIB} MiB did not work" + processes.killed(group))
        sample = _llama(group, setup, entry, files["gguf"], counts)
        sample["pinned_bytes"] = wanted
        return sample  # leaving the block closes the helper's input: it ends


def _llama(group, setup, entry, gguf, counts):
    prompt, warm_up, tokens = counts
    length = sum(counts)
    task = {"model": str(gguf), "prompt": prompt, "warm_up": warm_up, "tokens": tokens, "threads": setup.threads,
            "streams": [setup.ids[i * length:(i + 1) * length] for i in range(entry.streams)]}
    out = processes.output(group, ["node", "llama.mjs", json.dumps(task)], setup.modules)
    result = json.loads(out)
    decode = result["decode"] or {}
    return {
        "tokens_per_second": decode.get("tokens_per_second"),
        "cpu_seconds_per_token": decode.get("cpu_seconds_per_token"),
        "disk_bytes_per_token": decode.get("disk_bytes_per_token"),
        "prefill_tokens_per_second": result["prefill"]["tokens_per_second"],
        "prefill_cpu_seconds_per_token": result["prefill"]["cpu_seconds_per_token"],
        "prefill_disk_bytes_per_token": result["prefill"]["disk_bytes_per_token"],
        "load_seconds": result["load_seconds"],
        "peak_rss_bytes": result["peak_rss_bytes"],
    }


def _tidegate(group, setup, entry, budget, pack, counts):
    prompt, warm_up, tokens = counts
    # Without a cap: more than any pack takes in memory, so that all of it becomes resident.
    budget = budget or 2 * pack.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        ids, rows = pathlib.Path(folder, "ids"), pathlib.Path(folder, "rows.json")
        ids.write_text(" ".join(map(str, setup.ids[:prompt + warm_up + max(tokens, 1)])))
        processes.output(group, [
            setup.build / "tidegate", "bench", pack, "--budgets", budget, "--modes", entry.mode,
            "--density", entry.density, "--gamma", 0.2, "--threads", setup.threads,
            "--prompt-tokens", prompt, "--warm-up", warm_up, "--tokens", max(tokens, 1),
            "--prefill-chunk", setup.prefill_chunk, "--repeat", 1, "--ids", ids, "--json", rows])
        sample = json.loads(rows.read_text())["rows"][0]
    if "error" in sample:
        raise Failed(f"tidegate: {sample['error']} (budget {budget // MIB} MiB)")
    sample["prefill_disk_bytes_per_token"] = max(sample["prefill_disk_bytes_per_token"],
                                                 sample["prefill_flash_bytes"] / prompt)
    return sample
