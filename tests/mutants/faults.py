"""Faults that somebody might make in the rules, as changes of the code's text, and the tests that must see them."""

from __future__ import annotations

from dataclasses import dataclass

_RULES = "tests/unit/redactor/test_rule_"
FORMS = "tests/property/test_form_non_interference.py"
PROPERTY = "tests/property/test_non_interference.py"
CANARY = "tests/canary/test_canary_redactor.py::test_no_token_leaves_the_example"
SHAPES = "tests/fuzz/test_hostile_shapes.py"
LONG_LISTS = "tests/property/test_long_lists_agree.py"
JSON_ORACLE = "tests/oracles/test_json_agrees.py"
TYPES_ORACLE = "tests/oracles/test_types_agree.py"
CLIENT_ADDRESS = "tests/unit/redactor/test_client_address.py"
TOKENS = "tests/unit/redactor/identity/test_tokens.py"


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
        "redactor/compile/compiler.py",
        "marked=self._inherits_marks and (context.marked or marked),",
        "marked=context.marked or marked,",
        _rule("03_container_marks"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "denials beside a $ref are ignored",
        "redactor/compile/schema_collector.py",
        "        self._denied |= is_denied(node)\n        beside_reference",
        '        self._denied |= "$ref" not in node and is_denied(node)\n        beside_reference',
        _rule("05_denials"),
        PROPERTY,
    ),
    _fault(
        "a mark beside a $ref grants in 3.0",
        "redactor/compile/schema_collector.py",
        'beside_reference = "$ref" in node and self._document.is_3_0',
        "beside_reference = False",
        _rule("05_denials"),
    ),
    _fault(
        "a denial under `not` is ignored",
        "redactor/compile/schema_collector.py",
        "yield own.subschema(keyword).denials_only()",
        "yield from ()",
        _rule("05_denials"),
        PROPERTY,
    ),
    _fault(
        "a denial in an alternative denies nothing",
        "redactor/compile/schema_collector.py",
        "            self._denied |= collected[-1].denied\n",
        "",
        _rule("05_denials"),
        _rule("07_composition"),
        PROPERTY,
    ),
    _fault(
        "format: password is no denial",
        "redactor/openapi/marks.py",
        'or node.get("format") == "password"',
        "or False",
        _rule("05_denials"),
        CANARY,
    ),
    Fault(
        'the text "true" counts as a mark',
        (
            Change(
                "redactor/openapi/marks.py",
                'node.get("x-auditable") is True',
                'node.get("x-auditable") in (True, "true")',
            ),
            Change(
                "redactor/openapi/marks.py",
                'node.get("x-auditable", True) is not True',
                'node.get("x-auditable", True) not in (True, "true")',
            ),
        ),
        (_rule("01_deny_by_default"), PROPERTY),
    ),
    _fault(
        "an unmarked property chooses the alternative",
        "redactor/compile/tagged_unions.py",
        " or not is_kept(name):",
        ":",
        _rule("07_composition"),
        PROPERTY,
    ),
    _fault(
        "what one alternative grants is kept, whatever the others say",
        "redactor/compile/effective_marks.py",
        "in_marked_array or all(each.mark for each in deciding)",
        "in_marked_array or any(each.mark for each in deciding)",
        _rule("07_composition"),
        PROPERTY,
    ),
    _fault(
        "a candidate that can never be valid does not count",
        "redactor/compile/effective_marks.py",
        "return not self.types or not self.types.isdisjoint(kind)",
        "return self.types is None or not self.types.isdisjoint(kind)",
        _rule("07_composition"),
    ),
    _fault(
        "what an alternative of another type declares does not count",
        "redactor/compile/container_parts.py",
        "if declared_there or applicable.excludes(each):",
        "if False:",
        _rule("07_composition"),
        PROPERTY,
    ),
    _fault(
        "null is kept where only some alternatives are marked",
        "redactor/compile/compiler.py",
        "keeps_null=marks.keeps_null",
        "keeps_null=True",
        _rule("07_composition"),
    ),
    _fault(
        "map keys are kept",
        "redactor/compile/compiler.py",
        "entries = self._map_entry_plans(applicable, maps, below) if are_open else ()",
        "entries = self._map_entry_plans(applicable, maps, below)",
        _rule("04_free_form_and_maps"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "a mark beside a map opens its keys",
        "redactor/compile/compiler.py",
        "(marked and (is_inherited or is_marked(schema.place.node)))",
        "marked",
        _rule("04_free_form_and_maps"),
        CANARY,
    ),
    _fault(
        "a schema without undeclared keys does not close a map beside it",
        "redactor/compile/compiler.py",
        "are_open = not (maps and is_closed(applicable))",
        "are_open = True",
        _rule("04_free_form_and_maps"),
        PROPERTY,
    ),
    _fault(
        "keys that no pattern of a closed map matches are kept through another map",
        "redactor/compile/compiler.py",
        "DROP if map_schema.forbids_others else None",
        "None",
        _rule("04_free_form_and_maps"),
        PROPERTY,
    ),
    _fault(
        "map keys stand as they came",
        "redactor/compile/plan.py",
        "for key in sorted(value.keys() - self.declared):",
        "for key in (each for each in value if each not in self.declared):",
        _rule("11_output"),
        PROPERTY,
    ),
    _fault(
        "a free-form object with properties is kept whole",
        "redactor/compile/maps.py",
        '    if any(node.get("properties") for node in nodes):\n        return False\n',
        "",
        _rule("04_free_form_and_maps"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "a value of another type is kept",
        "redactor/compile/plan.py",
        "        if type(value) not in self.types:\n            return DROPPED\n",
        "",
        _rule("06_types"),
        TYPES_ORACLE,
        PROPERTY,
    ),
    _fault(
        "a number of any length is kept",
        "redactor/compile/plan.py",
        "        if is_long_number(value, self.number_chars_max):\n            return DROPPED\n",
        "",
        _rule("06_types"),
    ),
    _fault(
        "enum is not enforced at 400 and above",
        "redactor/compile/compiler.py",
        "        if listing is None:\n            return ScalarPlan(types, chars_max)\n",
        "        if True:\n            return ScalarPlan(types, chars_max)\n",
        _rule("06_types"),
        TYPES_ORACLE,
    ),
    _fault(
        "enum does not bind a path value that is kept by its name",
        "redactor/compile/compiler.py",
        "return self._scalars_of(types, applicable if strict else None)",
        "return self._scalars_of(types, None)",
        _rule("13_url"),
    ),
    _fault(
        "numbers are written anew",
        "redactor/compile/plan.py",
        "return msgspec.Raw(str(value))",
        "return msgspec.Raw(repr(float(value)))",
        _rule("06_types"),
        SHAPES,
    ),
    _fault(
        "GET bodies are read",
        "redactor/pipeline/resolved_operation.py",
        'METHODS_WITHOUT_BODIES: Final = frozenset({"GET", "HEAD",',
        'METHODS_WITHOUT_BODIES: Final = frozenset({"HEAD",',
        _rule("08_bodies_never_read"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "a file's content is read",
        "redactor/pipeline/deep_fields.py",
        "    if part.has_file_name or not part.is_text:\n        return None\n",
        "",
        _rule("09_forms"),
    ),
    _fault(
        "a content coding is undone without a bound",
        "redactor/decode/content_encodings.py",
        "part = stream.decompress(content, bytes_max + 1)",
        "part = stream.decompress(content)",
        f"{SHAPES}::test_bombs_take_no_memory",
    ),
    _fault(
        "of duplicate keys the first counts",
        "redactor/decode/json.py",
        "            mapping.pop(key, None)\n            mapping[key] = value\n",
        "            mapping.setdefault(key, value)\n",
        _rule("10_well_formed"),
        SHAPES,
        JSON_ORACLE,
    ),
    _fault(
        "a lone surrogate is forgotten behind another escape",
        "redactor/decode/json.py",
        "        if (is_low or high_ended_at >= 0) and not is_pair:\n",
        "        if is_low and not is_pair:\n",
        _rule("10_well_formed"),
        SHAPES,
        JSON_ORACLE,
    ),
    _fault(
        "an error holds the body as its context",
        "redactor/decode/json.py",
        "    except ValueError:\n        pass\n    else:\n        return tree\n",
        "    except ValueError as error:\n        raise Unusable(BodyReason.MALFORMED) from error\n    else:\n        return tree\n",
        _rule("10_well_formed"),
        "tests/fuzz/test_errors_hold_nothing.py",
    ),
    _fault(
        "an unmarked object with nothing kept shows that it was there",
        "redactor/compile/plan.py",
        "        return kept if kept or self.marked else DROPPED\n",
        "        return kept\n",
        _rule("11_output"),
        PROPERTY,
    ),
    _fault(
        "what stands beside the envelope is recorded",
        "redactor/pipeline/bodies.py",
        "    return whole.get(envelope, DROPPED) if type(whole) is dict else DROPPED\n",
        "    return whole\n",
        _rule("12_envelope"),
        CANARY,
    ),
    _fault(
        "the query is kept",
        "redactor/pipeline/uris.py",
        "operation.uri(path, split_query(routed.query), strict=strict),",
        'operation.uri(path, split_query(routed.query), strict=strict) + "?" + routed.query,',
        _rule("13_url"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "every path parameter is recorded",
        "redactor/compile/path_plan.py",
        "if self.keeps_every_value:",
        "if True:",
        _rule("13_url"),
        CANARY,
        PROPERTY,
    ),
    _fault(
        "the path of an unmatched request is recorded",
        "redactor/pipeline/events.py",
        "known_path + _ELIDED",
        "capture.request.url",
        _rule("13_url"),
    ),
    _fault(
        "a header that stands twice is kept",
        "redactor/decode/headers.py",
        'return values[0].strip(" \\t") if len(values) == 1 else None',
        'return values[0].strip(" \\t") if values else None',
        _rule("14_headers"),
        CANARY,
    ),
    _fault(
        "a header that the document denies is recorded",
        "redactor/pipeline/pipeline.py",
        "denied = None if template is None else template.denied_headers",
        "denied = None",
        _rule("05_denials"),
    ),
    _fault(
        "what does not fit moves the elements of a form's tuple",
        "redactor/pipeline/form_reader.py",
        "return close_gaps(kept, len(plan.slots), marked=False)",
        "return close_gaps([each for each in kept if each is not DROPPED], len(plan.slots), marked=False)",
        _rule("09_forms"),
    ),
    _fault(
        "a form's list shows although nothing in it is kept",
        "redactor/pipeline/form_reader.py",
        "return close_gaps(kept, len(plan.slots), marked=False)",
        "return close_gaps(kept, len(plan.slots), marked=True)",
        _rule("09_forms"),
        FORMS,
    ),
    _fault(
        "a deep field of which nothing is kept shows an object",
        "redactor/pipeline/deep_fields.py",
        "            found[name] = value\n    return found or DROPPED\n\n\ndef _elements",
        "            found[name] = value\n    return found\n\n\ndef _elements",
        _rule("09_forms"),
        FORMS,
    ),
    _fault(
        "a deep field that may be of several kinds is read as one of them",
        "redactor/pipeline/deep_fields.py",
        "    return found[0] if len(found) == 1 else DROPPED\n",
        "    return found[0] if found else DROPPED\n",
        _rule("09_forms"),
    ),
    _fault(
        "a text that looks like an object is kept as a string",
        "redactor/pipeline/form_reader.py",
        'if not part.content.lstrip(BLANKS).startswith(b"{"):',
        "if True:",
        _rule("07_choices_in_text"),
    ),
    Fault(
        "the actor is read from the request",
        (
            Change(
                "redactor/decode/headers.py",
                "    return of_request | framing |",
                "    return of_request | of_response | framing |",
            ),
            Change(
                "redactor/decode/headers.py",
                "actor_id=valid_identifier(response.once(names.actor_id)),",
                "actor_id=valid_identifier(request.once(names.actor_id)),",
            ),
        ),
        (_rule("14_headers"), CANARY),
    ),
    _fault(
        "the receipt counts what was dropped",
        "redactor/pipeline/bodies.py",
        "    return _recorded(whole, _content_of(whole, body_plan.envelope))\n",
        "    found = _recorded(whole, _content_of(whole, body_plan.envelope))\n"
        "    return found._replace(receipt=BodyReceipt(kept=count_scalars(tree)))\n",
        "tests/unit/redactor/test_receipt.py",
        CANARY,
        PROPERTY,
    ),
    _fault(
        "of twins the first applies",
        "redactor/openapi/routes.py",
        "    return tuple(sorted(best, key=lambda route: route.ranks, reverse=True))\n",
        "    return tuple(sorted(best, key=lambda route: route.ranks, reverse=True))[:1]\n",
        "tests/unit/redactor/test_matching.py",
    ),
    _fault(
        "a trailing slash is ignored",
        "redactor/openapi/routes.py",
        "if not found and self._trailing_slash_allowed and len",
        "if not found and len",
        "tests/unit/redactor/test_matching.py",
        SHAPES,
    ),
    _fault(
        "a method override is not seen",
        "redactor/pipeline/pipeline.py",
        "if headers.overrides_method or (routed.query",
        "if (routed.query",
        "tests/unit/redactor/test_matching.py",
        SHAPES,
    ),
    _fault(
        "a lenient reading keeps the query",
        "redactor/pipeline/uris.py",
        "operation.uri(path, {}, strict=strict)",
        'operation.uri(path, {}, strict=strict) + "?" + attribution.segments[-1]',
        "tests/unit/redactor/test_attribution.py",
    ),
    _fault(
        "of operations that a lenient reading cannot distinguish the first applies",
        "redactor/openapi/lenient_routes.py",
        "key=lambda route: ranks[id(route)], reverse=True))\n",
        "key=lambda route: ranks[id(route)], reverse=True))[:1]\n",
        "tests/unit/redactor/test_attribution.py",
    ),
    _fault(
        "an altered request is not marked",
        "redactor/pipeline/events.py",
        "altered=attribution.is_altered",
        "altered=False",
        "tests/unit/redactor/test_attribution.py",
    ),
    _fault(
        "an empty list in a long one is taken for kept",
        "redactor/pipeline/typed_parts.py",
        "        return sum(map(len, values)) if all(values) else None",
        "        return sum(map(len, values)) if None not in values else None",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "an object without anything kept stays in a long list",
        "redactor/pipeline/typed_parts.py",
        "        scalars, shows_all = 0, self._marked\n",
        "        scalars, shows_all = 0, True\n",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "a missing property is counted in a long list",
        "redactor/pipeline/typed_parts.py",
        "                scalars += len(column) - absent\n",
        "                scalars += len(column)\n",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "a text that is not listed stays in a long list",
        "redactor/pipeline/typed_parts.py",
        "        return len(values) if is_each_kept else None\n",
        "        return len(values)\n",
        "tests/unit/redactor/test_typed_lists.py",
    ),
    _fault(
        "what is no number stays in a long list",
        "redactor/pipeline/typed_parts.py",
        "        return len(values) if starts <= _NUMBER_STARTS else None\n",
        "        return len(values)\n",
        "tests/unit/redactor/test_typed_lists.py",
        LONG_LISTS,
    ),
    _fault(
        "a -0 behind a date is not looked for",
        "redactor/pipeline/typed_bodies.py",
        '        at = text.find("-0", at + 1)\n        if at < 0:\n            return False\n',
        '        at = text.find("-0", at + 1)\n        if at < 0 or text[at - 1].isdecimal():\n            return False\n',
        "tests/unit/redactor/test_typed_lists.py",
    ),
    _fault(
        "the left end of a chain of proxies is believed",
        "redactor/decode/client_address.py",
        "    for line in reversed(values):\n",
        "    for line in values:\n",
        CLIENT_ADDRESS,
    ),
    _fault(
        "anybody may write the header of trusted proxies",
        "redactor/decode/client_address.py",
        "        if peer is None or not self.trusts(peer):\n",
        "        if peer is None:\n",
        CLIENT_ADDRESS,
    ),
    _fault(
        "a token may have any algorithm",
        "redactor/identity/tokens.py",
        "        if algorithm not in issuer.algorithms:\n",
        "        if algorithm is None:\n",
        TOKENS,
    ),
    _fault(
        "a key verifies algorithms that are not its own",
        "redactor/identity/tokens.py",
        "        if algorithm not in key.algorithms:\n",
        "        if not key.algorithms:\n",
        TOKENS,
    ),
    _fault(
        "a token for another audience counts",
        "redactor/identity/tokens.py",
        '    "verify_jti": False,\n',
        '    "verify_jti": False,\n    "verify_aud": False,\n',
        TOKENS,
    ),
    _fault(
        "an expired token counts",
        "redactor/identity/tokens.py",
        "        return TokenReason.EXPIRED if at_ms >= verified.until_ms else verified.actor\n",
        "        return verified.actor\n",
        TOKENS,
    ),
    _fault(
        "the first of several tokens counts",
        "redactor/identity/tokens.py",
        "    if len(actors) > 1:\n",
        "    if len(actors) > 9:\n",
        TOKENS,
    ),
)
