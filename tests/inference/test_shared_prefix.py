"""A beginning that is read once gives the answers of prompts that are read whole."""

import pytest
import torch
from toy import make_answering_model, make_picture, make_processor

from xgenmm.inference.generate import GenerationConfig, continue_prompts
from xgenmm.inference.shared_prefix import SharedPrefix

RED, BLUE, WIDE = make_picture("red"), make_picture("blue"), make_picture("green", width=90, height=20)
PREFIX = "<image>Output:red<|endofchunk|>\n<image>Output:wide and green<|endofchunk|>\n"
RESTS = [("<image>Output:", [BLUE]), ("<image>Output: a longer beginning of", [RED]), ("<image>", [WIDE])]


@pytest.mark.parametrize("family", ["phi3", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_answers_as_whole_prompts(family, beams):
    processor = make_processor("phi3")
    model = make_answering_model(processor, family)
    config = GenerationConfig(max_new_tokens=8, num_beams=beams, length_penalty=0.0)
    shown = [RED, WIDE]
    wholes = [processor.rendered("whole", PREFIX + text, [*shown, *pictures]) for text, pictures in RESTS]
    expected = continue_prompts(model, processor, wholes, config)
    prefix = SharedPrefix(model, processor, processor.rendered("prefix", PREFIX, shown))
    assert all(prefix.starts(whole) for whole in wholes)
    rests = [processor.rendered("rest", text, pictures) for text, pictures in RESTS]
    assert prefix.continue_prompts(rests, config) == expected
    assert prefix.continue_prompts(rests[1:2], config) == expected[1:2]  # the kept keys and values did not change
    assert len(set(expected)) > 1


def test_another_beginning_is_noticed():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    prefix = SharedPrefix(model, processor, processor.rendered("prefix", PREFIX, [RED, WIDE]))
    assert not prefix.starts(processor.rendered("other", "<image>Output:", [RED]))
    assert torch.equal(prefix.prefix.input_ids, processor.rendered("prefix", PREFIX, [RED, WIDE]).input_ids)
