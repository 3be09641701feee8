"""What is being learnt: one file, one loss."""
