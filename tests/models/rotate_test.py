#!/usr/bin/env python3
"""models/rotate.py on the demo model: the rotated file computes the same function, and its inputs are easier to prune.

Skipped without numpy (any python3 that has it will do), the programs or the demo model."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "stories-7M.f16.gguf"
TEXT = ROOT / "models" / "tinystories-heldout.txt"
TIDEGATE = pathlib.Path(os.environ.get("TIDEGATE_BUILD_DIR", ROOT / "build" / "release")) / "tidegate"


def python_with_numpy():
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode == 0:
            return python
    return None


PYTHON = python_with_numpy()


def rotate(*arguments):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run([PYTHON, ROOT / "models" / "rotate.py", *arguments], capture_output=True, text=True,
                          env=environment)


@unittest.skipIf(PYTHON is None, "no python3 with numpy")
@unittest.skipUnless(MODEL.exists(), "no demo model")
class RotateTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.ids = pathlib.Path(self.folder.name) / "ids"
        self.rotated = pathlib.Path(self.folder.name) / "rotated.gguf"

    def perplexity(self, model, *arguments):
        done = subprocess.run([TIDEGATE, "eval", model, "--text", TEXT, "--units", "f16", "--max-tokens", "256",
                               "--threads", "1", "--json", *arguments], capture_output=True, text=True)
        self.assertEqual(0, done.returncode, done.stderr)
        return json.loads(done.stdout)["perplexity"]

    @unittest.skipUnless(TIDEGATE.exists(), f"{TIDEGATE} is not built")
    def test_same_function_and_easier_to_prune(self):
        ids = subprocess.run([TIDEGATE, "tokenize", MODEL, "--file", TEXT], capture_output=True, text=True)
        self.assertEqual(0, ids.returncode, ids.stderr)
        self.ids.write_text(" ".join(ids.stdout.split()[-1024:]))  # Far behind what is scored below.
        done = rotate(MODEL, self.rotated, "--ids", self.ids)
        self.assertEqual(0, done.returncode, done.stderr)
        dense = self.perplexity(MODEL)
        self.assertAlmostEqual(dense, self.perplexity(self.rotated), delta=1e-3 * dense)
        pruned = ("--mode", "dip", "--density", "0.35")
        lost = self.perplexity(MODEL, *pruned) - dense
        self.assertLess(self.perplexity(self.rotated, *pruned) - dense, lost / 2)

    def test_errors_name_the_cause(self):
        self.ids.write_text("1 2 3")
        done = rotate(MODEL, self.rotated, "--ids", self.ids)
        self.assertIn("fewer than one window", done.stderr)
        self.ids.write_text(" ".join(["99999"] * 256))
        done = rotate(MODEL, self.rotated, "--ids", self.ids)
        self.assertIn("does not know", done.stderr)
        done = rotate(TEXT, self.rotated, "--ids", self.ids)
        self.assertIn("not a GGUF file", done.stderr)
        self.assertFalse(self.rotated.exists())


if __name__ == "__main__":
    unittest.main()
