"""Online: policies that learn from each answer they gave, and know the propensity of each choice."""
