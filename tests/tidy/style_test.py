"""House rules that a formatter cannot know, as a test: lengths, headers, leftovers, missing tests.

The function finder is a brace counter, not a parser: it knows comments, strings, namespaces, classes and
constructor initialisers, which is enough for the style of this repository.
"""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTED_FOLDERS = ("base", "proto", "template", "packer", "weightstore", "engine", "server", "simulator", "measure",
                  "cli")
CODE_FOLDERS = (*TESTED_FOLDERS, "tests", "bench")
TEXT_SUFFIXES = {".h", ".cc", ".py", ".md", ".txt", ".cmake", ".proto", ".json", ".yaml", ".yml", ".sh",
                 ".mjs", ".js", ".svg", ".toml", ".service", ""}
SKIPPED_FOLDERS = {".git", "build", "node_modules", "__pycache__"}

MAX_COLUMNS = 100
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 500

# Sources that no test is named after or includes: where else they are tested, or why not at all.
TESTED_ELSEWHERE = {
    "base/aligned_buffer.cc": "tests/base/direct_file_test.cc",
    "base/http_framing.cc": "behind http_server.h: tests/base/http_{server,reply}_test.cc",
    "base/http_route.cc": "behind http_server.h: tests/base/http_server_test.cc",
    "base/http_socket.cc": "behind http_server.h: tests/base/http_{server,reply}_test.cc, tls_test.cc",
    "base/tls_files.cc": "behind tls.h: tests/base/tls_test.cc",
    "base/tls_stream.cc": "behind tls.h: tests/{base,server}/tls_test.cc",
    "base/futex.cc": "two system calls; every lease and every thread pool test waits through them",
    "base/standard_streams.cc": "the ends of whole programs: tests/integration/lost_output_test.cc",
    "base/status_macros.cc": "Annotate; error messages are compared in most tests",
    "engine/attached_model.cc": "attach, sizes and info of a whole engine: tests/engine/engine_test.cc",
    "engine/lora_product.cc": "both forms of it: tests/engine/lora_test.cc",
    "engine/leased_units.cc": "real leases in tests/engine/{mlp,batch}_test.cc",
    "engine/unit_sums.cc": "tests/engine/{batch,lora,unit_sweep}_test.cc",
    "engine/model.cc": "built from real packs in tests/engine/{decoder,mlp}_test.cc and the oracle tests",
    "engine/matmul.cc": "threads around kernels/matmul.h; tests/engine/{decoder,mlp}_test.cc and the oracle tests",
    "engine/tokenizer/merge_table.cc": "merges of real vocabularies: tests/engine/tokenizer/{byte_level_model,tokenizer_vectors}_test.cc",
    "engine/tokenizer/sentence_piece_model.cc": "behind tokenizer.h: tests/engine/tokenizer/tokenizer_test.cc",
    "engine/tokenizer/vocabulary.cc": "behind tokenizer.h: tests/engine/tokenizer/{tokenizer,tokenizer_prompt,byte_level_model}_test.cc",
    "engine/store_link.cc": "attach, loss and stalls: tests/engine/engine_test.cc, tests/integration/stall_test.cc",
    "engine/kernels/kernels_scalar.cc": "tables behind kernels.h: tests/engine/kernels/",
    "engine/kernels/kernels_simd.cc": "tables behind kernels.h: tests/engine/kernels/",
    "engine/kernels/matmul_bf16.cc": "tables behind matmul.h: tests/engine/kernels/matmul_test.cc",
    "engine/kernels/matmul_scalar.cc": "tables behind matmul.h: tests/engine/kernels/matmul_test.cc",
    "engine/kernels/matmul_simd.cc": "tables behind matmul.h: tests/engine/kernels/matmul_test.cc",
    "server/engine_collector.cc": "behind metrics.h: tests/server/metrics_test.cc",
    "server/parse_options.cc": "behind parse_request.h: tests/server/parse_request_test.cc",
    "weightstore/client/pack_rows.cc": "tests/engine/embedding_test.cc",
    "weightstore/cache/eviction_policy.cc": "tests/weightstore/cache/block_cache_test.cc",
    "weightstore/io/flash_file.cc": "behind flash_device.h: tests/weightstore/io/",
    "weightstore/io/modelled_device.cc": "behind flash_device.h: tests/weightstore/io/",
    "weightstore/io/pread_device.cc": "behind flash_device.h: tests/weightstore/io/",
    "weightstore/io/uring_device.cc": "behind flash_device.h: tests/weightstore/io/",
    "weightstore/io/uring_ring.cc": "behind flash_device.h: tests/weightstore/io/",
    "packer/json_pipeline.cc": "behind hf_tokenizer.h: tests/packer/hf_tokenizer_test.cc",
    "packer/merge_list.cc": "both readers use it: tests/packer/source_tokenizer_test.cc",
    "packer/sentence_piece_file.cc": "behind hf_tokenizer.h: tests/packer/hf_tokenizer_test.cc",
    "packer/tokenizer_json.cc": "behind hf_tokenizer.h: tests/packer/hf_tokenizer_test.cc",
    "proto/gguf/gguf_reader.cc": "behind source_model.h: tests/packer/source_model_test.cc",
    "proto/gguf/lora_file.cc": "tests/packer/lora_test.cc and tests/engine/lora_test.cc",
    "packer/layer_writer.cc": "behind pack_writer.h: tests/packer/pack_writer_test.cc",
    "packer/merged_source.cc": "adapters: tests/packer/lora_test.cc; otherwise pack_writer_test.cc",
    "packer/static_writer.cc": "behind pack_writer.h: tests/packer/pack_writer_test.cc",
    "packer/kernels/simd_pack_kernels.cc": "tables behind pack_kernels.h: pack_kernels_test.cc",
    "server/openai/completion_call.cc": "behind openai_server.h: tests/server/openai/openai_server_test.cc",
    "server/generation_call.cc": "under every stream: tests/server/generate_stream_test.cc",
    "base/peer_name.cc": "behind live_listener.h: tests/base/live_listener_test.cc",
    "measure/calibration.cc": "tests/cli/pack_test.cc",
    "measure/choice_questions.cc": "tests/cli/eval_test.cc",
    "measure/eval_report.cc": "all forms of it: tests/cli/eval_test.cc",
    "measure/layer_sensitivity.cc": "tests/cli/profile_test.cc",
    "measure/local_model.cc": "under tests/measure/evaluation_test.cc and every oracle command",
    "measure/report_folder.cc": "tests/cli/eval_test.cc",
    "measure/text_score.cc": "tests/cli/eval_test.cc; tests/integration/perplexity_test.cc",
    "cli/chat.cc": "tests/integration/chat_test.cc",
    "cli/chat_session.cc": "tests/integration/{chat,run}_test.cc",
    "cli/client_options.cc": "every command that calls a server: tests/cli/{generate,health,stats,client_key}_test.cc",
    "cli/command_text.cc": "tests/cli/eval_test.cc",
    "cli/local_service.cc": "tests/integration/{serve,run}_test.cc",
    "cli/logits.cc": "tests/integration/oracle_test.cc",
    "cli/load_generator.cc": "streams and their ends: tests/cli/load_test.cc, tests/integration/load_test.cc",
    "cli/load_target.cc": "what is asked before a run: tests/cli/load_test.cc",
    "cli/model_flags.cc": "tests/cli/oracle_flags_test.cc",
    "cli/proto_json.cc": "tests/cli/{generate,stats}_test.cc",
    "cli/run.cc": "tests/integration/run_test.cc",
    "cli/serve.cc": "tests/integration/serve_test.cc",
    "cli/simulate_report.cc": "tests/cli/simulate_test.cc",
    "cli/stats_table.cc": "tests/cli/stats_test.cc",
    "cli/terminal_text.cc": "tests/cli/generate_test.cc",
    **{f"template/{name}.cc": "behind template.h: tests/template/template_test.cc, with Jinja2 as the oracle"
       for name in ("calls", "characters", "evaluator", "expression_parser", "expressions", "filters",
                    "methods", "operators", "parser", "postfix_parser", "printing", "runtime",
                    "sequence_filters", "string_literal", "string_methods", "text", "text_filters",
                    "text_functions", "value")},
}

