"""What happens around experiments: Hydra, sweeps, search."""
