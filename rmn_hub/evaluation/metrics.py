"""
Numbers from probabilities and labels: accuracy, calibration, coverage, per expression, paired differences.

`probabilities` are floats `(N, 7)` in the order of `EXPRESSIONS`, `labels` are int64 `(N,)`, everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.faces import FaceImages
from ..engines.engine import softmax
from ..expressions import EXPRESSIONS

CALIBRATION_BINS = 15
CONFIDENCE = 0.95
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(20))
# z of a two-sided interval of `CONFIDENCE` of a normal distribution.
_Z = 1.959964


@dataclass(frozen=True)
class Mean:
    """
    A mean over faces.

    Args:
        mean: the mean.
        interval: its 95% interval (normal approximation).
    """

    mean: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """Return the mean of one value per face, floats `(N,)`. The interval of a single face is infinite."""
        mean = float(values.mean())
        half = _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
        return cls(mean, (mean - half, mean + half))


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the share of right predictions in 0..1, with its 95% interval (Wilson, 1927)."""
    from scipy.stats import binomtest

    correct = int((probabilities.argmax(1) == labels).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "accuracy": correct / len(labels),
        "interval": [float(interval.low), float(interval.high)],
        "correct": correct,
        "faces": len(labels),
    }


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """
    Return the expected calibration error: the mean over faces of |accuracy - confidence| of the bin of their
    confidence (the top probability), with `bins` bins of equal width over 0..1 (Guo et al., "On calibration of modern
    neural networks", 2017, equation 3). Each bin holds lower < confidence <= upper.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    table, error = [], 0.0
    for index in range(bins):
        inside = where == index
        count = int(inside.sum())
        row: dict[str, Any] = {"lower": float(edges[index]), "upper": float(edges[index + 1]), "faces": count}
        row["confidence"] = float(confidence[inside].mean()) if count else None
        row["accuracy"] = float(right[inside].mean()) if count else None
        if count:
            error += count / len(labels) * abs(row["accuracy"] - row["confidence"])
        table.append(row)
    return {"expected_calibration_error": error, "bins": table}


def coverage(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """
    Return what each threshold on the top probability divides: rows with the `threshold`, the `coverage` (share of the
    faces that reach it), the `accuracy` on those, and on the others `accuracy_below` and `two_below`, the share whose
    label is one of the two most probable expressions. Shares of no faces are `None`.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    of_two = (np.argsort(-probabilities, axis=1, kind="stable")[:, :2] == labels[:, None]).any(1)
    rows = []
    for threshold in THRESHOLDS:
        reached = confidence >= threshold
        rows.append(
            {
                "threshold": threshold,
                "coverage": float(reached.mean()),
                "accuracy": _share(right[reached]),
                "accuracy_below": _share(right[~reached]),
                "two_below": _share(of_two[~reached]),
            }
        )
    return rows


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if len(hits) else None


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return accuracy with its interval, negative log-likelihood in nats and expected calibration error."""
    from sklearn.metrics import log_loss

    return {
        **accuracy(probabilities, labels),
        "negative_log_likelihood": float(log_loss(labels, probabilities, labels=list(range(len(EXPRESSIONS))))),
        "expected_calibration_error": calibration(probabilities, labels)["expected_calibration_error"],
    }


def paired_difference(right: Sequence[bool], others_right: Sequence[bool]) -> dict[str, Any]:
    """
    Return how much more accurate one network is than another on the same faces.

    Args:
        right: for each face, whether the one network predicts it right.
        others_right: the same of the other network, for the same faces in the same order.

    Returns:
        the `difference` of accuracies (-1..1) with its normal 95% `interval` over the faces, how many faces only the
        one (`only_first`) or only the other (`only_second`) has right, and the exact `p_value` of McNemar's test (1947)
        on these.
    """
    from scipy.stats import binomtest

    differences = np.asarray(right, float) - np.asarray(others_right, float)
    first, second = int((differences > 0).sum()), int((differences < 0).sum())
    difference = Mean.of(differences)
    return {
        "difference": difference.mean,
        "interval": list(difference.interval),
        "only_first": first,
        "only_second": second,
        "p_value": float(binomtest(first, first + second).pvalue) if first + second else 1.0,
    }


def per_expression(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return precision, recall and F1 (0..1) and faces per expression, their plain means, and the confusion matrix."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted, classes = probabilities.argmax(1), list(range(len(EXPRESSIONS)))
    values = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    present = np.unique(labels)
    return {
        "per_expression": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "faces": int(count)}
            for name, p, r, f, count in zip(EXPRESSIONS, *values)
        },
        # Over the expressions that the set has: a set without fear does not measure fear.
        "mean_recall": float(values[1][present].mean()),
        "mean_f1": float(values[2][present].mean()),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def votes_agreement(faces: FaceImages) -> float | None:
    """Return the share of the faces whose most-voted FER+ label is their FER2013 label; `None` without votes."""
    if faces.votes is None:
        return None
    # FER+'s order in indices of EXPRESSIONS; contempt, unknown and no-face are none of the seven.
    own = np.array([6, 3, 5, 4, 0, 1, 2, -1, -1, -1])
    return float((own[faces.votes.argmax(1)] == faces.labels).mean())


__all__ = [
    "CALIBRATION_BINS",
    "Mean",
    "accuracy",
    "calibration",
    "coverage",
    "paired_difference",
    "per_expression",
    "scores",
    "softmax",
    "votes_agreement",
]
