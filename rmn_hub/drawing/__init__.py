"""Images of results: annotated photos, panels of a face, figures of an evaluation."""
