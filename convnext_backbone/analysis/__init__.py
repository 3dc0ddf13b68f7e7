"""What a model costs, beside what the papers publish."""
