"""Several examples with one beginning -> one row: the shared trunk once, then a branch for what is each one's own.

Ten captions ranked for a picture, two answers of a preference pair, four questions about one drawing: they all repeat
the picture and the words before it. In one row the model reads those once. Every branch sees the trunk and itself, and
its positions go on where the trunk ends, so each token gets the hidden state that it would get in a row of its own.
"""

from collections.abc import Sequence

import torch

from xgenmm.types import IGNORE_INDEX, Example


def branch(examples: Sequence[Example], placeholder: int) -> Example | None:
    """Join examples that begin alike.

    Shared is only what is supervised in none of them, so every example keeps all its targets: where supervised words
    follow right behind the common beginning, its last token is repeated in every branch to predict them. The end of a
    branch that predicts nothing is left out.

    Args:
        examples: At least two, all of the same pictures.
        placeholder: Token id of a vision token; all of them must lie in the trunk.

    Returns:
        One example whose id is the first one's, or None if the examples do not share all their pictures.
    """
    first = examples[0]
    if any(not _same_pictures(first, other) for other in examples[1:]):
        return None
    trunk = min(_agreement(first, other) for other in examples[1:])
    if any((example.input_ids[trunk:] == placeholder).any() for example in examples):
        return None
    ids, labels = [first.input_ids[:trunk]], [first.labels[:trunk]]
    branches = [torch.zeros(trunk, dtype=torch.int64)]
    for number, example in enumerate(examples, start=1):
        supervised = (example.labels != IGNORE_INDEX).nonzero().flatten()
        own = slice(trunk, int(supervised[-1]) + 1 if len(supervised) else trunk)
        ids.append(example.input_ids[own])
        labels.append(example.labels[own])
        branches.append(torch.full((len(ids[-1]),), number))
    return Example(
        id=first.id,
        input_ids=torch.cat(ids),
        labels=torch.cat(labels),
        pixel_values=first.pixel_values,
        image_layouts=first.image_layouts,
        branches=torch.cat(branches),
    )


def _agreement(one: Example, other: Example) -> int:
    """Length of the common beginning in which nothing is supervised."""
    length = min(len(one.input_ids), len(other.input_ids))
    same = one.input_ids[:length] == other.input_ids[:length]
    same &= (one.labels[:length] == IGNORE_INDEX) & (other.labels[:length] == IGNORE_INDEX)
    return length if bool(same.all()) else int(same.int().argmin())


def _same_pictures(one: Example, other: Example) -> bool:
    return torch.equal(one.image_layouts, other.image_layouts) and torch.equal(one.pixel_values, other.pixel_values)
