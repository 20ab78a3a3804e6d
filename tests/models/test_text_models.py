"""Text models: equal to the library's, deaf to padding, and the same after export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.export.convert import convert
from pqbench.models.text import BertClassifier, LstmClassifier, minilm_weights
from pqbench.models.weights import apply
from pqbench.nets.checkpoint import save_network

LSTM = {"num_classes": 2, "vocabulary": 50, "embedding": 8, "hidden": 8}
BERT = {"vocabulary": 50, "width": 16, "layers": 2, "heads": 2, "inner": 32, "positions": 12}
LENGTH = 10


def batch(kind: str, count: int = 6) -> dict[str, np.ndarray]:
    """Token ids of texts of different lengths, padded with 0."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, LENGTH + 1, count)
    ids = rng.integers(2, 50, (count, LENGTH))
    mask = (np.arange(LENGTH) < length[:, None]).astype(np.int64)
    other = {"length": length} if kind == "lstm" else {"attention_mask": mask}
    return {"input_ids": ids * mask, **other}


def artifact(kind: str, folder: Path) -> Artifact:
    target = {"lstm": "LstmClassifier", "bert": "BertClassifier"}[kind]
    settings: dict[str, Any] = LSTM if kind == "lstm" else BERT
    torch.manual_seed(1)
    network = (LstmClassifier if kind == "lstm" else BertClassifier)(**settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)  # outputs that depend on the input
    builder = {"_target_": f"pqbench.models.text.{target}", **settings}
    specs = tuple(TensorSpec(n, (None, *a.shape[1:]), str(a.dtype)) for n, a in batch(kind).items())
    return save_network(network, builder, folder, specs, ("logits",), ())


def test_lstm_score_does_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    network = LstmClassifier(**LSTM).eval()
    ids = torch.randint(2, 50, (1, 4))
    padded = torch.nn.functional.pad(ids, (0, 5))
    length = torch.tensor([4])
    with torch.inference_mode():
        torch.testing.assert_close(network(ids, length), network(padded, length))
        other = network(torch.nn.functional.pad(ids[:, :3], (0, 6)), torch.tensor([3]))
        assert not torch.allclose(network(ids, length), other)


def test_bert_score_does_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    network = BertClassifier(**BERT).eval()
    ids = torch.randint(2, 50, (2, 4))
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        short = network(ids, mask)
        padded = (torch.nn.functional.pad(x, (0, 5)) for x in (ids, mask))
        torch.testing.assert_close(short, network(*padded), atol=1e-5, rtol=1e-4)


def test_bert_encoder_equals_transformers_on_its_real_weights() -> None:
    pytest.importorskip("all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    state = minilm_weights()
    ours = BertClassifier().eval()
    apply(ours, state, without="classifier")
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    theirs.load_state_dict(dict(state))
    ids = torch.randint(1000, 30000, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.inference_mode():
        wanted = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        got = ours.encode(ids, mask)
    real = mask.bool()
    torch.testing.assert_close(got[real], wanted[real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "bert"])
def test_text_model_exports_with_all_its_inputs(kind: str, tmp_path: Path) -> None:
    source = artifact(kind, tmp_path / "torch")
    onnx = convert(source, "onnx", batch(kind), tmp_path / "onnx")
    openvino = convert(onnx, "openvino", batch(kind), tmp_path / "openvino")
    assert [spec.name for spec in openvino.inputs] == list(batch(kind))
    for made in (onnx, openvino):
        assert made.lineage[-1].details["parity"]["sqnr_db"] > 90
