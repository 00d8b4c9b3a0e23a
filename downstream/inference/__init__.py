"""From cells to a verdict: paired differences, tests, intervals, power, the reader comparison."""
