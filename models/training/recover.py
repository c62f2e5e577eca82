"""LoRA adapters that win back what pruned MLPs lose (arXiv 2412.01380, section on LoRA; arXiv 2106.09685).

The model is frozen. Small adapters on gate, up and down learn, with Dynamic Input Pruning's masks on, to
predict what the dense model predicts. A batch draws its density, so that one adapter serves all of them,
and density 1 is among them because prompts are never pruned. Masks are constants to the gradient.
"""
import dataclasses
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from training.corpus import Mixture
from training.gguf import GGML_F16, GgufWriter
from training.llama import causal_attention
from training.measure import autocast, held_out, mean_loss, measures
from training.trainer import RECIPES, load_model

DENSITIES = (1.0, 0.75, 0.6, 0.5, 0.42, 0.35)


def split(density):
    """Shares of input and hidden units kept at a mean density, the published fit."""
    if density >= 1:
        return 1.0, 1.0
    keep_in = 1 / (1 + math.exp(-(0.98499 * math.log(density / (1 - density)) + 0.29976)))
    return keep_in, 3 * density - 2 * keep_in


def prune(x, kept):
    """The `kept` entries of each row with the largest magnitudes; the others become 0."""
    if kept == x.shape[-1]:
        return x
    size = x.detach().abs()
    return x * (size >= size.topk(kept, dim=-1).values[..., -1:])


class Adapter(nn.Module):
    """What is added to one matrix: b a, from zero."""

    def __init__(self, rank, inputs, outputs):
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return F.linear(F.linear(x, self.a), self.b)


class PrunedModel(nn.Module):
    """A frozen Llama with adapters, every token's MLP pruned."""

    def __init__(self, model, rank):
        super().__init__()
        s = model.shape
        self.base = model.requires_grad_(False)
        self.adapters = nn.ModuleList(
            nn.ModuleDict({"gate": Adapter(rank, s.dim, s.ff), "up": Adapter(rank, s.dim, s.ff),
                           "down": Adapter(rank, s.ff, s.dim)}) for _ in range(s.layers))

    def mlp(self, layer, x, density, adapted):
        block, own = self.base.blocks[layer], self.adapters[layer]
        keep_in, keep_hidden = split(density)
        x = prune(block.ffn_norm(x), math.floor(keep_in * x.shape[-1]))
        gate, up = block.gate_up(x).chunk(2, dim=-1)
        if adapted:
            gate, up = gate + own["gate"](x), up + own["up"](x)
        hidden = F.silu(gate) * up
        hidden = prune(hidden, math.floor(keep_hidden * hidden.shape[-1]))
        return block.down(hidden) + (own["down"](hidden) if adapted else 0)

    def forward(self, tokens, density, adapted=True):
        base, t = self.base, tokens.shape[1]
        x = base.embed(tokens)
        for layer, block in enumerate(base.blocks):
            q, k, v = block.heads(block.attn_norm(x), base.cos[:t], base.sin[:t])
            y = causal_attention(q, block.spread(k), block.spread(v))
            x = x + block.wo(y.transpose(1, 2).flatten(2))
            x = x + self.mlp(layer, x, density, adapted)
        return F.linear(base.norm(x), base.embed.weight)


def write_adapter(model, path, architecture="llama"):
    """llama.cpp's format of a LoRA adapter; alpha equals the rank, so that the factor is 1."""
    w = GgufWriter()
    w.add("general.type", "str", "adapter")
    w.add("general.architecture", "str", architecture)
    w.add("general.name", "str", path.name.removesuffix(".gguf"))
    w.add("general.license", "str", "apache-2.0")
    w.add("adapter.type", "str", "lora")
    w.add("adapter.lora.alpha", "f32", float(model.adapters[0]["gate"].a.shape[0]))
    for i, own in enumerate(model.adapters):
        for name in ("gate", "up", "down"):
            for half in ("a", "b"):
                w.tensor(f"blk.{i}.ffn_{name}.weight.lora_{half}",
                         getattr(own[name], half).detach().cpu().numpy(), GGML_F16)
    w.write(path)


def compare(model, corpora, device):
    """Held-out measures by corpus and density, without and with the adapter."""
    rows = []
    for name, docs in corpora.items():
        for density in (1.0, 0.75, 0.5, 0.35):
            row = {"corpus": name, "density": density}
            for title, adapted in (("without", False), ("with", True)):
                def predict(tokens, density=density, adapted=adapted):
                    with autocast(device):
                        return model(tokens, density, adapted)
                row[title] = measures(mean_loss(predict, docs, 256, device), docs)["perplexity"]
            rows.append(row)
            print(f"{name:26s} density {density:.2f}  perplexity {row['without']:.3f} -> {row['with']:.3f}", flush=True)
    return rows


def recover(a):
    """Trains the adapter of a model and writes it as GGUF."""
    torch.manual_seed(a.seed)
    begin = time.time()
    base, _ = load_model(a.work_dir, a.model, a.device)
    model = PrunedModel(base, a.rank).to(a.device)
    recipe = dataclasses.replace(RECIPES["demo"], batch=a.batch, steps=a.steps)
    batches = Mixture(a.work_dir, base.shape.ctx, recipe, a.seed, a.device)
    optimiser = torch.optim.AdamW(model.adapters.parameters(), lr=a.lr, betas=(0.9, 0.98), weight_decay=0.0)
    draw = torch.Generator().manual_seed(a.seed)
    for step in range(a.steps):
        for group in optimiser.param_groups:
            group["lr"] = a.lr * min((step + 1) / 50, 1 - step / a.steps)
        rows = batches.next(step)[:, :-1]
        density = DENSITIES[int(torch.randint(len(DENSITIES), (), generator=draw))]
        with autocast(a.device):
            with torch.no_grad():
                wanted = torch.log_softmax(base(rows).float(), dim=-1)
            given = torch.log_softmax(model(rows, density).float(), dim=-1)
            loss = F.kl_div(given, wanted, reduction="none", log_target=True).sum(-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{a.steps} density {density} divergence {loss.item():.4f}", flush=True)
    write_adapter(model, a.out)
    record = {"model": str(a.model), "rank": a.rank, "steps": a.steps, "seconds": round(time.time() - begin, 1),
              "rows": compare(model, {n: d for n, d in held_out(a.work_dir).items() if n.startswith("stories,")},
                              a.device)}
    (a.work_dir / "recover.json").write_text(json.dumps(record, indent=1) + "\n")
