"""`sordino completion`: what a shell needs to complete commands, options and their values."""

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Bash: put `eval "$(sordino completion bash)"` into ~/.bashrc. Zsh: the same with zsh into ~/.zshrc. Fish: write
    the output to ~/.config/fish/completions/sordino.fish.
    """
    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(root.command, {}, "sordino", "_SORDINO_COMPLETE").source())
