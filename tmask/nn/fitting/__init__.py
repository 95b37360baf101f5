"""One layer pruned: its score, its mask, and the weights refitted on it."""
