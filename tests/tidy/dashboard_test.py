"""Every PromQL expression that we ship or print names metrics and labels that exist; docs/metrics.md is complete.

What exists is tests/testdata/metrics.golden, which tests/integration/metrics_golden_test.cc compares with the
running processes.
"""
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/testdata/metrics.golden"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"
RULES = sorted((ROOT / "deploy/prometheus").glob("*rules*.y*ml"))
DOCS = ROOT / "docs/metrics.md"

SCRAPE_LABELS = {"job", "instance"}  # Prometheus adds them
SUFFIXES = {"histogram": {"_bucket": {"le"}, "_sum": set(), "_count": set()},
            "summary": {"": {"quantile"}, "_sum": set(), "_count": set()}}
FUNCTIONS = {"rate", "irate", "increase", "sum", "max", "min", "avg", "count", "histogram_quantile", "delta",
             "label_values", "clamp_max", "clamp_min", "topk", "quantile", "abs", "time", "vector", "or", "and",
             "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "inf"}
METRIC = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)(\s*\{([^}]*)\})?")
MATCHER = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def read_golden():
    """name -> (type, labels over both processes)"""
    families = {}
    for line in GOLDEN.read_text().splitlines():
        if not line or line[0] in "#[":
            continue
        name, kind, labels = (line.split(" ") + [""])[:3]
        known = families.setdefault(name, (kind, set()))
        known[1].update(filter(None, labels.split(",")))
    return families


def series_labels(families):
    """Every name that may stand in an expression -> labels that its series have."""
    series = {}
    for name, (kind, labels) in families.items():
        for suffix, extra in SUFFIXES.get(kind, {"": set()}).items():
            series[name + suffix] = labels | extra | SCRAPE_LABELS
    return series


def problems_in(expression, series):
    """Messages about unknown metrics, unknown labels and what a rate is taken of."""
    problems, used = [], set()
    text = re.sub(r"\[[^\]]*\]", "", expression)
    bare = GROUPING.sub(" ", text)
    for name, braces, matchers in METRIC.findall(mask_strings(bare)):
        if name in FUNCTIONS or re.fullmatch(r"[a-z]", name):
            continue
        if name not in series:
            problems.append(f"no metric {name}")
            continue
        used.add(name)
        for label, _ in MATCHER.findall(matchers):
            if label not in series[name]:
                problems.append(f"{name} has no label {label}")
    for group in GROUPING.findall(text):
        for label in filter(None, (part.strip() for part in group.split(","))):
            if not all(label in series[name] for name in used):
                problems.append(f"no label {label} to group {', '.join(sorted(used))} by")
    if not used and "label_values" not in expression:
        problems.append("names no metric")
    if expression.count("(") != expression.count(")"):
        problems.append("brackets do not match")
    return problems


def mask_strings(expression):
    """Keeps quotes and length, hides what stands between them."""
    return re.sub(r'"((?:[^"\\]|\\.)*)"', lambda m: '"' + "x" * len(m.group(1)) + '"', expression)


