#!/usr/bin/env python3
"""models/arguments.py: numbers of command lines within bounds, file errors as messages."""
import argparse
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models"))
import arguments  # noqa: E402


class ArgumentsTest(unittest.TestCase):
    def test_whole_numbers(self):
        parse = arguments.whole(1, 100)
        self.assertEqual([parse("1"), parse("010"), parse("100")], [1, 10, 100])
        for text in ("", "0", "101", "-1", "+5", " 5", "5 ", "5x", "0x10", "1e1", "1_0", "1.0", "\u0665",
                     "99999999999999999999999", "9" * 10000):
            with self.assertRaisesRegex(argparse.ArgumentTypeError, "from 1 to 100"):
                parse(text)

    def test_real_numbers(self):
        parse = arguments.real(0, 1)
        self.assertEqual([parse("0"), parse(".5"), parse("1e-3")], [0, 0.5, 0.001])
        for text in ("", "nan", "inf", "-0.1", "1.1", "1e400", "+1", " 1", "1_0", "x"):
            with self.assertRaisesRegex(argparse.ArgumentTypeError, "from 0 to 1"):
                parse(text)

    def test_files_that_cannot_be_read_are_messages(self):
        script = str(ROOT / "models" / "make_choices.py")
        with tempfile.TemporaryDirectory() as folder:
            for stories in (folder, folder + "/none"):
                run = subprocess.run([sys.executable, script, stories, folder + "/out"], capture_output=True, text=True)
                self.assertEqual(run.returncode, 1)
                self.assertIn(stories, run.stderr)
                self.assertNotIn("Traceback", run.stderr)
            run = subprocess.run([sys.executable, script, folder, folder + "/out", "--seed", "-1"],
                                 capture_output=True, text=True)
            self.assertIn("'-1' is not a whole number", run.stderr)


if __name__ == "__main__":
    unittest.main()
