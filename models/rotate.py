#!/usr/bin/env python3
"""Turns the residual stream of a Llama-architecture GGUF so that few inputs of every MLP carry most of its energy.

RMSNorm without weights does not change under an orthogonal matrix Q, so the model that holds Q x wherever it held x
computes the same function: embeddings and everything that writes the stream (attention output, W_down) are turned on
their output side, everything that reads it (q, k, v, W_gate, W_up, output head) on its input side, with the norm's
weights multiplied in first.  Nothing is added at run time, and hidden units stay as they are.

Q holds the principal axes of the normalised stream at the inputs of all MLPs, largest first, measured on a text.  Input
pruning then drops inputs that are small for nearly every token, and a cache that keeps the others hits: see
docs/decisions/0006-masks-beyond-the-paper.md.  Sources: SliceGPT (arXiv 2401.15024), for the invariance; LaRoSA (2507.01299),
for the use in activation sparsity.

  tidegate tokenize model.gguf --file calibration.txt > ids
  rotate.py model.gguf rotated.gguf --ids ids

Needs python3-numpy.  Reads F32, F16, Q8_0 and Q4_0 tensors, one layer at a time.  Matrices are written as F16 (or
Q8_0): rotating mixes the groups of a quantised file, so start from the unquantised one.
"""
import argparse
import math
import re
import struct

import numpy as np

from arguments import run, whole

F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
READERS = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")  # of the residual stream, by layer
WRITERS = ("attn_output", "ffn_down")
NORM_OF = {"attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm", "ffn_gate": "ffn_norm",
           "ffn_up": "ffn_norm"}
UNTOUCHED = ("attn_q.bias", "attn_k.bias", "attn_v.bias")


