"""Exports: networks as files for other runtimes."""