# Spelled in pieces, so that this file does not find itself.
LEFTOVERS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.$}])/(wo" r"rk|ho" r"me|ro" r"ot)/\w")

# A header opens with which threads may use it, or that it has no state.
THREAD_WORDS = re.compile(r"thread|\bpure\b|plain data|stateless", re.IGNORECASE)
THREAD_LINE_FREE = ("tests/", "bench/")

# What has one place of its own, and what is written elsewhere instead of it. Templates have their own numbers.
ONE_PLACE = (
    (re.compile(r"\bstd::(basic_)?i?fstream\b|\bfopen\s*\("), "whole files are read by base/read_file.h"),
    (re.compile(r"\bstd::ofstream\b"), "files that people get are written by AtomicFile or WriteTextFile()"),
    (re.compile(r"\b(std::sto[a-z]+|strto[a-z]+|ato[ifl]+)\s*\("), "numbers are read by base/numbers.h"),
)
ONE_PLACE_FREE = ("tests/", "template/")

TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/'
    r'|R"(?P<tag>[^()\\ ]{0,16})\(.*?\)(?P=tag)"'
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|\b\d[\w'.]*"
    r"|'(?:[^'\\\n]|\\.)+'", re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)


def bare_code(text):
    """The text with comments, literals and preprocessor lines blanked; line numbers stay."""
    def blank(match):
        token = match.group(0)
        return token if token[0].isdigit() else re.sub(r"[^\n]", " ", token)
    return DIRECTIVE.sub(blank_all, TOKEN.sub(blank, text))


