"""The style sheet of pages: light and dark screens, print, and screens from 400 pixels."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --raised: #f5f7f9; --ink: #1f2933; --muted: #5f6c7b; --line: #d5dbe2;
  --accent: #00588c; --warn: #fff4d6; --warn-line: #c98a00; --bad: #fde4e1; --bad-line: #b83a2b; --best: #d9eefb }
@media (prefers-color-scheme: dark) { :root { --paper: #12171c; --raised: #1b2229; --ink: #e6eaee; --muted: #a9b4c0;
  --line: #343e48; --accent: #7cc4f5; --warn: #3b2f10; --warn-line: #e0a83a; --bad: #44211d; --bad-line: #ef8474;
  --best: #16405c } }
* { box-sizing: border-box }
html { scroll-padding-top: 1rem; scroll-behavior: smooth; -webkit-text-size-adjust: 100% }
body { margin: 0; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper); overflow-wrap: break-word }
.layout { display: grid; grid-template-columns: 14rem minmax(0, 1fr); gap: 2.5rem; max-width: 96rem; margin: 0 auto;
  padding: 0 2rem }
main { padding: 2rem 0 4rem; min-width: 0 }
main.single { max-width: 76rem; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem } h2 { font-size: 1.35rem; margin: 3rem 0 .6rem;
  padding-bottom: .3rem; border-bottom: 1px solid var(--line) } h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
p { margin: .5rem 0; max-width: 72ch } a { color: var(--accent) } .muted, figcaption, caption { color: var(--muted) }
.lead { color: var(--muted); margin: 0 0 1rem }
.contents { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow: auto; padding: 2.2rem 0;
  font-size: .92rem }
.contents ul { list-style: none; margin: 0; padding: 0 } .contents li { margin: .15rem 0 }
.contents a { display: block; padding: .15rem .6rem; border-left: 2px solid var(--line); text-decoration: none; color: inherit }
.contents a:hover { border-color: var(--accent); color: var(--accent) }
.skip { position: absolute; left: -100vw } .skip:focus { left: 1rem; top: .5rem; background: var(--paper); padding: .4rem }
.mark, .problem { border-left: 4px solid var(--warn-line); background: var(--warn); padding: .6rem .9rem; margin: .6rem 0;
  border-radius: 3px; max-width: none } .problem { border-color: var(--bad-line); background: var(--bad) }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.2rem 0; padding: 0 }
.facts div { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem }
.facts dt { color: var(--muted); font-size: .82rem } .facts dd { margin: 0; font-size: 1.25rem; font-weight: 600 }
.scroll { overflow: auto; max-width: 100%; margin: .8rem 0 } .tall { max-height: 34rem; border: 1px solid var(--line) }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .3rem .1rem; font-size: .88rem; caption-side: bottom;
  max-width: min(84ch, calc(100vw - 3rem)) } th[scope=colgroup] { text-align: left }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: baseline }
th[scope=row], td:first-child, thead tr:first-child th:first-child, .l { text-align: left }
thead th { border-bottom: 2px solid var(--muted); vertical-align: bottom }
tbody tr:hover { background: var(--raised) } tfoot { border-top: 2px solid var(--muted) }
td, tbody th, tfoot th { white-space: nowrap } .long, td.code { white-space: normal; overflow-wrap: anywhere; min-width: 14rem }
td.code { font-family: ui-monospace, monospace; font-size: .82rem; text-align: left }
.tall thead th { position: sticky; top: 0; background: var(--paper) }
td.best, th.best { background: var(--best); font-weight: 600 }
.scroll tbody th, .scroll tfoot th { position: sticky; left: 0; background: var(--paper) }
.scroll tbody tr:hover th { background: var(--raised) }
.published { color: var(--muted); font-style: italic } .notes { font-size: .9rem; color: var(--muted) }
th button { all: unset; cursor: pointer; white-space: inherit } th button:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px } th[aria-sort] button::after { content: "\\a0\\2195"; color: var(--muted); font-weight: 400 }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; color: var(--accent) }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; color: var(--accent) }
.tag { display: inline-block; font-size: .78rem; line-height: 1.4; padding: 0 .4rem; margin-left: .4rem; border-radius: 3px;
  background: var(--warn); border: 1px solid var(--warn-line); white-space: nowrap; font-weight: 400 }
figure { margin: 1rem 0 1.6rem } figcaption { font-size: .88rem; max-width: 84ch; margin-top: .3rem }
img { max-width: 100%; height: auto; display: block } figure img { border-radius: 4px }
.wide img { min-width: 44rem } pre { background: var(--raised); border: 1px solid var(--line); padding: .6rem .8rem;
  border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem }
details { margin: .6rem 0 } summary { cursor: pointer; color: var(--accent) } dl.made { display: grid; margin: .8rem 0;
  grid-template-columns: minmax(8rem, 14rem) minmax(0, 1fr); gap: .25rem 1rem } dl.made dt { color: var(--muted) }
dl.made dd { margin: 0; overflow-wrap: anywhere }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted); font-size: .88rem }
@media (max-width: 62rem) { .layout { display: block; padding: 0 1.2rem } .contents { position: static; max-height: none;
  padding: 1.2rem 0 0 } .contents ul { display: flex; flex-wrap: wrap; gap: .1rem .9rem } .contents a { border: 0; padding: 0;
  color: var(--accent) } main { padding-top: 1.2rem } }
@media (max-width: 34rem) { body { font-size: 15px } .layout { padding: 0 .8rem } h1 { font-size: 1.5rem }
  dl.made { grid-template-columns: 1fr } dl.made dd { margin-bottom: .4rem } th, td { padding: .25rem .5rem }
  tbody th, tfoot th { white-space: normal; min-width: 6rem; max-width: 9rem } .tag { margin-left: 0; white-space: normal } }
@media print { :root { --paper: #fff; --raised: #fff; --ink: #000; --muted: #444; --line: #bbb; --accent: #000; --warn: #fff;
  --bad: #fff; --best: #e8e8e8 } body { font-size: 10.5pt } .layout { display: block; padding: 0 } .contents, .skip {
  display: none } .scroll, .tall { overflow: visible; max-height: none; border: 0 } .wide img { min-width: 0 } figure, tr,
  .mark { break-inside: avoid } h2, h3 { break-after: avoid } thead { display: table-header-group }
  .tall thead th { position: static }
  th[aria-sort] button::after { content: "" } table { font-size: 8pt } td, th { white-space: normal; padding: .15rem .3rem } }
"""
