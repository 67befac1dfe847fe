"""New token rows of a language model.

Works for any causal language model of transformers; no architecture is named. Knows nothing of images.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from xgenmm.model.head import head_of

NEW_ROW_STD = 0.02
"""Standard deviation of new token rows (spec 1.4)."""


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
