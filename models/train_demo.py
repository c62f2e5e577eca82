#!/usr/bin/env python3
"""Trains the small Llama-architecture demo model and writes it as GGUF.

The model is an ordinary Llama: RMSNorm, interleaved RoPE (llama.cpp's "NORM" pairs (2i, 2i+1)), grouped-query
attention, SwiGLU MLP, tied embeddings.  The tokenizer is a SentencePiece BPE with byte fallback, which maps one to one
onto GGUF's tokenizer.ggml.model = "llama".

  train_demo.py prepare   train the tokenizer and encode the text under --text-dir
  train_demo.py train     train for --minutes of wall clock; resumes from the last checkpoint
  train_demo.py eval      held-out loss and perplexity of the checkpoint on every source
  train_demo.py sample    print a few samples
  train_demo.py export    write f32, f16 and q8_0 GGUF files to --out-dir

Needs python3-torch (CPU or CUDA), python3-numpy and python3-sentencepiece.
"""
import argparse
import ctypes
import glob
import gzip
import json
import math
import os
import struct
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

DOC_SEPARATOR = "<|endoftext|>"
BOS, EOS = 1, 2

# Share of a batch by source, at the start and at the end of training (interpolated linearly): broad prose first,
# short stories last.
MIXTURE = {
    "tinystories-sample": (0.25, 0.75),
    "storybooks-en": (0.10, 0.10),
    "childrens-books": (0.25, 0.08),
    "novels": (0.40, 0.07),
}
HELD_OUT = {"tinystories-sample": 0.10, "storybooks-en": 0.10, "childrens-books": 0.04, "novels": 0.02}


# ---------------------------------------------------------------------------------------------------- model

class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        dim, self.head_dim = c["dim"], c["dim"] // c["n_head"]
        kv_dim = self.head_dim * c["n_kv"]
        self.attn_norm = RMSNorm(dim, c["eps"])
        self.ffn_norm = RMSNorm(dim, c["eps"])
        self.qkv = nn.Linear(dim, dim + 2 * kv_dim, bias=False)  # q, k, v rows one after the other
        self.wo = nn.Linear(dim, dim, bias=False)
        self.gate_up = nn.Linear(dim, 2 * c["ff"], bias=False)  # gate rows, then up rows
        self.down = nn.Linear(c["ff"], dim, bias=False)

    def attention(self, x, freqs, mask):
        b, t, dim = x.shape
        heads, kv, hd = self.c["n_head"], self.c["n_kv"], self.head_dim
        group = heads // kv
        q, k, v = self.qkv(x).split([dim, kv * hd, kv * hd], dim=-1)

        def rope(z, n):
            z = torch.view_as_complex(z.reshape(b, t, n, hd // 2, 2))
            return torch.view_as_real(z * freqs[:t, None, :]).reshape(b, t, n, hd)

        q, k = rope(q, heads) * hd ** -0.5, rope(k, kv)
        # One matrix product per (sequence, kv head): the heads of a group are stacked along the rows.
        q = q.view(b, t, kv, group, hd).permute(0, 2, 3, 1, 4).reshape(b * kv, group * t, hd)
        k = k.permute(0, 2, 3, 1).reshape(b * kv, hd, t)
        v = v.view(b, t, kv, hd).permute(0, 2, 1, 3).reshape(b * kv, t, hd)
        p = torch.softmax(torch.bmm(q, k).view(b * kv, group, t, t) + mask[:t, :t], dim=-1)
        y = torch.bmm(p.view(b * kv, group * t, t), v)
        y = y.view(b, kv, group, t, hd).permute(0, 3, 1, 2, 4).reshape(b, t, dim)
        return self.wo(y)

    def forward(self, x, freqs, mask):
        x = x + self.attention(self.attn_norm(x), freqs, mask)
        g, u = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(g) * u)


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c["vocab"], c["dim"])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["n_layer"]))
        self.norm = RMSNorm(c["dim"], c["eps"])
        half = c["dim"] // c["n_head"] // 2
        angle = torch.outer(torch.arange(c["ctx"]).float(),
                            c["theta"] ** (-torch.arange(half).float() / half))
        self.register_buffer("freqs", torch.polar(torch.ones_like(angle), angle), persistent=False)
        self.register_buffer("mask", torch.full((c["ctx"], c["ctx"]), float("-inf")).triu(1), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.02
                if name.endswith(("wo.weight", "down.weight")):
                    std /= math.sqrt(2 * c["n_layer"])
                nn.init.normal_(p, std=std)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.freqs, self.mask)
        return F.linear(self.norm(x), self.embed.weight)


