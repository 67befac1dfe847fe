"""Several examples with one beginning -> one row: the shared trunk once, then a branch for what is each one's own.

Ten captions ranked for a picture, two answers of a preference pair, four questions about one drawing: they all repeat
the picture and the words before it. In one row the model reads those once. Every branch sees the trunk and itself, and
its positions go on where the trunk ends, so each token gets the hidden state that it would get in a row of its own.
"""

from collections.abc import Sequence

import torch

from xgenmm.types import Example


def branch(examples: Sequence[Example], placeholder: int) -> Example | None:
    """Join examples that begin alike.

    A position is shared only if its token and its label agree in all examples: at a fork with supervised words behind
    it, the last common token is repeated in every branch, because it has another target in each.

    Args:
        examples: At least one, all of the same pictures.
        placeholder: Token id of a vision token; all of them must lie in the trunk.

    Returns:
        One example whose id is the first one's, or None if the examples do not share all their pictures.
    """
    first = examples[0]
    if any(not _same_pictures(first, other) for other in examples[1:]):
        return None
    trunk = min(_agreement(first, other) for other in examples) if len(examples) > 1 else len(first.input_ids)
    if any((example.input_ids[trunk:] == placeholder).any() for example in examples):
        return None
    ids, labels = [first.input_ids[:trunk]], [first.labels[:trunk]]
    branches = [torch.zeros(trunk, dtype=torch.int64)]
    for number, example in enumerate(examples, start=1):
        ids.append(example.input_ids[trunk:])
        labels.append(example.labels[trunk:])
        branches.append(torch.full((len(example.input_ids) - trunk,), number))
    return Example(
        id=first.id,
        input_ids=torch.cat(ids),
        labels=torch.cat(labels),
        pixel_values=first.pixel_values,
        image_layouts=first.image_layouts,
        branches=torch.cat(branches),
    )


def _agreement(one: Example, other: Example) -> int:
    """Length of the common beginning, labels included."""
    length = min(len(one.input_ids), len(other.input_ids))
    same = (one.input_ids[:length] == other.input_ids[:length]) & (one.labels[:length] == other.labels[:length])
    return length if bool(same.all()) else int(same.int().argmin())


def _same_pictures(one: Example, other: Example) -> bool:
    return torch.equal(one.image_layouts, other.image_layouts) and torch.equal(one.pixel_values, other.pixel_values)
