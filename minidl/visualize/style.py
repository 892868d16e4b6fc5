"""The style sheet of the report: light and dark, from a phone to a wide screen, without any outside font."""

from minidl.palette import BLUE, GREEN, INK, LINE, MONO, ORANGE, PAPER, RED, SANS, SERIF, SOFT, VIOLET

_LIGHT = f""":root {{
  color-scheme: light dark;
  --paper: {PAPER}; --ink: {INK}; --soft: {SOFT}; --line: {LINE};
  --run0: {BLUE}; --run1: {ORANGE}; --run2: {GREEN}; --run3: {VIOLET};
  --right: {BLUE}; --wrong: {RED};
  --serif: {SERIF};
  --sans: {SANS};
  --mono: {MONO};
}}"""

_REST = """
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171716; --ink: #e9e6df; --soft: #9c9990; --line: #34332f;
    --run0: 116 172 226; --run1: 231 156 84; --run2: 128 192 142; --run3: 186 152 212;
    --right: 116 172 226; --wrong: 240 128 104;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: clamp(1.5rem, 5vw, 4.5rem) clamp(1rem, 4vw, 2.5rem) 5rem; max-width: 66rem;
  background: var(--paper); color: var(--ink); font: 1.0625rem/1.55 var(--serif);
}
h1 { margin: 0 0 2rem; font-size: clamp(1.5rem, 4vw, 2.1rem); font-weight: 600; line-height: 1.2;
  text-wrap: balance; overflow-wrap: anywhere; }
h2 { margin: 4rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: 1.35rem;
  font-weight: 600; }
h3 { margin: 2.25rem 0 .75rem; font-size: 1.0625rem; font-weight: 600; }
h3 small { color: var(--soft); font-size: .9em; font-weight: 400; }
p { margin: 0 0 1rem; max-width: 40rem; text-wrap: pretty; }
.soft { color: var(--soft); }
.result { margin: 0; max-width: none; font: clamp(3.5rem, 13vw, 6rem)/1 var(--serif);
  font-variant-numeric: lining-nums; letter-spacing: -.02em; }
.result small { margin-left: .35em; color: var(--soft); font-size: .32em; letter-spacing: 0;
  white-space: nowrap; }
.lede { margin: 1rem 0 .25rem; font-size: 1.2rem; }
table { border-collapse: collapse; font: .875rem/1.4 var(--sans); font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th { color: var(--soft); font-weight: 400; text-align: left; }
.numbers th, .numbers td { padding: .4rem 1.5rem .4rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
.numbers td { text-align: right; }
.numbers thead th:not(:first-child) { text-align: right; }
.numbers tbody th { color: var(--ink); }
.runs { margin: 2rem 0 .75rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1.5rem 2.5rem; }
figure { margin: 0; }
.charts figcaption { margin-bottom: .25rem; font: .9375rem/1.4 var(--sans); }
svg { display: block; width: 100%; height: auto; font: 13px var(--sans); font-variant-numeric: tabular-nums; }
svg text { fill: var(--soft); }
.grid { stroke: var(--line); }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.curve.train { stroke-width: 1.5; stroke-dasharray: 4 4; }
circle.train { r: 1.75px; }
.run0 { --run: var(--run0); } .run1 { --run: var(--run1); } .run2 { --run: var(--run2); }
.run3 { --run: var(--run3); }
.curve { stroke: rgb(var(--run)); }
circle { fill: rgb(var(--run)); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0 0 1rem; padding: 0; max-width: none;
  list-style: none; font: .875rem/1.5 var(--sans); }
.legend svg { display: inline-block; width: 28px; height: 8px; margin-right: .5rem; vertical-align: middle; }
details { margin-top: 1.25rem; }
summary { cursor: pointer; color: var(--soft); font: .875rem/1.5 var(--sans); }
details table { margin-top: .75rem; }
.confusion th { padding: .35rem .9rem .35rem 0; max-width: 12rem; overflow: hidden; text-overflow: ellipsis; }
.confusion thead th { padding: .35rem .5rem; text-align: center; }
.confusion td { min-width: 4.5rem; padding: .8rem .6rem; border: 2px solid var(--paper); text-align: center;
  background: rgb(var(--hue) / calc(.04 + .4 * var(--share))); }
.confusion td small { display: block; opacity: .8; }
.confusion .right { --hue: var(--right); } .confusion .wrong { --hue: var(--wrong); }
.gallery { display: grid; grid-template-columns: repeat(2, 1fr); gap: 1.25rem .9rem; }
@media (min-width: 32rem) { .gallery { grid-template-columns: repeat(4, 1fr); } }
@media (min-width: 60rem) { .gallery { grid-template-columns: repeat(8, 1fr); } }
.gallery figure { min-width: 0; }
.gallery .picture { width: 100%; aspect-ratio: 1; border-radius: 3px; object-fit: contain;
  background: rgb(128 128 128 / .1); display: grid; place-items: center; text-align: center; }
.gallery .pixels { image-rendering: pixelated; }
.gallery figcaption { margin-top: .45rem; font: .8125rem/1.35 var(--sans);
  font-variant-numeric: tabular-nums; }
.gallery .file { display: block; overflow: hidden; color: var(--soft); text-overflow: ellipsis;
  white-space: nowrap; }
.gallery b { font-weight: 600; overflow-wrap: anywhere; }
.gallery .wrong { color: rgb(var(--wrong)); } .gallery .right { color: rgb(var(--right)); }
.bar { display: block; height: 3px; margin: .4rem 0; border-radius: 2px; background: linear-gradient(
  to right, rgb(var(--hue)) calc(100% * var(--share)), rgb(128 128 128 / .2) 0); }
.bar.right { --hue: var(--right); } .bar.wrong { --hue: var(--wrong); }
.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .35rem 2rem; margin: 0;
  font: .9375rem/1.5 var(--sans); }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
code { font: .875em/1.5 var(--mono); }
@media print { h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""

STYLE = _LIGHT + _REST
