"""The mathematics of the models: propagation, losses, clustering, closed forms."""
