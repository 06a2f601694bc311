"""What of a Python file decides how it runs."""

import ast


def code_only(source: str) -> str:
    """The code without comments, docstrings and line breaks of taste.

    Two files that give the same text run alike, unless they read their own source or docstrings.
    Text that is no Python is returned as it came.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    with_docstrings = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, with_docstrings) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    # unparse, and not dump, whose form depends on the version of Python.
    return ast.unparse(tree)
