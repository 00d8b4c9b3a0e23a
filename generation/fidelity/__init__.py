"""What is said about a generator's images: how like real ones, how varied, how obedient, and whether copied.

In: images of an arm or a folder, real images of the study, the measuring networks. Out: the fidelity page and its
JSON, the report on held-out conditions, and a folder to share, which is not written if samples look like copies.
"""
