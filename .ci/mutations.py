#!/usr/bin/env python3
"""Breaks each guard in turn, and shows which tests go red.

  .ci/mutations.py            breaks them all; takes about two minutes each
  .ci/mutations.py NAME …     only these
  .ci/mutations.py --check    only sees that each still fits the code (quick; part of .ci/run)
  .ci/mutations.py --write [NAME …]
                              the same, and writes the table of docs/guarantees.md, or those lines

Works on a copy under target/mutations, with a build folder of its own. Exits with 1 if a guard can
be broken without a test going red, or if one does not fit any more.
"""
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutations" / "tree"
BUILD = ROOT / "target" / "mutations" / "build"
LIMIT_SECONDS = 1200

ENGINE = "idempotent-consumer/src/"
GATEWAY = "order-producer/src/serve/"
LIBRARY = ["--package", "idempotent-consumer", "--lib"]
ENGINE_TESTS = ["--package", "idempotent-consumer", "--test", "it"]
CONSUMER_TESTS = ["--package", "order-consumer", "--test", "it"]
PRODUCER_TESTS = ["--package", "order-producer", "--test", "it"]
FAULTS = ["--package", "faults", "--lib"]


class Mutation:
    def __init__(self, name, what, edits, *tests):
        self.name, self.what, self.edits, self.tests = name, what, edits, tests


