#!/usr/bin/env python3
"""Locks the last BYTES of FILE into memory until standard input ends: pin_file.py FILE BYTES.

What an expert does for a program that reads a file through mmap and has too little memory for all of it: a
part that is never evicted is read once; the rest is read for every token as before. The end of the file
and not its beginning, where GGUF files hold the embedding table, of which a token needs one row.
"""
import ctypes
import mmap
import os
import sys


def main():
    path, wanted = sys.argv[1], int(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    size = os.path.getsize(path)
    begin = max(0, size - wanted) // mmap.PAGESIZE * mmap.PAGESIZE
    with open(path, "rb") as file:
        address = libc.mmap(None, size - begin, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), begin)
    if address == ctypes.c_void_p(-1).value:
        sys.exit(f"cannot map {path}: {os.strerror(ctypes.get_errno())}")
    if libc.mlock(address, size - begin) != 0:
        sys.exit(f"cannot lock {size - begin} bytes of {path}: {os.strerror(ctypes.get_errno())}; run as root or "
                 "raise the limit (ulimit -l unlimited)")
    print("pinned", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
