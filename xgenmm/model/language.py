"""What we ask of a language model beyond what transformers gives: new token rows, logits where they are wanted.

Works for any causal language model of transformers; no architecture is named. Knows nothing of images.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

NEW_ROW_STD = 0.02
"""Standard deviation of new token rows (spec 1.4)."""
POSITIONS_PER_CHUNK = 1024
"""Positions whose logits exist at the same time: 130 MB in float32 for 32,000 tokens."""


@torch.no_grad()
def add_token_rows(language_model: PreTrainedModel, num_tokens: int, new_ids: Sequence[int]) -> None:
    """Make room for `num_tokens` tokens and draw the rows of the new ones from N(0, 0.02), for input and output.

    Rows that the model has beyond its tokenizer (Phi-3 has 52 behind the added pad token) are used before new ones are
    made.
    """
    if num_tokens > len(embedding_table(language_model)):
        language_model.resize_token_embeddings(num_tokens, mean_resizing=False)
    # Tied tables are one tensor, drawn once.
    for table in {id(t): t for t in (embedding_table(language_model), head_of(language_model).weight)}.values():
        table[list(new_ids)] = torch.empty(len(new_ids), table.shape[1]).normal_(std=NEW_ROW_STD).to(table)


def embedding_table(language_model: PreTrainedModel) -> Float[Tensor, "vocabulary D"]:
    """The text embeddings, a row per token."""
    return cast(nn.Embedding, language_model.get_input_embeddings()).weight


def head_of(language_model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits."""
    return cast(nn.Linear, language_model.get_output_embeddings())


def logits_of(language_model: PreTrainedModel, hidden: Float[Tensor, "M D"]) -> Float[Tensor, "M vocabulary"]:
    """Logits of some last hidden states, with the scaling or capping that some families put behind their head."""
    logits = head_of(language_model)(hidden)
    config = language_model.config.to_dict()
    if (scale := config.get("logit_scale", 1.0)) != 1.0:  # Cohere
        logits = logits * scale
    if (scaling := config.get("logits_scaling", 1.0)) != 1.0:  # Granite
        logits = logits / scaling
    if (cap := config.get("final_logit_softcapping")) is not None:  # Gemma
        logits = cap * torch.tanh(logits / cap)
    return logits


def target_logps(
    language_model: PreTrainedModel, hidden: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Log-probability of each target, in float32, without ever holding all logits.

    Beyond one chunk, the backward pass computes the logits again instead of keeping them.
    """

    def chunk_logps(hidden: Float[Tensor, "m D"], targets: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        return -F.cross_entropy(logits_of(language_model, hidden).float(), targets, reduction="none")

    chunks = list(zip(hidden.split(POSITIONS_PER_CHUNK), targets.split(POSITIONS_PER_CHUNK), strict=True))
    if len(chunks) == 1:
        return chunk_logps(*chunks[0])
    return torch.cat([checkpoint(chunk_logps, *chunk, use_reentrant=False) for chunk in chunks])
