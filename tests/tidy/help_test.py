"""Defaults in help texts come from the code: none is typed by hand, where it would be forgotten.

What is shown is compared with what the programs do in tests/cli/help_defaults_test.cc.
"""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "cli").glob("*.cc")), *sorted((ROOT / "cli").glob("*.h")), ROOT / "base/flags.cc",
           ROOT / "base/flags.h", ROOT / "server/config.cc", ROOT / "weightstore/store_config.cc"]
LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"')
TYPED_VALUE = re.compile(r'\.Default\(\s*"')
TYPED_TEXT = re.compile(r"[Dd]efault(s to|:| is)? -?[0-9]|at most [0-9]{2,}")


def typed_defaults(text):
    """Lines of a source with a default that somebody wrote by hand."""
    found = [text[:m.start()].count("\n") + 1 for m in TYPED_VALUE.finditer(text)]
    for number, line in enumerate(text.split("\n"), 1):
        code = line.split("//")[0] if '"' not in line.split("//")[0] else line
        if any(TYPED_TEXT.search(literal) for literal in LITERAL.findall(code)):
            found.append(number)
    return found


class HelpTest(unittest.TestCase):
    def test_nothing_is_typed_by_hand(self):
        found = [f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in typed_defaults(path.read_text())]
        self.assertEqual([], found, "render these defaults from the variable or constant that holds them")

    def test_the_test_can_fail(self):
        self.assertEqual([1], typed_defaults('.Default("120s")'))
        self.assertEqual([2], typed_defaults('add(\n"0 is off; default 40")'))
        self.assertEqual([1], typed_defaults('"the model\'s, at most 4096"'))
        self.assertEqual([], typed_defaults('.Default(absl::StrCat(value)); "default: the server\'s"'))


if __name__ == "__main__":
    unittest.main()
