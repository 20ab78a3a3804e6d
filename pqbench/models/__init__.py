"""Where models come from: networks, weights, and the head that fits a data set."""
