"""Optimiser, losses and the loop that all trainings share."""
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from training.corpus import Mixture
from training.gguf import load_gguf
from training.llama import SHAPES, Block, Llama, Shape, parameters_of
from training.measure import autocast, evaluate_all, held_out, mean_loss, predictor, print_measures

OUT_OF_TIME = 3  # exit status of a training that --stop-after cut off

@dataclasses.dataclass
class Recipe:
    steps: int = 3000
    batch: int = 64  # windows of ctx tokens
    lr: float = 2e-3
    weight_decay: float = 0.4
    dropout: float = 0.15
    warmup: int = 100
    seed: int = 1
    ramp: float = 0.4
    mix_begin: tuple = (0.08, 0.06, 0.12, 0.74)  # in the order of SOURCES
    mix_end: tuple = (0.45, 0.10, 0.12, 0.33)
    dreams: float = 0.5  # distil: share of windows that models wrote
    hard: float = 0.0  # distil: share of the loss on the text's own tokens (never on dreams)
    eval_every: int = 100


STUDENT = Recipe(steps=6000, weight_decay=0.05, lr=3e-3, dropout=0.0, ramp=0.3, eval_every=200,
                 mix_begin=(0.30, 0.10, 0.15, 0.45), mix_end=(0.50, 0.14, 0.11, 0.25))
RECIPES = {
    "teacher": Recipe(steps=1600, weight_decay=1.2, dropout=0.2),
    "eval": dataclasses.replace(STUDENT, lr=2e-3, weight_decay=0.1, dropout=0.05),
    "demo": STUDENT,
    "tiny": Recipe(steps=30, batch=4, eval_every=10, warmup=5),
}


def orthogonal(g):
    """Nearest (roughly) orthogonal matrices to a stack of matrices, by Newton-Schulz steps (Muon)."""
    x = g.bfloat16() if g.is_cuda else g.float()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.transpose(-1, -2)
    x = x / (x.flatten(1).float().norm(dim=1)[:, None, None] + 1e-7).to(x.dtype)
    for _ in range(5):
        s = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    return x if wide else x.transpose(-1, -2)


class Optimiser:
    """Muon on the matrices of the blocks, AdamW on embeddings and norms; decoupled weight decay on matrices.

    Muon's update is scaled to the size of AdamW's (0.2 of a unit each), so both share one learning rate.
    Fused matrices (q, k, v; gate, up) are taken apart, equal shapes of all layers go through together."""
    MOMENTUM = 0.95

    def __init__(self, model, recipe):
        self.recipe, s = recipe, model.shape
        splits = {"qkv": [s.dim, s.kv_dim, s.kv_dim], "gate_up": [s.ff, s.ff], "wo": [s.dim], "down": [s.dim]}
        self.matrices = [(getattr(b, name).weight, rows) for b in model.blocks for name, rows in splits.items()]
        self.momentum = [torch.zeros_like(p) for p, _ in self.matrices]
        mine = {id(p) for p, _ in self.matrices}
        rest = [p for p in model.parameters() if id(p) not in mine]
        self.adam = torch.optim.AdamW(
            [{"params": [p for p in rest if p.dim() == 2], "weight_decay": recipe.weight_decay},
             {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0}],
            lr=recipe.lr, betas=(0.9, 0.98), eps=1e-8)

    @torch.no_grad()
    def step(self, lr):
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        grads = [p.grad for p, _ in self.matrices]
        torch._foreach_mul_(self.momentum, self.MOMENTUM)
        torch._foreach_add_(self.momentum, grads, alpha=1 - self.MOMENTUM)
        updates = torch._foreach_mul(grads, 1 - self.MOMENTUM)  # Nesterov: the gradient counts once more
        torch._foreach_add_(updates, self.momentum, alpha=self.MOMENTUM)
        by_shape = {}
        for (p, rows), update in zip(self.matrices, updates):
            for w, u in zip(p.split(rows), update.split(rows)):
                by_shape.setdefault(tuple(w.shape), []).append((w, u))
        for shape, pairs in by_shape.items():
            scale = 0.2 * math.sqrt(max(shape))
            turned = orthogonal(torch.stack([u for _, u in pairs])).float() * (-lr * scale)
            weights = [w for w, _ in pairs]
            torch._foreach_mul_(weights, 1 - lr * self.recipe.weight_decay)
            torch._foreach_add_(weights, list(turned))

    def zero_grad(self):
        for p, _ in self.matrices:
            p.grad = None
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        for m, x in zip(self.momentum, state["momentum"]):
            m.copy_(x)


