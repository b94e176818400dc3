# SPDX-License-Identifier: MIT
"""What the moves of the measurement "converge" come to: shares of them, counted from its rows."""
from dataclasses import dataclass

TOTAL_ERROR = 0.15
BLACKOUT_ERROR, BLACKOUT_SLACK_MS = 0.30, 5


@dataclass
class Finding:
    """One sentence's worth: a figure beside its target (None: there is none)."""
    what: str
    value: float
    target: float
    is_share: bool  # of moves, 0 to 1, which should be the target at least; else it is the most
    of: int  # how many moves it is about

    @property
    def is_met(self):
        if self.target is None:
            return True
        return self.value >= self.target if self.is_share else self.value <= self.target

    def text(self):
        shown = f"{100 * self.value:.0f} %" if self.is_share else f"{self.value:.2f}"
        if self.target is None:
            return f"{self.what}: {shown} of {self.of}" if self.is_share else f"{self.what}: {shown}"
        wanted = f"{100 * self.target:.0f} %" if self.is_share else f"{self.target:.2f}"
        bound = "at least" if self.is_share else "at most"
        of = f" of {self.of} moves" if self.is_share else ""
        missed = "" if self.is_met else ", MISSED"
        return f"{self.what}: {shown}{of} (target: {bound} {wanted}{missed})"


def is_total_right(row):
    """The forecast of the total time against what came."""
    forecast = row["forecast"]["seconds"]
    return forecast is not None and abs(forecast - row["seconds"]) <= TOTAL_ERROR * row["seconds"]


def is_blackout_right(row):
    forecast = row["forecast"]["blackout_ms"]
    if forecast is None:
        return False
    slack = max(BLACKOUT_ERROR * row["blackout_ms"], BLACKOUT_SLACK_MS)
    return abs(forecast - row["blackout_ms"]) <= slack


def share(rows, is_so):
    return sum(map(bool, map(is_so, rows))) / len(rows)


def findings(part, who):
    """What is to be said about one of those who moved guests."""
    rows = [row for row in part["runs"] if row["who"] == who]
    done = [row for row in rows if "error" not in row]
    ours = who.startswith("godwit")
    budget_ms = part["max_blackout_ms"]
    found = []

    def add_share(what, among, is_so, target):
        if among:
            found.append(Finding(what, share(among, is_so), target if ours else None, True,
                                 len(among)))

    def add_most(what, among, target):
        if among:
            found.append(Finding(what, max(row["of_floor"] for row in among),
                                 target if ours else None, False, len(among)))

    add_share("completed", rows, lambda row: "error" not in row, 1)
    add_share(f"blackout at the probe within {budget_ms} ms", done,
              lambda row: row["gap_ms"] <= budget_ms, 0.95)
    add_most("longest total over the floor, up to 100 %",
             [row for row in done if row["share"] <= 100], 1.5)
    add_most("longest total over the floor, above 100 %",
             [row for row in done if row["share"] > 100], 2)
    told = [row for row in done if row.get("forecast")]
    add_share("forecast of the total within 15 %", told, is_total_right, 0.9)
    add_share("forecast of the blackout within 30 % or 5 ms", told, is_blackout_right, 0.9)
    return found


def movers(part):
    return list(dict.fromkeys(row["who"] for row in part["runs"]))
