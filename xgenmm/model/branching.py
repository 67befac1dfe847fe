"""Rows that hold several continuations of one beginning: which tokens see which, and what position each has."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def branch_positions(branches: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Position of every token: each branch counts on from the end of the trunk, as if it alone stood behind it.

    >>> branch_positions(torch.tensor([[0, 0, 1, 1, 1, 2, 2]])).tolist()
    [[0, 1, 2, 3, 4, 2, 3]]
    """
    index = torch.arange(branches.shape[1], device=branches.device).expand_as(branches)
    begins = torch.ones_like(branches, dtype=torch.bool)
    begins[:, 1:] = branches[:, 1:] != branches[:, :-1]
    begin = torch.where(begins, index, 0).cummax(dim=1).values
    trunk = ((branches == 0) & (begin == 0)).sum(dim=1, keepdim=True)
    return torch.where(branches == 0, index, index - begin + trunk)


def branch_mask(
    branches: Int[Tensor, "B L"], attention_mask: Int[Tensor, "B L"], dtype: torch.dtype
) -> Float[Tensor, "B 1 L L"]:
    """What is added to attention scores: 0 where a token sees another, the dtype's lowest number where it does not.

    A token sees itself and, of what stands before it, the trunk and its own branch; nobody sees padding. (Padding sees
    itself, so that no row of scores is empty.)
    """
    length = branches.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    related = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    visible = before & related & (attention_mask[:, None, :] == 1)
    visible |= torch.eye(length, dtype=torch.bool, device=branches.device)
    hidden = torch.zeros(visible.shape, dtype=dtype, device=branches.device)
    return hidden.masked_fill(~visible, torch.finfo(dtype).min)[:, None]
