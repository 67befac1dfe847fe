"""Measures a model on the held-out sets of the starter: what it sees, prefers and refuses, each beside its control.

Every figure that should come from looking at the picture is measured twice: with the picture, and with a control that
has everything but the picture's content (another held-out picture, or white paper). A model that ignores pictures
scores the same on both.

The sets are files of one JSON object a line, in one folder (`starter.build` writes them); picture names are relative
to it:

    captions.jsonl     id, image, prefix, caption, references, distractors
    choices.jsonl      id, task, images, question, choices, answer (a place in choices)
    preferences.jsonl  id, image, prompt, chosen, rejected, aspect
    requests.jsonl     id, image, prompt, unsafe
    talks.jsonl        id, image, caption, question, reference: a dozen to show side by side, not measured
"""

import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from xgenmm.config import ConfigError, decode
from xgenmm.evaluation.scorers.captions import cider
from xgenmm.evaluation.scorers.safety import is_refusal
from xgenmm.evaluation.statistics import Figure, mean, ratio, share
from xgenmm.inference.generate import generate
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.inference.score import score
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Conversation, Document, Part, Picture, Turn

MARKER = "<image>"
CAPTION_TOKENS, ANSWER_TOKENS, REPLY_TOKENS = 8, 20, 10
"""Longest answers in tokens. A refusal shows in its first words; longer replies would only cost time."""
PRIOR_PICTURES = 4
"""Pictures over which a caption's prior likelihood is averaged."""
GENERATED_TOGETHER = 64
"""Prompts that are answered at the same time: a step of generation costs hardly more for many than for few."""
YES_NO = "yes_no"
"""The task whose share of "Yes" is a figure of its own."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A picture with its caption, and the captions of other pictures that it is ranked among."""

    id: str
    image: str
    prefix: str
    caption: str
    references: tuple[str, ...]
    distractors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with given answers; `<image>` marks where each of the pictures stands."""

    id: str
    task: str
    images: tuple[str, ...]
    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to a prompt about a picture, and what makes the chosen one better."""

    id: str
    image: str
    prompt: str
    chosen: str
    rejected: str
    aspect: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request about a picture that should be refused, or should not."""

    id: str
    image: str
    prompt: str
    unsafe: bool


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A question whose answers people compare over the stages."""

    id: str
    image: str
    caption: str
    question: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to a `Talk`."""

    picture: str
    image: str
    name: str
    question: str
    answer: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All figures by name, and the answers to look at."""

    figures: dict[str, Figure]
    answers: tuple[Answer, ...]


Entry = TypeVar("Entry", Caption, Choice, Pair, Request, Talk)


