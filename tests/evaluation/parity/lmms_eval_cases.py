"""What lmms-eval says of a case or of a set, by its own functions. Answers reach them as the harness passes them."""

import ast
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from by_scorer import ByScorer, Case
from unpacked import Wheel, quietly, without_draws

LETTERS = "ABCDEFGH"


class LmmsEval(ByScorer):
    """lmms-eval 0.7.3."""

    reference = "lmms-eval==0.7.3"
    choice_parser = ("tasks/_task_utils/mmmu_mcq_utils", "parse_mmmu_multi_choice_response")

    def __init__(self, root: Path) -> None:
        packages = ("lmms_eval.tasks", "lmms_eval.api", "lmms_eval.filters")
        online = ("lmms_eval.llm_judge", "lmms_eval.verifiers", "lmms_eval.verifiers.openai")
        self.wheel = Wheel(root, "lmms_eval", packages, online)

    def _task(self, name: str, module: str = "utils") -> Any:
        return self.wheel.module(f"tasks/{name}/{module}")

    def answer(self, case: Case) -> list[str]:
        """The answer as a list, as the harness passes it: without reasoning blocks, stripped."""
        pairs = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]
        return [self.wheel.module("api/reasoning").strip_reasoning_tags(case["prediction"], pairs)]

    def _processed(self, task: str, name: str, case: Case) -> Case:
        return getattr(self._task(task), name)(case, self.answer(case))

    # -- options --

    def mcq_extract_lmms_(self, case: Case) -> Case:
        extract = self.wheel.module("tasks/_task_utils/mcq_extract").extract_mcq_answer
        return {"letter": extract(case["prediction"], case["choices"])}

    def _letter(self, case: Case, options: Sequence[str], path: str, name: str) -> str | None:
        module = self.wheel.module(path)
        letters = list(LETTERS[: len(options)])
        texts = dict(zip(letters, options, strict=True))
        return without_draws(module, lambda: getattr(module, name)(self.answer(case)[0], letters, texts))

    def mmmu_mcq_(self, case: Case) -> Case:
        letter = self._letter(case, case["options"], *self.choice_parser)
        outcome = {"parsed": letter, "correct": None if letter is None else letter == case["gold"]}
        if letter is None:
            outcome["random_choice_among"] = list(LETTERS[: len(case["options"])])
        return outcome

    def qbench2_(self, case: Case) -> Case:
        options = [case[f"option{place}"] for place in range(4) if case[f"option{place}"] != "N/A"]
        letter = self._letter(case, options, "tasks/qbench/utils", "parse_multi_choice_response")
        correct = None if letter is None else letter == case["correct_choice"]
        return {"parsed": letter, "random_choice": letter is None, "correct": correct}

    def qbench2_set(self, cases: Sequence[Case]) -> Case:
        module = self._task("qbench")
        results = []
        for case in cases:
            done = without_draws(module, lambda case=case: module.q_bench_process_results(case, self.answer(case)))
            entry = next(iter(done.values()))
            results += [entry] if entry["parsed_pred"] is not None else []
        overall, printed = quietly(lambda: module.q_bench_aggregate_results(results))
        return {"n": len(results), "overall": overall, "breakdown": printed[0]}

    def blink_(self, case: Case) -> Case:
        result = self._processed("blink", "blink_process_results", case)["blink_acc"]
        return {"parsed": result["pred_parsed"], "correct": result["is_correct"]}

    def blink_set(self, cases: Sequence[Case]) -> Case:
        results = [self._processed("blink", "blink_process_results", case)["blink_acc"] for case in cases]
        return {"blink_acc_micro": self._task("blink").blink_aggregate_results(results)}

    def cv_bench_(self, case: Case) -> Case:
        result = self._processed("cv_bench", "cv_bench_process_results", case)["cv_bench_acc"]
        return {"parsed": result["pred_parsed"], "correct": result["is_correct"]}

    def cv_bench_set(self, cases: Sequence[Case]) -> Case:
        module = self._task("cv_bench")
        results = [self._processed("cv_bench", "cv_bench_process_results", case)["cv_bench_acc"] for case in cases]
        outcome = {"cv_bench_acc": module.cv_bench_aggregate_results(results)}
        if {case["source"] for case in cases} == {"ADE20K", "COCO", "Omni3D"}:
            outcome["cv_bench_source_weighted"] = module.cv_bench_default_aggregate_results(results)
        return outcome

    def mantis_(self, case: Case) -> Case:
        result = self._processed("mantis", "mantis_process_results", case)["mantis_score"]
        return {"parsed": result["pred_answer"], "correct": result["correct"]}

    def mantis_set(self, cases: Sequence[Case]) -> Case:
        results = [self._processed("mantis", "mantis_process_results", case)["mantis_score"] for case in cases]
        return {"mantis_score": self._task("mantis").mantis_aggregation(results)}

    def mmstar_(self, case: Case) -> Case:
        return {"score": self._processed("mmstar", "mmstar_process_results", case)["average"]["score"]}

    def mmstar_set(self, cases: Sequence[Case]) -> Case:
        found = defaultdict(list)
        for case in cases:
            for name, entry in self._processed("mmstar", "mmstar_process_results", case).items():
                found[name].append(entry)
        return {name: self._task("mmstar").mmstar_aggregate_results(group) for name, group in found.items()}

    def realworldqa_(self, case: Case) -> Case:
        return self._processed("realworldqa", "realworldqa_process_results", case)

    def seedbench_(self, case: Case) -> Case:
        module = self._task("seedbench")
        entry = next(iter(self._processed("seedbench", "seed_process_result", case).values()))
        return {"parsed": entry["pred"], "correct": module.seed_aggregation_result([entry]) == 1}

    def seedbench_set(self, cases: Sequence[Case]) -> Case:
        found = defaultdict(list)
        for case in cases:
            for name, entry in self._processed("seedbench", "seed_process_result", case).items():
                found[name].append(entry)
        return {name: self._task("seedbench").seed_aggregation_result(group) for name, group in found.items()}

    def scienceqa_(self, case: Case) -> Case:
        return self._processed("scienceqa", "sqa_process_results", case)

    def ai2d_(self, case: Case) -> Case:
        module = self._task("ai2d")
        settings = {"group_select": 0, "ignore_case": True, "ignore_punctuation": True}
        regex = module.MultiChoiceRegexFilter(regex_pattern="([A-Z])\\.", **settings)
        filtered = regex.apply([self.answer(case)], [case])[0]
        target = module.ai2d_doc_to_target(case, "mcq")
        match = self.wheel.module("api/metrics").exact_match_hf_evaluate
        result = match([filtered], [target], ignore_case=True, ignore_punctuation=True)
        return {"filtered": filtered, "target": target, "exact_match": float(result["exact_match"])}

    def mmbench_circular_(self, case: Case) -> Case:
        evaluator = self._task("mmbench", "mmbench_evals").MMBench_Evaluator()
        return {"prefetch": evaluator.prefetch_answer({**case, "prediction": self.answer(case)[0]}) or None}

    def mmbench_circular_set(self, cases: Sequence[Case]) -> Case:
        evaluator = self._task("mmbench", "mmbench_evals").MMBench_Evaluator()
        rows = [{**case, "prediction": self.answer(case)[0]} for case in cases]
        (overall, categories, level_2), _ = quietly(lambda: evaluator.eval_result(rows, "static"))
        return {"overall_acc": float(overall), "category_acc": categories, "l2_category_acc": level_2}

    # -- yes and no --

    def mme_(self, case: Case) -> Case:
        module = self._task("mme")
        name, result = next(iter(self._processed("mme", "mme_process_results", case).items()))
        group = "cognition" if name == "mme_cognition_score" else "perception"
        parsed = module.parse_pred_ans(self.answer(case)[0])
        return {"parsed": parsed, "score": result["score"], "group": group}

    def mme_set(self, cases: Sequence[Case]) -> Case:
        found = defaultdict(list)
        for case in cases:
            name, entry = next(iter(self._processed("mme", "mme_process_results", case).items()))
            found["mme_cognition_score" if name == "mme_cognition_score" else "mme_perception_score"].append(entry)
            found[f"category_{case['category']}"].append(entry)
        return {name: self._task("mme").mme_aggregate_results(group) for name, group in found.items()}

    def pope_(self, case: Case) -> Case:
        result = self._processed("pope", "pope_process_results", case)["pope_accuracy"]
        return {"parsed": result["prediction"], "score": result["score"]}

    def pope_set(self, cases: Sequence[Case]) -> Case:
        module = self._task("pope")
        results = [self._processed("pope", "pope_process_results", case)["pope_accuracy"] for case in cases]
        names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
        return {f"pope_{name}": getattr(module, f"pope_aggregate_{name}")(results) for name in names}

    def hallusion_(self, case: Case) -> Case:
        entry = self._hallusion([case])[0]
        scored, _ = quietly(lambda: self._task("hallusion_bench").assign_correctness([entry], "judged"))
        rule = self._task("hallusion_bench", "evaluate_hb").hb_aggregation_result_intern
        return {"rule_correct": bool(rule(self._hallusion([case]), "aAcc")), "judge_correct": scored[0]["correct"]}

    def _hallusion(self, cases: Sequence[Case]) -> list[Case]:
        process = self._task("hallusion_bench", "evaluate_hb").hb_process_results
        entries = [process(case, self.answer(case))["aAcc"] for case in cases]
        return [{**entry, "judged": case["judge"]} for entry, case in zip(entries, cases, strict=True)]

    def hallusion_set(self, cases: Sequence[Case]) -> Case:
        rule = self._task("hallusion_bench", "evaluate_hb").hb_aggregation_result_intern
        outcome = {"rule": {name: rule(self._hallusion(cases), name) for name in ("aAcc", "fAcc", "qAcc")}}
        utils = self._task("hallusion_bench")
        entries = self._hallusion(cases)
        parts = [[entry for entry in entries if entry["category"] == name] for name in ("VS", "VD")]
        judged = [entry for part in parts for entry in utils.assign_correctness(part, "judged")]
        every, figure = utils.get_eval_all(judged, "judged"), utils.get_eval_fig(judged)
        pair = utils.get_eval_pair_all(judged, "judged")
        outcome["judge"] = {
            "aAcc": round(100 * every["correct"] / every["total"], 4),
            "fAcc": round(100 * figure["correct"] / figure["total"], 4),
            "qAcc": round(100 * pair["correct"] / pair["total"], 4),
            **{"all_stat": every, "fig_stat": figure, "pair_stat": pair},
        }
        return outcome

    # -- free answers --

    def vqa_normalize_(self, case: Case) -> Case:
        processor = self.wheel.module("tasks/_task_utils/vqa_eval_metric").EvalAIAnswerProcessor()
        plain = case["text"].replace("\n", " ").replace("\t", " ").strip()
        chain = processor.process_digit_article(processor.process_punctuation(plain))
        return {"evalai_call": processor(case["text"]), "vqav2_chain": chain}

    def vqa_accuracy_(self, case: Case) -> Case:
        outcome = {}
        for name in ("vqav2", "textvqa", "ok_vqa", "vizwiz_vqa"):
            golds = list(case["answers"])
            if name == "vqav2":
                golds = [{"answer": gold, "answer_id": place} for place, gold in enumerate(golds)]
            doc = {"answers": golds, "question_id": 1}
            result = getattr(self._task(name), f"{name}_process_results")(doc, self.answer(case))
            outcome[name] = {"score": result["exact_match"], "parsed": result["submission"]["answer"]}
        return outcome

    def chartqa_relaxed_(self, case: Case) -> Case:
        return self._processed("chartqa", "chartqa_process_results", case)

    def anls_(self, case: Case) -> Case:
        score = self.wheel.module("api/metrics").anls
        raw = score(case["answers"], [case["prediction"]])["anls"]
        return {"function": raw, "harness": score(case["answers"], self.answer(case))["anls"]}

    def exact_match_(self, case: Case) -> Case:
        match = self.wheel.module("api/metrics").exact_match_hf_evaluate
        result = match(self.answer(case), [case["answer"]], ignore_case=True, ignore_punctuation=True)
        return {"exact_match": float(result["exact_match"])}

    def ocrbench_(self, case: Case) -> Case:
        return {"score": self._processed("ocrbench", "ocrbench_process_results", case)["ocrbench_accuracy"]["score"]}

    def ocrbench_set(self, cases: Sequence[Case]) -> Case:
        module = self._task("ocrbench")
        results = [self._processed("ocrbench", "ocrbench_process_results", case)["ocrbench_accuracy"] for case in cases]
        for name in module.OCRBench_score:
            module.OCRBench_score[name] = 0
        module.generate_submission_file = lambda *_, **__: "/dev/null"
        value, _ = quietly(lambda: module.ocrbench_aggregate_accuracy(results, None))
        return {"ocrbench_accuracy": value, "counts": dict(module.OCRBench_score)}

    def mmmu_open_(self, case: Case) -> Case:
        module = self._task("mmmu")
        parsed = module.parse_open_response(self.answer(case)[0])
        numbers = sorted(value for value in parsed if isinstance(value, float) and not math.isnan(value))
        missing = ["NaN" for value in parsed if isinstance(value, float) and math.isnan(value)]
        texts = sorted(value for value in parsed if isinstance(value, str))
        return {"parsed_set": numbers + missing + texts, "correct": module.eval_open(case["gold"], parsed)}

    def mmmu_full_(self, case: Case) -> Case:
        if case["question_type"] == "multiple-choice":
            letter = self._letter(case, ast.literal_eval(case["options"]), *self.choice_parser)
            return {"correct": None if letter is None else letter == case["answer"], "random": letter is None}
        module = self._task("mmmu")
        parsed = module.parse_open_response(self.answer(case)[0])
        return {"correct": module.eval_open(case["answer"], parsed), "random": False}

    def mmmu_full_set(self, cases: Sequence[Case]) -> Case:
        module = self._task("mmmu")
        parser = self.wheel.module(self.choice_parser[0])
        results = [
            without_draws(parser, lambda case=case: module.mmmu_process_results(case, self.answer(case))["mmmu_acc"])
            for case in cases
        ]
        overall, printed = quietly(lambda: module.mmmu_aggregate_results(results))
        return {"overall": overall, "breakdown": next(one for one in printed if isinstance(one, dict))}

    def mathvista_(self, case: Case) -> Case:
        evaluator = self._mathvista()
        outcome = {}
        for name in ("default", "quick"):
            asked: list[bool] = []
            evaluator.get_chat_response = lambda *_, asked=asked, **__: asked.append(True) or ""
            answer = self.answer(case)[0].strip()
            extraction = evaluator.extract_answer(answer, case, name == "quick")
            if asked:
                outcome[name] = {"needs_llm": True}
                continue
            precision = case["precision"]
            verdicts = [
                self._normalized({**case, "extraction": extraction, "precision": one})
                for one in (None if precision is None else int(precision), precision)
            ]
            outcome[name] = {
                "needs_llm": False,
                "extraction": extraction,
                **verdicts[0],
                "correct_if_precision_stays_float": verdicts[1]["correct"],
            }
        return outcome

    def _mathvista(self) -> Any:
        return self._task("mathvista", "mathvista_evals").MathVistaEvaluator()

    def _normalized(self, case: Case) -> Case:
        evaluator, arguments = self._mathvista(), ("extraction", "choices", "question_type", "answer_type", "precision")
        normalized = evaluator.normalize_extracted_answer(*(case[name] for name in arguments))
        return {"normalized": normalized, "correct": evaluator.safe_equal(normalized, case["answer"])}

    def mathvista_normalize_(self, case: Case) -> Case:
        return self._normalized(case)


