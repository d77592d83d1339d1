"""`python -m rmn_hub`, which is how `accelerate launch -m rmn_hub train ...` starts a run."""

from .cli.shared import main

main()