def blank_all(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def opens_function(head):
    """Whether the text between the last statement and a brace is a function's head."""
    head = head.strip()
    if not head or head.endswith("=") or ")" not in head or head.count("(") != head.count(")"):
        return False
    return not re.match(r"(inline\s+)?namespace\b|enum\b", head)


def opens_initialiser(head):
    """Whether a brace is part of an expression in a head: `A() : x_{1}, y_({2}) {`, `F(A a = {}) {`."""
    in_member_list = re.search(r"\)[^;{}()]*(?<!:):(?!:)", head) and re.search(r"[\w>]\s*$", head)
    return head.count("(") != head.count(")") or bool(in_member_list)


def functions(text):
    """(first line, line count) of every function body at namespace or class level, heads included."""
    code, found, head, at = bare_code(text), [], 0, 0
    while at < len(code):
        c = code[at]
        if c == "{":
            if opens_initialiser(code[head:at]):
                at = closing_brace(code, at)
            elif opens_function(code[head:at]):
                end = closing_brace(code, at)
                if is_table(code[at + 1:end]):
                    at, head = end + 1, end + 1
                    continue
                start = head + len(code[head:at]) - len(code[head:at].lstrip())
                first = code.count("\n", 0, start) + 1
                found.append((first, code.count("\n", start, end) + 1))
                at, head = end, end + 1
            else:
                head = at + 1
        elif c in ";}":
            head = at + 1
        at += 1
    return found


def is_table(body):
    """Whether a function's body is data: few statements of its own and no control flow."""
    own, depth = [], 0
    for c in body:
        depth -= c == "}"
        own.append(c if depth == 0 else "")
        depth += c == "{"
    own = "".join(own)
    return own.count(";") <= 5 and not re.search(r"\b(if|for|while|switch|do)\b", own)


def closing_brace(code, at):
    depth = 0
    for end in range(at, len(code)):
        depth += {"{": 1, "}": -1}.get(code[end], 0)
        if depth == 0:
            return end
    return len(code) - 1


def opening_comment(text):
    return re.match(r"(//[^\n]*\n)*", text).group(0)


def check_code(path, text):
    """Messages about one C++ file."""
    lines, found = text.split("\n"), []
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            found.append(f"{path}:{number}: {len(line)} columns, at most {MAX_COLUMNS}")
    if len(lines) - 1 > MAX_FILE_LINES:
        found.append(f"{path}: {len(lines) - 1} lines, at most {MAX_FILE_LINES}")
    for first, count in functions(text):
        if count > MAX_FUNCTION_LINES:
            found.append(f"{path}:{first}: function of {count} lines, at most {MAX_FUNCTION_LINES}")
    if not path.startswith(ONE_PLACE_FREE):
        for number, line in enumerate(bare_code(text).split("\n"), 1):
            found += [f"{path}:{number}: {rule}" for pattern, rule in ONE_PLACE if pattern.search(line)]
    if path.endswith(".h"):
        if not text.startswith("// "):
            found.append(f"{path}: a header opens with a comment that says what it is for")
        elif (not path.startswith(THREAD_LINE_FREE) and not path.endswith("-inl.h")
              and not THREAD_WORDS.search(opening_comment(text))):
            found.append(f"{path}: the opening comment does not say which thread may use it (or: pure, plain data)")
        # Highway compiles x-inl.h once per instruction set, guarded by its own toggle.
        if not path.endswith("-inl.h") and not re.search(r"^#pragma once$", text, re.MULTILINE):
            found.append(f"{path}: no #pragma once")
    return found


def check_text(path, text):
    """Messages about any text file: nothing half done, nothing of one machine."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        for pattern, what in ((LEFTOVERS, "leftover"), (MACHINE_PATHS, "path of one machine")):
            if pattern.search(line):
                found.append(f"{path}:{number}: {what}: {line.strip()[:80]}")
    return found


def has_test(source, tests):
    """Whether a test is named after `a/b/c.cc` (c_test.cc or c_<more>_test.cc in tests/a/b or tests/a)
    or includes its header; `tests` maps paths to contents."""
    path = pathlib.PurePosixPath(source)
    stems = [f"tests/{folder}/{path.stem}_" for folder in path.parents if folder.name]
    include = f'#include "{path.with_suffix(".h")}"'
    return any(t.startswith(tuple(stems)) or include in text
               for t, text in tests.items() if t.endswith("_test.cc"))


def check_tested(sources, tests, elsewhere):
    """Messages about sources without a test and about entries of `elsewhere` that are not needed."""
    found = []
    for source in sources:
        if source.endswith("/main.cc"):
            continue  # composition only; integration and end-to-end tests run the programs
        if not has_test(source, tests) and source not in elsewhere:
            found.append(f"{source}: no test is named after it or includes its header; write one, or "
                         "say in TESTED_ELSEWHERE of tests/tidy/style_test.py where it is tested")
    for source in elsewhere:
        if source not in sources:
            found.append(f"TESTED_ELSEWHERE names {source}, which does not exist")
        elif has_test(source, tests):
            found.append(f"TESTED_ELSEWHERE names {source}, which has a test of its own")
    return found


def tree(folders, suffixes):
    """Relative paths of the files below `folders`, sorted."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT)
            if path.is_file() and path.suffix in suffixes and not SKIPPED_FOLDERS & set(relative.parts):
                yield relative.as_posix()


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


class StyleTest(unittest.TestCase):
    def assert_none(self, found):
        self.assertEqual([], found, "\n" + "\n".join(found))

    def test_code(self):
        files = list(tree(CODE_FOLDERS, {".h", ".cc"}))
        self.assertGreater(len(files), 20, "the tree was not found")
        self.assert_none([m for path in files for m in check_code(path, read(path))])

    def test_texts(self):
        found = []
        for path in tree((".",), TEXT_SUFFIXES):
            try:
                found += check_text(path, read(path))
            except UnicodeDecodeError:
                pass  # a binary file without a suffix
        self.assert_none(found)

    def test_sources_are_tested(self):
        sources = list(tree(TESTED_FOLDERS, {".cc"}))
        tests = {path: read(path) for path in tree(("tests",), {".cc"})}
        self.assert_none(check_tested(sources, tests, TESTED_ELSEWHERE))


class SelfTest(unittest.TestCase):
    """Planted violations are found, lawful look-alikes are not."""

    GOOD_HEADER = "// What it is. Thread-safe.\n#pragma once\n"

    def test_lengths(self):
        self.assertTrue(check_code("a.cc", "int x;" + " " * 95 + "\n"))
        self.assertFalse(check_code("a.cc", "x" * 100 + "\n"))
        self.assertFalse(check_code("a.cc", "ä" * 100 + "\n"), "columns, not bytes")
        self.assertTrue(check_code("a.cc", "\n" * 501))
        self.assertFalse(check_code("a.cc", "\n" * 500))

    def test_one_place(self):
        for line in ("std::ifstream in(path);", "FILE* f = fopen(p, m);", "std::ofstream out(p);",
                     "auto n = strtoull(t, nullptr, 10);", "int i = std::stoi(text);", "int i = atoi(text);"):
            self.assertTrue(check_code("a.cc", line + "\n"), line)
            self.assertFalse(check_code("tests/a.cc", line + "\n"), line)
        self.assertFalse(check_code("a.cc", '// std::ifstream\nauto s = "fopen(";\nstore(x); history(x);\n'))

    def test_headers(self):
        self.assertFalse(check_code("a.h", self.GOOD_HEADER))
        self.assertTrue(check_code("a.h", "// What it is. Pure.\n"), "no pragma")
        self.assertTrue(check_code("a.h", "#pragma once\n"))
        self.assertFalse(check_code("engine/a-inl.h", "// What it is.\n"))

    def test_thread_lines(self):
        silent = "// What it is.\n#pragma once\n// Thread-safe.\n"
        self.assertTrue(check_code("base/a.h", silent), "too late")
        for free in ("tests/a.h", "bench/a.h", "base/a.cc"):
            self.assertFalse(check_code(free, silent), free)
        for words in ("Owned by the decode thread.", "Pure.", "Plain data.", "Stateless."):
            self.assertFalse(check_code("base/a.h", f"// What it is.\n// {words}\n#pragma once\n"), words)

    def test_long_functions(self):
        heads = ["int F(int a)", "void C::F() const", "C::C(int a) : a_(a), b_{1}, c_({2})",
                 "TEST(A, B)", "auto F() -> std::vector<int>", "template <typename T>\nT F(T a) noexcept",
                 "const auto f = [](int a)"]
        for head in heads:
            for wrap in ("%s", "namespace a {\n%s\n}\n", "class A : public B {\n%s\n};\n"):
                with self.subTest(head=head, wrap=wrap):
                    long = wrap % (head + " {\n" + "  f('{', \"}\", 1'000);  // {\n" * 70 + "}")
                    short = wrap % (head + " {\n" + "  if (x) { y(); }\n" * 60 + "}\nint G() {\n"
                                    + "  y();\n" * 60 + "}")
                    self.assertTrue(check_code("a.cc", long))
                    self.assertFalse(check_code("a.cc", short))

    def test_what_is_not_a_function(self):
        for head in ("namespace a", "struct A", "enum class E : int", "constexpr int kA[] ="):
            with self.subTest(head=head):
                self.assertFalse(check_code("a.cc", head + " {\n" + "  a,\n" * 100 + "};\n"))
        rows = "  {1, [] { f(); }},\n" * 100
        self.assertFalse(check_code("a.cc", "A F() {\n  int a;\n  return {\n" + rows + "  };\n}\n"))
        loop = "A F() {\n  for (;;) {\n" + "    f();\n" * 100 + "  }\n}\n"
        self.assertTrue(check_code("a.cc", loop), "a loop is no table")
        raw = 'const char* a = R"x(' + "void F() {\n" * 100 + ')x";\n'
        self.assertFalse(check_code("a.cc", raw))

    def test_leftovers_and_paths(self):
        for line in ("// TO" "DO: later", "# FIX" "ME", "cd /wo" "rk/main", '"/ho' 'me/me/x"'):
            self.assertTrue(check_text("a.md", line), line)
        for line in ("TODOS", "a/work/b", "${HOME}/x", "/proc/self", "homework/x"):
            self.assertFalse(check_text("a.md", line), line)

    def test_untested_sources(self):
        source, include = "base/x/a.cc", '#include "base/x/a.h"\n'
        for tests in ({}, {"tests/base/b_test.cc": ""}, {"tests/a_test.cc": ""},
                      {"tests/support/fake.cc": include}):
            self.assertTrue(check_tested([source], tests, {}), tests)
        for test, text in (("tests/base/x/a_test.cc", ""), ("tests/base/x/a_more_test.cc", ""),
                           ("tests/base/a_test.cc", ""), ("tests/base/b_test.cc", include)):
            self.assertFalse(check_tested([source], {test: text}, {}), test)
            self.assertTrue(check_tested([source], {test: text}, {source: "not needed"}), test)
        self.assertFalse(check_tested([source], {}, {source: "reason"}))
        self.assertTrue(check_tested([], {}, {source: "it is gone"}))


if __name__ == "__main__":
    unittest.main()
