"""The report's page: one HTML file that loads nothing from elsewhere and runs no scripts."""

STYLE = """\
:root { --ink: #1d2430; --soft: #5c6675; --paper: #fbfbfc; --line: #d5dae2; --accent: #2563a8; --warm: #d9762b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #a0a9b7; --paper: #14171c; --line: #363d48; --accent: #6ea8e8; --warm: #e59a5c; }
}
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } p.lead, .soft { color: var(--soft); }
table { border-collapse: collapse; margin: .4rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; } .scroll { overflow-x: auto; } code { font-size: .9em; }
svg { display: block; max-width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } .box { fill: none; stroke: var(--soft); } .heat { fill: var(--warm); }
.line, .axis { stroke: var(--ink); fill: none; } .grid { stroke: var(--line); } .bar { fill: var(--accent); }
.dot { fill: var(--soft); fill-opacity: .45; } .best { fill: var(--warm); } .front { stroke: var(--warm); fill: none; }
"""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}: what matters</title>
<style>
{{ style }}</style>
</head>
<body>
<h1>{{ title }}: what matters for {{ target }}</h1>
<p class="lead">{{ num_labels }} labelled architectures, {{ num_members }} predictors, seed {{ seed }}, \
GenMAD {{ version }}.</p>
{% for note in notes %}
<p>Note: {{ note }}.</p>
{% endfor %}

<h2>How far to trust this</h2>
<p>Rank correlation (Spearman) with {{ target }} on architectures that were held out of training: of the embedding norm
at every hop, and of the prediction. A score of hop h means as much as the bar of hop h is long.</p>
{{ correlations }}

{% if stages %}
<h2>Modules</h2>
<p>{{ num_modules }} modules were scored; {{ scale }}. Boxes are the warmer the more their layer, with the layers before
it, stands out. ± is the deviation over predictors.</p>
{% for stage in stages %}
<h3>{{ stage.name }} <span class="soft">({{ stage.total }} modules)</span></h3>
<div class="scroll"><table>
<tr><th>rank</th><th>module</th><th class="number">score</th></tr>
{% for row in stage.rows %}
<tr><td>{{ row.rank }}</td><td>{{ row.picture }}</td><td class="number">{{ row.score }}</td></tr>
{% endfor %}
</table></div>
{% endfor %}
{% endif %}

<h2>Features</h2>
<p>What the choices of each category contribute to a layer's own score (0-hop), relative to their category's mean.</p>
{% for name, picture in features %}
<h3>{{ name }}</h3>
{{ picture }}
{% endfor %}

{% if pareto %}
<h2>The labelled architectures</h2>
<p>The front is drawn for high {{ pareto_y }} and low {{ pareto_x }}; point at one of its members for its encoding.</p>
{{ pareto }}
{% endif %}

{% if built %}
<h2>Built without search</h2>
<p>The best of what the best modules of every stage make together.</p>
<div class="scroll"><table>
<tr><th class="number">predicted</th><th class="number">sum of scores</th><th>architecture</th></tr>
{% for row in built %}
<tr><td class="number">{{ row.predicted }}</td><td class="number">{{ row.score }}</td>
<td><code>{{ row.text }}</code></td></tr>
{% endfor %}
</table></div>
{% endif %}
</body>
</html>
"""
