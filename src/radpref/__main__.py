"""``python -m radpref``: the command line."""

from radpref.cli import main

main()
