"""Evaluation: scores, calibration, robustness, faithfulness of the maps, and speed."""