MUTATIONS = [
    Mutation(
        "offset-before-commit",
        "Kafka's offset is stored before the transaction",
        [(ENGINE + "lane.rs",
          "            let begun = Instant::now();\n",
          "            let begun = Instant::now();\n"
          "            if !batch.is_from_retry_queue() {\n"
          "                self.store(batch.offset(step.range.end - 1) + 1);\n"
          "            }\n")],
        (CONSUMER_TESTS, "an_offset_is_never_committed_before_its_transaction"),
    ),
    Mutation(
        "claim-outside-the-transaction",
        "claims are committed on their own, before the effects",
        [(ENGINE + "store/batch.rs",
          "        Ok(Claimed { opened: self, result })\n",
          "        sqlx::raw_sql(\"COMMIT; BEGIN\").execute(&mut *self.transaction).await?;\n"
          "        self.xact = sqlx::query_scalar(\"SELECT pg_current_xact_id()::text\")\n"
          "            .fetch_one(&mut *self.transaction)\n"
          "            .await?;\n"
          "        Ok(Claimed { opened: self, result })\n")],
        (ENGINE_TESTS, "a_failure_of_the_world_around_is_waited_out_and_counts_no_attempt"),
    ),
    Mutation(
        "claim-and-comparison-in-one-statement",
        "who holds an id is read with the snapshot of the claim",
        [(ENGINE + "store/claims.rs",
          "    let won: Vec<Uuid> = sqlx::query_scalar(\n        r#\"\n        INSERT",
          "    let held = holders(connection, &lane.group, &ids).await?;\n"
          "    let won: Vec<Uuid> = sqlx::query_scalar(\n        r#\"\n        INSERT"),
         (ENGINE + "store/claims.rs",
          "    result.held = holders(connection, &lane.group, &lost).await?;\n    Ok(result)\n",
          "    let ours: HashMap<Uuid, Option<Fingerprint>> = rows\n"
          "        .iter()\n"
          "        .map(|row| (row.id, Fingerprint::from_bytes(row.fingerprint)))\n"
          "        .collect();\n"
          "    result.held = lost\n"
          "        .into_iter()\n"
          "        .filter_map(|id| Some((MessageId(id), held.get(&MessageId(id)).copied().or(ours[&id])?)))\n"
          "        .collect();\n    Ok(result)\n")],
        (CONSUMER_TESTS, "an_id_that_is_claimed_meanwhile_with_other_content_is_a_conflict"),
    ),
    Mutation(
        "no-folding",
        "each message of a batch whose id was won counts as new",
        [(ENGINE + "outcome.rs",
          "            if result.has_won(index) {\n",
          "            if result.has_won(index) || winners.contains_key(&message.id) {\n")],
        (LIBRARY, "however_messages_are_cut_into_batches_each_id_is_fresh_exactly_once"),
        (CONSUMER_TESTS, "a_message_twice_in_one_batch_is_applied_once"),
    ),
    Mutation(
        "conflict-is-a-duplicate",
        "another payload under a used id counts as a duplicate",
        [(ENGINE + "outcome.rs",
          "            Ok(if *owner == message.fingerprint {\n",
          "            Ok(if *owner == message.fingerprint || !result.held.is_empty() {\n")],
        (CONSUMER_TESTS, "another_payload_under_a_used_id_is_one_dead_letter_however_often_it_comes"),
    ),
    Mutation(
        "unsorted-claims",
        "ids are claimed in the order of the batch",
        [(ENGINE + "outcome.rs",
          "    claims.dedup_by_key(|claim| claim.id);\n",
          "    claims.dedup_by_key(|claim| claim.id);\n    claims.sort_by_key(|claim| claim.index);\n")],
        (LIBRARY, "however_messages_are_cut_into_batches_each_id_is_fresh_exactly_once"),
    ),
    Mutation(
        "relay-reads-what-is-under-way",
        "the relay reads rows again that are under way",
        [(ENGINE + "store/outbox.rs",
          "unnest($2::bigint[])",
          "unnest(($2::bigint[])[1:0])")],
        (CONSUMER_TESTS, "a_full_outbox_goes_out_once_and_in_the_order_of_each_key_also_where_the_client_has_little_room"),
    ),
    Mutation(
        "relay-forgets-what-is-under-way",
        "rows that are under way are sent again for ever where those behind them cannot be read",
        [(ENGINE + "relay.rs",
          "                if is_lost\n",
          "                if next.is_err()\n")],
        (CONSUMER_TESTS, "what_is_under_way_is_removed_also_where_what_follows_cannot_be_read"),
    ),
    Mutation(
        "relay-keeps-its-look",
        "rows that were seen before a refusal go out behind it",
        [(ENGINE + "relay.rs",
          "                        table.forget();\n",
          "")],
        (CONSUMER_TESTS, "a_row_that_its_topic_refuses_holds_up_all_of_its_key_and_no_others"),
    ),
    Mutation(
        "relay-leaves-what-is-under-way",
        "a relay that is to stop does not wait for the ends of what is under way",
        [(ENGINE + "relay/producer.rs",
          "                    self.settle(flight).await;\n                    return Sent::Cancelled;\n",
          "                    return Sent::Cancelled;\n")],
        (CONSUMER_TESTS, "relays_that_are_told_to_stop_at_their_work_leave_nothing_that_goes_out_again"),
    ),
    Mutation(
        "relay-deletes-first",
        "the relay removes rows before Kafka has acknowledged them",
        [(ENGINE + "relay.rs",
          "                    let ids = flight.flow.ids();\n",
          "                    let ids = flight.flow.ids();\n"
          "                    table.remove(&mut ids.clone()).await?;\n")],
        (CONSUMER_TESTS, "a_dead_letter_leaves_the_outbox_only_once_its_topic_has_it"),
    ),
    Mutation(
        "start-from-kafka-alone",
        "a lane starts from Kafka's offset and does not ask the database",
        [(ENGINE + "start.rs",
          "committed.min(next_offset)",
          "committed")],
        (LIBRARY, "nothing_that_is_in_the_log_and_not_in_the_database_is_ever_skipped"),
        (CONSUMER_TESTS, "a_database_set_back_is_caught_up_from_kafka_whose_offsets_stand_ahead"),
    ),
    Mutation(
        "some-blocked-keys-taken-for-all",
        "of many keys that wait, only as many are read as a batch has messages",
        [(ENGINE + "store/retry_queue/look_up.rs",
          "are_all: rows.len() <= at_most,\n",
          "are_all: rows.len() <= at_most + 1,\n")],
        (CONSUMER_TESTS, "a_small_batch_finds_its_keys_among_many_that_wait"),
    ),
    Mutation(
        "read-again-not-looked-up",
        "a record that is read again is not looked for in the retry queue",
        [(ENGINE + "store/retry_queue/look_up.rs",
          "last_offset.is_some_and(|last| *at <= last)",
          "last_offset.is_some_and(|last| *at > last)")],
        (CONSUMER_TESTS, "a_message_read_again_while_it_waits_is_neither_applied_nor_queued_twice"),
    ),
    Mutation(
        "retry-queue-not-looked-up",
        "messages do not look whether one of their key waits",
        [(ENGINE + "batch/waiting.rs",
          "    let looks_up = opened.has_queue && batch.origin == Origin::Log;\n",
          "    let looks_up = opened.has_queue && batch.origin == Origin::Log && range.is_empty();\n")],
        (ENGINE_TESTS, "whatever_fails_and_whoever_comes_and_goes_outcomes_and_order_are_those_of_the_model"),
    ),
    Mutation(
        "redrive-frees-the-claim",
        "a redrive takes the claim away, so that the message may come in by any way",
        [(ENGINE + "store/redrive.rs",
          "    transaction.commit().await?;\n    Ok(marked)\n",
          "    sqlx::query(\n"
          "        \"DELETE FROM processed_messages WHERE message_id IN (SELECT message_id FROM dead_letters \\\n"
          "         WHERE dlq_id = ANY($1))\",\n"
          "    )\n"
          "    .bind(&locked)\n"
          "    .execute(&mut *transaction)\n"
          "    .await?;\n"
          "    transaction.commit().await?;\n    Ok(marked)\n")],
        (CONSUMER_TESTS,
         "a_redriven_message_is_applied_once_and_everything_else_with_its_id_is_a_duplicate"),
    ),
    Mutation(
        "window-not-checked",
        "a message older than the dedup window is applied",
        [(ENGINE + "window.rs",
          "            Unclaimed::OutsideWindow if message.content == Content::Usable => {\n",
          "            Unclaimed::OutsideWindow if message.id.0.is_nil() => {\n")],
        (CONSUMER_TESTS, "what_was_purged_is_not_applied_again_from_its_old_place_or_sent_anew"),
    ),
    Mutation(
        "lost-commit-is-a-commit",
        "a commit whose answer was lost counts as done",
        [(ENGINE + "lane/recovery.rs",
          "            Witness::Progress => next_offset == committed.database_next,\n",
          "            Witness::Progress => next_offset <= committed.database_next,\n")],
        (CONSUMER_TESTS, "a_commit_that_never_reached_the_server_is_done_again"),
    ),
    Mutation(
        "topic-identity-not-asked",
        "records of a topic created anew are taken for those of the old one",
        [(ENGINE + "batch.rs",
          "        if topic_id.as_deref() != Some(self.topic_id) {\n",
          "        if topic_id.is_none() {\n")],
        (CONSUMER_TESTS, "a_topic_created_anew_behind_the_consumers_back_is_not_read_on_in_its_middle"),
    ),
    Mutation(
        "crashes-not-counted",
        "a message that ends the process is tried for ever",
        [(ENGINE + "suspects.rs",
          "    (ended >= max_crashes.max(1)).then(|| {\n",
          "    (ended >= max_crashes.max(1_000)).then(|| {\n")],
        (LIBRARY, "a_message_that_kills_is_found_after_a_bounded_number_of_deaths_and_no_other_is_charged"),
    ),
    Mutation(
        "others-work-between-charge-and-attempt",
        "a suspect is charged, and others may work before it is tried",
        [(ENGINE + "lane/suspects.rs",
          "        let plan = Plan::new(vec![0], shared.config.max_attempts);\n",
          "        drop(in_work);\n"
          "        let in_work = self.in_work(true, &shared.alone).await?;\n"
          "        let plan = Plan::new(vec![0], shared.config.max_attempts);\n")],
        (ENGINE_TESTS, "a_death_charges_one_message_of_all_partitions"),
    ),
    Mutation(
        "claims-copied-whatever-was-there",
        "a COPY of claims that met one that was there counts as won",
        [(ENGINE + "store/claims.rs",
          "    Ok(insert_new(connection, into, &fresh, encode).await?.then_some(result))\n",
          "    insert_new(connection, into, &fresh, encode).await?;\n"
          "    Ok(Some(result))\n")],
        (CONSUMER_TESTS, "in_batches_of_any_size_duplicates_are_found_whether_they_were_seen_or_not"),
    ),
    Mutation(
        "orders-copied-whatever-was-there",
        "a COPY of orders that met one that was there counts as done",
        [("order-consumer/src/handler.rs",
          "            if self.optimism.learns(inserted) {\n",
          "            if self.optimism.learns(inserted) || true {\n")],
        (CONSUMER_TESTS, "the_order_handler_keeps_the_contract_whatever_orders_do"),
    ),
    Mutation(
        "failed-transaction-kept",
        "a session that cannot get out of a failed transaction is used on",
        [(ENGINE + "lane.rs",
          'sqlx::raw_sql("SELECT").execute',
          'sqlx::raw_sql("").execute')],
        (CONSUMER_TESTS, "statements_that_are_cancelled_at_any_moment_leave_no_lane_in_a_failed_transaction"),
    ),
    Mutation(
        "refused-together-judged-alone",
        "each row of a refused request counts as refused",
        [(ENGINE + "relay.rs",
          "if pace == Pace::Batches => {",
          "if pace == Pace::Batches && reason.is_empty() => {")],
        (CONSUMER_TESTS, "dead_letters_that_are_too_large_only_together_all_arrive_with_their_values"),
    ),
    Mutation(
        "durability-left-to-the-database",
        "sessions keep synchronous_commit = off where the database has it",
        [(ENGINE + "store/connect.rs",
          "IN ('off', 'local', 'remote_write');",
          "IN ('never');")],
        (ENGINE_TESTS, "a_transaction_is_durable_and_read_committed_whatever_the_databases_defaults_are"),
    ),
    Mutation(
        "partitioner-of-librdkafka",
        "the producer leaves the choice of the partition to librdkafka",
        [(ENGINE + "kafka/publisher.rs",
          "        .set(\"partitioner\", \"murmur2_random\")\n",
          "        .set(\"partitioner\", \"consistent_random\")\n")],
        (PRODUCER_TESTS, "a_key_goes_to_the_partition_that_the_java_client_chooses"),
    ),
    Mutation(
        "pipe-offsets-left-out",
        "a pipe's transaction holds its records and not the offsets of what they were made of",
        [(ENGINE + "kafka/pipe.rs",
          "flushed.and_then(|()| transaction.send_offsets(offsets, group))",
          "flushed.map(|()| drop((&offsets, group)))")],
        (CONSUMER_TESTS, "killed_at_each_step_again_and_again_each_raw_order_comes_out_once"),
    ),
    Mutation(
        "pipe-reads-again",
        "a pipe takes what its client has gone back to",
        [(ENGINE + "kafka/pipe_input.rs",
          "        Some(next) if offset >= *next => {",
          "        Some(next) => {")],
        (LIBRARY, "what_a_client_reads_again_is_left_out_and_gaps_are_not"),
    ),
    Mutation(
        "pipe-begins-at-a-name",
        "a pipe leaves it to its client to look up where the log begins",
        [(ENGINE + "kafka/pipe_input.rs",
          "        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;\n",
          "        let offset = if offset == 0 { Offset::Beginning } else { Offset::Offset(offset) };\n"
          "        list.add_partition_offset(topic, partition, offset)?;\n")],
        (CONSUMER_TESTS, "no_offset_is_left_to_the_client_to_look_up"),
    ),
    Mutation(
        "atomic-commits-what-it-aborts",
        "a file of which a line is refused is committed up to there",
        [("order-producer/src/send/atomic.rs",
          "if let Err(error) = transaction.abort() {",
          "if let Err(error) = transaction.commit() {")],
        (PRODUCER_TESTS, "one_refused_line_and_nothing_is_published_and_every_refused_line_is_named"),
    ),
    Mutation(
        "answer-kept-behind-the-commit",
        "the gateway keeps a key's answer after the order's transaction, not in it",
        [(GATEWAY + "accept.rs",
          "    if let Some(key) = key {\n"
          "        store::keep_answer(&mut transaction, key, &done.answer).await?;\n"
          "    }\n"
          "    failpoint(\"gateway.before_commit\");\n"
          "    transaction.commit().await?;\n",
          "    transaction.commit().await?;\n"
          "    if let Some(key) = key {\n"
          "        store::keep_answer(connection, key, &done.answer).await?;\n"
          "    }\n")],
        (PRODUCER_TESTS, "killed_under_load_it_gives_each_key_one_order_and_the_same_answer"),
    ),
    Mutation(
        "event-whose-key-was-taken",
        "a repeated order is published although its key was taken",
        [(GATEWAY + "store/place.rs",
          "            SELECT topic, record_key, record_value, record_headers\n"
          "              FROM asked\n"
          "                   JOIN taken USING (client, key)\n",
          "            SELECT topic, record_key, record_value, record_headers\n"
          "              FROM asked\n")],
        (PRODUCER_TESTS, "five_hundred_requests_at_once_with_one_key_make_one_order"),
    ),
    Mutation(
        "same-key-in-one-statement",
        "orders under one key go into one statement",
        [(GATEWAY + "together.rs",
          "            Ok(_) => again.push(one),",
          "            Ok(at) => first.insert(at, one),")],
        (PRODUCER_TESTS, "five_hundred_requests_at_once_with_one_key_make_one_order"),
    ),
    Mutation(
        "any-body-replayed",
        "a key's answer is given whatever the request",
        [(GATEWAY + "accept.rs",
          "Some(held) if held.fingerprint == key.fingerprint =>",
          "Some(held) if !held.fingerprint.is_empty() =>")],
        (PRODUCER_TESTS, "the_first_answer_is_replayed_byte_for_byte_and_another_request_under_its_key_refused"),
    ),
    Mutation(
        "order-not-locked",
        "requests for one order are judged beside each other",
        [(GATEWAY + "store.rs",
          "           FOR UPDATE\n        \",\n    )\n    .bind(order_id)\n    .try_map",
          "        \",\n    )\n    .bind(order_id)\n    .try_map")],
        (PRODUCER_TESTS, "of_payments_at_once_one_is_accepted"),
    ),
    Mutation(
        "any-secret-fits",
        "an API key is known by its id alone",
        [(GATEWAY + "auth.rs",
          "        self.hash().ct_eq(hash).into()\n",
          "        self.hash().ct_eq(hash).into() || !hash.is_empty()\n")],
        (PRODUCER_TESTS, "a_key_lets_in_to_what_its_scopes_say_until_it_is_revoked"),
    ),
    Mutation(
        "absent-orders-overlooked",
        "`faults system` does not mind an order that was answered 201 and is absent",
        [("faults/src/system/verdict.rs",
          "                None => absent.push(format!(\"order {number}, {id}\")),\n",
          "                None => {}\n")],
        (FAULTS, "an_order_that_was_answered_and_is_absent_is_found"),
    ),
    Mutation(
        "repeats-not-compared",
        "`faults system` takes any second mail for a repeat of the first",
        [("faults/src/system/verdict.rs",
          "if found.iter().any(|mail| *mail != first) {",
          "if found.iter().any(|mail| mail.order_id != first.order_id) {")],
        (FAULTS, "a_mail_that_came_again_and_cannot_be_told_is_found"),
    ),
]


