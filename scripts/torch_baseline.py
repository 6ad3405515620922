"""The paper's Llama in PyTorch, plain and with QuEST's INT4: what `bench_step.py` is measured against.

Written as a PyTorch user would: `nn.Module`s, `F.scaled_dot_product_attention`, fused AdamW, and quantization-aware
training by `torch.autograd.Function`s whose rotation is a product with a 128 x 128 Hadamard matrix.
Needs PyTorch, which capscale itself does not.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

Format = Literal["dense", "int4", "int4-both"]

CLIP4 = 2.513930578568423
"""MSE-optimal clip of 4-bit Gaussian data, in multiples of the RMS (arXiv 2506.01863)."""
BLOCK = 128


@dataclass(frozen=True)
class Shape:
    """Settings that both sides of the comparison share."""

    layers: int
    heads: int
    width: int
    hidden: int
    vocabulary: int


def hadamard(size: int) -> Tensor:
    """Orthonormal Hadamard matrix, by Sylvester's doubling."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def rotate(x: Tensor, matrix: Tensor) -> Tensor:
    """Every run of 128 values of the last axis times H."""
    return (x.unflatten(-1, (-1, BLOCK)) @ matrix).flatten(-2)


class Int4(torch.autograd.Function):
    """QuEST's forward and backward on rows that are rotated already: nearest of 16 levels, trust mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Nearest level of the grid scaled by the row's RMS."""
        step = x.square().mean(-1, keepdim=True).sqrt() * (2 * CLIP4 / 15)
        value = ((x / step - 0.5).round().clamp(-8, 7) + 0.5) * step
        ctx.save_for_backward((value - x).abs() <= step / 2)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient where the value moved by at most half a step."""
        return gradients[0] * ctx.saved_tensors[0]


class Linear(nn.Module):
    """Bias-free linear layer in one of the three formats."""

    def __init__(self, inputs: int, outputs: int, fmt: Format, matrix: Tensor):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.02)
        self.fmt, self.matrix = fmt, matrix

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T`, both rotated where both are quantized."""
        if self.fmt == "dense":
            return F.linear(x, self.weight)
        weight = Int4.apply(rotate(self.weight, self.matrix))
        if self.fmt == "int4":
            return F.linear(x, rotate(weight, self.matrix))
        return F.linear(Int4.apply(rotate(x, self.matrix)), weight)


class Block(nn.Module):
    """One decoder layer in PyTorch."""

    def __init__(self, shape: Shape, fmt: Format, matrix: Tensor):
        super().__init__()
        width, hidden = shape.width, shape.hidden
        self.heads = shape.heads
        self.query, self.key, self.value, self.out = (Linear(width, width, fmt, matrix) for _ in range(4))
        self.gate, self.up = (Linear(width, hidden, fmt, matrix) for _ in range(2))
        self.down = Linear(hidden, width, fmt, matrix)
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`(B, T, M) -> (B, T, M)`."""
        y = self.attention_norm(x)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        q, k = (torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in (q.chunk(2, -1), k.chunk(2, -1)))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """Token ids and targets to the mean loss."""

    def __init__(self, shape: Shape, fmt: Format):
        super().__init__()
        matrix = hadamard(BLOCK)
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape, fmt, matrix) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-5)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.head_width = shape.width // shape.heads

    def forward(self, window: Tensor) -> Tensor:
        """Mean cross-entropy of windows `(B, T + 1)`."""
        tokens, targets = window[:, :-1], window[:, 1:]
        frequency = 10_000.0 ** (-torch.arange(0, self.head_width, 2) / self.head_width)
        angle = torch.arange(tokens.shape[1])[:, None] * frequency
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin())
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


class Trainer:
    """One AdamW step a call, on windows `int64 (B, T + 1)`; returns the loss."""

    def __init__(self, shape: Shape, fmt: Format, compiled: bool):
        torch.manual_seed(0)
        self.model = Llama(shape, fmt)
        self.loss = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )

    def __call__(self, window: Tensor) -> float:
        """Loss before the step."""
        loss = self.loss(window)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
