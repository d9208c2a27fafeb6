"""``mpnet completion``: scripts that make shells complete mpnet's words."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    For bash: eval "$(mpnet completion bash)" in ~/.bashrc.
    """
    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(ctx.find_root().command, {}, "mpnet", "_MPNET_COMPLETE").source())
