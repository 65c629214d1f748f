#!/usr/bin/env bash
# Holds the running HTTP API against its OpenAPI document, by requests that schemathesis makes from it:
# once without keys and once with one. A violation, or any 500, is exit code 1.
#
#   .ci/schemathesis.sh          about a minute
#   .ci/schemathesis.sh 400      up to so many requests for each operation in each phase
#
# Needs Python 3 with venv; brings its own servers. SCHEMATHESIS=… is a program that is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
examples=${1:-100}
version=4.32.5
scratch=$(mktemp -d)
export SCHEMATHESIS_HOOKS=$PWD/.ci/schemathesis_hooks.py PYTHONDONTWRITEBYTECODE=1
children=()

end() {
  for child in "${children[@]}"; do
    kill "$child" 2>/dev/null && wait "$child" || true
  done
  target/debug/local-stack --name schemathesis down --remove-data >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap end EXIT

cargo build --quiet --locked --bin local-stack --bin order-consumer --bin order-producer
if [[ -z ${SCHEMATHESIS:-} ]]; then
  python3 -m venv "$scratch/venv"
  "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
  SCHEMATHESIS=$scratch/venv/bin/schemathesis
fi

target/debug/local-stack --name schemathesis up --kafka-port 0 --postgres-port 0
eval "$(target/debug/local-stack --name schemathesis env)"
target/debug/order-consumer migrate
# So that orders also take effect, and are refused, while they are asked about.
target/debug/order-consumer run --listen 127.0.0.1:0 2>"$scratch/consumer.log" &
children+=($!)

# serve ARGUMENT …: starts the gateway and sets `address`. Examples are to be judged, not to be limited.
serve() {
  : >"$scratch/serve.log" # it is read at once
  target/debug/order-producer serve --listen 127.0.0.1:0 --rate-per-address 0 --rate-per-key 0 "$@" \
    2>"$scratch/serve.log" &
  gateway=$!
  children+=("$gateway")
  for _ in {1..300}; do
    address=$(sed -n 's|.*orders on http://\([^/]*\)/.*|\1|p' "$scratch/serve.log")
    [[ -n $address ]] && return
    sleep 0.1
  done
  cat "$scratch/serve.log"
  exit 1
}

# use_after_free takes DELETE for a removal; here it cancels, and the order stays.
judge() {
  # It leaves files where it runs.
  (cd "$scratch" && "$SCHEMATHESIS" "$@" run "http://$address/openapi.json" --max-examples "$examples" \
    --checks all --exclude-checks use_after_free --continue-on-failure --seed 1)
  if grep -E 'panicked|the database refuses' "$scratch/serve.log"; then exit 1; fi
}

echo "== without keys"
serve --no-auth
judge
kill "$gateway"

echo "== with a key, and pages of another origin"
serve --cors-origin https://shop.example
API_KEY=$(target/debug/order-producer keys create --client schemathesis)
export API_KEY
# Named as the document's scheme, so that requests without a key, or with a wrong one, are made too.
printf '[auth.openapi.apiKey]\nbearer = "${API_KEY}"\n' >"$scratch/with-key.toml"
judge --config-file "$scratch/with-key.toml"
