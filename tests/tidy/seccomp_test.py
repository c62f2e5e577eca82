"""Runs the real store under deploy/seccomp/tidegate-store.json, without any container.

The profile becomes a BPF program that the child loads before it becomes tidegate-store, so a call that is
missing from the list fails here as it would in Docker.
"""
import ctypes
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TIDEGATE_BUILD_DIR", ROOT / "build/release"))
PROFILE = ROOT / "deploy/seccomp/tidegate-store.json"
HEADERS = [pathlib.Path(p) for p in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
                                     "/usr/include/asm/unistd_64.h")]
START_LIMIT_S = 60

AUDIT_ARCH_X86_64 = 0xC000003E
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_ABSOLUTE, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8),
                ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction))]


def system_call_numbers(header):
    pattern = re.compile(r"#define __NR_(\w+) (\d+)")
    return {name: int(number) for name, number in pattern.findall(header.read_text())}


def allowed_names(profile):
    return sorted({name for rule in profile["syscalls"] for name in rule["names"]})


def filter_program(profile, numbers):
    """One comparison and one return per call; EPERM for the rest. Calls unknown here are left out."""
    code = [(LOAD_ABSOLUTE, 0, 0, 4), (JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
            (RETURN, 0, 0, KILL_PROCESS), (LOAD_ABSOLUTE, 0, 0, 0)]
    for name in allowed_names(profile):
        if name in numbers:
            code += [(JUMP_IF_EQUAL, 0, 1, numbers[name]), (RETURN, 0, 0, ALLOW)]
    code.append((RETURN, 0, 0, ERRNO | profile["defaultErrnoRet"]))
    return (Instruction * len(code))(*code)


def load_filter(instructions):
    """For the child between fork and exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(instructions), instructions)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def io_uring_works_here(numbers):
    """Whether this machine would let an unfiltered process make a ring."""
    parameters = ctypes.create_string_buffer(120)
    fd = ctypes.CDLL(None).syscall(numbers["io_uring_setup"], 1, parameters)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


class SeccompTest(unittest.TestCase):
    def setUp(self):
        header = next((path for path in HEADERS if path.exists()), None)
        if platform.machine() != "x86_64" or header is None:
            self.skipTest("needs x86-64 and the kernel's headers for call numbers")
        for program in ("tidegate", "tidegate-store"):
            if not (BUILD / program).exists():
                self.skipTest(f"{BUILD / program} is not built")
        linked = subprocess.run(["ldd", BUILD / "tidegate-store"], capture_output=True, text=True)
        if re.search(r"lib(asan|tsan|ubsan)\.", linked.stdout):
            self.skipTest("sanitizers make system calls that the profile rightly leaves out")
        self.numbers = system_call_numbers(header)
        self.profile = json.loads(PROFILE.read_text())
        folder = tempfile.TemporaryDirectory(prefix="tidegate-seccomp-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        region = tempfile.TemporaryDirectory(prefix="tidegate-seccomp-", dir="/dev/shm")
        self.addCleanup(region.cleanup)
        self.region_folder = region.name
        self.instructions = filter_program(self.profile, self.numbers)

    def filtered(self, arguments, **options):
        return subprocess.Popen([str(a) for a in arguments],
                                preexec_fn=lambda: load_filter(self.instructions), **options)

    def start_store(self, *extra):
        log = open(self.folder / "store.log", "w", encoding="utf-8")
        self.addCleanup(log.close)
        store = self.filtered(
            [BUILD / "tidegate-store", "--pack", self.folder / "demo.tgpack", "--memory-budget", "7MiB",
             "--socket", self.folder / "store.sock", "--region-dir", self.region_folder,
             "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", self.folder / "port", *extra],
            stdout=log, stderr=log)
        self.addCleanup(lambda: store.poll() is None and store.kill())
        end = time.monotonic() + START_LIMIT_S
        while " ready: " not in self.log():
            self.assertIsNone(store.poll(), f"the store ended under the profile:\n{self.log()}")
            self.assertLess(time.monotonic(), end, f"the store did not come up:\n{self.log()}")
            time.sleep(0.02)
        return store

    def log(self):
        return (self.folder / "store.log").read_text(encoding="utf-8")

    def metrics(self):
        port = (self.folder / "port").read_text().strip()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            return page.read().decode()

    def test_filter_refuses_what_is_not_listed(self):
        # mkdir is listed, mknod is not.
        self.assertNotIn("mknodat", allowed_names(self.profile))
        attempt = self.filtered(["mknod", self.folder / "pipe", "p"], stderr=subprocess.PIPE, text=True)
        self.assertIn("not permitted", attempt.communicate(timeout=20)[1])
        self.assertNotEqual(attempt.returncode, 0)

    def test_store_lives_under_the_profile(self):
        subprocess.run([BUILD / "tidegate", "pack", ROOT / "models/stories-7M.f16.gguf",
                        "-o", self.folder / "demo.tgpack"], check=True, capture_output=True)
        for extra in ((), ("--flash-backend", "pread"), ()):  # the last one finds a warm region
            with self.subTest(flags=extra):
                self.store_serves_and_stops(extra)

    def store_serves_and_stops(self, extra):
        store = self.start_store(*extra)
        wanted = "io_uring" if not extra and io_uring_works_here(self.numbers) else "pread"
        self.assertIn(f'backend="{wanted}"', self.metrics(), self.log())
        health = self.filtered([BUILD / "tidegate", "health", "--server",
                                f"unix:{self.folder}/store.sock.grpc"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = health.communicate(timeout=30)[0]
        self.assertEqual(health.returncode, 0, f"tidegate health under the profile: {said}")
        self.one_attach(store)
        store.send_signal(signal.SIGTERM)
        self.assertEqual(store.wait(timeout=30), 0, self.log())
        (self.folder / "port").unlink()

    def one_attach(self, store):
        """A real engine, outside the filter, attaches and goes again."""
        engine_program = BUILD / "tidegate-engine"
        if not engine_program.exists():
            return
        engine = subprocess.Popen(
            [engine_program, "--store-socket", self.folder / "store.sock", "--listen", "127.0.0.1:0",
             "--metrics-listen", "off"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + START_LIMIT_S
            while not re.search(r"tidegate_engines_attached\{.*\} 1\n", self.metrics()):
                self.assertIsNone(store.poll(), f"the store ended under the profile:\n{self.log()}")
                self.assertLess(time.monotonic(), end, f"no engine attached:\n{self.log()}")
                time.sleep(0.02)
        finally:
            engine.terminate()
            engine.wait(timeout=60)


if __name__ == "__main__":
    unittest.main()
