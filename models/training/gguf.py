"""GGUF files of trained models, written and read."""
import os
import struct

import numpy as np
import torch

from training.corpus import BOS, EOS
from training.llama import Llama, Shape

GGML_F32, GGML_F16, GGML_Q8_0 = 0, 1, 8
FILE_TYPE = {GGML_F32: 0, GGML_F16: 1, GGML_Q8_0: 7}


def q8_0(x):
    """ggml's Q8_0: blocks of 32, scale amax / 127 stored as f16, values rounded half away from zero."""
    b = x.astype(np.float32).reshape(-1, 32)
    d = np.abs(b).max(axis=1, keepdims=True) / np.float32(127)
    v = b * np.where(d > 0, np.float32(1) / np.where(d > 0, d, 1), 0).astype(np.float32)
    q = (np.sign(v) * np.floor(np.abs(v) + np.float32(0.5))).astype(np.int8)
    return np.concatenate([d.astype(np.float16).view(np.uint8), q.view(np.uint8)], axis=1).tobytes()


class GgufWriter:
    ALIGN = 32
    CODES = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "str": (8, None)}

    def __init__(self):
        self.kv, self.tensors = [], []

    @staticmethod
    def string(s):
        b = s.encode("utf-8")
        return struct.pack("<Q", len(b)) + b

    def add(self, key, kind, value):
        """kind: u32, i32, f32, bool, str, or one of these in brackets for an array."""
        def one(k, v):
            return self.string(v) if k == "str" else struct.pack(self.CODES[k][1], v)

        if kind.startswith("["):
            k = kind[1:-1]
            body = struct.pack("<IIQ", 9, self.CODES[k][0], len(value)) + b"".join(one(k, v) for v in value)
        else:
            body = struct.pack("<I", self.CODES[kind][0]) + one(kind, value)
        self.kv.append(self.string(key) + body)

    def tensor(self, name, array, kind):
        array = np.ascontiguousarray(array)
        data = {GGML_F32: lambda: array.astype(np.float32).tobytes(),
                GGML_F16: lambda: array.astype(np.float16).tobytes(),
                GGML_Q8_0: lambda: q8_0(array)}[kind]()
        self.tensors.append((name, array.shape, kind, data))

    def write(self, path):
        def pad(n):
            return b"\0" * (-n % self.ALIGN)

        head = struct.pack("<IIQQ", 0x46554747, 3, len(self.tensors), len(self.kv)) + b"".join(self.kv)
        offset = 0
        for name, shape, kind, data in self.tensors:
            dims = shape[::-1]  # GGUF lists the fastest-varying dimension first
            head += self.string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
            offset += len(data) + len(pad(len(data)))
        path.with_suffix(".tmp").write_bytes(
            head + pad(len(head)) + b"".join(data + pad(len(data)) for _, _, _, data in self.tensors))
        os.replace(path.with_suffix(".tmp"), path)


def add_metadata(w, name, shape, kind):
    w.add("general.architecture", "str", "llama")
    w.add("general.name", "str", name)
    w.add("general.description", "str", "Small model trained from nothing on TinyStories, open children's "
          "storybooks and public-domain books")
    w.add("general.license", "str", "apache-2.0")
    w.add("general.file_type", "u32", FILE_TYPE[kind])
    w.add("general.quantization_version", "u32", 2)
    w.add("llama.vocab_size", "u32", shape.vocab)
    w.add("llama.context_length", "u32", shape.ctx)
    w.add("llama.embedding_length", "u32", shape.dim)
    w.add("llama.block_count", "u32", shape.layers)
    w.add("llama.feed_forward_length", "u32", shape.ff)
    w.add("llama.attention.head_count", "u32", shape.heads)
    w.add("llama.attention.head_count_kv", "u32", shape.kv_heads)
    w.add("llama.attention.layer_norm_rms_epsilon", "f32", shape.eps)
    w.add("llama.rope.dimension_count", "u32", shape.head_dim)
    w.add("llama.rope.freq_base", "f32", shape.theta)


def add_tokenizer(w, sp):
    n = sp.get_piece_size()
    types = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(n)]
    w.add("tokenizer.ggml.model", "str", "llama")
    w.add("tokenizer.ggml.pre", "str", "default")
    w.add("tokenizer.ggml.tokens", "[str]", [sp.id_to_piece(i) for i in range(n)])
    w.add("tokenizer.ggml.scores", "[f32]", [sp.get_score(i) for i in range(n)])
    w.add("tokenizer.ggml.token_type", "[i32]", types)
    w.add("tokenizer.ggml.bos_token_id", "u32", BOS)
    w.add("tokenizer.ggml.eos_token_id", "u32", EOS)
    w.add("tokenizer.ggml.unknown_token_id", "u32", 0)
    w.add("tokenizer.ggml.add_bos_token", "bool", True)
    w.add("tokenizer.ggml.add_eos_token", "bool", False)
    w.add("tokenizer.ggml.add_space_prefix", "bool", True)


def named_tensors(model):
    """(GGUF name, weight) of everything, in the order of the file."""
    s = model.shape
    yield "token_embd.weight", model.embed.weight
    yield "output_norm.weight", model.norm.weight
    for i, b in enumerate(model.blocks):
        q, k, v = b.qkv.weight.split([s.dim, s.kv_dim, s.kv_dim])
        gate, up = b.gate_up.weight.split(s.ff)
        for name, w in (("attn_norm", b.attn_norm.weight), ("attn_q", q), ("attn_k", k), ("attn_v", v),
                        ("attn_output", b.wo.weight), ("ffn_norm", b.ffn_norm.weight), ("ffn_gate", gate),
                        ("ffn_up", up), ("ffn_down", b.down.weight)):
            yield f"blk.{i}.{name}.weight", w


def load_gguf(path, device):
    from reference import Gguf
    g = Gguf(path)
    kv = {k.removeprefix("llama."): v for k, v in g.kv.items()}
    shape = Shape(dim=kv["embedding_length"], layers=kv["block_count"], ff=kv["feed_forward_length"],
                  heads=kv["attention.head_count"], kv_heads=kv["attention.head_count_kv"],
                  vocab=kv["vocab_size"], ctx=kv["context_length"], theta=kv["rope.freq_base"],
                  eps=kv["attention.layer_norm_rms_epsilon"])
    model = Llama(shape)
    with torch.no_grad():
        for name, t in named_tensors(model):
            t.copy_(torch.from_numpy(g.tensor[name].copy()))  # slices of the fused matrices are views
    return model.to(device).eval()
