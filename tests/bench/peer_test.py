#!/usr/bin/env python3
"""bench/peer without either program: arguments, cases, memory groups over a made-up hierarchy, the measured time of
many streams, ends of processes, ratios, table and chart."""
import dataclasses
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
import processes  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import serving  # noqa: E402


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
                    (("--streams", "4,0"), "'0' is not a whole number from 1"),
                    (("--streams", ""), "'' is not a whole number from 1"),
                    ((*built, "--only", "capped-streams"), "--q8-gguf is missing; it is needed for capped-streams"),
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

    def test_every_number_of_streams_has_its_rows(self):
        self.assertEqual([1, 4, 16], run.numbers_of_streams("16, 4,1,4"))
        rows = cases.cases_named("resident-streams")[0].rows([1, 8])
        self.assertEqual([(1, "llama.cpp"), (1, "tidegate dense"), (1, "tidegate dip_ca 0.5"), (8, "llama.cpp"),
                          (8, "tidegate dense"), (8, "tidegate dip_ca 0.5")],
                         [(row.streams, row.label) for row in rows])
        self.assertEqual(6, len(set(rows)))
        decode = cases.cases_named("capped")[0]
        self.assertEqual(list(decode.entries), decode.rows([1, 8]))


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


def entry_of(row):
    """(the entry of a row of many streams, their number)"""
    return dataclasses.replace(row, streams=1), row.streams


def sample(speed, disk=2e9, hits=None):
    return {"tokens_per_second": speed, "prefill_tokens_per_second": 10 * speed, "disk_bytes_per_token": disk,
            "cpu_seconds_per_token": 0.5, "hit_rate": hits, "peak_bytes": 3e9}


def watched(*points):
    """Samples of 2 streams, one a second: (running, tokens), or tokens of both."""
    points = [point if isinstance(point, tuple) else (2, point) for point in points]
    return [serving.Sample(seconds=number, running=running, tokens=tokens, steps=tokens // 2,
                           cpu_seconds=1.5 * number, disk_bytes=100 * tokens)
            for number, (running, tokens) in enumerate(points)]


class ManyStreamsTest(unittest.TestCase):
    def test_measures_while_all_decode(self):
        # 2 streams, 1 + 2 tokens of each before the measured 5 of each: tokens 6 to 16.
        samples = watched((1, 0), (1, 1), 3, 5, 7, 7, 11, 15, 15, 18, (1, 20), (0, 21))
        first, last = serving.window(samples, streams=2, warm_up=2, tokens=5)
        # Both are the first that show their tokens, so that looking late moves both ends alike.
        self.assertEqual((4, 7), (first.seconds, last.seconds))
        rates = serving.rates(first, last)
        self.assertEqual((8, 3), (rates["tokens"], rates["seconds"]))
        self.assertAlmostEqual(8 / 3, rates["tokens_per_second"])
        self.assertEqual(2, rates["tokens_per_step"])
        self.assertAlmostEqual(1.5 * 3 / 8, rates["cpu_seconds_per_token"])
        self.assertEqual(100, rates["disk_bytes_per_token"])

    def test_streams_after_each_other_are_refused(self):
        with self.assertRaisesRegex(processes.Failed, "at most 1 of 2 streams ran at once"):
            serving.window(watched((1, 0), (1, 5), (1, 12), (0, 16)), streams=2, warm_up=2, tokens=5)

    def test_time_that_nobody_saw_is_refused(self):
        # 4 of 10 tokens, one sample, none, no stream at all.
        for samples in (watched(0, 7, 11, 17), watched(0, 7, 17), watched(0, 17), watched((0, 0), (0, 17)), []):
            with self.assertRaisesRegex(processes.Failed, "raise --tokens"):
                serving.window(samples, streams=2, warm_up=2, tokens=5)

    def test_room_for_all_streams(self):
        # A part of a page, and one page more than is needed.
        self.assertEqual(3 * 64, serving.kv_tokens(streams=3, length=31))
        self.assertEqual(3 * 96, serving.kv_tokens(streams=3, length=32))
        shape = {"layers": 2, "kv_heads": 3, "head_size": 5, "query_heads": 9}
        self.assertEqual(2 * 2 * 3 * 5 * 4 * 10, serving.kv_bytes(shape, 10))

    def test_metrics(self):
        page = ('# HELP rows_total Rows.\n# TYPE rows_total counter\nrows_total{form="a",model="x y"} 3\n'
                'rows_total{form="b",model="x y"} 4e2\nrows_total_more 7\nplain 1\n')
        self.assertEqual(403, serving.metric(page, "rows_total"))
        self.assertEqual(1, serving.metric(page, "plain"))
        with self.assertRaisesRegex(processes.Failed, "no metric rows; take a newer --build"):
            serving.metric(page, "rows")


class ProcessesTest(unittest.TestCase):
    def test_output_of_what_ends_well(self):
        self.assertEqual(b"7 /\n", processes.output(None, ["sh", "-c", "echo $0 $PWD", 7], "/"))

    def test_why_it_failed(self):
        with self.assertRaises(processes.Failed) as failed:
            processes.output(None, ["/bin/sh", "-c", "echo no room >&2; exit 3"])
        self.assertEqual("sh: exit status 3\nno room", str(failed.exception))
        with self.assertRaisesRegex(processes.Failed, "^sh: signal 9$"):
            processes.output(None, ["sh", "-c", "kill -9 $$"])


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

    def test_ratios_stay_within_a_number_of_streams(self):
        case = cases.cases_named("capped-streams")[0]
        speeds = {(cases.LLAMA, 1): 1, (cases.LLAMA, 4): 2, (cases.DENSE, 1): 3, (cases.DENSE, 4): 12}
        rows = [report.summarise(case, entry, [sample(speeds[entry_of(entry)])])
                for entry in case.rows([1, 4]) if entry_of(entry) in speeds]
        report.add_ratios(rows, [])
        self.assertEqual([(1, 1), (3, 1), (1, 2), (6, 4)], [(row["ratio"], row["ratio_one"]) for row in rows])
        self.assertRegex(report.table(rows).splitlines()[-1], r"tidegate dense \| +4 \| +12 \| .* 4\.00 \| +6\.00 ")
        self.assertIn("tidegate dense, 4 streams", report.svg(rows))

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
