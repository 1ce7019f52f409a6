"""Small networks of many kinds with random weights: what block finding and export are tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.optimizer.data.batches import Batch

WIDTH = 16


@dataclass(frozen=True)
class Kind:
    """One architecture.

    Attributes:
        make: the network, in evaluation mode, with seeded random weights.
        batch: example inputs of four examples.
        removable: how many blocks can go.
        kept: how many candidates cannot, each with a reason.
        reason: a word that the reasons of kept candidates hold.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    removable: int
    kept: int = 0
    reason: str = ""


def _seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build().eval()

    return make


def images(channels: int = 3, size: int = 16) -> Callable[[], Batch]:
    """Four random images [4, channels, size, size]."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(4, channels, size, size, generator=generator)
    return lambda: Batch((values.clone(),), {})


def vectors(*shape: int) -> Callable[[], Batch]:
    """Four random tensors [4, ...]."""
    values = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    return lambda: Batch((values.clone(),), {})


def pixels() -> Batch:
    """Four images by the name that Hugging Face gives them."""
    return Batch((), {"pixel_values": images()().args[0]})


def tokens() -> Batch:
    """Four sentences of eight tokens, the last one padded."""
    ids = torch.randint(3, 50, (4, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(4, 8, dtype=torch.long)
    mask[-1, 5:] = 0
    return Batch((), {"input_ids": ids, "attention_mask": mask})


def sequence_pairs() -> Batch:
    """Tokens for the encoder and for the decoder."""
    base = tokens().kwargs
    return Batch((), {**base, "decoder_input_ids": base["input_ids"][:, :6].clone()})


class Residual(nn.Module):
    """act(x + branch(x)), with a projection when the branch changes the shape."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, batch norm, relu."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def basic(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """ResNet's basic block."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Conv2d(inputs, outputs, 1, stride)
    return Residual(
        nn.Sequential(
            conv(inputs, outputs, 3, stride),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.BatchNorm2d(outputs),
        ),
        shortcut,
    )


def head(width: int) -> nn.Module:
    """Pool, flatten, classify into ten."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def resnet() -> nn.Module:
    """Two stages of basic blocks."""
    first = nn.Sequential(*(basic(8, 8) for _ in range(4)))
    second = nn.Sequential(basic(8, 16, 2), *(basic(16, 16) for _ in range(3)))
    return nn.Sequential(conv(3, 8), first, second, head(16))


class PreActivation(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class NumberedBlocks(nn.Module):
    """Blocks as numbered attributes, run in a loop over their names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        for index in range(1, 5):
            setattr(self, f"block{index}", PreActivation(8))
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index in range(1, 5):
            x = getattr(self, f"block{index}")(x)
        return self.head(x)


class SqueezeExcite(nn.Module):
    """Channel weights from pooled channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """MobileNet's block: widen, convolve each channel, narrow; a skip when the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, excite: bool = False) -> None:
        super().__init__()
        wide = inputs * 3
        self.expand = conv(inputs, wide, 1)
        self.depthwise = conv(wide, wide, 3, stride, wide)
        self.excite = SqueezeExcite(wide) if excite else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1), nn.BatchNorm2d(outputs))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + y if self.skip else y


def mobilenet(excite: bool) -> nn.Module:
    """A flat list of inverted residuals: 2 that change the shape, 4 that do not."""
    plan = [(8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 12, 1), (12, 16, 2), (16, 16, 1)]
    blocks = [InvertedResidual(*row, excite=excite) for row in plan]
    return nn.Sequential(conv(3, 8), nn.Sequential(*blocks), head(16))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm over channels, two linear layers, a layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.norm, self.scale = nn.LayerNorm(width), nn.Parameter(torch.full((width,), 0.1))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class DenseLayer(nn.Module):
    """Adds eight channels to whatever came before."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x)))


class DenseNet(nn.Module):
    """Every layer sees the outputs of all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layers = nn.ModuleList(DenseLayer(8 * (1 + i)) for i in range(4))
        self.head = head(40)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x)


class UNet(nn.Module):
    """Two levels with skips, and two residual blocks in the middle that can go."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv(3, 8), conv(8, 16)
        self.middle = nn.Sequential(PreActivation(16), PreActivation(16))
        self.up1, self.up2 = conv(32, 8), conv(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        y = self.middle(F.max_pool2d(b, 2))
        y = self.up1(torch.cat([F.interpolate(y, scale_factor=2), b], 1))
        return self.out(self.up2(torch.cat([F.interpolate(y, scale_factor=2), a], 1)))


class Ladder(nn.Module):
    """One width throughout, skips kept in a list and taken from its end: places must not shift."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.downs = nn.ModuleList(PreActivation(8) for _ in range(3))
        self.ups = nn.ModuleList(PreActivation(8) for _ in range(3))
        self.weights = nn.ParameterList(torch.full((1,), 0.2 * i) for i in range(1, 4))
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.stem(x), []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        for index, up in enumerate(self.ups):
            x = up(x + self.weights[index] * skips[-1 - index])
        return self.out(x)


class Branches(nn.Module):
    """Attention-like and MLP branches in pairs, added by the model around them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([self._branch(), self._branch()]) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 10)

    def _branch(self) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        pair: Any
        for pair in self.layers:
            x = pair[0](x) + x
            x = x + pair[1](x)
        return self.head(x)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, written out; returns a tuple and takes its state by keyword."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, *, hidden: Tensor, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        heads = [part.unflatten(-1, (2, -1)).transpose(1, 2)
                 for part in self.qkv(self.norm1(hidden)).chunk(3, -1)]  # fmt: skip
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        hidden = hidden + self.proj(mixed)
        return hidden + self.mlp(self.norm2(hidden)), None


class ViT(nn.Module):
    """Patches, a class token, blocks that are called with keywords only."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(hidden=x)[0]
        return self.head(x[:, 0])


class MixerBlock(nn.Module):
    """An MLP across tokens, an MLP across channels."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(count, 32), nn.GELU(), nn.Linear(32, count))
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.norm2(x))