# ---------------------------------------------------------------------------------------------------- data

def read_docs(path):
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [d.strip() for d in f.read().split(DOC_SEPARATOR) if d.strip()]


def split_docs(name, docs):
    """Held-out part: every k-th document, or the tail of each document where a source has few (books)."""
    share = HELD_OUT[name]
    if len(docs) >= 200:
        k = round(1 / share)
        return [d for i, d in enumerate(docs) if i % k != k - 1], [d for i, d in enumerate(docs) if i % k == k - 1]
    train, held = [], []
    for d in docs:
        cut = d.rfind("\n", 0, int(len(d) * (1 - share)))
        train.append(d[:cut])
        held.append(d[cut + 1:])
    return train, held


def prepare(a):
    import sentencepiece as spm
    os.makedirs(a.work_dir, exist_ok=True)
    sources = {n: split_docs(n, read_docs(f"{a.text_dir}/{n}.txt.gz")) for n in MIXTURE}
    corpus = f"{a.work_dir}/tokenizer-corpus.txt"
    with open(corpus, "w", encoding="utf-8") as f:  # stories count several times: the vocabulary should suit them
        for name, times in (("tinystories-sample", 3), ("storybooks-en", 3), ("childrens-books", 2), ("novels", 1)):
            lines = [l for d in sources[name][0] for l in d.split("\n") if l]
            if name == "novels":
                lines = lines[::4]
            f.write("".join(l[:4000] + "\n" for l in lines * times))
    spm.SentencePieceTrainer.train(
        input=corpus, model_prefix=f"{a.work_dir}/tokenizer", model_type="bpe", vocab_size=a.vocab,
        byte_fallback=True, character_coverage=0.9998, normalization_rule_name="identity", split_digits=True,
        remove_extra_whitespaces=False, add_dummy_prefix=True, allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=BOS, eos_id=EOS, pad_id=-1, num_threads=1, minloglevel=1)
    os.remove(corpus)
    sp = spm.SentencePieceProcessor(model_file=f"{a.work_dir}/tokenizer.model")
    for name, parts in sources.items():
        for part, docs in zip(("train", "heldout"), parts):
            ids = [np.array([BOS] + x + [EOS], dtype=np.uint16) for x in sp.encode(docs)]
            starts = np.cumsum([0] + [len(x) for x in ids[:-1]])
            np.savez(f"{a.work_dir}/{name}.{part}.npz", ids=np.concatenate(ids), starts=starts)
            print(f"{name:20s} {part:8s} {len(docs):6d} documents {sum(map(len, ids)):9d} tokens "
                  f"{sum(len(d.encode()) for d in docs) / sum(map(len, ids)):.2f} bytes/token", flush=True)


class Batches:
    """Random windows of ctx + 1 tokens; half of a story source's windows start at the start of a document."""

    def __init__(self, work_dir, ctx, seed):
        self.ctx, self.rng, self.src = ctx, np.random.default_rng(seed), {}
        for name in MIXTURE:
            z = np.load(f"{work_dir}/{name}.train.npz")
            self.src[name] = (z["ids"].astype(np.int64), z["starts"])

    def next(self, rows, progress):
        names = list(MIXTURE)
        w = np.array([MIXTURE[n][0] * (1 - progress) + MIXTURE[n][1] * progress for n in names])
        out = np.empty((rows, self.ctx + 1), dtype=np.int64)
        for r, i in enumerate(self.rng.choice(len(names), size=rows, p=w / w.sum())):
            ids, starts = self.src[names[i]]
            last = len(ids) - self.ctx - 1
            if len(starts) > 200 and self.rng.random() < 0.5:
                at = min(int(self.rng.choice(starts)), last)
            else:
                at = int(self.rng.integers(0, last + 1))
            out[r] = ids[at:at + self.ctx + 1]
        return torch.from_numpy(out)


@torch.no_grad()
def heldout_loss(model, ids, ctx, device, limit=None):
    """Mean next-token loss (nats) over consecutive, non-overlapping windows of ctx + 1 tokens."""
    ids = torch.from_numpy(ids.astype(np.int64))
    n = (len(ids) - 1) // ctx
    if limit:
        n = min(n, limit)
    total = 0.0
    for i in range(0, n, 8):
        rows = torch.stack([ids[j * ctx:j * ctx + ctx + 1] for j in range(i, min(i + 8, n))]).to(device)
        logits = model(rows[:, :-1])
        total += F.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1),
                                 reduction="sum").item()
    return total / (n * ctx), n * ctx


# ---------------------------------------------------------------------------------------------------- training