def panels_of(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


class GoldenTest(unittest.TestCase):
    def test_checker_finds_planted_mistakes(self):
        series = series_labels({"a_total": ("counter", {"model"}), "h": ("histogram", {"model"})})
        self.assertEqual(problems_in('sum by (model) (rate(a_total{model=~"$model"}[5m]))', series), [])
        self.assertEqual(problems_in("histogram_quantile(0.9, sum by (le) (rate(h_bucket[5m])))", series), [])
        self.assertTrue(problems_in("rate(b_total[5m])", series))
        self.assertTrue(problems_in('a_total{user="x"}', series))
        self.assertTrue(problems_in("sum by (le) (a_total)", series))
        self.assertTrue(problems_in("rate(h[5m])", series))
        self.assertTrue(problems_in("rate(a_total[5m]", series))

    def test_names_follow_the_rules(self):
        for name, (kind, _) in read_golden().items():
            with self.subTest(metric=name):
                self.assertRegex(name, r"^(tidegate|process)_[a-z][a-z0-9_]*$")
                self.assertEqual(name.endswith("_total"), kind == "counter")


class DashboardTest(unittest.TestCase):
    def setUp(self):
        self.series = series_labels(read_golden())

    def test_there_is_a_dashboard(self):
        self.assertTrue(DASHBOARDS)

    def test_expressions_name_what_exists(self):
        for path in DASHBOARDS:
            for panel in panels_of(json.loads(path.read_text())):
                for target in panel.get("targets", []):
                    with self.subTest(dashboard=path.name, panel=panel["title"], expr=target["expr"]):
                        self.assertEqual(problems_in(target["expr"], self.series), [])

    def test_rules_name_what_exists(self):
        for path in RULES:
            for expression in re.findall(r"^\s*expr:\s*(.+)$", path.read_text(), re.MULTILINE):
                with self.subTest(rules=path.name, expr=expression):
                    self.assertEqual(problems_in(expression, self.series), [])

    def test_variables_query_what_exists(self):
        for path in DASHBOARDS:
            for variable in json.loads(path.read_text())["templating"]["list"]:
                if variable["type"] != "query":
                    continue
                query = variable["query"]["query"]
                names = re.findall(r"\b(tidegate_[a-z0-9_]+|process_[a-z0-9_]+)\b", query)
                label = re.search(r",\s*(\w+)\)$", query).group(1)
                self.assertTrue(names, query)
                for name in names:
                    self.assertIn(label, self.series.get(name, ()), f"{query}: {name} has no {label}")

    def test_conventions(self):
        for path in DASHBOARDS:
            dashboard = json.loads(path.read_text())
            self.assertTrue(dashboard["uid"])
            self.assertEqual(dashboard["schemaVersion"], 39)
            identities = [panel["id"] for panel in panels_of(dashboard)]
            self.assertEqual(len(identities), len(set(identities)), "panel ids repeat")
            for panel in panels_of(dashboard):
                if panel["type"] == "row":
                    continue
                with self.subTest(dashboard=path.name, panel=panel["title"]):
                    self.assertTrue(panel["fieldConfig"]["defaults"].get("unit"), "no unit")
                    self.assertTrue(panel["description"], "no description")
                    self.assertEqual(panel["datasource"]["uid"], "${DS_PROMETHEUS}")
                    for target in panel["targets"]:
                        self.assert_target(panel, target)

    def assert_target(self, panel, target):
        intervals = re.findall(r"\[([^\]]*)\]", target["expr"])
        self.assertTrue(all(interval == "$__rate_interval" for interval in intervals), target["expr"])
        for name in re.findall(r"tidegate_\w+", target["expr"]):
            if "model" in self.series[name]:
                self.assertIn('model=~"$model"', target["expr"], f"{name} for all models")
        if panel["type"] == "heatmap":
            self.assertEqual(target["format"], "heatmap")
            self.assertIn("by (le)", target["expr"])

    def test_panels_do_not_overlap(self):
        for path in DASHBOARDS:
            taken = {}
            for panel in json.loads(path.read_text())["panels"]:
                grid = panel["gridPos"]
                self.assertLessEqual(grid["x"] + grid["w"], 24, panel["title"])
                for x in range(grid["x"], grid["x"] + grid["w"]):
                    for y in range(grid["y"], grid["y"] + grid["h"]):
                        other = taken.setdefault((x, y), panel["title"])
                        self.assertEqual(other, panel["title"], f"overlaps at {(x, y)}")


class PrometheusTest(unittest.TestCase):
    def test_promtool_accepts_the_configuration(self):
        if shutil.which("promtool") is None:
            self.skipTest("promtool (Debian package prometheus) is not installed")
        for command in [["config", PROMETHEUS]] + [["rules", path] for path in RULES]:
            run = subprocess.run(["promtool", "check", *map(str, command)], capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)


    def test_promtool_parses_every_expression(self):
        if shutil.which("promtool") is None:
            self.skipTest("promtool (Debian package prometheus) is not installed")
        expressions = [target["expr"] for path in DASHBOARDS for panel in panels_of(json.loads(path.read_text()))
                       for target in panel.get("targets", [])]
        rules = [{"record": f"panel:{i}", "expr": expression.replace("$__rate_interval", "1m")}
                 for i, expression in enumerate(expressions)]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump({"groups": [{"name": "panels", "rules": rules}]}, file)  # JSON is YAML
            file.flush()
            run = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)


class DocumentationTest(unittest.TestCase):
    ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\| ([^|]+)\|$", re.MULTILINE)

    def test_table_lists_exactly_what_exists(self):
        families = read_golden()
        rows = {name: (kind, labels, meaning)
                for name, kind, labels, meaning in self.ROW.findall(DOCS.read_text())}
        self.assertEqual(sorted(set(families) - set(rows)), [], "not documented")
        self.assertEqual(sorted(set(rows) - set(families)), [], "documented, but nobody publishes it")
        for name, (kind, labels) in families.items():
            with self.subTest(metric=name):
                self.assertEqual(rows[name][0], kind)
                told = set(re.findall(r"\w+", rows[name][1].replace("; engine also", ",")))
                self.assertEqual(told, labels)
                self.assertTrue(rows[name][2].strip())

    def test_each_name_comes_once(self):
        names = [row[0] for row in self.ROW.findall(DOCS.read_text())]
        self.assertEqual(sorted(names), sorted(set(names)))

    def test_expressions_in_the_text_name_what_exists(self):
        series = series_labels(read_golden())
        blocks = re.findall(r"```promql\n(.*?)```", DOCS.read_text(), re.DOTALL)
        self.assertTrue(blocks)
        for expression in "".join(blocks).split("\n\n"):
            bare = re.sub(r"#[^\n]*\n", "", expression)
            with self.subTest(expr=bare):
                self.assertEqual(problems_in(bare, series), [])


if __name__ == "__main__":
    unittest.main()
