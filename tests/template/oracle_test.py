"""Jinja2 as the oracle of template/: what tests/testdata/templates says is what Jinja2 renders.

Every NAME.jinja there (ours, written in the manner of a model family) is rendered over CONVERSATIONS and
compared with NAME.json; every snippet of snippets.txt with snippets.json. The C++ tests read the same
files. After a change of templates, conversations or snippets:

    python3 tests/template/oracle_test.py --write
"""
import datetime
import json
import pathlib
import sys
import unittest

try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError:
    jinja2 = None

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "testdata" / "templates"

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "weather of a <place> & \"time\"",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Zürich, 東京"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "days": {"type": "array", "items": {"type": "integer"}}}}}}
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "abcdefghi", "type": "function",
     "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2.5, True, None]}}}]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": "{\"t\": 21.5}"}

CONVERSATIONS = {
    "user": [("user", "Hello")],
    "system-user": [("system", "You are terse."), ("user", "What is 2 + 2?")],
    "dialogue": [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hi!"), ("user", "Bye")],
    "dialogue-no-system": [("user", "Hi"), ("assistant", "Hello there."), ("user", "Bye")],
    "empty": [("user", "")],
    "empty-system": [("system", ""), ("user", "x")],
    "blanks": [("system", "  s \n"), ("user", "\n\n two lines \n here \t"), ("assistant", " a "), ("user", " ")],
    "unicode": [("system", "Отвечай кратко."), ("user", "naïve café ☕ 日本語 \U0001f600 ｜▁"), ("assistant", "ß É ñ"),
                ("user", "\u00a0trim me\u2003")],
    "markers": [("user", "<|im_end|>\n<|im_start|>system\n[/INST] </s> <end_of_turn> {{ x }} {% y %}")],
    "thoughts": [("user", "q"), ("assistant", "<think>\nhm\n</think>\n\nanswer"), ("user", "again"),
                 ("assistant", "<think>\nlast\n</think>\n\nfinal")],
    "wrong-order": [("assistant", "I begin."), ("user", "No.")],
    "two-users": [("user", "one"), ("user", "two")],
    "tools-offered": [("system", "s"), ("user", "Weather?")],
    "tools-used": [("user", "Weather?"), CALL, RESULT, ("assistant", "It is 21.5 °C."), ("user", "Thanks")],
    "tools-pending": [("user", "Weather?"), CALL, RESULT, RESULT],
    "no-messages": [],
}

SNIPPET_INPUT = {
    "a": 1, "b": "x", "l": [3, 1, 2], "d": {"k": "v", "n": None, "items": 7}, "s": "Hello World",
    "u": "äÖü 日本 ß", "m": [{"role": "user", "content": "hi", "n": 2},
                          {"role": "Assistant", "content": "yo", "n": 1},
                          {"role": "user", "content": "HI", "n": 3}]}


def inputs():
    for name, turns in CONVERSATIONS.items():
        messages = [t if isinstance(t, dict) else {"role": t[0], "content": t[1]} for t in turns]
        given = {"messages": messages, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
        if name.startswith("tools"):
            given["tools"] = [WEATHER, {"type": "function", "function": {
                "name": "now", "parameters": {"type": "object", "properties": {}}}}]
        yield name, given
        if name in ("dialogue", "thoughts"):
            yield name + "-no-prompt", {**given, "add_generation_prompt": False}


def environment():
    """As transformers makes it for chat templates."""
    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        @staticmethod
        def _body(caller):
            return caller()

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


def render(env, source, given):
    """{"output": text}, {"error": what the template raised} or {"error": true}."""
    try:
        return {"output": env.from_string(source).render(**given)}
    except jinja2.exceptions.TemplateError as error:
        own = type(error) is jinja2.exceptions.TemplateError
        return {"error": error.message if own else True}
    except Exception:  # what Python objects raise inside a template
        return {"error": True}


def family_file(env, path):
    source = path.read_text(encoding="utf-8")
    cases = [{"name": name, "input": given, **render(env, source, given)} for name, given in inputs()]
    return {"template": path.name, "cases": cases}


def snippets_file(env):
    """Snippets are separated by lines of ----."""
    sources = (FOLDER / "snippets.txt").read_text(encoding="utf-8").split("\n----\n")
    cases = [{"template": source, **render(env, source, SNIPPET_INPUT)} for source in sources]
    return {"input": SNIPPET_INPUT, "cases": cases}


def expected_files():
    env = environment()
    for path in sorted(FOLDER.glob("*.jinja")):
        yield path.with_suffix(".json"), family_file(env, path)
    yield FOLDER / "snippets.json", snippets_file(env)


def dump(value):
    """One case per line, so that changes can be read."""
    head = {key: part for key, part in value.items() if key != "cases"}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in value["cases"])
    return f'{json.dumps(head, ensure_ascii=False)[:-1]},\n "cases": [\n{lines}\n]}}\n'


@unittest.skipIf(jinja2 is None, "python3-jinja2 is not installed: scripts/install-packages test")
class OracleTest(unittest.TestCase):
    def test_files_are_what_jinja2_renders(self):
        files = list(expected_files())
        self.assertGreaterEqual(len(files), 13)
        for path, value in files:
            with self.subTest(file=path.name):
                self.assertEqual(json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(value)))
                self.assertEqual(path.read_text(encoding="utf-8"), dump(value))


if __name__ == "__main__":
    if "--write" in sys.argv:
        for target, content in expected_files():
            target.write_text(dump(content), encoding="utf-8")
    else:
        unittest.main()
