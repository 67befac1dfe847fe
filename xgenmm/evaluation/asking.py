"""Questions -> answers: what a model is shown for each row, with pictures and beginnings that they share read once.

A question that cannot be asked (its picture is damaged, its prompt too long) gets an answer that says so; it keeps its
place, and the others keep theirs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xgenmm.data.quarantine import BadSample
from xgenmm.evaluation import fewshot
from xgenmm.evaluation.answers import Answer, AnswerStore
from xgenmm.evaluation.benchmarks.benchmark import BAD_ROW, Benchmark, Control, explained
from xgenmm.evaluation.benchmarks.source import Docs
from xgenmm.evaluation.controls import others, white_paper
from xgenmm.evaluation.fewshot import FewShotConfig, FewShotPrompt
from xgenmm.evaluation.scorers.fewshot import FewShotItem
from xgenmm.inference.generate import continuations
from xgenmm.inference.pictures import PictureTokens
from xgenmm.inference.reading import Reader
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.processor.images import ImageError
from xgenmm.processor.processor import PromptTooLong, XGenMMProcessor
from xgenmm.types import Conversation, Document, Example, Part, Turn


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question as the model reads it."""

    place: int
    demonstrations: tuple[int, ...] = ()
    prompt: str = ""
    """To show: `<image>` once for each picture."""
    example: Example | None = None
    """None where the question cannot be asked."""
    follows: bool = False
    """`example` is only what follows the beginning that all questions share."""
    fault: str = ""


class ChatQueries:
    """Every row asked by itself: as the user's turn of a conversation, or as the beginning of a document."""

    def __init__(
        self, benchmark: Benchmark, docs: Docs, pictures: PictureTokens, processor: XGenMMProcessor, reference: str
    ) -> None:
        self.benchmark, self.docs, self.processor, self.reference = benchmark, docs, processor, reference
        self.settings = GenerationConfig(max_new_tokens=benchmark.max_new_tokens)
        self.reader = Reader(pictures.model, pictures)
        self.behind: Reader | None = None
        self._others: list[int] = []
        """Whose pictures each question gets under the control `shuffled`."""
        self._white = white_paper(processor.config.tile)

    def order(self, limit: int | None) -> list[FewShotItem]:
        """Rows in the order in which they are asked, the first `limit` of them."""
        count = len(self.docs) if limit is None else min(limit, len(self.docs))
        self._others = others(count)
        return [FewShotItem(test=place, demonstrations=()) for place in range(count)]

    def query(self, item: FewShotItem, control: Control | None = None) -> Query:
        """One question, ready to be read."""

        def build() -> tuple[Example, bool]:
            name, parts = str(item.test), self.parts(item, control)
            if self.benchmark.document:
                return self.processor.prompt(Document(id=name, parts=parts)), False
            return self.processor.prompt(Conversation(id=name, turns=(Turn(role="user", parts=parts),))), False

        return _safely(self.processor, Query(place=item.test), build)

    def parts(self, item: FewShotItem, control: Control | None) -> tuple[Part, ...]:
        """What is shown; pictures are not opened yet."""
        doc, pictures = self.docs[item.test], None
        if control == "shuffled":
            pictures = self.benchmark.images(self.docs[self._others[item.test]])
        elif control == "blank":
            pictures = [self._white] * len(self.benchmark.images(doc))
        return self.benchmark.parts(doc, self.reference, pictures)

    def finish(self, text: str) -> str:
        """The answer as the profile's scorer gets it."""
        return text


