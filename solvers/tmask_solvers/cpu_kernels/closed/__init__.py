"""1:4, 2:4 and 3:4 in closed form."""
