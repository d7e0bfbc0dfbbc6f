"""The operators' console: the API, the pages, and what stands between them and the database.

It shows the views and calls the fix as the commands do: no rule is written here again.
"""
