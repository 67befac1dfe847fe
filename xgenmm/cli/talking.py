"""Verbs that talk to a model: chat, generate."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from xgenmm.cli.shared import Verbs, device

if TYPE_CHECKING:
    from xgenmm.inference.sampling import GenerationConfig


def add(verbs: Verbs) -> None:
    """Add these verbs to the command."""
    chat = verbs.add_parser("chat", help="talk to a model at the terminal")
    _add_generation(chat)
    chat.set_defaults(function=_chat)

    generate = verbs.add_parser("generate", help="one answer to one text, with or without pictures")
    _add_generation(generate)
    generate.add_argument("text", metavar="TEXT", help="what to ask, or with --plain what to continue")
    generate.add_argument("--plain", action="store_true", help="continue the text instead of answering it")
    generate.set_defaults(function=_generate)


def _add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="a folder of weights, as runs/NAME/STAGE/weights")
    parser.add_argument(
        "--image", metavar="PATH", type=Path, action="append", default=[], help="may be given repeatedly"
    )
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest tokens of this probability")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")


def _chat(options: argparse.Namespace) -> None:
    from xgenmm.inference.chat import Chat, run_chat
    from xgenmm.inference.load import load

    config = _generation(options)
    model, processor = load(options.weights, device=device())
    chat = Chat(model, processor, config)
    run_chat(chat, input, lambda text: print(text, end="", flush=True), options.image)


def _generate(options: argparse.Namespace) -> None:
    from xgenmm.config import ConfigError
    from xgenmm.inference.generate import stream
    from xgenmm.inference.load import load
    from xgenmm.types import Conversation, Document, Picture, Turn

    config = _generation(options)
    if options.plain and not options.text and not options.image:
        raise ConfigError("nothing to continue: give a text or a picture")
    model, processor = load(options.weights, device=device())
    parts = (*(Picture(source=path, name=str(path)) for path in options.image), options.text)
    sample: Conversation | Document = Conversation(id="command line", turns=(Turn(role="user", parts=parts),))
    if options.plain:
        sample = Document(id="command line", parts=parts)
    for piece in stream(model, processor, sample, config):
        print(piece, end="", flush=True)
    print()


def _generation(options: argparse.Namespace) -> "GenerationConfig":
    from xgenmm.config import ConfigError
    from xgenmm.inference.sampling import GenerationConfig

    names = ("max_new_tokens", "temperature", "top_p", "seed")
    try:
        return GenerationConfig(**{name: getattr(options, name) for name in names})
    except ValueError as error:
        raise ConfigError(str(error)) from error
