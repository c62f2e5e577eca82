#!/usr/bin/env python3
"""Hugging Face folders answer as the GGUF files of the same models do: `tidegate logits` on both.

The folders are made here from GGUF files of single or half precision: names, order of rows, norms and configuration as
the `transformers` library writes them.  Cases other than the demo model are skipped without the oracle data."""
import array
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIDEGATE = pathlib.Path(os.environ.get("TIDEGATE_BUILD_DIR", ROOT / "build" / "release")) / "tidegate"
DEMO = ROOT / "models" / "stories-7M.f16.gguf"
GOLDEN = ROOT.parent / "shared" / "data" / "golden" / "arch"

F32, F16 = 0, 1
ELEMENT_BYTES = {F32: 4, F16: 2}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
FUSED_NAMES = {"ffn_up": "mlp.gate_up_proj"}  # phi3
SANDWICH_NAMES = {"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
                  "post_ffw_norm": "post_feedforward_layernorm"}  # gemma 2 and 3
OTHER_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
               "output.weight": "lm_head.weight"}


class Gguf:
    """metadata: key -> value; tensors: name -> (type, shape in C order, bytes)."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 8
        tensors, entries = self.take("<QQ")
        self.metadata = {}
        for _ in range(entries):
            key = self.text()
            self.metadata[key] = self.value(self.take("<I")[0])
        infos = []
        for _ in range(tensors):
            name = self.text()
            shape = self.take(f"<{self.take('<I')[0]}Q")[::-1]
            infos.append((name, shape, *self.take("<IQ")))
        base = self.at + -self.at % self.metadata.get("general.alignment", 32)
        self.tensors = {}
        for name, shape, kind, offset in infos:
            size = math.prod(shape) * ELEMENT_BYTES[kind]
            self.tensors[name] = (kind, shape, self.data[base + offset:base + offset + size])

    def take(self, pattern):
        values = struct.unpack_from(pattern, self.data, self.at)
        self.at += struct.calcsize(pattern)
        return values

    def text(self):
        size, = self.take("<Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.take("<IQ")
            return [self.value(inner) for _ in range(count)]
        return self.take("<" + SCALARS[kind])[0]


def hf_name(name, architecture):
    if not name.startswith("blk."):
        return OTHER_NAMES[name]
    _, layer, part, suffix = name.split(".")
    names = dict(LAYER_NAMES)
    if architecture == "phi3":
        names.update(FUSED_NAMES)
    if architecture in ("gemma2", "gemma3"):
        names.update(SANDWICH_NAMES)
    return f"model.layers.{layer}.{names[part]}.{suffix}"


def halves_apart(data, rows, head_rows):
    """Rows 0 2 4 ... 1 3 5 ... of every head: undoes what a GGUF converter does to q and k of a llama."""
    row = len(data) // rows
    order = [head + i for head in range(0, rows, head_rows)
             for i in (*range(0, head_rows, 2), *range(1, head_rows, 2))]
    return b"".join(data[i * row:(i + 1) * row] for i in order)


def minus_one(data):
    values = array.array("f", data)
    return array.array("f", (v - 1 for v in values)).tobytes()


def config_of(gguf):
    meta, arch = gguf.metadata, gguf.metadata["general.architecture"]
    get = lambda key, default=None: meta.get(f"{arch}.{key}", default)
    window = get("attention.sliding_window")
    types = {"llama": "mistral" if window else "llama", "gemma3": "gemma3_text"}
    config = {
        "model_type": types.get(arch, arch), "num_hidden_layers": get("block_count"),
        "hidden_size": get("embedding_length"), "intermediate_size": get("feed_forward_length"),
        "max_position_embeddings": get("context_length"), "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"), "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": get("rope.freq_base", 10000.0), "vocab_size": get("vocab_size"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "hidden_act": "gelu_pytorch_tanh" if arch.startswith("gemma") else "silu"}
    optional = {
        "head_dim": get("attention.key_length"), "sliding_window": window,
        "attn_logit_softcapping": get("attn_logit_softcapping"),
        "final_logit_softcapping": get("final_logit_softcapping"),
        "rope_local_base_freq": 10000.0 if arch == "gemma3" else None}
    config.update({key: value for key, value in optional.items() if value is not None})
    if get("rope.scaling.type") == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": get("rope.scaling.factor")}
    return config


def write_folder(gguf, folder, shards):
    """A folder with as many weight files; an index beside them if there are several."""
    meta, arch = gguf.metadata, gguf.metadata["general.architecture"]
    config = config_of(gguf)
    head_rows = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    tensors = {}
    for name, (kind, shape, data) in gguf.tensors.items():
        if arch == "llama" and name.endswith((".attn_q.weight", ".attn_k.weight")):
            data = halves_apart(data, shape[0], head_rows)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            data = minus_one(data)
        tensors[hf_name(name, arch)] = ({F32: "F32", F16: "F16"}[kind], shape, data)
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = meta["tokenizer.ggml.tokens"][:-1]
    vocabulary.append(vocabulary[-1] + vocabulary[-2])  # so that there is something to merge
    (folder / "tokenizer.json").write_text(json.dumps({
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(vocabulary)},
                  "merges": [[vocabulary[-2], vocabulary[-3]]]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "decoder": {"type": "ByteLevel"},
        "added_tokens": []}))
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header, blob = {}, b""
        for name in names[shard::shards]:
            kind, shape, data = tensors[name]
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(blob), len(blob) + len(data)]}
            blob += data
            weight_map[name] = file
        text = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + blob)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@unittest.skipUnless(TIDEGATE.exists(), f"{TIDEGATE} is not built")
class HfFolderTest(unittest.TestCase):
    def logits(self, model):
        tokens = ",".join(str(1 + i * 37 % 300) for i in range(40))
        done = subprocess.run([TIDEGATE, "logits", model, "--tokens", tokens, "--positions", "0,39", "--units", "f32",
                               "--precision", "exact", "--greedy", "8"], capture_output=True, text=True)
        self.assertEqual(0, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def compare(self, path, shards=1):
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Gguf(path), pathlib.Path(folder), shards)
            found, wanted = self.logits(folder), self.logits(path)
        self.assertEqual(wanted["greedy"], found["greedy"])
        for position, row in wanted["positions"].items():
            other = found["positions"][position]
            self.assertEqual(len(row), len(other))
            self.assertLess(max(abs(a - b) for a, b in zip(row, other)), 1e-4, f"position {position}")

    def test_demo_model_in_one_file(self):
        self.compare(DEMO)

    def test_demo_model_in_three_files(self):
        self.compare(DEMO, shards=3)

    @unittest.skipUnless(GOLDEN.exists(), f"no oracle data in {GOLDEN}")
    def test_other_architectures(self):
        for name in ("llama", "mistral-window", "phi3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"):
            with self.subTest(name):
                self.compare(GOLDEN / f"{name}.gguf", shards=2)


if __name__ == "__main__":
    unittest.main()
