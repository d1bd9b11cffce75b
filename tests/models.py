"""Small models of every kind of layer, and how to run any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Case:
    """A model that tests are run on.

    Attributes:
        build: makes it.
        inputs: makes the arguments of its forward.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]


def tensors(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output of any structure."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def loss_of(output: Any) -> Tensor:
    """Return a scalar that depends on every finite entry of an output, on each with its own weight."""
    terms = []
    for tensor in tensors(output):
        if tensor.requires_grad and tensor.numel():
            weights = torch.linspace(0.5, 1.5, tensor.numel(), device=tensor.device).view(tensor.shape)
            terms.append((tensor.float().masked_fill(tensor.isinf(), 0) * weights).square().mean())
    return torch.stack(terms).sum()


def gradients(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Run one forward and backward pass, and return a copy of every gradient by name."""
    model.zero_grad()
    loss_of(model(*inputs)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class Convolutions(nn.Module):
    """1d, 2d, 3d, grouped, depthwise and transposed convolutions in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 12, 3, padding=1)
        self.grouped = nn.Conv1d(12, 12, 3, padding=1, groups=3)
        self.up1 = nn.ConvTranspose1d(12, 8, 2, stride=2)
        self.stem = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 5, padding=2, groups=12)
        self.pointwise = nn.Conv2d(12, 12, 1)
        self.up2 = nn.ConvTranspose2d(12, 6, 3, padding=1)
        self.conv3 = nn.Conv3d(1, 6, 3, padding=1)
        self.up3 = nn.ConvTranspose3d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up1(F.gelu(self.grouped(F.gelu(self.conv1(x)))))
        x = F.gelu(self.norm(self.stem(x[:, None])))
        x = self.up2(F.gelu(self.pointwise(F.gelu(self.depthwise(x)))))
        return self.up3(F.gelu(self.conv3(x[:, None])))


class Residual(nn.Module):
    """A residual network with a branch that starts at zero."""

    def __init__(self, width: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False))
            for _ in range(blocks)
        )
        nn.init.zeros_(self.branches[-1][2].weight)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x.mean((2, 3)))


class Language(nn.Module):
    """Embedding, attention and a transformer encoder under a head that is tied to the embedding."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(31, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 31, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.encoder(x))


class Recurrent(nn.Module):
    """A bidirectional LSTM with a projection, a GRU and a plain recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True, proj_size=5)
        self.gru = nn.GRU(10, 8, batch_first=True)
        self.rnn = nn.RNN(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.gru(self.lstm(x)[0])[0])[0]


class Experts(nn.Module):
    """A softly routed mixture of experts with all experts in one 3-D parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.up = nn.Parameter(torch.randn(4, 8, 16) * 0.2)
        self.down = nn.Parameter(torch.randn(4, 16, 8) * 0.2)
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("bi,eio->beo", x, self.up).relu()
        experts = torch.einsum("beo,eoi->bei", hidden, self.down)
        return x + self.gain * torch.einsum("be,bei->bi", self.router(x).softmax(-1), experts)


class Containers(nn.Module):
    """Weights in a ParameterList, a nested ParameterDict and a ModuleDict."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList(torch.randn(8, 8) / 3 for _ in range(3))
        self.dict = nn.ParameterDict({"in": torch.randn(8, 8) / 3, "bias": torch.zeros(8)})
        self.modules_by_name = nn.ModuleDict({"first": nn.Linear(8, 8), "last": nn.Linear(8, 2)})

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.dict["in"] + self.dict["bias"]
        for weight in self.list:
            x = (x @ weight).tanh()
        return self.modules_by_name["last"](self.modules_by_name["first"](x))


class Repeated(nn.Module):
    """One module at two places of the tree, and two modules that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.again = self.first
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.first.weight
        self.last = nn.Sequential(nn.Linear(8, 8), self.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.tied(self.again(self.first(x).tanh()).tanh()).tanh())


class MixedDtypes(nn.Module):
    """Layers of three precisions."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Linear(8, 16)
        self.twice = nn.Linear(16, 16, dtype=torch.float64)
        self.brain = nn.Linear(16, 16, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.brain(self.twice(self.once(x).double()).bfloat16())


class PartlyFrozen(nn.Module):
    """A frozen layer between two trained ones."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(8, 12)
        self.frozen = nn.Linear(12, 12).requires_grad_(False)
        self.after = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.frozen(self.before(x).relu()).relu())


def mlp(width: int = 16, depth: int = 3) -> nn.Sequential:
    """Make a root that is a container itself."""
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(width, 4))


MODELS = {
    "mlp": Case(mlp, lambda: (torch.randn(4, 16),)),
    "convolutions": Case(Convolutions, lambda: (torch.randn(2, 4, 4),)),
    "residual": Case(Residual, lambda: (torch.randn(2, 3, 5, 5),)),
    "language": Case(Language, lambda: (torch.randint(31, (2, 6)),)),
    "recurrent": Case(Recurrent, lambda: (torch.randn(2, 4, 6),)),
    "experts": Case(Experts, lambda: (torch.randn(4, 8),)),
    "containers": Case(Containers, lambda: (torch.randn(4, 8),)),
    "repeated": Case(Repeated, lambda: (torch.randn(4, 8),)),
    "mixed dtypes": Case(MixedDtypes, lambda: (torch.randn(4, 8),)),
    "partly frozen": Case(PartlyFrozen, lambda: (torch.randn(4, 8),)),
}
