"""Likelihood of continuations, against one forward pass for each of them."""

import io
import threading

import pytest
import torch
from PIL import Image
from toy import LATENTS, TILE, alone_logp, make_tokenizer, make_toy_model

from xgenmm.inference.pictures import PictureTokens
from xgenmm.inference.score import Scores, by_length, one_thread_each, row
from xgenmm.processor.processor import ProcessorConfig, XGenMMProcessor
from xgenmm.types import Conversation, Document, Picture, Turn


def picture(colour: str) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(buffer, format="PNG")
    return Picture(source=buffer.getvalue(), name=colour)


@pytest.fixture
def processor() -> XGenMMProcessor:
    config = ProcessorConfig(
        prompt="chatml",
        tile=TILE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        grids=(),
        tokens_per_tile=LATENTS,
        max_tokens=200,
        system="",
    )
    return XGenMMProcessor(make_tokenizer("chatml"), config)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_equal_separate_forward_passes(processor: XGenMMProcessor, batch_size: int, end: bool):
    model = make_toy_model("llama", image_token_id=processor.image_token_id)
    prompts = [
        Document(id="a", parts=(picture("red"), "A picture of")),
        Conversation(id="b", turns=(Turn(role="user", parts=(picture("blue"), "What is it?")),)),
        Document(id="c", parts=("No picture,",)),
    ]
    candidates = [(" a dog", " a", " cats"), ("x", "yes"), (" none",)]
    rows = [row(processor, processor.prompt(p), texts, end=end) for p, texts in zip(prompts, candidates, strict=True)]
    scores, found = Scores(PictureTokens(model), processor.pad_token_id), {}
    for places in by_length(rows, batch_size):
        found |= dict(zip(places, scores([rows[place] for place in places]), strict=True))
    assert sorted(found) == [0, 1, 2]
    found = [found[place] for place in range(3)]
    for prompt, texts, results in zip(prompts, candidates, found, strict=True):
        for text, result in zip(texts, results, strict=True):
            expected, tokens = alone_logp(model, processor, prompt, text, end=end)
            assert result.tokens == tokens
            assert result.logp == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("texts", [[], ["a", ""]])
def test_every_candidate_needs_a_token(processor: XGenMMProcessor, texts: list[str]):
    with pytest.raises(ValueError, match="every candidate a token"):
        row(processor, processor.prompt(Document(id="a", parts=("Hello",))), texts)


@pytest.mark.parametrize("device", ["cuda:2", "cpu"])
def test_a_thread_begins_on_the_models_gpu(device, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: chosen.append((gpu, threading.get_ident())))
    model = make_toy_model("llama")
    model.computes_on, model.unshard = torch.device(device), None  # as one that is split over processes
    with one_thread_each(model) as workers:
        there = workers.submit(threading.get_ident).result()
    assert chosen == ([(torch.device("cuda:2"), there)] if device == "cuda:2" else [])
