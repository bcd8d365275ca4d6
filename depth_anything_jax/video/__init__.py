"""Depth of videos: `process.process` does a whole file; `reader`, `writer`, `smooth` are its parts.

Nothing here knows a model. Reading and writing go through PyAV (FFmpeg), the extra [video].
"""
