"""Names for the moments at which a process may die, so that tests can make it die there.

Called as `faults.reach("…")`, through the module: the tests put a function that kills the process in its place.
"""


def reach(point: str) -> None:
    """Nothing happens here, except in a test of what is left when it does."""