def set_threads(n):
    torch.set_num_threads(n)
    for lib in ("libopenblas.so.0",):  # torch does not pass its thread count on to a pthread OpenBLAS
        try:
            ctypes.CDLL(lib).openblas_set_num_threads(n)
        except (OSError, AttributeError):
            pass


def config(a):
    return dict(vocab=a.vocab, dim=a.dim, n_layer=a.layers, n_head=a.heads, n_kv=a.kv_heads, ff=a.ff, ctx=a.ctx,
                theta=10000.0, eps=1e-5)


def load_checkpoint(a, device):
    state = torch.load(f"{a.work_dir}/checkpoint.pt", map_location=device)
    model = Llama(state["config"]).to(device)
    model.load_state_dict(state["model"])
    return model, state


def train(a):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    threads = 1 if a.raise_threads_when else a.threads
    set_threads(threads)
    resumed = os.path.exists(f"{a.work_dir}/checkpoint.pt")
    if resumed:
        model, state = load_checkpoint(a, device)
    else:
        model, state = Llama(config(a)).to(device), dict(step=0, tokens=0, elapsed=0.0)
    decay = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    opt = torch.optim.AdamW([dict(params=decay, weight_decay=0.1), dict(params=rest, weight_decay=0.0)],
                            lr=a.lr, betas=(0.9, a.beta2), eps=1e-8)
    if resumed:
        opt.load_state_dict(state["opt"])
        for g in opt.param_groups:
            g["betas"] = (0.9, a.beta2)
    step, tokens, before = state["step"], state["tokens"], state["elapsed"]
    batches = Batches(a.work_dir, model.c["ctx"], a.seed + step)
    held = {n: np.load(f"{a.work_dir}/{n}.heldout.npz")["ids"] for n in MIXTURE}
    n_param = sum(p.numel() for p in model.parameters())
    print(f"{n_param} parameters, device {device}, step {step}, elapsed {before:.0f} s", flush=True)
    start, last_save, last_poll, log_loss, log_n, log_t, log_tok = time.time(), time.time(), 0.0, 0.0, 0, time.time(), 0

    def save():
        t = f"{a.work_dir}/checkpoint.tmp"
        torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), config=model.c, step=step, tokens=tokens,
                        elapsed=before + time.time() - start), t)
        os.replace(t, f"{a.work_dir}/checkpoint.pt")

    while True:
        elapsed = before + time.time() - start
        progress = min(1.0, elapsed / (a.minutes * 60))
        if time.time() - last_poll > 10:
            last_poll = time.time()
            if a.raise_threads_when and threads < a.threads and os.path.exists(a.raise_threads_when):
                threads = a.threads
                set_threads(threads)
                print(f"threads -> {threads} at {elapsed:.0f} s", flush=True)
            if a.deadline_file and os.path.exists(a.deadline_file):  # a number of minutes: ends training sooner or later
                a.minutes = float(open(a.deadline_file).read())
        done = progress >= 1.0
        if done or time.time() - last_save > a.save_every:
            last_save = time.time()
            save()
            model.eval()
            report = " ".join(f"{n} {heldout_loss(model, x, model.c['ctx'], device, None if done else 24)[0]:.4f}"
                              for n, x in held.items())
            model.train()
            print(f"checkpoint step {step} elapsed {elapsed:.0f} s tokens {tokens} | held out: {report}", flush=True)
        if done:
            break
        warm = min(1.0, (step + 1) / a.warmup)
        lr = a.lr * warm * (a.final_lr + (1 - a.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))
        for g in opt.param_groups:
            g["lr"] = lr
        rows = batches.next(a.batch, progress).to(device)
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        tokens += a.batch * model.c["ctx"]
        log_tok += a.batch * model.c["ctx"]
        log_loss += loss.item()
        log_n += 1
        if log_n == a.log_every:
            now = time.time()
            print(f"step {step} loss {log_loss / log_n:.4f} lr {lr:.2e} {log_tok / (now - log_t):.0f} tok/s "
                  f"progress {progress:.3f}", flush=True)
            log_loss, log_n, log_t, log_tok = 0.0, 0, now, 0
    export(a)


