"""What `tmask prune` does around the pruning itself."""
