"""What a tensor of a model file is for: a weight that gets a mask, or something else, and why."""
