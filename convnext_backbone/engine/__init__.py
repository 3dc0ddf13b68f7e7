"""What runs a training: the runner, its hooks, layer decay, sharding and deterministic resume."""
