"""Checkpoints: found, loaded, converted, described by a card, and published."""
