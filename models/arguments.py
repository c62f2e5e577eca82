"""Command lines of the scripts here: numbers within bounds, and file errors as messages.

argparse's int and float also take "1_000", " 5 ", "-1" and "nan".
"""
import argparse
import math
import re
import sys


def whole(low=0, high=2**63 - 1):
    """A type for add_argument: decimal digits within [low, high]."""
    def parse(text):
        if re.fullmatch("[0-9]{1,19}", text) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a whole number from {low} to {high}")
    return parse


def real(low, high):
    """A type for add_argument: a finite number within [low, high]."""
    def parse(text):
        if re.fullmatch(r"-?[0-9]*\.?[0-9]+(e-?[0-9]+)?", text[:60]):
            value = float(text)
            if math.isfinite(value) and low <= value <= high:
                return value
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a number from {low} to {high}")
    return parse


def run(main):
    """Ends the program with main()'s result; a file that cannot be read or written is a message."""
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
