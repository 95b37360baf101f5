"""What solvers of every kind share."""
