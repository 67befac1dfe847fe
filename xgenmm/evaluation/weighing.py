"""Questions with given answers -> how likely a model finds each: with the pictures, and under the benchmark's controls.

Who is read together with whom follows from the set alone, so the numbers are the same, to the last bit, on any number
of processes and after a restart.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from xgenmm.evaluation.answers import Answer, AnswerStore
from xgenmm.evaluation.asking import ChatQueries, Queries, Query
from xgenmm.evaluation.benchmarks.benchmark import BAD_ROW, Control, Weighing
from xgenmm.evaluation.scorers.fewshot import FewShotItem
from xgenmm.evaluation.scorers.likelihood import PRIOR, SEEN
from xgenmm.inference.score import Likelihood, Row, Scores, by_length, one_thread_each, row
from xgenmm.processor.processor import PromptTooLong

TOGETHER = 16
"""Questions of one forward pass at most: they are one long row, and a longer one would only take memory."""
PRIOR_TOGETHER, PRIOR_TEXTS = 2, 512
"""Of the passes that weigh all given answers of a set: questions, and answers behind each."""
TILES = 512
"""Of questions that are opened, and sorted by length, at a time, if all have as many as the first: bounds memory."""


def weigh(
    queries: Queries,
    items: Sequence[FewShotItem],
    store: AnswerStore,
    batch_size: int,
    share: tuple[int, int],
    advance: Callable[[int], None],
) -> None:
    """Weigh the given answers of these questions; what is known of a question is on disk as soon as it is known.

    Args:
        queries: What to show for each, and who reads it.
        items: All questions of the set.
        store: Where answers go; questions that have theirs already are left out.
        batch_size: Questions of one forward pass, but no more than `TOGETHER`.
        share: Number of this process, and of all.
        advance: Told how many more are done.
    """
    assert queries.benchmark.weighing is not None
    weigher = _Weigher(queries, queries.benchmark.weighing)
    rank, world = share
    missing = {item.test for item in items} - set(store.answers)
    if not missing:
        return
    weigher.weigh_prior(items)
    for window in _windows(queries, items):
        if missing.isdisjoint(item.test for item in window):
            continue
        questions = [weigher.question(item) for item in window]
        readable = [one for one in questions if isinstance(one, _Question)]
        faulty = [one for one in questions if isinstance(one, Answer)][rank::world]
        places = by_length([one.row for one in readable], min(batch_size, TOGETHER))[rank::world]
        groups = [[readable[place] for place in group] for group in places]
        wanted = [group for group in groups if not missing.isdisjoint(one.item.test for one in group)]
        with one_thread_each(queries.reader.model) as workers:
            for answers in (faulty, *workers.map(weigher.weigh, wanted)):
                new = [answer for answer in answers if answer.place in missing]
                store.add(new)
                advance(len(new))


@dataclass(frozen=True, kw_only=True)
class _Question:
    item: FewShotItem
    query: Query
    texts: tuple[str, ...]
    row: Row


class _Weigher:
    """Weighs questions that are read together, in any thread."""

    def __init__(self, queries: Queries, weighing: Weighing) -> None:
        self.queries, self.weighing = queries, weighing
        self.scores = Scores(queries.reader.pictures, queries.processor.pad_token_id)
        self.prior: dict[str, float] = {}
        self.blank: dict[Hashable, list[Likelihood]] = {}
        """Many questions are the same without their pictures."""
        self._opening = threading.Lock()  # data sets and tokenizers serve one at a time

    def question(self, item: FewShotItem) -> _Question | Answer:
        """What is read for a question, or the answer that says why it cannot be."""
        query, texts = self.queries.query(item), self._texts(item)
        found = self._row(query, texts)
        if isinstance(found, Row):
            return _Question(item=item, query=query, texts=texts, row=found)
        return Answer(place=item.test, prompt=query.prompt, text="", fault=found, demonstrations=item.demonstrations)

    def weigh(self, questions: Sequence[_Question]) -> list[Answer]:
        """What the model makes of these questions."""
        seen = self.scores([one.row for one in questions])
        controls = self._under_controls([one.item for one in questions])
        answers = []
        for place, (one, found) in enumerate(zip(questions, seen, strict=True)):
            logps = {SEEN: tuple(likelihood.logp for likelihood in found)}
            logps |= {name: tuple(x.logp for x in under[place]) for name, under in controls.items() if under[place]}
            if self.weighing.prior:
                logps[PRIOR] = tuple(self.prior[text] for text in one.texts)
            evidence = [logp - self.prior.get(text, 0.0) for logp, text in zip(logps[SEEN], one.texts, strict=True)]
            answers.append(
                Answer(
                    place=one.item.test,
                    prompt=one.query.prompt,
                    text=one.texts[evidence.index(max(evidence))],
                    demonstrations=one.item.demonstrations,
                    logps=logps,
                    tokens=tuple(likelihood.tokens for likelihood in found),
                )
            )
        return answers

    def weigh_prior(self, items: Sequence[FewShotItem]) -> None:
        """Mean log-probability of every given answer of the set behind its first questions."""
        if not self.weighing.prior:
            return
        texts = sorted({text for item in items for text in self._texts(item)})
        first = [self.queries.query(item) for item in items[: self.weighing.prior]]
        for start in range(0, len(texts), PRIOR_TEXTS):
            some = texts[start : start + PRIOR_TEXTS]
            rows = [found for query in first if isinstance(found := self._row(query, some), Row)]
            groups = [rows[place : place + PRIOR_TOGETHER] for place in range(0, len(rows), PRIOR_TOGETHER)]
            with one_thread_each(self.queries.reader.model) as workers:
                found = [one for group in workers.map(self.scores, groups) for one in group]
            self.prior |= {text: _mean([one[place].logp for one in found]) for place, text in enumerate(some)}

    def _under_controls(self, items: Sequence[FewShotItem]) -> dict[Control, list[list[Likelihood]]]:
        """By control; nothing for a question whose stand-in cannot be read. Demonstrations have no stand-ins."""
        if not isinstance(self.queries, ChatQueries):
            return {}
        under = {"blank": self._blank, "shuffled": self._shuffled}
        return {name: under[name](self.queries, items) for name in self.weighing.controls}

    def _shuffled(self, queries: ChatQueries, items: Sequence[FewShotItem]) -> list[list[Likelihood]]:
        with self._opening:
            rows = [self._row(queries.query(item, "shuffled"), self._texts(item, "shuffled")) for item in items]
        found = iter(self.scores([one for one in rows if isinstance(one, Row)]))
        return [next(found) if isinstance(one, Row) else [] for one in rows]

    def _blank(self, queries: ChatQueries, items: Sequence[FewShotItem]) -> list[list[Likelihood]]:
        """Each different question is read once, and by itself: so it does not matter who asks it first."""
        keys = []
        for item in items:
            with self._opening:
                texts = self._texts(item, "blank")
                key = queries.parts(item, "blank"), texts
                found = None if key in self.blank else self._row(queries.query(item, "blank"), texts)
            if found is not None:
                self.blank[key] = self.scores([found])[0] if isinstance(found, Row) else []
            keys.append(key)
        return [self.blank[key] for key in keys]

    def _texts(self, item: FewShotItem, control: Control | None = None) -> tuple[str, ...]:
        choose = self.weighing.candidates if control is None else self.weighing.controls[control]
        try:
            return tuple(choose(self.queries.docs[item.test]))
        except BAD_ROW:
            return ()  # a prompt without candidates is refused

    def _row(self, query: Query, texts: Sequence[str]) -> Row | str:
        """What is read, or why it cannot be."""
        if query.example is None:
            return query.fault
        try:
            return row(self.queries.processor, query.example, texts, end=self.weighing.end)
        except PromptTooLong as error:
            return f"too_long: {error}"
        except ValueError as error:
            return f"bad_record: {error}"


def _windows(queries: Queries, items: Sequence[FewShotItem]) -> Iterator[Sequence[FewShotItem]]:
    """Questions that are opened at a time; the same however many are done already."""
    first = queries.query(items[0]).example
    tiles = 1 if first is None else max(1, len(first.pixel_values))
    size = max(TOGETHER, TILES // tiles)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
