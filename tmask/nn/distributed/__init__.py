"""The processes that train one model together, and how they compare what they hold."""
