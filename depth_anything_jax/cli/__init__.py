"""What the command line of predict shares: inputs, outputs, batches, resuming."""
