"""``mpnet doctor``: what is missing on this machine, and the command that mends it."""

import click

from mpnet.cli.checks import CHECKS, Outcome
from mpnet.cli.options import json_output, print_json
from mpnet.cli.security import CHECKS as SECURITY_CHECKS

_MARKS = {
    Outcome.OK: ("ok", "green"),
    Outcome.MISSING: ("MISSING", "red"),
    Outcome.OPTIONAL: ("optional", "yellow"),
}


@click.command()
@click.option(
    "--security", is_flag=True, help="What workers can give up on this machine, and what they have given up."
)
@json_output
@click.pass_context
def doctor(ctx: click.Context, security: bool, as_json: bool) -> None:
    """Tell what is missing here and the command that mends it.

    Exit status 1 if something is missing that serving a device needs.
    """
    findings = [finding for check in (SECURITY_CHECKS if security else CHECKS) for finding in check()]
    if as_json:
        print_json(
            [
                {"name": each.name, "outcome": each.outcome.value, "detail": each.detail, "remedy": each.remedy}
                for each in findings
            ]
        )
    else:
        for finding in findings:
            mark, colour = _MARKS[finding.outcome]
            click.echo(f"{click.style(f'{mark:<8}', fg=colour)}  {finding.name}: {finding.detail}")
            if finding.remedy:
                click.echo(f"          {finding.remedy}")
    if any(finding.outcome is Outcome.MISSING for finding in findings):
        ctx.exit(1)
