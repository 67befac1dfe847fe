"""A training step against transformers' Idefics2 of the same sizes, padded as its own processor pads (P3).

The two have different weights, so that losses cannot be compared; what can is how far both are from a uniform guess.
Idefics2's resampler works at the language model's width with a gated feed-forward layer, so its work is not quite ours:
both counts are printed.

python benchmarks/idefics2.py
"""

import math
from collections.abc import Callable, Sequence

import torch
from measure import computing, number_format, pairwise  # first: it sets the number of threads
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode
from transformers import Idefics2Config, Idefics2ForConditionalGeneration
from workloads import LATENTS, interleaved, our_step, trainable

from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.collate import collate
from xgenmm.types import IGNORE_INDEX, Example


def build_peer(ours: XGenMMForConditionalGeneration) -> Idefics2ForConditionalGeneration:
    """The same encoder and language model, as many latents and layers between them; the encoder is frozen."""
    text, vision, resampler = ours.config.text_config, ours.config.vision_config, ours.config.resampler_config
    torch.manual_seed(0)
    model = Idefics2ForConditionalGeneration(
        Idefics2Config(
            text_config=text.to_dict(),
            vision_config={
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "hidden_size": vision.hidden_size,
                "intermediate_size": vision.intermediate_size,
                "num_hidden_layers": vision.num_hidden_layers,
                "num_attention_heads": vision.num_attention_heads,
            },
            perceiver_config={
                "hidden_size": text.hidden_size,
                "resampler_n_latents": LATENTS,
                "resampler_depth": resampler.depth,
                "resampler_n_heads": resampler.heads,
                "resampler_head_dim": resampler.head_dim,
                "num_key_value_heads": resampler.heads,
            },
            image_token_id=ours.config.image_token_id,
        )
    )
    model.model.vision_model.requires_grad_(False)
    return model.train()


def peer_step(model: Idefics2ForConditionalGeneration, examples: Sequence[Example]) -> Callable[[], float]:
    """Forward and backward; the loss."""
    rows = collate(examples, pad_id=0, side="right")
    # transformers shifts labels itself
    aligned = pad_sequence([one.labels for one in examples], batch_first=True, padding_value=IGNORE_INDEX)
    labels = torch.full_like(aligned, IGNORE_INDEX)
    labels[:, 1:] = aligned[:, :-1]
    # Idefics2 takes pictures row by row, padded with pictures of zeros to the most that a row has
    pictures = pad_sequence([one.pixel_values for one in examples], batch_first=True)

    def step() -> float:
        model.zero_grad()
        with computing():
            loss = model(
                input_ids=rows.input_ids, attention_mask=rows.attention_mask, pixel_values=pictures, labels=labels
            ).loss
        loss.backward()
        return loss.item()

    return step


def main() -> None:
    torch.set_num_threads(1)
    model = trainable("XS")
    peer = build_peer(model)
    examples = interleaved(model.config.image_token_id)
    steps = {"Idefics2": peer_step(peer, examples), "ours": our_step(model, examples)}
    guess = math.log(model.config.text_config.vocab_size)
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            loss = step()
        assert abs(loss - guess) < 0.5, f"{name} starts with a loss of {loss}, far from a guess's {guess}"
        parameters = sum(p.numel() for p in {"Idefics2": peer, "ours": model}[name].parameters()) / 1e6
        # attention of torch's fused CPU kernel is not counted
        print(f"{name}: {parameters:.1f} M parameters, loss {loss:.3f}, {counter.get_total_flops() / 1e9:.0f} GFLOP")
    print(f"P3 XS {number_format()}, step on pages: {pairwise(steps['Idefics2'], steps['ours'])}")


if __name__ == "__main__":
    main()
