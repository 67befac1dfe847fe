"""What torch's own counter leaves out: attention on CPUs, whose calls are counted by their shapes here.

Pairs that see each other, two products forward and four backward.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def attention(query, key, value, *, causal):
    pairs = query[-2] * (query[-2] + 1) / 2 if causal else query[-2] * key[-2]
    return int(2 * query[0] * query[1] * pairs * (query[-1] + value[-1]))


def attention_forward(query, key, value, dropout=0.0, is_causal=False, **_):  # noqa: ARG001  (torch's own signature)
    return attention(query, key, value, causal=is_causal)


def attention_backward(grad, query, key, value, out, logsumexp, dropout, is_causal, **_):  # noqa: ARG001
    return 2 * attention(query, key, value, causal=is_causal)


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, and attention."""
    forward = aten._scaled_dot_product_flash_attention_for_cpu
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping={forward: attention_forward, backward: attention_backward})
