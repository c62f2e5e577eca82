#!/usr/bin/env python3
"""Reference for Tidegate's numbers: a Llama GGUF with pruned MLPs, in plain numpy (float32).

Shares no code with the service or with the training, on purpose.  Every token's SwiGLU MLP is pruned:

  input    keep the k_in = floor(keep_in * width) inputs x (the output of ffn_norm) with the largest
           score; only these columns of W_gate and W_up are used
  hidden   keep the k_hidden = floor(keep_hidden * ff) entries of silu(W_gate x) * (W_up x) with the
           largest score; only these columns of W_down are used
  score    |a| / max|a|, times gamma where the unit is not resident
  density  d gives keep_in = sigmoid(0.98499 logit(d) + 0.29976), keep_hidden = 3 d - 2 keep_in
  cache    each layer has one of floor(f * width) input units and one of floor(f * ff) hidden units, empty
           at the start and kept across the whole text.  LFU, mask first: a mask sees the residency that
           the token before left; counts grow for every selected unit; every selected unit is admitted;
           victims are residents outside of the mask with the smallest count (ties: the smallest index).
           What does not fit then is streamed; units with larger counts are admitted first.

  reference.py ids    MODEL.gguf TEXT --out golden.ids     the first tokens of a text, for the next command
  reference.py golden MODEL.gguf golden.ids --out golden.json
"""
import argparse
import hashlib
import heapq
import json
import math
import struct
import time
from pathlib import Path

import numpy as np

from arguments import run, whole


# -------------------------------------------------------------------------------------------- GGUF