def learning_rate(recipe, step):
    """Linear up, then linear down to nothing."""
    return recipe.lr * min((step + 1) / recipe.warmup, 1 - step / recipe.steps)


def cross_entropy(hidden, head, targets):
    logits = F.linear(hidden, head).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def soft_cross_entropy(hidden, head, targets, ids, probs, hard):
    """Against the ensemble's likeliest tokens (ids, probs) and, as one more class, all others together.

    hard: for each row, the share of the loss that the text's own tokens have."""
    log_q = torch.log_softmax(F.linear(hidden, head).float(), dim=-1)
    likely = log_q.gather(-1, ids.long())
    p = probs.float()
    rest = torch.log1p(-likely.exp().sum(-1).clamp(max=1 - 1e-5))
    soft = -(p * likely).sum(-1) - (1 - p.sum(-1)).clamp(min=0) * rest
    own = -log_q.gather(-1, targets[..., None])[..., 0]
    return torch.lerp(soft, own, hard[:, None].expand_as(own)).mean()


class Compiled:
    """Block and losses, compiled where that is worth it (one block's code serves all layers)."""

    def __init__(self, device):
        on = device.type == "cuda"
        if on:
            torch._dynamo.config.cache_size_limit = 64
            torch._dynamo.config.recompile_limit = 64
        wrap = (lambda f: torch.compile(f, dynamic=False)) if on else (lambda f: f)
        self.block, self.ce, self.soft_ce = wrap(Block.forward), wrap(cross_entropy), wrap(soft_cross_entropy)


