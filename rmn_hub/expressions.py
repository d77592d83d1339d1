"""The seven expressions, in the order that every tensor, table and image of the project keeps."""

# FER2013's class order (Goodfellow et al., "Challenges in representation learning", 2013). `model.configuration_rmn`
# has a copy, because a Hub repository carries that file alone; a test compares the two.
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

__all__ = ["EXPRESSIONS"]
