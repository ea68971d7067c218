"""`python -m pointsman.cli`, where the console script is not on the path."""

from pointsman.cli import main

main()