class Gguf:
    """Metadata (kv) and tensors of a GGUF file; F32, F16 and Q8_0 become float32."""
    SCALAR = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, path):
        self.data = Path(path).read_bytes()
        self.at = 0
        magic, version, n_tensor, n_kv = self.read("<IIQQ")
        if magic != 0x46554747 or version not in (2, 3):
            raise ValueError(f"{path} is not a GGUF file")
        self.kv = {}
        for _ in range(n_kv):
            key = self.string()
            self.kv[key] = self.value(self.read("<I")[0])
        infos = []
        for _ in range(n_tensor):
            name = self.string()
            dims = self.read(f"<{self.read('<I')[0]}Q")
            infos.append((name, dims[::-1], *self.read("<IQ")))
        base = self.at + -self.at % self.kv.get("general.alignment", 32)
        self.tensor = {n: self.load(shape, kind, base + offset) for n, shape, kind, offset in infos}

    def read(self, fmt):
        v = struct.unpack_from(fmt, self.data, self.at)
        self.at += struct.calcsize(fmt)
        return v

    def string(self):
        n = self.read("<Q")[0]
        self.at += n
        return self.data[self.at - n:self.at].decode("utf-8")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, n = self.read("<IQ")
            return [self.value(inner) for _ in range(n)]
        return self.read("<" + self.SCALAR[kind])[0]

    def load(self, shape, kind, offset):
        n = math.prod(shape)
        if kind == 0:
            x = np.frombuffer(self.data, np.float32, n, offset)
        elif kind == 1:
            x = np.frombuffer(self.data, np.float16, n, offset).astype(np.float32)
        elif kind == 8:
            b = np.frombuffer(self.data, np.uint8, n // 32 * 34, offset).reshape(-1, 34)
            d = b[:, :2].copy().view(np.float16).astype(np.float32)
            x = (b[:, 2:].view(np.int8).astype(np.float32) * d).reshape(-1)
        else:
            raise ValueError(f"tensor type {kind} is not read here")
        return x.reshape(shape)


class Tokenizer:
    """Joins the adjacent pair whose piece has the best score, leftmost first; bytes for what is left over."""

    def __init__(self, kv):
        tokens, types = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.token_type"]
        self.bos, self.eos = kv["tokenizer.ggml.bos_token_id"], kv["tokenizer.ggml.eos_token_id"]
        self.score = kv["tokenizer.ggml.scores"]
        self.id = {t: i for i, t in enumerate(tokens) if types[i] == 1}
        self.byte = {int(t[3:5], 16): i for i, t in enumerate(tokens) if types[i] == 6}

    def encode(self, text):
        symbols = list("\u2581" + text.replace(" ", "\u2581")) if text else []
        left, right = list(range(-1, len(symbols) - 1)), list(range(1, len(symbols) + 1))
        heap = []

        def offer(i):
            if i >= 0 and right[i] < len(symbols):
                piece = symbols[i] + symbols[right[i]]
                if piece in self.id:
                    heapq.heappush(heap, (-self.score[self.id[piece]], i, piece))

        for i in range(len(symbols)):
            offer(i)
        while heap:
            _, i, piece = heapq.heappop(heap)
            j = right[i]
            if symbols[i] is None or j >= len(symbols) or symbols[i] + symbols[j] != piece:
                continue  # one side was joined to something else meanwhile
            symbols[i], symbols[j], right[i] = piece, None, right[j]
            if right[j] < len(symbols):
                left[right[j]] = i
            offer(i)
            offer(left[i])
        out = []
        for s in symbols:
            if s is not None:
                out += [self.id[s]] if s in self.id else [self.byte[b] for b in s.encode("utf-8")]
        return out


# ----------------------------------------------------------------------------------------- pruning

class Cache:
    def __init__(self, units, capacity):
        self.capacity, self.used = capacity, 0
        self.resident = np.zeros(units, bool)
        self.count = np.zeros(units, np.int64)
        self.requests = self.hits = 0

    def use(self, chosen):
        """chosen: the selected units of one token, in order of their indices."""
        self.count[chosen] += 1
        missing = chosen[~self.resident[chosen]]
        self.requests += len(chosen)
        self.hits += len(chosen) - len(missing)
        if not len(missing):
            return
        victims = self.resident.copy()
        victims[chosen] = False
        victims = np.flatnonzero(victims)
        free = self.capacity - self.used
        if len(missing) > free + len(victims):
            best = np.argsort(-self.count[missing], kind="stable")
            missing = missing[best[:free + len(victims)]]
        evict = max(0, len(missing) - free)
        self.resident[victims[np.argsort(self.count[victims], kind="stable")[:evict]]] = False
        self.resident[missing] = True
        self.used += len(missing) - evict


def largest(score, k):
    """Indices of the k largest of each row."""
    n = score.shape[-1]
    return np.argpartition(score, n - k, axis=-1)[..., n - k:]


def selection(a, k, cache, gamma):
    """0/1 mask of the units kept of each token; a: (tokens, units)."""
    mask = np.zeros(a.shape, np.float32)
    if k == a.shape[1]:
        mask[:] = 1
        return mask
    score = np.abs(a)
    if cache is None:
        np.put_along_axis(mask, largest(score, k), 1, axis=1)
        return mask
    score /= np.maximum(score.max(axis=1, keepdims=True), 1e-30)
    for t in range(len(a)):  # the selection depends on the cache, hence on every earlier token
        weight = np.where(cache.resident, np.float32(1), np.float32(gamma))
        chosen = np.sort(largest(score[t] * weight, k))
        mask[t, chosen] = 1
        cache.use(chosen)
    return mask


def split(density):
    if density >= 1:
        return 1.0, 1.0
    keep_in = 1 / (1 + math.exp(-(0.98499 * math.log(density / (1 - density)) + 0.29976)))
    return keep_in, 3 * density - 2 * keep_in


# ------------------------------------------------------------------------------------------- model

class Model:
    def __init__(self, gguf):
        kv, self.t = gguf.kv, gguf.tensor
        self.layers, self.dim = kv["llama.block_count"], kv["llama.embedding_length"]
        self.ff, self.heads = kv["llama.feed_forward_length"], kv["llama.attention.head_count"]
        self.kv_heads = kv["llama.attention.head_count_kv"]
        self.hd = kv["llama.rope.dimension_count"]
        self.eps = kv["llama.attention.layer_norm_rms_epsilon"]
        self.theta = kv["llama.rope.freq_base"]
        self.head = self.t.get("output.weight", self.t["token_embd.weight"])

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.t[name]

    def rope(self, z):
        """z: (tokens, heads, head_dim); rotates the pairs (2i, 2i + 1)."""
        angle = np.arange(len(z))[:, None] * self.theta ** (-np.arange(0, self.hd, 2) / self.hd)
        c, s = np.cos(angle)[:, None].astype(np.float32), np.sin(angle)[:, None].astype(np.float32)
        out = np.empty_like(z)
        out[..., 0::2] = z[..., 0::2] * c - z[..., 1::2] * s
        out[..., 1::2] = z[..., 0::2] * s + z[..., 1::2] * c
        return out

    def attention(self, x, p):
        n = len(x)
        q = self.rope((x @ self.t[p + "attn_q.weight"].T).reshape(n, self.heads, self.hd))
        k = self.rope((x @ self.t[p + "attn_k.weight"].T).reshape(n, self.kv_heads, self.hd))
        v = (x @ self.t[p + "attn_v.weight"].T).reshape(n, self.kv_heads, self.hd)
        future = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        out = np.empty_like(q)
        for h in range(self.heads):
            j = h // (self.heads // self.kv_heads)
            s = q[:, h] @ k[:, j].T / np.float32(math.sqrt(self.hd)) + future
            s = np.exp(s - s.max(axis=1, keepdims=True))
            out[:, h] = s / s.sum(axis=1, keepdims=True) @ v[:, j]
        return out.reshape(n, -1) @ self.t[p + "attn_output.weight"].T

    def logits(self, ids, mlp):
        x = self.t["token_embd.weight"][ids]
        for layer in range(self.layers):
            p = f"blk.{layer}."
            x = x + self.attention(self.norm(x, p + "attn_norm.weight"), p)
            x = x + mlp(layer, self.norm(x, p + "ffn_norm.weight"))
        return self.norm(x, "output_norm.weight") @ self.head.T


class PrunedMlp:
    def __init__(self, model, density=1.0, gamma=1.0, fraction=None):
        keep_in, keep_hidden = split(density)
        self.model, self.gamma = model, gamma
        self.k_in, self.k_hidden = math.floor(keep_in * model.dim), math.floor(keep_hidden * model.ff)
        self.caches = [(None, None)] * model.layers
        if fraction is not None:
            self.caches = [tuple(Cache(n, math.floor(fraction * n)) for n in (model.dim, model.ff))
                           for _ in range(model.layers)]

    def __call__(self, layer, x):
        t, p = self.model.t, f"blk.{layer}."
        x = x * selection(x, self.k_in, self.caches[layer][0], self.gamma)
        gate = x @ t[p + "ffn_gate.weight"].T
        hidden = gate / (1 + np.exp(-gate)) * (x @ t[p + "ffn_up.weight"].T)
        hidden = hidden * selection(hidden, self.k_hidden, self.caches[layer][1], self.gamma)
        return hidden @ t[p + "ffn_down.weight"].T


# ------------------------------------------------------------------------------------------ golden

CHUNK = 256
PROMPT, GREEDY = 48, 24  # tokens
# (density, gamma, cache fraction)
ROWS = [(d, 1.0, None) for d in (1.0, 0.75, 0.5, 0.35)] + [
    (d, g, f) for f in (0.25, 0.5) for d, g in ((0.75, 0.2), (0.5, 1.0), (0.5, 0.5), (0.5, 0.2))]


def mean_nll(model, ids, mlp):
    total, chunks = 0.0, (len(ids) - 1) // CHUNK
    for w in range(chunks):
        part = ids[w * CHUNK:(w + 1) * CHUNK + 1]
        logits = model.logits(part[:-1], mlp)
        top = logits.max(axis=1)
        lse = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        total += float((lse - logits[np.arange(CHUNK), part[1:]]).sum(dtype=np.float64))
    return total / (chunks * CHUNK), chunks * CHUNK


def golden_row(model, ids, density, gamma, fraction):
    mlp = PrunedMlp(model, density, gamma, fraction)
    nll, tokens = mean_nll(model, ids, mlp)
    row = {"density": density, "k_in": mlp.k_in, "k_hidden": mlp.k_hidden, "gamma": gamma,
           "cache_fraction": fraction, "nll": round(nll, 6), "perplexity": round(math.exp(nll), 4), "tokens": tokens}
    if fraction is not None:
        for i, name in enumerate(("input", "hidden")):
            requests = sum(c[i].requests for c in mlp.caches)
            hits = sum(c[i].hits for c in mlp.caches)
            row[f"hit_rate_{name}"] = round(hits / requests, 4)
            row[f"missed_{name}_units_per_token"] = round((requests - hits) / tokens, 2)
    return row


def greedy(model, prompt):
    ids = list(prompt)
    for _ in range(GREEDY):
        ids.append(int(model.logits(np.array(ids), PrunedMlp(model))[-1].argmax()))
    return ids[len(prompt):]


def golden(a):
    model = Model(Gguf(a.model))
    ids = np.array([int(x) for x in a.ids.read_text().split()])
    rows = []
    for density, gamma, fraction in ROWS:
        begin = time.time()
        rows.append(golden_row(model, ids, density, gamma, fraction))
        print(f"{rows[-1]} ({time.time() - begin:.0f} s)", flush=True)
    prompt = ids[:PROMPT].tolist()
    logits = model.logits(np.array(prompt), PrunedMlp(model))
    a.out.write_text(json.dumps({
        "model": a.model.name, "sha256": hashlib.sha256(a.model.read_bytes()).hexdigest(), "ids": a.ids.name,
        "chunk": CHUNK, "rows": rows, "prompt_ids": prompt,
        "logits": {str(p): [round(float(x), 5) for x in logits[p]] for p in (0, 15, PROMPT - 1)},
        "greedy": greedy(model, prompt)}) + "\n")


def write_ids(a):
    tokenizer = Tokenizer(Gguf(a.model).kv)
    docs = [d.strip() for d in a.text.read_text(encoding="utf-8").split("<|endoftext|>") if d.strip()]
    ids = [i for d in docs for i in [tokenizer.bos] + tokenizer.encode(d) + [tokenizer.eos]]
    a.out.write_text(" ".join(map(str, ids[:a.count])) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    c = commands.add_parser("ids")
    c.add_argument("model", type=Path)
    c.add_argument("text", type=Path)
    c.add_argument("--count", type=whole(1, 1 << 30), default=32 * CHUNK + 1)
    c.add_argument("--out", type=Path, default=Path("golden.ids"))
    c.set_defaults(function=write_ids)
    c = commands.add_parser("golden")
    c.add_argument("model", type=Path)
    c.add_argument("ids", type=Path)
    c.add_argument("--out", type=Path, default=Path("golden.json"))
    c.set_defaults(function=golden)
    a = p.parse_args()
    a.function(a)


if __name__ == "__main__":
    run(main)