class Trainer:
    """The loop that `train` and `distil` share.  batches: next(step) -> a batch, state(), resume(state)."""

    def __init__(self, a, name, shape, recipe, batches, loss_of):
        self.a, self.name, self.recipe, self.batches, self.loss_of = a, name, recipe, batches, loss_of
        self.device = a.device
        torch.manual_seed(recipe.seed)
        self.model = Llama(shape).to(self.device)
        self.model.dropout.fill_(recipe.dropout)
        self.optimiser = Optimiser(self.model, recipe)
        self.run = {"name": name, "shape": dataclasses.asdict(shape), "recipe": dataclasses.asdict(recipe),
                    "parameters": parameters_of(self.model), "curve": [], "seconds": 0.0}
        self.step, self.best, self.best_state = 0, float("inf"), None
        self.corpora = held_out(a.work_dir)

    def path(self, suffix):
        return self.a.work_dir / f"{self.name}.{suffix}"

    def save(self):
        torch.save({"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "run": self.run,
                    "step": self.step, "best": self.best, "best_state": self.best_state,
                    "batches": self.batches.state(), "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None},
                   self.path("tmp"))
        os.replace(self.path("tmp"), self.path("resume.pt"))

    def resume(self):
        if not self.path("resume.pt").exists():
            return
        s = load(self.path("resume.pt"), self.device)
        if s["run"]["recipe"] != json.loads(json.dumps(self.run["recipe"])) and s["run"]["recipe"] != self.run["recipe"]:
            sys.exit(f"{self.path('resume.pt')} belongs to another recipe: remove it, or use another --name")
        self.model.load_state_dict(s["model"])
        self.optimiser.load_state_dict(s["optimiser"])
        self.run, self.step, self.best, self.best_state = s["run"], s["step"], s["best"], s["best_state"]
        self.batches.resume(s["batches"])
        torch.set_rng_state(s["rng"].cpu())
        if s["cuda_rng"] is not None:
            torch.cuda.set_rng_state(s["cuda_rng"].cpu())

    def evaluate(self, train_loss):
        docs = self.corpora["stories, choosing half"]
        loss = mean_loss(predictor(self.model, self.device), docs, 256, self.device)
        self.model.train()
        self.run["curve"].append([self.step, round(train_loss, 4), round(loss, 4)])
        if loss < self.best:
            self.best = loss
            self.best_state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        print(f"{self.name} step {self.step}/{self.recipe.steps} train {train_loss:.4f} "
              f"held-out stories {loss:.4f} (best {self.best:.4f})", flush=True)

    def train(self):
        """Returns False when --stop-after ended it before its last step."""
        self.resume()
        recipe, begin, before = self.recipe, time.time(), self.run["seconds"]
        self.model.train()
        losses, done = [], self.step >= recipe.steps
        while not done:
            with autocast(self.device):
                loss = self.loss_of(self.model, self.batches.next(self.step))
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step(learning_rate(recipe, self.step))
            losses.append(loss.detach())
            self.step += 1
            done = self.step == recipe.steps
            if self.step % recipe.eval_every == 0 or done:
                self.evaluate(torch.stack(losses).mean().item())
                losses = []
                self.run["seconds"] = round(before + time.time() - begin, 1)
                late = self.a.stop_after and time.time() - self.a.began > self.a.stop_after
                if late or (self.a.save_every and self.step % self.a.save_every == 0):
                    self.save()
                if late and not done:
                    return False
        self.finish()
        return True

    def finish(self):
        """Keeps the best weights and notes what they do on every corpus."""
        self.model.load_state_dict(self.best_state)
        predict = predictor(self.model, self.device)
        self.run["tokens"] = self.step * self.recipe.batch * self.model.shape.ctx
        if hasattr(self.batches, "epochs"):
            self.run["epochs"] = self.batches.epochs()
        self.run["held_out"] = evaluate_all(predict, self.corpora, 256, self.device)
        torch.save({"model": self.model.state_dict(), "run": self.run}, self.path("pt"))
        self.path("json").write_text(json.dumps(self.run, indent=1) + "\n")
        rate = self.run["tokens"] / max(self.run["seconds"], 1e-9)
        print_measures(f"{self.name}: {self.run['parameters']} parameters, {self.run['tokens']} tokens, "
                       f"{self.run['seconds']} s ({rate:.0f} tokens/s)", self.run["held_out"])
        if self.path("resume.pt").exists():
            self.path("resume.pt").unlink()


def load(path, device):
    try:
        return torch.load(path, map_location=device, weights_only=False)
    except TypeError:  # older versions of torch do not know the argument
        return torch.load(path, map_location=device)


def load_model(work, name, device):
    """A model of this folder by its name, or any GGUF file by its path.  Returns it and its run's record."""
    if str(name).endswith(".gguf"):
        return load_gguf(name, device), {"name": Path(name).name}
    s = load(work / f"{name}.pt", device)
    model = Llama(Shape(**s["run"]["shape"])).to(device)
    model.load_state_dict(s["model"])
    return model.eval(), s["run"]


def shape_and_recipe(a):
    """The preset with what the command line changes about it."""
    shape = SHAPES[a.preset]
    shape = dataclasses.replace(shape, **{k: getattr(a, k) for k in ("dim", "layers", "ff", "heads", "kv_heads")
                                          if getattr(a, k) is not None})
    fields = {f.name for f in dataclasses.fields(Recipe)}
    changes = {k: v for k, v in vars(a).items() if k in fields and v is not None}
    return shape, dataclasses.replace(RECIPES[a.preset], **changes)


def train(a):
    shape, recipe = shape_and_recipe(a)
    compiled = Compiled(a.device)

    def loss_of(model, rows):
        return compiled.ce(model.hidden(rows[:, :-1], compiled.block), model.embed.weight, rows[:, 1:])

    batches = Mixture(a.work_dir, shape.ctx, recipe, recipe.seed, a.device)
    if not Trainer(a, a.name or a.preset, shape, recipe, batches, loss_of).train():
        sys.exit(OUT_OF_TIME)
