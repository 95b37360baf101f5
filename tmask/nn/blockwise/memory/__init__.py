"""What pruning block by block holds, and gives back."""
