"""How a pack looks, on a screen and on paper; no font, picture or script from anywhere else."""

STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --blue: #0550ae; --good: #116329; --bad: #a40e26; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: var(--ink);
       margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1240px; background: #fff; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { max-width: 75ch; margin: .4rem 0; }
.sub, figcaption, .hint { color: var(--soft); }
.answer { border-left: 8px solid; padding: .9rem 1.2rem; margin: 1.4rem 0; background: #f6f8fa; }
.answer p { font-size: 1.1rem; max-width: 80ch; }
.answer .word { font-weight: 700; font-size: 1.35rem; margin: 0; }
.good { border-color: var(--good); } .good .word { color: var(--good); }
.open { border-color: #9a6700; } .open .word { color: #9a6700; }
.bad { border-color: var(--bad); } .bad .word { color: var(--bad); }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .84rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .55rem; border-bottom: 1px solid var(--rule); }
thead th { font-weight: 600; background: #f6f8fa; border-bottom: 2px solid var(--rule); vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 2px solid var(--rule); }
.wide thead th { white-space: normal; }
.wide td:first-child { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: .78rem/1.35 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
td code { display: inline-block; min-width: 16ch; max-width: 17ch; }
.facts { width: auto; } .facts th { font-weight: 600; white-space: nowrap; } .facts code { max-width: none; }
.place { overflow-wrap: anywhere; display: inline-block; min-width: 14ch; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: .5rem 2rem; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .85rem; } .empty { color: var(--soft); }
svg { width: 100%; height: auto; } .steps { max-width: 760px; margin-top: 1.2rem; }
.grid { stroke: #e4e8ec; } .axis { stroke: var(--soft); } .limit { stroke: var(--bad); stroke-dasharray: 6 4; }
.bar, .dot { fill: var(--blue); } .line { fill: none; stroke: var(--blue); stroke-width: 1.6; }
.tick { font-size: 11.5px; fill: var(--soft); } .label { font-size: 12.5px; fill: var(--ink); }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; max-width: 80ch; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { padding: 0; max-width: none; font-size: 10.5pt; } a { color: inherit; text-decoration: none; }
  .wide { overflow: visible; } table { font-size: 7.6pt; } code { font-size: 6.8pt; }
  thead { display: table-header-group; } tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .answer, thead th { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .figures { grid-template-columns: 1fr 1fr; }
}
"""
