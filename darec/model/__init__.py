"""Models of collaborative filtering, and the mathematics that they share.

`backbones` lists the models that are trained, `closed_form` those that are computed; one file each. The mathematics:
propagation over the graph, losses, softmax, clustering, whitening, and vectors for cold items.
"""
