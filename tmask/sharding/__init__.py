"""One file's layers solved by several processes that never talk: which does what, and their outputs put together."""
