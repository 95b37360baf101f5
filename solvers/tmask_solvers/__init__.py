"""The built-in solvers of tmask, one backend per file; `tmask.solving.registry` names them."""
