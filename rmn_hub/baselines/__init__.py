"""Baselines: other networks in the recognizer's form, and ensembles of networks."""
