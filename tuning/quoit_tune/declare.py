"""How a setting is declared: what it is called, why it matters, what following the advice costs, and by how much it helps."""

# What was measured says on what; what was not says what it would take.
NEEDS_METAL = "not measured: needs bare metal"
NEEDS_NIC = "not measured: needs a real network card"


def setting(name, why, cost, effect, when_named=False):
    """Gives a function of (machine, target) that returns a Finding its place in the report."""

    def declare(look):
        look.about = {"name": name, "why": why, "cost": cost, "effect": effect, "when_named": when_named}
        return look

    return declare
