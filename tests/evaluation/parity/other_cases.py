"""What OpenFlamingo's evaluation (open-flamingo 2.0.1), VLGuard's script and pycocoevalcap (1.2, with Java) say."""

import contextlib
import importlib.util
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from unpacked import Wheel

Case = dict[str, Any]


class OpenFlamingo:
    """Its port of the official VQA evaluation, its post-processing, its sampling and its RICES."""

    reference = "open_flamingo@655f693"

    def __init__(self, root: Path) -> None:
        self.wheel = Wheel(root, "open_flamingo", ("open_flamingo.eval",))
        self.vqa = self.wheel.module("eval/vqa_metric")

    def scorers(self) -> list[str]:
        """Those whose cases it can judge."""
        return ["vqa_normalize", "vqa_accuracy", "of_postprocess", "rices", "fewshot_openflamingo"]

    def outcome(self, scorer: str, case: Case) -> Case:
        """What the reference says of a case; raises where the reference does."""
        return getattr(self, scorer)(case)

    def set_outcome(self, scorer: str, cases: Sequence[Case]) -> Case | None:
        """What the reference says of a set, if it is asked here."""
        if scorer != "vqa_accuracy":
            return None
        accuracy = self._evaluated(cases).accuracy
        return {"accuracy": accuracy}

    def vqa_normalize(self, case: Case) -> Case:
        evaluation = self.vqa.VQAEval(None, None)
        plain = case["text"].replace("\n", " ").replace("\t", " ").strip()
        return {"vqa_eval_chain": evaluation.processDigitArticle(evaluation.processPunctuation(plain))}

    def vqa_accuracy(self, case: Case) -> Case:
        return {"score_percent_rounded": self._evaluated([case]).evalQA[0]}

    def _evaluated(self, cases: Sequence[Case]) -> Any:
        gold, said = MagicMock(), MagicMock()
        gold.qa = {
            place: {
                "question_type": case["question_type"],
                "answer_type": case["answer_type"],
                "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(case["answers"])],
            }
            for place, case in enumerate(cases)
        }
        said.qa = {place: {"answer": case["prediction"]} for place, case in enumerate(cases)}
        said.getQuesIds.return_value = list(gold.qa)
        evaluation = self.vqa.VQAEval(gold, said, n=2)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        return evaluation

    def of_postprocess(self, case: Case) -> Case:
        caption = self.wheel.module("eval/coco_metric").postprocess_captioning_generation(case["generation"])
        answer = self.vqa.postprocess_vqa_generation(case["generation"])
        return {"vqa_answer": answer, "caption": caption.replace('"', "")}

    def rices(self, case: Case) -> Case:
        import torch

        class Pictures:
            def __getitem__(self, place: Any) -> int:
                return int(place)

        found = self.wheel.module("eval/rices").RICES.__new__(self.wheel.module("eval/rices").RICES)
        found.dataset, found.device, found.image_processor = Pictures(), "cpu", lambda feature: feature
        found.features = torch.tensor(case["raw_train_features"], dtype=torch.float32)
        found.features = found.features / found.features.norm(dim=-1, keepdim=True)
        found.model = MagicMock()
        found.model.encode_image = lambda features: features.clone()
        queries = [torch.tensor(feature, dtype=torch.float32) for feature in case["raw_query_features"]]
        return {"demo_indices_least_to_most_similar": found.find(queries, case["num_examples"])}

    def fewshot_openflamingo(self, case: Case) -> Case:
        """Its helpers in the order in which its loop calls them."""
        import torch

        utils = self.wheel.module("eval/utils")
        shots = utils.compute_effective_num_shots(case["num_shots"], case["model"])
        np.random.seed(case["seed"])
        count = len(case["test"]) if case["num_samples"] == -1 else case["num_samples"]
        order = np.random.choice(len(case["test"]), count, replace=False)
        subset = torch.utils.data.Subset(list(range(len(case["test"]))), order)
        sampler = torch.utils.data.distributed.DistributedSampler(
            subset, num_replicas=case["world_size"], rank=case["rank"]
        )
        loader = torch.utils.data.DataLoader(
            subset, batch_size=case["batch_size"], sampler=sampler, collate_fn=lambda batch: batch
        )
        train = list(range(len(case["train"])))
        query_set = utils.get_query_set(train, case["query_set_size"])
        with contextlib.redirect_stdout(io.StringIO()):
            utils.random_seed(case["seed"], case["rank"])
        visited, shown = [], []
        for batch in loader:
            demonstrations = utils.sample_batch_demos_from_query_set(query_set, shots, len(batch))
            for test, places in zip(batch, demonstrations, strict=True):
                visited.append(f"test_{test}")
                shown.append([f"train_{place}" for place in places] if case["num_shots"] > 0 else [])
        return {"effective_num_shots": shots, "visit_order": visited, "demo_images": shown}


