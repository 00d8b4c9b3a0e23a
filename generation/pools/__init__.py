"""Augmentation pools: synthetic training images with labels, many per task and arm.

In: a stack (or a proxy that filters candidates) and what a downstream task lacks. Out: images in the study, planned
ordinal by ordinal, sampled in shards by this process or by Ray workers; the same images whichever it was.
"""
