"""Faces over time: a film in, who showed what when out."""

from .recognize import FilmResults, recognize
from .results import FrameResult
from .session import Session
from .timeline import Timeline, TrackSummary
from .tracking import FaceTracker, Track

__all__ = ["FaceTracker", "FilmResults", "FrameResult", "Session", "Timeline", "Track", "TrackSummary", "recognize"]
