"""From files to batches: decoding, transforms, shards, and loaders whose order depends on the seed alone."""
