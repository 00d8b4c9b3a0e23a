"""Radiologist preferences for synthetic chest X-rays: sample sets, score them blinded, align, prove it downstream."""

from radpref.api import align, conditions, evaluate, make_pairs, open_study, pairs, sample, scores

__all__ = ["align", "conditions", "evaluate", "make_pairs", "open_study", "pairs", "sample", "scores"]
