"""``python -m smartscale`` is the command line."""

from smartscale.cli import main

if __name__ == "__main__":
    main()
