"""The model card: every number in it comes from a file that training, evaluation or reference.py wrote."""
import hashlib
import json

import torch

from training.corpus import CHILDRENS, NOVELS, SOURCES, STORIES, STORYBOOKS, load_tokenizer
from training.distil import PROMPTS, sample_stories
from training.gguf import load_gguf

INTRO = """# Demo model: {name}

A small Llama-architecture language model, trained from nothing for this project so that the demo, the
tests and the benchmarks run on a real trained model that anybody may copy. It tells short children's
stories in English. No third-party weights are in it. This card is written by `train.py card`.

| file | what | licence |
|---|---|---|
| `{file}` | weights and tokenizer, matrices in F16, norms in F32; {bytes:,} bytes | Apache-2.0 (see *Data* for the texts) |
| `{name}.dip-lora.gguf` | adapter that wins back part of what pruning costs (below) | Apache-2.0 |
| `tinystories-heldout.txt` | 231 stories that were never trained on, separated by lines `<\\|endoftext\\|>` | CDLA-Sharing-1.0 |
| `story-choices.jsonl` | 200 questions made of these stories by `make_choices.py`: which sentence goes on? | CDLA-Sharing-1.0 |
| `rotate.py` | turns a GGUF so that its inputs are easier to prune (`docs/decisions/0006-masks-beyond-the-paper.md`) | as the code |
| `storybooks-authors.txt` | authors of the CC BY stories in the training text | - |
| `train.py`, `training/` | everything from the texts to the GGUF files and this card | Apache-2.0 |
| `reference.py` | the numpy forward pass that the tests' figures come from | Apache-2.0 |

SHA-256 of the GGUF: `{sha256}`.

"""

DATA = """## Data

Quotes and dashes were normalised to ASCII and wrapped lines joined. The texts come from public GitHub
repositories:

| source | what | repository (commit) | licence |
|---|---|---|---|
| tinystories-sample | 2,316 stories, the head of the TinyStories (V1) training split | gusjengis/toy-RNN (e4c7ff8), data/tinystories_sample.txt | data: CDLA-Sharing-1.0 (roneneldan/TinyStories); the repository has no licence file |
| storybooks-en | 692 English children's stories; those marked NC were left out | global-asp/pb-source (9ea530d; Pratham Books) and global-asp/asp-source (99e0223; African Storybook) | CC BY, each story |
| childrens-books | older children's books (Oz and others), "Tiny-Open-Domain-Books" | sachinrcz/llmatoz (b5fb9e6), Notebooks/data/tinybook | public-domain books; no licence stated by the repository |
| novels | 39 of "100 English Novels", 1839-1927, authors dead more than 70 years | computationalstylistics/100_english_novels (143e601) | public-domain texts; no licence file |

`tinystories-heldout.txt` is every 10th story of tinystories-sample. It is redistributed under the
[Community Data License Agreement - Sharing, version 1.0](https://cdla.dev/sharing-1-0/), unchanged but
for the normalisation named above.

"""

LIMITS = """## Use and limits

Meant for demos, tests and measurements of Tidegate. Not meant for anything that people rely on: it has
no knowledge, loses its thread, follows no instructions, speaks only English, and repeats the attitudes of old
children's books. Nothing was done to make its output safe. Its context ends at {ctx} tokens. Its MLP is
small: how much speed and memory pruning saves on it says little about models of useful size.

"""

REPRODUCE = """## Reproduce

Needs Python 3 with torch, numpy and sentencepiece (Debian: python3-torch python3-numpy python3-sentencepiece),
and a GPU unless you have days. Put the four texts, gzipped, as `<source>.txt.gz` into a folder `text/`,
documents separated by lines `<|endoftext|>`; `train.py --help` lists the commands in order. Seeds and steps decide
everything but the rounding of the GPU: another machine gives a model of the same quality, not the same bits.
"""


def architecture(run, larger):
    def row(title, value):
        return f"| {title} | {value(run)} | {value(larger)} |\n"

    def million(r):
        return f"{r['parameters'] / 1e6:.2f} million, embeddings tied to the output head"

    s = "## Architecture\n\n| | shipped | for evaluations, not shipped |\n|---|---|---|\n"
    s += row("parameters", million)
    for title, key in (("layers", "layers"), ("width", "dim"), ("SwiGLU MLP", "ff"), ("query heads", "heads"),
                       ("key/value heads", "kv_heads"), ("context, tokens", "ctx"), ("vocabulary", "vocab")):
        s += row(title, lambda r, k=key: r["shape"][k])
    return s + ("\nRMSNorm (epsilon 1e-5) in front of attention and MLP, rotary positions with base 10,000, SentencePiece BPE "
                "with byte fall-back and split digits.\n\n")


def training(run, larger, teachers, joint):
    t, r = teachers[0], run["recipe"]
    recipe = t["recipe"]
    return f"""## Training

The text is short (7.2 million tokens, half a million of them the stories), so a model that reads it often enough learns
it by heart. Hence an ensemble and a student:

1. {len(teachers)} teachers of {t['parameters'] / 1e6:.1f} million parameters, {recipe['steps']:,} steps of {recipe['batch']} windows of {t['shape']['ctx']} tokens ({t['tokens'] / 1e6:.0f} million tokens),
   dropout {recipe['dropout']}, weight decay {recipe['weight_decay']}; broad prose first, more and more stories from {recipe['ramp']:.0%} on. Matrices by Muon, the rest by
   AdamW, learning rate {recipe['lr']} up and linearly down to nothing.
2. They tell stories of their own (12.4 million tokens), and their mean prediction is written down for every place of
   texts and stories.
3. The student learns these predictions: {r['steps']:,} steps of {r['batch']} windows ({run['tokens'] / 1e6:.0f} million tokens, {run['seconds']:.0f} s on one H100 shared with the larger one),
   half of them told by teachers, the others {', '.join(f'{a:.0%} to {b:.0%} {n}' for n, a, b in zip(SOURCES, r['mix_begin'], r['mix_end']))}.

The ensemble reaches {joint['held_out'][STORIES]['bits_per_byte']:.3f} bits per byte on held-out stories, one teacher {t['held_out'][STORIES]['bits_per_byte']:.3f}. The weights kept are those
that did best on one half of the held-out stories; the other half decided nothing.

Loss on that half while the student learned (nats per token, windows of 256):

| step | {' | '.join(f'{step:,}' for step, _, _ in spread(run['curve']))} |
|---|{'---|' * len(spread(run['curve']))}
| shipped | {' | '.join(f'{loss:.3f}' for _, _, loss in spread(run['curve']))} |
| larger | {' | '.join(f'{loss:.3f}' for _, _, loss in spread(larger['curve']))} |

"""


