"""What a model costs, as counted here and as the papers publish it."""
