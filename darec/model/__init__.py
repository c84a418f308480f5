"""Models of collaborative filtering, and the mathematics that they share.

`backbones` lists the trained models, `closed_form` those with a closed-form solution; one file each. The shared
mathematics: propagation over the graph, losses, softmax, clustering, whitening, and vectors for cold items.
"""
