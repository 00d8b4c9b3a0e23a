"""From conditions and seeds to images: the sampler, and the sets of four that people score.

In: a stack and conditions drawn from a study's captions and masks. Out: images as arrays, or rating and comparison sets
stored in the study; and the check whether a generator draws in every mode.
"""
