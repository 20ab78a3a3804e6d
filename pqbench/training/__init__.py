"""Training: fit a head, fine-tune, distil, train from scratch."""
