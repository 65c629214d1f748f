#!/usr/bin/env bash
# Tries producers that are not ours against real servers: sends the same customers' orders by the
# Java client and two Python clients beside order-producer, some of them twice, and counts.
#
# Uses the servers of KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL, or starts a stack of its own for the
# while. Needs Java 17, Maven, Python 3 and psql. Exit code 0 if every count is as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/producers
out=target/producers
customers=50 orders=1000 repeats=100
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }

say "building"
cargo build --quiet --bin local-stack --bin order-producer --bin order-consumer
PATH=$PWD/target/debug:$PATH
mvn -q -f $here/java/pom.xml compile dependency:copy-dependencies
[ -d $out/venv ] || python3 -m venv $out/venv
$out/venv/bin/pip install --quiet --disable-pip-version-check -r $here/python/requirements.txt

if [ -z "${KAFKA_BOOTSTRAP_SERVERS:-}" ] || [ -z "${DATABASE_URL:-}" ]; then
  trap 'local-stack --name producers down --remove-data' EXIT
  local-stack --name producers up --kafka-port 0 --postgres-port 0
  eval "$(local-stack --name producers env)"
fi
export KAFKA_BOOTSTRAP_SERVERS
server_url=$DATABASE_URL
run="$(date +%s)_$$"

java_service() {
  java -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$out/java/classes:$out/java/dependency/*" \
    Orders $orders $customers $repeats "$1"
}
python_service() {
  $out/venv/bin/python $here/python/orders.py \
    --orders $orders --customers $customers --repeats $repeats "$@"
}

# begin NAME [FLAG…]: a topic, a group and a database of their own, and a first run with these flags.
begin() {
  export ORDERS_TOPIC="producers_$1_$run" CONSUMER_GROUP="producers_$1_$run"
  export ORDERS_DLQ_TOPIC="$ORDERS_TOPIC.dlq" DATABASE_URL="${server_url%/*}/producers_$1_$run"
  export ORDER_CONSUMER_LISTEN=127.0.0.1:0
  psql -q "$server_url" -c "CREATE DATABASE producers_$1_$run"
  order-consumer migrate >/dev/null
  # Creates the topics.
  consume "${@:2}"
}

consume() { order-consumer run --exit-when-idle 2s -o json "$@" >"$out/summary.json" 2>"$out/run.log"; }

failed=0
# check WHAT EXPECTED FOUND
check() {
  local verdict=ok
  if [ "$2" != "$3" ]; then verdict="NOT $2" failed=1; fi
  printf '%-66s %6s  %s\n' "$1" "$3" "$verdict"
}

counted() { python3 -c "import json,sys; print(json.load(open('$out/summary.json'))['$1'])"; }
sql() { psql -qAt "$DATABASE_URL" -c "$1"; }

# Customers whose orders lie in more than one partition.
split_customers() {
  sql "SELECT count(*)
         FROM (SELECT customer_id
                 FROM orders JOIN processed_messages ON message_id = last_message_id
                GROUP BY customer_id
               HAVING count(DISTINCT partition) > 1) AS split"
}

verified() {
  local code=0
  order-consumer verify --wait 60s "$@" >"$out/verify.txt" 2>>"$out/run.log" || code=$?
  check "verify: exit code" 0 $code
  grep '^verdict' "$out/verify.txt"
}

say "ids from ce_id: order-producer, Java, confluent-kafka and kafka-python on one topic"
begin ce_id
for number in $(seq 0 $((customers - 1))); do
  order-producer send --customer "c-$number" --item TEA-1:1:450 --repeat 2 >/dev/null
done
java_service ce_id >"$out/manifest.ndjson"
python_service confluent-kafka >>"$out/manifest.ndjson"
python_service kafka-python >>"$out/manifest.ndjson"
check "records that Kafka acknowledged to the three" $((3 * (orders + repeats))) "$(wc -l <"$out/manifest.ndjson")"
consume
check "applied" $((customers + 3 * orders)) "$(counted applied)"
check "duplicates" $((customers + 3 * repeats)) "$(counted duplicates)"
check "dead letters" 0 "$(counted dead_lettered)"
check "cents of all customers" $(((customers + 3 * orders) * 450)) "$(sql 'SELECT sum(spent_cents) FROM customer_totals')"
check "customers in more than one partition, of $customers" 0 "$(split_customers)"
verified --manifest "$out/manifest.ndjson"

say "confluent-kafka with its own partitioner on the same topic"
python_service confluent-kafka --partitioner consistent_random >/dev/null
consume
check "applied" $orders "$(counted applied)"
check "duplicates" $repeats "$(counted duplicates)"
split=$(split_customers)
check "some customers are in two partitions now" yes "$([ "$split" -gt 0 ] && echo yes || echo no)"
echo "customers in more than one partition: $split of $customers"
verified

say "ids from the header id, as Debezium's outbox router writes it"
begin header --message-id-from header:id
java_service id >"$out/manifest.ndjson"
python_service confluent-kafka --id-header id >>"$out/manifest.ndjson"
python_service kafka-python --id-header id >>"$out/manifest.ndjson"
consume --message-id-from header:id
check "applied" $((3 * orders)) "$(counted applied)"
check "duplicates" $((3 * repeats)) "$(counted duplicates)"
check "dead letters" 0 "$(counted dead_lettered)"
check "customers in more than one partition, of $customers" 0 "$(split_customers)"
verified --manifest "$out/manifest.ndjson"
code=0
consume || code=$?
check "without --message-id-from: refused, exit code" 1 $code
grep '^error' "$out/run.log"

say "$([ $failed = 0 ] && echo 'every count is as it should be' || echo 'some counts are wrong')"
exit $failed
