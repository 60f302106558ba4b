"""Families that write a tag for each parameter."""

from __future__ import annotations

import html

from services.api.parsing.tool_calls.shapes.xml_calls import Layout, XmlCalls

QWEN3_CODER = XmlCalls(
    name="qwen3-coder",
    section=("<tool_call>", "</tool_call>"),
    opens="<function=",
    name_ends=">",
    key_opens="<parameter=",
    key_ends=">",
    value_ends="</parameter>",
    closes="</function>",
    trims_newlines=True,
    layout=Layout(in_section="\n", after_name="\n", around_value="\n", after_value="\n"),
)
SEED_OSS = XmlCalls(
    name="seed-oss",
    section=("<seed:tool_call>", "</seed:tool_call>"),
    opens="<function=",
    name_ends=">",
    key_opens="<parameter=",
    key_ends=">",
    value_ends="</parameter>",
    closes="</function>",
    layout=Layout(in_section="\n", after_name="\n", after_value="\n"),
)
GLM4 = XmlCalls(
    name="glm4",
    opens="<tool_call>",
    name_ends="\n",
    key_opens="<arg_key>",
    key_ends="</arg_key>",
    value_opens="<arg_value>",
    value_ends="</arg_value>",
    closes="</tool_call>",
    layout=Layout(before_value="\n", after_value="\n"),
)
_HY = ":opensource>"
HY3 = XmlCalls(
    name="hy3",
    section=(f"<tool_calls{_HY}", f"</tool_calls{_HY}"),
    opens=f"<tool_call{_HY}",
    name_ends=f"<tool_sep{_HY}",
    key_opens=f"<arg_key{_HY}",
    key_ends=f"</arg_key{_HY}",
    value_opens=f"<arg_value{_HY}",
    value_ends=f"</arg_value{_HY}",
    closes=f"</tool_call{_HY}",
    layout=Layout(in_section="\n", after_name="\n", before_value="\n", after_value="\n"),
)
MINIMAX_M2 = XmlCalls(
    name="minimax-m2",
    section=("<minimax:tool_call>", "</minimax:tool_call>"),
    opens='<invoke name="',
    name_ends='">',
    key_opens='<parameter name="',
    key_ends='">',
    value_ends="</parameter>",
    closes="</invoke>",
    layout=Layout(in_section="\n", after_name="\n", after_value="\n"),
)
MUSE = XmlCalls(
    name="muse",
    section=("<atem:function_calls>", "</atem:function_calls>"),
    opens='<atem:invoke name="',
    name_ends='">',
    key_opens='<atem:parameter name="',
    key_ends='">',
    value_ends="</atem:parameter>",
    closes="</atem:invoke>",
    layout=Layout(in_section="\n", after_name="\n", after_value="\n"),
    dropped=("<|start|>assistant", " to=user<|message|>", "<|eom|>", "<|eot|>"),
    recipient=" to={}<|message|>",
)
MINICPM5 = XmlCalls(
    name="minicpm5",
    opens='<function name="',
    name_ends='">',
    key_opens='<param name="',
    key_ends='">',
    value_ends="</param>",
    closes="</function>",
    has_cdata=True,
)
KIMI_K3 = XmlCalls(
    name="kimi-k3",
    section=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
    opens='<|open|>call tool="',
    name_ends='"',
    name_rest="<|sep|>",
    key_opens='<|open|>argument key="',
    key_ends='" type="',
    attribute_ends='"<|sep|>',
    value_ends="<|close|>argument<|sep|>",
    closes="<|close|>call<|sep|>",
    has_type_attribute=True,
    unescape=html.unescape,
    layout=Layout(name_rest=' index="1"'),
    dropped=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
)


_DSML = "\N{FULLWIDTH VERTICAL LINE}DSML\N{FULLWIDTH VERTICAL LINE}"


def _build_dsml(name: str, section: str) -> XmlCalls:
    return XmlCalls(
        name=name,
        section=(f"<{_DSML}{section}>", f"</{_DSML}{section}>"),
        opens=f'<{_DSML}invoke name="',
        name_ends='">',
        key_opens=f'<{_DSML}parameter name="',
        key_ends='" string="',
        attribute_ends='">',
        value_ends=f"</{_DSML}parameter>",
        closes=f"</{_DSML}invoke>",
        layout=Layout(in_section="\n", after_name="\n", after_value="\n"),
    )


DEEPSEEK_V32 = _build_dsml("deepseek-v3.2", "function_calls")
DEEPSEEK_V4 = _build_dsml("deepseek-v4", "tool_calls")
