"""Stories told by an ensemble, its predictions as labels, and a student that learns them."""
import json
import sys
import time

import numpy as np
import torch

from training.corpus import BOS, EOS, SOURCES, STORIES, Documents, epoch_windows, source_shares
from training.measure import autocast, ensemble, evaluate_all, held_out, print_measures
from training.trainer import OUT_OF_TIME, Compiled, Trainer, load_model, shape_and_recipe

@torch.no_grad()
def tell(model, prompts, length, generator, temperature=1.0, top_k=0):
    """Continues every prompt (rows of equal length) to `length` tokens in all.  Returns the rows."""
    device, s = prompts.device, model.shape
    cache = torch.zeros((s.layers, 2, len(prompts), s.kv_heads, length, s.head_dim), device=device,
                        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    rows = torch.full((len(prompts), length), EOS, device=device)
    rows[:, :prompts.shape[1]] = prompts
    for at in range(length - 1):
        with autocast(device):
            logits = model.step(rows[:, at], cache, at).float() / temperature
        if at + 1 < prompts.shape[1]:
            continue
        if top_k:
            logits[logits < logits.topk(top_k).values[:, -1:]] = float("-inf")
        # The largest of p / exponential noise is a draw from p.
        noise = torch.empty_like(logits).exponential_(generator=generator)
        rows[:, at + 1] = (torch.softmax(logits, dim=-1) / noise).argmax(-1)
    return rows


PROMPTS = ("Once upon a time, there was a little girl who found", "One day, a small bear",
           "Tom and his dog went to the park.")


def sample_stories(model, tokenizer, prompts, seed, temperature, top_k, device):
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([[BOS] + tokenizer.encode(prompt)], device=device)
        generator = torch.Generator(device).manual_seed(seed + i)
        row = tell(model, ids, model.shape.ctx, generator, temperature, top_k)[0].tolist()
        end = row.index(EOS) if EOS in row else len(row)
        yield prompt, tokenizer.decode(row[1:end])


def stories_in(rows):
    """The complete stories among told rows, as lists of ids from BOS to EOS."""
    out = []
    for row in rows.cpu().numpy():
        ends = np.flatnonzero(row == EOS)
        if len(ends) and ends[0] > 40:
            out.append(row[:ends[0] + 1].astype(np.uint16))
    return out


def dream(a):
    """Every teacher in turn tells stories; each begins as a training story does (BOS and one token)."""
    stories = Documents.load(a.work_dir / f"{STORIES}.train.npz")
    openings = stories.ids[stories.starts[:-1][:, None] + np.arange(2)]
    generator = torch.Generator(a.device).manual_seed(a.seed)
    rng, told, total = np.random.default_rng(a.seed), [], 0
    teachers = [load_model(a.work_dir, n, a.device)[0] for n in a.teachers.split(",")]
    while total < a.tokens:
        teacher = teachers[len(told) % len(teachers)]
        prompts = torch.from_numpy(openings[rng.integers(0, len(openings), a.rows)]).to(a.device)
        told.append(stories_in(tell(teacher, prompts, a.length, generator)))
        total += sum(map(len, told[-1]))
        print(f"dreams: {total} tokens, {len(told[-1])} of {a.rows} stories came to an end", flush=True)
    ids = [x for part in told for x in part]
    np.savez(a.work_dir / "dreams.npz", ids=np.concatenate(ids), starts=np.cumsum([0] + [len(x) for x in ids]),
             bytes=np.zeros(len(ids), np.int64))


TIMES = (6, 3, 2, 1)  # how often each source is labelled, cut differently, in the order of SOURCES
LIKELIEST = 64  # how many next tokens of the ensemble a label holds


def windows_to_label(a, ctx):
    windows = [np.concatenate([epoch_windows(Documents.load(a.work_dir / f"{n}.train.npz"), ctx, 999, e)
                               for e in range(times)]) for n, times in zip(SOURCES, TIMES)]
    windows.append(epoch_windows(Documents.load(a.work_dir / "dreams.npz"), ctx, 999, 0))
    return windows


@torch.no_grad()
def label(a):
    """Writes what an ensemble predicts at every place of the texts and dreams: its likeliest tokens."""
    begin, compiled = time.time(), Compiled(a.device)
    models = [load_model(a.work_dir, n, a.device)[0] for n in a.teachers.split(",")]
    predict = ensemble(models, a.device)
    table = evaluate_all(predict, held_out(a.work_dir), 256, a.device)
    (a.work_dir / "ensemble.json").write_text(json.dumps({"models": len(models), "held_out": table}, indent=1))
    print_measures(f"ensemble of {len(models)}", table)
    windows = windows_to_label(a, models[0].shape.ctx)
    rows = np.concatenate(windows).astype(np.uint16)
    ids = np.empty((len(rows), rows.shape[1] - 1, LIKELIEST), np.int16)
    probs = np.empty(ids.shape, np.float16)
    for i in range(0, len(rows), a.rows):
        batch = rows[i:i + a.rows]
        padded = np.concatenate([batch, np.zeros((a.rows - len(batch), rows.shape[1]), np.uint16)])
        inputs = torch.from_numpy(padded.astype(np.int64)).to(a.device)[:, :-1]
        top = predict(inputs, compiled.block).topk(LIKELIEST, dim=-1)
        ids[i:i + a.rows] = top.indices[:len(batch)].to(torch.int16).cpu().numpy()
        probs[i:i + a.rows] = top.values[:len(batch)].exp().half().cpu().numpy()
    for name, x in (("rows", rows), ("ids", ids), ("probs", probs), ("ends", np.cumsum(list(map(len, windows))))):
        np.save(a.work_dir / f"labels-{name}.npy", x)
    outside = 1 - probs[::97].astype(np.float32).sum(-1).mean()
    print(f"labelled {ids[..., 0].size} tokens in {time.time() - begin:.0f} s; probability of the tokens that "
          f"are not among the likeliest {LIKELIEST}: {outside:.3f}", flush=True)


class SoftLabels:
    """Batches of labelled windows: by the mixture, those of a source drawn anew each time."""

    def __init__(self, work, recipe, device):
        self.recipe, self.device = recipe, device
        self.rows, self.ids, self.probs, self.ends = (
            np.load(work / f"labels-{n}.npy") for n in ("rows", "ids", "probs", "ends"))
        self.rows = torch.from_numpy(self.rows.astype(np.int64)).to(device)
        self.ids, self.probs = (torch.from_numpy(x).to(device) for x in (self.ids, self.probs))

    def next(self, step):
        rng = np.random.default_rng([self.recipe.seed, step])
        shares = source_shares(self.recipe, step / self.recipe.steps)
        shares = np.append(shares * (1 - self.recipe.dreams), self.recipe.dreams)
        counts = rng.multinomial(self.recipe.batch, shares)
        begins = np.append(0, self.ends[:-1])
        chosen = np.concatenate([rng.integers(b, e, c) for b, e, c in zip(begins, self.ends, counts)
                                 if e > b])
        at = torch.from_numpy(chosen).to(self.device)
        hard = (at < int(self.ends[len(SOURCES) - 1])).float() * self.recipe.hard
        return self.rows[at], self.ids[at], self.probs[at], hard

    def state(self):
        return None

    def resume(self, state):
        pass


def distil(a):
    shape, recipe = shape_and_recipe(a)
    compiled = Compiled(a.device)

    def loss_of(model, batch):
        rows, ids, probs, hard = batch
        hidden = model.hidden(rows[:, :-1], compiled.block)
        return compiled.soft_ce(hidden, model.embed.weight, rows[:, 1:], ids, probs, hard)

    labels = SoftLabels(a.work_dir, recipe, a.device)
    if not Trainer(a, a.name or a.preset, shape, recipe, labels, loss_of).train():
        sys.exit(OUT_OF_TIME)
