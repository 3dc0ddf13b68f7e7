"""The networks, as in the papers; independent of files, configs and training."""
