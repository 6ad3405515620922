"""Every sentence that a report, a fit or a prediction says, as rules: a condition on numbers, and a text with them.

To add one: write a `Rule` into the tuple RULES of the module whose list it belongs to (`summary`: "In short";
`caveats`: "What this does not show"), or a module of its own whose tuple that one takes in.
"""