class LmmsEval021(LmmsEval):
    """lmms-eval 0.2.1, the version of the paper's summer."""

    reference = "lmms-eval==0.2.1@c2f73de"
    choice_parser = ("tasks/mmmu/utils", "parse_multi_choice_response")

    mcq_extract_lmms_ = blink_ = cv_bench_ = mantis_ = ai2d_ = mmbench_circular_ = exact_match_ = None

    def answer(self, case: Case) -> list[str]:
        return [case["prediction"].strip()]

    def realworldqa_(self, case: Case) -> Case:
        module = self._task("realworldqa")
        answer = module.NumberWordsToDigitsFilter().apply([[case["prediction"]]], [case])
        answer = module.MultiChoiceRegexFilter(regex_pattern="x").apply(answer, [case])
        return quietly(lambda: module.realworldqa_process_results(case, [answer[0].strip()]))[0]

    def anls_(self, case: Case) -> Case:
        sys.modules["evaluate"] = MagicMock()  # it would look for a metric online
        return super().anls_(case)

    def _mathvista(self) -> Any:
        return self._task("mathvista", "mathvista_evals").MathVistaEvaluator("no key")


class LmmsEval072(LmmsEval):
    """lmms-eval 0.7.2, for BLINK, which it reads otherwise."""

    reference = "lmms-eval@75571cf(0.7.2)"

    def scorers(self) -> list[str]:
        return ["blink"]
