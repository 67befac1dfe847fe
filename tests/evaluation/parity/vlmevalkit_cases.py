"""What VLMEvalKit says of a case or of a set, by its own functions, without a judge ("exact matching").

Run from the wheels of its copy on PyPI, ms-vlmeval: 0.0.5 is of August 2024, 0.0.20 of May 2026. The latter has no
"answer is X" yet, which came before e8e78f0; so answers that say that are left out.
"""

import ast
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
from by_scorer import ByScorer, Case
from unpacked import Wheel, quietly

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class VLMEvalKit2024(ByScorer):
    """820176c."""

    reference = "vlmevalkit@820176c"

    def __init__(self, root: Path) -> None:
        self.wheel = Wheel(root, "vlmeval", ("vlmeval.dataset", "vlmeval.dataset.utils", "vlmeval.utils"))
        utils = sys.modules["vlmeval.utils"]
        self._smp()
        self.matching = self.wheel.module("utils/matching_util")
        vars(utils).update(vars(self.matching) | {"track_progress_rich": MagicMock()})
        self.choice = self.wheel.module("dataset/utils/multiple_choice")
        self.yorn = self.wheel.module("dataset/utils/yorn")
        self.vqa = self.wheel.module("dataset/utils/vqa_eval")
        self.mathvista = self.wheel.module("dataset/utils/mathvista")
        for module in (self.choice, self.yorn, self.mathvista):
            module.load = lambda data: data

    def _smp(self) -> None:
        """Its helpers, with their start-up code: the others import all of them."""
        while True:
            try:
                importlib.import_module("vlmeval.smp")
                return
            except ModuleNotFoundError as error:
                for name in [name for name in sys.modules if name.startswith("vlmeval.smp")]:
                    del sys.modules[name]
                if error.name is None or error.name.partition(".")[0] == "vlmeval":
                    raise
                sys.modules[error.name] = MagicMock()

    # -- options --

    def _infer(self, answer: str, options: Mapping[str, Any]) -> str | bool:
        return self.matching.can_infer(answer, dict(options))

    def _exact(self, answer: str, options: Sequence[Any], gold: str) -> Case:
        row = pd.Series({**_columns(options), "question": "q", "prediction": answer, "GT": gold, "index": 0})
        option = self.choice.extract_answer_from_item(None, row)["opt"]
        return {"option": option, "hit": self.choice.eval_vanilla(None, row)["hit"]}

    def _report(self, cases: Sequence[Case], scorer: str, columns: Mapping[str, Any]) -> Case:
        hits = [self.outcome(scorer, case)["hit"] for case in cases]
        frame = pd.DataFrame({"hit": hits, **{name: [of(case) for case in cases] for name, of in columns.items()}})
        return _table(self.choice.report_acc(frame))

    def mcq_infer_vlmevalkit_(self, case: Case) -> Case:
        options = _columns(case["options"])
        exact = self._exact(case["prediction"], case["options"], case["gold"])
        return {
            "can_infer_option": self.matching.can_infer_option(case["prediction"], dict(options)),
            "can_infer": self._infer(case["prediction"], options),
            "exact_matching_option": exact["option"],
            "hit": exact["hit"],
        }

    def ai2d_(self, case: Case) -> Case:
        return self._exact(case["prediction"], case["options"], LETTERS[int(case["answer"])])

    def ai2d_set(self, cases: Sequence[Case]) -> Case:
        return self._report(cases, "ai2d", {})

    def scienceqa_(self, case: Case) -> Case:
        return self._exact(case["prediction"], case["choices"], LETTERS[case["answer"]])

    def scienceqa_set(self, cases: Sequence[Case]) -> Case:
        return self._report(cases, "scienceqa", {})

    def seedbench_(self, case: Case) -> Case:
        return self._exact(case["prediction"], [case[f"choice_{name}"] for name in "abcd"], case["answer"])

    def seedbench_set(self, cases: Sequence[Case]) -> Case:
        return self._report(cases, "seedbench", {"category": lambda case: str(case["question_type_id"])})

    def mmstar_(self, case: Case) -> Case:
        return self._exact(case["prediction"], case["options"], case["answer"])

    def mmstar_set(self, cases: Sequence[Case]) -> Case:
        columns = {"l2-category": lambda case: case["l2_category"], "category": lambda case: case["category"]}
        return self._report(cases, "mmstar", columns)

    def realworldqa_(self, case: Case) -> Case:
        lines = re.findall(r"^([A-Z])\. (.*)$", case["question"], re.MULTILINE)
        if not lines:
            raise ValueError("its table has no questions without options")
        return self._exact(case["prediction"], [text for _, text in lines], case["answer"])

    def blink_(self, case: Case) -> Case:
        return self._exact(case["prediction"], case["choices"], case["answer"].strip("()"))

    def blink_set(self, cases: Sequence[Case]) -> Case:
        return self._report(cases, "blink", {"category": lambda case: case["sub_task"]})

    def mmmu_mcq_(self, case: Case) -> Case:
        return self._exact(case["prediction"], case["options"], case["gold"])

    def mmmu_open_(self, case: Case) -> Case:
        return self._exact(case["prediction"], [case["gold"], "Other Answers"], "A")

    def mmmu_full_(self, case: Case) -> Case:
        if case["question_type"] != "multiple-choice":
            return self._exact(case["prediction"], [case["answer"], "Other Answers"], "A")
        return self._exact(case["prediction"], ast.literal_eval(case["options"]), case["answer"])

    def mmmu_full_set(self, cases: Sequence[Case]) -> Case:
        split, subject = r"^([^_]*)_", r"^[^_]*_(.*)_\d+$"
        columns = {
            "split": lambda case: re.match(split, case["id"])[1],
            "category": lambda case: re.match(subject, case["id"])[1],
        }
        return self._report(cases, "mmmu_full", columns)

    def mmbench_circular_(self, case: Case) -> Case:
        return {"prefetch": self.choice.prefetch_answer(pd.Series(case)) or None}

    def mmbench_circular_set(self, cases: Sequence[Case]) -> Case:
        frame = pd.DataFrame(cases)
        frame["GT"] = frame["answer"]
        first = frame[frame["index"] < int(1e6)]
        hits = {}
        for index in first["index"]:
            found = self.choice.prefetch_circular_group(frame[frame["index"] % int(1e6) == index])
            hits[index] = found["hit"] if found is not None else 0
        table = first.rename(columns={"L2-category": "l2-category"}).assign(hit=[hits[i] for i in first["index"]])
        right = [self.mmbench_circular_(case)["prefetch"] == case["answer"] for case in cases]
        return {
            "report_acc": _table(self.choice.report_acc(table)),
            "group_hits": {str(index): hit for index, hit in hits.items()},
            "vanilla_all_acc": float(np.mean(right)),
            "vanilla_circ0_acc": float(
                np.mean([r for r, case in zip(right, cases, strict=True) if case["index"] < 1e6])
            ),
        }

    # -- yes and no --

    def yorn_extraction_(self, case: Case) -> Case:
        return {"extracted": self.yorn.YOrN_Extraction(case["prediction"])}

    def _yes_or_no(self, case: Case, gold: str) -> Case:
        extracted = self.yorn.YOrN_Extraction(case["prediction"])
        return {"extracted": extracted, "score": gold == extracted}

    def pope_(self, case: Case) -> Case:
        return self._yes_or_no(case, case["answer"].capitalize())

    def pope_set(self, cases: Sequence[Case]) -> Case:
        rows = [{**case, **self.pope_(case), "answer": case["answer"].capitalize()} for case in cases]
        return _by_split(self.yorn.POPE_rating(pd.DataFrame(rows)))

    def mme_(self, case: Case) -> Case:
        return self._yes_or_no(case, case["answer"])

    def mme_set(self, cases: Sequence[Case]) -> Case:
        rows = [{**case, **self.mme_(case), "image_path": case["question_id"]} for case in cases]
        found = _table(self.yorn.MME_rating(pd.DataFrame(rows)))
        total = found["perception"] + found["reasoning"]
        return {**found, "total": total, "mme_norm_total_over_28": total / 28}

    def hallusion_(self, case: Case) -> Case:
        return self._yes_or_no(case, "Yes" if case["gt_answer"] == "1" else "No")

    def hallusion_set(self, cases: Sequence[Case]) -> Case:
        rows = []
        for case in cases:
            level_2 = f"{case['category']}_{case['subcategory']}"
            parts = (case["category"], case["subcategory"], "0", case["set_id"], case["figure_id"], case["question_id"])
            index = "_".join(parts)
            rows.append({**self.hallusion_(case), "category": case["category"], "l2-category": level_2, "index": index})
        return _by_split(self.yorn.Hallusion_rating(pd.DataFrame(rows)))

    # -- free answers --

    def vqa_normalize_(self, case: Case) -> Case:
        return {"process_answer": self.vqa.process_answer(case["text"])}

    def _line(self, case: Case, answer: Any, method: str) -> Case:
        return self.vqa.process_line({"answer": answer, "prediction": case["prediction"]}, method=method)

    def vqa_accuracy_(self, case: Case) -> Case:
        found = self._line(case, repr(list(case["answers"])), "vqa_score")
        score = float(self.vqa.hit_calculate([found], "TextVQA_VAL")[0])
        return {"pred": found["pred"], "gt": found["gt"], "score": score}

    def vqa_accuracy_set(self, cases: Sequence[Case]) -> Case:
        found = [self._line(case, repr(list(case["answers"])), "vqa_score") for case in cases]
        return {"Overall": float(np.mean(self.vqa.hit_calculate(found, "TextVQA_VAL")) * 100), "n": len(cases)}

    def chartqa_relaxed_(self, case: Case) -> Case:
        found = self._line(case, case["answer"], "relaxed_accuracy")
        return {"score": float(self.vqa.hit_calculate([found], "ChartQA_TEST")[0]), "gt": found["gt"]}

    def chartqa_relaxed_set(self, cases: Sequence[Case]) -> Case:
        scores = defaultdict(list)
        for case in cases:
            half = "test_human" if case["type"] == "human_test" else "test_augmented"
            for name in ("Overall", half):
                scores[name].append(self.chartqa_relaxed_(case)["score"])
        return {name: float(np.mean(values) * 100) for name, values in scores.items()}

    def anls_(self, case: Case) -> Case:
        found = self._line(case, repr(list(case["answers"])), "anls")
        return {"anls": float(self.vqa.hit_calculate([found], "DocVQA_VAL")[0])}

    def anls_set(self, cases: Sequence[Case]) -> Case:
        return {"Overall": float(np.mean([self.anls_(case)["anls"] for case in cases]) * 100)}

    exact_match_ = None

    def mathvista_(self, case: Case) -> Case:
        choices, gold = case["choices"], case["answer"]
        row = {**case, "choices": repr(choices), "answer_option": None}
        if case["question_type"] == "multi_choice" and gold in choices:
            row["answer_option"] = LETTERS[choices.index(gold)]
        read = self.mathvista.post_check(row, prefetch=True)
        if not read:
            return {"prefetch": None, "needs_llm": True}
        return {
            "prefetch": str(read),
            "needs_llm": False,
            "correct": self.mathvista.post_check({**row, "res": read}, prefetch=False),
        }

    def mathvista_set(self, cases: Sequence[Case]) -> Case:
        found = [self.mathvista_(case) for case in cases]
        return {
            "n": len(found),
            "n_llm": sum(one["needs_llm"] for one in found),
            "n_prefetch_correct": sum(one.get("correct", False) for one in found),
        }


