"""Texts, tokenizer, and windows of tokens in an order that a seed decides."""
import gzip

import numpy as np
import torch

DOC_SEPARATOR = "<|endoftext|>"
BOS, EOS = 1, 2
STORIES, STORYBOOKS, CHILDRENS, NOVELS = (
    "tinystories-sample", "storybooks-en", "childrens-books", "novels")
SOURCES = (STORIES, STORYBOOKS, CHILDRENS, NOVELS)
HELD_OUT = {STORIES: 0.10, STORYBOOKS: 0.10, CHILDRENS: 0.04, NOVELS: 0.02}


def read_documents(path):
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [d.strip() for d in f.read().split(DOC_SEPARATOR) if d.strip()]


def split_documents(name, docs):
    """Training and held-out part: every k-th document, or the tail of each where there are few (books)."""
    share = HELD_OUT[name]
    if len(docs) >= 200:
        k = round(1 / share)
        return ([d for i, d in enumerate(docs) if i % k != k - 1],
                [d for i, d in enumerate(docs) if i % k == k - 1])
    cuts = [d.rfind("\n", 0, int(len(d) * (1 - share))) for d in docs]
    return [d[:c] for d, c in zip(docs, cuts)], [d[c + 1:] for d, c in zip(docs, cuts)]


def train_tokenizer(texts, work, vocab):
    import sentencepiece
    corpus = work / "tokenizer-corpus.txt"
    with open(corpus, "w", encoding="utf-8") as f:
        # Stories count several times: the vocabulary should suit them.
        for name, times, every in ((STORIES, 3, 1), (STORYBOOKS, 3, 1), (CHILDRENS, 2, 1), (NOVELS, 1, 4)):
            lines = [line for d in texts[name] for line in d.split("\n") if line][::every]
            f.write("".join(line[:4000] + "\n" for line in lines * times))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(work / "tokenizer"), model_type="bpe", vocab_size=vocab,
        byte_fallback=True, character_coverage=0.9998, normalization_rule_name="identity",
        split_digits=True, remove_extra_whitespaces=False, add_dummy_prefix=True,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=BOS, eos_id=EOS, pad_id=-1, num_threads=1,
        minloglevel=1)
    corpus.unlink()


def load_tokenizer(work):
    import sentencepiece
    return sentencepiece.SentencePieceProcessor(model_file=str(work / "tokenizer.model"))


def prepare(a):
    a.work_dir.mkdir(parents=True, exist_ok=True)
    parts = {n: split_documents(n, read_documents(a.text_dir / f"{n}.txt.gz")) for n in SOURCES}
    train_tokenizer({n: p[0] for n, p in parts.items()}, a.work_dir, a.vocab)
    tokenizer = load_tokenizer(a.work_dir)
    for name, both in parts.items():
        for part, docs in zip(("train", "heldout"), both):
            ids = [np.array([BOS] + x + [EOS], np.uint16) for x in tokenizer.encode(docs)]
            n_bytes = np.array([len(d.encode()) for d in docs])
            starts = np.cumsum([0] + [len(x) for x in ids])
            np.savez(a.work_dir / f"{name}.{part}.npz", ids=np.concatenate(ids), starts=starts, bytes=n_bytes)
            print(f"{name:20s} {part:8s} {len(docs):6d} documents {starts[-1]:9d} tokens "
                  f"{n_bytes.sum() / starts[-1]:.3f} bytes/token", flush=True)


class Documents:
    """The documents of one source: token ids, and where each begins."""

    def __init__(self, ids, starts, n_bytes):
        self.ids, self.starts, self.bytes = ids, starts, n_bytes

    @classmethod
    def load(cls, path):
        z = np.load(path)
        return cls(z["ids"].astype(np.int64), z["starts"], z["bytes"])

    def __len__(self):
        return len(self.starts) - 1

    def joined(self, order):
        return np.concatenate([self.ids[self.starts[i]:self.starts[i + 1]] for i in order])

    def only(self, chosen):
        chosen = list(chosen)
        ids = [self.ids[self.starts[i]:self.starts[i + 1]] for i in chosen]
        return Documents(np.concatenate(ids), np.cumsum([0] + [len(x) for x in ids]), self.bytes[chosen])


def epoch_windows(docs, ctx, seed, epoch):
    """Every document once, in an order of this epoch, cut into rows of ctx + 1 at an offset of this epoch.

    Rows overlap by one token: the last target of a row is the first input of the next."""
    rng = np.random.default_rng([seed, epoch])
    ids = docs.joined(rng.permutation(len(docs)))
    ids = ids[int(rng.integers(0, min(ctx, max(1, len(ids) - ctx)))):]
    n = (len(ids) - 1) // ctx
    rows = np.lib.stride_tricks.as_strided(ids, (n, ctx + 1), (ids.strides[0] * ctx, ids.strides[0]))
    return rows[rng.permutation(n)]


class Stream:
    """Endless windows of one source.  Its state is how many were taken: a resumed training goes on exactly."""

    def __init__(self, docs, ctx, seed, device):
        self.docs, self.ctx, self.seed, self.device = docs, ctx, seed, device
        self.epoch, self.at, self.taken = -1, 0, 0
        self.rows = torch.empty((0, ctx + 1), dtype=torch.int64)

    def skip(self, n):
        while n > 0:
            n -= len(self.next(min(n, 4096)))

    def next(self, n):
        parts = []
        self.taken += n
        while n > 0:
            if self.at == len(self.rows):
                self.epoch, self.at = self.epoch + 1, 0
                rows = epoch_windows(self.docs, self.ctx, self.seed, self.epoch)
                self.rows = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
            part = self.rows[self.at:self.at + n]
            self.at += len(part)
            n -= len(part)
            parts.append(part)
        return torch.cat(parts)


def source_shares(recipe, progress):
    """Shares of the sources in a batch: broad prose first, and from recipe.ramp on more and more stories."""
    late = max(0.0, (progress - recipe.ramp) / (1 - recipe.ramp))
    w = np.array([b * (1 - late) + e * late for b, e in zip(recipe.mix_begin, recipe.mix_end)])
    return w / w.sum()


class Mixture:
    """Batches of windows from all sources."""

    def __init__(self, work, ctx, recipe, seed, device):
        self.recipe, self.seed = recipe, seed
        self.streams = [Stream(Documents.load(work / f"{n}.train.npz"), ctx, seed * 100 + i, device)
                        for i, n in enumerate(SOURCES)]

    def next(self, step):
        shares = source_shares(self.recipe, step / self.recipe.steps)
        counts = np.random.default_rng([self.seed, step]).multinomial(self.recipe.batch, shares)
        return torch.cat([s.next(int(n)) for s, n in zip(self.streams, counts) if n])

    def state(self):
        return [s.taken for s in self.streams]

    def resume(self, state):
        for s, n in zip(self.streams, state):
            s.skip(n)

    def epochs(self):
        return {n: round(s.epoch + s.at / max(1, len(s.rows)), 2) for n, s in zip(SOURCES, self.streams)}
