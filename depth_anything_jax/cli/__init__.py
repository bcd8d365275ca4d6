"""Parts of the predict program: input discovery, output files, batch processing, resuming."""