class GgufReader:
    """Metadata and tensors of a file; tensors are decoded when they are asked for."""

    def __init__(self, path):
        self.data = np.memmap(path, np.uint8, "r")
        self.at = 0
        magic, version, tensors, entries = self.take("<IIQQ")
        if magic != 0x46554747 or version not in (2, 3):
            raise SystemExit(f"{path}: not a GGUF file of version 2 or 3")
        self.metadata_begin = self.at
        self.metadata = {}
        for _ in range(entries):
            key = self.text()
            self.metadata[key] = self.value(self.take("<I")[0])
        self.metadata_end, self.entries = self.at, entries
        self.infos = {}
        for _ in range(tensors):
            name = self.text()
            rank, = self.take("<I")
            shape = self.take(f"<{rank}Q")[::-1]
            kind, offset = self.take("<IQ")
            self.infos[name] = (shape, kind, offset)
        alignment = self.metadata.get("general.alignment", 32)
        self.base = -(-self.at // alignment) * alignment

    def take(self, layout):
        size = struct.calcsize(layout)
        values = struct.unpack(layout, self.data[self.at:self.at + size].tobytes())
        self.at += size
        return values

    def text(self):
        size, = self.take("<Q")
        self.at += size
        return self.data[self.at - size:self.at].tobytes().decode("utf-8", "replace")

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.take("<IQ")
            return [self.value(inner) for _ in range(count)]
        return self.take("<" + SCALARS[kind])[0]

    def __contains__(self, name):
        return name in self.infos

    def tensor(self, name):
        if name not in self.infos:
            raise SystemExit(f"the model has no tensor {name}")
        shape, kind, offset = self.infos[name]
        count = math.prod(shape)
        raw = self.data[self.base + offset:]
        if kind == F32:
            values = raw[:4 * count].view(np.float32)
        elif kind == F16:
            values = raw[:2 * count].view(np.float16)
        elif kind == Q8_0:
            blocks = raw[:count // 32 * 34].reshape(-1, 34)
            scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
            values = blocks[:, 2:].view(np.int8) * scales
        elif kind == Q4_0:
            blocks = raw[:count // 32 * 18].reshape(-1, 18)
            scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
            codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
            values = (codes.astype(np.float32) - 8) * scales
        else:
            raise SystemExit(f"tensor {name} has GGML type {kind}; convert the model to F16 first")
        return values.astype(np.float32).reshape(shape)


def encode(values, kind):
    values = np.ascontiguousarray(values, np.float32)
    if kind == F32:
        return values.tobytes()
    if kind == F16:
        return values.astype(np.float16).tobytes()
    groups = values.reshape(-1, 32)
    scales = (np.abs(groups).max(axis=1, keepdims=True) / 127).astype(np.float16)
    inverse = np.divide(1, scales, out=np.zeros(scales.shape, np.float32), where=scales != 0, dtype=np.float32)
    codes = np.clip(np.rint(groups * inverse), -127, 127).astype(np.int8)
    return np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=1).tobytes()


class Llama:
    """The layers of a model, one at a time, in float32: enough to see what its MLPs are given."""

    def __init__(self, file):
        self.file, kv = file, file.metadata
        if kv.get("general.architecture") != "llama":
            raise SystemExit(f"architecture '{kv.get('general.architecture')}' is not known here; llama is")
        self.layers, self.width = kv["llama.block_count"], kv["llama.embedding_length"]
        self.heads = kv["llama.attention.head_count"]
        self.kv_heads = kv.get("llama.attention.head_count_kv", self.heads)
        self.head = kv.get("llama.rope.dimension_count", self.width // self.heads)
        self.epsilon = kv["llama.attention.layer_norm_rms_epsilon"]
        self.theta = kv.get("llama.rope.freq_base", 10000.0)

    def weight(self, layer, name):
        return self.file.tensor(f"blk.{layer}.{name}.weight")

    def unit_norm(self, x):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon)

    def rope(self, z):
        """z [tokens, heads, head]: turns the pairs (2i, 2i + 1)."""
        angles = np.outer(np.arange(len(z)), self.theta ** (-np.arange(0, self.head, 2) / self.head))
        turned = (z[..., 0::2] + 1j * z[..., 1::2]) * np.exp(1j * angles)[:, None]
        return np.stack([turned.real, turned.imag], -1).reshape(z.shape).astype(np.float32)

    def attention(self, layer, x):
        """x [windows, tokens, width], normalised and weighted."""
        q, k, v = (self.weight(layer, n) for n in ("attn_q", "attn_k", "attn_v"))
        shared = self.heads // self.kv_heads
        out = np.empty(x.shape[:2] + (q.shape[0],), np.float32)
        for window, rows in zip(out, x):
            queries = self.rope((rows @ q.T).reshape(len(rows), self.heads, self.head))
            keys = self.rope((rows @ k.T).reshape(len(rows), self.kv_heads, self.head))
            values = (rows @ v.T).reshape(len(rows), self.kv_heads, self.head)
            future = np.triu(np.full((len(rows), len(rows)), -np.inf, np.float32), 1)
            for h in range(self.heads):
                scores = queries[:, h] @ keys[:, h // shared].T / math.sqrt(self.head) + future
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                window[:, h * self.head:(h + 1) * self.head] = (scores / scores.sum(axis=1, keepdims=True)
                                                                @ values[:, h // shared])
        return out @ self.weight(layer, "attn_output").T

    def moments(self, ids):
        """Sum over layers of the second moments [width, width] of the normalised stream at the MLP. ids [windows, tokens]"""
        x = self.file.tensor("token_embd.weight")[ids]
        total = np.zeros((self.width, self.width))
        for layer in range(self.layers):
            x = x + self.attention(layer, self.unit_norm(x) * self.weight(layer, "attn_norm"))
            u = self.unit_norm(x).reshape(-1, self.width)
            total += u.T @ u / len(u)
            y = u * self.weight(layer, "ffn_norm")
            gate = y @ self.weight(layer, "ffn_gate").T
            hidden = gate / (1 + np.exp(-gate)) * (y @ self.weight(layer, "ffn_up").T)
            x = x + (hidden @ self.weight(layer, "ffn_down").T).reshape(x.shape)
        return total


def rotated_tensors(model, q):
    """(name, shape, norm or not, function that computes the values), in the order of the new file."""
    file = model.file
    ones = np.ones(model.width, np.float32)
    head = "output.weight" if "output.weight" in file else "token_embd.weight"
    known = {"token_embd.weight", "output.weight", "output_norm.weight"}
    yield "token_embd.weight", False, lambda: file.tensor("token_embd.weight") @ q.T
    yield "output.weight", False, lambda: (file.tensor(head) * file.tensor("output_norm.weight")) @ q.T
    yield "output_norm.weight", True, lambda: ones
    for name in file.infos:
        if name in known:
            continue
        layer, _, part = name.removeprefix("blk.").partition(".")
        kind = part.removesuffix(".weight")
        if kind in READERS:
            norm = f"blk.{layer}.{NORM_OF[kind]}.weight"
            yield name, False, lambda n=name, g=norm: (file.tensor(n) * file.tensor(g)) @ q.T
        elif kind in WRITERS:
            yield name, False, lambda n=name: q @ file.tensor(n)
        elif kind in ("attn_norm", "ffn_norm"):
            yield name, True, lambda: ones
        elif part in UNTOUCHED or name == "rope_freqs.weight":
            yield name, True, lambda n=name: file.tensor(n)
        else:
            raise SystemExit(f"tensor {name}: it is not known whether it can be rotated")


def write(path, model, q, kind):
    file = model.file
    alignment = file.metadata.get("general.alignment", 32)
    tensors = list(rotated_tensors(model, q))
    head = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), file.entries)
    head += file.data[file.metadata_begin:file.metadata_end].tobytes()
    sizes = {F32: lambda n: 4 * n, F16: lambda n: 2 * n, Q8_0: lambda n: n // 32 * 34}
    offset = 0
    for name, is_vector, _ in tensors:
        shape = file.infos.get(name, file.infos["token_embd.weight"])[0]
        of = F32 if is_vector else kind
        text = name.encode()
        head += struct.pack("<Q", len(text)) + text + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += struct.pack("<IQ", of, offset)
        offset += -(-sizes[of](math.prod(shape)) // alignment) * alignment
    with open(path, "wb") as out:
        out.write(head)
        for name, is_vector, values in tensors:
            out.write(bytes(-out.tell() % alignment))
            out.write(encode(values(), F32 if is_vector else kind))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--ids", required=True, help="file of token ids, as `tidegate tokenize` prints them")
    parser.add_argument("--window", type=whole(1, 1 << 20), default=256, help="tokens that see each other")
    parser.add_argument("--max-tokens", type=whole(1, 1 << 30), default=4096)
    parser.add_argument("--type", choices=["f32", "f16", "q8_0"], default="f16", help="of matrices")
    arguments = parser.parse_args()
    with open(arguments.ids, encoding="utf-8") as file:
        ids = np.array(re.findall(r"\d+", file.read())[:arguments.max_tokens], np.int64)
    windows = len(ids) // arguments.window
    if windows == 0:
        raise SystemExit(f"{arguments.ids} has {len(ids)} tokens, fewer than one window of {arguments.window}")
    model = Llama(GgufReader(arguments.model))
    if ids.min() < 0 or ids.max() >= model.file.infos["token_embd.weight"][0][0]:
        raise SystemExit(f"{arguments.ids} holds token ids that the model does not know")
    moments = model.moments(ids[:windows * arguments.window].reshape(windows, arguments.window))
    energy, axes = np.linalg.eigh(moments)
    q = axes[:, ::-1].T.astype(np.float32)
    energy = np.cumsum(energy[::-1]) / energy.sum()
    write(arguments.output, model, q, {"f32": F32, "f16": F16, "q8_0": Q8_0}[arguments.type])
    shares = ", ".join(f"{share:.0%}: {energy[int(share * model.width) - 1]:.1%}" for share in (0.125, 0.25, 0.5, 0.75))
    print(f"share of the axes: share of the energy that enters the MLPs: {shares}")


if __name__ == "__main__":
    run(main)
