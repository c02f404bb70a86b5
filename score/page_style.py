"""The style of the page, in it; light and dark."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --wrong: #c0392b; --right: #2e8b57; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 32px 0 8px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; font-size: 13px; }
dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 5px 12px 5px 0; text-align: left;
  vertical-align: top; }
small { opacity: .7; }
.note { border-left: 4px solid #d9a400; padding-left: 10px; }
.cards { margin-top: 16px; display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
.card { border: 1px solid var(--line); border-top: 4px solid #8888; border-radius: 6px;
  overflow: hidden; font-size: 13px; }
.card.wrong { border-top-color: var(--wrong); } .card.right { border-top-color: var(--right); }
.card > div { padding: 6px 10px 8px; }
.card p { margin: 3px 0; overflow-wrap: anywhere; } .card p b { opacity: .6; font-weight: 500; }
.card p.id { font-weight: 600; }
.card img { display: block; width: 100%; max-height: 340px; object-fit: contain;
  background: #8882; }
.none { height: 80px; background: #8882; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; max-width: 640px;
  margin-bottom: 14px; }
""".strip()