def spread(curve, n=8):
    """n points of a curve, the last among them."""
    return [curve[(i + 1) * len(curve) // n - 1] for i in range(n)]


def quality(run, larger, before):
    names = {STORIES: "stories", STORYBOOKS: "storybooks", CHILDRENS: "children's books", NOVELS: "novels",
             "stories, untouched half": "stories, untouched half"}
    columns = [("shipped", run["held_out"]), ("larger", larger["held_out"])]
    if before:
        columns.insert(0, ("before: tinystories-6M", before))
    s = ("## Measured on held-out text\n\nWhole held-out part of each source, windows of 256 tokens, by the training script: bits per "
         "byte of text (perplexity per token).\nLower is better; bits per byte can be compared between tokenizers.\n\n| source | "
         + " | ".join(title for title, _ in columns) + " |\n|---|" + "---|" * len(columns) + "\n")
    for key, name in names.items():
        cells = [f"{t[key]['bits_per_byte']:.3f} ({t[key]['perplexity']:.1f})" for _, t in columns]
        s += f"| {name} | " + " | ".join(cells) + " |\n"
    return s + "\n"


def pruned(golden):
    s = ("The F16 file on the first 8,192 tokens of held-out stories, 32 chunks of 256, each with an empty KV cache,\nby "
         "`reference.py`, which shares no code with Tidegate. *Density* is the share of MLP weights used, *cache* the share\nof units "
         "that fit into memory (LFU), *gamma* the factor on the scores of units that are not resident:\n\n"
         "| density | cache | gamma | loss | perplexity | hit rate (input / hidden units) |\n|---|---|---|---|---|---|\n")
    for r in golden["rows"]:
        cache = "-" if r["cache_fraction"] is None else r["cache_fraction"]
        hits = "-" if r["cache_fraction"] is None else f"{r['hit_rate_input']:.3f} / {r['hit_rate_hidden']:.3f}"
        s += f"| {r['density']:g} | {cache} | {r['gamma']:g} | {r['nll']:.4f} | {r['perplexity']:.3f} | {hits} |\n"
    return s + "\nWhat Tidegate itself measures on this text is in `docs/evaluation.md`.\n\n"


def recovered(record):
    s = (f"## Adapter against pruning\n\n`train.py recover`: LoRA of rank {record['rank']} on gate, up and down, {record['steps']:,} "
         f"steps ({record['seconds']:.0f} s), learns with the masks of plain DIP on\nto predict what the dense model predicts, at densities "
         "drawn from 0.35 to 1. Perplexity on the untouched half of\nthe held-out stories, every token pruned, windows of 256:\n\n"
         "| density | without | with the adapter |\n|---|---|---|\n")
    for r in record["rows"]:
        if r["corpus"].endswith("untouched half"):
            s += f"| {r['density']:g} | {r['without']:.3f} | {r['with']:.3f} |\n"
    return s + ("\nAt density 0.75 and above the model is better without it. Merge it when packing: `tidegate pack "
                "models/stories-7M.f16.gguf\n--lora models/stories-7M.dip-lora.gguf -o demo.tgpack`.\n\n")


def samples(gguf, tokenizer):
    model = load_gguf(gguf, torch.device("cpu"))
    s = "## Three stories\n\nSeeds 1 to 3, not chosen among others; temperature 0.8, the 40 likeliest tokens. Prompts in bold.\n\n"
    for prompt, text in sample_stories(model, tokenizer, PROMPTS, 1, 0.8, 40, torch.device("cpu")):
        told = text[len(prompt):].strip("\n").replace("\n", "\n>\n> ")
        s += f"> **{prompt}**{told}\n\n"
    return s


def card(a):
    def record(name):
        return json.loads((a.work_dir / f"{name}.json").read_text())

    run, larger, joint = record(a.model), record(a.larger), record("ensemble")
    teachers = [json.loads(p.read_text()) for p in sorted(a.work_dir.glob("teacher-*.json"))]
    before = json.loads(a.before.read_text()) if a.before else None
    golden = json.loads(a.golden.read_text())
    sha256 = hashlib.sha256(a.gguf.read_bytes()).hexdigest()
    if golden["sha256"] != sha256:
        raise SystemExit(f"{a.golden} was made from another file than {a.gguf}: run reference.py golden again")
    return (INTRO.format(name=a.gguf.name.split(".")[0], file=a.gguf.name, bytes=a.gguf.stat().st_size, sha256=sha256)
            + architecture(run, larger) + DATA + training(run, larger, teachers, joint) + quality(run, larger, before)
            + pruned(golden) + recovered(record("recover")) + samples(a.gguf, load_tokenizer(a.work_dir)) + LIMITS.format(ctx=run["shape"]["ctx"])
            + REPRODUCE)