class Unusable(Exception):
    """A mutation that shows nothing."""


def apply(mutation):
    """Edits the copy. Returns what its files were."""
    before = {path: (COPY / path).read_text() for path, _, _ in mutation.edits}
    for path, old, new in mutation.edits:
        file = COPY / path
        file.write_text(file.read_text().replace(old, new))
    return before


def names_of_tests():
    sources = [path.read_text() for path in ROOT.glob("*/**/*.rs") if "target" not in path.parts]
    return set(re.findall(r"fn (\w+)", "\n".join(sources)))


def check():
    problems, known = [], names_of_tests()
    for mutation in MUTATIONS:
        for path, old, _ in mutation.edits:
            count = (ROOT / path).read_text().count(old)
            if count != 1:
                problems.append(f"{mutation.name}: {path} has the place {count} times: {old.strip()!r}")
        for _, test in mutation.tests:
            if test not in known:
                problems.append(f"{mutation.name}: there is no test {test}")
    return problems


def run(where, test):
    """Whether the test is green."""
    command = ["cargo", "test", "--quiet", "--locked", "--target-dir", str(BUILD), *where, "--", test]
    with open(BUILD.parent / "last.log", "w") as log:
        try:
            done = subprocess.run(command, cwd=COPY, stdout=log, stderr=log, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            return False
    text = (BUILD.parent / "last.log").read_text()
    if done.returncode != 0 and "could not compile" in text:
        raise Unusable(f"{test}: the broken code does not compile, see {BUILD.parent / 'last.log'}")
    if done.returncode == 0 and not re.search(r"test result: ok\. [1-9]", text):
        raise Unusable(f"{test}: no such test ran, see {BUILD.parent / 'last.log'}")
    return done.returncode == 0


def line(mutation, red):
    tests = ", ".join(f"`{test}`" for test in red)
    return f"| {mutation.name} | {mutation.what} | {tests} |"


def write(rows):
    """Puts these lines into the table, and leaves those of other mutations."""
    page = ROOT / "docs" / "guarantees.md"
    begin, end = "<!-- mutations -->\n", "<!-- end of mutations -->"
    head, rest = page.read_text().split(begin)
    old, tail = rest.split(end)
    lines = {text.split(" | ")[0].strip("| "): text for text in old.splitlines()}
    lines.update((mutation.name, line(mutation, red)) for mutation, red in rows)
    known = [lines[m.name] for m in MUTATIONS if m.name in lines]
    heading = ["| guard broken | what then happens | goes red |", "| --- | --- | --- |"]
    page.write_text(head + begin + "\n".join(heading + known) + "\n" + end + tail)


def main(arguments):
    problems = check()
    if problems:
        print("\n".join(problems))
        return 1
    if arguments == ["--check"]:
        print(f"{len(MUTATIONS)} mutations fit the code")
        return 0
    names = [argument for argument in arguments if argument != "--write"]
    unknown = set(names) - {m.name for m in MUTATIONS}
    if unknown:
        print(f"no such mutation: {', '.join(unknown)}; there are: {', '.join(m.name for m in MUTATIONS)}")
        return 2
    wanted = [m for m in MUTATIONS if m.name in names or not names]
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.parent.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns("target", ".git")
    shutil.copytree(ROOT, COPY, ignore=ignored, symlinks=True)
    survived = []
    for mutation in wanted:
        begun = time.monotonic()
        before = apply(mutation)
        try:
            red = [test for where, test in mutation.tests if not run(where, test)]
        except Unusable as unusable:
            print(f"{mutation.name}: {unusable}", flush=True)
            red = []
        for path, text in before.items():
            (COPY / path).write_text(text)
        green = [test for _, test in mutation.tests if test not in red]
        seconds = time.monotonic() - begun
        print(f"{mutation.name}: {len(red)} red, {len(green)} green {green} ({seconds:.0f} s)", flush=True)
        if not red:
            survived.append(mutation.name)
        elif "--write" in arguments:
            write([(mutation, red)])
    if survived:
        print("broken without a test going red: " + ", ".join(survived))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
