"""The steps of study.db's schema, one module each, applied in order by `data.migrations`.

In: a connection with an open transaction at the schema before. Out: the schema that the module's number says. A step
that was released never changes: a new step is a new module.
"""