def evaluate(a):
    set_threads(a.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, state = load_checkpoint(a, device)
    model.eval()
    print(f"step {state['step']} tokens {state['tokens']} elapsed {state['elapsed']:.0f} s")
    for name in MIXTURE:
        ids = np.load(f"{a.work_dir}/{name}.heldout.npz")["ids"]
        loss, n = heldout_loss(model, ids, model.c["ctx"], device)
        print(f"{name:20s} {n:7d} tokens  loss {loss:.4f}  perplexity {math.exp(loss):.3f}", flush=True)


@torch.no_grad()
def sample(a):
    import sentencepiece as spm
    set_threads(a.threads)
    sp = spm.SentencePieceProcessor(model_file=f"{a.work_dir}/tokenizer.model")
    model, _ = load_checkpoint(a, "cpu")
    model.eval()
    torch.manual_seed(a.seed)
    for prompt in a.prompt or ["Once upon a time", "One day, a little girl named Lily", "The old king looked at the sea"]:
        ids = [BOS] + sp.encode(prompt)
        while len(ids) < min(a.tokens, model.c["ctx"]):
            logits = model(torch.tensor([ids]))[0, -1] / max(a.temperature, 1e-5)
            top = torch.topk(logits, 40)
            nxt = int(top.indices[torch.multinomial(torch.softmax(top.values, -1), 1)]) if a.temperature > 0 \
                else int(logits.argmax())
            if nxt == EOS:
                break
            ids.append(nxt)
        print("---\n" + sp.decode(ids[1:]), flush=True)


# ---------------------------------------------------------------------------------------------------- GGUF

GGML_F32, GGML_F16, GGML_Q8_0 = 0, 1, 8
FILE_TYPE = {GGML_F32: 0, GGML_F16: 1, GGML_Q8_0: 7}


def q8_0(x):
    """ggml's reference Q8_0: blocks of 32, scale amax/127 stored as f16, values rounded half away from zero."""
    b = x.astype(np.float32).reshape(-1, 32)
    d = np.abs(b).max(axis=1, keepdims=True) / np.float32(127)
    inv = np.where(d > 0, np.float32(1) / np.where(d > 0, d, 1), 0).astype(np.float32)
    v = b * inv
    q = (np.sign(v) * np.floor(np.abs(v) + np.float32(0.5))).astype(np.int8)
    return np.concatenate([d.astype(np.float16).view(np.uint8), q.view(np.uint8)], axis=1).tobytes()


class GgufWriter:
    ALIGN = 32

    def __init__(self):
        self.kv, self.tensors = [], []

    @staticmethod
    def string(s):
        b = s if isinstance(s, bytes) else s.encode("utf-8")
        return struct.pack("<Q", len(b)) + b

    def add(self, key, kind, value):
        """kind: u32, i32, f32, bool, str, or one of these in brackets for an array."""
        codes = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "str": (8, None)}

        def one(k, v):
            return self.string(v) if k == "str" else struct.pack(codes[k][1], v)

        if kind.startswith("["):
            k = kind[1:-1]
            body = struct.pack("<IIQ", 9, codes[k][0], len(value)) + b"".join(one(k, v) for v in value)
        else:
            body = struct.pack("<I", codes[kind][0]) + one(kind, value)
        self.kv.append(self.string(key) + body)

    def tensor(self, name, array, kind):
        array = np.ascontiguousarray(array)
        data = {GGML_F32: lambda: array.astype(np.float32).tobytes(),
                GGML_F16: lambda: array.astype(np.float16).tobytes(),
                GGML_Q8_0: lambda: q8_0(array)}[kind]()
        self.tensors.append((name, array.shape, kind, data))

    def write(self, path):
        def pad(n):
            return -n % self.ALIGN

        out = struct.pack("<IIQQ", 0x46554747, 3, len(self.tensors), len(self.kv)) + b"".join(self.kv)
        offset = 0
        for name, shape, kind, data in self.tensors:
            dims = shape[::-1]  # GGUF lists the fastest-varying dimension first
            out += self.string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
            offset += len(data) + pad(len(data))
        with open(path + ".tmp", "wb") as f:
            f.write(out + b"\0" * pad(len(out)))
            for _, _, _, data in self.tensors:
                f.write(data + b"\0" * pad(len(data)))
        os.replace(path + ".tmp", path)