class Mixer(nn.Module):
    """Patches and four mixer blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.blocks = nn.Sequential(*(MixerBlock(16, WIDTH) for _ in range(4)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Temporal(nn.Module):
    """One block of a temporal convolutional network: causal, dilated."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = nn.Conv1d(width, width, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.conv(F.pad(x, (self.reach, 0))))


class Shared(nn.Module):
    """One layer, called four times (ALBERT's way)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([MixerBlock(8, WIDTH), MixerBlock(8, WIDTH)])
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            for layer in self.layers:
                x = layer(x)
        return self.head(x.mean(1))


def mlp_block() -> nn.Module:
    """A residual MLP's block."""
    return Residual(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()))


def vgg() -> nn.Module:
    """Convolution blocks without skips."""
    return nn.Sequential(
        conv(3, 8), conv(8, 8), conv(8, 8), nn.MaxPool2d(2), conv(8, 16), conv(16, 16), head(16)
    )


def autoencoder() -> nn.Module:
    """Down and up again, one equal pair on each side."""
    sizes = [(32, 24), (24, 24), (24, 24), (24, 8)]
    down = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in sizes]
    up = [nn.Sequential(nn.Linear(b, a), nn.ReLU()) for a, b in reversed(sizes)]
    return nn.Sequential(nn.Sequential(*down), nn.Sequential(*up))


def encoder() -> nn.Module:
    """torch's own encoder."""
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


_BERT: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip
_LLAMA = {**_BERT, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
_T5: dict[str, Any] = {
    "vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip


def _gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=4, n_head=2,
                      bos_token_id=1, eos_token_id=2)
    )  # fmt: skip


def _distilbert() -> nn.Module:
    return hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(vocab_size=50, dim=16, n_layers=4, n_heads=2, hidden_dim=32,
                            max_position_embeddings=32)
    )  # fmt: skip


def _vit() -> nn.Module:
    sizes = {k: v for k, v in _BERT.items() if k not in {"vocab_size", "max_position_embeddings"}}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=16, patch_size=4))


def _resnet() -> nn.Module:
    return hf.ResNetForImageClassification(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[3, 3])
    )


def _convnext() -> nn.Module:
    return hf.ConvNextForImageClassification(
        hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[3, 3], num_stages=2, patch_size=2)
    )