class FewShotQueries:
    """Every row behind demonstrations of the train split, as OpenFlamingo asks."""

    def __init__(
        self,
        benchmark: Benchmark,
        docs: Docs,
        train: Docs,
        pictures: PictureTokens,
        processor: XGenMMProcessor,
        config: FewShotConfig,
        trial: int,
    ) -> None:
        assert benchmark.few_shot is not None
        self.benchmark, self.docs, self.train = benchmark, docs, train
        self.pictures, self.processor, self.config, self.trial = pictures, processor, config, trial
        self.kind = benchmark.few_shot.kind
        wanted = fewshot.generation_settings(self.kind, benchmark.few_shot.max_new_tokens)
        self.settings = GenerationConfig(
            max_new_tokens=wanted.max_new_tokens, num_beams=wanted.num_beams, length_penalty=wanted.length_penalty
        )
        self.reader = Reader(pictures.model, pictures)
        self.behind: Reader | None = None
        """Has read the demonstrations that all questions share."""
        self._beginning = FewShotPrompt(text="", pictures=())

    def order(self, limit: int | None) -> list[FewShotItem]:
        """Rows in OpenFlamingo's order with their demonstrations; reads the beginning if all questions share one."""
        items = fewshot.plan(
            self.config, num_test=len(self.docs), num_train=len(self.train), limit=limit, trial=self.trial
        )
        if self.config.selection == "rices" and self.config.shots:
            return self._similar(items)
        shares = self.config.selection == "fixed" and self.benchmark.weighing is None
        if shares and items and self.config.demonstrations:
            self._read_beginning(items[0])
        return items

    def query(self, item: FewShotItem) -> Query:
        """One question, ready to be read."""

        def build() -> tuple[Example, bool]:
            prompt = self._prompt(item)
            rest = prompt.text[len(self._beginning.text) :]
            if self.behind is not None and self._splits(prompt.text, rest):
                pictures = prompt.pictures[len(self._beginning.pictures) :]
                return self.processor.rendered(str(item.test), rest, pictures), True
            return self.processor.rendered(str(item.test), prompt.text, prompt.pictures), False

        query = _safely(self.processor, Query(place=item.test, demonstrations=item.demonstrations), build)
        return replace(query, prompt=self._beginning.text + query.prompt) if query.follows else query

    def finish(self, text: str) -> str:
        """The answer as OpenFlamingo cuts it."""
        return fewshot.cut(self.kind, text)

    def _prompt(self, item: FewShotItem) -> FewShotPrompt:
        shown = [self.train[place] for place in item.demonstrations]
        return fewshot.build(self.kind, self.benchmark, self.docs[item.test], shown, shots=self.config.shots)

    def _read_beginning(self, item: FewShotItem) -> None:
        prompt = self._prompt(item)
        shown = FewShotPrompt(text=prompt.prefix, pictures=prompt.pictures[: prompt.prefix.count("<image>")])
        try:
            beginning = self.processor.rendered("demonstrations", shown.text, shown.pictures)
        except (ImageError, PromptTooLong):
            return  # every question will say so itself
        self.behind, self._beginning = Reader(self.pictures.model, self.pictures, beginning), shown

    def _splits(self, text: str, rest: str) -> bool:
        """Whether no token crosses the border between the shared beginning and the rest."""

        def ids(piece: str) -> list[int]:
            return self.processor.tokenizer(piece, add_special_tokens=False)["input_ids"]

        return text.startswith(self._beginning.text) and ids(text) == ids(self._beginning.text) + ids(rest)

    def _similar(self, items: Sequence[FewShotItem]) -> list[FewShotItem]:
        """The same questions with the most similar train pictures; unreadable pictures keep the random ones."""
        path = self.config.rices_encoder
        encode = fewshot.hub_encoder(path) if path else fewshot.own_encoder(self.pictures.model, self.processor)
        train, places = fewshot.features_of(encode, range(len(self.train)), self._train_picture)
        test, readable = fewshot.features_of(encode, [item.test for item in items], self._test_picture)
        by_test = {item.test: item for item in items}
        if len(places) < self.config.demonstrations or not readable:
            return list(items)
        chosen = fewshot.similar([by_test[place] for place in readable], test, train, self.config.demonstrations)
        for item in chosen:
            demonstrations = tuple(places[number] for number in item.demonstrations)
            by_test[item.test] = FewShotItem(test=item.test, demonstrations=demonstrations)
        return [by_test[item.test] for item in items]

    def _train_picture(self, place: int) -> Any:
        return self.benchmark.train_images(self.train[place])[0]

    def _test_picture(self, place: int) -> Any:
        return self.benchmark.images(self.docs[place])[0]


Queries = ChatQueries | FewShotQueries


def ask(
    queries: Queries,
    items: Sequence[FewShotItem],
    store: AnswerStore,
    batch_size: int,
    advance: Callable[[int], None],
) -> None:
    """Answer these questions; each answer is on disk as soon as it is there.

    Args:
        queries: What to show for each, and who reads it.
        items: The questions of this process.
        store: Where answers go.
        batch_size: Answers that are written at a time. It changes no greedy text.
        advance: Told how many more are done.
    """

    def note(query: Query, text: str) -> None:
        store.add(
            [
                Answer(
                    place=query.place,
                    prompt=query.prompt,
                    text=text,
                    fault=query.fault,
                    demonstrations=query.demonstrations,
                )
            ]
        )
        advance(1)

    def by(reader: Reader, items: Iterable[FewShotItem], *, follows: bool) -> list[FewShotItem]:
        """Have one reader answer what it can; gives the rest."""
        asked: list[Query] = []
        others: list[FewShotItem] = []

        def prompts() -> Iterator[Example]:
            for item in items:
                query = queries.query(item)
                if query.example is None:
                    note(query, "")
                elif query.follows != follows:
                    others.append(item)
                else:
                    asked.append(replace(query, example=None))
                    yield query.example

        found = continuations(reader, queries.processor, prompts(), queries.settings, batch_size=batch_size)
        for number, text in found:
            note(asked[number], queries.finish(text))
        return others

    if queries.behind is not None:
        items = by(queries.behind, items, follows=True)
    by(queries.reader, items, follows=False)


def _safely(processor: XGenMMProcessor, query: Query, build: Callable[[], tuple[Example, bool]]) -> Query:
    try:
        example, follows = build()
    except BadSample as error:
        return replace(query, fault=f"{error.reason}: {error.detail}")
    except ImageError as error:
        return replace(query, fault=f"image_{error.reason}: {error}")
    except PromptTooLong as error:
        return replace(query, fault=f"too_long: {error}")
    except BAD_ROW as error:
        return replace(query, fault=f"bad_record: {explained(error)}")
    return replace(query, example=example, follows=follows, prompt=shown(processor, example))


def shown(processor: XGenMMProcessor, example: Example) -> str:
    """A prompt as text, `<image>` once for each picture."""
    per_tile, image = processor.config.tokens_per_tile, processor.image_token_id
    tiles = [int(rows * cols) + 1 for rows, cols in example.image_layouts[:, :2].tolist()]
    ids = example.input_ids.numpy()
    places = np.flatnonzero(ids == image)
    starts = np.cumsum([0, *(count * per_tile for count in tiles)])[:-1]
    keep = np.ones(len(ids), dtype=bool)
    keep[places] = False
    keep[places[starts]] = True
    return processor.tokenizer.decode(ids[keep].tolist())


def plain_settings(settings: GenerationConfig) -> Mapping[str, Any]:
    """Generation settings under transformers' names, for the results."""
    return {
        "max_new_tokens": settings.max_new_tokens,
        "num_beams": settings.num_beams,
        "do_sample": settings.temperature > 0,
        "length_penalty": settings.length_penalty,
    }
