"""Plain modules that are exported to ONNX, one for each kind of layer that exporters write differently."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x)), approximate="tanh"))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.depth, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.stem(x)))
        y = F.hardswish(self.point(F.silu(self.depth(y)) + y))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.up = nn.GroupNorm(4, 8), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.out = nn.Conv2d(11, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm(self.mid(F.silu(self.down(x)))))
        y = self.up(y) + F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.out(torch.cat([x, y], dim=1))


class Encoder(nn.Module):
    """Two pre-norm layers with attention written out."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(2))
        for layer in self.layers:
            for parameter in layer.parameters():
                nn.init.normal_(parameter, std=0.3)  # equal tensors would be stored once

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (m(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.o((scores @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Conv1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 5, padding=2), nn.InstanceNorm1d(8, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(F.elu(self.norm(self.conv(x))), 2)


class Conv3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(F.leaky_relu(self.conv(x), 0.1), 2).amax(dim=(2, 3, 4))


class Gated(nn.Module):
    """RMSNorm, SwiGLU, TopK routing weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(12, eps=1e-6)
        self.gate, self.up, self.down = (nn.Linear(12, 24), nn.Linear(12, 24), nn.Linear(24, 12))
        self.router = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        weights, _ = self.router(y).softmax(-1).topk(2, dim=-1)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)) * weights.sum(-1, keepdim=True)


class Pooled(nn.Module):
    """Squeeze and excite, pixel shuffle, padding, cumulative sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        y = y * torch.sigmoid(self.fc2(F.relu(self.fc1(y.mean((2, 3), keepdim=True)))))
        return F.pixel_shuffle(y, 2).cumsum(-1)


MODULES: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...], Mapping[int, str]]] = {
    "mlp": (Mlp, (2, 5, 12), {0: "batch", 1: "seq"}),
    "cnn": (Cnn, (2, 3, 16, 16), {0: "batch"}),
    "unet": (UNet, (2, 3, 16, 16), {0: "batch"}),
    "encoder": (Encoder, (2, 5, 16), {0: "batch", 1: "seq"}),
    "lstm": (lambda: Recurrent(nn.LSTM), (2, 5, 8), {0: "batch"}),
    "gru": (lambda: Recurrent(nn.GRU), (2, 5, 8), {0: "batch"}),
    "conv1d": (Conv1d, (2, 4, 10), {0: "batch"}),
    "conv3d": (Conv3d, (2, 2, 6, 6, 6), {0: "batch"}),
    "gated": (Gated, (2, 5, 12), {0: "batch", 1: "seq"}),
    "pooled": (Pooled, (2, 3, 12, 12), {0: "batch"}),
}
