"""Compiles programs for absent machines: topologies, memory needs, costs."""
