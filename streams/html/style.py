"""The look of a report: one stylesheet, light and dark, desktop and phone. Contrast of all text is AA."""

from __future__ import annotations

_LIGHT = """
--page:#f4f6f9;--card:#ffffff;--text:#18202c;--muted:#566070;--line:#d8dee8;--faint:#eaeef4;
--accent:#1d5bbf;--notice:#855300;--warning:#b04708;--critical:#b5122b;--good:#146338;
--bar:#9db4d6;--benign:#b9c6d8;--shade:0 1px 2px rgba(20,30,50,.07),0 4px 16px rgba(20,30,50,.05);
"""
_DARK = """
--page:#0e131a;--card:#171e28;--text:#e7ecf3;--muted:#a7b3c3;--line:#303b4a;--faint:#222b38;
--accent:#86b6ff;--notice:#f2bb52;--warning:#ff9c62;--critical:#ff8089;--good:#74d6a0;
--bar:#47628c;--benign:#3c4a5e;--shade:none;
"""

STYLE = f""":root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
@media print{{:root{{{_LIGHT}}}details>*{{display:block}}}}""" + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans","DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1180px;margin:0 auto;padding:28px 20px 64px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px;letter-spacing:-.015em}
h2{font-size:1.25rem;margin:44px 0 4px;letter-spacing:-.01em}
h3{font-size:.95rem;margin:0 0 10px}
p{margin:0 0 12px;max-width:78ch}
a{color:var(--accent);text-underline-offset:2px}
code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.86em}
code{background:var(--faint);padding:2px 5px;border-radius:5px;overflow-wrap:anywhere}
.muted{color:var(--muted)}.small{font-size:.86rem}
.notice{color:var(--notice)}.warning{color:var(--warning)}.critical{color:var(--critical)}
.good{color:var(--good)}.strong{font-weight:650}
.banner{border:1px solid var(--critical);color:var(--critical);background:var(--card);border-radius:10px;
padding:10px 14px;margin:14px 0;font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:22px 0 0}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:12px;box-shadow:var(--shade)}
.tile{padding:12px 16px}
.tile b{display:block;font-size:1.55rem;line-height:1.25;letter-spacing:-.02em;overflow-wrap:anywhere}
.tile span{color:var(--muted);font-size:.86rem}
.card{padding:18px 20px;margin:14px 0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(330px,100%),1fr));gap:26px 34px}
.grid>div{min-width:0}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{color:var(--muted);font-weight:600;text-align:left;font-size:.8rem;white-space:nowrap}
th,td{padding:7px 16px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
th.n,td.n{text-align:right}td.w{white-space:nowrap}
tr.total td{font-weight:650}
details>summary{cursor:pointer;list-style:none;display:flex;flex-wrap:wrap;gap:4px 14px;align-items:baseline}
details>summary::-webkit-details-marker{display:none}
details>summary::before{content:"▸";color:var(--muted);width:.8em}
details[open]>summary::before{content:"▾"}
details>summary:focus-visible{outline:2px solid var(--accent);outline-offset:4px;border-radius:4px}
.body{margin-top:16px}
.lane{display:grid;grid-template-columns:250px 1fr;gap:2px 18px;align-items:center;padding:5px 0;
border-bottom:1px solid var(--line)}
.lane:last-child{border-bottom:0}
.lane .label{white-space:nowrap;overflow:hidden;text-overflow:ellipsis;min-width:0}
.track{position:relative;height:22px;margin:0 10px;min-width:0}
.track::before{content:"";position:absolute;left:-10px;right:-10px;top:50%;border-top:1px dotted var(--line)}
.track i{position:absolute;top:50%;transform:translate(-50%,-50%);font-style:normal;line-height:1;font-size:13px}
.track s{position:absolute;top:50%;height:4px;margin-top:-2px;border-radius:2px;background:var(--bar);min-width:3px}
.ticks{display:flex;justify-content:space-between;color:var(--muted);font-size:.8rem;margin:0}
.bars{display:grid;grid-template-columns:minmax(96px,auto) 1fr minmax(84px,auto);gap:7px 12px;align-items:center;
font-size:.88rem}
.bar{position:relative;height:14px;background:var(--faint);border-radius:4px;min-width:0}
.bar u{position:absolute;left:0;top:0;bottom:0;border-radius:4px;background:var(--benign);text-decoration:none}
.bar u.on{background:var(--critical)}
.bar b{position:absolute;top:-3px;bottom:-3px;border-left:2px solid var(--text);opacity:.65}
.bar b.soft{border-left:2px dotted var(--muted)}
.value{text-align:right;white-space:nowrap}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11.5px;fill:var(--muted);font-family:inherit}
svg .axis{stroke:var(--line);stroke-width:1}
svg .bound{stroke-width:1.2;stroke-dasharray:4 4;fill:none}
svg .line{fill:none;stroke:var(--accent);stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
svg .ahead{fill:none;stroke:var(--accent);stroke-width:1.8;stroke-dasharray:2 5;stroke-linecap:round}
svg .b-notice{stroke:var(--notice)}svg .b-warning{stroke:var(--warning)}svg .b-critical{stroke:var(--critical)}
svg text.notice{fill:var(--notice)}svg text.warning{fill:var(--warning)}svg text.critical{fill:var(--critical)}
svg text.mark{font-size:13px}svg text.text{fill:var(--text)}
svg .bin{fill:var(--benign)}svg .bin.odd{fill:var(--bar)}svg .bin.here{fill:var(--critical)}
svg .edge{stroke:var(--line);stroke-width:1.2}
svg .node{fill:var(--benign);stroke:var(--card);stroke-width:1.5}
svg .node.notice{fill:var(--notice)}svg .node.warning{fill:var(--warning)}svg .node.critical{fill:var(--critical)}
svg .hub{fill:var(--accent)}
dl{display:grid;grid-template-columns:auto 1fr;gap:4px 16px;margin:0;font-size:.9rem}
dt{color:var(--muted)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
ul{margin:0;padding-left:1.1em}li{margin:2px 0}
footer{margin-top:48px;color:var(--muted);font-size:.86rem}
.dots{display:grid;grid-template-columns:minmax(180px,auto) 1fr;gap:0 16px;font-size:.9rem;align-items:center}
.dots .track{height:26px}
@media (max-width:640px){
main{padding:18px 14px 48px}h1{font-size:1.4rem}.card{padding:15px}
.tiles{grid-template-columns:1fr 1fr}
.lane,.dots{grid-template-columns:1fr}
.dots>.name{padding-top:8px}
.bars{grid-template-columns:1fr auto;gap:3px 12px}.bars .bar{grid-column:1/-1;grid-row:auto;order:0;margin-bottom:8px}
.bars .value{grid-column:2}.bars .bar{grid-row-start:auto}
dl{grid-template-columns:1fr}dd{margin-bottom:6px}
}
"""
