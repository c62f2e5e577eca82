"""Held-out loss, perplexity and bits per byte."""
import math

import torch
import torch.nn.functional as F

from training.corpus import SOURCES, STORIES, Documents
from training.llama import Block


def autocast(device):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@torch.no_grad()
def mean_loss(predict, docs, ctx, device):
    """Mean next-token loss (nats) over consecutive windows of ctx tokens that do not see each other."""
    ids = torch.from_numpy(docs.ids)
    n = (len(ids) - 1) // ctx
    rows = ids[:n * ctx].view(n, ctx).to(device)
    targets = ids[1:n * ctx + 1].view(n, ctx).to(device)
    total = 0.0
    for i in range(0, n, 64):
        logits = predict(rows[i:i + 64]).float()
        total += F.cross_entropy(logits.flatten(0, 1), targets[i:i + 64].flatten(), reduction="sum").item()
    return total / (n * ctx)


def measures(loss, docs):
    """Loss per token, perplexity, and bits per byte of the text itself (BOS and EOS are paid for, too)."""
    per_byte = loss * len(docs.ids) / float(docs.bytes.sum()) / math.log(2)
    return {"loss": round(loss, 5), "perplexity": round(math.exp(loss), 4), "bits_per_byte": round(per_byte, 5),
            "tokens": len(docs.ids), "bytes": int(docs.bytes.sum())}


def held_out(work):
    """Held-out documents by corpus; the stories also in the half that chooses and the half that does not."""
    corpora = {n: Documents.load(work / f"{n}.heldout.npz") for n in SOURCES}
    stories = corpora[STORIES]
    corpora["stories, choosing half"] = stories.only(range(0, len(stories), 2))
    corpora["stories, untouched half"] = stories.only(range(1, len(stories), 2))
    return corpora


def predictor(model, device):
    model.eval()

    def predict(rows):
        with autocast(device):
            return model(rows)
    return predict


def ensemble(models, device):
    """Log of the mean of the models' probabilities."""
    for m in models:
        m.eval()

    def predict(rows, run_block=Block.forward):
        total = 0
        for m in models:
            with autocast(device):
                logits = m(rows, run_block)
            total = total + torch.softmax(logits.float(), dim=-1)
        return torch.log(total / len(models))
    return predict


def evaluate_all(predict, corpora, ctx, device):
    return {n: measures(mean_loss(predict, d, ctx, device), d) for n, d in corpora.items()}


def print_measures(title, table):
    print(title)
    for name, m in table.items():
        print(f"  {name:26s} loss {m['loss']:.4f}  perplexity {m['perplexity']:8.3f}  "
              f"bits/byte {m['bits_per_byte']:.4f}", flush=True)
