"""The formulas once more, in PyTorch and float64, sharing no code with the package."""
