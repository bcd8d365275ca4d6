"""The student step written twice: ours in JAX, its twin in PyTorch, compared number by number."""
