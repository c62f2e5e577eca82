"""Starts programs in a memory group, all alike, and says why one has ended."""
import os
import pathlib
import subprocess
import tempfile

NICE = -10  # for every program alike: threads that spin lose to whatever else runs


class Failed(Exception):
    """A run that gave no numbers; the message says why."""


def prepare(group):
    """For Popen(preexec_fn=...): moves the child into `group` (None: no group) and raises its priority."""
    def child():
        if group is not None:
            group.join()
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        except PermissionError:
            pass  # not root: both programs run at the ordinary priority
    return child


def output(group, command, folder=None):
    """Standard output of a program that ends well. Raises Failed."""
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(texts(command), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=errors, preexec_fn=prepare(group))
        if done.returncode != 0:
            raise Failed(why(group, command, done.returncode, errors))
        return done.stdout


def texts(command):
    return [str(part) for part in command]


def why(group, command, code, errors):
    """Why a program ended with exit code `code`, with the end of what it wrote into the file `errors`."""
    errors.seek(0)
    tail = errors.read().decode(errors="replace").strip()[-1000:]
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return f"{pathlib.Path(command[0]).name}: {how}{killed(group)}" + (f"\n{tail}" if tail else "")


def killed(group):
    if group is not None and group.killed():
        return ", killed for memory by the cap"
    return ""
