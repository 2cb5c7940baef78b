"""`python -m engines.fake`."""

import typer

from engines.fake.command import fake_engine

if __name__ == "__main__":
    typer.run(fake_engine)
