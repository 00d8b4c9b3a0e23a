"""Five-word captions: which records are due, by rules or by a chat endpoint, and how they are stored.

In: reports and labels of records. Out: captions, each with the version of what wrote it.
"""