class VLMEvalKit2026(VLMEvalKit2024):
    """e8e78f0."""

    reference = "vlmevalkit@e8e78f0"

    def outcome(self, scorer: str, case: Case) -> Case:
        if re.search(r"(?i)answer\s+is", str(case.get("prediction"))) and scorer not in FREE:
            raise ValueError("the wheel is older than the rule for this answer")
        return super().outcome(scorer, case)

    def exact_match_(self, case: Case) -> Case:
        found = self._line(case, case["answer"], "accuracy")
        return {"score": float(self.vqa.hit_calculate([found], "GQA_TestDev_Balanced")[0])}

    def exact_match_set(self, cases: Sequence[Case]) -> Case:
        return {"Overall": float(np.mean([self.exact_match_(case)["score"] for case in cases]) * 100)}

    def caption_metrics_(self, _case: Case) -> Case:
        return {}

    def caption_metrics_set(self, cases: Sequence[Case]) -> Case:
        said = {place: [case["prediction"]] for place, case in enumerate(cases)}
        golds = {place: case["references"] for place, case in enumerate(cases)}
        scorer = self.wheel.module("dataset/image_caption").COCO_Caption_Scorer(said, golds)
        return quietly(scorer.compute_scores)[0]

    def cv_bench_(self, case: Case) -> Case:
        return self._exact(case["prediction"], case["choices"], case["answer"].strip("()"))


FREE = frozenset(
    [
        *("yorn_extraction", "pope", "mme", "hallusion", "vqa_normalize", "vqa_accuracy"),
        *("chartqa_relaxed", "anls", "exact_match", "caption_metrics"),
    ]
)
"""Scorers that read no options."""


def _columns(options: Sequence[Any]) -> dict[str, Any]:
    return {letter: text for letter, text in zip(LETTERS, options, strict=False) if text is not None}


def _table(frame: pd.DataFrame) -> Case:
    """A table of one line as a mapping; of several lines, with a list for every column."""
    return {name: (values[0] if len(values) == 1 else values) for name, values in frame.to_dict(orient="list").items()}


def _by_split(frame: pd.DataFrame) -> Case:
    rows = frame.to_dict(orient="records")
    return {row["split"]: {name: float(value) for name, value in row.items() if name != "split"} for row in rows}
