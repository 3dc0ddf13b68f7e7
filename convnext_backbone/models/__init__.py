"""The networks, as the papers have them. They know nothing of files, configs or training."""
