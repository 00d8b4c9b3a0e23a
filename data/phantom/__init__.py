"""The digital phantom: a parametric thorax projected through the Beer-Lambert law, with exact masks, labels and a
report.

In: a `PhantomSpec` (seed, findings). Out: a 16-bit radiograph, masks, labels, report. `render` is the entry.
"""
