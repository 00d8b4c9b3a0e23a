"""What an arm is worth: fresh conditions, the judge, held-out preferences; and the simulated raters."""
