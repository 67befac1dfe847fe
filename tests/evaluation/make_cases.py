# ruff: noqa: RUF001 (the answers are meant to have look-alike characters)
"""Make further parity cases by running the references themselves. Not a test; see cases/generated/README.md.

    python -m pip download --no-deps lmms-eval==0.7.3 && unzip lmms_eval-0.7.3-*.whl -d WHEEL
    python tests/evaluation/make_cases.py WHEEL tests/evaluation/cases/generated

The wheel's modules are loaded one by one, without their packages' start-up code and with stand-ins for what they would
only need online (judges, data sets). Answers are drawn with a fixed seed from lists that are meant to be awkward.
"""

import argparse
import importlib.util
import json
import math
import random
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

LMMS_EVAL = "lmms-eval==0.7.3"
PYCOCOEVALCAP = "pycocoevalcap==1.2"
STAND_INS = ("openai", "requests", "sklearn", "sklearn.metrics", "evaluate", "sacrebleu", "pytz", "sqlitedict")

OPTION_SETS = (
    ("red", "dark red", "blue", "light blue"),
    ("1", "2", "10", "12"),
    ("Yes", "No"),
    ("The cat is on the mat.", "There is no cat.", "There are two cats."),
    ("A. A. Milne", "B. B. King", "C. S. Lewis", "D. H. Lawrence"),
    ("5 m", "15 m", "25 m", "50 m", "100 m"),
    ("perro", "gato", "pájaro", "pez"),
)
LETTER_ANSWERS = (
    *("{L}", "({L})", "{L}.", "{L})", "{L}:", " {L} ", "[{L}]", "**{L}**", "{l}", "({l})", "{l}.", '"{L}"', "'{L}'"),
    *("{L},", "{L}!", "{L}?", "#{L}", "-{L}-", "{L}{M}", "{L} {M}", "{L} or {M}", "({L}) or ({M})", "{L}, {M}"),
    *("{L}. {T}", "{L}) {T}", "({L}) {T}", "{L}: {T}", "{T}", "{T}.", "It is {T}.", "{T} ({L})", "{T} {U}"),
    *("The answer is {L}", "The answer is {L}.", "Answer: {L}", "answer is ({L})", "the best option is {L}"),
    *("The answer is not {L}. It is {M}", "The answer is surely not {L}", "I choose {L}", "option {L}", "Option {l}"),
    *("The correct answer is ({L}).", "Final answer: {L}", "Final Answer:\n({L})", "Answer: {L}. {T}", "答案是{L}"),
    *(
        "选{L}",
        "정답은 {L}",
        "答えは{L}です",
        "（{L}）",
        "{L}. {T}\n{M}. {U}",
        "{L}\n\nBecause of {T}.",
        "\n{L}",
        "Not {L}, but {M}",
    ),
    *(
        "I think it is {L} because {T} is seen in the middle of the picture",
        "A {T} is what I see here",
        "Apple",
        "VISA",
    ),
    *("Because of the shape one can rule out everything but ({L})", "{L} is right since nothing else would fit at all"),
    *(
        "First ({L}), then ({M})",
        "First {L}. Then {M}.",
        "I don't know",
        "None of the above",
        "",
        "   ",
        ".",
        "N/A",
        "E",
        "Z",
    ),
    *(
        "<think>It may be {M}.</think>{L}",
        "{M}</think> {L}",
        "<think>{L}",
        "<analysis>{M}</analysis>\n({L})",
        "<THINK>{L}",
    ),
    *(
        "Sorry, I can't help with images of people yet.",
        "Cannot determine the answer",
        "The answer is Cold",
        "answers: {L}",
    ),
)
YES_NO_ANSWERS = (
    *(
        "Yes",
        "No",
        "yes",
        "no",
        "Yes.",
        "No.",
        "YES",
        "NO!",
        "yes, it is",
        "No, there is none",
        "y",
        "n",
        "Y.",
        "y!",
        "N",
    ),
    *(
        "Yes and no",
        "Certainly yes",
        "I see no dog",
        "None at all",
        "Nothing",
        "Not sure",
        "Yessir",
        "nope",
        "true",
        " no",
    ),
    *(
        "Yes\n",
        "\tyes",
        "",
        ".",
        "y.e.s",
        "<think>no</think>Yes",
        "Yes</think>No",
        "It is a yes.",
        "No yes",
        "an eye",
        "ノー",
    ),
)
SHORT_ANSWERS = (
    *(
        "2",
        "two",
        "Two dogs",
        "2 dogs",
        "a dog",
        "the dog",
        "dog's",
        "dogs",
        "red-blue",
        "red/blue",
        "1,000",
        "1,2 red-blue",
    ),
    *(
        "3,4 pick-up",
        "4,,7",
        "7.25.",
        ".25",
        "mk3.",
        "a.m.",
        "$5.00",
        "50%",
        "10:30",
        "don't",
        "dont",
        "cant",
        "Im",
        "oclock",
    ),
    *(
        "yes!",
        '"yes"',
        "none",
        "None",
        "the",
        "a an the",
        "",
        " ",
        "t-shirt",
        "green,grey",
        "wendy's",
        "two's",
        "C++",
        "e-mail?",
    ),
    *(
        "hello_world",
        "x@y",
        "foo\nbar",
        "tab\there",
        "(2)",
        "[x]",
        "{y}",
        "a=b",
        "café",
        "日本",
        "St. Louis",
        "1.5.",
        "U.S.A.",
    ),
    *(
        "no.",
        ".....",
        "what?!",
        "rock 'n' roll",
        "yall'll",
        "ows'at",
        "somebody'd",
        "1 000",
        "½",
        "9,30 a.m.",
        "zero",
        "ten",
    ),
)
READ_ANSWERS = (
    *(
        "Paris",
        "paris ",
        " Paris",
        "PARIS",
        "Pari",
        "Londn",
        "London",
        "the answer is Paris",
        "12",
        "12.0",
        "12,0",
        "café",
    ),
    *(
        "cafe",
        "straße",
        "STRASSE",
        "R. J. Reynolds",
        "r.j. reynolds",
        "a  b",
        "a b",
        "",
        " ",
        "[1, 2]",
        "New\nYork",
        "New York",
    ),
)
NUMBER_ANSWERS = (
    *(
        "100",
        "105",
        "105.0001",
        "95",
        "94.9",
        "210",
        "200",
        "2.1",
        "2",
        "1.9",
        "0",
        "0.0",
        "0.00",
        "-5",
        "5",
        "5.25",
        "50%",
    ),
    *(
        "0.5",
        "50",
        "52%",
        "%",
        "5%%",
        "%50",
        "1e2",
        "2_500",
        "2500",
        "2,500",
        "９",
        "9",
        "infinity",
        "inf",
        "nan",
        "NaN",
        " 8 ",
    ),
    *(
        "8",
        "8.",
        "Yes",
        "yes ",
        "yes",
        "No",
        "dark blue",
        "Dark Blue",
        "3M",
        "€7",
        "0x10",
        "[1999, 2003]",
        "",
        "1/2",
        "January",
    ),
)
OPEN_ANSWERS = (
    *(
        "42",
        "The answer is 42.",
        "42.006",
        "about 42 cm",
        "2,300",
        "1/2",
        "0.5",
        "-3",
        "1e3",
        "1.5e-3",
        "x = 5",
        "x = 5\ny = 6",
    ),
    *(
        "so it is 7",
        "It is 7. So the result is 8",
        "Therefore final answer 9",
        "The capital is Paris, France",
        "Paris",
        "π",
        "B",
    ),
    *(
        "is",
        "so ",
        "the answer is :",
        "could be 3 or 4",
        "1,234,567.89",
        ".5",
        "5.",
        "nan",
        "inf",
        "",
        "...",
        "24cm",
        "Option B",
    ),
    *(
        "thus x\nhence y\nresult 12",
        "answer \nis 5",
        "The answer is 日本。",
        "=",
        "a = b = c",
        "12,34",
        "1,000 and 2000",
    ),
)
CATEGORIES = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