class HeldOut:
    """A model together with the held-out sets in one folder."""

    def __init__(
        self,
        model: XGenMMForConditionalGeneration,
        processor: XGenMMProcessor,
        folder: Path,
        *,
        limit: int | None = None,
        batch_size: int = 16,
    ):
        """Put the parts together.

        Args:
            model: Whose figures are wanted.
            processor: Its processor.
            folder: Where the sets are.
            limit: Take only so many entries of each set, and of each task; all by default.
            batch_size: Prompts of one forward pass.
        """
        self.model = model
        self.processor = processor
        self.folder = folder
        self.limit = limit
        self.batch_size = batch_size
        self.blank = white_paper(processor.config.tile)

    def measure(self) -> Measured:
        """All figures. Raises ConfigError naming the file and the line of an entry that cannot be read."""
        figures = self.captions(self.read_captions()[: self.limit])
        figures |= self.choices(self._read("choices.jsonl", Choice))
        figures |= self.preferences(self._read("preferences.jsonl", Pair)[: self.limit])
        requests = self._read("requests.jsonl", Request)
        unsafe, safe = ([one for one in requests if one.unsafe == wanted][: self.limit] for wanted in (True, False))
        figures |= self.requests([*unsafe, *safe])
        return Measured(figures=figures, answers=self.talks(self._read("talks.jsonl", Talk)))

    def read_captions(self) -> list[Caption]:
        """The entries of captions.jsonl."""
        return self._read("captions.jsonl", Caption)

    def captions(self, entries: Sequence[Caption]) -> dict[str, Figure]:
        """Loss of the true caption with its picture and with another; its rank among ten; CIDEr of what the model says.

        Ranking compares log p(caption | picture) with the mean of log p(caption | another picture) over a few, so
        that a frequent word is no better than a rare one.
        """
        prompts = [self._document(entry.image, entry.prefix) for entry in entries]
        names = [[entry.caption, *entry.distractors] for entry in entries]
        seen = score(self.model, self.processor, prompts, names, batch_size=self.batch_size)
        others = [
            self._document(other.image, entry.prefix) for entry, other in zip(entries, rotated(entries), strict=True)
        ]
        shuffled = score(self.model, self.processor, others, [row[:1] for row in names], batch_size=self.batch_size)
        prior = self._prior(entries)
        first = []
        for row, texts in zip(seen, names, strict=True):
            evidence = [one.logp - prior[text] for one, text in zip(row, texts, strict=True)]
            first.append(all(evidence[0] > other for other in evidence[1:]))
        said = self._generate(prompts, CAPTION_TOKENS)
        agreement = cider([text.rstrip(".") for text in said], [entry.references for entry in entries])
        return {
            "caption_loss_true": ratio([-row[0].logp for row in seen], [row[0].tokens for row in seen]),
            "caption_loss_shuffled": ratio([-row[0].logp for row in shuffled], [row[0].tokens for row in shuffled]),
            "rank_at_10": share(first),
            "cider": mean([100 * one for one in agreement.per_image]),
        }

    def choices(self, entries: Sequence[Choice]) -> dict[str, Figure]:
        """Per task: share of right answers by likelihood, with pictures and on white paper, and of the commonest."""
        by_task: dict[str, list[Choice]] = defaultdict(list)
        for entry in entries:
            by_task[entry.task].append(entry)
        figures = {}
        for task, whole in by_task.items():
            group = whole[: self.limit]
            picked = self._pick(group, blank=False)
            right = [choice == entry.answer for choice, entry in zip(picked, group, strict=True)]
            majority, _ = Counter(entry.choices[entry.answer] for entry in group).most_common(1)[0]
            figures[task] = share(right)
            figures[f"{task}_majority"] = share([entry.choices[entry.answer] == majority for entry in group])
            if task == YES_NO:  # its questions are balanced: white paper can only give one half
                figures["yes_rate"] = share([entry.choices[c] == "Yes" for c, entry in zip(picked, group, strict=True)])
                continue
            blank = self._pick(group, blank=True)
            figures[f"{task}_blank"] = share([c == entry.answer for c, entry in zip(blank, group, strict=True)])
        return figures

    def preferences(self, entries: Sequence[Pair]) -> dict[str, Figure]:
        """Share of pairs whose chosen answer is the likelier one, by aspect, and the same with other pictures."""
        margins = self._margins(entries)
        others = [replace(entry, image=other.image) for entry, other in zip(entries, rotated(entries), strict=True)]
        figures = {
            "preference_accuracy": share([margin > 0 for margin in margins]),
            "preference_accuracy_shuffled": share([margin > 0 for margin in self._margins(others)]),
            "preference_margin": mean(margins),
        }
        for aspect in sorted({entry.aspect for entry in entries}):
            group = [margin > 0 for margin, entry in zip(margins, entries, strict=True) if entry.aspect == aspect]
            figures[f"preference_accuracy_{aspect}"] = share(group)
        return figures

    def requests(self, entries: Sequence[Request]) -> dict[str, Figure]:
        """Unsafe requests without a refusal (attack success), safe ones with one; by VLGuard's keyword rule."""
        prompts = [self._conversation((entry.image,), MARKER + entry.prompt) for entry in entries]
        refused = [is_refusal(reply) for reply in self._generate(prompts, REPLY_TOKENS)]
        pairs = list(zip(entries, refused, strict=True))
        return {
            "attack_success": share([not no for entry, no in pairs if entry.unsafe]),
            "over_refusal": share([no for entry, no in pairs if not entry.unsafe]),
        }

    def talks(self, entries: Sequence[Talk]) -> tuple[Answer, ...]:
        """What the model answers."""
        prompts = [self._conversation((entry.image,), MARKER + entry.question) for entry in entries]
        return tuple(
            Answer(
                picture=entry.id,
                image=entry.image,
                name=entry.caption,
                question=entry.question,
                answer=text,
                reference=entry.reference,
            )
            for entry, text in zip(entries, self._generate(prompts, ANSWER_TOKENS), strict=True)
        )

    def _pick(self, entries: Sequence[Choice], *, blank: bool) -> list[int]:
        """The likeliest choice of each entry; equal prompts (white paper asked the same) are scored once."""
        keys = [(entry.question, entry.choices, len(entry.images)) if blank else entry.id for entry in entries]
        distinct = dict(zip(keys, entries, strict=True))
        prompts = []
        for entry in distinct.values():
            images = (None,) * len(entry.images) if blank else entry.images
            prompts.append(self._conversation(images, entry.question))
        candidates = [entry.choices for entry in distinct.values()]
        scores = score(self.model, self.processor, prompts, candidates, batch_size=self.batch_size)
        best = {
            key: max(range(len(row)), key=lambda i, row=row: row[i].logp)
            for key, row in zip(distinct, scores, strict=True)
        }
        return [best[key] for key in keys]

    def _margins(self, entries: Sequence[Pair]) -> list[float]:
        """log p(chosen) - log p(rejected), each summed over its tokens."""
        prompts = [self._conversation((entry.image,), MARKER + entry.prompt) for entry in entries]
        answers = [(entry.chosen, entry.rejected) for entry in entries]
        # with their ends, as DPO compares them: an answer that stops too early is wrong in its end
        scores = score(self.model, self.processor, prompts, answers, end=True, batch_size=self.batch_size)
        return [chosen.logp - rejected.logp for chosen, rejected in scores]

    def _prior(self, entries: Sequence[Caption]) -> dict[str, float]:
        """Mean log p(caption | picture) of every caption that occurs, over the first pictures of the set."""
        texts = sorted({text for entry in entries for text in (entry.caption, *entry.distractors)})
        prompts = [self._document(entry.image, entry.prefix) for entry in entries[:PRIOR_PICTURES]]
        rows = score(self.model, self.processor, prompts, [texts] * len(prompts), batch_size=2)
        return {text: sum(row[place].logp for row in rows) / len(rows) for place, text in enumerate(texts)}

    def _generate(self, prompts: Sequence[Document | Conversation], tokens: int) -> list[str]:
        config = GenerationConfig(max_new_tokens=tokens)
        return generate(self.model, self.processor, prompts, config, batch_size=GENERATED_TOGETHER)

    def _document(self, image: str | None, prefix: str) -> Document:
        return Document(id=image or "blank", parts=(self._picture(image), prefix))

    def _conversation(self, images: Sequence[str | None], text: str) -> Conversation:
        pieces = text.split(MARKER)
        if len(pieces) != len(images) + 1:
            raise ConfigError(f'{len(images)} pictures for {len(pieces) - 1} times {MARKER} in "{text}"')
        parts: list[Part] = [pieces[0]] if pieces[0] else []
        for image, piece in zip(images, pieces[1:], strict=True):
            parts += [self._picture(image), piece.removeprefix("\n")]
        return Conversation(id=text, turns=(Turn(role="user", parts=tuple(part for part in parts if part)),))

    def _picture(self, image: str | None) -> Picture:
        return self.blank if image is None else Picture(source=self.folder / image, name=image)

    def _read(self, name: str, kind: type[Entry]) -> list[Entry]:
        path = self.folder / name
        if not path.is_file():
            raise ConfigError(
                f"{path} is missing: a folder of held-out sets has this file; write it with `xgenmm starter`"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
        return [decode(kind, json.loads(line), f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def rotated(entries: Sequence[Entry]) -> list[Entry]:
    """Each entry's control: the one after it in an order drawn once and for all. With two or more, nobody is their own.

    The order is drawn because neighbours in a file are often alike: a fruit's neighbour is a fruit.
    """
    order = random.Random(0).sample(range(len(entries)), len(entries))
    control = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [entries[control[place]] for place in range(len(entries))]


def white_paper(side: int) -> Picture:
    """A white picture, the control that has nothing on it."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "white").save(buffer, format="PNG")
    return Picture(source=buffer.getvalue(), name="white paper")
