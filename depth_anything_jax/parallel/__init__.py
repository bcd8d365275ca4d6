"""Meshes, shardings, jitted programs for several devices, and multi-process runs."""
