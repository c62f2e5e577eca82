"""An ordinary Llama in PyTorch: RMSNorm, interleaved RoPE, grouped-query attention, SwiGLU, tied embeddings."""
import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class Shape:
    dim: int
    layers: int
    ff: int
    heads: int
    kv_heads: int
    vocab: int = 4096
    ctx: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self):
        return self.dim // self.heads

    @property
    def kv_dim(self):
        return self.head_dim * self.kv_heads


SHAPES = {
    "demo": Shape(dim=256, layers=6, ff=1024, heads=8, kv_heads=4),
    "eval": Shape(dim=512, layers=8, ff=1536, heads=8, kv_heads=4),
    "teacher": Shape(dim=512, layers=8, ff=1536, heads=8, kv_heads=4),
    "tiny": Shape(dim=64, layers=2, ff=192, heads=4, kv_heads=2),  # to try the script out
}


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def drop(x, p):
    """Dropout whose share is a tensor: a compiled graph then serves every share."""
    return x * (torch.rand(x.shape, device=x.device) >= p) / (1 - p)


def rope(z, cos, sin):
    """z: (batch, tokens, heads, head_dim); rotates the pairs (2i, 2i + 1)."""
    even, odd = z[..., 0::2].float(), z[..., 1::2].float()
    out = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return out.flatten(-2).to(z.dtype)


def causal_attention(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    t = q.shape[-2]
    future = torch.full((t, t), float("-inf"), device=q.device).triu(1)
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + future, dim=-1) @ v


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.attn_norm = RMSNorm(shape.dim, shape.eps)
        self.ffn_norm = RMSNorm(shape.dim, shape.eps)
        self.qkv = nn.Linear(shape.dim, shape.dim + 2 * shape.kv_dim, bias=False)  # rows: q, k, v
        self.wo = nn.Linear(shape.dim, shape.dim, bias=False)
        self.gate_up = nn.Linear(shape.dim, 2 * shape.ff, bias=False)  # rows: gate, up
        self.down = nn.Linear(shape.ff, shape.dim, bias=False)

    def heads(self, x, cos, sin):
        """Query, key and value heads, each (batch, heads, tokens, head_dim)."""
        s, (b, t, _) = self.shape, x.shape
        q, k, v = self.qkv(x).split([s.dim, s.kv_dim, s.kv_dim], dim=-1)
        q = rope(q.view(b, t, s.heads, s.head_dim), cos, sin)
        k = rope(k.view(b, t, s.kv_heads, s.head_dim), cos, sin)
        return (z.transpose(1, 2) for z in (q, k, v.view(b, t, s.kv_heads, s.head_dim)))

    def mlp(self, x):
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def spread(self, z):
        """Repeats every key/value head for the query heads of its group."""
        b, kv, t, hd = z.shape
        group = self.shape.heads // kv
        return z[:, :, None].expand(b, kv, group, t, hd).reshape(b, kv * group, t, hd)

    def forward(self, x, cos, sin, p):
        q, k, v = self.heads(self.attn_norm(x), cos, sin)
        y = causal_attention(q, self.spread(k), self.spread(v))
        x = x + drop(self.wo(y.transpose(1, 2).flatten(2)), p)
        return x + drop(self.mlp(x), p)

    def step(self, x, cos, sin, cache, at):
        """One token of each sequence; cache: keys and values (2, batch, kv_heads, ctx, head_dim)."""
        q, k, v = self.heads(self.attn_norm(x), cos, sin)
        cache[0][:, :, at:at + 1], cache[1][:, :, at:at + 1] = k, v
        b, kv, hd = len(x), self.shape.kv_heads, self.shape.head_dim
        q = q.reshape(b, kv, -1, hd)  # the query heads of a group as rows
        scores = q @ cache[0][:, :, :at + 1].transpose(-1, -2) / math.sqrt(hd)
        y = torch.softmax(scores.float(), dim=-1).to(q.dtype) @ cache[1][:, :, :at + 1]
        x = x + self.wo(y.reshape(b, 1, -1))
        return x + self.mlp(x)


class Llama(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.dim)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.dim, shape.eps)
        pair = torch.arange(shape.head_dim // 2).double() / (shape.head_dim // 2)
        angle = torch.outer(torch.arange(shape.ctx).double(), shape.theta ** -pair)
        self.register_buffer("cos", angle.cos().float()[:, None], persistent=False)
        self.register_buffer("sin", angle.sin().float()[:, None], persistent=False)
        self.register_buffer("dropout", torch.zeros(()), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = name.endswith(("wo.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * shape.layers) if out else 1))

    def hidden(self, tokens, run_block=Block.forward):
        t = tokens.shape[1]
        x = self.embed(tokens)
        p = self.dropout if self.training else torch.zeros_like(self.dropout)
        if self.training:
            x = drop(x, p)
        for block in self.blocks:
            x = run_block(block, x, self.cos[:t], self.sin[:t], p)
        return self.norm(x)

    def forward(self, tokens, run_block=Block.forward):
        return F.linear(self.hidden(tokens, run_block), self.embed.weight)

    def step(self, tokens, cache, at):
        """Logits after one more token of each sequence, at position `at`."""
        x = self.embed(tokens[:, None])
        for block, c in zip(self.blocks, cache):
            x = block.step(x, self.cos[at:at + 1], self.sin[at:at + 1], c, at)
        return F.linear(self.norm(x[:, 0]), self.embed.weight)


def parameters_of(model):
    return sum(p.numel() for p in model.parameters())
