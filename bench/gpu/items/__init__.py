"""One module per question, each with a NAME, whether it NEEDS_STACK, `list_cases` and `run`.

list_cases(scale)      what varies, one case for each piece of a minute or less
run(case, measuring)   measures one case; raises Unsupported where that is impossible here
"""
