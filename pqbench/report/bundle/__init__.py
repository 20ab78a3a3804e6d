"""What a bundle holds beside the model: its card, and the script that checks and times it."""