def _bart() -> nn.Module:
    return hf.BartForConditionalGeneration(
        hf.BartConfig(vocab_size=50, d_model=16, encoder_layers=3, decoder_layers=3,
                      encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
                      decoder_ffn_dim=32, max_position_embeddings=32)
    )  # fmt: skip


def _llama() -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA))


def _qwen() -> nn.Module:
    kinds = ["full_attention", "sliding_attention"] * 2
    return hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**_LLAMA, layer_types=kinds, use_sliding_window=True, sliding_window=4)
    )


_CHANGES = "changes the shape"
ZOO: dict[str, Kind] = {
    "resnet": Kind(_seeded(resnet), images(), 7, 1, _CHANGES),
    "bottleneck-resnet-hf": Kind(_seeded(_resnet), pixels, 4, 2, _CHANGES),
    "preactivation-numbered": Kind(_seeded(NumberedBlocks), images(), 4),
    "mobilenet": Kind(_seeded(lambda: mobilenet(False)), images(), 4, 2, _CHANGES),
    "efficientnet": Kind(_seeded(lambda: mobilenet(True)), images(), 4, 2, _CHANGES),
    "convnext": Kind(
        _seeded(
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 4, 4),
                nn.Sequential(*(ConvNeXtBlock(8) for _ in range(4))),
                head(8),
            )
        ),
        images(),
        4,
    ),
    "convnext-hf": Kind(_seeded(_convnext), pixels, 6),
    "densenet": Kind(_seeded(DenseNet), images(), 0, 4, "dense"),
    "unet": Kind(_seeded(UNet), images(), 2, 4, "skip"),
    "ladder": Kind(_seeded(Ladder), images(), 6),
    "branches": Kind(_seeded(Branches), vectors(WIDTH), 0, 4, "branch"),
    "vgg": Kind(_seeded(vgg), images(), 3, 2, _CHANGES),
    "vit": Kind(_seeded(ViT), images(), 4),
    "vit-hf": Kind(_seeded(_vit), pixels, 4),
    "bert": Kind(
        _seeded(lambda: hf.BertForSequenceClassification(hf.BertConfig(**_BERT))), tokens, 4
    ),
    "distilbert": Kind(_seeded(_distilbert), tokens, 4),
    "roberta": Kind(
        _seeded(lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**_BERT))), tokens, 4
    ),
    "mpnet": Kind(
        _seeded(lambda: hf.MPNetForSequenceClassification(hf.MPNetConfig(**_BERT))), tokens, 4
    ),
    "gpt2": Kind(_seeded(_gpt2), tokens, 4),
    "llama": Kind(_seeded(_llama), tokens, 4),
    "qwen2": Kind(_seeded(_qwen), tokens, 4),
    "t5": Kind(
        _seeded(lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5))),
        sequence_pairs,
        6,
        2,
        "position bias",
    ),
    "bart": Kind(_seeded(_bart), sequence_pairs, 6),
    "mixer": Kind(_seeded(Mixer), images(), 4),
    "residual-mlp": Kind(
        _seeded(lambda: nn.Sequential(*(mlp_block() for _ in range(4)), nn.Linear(WIDTH, 10))),
        vectors(WIDTH),
        4,
    ),
    "tcn": Kind(
        _seeded(
            lambda: nn.Sequential(
                nn.Conv1d(3, 8, 1),
                *(Temporal(8, 2**i) for i in range(4)),
                nn.Flatten(),
                nn.Linear(8 * 12, 10),
            )
        ),
        vectors(3, 12),
        4,
    ),
    "transformer-encoder": Kind(_seeded(encoder), vectors(8, WIDTH), 3, 1, "one stays"),
    "autoencoder": Kind(_seeded(autoencoder), vectors(32), 4, 4, _CHANGES),
    "albert": Kind(
        _seeded(
            lambda: hf.AlbertForSequenceClassification(hf.AlbertConfig(**_BERT, embedding_size=8))
        ),
        tokens,
        0,
        1,
        "called 4 times",
    ),
    "shared": Kind(_seeded(Shared), vectors(8, WIDTH), 0, 2, "called 2 times"),
}
