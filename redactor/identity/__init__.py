"""Who acted, by a signed token: keys, tokens and what their claims say. No I/O and no clock; keys and times are given.

`signing_keys` reads a JWKS and says which keys count, `tokens` verifies what a request carries, `claims` reads who it names.
"""
