"""Tidegate as a server with many streams: tidegate-store and tidegate-engine in one memory group, `tidegate load`
outside it. Measured is the time in which all streams decode, from the engine's metrics and /proc."""
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import processes
from processes import Failed

PAGE = 32            # tokens; pages of the KV cache are no larger
SPARE = 4            # tokens of a stream after the measured ones: no stream ends before all have come so far
POLL_SECONDS = 0.02
START_SECONDS = 120  # reading what always stays in memory from a slow drive


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the engine had done at one moment, since its start."""
    seconds: float       # of a clock
    running: int         # streams
    tokens: int          # generated
    steps: int           # passes of the decoder
    cpu_seconds: float   # of store and engine
    disk_bytes: int      # read by the store


def kv_tokens(streams, length):
    """Room in the KV cache so that `streams` of `length` tokens never wait for each other."""
    return streams * (length // PAGE + 2) * PAGE


def kv_bytes(hyper_parameters, tokens):
    """The most that a KV cache of so many tokens takes: keys and values of 4 bytes."""
    h = hyper_parameters
    return 8 * h["layers"] * h["kv_heads"] * h["head_size"] * tokens


def window(samples, streams, warm_up, tokens):
    """(first, last) sample of the time in which all streams decode and none is in its first 1 + `warm_up`
    tokens: both are the first ones that show their number of tokens. Raises Failed."""
    begin = streams * (1 + warm_up)
    decoding = [s for s in samples if s.running > 0 and begin <= s.tokens <= begin + streams * tokens]
    inside = [s for s in decoding if s.running == streams]
    if decoding and not inside:
        raise Failed(f"at most {max(s.running for s in decoding)} of {streams} streams ran at once")
    if not inside or inside[-1].tokens - inside[0].tokens < streams * tokens / 2:
        raise Failed(f"the engine was too fast to be watched: {streams} streams of {tokens} measured tokens took "
                     f"little longer than {1e3 * POLL_SECONDS:.0f} ms; raise --tokens")
    last = next(s for s in inside if s.tokens == inside[-1].tokens)
    return inside[0], last


def rates(first, last):
    """The numbers of a row from the two ends of its time."""
    tokens, seconds = last.tokens - first.tokens, last.seconds - first.seconds
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds,
            "tokens_per_step": tokens / max(1, last.steps - first.steps),
            "cpu_seconds_per_token": (last.cpu_seconds - first.cpu_seconds) / tokens,
            "disk_bytes_per_token": (last.disk_bytes - first.disk_bytes) / tokens}


class Server:
    """Both programs, ready for requests. with Server(...) as server: ..."""

    def __init__(self, group, setup, pack, budget, streams, length):
        """`budget` bytes for weights and KV cache; None: as much as all of them take."""
        self._group, self._build, self._threads = group, setup.build, setup.threads
        self._prefill_chunk, self._pack, self._budget = setup.prefill_chunk, pack, budget
        self._streams, self._kv_tokens = streams, kv_tokens(streams, length)
        self._stack = contextlib.ExitStack()
        self._programs = []   # (Popen, command, file of its standard error), the store first
        self._metrics = None
        self.address = None

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *unused):
        self._stack.close()

    def _start(self):
        folder = pathlib.Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        info = json.loads(processes.output(None, [self._build / "tidegate", "inspect", "--json", self._pack]))
        reserve = kv_bytes(info["hyper_parameters"], self._kv_tokens)
        socket = folder / "store.sock"
        # No pack takes twice its size in memory.
        budget = self._budget or 2 * self._pack.stat().st_size + reserve
        self._run("tidegate-store", "--pack", self._pack, "--memory-budget", budget, "--engine-reserve", reserve,
                  "--socket", socket, "--metrics-listen", "off")
        self._run("tidegate-engine", "--store-socket", socket, "--listen", "127.0.0.1:0", "--port-file",
                  folder / "port", "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", folder / "metrics",
                  "--threads", self._threads, "--max-running", self._streams, "--kv-tokens", self._kv_tokens,
                  "--prefill-chunk", self._prefill_chunk)
        self.address = f"127.0.0.1:{self._port(folder / 'port')}"
        self._metrics = http.client.HTTPConnection("127.0.0.1", self._port(folder / "metrics"), timeout=30)
        self._stack.callback(self._metrics.close)
        processes.output(None, [self._build / "tidegate", "health", "--server", self.address, "--wait",
                                START_SECONDS])

    def _run(self, name, *flags):
        command = [self._build / name, *flags]
        errors = self._stack.enter_context(tempfile.TemporaryFile())
        program = subprocess.Popen(processes.texts(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=errors, preexec_fn=processes.prepare(self._group))
        self._stack.callback(_stop, program)
        self._programs.append((program, command, errors))

    def _port(self, file):
        deadline = time.monotonic() + START_SECONDS
        while not (file.exists() and file.read_text().strip()):
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"{file.name} of tidegate-engine did not appear within {START_SECONDS} s")
            time.sleep(0.05)
        return int(file.read_text())

    def check(self):
        """Raises Failed if one of the programs has ended."""
        for program, command, errors in self._programs:
            if program.poll() is not None:
                raise Failed(processes.why(self._group, command, program.returncode, errors))

    def sample(self):
        try:
            self._metrics.request("GET", "/metrics")
            page = self._metrics.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.check()
            raise Failed(f"the metrics of tidegate-engine: {error}") from error
        pids = [program.pid for program, _, _ in self._programs]
        return Sample(seconds=time.monotonic(), running=int(metric(page, "tidegate_requests_running")),
                      tokens=int(metric(page, "tidegate_generation_tokens_total")),
                      steps=int(metric(page, "tidegate_steps_total")), cpu_seconds=sum(map(_cpu_seconds, pids)),
                      disk_bytes=_disk_bytes(pids[0]))

    def peak_bytes(self):
        """Of both; the region, which both map, counts once."""
        store, engine = (program.pid for program, _, _ in self._programs)
        return _memory(store, "VmHWM") + _memory(engine, "VmHWM") - _memory(engine, "RssShmem")

    def load(self, entry, streams, prompt, output_tokens, seed=1):
        """(samples, what `tidegate load --json` says) of so many streams, begun together. Samples count tokens from
        the beginning of the load."""
        command = [self._build / "tidegate", "load", "--server", self.address, "--concurrency", streams,
                   "--requests", streams, "--warm-up", 0, "--prompt-tokens", prompt, "--output-tokens",
                   output_tokens, "--ignore-eos", "--temperature", 1, "--seed", seed, "--mode", entry.mode, "--json"]
        if entry.mode != "dense":
            command += ["--density", entry.density, "--gamma", 0.2]
        start, samples = self.sample(), []
        with tempfile.TemporaryFile() as errors, subprocess.Popen(
                processes.texts(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                preexec_fn=processes.prepare(None)) as client:
            while client.poll() is None:
                time.sleep(POLL_SECONDS)
                now = self.sample()
                samples.append(dataclasses.replace(now, tokens=now.tokens - start.tokens))
            if client.returncode != 0:
                raise Failed(processes.why(self._group, command, client.returncode, errors))
            result = json.loads(client.stdout.read())
        if result["completed"] != streams:
            raise Failed(f"{result['completed']} of {streams} streams came to their end: {result.get('errors')}")
        return samples, result


def run(group, setup, entry, pack, budget, counts):
    """One run of one row; without a `budget` with every weight in memory."""
    prompt, warm_up, tokens = counts
    length = 1 + warm_up + tokens + SPARE
    with Server(group, setup, pack, budget, entry.streams, prompt + length) as server:
        if budget is None:  # one stream that reads every weight, with another prompt than the others
            server.load(dataclasses.replace(entry, mode="dense"), 1, prompt, 2, seed=2)
        samples, result = server.load(entry, entry.streams, prompt, length)
        first, last = window(samples, entry.streams, warm_up, tokens)
        return rates(first, last) | {
            "flash_bytes_per_token": result["server"]["flash_bytes_per_token"],
            "hit_rate": result["server"]["hit_rate"],
            "client_cpu_seconds": result["client_cpu_seconds"], "mean_itl_ms": result["mean_itl_ms"],
            "p99_itl_ms": result["p99_itl_ms"], "budget_bytes": budget,
            "peak_rss_bytes": server.peak_bytes()}


def metric(page, name):
    """The value of a metric on a Prometheus page, summed over its labels."""
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE)
    if not values:
        raise Failed(f"tidegate-engine has no metric {name}; take a newer --build")
    return sum(map(float, values))


def _cpu_seconds(pid):
    # The name, in brackets, may hold spaces.
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _disk_bytes(pid):
    return int(re.search(r"^read_bytes: (\d+)$", pathlib.Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)[1])


def _memory(pid, field):
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB$", pathlib.Path(f"/proc/{pid}/status").read_text(),
                                re.MULTILINE)[1])


def _stop(program):
    program.terminate()
    try:
        program.wait(20)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
