"""Memory control groups, version 1 or 2: a cap that holds for a program, its shared memory and its page cache.

Needs root (or a delegated version 2 folder that is writable). A group is made beside the others at the top
of the hierarchy, holds the processes that join() it, and is removed at the end.
"""
import os
import pathlib
import time

ROOT = pathlib.Path("/sys/fs/cgroup")


class Unavailable(Exception):
    """No group can be made here; the message says what to do."""


def version(root=ROOT):
    """2, 1, or None where there is no memory controller."""
    if "memory" in _read(root / "cgroup.controllers", "").split():
        return 2
    return 1 if (root / "memory" / "memory.limit_in_bytes").exists() else None


class MemoryGroup:
    """with MemoryGroup("name", limit_bytes) as group: Popen(..., preexec_fn=group.join)"""

    def __init__(self, name, limit_bytes=None, root=ROOT):
        self.version = version(root)
        if self.version is None:
            raise Unavailable(f"{root} has no memory controller: run on the host, or in a container that sees its "
                              "cgroups (docker run --privileged --cgroupns=host)")
        self.folder = (root if self.version == 2 else root / "memory") / name
        try:
            if self.version == 2 and "memory" not in _read(root / "cgroup.subtree_control", "").split():
                (root / "cgroup.subtree_control").write_text("+memory")
            self.folder.mkdir()
        except OSError as error:
            raise Unavailable(f"cannot make {self.folder}: {error.strerror}; run as root, where {root} is "
                              "writable, or leave the capped cases out (--only resident)") from error
        if limit_bytes is not None:
            self._limit(limit_bytes)

    def _limit(self, limit_bytes):
        if self.version == 2:
            self._write("memory.max", limit_bytes)
            self._write("memory.swap.max", 0, optional=True)
        else:
            self._write("memory.limit_in_bytes", limit_bytes)
            self._write("memory.memsw.limit_in_bytes", limit_bytes, optional=True)

    def _write(self, name, value, optional=False):
        try:
            (self.folder / name).write_text(str(value))
        except OSError:
            if not optional:
                raise

    def join(self):
        """Moves the calling process (a forked child) into the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak_bytes(self):
        """The most that was ever charged, page cache and tmpfs included; None where the kernel does not say."""
        text = _read(self.folder / ("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"))
        return int(text) if text else None

    def killed(self):
        """How many processes the limit has killed."""
        text = _read(self.folder / ("memory.events" if self.version == 2 else "memory.oom_control"), "")
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))

    def close(self):
        # Page cache stays charged to a group that is gone; drop it, then wait for the last exit.
        if self.version == 1:
            self._write("memory.force_empty", 0, optional=True)
        for _ in range(100):
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)
        raise Unavailable(f"{self.folder} is still in use; remove it with rmdir when its processes are gone")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


def _read(path, default=None):
    try:
        return path.read_text()
    except OSError:
        return default