def export(a):
    import sentencepiece as spm
    model, state = load_checkpoint(a, "cpu")
    c = model.c
    sp = spm.SentencePieceProcessor(model_file=f"{a.work_dir}/tokenizer.model")
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    types = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
             for i in range(len(pieces))]
    head_dim = c["dim"] // c["n_head"]
    kv_dim = head_dim * c["n_kv"]
    for label, kind in (("f32", GGML_F32), ("f16", GGML_F16), ("q8_0", GGML_Q8_0)):
        w = GgufWriter()
        w.add("general.architecture", "str", "llama")
        w.add("general.name", "str", a.name)
        w.add("general.description", "str", "Small demo model trained from scratch on TinyStories, open children's "
              "storybooks and public-domain books")
        w.add("general.file_type", "u32", FILE_TYPE[kind])
        w.add("general.quantization_version", "u32", 2)
        w.add("llama.vocab_size", "u32", c["vocab"])
        w.add("llama.context_length", "u32", c["ctx"])
        w.add("llama.embedding_length", "u32", c["dim"])
        w.add("llama.block_count", "u32", c["n_layer"])
        w.add("llama.feed_forward_length", "u32", c["ff"])
        w.add("llama.attention.head_count", "u32", c["n_head"])
        w.add("llama.attention.head_count_kv", "u32", c["n_kv"])
        w.add("llama.attention.layer_norm_rms_epsilon", "f32", c["eps"])
        w.add("llama.rope.dimension_count", "u32", head_dim)
        w.add("llama.rope.freq_base", "f32", c["theta"])
        w.add("tokenizer.ggml.model", "str", "llama")
        w.add("tokenizer.ggml.pre", "str", "default")
        w.add("tokenizer.ggml.tokens", "[str]", pieces)
        w.add("tokenizer.ggml.scores", "[f32]", [sp.get_score(i) for i in range(len(pieces))])
        w.add("tokenizer.ggml.token_type", "[i32]", types)
        w.add("tokenizer.ggml.bos_token_id", "u32", BOS)
        w.add("tokenizer.ggml.eos_token_id", "u32", EOS)
        w.add("tokenizer.ggml.unknown_token_id", "u32", 0)
        w.add("tokenizer.ggml.add_bos_token", "bool", True)
        w.add("tokenizer.ggml.add_eos_token", "bool", False)
        w.add("tokenizer.ggml.add_space_prefix", "bool", True)
        w.tensor("token_embd.weight", model.embed.weight.detach().numpy(), kind)
        w.tensor("output_norm.weight", model.norm.weight.detach().numpy(), GGML_F32)
        for i, b in enumerate(model.blocks):
            qkv, gu = b.qkv.weight.detach().numpy(), b.gate_up.weight.detach().numpy()
            p = f"blk.{i}."
            w.tensor(p + "attn_norm.weight", b.attn_norm.weight.detach().numpy(), GGML_F32)
            w.tensor(p + "attn_q.weight", qkv[:c["dim"]], kind)
            w.tensor(p + "attn_k.weight", qkv[c["dim"]:c["dim"] + kv_dim], kind)
            w.tensor(p + "attn_v.weight", qkv[c["dim"] + kv_dim:], kind)
            w.tensor(p + "attn_output.weight", b.wo.weight.detach().numpy(), kind)
            w.tensor(p + "ffn_norm.weight", b.ffn_norm.weight.detach().numpy(), GGML_F32)
            w.tensor(p + "ffn_gate.weight", gu[:c["ff"]], kind)
            w.tensor(p + "ffn_up.weight", gu[c["ff"]:], kind)
            w.tensor(p + "ffn_down.weight", b.down.weight.detach().numpy(), kind)
        os.makedirs(a.out_dir, exist_ok=True)
        path = f"{a.out_dir}/{a.name}.{label}.gguf"
        w.write(path)
        print(f"{path} {os.path.getsize(path)} bytes, step {state['step']}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("command", choices=["prepare", "train", "eval", "sample", "export"])
    p.add_argument("--text-dir", default="text", help="folder of <source>.txt.gz")
    p.add_argument("--work-dir", default="work")
    p.add_argument("--out-dir", default="out")
    p.add_argument("--name", default="tinystories-6M")
    p.add_argument("--vocab", type=int, default=4096)
    p.add_argument("--dim", type=int, default=256)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--kv-heads", type=int, default=4)
    p.add_argument("--ff", type=int, default=768)
    p.add_argument("--ctx", type=int, default=256)
    p.add_argument("--batch", type=int, default=4, help="sequences a step")
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--beta2", type=float, default=0.99)
    p.add_argument("--final-lr", type=float, default=0.03, help="share of --lr left at the end")
    p.add_argument("--warmup", type=int, default=100, help="steps")
    p.add_argument("--minutes", type=float, default=65, help="wall clock in all, earlier runs counted")
    p.add_argument("--save-every", type=float, default=300, help="seconds")
    p.add_argument("--log-every", type=int, default=25, help="steps")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--raise-threads-when", help="start with one thread; use --threads once this file exists")
    p.add_argument("--deadline-file", help="while this file exists its number replaces --minutes")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--prompt", action="append")
    p.add_argument("--tokens", type=int, default=200)
    p.add_argument("--temperature", type=float, default=0.8)
    a = p.parse_args()
    {"prepare": prepare, "train": train, "eval": evaluate, "sample": sample, "export": export}[a.command](a)


if __name__ == "__main__":
    main()
