#!/usr/bin/env python3
"""bench/peer without running any program: arguments, cases, memory groups over a made-up hierarchy, ratios,
table and chart."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEER = ROOT / "bench" / "peer"
sys.dont_write_bytecode = True
sys.path.insert(0, str(PEER))

import cases  # noqa: E402
import cgroup  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402


def call(*arguments):
    return subprocess.run([sys.executable, "-B", PEER / "run.py", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)


class ArgumentsTest(unittest.TestCase):
    def test_help_has_examples(self):
        done = call("--help")
        self.assertEqual(0, done.returncode)
        self.assertIn("--only capped", done.stdout)

    def test_list_names_every_case(self):
        listed = call("--list").stdout
        for case in cases.CASES:
            self.assertIn(case.name, listed)

    def test_mistakes_are_named(self):
        with tempfile.TemporaryDirectory() as build:
            built = ("--build", build)
            pathlib.Path(build, "tidegate").touch()
            for arguments, message in (
                    (("--only", "fast"), "there is no case 'fast'"),
                    (("--only", ","), "no case is named"),
                    (("--cap", "4 apples"), "'4 apples' is not a size"),
                    (("--cap", "0"), "not above 0"),
                    (("--runs", "0"), "'0' is not a whole number from 1"),
                    (("--build", "/nowhere"), "run scripts/build"),
                    ((*built, "--only", "resident"), "--q4-gguf is missing; it is needed for resident"),
                    ((*built, "--only", "resident", "--q4-gguf", "/nowhere.gguf"), "/nowhere.gguf does not exist")):
                with self.subTest(arguments=arguments):
                    done = call(*arguments)
                    self.assertNotEqual(0, done.returncode)
                    self.assertIn(message, done.stderr)
                    self.assertNotIn("Traceback", done.stderr)

    def test_sizes(self):
        self.assertEqual(4 << 30, run.parse_bytes("4GiB"))
        self.assertEqual(1_500_000_000, run.parse_bytes("1.5GB"))
        self.assertEqual(4096, run.parse_bytes("4096"))

    def test_cases_keep_their_order(self):
        names = [case.name for case in cases.cases_named("capped, resident")]
        self.assertEqual(["resident", "capped"], names)
        self.assertEqual(cases.default_cap(1000), 500 + 300 * cases.MIB)


class MemoryGroupTest(unittest.TestCase):
    def test_version_1(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "memory").mkdir()
            (root / "memory" / "memory.limit_in_bytes").touch()
            group = cgroup.MemoryGroup("x", 1000, root)
            self.assertEqual("1000", (root / "memory/x/memory.limit_in_bytes").read_text())
            (root / "memory/x/memory.max_usage_in_bytes").write_text("77\n")
            (root / "memory/x/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
            self.assertEqual((77, 2), (group.peak_bytes(), group.killed()))

    def test_version_2(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "cgroup.controllers").write_text("cpu memory\n")
            (root / "cgroup.subtree_control").write_text("\n")
            group = cgroup.MemoryGroup("x", 1000, root)
            self.assertEqual("+memory", (root / "cgroup.subtree_control").read_text())
            self.assertEqual("1000", (root / "x/memory.max").read_text())
            self.assertEqual("0", (root / "x/memory.swap.max").read_text())
            (root / "x/memory.events").write_text("low 0\noom 1\noom_kill 1\n")
            self.assertEqual((None, 1), (group.peak_bytes(), group.killed()))

    def test_refusals_say_what_to_do(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(cgroup.Unavailable, "no memory controller: run on the host"):
                cgroup.MemoryGroup("x", 1000, pathlib.Path(folder))
            (pathlib.Path(folder) / "cgroup.controllers").write_text("memory\n")
            (pathlib.Path(folder) / "cgroup.subtree_control").write_text("memory\n")
            (pathlib.Path(folder) / "x").mkdir()
            with self.assertRaisesRegex(cgroup.Unavailable, "cannot make .*run as root"):
                cgroup.MemoryGroup("x", 1000, pathlib.Path(folder))


def sample(speed, disk=2e9, hits=None):
    return {"tokens_per_second": speed, "prefill_tokens_per_second": 10 * speed, "disk_bytes_per_token": disk,
            "cpu_seconds_per_token": 0.5, "hit_rate": hits, "peak_bytes": 3e9}


class ReportTest(unittest.TestCase):
    def setUp(self):
        case = cases.cases_named("capped")[0]
        self.rows = [report.summarise(case, cases.LLAMA, [sample(0.2), sample(0.1), sample(0.3)]),
                     report.summarise(case, cases.PINNED, [], "killed for memory by the cap\nmore"),
                     report.summarise(case, cases.CA_HALF, [sample(1.0, 1e9, 0.75)])]
        report.add_ratios(self.rows, [{"gb_per_s": 2.0}, {"gb_per_s": 1.0}])

    def test_medians_and_ratios(self):
        llama, pinned, half = self.rows
        self.assertEqual((0.2, 0.1, 0.3), (llama["speed"], llama["speed_min"], llama["speed_max"]))
        self.assertAlmostEqual(5.0, half["ratio"])
        self.assertNotIn("ratio_pinned", half)
        self.assertNotIn("ratio", pinned)
        self.assertAlmostEqual(0.4, llama["disk_gb_per_s"])
        self.assertAlmostEqual(0.5, half["disk_share_of_fio"])

    def test_ratios_stay_within_a_case(self):
        other = report.summarise(cases.cases_named("resident")[0], cases.DENSE, [sample(9)])
        report.add_ratios(self.rows + [other], [])
        self.assertNotIn("ratio", other)

    def test_prefill_has_its_own_speed(self):
        row = report.summarise(cases.cases_named("capped-prefill")[0], cases.LLAMA, [sample(0.2)])
        self.assertEqual(2.0, row["speed"])

    def test_table(self):
        lines = report.table(self.rows).splitlines()
        self.assertEqual(5, len(lines))
        self.assertEqual(len(lines[0]), len(lines[2]))
        self.assertRegex(lines[4], r"tidegate dip_ca 0.5 .* 5\.00 .* 75\.0 % .*1\.00 GB \|.* 50 % ")
        self.assertIn("failed: killed for memory by the cap |", lines[3])
        self.assertNotIn("more", lines[3])

    def test_chart_shows_what_worked(self):
        drawing = report.svg(self.rows)
        self.assertEqual(2, drawing.count("tokens/s"))
        self.assertIn("5.0x", drawing)


if __name__ == "__main__":
    unittest.main()
