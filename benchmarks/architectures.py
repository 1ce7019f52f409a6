"""Which architectures come through: export, simplification, parity at two batch sizes, an engine.

Every network has random weights and a real layout at a small width: what is asked is whether the
operators and the wiring of a family come through, not how fast it is. The ones of the tests' zoo,
and more that nothing here was tuned to.

    python benchmarks/architectures.py [--only NAME,...] [--out FILE]

The file is written after each network; what is in it already is kept unless --only names it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers as hf
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mpo.errors import MpoError  # noqa: E402
from mpo.exporters.axes import varying_axes  # noqa: E402
from mpo.exporters.engines import build_engine, describe  # noqa: E402
from mpo.exporters.onnx import export_onnx  # noqa: E402
from mpo.exporters.parity import check_parity  # noqa: E402
from mpo.exporters.shapes import free_inputs, shape_ranges  # noqa: E402
from mpo.optimizer.data.batches import Batch, primary, take  # noqa: E402
from mpo.records import EngineOptions  # noqa: E402
from mpo.timing import Stopwatch  # noqa: E402
from tests.optimizer.zoo import ZOO  # noqa: E402

Maker = Callable[[], tuple[nn.Module, list[Batch]]]
LENGTHS = (8, 12)  # of sentences


class Speech(nn.Module):
    """Two strided convolutions, a two-way LSTM, a linear head: [B, 16, T] -> [B, T / 4, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv1d(32, 32, 3, 2, 1), nn.ReLU()
        )
        self.rnn = nn.LSTM(32, 24, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Scores for every fourth frame."""
        return self.head(self.rnn(self.front(x).transpose(1, 2))[0])


class Gated(nn.Module):
    """An embedding, a GRU, attention pooling over its states: ids [B, T] -> [B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(50, 16), nn.GRU(16, 24, batch_first=True)
        self.score, self.head = nn.Linear(24, 1), nn.Linear(24, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of sentences."""
        states, _ = self.rnn(self.words(input_ids))
        weights = self.score(states).softmax(1)
        return self.head((weights * states).sum(1))


class Heads(nn.Module):
    """A detector's wiring: three levels, nested outputs, a dict of a list and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 32)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.SiLU())
            for i, o in zip((3, *widths), widths, strict=False)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in widths)
        self.classes, self.boxes = nn.Conv2d(16, 5, 3, 1, 1), nn.Conv2d(16, 4, 3, 1, 1)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Class and box maps of every level."""
        levels = []
        for stage in self.stages:
            image = stage(image)
            levels.append(image)
        found: list[Tensor] = []
        top: Tensor | None = None
        for level, lateral in zip(levels[::-1], list(self.lateral)[::-1], strict=True):
            here = lateral(level)
            if top is not None:
                here = here + nn.functional.interpolate(top, scale_factor=2.0, mode="nearest")
            top = here
            found.append(here)
        return {"classes": [self.classes(one) for one in found],
                "boxes": tuple(self.boxes(one).exp() for one in found)}  # fmt: skip


def random(*shape: int) -> Tensor:
    """Seeded noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def local(make: Callable[[], nn.Module], *shape: int) -> Maker:
    """A network of one positional tensor."""

    def made() -> tuple[nn.Module, list[Batch]]:
        torch.manual_seed(0)
        return make().eval(), [Batch((random(4, *shape),), {})]

    return made


def hugging(make: Callable[[], nn.Module], name: str, *shape: int) -> Maker:
    """A Hugging Face network of one named tensor."""

    def made() -> tuple[nn.Module, list[Batch]]:
        torch.manual_seed(0)
        return make().eval(), [Batch((), {name: random(4, *shape)})]

    return made


def words(make: Callable[[], nn.Module]) -> Maker:
    """A network of ids alone, of two lengths."""

    def made() -> tuple[nn.Module, list[Batch]]:
        torch.manual_seed(0)
        ids = torch.randint(3, 50, (4, max(LENGTHS)), generator=torch.Generator().manual_seed(1))
        return make().eval(), [Batch((), {"input_ids": ids[:, :size]}) for size in LENGTHS]

    return made


def whisper() -> nn.Module:
    """Whisper's encoder: convolutions over a spectrogram, sinusoidal positions, attention."""
    config = hf.WhisperConfig(
        d_model=32, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=64,
        num_mel_bins=16, max_source_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    return hf.WhisperModel(config).get_encoder()


MORE: dict[str, Maker] = {
    "whisper-encoder": hugging(whisper, "input_features", 16, 64),
    "conv-lstm": local(Speech, 16, 48),
    "gru-attention": words(Gated),
    "detector-heads": local(Heads, 3, 32, 32),
    "swin-hf": hugging(
        lambda: hf.SwinForImageClassification(
            hf.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2],
                          num_heads=[2, 4], window_size=4)
        ),
        "pixel_values", 3, 32, 32,
    ),
    "segformer-hf": hugging(
        lambda: hf.SegformerForSemanticSegmentation(
            hf.SegformerConfig(num_encoder_blocks=2, depths=[2, 2], sr_ratios=[2, 1],
                               hidden_sizes=[16, 32], patch_sizes=[3, 3], strides=[2, 2],
                               num_attention_heads=[1, 2], mlp_ratios=[2, 2],
                               decoder_hidden_size=16)
        ),
        "pixel_values", 3, 32, 32,
    ),
    "wav2vec2-hf": hugging(
        lambda: hf.Wav2Vec2ForCTC(
            hf.Wav2Vec2Config(vocab_size=20, hidden_size=32, num_hidden_layers=2,
                              num_attention_heads=2, intermediate_size=64, conv_dim=(16, 16),
                              conv_stride=(4, 2), conv_kernel=(8, 3), num_feat_extract_layers=2,
                              num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
        ),
        "input_values", 400,
    ),
    "mamba-hf": words(
        lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2,
                           use_cache=False)
        )
    ),
    "mixtral-hf": words(
        lambda: hf.MixtralForCausalLM(
            hf.MixtralConfig(vocab_size=50, hidden_size=16, intermediate_size=32,
                             num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                             num_local_experts=4, use_cache=False)
        )
    ),
}  # fmt: skip


