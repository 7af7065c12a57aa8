"""Whether the migrations make the tables that `app.tables` describes: `python -m tests.migrations_are_current`.

Asks what `piccolo migrations new --auto` asks, and writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from itertools import chain

from piccolo.apps.migrations.commands.new import AutoMigrationManager

from app.piccolo_app import APP_CONFIG


async def missing() -> list[str]:
    """The statements that another migration would have to hold."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table of counts
        # Was something renamed? No: that only makes the answer longer.
        alterations = await AutoMigrationManager(auto_input="n").get_alter_statements(APP_CONFIG)
    return list(chain.from_iterable(each.statements for each in alterations))


def main() -> int:
    statements = asyncio.run(missing())
    for statement in statements:
        print(statement)  # noqa: T201  # it speaks to people
    if statements:
        print('The tables have changed: run "piccolo migrations new heirloom --auto".', file=sys.stderr)  # noqa: T201
    return bool(statements)


if __name__ == "__main__":
    sys.exit(main())
