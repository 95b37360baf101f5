"""What is known of a mask: its counts, its worth, bounds by column prices, and the certificate that says so."""
