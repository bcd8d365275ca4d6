"""What `train` is made of: step, initial state, optimiser, perturbations, logging."""
