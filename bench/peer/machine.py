"""The machine under the comparison: what it is, and what its memory and its drive can do at best."""
import ctypes
import json
import mmap
import os
import pathlib
import re
import shutil
import subprocess

# (request bytes, requests in flight): large streaming reads, then what single columns ask for.
FIO_POINTS = ((1 << 20, 8), (1 << 20, 32), (128 << 10, 32), (32 << 10, 64), (4 << 10, 64))
CHUNK = 8 << 20


def facts(path):
    """Name and sizes of the machine; `path` says which drive."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    device = os.stat(path).st_dev
    disk = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    read_ahead = _text(disk / "bdi/read_ahead_kb") or _text(disk / "queue/read_ahead_kb")
    return {
        "cpu": cpu.group(1) if cpu else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory.group(1)) * 1024 if memory else 0,
        "kernel": os.uname().release,
        "read_ahead_kib": int(read_ahead or 0),
        "load_average": os.getloadavg()[0],
    }


def memory_bandwidth(build):
    """{threads: GB/s} from machine_bench, or {} where it is not built."""
    program = build / "bench" / "machine_bench"
    if not program.exists():
        return {}
    out = subprocess.run([program], stdout=subprocess.PIPE, check=True)
    return json.loads(out.stdout)["read_gb_per_s"]


def fio(path, seconds):
    """[{"bytes", "depth", "gb_per_s", "reads_per_s"}] of random reads of `path`; [] without fio."""
    if shutil.which("fio") is None:
        return []
    rows = []
    for size, depth in FIO_POINTS:
        out = subprocess.run(
            ["fio", "--name=peer", f"--filename={path}", "--readonly", "--rw=randread", "--direct=1",
             "--ioengine=io_uring", f"--bs={size}", f"--iodepth={depth}", "--norandommap", "--randrepeat=0",
             "--time_based", f"--runtime={seconds}", "--output-format=json"],
            stdout=subprocess.PIPE, check=True)
        # fio may print a note before the object.
        read = json.loads(out.stdout[out.stdout.index(b"{"):])["jobs"][0]["read"]
        rows.append({"bytes": size, "depth": depth, "gb_per_s": read["bw_bytes"] / 1e9, "reads_per_s": read["iops"]})
    return rows


def read_once(path):
    """Reads the file past the page cache, so that every program finds the same state of what lies below."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, CHUNK) as buffer:  # page-aligned, as O_DIRECT wants it
            offset = 0
            while (count := os.preadv(fd, [buffer], offset)) > 0:
                offset += count
    finally:
        os.close(fd)


def evict(path):
    """Drops the file from the page cache: pages that stay are charged to somebody else and break a cap.
    Returns how many bytes stayed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return _cached_bytes(fd)
    finally:
        os.close(fd)


def _cached_bytes(fd):
    size = os.fstat(fd).st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    for call in (libc.munmap, libc.mincore):
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_char_p] * (call is libc.mincore)
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        return 0
    pages = ctypes.create_string_buffer((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
    libc.mincore(address, size, pages)
    libc.munmap(address, size)
    return mmap.PAGESIZE * sum(byte & 1 for byte in pages.raw)


def _text(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""
