"""The built-in solvers of tmask, one backend per file; `tmask.registry` names them."""
