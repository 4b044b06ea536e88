"""Recordings of peers: written while they work, read where their lives are looked at again."""

from .files import BadRecording, Beginning, Recorded, RecordingFile
from .packed import marks_of, name_of
from .recorder import RecordedCore, Recorder

__all__ = ["BadRecording", "Beginning", "Recorded", "RecordedCore", "Recorder", "RecordingFile", "marks_of", "name_of"]
