"""The language of Go's text/template: what its documentation and its tests promise."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.shared.templates.go_template.errors import GoTemplateError
from services.shared.templates.go_template.evaluate import execute
from services.shared.templates.go_template.functions import NAMES
from services.shared.templates.go_template.limits import Budget
from services.shared.templates.go_template.parser import MAX_NESTING, parse

DATA = {
    "Name": "Ann",
    "Empty": "",
    "Items": ["a", "b", "c"],
    "None": [],
    "Map": {"y": 2, "x": 1},
    "Deep": {"A": {"B": "deep"}},
    "N": 3,
    "F": 1.5,
    "Yes": True,
    "No": False,
}


def run(source: str, data: Any = DATA) -> str:
    tree = parse(source, NAMES)
    return execute(tree.body, tree.definitions, data, Budget())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # texts and trim markers
        ("a {{ .Name }} b", "a Ann b"),
        ("a \n {{- .Name -}} \n b", "aAnnb"),
        ("a {{- /* a comment */ -}} b", "ab"),
        ("a {{/* {{ not an action */}} b", "a  b"),
        ("{{23 -}} < {{- 45}}", "23<45"),
        ("{{ 3 -1 | print }}", None),
        ("{{ -3 }}{{- 4 }}", "-34"),
        ("a }} b", "a }} b"),
        # values
        ("{{ .Deep }} {{ .Map }} {{ .Items }} {{ .F }}", "map[A:map[B:deep]] map[x:1 y:2] [a b c] 1.5"),
        ("{{ .Deep.A.B }}{{ $.Deep.A.B }}{{ (.Deep).A.B }}", "deepdeepdeep"),
        ("{{ .Missing }}", "<no value>"),
        ("{{ true }} {{ 1.50 }} {{ 0x1F }} {{ 1_000 }} {{ 'a' }} {{ 1e3 }}", "true 1.5 31 1000 97 1000"),
        ("{{ 999999.5 }} {{ 1e6 }} {{ -1234567.5 }} {{ 12e14 }} {{ 1e20 }}", "999999.5 1e+06 -1.2345675e+06 1.2e+15 1e+20"),
        ("{{ 0.0001 }} {{ 0.00001 }} {{ 1.5e-7 }} {{ 0.0 }}", "0.0001 1e-05 1.5e-07 0"),
        (r'{{ "q\"\n\t\x41\u00e9\\" }}{{ `raw\n` }}', 'q"\n\tA\u00e9\\raw\\n'),
        # pipelines and functions
        ('{{ .Name | printf "%s-%s" "x" }}', "x-Ann"),
        ('{{ printf "%s-%s" .Name (print 1 2) }}', "Ann-1 2"),
        ('{{ "x" | print "a" "b" }}', "abx"),
        ('{{ print 1 2 "a" 3 4 }}', "1 2a3 4"),
        ('{{ println "a" 1 }}', "a 1\n"),
        (r'{{ js "a\\b\"c" "\u003c=>&\n\u00e9\u200b" `\'` }}', r"a\\b\"c\u003C\u003D\u003E\u0026\u000Aé\u200B\\\'"),
        ("{{ html 1 2 }}{{ js 1 2 `a` }}{{ urlquery 1 2 }}", "1 21 2a1+2"),
        ("{{ len .Items }} {{ len .Map }} {{ len `é` }}", "3 2 2"),
        ("{{ index .Items 1 }}{{ index .Map `x` }}{{ index .Deep `A` `B` }}{{ index `a` 0 }}", "b1deep97"),
        ("{{ index .Map `z` }}", "<no value>"),
        ("{{ slice .Items 1 }}{{ slice .Items 1 2 }}{{ slice `abc` 1 }}{{ slice .Items }}", "[b c][b]bc[a b c]"),
        ("{{ html `<a href=\"x\">'&` }}", "&lt;a href=&#34;x&#34;&gt;&#39;&amp;"),
        ("{{ urlquery `a b&c` }}", "a+b%26c"),
        ("{{ json .Map }}{{ json `<é>` }}{{ json .F }}", '{"x":1,"y":2}"\\u003cé\\u003e"1.5'),
        ("{{ len currentDate }} {{ len (yesterdayDate) }}", "10 10"),
        # logic
        ("{{ and 1 0 2 }}{{ and 1 2 }}{{ or 0 `` 3 4 }}{{ or 0 `` }}|", "023|"),
        ("{{ and .No (index .Items 9) }}{{ or .Yes (index .Items 9) }}", "falsetrue"),
        ("{{ not .Empty }} {{ not .Items }} {{ not nil }}", "true false true"),
        ("{{ eq 1 2 3 1 }} {{ eq .Name `Ann` }} {{ ne .N 3 }} {{ eq .Missing nil }}", "true true false true"),
        ("{{ lt 1 2 }} {{ le 2 2 }} {{ gt `b` `a` }} {{ ge 1.5 2.5 }}", "true true true false"),
        ("{{ eq .Missing `x` }}", "false"),
        # branches
        ("{{ if .Yes }}a{{ else }}b{{ end }}{{ if .Empty }}a{{ else }}b{{ end }}", "ab"),
        ("{{ if .No }}a{{ else if .None }}b{{ else if .N }}c{{ else }}d{{ end }}", "c"),
        ("{{ with .Name }}{{ . }}{{ $.N }}{{ end }}{{ with .Empty }}x{{ else }}{{ .N }}{{ end }}", "Ann33"),
        ("{{ with $x := .Name }}{{ $x }}{{ end }}{{ with .No }}a{{ else with .N }}{{ . }}{{ end }}", "Ann3"),
        # range
        ("{{ range .Items }}[{{ . }}]{{ end }}{{ range .None }}x{{ else }}none{{ end }}", "[a][b][c]none"),
        ("{{ range $x := .Items }}{{ $x }}{{ end }}{{ range $i, $x := .Items }}{{ $i }}{{ $x }}{{ end }}", "abc0a1b2c"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }} {{ end }}", "x=1 y=2 "),
        ("{{ range 3 }}{{ . }}{{ end }}{{ range $i, $c := `é!` }}{{ $i }}:{{ $c }} {{ end }}", "0120:233 2:33 "),
        ("{{ range .Items }}{{ if eq . `b` }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
        ("{{ range .Items }}{{ if eq . `b` }}{{ break }}{{ end }}{{ . }}{{ end }}", "a"),
        ("{{ range .Items }}{{ range $.Items }}{{ break }}{{ end }}{{ . }}{{ end }}", "abc"),
        # variables and their scopes
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ("{{ $x := `` }}{{ range .Items }}{{ $x = . }}{{ end }}{{ $x }}", "c"),
        ("{{ $last := -1 }}{{ range $i, $x := .Items }}{{ if eq $x `b` }}{{ $last = $i }}{{ end }}{{ end }}{{ $last }}", "1"),
        ("{{ $i := 9 }}{{ range $i, $x := .Items }}{{ end }}{{ $i }}", "9"),
        ("{{ $i := 9 }}{{ $x := 0 }}{{ range $i, $x = .Items }}{{ end }}{{ $i }}{{ $x }}", "2c"),
        # definitions
        ("{{ define `t` }}<{{ . }}>{{ end }}{{ template `t` .Name }}{{ template `t` }}", "<Ann><<no value>>"),
        ("{{ template `t` . }}{{ define `t` }}{{ $.N }}{{ end }}", "3"),
        ("{{ block `b` .Items }}{{ range . }}{{ . }}{{ end }}{{ end }}!", "abc!"),
        ("{{ define `c` }}{{ if . }}{{ len . }}{{ template `c` (slice . 1) }}{{ end }}{{ end }}{{ template `c` .Items }}", "321"),
    ],
)  # fmt: skip
def test_what_a_template_prints(source: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(GoTemplateError):
            run(source)
    else:
        assert run(source) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ('printf "%s %v %d %q" "a" 1.5 7 "b\\"\\n"', 'a 1.5 7 "b\\"\\n"'),
        ('printf "%5s|%-5s|%05d|%+d" "a" "b" 42 1', "    a|b    |00042|+1"),
        ('printf "%.2f %6.1f %e %g" 1.005 2.25 1500.0 0.5', "1.00    2.2 1.500000e+03 0.5"),
        ('printf "%x %X %x %c %U %t %T %%" 255 255 "hi" 65 233 true "s"', "ff FF 6869 A U+00E9 true string %"),
        ('printf "%.2s|%*d" "abc" 4 7', "ab|   7"),
        ('printf "%d %s" "a" 1', "%!d(string=a) %!s(int=1)"),
        ('printf "%s %s" "a"', "a %!s(MISSING)"),
        ('printf "%s" "a" 1', "a%!(EXTRA int=1)"),
        ('printf "%!"', "%!!(MISSING)"),
        ('printf "%"', "%!(NOVERB)"),
        ('printf "%99999999d" 1', "%!(BADWIDTH)%!(EXTRA int=1)"),
        ('printf "%v %v" .Items .Map', "[a b c] map[x:1 y:2]"),
    ],
)  # fmt: skip
def test_printf(call: str, expected: str) -> None:
    assert run("{{ " + call + " }}") == expected


def test_half_of_a_character_harms_nothing() -> None:
    source = (
        "{{ len . }}{{ slice . 0 1 }}{{ printf `%x %q` . . }}{{ range . }}{{ end }}{{ json . }}"
    )

    assert run(source, "\ud800").startswith("1?3f")


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("a\n{{ if .X }}\nb", 3, "a block has no `end`"),
        ("{{ end }}", 1, "`end` stands where no block is open"),
        ("a\n\n{{ else }}", 3, "`else` stands where no block is open"),
        ("{{ if .A }}{{ else }}{{ else }}{{ end }}", 1, "`else` stands where no block is open"),
        ("\n{{ .A", 2, "an action is not closed"),
        ("\n{{ .A ! }}", 2, "'! }}' is not understood"),
        ("{{ }}", 1, "a value is missing before '}}'"),
        ("{{ upper .A }}", 1, "there is no function 'upper'"),
        ("{{ .A .B }}", 1, "a value that is no function has arguments"),
        ("{{ .A | .B }}", 1, "only a function can follow `|`"),
        ("{{ $x }}", 1, "the variable $x is not defined"),
        ("{{ $x = 1 }}", 1, "the variable $x is not defined"),
        ("{{ if true }}{{ $x := 1 }}{{ end }}\n{{ $x }}", 2, "the variable $x is not defined"),
        ("{{ break }}", 1, "`break` stands outside of a range"),
        ("{{ (.A }}", 1, "`)` is missing"),
        ('{{ "a }}', 1, "'\"a }}' is not understood"),
        ("{{ 0x" + "f" * 5000 + " }}", 1, "0xffffffffffffffffff is too large"),
        (r'{{ "\q" }}', 1, r"\q is no character"),
        ("{{ /* }}", 1, "a comment is not closed by */}}"),
        ("{{ template .A }}", 1, "the name of a template is a string"),
    ],
)
def test_a_template_that_is_no_go_is_refused_with_its_line(
    source: str, line: int, message: str
) -> None:
    with pytest.raises(GoTemplateError) as caught:
        parse(source, NAMES)

    assert (caught.value.message, caught.value.line) == (message, line)


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("a\n{{ .Name.First }}", 2, "a string has no field .First"),
        ("{{ .Missing.A }}", 1, "nil has no field .A"),
        ("\n\n{{ index .Items 3 }}", 3, "the index 3 is out of range"),
        ("{{ index .Items -1 }}", 1, "the index -1 is out of range"),
        ("{{ slice .Items 2 1 }}", 1, "a slice ends before it starts"),
        ("{{ len 3 }}", 1, "a int has no length"),
        ("{{ len }}", 1, "`len` has 0 arguments, which is a wrong number"),
        ("{{ lt 1 `a` }}", 1, "int and string have no order"),
        ("{{ eq 1 `a` }}", 1, "int and string cannot be compared"),
        ("{{ eq .Items .Items }}", 1, "a slice cannot be compared"),
        ("{{ range .Yes }}{{ end }}", 1, "range cannot go through a bool"),
        ("{{ template `t` }}", 1, "there is no template 't'"),
        ("{{ and }}", 1, "`and` needs an argument"),
    ],
)
def test_a_render_that_fails_names_its_line(source: str, line: int, message: str) -> None:
    with pytest.raises(GoTemplateError) as caught:
        run(source)

    assert (caught.value.message, caught.value.line) == (message, line)


PIECES = st.sampled_from(
    ["{{", "}}", "{{-", "-}}", " ", "\n", "if", "else", "end", "range", "with", "define", "block"]
    + ["template", "break", "continue", "(", ")", "|", ":=", "=", ",", "$", "$x", ".A", ".", '"t"']
    + ["`", '"', "'a'", "/*", "*/", "eq", "and", "len", "printf", "1", "-1", "0x", "1e999", "nil"]
    + ["text", "\\", "\0", "é", "slice", "json"]
)


@settings(deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=60)))
@example("{{" + "(" * (MAX_NESTING + 9))
@example("{{ " + "9" * 5000 + " }}")
@example("{{ range .A }}" * 2000)
@example("{{ if .A }}{{ else if .B }}" + "{{ else if .B }}" * 2000)
def test_parsing_raises_nothing_but_its_own_error(source: str) -> None:
    with contextlib.suppress(GoTemplateError):
        tree = parse(source, NAMES)
        execute(tree.body, tree.definitions, DATA, Budget())