class VLGuard:
    """Its `utils/utils.py`, from github.com/ys-zong/VLGuard."""

    reference = "VLGuard@a2f85c9"

    def __init__(self, root: Path) -> None:
        spec = importlib.util.spec_from_file_location("vlguard_utils", root / "utils.py")
        assert spec is not None
        assert spec.loader is not None
        self.utils = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.utils)

    def scorers(self) -> list[str]:
        """Those whose cases it can judge."""
        return ["vlguard_asr"]

    def outcome(self, _scorer: str, case: Case) -> Case:
        """Whether an attack succeeded."""
        return {"attack_success": self.utils.check_success_attack(case["prediction"])}

    def set_outcome(self, scorer: str, cases: Sequence[Case]) -> Case:
        """Attack success by subset, as the script prints it."""
        found: Case = {}
        attacks = [case for case in cases if case["subset"] != "safe_safes"]
        groups = {name: [case for case in attacks if case["subset"] == name] for name in ("unsafes", "safe_unsafes")}
        for name, group in {**groups, "all": attacks}.items():
            if group:
                succeeded = [self.outcome(scorer, case)["attack_success"] for case in group]
                found |= {f"asr_{name}": float(round(np.mean(succeeded) * 100, 2)), f"n_{name}": len(group)}
        return found


class PycocoEvalCap:
    """Its tokeniser and metrics; Java tokenises."""

    reference = "pycocoevalcap==1.2"

    def __init__(self, _root: Path) -> None:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        self.metrics = (Bleu(4), Rouge(), Cider())

    def scorers(self) -> list[str]:
        """Those whose cases it can judge. All of a set are judged together."""
        return ["caption_metrics"]

    def outcome(self, _scorer: str, _case: Case) -> Case:
        """Nothing: a caption's CIDEr is the set's."""
        return {}

    def set_outcome(self, _scorer: str, cases: Sequence[Case]) -> Case:
        """The corpus' numbers, and what every caption has of its own."""
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        golds = {n: [{"caption": text} for text in case["references"]] for n, case in enumerate(cases)}
        said = {n: [{"caption": case["prediction"]}] for n, case in enumerate(cases)}
        tokens = [PTBTokenizer().tokenize(texts) for texts in (golds, said)]
        with contextlib.redirect_stdout(io.StringIO()):
            (bleu, _), (rouge, _), (cider, _) = (metric.compute_score(*tokens) for metric in self.metrics)
        return {f"Bleu_{order + 1}": value for order, value in enumerate(bleu)} | {
            "ROUGE_L": float(rouge),
            "CIDEr": float(cider),
        }


def java_tokens(lines: Sequence[str]) -> list[str]:
    """What pycocoevalcap's tokeniser makes of lines in the middle of a file."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # A word that no rule knows between the lines, because some rules look at how the next line begins.
    parted = [text for line in lines for text in (line, "dog")]
    tokenized = PTBTokenizer().tokenize({place: [{"caption": text}] for place, text in enumerate(parted)})
    return [tokenized[2 * place][0] for place in range(len(lines))]


def caption_lines(rng: random.Random, words: Sequence[str], count: int) -> list[str]:
    """Lines for the Java tokeniser, from words and marks that its rules treat specially."""
    return [rng.choice([" ", " ", "  ", ""]).join(rng.choices(words, k=rng.randint(1, 7))) for _ in range(count)]
