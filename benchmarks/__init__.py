"""What csp costs, next to what one would use without it; see README.md."""
