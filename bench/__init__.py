"""What counting costs, measured beside its peers."""
