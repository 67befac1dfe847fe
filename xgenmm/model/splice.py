"""Vision tokens into text embeddings. The only place where the modalities meet."""

from jaxtyping import Bool, Float
from torch import Tensor


def splice(
    text: Float[Tensor, "B L D"], vision: Float[Tensor, "V D"], placeholders: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """The text's embeddings with the vision tokens, in order, at the placeholders, row after row.

    Raises:
        ValueError: The numbers of placeholders and of vision tokens differ.
    """
    wanted = int(placeholders.sum())
    if wanted != len(vision):
        raise ValueError(
            f"{wanted} image placeholders for {len(vision)} vision tokens: "
            "the processor must write one placeholder per vision token"
        )
    return text.masked_scatter(placeholders.unsqueeze(-1), vision.to(text.dtype))
