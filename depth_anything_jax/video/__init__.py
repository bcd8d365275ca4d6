"""Reads, smooths and writes videos of depth; `process.process` converts a whole file.

This package is independent of the models. Reading and writing use PyAV (FFmpeg), the extra [video].
"""