def from_zoo(name: str) -> Maker:
    """A network of the zoo; sentences in two lengths."""

    def made() -> tuple[nn.Module, list[Batch]]:
        kind = ZOO[name]
        batch = kind.batch()
        if "attention_mask" not in batch.kwargs:
            return kind.make(), [batch]
        longer = {key: torch.cat([one, one[:, :3]], 1) for key, one in batch.kwargs.items()}
        return kind.make(), [batch, Batch((), longer)]

    return made


ALL: dict[str, Maker] = {**{name: from_zoo(name) for name in ZOO}, **MORE}


def attempt(name: str, folder: Path) -> dict[str, Any]:
    """One network all the way; what fails says why and ends the row."""
    model, batches = ALL[name]()
    path = folder / "model.onnx"
    row: dict[str, Any] = {"name": name, "params": sum(p.numel() for p in model.parameters())}
    calls = [(one.args, one.kwargs) for one in batches]
    watch = Stopwatch()
    try:
        made = export_onnx(model, *calls[0], path, varying=varying_axes(calls))
    except MpoError as error:
        return {**row, "export": False, "reason": f"{error.message} {error.hint}"}
    row |= {"export": True, "export_s": watch.seconds, "tracer": made.tracer, "bytes": made.bytes}
    row |= {"raw_nodes": made.raw_nodes, "nodes": made.nodes, "simplified": made.simplified}
    row |= {"dynamic_batch": made.dynamic_batch, "warnings": made.warnings}
    row["free"] = sorted({size for one in free_inputs(path).values() for size in one
                          if isinstance(size, str)})  # fmt: skip
    row["operators"] = sorted({node.op_type for node in onnx.load(str(path)).graph.node})
    sizes = (2, 5) if made.dynamic_batch else (4,)
    samples = [take(batch, size) for batch in batches for size in sizes]
    parity = check_parity(model, path, [(one.args, one.kwargs) for one in samples], primary)
    row["parity"] = parity.model_dump(mode="json", exclude={"outputs"})
    row["outputs"] = len(parity.outputs)
    watch = Stopwatch()
    result = build_engine(
        path, folder / "model.engine", EngineOptions(shapes=shape_ranges(path, ranges(row["free"])))
    )
    row["engine"] = {
        "built": result.built, "outcome": result.outcome, "reason": result.reason,
        "bytes": result.bytes, "seconds": watch.seconds, "layers": result.layers,
        "network_layers": result.network_layers, "peak_memory_bytes": result.peak_memory_bytes,
    }  # fmt: skip
    return row


def ranges(free: list[str]) -> dict[str, tuple[int, int, int]]:
    """Batches of 1 to 8, lengths of 4 to 16."""
    return {name: (1, 4, 8) if name == "batch" else (4, 8, 16) for name in free}


def line(row: dict[str, Any]) -> str:
    """One row of the page's table."""
    if not row["export"]:
        return f"| {row['name']} | no: {row['reason'][:120]} | | | |"
    nodes = f"{row['raw_nodes']} -> {row['nodes']}" if row["simplified"] else str(row["nodes"])
    parity, engine = row["parity"], row["engine"]
    told = f"{parity['max_rel']:.0e}" if parity["ok"] else f"no: {parity['reason']}"
    built = (
        f"{engine['bytes'] / 1e6:.2f} MB" if engine["built"] else f"no: {engine['reason'][:160]}"
    )
    fallen = "" if row["tracer"] == "dynamo" else f", {row['tracer']}"
    free = ", ".join(row["free"]) or "none"
    return (
        f"| {row['name']} | {row['export_s']:.0f} s, {row['bytes'] / 1e3:.0f} kB{fallen} | {free} "
        f"| {nodes} | {told} | {built} |"
    )


def main() -> None:
    """Try every network, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/architectures.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    only = [name for name in options.only.split(",") if name]
    kept = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    rows = {row["name"]: row for row in kept if row["name"] not in only}
    for name in only or ALL:
        if name in rows:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = attempt(name, Path(folder))
        print(line(rows[name]), flush=True)
        ordered = [rows[known] for known in ALL if known in rows]
        facts = {"torch": torch.__version__, "transformers": hf.__version__,
                 "tensorrt_rtx": describe("tensorrt-rtx").get("version", ""),
                 "opset": 20, "rows": ordered}  # fmt: skip
        options.out.write_text(json.dumps(facts, indent=1) + "\n")
    passed = [row for row in rows.values() if row["export"] and row["parity"]["ok"]]
    built = [row for row in passed if row["engine"]["built"]]
    print(f"{len(rows)} networks: {len(passed)} in parity, {len(built)} with an engine")


if __name__ == "__main__":
    main()
