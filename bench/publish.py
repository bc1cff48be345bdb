"""Write the table in docs/performance.md from `results/latest.json`: `python -m bench.publish`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from bench.harness import RESULTS, number

PAGE: Final = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN: Final = "<!-- results: written by python -m bench.publish -->"
END: Final = "<!-- end of results -->"


def main() -> None:
    """Replace the text between the two markers."""
    results = json.loads((RESULTS / "latest.json").read_text())
    here = json.loads((RESULTS / "machine.json").read_text())
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{_table(results, here)}\n{END}{after}")


def _table(results: list[dict[str, Any]], here: dict[str, str]) -> str:
    lines = [
        f"Measured on {', '.join(here.values())}; medians, in brackets the extremes of the rounds.",
        "",
        "| name | figure | unit | reference | its figure | ratio | target | met | rounds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}x"
        cells = [
            r["name"],
            f"{number(r['figure'])} ({number(r['low'])} - {number(r['high'])})",
            r["unit"],
            r["reference"] or "",
            number(r["reference_figure"]) if r["reference"] else "",
            ratio,
            r["target"],
            "yes" if r["met"] else "**no**",
            str(r["rounds"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- `{r['name']}`: {r['note']}" for r in results if r["note"]]
    return "\n".join([*lines, "", *notes, ""])


if __name__ == "__main__":
    main()
