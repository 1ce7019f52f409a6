"""Labels of causal language models: judged as the model itself means them."""

import pytest
import torch
from torch import nn

import mpo
from mpo.optimizer.data.labels import shifts_labels
from mpo.optimizer.data.splits import carve, shift_targets, to_batch

TOKENS = torch.arange(12).reshape(2, 6) % 7


def causal() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=7, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


def tagger() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=7,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForTokenClassification(config).eval()


def test_a_causal_model_shifts_its_labels_and_a_tagger_does_not() -> None:
    batch = to_batch({"input_ids": TOKENS, "labels": TOKENS})
    assert shifts_labels(causal(), batch)
    assert not shifts_labels(tagger(), batch)
    assert not shifts_labels(nn.Linear(2, 2), batch)


def test_shifted_targets_name_the_next_token_and_leave_the_last_out() -> None:
    targets = shift_targets(to_batch({"input_ids": TOKENS, "labels": TOKENS})).targets
    assert targets is not None
    assert torch.equal(targets[:, :-1], TOKENS[:, 1:])
    assert bool((targets[:, -1] == -100).all())


def test_only_bare_mappings_with_labels_are_asked_about() -> None:
    bare = [{"input_ids": TOKENS, "labels": TOKENS}]
    pairs = [({"input_ids": TOKENS}, TOKENS)]
    assert carve(mpo.Data(bare, bare, bare), 0).bare_labels
    assert not carve(mpo.Data(pairs, pairs, pairs), 0).bare_labels
