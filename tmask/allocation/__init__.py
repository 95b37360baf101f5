"""Choose each layer's pattern under one budget for the whole model, so that the loss is least."""

from tmask.allocation.allocating import Allocation, Choice, allocate, retained_losses

__all__ = ["Allocation", "Choice", "allocate", "retained_losses"]
