"""What `--help` says of a command, short enough for a screen, with examples; and how its texts are completed."""
