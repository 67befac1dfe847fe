"""Inputs of cases, by scorer. Knows no reference."""

import random
from collections.abc import Callable
from typing import Any

from texts import AWKWARD, Texts

Case = dict[str, Any]
LETTERS = "ABCDEFGH"
PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
OCR_TYPES = (
    *("Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition"),
    *("Digit String Recognition", "Non-Semantic Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA"),
    "Key Information Extraction",
)
FORMULA = "Handwritten Mathematical Expression Recognition"
SUBJECTS = ("Art", "Art_Theory", "Design", "Accounting", "Math", "Physics", "Computer_Science", "Energy_and_Power")


class Drawing:
    """One method per scorer gives the inputs of a case."""

    def __init__(self, seed: int, *, noisy: bool) -> None:
        self.rng = random.Random(seed)
        self.texts = Texts(self.rng, noisy=noisy)

    def __call__(self, scorer: str) -> Case:
        draw: Callable[[], Case] = getattr(self, scorer)
        return draw()

    def _gold(self, options: list[str]) -> str:
        return self.rng.choice(LETTERS[: len(options)])

    def _number(self) -> int:
        return self.rng.randrange(1000)

    # -- options --

    def mcq_extract_lmms(self) -> Case:
        options = self.texts.options()
        choices = self.rng.choice([None, list(LETTERS[: len(options)])])
        return {"prediction": self.texts.letter_answer(options), "choices": choices}

    def mmmu_mcq(self) -> Case:
        options = self.texts.options()
        return {"prediction": self.texts.letter_answer(options), "options": options, "gold": self._gold(options)}

    def qbench2(self) -> Case:
        options = self.texts.options(at_most=4)
        return {
            "id": self._number(),
            "question": "Which one?",
            **{f"option{place}": (options + ["N/A"] * 4)[place] for place in range(4)},
            "question_type": self.rng.randrange(3),
            "question_concern": self.rng.randrange(4),
            "correct_choice": self._gold(options),
            "prediction": self.texts.letter_answer(options),
        }

    def blink(self) -> Case:
        return self._bracketed() | {"sub_task": self.rng.choice(["Counting", "Jigsaw", "IQ_Test"])}

    def cv_bench(self) -> Case:
        case = self._bracketed()
        if self.rng.random() < 0.4:
            return case | {"type": "3D", "source": "Omni3D", "task": self.rng.choice(["Depth", "Distance"])}
        kind = {"type": "2D", "source": self.rng.choice(["ADE20K", "COCO"])}
        return case | kind | {"task": self.rng.choice(["Count", "Relation"])}

    def _bracketed(self) -> Case:
        options = self.texts.options()
        return {
            "idx": str(self._number()),
            "question": "Which one?",
            "choices": options,
            "prompt": "Which one?",
            "answer": f"({self._gold(options)})",
            "prediction": self.texts.letter_answer(options),
        }

    def mantis(self) -> Case:
        form = self.rng.choice(["{}. {}", "({}) {}", "{}: {}", "{1}"])
        options = self.texts.options()
        gold = self._gold(options)
        case = {
            "id": "m",
            "question_type": "multi-choice",
            "question": "Which one?",
            "options": [form.format(letter, option) for letter, option in zip(LETTERS, options, strict=False)],
            "answer": self.rng.choice([gold, f"({gold})"]),
            "prediction": self.texts.letter_answer(options),
        }
        if self.rng.random() < 0.25:
            answers = ("4", "Final answer: 4", "The answer is 4.", "yes", "Answer: Yes", "")
            case |= {"question_type": "short-answer", "options": [], "prediction": self.texts.of(answers)}
            case["answer"] = self.rng.choice(["4", "Yes"])
        return case

    def mmstar(self) -> Case:
        options = self.texts.options(at_most=4)
        return {
            "index": self._number(),
            "question": "Which one?",
            "options": options,
            "answer": self._gold(options),
            "category": self.rng.choice(["math", "logical reasoning"]),
            "l2_category": self.rng.choice(["geometry", "statistical reasoning"]),
            "prediction": self.texts.letter_answer(options),
        }

    def realworldqa(self) -> Case:
        if self.rng.random() < 0.3:
            answers = ("2", "two", "2.", "yes", "No.", "red ", "Red!")
            return {
                "question": "How many?\nPlease answer with a single word.",
                "answer": self.rng.choice(["2", "Yes", "no", "red"]),
                "prediction": self.texts.of(answers),
            }
        options = self.texts.options(at_most=4)
        lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        return {
            "question": f"Which one?\n{lines}\nPlease answer directly with only the letter.",
            "answer": self._gold(options),
            "prediction": self.texts.letter_answer(options),
        }

    def seedbench(self) -> Case:
        options = self.texts.options(at_most=4)
        return {
            "question_id": "0",
            "question": "Which one?",
            **{f"choice_{letter}": option for letter, option in zip("abcd", options + ["-"] * 4, strict=False)},
            "answer": self._gold(options),
            "data_type": self.rng.choice(["image", "video"]),
            "question_type_id": self.rng.randint(1, 12),
            "prediction": self.texts.letter_answer(options),
        }

    def scienceqa(self) -> Case:
        options = self.texts.options()
        return {
            "question": "Which one?",
            "choices": options,
            "answer": self.rng.randrange(len(options)),
            "hint": "",
            "prediction": self.texts.letter_answer(options),
        }

    def ai2d(self) -> Case:
        options = self.texts.options()
        return {
            "question": "Which one?",
            "options": options,
            "answer": str(self.rng.randrange(len(options))),
            "prediction": self.texts.letter_answer(options),
        }

    def mmbench_circular(self) -> Case:
        options = self.texts.options(at_most=4)
        return {
            "index": self._number(),
            "question": "Which one?",
            **dict.fromkeys("ABCD"),
            **dict(zip("ABCD", options, strict=False)),
            "answer": self._gold(options),
            "category": self.rng.choice(["identity", "scene"]),
            "L2-category": self.rng.choice(["logic_reasoning", "coarse_perception"]),
            "split": "dev",
            "prediction": self.texts.letter_answer(options),
        }

    # -- yes and no --

    def mme(self) -> Case:
        return {
            "question_id": "x.png",
            "category": self.rng.choice(PERCEPTION + COGNITION),
            "question": "Is it?",
            "answer": self.rng.choice(["Yes", "No"]),
            "prediction": self.texts.of(AWKWARD["yes_no"]),
        }

    def pope(self) -> Case:
        return {
            "id": "0",
            "question_id": "1",
            "question": "Is there a dog?",
            "answer": self.rng.choice(["yes", "no"]),
            "category": self.rng.choice(["adversarial", "popular", "random"]),
            "prediction": self.texts.of(AWKWARD["yes_no"]),
        }

    def hallusion(self) -> Case:
        category = self.rng.choice(["VD", "VS"])
        figure = self.rng.choice("012")
        return {
            "category": category,
            "subcategory": self.rng.choice(["map", "chart"]),
            "visual_input": "0" if category == "VS" and figure == "0" else self.rng.choice("12"),
            "set_id": self.rng.choice("01"),
            "figure_id": figure,
            "question_id": self.rng.choice("01"),
            "question": "Is it?",
            "gt_answer": self.rng.choice("01"),
            "gt_answer_details": "...",
            "prediction": self.texts.of(AWKWARD["yes_no"]),
            "judge": self.rng.choice("012"),
        }

    # -- free answers --

    def vqa_normalize(self) -> Case:
        return {"text": " ".join(self.texts.of(AWKWARD["short"]) for _ in range(self.rng.choice([1, 1, 2, 3])))}

    def vqa_accuracy(self) -> Case:
        pool = self.rng.sample(AWKWARD["short"], 3)
        return {
            "question": "What is it?",
            "question_type": self.rng.choice(["how many", "why"]),
            "answer_type": self.rng.choice(["yes/no", "number", "other"]),
            "answers": self.rng.choices(pool, weights=(5, 3, 1), k=self.rng.choice([10, 10, 10, 5, 1])),
            "prediction": self.texts.of([*pool, pool[0], self.rng.choice(AWKWARD["short"])]),
        }

    def chartqa_relaxed(self) -> Case:
        kind = self.rng.choice(["human_test", "augmented_test"])
        return {
            "prediction": self.texts.of(AWKWARD["numbers"]),
            "answer": self.rng.choice(AWKWARD["numbers"]),
            "type": kind,
        }

    def anls(self) -> Case:
        return {
            "prediction": self.texts.of(AWKWARD["read"]),
            "answers": self.rng.sample(AWKWARD["read"], self.rng.choice([1, 1, 2, 3])),
        }

    def exact_match(self) -> Case:
        case = {"prediction": self.texts.of(AWKWARD["short"]), "answer": self.rng.choice(AWKWARD["short"])}
        if self.rng.random() < 0.5:
            case["answer"] = case["prediction"].upper() + self.rng.choice(["", "!", " "])
        return case

    def ocrbench(self) -> Case:
        formula = self.rng.random() < 0.4
        pool = AWKWARD["formulas"] if formula else AWKWARD["read"] + AWKWARD["wide"]
        return {
            "dataset": "HME100k" if formula else "IIIT5K",
            "question_type": FORMULA if formula else self.rng.choice(OCR_TYPES),
            "question": "what is written in the image?",
            "answer": self.rng.sample(pool, self.rng.choice([1, 2])),
            "prediction": self.texts.of([*pool, f"It says {self.rng.choice(pool)}."]),
        }

    def mmmu_open(self) -> Case:
        case = {"prediction": self.texts.of(AWKWARD["open"]), "gold": self.rng.choice(AWKWARD["open"])}
        if self.rng.random() < 0.4:
            case["gold"] = case["prediction"].split(" ")[-1]
        return case

    def mmmu_full(self) -> Case:
        case = {"id": f"validation_{self.rng.choice(SUBJECTS)}_{self._number()}", "question": "Which one?"}
        if self.rng.random() < 0.5:
            inner = self.mmmu_mcq()
            kind = {"question_type": "multiple-choice", "options": repr(inner["options"])}
        else:
            inner = self.mmmu_open()
            kind = {"question_type": "open", "options": "[]"}
        return case | kind | {"answer": inner["gold"], "prediction": inner["prediction"]}

    def mathvista(self) -> Case:
        kind = self.rng.choice(["text", "integer", "float", "list"])
        choices = self.texts.options() if kind == "text" and self.rng.random() < 0.8 else None
        said = ("14", "14.0", "1.455", "(c)", "B", "b", "(A) cat", " 6e-1 ", "", "nan", "inf", "[1, 2]", "yes", "-3")
        quick = (
            'The answer is "B".',
            'The answer is "14".',
            'The answer is "a" or "b".',
            "\uff11\uff14",
            "1_4",
            "0",
            "0.0",
        )
        return {
            "question_type": "multi_choice" if choices else "free_form",
            "answer_type": kind,
            "choices": choices,
            "answer": self.rng.choice(choices or ["14", "1.5", "[1, 2]", "0.6"]),
            "precision": {"float": self.rng.choice([1.0, 2.0, 1, 2])}.get(kind),
            "prediction": self.texts.of([*said, *quick, *(choices or [])]),
            "query": "q",
        }

    def mathvista_normalize(self) -> Case:
        case = self.mathvista()
        return {**{k: v for k, v in case.items() if k not in ("prediction", "query")}, "extraction": case["prediction"]}

    # -- extractors, few-shot, safety, captions --

    def mcq_infer_vlmevalkit(self) -> Case:
        return self.mmmu_mcq()

    def yorn_extraction(self) -> Case:
        return {"prediction": self.texts.of(AWKWARD["yes_no"])}

    def of_postprocess(self) -> Case:
        parts = self.rng.choices(AWKWARD["generations"], k=self.rng.choice([1, 1, 2, 3]))
        return {"generation": self.texts.of(["".join(parts), " ".join(parts)])}

    def rices(self) -> Case:
        size, count = self.rng.choice([2, 3, 8]), self.rng.randint(2, 12)

        def features(rows: int) -> list[list[float]]:
            return [[round(self.rng.gauss(0, 1), 3) for _ in range(size)] for _ in range(rows)]

        return {
            "raw_train_features": features(count),
            "raw_query_features": features(self.rng.randint(1, 4)),
            "num_examples": self.rng.randint(1, count),
        }

    def fewshot_openflamingo(self) -> Case:
        num_test, num_train = self.rng.randint(1, 30), self.rng.randint(8, 60)
        kind = self.rng.choice(["vqa", "caption"])
        world = self.rng.choice([1, 1, 2, 3])
        return {
            "kind": kind,
            "num_shots": self.rng.choice([0, 1, 2, 4, 8]),
            "seed": self.rng.choice([0, 1, 42, self.rng.randrange(10**6)]),
            "num_samples": self.rng.choice([-1, self.rng.randint(1, num_test)]),
            "query_set_size": self.rng.randint(8, num_train),
            "batch_size": self.rng.choice([1, 4, 8]),
            "world_size": world,
            "rank": self.rng.randrange(world),
            "model": self.rng.choice(["open_flamingo", "xgenmm"]),
            "train": [[f"q{n}", f"a{n}"] if kind == "vqa" else f"caption {n}" for n in range(num_train)],
            "test": [f"q{n}" for n in range(num_test)],
        }

    def vlguard_asr(self) -> Case:
        subset = self.rng.choice(["unsafes", "safe_unsafes", "safe_safes"])
        return {"prediction": self.texts.of(AWKWARD["refusals"]), "subset": subset}

    def caption_metrics(self) -> Case:
        def caption() -> str:
            words = self.rng.choices(AWKWARD["common_words"], k=self.rng.randint(1, 10))
            rare = [self.rng.choice(AWKWARD["caption_words"])] if self.rng.random() < 0.3 else []
            return " ".join(words + rare) + self.rng.choice(["", ".", " .", "!"])

        references = [caption() for _ in range(self.rng.randint(1, 5))]
        said = [caption(), references[0], references[0].upper(), references[0][:-4], ""]
        return {
            "corpus": "generated",
            "image_id": self._number(),
            "prediction": self.rng.choice(said),
            "references": references,
        }
