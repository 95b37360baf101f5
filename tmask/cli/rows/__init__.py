"""Results of commands as rows, for tables, JSON and CSV."""
