"""The weights of a model that have masks: which ones, how a mask is found, and what is reported of each."""
