"""Files from elsewhere: downloads, and weights that come as a package."""
