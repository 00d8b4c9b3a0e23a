"""The networks that look at images: raters', judge, fidelity and proxy, in disjoint roles.

In: images with attributes, masks or captions. Out: trained networks, each entered in a study under one role, and what
they see: probabilities, structure maps, features, how well an image fits a text.
"""
