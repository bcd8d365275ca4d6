"""Meshes, shardings, device programs and processes."""
