#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""One page of HTML from a JSON file of bench/run: bench/report.py bench.json [bench.html]

The page needs nothing but itself: charts are SVG inside it, with the figures as text, and the JSON
they come from is at its end.
"""
import html
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from charts import CHARTS, OURS, QEMU, REFERENCE  # noqa: E402

LABEL_PX, BAR_PX, VALUE_PX, ROW_PX, TOP_PX = 260, 380, 260, 22, 6
NOT_MEASUREMENTS = ("machine", "about")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 64em; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff }
h2 { margin: 2em 0 0; border-top: 1px solid #bbb; padding-top: .6em }
h3 { margin: 1.4em 0 .3em; font-size: 1em }
p { margin: .3em 0 } .error { color: #b00020 } .quiet { color: #666 }
svg { display: block; max-width: 100%; height: auto }
svg text { font: 12px system-ui, sans-serif; fill: #222 } svg text.note { fill: #666 }
.ours { fill: #2463b4 } .qemu { fill: #c98a2b } .reference { fill: #8a8f98 }
.whisker { stroke: #222; stroke-width: 1.5 } .target { stroke: #b00020; stroke-dasharray: 4 3 }
svg text.target-text { fill: #b00020; stroke: none }
table { border-collapse: collapse } td { padding: .1em 1em .1em 0 } td.figure { text-align: right }
pre { overflow: auto; max-height: 30em; background: #f4f4f4; padding: 1em }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181a1d } h2 { border-color: #555 } pre { background: #24272b }
  svg text { fill: #ddd } .quiet, svg text.note { fill: #999; color: #999 }
  .ours { fill: #6aa5f0 } .whisker { stroke: #ddd } .error { color: #ff6b7d }
  .target { stroke: #ff6b7d } svg text.target-text { fill: #ff6b7d }
}
"""


def figure(value):
    """As many digits as mean something."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def text(x, y, what, css="", anchor="start"):
    css = f' class="{css}"' if css else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{css}>{html.escape(what)}</text>'


def row(bar, y, scale, unit):
    middle = y + ROW_PX / 2
    parts = [text(LABEL_PX - 8, middle + 4, bar.label, anchor="end"),
             f'<rect x="{LABEL_PX}" y="{y + 4}" width="{max(bar.value * scale, 1):.1f}" '
             f'height="{ROW_PX - 8}" class="{bar.kind}"/>']
    low, high = min(bar.values), max(bar.values)
    if high > low:
        parts.append(f'<line class="whisker" x1="{LABEL_PX + low * scale:.1f}" y1="{middle}" '
                     f'x2="{LABEL_PX + high * scale:.1f}" y2="{middle}"/>')
    end = LABEL_PX + high * scale + 8
    shown = f"{figure(bar.value)} {unit}" + (f"  ({bar.note})" if bar.note else "")
    parts.append(text(end, middle + 4, shown))
    return "".join(parts)


def svg(chart):
    bars = [bar for bar in chart.bars if bar.values]
    top = max([max(bar.values) for bar in bars] + [chart.target or 0]) or 1
    scale = BAR_PX / top
    height = TOP_PX + ROW_PX * len(bars) + (18 if chart.target else 4)
    parts = [f'<svg viewBox="0 0 {LABEL_PX + BAR_PX + VALUE_PX} {height}" role="img" '
             f'width="{LABEL_PX + BAR_PX + VALUE_PX}" height="{height}" '
             f'aria-label="{html.escape(chart.title)}">']
    parts += [row(bar, TOP_PX + i * ROW_PX, scale, chart.unit) for i, bar in enumerate(bars)]
    if chart.target:
        x = LABEL_PX + chart.target * scale
        parts.append(f'<line class="target" x1="{x:.1f}" y1="{TOP_PX}" x2="{x:.1f}" '
                     f'y2="{height - 14}"/>')
        parts.append(text(x, height - 3, f"target {figure(chart.target)} {chart.unit}",
                          "target-text", "middle"))
    return "".join(parts) + "</svg>"


def chart_html(chart):
    direction = "less is better" if chart.is_less_better else "more is better"
    parts = [f'<h3>{html.escape(chart.title)} <span class="quiet">({chart.unit}, {direction})'
             '</span></h3>']
    if any(bar.values for bar in chart.bars):
        parts.append(svg(chart))
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in chart.sentences]
    return "\n".join(parts)


def figures(part, path=()):
    """Every number below part with its path."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from figures(value, path + (str(key),))
    elif isinstance(part, (list, tuple)):
        if all(isinstance(value, (int, float)) for value in part):
            yield path, ", ".join(figure(value) for value in part)
        else:
            for number, value in enumerate(part):
                yield from figures(value, path + (str(number),))
    else:
        yield path, figure(part)


def table(part):
    rows = "".join(f'<tr><td>{html.escape(" / ".join(path))}</td>'
                   f'<td class="figure">{html.escape(value)}</td></tr>'
                   for path, value in figures(part))
    return f"<table>{rows}</table>"


def section(name, part, about):
    parts = [f'<h2 id="{html.escape(name)}">{html.escape(name)}</h2>',
             f'<p class="quiet">{html.escape(about)}</p>']
    if set(part) == {"error"}:
        parts.append(f'<p class="error">Not measured: {html.escape(part["error"])}</p>')
    elif name in CHARTS:
        parts += [chart_html(chart) for chart in CHARTS[name](part)]
    else:
        parts.append(table(part))
    return "\n".join(parts)


def render(results):
    machine = results.get("machine", {})
    facts = ", ".join(f"{key} {value}" for key, value in machine.items())
    about = results.get("about", {})
    names = [name for name in results if name not in NOT_MEASUREMENTS]
    links = " · ".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in names)
    legend = "".join(
        f'<svg width="14" height="12" style="display:inline"><rect class="{kind}" y="2" width="10" '
        f'height="10"/></svg>{label} &nbsp; '
        for kind, label in ((OURS, "Godwit"), (QEMU, "QEMU"), (REFERENCE, "other reference")))
    body = "\n".join(section(name, results[name], about.get(name, "")) for name in names)
    data = html.escape(json.dumps(results, indent=1), quote=False)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Godwit: measurements</title><style>{STYLE}</style></head>
<body>
<h1>Godwit: measurements</h1>
<p>{html.escape(facts)}</p>
<p>Everything stands beside its reference, measured in the same run. Bars are medians, the line in
a bar is the range of all repetitions.</p>
<p>{legend}</p>
<p>{links}</p>
{body}
<h2 id="data">The figures</h2>
<details><summary>JSON</summary><pre>{data}</pre></details>
</body>
</html>
"""


def write(results, path):
    with open(path, "w", encoding="utf-8") as file:
        file.write(render(results))


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        print(__doc__.strip().splitlines()[0], file=sys.stderr)
        return 2
    source = sys.argv[1]
    with open(source, encoding="utf-8") as file:
        results = json.load(file)
    write(results, sys.argv[2] if len(sys.argv) == 3 else os.path.splitext(source)[0] + ".html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
