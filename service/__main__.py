"""`python -m service` is `gradless`."""

from service.cli import main

main()
