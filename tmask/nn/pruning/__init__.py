"""Trained models pruned with little data: one file a method, and the way through a model that they share."""
