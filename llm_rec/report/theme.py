"""The look of the page: one style sheet, light and dark, a palette that colour-blind readers can tell apart.

The series colours are those of Okabe and Ito (2008), darkened or lightened where the ground asks for contrast.
"""

from html import escape

STYLE = """
:root { color-scheme: light dark; --ground:#fcfcfa; --panel:#ffffff; --ink:#1b1f24; --soft:#5b6470; --rule:#e3e4e0;
  --accent:#0b5cad; --best:#eef4fb; --c0:#0072b2; --c1:#d55e00; --c2:#008f6b; --c3:#b5518f; --c4:#a97400; --c5:#2a93c9;
  --c6:#6b5ca5; --c7:#3c3f44; --rest:#c9ccd0; }
@media (prefers-color-scheme: dark) { :root { --ground:#14171b; --panel:#1b1f25; --ink:#e8eaed; --soft:#a0a8b3;
  --rule:#30363e; --accent:#7db7ef; --best:#1f2d3d; --c0:#56a9e8; --c1:#f08a4b; --c2:#37c79d; --c3:#e08fc0;
  --c4:#e3b341;
  --c5:#8fd3f4; --c6:#a99bea; --c7:#c4c8ce; --rest:#454c55; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--ground); color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",Arial,sans-serif; -webkit-text-size-adjust:100%; }
main { max-width:1120px; margin:0 auto; padding:56px 28px 72px; }
.kicker { margin:0; color:var(--accent); font-size:13px; font-weight:600; letter-spacing:.08em;
  text-transform:uppercase; }
h1 { margin:6px 0 10px; font-size:clamp(28px,4.2vw,42px); line-height:1.12; letter-spacing:-.02em; text-wrap:balance; }
h2 { margin:56px 0 4px; font-size:22px; letter-spacing:-.01em; }
h3 { margin:0 0 2px; font-size:16px; }
p { margin:0 0 14px; max-width:72ch; }
.lead { font-size:18px; color:var(--soft); }
.note { color:var(--soft); font-size:14.5px; }
.figures { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr)); gap:20px;
  margin-top:18px; }
figure { margin:0; padding:18px 20px 12px; background:var(--panel); border:1px solid var(--rule); border-radius:10px;
  min-width:0; }
figure p { font-size:14px; line-height:1.45; color:var(--soft); margin-bottom:10px; }
figure > svg { display:block; width:100%; height:auto; overflow:visible; }
.legend { display:flex; flex-wrap:wrap; gap:2px 16px; list-style:none; margin:0 0 8px; padding:0; font-size:13px; }
.legend li { display:flex; align-items:center; gap:6px; }
.key { width:14px; height:14px; flex:none; }
.scroll { overflow-x:auto; margin-top:16px; background:var(--panel); border:1px solid var(--rule); border-radius:10px; }
table { border-collapse:collapse; width:100%; font-size:14.5px; font-variant-numeric:tabular-nums; }
caption { position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%); }
th,td { padding:9px 14px; text-align:right; border-top:1px solid var(--rule); white-space:nowrap; vertical-align:top; }
thead th { border-top:0; font-weight:600; font-size:13px; line-height:1.35; vertical-align:bottom; }
thead tr + tr th { border-top:0; padding-top:0; color:var(--soft); font-weight:500; }
thead th.group { text-align:center; padding-bottom:4px; }
th:first-child { text-align:left; position:sticky; left:0; background:var(--panel); }
tbody th { font-weight:600; }
td small, thead small { display:block; color:var(--soft); font-size:11.5px; font-weight:400; }
td.best { background:var(--best); font-weight:700; }
td.best small { font-weight:400; }
details { margin-top:14px; background:var(--panel); border:1px solid var(--rule); border-radius:10px; padding:4px
  18px; }
summary { cursor:pointer; padding:9px 0; font-weight:600; }
pre { overflow-x:auto; font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; margin:4px 0 16px; }
dl { display:grid; grid-template-columns:max-content minmax(0,1fr); gap:3px 20px; font-size:14px; margin:4px 0 16px; }
dt { color:var(--soft); } dd { margin:0; overflow-wrap:anywhere; font-variant-numeric:tabular-nums; }
footer { margin-top:56px; padding-top:16px; border-top:1px solid var(--rule); color:var(--soft); font-size:13px; }
svg text { font-family:inherit; fill:var(--ink); }
svg .tick { font-size:11.5px; fill:var(--soft); } svg .axis { font-size:12px; fill:var(--soft); }
svg .grid { stroke:var(--rule); stroke-width:1; }
.s0 { --c:var(--c0); } .s1 { --c:var(--c1); } .s2 { --c:var(--c2); } .s3 { --c:var(--c3); }
.rest { --c:var(--rest); } .s4 { --c:var(--c4); } .s5 { --c:var(--c5); } .s6 { --c:var(--c6); } .s7 { --c:var(--c7); }
svg .line { fill:none; stroke:var(--c); stroke-width:1.6; stroke-linejoin:round; opacity:.75; }
svg .whisker { stroke:var(--c); stroke-width:1.4; opacity:.5; }
svg .mark { fill:var(--c); stroke:var(--panel); stroke-width:1; } svg .hit { fill:transparent; }
svg .bar { fill:var(--c); stroke:var(--panel); stroke-width:1; }
svg .area { fill:var(--c); opacity:.85; }
svg .dot { fill:var(--c); fill-opacity:.85; } svg .dot.rest { fill:var(--rest); fill-opacity:.7; }
g:hover > .whisker { opacity:1; } .bar:hover, .dot:hover { stroke:var(--ink); }
@media (max-width:640px) { main { padding:32px 16px 48px; } h2 { margin-top:40px; } th,td { padding:8px 10px; }
  figure { padding:14px 12px 8px; } th:first-child { min-width:30vw; max-width:40vw; white-space:normal; } .lead {
  font-size:16.5px; }
  svg .tick, svg .axis { font-size:14px; } }
@media print { .figures { display:block; } figure { break-inside:avoid; margin-bottom:14px; } }
"""


def bare_page(title: str, body: str) -> str:
    """A self-contained page in this style: no script, no font, no request. `body` is HTML, `title` any text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main><header><h1>{escape(title)}</h1></header>{body}</main></body></html>\n"
    )
