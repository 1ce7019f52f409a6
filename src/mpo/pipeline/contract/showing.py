"""Inputs made fit to be looked at: images as small grey pictures, tokens as text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.decisions.mining import Domain, leaf_of
from mpo.optimizer.ground.usercode import guarded
from mpo.records import Picture

WIDEST = 32
LONGEST = 400


def picture_of(image: Tensor, domain: Domain) -> Picture | None:
    """[C, H, W] with 1 or 3 channels as a grey picture of at most 32 x 32, black the least value of
    the domain; None for anything else."""
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        return None
    low, width = domain.low[0], domain.range[0].clamp_min(1e-12)
    grey = ((image.detach().float() - low) / width).mean(0, keepdim=True)
    if max(grey.shape[-2:]) > WIDEST:
        scale = WIDEST / max(grey.shape[-2:])
        size = [max(1, round(scale * side)) for side in grey.shape[-2:]]
        grey = F.interpolate(grey.unsqueeze(0), size=size, mode="area")[0]
    raw = (255 * grey[0].clamp(0, 1)).round().to(torch.uint8).cpu()
    return Picture(width=raw.shape[1], height=raw.shape[0], grey=raw.numpy().tobytes().hex())


def texts_of(subject: Subject, seed: Batch, witness: Batch, domain: Domain) -> tuple[str, str]:
    """Seed and witness as text: by the subject's text(), else the token ids; empty for images."""
    if not domain.tokens:
        return "", ""
    return _text(subject, seed, domain), _text(subject, witness, domain)


def _text(subject: Subject, one: Batch, domain: Domain) -> str:
    if subject.text is None:
        return " ".join(map(str, leaf_of(one, domain.place)[0].tolist()))[:LONGEST]
    inputs: Any = one.kwargs or (one.args[0] if len(one.args) == 1 else one.args)
    decode = subject.text
    told = guarded("text()", lambda: decode(inputs))
    return str(told if isinstance(told, str) else next(iter(told), ""))[:LONGEST]
