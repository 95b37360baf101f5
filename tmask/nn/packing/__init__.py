"""2:4 weights as sparse tensor cores read them, the routes there, and whether they can be believed and pay."""
