"""What a look at one setting finds: its value, the advice, and what following it takes."""

from dataclasses import dataclass, field

from machine import chosen, parse_cpus, parse_mask

# How a change's file is compared: as text, as its chosen word, or as a set of CPUs however it is written.
READERS = {
    "text": lambda shown: shown.strip(),
    "choice": lambda shown: chosen(shown) or shown.strip(),
    "cpus": lambda shown: parse_cpus(shown.strip()),
    "mask": lambda shown: parse_mask(shown.strip()),
}


@dataclass
class Change:
    """One file to be written, and how what is in it is compared."""

    path: str
    kind: str
    wanted: str


@dataclass
class Finding:
    """What was found about one setting.

    `verdict` is "good", "advice" (it could be better), "unfit" (Quoit can't run like this) or "unseen".
    """

    verdict: str
    value: str
    advice: str = ""
    changes: list = field(default_factory=list)
    # What only a person can do: commands, boot parameters, a service file's lines.
    by_hand: list = field(default_factory=list)
    # Filled in from the setting's declaration.
    name: str = ""
    why: str = ""
    cost: str = ""
    effect: str = ""
    # Changed by apply only when it is named.
    when_named: bool = False


def good(value):
    return Finding("good", value)


def unseen(reason):
    return Finding("unseen", reason)
