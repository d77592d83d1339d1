"""Engines: the runtimes that turn pixel values into logits and attention maps."""
