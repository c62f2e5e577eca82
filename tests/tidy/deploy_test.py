"""deploy/ without a container engine: files parse, refer to files, flags and variables that exist, lock down.
"""
import json
import pathlib
import re
import unittest

try:
    import yaml
except ImportError:
    yaml = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SECCOMP = DEPLOY / "seccomp/tidegate-store.json"
IO_URING = {"io_uring_setup", "io_uring_enter", "io_uring_register"}
# What a weight store has no use for and an attacker has.
NEVER = {"bpf", "ptrace", "mount", "umount2", "unshare", "setns", "keyctl", "add_key", "request_key",
         "perf_event_open", "init_module", "finit_module", "delete_module", "kexec_load", "reboot",
         "process_vm_readv", "process_vm_writev", "userfaultfd", "pivot_root", "mknod", "mknodat", "swapon"}
# Flags of each program are declared in these folders.
SOURCES = {"tidegate-store": ["weightstore", "base"], "tidegate-engine": ["server", "base"],
           "tidegate": ["cli"]}


def sources_of(folders):
    return "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).glob("*.cc")))


def variables_of(text):
    return set(re.findall(r'Variable\("(\w+)"\)|"(TIDEGATE_\w+)"', text))


@unittest.skipIf(yaml is None, "python3-yaml is not installed")
class YamlTest(unittest.TestCase):
    def test_every_file_parses(self):
        paths = [path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".yml")]
        self.assertTrue(paths)
        for path in paths:
            with self.subTest(file=path.relative_to(ROOT)):
                self.assertIsNotNone(yaml.safe_load(path.read_text()))

    def test_scrape_targets_are_services_on_their_metrics_ports(self):
        services = yaml.safe_load(COMPOSE.read_text())["services"]
        ports = dict(re.findall(r"(TIDEGATE_(?:STORE_)?METRICS_LISTEN)=[\d.]+:(\d+)",
                                (ROOT / "Dockerfile").read_text()))
        expected = {f"engine:{ports['TIDEGATE_METRICS_LISTEN']}",
                    f"store:{ports['TIDEGATE_STORE_METRICS_LISTEN']}"}
        jobs = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
        targets = {target for job in jobs for config in job["static_configs"] for target in config["targets"]}
        self.assertEqual(targets, expected)
        self.assertLessEqual({target.split(":")[0] for target in targets}, set(services))

    def test_grafana_finds_its_files(self):
        volumes = self.mounts("grafana")
        provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/tidegate.yaml").read_text())
        folder = provider["providers"][0]["options"]["path"]
        self.assertEqual(volumes.get(folder), "./grafana/dashboards")
        self.assertEqual(volumes.get("/etc/grafana/provisioning"), "./grafana/provisioning")
        source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
        self.assertEqual(source["datasources"][0]["url"], "http://prometheus:9090")

    @staticmethod
    def mounts(service):
        listed = yaml.safe_load(COMPOSE.read_text())["services"][service]["volumes"]
        return {entry.split(":")[1]: entry.split(":")[0] for entry in listed}


@unittest.skipIf(yaml is None, "python3-yaml is not installed")
class ComposeTest(unittest.TestCase):
    def setUp(self):
        self.compose = yaml.safe_load(COMPOSE.read_text())
        self.services = self.compose["services"]

    def test_services_are_locked_down(self):
        for name, service in self.services.items():
            with self.subTest(service=name):
                self.assertIs(service["read_only"], True)
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertIn("no-new-privileges:true", service["security_opt"])
                self.assertNotIn("privileged", service)
                self.assertNotIn("seccomp=unconfined", service["security_opt"])

    def test_long_running_services_have_health_checks(self):
        for name in set(self.services) - {"pack"}:
            self.assertIn("test", self.services[name]["healthcheck"], name)

    def test_published_ports_are_on_loopback(self):
        for name, service in self.services.items():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), f"{name}: {port}")

    def test_dependencies_networks_and_volumes_exist(self):
        for name, service in self.services.items():
            for dependency, how in service.get("depends_on", {}).items():
                self.assertIn(dependency, self.services)
                if how["condition"] == "service_healthy":
                    self.assertIn("test", self.services[dependency]["healthcheck"])
            for network in service.get("networks", []):
                self.assertIn(network, self.compose["networks"], name)
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((DEPLOY / source).exists(), f"{name}: {source}")
                else:
                    self.assertIn(source, self.compose["volumes"], name)

    def test_models_and_profiles_exist(self):
        model = next(word for word in self.services["pack"]["command"] if word.endswith(".gguf"))
        folder = {v.split(":")[1]: v.split(":")[0] for v in self.services["pack"]["volumes"]}["/models"]
        self.assertTrue((DEPLOY / folder / model.removeprefix("/models/")).exists(), model)
        profiles = [option.split("=", 1)[1] for option in self.services["store"]["security_opt"]
                    if option.startswith("seccomp=")]
        self.assertEqual([(DEPLOY / profile).resolve() for profile in profiles], [SECCOMP])

    def test_flags_exist(self):
        for name, service in self.services.items():
            words = [str(w) for w in service.get("entrypoint", []) + service.get("command", [])]
            check = [str(w) for w in service["healthcheck"].get("test", [])]
            for line in (words, check[1:]):
                if not line or line[0] not in SOURCES:
                    continue
                text = sources_of(SOURCES[line[0]])
                for flag in (word for word in line if re.match(r"--?[a-z]", word)):
                    self.assertRegex(text, rf'"[^"]*{flag}\b', f"{name}: {line[0]} has no {flag}")

    def test_environment_exists(self):
        known = {a or b for a, b in variables_of(sources_of(["server", "weightstore", "cli", "base"]))}
        for name, service in self.services.items():
            for variable in service.get("environment", {}):
                if variable.startswith("TIDEGATE_"):
                    self.assertIn(variable, known, name)

    def test_engine_may_finish_its_drain(self):
        engine = self.services["engine"]
        drain = int(engine["environment"]["TIDEGATE_DRAIN_TIMEOUT"].removesuffix("s"))
        self.assertGreater(int(engine["stop_grace_period"].removesuffix("s")), drain)


class SeccompTest(unittest.TestCase):
    def setUp(self):
        self.profile = json.loads(SECCOMP.read_text())
        self.names = [name for rule in self.profile["syscalls"] for name in rule["names"]]

    def test_everything_else_is_refused(self):
        self.assertEqual(self.profile["defaultAction"], "SCMP_ACT_ERRNO")
        self.assertEqual({rule["action"] for rule in self.profile["syscalls"]}, {"SCMP_ACT_ALLOW"})

    def test_io_uring_is_there_and_dangerous_calls_are_not(self):
        self.assertLessEqual(IO_URING, set(self.names))
        self.assertEqual(NEVER & set(self.names), set())

    def test_lists_are_sorted_and_without_repetition(self):
        self.assertEqual(len(self.names), len(set(self.names)))
        for rule in self.profile["syscalls"]:
            self.assertEqual(rule["names"], sorted(rule["names"]), rule["comment"])


if __name__ == "__main__":
    unittest.main()
