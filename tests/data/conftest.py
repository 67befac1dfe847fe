"""Toy data and a processor for it, made once."""

import pytest
from transformers import AutoTokenizer

from xgenmm.processor.processor import ProcessorConfig, XGenMMProcessor
from xgenmm.starter.toy import write_toy


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "toy"
    write_toy(folder)
    return folder


@pytest.fixture(scope="session")
def toy_processor(toy_folder):
    config = ProcessorConfig(
        prompt="chatml",
        tile=28,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        grids=((1, 2), (2, 1)),
        tokens_per_tile=2,
        max_tokens=256,
        system="",
    )
    return XGenMMProcessor(AutoTokenizer.from_pretrained(toy_folder / "language"), config)
