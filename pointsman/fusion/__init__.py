"""Labels in gold units, from a few gold labels and many of biased judges."""
