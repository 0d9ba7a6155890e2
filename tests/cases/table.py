"""All cases: what is expected of each, how it is run, and which tests show the same with inputs of their own."""

from __future__ import annotations

from tests.cases import pipeline, redaction, tap
from tests.cases.case import Case

CASES = (
    Case(
        "01-generator-headers",
        "4 of 4 headers reach the client",
        tap.generator_headers,
        (
            "unit/auditap_tap/test_foreign_objects.py::test_response_headers_that_can_be_read_once_reach_server_and_capture",
            "unit/auditap_tap/test_foreign_objects.py::test_request_headers_that_can_be_read_once_reach_the_application_and_the_layers_around_it",
        ),
    ),
    Case(
        "02-evasion",
        "27 of 27 in the account's list",
        redaction.evasion,
        (
            "e2e/test_evasion.py::test_every_spelling_of_an_action_is_in_its_accounts_list",
            "unit/redactor/test_attribution.py::test_a_request_for_another_method_stays_in_its_accounts_list",
        ),
    ),
    Case(
        "03-mapped-ipv4",
        "1 found, alert from-office",
        pipeline.mapped_address,
        (
            "unit/ingestor/test_build.py::test_an_address_has_one_form",
            "unit/log_api/test_query_parameters.py::test_filters_accept_addresses_and_networks",
            "unit/alerting/test_conditions.py::test_a_condition",
        ),
    ),
    Case(
        "04-server-variable-path",
        'operation create, {"name": "n"}',
        redaction.server_variable,
        ("unit/redactor/test_matching.py::test_base_paths",),
    ),
    Case(
        "05-actor-ids",
        "15 recorded, 0 refused and named, 0 gone",
        redaction.actor_ids,
        (
            "unit/redactor/test_rule_14_headers.py::test_any_printable_text_is_an_identifier",
            "unit/redactor/test_rule_14_headers.py::test_what_is_refused_leaves_its_fields_name",
        ),
    ),
    Case(
        "06-utf8-actor",
        "müller@example.com 田中@example.jp Jürgen",
        tap.utf8_actors,
        (
            "unit/auditap_tap/test_encoding.py::test_headers_arrive_as_they_were_meant",
            "unit/redactor/test_rule_14_headers.py::test_any_printable_text_is_an_identifier",
        ),
    ),
    Case(
        "07-transaction-markers",
        "6 events, 0 losses reported",
        pipeline.transaction_markers,
        (
            "contract/test_kafka_source.py::test_the_markers_of_transactions_are_not_lost_offsets",
            "contract/test_kafka_source.py::test_offsets_deleted_behind_a_marker_are_lost",
        ),
    ),
    Case(
        "08-pgbouncer",
        "refused at start, naming the pooler and its mode",
        pipeline.pooler,
        (
            "contract/test_refused_sessions.py::test_a_refusal_is_reported",
            "contract/test_database_encoding.py::test_a_session_in_another_encoding_is_refused",
        ),
    ),
    Case(
        "09-latin1-database",
        "refused, naming both encodings",
        pipeline.foreign_encoding,
        ("contract/test_database_encoding.py::test_every_role_refuses_it_at_start",),
    ),
    Case(
        "10-unresolvable-forever",
        "3 of 3 listed, 3 complete",
        pipeline.late_directory,
        (
            "e2e/test_golden_record.py::test_a_record_of_an_account_that_the_directory_learns_of_late_is_completed",
            "unit/enricher/test_enrich.py::test_leaves_a_record_partial_while_it_is_young",
            "unit/enricher/test_enrich.py::test_is_found_by_the_backfill",
        ),
    ),
    Case(
        "11-retry-after",
        "first POSTs bounded, 0 more in 50 s, 0 attempts counted",
        pipeline.busy_channel,
        (
            "unit/alerting/test_delivery.py::test_a_channel_that_asks_to_wait_gets_nothing_for_that_long_and_no_attempt_counts",
        ),
    ),
    Case(
        "12-partial-segment-mark",
        "/report.json, explained as marked",
        redaction.partial_segment,
        ("unit/redactor/test_rule_13_url.py::test_a_mark_on_a_part_of_a_segment_counts",),
    ),
    Case(
        "13-dsn-password",
        "2 of 2 refused in a sentence without the password",
        redaction.unencoded_passwords,
        ("unit/auditap/test_unencoded_logins.py::test_one_sentence_says_so_and_nothing_of_the_password",),
    ),
    Case(
        "redaction-01-stripe-order-dependence",
        "the same event, with amount, id, object",
        redaction.order,
        (
            "property/test_order_independence.py::test_bytes_do_not_depend_on_the_pairs_before",
            "unit/redactor/test_order_independence.py::test_are_kept_alone_as_after_their_parts",
        ),
    ),
    Case(
        "redaction-02-fragment-query-paths",
        '0 leaks; {"shared_link": {"access": "open"}} "nothing"',
        redaction.twins,
        (
            "unit/redactor/test_matching.py::test_a_query_or_fragment_in_a_path_key_makes_it_a_twin_of_its_path",
        ),
    ),
    Case(
        "redaction-03-map-keys-by-foreign-mark",
        "{}",
        redaction.request_bodies,
        (
            "unit/redactor/test_rule_04_free_form_and_maps.py::test_a_mark_beside_the_map_opens_no_keys",
            "unit/redactor/test_rule_04_free_form_and_maps.py::test_what_a_branch_declares_by_name_is_never_kept_through_a_map",
        ),
    ),
    Case(
        "redaction-04-contradictory-candidate",
        '"nothing" "nothing"',
        redaction.request_bodies,
        ("unit/redactor/test_rule_07_composition.py::test_still_counts",),
    ),
    Case(
        "redaction-05-path-value-not-of-type",
        "/u/{userId}, resource id None",
        redaction.path_value,
        (
            "unit/redactor/test_rule_13_url.py::test_a_value_kept_by_name_must_fit_its_type",
            "unit/redactor/test_rule_13_url.py::test_what_does_not_fit_its_type_names_no_resource_or_account",
        ),
    ),
    Case(
        "redaction-06-number-poisons-readers",
        # A number out of range is kept as it was written; only what no reader takes is dropped.
        '"nothing" {"n": Infinity}',
        redaction.request_bodies,
        (
            "unit/redactor/test_rule_06_types.py::test_they_are_dropped_wherever_a_number_may_be_kept",
            "unit/alerting/test_conditions.py::test_a_number_out_of_range_hides_no_field_of_its_body",
        ),
    ),
    Case(
        "redaction-07-stripe-nested-form",
        '{"name": "Jenny", "address": {"city": "SF"}, "metadata": {"order": "1"}}',
        redaction.request_bodies,
        ("unit/redactor/test_rule_09_forms.py::test_deep_fields",),
    ),
    Case(
        "redaction-08-expandable-id",
        '{"customer": "cus_1"} {"customer": {"id": "cus_1"}}',
        redaction.request_bodies,
        ("unit/redactor/test_rule_07_composition.py::test_an_id_may_stand_for_the_object_that_it_names",),
    ),
)
