"""All blocks of a stack at once, in operations of torch."""
