#!/usr/bin/env python3
"""Trains the demo and the evaluation model from nothing and writes them as GGUF.

The text is short (about 7 million tokens, half a million of them the stories that matter), so over-fitting
is the enemy and compute is not.  Hence the steps:

  prepare   trains the tokenizer on the training texts and encodes everything
  train     trains one model on the text: many epochs, dropout, strong weight decay, stories last
  dream     lets trained models tell stories: more text of the kind the held-out stories are of
  label     writes down what an ensemble of trained models predicts, on the text and the dreams
  distil    trains one model to predict that
  eval      held-out loss, perplexity and bits per byte of a checkpoint or GGUF, for each corpus
  sample    prints stories told by a checkpoint
  export    writes a checkpoint as f16 and q8_0 GGUF
  recover   trains a LoRA adapter that wins back part of what pruning costs
  card      writes the model card (README.md) from the results of the others

Example (text/ holds <source>.txt.gz; documents are separated by lines <|endoftext|>):

  train.py prepare --text-dir text
  for s in 1 2 3 4 5 6; do train.py train --preset teacher --seed $s --name teacher-$s; done
  train.py dream   --teachers teacher-1,teacher-2,teacher-3,teacher-4,teacher-5,teacher-6
  train.py label   --teachers teacher-1,teacher-2,teacher-3,teacher-4,teacher-5,teacher-6
  train.py distil  --preset demo --name demo
  train.py distil  --preset eval --name eval
  train.py eval demo && train.py eval eval && train.py sample demo
  train.py export  demo --gguf-name stories-7M && train.py export eval --gguf-name stories-28M
  train.py recover demo --out out/stories-7M.dip-lora.gguf
  reference.py ids out/stories-7M.f16.gguf tinystories-heldout.txt --out demo.ids
  reference.py golden out/stories-7M.f16.gguf demo.ids --out demo.json
  train.py card    --gguf out/stories-7M.f16.gguf --golden demo.json

On one H100 that took 15 minutes: 6 for the teachers, 1.5 for the dreams, 1.5 for the labels, 5 for both
students at once.  The parts are in training/: llama, corpus, measure, trainer, distil, gguf, card.

Training is decided by seed and steps, never by the clock.  It saves a checkpoint now and then and goes on
from it when called again; --stop-after SECONDS ends a call early (exit status 3), so that a long training
can be done in pieces.  "Early stopping" keeps the weights that did best on one half of the held-out
stories; the other half decides nothing.

The models are ordinary Llamas: RMSNorm, interleaved RoPE (pairs 2i, 2i + 1), grouped-query attention,
SwiGLU, tied embeddings.  Needs Python 3 with torch (CUDA or CPU), numpy and sentencepiece.
"""
import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from arguments import real, run, whole
from training.corpus import (BOS, EOS, SOURCES, STORIES, Documents, load_tokenizer, prepare, read_documents,
                             split_documents)
from training.distil import PROMPTS, distil, dream, label, sample_stories
from training.gguf import (GGML_F16, GGML_F32, GGML_Q8_0, GgufWriter, add_metadata, add_tokenizer,
                           named_tensors)
from training.llama import SHAPES
from training.measure import evaluate_all, held_out, predictor, print_measures
from training.recover import recover
from training.trainer import load_model, train


def evaluate(a):
    """Encodes the held-out texts with the model's own tokenizer when it is a GGUF file."""
    for name in a.models:
        model, _ = load_model(a.work_dir, name, a.device)
        corpora = encoded_by(name, a.text_dir) if name.endswith(".gguf") else held_out(a.work_dir)
        for ctx in sorted({256, model.shape.ctx}):
            table = evaluate_all(predictor(model, a.device), corpora, ctx, a.device)
            print_measures(f"{Path(name).name}, windows of {ctx}", table)
            out = a.work_dir / f"{Path(name).name}.eval-{ctx}.json"
            out.write_text(json.dumps(table, indent=1) + "\n")


def encoded_by(gguf, text_dir):
    from reference import Gguf, Tokenizer
    tokenizer = Tokenizer(Gguf(gguf).kv)
    corpora = {}
    for name in SOURCES:
        docs = split_documents(name, read_documents(text_dir / f"{name}.txt.gz"))[1]
        ids = [np.array([BOS] + tokenizer.encode(d) + [EOS]) for d in docs]
        corpora[name] = Documents(np.concatenate(ids), np.cumsum([0] + [len(x) for x in ids]),
                                  np.array([len(d.encode()) for d in docs]))
    stories = corpora[STORIES]
    corpora["stories, choosing half"] = stories.only(range(0, len(stories), 2))
    corpora["stories, untouched half"] = stories.only(range(1, len(stories), 2))
    return corpora


def sample(a):
    model, _ = load_model(a.work_dir, a.model, a.device)
    for _, text in sample_stories(model, load_tokenizer(a.work_dir), a.prompt or PROMPTS, a.seed, a.temperature,
                                  a.top_k, a.device):
        print("---\n" + text, flush=True)


