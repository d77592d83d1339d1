"""Baselines: the networks that the RMN is compared with, by name."""
