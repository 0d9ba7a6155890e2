"""The ways in which gateways and services let a client write one request: `POST /accounts/{account_id}/items` of `accE`.

Each target reaches that operation behind some configuration of the software that it stands under, and matches no template
as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.capture import Headers

ACCOUNT = "accE"
PATH = f"/accounts/{ACCOUNT}/items"

TARGETS: Mapping[str, Sequence[str]] = {
    "nginx": (
        "//accounts/accE/items",
        "/accounts///accE/items",
        "/accounts/accE/./items",
        "/accounts/accE/x/../items",
        "/../accounts/accE/items",
        "/accounts/accE/%2e/items",
        "/accounts/accE/x/%2E%2e/items",
        "/accounts%2FaccE/items",
        "/accounts/accE%2fitems",
        "http://api.example.com//accounts/accE/items",
    ),
    "Envoy": (
        "/accounts\\accE\\items",
        "/accounts%5CaccE%5citems",
        "/accounts/accE/x\\..\\items",
        "/accounts/accE/%2569tems",
        "https://other.example/accounts//accE/items",
    ),
    "HAProxy": (
        "/x/../accounts/accE/items",
        "/accounts/accE/.//items",
        "/accounts/accE/x/y/../../items",
        "accounts/accE/items",
    ),
    "Tomcat": (
        "/accounts/accE/items;jsessionid=1",
        "/accounts;v=1/accE/items",
        "/accounts/accE;a=b;c/items",
        "/accounts/accE/;/items",
        "/accounts/accE/x/..;/items",
        "/accounts/accE/items;a=b/",
        "/accounts/accE/x%252f..%252fitems",
        "/accounts/accE/x/%c0%ae%c0%ae/items",
        "/accounts%c0%afaccE%e0%80%afitems",
    ),
    "Express": (
        "/ACCOUNTS/accE/items",
        "/accounts/accE/Items",
        "/accounts/accE/items/",
        "/Accounts/accE/ITEMS/",
    ),
    "Flask": (
        "//accounts//accE//items//",
        "/accounts/accE/items//",
    ),
    "Rails": (
        "/accounts/accE/items.json",
        "/accounts/accE/items.xml/",
        "/accounts/accE/%69tems.JSON",
        "/accounts/accE/items.a-b_c",
        f"/accounts/accE/items.{'j' * 40}",
    ),
    "Node and others that resolve the target as a link": (
        "//evil.example/accounts/accE/items",
        "/\\evil.example:80/accounts/accE/items",
        "/http://api.example.com/accounts/accE/items",
        "///x//accounts/accE/items/",
    ),
    "PHP": (
        "/index.php/accounts/accE/items",
        "/App_dev.PHP//accounts/accE/items",
    ),
    "IIS, and readers of C strings": (
        "/accounts/accE/items.",
        "/accounts/accE/items...",
        "/accounts/accE/items%20.",
        "/accounts/accE/items.%20. .",
        "/%u0061ccounts/accE/items",
        "/accounts/acc%u0045/ite%u006Ds",
        "/accounts/accE/items%20",
        "/accounts/accE/items%09",
        "/accounts/accE/%20items",
        "/accounts/accE/items%00",
        "/accounts/accE/items%00.html",
        "/accounts/accE/items%3Fa=b",
        "/accounts/accE/items%23a",
    ),
}
OVERRIDES: Sequence[tuple[str, Headers]] = (
    (PATH, {"x-http-method-override": "GET"}),
    (PATH, {"X-HTTP-Method": "zzz"}),
    (PATH, {"X_Method_Override": ["POST", "DELETE"]}),
    (f"{PATH}?_method=delete", {}),
    (f"/{PATH}?METHOD=a&_method=PUT", {}),
)
"""Requests that ask for another method than their own."""
