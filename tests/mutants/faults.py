"""Faults that somebody might make in the rules, as changes of the code's text, and the tests that must see them."""

from __future__ import annotations

from dataclasses import dataclass

_RULES = "tests/unit/redactor/test_rule_"
PROPERTY = "tests/property/test_non_interference.py"
CANARY = "tests/canary/test_canary_redactor.py::test_no_token_leaves_the_example"
SHAPES = "tests/fuzz/test_hostile_shapes.py"
LONG_LISTS = "tests/property/test_long_lists_agree.py"
JSON_ORACLE = "tests/oracles/test_json_agrees.py"
TYPES_ORACLE = "tests/oracles/test_types_agree.py"


@dataclass(frozen=True)
class Change:
    """One place in a module where `old`, which must stand there exactly once, becomes `new`."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """A fault and the tests of which at least one must fail, each a path or a node id."""

    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]


def _fault(name: str, module: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(name, (Change(module, old, new),), tests)


def _rule(number_and_name: str) -> str:
    return f"{_RULES}{number_and_name}.py"


FAULTS = (
    _fault(
        "a mark on a container is inherited",
        "redactor/compiler.py",
        "marked=self._inherits and (at.marked or marked),",
        "marked=at.marked or marked,",
        _rule("03_container_marks"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "denials beside a $ref are ignored",
        "redactor/branches.py",
        "        self.denied |= is_denied(node)\n        beside_reference",
        '        self.denied |= "$ref" not in node and is_denied(node)\n        beside_reference',
        _rule("05_denials"),
        PROPERTY,
    ),
    _fault(
        "a mark beside a $ref grants in 3.0",
        "redactor/branches.py",
        'beside_reference = "$ref" in node and self._document.is_3_0',
        "beside_reference = False",
        _rule("05_denials"),
    ),
    _fault(
        "a denial under `not` is not heard",
        "redactor/branches.py",
        "yield own.part(keyword).denying()",
        "yield from ()",
        _rule("05_denials"),
        PROPERTY,
    ),
    _fault(
        "a denial in an alternative denies nothing",
        "redactor/branches.py",
        "            self.denied |= ways[-1].denied\n",
        "",
        _rule("05_denials"),
        _rule("07_composition"),
        PROPERTY,
    ),
    _fault(
        "format: password is no denial",
        "redactor/said.py",
        'or node.get("format") == "password"',
        "or False",
        _rule("05_denials"),
        CANARY,
    ),
    Fault(
        'the text "true" counts as a mark',
        (
            Change(
                "redactor/said.py",
                'node.get("x-auditable") is True',
                'node.get("x-auditable") in (True, "true")',
            ),
            Change(
                "redactor/said.py",
                'node.get("x-auditable", True) is not True',
                'node.get("x-auditable", True) not in (True, "true")',
            ),
        ),
        (_rule("01_deny_by_default"), PROPERTY),
    ),
    _fault(
        "an unmarked property chooses the alternative",
        "redactor/narrowing.py",
        " or not is_kept(name):",
        ":",
        _rule("07_composition"),
        PROPERTY,
    ),
    _fault(
        "what one alternative grants is kept, whatever the others say",
        "redactor/candidates.py",
        "every = bool(told) and all(each.mark for each in told)",
        "every = bool(told) and any(each.mark for each in told)",
        _rule("07_composition"),
        PROPERTY,
    ),
    _fault(
        "map keys are kept",
        "redactor/compiler.py",
        "entries = self._entries(voices, below) if keys_are_granted else ()",
        "entries = self._entries(voices, below)",
        _rule("04_free_form_and_maps"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "map keys stand as they came",
        "redactor/plan.py",
        "for key in sorted(value.keys() - self.declared):",
        "for key in (each for each in value if each not in self.declared):",
        _rule("11_output"),
        PROPERTY,
    ),
    _fault(
        "a free-form object with properties is kept whole",
        "redactor/maps.py",
        '    if any(node.get("properties") for node in nodes):\n        return False\n',
        "",
        _rule("04_free_form_and_maps"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "a value of another type is kept",
        "redactor/plan.py",
        "        if type(value) not in self.types:\n            return DROPPED\n",
        "",
        _rule("06_types"),
        TYPES_ORACLE,
        PROPERTY,
    ),
    _fault(
        "enum is not enforced at 400 and above",
        "redactor/compiler.py",
        "for kind in stands.scalar_kinds if at.strict}",
        "for kind in stands.scalar_kinds if False}",
        _rule("06_types"),
        TYPES_ORACLE,
    ),
    _fault(
        "numbers are written anew",
        "redactor/plan.py",
        "return msgspec.Raw(str(value))",
        "return msgspec.Raw(repr(float(value)))",
        _rule("06_types"),
        SHAPES,
    ),
    _fault(
        "GET bodies are read",
        "redactor/assemble.py",
        '_METHODS_WITHOUT_BODIES = frozenset({"GET", "HEAD",',
        '_METHODS_WITHOUT_BODIES = frozenset({"HEAD",',
        _rule("08_bodies_never_read"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "a file's content is read",
        "redactor/forms.py",
        "    if part.has_file_name or not part.is_text:\n        return None\n",
        "",
        _rule("09_forms"),
    ),
    _fault(
        "a content coding is undone without a bound",
        "redactor/encodings.py",
        "part = stream.decompress(content, bytes_max + 1)",
        "part = stream.decompress(content)",
        f"{SHAPES}::test_bombs_take_no_memory",
    ),
    _fault(
        "of duplicate keys the first counts",
        "redactor/wellformed.py",
        "            mapping.pop(key, None)\n            mapping[key] = value\n",
        "            mapping.setdefault(key, value)\n",
        _rule("10_well_formed"),
        SHAPES,
        JSON_ORACLE,
    ),
    _fault(
        "a lone surrogate is forgotten behind another escape",
        "redactor/wellformed.py",
        "        if (is_low or high_ended_at >= 0) and not is_pair:\n",
        "        if is_low and not is_pair:\n",
        _rule("10_well_formed"),
        SHAPES,
        JSON_ORACLE,
    ),
    _fault(
        "an error holds the body as its context",
        "redactor/wellformed.py",
        "    except ValueError:\n        pass\n    else:\n        return tree\n",
        "    except ValueError as error:\n        raise Unusable(BodyReason.MALFORMED) from error\n    else:\n        return tree\n",
        _rule("10_well_formed"),
        "tests/fuzz/test_errors_hold_nothing.py",
    ),
    _fault(
        "an unmarked object with nothing kept shows that it was there",
        "redactor/plan.py",
        "        return kept if kept or self.marked else DROPPED\n",
        "        return kept\n",
        _rule("11_output"),
        PROPERTY,
    ),
    _fault(
        "what stands beside the envelope is recorded",
        "redactor/bodies.py",
        "    return whole.get(envelope, DROPPED) if type(whole) is dict else DROPPED\n",
        "    return whole\n",
        _rule("12_envelope"),
        CANARY,
    ),
    _fault(
        "the query is kept",
        "redactor/redact.py",
        "governing.uri(path, pairs, strict=strict),",
        'governing.uri(path, pairs, strict=strict) + "?" + url.query,',
        _rule("13_url"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "every path parameter is recorded",
        "redactor/parameters.py",
        "if self.rank == LITERAL or self.by_name:",
        "if True:",
        _rule("13_url"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "the path of an unmatched request is recorded",
        "redactor/assemble.py",
        "raw=_raw(capture, known, match.known_path + _ELIDED),",
        "raw=_raw(capture, known, capture.request.url),",
        _rule("13_url"),
    ),
    _fault(
        "a header that stands twice is kept",
        "redactor/headers.py",
        'return values[0].strip(" \\t") if len(values) == 1 else None',
        'return values[0].strip(" \\t") if values else None',
        _rule("14_headers"),
        CANARY,
    ),
    Fault(
        "the actor is read from the request",
        (
            Change(
                "redactor/headers.py",
                'return frozenset(request | framing) - {""}, frozenset(of_response)',
                'return frozenset(request | framing | actor) - {""}, frozenset(of_response)',
            ),
            Change(
                "redactor/headers.py",
                "actor_id=_fitting(_IDENTIFIER, response.once(names.actor_id)),",
                "actor_id=_fitting(_IDENTIFIER, request.once(names.actor_id)),",
            ),
        ),
        (_rule("14_headers"), CANARY),
    ),
    _fault(
        "the receipt counts what was dropped",
        "redactor/bodies.py",
        "    return _recorded(whole, _content_of(whole, media.envelope))\n",
        "    found = _recorded(whole, _content_of(whole, media.envelope))\n"
        "    return found._replace(receipt=BodyReceipt(kept=count_scalars(tree)))\n",
        "tests/unit/redactor/test_receipt.py",
        CANARY,
        PROPERTY,
    ),
    _fault(
        "of twins the first governs",
        "redactor/routes.py",
        "    return tuple(sorted(best, key=lambda route: route.ranks, reverse=True))\n",
        "    return tuple(sorted(best, key=lambda route: route.ranks, reverse=True))[:1]\n",
        "tests/unit/redactor/test_matching.py",
    ),
    _fault(
        "a trailing slash is ignored",
        "redactor/routes.py",
        "if not ends and self._trailing_slash_allowed and len",
        "if not ends and len",
        "tests/unit/redactor/test_matching.py",
        SHAPES,
    ),
    _fault(
        "a method override is not seen",
        "redactor/redact.py",
        "overrides_method(capture.request.headers)\n            or ",
        "",
        "tests/unit/redactor/test_matching.py",
        SHAPES,
    ),
    _fault(
        "an empty list in a long one is taken for kept",
        "redactor/typed_bodies.py",
        "        return sum(map(len, values)) if all(values) else None",
        "        return sum(map(len, values)) if None not in values else None",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "an object without anything kept stays in a long list",
        "redactor/typed_bodies.py",
        "        scalars, shows_all = 0, self._marked\n",
        "        scalars, shows_all = 0, True\n",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "a missing property is counted in a long list",
        "redactor/typed_bodies.py",
        "                scalars += len(column) - absent\n",
        "                scalars += len(column)\n",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "a text that is not listed stays in a long list",
        "redactor/typed_bodies.py",
        "        return len(values) if is_each_kept else None\n",
        "        return len(values)\n",
        "tests/unit/redactor/test_typed_lists.py",
    ),
    _fault(
        "what is no number stays in a long list",
        "redactor/typed_bodies.py",
        "        return len(values) if starts <= _NUMBER_STARTS else None\n",
        "        return len(values)\n",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "a -0 behind a date is not looked for",
        "redactor/typed_bodies.py",
        '        at = text.find("-0", at + 1)\n        if at < 0:\n            return False\n',
        '        at = text.find("-0", at + 1)\n        if at < 0 or text[at - 1].isdecimal():\n            return False\n',
        "tests/unit/redactor/test_typed_lists.py",
    ),
)
