"""How far raters agree, with themselves and each other: coefficients, intraclass correlation, rater quality, planning.

In: scores as data frames. Out: figures with intervals, as frozen dataclasses or plain numbers. Knows no server and no
model.
"""
