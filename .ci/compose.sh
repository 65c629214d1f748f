#!/usr/bin/env bash
# Holds docker-compose.yml to what README.md and docs/walkthrough.md say of it: an order by each way, its mail, a killed
# consumer, a database that is away, an end without kill, and a second start on the same volumes.
#
#   .ci/compose.sh          about two minutes; the first time, or with other sources, it builds the image
#
# Needs Docker with Compose, curl and Python 3; without the images it says so and is done. Runs as a project of its own, on free ports, and
# removes it at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "skipped: $*"; exit 0; }
docker version >/dev/null 2>&1 || skip "no Docker engine answers"
docker compose version >/dev/null 2>&1 || skip "there is no docker compose"
image() { docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1; }

export COMPOSE_PROJECT_NAME=order-pipeline-ci-$$ COMPOSE_PROFILES=http,mail COMPOSE_PROGRESS=quiet
export ORDER_CONSUMER_NOTIFICATIONS_TOPIC=order-notifications
for wanted in $(docker compose config --images | grep -v :local; sed -n 's/^FROM \([^ ]*\).*/\1/p' Dockerfile); do
  image "$wanted" || skip "the image $wanted is not here, and cannot be pulled"
done

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
for port in KAFKA POSTGRES HTTP MAIL METRICS MAIL_METRICS; do export "${port}_PORT=$(free_port)"; done
api=127.0.0.1:$HTTP_PORT

end() {
  local code=$?
  ((code == 0)) || docker compose ps --all
  ((code == 0)) || docker compose logs --tail 20 order-consumer serve notification-service
  docker compose --profile '*' down --volumes --timeout 5 || true
  exit "$code"
}
trap end EXIT

step() { printf '== %s (%s s)\n' "$*" "$SECONDS"; }
failed() { echo "FAILED: $*"; exit 1; }
# until_is WHAT WANTED COMMAND …: within a minute the command prints that.
until_is() {
  local what=$1 wanted=$2 is= since=$SECONDS
  shift 2
  while is=$("$@" 2>/dev/null) || true; [[ $is != "$wanted" ]]; do
    ((SECONDS - since < 60)) || failed "$what: $is instead of $wanted"
    sleep 0.5
  done
  echo "$what: $is"
}
sql() { docker compose exec -T postgres psql -U orders -Atc "$1"; }
orders() { sql 'SELECT count(*) FROM orders'; }
health() { docker inspect --format '{{.State.Health.Status}}' "$(docker compose ps --all --quiet "$1")"; }
mails() { curl -fsS "http://127.0.0.1:$MAIL_PORT/api/v1/messages" | sed -E 's/.*"total": ?([0-9]+).*/\1/'; }
program() { docker compose run --rm --quiet-pull "$@"; }
audit() { program order-consumer verify --wait 30s 2>&1 | tail -n 1; }
post() {  # Idempotency-Key
  curl -fsS -o /dev/null "http://$api/v1/orders" -H "authorization: Bearer $key" -H "idempotency-key: $1" \
    -H 'content-type: application/json' \
    -d '{"customer_id":"c-17","currency":"EUR","items":[{"sku":"TEA-1","quantity":2,"unit_price_cents":450}]}'
}
sound='verdict: every acknowledged event has exactly one outcome'

step "up --build --wait"
docker compose up --build --wait

step "an order by each way, and their mails"
program order-producer send --customer c-17 --item TEA-1:2:450
key=$(program order-producer keys create --client ci | tr -d '\r')
post first
until_is orders 2 orders
until_is mails 2 mails
[[ $(audit) == "$sound" ]] || failed "the audit"

step "the consumer is killed"
docker compose kill order-consumer
post second
[[ $(orders) = 2 ]] || failed "an order took effect without a consumer"
docker compose start order-consumer
until_is orders 3 orders
until_is mails 3 mails

# all_are HEALTH
all_are() { for service in order-consumer serve notification-service; do until_is "$service" "$1" health "$service"; done; }

step "PostgreSQL is away"
all_are healthy # one that has not been is `starting` for its start_period, whatever it says
docker compose stop postgres
all_are unhealthy
docker compose start postgres
all_are healthy
post third
until_is orders 4 orders

step "all stopped, and started again"
until_is mails 4 mails
docker compose stop
ends() { docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps --all --quiet "$1")"; }
for service in order-consumer serve notification-service postgres kafka; do
  code=$(ends "$service")
  echo "$service ended with exit code $code"
  [[ $code = 0 || $service$code = kafka143 ]] || failed "that is not how it should end" # a JVM ends with 143
done
docker compose up --wait
post fourth
until_is orders 5 orders
[[ $(audit) == "$sound" ]] || failed "the audit"

step "down"
docker compose down --volumes
left=$(docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
  docker volume ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
  docker network ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
[[ -z $left ]] || failed "it left something: $left"
echo "the compose file does what it says"
