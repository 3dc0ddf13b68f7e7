"""From files to batches: decoding, transforms, shards, and loaders whose order depends only on the seed."""
