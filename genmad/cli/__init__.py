"""The command line: parse, call, print."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and gives back its exit code; `argv` without the program's name, None for the process's own."""
    from genmad.cli.app import run

    return run(argv)
