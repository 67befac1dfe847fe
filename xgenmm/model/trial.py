"""Whether packed rows mean to a language model what its documents mean alone, tried before anything is trained.

Families differ in ways that none of their declarations tells: attention that drops keyword arguments, factors on
logits, positions of their own. What cannot be read off a class (`check_packable`) shows in two short documents.
"""

import torch

from xgenmm.model.vlm import XGenMMForConditionalGeneration

LENGTHS = (3, 5)
CLOSE = 1e-3
"""How far the log-probabilities of a token may lie apart, beside those of a sharp model; mistakes move them by more."""


def try_packed_row(model: XGenMMForConditionalGeneration) -> None:
    """Compare a row of two random documents with each of them alone, in transformers' own attention.

    Args:
        model: In float32, before any packed row went through it.

    Raises:
        ValueError: They differ; or the family's attention cannot be told of documents.
    """
    language, generator = model.language_model, torch.Generator().manual_seed(0)
    vocabulary = min(model.config.image_token_id, language.config.vocab_size)
    ids, targets = (torch.randint(vocabulary, (sum(LENGTHS),), generator=generator) for _ in range(2))
    training, chosen = model.training, language.config._attn_implementation
    model.eval()
    language.set_attn_implementation("eager")  # what was chosen may need a GPU
    with torch.no_grad():
        logits = [language(input_ids=document[None], use_cache=False).logits[0] for document in ids.split(LENGTHS)]
        language.set_attn_implementation(chosen)
        documents = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
        packed = model(input_ids=ids[None], documents=documents, targets=targets[None]).logps
    model.train(training)
    alone = torch.cat(logits).log_softmax(-1, dtype=torch.float32).gather(1, targets[:, None])[:, 0]
    apart = ((packed - alone).abs() / alone.abs().clamp(min=1)).max().item()
    if not apart < CLOSE:
        raise ValueError(
            f"{type(language).__name__} does not give a document in a packed row what it gives it alone: the "
            f"log-probability of a token differs by {apart:.1g} of itself; choose another language model"
        )