def export(a):
    model, run = load_model(a.work_dir, a.model, torch.device("cpu"))
    a.out_dir.mkdir(parents=True, exist_ok=True)
    for suffix, kind in (("f16", GGML_F16), ("q8_0", GGML_Q8_0)):
        w = GgufWriter()
        add_metadata(w, a.gguf_name or run["name"], model.shape, kind)
        add_tokenizer(w, load_tokenizer(a.work_dir))
        for name, t in named_tensors(model):
            w.tensor(name, t.detach().numpy(), GGML_F32 if t.dim() == 1 else kind)
        path = a.out_dir / f"{a.gguf_name or run['name']}.{suffix}.gguf"
        w.write(path)
        print(f"{path} {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def write_card(a):
    """Writes the model card from what the other commands left in the work folder."""
    from training.card import card
    a.out.write_text(card(a), encoding="utf-8")


def add_recipe_options(p):
    p.add_argument("--preset", choices=sorted(SHAPES), default="demo", help="shape and recipe")
    p.add_argument("--name", help="of the checkpoint (default: the preset's)")
    for name in ("dim", "layers", "ff", "heads", "kv-heads", "steps", "batch", "warmup", "seed", "eval-every"):
        p.add_argument(f"--{name}", type=whole())
    for name in ("lr", "weight-decay", "dropout", "ramp", "dreams", "hard"):
        p.add_argument(f"--{name}", type=real(-1e9, 1e9))
    for name in ("mix-begin", "mix-end"):
        p.add_argument(f"--{name}", type=real(-1e9, 1e9), nargs=len(SOURCES), metavar="SHARE", help=f"shares of {SOURCES}")
    p.add_argument("--save-every", type=whole(), default=0, help="steps between checkpoints to resume from")
    p.add_argument("--stop-after", type=real(-1e9, 1e9), default=0, help="seconds; ends with a checkpoint and status 3")


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work-dir", type=Path, default=Path("work"), help="checkpoints and encoded text")
    common.add_argument("--text-dir", type=Path, default=Path("text"), help="folder of <source>.txt.gz")
    common.add_argument("--device", type=torch.device,
                        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    commands = p.add_subparsers(dest="command", required=True)

    def command(name, function):
        c = commands.add_parser(name, parents=[common], help=function.__doc__)
        c.set_defaults(function=function)
        return c

    command("prepare", prepare).add_argument("--vocab", type=whole(), default=4096)
    add_recipe_options(command("train", train))
    c = command("dream", dream)
    c.add_argument("--tokens", type=whole(), default=12_000_000)
    c.add_argument("--rows", type=whole(), default=4096, help="stories told at a time")
    c.add_argument("--length", type=whole(), default=384, help="longest story in tokens")
    c.add_argument("--seed", type=whole(), default=7)
    c.add_argument("--teachers", required=True, help="names, separated by commas")
    c = command("label", label)
    c.add_argument("--teachers", required=True, help="names, separated by commas")
    c.add_argument("--rows", type=whole(), default=64, help="windows at a time")
    add_recipe_options(command("distil", distil))
    command("eval", evaluate).add_argument("models", nargs="+", help="name of a checkpoint, or a GGUF file")
    c = command("sample", sample)
    c.add_argument("model")
    c.add_argument("--prompt", action="append")
    c.add_argument("--seed", type=whole(), default=1)
    c.add_argument("--temperature", type=real(-1e9, 1e9), default=0.8)
    c.add_argument("--top-k", type=whole(), default=40)
    c = command("export", export)
    c.add_argument("model")
    c.add_argument("--gguf-name", help="file name without .f16.gguf")
    c.add_argument("--out-dir", type=Path, default=Path("out"))
    c = command("recover", recover)
    c.add_argument("model", help="name of a checkpoint, or a GGUF file")
    c.add_argument("--rank", type=whole(), default=32)
    c.add_argument("--steps", type=whole(), default=3000)
    c.add_argument("--batch", type=whole(), default=64)
    c.add_argument("--lr", type=real(-1e9, 1e9), default=2e-3)
    c.add_argument("--seed", type=whole(), default=1)
    c.add_argument("--out", type=Path, default=Path("adapter.gguf"))
    c = command("card", write_card)
    c.add_argument("--model", default="demo", help="name of the checkpoint's record (default demo)")
    c.add_argument("--larger", default="eval", help="name of the larger model's record")
    c.add_argument("--gguf", type=Path, required=True, help="the exported demo model")
    c.add_argument("--before", type=Path, help="what `eval` wrote about the model that this one replaces")
    c.add_argument("--golden", type=Path, required=True, help="what `reference.py golden` wrote")
    c.add_argument("--out", type=Path, default=Path("README.md"))
    a = p.parse_args()
    a.began = time.time()
    return a


def main():
    a = parse()
    torch.set_float32_matmul_precision("high")
    a.function(a)


if __name__ == "__main__":
    run(main)
