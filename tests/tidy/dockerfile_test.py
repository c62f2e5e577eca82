"""The Dockerfile without a container engine: its shape, what it copies, and whether the runtime packages bring
every shared library that the built programs load.
"""
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TIDEGATE_BUILD_DIR", ROOT / "build/release"))
PROGRAMS = ("tidegate", "tidegate-store", "tidegate-engine")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTALLER = (ROOT / "scripts/install-packages").read_text()


def instructions():
    """[(stage, instruction, arguments)] with continuation lines joined; comments are gone."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stage, found = None, []
    for line in filter(str.strip, joined.splitlines()):
        word, arguments = line.split(None, 1)
        if word == "FROM":
            stage = arguments.split(" AS ")[1]
        found.append((stage, word, arguments))
    return found


def arguments_of(word, stage="runtime"):
    return [arguments for s, w, arguments in instructions() if (s, w) == (stage, word)]


def runtime_packages():
    return re.search(r"runtime_packages=\((.*?)\)", INSTALLER, re.DOTALL).group(1).split()


def is_ignored(path):
    """The part of .dockerignore's rules that we use: folders and globs, no exceptions."""
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        names = [path] + [str(parent) for parent in pathlib.PurePath(path).parents]
        if any(fnmatch.fnmatch(name, pattern.removeprefix("**/")) for name in names):
            return True
    return False


class ShapeTest(unittest.TestCase):
    def test_two_stages_on_the_same_base(self):
        bases = [arguments for _, word, arguments in instructions() if word == "FROM"]
        self.assertEqual(bases, ["debian:12-slim AS builder", "debian:12-slim AS runtime"])

    def test_runtime_is_not_root_and_stops_on_sigterm(self):
        self.assertEqual(arguments_of("USER"), ["65532:65532"])
        self.assertEqual(arguments_of("STOPSIGNAL"), ["SIGTERM"])

    def test_entrypoint_is_a_program_and_no_shell(self):
        self.assertEqual(json.loads(arguments_of("ENTRYPOINT")[0]), ["tidegate-engine"])
        check = json.loads(arguments_of("HEALTHCHECK")[0].split(" CMD ", 1)[1])
        self.assertEqual(check[:2], ["tidegate", "health"])
        declared = "\n".join(path.read_text() for path in (ROOT / "cli").glob("*.cc"))
        for flag in (word for word in check if word.startswith("--")):
            self.assertIn(f'"{flag}"', declared)

    def test_runtime_has_no_compiler_and_no_sources(self):
        text = "\n".join(arguments_of("RUN") + arguments_of("COPY"))
        self.assertIn("install-packages runtime", text)
        self.assertNotIn("install-packages build", text)
        self.assertNotRegex(text, r"-dev\b|g\+\+ ")

    def test_nothing_is_tuned_to_the_build_host(self):
        cmake = (ROOT / "CMakeLists.txt").read_text() + (ROOT / "CMakePresets.json").read_text()
        self.assertNotRegex(DOCKERFILE + cmake, r"-m(arch|tune|cpu)=native")

    def test_labels(self):
        labels = " ".join(arguments_of("LABEL"))
        for name in ("title", "description", "licenses", "revision"):
            self.assertIn(f"org.opencontainers.image.{name}=", labels)

    def test_environment_variables_are_flags(self):
        sources = "\n".join(path.read_text() for folder in ("server", "weightstore", "base", "cli")
                            for path in (ROOT / folder).glob("*.cc"))
        names = re.findall(r"(\w+)=", " ".join(arguments_of("ENV")))
        self.assertTrue(names)
        for name in names:
            self.assertIn(f'Variable("{name}")', sources)

    def test_copied_files_exist_and_reach_the_builder(self):
        for stage in ("builder", "runtime"):
            for arguments in arguments_of("COPY", stage):
                words = arguments.split()
                if words[0].startswith("--from"):
                    continue
                for source in words[:-1]:
                    self.assertTrue((ROOT / source).exists(), source)
                    self.assertFalse(source != "." and is_ignored(source), f"{source} is in .dockerignore")

    def test_everything_that_is_built_reaches_the_builder(self):
        for path in ("CMakeLists.txt", "CMakePresets.json", "cmake", "base", "proto", "weightstore", "engine",
                     "server", "cli", "base/log.cc", "weightstore/main.cc"):
            self.assertFalse(is_ignored(path), path)
        self.assertTrue(is_ignored("build/release/tidegate"))
        self.assertTrue(is_ignored(".git"))


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


def libraries_of(program):
    """Paths of the shared libraries that the loader would take."""
    return set(re.findall(r"=> (/\S+)", output_of("ldd", str(program))))


def owners_of(libraries):
    """library -> package; dpkg may know a file by its path with or without /usr."""
    spellings = {}
    for library in libraries:
        real = os.path.realpath(library)
        for path in (library, "/usr" + library, real, real.removeprefix("/usr")):
            spellings.setdefault(path, library)
    owners = dict.fromkeys(libraries)
    for line in output_of("dpkg", "-S", *spellings).splitlines():
        package, path = line.split(": ", 1)
        owners[spellings[path]] = package.split(":")[0]
    return owners


def dependencies_of(package):
    """Names that dpkg would install with it, first alternatives only."""
    text = output_of("dpkg-query", "-W", "-f", "${Pre-Depends}, ${Depends}", package)
    return {re.split(r"[\s(:|]", part.strip())[0] for part in text.split(",") if part.strip()}


def closure(packages):
    known, waiting = set(), set(packages)
    while waiting:
        package = waiting.pop()
        known.add(package)
        waiting |= dependencies_of(package) - known
    return known


class RuntimePackagesTest(unittest.TestCase):
    def setUp(self):
        for tool in ("ldd", "dpkg", "dpkg-query"):
            if shutil.which(tool) is None:
                self.skipTest(f"no {tool}: not a Debian system")
        self.programs = [BUILD / name for name in PROGRAMS if (BUILD / name).exists()]
        if len(self.programs) < len(PROGRAMS):
            self.skipTest(f"not all of {', '.join(PROGRAMS)} are built in {BUILD}")
        self.libraries = set().union(*map(libraries_of, self.programs))
        if any(re.search(r"lib(asan|tsan|ubsan)\.", library) for library in self.libraries):
            self.skipTest("a build with sanitizers needs more than what ships")

    def test_programs_find_all_their_libraries(self):
        for program in self.programs:
            self.assertNotIn("not found", output_of("ldd", str(program)), program.name)

    def test_runtime_packages_bring_every_library(self):
        installed = closure(runtime_packages())
        missing = {library: owner for library, owner in owners_of(self.libraries).items()
                   if owner not in installed}
        self.assertEqual(missing, {}, "add these packages to runtime_packages in scripts/install-packages")

    def test_no_runtime_package_is_useless(self):
        useless = set(runtime_packages()) - set(owners_of(self.libraries).values())
        self.assertEqual(sorted(useless), [], "no program loads anything of these")


if __name__ == "__main__":
    unittest.main()
