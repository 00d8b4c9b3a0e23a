"""The study record: configuration, database, images, masks, labels, splits, phantom, agreement. No torch."""
