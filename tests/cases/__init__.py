"""The cases: inputs that failed once, kept outside the repository, run as their README expects.

`python -m tests.cases FOLDER` runs each folder and prints a table. Nothing of the inputs is copied into the repository: each
right value is also shown by tests with inputs of their own, which the table names.
"""
