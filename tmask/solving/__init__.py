"""From a weight to a mask: the interface of solvers, the registry of them, and the ways through a whole weight."""