Case = dict[str, Any]


class Reference:
    """An unpacked wheel of lmms-eval, whose modules are loaded without their packages."""

    def __init__(self, root: Path) -> None:
        self.root = root / "lmms_eval"
        if not (self.root / "tasks").is_dir():
            raise ValueError(f"{root} has no lmms_eval/tasks: unpack the wheel of lmms-eval there")
        for name in STAND_INS:
            with suppress(ImportError):
                importlib.import_module(name)
                continue
            sys.modules[name] = MagicMock()
        for name in ("lmms_eval", "lmms_eval.tasks", "lmms_eval.api", "lmms_eval.filters"):
            self._package(name)
        for name in ("lmms_eval.llm_judge", "lmms_eval.verifiers", "lmms_eval.verifiers.openai"):
            sys.modules[name] = MagicMock()

    def _package(self, name: str) -> None:
        module = types.ModuleType(name)
        module.__path__ = [str(self.root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module

    def module(self, path: str) -> Any:
        """The module at a path such as "tasks/mme/utils"."""
        name = "lmms_eval." + path.replace("/", ".")
        if name not in sys.modules:
            parent = name.rpartition(".")[0]
            if parent not in sys.modules:
                self._package(parent)
            spec = importlib.util.spec_from_file_location(name, self.root / f"{path}.py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        return sys.modules[name]

    def task(self, name: str, module: str = "utils") -> Any:
        """A task's module."""
        return self.module(f"tasks/{name}/{module}")

    def cleaned(self, answer: str) -> str:
        """What the harness passes to a scorer: without reasoning blocks, stripped."""
        pairs = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]
        return self.module("api/reasoning").strip_reasoning_tags(answer, pairs)


class Maker:
    """Draws cases and asks the reference; one method per scorer gives (inputs, expected) pairs and a set's outcome."""

    def __init__(self, reference: Reference, seed: int) -> None:
        self.reference = reference
        self.rng = random.Random(seed)

    def options(self, at_most: int = 8) -> list[str]:
        return list(self.rng.choice([options for options in OPTION_SETS if len(options) <= at_most]))

    def letter_answer(self, options: Sequence[str]) -> str:
        first, second = self.rng.choices(range(len(options)), k=2)
        letters, form = "ABCDEFGH", self.rng.choice(LETTER_ANSWERS)
        for mark, value in {
            "{L}": letters[first],
            "{l}": letters[first].lower(),
            "{M}": letters[second],
            "{T}": options[first],
            "{U}": options[second],
        }.items():
            form = form.replace(mark, value)
        return form

    def asked(self, answer: str) -> list[str]:
        return [self.reference.cleaned(answer)]

    # -- options --

    def mcq_extract_lmms(self) -> tuple[Case, Case]:
        options = self.options()
        choices = self.rng.choice([None, list("ABCDEFGH")[: len(options)]])
        answer = self.letter_answer(options)
        extract = self.reference.module("tasks/_task_utils/mcq_extract").extract_mcq_answer
        return {"prediction": answer, "choices": choices}, {"letter": extract(answer, choices)}

    def mmmu_mcq(self) -> tuple[Case, Case]:
        options = self.options()
        answer, gold = self.letter_answer(options), self.rng.choice("ABCDE"[: len(options)])
        letter = self._mmmu_letter(
            answer, options, "tasks/_task_utils/mmmu_mcq_utils", "parse_mmmu_multi_choice_response"
        )
        letters = list("ABCDEFGH"[: len(options)])
        expected = {"parsed": letter, "correct": None if letter is None else letter == gold}
        if letter is None:
            expected["random_choice_among"] = letters
        return {"prediction": answer, "options": options, "gold": gold}, expected

    def _mmmu_letter(self, answer: str, options: Sequence[str], path: str, name: str) -> str | None:
        """The parser's letter; nothing where it would draw one."""
        module = self.reference.module(path)
        letters = list("ABCDEFGH"[: len(options)])
        original = module.random.choice
        module.random.choice = lambda _: None
        try:
            return getattr(module, name)(
                self.reference.cleaned(answer), letters, dict(zip(letters, options, strict=True))
            )
        finally:
            module.random.choice = original

    def qbench2(self) -> tuple[Case, Case]:
        options = self.options(at_most=4)
        answer = self.letter_answer(options)
        letter = self._mmmu_letter(answer, options, "tasks/qbench/utils", "parse_multi_choice_response")
        gold = self.rng.choice("ABCD"[: len(options)])
        case = {
            "id": self.rng.randrange(1000),
            "question": "Which one?",
            **{f"option{place}": (options + ["N/A"] * 4)[place] for place in range(4)},
            "question_type": self.rng.randrange(3),
            "question_concern": self.rng.randrange(4),
            "correct_choice": gold,
            "prediction": answer,
        }
        correct = None if letter is None else letter == gold
        return case, {"parsed": letter, "random_choice": letter is None, "correct": correct}

    def blink(self) -> tuple[Case, Case]:
        case = self._bracketed("sub_task", ("Counting", "Jigsaw", "IQ_Test"))
        result = self.reference.task("blink").blink_process_results(case, self.asked(case["prediction"]))["blink_acc"]
        return case, {"parsed": result["pred_parsed"], "correct": result["is_correct"]}

    def cv_bench(self) -> tuple[Case, Case]:
        case = self._bracketed("task", ("Count", "Relation"))
        case |= {"type": "2D", "source": self.rng.choice(["ADE20K", "COCO"])}
        if self.rng.random() < 0.4:
            case |= {"type": "3D", "source": "Omni3D", "task": self.rng.choice(["Depth", "Distance"])}
        result = self.reference.task("cv_bench").cv_bench_process_results(case, self.asked(case["prediction"]))
        return case, {"parsed": result["cv_bench_acc"]["pred_parsed"], "correct": result["cv_bench_acc"]["is_correct"]}

    def _bracketed(self, column: str, names: Sequence[str]) -> Case:
        options = self.options()
        return {
            "idx": str(self.rng.randrange(1000)),
            column: self.rng.choice(names),
            "question": "Which one?",
            "choices": options,
            "prompt": "Which one?",
            "answer": f"({self.rng.choice('ABCDE'[: len(options)])})",
            "prediction": self.letter_answer(options),
        }

    def mantis(self) -> tuple[Case, Case]:
        form = self.rng.choice(["{}. {}", "({}) {}", "{}: {}", "{1}"])
        options = self.options()
        shown = [form.format(letter, option) for letter, option in zip("ABCDE", options, strict=False)]
        gold = self.rng.choice("ABCDE"[: len(options)])
        case = {
            "id": "m",
            "question_type": "multi-choice",
            "question": "Which one?",
            "options": shown,
            "answer": self.rng.choice([gold, f"({gold})"]),
            "prediction": self.letter_answer(options),
        }
        if self.rng.random() < 0.25:
            answers = ("4", "Final answer: 4", "The answer is 4.", "yes", "Answer: Yes", "")
            case |= {"question_type": "short-answer", "options": [], "prediction": self.rng.choice(answers)}
            case["answer"] = self.rng.choice(["4", "Yes"])
        result = self.reference.task("mantis").mantis_process_results(case, self.asked(case["prediction"]))[
            "mantis_score"
        ]
        return case, {"parsed": result["pred_answer"], "correct": result["correct"]}

    def mmstar(self) -> tuple[Case, Case]:
        options = self.options(at_most=4)
        case = {
            "index": self.rng.randrange(1000),
            "question": "Which one?",
            "options": options,
            "answer": self.rng.choice("ABCD"[: len(options)]),
            "category": "math",
            "l2_category": self.rng.choice(["geometry", "statistical reasoning"]),
            "prediction": self.letter_answer(options),
        }
        result = self.reference.task("mmstar").mmstar_process_results(case, self.asked(case["prediction"]))
        return case, {"score": result["average"]["score"]}

    def realworldqa(self) -> tuple[Case, Case]:
        options = self.options(at_most=4)
        lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
        case = {
            "question": f"Which one?\n{lines}\nPlease answer directly with only the letter.",
            "answer": self.rng.choice("ABCD"[: len(options)]),
            "prediction": self.letter_answer(options),
        }
        if self.rng.random() < 0.3:
            golds = ("2", "Yes", "no", "red")
            case = {"question": "How many?\nPlease answer with a single word.", "answer": self.rng.choice(golds)}
            case["prediction"] = self.rng.choice(["2", "two", "2.", "yes", "No.", "red ", "Red!"])
        return case, self.reference.task("realworldqa").realworldqa_process_results(
            case, self.asked(case["prediction"])
        )

    def seedbench(self) -> tuple[Case, Case]:
        options = self.options(at_most=4)
        case = {
            "question_id": "0",
            "question": "Which one?",
            **{f"choice_{letter}": option for letter, option in zip("abcd", options + ["-"] * 4, strict=False)},
            "answer": self.rng.choice("ABCD"[: len(options)]),
            "data_type": self.rng.choice(["image", "video"]),
            "question_type_id": self.rng.randint(1, 12),
            "prediction": self.letter_answer(options),
        }
        module = self.reference.task("seedbench")
        entry = module.seed_process_result(case, self.asked(case["prediction"]))["seed_all"]
        return case, {"parsed": entry["pred"], "correct": module.seed_aggregation_result([entry]) == 1}

    def scienceqa(self) -> tuple[Case, Case]:
        options = self.options()
        case = {
            "question": "Which one?",
            "choices": options,
            "answer": self.rng.randrange(len(options)),
            "hint": "",
            "prediction": self.letter_answer(options),
        }
        return case, self.reference.task("scienceqa").sqa_process_results(case, self.asked(case["prediction"]))

    def mmbench_circular(self) -> tuple[Case, Case]:
        options = self.options(at_most=4)
        case = {
            "index": self.rng.randrange(1000),
            "question": "Which one?",
            **dict.fromkeys("ABCD"),
            **dict(zip("ABCD", options, strict=False)),
            "answer": self.rng.choice("ABCD"[: len(options)]),
            "category": "c",
            "L2-category": "logic_reasoning",
            "split": "dev",
            "prediction": self.letter_answer(options),
        }
        evaluator = self.reference.task("mmbench", "mmbench_evals").MMBench_Evaluator()
        item = {**case, "prediction": self.reference.cleaned(case["prediction"])}
        return case, {"prefetch": evaluator.prefetch_answer(item) or None}

    # -- yes and no --

    def mme(self) -> tuple[Case, Case]:
        case = {
            "question_id": "x.png",
            "category": self.rng.choice(CATEGORIES + COGNITION),
            "question": "Is it?",
            "answer": self.rng.choice(["Yes", "No"]),
            "prediction": self.rng.choice(YES_NO_ANSWERS),
        }
        module, answer = self.reference.task("mme"), self.asked(case["prediction"])
        name, result = next(iter(module.mme_process_results(case, answer).items()))
        group = "perception" if name == "mme_perception_score" else "cognition"
        return case, {"parsed": module.parse_pred_ans(answer[0]), "score": result["score"], "group": group}

    def pope(self) -> tuple[Case, Case]:
        case = {
            "id": "0",
            "question_id": "1",
            "question": "Is there a dog?",
            "answer": self.rng.choice(["yes", "no"]),
            "category": self.rng.choice(["adversarial", "popular", "random"]),
            "prediction": self.rng.choice(YES_NO_ANSWERS),
        }
        result = self.reference.task("pope").pope_process_results(case, self.asked(case["prediction"]))["pope_accuracy"]
        return case, {"parsed": result["prediction"], "score": result["score"]}

    # -- free answers --

    def vqa_normalize(self) -> tuple[Case, Case]:
        text = " ".join(self.rng.choices(SHORT_ANSWERS, k=self.rng.choice([1, 1, 2, 3])))
        processor = self.reference.module("tasks/_task_utils/vqa_eval_metric").EvalAIAnswerProcessor()
        plain = text.replace("\n", " ").replace("\t", " ").strip()
        chain = processor.process_digit_article(processor.process_punctuation(plain))
        return {"text": text}, {"evalai_call": processor(text), "vqav2_chain": chain}

    def vqa_accuracy(self) -> tuple[Case, Case]:
        pool = self.rng.sample(SHORT_ANSWERS, 3)
        count = self.rng.choice([10, 10, 10, 5, 1])
        case = {
            "question": "What is it?",
            "question_type": self.rng.choice(["how many", "why"]),
            "answer_type": self.rng.choice(["yes/no", "number", "other"]),
            "answers": self.rng.choices(pool, weights=(5, 3, 1), k=count),
            "prediction": self.rng.choice([*pool, pool[0], self.rng.choice(SHORT_ANSWERS)]),
        }
        answer, expected = self.asked(case["prediction"]), {}
        golds = [{"answer": gold, "answer_id": place} for place, gold in enumerate(case["answers"])]
        result = self.reference.task("vqav2").vqav2_process_results({"answers": golds, "question_id": 1}, answer)
        expected["vqav2"] = {"score": result["exact_match"], "parsed": result["submission"]["answer"]}
        for name in ("textvqa", "ok_vqa", "vizwiz_vqa"):
            score = getattr(self.reference.task(name), f"{name}_process_results")
            result = score({"answers": list(case["answers"]), "question_id": 1}, answer)
            expected[name] = {"score": result["exact_match"], "parsed": result["submission"]["answer"]}
        return case, expected

    def chartqa_relaxed(self) -> tuple[Case, Case]:
        case = {
            "prediction": self.rng.choice(NUMBER_ANSWERS),
            "answer": self.rng.choice(NUMBER_ANSWERS),
            "type": self.rng.choice(["human_test", "augmented_test"]),
        }
        return case, self.reference.task("chartqa").chartqa_process_results(case, self.asked(case["prediction"]))

    def anls(self) -> tuple[Case, Case]:
        case = {
            "prediction": self.rng.choice(READ_ANSWERS),
            "answers": self.rng.sample(READ_ANSWERS, self.rng.choice([1, 1, 2, 3])),
        }
        score = self.reference.module("api/metrics").anls
        raw = score(case["answers"], [case["prediction"]])["anls"]
        harness = score(case["answers"], self.asked(case["prediction"]))["anls"]
        return case, {"function": raw, "harness": harness}

    def exact_match(self) -> tuple[Case, Case]:
        case = {"prediction": self.rng.choice(SHORT_ANSWERS), "answer": self.rng.choice(SHORT_ANSWERS)}
        if self.rng.random() < 0.5:
            case["answer"] = case["prediction"].upper() + self.rng.choice(["", "!", " "])
        score = self.reference.module("api/metrics").exact_match_hf_evaluate
        answer = self.asked(case["prediction"])
        result = score(answer, [case["answer"]], ignore_case=True, ignore_punctuation=True)
        return case, {"exact_match": float(result["exact_match"])}

    def ocrbench(self) -> tuple[Case, Case]:
        formula = self.rng.random() < 0.4
        pool = ("y=2x", "y = 2x", "Y=2X", "\\sqrt {2}", "\\sqrt{2}", "x\n+1", "") if formula else READ_ANSWERS
        wide = ("ＭＡＩＮ", "main", "Main street", "ａ\u3000b", "a b")
        pool = pool if formula else pool + wide
        case = {
            "dataset": "HME100k" if formula else "IIIT5K",
            "question_type": "Handwritten Mathematical Expression Recognition"
            if formula
            else "Regular Text Recognition",
            "question": "what is written in the image?",
            "answer": self.rng.sample(pool, self.rng.choice([1, 2])),
            "prediction": self.rng.choice([*pool, f"It says {self.rng.choice(pool)}."]),
        }
        result = self.reference.task("ocrbench").ocrbench_process_results(case, self.asked(case["prediction"]))
        return case, {"score": result["ocrbench_accuracy"]["score"]}

    def mmmu_open(self) -> tuple[Case, Case]:
        case = {"prediction": self.rng.choice(OPEN_ANSWERS), "gold": self.rng.choice(OPEN_ANSWERS)}
        if self.rng.random() < 0.4:
            case["gold"] = case["prediction"].split(" ")[-1]
        module = self.reference.task("mmmu")
        parsed = module.parse_open_response(self.asked(case["prediction"])[0])
        numbers = sorted(value for value in parsed if isinstance(value, float) and not math.isnan(value))
        missing = ["NaN" for value in parsed if isinstance(value, float) and math.isnan(value)]
        texts = sorted(value for value in parsed if isinstance(value, str))
        return case, {"parsed_set": numbers + missing + texts, "correct": module.eval_open(case["gold"], parsed)}

    def mathvista_normalize(self) -> tuple[Case, Case]:
        kind = self.rng.choice(["text", "integer", "float", "list"])
        choices = self.rng.choice([["cat", "car", "cart"], ["50°", "60°"], ["Yes", "No"]]) if kind == "text" else None
        values = (
            "14",
            "14.0",
            "1.455",
            "(c)",
            "B",
            "b",
            "(A) cat",
            "carr",
            " 6e-1 ",
            "",
            "nan",
            "inf",
            "[1, 2]",
            "yes",
            "-3",
        )
        case = {
            "question_type": "multi_choice" if choices else "free_form",
            "answer_type": kind,
            "choices": choices,
            "answer": choices[1] if choices else "14",
            "precision": {"float": self.rng.choice([1, 2, 2.0])}.get(kind),
            "extraction": self.rng.choice(values),
        }
        evaluator = self.reference.task("mathvista", "mathvista_evals").MathVistaEvaluator()
        normalized = evaluator.normalize_extracted_answer(
            case["extraction"], choices, case["question_type"], kind, case["precision"]
        )
        return case, {"normalized": normalized, "correct": evaluator.safe_equal(normalized, case["answer"])}


SET_OUTCOMES: dict[str, Callable[[Maker, Sequence[Case]], Case]] = {}
"""Outcomes of whole sets, by scorer."""


def outcome(
    scorer: str,
) -> Callable[[Callable[[Maker, Sequence[Case]], Case]], Callable[[Maker, Sequence[Case]], Case]]:
    """Enter a function as the one that asks the reference for a set's numbers."""

    def enter(function: Callable[[Maker, Sequence[Case]], Case]) -> Callable[[Maker, Sequence[Case]], Case]:
        SET_OUTCOMES[scorer] = function
        return function

    return enter


@outcome("pope")
def pope_set(maker: Maker, cases: Sequence[Case]) -> Case:
    """All five numbers of POPE."""
    module = maker.reference.task("pope")
    results = [module.pope_process_results(case, maker.asked(case["prediction"]))["pope_accuracy"] for case in cases]
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    return {f"pope_{name}": getattr(module, f"pope_aggregate_{name}")(results) for name in names}


@outcome("mmstar")
def mmstar_set(maker: Maker, cases: Sequence[Case]) -> Case:
    """The mean over second-level categories."""
    module = maker.reference.task("mmstar")
    results = [module.mmstar_process_results(case, maker.asked(case["prediction"]))["average"] for case in cases]
    return {"average": module.mmstar_aggregate_results(results)}


@outcome("cv_bench")
def cv_bench_set(maker: Maker, cases: Sequence[Case]) -> Case:
    """Plain and weighted by source."""
    module = maker.reference.task("cv_bench")
    results = [module.cv_bench_process_results(case, maker.asked(case["prediction"]))["cv_bench_acc"] for case in cases]
    return {
        "cv_bench_acc": module.cv_bench_aggregate_results(results),
        "cv_bench_source_weighted": module.cv_bench_default_aggregate_results(results),
    }


@outcome("blink")
def blink_set(maker: Maker, cases: Sequence[Case]) -> Case:
    """Accuracy over all tasks."""
    module = maker.reference.task("blink")
    results = [module.blink_process_results(case, maker.asked(case["prediction"]))["blink_acc"] for case in cases]
    return {"blink_acc_micro": module.blink_aggregate_results(results)}


@outcome("mantis")
def mantis_set(maker: Maker, cases: Sequence[Case]) -> Case:
    """Accuracy."""
    module = maker.reference.task("mantis")
    results = [module.mantis_process_results(case, maker.asked(case["prediction"]))["mantis_score"] for case in cases]
    return {"mantis_score": module.mantis_aggregation(results)}


def caption_cases(rng: random.Random) -> Iterator[tuple[Case, Case]]:
    """Lines for the Java tokeniser, from words and marks that its rules treat specially."""
    words = (
        *(
            "a",
            "dog's",
            "don't",
            "it's",
            "U.S.",
            "St.",
            "no.",
            "plan B.",
            "etc.",
            "and/or",
            "t-shirt",
            "50's",
            "'90s",
            "1/2",
        ),
        *(
            "(blue)",
            '"Stop"',
            "'go'",
            "cannot",
            "gonna",
            "5'10\"",
            "10:30",
            "a.m.",
            "$5",
            "£5",
            "½",
            "#1",
            "@home",
            "AT&T",
        ),
        *(
            "...",
            "--",
            "—",
            "well-known",
            "man's",
            "ladies'",
            "y'all",
            "o'clock",
            "O'Brien",
            "C++",
            "www.site.com",
            "<b>",
            ":)",
        ),
        *(
            "The",
            "A",
            "In",
            "cat,",
            "street.",
            "end!",
            "what?",
            "“curly”",
            "‘tis",
            "café",
            "日本",
            "1,000",
            "3.5",
            "555-1212",
        ),
    )
    for _ in range(150):
        line = rng.choice([" ", " ", "  ", ""]).join(rng.choices(words, k=rng.randint(1, 7)))
        yield {"text": line}, {}


def java_tokens(lines: Sequence[str]) -> list[str]:
    """What pycocoevalcap's tokeniser makes of lines in the middle of a file."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # A word that no rule knows between the lines, because some rules look at how the next line begins.
    parted = [text for line in lines for text in (line, "dog")]
    captions = {place: [{"caption": text}] for place, text in enumerate(parted)}
    tokenized = PTBTokenizer().tokenize(captions)
    return [tokenized[2 * place][0] for place in range(len(lines))]


def records(scorer: str, reference: str, pairs: Sequence[tuple[Case, Case]]) -> list[dict[str, Any]]:
    """Cases in the format of the parity data."""
    return [
        {
            "type": "case",
            "id": f"{scorer}-g{place:03d}",
            "scorer": scorer,
            "tags": ["generated"],
            "input": case,
            "expected": {reference: expected},
        }
        for place, (case, expected) in enumerate(pairs)
    ]


def write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def drawn(make: Callable[[], tuple[Case, Case]], count: int) -> list[tuple[Case, Case]]:
    """So many different cases; one whose reference throws is left out."""
    pairs: dict[str, tuple[Case, Case]] = {}
    for _ in range(20 * count):
        with suppress(TypeError, ValueError, AssertionError, ZeroDivisionError, OverflowError):
            case, expected = make()
            pairs.setdefault(json.dumps(case, sort_keys=True), (case, expected))
        if len(pairs) == count:
            break
    return list(pairs.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a file of cases per scorer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="folder with the unpacked wheel of lmms-eval 0.7.3")
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=40, help="cases per scorer")
    parser.add_argument("--seed", type=int, default=20261122)
    options = parser.parse_args(arguments)
    maker = Maker(Reference(options.wheel), options.seed)
    names = [
        name for name in vars(Maker) if not name.startswith("_") and name not in ("options", "letter_answer", "asked")
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    for name in names:
        pairs = drawn(getattr(maker, name), options.count)
        lines = records(name, LMMS_EVAL, pairs)
        if name in SET_OUTCOMES:
            expected = SET_OUTCOMES[name](maker, [case for case, _ in pairs])
            ids = [line["id"] for line in lines]
            head = {"type": "aggregate", "id": f"{name}-generated-agg-all", "scorer": name, "case_ids": ids}
            lines.append({**head, "expected": {LMMS_EVAL: expected}})
        write(options.output / f"{name}.jsonl", lines)
    lines = [case for case, _ in caption_cases(random.Random(options.seed))]
    tokenized = java_tokens([line["text"] for line in lines])
    pairs = [(line, {"tokenized": tokens}) for line, tokens in zip(lines, tokenized, strict=True)]
    write(options.output / "ptb_tokenize.jsonl", records("ptb_tokenize", PYCOCOEVALCAP, pairs))


if __name__ == "__main__":
    main()
