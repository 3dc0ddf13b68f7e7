"""From a weights file of any known format to the tensors of a model: strict, safe and reported."""
