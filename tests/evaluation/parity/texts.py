"""Awkward answers, as forms to fill and as noise; drawn with a fixed seed. Knows no scorer."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

AWKWARD: dict[str, list] = json.loads(Path(__file__).with_name("awkward.json").read_text(encoding="utf-8"))


class Texts:
    """Draws texts."""

    def __init__(self, rng: random.Random, *, noisy: bool) -> None:
        """Begin.

        Args:
            rng: Where draws come from.
            noisy: Change what is drawn at random places, or draw nothing but noise, now and then.
        """
        self.rng, self.noisy = rng, noisy

    def of(self, texts: Sequence[str]) -> str:
        """One of some texts."""
        text = self.rng.choice(texts)
        if not self.noisy:
            return text
        chance = self.rng.random()
        if chance < 0.1:
            return self.noise()
        if chance < 0.3:
            return text + self.rng.choice([" ", ", ", "-", "", "/", "\n"]) + self.rng.choice(texts)
        return self.changed(text)

    def options(self, at_most: int = 8) -> list[str]:
        """Texts of a question's options."""
        return list(self.rng.choice([options for options in AWKWARD["option_sets"] if len(options) <= at_most]))

    def letter_answer(self, options: Sequence[str]) -> str:
        """An answer that names an option, or seems to."""
        first, second = self.rng.choices(range(len(options)), k=2)
        form = self.rng.choice(AWKWARD["letter_forms"])
        letters = "ABCDEFGH"
        marks = {"{L}": letters[first], "{l}": letters[first].lower(), "{M}": letters[second]}
        for mark, value in {**marks, "{T}": options[first], "{U}": options[second]}.items():
            form = form.replace(mark, value)
        if not self.noisy:
            return form
        if self.rng.random() < 0.15:
            return self.noise()
        return self.changed(form * (50 if self.rng.random() < 0.02 else 1))

    def noise(self) -> str:
        """Anything."""
        return "".join(self.rng.choices(AWKWARD["noise"], k=self.rng.choice([0, 1, 2, 3, 5, 8, 15, 40])))

    def changed(self, text: str) -> str:
        """A text with a few changes, often none."""
        for _ in range(self.rng.choice([0, 0, 0, 1, 1, 2, 3, 6])):
            place = self.rng.randrange(len(text) + 1)
            kind = self.rng.randrange(4)
            if kind == 0:
                text = text[:place] + self.rng.choice(AWKWARD["noise"]) + text[place:]
            elif kind == 1:
                text = text[:place] + text[place + 1 :]
            elif kind == 2:
                text = self.rng.choice([text.lower(), text.upper(), text.title(), text.swapcase()])
            else:
                text = self.rng.choice(["", "  ", "\n", "\t"]) + text + self.rng.choice(["", " ", "\n", ".", "。", "!"])
        return text
